//! The reading side of a WebSocket: tungstenite behind an in-memory adapter.
//!
//! tungstenite is the protocol's state machine here: it unmasks, joins fragments, checks UTF-8,
//! answers pings and closes. It never sees a socket. It reads the shard's buffer, and then gets
//! `WouldBlock`; its output is gathered and goes through the connection's outbox, so its pongs
//! cannot land inside a half-sent event.
//!
//! # Promises
//!
//! * A connection at rest between two messages owns no reader state beyond the scanner's few bytes:
//!   its context has gone back to the shard's pool.
//! * A message never exceeds the limit of its pool, and memory is not reserved beyond it.
//!
//! Imports `limits`, `wire::close` and `ws::boundary`. Imported by `shard`.

use std::io::{self, Read, Write};

use bytes::Bytes;
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use tungstenite::{Error, Message, Utf8Bytes};

use super::boundary::Boundary;
use crate::limits;
use crate::wire::close::Reason;

/// A message of a client.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A text message.
    Text(Utf8Bytes),
    /// A binary message.
    Binary(Bytes),
    /// A ping, already answered, or a pong.
    Control,
    /// A close frame, already answered, and its code, if it has one. Nothing follows.
    Close(Option<u16>),
}

/// Contexts at rest, lent to connections whose bytes arrive. One pool a message limit.
#[derive(Debug)]
pub struct Pool {
    resting: Vec<Box<WebSocketContext>>,
    message_bytes_max: usize,
}

impl Pool {
    /// An empty pool whose contexts refuse messages over `message_bytes_max`.
    pub fn new(message_bytes_max: usize) -> Pool {
        Pool { resting: Vec::new(), message_bytes_max }
    }

    fn lend(&mut self) -> Box<WebSocketContext> {
        self.resting.pop().unwrap_or_else(|| {
            let config = WebSocketConfig::default()
                .read_buffer_size(limits::CONTEXT_READ_BYTES)
                .write_buffer_size(0)
                .max_message_size(Some(self.message_bytes_max))
                .max_frame_size(Some(self.message_bytes_max));
            Box::new(WebSocketContext::new(Role::Server, Some(config)))
        })
    }

    fn take_back(&mut self, context: Box<WebSocketContext>) {
        if self.resting.len() < limits::RESTING_CONTEXTS_MAX {
            self.resting.push(context);
        }
    }
}

/// The bytes of one read, and tungstenite's replies to them.
#[derive(Debug)]
pub struct Wire<'a> {
    /// Bytes that have not been read yet.
    pub input: &'a [u8],
    /// Frames in reply, in order.
    pub replies: &'a mut Vec<u8>,
}

impl Read for Wire<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() {
            // Not the end of the stream: `Ok(0)` would mean that.
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.input.read(into)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.replies.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One connection's place in its stream.
#[derive(Debug, Default)]
pub struct Reader {
    context: Option<Box<WebSocketContext>>,
    boundary: Boundary,
}

impl Reader {
    /// Announces bytes that [`Reader::next`] is going to get. Returns how many continuation frames
    /// begin in them.
    ///
    /// # Errors
    ///
    /// The reason to close, if the framing alone is abusive.
    pub fn begin(&mut self, bytes: &[u8], pool: &mut Pool) -> Result<u32, Reason> {
        let continuations = self.boundary.feed(bytes).map_err(|_| Reason::TooBig)?;
        if self.context.is_none() {
            self.context = Some(pool.lend());
        }
        Ok(continuations)
    }

    /// The next message in the wire's input; none if it holds no further whole one.
    ///
    /// # Errors
    ///
    /// The reason to close.
    pub fn next(&mut self, wire: &mut Wire<'_>) -> Result<Option<Incoming>, Reason> {
        let Some(context) = &mut self.context else { return Ok(None) };
        match context.read(wire) {
            Ok(Message::Text(text)) => Ok(Some(Incoming::Text(text))),
            Ok(Message::Binary(bytes)) => Ok(Some(Incoming::Binary(bytes))),
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {
                Ok(Some(Incoming::Control))
            }
            // The answer to a close frame leaves with the next flush, which then reports the end of
            // the connection.
            Ok(Message::Close(frame)) => {
                let _ = context.flush(wire);
                Ok(Some(Incoming::Close(frame.map(|frame| frame.code.into()))))
            }
            Err(Error::Io(fault)) if fault.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(Error::ConnectionClosed | Error::AlreadyClosed) => Ok(Some(Incoming::Close(None))),
            Err(Error::Capacity(_)) => Err(Reason::TooBig),
            Err(Error::Utf8(_)) => Err(Reason::NotUtf8),
            Err(_) => Err(Reason::Protocol),
        }
    }

