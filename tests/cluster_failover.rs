//! When Redis fails over, every connection of a node moves with it, and `/ready` tells the truth
//! about each path to Redis by itself.
//!
//! A name that is moved from one Redis to the next is played by a proxy: what is open stays at the old
//! server, what is opened anew arrives at the new one.

use std::time::Duration;

use serde_json::{Value, json};

use fanfare_test_support::nodes::{PATIENCE, await_ready, flags_at};
use fanfare_test_support::proxy::FaultyProxy;
use fanfare_test_support::redis::Redis;
use fanfare_test_support::{Server, eventually, instance};

/// Time after a promotion within which everything has to work again; the audit's bar, and as much
/// again for a machine that is busy with other tests.
const FAILOVER: Duration = Duration::from_secs(20);

fn ready(server: &Server) -> u16 {
    server.get("/ready").status
}

/// The word for a path to Redis, as the node itself shows it.
fn path(server: &Server, name: &str) -> String {
    let node = server.get("/api/status/node.json").body;
    node["paths"][name].as_str().unwrap_or_else(|| panic!("no path {name}: {node}")).to_owned()
}

fn publish(server: &Server, payload: &Value) -> u16 {
    let body = json!({"payload": payload});
    server.post_json("/api/v1/channels/news/messages", &body).status
}

fn register(server: &Server, id: &str) -> bool {
    let body = json!({"instances": [instance("orders", id)]});
    let answer = server.post_json("/api/registry/register.json", &body);
    answer.status == 200 && answer.body["responseStatus"]["status"] == "success"
}

/// The ids, the epoch and the revision that a node shows of the service.
fn picture(server: &Server) -> (Vec<String>, Value, Value) {
    let answer = server.get("/api/discovery/service.json?serviceId=orders").body;
    let service = &answer["service"];
    let instances = service["instances"].as_array().expect("a list");
    let mut ids: Vec<String> =
        instances.iter().map(|one| one["instanceId"].as_str().expect("an id").to_owned()).collect();
    ids.sort();
    (ids, service["epoch"].clone(), service["revision"].clone())
}

#[test]
fn every_path_moves_with_redis_to_the_promoted_replica() {
    let (old, new) = (Redis::start_alone(), Redis::start_alone());
    new.follow(&old);
    let name = FaultyProxy::to(old.address());
    let url = format!("redis://{}", name.address());
    let servers: [Server; 2] =
        std::array::from_fn(|_| Server::start(&flags_at(&url, &["--auth", "open"])));
    servers.iter().for_each(await_ready);
    let [a, b] = &servers;
    let (mut of_service, mut of_channel) = (b.connect(), b.connect());
    of_service.subscribe("orders");
    of_channel.ask(&json!({"type": "subscribe", "channel": "news"}), "subscribed");
    assert!(register(a, "before"));
    assert_eq!(publish(a, &json!("before")), 200);
    of_channel.find("the message", |frame| frame["payload"] == "before");

    new.catch_up(&old);
    name.lead_to(new.address());
    new.promote();
    old.follow(&new);

    eventually("a registers", FAILOVER, || register(a, "after"));
    eventually("b registers", FAILOVER, || register(b, "after-too"));
    eventually("a publishes", FAILOVER, || publish(a, &json!("after")) == 200);
    of_channel.find("a message from beyond", |frame| frame["payload"] == "after");
    eventually("b publishes", FAILOVER, || publish(b, &json!("after-too")) == 200);
    of_channel.find("a message of its own node", |frame| frame["payload"] == "after-too");
    of_service.find("the push", |frame| frame.to_string().contains("after-too"));
    eventually("all agree", FAILOVER, || {
        picture(a) == picture(b) && picture(a).0 == ["after", "after-too", "before"]
    });
    eventually("a is ready", FAILOVER, || ready(a) == 200);
    eventually("b is ready", FAILOVER, || ready(b) == 200);
    // Every connection is at the new server: nobody hears or writes at the old one.
    eventually("the old one is left", FAILOVER, || {
        old.followers(&format!("fanfare:node:{{{}}}", node_id(a))) == 0
            && old.followers("fanfare:channel:{news}") == 0
    });
    assert!(new.followers("fanfare:channel:{news}") >= 1);
}

fn node_id(server: &Server) -> String {
    let node = server.get("/api/status/node.json").body;
    node["node_id"].as_str().expect("an id").to_owned()
}

#[test]
fn a_node_whose_redis_is_demoted_says_so_by_itself() {
    let redis = Redis::start_alone();
    let server = Server::start(&flags_at(&redis.url(), &["--auth", "open"]));
    await_ready(&server);

    redis.demote();
    // Nothing but the question itself: no traffic shows the fault.
    eventually("it is not ready", Duration::from_secs(10), || ready(&server) == 503);
    for name in ["log", "calls", "topics"] {
        eventually(name, Duration::from_secs(10), || path(&server, name) == "down");
    }
    assert_eq!(path(&server, "journal"), "up", "there is none without a shared database");
    let answer = server.get("/ready").body;
    assert_eq!(answer["checks"]["cluster"], "down", "{answer}");
    eventually("the log names the path", PATIENCE, || {
        let log = server.log();
        ["log", "calls", "topics"].iter().all(|name| {
            log.lines().any(|line| {
                line.contains("a path to Redis fails") && line.contains(&format!("path=\"{name}\""))
            })
        })
    });

    redis.promote();
    eventually("it is ready again", FAILOVER, || ready(&server) == 200);
    assert!(register(&server, "after"));
    assert_eq!(publish(&server, &json!("after")), 200);
}

#[test]
fn a_path_that_fails_alone_is_named() {
    let redis = Redis::start_alone();
    let server = Server::start(&flags_at(&redis.url(), &["--auth", "open"]));
    await_ready(&server);

    // Calls write there and nothing else does, without a database.
    let keys = ["~fanfare:{registry}:*", "%R~fanfare:{messages}:*"];
    redis.order(&["ACL", "SETUSER", "default", "resetkeys", keys[0], keys[1]]);
    eventually("calls fail", Duration::from_secs(10), || path(&server, "calls") == "down");
    assert_eq!((path(&server, "log"), path(&server, "topics")), ("up".into(), "up".into()));
    assert_eq!(ready(&server), 503);
    assert!(server.get("/metrics").text.contains("fanfare_cluster_path_up{path=\"calls\"} 0"));

    redis.order(&["ACL", "SETUSER", "default", "allkeys"]);
    eventually("calls work", FAILOVER, || path(&server, "calls") == "up");
    eventually("it is ready again", FAILOVER, || ready(&server) == 200);
}
