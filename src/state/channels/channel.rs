//! One channel: who follows it, who is in it, and its history.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use slab::Slab;

use super::bounds::Creator;
use crate::id::{ChannelName, Epoch, ShardId, ShardSet, Slot, UserId};
use crate::limits;
use crate::state::ages::Age;
use crate::state::channel_stream::ChannelStream;
use crate::state::people::Person;
use crate::subscribers::Subscribers;

/// A kept message.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) offset: u64,
    pub(super) at_ms: u64,
    pub(super) frame: Bytes,
}

/// The users in a room, or in a channel that announces them.
#[derive(Debug, Default)]
pub(super) struct Roster {
    users: HashMap<UserId, RoomUser>,
    next: u64,
}

#[derive(Debug)]
struct RoomUser {
    username: Arc<str>,
    connections: u32,
    /// Rises with each who comes, so that lists are in the order of coming.
    number: u64,
}

/// A channel.
#[derive(Debug)]
pub(in crate::state) struct Channel {
    pub(in crate::state) name: ChannelName,
    pub(in crate::state) epoch: Epoch,
    pub(in crate::state) offset: u64,
    pub(super) history: VecDeque<Kept>,
    pub(super) history_bytes: usize,
    pub(super) history_max: usize,
    pub(super) history_ms: u64,
    /// Who brought it into being, with the block only where it is counted.
    pub(super) creator: Option<Creator>,
    /// Its number among the channels that nobody follows, and whether it has a history there.
    pub(super) abandoned: Option<(bool, u64)>,
    /// Whether those who come and go are announced.
    pub(in crate::state) has_presence: bool,
    /// The connections that get its messages, by their keys.
    pub(in crate::state) members: Subscribers,
    /// How many of them each shard has.
    pub(super) per_shard: Vec<u32>,
    pub(in crate::state) shards: ShardSet,
    pub(super) roster: Option<Box<Roster>>,
    /// Its stream, where nodes share it.
    pub(in crate::state) stream: Option<Box<ChannelStream>>,
    /// Tells apart the channels that used the same place one after the other.
    pub(super) incarnation: u32,
}

impl Channel {
    pub(super) fn add(&mut self, key: u32, shard: ShardId) {
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

    pub(super) fn remove(&mut self, key: u32, shard: ShardId) {
        if self.members.remove(Slot(key)) {
            let count = &mut self.per_shard[usize::from(shard.0)];
            *count -= 1;
            if *count == 0 {
                self.shards.remove(shard);
            }
        }
    }

    /// A connection of this user comes. Returns whether it is the user's first.
    pub(in crate::state) fn enter(&mut self, person: &Person) -> bool {
        let roster = self.roster.get_or_insert_default();
        roster.next += 1;
        let number = roster.next;
        let place = roster.users.entry(person.user_id.clone()).or_insert_with(|| RoomUser {
            username: Arc::clone(&person.username),
            connections: 0,
            number,
        });
        place.connections += 1;
        place.connections == 1
    }

    /// A connection of this user goes. Returns whether it was the user's last.
    pub(in crate::state) fn exit(&mut self, user_id: &UserId) -> bool {
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
    pub(in crate::state) fn name_of(&self, user_id: &UserId) -> Option<&str> {
        let place = self.roster.as_ref()?.users.get(user_id)?;
        Some(&*place.username)
    }

    /// How many users are in it.
    pub(in crate::state) fn user_count(&self) -> usize {
        self.roster.as_ref().map_or(0, |roster| roster.users.len())
    }

    /// The users in it, in the order in which they came, up to a bound.
    pub(in crate::state) fn users(&self) -> Vec<(UserId, Arc<str>)> {
        let Some(roster) = &self.roster else { return Vec::new() };
        let mut all: Vec<(&UserId, &RoomUser)> = roster.users.iter().collect();
        all.sort_unstable_by_key(|(_, place)| place.number);
        all.truncate(limits::ROOM_USERS_LISTED_MAX);
        let shown = all.into_iter().map(|(id, place)| (id.clone(), Arc::clone(&place.username)));
        shown.collect()
    }

    pub(super) fn drop_oldest(&mut self) -> usize {
        let bytes = self.history.pop_front().map_or(0, |kept| kept.frame.len());
        self.history_bytes -= bytes;
        if self.history.is_empty() {
            self.history = VecDeque::new();
        }
        bytes
    }

    /// Drops what has become too old. Returns the bytes that gave back.
    pub(super) fn expire(&mut self, now_ms: u64) -> usize {
        let mut bytes = 0;
        while self.history.front().is_some_and(|kept| kept.at_ms + self.history_ms <= now_ms) {
            bytes += self.drop_oldest();
        }
        bytes
    }

    /// Whether a message is in the history.
    pub(super) fn keeps(&self, offset: u64) -> bool {
        self.history.front().is_some_and(|first| first.offset <= offset) && offset <= self.offset
    }

    /// The frames after an offset, up to `limit` of them.
    pub(super) fn after(&self, offset: u64, limit: usize) -> Vec<Bytes> {
        let first = self.history.partition_point(|kept| kept.offset <= offset);
        self.history.range(first..).take(limit).map(|kept| kept.frame.clone()).collect()
    }

    /// Whether everything after an offset is still there.
    pub(super) fn reaches_back_to(&self, offset: u64) -> bool {
        let first = self.history.front().map_or(self.offset, |kept| kept.offset - 1);
        offset <= self.offset && offset >= first
    }
}

/// Whether the message that an age stands for is still kept.
pub(super) fn keeps(channels: &Slab<Channel>, age: &Age) -> bool {
    channels
        .get(age.place as usize)
        .is_some_and(|channel| channel.incarnation == age.incarnation && channel.keeps(age.number))
}
