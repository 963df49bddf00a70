//! Names come back: a service that is empty, old and without followers is forgotten, also after a
//! restart, and abandoned names keep no new ones out. A client that was away never gets one history
//! for another.

#![allow(clippy::disallowed_methods, reason = "a test process has the clock of the wall")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use fanfare_test_support::{Client, Picture, Server, eventually, instance};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

const PATIENCE: Duration = Duration::from_secs(20);

fn come_and_go(server: &Server, service: &str) {
    server.register(&[instance(service, "one")]);
    server.unregister(&[instance(service, "one")]);
}

/// Where a service stands; 0 where it is not known.
fn revision(server: &Server, service: &str) -> u64 {
    let reply = server.get(&format!("/api/discovery/service.json?serviceId={service}"));
    reply.body["service"]["revision"].as_u64().unwrap_or(0)
}

fn services(server: &Server) -> Vec<String> {
    let all = server.get("/api/discovery/services.json").body;
    let all = all["services"].as_array().expect("a list").iter();
    all.map(|one| one["serviceId"].as_str().expect("a name").to_owned()).collect()
}

#[test]
fn emptied_services_give_way_to_new_ones() {
    let server = Server::start(&["--services-max", "20"]);
    server.register(&[instance("standing", "one")]);
    let mut client = server.connect();
    come_and_go(&server, "followed");
    let followed = client.follow("followed");
    for n in 0..100 {
        come_and_go(&server, &format!("s{n}"));
    }
    let names = services(&server);
    assert!(names.len() <= 20, "{names:?}");
    for name in ["standing", "followed", "s99"] {
        assert!(names.iter().any(|one| one == name), "{name} is not among {names:?}");
    }
    followed.expect_equals_registry(&server);
    assert!(server.count("fanfare_services_forgotten_total") >= 82);
    // Only what has instances keeps others out.
    let standing: Vec<Value> = (0..18).map(|n| instance(&format!("t{n}"), "one")).collect();
    server.register(&standing);
    let full = json!({"instances": [instance("u0", "one"), instance("u1", "one")]});
    let reply = server.post_json("/api/registry/register.json", &full);
    assert_eq!(reply.body["failedInstances"][0]["errorCode"], "rate-limited", "{}", reply.body);
}

#[test]
fn a_name_that_comes_back_is_not_taken_for_what_it_was() {
    let server = &mut Server::start(&["--service-forget-after", "1s"]);
    server.register(&[instance("s", "old"), instance("s", "older")]);
    // One that was away while there was an instance, and one that saw it go.
    let mut early = server.connect().follow("s");
    server.unregister(&[instance("s", "old"), instance("s", "older")]);
    let mut late = server.connect().follow("s");
    let last = revision(server, "s");
    assert_eq!(last, 4);
    eventually("it is forgotten", PATIENCE, || revision(server, "s") == 0);
    assert_eq!(server.count("fanfare_registry_services"), 0);
    let mut client = server.connect();
    let since = json!({"epoch": late.epoch, "revision": last});
    let gone = json!({"type": "subscribe", "service_id": "s", "since": since});
    let answer = client.ask(&gone, "subscribed");
    assert_eq!((&answer["recovered"], &answer["revision"]), (&json!(false), &json!(0)));

    assert_eq!(server.stop().code(), Some(0));
    server.restart();
    let mut follower = server.connect();
    let mut followed = follower.follow("s");
    server.register(&[instance("s", "new")]);
    // Who was told of revision 0 is told where it begins.
    let begins = follower.expect("service_snapshot");
    assert_eq!((&begins["revision"], &begins["instances"]), (&json!(last), &json!([])));
    followed.apply(&begins);
    let frame = follower.expect("service_change");
    assert_eq!((&frame["from"], &frame["revision"]), (&json!(last), &json!(last + 1)));
    followed.apply(&frame);
    followed.expect_equals_registry(server);
    assert!(!server.connect().resume(&mut early), "it has never seen this");
    early.expect_equals_registry(server);
    server.connect().resume(&mut late);
    late.expect_equals_registry(server);
}

#[test]
fn who_follows_everything_is_told_where_a_name_begins_again() {
    let server = Server::start(&["--service-forget-after", "1s"]);
    let mut all = server.connect();
    all.ask(&json!({"type": "subscribe", "service_id": "*"}), "subscribed");
    come_and_go(&server, "s");
    for revision in 1..=2 {
        assert_eq!(all.expect("service_change")["revision"], revision);
    }
    eventually("it is forgotten", PATIENCE, || revision(&server, "s") == 0);
    server.register(&[instance("s", "new")]);
    let begins = all.expect("service_snapshot");
    assert_eq!((&begins["service_id"], &begins["revision"]), (&json!("s"), &json!(2)));
    assert_eq!(all.expect("service_change")["from"], 2);
}

fn publish(client: &mut Client, channel: &str) -> Value {
    client.send_json(&json!({"type": "publish", "channel": channel, "payload": 1}));
    client.next_json()
}

#[test]
fn channels_that_strangers_left_behind_keep_nobody_out() {
    let server = Server::start(&["--channels-max", "100"]);
    let mut kept = server.connect();
    kept.ask(&json!({"type": "subscribe", "channel": "kept"}), "subscribed");
    for stranger in 0..4 {
        let mut stranger_client = server.connect();
        for n in 0..60 {
            let name = format!("x{stranger}:{n}");
            assert_eq!(publish(&mut stranger_client, &name)["type"], "published", "{name}");
        }
    }
    let mut client = server.connect();
    client.ask(&json!({"type": "subscribe", "channel": "new"}), "subscribed");
    assert_eq!(publish(&mut kept, "kept")["offset"], 1, "what is followed is as it was");
    assert!(server.count("fanfare_channels_forgotten_total") >= 140);
    assert!(server.count("fanfare_channels") <= 100);
}