    /// Ends a round of reading in which every byte was consumed. Between messages the context goes
    /// back to the pool.
    pub fn end(&mut self, pool: &mut Pool) {
        if self.boundary.is_at_rest()
            && let Some(context) = self.context.take()
        {
            pool.take_back(context);
        }
    }

    /// Whether the connection holds a context of its own: a message is incomplete.
    #[cfg(any(test, feature = "internals"))]
    pub fn is_mid_message(&self) -> bool {
        self.context.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tungstenite::protocol::frame::coding::{Control, Data, OpCode};
    use tungstenite::protocol::frame::{Frame, FrameHeader};

    fn masked(payload: &[u8], opcode: OpCode, is_final: bool) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let header = FrameHeader { is_final, opcode, mask: Some(mask), ..FrameHeader::default() };
        let frame = Frame::from_payload(header, Bytes::copy_from_slice(payload));
        let mut bytes = Vec::new();
        frame.format(&mut bytes).expect("a vector takes everything");
        bytes
    }

    fn play(stream: &[u8], cut: usize) -> (Vec<Incoming>, Vec<u8>, Option<Reason>, bool) {
        let (mut reader, mut pool) = (Reader::default(), Pool::new(1_000));
        let (mut got, mut replies) = (Vec::new(), Vec::new());
        for piece in stream.chunks(cut) {
            if let Err(reason) = reader.begin(piece, &mut pool) {
                return (got, replies, Some(reason), true);
            }
            let mut wire = Wire { input: piece, replies: &mut replies };
            loop {
                match reader.next(&mut wire) {
                    Ok(None) => break,
                    Ok(Some(close @ Incoming::Close(_))) => {
                        got.push(close);
                        return (got, replies, None, true);
                    }
                    Ok(Some(incoming)) => got.push(incoming),
                    Err(reason) => return (got, replies, Some(reason), true),
                }
            }
            reader.end(&mut pool);
        }
        (got, replies, None, reader.is_mid_message())
    }

    #[test]
    fn messages_come_out_whole_however_the_bytes_are_cut() {
        let text = OpCode::Data(Data::Text);
        let stream = [
            masked(b"one", text, true),
            masked(b"tw", text, false),
            masked(b"ping", OpCode::Control(Control::Ping), true),
            masked(b"o", OpCode::Data(Data::Continue), true),
            masked(&[7; 500], OpCode::Data(Data::Binary), true),
        ]
        .concat();
        for cut in [1, 2, 3, 7, 64, 1_000] {
            let (got, replies, fault, is_mid_message) = play(&stream, cut);
            assert_eq!(fault, None);
            assert!(!is_mid_message, "cut {cut}");
            assert_eq!(
                got,
                [
                    Incoming::Text("one".into()),
                    Incoming::Control,
                    Incoming::Text("two".into()),
                    Incoming::Binary(Bytes::from(vec![7; 500])),
                ]
            );
            assert_eq!(replies, b"\x8a\x04ping");
        }
    }

    #[test]
    fn faults_become_reasons() {
        let text = OpCode::Data(Data::Text);
        let reason = |stream: &[u8]| play(stream, 4_096).2;
        assert_eq!(reason(b"\x81\x01x"), Some(Reason::Protocol));
        assert_eq!(reason(&masked(&[0xff], text, true)), Some(Reason::NotUtf8));
        assert_eq!(reason(&masked(&[b'x'; 1_001], text, true)), Some(Reason::TooBig));
        assert_eq!(reason(&masked(&[b'x'; 1_000], text, true)), None);
        let endless = [0x81, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4];
        assert_eq!(reason(&endless), Some(Reason::TooBig));
    }

    #[test]
    fn close_is_answered_in_kind() {
        let close = masked(&1000_u16.to_be_bytes(), OpCode::Control(Control::Close), true);
        let (got, replies, fault, _) = play(&close, 100);
        assert_eq!((got, fault), (vec![Incoming::Close(Some(1000))], None));
        assert_eq!(replies, [0x88, 2, 0x03, 0xe8]);
    }
}
