//! Idle keep-alive connections, and eviction of the one that is idle for longest.
//!
//! ```text
//! head read --> busy --> answered, all written --> idle --> evicted: ends as if the peer had gone
//!                ^                                  |
//!                +----------- next head ------------+
//! ```
//!
//! A kept connection is a convenience for one client and takes a descriptor that another client needs. When
//! the last descriptor is taken, the connection that has been idle for longest ends, on any shard, and the
//! new one takes its place at once.
//!
//! # Promises
//!
//! * A connection whose request has come, or whose answer has not left, is not evicted.
//! * Between two requests nothing is locked: becoming idle or busy is one store.
//! * The moment is passed in.
//!
//! Imports its sibling and `limits`. Imported by `http::guard`, `http::connection` and `server`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Waker};

use parking_lot::Mutex;
use slab::Slab;
use tokio::time::Instant;

use super::answer_body::Unsent;
use crate::limits;

/// A connection that is not idle.
const BUSY: u64 = 0;

/// A connection that has to end at its next rest.
const EVICTED: u64 = u64::MAX;

/// The plain connections of all shards. One a server.
#[derive(Debug)]
pub struct IdleTable {
    started: Instant,
    states: Mutex<Slab<Arc<KeptState>>>,
    candidates: Mutex<Candidates>,
}

/// The connections that were idle for longest at the last search, the oldest first, each with the
/// moment since which it is idle.
#[derive(Debug, Default)]
struct Candidates {
    oldest: VecDeque<(u64, Arc<KeptState>)>,
    /// When a search found no idle connection, in milliseconds since the table's start.
    looked_in_vain_ms: Option<u64>,
}

/// The state of a connection that other threads read.
#[derive(Debug)]
struct KeptState {
    /// Since when it is idle, in milliseconds since the table's start and one; or [`BUSY`], or
    /// [`EVICTED`].
    since: AtomicU64,
    is_serving: AtomicBool,
    unsent: Arc<Unsent>,
    waker: Mutex<Option<Waker>>,
}

/// A connection's own entry in the table, until it ends.
#[derive(Debug)]
pub struct Kept {
    table: Arc<IdleTable>,
    key: usize,
    state: Arc<KeptState>,
}

impl IdleTable {
    /// An empty table. `started` is before any connection is idle.
    pub fn new(started: std::time::Instant) -> IdleTable {
        IdleTable {
            started: started.into(),
            states: Mutex::default(),
            candidates: Mutex::default(),
        }
    }

    /// Adds a connection whose first request is being served.
    pub fn enter(self: &Arc<IdleTable>, unsent: &Arc<Unsent>) -> Arc<Kept> {
        let state = Arc::new(KeptState {
            since: AtomicU64::new(BUSY),
            is_serving: AtomicBool::new(false),
            unsent: Arc::clone(unsent),
            waker: Mutex::default(),
        });
        let key = self.states.lock().insert(Arc::clone(&state));
        Arc::new(Kept { table: Arc::clone(self), key, state })
    }

    /// Ends the connection that has been idle for longest. Returns false if none is idle.
    pub fn evict(&self, now: Instant) -> bool {
        let mut candidates = self.candidates.lock();
        loop {
            while let Some((since, state)) = candidates.oldest.pop_front() {
                if state.evict(since) {
                    return true;
                }
            }
            let now_ms = self.since_start_ms(now);
            let pause_ms = limits::IDLE_LOOK_MS;
            if candidates.looked_in_vain_ms.is_some_and(|at_ms| now_ms < at_ms + pause_ms) {
                // Thousands of refused clients must not each scan thousands of busy connections.
                return false;
            }
            candidates.oldest = self.oldest();
            candidates.looked_in_vain_ms = candidates.oldest.is_empty().then_some(now_ms);
            if candidates.oldest.is_empty() {
                return false;
            }
        }
    }

    fn oldest(&self) -> VecDeque<(u64, Arc<KeptState>)> {
        let states = self.states.lock();
        let idle = states.iter().filter_map(|(_, state)| {
            let since = state.since.load(Ordering::Acquire);
            let is_idle = since != BUSY && since != EVICTED && state.unsent.is_empty();
            is_idle.then(|| (since, Arc::clone(state)))
        });
        let mut idle: Vec<(u64, Arc<KeptState>)> = idle.collect();
        drop(states);
        idle.sort_unstable_by_key(|(since, _)| *since);
        idle.truncate(limits::IDLE_CANDIDATES);
        idle.into()
    }

