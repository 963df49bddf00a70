//! The items of streams and views: states and changes of services, messages of channels and to
//! users.
//!
//! Plain data, without a connection. Imports `error`. Imported by everything above.

use std::sync::Arc;

use fanfare_protocol::id::ServiceName;
use fanfare_protocol::instance::Instance;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::error::Error;

/// The kind of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeType {
    /// It is new.
    New,
    /// Its description has changed.
    Change,
    /// It is gone.
    Delete,
}

/// One change of one instance.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceChange {
    /// The instance after the change; before it, if it is gone.
    #[serde(deserialize_with = "shared")]
    pub instance: Arc<Instance>,
    /// The kind of the change.
    pub change_type: ChangeType,
    /// The time of the change, RFC 3339 in UTC.
    #[serde(default)]
    pub change_time: String,
    /// The reason: `register`, `update`, `unregister`, `expired`, `pull_out` or `pull_in`.
    #[serde(default)]
    pub reason: String,
}

fn shared<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<Instance>, D::Error> {
    Instance::deserialize(from).map(Arc::new)
}

/// A service as of one revision.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceState {
    /// The service's canonical name.
    pub service: ServiceName,
    /// The epoch of the revision. Another epoch is another count.
    pub epoch: Box<str>,
    /// The number of changes of the service in this epoch.
    pub revision: u64,
    /// Whether self-protection holds the expiry of overdue leases back.
    pub is_degraded: bool,
    /// The instances, ordered by region, service and instance id without case.
    pub instances: Vec<Arc<Instance>>,
}

/// Changes that lead from one revision to another.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceChange {
    /// The service's canonical name.
    pub service: ServiceName,
    /// The epoch of both revisions.
    pub epoch: Box<str>,
    /// The revision before.
    pub from: u64,
    /// The revision after.
    pub revision: u64,
    /// Whether self-protection holds expiries back after it. If only this has changed, `changes` is
    /// empty.
    pub is_degraded: bool,
    /// The changes, in order.
    pub changes: Vec<InstanceChange>,
}

/// An item of a stream of services.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ServiceEvent {
    /// The state, which replaces all earlier items of the service.
    Snapshot(Arc<ServiceState>),
    /// The changes since the previous item of the same service.
    Changed(Arc<ServiceChange>),
    /// The server refuses the subscription. The client asks again after the next reconnect, and
    /// earlier if the error is temporary.
    Refused {
        /// The service, or none for the subscription to all.
        service: Option<ServiceName>,
        /// The reason.
        error: Error,
    },
}

impl ServiceEvent {
    /// Its service; none if it is about all of them.
    pub fn service(&self) -> Option<&ServiceName> {
        match self {
            ServiceEvent::Snapshot(state) => Some(&state.service),
            ServiceEvent::Changed(change) => Some(&change.service),
            ServiceEvent::Refused { service, .. } => service.as_ref(),
        }
    }
}

/// A position in a channel's history. Keep the one of the last message that you have handled, and
/// resume there with [`Client::channel_since`](crate::Client::channel_since).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The epoch of the offset. Another epoch is another count.
    pub epoch: Box<str>,
    /// The offset of the last message seen; 0 before the first.
    pub offset: u64,
}

/// A message of a channel.
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelMessage {
    /// `text`, `json`, `event`, `system` or `chat`.
    pub kind: Box<str>,
    /// The message's id.
    pub message_id: Box<str>,
    /// Its position in the history; none if it was aimed at single connections.
    pub offset: Option<u64>,
    /// Its payload. Of a `chat` it is the text.
    pub payload: Value,
    /// The name of an event.
    pub event: Option<Box<str>>,
    /// Its metadata.
    pub metadata: Option<Value>,
    /// The sender, if that was a user.
    pub from_user_id: Option<Box<str>>,
    /// The sender's name, in a `chat`.
    pub username: Option<Box<str>>,
    /// When the server accepted it, RFC 3339 in UTC.
    pub timestamp: String,
}

/// An item of a channel's stream.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ChannelEvent {
    /// The next message.
    Message(Box<ChannelMessage>),
    /// The reader was slow: messages after the last one were not kept for it. Those with an offset
    /// come now from the history, or [`ChannelEvent::Lost`] does.
    Lagged {
        /// The offset of the last message given.
        after: u64,
        /// The offset of the newest known message.
        newest: u64,
        /// Messages without an offset that are lost.
        unnumbered: u64,
    },
    /// The history does not reach back, or the server has lost messages: those between are gone for
    /// good.
    Lost {
        /// The reader's position before.
        after: Position,
        /// The reader's position now.
        now: Position,
    },
    /// The server refuses the subscription.
    Refused(Error),
    /// The channel was deleted. Nothing comes after this.
    Deleted,
}

/// A direct or a group message.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct DirectMessage {
    /// The message's id, a UUID of version 7: later ones are greater, as text too.
    pub id: String,
    /// The author.
    pub from_user_id: String,
    /// The receiver; none for a group message.
    #[serde(default)]
    pub to_user_id: Option<String>,
    /// The group; none for a private message.
    #[serde(default)]
    pub group_id: Option<String>,
    /// The content.
    pub content: String,
    /// When it was stored, in seconds since 1970.
    pub created_at: u64,
}

/// A message from another user, or from a program to users.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    /// The id from its sender, or from the server.
    pub id: String,
    /// The type: `text`, `notification`, `user_joined`, or the sender's own.
    pub message_type: String,
    /// The data.
    pub data: Value,
    /// The sender; none if it was not a user.
    pub from_user_id: Option<String>,
    /// The receiver; none if it is for everyone.
    pub to_user_id: Option<String>,
    /// When the server accepted it, RFC 3339 in UTC.
    pub timestamp: String,
}

/// An item of a stream of envelopes.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum EnvelopeEvent {
    /// The next message.
    Message(Box<Envelope>),
    /// The reader was slow, and the client dropped so many messages. The server keeps no envelopes,
    /// so they are lost.
    Missed(u64),
}

/// A user, as rooms and announcements name one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[allow(missing_docs, reason = "the fields are the protocol's own names")]
pub struct Person {
    pub user_id: String,
    #[serde(default)]
    pub username: String,
}
