//! Who follows what, and which revisions each of them has seen.
//!
//! A server that keeps its promise sends each subscriber of a service every revision once and in
//! order, and says so in each frame: `from` is the revision of the frame before it. The ledger
//! holds the last revision of each subscription and sorts what does not fit into late, doubled
//! and lost.

use std::collections::HashMap;

/// How services are spread over connections.
///
/// Subscription `n` of `services * subscribers` belongs to connection `n % connections` and to
/// service `n / subscribers`. So each service has the same number of subscribers and each
/// connection the same number of services, give or take one, and both follow from the other two
/// without a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) services: usize,
    /// Per service. Never above `connections`, or a connection would follow a service twice.
    pub(crate) subscribers: usize,
    pub(crate) connections: usize,
}

impl Layout {
    /// Nobody follows anything.
    pub(crate) const NONE: Layout = Layout { services: 0, subscribers: 1, connections: 1 };

    pub(crate) fn subscriptions(&self) -> usize {
        self.services * self.subscribers
    }

    /// The services that `connection` follows.
    pub(crate) fn services_of(self, connection: usize) -> impl Iterator<Item = usize> {
        (connection..self.subscriptions())
            .step_by(self.connections)
            .map(move |n| n / self.subscribers)
    }

    /// The number of the subscription of `connection` to `service`, if there is one.
    fn subscription(&self, connection: usize, service: usize) -> Option<usize> {
        let first = service * self.subscribers;
        let offset = (connection + self.connections - first % self.connections) % self.connections;
        (offset < self.subscribers && service < self.services).then_some(first + offset)
    }
}

/// Changes that did not come once and in order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    /// Seen before.
    pub(crate) duplicated: u64,
    /// Came after a later one.
    pub(crate) misordered: u64,
    /// Passed over by a snapshot, which is allowed: the state is whole again.
    pub(crate) skipped: u64,
    /// Never came. Only known at the end, see [`Ledger::lost`].
    pub(crate) lost: u64,
    pub(crate) snapshots: u64,
}

/// The revisions seen, by subscription.
#[derive(Debug)]
pub(crate) struct Ledger {
    layout: Layout,
    /// Connections below this one stop reading on purpose; their faults are kept apart.
    stalled: usize,
    first: Vec<u64>,
    last: Vec<u64>,
    /// What was passed over and may still come late, as half-open ranges `(after, upto]`.
    gaps: HashMap<usize, Vec<(u64, u64)>>,
    readers: Faults,
    stallers: Faults,
}

impl Ledger {
    pub(crate) fn new(layout: Layout, stalled: usize) -> Ledger {
        Ledger {
            layout,
            stalled,
            first: vec![0; layout.subscriptions()],
            last: vec![0; layout.subscriptions()],
            gaps: HashMap::new(),
            readers: Faults::default(),
            stallers: Faults::default(),
        }
    }

    /// Notes where a subscription starts.
    pub(crate) fn start(&mut self, connection: usize, service: usize, revision: u64) {
        if let Some(n) = self.layout.subscription(connection, service) {
            self.first[n] = revision;
            self.last[n] = revision;
        }
    }

    /// Notes the changes after `from` up to `revision`. False if nobody asked for this service.
    pub(crate) fn change(
        &mut self,
        connection: usize,
        service: usize,
        from: u64,
        revision: u64,
    ) -> bool {
        let Some(n) = self.layout.subscription(connection, service) else {
            return false;
        };
        if self.last[n] == from {
            self.last[n] = revision;
        } else {
            self.repair(connection, n, from, revision);
        }
        true
    }

