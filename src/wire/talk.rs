//! Channel messages, chat and envelopes: their fields, and the checks on them.
//!
//! A payload keeps the JSON text it came in. It is checked here once, so that every receiver can read it, and
//! spliced into frames without being parsed again.
//!
//! Imports `id`, `limits`, `wire::json` and `wire::refusal`. Imported by `wire`, `state`, `shard`
//! and `http`.

use serde_json::value::RawValue;

use super::depth;
use super::instance::check_name;
use super::json;
use super::refusal::{Code, Refusal};
use crate::id::{ChannelName, UserId};
use crate::limits::{self, NESTED_DEPTH_MAX};

/// The type of a channel message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// Any JSON value.
    Json,
    /// A named event.
    Event,
    /// From the operator of the channel.
    System,
}

impl Kind {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Text => "text",
            Kind::Json => "json",
            Kind::Event => "event",
            Kind::System => "system",
        }
    }

    /// Reads the name on the wire.
    pub fn parse(text: &str) -> Option<Kind> {
        [Kind::Text, Kind::Json, Kind::Event, Kind::System]
            .into_iter()
            .find(|kind| kind.as_str() == text)
    }
}

/// A message for a channel, as a client or a program gives it.
#[derive(Debug, Clone)]
pub struct Publication {
    /// Its type.
    pub kind: Kind,
    /// Its JSON text, checked.
    pub payload: Box<RawValue>,
    /// The event's name.
    pub event: Option<String>,
    /// A JSON object that goes with it, checked.
    pub metadata: Option<Box<RawValue>>,
}

impl Publication {
    /// Checks the parts of a message and labels it.
    pub fn new(
        kind: Option<&str>,
        payload: Option<&RawValue>,
        event: Option<String>,
        metadata: Option<&RawValue>,
    ) -> Result<Publication, Refusal> {
        let payload = payload.ok_or_else(|| Refusal::invalid("payload is missing"))?;
        let payload = checked(payload, "payload")?;
        if let Some(event) = &event {
            check_kind("event", event)?;
        }
        // Null counts as absent.
        let metadata = metadata.filter(|metadata| metadata.get() != "null");
        let metadata = metadata.map(|raw| object(raw, "metadata")).transpose()?;
        let kind = match kind {
            Some(kind) => Kind::parse(kind)
                .ok_or_else(|| Refusal::invalid("type is not text, json, event or system"))?,
            None if event.is_some() => Kind::Event,
            None if payload.get().starts_with('"') => Kind::Text,
            None => Kind::Json,
        };
        if kind == Kind::Event && event.is_none() {
            return Err(Refusal::invalid("event is missing: an event has a name"));
        }
        Ok(Publication { kind, payload, event, metadata })
    }
}

/// A message from person to person, or from a program to people.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// Its type, a name that sender and receiver agree on.
    pub message_type: String,
    /// Its JSON text, checked.
    pub data: Box<RawValue>,
}

/// The types that only the server sends.
const RESERVED_TYPES: [&str; 6] = ["ack", "error", "ping", "pong", "user_joined", "user_left"];

impl Envelope {
    /// Checks the parts of an envelope.
    pub fn new(message_type: Option<String>, data: Option<&RawValue>) -> Result<Envelope, Refusal> {
        let message_type =
            message_type.ok_or_else(|| Refusal::invalid("message_type is missing"))?;
        check_kind("message_type", &message_type)?;
        if RESERVED_TYPES.contains(&message_type.as_str()) {
            return Err(Refusal::invalid(format!("message_type \"{message_type}\" is reserved")));
        }
        let data = data.ok_or_else(|| Refusal::invalid("data is missing"))?;
        Ok(Envelope { message_type, data: checked(data, "data")? })
    }
}

/// Checks the name of a channel.
pub fn channel(name: Option<String>, bytes_max: usize) -> Result<ChannelName, Refusal> {
    let name = name.ok_or_else(|| Refusal::invalid("channel is missing"))?;
    if name == "*" {
        return Err(Refusal::invalid("\"*\" is no channel"));
    }
    topic("channel", &name, bytes_max)?;
    Ok(ChannelName::new(&name))
}

