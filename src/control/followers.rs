//! Which shards follow which service, so that an event costs nothing on the others.
//!
//! Imports `id`. Part of `control`.

use std::collections::HashMap;

use crate::id::{ServiceName, ShardId, ShardSet};

/// Who follows what.
#[derive(Debug, Default)]
pub(super) struct Followers {
    by_service: HashMap<ServiceName, ShardSet>,
    everything: ShardSet,
}

impl Followers {
    /// Notes that a shard follows a service. Returns whether it is the first that does.
    pub(super) fn add(&mut self, service: &ServiceName, shard: ShardId) -> bool {
        if let Some(shards) = self.by_service.get_mut(service) {
            shards.insert(shard);
            return false;
        }
        self.by_service.entry(service.clone()).or_default().insert(shard);
        true
    }

    /// Notes that a shard does no more. Returns whether it was the last that did.
    pub(super) fn remove(&mut self, service: &ServiceName, shard: ShardId) -> bool {
        let Some(shards) = self.by_service.get_mut(service) else { return false };
        shards.remove(shard);
        let is_last = shards.is_empty();
        if is_last {
            self.by_service.remove(service);
        }
        is_last
    }

    pub(super) fn add_to_all(&mut self, shard: ShardId) {
        self.everything.insert(shard);
    }

    pub(super) fn remove_from_all(&mut self, shard: ShardId) {
        self.everything.remove(shard);
    }

    /// The services that somebody follows by name.
    pub(super) fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.by_service.keys()
    }

    /// The shards that have to hear of a service.
    pub(super) fn shards(&self, service: &ServiceName) -> ShardSet {
        let mut shards = self.by_service.get(service).copied().unwrap_or_default();
        shards.unite(self.everything);
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
