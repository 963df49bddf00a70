//! Counters at two moments, and what lies between.

use crate::driver::{Counts, Driver};
use crate::options::Options;
use crate::process;
use crate::report::Report;

pub(crate) const SECOND_NS: u64 = 1_000_000_000;

/// The counters at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) at_ns: u64,
    pub(crate) counts: Counts,
    published: u64,
    server_s: Option<f64>,
    own_s: Option<f64>,
}

impl Sample {
    pub(crate) fn take(options: &Options, driver: &Driver, published: u64) -> Sample {
        Sample {
            at_ns: driver.now_ns(),
            counts: driver.counts,
            published,
            server_s: options.pid.as_deref().and_then(process::cpu_seconds),
            own_s: process::cpu_seconds("self"),
        }
    }
}

/// What happened between two samples.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) start: Sample,
    pub(crate) end: Sample,
}

impl Span {
    pub(crate) fn seconds(&self) -> f64 {
        (self.end.at_ns - self.start.at_ns) as f64 / SECOND_NS as f64
    }

    pub(crate) fn count(&self, field: fn(&Counts) -> u64) -> u64 {
        field(&self.end.counts) - field(&self.start.counts)
    }

    pub(crate) fn server_s(&self) -> Option<f64> {
        Some(self.end.server_s? - self.start.server_s?)
    }

    /// Server time for each of `count` things, in microseconds.
    pub(crate) fn server_us_per(&self, count: u64) -> Option<f64> {
        Some(self.server_s()? * 1e6 / count as f64)
    }

    /// Which side was busy, each as a share of one core.
    pub(crate) fn report_shares(&self, report: &mut Report) {
        let own_s = self.end.own_s.zip(self.start.own_s).map(|(end, start)| end - start);
        report
            .figure("seconds", Some(self.seconds()))
            .figure("server_cpu_share", self.server_s().map(|s| s / self.seconds()))
            .figure("generator_cpu_share", own_s.map(|s| s / self.seconds()));
    }

    pub(crate) fn report_deliveries(&self, report: &mut Report) {
        let deliveries = self.count(|counts| counts.deliveries);
        let frames = self.count(|counts| counts.frames) as f64;
        let events = self.end.published - self.start.published;
        report
            .count("events", events)
            .figure("events_per_s", Some(events as f64 / self.seconds()))
            .count("deliveries", deliveries)
            .figure("deliveries_per_s", Some(deliveries as f64 / self.seconds()))
            .figure("changes_per_frame", Some(deliveries as f64 / frames))
            .figure(
                "bytes_per_frame",
                Some(self.count(|counts| counts.frame_bytes) as f64 / frames),
            )
            .figure("server_cpu_us_per_delivery", self.server_us_per(deliveries));
    }

    /// Requests that were answered and not refused: what was refused is quick to answer and no
    /// work done, so a server that does not know the request has no figures here.
    pub(crate) fn report_requests(&self, prefix: &str, driver: &Driver, report: &mut Report) {
        let refused = self.count(|counts| counts.refused);
        let answered = self.count(|counts| counts.answered).saturating_sub(refused);
        let bytes = self.count(|counts| counts.body_bytes) as f64;
        let quantile = |share| (answered > 0).then(|| driver.answering.quantile_ms(share));
        report
            .figure(
                &format!("{prefix}requests_per_s"),
                (answered > 0).then(|| answered as f64 / self.seconds()),
            )
            .figure(&format!("{prefix}cpu_us_per_request"), self.server_us_per(answered))
            .figure(
                &format!("{prefix}requests_per_s_and_core"),
                self.server_s().map(|s| answered as f64 / s).filter(|_| answered > 0),
            )
            .figure(&format!("{prefix}bytes_per_answer"), Some(bytes / answered as f64))
            .figure(&format!("{prefix}p50_ms"), quantile(0.5))
            .figure(&format!("{prefix}p99_ms"), quantile(0.99))
            .figure(
                &format!("{prefix}server_cpu_share"),
                self.server_s().map(|s| s / self.seconds()),
            );
    }
}
