//! Several nodes and one registry: the same services, revisions and epoch on each, whichever node
//! an instance uses, and whatever happens to nodes and to Redis.

#![allow(clippy::disallowed_methods, reason = "leases are about the clock of the wall")]

use std::time::{Duration, Instant};

use fanfare_test_support::nodes::{PATIENCE, await_ready, flags_at, node, node_over_proxy};
use fanfare_test_support::proxy::{Fault, FaultyProxy};
use fanfare_test_support::redis::Redis;
use fanfare_test_support::{Server, eventually, instance, instances, with};
use serde_json::{Value, json};

fn service(server: &Server, name: &str) -> Value {
    server.get(&format!("/api/discovery/service.json?serviceId={name}")).body["service"].clone()
}

/// Waits until all nodes show the same of a service, and returns it.
fn agreed(nodes: &[&Server], name: &str) -> Value {
    let mut seen = Vec::new();
    eventually("the nodes agree", PATIENCE, || {
        seen = nodes.iter().map(|node| service(node, name)).collect();
        seen.iter().all(|one| sorted(one) == sorted(&seen[0]))
    });
    seen.swap_remove(0)
}

/// Instances in an order of their own: it is none of the registry's promises.
fn sorted(service: &Value) -> Value {
    let mut service = service.clone();
    if let Some(list) = service["instances"].as_array_mut() {
        list.sort_by_key(|one| one["instanceId"].to_string());
    }
    service
}

#[test]
fn every_node_has_the_same_registry() {
    let redis = Redis::start();
    let (a, b) = (node(&redis, &[]), node(&redis, &[]));
    let mut follower = b.connect();
    let mut picture = follower.follow("s");
    a.register(&instances("s", 5));
    b.register(&[instance("s", "late"), with(&instance("s", "i1"), "port", json!(99))]);
    a.unregister(&[instance("s", "i2")]);
    let shown = agreed(&[&a, &b], "s");
    assert_eq!(shown["revision"], 8, "{shown}");
    follower.catch_up(&mut picture);
    picture.expect_equals_registry(&a);
    // A node that joins later, and a client that moves to it.
    let c = node(&redis, &[]);
    assert_eq!(sorted(&agreed(&[&a, &c], "s")), sorted(&shown));
    let mut moved = c.connect();
    c.register(&[instance("s", "later still")]);
    assert!(moved.resume(&mut picture), "what it missed is here, too");
    moved.catch_up(&mut picture);
    picture.expect_equals_registry(&b);
}

#[test]
fn the_bound_is_that_of_the_node_that_is_asked() {
    let redis = Redis::start();
    // Nodes with other bounds are ready together only while bounds are being changed.
    let bounded = |max| node(&redis, &["--instances-max", max, "--differing-settings", "on"]);
    let (small, large) = (bounded("3"), bounded("1000"));
    large.register(&instances("s", 5));
    assert_eq!(agreed(&[&small, &large], "s")["instances"].as_array().map(Vec::len), Some(5));
    let full = json!({"instances": [instance("s", "one more")]});
    let reply = small.post_json("/api/registry/register.json", &full);
    assert_eq!(reply.outcome().0, "fail", "{}", reply.text);
    // What is there is renewed all the same, and a node that comes late has it too.
    small.register(&instances("s", 5)[..2]);
    let late = bounded("1");
    assert_eq!(agreed(&[&late, &large], "s")["revision"], 5);
}

#[test]
fn an_answer_over_a_socket_comes_in_its_turn() {
    let redis = Redis::start();
    let a = node(&redis, &[]);
    let mut client = a.connect();
    client.send_json(&json!({"type": "register", "id": 1, "instances": instances("s", 3)}));
    client.send_json(&json!({"type": "ping", "id": 2}));
    client.send_json(&json!({"type": "subscribe", "id": 3, "service_id": "s"}));
    let key = json!({"serviceId": "s", "instanceId": "i0", "regionId": "r1"});
    client.send_json(&json!({"type": "unregister", "id": 4, "instance_keys": [key]}));
    let mut order = Vec::new();
    while order.len() < 4 {
        let frame = client.next_json();
        if let Some(id) = frame["id"].as_u64() {
            order.push(id);
            if id == 3 {
                assert_eq!(frame["revision"], 3, "{frame}");
            }
        }
    }
    assert_eq!(order, [1, 2, 3, 4]);
}

