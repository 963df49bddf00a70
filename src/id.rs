//! Names and numbers that identify things.
//!
//! Newtypes, so that a slot cannot be passed where a topic is meant and a display name cannot pass
//! for a canonical one. A slot is reused after its connection has ended; an identity never is, so a
//! [`ConnId`] carries a generation. The names that clients share are in `fanfare_protocol::id`;
//! this module has those of the server alone.
//!
//! Imports `limits` and `rng`. Imported by everything.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

pub use fanfare_protocol::id::{
    ChannelName, Epoch, InstanceIdentity, NotAnId, ServiceName, UserId,
};

use crate::limits;
use crate::rng::Rng;

/// A shard's number: 0 up to the number of shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub u16);

/// A connection's index in its shard's slab. Reused after the connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

impl Slot {
    /// The slot as an index into slabs and vectors.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// One connection, for the life of the server.
///
/// `generation` distinguishes the connections that used the same slot one after the other, so a
/// late message never reaches another connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    /// The shard that owns the socket.
    pub shard: ShardId,
    /// Its slot there.
    pub slot: Slot,
    /// The number of connections that the shard had opened before this one.
    pub generation: u32,
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.shard.0, self.slot.0, self.generation)
    }
}

impl FromStr for ConnId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<ConnId, NotAnId> {
        let mut parts = text.split('-');
        let mut next = || parts.next().and_then(|part| part.parse::<u32>().ok()).ok_or(NotAnId);
        let shard = u16::try_from(next()?).map_err(|_| NotAnId)?;
        let (slot, generation) = (next()?, next()?);
        if parts.next().is_some() {
            return Err(NotAnId);
        }
        Ok(ConnId { shard: ShardId(shard), slot: Slot(slot), generation })
    }
}

/// A connection's full name: its node, and its id there.
///
/// Node names are new with every start, so a name never means another connection later on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnName {
    /// The node; none means this one.
    pub node: Option<Box<str>>,
    /// The connection there.
    pub conn: ConnId,
}

impl ConnName {
    /// The distinct names, in order.
    pub fn each_once(names: impl IntoIterator<Item = ConnName>) -> Vec<ConnName> {
        let mut names: Vec<ConnName> = names.into_iter().collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The name of a node's connection.
    pub fn new(node: &str, conn: ConnId) -> ConnName {
        ConnName { node: Some(node.into()), conn }
    }

    /// The name in full, as a node writes it for others.
    #[must_use]
    pub fn named_from(&self, node: &str) -> ConnName {
        match &self.node {
            Some(_) => self.clone(),
            None => ConnName::new(node, self.conn),
        }
    }

    /// Whether it is a connection of this node.
    pub fn is_at(&self, node: &str) -> bool {
        self.node.as_deref().is_none_or(|name| name == node)
    }
}

/// A string in JSON.
impl Serialize for ConnName {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ConnName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<ConnName, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

impl From<ConnId> for ConnName {
    fn from(conn: ConnId) -> ConnName {
        ConnName { node: None, conn }
    }
}

impl fmt::Display for ConnName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.node {
            Some(node) => write!(f, "{node}-{}", self.conn),
            None => self.conn.fmt(f),
        }
    }
}

impl FromStr for ConnName {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<ConnName, NotAnId> {
        let (node, conn) = text.split_once('-').ok_or(NotAnId)?;
        if node.is_empty() {
            return Err(NotAnId);
        }
        Ok(ConnName::new(node, conn.parse()?))
    }
}

/// The form in which a follower gets the changes of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// fanfare's own frames.
    Fanfare,
    /// Those of Artemis' sockets.
    Artemis,
}

/// The target of an event: all followers of the topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Topic {
    /// The changes of a service.
    Service(ServiceName),
    /// The changes of a service, as Artemis' sockets have them.
    Artemis(ServiceName),
    /// The messages of a channel.
    Channel(ChannelName),
    /// The messages for one user, on each of that user's connections.
    User(UserId),
    /// The messages for all signed-in users.
    Users,
    /// The messages for every JSON socket.
    Everyone,
}

