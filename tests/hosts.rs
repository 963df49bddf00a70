//! A page that makes its own name point at the server (DNS rebinding) reaches nothing: the server
//! answers to its own names alone, and compares origins with those.

use fanfare_test_support::raw::{Raw, UPGRADE};
use fanfare_test_support::{Reply, SECRET, Server, token};

/// Names that a page may have, or that look like the server's own.
const FOREIGN: &[&str] = &[
    "evil.example",
    "EVIL.example:8080",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "notlocalhost",
    "evil.example@localhost",
    "localhost@evil.example",
    "192.0.2.1",
    "[2001:db8::1]:8080",
    "localhost:port",
    "::1",
    "-",
    "",
];

fn ask(server: &Server, method: &str, target: &str, headers: &str) -> Reply {
    server
        .raw(format!("{method} {target} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n").as_bytes())
}

/// The status of an upgrade, as the first request of a connection or as its second: two ways in.
fn upgrade(server: &Server, headers: &str, is_first: bool) -> u16 {
    let mut raw = Raw::connect(server.address());
    if !is_first {
        raw.send(b"HEAD /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(raw.head().starts_with("HTTP/1.1 200"));
    }
    raw.send(format!("GET /ws HTTP/1.1\r\n{headers}{UPGRADE}\r\n").as_bytes());
    let head = raw.head();
    head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status")
}

#[test]
fn no_path_answers_to_a_foreign_name() {
    let server = Server::start(&[]);
    for path in [
        "/",
        "/docs",
        "/fanfare.js",
        "/openapi.json",
        "/health",
        "/ready",
        "/metrics",
        "/nowhere",
        "/api/status/config.json",
        "/api/discovery/services.json",
        "/api/v1/connections",
        "/ws/online",
        "/ws/stats",
        "/eureka/apps",
    ] {
        let port = server.address().port();
        let headers =
            format!("Host: evil.example:{port}\r\nOrigin: http://evil.example:{port}\r\n");
        for method in ["GET", "OPTIONS"] {
            let reply = ask(&server, method, path, &headers);
            reply.expect_problem(421, "forbidden");
            assert_eq!(reply.header("access-control-allow-origin"), None, "{path}");
        }
    }
    for host in FOREIGN {
        let headers = format!("Host: {host}\r\n");
        ask(&server, "GET", "/api/status/config.json", &headers).expect_problem(421, "forbidden");
        ask(&server, "POST", "/eureka/apps/x", &headers).expect_problem(421, "forbidden");
        for is_first in [true, false] {
            assert_eq!(upgrade(&server, &headers, is_first), 421, "{host}");
        }
    }
}

#[test]
fn own_names_are_answered_whatever_the_port() {
    let server = Server::start(&[]);
    for host in [
        "localhost",
        "LocalHost:1",
        "localhost.",
        "fanfare.localhost:8080",
        "127.0.0.1",
        "127.9.9.9:80",
        "[::1]:8080",
        "[::ffff:127.0.0.1]",
    ] {
        let headers = format!("Host: {host}\r\n");
        assert_eq!(ask(&server, "GET", "/health", &headers).status, 200, "{host}");
        for is_first in [true, false] {
            assert_eq!(upgrade(&server, &headers, is_first), 101, "{host}");
        }
    }
    // No browser speaks HTTP/1.0; some probes do, and name nobody.
    assert_eq!(server.raw(b"GET /health HTTP/1.0\r\n\r\n").status, 200);
    assert_eq!(server.raw(b"GET /health HTTP/1.0\r\nHost: evil.example\r\n\r\n").status, 421);
    server.raw(b"GET /health HTTP/1.1\r\n\r\n").expect_problem(400, "malformed");
}

/// RFC 9112, 3.2.2: a target that names a host counts before `Host`. Here both do.
#[test]
fn a_host_in_the_target_counts_too() {
    let server = Server::start(&[]);
    for (target, host, status) in [
        ("http://localhost/health", "localhost", 200),
        ("http://evil.example/health", "localhost", 421),
        ("http://localhost/health", "evil.example", 421),
        ("http://localhost@evil.example/health", "localhost", 421),
    ] {
        let reply = ask(&server, "GET", target, &format!("Host: {host}\r\n"));
        assert_eq!(reply.status, status, "{target} {host}");
    }
}

/// What the server asks itself on behalf of a head that it refuses is no way around the check.
#[test]
fn the_path_of_refusals_is_no_way_in() {
    let server = Server::start(&[]);
    let foreign = ask(&server, "GET", "/.refused/400", "Host: evil.example\r\n");
    foreign.expect_problem(421, "forbidden");
    let own = ask(&server, "GET", "/.refused/400", "Host: localhost\r\n");
    own.expect_problem(404, "not_found");
    ask(&server, "GET", "/health", "Host: -\r\n").expect_problem(421, "forbidden");
}

#[test]
fn listed_names_are_answered_too() {
    let list = "fanfare.example.org, *.internal, 192.0.2.1";
    let server = Server::start(&["--allowed-hosts", list]);
    for (host, status) in [
        ("fanfare.example.org", 200),
        ("Fanfare.Example.Org.:8443", 200),
        ("a.b.internal", 200),
        ("192.0.2.1:8080", 200),
        ("localhost", 200),
        ("internal", 421),
        ("fanfare.example.org.evil.example", 421),
        ("192.0.2.2", 421),
    ] {
        let headers = format!("Host: {host}\r\n");
        assert_eq!(ask(&server, "GET", "/health", &headers).status, status, "{host}");
    }
    let port = server.address().port();
    for (origin, status) in [
        ("https://fanfare.example.org".to_owned(), 101),
        ("http://fanfare.example.org".to_owned(), 101),
        (format!("http://fanfare.example.org:{port}"), 101),
        ("https://fanfare.example.org:1".to_owned(), 403),
        ("https://evil.example".to_owned(), 403),
    ] {
        for is_first in [true, false] {
            let headers = format!("Host: fanfare.example.org\r\nOrigin: {origin}\r\n");
            assert_eq!(upgrade(&server, &headers, is_first), status, "{origin}");
        }
    }
    let (is_good, text) = server.run(&["check-config", "--allowed-hosts", "*"], "");
    assert!(!is_good && text.contains("\"*\" is not a host"), "{text}");
}

/// A server on every address is called by the one at which the connection arrived, as probes do.
#[test]
fn a_server_on_every_address_answers_to_the_one_that_was_called() {
    let server = Server::start(&["--bind", "0.0.0.0:0", "--auth", "open"]);
    let address = server.address();
    for (host, status) in [
        (format!("127.0.0.1:{}", address.port()), 200),
        ("0.0.0.0".to_owned(), 200),
        ("192.0.2.1".to_owned(), 421),
        ("evil.example".to_owned(), 421),
    ] {
        let reply = ask(&server, "GET", "/health", &format!("Host: {host}\r\n"));
        assert_eq!(reply.status, status, "{host}");
    }
}

#[test]
fn origins_are_never_compared_with_the_requests_own_host() {
    let server = Server::start(&[]);
    let port = server.address().port();
    for (origin, status) in [
        (format!("http://localhost:{port}"), 101),
        (format!("http://127.0.0.1:{port}"), 101),
        (format!("https://[::1]:{port}"), 101),
        ("http://localhost:1".to_owned(), 403),
        ("http://localhost".to_owned(), 403),
        (format!("http://evil.example:{port}"), 403),
        (format!("http://localhost:{port}@evil.example"), 403),
        (format!("http://localhost.evil.example:{port}"), 403),
        ("null".to_owned(), 403),
    ] {
        for is_first in [true, false] {
            // The port of `Host` is that of the origin: it must not matter.
            let own = origin.rsplit("//").next().unwrap_or_default();
            let host =
                if status == 403 && own.starts_with("localhost:1") { own } else { "localhost" };
            let headers = format!("Host: {host}\r\nOrigin: {origin}\r\n");
            assert_eq!(upgrade(&server, &headers, is_first), status, "{origin}");
        }
    }
}

/// Where a token is needed, a proxy may call the server by any name; a page of that name still has
/// to be known, or vouched for by the browser.
#[test]
fn behind_a_proxy_names_are_free_and_origins_are_not() {
    let flags = ["--jwt-secret", SECRET, "--auth", "required"];
    let server = Server::start(&flags);
    let bearer = format!("Authorization: Bearer {}\r\n", token("ann", "admin"));
    let from = |more: &str| format!("Host: fanfare.example.org\r\n{bearer}{more}");
    assert_eq!(ask(&server, "GET", "/health", "Host: fanfare.example.org\r\n").status, 200);
    assert_eq!(ask(&server, "GET", "/ws/online", &from("")).status, 200);
    let same = "Origin: http://fanfare.example.org\r\n";
    let vouched = format!("{same}Sec-Fetch-Site: same-origin\r\n");
    for is_first in [true, false] {
        assert_eq!(upgrade(&server, &from(""), is_first), 101);
        assert_eq!(upgrade(&server, &from(same), is_first), 403, "its own Host is no proof");
        assert_eq!(upgrade(&server, &from(&vouched), is_first), 101);
    }
    let listed = [&flags[..], &["--allowed-hosts", "fanfare.example.org"]].concat();
    let server = Server::start(&listed);
    for is_first in [true, false] {
        assert_eq!(upgrade(&server, &from(same), is_first), 101);
        assert_eq!(upgrade(&server, &format!("Host: evil.example\r\n{bearer}"), is_first), 421);
    }
    ask(&server, "GET", "/health", "Host: evil.example\r\n").expect_problem(421, "forbidden");
}
