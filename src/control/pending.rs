//! The pending table: the commands that wait, what each waits for, and how it goes on.
//!
//! ```text
//! Effect::{Append, Request, Wait} --> [ number | what | since ] --> result, wake or time-out --> ready
//! commands of a connection behind one that waits --> [ queue a connection ] --> released with its reply
//! ```
//!
//! # Promises
//!
//! * A command that waits goes on once: with a result, or with word that it has waited for too long.
//! * Commands of one connection are carried out in their order, each after the reply to the one before.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use crate::id::ConnId;
use crate::limits;
use crate::state::audit::Actor;
use crate::state::backplane::BackplaneResponse;
use crate::state::command::Command;
use crate::state::durable::WriteResult;
use crate::state::effect::{Append, AppendReply, Condition, Continuation, Waited};
use crate::state::entry::Entry;

/// A command that waits.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) accepted_ns: u64,
    pub(super) what: What,
    since_ms: u64,
}

/// What a command waits for, and how it goes on.
#[derive(Debug)]
pub(super) enum What {
    /// Its entry comes back from the log.
    Append(Appended),
    /// The backplane, or other nodes, respond.
    Request(Continuation<BackplaneResponse>),
    /// A condition becomes true.
    Wait(Condition, Continuation<Waited>),
}

/// An entry on its way into the log.
#[derive(Debug)]
pub(super) struct Appended {
    /// Kept where the state has to know what was lost: nobody waits for it.
    pub(super) entry: Option<Entry>,
    pub(super) reply: AppendReply,
    /// Whose command came to it.
    pub(super) actor: Option<Arc<Actor>>,
}

impl Appended {
    /// Splits what is to be appended into the entry and what is kept of it.
    pub(super) fn of(append: Append) -> (Entry, Appended) {
        let Append { entry, reply, actor } = append;
        let kept = reply.is_nobody().then(|| entry.clone());
        (entry, Appended { entry: kept, reply, actor })
    }
}

/// A command that can go on.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) accepted_ns: u64,
    pub(super) step: Step,
}

/// How it goes on.
#[derive(Debug)]
pub(super) enum Step {
    /// Its entry did not reach the log.
    Lost(Appended),
    /// There is a response.
    Response(Continuation<BackplaneResponse>, BackplaneResponse),
    /// The store has done, or refused, its write.
    Stored(Continuation<WriteResult>, WriteResult),
    /// Its condition is true, or will not be.
    Waited(Continuation<Waited>, Waited),
}

/// A command behind one of its connection that waits.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) accepted_ns: u64,
    pub(super) command: Command,
    /// Who sent it; none = the server itself.
    pub(super) actor: Option<Arc<Actor>>,
}

/// The table.
///
/// # Invariants
///
/// 1. `by_condition` names exactly the pending commands that wait for a condition.
/// 2. `held` has a queue for exactly the connections one of whose commands waits for its reply.
#[derive(Debug, Default)]
pub(super) struct PendingTable {
    last: u64,
    pending: BTreeMap<u64, Pending>,
    by_condition: BTreeMap<Condition, Vec<u64>>,
    ready: VecDeque<Ready>,
    held: HashMap<ConnId, VecDeque<Held>>,
    /// Connections in `held` that have got their reply.
    released: VecDeque<ConnId>,
}

impl PendingTable {
    /// Whether there is room for one more that somebody waits for.
    pub(super) fn has_room(&self) -> bool {
        self.pending.len() < limits::CLUSTER_PROPOSALS_MAX
    }

    /// Notes a command. Returns its number.
    pub(super) fn enter(&mut self, what: What, accepted_ns: u64, now_ms: u64) -> u64 {
        self.last += 1;
        if let What::Wait(condition, _) = &what {
            self.by_condition.entry(condition.clone()).or_default().push(self.last);
        }
        self.pending.insert(self.last, Pending { accepted_ns, what, since_ms: now_ms });
        self.last
    }

    /// Takes the entry of a number, which is on its way into the log.
    pub(super) fn take_appended(&mut self, number: u64) -> Option<(u64, Appended)> {
        let Pending { accepted_ns, what, since_ms } = self.pending.remove(&number)?;
        match what {
            What::Append(appended) => Some((accepted_ns, appended)),
            what => {
                self.pending.insert(number, Pending { accepted_ns, what, since_ms });
                None
            }
        }
    }

    /// A request is answered.
    pub(super) fn respond(&mut self, number: u64, response: BackplaneResponse) {
        match self.pending.remove(&number) {
            Some(Pending { accepted_ns, what: What::Request(continuation), .. }) => {
                self.make_ready(accepted_ns, Step::Response(continuation, response));
            }
            Some(other) => _ = self.pending.insert(number, other),
            // It was given up.
            None => {}
        }
    }

    /// An entry did not reach the log.
    pub(super) fn lose(&mut self, number: u64) {
        if let Some((accepted_ns, appended)) = self.take_appended(number) {
            self.make_ready(accepted_ns, Step::Lost(appended));
        }
    }

    /// A condition is true, or will not be: all that wait for it, or for a lower number of its kind, go
    /// on.
    pub(super) fn wake(&mut self, condition: &Condition, how: Waited) {
        if self.by_condition.is_empty() {
            return;
        }
        while let Some((next, _)) =
            self.by_condition.range(condition.first()..=condition.clone()).next()
        {
            let next = next.clone();
            for number in self.by_condition.remove(&next).unwrap_or_default() {
                if let Some(Pending { accepted_ns, what: What::Wait(_, rest), .. }) =
                    self.pending.remove(&number)
                {
                    self.make_ready(accepted_ns, Step::Waited(rest, how));
                }
            }
        }
    }

