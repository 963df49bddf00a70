//! The state of a client, wanted and known: subscriptions, leases, messages.
//!
//! Plain data behind one lock. The handles change the wanted state, the session stores the server's
//! answers, and both go on without the other: nothing here waits, reads a clock or writes to a
//! socket.
//!
//! Imports `error`, `event` and `frame`. Imported by `shared`, `connection` and `handle`.

pub(crate) mod channel;
pub(crate) mod image;
pub(crate) mod inbox;
pub(crate) mod lease;
pub(crate) mod queue;
pub(crate) mod room;
pub(crate) mod service;
pub(crate) mod subscription;

use std::collections::BTreeMap;

use crate::error::Error;
use crate::event::EnvelopeEvent;
use crate::state::channel::ChannelTable;
use crate::state::inbox::Inbox;
use crate::state::lease::LeaseTable;
use crate::state::queue::Queue;
use crate::state::room::RoomTable;
use crate::state::service::ServiceTable;

/// A reader of envelopes.
#[derive(Debug)]
pub(crate) struct EnvelopeFeed {
    pub(crate) queue: Queue<EnvelopeEvent>,
    pub(crate) missed: u64,
}

/// The wanted and the known state.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) services: ServiceTable,
    pub(crate) channels: ChannelTable,
    pub(crate) rooms: RoomTable,
    pub(crate) leases: LeaseTable,
    pub(crate) envelopes: BTreeMap<u64, EnvelopeFeed>,
    pub(crate) inboxes: BTreeMap<u64, Inbox>,
    pub(crate) is_stopping: bool,
    /// The reason why the client does not reconnect.
    pub(crate) ended: Option<Error>,
    next_key: u64,
}

impl State {
    pub(crate) fn new_key(&mut self) -> u64 {
        self.next_key += 1;
        self.next_key
    }

    /// The connection is lost: no subscription is in force, and every lease and inbox has to be
    /// checked.
    pub(crate) fn disconnect(&mut self) {
        self.services.disconnect();
        self.channels.disconnect();
        self.rooms.subscriptions.disconnect();
        self.leases.disconnect();
        self.inboxes.values_mut().for_each(Inbox::disconnect);
    }

    /// Repeats the requests that the server refused for now.
    pub(crate) fn retry(&mut self) {
        self.services.retry();
        self.channels.subscriptions.retry();
        self.rooms.subscriptions.retry();
    }

    /// Whether a subscription differs from the wanted state.
    pub(crate) fn has_due(&self) -> bool {
        self.services.has_due()
            || self.channels.subscriptions.has_due()
            || self.rooms.subscriptions.has_due()
    }

    /// Whether the server refused one for now.
    pub(crate) fn has_refused(&self) -> bool {
        self.services.has_refused()
            || self.channels.subscriptions.has_refused()
            || self.rooms.subscriptions.has_refused()
    }

    /// Tells every reader that its stream has ended.
    pub(crate) fn end(&mut self, error: Error) {
        self.ended = Some(error);
        self.services.close();
        self.channels.close();
        self.envelopes.values_mut().for_each(|feed| feed.queue.close());
        self.inboxes.values_mut().for_each(|inbox| inbox.queue.close());
    }
}
