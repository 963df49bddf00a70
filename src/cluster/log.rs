//! The log: entries in, entries out, and what to do where they do not follow each other.
//!
//! Part of `cluster`.

use std::convert::Infallible;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::streams::{StreamId, StreamReadOptions, StreamReadReply};
use redis::{AsyncCommands, RedisError};
use tokio::sync::{mpsc, oneshot};

use super::{News, Proposal, Shared, chance, rest, scripts};
use crate::limits;
use crate::state::log::{FORMAT, LogItem, decode};
use crate::state::replica::ReplicaImage;

/// Why reading ends and begins anew.
#[derive(Debug)]
enum Broken {
    /// The connection.
    Redis(RedisError),
    /// What is read does not follow what was read before, or cannot be read.
    Log(String),
}

impl From<RedisError> for Broken {
    fn from(fault: RedisError) -> Broken {
        Broken::Redis(fault)
    }
}

/// How reading goes.
#[derive(Debug, Default)]
struct Reading {
    /// Where the reader stands; none where it has to begin anew.
    place: Option<Place>,
    /// The epoch of the registry that control has; none where it has none yet.
    known: Option<String>,
    /// Failures in a row.
    failures: u32,
}

/// A place in the log.
#[derive(Debug)]
struct Place {
    epoch: String,
    position: String,
    sequence: u64,
    /// None once control has it.
    fresh: Option<Fresh>,
}

/// What is read since the reader began anew, until that is all there was when it began. Control gets
/// it whole: what lies between an old image and the present is a picture that is long out of date.
///
/// An image lies behind every [`limits::CLUSTER_IMAGE_ENTRIES`] entries or so, which bounds what
/// gathers here.
#[derive(Debug)]
struct Fresh {
    image: Box<ReplicaImage>,
    items: Vec<LogItem>,
    /// The number of the newest entry when the image was read.
    newest: u64,
}

impl Place {
    /// Hands entries over, in their order.
    fn hand_over(&mut self, shared: &Shared, items: Vec<LogItem>) {
        let Some(fresh) = &mut self.fresh else {
            if !items.is_empty() {
                shared.tell(News::Log(items));
            }
            return;
        };
        fresh.items.extend(items);
        if self.sequence >= fresh.newest
            && let Some(Fresh { image, items, .. }) = self.fresh.take()
        {
            shared.tell(News::Begin { image, items });
        }
    }
}

/// Puts proposals into the log, in their order.
pub(super) async fn write(shared: Shared, mut queue: mpsc::UnboundedReceiver<Proposal>) {
    let patience = Duration::from_millis(limits::REDIS_RESPONSE_MS);
    let mut connection: Option<MultiplexedConnection> = None;
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, limits::CLUSTER_WRITE_ENTRIES).await > 0 {
        let mut is_written = false;
        // What was written twice is applied once, so a connection that has died meanwhile, with
        // nobody knowing how far it came, costs a new one and not the proposals.
        for _ in 0..limits::CLUSTER_WRITE_TRIES {
            if connection.is_none() {
                connection = shared.connect(patience).await.ok();
            }
            let Some(open) = &mut connection else { continue };
            let mut call = scripts::APPEND.prepare_invoke();
            call.key(scripts::LOG).key(scripts::SEQUENCE).key(scripts::EPOCH).arg(&*shared.node);
            for proposal in &batch {
                call.arg(proposal.number).arg(proposal.at_ms).arg(&proposal.entry);
            }
            match call.invoke_async::<u64>(open).await {
                Ok(_) => {
                    is_written = true;
                    break;
                }
                Err(fault) => {
                    tracing::warn!(%fault, "proposals got no place in the log");
                    connection = None;
                }
            }
        }
        if !is_written {
            shared.tell(News::Lost(batch.iter().map(|proposal| proposal.number).collect()));
        }
        batch.clear();
    }
}

/// Follows the log for ever.
pub(super) async fn read(shared: Shared) {
    let mut rng = chance();
    let mut reading = Reading::default();
    loop {
        let Err(broken) = follow(&shared, &mut reading).await;
        match broken {
            Broken::Redis(fault) => tracing::warn!(%fault, "the log cannot be read"),
            Broken::Log(fault) => {
                tracing::error!(fault, "the log cannot be followed: beginning anew");
                reading.place = None;
            }
        }
        reading.failures += 1;
        rest(&mut rng, reading.failures).await;
    }
}

