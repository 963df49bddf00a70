//! Presence: users who come online and go, who join rooms and leave them, and what others hear of it.

use std::collections::HashMap;

use super::aim::Aim;
use super::node_request::no_connection;
use super::replies::Online;
use crate::clock::Moment;
use crate::id::{ChannelName, ConnId, ConnName, Topic, UserId};
use crate::limits;
use crate::state::State;
use crate::state::cluster_presence::PresenceTransition;
use crate::state::effect::Effect;
use crate::state::event::DomainEvent;
use crate::state::people::{
    Connection, ConnectionView, Departure, Membership, OnlineUser, Opened, Person,
};
use crate::wire::close::Reason;
use crate::wire::message;
use crate::wire::refusal::Refusal;

impl State {
    pub(super) fn opened(&mut self, opened: Opened, now: Moment) {
        let (conn, person) = (opened.conn, opened.person.clone());
        let is_first = self.people.open(opened, now.wall_ms);
        let user = person.clone();
        self.push(Effect::Event(DomainEvent::ConnectionOpened { connection: conn, user }));
        if let Some(person) = person
            && !self.is_left_to_log(None, &person)
            && is_first
        {
            let came = PresenceTransition { is_arrival: true, room: None, person };
            self.announce_transition(came, vec![conn], now);
        }
        // After it, so that nobody hears of themselves, on whatever connection.
        self.push(Effect::Opened(conn));
    }

    pub(super) fn closed(&mut self, conn: ConnId, now: Moment) {
        let Some(Departure { key, connection, is_last }) = self.people.close(conn) else {
            return;
        };
        let user = connection.person;
        for membership in connection.memberships {
            self.channels.remove_member(membership.channel, key, conn.shard);
            self.note_followers(membership.channel, now);
            if let Some(person) = &user {
                self.exit_channel(membership.channel, membership, person, None, now);
            }
        }
        if let Some(person) = &user
            && !self.is_left_to_log(None, person)
            && is_last
        {
            let person = person.clone();
            let gone = PresenceTransition { is_arrival: false, room: None, person };
            self.announce_transition(gone, Vec::new(), now);
        }
        self.push(Effect::Event(DomainEvent::ConnectionClosed { connection: conn, user }));
    }

    /// A connection of a user comes into a channel that tells who is there.
    pub(super) fn enter_channel(&mut self, key: u32, person: &Person, conn: ConnId, now: Moment) {
        let channel = self.channels.get_mut(key);
        if channel.enter(person) {
            let channel = channel.name.clone();
            if !self.is_left_to_log(Some(&channel), person) {
                let (room, person) = (Some(channel), person.clone());
                let came = PresenceTransition { is_arrival: true, room, person };
                self.announce_transition(came, vec![conn], now);
            }
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
            let channel = channel.name.clone();
            if !self.is_left_to_log(Some(&channel), person) {
                let (room, person) = (Some(channel), person.clone());
                let gone = PresenceTransition { is_arrival: false, room, person };
                self.announce_transition(gone, conn.into_iter().collect(), now);
            }
        }
    }

    /// Whether the log announces a change of a user's presence here, in a channel or at all: where nodes
    /// share it, it may be none for all of them. Then it is noted for the log. Otherwise it is announced
    /// at once.
    fn is_left_to_log(&mut self, channel: Option<&ChannelName>, person: &Person) -> bool {
        match channel {
            Some(channel) if self.sequencer.shares(channel) => {
                self.cluster_presence.dirty.note_room(channel, &person.user_id);
                true
            }
            None if self.sequencer.is_shared() => {
                self.cluster_presence.dirty.note_user(&person.user_id);
                true
            }
            _ => false,
        }
    }

    /// Announces who came or went, to everyone else whom that concerns and to the embedding program.
    pub(in crate::state) fn announce_transition(
        &mut self,
        transition: PresenceTransition,
        except: Vec<ConnId>,
        now: Moment,
    ) {
        let PresenceTransition { is_arrival, room, person } = transition;
        let event = match (room, is_arrival) {
            (None, true) => {
                self.tell_user("user_joined", &person, self.users_anywhere(), except, now);
                DomainEvent::UserOnline(person)
            }
            (None, false) => {
                self.tell_user("user_left", &person, self.users_anywhere() + 1, except, now);
                DomainEvent::UserOffline(person)
            }
            (Some(channel), true) => {
                self.tell_room(&channel, "user.joined", &person, except, now);
                DomainEvent::UserJoined { channel, user: person }
            }
            (Some(channel), false) => {
                self.tell_room(&channel, "user.left", &person, except, now);
                DomainEvent::UserLeft { channel, user: person }
            }
        };
        self.push(Effect::Event(event));
    }

