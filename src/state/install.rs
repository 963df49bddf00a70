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
        self.registry.changed_rules.clear();
        Installed { services, applied }
    }
}
