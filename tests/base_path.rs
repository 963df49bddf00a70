//! A server below a path of a site: everything is there, and only the probes' paths answer
//! elsewhere.

use std::process::Command;

use fanfare_test_support::raw::{Raw, UPGRADE};
use fanfare_test_support::{Server, instances};
use serde_json::json;

const BASE: &[&str] = &["--base-path", "/push", "--allowed-origins", "https://app.example.org"];

/// The status of an upgrade, as the first request of a connection or as its second: two ways in.
fn upgrade(server: &Server, path: &str, is_first: bool) -> (u16, Raw) {
    let mut raw = Raw::connect(server.address());
    if !is_first {
        raw.send(b"HEAD /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(raw.head().starts_with("HTTP/1.1 200"));
    }
    raw.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}\r\n").as_bytes());
    let head = raw.head();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.expect("a status"), raw)
}

#[test]
fn everything_is_below_the_base_path() {
    let server = Server::start(BASE);
    for path in
        ["/", "/demo", "/demo/", "/docs", "/fanfare.js", "/assets/base.js", "/assets/icon.svg"]
    {
        assert_eq!(server.get(&format!("/push{path}")).status, 200, "{path}");
        let outside = server.get(path);
        outside.expect_problem(404, "not_found");
        assert!(outside.text.contains("/push/"), "it says where: {}", outside.text);
    }
    let call = json!({"instances": instances("orders", 2)});
    let reply = server.post_json("/push/api/registry/register.json", &call);
    assert_eq!(reply.outcome().0, "success", "{}", reply.text);
    server.post_json("/api/registry/register.json", &call).expect_problem(404, "not_found");
    let found = server.get("/push/api/discovery/service.json?serviceId=orders");
    assert_eq!(found.body["service"]["instances"].as_array().map(Vec::len), Some(2));
    assert_eq!(server.get("/push/eureka/apps").status, 200);
    assert_eq!(server.get("/eureka/apps").status, 404);
    assert_eq!(server.get("/push/push/health").status, 404, "it is stripped once");
    let about = server.get("/push/openapi.json").body;
    assert_eq!(about["servers"], json!([{"url": "/push"}]));
    assert!(about["paths"]["/ws/online"].is_object(), "the rest is as ever");
    assert_eq!(server.get("/push/api/status/config.json").body["base_path"], "/push/");
}

#[test]
fn probes_find_it_at_the_root_as_well() {
    let server = Server::start(BASE);
    for path in ["/health", "/ready", "/metrics"] {
        assert_eq!(server.get(path).status, 200, "{path}");
        assert_eq!(server.get(&format!("/push{path}")).status, 200, "{path}");
    }
}

#[test]
fn the_base_path_without_its_slash_leads_there() {
    let server = Server::start(BASE);
    for method in ["GET", "HEAD"] {
        let reply = server.request(method, "/push?x=1", &[], b"");
        assert_eq!((reply.status, reply.header("location")), (308, Some("push/")));
    }
    server.request("POST", "/push", &[], b"").expect_problem(404, "not_found");
    assert_eq!(server.get("/pushing").status, 404);
}

#[test]
fn sockets_are_below_it_too() {
    let server = Server::start(BASE);
    for is_first in [true, false] {
        for (path, status) in [
            ("/push/ws", 101),
            ("/push/ws/echo", 101),
            ("/ws", 404),
            ("/ws/news", 404),
            ("/push", 308),
            ("/push/push/ws", 404),
        ] {
            assert_eq!(upgrade(&server, path, is_first).0, status, "{path}");
        }
        let (status, mut raw) = upgrade(&server, "/push/ws/chat:room1", is_first);
        assert_eq!(status, 101);
        let welcome = raw.frame().expect("a welcome").payload;
        assert!(welcome.starts_with(br#"{"type":"welcome""#));
        let subscribed = String::from_utf8(raw.frame().expect("an answer").payload);
        assert!(subscribed.expect("text").contains(r#""channel":"chat:room1""#));
    }
    // A token in the query counts on paths of sockets, and those begin below.
    assert_eq!(server.get("/push/ws/online?token=nonsense").status, 401);
}

#[test]
fn other_origins_are_judged_as_ever() {
    let server = Server::start(BASE);
    let ask = |method: &str, path: &str, origin: &str| {
        let headers = [("Origin", origin), ("Access-Control-Request-Method", "POST")];
        server.request(method, path, &headers, b"")
    };
    let path = "/push/api/registry/register.json";
    let reply = ask("OPTIONS", path, "https://app.example.org");
    assert_eq!((reply.status, reply.header("access-control-allow-methods")), (204, Some("POST")));
    ask("OPTIONS", path, "https://evil.example").expect_problem(403, "forbidden");
    ask("POST", path, "https://evil.example").expect_problem(403, "forbidden");
    let console = ask("GET", "/push/", "https://app.example.org");
    assert_eq!(console.header("access-control-allow-origin"), None);
    let library = ask("GET", "/push/fanfare.js", "https://app.example.org");
    assert_eq!(library.header("access-control-allow-origin"), Some("https://app.example.org"));
    let foreign = "GET /elsewhere HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    server.raw(foreign.as_bytes()).expect_problem(421, "forbidden");
}

#[test]
fn the_command_line_finds_it() {
    let server = Server::start(BASE);
    let call = json!({"instances": instances("orders", 3)});
    assert_eq!(server.post_json("/push/api/registry/register.json", &call).status, 200);
    let address = server.address().to_string();
    let url = format!("http://{address}/push");
    for place in
        [&["--url", url.as_str()][..], &["--bind", address.as_str(), "--base-path", "push"]]
    {
        let run = |place: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
            command.arg("services").args(place).current_dir(server.dir()).env("RUST_LOG", "error");
            command.output().expect("the binary starts")
        };
        let output = run(place);
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        if place[0] == "--bind" {
            assert_eq!(output.status.code(), Some(2), "no slash, no path: {text}");
            assert!(text.contains("--base-path") && text.contains("/push"), "{text}");
            let place = ["--bind", address.as_str(), "--base-path", "/push/"];
            assert!(String::from_utf8_lossy(&run(&place).stdout).contains("orders"));
        } else {
            assert!(text.contains("orders"), "{text}");
        }
    }
}
