//! Channels and rooms: who follows them, and what was last said in them.
//!
//! A message gets the channel's next offset, is framed once, and that frame is what subscribers are
//! sent, what the history keeps and what a returning subscriber is replayed.
//!
//! # Promises
//!
//! * Offsets of a channel rise by one a message, under one epoch. A channel that was forgotten or
//!   deleted comes back with a new epoch.
//! * A resume is all or nothing: every message missed, or word that some are gone.
//! * A history stays within its bounds in number and bytes; `State` keeps all of them together within
//!   another.
//! * Channels count against the connection, and the address block, that brought them into being, until
//!   they are forgotten: neither one socket nor the many sockets of one host fill the table.
//! * A channel without subscribers and history is forgotten within a second, and at once where there
//!   are too many. Then one that nobody follows, the one that was used last the longest ago, gives way
//!   too: nobody is kept out by what others left behind.

pub mod bounds;
pub mod view;

pub(super) mod channel;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;

use bytes::Bytes;
use slab::Slab;

use super::ages::{Age, Ages};
use crate::address::AddressBlock;
use crate::id::{ChannelName, ConnId, Epoch, ShardId, ShardSet};
use crate::limits;
use crate::subscribers::Subscribers;
use crate::wire::command::SinceOffset;
use bounds::{Creator, Settings, TooMany};
use channel::{Channel, Kept, keeps};
use view::ChannelView;

/// The table.
///
/// # Invariants
///
/// 1. `by_name` names exactly the channels.
/// 2. `bytes` is the sum of all kept frames, as `history_bytes` is of a channel's.
/// 3. `ages` has an age for each kept message.
/// 4. `idle` names each channel of this node alone that has no followers and no history, `abandoned`
///    each that has no followers and a history; both by when it was last used.
/// 5. `created` counts the channels that each connection brought into being, `created_from` those of
///    each address block that has a bound; neither has an entry without a channel.
#[derive(Debug)]
#[allow(clippy::struct_field_names, reason = "the table of channels holds channels")]
pub struct Channels {
    settings: Settings,
    channels: Slab<Channel>,
    by_name: HashMap<ChannelName, u32>,
    definitions: BTreeMap<ChannelName, Box<str>>,
    /// Names whose definition is on its way to the disk.
    pub(super) reserved: Vec<ChannelName>,
    epoch: Box<str>,
    incarnation: u32,
    bytes: usize,
    ages: Ages,
    idle: BTreeMap<u64, u32>,
    abandoned: BTreeMap<u64, u32>,
    last_use: u64,
    created: HashMap<ConnId, usize>,
    created_from: HashMap<AddressBlock, usize>,
    forgotten: u64,
    sweep_at_ms: u64,
    sweep_next: usize,
}

impl Channels {
    /// A table without messages. `epoch` begins the epochs of all channels.
    pub(super) fn new(
        settings: Settings,
        epoch: &str,
        definitions: impl Iterator<Item = (String, String)>,
    ) -> Channels {
        let definitions = definitions
            .map(|(name, description)| (ChannelName::new(&name), description.into_boxed_str()))
            .collect();
        Channels {
            settings,
            channels: Slab::new(),
            by_name: HashMap::new(),
            definitions,
            reserved: Vec::new(),
            epoch: epoch.into(),
            incarnation: 0,
            bytes: 0,
            ages: Ages::default(),
            idle: BTreeMap::new(),
            abandoned: BTreeMap::new(),
            last_use: 0,
            created: HashMap::new(),
            created_from: HashMap::new(),
            forgotten: 0,
            sweep_at_ms: 0,
            sweep_next: 0,
        }
    }

    /// How many channels are live.
    pub fn len(&self) -> usize {
        self.channels.len()
    }

    /// Whether none is.
    #[cfg(any(test, feature = "internals"))]
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    /// Bytes of all kept messages.
    pub fn history_bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn find(&self, name: &ChannelName) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    pub(super) fn get(&self, key: u32) -> &Channel {
        &self.channels[key as usize]
    }

    pub(super) fn get_mut(&mut self, key: u32) -> &mut Channel {
        &mut self.channels[key as usize]
    }

