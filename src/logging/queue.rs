//! The queue of log lines, and the thread that writes them to standard error.
//!
//! Without it, a pipe or a journal that does not keep up would stall the thread that logs: a shard with
//! thousands of connections.
//!
//! Imports its sibling, `clock` and `limits`. Part of `logging`.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError};
use tracing_subscriber::fmt::MakeWriter;

use super::OWN;
use super::fold::Fold;
use crate::clock::Clock;
use crate::limits;

enum Item {
    Line(Box<[u8]>),
    /// Report when the earlier lines are written.
    Flush(Sender<()>),
    /// Write the queue, report, and end.
    Stop(Sender<()>),
}

/// Takes lines. Bounded in lines and bytes.
#[derive(Debug, Clone)]
pub(super) struct Queue {
    sender: Sender<Item>,
    usage: Arc<Usage>,
}

/// Lines in the queue, and lines that were dropped.
#[derive(Debug, Default)]
struct Usage {
    bytes: AtomicUsize,
    lost: AtomicU64,
}

/// Writes the rest of the queue when it is dropped.
#[derive(Debug)]
#[must_use = "the last lines are written when it is dropped"]
pub struct LogGuard(Sender<Item>);

impl Queue {
    /// Starts the thread. Without a thread lines go nowhere, and nothing else is lost.
    pub(super) fn start(fold: Arc<Fold>) -> (Queue, LogGuard) {
        let (sender, receiver) = crossbeam_channel::bounded(limits::LOG_QUEUE_LINES_MAX);
        let usage = Arc::<Usage>::default();
        let writer = Writer { receiver, usage: Arc::clone(&usage), fold, clock: Clock::start() };
        // There is no other place to report it.
        let _ = std::thread::Builder::new().name(String::from("log")).spawn(move || writer.run());
        (Queue { sender: sender.clone(), usage }, LogGuard(sender))
    }
}

impl Write for Queue {
    /// Takes a whole line, or leaves it out.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // Folded lines have no bytes.
        if line.is_empty() {
            return Ok(0);
        }
        let held = self.usage.bytes.fetch_add(line.len(), Ordering::Relaxed);
        let is_in = held + line.len() <= limits::LOG_QUEUE_BYTES_MAX
            && match self.sender.try_send(Item::Line(line.into())) {
                Ok(()) => true,
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
            };
        if !is_in {
            self.usage.bytes.fetch_sub(line.len(), Ordering::Relaxed);
            self.usage.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Queue;

    fn make_writer(&'a self) -> Queue {
        self.clone()
    }
}

impl LogGuard {
    /// Waits until the lines so far are written, for [`limits::LOG_STOP_MS`] at most: a standard
    /// error that takes nothing delays neither the work of a process nor its end.
    pub fn flush(&self) {
        self.send(Item::Flush);
    }

    fn send(&self, item: impl FnOnce(Sender<()>) -> Item) {
        let patience = Duration::from_millis(limits::LOG_STOP_MS);
        let (done, ended) = crossbeam_channel::bounded(1);
        if self.0.send_timeout(item(done), patience).is_ok() {
            let _ = ended.recv_timeout(patience);
        }
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        self.send(Item::Stop);
    }
}

struct Writer {
    receiver: Receiver<Item>,
    usage: Arc<Usage>,
    fold: Arc<Fold>,
    clock: Clock,
}

impl Writer {
    fn run(self) {
        let pause = Duration::from_millis(limits::LOG_LOOK_MS);
        let mut look_ms = 0;
        loop {
            match self.receiver.recv_timeout(pause) {
                Ok(Item::Line(line)) => self.write(&line),
                Ok(Item::Flush(done)) => _ = done.send(()),
                Ok(Item::Stop(done)) => {
                    self.fold.tell_all();
                    self.tell_lost();
                    while let Ok(Item::Line(line)) = self.receiver.try_recv() {
                        self.write(&line);
                    }
                    let _ = done.send(());
                    return;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let now_ms = self.clock.now().unix_ms;
            if now_ms >= look_ms {
                look_ms = now_ms + limits::LOG_LOOK_MS;
                self.fold.tell();
                self.tell_lost();
            }
        }
    }

    fn write(&self, line: &[u8]) {
        self.usage.bytes.fetch_sub(line.len(), Ordering::Relaxed);
        // Without standard error there is no place to report it.
        let _ = io::stderr().write_all(line);
    }

    fn tell_lost(&self) {
        let lost = self.usage.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            tracing::warn!(target: OWN, lines = lost, "standard error is too slow: lines are missing here");
        }
    }
}
