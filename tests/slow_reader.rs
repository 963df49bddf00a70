//! A client that stops reading costs a bounded amount of memory, delays no other client, and when
//! it reads again ends with the registry's state.

#![allow(clippy::disallowed_methods, reason = "a test process has the clock of the wall")]

use fanfare_test_support as support;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use fanfare_test_support::{Client, Picture, Rng, Server, instance, instances, with};
use serde_json::{Value, json};

const OUTBOX_BYTES_MAX: u64 = 64 * 1024;
const ROUNDS_MAX: usize = 4_000;

/// A client whose kernel takes little on its behalf.
fn connect_narrow(server: &Server) -> Client {
    server.connect_over(server.narrow_stream())
}

/// Registers 4 MB, more than any kernel holds for a client that reads nothing.
fn register_much(server: &Server) {
    let padding = "y".repeat(4_000);
    for part in 0..10 {
        let all: Vec<_> = (0..100)
            .map(|n| {
                let one = instance("large", &format!("i{part}-{n}"));
                with(&one, "metadata", json!({"padding": padding}))
            })
            .collect();
        server.register(&all);
    }
}

/// Changes an instance, large enough that a few of them fill a buffer.
fn change(server: &Server, round: usize) {
    let padding = format!("{round:>4000}");
    let instance = instance("orders", &format!("i{}", round % 10));
    server.register(&[with(&instance, "metadata", json!({"padding": padding}))]);
}

/// Changes the service, while the healthy client hears every change, until the server has given up
/// on queueing for the stalled ones.
fn change_until_slow(server: &Server, healthy: &mut Client, picture: &mut Picture) {
    for round in 0..ROUNDS_MAX {
        change(server, round);
        picture.apply(&healthy.expect("service_change"));
        if server.get("/ws/stats").body["slow_readers_total"].as_u64() > Some(0) {
            return;
        }
    }
    panic!("nobody was slow after {ROUNDS_MAX} rounds");
}

#[test]
fn a_stalled_reader_gets_a_snapshot_and_the_others_miss_nothing() {
    let server = Server::start(&["--outbox-bytes-max", "65536", "--write-timeout", "60s"]);
    let mut stalled = connect_narrow(&server);
    let mut stalled_picture = stalled.follow("orders");
    let mut healthy = server.connect();
    let mut picture = healthy.follow("orders");

    change_until_slow(&server, &mut healthy, &mut picture);
    // While it is behind, changes go on for everybody else.
    for round in 0..200 {
        change(&server, round);
        picture.apply(&healthy.expect("service_change"));
    }
    let peak = server.count("fanfare_outbox_bytes_peak");
    assert!(peak <= OUTBOX_BYTES_MAX, "{peak} bytes were unsent at once");

    // It reads again: what was on its way, then the whole service, then changes as before.
    let mut snapshots = 0;
    while stalled_picture.revision < picture.revision {
        let frame = stalled.next_json();
        snapshots += usize::from(frame["type"] == "service_snapshot");
        stalled_picture.apply(&frame);
    }
    assert!(snapshots > 0, "changes were skipped without a snapshot");
    stalled_picture.expect_equals_registry(&server);
    change(&server, 5);
    let frame = stalled.expect("service_change");
    stalled_picture.apply(&frame);
    stalled_picture.expect_equals_registry(&server);
    picture.apply(&healthy.expect("service_change"));
    assert_eq!(stalled_picture, picture);
    assert!(server.count("fanfare_slow_readers_total{outcome=\"collapsed\"}") > 0);
    assert_eq!(server.count("fanfare_slow_readers_total{outcome=\"closed\"}"), 0);
}

#[test]
fn a_follower_of_everything_gets_a_snapshot_of_each_service_it_missed() {
    let server = Server::start(&["--outbox-bytes-max", "65536", "--write-timeout", "60s"]);
    let names = ["a", "b", "c"];
    let mut stalled = connect_narrow(&server);
    stalled.subscribe("*");
    let mut healthy = server.connect();
    let mut fence = healthy.follow("orders");
    let mut pictures: Vec<Picture> = names
        .iter()
        .chain(&["orders", "z-last"])
        .map(|name| server.connect().follow(name))
        .collect();
    for round in 0..60 {
        let padding = format!("{round:>4000}");
        let batch: Vec<_> = names
            .iter()
            .map(|name| with(&instance(name, "one"), "metadata", json!({"padding": padding})))
            .collect();
        server.register(&batch);
    }
    change_until_slow(&server, &mut healthy, &mut fence);
    // The last word, so that the reader knows when it has heard everything.
    server.register(&[instance("z-last", "one")]);
    let goal: Vec<Picture> = names
        .iter()
        .chain(&["orders", "z-last"])
        .map(|name| Picture::of_discovered(&server.discover(name)))
        .collect();
    while pictures.iter().zip(&goal).any(|(picture, goal)| picture.revision < goal.revision) {
        let frame = stalled.next_json();
        let picture = pictures.iter_mut().find(|picture| frame["service_id"] == *picture.service);
        picture.unwrap_or_else(|| panic!("no picture for {frame}")).apply(&frame);
    }
    assert_eq!(pictures, goal);
}

