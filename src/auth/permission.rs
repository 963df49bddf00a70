//! The scopes: what a token allows.
//!
//! A token without scopes says who somebody is and no more. Acting as that user needs nothing
//! else; writing to the registry, publishing over HTTP and administration need a scope.
//!
//! # Promises
//!
//! * `admin` includes every other scope, here and nowhere else.
//! * A word we do not know grants nothing and refuses nothing.
//!
//! # Not here
//!
//! Which request needs which scope: the doors (`http`, `ws`) know their requests.
//!
//! Imports nothing. Imported by `auth::jwt`, `http`, `ws` and `shard`.

use std::fmt;

/// A set of scopes, one bit each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    /// No scope: a signed-in user.
    pub const NONE: Scopes = Scopes(0);
    /// `registry:write`: register, renew and unregister instances.
    pub const REGISTRY_WRITE: Scopes = Scopes(1);
    /// `publish`: send to users, sockets and channels over HTTP.
    pub const PUBLISH: Scopes = Scopes(1 << 1);
    /// `admin`: connections, channels and operations; includes all other scopes.
    pub const ADMIN: Scopes = Scopes(1 << 2 | Self::REGISTRY_WRITE.0 | Self::PUBLISH.0);

    /// The words of the `scope` claim. `admin` comes first: it stands for the others.
    const WORDS: [(&'static str, Scopes); 3] = [
        ("admin", Scopes::ADMIN),
        ("registry:write", Scopes::REGISTRY_WRITE),
        ("publish", Scopes::PUBLISH),
    ];

    /// Reads a `scope` claim: words between spaces, the unknown ones ignored.
    #[must_use]
    pub fn from_claim(claim: &str) -> Self {
        claim.split_ascii_whitespace().fold(Self::NONE, |scopes, word| {
            match Self::WORDS.iter().find(|(known, _)| *known == word) {
                Some((_, scope)) => scopes.with(*scope),
                None => scopes,
            }
        })
    }

    /// Returns the words of `claim` that name no scope. A command line wants to know.
    pub fn unknown_words(claim: &str) -> impl Iterator<Item = &str> {
        let is_known = |word: &str| Self::WORDS.iter().any(|(known, _)| *known == word);
        claim.split_ascii_whitespace().filter(move |word| !is_known(word))
    }

    /// Returns both sets in one.
    #[must_use]
    pub const fn with(self, other: Scopes) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether everything `needed` allows is allowed.
    #[must_use]
    pub const fn contains(self, needed: Scopes) -> bool {
        self.0 & needed.0 == needed.0
    }
}

/// The `scope` claim: the shortest words that mean this set.
impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = Self::NONE;
        for (word, scope) in Self::WORDS {
            if self.contains(scope) && !said.contains(scope) {
                let gap = if said == Self::NONE { "" } else { " " };
                write!(f, "{gap}{word}")?;
                said = said.with(scope);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admin_includes_all_and_nothing_includes_admin() {
        let admin = Scopes::from_claim("admin");
        assert!(admin.contains(Scopes::PUBLISH) && admin.contains(Scopes::REGISTRY_WRITE));
        let both = Scopes::from_claim("publish registry:write");
        assert!(both.contains(Scopes::PUBLISH) && both.contains(Scopes::REGISTRY_WRITE));
        assert!(!both.contains(Scopes::ADMIN));
    }

    #[test]
    fn unknown_words_grant_nothing() {
        assert_eq!(Scopes::from_claim("Admin admins registry publish,admin"), Scopes::NONE);
        assert_eq!(Scopes::from_claim("  openid   publish profile "), Scopes::PUBLISH);
        assert!(Scopes::unknown_words("openid publish x").eq(["openid", "x"]));
        assert!(!Scopes::NONE.contains(Scopes::PUBLISH));
        assert!(Scopes::NONE.contains(Scopes::NONE));
    }

    #[test]
    fn claim_survives_the_round_trip() {
        for claim in ["", "admin", "registry:write", "publish", "registry:write publish"] {
            assert_eq!(Scopes::from_claim(claim).to_string(), claim);
        }
        assert_eq!(Scopes::from_claim("publish admin").to_string(), "admin");
    }
}
