//! What an order that was asked of others goes on with.
//!
//! Imports `id`, `wire` and its siblings. Imported by `state` and `control`.

use super::call::ChannelMessage;
use super::people::Person;
use super::posted::Post;
use crate::id::{ChannelName, ConnId, ConnName, MessageId, RequestId, UserId};
use crate::wire::message::Stamp;

/// What to do with the answer of a [`crate::state::call::Call`].
#[derive(Debug, Clone)]
pub enum Then {
    /// Tell the publisher of its message's place.
    Published {
        /// The message.
        message: ChannelMessage,
        /// Its id.
        id: MessageId,
        /// The publisher's connection, where it wants no echo.
        without: Option<ConnId>,
    },
    /// Tell a room's speaker.
    Chatted {
        /// The message.
        message: ChannelMessage,
        /// Who speaks.
        conn: ConnId,
        /// The same as a person.
        person: Person,
        /// What is said.
        content: String,
        /// The request's own id.
        id: Option<RequestId>,
        /// What identifies the message.
        stamp: Stamp,
        /// Whether the speaker's copy comes with the answer.
        has_copy: bool,
        /// Whether they have joined the room by it.
        is_first: bool,
    },
    /// Add up what an aimed message of a channel reached.
    Aimed {
        /// The channel.
        channel: ChannelName,
        /// The message's id.
        id: MessageId,
        /// What it reached here.
        here: usize,
    },
    /// Add up what an envelope reached.
    Delivered {
        /// The envelope's id, as JSON text.
        id: Box<str>,
        /// What it reached here.
        here: usize,
        /// Whom somebody has to know.
        user: Option<UserId>,
    },
    /// Say whether the connection that it was for is there.
    Found {
        /// The envelope's id, as JSON text; none where nothing was sent.
        id: Option<Box<str>>,
    },
    /// A connection's view.
    Connection,
    /// The connections of all nodes.
    Connections {
        /// The name before the first one wanted.
        after: Option<ConnName>,
        /// How many at most.
        limit: usize,
    },
    /// A channel's messages, for who asked.
    History {
        /// The channel.
        channel: ChannelName,
    },
    /// A channel's view.
    View {
        /// The channel.
        channel: ChannelName,
    },
    /// The channel's messages are deleted.
    Deleted {
        /// The channel.
        channel: ChannelName,
    },
    /// The message is in the journal.
    Posted {
        /// The message.
        post: Post,
    },
    /// Messages of a user that the database may not have.
    Unwritten(Page),
    /// A channel's topic is followed from here on.
    Attached {
        /// The channel.
        channel: ChannelName,
        /// The epoch that it came here with: it may have been left since, and come again.
        epoch: String,
    },
    /// What was missed of a channel.
    Healed {
        /// The channel.
        channel: ChannelName,
        /// Its epoch here when that was asked.
        epoch: String,
        /// Where it stood then.
        after: u64,
    },
    /// Nothing.
    Nothing,
}

/// Which of a user's messages are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Whose.
    pub user: UserId,
    /// The id before the first one wanted.
    pub after: Option<MessageId>,
    /// Only direct ones from and to this user.
    pub with: Option<UserId>,
    /// How many at most.
    pub limit: usize,
}
