//! Direct messages: pairs of users, of whom one writes by HTTP as fast as it is acknowledged and
//! the other listens on a socket. Every acknowledged message has to be pushed, once.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};

use super::cpu_meter::CpuMeter;
use super::{Bench, TURN};
use crate::args::Plan;
use crate::clock::Clock;
use crate::outcome::{Cost, Outcome, Percentiles, duration_ns, per_second};
use crate::process::Process;
use crate::schedule::STALL_NS;
use crate::tally;
use crate::target::Target;
use crate::users::{self, UserSockets};

/// Seconds of writing, when the plan names neither a time nor a number.
const DURATION_S: u64 = 10;

/// How long an acknowledgement may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// An acknowledged message: its id, and how long that took.
type Acknowledged = (String, u64);

/// A writer, over a connection that stays.
struct Writer {
    stream: BufReader<TcpStream>,
    head: String,
    to: String,
    padding: String,
}

impl Writer {
    fn connect(target: &Target, token: &str, to: String, padding: String) -> io::Result<Writer> {
        let stream = TcpStream::connect_timeout(&target.address, ANSWER_TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let head = format!(
            "POST /api/v1/messages HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\n",
            target.address
        );
        Ok(Writer { stream: BufReader::new(stream), head, to, padding })
    }

    /// Sends a message and waits until it is acknowledged. Returns its id.
    fn write(&mut self, stamp_ns: u64) -> io::Result<String> {
        let content = format!("{stamp_ns} {}", self.padding);
        let body = json!({"to_user_id": self.to, "content": content}).to_string();
        let request = format!("{}Content-Length: {}\r\n\r\n{body}", self.head, body.len());
        self.stream.get_mut().write_all(request.as_bytes())?;
        let (mut status, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            if status.is_empty() {
                line.clone_into(&mut status);
            } else if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        if !status.contains(" 201 ") {
            return Err(io::Error::other(format!("{status}: {}", String::from_utf8_lossy(&body))));
        }
        let answer: Value = serde_json::from_slice(&body).map_err(io::Error::other)?;
        Ok(answer["id"].as_str().unwrap_or_default().to_owned())
    }
}

/// The pushed messages, by id.
#[derive(Default)]
struct Pushed {
    ids: HashMap<String, u32>,
    count: u64,
}

/// Runs the test.
pub(super) fn run(bench: &mut Bench, plan: &Plan) -> io::Result<Outcome> {
    let pairs = plan.connections.div_ceil(2);
    let (secret, clock) = (bench.secret()?, bench.clock);
    bench.users = bench.users.max(2 * pairs);
    bench.progress.begin("direct: signing in", 2 * pairs as u64);
    let name = |n: usize| users::user(&bench.run_id, n);
    // The first half listens, the second writes.
    let mut listeners = UserSockets::connect(&bench.target, &secret, &bench.run_id, pairs)?;
    let writers = (0..pairs).map(|n| {
        let token = users::token(&secret, &name(pairs + n))?;
        Writer::connect(&bench.target, &token, name(n), "x".repeat(plan.payload))
    });
    let writers = writers.collect::<io::Result<Vec<_>>>()?;

    let (mut pushed, mut latency) = (Pushed::default(), tally::histogram());
    let (left, is_over) =
        (AtomicU64::new(plan.messages.unwrap_or(u64::MAX)), AtomicBool::new(false));
    bench.progress.begin("direct: writing", plan.messages.unwrap_or_default());
    let meter = CpuMeter::start(bench);
    let end_ns = meter.start_ns + duration_ns(plan, DURATION_S);
    let mut acknowledged: Vec<Acknowledged> = Vec::new();
    let mut faults = Vec::new();
    let mut written_ns = 0;
    std::thread::scope(|scope| {
        let (tell, results) = mpsc::channel();
        for writer in writers {
            let (tell, left, is_over) = (tell.clone(), &left, &is_over);
            scope.spawn(move || tell.send(write_on(writer, clock, left, is_over)));
        }
        drop(tell);
        let mut hear = |_: usize, message: &Value| take(message, &mut pushed, &mut latency, clock);
        let mut open = pairs;
        while open > 0 {
            is_over.store(clock.now_ns() >= end_ns, Ordering::Relaxed);
            if let Err(fault) = listeners.turn(TURN, &mut hear) {
                faults.push(fault.to_string());
                is_over.store(true, Ordering::Relaxed);
                break;
            }
            while let Ok((mut done, fault)) = results.try_recv() {
                open -= 1;
                acknowledged.append(&mut done);
                faults.extend(fault.map(|fault| format!("a writer: {fault}")));
            }
        }
        written_ns = clock.now_ns() - meter.start_ns;
    });
    let mut progress = (clock.now_ns(), pushed.count);
    while pushed.count < acknowledged.len() as u64 && clock.now_ns() - progress.0 < STALL_NS {
        listeners.turn(TURN, &mut |_, message| take(message, &mut pushed, &mut latency, clock))?;
        if pushed.count > progress.1 {
            progress = (clock.now_ns(), pushed.count);
        }
    }
    let measured = meter.stop(bench, 0);

    let mut outcome = Outcome::of(plan);
    let mut round_trip = tally::histogram();
    for (id, took_ns) in &acknowledged {
        round_trip.saturating_record(*took_ns);
        let times = pushed.ids.get(id).copied().unwrap_or(0);
        outcome.lost += u64::from(times == 0);
        outcome.duplicated += u64::from(times.saturating_sub(1));
    }
    outcome.connections_made = 2 * pairs as u64;
    let count = acknowledged.len() as u64;
    (outcome.events_sent, outcome.events_accepted) = (count, count);
    (outcome.expected, outcome.received) = (count, pushed.count);
    outcome.latency_us = Percentiles::of(&latency);
    outcome.deliveries_per_s = per_second(pushed.count, written_ns);
    let rss_bytes = bench.process.and_then(Process::rss_bytes);
    outcome.cost = Cost::of(&measured, pushed.count, rss_bytes);
    let round_trip = Percentiles::of(&round_trip);
    outcome.extra("senders at once", pairs as f64, "");
    outcome.extra("acknowledged a second", per_second(count, written_ns), "/s");
    outcome.extra("until acknowledged, p50", round_trip.p50 / 1e3, "ms");
    outcome.extra("until acknowledged, p99", round_trip.p99 / 1e3, "ms");
    outcome.faults = faults;
    Ok(outcome)
}

/// Writes until there is no message left to write, or no time.
fn write_on(
    mut writer: Writer,
    clock: Clock,
    left: &AtomicU64,
    is_over: &AtomicBool,
) -> (Vec<Acknowledged>, Option<io::Error>) {
    let mut done = Vec::new();
    let take_one = |left: u64| left.checked_sub(1);
    while !is_over.load(Ordering::Relaxed)
        && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take_one).is_ok()
    {
        let start_ns = clock.now_ns();
        match writer.write(start_ns) {
            Ok(id) => done.push((id, clock.now_ns() - start_ns)),
            Err(fault) => return (done, Some(fault)),
        }
    }
    (done, None)
}

fn take(
    message: &Value,
    pushed: &mut Pushed,
    latency: &mut hdrhistogram::Histogram<u64>,
    clock: Clock,
) {
    if message["type"] != "private" {
        return;
    }
    let id = message["id"].as_str().unwrap_or_default().to_owned();
    *pushed.ids.entry(id).or_default() += 1;
    pushed.count += 1;
    let stamp = message["content"].as_str().and_then(|text| text.split(' ').next());
    if let Some(sent_ns) = stamp.and_then(|text| text.parse::<u64>().ok()) {
        latency.saturating_record(clock.now_ns().saturating_sub(sent_ns));
    }
}
