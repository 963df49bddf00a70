//! What is asked of the log's engine and of other nodes, and what comes of it.

use bytes::Bytes;

use crate::id::{ChannelName, MessageId};
use crate::limits;

/// Something to be done, with an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackplaneRequest {
    /// Follow a channel's topic from here on, then read what it keeps. Answered with
    /// [`BackplaneResponse::Channel`].
    Attach {
        /// The channel.
        channel: ChannelName,
        /// The epoch to begin with where it has none.
        epoch: String,
    },
    /// Read where a channel stands, and what it keeps. Answered with [`BackplaneResponse::Channel`].
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
    /// Answered with [`BackplaneResponse::Published`].
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
    /// Forget a channel. Answered with [`BackplaneResponse::Deleted`].
    Delete {
        /// The channel.
        channel: ChannelName,
    },
    /// Put a direct or group message into the journal. Answered with [`BackplaneResponse::Journaled`].
    AppendToJournal {
        /// The message, as `state::journal` writes it.
        text: String,
    },
    /// Which entry of the journal is the newest. Answered with [`BackplaneResponse::Newest`].
    Newest,
    /// Ask other nodes. Answered with [`BackplaneResponse::Nodes`], within
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

/// A message of a channel with its offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SequencedMessage {
    /// The channel's epoch.
    pub epoch: String,
    /// Its offset.
    pub offset: u64,
    /// When Redis took it, in milliseconds since the Unix epoch by its clock.
    pub at_ms: u64,
    /// What it says.
    pub message: ChannelMessage,
}

/// What came of a [`BackplaneRequest`].
#[derive(Debug)]
pub enum BackplaneResponse {
    /// Where a channel stands; none where Redis has no such channel and was not told to begin one.
    Channel(Option<ChannelState>),
    /// The message has its offset.
    Published(MessagePosition),
    /// Whether there was such a channel.
    Deleted(bool),
    /// The message is in the journal.
    Journaled {
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
    pub kept: Vec<SequencedMessage>,
}

/// A message's position in its channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessagePosition {
    /// The channel's epoch.
    pub epoch: String,
    /// The message's offset.
    pub offset: u64,
    /// When Redis took it, in milliseconds since the Unix epoch by its clock.
    pub at_ms: u64,
}

/// Redis did not answer, or not in time, or not what was asked. It may have been done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoResponse;

/// A request with the type of its response.
#[derive(Debug)]
pub(super) struct TypedRequest<T> {
    pub(super) call: BackplaneRequest,
    /// Reads the response.
    pub(super) read: fn(BackplaneResponse) -> Result<T, NoResponse>,
    /// Whether the state asks for itself; see [`super::effect::Request::is_own`].
    pub(super) is_own: bool,
}

/// Reads a response of one kind. One of another kind counts as none.
macro_rules! reads {
    ($response:pat => $value:expr) => {
        |response| match response {
            $response => Ok($value),
            _ => Err(NoResponse),
        }
    };
}

impl TypedRequest<Option<ChannelState>> {
    fn of_channel(call: BackplaneRequest, is_own: bool) -> Self {
        TypedRequest { call, read: reads!(BackplaneResponse::Channel(found) => found), is_own }
    }

    /// Follow a channel's topic, then read what it keeps.
    pub(super) fn attach(channel: ChannelName, epoch: String) -> Self {
        let call = BackplaneRequest::Attach { channel, epoch };
        Self::of_channel(call, true)
    }

    /// Read what was missed of a channel; begin it under `epoch` where Redis has lost it.
    pub(super) fn read_missed(channel: ChannelName, after: u64, epoch: String) -> Self {
        let (limit, epoch) = (limits::CHANNEL_HEAL_MAX, Some(epoch));
        let call = BackplaneRequest::Read { channel, after, limit, epoch };
        Self::of_channel(call, true)
    }

    /// Read what a channel keeps.
    pub(super) fn read(channel: ChannelName, after: u64, limit: usize) -> Self {
        let call = BackplaneRequest::Read { channel, after, limit, epoch: None };
        Self::of_channel(call, false)
    }
}

impl TypedRequest<MessagePosition> {
    /// Give a message its offset in its channel.
    /// `epoch` is for a channel that has none. `keeping` is how many messages the channel keeps, for how
    /// many milliseconds, and how many bytes these take at most.
    pub(super) fn publish(
        message: ChannelMessage,
        epoch: String,
        (history_max, history_ms, history_bytes_max): (usize, u64, usize),
    ) -> Self {
        let call = BackplaneRequest::Publish {
            message,
            epoch,
            history_max,
            history_bytes_max,
            history_ms,
        };
        let read = reads!(BackplaneResponse::Published(position) => position);
        TypedRequest { call, read, is_own: false }
    }
}

impl TypedRequest<bool> {
    /// Delete what Redis keeps of a channel. The response says whether there was such a channel.
    pub(super) fn delete(channel: ChannelName, is_own: bool) -> Self {
        let read = reads!(BackplaneResponse::Deleted(was_there) => was_there);
        TypedRequest { call: BackplaneRequest::Delete { channel }, read, is_own }
    }
}

impl TypedRequest<MessageId> {
    /// Put a message into the journal. The response is its id.
    pub(super) fn append_to_journal(text: String) -> Self {
        let read = reads!(BackplaneResponse::Journaled { id, .. } => id);
        TypedRequest { call: BackplaneRequest::AppendToJournal { text }, read, is_own: false }
    }
}

impl TypedRequest<u64> {
    /// Read the number of the journal's newest entry.
    pub(super) fn newest() -> Self {
        let read = reads!(BackplaneResponse::Newest(newest) => newest);
        TypedRequest { call: BackplaneRequest::Newest, read, is_own: false }
    }
}

impl TypedRequest<Vec<(String, String)>> {
    /// Ask other nodes. The response has each node that answered, with its answer.
    pub(super) fn ask_nodes(nodes: Vec<String>, question: String) -> Self {
        let call = BackplaneRequest::Ask { nodes, question };
        let read = reads!(BackplaneResponse::Nodes(answers) => answers);
        TypedRequest { call, read, is_own: false }
    }
}
