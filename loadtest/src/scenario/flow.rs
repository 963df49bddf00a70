//! The flow: events are published on one thread while this one reads, until all are accounted for.
//!
//! Imports `schedule`, `fleet`, `process`. Used by every scenario that publishes more than one event
//! at a time.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hdrhistogram::Histogram;

use super::cpu_meter::CpuMeter;
use super::{Bench, TURN};
use crate::fleet::Fleet;
use crate::outcome::{Measured, Outcome};
use crate::publisher::Publisher;
use crate::schedule::{self, Gauge, Load, STALL_NS};

/// The result of a flow.
#[derive(Debug)]
pub(super) struct Flow {
    /// The publisher, for later steps.
    pub(super) publisher: Publisher,
    /// CPU time of both sides.
    pub(super) measured: Measured,
    /// From the first event to the last delivery.
    pub(super) elapsed_ns: u64,
    /// Deliveries in this flow.
    pub(super) delivered: u64,
    /// The delay of sending behind the schedule.
    pub(super) lateness: Histogram<u64>,
    /// Whether several events had to share a frame.
    pub(super) is_batched: bool,
    /// Why some events were not sent or answered.
    pub(super) faults: Vec<String>,
}

/// The number of deliveries of a fleet, in all forms.
fn delivered(fleet: &Fleet) -> u64 {
    let counts = &fleet.tally.counts;
    counts.received + counts.collapsed + counts.hollow
}

/// Publishes `load` and reads until every delivery is there, or none has come for 5 s.
pub(super) fn run(
    bench: &mut Bench,
    fleet: &mut Fleet,
    publisher: Publisher,
    load: &Load,
) -> io::Result<Flow> {
    let before = publisher.accepted.clone();
    let gauge = Arc::new(Gauge::default());
    let meter = CpuMeter::start(bench);
    let start_ns = meter.start_ns;
    let base = delivered(fleet);
    fleet.tally.mark(start_ns);
    let first_event = publisher.sent;
    let sender = schedule::start(publisher, load.clone(), Arc::clone(&gauge), bench.clock);
    while !gauge.is_finished.load(Ordering::Acquire) {
        fleet.turn(TURN)?;
        gauge.delivered.store(delivered(fleet) - base, Ordering::Relaxed);
        bench.progress.show(shown(load, &gauge, first_event, start_ns, bench.clock.now_ns()));
    }
    let paced = sender.join().map_err(|_| io::Error::other("the sending thread has failed"))?;
    let accepted = paced.publisher.accepted.iter().zip(&before).map(|(now, then)| now - then);
    let owed: u64 = accepted.zip(&load.subscribers).map(|(count, each)| count * each).sum();
    await_deliveries(bench, fleet, base + owed)?;
    let measured = meter.stop(bench, paced.cpu_ns);
    Ok(Flow {
        publisher: paced.publisher,
        measured,
        elapsed_ns: fleet.tally.last_ns.saturating_sub(start_ns),
        delivered: delivered(fleet) - base,
        lateness: paced.lateness,
        is_batched: paced.is_batched,
        faults: paced.faults,
    })
}

impl Flow {
    /// Moves the remarks into the outcome.
    pub(super) fn remark(&mut self, outcome: &mut Outcome) {
        outcome.faults.append(&mut self.faults);
        if self.is_batched {
            outcome.notes.push(
                "several events shared a frame, to stay below the server's message limit"
                    .to_owned(),
            );
        }
    }
}

/// Reads until `goal` deliveries are there, none has come for 5 s, or no connection is left to
/// read.
pub(super) fn await_deliveries(bench: &mut Bench, fleet: &mut Fleet, goal: u64) -> io::Result<()> {
    let mut progress = (bench.clock.now_ns(), delivered(fleet));
    while delivered(fleet) < goal {
        fleet.turn(TURN)?;
        let now_ns = bench.clock.now_ns();
        if delivered(fleet) > progress.1 {
            progress = (now_ns, delivered(fleet));
        } else if now_ns - progress.0 > STALL_NS || fleet.open_count() == 0 {
            break;
        }
    }
    Ok(())
}

/// The number of expected deliveries when `publisher`'s events are accepted.
pub(super) fn goal(fleet: &Fleet, publisher: &Publisher) -> u64 {
    fleet.tally.expected(&publisher.accepted)
}

/// The unit of the bar: events, or seconds if only the time is known.
fn shown(load: &Load, gauge: &Gauge, first_event: u64, start_ns: u64, now_ns: u64) -> u64 {
    if load.events_max == u64::MAX {
        return (now_ns - start_ns) / 1_000_000_000;
    }
    gauge.sent.load(Ordering::Relaxed).saturating_sub(first_event)
}

/// Whether a fleet has `goal` deliveries behind it.
pub(super) fn is_delivered(fleet: &Fleet, goal: u64) -> bool {
    delivered(fleet) >= goal
}
