//! An instance that is not renewed is gone in time; many that go quiet at once are held, visibly,
//! and not for ever.

#![allow(clippy::disallowed_methods, reason = "a test process has the clock of the wall")]

use fanfare_test_support as support;
use std::time::{Duration, Instant};

use fanfare_test_support::{Client, Picture, READ_PATIENCE, Server, eventually, instance, with};
use serde_json::{Value, json};

/// The shortest lease there is.
const TTL: Duration = Duration::from_secs(1);

/// How late an expiry may be pushed, as documented.
const LATE_MAX: Duration = Duration::from_secs(1);

/// For the way from the push to the test, on a machine with other work.
const SLACK: Duration = Duration::from_millis(500);

fn short(service: &str, name: &str) -> Value {
    with(&instance(service, name), "leaseTtlMs", json!(1_000))
}

fn shorts(service: &str, count: usize) -> Vec<Value> {
    (0..count).map(|n| short(service, &format!("i{n}"))).collect()
}

/// The next push, after it has been taken into the picture.
fn hear(client: &mut Client, picture: &mut Picture) -> Value {
    let frame = client.expect("service_change");
    picture.apply(&frame);
    frame
}

/// What the leases' status says of a service.
fn leases(server: &Server, service: &str) -> Value {
    let reply = server.get("/api/status/leases.json");
    let list = reply.body["services"].as_array().expect("services");
    let found = list.iter().find(|one| one["service_id"] == service);
    found.unwrap_or_else(|| panic!("{service} is missing: {}", reply.text)).clone()
}

fn lift(server: &Server, service: &str, enabled: bool) -> support::Reply {
    let path = format!("/api/management/services/{service}/self-protection");
    server.post_json(&path, &json!({"enabled": enabled}))
}

/// Lets a service of four with short leases fall into self-protection.
fn degrade(server: &Server, client: &mut Client) -> Picture {
    let mut picture = client.follow("orders");
    server.register(&shorts("orders", 4));
    client.catch_up(&mut picture);
    let frame = hear(client, &mut picture);
    assert_eq!((&frame["degraded"], &frame["changes"]), (&json!(true), &json!([])));
    picture
}

#[test]
fn a_lease_that_runs_out_is_pushed_as_expired_in_time() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let mut picture = client.follow("orders");
    let start = Instant::now();
    server.register(&[short("orders", "one"), instance("orders", "stays")]);
    client.catch_up(&mut picture);
    let frame = hear(&mut client, &mut picture);
    let lived = start.elapsed();
    assert!(lived >= TTL, "it lived for {lived:?} only");
    assert!(lived <= TTL + LATE_MAX + SLACK, "it lived for {lived:?}");
    let change = &frame["changes"][0];
    assert_eq!((&change["changeType"], &change["reason"]), (&json!("delete"), &json!("expired")));
    assert_eq!(change["instance"]["instanceId"], "one");
    assert_eq!(frame["degraded"], false);
    assert_eq!(picture.names(), ["stays"]);
    picture.expect_equals_registry(&server);
    // It is gone for heartbeats too.
    let gone = json!({"instances": [short("orders", "one")]});
    let reply = server.post_json("/api/registry/heartbeat.json", &gone);
    assert_eq!(reply.outcome(), ("fail", "data-not-found"));
}

#[test]
fn the_lease_of_the_flag_is_for_those_that_ask_for_none() {
    let server = Server::start(&["--lease-ttl", "1s"]);
    let mut client = server.connect();
    let mut picture = client.follow("orders");
    let long = with(&instance("orders", "long"), "leaseTtlMs", json!(60_000));
    server.register(&[instance("orders", "plain"), long]);
    client.catch_up(&mut picture);
    let frame = hear(&mut client, &mut picture);
    assert_eq!(frame["changes"][0]["instance"]["instanceId"], "plain");
    assert_eq!(picture.names(), ["long"]);
}

