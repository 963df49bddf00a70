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
//!
//! Imports `address`, `auth::namespace`, `id`, `limits`, `subscribers` and `wire`. Part of `state`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;

use bytes::Bytes;
use slab::Slab;

use super::ages::{Age, Ages};
use super::channel_stream::ChannelStream;
use super::people::Person;

use crate::address::AddressBlock;
use crate::auth::namespace::Namespaces;
use crate::id::{ChannelName, ConnId, Epoch, ShardId, ShardSet, Slot, UserId};
use crate::limits;
use crate::subscribers::Subscribers;
use crate::wire::command::SinceOffset;

/// What can be set about channels.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The rules by prefix.
    pub namespaces: Arc<Namespaces>,
    /// Messages a channel keeps, where its namespace says nothing.
    pub history_max: usize,
    /// Bytes of one channel's history.
    pub history_bytes_max: usize,
    /// Channels in all, and definitions in all.
    pub channels_max: usize,
    /// Channels that one connection brought into being and that are still there.
    pub per_connection_max: usize,
    /// The same of all connections of one address block, zero = no bound. `None`: a fifth of
    /// `channels_max`, and loopback is exempt.
    pub per_address_max: Option<usize>,
}

impl Settings {
    /// How many channels may exist because of an address block. None: as many as there is room for.
    fn address_max(&self, block: AddressBlock) -> Option<usize> {
        match self.per_address_max {
            Some(0) => None,
            None if block.is_loopback() => None,
            None => Some((self.channels_max / 5).max(1)),
            set @ Some(_) => set,
        }
    }
}

/// Who brings a channel into being.
#[derive(Debug, Clone, Copy)]
pub(super) struct Creator {
    /// The connection. None where it was a request.
    pub(super) conn: Option<ConnId>,
    /// What its address is counted by. None where the address is unknown.
    pub(super) block: Option<AddressBlock>,
}

/// A kept message.
#[derive(Debug, Clone)]
struct Kept {
    offset: u64,
    at_ms: u64,
    frame: Bytes,
}

/// The users in a room, or in a channel that announces them.
#[derive(Debug, Default)]
struct ServiceListing {
    users: HashMap<UserId, Place>,
    next: u64,
}

#[derive(Debug)]
struct Place {
    username: Arc<str>,
    connections: u32,
    /// Rises with each who comes, so that lists are in the order of coming.
    number: u64,
}

/// A channel.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) name: ChannelName,
    pub(super) epoch: Epoch,
    pub(super) offset: u64,
    history: VecDeque<Kept>,
    history_bytes: usize,
    history_max: usize,
    history_ms: u64,
    /// Who brought it into being, with the block only where it is counted.
    creator: Option<Creator>,
    /// Its number among the channels that nobody follows, and whether it has a history there.
    abandoned: Option<(bool, u64)>,
    /// Whether those who come and go are announced.
    pub(super) has_presence: bool,
    /// The connections that get its messages, by their keys.
    pub(super) members: Subscribers,
    /// How many of them each shard has.
    per_shard: Vec<u32>,
    pub(super) shards: ShardSet,
    roster: Option<Box<ServiceListing>>,
    /// Its stream, where nodes share it.
    pub(super) stream: Option<Box<ChannelStream>>,
    /// Tells apart the channels that used the same place one after the other.
    incarnation: u32,
}

impl Channel {
    fn add(&mut self, key: u32, shard: ShardId) {
        if !self.members.insert(Slot(key)) {
            return;
        }
        let index = usize::from(shard.0);
        if index >= self.per_shard.len() {
            self.per_shard.resize(index + 1, 0);
        }
        self.per_shard[index] += 1;
        self.shards.insert(shard);
    }

    fn remove(&mut self, key: u32, shard: ShardId) {
        if self.members.remove(Slot(key)) {
            let count = &mut self.per_shard[usize::from(shard.0)];
            *count -= 1;
            if *count == 0 {
                self.shards.remove(shard);
            }
        }
    }

