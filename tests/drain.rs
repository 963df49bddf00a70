//! A server that stops sends its clients away in good order: a frame with the time to come back,
//! close 1001, everything on disk, exit status 0.

#![allow(clippy::disallowed_methods, reason = "a test process has the clock of the wall")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;

use fanfare_test_support::{READ_PATIENCE, Reply, STOP_PATIENCE, Server, eventually, instance};
use serde_json::json;

#[test]
fn every_socket_is_told_to_reconnect_and_closed_with_1001() {
    let mut server = Server::start(&["--drain-window", "1s", "--shards", "3"]);
    let mut clients: Vec<_> = (0..30).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.subscribe("orders");
    }
    server.terminate();
    for client in &mut clients {
        let (frames, code) = client.read_to_close();
        assert_eq!(code, 1001);
        let last = frames.last().expect("a frame before the close");
        assert_eq!(last["type"], "reconnect", "{last}");
        assert!(last["after_ms"].is_u64(), "{last}");
    }
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_server_without_clients_stops_at_once() {
    let mut server = Server::start(&[]);
    assert_eq!(server.stop().code(), Some(0));
}

#[test]
fn changes_accepted_during_the_drain_are_kept() {
    let mut server = Server::start(&["--drain-window", "3s"]);
    let clients: Vec<_> = (0..40).map(|_| server.connect()).collect();
    server.terminate();
    eventually("the server says that it drains", READ_PATIENCE, || {
        server.get("/ready").status == 503
    });
    server.register(&[instance("orders", "late")]);
    drop(clients);
    assert_eq!(server.wait().code(), Some(0));
    server.restart();
    assert_eq!(server.discover("orders")["instances"][0]["instanceId"], "late");
}

#[test]
fn while_it_drains_it_is_not_ready_and_takes_no_sockets() {
    let mut server = Server::start(&["--drain-window", "5s"]);
    let clients: Vec<_> = (0..40).map(|_| server.connect()).collect();
    server.terminate();
    eventually("the server says that it drains", READ_PATIENCE, || {
        server.get("/ready").status == 503
    });
    assert_eq!(server.get("/health").status, 200);
    let stream = TcpStream::connect(server.address()).expect("accepted");
    assert_eq!(server.connect_to("/ws", stream, &[]).err(), Some(503));
    let reply = server.raw(b"GET /api/discovery/services.json HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(reply.outcome(), ("success", "success"));
    // A proxy that keeps connections would send its next request to a server that is gone.
    assert_eq!(reply.header("connection"), Some("close"));
    for mut client in clients {
        assert_eq!(client.read_to_close().1, 1001);
    }
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_client_comes_back_after_the_restart_and_resumes() {
    let mut server = Server::start(&["--drain-window", "1s"]);
    let mut client = server.connect();
    let mut picture = client.follow("orders");
    server.register(&[instance("orders", "one")]);
    picture.apply(&client.expect("service_change"));
    server.terminate();
    assert_eq!(client.read_to_close().1, 1001);
    assert_eq!(server.wait().code(), Some(0));
    server.restart();
    let mut client = server.connect();
    assert!(client.resume(&mut picture));
    server.register(&[instance("orders", "two")]);
    picture.apply(&client.expect("service_change"));
    picture.expect_equals_registry(&server);
    client.ask(&json!({"type": "ping"}), "pong");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut server = Server::start(&["--drain-window", "20s"]);
    let clients: Vec<_> = (0..200).map(|_| server.connect()).collect();
    server.terminate();
    eventually("the server says that it drains", READ_PATIENCE, || {
        server.get("/ready").status == 503
    });
    let start = std::time::Instant::now();
    server.terminate();
    server.wait();
    assert!(start.elapsed().as_secs() < 3, "it took {:?}", start.elapsed());
    drop(clients);
}

#[test]
fn clients_that_are_all_gone_are_not_waited_for() {
    let mut server = Server::start(&["--shards", "2", "--drain-window", "20s"]);
    let clients: Vec<_> = (0..300).map(|_| server.connect()).collect();
    server.terminate();
    eventually("it drains", READ_PATIENCE, || server.get("/ready").status == 503);
    drop(clients);
    assert_eq!(server.wait().code(), Some(0));
}

/// A registration of one instance, as sent on a connection of its own.
fn registration(name: &str, expects: &str) -> (String, String) {
    let body = json!({"instances": [instance("orders", name)]}).to_string();
    let head = format!(
        "POST /api/registry/register.json HTTP/1.1\r\nHost: localhost\r\n{expects}\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    (head, body)
}

#[test]
fn a_request_under_way_is_answered_when_nothing_is_accepted_any_more() {
    let mut server = Server::start(&[]);
    let mut stream = TcpStream::connect(server.address()).expect("accepted");
    stream.set_read_timeout(Some(READ_PATIENCE)).expect("a timeout above zero");
    let (head, body) = registration("late", "Expect: 100-continue\r\n");
    stream.write_all(head.as_bytes()).expect("it is sent");
    let mut reader = BufReader::new(stream.try_clone().expect("the same socket"));
    let mut line = String::new();
    reader.read_line(&mut line).expect("it reads the body");
    assert_eq!(line, "HTTP/1.1 100 Continue\r\n");
    reader.read_line(&mut line).expect("an empty line");
    server.terminate();
    eventually("nothing is accepted", STOP_PATIENCE, || {
        TcpStream::connect(server.address()).is_err()
    });
    stream.write_all(body.as_bytes()).expect("it is sent");
    let reply = Reply::read(stream);
    assert_eq!(reply.outcome(), ("success", "success"));
    assert_eq!(reply.header("connection"), Some("close"));
    assert_eq!(server.wait().code(), Some(0));
    server.restart();
    assert_eq!(server.discover("orders")["instances"][0]["instanceId"], "late");
}

/// To whoever comes just before the end, the server is there.
#[test]
fn who_waits_to_be_accepted_is_still_answered() {
    let mut server = Server::start(&["--shards", "2"]);
    let idle = TcpStream::connect(server.address()).expect("accepted");
    server.signal("STOP");
    let streams: Vec<_> = (0..20)
        .map(|number| {
            let mut stream = TcpStream::connect(server.address()).expect("the kernel accepts");
            stream.set_read_timeout(Some(READ_PATIENCE)).expect("a timeout above zero");
            let (head, body) = registration(&number.to_string(), "");
            stream.write_all((head + &body).as_bytes()).expect("it is sent");
            stream
        })
        .collect();
    server.terminate();
    server.signal("CONT");
    for stream in streams {
        assert_eq!(Reply::read(stream).outcome(), ("success", "success"));
    }
    assert_eq!(server.wait().code(), Some(0));
    drop(idle);
    server.restart();
    assert_eq!(server.discover("orders")["instances"].as_array().map(Vec::len), Some(20));
}