#[test]
fn renewals_of_both_kinds_keep_an_instance() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let mut picture = client.follow("orders");
    let (beating, again) = (short("orders", "beating"), short("orders", "again"));
    server.register(&[beating.clone(), again.clone(), short("orders", "quiet")]);
    client.catch_up(&mut picture);
    let start = Instant::now();
    let expired = server.count("fanfare_registry_expired_total");
    // Three leases' time. The quiet one's end shows that leases do end meanwhile.
    eventually("three leases' time is over", 4 * TTL, || {
        server.heartbeat(std::slice::from_ref(&beating));
        server.register(std::slice::from_ref(&again));
        start.elapsed() > 3 * TTL
    });
    assert!(server.count("fanfare_registry_expired_total") > expired);
    client.catch_up(&mut picture);
    assert_eq!(picture.names(), ["again", "beating"]);
    picture.expect_equals_registry(&server);
}

#[test]
fn a_pulled_out_instance_expires_without_a_push() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let mut picture = client.follow("orders");
    let one = short("orders", "one");
    server.register(&[one.clone(), instance("orders", "stays")]);
    server.operate(&one, false);
    client.catch_up(&mut picture);
    assert_eq!(picture.revision, 3);
    eventually("its lease is gone", READ_PATIENCE, || leases(&server, "orders")["leases"] == 1);
    client.catch_up(&mut picture);
    assert_eq!((picture.revision, picture.names()), (3, vec!["stays"]));
}

#[test]
fn two_overdue_leases_expire_whatever_their_share() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let mut picture = client.follow("orders");
    server.register(&shorts("orders", 2));
    client.catch_up(&mut picture);
    while !picture.instances.is_empty() {
        let frame = hear(&mut client, &mut picture);
        assert_eq!(frame["degraded"], false);
        assert_eq!(frame["changes"][0]["reason"], "expired");
    }
    picture.expect_equals_registry(&server);
}

#[test]
fn a_small_share_expires_however_many_they_are() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let mut picture = client.follow("orders");
    // Three of twenty are 15 percent, which is not more than 15 percent.
    let mut all = shorts("orders", 3);
    all.extend((0..17).map(|n| instance("orders", &format!("long{n}"))));
    server.register(&all);
    client.catch_up(&mut picture);
    while picture.instances.len() > 17 {
        let frame = hear(&mut client, &mut picture);
        assert_eq!(frame["degraded"], false);
    }
    picture.expect_equals_registry(&server);
}

#[test]
fn many_overdue_leases_are_held_and_marked() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let start = Instant::now();
    let mut picture = degrade(&server, &mut client);
    assert!(start.elapsed() <= TTL + LATE_MAX + SLACK, "marked after {:?}", start.elapsed());
    assert_eq!((picture.revision, picture.instances.len()), (4, 4));
    assert!(picture.degraded);
    picture.expect_equals_registry(&server);
    let status = leases(&server, "orders");
    assert_eq!((&status["degraded"], &status["overdue"]), (&json!(true), &json!(4)));
    assert_eq!(server.count("fanfare_registry_degraded_services"), 1);
    assert!(server.connect().follow("orders").degraded, "a snapshot shows the mark");
    assert_eq!(server.connect().subscribe("orders")["degraded"], true);
    // An explicit word is never held.
    server.unregister(&[short("orders", "i0")]);
    let frame = hear(&mut client, &mut picture);
    assert_eq!(frame["changes"][0]["reason"], "unregister");
    assert_eq!(picture.names(), ["i1", "i2", "i3"]);
    picture.expect_equals_registry(&server);
    // Other services go on as ever.
    server.register(&[short("others", "one")]);
    eventually("the other one expires", READ_PATIENCE, || {
        server.discover("others")["instances"] == json!([])
    });
}

#[test]
fn renewals_lift_the_mark() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let mut picture = degrade(&server, &mut client);
    // Longer leases now, so that the test is not in a hurry.
    let kept: Vec<Value> = (0..4).map(|n| instance("orders", &format!("i{n}"))).collect();
    server.heartbeat(&shorts("orders", 2));
    server.register(&kept[..3]);
    // Three of four are less than 85 percent.
    client.catch_up(&mut picture);
    assert!(picture.degraded);
    assert_eq!(picture.instances.len(), 4);
    server.register(&kept[3..]);
    while picture.degraded {
        hear(&mut client, &mut picture);
    }
    client.catch_up(&mut picture);
    assert_eq!(picture.instances.len(), 4);
    picture.expect_equals_registry(&server);
    assert_eq!(server.count("fanfare_registry_degraded_services"), 0);
}

