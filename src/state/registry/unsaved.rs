//! Changes of the registry that the store does not have yet.
//!
//! The registry keeps marks and no copies: a set has the state of the moment it is taken, and a set that
//! failed sets its marks again.

use std::collections::{BTreeSet, HashSet, VecDeque};

use crate::id::{InstanceIdentity, ServiceName};
use crate::state::audit::AuditEvent;
use crate::state::management::ManagementRecord;
use crate::state::snapshot::{InstanceRecord, PullOutRecord, ServiceRecord};

/// A set of changes for the store. Without rows it still is one: it tells the epoch and the version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistryDelta {
    /// The epoch.
    pub epoch: String,
    /// The registry's version.
    pub version: u64,
    /// The revision at which new services begin.
    pub revision_floor: u64,
    /// What to write. Of each row there is one.
    pub rows: Vec<Row>,
    /// How much of the audit log is kept.
    pub audit: AuditBounds,
}

/// Which node writes to the audit log, and how much of it is kept. Events beyond go with the next set that has some.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditBounds {
    /// The node's name, new with every start.
    pub node: String,
    /// Events before this time go, in milliseconds since the Unix epoch.
    pub from_ms: u64,
    /// The oldest events go beyond so many bytes.
    pub bytes_max: u64,
}

/// One row, as it is to be in the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    /// A service that is forgotten, by its name.
    ServiceGone(String),
    /// A service.
    Service(ServiceRecord),
    /// An instance that is gone, by its identity.
    InstanceGone(String),
    /// An instance.
    Instance(InstanceRecord),
    /// The identity of an instance that is pulled in again.
    PullOutGone(String),
    /// A pull-out.
    PullOut(PullOutRecord),
    /// An event of the audit log, with its number at this node.
    Audit(u64, Box<AuditEvent>),
    /// The key of a row of management that is gone.
    ManagementGone(String),
    /// A row of management.
    Management(ManagementRecord),
}

impl Row {
    /// Its table, and its key there.
    pub fn key(&self) -> (&'static str, &str) {
        match self {
            Row::ServiceGone(name) => ("service", name),
            Row::Service(record) => ("service", &record.service),
            Row::InstanceGone(identity) => ("instance", identity),
            Row::Instance(record) => ("instance", &record.identity),
            Row::PullOutGone(identity) => ("pull_out", identity),
            Row::PullOut(record) => ("pull_out", &record.identity),
            Row::Audit(_, event) => ("audit", event.note.kind),
            Row::ManagementGone(key) => ("management", key),
            Row::Management(record) => ("management", &record.key),
        }
    }
}

impl RegistryDelta {
    /// Cuts it into two sets of about as many rows.
    pub fn halves(mut self) -> (RegistryDelta, RegistryDelta) {
        let rows = self.rows.split_off(self.rows.len() / 2);
        let RegistryDelta { version, revision_floor, .. } = self;
        let (epoch, audit) = (self.epoch.clone(), self.audit.clone());
        let second = RegistryDelta { epoch, version, revision_floor, rows, audit };
        (self, second)
    }
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
    /// Places of services. An ordered set: a small number is compared faster than it is hashed.
    pub(super) services: BTreeSet<usize>,
    /// Services that the store has to forget as well.
    pub(super) forgotten: HashSet<ServiceName>,
    pub(super) instances: HashSet<InstanceIdentity>,
    pub(super) pull_outs: HashSet<InstanceIdentity>,
    /// Keys of rows of management.
    pub(super) management: BTreeSet<String>,
    /// The marks in the order of writing.
    queue: VecDeque<Mark>,
}

/// One mark. The mark of an instance covers its pull-out.
#[derive(Debug)]
pub(super) enum Mark {
    Forgotten(ServiceName),
    Service(usize),
    Instance(InstanceIdentity),
    Management(String),
}

impl DirtySet {
    pub(super) fn is_empty(&self) -> bool {
        self.services.is_empty()
            && self.forgotten.is_empty()
            && self.instances.is_empty()
            && self.pull_outs.is_empty()
            && self.management.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.services.clear();
        self.forgotten.clear();
        self.instances.clear();
        self.pull_outs.clear();
        self.management.clear();
        self.queue.clear();
    }

    /// The next mark in the order of writing. It stays in its set, which says whether the row is still to be
    /// written.
    pub(super) fn next(&mut self) -> Option<Mark> {
        if self.queue.is_empty() {
            let forgotten = self.forgotten.iter().cloned().map(Mark::Forgotten);
            let services = self.services.iter().map(|&index| Mark::Service(index));
            let instances = self.instances.iter().chain(&self.pull_outs).cloned();
            let management = self.management.iter().cloned().map(Mark::Management);
            let instances = instances.map(Mark::Instance);
            self.queue = forgotten.chain(services).chain(instances).chain(management).collect();
        }
        self.queue.pop_front()
    }
}
