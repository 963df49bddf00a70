//! The pages in the binary: console, demo, reference, and the JavaScript client.
//!
//! Packed at build time; nothing is compressed while the server runs. Browsers may keep them, and
//! revalidate them each time (RFC 9111, `no-cache`).
//!
//! Imports `http::reply`. Imported by `http::router`.

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, ETAG, HeaderMap,
    HeaderValue, IF_NONE_MATCH, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};

use super::reply::{self, Reply};

/// No other source, nothing inline, no other page's frame. Sockets to the page's own server count
/// as `'self'` (Content Security Policy Level 3).
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' data:; connect-src 'self'; font-src 'self'; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'";

/// A file of `web/`, in the three forms in which it is sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    path: &'static str,
    kind: &'static str,
    tag: &'static str,
    plain: &'static [u8],
    gzip: &'static [u8],
    brotli: &'static [u8],
}

const PAGES: &[Page] = include!(concat!(env!("OUT_DIR"), "/pages.rs"));

impl Page {
    /// Whether pages of other origins may load it: the client library and its types.
    pub fn is_library(&self) -> bool {
        self.path.starts_with("/fanfare.")
    }
}

/// The page at a path.
pub fn at(path: &str) -> Option<&'static Page> {
    PAGES.iter().find(|page| page.path == path)
}

/// A page, in the client's preferred encoding; 304 if the client has the page already.
pub fn answer(page: &'static Page, headers: &HeaderMap) -> Reply {
    let known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut known = known.flat_map(|value| value.split(',')).map(str::trim);
    let has_it = known.any(|tag| tag == "*" || tag.trim_start_matches("W/") == page.tag);
    let (encoding, body) = match encoding(headers) {
        _ if has_it => (None, &b""[..]),
        Some("br") => (Some("br"), page.brotli),
        Some(gzip) => (Some(gzip), page.gzip),
        None => (None, page.plain),
    };
    let mut reply = reply::fixed(page.kind, Bytes::from_static(body));
    if has_it {
        *reply.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = reply.headers_mut();
    for (name, value) in [
        (ETAG, page.tag),
        (CACHE_CONTROL, "no-cache"),
        (VARY, "accept-encoding"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Some(encoding) = encoding {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
    }
    reply
}

/// The packed form that a client accepts, Brotli before gzip. A weight of 0 is a refusal (RFC 9110,
/// 12.4.2); finer weights do not matter between two packings of the same bytes.
fn encoding(headers: &HeaderMap) -> Option<&'static str> {
    ["br", "gzip"].into_iter().find(|name| takes(headers, name))
}

/// Whether a client accepts a content coding.
pub(crate) fn takes(headers: &HeaderMap, name: &str) -> bool {
    let offers = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    offers.flat_map(|value| value.split(',')).map(str::trim).any(|offer| {
        let (coding, weight) = offer.split_once(';').unwrap_or((offer, ""));
        let weight = weight.trim().strip_prefix("q=").unwrap_or("1");
        coding.trim().eq_ignore_ascii_case(name)
            && weight.parse::<f32>().is_ok_and(|weight| weight > 0.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepting(value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(value));
        headers
    }

    #[test]
    fn the_best_form_that_is_taken() {
        for (offer, form) in [
            ("gzip, deflate, br, zstd", Some("br")),
            ("GZIP;q=0.5", Some("gzip")),
            ("br;q=0, gzip", Some("gzip")),
            ("identity", None),
            ("br;q=high", None),
            ("", None),
        ] {
            assert_eq!(encoding(&accepting(offer)), form, "{offer}");
        }
    }

    #[test]
    fn every_page_is_small_and_there() {
        for path in [
            "/",
            "/demo",
            "/demo/",
            "/docs",
            "/docs/",
            "/fanfare.js",
            "/fanfare.d.ts",
            "/favicon.ico",
        ] {
            assert!(at(path).is_some(), "{path}");
        }
        assert!(at("/index").is_none() && at("/demo//").is_none() && at("//").is_none());
        let total: usize = PAGES.iter().map(|page| page.plain.len()).sum();
        assert!(total < 220 * 1_024, "{total} bytes");
    }
}
