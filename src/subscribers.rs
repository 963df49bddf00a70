//! The connections that follow one topic.
//!
//! A shard keeps one for each topic, of its own slots; the state keeps one for each channel, of the
//! indexes of its own table.
//!
//! Every event walks a set of slots, so it has the form that walks fastest for its density: a
//! sorted list while it is thin, a bit a slot when that takes no more memory. A single member, as a user's topic
//! mostly has, needs no memory besides. A topic of twenty
//! followers among ten thousand connections thus costs eighty bytes, and one that all connections
//! follow an eighth of a byte a connection. Figures: `cargo bench --bench subscribers`.
//!
//! Imports `id`. Imported by `shard::topics` and `state::channels`.

use crate::id::Slot;

/// Below this many members a set is always a list.
const FEW: usize = 32;
/// A list turns into bits when there is a member in every so many slots: 32 bits a member is what
/// the list takes. It turns back at half that density, so that it does not flap.
const SLOTS_PER_MEMBER: usize = 32;

/// A set of slots.
///
/// # Invariants
///
/// 1. A list is sorted and holds each slot once, and is not used for one member.
/// 2. Bits: `count` is the number of set bits, and the last word is not zero.
/// 3. Every member names a live connection. The shard keeps this one: it takes a connection out of
///    its sets before it frees the slot.
#[derive(Debug, Clone)]
pub struct Subscribers(Form);

#[derive(Debug, Clone)]
enum Form {
    One(u32),
    List(Vec<u32>),
    /// Boxed: each signed-in user has a topic with one member, and would pay for the count.
    Bits(Box<Bits>),
}

#[derive(Debug, Clone)]
struct Bits {
    words: Vec<u64>,
    count: usize,
}

impl Default for Subscribers {
    fn default() -> Subscribers {
        Subscribers(Form::List(Vec::new()))
    }
}

