//! The meter: CPU time of both sides from one moment to another.
//!
//! Imports `process`, `outcome`. Used by every scenario.

use super::Bench;
use crate::outcome::Measured;
use crate::process::{CpuSample, Process};
use crate::schedule::thread_cpu_ns;

/// A measurement that has begun.
#[derive(Debug)]
pub(super) struct CpuMeter {
    server: Option<CpuSample>,
    reader_ns: u64,
    /// When it began.
    pub(super) start_ns: u64,
}

impl CpuMeter {
    /// Begins to measure. Call it on the reading thread, and `stop` there too.
    pub(super) fn start(bench: &Bench) -> Self {
        CpuMeter {
            server: bench.process.and_then(Process::sample),
            reader_ns: thread_cpu_ns(),
            start_ns: bench.clock.now_ns(),
        }
    }

    /// Ends the measurement. The sending thread, if there is one, has measured itself.
    pub(super) fn stop(self, bench: &Bench, sender_ns: u64) -> Measured {
        let window_ns = bench.clock.now_ns() - self.start_ns;
        let server = bench.process.and_then(Process::sample);
        Measured {
            window_ns,
            server: server.zip(self.server).map(|(after, before)| after.since(&before)),
            reader_ns: thread_cpu_ns() - self.reader_ns,
            sender_ns,
        }
    }
}
