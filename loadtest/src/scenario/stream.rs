//! Throughput and sustained load: a stream of events to all connections, in a flood or at a rate.

use std::io;

use super::{Bench, UNDER_WAY_MAX, flow};
use crate::args::Plan;
use crate::outcome::{Cost, Outcome, Percentiles, per_second};
use crate::process::Process;
use crate::schedule::{Load, Schedule};

/// Runs the test: a flood when the plan has no rate.
pub(super) fn run(bench: &mut Bench, plan: &Plan) -> io::Result<Outcome> {
    let schedule = plan.rate.map_or(Schedule::Flood { window: plan.window }, Schedule::Rate);
    let mut fleet = bench.fleet(plan)?;
    bench.progress.begin(&format!("{}: connecting", plan.test), plan.connections as u64);
    bench.open(&mut fleet, UNDER_WAY_MAX, 0)?;
    let publisher = bench.publisher(plan, schedule)?;
    let load = Load {
        schedule,
        events_max: plan.messages.unwrap_or(u64::MAX),
        duration: plan.duration,
        messages_per_s_max: bench.messages_per_s_max(plan),
        subscribers: fleet.tally.subscribers(|_| true),
    };
    let length = plan.messages.or(plan.duration.map(|duration| duration.as_secs()));
    bench.progress.begin(&format!("{}: publishing", plan.test), length.unwrap_or_default());
    let mut flow = flow::run(bench, &mut fleet, publisher, &load)?;
    let rss_bytes = bench.process.and_then(Process::rss_bytes);

    let mut outcome = Outcome::of(plan);
    outcome.rate = plan.rate;
    outcome.add_fleet(&fleet, &flow.publisher.accepted);
    outcome.add_times(
        &fleet.connect,
        &fleet.subscribe,
        &fleet.tally.latency,
        &fleet.tally.timeline,
    );
    outcome.add_publisher(&flow.publisher);
    outcome.deliveries_per_s = per_second(flow.delivered, flow.elapsed_ns);
    outcome.cost = Cost::of(&flow.measured, flow.delivered, rss_bytes);
    outcome.lateness_us = plan.rate.map(|_| Percentiles::of(&flow.lateness));
    flow.remark(&mut outcome);
    let per_frame = flow.delivered as f64 / fleet.counts.change_frames.max(1) as f64;
    outcome.extra("deliveries per frame", per_frame, "");
    bench.progress.begin(&format!("{}: closing", plan.test), plan.connections as u64);
    bench.close(&mut fleet)?;
    flow.publisher.clean_up();
    Ok(outcome)
}
