//! The schedule: decides when each event is sent, on a thread of its own.
//!
//! At a rate, event `e` is due at `start + e / rate` however late the events before it were, and
//! carries that moment as its send time. A server, or a load test, that falls behind therefore
//! shows it in the latencies of all events that had to wait: no coordinated omission.
//!
//! In a flood, as many events are under way as a window allows, counted both in answers and in
//! deliveries, so that the server's pace is measured and not the depth of its queues.
//!
//! Imports `publisher`, `tally`, `clock`. Imported by the scenarios.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};

use crate::clock::{Clock, nanos};
use crate::publisher::Publisher;
use crate::tally;

/// How often a flood checks whether the window has opened.
const WINDOW_POLL: Duration = Duration::from_micros(200);

/// After this long without progress a flood gives up.
pub(crate) const STALL_NS: u64 = 5_000_000_000;

/// The share of the server's message limit that is used.
const LIMIT_SHARE: f64 = 0.8;

/// The pace of events.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Schedule {
    /// As fast as the window allows, in events.
    Flood {
        /// The most events under way.
        window: u64,
    },
    /// This many a second.
    Rate(f64),
}

/// The load to send.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    /// The pace.
    pub(crate) schedule: Schedule,
    /// How many events at most.
    pub(crate) events_max: u64,
    /// For how long at most.
    pub(crate) duration: Option<Duration>,
    /// The server's limit of messages per second and connection, if it has one.
    pub(crate) messages_per_s_max: Option<u64>,
    /// The number of subscribers of each service.
    pub(crate) subscribers: Vec<u64>,
}

/// The state that the two threads share while events flow.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    /// Events sent so far. Written by the schedule.
    pub(crate) sent: AtomicU64,
    /// Deliveries that came. Written by the reading side.
    pub(crate) delivered: AtomicU64,
    /// Whether every event is sent and answered. Written by the schedule.
    pub(crate) is_finished: AtomicBool,
}

/// The result of a pace.
#[derive(Debug)]
pub(crate) struct Paced {
    /// The publisher, for the next load.
    pub(crate) publisher: Publisher,
    /// The delay between due time and hand-over to the kernel. Empty in a flood.
    pub(crate) lateness: Histogram<u64>,
    /// CPU time of the thread.
    pub(crate) cpu_ns: u64,
    /// Why some events were not sent or answered.
    pub(crate) faults: Vec<String>,
    /// Whether several events had to share a frame.
    pub(crate) is_batched: bool,
}

/// The CPU time of the calling thread.
pub(crate) fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// How many publisher connections a rate needs below a message limit.
pub(crate) fn sockets_for(schedule: Schedule, messages_per_s_max: Option<u64>) -> usize {
    const SOCKETS_MAX: f64 = 16.0;
    let Some(limit) = messages_per_s_max else {
        return 1;
    };
    match schedule {
        Schedule::Flood { .. } => SOCKETS_MAX as usize,
        Schedule::Rate(rate) => {
            (rate / (limit as f64 * LIMIT_SHARE)).ceil().clamp(1.0, SOCKETS_MAX) as usize
        }
    }
}

/// Starts to send on a thread of its own.
pub(crate) fn start(
    publisher: Publisher,
    load: Load,
    gauge: Arc<Gauge>,
    clock: Clock,
) -> JoinHandle<Paced> {
    thread::spawn(move || {
        let runner = Runner::new(publisher, load, clock);
        let outcome = runner.run(&gauge);
        gauge.is_finished.store(true, Ordering::Release);
        outcome
    })
}

/// The state of the sending thread.
struct Runner {
    publisher: Publisher,
    load: Load,
    clock: Clock,
    start_ns: u64,
    /// The number of the publisher's first event of this load.
    first: u64,
    /// Expected deliveries of the sent events.
    owed: u64,
    /// When the next frame may go out under the server's limit.
    frame_due_ns: u64,
    lateness: Histogram<u64>,
    is_batched: bool,
}

impl Runner {
    fn new(publisher: Publisher, load: Load, clock: Clock) -> Self {
        let (first, start_ns) = (publisher.sent, clock.now_ns());
        Runner {
            publisher,
            load,
            clock,
            start_ns,
            first,
            owed: 0,
            frame_due_ns: 0,
            lateness: tally::histogram(),
            is_batched: false,
        }
    }

    fn run(mut self, gauge: &Gauge) -> Paced {
        let cpu_ns = thread_cpu_ns();
        let mut faults = Vec::new();
        let pumped = self.pump(gauge).and_then(|is_done| {
            if !is_done {
                faults.push("the flood stood still for 5 s and was given up".to_owned());
            }
            self.publisher.settle()
        });
        match pumped {
            Ok(0) => {}
            Ok(unanswered) => faults.push(format!("{unanswered} events stayed without an answer")),
            // The deliveries so far still go into a report.
            Err(error) => faults.push(error.to_string()),
        }
        Paced {
            publisher: self.publisher,
            lateness: self.lateness,
            cpu_ns: thread_cpu_ns() - cpu_ns,
            faults,
            is_batched: self.is_batched,
        }
    }

