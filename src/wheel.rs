//! A timing wheel: many deadlines, one timer.
//!
//! Shards keep the pings, idle times and handshakes of all their connections here, control keeps
//! every lease. The scheme is the hashed wheel of Varghese and Lauck (1987): a ring of slots, one a
//! tick, so that arming a deadline and letting one pass both cost the same however many there are.
//!
//! # Promises
//!
//! * An item comes out at its deadline or at most one tick after it, unless the deadline lies
//!   further away than the ring is long: then it comes out early, at the end of the ring, and its
//!   owner puts it back.
//! * Nothing is ever cancelled. The owner of an item that comes out checks whether the deadline
//!   still holds and, if it moved, puts the item back. Moving a deadline outward, which every
//!   heartbeat does, thus costs nothing here.
//!
//! Imports nothing of the crate. Imported by `state` and `shard`.

/// Deadlines in milliseconds, rounded up to ticks.
///
/// # Invariants
///
/// 1. A slot's bit in `occupied` is set exactly when the slot holds an item.
/// 2. `count` is the number of items in all slots.
/// 3. Every item lies in a slot of a tick after `tick` and at most one turn of the ring away.
#[derive(Debug)]
pub(crate) struct Wheel<T> {
    slots: Vec<Vec<T>>,
    occupied: Vec<u64>,
    tick_ms: u64,
    /// The last tick that has been let out.
    tick: u64,
    count: usize,
}

impl<T> Wheel<T> {
    /// A ring of `slots` ticks (rounded up to a multiple of 64) of `tick_ms` each, standing at
    /// `now_ms`.
    pub(crate) fn new(slots: usize, tick_ms: u64, now_ms: u64) -> Wheel<T> {
        let words = slots.div_ceil(64);
        Wheel {
            slots: (0..words * 64).map(|_| Vec::new()).collect(),
            occupied: vec![0; words],
            tick_ms,
            tick: now_ms / tick_ms,
            count: 0,
        }
    }

    /// How many items wait.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Lets `item` come out at `at_ms`, or at the next tick if that has passed.
    pub(crate) fn insert(&mut self, at_ms: u64, item: T) {
        let span = self.slots.len() as u64;
        let tick = at_ms.div_ceil(self.tick_ms).clamp(self.tick + 1, self.tick + span);
        let slot = self.slot_of(tick);
        self.slots[slot].push(item);
        self.occupied[slot / 64] |= 1 << (slot % 64);
        self.count += 1;
    }

    /// Moves every item whose time has come into `due`, oldest tick first.
    pub(crate) fn advance(&mut self, now_ms: u64, due: &mut Vec<T>) {
        let target = now_ms / self.tick_ms;
        if target <= self.tick {
            return;
        }
        // After a long sleep one turn of the ring meets every slot.
        let steps = (target - self.tick).min(self.slots.len() as u64);
        for step in 1..=steps {
            let slot = self.slot_of(self.tick + step);
            if self.occupied[slot / 64] & (1 << (slot % 64)) == 0 {
                continue;
            }
            self.occupied[slot / 64] &= !(1 << (slot % 64));
            // The slot's memory goes with its items: after a storm the ring is small again.
            let mut items = std::mem::take(&mut self.slots[slot]);
            self.count -= items.len();
            due.append(&mut items);
        }
        self.tick = target;
    }

    /// When the next item comes out, in milliseconds. Linear in the ring's words, not in the items.
    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        if self.count == 0 {
            return None;
        }
        let span = self.slots.len() as u64;
        let mut step = 1;
        while step <= span {
            let slot = self.slot_of(self.tick + step);
            let word = self.occupied[slot / 64] >> (slot % 64);
            if word != 0 {
                let tick = self.tick + step + u64::from(word.trailing_zeros());
                return Some(tick * self.tick_ms);
            }
            step += 64 - (slot % 64) as u64;
        }
        None
    }

    fn slot_of(&self, tick: u64) -> usize {
        usize::try_from(tick % self.slots.len() as u64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays random deadlines against a sorted list. The ring is shorter than some deadlines, so
    /// early items and putting back are part of it.
    #[test]
    fn agrees_with_a_sorted_list() {
        for seed in 0..if cfg!(miri) { 2 } else { 50 } {
            let mut rng = crate::rng::Rng::seeded(seed);
            let mut wheel = Wheel::new(64, 10, 1_000);
            let (mut now, mut model, mut due) = (1_000, Vec::new(), Vec::new());
            for item in 0..400_u64 {
                let at = now + rng.below(2_000);
                wheel.insert(at, (at, item));
                model.push((at, item));
                if rng.below(4) == 0 {
                    let next = wheel.next_due_ms();
                    now += rng.below(900);
                    wheel.advance(now, &mut due);
                    assert!(due.is_empty() || next.is_some_and(|next| next <= now), "seed {seed}");
                    for (at, item) in due.drain(..) {
                        if at > now {
                            wheel.insert(at, (at, item));
                        } else {
                            assert!(model.contains(&(at, item)));
                            model.retain(|&(_, other)| other != item);
                        }
                    }
                    // The items still inside are due within one tick of now, or later.
                    assert!(model.iter().all(|&(at, _)| at + 10 > now), "seed {seed} item {item}");
                    assert_eq!(wheel.len(), model.len());
                }
            }
        }
    }

    #[test]
    fn empty_wheel_has_no_next() {
        let mut wheel = Wheel::new(64, 10, 0);
        assert_eq!(wheel.next_due_ms(), None);
        wheel.insert(5, ());
        assert_eq!(wheel.next_due_ms(), Some(10));
        wheel.advance(1_000_000, &mut Vec::new());
        assert_eq!(wheel.next_due_ms(), None);
    }
}
