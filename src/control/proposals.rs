//! Who waits for the other nodes: for a place in the log, for an answer, for what came before.
//!
//! Imports `limits`, `mailbox` and `state`. Part of `control`.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::id::ConnId;
use crate::limits;
use crate::mailbox::to_control::{Command, Origin};
use crate::state::entry::Entry;
use crate::state::talk::{Talk, Told};
use crate::state::then::Then;

/// An order on its way, and who waits for it.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) origin: Origin,
    pub(super) accepted_ns: u64,
    pub(super) what: What,
    proposed_ms: u64,
}

/// What an order waits for.
#[derive(Debug)]
pub(super) enum What {
    /// Its place in the log. The entry is kept where somebody has to know what was lost: nobody
    /// waits for what time proposes.
    Place(Option<Entry>),
    /// What others answer; then the state goes on.
    Answer(Then),
    /// Something that it needs; then it is carried out again.
    Again(Talk),
    /// What has to go out before its answer.
    Turn(Told),
}

/// The proposals on their way.
#[derive(Debug, Default)]
pub(super) struct Proposals {
    last: u64,
    pending: BTreeMap<u64, Pending>,
    /// Connections one of whose orders is on its way, with those that came after it: answers of a
    /// connection go out in the order of its requests.
    held: HashMap<ConnId, VecDeque<Command>>,
}

impl Proposals {
    /// Whether there is room for one more that somebody waits for.
    pub(super) fn has_room(&self) -> bool {
        self.pending.len() < limits::CLUSTER_PROPOSALS_MAX
    }

    /// The number that the next order gets.
    pub(super) fn next(&self) -> u64 {
        self.last + 1
    }

    /// Notes an order. Returns its number.
    pub(super) fn enter(
        &mut self,
        origin: Origin,
        accepted_ns: u64,
        what: What,
        now_ms: u64,
    ) -> u64 {
        self.last += 1;
        if let Origin::Conn(conn) = &origin {
            self.held.entry(*conn).or_default();
        }
        let pending = Pending { origin, accepted_ns, what, proposed_ms: now_ms };
        self.pending.insert(self.last, pending);
        self.last
    }

    /// Takes the proposal of a number off the list.
    pub(super) fn take(&mut self, number: u64) -> Option<Pending> {
        self.pending.remove(&number)
    }

    /// Takes those that have waited for too long.
    pub(super) fn take_late(&mut self, now_ms: u64) -> Vec<Pending> {
        let mut late = Vec::new();
        while let Some(first) = self.pending.first_entry() {
            if first.get().proposed_ms + limits::CLUSTER_PROPOSAL_MS > now_ms {
                break;
            }
            late.push(first.remove());
        }
        late
    }

    /// When the first of them has waited for too long, in milliseconds since the Unix epoch.
    pub(super) fn next_late_ms(&self) -> Option<u64> {
        let (_, first) = self.pending.first_key_value()?;
        Some(first.proposed_ms + limits::CLUSTER_PROPOSAL_MS)
    }

    /// Has an order wait behind the one of its connection that is on its way. Gives it back where
    /// there is none.
    pub(super) fn hold(&mut self, command: Command) -> Option<Command> {
        let Origin::Conn(conn) = &command.origin else { return Some(command) };
        match self.held.get_mut(conn) {
            Some(queue) => {
                // Bounded by the orders that a shard has outstanding for one connection.
                queue.push_back(command);
                None
            }
            None => Some(command),
        }
    }

    /// Whether any connection waits.
    pub(super) fn holds_any(&self) -> bool {
        !self.held.is_empty()
    }

    /// The order of a connection on its way is answered: gives what waited behind it.
    pub(super) fn release(&mut self, conn: ConnId) -> VecDeque<Command> {
        self.held.remove(&conn).unwrap_or_default()
    }
}
