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

use std::collections::BTreeSet;

use super::update::PresenceUpdate;
use crate::id::{ChannelName, UserId};
use crate::limits;

/// What is true here and not told yet.
#[derive(Debug, Default)]
pub(in crate::state) struct DirtySet {
    subjects: Subjects,
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
    pub(in crate::state) fn note_user(&mut self, user_id: &UserId) {
        self.subjects.users.insert(user_id.clone());
    }

    pub(in crate::state) fn note_known(&mut self, user_id: UserId) {
        self.subjects.known.insert(user_id);
    }

    pub(in crate::state) fn note_channel(&mut self, channel: &ChannelName) {
        self.subjects.channels.insert(channel.clone());
    }

    pub(in crate::state) fn note_room(&mut self, channel: &ChannelName, user_id: &UserId) {
        self.subjects.rooms.insert((channel.clone(), user_id.clone()));
    }

    /// Takes what to look at for the next entry, up to a bound; nothing while one is on its way.
    /// The caller says what is true of each.
    pub(in crate::state) fn take_dirty(&mut self) -> Option<Subjects> {
        if self.is_telling {
            return None;
        }
        let batch = self.subjects.take(limits::FACTS_PER_ENTRY_MAX);
        if batch.is_empty() && self.is_introduced {
            return None;
        }
        self.is_telling = true;
        if self.subjects.is_empty() {
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
        !self.is_telling && self.subjects.is_empty()
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
        if self.subjects.is_empty() { self.end_round().or(carried) } else { carried }
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
        self.subjects.extend(Subjects::of(facts));
    }

    /// This node's entry is applied.
    pub(super) fn on_told(&mut self) {
        (self.is_telling, self.is_introduced) = (false, true);
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

/// What facts are about.
#[derive(Debug, Default)]
pub(in crate::state) struct Subjects {
    pub(in crate::state) users: BTreeSet<UserId>,
    pub(in crate::state) channels: BTreeSet<ChannelName>,
    pub(in crate::state) rooms: BTreeSet<(ChannelName, UserId)>,
    pub(in crate::state) known: BTreeSet<UserId>,
}

impl Subjects {
    /// What some facts are about.
    pub(in crate::state) fn of(facts: &PresenceUpdate) -> Subjects {
        Subjects {
            users: facts.users.iter().map(|fact| fact.0.clone()).collect(),
            channels: facts.channels.iter().map(|fact| fact.0.clone()).collect(),
            rooms: facts.rooms.iter().map(|fact| (fact.0.clone(), fact.1.clone())).collect(),
            known: facts.known.iter().cloned().collect(),
        }
    }

    fn is_empty(&self) -> bool {
        self.users.is_empty()
            && self.channels.is_empty()
            && self.rooms.is_empty()
            && self.known.is_empty()
    }

    fn extend(&mut self, mut more: Subjects) {
        self.users.append(&mut more.users);
        self.channels.append(&mut more.channels);
        self.rooms.append(&mut more.rooms);
        self.known.append(&mut more.known);
    }

    /// Takes out some, up to a number.
    fn take(&mut self, mut max: usize) -> Subjects {
        Subjects {
            users: take_some(&mut self.users, &mut max),
            channels: take_some(&mut self.channels, &mut max),
            rooms: take_some(&mut self.rooms, &mut max),
            known: take_some(&mut self.known, &mut max),
        }
    }
}

fn take_some<T: Ord>(from: &mut BTreeSet<T>, room: &mut usize) -> BTreeSet<T> {
    let some: BTreeSet<T> = std::iter::from_fn(|| from.pop_first()).take(*room).collect();
    *room -= some.len();
    some
}