/// Follows the log until that fails, and forgets earlier failures once it has read on.
async fn follow(shared: &Shared, reading: &mut Reading) -> Result<Infallible, Broken> {
    let block_ms = limits::REDIS_BLOCK_MS;
    let patience = Duration::from_millis(block_ms + limits::REDIS_RESPONSE_MS);
    let mut connection = shared.connect(patience).await?;
    if reading.failures > 0 {
        shared.stats.cluster.reconnects.add(1);
    }
    let known = reading.known.as_deref();
    let place = match &mut reading.place {
        Some(place) => {
            check(shared, &mut connection, place).await?;
            place
        }
        none => none.insert(begin(shared, known).await?),
    };
    place.hand_over(shared, Vec::new());
    let block_ms = usize::try_from(block_ms).unwrap_or(usize::MAX);
    let options = StreamReadOptions::default().count(limits::CLUSTER_READ_ENTRIES).block(block_ms);
    loop {
        if place.fresh.is_none() && reading.known.as_ref() != Some(&place.epoch) {
            reading.known = Some(place.epoch.clone());
        }
        let positions = [&place.position];
        let reply: Option<StreamReadReply> =
            connection.xread_options(&[scripts::LOG], &positions, &options).await?;
        let entries = reply.into_iter().flat_map(|reply| reply.keys).flat_map(|key| key.ids);
        let mut items = Vec::new();
        for entry in entries {
            let (sequence, item) = item_of(&entry).map_err(Broken::Log)?;
            if sequence != place.sequence + 1 {
                place.hand_over(shared, items);
                return Err(Broken::Log(format!("{sequence} follows {}", place.sequence)));
            }
            place.sequence = sequence;
            place.position.clone_from(&entry.id);
            let is_mine = item.node == *shared.node;
            items.push(item);
            if is_mine && place.fresh.is_none() && sequence % image_entries(shared) == 0 {
                tokio::spawn(keep_image(shared.clone()));
            }
        }
        let is_quiet = items.is_empty();
        place.hand_over(shared, items);
        reading.failures = 0;
        if is_quiet {
            check(shared, &mut connection, place).await?;
        }
    }
}

/// Whether this still is the log that was read, and has all of it.
///
/// A Redis that came back without its last entries would give their numbers to others, under the
/// same epoch. The first node that knows more than the log does teaches it all it knows, under
/// another.
async fn check(
    shared: &Shared,
    connection: &mut MultiplexedConnection,
    place: &Place,
) -> Result<(), Broken> {
    let (epoch, newest): (Option<String>, Option<u64>) =
        redis::pipe().get(scripts::EPOCH).get(scripts::SEQUENCE).query_async(connection).await?;
    if epoch.as_ref() != Some(&place.epoch) {
        return Err(Broken::Log(String::from("another log was begun")));
    }
    let newest = newest.unwrap_or(0);
    if newest >= place.sequence {
        return Ok(());
    }
    if place.fresh.is_none() {
        let mut connection = connect_for_image(shared).await?;
        teach(shared, &mut connection, Some(&place.epoch), place.sequence).await?;
    }
    Err(Broken::Log(format!("it ends at {newest}, before {}", place.sequence)))
}

/// After how many entries some node writes an image: at least as many as there are instances in it,
/// so that a change costs the same share of an image whatever the size of the registry.
fn image_entries(shared: &Shared) -> u64 {
    let instances = shared.stats.control.instances.value();
    limits::CLUSTER_IMAGE_ENTRIES.max(instances.next_power_of_two())
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
        node: text("n")?,
        number: number("k")?,
        at_ms: number("t")?,
        entry: decode(&text("e")?).map_err(|fault| format!("entry {}: {fault}", entry.id))?,
    };
    Ok((number("s")?, item))
}

