//! Messages between users, framed once for all receivers.
//!
//! Payloads are spliced as the JSON text they came in.
//!
//! Imports `id`, `wire::event`, `wire::frame` and `wire::talk`. Imported by `state`.

use bytes::Bytes;

use super::event::TimeText;
use super::frame::FrameBuilder;
use super::talk::{Envelope, Publication};
use crate::id::{ChannelName, MessageId, RequestId, UserId};

/// Bytes of the fixed parts of any of these messages, so that frames are allocated once.
const OVERHEAD_BYTES: usize = 320;

fn begin(kind: &str, payload_bytes: usize) -> FrameBuilder {
    let mut out = FrameBuilder::with_capacity(OVERHEAD_BYTES + payload_bytes);
    out.put(b"{\"type\":\"");
    out.put_str(kind);
    out.put(b"\"");
    out
}

fn put_field(out: &mut FrameBuilder, name: &str, text: &str) {
    out.put(b",\"");
    out.put_str(name);
    out.put(b"\":");
    out.put_json_str(text);
}

fn put_raw(out: &mut FrameBuilder, name: &str, json: &str) {
    out.put(b",\"");
    out.put_str(name);
    out.put(b"\":");
    out.put_str(json);
}

fn put_offset(out: &mut FrameBuilder, offset: Option<u64>) {
    if let Some(offset) = offset {
        out.put(b",\"offset\":");
        out.put_u64(offset);
    }
}

fn put_time(out: &mut FrameBuilder, time: TimeText) {
    out.put(b",\"timestamp\":\"");
    out.put(time.as_bytes());
    out.put(b"\"");
}

fn end(mut out: FrameBuilder) -> Bytes {
    out.put(b"}");
    out.text()
}

/// The stamp of a message: its id and time.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    /// Its id.
    pub id: MessageId,
    /// When the server accepted it.
    pub time: TimeText,
}

/// A message of a channel. Without an offset it is not in the channel's history.
pub fn channel_message(
    channel: &ChannelName,
    stamp: Stamp,
    offset: Option<u64>,
    from: Option<&UserId>,
    publication: &Publication,
) -> Bytes {
    let metadata = publication.metadata.as_ref().map_or("", |metadata| metadata.get());
    let bytes = publication.payload.get().len() + metadata.len();
    let mut out = begin(publication.kind.as_str(), bytes);
    put_field(&mut out, "channel", channel.as_str());
    put_raw(&mut out, "message_id", &stamp.id.quoted());
    put_offset(&mut out, offset);
    put_raw(&mut out, "payload", publication.payload.get());
    if let Some(event) = &publication.event {
        put_field(&mut out, "event", event);
    }
    if !metadata.is_empty() {
        put_raw(&mut out, "metadata", metadata);
    }
    if let Some(from) = from {
        put_field(&mut out, "from_user_id", from.as_str());
    }
    put_time(&mut out, stamp.time);
    end(out)
}

/// A message of a chat room. `id` is there only on the sender's own copy.
pub fn chat(
    channel: &ChannelName,
    stamp: Stamp,
    offset: Option<u64>,
    from: (&UserId, &str),
    content: &str,
    id: Option<&RequestId>,
) -> Bytes {
    let mut out = begin("chat", content.len());
    if let Some(RequestId(id)) = id {
        put_raw(&mut out, "id", id);
    }
    put_field(&mut out, "room", channel.room().unwrap_or_default());
    put_field(&mut out, "channel", channel.as_str());
    put_field(&mut out, "content", content);
    put_raw(&mut out, "message_id", &stamp.id.quoted());
    put_offset(&mut out, offset);
    put_field(&mut out, "from_user_id", from.0.as_str());
    put_field(&mut out, "username", from.1);
    put_time(&mut out, stamp.time);
    end(out)
}

/// A message of a channel, framed as it stands, with its new offset. None if the text is no object.
pub fn with_offset(text: &[u8], offset: u64) -> Option<Bytes> {
    let open = text.strip_suffix(b"}")?;
    let mut out = FrameBuilder::with_capacity(text.len() + 32);
    out.put(open);
    put_offset(&mut out, Some(offset));
    Some(end(out))
}

/// A message framed as it stands.
pub fn framed(text: &[u8]) -> Bytes {
    let mut out = FrameBuilder::with_capacity(text.len());
    out.put(text);
    out.text()
}

/// Whether an event's name is one of the announcements of [`room_event`].
pub fn is_presence_event(event: &str) -> bool {
    matches!(event, "user.joined" | "user.left")
}

/// The announcement that a user joined a channel or left it: `user.joined`, `user.left`.
pub fn room_event(channel: &ChannelName, event: &str, who: (&UserId, &str), stamp: Stamp) -> Bytes {
    let mut out = begin("event", 0);
    put_field(&mut out, "channel", channel.as_str());
    put_field(&mut out, "event", event);
    put_raw(&mut out, "message_id", &stamp.id.quoted());
    out.put(b",\"payload\":");
    put_person(&mut out, who.0, who.1);
    put_time(&mut out, stamp.time);
    end(out)
}

/// Appends `{"user_id","username"}`.
pub fn put_person(out: &mut FrameBuilder, user_id: &UserId, username: &str) {
    out.put(b"{\"user_id\":");
    out.put_json_str(user_id.as_str());
    put_field(out, "username", username);
    out.put(b"}");
}

