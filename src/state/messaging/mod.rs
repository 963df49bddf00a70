//! Messaging: connections and users, channels and rooms, direct and group messages.
//!
//! A message is framed once, and goes to the followers of a topic, as the changes of a service do.
//! [`Aim`] names the connections of the topic that it is for, or is not for.
//!
//! # Promises
//!
//! * A count of receivers is exact at the moment of the command: each JSON socket that has been
//!   welcomed and has not ended is counted once.
//! * Presence and room events are sent after the fact that they tell of.
//!
//! Imports its siblings, `id`, `limits` and `wire`. Imported by `state`, `mailbox`, `shard`,
//! `control` and `http`.

mod admin;
mod channel;
mod cluster_channel;
mod direct_message;
mod envelope;
mod node_request;
mod presence;
mod replicated;
mod room;
mod stored;
mod user_name;

use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::State;
use super::channels::ChannelView;
use super::command::{Ask, Command, commands};
use super::durable::{AccountChange, EndedToken, Write, Written};
use super::effect::{Effect, Message};
use super::journal::JournalEntry;
use super::people::{ConnectionView, OnlineUser, Opened, Person};
use super::reply::{Reply, ReplyTo};
use crate::address::AddressBlock;
use crate::clock::Moment;
use crate::id::{
    ChannelName, ConnId, ConnName, Epoch, MessageId, RequestId, ShardSet, Topic, UserId,
};
use crate::wire::command::SinceOffset;
use crate::wire::event::TimeText;
use crate::wire::message::Stamp;
use crate::wire::refusal::{Code, Refusal};
use crate::wire::talk::{Envelope, Publication};

pub(super) use channel::is_defined;
pub use direct_message::Page;
pub(super) use replicated::PlacedReply;

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

commands! {
    /// A command about connections, users, channels, rooms and messages.
    MessagingCommand wrapped by |command| Command::Messaging(Box::new(command));
    Opened => (),
    Closed => (),
    SeeUser => (),
    ApplyAccounts => (),
    EndTokens => (),
    Follow => Followed,
    Unfollow => Unfollowed,
    Publish => Published,
    ListChannels => Vec<ChannelView>,
    DescribeChannel => Option<ChannelView>,
    ReadHistory => History,
    DefineChannel => ChannelView,
    DeleteChannel => (),
    JoinRoom => Joined,
    LeaveRoom => Left,
    Chat => Chatted,
    SendEnvelope => Delivered,
    Broadcast => Delivered,
    ListOnline => Online,
    ListConnections => Connections,
    DescribeConnection => Option<Box<ConnectionView>>,
    Disconnect => (),
    SetSubscription => (),
    SetMetadata => (),
    ChatAs => Published,
    PingAll => (),
    StoreChange => Written,
    SendPrivate => Stored,
    SendToGroup => Stored,
    ReadUnwritten => Vec<Arc<JournalEntry>>,
}

/// A connection has ended.
#[derive(Debug)]
pub struct Closed(pub ConnId);

/// A user made a call: such a user exists.
#[derive(Debug)]
pub struct SeeUser(pub Person);

/// Accounts were changed, beside the server or by it.
#[derive(Debug)]
pub struct ApplyAccounts(pub Vec<AccountChange>);

/// Single tokens were revoked, beside the server or by it. Control closes their sockets.
#[derive(Debug)]
pub struct EndTokens(pub Vec<EndedToken>);

/// Subscribe a connection to a channel.
#[derive(Debug)]
pub struct Follow {
    /// The connection that will.
    pub conn: ConnId,
    /// The channel. It need not exist.
    pub channel: ChannelName,
    /// Where the client stands already.
    pub since: Option<SinceOffset>,
}

/// End a connection's subscription to a channel.
#[derive(Debug)]
pub struct Unfollow {
    /// The connection that does.
    pub conn: ConnId,
    /// The channel.
    pub channel: ChannelName,
}

/// Publish to a channel.
#[derive(Debug)]
pub struct Publish {
    /// The channel. It need not exist.
    pub channel: ChannelName,
    /// What to publish.
    pub publication: Publication,
    /// Who publishes.
    pub from: Option<UserId>,
    /// Who of the followers gets it. A message for some only is not kept.
    pub aim: Aimed,
    /// The publisher's connection, where it wants no echo.
    pub without: Option<ConnId>,
    /// What a channel counts against that comes into being with it.
    pub by: Publisher,
}

