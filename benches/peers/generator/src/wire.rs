//! The bytes: what we send, ready to be patched, and what comes back, scanned at fixed places.
//!
//! The generator must cost far less per delivery than the server it measures. So a pushed frame is
//! not parsed: the scanner expects the layout of the frame before it, checks a few bytes, and
//! searches by key only where they differ. Names and times have a fixed width for the same reason.

use memchr::memmem;

use crate::centrifugo;

pub(crate) const OPCODE_TEXT: u8 = 1;
pub(crate) const OPCODE_CLOSE: u8 = 8;
pub(crate) const OPCODE_PING: u8 = 9;
pub(crate) const OPCODE_PONG: u8 = 10;

/// In the second byte of a frame: a mask follows the length.
const MASKED: u8 = 0x80;
/// Instead of a length: it stands in the next two, or eight, bytes.
const LENGTH_16: u8 = 126;
const LENGTH_64: u8 = 127;

/// Any but zero, so that unmasking costs a server what a real client would make it cost.
const MASK: [u8; 4] = [0x5a, 0x17, 0xc3, 0x8e];

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &[u8] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

const SERVICE_DIGITS: usize = 5;
const STAMP_DIGITS: usize = 16;
const STAMP_KEY: &[u8] = b"\"t\":\"";
const CHANGE_START: &[u8] = b"{\"type\":\"service_change\",\"service_id\":\"s";

/// The services a run can have: names have five digits.
pub(crate) const SERVICES_MAX: usize = 100_000;

/// Where the WebSocket is.
pub(crate) const PATH: &str = "/ws";

/// A ping as a message, which is answered with a `pong`.
pub(crate) const PING: &[u8] = br#"{"type":"ping"}"#;

/// The request that opens a WebSocket.
pub(crate) fn upgrade_request(path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    .into_bytes()
}

/// Whether a response head accepts the upgrade.
pub(crate) fn is_upgraded(head: &[u8]) -> bool {
    head.starts_with(b"HTTP/1.1 101 ") && memmem::find(head, ACCEPT).is_some()
}

/// A complete HTTP request with a JSON body.
pub(crate) fn post(path: &str, body: &[u8]) -> Vec<u8> {
    post_with(path, "", body)
}

