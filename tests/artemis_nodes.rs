//! How Artemis' clients find nodes, and how they are let in where tokens are required: a token as the first
//! part of every path, or an address that needs none.

use std::time::Duration;

use fanfare_test_support::artemis::{ArtemisClient, Settings, artemis_instance as instance};
use fanfare_test_support::raw::{Raw, text};
use fanfare_test_support::{Server, eventually, token};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(20);
const NODES: &str = "/api/cluster/up-registry-nodes.json";

fn urls(answer: &Value) -> Vec<&str> {
    let nodes = answer["nodes"].as_array().into_iter().flatten();
    nodes.filter_map(|node| node["url"].as_str()).collect()
}

#[test]
fn a_single_node_is_the_one_that_was_called() {
    let server = Server::start(&[]);
    let zone = json!({"regionId": "SHA", "zoneId": "jqsha"});
    for path in [NODES, "/api/cluster/up-discovery-nodes.json", "/api/cluster/up-registry-nodes"] {
        let answer = server.post(path, &zone);
        assert_eq!(urls(&answer), [format!("http://{}", server.address())]);
        let zone_of = &answer["nodes"][0]["zone"];
        assert_eq!((&zone_of["regionId"], &zone_of["zoneId"]), (&json!("SHA"), &json!("jqsha")));
        assert_eq!(answer["responseStatus"]["status"], "success");
    }
    // Fields may be missing, and other bodies are refused as everywhere.
    assert_eq!(urls(&server.post(NODES, &json!({}))).len(), 1);
    assert_eq!(server.get(NODES).status, 405);
    assert_eq!(server.post_json(NODES, &json!({"regionId": 7})).outcome(), ("fail", "bad-request"));
    assert_eq!(server.post_json(NODES, &json!([])).status, 400);
}

#[test]
fn a_node_may_advertise_another_address() {
    let flags = ["--advertise-url", "http://fanfare.example:81/push/", "--base-path", "/push"];
    let server = Server::start(&flags);
    let answer = server.post(&format!("/push{NODES}"), &json!({}));
    assert_eq!(urls(&answer), ["http://fanfare.example:81/push"]);
    let node = server.get("/push/api/status/node.json").body;
    assert_eq!(node["url"], "http://fanfare.example:81/push");
    let config = server.get("/push/api/status/config.json").body;
    assert_eq!(config["advertise_url"], "http://fanfare.example:81/push");
    for wrong in ["fanfare.example", "ftp://x", "http://", "http://a?b", "http://u:p@h"] {
        let (status, said) = fanfare_test_support::nodes::refused(&["--advertise-url", wrong]);
        assert_eq!(status.code(), Some(2), "{wrong}");
        assert!(said.contains("advertise-url"), "{said}");
    }
}

#[test]
fn status_pages_of_artemis_answer_with_and_without_a_body() {
    let server = Server::start(&[]);
    for path in [
        "/api/status/node.json",
        "/api/status/cluster.json",
        "/api/status/leases.json",
        "/api/status/legacy-leases.json",
        "/api/status/config.json",
        "/api/status/deployment.json",
        "/api/status/message/connections.json",
        "/api/status/websocket/connection.json",
    ] {
        assert_eq!(server.get(path).status, 200, "{path}");
        let reply = server.post_json(path, &json!({"regionId": "SHA"}));
        assert_eq!(reply.status, 200, "{path}: {}", reply.text);
    }
    assert_eq!(server.get("/api/status/legacy-leases.json").body["leaseCount"], 0);
    let deployment = server.get("/api/status/deployment.json").body;
    assert_eq!(deployment["port"], server.address().port());
    assert_eq!(deployment["responseStatus"]["status"], "success");
}

fn upgrade(server: &Server, path: &str) -> u16 {
    let mut raw = Raw::connect(server.address());
    raw.send(
        format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\n{}\r\n",
            server.address(),
            fanfare_test_support::raw::UPGRADE
        )
        .as_bytes(),
    );
    raw.head()[9..12].parse().expect("a status")
}

const HEARTBEAT: &str = "/ws/registry/heartbeat";
const CHANGES: &str = "/websocket/discovery/instance-change";