    fn tell_room(
        &mut self,
        name: &ChannelName,
        event: &str,
        person: &Person,
        except: Vec<ConnId>,
        now: Moment,
    ) {
        let Some(key) = self.channels.find(name) else { return };
        let (has_presence, shards) =
            (self.channels.get(key).has_presence, self.channels.get(key).shards);
        if !has_presence || self.room_count(name) > limits::PRESENCE_USERS_MAX {
            return;
        }
        let stamp = self.stamp(now);
        let frame = message::room_event(name, event, (&person.user_id, &person.username), stamp);
        self.send(Topic::Channel(name.clone()), Some(shards), frame, Aim::new(None, except));
    }

    /// How many users are online on any node, as far as announced.
    pub fn users_anywhere(&self) -> usize {
        if self.sequencer.is_shared() {
            return self.cluster_presence.users_online();
        }
        self.people.users_online()
    }

    /// How many users are in a room on any node, as far as announced.
    pub(super) fn room_count(&self, channel: &ChannelName) -> usize {
        if self.sequencer.shares(channel) {
            return self.cluster_presence.room_count(channel);
        }
        self.channels.find(channel).map_or(0, |key| self.channels.get(key).user_count())
    }

    /// Tells everyone else who is signed in, unless too many are: the number of announcements
    /// grows with the square of the users'.
    fn tell_user(
        &mut self,
        message_type: &str,
        person: &Person,
        users_online: usize,
        newcomers: Vec<ConnId>,
        now: Moment,
    ) {
        if users_online > limits::PRESENCE_USERS_MAX || self.people.signed_in() == 0 {
            return;
        }
        let stamp = self.stamp(now);
        let who = (&person.user_id, &*person.username);
        let frame = message::presence(message_type, who, stamp);
        self.send(Topic::Users, None, frame, Aim::new(None, newcomers));
    }

    /// Who is online on any node, in the order of their ids, and how many there are in all.
    pub(super) fn list_online(&self) -> Online {
        let mut users: HashMap<UserId, OnlineUser> =
            self.people.list_online().map(|user| (user.person.user_id.clone(), user)).collect();
        self.cluster_presence.add_online(&mut users);
        let mut users: Vec<OnlineUser> = users.into_values().collect();
        let count = users.len();
        users.sort_by(|a, b| a.person.user_id.cmp(&b.person.user_id));
        users.truncate(limits::LISTED_MAX);
        Online { count, users }
    }

    pub(super) fn disconnect(&mut self, conn: ConnId) -> Result<(), Refusal> {
        if self.people.find(conn).is_none() {
            return Err(no_connection());
        }
        self.push(Effect::Close(conn, Reason::Removed));
        Ok(())
    }

    /// A connection as others see it.
    pub(super) fn connection(&self, key: u32) -> ConnectionView {
        let Connection { id, person, remote, opened_ms, memberships, metadata } =
            self.people.get(key);
        let channels = |is_in: fn(&Membership) -> bool| {
            let those = memberships.iter().filter(move |one| is_in(one));
            those.map(|one| self.channels.get(one.channel).name.clone())
        };
        let room = |channel: ChannelName| channel.room().unwrap_or_default().to_owned();
        ConnectionView {
            id: ConnName::new(&self.node, *id),
            person: person.clone(),
            remote: *remote,
            opened_ms: *opened_ms,
            channels: channels(|one| one.is_subscribed).collect(),
            rooms: channels(|one| one.is_joined).map(room).collect(),
            metadata: metadata.as_deref().cloned(),
        }
    }

    /// How a connection is in a channel, where it is.
    pub(in crate::state) fn membership(
        &self,
        conn: ConnId,
        channel: &ChannelName,
    ) -> Option<Membership> {
        let key = self.channels.find(channel)?;
        let (_, connection) = self.people.find(conn)?;
        connection.memberships.iter().find(|one| one.channel == key).copied()
    }
}
