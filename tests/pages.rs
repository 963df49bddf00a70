//! The pages in the binary: packed, cached, free of foreign content, and open to all.

use fanfare_test_support as support;
use fanfare_test_support::Server;
use serde_json::Value;

#[test]
fn pages_are_open_and_shut_out_what_is_foreign() {
    let server = Server::start_for_people(&["--auth", "required"]);
    for path in ["/", "/demo", "/docs", "/demo/", "/docs/"] {
        let reply = server.get(path);
        assert_eq!(reply.status, 200, "{path}");
        assert_eq!(reply.header("content-type"), Some("text/html; charset=utf-8"));
        let policy = reply.header("content-security-policy").expect("a policy");
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        assert!(!reply.text.contains("http://") && !reply.text.contains("https://"), "{path}");
    }
    let script = server.get("/fanfare.js");
    assert_eq!(script.header("content-type"), Some("text/javascript; charset=utf-8"));
    server.request("POST", "/", &[], b"").expect_problem(405, "invalid_argument");
    // Browsers ask for the icon whatever a page says.
    let ask = |request: &str| {
        let stream = std::net::TcpStream::connect(server.address()).expect("the server accepts");
        fetch(stream, request, "Accept: */*")
    };
    for (path, kind) in [
        ("/", "text/html"),
        ("/demo", "text/html"),
        ("/demo/", "text/html"),
        ("/docs/", "text/html"),
        ("/fanfare.js", "text/javascript"),
        ("/favicon.ico", "image/x-icon"),
    ] {
        let (head, body) = ask(&format!("HEAD {path}"));
        assert!(head.starts_with("http/1.1 200") && body.is_empty(), "{path}: {head}");
        assert!(head.contains(&format!("content-type: {kind}")), "{path}: {head}");
        let length = format!("content-length: {}\r\n", ask(&format!("GET {path}")).1.len());
        assert!(head.contains(&length), "{path}: {head}");
    }
    assert!(ask("GET /favicon.ico").1.starts_with(&[0, 0, 1, 0]), "an icon");
    server.get("/assets/none.js").expect_problem(404, "not_found");
}

/// The pages work below any prefix, so none of their references begins at the root; and each of them
/// leads somewhere from where the page is.
#[test]
fn references_are_relative_and_lead_somewhere() {
    let server = Server::start(&[]);
    for (path, dir) in
        [("/", "/"), ("/demo", "/"), ("/docs", "/"), ("/demo/", "/demo/"), ("/docs/", "/docs/")]
    {
        let text = server.get(path).text;
        let mut count = 0;
        for piece in text.split(" href=\"").chain(text.split(" src=\"")).skip(1) {
            let Some(reference) = piece.split('"').next().filter(|one| !one.contains('<')) else {
                continue;
            };
            assert!(!reference.starts_with('/'), "{path}: {reference}");
            if reference.starts_with('#') {
                continue;
            }
            let target = match reference.strip_prefix("../") {
                Some(rest) if dir != "/" => format!("/{rest}"),
                _ => format!("{dir}{reference}"),
            };
            let target = target.replace("/./", "/");
            assert_eq!(server.get(&target).status, 200, "{path}: {reference} is {target}");
            count += 1;
        }
        assert!(count >= 8, "{path} has {count} references");
    }
    for script in ["/assets/base.js", "/assets/console.js", "/assets/demo.js", "/assets/docs.js"] {
        let text = server.get(script).text;
        for from_root in ["from \"/", "fetch(\"/", "fetch(`/"] {
            assert!(!text.contains(from_root), "{script}: {from_root}");
        }
    }
}

#[test]
fn a_browser_that_has_a_page_is_told_so() {
    let server = Server::start(&[]);
    let first = server.get("/");
    let tag = first.header("etag").expect("a tag").to_owned();
    for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}")] {
        let again = server.request("GET", "/", &[("If-None-Match", &known)], b"");
        assert_eq!((again.status, again.text.as_str()), (304, ""), "{known}");
        assert_eq!(again.header("etag"), Some(tag.as_str()));
    }
    assert_eq!(server.request("GET", "/", &[("If-None-Match", "\"other\"")], b"").status, 200);
}

