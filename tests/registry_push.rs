//! A follower of a service gets every change of it, once, in order, and ends with the registry's
//! picture.

use fanfare_test_support as support;
use fanfare_test_support::{Picture, Server, instance, instances, with};
use serde_json::{Value, json};

fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}

/// Kind, reason and instance of each change in a frame.
fn changes(frame: &Value) -> Vec<(&str, &str, &str)> {
    let list = frame["changes"].as_array().expect("changes");
    let parts = list.iter().map(|change| {
        (
            text(&change["changeType"]),
            text(&change["reason"]),
            text(&change["instance"]["instanceId"]),
        )
    });
    parts.collect()
}

#[test]
fn welcome_comes_first() {
    let server = Server::start(&[]);
    let client = server.connect();
    let welcome = &client.welcome;
    assert!(welcome["connection_id"].as_str().is_some_and(|id| !id.is_empty()), "{welcome}");
    assert!(welcome["node_id"].as_str().is_some_and(|id| !id.is_empty()), "{welcome}");
    assert_eq!(welcome.get("user_id"), Some(&Value::Null), "{welcome}");
    assert_eq!(welcome["ping_interval_ms"], 25_000, "{welcome}");
    assert_eq!(welcome["version"], env!("CARGO_PKG_VERSION"), "{welcome}");
    let other = server.connect();
    assert_ne!(welcome["connection_id"], other.welcome["connection_id"]);
}

#[test]
fn every_kind_of_change_is_pushed_with_its_reason() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let mut picture = client.follow("orders");
    assert_eq!((picture.revision, picture.instances.len()), (0, 0));
    let one = instance("orders", "one");
    let hear = |client: &mut support::Client, picture: &mut Picture| {
        let frame = client.expect("service_change");
        picture.apply(&frame);
        frame
    };

    server.register(std::slice::from_ref(&one));
    let frame = hear(&mut client, &mut picture);
    assert_eq!(changes(&frame), [("new", "register", "one")]);
    assert_eq!((&frame["from"], &frame["revision"]), (&json!(0), &json!(1)));
    assert_eq!(frame["changes"][0]["instance"], one);
    assert_eq!(frame["degraded"], false);

    let moved = with(&one, "port", json!(9090));
    server.register(std::slice::from_ref(&moved));
    let frame = hear(&mut client, &mut picture);
    assert_eq!(changes(&frame), [("change", "update", "one")]);
    assert_eq!(frame["changes"][0]["instance"], moved);

    assert_eq!(server.operate(&one, false).outcome(), ("success", "success"));
    assert_eq!(changes(&hear(&mut client, &mut picture)), [("delete", "pull_out", "one")]);
    picture.expect_equals_registry(&server);

    assert_eq!(server.operate(&one, true).outcome(), ("success", "success"));
    assert_eq!(changes(&hear(&mut client, &mut picture)), [("new", "pull_in", "one")]);

    server.unregister(std::slice::from_ref(&one));
    assert_eq!(changes(&hear(&mut client, &mut picture)), [("delete", "unregister", "one")]);
    assert_eq!(picture.revision, 5);
    picture.expect_equals_registry(&server);
}

#[test]
fn a_registration_that_changes_nothing_is_not_pushed() {
    let server = Server::start(&[]);
    let one = instance("orders", "one");
    server.register(std::slice::from_ref(&one));
    let mut client = server.connect();
    let mut picture = client.follow("orders");
    server.register(std::slice::from_ref(&one));
    server.heartbeat(std::slice::from_ref(&one));
    client.catch_up(&mut picture);
    assert_eq!(picture.revision, 1);
    server.register(&[instance("orders", "two")]);
    let frame = client.expect("service_change");
    assert_eq!((&frame["from"], &frame["revision"]), (&json!(1), &json!(2)));
}

#[test]
fn snapshot_is_of_exactly_the_revision_it_names() {
    let server = Server::start(&[]);
    server.register(&instances("orders", 5));
    let mut client = server.connect();
    let mut picture = client.follow("orders");
    assert_eq!((picture.revision, picture.instances.len()), (5, 5));
    picture.expect_equals_registry(&server);
    server.unregister(&[instance("orders", "i3")]);
    picture.apply(&client.expect("service_change"));
    picture.expect_equals_registry(&server);
}

#[test]
fn without_snapshot_the_answer_has_no_instances() {
    let server = Server::start(&[]);
    server.register(&instances("orders", 2));
    let answer = server.connect().subscribe("orders");
    assert_eq!(answer["service_id"], "orders");
    assert_eq!(answer["revision"], 2);
    assert!(answer["epoch"].as_str().is_some_and(|epoch| !epoch.is_empty()), "{answer}");
    assert_eq!(answer["degraded"], false);
    assert_eq!(answer.get("instances"), None);
    assert_eq!(answer.get("recovered"), None);
}

#[test]
fn a_batch_arrives_whole_and_in_order() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let mut picture = client.follow("orders");
    server.register(&instances("orders", 3_000));
    while picture.revision < 3_000 {
        picture.apply(&client.expect("service_change"));
    }
    picture.expect_equals_registry(&server);
}

