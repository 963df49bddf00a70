//! The system's clock is corrected under a running server: tokens are judged by it as it is now, and
//! nothing else changes.
//!
//! libfaketime bends the clock, for the server alone. Without it these tests are reported as skipped.

#![allow(clippy::disallowed_methods, reason = "a test process has the clock of the wall")]

use fanfare_test_support as support;
use std::path::PathBuf;
use std::time::Duration;

use fanfare_test_support::{Server, eventually, instance, now_s};
use serde_json::json;

const HOUR_S: i64 = 3_600;

/// A token that is good until so many seconds from now, by the test's clock.
fn token(seconds: i64) -> String {
    let exp = now_s().cast_signed() + seconds;
    let claims = json!({"sub": "ann", "exp": exp, "scope": "admin"});
    support::sign(&claims, support::SECRET, jsonwebtoken::Algorithm::HS256)
}

/// A server under a clock of its own.
struct Bent {
    server: Server,
    offset: PathBuf,
}

impl Bent {
    /// None where libfaketime is missing.
    fn start(flags: &[&str]) -> Option<Bent> {
        let library = ["x86_64", "aarch64"]
            .map(|arch| format!("/usr/lib/{arch}-linux-gnu/faketime/libfaketime.so.1"))
            .into_iter()
            .find(|path| std::path::Path::new(path).exists());
        let Some(library) = library else {
            support::skipped("libfaketime is not installed (apt-get install faketime)");
            return None;
        };
        let offset = std::env::temp_dir().join(format!("fanfare-clock-{}", uuid::Uuid::new_v4()));
        std::fs::write(&offset, "+0").expect("a file");
        let prelude = format!(
            "export LD_PRELOAD={library} FAKETIME_TIMESTAMP_FILE={} FAKETIME_NO_CACHE=1 \
             FAKETIME_DONT_FAKE_MONOTONIC=1; exec \"$@\"",
            offset.display()
        );
        let mut all = vec!["--jwt-secret", support::SECRET];
        all.extend(flags);
        Some(Bent { server: Server::start_by(Some(&prelude), &all), offset })
    }

    /// Sets the server's clock so many seconds ahead of the test's.
    fn set(&self, offset_s: i64) {
        // At once: half a number would be another time.
        let new = self.offset.with_extension("new");
        std::fs::write(&new, format!("{offset_s:+}")).expect("a file");
        std::fs::rename(new, &self.offset).expect("the same directory");
    }

    fn status(&self, token: &str) -> u16 {
        self.server.call("GET", "/ws/stats", token, &json!(null)).status
    }
}

impl Drop for Bent {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.offset);
    }
}

#[test]
fn tokens_are_judged_by_the_clock_as_it_is_now() {
    let Some(bent) = Bent::start(&[]) else { return };
    let (short, long) = (token(HOUR_S / 2), token(3 * HOUR_S));
    assert_eq!((bent.status(&short), bent.status(&long)), (200, 200));
    let mut leaving = bent.server.connect_with(&short);
    let mut staying = bent.server.connect_with(&long);
    bent.set(HOUR_S);
    // Within the second in which an idle shard looks, and the time that a loaded machine takes.
    let (frames, code) = leaving.read_to_close();
    assert_eq!(code, 4401);
    assert!(frames.iter().any(|frame| frame["code"] == "token_expired"), "{frames:?}");
    staying.ask(&json!({"type": "ping"}), "pong");
    assert_eq!((bent.status(&short), bent.status(&long)), (401, 200));
    // Back again, and the token is one whose end lies ahead.
    bent.set(0);
    assert_eq!((bent.status(&short), bent.status(&long)), (200, 200));
    bent.server.connect_with(&short).ask(&json!({"type": "ping"}), "pong");
    // One that is made now is good by the server's clock, not by the one of its start.
    bent.set(2 * HOUR_S);
    assert_eq!(bent.status(&token(HOUR_S)), 401);
    assert_eq!(bent.status(&token(2 * HOUR_S + HOUR_S / 2)), 200);
}

#[test]
fn leases_and_sockets_do_not_mind_a_jump() {
    let Some(bent) = Bent::start(&["--lease-ttl", "60s"]) else { return };
    let server = &bent.server;
    let mut client = server.connect();
    let mut picture = client.follow("orders");
    server.register(&[instance("orders", "one")]);
    picture.apply(&client.expect("service_change"));
    for offset_s in [24 * HOUR_S, -24 * HOUR_S, HOUR_S, 0] {
        bent.set(offset_s);
        // The wheel has turned, and an hour of deadlines has not passed.
        client.ask(&json!({"type": "ping"}), "pong");
        server.register(&[instance("orders", "two")]);
        let change = client.expect("service_change");
        let time = change["changes"][0]["changeTime"].as_str().expect("a time");
        let expected = now_s().cast_signed() + offset_s;
        let seen = jiff::Timestamp::strptime("%Y-%m-%dT%H:%M:%S%.f%z", time.replace('Z', "+0000"))
            .expect("RFC 3339")
            .as_second();
        assert!((seen - expected).abs() < 60, "{time} at an offset of {offset_s} s");
        picture.apply(&change);
        server.unregister(&[instance("orders", "two")]);
        picture.apply(&client.expect("service_change"));
        assert_eq!(picture.names(), ["one"], "no lease ran out");
    }
    // Messages keep their order while the clock goes back.
    let mut ids = Vec::new();
    for offset_s in [0, HOUR_S, -HOUR_S, 0] {
        bent.set(offset_s);
        for _ in 0..3 {
            let body = json!({"payload": "x"});
            let answer =
                server.call("POST", "/api/v1/channels/c/messages", &token(9 * HOUR_S), &body);
            ids.push(answer.body["message_id"].as_str().expect("an id").to_owned());
        }
    }
    assert!(ids.is_sorted_by(|one, next| one < next), "{ids:?}");
    let history =
        server.call("GET", "/api/v1/channels/c/history", &token(9 * HOUR_S), &json!(null));
    assert_eq!(history.body["messages"].as_array().map(Vec::len), Some(12), "{}", history.body);
    eventually("all is well", Duration::from_secs(10), || server.get("/ready").status == 200);
}
