//! The storm: all sockets connect and subscribe together, one event must reach all, then they
//! leave, some of them by a reset; and again.

use std::io;
use std::time::Duration;

use super::cpu_meter::CpuMeter;
use super::{Bench, flow};
use crate::args::Plan;
use crate::clock::seconds;
use crate::fleet::Fleet;
use crate::outcome::{Cost, Measured, Outcome, per_second};
use crate::process::Process;
use crate::publisher::Publisher;
use crate::schedule::Schedule;
use crate::tally;

/// Rounds, when the plan names no number.
const ROUNDS: u64 = 5;

/// One connection in so many ends with a reset instead of a closing handshake.
const ABORT_EVERY: usize = 4;

/// Runs the rounds and adds them up.
pub(super) fn run(bench: &mut Bench, plan: &Plan) -> io::Result<Outcome> {
    let rounds = plan.messages.unwrap_or(ROUNDS);
    // One event per service and round: no more than the server's limit allows.
    let mut publisher = bench.publisher(plan, Schedule::Rate(10.0))?;
    let mut outcome = Outcome::of(plan);
    let (mut connect, mut subscribe) = (tally::histogram(), tally::histogram());
    let mut latency = tally::histogram();
    let (mut connecting_ns, mut slowest_ns, mut left) = (0, 0, 0);
    let mut last = None;
    let meter = CpuMeter::start(bench);
    for round in 1..=rounds {
        let connections = plan.connections as u64;
        bench.progress.begin(&format!("storm: round {round} of {rounds}"), connections);
        let mut fleet = bench.fleet(plan)?;
        let began_ns = bench.clock.now_ns();
        bench.open(&mut fleet, usize::MAX, 0)?;
        let took_ns = bench.clock.now_ns() - began_ns;
        connecting_ns += took_ns;
        slowest_ns = slowest_ns.max(took_ns);
        one_event_each(bench, &mut fleet, &mut publisher)?;
        outcome.add_fleet(&fleet, &publisher.accepted);
        // Histograms of equal bounds: adding cannot fail.
        let _ = connect.add(&fleet.connect);
        let _ = subscribe.add(&fleet.subscribe);
        let _ = latency.add(&fleet.tally.latency);
        left += leave(bench, &mut fleet)?;
        last = Some(fleet.tally.timeline);
    }
    let measured = meter.stop(bench, 0);
    outcome.add_publisher(&publisher);
    if let Some(timeline) = last {
        outcome.add_times(&connect, &subscribe, &latency, &timeline);
    }
    outcome.cost = cost(&measured, &outcome, bench.process.and_then(Process::rss_bytes));
    outcome.deliveries_per_s = per_second(outcome.received, measured.window_ns);
    outcome.extra("rounds", rounds as f64, "");
    outcome.extra("connect + subscribe", per_second(subscribe.len(), connecting_ns), "/s");
    outcome.extra("slowest round until all were subscribed", seconds(slowest_ns) * 1e3, "ms");
    if let Some(server) = measured.server {
        let per_connection = server.total_ns as f64 / 1e3 / outcome.connections_made.max(1) as f64;
        outcome.extra("server CPU per connection", per_connection, "us");
    }
    if left > 0 {
        outcome.notes.push(format!("{left} connections were not closed by the server within 3 s"));
    }
    publisher.clean_up();
    Ok(outcome)
}

/// The CPU figures. Per delivery they would be misleading: most of the work is connecting.
fn cost(measured: &Measured, outcome: &Outcome, rss_bytes: Option<u64>) -> Cost {
    let mut cost = Cost::of(measured, outcome.received, rss_bytes);
    cost.server_us_per_delivery = None;
    cost
}

/// Publishes one event to each service and waits until it has reached all subscribers.
pub(super) fn one_event_each(
    bench: &mut Bench,
    fleet: &mut Fleet,
    publisher: &mut Publisher,
) -> io::Result<()> {
    fleet.tally.mark(bench.clock.now_ns());
    for _ in 0..fleet.tally.layout.services {
        publisher.send_now()?;
        // Reads the frames that have arrived, and keeps the pace below the server's limit of
        // messages.
        fleet.turn(Duration::ZERO)?;
        publisher.turn(Duration::ZERO)?;
        if bench.messages_per_s_max.is_some() && fleet.tally.layout.services > 100 {
            bench.turn_for(fleet, Duration::from_millis(15))?;
        }
    }
    let mut rounds = 0;
    while publisher.in_flight() > 0 && rounds < 1_000 {
        fleet.turn(Duration::from_millis(1))?;
        publisher.turn(Duration::ZERO)?;
        rounds += 1;
    }
    publisher.settle()?;
    let goal = flow::goal(fleet, publisher);
    flow::await_deliveries(bench, fleet, goal)
}

/// Ends all connections, every fourth with a reset. Returns how many did not close in time.
fn leave(bench: &mut Bench, fleet: &mut Fleet) -> io::Result<usize> {
    let total = fleet.place_count();
    for index in (0..total).step_by(ABORT_EVERY) {
        fleet.end(index, true);
    }
    for index in 0..total {
        fleet.end(index, false);
    }
    let end_ns = bench.clock.now_ns() + super::CLOSE_NS;
    while fleet.open_count() > 0 && bench.clock.now_ns() < end_ns {
        fleet.turn(super::TURN)?;
    }
    let left = fleet.open_count();
    (0..total).for_each(|index| fleet.end(index, true));
    Ok(left)
}