/// `unsubscribed` with the reason `deleted`, for every subscriber of the channel.
pub fn channel_deleted(channel: &ChannelName) -> Bytes {
    let mut out = begin("unsubscribed", 0);
    put_field(&mut out, "channel", channel.as_str());
    put_field(&mut out, "reason", "deleted");
    end(out)
}

/// An envelope, as its receivers get it. `id` is the sender's own, if there is one.
pub fn envelope(
    id: &str,
    envelope: &Envelope,
    to: Option<&UserId>,
    from: Option<&UserId>,
    time: TimeText,
) -> Bytes {
    let mut out = begin_envelope(id, &envelope.message_type, envelope.data.get().len());
    put_raw(&mut out, "data", envelope.data.get());
    if let Some(to) = to {
        put_field(&mut out, "to_user_id", to.as_str());
    }
    if let Some(from) = from {
        put_field(&mut out, "from_user_id", from.as_str());
    }
    put_time(&mut out, time);
    end(out)
}

/// Starts an envelope: `id` is JSON text.
pub(super) fn begin_envelope(id: &str, message_type: &str, data_bytes: usize) -> FrameBuilder {
    let mut out = FrameBuilder::with_capacity(OVERHEAD_BYTES + data_bytes);
    out.put(b"{\"id\":");
    out.put_str(id);
    put_field(&mut out, "message_type", message_type);
    out
}

/// Ends an envelope with its time.
pub(super) fn end_envelope(mut out: FrameBuilder, time: TimeText) -> Bytes {
    put_time(&mut out, time);
    end(out)
}

/// The announcement that a user came online or went offline: `user_joined`, `user_left`.
pub fn presence(message_type: &str, who: (&UserId, &str), stamp: Stamp) -> Bytes {
    let mut out = begin_envelope(&stamp.id.quoted(), message_type, 0);
    out.put(b",\"data\":");
    put_person(&mut out, who.0, who.1);
    end_envelope(out, stamp.time)
}

/// A direct message, after it was stored.
pub fn private(id: MessageId, from: &UserId, to: &UserId, content: &str, at_s: u64) -> Bytes {
    let mut out = begin("private", content.len());
    put_raw(&mut out, "id", &id.quoted());
    put_field(&mut out, "from_user_id", from.as_str());
    put_field(&mut out, "to_user_id", to.as_str());
    put_field(&mut out, "content", content);
    out.put(b",\"created_at\":");
    out.put_u64(at_s);
    end(out)
}

/// A group message, after it was stored.
pub fn group(id: MessageId, from: &UserId, group_id: &str, content: &str, at_s: u64) -> Bytes {
    let mut out = begin("group", content.len());
    put_raw(&mut out, "id", &id.quoted());
    put_field(&mut out, "group_id", group_id);
    put_field(&mut out, "from_user_id", from.as_str());
    put_field(&mut out, "content", content);
    out.put(b",\"created_at\":");
    out.put_u64(at_s);
    end(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn payload(frame: &Bytes) -> Value {
        serde_json::from_slice(&super::super::frame::payload(frame)).expect("valid JSON")
    }

    fn stamp() -> Stamp {
        let at_ms = 1_795_176_000_123;
        Stamp { id: MessageId::from_parts(at_ms, 5, 9), time: TimeText::of(at_ms) }
    }

    #[test]
    fn a_channel_message_is_the_documented_json() {
        let raw = |text: &str| serde_json::value::RawValue::from_string(text.into()).expect("JSON");
        let (text, meta) = (raw("{ \"a\" : [1] }"), raw("{\"k\":1}"));
        let publication =
            Publication::new(None, Some(&text), Some("e".into()), Some(&meta)).expect("good");
        let (channel, from) = (ChannelName::new("a\"b"), UserId::new("u"));
        let frame = channel_message(&channel, stamp(), Some(13), Some(&from), &publication);
        assert_eq!(
            payload(&frame),
            json!({"type": "event", "channel": "a\"b", "message_id": stamp().id.to_string(),
                "offset": 13, "payload": {"a": [1]}, "event": "e", "metadata": {"k": 1},
                "from_user_id": "u", "timestamp": "2026-11-20T12:00:00.123Z"})
        );
    }

    #[test]
    fn chat_names_room_and_channel() {
        let (channel, from) = (ChannelName::of_room("general"), UserId::new("u"));
        let id = RequestId("7".into());
        let frame = chat(&channel, stamp(), Some(4), (&from, "Ann"), "hi", Some(&id));
        assert_eq!(
            payload(&frame),
            json!({"type": "chat", "id": 7, "room": "general", "channel": "chat:general",
                "content": "hi", "message_id": stamp().id.to_string(), "offset": 4,
                "from_user_id": "u", "username": "Ann", "timestamp": "2026-11-20T12:00:00.123Z"})
        );
    }

    #[test]
    fn direct_and_group_messages_count_seconds() {
        let (a, b, id) = (UserId::new("a"), UserId::new("b"), stamp().id);
        assert_eq!(
            payload(&private(id, &a, &b, "x", 9)),
            json!({"type": "private", "id": id.to_string(), "from_user_id": "a",
                "to_user_id": "b", "content": "x", "created_at": 9})
        );
        assert_eq!(
            payload(&group(id, &a, "g", "x", 9)),
            json!({"type": "group", "id": id.to_string(), "group_id": "g",
                "from_user_id": "a", "content": "x", "created_at": 9})
        );
    }
}