#[test]
fn heartbeats_count_on_any_node_and_leases_of_a_dead_one_are_taken_over() {
    let redis = Redis::start();
    let flags = ["--lease-ttl", "3s"];
    let (a, mut b) = (node(&redis, &flags), node(&redis, &flags));
    let list = instances("s", 2);
    b.register(&list);
    let (alive, silent) = (&list[..1], &list[1]);
    let gone = silent["instanceId"].as_str().expect("a name").to_owned();
    // One moves to another node, and the node that both were registered at dies.
    a.heartbeat(alive);
    b.kill();
    let start = Instant::now();
    let mut follower = a.connect();
    let mut picture = follower.follow("s");
    eventually("the silent one expires", Duration::from_secs(20), || {
        a.heartbeat(alive);
        let shown = service(&a, "s");
        let names: Vec<&str> = shown["instances"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|one| one["instanceId"].as_str())
            .collect();
        assert!(names.contains(&alive[0]["instanceId"].as_str().expect("a name")), "{names:?}");
        !names.contains(&&*gone)
    });
    // As promised: at most a lease and twelve seconds late.
    assert!(start.elapsed() < Duration::from_secs(3 + 3 + 12), "{:?}", start.elapsed());
    follower.catch_up(&mut picture);
    picture.expect_equals_registry(&a);
}

#[test]
fn pull_outs_and_protection_hold_everywhere() {
    let redis = Redis::start();
    let flags = ["--lease-ttl", "2s"];
    let (a, b) = (node(&redis, &flags), node(&redis, &flags));
    let list = instances("s", 6);
    a.register(&list);
    agreed(&[&a, &b], "s");
    assert_eq!(b.operate(&list[0], false).outcome().0, "success");
    eventually("it is out on the other node", PATIENCE, || {
        service(&a, "s")["instances"].as_array().map(Vec::len) == Some(5)
    });
    assert_eq!(a.operate(&list[0], true).outcome().0, "success");
    agreed(&[&a, &b], "s");
    // Half of them on each node fall silent together: that looks like a broken network.
    b.heartbeat(&list[..3]);
    for node in [&a, &b] {
        eventually("expiry is held", PATIENCE, || service(node, "s")["degraded"] == true);
    }
    assert_eq!(agreed(&[&a, &b], "s")["instances"].as_array().map(Vec::len), Some(6));
    // Renewed on one node, they are well on all.
    eventually("it is over", PATIENCE, || {
        a.heartbeat(&list);
        service(&b, "s")["degraded"] == false && service(&a, "s")["degraded"] == false
    });
    assert_eq!(service(&b, "s")["instances"].as_array().map(Vec::len), Some(6));
}

#[test]
fn without_redis_reads_go_on_and_nothing_is_promised() {
    let mut redis = Redis::start();
    let flags = ["--lease-ttl", "3s"];
    let (a, b) = (node(&redis, &flags), node(&redis, &flags));
    let list = instances("s", 4);
    a.register(&list);
    agreed(&[&a, &b], "s");
    let mut follower = b.connect();
    let mut picture = follower.follow("s");
    redis.kill();
    for node in [&a, &b] {
        eventually("the node says so", PATIENCE, || {
            node.get("/ready").status == 503 && service(node, "s")["degraded"] == true
        });
        let reply = node.post_json("/api/registry/register.json", &json!({"instances": list}));
        reply.expect_problem(503, "unavailable");
        let keys = json!({"instances": list});
        node.post_json("/api/registry/heartbeat.json", &keys).expect_problem(503, "unavailable");
    }
    let marked = follower.find("the mark", |frame| frame["degraded"] == true);
    assert_eq!((&marked["from"], &marked["changes"]), (&marked["revision"], &json!([])));
    picture.apply(&marked);
    // Longer than any lease: nothing expires.
    let until = Instant::now() + Duration::from_secs(5);
    eventually("time passes", PATIENCE, || Instant::now() > until);
    assert_eq!(service(&a, "s")["instances"].as_array().map(Vec::len), Some(4));
    redis.launch();
    await_ready(&a);
    await_ready(&b);
    a.heartbeat(&list);
    let shown = agreed(&[&a, &b], "s");
    assert_eq!(shown["degraded"], false);
    follower.catch_up(&mut picture);
    picture.expect_equals_registry(&a);
}

