//! The head of an HTTP/1 request, parsed and checked before anything acts on it.
//!
//! A proxy in front of us and the parser behind us must agree where a request ends, or one client's
//! bytes become another client's request (request smuggling, RFC 9112, 11.2). hyper follows the RFC
//! where it says "ought to handle"; we refuse everything two parsers could read differently.
//!
//! Imports `limits`. Imported by `ws::authorizer`, `shard` and `http::guard`.

use hyper::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use crate::limits;

/// The fault of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadFault {
    /// Not HTTP/1, or ambiguous. The text says what.
    Bad(&'static str),
    /// More bytes or headers than the limits allow.
    TooLarge,
}

/// The framing of the request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// There is none.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks (RFC 9112, 7.1).
    Chunked,
}

/// A complete head.
#[derive(Debug)]
pub struct Head {
    /// The method.
    pub method: Method,
    /// The target in origin form.
    pub uri: Uri,
    /// Whether it is HTTP/1.1; otherwise it is 1.0.
    pub is_http_11: bool,
    /// The headers.
    pub headers: HeaderMap,
    /// The framing of the body.
    pub body: Body,
    /// Bytes of the head, its empty line included.
    pub bytes: usize,
}

/// The bounds of a head.
#[derive(Debug, Clone, Copy)]
pub struct HeadLimits {
    /// Bytes of the whole head.
    pub bytes_max: usize,
    /// Number of headers.
    pub headers_max: usize,
}

/// Reads a head from the start of `bytes`. None if its end has not arrived.
///
/// # Errors
///
/// The fault. The connection cannot be used after it: the start of the next request is unknown.
pub fn parse(bytes: &[u8], limits: HeadLimits) -> Result<Option<Head>, HeadFault> {
    let mut headers = [httparse::EMPTY_HEADER; limits::HEAD_HEADERS_MAX];
    let room = limits.headers_max.min(limits::HEAD_HEADERS_MAX);
    let mut request = httparse::Request::new(&mut headers[..room]);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() >= limits.bytes_max => {
            return Err(HeadFault::TooLarge);
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(HeadFault::TooLarge),
        Err(_) => return Err(HeadFault::Bad("not an HTTP/1 request")),
    };
    if length > limits.bytes_max {
        return Err(HeadFault::TooLarge);
    }
    let method = request.method.and_then(|method| Method::from_bytes(method.as_bytes()).ok());
    let uri = request.path.and_then(|path| path.parse::<Uri>().ok());
    let (Some(method), Some(uri)) = (method, uri) else {
        return Err(HeadFault::Bad("the request line names no resource"));
    };
    let is_http_11 = request.version == Some(1);
    let headers = header_map(request.headers)?;
    let body = framing(&headers, is_http_11)?;
    Ok(Some(Head { method, uri, is_http_11, headers, body, bytes: length }))
}

fn header_map(parsed: &[httparse::Header<'_>]) -> Result<HeaderMap, HeadFault> {
    let mut headers = HeaderMap::with_capacity(parsed.len());
    for header in parsed {
        let name = HeaderName::from_bytes(header.name.as_bytes());
        let value = HeaderValue::from_bytes(header.value);
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(HeadFault::Bad("a header is not well-formed"));
        };
        headers.append(name, value);
    }
    Ok(headers)
}

/// Decides where the body ends, and checks that there is only one reading (RFC 9112, 6.3).
fn framing(headers: &HeaderMap, is_http_11: bool) -> Result<Body, HeadFault> {
    let mut hosts = headers.get_all("host").iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if is_http_11 => return Err(HeadFault::Bad("the Host header is missing")),
        (Some(_), Some(_)) => return Err(HeadFault::Bad("there is more than one Host header")),
        _ => {}
    }
    let mut lengths = headers.get_all("content-length").iter();
    let length = lengths.next();
    if lengths.next().is_some() {
        return Err(HeadFault::Bad("there is more than one Content-Length header"));
    }
    let mut codings = headers.get_all("transfer-encoding").iter();
    if let Some(coding) = codings.next() {
        if length.is_some() {
            return Err(HeadFault::Bad("both Content-Length and Transfer-Encoding are given"));
        }
        let is_chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked");
        if codings.next().is_some() || !is_chunked || !is_http_11 {
            return Err(HeadFault::Bad("a Transfer-Encoding other than chunked is not spoken"));
        }
        return Ok(Body::Chunked);
    }
    let Some(length) = length else { return Ok(Body::None) };
    let text = length.as_bytes();
    let is_number = !text.is_empty() && text.len() <= 18 && text.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    match number {
        Some(0) if is_number => Ok(Body::None),
        Some(number) if is_number => Ok(Body::Length(number)),
        _ => Err(HeadFault::Bad("Content-Length is not a number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { bytes_max: 16 * 1024, headers_max: 100 };

    fn read(text: &str) -> Result<Option<Head>, HeadFault> {
        parse(text.as_bytes(), LIMITS)
    }

    #[test]
    fn ambiguous_framing_is_refused() {
        for extra in [
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            "Content-Length: 1\r\nContent-Length: 2\r\n",
            "Content-Length: 1, 1\r\n",
            "Content-Length: +1\r\n",
            "Content-Length: -1\r\n",
            "Content-Length: 0x1\r\n",
            "Content-Length: \r\n",
            "Content-Length: 9999999999999999999\r\n",
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: identity\r\n",
            "Host: other\r\n",
        ] {
            let text = format!("POST / HTTP/1.1\r\nHost: h\r\n{extra}\r\n");
            assert!(matches!(read(&text), Err(HeadFault::Bad(_))), "{extra:?}");
        }
        assert!(matches!(read("GET / HTTP/1.1\r\n\r\n"), Err(HeadFault::Bad(_))));
        let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert!(matches!(read(old), Err(HeadFault::Bad(_))));
        for text in ["\x16\x03\x01\x02", "GET\r\n\r\n", "GET / HTTP/2.0\r\nHost: h\r\n\r\n"] {
            assert!(matches!(read(text), Err(HeadFault::Bad(_))), "{text:?}");
        }
    }

    #[test]
    fn bodies_are_delimited() {
        for (extra, body) in [
            ("", Body::None),
            ("Content-Length: 0\r\n", Body::None),
            ("Content-Length: 12\r\n", Body::Length(12)),
            ("Transfer-Encoding: Chunked\r\n", Body::Chunked),
        ] {
            let text = format!("POST /p HTTP/1.1\r\nHost: h\r\n{extra}\r\nrest");
            let head = read(&text).expect("well-formed").expect("complete");
            assert_eq!((head.body, head.bytes), (body, text.len() - 4), "{extra:?}");
        }
    }

    #[test]
    fn size_and_number_are_bounded() {
        let many =
            |n: usize| format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "a: b\r\n".repeat(n - 1));
        assert!(read(&many(100)).is_ok_and(|head| head.is_some()));
        assert!(matches!(read(&many(101)), Err(HeadFault::TooLarge)));
        let long = format!("GET / HTTP/1.1\r\nHost: h\r\na: {}", "x".repeat(16 * 1024));
        assert!(matches!(read(&long), Err(HeadFault::TooLarge)));
        assert!(read("GET / HTTP/1.1\r\nHo").is_ok_and(|head| head.is_none()));
    }
}