    /// How many channels were forgotten for others.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// The channel of a name. Where it is new, it counts against the bounds of `creator`.
    pub(super) fn find_or_new(
        &mut self,
        name: &ChannelName,
        creator: Option<Creator>,
    ) -> Result<u32, TooMany> {
        if let Some(key) = self.find(name) {
            return Ok(key);
        }
        let creator = match creator {
            Some(creator) => Some(self.admit(creator)?),
            None => None,
        };
        while self.channels.len() >= self.settings.channels_max {
            if !self.give_way() {
                return Err(TooMany::InAll);
            }
        }
        if let Some(Creator { conn, block }) = creator {
            if let Some(conn) = conn {
                *self.created.entry(conn).or_default() += 1;
            }
            if let Some(block) = block {
                *self.created_from.entry(block).or_default() += 1;
            }
        }
        self.incarnation = self.incarnation.wrapping_add(1);
        let rules = self.settings.namespaces.of(name.as_str());
        let channel = Channel {
            name: name.clone(),
            epoch: Epoch::new(&format!("{}{:x}", self.epoch, self.incarnation)),
            offset: 0,
            history: VecDeque::new(),
            history_bytes: 0,
            creator,
            abandoned: None,
            history_max: rules.history_max.unwrap_or(self.settings.history_max),
            history_ms: rules.history_ms,
            has_presence: rules.presence,
            members: Subscribers::default(),
            per_shard: Vec::new(),
            shards: ShardSet::default(),
            roster: None,
            stream: None,
            incarnation: self.incarnation,
        };
        let key = u32::try_from(self.channels.insert(channel)).expect("channels are below 2^32");
        self.by_name.insert(name.clone(), key);
        self.note_use(key);
        Ok(key)
    }

    /// Checks that a creator may bring one more channel into being. Returns it as it is counted:
    /// without its block where that has no bound.
    fn admit(&self, creator: Creator) -> Result<Creator, TooMany> {
        let created = creator.conn.and_then(|conn| self.created.get(&conn)).copied().unwrap_or(0);
        if created >= self.settings.per_connection_max {
            return Err(TooMany::OfConnection);
        }
        let Some(block) = creator.block else { return Ok(creator) };
        let Some(address_max) = self.settings.address_max(block) else {
            return Ok(Creator { block: None, ..creator });
        };
        if self.created_from.get(&block).is_some_and(|&count| count >= address_max) {
            return Err(TooMany::OfAddress);
        }
        Ok(creator)
    }

    /// Adds a connection to a channel.
    pub(super) fn add_member(&mut self, key: u32, conn: u32, shard: ShardId) {
        self.get_mut(key).add(conn, shard);
        self.note_use(key);
    }

    /// Takes a connection out of a channel.
    pub(super) fn remove_member(&mut self, key: u32, conn: u32, shard: ShardId) {
        self.get_mut(key).remove(conn, shard);
        self.note_use(key);
    }

    /// Notes that a channel was used, or that its followers or its history came or went.
    pub(super) fn note_use(&mut self, key: u32) {
        let channel = &mut self.channels[key as usize];
        let is_abandoned = channel.members.is_empty() && channel.stream.is_none();
        let has_history = !channel.history.is_empty();
        match channel.abandoned.take() {
            Some((true, number)) => _ = self.abandoned.remove(&number),
            Some((false, number)) => _ = self.idle.remove(&number),
            None => {}
        }
        if is_abandoned {
            self.last_use += 1;
            channel.abandoned = Some((has_history, self.last_use));
            let list = if has_history { &mut self.abandoned } else { &mut self.idle };
            list.insert(self.last_use, key);
        }
    }

    /// Forgets a channel that nobody follows: one without history, or else the one that was used
    /// last the longest ago and is not defined.
    fn give_way(&mut self) -> bool {
        let is_defined = |key: &u32| self.is_defined(&self.get(*key).name);
        let mut abandoned = self.abandoned.values().take(limits::ABANDONED_LOOK_MAX).copied();
        let idle = self.idle.values().next().copied();
        let Some(key) = idle.or_else(|| abandoned.find(|key| !is_defined(key))) else {
            return false;
        };
        self.forgotten += 1;
        drop(self.delete(key));
        true
    }

    /// Empties a channel, which goes on under an epoch.
    pub(super) fn restart(&mut self, key: u32, epoch: Epoch) {
        self.incarnation = self.incarnation.wrapping_add(1);
        let channel = &mut self.channels[key as usize];
        (channel.epoch, channel.offset) = (epoch, 0);
        channel.incarnation = self.incarnation;
        channel.history = VecDeque::new();
        self.bytes -= std::mem::take(&mut channel.history_bytes);
        self.note_use(key);
    }

