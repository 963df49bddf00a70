//! A WebSocket by hand: bytes out, frames in, nothing corrected on the way.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// How long a test waits for expected bytes.
const PATIENCE: Duration = Duration::from_secs(10);

/// The request of a good upgrade, up to the empty line.
pub const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// A frame from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub opcode: u8,
    pub payload: Vec<u8>,
}

/// A TCP connection, and the bytes that have been read ahead.
pub struct Raw {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Raw {
    pub fn connect(address: SocketAddr) -> Raw {
        Raw::of(TcpStream::connect(address).expect("the server listens"))
    }

    /// Takes a connection that was made elsewhere.
    pub fn of(stream: TcpStream) -> Raw {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout can be set");
        Raw { stream, read: Vec::new() }
    }

    /// Connects and upgrades. On the JSON socket the welcome is read too.
    pub fn open(address: SocketAddr, path: &str) -> Raw {
        let mut raw = Raw::connect(address);
        raw.send(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{UPGRADE}\r\n").as_bytes());
        let head = raw.head();
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        if path == "/ws" || path.starts_with("/ws?") {
            let welcome = raw.frame().expect("a welcome");
            assert!(welcome.payload.starts_with(br#"{"type":"welcome""#));
        }
        raw
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server reads");
    }

    /// Sends bytes that the server may stop to read.
    pub fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    pub fn end_writing(&mut self) {
        self.stream.shutdown(Shutdown::Write).expect("the socket is open");
    }

    fn more(&mut self) -> bool {
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => false,
            Ok(bytes) => {
                self.read.extend_from_slice(&chunk[..bytes]);
                true
            }
            Err(fault) if fault.kind() == ErrorKind::ConnectionReset => false,
            Err(fault) => panic!("nothing came: {fault}"),
        }
    }

    /// The head of the next response.
    pub fn head(&mut self) -> String {
        loop {
            if let Some(end) = self.read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                let head = self.read.drain(..end + 4).collect();
                return String::from_utf8(head).expect("an ASCII head");
            }
            assert!(self.more(), "the stream ended in a head: {:?}", self.read);
        }
    }

    /// The next response: its status and its body.
    pub fn response(&mut self) -> (u16, String, Vec<u8>) {
        let head = self.head();
        let status = head[9..12].parse().expect("a status");
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().ok())?
        });
        let length = length.unwrap_or(0);
        while self.read.len() < length {
            assert!(self.more(), "the stream ended in a body");
        }
        (status, head, self.read.drain(..length).collect())
    }

    /// The next frame; none at the end of the stream.
    pub fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some((header, length)) = header(&self.read)
                && self.read.len() >= header + length
            {
                let opcode = self.read[0] & 0x0f;
                let payload = self.read[header..header + length].to_vec();
                self.read.drain(..header + length);
                return Some(Frame { opcode, payload });
            }
            if !self.more() {
                assert!(self.read.is_empty(), "half a frame: {:?}", self.read);
                return None;
            }
        }
    }

    /// The next text message, as JSON.
    pub fn json(&mut self) -> serde_json::Value {
        let frame = self.frame().expect("a message");
        assert_eq!(frame.opcode, 1, "{frame:?}");
        serde_json::from_slice(&frame.payload).expect("JSON")
    }

    /// Reads up to the close frame and the end behind it. Returns the code.
    pub fn close_code(&mut self) -> u16 {
        loop {
            let frame = self.frame().expect("a close frame before the end");
            if frame.opcode == 8 {
                assert_eq!(self.frame(), None, "nothing follows a close frame");
                return u16::from_be_bytes([frame.payload[0], frame.payload[1]]);
            }
        }
    }

    /// Waits for the end of the stream, and skips the bytes before it.
    pub fn wait_for_end(&mut self) {
        while self.more() {}
    }
}

fn header(bytes: &[u8]) -> Option<(usize, usize)> {
    let short = usize::from(*bytes.get(1)? & 0x7f);
    match short {
        126 => {
            let length = bytes.get(2..4)?.try_into().ok()?;
            Some((4, usize::from(u16::from_be_bytes(length))))
        }
        127 => {
            let length = bytes.get(2..10)?.try_into().ok()?;
            Some((10, usize::try_from(u64::from_be_bytes(length)).ok()?))
        }
        short => Some((2, short)),
    }
}

/// A masked frame with any first byte.
pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..=125 => bytes.push(0x80 | u8::try_from(short).expect("short")),
        medium @ 126..=65_535 => {
            bytes.push(0xfe);
            bytes.extend(u16::try_from(medium).expect("medium").to_be_bytes());
        }
        long => {
            bytes.push(0xff);
            bytes.extend((long as u64).to_be_bytes());
        }
    }
    let mask = [0x11, 0x22, 0x33, 0x44];
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// A whole masked text message.
pub fn text(payload: &str) -> Vec<u8> {
    masked(0x81, payload.as_bytes())
}
