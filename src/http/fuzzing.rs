//! The decoders of request bodies, for `crate::fuzzing`.
//!
//! Built for tests and with `--cfg fuzzing` only. Imports its siblings. Imported by `fuzzing`.

#![allow(clippy::missing_panics_doc, reason = "a panic is how a broken promise is reported")]

use bytes::{Bytes, BytesMut};

use super::chunked_body::{ChunkedBody, Verdict};
use super::{body, content_encoding, discovery, registry};

/// Reads a chunked body in steps. Returns the bytes that it passed on, the number of its own, and
/// whether it ended well; none if it did not end.
pub fn chunks_passed(bytes: &[u8], step: usize) -> (BytesMut, usize, Option<bool>) {
    let (mut chunked_body, mut passed, mut at) = (ChunkedBody::new(), BytesMut::new(), 0);
    for part in bytes.chunks(step.max(1)) {
        let (used, verdict) = chunked_body.walk(part, &mut passed);
        at += used;
        match verdict {
            Verdict::More => assert_eq!(used, part.len(), "a body that goes on takes everything"),
            Verdict::Over => return (passed, at, Some(true)),
            // The bytes behind the fault are dropped with it.
            Verdict::Wrong => return (passed, 0, Some(false)),
        }
    }
    (passed, at, None)
}

/// Reads registrations as `register` does.
pub fn decode_registrations(text: &[u8]) {
    registry::decode_registrations(text);
}

/// Reads instance keys as `heartbeat` and `unregister` do.
pub fn decode_keys(text: &[u8]) {
    registry::decode_keys(text);
}

/// Reads a batch of look-ups.
pub fn decode_lookup(text: &[u8]) {
    discovery::decode_lookup(text);
}

/// Reads any body that has to be a JSON object.
pub fn decode_object(text: &[u8]) {
    drop(body::checked(Bytes::copy_from_slice(text)));
}

/// Inflates a packed body.
pub fn decode_packed(packed: &[u8], is_gzip: bool) {
    content_encoding::decode(packed, is_gzip);
}
