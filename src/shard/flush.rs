//! Settling: writing each dirty outbox once, fairly.
//!
//! Two queues. Answers and small fan-outs go ahead of the thousands of one large fan-out, and a
//! turn writes a slice of each before it lets reads, pings and new events in. Those then join the
//! outboxes that are still waiting, so a loaded shard writes fewer, larger pieces by itself.
//!
//! Part of `shard`.

use std::collections::VecDeque;

use super::conn::{Queued, Stage};
use super::socket::Socket;
use super::{Shard, Slot};
use crate::limits;

/// The connections that wait to be written to.
#[derive(Debug, Default)]
pub(super) struct FlushQueues {
    urgent: Queue,
    bulk: Queue,
}

/// One queue, with the marks by which fan-out latency is measured: an event is written once all
/// slots that were queued before its mark have been visited.
#[derive(Debug, Default)]
struct Queue {
    slots: VecDeque<Slot>,
    pushed: u64,
    popped: u64,
    marks: VecDeque<(u64, u64)>,
}

impl Queue {
    fn push(&mut self, slot: Slot) {
        self.slots.push_back(slot);
        self.pushed += 1;
    }

    fn pop(&mut self) -> Option<Slot> {
        let slot = self.slots.pop_front()?;
        self.popped += 1;
        if self.slots.is_empty() && self.slots.capacity() > limits::QUEUE_SLOTS_KEPT {
            self.slots = VecDeque::new();
        }
        Some(slot)
    }

    fn take_written(&mut self) -> Option<u64> {
        let &(mark, accepted_ns) = self.marks.front()?;
        (mark <= self.popped).then(|| {
            self.marks.pop_front();
            accepted_ns
        })
    }
}

impl FlushQueues {
    pub(super) fn is_empty(&self) -> bool {
        self.urgent.slots.is_empty() && self.bulk.slots.is_empty()
    }

    /// Notes an event whose followers have all been queued.
    pub(super) fn mark(&mut self, is_small: bool, accepted_ns: u64) {
        let queue = if is_small { &mut self.urgent } else { &mut self.bulk };
        queue.marks.push_back((queue.pushed, accepted_ns));
    }
}

impl<S: Socket> Shard<S> {
    /// Queues a connection for the next slice.
    pub(super) fn queue_urgent(&mut self, slot: Slot) {
        let conn = &mut self.conns[slot.index()];
        if conn.queued != Queued::Urgent {
            conn.queued = Queued::Urgent;
            self.flush.urgent.push(slot);
        }
    }

    /// Queues a connection behind the many of a large fan-out.
    pub(super) fn queue_bulk(&mut self, slot: Slot) {
        let conn = &mut self.conns[slot.index()];
        // A full socket waits for the kernel, not for us.
        if conn.queued == Queued::No && conn.blocked_since_ms == 0 {
            conn.queued = Queued::Bulk;
            self.flush.bulk.push(slot);
        }
    }

    /// Writes up to a slice.
    pub(super) fn settle(&mut self) {
        let mut writes = 0;
        while writes < limits::WRITES_PER_TURN_MAX {
            let (slot, from) = match self.flush.urgent.pop() {
                Some(slot) => (slot, Queued::Urgent),
                None => match self.flush.bulk.pop() {
                    Some(slot) => (slot, Queued::Bulk),
                    None => break,
                },
            };
            // The slot may have been freed, reused or promoted since; only a connection that is
            // still waiting in this very queue is written to.
            match self.conns.get_mut(slot.index()) {
                Some(conn) if conn.queued == from => {
                    conn.queued = Queued::No;
                    let is_last = conn.stage == Stage::Closing;
                    writes += if is_last { limits::WRITES_PER_END } else { 1 };
                }
                _ => continue,
            }
            self.write(slot);
        }
    }

    /// Records the latency of events whose last socket has been written to.
    pub fn record_latencies(&mut self, now_ns: u64) {
        let id = usize::from(self.settings.id.0);
        for queue in [&mut self.flush.urgent, &mut self.flush.bulk] {
            while let Some(accepted_ns) = queue.take_written() {
                let us = now_ns.saturating_sub(accepted_ns) / 1_000;
                self.settings.stats.shards[id].fanout_us.record(us);
            }
        }
    }

    fn write(&mut self, slot: Slot) {
        let conn = &mut self.conns[slot.index()];
        let Ok(written) = conn.outbox.write_to(&mut conn.socket, &mut self.scratch) else {
            drop(self.remove(slot));
            return;
        };
        let was_blocked = conn.blocked_since_ms != 0;
        if !written.is_blocked {
            conn.blocked_since_ms = 0;
        } else if written.bytes > 0 || !was_blocked {
            conn.blocked_since_ms = self.now.unix_ms;
        }
        if conn.is_probed && was_blocked && written.bytes > 0 {
            // Its socket was full, so taking bytes shows that it is alive; its pong waits in line.
            conn.answer_probe();
        }
        let starts_waiting = written.is_blocked && !was_blocked;
        let (is_empty, stage) = (conn.outbox.is_empty(), conn.stage);
        let stats = self.stats();
        stats.writes.add(written.writes as u64);
        stats.written_bytes.add(written.bytes as u64);
        stats.written_frames.add(written.frames as u64);
        stats.blocked_writes.add(u64::from(written.is_blocked));
        if starts_waiting {
            self.arm(slot);
        }
        match stage {
            Stage::Closing if is_empty => self.linger(slot),
            Stage::Open(_) => {
                if is_empty {
                    self.request_resync(slot);
                }
                self.resume(slot);
            }
            _ => {}
        }
    }
}
