//! Cluster-only state: presence of other nodes, channels about to be left or read again, and what the
//! journal has beyond the database.
//!
//! Imports `id` and its siblings. Part of `state`.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::cluster_presence::ClusterPresence;
use super::journal::JournalEntry;
use super::journal::Page;
use super::messaging::PlacedReply;
use crate::id::{ChannelName, MessageId};
use crate::limits;

/// The other nodes, as this one's state sees them.
#[derive(Debug)]
pub(super) struct ClusterState {
    pub(super) cluster_presence: ClusterPresence,
    /// Channels that lost their last follower, and when they are left.
    pub(super) leaving: VecDeque<(u64, ChannelName)>,
    /// Channels that something was missed of, and that could not be read.
    pub(super) unhealed: Vec<ChannelName>,
    /// Messages of this node that have no place yet, by what they say, and who waits for that.
    pub(super) own_messages: HashMap<Bytes, PlacedReply>,
    /// None where there is no database that all nodes share.
    pub(super) tail: Option<JournalTail>,
}

impl ClusterState {
    pub(super) fn new(node: &str, tail: Option<JournalTail>) -> ClusterState {
        ClusterState {
            cluster_presence: ClusterPresence::new(node),
            leaving: VecDeque::new(),
            unhealed: Vec::new(),
            own_messages: HashMap::new(),
            tail,
        }
    }
}

/// What the journal has beyond the database.
///
/// # Invariants
///
/// 1. `entries` holds every message read of the journal after `written`, in order.
/// 2. `bytes` is about what they take.
#[derive(Debug)]
pub struct JournalTail {
    entries: VecDeque<Arc<JournalEntry>>,
    bytes: usize,
    read: u64,
    written: Option<MessageId>,
    is_writing: bool,
    /// When the next messages may be written, after the store refused some; in milliseconds since the
    /// Unix epoch.
    next_write_ms: u64,
}

impl JournalTail {
    /// The tail after what the database has.
    pub fn after(written: Option<MessageId>) -> JournalTail {
        JournalTail {
            entries: VecDeque::new(),
            bytes: 0,
            read: 0,
            written,
            is_writing: false,
            next_write_ms: 0,
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

    /// Takes in the next message.
    pub(super) fn push(&mut self, posted: JournalEntry) {
        let sequence = posted.sequence;
        if self.written.is_none_or(|written| posted.id > written) {
            self.bytes += posted.post.bytes();
            self.entries.push_back(Arc::new(posted));
        }
        self.on_read(sequence);
    }

    /// Everything up to a number has been read.
    pub(super) fn on_read(&mut self, sequence: u64) {
        // A journal that was begun anew counts from the start.
        self.read = sequence;
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

    /// The next messages for the database, unless some are on their way or were refused just now.
    pub(super) fn take_batch(&mut self, now_ms: u64) -> Option<Vec<Arc<JournalEntry>>> {
        if self.is_writing || self.entries.is_empty() || now_ms < self.next_write_ms {
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

    /// Those on their way are there; or they were refused, and go again from `retry_ms` on.
    pub(super) fn end_batch(&mut self, retry_ms: Option<u64>) {
        self.is_writing = false;
        self.next_write_ms = retry_ms.unwrap_or(self.next_write_ms);
    }

    /// Messages of a user, oldest first.
    pub(super) fn page(&self, page: &Page) -> Vec<Arc<JournalEntry>> {
        let is_before = |one: &Arc<JournalEntry>| page.after.is_some_and(|after| one.id <= after);
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
    use crate::state::journal::{Addressee, DirectMessage};

    fn posted(sequence: u64) -> JournalEntry {
        let to =
            Addressee::User(UserId::new(if sequence.is_multiple_of(2) { "even" } else { "odd" }));
        let post = DirectMessage { from: UserId::new("a"), to, content: sequence.to_string() };
        JournalEntry { sequence, id: MessageId::from_parts(sequence, 1, 1), post }
    }

    #[test]
    fn what_is_written_leaves_and_what_is_not_can_be_pulled() {
        let id = |sequence| posted(sequence).id;
        let mut tail = JournalTail::after(Some(id(2)));
        (1..=3).for_each(|one| tail.push(posted(one)));
        assert!(tail.has_read(3) && !tail.has_read(4));
        (4..=6).for_each(|one| tail.push(posted(one)));
        assert_eq!((tail.has_read(6), tail.len()), (true, 4), "two were there before");
        let numbers = |tail: &JournalTail, after| -> Vec<u64> {
            let page = Page { user: UserId::new("even"), after, with: None, limit: 9 };
            tail.page(&page).iter().map(|one| one.sequence).collect()
        };
        assert_eq!(numbers(&tail, None), [4, 6]);
        assert_eq!(numbers(&tail, Some(id(4))), [6]);
        let batch = tail.take_batch(1_000).expect("a batch");
        assert_eq!((batch.len(), tail.take_batch(1_000).is_none()), (4, true));
        tail.end_batch(Some(2_000));
        assert!(tail.take_batch(1_999).is_none() && tail.take_batch(2_000).is_some());
        tail.end_batch(None);
        tail.on_written(id(5));
        assert_eq!((tail.len(), numbers(&tail, None)), (1, vec![6]));
        assert_eq!(tail.bytes, posted(6).post.bytes());
        tail.on_written(id(3));
        assert_eq!(tail.len(), 1, "it does not go back");
    }
}