    /// The places of all live channels.
    pub(super) fn keys(&self) -> impl Iterator<Item = u32> {
        self.channels.iter().filter_map(|(key, _)| u32::try_from(key).ok())
    }

    /// How many messages a channel keeps, and for how many milliseconds.
    pub(super) fn keeping(&self, name: &ChannelName) -> (usize, u64) {
        let rules = self.settings.namespaces.of(name.as_str());
        (rules.history_max.unwrap_or(self.settings.history_max), rules.history_ms)
    }

    /// How many bytes of messages a channel keeps.
    pub(super) fn keeping_bytes(&self) -> usize {
        self.settings.history_bytes_max
    }

    /// Whether a channel announces who comes and goes.
    pub(super) fn tells(&self, name: &ChannelName) -> bool {
        self.settings.namespaces.of(name.as_str()).presence
    }

    /// An epoch that no channel has had.
    pub(super) fn fresh_epoch(&mut self) -> String {
        self.incarnation = self.incarnation.wrapping_add(1);
        format!("{}{:x}", self.epoch, self.incarnation)
    }

    /// Defines the channels of a snapshot, and no others.
    pub(super) fn define_all(&mut self, channels: Vec<(ChannelName, Box<str>)>) {
        self.definitions = channels.into_iter().collect();
    }

    /// The defined channels, for a snapshot.
    pub(super) fn definitions(&self) -> Vec<(ChannelName, Box<str>)> {
        self.definitions.iter().map(|(name, text)| (name.clone(), text.clone())).collect()
    }

    /// Gives the channel's next offset.
    pub(super) fn advance(&mut self, key: u32) -> u64 {
        let channel = self.get_mut(key);
        channel.offset += 1;
        channel.offset
    }

    /// Keeps the frame of the channel's newest message. One that is larger than a history may be takes
    /// all before it along: a history has no gaps.
    pub(super) fn keep(&mut self, key: u32, frame: &Bytes, now_ms: u64) {
        let bytes_max = self.settings.history_bytes_max;
        let channel = &mut self.channels[key as usize];
        if channel.history_max == 0 {
            return;
        }
        let mut freed = channel.expire(now_ms);
        let (offset, incarnation) = (channel.offset, channel.incarnation);
        channel.history.push_back(Kept { offset, at_ms: now_ms, frame: frame.clone() });
        channel.history_bytes += frame.len();
        while channel.history.len() > channel.history_max || channel.history_bytes > bytes_max {
            freed += channel.drop_oldest();
        }
        self.bytes = self.bytes + frame.len() - freed;
        let channels = &self.channels;
        let age = Age { at_ms: now_ms, place: key, incarnation, number: offset };
        self.ages.push(age, |age| keeps(channels, age));
        self.note_use(key);
    }

    /// When the oldest message of all was kept, in milliseconds since the Unix epoch.
    pub(super) fn oldest_history_ms(&mut self) -> Option<u64> {
        let channels = &self.channels;
        self.ages.oldest(|age| keeps(channels, age)).map(|age| age.at_ms)
    }

    /// Drops the oldest message of all.
    pub(super) fn drop_oldest_history(&mut self) {
        let channels = &self.channels;
        if let Some(age) = self.ages.oldest(|age| keeps(channels, age)) {
            self.bytes -= self.channels[age.place as usize].drop_oldest();
            self.note_use(age.place);
        }
    }

    /// What a subscriber missed since a position: none where some of it is gone.
    pub(super) fn replay(
        &mut self,
        key: u32,
        since: &SinceOffset,
        now_ms: u64,
    ) -> Option<Vec<Bytes>> {
        self.expire(key, now_ms);
        let channel = self.get(key);
        (channel.epoch.as_str() == &*since.epoch && channel.reaches_back_to(since.offset))
            .then(|| channel.after(since.offset, usize::MAX))
    }

    /// The kept messages after an offset.
    pub(super) fn history(
        &mut self,
        key: u32,
        after: u64,
        limit: usize,
        now_ms: u64,
    ) -> Vec<Bytes> {
        self.expire(key, now_ms);
        self.get(key).after(after, limit)
    }

