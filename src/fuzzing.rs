//! The fuzz targets: each decoder of bytes from outside, with the promises that hold for any input.
//!
//! `fuzz/` has a target for each function here, and a corpus beside it; a unit test replays the
//! corpus, so that a finding stays found. A function returns quietly whatever the input is, and
//! panics if a promise is broken:
//!
//! * A decoder ends, with a value or an error, and never panics.
//! * A stream cut at any byte is read like the whole.
//! * A decoded value can be encoded, and decoded again to the same value.
//! * A log and a snapshot that decode can be applied, whatever they contain.
//!
//! Not here: sockets, threads and time. `tests/fuzz.rs` tests the running server.
//!
//! Built for tests and with `--cfg fuzzing` only. Imports `clock`, `doors`, `http`, `state`, `wire` and `ws`.

#![allow(clippy::missing_panics_doc, reason = "a panic is how a broken promise is reported")]

use crate::clock::Moment;
use crate::doors::eureka;
use crate::http::fuzzing as http;
use crate::http::fuzzing::chunks_passed;
use crate::limits::{self, Limits};
use crate::state::entry::{self, Bounds, LogItem, RegistryEntry};
use crate::state::snapshot::Snapshot;
use crate::state::{empty_snapshot, new_node};
use crate::wire::command::{self, Family};
use crate::wire::instance::Instance;
use crate::wire::refusal::Code;
use crate::ws::head::{self, HeadLimits};
use crate::ws::reader::{Incoming, Pool, Reader, Wire};

/// A target: it returns if the input is handled as promised.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also the name of its corpus.
pub const TARGETS: [(&str, Target); 7] = [
    ("request_head", request_head),
    ("chunked_body", chunked_body),
    ("websocket_frames", websocket_frames),
    ("client_command", client_command),
    ("http_body", http_body),
    ("log_entry", log_entry),
    ("snapshot", snapshot),
];

/// Reads a request head. A head is complete at exactly one length, and complete at none before.
pub fn request_head(bytes: &[u8]) {
    let limits = HeadLimits {
        bytes_max: Limits::DEFAULT.request_head_bytes_max,
        headers_max: Limits::DEFAULT.request_headers_max,
    };
    let Ok(Some(head)) = head::parse(bytes, limits) else { return };
    assert!(head.bytes <= bytes.len() && head.bytes <= limits.bytes_max);
    let alone = head::parse(&bytes[..head.bytes], limits).expect("the same head");
    let alone = alone.expect("complete without what follows it");
    assert_eq!((alone.bytes, &alone.uri, &alone.headers), (head.bytes, &head.uri, &head.headers));
    if let Ok(Some(early)) = head::parse(&bytes[..head.bytes - 1], limits) {
        // A bare line feed ends a head as well (RFC 9112, 2.2), so one byte less may be one.
        assert!(early.bytes < head.bytes);
    }
}

/// Reads a chunked body, whole and byte by byte: both end at the same place and pass the same data.
pub fn chunked_body(bytes: &[u8]) {
    let (whole, in_steps) = (chunks_passed(bytes, bytes.len()), chunks_passed(bytes, 1));
    assert_eq!(whole, in_steps);
}

/// Reads WebSocket frames of a client, whole and byte by byte: both give the same messages.
pub fn websocket_frames(bytes: &[u8]) {
    let (whole, whole_end) = read_frames(bytes, bytes.len().max(1));
    let (in_steps, steps_end) = read_frames(bytes, 1);
    if whole_end.is_ok() {
        assert_eq!((whole, whole_end), (in_steps, steps_end));
    } else {
        // Abusive framing is found before the messages of the same read.
        assert!(steps_end.is_err() && in_steps.starts_with(&whole));
    }
}

fn read_frames(
    bytes: &[u8],
    step: usize,
) -> (Vec<Incoming>, Result<(), crate::wire::close::Reason>) {
    let mut pool = Pool::new(4 * limits::KIB);
    let (mut reader, mut messages, mut replies) = (Reader::default(), Vec::new(), Vec::new());
    for part in bytes.chunks(step) {
        if let Err(reason) = reader.begin(part, &mut pool) {
            return (messages, Err(reason));
        }
        let mut wire = Wire { input: part, replies: &mut replies };
        loop {
            match reader.next(&mut wire) {
                Ok(Some(close @ Incoming::Close(_))) => {
                    messages.push(close);
                    return (messages, Ok(()));
                }
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(reason) => return (messages, Err(reason)),
            }
        }
        reader.end(&mut pool);
    }
    (messages, Ok(()))
}

