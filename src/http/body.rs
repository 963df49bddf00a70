//! Request bodies: bounded, in time, inflated, and JSON.
//!
//! Each call has a bound for its body; `http::bodies` counts the bytes that have arrived of all of
//! them, and `http::content_encoding` inflates those that are packed.
//!
//! Imports its siblings, `id`, `limits`, `state` and `wire`. Imported by `http` and `doors`.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::{HeaderMap, Request};
use serde::de::DeserializeOwned;

use super::RequestContext;
use super::bodies::Arriving;
use super::content_encoding::{self, Encoding};
use super::reply::{self, Problem, Reply};
use crate::id::ConnName;
use crate::limits;
use crate::state::messaging::aim::Aimed;
use crate::wire::fault::{self, Fault};
use crate::wire::json;
use crate::wire::refusal::{Code, Refusal};

/// Reads a body of at most `bytes_max` bytes, which has to be declared as JSON.
///
/// # Errors
///
/// 415, 413, 400 if it is packed wrongly, 408 if it does not arrive in time, or 429 and 503 if too many
/// bytes are arriving.
pub async fn read(
    context: &RequestContext,
    request: Request<Incoming>,
    bytes_max: usize,
) -> Result<Bytes, Problem> {
    if !is_json(request.headers()) {
        return Err(Problem::new(
            415,
            Code::InvalidArgument,
            "the body's Content-Type is not application/json",
        )
        .closing());
    }
    checked(read_any(context, request, bytes_max).await?)
}

/// Reads a body of any type, of at most `bytes_max` bytes when it is inflated.
///
/// # Errors
///
/// As [`read`], but for the type.
pub async fn read_any(
    context: &RequestContext,
    request: Request<Incoming>,
    bytes_max: usize,
) -> Result<Bytes, Problem> {
    let too_large = || {
        Problem::new(413, Code::TooLarge, format!("the body is over {bytes_max} bytes")).closing()
    };
    let encoding = Encoding::of(request.headers())?;
    let declared = hyper::body::Body::size_hint(request.body()).lower();
    if declared > bytes_max as u64 {
        return Err(too_large());
    }
    let read = arrive(context, request.into_body(), bytes_max);
    let patience = Duration::from_millis(context.app.limits.body_timeout_ms);
    let body = match tokio::time::timeout(patience, read).await {
        Ok(Ok(Some(body))) => body,
        Ok(Ok(None)) => return Err(too_large()),
        Ok(Err(problem)) => return Err(problem),
        Err(_) => {
            let detail = "the body did not arrive in time";
            return Err(Problem::new(408, Code::Unavailable, detail).closing());
        }
    };
    context.has_body_left.set(false);
    content_encoding::inflate(encoding, body, bytes_max, &context.bodies).await
}

/// Reads a body as it arrives. None if it has more than `bytes_max` bytes.
async fn arrive(
    context: &RequestContext,
    mut body: Incoming,
    bytes_max: usize,
) -> Result<Option<Bytes>, Problem> {
    let announced = hyper::body::Body::size_hint(&body).exact();
    let announced = announced.and_then(|bytes| usize::try_from(bytes).ok());
    let mut arriving = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| {
            Problem::new(400, Code::Malformed, "the body ended before its end").closing()
        })?;
        // Trailers have no use here.
        let Ok(data) = frame.into_data() else { continue };
        if arriving.is_none() && announced == Some(data.len()) {
            // It arrived in one piece, as the bodies of most requests do.
            return Ok(Some(data).filter(|data| data.len() <= bytes_max));
        }
        let arriving = arriving.get_or_insert_with(|| context.bodies.begin(context.block()));
        let bytes = arriving.bytes() + data.len();
        if bytes > bytes_max {
            return Ok(None);
        }
        arriving.add(&data, announced.unwrap_or(bytes_max).saturating_sub(bytes))?;
    }
    Ok(Some(arriving.map_or_else(Bytes::new, Arriving::finish)))
}

