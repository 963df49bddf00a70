//! A scanner for the boundaries of frames in a stream of bytes.
//!
//! A connection between two messages needs no reader: the shard lends it one when bytes arrive. The scanner
//! tells when a connection is between two messages, with sixteen bytes of state and without reading payloads.
//! tungstenite checks the frames themselves; for a stream that breaks the protocol the scanner's answer does
//! not matter.
//!
//! Imports `limits`. Part of `ws`.

use crate::limits;

/// The scanner's place in the stream.
///
/// # Invariants
///
/// 1. `header_bytes` bytes of the present frame's header have been seen; `header` holds those that
///    are needed.
/// 2. Outside of a header `left` bytes of the present frame's payload have not been seen. Inside of one it is
///    the extended length so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Boundary {
    left: u64,
    header: [u8; 2],
    header_bytes: u8,
    is_mid_message: bool,
    /// Data frames without payload in the present message.
    empty_fragments: u16,
}

/// A message of more empty fragments than [`limits::EMPTY_FRAGMENTS_MAX`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooManyFragments;

impl Boundary {
    /// Whether the stream is between two messages: no half frame, no open fragments.
    pub(super) fn is_at_rest(&self) -> bool {
        self.left == 0 && self.header_bytes == 0 && !self.is_mid_message
    }

    /// Moves over the next bytes of the stream. Returns how many continuation frames begin in them:
    /// frames that the limit on messages does not see.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Result<u32, TooManyFragments> {
        let mut continuations = 0;
        while !bytes.is_empty() {
            if self.header_bytes == 0 && self.left > 0 {
                let seen =
                    usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
                self.left -= seen as u64;
                bytes = &bytes[seen..];
                continue;
            }
            continuations += u32::from(self.header_byte(bytes[0])?);
            bytes = &bytes[1..];
        }
        Ok(continuations)
    }

    /// Takes one byte of a header. Returns whether it completes that of a continuation frame.
    fn header_byte(&mut self, byte: u8) -> Result<bool, TooManyFragments> {
        let index = self.header_bytes;
        self.header_bytes += 1;
        if index < 2 {
            self.header[usize::from(index)] = byte;
            self.left = 0;
            if index == 0 {
                return Ok(false);
            }
        } else if index < 2 + self.length_bytes() {
            self.left = self.left << 8 | u64::from(byte);
        }
        let mask_bytes = if self.header[1] & 0x80 == 0 { 0 } else { 4 };
        if self.header_bytes < 2 + self.length_bytes() + mask_bytes {
            return Ok(false);
        }
        self.left = match self.header[1] & 0x7f {
            126 | 127 => self.left,
            short => u64::from(short),
        };
        self.header_bytes = 0;
        self.frame()?;
        // Opcode 0 (RFC 6455, 5.2).
        Ok(matches!(self.header[0] & 0x0f, 0))
    }

    /// How many bytes the extended length takes (RFC 6455, 5.2).
    fn length_bytes(&self) -> u8 {
        match self.header[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        }
    }

    /// A frame's header is complete.
    fn frame(&mut self) -> Result<(), TooManyFragments> {
        let is_control = self.header[0] & 0x08 != 0;
        if is_control {
            return Ok(());
        }
        self.is_mid_message = self.header[0] & 0x80 == 0;
        if !self.is_mid_message {
            self.empty_fragments = 0;
        } else if self.left == 0 {
            self.empty_fragments += 1;
            if self.empty_fragments > limits::EMPTY_FRAGMENTS_MAX {
                return Err(TooManyFragments);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tungstenite::protocol::frame::coding::{Control, Data, OpCode};
    use tungstenite::protocol::frame::{Frame, FrameHeader};

    /// Whole messages in random fragments and pieces: at rest exactly between messages.
    #[test]
    fn rests_between_messages_however_the_bytes_are_cut() {
        for seed in 0..200 {
            let mut rng = crate::rng::Rng::seeded(seed);
            let (mut stream, mut rests) = (Vec::new(), vec![0]);
            let mut sent = 0;
            for _ in 0..8 {
                let fragments = rng.below(4);
                sent += u32::try_from(fragments).expect("below 4");
                for index in 0..=fragments {
                    let is_last = index == fragments;
                    let size = [0, 1, 125, 126, 300, 65_535, 65_536][rng.below(7) as usize];
                    let opcode = if index == 0 { Data::Text } else { Data::Continue };
                    put(&mut stream, vec![b'x'; size], OpCode::Data(opcode), is_last);
                    if is_last {
                        rests.push(stream.len());
                    }
                    if rng.below(3) == 0 {
                        put(&mut stream, vec![b'p'; 5], OpCode::Control(Control::Ping), true);
                        if is_last {
                            rests.push(stream.len());
                        }
                    }
                }
            }
            let (mut boundary, mut at, mut continuations) = (Boundary::default(), 0, 0);
            while at < stream.len() {
                let span = 1 << rng.below(17);
                let next = (at + 1 + rng.below(span) as usize).min(stream.len());
                continuations += boundary.feed(&stream[at..next]).expect("few empty fragments");
                at = next;
                assert_eq!(boundary.is_at_rest(), rests.contains(&at), "seed {seed} at {at}");
            }
            assert_eq!(continuations, sent, "seed {seed}");
        }
    }

    fn put(stream: &mut Vec<u8>, payload: Vec<u8>, opcode: OpCode, is_final: bool) {
        let mask = Some([1, 2, 3, 4]);
        let header = FrameHeader { is_final, opcode, mask, ..FrameHeader::default() };
        let frame = Frame::from_payload(header, payload.into());
        frame.format(stream).expect("a vector takes everything");
    }

    #[test]
    fn empty_fragments_are_counted() {
        let mut boundary = Boundary::default();
        let empty = [0x01, 0x80, 1, 2, 3, 4];
        for _ in 0..limits::EMPTY_FRAGMENTS_MAX {
            assert_eq!(boundary.feed(&empty), Ok(0));
        }
        assert_eq!(boundary.feed(&empty), Err(TooManyFragments));
    }
}
