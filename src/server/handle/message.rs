//! A message for a channel, as the embedding program describes it.
//!
//! Part of `server::handle`.

use serde::Serialize;
use serde_json::value::RawValue;

use super::{CallError, json};
use crate::id::{ConnName, Epoch, MessageId, UserId};
use crate::limits::Limits;
use crate::state::messaging::aim::Aimed;
use crate::state::messaging::replies::Published;
use crate::wire::refusal::{Code, Refusal};
use crate::wire::talk::{self, Kind, Publication};

/// A message for a channel.
///
/// ```
/// use fanfare::server::Message;
/// use serde_json::json;
///
/// let notice = Message::system("maintenance at noon").with_metadata(json!({"by": "cron"}));
/// let paid = Message::event("order.paid", json!({"id": 7}));
/// # let _ = (notice, paid);
/// ```
#[derive(Debug, Clone)]
pub struct Message {
    payload: Result<Box<RawValue>, CallError>,
    metadata: Option<Result<Box<RawValue>, CallError>>,
    kind: Option<Kind>,
    event: Option<String>,
    from: Option<String>,
    only_to: Option<Vec<ConnName>>,
    exclude: Vec<ConnName>,
}

impl Message {
    /// A message of the type `text` if the payload is a string, else `json`.
    pub fn new(payload: impl Serialize) -> Message {
        Message {
            payload: json(payload),
            metadata: None,
            kind: None,
            event: None,
            from: None,
            only_to: None,
            exclude: Vec::new(),
        }
    }

    /// A message of the type `system`.
    pub fn system(payload: impl Serialize) -> Message {
        Message { kind: Some(Kind::System), ..Message::new(payload) }
    }

    /// A message of the type `event`, with the event's name.
    pub fn event(name: impl Into<String>, payload: impl Serialize) -> Message {
        Message { event: Some(name.into()), ..Message::new(payload) }
    }

    /// Adds metadata, a JSON object. It replaces earlier metadata.
    #[must_use]
    pub fn with_metadata(self, metadata: impl Serialize) -> Message {
        Message { metadata: Some(json(metadata)), ..self }
    }

    /// Names the user who sends it. The server does not look the user up.
    #[must_use]
    pub fn from_user(self, user_id: impl Into<String>) -> Message {
        Message { from: Some(user_id.into()), ..self }
    }

    /// Sends it to these subscribers alone. Such a message has no offset and is not kept.
    #[must_use]
    pub fn only_to(self, connections: impl IntoIterator<Item = impl Into<ConnName>>) -> Message {
        Message { only_to: Some(deduplicated(connections)), ..self }
    }

    /// Does not send it to these. Such a message has no offset and is not kept.
    #[must_use]
    pub fn exclude(self, connections: impl IntoIterator<Item = impl Into<ConnName>>) -> Message {
        Message { exclude: deduplicated(connections), ..self }
    }

    /// Checks it, as HTTP checks its messages.
    pub(super) fn checked(
        self,
        limits: &Limits,
    ) -> Result<(Publication, Option<UserId>, Aimed), CallError> {
        let (payload, metadata) = (self.payload?, self.metadata.transpose()?);
        let bytes = payload.get().len() + metadata.as_ref().map_or(0, |raw| raw.get().len());
        check_bytes(bytes, limits)?;
        let kind = self.kind.map(Kind::as_str);
        let publication = Publication::new(kind, Some(&payload), self.event, metadata.as_deref())?;
        let from = self.from.map(|user_id| talk::user("from_user_id", Some(user_id)));
        let aim = Aimed { only: self.only_to, except: self.exclude };
        Ok((publication, from.transpose()?, aim))
    }
}

/// Each connection once: the names go to every node that has one of them.
pub(super) fn deduplicated(
    connections: impl IntoIterator<Item = impl Into<ConnName>>,
) -> Vec<ConnName> {
    ConnName::each_once(connections.into_iter().map(Into::into))
}

/// A program's data is bounded like a request over HTTP.
pub(super) fn check_bytes(bytes: usize, limits: &Limits) -> Result<(), CallError> {
    let bytes_max = limits.http_body_bytes_max;
    if bytes > bytes_max {
        return Err(Refusal::new(
            Code::TooLarge,
            format!("the message has {bytes} bytes, more than {bytes_max}"),
        ));
    }
    Ok(())
}

/// A published message's position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedMessage {
    /// Its id.
    pub message_id: MessageId,
    /// The epoch of its offset.
    pub epoch: Epoch,
    /// Its offset; none if it was aimed at some connections and is not kept.
    pub offset: Option<u64>,
    /// The number of connections that it goes to.
    pub delivered_to: usize,
}

impl PublishedMessage {
    pub(super) fn of(published: Published) -> PublishedMessage {
        let Published { epoch, offset, message_id, delivered_to, .. } = published;
        PublishedMessage { message_id, epoch, offset, delivered_to }
    }
}