#[test]
fn service_names_differ_by_more_than_case() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let answer = client.subscribe("Orders-API");
    assert_eq!(answer["service_id"], "orders-api");
    let one = instance("ORDERS-api", "One");
    server.register(std::slice::from_ref(&one));
    let frame = client.expect("service_change");
    assert_eq!(frame["service_id"], "orders-api");
    assert_eq!(frame["changes"][0]["instance"], one, "an instance keeps its own spelling");
    server.unregister(&[with(&instance("orders-API", "ONE"), "regionId", json!("R1"))]);
    assert_eq!(changes(&client.expect("service_change")), [("delete", "unregister", "One")]);
    let left = json!({"type": "unsubscribe", "service_id": "ORDERS-API"});
    assert_eq!(client.ask(&left, "unsubscribed")["service_id"], "orders-api");
}

#[test]
fn the_star_follows_every_service() {
    let server = Server::start(&[]);
    server.register(&[instance("before", "one")]);
    let mut client = server.connect();
    let answer = client.subscribe("*");
    assert_eq!(answer["service_id"], "*");
    assert_eq!((answer.get("epoch"), answer.get("revision")), (None, None), "{answer}");
    for (service, revision) in [("before", 2), ("after", 1), ("before", 3)] {
        server.register(&[instance(service, &format!("i{revision}"))]);
        let frame = client.expect("service_change");
        assert_eq!(frame["service_id"], service);
        assert_eq!(frame["revision"], revision);
        assert_eq!(frame["from"], revision - 1);
    }
}

#[test]
fn star_and_name_together_never_double_a_frame() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    client.subscribe("orders");
    client.subscribe("*");
    let mut revision = 0;
    let mut change = |server: &Server| {
        server.register(&[instance("orders", &format!("i{revision}"))]);
        revision += 1;
        revision
    };
    for _ in 0..3 {
        let revision = change(&server);
        assert_eq!(client.expect("service_change")["revision"], revision);
    }
    client.ask(&json!({"type": "unsubscribe", "service_id": "*"}), "unsubscribed");
    server.register(&[instance("others", "one")]);
    let now = change(&server);
    let frame = client.expect("service_change");
    assert_eq!((&frame["service_id"], &frame["revision"]), (&json!("orders"), &json!(now)));
    client.subscribe("*");
    client.ask(&json!({"type": "unsubscribe", "service_id": "orders"}), "unsubscribed");
    let now = change(&server);
    let frame = client.expect("service_change");
    assert_eq!((&frame["service_id"], &frame["revision"]), (&json!("orders"), &json!(now)));
}

#[test]
fn subscribing_twice_changes_nothing() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    client.subscribe("orders");
    client.subscribe("orders");
    client.subscribe("ORDERS");
    for revision in 1..=3 {
        server.register(&[instance("orders", &format!("i{revision}"))]);
        assert_eq!(client.expect("service_change")["revision"], revision);
    }
    client.ask(&json!({"type": "unsubscribe", "service_id": "orders"}), "unsubscribed");
    client.subscribe("fence");
    server.register(&[instance("orders", "late")]);
    server.register(&[instance("fence", "one")]);
    assert_eq!(client.expect("service_change")["service_id"], "fence");
}

#[test]
fn unsubscribing_is_answered_also_without_a_subscription() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    for service in ["never", "*"] {
        let command = json!({"type": "unsubscribe", "service_id": service, "id": 5});
        let answer = client.ask(&command, "unsubscribed");
        assert_eq!((&answer["service_id"], &answer["id"]), (&json!(service), &json!(5)));
    }
}

#[test]
fn one_connection_follows_many_services_apart() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let names: Vec<String> = (0..50).map(|n| format!("service-{n}")).collect();
    let mut pictures: Vec<Picture> = names.iter().map(|name| client.follow(name)).collect();
    let mixed: Vec<Value> =
        (0..200).map(|n| instance(&names[n % names.len()], &format!("i{n}"))).collect();
    server.register(&mixed);
    while pictures.iter().any(|picture| picture.revision < 4) {
        let frame = client.expect("service_change");
        let picture = pictures.iter_mut().find(|picture| frame["service_id"] == *picture.service);
        picture.expect("a service that is followed").apply(&frame);
    }
    for picture in &pictures {
        picture.expect_equals_registry(&server);
    }
}

#[test]
fn followers_on_every_shard_see_the_same() {
    let server = Server::start(&["--shards", "4"]);
    let mut clients: Vec<_> = (0..40).map(|_| server.connect()).collect();
    let mut pictures: Vec<_> = clients.iter_mut().map(|client| client.follow("orders")).collect();
    for round in 0..20 {
        server.register(&[instance("orders", &format!("i{}", round % 7))]);
        server.unregister(&[instance("orders", &format!("i{}", round % 5))]);
    }
    for (client, picture) in clients.iter_mut().zip(&mut pictures) {
        client.catch_up(picture);
        picture.expect_equals_registry(&server);
    }
}
