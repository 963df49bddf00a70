//! Installing a snapshot and the entries after it, at a node of a cluster.
//!
//! ```text
//! snapshot, entries --> a fresh state without connections --> its registry and presence replace the old ones
//! ```
//!
//! # Promises
//!
//! * The old state is shown until the whole log is applied in its place. No follower sees a state between
//!   an old snapshot and the present.
//! * A node without a snapshot shows every service as empty and `degraded`, and refuses subscribers that hold
//!   instances already. That is seen only where the log is out of reach: a node listens after it has
//!   installed a snapshot.
//!
//! Imports `clock`, `id` and its siblings. Part of `state`.

use std::collections::BTreeSet;

use super::durable::PeopleSnapshot;
use super::entry::{Applied, LogItem};
use super::snapshot::Snapshot;
use super::{Settings, State};
use crate::clock::Moment;
use crate::id::ServiceName;

/// The result of installing a snapshot.
#[derive(Debug)]
pub struct Installed {
    /// The services whose followers need a snapshot: the new history may differ from the one they know.
    pub services: BTreeSet<ServiceName>,
    /// The results of this node's own entries among those read, by their numbers; none for an entry that a
    /// later one had overtaken.
    pub applied: Vec<(u64, Option<Applied>)>,
}

impl State {
    /// Installs a snapshot and all entries after it.
    pub fn install_snapshot(
        &mut self,
        mut snapshot: Snapshot,
        items: Vec<LogItem>,
        now: Moment,
    ) -> Installed {
        let people = std::mem::take(&mut snapshot.people);
        let mut registry = self.registry.successor(now).restore(snapshot, now);
        registry.carry_over(&self.registry);
        // It only carries the users over: the bound is that of the state that they come to.
        let (node, users_max) = (self.node.to_string(), usize::MAX);
        let settings = Settings { users_max, node, ..Settings::default() };
        let mut fresh = State::new(registry, settings, PeopleSnapshot::default()).joined(None);
        fresh.replace_shared(people, now);
        let mut applied = Vec::new();
        for item in items {
            let number = (*item.node == *self.node).then_some(item.number);
            let result = fresh.apply_logged(item, now);
            applied.extend(number.map(|number| (number, result)));
        }
        self.replace_shared(fresh.presence_snapshot(), now);
        let before = std::mem::replace(&mut self.registry, fresh.registry);
        let services = self.registry.replace(&before, now);
        // Followers that get a snapshot now see `degraded` in it.
        self.registry.check_contact(now);
        self.registry.settle(now);
        self.registry.announce_contact_change(std::iter::empty());
        self.registry.announcements.clear();
        Installed { services, applied }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::id::{ConnId, Dialect, ShardId, Slot, UserId};
    use crate::state::cluster_presence::update::PresenceUpdate;
    use crate::state::command::Ask as _;
    use crate::state::entry::{Bounds, Entry, PresenceEntry, RegistryEntry};
    use crate::state::people::{Opened, Person};
    use crate::state::registry::commands::{SnapshotNeed, Subscribe};
    use crate::state::registry::views::Subscribed;
    use crate::state::{empty_snapshot, lone_node, new_node};
    use crate::wire::command::Since;
    use crate::wire::instance::Instance;
    use crate::wire::refusal::Refusal;

    const BOUNDS: Bounds =
        Bounds { instances_max: 8, services_max: 8, instances_bytes_max: usize::MAX };

    fn item(number: u64, entry: impl Into<Entry>) -> LogItem {
        let (position, node) = (format!("{number}-0"), "b".into());
        LogItem { position, node, number, at_ms: 1, entry: entry.into() }
    }

    fn registration(number: u64) -> LogItem {
        let text = format!(r#"{{"serviceId":"s","instanceId":"i{number}"}}"#);
        let instance: Instance = serde_json::from_str(&text).expect("an instance");
        let list = vec![instance.register().expect("valid")];
        item(number, RegistryEntry::Register { list, bounds: BOUNDS })
    }

    fn subscribe(
        state: &mut State,
        since: Option<Since>,
        now: Moment,
    ) -> Result<Box<Subscribed>, Refusal> {
        let service = ServiceName::of("s");
        let subscribe =
            Subscribe { service, snapshot: SnapshotNeed::Yes, since, dialect: Dialect::Fanfare };
        state.ask(subscribe, now).expect("it is answered at once")
    }

    #[test]
    fn who_has_a_picture_keeps_it_until_there_is_a_registry() {
        let now = Clock::start().now();
        let mut state = new_node("a", None, now);
        let snapshot = empty_snapshot(now);
        let since = || Some(Since { epoch: "e".into(), revision: 1 });
        let nothing = subscribe(&mut state, None, now).expect("it is followed");
        assert_eq!((nothing.view.revision, nothing.view.degraded), (0, true));
        let refusal = subscribe(&mut state, since(), now).expect_err("it keeps its picture");
        assert_eq!(refusal, Refusal::unavailable());
        let begun = state.install_snapshot(snapshot, vec![registration(1), registration(2)], now);
        assert!(begun.services.contains(&ServiceName::of("s")) && begun.applied.is_empty());
        // Whoever was there for the first of them misses one.
        let resumed = subscribe(&mut state, since(), now).expect("it is followed");
        assert_eq!((resumed.recovered, resumed.view.revision), (Some(true), 2));
    }

    #[test]
    fn nobody_sees_what_lies_between() {
        let now = Clock::start().now();
        let mut state = lone_node("a", None, now);
        let old = empty_snapshot(now);
        let user = |name: &str, connections| {
            let facts = vec![(name.to_owned(), name.to_owned(), connections, 1)];
            PresenceEntry::Update(PresenceUpdate { users: facts, ..PresenceUpdate::default() })
        };
        let items = [
            item(1, user("ann", 1)),
            registration(2),
            item(3, user("bob", 1)),
            item(4, user("bob", 0)),
        ];
        for item in &items[..2] {
            state.apply_logged(item.clone(), now);
        }
        let conn = ConnId { shard: ShardId(0), slot: Slot(0), generation: 0 };
        let person = Person { user_id: UserId::new("eve"), username: "eve".into() };
        let opened = Opened { conn, person: Some(person), remote: None };
        state.apply(opened.unanswered(), now);
        state.take_effects();
        let begun = state.install_snapshot(old, items.to_vec(), now);
        assert!(begun.services.contains(&ServiceName::of("s")));
        let said = state.take_effects();
        assert!(said.is_empty(), "the snapshot says it all, and nobody came or went: {said:?}");
        assert_eq!(state.users_anywhere(), 1);
    }
}
