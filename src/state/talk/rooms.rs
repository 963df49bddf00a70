//! Rooms: who is in one, and what is said there.
//!
//! Part of `state::talk`.

use super::{Aim, Told};
use crate::clock::Moment;
use crate::id::{ChannelName, ConnId, RequestId, Topic};
use crate::limits;
use crate::state::State;
use crate::state::event::DomainEvent;
use crate::state::people::{Membership, Person};
use crate::wire::message;
use crate::wire::refusal::Code;

/// The room of those who speak before they have joined one.
const LOBBY: &str = "lobby";

impl State {
    /// A connection of a user comes into a channel that tells who is there.
    pub(super) fn enter_channel(&mut self, key: u32, person: &Person, conn: ConnId, now: Moment) {
        if self.channels.get_mut(key).enter(person) {
            self.tell_room(key, "user.joined", person, Some(conn), now);
            let channel = self.channels.get(key).name.clone();
            self.note(|| DomainEvent::UserJoined { channel, user: person.clone() });
        }
    }

    /// A connection's membership has ended, in so far as `left` says.
    pub(super) fn exit_channel(
        &mut self,
        key: u32,
        left: Membership,
        person: &Person,
        conn: Option<ConnId>,
        now: Moment,
    ) {
        let channel = self.channels.get_mut(key);
        let was_in_it = if channel.name.room().is_some() {
            left.is_joined
        } else {
            left.is_subscribed && channel.has_presence
        };
        if was_in_it && channel.exit(&person.user_id) {
            self.tell_room(key, "user.left", person, conn, now);
            let channel = self.channels.get(key).name.clone();
            self.note(|| DomainEvent::UserLeft { channel, user: person.clone() });
        }
    }

    pub(super) fn tell_room(
        &mut self,
        key: u32,
        event: &str,
        person: &Person,
        conn: Option<ConnId>,
        now: Moment,
    ) {
        let channel = self.channels.get(key);
        if !channel.has_presence || channel.user_count() > limits::PRESENCE_USERS_MAX {
            return;
        }
        let (name, shards) = (channel.name.clone(), channel.shards);
        let stamp = self.stamp(now);
        let who = (&person.user_id, &*person.username);
        let frame = message::room_event(&name, event, who, stamp);
        let aim = conn.map(Aim::past).unwrap_or_default();
        self.send(Topic::Channel(name), Some(shards), frame, aim);
    }

    pub(super) fn join(&mut self, conn: ConnId, channel: &ChannelName, now: Moment) -> Told {
        let key = match self.join_room(conn, channel, now) {
            Ok(key) => key,
            Err(told) => return told,
        };
        let state = self.channels.get(key);
        Told::Joined {
            channel: channel.clone(),
            epoch: state.epoch.clone(),
            offset: state.offset,
            users: state.users(),
            count: state.user_count(),
        }
    }

    /// Makes the connection one of the room's, and the room its latest one.
    pub(super) fn join_room(
        &mut self,
        conn: ConnId,
        channel: &ChannelName,
        now: Moment,
    ) -> Result<u32, Told> {
        let Some(person) = self.person_of(conn) else {
            return Err(Told::refuse(Code::Unauthorized, "rooms are for users: a token is needed"));
        };
        let Ok(key) = self.channels.find_or_new(channel) else {
            return Err(Told::refuse(Code::RateLimited, "there are too many channels"));
        };
        let before = self.set_membership(conn, key, |one| one.is_joined = true);
        if before.is_some_and(|before| !before.is_joined) {
            self.enter_channel(key, &person, conn, now);
        }
        Ok(key)
    }

    pub(super) fn leave(&mut self, conn: ConnId, channel: ChannelName, now: Moment) -> Told {
        let mut still_follows = false;
        if let (Some(key), Some(person)) = (self.channels.find(&channel), self.person_of(conn)) {
            let before = self.set_membership(conn, key, |one| one.is_joined = false);
            if let Some(before) = before {
                still_follows = before.is_subscribed;
                let left = Membership { is_subscribed: false, ..before };
                self.exit_channel(key, left, &person, Some(conn), now);
            }
        }
        Told::Left { channel, still_follows }
    }

    pub(super) fn chat(
        &mut self,
        conn: ConnId,
        channel: Option<ChannelName>,
        content: &str,
        id: Option<&RequestId>,
        now: Moment,
    ) -> Told {
        let Some(person) = self.person_of(conn) else {
            return Told::refuse(Code::Unauthorized, "rooms are for users: a token is needed");
        };
        let channel = channel
            .or_else(|| self.latest_room(conn))
            .unwrap_or_else(|| ChannelName::of_room(LOBBY));
        let is_member = self.is_in_room(conn, &channel);
        if !is_member && channel.room() != Some(LOBBY) {
            return Told::refuse(Code::Forbidden, "join the room first");
        }
        let key = match self.channels.find(&channel).filter(|_| is_member) {
            Some(key) => key,
            None => match self.join_room(conn, &channel, now) {
                Ok(key) => key,
                Err(told) => return told,
            },
        };
        let stamp = self.stamp(now);
        let offset = self.channels.advance(key);
        let from = (&person.user_id, &*person.username);
        let frame = message::chat(&channel, stamp, offset, from, content, None);
        self.channels.keep(key, &frame, now.unix_ms);
        // Who joins by speaking is no follower yet when the frame arrives, and who gave an id wants
        // it back: these get a copy with the answer, in its place among all others.
        let copy = match id {
            Some(_) => Some(message::chat(&channel, stamp, offset, from, content, id)),
            None if !is_member => Some(frame.clone()),
            None => None,
        };
        let aim = if copy.is_some() { Aim::past(conn) } else { Aim::default() };
        self.send_to_channel(key, frame, aim);
        Told::Chatted { channel, copy }
    }

    pub(super) fn latest_room(&self, conn: ConnId) -> Option<ChannelName> {
        let (_, connection) = self.people.find(conn)?;
        let latest = connection.memberships.iter().rev().find(|one| one.is_joined)?;
        Some(self.channels.get(latest.channel).name.clone())
    }

    pub(super) fn is_in_room(&self, conn: ConnId, channel: &ChannelName) -> bool {
        self.channels.find(channel).is_some_and(|key| {
            self.people.find(conn).is_some_and(|(_, connection)| {
                connection.memberships.iter().any(|one| one.channel == key && one.is_joined)
            })
        })
    }
}
