//! A histogram of times with a fixed relative error.
//!
//! Buckets double in width every 64 of them, so a recorded value is off by less than 1.6 %, and
//! recording is a shift and an increment: it runs once per delivery.

const SUB_BITS: u32 = 6;
const SUB_COUNT: u64 = 1 << SUB_BITS;
const BUCKET_COUNT: usize = ((64 - SUB_BITS as usize) + 1) << SUB_BITS;

/// Counts of nanosecond values.
#[derive(Debug)]
pub(crate) struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    max_ns: u64,
}

impl Histogram {
    pub(crate) fn new() -> Histogram {
        Histogram { buckets: vec![0; BUCKET_COUNT], count: 0, max_ns: 0 }
    }

    pub(crate) fn record(&mut self, value_ns: u64) {
        self.record_many(value_ns, 1);
    }

    /// Counts `value_ns` `times` over.
    pub(crate) fn record_many(&mut self, value_ns: u64, times: u64) {
        self.buckets[bucket(value_ns)] += times;
        self.count += times;
        self.max_ns = self.max_ns.max(value_ns);
    }

    /// The value below which `share` of the counts lie, in milliseconds; 0 when nothing was counted.
    pub(crate) fn quantile_ms(&self, share: f64) -> f64 {
        let rank = (self.count as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if *count > 0 && seen >= rank {
                return ceiling(index).min(self.max_ns) as f64 / 1e6;
            }
        }
        0.0
    }

    pub(crate) fn max_ms(&self) -> f64 {
        self.max_ns as f64 / 1e6
    }
}

fn bucket(value: u64) -> usize {
    if value < SUB_COUNT {
        return value as usize;
    }
    let shift = value.ilog2() - SUB_BITS;
    ((u64::from(shift) << SUB_BITS) + (value >> shift)) as usize
}

/// The greatest value that falls into the bucket.
fn ceiling(index: usize) -> u64 {
    let index = index as u64;
    if index < 2 * SUB_COUNT {
        return index;
    }
    let shift = (index >> SUB_BITS) - 1;
    let top = index - (shift << SUB_BITS);
    ((top + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket_and_is_off_by_under_two_percent() {
        for power in 0..60 {
            for value in [1_u64 << power, (1 << power) + (1 << power) / 3, (2 << power) - 1] {
                let top = ceiling(bucket(value));
                assert!(top >= value, "{value} is above its bucket's ceiling {top}");
                assert!(top - value <= value / 50, "{value} is far below its ceiling {top}");
                assert!(bucket(top + 1) == bucket(value) + 1);
            }
        }
    }

    #[test]
    fn quantiles_of_a_ramp_are_its_shares() {
        let mut ramp = Histogram::new();
        (1..=1_000).for_each(|millis| ramp.record(millis * 1_000_000));
        assert!((ramp.quantile_ms(0.5) - 500.0).abs() < 10.0);
        assert!((ramp.quantile_ms(0.99) - 990.0).abs() < 20.0);
    }
}
