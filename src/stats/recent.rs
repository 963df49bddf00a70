//! Sliding figures: fan-out latency, and peaks of outboxes and of control's lock, of the last 10 and 60 seconds.
//!
//! Counters and histograms only grow, so the content of a histogram since some moment is the difference of
//! two readings. The writers do nothing for this: the monitor takes a sample once a second, and a reader
//! compares the present with the sample of 10 or 60 seconds ago.
//!
//! # Promises
//!
//! * The samples are bounded: those of [`limits::RECENT_LONG_MS`].
//! * A span is at most [`limits::SAMPLE_INTERVAL_MS`] longer than its name says, and shorter only
//!   if the server has not run for that long.
//!
//! Imports its siblings and `limits`. Part of `stats`.

use std::collections::VecDeque;

use super::{Counter, Reading, Stats};
use crate::limits;

/// The samples of the last minute.
#[derive(Debug, Default)]
pub struct Recent(VecDeque<Sample>);

#[derive(Debug)]
struct Sample {
    /// The time of the sample, in milliseconds of the steady clock.
    at_ms: u64,
    /// The sum of all shards' fan-out histograms at that time.
    fanout_us: Reading,
    /// The most bytes of an outbox since the sample before, by shard.
    outbox_bytes_peak: Vec<u64>,
    /// The longest that a shard, and that the timekeeper has carried out commands since the sample before.
    hold_us_peak: u64,
    turn_us_peak: u64,
}

impl Recent {
    /// Takes a sample. One thread calls it, each [`limits::SAMPLE_INTERVAL_MS`].
    pub fn sample(&mut self, stats: &Stats, now_ms: u64) {
        let kept_ms = limits::RECENT_LONG_MS + limits::SAMPLE_INTERVAL_MS;
        while self.0.front().is_some_and(|sample| sample.at_ms + kept_ms < now_ms) {
            self.0.pop_front();
        }
        self.0.push_back(Sample {
            at_ms: now_ms,
            fanout_us: stats.merged(|shard| &shard.fanout_us),
            outbox_bytes_peak: stats
                .shards
                .iter()
                .map(|shard| shard.outbox_bytes_peak.take())
                .collect(),
            hold_us_peak: stats.control.hold_us_peak.take(),
            turn_us_peak: stats.control.turn_us_peak.take(),
        });
    }

    /// Durations of fan-outs within a span of time.
    pub fn fanout_us(&self, stats: &Stats, now_ms: u64, span_ms: u64) -> Reading {
        let now = stats.merged(|shard| &shard.fanout_us);
        let before = self.0.iter().rev().find(|sample| sample.at_ms + span_ms <= now_ms);
        match before {
            Some(before) => now.since(&before.fanout_us),
            None => now,
        }
    }

    /// The most unsent bytes of one connection of a shard within a span of time.
    pub fn outbox_bytes_peak(&self, stats: &Stats, shard: usize, now_ms: u64, span_ms: u64) -> u64 {
        let of = |sample: &Sample| sample.outbox_bytes_peak.get(shard).copied().unwrap_or(0);
        self.peak(&stats.shards[shard].outbox_bytes_peak, of, now_ms, span_ms)
    }

    /// The longest that a shard carried out commands at a stretch within a span of time, in microseconds.
    pub fn hold_us_peak(&self, stats: &Stats, now_ms: u64, span_ms: u64) -> u64 {
        self.peak(&stats.control.hold_us_peak, |sample| sample.hold_us_peak, now_ms, span_ms)
    }

    /// The longest turn of the timekeeper within a span of time, in microseconds.
    pub fn turn_us_peak(&self, stats: &Stats, now_ms: u64, span_ms: u64) -> u64 {
        self.peak(&stats.control.turn_us_peak, |sample| sample.turn_us_peak, now_ms, span_ms)
    }

    /// The highest of a peak's samples within a span of time, and of what has come since the last one.
    fn peak(
        &self,
        present: &Counter,
        of: impl Fn(&Sample) -> u64,
        now_ms: u64,
        span_ms: u64,
    ) -> u64 {
        let samples = self.0.iter().rev().take_while(|sample| sample.at_ms + span_ms >= now_ms);
        samples.map(of).max().unwrap_or(0).max(present.value())
    }

