//! The stand-in for Artemis' Java client among three nodes: it is told of all of them, registers at one and is
//! discovered at another, and goes on at a third when its node ends.

use std::time::Duration;

use fanfare_test_support::artemis::{ArtemisClient, Settings, artemis_instance as instance};
use fanfare_test_support::nodes::{await_cut_off, await_ready};
use fanfare_test_support::raw::{Raw, text};
use fanfare_test_support::redis::Redis;
use fanfare_test_support::{Server, eventually, nodes};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_mins(1);

fn domain(server: &Server) -> String {
    format!("http://{}", server.address())
}

fn open(redis: &Redis) -> Server {
    // The address is known when the node listens, so it is restarted at its own port.
    let mut server =
        nodes::node(redis, &["--auth", "open", "--advertise-url", "http://127.0.0.1:1"]);
    let address = domain(&server);
    assert!(server.stop().success());
    server.set_flag("--advertise-url", &address);
    server.restart_in_place();
    await_ready(&server);
    server
}

fn listed(server: &Server) -> Vec<String> {
    let answer = server.post("/api/cluster/up-discovery-nodes.json", &json!({}));
    let nodes = answer["nodes"].as_array().expect("a list").iter();
    nodes.map(|node| node["url"].as_str().expect("a url").to_owned()).collect()
}

#[test]
fn three_nodes_are_one_registry_to_artemis_clients() {
    let redis = Redis::start();
    let mut servers: Vec<Server> = (0..3).map(|_| open(&redis)).collect();
    let mut all: Vec<String> = servers.iter().map(domain).collect();
    all.sort();
    for server in &servers {
        eventually("every node is listed at every node", PATIENCE, || listed(server) == all);
    }
    let settings = || Settings { poll: Duration::from_secs(1), ..Settings::fast() };
    let providers: Vec<ArtemisClient> =
        servers.iter().map(|server| ArtemisClient::start(&domain(server), settings())).collect();
    let consumers: Vec<ArtemisClient> =
        servers.iter().map(|server| ArtemisClient::start(&domain(server), settings())).collect();
    for (n, provider) in providers.iter().enumerate() {
        assert_eq!(provider.nodes(), all);
        provider.register(&instance("S7Svc", &format!("i{n}")));
    }
    for consumer in &consumers {
        consumer.follow("S7Svc");
    }
    let everyone_sees = |count: usize, what: &str| {
        eventually(what, PATIENCE, || {
            consumers.iter().all(|consumer| consumer.instances("s7svc").len() == count)
        });
    };
    everyone_sees(3, "all see all");
    servers[1].operate(&instance("S7Svc", "i0"), false);
    everyone_sees(2, "a pull-out at any node is seen at all");
    servers[2].operate(&instance("S7Svc", "i0"), true);
    everyone_sees(3, "and its end");
    // The first node dies. Nobody's instance does: its clients go on elsewhere within the grace.
    servers[0].kill();
    let gone = all.iter().position(|url| *url == domain(&servers[0])).expect("it was listed");
    all.remove(gone);
    for server in &servers[1..] {
        eventually("it is listed no more", PATIENCE, || listed(server) == all);
    }
    eventually("its clients heartbeat elsewhere", PATIENCE, || {
        let elsewhere = |client: &ArtemisClient| {
            client.heartbeat_node().is_some_and(|node| all.contains(&node))
        };
        providers.iter().all(elsewhere)
    });
    servers[1].register(&[instance("S7Svc", "after")]);
    everyone_sees(4, "changes arrive at all, wherever they are now");
    let instances = servers[1].discover("s7svc")["instances"].as_array().map(Vec::len);
    assert_eq!(instances, Some(4));
    // The next one stops in order: a drain.
    assert!(servers[1].stop().success());
    servers[2].register(&[instance("S7Svc", "last")]);
    everyone_sees(5, "changes arrive after a drain");
}

/// A node that cannot write says so in its answer, and the client leaves it.
#[test]
fn a_node_that_is_cut_off_sends_heartbeats_elsewhere() {
    let redis = Redis::start();
    let (server, proxy) = nodes::node_over_proxy(&redis, &["--auth", "open"]);
    await_ready(&server);
    server.register(&[instance("s", "a")]);
    let mut heartbeats = Raw::open(server.address(), "/ws/registry/heartbeat");
    let mut changes = Raw::open(server.address(), "/ws/discovery/instance-change");
    changes.send(&text(&json!({"serviceId": "s"}).to_string()));
    assert_eq!(changes.json()["changeType"], "reload");
    let beat = |raw: &mut Raw| -> Value {
        raw.send(&text(&json!({"instances": [instance("s", "a")]}).to_string()));
        raw.json()["responseStatus"].clone()
    };
    assert_eq!(beat(&mut heartbeats)["status"], "success");
    proxy.set(fanfare_test_support::proxy::Fault::Down);
    await_cut_off(&server);
    let mut answer = Value::Null;
    eventually("heartbeats are refused", PATIENCE, || {
        answer = beat(&mut heartbeats);
        answer["status"] == "fail"
    });
    assert_eq!(
        (&answer["status"], &answer["errorCode"]),
        (&json!("fail"), &json!("service-unavailable"))
    );
    let nodes = server.post_json("/api/cluster/up-registry-nodes.json", &json!({}));
    assert_eq!(nodes.outcome(), ("fail", "data-not-found"));
    assert_eq!(nodes.body["nodes"], json!([]));
    let nodes = server.post_json("/api/cluster/up-discovery-nodes.json", &json!({}));
    assert_eq!(nodes.outcome(), ("success", "success"), "reads go on");
}

/// A row is the same at every node, outlives the node that took it, and is there for nodes that join.
#[test]
fn operations_are_the_same_at_every_node() {
    let redis = Redis::start();
    let mut first = open(&redis);
    let second = open(&redis);
    first.register(&[instance("s", "a")]);
    let ip = instance("s", "a")["ip"].clone();
    let server_key = json!({"regionId": instance("s", "a")["regionId"], "serverId": ip});
    let operate = |server: &Server, is_complete: bool| {
        let body = json!({
            "serverKey": server_key, "operation": "reboot", "operationComplete": is_complete,
            "operatorId": "ann", "reason": "kernel",
        });
        let reply = server.post_json("/api/management/operate-server.json", &body);
        assert_eq!(reply.outcome(), ("success", "success"), "{}", reply.text);
    };
    let rows = |server: &Server| {
        let path = "/api/management/server-operations.json";
        server.post(path, &json!({"serverKey": server_key}))["operations"]["rows"].clone()
    };
    let count = |server: &Server| server.discover("s")["instances"].as_array().map_or(0, Vec::len);
    eventually("the instance is known at both", PATIENCE, || count(&second) == 1);
    operate(&first, false);
    eventually("it is out of discovery at both", PATIENCE, || count(&second) == 0);
    assert_eq!(count(&first), 0);
    let row = rows(&first);
    assert_eq!((&row[0]["operatorId"], &row[0]["reason"]), (&json!("ann"), &json!("kernel")));
    assert_eq!(rows(&second), row, "with the same id and times");
    first.kill();
    let third = open(&redis);
    assert_eq!(rows(&third), row);
    second.register(&[instance("s", "b")]);
    assert_eq!(count(&second), 0, "one that comes to the server stays out");
    operate(&third, true);
    assert_eq!(rows(&third), json!([]));
    eventually("it is back at every node", PATIENCE, || {
        second.discover("s")["instances"]
            .as_array()
            .is_some_and(|all| all.iter().any(|one| one["instanceId"] == "b"))
    });
}
