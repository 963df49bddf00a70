//! What streams and views give: states and changes of services, messages of channels and to users.
//!
//! Plain data, without a connection. Imports `error`. Imported by everything above.

use std::sync::Arc;

use fanfare_protocol::id::ServiceName;
use fanfare_protocol::instance::Instance;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::error::Error;

/// What a change did to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeType {
    /// It was not there before.
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
    /// The instance after the change; before it, where it is gone.
    #[serde(deserialize_with = "shared")]
    pub instance: Arc<Instance>,
    /// What happened to it.
    pub change_type: ChangeType,
    /// When, RFC 3339 in UTC.
    #[serde(default)]
    pub change_time: String,
    /// Why: `register`, `update`, `unregister`, `expired`, `pull_out` or `pull_in`.
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
    /// What the revision belongs to. Another epoch is another count.
    pub epoch: Box<str>,
    /// How many changes the service has seen in this epoch.
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
    /// What the revisions belong to.
    pub epoch: Box<str>,
    /// The revision before.
    pub from: u64,
    /// The revision after.
    pub revision: u64,
    /// Whether self-protection holds expiries back after it. Where only this has changed, `changes` is empty.
    pub is_degraded: bool,
    /// What happened, in order.
    pub changes: Vec<InstanceChange>,
}

/// What a stream of services gives.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ServiceEvent {
    /// The state, in place of everything known of the service before.
    Snapshot(Arc<ServiceState>),
    /// What happened since the event before it of the same service.
    Changed(Arc<ServiceChange>),
    /// The server does not let us follow. It is asked again after the next reconnect, and earlier
    /// where the error is temporary.
    Refused {
        /// The service, or none where it is about all of them.
        service: Option<ServiceName>,
        /// Why.
        error: Error,
    },
}

impl ServiceEvent {
    /// The service it is about; none where it is about all of them.
    pub fn service(&self) -> Option<&ServiceName> {
        match self {
            ServiceEvent::Snapshot(state) => Some(&state.service),
            ServiceEvent::Changed(change) => Some(&change.service),
            ServiceEvent::Refused { service, .. } => service.as_ref(),
        }
    }
}

/// A place in a channel's history. Keep the one of the last message that you have dealt with, and go on there with
/// [`Client::channel_since`](crate::Client::channel_since).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// What the offset belongs to. Another epoch is another count.
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
    /// Its place in the history; none where it was aimed at single connections.
    pub offset: Option<u64>,
    /// What it says. Of a `chat` it is the text.
    pub payload: Value,
    /// The name of an event.
    pub event: Option<Box<str>>,
    /// What goes along.
    pub metadata: Option<Value>,
    /// Who sent it, where that was a user.
    pub from_user_id: Option<Box<str>>,
    /// The sender's name, in a `chat`.
    pub username: Option<Box<str>>,
    /// When the server took it, RFC 3339 in UTC.
    pub timestamp: String,
}

/// What a channel's stream gives.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ChannelEvent {
    /// The next message.
    Message(Box<ChannelMessage>),
    /// The reader was slow: messages after the last one were not kept for it. Those that have an
    /// offset come now from the history, or [`ChannelEvent::Lost`] does.
    Lagged {
        /// The offset of the last message given.
        after: u64,
        /// The offset of the newest one known of.
        newest: u64,
        /// Messages without an offset that are lost.
        unnumbered: u64,
    },
    /// The history does not reach back, or the server has lost messages: what lies between is gone
    /// for good.
    Lost {
        /// Where the reader stood.
        after: Position,
        /// Where it stands now.
        now: Position,
    },
    /// The server does not let us follow.
    Refused(Error),
    /// The channel was deleted. Nothing comes after this.
    Deleted,
}

/// A direct or a group message.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct DirectMessage {
    /// The message's id, a UUID of version 7: later ones are greater, as text too.
    pub id: String,
    /// Who wrote it.
    pub from_user_id: String,
    /// For whom; none of a group message.
    #[serde(default)]
    pub to_user_id: Option<String>,
    /// For which group; none of a private message.
    #[serde(default)]
    pub group_id: Option<String>,
    /// What it says.
    pub content: String,
    /// When it was stored, in seconds since 1970.
    pub created_at: u64,
}

/// A message from another user, or from a program to users.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    /// The id that its sender gave it, or the server.
    pub id: String,
    /// What it is: `text`, `notification`, `user_joined`, or a word of one's own.
    pub message_type: String,
    /// What it says.
    pub data: Value,
    /// Who sent it; none where that was no user.
    pub from_user_id: Option<String>,
    /// For whom; none where it is for everyone.
    pub to_user_id: Option<String>,
    /// When the server took it, RFC 3339 in UTC.
    pub timestamp: String,
}

/// What a stream of envelopes gives.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum EnvelopeEvent {
    /// The next message.
    Message(Box<Envelope>),
    /// The reader was slow, and the client dropped so many messages. The server keeps no envelopes, so
    /// they are lost.
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
