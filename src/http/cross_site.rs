//! Cross-site requests: CORS (Fetch, 3.2), and the refusal of writes from foreign pages.
//!
//! A browser lets any page send some requests anywhere, a form's POST among them, and hides only the answer.
//! So this module refuses a write from a foreign page, whatever its content type. The content types that the
//! endpoints require are a second lock. Pages of allowed origins may read answers.
//!
//! # Promises
//!
//! * The exact origin is named, never `*`, and no credentials are allowed: tokens are in headers.
//! * An answer for several origins has `Vary: Origin`, so that no cache gives one page's to
//!   another.
//!
//! # Not here
//!
//! The page behind a request: `ws::authorizer` judges it, for sockets by the same rule.
//!
//! Imports its siblings, `limits`, `wire` and `ws`. Imported by `http::router`.

use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    HeaderMap, HeaderValue, ORIGIN, VARY,
};
use hyper::{Method, StatusCode};

use super::reply::{self, Problem, Reply};
use crate::limits;
use crate::wire::refusal::Code;
use crate::ws::authorizer::{self, Page};

/// The headers that a page may send besides the safelisted ones (Fetch, 2.2.2).
const HEADERS: &str = "Authorization, Content-Type, Content-Encoding, Last-Event-ID";

/// The headers of an answer that a page may read besides the safelisted ones.
const EXPOSED: &str = "Retry-After";

/// The pages that may read a response.
#[derive(Debug)]
pub(super) struct Shares(Option<HeaderValue>);

impl Shares {
    /// The CORS headers for a request's page.
    pub(super) fn of(page: Page, headers: &HeaderMap) -> Shares {
        Shares(headers.get(ORIGIN).filter(|_| page == Page::Allowed).cloned())
    }

    /// Adds the headers to an answer.
    pub(super) fn mark(self, reply: &mut Reply) {
        let status = reply.status();
        let headers = reply.headers_mut();
        headers.append(VARY, HeaderValue::from_static("Origin"));
        let Some(origin) = self.0 else { return };
        if status == StatusCode::MISDIRECTED_REQUEST {
            return;
        }
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    }
}

/// Whether a browser asks for permission to send a request.
pub(super) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// Answers a preflight at a path that takes `methods`.
///
/// # Errors
///
/// 403 if the page may not call.
pub(super) fn preflight(
    page: Page,
    methods: &'static str,
    why_not: impl Fn() -> String,
) -> Result<Reply, Problem> {
    if page == Page::Foreign {
        return Err(foreign(why_not()));
    }
    let mut reply = reply::no_content();
    let headers = reply.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(HEADERS));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(limits::PREFLIGHT_AGE_S));
    Ok(reply)
}

/// Whether a page's request may proceed. Reads always may: they change nothing, and the browser
/// shows the answer to no page.
///
/// # Errors
///
/// 403 for writes of pages that may not call.
pub(super) fn check_write(
    method: &Method,
    page: Page,
    why_not: impl Fn() -> String,
) -> Result<(), Problem> {
    let is_read = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    if is_read || page != Page::Foreign { Ok(()) } else { Err(foreign(why_not())) }
}

fn foreign(why_not: String) -> Problem {
    Problem::new(403, Code::Forbidden, why_not).because(authorizer::FOREIGN_PAGE)
}
