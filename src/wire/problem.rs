//! The document of a refused HTTP request (RFC 9457).
//!
//! Two places refuse requests: the shard, before hyper sees the connection, and `http`. Both write this
//! document, so a client meets one shape.
//!
//! Imports its siblings. Imported by `shard` and `http`.

use hyper::StatusCode;
use serde::Serialize;

use super::refusal::Code;

/// The media type of the document.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// A problem document.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ProblemDocument<'a> {
    code: &'static str,
    detail: &'a str,
    request_id: &'a str,
    status: u16,
    title: &'static str,
    r#type: &'static str,
}

impl<'a> ProblemDocument<'a> {
    /// The document for a status: its title is the status's own phrase.
    pub fn new(
        status: StatusCode,
        code: Code,
        detail: &'a str,
        request_id: &'a str,
    ) -> ProblemDocument<'a> {
        ProblemDocument {
            code: code.as_str(),
            detail,
            request_id,
            status: status.as_u16(),
            title: title(status),
            r#type: "about:blank",
        }
    }

    /// The document as JSON.
    pub fn to_json(self) -> String {
        // Texts and numbers can always be written.
        serde_json::to_string(&self).unwrap_or_default()
    }
}

/// The phrase of a status.
pub fn title(status: StatusCode) -> &'static str {
    status.canonical_reason().unwrap_or("Error")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_the_documented_json() {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        let text = ProblemDocument::new(status, Code::TooLarge, "say \"less\"", "n-1").to_json();
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(
            value,
            serde_json::json!({
                "type": "about:blank",
                "title": "Request Header Fields Too Large",
                "status": 431,
                "detail": "say \"less\"",
                "code": "too_large",
                "request_id": "n-1",
            })
        );
    }
}
