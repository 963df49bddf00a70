//! The tally: expected deliveries, received ones, and their latency.
//!
//! Every subscription has a position, the revision its subscriber has reached. A delivery moves it
//! on by exactly one; everything else is a fault with a name:
//!
//! ```text
//! from = position                 delivered
//! from > position                 a gap opens: lost, unless it is filled later
//! inside an open gap              misordered: it came, but too late
//! at or below the position        duplicated
//! service_snapshot                collapsed: the server skipped ahead, which it may
//! ```
//!
//! # Promises
//!
//! * At the end, expected = received + collapsed + lost, whatever the server sent.
//! * The usual case touches one position, two counters and one histogram, and allocates nothing.
//!
//! Imports `layout` and `timeline`. Imported by `fleet` and the scenarios.

use std::collections::HashMap;

use hdrhistogram::Histogram;

use crate::layout::Layout;
use crate::timeline::Timeline;

/// The longest latency in the histograms; longer ones count as this.
const LATENCY_NS_MAX: u64 = 600_000_000_000;

/// A histogram of nanoseconds, to three digits.
///
/// # Panics
///
/// Never: the bounds are constants that the histogram accepts.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, LATENCY_NS_MAX, 3).expect("the bounds are constants")
}

/// The received deliveries, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Deliveries that came, each counted once.
    pub(crate) received: u64,
    /// Deliveries that came again.
    pub(crate) duplicated: u64,
    /// Deliveries that came after a later one.
    pub(crate) misordered: u64,
    /// Changes that a snapshot replaced.
    pub(crate) collapsed: u64,
    /// The snapshots themselves.
    pub(crate) snapshots: u64,
    /// Changes that a frame claimed by its revisions and did not hold.
    pub(crate) hollow: u64,
}

/// One subscription's progress.
#[derive(Debug, Clone, Copy)]
struct Position {
    /// The revision at which the subscription began; deliveries are expected from here on. 71-72
    /// 2. The number of expected deliveries follows from the revisions given to `Tally::expected`;
    ///    it is derived, never stored.
    base: u64,
    /// The revision reached.
    revision: u64,
}

/// The account of all subscriptions of a fleet.
///
/// # Invariants
///
/// 1. Every range in `gaps` lies below its position and above its base, and no two overlap.
/// 2. The number of expected deliveries follows from the revisions given to `Tally::expected`; it
///    is derived, never stored.
#[derive(Debug)]
pub(crate) struct Tally {
    /// The index of each subscription.
    pub(crate) layout: Layout,
    /// The counts so far.
    pub(crate) counts: Counts,
    /// From the stamp of an event to the moment its frame was read.
    pub(crate) latency: Histogram<u64>,
    /// When it came.
    pub(crate) timeline: Timeline,
    /// When the first delivery since `mark` came; zero for none.
    pub(crate) first_ns: u64,
    /// When the last delivery came.
    pub(crate) last_ns: u64,
    /// Whether latencies are still recorded. Latencies after a deliberate stall mean nothing.
    pub(crate) is_timed: bool,
    positions: Vec<Option<Position>>,
    gaps: HashMap<usize, Vec<(u64, u64)>>,
}

impl Tally {
    /// An account of `connections` connections without a subscription yet.
    pub(crate) fn new(layout: Layout, connections: usize, now_ns: u64) -> Self {
        Tally {
            layout,
            counts: Counts::default(),
            latency: histogram(),
            timeline: Timeline::starting(now_ns),
            first_ns: 0,
            last_ns: 0,
            is_timed: true,
            positions: vec![None; connections * layout.per_connection],
            gaps: HashMap::new(),
        }
    }

    /// Starts the course over time now, and forgets the first arrival.
    pub(crate) fn mark(&mut self, now_ns: u64) {
        self.timeline = Timeline::starting(now_ns);
        self.first_ns = 0;
    }

    /// Starts a subscription at `revision`. No delivery below is expected.
    pub(crate) fn subscribe(&mut self, place: usize, revision: u64) {
        self.positions[place] = Some(Position { base: revision, revision });
    }

    /// The revision a subscription has reached.
    pub(crate) fn revision(&self, place: usize) -> Option<u64> {
        self.positions[place].map(|position| position.revision)
    }

    /// The number of subscriptions of each service, of the connections that `counts`.
    pub(crate) fn subscribers(&self, counts: impl Fn(usize) -> bool) -> Vec<u64> {
        let mut subscribers = vec![0; self.layout.services];
        for (place, position) in self.positions.iter().enumerate() {
            if position.is_some() && counts(place / self.layout.per_connection) {
                subscribers[self.layout.service_at(place)] += 1;
            }
        }
        subscribers
    }

