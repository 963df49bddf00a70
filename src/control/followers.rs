//! Which shards follow which service, so that an event costs nothing on the others.
//!
//! Imports `id` and `limits`. Part of `control`.

use std::collections::HashMap;

use crate::id::{ServiceName, ShardId};
use crate::limits;

const WORDS: usize = limits::SHARDS_MAX.div_ceil(64);

/// A set of shards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct ShardSet([u64; WORDS]);

impl ShardSet {
    fn insert(&mut self, shard: ShardId) {
        let index = usize::from(shard.0);
        self.0[index / 64] |= 1 << (index % 64);
    }

    fn remove(&mut self, shard: ShardId) {
        let index = usize::from(shard.0);
        self.0[index / 64] &= !(1 << (index % 64));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0 == [0; WORDS]
    }

    /// The shards' indexes.
    pub(super) fn iter(self) -> impl Iterator<Item = usize> {
        self.0.into_iter().enumerate().flat_map(|(index, word)| {
            (0..64).filter(move |bit| word & (1 << bit) != 0).map(move |bit| index * 64 + bit)
        })
    }
}

/// Who follows what.
#[derive(Debug, Default)]
pub(super) struct Followers {
    by_service: HashMap<ServiceName, ShardSet>,
    everything: ShardSet,
}

impl Followers {
    pub(super) fn add(&mut self, service: &ServiceName, shard: ShardId) {
        if let Some(shards) = self.by_service.get_mut(service) {
            shards.insert(shard);
            return;
        }
        self.by_service.entry(service.clone()).or_default().insert(shard);
    }

    pub(super) fn remove(&mut self, service: &ServiceName, shard: ShardId) {
        if let Some(shards) = self.by_service.get_mut(service) {
            shards.remove(shard);
            if shards.is_empty() {
                self.by_service.remove(service);
            }
        }
    }

    pub(super) fn add_to_all(&mut self, shard: ShardId) {
        self.everything.insert(shard);
    }

    pub(super) fn remove_from_all(&mut self, shard: ShardId) {
        self.everything.remove(shard);
    }

    /// The shards that have to hear of a service.
    pub(super) fn shards(&self, service: &ServiceName) -> ShardSet {
        let mut shards = self.by_service.get(service).copied().unwrap_or_default();
        for (word, more) in shards.0.iter_mut().zip(self.everything.0) {
            *word |= more;
        }
        shards
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_followers_hear() {
        let (s, t) = (ServiceName::of("s"), ServiceName::of("t"));
        let mut followers = Followers::default();
        followers.add(&s, ShardId(0));
        followers.add(&s, ShardId(70));
        followers.add_to_all(ShardId(3));
        assert!(followers.shards(&s).iter().eq([0, 3, 70]));
        assert!(followers.shards(&t).iter().eq([3]));
        followers.remove(&s, ShardId(0));
        followers.remove_from_all(ShardId(3));
        assert!(followers.shards(&s).iter().eq([70]));
        followers.remove(&s, ShardId(70));
        assert!(followers.by_service.is_empty() && followers.shards(&s).is_empty());
    }
}
