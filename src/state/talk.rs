//! What people, and programs that speak to people, can ask for, and what comes of it.
//!
//! Everything goes out by the same way as the changes of services do: a message is framed once, and
//! its audience is a topic. Whoever a message is aimed past or at within the topic is named by
//! connection; see [`Aim`].
//!
//! # Promises
//!
//! * A count of receivers is exact at the moment of the order: each JSON socket that has been
//!   welcomed and has not ended is counted once.
//! * What a message says happened has happened: presence and rooms are told after the fact.
//!
//! Imports its siblings, `id`, `limits` and `wire`. Imported by `state`, `mailbox`, `shard`,
//! `control` and `http`.

use std::sync::Arc;

use bytes::Bytes;

use super::channels::ChannelView;
use super::durable::{AccountChange, Message, Write, WriteResult, Written};
use super::event::DomainEvent;
use super::people::{ConnectionView, Departure, Membership, OnlineUser, Opened, Person};
use super::{Outcome, State};
use crate::clock::Moment;
use crate::id::{ChannelName, ConnId, Epoch, MessageId, RequestId, ShardSet, Topic, UserId};
use crate::limits;
use crate::wire::close::Reason;
use crate::wire::command::SinceOffset;
use crate::wire::event::TimeText;
use crate::wire::message::{self, Stamp};
use crate::wire::refusal::{Code, Refusal};
use crate::wire::talk::{Envelope, Publication};

/// One thing to do among people.
#[derive(Debug)]
pub enum Talk {
    /// A JSON socket was opened.
    Opened(Opened),
    /// It has ended.
    Closed(ConnId),
    /// A user made a call: such a user exists.
    See(Person),
    /// Accounts were changed beside the server.
    Accounts(Vec<AccountChange>),
    /// Follow a channel.
    Follow {
        /// The connection that will.
        conn: ConnId,
        /// The channel. It need not exist.
        channel: ChannelName,
        /// Where the client stands already.
        since: Option<SinceOffset>,
    },
    /// Stop following a channel.
    Unfollow {
        /// The connection that does.
        conn: ConnId,
        /// The channel.
        channel: ChannelName,
    },
    /// Publish to a channel.
    Publish {
        /// The channel. It need not exist.
        channel: ChannelName,
        /// What to publish.
        publication: Publication,
        /// Who publishes.
        from: Option<UserId>,
        /// Who of the followers gets it. A message for some only is not kept.
        aim: Aim,
        /// The publisher's connection, where it wants no echo.
        without: Option<ConnId>,
    },
    /// The channels there are.
    Channels,
    /// One channel.
    Channel(ChannelName),
    /// A channel's kept messages.
    History {
        /// The channel.
        channel: ChannelName,
        /// The offset before the first one wanted.
        after: u64,
        /// How many at most.
        limit: usize,
    },
    /// Define a channel.
    Define {
        /// Its name.
        channel: ChannelName,
        /// What it is for.
        description: String,
    },
    /// Delete a channel, its history and its definition.
    Delete(ChannelName),
    /// Join a room.
    Join {
        /// The connection that does.
        conn: ConnId,
        /// The room's channel.
        channel: ChannelName,
    },
    /// Leave a room.
    Leave {
        /// The connection that does.
        conn: ConnId,
        /// The room's channel.
        channel: ChannelName,
    },
    /// Say something in a room.
    Chat {
        /// The connection that does.
        conn: ConnId,
        /// The room's channel. None: the one joined last.
        channel: Option<ChannelName>,
        /// What to say.
        content: String,
        /// The request's own id.
        id: Option<RequestId>,
    },
    /// An envelope from a user, to one user or to everyone else who is online.
    Envelope {
        /// What to send.
        envelope: Envelope,
        /// The request's own id.
        id: Option<RequestId>,
        /// Who sends it.
        from: UserId,
        /// Whom it is for.
        to: Option<UserId>,
    },
    /// An envelope from a program.
    Broadcast {
        /// What to send.
        envelope: Envelope,
        /// Who sends it, where that is known.
        from: Option<UserId>,
        /// Whom it is for.
        to: To,
        /// Who of them gets it.
        aim: Aim,
    },
    /// Who is online.
    Online,
    /// The connections there are.
    Connections {
        /// The id before the first one wanted.
        after: Option<ConnId>,
        /// How many at most.
        limit: usize,
    },
    /// One connection.
    Connection(ConnId),
    /// End a connection for good.
    Disconnect(ConnId),
    /// Protocol pings for every connection.
    PingAll,
    /// Something that has to be on disk first.
    Write(Write),
    /// A message to a user, to be stored.
    SendPrivate {
        /// Who writes it.
        from: UserId,
        /// Whom it is for.
        to: UserId,
        /// What it says.
        content: String,
    },
    /// A message to a group, to be stored.
    SendToGroup {
        /// Who writes it.
        from: UserId,
        /// Which group it is for.
        group_id: String,
        /// What it says.
        content: String,
    },
}