impl Topic {
    /// The changes of a service in a dialect.
    pub fn of_service(service: ServiceName, dialect: Dialect) -> Topic {
        match dialect {
            Dialect::Fanfare => Topic::Service(service),
            Dialect::Artemis => Topic::Artemis(service),
        }
    }

    /// The service, if it is one, in whatever dialect.
    pub fn service(&self) -> Option<&ServiceName> {
        match self {
            Topic::Service(service) | Topic::Artemis(service) => Some(service),
            _ => None,
        }
    }

    /// The dialect of a service's changes.
    pub fn dialect(&self) -> Option<Dialect> {
        match self {
            Topic::Service(_) => Some(Dialect::Fanfare),
            Topic::Artemis(_) => Some(Dialect::Artemis),
            _ => None,
        }
    }
}

const SHARD_WORDS: usize = limits::SHARDS_MAX.div_ceil(64);

/// A set of shards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShardSet([u64; SHARD_WORDS]);

impl ShardSet {
    /// Adds a shard.
    pub fn insert(&mut self, shard: ShardId) {
        let index = usize::from(shard.0);
        self.0[index / 64] |= 1 << (index % 64);
    }

    /// Removes a shard.
    pub fn remove(&mut self, shard: ShardId) {
        let index = usize::from(shard.0);
        self.0[index / 64] &= !(1 << (index % 64));
    }

    /// Adds all shards of another set.
    pub fn unite(&mut self, other: ShardSet) {
        for (word, more) in self.0.iter_mut().zip(other.0) {
            *word |= more;
        }
    }

    /// Whether there is none in it.
    pub fn is_empty(&self) -> bool {
        self.0 == [0; SHARD_WORDS]
    }

    /// The shards' indexes.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        self.0.into_iter().enumerate().flat_map(|(index, word)| {
            (0..64).filter(move |bit| word & (1 << bit) != 0).map(move |bit| index * 64 + bit)
        })
    }
}

/// A message's id: a UUID of version 7 (RFC 9562, 5.7), so that ids sort as their messages do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(Uuid);

/// Values that the counter of a [`MessageId`] has within a millisecond: 26 bits.
const COUNTER_MAX: u32 = 1 << 26;

impl MessageId {
    /// The id of a millisecond's `counter`th message. The counter's 26 bits follow right after the
    /// time (RFC 9562, 6.2, method 1), and 48 bits of `chance` fill the rest.
    pub fn from_parts(unix_ms: u64, counter: u32, chance: u64) -> MessageId {
        let (high, low) = (counter >> 14 & 0xfff, u64::from(counter & 0x3fff));
        let mut rest = [0; 10];
        rest[..2].copy_from_slice(&high.to_be_bytes()[2..]);
        rest[2..].copy_from_slice(&(low << 48 | chance >> 16).to_be_bytes());
        MessageId(uuid::Builder::from_unix_timestamp_millis(unix_ms, &rest).into_uuid())
    }

    /// The millisecond it was made in.
    pub fn unix_ms(self) -> u64 {
        let bytes = self.0.as_bytes();
        bytes[..6].iter().fold(0, |ms, &byte| ms << 8 | u64::from(byte))
    }

    /// Its number within the millisecond.
    pub fn counter(self) -> u32 {
        let bytes = self.0.as_bytes();
        let high = u32::from(bytes[6] & 0xf) << 8 | u32::from(bytes[7]);
        high << 14 | u32::from(bytes[8] & 0x3f) << 8 | u32::from(bytes[9])
    }

    /// Its time and its number as Redis writes the id of a stream's entry: `ms-counter`.
    pub fn stream_id(self) -> String {
        format!("{}-{}", self.unix_ms(), self.counter())
    }

    /// The id of a stream's entry, with `chance` as in [`MessageId::from_parts`]. None if the text
    /// is not such an id, or its number does not fit.
    pub fn from_stream_id(text: &str, chance: u64) -> Option<MessageId> {
        let (unix_ms, counter) = text.split_once('-')?;
        let (unix_ms, counter): (u64, u32) = (unix_ms.parse().ok()?, counter.parse().ok()?);
        let fits = unix_ms >> 48 == 0 && counter < COUNTER_MAX;
        fits.then(|| MessageId::from_parts(unix_ms, counter, chance))
    }

