//! Messages to one client: welcome, answers, refusals.
//!
//! Imports its siblings, `clock` and `id`. Imported by `shard`.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use super::event::{self, Position, TimeText};
use super::frame::{FrameBuilder, Split};
use super::instance_list::InstanceList;
use super::message::{begin_envelope, end_envelope, put_person};
use super::refusal::{Code, Refusal};
use crate::id::{ChannelName, Epoch, MessageId, RequestId, ServiceName, UserId};

fn begin(kind: &str, id: Option<&RequestId>) -> FrameBuilder {
    let mut out = FrameBuilder::with_capacity(128);
    out.put(b"{\"type\":\"");
    out.put_str(kind);
    out.put(b"\"");
    if let Some(RequestId(id)) = id {
        out.put(b",\"id\":");
        out.put_str(id);
    }
    out
}

fn end(mut out: FrameBuilder) -> Bytes {
    out.put(b"}");
    out.text()
}

/// The fields of `welcome`.
#[derive(Debug, Clone, Copy)]
pub struct Welcome<'a> {
    /// The connection's id, as text.
    pub connection_id: &'a str,
    /// The node's id.
    pub node_id: &'a str,
    /// The signed-in user.
    pub user_id: Option<&'a str>,
    /// The interval of the server's pings.
    pub ping_interval_ms: u64,
}

/// `welcome`: the first frame on a socket.
pub fn welcome(welcome: Welcome<'_>) -> Bytes {
    let mut out = begin("welcome", None);
    out.put(b",\"connection_id\":");
    out.put_json_str(welcome.connection_id);
    out.put(b",\"node_id\":");
    out.put_json_str(welcome.node_id);
    out.put(b",\"user_id\":");
    match welcome.user_id {
        Some(user_id) => out.put_json_str(user_id),
        None => out.put(b"null"),
    }
    out.put(b",\"ping_interval_ms\":");
    out.put_u64(welcome.ping_interval_ms);
    out.put(concat!(",\"version\":\"", env!("CARGO_PKG_VERSION"), "\"").as_bytes());
    end(out)
}

/// `pong`, the answer to `ping`.
pub fn pong(id: Option<&RequestId>) -> Bytes {
    end(begin("pong", id))
}

/// `subscribed` to one service, without instances. `recovered` is there only after a resume.
pub fn subscribed(id: Option<&RequestId>, at: Position<'_>, recovered: Option<bool>) -> Bytes {
    end(subscribed_head(id, at, recovered))
}

/// `subscribed` to one service, with the instances as of exactly its revision.
pub fn subscribed_with(
    id: Option<&RequestId>,
    at: Position<'_>,
    recovered: Option<bool>,
    instances: InstanceList,
) -> Split {
    let mut out = subscribed_head(id, at, recovered);
    out.put(b",\"instances\":");
    out.split(instances.ending_a_message())
}

fn subscribed_head(
    id: Option<&RequestId>,
    at: Position<'_>,
    recovered: Option<bool>,
) -> FrameBuilder {
    let mut out = begin("subscribed", id);
    out.put(b",\"service_id\":");
    event::put_position(&mut out, at);
    put_recovered(&mut out, recovered);
    out
}

fn put_recovered(out: &mut FrameBuilder, recovered: Option<bool>) {
    match recovered {
        Some(true) => out.put(b",\"recovered\":true"),
        Some(false) => out.put(b",\"recovered\":false"),
        None => {}
    }
}

/// `service_snapshot`: the newest state in place of the changes that led to it.
pub fn service_snapshot(at: Position<'_>, instances: InstanceList) -> Split {
    let mut out = FrameBuilder::with_capacity(160);
    event::put_snapshot_head(&mut out, at);
    out.split(instances.ending_a_message())
}

/// `subscribed` to every service.
pub fn subscribed_to_all(id: Option<&RequestId>) -> Bytes {
    let mut out = begin("subscribed", id);
    out.put(b",\"service_id\":\"*\"");
    end(out)
}

/// `unsubscribed`; no service is every service.
pub fn unsubscribed(id: Option<&RequestId>, service: Option<&ServiceName>) -> Bytes {
    let mut out = begin("unsubscribed", id);
    out.put(b",\"service_id\":");
    out.put_json_str(service.map_or("*", ServiceName::as_str));
    end(out)
}

/// `unsubscribed` without a request: the connection's token does not allow the subscription any
/// more. No service is every service.
pub fn service_withdrawn(service: Option<&ServiceName>) -> Bytes {
    let mut out = begin("unsubscribed", None);
    out.put(b",\"service_id\":");
    out.put_json_str(service.map_or("*", ServiceName::as_str));
    out.put(b",\"reason\":\"forbidden\"");
    end(out)
}

/// The same for a channel.
pub fn channel_withdrawn(channel: &ChannelName) -> Bytes {
    let mut out = begin("unsubscribed", None);
    put_channel(&mut out, channel);
    out.put(b",\"reason\":\"forbidden\"");
    end(out)
}

