//! Direct and group messages: pushed while the client is connected, pulled after a disconnect.
//!
//! A message is stored before it is pushed. So a push that arrives while older messages are being
//! pulled is dropped: the pull goes on until nothing is left, and finds the message in its order.
//!
//! # Promises
//!
//! * Every message after the cursor is given once, oldest first within a pull.
//! * A slow reader holds no more messages than its bound; the rest stays on the server.
//!
//! Imports `event` and `state::queue`. Imported by `state` and `connection`.

use std::collections::BTreeSet;

use crate::event::DirectMessage;
use crate::state::queue::Queue;

/// Ids that are remembered to recognise repeated messages.
const RECENT_MAX: usize = 4_096;

/// The position of one reader, and its queue.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) queue: Queue<DirectMessage>,
    /// All messages up to this one were given. Empty: none was.
    floor: String,
    /// The messages given after it.
    recent: BTreeSet<String>,
    pub(crate) pull: Pull,
}

/// Whether messages have to be pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pull {
    /// As soon as there is a connection.
    Due,
    /// A pull is under way; `again` if a push came meanwhile.
    Running { again: bool },
    /// Pushes are enough.
    Done,
    /// The reader has to make room first.
    Full,
}

impl Inbox {
    pub(crate) fn new(after: Option<String>, messages_max: usize) -> Inbox {
        Inbox {
            queue: Queue::new(messages_max),
            floor: after.unwrap_or_default(),
            recent: BTreeSet::new(),
            pull: Pull::Due,
        }
    }

    /// Adds a pushed message.
    pub(crate) fn push(&mut self, message: DirectMessage) {
        match &mut self.pull {
            Pull::Running { again } => *again = true,
            Pull::Done => _ = self.take(message),
            Pull::Due | Pull::Full => {}
        }
    }

    /// Adds a message. Returns false if there is no room.
    pub(crate) fn take(&mut self, message: DirectMessage) -> bool {
        if message.id <= self.floor || self.recent.contains(&message.id) {
            return true;
        }
        let id = message.id.clone();
        if self.queue.push(message).is_err() {
            self.pull = Pull::Full;
            return false;
        }
        self.recent.insert(id);
        if self.recent.len() > RECENT_MAX
            && let Some(oldest) = self.recent.pop_first()
        {
            self.floor = oldest;
        }
        true
    }

    /// The cursor of a pull. Somewhat before the newest message, because ids of several nodes may
    /// become visible out of their order; known messages are dropped again.
    pub(crate) fn cursor(&self) -> String {
        const OVERLAP_MS: u64 = 10_000;
        let Some(newest) = self.recent.last() else { return self.floor.clone() };
        let hex: String = newest.chars().filter(|c| *c != '-').take(12).collect();
        let Ok(at_ms) = u64::from_str_radix(&hex, 16) else { return self.floor.clone() };
        let at_ms = format!("{:012x}", at_ms.saturating_sub(OVERLAP_MS));
        let before = format!("{}-{}-7000-8000-000000000000", &at_ms[..8], &at_ms[8..12]);
        before.max(self.floor.clone())
    }

    /// The connection is lost.
    pub(crate) fn disconnect(&mut self) {
        if self.pull != Pull::Full {
            self.pull = Pull::Due;
        }
    }

    /// The reader has emptied the queue. Returns whether there is more to pull.
    pub(crate) fn emptied(&mut self) -> bool {
        let was_full = self.pull == Pull::Full;
        if was_full {
            self.pull = Pull::Due;
        }
        was_full
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(at_ms: u64, number: u64) -> DirectMessage {
        let at = format!("{at_ms:012x}");
        DirectMessage {
            id: format!("{}-{}-7000-8000-{number:012x}", &at[..8], &at[8..]),
            from_user_id: String::from("ann"),
            to_user_id: Some(String::from("bob")),
            group_id: None,
            content: String::from("x"),
            created_at: 0,
        }
    }

    #[test]
    fn nothing_comes_twice_and_nothing_is_passed_over() {
        let mut inbox = Inbox::new(None, 10_000);
        inbox.pull = Pull::Done;
        for number in 0..5_000 {
            inbox.push(message(1_000_000 + number, number));
        }
        for number in 0..5_000 {
            assert!(inbox.take(message(1_000_000 + number, number)));
        }
        let mut count = 0;
        while inbox.queue.pop().is_some() {
            count += 1;
        }
        assert_eq!(count, 5_000);
        assert!(inbox.recent.len() <= RECENT_MAX);
    }

    #[test]
    fn a_pull_begins_before_the_newest_message() {
        let mut inbox = Inbox::new(None, 8);
        assert_eq!(inbox.cursor(), "");
        assert!(inbox.take(message(1_000_000, 1)));
        assert!(inbox.cursor() < message(990_000, 1).id);
        assert!(inbox.cursor() > message(989_999, 1).id);
        let after = message(999_999, 1).id;
        assert_eq!(Inbox::new(Some(after.clone()), 8).cursor(), after);
    }

    #[test]
    fn a_full_inbox_pulls_the_rest_when_it_was_read() {
        let mut inbox = Inbox::new(None, 2);
        inbox.pull = Pull::Done;
        (0..5).for_each(|number| inbox.push(message(1_000_000, number)));
        assert_eq!(inbox.pull, Pull::Full);
        while inbox.queue.pop().is_some() {}
        assert!(inbox.emptied());
        assert_eq!(inbox.pull, Pull::Due);
        assert!(inbox.take(message(1_000_000, 2)));
    }
}
