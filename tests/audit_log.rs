//! The audit log: what happened, why, and who did it.

use fanfare_test_support::nodes::{PATIENCE, node};
use fanfare_test_support::postgres::Database;
use fanfare_test_support::redis::Redis;
use fanfare_test_support::{
    READ_PATIENCE, Server, assert_is_time, eventually, instance, token, with,
};
use serde_json::{Value, json};

/// Reads the whole log by a query, once it has so many events.
fn events(server: &Server, query: &str, count: usize) -> Vec<Value> {
    let mut found = Vec::new();
    eventually(&format!("{count} events of {query}"), READ_PATIENCE, || {
        let reply = server.call("GET", &format!("/api/v1/events?{query}"), AUDITOR, &Value::Null);
        assert_eq!(reply.status, 200, "{:?}", reply.body);
        found.clone_from(reply.body["events"].as_array().expect("a list"));
        found.len() >= count
    });
    assert_eq!(found.len(), count, "{found:?}");
    found
}

/// Where no token is asked for, none is sent.
const AUDITOR: &str = "";

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["kind"].as_str().expect("a kind")).collect()
}

#[test]
fn an_instance_that_vanished_says_why() {
    let server = Server::start(&["--lease-ttl", "1s"]);
    server.register(&[instance("Orders", "A")]);
    let found = events(&server, "service=ORDERS", 2);
    assert_eq!(kinds(&found), ["instance.registered", "instance.expired"]);
    let (came, went) = (&found[0], &found[1]);
    assert_eq!((&came["service_id"], &came["instance_id"]), (&json!("orders"), &json!("a")));
    assert_eq!(came["actor"]["door"], "http");
    assert_eq!(came["actor"]["address"], "127.0.0.1");
    assert_eq!(went["actor"], json!({"door": "server"}));
    assert_eq!(went["reason"], "the lease was not renewed");
    assert_eq!(went["detail"]["lease_ttl_ms"], 1_000);
    assert!(went["detail"]["silent_ms"].as_u64() >= Some(1_000), "{went}");
    for event in &found {
        assert_is_time(&event["at"]);
        assert!(event["node"].is_string(), "{event}");
    }
    assert!(came["id"].as_u64() < went["id"].as_u64());
}

#[test]
fn an_operators_action_has_user_address_and_door() {
    let server = Server::start_for_people(&["--auth", "required"]);
    let operator = token("ann", "registry:write");
    let auditor = token("eve", "audit:read");
    let key = json!({"regionId": "r1", "serviceId": "orders", "instanceId": "a"});
    let body = json!({"instances": [instance("orders", "a")]});
    let reply = server.call("POST", "/api/registry/register.json", &operator, &body);
    assert_eq!(reply.status, 200);
    for is_complete in [false, true] {
        let body = json!({"instanceKey": key, "operation": "pull-out",
            "operationComplete": is_complete, "operatorId": "deploy 7"});
        let path = "/api/management/instance/operate-instance.json";
        assert_eq!(server.call("POST", path, &operator, &body).status, 200);
    }
    let body = json!({"name": "news", "description": ""});
    assert_eq!(server.call("POST", "/api/v1/channels", &token("root", "admin"), &body).status, 201);
    let mut found = Vec::new();
    eventually("the actions", READ_PATIENCE, || {
        let reply = server.call("GET", "/api/v1/events", &auditor, &Value::Null);
        found.clone_from(reply.body["events"].as_array().expect("a list"));
        found.len() == 4
    });
    assert_eq!(
        kinds(&found),
        ["instance.registered", "instance.pulled_out", "instance.pulled_in", "channel.created"]
    );
    let ann = json!({"user_id": "ann", "address": "127.0.0.1", "door": "http"});
    assert!(found[..3].iter().all(|event| event["actor"] == ann), "{found:?}");
    assert_eq!(found[1]["detail"], json!({"operator_id": "deploy 7"}));
    assert_eq!(found[3]["actor"]["user_id"], "root");
    assert_eq!(found[3]["detail"], json!({"channel": "news"}));
    let reply = server.call("GET", "/api/v1/events", &operator, &Value::Null);
    reply.expect_problem(403, "forbidden");
}

#[test]
fn heartbeats_leave_nothing() {
    let server = Server::start(&[]);
    let one = instance("orders", "a");
    server.register(std::slice::from_ref(&one));
    for _ in 0..20 {
        server.heartbeat(std::slice::from_ref(&one));
        server.register(std::slice::from_ref(&one));
    }
    server.unregister(std::slice::from_ref(&one));
    let found = events(&server, "instance=A", 2);
    assert_eq!(kinds(&found), ["instance.registered", "instance.unregistered"]);
}