/// `unsubscribed` without a request: an operator or the server's program ended the subscription.
pub fn channel_taken(channel: &ChannelName) -> Bytes {
    let mut out = begin("unsubscribed", None);
    put_channel(&mut out, channel);
    out.put(b",\"reason\":\"operator\"");
    end(out)
}

/// A channel's position, for a subscriber.
#[derive(Debug, Clone, Copy)]
pub struct ChannelPosition<'a> {
    /// The channel.
    pub channel: &'a ChannelName,
    /// The epoch of its offsets.
    pub epoch: &'a Epoch,
    /// The offset of its newest message; 0 if there was none.
    pub offset: u64,
}

fn put_place(out: &mut FrameBuilder, at: ChannelPosition<'_>) {
    put_channel(out, at.channel);
    out.put(b",\"epoch\":");
    out.put_json_str(at.epoch.as_str());
    out.put(b",\"offset\":");
    out.put_u64(at.offset);
}

fn put_channel(out: &mut FrameBuilder, channel: &ChannelName) {
    out.put(b",\"channel\":");
    out.put_json_str(channel.as_str());
}

/// `subscribed` to a channel. `recovered` is there only after a resume.
pub fn subscribed_to_channel(
    id: Option<&RequestId>,
    at: ChannelPosition<'_>,
    recovered: Option<bool>,
) -> Bytes {
    let mut out = begin("subscribed", id);
    put_place(&mut out, at);
    put_recovered(&mut out, recovered);
    end(out)
}

/// `unsubscribed` from a channel.
pub fn unsubscribed_from_channel(id: Option<&RequestId>, channel: &ChannelName) -> Bytes {
    let mut out = begin("unsubscribed", id);
    put_channel(&mut out, channel);
    end(out)
}

/// `published`: the message's place in the channel.
pub fn published(id: Option<&RequestId>, at: ChannelPosition<'_>, message: MessageId) -> Bytes {
    let mut out = begin("published", id);
    put_place(&mut out, at);
    out.put(b",\"message_id\":");
    out.put_str(&message.quoted());
    end(out)
}

/// The answer to `list_channels`: each channel's name, description and number of subscribers.
pub fn channels<'a>(
    id: Option<&RequestId>,
    channels: impl Iterator<Item = (&'a ChannelName, &'a str, usize)>,
) -> Bytes {
    let mut out = begin("system", id);
    out.put(b",\"payload\":{\"command\":\"list_channels\",\"channels\":[");
    for (index, (name, description, subscribers)) in channels.enumerate() {
        out.put(if index > 0 { b",{\"name\":" } else { b"{\"name\":" });
        out.put_json_str(name.as_str());
        out.put(b",\"description\":");
        out.put_json_str(description);
        out.put(b",\"subscribers\":");
        out.put_u64(subscribers as u64);
        out.put(b"}");
    }
    out.put(b"]}");
    end(out)
}

/// `joined`: the users of the room, the client's own included.
pub fn joined<'a>(
    id: Option<&RequestId>,
    at: ChannelPosition<'_>,
    users: impl Iterator<Item = &'a (UserId, Arc<str>)>,
    count: usize,
) -> Bytes {
    let mut out = begin("joined", id);
    put_room(&mut out, at.channel);
    put_place(&mut out, at);
    out.put(b",\"users\":[");
    for (index, (user_id, username)) in users.enumerate() {
        if index > 0 {
            out.put(b",");
        }
        put_person(&mut out, user_id, username);
    }
    out.put(b"],\"count\":");
    out.put_u64(count as u64);
    end(out)
}

/// `left`: the client is no longer in the room.
pub fn left(id: Option<&RequestId>, channel: &ChannelName) -> Bytes {
    let mut out = begin("left", id);
    put_room(&mut out, channel);
    end(out)
}

fn put_room(out: &mut FrameBuilder, channel: &ChannelName) {
    out.put(b",\"room\":");
    out.put_json_str(channel.room().unwrap_or_default());
}

fn envelope_id(id: Option<&RequestId>) -> &str {
    id.map_or("null", |RequestId(id)| id)
}

/// `ack`: the number of connections that got an envelope. `id` is JSON text.
pub fn ack(id: &str, delivered_to: usize, time: TimeText) -> Bytes {
    let mut out = begin_envelope(id, "ack", 0);
    out.put(b",\"data\":{\"delivered_to\":");
    out.put_u64(delivered_to as u64);
    out.put(b"}");
    end_envelope(out, time)
}

/// `pong`, in an envelope.
pub fn envelope_pong(id: Option<&RequestId>, time: TimeText) -> Bytes {
    let mut out = begin_envelope(envelope_id(id), "pong", 0);
    out.put(b",\"data\":{}");
    end_envelope(out, time)
}

