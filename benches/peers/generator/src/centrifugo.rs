//! Centrifugo's bidirectional JSON protocol, as far as the modes of events and sockets need it.
//!
//! A service is a channel of the same name. Channels have no history here, so a publication has no
//! offset of its own; the event carries its number, and the ledger checks that. One connection
//! publishes all events of a channel, so their order is the order in which they were sent.
//!
//! Messages are JSON objects, several in one frame between line feeds. `wire` has the frames, and
//! the same idea: nothing is parsed.

use memchr::memmem;

use crate::wire::{self, Message};

/// Where the WebSocket is.
pub(crate) const PATH: &str = "/connection/websocket";

/// What answers a ping of the server, and is one.
pub(crate) const PING: &[u8] = b"{}";

/// The keys behind which channel and number of an event stand.
pub(crate) const CHANNEL_KEY: &[u8] = b"\"channel\":\"s";
pub(crate) const NUMBER_KEY: &[u8] = b"\"n\":\"";

/// The payload of a pushed frame without padding.
const ENVELOPE: &str = r#"{"push":{"channel":"s00000","pub":{"data":}}}"#;

/// The payload of the peers' frames, which carry more around the event.
const PEER_BYTES: usize = 310;

/// Appends the frame that introduces a connection.
pub(crate) fn encode_connect(into: &mut Vec<u8>) {
    wire::encode_frame(wire::OPCODE_TEXT, br#"{"id":1,"connect":{}}"#, into);
}

/// Appends the frame that subscribes to a service's channel.
pub(crate) fn encode_subscribe(service: usize, into: &mut Vec<u8>) {
    let text = format!(r#"{{"id":2,"subscribe":{{"channel":"s{service:05}"}}}}"#);
    wire::encode_frame(wire::OPCODE_TEXT, text.as_bytes(), into);
}

/// An event with places for its channel, its time and its number, as the value of `publish` over a
/// socket or the body of a request to `/api/publish`.
pub(crate) fn event(event_bytes: usize) -> String {
    let data =
        |pad: &str| format!(r#"{{"t":"0000000000000000","n":"0000000000000000","pad":"{pad}"}}"#);
    let bare = ENVELOPE.len() + data("").len();
    let pad = "x".repeat(event_bytes.max(PEER_BYTES) - bare);
    format!(r#"{{"channel":"s00000","data":{}}}"#, data(&pad))
}

/// Whether the body of an answer to a publication says that all went well.
pub(crate) fn is_success(body: &[u8]) -> bool {
    memmem::find(body, b"\"error\"").is_none()
}

/// One message of a frame.
pub(crate) fn message(line: &[u8]) -> Message<'_> {
    if let Some(push) = line.strip_prefix(b"{\"push\":") {
        let number = |key| wire::after(push, key).map(|text| wire::decimal(text).0);
        return match (number(CHANNEL_KEY), number(NUMBER_KEY)) {
            (Some(service), Some(revision)) => Message::Change {
                service: service as usize,
                from: revision.saturating_sub(1),
                revision,
                changes: push,
            },
            _ => Message::Other,
        };
    }
    let has = |key| memmem::find(line, key).is_some();
    if line == PING {
        Message::Ping
    } else if has(b"\"error\":") {
        Message::Error
    } else if has(b"\"connect\":") {
        Message::Welcome
    } else if has(b"\"subscribe\":") {
        // The service is of no interest: revisions start at zero in each run.
        Message::Subscribed { service: usize::MAX, revision: 0 }
    } else if has(b"\"publish\":") {
        Message::Registered { is_whole: true }
    } else {
        Message::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart() {
        let push = br#"{"push":{"channel":"s00017","pub":{"data":{"t":"0000000000000042","n":"0000000000000011","pad":""}}}}"#;
        assert!(matches!(
            message(push),
            Message::Change { service: 17, from: 10, revision: 11, .. }
        ));
        assert_eq!(message(b"{}"), Message::Ping);
        let connected = br#"{"id":1,"connect":{"client":"c","version":"6","ping":25,"pong":true}}"#;
        assert_eq!(message(connected), Message::Welcome);
        let subscribed = br#"{"id":2,"subscribe":{}}"#;
        assert!(matches!(message(subscribed), Message::Subscribed { .. }));
        assert_eq!(message(br#"{"id":3,"publish":{}}"#), Message::Registered { is_whole: true });
        let refused = br#"{"id":3,"error":{"code":103,"message":"permission denied"}}"#;
        assert_eq!(message(refused), Message::Error);
    }

    #[test]
    fn pushed_frame_is_as_large_as_that_of_the_peers() {
        let pushed = ENVELOPE.len() + event(256).len() - r#"{"channel":"s00000","data":}"#.len();
        assert_eq!(pushed, PEER_BYTES);
        assert!(is_success(br#"{"result":{}}"#));
        assert!(!is_success(br#"{"error":{"code":108,"message":"x"}}"#));
    }
}