#[test]
fn sockets_are_a_door_of_their_own() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    client.ask(&json!({"type": "register", "instances": [instance("orders", "a")]}), "registered");
    let found = events(&server, "actor=websocket", 1);
    assert_eq!(found[0]["actor"], json!({"address": "127.0.0.1", "door": "websocket"}));
}

#[test]
fn filters_narrow_the_log_and_pages_go_on() {
    let server = Server::start(&[]);
    for n in 0..5 {
        server
            .register(&[instance("orders", &format!("o{n}")), instance("users", &format!("u{n}"))]);
    }
    server.register(&[with(&instance("users", "u1"), "metadata", json!({"v": "2"}))]);
    server.unregister(&[instance("users", "u1")]);
    let all = events(&server, "", 12);
    let of_users = events(&server, "service=users", 7);
    assert!(of_users.iter().all(|event| event["service_id"] == "users"));
    assert_eq!(events(&server, "kind=instance.changed", 1)[0]["instance_id"], "u1");
    events(&server, "kind=instance", 12);
    events(&server, "kind=inst", 0);
    events(&server, "service=users&instance=u1", 3);
    events(&server, "actor=127.0.0.1", 12);
    events(&server, "actor=nobody", 0);
    let at = all[11]["at"].as_str().expect("a time");
    events(&server, &format!("to={at}&instance=u1&kind=instance.unregistered"), 0);
    events(&server, &format!("from={at}&instance=u1&kind=instance.unregistered"), 1);
    let (mut read, mut after) = (Vec::new(), json!(0));
    loop {
        let page = server.get(&format!("/api/v1/events?limit=5&after={after}")).body;
        read.extend(page["events"].as_array().expect("a list").clone());
        after = page["next"].clone();
        if after.is_null() {
            break;
        }
    }
    assert_eq!(read, all);
    for wrong in ["after=x", "from=yesterday", "limit=0"] {
        server.get(&format!("/api/v1/events?{wrong}")).expect_problem(400, "invalid_argument");
    }
}

#[test]
fn protection_names_what_it_holds_and_what_it_lets_go() {
    let server = Server::start(&["--lease-ttl", "1s", "--self-protection-max", "2s"]);
    let all: Vec<Value> = (0..10).map(|n| instance("orders", &format!("i{n}"))).collect();
    server.register(&all);
    let found = events(&server, "service=orders&limit=100", 10 + 1 + 10 + 1 + 10);
    let count = |kind: &str| found.iter().filter(|event| event["kind"] == kind).count();
    assert_eq!(count("instance.held"), 10);
    assert_eq!(count("instance.expired"), 10);
    let degraded = &found[10];
    assert_eq!(degraded["kind"], "service.degraded");
    assert_eq!(degraded["detail"], json!({"overdue": 10, "leases": 10}));
    assert_eq!(found[21]["kind"], "service.restored");
    assert_eq!(found[21]["reason"], "held for long enough");
}

#[test]
fn a_summary_counts_flaps_and_absences() {
    let server = Server::start(&[]);
    let (a, b, c) = (instance("orders", "a"), instance("orders", "b"), instance("orders", "c"));
    server.register(&[with(&a, "leaseTtlMs", json!(1_000)), b.clone(), c.clone()]);
    server.register(&[instance("users", "u")]);
    let summary = || server.get("/api/v1/services/ORDERS/summary").body;
    eventually("it expires", READ_PATIENCE, || summary()["expiries"] == 1);
    let gone = summary();
    assert_eq!((&gone["flaps"], &gone["instances"][0]["instance_id"]), (&json!(0), &json!("a")));
    assert_is_time(&gone["instances"][0]["gone_since"]);
    server.register(std::slice::from_ref(&a));
    for _ in 0..2 {
        server.unregister(std::slice::from_ref(&b));
        server.register(std::slice::from_ref(&b));
    }
    server.unregister(&[c]);
    eventually("all of it is there", READ_PATIENCE, || summary()["registrations"] == 6);
    let shown = summary();
    assert_eq!((&shown["service_id"], &shown["complete"]), (&json!("orders"), &json!(true)));
    assert_eq!((&shown["flaps"], &shown["expiries"]), (&json!(3), &json!(1)));
    let worst = shown["instances"].as_array().expect("a list");
    let flaps: Vec<_> = worst.iter().map(|one| (&one["instance_id"], &one["flaps"])).collect();
    assert_eq!(flaps, [(&json!("b"), &json!(2)), (&json!("a"), &json!(1))], "{shown}");
    assert_eq!(worst[1]["gone_since"], json!(null));
    let log = events(&server, "instance=a", 3);
    let at_ms = |event: &Value| {
        let at: jiff::Timestamp = event["at"].as_str().expect("a time").parse().expect("a time");
        at.as_millisecond()
    };
    let absence_ms = at_ms(&log[2]) - at_ms(&log[1]);
    assert_eq!(worst[1]["longest_absence_ms"].as_i64(), Some(absence_ms));
    assert!(shown["longest_absence_ms"].as_i64() >= Some(absence_ms), "{shown}");
    let before = log[0]["at"].as_str().expect("a time");
    let none = server.get(&format!("/api/v1/services/orders/summary?to={before}")).body;
    assert_eq!((&none["registrations"], &none["instances"]), (&json!(0), &json!([])));
}

