//! Services, instances and their leases.
//!
//! Every accepted difference is one step of its service's revision; a registration that changes
//! nothing only renews the lease. Leases end on a timing wheel: a heartbeat writes one number and
//! touches no list.
//!
//! # Promises
//!
//! * Revisions of a service rise by one a change, under one epoch, without gaps.
//! * One command leaves at most one announcement a service.
//! * A lease ends at its deadline and is judged at most [`limits::EXPIRY_JUDGE_DELAY_MS`] and one
//!   tick later.
//!
//! Below this file: data of their own (`settings`, `commands`, `replies`, `views`, `listing`, `service`,
//! `pull_outs`, `replay_cache`, `change_log`, `unsaved`, `log_position`). Above it, what the table does: a write
//! is decided (`decide`) and applied (`lease`, `instances`, `operations`, `services`, `protection`), its steps are
//! announced (`history`); readers come by `subscribe`, `reads` and `records`.

pub mod commands;
pub mod decide;
pub mod listing;
pub mod log_position;
pub mod pull_outs;
pub mod replies;
pub mod settings;
pub mod unsaved;
pub mod views;

mod change_log;
mod history;
mod instances;
mod lease;
mod operations;
mod protection;
mod reads;
mod records;
mod replay_cache;
mod service;
mod services;
mod subscribe;

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use slab::Slab;

use super::ages::Ages;
use super::audit::Notes;
use super::management::Management;
use crate::clock::Moment;
use crate::id::{Epoch, InstanceIdentity, ServiceName};
use crate::limits;
use crate::wheel::Wheel;
use crate::wire::event::TimeText;
use change_log::ChangeLog;
use listing::RecentChanges;
use log_position::{LogPosition, SELF};
use pull_outs::PullOuts;
use replay_cache::ReplayCache;
use service::Service;
use unsaved::DirtySet;
use views::{Announcement, ServiceRules};

pub use settings::Settings;

/// An instance and its lease.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Member {
    identity: InstanceIdentity,
    service: usize,
    json: Bytes,
    ttl_ms: u64,
    deadline_ms: u64,
    /// The lease's one entry on the wheel carries the same number; older entries are void.
    generation: u32,
    /// Its place in its service's `members`.
    place: u32,
    is_overdue: bool,
    /// Restored from the store and not heard of since.
    is_unconfirmed: bool,
    is_pulled_out: bool,
    /// Which node watches the lease; where there is one node, that one.
    owner: u32,
    /// The lease's number: that of the entry which last gave it an owner.
    lease: u64,
    /// Its end is proposed, and not applied yet.
    is_proposed: bool,
    registered_ms: u64,
    changed_ms: u64,
}

/// Running totals for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Leases that ended and took their instance with them.
    pub expired: u64,
    /// Changes of all services.
    pub changes: u64,
    /// Heartbeats that renewed a lease.
    pub renewals: u64,
    /// Services whose expiry is held now.
    pub degraded_services: usize,
    /// Services that were forgotten.
    pub forgotten: u64,
}

/// The registry.
///
/// # Invariants
///
/// 1. `by_identity` names exactly the members, `by_name` exactly the services.
/// 2. Each member that is not overdue has exactly one entry of its present generation in `leases`,
///    at or before its deadline.
/// 3. `change_log` holds the last changes; its newest is the step to `version`.
/// 4. `touched` names each service once that has pending steps or a change of `degraded` to announce.
/// 5. `regions` counts the members of each region.
/// 6. `empties` names each service without members, in the order in which they became so.
/// 7. `revision_floor` is at or above the last revision of every service that was forgotten under
///    this epoch; a new service begins there.
/// 8. `history_bytes` and `json_bytes` are the sums over all services.
#[derive(Debug)]
pub struct Registry {
    settings: Settings,
    epoch: Epoch,
    version: u64,
    services: Slab<Service>,
    by_name: HashMap<ServiceName, usize>,
    members: Slab<Member>,
    by_identity: HashMap<InstanceIdentity, u32>,
    regions: BTreeMap<Box<str>, usize>,
    /// Rises with every difference in what is registered; see `state::registry::listing`.
    listing_version: u64,
    recents: Option<RecentChanges>,
    /// Instances taken out of discovery, registered or not.
    pulled_out: PullOuts,
    /// What operators have decided about instances, servers and zones.
    management: Management,
    leases: Wheel<(u32, u32)>,
    generation: u32,
    /// Services with overdue leases or held expiry.
    watched: Vec<usize>,
    /// Degraded services of which the present command renewed or removed a lease.
    to_rejudge: Vec<usize>,
    touched: Vec<usize>,
    change_log: ChangeLog,
    history_bytes: usize,
    ages: Ages,
    json_bytes: usize,
    incarnation: u32,
    /// Services without members, by the order in which they became so.
    empties: BTreeMap<u64, usize>,
    empty_stamp: u64,
    next_forget_ms: u64,
    revision_floor: u64,
    /// Services that connections of this node follow by name.
    followed: HashSet<ServiceName>,
    replay_cache: ReplayCache,
    /// Services that were forgotten since control last asked.
    forgotten: Vec<ServiceName>,
    totals: Totals,
    /// What the store does not have yet.
    dirty: DirtySet,
    /// Where this node is in the log.
    log: Box<LogPosition>,
    /// The leases that a heartbeat is about, while it is looked at.
    renewing: Vec<u32>,
    /// The text of the present moment, formatted once a millisecond.
    time: (u64, TimeText),
    /// For the audit log; taken after each command.
    pub(super) notes: Notes,
    /// For the followers of services; taken after each command.
    pub announcements: Vec<Announcement>,
    /// What followers are told of changed rules of services; taken with them.
    pub changed_rules: Vec<ServiceRules>,
}