/// Whom a program's envelope is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum To {
    /// Every JSON socket.
    Everyone,
    /// The followers of a channel.
    Channel(ChannelName),
    /// A user.
    User(UserId),
    /// One connection.
    Connection(ConnId),
}

/// Which of a topic's followers get a message.
///
/// # Invariants
///
/// 1. Both lists are sorted and hold each connection once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Aim {
    /// No others than these, where it is there.
    only: Option<Vec<ConnId>>,
    /// Not these.
    except: Vec<ConnId>,
}

impl Aim {
    /// Those of `only`, or all, but for `except`.
    pub fn new(only: Option<Vec<ConnId>>, except: Vec<ConnId>) -> Aim {
        let sorted = |mut ids: Vec<ConnId>| {
            ids.sort_unstable();
            ids.dedup();
            ids
        };
        Aim { only: only.map(sorted), except: sorted(except) }
    }

    /// All but one.
    pub fn past(conn: ConnId) -> Aim {
        Aim { only: None, except: vec![conn] }
    }

    /// Nobody but one.
    pub fn at(conn: ConnId) -> Aim {
        Aim { only: Some(vec![conn]), except: Vec::new() }
    }

    /// Whether it is simply everyone.
    pub fn is_everyone(&self) -> bool {
        self.only.is_none() && self.except.is_empty()
    }

    /// The only ones meant, where not everyone is.
    pub fn only(&self) -> Option<&[ConnId]> {
        self.only.as_deref()
    }

    /// Whether a connection is meant, given that it follows.
    pub fn includes(&self, conn: ConnId) -> bool {
        self.only.as_ref().is_none_or(|only| only.binary_search(&conn).is_ok())
            && self.except.binary_search(&conn).is_err()
    }

    /// How many of `total` followers are meant.
    fn count(&self, total: usize, follows: impl Fn(ConnId) -> bool) -> usize {
        match &self.only {
            Some(only) => only.iter().filter(|&&id| self.includes(id) && follows(id)).count(),
            None => total - self.except.iter().filter(|&&id| follows(id)).count(),
        }
    }
}

/// What has to go out.
#[derive(Debug)]
pub enum Outgoing {
    /// A frame for the followers of a topic.
    Message {
        /// The topic.
        topic: Topic,
        /// The shards that have followers; none = all shards.
        shards: Option<ShardSet>,
        /// The whole frame.
        frame: Bytes,
        /// Which of the followers.
        aim: Aim,
    },
    /// A frame for the followers of a channel, who follow it no more after it.
    Dissolve {
        /// The channel.
        channel: ChannelName,
        /// The shards that have followers.
        shards: ShardSet,
        /// The whole frame.
        frame: Bytes,
    },
    /// From here on a connection gets what is for everyone, and for its user.
    Enter(ConnId),
    /// The end of a connection.
    Close(ConnId, Reason),
    /// A ping for every connection.
    PingAll,
}

