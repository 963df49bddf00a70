//! The registry outlives its process: after a clean stop everything goes on as before, after a kill
//! clients learn that continuity is not certain.

#![allow(clippy::disallowed_methods, reason = "a test process has the clock of the wall")]

use fanfare_test_support::{Picture, READ_PATIENCE, Server, eventually, instance, instances, with};
use serde_json::{Value, json};

const DELTA: &str = "/api/discovery/services-delta.json";

/// Waits until all that was accepted before is on disk. One commit may have been under way already,
/// so it takes the end of a second one, and changes for both to write.
fn wait_for_commit(server: &Server) {
    let before = server.count("fanfare_store_commits_total");
    eventually("two commits", READ_PATIENCE, || {
        server.register(&[instance("marker", &uuid::Uuid::new_v4().to_string())]);
        server.count("fanfare_store_commits_total") >= before + 2
    });
}

#[test]
fn after_a_clean_stop_epoch_and_revisions_continue() {
    let server = &mut Server::start(&[]);
    server.register(&instances("orders", 20));
    server.register(&[with(&instance("orders", "i3"), "metadata", json!({"a": [1, "\u{e9}"]}))]);
    server.unregister(&[instance("orders", "i4"), instance("emptied", "none")]);
    server.register(&[instance("emptied", "one")]);
    server.unregister(&[instance("emptied", "one")]);
    let before = Picture::of_discovered(&server.discover("orders"));
    let version = server.get("/api/discovery/services.json").body["version"].clone();
    let mut picture = server.connect().follow("orders");

    assert_eq!(server.stop().code(), Some(0));
    server.restart();
    assert_eq!(Picture::of_discovered(&server.discover("orders")), before);
    let emptied = server.discover("emptied");
    assert_eq!((&emptied["instances"], &emptied["revision"]), (&json!([]), &json!(2)));
    let now = server.get("/api/discovery/services.json").body["version"].clone();
    assert!(now.as_u64() >= version.as_u64(), "{now} after {version}");

    // One who was there before goes on as if nothing had been.
    let mut client = server.connect();
    assert!(client.resume(&mut picture));
    server.register(&[instance("orders", "new")]);
    let frame = client.expect("service_change");
    assert_eq!((&frame["from"], &frame["revision"]), (&json!(22), &json!(23)));
    picture.apply(&frame);
    picture.expect_equals_registry(server);
}

#[test]
fn a_second_server_on_the_same_data_is_refused() {
    let server = &mut Server::start(&[]);
    server.register(&[instance("orders", "one")]);
    let (status, said) = server.start_another();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("in use by another server"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    // The first one is none the worse, and the next may come however it ends.
    server.register(&[instance("orders", "two")]);
    server.kill();
    server.restart();
    assert_eq!(server.get("/ready").status, 200);
}

#[test]
fn pull_outs_outlive_stops_and_kills() {
    let server = &mut Server::start(&[]);
    let (one, two) = (instance("orders", "one"), instance("orders", "two"));
    server.register(&[one.clone(), two.clone()]);
    server.operate(&one, false);
    let names =
        |server: &Server| Picture::of_discovered(&server.discover("orders")).names().join(" ");
    assert_eq!(server.stop().code(), Some(0));
    server.restart();
    assert_eq!(names(server), "two");
    wait_for_commit(server);
    server.kill();
    server.restart();
    assert_eq!(names(server), "two");
    server.register(std::slice::from_ref(&one));
    assert_eq!(names(server), "two");
    let mut client = server.connect();
    let mut picture = client.follow("orders");
    assert_eq!(server.operate(&one, true).outcome(), ("success", "success"));
    picture.apply(&client.expect("service_change"));
    assert_eq!(picture.names(), ["one", "two"]);
    picture.expect_equals_registry(server);
}

#[test]
fn after_a_kill_the_epoch_is_new_and_what_was_committed_is_there() {
    let server = &mut Server::start(&[]);
    server.register(&instances("orders", 50));
    server.unregister(&[instance("orders", "i7")]);
    let before = server.connect().follow("orders");
    wait_for_commit(server);
    server.kill();
    server.restart();
    let after = Picture::of_discovered(&server.discover("orders"));
    assert_ne!(after.epoch, before.epoch);
    assert_eq!(after.instances, before.instances);
    let mut stale = before.clone();
    let mut client = server.connect();
    assert!(!client.resume(&mut stale), "the old position means nothing now");
    assert_eq!(stale, after);
    server.register(&[instance("orders", "new")]);
    stale.apply(&client.expect("service_change"));
    stale.expect_equals_registry(server);
}

#[test]
fn versions_of_services_delta_are_never_used_again() {
    let server = &mut Server::start(&[]);
    let version = |server: &Server| {
        server.get("/api/discovery/services.json").body["version"].as_u64().expect("a version")
    };
    server.register(&instances("orders", 3));
    wait_for_commit(server);
    // The last changes before the kill may be lost, but their versions were seen.
    server.register(&instances("orders", 30));
    let seen = version(server);
    server.kill();
    server.restart();
    assert!(version(server) > seen, "{} after {seen}", version(server));
    let reply = server.post_json(DELTA, &json!({"version": seen}));
    assert_eq!(reply.outcome(), ("fail", "data-not-found"));

    let now = version(server);
    server.register(&[instance("orders", "after")]);
    let reply = server.post_json(DELTA, &json!({"version": now}));
    assert_eq!(reply.outcome(), ("success", "success"));
    let changes: Vec<&Value> =
        reply.body["changes"]["orders"].as_array().expect("changes").iter().collect();
    assert_eq!(changes.len(), 1);
    let before = version(server);
    assert_eq!(server.stop().code(), Some(0));
    server.restart();
    assert!(version(server) >= before);
    let ahead = json!({"version": version(server) + 1});
    assert_eq!(server.post_json(DELTA, &ahead).outcome(), ("fail", "data-not-found"));
}

#[test]
fn every_kill_brings_another_epoch() {
    let server = &mut Server::start(&[]);
    server.register(&[instance("orders", "one")]);
    wait_for_commit(server);
    let mut epochs = vec![server.discover("orders")["epoch"].clone()];
    for _ in 0..3 {
        server.kill();
        server.restart();
        let epoch = server.discover("orders")["epoch"].clone();
        assert!(!epochs.contains(&epoch), "{epoch} again");
        epochs.push(epoch);
    }
}

#[test]
fn a_lease_gets_a_full_period_of_grace_after_a_restart() {
    let server = &mut Server::start(&[]);
    let one = with(&instance("orders", "one"), "leaseTtlMs", json!(2_000));
    server.register(std::slice::from_ref(&one));
    assert_eq!(server.stop().code(), Some(0));
    server.restart();
    let restarted = std::time::Instant::now();
    let mut client = server.connect();
    let mut picture = client.follow("orders");
    assert_eq!(picture.names(), ["one"]);
    picture.apply(&client.expect("service_change"));
    let lived = restarted.elapsed().as_millis();
    assert!((1_500..=3_500).contains(&lived), "it lived for {lived} ms");
    assert_eq!(picture.names(), Vec::<&str>::new());
}