/// `error`, in an envelope.
pub fn envelope_error(id: Option<&RequestId>, refusal: &Refusal, time: TimeText) -> Bytes {
    let mut out = begin_envelope(envelope_id(id), "error", 0);
    out.put(b",\"data\":{\"code\":\"");
    out.put_str(refusal.code.as_str());
    out.put(b"\",\"message\":");
    out.put_json_str(&refusal.message);
    put_temporary(&mut out, refusal.code);
    out.put(b"}");
    end_envelope(out, time)
}

/// `registered`, `heartbeat_ack` or `unregistered`: the entries that failed, each with its fault.
pub fn batch(kind: &str, id: Option<&RequestId>, list: &str, failed: &[Value]) -> Bytes {
    let mut out = begin(kind, id);
    out.put(b",\"");
    out.put_str(list);
    out.put(b"\":[");
    for (index, entry) in failed.iter().enumerate() {
        if index > 0 {
            out.put(b",");
        }
        out.put(&serde_json::to_vec(entry).unwrap_or_default());
    }
    out.put(b"]");
    end(out)
}

/// `refreshed`: the new token's end.
pub fn refreshed(id: Option<&RequestId>, expires_at_ms: u64) -> Bytes {
    let mut out = begin("refreshed", id);
    out.put(b",\"expires_at\":\"");
    out.put_str(&crate::clock::rfc3339(expires_at_ms));
    out.put(b"\"");
    end(out)
}

/// `error`: a refusal, on a connection that stays open.
pub fn error(id: Option<&RequestId>, refusal: &Refusal) -> Bytes {
    let mut out = begin("error", id);
    out.put(b",\"code\":\"");
    out.put_str(refusal.code.as_str());
    out.put(b"\",\"message\":");
    out.put_json_str(&refusal.message);
    put_temporary(&mut out, refusal.code);
    end(out)
}

fn put_temporary(out: &mut FrameBuilder, code: Code) {
    let is_temporary = code.is_temporary();
    out.put(if is_temporary { b",\"temporary\":true" } else { b",\"temporary\":false" });
}

/// The `error` that precedes close 4401.
pub fn token_expired() -> Bytes {
    error(None, &Refusal::new(Code::TokenExpired, "the token has expired; get a new one"))
}

/// The `error` that precedes close 4401 when the account was disabled.
pub fn account_disabled() -> Bytes {
    error(None, &Refusal::new(Code::Unauthorized, "the account is disabled"))
}

/// The `error` that precedes close 4401 when the token was revoked.
pub fn token_revoked() -> Bytes {
    error(None, &Refusal::new(Code::Unauthorized, "the token was revoked; sign in again"))
}

/// `reconnect`: come back after this many milliseconds. Close 1001 follows.
pub fn reconnect(after_ms: u64) -> Bytes {
    let mut out = begin("reconnect", None);
    out.put(b",\"after_ms\":");
    out.put_u64(after_ms);
    end(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(frame: &Split) -> Value {
        let all = [&frame.head[..], &frame.tail[..]].concat();
        let start = all.iter().position(|&byte| byte == b'{').expect("an object");
        assert!(start >= 2);
        serde_json::from_slice(&all[start..]).expect("valid JSON")
    }

    #[test]
    fn split_frame_is_one_message() {
        let (service, epoch) = (ServiceName::of("s"), Epoch::new("e"));
        let at = Position { service: &service, epoch: &epoch, revision: 4, degraded: false };
        let id = RequestId("\"x\"".into());
        let instance = Bytes::from_static(b"{\"serviceId\":\"s\"}");
        let instances = InstanceList::encode(instance.len(), 1, std::iter::once(&instance));
        let frame = subscribed_with(Some(&id), at, Some(false), instances);
        let payload_bytes = usize::from(u16::from_be_bytes([frame.head[2], frame.head[3]]));
        assert_eq!(frame.head.len() + frame.tail.len(), 4 + payload_bytes);
        assert_eq!(
            json(&frame),
            serde_json::json!({"type": "subscribed", "id": "x", "service_id": "s", "epoch": "e",
                "revision": 4, "degraded": false, "recovered": false,
                "instances": [{"serviceId": "s"}]})
        );
    }

    #[test]
    fn errors_say_whether_to_try_again() {
        let refusal = Refusal::new(Code::RateLimited, "slow \"down\"");
        let frame = Split::from(error(Some(&RequestId("7".into())), &refusal));
        assert_eq!(
            json(&frame),
            serde_json::json!({"type": "error", "id": 7, "code": "rate_limited",
                "message": "slow \"down\"", "temporary": true})
        );
    }

    #[test]
    fn welcome_names_nobody_as_null() {
        let frame = welcome(Welcome {
            connection_id: "0-1-2",
            node_id: "n",
            user_id: None,
            ping_interval_ms: 25_000,
        });
        let json = json(&frame.into());
        assert_eq!(json["user_id"], Value::Null);
        assert_eq!(json["ping_interval_ms"], 25_000);
        assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    }
}