/// Checks the name of a room, and gives its channel.
pub fn room(name: Option<&str>, bytes_max: usize) -> Result<ChannelName, Refusal> {
    let name = name.ok_or_else(|| Refusal::invalid("room is missing"))?;
    let channel = ChannelName::of_room(name);
    topic("room", name, bytes_max)?;
    topic("room", channel.as_str(), bytes_max)?;
    Ok(channel)
}

/// Checks the name of a topic.
pub fn topic(field: &str, name: &str, bytes_max: usize) -> Result<(), Refusal> {
    if name.len() > bytes_max {
        return Err(Refusal::new(Code::TooLarge, format!("{field} is over {bytes_max} bytes")));
    }
    check_name(field, name).map_err(Refusal::invalid)
}

/// Checks the user id of a message's receiver.
pub fn user(field: &str, id: Option<String>) -> Result<UserId, Refusal> {
    let id = id.ok_or_else(|| Refusal::invalid(format!("{field} is missing")))?;
    check_name(field, &id).map_err(Refusal::invalid)?;
    Ok(UserId::new(&id))
}

/// Checks a person's text.
pub fn content(text: Option<String>, bytes_max: usize) -> Result<String, Refusal> {
    let text = text.ok_or_else(|| Refusal::invalid("content is missing"))?;
    if text.is_empty() {
        return Err(Refusal::invalid("content is empty"));
    }
    if text.len() > bytes_max {
        return Err(Refusal::invalid(format!("content is over {bytes_max} bytes")));
    }
    if text.contains('\0') {
        // PostgreSQL's texts cannot hold it.
        return Err(Refusal::invalid("content holds a NUL character"));
    }
    Ok(text)
}

/// Checks the description of a channel.
pub fn description(text: String) -> Result<String, Refusal> {
    if text.len() > limits::DESCRIPTION_BYTES_MAX || text.contains('\0') {
        let message = "description is over 1,024 bytes, or holds a NUL character";
        return Err(Refusal::invalid(message));
    }
    Ok(text)
}

/// Checks the metadata of a connection. An empty object, and null, remove it.
pub fn connection_metadata(raw: &RawValue) -> Result<Option<Box<RawValue>>, Refusal> {
    if raw.get() == "null" {
        return Ok(None);
    }
    if raw.get().len() > limits::CONNECTION_METADATA_BYTES_MAX {
        let bytes_max = limits::CONNECTION_METADATA_BYTES_MAX;
        return Err(Refusal::new(Code::TooLarge, format!("metadata is over {bytes_max} bytes")));
    }
    let metadata = object(raw, "metadata")?;
    let is_empty = metadata.get()[1..metadata.get().len() - 1].trim().is_empty();
    Ok((!is_empty).then_some(metadata))
}

/// The message about a change of an entity, and its channel, `live:{entity}`.
pub fn live_update(
    entity: &str,
    id: &str,
    action: &str,
    data: Option<&RawValue>,
    topic_bytes_max: usize,
) -> Result<(ChannelName, Publication), Refusal> {
    let channel = channel(Some(format!("live:{entity}")), topic_bytes_max)?;
    if !["created", "updated", "deleted"].contains(&action) {
        return Err(Refusal::invalid("action is not created, updated or deleted"));
    }
    let data = data.map_or("null", RawValue::get);
    let payload = format!(
        "{{\"entity\":{},\"id\":{},\"action\":\"{action}\",\"data\":{data}}}",
        serde_json::Value::from(entity),
        serde_json::Value::from(id)
    );
    let payload = RawValue::from_string(payload)
        .map_err(|_| Refusal::invalid("data holds what other parsers cannot read"))?;
    let event = format!("{entity}.{action}");
    Ok((channel, Publication::new(None, Some(&payload), Some(event), None)?))
}

/// The message that updates a dashboard, and its channel, `dashboard:{name}`.
pub fn dashboard(
    name: &str,
    metrics: &RawValue,
    topic_bytes_max: usize,
) -> Result<(ChannelName, Publication), Refusal> {
    let channel = channel(Some(format!("dashboard:{name}")), topic_bytes_max)?;
    let event = String::from("metrics");
    Ok((channel, Publication::new(None, Some(metrics), Some(event), None)?))
}

