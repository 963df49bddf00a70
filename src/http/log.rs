//! Log lines of requests: refusals, the access log, operators' actions, accounts.
//!
//! Each refusal is one line with its request id, at `info`, or at `warn` if the fault is ours; the
//! log folds storms of equal ones (`logging::fold`). Lines have the path without its query, and no
//! header but the origin; of a body, nothing.
//!
//! Imports its siblings, `limits` and `logging`. Part of `http`.

use hyper::header::{HeaderMap, HeaderValue, ORIGIN};
use hyper::{Method, StatusCode};

use super::RequestContext;
use super::reply::Problem;
use crate::limits;
use crate::logging::ACCESS;

/// The parts of a request that the log shows.
#[derive(Debug)]
pub(super) struct LoggedRequest {
    method: Method,
    origin: Option<HeaderValue>,
    /// When it came, if the access log has a line for it.
    begun_ns: Option<u64>,
}

impl LoggedRequest {
    /// A request that begins now.
    pub(super) fn new(
        context: &RequestContext,
        method: &Method,
        headers: &HeaderMap,
    ) -> LoggedRequest {
        LoggedRequest {
            method: method.clone(),
            origin: headers.get(ORIGIN).cloned(),
            begun_ns: context.app.access_log.then(|| context.clock.now().ns),
        }
    }
}

/// The beginning of a path or another text: a head may be long.
pub fn shown_path(path: &str) -> &str {
    &path[..path.floor_char_boundary(limits::LOG_PATH_BYTES_MAX)]
}

/// A request was refused. `path` is none if its head could not be used.
pub(super) fn refused(
    context: &RequestContext,
    asked: &LoggedRequest,
    path: Option<&str>,
    problem: &Problem,
) {
    let (status, code) = (problem.status, problem.code.as_str());
    let reason = problem.logged_reason().map(shown_path);
    let method = path.map(|_| asked.method.as_str());
    let path = path.map(shown_path);
    let origin = asked.origin.as_ref().map(|origin| String::from_utf8_lossy(origin.as_bytes()));
    let origin = origin.as_deref().map(shown_path);
    let (client, user) = (context.client_text(), context.user_id());
    let request_id = context.request_id();
    if status >= 500 {
        tracing::warn!(
            target: "fanfare::http",
            status, code, reason, method, path, origin, client, user, request_id,
            "request failed"
        );
    } else {
        tracing::info!(
            target: "fanfare::http",
            status, code, reason, method, path, origin, client, user, request_id,
            "request refused"
        );
    }
}

/// A line of the access log, if it is on.
pub(super) fn access(
    context: &RequestContext,
    asked: &LoggedRequest,
    path: Option<&str>,
    (status, bytes): (StatusCode, usize),
) {
    let Some(begun_ns) = asked.begun_ns else { return };
    let duration_us = context.clock.now().ns.saturating_sub(begun_ns) / 1_000;
    tracing::info!(
        target: ACCESS,
        method = path.map(|_| asked.method.as_str()),
        path = path.map(shown_path),
        status = status.as_u16(),
        bytes,
        duration_us,
        client = context.client_text(),
        user = context.user_id(),
        request_id = context.request_id(),
        "request"
    );
}

/// An operator's action. `operator_id` is the caller's own name for the operator, if the call takes one.
pub(crate) fn operator(
    context: &RequestContext,
    action: &'static str,
    on: &str,
    operator_id: Option<&str>,
) {
    tracing::info!(
        target: "fanfare::operator",
        action,
        on,
        user = context.user_id(),
        operator_id = operator_id.filter(|id| !id.is_empty()),
        client = context.client_text(),
        request_id = context.request_id(),
        "operator action"
    );
}

/// A user changed the own account.
pub(super) fn account(context: &RequestContext, user: &str, what: &'static str) {
    tracing::info!(
        target: "fanfare::accounts",
        user,
        client = context.client_text(),
        request_id = context.request_id(),
        "account: {what}"
    );
}
