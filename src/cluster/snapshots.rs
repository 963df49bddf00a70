//! Snapshots on Redis: how a node loads one, and how a node publishes one.
//!
//! A node publishes a snapshot every so many entries of the log. A node that joins loads the snapshot and
//! reads the entries after it. Where the log was trimmed or lost, or the snapshot is missing or cannot be read,
//! the node requests another one in Redis. The other nodes see the request with their next heartbeat, and one
//! that has the registry publishes a snapshot.
//!
//! # Promises
//!
//! * However many nodes request one, one snapshot is published in [`limits::CLUSTER_SNAPSHOT_PAUSE_MS`].
//! * Where no node answers within [`limits::CLUSTER_SNAPSHOT_WAIT_MS`], the node that requested it begins a new
//!   log, under a new epoch, with the best that is left.

use std::time::Duration;

use redis::RedisResult;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::connections::PrimaryConnection;
use super::read_position::{LogFault, PendingInstall, ReadPosition, UnusableSnapshot};
use super::scripts::{self, BARE, EPOCH, LOG, SEQUENCE, SNAPSHOT, WANTED};
use super::{News, Shared};
use crate::limits;
use crate::state::entry::FORMAT;
use crate::state::snapshot::Snapshot;

/// Loads the snapshot. Where there is no log, begins one with this node's own registry; also where a node
/// without a registry has just begun one, and this node has a registry.
pub(super) async fn load(shared: &Shared, known: Option<&str>) -> Result<ReadPosition, LogFault> {
    let mut connection = connect(shared).await?;
    let (epoch, bare): (Option<String>, Option<String>) =
        redis::pipe().get(EPOCH).get(BARE).query_async(&mut *connection).await?;
    let is_bare = epoch == bare && known.is_some() && epoch.as_deref() != known;
    if epoch.is_none() || is_bare {
        seed_log(shared, known, 0).await?;
    }
    // In this order: the snapshot is of a place that the log has reached by then.
    let read: RedisResult<(Option<Vec<u8>>, Option<u64>)> =
        redis::pipe().get(SNAPSHOT).get(SEQUENCE).query_async(&mut *connection).await;
    let (text, newest) = match read {
        Ok((text, newest)) => (text, newest.unwrap_or(0)),
        Err(fault) if fault.to_string().contains("WRONGTYPE") => {
            return Err(UnusableSnapshot::unreadable("its key holds no text", b"").into());
        }
        Err(fault) => return Err(fault.into()),
    };
    let Some(text) = text else {
        return Err(UnusableSnapshot::missing("there is no snapshot").into());
    };
    let snapshot = decode(text).await?;
    if snapshot.format > FORMAT {
        return Err(LogFault::Log(String::from("the snapshot is of a newer server")));
    }
    if newest < snapshot.sequence {
        let fault = format!("the log ends at {newest}, before the snapshot");
        return Err(UnusableSnapshot::gap(fault, Box::new(snapshot)).into());
    }
    let (epoch, position) = (snapshot.epoch.clone(), snapshot.position.clone());
    let sequence = snapshot.sequence;
    let pending_install =
        PendingInstall { snapshot: Box::new(snapshot), items: Vec::new(), newest };
    Ok(ReadPosition { epoch, position, sequence, pending_install: Some(pending_install) })
}

/// Begins a log with this node's own registry, where there is none, or the one there is does not have
/// as many entries as are known, or was begun without a registry. Another node may have been faster.
pub(super) async fn seed_log(
    shared: &Shared,
    known: Option<&str>,
    entries: u64,
) -> Result<(), LogFault> {
    let Some(snapshot) = own_snapshot(shared).await else {
        return Err(LogFault::Log(String::from("there is no registry to begin with")));
    };
    Seed { known: known.unwrap_or_default(), entries, asked: "" }.write(shared, snapshot).await
}

/// On what condition a log is begun.
struct Seed<'a> {
    /// The epoch that it takes the place of; none where it was not there.
    known: &'a str,
    /// How many entries that one had.
    entries: u64,
    /// This node, where it has asked for a snapshot in vain.
    asked: &'a str,
}

impl Seed<'_> {
    /// Begins a log with a snapshot, under a new epoch.
    async fn write(&self, shared: &Shared, mut snapshot: Snapshot) -> Result<(), LogFault> {
        // Revisions count on under another epoch: no client resumes across the loss.
        let mut epoch = uuid::Uuid::new_v4().simple().to_string();
        epoch.truncate(limits::EPOCH_CHARS);
        snapshot.begin_log(&epoch);
        let (new, instances) = (snapshot.epoch.clone(), snapshot.instances.len());
        let sequence = snapshot.sequence;
        let text = encode_snapshot(snapshot).await.map_err(LogFault::Log)?;
        let mut connection = connect(shared).await?;
        let epoch: String = scripts::SEED
            .key(&[EPOCH, SNAPSHOT, SEQUENCE, LOG, BARE, WANTED])
            .arg(new)
            .arg(text)
            .arg(self.known)
            .arg(self.entries)
            .arg(limits::CLUSTER_BARE_MS)
            .arg(self.asked)
            .arg(sequence)
            .invoke_async(&mut *connection)
            .await?;
        tracing::info!(epoch, instances, "a log is started");
        Ok(())
    }
}

