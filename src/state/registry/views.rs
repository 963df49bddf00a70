//! Services as readers and followers get them: whole, or the changes between two revisions.

use std::sync::Arc;

use bytes::Bytes;

use crate::id::{Epoch, ServiceName};
use crate::wire::event::{Change, Position};
use crate::wire::instance_list::InstanceList;

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
    /// Its rules, where it has some: `"logicInstances":[...],"routeRules":[...]`.
    pub rules: Option<Bytes>,
}

/// The rules of a service, for its followers.
#[derive(Debug)]
pub struct ServiceRules {
    /// The service.
    pub service: ServiceName,
    /// `"logicInstances":[...],"routeRules":[...]`
    pub fields: Bytes,
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

/// The views of all services.
#[derive(Debug)]
pub struct ServiceViews {
    /// The registry's version they show.
    pub version: u64,
    /// One view a service.
    pub views: Vec<Arc<View>>,
}

/// The changes between two versions of the registry, by service.
#[derive(Debug)]
pub struct Delta {
    /// The version after them.
    pub version: u64,
    /// Each service's changes, oldest first.
    pub changes: Vec<(ServiceName, Vec<Change>)>,
}

/// From here on every service is followed.
#[derive(Debug)]
pub struct SubscribedToAll;

/// The position of a service at the moment of a subscription, and what brings the subscriber there.
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
    AtHand(ServiceSnapshot),
    /// The answer holds them.
    Needed(ServiceSnapshot),
}

/// A service as a follower is sent it: a snapshot, and the changes since where that is an older one, shared
/// with other followers.
#[derive(Debug)]
pub struct ServiceSnapshot {
    /// The snapshot.
    pub view: View,
    /// The frame from its revision to the present one; none where that is the same.
    pub changes: Option<Bytes>,
}

/// A change of a service, for its followers.
#[derive(Debug)]
pub struct Announcement {
    /// The service.
    pub service: ServiceName,
    /// Whether it begins with this, at `from`: its followers were told of revision 0, or of a service
    /// of that name that was forgotten.
    pub begins: bool,
    /// Its revision before.
    pub from: u64,
    /// Its revision now. Equal to `from` where only `degraded` changed.
    pub revision: u64,
    /// Whether expiry is held.
    pub degraded: bool,
    /// The steps between the two.
    pub changes: Vec<Change>,
}
