//! HTTP answers to registrations, read from a buffer: where each ends, and what it says.
//!
//! Only bodies with a length are understood; a server answers a registration with a few hundred bytes.
//!
//! Imports nothing of the crate. Imported by `publisher`.

use std::ops::Range;

use serde::Deserialize;
use serde_json::Value;

/// Header fields of an answer, at most.
const FIELDS_MAX: usize = 64;

/// A complete answer at the start of a buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Its status.
    pub(crate) status: u16,
    /// The place of its body.
    pub(crate) body: Range<usize>,
    /// Head and body together.
    pub(crate) bytes: usize,
}

/// What an answer says about the events of its request.
#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    /// They count, but for these entries.
    Accepted {
        /// The failed entries.
        failed: Vec<Value>,
    },
    /// None of them counts.
    Refused {
        /// Whether it was for their rate.
        is_rate_limited: bool,
        /// The server's words.
        words: String,
    },
}

/// An answer of the registry.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Registered {
    failed_instances: Vec<Value>,
    response_status: ResponseStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ResponseStatus {
    status: String,
    error_code: String,
    error_message: String,
}

/// A problem (RFC 9457).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    code: String,
    detail: String,
}

/// Reads the answer at the start of `bytes`. Returns nothing while it is not complete; fails when it
/// is none.
pub(crate) fn decode(bytes: &[u8]) -> Result<Option<Answer>, String> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut head = httparse::Response::new(&mut fields);
    let parsed = head.parse(bytes);
    let parsed = parsed.map_err(|fault| format!("no HTTP answer to a publisher: {fault}"))?;
    let httparse::Status::Complete(head_bytes) = parsed else { return Ok(None) };
    let field =
        |name: &str| head.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
    if field("transfer-encoding").is_some() {
        return Err("an answer in chunks, which are not understood here".to_owned());
    }
    let length = field("content-length").map_or(Some(0), |field| {
        std::str::from_utf8(field.value).ok()?.trim().parse::<usize>().ok()
    });
    let length = length.ok_or("an answer whose length is no number")?;
    let bytes_in_all = head_bytes.saturating_add(length);
    let answer = Answer {
        status: head.code.unwrap_or_default(),
        body: head_bytes..bytes_in_all,
        bytes: bytes_in_all,
    };
    Ok((bytes.len() >= bytes_in_all).then_some(answer))
}

/// What an answer to a registration says.
pub(crate) fn verdict(status: u16, body: &[u8]) -> Verdict {
    if status != 200 {
        let problem: Problem = serde_json::from_slice(body).unwrap_or_default();
        return Verdict::Refused {
            is_rate_limited: status == 429 || problem.code == "rate_limited",
            words: format!("{status} {}: {}", problem.code, problem.detail),
        };
    }
    match serde_json::from_slice::<Registered>(body) {
        // A request that is refused as a whole names no entries.
        Ok(Registered { failed_instances, response_status })
            if response_status.status == "fail" && failed_instances.is_empty() =>
        {
            Verdict::Refused {
                is_rate_limited: response_status.error_code == "rate-limited",
                words: format!("{}: {}", response_status.error_code, response_status.error_message),
            }
        }
        Ok(Registered { failed_instances, response_status })
            if !response_status.status.is_empty() =>
        {
            Verdict::Accepted { failed: failed_instances }
        }
        _ => Verdict::Refused {
            is_rate_limited: false,
            words: "an answer that is not the registry's".to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nContent-Length: 4\r\n\r\nabcdHTTP/1.1";

    #[test]
    fn an_answer_is_complete_with_its_body() {
        let end = OK.len() - 8;
        for length in 0..end {
            assert_eq!(decode(&OK[..length]), Ok(None), "{length}");
        }
        let answer = decode(OK).unwrap().unwrap();
        assert_eq!((answer.status, &OK[answer.body], answer.bytes), (200, &b"abcd"[..], end));
    }

    #[test]
    fn what_is_no_answer_is_said() {
        assert!(decode(b"\x81\x05hello, this is a frame").is_err());
        assert!(decode(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
        assert!(decode(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n").is_err());
        let huge = b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n";
        assert_eq!(decode(huge), Ok(None), "it never ends, and nothing overflows");
    }

    #[test]
    fn refusals_are_told_from_acceptance() {
        let whole = br#"{"failedInstances":[],"responseStatus":{"status":"success","errorCode":"success"}}"#;
        assert_eq!(verdict(200, whole), Verdict::Accepted { failed: vec![] });
        let part = br#"{"failedInstances":[{"errorCode":"bad-request"}],"responseStatus":{"status":"partial_fail"}}"#;
        assert!(matches!(verdict(200, part), Verdict::Accepted { failed } if failed.len() == 1));
        let limited = br#"{"failedInstances":[],"responseStatus":{"status":"fail","errorCode":"rate-limited"}}"#;
        let is_limited =
            |verdict| matches!(verdict, Verdict::Refused { is_rate_limited: true, .. });
        assert!(is_limited(verdict(200, limited)));
        assert!(is_limited(verdict(429, b"")));
        let forbidden = verdict(403, br#"{"code":"forbidden","detail":"needs registry:write"}"#);
        let words = "403 forbidden: needs registry:write".to_owned();
        assert_eq!(forbidden, Verdict::Refused { is_rate_limited: false, words });
        assert!(matches!(verdict(200, b"<html>"), Verdict::Refused { .. }));
    }
}
