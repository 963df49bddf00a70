//! The journal of direct and group messages: writing it, and reading it.
//!
//! A message's id is made of its position in the stream, so ids rise for all nodes alike. Entries have
//! numbers without gaps, as those of the log. An entry without a message only raises the ids above those
//! of the database; readers skip it.

use std::convert::Infallible;
use std::sync::Arc;

use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::streams::{StreamId, StreamRangeReply};
use redis::{Cmd, RedisError, RedisResult, Value, from_redis_value};

use super::connections::{PrimaryConnection, READ_PATIENCE, read_stream};
use super::{BackplaneResponse, News, Shared, back_off, channel, fresh_rng, scripts};
use crate::id::MessageId;
use crate::limits;
use crate::state::journal::{DirectMessage, JournalEntry};
use crate::stats::RedisPath;

/// The id that the journal's next ids must be above: the highest one known to be stored.
#[derive(Debug, Clone, Default)]
pub(super) struct MinIdFence(Arc<Mutex<Option<MessageId>>>);

impl MinIdFence {
    pub(super) fn new(id: Option<MessageId>) -> MinIdFence {
        MinIdFence(Arc::new(Mutex::new(id)))
    }

    /// Notes an id.
    pub(super) fn raise(&self, id: MessageId) {
        let mut fence = self.0.lock();
        *fence = (*fence).max(Some(id));
    }

