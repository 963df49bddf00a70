//! One client cannot take what all share: connections, kept connections, room for bodies, accounts,
//! and the threads that hash passwords.

#![allow(clippy::disallowed_methods, reason = "a test process has the clock of the wall")]

use fanfare_test_support as support;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use fanfare_test_support::raw::{Raw, UPGRADE};
use fanfare_test_support::{Server, eventually};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

const REGISTER: &str = "/api/v1/users/register";
const LOGIN: &str = "/api/v1/users/login";
const PATIENCE: Duration = Duration::from_secs(20);

/// Connects from an address of its own: all of 127.0.0.0/8 is here.
fn connect_from(last: u8, server: &Server) -> Raw {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let own = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)), 0);
    socket.bind(&own.into()).expect("loopback is large");
    socket.connect(&server.address().into()).expect("the server listens");
    Raw::of(socket.into())
}

fn upgrade(headers: &str) -> Vec<u8> {
    format!("GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}{UPGRADE}\r\n").into_bytes()
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").into_bytes()
}

fn post(path: &str, headers: &str, length: usize) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n\
         {headers}Content-Length: {length}\r\n\r\n"
    );
    head.into_bytes()
}

/// Expects a refusal that says when to come again.
fn expect_refusal(raw: &mut Raw, status: u16, code: &str) {
    let (found, head, body) = raw.response();
    assert_eq!(found, status, "{head}");
    assert!(head.to_lowercase().contains("\r\nretry-after: "), "{head}");
    let problem: Value = serde_json::from_slice(&body).expect("a problem");
    assert_eq!(problem["code"], code, "{problem}");
}

#[test]
fn an_address_has_so_many_connections() {
    let server = Server::start(&["--connections-per-address-max", "3"]);
    let mut open: Vec<Raw> = (0..3).map(|_| connect_from(1, &server)).collect();
    for raw in &mut open[..2] {
        raw.send(&upgrade(""));
        assert!(raw.head().starts_with("HTTP/1.1 101"));
    }
    open[2].send(&get("/health"));
    assert_eq!(open[2].response().0, 200);
    let mut surplus = connect_from(1, &server);
    expect_refusal(&mut surplus, 503, "unavailable");
    surplus.wait_for_end();
    // Another address has room of its own, and this one once something has ended.
    let mut other = connect_from(2, &server);
    other.send(&get("/health"));
    assert_eq!(other.response().0, 200);
    open.pop();
    eventually("room again", PATIENCE, || {
        let mut raw = connect_from(1, &server);
        // A refusal comes unasked, and may end the connection first.
        raw.try_send(&get("/health")) && raw.response().0 == 200
    });
}

#[test]
fn thousands_of_refused_connections_do_not_take_the_descriptors() {
    let server = Server::start(&["--connections-per-address-max", "1"]);
    let mut first = connect_from(1, &server);
    first.send(&upgrade(""));
    assert!(first.head().starts_with("HTTP/1.1 101"));
    let before = server.open_descriptors();
    let refused: Vec<Raw> = (0..300).map(|_| connect_from(1, &server)).collect();
    let mut other = connect_from(2, &server);
    other.send(&get("/health"));
    assert_eq!(other.response().0, 200);
    let held = server.open_descriptors() - before;
    assert!(held < 64, "{held} descriptors");
    drop(refused);
}

#[test]
fn clients_behind_a_proxy_are_counted_one_by_one() {
    let flags = ["--connections-per-address-max", "2", "--trusted-proxies", "127.0.0.1"];
    let server = Server::start(&flags);
    let client = |address: &str| {
        let mut raw = connect_from(1, &server);
        raw.send(&upgrade(&format!("X-Forwarded-For: {address}\r\n")));
        raw
    };
    let is_open = |raw: &mut Raw| raw.head().starts_with("HTTP/1.1 101");
    let mut theirs: Vec<Raw> = (0..2).map(|_| client("203.0.113.1")).collect();
    assert!(theirs.iter_mut().all(is_open));
    expect_refusal(&mut client("203.0.113.1"), 503, "unavailable");
    assert!(is_open(&mut client("203.0.113.2")));
    // A prefix of IPv6 is one client.
    let mut prefix: Vec<Raw> =
        ["2001:db8::1", "2001:db8::2:1"].iter().map(|address| client(address)).collect();
    assert!(prefix.iter_mut().all(is_open));
    expect_refusal(&mut client("2001:db8::3"), 503, "unavailable");
    theirs.pop();
    eventually("room again", PATIENCE, || is_open(&mut client("203.0.113.1")));
}

#[test]
fn a_kept_connection_gives_way_to_a_new_one() {
    let server = Server::start(&["--connections-max", "4", "--shards", "2"]);
    let ask = get("/health");
    let mut kept: Vec<Raw> = Vec::new();
    for _ in 0..4 {
        let mut raw = Raw::connect(server.address());
        raw.send(&ask);
        assert_eq!(raw.response().0, 200);
        kept.push(raw);
        // The server orders idle connections by the millisecond, and shows nobody when each began to rest.
        std::thread::sleep(Duration::from_millis(20));
    }
    // The first one is in use again, so the second one has been idle for longest.
    kept[0].send(&ask);
    assert_eq!(kept[0].response().0, 200);
    let mut new = Raw::connect(server.address());
    new.send(&ask);
    assert_eq!(new.response().0, 200, "at once");
    kept[1].wait_for_end();
    for index in [0, 2, 3] {
        kept[index].send(&ask);
        assert_eq!(kept[index].response().0, 200, "{index}");
    }
    // Sockets do not give way: where all places are theirs, the next one is refused.
    let open: Vec<Raw> = (0..4).map(|_| Raw::open(server.address(), "/ws")).collect();
    expect_refusal(&mut Raw::connect(server.address()), 503, "unavailable");
    drop(open);
}

