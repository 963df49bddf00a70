//! The errors of a client, and whether to try again.
//!
//! Imports nothing of the crate. Imported by everything in it.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use fanfare_protocol::close::Reason;
use fanfare_protocol::refusal::Code;

/// The reason why a request failed.
///
/// Cloning is cheap: one failure of a connection is the error of every request on it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Error {
    /// An argument that no server accepts: a URL, a name, an instance.
    Invalid(String),
    /// The connection to the server failed, or broke while it was being made.
    Connect(Arc<io::Error>),
    /// A fault of TLS, such as the certificate. Trying again does not help.
    Tls(String),
    /// The server answered the request with an HTTP status other than success.
    Status {
        /// The HTTP status.
        status: u16,
        /// The server's code, if it is a known one.
        code: Option<Code>,
        /// The server's text for a person.
        message: String,
        /// How long the client has to wait before it tries again.
        retry_after: Option<Duration>,
    },
    /// The server refused a message on the socket. The connection stays open.
    Refused {
        /// The server's code, if it is a known one.
        code: Option<Code>,
        /// The server's text for a person.
        message: String,
        /// Whether the same may succeed later.
        is_temporary: bool,
    },
    /// The server closed the connection with this code, see `docs/protocol.md`.
    Closed {
        /// The close code; 1006 without a close frame.
        code: u16,
        /// The close frame's text.
        reason: String,
    },
    /// The connection was lost before the answer: the request may or may not have been carried out.
    Disconnected,
    /// The answer did not come in time: the request may or may not have been carried out.
    Timeout,
    /// The token source gave no token.
    Token(Arc<dyn std::error::Error + Send + Sync>),
    /// The server's message is not of the protocol.
    Protocol(String),
    /// The client was closed.
    Stopped,
}

impl Error {
    pub(crate) fn invalid(message: impl Into<String>) -> Error {
        Error::Invalid(message.into())
    }

    pub(crate) fn connect(fault: io::Error) -> Error {
        Error::Connect(Arc::new(fault))
    }

    /// Whether the same, unchanged, may succeed later.
    ///
    /// ```
    /// use fanfare_client::Error;
    ///
    /// assert!(Error::Timeout.is_temporary());
    /// assert!(!Error::Stopped.is_temporary());
    /// ```
    pub fn is_temporary(&self) -> bool {
        match self {
            Error::Invalid(_) | Error::Tls(_) | Error::Stopped => false,
            Error::Connect(_)
            | Error::Disconnected
            | Error::Timeout
            | Error::Token(_)
            | Error::Protocol(_) => true,
            Error::Status { status, .. } => matches!(status, 408 | 429 | 500..),
            Error::Refused { is_temporary, .. } => *is_temporary,
            Error::Closed { .. } => self.close_reason() != Some(Reason::Removed),
        }
    }

    /// How long to wait before the same is tried again. None if trying again does not help.
    pub fn retry_after(&self) -> Option<Duration> {
        if !self.is_temporary() {
            return None;
        }
        match self {
            Error::Status { retry_after: Some(after), .. } => Some(*after),
            Error::Status { status: 429, .. } => Some(Duration::from_secs(10)),
            Error::Closed { .. }
                if matches!(
                    self.close_reason(),
                    Some(Reason::TooManyConnections | Reason::RateLimit)
                ) =>
            {
                Some(Duration::from_secs(10))
            }
            Error::Refused { code: Some(Code::RateLimited), .. } => Some(Duration::from_secs(1)),
            _ => Some(Duration::from_millis(500)),
        }
    }

    /// The server's code, if it sent one.
    pub fn code(&self) -> Option<Code> {
        match self {
            Error::Status { code, .. } | Error::Refused { code, .. } => *code,
            _ => None,
        }
    }

    /// Whether a new token could make the difference.
    pub(crate) fn is_about_token(&self) -> bool {
        matches!(self, Error::Status { status: 401, .. })
            || self.close_reason() == Some(Reason::TokenExpired)
    }

    /// The reason of the server's close, if it is a known one.
    pub(crate) fn close_reason(&self) -> Option<Reason> {
        match self {
            Error::Closed { code, .. } => Reason::from_code(*code),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Invalid(message) => f.write_str(message),
            Error::Connect(fault) => write!(f, "no connection: {fault}"),
            Error::Tls(message) => write!(f, "TLS: {message}"),
            Error::Status { status, message, .. } if message.is_empty() => {
                write!(f, "the server answered {status}")
            }
            Error::Status { status, message, .. } => {
                write!(f, "the server answered {status}: {message}")
            }
            Error::Refused { code: Some(code), message, .. } => {
                write!(f, "refused, {}: {message}", code.as_str())
            }
            Error::Refused { message, .. } => write!(f, "refused: {message}"),
            Error::Closed { code, reason } if reason.is_empty() => write!(f, "closed with {code}"),
            Error::Closed { code, reason } => write!(f, "closed with {code}: {reason}"),
            Error::Disconnected => write!(f, "the connection was lost before the answer"),
            Error::Timeout => write!(f, "no answer in time"),
            Error::Token(fault) => write!(f, "no token: {fault}"),
            Error::Protocol(message) => write!(f, "not the protocol: {message}"),
            Error::Stopped => write!(f, "the client is closed"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Connect(fault) => Some(&**fault),
            Error::Token(fault) => Some(&**fault),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_final_has_no_time_to_retry() {
        let closed = |code| Error::Closed { code, reason: String::new() };
        for (error, is_temporary) in [
            (closed(4403), false),
            (closed(4401), true),
            (closed(4408), true),
            (closed(4410), true),
            (closed(1006), true),
            (Error::Timeout, true),
            (Error::Stopped, false),
            (Error::invalid("x"), false),
        ] {
            assert_eq!(error.is_temporary(), is_temporary, "{error}");
            assert_eq!(error.retry_after().is_some(), is_temporary, "{error}");
        }
    }
}