    /// A connection of this user comes. Returns whether it is the user's first.
    pub(super) fn enter(&mut self, person: &Person) -> bool {
        let roster = self.roster.get_or_insert_default();
        roster.next += 1;
        let number = roster.next;
        let place = roster.users.entry(person.user_id.clone()).or_insert_with(|| Place {
            username: Arc::clone(&person.username),
            connections: 0,
            number,
        });
        place.connections += 1;
        place.connections == 1
    }

    /// A connection of this user goes. Returns whether it was the user's last.
    pub(super) fn exit(&mut self, user_id: &UserId) -> bool {
        let Some(roster) = &mut self.roster else { return false };
        let Some(place) = roster.users.get_mut(user_id) else { return false };
        place.connections -= 1;
        let is_last = place.connections == 0;
        if is_last {
            roster.users.remove(user_id);
            if roster.users.is_empty() {
                self.roster = None;
            }
        }
        is_last
    }

    /// The name of a user in it.
    pub(super) fn name_of(&self, user_id: &UserId) -> Option<&str> {
        let place = self.roster.as_ref()?.users.get(user_id)?;
        Some(&*place.username)
    }

    /// How many users are in it.
    pub(super) fn user_count(&self) -> usize {
        self.roster.as_ref().map_or(0, |roster| roster.users.len())
    }

    /// The users in it, in the order in which they came, up to a bound.
    pub(super) fn users(&self) -> Vec<(UserId, Arc<str>)> {
        let Some(roster) = &self.roster else { return Vec::new() };
        let mut all: Vec<(&UserId, &Place)> = roster.users.iter().collect();
        all.sort_unstable_by_key(|(_, place)| place.number);
        all.truncate(limits::ROOM_USERS_LISTED_MAX);
        let shown = all.into_iter().map(|(id, place)| (id.clone(), Arc::clone(&place.username)));
        shown.collect()
    }

    fn drop_oldest(&mut self) -> usize {
        let bytes = self.history.pop_front().map_or(0, |kept| kept.frame.len());
        self.history_bytes -= bytes;
        if self.history.is_empty() {
            self.history = VecDeque::new();
        }
        bytes
    }

    /// Drops what has become too old. Returns the bytes that gave back.
    fn expire(&mut self, now_ms: u64) -> usize {
        let mut bytes = 0;
        while self.history.front().is_some_and(|kept| kept.at_ms + self.history_ms <= now_ms) {
            bytes += self.drop_oldest();
        }
        bytes
    }

    /// Whether a message is in the history.
    fn keeps(&self, offset: u64) -> bool {
        self.history.front().is_some_and(|first| first.offset <= offset) && offset <= self.offset
    }

    /// The frames after an offset, up to `limit` of them.
    fn after(&self, offset: u64, limit: usize) -> Vec<Bytes> {
        let first = self.history.partition_point(|kept| kept.offset <= offset);
        self.history.range(first..).take(limit).map(|kept| kept.frame.clone()).collect()
    }

    /// Whether everything after an offset is still there.
    fn reaches_back_to(&self, offset: u64) -> bool {
        let first = self.history.front().map_or(self.offset, |kept| kept.offset - 1);
        offset <= self.offset && offset >= first
    }
}

/// A channel, for those who look at it.
#[derive(Debug, Clone)]
pub struct ChannelView {
    /// Its name.
    pub name: ChannelName,
    /// What it is for; empty where nobody said.
    pub description: Box<str>,
    /// Whether it was defined.
    pub is_defined: bool,
    /// How many connections follow it.
    pub subscribers: usize,
    /// Where it stands; none where it is only defined.
    pub position: Option<(Epoch, u64)>,
    /// The users in it, where it tells.
    pub users: Option<Vec<(UserId, Arc<str>)>>,
}

impl ChannelView {
    /// A channel of which nothing is known here.
    pub(super) fn unknown(name: ChannelName) -> ChannelView {
        ChannelView {
            name,
            description: Box::default(),
            is_defined: false,
            subscribers: 0,
            position: None,
            users: None,
        }
    }
}

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

/// Why a channel cannot come into being.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TooMany {
    /// There are too many, and each of them is followed.
    InAll,
    /// The connection has brought too many into being.
    OfConnection,
    /// The connections of the address block have brought too many into being.
    OfAddress,
}