#[test]
fn one_that_takes_nothing_at_all_is_closed_and_may_come_back() {
    let server = Server::start(&["--outbox-bytes-max", "65536", "--write-timeout", "2s"]);
    let mut stalled = connect_narrow(&server);
    let mut stalled_picture = stalled.follow("orders");
    let mut healthy = server.connect();
    let mut picture = healthy.follow("orders");
    change_until_slow(&server, &mut healthy, &mut picture);
    support::eventually("it is closed", Duration::from_secs(10), || {
        server.count("fanfare_closes_total{code=\"4408\"}") > 0
    });
    drop(stalled);
    let mut back = connect_narrow(&server);
    back.resume(&mut stalled_picture);
    back.catch_up(&mut stalled_picture);
    stalled_picture.expect_equals_registry(&server);
    picture.expect_equals_registry(&server);
}

/// The write timeout of the tests that measure it. Twice of it would be too long by more than a
/// loaded machine explains.
const WRITE_TIMEOUT: Duration = Duration::from_secs(8);

#[test]
fn the_socket_of_one_that_takes_nothing_is_gone_after_one_write_timeout() {
    let server = Server::start(&["--outbox-bytes-max", "65536", "--write-timeout", "8s"]);
    let stream = server.narrow_stream();
    let port = stream.local_addr().expect("an address").port();
    let mut stalled = server.connect_over(stream);
    stalled.follow("orders");
    let mut healthy = server.connect();
    let mut picture = healthy.follow("orders");
    change_until_slow(&server, &mut healthy, &mut picture);
    let since = Instant::now();
    support::eventually("its socket is gone", WRITE_TIMEOUT + Duration::from_secs(5), || {
        !server.has_socket(port)
    });
    assert!(since.elapsed() > WRITE_TIMEOUT / 2, "gone after {:?}", since.elapsed());
    assert_eq!(server.count("fanfare_closes_total{code=\"4408\"}"), 1);
}

#[test]
fn one_that_is_closed_for_another_reason_and_takes_nothing_is_gone_as_soon() {
    let server = Server::start(&["--outbox-bytes-max", "65536", "--write-timeout", "60s"]);
    let stream = server.narrow_stream();
    let port = stream.local_addr().expect("an address").port();
    let mut stalled = server.connect_over(stream);
    stalled.follow("orders");
    let mut healthy = server.connect();
    let mut picture = healthy.follow("orders");
    change_until_slow(&server, &mut healthy, &mut picture);
    let path = format!("/api/v1/connections/{}", stalled.id());
    assert!(server.request("DELETE", &path, &[], b"").status < 300);
    support::eventually("its socket is gone", Duration::from_secs(15), || !server.has_socket(port));
    assert_eq!(server.count("fanfare_closes_total{code=\"4403\"}"), 1);
}

#[test]
fn an_http_client_that_takes_nothing_of_its_answer_is_gone() {
    let server = Server::start(&["--write-timeout", "2s"]);
    register_much(&server);
    let request =
        b"GET /api/discovery/service.json?serviceId=large HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut stalled = server.narrow_stream();
    let port = stalled.local_addr().expect("an address").port();
    stalled.write_all(&request.repeat(3)).expect("the server reads");
    // One that takes a little at a time is none of those, however long it takes.
    let mut patient = server.narrow_stream();
    patient.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    patient.write_all(request).expect("the server reads");
    let (mut read, mut chunk) = (0, vec![0; 512 * 1024]);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        read += patient.read(&mut chunk).expect("more of the answer");
        // The pace of a slow reader.
        std::thread::sleep(Duration::from_millis(100));
    }
    support::eventually("its socket is gone", Duration::from_secs(15), || !server.has_socket(port));
    assert!(read < 4_000_000, "all came before the write timeout: {read}");
    while read < 4_000_000 {
        let bytes = patient.read(&mut chunk).expect("more of the answer");
        assert!(bytes > 0, "cut off after {read} bytes");
        read += bytes;
    }
}

#[test]
fn a_snapshot_larger_than_the_outbox_still_arrives() {
    let server = Server::start(&["--outbox-bytes-max", "65536"]);
    let padding = "y".repeat(4_000);
    let all: Vec<_> = (0..200)
        .map(|n| {
            with(&instance("orders", &format!("i{n}")), "metadata", json!({"padding": padding}))
        })
        .collect();
    server.register(&all);
    let mut client = connect_narrow(&server);
    let mut picture = client.follow("orders");
    assert_eq!(picture.instances.len(), 200);
    picture.expect_equals_registry(&server);
    change(&server, 1);
    picture.apply(&client.expect("service_change"));
    picture.expect_equals_registry(&server);
}