/// Has Redis forget something that two nodes know: both know it still, under a new epoch.
fn expect_taught_again(forget: impl FnOnce(&Redis)) {
    let mut redis = Redis::start();
    let (a, b) = (node(&redis, &[]), node(&redis, &[]));
    let list = instances("s", 6);
    a.register(&list[..3]);
    redis.remember();
    a.register(&list[3..]);
    let before = agreed(&[&a, &b], "s");
    let mut follower = b.connect();
    let mut picture = follower.follow("s");
    redis.kill();
    forget(&redis);
    redis.launch();
    eventually("there is a new epoch", PATIENCE, || {
        let shown = service(&a, "s");
        shown["epoch"] != before["epoch"] && shown == service(&b, "s")
    });
    await_ready(&a);
    await_ready(&b);
    b.register(&[instance("s", "after")]);
    let shown = agreed(&[&a, &b], "s");
    assert_eq!(shown["instances"].as_array().map(Vec::len), Some(7), "{shown}");
    follower.catch_up(&mut picture);
    picture.expect_equals_registry(&a);
}

#[test]
fn a_redis_that_forgot_everything_is_taught_again() {
    expect_taught_again(Redis::wipe);
}

/// What it has forgotten would come back under the same numbers as something else.
#[test]
fn a_redis_that_went_back_in_time_is_taught_what_it_forgot() {
    expect_taught_again(Redis::go_back);
}

/// Redis has lost everything, and one comes before those that know.
#[test]
fn a_node_that_knows_nothing_gives_way() {
    let mut redis = Redis::start();
    let (a, proxy) = node_over_proxy(&redis, &[]);
    a.register(&instances("s", 3));
    let mut follower = a.connect();
    let mut picture = follower.follow("s");
    proxy.set(Fault::Block);
    redis.kill();
    redis.wipe();
    redis.launch();
    let b = node(&redis, &[]);
    assert_eq!(service(&b, "s")["revision"], 0, "it has never heard of it");
    proxy.set(Fault::None);
    eventually("the other is heard", PATIENCE, || {
        service(&b, "s")["instances"].as_array().map(Vec::len) == Some(3)
    });
    await_ready(&a);
    // Once it is known, it stays.
    b.register(&[instance("s", "late")]);
    agreed(&[&a, &b], "s");
    while picture.names().len() < 4 {
        picture.apply(&follower.next_json());
        assert!(picture.names().len() >= 3, "it never was gone");
    }
    picture.expect_equals_registry(&b);
}

/// Whoever comes to a node that has just started finds one that knows what the others do. Without
/// Redis it knows nothing, and takes nobody's picture away.
#[test]
fn a_node_listens_once_it_has_read_the_log() {
    let redis = Redis::start();
    let a = node(&redis, &[]);
    a.register(&instances("s", 3));
    let mut follower = a.connect();
    let mut picture = follower.follow("s");
    let proxy = FaultyProxy::to(redis.address());
    let url = format!("redis://{}", proxy.address());
    let flags = flags_at(&url, &[]);
    // The way is long, so there is time to come too early.
    proxy.set(Fault::Delay(Duration::from_millis(20)));
    let slow = Server::start(&flags);
    slow.register(&[instance("s", "i3")]);
    assert_eq!(slow.discover("s")["instances"].as_array().map(Vec::len), Some(4));
    follower.catch_up(&mut picture);
    assert_eq!(picture.names().len(), 4);
    // There is no way.
    proxy.set(Fault::Block);
    let lost = Server::start(&flags);
    let mut moved = lost.connect();
    let since = json!({"epoch": picture.epoch, "revision": picture.revision});
    moved.send_json(&json!({"type": "subscribe", "service_id": "s", "since": since, "id": "1"}));
    let mut fresh = lost.connect();
    let mut nothing = fresh.follow("s");
    assert_eq!((nothing.names().len(), nothing.degraded), (0, true));
    // It keeps the picture it has.
    moved.expect_error("unavailable");
    let reply =
        lost.post_json("/api/registry/heartbeat.json", &json!({"instances": instances("s", 3)}));
    reply.expect_problem(503, "unavailable");
    assert_eq!(lost.get("/ready").status, 503);
    proxy.set(Fault::None);
    await_ready(&lost);
    assert!(moved.resume(&mut picture), "nothing is missed");
    fresh.catch_up(&mut nothing);
    a.register(&[instance("s", "late")]);
    let shown = agreed(&[&a, &slow, &lost], "s");
    for (client, picture) in [(&mut moved, &mut picture), (&mut fresh, &mut nothing)] {
        client.catch_up(picture);
        while shown["revision"] != picture.revision {
            picture.apply(&client.next_json());
        }
        picture.expect_equals_registry(&a);
    }
}

