//! Replies to the commands about connections, channels, rooms and messages.

use std::sync::Arc;

use bytes::Bytes;

use crate::id::{ChannelName, Epoch, MessageId, UserId};
use crate::state::people::{ConnectionView, OnlineUser};

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
