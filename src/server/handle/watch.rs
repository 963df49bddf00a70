//! A watch of one service, for the embedding program: every change, and the instances after it.
//!
//! A watch has no queue. An event only wakes it; then it reads all changes since its revision, like
//! a client that reconnects. So a slow program loses nothing and holds no growing queue: if the
//! changes are no longer kept, the watch gets the instances, and `is_snapshot` is set.
//!
//! Part of `server::handle`.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use super::{CallError, Events, Handle};
use crate::id::{Dialect, Epoch, InstanceIdentity, ServiceName};
use crate::limits;
use crate::state::event::DomainEvent;
use crate::state::registry::commands::{SnapshotNeed, Subscribe};
use crate::state::registry::views::{Instances, Subscribed, View};
use crate::wire::command::Since;
use crate::wire::event::{ChangeReason, ChangeType};
use crate::wire::frame;
use crate::wire::instance::Instance;
use crate::wire::json;
use crate::wire::refusal::{Code, Refusal};

/// One change of one instance.
#[derive(Debug, Clone, PartialEq)]
pub struct InstanceChange {
    /// The instance after the change, or before it if it is gone.
    pub instance: Arc<Instance>,
    /// The kind of the change.
    pub change_type: ChangeType,
    /// The reason.
    pub reason: ChangeReason,
    /// When the server accepted it, in RFC 3339.
    pub change_time: String,
}

/// An update of a watch: the state of the service, and the changes since the update before.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceUpdate {
    /// The service.
    pub service: ServiceName,
    /// The epoch of its revisions.
    pub epoch: Epoch,
    /// Its revision; 0 if it is unknown.
    pub revision: u64,
    /// Whether expiry is held.
    pub degraded: bool,
    /// Whether this begins with the instances: the first update, and one after changes that are not
    /// kept any more. `changes` is empty then.
    pub is_snapshot: bool,
    /// The changes since the update before, oldest first; empty if only `degraded` changed.
    pub changes: Vec<InstanceChange>,
    /// The instances to discover, in the order of their identities.
    pub instances: Vec<Arc<Instance>>,
}

/// A stream of the changes of one service. See [`Handle::watch_service`].
#[derive(Debug)]
pub struct ServiceWatch {
    handle: Handle,
    events: Events,
    service: ServiceName,
    /// Its position; none before the first reading.
    position: Option<(Epoch, u64)>,
    degraded: bool,
    instances: BTreeMap<InstanceIdentity, Arc<Instance>>,
    /// Whether there may be events that it has not read.
    is_behind: bool,
}

/// The fields of a `service_change` that a watch reads.
#[derive(Deserialize)]
struct Frame {
    changes: Vec<FramedChange>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FramedChange {
    instance: Instance,
    change_type: String,
    change_time: String,
    reason: String,
}

impl ServiceWatch {
    pub(super) fn new(handle: &Handle, service: ServiceName) -> ServiceWatch {
        ServiceWatch {
            // Before the first reading, so that later events are not missed.
            events: handle.events(),
            handle: handle.clone(),
            service,
            position: None,
            degraded: false,
            instances: BTreeMap::new(),
            is_behind: true,
        }
    }

    /// The next update; the first one comes at once and is a snapshot. None when the server has
    /// stopped. While the node cannot answer (it is full, or rejoins the others) the watch waits.
    pub async fn next(&mut self) -> Option<ServiceUpdate> {
        loop {
            if self.is_behind {
                match self.read().await {
                    Ok(Some(update)) => return Some(update),
                    Ok(None) => {}
                    Err(fault) => tracing::debug!(%fault, service = %self.service, "a watch waits"),
                }
            }
            match self.events.next().await? {
                // Also if the revision is the watch's own: the epoch may be another.
                Ok(DomainEvent::ServiceChanged { service, .. }) => {
                    self.is_behind |= service == self.service;
                }
                // One of the missed events may have been this service's.
                Err(_) => self.is_behind = true,
                Ok(_) => {}
            }
        }
    }

    /// Reads all changes since the last reading. None if there are none.
    async fn read(&mut self) -> Result<Option<ServiceUpdate>, CallError> {
        // Only events after this answer count: it covers the earlier ones.
        let subscribed = self.ask().await?;
        self.is_behind = false;
        let Subscribed { view, replay, instances, .. } = subscribed;
        let is_snapshot = matches!(instances, Instances::Needed(_));
        let changes = match (instances, replay) {
            (Instances::Needed(snapshot), _) => {
                self.replace(&snapshot.view)?;
                if let Some(changes) = &snapshot.changes {
                    self.apply(changes)?;
                }
                Vec::new()
            }
            (_, Some(replay)) => self.apply(&replay)?,
            (_, None) if view.degraded == self.degraded => return Ok(None),
            (_, None) => Vec::new(),
        };
        self.position = Some((view.epoch.clone(), view.revision));
        self.degraded = view.degraded;
        Ok(Some(ServiceUpdate {
            service: view.service,
            epoch: view.epoch,
            revision: view.revision,
            degraded: view.degraded,
            is_snapshot,
            changes,
            instances: self.instances.values().cloned().collect(),
        }))
    }

    async fn ask(&self) -> Result<Subscribed, CallError> {
        for _ in 0..limits::WATCH_ATTEMPTS_MAX {
            let since = self.position.as_ref().map(|(epoch, revision)| Since {
                epoch: epoch.as_str().into(),
                revision: *revision,
            });
            let snapshot = if since.is_none() { SnapshotNeed::Yes } else { SnapshotNeed::No };
            let service = self.service.clone();
            match self
                .handle
                .ask(Subscribe { service, snapshot, since, dialect: Dialect::Fanfare })
                .await
            {
                Ok(subscribed) => return Ok(*subscribed),
                Err(fault) if fault.code != Code::Unavailable => return Err(fault),
                Err(_) => tokio::task::yield_now().await,
            }
        }
        Err(Refusal::unavailable())
    }

    fn replace(&mut self, view: &View) -> Result<(), CallError> {
        let instances = view.instances.decode().map_err(|_| Refusal::internal())?;
        self.instances = instances
            .into_iter()
            .filter_map(|one| Some((one.key().identity().ok()?, Arc::new(one))))
            .collect();
        Ok(())
    }

    fn apply(&mut self, replay: &bytes::Bytes) -> Result<Vec<InstanceChange>, CallError> {
        let frame: Frame =
            json::decode(&frame::payload(replay)).map_err(|_| Refusal::internal())?;
        let mut changes = Vec::with_capacity(frame.changes.len().min(limits::COMMAND_ENTRIES_MAX));
        for change in frame.changes {
            let (change_type, reason) =
                (ChangeType::parse(&change.change_type), ChangeReason::parse(&change.reason));
            let (Some(change_type), Some(reason)) = (change_type, reason) else { continue };
            let Ok(identity) = change.instance.key().identity() else { continue };
            let (instance, change_time) = (Arc::new(change.instance), change.change_time);
            if change_type == ChangeType::Delete {
                self.instances.remove(&identity);
            } else {
                self.instances.insert(identity, Arc::clone(&instance));
            }
            changes.push(InstanceChange { instance, change_type, reason, change_time });
        }
        Ok(changes)
    }
}