/// Reads a client's command. Its answer can name the request, whether it was read or not.
pub fn client_command(bytes: &[u8]) {
    let topic_bytes_max = Limits::DEFAULT.topic_bytes_max;
    let message = command::decode(bytes, topic_bytes_max);
    let (id, family) = command::decode_id(bytes);
    if message.request.is_ok() {
        assert_eq!((&id, family), (&message.id, message.family));
    }
    if let Err(refusal) = &message.request {
        assert!(!matches!(refusal.code, Code::Internal | Code::Unavailable), "{refusal}");
        assert!(!refusal.message.is_empty());
    }
    let id = message.id.as_ref();
    let refusal = crate::wire::refusal::Refusal::internal();
    let answer = match message.family {
        Family::Typed => crate::wire::answer::error(id, &refusal),
        Family::Envelope => {
            crate::wire::answer::envelope_error(id, &refusal, crate::wire::event::TimeText::of(0))
        }
    };
    let payload = crate::wire::frame::payload(&answer);
    assert!(serde_json::from_slice::<serde_json::Value>(&payload).is_ok(), "{payload:?}");
}

/// Reads the body of a request; the first byte chooses the endpoint.
pub fn http_body(bytes: &[u8]) {
    let Some((&endpoint, body)) = bytes.split_first() else { return };
    match endpoint % 8 {
        0 => http::decode_registrations(body),
        1 => http::decode_keys(body),
        2 => eureka::decode_registration(body, false),
        3 => eureka::decode_registration(body, true),
        4 => http::decode_packed(body, true),
        6 => http::decode_packed(body, false),
        5 => http::decode_lookup(body),
        _ => http::decode_object(body),
    }
}

/// Reads an entry of the log, and applies it to a node that has begun.
pub fn log_entry(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let now = Moment::new(1_000_000, 0);
    let mut node = new_node("here", None, now);
    node.install_snapshot(empty_snapshot(now), Vec::new(), now);
    // One entry a line: the state after one meets the next.
    for (number, line) in (1..).zip(text.lines().take(32)) {
        let Ok(entry) = entry::decode(line) else { continue };
        let encoded = entry::encode(&entry).expect("what was read can be written");
        assert_eq!(entry::decode(&encoded).as_ref(), Ok(&entry), "{encoded}");
        let (position, at_ms) = (format!("{number}-0"), now.unix_ms);
        let item = LogItem { position, node: "there".into(), number, at_ms, entry };
        node.apply_logged(item, now);
        node.take_effects();
    }
    node.tick(Moment::new(2_000_000, 1_000_000_000_000));
    assert_snapshot_is_readable(node.registry.snapshot());
}

/// Reads a snapshot of the registry, begins from it, and goes on with a change of each of its first
/// services and of one that it does not have.
pub fn snapshot(bytes: &[u8]) {
    let Ok(snapshot) = Snapshot::read(bytes) else { return };
    let now = Moment::new(1_000_000, 0);
    let mut node = new_node("here", None, now);
    let (number, at_ms) = (snapshot.sequence + 1, now.unix_ms);
    let services = snapshot.services.iter().take(4).map(|service| service.service.clone());
    let registrations = services.chain([String::from("unheard-of")]).filter_map(|service| {
        let instance = Instance {
            service_id: Some(service.into()),
            instance_id: Some("one".into()),
            ..Instance::default()
        };
        instance.register().ok()
    });
    let bounds = Bounds { instances_max: 1_000, services_max: 1_000, instances_bytes_max: 1 << 20 };
    let entry = RegistryEntry::Register { list: registrations.collect(), bounds }.into();
    let (position, other) = (format!("{number}-0"), "there".into());
    let item = LogItem { position, node: other, number, at_ms, entry };
    node.install_snapshot(snapshot, vec![item], now);
    node.tick(Moment::new(2_000_000, 1_000_000_000_000));
    assert_snapshot_is_readable(node.registry.snapshot());
}

fn assert_snapshot_is_readable(snapshot: Snapshot) {
    let text = serde_json::to_string(&snapshot).expect("a snapshot can be written");
    assert_eq!(serde_json::from_str::<Snapshot>(&text).ok(), Some(snapshot));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    #[test]
    fn the_corpus_is_read_as_promised() {
        for (name, target) in TARGETS {
            let folder = Path::new("fuzz/corpus").join(name);
            let mut inputs = 0;
            for file in fs::read_dir(&folder).expect("a corpus for each target") {
                let path = file.expect("readable").path();
                target(&fs::read(&path).expect("readable"));
                inputs += 1;
            }
            assert!(inputs > 0, "{name} has no corpus");
        }
    }

    #[test]
    fn each_function_has_a_target_of_its_name() {
        let manifest = fs::read_to_string("fuzz/Cargo.toml").expect("the fuzz crate");
        for (name, _) in TARGETS {
            assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
            let source = fs::read_to_string(format!("fuzz/fuzz_targets/{name}.rs"));
            assert!(source.expect("its source").contains(&format!("fuzzing::{name}(")), "{name}");
        }
    }
}
