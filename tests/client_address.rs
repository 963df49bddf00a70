//! Behind a trusted proxy a client has the address that the proxy names, wherever the server counts
//! or shows addresses; no other peer's headers count.

use std::io::Write as _;
use std::net::TcpStream;

use fanfare_test_support::{READ_PATIENCE, Reply, Server};
use serde_json::json;

const LOGIN: &str = "/api/v1/users/login";

/// Failed logins of a minute until the next is refused unread.
const FAILURES_MAX: usize = 10;

fn proxied(list: &str) -> Server {
    Server::start(&["--trusted-proxies", list])
}

/// Logs in under a name that nobody has, so that only addresses are counted.
fn fail_to_log_in(server: &Server, headers: &[(&str, &str)], number: usize) -> u16 {
    let body = json!({"username": format!("nobody-{number}"), "password": "wrong horse!"});
    let mut all = vec![("Content-Type", "application/json")];
    all.extend(headers);
    server.request("POST", LOGIN, &all, body.to_string().as_bytes()).status
}

/// The address that the list of connections shows for the only one.
fn only_remote(server: &Server) -> String {
    let reply = server.get("/api/v1/connections");
    let list = reply.body["connections"].as_array().expect("a list").clone();
    let [one] = &list[..] else { panic!("not one connection: {}", reply.text) };
    one["remote_addr"].as_str().expect("an address").to_owned()
}

#[test]
fn a_socket_is_shown_with_the_address_that_the_proxy_names() {
    for (header, value, want) in [
        ("x-forwarded-for", "198.51.100.9, 192.0.2.1", "192.0.2.1"),
        ("x-forwarded-for", "192.0.2.1, 127.0.0.3", "192.0.2.1"),
        ("forwarded", "for=\"[2001:db8::1]:4711\";proto=https", "[2001:db8::1]:4711"),
    ] {
        let server = proxied("127.0.0.0/8");
        let stream = TcpStream::connect(server.address()).expect("the server accepts");
        let client = server.connect_to("/ws", stream, &[(header, value)]).expect("let in");
        assert_eq!(only_remote(&server), want, "{header}: {value}");
        drop(client);
    }
}

/// The upgrade of a connection that carried another request before is answered elsewhere.
#[test]
fn so_is_a_socket_that_was_opened_on_a_kept_connection() {
    let server = proxied("127.0.0.1");
    let stream = TcpStream::connect(server.address()).expect("the server accepts");
    stream.set_read_timeout(Some(READ_PATIENCE)).expect("a timeout above zero");
    let head = format!("GET /health HTTP/1.1\r\nHost: {}\r\n\r\n", server.address());
    (&stream).write_all(head.as_bytes()).expect("the server reads");
    assert_eq!(Reply::read(stream.try_clone().expect("a descriptor")).status, 200);
    let from = [("x-forwarded-for", "192.0.2.1")];
    let client = server.connect_to("/ws", stream, &from).expect("let in");
    assert_eq!(only_remote(&server), "192.0.2.1");
    drop(client);
}

#[test]
fn the_word_of_others_is_not_heard() {
    for list in ["", "10.0.0.0/8"] {
        let server = proxied(list);
        let stream = TcpStream::connect(server.address()).expect("the server accepts");
        let peer = stream.local_addr().expect("an address").to_string();
        let from = [("x-forwarded-for", "192.0.2.1"), ("forwarded", "for=192.0.2.1")];
        let client = server.connect_to("/ws", stream, &from).expect("let in");
        assert_eq!(only_remote(&server), peer, "{list}");
        drop(client);
        for number in 0..FAILURES_MAX {
            let other = format!("192.0.2.{number}");
            assert_eq!(fail_to_log_in(&server, &[("X-Forwarded-For", &other)], number), 401);
        }
        assert_eq!(fail_to_log_in(&server, &[("X-Forwarded-For", "192.0.2.99")], 99), 429);
    }
}

#[test]
fn failed_logins_are_counted_where_they_come_from() {
    let server = proxied("127.0.0.1");
    for number in 0..FAILURES_MAX {
        // What stands left of the client's address is the client's invention.
        let hops = format!("203.0.113.{number}, 192.0.2.1");
        assert_eq!(fail_to_log_in(&server, &[("X-Forwarded-For", &hops)], number), 401);
    }
    let from = |value| fail_to_log_in(&server, &[("X-Forwarded-For", value)], 99);
    assert_eq!(from("192.0.2.1"), 429, "ten failures");
    assert_eq!(from("192.0.2.2"), 401, "another client of the same proxy");
    assert_eq!(fail_to_log_in(&server, &[("Forwarded", "for=192.0.2.1")], 99), 429);
    assert_eq!(fail_to_log_in(&server, &[], 99), 401, "the proxy itself");
}

#[test]
fn an_ipv6_client_is_its_64_bits() {
    let server = proxied("127.0.0.1");
    for number in 0..FAILURES_MAX {
        let from = format!("2001:db8:1:2::{number:x}");
        assert_eq!(fail_to_log_in(&server, &[("X-Forwarded-For", &from)], number), 401);
    }
    let from = |value| fail_to_log_in(&server, &[("X-Forwarded-For", value)], 99);
    assert_eq!(from("[2001:db8:1:2:ffff::1]:443"), 429);
    assert_eq!(from("2001:db8:1:3::1"), 401);
}

#[test]
fn a_list_that_cannot_be_read_is_refused_at_the_start() {
    let server = proxied("10.0.0.0/8, ::1");
    let shown = server.get("/api/status/config.json").body["trusted_proxies"].clone();
    assert_eq!(shown, json!(["10.0.0.0/8", "::1/128"]));
    let (is_good, text) =
        server.run(&["check-config", "--trusted-proxies", "10.0.0.0/8,nginx"], "");
    assert!(!is_good && text.contains("\"nginx\" is neither an address nor a network"), "{text}");
}
