//! Changes of the registry that the store does not have yet.
//!
//! The registry keeps marks and no copies: a set has the state of the moment it is taken, and a set that
//! failed sets its marks again.
//!
//! Imports `state::snapshot` and its siblings. Part of `state::registry`. Imported by `store` and `control`.

use std::collections::{HashSet, VecDeque};

use crate::id::{InstanceIdentity, ServiceName};
use crate::state::snapshot::{InstanceRecord, PullOutRecord, ServiceRecord};

/// A set of changes for the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistryDelta {
    /// The epoch.
    pub epoch: String,
    /// The registry's version.
    pub version: u64,
    /// The revision at which new services begin.
    pub revision_floor: u64,
    /// Names of forgotten services. None of them is in `services`.
    pub forgotten: Vec<String>,
    /// Services to write.
    pub services: Vec<ServiceRecord>,
    /// Instances to write.
    pub upserts: Vec<InstanceRecord>,
    /// Identities of instances that are gone.
    pub deletes: Vec<String>,
    /// Pull-outs to write.
    pub pull_outs: Vec<PullOutRecord>,
    /// Identities that are pulled in again.
    pub pull_ins: Vec<String>,
}

impl RegistryDelta {
    /// How many rows it is. None is still a set: it tells the epoch and the version.
    pub fn rows(&self) -> usize {
        self.forgotten.len()
            + self.services.len()
            + self.upserts.len()
            + self.deletes.len()
            + self.pull_outs.len()
            + self.pull_ins.len()
    }

    /// Cuts it into two sets of about as many rows.
    pub fn halves(mut self) -> (RegistryDelta, RegistryDelta) {
        let mut first = RegistryDelta {
            epoch: self.epoch.clone(),
            version: self.version,
            revision_floor: self.revision_floor,
            ..RegistryDelta::default()
        };
        let mut room = self.rows() / 2;
        first.forgotten = cut(&mut self.forgotten, &mut room);
        first.services = cut(&mut self.services, &mut room);
        first.pull_outs = cut(&mut self.pull_outs, &mut room);
        first.pull_ins = cut(&mut self.pull_ins, &mut room);
        first.upserts = cut(&mut self.upserts, &mut room);
        first.deletes = cut(&mut self.deletes, &mut room);
        (first, self)
    }

    /// The key of each row: its table, and its key there.
    pub fn keys(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let forgotten = self.forgotten.iter().map(|name| ("service", &**name));
        let services = self.services.iter().map(|one| ("service", &*one.service));
        let upserts = self.upserts.iter().map(|one| ("instance", &*one.identity));
        let deletes = self.deletes.iter().map(|identity| ("instance", &**identity));
        let pull_outs = self.pull_outs.iter().map(|one| ("pull_out", &*one.identity));
        let pull_ins = self.pull_ins.iter().map(|identity| ("pull_out", &**identity));
        forgotten.chain(services).chain(upserts).chain(deletes).chain(pull_outs).chain(pull_ins)
    }
}

/// Takes rows from the front, as many as there is room for.
fn cut<T>(rows: &mut Vec<T>, room: &mut usize) -> Vec<T> {
    let count = rows.len().min(*room);
    *room -= count;
    let rest = rows.split_off(count);
    std::mem::replace(rows, rest)
}

/// How much goes to the store in one set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetBound {
    /// Rows, at least one.
    pub rows: usize,
    /// Bytes of the rows. One larger row is a set of its own.
    pub bytes: usize,
}

impl SetBound {
    /// No bound.
    pub const NONE: SetBound = SetBound { rows: usize::MAX, bytes: usize::MAX };
}

/// Marks of rows that changed and are not written yet.
#[derive(Debug, Default)]
pub(super) struct DirtySet {
    pub(super) services: HashSet<usize>,
    /// Services that the store has to forget as well.
    pub(super) forgotten: HashSet<ServiceName>,
    pub(super) instances: HashSet<InstanceIdentity>,
    pub(super) pull_outs: HashSet<InstanceIdentity>,
    /// The marks in the order of writing.
    queue: VecDeque<Mark>,
}

/// One mark. The mark of an instance covers its pull-out.
#[derive(Debug)]
pub(super) enum Mark {
    Forgotten(ServiceName),
    Service(usize),
    Instance(InstanceIdentity),
}

impl DirtySet {
    pub(super) fn is_empty(&self) -> bool {
        self.services.is_empty()
            && self.forgotten.is_empty()
            && self.instances.is_empty()
            && self.pull_outs.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.services.clear();
        self.forgotten.clear();
        self.instances.clear();
        self.pull_outs.clear();
        self.queue.clear();
    }

    /// The next mark in the order of writing. It stays in its set, which says whether the row is still to be
    /// written.
    pub(super) fn next(&mut self) -> Option<Mark> {
        if self.queue.is_empty() {
            let forgotten = self.forgotten.iter().cloned().map(Mark::Forgotten);
            let services = self.services.iter().map(|&index| Mark::Service(index));
            let instances = self.instances.iter().chain(&self.pull_outs).cloned();
            self.queue = forgotten.chain(services).chain(instances.map(Mark::Instance)).collect();
        }
        self.queue.pop_front()
    }
}
