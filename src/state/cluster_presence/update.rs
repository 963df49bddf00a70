//! What nodes tell each other of their people, as the log carries it; and what each node has told.
//!
//! The JSON of an update and of a snapshot is a format: nodes of the release before read it.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::{ChannelName, UserId};
use crate::state::people::Person;

/// What a node tells of its people.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceUpdate {
    /// User, name, connections and since when in milliseconds since the Unix epoch. Without
    /// connections the user is offline there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<(UserId, String, u32, u64)>,
    /// Channel and followers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<(ChannelName, u32)>,
    /// Channel, user, name and since when; without a time the user has left.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rooms: Vec<(ChannelName, UserId, String, Option<u64>)>,
    /// Users seen for the first time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub known: Vec<UserId>,
}

impl PresenceUpdate {
    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        *self == PresenceUpdate::default()
    }
}

/// What all nodes know of people, for one that joins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceSnapshot {
    /// Each node's facts.
    #[serde(default)]
    pub nodes: Vec<(String, PresenceUpdate)>,
    /// The defined channels, with what they are for.
    #[serde(default)]
    pub channels: Vec<(ChannelName, Box<str>)>,
    /// The users ever seen, where no database has them.
    #[serde(default)]
    pub known: Vec<UserId>,
}

/// A user online at a node.
#[derive(Debug, Clone)]
pub(super) struct Presence {
    pub(super) username: Arc<str>,
    pub(super) connections: u32,
    pub(super) since_ms: u64,
}

/// Somebody in a room.
#[derive(Debug, Clone)]
pub(in crate::state) struct Place {
    pub(in crate::state) username: Arc<str>,
    pub(in crate::state) since_ms: u64,
}

/// What one node has told.
#[derive(Debug, Default)]
pub(super) struct NodePresence {
    pub(super) users: HashMap<UserId, Presence>,
    pub(super) channels: HashMap<ChannelName, u32>,
    pub(super) rooms: HashMap<ChannelName, HashMap<UserId, Place>>,
}

impl NodePresence {
    /// All of it, for a node that joins.
    pub(super) fn to_update(&self) -> PresenceUpdate {
        let user = |(user, one): (&UserId, &Presence)| {
            (user.clone(), one.username.to_string(), one.connections, one.since_ms)
        };
        let in_room = |(channel, room): (&ChannelName, &HashMap<UserId, Place>)| {
            let place = |(user, place): (&UserId, &Place)| {
                let name = place.username.to_string();
                (channel.clone(), user.clone(), name, Some(place.since_ms))
            };
            room.iter().map(place).collect::<Vec<_>>()
        };
        PresenceUpdate {
            users: self.users.iter().map(user).collect(),
            channels: self
                .channels
                .iter()
                .map(|(channel, count)| (channel.clone(), *count))
                .collect(),
            rooms: self.rooms.iter().flat_map(in_room).collect(),
            known: Vec::new(),
        }
    }

    /// Whether a user is in a room there; without a room, whether they are online.
    pub(super) fn has(&self, room: Option<&ChannelName>, user_id: &UserId) -> bool {
        match room {
            None => self.users.contains_key(user_id),
            Some(room) => self.rooms.get(room).is_some_and(|room| room.contains_key(user_id)),
        }
    }

    /// Who is online there, and who is in which room.
    pub(super) fn everyone(&self) -> impl Iterator<Item = (Option<ChannelName>, Person)> {
        let person = |user_id: &UserId, username: &Arc<str>| Person {
            user_id: user_id.clone(),
            username: Arc::clone(username),
        };
        let online = self.users.iter().map(move |(user, one)| (None, person(user, &one.username)));
        let in_rooms = self.rooms.iter().flat_map(move |(room, places)| {
            places
                .iter()
                .map(move |(user, place)| (Some(room.clone()), person(user, &place.username)))
        });
        online.chain(in_rooms)
    }
}