/// What came of a [`Talk`].
#[derive(Debug)]
pub enum Told {
    /// It is done, and there is nothing to say.
    Done,
    /// It was so before.
    Unchanged,
    /// It cannot be.
    Refused(Refusal),
    /// Where a channel stands, for a new follower.
    Followed {
        /// The channel.
        channel: ChannelName,
        /// The epoch of its offsets.
        epoch: Epoch,
        /// The newest offset.
        offset: u64,
        /// Whether a resume succeeded; none where none was asked for.
        recovered: Option<bool>,
        /// The frames missed.
        replay: Vec<Bytes>,
    },
    /// The channel is not followed by subscription any more.
    Unfollowed {
        /// The channel.
        channel: ChannelName,
        /// Whether the connection still gets its messages, being in its room.
        still_follows: bool,
    },
    /// A message's place.
    Published {
        /// The channel.
        channel: ChannelName,
        /// The epoch of its offsets.
        epoch: Epoch,
        /// Its offset; none where it was aimed and is not kept.
        offset: Option<u64>,
        /// Its id.
        message_id: MessageId,
        /// How many connections it goes to.
        delivered_to: usize,
    },
    /// The channels.
    Channels(Vec<ChannelView>),
    /// One channel.
    Channel(Option<ChannelView>),
    /// A channel's messages.
    History {
        /// The epoch of their offsets.
        epoch: Epoch,
        /// The frames.
        frames: Vec<Bytes>,
    },
    /// The room was joined.
    Joined {
        /// The room's channel.
        channel: ChannelName,
        /// The epoch of its offsets.
        epoch: Epoch,
        /// The newest offset.
        offset: u64,
        /// Who is in it, up to a bound.
        users: Vec<(UserId, Arc<str>)>,
        /// How many are in it.
        count: usize,
    },
    /// The room was left.
    Left {
        /// The room's channel.
        channel: ChannelName,
        /// Whether the connection still gets its messages, being subscribed.
        still_follows: bool,
    },
    /// The room has heard it.
    Chatted {
        /// The room's channel.
        channel: ChannelName,
        /// The sender's own copy, where it is not the one of all others.
        copy: Option<Bytes>,
    },
    /// How many connections a message goes to.
    Delivered {
        /// So many.
        count: usize,
        /// The message's id, as JSON text.
        id: Box<str>,
    },
    /// Who is online.
    Online {
        /// How many.
        count: usize,
        /// Who, up to a bound.
        users: Vec<OnlineUser>,
    },
    /// The connections.
    Connections {
        /// How many there are.
        total: usize,
        /// Those asked for.
        connections: Vec<ConnectionView>,
    },
    /// One connection.
    Connection(Option<Box<ConnectionView>>),
    /// The message is on disk.
    Stored {
        /// Its id.
        id: MessageId,
        /// When, in seconds since the Unix epoch.
        at_s: u64,
    },
}

impl Told {
    fn refuse(code: Code, message: &'static str) -> Told {
        Told::Refused(Refusal::new(code, message))
    }
}

const LOBBY: &str = "lobby";