    /// Gives up those that have waited for too long.
    pub(super) fn give_up_late(&mut self, now_ms: u64) {
        while let Some(first) = self.pending.first_entry() {
            if first.get().since_ms + limits::CLUSTER_PROPOSAL_MS > now_ms {
                return;
            }
            let number = *first.key();
            let Pending { accepted_ns, what, .. } = first.remove();
            let step = match what {
                What::Append(appended) => Step::Lost(appended),
                What::Request(continuation) => {
                    Step::Response(continuation, BackplaneResponse::Failed)
                }
                What::Wait(condition, continuation) => {
                    if let Some(numbers) = self.by_condition.get_mut(&condition) {
                        numbers.retain(|one| *one != number);
                        if numbers.is_empty() {
                            self.by_condition.remove(&condition);
                        }
                    }
                    Step::Waited(continuation, Waited::TimedOut)
                }
            };
            self.make_ready(accepted_ns, step);
        }
    }

    /// When the first of them has waited for too long, in milliseconds since the Unix epoch.
    pub(super) fn next_late_ms(&self) -> Option<u64> {
        let (_, first) = self.pending.first_key_value()?;
        Some(first.since_ms + limits::CLUSTER_PROPOSAL_MS)
    }

    /// Has a command go on with the next step.
    pub(super) fn make_ready(&mut self, accepted_ns: u64, step: Step) {
        self.ready.push_back(Ready { accepted_ns, step });
    }

    /// Takes the next command that can go on.
    pub(super) fn take_ready(&mut self) -> Option<Ready> {
        self.ready.pop_front()
    }

    /// Has a command wait behind the one of its connection that waits. Gives it back where there is
    /// none.
    pub(super) fn hold(&mut self, conn: ConnId, held: Held) -> Option<Held> {
        if self.held.is_empty() {
            return Some(held);
        }
        match self.held.get_mut(&conn) {
            Some(queue) => {
                // Bounded by the commands that a shard has outstanding for one connection.
                queue.push_back(held);
                None
            }
            None => Some(held),
        }
    }

    /// A command of a connection waits: those behind it wait as well.
    pub(super) fn begin_hold(&mut self, conn: ConnId) {
        self.held.entry(conn).or_default();
    }

    /// A connection has got its reply.
    pub(super) fn release(&mut self, conn: ConnId) {
        if !self.held.is_empty() && self.held.contains_key(&conn) {
            self.released.push_back(conn);
        }
    }

    /// Takes the commands of the next connection that has got its reply.
    pub(super) fn take_released(&mut self) -> Option<VecDeque<Held>> {
        let conn = self.released.pop_front()?;
        Some(self.held.remove(&conn).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Moment;
    use crate::id::ChannelName;
    use crate::state::{State, new_node};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Enters a command that notes its number and how it went on.
    fn enter(
        table: &mut PendingTable,
        seen: &Arc<AtomicU64>,
        digit: u64,
        condition: Condition,
        now_ms: u64,
    ) {
        let seen = Arc::clone(seen);
        let rest = Continuation::new(move |_: &mut State, waited, _| {
            let how = if waited == Waited::Met { 0 } else { 5 };
            seen.store(seen.load(Ordering::Relaxed) * 10 + digit + how, Ordering::Relaxed);
        });
        table.enter(What::Wait(condition, rest), 0, now_ms);
    }

    fn run(table: &mut PendingTable, seen: &Arc<AtomicU64>) -> u64 {
        let now = Moment::new(1_000, 1);
        let mut state = new_node("n", None, now);
        while let Some(Ready { step: Step::Waited(rest, how), .. }) = table.take_ready() {
            state.resume(rest, how, now);
        }
        seen.swap(0, Ordering::Relaxed)
    }

    #[test]
    fn a_wake_reaches_lower_numbers_and_no_other_kind() {
        let (mut table, seen) = (PendingTable::default(), Arc::new(AtomicU64::new(0)));
        let channel = |name: &str| Condition::ChannelRead(ChannelName::new(name));
        enter(&mut table, &seen, 1, Condition::JournalRead(3), 0);
        enter(&mut table, &seen, 2, Condition::JournalRead(5), 0);
        enter(&mut table, &seen, 3, Condition::PresenceAnnounced(1), 0);
        enter(&mut table, &seen, 4, channel("c"), 0);
        table.wake(&channel("b"), Waited::Met);
        table.wake(&channel("d"), Waited::Met);
        table.wake(&Condition::JournalRead(4), Waited::Met);
        assert_eq!(run(&mut table, &seen), 1);
        table.wake(&Condition::JournalRead(5), Waited::Met);
        table.wake(&channel("c"), Waited::Failed);
        assert_eq!(run(&mut table, &seen), 29);
        table.wake(&Condition::PresenceAnnounced(7), Waited::Met);
        assert_eq!((run(&mut table, &seen), table.next_late_ms()), (3, None));
        assert!(table.by_condition.is_empty());
    }

    #[test]
    fn who_waits_for_too_long_goes_on_once() {
        let (mut table, seen) = (PendingTable::default(), Arc::new(AtomicU64::new(0)));
        enter(&mut table, &seen, 1, Condition::JournalRead(3), 1_000);
        enter(&mut table, &seen, 2, Condition::JournalRead(3), 1_001);
        let late_ms = 1_000 + limits::CLUSTER_PROPOSAL_MS;
        assert_eq!(table.next_late_ms(), Some(late_ms));
        table.give_up_late(late_ms - 1);
        assert_eq!(run(&mut table, &seen), 0);
        table.give_up_late(late_ms);
        assert_eq!(run(&mut table, &seen), 6);
        table.wake(&Condition::JournalRead(3), Waited::Met);
        assert_eq!(run(&mut table, &seen), 2);
        table.give_up_late(late_ms + 1_000);
        assert!(table.take_ready().is_none() && table.by_condition.is_empty());
    }
}