#[test]
fn new_instances_count_among_those_that_are_there() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let mut picture = degrade(&server, &mut client);
    let kept: Vec<Value> = (0..3).map(|n| instance("orders", &format!("i{n}"))).collect();
    server.register(&kept);
    client.catch_up(&mut picture);
    assert!(picture.degraded, "three of four are less than 85 percent");
    // Six of seven are more, and nothing else happens.
    let new: Vec<Value> = (0..3).map(|n| instance("orders", &format!("new{n}"))).collect();
    server.register(&new);
    while picture.degraded || picture.instances.len() > 6 {
        hear(&mut client, &mut picture);
    }
    picture.expect_equals_registry(&server);
}

#[test]
fn what_is_still_overdue_at_the_release_expires() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let mut picture = client.follow("orders");
    server.register(&shorts("orders", 20));
    client.catch_up(&mut picture);
    hear(&mut client, &mut picture);
    assert!(picture.degraded);
    // 17 of 20 are 85 percent.
    let renewed: Vec<Value> = (0..17).map(|n| instance("orders", &format!("i{n}"))).collect();
    server.register(&renewed);
    let mut gone = Vec::new();
    while picture.degraded || picture.instances.len() > 17 {
        let frame = hear(&mut client, &mut picture);
        for change in frame["changes"].as_array().expect("changes") {
            if change["changeType"] == "delete" {
                assert_eq!(change["reason"], "expired", "{change}");
                gone.push(change["instance"]["instanceId"].as_str().expect("a name").to_owned());
            }
        }
    }
    gone.sort_unstable();
    assert_eq!(gone, ["i17", "i18", "i19"]);
    picture.expect_equals_registry(&server);
}

#[test]
fn an_operator_may_lift_it() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let mut picture = degrade(&server, &mut client);
    assert_eq!(lift(&server, "ORDERS", false).outcome(), ("success", "success"));
    while picture.degraded || !picture.instances.is_empty() {
        hear(&mut client, &mut picture);
    }
    picture.expect_equals_registry(&server);
    // From now on nothing is held, until it is switched on again.
    server.register(&shorts("orders", 4));
    client.catch_up(&mut picture);
    while !picture.instances.is_empty() {
        assert_eq!(hear(&mut client, &mut picture)["degraded"], false);
    }
    assert_eq!(lift(&server, "orders", true).outcome(), ("success", "success"));
    degrade(&server, &mut client);
    assert_eq!(lift(&server, "never", false).outcome(), ("fail", "data-not-found"));
    lift_problems(&server);
}

fn lift_problems(server: &Server) {
    let path = "/api/management/services/orders/self-protection";
    server.post_json(path, &json!({})).expect_problem(400, "invalid_argument");
    server.post_json(path, &json!({"enabled": "no"})).expect_problem(400, "invalid_argument");
    assert_eq!(server.get(path).status, 405);
}

#[test]
fn dead_instances_are_not_immortal() {
    let server = Server::start(&["--self-protection-max", "2s"]);
    let mut client = server.connect();
    let mut picture = degrade(&server, &mut client);
    let start = Instant::now();
    while picture.degraded || !picture.instances.is_empty() {
        hear(&mut client, &mut picture);
    }
    let held = start.elapsed();
    assert!(held >= Duration::from_millis(1_500), "held for {held:?} only");
    assert!(held <= Duration::from_secs(2) + LATE_MAX + SLACK, "held for {held:?}");
    picture.expect_equals_registry(&server);
}

#[test]
fn self_protection_outlives_a_restart() {
    let mut server = Server::start(&[]);
    let mut client = server.connect();
    let mut picture = degrade(&server, &mut client);
    drop(client);
    assert_eq!(server.stop().code(), Some(0));
    server.restart();
    let mut client = server.connect();
    assert!(client.resume(&mut picture));
    client.catch_up(&mut picture);
    assert!(picture.degraded);
    assert_eq!(picture.instances.len(), 4);
    assert!(server.discover("orders")["degraded"] == true);
    // More than a lease's time later they are still there, for nobody has renewed them.
    eventually("all are overdue again", READ_PATIENCE, || {
        leases(&server, "orders")["overdue"] == 4
    });
    client.catch_up(&mut picture);
    assert_eq!((picture.degraded, picture.instances.len()), (true, 4));
}