    #[cold]
    fn repair(&mut self, connection: usize, n: usize, from: u64, revision: u64) {
        let last = self.last[n];
        let faults = if connection < self.stalled { &mut self.stallers } else { &mut self.readers };
        if from > last {
            self.gaps.entry(n).or_default().push((last, from));
            self.last[n] = revision;
            return;
        }
        // What fills a gap is late; the rest of it below `last` was here before.
        let mut late = 0;
        let upto = revision.min(last);
        if let Some(gaps) = self.gaps.get_mut(&n) {
            let mut remaining = Vec::with_capacity(gaps.len() + 1);
            for &(after, end) in gaps.iter() {
                let (low, high) = (after.max(from), end.min(upto));
                if low >= high {
                    remaining.push((after, end));
                    continue;
                }
                late += high - low;
                remaining.extend([(after, low), (high, end)].into_iter().filter(|(a, b)| a < b));
            }
            *gaps = remaining;
        }
        faults.misordered += late;
        faults.duplicated += (upto - from) - late;
        self.last[n] = last.max(revision);
    }

    /// Notes a snapshot: changes go on from `revision`, and what is missing below no longer counts.
    pub(crate) fn snapshot(&mut self, connection: usize, service: usize, revision: u64) {
        let Some(n) = self.layout.subscription(connection, service) else {
            return;
        };
        let gaps: u64 = self.gaps.remove(&n).iter().flatten().map(|(a, b)| b - a).sum();
        let faults = if connection < self.stalled { &mut self.stallers } else { &mut self.readers };
        faults.snapshots += 1;
        faults.skipped += gaps + revision.saturating_sub(self.last[n]);
        self.last[n] = revision;
    }

    /// Changes that were passed over by snapshots so far.
    pub(crate) fn skipped(&self) -> u64 {
        self.readers.skipped
    }

    /// The faults of those who read and of those who stalled, given how many changes each service
    /// had since the subscriptions started.
    pub(crate) fn faults(&self, changes: &[u64]) -> (Faults, Faults) {
        let (mut readers, mut stallers) = (self.readers, self.stallers);
        for n in 0..self.layout.subscriptions() {
            let expected = self.first[n] + changes[n / self.layout.subscribers];
            let gaps: u64 = self.gaps.get(&n).into_iter().flatten().map(|(a, b)| b - a).sum();
            let is_stalled = n % self.layout.connections < self.stalled;
            let faults = if is_stalled { &mut stallers } else { &mut readers };
            faults.lost += gaps + expected.saturating_sub(self.last[n]);
        }
        (readers, stallers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Layout = Layout { services: 1, subscribers: 1, connections: 1 };

    #[test]
    fn each_service_has_its_subscribers_and_each_connection_its_services() {
        let layout = Layout { services: 30, subscribers: 4, connections: 7 };
        let mut seen = [0; 30];
        for connection in 0..layout.connections {
            for service in layout.services_of(connection) {
                seen[service] += 1;
                assert!(layout.subscription(connection, service).is_some());
            }
        }
        assert_eq!(seen, [4; 30]);
        let pairs = (0..7).flat_map(|connection| (0..31).map(move |service| (connection, service)));
        assert_eq!(pairs.filter(|(c, s)| layout.subscription(*c, *s).is_some()).count(), 120);
    }

    #[test]
    fn late_change_is_misordered_and_not_lost() {
        let mut ledger = Ledger::new(ONE, 0);
        for (from, revision) in [(0, 1), (4, 5), (2, 3), (2, 3)] {
            ledger.change(0, 0, from, revision);
        }
        let expected = Faults { duplicated: 1, misordered: 1, lost: 2, ..Faults::default() };
        assert_eq!(ledger.faults(&[5]).0, expected);
    }

    #[test]
    fn snapshot_makes_the_state_whole() {
        let mut ledger = Ledger::new(ONE, 0);
        ledger.change(0, 0, 0, 1);
        ledger.change(0, 0, 3, 4);
        ledger.snapshot(0, 0, 10);
        ledger.change(0, 0, 10, 11);
        let expected = Faults { skipped: 8, snapshots: 1, ..Faults::default() };
        assert_eq!(ledger.faults(&[11]).0, expected);
    }

    #[test]
    fn missing_end_is_lost() {
        let mut ledger = Ledger::new(ONE, 0);
        ledger.start(0, 0, 7);
        ledger.change(0, 0, 7, 8);
        assert_eq!(ledger.faults(&[3]).0.lost, 2);
    }
}
