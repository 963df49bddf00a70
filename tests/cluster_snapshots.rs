//! A node joins whatever happened to the log and to the snapshot in Redis: a living node writes a
//! snapshot on request, and without a living node the joining one begins a new log.

use std::time::Duration;

use serde_json::{Value, json};

use fanfare_test_support::nodes::{await_ready, flags_at};
use fanfare_test_support::redis::Redis;
use fanfare_test_support::{Server, eventually, instance, instances};

const LOG: &str = "fanfare:{registry}:log";
const SNAPSHOT: &str = "fanfare:{registry}:image";
const SEQUENCE: &str = "fanfare:{registry}:sequence";

/// Time for a node to ask, to be answered and to begin. The promise is seconds; the rest is for a
/// machine that is busy with other tests.
const JOINED: Duration = Duration::from_secs(20);

fn start(redis: &Redis) -> Server {
    Server::start(&flags_at(&redis.url(), &["--auth", "open"]))
}

fn joined(redis: &Redis) -> Server {
    let server = start(redis);
    eventually("the node is ready", JOINED, || server.get("/ready").status == 200);
    server
}

/// Two nodes that know something, of services and of a pull-out.
fn two_with_a_registry(redis: &Redis) -> [Server; 2] {
    let servers = [start(redis), start(redis)];
    servers.iter().for_each(await_ready);
    servers[0].register(&instances("orders", 20));
    servers[1].register(&instances("billing", 5));
    servers[1].operate(&instance("billing", "pulled"), false);
    eventually("both know it all", JOINED, || picture(&servers[0]) == picture(&servers[1]));
    servers
}

/// Everything that a node shows of the services, but for the order of their instances.
fn picture(server: &Server) -> Value {
    let of = |service: &str| {
        let path = format!("/api/discovery/service.json?serviceId={service}");
        let mut service = server.get(&path).body["service"].clone();
        if let Some(instances) = service["instances"].as_array_mut() {
            instances.sort_by_key(Value::to_string);
        }
        json!([service["epoch"], service["revision"], service["instances"]])
    };
    json!([of("orders"), of("billing"), of("never-seen")])
}

/// A third node joins after something was done to Redis, and all three have one picture.
fn joins_after(harm: impl Fn(&Redis)) {
    let redis = Redis::start();
    let [a, b] = two_with_a_registry(&redis);
    let before = picture(&a);

    harm(&redis);
    let c = joined(&redis);
    assert_eq!(picture(&c), before);
    assert_eq!((picture(&a), picture(&b)), (before.clone(), before), "nothing is lost");

    // And all go on together.
    c.register(&[instance("orders", "late")]);
    eventually("all know the last", JOINED, || {
        picture(&a) == picture(&c) && picture(&b) == picture(&c)
    });
    eventually("nobody asks any more", JOINED, || {
        redis.ask(&["EXISTS", "fanfare:{registry}:wanted"]) == 0
    });
}

#[test]
fn the_log_was_trimmed_by_hand() {
    joins_after(|redis| assert!(redis.ask(&["XTRIM", LOG, "MAXLEN", "0"]) > 0));
}

#[test]
fn the_log_was_trimmed_and_the_snapshot_is_gone() {
    joins_after(|redis| {
        redis.ask(&["XTRIM", LOG, "MAXLEN", "1"]);
        assert_eq!(redis.ask(&["DEL", SNAPSHOT]), 1);
    });
}

#[test]
fn the_log_is_lost() {
    joins_after(|redis| assert_eq!(redis.ask(&["DEL", LOG]), 1));
}

#[test]
fn the_snapshot_is_gone_while_nothing_happens() {
    joins_after(|redis| assert_eq!(redis.ask(&["DEL", SNAPSHOT]), 1));
}

#[test]
fn the_snapshot_cannot_be_read() {
    joins_after(|redis| {
        // It claims to be of a later place than any other.
        let text = "{\"format\":1,\"position\":\"9-0\",\"sequence\":99999999,\"epoch\":";
        assert_eq!(redis.order(&["SET", SNAPSHOT, text]), "+OK");
    });
}

#[test]
fn the_snapshot_is_no_text() {
    joins_after(|redis| {
        redis.ask(&["DEL", SNAPSHOT]);
        assert_eq!(redis.ask(&["RPUSH", SNAPSHOT, "x"]), 1);
    });
}

/// However many nodes join, one snapshot is written for all of them.
#[test]
fn few_snapshots_are_written_for_many_that_ask() {
    let redis = Redis::start();
    let [a, b] = two_with_a_registry(&redis);
    redis.ask(&["XTRIM", LOG, "MAXLEN", "0"]);
    redis.ask(&["DEL", SNAPSHOT]);
    let joining: [Server; 3] = std::array::from_fn(|_| start(&redis));
    for server in &joining {
        eventually("the node is ready", JOINED, || server.get("/ready").status == 200);
        assert_eq!(picture(server), picture(&a));
    }
    let said = |server: &Server| server.log().matches("another node asks for a snapshot").count();
    let written = said(&a) + said(&b);
    assert!((1..=4).contains(&written), "{written} snapshots were written");
}

/// Nobody is left who knows the registry: the cluster is not to stay down for ever.
#[test]
fn a_log_that_nobody_knows_is_begun_again() {
    let redis = Redis::start();
    let [mut a, mut b] = two_with_a_registry(&redis);
    let epoch = picture(&a)[0][0].clone();
    a.kill();
    b.kill();
    redis.ask(&["XTRIM", LOG, "MAXLEN", "0"]);
    redis.ask(&["DEL", SNAPSHOT]);
    let c = start(&redis);
    eventually("the node is ready", 2 * JOINED, || c.get("/ready").status == 200);
    c.register(&[instance("orders", "first")]);
    let shown = picture(&c);
    assert_ne!(shown[0][0], epoch, "nobody resumes across what was lost");
    assert_eq!(shown[0][2].as_array().map(Vec::len), Some(1), "{shown}");
}

/// The entries behind the snapshot are lost with Redis' last second, and with the nodes: the snapshot is
/// what is left.
#[test]
fn a_snapshot_beyond_the_log_is_what_is_left() {
    let redis = Redis::start();
    let [mut a, mut b] = two_with_a_registry(&redis);
    // A third that asks has a snapshot written of all there is.
    redis.ask(&["DEL", SNAPSHOT]);
    let mut c = joined(&redis);
    let before = picture(&c);
    for server in [&mut a, &mut b, &mut c] {
        server.kill();
    }
    assert_eq!(redis.order(&["SET", SEQUENCE, "1"]), "+OK");
    let d = start(&redis);
    eventually("the node is ready", 2 * JOINED, || d.get("/ready").status == 200);
    let after = picture(&d);
    assert_ne!(after[0][0], before[0][0], "it is another epoch");
    assert_eq!(after[0][2].as_array().map(Vec::len), Some(20), "{after}");
}
