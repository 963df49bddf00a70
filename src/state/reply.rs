//! Replies: each command names the type of its reply and carries the address that the reply goes to.
//!
//! ```text
//! Command { .., ReplyTo<T> } --> state --> ReplyTo::with(Result<T, Refusal>) --> Delivery --> control
//! ```
//!
//! A reply and its address have the same type, so the reply to one command cannot reach the caller of
//! another. A socket's address also carries what its shard has to repeat in the frame, the
//! [`Reply::SocketContext`]. Its type is [`Infallible`] where no socket can ask.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::channels::view::ChannelView;
use super::durable::Written;
use super::journal::JournalEntry;
use super::management::item::ItemRow;
use super::management::operation::OperationRow;
use super::messaging::replies::{
    Chatted, Connections, Delivered, Followed, History, Joined, Left, Online, Published, Stored,
    Unfollowed,
};
use super::people::ConnectionView;
use super::registry::listing::InstanceListing;
use super::registry::replies::{FoundInstance, PutReply, RefusedEntry, ServiceLeases};
use super::registry::views::{
    Delta, ServiceSnapshot, ServiceViews, Subscribed, SubscribedToAll, View,
};
use crate::id::{ConnId, Dialect, ServiceName, ShardId};
use crate::wire::artemis::Heartbeat;
use crate::wire::command::{Family, Rejected};
use crate::wire::instance::{Instance, InstanceKey};
use crate::wire::preference::Preference;
use crate::wire::refusal::Refusal;

/// The reply to one kind of command.
pub trait Reply: fmt::Debug + Send + Sized + 'static {
    /// What the socket's shard needs beside the reply, to write the frame.
    type SocketContext: fmt::Debug + Send + 'static;

    /// In whose words a socket hears that the command was refused.
    const FAMILY: Family = Family::Typed;

    /// The reply as a shard takes it.
    fn to_socket(context: Self::SocketContext, result: Result<Self, Refusal>) -> SocketReply;
}

/// Where the reply to a command goes.
#[derive(Debug)]
pub enum ReplyTo<T: Reply> {
    /// To a connection, through its shard.
    Socket(ConnId, T::SocketContext),
    /// To an HTTP request, through the shard that serves it: the reply then wakes a task of the
    /// shard's own thread.
    Http(ShardId, oneshot::Sender<Result<T, Refusal>>),
    /// To the program that embeds the server, on a thread of its own.
    Program(oneshot::Sender<Result<T, Refusal>>),
    /// Nowhere: a shard, the store, another node or the server itself speaks.
    Nobody,
}

impl<T: Reply> ReplyTo<T> {
    /// The connection that waits for the reply.
    pub fn conn(&self) -> Option<ConnId> {
        match self {
            ReplyTo::Socket(conn, _) => Some(*conn),
            _ => None,
        }
    }

    /// Addresses a reply. None where nobody waits for it.
    pub fn with(self, result: Result<T, Refusal>) -> Option<Delivery> {
        match self {
            ReplyTo::Socket(conn, context) => {
                Some(Delivery::Socket(conn, T::to_socket(context, result)))
            }
            // Fails only where the caller has stopped waiting.
            ReplyTo::Http(shard, sender) => {
                Some(Delivery::Http(shard, Callback::new(move || drop(sender.send(result)))))
            }
            ReplyTo::Program(sender) => {
                Some(Delivery::Program(Callback::new(move || drop(sender.send(result)))))
            }
            ReplyTo::Nobody => {
                if let Err(refusal) = result {
                    tracing::debug!(%refusal, "a command that nobody waits for was refused");
                }
                None
            }
        }
    }
}

/// A reply on its way.
#[derive(Debug)]
pub enum Delivery {
    /// To a connection, through its shard.
    Socket(ConnId, SocketReply),
    /// To an HTTP request, on the thread of the shard that serves it.
    Http(ShardId, Callback),
    /// To the program that embeds the server.
    Program(Callback),
}

/// Hands a reply to its caller.
pub struct Callback(Box<dyn FnOnce() + Send>);

impl Callback {
    fn new(call: impl FnOnce() + Send + 'static) -> Callback {
        Callback(Box::new(call))
    }

    /// Hands it over.
    pub fn call(self) {
        (self.0)();
    }
}

impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Callback")
    }
}

/// A reply to a socket's command, as its shard takes it.
#[derive(Debug)]
pub enum SocketReply {
    /// To a batch of registrations, renewals or removals.
    Batch(BatchContext, Result<Vec<RefusedEntry>, Refusal>),
    /// To a subscription to a service.
    Subscribed(SubscribeContext, Result<Box<Subscribed>, Refusal>),
    /// To a subscription to all services.
    SubscribedToAll((IsHeavy, Dialect), Result<SubscribedToAll, Refusal>),
    /// To the shard's own question for a snapshot that it owes the connection.
    Snapshot(Option<ServiceSnapshot>),
    /// To a subscription to a channel.
    Followed(IsHeavy, Result<Followed, Refusal>),
    /// To the end of a subscription to a channel.
    Unfollowed(EndedBy, Result<Unfollowed, Refusal>),
    /// To a published message.
    Published(Result<Published, Refusal>),
    /// The list of channels.
    Channels(Result<Vec<ChannelView>, Refusal>),
    /// To joining a room.
    Joined(Result<Joined, Refusal>),
    /// To leaving a room.
    Left(EndedBy, Result<Left, Refusal>),
    /// To a room message.
    Chatted(Result<Chatted, Refusal>),
    /// To an envelope.
    Delivered(Result<Delivered, Refusal>),
}

