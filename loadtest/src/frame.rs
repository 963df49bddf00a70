//! WebSocket frames: reads the server's in place, writes the client's masked.
//!
//! The reading side is the hot path of the load test. It decodes a frame in the read buffer and
//! copies nothing; an incomplete frame is left for the next read.
//!
//! # Promises
//!
//! * `decode` never reads past the bytes it was given and never allocates.
//! * A frame that no server may send (masked, with a reserved bit, a long or cut control frame) is
//!   an error, so a broken server cannot pass a test by accident.
//!
//! Imports nothing. Imported by `fleet` and `publisher`.

use std::fmt;
use std::ops::Range;

/// The kind of a frame (RFC 6455, section 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opcode {
    /// The next part of a message that began in an earlier frame.
    Continuation,
    /// UTF-8 text.
    Text,
    /// Bytes.
    Binary,
    /// The end of the connection.
    Close,
    /// A ping.
    Ping,
    /// A pong.
    Pong,
}

impl Opcode {
    fn from_bits(bits: u8) -> Option<Opcode> {
        Some(match bits {
            0 => Opcode::Continuation,
            1 => Opcode::Text,
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            _ => return None,
        })
    }

    const fn bits(self) -> u8 {
        match self {
            Opcode::Continuation => 0,
            Opcode::Text => 1,
            Opcode::Binary => 2,
            Opcode::Close => 8,
            Opcode::Ping => 9,
            Opcode::Pong => 10,
        }
    }

    const fn is_control(self) -> bool {
        matches!(self, Opcode::Close | Opcode::Ping | Opcode::Pong)
    }
}

/// A frame that lies complete in a buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Its kind.
    pub(crate) opcode: Opcode,
    /// Whether it ends its message.
    pub(crate) is_final: bool,
    /// The range of its payload in the buffer. The next frame begins at its end.
    pub(crate) payload: Range<usize>,
}

/// The reason why bytes from the server are not a WebSocket frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameError {
    /// The server masked a frame (RFC 6455, section 5.1 forbids it).
    Masked,
    /// A reserved bit is set although no extension was agreed on.
    ReservedBit,
    /// The opcode is not assigned.
    UnknownOpcode,
    /// A control frame is fragmented or longer than 125 bytes.
    BadControl,
    /// A frame over `PAYLOAD_BYTES_MAX`.
    TooLong,
    /// A continuation without a beginning, or a beginning inside a message.
    BadFragment,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FrameError::Masked => "the server sent a masked frame",
            FrameError::ReservedBit => "the server set a reserved bit",
            FrameError::UnknownOpcode => "the server sent an unassigned opcode",
            FrameError::BadControl => "the server sent a fragmented or overlong control frame",
            FrameError::TooLong => "the server sent a frame over 256 MiB",
            FrameError::BadFragment => "the server sent a fragment out of place",
        })
    }
}

impl std::error::Error for FrameError {}

/// A longer frame is taken for garbage: the length field of a stream that is out of step.
const PAYLOAD_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// The short length of a frame with 16 bits of length.
const LENGTH_16: u8 = 0x7e;

/// The short length of a frame with 64 bits of length.
const LENGTH_64: u8 = 0x7f;

/// The longest payload of a control frame (RFC 6455, section 5.5).
const CONTROL_BYTES_MAX: usize = 125;