impl TooMany {
    /// What the client is told.
    pub(super) const fn message(self) -> &'static str {
        match self {
            TooMany::InAll => "there are too many channels",
            TooMany::OfConnection => "too many channels exist because of this connection",
            TooMany::OfAddress => "too many channels exist because of this address",
        }
    }
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
    pub(super) fn define_all(&mut self, channels: Vec<(String, String)>) {
        let define = |(name, description): (String, String)| {
            (ChannelName::new(&name), description.into_boxed_str())
        };
        self.definitions = channels.into_iter().map(define).collect();
    }

    /// The defined channels, for a snapshot.
    pub(super) fn definitions(&self) -> Vec<(String, String)> {
        let text = |name: &ChannelName, description: &str| {
            (name.as_str().to_owned(), description.to_owned())
        };
        self.definitions.iter().map(|(name, description)| text(name, description)).collect()
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

/// Whether the message that an age stands for is still kept.
fn keeps(channels: &Slab<Channel>, age: &Age) -> bool {
    channels
        .get(age.place as usize)
        .is_some_and(|channel| channel.incarnation == age.incarnation && channel.keeps(age.number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn channels(history_max: usize, history_bytes_max: usize) -> Channels {
        let settings = Settings {
            namespaces: Arc::default(),
            history_max,
            history_bytes_max,
            channels_max: 50,
            per_connection_max: 20,
            per_address_max: None,
        };
        Channels::new(settings, "e-", std::iter::empty())
    }

    fn publish(channels: &mut Channels, name: &str, bytes: usize, now_ms: u64) -> (u32, u64) {
        let key = channels.find_or_new(&ChannelName::new(name), None).expect("room");
        let offset = channels.advance(key);
        channels.keep(key, &Bytes::from(vec![0; bytes]), now_ms);
        (key, offset)
    }

    fn since(channels: &Channels, key: u32, offset: u64) -> SinceOffset {
        SinceOffset { epoch: channels.get(key).epoch.as_str().into(), offset }
    }

    #[test]
    fn a_resume_is_all_or_nothing() {
        let mut channels = channels(3, 1_000);
        let mut key = 0;
        for _ in 0..5 {
            key = publish(&mut channels, "c", 10, 1_000).0;
        }
        let mut missed = |offset| {
            let since = since(&channels, key, offset);
            channels.replay(key, &since, 1_000).map(|frames| frames.len())
        };
        assert_eq!((missed(5), missed(4), missed(2)), (Some(0), Some(1), Some(3)));
        assert_eq!((missed(1), missed(0), missed(6)), (None, None, None));
        let other = SinceOffset { epoch: "other".into(), offset: 5 };
        assert_eq!(channels.replay(key, &other, 1_000), None);
        let later = 1_000 + limits::CHANNEL_HISTORY_MS_DEFAULT;
        let since = since(&channels, key, 4);
        assert_eq!(channels.replay(key, &since, later), None, "it has become too old");
    }

    #[test]
    fn a_forgotten_channel_comes_back_with_another_epoch() {
        let mut channels = channels(3, 1_000);
        let (key, _) = publish(&mut channels, "c", 10, 1_000);
        let before = since(&channels, key, 1);
        channels.sweep(1_000 + limits::CHANNEL_HISTORY_MS_DEFAULT);
        assert!(channels.is_empty() && channels.history_bytes() == 0);
        let (key, offset) = publish(&mut channels, "c", 10, 9_000_000);
        assert_eq!((offset, channels.replay(key, &before, 9_000_000)), (1, None));
    }

    /// Random publishing into random channels, and dropping of the oldest of all, against a flat list
    /// of what must be kept.
    #[test]
    fn histories_stay_within_their_bounds() {
        for seed in 0..20 {
            let mut rng = Rng::seeded(seed);
            let mut channels = channels(8, 700);
            let mut model: VecDeque<(u64, u64, usize)> = VecDeque::new();
            for step in 0..3_000 {
                if rng.below(10) == 0 {
                    channels.drop_oldest_history();
                    model.pop_front();
                } else {
                    // Now and then one that is larger than a history may be.
                    let span = if rng.below(20) == 0 { 1_000 } else { 200 };
                    let (which, bytes) = (rng.below(12), 1 + rng.below(span) as usize);
                    let (_, offset) = publish(&mut channels, &format!("c{which}"), bytes, step);
                    model.push_back((which, offset, bytes));
                    let of_this = |model: &VecDeque<(u64, u64, usize)>| {
                        let of_this = model.iter().filter(|one| one.0 == which);
                        of_this.fold((0, 0), |(count, bytes), one| (count + 1, bytes + one.2))
                    };
                    while of_this(&model).0 > 8 || of_this(&model).1 > 700 {
                        let oldest = model.iter().position(|one| one.0 == which).expect("there");
                        model.remove(oldest);
                    }
                }
                for which in 0..12 {
                    let Some(key) = channels.find(&ChannelName::new(&format!("c{which}"))) else {
                        continue;
                    };
                    let want = model.iter().filter(|one| one.0 == which).count();
                    assert_eq!(channels.get(key).after(0, usize::MAX).len(), want, "seed {seed}");
                }
                assert_eq!(channels.history_bytes(), model.iter().map(|one| one.2).sum::<usize>());
                assert!(channels.ages.len() <= 2_048, "entries of what is gone pile up");
            }
        }
    }

    fn conn(slot: u32) -> Creator {
        from(slot, None)
    }

    fn from(slot: u32, block: Option<AddressBlock>) -> Creator {
        let conn = ConnId { shard: ShardId(0), slot: Slot(slot), generation: 0 };
        Creator { conn: Some(conn), block }
    }

    fn block(text: &str) -> AddressBlock {
        AddressBlock::of(text.parse().expect("an address"))
    }

    #[test]
    fn what_nobody_follows_gives_way_and_what_is_followed_does_not() {
        let mut channels = channels(3, 1_000);
        let name = |n: usize| ChannelName::new(&format!("c{n}"));
        channels.define(name(0), "");
        for n in 0..50 {
            publish(&mut channels, name(n).as_str(), 10, 1_000);
        }
        let followed = channels.find(&name(1)).expect("there");
        channels.add_member(followed, 7, ShardId(0));
        publish(&mut channels, name(2).as_str(), 10, 1_001);
        let key = channels.find_or_new(&name(50), None).expect("one gives way");
        assert_eq!(channels.find(&name(3)), None, "it was used last the longest ago");
        let there = |channels: &Channels, n| channels.find(&name(n)).is_some();
        assert!([0, 1, 2, 4].iter().all(|&n| there(&channels, n)));
        // One without history goes before any with one.
        channels.find_or_new(&name(51), None).expect("one gives way");
        assert!(there(&channels, 4) && !there(&channels, 50) && channels.forgotten() == 2);
        drop(channels.delete(channels.find(&name(51)).expect("there")));
        for n in 0..channels.len() + 50 {
            if let Some(key) = channels.find(&name(n)) {
                channels.add_member(key, 9, ShardId(0));
            }
        }
        channels.find_or_new(&name(90), None).expect("room for one");
        channels.add_member(channels.find(&name(90)).expect("there"), 9, ShardId(0));
        assert_eq!(channels.find_or_new(&name(91), None), Err(TooMany::InAll));
        channels.remove_member(followed, 9, ShardId(0));
        assert_eq!(channels.find_or_new(&name(91), None), Err(TooMany::InAll), "7 follows it");
        channels.remove_member(followed, 7, ShardId(0));
        assert!(channels.find_or_new(&name(91), None).is_ok() && !there(&channels, 1));
        let _ = key;
    }

    #[test]
    fn a_connection_brings_so_many_into_being_and_gets_them_back() {
        let mut channels = channels(3, 1_000);
        let name = |n: usize| ChannelName::new(&format!("c{n}"));
        for n in 0..20 {
            assert!(channels.find_or_new(&name(n), Some(conn(1))).is_ok());
        }
        let one_more = |channels: &mut Channels, who| channels.find_or_new(&name(20), Some(who));
        assert_eq!(one_more(&mut channels, conn(1)), Err(TooMany::OfConnection));
        assert!(channels.find_or_new(&name(3), Some(conn(1))).is_ok(), "it is there");
        assert!(one_more(&mut channels, conn(2)).is_ok(), "another one may");
        channels.sweep(1);
        assert!(channels.is_empty() && channels.created.is_empty());
        assert!(one_more(&mut channels, conn(1)).is_ok());
    }

    /// How many of thirty connections of a block may each bring a channel into being.
    fn admitted(per_address_max: Option<usize>, address: &str) -> usize {
        let mut channels = channels(3, 1_000);
        channels.settings.per_address_max = per_address_max;
        let may = |n: &u32| {
            let name = ChannelName::new(&format!("c{n}"));
            channels.find_or_new(&name, Some(from(*n, Some(block(address))))).is_ok()
        };
        (0..30).filter(may).count()
    }

    #[test]
    fn an_address_may_fill_a_fifth_unless_set_and_loopback_all_unless_set() {
        for (per_address_max, theirs, ours) in [(None, 10, 30), (Some(7), 7, 7), (Some(0), 30, 30)]
        {
            assert_eq!(admitted(per_address_max, "192.0.2.1"), theirs, "{per_address_max:?}");
            assert_eq!(admitted(per_address_max, "127.0.0.1"), ours, "{per_address_max:?}");
        }
    }

    /// Random channels that come from random connections of a few blocks and go again, against a
    /// list of who brought which into being.
    #[test]
    fn the_connections_of_an_address_share_a_bound_and_get_it_back() {
        // The first four share a /64; one address of IPv4 is there in both spellings.
        let blocks = ["2001:db8::1", "2001:db8::2", "2001:db8::3:1", "2001:db8::4"]
            .into_iter()
            .chain(["192.0.2.1", "192.0.2.2", "::ffff:192.0.2.1", "2001:db8:0:1::1"])
            .map(block)
            .collect::<Vec<_>>();
        let mut refused = 0;
        for seed in 0..20 {
            let mut rng = Rng::seeded(seed);
            let mut channels = channels(3, 1_000);
            channels.settings.per_connection_max = 5;
            channels.settings.per_address_max = Some(8);
            let mut model: HashMap<u64, u32> = HashMap::new();
            for _ in 0..2_000 {
                let (which, slot) = (rng.below(40), rng.below(8) as u32);
                let name = ChannelName::new(&format!("c{which}"));
                let block = blocks[slot as usize];
                if rng.below(3) == 0 {
                    if let Some(key) = channels.find(&name) {
                        drop(channels.delete(key));
                    }
                    model.remove(&which);
                    continue;
                }
                let of_conn = model.values().filter(|&&one| one == slot).count();
                let of_block = model.values().filter(|&&one| blocks[one as usize] == block).count();
                let found = channels.find_or_new(&name, Some(from(slot, Some(block))));
                let want = match () {
                    () if model.contains_key(&which) => None,
                    () if of_conn >= 5 => Some(TooMany::OfConnection),
                    () if of_block >= 8 => Some(TooMany::OfAddress),
                    () => None,
                };
                assert_eq!(found.err(), want, "seed {seed}");
                refused += usize::from(want == Some(TooMany::OfAddress));
                if want.is_none() {
                    model.entry(which).or_insert(slot);
                }
            }
            channels.sweep(1);
            assert!(channels.created.is_empty() && channels.created_from.is_empty());
        }
        assert!(refused > 100, "{refused}");
    }

    #[test]
    fn a_user_is_in_a_room_once() {
        let mut channels = channels(8, 1_000);
        let key = channels.find_or_new(&ChannelName::of_room("r"), None).expect("room");
        let room = channels.get_mut(key);
        let person = |id: &str| Person { user_id: UserId::new(id), username: id.into() };
        assert!(room.enter(&person("b")) && room.enter(&person("a")) && !room.enter(&person("b")));
        let names: Vec<String> = room.users().iter().map(|(id, _)| id.to_string()).collect();
        assert_eq!(names, ["b", "a"]);
        assert!(!room.exit(&UserId::new("b")) && room.exit(&UserId::new("b")));
        assert!(!room.exit(&UserId::new("nobody")));
        assert_eq!(room.user_count(), 1);
    }
}