    fn since_start_ms(&self, now: Instant) -> u64 {
        u64::try_from(now.duration_since(self.started).as_millis()).unwrap_or(u64::MAX - 2)
    }
}

impl KeptState {
    /// Evicts a connection that is still idle since `since`.
    fn evict(&self, since: u64) -> bool {
        let is_evicted = self.unsent.is_empty()
            && self
                .since
                .compare_exchange(since, EVICTED, Ordering::AcqRel, Ordering::Acquire)
                .is_ok();
        if is_evicted && let Some(waker) = self.waker.lock().as_ref() {
            waker.wake_by_ref();
        }
        is_evicted
    }
}

impl Kept {
    /// The connection has nothing to read and no head begun. Returns whether it has to end.
    pub fn rest(&self, context: &Context<'_>, now: Instant) -> bool {
        let state = &self.state;
        if state.is_serving.load(Ordering::Acquire) {
            return false;
        }
        let since = state.since.load(Ordering::Acquire);
        if since != BUSY {
            return since == EVICTED;
        }
        let mut waker = state.waker.lock();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
        drop(waker);
        // Only this connection changes BUSY.
        state.since.store(self.table.since_start_ms(now) + 1, Ordering::Release);
        false
    }

    /// The next head has begun to arrive.
    pub fn work(&self) {
        let state = &self.state;
        // A connection that was evicted a moment ago answers this request, and then ends.
        let _ = state.since.fetch_update(Ordering::AcqRel, Ordering::Acquire, |since| {
            (since != EVICTED).then_some(BUSY)
        });
    }

    /// A request is being answered from here on, or has been answered.
    pub fn serve(&self, is_serving: bool) {
        self.state.is_serving.store(is_serving, Ordering::Release);
    }

    /// Whether the connection was ended in favour of another one.
    pub fn is_evicted(&self) -> bool {
        self.state.since.load(Ordering::Acquire) == EVICTED
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.table.states.lock().remove(self.key);
        // A holder of the connection as a candidate must not take it for one that can end.
        self.state.since.store(BUSY, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn context() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    #[test]
    fn the_one_that_is_idle_for_longest_goes_first() {
        let table = Arc::new(IdleTable::new(Instant::now().into_std()));
        let at = |ms: u64| table.started + Duration::from_millis(ms);
        let all: Vec<Arc<Kept>> = (0..4).map(|_| table.enter(&Arc::default())).collect();
        assert!(!table.evict(at(0)), "all are busy");
        for (index, ms) in [(2, 1_000), (0, 1_005), (3, 1_010)] {
            assert!(!all[index].rest(&context(), at(ms)));
        }
        // The oldest one has had a request and is idle again: it is the youngest now.
        all[2].work();
        assert!(!all[2].rest(&context(), at(1_015)));
        for index in [0, 3, 2] {
            assert!(table.evict(at(2_000)));
            assert!(all[index].is_evicted(), "{index}");
            assert!(all[index].rest(&context(), at(2_000)), "it has to end");
        }
        assert!(!table.evict(at(3_000)));
        assert!(!all[1].is_evicted());
        drop(all);
        assert!(table.states.lock().is_empty());
    }

    #[test]
    fn who_is_served_or_has_an_answer_to_take_or_has_gone_stays() {
        let table = Arc::new(IdleTable::new(Instant::now().into_std()));
        let at = |ms: u64| table.started + Duration::from_millis(ms);
        let (serving, unsent) = (table.enter(&Arc::default()), Arc::<Unsent>::default());
        serving.serve(true);
        assert!(!serving.rest(&context(), at(1)));
        let taking = table.enter(&unsent);
        let mark = unsent.add(10);
        assert!(!taking.rest(&context(), at(1)));
        assert!(!table.evict(at(100)));
        drop(mark);
        let gone: Vec<Arc<Kept>> = (0..2).map(|_| table.enter(&Arc::default())).collect();
        for kept in &gone {
            assert!(!kept.rest(&context(), at(200)));
        }
        // Both are candidates by now; one that has ended frees nothing any more.
        assert!(table.evict(at(1_000)));
        assert!(taking.is_evicted() && !serving.is_evicted());
        drop(gone);
        assert!(!table.evict(at(2_000)));
        // A request that came meanwhile is answered; then the connection ends all the same.
        taking.work();
        assert!(taking.rest(&context(), at(3_000)));
    }
}
