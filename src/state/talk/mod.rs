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

mod administering;
mod asking;
mod envelopes;
mod following;
mod linked;
mod naming;
mod posting;
mod presence;
mod rooms;
mod sharing;
mod writing;

use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::channels::ChannelView;
use super::durable::{AccountChange, EndedToken, Message, Write};
use super::event::DomainEvent;
use super::people::{ConnectionView, OnlineUser, Opened, Person};
use super::posted::{Addressee, Post, Posted};
use super::then::Page;
use super::{Outcome, State};
use crate::address::AddressBlock;
use crate::clock::Moment;
use crate::id::{
    ChannelName, ConnId, ConnName, Epoch, MessageId, RequestId, ShardSet, Topic, UserId,
};
use crate::wire::close::Reason;
use crate::wire::command::SinceOffset;
use crate::wire::event::TimeText;
use crate::wire::frame;
use crate::wire::message::Stamp;
use crate::wire::refusal::{Code, Refusal};
use crate::wire::talk::{Envelope, Publication};

/// Where a publication comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Publisher {
    /// The program that the server is part of. Nothing counts against it.
    Program,
    /// A WebSocket connection.
    Connection(ConnId),
    /// A request from an address block; none where the address is unknown.
    Request(Option<AddressBlock>),
}

/// One thing to do among people.
#[derive(Debug)]
pub enum Talk {
    /// A JSON socket was opened.
    Opened(Opened),
    /// It has ended.
    Closed(ConnId),
    /// A user made a call: such a user exists.
    See(Person),
    /// Accounts were changed, beside the server or by it.
    Accounts(Vec<AccountChange>),
    /// Single tokens were revoked, beside the server or by it. Control sees to their sockets.
    TokensEnded(Vec<EndedToken>),
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
        aim: Aimed,
        /// The publisher's connection, where it wants no echo.
        without: Option<ConnId>,
        /// What a channel counts against that comes into being with it.
        by: Publisher,
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
        /// Whether it is their first word in a room that they have just joined by it.
        is_first: bool,
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
        aim: Aimed,
    },
    /// Who is online.
    Online,
    /// The connections there are.
    Connections {
        /// The name before the first one wanted.
        after: Option<ConnName>,
        /// How many at most.
        limit: usize,
    },
    /// One connection.
    Connection(ConnName),
    /// End a connection for good.
    Disconnect(ConnName),
    /// Subscribe a connection to a channel, or end its subscription. Whatever the channel's rules say.
    SetSubscription {
        /// The connection.
        connection: ConnName,
        /// The channel. It need not exist.
        channel: ChannelName,
        /// Whether it is to be subscribed.
        is_subscribed: bool,
    },
    /// Replace what is noted of a connection.
    SetMetadata {
        /// The connection.
        connection: ConnName,
        /// A JSON object, checked; none takes it away.
        metadata: Option<Box<RawValue>>,
    },
    /// Say something in a room in the name of a user, who need not be in it.
    ChatAs {
        /// Who is said to speak.
        person: Person,
        /// The room's channel. It need not exist.
        channel: ChannelName,
        /// What to say.
        content: String,
    },
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
    /// Messages of a user that are accepted and that the database may not have.
    Unwritten(Page),
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
    Connection(ConnName),
}

/// Whom a message is aimed at, on whatever node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Aimed {
    /// No others than these, where it is there.
    pub only: Option<Vec<ConnName>>,
    /// Not these.
    pub except: Vec<ConnName>,
}

impl Aimed {
    /// Whether it is simply everyone.
    pub fn is_everyone(&self) -> bool {
        self.only.is_none() && self.except.is_empty()
    }

    /// Those of one node.
    pub fn here(&self, node: &str) -> Aim {
        let own = |names: &[ConnName]| {
            names.iter().filter(|name| name.is_at(node)).map(|name| name.conn).collect()
        };
        Aim::new(self.only.as_deref().map(own), own(&self.except))
    }
}

/// Which of a topic's followers get a message, among this node's connections.
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
    /// A subscription of a connection that begins or ends without its asking: what it would have been
    /// answered.
    Subscription(ConnId, Box<Told>),
    /// A ping for every connection.
    PingAll,
    /// The answer to an order that waited under this number.
    Answer(u64, Box<Told>),
}