#[test]
fn bodies_that_do_not_end_are_bounded_by_address() {
    let server = Server::start(&[
        "--shards",
        "1",
        "--http-registry-body-bytes-max",
        "1MiB",
        "--unfinished-body-bytes-per-address-max",
        "1MiB",
        "--unfinished-body-bytes-max",
        "2MiB",
    ]);
    let half = [post("/api/registry/register", "", 1 << 20), vec![b' '; 600 << 10]].concat();
    let rest = vec![b' '; 424 << 10];
    // Sends a whole body beside those that do not end, and tells what came of it.
    let whole_from = |last: u8| {
        let mut raw = connect_from(last, &server);
        raw.try_send(&half);
        raw.try_send(&rest);
        let (status, head, _) = raw.response();
        assert!(status == 400 || head.to_lowercase().contains("retry-after: 1"), "{head}");
        status
    };
    // Which of two that come at once is refused is chance, so both are sent until it is the second.
    let mut unfinished = Vec::new();
    eventually("a second one is too much", PATIENCE, || {
        let mut first = connect_from(1, &server);
        first.send(&half);
        let is_refused = whole_from(1) == 429;
        unfinished.push(first);
        if !is_refused {
            unfinished.clear();
        }
        is_refused
    });
    // Small bodies of the same address go on.
    server.register(&[support::instance("s", "i")]);
    // Three times 600 KiB are unfinished, and the shard has room for 2 MiB.
    eventually("the shard has enough", PATIENCE, || {
        let mut others: Vec<Raw> = (2..4).map(|last| connect_from(last, &server)).collect();
        for other in &mut others {
            other.send(&half);
        }
        let is_refused = whole_from(9) == 503;
        if is_refused {
            unfinished.extend(others);
        }
        is_refused
    });
    drop(unfinished);
    // It is no JSON, but it is read to its end.
    eventually("room again", PATIENCE, || whole_from(1) == 400);
}

#[test]
fn a_body_is_as_large_as_its_call_needs() {
    let server = Server::start(&["--registrations-per-minute-max", "0"]);
    for (path, bytes_max) in [
        (LOGIN, 4 << 10),
        (REGISTER, 4 << 10),
        ("/api/discovery/service.json", 1 << 20),
        ("/api/management/instance/operate-instance.json", 1 << 20),
        ("/api/v1/channels", 1 << 20),
        ("/api/discovery/lookup.json", 1 << 20),
        ("/ws/broadcast", 1 << 20),
    ] {
        let answer = |bytes: usize| {
            let mut raw = Raw::connect(server.address());
            let body = format!("{{{}}}", " ".repeat(bytes - 2));
            raw.try_send(&[post(path, "", bytes), body.into_bytes()].concat());
            raw.response().0
        };
        assert_ne!(answer(bytes_max), 413, "{path}");
        assert_eq!(answer(bytes_max + 1), 413, "{path}");
    }
    // The longest password fits, however it is escaped.
    let body = json!({"username": "ann", "password": "p".repeat(1_024)});
    assert_eq!(server.post_json(REGISTER, &body).status, 201);
}

#[test]
fn an_address_registers_ten_accounts_a_minute() {
    let server = Server::start(&["--trusted-proxies", "127.0.0.1"]);
    let register = |from: &str, name: &str| {
        let body = json!({"username": name, "password": "correct horse"}).to_string();
        let mut raw = Raw::connect(server.address());
        let head = post(REGISTER, &format!("X-Forwarded-For: {from}\r\n"), body.len());
        raw.send(&[head, body.into_bytes()].concat());
        raw
    };
    // What cannot become an account is not counted.
    for _ in 0..5 {
        assert_eq!(register("203.0.113.1", "").response().0, 400);
    }
    for index in 0..10 {
        let (status, head, _) = register("203.0.113.1", &format!("user{index}")).response();
        assert_eq!(status, 201, "{head}");
    }
    expect_refusal(&mut register("203.0.113.1", "user10"), 429, "rate_limited");
    assert_eq!(register("203.0.113.2", "user10").response().0, 201);
    // Who has an account logs in all the same.
    let body = json!({"username": "user0", "password": "correct horse"}).to_string();
    let mut raw = Raw::connect(server.address());
    let head = post(LOGIN, "X-Forwarded-For: 203.0.113.1\r\n", body.len());
    raw.send(&[head, body.into_bytes()].concat());
    assert_eq!(raw.response().0, 200);
}

#[test]
fn a_flood_of_registrations_refuses_no_login() {
    let server = Server::start(&["--registrations-per-minute-max", "0"]);
    let account = json!({"username": "ann", "password": "correct horse"});
    assert_eq!(server.post_json(REGISTER, &account).status, 201);
    let flood: Vec<Raw> = (0..400)
        .map(|index| {
            let name = format!("user{index}");
            let body = json!({"username": name, "password": "correct horse"}).to_string();
            let mut raw = Raw::connect(server.address());
            raw.send(&[post(REGISTER, "", body.len()), body.into_bytes()].concat());
            raw
        })
        .collect();
    for _ in 0..3 {
        assert_eq!(server.post_json(LOGIN, &account).status, 200);
    }
    drop(flood);
}
