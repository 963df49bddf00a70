//! gzip streams, put together from parts that were deflated before.
//!
//! A deflate stream may be cut wherever the compressor was flushed and its window reset, and the
//! checksum of a stream follows from those of its parts. So a part is deflated once, for all
//! streams that contain it; pigz does the same with threads.
//!
//! Imports nothing of the crate. Part of `doors::eureka`.

use flate2::{Compress, Compression, Crc, FlushCompress};

/// Level of compression: as fast as the low levels, and nearly as small as the high ones for texts
/// as repetitive as these.
const LEVEL: u32 = 4;

/// A gzip file's beginning (RFC 1952, 2.3): deflate, no name, no time, unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// Longest stored block of deflate (RFC 1951, 3.2.4).
const STORED_MAX: usize = 65_535;

/// A part, deflated so that it can stand anywhere in a stream.
pub(super) struct DeflatedPart {
    deflated: Vec<u8>,
    crc: Crc,
}

impl std::fmt::Debug for DeflatedPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DeflatedPart of {} bytes", self.deflated.len())
    }
}

impl DeflatedPart {
    /// Deflates a text.
    pub(super) fn deflate(text: &[u8]) -> DeflatedPart {
        let mut crc = Crc::new();
        crc.update(text);
        let mut compress = Compress::new(Compression::new(LEVEL), false);
        let mut deflated = Vec::with_capacity(text.len() / 4 + 64);
        loop {
            let read = usize::try_from(compress.total_in()).unwrap_or(text.len());
            let rest = text.get(read..).unwrap_or_default();
            if compress.compress_vec(rest, &mut deflated, FlushCompress::Full).is_err() {
                // The compressor has no reason to fail. A stored block is valid, too.
                return DeflatedPart { deflated: stored(text, false), crc };
            }
            let is_read = compress.total_in() == text.len() as u64;
            // If there is room left, everything has been flushed.
            if is_read && deflated.len() < deflated.capacity() {
                return DeflatedPart { deflated, crc };
            }
            deflated.reserve(deflated.capacity() + 64);
        }
    }

    /// How many bytes it has.
    pub(super) fn bytes(&self) -> usize {
        self.deflated.len()
    }
}

fn stored(text: &[u8], is_last: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 16);
    let mut chunks = text.chunks(STORED_MAX).peekable();
    if chunks.peek().is_none() && is_last {
        out.extend_from_slice(&[1, 0, 0, 255, 255]);
    }
    while let Some(chunk) = chunks.next() {
        let length = u16::try_from(chunk.len()).unwrap_or(u16::MAX);
        out.push(u8::from(is_last && chunks.peek().is_none()));
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(chunk);
    }
    out
}

/// A gzip stream that is being written.
pub(super) struct GzipWriter {
    out: Vec<u8>,
    crc: Crc,
}

impl GzipWriter {
    /// An empty stream with room for `bytes`.
    pub(super) fn with_capacity(bytes: usize) -> GzipWriter {
        let mut out = Vec::with_capacity(bytes + 64);
        out.extend_from_slice(&HEADER);
        GzipWriter { out, crc: Crc::new() }
    }

    /// Adds a short text as stored blocks.
    pub(super) fn text(&mut self, text: &str) {
        let mut crc = Crc::new();
        crc.update(text.as_bytes());
        self.crc.combine(&crc);
        self.out.extend_from_slice(&stored(text.as_bytes(), false));
    }

    /// Adds a part.
    pub(super) fn part(&mut self, part: &DeflatedPart) {
        self.crc.combine(&part.crc);
        self.out.extend_from_slice(&part.deflated);
    }

    /// The finished stream.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.out.extend_from_slice(&stored(b"", true));
        self.out.extend_from_slice(&self.crc.sum().to_le_bytes());
        self.out.extend_from_slice(&self.crc.amount().to_le_bytes());
        self.out
    }
}

/// Compresses one text.
pub(super) fn compress(text: &[u8]) -> Vec<u8> {
    let part = DeflatedPart::deflate(text);
    let mut writer = GzipWriter::with_capacity(part.bytes());
    writer.part(&part);
    writer.finish()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn inflated(bytes: &[u8]) -> String {
        let mut text = String::new();
        flate2::read::GzDecoder::new(bytes).read_to_string(&mut text).expect("one gzip member");
        text
    }

    #[test]
    fn parts_make_one_member() {
        let long = "the same again and again, ".repeat(20_000);
        let parts: Vec<DeflatedPart> = ["a", &long, "", "b"]
            .iter()
            .map(|text| DeflatedPart::deflate(text.as_bytes()))
            .collect();
        assert!(parts[1].bytes() < long.len() / 20);
        let mut writer = GzipWriter::with_capacity(0);
        writer.text("<");
        for part in &parts {
            writer.part(part);
            writer.text(",");
        }
        writer.text("");
        writer.text(&long);
        assert_eq!(inflated(&writer.finish()), format!("<a,{long},,b,{long}"));
        assert_eq!(inflated(&GzipWriter::with_capacity(0).finish()), "");
        assert_eq!(inflated(&compress(long.as_bytes())), long);
    }

    #[test]
    fn what_does_not_get_smaller_is_right_all_the_same() {
        let mut state = 1_u32;
        let noise: String = (0..200_000)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                char::from(32 + u8::try_from(state >> 24).unwrap_or(0) % 95)
            })
            .collect();
        assert_eq!(inflated(&compress(noise.as_bytes())), noise);
    }
}