    /// The same of all shards.
    pub fn outbox_bytes_peak_of_all(&self, stats: &Stats, now_ms: u64, span_ms: u64) -> u64 {
        let shards = 0..stats.shards.len();
        let peaks = shards.map(|shard| self.outbox_bytes_peak(stats, shard, now_ms, span_ms));
        peaks.max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_of_their_span_and_samples_are_few() {
        let (stats, mut recent) = (Stats::new(2), Recent::default());
        let shard = &stats.shards[1];
        for second in 0..300_u64 {
            // A slow minute, then a fast one, and so on.
            let us = if (second / 60) % 2 == 0 { 100_000 } else { 100 };
            shard.fanout_us.record(us);
            shard.outbox_bytes_peak.raise(us);
            recent.sample(&stats, second * 1_000);
            assert!(recent.0.len() <= 62, "{}", recent.0.len());
        }
        // The last fast minute ended at 240 s; the values after it are slow.
        let at = |span_ms| recent.fanout_us(&stats, 299_000, span_ms);
        assert_eq!((at(10_000).count(), at(60_000).count()), (10, 60));
        assert!(at(10_000).quantile(10) >= 100_000);
        let early = recent.fanout_us(&stats, 249_500, 60_000);
        assert!(early.quantile(10) < 110, "it had a fast part");
        assert_eq!(recent.outbox_bytes_peak(&stats, 1, 299_000, 10_000), 100_000);
        assert_eq!(recent.outbox_bytes_peak(&stats, 0, 299_000, 60_000), 0);
    }

    #[test]
    fn a_peak_is_over_when_its_span_is() {
        let (stats, mut recent) = (Stats::new(1), Recent::default());
        stats.shards[0].outbox_bytes_peak.raise(1_000);
        let peak =
            |recent: &Recent, now_ms, span_ms| recent.outbox_bytes_peak(&stats, 0, now_ms, span_ms);
        assert_eq!(peak(&recent, 0, 10_000), 1_000, "before the first sample");
        for second in 0..70 {
            let now_ms = second * 1_000;
            recent.sample(&stats, now_ms);
            let expected = |span_s| if second <= span_s { 1_000 } else { 0 };
            assert_eq!(peak(&recent, now_ms, 10_000), expected(10), "{second}");
            assert_eq!(peak(&recent, now_ms, 60_000), expected(60), "{second}");
        }
        stats.shards[0].outbox_bytes_peak.raise(7);
        assert_eq!(peak(&recent, 69_000, 10_000), 7);
    }

    #[test]
    fn the_longest_hold_of_a_minute_is_forgotten_after_it() {
        let (stats, mut recent) = (Stats::new(1), Recent::default());
        stats.control.hold_us_peak.raise(900);
        stats.control.turn_us_peak.raise(40_000);
        let both = |recent: &Recent, now_ms| {
            let hold_us = recent.hold_us_peak(&stats, now_ms, limits::RECENT_LONG_MS);
            (hold_us, recent.turn_us_peak(&stats, now_ms, limits::RECENT_LONG_MS))
        };
        assert_eq!(both(&recent, 0), (900, 40_000), "before the first sample");
        for second in 0..70 {
            recent.sample(&stats, second * 1_000);
            stats.control.hold_us_peak.raise(3);
            let expected = if second <= 60 { (900, 40_000) } else { (3, 0) };
            assert_eq!(both(&recent, second * 1_000), expected, "{second}");
        }
    }

    #[test]
    fn the_highest_of_a_span_is_not_that_of_all_times() {
        let (stats, mut recent) = (Stats::new(1), Recent::default());
        stats.shards[0].fanout_us.record(5_000_000);
        recent.sample(&stats, 0);
        stats.shards[0].fanout_us.record(100);
        let reading = recent.fanout_us(&stats, 20_000, 10_000);
        assert_eq!(reading.count(), 1);
        assert!((100..=106).contains(&reading.max), "{}", reading.max);
        assert_eq!(recent.fanout_us(&stats, 5_000, 10_000).max, 5_000_000);
    }
}
