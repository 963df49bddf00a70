//! The scopes: what a token allows.
//!
//! A token without scopes identifies a user and grants nothing more: if tokens are required it
//! opens sockets and follows the channels that allow it. Everything else needs one of the words
//! below. The whole table, call by call, is in `docs/operations.md`.
//!
//! # Promises
//!
//! * `admin` includes every other scope, and `registry:write` includes `registry:read`, here and
//!   nowhere else. No other scope includes another.
//! * An unknown word grants nothing and refuses nothing.
//!
//! # Not here
//!
//! Which request needs which scope: the rooms `http`, `ws` and `shard` know their requests.
//!
//! Imports nothing. Imported by `auth::jwt`, `auth::namespace`, `http`, `ws`, `shard` and `config`.

use std::fmt;

/// A set of scopes, one bit each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scopes(u16);

impl Scopes {
    /// No scope: a signed-in user.
    pub const NONE: Scopes = Scopes(0);
    /// `registry:read`: discovery, leases, and following services.
    pub const REGISTRY_READ: Scopes = Scopes(1);
    /// `registry:write`: register, renew and unregister instances; includes `registry:read`.
    pub const REGISTRY_WRITE: Scopes = Scopes(1 << 1 | Self::REGISTRY_READ.0);
    /// `publish`: send to users, sockets and channels over HTTP.
    pub const PUBLISH: Scopes = Scopes(1 << 2);
    /// `message`: direct, group and room messages, and envelopes.
    pub const MESSAGE: Scopes = Scopes(1 << 3);
    /// `sockets:read`: connections, online users, and the counters.
    pub const SOCKETS_READ: Scopes = Scopes(1 << 4);
    /// `channels:read`: the list of channels, and their users.
    pub const CHANNELS_READ: Scopes = Scopes(1 << 5);
    /// `audit:read`: the record of events and their actors.
    pub const AUDIT_READ: Scopes = Scopes(1 << 6);
    /// `admin`: connections, channels and operations; includes all other scopes.
    pub const ADMIN: Scopes = Scopes(
        1 << 7
            | Self::REGISTRY_WRITE.0
            | Self::PUBLISH.0
            | Self::MESSAGE.0
            | Self::SOCKETS_READ.0
            | Self::CHANNELS_READ.0
            | Self::AUDIT_READ.0,
    );

    /// The words of the `scope` claim. One that includes others stands before them.
    const WORDS: [(&'static str, Scopes); 8] = [
        ("admin", Scopes::ADMIN),
        ("registry:write", Scopes::REGISTRY_WRITE),
        ("registry:read", Scopes::REGISTRY_READ),
        ("publish", Scopes::PUBLISH),
        ("message", Scopes::MESSAGE),
        ("sockets:read", Scopes::SOCKETS_READ),
        ("channels:read", Scopes::CHANNELS_READ),
        ("audit:read", Scopes::AUDIT_READ),
    ];

    /// The words, by comma, for a help text or a fault.
    pub const WORDS_LISTED: &'static str = "admin, registry:write, registry:read, publish, message, \
        sockets:read, channels:read, audit:read";

    /// The scope of one word; none for an unknown word.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(known, _)| *known == word).map(|(_, scope)| *scope)
    }

    /// Reads a `scope` claim: words between spaces, the unknown ones ignored.
    #[must_use]
    pub fn from_claim(claim: &str) -> Self {
        claim.split_ascii_whitespace().fold(Self::NONE, |scopes, word| {
            Self::of_word(word).map_or(scopes, |scope| scopes.with(scope))
        })
    }

    /// Returns the words of `claim` that name no scope, for the command line's warning.
    pub fn unknown_words(claim: &str) -> impl Iterator<Item = &str> {
        claim.split_ascii_whitespace().filter(|word| Self::of_word(word).is_none())
    }

    /// Returns both sets in one.
    #[must_use]
    pub const fn with(self, other: Scopes) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the set includes all of `needed`.
    #[must_use]
    pub const fn contains(self, needed: Scopes) -> bool {
        self.0 & needed.0 == needed.0
    }
}

/// The `scope` claim: the shortest list of words with this set.
impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut written = Self::NONE;
        for (word, scope) in Self::WORDS {
            if self.contains(scope) && !written.contains(scope) {
                let gap = if written == Self::NONE { "" } else { " " };
                write!(f, "{gap}{word}")?;
                written = written.with(scope);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inclusion_is_what_the_table_says_and_nothing_else() {
        for (word, scope) in Scopes::WORDS {
            for (other, needed) in Scopes::WORDS {
                let includes = word == other
                    || word == "admin"
                    || (word, other) == ("registry:write", "registry:read");
                assert_eq!(scope.contains(needed), includes, "{word} and {other}");
            }
            assert!(Scopes::WORDS_LISTED.split(", ").any(|listed| listed == word), "{word}");
        }
        let all = Scopes::WORDS[1..].iter().fold(Scopes::NONE, |all, (_, one)| all.with(*one));
        assert!(!all.contains(Scopes::ADMIN), "all others together are not admin");
    }

    #[test]
    fn unknown_words_grant_nothing() {
        assert_eq!(
            Scopes::from_claim("Admin admins registry publish,admin registry: read message."),
            Scopes::NONE
        );
        assert_eq!(Scopes::from_claim("  openid   publish profile "), Scopes::PUBLISH);
        assert!(Scopes::unknown_words("openid publish x").eq(["openid", "x"]));
        assert!(!Scopes::NONE.contains(Scopes::PUBLISH));
        assert!(Scopes::NONE.contains(Scopes::NONE));
    }

    #[test]
    fn claim_survives_the_round_trip() {
        for claim in
            ["", "admin", "registry:write", "publish", "registry:write publish message audit:read"]
        {
            assert_eq!(Scopes::from_claim(claim).to_string(), claim);
        }
        assert_eq!(Scopes::from_claim("publish admin").to_string(), "admin");
        assert_eq!(
            Scopes::from_claim("registry:read registry:write").to_string(),
            "registry:write"
        );
    }
}