    /// Sends all events. Returns false when a flood stood still for too long.
    fn pump(&mut self, gauge: &Gauge) -> io::Result<bool> {
        let mut moved = (self.start_ns, 0);
        while !self.is_done() {
            let now_ns = self.clock.now_ns();
            let delivered = gauge.delivered.load(Ordering::Relaxed);
            if delivered + self.publisher.sent > moved.1 {
                moved = (now_ns, delivered + self.publisher.sent);
            } else if now_ns - moved.0 > STALL_NS
                && matches!(self.load.schedule, Schedule::Flood { .. })
            {
                return Ok(false);
            }
            let due = self.due(now_ns, delivered);
            let is_free = self.publisher.can_send() && now_ns >= self.frame_due_ns;
            if due > 0 && is_free {
                self.send(due, now_ns)?;
                gauge.sent.store(self.publisher.sent, Ordering::Relaxed);
            } else {
                let wait = self.wait(now_ns);
                self.publisher.turn(wait)?;
            }
        }
        Ok(true)
    }

    fn sent(&self) -> u64 {
        self.publisher.sent - self.first
    }

    fn is_done(&self) -> bool {
        if self.sent() >= self.load.events_max {
            return true;
        }
        let Some(duration) = self.load.duration else {
            return false;
        };
        let end_ns = self.start_ns + nanos(duration);
        match self.load.schedule {
            // Every event whose moment lies within the time is sent, however late.
            Schedule::Rate(_) => self.intended_ns(self.sent()) >= end_ns,
            Schedule::Flood { .. } => self.clock.now_ns() >= end_ns,
        }
    }

    fn intended_ns(&self, index: u64) -> u64 {
        match self.load.schedule {
            Schedule::Rate(rate) => self.start_ns + (index as f64 * 1e9 / rate) as u64,
            Schedule::Flood { .. } => self.start_ns,
        }
    }

    /// How many events may be sent now.
    fn due(&self, now_ns: u64, delivered: u64) -> u64 {
        let left = self.load.events_max - self.sent();
        let due = match self.load.schedule {
            Schedule::Rate(rate) => {
                let elapsed_ns = now_ns - self.start_ns;
                let by_now = (elapsed_ns as f64 * rate / 1e9) as u64 + 1;
                by_now.saturating_sub(self.sent())
            }
            Schedule::Flood { window } => {
                let total: u64 = self.load.subscribers.iter().sum();
                let per_event = total.div_ceil(self.load.subscribers.len() as u64).max(1);
                let undelivered = self.owed.saturating_sub(delivered) / per_event;
                window.saturating_sub(undelivered.max(self.publisher.in_flight()))
            }
        };
        due.min(left)
    }

    fn wait(&self, now_ns: u64) -> Duration {
        let mut until_ns = self.intended_ns(self.sent()).max(self.frame_due_ns);
        if !self.publisher.can_send() || until_ns <= now_ns {
            until_ns = now_ns + nanos(WINDOW_POLL);
        }
        // A pong must not wait for the next event.
        Duration::from_nanos(until_ns - now_ns).min(Duration::from_millis(100))
    }

    /// Sends the due events: one per frame, unless the server's limit forbids so many frames.
    fn send(&mut self, due: u64, now_ns: u64) -> io::Result<()> {
        let mut batch = 1;
        if let Some(limit) = self.load.messages_per_s_max {
            let frames_per_s = limit as f64 * LIMIT_SHARE * self.publisher.line_count() as f64;
            let gap_ns = (1e9 / frames_per_s) as u64;
            // A small credit for frames that went out late, or lateness would add up.
            self.frame_due_ns = self.frame_due_ns.max(now_ns.saturating_sub(10 * gap_ns)) + gap_ns;
            batch = due.min(self.publisher.events_per_frame_max());
            self.is_batched |= batch > 1;
        }
        let (first, start_ns) = (self.first, self.start_ns);
        for event in self.publisher.sent..self.publisher.sent + batch {
            let service = event as usize % self.load.subscribers.len();
            self.owed += self.load.subscribers[service];
        }
        match self.load.schedule {
            Schedule::Rate(rate) => {
                let stamp = move |e: u64| start_ns + ((e - first) as f64 * 1e9 / rate) as u64;
                for event in self.publisher.sent..self.publisher.sent + batch {
                    self.lateness.saturating_record(now_ns.saturating_sub(stamp(event)));
                }
                self.publisher.send(batch, stamp);
            }
            Schedule::Flood { .. } => self.publisher.send(batch, |_| now_ns),
        }
        // Several events of a flood share a write; an event at its moment does not wait.
        if due <= batch || !self.publisher.can_send() {
            self.publisher.turn(Duration::ZERO)?;
        }
        Ok(())
    }
}