    /// Counts a `service_change` that leads from one revision to another and holds one stamp per
    /// change. Allocates only at a fault.
    pub(crate) fn deliver(
        &mut self,
        place: usize,
        from: u64,
        revision: u64,
        stamps: &[u64],
        now_ns: u64,
    ) {
        let Some(position) = &mut self.positions[place] else {
            // Never requested: as wrong as a second copy.
            self.counts.duplicated += stamps.len() as u64;
            return;
        };
        let claimed = revision.saturating_sub(from);
        let fresh = if position.revision == from && claimed == stamps.len() as u64 {
            position.revision = revision;
            claimed
        } else {
            self.settle(place, from, revision, stamps.len() as u64)
        };
        if fresh == 0 {
            return;
        }
        self.counts.received += fresh;
        self.timeline.add(now_ns, fresh);
        self.last_ns = now_ns;
        if self.first_ns == 0 {
            self.first_ns = now_ns;
        }
        if self.is_timed {
            for &stamp in stamps.iter().filter(|stamp| **stamp != 0) {
                self.latency.saturating_record(now_ns.saturating_sub(stamp));
            }
        }
    }

    /// The unusual case of `deliver`. Returns how many deliveries of the frame are new.
    fn settle(&mut self, place: usize, from: u64, revision: u64, held: u64) -> u64 {
        let position = self.positions[place].as_mut().expect("the caller has seen the position");
        let claimed = revision.saturating_sub(from);
        // The part above the position is new, and the revisions that it jumps over are a gap.
        let reached = position.revision;
        let ahead = revision.saturating_sub(from.max(reached));
        if from > reached && ahead > 0 {
            self.gaps.entry(place).or_default().push((reached, from));
        }
        position.revision = reached.max(revision);
        // The part below the position fills gaps, or came before.
        let filled = self.fill(place, from, revision.min(reached));
        self.counts.misordered += filled;
        let fresh = ahead + filled;
        self.counts.duplicated += (claimed - fresh) + held.saturating_sub(claimed);
        let hollow = claimed.saturating_sub(held).min(fresh);
        self.counts.hollow += hollow;
        fresh - hollow
    }

    /// Takes the range `from..to` out of the gaps of a subscription. Returns the number of missing
    /// deliveries in it.
    fn fill(&mut self, place: usize, from: u64, to: u64) -> u64 {
        let Some(gaps) = self.gaps.get_mut(&place) else {
            return 0;
        };
        let mut filled = 0;
        let mut open = Vec::new();
        for &(start, end) in gaps.iter() {
            let (low, high) = (start.max(from), end.min(to));
            if low >= high {
                open.push((start, end));
                continue;
            }
            filled += high - low;
            open.extend([(start, low), (high, end)].into_iter().filter(|(a, b)| a < b));
        }
        *gaps = open;
        filled
    }

    /// Counts a `service_snapshot`: the subscriber is at `revision` now, whatever it missed.
    pub(crate) fn collapse(&mut self, place: usize, revision: u64) {
        let Some(position) = &mut self.positions[place] else {
            self.counts.duplicated += 1;
            return;
        };
        self.counts.snapshots += 1;
        if revision < position.revision {
            // A step back would show the subscriber an older state.
            self.counts.misordered += 1;
            return;
        }
        self.counts.collapsed += revision - position.revision;
        position.revision = revision;
    }

    /// The number of expected deliveries when the services are at `revisions`.
    pub(crate) fn expected(&self, revisions: &[u64]) -> u64 {
        self.each(revisions).map(|(position, end)| end.saturating_sub(position.base)).sum()
    }

    /// The number of missing deliveries when the services are at `revisions`.
    pub(crate) fn lost(&self, revisions: &[u64]) -> u64 {
        let behind: u64 = self.each(revisions).map(|(p, end)| end.saturating_sub(p.revision)).sum();
        let gaps: u64 = self.gaps.values().flatten().map(|(start, end)| end - start).sum();
        behind + gaps + self.counts.hollow
    }

