//! The HTTP calls that Artemis' clients make, as they make them: packed bodies, headers given twice, and what
//! a refusal says of its connection.

use std::io::Write as _;

use fanfare_test_support::raw::Raw;
use fanfare_test_support::{Server, instance, instances};
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use serde_json::{Value, json};

const JSON: (&str, &str) = ("Content-Type", "application/json");

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(text).expect("memory");
    packer.finish().expect("memory")
}

/// Every way to pack a body, by the name that goes with it.
fn packed(text: &[u8]) -> [(&'static str, Vec<u8>); 6] {
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
    zlib.write_all(text).expect("memory");
    let mut bare = DeflateEncoder::new(Vec::new(), Compression::fast());
    bare.write_all(text).expect("memory");
    [
        ("gzip", gzip(text)),
        ("x-gzip", gzip(text)),
        ("GZIP", gzip(text)),
        ("deflate", zlib.finish().expect("memory")),
        ("deflate", bare.finish().expect("memory")),
        ("identity", text.to_vec()),
    ]
}

#[test]
fn every_json_endpoint_takes_packed_bodies() {
    let server = Server::start(&["--registration", "open"]);
    server.register(&[instance("s", "i")]);
    let register = json!({"instances": [instance("s", "i")]});
    let channel = json!({"name": "c", "description": "d"});
    for (path, body, status) in [
        ("/api/registry/register.json", register.clone(), 200),
        ("/api/registry/heartbeat.json", register.clone(), 200),
        ("/api/discovery/service.json", json!({"discoveryConfig": {"serviceId": "s"}}), 200),
        ("/api/discovery/services.json", json!({}), 200),
        ("/api/discovery/lookup", json!({"discoveryConfigs": [{"serviceId": "s"}]}), 200),
        ("/api/management/services/s/self-protection", json!({"enabled": true}), 200),
        ("/ws/broadcast", json!({"message_type": "text", "data": {"content": "c"}}), 200),
        ("/api/v1/dashboards/d/metrics", json!({"m": 1}), 200),
        ("/api/registry/unregister.json", register, 200),
    ] {
        for (encoding, body) in packed(body.to_string().as_bytes()) {
            let headers = [JSON, ("Content-Encoding", encoding)];
            let reply = server.request("POST", path, &headers, &body);
            assert_eq!(reply.status, status, "{path} {encoding}: {}", reply.text);
        }
    }
    let (encoding, body) = &packed(channel.to_string().as_bytes())[0];
    let headers = [JSON, ("Content-Encoding", encoding)];
    assert_eq!(server.request("POST", "/api/v1/channels", &headers, body).status, 201);
}

#[test]
fn the_bound_of_a_body_holds_for_its_inflated_size() {
    let flags = ["--http-registry-body-bytes-max", "64KiB", "--http-body-bytes-max", "4KiB"];
    let server = Server::start(&flags);
    let body = |bytes: usize| {
        let text = json!({"instances": [instance("s", "i")], "filler": ""}).to_string();
        text.replace(
            "\"filler\":\"\"",
            &format!("\"filler\":\"{}\"", "x".repeat(bytes - text.len())),
        )
    };
    for (encoding, at_bound) in packed(body(64 * 1024).as_bytes()) {
        let headers = [JSON, ("Content-Encoding", encoding)];
        let reply = server.request("POST", "/api/registry/register.json", &headers, &at_bound);
        assert_eq!(reply.outcome(), ("success", "success"), "{encoding}: {}", reply.text);
    }
    for (encoding, beyond) in packed(body(64 * 1024 + 1).as_bytes()) {
        let headers = [JSON, ("Content-Encoding", encoding)];
        let reply = server.request("POST", "/api/registry/register.json", &headers, &beyond);
        reply.expect_problem(413, "too_large");
    }
    // 64 MiB of blanks in 64 KiB.
    let bomb = gzip(&vec![b' '; 64 * 1024 * 1024]);
    for path in ["/api/registry/register.json", "/api/discovery/lookup.json"] {
        let reply = server.request("POST", path, &[JSON, ("Content-Encoding", "gzip")], &bomb);
        reply.expect_problem(413, "too_large");
    }
    // Nothing of it is kept.
    let page = server.get("/metrics").text;
    let held = page.lines().filter(|line| line.starts_with("fanfare_http_unfinished_body_bytes{"));
    let held: Vec<&str> = held.filter(|line| !line.ends_with(" 0")).collect();
    assert_eq!(held, Vec::<&str>::new());
}

#[test]
fn a_body_that_is_not_what_it_says_is_refused() {
    let server = Server::start(&[]);
    let text = json!({"instances": instances("s", 40)}).to_string();
    let whole = gzip(text.as_bytes());
    let path = "/api/registry/register.json";
    for body in [&whole[..1], &whole[..10], &whole[..whole.len() - 1], b"{}", text.as_bytes()] {
        let reply = server.request("POST", path, &[JSON, ("Content-Encoding", "gzip")], body);
        reply.expect_problem(400, "malformed");
    }
    let more = [&whole[..], b"{}"].concat();
    let reply = server.request("POST", path, &[JSON, ("Content-Encoding", "gzip")], &more);
    reply.expect_problem(400, "malformed");
    let reply = server.request("POST", path, &[JSON, ("Content-Encoding", "gzip")], &gzip(b"[]"));
    reply.expect_problem(400, "malformed");
    for encoding in ["br", "zstd", "compress", "gzip, gzip", "gzip, deflate", "nonsense"] {
        let reply = server.request("POST", path, &[JSON, ("Content-Encoding", encoding)], &whole);
        reply.expect_problem(415, "invalid_argument");
        assert_eq!(reply.header("accept-encoding"), Some("gzip, deflate"), "{encoding}");
    }
    assert_eq!(server.discover("s")["revision"], 0, "nothing of all that was registered");
}

/// The head of a request of the Java client, whose library gives some headers twice.
fn java_head(path: &str, address: std::net::SocketAddr, more: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nContent-Type: application/json\r\nAccept: application/json\r\n\
         Content-Type: application/json\r\nAccept: application/json\r\n{more}\
         Transfer-Encoding: chunked\r\nHost: {address}\r\nConnection: Keep-Alive\r\n\
         User-Agent: Apache-HttpClient/4.5.2 (Java/17)\r\nAccept-Encoding: gzip,deflate\r\n\r\n"
    )
}

