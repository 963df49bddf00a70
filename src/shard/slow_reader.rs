//! Slow readers: resync by snapshots, or close.
//!
//! A client that does not read fills its outbox, which is bounded. At the bound the shard drops the outbox's
//! service frames and notes a resync of each service they belong to. Once the outbox is empty, the shard requests
//! the snapshots and sends them one after the other. So a slow reader costs its outbox and a list of
//! names, and it has the current state when it reads again.
//!
//! # Promises
//!
//! * Between the first dropped frame of a service and its snapshot no frame of that service is
//!   queued; after the snapshot each further one is. Control's order makes the two meet exactly.
//! * A message is never dropped in silence: if it does not fit even without the service frames, the
//!   connection is closed with 4408, and the client comes back for it.
//! * A client that takes nothing at all for the write timeout is closed with 4408.
//!
//! Part of `shard`.

use std::rc::Rc;

use super::outbox::{Chunk, Source};
use super::socket::Socket;
use super::{Shard, Slot};
use crate::id::{Dialect, ServiceName, Topic};
use crate::mailbox::to_control::{ControlMessage, Task};
use crate::state::Ask as _;
use crate::state::registry::commands::ReadSnapshot;
use crate::state::registry::views::ServiceSnapshot;
use crate::state::reply::ReplyTo;
use crate::wire::answer;
use crate::wire::close::Reason;
use crate::wire::frame::Split;

impl<S: Socket> Shard<S> {
    /// Adds a chunk of event frames, unless a resync of that service is pending, or the connection
    /// is to be closed. Returns whether it was added.
    pub(super) fn push_event(&mut self, slot: Slot, chunk: &Rc<Chunk>) -> bool {
        let budget = self.budget();
        let conn = &mut self.conns[slot.index()];
        if conn.is_to_close || !conn.is_open() {
            return false;
        }
        if let Source::Service(service) = &chunk.source
            && conn.is_resync_pending(service)
        {
            return false;
        }
        if !conn.outbox.fits(chunk, budget) {
            self.resync(slot, chunk);
            let conn = &mut self.conns[slot.index()];
            if chunk.source.service().is_some() {
                return false;
            }
            if !conn.outbox.fits(chunk, budget) {
                // A message that does not fit would be lost in silence. It is in a history: the
                // client comes back and asks for it.
                conn.is_to_close = true;
                self.to_close.push((slot, conn.id.generation));
                return false;
            }
        }
        let conn = &mut self.conns[slot.index()];
        conn.outbox.push(Rc::clone(chunk));
        let bytes = conn.outbox.bytes() as u64;
        self.stats().outbox_bytes_peak.raise(bytes);
        true
    }

    /// Closes the connections for which a message had no room.
    pub(super) fn close_marked(&mut self) {
        for (slot, generation) in std::mem::take(&mut self.to_close) {
            if self.find(slot, generation).is_some() {
                self.stats().slow_closed.add(1);
                self.close(slot, Reason::SlowReader);
            }
        }
    }

    /// Drops the service frames of a full outbox, and notes a resync of their services.
    fn resync(&mut self, slot: Slot, chunk: &Rc<Chunk>) {
        let conn = &mut self.conns[slot.index()];
        let mut lost = conn.outbox.drop_replaceable();
        lost.extend(chunk.source.service().cloned());
        if lost.is_empty() {
            return;
        }
        for service in lost {
            // Frames from before it unsubscribed may have waited there too.
            if !self.is_resync_pending(slot, &service) && self.follows(slot, &service) {
                let rare = self.conns[slot.index()].rare_or_new();
                rare.resync.get_or_insert_default().services.push(service);
            }
        }
        self.stats().slow_collapsed.add(1);
        self.note_resync(slot);
        if self.conns[slot.index()].outbox.is_empty() {
            self.request_resync(slot);
        }
    }

    /// Requests the next snapshot of a pending resync, unless one is under way.
    pub(super) fn request_resync(&mut self, slot: Slot) {
        let conn = &mut self.conns[slot.index()];
        if conn.dialect() == Dialect::Artemis {
            return self.send_reloads(slot);
        }
        let id = conn.id;
        let Some(resync) = conn.resync() else { return };
        if resync.asked.is_some() {
            return;
        }
        let Some(service) = resync.services.first().cloned() else {
            return conn.end_resync();
        };
        resync.asked = Some(service.clone());
        let task = Task::Command(ReadSnapshot(service).reply_to(ReplyTo::Socket(id, ())));
        if !self.send_control(ControlMessage { accepted_ns: self.now.ns, task }) {
            // Control's mailbox is full. The wheel brings the connection up again.
            if let Some(resync) = self.conns[slot.index()].resync() {
                resync.asked = None;
            }
            self.retry_soon(slot);
        }
    }

    /// The snapshot of a resync has come, or control has no room for one more now.
    pub(super) fn on_resync_snapshot(&mut self, slot: Slot, snapshot: Option<ServiceSnapshot>) {
        let Some(ServiceSnapshot { view, changes }) = snapshot else {
            if let Some(resync) = self.conns[slot.index()].resync() {
                resync.asked = None;
                self.retry_soon(slot);
            }
            return;
        };
        // Events before the snapshot are for the other followers, not for this connection.
        self.hand_out_run_of(&Topic::Service(view.service.clone()));
        let budget = self.budget();
        let conn = &mut self.conns[slot.index()];
        let Some(resync) = conn.resync() else { return };
        resync.asked = None;
        if !resync.services.contains(&view.service) {
            return self.request_resync(slot);
        }
        let frame = answer::service_snapshot(view.position(), view.instances.clone());
        let chunk = |frame: Split| Chunk {
            head: frame.head,
            tail: frame.tail,
            frames: 1,
            source: Source::Service(view.service.clone()),
        };
        let snapshot = chunk(frame);
        if !conn.outbox.fits(&snapshot, budget) {
            // Answers have filled the outbox meanwhile. The snapshot is requested again when it is
            // empty.
            return;
        }
        if let Some(resync) = conn.resync() {
            resync.services.retain(|service| *service != view.service);
        }
        conn.outbox.push(Rc::new(snapshot));
        if let Some(changes) = changes {
            // The changes since: they go with the snapshot, whatever room there is.
            conn.outbox.push(Rc::new(chunk(changes.into())));
        }
        self.stats().snapshots.add(1);
        self.queue_urgent(slot);
    }

    /// Whether a resync of the service is pending.
    pub(super) fn is_resync_pending(&self, slot: Slot, service: &ServiceName) -> bool {
        self.conns[slot.index()].is_resync_pending(service)
    }

    /// Cancels a pending resync of the service.
    pub(super) fn cancel_resync(&mut self, slot: Slot, service: &ServiceName) {
        if let Some(resync) = self.conns[slot.index()].resync() {
            resync.services.retain(|other| other != service);
        }
    }

    pub(super) fn cancel_resync_unless_followed(&mut self, slot: Slot, service: &ServiceName) {
        if !self.follows(slot, service) {
            self.cancel_resync(slot, service);
        }
    }

    pub(super) fn cancel_unfollowed_resyncs(&mut self, slot: Slot) {
        let Some(resync) = self.conns[slot.index()].resync() else { return };
        let mut services = std::mem::take(&mut resync.services);
        services.retain(|service| self.follows(slot, service));
        if let Some(resync) = self.conns[slot.index()].resync() {
            resync.services = services;
        }
    }
}