/// What came of a [`Talk`].
#[derive(Debug)]
pub enum Told {
    /// It is done, and there is nothing to say.
    Done,
    /// It was so before.
    Unchanged,
    /// The user is invited.
    Invited,
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
    /// Messages that the database may not have.
    Unwritten(Vec<Arc<Posted>>),
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

impl State {
    /// Carries out one order among people.
    pub(super) fn talk(&mut self, mut talk: Talk, now: Moment) -> Outcome {
        if let Err(refusal) = self.resolve_names(&mut talk) {
            return Told::Refused(refusal).into();
        }
        let told = match talk {
            Talk::Opened(opened) => self.opened(opened, now),
            Talk::Closed(conn) => self.closed(conn, now),
            Talk::See(person) => {
                self.people.see(&person);
                Told::Done
            }
            Talk::Accounts(changes) => self.accounts(changes),
            Talk::TokensEnded(_) => Told::Done,
            Talk::Follow { conn, channel, since } => {
                let name = channel.clone();
                let again = || Talk::Follow { conn, channel: name, since: since.clone() };
                return self.follow(conn, channel, since.as_ref(), again, now);
            }
            Talk::Unfollow { conn, channel } => self.unfollow(conn, channel, now),
            Talk::Publish { channel, publication, from, aim, without, by } => {
                let whom = (&aim, without);
                return self.publish(channel, &publication, from.as_ref(), whom, by, now);
            }
            Talk::Channels => Told::Channels(self.list_channels()),
            Talk::Channel(name) => return self.view_channel(name),
            Talk::History { channel, after, limit } => {
                return self.history(channel, after, limit, now);
            }
            Talk::Define { channel, description } => {
                return self.define(channel, description, now);
            }
            Talk::Delete(channel) => return self.delete(channel),
            Talk::Join { conn, channel } => return self.join(conn, &channel, now),
            Talk::Leave { conn, channel } => self.leave(conn, channel, now),
            Talk::Chat { conn, channel, content, id, is_first } => {
                return self.chat((conn, is_first), channel, content, id, now);
            }
            Talk::Envelope { envelope, id, from, to } => {
                return self.envelope(&envelope, id.as_ref(), &from, to, now);
            }
            Talk::Broadcast { envelope, from, to, aim } => {
                return self.broadcast(&envelope, from.as_ref(), to, &aim, now);
            }
            Talk::Online => {
                let (count, users) = self.list_online();
                Told::Online { count, users }
            }
            Talk::Connections { after, limit } => return self.views(after.as_ref(), limit),
            Talk::Connection(name) => return self.view_of(&name),
            Talk::Disconnect(name) => return self.disconnect_anywhere(&name),
            Talk::SetSubscription { connection, channel, is_subscribed } => {
                return self.set_subscription(connection, channel, is_subscribed, now);
            }
            Talk::SetMetadata { connection, metadata } => {
                return self.set_metadata(&connection, metadata);
            }
            Talk::ChatAs { person, channel, content } => {
                return self.chat_as(&person, channel, &content, now);
            }
            Talk::PingAll => {
                self.outgoing.push(Outgoing::PingAll);
                Told::Done
            }
            Talk::Write(write) => return self.check_write(write),
            Talk::Unwritten(page) => return self.unwritten(page),
            Talk::SendPrivate { from, to, content } => {
                if self.abroad.is_some() && !self.has_journal() {
                    return Told::Refused(Refusal::unavailable()).into();
                }
                if !self.people.is_known(&to) {
                    return Told::refuse(Code::NotFound, "there is no such user").into();
                }
                if self.abroad.is_some() {
                    let to = Addressee::User(to);
                    return self.post(Post { from, to, content });
                }
                let id = self.ids.next(now.wall_ms);
                let message = Message { id, from, to, content, at_s: now.unix_s() };
                return Outcome::Write(Box::new(Write::Private(message)));
            }
            Talk::SendToGroup { from, group_id, content } => {
                let id = self.ids.next(now.wall_ms);
                let message = Message { id, from, to: group_id, content, at_s: now.unix_s() };
                return Outcome::Write(Box::new(Write::ToGroup(message)));
            }
        };
        told.into()
    }

    fn stamp(&mut self, now: Moment) -> Stamp {
        Stamp { id: self.ids.next(now.wall_ms), time: TimeText::of(now.wall_ms) }
    }

    /// Sends the frame of a message to each connection of a user. Returns how many there are.
    fn send_to_user(
        &mut self,
        user_id: &UserId,
        id: &dyn std::fmt::Display,
        frame: Bytes,
    ) -> usize {
        let shards = self.people.shards_of(user_id);
        self.send(Topic::User(user_id.clone()), Some(shards), frame, Aim::default());
        let connections = self.people.of_user(user_id).count();
        tracing::debug!(
            target: "fanfare::messages",
            user = user_id.as_str(),
            %id,
            connections,
            "message pushed to user"
        );
        connections
    }

    /// Sends the frame of a channel's message, and notes it.
    fn send_to_channel(&mut self, key: u32, frame: Bytes, aim: Aim) {
        let state = self.channels.get(key);
        let (channel, shards) = (state.name.clone(), state.shards);
        tracing::debug!(
            target: "fanfare::messages",
            channel = channel.as_str(),
            bytes = frame.len(),
            "message published to channel"
        );
        self.note(|| DomainEvent::ChannelMessage {
            channel: channel.clone(),
            message: frame::payload(&frame),
        });
        self.send(Topic::Channel(channel), Some(shards), frame, aim);
    }

    fn send(&mut self, topic: Topic, shards: Option<ShardSet>, frame: Bytes, aim: Aim) {
        if shards.is_none_or(|shards| !shards.is_empty()) {
            self.outgoing.push(Outgoing::Message { topic, shards, frame, aim });
        }
    }
}

impl From<Told> for Outcome {
    fn from(told: Told) -> Outcome {
        Outcome::Answer(super::order::Answer::Told(Box::new(told)))
    }
}
