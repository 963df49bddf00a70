//! What can be asked of the state, and what it answers.
//!
//! Both doors, HTTP and WebSocket, speak these orders; nothing else reaches the state.
//!
//! Imports `id` and `wire`. Imported by `state`, `mailbox`, `shard`, `control` and `http`.

use std::sync::Arc;

use bytes::Bytes;

use super::registry::listing::{Called, Put, Roll};
use super::registry::pull_outs::{Operator, PulledOutBy};
use super::talk::{Talk, Told};
use crate::id::{Epoch, InstanceIdentity, ServiceName};
use crate::wire::command::Since;
use crate::wire::event::{Change, Position};
use crate::wire::instance::Registration;
use crate::wire::instance_list::InstanceList;
use crate::wire::refusal::{Code, Refusal};

/// One thing to do.
#[derive(Debug)]
pub enum Order {
    /// Register instances or renew their leases.
    Register(Vec<Registration>),
    /// Renew leases.
    Heartbeat(Vec<InstanceIdentity>),
    /// Remove instances.
    Unregister(Vec<InstanceIdentity>),
    /// Say where a service stands, for a connection that will follow it from there.
    Subscribe {
        /// The service. It need not exist.
        service: ServiceName,
        /// Whether the answer needs the instances.
        snapshot: Snapshot,
        /// Where the client stands already.
        since: Option<Since>,
    },
    /// The same for all services at once.
    SubscribeAll,
    /// The newest state of a service, for a connection that lost frames.
    Snapshot(ServiceName),
    /// Take an instance out of discovery, or put it back.
    Operate {
        /// The instance.
        identity: InstanceIdentity,
        /// What to do with it.
        operation: Operation,
    },
    /// Switch a service's self-protection on or off.
    Protect {
        /// The service.
        service: ServiceName,
        /// Whether protection may hold its expiry.
        enabled: bool,
    },
    /// The views of some services.
    Views(Vec<ServiceName>),
    /// The views of all services.
    AllViews,
    /// What changed since a version of the whole registry.
    Delta {
        /// The version the asker has.
        version: u64,
    },
    /// The leases, service by service; of one service with its instances.
    Leases(Option<ServiceName>),
    /// Something about everyone who is registered, pulled out or not.
    Roll(Box<Roll>),
    /// Register an instance, unless it is not what the asker believes.
    Put(Box<Put>),
    /// Renew the lease of an instance in whatever region, and say what the instance is.
    Beat {
        /// Its service.
        service: ServiceName,
        /// Its id.
        instance: Box<str>,
    },
    /// Something among people.
    Talk(Box<Talk>),
}

impl From<Talk> for Order {
    fn from(talk: Talk) -> Order {
        Order::Talk(Box::new(talk))
    }
}

/// Whether the answer to a subscription needs the service's instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Snapshot {
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

/// What came of an [`Order`].
#[derive(Debug)]
pub enum Answer {
    /// A batch was applied, but for these entries.
    Batch(Vec<RefusedEntry>),
    /// Where a service stands.
    Subscribed(Box<Subscribed>),
    /// From here on every service is followed.
    SubscribedToAll,
    /// This service is not followed now: nothing is known here yet and the caller has a picture, or
    /// the snapshots that others are being sent leave no room for one more.
    NotSubscribed(ServiceName),
    /// The newest state of a service; none where there is no room for one more snapshot now.
    Snapshot(Option<Picture>),
    /// Whether the thing named was there.
    Found(bool),
    /// The services asked for, in their order.
    Views(Vec<Arc<View>>),
    /// All services.
    AllViews {
        /// The registry's version they show.
        version: u64,
        /// One view a service.
        views: Vec<Arc<View>>,
    },
    /// What changed; none where that is no longer, or not yet, known.
    Delta(Option<Delta>),
    /// The leases of each service.
    Leases(Vec<ServiceLeases>),
    /// What came of something about everyone.
    Called(Box<Called>),
    /// What came of something among people.
    Told(Box<Told>),
    /// Nothing was done: the other nodes cannot be reached.
    Unavailable,
}

