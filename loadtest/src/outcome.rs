//! The outcome: all figures of one test, and whether it was passed.
//!
//! The content of the table, the JSON file and the page; none of them computes anything itself.
//!
//! Imports `args`, `engine`, `tally`, `fleet`, `publisher`. Imported by the scenarios and the reports.

use std::collections::BTreeMap;
use std::thread;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::args::Plan;
use crate::clock::{nanos, seconds};
use crate::engine::LongestHold;
use crate::fleet::Fleet;
use crate::process::CpuUse;
use crate::publisher::{self, Publisher};
use crate::timeline::Timeline;

/// The close code of a connection that is one too many of its user.
const TOO_MANY_CONNECTIONS: u16 = 4409;

/// From this share on a thread counts as saturated.
const BUSY_SHARE: f64 = 0.85;

/// Below this much CPU time the kernel's 10 ms steps say too little.
const CPU_NS_MIN: u64 = 50_000_000;

/// The points of the latency chart.
const CURVE: &[f64] =
    &[0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 97.5, 99.0, 99.5, 99.9, 99.95, 99.99, 99.999, 100.0];

/// Percentiles in microseconds.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Percentiles {
    /// The number of values.
    pub(crate) count: u64,
    /// Half were at most this.
    pub(crate) p50: f64,
    /// Nine of ten.
    pub(crate) p90: f64,
    /// 99 of 100.
    pub(crate) p99: f64,
    /// 999 of 1000.
    pub(crate) p999: f64,
    /// All.
    pub(crate) max: f64,
}

impl Percentiles {
    /// Reads them off a histogram of nanoseconds.
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Percentiles {
            count: histogram.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: if histogram.is_empty() { 0.0 } else { histogram.max() as f64 / 1e3 },
        }
    }
}

/// The CPU time of both sides over the time in which events flowed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Measured {
    /// The length of that time.
    pub(crate) window_ns: u64,
    /// The server, when it is local.
    pub(crate) server: Option<CpuUse>,
    /// Our reading thread.
    pub(crate) reader_ns: u64,
    /// Our sending thread.
    pub(crate) sender_ns: u64,
    /// The server's longest stretch of commands, if it counts them.
    pub(crate) longest_hold: Option<LongestHold>,
}

/// The costs of the two sides, in the form of a report.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Cost {
    /// The measured time in seconds.
    pub(crate) window_s: f64,
    /// The server's CPU seconds; absent when it is not local.
    pub(crate) server_cpu_s: Option<f64>,
    /// The server's CPU time per delivery; absent when there was too little to measure.
    pub(crate) server_us_per_delivery: Option<f64>,
    /// How busy the server's busiest thread was, from 0 to 1.
    pub(crate) server_busiest_share: Option<f64>,
    /// The longest for which a thread of the server carried out commands at a stretch; absent when the
    /// server does not count that.
    pub(crate) longest_hold: Option<LongestHold>,
    /// The server's resident memory at the end.
    pub(crate) server_rss_bytes: Option<u64>,
    /// Our own CPU seconds.
    pub(crate) own_cpu_s: f64,
    /// Our own CPU time per delivery.
    pub(crate) own_us_per_delivery: f64,
    /// How busy our busiest thread was, from 0 to 1.
    pub(crate) own_busiest_share: f64,
    /// Which side was the busy one, as text.
    pub(crate) busy_side: String,
}