    /// The id as a JSON string.
    pub fn quoted(self) -> String {
        format!("\"{}\"", self.0.hyphenated())
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for MessageId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<MessageId, NotAnId> {
        Uuid::try_parse(text).map(MessageId).map_err(|_| NotAnId)
    }
}

/// Makes message ids that only rise, whatever the clock does.
#[derive(Debug)]
pub struct MessageIds {
    unix_ms: u64,
    counter: u32,
    rng: Rng,
}

impl MessageIds {
    /// Ids above `last`, if there is one.
    pub fn after(last: Option<MessageId>, seed: u64) -> MessageIds {
        let unix_ms = last.map_or(0, |last| last.unix_ms() + 1);
        MessageIds { unix_ms, counter: 0, rng: Rng::seeded(seed) }
    }

    /// The next id.
    pub fn next(&mut self, now_ms: u64) -> MessageId {
        self.counter += 1;
        if now_ms > self.unix_ms || self.counter >= COUNTER_MAX {
            self.unix_ms = now_ms.max(self.unix_ms + 1);
            // In the lower half: there is room above it for every message of a millisecond.
            let start = self.rng.below(u64::from(COUNTER_MAX / 2));
            self.counter = u32::try_from(start).unwrap_or(0);
        }
        MessageId::from_parts(self.unix_ms, self.counter, self.rng.next())
    }
}

/// The request's own `id`, kept as the JSON text it came in (a string or a number).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(pub Box<str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conn_id_survives_its_text() {
        let id = ConnId { shard: ShardId(3), slot: Slot(70_000), generation: 9 };
        assert_eq!(id.to_string().parse(), Ok(id));
        for wrong in ["", "1", "1-2", "1-2-3-4", "a-b-c", "70000-1-1", "-1-2-3"] {
            assert_eq!(wrong.parse::<ConnId>(), Err(NotAnId), "{wrong:?}");
        }
    }

    #[test]
    fn a_full_name_tells_the_node() {
        let conn = ConnId { shard: ShardId(3), slot: Slot(7), generation: 9 };
        let name = ConnName::new("abc", conn);
        assert_eq!((name.to_string(), name.to_string().parse()), ("abc-3-7-9".into(), Ok(name)));
        for wrong in ["", "3-7-9", "-3-7-9", "abc-3-7", "abc-3-7-9-1", "abc"] {
            assert_eq!(wrong.parse::<ConnName>(), Err(NotAnId), "{wrong:?}");
        }
    }

    #[test]
    fn message_ids_only_rise() {
        let mut ids = MessageIds::after(None, 7);
        let mut last = ids.next(1_000);
        assert_eq!((last.unix_ms(), last.to_string().as_bytes()[14]), (1_000, b'7'));
        for step in 0..20_000_u64 {
            // The clock stands still, runs, and goes back.
            let id = ids.next(1_000 + step / 1_000 - step / 5_000);
            assert!(id > last && id.to_string() > last.to_string(), "{last} then {id}");
            last = id;
        }
        assert!(MessageIds::after(Some(last), 7).next(5) > last);
        assert_eq!(last.to_string().parse(), Ok(last));
    }

    #[test]
    fn message_ids_are_ids_of_a_stream() {
        for (unix_ms, counter) in
            [(0, 0), (1_795_176_000_123, 1), (5, COUNTER_MAX - 1), (9, 0x3fff)]
        {
            let id = MessageId::from_parts(unix_ms, counter, 0x1234_5678_9abc_def0);
            assert_eq!((id.unix_ms(), id.counter()), (unix_ms, counter));
            assert_eq!(id.stream_id(), format!("{unix_ms}-{counter}"));
            // Only 48 bits of chance are in it, so two nodes with the same bits make one id.
            let other = MessageId::from_stream_id(&id.stream_id(), 0x1234_5678_9abc << 16);
            assert_eq!(other, Some(id));
        }
        for wrong in ["", "5", "5-", "-5", "5-67108864", "281474976710656-0", "a-b"] {
            assert_eq!(MessageId::from_stream_id(wrong, 0), None, "{wrong}");
        }
    }
}
