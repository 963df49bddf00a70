//! A client that comes back with its position gets the rest: the changes if they are still kept,
//! the whole service if they are not, and never a gap or a double.

use fanfare_test_support::{Client, Picture, Rng, Server, instance, instances, with};
use serde_json::{Value, json};

/// Changes a service remembers where nothing else is set.
const HISTORY: u64 = 1_024;

#[test]
fn a_client_that_comes_back_gets_what_it_missed() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let mut picture = client.follow("orders");
    server.register(&instances("orders", 4));
    while picture.revision < 4 {
        picture.apply(&client.expect("service_change"));
    }
    drop(client);
    server.register(&[instance("orders", "late")]);
    server.unregister(&[instance("orders", "i1")]);
    server.register(&[with(&instance("orders", "i2"), "status", json!("down"))]);

    let mut client = server.connect();
    let since = json!({"epoch": picture.epoch, "revision": 4});
    let answer = client.ask(
        &json!({"type": "subscribe", "service_id": "orders", "since": since, "id": "again"}),
        "subscribed",
    );
    assert_eq!(answer["id"], "again");
    assert_eq!((&answer["recovered"], &answer["revision"]), (&json!(true), &json!(7)));
    assert_eq!(answer.get("instances"), None, "{answer}");
    let first = client.expect("service_change");
    assert_eq!(first["from"], 4);
    picture.apply(&first);
    while picture.revision < 7 {
        picture.apply(&client.expect("service_change"));
    }
    picture.expect_equals_registry(&server);
    server.register(&[instance("orders", "live")]);
    picture.apply(&client.expect("service_change"));
    picture.expect_equals_registry(&server);
}

#[test]
fn a_client_that_missed_nothing_gets_nothing() {
    let server = Server::start(&[]);
    server.register(&instances("orders", 2));
    let mut picture = server.connect().follow("orders");
    let mut client = server.connect();
    assert!(client.resume(&mut picture));
    server.register(&[instance("orders", "next")]);
    assert_eq!(client.expect("service_change")["from"], 2);
}

#[test]
fn a_service_never_seen_can_be_resumed_from_zero() {
    let server = Server::start(&[]);
    let mut picture = server.connect().follow("later");
    assert_eq!(picture.revision, 0);
    server.register(&instances("later", 3));
    assert!(server.connect().resume(&mut picture));
    picture.expect_equals_registry(&server);
}

#[test]
fn another_epoch_or_a_revision_ahead_brings_the_whole_service() {
    let server = Server::start(&[]);
    server.register(&instances("orders", 3));
    let truth = server.connect().follow("orders");
    for (epoch, revision) in [("another", 1), ("another", 3), (truth.epoch.as_str(), 4)] {
        let mut stale = truth.clone();
        (stale.epoch, stale.revision) = (epoch.to_owned(), revision);
        stale.instances.clear();
        assert!(!server.connect().resume(&mut stale), "{epoch} {revision}");
        assert_eq!(stale, truth, "{epoch} {revision}");
    }
}

#[test]
fn history_reaches_back_as_far_as_it_says() {
    let server = Server::start(&[]);
    let count = usize::try_from(HISTORY).expect("fits") + 10;
    server.register(&instances("orders", count));
    let truth = server.connect().follow("orders");
    let at = |revision: u64| {
        let mut picture = truth.clone();
        picture.revision = revision;
        // One request makes its changes in its own order.
        for n in revision..truth.revision {
            picture.instances.remove(&format!("r1/orders/i{n}"));
        }
        picture
    };
    let mut just_in = at(truth.revision - HISTORY);
    assert!(server.connect().resume(&mut just_in), "the oldest change is still there");
    assert_eq!(just_in, truth);
    let mut just_out = at(truth.revision - HISTORY - 1);
    assert!(!server.connect().resume(&mut just_out), "one change more is gone");
    assert_eq!(just_out, truth);
}

#[test]
fn resuming_on_a_connection_that_already_follows_loses_nothing() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let mut picture = client.follow("orders");
    server.register(&instances("orders", 3));
    client.catch_up(&mut picture);
    assert!(client.resume(&mut picture));
    server.register(&[instance("orders", "next")]);
    picture.apply(&client.expect("service_change"));
    picture.expect_equals_registry(&server);
}

/// One random step of the registry: a registration, a change, a removal, or an operator's hand.
fn step(server: &Server, rng: &mut Rng) {
    let one = instance("orders", &format!("i{}", rng.below(12)));
    match rng.below(8) {
        0..3 => server.register(&[with(&one, "port", json!(1_000 + rng.below(3)))]),
        3..5 => server.unregister(&[one]),
        5 => {
            let batch: Vec<Value> = (0..8)
                .map(|n| with(&instance("orders", &format!("i{n}")), "port", json!(n)))
                .collect();
            server.register(&batch);
        }
        // An instance that is not there cannot be pulled out; then nothing happens.
        6 => drop(server.operate(&one, false)),
        _ => drop(server.operate(&one, true)),
    }
}

#[test]
fn random_churn_with_reconnects_ends_with_the_registrys_state() {
    for seed in 1..=4 {
        let server = Server::start(&["--shards", "3", "--client-messages-per-s-max", "0"]);
        let mut rng = Rng::seeded(seed);
        let mut seats: Vec<(Client, Picture)> = (0..6)
            .map(|_| {
                let mut client = server.connect();
                let picture = client.follow("orders");
                (client, picture)
            })
            .collect();
        for _ in 0..400 {
            step(&server, &mut rng);
            let seat = rng.below(seats.len());
            let (client, picture) = &mut seats[seat];
            match rng.below(6) {
                // Gone in the middle of things: what lay unread is asked for again.
                0 => {
                    *client = server.connect();
                    assert!(client.resume(picture), "seed {seed}: the history reaches back");
                }
                1 => {
                    *client = server.connect();
                    *picture = client.follow("orders");
                }
                2 => client.catch_up(picture),
                _ => {}
            }
        }
        for (client, picture) in &mut seats {
            client.catch_up(picture);
            picture.expect_equals_registry(&server);
        }
    }
}
