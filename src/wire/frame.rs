//! WebSocket frames as the server sends them: header and payload in one shared buffer.
//!
//! Server frames are not masked (RFC 6455, 5.1), so one buffer is right for every client. An event
//! is framed here once; after that only handles to it move.
//!
//! Imports nothing of the crate. Imported by `wire::event`, `wire::answer` and `shard`.

use bytes::{BufMut, Bytes, BytesMut};
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::close::Reason;

/// The longest header of an unmasked frame: two bytes and a 64-bit length.
const HEADER_BYTES_MAX: usize = 10;

/// A frame in two buffers: its own head, and a tail that many frames share.
///
/// A snapshot's instances are the same bytes for every subscriber at the same revision, while the
/// head carries the subscriber's own `id`. The tail is the JSON array and the brace that closes the
/// message after it.
#[derive(Debug, Clone)]
pub struct Split {
    /// WebSocket header and the message up to its instances.
    pub head: Bytes,
    /// `[...]}`; empty if the head is the whole frame.
    pub tail: Bytes,
}

impl Split {
    /// The frame in one piece.
    pub fn joined(self) -> Bytes {
        if self.tail.is_empty() { self.head } else { [self.head, self.tail].concat().into() }
    }
}

impl From<Bytes> for Split {
    fn from(head: Bytes) -> Split {
        Split { head, tail: Bytes::new() }
    }
}

/// Builds one frame: room for the header first, then the payload, then the header right before it.
///
/// The payload is written at its final place; nothing is copied at the end.
#[derive(Debug)]
pub struct FrameBuilder {
    buffer: BytesMut,
}

impl FrameBuilder {
    /// Starts a frame whose payload will probably take `payload_bytes`.
    pub fn with_capacity(payload_bytes: usize) -> FrameBuilder {
        let mut buffer = BytesMut::with_capacity(HEADER_BYTES_MAX + payload_bytes);
        buffer.put_bytes(0, HEADER_BYTES_MAX);
        FrameBuilder { buffer }
    }

    /// Appends to the payload.
    pub fn put(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Appends text to the payload.
    pub fn put_str(&mut self, text: &str) {
        self.put(text.as_bytes());
    }

    /// Appends `text` as a JSON string, quotes and escapes included.
    pub fn put_json_str(&mut self, text: &str) {
        // Names are nearly always plain; a scan is cheaper than a serializer.
        if text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
            self.put(b"\"");
            self.put_str(text);
            self.put(b"\"");
        } else if let Ok(quoted) = serde_json::to_vec(text) {
            self.put(&quoted);
        }
    }

    /// Appends a decimal number.
    pub fn put_u64(&mut self, mut number: u64) {
        let mut digits = [0; 20];
        let mut start = digits.len();
        loop {
            start -= 1;
            digits[start] = b'0' + u8::try_from(number % 10).unwrap_or(0);
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.put(&digits[start..]);
    }

    /// Ends without a frame: the payload alone, for an HTTP body.
    pub fn payload(self) -> Bytes {
        self.buffer.freeze().slice(HEADER_BYTES_MAX..)
    }

    /// Ends the payload of a text message and puts the header before it.
    pub fn text(self) -> Bytes {
        self.finish(OpCode::Data(Data::Text))
    }

    /// Ends the head of a text message whose payload continues in the shared bytes of `tail`.
    pub fn split(self, tail: Bytes) -> Split {
        let payload_bytes = self.buffer.len() - HEADER_BYTES_MAX + tail.len();
        Split { head: self.seal(OpCode::Data(Data::Text), payload_bytes), tail }
    }

    fn finish(self, opcode: OpCode) -> Bytes {
        let payload_bytes = self.buffer.len() - HEADER_BYTES_MAX;
        self.seal(opcode, payload_bytes)
    }

    fn seal(mut self, opcode: OpCode, payload_bytes: usize) -> Bytes {
        let mut header = [0; HEADER_BYTES_MAX];
        let used = write_header(opcode, payload_bytes, &mut header);
        let start = HEADER_BYTES_MAX - used;
        self.buffer[start..HEADER_BYTES_MAX].copy_from_slice(&header[..used]);
        self.buffer.freeze().slice(start..)
    }
}

fn write_header(opcode: OpCode, payload_bytes: usize, into: &mut [u8; HEADER_BYTES_MAX]) -> usize {
    let header = FrameHeader { is_final: true, opcode, mask: None, ..FrameHeader::default() };
    let mut rest = &mut into[..];
    header.format(payload_bytes as u64, &mut rest).expect("ten bytes hold any unmasked header");
    HEADER_BYTES_MAX - rest.len()
}

/// The payload of a frame that the server made: the bytes after the header (RFC 6455, 5.2).
pub fn payload(frame: &Bytes) -> Bytes {
    let header_bytes = match frame.get(1).map(|byte| byte & 0x7f) {
        Some(127) => 10,
        Some(126) => 4,
        _ => 2,
    };
    frame.slice(header_bytes.min(frame.len())..)
}

/// A whole text message.
pub fn text(payload: &[u8]) -> Bytes {
    data(OpCode::Data(Data::Text), payload)
}

/// A whole binary message.
pub fn binary(payload: &[u8]) -> Bytes {
    data(OpCode::Data(Data::Binary), payload)
}

fn data(opcode: OpCode, payload: &[u8]) -> Bytes {
    let mut frame = FrameBuilder::with_capacity(payload.len());
    frame.put(payload);
    frame.finish(opcode)
}

/// A ping without payload. The same bytes serve every connection.
pub fn ping() -> Bytes {
    data(OpCode::Control(Control::Ping), &[])
}

/// A close frame with its code and text (RFC 6455, 5.5.1).
pub fn close(reason: Reason) -> Bytes {
    let mut frame = FrameBuilder::with_capacity(2 + reason.text().len());
    frame.put(&reason.code().to_be_bytes());
    frame.put_str(reason.text());
    frame.finish(OpCode::Control(Control::Close))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_grows_with_the_payload() {
        for (bytes, header) in
            [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10), (1_000_000, 10)]
        {
            let frame = text(&vec![b'x'; bytes]);
            assert_eq!(frame.len(), header + bytes, "{bytes}");
            assert_eq!(frame[0], 0x81);
            let (parsed, len) = FrameHeader::parse(&mut std::io::Cursor::new(&frame[..]))
                .ok()
                .flatten()
                .expect("a whole header");
            assert_eq!((len, parsed.mask), (bytes as u64, None));
        }
    }

    #[test]
    fn numbers_and_strings_are_json() {
        let mut frame = FrameBuilder::with_capacity(64);
        frame.put_u64(0);
        frame.put(b" ");
        frame.put_u64(u64::MAX);
        frame.put(b" ");
        frame.put_json_str("a\"b\\c\n\u{e9}");
        assert_eq!(
            &frame.text()[2..],
            "0 18446744073709551615 \"a\\\"b\\\\c\\n\u{e9}\"".as_bytes()
        );
    }

    #[test]
    fn close_carries_its_code() {
        let frame = close(Reason::Draining);
        assert_eq!(&frame[..4], &[0x88, frame[1], 0x03, 0xe9]);
        assert_eq!(frame.len(), 2 + usize::from(frame[1]));
    }
}
