//! Refusals: why a request was not carried out.
//!
//! A refusal is an answer, not a failure: the connection stays open. A reason to end a connection
//! is a [`crate::close::Reason`]. Our own faults are logged in full where they happen; the client
//! only sees `unavailable` or `internal`.
//!
//! Imports nothing of the crate.

use std::borrow::Cow;
use std::fmt;

/// The code that a client program may branch on. Never reused, never renamed.
///
/// The codes are protocol: `docs/protocol.md` lists them and a test compares the two lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// Not a JSON object.
    Malformed,
    /// `type` or `message_type` is missing or unknown.
    UnknownType,
    /// A field is missing or wrong.
    InvalidArgument,
    /// Longer than a limit allows.
    TooLarge,
    /// The connection has as many subscriptions as allowed.
    TooManySubscriptions,
    /// No valid token.
    Unauthorized,
    /// The token has expired.
    TokenExpired,
    /// The token does not allow this.
    Forbidden,
    /// There is no such thing.
    NotFound,
    /// It contradicts the present state, such as a name that is taken.
    Conflict,
    /// Too many requests.
    RateLimited,
    /// Not possible now; the same request may succeed later.
    Unavailable,
    /// Our own fault.
    Internal,
}

impl Code {
    /// Every code, in the order of the documentation.
    pub const ALL: [Code; 13] = [
        Code::Malformed,
        Code::UnknownType,
        Code::InvalidArgument,
        Code::TooLarge,
        Code::TooManySubscriptions,
        Code::Unauthorized,
        Code::TokenExpired,
        Code::Forbidden,
        Code::NotFound,
        Code::Conflict,
        Code::RateLimited,
        Code::Unavailable,
        Code::Internal,
    ];

    /// The code on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Code::Malformed => "malformed",
            Code::UnknownType => "unknown_type",
            Code::InvalidArgument => "invalid_argument",
            Code::TooLarge => "too_large",
            Code::TooManySubscriptions => "too_many_subscriptions",
            Code::Unauthorized => "unauthorized",
            Code::TokenExpired => "token_expired",
            Code::Forbidden => "forbidden",
            Code::NotFound => "not_found",
            Code::Conflict => "conflict",
            Code::RateLimited => "rate_limited",
            Code::Unavailable => "unavailable",
            Code::Internal => "internal",
        }
    }

    /// The code of a name on the wire; none for a name that this version does not know.
    ///
    /// ```
    /// use fanfare_protocol::refusal::Code;
    ///
    /// assert_eq!(Code::from_name("not_found"), Some(Code::NotFound));
    /// assert_eq!(Code::from_name("of another day"), None);
    /// ```
    pub fn from_name(name: &str) -> Option<Code> {
        Code::ALL.into_iter().find(|code| code.as_str() == name)
    }

    /// Whether the same request, unchanged, may succeed later.
    pub const fn is_temporary(self) -> bool {
        matches!(self, Code::RateLimited | Code::Unavailable | Code::Internal)
    }

    /// The HTTP status of the code, if only the code is known.
    pub const fn http_status(self) -> u16 {
        match self {
            Code::Malformed | Code::UnknownType | Code::InvalidArgument => 400,
            Code::Unauthorized | Code::TokenExpired => 401,
            Code::Forbidden => 403,
            Code::NotFound => 404,
            Code::Conflict | Code::TooManySubscriptions => 409,
            Code::TooLarge => 413,
            Code::RateLimited => 429,
            Code::Internal => 500,
            Code::Unavailable => 503,
        }
    }

    /// The code's index in [`Code::ALL`], for counters.
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// A refused request: a code for programs, and a text for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The code for programs.
    pub code: Code,
    /// One sentence that names the fault. Never a path, SQL or another user's data.
    pub message: Cow<'static, str>,
}

impl Refusal {
    /// A refusal with a fixed or formatted message.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal { code, message: message.into() }
    }

    /// A field is missing or wrong.
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal::new(Code::InvalidArgument, message)
    }

    /// The node cannot do it now.
    pub fn unavailable() -> Refusal {
        Refusal::new(Code::Unavailable, "unavailable, try again later")
    }

    /// Our own fault. The caller gets no details.
    pub fn internal() -> Refusal {
        Refusal::new(Code::Internal, "internal error")
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.message)
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_stands_at_its_index() {
        for (index, code) in Code::ALL.into_iter().enumerate() {
            assert_eq!(code.index(), index);
            assert!((400..=599).contains(&code.http_status()));
            assert_eq!(Code::from_name(code.as_str()), Some(code));
        }
    }
}