/// Requests a snapshot. Where no node answered for long enough, begins a log with the best that is left: this
/// node's registry, or the last snapshot that can be read, or nothing.
pub(super) async fn request(
    shared: &Shared,
    unusable: UnusableSnapshot,
    known: Option<&str>,
    since: Instant,
) -> Result<(), LogFault> {
    let mut connection = connect(shared).await?;
    let (length, head) = unusable.unreadable.clone().unwrap_or_default();
    let waiting: String = scripts::REQUEST_SNAPSHOT
        .key(&[WANTED, SNAPSHOT])
        .arg(&*shared.node)
        .arg(limits::CLUSTER_SNAPSHOT_WAIT_MS)
        .arg(u8::from(unusable.unreadable.is_some()))
        .arg(length)
        .arg(head)
        .invoke_async(&mut *connection)
        .await?;
    let is_in_vain = since.elapsed() >= Duration::from_millis(limits::CLUSTER_SNAPSHOT_WAIT_MS);
    if waiting != *shared.node || !is_in_vain {
        return Ok(());
    }
    let epoch: Option<String> = redis::cmd("GET").arg(EPOCH).query_async(&mut *connection).await?;
    let own = if known.is_some() { own_snapshot(shared).await } else { None };
    let left = match (own, unusable.snapshot) {
        (Some(own), _) => Some(own),
        (None, Some(snapshot)) => Some(*snapshot),
        (None, None) => own_snapshot(shared).await,
    };
    let Some(snapshot) = left else { return Ok(()) };
    tracing::error!("no node has the registry: starting a new log with what is left of it");
    let epoch = epoch.unwrap_or_default();
    let seed = Seed { known: &epoch, entries: 0, asked: &shared.node };
    seed.write(shared, snapshot).await
}

/// Writes a snapshot for a node that asks, where it is this node's turn.
pub(super) async fn answer_request(shared: Shared) {
    let turn = async {
        let mut connection = connect(&shared).await?;
        let mut take = redis::cmd("SET");
        take.arg(scripts::SNAPSHOT_TURN).arg(&*shared.node).arg("NX").arg("PX");
        take.arg(limits::CLUSTER_SNAPSHOT_PAUSE_MS);
        take.query_async::<Option<String>>(&mut *connection).await
    };
    match turn.await {
        Ok(Some(_)) => {
            tracing::info!("another node asks for a snapshot");
            publish(shared).await;
        }
        Ok(None) => {}
        Err(fault) => {
            tracing::warn!(%fault, "the snapshot that another node asks for is not written");
        }
    }
}

/// A snapshot may be large, and take its time.
async fn connect(shared: &Shared) -> RedisResult<PrimaryConnection> {
    shared.connect(Duration::from_millis(limits::REDIS_SNAPSHOT_MS)).await
}

/// Snapshots are read and written beside this thread: heartbeats and topics must not stand still for that.
async fn decode(text: Vec<u8>) -> Result<Snapshot, UnusableSnapshot> {
    let parsed = tokio::task::spawn_blocking(move || {
        Snapshot::read(&text).map_err(|fault| {
            UnusableSnapshot::unreadable(&format!("the snapshot cannot be read: {fault}"), &text)
        })
    });
    parsed.await.map_err(|fault| UnusableSnapshot::missing(&fault.to_string()))?
}

async fn encode_snapshot(snapshot: Snapshot) -> Result<String, String> {
    let written = tokio::task::spawn_blocking(move || serde_json::to_string(&snapshot)).await;
    written.map_err(|fault| fault.to_string())?.map_err(|fault| fault.to_string())
}

async fn own_snapshot(shared: &Shared) -> Option<Snapshot> {
    let (reply, snapshot) = oneshot::channel();
    shared.tell(News::Snapshot(reply));
    snapshot.await.ok()
}

/// Keeps the registry as it is now, for nodes that join; the entries before it can go.
pub(super) async fn publish(shared: Shared) {
    let Some(snapshot) = own_snapshot(&shared).await else { return };
    let (epoch, position, sequence) =
        (snapshot.epoch.clone(), snapshot.position.clone(), snapshot.sequence);
    let Ok(text) = encode_snapshot(snapshot).await else { return };
    let kept = async {
        let mut connection = connect(&shared).await?;
        scripts::KEEP_SNAPSHOT
            .key(&[EPOCH, SNAPSHOT, LOG, SEQUENCE, WANTED])
            .arg(epoch)
            .arg(text)
            .arg(position)
            .arg(sequence)
            .invoke_async::<u64>(&mut *connection)
            .await
    };
    if let Err(fault) = kept.await {
        tracing::warn!(%fault, "the snapshot was not stored: the log is trimmed later");
    }
}
