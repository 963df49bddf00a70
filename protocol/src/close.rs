//! Reasons to close a connection: the codes of RFC 6455 and our own.
//!
//! A client steers by the code: 44xx codes say whether to return, and with what. The codes are
//! protocol: `docs/protocol.md` lists them.
//!
//! Imports nothing of the crate.

/// The reason why the server closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The client closed, and gets its close frame back.
    Normal,
    /// The server is stopping. A `reconnect` frame came before.
    Draining,
    /// The client broke RFC 6455.
    Protocol,
    /// A binary message where only JSON text is allowed.
    Binary,
    /// A text message that is not UTF-8.
    NotUtf8,
    /// A message over the limit, or of too many empty fragments.
    TooBig,
    /// Our own fault. Logged in full where it happened.
    Internal,
    /// The token has expired or was revoked. Get a new one and return.
    TokenExpired,
    /// An operator ended the connection. Do not return.
    Removed,
    /// The client took nothing for too long. Return and resume.
    SlowReader,
    /// The user has as many connections as allowed. This is the newest of them.
    TooManyConnections,
    /// The client did not answer a ping in time. Return and resume.
    NoPong,
    /// Too many messages for too long. Return later.
    RateLimit,
}

impl Reason {
    /// Every reason, in the order of the codes.
    pub const ALL: [Reason; 13] = [
        Reason::Normal,
        Reason::Draining,
        Reason::Protocol,
        Reason::Binary,
        Reason::NotUtf8,
        Reason::TooBig,
        Reason::Internal,
        Reason::TokenExpired,
        Reason::Removed,
        Reason::SlowReader,
        Reason::TooManyConnections,
        Reason::NoPong,
        Reason::RateLimit,
    ];

    /// The close code on the wire.
    pub const fn code(self) -> u16 {
        match self {
            Reason::Normal => 1000,
            Reason::Draining => 1001,
            Reason::Protocol => 1002,
            Reason::Binary => 1003,
            Reason::NotUtf8 => 1007,
            Reason::TooBig => 1009,
            Reason::Internal => 1011,
            Reason::TokenExpired => 4401,
            Reason::Removed => 4403,
            Reason::SlowReader => 4408,
            Reason::TooManyConnections => 4409,
            Reason::NoPong => 4410,
            Reason::RateLimit => 4429,
        }
    }

    /// The reason of a close code; none for a code that no server of ours sends.
    ///
    /// ```
    /// use fanfare_protocol::close::Reason;
    ///
    /// assert_eq!(Reason::from_code(4403), Some(Reason::Removed));
    /// assert_eq!(Reason::from_code(1006), None);
    /// ```
    pub fn from_code(code: u16) -> Option<Reason> {
        Reason::ALL.into_iter().find(|reason| reason.code() == code)
    }

    /// The close frame's text. At most 123 bytes (RFC 6455, 5.5).
    pub const fn text(self) -> &'static str {
        match self {
            Reason::Normal => "",
            Reason::Draining => "draining",
            Reason::Protocol => "protocol error",
            Reason::Binary => "binary messages are not spoken here",
            Reason::NotUtf8 => "text is not UTF-8",
            Reason::TooBig => "message too big",
            Reason::Internal => "internal error",
            Reason::TokenExpired => "token expired or revoked",
            Reason::Removed => "removed by an operator: do not return",
            Reason::SlowReader => "slow reader: return and resume",
            Reason::TooManyConnections => "too many connections of this user",
            Reason::NoPong => "no pong: return and resume",
            Reason::RateLimit => "rate limit: return later",
        }
    }

    /// The reason's index in [`Reason::ALL`], for counters.
    pub const fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_stands_at_its_index() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), index);
            assert!(reason.text().len() <= 123);
            assert_eq!(Reason::from_code(reason.code()), Some(reason));
        }
    }
}
