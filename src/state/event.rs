//! What happened, for a program that embeds the server and wants to know.

use bytes::Bytes;

use super::people::Person;
use crate::id::{ChannelName, ConnId, MessageId, ServiceName, UserId};

/// Something that happened.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum DomainEvent {
    /// Instances of a service changed, or its mark did.
    ServiceChanged {
        /// The service.
        service: ServiceName,
        /// Its revision after it.
        revision: u64,
        /// Whether expiry is held.
        degraded: bool,
    },
    /// A JSON socket was opened.
    ConnectionOpened {
        /// The connection.
        connection: ConnId,
        /// Who is signed in on it.
        user: Option<Person>,
    },
    /// It has ended.
    ConnectionClosed {
        /// The connection.
        connection: ConnId,
        /// Who was signed in on it.
        user: Option<Person>,
    },
    /// The first connection of a user was opened.
    UserOnline(Person),
    /// The last connection of a user has ended.
    UserOffline(Person),
    /// A user came into a room, or a channel that tells who is there.
    UserJoined {
        /// The channel.
        channel: ChannelName,
        /// Who.
        user: Person,
    },
    /// A user left it.
    UserLeft {
        /// The channel.
        channel: ChannelName,
        /// Who.
        user: Person,
    },
    /// A message was published to a channel.
    ChannelMessage {
        /// The channel.
        channel: ChannelName,
        /// The message as its followers get it: a JSON text.
        message: Bytes,
    },
    /// A channel was deleted.
    ChannelDeleted(ChannelName),
    /// A direct or group message is on disk.
    MessageStored {
        /// Its id.
        id: MessageId,
        /// Who wrote it.
        from: UserId,
    },
}