/// List the channels there are.
#[derive(Debug)]
pub struct ListChannels;

/// Describe one channel.
#[derive(Debug)]
pub struct DescribeChannel(pub ChannelName);

/// Read a channel's kept messages.
#[derive(Debug)]
pub struct ReadHistory {
    /// The channel.
    pub channel: ChannelName,
    /// The offset before the first one wanted.
    pub after: u64,
    /// How many at most.
    pub limit: usize,
}

/// Define a channel.
#[derive(Debug)]
pub struct DefineChannel {
    /// Its name.
    pub channel: ChannelName,
    /// What it is for.
    pub description: String,
}

/// Delete a channel, its history and its definition.
#[derive(Debug)]
pub struct DeleteChannel(pub ChannelName);

/// Join a room.
#[derive(Debug)]
pub struct JoinRoom {
    /// The connection that does.
    pub conn: ConnId,
    /// The room's channel.
    pub channel: ChannelName,
}

/// Leave a room.
#[derive(Debug)]
pub struct LeaveRoom {
    /// The connection that does.
    pub conn: ConnId,
    /// The room's channel.
    pub channel: ChannelName,
}

/// Say something in a room.
#[derive(Debug)]
pub struct Chat {
    /// The connection that does.
    pub conn: ConnId,
    /// The room's channel. None: the one joined last.
    pub channel: Option<ChannelName>,
    /// What to say.
    pub content: String,
    /// The request's own id.
    pub id: Option<RequestId>,
}

/// Send an envelope from a user, to one user or to everyone else who is online.
#[derive(Debug)]
pub struct SendEnvelope {
    /// What to send.
    pub envelope: Envelope,
    /// The request's own id.
    pub id: Option<RequestId>,
    /// Who sends it.
    pub from: UserId,
    /// Whom it is for.
    pub to: Option<UserId>,
}

/// Send an envelope from a program.
#[derive(Debug)]
pub struct Broadcast {
    /// What to send.
    pub envelope: Envelope,
    /// Who sends it, where that is known.
    pub from: Option<UserId>,
    /// Whom it is for.
    pub to: To,
    /// Who of them gets it.
    pub aim: Aimed,
}

/// List who is online.
#[derive(Debug)]
pub struct ListOnline;

/// List the connections there are.
#[derive(Debug)]
pub struct ListConnections {
    /// The name before the first one wanted.
    pub after: Option<ConnName>,
    /// How many at most.
    pub limit: usize,
}

/// Describe one connection.
#[derive(Debug)]
pub struct DescribeConnection(pub ConnName);

/// End a connection for good.
#[derive(Debug)]
pub struct Disconnect(pub ConnName);

/// Subscribe a connection to a channel, or end its subscription, whatever the channel's rules say.
#[derive(Debug)]
pub struct SetSubscription {
    /// The connection.
    pub connection: ConnName,
    /// The channel. It need not exist.
    pub channel: ChannelName,
    /// Whether it is to be subscribed.
    pub is_subscribed: bool,
}

/// Replace what is noted of a connection.
#[derive(Debug)]
pub struct SetMetadata {
    /// The connection.
    pub connection: ConnName,
    /// A JSON object, checked; none takes it away.
    pub metadata: Option<Box<RawValue>>,
}

/// Say something in a room in the name of a user, who need not be in it.
#[derive(Debug)]
pub struct ChatAs {
    /// Who is said to speak.
    pub person: Person,
    /// The room's channel. It need not exist.
    pub channel: ChannelName,
    /// What to say.
    pub content: String,
}

/// Send protocol pings to every connection.
#[derive(Debug)]
pub struct PingAll;

/// Change accounts or groups, which are in the database alone.
#[derive(Debug)]
pub struct StoreChange(pub Write);

/// Send a message to a user, to be stored.
#[derive(Debug)]
pub struct SendPrivate {
    /// Who writes it.
    pub from: UserId,
    /// Whom it is for.
    pub to: UserId,
    /// What it says.
    pub content: String,
}