impl State {
    /// Carries out one order among people.
    pub(super) fn talk(&mut self, talk: Talk, now: Moment) -> Outcome {
        let told = match talk {
            Talk::Opened(opened) => self.opened(opened, now),
            Talk::Closed(conn) => self.closed(conn, now),
            Talk::See(person) => {
                self.people.see(&person);
                Told::Done
            }
            Talk::Accounts(changes) => self.accounts(changes),
            Talk::Follow { conn, channel, since } => {
                self.follow(conn, channel, since.as_ref(), now)
            }
            Talk::Unfollow { conn, channel } => self.unfollow(conn, channel, now),
            Talk::Publish { channel, publication, from, aim, without } => {
                let is_kept = aim.is_everyone();
                let aim = without.map_or(aim, Aim::past);
                self.publish(channel, &publication, from.as_ref(), (aim, is_kept), now)
            }
            Talk::Channels => Told::Channels(self.channels.list()),
            Talk::Channel(name) => Told::Channel(self.channels.view(&name)),
            Talk::History { channel, after, limit } => match self.channels.find(&channel) {
                None => Told::refuse(Code::NotFound, "there is no such channel"),
                Some(key) => {
                    let frames = self.channels.history(key, after, limit, now.unix_ms);
                    Told::History { epoch: self.channels.get(key).epoch.clone(), frames }
                }
            },
            Talk::Define { channel, description } => {
                return self.define(channel, description, now);
            }
            Talk::Delete(channel) => return self.delete(channel),
            Talk::Join { conn, channel } => self.join(conn, &channel, now),
            Talk::Leave { conn, channel } => self.leave(conn, channel, now),
            Talk::Chat { conn, channel, content, id } => {
                self.chat(conn, channel, &content, id.as_ref(), now)
            }
            Talk::Envelope { envelope, id, from, to } => {
                self.envelope(&envelope, id.as_ref(), &from, to, now)
            }
            Talk::Broadcast { envelope, from, to, aim } => {
                self.broadcast(&envelope, from.as_ref(), to, aim, now)
            }
            Talk::Online => {
                let (count, users) = self.people.list_online();
                Told::Online { count, users }
            }
            Talk::Connections { after, limit } => {
                let keys = self.people.list(after, limit);
                let connections = keys.into_iter().map(|key| self.connection(key)).collect();
                Told::Connections { total: self.people.connections(), connections }
            }
            Talk::Connection(conn) => {
                let key = self.people.find(conn).map(|(key, _)| key);
                Told::Connection(key.map(|key| Box::new(self.connection(key))))
            }
            Talk::Disconnect(conn) => self.disconnect(conn),
            Talk::PingAll => {
                self.outgoing.push(Outgoing::PingAll);
                Told::Done
            }
            Talk::Write(write) => return self.check_write(write),
            Talk::SendPrivate { from, to, content } => {
                if !self.people.is_known(&to) {
                    return Told::refuse(Code::NotFound, "there is no such user").into();
                }
                let id = self.ids.next(now.unix_ms);
                let message = Message { id, from, to, content, at_s: now.unix_s() };
                return Outcome::Write(Box::new(Write::Private(message)));
            }
            Talk::SendToGroup { from, group_id, content } => {
                let id = self.ids.next(now.unix_ms);
                let message = Message { id, from, to: group_id, content, at_s: now.unix_s() };
                return Outcome::Write(Box::new(Write::ToGroup(message)));
            }
        };
        told.into()
    }

    fn stamp(&mut self, now: Moment) -> Stamp {
        Stamp { id: self.ids.next(now.unix_ms), time: TimeText::of(now.unix_ms) }
    }

    fn send(&mut self, topic: Topic, shards: Option<ShardSet>, frame: Bytes, aim: Aim) {
        if shards.is_none_or(|shards| !shards.is_empty()) {
            self.outgoing.push(Outgoing::Message { topic, shards, frame, aim });
        }
    }

    // --- Coming and going ------------------------------------------------------------------------

    fn opened(&mut self, opened: Opened, now: Moment) -> Told {
        let (conn, person) = (opened.conn, opened.person.clone());
        let is_first = self.people.open(opened, now.unix_ms);
        self.note(|| DomainEvent::ConnectionOpened { connection: conn, user: person.clone() });
        if let Some(person) = person.filter(|_| is_first) {
            self.tell_presence("user_joined", &person, self.people.users_online(), Some(conn), now);
            self.note(|| DomainEvent::UserOnline(person));
        }
        // After it, so that nobody hears of themselves, on whatever connection.
        self.outgoing.push(Outgoing::Enter(conn));
        Told::Done
    }

