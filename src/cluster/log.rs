//! The log: appends entries, reads entries, and starts over from a snapshot where a sequence number is missing.

use std::convert::Infallible;
use std::time::Duration;

use redis::streams::StreamId;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::connections::{self, PrimaryConnection, READ_PATIENCE};
use super::read_position::{LogFault, ReadPosition};
use super::snapshots;
use super::{News, Proposal, Shared, back_off, fresh_rng, scripts};
use crate::limits;
use crate::state::entry::{LogItem, decode};
use crate::stats::RedisPath;

/// How reading goes.
#[derive(Debug, Default)]
struct ReaderState {
    /// Where the reader stands; none where it has to install a snapshot.
    place: Option<ReadPosition>,
    /// The epoch of the registry that control has; none where it has none yet.
    known: Option<String>,
    /// Failures in a row.
    failures: u32,
    /// Since when this node has asked for a snapshot other than that of this number, or than none.
    wanted_since: Option<(Option<u64>, Instant)>,
}

/// Appends proposals to the log, in their order.
pub(super) async fn write(shared: Shared, mut queue: mpsc::UnboundedReceiver<Proposal>) {
    let mut link: Option<PrimaryConnection> = None;
    let mut batch = Vec::new();
    let mut probes = connections::probe_ticks();
    loop {
        tokio::select! {
            biased;
            // A log that is not there yet is no fault of the path.
            _ = probes.tick() => {
                shared.probe_kept(RedisPath::LogWriter, &mut link, scripts::LOG_PROBE).await;
            }
            count = queue.recv_many(&mut batch, limits::CLUSTER_WRITE_ENTRIES) => {
                if count == 0 {
                    return;
                }
                if !append(&shared, &mut link, &batch).await {
                    shared.tell(News::Lost(batch.iter().map(|one| one.number).collect()));
                }
                batch.clear();
            }
        }
    }
}

/// Appends proposals. Returns whether they are in the log.
///
/// An entry that was written twice is applied once. So after a connection has died at an unknown point,
/// the batch is sent again on a new one.
async fn append(shared: &Shared, link: &mut Option<PrimaryConnection>, batch: &[Proposal]) -> bool {
    for _ in 0..limits::CLUSTER_WRITE_TRIES {
        let patience = Duration::from_millis(limits::REDIS_RESPONSE_MS);
        let Ok(open) = shared.reopen(link, patience).await else { continue };
        let mut call = scripts::APPEND.prepare_invoke();
        call.key(&[scripts::LOG, scripts::SEQUENCE, scripts::EPOCH]).arg(&*shared.node);
        for proposal in batch {
            call.arg(proposal.number).arg(proposal.at_ms).arg(&proposal.entry);
        }
        match call.invoke_async::<u64>(&mut **open).await {
            Ok(_) => return true,
            Err(fault) => {
                shared.trouble(&fault);
                shared.judge(open, &fault);
                *link = None;
            }
        }
    }
    false
}

/// Follows the log for ever.
pub(super) async fn read(shared: Shared) {
    let mut rng = fresh_rng();
    let mut reading = ReaderState::default();
    loop {
        let mut link = None;
        let Err(broken) = follow(&shared, &mut reading, &mut link).await;
        match broken {
            LogFault::Redis(fault) => {
                shared.fails(RedisPath::LogReader, link.as_ref(), &fault);
                shared.trouble(&fault);
            }
            LogFault::Log(fault) => {
                tracing::error!(fault, "the log cannot be followed: starting over from a snapshot");
                reading.place = None;
            }
            LogFault::Snapshot(unusable) => {
                tracing::error!(
                    fault = unusable.fault,
                    "no snapshot can be installed: asking the other nodes for one"
                );
                reading.place = None;
                let seen = unusable.sequence();
                let wanted_since = reading.wanted_since.filter(|(asked, _)| *asked == seen);
                let (_, since) =
                    *reading.wanted_since.insert(wanted_since.unwrap_or((seen, Instant::now())));
                let known = reading.known.as_deref();
                match snapshots::request(&shared, *unusable, known, since).await {
                    Err(LogFault::Redis(fault)) => shared.fails(RedisPath::LogReader, None, &fault),
                    Err(LogFault::Log(fault)) => {
                        tracing::error!(fault, "the registry cannot be written as a snapshot");
                    }
                    Ok(()) | Err(LogFault::Snapshot(_)) => {}
                }
                // Another node may answer within a second.
                reading.failures = reading.failures.min(limits::CLUSTER_HEARTBEAT_DOUBLINGS_MAX);
            }
        }
        reading.failures += 1;
        back_off(&mut rng, reading.failures).await;
    }
}

