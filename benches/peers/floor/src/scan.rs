//! Finds the few fields we need by scanning bytes, and builds frames and answers.
//!
//! Nothing here allocates for an event. The layout searched for is the one the generator sends;
//! field order does not matter, white space between a key and its value does.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use memchr::memmem;
use sha1::{Digest, Sha1};

/// RFC 6455, section 1.3: the suffix of the key that the accept value is the digest of.
const ACCEPT_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

pub(crate) const OPCODE_TEXT: u8 = 1;
pub(crate) const OPCODE_CLOSE: u8 = 8;
pub(crate) const OPCODE_PING: u8 = 9;
pub(crate) const OPCODE_PONG: u8 = 10;

/// The string that follows `key`, which includes its quotes and colon and the opening quote.
pub(crate) fn string_after<'a>(text: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let start = memmem::find(text, key)? + key.len();
    let length = memchr::memchr(b'"', &text[start..])?;
    Some(&text[start..start + length])
}

/// The objects of the array `"instances":[...]`, each from its brace to its brace.
pub(crate) fn instances(text: &[u8]) -> Instances<'_> {
    const KEY: &[u8] = b"\"instances\":[";
    let rest = memmem::find(text, KEY).map_or(&text[..0], |at| &text[at + KEY.len()..]);
    Instances { rest }
}

/// Walks the array; see [`instances`].
pub(crate) struct Instances<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Instances<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let start = match self.rest.first()? {
            b'{' => 0,
            b',' if self.rest.get(1) == Some(&b'{') => 1,
            _ => return None,
        };
        let end = start + object_bytes(&self.rest[start..])?;
        let object = &self.rest[start..end];
        self.rest = &self.rest[end..];
        Some(object)
    }
}

/// The length of the object at the start of `text`. Braces inside strings do not count.
fn object_bytes(text: &[u8]) -> Option<usize> {
    let mut depth = 0_u32;
    let mut at = 0;
    loop {
        match *text.get(at)? {
            b'{' => depth += 1,
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            b'"' => loop {
                at += 1 + memchr::memchr2(b'"', b'\\', text.get(at + 1..)?)?;
                if text[at] == b'"' {
                    break;
                }
                at += 1;
            },
            _ => {}
        }
        at += 1;
    }
}

/// One frame of a client, unmasked in place.
pub(crate) struct Frame<'a> {
    pub(crate) opcode: u8,
    pub(crate) payload: &'a [u8],
    /// Header and payload together.
    pub(crate) bytes: usize,
}

/// Takes the frame at the start of `bytes`; `None` when it is not complete.
pub(crate) fn frame(bytes: &mut [u8]) -> Option<Frame<'_>> {
    let opcode = bytes.first()? & 0x0f;
    let (length, header) = match *bytes.get(1)? & 0x7f {
        126 => (
            usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?])),
            4,
        ),
        127 => {
            let field: [u8; 8] = bytes.get(2..10)?.try_into().ok()?;
            (usize::try_from(u64::from_be_bytes(field)).ok()?, 10)
        }
        short => (usize::from(short), 2),
    };
    let mask: [u8; 4] = bytes.get(header..header + 4)?.try_into().ok()?;
    let start = header + 4;
    let payload = bytes.get_mut(start..start.checked_add(length)?)?;
    for four in payload.chunks_mut(4) {
        for (byte, key) in four.iter_mut().zip(mask) {
            *byte ^= key;
        }
    }
    Some(Frame {
        opcode,
        payload,
        bytes: start + length,
    })
}

/// Appends a server's frame: final, not masked.
pub(crate) fn encode_frame(opcode: u8, payload: &[u8], into: &mut Vec<u8>) {
    into.push(0x80 | opcode);
    if let Ok(short @ 0..=125) = u8::try_from(payload.len()) {
        into.push(short);
    } else if let Ok(medium) = u16::try_from(payload.len()) {
        into.push(126);
        into.extend_from_slice(&medium.to_be_bytes());
    } else {
        into.push(127);
        into.extend_from_slice(&(payload.len() as u64).to_be_bytes());
    }
    into.extend_from_slice(payload);
}

/// Appends `number` in decimal without going through a formatter.
pub(crate) fn encode_decimal(mut number: u64, into: &mut Vec<u8>) {
    let mut digits = [0_u8; 20];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + u8::try_from(number % 10).expect("a digit is below 10");
        number /= 10;
        if number == 0 {
            break;
        }
    }
    into.extend_from_slice(&digits[first..]);
}

/// A request: head and body. The body is empty when there is no `Content-Length`.
pub(crate) struct Request<'a> {
    pub(crate) head: &'a [u8],
    pub(crate) body: &'a [u8],
    /// Head and body together.
    pub(crate) bytes: usize,
}

/// Takes the request at the start of `bytes`; `None` when it is not complete.
pub(crate) fn request(bytes: &[u8]) -> Option<Request<'_>> {
    let head_bytes = memmem::find(bytes, b"\r\n\r\n")? + 4;
    let head = &bytes[..head_bytes];
    let length = header(head, b"content-length")
        .and_then(|value| str::from_utf8(value).ok()?.parse::<usize>().ok())
        .unwrap_or(0);
    let end = head_bytes.checked_add(length)?;
    let body = bytes.get(head_bytes..end)?;
    Some(Request {
        head,
        body,
        bytes: end,
    })
}

/// The value of the header `name`, which is given in lower case.
pub(crate) fn header<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    head.split(|byte| *byte == b'\n').skip(1).find_map(|line| {
        let (key, value) = line.split_at_checked(name.len())?;
        let value = value.strip_prefix(b":")?;
        key.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
    })
}

/// The answer that turns the connection into a WebSocket (RFC 6455, section 4.2.2).
pub(crate) fn encode_upgrade(key: &[u8], into: &mut Vec<u8>) {
    let digest = Sha1::new()
        .chain_update(key)
        .chain_update(ACCEPT_SUFFIX)
        .finalize();
    into.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
          Sec-WebSocket-Accept: ",
    );
    into.extend_from_slice(STANDARD.encode(digest).as_bytes());
    into.extend_from_slice(b"\r\n\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_inside_strings_do_not_end_an_instance() {
        let text = br#"{"type":"register","instances":[{"a":"}\"}"},{"b":{"c":1}}]}"#;
        let found: Vec<&[u8]> = instances(text).collect();
        assert_eq!(found, [&br#"{"a":"}\"}"}"#[..], br#"{"b":{"c":1}}"#]);
    }

    #[test]
    fn masked_frame_is_taken_only_when_complete() {
        let mut bytes = vec![0x81, 0x83, 1, 2, 3, 4, b'a' ^ 1, b'b' ^ 2, b'c' ^ 3];
        assert!(frame(&mut bytes[..8]).is_none());
        let taken = frame(&mut bytes).expect("all nine bytes are there");
        assert_eq!(
            (taken.opcode, taken.payload, taken.bytes),
            (1, &b"abc"[..], 9)
        );
    }

    #[test]
    fn accept_value_is_that_of_the_rfc() {
        let mut answer = Vec::new();
        encode_upgrade(b"dGhlIHNhbXBsZSBub25jZQ==", &mut answer);
        assert!(memmem::find(&answer, b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=").is_some());
    }
}
