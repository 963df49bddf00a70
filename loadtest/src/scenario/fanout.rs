//! Fan-out: one event at a time, and how long it takes to the first and to the last subscriber.

use std::io;
use std::time::Duration;

use super::cpu_meter::CpuMeter;
use super::{Bench, TURN, UNDER_WAY_MAX, flow};
use crate::args::Plan;
use crate::fleet::Fleet;
use crate::outcome::{Cost, Outcome, Percentiles, duration_ns, per_second};
use crate::process::Process;
use crate::publisher::Publisher;
use crate::schedule::Schedule;
use crate::tally;

/// Events a second, when the plan names no rate.
const RATE: f64 = 20.0;

/// Runs the test.
pub(super) fn run(bench: &mut Bench, plan: &Plan) -> io::Result<Outcome> {
    let rate = plan.rate.unwrap_or(RATE);
    let mut fleet = bench.fleet(plan)?;
    bench.progress.begin("fanout: connecting", plan.connections as u64);
    bench.open(&mut fleet, UNDER_WAY_MAX, 0)?;
    let mut publisher = bench.publisher(plan, Schedule::Rate(rate))?;
    let (mut first, mut last) = (tally::histogram(), tally::histogram());
    let end_ns = bench.clock.now_ns() + duration_ns(plan, 3_600);
    let events = plan.messages.unwrap_or(u64::MAX);
    bench.progress.begin("fanout: publishing", plan.messages.unwrap_or_default());

    let meter = CpuMeter::start(bench);
    let start_ns = meter.start_ns;
    fleet.tally.mark(start_ns);
    while publisher.sent < events && bench.clock.now_ns() < end_ns {
        let sent_ns = one_event(bench, &mut fleet, &mut publisher)?;
        if fleet.tally.first_ns > sent_ns {
            first.saturating_record(fleet.tally.first_ns - sent_ns);
            last.saturating_record(fleet.tally.last_ns - sent_ns);
        }
        bench.progress.show(publisher.sent);
        let due_ns = start_ns + (publisher.sent as f64 * 1e9 / rate) as u64;
        let wait_ns = due_ns.saturating_sub(bench.clock.now_ns());
        bench.turn_for(&mut fleet, Duration::from_nanos(wait_ns))?;
        if fleet.open_count() == 0 {
            break;
        }
    }
    let measured = meter.stop(bench, 0);

    let mut outcome = Outcome::of(plan);
    outcome.rate = Some(rate);
    outcome.add_fleet(&fleet, &publisher.accepted);
    let tally = &fleet.tally;
    outcome.add_times(&fleet.connect, &fleet.subscribe, &tally.latency, &tally.timeline);
    outcome.add_publisher(&publisher);
    let rss_bytes = bench.process.and_then(Process::rss_bytes);
    outcome.cost = Cost::of(&measured, outcome.received, rss_bytes);
    outcome.deliveries_per_s = per_second(outcome.received, measured.window_ns);
    add_reach(&mut outcome, "first", &Percentiles::of(&first));
    add_reach(&mut outcome, "last", &Percentiles::of(&last));
    bench.close(&mut fleet)?;
    publisher.clean_up();
    Ok(outcome)
}

fn add_reach(outcome: &mut Outcome, which: &str, reach: &Percentiles) {
    outcome.extra(&format!("until the {which} subscriber, p50"), reach.p50 / 1e3, "ms");
    outcome.extra(&format!("until the {which} subscriber, p99"), reach.p99 / 1e3, "ms");
    outcome.extra(&format!("until the {which} subscriber, max"), reach.max / 1e3, "ms");
}

/// Publishes one event and waits until it has reached its subscribers. Returns its send time.
fn one_event(bench: &mut Bench, fleet: &mut Fleet, publisher: &mut Publisher) -> io::Result<u64> {
    // Only the first arrival is forgotten; the course over time goes on.
    fleet.tally.first_ns = 0;
    let accepted = publisher.accepted.iter().sum::<u64>();
    let service = publisher.sent as usize % fleet.tally.layout.services;
    let mut owed = publisher.accepted.clone();
    owed[service] += 1;
    let goal = fleet.tally.expected(&owed);
    let sent_ns = publisher.send_now()?;
    let end_ns = sent_ns + crate::schedule::STALL_NS;
    while !flow::is_delivered(fleet, goal) || publisher.in_flight() > 0 {
        fleet.turn(TURN)?;
        publisher.turn(Duration::ZERO)?;
        let is_refused =
            publisher.in_flight() == 0 && publisher.accepted.iter().sum::<u64>() == accepted;
        if is_refused || bench.clock.now_ns() > end_ns {
            break;
        }
    }
    Ok(sent_ns)
}