impl Registry {
    /// An empty registry under `epoch`, whose changes count on from `version`.
    pub fn new(settings: Settings, epoch: Epoch, version: u64, now: Moment) -> Registry {
        Registry {
            settings,
            epoch,
            version,
            services: Slab::new(),
            by_name: HashMap::new(),
            members: Slab::new(),
            by_identity: HashMap::new(),
            regions: BTreeMap::new(),
            // Above all of the last start's: there is less than one change a millisecond.
            listing_version: now.unix_ms,
            recents: None,
            pulled_out: PullOuts::default(),
            management: Management::default(),
            leases: Wheel::new(limits::LEASE_WHEEL_SLOTS, limits::LEASE_TICK_MS, now.unix_ms),
            generation: 0,
            watched: Vec::new(),
            to_rejudge: Vec::new(),
            touched: Vec::new(),
            change_log: ChangeLog::default(),
            history_bytes: 0,
            ages: Ages::default(),
            json_bytes: 0,
            incarnation: 0,
            empties: BTreeMap::new(),
            empty_stamp: 0,
            next_forget_ms: 0,
            revision_floor: 0,
            followed: HashSet::new(),
            replay_cache: ReplayCache::default(),
            forgotten: Vec::new(),
            totals: Totals::default(),
            dirty: DirtySet::default(),
            log: Box::new(LogPosition::alone()),
            renewing: Vec::new(),
            time: (now.wall_ms, TimeText::of(now.wall_ms)),
            notes: Notes::default(),
            announcements: Vec::new(),
            changed_rules: Vec::new(),
        }
    }

    /// Makes an empty registry one of several; `node` is its own name.
    #[must_use]
    pub fn replicated(mut self, node: &str) -> Registry {
        self.log = Box::new(LogPosition::joining(node));
        self
    }

    /// This node's position in the log.
    pub fn log(&self) -> &LogPosition {
        &self.log
    }

    /// How many changes there were, over all restarts.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The epoch of all revisions.
    pub fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// Running totals for metrics.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Services seen and instances registered.
    pub fn counts(&self) -> (usize, usize) {
        (self.services.len(), self.members.len())
    }

    /// Bytes of all instances' JSON.
    pub fn instances_bytes(&self) -> usize {
        self.json_bytes
    }

    /// Lets time pass: proposes entries for leases and services that are due.
    pub(super) fn tick(&mut self, now: Moment) {
        let mut due = Vec::new();
        self.leases.advance(now.unix_ms, &mut due);
        self.forget_by_time(now);
        let mut ended = Vec::new();
        for (index, generation) in due {
            let Some(member) = self.members.get(index as usize) else { continue };
            if member.generation != generation || member.is_overdue || member.owner != SELF {
                continue;
            }
            if member.deadline_ms > now.unix_ms {
                self.leases.insert(member.deadline_ms, (index, generation));
                continue;
            }
            ended.push(index);
        }
        self.check_contact(now);
        self.propose_due(ended, now);
    }

    /// When `tick` next has something to do, in milliseconds since the Unix epoch.
    pub fn next_tick_ms(&self) -> Option<u64> {
        let all = [
            self.leases.next_due_ms(),
            self.next_judgement_ms(),
            self.next_contact_check_ms(),
            self.next_forget_ms(),
        ];
        all.into_iter().flatten().min()
    }

    pub(super) fn find_service(&self, name: &ServiceName) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    pub(super) fn find_member(&self, identity: &InstanceIdentity) -> Option<&Member> {
        self.by_identity.get(identity).map(|&index| &self.members[index as usize])
    }

    pub(super) fn find_index(&self, identity: &InstanceIdentity) -> Option<u32> {
        self.by_identity.get(identity).copied()
    }
}

pub(super) fn to_u32(index: usize) -> u32 {
    u32::try_from(index).expect("instances_max is below 2^32")
}