/// The same with further header fields, each with its end of line.
pub(crate) fn post_with(path: &str, fields: &str, body: &[u8]) -> Vec<u8> {
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{fields}Content-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

/// A complete HTTP request without a body.
pub(crate) fn get(path: &str, fields: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{fields}\r\n").into_bytes()
}

/// Appends a client's frame: final and masked.
pub(crate) fn encode_frame(opcode: u8, payload: &[u8], into: &mut Vec<u8>) {
    into.push(0x80 | opcode);
    if let Ok(short @ 0..=125) = u8::try_from(payload.len()) {
        into.push(MASKED | short);
    } else if let Ok(medium) = u16::try_from(payload.len()) {
        into.push(MASKED | LENGTH_16);
        into.extend_from_slice(&medium.to_be_bytes());
    } else {
        into.push(MASKED | LENGTH_64);
        into.extend_from_slice(&(payload.len() as u64).to_be_bytes());
    }
    into.extend_from_slice(&MASK);
    into.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
}

/// Appends the frame that subscribes to a service.
pub(crate) fn encode_subscribe(service: usize, into: &mut Vec<u8>) {
    let text = format!(r#"{{"type":"subscribe","service_id":"s{service:05}"}}"#);
    encode_frame(OPCODE_TEXT, text.as_bytes(), into);
}

/// How an event reaches the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// As a `register` message on a WebSocket.
    Frame,
    /// As a request of its own, pipelined.
    Http,
}

/// An event with its service and time left to be filled in.
#[derive(Debug)]
pub(crate) struct EventTemplate {
    route: Route,
    bytes: Vec<u8>,
    service_at: usize,
    stamp_at: usize,
    /// Where its number stands, if the server gives it none.
    number_at: Option<usize>,
    last_stamp_ns: u64,
}

impl EventTemplate {
    /// An event whose pushed frame has a payload of about `event_bytes`.
    ///
    /// The envelope alone takes some 300 bytes; below that there is no padding.
    pub(crate) fn new(route: Route, event_bytes: usize) -> EventTemplate {
        let instance = |pad: &str| {
            format!(
                r#"{{"serviceId":"s00000","instanceId":"i","status":"up","metadata":{{"t":"0000000000000000","pad":"{pad}"}}}}"#
            )
        };
        let envelope = r#"{"type":"service_change","service_id":"s00000","epoch":"12345678","from":1000,"revision":1001,"changes":[{"instance":,"changeType":"change","changeTime":"2026-11-20T12:00:00.123Z","reason":"update"}],"degraded":false}"#;
        let bare = envelope.len() + instance("").len();
        let instance = instance(&"x".repeat(event_bytes.saturating_sub(bare)));
        let bytes = match route {
            Route::Frame => format!(r#"{{"type":"register","instances":[{instance}]}}"#).into(),
            Route::Http => post(
                "/api/registry/register.json",
                format!(r#"{{"instances":[{instance}]}}"#).as_bytes(),
            ),
        };
        Self::of_bytes(route, bytes, b"\"serviceId\":\"s", None)
    }

    /// The same for Centrifugo, where an event carries its number.
    pub(crate) fn centrifugo(route: Route, event_bytes: usize) -> EventTemplate {
        let event = centrifugo::event(event_bytes);
        let bytes = match route {
            Route::Frame => format!(r#"{{"id":3,"publish":{event}}}"#).into(),
            Route::Http => post("/api/publish", event.as_bytes()),
        };
        Self::of_bytes(route, bytes, centrifugo::CHANNEL_KEY, Some(centrifugo::NUMBER_KEY))
    }

    fn of_bytes(
        route: Route,
        bytes: Vec<u8>,
        service_key: &[u8],
        number_key: Option<&[u8]>,
    ) -> EventTemplate {
        EventTemplate {
            route,
            service_at: place(&bytes, service_key),
            stamp_at: place(&bytes, STAMP_KEY),
            number_at: number_key.map(|key| place(&bytes, key)),
            bytes,
            last_stamp_ns: 0,
        }
    }

    /// Appends the event, the `number`th of its service, as bytes for the socket.
    pub(crate) fn encode(
        &mut self,
        service: usize,
        stamp_ns: u64,
        number: u64,
        into: &mut Vec<u8>,
    ) {
        // A registration that changes nothing is no event, so no two stamps may be the same, not
        // even of events that leave in one write.
        let stamp_ns = stamp_ns.max(self.last_stamp_ns + 1);
        self.last_stamp_ns = stamp_ns;
        fill(&mut self.bytes, self.service_at, SERVICE_DIGITS, service as u64);
        fill(&mut self.bytes, self.stamp_at, STAMP_DIGITS, stamp_ns);
        if let Some(number_at) = self.number_at {
            fill(&mut self.bytes, number_at, STAMP_DIGITS, number);
        }
        match self.route {
            Route::Frame => encode_frame(OPCODE_TEXT, &self.bytes, into),
            Route::Http => into.extend_from_slice(&self.bytes),
        }
    }
}

/// Digits of an instance's number.
pub(crate) const INSTANCE_DIGITS: usize = 8;

/// A request about one service, and one instance of it, with both left to be filled in.
#[derive(Debug)]
pub(crate) struct RequestTemplate {
    bytes: Vec<u8>,
    service_at: usize,
    instance_at: Option<usize>,
}

impl RequestTemplate {
    /// The names stand behind the keys, as `service_name` and `instance_name` write them.
    pub(crate) fn new(
        bytes: Vec<u8>,
        service_key: &[u8],
        instance_key: Option<&[u8]>,
    ) -> RequestTemplate {
        RequestTemplate {
            service_at: place(&bytes, service_key),
            instance_at: instance_key.map(|key| place(&bytes, key)),
            bytes,
        }
    }

    pub(crate) fn encode(&mut self, service: usize, instance: usize, into: &mut Vec<u8>) {
        fill(&mut self.bytes, self.service_at, SERVICE_DIGITS, service as u64);
        if let Some(instance_at) = self.instance_at {
            fill(&mut self.bytes, instance_at, INSTANCE_DIGITS, instance as u64);
        }
        into.extend_from_slice(&self.bytes);
    }
}

/// The place behind a key of a template.
fn place(bytes: &[u8], key: &[u8]) -> usize {
    memmem::find(bytes, key).expect("a template has its keys") + key.len()
}

/// Writes a number with all its digits into its place.
fn fill(bytes: &mut [u8], at: usize, digits: usize, mut number: u64) {
    for byte in bytes[at..at + digits].iter_mut().rev() {
        *byte = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// One frame of a server.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) opcode: u8,
    pub(crate) payload: &'a [u8],
    /// Header and payload together.
    pub(crate) bytes: usize,
}

/// The length of the frame at the start of `bytes`, header included; `None` while unknown.
pub(crate) fn frame_bytes(bytes: &[u8]) -> Option<usize> {
    header(bytes).map(|(header, length)| header + length)
}

/// The frame at the start of `bytes`; `None` when it is not complete.
pub(crate) fn frame(bytes: &[u8]) -> Option<Frame<'_>> {
    let (header, length) = header(bytes)?;
    let payload = bytes.get(header..header + length)?;
    Some(Frame { opcode: bytes[0] & 0x0f, payload, bytes: header + length })
}

/// The lengths of header and payload.
fn header(bytes: &[u8]) -> Option<(usize, usize)> {
    match *bytes.get(1)? {
        LENGTH_16 => Some((4, usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?])))),
        LENGTH_64 => {
            let field: [u8; 8] = bytes.get(2..10)?.try_into().ok()?;
            Some((10, u64::from_be_bytes(field) as usize))
        }
        short => Some((2, usize::from(short & 0x7f))),
    }
}

/// A response of the server: its status and its body.
#[derive(Debug)]
pub(crate) struct Response<'a> {
    pub(crate) status: u64,
    pub(crate) body: &'a [u8],
    /// Head and body together.
    pub(crate) bytes: usize,
}

