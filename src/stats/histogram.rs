//! Durations, counted in buckets of about six per cent width.
//!
//! Sixteen buckets a power of two: the layout of `HdrHistogram` (Gil Tene), with one writer and
//! plain adds. Values are whole numbers, here microseconds.
//!
//! Imports nothing of the crate. Part of `stats`.

use super::Counter;

/// Buckets in a power of two.
const STEPS: usize = 16;
/// The highest power of two with buckets of its own: 2^36 us are 19 hours.
const POWERS: usize = 33;
const BUCKETS: usize = STEPS * POWERS;

/// A histogram with one writer.
#[derive(Debug)]
pub struct Histogram {
    buckets: Box<[Counter]>,
    sum: Counter,
    max: Counter,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram {
            buckets: (0..BUCKETS).map(|_| Counter::default()).collect(),
            sum: Counter::default(),
            max: Counter::default(),
        }
    }
}

impl Histogram {
    /// Counts a value. Only the one writer may.
    pub fn record(&self, value: u64) {
        self.buckets[bucket(value)].add(1);
        self.sum.add(value);
        self.max.raise(value);
    }
}

fn bucket(value: u64) -> usize {
    let value = value.min((1 << (POWERS + 3)) - 1);
    let power = 63_usize.saturating_sub(value.leading_zeros() as usize);
    if power < 4 {
        return usize::try_from(value).unwrap_or(0);
    }
    let step = usize::try_from((value >> (power - 4)) & 15).unwrap_or(0);
    (power - 3) * STEPS + step
}

/// The highest value of a bucket.
fn upper(bucket: usize) -> u64 {
    if bucket < STEPS {
        return bucket as u64;
    }
    let (power, step) = (bucket / STEPS + 3, (bucket % STEPS) as u64);
    ((16 + step + 1) << (power - 4)) - 1
}

/// The sum of histograms at one moment.
#[derive(Debug, Clone)]
pub struct Reading {
    counts: Vec<u64>,
    /// The sum of all values.
    pub sum: u64,
    /// The highest value.
    pub max: u64,
}

impl Default for Reading {
    fn default() -> Reading {
        Reading { counts: vec![0; BUCKETS], sum: 0, max: 0 }
    }
}

impl Reading {
    /// Adds the present content of a histogram.
    pub fn add(&mut self, histogram: &Histogram) {
        for (count, bucket) in self.counts.iter_mut().zip(&histogram.buckets) {
            *count += bucket.value();
        }
        self.sum += histogram.sum.value();
        self.max = self.max.max(histogram.max.value());
    }

    /// The values that were added since an earlier reading of the same histograms. Of the highest
    /// value only its bucket is known, so it is 6 % too high at most.
    #[must_use]
    pub fn since(&self, before: &Reading) -> Reading {
        let pairs = self.counts.iter().zip(&before.counts);
        let counts: Vec<u64> = pairs.map(|(now, then)| now.saturating_sub(*then)).collect();
        let highest = counts.iter().rposition(|&count| count > 0);
        Reading {
            sum: self.sum.saturating_sub(before.sum),
            max: highest.map_or(0, |bucket| upper(bucket).min(self.max)),
            counts,
        }
    }

    /// The number of values.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The value that `per_mille` of a thousand values do not exceed, 6 % too high at most.
    pub fn quantile(&self, per_mille: u64) -> u64 {
        let count = self.count();
        if count == 0 {
            return 0;
        }
        let rank = (count * per_mille).div_ceil(1_000).max(1);
        let mut seen = 0;
        for (bucket, &here) in self.counts.iter().enumerate() {
            seen += here;
            if seen >= rank {
                return upper(bucket).min(self.max);
            }
        }
        self.max
    }

    /// The number of values up to `bound`, which is exact if `bound` is 2^n - 1.
    pub fn at_most(&self, bound: u64) -> u64 {
        let last = bucket(bound);
        self.counts[..=last].iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket() {
        let mut rng = crate::rng::Rng::seeded(1);
        let mut values: Vec<u64> = (0..2_000).collect();
        values.extend((0..5_000).map(|_| rng.next() >> (28 + rng.below(36))));
        for value in values {
            let bucket = bucket(value);
            assert!(value <= upper(bucket), "{value}");
            assert!(bucket == 0 || value > upper(bucket - 1), "{value}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_close() {
        let histogram = Histogram::default();
        for value in 1..=10_000 {
            histogram.record(value);
        }
        let mut reading = Reading::default();
        reading.add(&histogram);
        for (per_mille, exact) in [(500, 5_000), (990, 9_900), (1_000, 10_000)] {
            let got = reading.quantile(per_mille);
            assert!(got >= exact && got <= exact + exact / 16 + 1, "{per_mille}: {got}");
        }
        assert_eq!((reading.count(), reading.max), (10_000, 10_000));
        assert_eq!(reading.at_most(1_023), 1_023);
    }
}