/// An engine that waits for its disk is slow, and not gone.
#[test]
fn a_redis_that_stands_still_for_a_moment_cuts_nobody_off() {
    let redis = Redis::start();
    let a = node(&redis, &[]);
    for _ in 0..2 {
        // Heartbeats leave a second apart and are given up after two. So at this silence the next one has
        // waited for longer than the pause between two, and is still waited for.
        let silence_ms = || a.count("fanfare_cluster_redis_silence_ms");
        redis.signal("STOP");
        eventually("a heartbeat waits", PATIENCE, || silence_ms() >= 2_150);
        redis.signal("CONT");
        eventually("it is answered", PATIENCE, || silence_ms() < 1_000);
        a.register(&instances("s", 3));
    }
    let log = a.log();
    assert!(log.contains("in contact with the other nodes") && !log.contains("is lost"), "{log}");
}

/// The log is trimmed behind a snapshot, a node joins from the snapshot, and one that slept through all
/// of it begins anew and takes its followers along.
#[test]
fn the_log_does_not_grow_for_ever() {
    let redis = Redis::start();
    let flags = ["--client-messages-per-s-max", "0"];
    let (a, sleeper) = (node(&redis, &flags), node(&redis, &flags));
    let mut follower = sleeper.connect();
    let mut picture = follower.follow("s");
    sleeper.signal("STOP");
    let mut client = a.connect();
    for round in 0..9_000_u32 {
        let one = with(&instance("s", "i0"), "metadata", json!({"round": round}));
        client.send_json(&json!({"type": "register", "instances": [one]}));
        if round % 64 == 63 {
            (0..64).for_each(|_| _ = client.find_type("registered"));
        }
    }
    (0..9_000 % 64).for_each(|_| _ = client.find_type("registered"));
    eventually("entries are dropped", PATIENCE, || redis.ask(&["XLEN", LOG]) < 6_000);
    let late = node(&redis, &flags);
    assert_eq!(agreed(&[&a, &late], "s")["revision"], 9_000);
    sleeper.signal("CONT");
    assert_eq!(agreed(&[&a, &sleeper], "s")["revision"], 9_000);
    follower.catch_up(&mut picture);
    picture.expect_equals_registry(&a);
}

/// A node that does not know yet that a lease was taken over may still accept its heartbeats: they hold.
#[test]
fn a_heartbeat_accepted_by_the_owner_before_holds() {
    let redis = Redis::start();
    let lease = Duration::from_secs(4);
    let flags = ["--lease-ttl", "4s"];
    let (a, proxy) = node_over_proxy(&redis, &flags);
    let b = node(&redis, &flags);
    let list = instances("s", 1);
    a.register(&list);
    agreed(&[&a, &b], "s");
    proxy.set(Fault::Block);
    b.heartbeat(&list);
    let mut accepted = Instant::now();
    eventually("the node finds out that it is cut off", PATIENCE, || {
        let now = Instant::now();
        let reply = a.post_json("/api/registry/heartbeat.json", &json!({"instances": list}));
        if reply.status == 200 {
            assert_eq!(reply.outcome().0, "success");
            accepted = now;
        }
        reply.status == 503
    });
    while accepted.elapsed() + Duration::from_millis(200) < lease {
        let count = service(&b, "s")["instances"].as_array().map(Vec::len);
        assert_eq!(count, Some(1), "gone {:?} after it was accepted", accepted.elapsed());
    }
    eventually("it ends at last", PATIENCE, || {
        service(&b, "s")["instances"].as_array().map(Vec::len) == Some(0)
    });
}