/// The head of the response at the start of `bytes`: its status, its own length and that of its
/// body; `None` when it is not complete. Chunked bodies are not understood: no server compared
/// here sends them for answers as short as these.
pub(crate) fn response_head(bytes: &[u8]) -> Option<(u64, usize, usize)> {
    let head_bytes = memmem::find(bytes, b"\r\n\r\n")? + 4;
    let head = &bytes[..head_bytes];
    let status = head.strip_prefix(b"HTTP/1.1 ").map_or(0, |rest| decimal(rest).0);
    let body_bytes = head
        .split(|byte| *byte == b'\n')
        .find_map(|line| {
            let (key, value) = line.split_at_checked(b"content-length:".len())?;
            key.eq_ignore_ascii_case(b"content-length:").then(|| decimal(value.trim_ascii()).0)
        })
        .unwrap_or(0) as usize;
    Some((status, head_bytes, body_bytes))
}

/// The response at the start of `bytes`; `None` when it is not complete.
pub(crate) fn response(bytes: &[u8]) -> Option<Response<'_>> {
    let (status, head_bytes, body_bytes) = response_head(bytes)?;
    let body = bytes.get(head_bytes..head_bytes + body_bytes)?;
    Some(Response { status, body, bytes: head_bytes + body_bytes })
}

/// Whether an answer says that all went well: the registry says so in its body, with status 200.
pub(crate) fn is_success(status: u64, body: &[u8]) -> bool {
    match status {
        201 | 204 => true,
        200 => memmem::find(body, b"\"status\":\"success\"").is_some(),
        _ => false,
    }
}

/// A server's message, as far as we care.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message<'a> {
    Change {
        service: usize,
        from: u64,
        revision: u64,
        changes: &'a [u8],
    },
    Snapshot {
        service: usize,
        revision: u64,
    },
    Subscribed {
        service: usize,
        revision: u64,
    },
    Registered {
        is_whole: bool,
    },
    /// The answer to a ping of ours.
    Pong,
    /// The greeting of a server that takes no other message before it.
    Welcome,
    /// A ping by message, which has to be answered.
    Ping,
    Error,
    Other,
}