fn check_kind(field: &str, text: &str) -> Result<(), Refusal> {
    if text.is_empty() || text.len() > limits::KIND_BYTES_MAX || text.chars().any(char::is_control)
    {
        let message = format!("{field} is empty, too long, or holds a control character");
        return Err(Refusal::invalid(message));
    }
    Ok(())
}

/// Takes a JSON text that every receiver can read.
pub fn checked(raw: &RawValue, field: &str) -> Result<Box<RawValue>, Refusal> {
    if !depth::is_within(raw.get().as_bytes(), NESTED_DEPTH_MAX) {
        let message = format!("{field} nests deeper than {NESTED_DEPTH_MAX} levels");
        return Err(Refusal::invalid(message));
    }
    if !json::is_readable(raw.get()) {
        let message = format!("{field} holds what other parsers cannot read");
        return Err(Refusal::invalid(message));
    }
    Ok(raw.to_owned())
}

/// The same for a JSON object.
pub fn object(raw: &RawValue, field: &str) -> Result<Box<RawValue>, Refusal> {
    if !raw.get().starts_with('{') {
        return Err(Refusal::invalid(format!("{field} is not an object")));
    }
    checked(raw, field)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).expect("JSON")
    }

    fn publication(kind: Option<&str>, payload: &str, event: Option<&str>) -> Result<Kind, Code> {
        Publication::new(kind, Some(&raw(payload)), event.map(str::to_owned), None)
            .map(|publication| publication.kind)
            .map_err(|refusal| refusal.code)
    }

    #[test]
    fn a_message_is_labelled_by_what_it_holds() {
        assert_eq!(publication(None, "\"hi\"", None), Ok(Kind::Text));
        assert_eq!(publication(None, "{\"a\":1}", None), Ok(Kind::Json));
        assert_eq!(publication(None, "null", None), Ok(Kind::Json));
        assert_eq!(publication(None, "{}", Some("user.joined")), Ok(Kind::Event));
        assert_eq!(publication(Some("system"), "{}", None), Ok(Kind::System));
        assert_eq!(publication(Some("chat"), "{}", None), Err(Code::InvalidArgument));
        assert_eq!(publication(Some("event"), "{}", None), Err(Code::InvalidArgument));
        assert_eq!(publication(None, "{}", Some("")), Err(Code::InvalidArgument));
    }

    #[test]
    fn what_others_cannot_read_is_not_passed_on() {
        for text in ["\"\\ud800\"", "1e999", "[-1E+400]"] {
            assert_eq!(publication(None, text, None), Err(Code::InvalidArgument), "{text}");
        }
        let nest = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(publication(None, &nest(NESTED_DEPTH_MAX), None), Ok(Kind::Json));
        let deep = raw(&nest(NESTED_DEPTH_MAX + 1));
        let refusal = Publication::new(None, Some(&deep), None, None).expect_err("too deep");
        assert!(refusal.code == Code::InvalidArgument && refusal.message.starts_with("payload"));
        let metadata = raw(&format!("{{\"k\":{}}}", nest(NESTED_DEPTH_MAX)));
        let refusal = Publication::new(None, Some(&raw("1")), None, Some(&metadata));
        assert!(refusal.expect_err("too deep").message.starts_with("metadata"));
        let refusal = Envelope::new(Some(String::from("text")), Some(&deep)).expect_err("too deep");
        assert!(refusal.message.starts_with("data"));
    }

    #[test]
    fn names_have_their_bounds() {
        assert!(channel(Some("x".repeat(255)), 255).is_ok());
        assert!(channel(Some("x".repeat(256)), 255).is_err());
        for name in ["", "*", "a\nb"] {
            assert!(channel(Some(name.to_owned()), 255).is_err(), "{name:?}");
        }
        assert!(room(Some(&"x".repeat(250)), 255).is_ok());
        assert!(room(Some(&"x".repeat(251)), 255).is_err());
    }

    #[test]
    fn the_words_of_the_server_are_its_own() {
        let data = raw("{}");
        assert!(Envelope::new(Some(String::from("user_left")), Some(&data)).is_err());
        assert!(Envelope::new(Some(String::from("notification")), Some(&data)).is_ok());
        assert!(Envelope::new(Some(String::from("text")), None).is_err());
    }
}