/// A Eureka client is served by any node, and counts heartbeats at all of them.
#[test]
fn eureka_clients_go_where_they_like() {
    let redis = Redis::start();
    let (a, b) = (node(&redis, &[]), node(&redis, &[]));
    let instance = json!({"instance": {
        "instanceId": "web-1", "hostName": "h", "app": "WEB", "ipAddr": "10.0.0.1", "status": "UP",
        "port": {"$": 80, "@enabled": "true"}, "vipAddress": "web",
        "dataCenterInfo": {"@class": "x", "name": "MyOwn"},
        "leaseInfo": {"durationInSecs": 3, "renewalIntervalInSecs": 1},
    }});
    assert_eq!(a.post_json("/eureka/apps/WEB", &instance).status, 204);
    agreed(&[&a, &b], "web");
    let start = Instant::now();
    let mut turns = 0;
    eventually("longer than its lease", PATIENCE, || {
        let server = if turns % 2 == 0 { &b } else { &a };
        turns += 1;
        let renewed = server.request("PUT", "/eureka/v2/apps/WEB/web-1?status=UP", &[], b"");
        assert_eq!(renewed.status, 200, "turn {turns}");
        start.elapsed() > Duration::from_secs(7)
    });
    let accept = [("Accept", "application/json")];
    for node in [&a, &b] {
        let apps = node.request("GET", "/eureka/apps/", &accept, b"");
        assert_eq!(apps.body["applications"]["application"][0]["name"], "WEB", "{}", apps.text);
    }
    let out = b.request("PUT", "/eureka/apps/WEB/web-1/status?value=OUT_OF_SERVICE", &[], b"");
    assert_eq!(out.status, 200);
    eventually("it is out everywhere", PATIENCE, || {
        service(&a, "web")["instances"].as_array().map(Vec::len) == Some(0)
    });
    assert_eq!(a.request("DELETE", "/eureka/apps/WEB/web-1", &[], b"").status, 200);
    eventually("it is gone everywhere", PATIENCE, || {
        b.request("GET", "/eureka/apps/WEB/web-1", &[], b"").status == 404
    });
}

const LOG: &str = "fanfare:{registry}:log";

#[test]
fn nodes_forget_the_same_services_and_begin_them_at_the_same_revision() {
    let redis = Redis::start();
    let flags = ["--service-forget-after", "1s", "--services-max", "5"];
    let (a, b) = (node(&redis, &flags), node(&redis, &flags));
    let names = |node: &Server| {
        let all = node.get("/api/discovery/services.json").body;
        let all = all["services"].as_array().expect("a list").iter();
        let mut names: Vec<String> = all.map(|one| one["serviceId"].to_string()).collect();
        names.sort();
        names
    };
    // More than there is room for: those that were emptied first give way, on both alike.
    a.register(&[instance("standing", "one")]);
    for n in 0..12 {
        let (at, other) = if n % 2 == 0 { (&a, &b) } else { (&b, &a) };
        at.register(&[instance(&format!("s{n}"), "one")]);
        other.unregister(&[instance(&format!("s{n}"), "one")]);
    }
    eventually("both have forgotten all but one", PATIENCE, || {
        [&a, &b].iter().all(|node| names(node) == ["\"standing\""])
    });
    let mut follower = b.connect();
    let mut picture = follower.follow("s11");
    assert_eq!(picture.revision, 0);
    a.register(&[instance("s11", "again")]);
    let shown = agreed(&[&a, &b], "s11");
    let revision = shown["revision"].as_u64().expect("a revision");
    assert!(revision > 2, "above every revision it had: {shown}");
    let begins = follower.expect("service_snapshot");
    assert_eq!(begins["revision"], revision - 1);
    picture.apply(&begins);
    picture.apply(&follower.expect("service_change"));
    picture.expect_equals_registry(&a);
    // A node that joins later begins from a snapshot, and agrees.
    let c = node(&redis, &flags);
    a.register(&[instance("s12", "one")]);
    let shown = agreed(&[&a, &b, &c], "s12");
    assert!(shown["revision"].as_u64() >= Some(3), "{shown}");
}
