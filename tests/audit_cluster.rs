//! The audit log of several nodes: one log, each change in it once, whichever node is asked.

use std::collections::BTreeSet;

use fanfare_test_support::nodes::{PATIENCE, nodes};
use fanfare_test_support::postgres::Database;
use fanfare_test_support::redis::Redis;
use fanfare_test_support::{Server, eventually, instance, token};
use serde_json::{Value, json};

/// Reads the log at a node, once it has so many events of a kind.
fn events(server: &Server, kind: &str, count: usize) -> Vec<Value> {
    let mut found = Vec::new();
    eventually(&format!("{count} of {kind}"), PATIENCE, || {
        let path = format!("/api/v1/events?limit=1000&kind={kind}");
        let reply = server.call("GET", &path, &token("eve", "audit:read"), &Value::Null);
        found.clone_from(reply.body["events"].as_array().expect("a list"));
        found.len() >= count
    });
    assert_eq!(found.len(), count, "{found:?}");
    found
}

fn post(server: &Server, path: &str, user: &str, body: &Value) {
    let reply = server.call("POST", path, &token(user, "admin"), body);
    assert!((200..300).contains(&reply.status), "{}", reply.text);
}

#[test]
fn three_nodes_have_one_log_without_doubles() {
    let Some(database) = Database::create() else { return };
    let redis = Redis::start();
    let flags = ["--database-url", database.url(), "--lease-ttl", "3s"];
    let mut servers: [Server; 3] = nodes(&redis, &flags);
    for (index, server) in servers.iter().enumerate() {
        let all: Vec<Value> =
            (0..40).map(|n| instance(&format!("s{n}"), &format!("i{index}-{n}"))).collect();
        let user = format!("user{index}");
        post(server, "/api/registry/register.json", &user, &json!({"instances": all}));
    }
    let key = json!({"regionId": "r1", "serviceId": "s1", "instanceId": "i0-1"});
    let body = json!({"instanceKey": key, "operation": "pull-out", "operatorId": "ops"});
    post(&servers[1], "/api/management/instance/operate-instance.json", "ann", &body);
    post(&servers[2], "/api/v1/channels", "bob", &json!({"name": "news", "description": ""}));

    let registered = events(&servers[0], "instance.registered", 120);
    let names: BTreeSet<&str> =
        registered.iter().map(|one| one["instance_id"].as_str().expect("an id")).collect();
    assert_eq!(names.len(), 120, "each once");
    for event in &registered {
        // The node at which the command arrived knows who sent it.
        let name = event["instance_id"].as_str().expect("an id");
        let index = name.as_bytes()[1] - b'0';
        assert_eq!(event["actor"]["user_id"], format!("user{index}"), "{event}");
    }
    let writers: BTreeSet<&str> =
        registered.iter().map(|one| one["node"].as_str().expect("a node")).collect();
    assert_eq!(writers.len(), 3, "each node notes what arrived at it");
    assert_eq!(events(&servers[0], "instance.pulled_out", 1)[0]["actor"]["user_id"], "ann");
    assert_eq!(events(&servers[1], "channel.created", 1)[0]["actor"]["user_id"], "bob");

    // A node dies: the leader notes each lease that it takes over, and each that expires, once.
    servers[0].kill();
    let taken_over = events(&servers[2], "instance.taken_over", 40);
    assert!(taken_over.iter().all(|one| one["actor"]["door"] == "server"));
    let expired = events(&servers[1], "instance.expired", 120);
    let names: BTreeSet<&str> =
        expired.iter().map(|one| one["instance_id"].as_str().expect("an id")).collect();
    assert_eq!(names.len(), 120, "each once");
    let ids: Vec<u64> = expired.iter().filter_map(|one| one["id"].as_u64()).collect();
    assert!(ids.is_sorted(), "the oldest first");
}
