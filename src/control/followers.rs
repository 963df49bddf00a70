//! Which shards follow which service, so that an event costs nothing on the others.

use std::collections::HashMap;

use crate::id::{Dialect, ServiceName, ShardId, ShardSet};

/// Who follows what.
#[derive(Debug, Default)]
pub(super) struct Followers {
    by_service: HashMap<ServiceName, Following>,
    everything: Following,
}

/// The shards that follow a service, by the dialect of their followers.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Following {
    /// Those with followers that get fanfare's own frames.
    pub(super) own: ShardSet,
    /// Those with followers that get Artemis' frames.
    pub(super) artemis: ShardSet,
}

impl Following {
    pub(super) fn is_empty(&self) -> bool {
        self.own.is_empty() && self.artemis.is_empty()
    }

    fn of(&mut self, dialect: Dialect) -> &mut ShardSet {
        match dialect {
            Dialect::Fanfare => &mut self.own,
            Dialect::Artemis => &mut self.artemis,
        }
    }
}

impl Followers {
    /// Notes that a shard follows a service. Returns whether it is the first that does.
    pub(super) fn add(&mut self, service: &ServiceName, shard: ShardId, dialect: Dialect) -> bool {
        if let Some(following) = self.by_service.get_mut(service) {
            following.of(dialect).insert(shard);
            return false;
        }
        self.by_service.entry(service.clone()).or_default().of(dialect).insert(shard);
        true
    }

    /// Notes that a shard does no more. Returns whether it was the last that did.
    pub(super) fn remove(
        &mut self,
        service: &ServiceName,
        shard: ShardId,
        dialect: Dialect,
    ) -> bool {
        let Some(following) = self.by_service.get_mut(service) else { return false };
        following.of(dialect).remove(shard);
        let is_last = following.is_empty();
        if is_last {
            self.by_service.remove(service);
        }
        is_last
    }

    pub(super) fn add_to_all(&mut self, shard: ShardId, dialect: Dialect) {
        self.everything.of(dialect).insert(shard);
    }

    pub(super) fn remove_from_all(&mut self, shard: ShardId, dialect: Dialect) {
        self.everything.of(dialect).remove(shard);
    }

    /// The services that somebody follows by name.
    pub(super) fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.by_service.keys()
    }

    /// The shards that have to hear of a service.
    pub(super) fn shards(&self, service: &ServiceName) -> Following {
        let mut following = self.by_service.get(service).copied().unwrap_or_default();
        following.own.unite(self.everything.own);
        following.artemis.unite(self.everything.artemis);
        following
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_followers_hear() {
        let (s, t) = (ServiceName::of("s"), ServiceName::of("t"));
        let mut followers = Followers::default();
        let own = Dialect::Fanfare;
        assert!(followers.add(&s, ShardId(0), own));
        assert!(!followers.add(&s, ShardId(70), own));
        followers.add_to_all(ShardId(3), own);
        assert!(followers.shards(&s).own.iter().eq([0, 3, 70]));
        assert!(followers.shards(&t).own.iter().eq([3]));
        assert!(!followers.remove(&s, ShardId(0), own));
        followers.remove_from_all(ShardId(3), own);
        assert!(followers.shards(&s).own.iter().eq([70]));
        assert!(followers.remove(&s, ShardId(70), own));
        assert!(followers.by_service.is_empty() && followers.shards(&s).is_empty());
    }

    #[test]
    fn dialects_are_told_apart() {
        let s = ServiceName::of("s");
        let mut followers = Followers::default();
        assert!(followers.add(&s, ShardId(1), Dialect::Artemis));
        assert!(!followers.add(&s, ShardId(1), Dialect::Fanfare), "it is followed already");
        followers.add_to_all(ShardId(2), Dialect::Artemis);
        let following = followers.shards(&s);
        assert!(following.own.iter().eq([1]) && following.artemis.iter().eq([1, 2]));
        assert!(!followers.remove(&s, ShardId(1), Dialect::Fanfare));
        assert!(followers.shards(&s).own.is_empty());
        assert!(followers.remove(&s, ShardId(1), Dialect::Artemis));
        assert!(followers.shards(&s).artemis.iter().eq([2]));
    }
}
