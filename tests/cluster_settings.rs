//! Nodes whose secrets or shared limits differ from the eldest node's report it and are not ready.

use std::time::Duration;

use serde_json::{Value, json};

use fanfare_test_support::nodes::{PATIENCE, await_ready};
use fanfare_test_support::redis::Redis;
use fanfare_test_support::{SECRET, Server, eventually};

#[path = "cluster_settings/agreement.rs"]
mod agreement;

const OTHER: &str = "another secret of more than thirty-two bytes";

fn start(redis: &Redis, secret: &str, flags: &[&str]) -> Server {
    let url = redis.url();
    let joined = ["--redis-url", &url, "--jwt-secret", secret, "--shards", "1", "--auth", "open"];
    Server::start(&[&joined[..], flags].concat())
}

fn node_id(server: &Server) -> String {
    let node = server.get("/api/status/node.json").body;
    node["node_id"].as_str().expect("an id").to_owned()
}

/// What a node shows of the settings in which another one differs.
fn differing(server: &Server, other: &str) -> Value {
    let cluster = server.get("/api/status/cluster.json").body;
    let nodes = cluster["nodes"].as_array().expect("nodes");
    let other = nodes.iter().find(|node| node["node_id"] == other);
    other.map(|node| node["differing_settings"].clone()).unwrap_or_default()
}

/// The second node differs in these settings: it says so and is not ready, the first one is.
fn is_not_ready(first: &Server, second: &Server, settings: &Value) {
    let (one, two) = (node_id(first), node_id(second));
    eventually("the second knows", PATIENCE, || differing(second, &one) == *settings);
    eventually("the first knows", PATIENCE, || differing(first, &two) == *settings);
    eventually("the second is not ready", PATIENCE, || {
        second.log().contains("settings differ from the eldest node's: not ready")
            && second.get("/ready").status == 503
    });
    for part in ["discovery", "sockets", "writes"] {
        assert_eq!(second.get(&format!("/ready?for={part}")).status, 503, "{part}");
    }
    assert!(first.log().contains("another node has other settings"));
    eventually("the first is ready", PATIENCE, || first.get("/ready").status == 200);
}

#[test]
fn a_node_with_another_secret_is_not_ready() {
    let redis = Redis::start();
    let mut first = start(&redis, SECRET, &[]);
    await_ready(&first);
    let second = start(&redis, OTHER, &[]);
    is_not_ready(&first, &second, &json!(["token_key"]));

    // Neither the log nor what others may read gives anything away.
    let cluster = second.get("/api/status/cluster.json").text;
    assert!(!cluster.contains("joined_ms") && !cluster.contains("\"settings\""), "{cluster}");
    for text in [first.log(), second.log(), cluster] {
        assert!(!text.contains(SECRET) && !text.contains(OTHER));
    }

    first.stop();
    eventually("nobody differs any more", PATIENCE, || second.get("/ready").status == 200);
}

/// First every node takes the next secret as another one, then each signs with it, then the old one goes.
#[test]
fn a_secret_is_changed_node_by_node() {
    let redis = Redis::start();
    let first = start(&redis, SECRET, &["--jwt-other-secrets", OTHER]);
    await_ready(&first);
    let second = start(&redis, OTHER, &["--jwt-other-secrets", SECRET]);
    await_ready(&second);
    let living = || second.get("/api/status/cluster.json").body["nodes"].as_array().map(Vec::len);
    eventually("both are there", PATIENCE, || living() == Some(2));
    assert_eq!(differing(&second, &node_id(&first)), Value::Null);
    assert_eq!(second.get("/ready").status, 200);

    // One that does not take the tokens of the others is in the way.
    let third = start(
        &redis,
        "a third secret of more than thirty-two bytes",
        &["--jwt-other-secrets", SECRET],
    );
    is_not_ready(&first, &third, &json!(["token_key"]));
}

#[test]
fn a_node_with_other_limits_is_not_ready() {
    let redis = Redis::start();
    let first = start(&redis, SECRET, &["--instances-max", "100"]);
    await_ready(&first);
    let second = start(&redis, SECRET, &["--instances-max", "200", "--lease-ttl", "30s"]);
    is_not_ready(&first, &second, &json!(["instances_max", "lease_ttl"]));

    // What every node has for itself may differ.
    let third = start(&redis, SECRET, &["--instances-max", "100", "--outbox-bytes-max", "2MiB"]);
    await_ready(&third);
}

#[test]
fn a_limit_is_changed_node_by_node() {
    let redis = Redis::start();
    let mut first = start(&redis, SECRET, &[]);
    let mut second = start(&redis, SECRET, &[]);
    [&first, &second].into_iter().for_each(await_ready);

    let changed = ["--instances-max", "77", "--differing-settings", "on"];
    second.stop();
    let second = start(&redis, SECRET, &changed);
    await_ready(&second);
    let one = node_id(&first);
    assert_eq!(differing(&second, &one), json!(["instances_max"]), "it is shown all the same");
    first.stop();
    let first = start(&redis, SECRET, &changed);
    await_ready(&first);
    assert_eq!(differing(&second, &node_id(&first)), Value::Null);

    // A secret is no limit.
    let third = start(&redis, OTHER, &changed);
    eventually("the third is not ready", PATIENCE, || third.get("/ready").status == 503);
}

/// A node of a release that tells no settings.
#[test]
fn an_older_node_is_compared_with_nobody() {
    let redis = Redis::start();
    let first = start(&redis, SECRET, &[]);
    await_ready(&first);
    let about = json!({"node_id": "0lder", "status": "up", "version": "0.0.9"}).to_string();
    redis.ask(&["HSET", "fanfare:{registry}:about", "0lder", &about]);
    let second = start(&redis, SECRET, &[]);
    eventually("the older is seen", Duration::from_secs(20), || {
        redis.ask(&["ZADD", "fanfare:{registry}:nodes", "9999999999999", "0lder"]);
        second.get("/api/status/cluster.json").text.contains("0.0.9")
    });
    await_ready(&second);
    assert_eq!(differing(&second, "0lder"), Value::Null);
}