    fn closed(&mut self, conn: ConnId, now: Moment) -> Told {
        let online_before = self.people.users_online();
        let Some(Departure { key, connection, is_last }) = self.people.close(conn) else {
            return Told::Done;
        };
        let person = connection.person;
        for membership in connection.memberships {
            let channel = self.channels.get_mut(membership.channel);
            channel.remove(key, conn.shard);
            if let Some(person) = &person {
                self.exit_channel(membership.channel, membership, person, None, now);
            }
        }
        if let Some(person) = person.clone().filter(|_| is_last) {
            self.tell_presence("user_left", &person, online_before, None, now);
            self.note(|| DomainEvent::UserOffline(person));
        }
        self.note(|| DomainEvent::ConnectionClosed { connection: conn, user: person });
        Told::Done
    }

    /// Tells everyone else who is signed in, unless too many are: the number of announcements
    /// grows with the square of the users'.
    fn tell_presence(
        &mut self,
        message_type: &str,
        person: &Person,
        users_online: usize,
        newcomer: Option<ConnId>,
        now: Moment,
    ) {
        if users_online > limits::PRESENCE_USERS_MAX || self.people.signed_in() == 0 {
            return;
        }
        let stamp = self.stamp(now);
        let who = (&person.user_id, &*person.username);
        let frame = message::presence(message_type, who, stamp);
        let aim = newcomer.map(Aim::past).unwrap_or_default();
        self.send(Topic::Users, None, frame, aim);
    }

    fn accounts(&mut self, changes: Vec<AccountChange>) -> Told {
        for change in changes {
            if change.is_disabled {
                for conn in self.people.of_user(&change.user_id).collect::<Vec<_>>() {
                    self.outgoing.push(Outgoing::Close(conn, Reason::TokenExpired));
                }
            }
            self.people.note_known(change.user_id);
        }
        Told::Done
    }

    fn disconnect(&mut self, conn: ConnId) -> Told {
        if self.people.find(conn).is_none() {
            return Told::refuse(Code::NotFound, "there is no such connection");
        }
        self.outgoing.push(Outgoing::Close(conn, Reason::Removed));
        Told::Done
    }

    fn connection(&self, key: u32) -> ConnectionView {
        let mut view = self.people.view(key);
        for membership in &self.people.get(key).memberships {
            let name = &self.channels.get(membership.channel).name;
            if membership.is_subscribed {
                view.channels.push(name.clone());
            }
            if membership.is_joined {
                view.rooms.push(name.room().unwrap_or_default().to_owned());
            }
        }
        view
    }

    // --- Channels --------------------------------------------------------------------------------

    /// Sets how a connection follows a channel, and returns how it did before. None where the
    /// connection has gone.
    fn set_membership(
        &mut self,
        conn: ConnId,
        channel: u32,
        set: impl FnOnce(&mut Membership),
    ) -> Option<Membership> {
        let (key, _) = self.people.find(conn)?;
        let memberships = &mut self.people.get_mut(key).memberships;
        let place = memberships.iter().position(|one| one.channel == channel);
        let before = place
            .map_or(Membership { channel, is_subscribed: false, is_joined: false }, |place| {
                memberships.remove(place)
            });
        let mut after = before;
        set(&mut after);
        if after.is_subscribed || after.is_joined {
            memberships.push(after);
            self.channels.get_mut(channel).add(key, conn.shard);
        } else {
            if memberships.is_empty() {
                *memberships = Vec::new();
            }
            self.channels.get_mut(channel).remove(key, conn.shard);
        }
        Some(before)
    }

    fn person_of(&self, conn: ConnId) -> Option<Person> {
        self.people.find(conn).and_then(|(_, connection)| connection.person.clone())
    }

    fn follow(
        &mut self,
        conn: ConnId,
        channel: ChannelName,
        since: Option<&SinceOffset>,
        now: Moment,
    ) -> Told {
        let Ok(key) = self.channels.find_or_new(&channel) else {
            return Told::refuse(Code::RateLimited, "there are too many channels");
        };
        let replay = since.map(|since| self.channels.replay(key, since, now.unix_ms));
        let before = self.set_membership(conn, key, |one| one.is_subscribed = true);
        let tells = self.channels.get(key).has_presence && channel.room().is_none();
        if let Some(person) = self.person_of(conn)
            && before.is_some_and(|before| !before.is_subscribed)
            && tells
        {
            self.enter_channel(key, &person, conn, now);
        }
        let state = self.channels.get(key);
        Told::Followed {
            channel,
            epoch: state.epoch.clone(),
            offset: state.offset,
            recovered: replay.as_ref().map(Option::is_some),
            replay: replay.flatten().unwrap_or_default(),
        }
    }