/// Its chunks: the head of the gzip stream, the rest, the end.
fn java_body(body: &Value) -> Vec<u8> {
    let packed = gzip(body.to_string().as_bytes());
    let (head, rest) = packed.split_at(10);
    let chunk =
        |bytes: &[u8]| [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
    [chunk(head), chunk(rest), b"0\r\n\r\n".to_vec()].concat()
}

#[test]
fn the_java_clients_requests_pass_one_after_the_other() {
    let server = Server::start(&[]);
    let mut raw = Raw::connect(server.address());
    let register = java_body(&json!({"instances": [instance("s", "i")]}));
    for encoding in
        ["Content-Encoding: gzip\r\n", "Content-Encoding: gzip\r\nContent-Encoding: gzip\r\n"]
    {
        let head = java_head("/api/registry/register.json", server.address(), encoding);
        raw.send(head.as_bytes());
        raw.send(&register);
        let (status, head, body) = raw.response();
        assert_eq!(status, 200, "{head}");
        assert!(!head.to_ascii_lowercase().contains("connection: close"), "{head}");
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(body["responseStatus"]["status"], "success");
    }
    let differing = "Content-Encoding: gzip\r\nContent-Type: text/plain\r\n";
    let head = java_head("/api/registry/register.json", server.address(), differing);
    raw.send(head.as_bytes());
    raw.send(&register);
    assert_eq!(raw.response().0, 400);
}

/// A refusal that comes before the body has been read ends the connection, and says so: the client would
/// send its next request on it otherwise, and fail once more.
#[test]
fn a_refusal_before_the_body_says_that_it_closes() {
    let server = Server::start_for_people(&["--auth", "required"]);
    let token = fanfare_test_support::token("ann", "");
    let bearer = format!("Authorization: Bearer {token}\r\n");
    let gzip = "Content-Encoding: gzip\r\n";
    for (path, more, status) in [
        ("/api/registry/register.json", String::from(gzip), 401),
        ("/api/registry/register.json", format!("{gzip}{bearer}"), 403),
        ("/nowhere.json", format!("{gzip}{bearer}"), 404),
        ("/api/v1/users/me", format!("{gzip}{bearer}"), 405),
        ("/eureka/apps/a", String::from(gzip), 401),
        ("/api/discovery/lookup.json", format!("Content-Encoding: br\r\n{bearer}"), 403),
    ] {
        let mut raw = Raw::connect(server.address());
        raw.send(java_head(path, server.address(), &more).as_bytes());
        let (got, head, _) = raw.response();
        assert_eq!(got, status, "{path}: {head}");
        assert!(head.to_ascii_lowercase().contains("connection: close"), "{path}: {head}");
        raw.try_send(&java_body(&json!({})));
        raw.wait_for_end();
    }
}

#[test]
fn lookup_answers_one_service_for_each_name_and_passes_over_nulls() {
    let server = Server::start(&[]);
    server.register(&[instance("known", "i")]);
    let reply = server.post_json(
        "/api/discovery/lookup.json",
        &json!({"regionId": "SHA", "zoneId": "jqsha", "discoveryConfigs": [
            null,
            {"discoveryData": null, "regionId": null, "serviceId": "Known", "zoneId": null},
            null,
            {"serviceId": "never-seen"},
        ]}),
    );
    assert_eq!(reply.outcome(), ("success", "success"), "{}", reply.text);
    let services = reply.body["services"].as_array().expect("a list");
    let counts = services.iter().map(|service| {
        let count = service["instances"].as_array().expect("a list").len();
        (service["serviceId"].as_str().expect("a name"), count)
    });
    assert_eq!(counts.collect::<Vec<_>>(), [("known", 1), ("never-seen", 0)]);
    let nothing = json!({"discoveryConfigs": [null]});
    let reply = server.post_json("/api/discovery/lookup.json", &nothing);
    assert_eq!(reply.outcome(), ("success", "success"));
    assert_eq!(reply.body["services"], json!([]));
    let one = json!({"discoveryConfig": {"serviceId": "never-seen"}, "regionId": "SHA"});
    let reply = server.post_json("/api/discovery/service.json", &one);
    assert_eq!(reply.outcome(), ("success", "success"));
    assert_eq!(reply.body["service"]["instances"], json!([]));
}
