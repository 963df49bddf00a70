//! Encodings of request bodies: gzip and deflate, inflated with a bound.
//!
//! A few kilobytes of a packed body may stand for gigabytes. So the bound of a call holds for the inflated
//! body, the inflated bytes count in the budget of all bodies, and a packed body that inflates to more is
//! given up at the bound, not at its end.
//!
//! # Promises
//!
//! * At most one byte more than the bound is ever inflated.
//! * A body above [`limits::DECODE_INLINE_BYTES_MAX`] is inflated beside the shard's thread.
//! * A truncated stream, a wrong checksum, and bytes behind the end are faults.
//!
//! Imports its siblings, `limits` and `wire`. Part of `http`.

use std::io::{self, Cursor, Read};

use bytes::Bytes;
use flate2::bufread::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use hyper::HeaderMap;
use hyper::header::CONTENT_ENCODING;

use super::bodies::{Arriving, Bodies};
use super::reply::Problem;
use crate::limits;
use crate::wire::refusal::{Code, Refusal};

/// How a body is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    /// Not at all.
    Identity,
    /// RFC 1952; one member or more.
    Gzip,
    /// RFC 1950 as RFC 9110 has it, or bare RFC 1951 as some clients have it.
    Deflate,
}

impl Encoding {
    /// The encoding that a request names. Equal lines of the header count as one: some clients send each of
    /// their headers twice.
    ///
    /// # Errors
    ///
    /// 415, with the encodings there are.
    pub(super) fn of(headers: &HeaderMap) -> Result<Encoding, Problem> {
        let mut named: Option<Vec<Encoding>> = None;
        for line in headers.get_all(CONTENT_ENCODING) {
            let words = line.to_str().map_err(|_| unsupported())?.split(',').map(str::trim);
            let words: Result<Vec<_>, _> = words.filter_map(Encoding::named).collect();
            let words = words?;
            if named.get_or_insert_with(|| words.clone()) != &words {
                return Err(unsupported());
            }
        }
        match named.as_deref() {
            None | Some([]) => Ok(Encoding::Identity),
            Some(&[one]) => Ok(one),
            // A body that is packed twice is nobody's honest request.
            Some(_) => Err(unsupported()),
        }
    }

    /// An encoding by its name. None is none at all.
    fn named(word: &str) -> Option<Result<Encoding, Problem>> {
        let is = |name: &str| word.eq_ignore_ascii_case(name);
        if word.is_empty() || is("identity") {
            return None;
        }
        if is("gzip") || is("x-gzip") {
            return Some(Ok(Encoding::Gzip));
        }
        Some(if is("deflate") { Ok(Encoding::Deflate) } else { Err(unsupported()) })
    }
}

fn unsupported() -> Problem {
    let detail = "the body's Content-Encoding is none of gzip, deflate and identity";
    let mut problem = Problem::new(415, Code::InvalidArgument, detail).closing();
    // RFC 7694, 3: the encodings that the resource would take.
    problem.header = Some(("accept-encoding", String::from("gzip, deflate")));
    problem
}

/// The problem of a body that inflates to more than its bound.
fn too_large(bytes_max: usize) -> Problem {
    let detail = format!("the inflated body is over {bytes_max} bytes");
    Problem::new(413, Code::TooLarge, detail)
}

/// Inflates a body to at most `bytes_max` bytes. They count in `bodies` until they are dropped.
///
/// # Errors
///
/// 413 if it is larger, 400 if it is not what its encoding says, 503 if the shard holds too many bytes of
/// bodies.
pub(super) async fn inflate(
    encoding: Encoding,
    packed: Bytes,
    bytes_max: usize,
    bodies: &Bodies,
) -> Result<Bytes, Problem> {
    let mut inflater = match encoding {
        Encoding::Identity => return Ok(packed),
        encoding => Inflater::new(encoding, packed, bytes_max, bodies.begin(None)),
    };
    // Most bodies are small, and done with the first step.
    if !inflater.advance(limits::DECODE_INLINE_BYTES_MAX)? {
        let rest = tokio::task::spawn_blocking(move || {
            inflater.advance(usize::MAX)?;
            Ok::<_, Problem>(inflater)
        });
        inflater = rest.await.map_err(|_| Refusal::internal())??;
    }
    Ok(inflater.inflated.finish())
}

