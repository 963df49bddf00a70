//! The log: entries in, entries out, and what to do where they do not follow each other.
//!
//! Part of `cluster`.

use std::convert::Infallible;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::streams::{StreamId, StreamReadOptions, StreamReadReply};
use redis::{AsyncCommands, RedisError};
use tokio::sync::{mpsc, oneshot};

use super::{News, Proposal, Shared, rest, scripts};
use crate::limits;
use crate::rng::Rng;
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

/// Where the reader stands.
#[derive(Debug, Clone)]
struct Place {
    epoch: String,
    position: String,
    sequence: u64,
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
    let mut rng = Rng::seeded(uuid::Uuid::new_v4().as_u64_pair().0);
    let (mut place, mut failures) = (None, 0_u32);
    loop {
        let Err(broken) = follow(&shared, &mut place, &mut failures).await;
        match broken {
            Broken::Redis(fault) => tracing::warn!(%fault, "the log cannot be read"),
            Broken::Log(fault) => {
                tracing::error!(fault, "the log cannot be followed: beginning anew");
                place = None;
            }
        }
        failures += 1;
        rest(&mut rng, failures).await;
    }
}

/// Follows the log until that fails, and forgets earlier failures once it has read on.
async fn follow(
    shared: &Shared,
    place: &mut Option<Place>,
    failures: &mut u32,
) -> Result<Infallible, Broken> {
    let block_ms = limits::REDIS_BLOCK_MS;
    let patience = Duration::from_millis(block_ms + limits::REDIS_RESPONSE_MS);
    let mut connection = shared.connect(patience).await?;
    if *failures > 0 {
        shared.stats.cluster.reconnects.add(1);
    }
    let epoch: Option<String> = connection.get(scripts::EPOCH).await?;
    let place = match place {
        Some(place) if epoch.as_ref() == Some(&place.epoch) => place,
        place => place.insert(begin(shared, &mut connection).await?),
    };
    // What was there before counts for being ready; what comes later is the daily round.
    let newest: Option<u64> = connection.get(scripts::SEQUENCE).await?;
    let newest = newest.unwrap_or(0);
    if newest < place.sequence {
        return Err(Broken::Log(format!("it ends at {newest}, before {}", place.sequence)));
    }
    let mut is_caught_up = place.sequence >= newest;
    if is_caught_up {
        shared.tell(News::CaughtUp);
    }
    let block_ms = usize::try_from(block_ms).unwrap_or(usize::MAX);
    let options = StreamReadOptions::default().count(limits::CLUSTER_READ_ENTRIES).block(block_ms);
    loop {
        let positions = [&place.position];
        let reply: Option<StreamReadReply> =
            connection.xread_options(&[scripts::LOG], &positions, &options).await?;
        let entries = reply.into_iter().flat_map(|reply| reply.keys).flat_map(|key| key.ids);
        let mut items = Vec::new();
        for entry in entries {
            let (sequence, item) = item_of(&entry).map_err(Broken::Log)?;
            if sequence != place.sequence + 1 {
                hand_over(shared, items);
                return Err(Broken::Log(format!("{sequence} follows {}", place.sequence)));
            }
            place.sequence = sequence;
            place.position.clone_from(&entry.id);
            let is_mine = item.node == *shared.node;
            items.push(item);
            if is_mine && sequence % limits::CLUSTER_IMAGE_ENTRIES == 0 {
                tokio::spawn(keep_image(shared.clone()));
            }
        }
        let is_quiet = items.is_empty();
        hand_over(shared, items);
        *failures = 0;
        if !is_caught_up && place.sequence >= newest {
            is_caught_up = true;
            shared.tell(News::CaughtUp);
        }
        if is_quiet {
            // Another log may have been begun, or this one lost its end.
            let now: (Option<String>, Option<u64>) = redis::pipe()
                .get(scripts::EPOCH)
                .get(scripts::SEQUENCE)
                .query_async(&mut connection)
                .await?;
            if now.0.as_ref() != Some(&place.epoch) || now.1.unwrap_or(0) < place.sequence {
                return Err(Broken::Log(String::from("another log was begun")));
            }
        }
    }
}

fn hand_over(shared: &Shared, items: Vec<LogItem>) {
    if !items.is_empty() {
        shared.tell(News::Log(items));
    }
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

/// Begins from the image; where there is no log, with one of this node's own registry.
async fn begin(shared: &Shared, connection: &mut MultiplexedConnection) -> Result<Place, Broken> {
    if connection.get::<_, Option<String>>(scripts::EPOCH).await?.is_none() {
        let Some(mut image) = ask_for_image(shared).await else {
            return Err(Broken::Log(String::from("there is no registry to begin with")));
        };
        // Revisions count on under another name: nobody resumes across what was lost.
        image.epoch = uuid::Uuid::new_v4().simple().to_string();
        image.epoch.truncate(limits::EPOCH_CHARS);
        "0-0".clone_into(&mut image.position);
        image.sequence = 0;
        let text = serde_json::to_string(&image).map_err(|fault| Broken::Log(fault.to_string()))?;
        let epoch: String = scripts::SEED
            .key(scripts::EPOCH)
            .key(scripts::IMAGE)
            .key(scripts::SEQUENCE)
            .key(scripts::LOG)
            .arg(&image.epoch)
            .arg(text)
            .invoke_async(connection)
            .await?;
        tracing::info!(epoch, "the log is begun");
    }
    let (epoch, text): (Option<String>, Option<String>) =
        redis::pipe().get(scripts::EPOCH).get(scripts::IMAGE).query_async(connection).await?;
    let (Some(epoch), Some(text)) = (epoch, text) else {
        return Err(Broken::Log(String::from("there is no image")));
    };
    let image: ReplicaImage =
        serde_json::from_str(&text).map_err(|fault| Broken::Log(format!("image: {fault}")))?;
    if image.format > FORMAT {
        return Err(Broken::Log(String::from("the image is of a newer server")));
    }
    let place = Place { epoch, position: image.position.clone(), sequence: image.sequence };
    shared.tell(News::Replace(Box::new(image)));
    Ok(place)
}

async fn ask_for_image(shared: &Shared) -> Option<ReplicaImage> {
    let (reply, image) = oneshot::channel();
    shared.tell(News::Image(reply));
    image.await.ok().flatten()
}

/// Keeps the registry as it is now, for nodes that join; the entries before it can go.
async fn keep_image(shared: Shared) {
    let Some(image) = ask_for_image(&shared).await else { return };
    let (epoch, position) = (image.epoch.clone(), image.position.clone());
    let Ok(Ok(text)) = tokio::task::spawn_blocking(move || serde_json::to_string(&image)).await
    else {
        return;
    };
    let kept = async {
        let patience = Duration::from_millis(limits::REDIS_IMAGE_MS);
        let mut connection = shared.connect(patience).await?;
        scripts::KEEP_IMAGE
            .key(scripts::EPOCH)
            .key(scripts::IMAGE)
            .key(scripts::LOG)
            .arg(epoch)
            .arg(text)
            .arg(position)
            .invoke_async::<u64>(&mut connection)
            .await
    };
    if let Err(fault) = kept.await {
        tracing::warn!(%fault, "the image was not kept; the log stays longer");
    }
}
