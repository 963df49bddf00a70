//! Responses: JSON, text, and problem documents (RFC 9457).
//!
//! Imports its siblings, `wire` and `ws`. Imported by `http`.

use std::borrow::Cow;

use bytes::Bytes;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use super::answer_body::AnswerBody;
use super::budget::Permit;
use crate::wire::problem::{self, ProblemDocument};
use crate::wire::refusal::{Code, Refusal};
use crate::ws::authorizer::Rejection;

/// A response with its whole body.
pub type Reply = Response<AnswerBody>;

/// The refusal of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// The code that a program branches on.
    pub code: Code,
    /// The text for a person.
    pub detail: String,
    /// A header that goes with the status.
    pub header: Option<(&'static str, String)>,
    /// Whether the connection ends with the answer, because the request was not read to its end.
    pub closes: bool,
    /// The cause for the log, a fixed text of the program: often more than the client may know, and
    /// never a client's text.
    pub cause: Option<&'static str>,
    /// Whether its answer is a plain text in place of a problem document.
    pub is_text: bool,
}

impl Problem {
    /// A problem with a status of its own.
    pub fn new(status: u16, code: Code, detail: impl Into<Cow<'static, str>>) -> Problem {
        let detail = detail.into();
        let cause = match &detail {
            Cow::Borrowed(detail) => Some(*detail),
            // It may repeat the request's text, and that may be a secret.
            Cow::Owned(_) => None,
        };
        let detail = detail.into_owned();
        Problem { status, code, detail, header: None, closes: false, cause, is_text: false }
    }

    /// The same, with another cause for the log.
    #[must_use]
    pub fn because(mut self, cause: &'static str) -> Problem {
        self.cause = Some(cause);
        self
    }

    /// The reason for the log.
    pub fn logged_reason(&self) -> Option<&str> {
        // These texts are made here, of scopes, methods and faults of ours.
        let is_own = matches!(self.status, 401 | 403 | 405) || self.status >= 500;
        self.cause.or_else(|| is_own.then_some(&*self.detail))
    }

    /// The same, ending the connection.
    #[must_use]
    pub fn closing(mut self) -> Problem {
        self.closes = true;
        self
    }

    /// A request with an argument that cannot be used: 400.
    pub fn invalid(detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem::new(400, Code::InvalidArgument, detail)
    }

    /// The same, with the seconds after which the client may try again.
    #[must_use]
    pub fn retry_after_s(mut self, seconds: u64) -> Problem {
        self.header = Some(("retry-after", seconds.to_string()));
        self
    }

    /// There is nothing at the path.
    pub fn not_found() -> Problem {
        Problem::new(404, Code::NotFound, "there is nothing at this path")
    }

    /// The path exists and the method does not.
    pub fn method(allow: &str) -> Problem {
        let mut problem =
            Problem::new(405, Code::InvalidArgument, format!("this path takes {allow}"));
        problem.header = Some(("allow", allow.to_owned()));
        problem
    }

    /// The answer: a problem document (RFC 9457), or a text if the client's protocol has no such
    /// document.
    pub fn reply(&self, request_id: &str) -> Reply {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut reply = if self.is_text { self.text() } else { self.document(status, request_id) };
        *reply.status_mut() = status;
        let headers = reply.headers_mut();
        if let Some((name, value)) = &self.header
            && let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value))
        {
            headers.insert(name, value);
        }
        let connection = match (self.status, self.closes) {
            (426, true) => Some("upgrade, close"),
            (426, false) => Some("upgrade"),
            (_, true) => Some("close"),
            (_, false) => None,
        };
        if let Some(connection) = connection {
            headers.insert("connection", HeaderValue::from_static(connection));
        }
        if self.status == 426 {
            // RFC 9110, 15.5.22: a 426 names the protocol to upgrade to.
            headers.insert("upgrade", HeaderValue::from_static("websocket"));
        }
        if self.status == 405 {
            headers.entry(ALLOW).or_insert(HeaderValue::from_static("GET"));
        }
        reply
    }

    fn document(&self, status: StatusCode, request_id: &str) -> Reply {
        let document = ProblemDocument::new(status, self.code, &self.detail, request_id);
        with_type(problem::MEDIA_TYPE, document.to_json().into())
    }

    /// The detail alone, for the client's log. A 404 has no body.
    fn text(&self) -> Reply {
        if self.status == 404 {
            return Response::new(AnswerBody::default());
        }
        with_type("text/plain; charset=utf-8", self.detail.clone().into())
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        Problem::new(refusal.code.http_status(), refusal.code, refusal.message)
    }
}

