//! The server's engine: for how long a thread carried out commands at a stretch, by the server's own account.
//!
//! While one thread carries out commands, those of all others wait. The server counts these times in a
//! histogram for its shards and one for its timekeeper, and has the longest of the last minute of both. The
//! difference of the histograms tells what belongs to a test, to a bucket; the gauge tells it exactly.
//!
//! Imports `target`. Imported by `outcome` and the scenarios.

use serde::Serialize;

use crate::target::Target;

/// The span of the server's gauge.
const GAUGE_NS: u64 = 60_000_000_000;

/// The longest times of a test, in microseconds. The server may have needed less, down to the next lower
/// bucket of its histogram, if the same minute saw a longer time before the test.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct LongestHold {
    /// Of a shard, which serves no socket meanwhile. None if no shard carried out anything.
    pub(crate) shard_us: Option<f64>,
    /// Of the timekeeper, which carries out what takes long.
    pub(crate) timekeeper_us: Option<f64>,
}

/// What the server had counted at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Holds {
    shard: Counted,
    timekeeper: Counted,
}

/// One kind of thread.
#[derive(Debug, Clone, Default)]
struct Counted {
    /// How many times took at most so many seconds, by rising bound.
    buckets: Vec<(f64, u64)>,
    /// The longest of the last minute in seconds, where the server says so.
    peak_s: Option<f64>,
}

impl Holds {
    /// Asks the server. None if it does not count this.
    pub(crate) fn of_server(target: &Target) -> Option<Holds> {
        Holds::of(&target.metrics()?)
    }

    /// Reads a page of metrics. None if the server does not count this.
    pub(crate) fn of(page: &str) -> Option<Holds> {
        let counted = |histogram: &str, thread: &str| {
            let start = format!("{histogram}_bucket{{le=\"");
            let buckets = page.lines().filter_map(|line| {
                let (bound, count) = line.strip_prefix(&start)?.split_once("\"} ")?;
                // The last bound is "+Inf".
                Some((bound.parse().ok()?, count.parse().ok()?))
            });
            let peak = format!("fanfare_control_hold_seconds_peak{{by=\"{thread}\"}} ");
            let peak_s = page.lines().find_map(|line| line.strip_prefix(&peak)?.parse().ok());
            Counted { buckets: buckets.collect(), peak_s }
        };
        let shard = counted("fanfare_control_hold_seconds", "shard");
        let timekeeper = counted("fanfare_control_turn_seconds", "timekeeper");
        (!shard.buckets.is_empty()).then_some(Holds { shard, timekeeper })
    }

    /// The longest times since an earlier reading, `elapsed_ns` ago.
    pub(crate) fn longest_since(&self, before: &Holds, elapsed_ns: u64) -> LongestHold {
        LongestHold {
            shard_us: self.shard.longest_us_since(&before.shard, elapsed_ns),
            timekeeper_us: self.timekeeper.longest_us_since(&before.timekeeper, elapsed_ns),
        }
    }
}

impl Counted {
    fn longest_us_since(&self, before: &Counted, elapsed_ns: u64) -> Option<f64> {
        let bound_s = self.bound_s_since(before)?;
        // A test that is longer than the gauge may have had its longest time before that.
        let peak_s = self.peak_s.filter(|_| elapsed_ns < GAUGE_NS);
        Some(peak_s.map_or(bound_s, |peak_s| peak_s.min(bound_s)) * 1e6)
    }

    /// The upper bound of the highest bucket that has grown.
    fn bound_s_since(&self, before: &Counted) -> Option<f64> {
        let pairs = self.buckets.iter().zip(&before.buckets);
        let grown: Vec<(f64, u64)> = pairs
            .map(|((bound_s, now), (_, then))| (*bound_s, now.saturating_sub(*then)))
            .collect();
        let all = grown.last().map(|(_, count)| *count).filter(|count| *count > 0)?;
        grown.iter().find(|(_, count)| *count == all).map(|(bound_s, _)| *bound_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(shard: [u64; 3], timekeeper: [u64; 3], peaks: Option<(f64, f64)>) -> Holds {
        let mut lines = vec!["# TYPE fanfare_control_hold_seconds histogram".to_owned()];
        for (name, counts) in [("hold", shard), ("turn", timekeeper)] {
            let name = format!("fanfare_control_{name}_seconds");
            let buckets = ["0.000063", "0.000255", "0.001023"].iter().zip(counts);
            lines.extend(
                buckets.map(|(bound, count)| format!("{name}_bucket{{le=\"{bound}\"}} {count}")),
            );
            lines.push(format!("{name}_bucket{{le=\"+Inf\"}} {}", counts[2]));
            lines.push(format!("{name}_sum 0.5"));
        }
        if let Some((shard, timekeeper)) = peaks {
            let name = "fanfare_control_hold_seconds_peak";
            lines.push(format!("{name}{{by=\"shard\"}} {shard}"));
            lines.push(format!("{name}{{by=\"timekeeper\"}} {timekeeper}"));
        }
        Holds::of(&lines.join("\n")).expect("it has the histogram")
    }

    fn longest(before: &Holds, after: &Holds, elapsed_ns: u64) -> (Option<u64>, Option<u64>) {
        let longest = after.longest_since(before, elapsed_ns);
        let us = |value: Option<f64>| value.map(|us| us.round() as u64);
        (us(longest.shard_us), us(longest.timekeeper_us))
    }

    #[test]
    fn the_gauge_tells_the_longest_where_it_belongs_to_the_test() {
        let before = page([5, 5, 9], [1, 1, 1], Some((0.0009, 0.00002)));
        let after = page([8, 9, 13], [1, 4, 4], Some((0.0009, 0.0001)));
        assert_eq!(longest(&before, &after, 1_000), (Some(255), Some(100)), "not the earlier 900");
        let later = page([8, 9, 14], [1, 4, 4], Some((0.0007, 0.0001)));
        assert_eq!(longest(&after, &later, 1_000), (Some(700), None), "and no turn at all");
        assert_eq!(longest(&after, &later, GAUGE_NS).0, Some(1_023), "a long test has the bucket");
    }

    #[test]
    fn a_server_without_the_gauge_has_the_bucket_and_another_has_nothing() {
        let (before, after) = (page([0, 0, 0], [0, 0, 0], None), page([3, 3, 3], [0, 0, 2], None));
        assert_eq!(longest(&before, &after, 1_000), (Some(63), Some(1_023)));
        assert!(Holds::of("# TYPE http_requests_total counter\nhttp_requests_total 3\n").is_none());
    }
}
