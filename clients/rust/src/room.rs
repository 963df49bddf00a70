//! Chat rooms: who is in one, and the way back into it.
//!
//! What is said in room `r` comes over channel `chat:r`, with its history; here is only who is there.
//!
//! Imports its siblings.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Error;
use crate::frame::{Frame, Person};
use crate::service::Phase;

#[derive(Debug, Default)]
struct Room {
    wanted: u32,
    phase: Phase,
    users: BTreeMap<String, String>,
    error: Option<Error>,
}

/// What to ask the server for next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Join(Box<str>),
    Leave(Box<str>),
}

/// Every room that somebody is in.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    rooms: BTreeMap<Box<str>, Room>,
    todo: BTreeSet<Box<str>>,
    later: BTreeSet<Box<str>>,
}

/// The channel of a room.
pub(crate) fn channel_of(room: &str) -> String {
    format!("chat:{room}")
}

impl Directory {
    pub(crate) fn want(&mut self, name: &str) {
        let room = self.rooms.entry(name.into()).or_default();
        room.wanted += 1;
        self.todo.insert(name.into());
    }

    pub(crate) fn release(&mut self, name: &str) {
        if let Some(room) = self.rooms.get_mut(name) {
            room.wanted = room.wanted.saturating_sub(1);
            self.todo.insert(name.into());
        }
    }

    /// The next thing to ask the server for. It counts as asked. A room is entered once its channel
    /// is asked for, so that nothing said in it goes by.
    pub(crate) fn next_wish(&mut self, is_heard: impl Fn(&str) -> bool) -> Option<Wish> {
        let due = self.todo.iter().find(|name| {
            let room = self.rooms.get(*name);
            room.is_none_or(|room| room.wanted == 0) || is_heard(name)
        });
        let name = due?.clone();
        self.todo.remove(&name);
        let Some(room) = self.rooms.get_mut(&name) else { return self.next_wish(is_heard) };
        match (room.wanted > 0, room.phase) {
            (true, Phase::Idle) => {
                room.phase = Phase::Asked;
                Some(Wish::Join(name))
            }
            (false, Phase::Live) => {
                self.rooms.remove(&name);
                Some(Wish::Leave(name))
            }
            (false, Phase::Idle) => {
                self.rooms.remove(&name);
                self.next_wish(is_heard)
            }
            _ => self.next_wish(is_heard),
        }
    }

    pub(crate) fn disconnect(&mut self) {
        for (name, room) in &mut self.rooms {
            room.phase = Phase::Idle;
            self.todo.insert(name.clone());
        }
        self.later.clear();
    }

    pub(crate) fn retry(&mut self) {
        self.todo.append(&mut self.later);
    }

    pub(crate) fn has_todo(&self) -> bool {
        !self.todo.is_empty()
    }

    pub(crate) fn has_later(&self) -> bool {
        !self.later.is_empty()
    }

    pub(crate) fn joined(&mut self, name: &str, frame: Frame) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        room.phase = Phase::Live;
        room.error = None;
        let users = frame.users.unwrap_or_default().into_iter();
        room.users = users.map(|user| (user.user_id, user.username)).collect();
        if room.wanted == 0 {
            self.todo.insert(name.into());
        }
    }

    pub(crate) fn refused(&mut self, name: &str, error: &Error) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        room.phase = Phase::Idle;
        room.error = Some(error.clone());
        if error.is_temporary() {
            self.later.insert(name.into());
        }
    }

    /// `user.joined` or `user.left` of a room's channel.
    pub(crate) fn event(&mut self, channel: &str, frame: &Frame) {
        let room = channel.strip_prefix("chat:").and_then(|name| self.rooms.get_mut(name));
        let person = frame.payload.clone().and_then(|payload| serde_json::from_value(payload).ok());
        let (Some(room), Some(person)) = (room, person) else { return };
        let person: Person = person;
        match frame.event.as_deref() {
            Some("user.joined") => _ = room.users.insert(person.user_id, person.username),
            Some("user.left") => _ = room.users.remove(&person.user_id),
            _ => {}
        }
    }

    pub(crate) fn users(&self, name: &str) -> Vec<Person> {
        let Some(room) = self.rooms.get(name) else { return Vec::new() };
        let person = |(user_id, username): (&String, &String)| Person {
            user_id: user_id.clone(),
            username: username.clone(),
        };
        room.users.iter().map(person).collect()
    }

    /// Whether we are in it, or why not, or none where that is not known yet.
    pub(crate) fn outcome(&self, name: &str) -> Option<Result<(), Error>> {
        let room = self.rooms.get(name)?;
        match (&room.error, room.phase) {
            (_, Phase::Live) => Some(Ok(())),
            (Some(error), Phase::Idle) if !error.is_temporary() => Some(Err(error.clone())),
            _ => None,
        }
    }
}