impl From<Rejection> for Problem {
    fn from(rejection: Rejection) -> Problem {
        let mut problem = Problem::new(rejection.status, rejection.code, rejection.detail);
        problem.header = rejection.header.map(|(name, value)| (name, value.to_owned()));
        problem.cause = rejection.cause.or(problem.cause);
        problem
    }
}

/// A body of a type.
pub fn with_type(kind: &'static str, body: Bytes) -> Reply {
    of_type(kind, AnswerBody::new(body))
}

fn of_type(kind: &'static str, body: AnswerBody) -> Reply {
    let mut reply = Response::new(body);
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    reply
}

/// A body for which room was reserved before it was built.
pub fn reserved(kind: &'static str, body: Bytes, permit: Permit) -> Reply {
    of_type(kind, AnswerBody::reserved(body, permit))
}

/// A body that a cache keeps, too.
pub fn cached(kind: &'static str, body: Bytes) -> Reply {
    of_type(kind, AnswerBody::cached(body))
}

/// A body that is part of the program.
pub fn fixed(kind: &'static str, body: Bytes) -> Reply {
    of_type(kind, AnswerBody::fixed(body))
}

/// A reply with the permit that was reserved for it.
#[must_use]
pub fn holding(mut reply: Reply, permit: Permit) -> Reply {
    reply.body_mut().hold(permit);
    reply
}

/// A JSON value.
pub fn json_value(value: &Value) -> Reply {
    with_type("application/json", value.to_string().into())
}

/// A JSON value with a status of its own.
pub fn with_status(status: StatusCode, value: &Value) -> Reply {
    let mut reply = json_value(value);
    *reply.status_mut() = status;
    reply
}

/// Success, without a body.
pub fn no_content() -> Reply {
    let mut reply = Response::new(AnswerBody::default());
    *reply.status_mut() = StatusCode::NO_CONTENT;
    reply
}

/// A permanent redirect, for the same method (RFC 9110, 15.4.9).
pub fn moved(location: &str) -> Reply {
    let mut reply = Response::new(AnswerBody::default());
    *reply.status_mut() = StatusCode::PERMANENT_REDIRECT;
    if let Ok(location) = HeaderValue::from_str(location) {
        reply.headers_mut().insert(LOCATION, location);
    }
    reply
}

/// JSON that is encoded already.
pub fn json_bytes(body: impl Into<Bytes>) -> Reply {
    with_type("application/json", body.into())
}

/// Artemis' status of a call.
pub fn response_status(status: &str, error_code: &str, message: &str) -> Value {
    json!({
        "status": status,
        "errorCode": error_code,
        "message": message,
        "errorMessage": message,
    })
}

/// The status of a successful call.
pub fn success() -> Value {
    response_status("success", "success", "")
}

/// The last field of a successful answer of Artemis, and the end of the answer.
pub fn success_end() -> String {
    format!(",\"responseStatus\":{}}}", success())
}

/// A failed call in Artemis' form: HTTP 200 and a code.
pub fn failure(code: &str, message: &str) -> Value {
    json!({"responseStatus": response_status("fail", code, message)})
}

/// A request that Artemis calls bad.
pub fn bad_request(message: &str) -> Reply {
    json_value(&failure("bad-request", message))
}