impl Cost {
    /// Relates the costs to `deliveries`.
    pub(crate) fn of(measured: &Measured, deliveries: u64, rss_bytes: Option<u64>) -> Self {
        let window_ns = measured.window_ns.max(1) as f64;
        let per_delivery = |ns: u64| ns as f64 / 1e3 / deliveries.max(1) as f64;
        let own_ns = measured.reader_ns + measured.sender_ns;
        let own_busiest = measured.reader_ns.max(measured.sender_ns) as f64 / window_ns;
        let server_busiest = measured.server.map(|server| server.busiest_ns as f64 / window_ns);
        let shares = Shares {
            own_busiest,
            own: own_ns as f64 / window_ns,
            server: server_busiest
                .zip(measured.server)
                .map(|(busiest, server)| (busiest, server.total_ns as f64 / window_ns)),
            cores: thread::available_parallelism().map_or(1, usize::from) as f64,
        };
        let is_too_short = measured.window_ns < CPU_NS_MIN;
        let busy_side = if is_too_short { "too short to say" } else { busy_side(shares) };
        let is_measurable = |server: &CpuUse| server.total_ns >= CPU_NS_MIN && deliveries > 0;
        Cost {
            window_s: seconds(measured.window_ns),
            server_cpu_s: measured.server.map(|server| seconds(server.total_ns)),
            server_us_per_delivery: measured
                .server
                .filter(is_measurable)
                .map(|server| per_delivery(server.total_ns)),
            server_busiest_share: server_busiest,
            longest_hold: measured.longest_hold,
            server_rss_bytes: rss_bytes,
            own_cpu_s: seconds(own_ns),
            own_us_per_delivery: per_delivery(own_ns),
            own_busiest_share: own_busiest,
            busy_side: busy_side.to_owned(),
        }
    }
}

/// How busy the two sides were, as shares of one core.
#[derive(Debug, Clone, Copy)]
struct Shares {
    /// Our busiest thread.
    own_busiest: f64,
    /// All our threads.
    own: f64,
    /// The server's busiest thread and all its threads, when it is local.
    server: Option<(f64, f64)>,
    /// How many cores there are.
    cores: f64,
}

/// Reports which side limited the figures.
fn busy_side(shares: Shares) -> &'static str {
    let is_own_busy = shares.own_busiest > BUSY_SHARE;
    let Some((server_busiest, server)) = shares.server else {
        return if is_own_busy {
            "THE LOAD GENERATOR was saturated, and the server's CPU time cannot be seen from here"
        } else {
            "the load generator was not saturated; the server's CPU time cannot be seen from here"
        };
    };
    if is_own_busy && server_busiest < shares.own_busiest {
        "THE LOAD GENERATOR was the busy side: these figures are its limit, not the server's"
    } else if server_busiest > BUSY_SHARE {
        "the server was the busy side"
    } else if shares.own + server > BUSY_SHARE * shares.cores {
        "both sides together saturated the machine"
    } else if server >= shares.own {
        "neither was saturated; the server was the busier side"
    } else {
        "neither was saturated; the load generator was the busier side"
    }
}

/// A figure that only one kind of test has.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Extra {
    /// Its name.
    pub(crate) name: String,
    /// Its value.
    pub(crate) value: f64,
    /// The unit.
    pub(crate) unit: &'static str,
}