/// Follows the log until that fails, and forgets earlier failures once it has read on.
async fn follow(
    shared: &Shared,
    reading: &mut ReaderState,
    link: &mut Option<PrimaryConnection>,
) -> Result<Infallible, LogFault> {
    let connection = link.insert(shared.connect(READ_PATIENCE).await?);
    let mut probed = None;
    if reading.failures > 0 {
        shared.stats.cluster.reconnects.add(1);
    }
    let known = reading.known.as_deref();
    let place = match &mut reading.place {
        Some(place) => {
            check(shared, connection, place).await?;
            check_history(connection, place).await?;
            place
        }
        none => none.insert(snapshots::load(shared, known).await?),
    };
    place.hand_over(shared, Vec::new());
    loop {
        if place.pending_install.is_none() {
            reading.wanted_since = None;
            if reading.known.as_ref() != Some(&place.epoch) {
                reading.known = Some(place.epoch.clone());
            }
        }
        let mut items = Vec::new();
        for entry in connections::read_stream(connection, scripts::LOG, &place.position).await? {
            let (sequence, item) = item_of(&entry).map_err(LogFault::Log)?;
            if sequence != place.sequence + 1 {
                place.hand_over(shared, items);
                return Err(place.broken(format!("{sequence} follows {}", place.sequence)));
            }
            place.sequence = sequence;
            place.position.clone_from(&entry.id);
            let is_mine = *item.node == *shared.node;
            items.push(item);
            if is_mine
                && place.pending_install.is_none()
                && sequence % snapshot_entries(shared) == 0
            {
                tokio::spawn(snapshots::publish(shared.clone()));
            }
        }
        let is_quiet = items.is_empty();
        place.hand_over(shared, items);
        reading.failures = 0;
        if is_quiet && let Some(pending_install) = &place.pending_install {
            // They were in the log before this read began.
            let fault =
                format!("it has nothing from {} to {}", place.sequence, pending_install.newest);
            return Err(place.broken(fault));
        }
        if is_quiet {
            check(shared, connection, place).await?;
        }
        shared.probe_reader(RedisPath::LogReader, connection, &mut probed).await?;
    }
}

/// Whether this still is the log that was read, and has all of it.
///
/// A Redis that came back without its last entries would give their numbers to others, under the
/// same epoch. The first node that knows more than the log does teaches it all it knows, under
/// another.
async fn check(
    shared: &Shared,
    connection: &mut PrimaryConnection,
    place: &ReadPosition,
) -> Result<(), LogFault> {
    let (epoch, newest): (Option<String>, Option<u64>) = redis::pipe()
        .get(scripts::EPOCH)
        .get(scripts::SEQUENCE)
        .query_async(&mut **connection)
        .await?;
    if epoch.as_ref() != Some(&place.epoch) {
        return Err(LogFault::Log(String::from("another log was begun")));
    }
    let newest = newest.unwrap_or(0);
    if newest >= place.sequence {
        return Ok(());
    }
    if place.pending_install.is_none() {
        snapshots::seed_log(shared, Some(&place.epoch), place.sequence).await?;
    }
    Err(LogFault::Log(format!("it ends at {newest}, before {}", place.sequence)))
}

/// Whether the server of a new connection has the entry that was read last.
///
/// A replica that was promoted may lack it and have others under its number. Where that shows in the
/// numbers [`check`] finds out; where as many were written since, only this does.
async fn check_history(
    connection: &mut PrimaryConnection,
    place: &ReadPosition,
) -> Result<(), LogFault> {
    if place.pending_install.is_some() {
        return Ok(());
    }
    let has_entry: bool = scripts::HAS_ENTRY
        .key(scripts::LOG)
        .arg(&place.position)
        .invoke_async(&mut **connection)
        .await?;
    if has_entry {
        return Ok(());
    }
    Err(LogFault::Log(format!("entry {} is not in it", place.sequence)))
}

/// After how many entries some node writes a snapshot: at least as many as there are instances in it,
/// so that a change costs the same share of a snapshot whatever the size of the registry.
fn snapshot_entries(shared: &Shared) -> u64 {
    let instances = shared.stats.control.instances.value();
    limits::CLUSTER_SNAPSHOT_ENTRIES.max(instances.next_power_of_two())
}

fn item_of(entry: &StreamId) -> Result<(u64, LogItem), String> {
    let text = |field: &str| {
        entry.get::<String>(field).ok_or_else(|| format!("entry {} has no {field}", entry.id))
    };
    let number = |field: &str| {
        text(field)?.parse::<u64>().map_err(|_| format!("{field} of {} is no number", entry.id))
    };
    let item = LogItem {
        position: entry.id.clone(),
        node: text("n")?.into(),
        number: number("k")?,
        at_ms: number("t")?,
        entry: decode(&text("e")?).map_err(|fault| format!("entry {}: {fault}", entry.id))?,
    };
    Ok((number("s")?, item))
}