/// Send a message to a group, to be stored.
#[derive(Debug)]
pub struct SendToGroup {
    /// Who writes it.
    pub from: UserId,
    /// Which group it is for.
    pub group_id: String,
    /// What it says.
    pub content: String,
}

/// Read messages of a user that are accepted and that the database may not have.
#[derive(Debug)]
pub struct ReadUnwritten(pub Page);

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

    /// The nodes that may have some of them, of those given.
    fn nodes(&self, nodes: Vec<String>) -> Vec<String> {
        let Some(only) = &self.only else { return nodes };
        let is_meant = |node: &String| only.iter().any(|name| name.node.as_deref() == Some(node));
        nodes.into_iter().filter(is_meant).collect()
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

/// Where a channel stands, for a new follower.
#[derive(Debug)]
pub struct Followed {
    /// The channel.
    pub channel: ChannelName,
    /// The epoch of its offsets.
    pub epoch: Epoch,
    /// The newest offset.
    pub offset: u64,
    /// Whether a resume succeeded; none where none was asked for.
    pub recovered: Option<bool>,
    /// The frames missed.
    pub replay: Vec<Bytes>,
}

/// The channel is not followed by subscription any more.
#[derive(Debug)]
pub struct Unfollowed {
    /// The channel.
    pub channel: ChannelName,
    /// Whether the connection still gets its messages, being in its room.
    pub still_follows: bool,
}

/// A message's place.
#[derive(Debug)]
pub struct Published {
    /// The channel.
    pub channel: ChannelName,
    /// The epoch of its offsets.
    pub epoch: Epoch,
    /// Its offset; none where it was aimed and is not kept.
    pub offset: Option<u64>,
    /// Its id.
    pub message_id: MessageId,
    /// How many connections it goes to.
    pub delivered_to: usize,
}

/// A channel's messages.
#[derive(Debug)]
pub struct History {
    /// The epoch of their offsets.
    pub epoch: Epoch,
    /// The frames.
    pub frames: Vec<Bytes>,
}

/// The room was joined.
#[derive(Debug)]
pub struct Joined {
    /// The room's channel.
    pub channel: ChannelName,
    /// The epoch of its offsets.
    pub epoch: Epoch,
    /// The newest offset.
    pub offset: u64,
    /// Who is in it, up to a bound.
    pub users: Vec<(UserId, Arc<str>)>,
    /// How many are in it.
    pub count: usize,
}

/// The room was left.
#[derive(Debug)]
pub struct Left {
    /// The room's channel.
    pub channel: ChannelName,
    /// Whether the connection still gets its messages, being subscribed.
    pub still_follows: bool,
}

/// The room has heard it.
#[derive(Debug)]
pub struct Chatted {
    /// The room's channel.
    pub channel: ChannelName,
    /// The sender's own copy, where it is not the one of all others.
    pub copy: Option<Bytes>,
}

/// How many connections an envelope goes to.
#[derive(Debug)]
pub struct Delivered {
    /// So many.
    pub count: usize,
    /// The envelope's id, as JSON text.
    pub id: Box<str>,
}

/// Who is online.
#[derive(Debug)]
pub struct Online {
    /// How many.
    pub count: usize,
    /// Who, up to a bound.
    pub users: Vec<OnlineUser>,
}

/// The connections.
#[derive(Debug)]
pub struct Connections {
    /// How many there are.
    pub total: usize,
    /// Those asked for.
    pub connections: Vec<ConnectionView>,
}

/// A direct or group message is accepted: on disk, or among several nodes in the journal.
#[derive(Debug)]
pub struct Stored {
    /// Its id.
    pub id: MessageId,
    /// When, in seconds since the Unix epoch.
    pub at_s: u64,
}

impl State {
    /// Carries out one command.
    pub(super) fn apply_messaging(&mut self, command: MessagingCommand, now: Moment) {
        use MessagingCommand as C;
        match command {
            C::Opened(opened, reply) => {
                self.opened(opened, now);
                self.reply(reply, Ok(()));
            }
            C::Closed(Closed(conn), reply) => {
                self.closed(conn, now);
                self.reply(reply, Ok(()));
            }
            C::SeeUser(SeeUser(person), reply) => {
                self.people.see(&person);
                self.reply(reply, Ok(()));
            }
            C::ApplyAccounts(ApplyAccounts(changes), reply) => {
                self.apply_accounts(changes);
                self.reply(reply, Ok(()));
            }
            C::EndTokens(EndTokens(_), reply) => self.reply(reply, Ok(())),
            C::Follow(follow, reply) => {
                self.follow(follow, Attempt::First, now, |state, result| {
                    state.reply(reply, result);
                });
            }
            C::Unfollow(Unfollow { conn, channel }, reply) => {
                let unfollowed = self.unfollow(conn, channel, now);
                self.reply(reply, Ok(unfollowed));
            }
            C::Publish(publish, reply) => self.publish(publish, reply, now),
            C::ListChannels(ListChannels, reply) => {
                let channels = self.list_channels();
                self.reply(reply, Ok(channels));
            }
            C::DescribeChannel(DescribeChannel(name), reply) => self.describe_channel(name, reply),
            C::ReadHistory(read, reply) => self.read_history(read, reply, now),
            C::DefineChannel(define, reply) => self.define_channel(define, reply, now),
            C::DeleteChannel(DeleteChannel(channel), reply) => self.delete_channel(channel, reply),
            C::JoinRoom(join, reply) => self.join(join, reply, Attempt::First, now),
            C::LeaveRoom(LeaveRoom { conn, channel }, reply) => {
                let left = self.leave(conn, channel, now);
                self.reply(reply, Ok(left));
            }
            C::Chat(chat, reply) => self.chat(chat, reply, now),
            C::SendEnvelope(envelope, reply) => self.send_envelope(envelope, reply, now),
            C::Broadcast(broadcast, reply) => self.broadcast(broadcast, reply, now),
            C::ListOnline(ListOnline, reply) => {
                let online = self.list_online();
                self.reply(reply, Ok(online));
            }
            C::ListConnections(list, reply) => self.list_connections(list, reply),
            C::DescribeConnection(DescribeConnection(name), reply) => {
                self.describe_connection(&name, reply);
            }
            C::Disconnect(Disconnect(name), reply) => self.disconnect_anywhere(&name, reply),
            C::SetSubscription(set, reply) => self.set_subscription(set, reply, now),
            C::SetMetadata(set, reply) => self.set_metadata(set, reply),
            C::ChatAs(chat, reply) => self.chat_as(chat, reply, now),
            C::PingAll(PingAll, reply) => {
                self.push(Effect::PingAll);
                self.reply(reply, Ok(()));
            }
            C::StoreChange(StoreChange(write), reply) => self.store_change(write, reply),
            C::SendPrivate(send, reply) => self.send_private(send, reply, now),
            C::SendToGroup(send, reply) => self.send_to_group(send, reply, now),
            C::ReadUnwritten(ReadUnwritten(page), reply) => self.read_unwritten(page, reply),
        }
    }

    fn refuse<T: Reply>(&mut self, reply: ReplyTo<T>, code: Code, message: &'static str) {
        self.reply(reply, Err(Refusal::new(code, message)));
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

    /// Sends the frame of a channel's message.
    fn send_to_channel(&mut self, key: u32, frame: Bytes, aim: Aim) {
        let state = self.channels.get(key);
        let (channel, shards) = (state.name.clone(), state.shards);
        tracing::debug!(
            target: "fanfare::messages",
            channel = channel.as_str(),
            bytes = frame.len(),
            "message published to channel"
        );
        let (topic, shards) = (Topic::Channel(channel), Some(shards));
        self.push(Effect::ChannelMessage(Message { topic, shards, frame, aim }));
    }

    fn send(&mut self, topic: Topic, shards: Option<ShardSet>, frame: Bytes, aim: Aim) {
        if shards.is_none_or(|shards| !shards.is_empty()) {
            self.push(Effect::Message(Message { topic, shards, frame, aim }));
        }
    }
}

/// How often a command has come this far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    /// It has not waited yet.
    First,
    /// What it waited for has come.
    AfterWait,
}

/// The refusal of whatever names a user who was never seen.
fn no_user() -> Refusal {
    Refusal::new(Code::NotFound, "there is no such user")
}
