//! This node's position in the log, and the other nodes as the log shows them.
//!
//! A node that is alone has a log of its own: it leads, and it is always in contact with that log. A node
//! of a cluster reads a shared log; it has no position until it has installed a snapshot.
//!
//! # Promises
//!
//! * The node counts as cut off where it lacks entries that were in the log
//!   [`limits::CLUSTER_CONTACT_MS`] ago, or cannot know whether it does.
//! * An entry that was written twice counts once.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use crate::clock::Moment;
use crate::id::ServiceName;
use crate::limits;
use crate::state::entry::{Entry, LogItem};

/// This node's index in the table of nodes.
pub(super) const SELF: u32 = 0;

/// A node, as the log shows it.
#[derive(Debug)]
pub(super) struct LogNode {
    pub(super) name: Arc<str>,
    /// How many leases it owns.
    pub(super) leases_owned: usize,
    /// The number of its last entry.
    pub(super) last_number: u64,
}

/// A node's position in the log.
///
/// # Invariants
///
/// 1. `by_name` is the inverse of `nodes`.
/// 2. `contacts` is empty exactly while every entry that was in the log at the last contact is applied.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct LogPosition {
    /// Every node that ever wrote an entry or owned a lease; this one first.
    pub(super) nodes: Vec<LogNode>,
    by_name: HashMap<Arc<str>, u32>,
    /// How many entries were applied since the log began.
    pub sequence: u64,
    /// The name of the last applied entry, as the log's engine gives it.
    pub(super) entry_id: String,
    /// Entries that time calls for and that are not appended yet.
    pub(super) proposals: Vec<Entry>,
    /// Services whose judgement is appended and not applied.
    pub(super) judgements_pending: HashSet<ServiceName>,
    /// This node may have proposed leases up to this number as overdue before it installed a snapshot.
    pub(super) doubtful_until: u64,
    /// Appended takeovers of leases that are not applied.
    pub(super) takeovers_pending: usize,
    /// Whether this node leads: it decides where no node in particular has to.
    pub is_leader: bool,
    /// Whether a snapshot is installed, and all entries behind it. Before, this node knows nothing.
    pub is_loaded: bool,
    /// Answers of the log's engine: when, and the number of the newest entry at that time.
    pub(super) contacts: VecDeque<(u64, u64)>,
    /// When the log's engine last gave an answer that is applied here by now; none where the log is this
    /// process's own.
    pub(super) contact_ms: Option<u64>,
    /// Whether the log has not been heard of, or not been followed, for too long.
    pub is_cut_off: bool,
    /// Whether `is_cut_off` changed and followers of unknown services have yet to be told.
    pub(super) contact_changed: bool,
    /// Unknown services whose followers were told that contact is lost: no more than connections followed then.
    pub(super) unseen_told: BTreeSet<ServiceName>,
}

impl LogPosition {
    /// The position of a node that is alone.
    pub(super) fn alone() -> LogPosition {
        LogPosition {
            is_leader: true,
            is_loaded: true,
            contact_ms: None,
            is_cut_off: false,
            ..LogPosition::joining("")
        }
    }

    /// The position of a node that has read nothing of the log yet.
    pub(super) fn joining(node: &str) -> LogPosition {
        let node: Arc<str> = node.into();
        LogPosition {
            nodes: vec![LogNode { name: Arc::clone(&node), leases_owned: 0, last_number: 0 }],
            by_name: HashMap::from([(node, SELF)]),
            sequence: 0,
            entry_id: String::from("0-0"),
            proposals: Vec::new(),
            judgements_pending: HashSet::new(),
            doubtful_until: 0,
            takeovers_pending: 0,
            is_leader: false,
            is_loaded: false,
            contacts: VecDeque::new(),
            contact_ms: Some(0),
            is_cut_off: true,
            contact_changed: false,
            unseen_told: BTreeSet::new(),
        }
    }

    pub(super) fn node(&mut self, name: &Arc<str>) -> u32 {
        if Arc::ptr_eq(name, self.own_name()) {
            return SELF;
        }
        if let Some(&node) = self.by_name.get(name) {
            return node;
        }
        let node = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        self.nodes.push(LogNode { name: Arc::clone(name), leases_owned: 0, last_number: 0 });
        self.by_name.insert(Arc::clone(name), node);
        node
    }