#[test]
fn packed_forms_are_smaller_and_named() {
    let server = Server::start(&[]);
    let plain = server.get("/fanfare.js").text.len();
    for encoding in ["br", "gzip"] {
        let stream = std::net::TcpStream::connect(server.address()).expect("the server accepts");
        let (head, body) =
            fetch(stream, "GET /fanfare.js", &format!("Accept-Encoding: {encoding}"));
        assert!(head.contains(&format!("content-encoding: {encoding}\r\n")), "{head}");
        assert!(head.contains("vary: accept-encoding\r\n"), "{head}");
        assert!(body.len() < plain / 2, "{} of {plain} bytes", body.len());
    }
}

fn fetch(mut stream: std::net::TcpStream, request: &str, header: &str) -> (String, Vec<u8>) {
    use std::io::{Read as _, Write as _};
    let request =
        format!("{request} HTTP/1.1\r\nHost: localhost\r\n{header}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it is sent");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("an answer");
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    let body = bytes.split_off(end);
    (String::from_utf8(bytes).expect("text").to_ascii_lowercase(), body)
}

#[test]
fn the_counters_come_each_second_to_who_follows_them() {
    let server = Server::start_for_people(&[]);
    let mut client = server.connect();
    client.send_json(&serde_json::json!({"type": "subscribe", "channel": "$stats"}));
    client.find_type("subscribed");
    let mut offsets = Vec::new();
    for _ in 0..2 {
        let frame = client.find("counters", |frame| frame["event"] == "stats");
        assert_eq!(frame["channel"], "$stats");
        assert_eq!(frame["payload"]["connections"], 1, "{frame}");
        assert!(frame["payload"]["shards"].is_array(), "{frame}");
        offsets.push(frame["offset"].as_u64().expect("an offset"));
    }
    assert_eq!(offsets[1], offsets[0] + 1);
    let history = server.get("/api/v1/channels/%24stats/history");
    assert!(history.body["messages"].as_array().is_some_and(|list| list.len() >= 2));
    // It is the server's own.
    client.send_json(&serde_json::json!({"type": "publish", "channel": "$stats", "payload": 1}));
    let refusal = client.find("a refusal", |frame| frame["type"] == "error");
    assert_eq!(refusal["code"], "forbidden", "no token would help");
    let mut admin = server.connect_with(&support::token("ann", "admin"));
    admin.send_json(&serde_json::json!({"type": "publish", "channel": "$stats", "payload": 1}));
    assert_eq!(admin.find_type("error")["code"], "forbidden");
}

/// Paths and methods that the router knows, read from its source: what is not described there is
/// not found by anyone who reads the description.
#[test]
fn the_description_has_every_path() {
    let server = Server::start_for_people(&["--auth", "required"]);
    let reply = server.get("/openapi.json");
    assert_eq!(reply.status, 200);
    let paths = reply.body["paths"].as_object().expect("paths");
    let source = include_str!("../src/http/routes.rs");
    let mut described: Vec<&str> = Vec::new();
    for path in paths.keys() {
        described.extend(path.split('/').filter(|part| !part.is_empty() && !part.starts_with('{')));
    }
    let described: Vec<String> =
        described.into_iter().map(|part| part.trim_end_matches(".json").to_owned()).collect();
    let table = source.split("impl<'a> Route<'a>").nth(1).expect("the table");
    let table = table.split("const fn methods").next().expect("its end");
    for literal in table.split('"').skip(1).step_by(2) {
        for part in literal.split('/').filter(|part| !part.is_empty() && *part != ".json") {
            let part = part.trim_end_matches(".json");
            assert!(described.iter().any(|known| known == part), "{part} is described nowhere");
        }
    }
    // And each method that a path takes.
    for (path, item) in paths {
        let sample: Vec<&str> =
            path.split('/').map(|part| if part.starts_with('{') { "x" } else { part }).collect();
        let refused = server.request("PATCH", &sample.join("/"), &[], b"");
        assert_eq!(refused.status, 405, "{path}");
        for method in refused.header("allow").expect("Allow").split(", ") {
            let is_described = item.get(method.to_ascii_lowercase()).is_some();
            assert!(is_described || method == "HEAD", "{method} {path}");
        }
    }
    assert_eq!(reply.body["paths"]["/ws/send"]["post"]["x-scope"], Value::from("publish"));
}
