//! The timeline: deliveries over time, for the chart.
//!
//! Imports nothing of the crate. Imported by `tally`, `outcome` and the scenarios.

/// How many buckets the course over time has before neighbours are merged.
const TIMELINE_BUCKETS_MAX: usize = 600;

/// The finest bucket of the course over time.
const TIMELINE_BUCKET_MS: u64 = 50;

/// Deliveries over time, in buckets that grow when the time gets long.
#[derive(Debug, Clone)]
pub(crate) struct Timeline {
    /// How many deliveries fell into each bucket.
    pub(crate) buckets: Vec<u64>,
    /// How long a bucket is.
    pub(crate) bucket_ms: u64,
    origin_ns: u64,
}

impl Timeline {
    /// Nothing yet, beginning at a moment.
    pub(crate) fn starting(origin_ns: u64) -> Self {
        Timeline { buckets: Vec::new(), bucket_ms: TIMELINE_BUCKET_MS, origin_ns }
    }

    /// Counts deliveries.
    pub(crate) fn add(&mut self, now_ns: u64, count: u64) {
        let age_ms = now_ns.saturating_sub(self.origin_ns) / 1_000_000;
        while (age_ms / self.bucket_ms) as usize >= TIMELINE_BUCKETS_MAX {
            self.buckets = self.buckets.chunks(2).map(|pair| pair.iter().sum()).collect();
            self.bucket_ms *= 2;
        }
        // Below `TIMELINE_BUCKETS_MAX` by the loop above.
        let index = (age_ms / self.bucket_ms) as usize;
        if index >= self.buckets.len() {
            self.buckets.resize(index + 1, 0);
        }
        self.buckets[index] += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeline_grows_coarser_and_loses_nothing() {
        let mut timeline = Timeline::starting(0);
        for second in 0..1_000 {
            timeline.add(second * 1_000_000_000, 3);
        }
        assert!(timeline.buckets.len() <= TIMELINE_BUCKETS_MAX);
        assert_eq!(timeline.buckets.iter().sum::<u64>(), 3_000);
    }
}