/// Reads messages, and remembers the layout from one to the next.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    epoch_bytes: usize,
    /// From the start of the changes to the first time stamp.
    first_stamp: usize,
    /// From behind a time stamp to the next one.
    next_stamp: usize,
}

impl Scanner {
    pub(crate) fn message<'a>(&mut self, text: &'a [u8]) -> Message<'a> {
        if let Some(change) = self.change(text) {
            return change;
        }
        let service = || {
            let name = after(text, b"\"service_id\":\"s")?;
            Some(decimal(name).0 as usize)
        };
        let number = |key| after(text, key).map_or(0, |digits| decimal(digits).0);
        let kind = after(text, b"\"type\":\"").unwrap_or_default();
        let Some(length) = memchr::memchr(b'"', kind) else {
            return Message::Other;
        };
        match (&kind[..length], service()) {
            (b"service_change", Some(service)) => Message::Change {
                service,
                from: number(b"\"from\":"),
                revision: number(b"\"revision\":"),
                changes: after(text, b"\"changes\":[").unwrap_or_default(),
            },
            (b"service_snapshot", Some(service)) => {
                Message::Snapshot { service, revision: number(b"\"revision\":") }
            }
            (b"subscribed", Some(service)) => {
                Message::Subscribed { service, revision: number(b"\"revision\":") }
            }
            (b"registered", _) => Message::Registered {
                is_whole: memmem::find(text, b"\"failed_instances\":[]").is_some(),
            },
            (b"pong", _) => Message::Pong,
            (b"error", _) => Message::Error,
            _ => Message::Other,
        }
    }

    /// The way all pushed frames take but the first of a run. `None` where the layout differs.
    fn change<'a>(&mut self, text: &'a [u8]) -> Option<Message<'a>> {
        let rest = text.strip_prefix(CHANGE_START)?;
        let (service, rest) = decimal_and_rest(rest);
        let rest = rest.strip_prefix(b"\",\"epoch\":\"")?;
        if rest.get(self.epoch_bytes) != Some(&b'"') {
            self.epoch_bytes = memchr::memchr(b'"', rest)?;
        }
        let rest = rest[self.epoch_bytes..].strip_prefix(b"\",\"from\":")?;
        let (from, rest) = decimal_and_rest(rest);
        let (revision, rest) = decimal_and_rest(rest.strip_prefix(b",\"revision\":")?);
        let changes = rest.strip_prefix(b",\"changes\":[")?;
        Some(Message::Change { service: service as usize, from, revision, changes })
    }

    /// Calls `stamped` with the time of each of the `count` changes.
    pub(crate) fn stamps(&mut self, changes: &[u8], count: u64, mut stamped: impl FnMut(u64)) {
        let mut offset = &mut self.first_stamp;
        let mut rest = changes;
        for _ in 0..count {
            let Some(behind) = stamp(rest, offset, &mut stamped) else {
                return;
            };
            (rest, offset) = (behind, &mut self.next_stamp);
        }
    }
}

/// Takes the first time stamp of `text`, which `offset` knows the place of, and returns the rest.
fn stamp<'a>(
    text: &'a [u8],
    offset: &mut usize,
    stamped: &mut impl FnMut(u64),
) -> Option<&'a [u8]> {
    let is_there = text.get(*offset..).is_some_and(|tail| tail.starts_with(STAMP_KEY));
    if !is_there {
        *offset = memmem::find(text, STAMP_KEY)?;
    }
    let digits = &text[*offset + STAMP_KEY.len()..];
    let (value, rest) = decimal_and_rest(digits);
    stamped(value);
    Some(rest)
}

/// What stands behind a key.
pub(crate) fn after<'a>(text: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    Some(&text[memmem::find(text, key)? + key.len()..])
}

