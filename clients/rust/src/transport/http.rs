//! The few HTTP calls of a client: one connection each, JSON both ways.
//!
//! They are rare beside the traffic of the socket (a login, a direct message, the first list of all
//! services), so a pool of connections would cost more than it saves.
//!
//! Imports `address`, `error` and `net`. Imported by `token`, `connection` and `api`.

use std::time::Duration;

use bytes::Bytes;
use fanfare_protocol::refusal::Code;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, RETRY_AFTER};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;

use crate::address::Address;
use crate::error::Error;
use crate::transport::net;

/// Largest answer, in bytes, where a program sets no other. A listing of 200,000 instances fits.
pub(crate) const ANSWER_BYTES_MAX: usize = 128 * 1024 * 1024;

/// One call.
pub(crate) struct Call<'a> {
    pub(crate) address: &'a Address,
    pub(crate) token: Option<&'a str>,
    pub(crate) method: Method,
    /// Path and query, encoded.
    pub(crate) path: &'a str,
    pub(crate) body: Option<Value>,
    pub(crate) answer_bytes_max: usize,
    pub(crate) timeout: Duration,
}

/// The method of a program's own call, if method and path are valid.
pub(crate) fn checked(method: &str, path: &str) -> Result<Method, Error> {
    let method = Method::from_bytes(method.as_bytes());
    let method = method.map_err(|_| Error::invalid("that is no HTTP method"))?;
    if !path.starts_with('/') {
        return Err(Error::invalid("a path begins with a slash"));
    }
    Ok(method)
}

/// Makes a call. Returns the body of a 2xx; any other status is an error.
pub(crate) async fn call(call: Call<'_>) -> Result<Value, Error> {
    let timeout = call.timeout;
    tokio::time::timeout(timeout, exchange(call)).await.map_err(|_| Error::Timeout)?
}

async fn exchange(call: Call<'_>) -> Result<Value, Error> {
    let stream = TokioIo::new(net::connect(call.address).await?);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(stream).await.map_err(lost)?;
    // It ends with the answer: nothing keeps it open after `sender` is dropped.
    let connection = tokio::spawn(connection);
    let mut request = Request::builder()
        .method(call.method)
        .uri(call.address.target(call.path))
        .header(HOST, &call.address.authority)
        .header("connection", "close");
    if let Some(token) = call.token {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    let body = match call.body {
        Some(body) => {
            request = request.header(CONTENT_TYPE, "application/json");
            Bytes::from(body.to_string())
        }
        None => Bytes::new(),
    };
    let request =
        request.body(Full::new(body)).map_err(|fault| Error::invalid(fault.to_string()))?;
    let answer = sender.send_request(request).await.map_err(lost)?;
    let status = answer.status();
    let retry_after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = retry_after.and_then(|text| text.parse().ok()).map(Duration::from_secs);
    let body = Limited::new(answer.into_body(), call.answer_bytes_max).collect().await;
    connection.abort();
    let body = body.map_err(|fault| Error::Protocol(fault.to_string()))?.to_bytes();
    if !status.is_success() {
        return Err(problem(status, &body, retry_after));
    }
    if body.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&body).map_err(|_| Error::Protocol(String::from("the body is no JSON")))
}

#[allow(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn lost(fault: hyper::Error) -> Error {
    Error::connect(std::io::Error::other(fault.to_string()))
}

/// Reads a problem document (RFC 9457), or does without one.
pub(crate) fn problem(status: StatusCode, body: &[u8], retry_after: Option<Duration>) -> Error {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    Error::Status {
        status: status.as_u16(),
        code: body["code"].as_str().and_then(Code::from_name),
        message: body["detail"].as_str().unwrap_or_default().to_owned(),
        retry_after,
    }
}
