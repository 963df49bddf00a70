//! What is asked of the log's engine and of other nodes, and what comes of it.
//!
//! Imports `id`. Imported by `state`, `cluster` and `control`.

use bytes::Bytes;

use crate::id::{ChannelName, MessageId};

/// Something to be done, with an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Follow a channel's topic from here on, then read what it keeps. Answered with
    /// [`Reply::Channel`].
    Attach {
        /// The channel.
        channel: ChannelName,
        /// The epoch to begin with where it has none.
        epoch: String,
    },
    /// Read where a channel stands, and what it keeps. Answered with [`Reply::Channel`].
    Read {
        /// The channel.
        channel: ChannelName,
        /// The offset before the first message wanted.
        after: u64,
        /// How many at most.
        limit: usize,
        /// The epoch to begin with where it has none; none leaves it alone.
        epoch: Option<String>,
    },
    /// Give a message the channel's next offset, keep it, and tell all nodes that follow.
    /// Answered with [`Reply::Published`].
    Publish {
        /// The message.
        message: ChannelMessage,
        /// The epoch to begin with where the channel has none.
        epoch: String,
        /// How many messages the channel keeps; 0 keeps none.
        history_max: usize,
        /// How many bytes these have at most.
        history_bytes_max: usize,
        /// For how long it keeps them, in milliseconds.
        history_ms: u64,
    },
    /// Forget a channel. Answered with [`Reply::Deleted`].
    Delete {
        /// The channel.
        channel: ChannelName,
    },
    /// Put a direct or group message into the journal. Answered with [`Reply::Posted`].
    Post {
        /// The message, as `state::posted` writes it.
        text: String,
    },
    /// Which entry of the journal is the newest. Answered with [`Reply::Newest`].
    Newest,
    /// Ask other nodes. Answered with [`Reply::Nodes`], within
    /// [`crate::limits::CLUSTER_ASK_MS`].
    Ask {
        /// Which.
        nodes: Vec<String>,
        /// What: a JSON text.
        question: String,
    },
}

/// A message of a channel on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelMessage {
    /// The channel.
    pub channel: ChannelName,
    /// A JSON object, without the offset.
    pub text: Bytes,
    /// The connection that does not get it, by its full name.
    pub except: Option<String>,
}

/// A message of a channel in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The channel's epoch.
    pub epoch: String,
    /// Its offset.
    pub offset: u64,
    /// When Redis took it, in milliseconds since the Unix epoch by its clock.
    pub at_ms: u64,
    /// What it says.
    pub message: ChannelMessage,
}

/// What came of a [`Call`].
#[derive(Debug)]
pub enum Reply {
    /// Where a channel stands; none where Redis has no such channel and was not told to begin one.
    Channel(Option<ChannelState>),
    /// The message has its place.
    Published {
        /// The channel's epoch.
        epoch: String,
        /// Its offset.
        offset: u64,
        /// When Redis took it, in milliseconds since the Unix epoch by its clock.
        at_ms: u64,
    },
    /// Whether there was such a channel.
    Deleted(bool),
    /// The message is in the journal.
    Posted {
        /// Its id.
        id: MessageId,
        /// Its number in the journal.
        #[cfg_attr(not(any(test, feature = "internals")), expect(dead_code, reason = "for tests"))]
        sequence: u64,
    },
    /// The number of the journal's newest entry; 0 where there is none.
    Newest(u64),
    /// What each node answered. Those that did not are missing.
    Nodes(Vec<(String, String)>),
    /// Redis did not answer, or not in time. What was asked may have been done.
    Failed,
}

/// A channel as Redis has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelState {
    /// The epoch of its offsets.
    pub epoch: String,
    /// The newest offset.
    pub offset: u64,
    /// Kept messages, oldest first; those too old may be among them.
    pub kept: Vec<Placed>,
}
