//! The position of the log's reader, and the faults after which it starts over.

use redis::RedisError;

use super::{News, Shared};
use crate::state::entry::LogItem;
use crate::state::snapshot::Snapshot;

/// Bytes at the head of a snapshot's text that tell it from another.
const HEAD_BYTES: usize = 128;

/// Why the reader cannot go on, and starts over from a snapshot.
#[derive(Debug)]
pub(super) enum LogFault {
    /// The connection.
    Redis(RedisError),
    /// An entry does not follow the one before, or cannot be read.
    Log(String),
    /// There is no snapshot that a node can begin from.
    Snapshot(Box<UnusableSnapshot>),
}

impl From<RedisError> for LogFault {
    fn from(fault: RedisError) -> LogFault {
        LogFault::Redis(fault)
    }
}

/// A place in the log.
#[derive(Debug)]
pub(super) struct ReadPosition {
    pub(super) epoch: String,
    pub(super) position: String,
    pub(super) sequence: u64,
    /// None once control has it.
    pub(super) pending_install: Option<PendingInstall>,
}

/// A snapshot and the entries after it, gathered until they reach the entry that was the newest when the reader
/// began. Control gets them whole: states between an old snapshot and the present are out of date.
///
/// A snapshot lies behind every `limits::CLUSTER_SNAPSHOT_ENTRIES` entries or so, which bounds what
/// gathers here.
#[derive(Debug)]
pub(super) struct PendingInstall {
    pub(super) snapshot: Box<Snapshot>,
    pub(super) items: Vec<LogItem>,
    /// The number of the newest entry when the snapshot was read.
    pub(super) newest: u64,
}

impl ReadPosition {
    /// The fault of a gap behind this position: a reader that is installing a snapshot needs another one.
    pub(super) fn broken(&mut self, fault: String) -> LogFault {
        match self.pending_install.take() {
            Some(pending_install) => {
                LogFault::Snapshot(Box::new(UnusableSnapshot::gap(fault, pending_install.snapshot)))
            }
            None => LogFault::Log(fault),
        }
    }

    /// Hands entries over, in their order.
    pub(super) fn hand_over(&mut self, shared: &Shared, items: Vec<LogItem>) {
        let Some(pending_install) = &mut self.pending_install else {
            if !items.is_empty() {
                shared.tell(News::Log(items));
            }
            return;
        };
        pending_install.items.extend(items);
        if self.sequence >= pending_install.newest
            && let Some(PendingInstall { snapshot, items, .. }) = self.pending_install.take()
        {
            shared.tell(News::Install { snapshot, items });
        }
    }
}

/// A snapshot that a node cannot begin from.
#[derive(Debug)]
pub(super) struct UnusableSnapshot {
    /// Why.
    pub(super) fault: String,
    /// The snapshot, where it can be read.
    pub(super) snapshot: Option<Box<Snapshot>>,
    /// Whether there is one that cannot be read: the length of its text and the text's head.
    pub(super) unreadable: Option<(usize, Vec<u8>)>,
}

impl UnusableSnapshot {
    pub(super) fn missing(fault: &str) -> UnusableSnapshot {
        UnusableSnapshot { fault: fault.to_owned(), snapshot: None, unreadable: None }
    }

    pub(super) fn unreadable(fault: &str, text: &[u8]) -> UnusableSnapshot {
        let head = text[..text.len().min(HEAD_BYTES)].to_vec();
        UnusableSnapshot {
            fault: fault.to_owned(),
            snapshot: None,
            unreadable: Some((text.len(), head)),
        }
    }

    /// The number of the snapshot's last entry, where it can be read.
    pub(super) fn sequence(&self) -> Option<u64> {
        self.snapshot.as_ref().map(|snapshot| snapshot.sequence)
    }

    /// The log does not go on from the snapshot.
    pub(super) fn gap(fault: String, snapshot: Box<Snapshot>) -> UnusableSnapshot {
        UnusableSnapshot { fault, snapshot: Some(snapshot), unreadable: None }
    }
}

impl From<UnusableSnapshot> for LogFault {
    fn from(unusable: UnusableSnapshot) -> LogFault {
        LogFault::Snapshot(Box::new(unusable))
    }
}
