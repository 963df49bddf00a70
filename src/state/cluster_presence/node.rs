//! The people of one node, as it has told.
//!
//! Imports `id` and its siblings. Part of `state::cluster_presence`.

use std::collections::HashMap;
use std::sync::Arc;

use super::update::PresenceUpdate;
use crate::id::{ChannelName, UserId};

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
            (user.as_str().to_owned(), one.username.to_string(), one.connections, one.since_ms)
        };
        let in_room = |(channel, room): (&ChannelName, &HashMap<UserId, Place>)| {
            let place = |(user, place): (&UserId, &Place)| {
                let (channel, user) = (channel.as_str().to_owned(), user.as_str().to_owned());
                (channel, user, place.username.to_string(), Some(place.since_ms))
            };
            room.iter().map(place).collect::<Vec<_>>()
        };
        let channel =
            |(channel, count): (&ChannelName, &u32)| (channel.as_str().to_owned(), *count);
        PresenceUpdate {
            users: self.users.iter().map(user).collect(),
            channels: self.channels.iter().map(channel).collect(),
            rooms: self.rooms.iter().flat_map(in_room).collect(),
            known: Vec::new(),
        }
    }
}