impl Subscribers {
    /// The number of members.
    pub fn len(&self) -> usize {
        match &self.0 {
            Form::One(_) => 1,
            Form::List(list) => list.len(),
            Form::Bits(bits) => bits.count,
        }
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether `slot` is a member.
    pub fn contains(&self, slot: Slot) -> bool {
        match &self.0 {
            Form::One(one) => *one == slot.0,
            Form::List(list) => list.binary_search(&slot.0).is_ok(),
            Form::Bits(bits) => {
                bits.words.get(slot.index() / 64).is_some_and(|word| word & mask(slot) != 0)
            }
        }
    }

    /// Adds `slot`. Returns false if it is a member already.
    pub fn insert(&mut self, slot: Slot) -> bool {
        let added = match &mut self.0 {
            Form::One(one) if *one == slot.0 => false,
            Form::One(one) => {
                self.0 = Form::List(vec![slot.0.min(*one), slot.0.max(*one)]);
                true
            }
            Form::List(list) if list.is_empty() => {
                self.0 = Form::One(slot.0);
                true
            }
            Form::List(list) => match list.binary_search(&slot.0) {
                Ok(_) => false,
                Err(place) => {
                    list.insert(place, slot.0);
                    true
                }
            },
            Form::Bits(bits) => {
                let Bits { words, count } = &mut **bits;
                let index = slot.index() / 64;
                if index >= words.len() {
                    words.resize(index + 1, 0);
                }
                let added = words[index] & mask(slot) == 0;
                words[index] |= mask(slot);
                *count += usize::from(added);
                added
            }
        };
        self.adapt();
        debug_assert!(self.is_sound());
        added
    }

    /// Removes `slot`. Returns false if it is not a member.
    pub fn remove(&mut self, slot: Slot) -> bool {
        let removed = match &mut self.0 {
            Form::One(one) if *one != slot.0 => false,
            Form::One(_) => {
                self.0 = Form::List(Vec::new());
                true
            }
            Form::List(list) => match list.binary_search(&slot.0) {
                Ok(place) => {
                    list.remove(place);
                    if let [one] = list[..] {
                        self.0 = Form::One(one);
                    }
                    true
                }
                Err(_) => false,
            },
            Form::Bits(bits) => {
                let Bits { words, count } = &mut **bits;
                let Some(word) = words.get_mut(slot.index() / 64) else { return false };
                let removed = *word & mask(slot) != 0;
                *word &= !mask(slot);
                *count -= usize::from(removed);
                while words.last() == Some(&0) {
                    words.pop();
                }
                removed
            }
        };
        self.adapt();
        debug_assert!(self.is_sound());
        removed
    }

    /// Appends the members to `out`, in ascending order.
    pub fn walk(&self, out: &mut Vec<Slot>) {
        match &self.0 {
            Form::One(one) => out.push(Slot(*one)),
            Form::List(list) => out.extend(list.iter().map(|&slot| Slot(slot))),
            Form::Bits(bits) => {
                out.reserve(bits.count);
                for (index, &word) in bits.words.iter().enumerate() {
                    walk_word(index, word, out);
                }
            }
        }
    }

    /// Appends the members of either set to `out`, each once, in ascending order.
    pub fn walk_union(&self, other: &Subscribers, out: &mut Vec<Slot>) {
        match (&self.0, &other.0) {
            (_, _) if other.is_empty() => self.walk(out),
            (_, _) if self.is_empty() => other.walk(out),
            (Form::Bits(a), Form::Bits(b)) => {
                let (a, b) = (&a.words, &b.words);
                for index in 0..a.len().max(b.len()) {
                    let word = |words: &[u64]| words.get(index).copied().unwrap_or(0);
                    walk_word(index, word(a) | word(b), out);
                }
            }
            // One of the two is thin: walk the other and merge.
            _ => {
                let (mut left, mut right) = (Vec::new(), Vec::new());
                self.walk(&mut left);
                other.walk(&mut right);
                merge(&left, &right, out);
            }
        }
    }

    /// Bytes of memory that the set holds beside itself.
    #[cfg(any(test, feature = "internals"))]
    pub fn heap_bytes(&self) -> usize {
        match &self.0 {
            Form::One(_) => 0,
            Form::List(list) => list.capacity() * size_of::<u32>(),
            Form::Bits(bits) => size_of::<Bits>() + bits.words.capacity() * size_of::<u64>(),
        }
    }

    fn adapt(&mut self) {
        match &self.0 {
            Form::One(_) => {}
            Form::List(list) => {
                let span = list.last().map_or(0, |&last| last as usize + 1);
                if list.len() > FEW && list.len() * SLOTS_PER_MEMBER >= span {
                    let mut words = vec![0; span.div_ceil(64)];
                    for &slot in list {
                        words[slot as usize / 64] |= mask(Slot(slot));
                    }
                    self.0 = Form::Bits(Box::new(Bits { words, count: list.len() }));
                }
            }
            Form::Bits(bits) => {
                let Bits { words, count } = &**bits;
                let span = words.len() * 64;
                if *count < FEW / 2 || count * SLOTS_PER_MEMBER * 2 < span {
                    let mut slots = Vec::with_capacity(*count);
                    self.walk(&mut slots);
                    self.0 = Form::List(slots.into_iter().map(|slot| slot.0).collect());
                }
            }
        }
    }

    /// Invariants 1 and 2. Linear in the set, so only ever called from `debug_assert!`.
    fn is_sound(&self) -> bool {
        match &self.0 {
            Form::One(_) => true,
            Form::List(list) => list.len() != 1 && list.is_sorted_by(|a, b| a < b),
            Form::Bits(bits) => {
                let Bits { words, count } = &**bits;
                let ones: usize = words.iter().map(|word| word.count_ones() as usize).sum();
                ones == *count && words.last() != Some(&0)
            }
        }
    }
}

fn mask(slot: Slot) -> u64 {
    1 << (slot.0 % 64)
}

fn walk_word(index: usize, mut word: u64, out: &mut Vec<Slot>) {
    let base = u32::try_from(index * 64).expect("slots are below 2^32");
    while word != 0 {
        out.push(Slot(base + word.trailing_zeros()));
        word &= word - 1;
    }
}

fn merge(mut left: &[Slot], mut right: &[Slot], out: &mut Vec<Slot>) {
    while let (Some(&a), Some(&b)) = (left.first(), right.first()) {
        out.push(a.min(b));
        if a <= b {
            left = &left[1..];
        }
        if b <= a {
            right = &right[1..];
        }
    }
    out.extend_from_slice(left);
    out.extend_from_slice(right);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use std::collections::BTreeSet;

    /// Random steps on two sets and on two models. The span of slots changes from round to round,
    /// so that all forms and conversions occur.
    #[test]
    fn agrees_with_btreesets() {
        let (seeds, phase) = if cfg!(miri) { (3, 150) } else { (60, 500) };
        for seed in 0..seeds {
            let mut rng = Rng::seeded(seed);
            let span = [40, 200, 5_000][seed as usize % 3];
            let mut sets = [Subscribers::default(), Subscribers::default()];
            let mut models = [BTreeSet::new(), BTreeSet::new()];
            for step in 0..3 * phase {
                let grows = (step / phase) % 2 == 0;
                let which = rng.below(2) as usize;
                let slot = Slot(rng.below(span) as u32);
                let inserts = rng.below(4) > 0;
                let (got, want) = if inserts == grows {
                    (sets[which].insert(slot), models[which].insert(slot))
                } else {
                    (sets[which].remove(slot), models[which].remove(&slot))
                };
                assert_eq!(got, want, "seed {seed} step {step} {slot:?}");
                assert_eq!(sets[which].contains(slot), models[which].contains(&slot));
                assert_eq!(sets[which].len(), models[which].len());
                if step % 50 == 0 {
                    let mut walked = Vec::new();
                    sets[0].walk_union(&sets[1], &mut walked);
                    assert!(walked.iter().eq(models[0].union(&models[1])), "seed {seed}");
                    walked.clear();
                    sets[0].walk(&mut walked);
                    assert!(walked.iter().eq(&models[0]), "seed {seed} step {step}");
                }
            }
        }
    }

    #[test]
    fn memory_follows_the_members() {
        let mut thin = Subscribers::default();
        for slot in (0..20).map(|n| Slot(n * 5_000)) {
            thin.insert(slot);
        }
        assert!(thin.heap_bytes() <= 160);
        let mut dense = Subscribers::default();
        let count = if cfg!(miri) { 500 } else { 10_000 };
        for slot in 0..count {
            dense.insert(Slot(slot));
        }
        assert!(dense.heap_bytes() <= 4_096, "{}", dense.heap_bytes());
        for slot in 0..count {
            dense.remove(Slot(slot));
        }
        assert!(dense.is_empty() && dense.heap_bytes() <= 256);
    }
}
