//! What happens to a client that does not keep up.
//!
//! Its outbox is bounded. At the bound, service frames are dropped from it and the connection is
//! owed one snapshot of each service it thereby lost track of. Once the outbox has emptied, the
//! snapshots are asked for and sent one after the other, so what a slow reader costs is bounded by
//! the outbox and a list of names, and its picture is right again whenever it chooses to look.
//!
//! # Promises
//!
//! * Between the first dropped frame of a service and its snapshot no frame of that service is
//!   queued; after the snapshot each further one is. Control's order makes the two meet exactly.
//! * A message is never dropped in silence: where it does not fit even without the service frames,
//!   the connection is closed with 4408, and comes back for it.
//! * A client that takes nothing at all for the write timeout is closed with 4408.
//!
//! Part of `shard`.

use std::rc::Rc;

use super::outbox::{Load, Source};
use super::socket::Socket;
use super::{Shard, Slot};
use crate::id::{ServiceName, Topic};
use crate::mailbox::to_control::{Command, Origin, Task};
use crate::state::order::{Order, Picture};
use crate::wire::answer;
use crate::wire::close::Reason;
use crate::wire::frame::Split;

impl<S: Socket> Shard<S> {
    /// Adds a load of event frames, unless the connection has lost track of that service, or cannot
    /// go on. Returns whether it was added.
    pub(super) fn push_event(&mut self, slot: Slot, load: &Rc<Load>) -> bool {
        let room = self.room();
        let conn = &mut self.conns[slot.index()];
        if conn.is_condemned || !conn.is_open() {
            return false;
        }
        if let (Some(owed), Source::Service(service)) = (&conn.owed, &load.source)
            && owed.services.contains(service)
        {
            return false;
        }
        if !conn.outbox.has_room(load, room) {
            self.collapse(slot, load);
            let conn = &mut self.conns[slot.index()];
            if load.source.service().is_some() {
                return false;
            }
            if !conn.outbox.has_room(load, room) {
                // A message that does not fit would be lost in silence. Its place is in a history:
                // the client comes back and asks for it.
                conn.is_condemned = true;
                self.condemned.push((slot, conn.id.generation));
                return false;
            }
        }
        let conn = &mut self.conns[slot.index()];
        conn.outbox.push(Rc::clone(load));
        let bytes = conn.outbox.bytes() as u64;
        self.stats().outbox_bytes_peak.raise(bytes);
        true
    }

    /// Closes those for whom a message had no room.
    pub(super) fn close_condemned(&mut self) {
        for (slot, generation) in std::mem::take(&mut self.condemned) {
            if self.find(slot, generation).is_some() {
                self.stats().slow_closed.add(1);
                self.close(slot, Reason::SlowReader);
            }
        }
    }

    /// Drops the service frames of an outbox that is full, and owes snapshots for them.
    fn collapse(&mut self, slot: Slot, load: &Rc<Load>) {
        let conn = &mut self.conns[slot.index()];
        let mut lost = conn.outbox.shed();
        lost.extend(load.source.service().cloned());
        if lost.is_empty() {
            return;
        }
        for service in lost {
            // Frames from before it unsubscribed may have waited there too.
            if !self.is_owed(slot, &service) && self.follows(slot, &service) {
                let owed = self.conns[slot.index()].owed.get_or_insert_default();
                owed.services.push(service);
            }
        }
        self.stats().slow_collapsed.add(1);
        self.note_collapsed(slot);
        if self.conns[slot.index()].outbox.is_empty() {
            self.ask_for_owed(slot);
        }
    }

    /// Asks for the next snapshot the connection is owed, where none is under way.
    pub(super) fn ask_for_owed(&mut self, slot: Slot) {
        let conn = &mut self.conns[slot.index()];
        let Some(owed) = &mut conn.owed else { return };
        if owed.asked.is_some() {
            return;
        }
        let Some(service) = owed.services.first().cloned() else {
            conn.owed = None;
            return;
        };
        owed.asked = Some(service.clone());
        let origin = Origin::Conn(conn.id);
        let task = Task::Order(Order::Snapshot(service));
        if !self.command(Command { origin, accepted_ns: self.now.ns, task }) {
            // Control has too much to do. The wheel brings the connection up again.
            if let Some(owed) = &mut self.conns[slot.index()].owed {
                owed.asked = None;
            }
            self.retry_soon(slot);
        }
    }

    /// A snapshot that was owed has come, or there is no room for one more now.
    pub(super) fn on_owed_snapshot(&mut self, slot: Slot, picture: Option<Picture>) {
        let Some(Picture { view, changes }) = picture else {
            if let Some(owed) = &mut self.conns[slot.index()].owed {
                owed.asked = None;
                self.retry_soon(slot);
            }
            return;
        };
        // What came before the snapshot is not for this connection, but for the others.
        self.hand_out_run_of(&Topic::Service(view.service.clone()));
        let room = self.room();
        let conn = &mut self.conns[slot.index()];
        let Some(owed) = &mut conn.owed else { return };
        owed.asked = None;
        if !owed.services.contains(&view.service) {
            return self.ask_for_owed(slot);
        }
        let frame = answer::service_snapshot(view.position(), view.instances.clone());
        let load = |frame: Split| Load {
            head: frame.head,
            tail: frame.tail,
            frames: 1,
            source: Source::Service(view.service.clone()),
        };
        let snapshot = load(frame);
        if !conn.outbox.has_room(&snapshot, room) {
            // Answers have filled the outbox meanwhile. It will be asked for again when it is empty.
            return;
        }
        owed.services.retain(|service| *service != view.service);
        conn.outbox.push(Rc::new(snapshot));
        if let Some(changes) = changes {
            // The other half of the picture: it goes with the snapshot, whatever room there is.
            conn.outbox.push(Rc::new(load(changes.into())));
        }
        self.stats().snapshots.add(1);
        self.queue_urgent(slot);
    }

    /// Whether the connection has lost track of the service.
    pub(super) fn is_owed(&self, slot: Slot, service: &ServiceName) -> bool {
        let owed = &self.conns[slot.index()].owed;
        owed.as_ref().is_some_and(|owed| owed.services.contains(service))
    }

    /// Forgets that a snapshot of the service is owed.
    pub(super) fn forgive(&mut self, slot: Slot, service: &ServiceName) {
        if let Some(owed) = &mut self.conns[slot.index()].owed {
            owed.services.retain(|other| other != service);
        }
    }

    pub(super) fn forgive_unless_followed(&mut self, slot: Slot, service: &ServiceName) {
        if !self.follows(slot, service) {
            self.forgive(slot, service);
        }
    }

    pub(super) fn forgive_unfollowed(&mut self, slot: Slot) {
        let owed = self.conns[slot.index()].owed.take();
        if let Some(mut owed) = owed {
            owed.services.retain(|service| self.follows(slot, service));
            self.conns[slot.index()].owed = Some(owed);
        }
    }
}
