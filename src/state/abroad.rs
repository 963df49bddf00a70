//! What a state that is one of several has beside its own: the other nodes' people, what is to be
//! asked of others, and who waits for that.
//!
//! Imports `id` and its siblings. Part of `state`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::call::Call;
use super::commons::Commons;
use super::posted::Posted;
use super::talk::Talk;
use super::then::{Page, Then};
use crate::id::{ChannelName, MessageId};
use crate::limits;

/// Something for the backplane.
#[derive(Debug)]
pub enum Errand {
    /// To be asked; the answer goes to [`super::State::after_call`].
    Call(Box<(Call, Then)>),
    /// A channel is followed no more.
    Detach(ChannelName),
    /// The database has the journal up to here.
    Written(MessageId),
    /// Something that another node wants done here, and does not wait for.
    Talk(Box<Talk>),
}

/// What becomes of an order that waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// It is carried out again, from the start.
    Again,
    /// What it waited for did not come.
    Fail,
}

/// The other nodes, as this one's state sees them.
#[derive(Debug)]
pub(super) struct Abroad {
    pub(super) commons: Commons,
    pub(super) errands: Vec<Errand>,
    pub(super) released: Vec<(u64, Release)>,
    /// Channels that lost their last follower, and when they are left.
    pub(super) leaving: VecDeque<(u64, ChannelName)>,
    /// Channels that something was missed of, and that could not be read.
    pub(super) unhealed: Vec<ChannelName>,
    /// None where there is no database that all nodes share.
    pub(super) tail: Option<Tail>,
}

impl Abroad {
    pub(super) fn new(node: &str, tail: Option<Tail>) -> Abroad {
        Abroad {
            commons: Commons::new(node),
            errands: Vec::new(),
            released: Vec::new(),
            leaving: VecDeque::new(),
            unhealed: Vec::new(),
            tail,
        }
    }

    pub(super) fn call(&mut self, call: Call, then: Then) {
        self.errands.push(Errand::Call(Box::new((call, then))));
    }

    pub(super) fn release(&mut self, tickets: impl IntoIterator<Item = u64>, how: Release) {
        self.released.extend(tickets.into_iter().map(|ticket| (ticket, how)));
    }
}

/// What the journal has beyond the database.
///
/// # Invariants
///
/// 1. `entries` holds every message read of the journal after `written`, in order.
/// 2. `bytes` is about what they take.
#[derive(Debug)]
pub struct Tail {
    entries: VecDeque<Arc<Posted>>,
    bytes: usize,
    read: u64,
    written: Option<MessageId>,
    waiting: BTreeMap<u64, Vec<u64>>,
    is_writing: bool,
}

impl Tail {
    /// The tail after what the database has.
    pub fn after(written: Option<MessageId>) -> Tail {
        Tail {
            entries: VecDeque::new(),
            bytes: 0,
            read: 0,
            written,
            waiting: BTreeMap::new(),
            is_writing: false,
        }
    }

    /// Whether one more message may be accepted.
    pub(super) fn has_room(&self) -> bool {
        self.entries.len() < limits::MESSAGES_UNWRITTEN_MAX
            && self.bytes < limits::MESSAGES_UNWRITTEN_BYTES_MAX
    }

    /// Whether the journal is read up to a number.
    pub(super) fn has_read(&self, sequence: u64) -> bool {
        self.read >= sequence
    }

    pub(super) fn wait(&mut self, sequence: u64, ticket: u64) {
        self.waiting.entry(sequence).or_default().push(ticket);
    }

    /// Takes in the next message. Returns who waited for it.
    pub(super) fn push(&mut self, posted: Posted) -> Vec<u64> {
        let sequence = posted.sequence;
        if self.written.is_none_or(|written| posted.id > written) {
            self.bytes += posted.post.bytes();
            self.entries.push_back(Arc::new(posted));
        }
        self.on_read(sequence)
    }

    /// Everything up to a number has been read. Returns who waited for it.
    pub(super) fn on_read(&mut self, sequence: u64) -> Vec<u64> {
        // A journal that was begun anew counts from the start.
        self.read = sequence;
        let later = self.waiting.split_off(&(self.read + 1));
        std::mem::replace(&mut self.waiting, later).into_values().flatten().collect()
    }

    /// The database has it up to a message.
    pub(super) fn on_written(&mut self, up_to: MessageId) {
        if self.written.is_none_or(|written| up_to > written) {
            self.written = Some(up_to);
        }
        while let Some(first) = self.entries.front()
            && first.id <= up_to
        {
            self.bytes -= first.post.bytes();
            self.entries.pop_front();
        }
    }

    /// The next messages for the database, unless some are on their way.
    pub(super) fn take_batch(&mut self) -> Option<Vec<Arc<Posted>>> {
        if self.is_writing || self.entries.is_empty() {
            return None;
        }
        self.is_writing = true;
        let mut rows = 0;
        let batch = self.entries.iter().take(limits::POSTED_PER_COMMIT_MAX).take_while(|one| {
            let is_first = rows == 0;
            rows += one.post.readers();
            is_first || rows <= limits::POSTED_ROWS_MAX
        });
        Some(batch.cloned().collect())
    }

    /// Those on their way are there, or not.
    pub(super) fn end_batch(&mut self) {
        self.is_writing = false;
    }

    /// Messages of a user, oldest first.
    pub(super) fn page(&self, page: &Page) -> Vec<Arc<Posted>> {
        let is_before = |one: &Arc<Posted>| page.after.is_some_and(|after| one.id <= after);
        let first = self.entries.partition_point(is_before);
        let of_user = self.entries.range(first..).filter(|one| match &page.with {
            None => one.post.is_of(&page.user),
            Some(with) => one.post.is_between(&page.user, with),
        });
        of_user.take(page.limit).cloned().collect()
    }

    /// How many messages wait for the database.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::UserId;
    use crate::state::posted::{Addressee, Post};

    fn posted(sequence: u64) -> Posted {
        let to =
            Addressee::User(UserId::new(if sequence.is_multiple_of(2) { "even" } else { "odd" }));
        let post = Post { from: UserId::new("a"), to, content: sequence.to_string() };
        Posted { sequence, id: MessageId::from_parts(sequence, 1, 1), post }
    }

    #[test]
    fn what_is_written_leaves_and_what_is_not_can_be_pulled() {
        let id = |sequence| posted(sequence).id;
        let mut tail = Tail::after(Some(id(2)));
        tail.wait(4, 77);
        let woken: Vec<u64> = (1..=6).flat_map(|one| tail.push(posted(one))).collect();
        assert_eq!((woken, tail.len()), (vec![77], 4), "two were there before");
        let numbers = |tail: &Tail, after| -> Vec<u64> {
            let page = Page { user: UserId::new("even"), after, with: None, limit: 9 };
            tail.page(&page).iter().map(|one| one.sequence).collect()
        };
        assert_eq!(numbers(&tail, None), [4, 6]);
        assert_eq!(numbers(&tail, Some(id(4))), [6]);
        let batch = tail.take_batch().expect("a batch");
        assert_eq!((batch.len(), tail.take_batch().is_none()), (4, true));
        tail.end_batch();
        tail.on_written(id(5));
        assert_eq!((tail.len(), numbers(&tail, None)), (1, vec![6]));
        assert_eq!(tail.bytes, posted(6).post.bytes());
        tail.on_written(id(3));
        assert_eq!(tail.len(), 1, "it does not go back");
    }
}
