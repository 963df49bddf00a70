//! Idle connections: their cost, and whether they are still open in the end.

use std::io;
use std::time::Duration;

use super::cpu_meter::CpuMeter;
use super::{Bench, UNDER_WAY_MAX, storm};
use crate::args::Plan;
use crate::outcome::{Cost, Outcome, duration_ns, per_second};
use crate::process::Process;
use crate::schedule::Schedule;

/// Seconds of idling, if the plan names none. Long enough for a ping to every connection.
const IDLE_S: u64 = 30;

/// Runs the test.
pub(super) fn run(bench: &mut Bench, plan: &Plan) -> io::Result<Outcome> {
    let mut publisher = bench.publisher(plan, Schedule::Rate(10.0))?;
    let rss_before = bench.process.and_then(Process::rss_bytes);
    let mut fleet = bench.fleet(plan)?;
    bench.progress.begin("idle: connecting", plan.connections as u64);
    bench.open(&mut fleet, UNDER_WAY_MAX, 0)?;
    let idle_ns = duration_ns(plan, IDLE_S);
    bench.progress.begin("idle: waiting", idle_ns / 1_000_000_000);

    let meter = CpuMeter::start(bench);
    let start_ns = meter.start_ns;
    while bench.clock.now_ns() - start_ns < idle_ns {
        fleet.turn(Duration::from_millis(50))?;
        publisher.turn(Duration::ZERO)?;
        bench.progress.show((bench.clock.now_ns() - start_ns) / 1_000_000_000);
    }
    let measured = meter.stop(bench, 0);
    let rss_after = bench.process.and_then(Process::rss_bytes);
    let pings = fleet.counts.pings;
    let event_ns = bench.clock.now_ns();
    storm::one_event_each(bench, &mut fleet, &mut publisher)?;

    let mut outcome = Outcome::of(plan);
    outcome.add_fleet(&fleet, &publisher.accepted);
    let tally = &fleet.tally;
    outcome.add_times(&fleet.connect, &fleet.subscribe, &tally.latency, &tally.timeline);
    outcome.add_publisher(&publisher);
    outcome.deliveries_per_s = per_second(outcome.received, tally.last_ns.saturating_sub(event_ns));
    outcome.cost = Cost::of(&measured, outcome.received, rss_after);
    // The time was spent on waiting, not on the one event at the end.
    outcome.cost.server_us_per_delivery = None;
    let open = outcome.connections_made.max(1) as f64;
    if let (Some(before), Some(after)) = (rss_before, rss_after) {
        let each = after.saturating_sub(before) as f64 / 1024.0 / open;
        outcome.extra("server memory per idle connection", each, "KiB");
    }
    if let Some(server) = measured.server {
        let share = server.total_ns as f64 / measured.window_ns.max(1) as f64 * 100.0;
        outcome.extra("server CPU while idle", share, "% of a core");
    }
    outcome.extra("pings answered", pings as f64, "");
    bench.close(&mut fleet)?;
    publisher.clean_up();
    Ok(outcome)
}
