//! The decoders of request bodies, for `crate::fuzzing`.
//!
//! Built for tests and with `--cfg fuzzing` only. Imports its siblings. Imported by `fuzzing`.

#![allow(clippy::missing_panics_doc, reason = "a panic is how a broken promise is reported")]

use bytes::{Bytes, BytesMut};

use super::chunks::{Chunks, Verdict};
use super::{body, discovery, eureka, registry};

/// Reads a chunked body in steps. Returns what it passed on, how many bytes were its own, and
/// whether it ended well; none where it did not end.
pub fn chunks_passed(bytes: &[u8], step: usize) -> (BytesMut, usize, Option<bool>) {
    let (mut chunks, mut passed, mut at) = (Chunks::new(), BytesMut::new(), 0);
    for part in bytes.chunks(step.max(1)) {
        let (used, verdict) = chunks.walk(part, &mut passed);
        at += used;
        match verdict {
            Verdict::More => assert_eq!(used, part.len(), "a body that goes on takes everything"),
            Verdict::Over => return (passed, at, Some(true)),
            // What is behind the fault is dropped with it.
            Verdict::Wrong => return (passed, 0, Some(false)),
        }
    }
    (passed, at, None)
}

/// Reads a body as one of the endpoints does.
pub fn decode_body(endpoint: u8, text: &[u8]) {
    match endpoint % 7 {
        0 => registry::decode_registrations(text),
        1 => registry::decode_keys(text),
        2 => eureka::decode_registration(text, false),
        3 => eureka::decode_registration(text, true),
        4 => eureka::decode_packed(text),
        5 => discovery::decode_lookup(text),
        _ => drop(body::checked(Bytes::copy_from_slice(text))),
    }
}
