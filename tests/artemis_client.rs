//! A stand-in for Artemis' Java client against one node: it registers by way of failed heartbeats, follows
//! services, and comes back whatever happens to the server.

#![allow(clippy::disallowed_methods, reason = "a test process has the clock of the wall")]

use std::time::{Duration, Instant};

use fanfare_test_support::artemis::{
    ArtemisClient, Counts, Settings, artemis_instance as instance,
};
use fanfare_test_support::{Server, eventually, with};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(30);

fn domain(server: &Server) -> String {
    format!("http://{}", server.address())
}

fn sees(client: &ArtemisClient, service: &str, names: &[&str]) {
    eventually(&format!("{service} has {names:?}"), PATIENCE, || {
        client.instances(service) == names
    });
}

fn expect_quiet(client: &ArtemisClient) {
    let counts = client.counts();
    for (what, count) in [
        ("pongs missed", &counts.pongs_missed),
        ("oversized frames", &counts.oversized),
        ("unreadable frames", &counts.unreadable),
    ] {
        assert_eq!(Counts::of(count), 0, "{what}");
    }
}

#[test]
fn a_client_registers_is_discovered_and_is_told_of_changes() {
    let server = Server::start(&[]);
    for sockets in ["ws", "websocket"] {
        let settings = Settings { sockets, ..Settings::fast() };
        let provider = ArtemisClient::start(&domain(&server), settings.clone());
        let consumer = ArtemisClient::start(&domain(&server), settings);
        assert_eq!(provider.nodes(), [domain(&server)]);
        // Followed before there is anything: with an upper-case name, as users write it.
        let service = format!("S7Svc.{sockets}");
        consumer.follow(&service);
        provider.register(&instance(&service, "a1"));
        provider.register(&instance(&service, "a2"));
        sees(&consumer, &service, &["a1", "a2"]);
        // The push may be here before the provider has read the answer to its registration.
        eventually("both came by way of a failed heartbeat", PATIENCE, || {
            Counts::of(&provider.counts().registered) >= 2
        });
        let known = consumer.instance(&service, "a1").expect("it is known");
        assert_eq!(known["metadata"], json!({"v": "1"}));
        // Operators' decisions, and our own clients' instances.
        server.operate(&instance(&service, "a1"), false);
        sees(&consumer, &service, &["a2"]);
        server.operate(&instance(&service, "a1"), true);
        sees(&consumer, &service, &["a1", "a2"]);
        server.register(&[instance(&service, "ours")]);
        sees(&consumer, &service, &["a1", "a2", "ours"]);
        let changed = with(&instance(&service, "ours"), "status", json!("down"));
        server.register(&[changed]);
        eventually("the change arrives", PATIENCE, || {
            consumer.instance(&service, "ours").is_some_and(|one| one["status"] == "down")
        });
        provider.unregister(&instance(&service, "a2"));
        sees(&consumer, &service, &["a1", "ours"]);
        // A client of ours sees the same.
        let ours = server.discover(&service.to_lowercase());
        assert_eq!(ours["instances"].as_array().map(Vec::len), Some(2));
        // A session that is replaced loses nothing.
        for n in 0..5 {
            consumer.rotate();
            server.register(&[instance(&service, &format!("r{n}"))]);
        }
        sees(&consumer, &service, &["a1", "ours", "r0", "r1", "r2", "r3", "r4"]);
        expect_quiet(&consumer);
        expect_quiet(&provider);
    }
}

/// With the client's own times: registered by the second heartbeat, and never a missed pong or a lost node.
#[test]
fn a_client_with_its_own_times_stays_at_its_node() {
    let server = Server::start(&[]);
    let settings = Settings { http: Duration::from_secs(2), ..Settings::default() };
    let client = ArtemisClient::start(&domain(&server), settings);
    client.follow("s");
    let begun = Instant::now();
    client.register(&instance("s", "a"));
    sees(&client, "s", &["a"]);
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    eventually("three heartbeats", PATIENCE, || Counts::of(&client.counts().heartbeats) >= 3);
    assert_eq!(Counts::of(&client.counts().sessions), 2, "one of heartbeats and one of changes");
    assert_eq!(Counts::of(&client.counts().calls_failed), 0);
    expect_quiet(&client);
}

#[test]
fn sixty_instances_and_large_ones_register_in_pieces() {
    let server = Server::start(&[]);
    let provider = ArtemisClient::start(&domain(&server), Settings::fast());
    let consumer = ArtemisClient::start(&domain(&server), Settings::fast());
    consumer.follow("s");
    for n in 0..60 {
        provider.register(&instance("s", &format!("i{n}")));
    }
    let filler = json!({"filler": "x".repeat(9 * 1_024)});
    provider.register(&with(&instance("s", "large"), "metadata", filler));
    eventually("all are there", PATIENCE, || consumer.instances("s").len() == 61);
    expect_quiet(&provider);
    expect_quiet(&consumer);
}

#[test]
fn a_killed_provider_is_gone_when_its_lease_ends() {
    let server = Server::start(&["--lease-ttl", "3s"]);
    let consumer = ArtemisClient::start(&domain(&server), Settings::fast());
    consumer.follow("s");
    let (stays, dies) = (
        ArtemisClient::start(&domain(&server), Settings::fast()),
        ArtemisClient::start(&domain(&server), Settings::fast()),
    );
    stays.register(&instance("s", "stays"));
    dies.register(&instance("s", "dies"));
    sees(&consumer, "s", &["dies", "stays"]);
    drop(dies);
    sees(&consumer, "s", &["stays"]);
    assert!(consumer.changes("s").contains(&String::from("delete")));
}

#[test]
fn clients_come_back_to_a_server_that_was_killed_or_restarted() {
    let mut server = Server::start(&[]);
    let provider = ArtemisClient::start(&domain(&server), Settings::fast());
    let consumer = ArtemisClient::start(&domain(&server), Settings::fast());
    consumer.follow("s");
    provider.register(&instance("s", "a"));
    sees(&consumer, "s", &["a"]);
    for is_kill in [false, true] {
        if is_kill {
            server.kill();
        } else {
            assert!(server.stop().success(), "a drain");
        }
        // It registers while the server is away: the heartbeats to come do it.
        let name = if is_kill { "after-kill" } else { "after-stop" };
        provider.register(&instance("s", name));
        server.restart_in_place();
        eventually("the new one arrives", PATIENCE, || {
            consumer.instances("s").contains(&String::from(name))
        });
        // What the consumer missed is there as well, without another look-up of its own.
        server.register(&[instance("s", &format!("{name}-ours"))]);
        eventually("changes arrive", PATIENCE, || consumer.instances("s").len() >= 3);
    }
    let own = ["a", "after-kill", "after-stop"];
    eventually("the provider's own are all there", PATIENCE, || {
        let seen = consumer.instances("s");
        own.iter().all(|name| seen.contains(&String::from(*name)))
    });
    assert_eq!(Counts::of(&consumer.counts().unreadable), 0);
}