    fn unfollow(&mut self, conn: ConnId, channel: ChannelName, now: Moment) -> Told {
        let mut still_follows = false;
        if let Some(key) = self.channels.find(&channel) {
            let before = self.set_membership(conn, key, |one| one.is_subscribed = false);
            if let Some(before) = before.filter(|before| before.is_subscribed) {
                still_follows = before.is_joined;
                if let Some(person) = self.person_of(conn) {
                    let left = Membership { is_joined: false, ..before };
                    self.exit_channel(key, left, &person, Some(conn), now);
                }
            } else {
                still_follows = before.is_some_and(|before| before.is_joined);
            }
        }
        Told::Unfollowed { channel, still_follows }
    }

    fn publish(
        &mut self,
        channel: ChannelName,
        publication: &Publication,
        from: Option<&UserId>,
        (aim, is_kept): (Aim, bool),
        now: Moment,
    ) -> Told {
        let Ok(key) = self.channels.find_or_new(&channel) else {
            return Told::refuse(Code::RateLimited, "there are too many channels");
        };
        let stamp = self.stamp(now);
        let offset = is_kept.then(|| self.channels.advance(key));
        let frame = message::channel_message(&channel, stamp, offset, from, publication);
        if is_kept {
            self.channels.keep(key, &frame, now.unix_ms);
        }
        let delivered_to = self.count_followers(key, &aim);
        let state = self.channels.get(key);
        let (epoch, shards) = (state.epoch.clone(), state.shards);
        self.note(|| DomainEvent::ChannelMessage {
            channel: channel.clone(),
            frame: frame.clone(),
        });
        self.send(Topic::Channel(channel.clone()), Some(shards), frame, aim);
        Told::Published { channel, epoch, offset, message_id: stamp.id, delivered_to }
    }

    fn count_followers(&self, key: u32, aim: &Aim) -> usize {
        let members = &self.channels.get(key).members;
        aim.count(members.len(), |conn| {
            let found = self.people.find(conn);
            found.is_some_and(|(key, _)| members.contains(crate::id::Slot(key)))
        })
    }

    fn define(&mut self, channel: ChannelName, description: String, now: Moment) -> Outcome {
        if self.channels.is_defined(&channel) {
            return Told::refuse(Code::Conflict, "there is such a channel already").into();
        }
        if !self.channels.may_define() {
            return Told::refuse(Code::RateLimited, "there are too many channels").into();
        }
        self.channels.reserved.push(channel.clone());
        Outcome::Write(Box::new(Write::DefineChannel { channel, description, at_ms: now.unix_ms }))
    }

    fn delete(&mut self, channel: ChannelName) -> Outcome {
        if self.channels.is_defined(&channel) {
            return Outcome::Write(Box::new(Write::DropChannel { channel }));
        }
        if self.channels.find(&channel).is_none() {
            return Told::refuse(Code::NotFound, "there is no such channel").into();
        }
        self.dissolve(&channel);
        Told::Done.into()
    }

    /// Takes a live channel away from everyone who follows it.
    fn dissolve(&mut self, channel: &ChannelName) {
        let Some(key) = self.channels.find(channel) else { return };
        let mut members = Vec::new();
        self.channels.get(key).members.walk(&mut members);
        for member in members {
            let memberships = &mut self.people.get_mut(member.0).memberships;
            memberships.retain(|one| one.channel != key);
        }
        let state = self.channels.delete(key);
        if !state.shards.is_empty() {
            let frame = message::channel_deleted(channel);
            let (channel, shards) = (channel.clone(), state.shards);
            self.outgoing.push(Outgoing::Dissolve { channel, shards, frame });
        }
        self.note(|| DomainEvent::ChannelDeleted(channel.clone()));
    }