impl Answer {
    /// The answer, where there is one.
    ///
    /// # Errors
    ///
    /// `unavailable` where nothing was done.
    pub fn given(self) -> Result<Answer, Refusal> {
        match self {
            Answer::Unavailable | Answer::NotSubscribed(_) => Err(Refusal::unavailable()),
            answer => Ok(answer),
        }
    }

    /// What came of something among people.
    ///
    /// # Errors
    ///
    /// What it was refused with; `internal` where the answer is one to something else.
    pub fn told(self) -> Result<Told, Refusal> {
        match self {
            Answer::Told(told) => match *told {
                Told::Refused(refusal) => Err(refusal),
                told => Ok(told),
            },
            _ => Err(Refusal::internal()),
        }
    }
}

/// An entry of a batch that the state refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefusedEntry {
    /// Its place in the order.
    pub index: usize,
    /// Why.
    pub code: Code,
}

/// Where a service stands at the moment of a subscription, and what the subscriber needs to get
/// there.
#[derive(Debug)]
pub struct Subscribed {
    /// The service as it stands, without its instances.
    pub view: View,
    /// Whether a resume succeeded; none where none was asked for.
    pub recovered: Option<bool>,
    /// The frame that brings the subscriber from its revision to the present one.
    pub replay: Option<Bytes>,
    /// The instances, where they are asked for or may be.
    pub instances: Instances,
}

impl Subscribed {
    /// Whether the answer has to hold the instances.
    #[cfg(any(test, feature = "internals"))]
    pub fn needs_instances(&self) -> bool {
        matches!(self.instances, Instances::Needed(_))
    }
}

/// The instances that go with an answer to a subscription.
#[derive(Debug)]
pub enum Instances {
    /// None do.
    Omitted,
    /// The answer holds them only where the subscriber may have lost track.
    AtHand(Picture),
    /// The answer holds them.
    Needed(Picture),
}

/// A service as a follower is sent it: a snapshot, and where that is an older one which others are
/// being sent as well, the changes since.
#[derive(Debug)]
pub struct Picture {
    /// The snapshot.
    pub view: View,
    /// The frame from its revision to the present one; none where that is the same.
    pub changes: Option<Bytes>,
}

/// A service at one revision. Immutable, shared.
#[derive(Debug, Clone)]
pub struct View {
    /// The service.
    pub service: ServiceName,
    /// The epoch of its revision.
    pub epoch: Epoch,
    /// Its revision; 0 where it was never seen.
    pub revision: u64,
    /// Whether expiry is held.
    pub degraded: bool,
    /// The instances to discover.
    pub instances: InstanceList,
}

impl View {
    /// Where the service stands in it.
    pub(crate) fn position(&self) -> Position<'_> {
        Position {
            service: &self.service,
            epoch: &self.epoch,
            revision: self.revision,
            degraded: self.degraded,
        }
    }
}

/// The changes between two versions of the registry, by service.
#[derive(Debug)]
pub struct Delta {
    /// The version after them.
    pub version: u64,
    /// Each service's changes, oldest first.
    pub changes: Vec<(ServiceName, Vec<Change>)>,
}

/// How the leases of one service stand.
#[derive(Debug, Clone)]
pub struct ServiceLeases {
    /// The service.
    pub service: ServiceName,
    /// All its leases.
    pub leases: usize,
    /// Those past their end and held.
    pub overdue: usize,
    /// The instances an operator took out of discovery.
    pub pulled_out: usize,
    /// Whether expiry is held.
    pub degraded: bool,
    /// Whether expiry may be held.
    pub protection_enabled: bool,
    /// Milliseconds until the first lease ends; negative where it has.
    pub next_expiry_ms: Option<i64>,
    /// Each lease, at most [`crate::limits::LISTED_MAX`] of them, where one service was asked for.
    pub instances: Option<Vec<InstanceLease>>,
}

/// How one lease stands.
#[derive(Debug, Clone)]
pub struct InstanceLease {
    /// The instance, as it was registered.
    pub json: Bytes,
    /// How long the lease lasts without a heartbeat.
    pub ttl_ms: u64,
    /// Milliseconds since it was last renewed.
    pub age_ms: u64,
    /// Milliseconds until it ends; negative where it has, and its expiry is held.
    pub expires_in_ms: i64,
    /// Who took the instance out of discovery, where somebody did.
    pub pulled_out_by: Option<PulledOutBy>,
}