/// A body that is being inflated.
struct Inflater {
    stream: Stream,
    inflated: Arriving,
    bytes_max: usize,
}

enum Stream {
    Gzip(MultiGzDecoder<Cursor<Bytes>>),
    Zlib(ZlibDecoder<Cursor<Bytes>>),
    Bare(DeflateDecoder<Cursor<Bytes>>),
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Gzip(stream) => stream.read(into),
            Stream::Zlib(stream) => stream.read(into),
            Stream::Bare(stream) => stream.read(into),
        }
    }
}

impl Stream {
    /// Whether every byte of the packed body belongs to it.
    fn is_used_up(&self) -> bool {
        // A reader of gzip goes on with the next member until nothing is left.
        let at_end = |packed: &Cursor<Bytes>| packed.position() >= packed.get_ref().len() as u64;
        match self {
            Stream::Gzip(stream) => at_end(stream.get_ref()),
            Stream::Zlib(stream) => at_end(stream.get_ref()),
            Stream::Bare(stream) => at_end(stream.get_ref()),
        }
    }
}

/// Bytes that are inflated in one step.
const STEP_BYTES: usize = 8 * limits::KIB;

impl Inflater {
    fn new(encoding: Encoding, packed: Bytes, bytes_max: usize, inflated: Arriving) -> Inflater {
        // RFC 1950, 2.2: the method is 8, and both bytes together are a multiple of 31.
        let has_zlib_head = matches!(*packed, [first, second, ..]
            if first & 0x0f == 8 && (u16::from(first) * 256 + u16::from(second)) % 31 == 0);
        let packed = Cursor::new(packed);
        let stream = match encoding {
            Encoding::Gzip => Stream::Gzip(MultiGzDecoder::new(packed)),
            _ if has_zlib_head => Stream::Zlib(ZlibDecoder::new(packed)),
            _ => Stream::Bare(DeflateDecoder::new(packed)),
        };
        Inflater { stream, inflated, bytes_max }
    }

    /// Inflates until there are more than `bytes` bytes, or to the end. Returns whether it is done.
    fn advance(&mut self, bytes: usize) -> Result<bool, Problem> {
        let mut step = [0; STEP_BYTES];
        while self.inflated.bytes() <= bytes {
            // One byte above the bound tells a body at the bound from one beyond it.
            let room = (self.bytes_max + 1 - self.inflated.bytes()).min(STEP_BYTES);
            let count = match self.stream.read(&mut step[..room]) {
                Ok(0) if self.stream.is_used_up() => return Ok(true),
                Ok(0) => return Err(not_packed()),
                Ok(count) => count,
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return Err(not_packed()),
            };
            if self.inflated.bytes() + count > self.bytes_max {
                return Err(too_large(self.bytes_max));
            }
            self.inflated.add(&step[..count], self.bytes_max - self.inflated.bytes())?;
        }
        Ok(false)
    }
}

fn not_packed() -> Problem {
    let detail = "the body is not what its Content-Encoding says, or not whole";
    Problem::new(400, Code::Malformed, detail)
}