/// The number at the start of a text, and its digits.
pub(crate) fn decimal(text: &[u8]) -> (u64, usize) {
    let mut value = 0_u64;
    let mut length = 0;
    while let Some(digit @ b'0'..=b'9') = text.get(length) {
        value = value.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
        length += 1;
    }
    (value, length)
}

fn decimal_and_rest(text: &[u8]) -> (u64, &[u8]) {
    let (value, length) = decimal(text);
    (value, &text[length..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANGE: &[u8] = br#"{"type":"service_change","service_id":"s00017","epoch":"e1","from":9,"revision":11,"changes":[{"instance":{"metadata":{"t":"0000000000000042"}}},{"instance":{"metadata":{"t":"0000000000000043"}}}],"degraded":false}"#;

    fn stamps(scanner: &mut Scanner, text: &[u8]) -> Vec<u64> {
        let Message::Change { from, revision, changes, .. } = scanner.message(text) else {
            panic!("not a change");
        };
        let mut found = Vec::new();
        scanner.stamps(changes, revision - from, |stamp| found.push(stamp));
        found
    }

    #[test]
    fn change_is_read_at_its_places() {
        let mut scanner = Scanner::default();
        for _ in 0..2 {
            let Message::Change { service, from, revision, .. } = scanner.message(CHANGE) else {
                panic!("not a change");
            };
            assert_eq!((service, from, revision), (17, 9, 11));
            assert_eq!(stamps(&mut scanner, CHANGE), [42, 43]);
        }
    }

    #[test]
    fn change_in_another_layout_is_searched_by_key() {
        let text = br#"{"changes":[{"t":"0000000000000007"}],"revision":3,"from":2,"type":"service_change","service_id":"s00001"}"#;
        let mut scanner = Scanner::default();
        let found = scanner.message(text);
        assert!(matches!(found, Message::Change { service: 1, from: 2, revision: 3, .. }));
        assert_eq!(stamps(&mut scanner, text), [7]);
        assert_eq!(stamps(&mut scanner, CHANGE), [42, 43]);
    }

    #[test]
    fn event_is_patched_in_place() {
        let mut template = EventTemplate::new(Route::Http, 1_000);
        let (mut first, mut second) = (Vec::new(), Vec::new());
        template.encode(3, 77, 1, &mut first);
        template.encode(12_345, 1_234_567_890_123_456, 2, &mut second);
        assert_eq!(first.len(), second.len());
        assert!(memmem::find(&first, b"\"s00003\"").is_some());
        assert!(memmem::find(&second, b"\"s12345\"").is_some());
        assert!(memmem::find(&second, b"\"1234567890123456\"").is_some());
    }

    #[test]
    fn event_of_centrifugo_carries_its_number() {
        for route in [Route::Frame, Route::Http] {
            let mut bytes = Vec::new();
            EventTemplate::centrifugo(route, 400).encode(7, 99, 12, &mut bytes);
            if route == Route::Frame {
                let masked = bytes.split_off(8);
                bytes = masked.iter().zip(MASK.iter().cycle()).map(|(b, k)| b ^ k).collect();
            }
            assert!(memmem::find(&bytes, b"\"channel\":\"s00007\"").is_some());
            assert!(memmem::find(&bytes, b"\"n\":\"0000000000000012\"").is_some());
        }
    }

    #[test]
    fn request_is_patched_in_place() {
        let body = br#"{"serviceId":"w00000","instanceId":"i00000000"}"#;
        let keys: (&[u8], &[u8]) = (b"\"serviceId\":\"w", b"\"instanceId\":\"i");
        let mut template = RequestTemplate::new(post("/x", body), keys.0, Some(keys.1));
        let mut bytes = Vec::new();
        template.encode(42, 1_234_567, &mut bytes);
        let expected = br#"{"serviceId":"w00042","instanceId":"i01234567"}"#;
        assert!(bytes.ends_with(expected));
    }

    #[test]
    fn response_waits_for_its_body() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP";
        assert!(response(&text[..text.len() - 5]).is_none());
        let found = response(text).expect("the body is complete");
        assert_eq!((found.status, found.body), (200, &b"abc"[..]));
        assert_eq!(found.bytes, text.len() - 4);
    }
}