    fn expire(&mut self, key: u32, now_ms: u64) {
        let freed = self.channels[key as usize].expire(now_ms);
        if freed > 0 {
            self.bytes -= freed;
            self.note_use(key);
        }
    }

    /// Whether a channel was defined, or is about to be.
    pub(super) fn is_defined(&self, name: &ChannelName) -> bool {
        self.definitions.contains_key(name) || self.reserved.contains(name)
    }

    /// Whether one more channel may be defined.
    pub(super) fn may_define(&self) -> bool {
        self.definitions.len() + self.reserved.len() < self.settings.channels_max
    }

    /// Sets a channel's definition.
    pub(super) fn define(&mut self, name: ChannelName, description: &str) {
        self.definitions.insert(name, description.into());
    }

    /// Takes a channel's definition away.
    pub(super) fn undefine(&mut self, name: &ChannelName) {
        self.definitions.remove(name);
    }

    /// Takes a live channel out, with its history.
    pub(super) fn delete(&mut self, key: u32) -> Channel {
        let channel = self.channels.remove(key as usize);
        self.by_name.remove(&channel.name);
        self.bytes -= channel.history_bytes;
        match channel.abandoned {
            Some((true, number)) => _ = self.abandoned.remove(&number),
            Some((false, number)) => _ = self.idle.remove(&number),
            None => {}
        }
        if let Some(Creator { conn, block }) = channel.creator {
            if let Some(conn) = conn {
                give_back(&mut self.created, &conn);
            }
            if let Some(block) = block {
                give_back(&mut self.created_from, &block);
            }
        }
        channel
    }

    /// One channel as others see it.
    pub(super) fn view(&self, name: &ChannelName) -> Option<ChannelView> {
        let live = self.find(name).map(|key| self.get(key));
        let definition = self.definitions.get(name);
        if live.is_none() && definition.is_none() {
            return None;
        }
        let tells = live.is_some_and(|channel| channel.has_presence);
        Some(ChannelView {
            name: name.clone(),
            description: definition.cloned().unwrap_or_default(),
            is_defined: definition.is_some(),
            subscribers: live.map_or(0, |channel| channel.members.len()),
            position: live.map(|channel| (channel.epoch.clone(), channel.offset)),
            users: tells.then(|| live.map(Channel::users).unwrap_or_default()),
        })
    }

    /// Defined and live channels, by name.
    pub(super) fn list(&self) -> Vec<ChannelView> {
        let mut names: Vec<&ChannelName> = self.definitions.keys().collect();
        names.extend(self.by_name.keys().filter(|name| !self.definitions.contains_key(*name)));
        names.sort_unstable();
        names.truncate(limits::LISTED_MAX);
        let views = names.into_iter().filter_map(|name| self.view(name));
        views.map(|view| ChannelView { users: None, ..view }).collect()
    }

    /// When the next look for forgotten channels is due.
    pub(super) fn next_sweep_ms(&self) -> Option<u64> {
        (!self.channels.is_empty()).then_some(self.sweep_at_ms)
    }

    /// Looks at some channels and forgets those that nobody needs.
    pub(super) fn sweep(&mut self, now_ms: u64) {
        if now_ms < self.sweep_at_ms {
            return;
        }
        self.sweep_at_ms = now_ms + limits::CHANNEL_SWEEP_MS;
        let first = self.sweep_next;
        let keys: Vec<usize> = self
            .channels
            .iter()
            .map(|(key, _)| key)
            .skip_while(|&key| key < first)
            .take(limits::CHANNEL_SWEEP_MAX)
            .collect();
        self.sweep_next = match keys.last() {
            Some(&last) if keys.len() == limits::CHANNEL_SWEEP_MAX => last + 1,
            _ => 0,
        };
        for key in keys {
            self.expire(u32::try_from(key).unwrap_or(u32::MAX), now_ms);
        }
        // Those of all nodes are not among them: they are left at a time of their own.
        let idle = self.idle.values().copied().take(limits::CHANNEL_SWEEP_MAX);
        for key in idle.collect::<Vec<_>>() {
            drop(self.delete(key));
        }
        if self.channels.is_empty() {
            self.channels.shrink_to_fit();
            self.by_name.shrink_to_fit();
            self.ages = Ages::default();
        }
    }
}

/// Takes one off a count, and the count away with the last one.
fn give_back<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}
