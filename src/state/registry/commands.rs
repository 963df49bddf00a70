//! Commands about services, instances and leases. `state::command` lists them with their replies.

use bytes::Bytes;

use super::pull_outs::{Operator, Pull};
use crate::id::{Dialect, InstanceIdentity, ServiceName};
use crate::state::management::item::{ItemChange, ItemKind};
use crate::state::management::operation::{DecidedBy, OperationFilter, Target};
use crate::wire::command::Since;
use crate::wire::instance::Registration;

/// Register instances, or renew their leases.
#[derive(Debug)]
pub struct Register(pub Vec<Registration>);

/// Renew leases.
#[derive(Debug)]
pub struct Heartbeat(pub Vec<InstanceIdentity>);

/// Remove instances.
#[derive(Debug)]
pub struct Unregister(pub Vec<InstanceIdentity>);

/// Say where a service stands, for a connection that will follow it from there. Refused with
/// `unavailable` while this node has not loaded the log and the caller holds instances already, and while
/// the snapshots on their way to other followers leave no room for one more.
#[derive(Debug)]
pub struct Subscribe {
    /// The service. It need not exist.
    pub service: ServiceName,
    /// Whether the reply needs the instances.
    pub snapshot: SnapshotNeed,
    /// Where the client stands already.
    pub since: Option<Since>,
    /// The form of the changes.
    pub dialect: Dialect,
}

/// The same for all services at once, in a dialect.
#[derive(Debug)]
pub struct SubscribeAll(pub Dialect);

/// Read the newest state of a service, for a connection that lost frames. The reply is none where there
/// is no room for one more snapshot now.
#[derive(Debug)]
pub struct ReadSnapshot(pub ServiceName);

/// Take an instance out of discovery, or put it back. The reply says whether it was ever registered or
/// pulled out.
#[derive(Debug)]
pub struct Operate {
    /// The instance.
    pub identity: InstanceIdentity,
    /// The decision.
    pub operation: Operation,
}

/// Begin operations on instances, servers and zones, or complete them. The reply names those for which there
/// is no room.
#[derive(Debug)]
pub struct OperateTargets {
    /// The targets, each with the caller's word for what is done.
    pub operations: Vec<(Target, Box<str>)>,
    /// Whether they are completed: what is below them is to be discovered again.
    pub is_complete: bool,
    /// Who decided it.
    pub by: DecidedBy,
}

/// Read the operations that stand.
#[derive(Debug)]
pub struct ReadOperations(pub OperationFilter);

/// Change groups and what belongs to them. The reply names the items that are refused.
#[derive(Debug)]
pub struct ChangeItems {
    /// The change.
    pub change: Box<ItemChange>,
    /// The caller's word for it, for the audit log; empty where there is none.
    pub operation: Box<str>,
    /// Who decided it.
    pub by: DecidedBy,
}

/// Read the items of a kind.
#[derive(Debug)]
pub struct ReadItems(pub ItemKind);

/// Read whether an instance, registered or not, is taken out of discovery by whatever decision.
#[derive(Debug)]
pub struct IsInstanceDown {
    /// The instance.
    pub identity: InstanceIdentity,
    /// Its address.
    pub ip: Option<Box<str>>,
    /// Its zone.
    pub zone: Option<Box<str>>,
    /// The name of its group.
    pub group: Option<Box<str>>,
}

/// Switch a service's self-protection on or off. The reply says whether there is such a service.
#[derive(Debug)]
pub struct Protect {
    /// The service.
    pub service: ServiceName,
    /// Whether protection may hold its expiry.
    pub enabled: bool,
}

/// Read the views of some services. The reply has their order.
#[derive(Debug)]
pub struct ReadViews(pub Vec<ServiceName>);

/// Read the views of all services.
#[derive(Debug)]
pub struct ReadAllViews;

/// Read what changed since a version of the whole registry. The reply is none where that is no longer,
/// or not yet, known.
#[derive(Debug)]
pub struct ReadDelta {
    /// The version that the caller has.
    pub version: u64,
}

/// Read the leases, service by service; of one service with its instances.
#[derive(Debug)]
pub struct ReadLeases(pub Option<ServiceName>);

/// List every instance, pulled out or not, and the recent changes.
#[derive(Debug)]
pub struct ListInstances;

/// Find one instance, in whatever region.
#[derive(Debug)]
pub struct FindInstance {
    /// Its service.
    pub service: ServiceName,
    /// Its id.
    pub instance: Box<str>,
}

/// Renew the lease of an instance in whatever region. The reply has the instance.
#[derive(Debug)]
pub struct RenewInstance(pub FindInstance);

/// Register an instance, if the registered one is as the caller expects.
#[derive(Debug, Clone)]
pub struct PutInstance {
    /// The new registration.
    pub registration: Registration,
    /// The JSON of the instance that it replaces; none where there should be none yet.
    pub expected: Option<Bytes>,
    /// Whether it is pulled out or in along with that, in one step for its followers.
    pub pull: Pull,
}

/// Whether the reply to a subscription needs the service's instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotNeed {
    /// Only where a resume fails.
    No,
    /// They have to be there, and the shard judges once it has the answer: by then the connection
    /// may be owed a snapshot that it is not owed yet.
    AtHand,
    /// The client asked for them.
    Yes,
    /// The client asked for them, and follows the service already: it may have been sent any
    /// revision up to the present one, so none before that will do.
    Newest,
}

/// An operator's decision on an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Not to be discovered, though registered. Holds until it is put back.
    PullOut {
        /// Who decided it.
        operator: Operator,
    },
    /// To be discovered again.
    PullIn,
}
