//! The system's time is corrected: tokens follow it at once, in either direction. Pings and every
//! other deadline stay on the steady clock.

use std::sync::Arc;

use fanfare::internals::clock::Moment;
use fanfare::internals::mailbox::command_sender::CommandSender;
use fanfare::internals::mailbox::{Bell, mailbox};
use fanfare::internals::rng::Rng;
use fanfare::internals::shard::Shard;
use fanfare::internals::stats::Stats;
use serde_json::json;

use super::pipe::{FakeSocket, Link, Ready};
use super::{open_gate, shard_settings};

const START_MS: u64 = 1_800_000_000_000;
const HOUR_MS: u64 = 3_600_000;
/// How long the token of this test is good for.
const TOKEN_MS: u64 = 600_000;

/// A shard, and the two clocks it is told of.
struct Desk {
    shard: Shard<FakeSocket>,
    ready: Ready,
    now: Moment,
    token: String,
}

impl Desk {
    fn new() -> Desk {
        let (orders, _) = mailbox(1_024, Bell::silent());
        let (_, inlet) = mailbox(1_024, Bell::silent());
        let settings =
            shard_settings(0, &Arc::default(), &Arc::new(open_gate()), &Arc::new(Stats::new(1)), 1);
        let now = Moment::new(START_MS, 0);
        let commands = CommandSender::driven(orders, settings.id);
        let shard = Shard::new(settings, commands, inlet, now);
        let claims = json!({"sub": "ann", "exp": (START_MS + TOKEN_MS) / 1_000});
        let key = jsonwebtoken::EncodingKey::from_secret(fanfare_test_support::SECRET.as_bytes());
        let token = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key);
        Desk { shard, ready: Ready::default(), now, token: token.expect("a token") }
    }

    fn turn(&mut self) {
        loop {
            let ready = &self.ready;
            let outcome = self.shard.turn(self.now, || ready.borrow_mut().pop_front());
            if !outcome.has_more {
                let wake_ms = outcome.wake_at_ms.unwrap_or(u64::MAX);
                assert!(
                    self.shard.is_empty() || wake_ms <= self.now.unix_ms + 1_000,
                    "a shard with connections looks at the clock each second"
                );
                return;
            }
        }
    }

    /// Lets time pass on the steady clock, and the wall clock with it.
    fn pass(&mut self, ms: u64) {
        self.now.unix_ms += ms;
        self.now.wall_ms += ms;
        self.now.ns += ms * 1_000_000;
        self.turn();
    }

    /// Corrects the system's time, and gives the shard two ticks.
    fn set_wall(&mut self, ms: u64) {
        self.now.wall_ms = ms;
        self.turn();
        self.pass(2 * fanfare::internals::limits::SHARD_TICK_MS);
    }

    /// Opens a WebSocket with the token. Returns what the server answers.
    fn open(&mut self) -> (Link, Vec<u8>) {
        let link = Link::new(&self.ready, 65_536, Rng::seeded(1));
        self.shard.accept(self.now, |slot, generation| link.accept(slot, generation));
        let head = format!(
            "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Authorization: Bearer {}\r\n\r\n",
            self.token
        );
        link.send(head.into_bytes().into_iter());
        self.turn();
        let answer = link.take(usize::MAX);
        (link, answer)
    }
}

fn is_open(answer: &[u8]) -> bool {
    answer.starts_with(b"HTTP/1.1 101")
}

/// Whether the frames hold a close frame with 4401.
fn has_expired(bytes: &[u8]) -> bool {
    bytes.windows(4).any(|part| part[0] == 0x88 && part[2..] == 4401_u16.to_be_bytes())
}

#[test]
fn a_token_ends_when_the_clock_is_set_past_it() {
    let mut desk = Desk::new();
    let (link, answer) = desk.open();
    assert!(is_open(&answer));
    desk.pass(1_000);
    assert!(!has_expired(&link.take(usize::MAX)));
    desk.set_wall(START_MS + TOKEN_MS);
    assert!(has_expired(&link.take(usize::MAX)), "the wheel was not told");
    // Nobody comes in with it either, until the clock is set back.
    assert!(!is_open(&desk.open().1));
    desk.set_wall(START_MS + TOKEN_MS - 1_000);
    let (link, answer) = desk.open();
    assert!(is_open(&answer), "its end lies ahead again");
    desk.pass(850);
    assert!(!has_expired(&link.take(usize::MAX)));
    desk.pass(150);
    assert!(has_expired(&link.take(usize::MAX)));
}

#[test]
fn a_token_lives_on_when_the_clock_is_set_back() {
    let mut desk = Desk::new();
    let (link, answer) = desk.open();
    assert!(is_open(&answer));
    desk.set_wall(START_MS - HOUR_MS);
    // The pings go on by the steady clock, and their answers are awaited by it.
    let mut pings = 0;
    for _ in 0..TOKEN_MS / 5_000 + 10 {
        desk.pass(5_000);
        let frames = link.take(usize::MAX);
        assert!(!has_expired(&frames), "after {} ms", desk.now.unix_ms - START_MS);
        if frames.windows(2).any(|part| part == [0x89, 0]) {
            pings += 1;
            link.send([0x8a, 0x80, 0, 0, 0, 0].into_iter());
            desk.turn();
        }
    }
    assert!((20..=30).contains(&pings), "{pings} pings in ten minutes");
    desk.set_wall(START_MS + TOKEN_MS);
    assert!(has_expired(&link.take(usize::MAX)));
}

#[test]
fn a_jump_of_the_clock_is_no_time_that_passed() {
    let mut desk = Desk::new();
    let (link, answer) = desk.open();
    assert!(is_open(&answer));
    desk.pass(25_000);
    assert!(link.take(usize::MAX).windows(2).any(|part| part == [0x89, 0]), "a ping");
    // Nine minutes by the wall, and the pong is not late.
    desk.set_wall(START_MS + TOKEN_MS - 10_000);
    desk.pass(5_000);
    assert!(link.take(usize::MAX).is_empty());
    link.send([0x8a, 0x80, 0, 0, 0, 0].into_iter());
    desk.turn();
    assert!(!link.is_over());
    // Small differences, as between the readings of two clocks, change nothing.
    for ms in [1, 100, 3, 90] {
        desk.set_wall(desk.now.wall_ms + ms);
        desk.set_wall(desk.now.wall_ms - ms);
    }
    assert!(link.take(usize::MAX).is_empty());
}