    /// Counts a lease that a node has, or has no more.
    pub(super) fn count(&mut self, owner: u32, is_more: bool) {
        let owned = &mut self.nodes[owner as usize].leases_owned;
        *owned = if is_more { *owned + 1 } else { owned.saturating_sub(1) };
    }

    /// The last answer of the log's engine that told nothing new counts as contact.
    pub(super) fn confirm_contact(&mut self) {
        let is_applied = |(_, newest): &(u64, u64)| self.is_loaded && *newest <= self.sequence;
        if let Some(last) = self.contacts.iter().rposition(is_applied) {
            self.contact_ms = self.contact_ms.max(Some(self.contacts[last].0));
            self.contacts.drain(..=last);
        }
    }

    /// Whether other nodes may read the log, and write to it.
    pub(in crate::state) fn is_shared(&self) -> bool {
        self.contact_ms.is_some()
    }

    /// Whether this node leads and can append entries.
    pub(super) fn decides(&self) -> bool {
        self.is_leader && !self.is_cut_off
    }

    /// Whether the log has been silent for too long.
    pub(super) fn is_silent(&self, now: Moment) -> bool {
        let silent_ms = self.contact_ms.map(|contact_ms| now.unix_ms.saturating_sub(contact_ms));
        silent_ms.is_some_and(|silent_ms| silent_ms > limits::CLUSTER_CONTACT_MS)
    }

    /// The node's own name.
    pub(in crate::state) fn own_name(&self) -> &Arc<str> {
        &self.nodes[SELF as usize].name
    }

    /// How many leases this node owns.
    pub fn leases_owned(&self) -> usize {
        self.nodes[SELF as usize].leases_owned
    }

    /// Begins at the position of a snapshot.
    pub(super) fn install(&mut self, sequence: u64, entry_id: String) {
        (self.sequence, self.entry_id) = (sequence, entry_id);
        self.is_loaded = true;
    }

    /// Counts an entry. Returns false where the entry was written twice and is applied.
    pub(super) fn record(&mut self, item: &LogItem) -> bool {
        self.sequence += 1;
        self.entry_id.clone_from(&item.position);
        self.confirm_contact();
        let node = self.node(&item.node);
        let last = &mut self.nodes[node as usize].last_number;
        let is_new = item.number > *last;
        *last = item.number.max(*last);
        is_new
    }

    /// The next entry of this node's own log: it is committed as soon as it is made.
    pub(in crate::state) fn own_item(&self, entry: Entry, now: Moment) -> LogItem {
        LogItem {
            position: String::new(),
            node: Arc::clone(self.own_name()),
            number: self.nodes[SELF as usize].last_number + 1,
            at_ms: now.wall_ms,
            entry,
        }
    }

    /// Has something go into the log.
    pub(super) fn propose(&mut self, entry: impl Into<Entry>) {
        self.proposals.push(entry.into());
    }

    /// Takes in an answer of the log's engine: when, and the number of the newest entry.
    pub(super) fn note_contact(&mut self, at_ms: u64, newest: u64) {
        if self.contacts.len() == limits::CLUSTER_HEARTBEATS_KEPT {
            self.contacts.pop_front();
        }
        self.contacts.push_back((at_ms, newest));
        self.confirm_contact();
    }

    /// Takes over contact and leadership from the position before a snapshot was installed.
    pub(super) fn carry_over(&mut self, before: &LogPosition, is_same_log: bool) {
        self.contact_ms = before.contact_ms;
        self.contacts.clone_from(&before.contacts);
        self.is_leader = before.is_leader;
        self.unseen_told.clone_from(&before.unseen_told);
        if is_same_log {
            self.doubtful_until = before.doubtful_until.max(before.sequence);
        }
        self.confirm_contact();
    }
}

/// An entry's place in the log, as the registry applies it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Commit {
    /// The node that decided the entry.
    pub(super) owner: u32,
    /// The entry's number in the log; a lease that it gives an owner has this number.
    pub(super) lease: u64,
    /// Now, with the wall clock of the deciding node: all nodes show the same time of a change.
    pub(super) at: Moment,
}
