//! Chat rooms: the users in each, and how the client joins again after a reconnect.
//!
//! Messages of room `r` come over channel `chat:r`, with its history. This module keeps the users alone.
//!
//! Imports `error`, `event`, `frame` and `state::subscription`. Imported by `state`.

use std::collections::BTreeMap;

use crate::error::Error;
use crate::event::Person;
use crate::frame::Frame;
use crate::state::subscription::{Need, Next, SubscriptionTable};

/// The users of a room, by id, with their names.
type Users = BTreeMap<String, String>;

/// The next request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RoomRequest {
    Join(Box<str>),
    Leave(Box<str>),
}

/// Every room that a handle wants to be in.
#[derive(Debug, Default)]
pub(crate) struct RoomTable {
    pub(crate) subscriptions: SubscriptionTable<Box<str>, Users>,
}

/// The channel of a room.
pub(crate) fn channel_of(room: &str) -> String {
    format!("chat:{room}")
}

impl RoomTable {
    /// The next request. It counts as sent. A room is entered when its channel has been requested,
    /// so that no message in it is missed.
    pub(crate) fn next_request(&mut self, is_heard: impl Fn(&str) -> bool) -> Option<RoomRequest> {
        let next = self.subscriptions.next(|name, room| match room.wanted {
            0 => Need::Forgotten,
            _ if is_heard(name) => Need::Subscribed,
            _ => Need::Later,
        })?;
        Some(match next {
            Next::Subscribe(name) => RoomRequest::Join(name),
            Next::Unsubscribe(name) => RoomRequest::Leave(name),
        })
    }

    /// The answer to `join`.
    pub(crate) fn joined(&mut self, name: &str, frame: Frame) {
        let Some(room) = self.subscriptions.confirmed(name) else { return };
        let users = frame.users.unwrap_or_default().into_iter();
        room.value = users.map(|user| (user.user_id, user.username)).collect();
    }

    /// `user.joined` or `user.left` of a room's channel.
    pub(crate) fn event(&mut self, channel: &str, frame: &Frame) {
        let name = channel.strip_prefix("chat:");
        let room = name.and_then(|name| self.subscriptions.get_mut(name));
        let person = frame.payload.clone().and_then(|payload| serde_json::from_value(payload).ok());
        let (Some(room), Some(person)) = (room, person) else { return };
        let Person { user_id, username } = person;
        match frame.event.as_deref() {
            Some("user.joined") => _ = room.value.insert(user_id, username),
            Some("user.left") => _ = room.value.remove(&user_id),
            _ => {}
        }
    }

    pub(crate) fn users(&self, name: &str) -> Vec<Person> {
        let Some(room) = self.subscriptions.get(name) else { return Vec::new() };
        let person = |(user_id, username): (&String, &String)| Person {
            user_id: user_id.clone(),
            username: username.clone(),
        };
        room.value.iter().map(person).collect()
    }

    /// Whether the client is in the room, or the refusal, or none if that is not known yet.
    pub(crate) fn outcome(&self, name: &str) -> Option<Result<(), Error>> {
        self.subscriptions.outcome(name)
    }
}
