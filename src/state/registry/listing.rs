//! Lists of every instance, and recent changes, for the protocols of other registries.
//!
//! Discovery shows the instances that may be called. A list shows all, with the state of each, and leaves
//! the choice to the caller. It has a `listing_version`: a number that rises with every difference that a
//! list can show.
//!
//! # Promises
//!
//! * Two lists of the same `listing_version` name the same instances with the same texts. A number is not
//!   used twice, also not after a restart, as long as the clock goes forward and there is less than one
//!   change a millisecond.
//! * A service's list is built at most once a `listing_version` of that service, and shared.
//! * From [`InstanceListing::complete_from_ms`] on each difference within the window is in
//!   [`InstanceListing::recent`].

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::id::{InstanceIdentity, ServiceName};
use crate::limits;

/// An instance, as lists of every instance show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedInstance {
    /// Its canonical JSON.
    pub json: Bytes,
    /// How long its lease lasts without a renewal.
    pub ttl_ms: u64,
    /// When it was registered, in milliseconds since the Unix epoch; or restored from the store.
    pub registered_ms: u64,
    /// When it last changed.
    pub changed_ms: u64,
    /// When its lease was last renewed, as of when the list was built.
    pub renewed_ms: u64,
    /// Whether it is taken out of discovery.
    pub is_pulled_out: bool,
}

/// Every instance of a service. Immutable, shared.
#[derive(Debug)]
pub struct ServiceListing {
    /// The service.
    pub service: ServiceName,
    /// The registry's number with the last change of the service.
    pub listing_version: u64,
    /// Its instances.
    pub instances: Vec<ListedInstance>,
}

/// What happened to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It came, and nothing happened to it since.
    Added,
    /// It changed; or it came again after it had gone.
    Modified,
    /// It went.
    Deleted,
}

/// An instance that changed lately, once, as it is now.
#[derive(Debug, Clone)]
pub struct RecentChange {
    /// Its service.
    pub service: ServiceName,
    /// When it changed last, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// What happened.
    pub step: Step,
    /// The instance; of one that went, as it was last.
    pub instance: ListedInstance,
}

/// Every instance, and the recent changes, as of one `listing_version`.
#[derive(Debug)]
pub struct InstanceListing {
    /// The number.
    pub listing_version: u64,
    /// The services that have instances, by their names.
    pub services: Vec<Arc<ServiceListing>>,
    /// The changes within the window, oldest first.
    pub recent: Vec<RecentChange>,
    /// From when on `recent` is all that changed within the window.
    pub complete_from_ms: u64,
}

/// The recent changes.
///
/// # Invariants
///
/// 1. `queue` holds a number for each change, oldest first; `latest` names each instance of it once,
///    with the newest of its numbers.
/// 2. `gone_bytes` counts the JSON in `latest`.
#[derive(Debug)]
pub(super) struct RecentChanges {
    window_ms: u64,
    latest: HashMap<InstanceIdentity, Latest>,
    queue: VecDeque<(u64, u64, InstanceIdentity)>,
    gone_bytes: usize,
    /// Changes up to this moment may be missing.
    unknown_until_ms: u64,
}

#[derive(Debug)]
struct Latest {
    number: u64,
    step: Step,
    /// The instance as it was last, with its service, where it is gone.
    gone: Option<(ServiceName, ListedInstance)>,
}

impl Latest {
    fn gone_bytes(&self) -> usize {
        self.gone.as_ref().map_or(0, |(_, instance)| instance.json.len())
    }
}

impl RecentChanges {
    /// No change yet. Changes up to `unknown_until_ms` may be missing.
    pub(super) fn new(window_ms: u64, unknown_until_ms: u64) -> RecentChanges {
        RecentChanges {
            window_ms,
            latest: HashMap::new(),
            queue: VecDeque::new(),
            gone_bytes: 0,
            unknown_until_ms,
        }
    }

    /// How far back it goes.
    pub(super) fn window_ms(&self) -> u64 {
        self.window_ms
    }

    /// Notes a change under a number of its own; `gone` is the instance as it was, where it is removed.
    pub(super) fn note(
        &mut self,
        number: u64,
        identity: InstanceIdentity,
        step: Step,
        gone: Option<(ServiceName, ListedInstance)>,
        now_ms: u64,
    ) {
        let mut latest = Latest { number, step, gone };
        self.gone_bytes += latest.gone_bytes();
        if let Some(before) = self.latest.get(&identity) {
            self.gone_bytes -= before.gone_bytes();
            if step == Step::Added {
                // A client that has not seen the removal still lists the instance.
                latest.step = Step::Modified;
            }
        }
        self.queue.push_back((number, now_ms, identity.clone()));
        self.latest.insert(identity, latest);
        self.trim(now_ms);
    }

    /// Drops changes before the window, and the oldest ones beyond the bounds. Returns the moment from which
    /// on no change is missing.
    pub(super) fn trim(&mut self, now_ms: u64) -> u64 {
        while let Some(&(number, at_ms, _)) = self.queue.front() {
            let is_old = at_ms + self.window_ms < now_ms;
            let is_much = self.queue.len() > limits::RECENT_CHANGES_MAX
                || self.gone_bytes > limits::RECENT_GONE_BYTES_MAX;
            if !is_old && !is_much {
                break;
            }
            if !is_old {
                self.unknown_until_ms = now_ms;
            }
            let Some((_, _, identity)) = self.queue.pop_front() else { break };
            if self.latest.get(&identity).is_some_and(|latest| latest.number == number)
                && let Some(latest) = self.latest.remove(&identity)
            {
                self.gone_bytes -= latest.gone_bytes();
            }
        }
        match self.unknown_until_ms {
            0 => 0,
            until_ms => until_ms + self.window_ms + 1,
        }
    }

    /// The changes, oldest first. `find` gives an instance that is registered, with its service.
    pub(super) fn list(
        &self,
        find: impl Fn(&InstanceIdentity) -> Option<(ServiceName, ListedInstance)>,
    ) -> Vec<RecentChange> {
        let changes = self.queue.iter().filter_map(|(number, at_ms, identity)| {
            let latest = self.latest.get(identity).filter(|latest| latest.number == *number)?;
            let (service, instance) = latest.gone.clone().or_else(|| find(identity))?;
            Some(RecentChange { service, at_ms: *at_ms, step: latest.step, instance })
        });
        changes.collect()
    }
}
