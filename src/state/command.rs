//! Commands: what can be asked of the state, and what the registry replies.
//!
//! HTTP, sockets and the embedding program send these commands; nothing else reaches the state.
//! Each command is a type that names its reply ([`Ask`]). [`RegistryCommand`] and
//! [`MessagingCommand`](super::messaging::commands::MessagingCommand) list them, each with the
//! address of its reply.
//!
//! Imports `id`, `wire` and its siblings. Imported by `state`, `mailbox`, `shard`, `control`, `http`
//! and `server`.

use std::sync::Arc;

use bytes::Bytes;

use super::messaging::commands::MessagingCommand;
use super::registry::listing::{FoundInstance, InstanceListing, Put};
use super::registry::pull_outs::{Operator, PulledOutBy};
use super::reply::{Reply, ReplyTo};
use crate::id::{ConnId, Epoch, InstanceIdentity, ServiceName};
use crate::wire::command::Since;
use crate::wire::event::{Change, Position};
use crate::wire::instance::Registration;
use crate::wire::instance_list::InstanceList;
use crate::wire::refusal::Code;

/// One thing to do, with the address of its reply.
#[derive(Debug)]
pub enum Command {
    /// About services, instances and leases.
    Registry(RegistryCommand),
    /// About connections, users, channels, rooms and messages.
    Messaging(Box<MessagingCommand>),
}

impl Command {
    /// The connection that waits for the reply.
    pub fn conn(&self) -> Option<ConnId> {
        match self {
            Command::Registry(command) => command.conn(),
            Command::Messaging(command) => command.conn(),
        }
    }
}

/// A command before it has the address of its reply.
pub trait Ask: Sized {
    /// What it is answered.
    type Reply: Reply;

    /// Gives it the address.
    fn reply_to(self, reply: ReplyTo<Self::Reply>) -> Command;

    /// The command where nobody waits for its reply.
    fn unanswered(self) -> Command {
        self.reply_to(ReplyTo::Nobody)
    }
}

/// Lists commands with their replies: one enum, and [`Ask`] for each of them.
macro_rules! commands {
    (
        $(#[$attribute:meta])*
        $set:ident wrapped by $wrap:expr;
        $($name:ident => $reply:ty,)*
    ) => {
        $(#[$attribute])*
        #[derive(Debug)]
        pub enum $set {
            $(
                #[doc = concat!("See [`", stringify!($name), "`].")]
                $name($name, ReplyTo<$reply>),
            )*
        }

        impl $set {
            /// The connection that waits for the reply.
            pub fn conn(&self) -> Option<ConnId> {
                match self {
                    $($set::$name(_, reply) => reply.conn(),)*
                }
            }
        }

        $(
            impl Ask for $name {
                type Reply = $reply;

                fn reply_to(self, reply: ReplyTo<$reply>) -> Command {
                    $wrap($set::$name(self, reply))
                }
            }
        )*
    };
}
pub(super) use commands;

commands! {
    /// A command about services, instances and leases.
    RegistryCommand wrapped by Command::Registry;
    Register => Vec<RefusedEntry>,
    Heartbeat => Vec<RefusedEntry>,
    Unregister => Vec<RefusedEntry>,
    Subscribe => Box<Subscribed>,
    SubscribeAll => SubscribedToAll,
    ReadSnapshot => Option<Picture>,
    Operate => bool,
    Protect => bool,
    ReadViews => Vec<Arc<View>>,
    ReadAllViews => ServiceViews,
    ReadDelta => Option<Delta>,
    ReadLeases => Vec<ServiceLeases>,
    ListInstances => InstanceListing,
    FindInstance => Option<FoundInstance>,
    RenewInstance => Option<FoundInstance>,
    PutInstance => PutReply,
}

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
/// `unavailable` where the caller has a picture and nothing is known here yet, and where the snapshots
/// that others are being sent leave no room for one more.
#[derive(Debug)]
pub struct Subscribe {
    /// The service. It need not exist.
    pub service: ServiceName,
    /// Whether the reply needs the instances.
    pub snapshot: Snapshot,
    /// Where the client stands already.
    pub since: Option<Since>,
}

/// The same for all services at once.
#[derive(Debug)]
pub struct SubscribeAll;

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
    /// What to do with it.
    pub operation: Operation,
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

/// List every instance, pulled out or not, and what changed lately.
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

/// Renew the lease of an instance in whatever region, and say what the instance is.
#[derive(Debug)]
pub struct RenewInstance(pub FindInstance);

/// Register an instance, unless the one before is not what the caller believes.
#[derive(Debug)]
pub struct PutInstance(pub Put);

/// What came of a [`PutInstance`].
#[derive(Debug)]
pub enum PutReply {
    /// It is registered.
    Done,
    /// There is another one than the caller believed, or none.
    Conflict(Option<FoundInstance>),
    /// There is no room for it.
    Refused(Code),
}

/// From here on every service is followed.
#[derive(Debug)]
pub struct SubscribedToAll;

/// The views of all services.
#[derive(Debug)]
pub struct ServiceViews {
    /// The registry's version they show.
    pub version: u64,
    /// One view a service.
    pub views: Vec<Arc<View>>,
}

/// Whether the reply to a subscription needs the service's instances.
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

/// An entry of a batch that the state refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefusedEntry {
    /// Its place in the command.
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