#[test]
fn a_long_replay_is_paced_and_ends_in_the_registrys_state() {
    let server = Server::start(&["--outbox-bytes-max", "65536"]);
    // A replay that is larger than the service itself would come as a snapshot.
    let padding = json!({"padding": "y".repeat(4_000)});
    let many = instances("orders", 200);
    let many: Vec<_> = many.iter().map(|one| with(one, "metadata", padding.clone())).collect();
    server.register(&many);
    let mut picture = server.connect().follow("orders");
    for round in 0..150 {
        change(&server, round);
    }
    let mut client = connect_narrow(&server);
    assert!(client.resume(&mut picture));
    client.catch_up(&mut picture);
    picture.expect_equals_registry(&server);
}

const SERVICES: [&str; 4] = ["a", "b", "c", "d"];

/// A slow client that follows some services and checks every frame of each.
struct Follower {
    client: Client,
    pictures: BTreeMap<String, Picture>,
    commands: u64,
}

impl Follower {
    /// Sends a command and takes in what comes before its answer. Returns the answer.
    fn ask(&mut self, mut command: Value) -> Value {
        self.commands += 1;
        command["id"] = json!(self.commands);
        self.client.send_json(&command);
        loop {
            let frame = self.client.next_json();
            if frame["id"] == self.commands {
                return frame;
            }
            self.take_in(&frame);
        }
    }

    fn take_in(&mut self, frame: &Value) {
        let service = frame["service_id"].as_str().expect("a frame of a service");
        let picture = self.pictures.get_mut(service);
        picture.unwrap_or_else(|| panic!("{service} is not followed")).apply(frame);
    }

    fn follow(&mut self, service: &str) {
        let command = json!({"type": "subscribe", "service_id": service, "snapshot": true});
        let picture = Picture::of_subscribed(&self.ask(command));
        self.pictures.insert(service.to_owned(), picture);
    }

    fn leave(&mut self, service: &str) {
        let answer = self.ask(json!({"type": "unsubscribe", "service_id": service}));
        assert_eq!(answer["type"], "unsubscribed");
        self.pictures.remove(service);
    }

    fn reconnect(&mut self, server: &Server) {
        self.client = connect_narrow(server);
        let old = std::mem::take(&mut self.pictures);
        for (service, mut picture) in old {
            let since = json!({"epoch": picture.epoch, "revision": picture.revision});
            let command = json!({"type": "subscribe", "service_id": service, "since": since});
            let answer = self.ask(command);
            if answer["recovered"] == false {
                picture = Picture::of_subscribed(&answer);
            }
            self.pictures.insert(service, picture);
        }
    }

    /// Reads until each picture is where the registry is. Nothing changes meanwhile.
    fn catch_up(&mut self, server: &Server) {
        let services: Vec<String> = self.pictures.keys().cloned().collect();
        for service in services {
            let goal = server.discover(&service)["revision"].as_u64().expect("a revision");
            while self.pictures[&service].revision < goal {
                let frame = self.client.next_json();
                self.take_in(&frame);
            }
            self.pictures[&service].expect_equals_registry(server);
        }
    }
}

#[test]
fn random_churn_among_slow_readers_ends_with_the_registrys_state() {
    for seed in 1..=3 {
        let server = Server::start(&[
            "--outbox-bytes-max",
            "65536",
            "--service-history-max",
            "64",
            "--client-messages-per-s-max",
            "0",
        ]);
        for name in SERVICES {
            server.register(&[instance(name, "first")]);
        }
        let mut rng = Rng::seeded(seed);
        let mut followers: Vec<Follower> = (0..4)
            .map(|_| Follower {
                client: connect_narrow(&server),
                pictures: BTreeMap::new(),
                commands: 0,
            })
            .collect();
        for round in 0..600 {
            let padding = format!("{round:>8000}");
            let batch: Vec<Value> = (0..=rng.below(6))
                .map(|_| {
                    let name = format!("i{}", rng.below(5));
                    let one = instance(SERVICES[rng.below(4)], &name);
                    with(&one, "metadata", json!({"padding": padding}))
                })
                .collect();
            if rng.below(4) == 0 {
                server.unregister(&batch);
            } else {
                server.register(&batch);
            }
            let seat = rng.below(followers.len());
            let (follower, service) = (&mut followers[seat], SERVICES[rng.below(4)]);
            match rng.below(40) {
                0..3 => follower.follow(service),
                3 => follower.leave(service),
                4 => follower.reconnect(&server),
                5 => follower.catch_up(&server),
                _ => {}
            }
        }
        assert!(server.count("fanfare_slow_readers_total{outcome=\"collapsed\"}") > 0);
        for follower in &mut followers {
            follower.catch_up(&server);
        }
    }
}
