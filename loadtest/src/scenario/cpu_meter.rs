//! The meter: CPU time of both sides from one moment to another, and the server's longest hold.
//!
//! Imports `engine`, `process`, `outcome`. Used by every scenario.

use super::Bench;
use crate::engine::Holds;
use crate::outcome::Measured;
use crate::process::{CpuSample, Process};
use crate::schedule::thread_cpu_ns;

/// A measurement that has begun.
#[derive(Debug)]
pub(super) struct CpuMeter {
    server: Option<CpuSample>,
    reader_ns: u64,
    holds: Option<Holds>,
    /// When it began.
    pub(super) start_ns: u64,
}

impl CpuMeter {
    /// Begins to measure. Call it on the reading thread, and `stop` there too.
    pub(super) fn start(bench: &Bench) -> Self {
        // First, so that the question is not part of what is measured.
        let holds = Holds::of_server(&bench.target);
        CpuMeter {
            holds,
            server: bench.process.and_then(Process::sample),
            reader_ns: thread_cpu_ns(),
            start_ns: bench.clock.now_ns(),
        }
    }

    /// Ends the measurement. The sending thread, if there is one, has measured itself.
    pub(super) fn stop(self, bench: &Bench, sender_ns: u64) -> Measured {
        let window_ns = bench.clock.now_ns() - self.start_ns;
        let server = bench.process.and_then(Process::sample);
        let reader_ns = thread_cpu_ns() - self.reader_ns;
        let longest_hold = self.holds.and_then(|before| {
            let after = Holds::of_server(&bench.target)?;
            Some(after.longest_since(&before, window_ns))
        });
        Measured {
            window_ns,
            server: server.zip(self.server).map(|(after, before)| after.since(&before)),
            reader_ns,
            sender_ns,
            longest_hold,
        }
    }
}