    /// Sees to it that ids are above. A Redis that lost its data, or whose clock is behind, would
    /// give out ids that nobody looks for. Returns the entry that this took, and its number.
    pub(super) async fn enforce(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> RedisResult<Option<(MessageId, u64)>> {
        let fence = *self.0.lock();
        let Some(id) = fence else { return Ok(None) };
        let number: u64 = scripts::FLOOR
            .key(&[scripts::JOURNAL, scripts::JOURNAL_SEQUENCE])
            .arg(id.stream_id())
            .invoke_async(connection)
            .await?;
        if number == 0 {
            return Ok(None);
        }
        tracing::warn!(%id, "the ids of the journal were behind those of the database: they are raised");
        Ok(Some((id, number)))
    }
}

/// Puts a message into the journal. 48 bits of `random_bits` go into its id.
pub(super) fn append(random_bits: u64, text: &str) -> Cmd {
    let keys = [scripts::JOURNAL, scripts::JOURNAL_SEQUENCE];
    let mut command = channel::run(&scripts::APPEND_MESSAGE, &keys);
    command.arg(format!("{:012x}", random_bits >> 16)).arg(text);
    command
}

/// The response to [`append`].
pub(super) fn appended(answer: Value) -> RedisResult<BackplaneResponse> {
    let (id, sequence, random_bits): (String, u64, String) = from_redis_value(answer)?;
    Ok(match id_of(&id, &random_bits) {
        Some(id) => BackplaneResponse::Journaled { id, sequence },
        None => BackplaneResponse::Failed,
    })
}

/// Asks for the number of the newest entry.
pub(super) fn newest() -> Cmd {
    Cmd::get(scripts::JOURNAL_SEQUENCE)
}

/// Notes that the database has the journal up to a message.
pub(super) fn written(up_to: MessageId) -> Cmd {
    let keys = [scripts::WRITTEN_UP_TO, scripts::JOURNAL];
    let mut command = channel::run(&scripts::WRITTEN, &keys);
    command.arg(up_to.stream_id()).arg(limits::JOURNAL_KEPT_MS);
    command
}

/// Where the journal and the database stand: the number of the newest entry, and an id that is not
/// below that of any message which the database has.
pub(super) async fn standing(
    connection: &mut MultiplexedConnection,
) -> RedisResult<(u64, Option<MessageId>)> {
    // Not in the script of a heartbeat: these keys are in another slot of a Redis Cluster.
    let (newest, written): (Option<u64>, Option<String>) = redis::pipe()
        .get(scripts::JOURNAL_SEQUENCE)
        .get(scripts::WRITTEN_UP_TO)
        .query_async(connection)
        .await?;
    // Its chance is not known; the highest is not below it.
    let written = written.and_then(|id| MessageId::from_stream_id(&id, u64::MAX));
    Ok((newest.unwrap_or(0), written))
}

/// The id of an entry's message: its place, and 48 bits of chance in hexadecimal digits.
fn id_of(place: &str, random_bits: &str) -> Option<MessageId> {
    let random_bits = u64::from_str_radix(random_bits, 16).ok()?;
    MessageId::from_stream_id(place, random_bits << 16)
}

/// Where the reader stands.
struct ReadPosition {
    position: String,
    /// The number of the last entry; none where that is not known.
    sequence: Option<u64>,
}

impl ReadPosition {
    /// Goes to the start of another journal than the one that was read. Its ids say nothing of
    /// what was read of it: Redis' clock may be behind, or still in the same millisecond.
    fn begin_again(&mut self, shared: &Shared) {
        tracing::error!(
            read = self.sequence,
            "the journal was replaced by another: reading it from its start"
        );
        shared.tell(News::JournalGap);
        *self = ReadPosition { position: String::from("0-0"), sequence: Some(0) };
    }
}

/// Reads the journal for ever, from behind a message.
pub(super) async fn read(shared: Shared, after: Option<MessageId>, fence: MinIdFence) {
    let mut rng = fresh_rng();
    let position = after.map_or_else(|| String::from("0-0"), MessageId::stream_id);
    let mut place = ReadPosition { position, sequence: None };
    let mut failures = 0_u32;
    loop {
        let mut link = None;
        let Err(fault) = follow(&shared, &fence, &mut place, (&mut link, &mut failures)).await;
        shared.fails(RedisPath::Journal, link.as_ref(), &fault);
        shared.trouble(&fault);
        failures += 1;
        back_off(&mut rng, failures).await;
    }
}

async fn follow(
    shared: &Shared,
    fence: &MinIdFence,
    place: &mut ReadPosition,
    (link, failures): (&mut Option<PrimaryConnection>, &mut u32),
) -> Result<Infallible, RedisError> {
    let connection = link.insert(shared.connect(READ_PATIENCE).await?);
    if *failures > 0 {
        shared.stats.cluster.reconnects.add(1);
    }
    let mut newest = look(shared, connection, place).await?;
    enforce(shared, fence, connection, place).await?;
    let mut probed = None;
    loop {
        let entries = read_stream(connection, scripts::JOURNAL, &place.position).await?;
        let is_quiet = entries.is_empty();
        *failures = 0;
        if is_quiet {
            // All that was there when the number was asked for has been read.
            place.sequence = place.sequence.max(Some(newest));
        } else {
            take(shared, fence, place, entries);
        }
        if is_quiet || place.sequence == Some(0) {
            newest = look(shared, connection, place).await?;
        }
        if place.sequence == Some(0) {
            enforce(shared, fence, connection, place).await?;
        }
        shared.probe_reader(RedisPath::Journal, connection, &mut probed).await?;
        shared.stats.cluster.journal_read.set(place.sequence.unwrap_or(0));
    }
}

/// Lifts the journal's ids above the floor.
async fn enforce(
    shared: &Shared,
    fence: &MinIdFence,
    connection: &mut MultiplexedConnection,
    place: &mut ReadPosition,
) -> RedisResult<()> {
    if let Some((id, number)) = fence.enforce(connection).await?
        && order_of(&id.stream_id()) <= order_of(&place.position)
        && place.sequence == Some(number - 1)
    {
        // It stands where the reader does, and will not be read.
        place.sequence = Some(number);
        shared.tell(News::JournalRead(number));
    }
    Ok(())
}

/// Sees whether the journal still is the one that was read. Returns the number of its newest entry.
async fn look(
    shared: &Shared,
    connection: &mut MultiplexedConnection,
    place: &mut ReadPosition,
) -> RedisResult<u64> {
    let (newest, last): (Option<u64>, StreamRangeReply) = redis::pipe()
        .get(scripts::JOURNAL_SEQUENCE)
        .xrevrange_count(scripts::JOURNAL, "+", "-", 1)
        .query_async(connection)
        .await?;
    let newest = newest.unwrap_or(0);
    if place.sequence.is_some_and(|read| newest < read) {
        place.begin_again(shared);
    }
    let last = last.ids.first().and_then(|last| order_of(&last.id));
    if last <= order_of(&place.position) && place.sequence != Some(newest) {
        // Nothing lies ahead: the entries that are gone are in the database.
        place.sequence = Some(newest);
        shared.tell(News::JournalRead(newest));
    }
    Ok(newest)
}

/// A stream's id as it compares.
fn order_of(id: &str) -> Option<(u64, u64)> {
    let (ms, n) = id.split_once('-')?;
    Some((ms.parse().ok()?, n.parse().ok()?))
}

/// Hands on the entries read, and tells control of gaps.
fn take(shared: &Shared, fence: &MinIdFence, place: &mut ReadPosition, entries: Vec<StreamId>) {
    let mut messages = Vec::new();
    for entry in entries {
        let sequence: Option<u64> = entry.get("s");
        if let (Some(sequence), Some(read)) = (sequence, place.sequence)
            && sequence != read + 1
        {
            hand_over(shared, &mut messages);
            if sequence <= read && sequence > 1 {
                // Earlier entries of it were not read.
                return place.begin_again(shared);
            }
            tracing::error!(sequence, read, "entries of the journal are missing");
            shared.tell(News::JournalGap);
        }
        place.position.clone_from(&entry.id);
        place.sequence = sequence.or(place.sequence);
        match message_of(&entry, sequence) {
            Ok(Some(message)) => {
                fence.raise(message.id);
                messages.push(message);
            }
            Ok(None) => {}
            Err(fault) => tracing::error!(fault, id = entry.id, "a message cannot be read"),
        }
    }
    let last = messages.last().map(|message| message.sequence);
    hand_over(shared, &mut messages);
    if let Some(read) = place.sequence
        && last != Some(read)
    {
        shared.tell(News::JournalRead(read));
    }
}

fn hand_over(shared: &Shared, messages: &mut Vec<JournalEntry>) {
    if !messages.is_empty() {
        shared.tell(News::JournalEntries(std::mem::take(messages)));
    }
}

/// The message of an entry, where it has one.
fn message_of(entry: &StreamId, sequence: Option<u64>) -> Result<Option<JournalEntry>, String> {
    let sequence = sequence.ok_or_else(|| String::from("it has no number"))?;
    let Some(text) = entry.get::<String>("m") else { return Ok(None) };
    let random_bits: String = entry.get("r").ok_or_else(|| String::from("it has no chance"))?;
    let id = id_of(&entry.id, &random_bits).ok_or_else(|| String::from("it makes no id"))?;
    Ok(Some(JournalEntry { sequence, id, message: DirectMessage::decode(&text)? }))
}