#[test]
fn a_connection_brings_so_many_channels_into_being() {
    let server = Server::start(&["--channels-per-connection-max", "10"]);
    let mut client = server.connect();
    for n in 0..5 {
        let name = format!("followed{n}");
        client.ask(&json!({"type": "subscribe", "channel": name}), "subscribed");
        assert_eq!(publish(&mut client, &format!("published{n}"))["type"], "published");
    }
    client.send_json(&json!({"type": "publish", "channel": "one:more", "payload": 1}));
    client.expect_error("rate_limited");
    client.send_json(&json!({"type": "subscribe", "channel": "one:more"}));
    client.expect_error("rate_limited");
    // What is there may be used, and another connection may bring more.
    assert_eq!(publish(&mut client, "published0")["offset"], 2);
    let mut other = server.connect();
    other.ask(&json!({"type": "subscribe", "channel": "one:more"}), "subscribed");
    // A channel without followers and messages is no more, and makes room.
    client.ask(&json!({"type": "unsubscribe", "channel": "followed0"}), "unsubscribed");
    eventually("there is room again", PATIENCE, || {
        publish(&mut client, "yet:another")["type"] == "published"
    });
}

/// A client with an address of its own: all of 127.0.0.0/8 is here.
fn connect_from(last: u8, server: &Server) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let own = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)), 0);
    socket.bind(&own.into()).expect("loopback is large");
    socket.connect(&server.address().into()).expect("the server listens");
    server.connect_over(socket.into())
}

#[test]
fn the_sockets_of_an_address_share_how_many_channels_they_bring_into_being() {
    let server = Server::start(&["--channels-per-address-max", "10"]);
    let mut one = connect_from(1, &server);
    let mut two = connect_from(1, &server);
    for n in 0..5 {
        one.ask(&json!({"type": "subscribe", "channel": format!("one{n}")}), "subscribed");
        two.ask(&json!({"type": "subscribe", "channel": format!("two{n}")}), "subscribed");
    }
    for client in [&mut one, &mut two] {
        client.send_json(&json!({"type": "publish", "channel": "one:more", "payload": 1}));
        client.expect_error("rate_limited");
        client.send_json(&json!({"type": "subscribe", "channel": "one:more"}));
        let refusal = client.expect_error("rate_limited");
        assert!(refusal.to_string().contains("because of this address"), "{refusal}");
    }
    // What is there may be used, and another address has a share of its own.
    two.ask(&json!({"type": "subscribe", "channel": "one0"}), "subscribed");
    let mut other = connect_from(2, &server);
    for n in 0..10 {
        other.ask(&json!({"type": "subscribe", "channel": format!("other{n}")}), "subscribed");
    }
    other.send_json(&json!({"type": "subscribe", "channel": "one:more"}));
    other.expect_error("rate_limited");
    // A connection's end gives back what nobody else follows.
    drop(one);
    for n in 0..4 {
        eventually("there is room again", PATIENCE, || {
            publish(&mut two, &format!("again{n}"))["type"] == "published"
        });
    }
    assert_eq!(publish(&mut two, "one:more")["type"], "error", "the fifth is still followed");
}

#[test]
fn the_requests_of_an_address_count_with_its_sockets() {
    let server = Server::start(&["--channels-per-address-max", "10"]);
    let publish_to = |channel: &str| {
        let path = format!("/api/v1/channels/{channel}/messages");
        server.post_json(&path, &json!({"payload": 1}))
    };
    let mut socket = connect_from(1, &server);
    for n in 0..5 {
        assert_eq!(publish_to(&format!("by:request{n}")).status, 200);
        assert_eq!(publish(&mut socket, &format!("by:socket{n}"))["type"], "published");
    }
    publish_to("one:more").expect_problem(429, "rate_limited");
    assert_eq!(publish(&mut socket, "one:more")["code"], "rate_limited");
    for path in ["/api/v1/live/order/1", "/api/v1/dashboards/sales/metrics"] {
        let body = json!({"action": "created", "data": {}});
        server.post_json(path, &body).expect_problem(429, "rate_limited");
    }
    assert_eq!(publish_to("by:request0").status, 200, "it is there");
    assert_eq!(publish(&mut connect_from(2, &server), "one:more")["type"], "published");
}

#[test]
fn an_operator_called_itself_is_an_operator() {
    let server = &mut Server::start(&[]);
    let one = instance("s", "one");
    server.register(std::slice::from_ref(&one));
    let key = json!({"regionId": "r1", "serviceId": "s", "instanceId": "one"});
    let wish = json!({"instanceKey": key, "operation": "pull-out", "operationComplete": false,
        "operatorId": "itself"});
    let path = "/api/management/instance/operate-instance.json";
    assert_eq!(server.post_json(path, &wish).outcome().0, "success");
    server.unregister(std::slice::from_ref(&one));
    server.register(std::slice::from_ref(&one));
    assert_eq!(Picture::of_discovered(&server.discover("s")).names().len(), 0, "it is still out");
    assert_eq!(server.stop().code(), Some(0));
    server.restart();
    server.unregister(std::slice::from_ref(&one));
    server.register(std::slice::from_ref(&one));
    assert_eq!(Picture::of_discovered(&server.discover("s")).names().len(), 0, "it is still out");
}