    fn each<'a>(&'a self, revisions: &'a [u64]) -> impl Iterator<Item = (&'a Position, u64)> {
        let places = self.positions.iter().enumerate();
        places.filter_map(|(place, position)| {
            Some((position.as_ref()?, revisions[self.layout.service_at(place)]))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const ONE: Layout = Layout { services: 1, per_connection: 1 };

    fn tally_at(revision: u64) -> Tally {
        let mut tally = Tally::new(ONE, 1, 1);
        tally.subscribe(0, revision);
        tally
    }

    /// Stamps of the right number for a frame; their values do not matter here.
    fn deliver(tally: &mut Tally, from: u64, revision: u64) {
        tally.deliver(0, from, revision, &vec![1; (revision - from) as usize], 2);
    }

    #[test]
    fn an_orderly_stream_has_no_faults() {
        let mut tally = tally_at(7);
        deliver(&mut tally, 7, 8);
        deliver(&mut tally, 8, 11);
        assert_eq!(tally.counts, Counts { received: 4, ..Counts::default() });
        assert_eq!((tally.expected(&[11]), tally.lost(&[11])), (4, 0));
        assert_eq!(tally.latency.len(), 4);
    }

    #[test]
    fn a_gap_is_lost_and_a_missing_end_too() {
        let mut tally = tally_at(0);
        deliver(&mut tally, 0, 1);
        deliver(&mut tally, 3, 4);
        assert_eq!(tally.counts.received, 2);
        assert_eq!(tally.lost(&[6]), 2 + 2);
    }

    #[test]
    fn a_late_frame_is_misordered_and_no_longer_lost() {
        let mut tally = tally_at(0);
        deliver(&mut tally, 2, 3);
        deliver(&mut tally, 0, 1);
        deliver(&mut tally, 1, 2);
        assert_eq!(tally.counts.misordered, 2);
        assert_eq!((tally.counts.received, tally.lost(&[3])), (3, 0));
    }

    #[test]
    fn a_repeated_frame_is_duplicated() {
        let mut tally = tally_at(0);
        deliver(&mut tally, 0, 2);
        deliver(&mut tally, 0, 2);
        deliver(&mut tally, 1, 3);
        assert_eq!(tally.counts.duplicated, 3);
        assert_eq!((tally.counts.received, tally.lost(&[3])), (3, 0));
    }

    #[test]
    fn a_snapshot_is_collapsed_not_lost() {
        let mut tally = tally_at(0);
        deliver(&mut tally, 0, 1);
        tally.collapse(0, 9);
        deliver(&mut tally, 9, 10);
        assert_eq!((tally.counts.collapsed, tally.counts.snapshots), (8, 1));
        assert_eq!((tally.counts.received, tally.lost(&[10])), (2, 0));
        tally.collapse(0, 5);
        assert_eq!(tally.counts.misordered, 1);
    }

    #[test]
    fn a_frame_that_holds_less_than_it_claims_is_lost() {
        let mut tally = tally_at(0);
        tally.deliver(0, 0, 3, &[1], 2);
        assert_eq!((tally.counts.received, tally.lost(&[3])), (1, 2));
    }

    #[test]
    fn a_frame_nobody_asked_for_is_a_duplicate() {
        let mut tally = Tally::new(ONE, 1, 1);
        deliver(&mut tally, 0, 1);
        assert_eq!(tally.counts.duplicated, 1);
        assert_eq!(tally.expected(&[1]), 0);
    }

    /// Random frames against a set of the revisions that came. The stretch is short, so that gaps,
    /// repeats and partial overlaps are frequent.
    #[test]
    fn agrees_with_a_set_of_revisions() {
        for seed in 1..200u64 {
            let mut state = seed;
            let mut below = |bound: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(seed | 1);
                (state >> 33) % bound
            };
            let mut tally = tally_at(0);
            let (mut came, mut skipped, mut repeats, mut top) = (BTreeSet::new(), 0, 0, 0);
            for _ in 0..12 {
                let from = below(12);
                let revision = from + 1 + below(3);
                if below(6) == 0 && revision >= top {
                    tally.collapse(0, revision);
                    skipped += revision - top;
                    came.extend(top + 1..=revision);
                } else {
                    deliver(&mut tally, from, revision);
                    repeats += (from + 1..=revision).filter(|one| !came.insert(*one)).count();
                }
                top = top.max(revision);
            }
            let counts = tally.counts;
            let missing = (1..=20).filter(|one| !came.contains(one)).count() as u64;
            assert_eq!(counts.collapsed, skipped, "seed {seed}");
            assert_eq!(counts.duplicated, repeats as u64, "seed {seed}");
            assert_eq!(tally.lost(&[20]), missing, "seed {seed}");
            assert_eq!(20, counts.received + counts.collapsed + missing, "seed {seed}");
        }
    }
}