/// Begins from the image; where there is no log, with one of this node's own registry. Also where
/// somebody has just begun one who knew nothing, and this node does.
async fn begin(shared: &Shared, known: Option<&str>) -> Result<Place, Broken> {
    let mut connection = connect_for_image(shared).await?;
    let (epoch, bare): (Option<String>, Option<String>) =
        redis::pipe().get(scripts::EPOCH).get(scripts::BARE).query_async(&mut connection).await?;
    let is_bare = epoch == bare && known.is_some() && epoch.as_deref() != known;
    if epoch.is_none() || is_bare {
        teach(shared, &mut connection, known, 0).await?;
    }
    // In this order: the image is of a place that the log has reached by then.
    let (text, newest): (Option<String>, Option<u64>) = redis::pipe()
        .get(scripts::IMAGE)
        .get(scripts::SEQUENCE)
        .query_async(&mut connection)
        .await?;
    let (Some(text), newest) = (text, newest.unwrap_or(0)) else {
        return Err(Broken::Log(String::from("there is no image")));
    };
    let image = parse(text).await.map_err(|fault| Broken::Log(format!("image: {fault}")))?;
    if image.format > FORMAT {
        return Err(Broken::Log(String::from("the image is of a newer server")));
    }
    if newest < image.sequence {
        return Err(Broken::Log(format!("it ends at {newest}, before the image")));
    }
    let (epoch, position) = (image.epoch.clone(), image.position.clone());
    let sequence = image.sequence;
    let fresh = Fresh { image: Box::new(image), items: Vec::new(), newest };
    Ok(Place { epoch, position, sequence, fresh: Some(fresh) })
}

/// Begins a log with this node's own registry, where there is none, or the one there is does not have
/// as many entries as are known, or was begun with nothing. Somebody else may have been faster.
async fn teach(
    shared: &Shared,
    connection: &mut MultiplexedConnection,
    known: Option<&str>,
    entries: u64,
) -> Result<(), Broken> {
    let Some(mut image) = ask_for_image(shared).await else {
        return Err(Broken::Log(String::from("there is no registry to begin with")));
    };
    // Revisions count on under another name: nobody resumes across what was lost.
    image.epoch = uuid::Uuid::new_v4().simple().to_string();
    image.epoch.truncate(limits::EPOCH_CHARS);
    "0-0".clone_into(&mut image.position);
    image.sequence = 0;
    let (new, instances) = (image.epoch.clone(), image.instances.len());
    let text = write_down(image).await.map_err(Broken::Log)?;
    let epoch: String = scripts::SEED
        .key(scripts::EPOCH)
        .key(scripts::IMAGE)
        .key(scripts::SEQUENCE)
        .key(scripts::LOG)
        .key(scripts::BARE)
        .arg(new)
        .arg(text)
        .arg(known.unwrap_or_default())
        .arg(entries)
        .arg(limits::CLUSTER_BARE_MS)
        .invoke_async(connection)
        .await?;
    tracing::info!(epoch, instances, "the log is begun");
    Ok(())
}

/// An image may be large, and take its time.
async fn connect_for_image(shared: &Shared) -> Result<MultiplexedConnection, RedisError> {
    shared.connect(Duration::from_millis(limits::REDIS_IMAGE_MS)).await
}

/// Images are read and written beside this thread: what beats and hears must not stand still for that.
async fn parse(text: String) -> Result<ReplicaImage, String> {
    let parsed = tokio::task::spawn_blocking(move || serde_json::from_str(&text)).await;
    parsed.map_err(|fault| fault.to_string())?.map_err(|fault| fault.to_string())
}

async fn write_down(image: ReplicaImage) -> Result<String, String> {
    let written = tokio::task::spawn_blocking(move || serde_json::to_string(&image)).await;
    written.map_err(|fault| fault.to_string())?.map_err(|fault| fault.to_string())
}

async fn ask_for_image(shared: &Shared) -> Option<ReplicaImage> {
    let (reply, image) = oneshot::channel();
    shared.tell(News::Image(reply));
    image.await.ok().flatten()
}

/// Keeps the registry as it is now, for nodes that join; the entries before it can go.
async fn keep_image(shared: Shared) {
    let Some(image) = ask_for_image(&shared).await else { return };
    let (epoch, position, sequence) = (image.epoch.clone(), image.position.clone(), image.sequence);
    let Ok(text) = write_down(image).await else { return };
    let kept = async {
        let mut connection = connect_for_image(&shared).await?;
        scripts::KEEP_IMAGE
            .key(scripts::EPOCH)
            .key(scripts::IMAGE)
            .key(scripts::LOG)
            .arg(epoch)
            .arg(text)
            .arg(position)
            .arg(sequence)
            .invoke_async::<u64>(&mut connection)
            .await
    };
    if let Err(fault) = kept.await {
        tracing::warn!(%fault, "the image was not kept; the log stays longer");
    }
}
