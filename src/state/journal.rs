//! Direct and group messages. Among several nodes they are in the journal first, in the database later.
//!
//! The journal gives every message its id and so one order for all nodes. Whoever pulls messages is
//! given what the database has and what the journal has beyond that.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::{MessageId, UserId};
use crate::limits;

/// An accepted message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalEntry {
    /// Its number in the journal: rises by one a message. 0 at a node that is alone.
    pub sequence: u64,
    /// Its id, made of its place in the journal: ids rise as numbers do.
    pub id: MessageId,
    /// What it is.
    pub message: DirectMessage,
}

/// A message that has no place yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectMessage {
    /// Who wrote it.
    pub from: UserId,
    /// Whom it is for.
    pub to: Addressee,
    /// What it says.
    pub content: String,
}

/// Whom a message is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addressee {
    /// A user.
    User(UserId),
    /// A group.
    Group {
        /// Its id.
        group_id: String,
        /// Its members when the message was accepted, the sender among them.
        members: Vec<UserId>,
    },
}

/// Which of a user's messages are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Whose.
    pub user: UserId,
    /// The id before the first one wanted.
    pub after: Option<MessageId>,
    /// Only direct ones from and to this user.
    pub with: Option<UserId>,
    /// How many at most.
    pub limit: usize,
}

/// A message as the journal carries it: `to` is there for a user, `group` and `members` for a group.
#[derive(Serialize, Deserialize)]
struct Wire {
    from: UserId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to: Option<UserId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    members: Vec<UserId>,
    content: String,
}

impl JournalEntry {
    /// When it was accepted, in seconds since the Unix epoch.
    pub fn at_s(&self) -> u64 {
        self.id.unix_ms() / 1_000
    }
}

impl DirectMessage {
    /// The same for these members of its group.
    #[must_use]
    pub(super) fn with_members(&self, members: Vec<UserId>) -> DirectMessage {
        let mut message = self.clone();
        if let Addressee::Group { members: before, .. } = &mut message.to {
            *before = members;
        }
        message
    }

    /// Whether a user may pull it.
    pub fn is_of(&self, user: &UserId) -> bool {
        self.from == *user
            || match &self.to {
                Addressee::User(to) => to == user,
                Addressee::Group { members, .. } => members.contains(user),
            }
    }

    /// About how many bytes it takes in memory.
    pub fn bytes(&self) -> usize {
        self.content.len() + limits::JOURNAL_ENTRY_OVERHEAD_BYTES + 16 * self.readers()
    }

    /// How many users may pull it.
    pub fn readers(&self) -> usize {
        match &self.to {
            Addressee::User(_) => 2,
            Addressee::Group { members, .. } => members.len(),
        }
    }

    /// Whether it is a direct one from one of two users to the other.
    pub fn is_between(&self, a: &UserId, b: &UserId) -> bool {
        match &self.to {
            Addressee::User(to) => (self.from == *a && to == b) || (self.from == *b && to == a),
            Addressee::Group { .. } => false,
        }
    }

    /// The message as the journal carries it.
    pub fn encode(&self) -> String {
        let DirectMessage { from, to, content } = self.clone();
        let (to, group, members) = match to {
            Addressee::User(to) => (Some(to), None, Vec::new()),
            Addressee::Group { group_id, members } => (None, Some(group_id), members),
        };
        serde_json::to_string(&Wire { from, to, group, members, content }).unwrap_or_default()
    }

    /// Reads what [`DirectMessage::encode`] wrote.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn decode(text: &str) -> Result<DirectMessage, String> {
        let wire: Wire = serde_json::from_str(text).map_err(|fault| fault.to_string())?;
        let to = match (wire.to, wire.group) {
            (Some(to), None) => Addressee::User(to),
            (None, Some(group_id)) => Addressee::Group { group_id, members: wire.members },
            _ => return Err(String::from("a message is for a user or for a group")),
        };
        Ok(DirectMessage { from: wire.from, to, content: wire.content })
    }
}

/// What the journal has beyond the database.
///
/// # Invariants
///
/// 1. `entries` holds every message read of the journal after `written`, in order.
/// 2. `bytes` is about what they take.
#[derive(Debug, Default)]
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
        JournalTail { written, ..JournalTail::default() }
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
    pub(super) fn push(&mut self, entry: JournalEntry) {
        let sequence = entry.sequence;
        if self.written.is_none_or(|written| entry.id > written) {
            self.bytes += entry.message.bytes();
            self.entries.push_back(Arc::new(entry));
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
            self.bytes -= first.message.bytes();
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
        let batch = self.entries.iter().take(limits::JOURNAL_RUN_MAX).take_while(|one| {
            let is_first = rows == 0;
            rows += one.message.readers();
            is_first || rows <= limits::JOURNAL_RUN_ROWS_MAX
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
            None => one.message.is_of(&page.user),
            Some(with) => one.message.is_between(&page.user, with),
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

    fn entry(sequence: u64) -> JournalEntry {
        let to =
            Addressee::User(UserId::new(if sequence.is_multiple_of(2) { "even" } else { "odd" }));
        let message = DirectMessage { from: UserId::new("a"), to, content: sequence.to_string() };
        JournalEntry { sequence, id: MessageId::from_parts(sequence, 1, 1), message }
    }

    #[test]
    fn what_is_written_leaves_and_what_is_not_can_be_pulled() {
        let id = |sequence| entry(sequence).id;
        let mut tail = JournalTail::after(Some(id(2)));
        (1..=3).for_each(|one| tail.push(entry(one)));
        assert!(tail.has_read(3) && !tail.has_read(4));
        (4..=6).for_each(|one| tail.push(entry(one)));
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
        assert_eq!(tail.bytes, entry(6).message.bytes());
        tail.on_written(id(3));
        assert_eq!(tail.len(), 1, "it does not go back");
    }
}
