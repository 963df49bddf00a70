//! What control sends to a shard.
//!
//! Imports `id`, `state` and `wire`. Imported by `shard` and `control`.

use std::sync::Arc;

use bytes::Bytes;

use crate::id::{ConnId, Topic, UserId};
use crate::state::effect::SubscriptionSet;
use crate::state::messaging::aim::Aim;
use crate::state::reply::{Callback, SocketReply};
use crate::wire::close::Reason;

/// One thing for a shard to do.
#[derive(Debug)]
pub enum ShardMessage {
    /// A framed event for those on the shard who follow its topic.
    Event(Event),
    /// A framed event for those on the shard who follow a channel, and who follow it no more
    /// after it.
    Dissolve(Event),
    /// From here on a connection gets what is for everyone, and for its user.
    Enter(ConnId),
    /// The end of a connection.
    Close(ConnId, Reason),
    /// A subscription of a connection that begins or ends without its asking.
    Subscription(ConnId, Box<SubscriptionSet>),
    /// Tokens of a user count no more: close the sockets that were opened with one of them. None:
    /// whose they are is not known.
    CheckTokens(Option<UserId>),
    /// A protocol ping for every connection.
    PingAll,
    /// A protocol ping for one connection, whose user waits for a seat.
    Probe(ConnId),
    /// The reply to a connection's oldest open command.
    Reply(ConnId, SocketReply),
    /// The reply to an HTTP request served on the shard's thread.
    HttpReply(Callback),
    /// The server stops: send everyone away, spread over so many milliseconds.
    Drain {
        /// The time to spread over.
        window_ms: u64,
    },
}

/// An event, framed once for all shards.
#[derive(Debug, Clone)]
pub struct Event {
    /// What it is about.
    pub topic: Topic,
    /// The whole WebSocket frame, or several, one after the other.
    pub frame: Bytes,
    /// How many frames that are.
    pub frames: u32,
    /// When the command that caused it was accepted, in the clock's nanoseconds.
    pub accepted_ns: u64,
    /// Which of the followers get it; none = all.
    pub aim: Option<Arc<Aim>>,
}