/// A body is UTF-8 and a JSON object; later steps only read its fields.
pub(super) fn checked(body: Bytes) -> Result<Bytes, Problem> {
    if let Err(fault) = std::str::from_utf8(&body) {
        let place = fault::position_of(&body, fault.valid_up_to());
        let detail = format!("the body is not UTF-8 at {place}");
        return Err(malformed(detail).because("the body is not UTF-8"));
    }
    if !json::is_object(&body) {
        return Err(match json::decode::<serde_json::Value>(&body) {
            Ok(_) => malformed(NOT_AN_OBJECT),
            Err(fault) => no_json(&fault),
        });
    }
    Ok(body)
}

const NOT_AN_OBJECT: &str = "the body is JSON, but not an object";

fn malformed(detail: impl Into<Cow<'static, str>>) -> Problem {
    Problem::new(400, Code::Malformed, detail)
}

/// The problem of a body that is not JSON, with line and column.
pub(super) fn no_json(fault: &impl std::fmt::Display) -> Problem {
    malformed(format!("the body is not JSON: {fault}")).because("the body is not JSON")
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let kind = value.split(';').next().unwrap_or("").trim();
    kind.eq_ignore_ascii_case("application/json")
}

/// Runs work on a body: a large one beside the shard's thread.
///
/// # Errors
///
/// As the work; 500 if it panicked.
pub async fn decode_with<T: Send + 'static>(
    body: Bytes,
    work: impl FnOnce(&[u8]) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    beside(body.len() > limits::DECODE_INLINE_BYTES_MAX, move || work(&body)).await?
}

/// Runs work, beside the shard's thread if it is long: the thread's sockets do not wait while a
/// batch of thousands is parsed or a large listing put together.
///
/// # Errors
///
/// 500 if it panicked.
pub async fn beside<T: Send + 'static>(
    is_long: bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    if !is_long {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(|_| Refusal::internal().into())
}

/// Reads JSON. The faults of a text that is not a JSON object and of a wrong field differ.
///
/// # Errors
///
/// 400 `malformed` with line and column, or `invalid_argument` with the path of the field.
pub fn object<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    json::decode::<T>(body).map_err(|_| misread::<T>(body))
}

/// The same for a call of Artemis, whose clients get a wrong field with status 200.
///
/// # Errors
///
/// 400 `malformed` with line and column.
pub fn artemis_object<T: DeserializeOwned>(body: &[u8]) -> Result<Result<T, Reply>, Problem> {
    match object(body) {
        Ok(value) => Ok(Ok(value)),
        Err(problem) if problem.code == Code::InvalidArgument => {
            Ok(Err(reply::bad_request(&problem.detail)))
        }
        Err(problem) => Err(problem),
    }
}

/// The same as [`object`] for a value that borrows from the body.
///
/// # Errors
///
/// As [`object`].
pub fn borrowed<'a, T: serde::Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    serde_json::from_slice::<T>(body).map_err(|_| misread::<T>(body))
}

/// Reads a request's body of at most `bytes_max` bytes, fewer if the bound of all bodies is
/// smaller.
///
/// # Errors
///
/// As [`read`] and [`object`].
pub async fn read_object<T: DeserializeOwned>(
    context: &RequestContext,
    request: Request<Incoming>,
    bytes_max: usize,
) -> Result<T, Problem> {
    let bytes_max = bytes_max.min(context.app.limits.http_body_bytes_max);
    object(&read(context, request, bytes_max).await?)
}

/// The connections that a body names by their ids. Unknown ids are ignored.
pub(super) fn aim(only_to: Option<Vec<String>>, exclude: Option<Vec<String>>) -> Aimed {
    let names =
        |texts: Vec<String>| ConnName::each_once(texts.iter().filter_map(|text| text.parse().ok()));
    Aimed { only: only_to.map(names), except: exclude.map(names).unwrap_or_default() }
}

/// The problem of a body that is not a `T`.
fn misread<'a, T: serde::Deserialize<'a>>(body: &'a [u8]) -> Problem {
    match fault::explain::<T>(body) {
        Fault::Syntax(fault) => no_json(&fault),
        Fault::NotAnObject => malformed(NOT_AN_OBJECT),
        Fault::Field(fault) => Problem::invalid(fault).because("a field is of a wrong type"),
    }
}
