//! Commands about connections, users, channels, rooms and messages. `state::command` lists them with
//! their replies.

use serde_json::value::RawValue;

use super::aim::{Aimed, To};
use crate::address::AddressBlock;
use crate::id::{ChannelName, ConnId, ConnName, RequestId, UserId};
use crate::state::audit::Note;
use crate::state::durable::{AccountChange, EndedToken, Write};
use crate::state::journal::Page;
use crate::state::people::Person;
use crate::wire::command::SinceOffset;
use crate::wire::talk::{Envelope, Publication};

pub use crate::state::people::Opened;

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

/// Have the audit log note an action that no command of the state carries out.
#[derive(Debug)]
pub struct NoteAction(pub Note);

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