#[test]
fn where_tokens_are_required_the_path_carries_one() {
    let server = Server::start_for_people(&["--auth", "required"]);
    let (writer, reader) = (token("fleet", "registry:write"), token("reader", "registry:read"));
    let (nobody, wrong) = (token("nobody", ""), format!("{writer}x"));
    let register = json!({"instances": [instance("s", "i")]});
    let lookup = json!({"discoveryConfigs": [{"serviceId": "s"}]});
    let post = |prefix: &str, path: &str, body: &Value| {
        server.post_json(&format!("{prefix}{path}"), body).status
    };
    for (token, may_write, may_read) in [
        (Some(&writer), 200, 200),
        (Some(&reader), 403, 200),
        (Some(&nobody), 403, 403),
        (Some(&wrong), 401, 401),
        (None, 401, 401),
    ] {
        let prefix = token.map(|token| format!("/t/{token}")).unwrap_or_default();
        assert_eq!(post(&prefix, "/api/registry/register.json", &register), may_write);
        assert_eq!(post(&prefix, "/api/discovery/lookup.json", &lookup), may_read);
        assert_eq!(post(&prefix, NODES, &json!({})), may_read);
        let socket = |status| if status == 200 { 101 } else { status };
        assert_eq!(upgrade(&server, &format!("{prefix}{HEARTBEAT}")), socket(may_write));
        assert_eq!(upgrade(&server, &format!("{prefix}{CHANGES}")), socket(may_read));
    }
    // The addresses that a client is told of carry its token again.
    let answer = server.post(&format!("/t/{writer}{NODES}"), &json!({}));
    assert_eq!(urls(&answer), [format!("http://{}/t/{writer}", server.address())]);
    // Nothing else takes a token there, and two tokens have to be one.
    for path in ["/ws", "/ws/online", "/api/v1/connections", "/eureka/apps", "/health"] {
        assert_eq!(server.get(&format!("/t/{writer}{path}")).status, 404, "{path}");
    }
    let bearer = format!("Bearer {reader}");
    let headers = [("Authorization", &*bearer), ("Content-Type", "application/json")];
    let path = format!("/t/{writer}/api/discovery/lookup.json");
    assert_eq!(server.request("POST", &path, &headers, lookup.to_string().as_bytes()).status, 400);
    // A whole client, with nothing but a base URL; more sockets than a user may have.
    let base = format!("http://{}/t/{writer}", server.address());
    let clients: Vec<ArtemisClient> =
        (0..10).map(|_| ArtemisClient::start(&base, Settings::fast())).collect();
    for (n, client) in clients.iter().enumerate() {
        client.follow("fleet");
        client.register(&instance("fleet", &format!("i{n}")));
    }
    eventually("each sees all", PATIENCE, || {
        clients.iter().all(|client| client.instances("fleet").len() == clients.len())
    });
    let signature = writer.rsplit('.').next().expect("a token has parts");
    assert!(!server.log().contains(signature), "a token is in the log");
}

#[test]
fn addresses_of_a_network_need_no_token() {
    let flags = ["--auth", "required", "--artemis-networks", "10.0.0.0/8,127.0.0.1"];
    let server = Server::start_for_people(&flags);
    server.register(&[instance("s", "i")]);
    assert_eq!(urls(&server.post(NODES, &json!({}))).len(), 1);
    let mut raw = Raw::open(server.address(), HEARTBEAT);
    raw.send(&text(&json!({"instances": [instance("s", "i")]}).to_string()));
    assert_eq!(raw.json()["responseStatus"]["status"], "success");
    assert_eq!(upgrade(&server, CHANGES), 101);
    // Only for what Artemis' clients call, and no licence for a wrong token.
    for path in ["/api/v1/connections", "/ws/online", "/api/status/leases.json"] {
        assert_eq!(server.get(path).status, 401, "{path}");
    }
    assert_eq!(upgrade(&server, "/ws"), 401);
    assert_eq!(server.operate(&instance("s", "i"), false).status, 401);
    assert_eq!(upgrade(&server, &format!("/t/wrong{HEARTBEAT}")), 401);
    let flags = ["--auth", "required", "--artemis-networks", "10.0.0.0/8"];
    let other = Server::start_for_people(&flags);
    assert_eq!(other.post_json(NODES, &json!({})).status, 401);
    assert_eq!(upgrade(&other, HEARTBEAT), 401);
    // Behind a trusted proxy the client's address counts.
    let flags = [&flags[..], &["--trusted-proxies", "127.0.0.1"]].concat();
    let behind = Server::start_for_people(&flags);
    let headers = |address| [("X-Forwarded-For", address), ("Content-Type", "application/json")];
    assert_eq!(behind.request("POST", NODES, &headers("10.1.2.3"), b"{}").status, 200);
    assert_eq!(behind.request("POST", NODES, &headers("192.0.2.1"), b"{}").status, 401);
}

/// A token that ends closes the sockets that were opened with it.
#[test]
fn a_token_that_ends_ends_its_sockets() {
    let server = Server::start_for_people(&["--auth", "required"]);
    let short = fanfare_test_support::token_for("fleet", "fleet", 2, "registry:write");
    let mut raw = Raw::open(server.address(), &format!("/t/{short}{HEARTBEAT}"));
    // Nothing comes before the close frame.
    assert_eq!(
        raw.frame().map(|frame| (frame.opcode, frame.payload[..2].to_vec())),
        Some((8, 4_401_u16.to_be_bytes().to_vec()))
    );
}