/// What the reply to a batch repeats.
#[derive(Debug)]
pub enum BatchContext {
    /// The instances to be registered, and those that were not well formed.
    Register {
        /// In the order of the command.
        sent: Vec<Instance>,
        /// Those the shard rejected.
        rejected: Vec<Rejected>,
    },
    /// The instances whose leases were to be renewed, and those that were not well formed.
    Heartbeat {
        /// In the order of the command.
        sent: Vec<InstanceKey>,
        /// Those the shard rejected.
        rejected: Vec<Rejected>,
    },
    /// The instances that could not be removed because they were not well formed.
    Unregister {
        /// Those the shard rejected.
        rejected: Vec<Rejected>,
    },
    /// A piece of a heartbeat on Artemis' socket.
    ArtemisHeartbeat {
        /// The whole heartbeat.
        heartbeat: Box<Heartbeat>,
        /// How many instances the piece has.
        count: usize,
    },
    /// Instances that are registered from such a heartbeat.
    ArtemisRegister,
}

/// What goes with a subscription to a service.
#[derive(Debug)]
pub struct SubscribeContext {
    /// The service.
    pub service: ServiceName,
    /// Whether the connection waits for the reply.
    pub is_heavy: IsHeavy,
    /// The form of the changes.
    pub dialect: Dialect,
    /// Whose instances stand first in the answer.
    pub prefer: Option<Box<Preference>>,
}

/// Whether the connection reads no further until the reply is there, because its size is not known.
#[derive(Debug, Clone, Copy)]
pub struct IsHeavy(pub bool);

/// Who ended a subscription to a channel, or left a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndedBy {
    /// The client.
    Client,
    /// Its shard: the connection's new token does not allow it.
    Token,
}

/// Replies that a socket takes with what their shard gave along.
macro_rules! replies_with_context {
    ($($reply:ty, $context:ty => $variant:ident),* $(,)?) => {$(
        impl Reply for $reply {
            type SocketContext = $context;

            fn to_socket(context: $context, result: Result<Self, Refusal>) -> SocketReply {
                SocketReply::$variant(context, result)
            }
        }
    )*};
}

replies_with_context! {
    Vec<RefusedEntry>, BatchContext => Batch,
    Box<Subscribed>, SubscribeContext => Subscribed,
    SubscribedToAll, (IsHeavy, Dialect) => SubscribedToAll,
    Followed, IsHeavy => Followed,
    Unfollowed, EndedBy => Unfollowed,
    Left, EndedBy => Left,
}

impl Reply for Option<ServiceSnapshot> {
    type SocketContext = ();

    fn to_socket((): (), result: Result<Self, Refusal>) -> SocketReply {
        SocketReply::Snapshot(result.ok().flatten())
    }
}

impl Reply for Delivered {
    type SocketContext = ();

    const FAMILY: Family = Family::Envelope;

    fn to_socket((): (), result: Result<Self, Refusal>) -> SocketReply {
        SocketReply::Delivered(result)
    }
}

/// Replies that a socket takes as they are.
macro_rules! plain_replies {
    ($($reply:ty => $variant:ident),* $(,)?) => {$(
        impl Reply for $reply {
            type SocketContext = ();

            fn to_socket((): (), result: Result<Self, Refusal>) -> SocketReply {
                SocketReply::$variant(result)
            }
        }
    )*};
}

plain_replies! {
    Published => Published,
    Vec<ChannelView> => Channels,
    Joined => Joined,
    Chatted => Chatted,
}

/// Replies to commands that no socket sends.
macro_rules! replies_beside_sockets {
    ($($reply:ty),* $(,)?) => {$(
        impl Reply for $reply {
            type SocketContext = Infallible;

            fn to_socket(context: Infallible, _: Result<Self, Refusal>) -> SocketReply {
                match context {}
            }
        }
    )*};
}

replies_beside_sockets! {
    (),
    bool,
    Vec<OperationRow>,
    Vec<ItemRow>,
    Vec<Arc<View>>,
    ServiceViews,
    Option<Delta>,
    Vec<ServiceLeases>,
    InstanceListing,
    Option<FoundInstance>,
    PutReply,
    ChannelView,
    Option<ChannelView>,
    History,
    Online,
    Connections,
    Option<Box<ConnectionView>>,
    Vec<Arc<JournalEntry>>,
    Written,
    Stored,
}