/// All figures of one test.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Outcome {
    /// The test.
    pub(crate) test: String,
    /// Sockets asked for (per round).
    pub(crate) connections: usize,
    /// Services published to.
    pub(crate) services: usize,
    /// Services per socket.
    pub(crate) subscriptions: usize,
    /// Bytes of padding per event.
    pub(crate) payload_bytes: usize,
    /// Events per second, if they had a rate.
    pub(crate) rate: Option<f64>,
    /// How events reached the server; empty where nothing was published.
    pub(crate) publish_by: String,
    /// Over how many connections.
    pub(crate) publishers: usize,
    /// Sockets that opened.
    pub(crate) connections_made: u64,
    /// Sockets that did not.
    pub(crate) connections_failed: u64,
    /// From `connect` to the answer to the upgrade, in microseconds.
    pub(crate) connect_us: Percentiles,
    /// From `connect` to the answer to the last subscription, in microseconds.
    pub(crate) subscribe_us: Percentiles,
    /// Events sent.
    pub(crate) events_sent: u64,
    /// Events that the server accepted.
    pub(crate) events_accepted: u64,
    /// Events that the server refused, by reason.
    pub(crate) events_refused: BTreeMap<&'static str, u64>,
    /// Expected deliveries: accepted events times subscribers.
    pub(crate) expected: u64,
    /// Deliveries that came.
    pub(crate) received: u64,
    /// Deliveries that never came.
    pub(crate) lost: u64,
    /// Deliveries that came again.
    pub(crate) duplicated: u64,
    /// Deliveries that came after a later one.
    pub(crate) out_of_order: u64,
    /// Changes that a snapshot replaced.
    pub(crate) collapsed: u64,
    /// Bytes read per delivery.
    pub(crate) bytes_per_delivery: f64,
    /// Deliveries per second, from the first event to the last delivery.
    pub(crate) deliveries_per_s: f64,
    /// From the send time of an event to the reading of its frame, in microseconds.
    pub(crate) latency_us: Percentiles,
    /// The latency at more percentiles, for the chart.
    pub(crate) latency_curve: Vec<(f64, f64)>,
    /// The delay of sending behind the schedule, in microseconds.
    pub(crate) lateness_us: Option<Percentiles>,
    /// The length of a bucket of `timeline`.
    pub(crate) timeline_bucket_ms: u64,
    /// Deliveries over time.
    pub(crate) timeline: Vec<u64>,
    /// The costs of both sides.
    pub(crate) cost: Cost,
    /// Connections that the server ended, by close code.
    pub(crate) closed_by_server: BTreeMap<u16, u64>,
    /// Errors that the server answered to subscribers, by code.
    pub(crate) errors: BTreeMap<String, u64>,
    /// Figures of this kind of test.
    pub(crate) extras: Vec<Extra>,
    /// Remarks for a reader of the figures.
    pub(crate) notes: Vec<String>,
    /// The reasons why the test failed.
    pub(crate) faults: Vec<String>,
}

impl Outcome {
    /// The figures that every test has from its plan.
    pub(crate) fn of(plan: &Plan) -> Self {
        Outcome {
            test: plan.test.to_string(),
            connections: plan.connections,
            services: plan.services,
            subscriptions: plan.subscriptions,
            payload_bytes: plan.payload,
            ..Outcome::default()
        }
    }

    /// Whether the exit status may be 0.
    pub(crate) fn is_passed(&self) -> bool {
        self.faults.is_empty()
    }

    /// Adds a figure.
    pub(crate) fn extra(&mut self, name: &str, value: f64, unit: &'static str) {
        self.extras.push(Extra { name: name.to_owned(), value, unit });
    }

    /// Adds the counts of a fleet. A storm has several fleets, one after the other.
    pub(crate) fn add_fleet(&mut self, fleet: &Fleet, accepted: &[u64]) {
        let (counts, tally) = (&fleet.counts, &fleet.tally);
        self.connections_made += counts.made;
        self.connections_failed += counts.failed;
        self.expected += tally.expected(accepted);
        self.lost += tally.lost(accepted);
        self.received += tally.counts.received;
        self.duplicated += tally.counts.duplicated;
        self.out_of_order += tally.counts.misordered;
        self.collapsed += tally.counts.collapsed;
        self.bytes_per_delivery = counts.bytes as f64 / tally.counts.received.max(1) as f64;
        for (code, count) in &counts.closed_by_server {
            *self.closed_by_server.entry(*code).or_default() += count;
        }
        for (code, count) in &counts.errors {
            *self.errors.entry(code.clone()).or_default() += count;
        }
        if let Some(reason) = &counts.failure {
            self.notes.push(format!("the first connection that failed: {reason}"));
        }
        let asked = counts.made * tally.layout.per_connection as u64;
        if counts.subscribed < asked {
            let missing = asked - counts.subscribed;
            self.faults.push(format!("{missing} subscriptions were never answered"));
        }
        if counts.broken > 0 {
            self.faults
                .push(format!("{} connections sent no valid WebSocket frames", counts.broken));
        }
    }