#[test]
fn the_log_survives_a_restart() {
    let server = &mut Server::start(&[]);
    server.register(&[instance("orders", "a")]);
    let before = events(server, "", 1);
    server.register(&[instance("orders", "b")]);
    assert_eq!(server.stop().code(), Some(0));
    server.restart();
    let after = events(server, "", 2);
    assert_eq!(after[..1], before[..]);
    server.register(&[instance("orders", "c")]);
    let found = events(server, "", 3);
    assert_ne!(found[2]["node"], found[1]["node"], "each start is a node of its own");
    server.kill();
    server.restart();
    assert_eq!(events(server, "", 3), found);
}

#[test]
fn what_is_too_old_is_not_shown() {
    let server = &mut Server::start(&["--audit-age-max", "7d"]);
    server.register(&[instance("orders", "a")]);
    events(server, "", 1);
    assert_eq!(server.stop().code(), Some(0));
    server.set_flag("--audit-age-max", "1s");
    server.restart();
    eventually("the event is too old", READ_PATIENCE, || {
        server.get("/api/v1/events").body["events"] == json!([])
    });
}

#[test]
fn several_nodes_have_one_log_without_doubles() {
    let Some(database) = Database::create() else { return };
    let redis = Redis::start();
    let flags = ["--lease-ttl", "2s", "--self-protection-max", "3s", "--database-url"];
    let flags = [&flags[..], &[database.url()]].concat();
    let (a, b, mut c) = (node(&redis, &flags), node(&redis, &flags), node(&redis, &flags));
    // One instance after another at a node of its own, renewed at the others.
    for (server, name) in [(&a, "a"), (&b, "b"), (&c, "c")] {
        server.register(&[instance("orders", name)]);
    }
    a.register(&[with(&instance("orders", "b"), "metadata", json!({"v": "2"}))]);
    b.unregister(&[instance("orders", "a")]);
    // Ten more that all go silent at once: held, then let go.
    let many: Vec<Value> = (0..10).map(|n| instance("users", &format!("u{n}"))).collect();
    c.register(&many);
    let count =
        |events: &[Value], kind: &str| events.iter().filter(|event| event["kind"] == kind).count();
    let read = |server: &Server| {
        server.get("/api/v1/events?limit=1000").body["events"].as_array().cloned().expect("a list")
    };
    let expired = |server: &Server, all: usize| {
        eventually("all are gone", PATIENCE, || count(&read(server), "instance.expired") >= all);
    };
    expired(&a, 12);
    // The last one is taken over from a node that dies.
    c.register(&[instance("late", "l")]);
    events(&a, "service=late", 1);
    c.kill();
    expired(&b, 13);
    let found = read(&a);
    assert_eq!(found, read(&b), "both read the same");
    for (kind, want) in [
        ("instance.registered", 3 + 10 + 1),
        ("instance.changed", 1),
        ("instance.unregistered", 1),
        ("instance.held", 10),
        ("instance.expired", 2 + 10 + 1),
        ("instance.taken_over", 1),
        ("service.degraded", 1),
        ("service.restored", 1),
    ] {
        assert_eq!(count(&found, kind), want, "{kind}: {found:?}");
    }
    let mut ids: Vec<u64> = found.iter().filter_map(|event| event["id"].as_u64()).collect();
    assert_eq!(ids.len(), found.len());
    assert!(ids.is_sorted());
    ids.dedup();
    assert_eq!(ids.len(), found.len(), "no id stands twice");
    let by = |name: &str| {
        let is = |event: &&Value| event["instance_id"] == name;
        found.iter().find(is).expect("registered")["node"].clone()
    };
    let nodes = [by("a"), by("b"), by("c")];
    assert!(nodes[0] != nodes[1] && nodes[1] != nodes[2] && nodes[0] != nodes[2], "{nodes:?}");
}
