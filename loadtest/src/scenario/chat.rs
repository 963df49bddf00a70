//! Chat: many users in some rooms, who write in turn. Every user in a room has to get every message
//! of the room, once and in the order of its offsets.

use std::io;
use std::time::Duration;

use serde_json::{Value, json};

use super::cpu_meter::CpuMeter;
use super::{Bench, TURN};
use crate::args::Plan;
use crate::outcome::{Cost, Outcome, Percentiles, duration_ns, per_second};
use crate::process::Process;
use crate::schedule::STALL_NS;
use crate::tally;
use crate::users::UserSockets;

/// Messages a second, if the plan names no rate.
const RATE: f64 = 200.0;

/// The received messages, and the missing ones.
struct Hearing {
    /// The newest offset of each room that each user has heard; a user is in one room.
    heard: Vec<u64>,
    joined: usize,
    received: u64,
    lost: u64,
    doubled: u64,
    errors: u64,
    latency: hdrhistogram::Histogram<u64>,
}

impl Hearing {
    fn new(users: usize) -> Hearing {
        Hearing {
            heard: vec![0; users],
            joined: 0,
            received: 0,
            lost: 0,
            doubled: 0,
            errors: 0,
            latency: tally::histogram(),
        }
    }

    fn hear(&mut self, user: usize, message: &Value, now_ns: u64) {
        match message["type"].as_str() {
            Some("joined") => self.joined += 1,
            Some("error") => self.errors += 1,
            Some("chat") => {
                let offset = message["offset"].as_u64().unwrap_or_default();
                let next = self.heard[user] + 1;
                if offset < next {
                    self.doubled += 1;
                    return;
                }
                self.lost += offset - next;
                self.heard[user] = offset;
                self.received += 1;
                let stamp = message["content"].as_str().and_then(|text| text.split(' ').next());
                if let Some(sent_ns) = stamp.and_then(|text| text.parse::<u64>().ok()) {
                    self.latency.saturating_record(now_ns.saturating_sub(sent_ns));
                }
            }
            _ => {}
        }
    }
}

/// Runs the test.
pub(super) fn run(bench: &mut Bench, plan: &Plan) -> io::Result<Outcome> {
    let (users, rooms) = (plan.connections, plan.services.min(plan.connections));
    let rate = plan.rate.unwrap_or(RATE);
    bench.progress.begin("chat: signing in", users as u64);
    let secret = bench.secret()?;
    bench.users = bench.users.max(users);
    let mut people = UserSockets::connect(&bench.target, &secret, &bench.run_id, users)?;
    let (clock, room_of) = (bench.clock, |user: usize| user % rooms);
    let room = |index: usize| format!("load-{}-{index}", bench.run_id);
    let mut hearing = Hearing::new(users);
    for user in 0..users {
        people.say(user, &json!({"type": "join", "room": room(room_of(user))}).to_string());
    }
    let end_ns = clock.now_ns() + STALL_NS;
    while hearing.joined < users && clock.now_ns() < end_ns {
        people.turn(TURN, &mut |user, message| hearing.hear(user, message, clock.now_ns()))?;
    }

    let padding = "x".repeat(plan.payload);
    let members: Vec<u64> = (0..rooms)
        .map(|index| (0..users).filter(|&user| room_of(user) == index).count() as u64)
        .collect();
    let (mut said, mut expected) = (0_u64, 0_u64);
    bench.progress.begin("chat: talking", plan.messages.unwrap_or_default());
    let meter = CpuMeter::start(bench);
    let start_ns = meter.start_ns;
    let end_ns = start_ns + duration_ns(plan, 3_600);
    while said < plan.messages.unwrap_or(u64::MAX) && clock.now_ns() < end_ns {
        let due_ns = start_ns + (said as f64 * 1e9 / rate) as u64;
        let now_ns = clock.now_ns();
        if now_ns >= due_ns {
            let user = said as usize % users;
            let content = format!("{due_ns} {padding}");
            let message = json!({"type": "chat", "room": room(room_of(user)), "content": content});
            people.say(user, &message.to_string());
            said += 1;
            expected += members[room_of(user)];
        }
        let wait = Duration::from_nanos(due_ns.saturating_sub(now_ns)).min(TURN);
        people.turn(wait, &mut |user, message| hearing.hear(user, message, clock.now_ns()))?;
        bench.progress.show(said);
    }
    let mut progress = (clock.now_ns(), hearing.received);
    while hearing.received < expected && clock.now_ns() - progress.0 < STALL_NS {
        people.turn(TURN, &mut |user, message| hearing.hear(user, message, clock.now_ns()))?;
        if hearing.received > progress.1 {
            progress = (clock.now_ns(), hearing.received);
        }
    }
    let measured = meter.stop(bench, 0);

    let mut outcome = Outcome::of(plan);
    outcome.rate = Some(rate);
    outcome.connections_made = users as u64;
    (outcome.events_sent, outcome.events_accepted) = (said, said.saturating_sub(hearing.errors));
    (outcome.expected, outcome.received) = (expected, hearing.received);
    outcome.lost = expected.saturating_sub(hearing.received);
    outcome.duplicated = hearing.doubled;
    outcome.out_of_order = hearing.lost.min(expected);
    outcome.latency_us = Percentiles::of(&hearing.latency);
    outcome.deliveries_per_s = per_second(hearing.received, measured.window_ns);
    let rss_bytes = bench.process.and_then(Process::rss_bytes);
    outcome.cost = Cost::of(&measured, hearing.received, rss_bytes);
    outcome.extra("users", users as f64, "");
    outcome.extra("rooms", rooms as f64, "");
    if hearing.joined < users {
        outcome.faults.push(format!("{} users never joined", users - hearing.joined));
    }
    Ok(outcome)
}