    /// Adds the histograms and the course over time.
    pub(crate) fn add_times(
        &mut self,
        connect: &Histogram<u64>,
        subscribe: &Histogram<u64>,
        latency: &Histogram<u64>,
        timeline: &Timeline,
    ) {
        self.connect_us = Percentiles::of(connect);
        self.subscribe_us = Percentiles::of(subscribe);
        self.latency_us = Percentiles::of(latency);
        if !latency.is_empty() {
            let at = |p: f64| (p, latency.value_at_percentile(p) as f64 / 1e3);
            self.latency_curve = CURVE.iter().map(|p| at(*p)).collect();
        }
        self.timeline_bucket_ms = timeline.bucket_ms;
        self.timeline.clone_from(&timeline.buckets);
    }

    /// Adds the counts of the publisher.
    pub(crate) fn add_publisher(&mut self, publisher: &Publisher) {
        self.publish_by = publisher.publish_by.to_string();
        self.publishers = publisher.line_count();
        self.events_sent = publisher.sent;
        self.events_accepted = publisher.accepted.iter().sum();
        self.events_refused = publisher::refusals(publisher);
        if publisher.rate_limited > 0 {
            self.notes.push(format!(
                "{} events were refused as rate_limited: the load was smaller than asked for",
                publisher.rate_limited
            ));
        }
        if publisher.refused > 0 {
            let words = publisher.refusal.as_deref().unwrap_or_default();
            self.faults.push(format!("{} events were refused ({words})", publisher.refused));
        }
    }

    /// Decides whether the test is passed. The last step.
    pub(crate) fn judge(&mut self) {
        let counted = [
            (self.lost, "deliveries lost"),
            (self.duplicated, "deliveries duplicated"),
            (self.out_of_order, "deliveries out of order"),
            (self.connections_failed, "connections failed"),
        ];
        for (count, what) in counted {
            if count > 0 {
                self.faults.push(format!("{count} {what}"));
            }
        }
        if self.closed_by_server.contains_key(&TOO_MANY_CONNECTIONS) {
            self.notes.push(String::from(
                "all connections are of one user, the token's: raise the server's \
                 --connections-per-user-max",
            ));
        }
        if self.events_accepted == 0 {
            self.faults.push("the server accepted no event".to_owned());
        } else if self.expected == 0 {
            self.faults.push("nobody was subscribed when events were published".to_owned());
        }
        if self.collapsed > 0 {
            self.notes.push(format!(
                "{} changes came as snapshots, because a reader was slow: not lost, not timed",
                self.collapsed
            ));
        }
    }
}

/// Deliveries per second over a time; zero when there was none.
pub(crate) fn per_second(count: u64, elapsed_ns: u64) -> f64 {
    if elapsed_ns == 0 { 0.0 } else { count as f64 * 1e9 / elapsed_ns as f64 }
}

/// The length that a plan asks for in seconds, or the given one.
pub(crate) fn duration_ns(plan: &Plan, default_s: u64) -> u64 {
    plan.duration.map_or(default_s * 1_000_000_000, nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busy_side_is_named() {
        let side = |own, busiest, all| {
            let server = Some((busiest, all));
            busy_side(Shares { own_busiest: own, own, server, cores: 2.0 })
        };
        assert!(side(0.95, 0.5, 0.5).starts_with("THE LOAD"));
        assert!(side(0.95, 0.97, 1.0).starts_with("the server"));
        assert!(side(0.8, 0.5, 1.0).starts_with("both"));
        assert!(side(0.2, 0.1, 0.3).ends_with("the server was the busier side"));
        assert!(side(0.2, 0.1, 0.1).ends_with("the load generator was the busier side"));
        let unseen = Shares { own_busiest: 0.9, own: 0.9, server: None, cores: 2.0 };
        assert!(busy_side(unseen).starts_with("THE LOAD"));
    }

    #[test]
    fn any_lost_duplicated_or_misordered_delivery_fails_the_test() {
        for index in 0..4 {
            let mut outcome = Outcome { events_accepted: 1, expected: 1, ..Outcome::default() };
            match index {
                1 => outcome.lost = 1,
                2 => outcome.duplicated = 1,
                3 => outcome.out_of_order = 1,
                _ => {}
            }
            outcome.judge();
            assert_eq!(outcome.is_passed(), index == 0);
        }
    }
}
