//! Wrong passwords are counted, by name, by address and by door; no client is refused for the
//! failures of others elsewhere, and a burst of right ones is no attack.

use std::io::Write as _;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use fanfare_test_support::{Reply, Server};
use serde_json::json;

const LOGIN: &str = "/api/v1/users/login";

/// Failed logins of a minute until the next is refused unread.
const FAILURES_MAX: usize = 10;

/// Passwords are compared slowly on purpose, and by threads that yield to everything else.
const PATIENCE: Duration = Duration::from_mins(1);

/// As many at once as one office may have behind one address.
const BURST: usize = 40;

fn login(server: &Server, name: &str, password: &str, from: &str) -> Reply {
    let body = json!({"username": name, "password": password}).to_string();
    let from = if from.is_empty() { String::new() } else { format!("X-Forwarded-For: {from}\r\n") };
    let text = format!(
        "POST {LOGIN} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{from}\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(server.address()).expect("the server accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout above zero");
    stream.write_all(text.as_bytes()).expect("it is sent");
    Reply::read(stream)
}

/// A call of Eureka's with name and password.
fn call(server: &Server, name: &str, password: &str) -> Reply {
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}"));
    let basic = format!("Basic {pair}");
    server.request("GET", "/eureka/apps", &[("Authorization", basic.as_str())], b"")
}

fn server_with(names: &[&str], flags: &[&str]) -> Server {
    let server = Server::start_for_people(flags);
    for name in names {
        let (is_ok, said) = server.run(&["user", "add", name], "correct horse\n");
        assert!(is_ok, "{said}");
    }
    server
}

/// The statuses of calls that are made at once.
fn at_once(call: impl Fn(usize) -> u16 + Sync) -> Vec<u16> {
    thread::scope(|scope| {
        let call = &call;
        let all: Vec<_> = (0..BURST).map(|index| scope.spawn(move || call(index))).collect();
        all.into_iter().map(|one| one.join().expect("an answer")).collect()
    })
}

fn count(statuses: &[u16], status: u16) -> usize {
    statuses.iter().filter(|&&other| other == status).count()
}

#[test]
fn a_burst_of_right_passwords_is_answered() {
    let server = server_with(&["ann"], &[]);
    let statuses = at_once(|_| login(&server, "ann", "correct horse", "").status);
    assert_eq!(count(&statuses, 200), BURST, "{statuses:?}");
    assert_eq!(login(&server, "ann", "correct horse", "").status, 200);
}

#[test]
fn a_burst_of_wrong_ones_is_worth_ten_guesses() {
    let server = server_with(&["ann"], &[]);
    let statuses = at_once(|index| login(&server, "ann", &format!("guess-{index:05}"), "").status);
    assert_eq!(count(&statuses, 401), FAILURES_MAX, "{statuses:?}");
    assert_eq!(count(&statuses, 429), BURST - FAILURES_MAX, "{statuses:?}");
    let refused = login(&server, "ANN", "correct horse", "");
    refused.expect_problem(429, "rate_limited");
    let wait_s: u64 = refused.header("retry-after").and_then(|text| text.parse().ok()).expect("s");
    assert!((1..=60).contains(&wait_s), "{wait_s}");
}

/// Right and wrong ones together: what is right is never refused before ten have failed.
#[test]
fn few_wrong_ones_among_many_refuse_nobody() {
    let server = server_with(&["ann"], &[]);
    let statuses = at_once(|index| {
        let password = if index % 5 == 0 { "wrong horse!" } else { "correct horse" };
        login(&server, "ann", password, "").status
    });
    assert_eq!((count(&statuses, 200), count(&statuses, 401)), (32, 8), "{statuses:?}");
}

#[test]
fn names_and_addresses_count_by_themselves() {
    let server = server_with(&["ann", "bob"], &["--trusted-proxies", "127.0.0.1"]);
    for index in 0..FAILURES_MAX {
        // One name, from everywhere.
        let from = format!("192.0.2.{index}");
        assert_eq!(login(&server, "Ann", "wrong horse!", &from).status, 401);
    }
    assert_eq!(login(&server, "ann", "correct horse", "192.0.2.99").status, 429);
    assert_eq!(login(&server, "bob", "correct horse", "192.0.2.0").status, 200);
    for index in 0..FAILURES_MAX {
        // One address, every name.
        let name = format!("nobody-{index}");
        assert_eq!(login(&server, &name, "wrong horse!", "198.51.100.1").status, 401);
    }
    assert_eq!(login(&server, "bob", "correct horse", "198.51.100.1").status, 429);
    assert_eq!(login(&server, "bob", "correct horse", "198.51.100.2").status, 200);
}

#[test]
fn an_old_password_at_eureka_locks_nobody_out_of_the_login() {
    let server = server_with(&["ann", "bob"], &[]);
    for _ in 0..FAILURES_MAX {
        assert_eq!(call(&server, "ann", "wrong horse!").status, 401);
    }
    let refused = call(&server, "ann", "correct horse");
    assert_eq!(refused.status, 429, "{}", refused.text);
    assert!(refused.header("retry-after").is_some());
    assert_eq!(login(&server, "ann", "correct horse", "").status, 200);
    assert_eq!(login(&server, "bob", "correct horse", "").status, 200);
}

#[test]
fn wrong_logins_lock_nobody_out_of_eureka() {
    let server = server_with(&["ann"], &[]);
    for _ in 0..FAILURES_MAX {
        assert_eq!(login(&server, "ann", "wrong horse!", "").status, 401);
    }
    assert_eq!(login(&server, "ann", "correct horse", "").status, 429);
    assert_eq!(call(&server, "ann", "correct horse").status, 200);
}