/// Inflates a body of 64 KiB at most.
#[cfg(any(test, fuzzing))]
pub(super) fn decode(packed: &[u8], is_gzip: bool) {
    const BYTES_MAX: usize = 64 * limits::KIB;
    let limits = limits::Limits::DEFAULT;
    let bodies = Bodies::new(&limits, super::bodies::AddressBodies::new(&limits));
    let encoding = if is_gzip { Encoding::Gzip } else { Encoding::Deflate };
    let packed = Bytes::copy_from_slice(packed);
    let mut inflater = Inflater::new(encoding, packed, BYTES_MAX, bodies.begin(None));
    if inflater.advance(usize::MAX).is_ok() {
        assert!(inflater.inflated.finish().len() <= BYTES_MAX);
    } else {
        drop(inflater);
    }
    assert_eq!(bodies.held(), 0, "nothing of it is kept");
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    use super::*;
    use crate::http::bodies::AddressBodies;
    use crate::limits::Limits;

    fn packed(text: &[u8]) -> [(Encoding, Vec<u8>); 3] {
        let level = Compression::fast();
        let mut gzip = GzEncoder::new(Vec::new(), level);
        let mut zlib = ZlibEncoder::new(Vec::new(), level);
        let mut bare = DeflateEncoder::new(Vec::new(), level);
        gzip.write_all(text).expect("memory");
        zlib.write_all(text).expect("memory");
        bare.write_all(text).expect("memory");
        [
            (Encoding::Gzip, gzip.finish().expect("memory")),
            (Encoding::Deflate, zlib.finish().expect("memory")),
            (Encoding::Deflate, bare.finish().expect("memory")),
        ]
    }

    fn inflated(encoding: Encoding, packed: &[u8], bytes_max: usize) -> Result<Bytes, u16> {
        let bodies = Bodies::new(&Limits::DEFAULT, AddressBodies::new(&Limits::DEFAULT));
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let packed = Bytes::copy_from_slice(packed);
        let result = runtime.block_on(inflate(encoding, packed, bytes_max, &bodies));
        let result = result.map_err(|problem| problem.status);
        assert_eq!(bodies.held(), result.as_ref().map_or(0, Bytes::len), "what is held counts");
        result
    }

    #[test]
    fn a_body_comes_out_as_it_was_packed() {
        let long: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        for text in [&b""[..], b"{}", &[b'x'; 8 * limits::KIB], &long] {
            for (encoding, packed) in packed(text) {
                assert_eq!(inflated(encoding, &packed, text.len()).as_deref(), Ok(text));
                if !text.is_empty() {
                    assert_eq!(inflated(encoding, &packed, text.len() - 1), Err(413));
                }
            }
        }
    }

    #[test]
    fn a_bomb_is_given_up_at_the_bound() {
        let huge = vec![0; 64 * limits::MIB];
        for (encoding, packed) in packed(&huge) {
            assert!(packed.len() < limits::MIB);
            assert_eq!(inflated(encoding, &packed, limits::MIB), Err(413));
        }
    }

    #[test]
    fn what_is_not_whole_or_goes_on_is_a_fault() {
        let text = b"{\"serviceId\":\"a service of a certain length\"}".repeat(20);
        for (encoding, packed) in packed(&text) {
            for cut in 0..packed.len() {
                let result = inflated(encoding, &packed[..cut], limits::MIB);
                assert_eq!(result, Err(400), "{encoding:?}, {cut} of {}", packed.len());
            }
            let more = [&packed[..], b"and more"].concat();
            assert_eq!(inflated(encoding, &more, limits::MIB), Err(400), "{encoding:?}");
            assert_eq!(inflated(encoding, b"no such thing", limits::MIB), Err(400));
        }
        let (_, gzip) = &packed(b"one")[0];
        let two = [&gzip[..], gzip].concat();
        assert_eq!(inflated(Encoding::Gzip, &two, 6).as_deref(), Ok(&b"oneone"[..]));
        let mut wrong = gzip.clone();
        let checksum = wrong.len() - 8;
        wrong[checksum] ^= 1;
        assert_eq!(inflated(Encoding::Gzip, &wrong, 6), Err(400));
    }

    #[test]
    fn equal_lines_count_as_one() {
        let of = |lines: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(CONTENT_ENCODING, line.parse().expect("a value"));
            }
            Encoding::of(&headers).map_err(|problem| (problem.status, problem.closes))
        };
        assert_eq!(of(&[]), Ok(Encoding::Identity));
        assert_eq!(of(&[""]), Ok(Encoding::Identity));
        assert_eq!(of(&["identity"]), Ok(Encoding::Identity));
        assert_eq!(of(&["GZip"]), Ok(Encoding::Gzip));
        assert_eq!(of(&["gzip", "gzip"]), Ok(Encoding::Gzip));
        assert_eq!(of(&["identity, deflate"]), Ok(Encoding::Deflate));
        for lines in [&["br"][..], &["gzip, gzip"], &["gzip", "deflate"], &["gzip", "identity"]] {
            assert_eq!(of(lines), Err((415, true)), "{lines:?}");
        }
    }
}
