//! An HTTP answer, and the checks of a test on it.
//!
//! Imports nothing of the crate. Imported by `server` and tests.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpStream;

use serde_json::Value;

/// An HTTP answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub text: String,
    /// The body as JSON, or null if it is not JSON.
    pub body: Value,
}

impl Reply {
    pub fn read(stream: TcpStream) -> Reply {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).expect("a status line in time");
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status line: {line:?}"));
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).expect("headers in time");
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut reply = Reply { status, headers, text: String::new(), body: Value::Null };
        assert_eq!(reply.header("transfer-encoding"), None, "chunks are not understood here");
        let length = reply.header("content-length").unwrap_or("0").parse().expect("a length");
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes).expect("a body in time");
        reply.text = String::from_utf8(bytes).expect("the body is UTF-8");
        reply.body = serde_json::from_str(&reply.text).unwrap_or_default();
        reply
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// Status and error code of a registry answer, which has to be HTTP 200.
    pub fn outcome(&self) -> (&str, &str) {
        assert_eq!(self.status, 200, "{}", self.text);
        let status = &self.body["responseStatus"];
        let text = |field: &str| status[field].as_str().unwrap_or_else(|| panic!("{}", self.text));
        (text("status"), text("errorCode"))
    }

    /// Checks that this is a problem of that status and code.
    pub fn expect_problem(&self, status: u16, code: &str) {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{}", self.text);
        assert_eq!(self.body["type"], "about:blank", "{}", self.text);
        assert_eq!(self.body["status"], status, "{}", self.text);
        assert_eq!(self.body["code"], code, "{}", self.text);
        for field in ["title", "detail", "request_id"] {
            let text = self.body[field].as_str().unwrap_or_default();
            assert!(!text.is_empty(), "{field} is missing: {}", self.text);
        }
    }
}
