//! What this node has to tell the others of its people: noted when it changes, told one entry at a time.
//!
//! ```text
//! something changed here --> noted --> take_dirty --> PresenceUpdate --> log --> on_told
//! ```
//!
//! # Promises
//!
//! * What is noted is told as soon as the entry before it is applied: that is the batch, and there is no
//!   timer.
//! * What an entry was about that did not reach the log is noted again.
//!
//! Imports `id`, `limits` and its siblings. Part of `state::cluster_presence`.

use std::collections::BTreeSet;

use super::node::NodePresence;
use super::update::PresenceUpdate;
use crate::id::{ChannelName, UserId};
use crate::limits;

/// What is true here and not told yet.
#[derive(Debug, Default)]
pub(in crate::state) struct DirtySet {
    users: BTreeSet<UserId>,
    channels: BTreeSet<ChannelName>,
    rooms: BTreeSet<(ChannelName, UserId)>,
    known: BTreeSet<UserId>,
    /// The number of the round of announcements that will tell of it.
    round: u64,
    /// Whether a command waits for that round.
    is_awaited: bool,
    /// Whether an entry is on its way.
    is_telling: bool,
    /// The round that is told of with that entry, where a command waits for it.
    carried: Option<u64>,
    /// Whether the others have heard that this node is there.
    is_introduced: bool,
}

impl DirtySet {
    fn is_empty(&self) -> bool {
        self.users.is_empty()
            && self.channels.is_empty()
            && self.rooms.is_empty()
            && self.known.is_empty()
    }

    pub(in crate::state) fn note_user(&mut self, user_id: &UserId) {
        self.users.insert(user_id.clone());
    }

    pub(in crate::state) fn note_known(&mut self, user_id: UserId) {
        self.known.insert(user_id);
    }

    pub(in crate::state) fn note_channel(&mut self, channel: &ChannelName) {
        self.channels.insert(channel.clone());
    }

    pub(in crate::state) fn note_room(&mut self, channel: &ChannelName, user_id: &UserId) {
        self.rooms.insert((channel.clone(), user_id.clone()));
    }

    /// Takes what to look at for the next entry, up to a bound; nothing while one is on its way.
    /// The caller says what is true of each.
    pub(in crate::state) fn take_dirty(&mut self) -> Option<DirtyBatch> {
        if self.is_telling {
            return None;
        }
        let mut room = limits::FACTS_PER_ENTRY_MAX;
        let mut batch = DirtyBatch::default();
        take_some(&mut self.users, &mut batch.users, &mut room);
        take_some(&mut self.channels, &mut batch.channels, &mut room);
        take_some(&mut self.rooms, &mut batch.rooms, &mut room);
        take_some(&mut self.known, &mut batch.known, &mut room);
        if room == limits::FACTS_PER_ENTRY_MAX && self.is_introduced {
            return None;
        }
        self.is_telling = true;
        if self.is_empty() {
            self.carried = self.end_round().or(self.carried);
        }
        Some(batch)
    }

    /// The round of announcements that tells of everything that is true now, for a command that
    /// waits for it.
    pub(in crate::state) fn await_announcement(&mut self) -> u64 {
        self.is_awaited = true;
        self.round
    }

    /// Ends the round. Returns its number where a command waits for it.
    fn end_round(&mut self) -> Option<u64> {
        let round = self.round;
        self.round += 1;
        std::mem::take(&mut self.is_awaited).then_some(round)
    }

    /// Whether everything is told.
    pub(in crate::state) fn has_told_all(&self) -> bool {
        !self.is_telling && self.is_empty()
    }

    /// Whether the others have yet to hear that this node is there.
    pub(in crate::state) fn is_new(&self) -> bool {
        !self.is_introduced
    }

    /// Takes the last round that is told by now, where a command waits for it or one before.
    pub(in crate::state) fn take_announced(&mut self) -> Option<u64> {
        if self.is_telling {
            return None;
        }
        let carried = self.carried.take();
        if self.is_empty() { self.end_round().or(carried) } else { carried }
    }

    /// There turned out to be nothing to tell.
    pub(in crate::state) fn told_nothing(&mut self) {
        self.is_telling = false;
    }

    /// The entry did not reach the log: its facts are looked at again.
    pub(in crate::state) fn on_update_lost(&mut self, facts: &PresenceUpdate) {
        self.is_telling = false;
        // Whoever waits for that round goes on with the present one.
        self.is_awaited |= self.carried.take().is_some();
        self.look_again(facts);
    }

    /// Has facts looked at again: what is true of them by now may not be what is told.
    pub(in crate::state) fn look_again(&mut self, facts: &PresenceUpdate) {
        self.users.extend(facts.users.iter().map(|fact| UserId::new(&fact.0)));
        self.channels.extend(facts.channels.iter().map(|fact| ChannelName::new(&fact.0)));
        let room = |fact: &(String, String, String, Option<u64>)| {
            (ChannelName::new(&fact.0), UserId::new(&fact.1))
        };
        self.rooms.extend(facts.rooms.iter().map(room));
        self.known.extend(facts.known.iter().map(|user| UserId::new(user)));
    }

    /// This node's entry is applied.
    pub(super) fn on_told(&mut self) {
        (self.is_telling, self.is_introduced) = (false, true);
    }

    /// Has facts looked at again that this node has told.
    pub(super) fn look_at_told(&mut self, told: &NodePresence) {
        self.users.extend(told.users.keys().cloned());
        self.channels.extend(told.channels.keys().cloned());
        for (channel, room) in &told.rooms {
            self.rooms.extend(room.keys().map(|user| (channel.clone(), user.clone())));
        }
    }

    /// Takes over what the node had to tell before it installed a snapshot. The entry that was on its way
    /// may count for nothing.
    pub(super) fn take_over(&mut self, before: DirtySet) {
        let is_awaited = before.is_awaited || before.carried.is_some();
        let is_introduced = self.is_introduced;
        let (is_telling, carried) = (false, None);
        *self = DirtySet { is_awaited, is_telling, carried, is_introduced, ..before };
    }
}

/// What to tell of next.
#[derive(Debug, Default)]
pub(in crate::state) struct DirtyBatch {
    pub(in crate::state) users: Vec<UserId>,
    pub(in crate::state) channels: Vec<ChannelName>,
    pub(in crate::state) rooms: Vec<(ChannelName, UserId)>,
    pub(in crate::state) known: Vec<UserId>,
}

impl DirtyBatch {
    /// What facts are about: users, channels and places in rooms.
    pub(in crate::state) fn of(facts: &PresenceUpdate) -> DirtyBatch {
        let room = |fact: &(String, String, String, Option<u64>)| {
            (ChannelName::new(&fact.0), UserId::new(&fact.1))
        };
        DirtyBatch {
            users: facts.users.iter().map(|fact| UserId::new(&fact.0)).collect(),
            channels: facts.channels.iter().map(|fact| ChannelName::new(&fact.0)).collect(),
            rooms: facts.rooms.iter().map(room).collect(),
            known: Vec::new(),
        }
    }
}

fn take_some<T: Ord>(from: &mut BTreeSet<T>, to: &mut Vec<T>, room: &mut usize) {
    while *room > 0
        && let Some(one) = from.pop_first()
    {
        to.push(one);
        *room -= 1;
    }
}
