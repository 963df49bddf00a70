//! The Prometheus text format, version 0.0.4.
//!
//! Only the parts that the server uses: counters, gauges and histograms, with labels that are
//! written here and need no escaping.
//!
//! Imports nothing of the crate but `stats`. Imported by `http`.

use std::fmt::Write as _;

use super::Reading;

/// Upper bounds of the exported histogram buckets: 2^n - 1 microseconds, which our own buckets hit
/// exactly.
const BOUND_POWERS: [u32; 12] = [6, 8, 10, 11, 12, 13, 14, 15, 16, 18, 20, 23];

/// A page of metrics being written.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
}

impl Page {
    /// Starts a metric: its help and its kind (`counter`, `gauge` or `histogram`).
    pub fn metric(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// A sample of the metric; `labels` as in `shard="0"`, or empty.
    pub fn sample(&mut self, name: &str, labels: &str, value: u64) {
        let _ = match labels {
            "" => writeln!(self.text, "{name} {value}"),
            _ => writeln!(self.text, "{name}{{{labels}}} {value}"),
        };
    }

    /// The same of a time in microseconds, exported in seconds as is the custom.
    #[allow(clippy::cast_precision_loss, reason = "durations of up to 285 years are exact enough")]
    pub fn seconds(&mut self, name: &str, labels: &str, us: u64) {
        let _ = writeln!(self.text, "{name}{{{labels}}} {}", us as f64 / 1e6);
    }

    /// A counter or gauge without labels, help included.
    pub fn single(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.metric(name, kind, help);
        self.sample(name, "", value);
    }

    /// A histogram of microseconds, exported in seconds as is the custom.
    #[allow(clippy::cast_precision_loss, reason = "durations of up to 285 years are exact enough")]
    pub fn histogram(&mut self, name: &str, help: &str, reading: &Reading) {
        self.metric(name, "histogram", help);
        for power in BOUND_POWERS {
            let bound = (1_u64 << power) - 1;
            let le = bound as f64 / 1e6;
            let _ = writeln!(self.text, "{name}_bucket{{le=\"{le}\"}} {}", reading.at_most(bound));
        }
        let _ = writeln!(self.text, "{name}_bucket{{le=\"+Inf\"}} {}", reading.count());
        let _ = writeln!(self.text, "{name}_sum {}", reading.sum as f64 / 1e6);
        let _ = writeln!(self.text, "{name}_count {}", reading.count());
    }

    /// The page's text.
    pub fn finish(self) -> String {
        self.text
    }
}