/// Reads the frame that begins at `start`. Returns nothing when it has not arrived in full.
pub(crate) fn decode(bytes: &[u8], start: usize) -> Result<Option<Frame>, FrameError> {
    let [first, second, rest @ ..] = &bytes[start..] else {
        return Ok(None);
    };
    if first & 0x70 != 0 {
        return Err(FrameError::ReservedBit);
    }
    if second & 0x80 != 0 {
        return Err(FrameError::Masked);
    }
    let opcode = Opcode::from_bits(first & 0x0f).ok_or(FrameError::UnknownOpcode)?;
    let is_final = first & 0x80 != 0;
    let short = second & 0x7f;
    if opcode.is_control() && (!is_final || usize::from(short) > CONTROL_BYTES_MAX) {
        return Err(FrameError::BadControl);
    }
    let (length, header) = match short {
        LENGTH_16 => match rest.first_chunk() {
            Some(bytes) => (u64::from(u16::from_be_bytes(*bytes)), 4),
            None => return Ok(None),
        },
        LENGTH_64 => match rest.first_chunk() {
            Some(bytes) => (u64::from_be_bytes(*bytes), 10),
            None => return Ok(None),
        },
        length => (u64::from(length), 2),
    };
    if length > PAYLOAD_BYTES_MAX {
        return Err(FrameError::TooLong);
    }
    let begin = start + header;
    // Within `PAYLOAD_BYTES_MAX`, so it fits.
    let end = begin + length as usize;
    if end > bytes.len() {
        return Ok(None);
    }
    Ok(Some(Frame { opcode, is_final, payload: begin..end }))
}

/// Appends one masked frame to `out`.
///
/// The masking key protects proxies from chosen bytes; a load test has none to protect, so any
/// changing key will do.
pub(crate) fn encode(opcode: Opcode, payload: &[u8], key: u32, out: &mut Vec<u8>) {
    out.push(0x80 | opcode.bits());
    match payload.len() {
        length @ 0..=125 => out.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            out.push(0x80 | LENGTH_16);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(0x80 | LENGTH_64);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    let key = key.to_be_bytes();
    out.extend_from_slice(&key);
    let begin = out.len();
    out.extend_from_slice(payload);
    for group in out[begin..].chunks_mut(4) {
        for (byte, mask) in group.iter_mut().zip(key) {
            *byte ^= mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server_frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(Opcode::Text, payload, 0, &mut bytes);
        // A key of zero leaves the payload as it is; drop the key and the mask bit.
        let header = bytes.len() - payload.len() - 4;
        bytes.drain(header..header + 4);
        bytes[0] = first;
        bytes[1] &= 0x7f;
        bytes
    }

    #[test]
    fn every_length_form_is_read_back() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
            let bytes = server_frame(0x81, &vec![b'x'; length]);
            let frame = decode(&bytes, 0).unwrap().unwrap();
            assert_eq!(frame.payload.len(), length);
            assert_eq!(frame.payload.end, bytes.len());
        }
    }

    #[test]
    fn a_cut_frame_is_not_there_yet_at_any_cut() {
        let bytes = server_frame(0x81, &[b'x'; 300]);
        for cut in 0..bytes.len() {
            assert_eq!(decode(&bytes[..cut], 0), Ok(None), "cut at {cut}");
        }
    }

    #[test]
    fn what_no_server_may_send_is_refused() {
        assert_eq!(decode(&[0x81, 0x80], 0), Err(FrameError::Masked));
        assert_eq!(decode(&[0xc1, 0x00], 0), Err(FrameError::ReservedBit));
        assert_eq!(decode(&[0x83, 0x00], 0), Err(FrameError::UnknownOpcode));
        assert_eq!(decode(&[0x09, 0x00], 0), Err(FrameError::BadControl));
        assert_eq!(decode(&[0x89, 126, 0, 126], 0), Err(FrameError::BadControl));
        let huge = [0x81, 127, 0xff, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(decode(&huge, 0), Err(FrameError::TooLong));
    }

    #[test]
    fn a_client_frame_unmasks_to_its_payload() {
        let mut bytes = Vec::new();
        encode(Opcode::Ping, b"hello", 0x0102_0304, &mut bytes);
        assert_eq!(bytes[..2], [0x89, 0x85]);
        let unmasked: Vec<u8> =
            bytes[6..].iter().zip([1, 2, 3, 4].iter().cycle()).map(|(b, k)| b ^ k).collect();
        assert_eq!(unmasked, b"hello");
    }
}