    // --- Rooms -----------------------------------------------------------------------------------

    /// A connection of a user comes into a channel that tells who is there.
    fn enter_channel(&mut self, key: u32, person: &Person, conn: ConnId, now: Moment) {
        if self.channels.get_mut(key).enter(person) {
            self.tell_room(key, "user.joined", person, Some(conn), now);
            let channel = self.channels.get(key).name.clone();
            self.note(|| DomainEvent::UserJoined { channel, user: person.clone() });
        }
    }

    /// A connection's membership has ended, in so far as `left` says.
    fn exit_channel(
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

    fn tell_room(
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

    fn join(&mut self, conn: ConnId, channel: &ChannelName, now: Moment) -> Told {
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
    fn join_room(&mut self, conn: ConnId, channel: &ChannelName, now: Moment) -> Result<u32, Told> {
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

    fn leave(&mut self, conn: ConnId, channel: ChannelName, now: Moment) -> Told {
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

    fn chat(
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
        let shards = self.channels.get(key).shards;
        self.note(|| DomainEvent::ChannelMessage {
            channel: channel.clone(),
            frame: frame.clone(),
        });
        self.send(Topic::Channel(channel.clone()), Some(shards), frame, aim);
        Told::Chatted { channel, copy }
    }

    fn latest_room(&self, conn: ConnId) -> Option<ChannelName> {
        let (_, connection) = self.people.find(conn)?;
        let latest = connection.memberships.iter().rev().find(|one| one.is_joined)?;
        Some(self.channels.get(latest.channel).name.clone())
    }

    fn is_in_room(&self, conn: ConnId, channel: &ChannelName) -> bool {
        self.channels.find(channel).is_some_and(|key| {
            self.people.find(conn).is_some_and(|(_, connection)| {
                connection.memberships.iter().any(|one| one.channel == key && one.is_joined)
            })
        })
    }

    // --- Envelopes -------------------------------------------------------------------------------

    fn envelope(
        &mut self,
        envelope: &Envelope,
        id: Option<&RequestId>,
        from: &UserId,
        to: Option<UserId>,
        now: Moment,
    ) -> Told {
        let stamp = self.stamp(now);
        let id: Box<str> =
            id.map_or_else(|| stamp.id.quoted().into(), |RequestId(text)| text.clone());
        let frame = message::envelope(&id, envelope, to.as_ref(), Some(from), stamp.time);
        if let Some(to) = to {
            if !self.people.is_known(&to) {
                return Told::refuse(Code::NotFound, "there is no such user");
            }
            let count = self.people.of_user(&to).count();
            let shards = self.people.shards_of(&to);
            self.send(Topic::User(to), Some(shards), frame, Aim::default());
            return Told::Delivered { count, id };
        }
        let own: Vec<ConnId> = self.people.of_user(from).collect();
        let count = self.people.signed_in() - own.len();
        if count > 0 {
            self.send(Topic::Users, None, frame, Aim::new(None, own));
        }
        Told::Delivered { count, id }
    }

    fn broadcast(
        &mut self,
        envelope: &Envelope,
        from: Option<&UserId>,
        to: To,
        aim: Aim,
        now: Moment,
    ) -> Told {
        let stamp = self.stamp(now);
        let id: Box<str> = stamp.id.quoted().into();
        let to_user = match &to {
            To::User(user_id) => Some(user_id),
            _ => None,
        };
        let frame = message::envelope(&id, envelope, to_user, from, stamp.time);
        let (topic, shards, count) = match to {
            To::Everyone => {
                let total = self.people.connections();
                let count = aim.count(total, |conn| self.people.find(conn).is_some());
                (Topic::Everyone, None, count)
            }
            To::Channel(channel) => {
                let Some(key) = self.channels.find(&channel) else {
                    return Told::Delivered { count: 0, id };
                };
                let shards = self.channels.get(key).shards;
                let count = self.count_followers(key, &aim);
                (Topic::Channel(channel), Some(shards), count)
            }
            To::User(user_id) => {
                if !self.people.is_known(&user_id) {
                    return Told::refuse(Code::NotFound, "there is no such user");
                }
                let count = self.people.of_user(&user_id).count();
                let shards = self.people.shards_of(&user_id);
                (Topic::User(user_id), Some(shards), count)
            }
            To::Connection(conn) => {
                if self.people.find(conn).is_none() {
                    return Told::refuse(Code::NotFound, "there is no such connection");
                }
                let mut shards = ShardSet::default();
                shards.insert(conn.shard);
                self.send(Topic::Everyone, Some(shards), frame, Aim::at(conn));
                return Told::Delivered { count: 1, id };
            }
        };
        if count > 0 {
            self.send(topic, shards, frame, aim);
        }
        Told::Delivered { count, id }
    }

    // --- What is stored first --------------------------------------------------------------------

    fn check_write(&mut self, write: Write) -> Outcome {
        let refused = match &write {
            Write::Account { .. } if !self.people.has_room() => {
                Some(Told::refuse(Code::Unavailable, "there is no room for more users"))
            }
            Write::AddMember { user_id, .. } if !self.people.is_known(user_id) => {
                Some(Told::refuse(Code::NotFound, "there is no such user"))
            }
            Write::CreateGroup { members, .. }
                if members.iter().any(|member| !self.people.is_known(member)) =>
            {
                Some(Told::refuse(Code::NotFound, "a member is no known user"))
            }
            _ => None,
        };
        match refused {
            Some(told) => told.into(),
            None => Outcome::Write(Box::new(write)),
        }
    }

    /// A write has been carried out, or has not: tells those it concerns, and gives the answer.
    pub fn after_write(&mut self, write: Write, result: WriteResult) -> Told {
        if let Write::DefineChannel { channel, .. } = &write {
            self.channels.reserved.retain(|reserved| reserved != channel);
        }
        let written = match result {
            Ok(written) => written,
            Err(refusal) => {
                if let Write::Seen { people, .. } = write {
                    // Nobody waits for it. It goes with the next one.
                    self.people.newly_known.extend(people);
                }
                return Told::Refused(refusal);
            }
        };
        match write {
            Write::Private(message) => {
                if message.to != message.from {
                    let Message { id, from, to, content, at_s } = &message;
                    let frame = message::private(*id, from, to, content, *at_s);
                    let shards = self.people.shards_of(to);
                    self.send(Topic::User(to.clone()), Some(shards), frame, Aim::default());
                }
                let Message { id, from, at_s, .. } = message;
                self.note(|| DomainEvent::MessageStored { id, from });
                return Told::Stored { id, at_s };
            }
            Write::ToGroup(message) => {
                let Message { id, from, to, content, at_s } = &message;
                let frame = message::group(*id, from, to, content, *at_s);
                let Written::For(receivers) = &written else { return Told::Done };
                for receiver in receivers.iter().filter(|receiver| *receiver != from) {
                    let shards = self.people.shards_of(receiver);
                    let topic = Topic::User(receiver.clone());
                    self.send(topic, Some(shards), frame.clone(), Aim::default());
                }
                let Message { id, from, at_s, .. } = message;
                self.note(|| DomainEvent::MessageStored { id, from });
                return Told::Stored { id, at_s };
            }
            Write::Account { user_id, .. } => self.people.note_known(user_id),
            Write::DefineChannel { channel, description, .. } => {
                self.channels.define(channel.clone(), &description);
                return Told::Channel(self.channels.view(&channel));
            }
            Write::DropChannel { channel } => {
                self.channels.undefine(&channel);
                self.dissolve(&channel);
            }
            _ => {}
        }
        if written == Written::Unchanged { Told::Unchanged } else { Told::Done }
    }
}

impl From<Told> for Outcome {
    fn from(told: Told) -> Outcome {
        Outcome::Answer(super::order::Answer::Told(Box::new(told)))
    }
}
