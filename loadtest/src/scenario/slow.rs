//! Slow readers: a tenth of the connections stops reading while events flow. The others must miss
//! nothing; and the stalled ones, when they read again, must reach the newest revisions.

use std::io;

use super::{Bench, SETTLE_NS, TURN, UNDER_WAY_MAX, flow};
use crate::args::Plan;
use crate::fleet::Fleet;
use crate::outcome::{Cost, Outcome, Percentiles, per_second};
use crate::process::Process;
use crate::schedule::{Load, Schedule};

/// One connection in so many stalls.
const STALLED_EVERY: usize = 10;

/// Events a second, when the plan names no rate.
const RATE: f64 = 100.0;

/// How often a connection comes back after the server has closed it.
const RETURNS_MAX: u32 = 5;

/// Runs the test.
pub(super) fn run(bench: &mut Bench, plan: &Plan) -> io::Result<Outcome> {
    let stalled = plan.connections.div_ceil(STALLED_EVERY).min(plan.connections);
    let schedule = Schedule::Rate(plan.rate.unwrap_or(RATE));
    let mut fleet = bench.fleet(plan)?;
    bench.progress.begin("slow: connecting", plan.connections as u64);
    bench.open(&mut fleet, UNDER_WAY_MAX, stalled)?;
    let publisher = bench.publisher(plan, schedule)?;
    let rss_before = bench.process.and_then(Process::rss_bytes);
    (0..stalled).for_each(|index| fleet.stall(index));
    let load = Load {
        schedule,
        events_max: plan.messages.unwrap_or(u64::MAX),
        duration: plan.duration,
        messages_per_s_max: bench.messages_per_s_max(plan),
        subscribers: fleet.tally.subscribers(|index| index >= stalled),
    };
    let length = plan.messages.or(plan.duration.map(|duration| duration.as_secs()));
    bench.progress.begin("slow: publishing", length.unwrap_or_default());
    let mut flow = flow::run(bench, &mut fleet, publisher, &load)?;
    let rss_bytes = bench.process.and_then(Process::rss_bytes);

    // Events from here on are held back on purpose, and their latency means nothing.
    fleet.tally.is_timed = false;
    let timeline = fleet.tally.timeline.clone();
    bench.progress.begin("slow: the stalled read again", stalled as u64);
    let caught_up = catch_up(bench, &mut fleet, stalled, &flow.publisher.accepted)?;

    let mut outcome = Outcome::of(plan);
    outcome.rate = plan.rate.or(Some(RATE));
    outcome.add_fleet(&fleet, &flow.publisher.accepted);
    outcome.add_times(&fleet.connect, &fleet.subscribe, &fleet.tally.latency, &timeline);
    outcome.add_publisher(&flow.publisher);
    outcome.deliveries_per_s = per_second(flow.delivered, flow.elapsed_ns);
    outcome.cost = Cost::of(&flow.measured, flow.delivered, rss_bytes);
    outcome.lateness_us = Some(Percentiles::of(&flow.lateness));
    flow.remark(&mut outcome);
    outcome.extra("stalled connections", stalled as f64, "");
    outcome.extra("of them up to date in the end", caught_up as f64, "");
    outcome.extra("snapshots", fleet.tally.counts.snapshots as f64, "");
    // A close frame hardly ever gets through to a reader that stalls, so the code says little.
    let returned = fleet.counts.made.saturating_sub(plan.connections as u64);
    outcome.extra("closed by the server, and resumed", returned as f64, "");
    if let (Some(before), Some(after)) = (rss_before, rss_bytes) {
        let grown = after.saturating_sub(before) as f64 / 1_048_576.0;
        outcome.extra("server memory grown meanwhile, in all", grown, "MiB");
    }
    if caught_up < stalled {
        outcome.faults.push(format!(
            "{} stalled connections did not reach the newest revision",
            stalled - caught_up
        ));
    }
    bench.close(&mut fleet)?;
    flow.publisher.clean_up();
    Ok(outcome)
}

/// Lets the stalled connections read again, and reconnects those that the server has closed.
/// Returns how many reached the newest revision of all their services.
fn catch_up(
    bench: &mut Bench,
    fleet: &mut Fleet,
    stalled: usize,
    revisions: &[u64],
) -> io::Result<usize> {
    (0..stalled).for_each(|index| fleet.resume(index));
    let mut progress = (bench.clock.now_ns(), fleet.counts.bytes);
    let mut returns = vec![0; stalled];
    loop {
        fleet.turn(TURN)?;
        let behind: Vec<usize> =
            (0..stalled).filter(|index| !fleet.is_current(*index, revisions)).collect();
        let now_ns = bench.clock.now_ns();
        bench.progress.show((stalled - behind.len()) as u64);
        if fleet.counts.bytes > progress.1 {
            progress = (now_ns, fleet.counts.bytes);
        } else if behind.is_empty() || now_ns - progress.0 > SETTLE_NS {
            return Ok(stalled - behind.len());
        }
        for index in behind {
            if fleet.is_closed(index) && returns[index] < RETURNS_MAX {
                returns[index] += 1;
                fleet.start(index, false);
            }
        }
    }
}
