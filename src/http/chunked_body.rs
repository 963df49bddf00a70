//! A scanner that finds the end of a chunked body (RFC 9112, 7.1) before hyper reads it.
//!
//! It passes a line (a size, the end of a chunk, a trailer) only when the line is complete and
//! correct. So at a fault hyper is at the start of a line, and the scanner gives it a few bytes
//! that it refuses there. Without that, hyper would wait for the rest, or take the bytes after the
//! fault for a request and drop the answer to this one.
//!
//! Imports `limits`. Part of `http::guard`.

use bytes::BytesMut;

use crate::limits;

/// The scanner's position in a chunked body.
#[derive(Debug)]
pub(super) struct ChunkedBody {
    position: Position,
    /// The line so far, not given to hyper yet.
    line: Vec<u8>,
    /// Bytes of all lines that carry no data: extensions and trailers cost the peer nothing.
    overhead: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    /// In the line with a chunk's size.
    Size,
    /// In a chunk, with this many bytes left.
    Data(u64),
    /// In the two bytes behind a chunk.
    DataEnd,
    /// After the last chunk.
    Trailer,
}

/// The result of scanning some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The body goes on.
    More,
    /// It is over.
    Over,
    /// It is not a chunked body.
    Wrong,
}

impl ChunkedBody {
    /// At the start of a body.
    pub(super) fn new() -> ChunkedBody {
        ChunkedBody { position: Position::Size, line: Vec::new(), overhead: 0 }
    }

    /// Walks over bytes of the body and appends to `passed` those that hyper may see. Returns how
    /// many were used: all, unless the body is over.
    pub(super) fn walk(&mut self, bytes: &[u8], passed: &mut BytesMut) -> (usize, Verdict) {
        let mut at = 0;
        while at < bytes.len() {
            if let Position::Data(left) = self.position {
                let there = bytes.len() - at;
                let used = usize::try_from(left).map_or(there, |left| left.min(there));
                passed.extend_from_slice(&bytes[at..at + used]);
                at += used;
                let left = left - used as u64;
                self.position = if left == 0 { Position::DataEnd } else { Position::Data(left) };
                continue;
            }
            self.line.push(bytes[at]);
            at += 1;
            match self.judge_line() {
                Verdict::More => {}
                verdict => {
                    if verdict == Verdict::Wrong {
                        passed.extend_from_slice(self.fault());
                        at = bytes.len();
                    } else {
                        passed.extend_from_slice(&self.line);
                    }
                    return (at, verdict);
                }
            }
            if self.line.ends_with(b"\r\n") {
                self.end_line(passed);
            }
        }
        (at, Verdict::More)
    }

    /// Judges the line by its last byte, so that the scanner does not wait at a fault.
    fn judge_line(&self) -> Verdict {
        let mut backwards = self.line.iter().rev();
        let is_line_feed = backwards.next() == Some(&b'\n');
        let is_after_return = backwards.next() == Some(&b'\r');
        // A line ends in CR LF; parsers disagree on one without the other.
        if is_line_feed != is_after_return
            || self.overhead + self.line.len() > limits::CHUNK_OVERHEAD_BYTES_MAX
        {
            return Verdict::Wrong;
        }
        let is_right = match self.position {
            Position::DataEnd => self.line == b"\r" || self.line == b"\r\n",
            Position::Trailer if self.line == b"\r\n" => return Verdict::Over,
            Position::Size => size_of(&self.line).is_some(),
            _ => true,
        };
        if is_right { Verdict::More } else { Verdict::Wrong }
    }

    fn end_line(&mut self, passed: &mut BytesMut) {
        passed.extend_from_slice(&self.line);
        self.position = match (self.position, size_of(&self.line)) {
            (Position::Size, Some(0)) | (Position::Trailer, _) => Position::Trailer,
            (Position::Size, Some(size)) => Position::Data(size),
            _ => Position::Size,
        };
        // The digits and ends of ordinary chunks are not counted.
        self.overhead += self.line.len().saturating_sub(18);
        self.line.clear();
    }

    /// Bytes that hyper refuses at the start of the present line, to the last one.
    fn fault(&self) -> &'static [u8] {
        if self.position == Position::Trailer { b"\r!" } else { b"!" }
    }
}

/// The size at the start of a line: up to fifteen hexadecimal digits, more than any body has, and
/// at most an extension behind them. None if there is no digit, or no size.
fn size_of(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let ends_well = matches!(line.get(digits), None | Some(b'\r' | b';' | b' ' | b'\t'));
    let text = std::str::from_utf8(&line[..digits]).ok()?;
    (ends_well && digits < 16).then(|| u64::from_str_radix(text, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunked_bodies_end_where_they_end() {
        let body = b"5\r\nhello\r\nA;x=y\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nGET /";
        let end = body.len() - 5;
        for cut in 1..body.len() {
            let (mut chunked_body, mut passed) = (ChunkedBody::new(), BytesMut::new());
            let (mut at, mut verdict) = (0, Verdict::More);
            while verdict == Verdict::More {
                let next = (at + cut).min(body.len());
                let used;
                (used, verdict) = chunked_body.walk(&body[at..next], &mut passed);
                at += used;
            }
            assert_eq!((at, verdict), (end, Verdict::Over), "cut {cut}");
            assert_eq!(passed, body[..end], "cut {cut}");
        }
    }

    #[test]
    fn hyper_sees_what_is_right_and_then_one_fault() {
        let long = format!("5;{}\r\n", "x".repeat(limits::CHUNK_OVERHEAD_BYTES_MAX));
        for (wrong, passes) in [
            ("x\r\n", "!"),
            ("\r\n", "!"),
            ("5x\r\n", "!"),
            ("-1\r\n", "!"),
            ("5\nhello", "!"),
            ("5\rx", "!"),
            ("1234567812345678\r\n", "!"),
            ("5\r\nhelloXX0\r\n\r\n", "5\r\nhello!"),
            ("5\r\nhello\n0\r\n\r\n", "5\r\nhello!"),
            ("0\r\na: b\n\r\n", "0\r\n\r!"),
            ("0\r\n\rx", "0\r\n\r!"),
            (&long, "!"),
        ] {
            for cut in [1, 2, wrong.len()] {
                let (mut chunked_body, mut passed) = (ChunkedBody::new(), BytesMut::new());
                let pieces = wrong.as_bytes().chunks(cut);
                let verdicts: Vec<Verdict> =
                    pieces.map(|piece| chunked_body.walk(piece, &mut passed).1).collect();
                let first = verdicts.iter().position(|one| *one != Verdict::More);
                let first = first.unwrap_or_else(|| panic!("{wrong:?} passes"));
                assert_eq!(verdicts[first], Verdict::Wrong, "{wrong:?}");
                if first + 1 == verdicts.len() {
                    assert_eq!(passed, passes.as_bytes(), "{wrong:?} cut {cut}");
                }
            }
        }
    }
}
