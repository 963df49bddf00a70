//! Revoked tokens: those of disabled accounts, those issued before a user's tokens were ended, and single
//! ones.
//!
//! The database has the same lists and outlives the process; every request and every handshake is checked
//! against this copy. It never lags behind what this server did itself, and is at most
//! [`limits::ACCOUNTS_POLL_MS`] behind the command line and the other nodes.
//!
//! # Promises
//!
//! * While nothing is revoked a check costs one load.
//! * A revoked token is kept until its own end, and no longer.
//! * Older news never takes back the end of a user's tokens.
//!
//! Imports its siblings and `limits`. Imported by `ws::authorizer`, `http`, `shard` and `control`.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;
use sha2::{Digest as _, Sha256};

use super::{CredentialCache, Identity, TokenMark};
use crate::limits;

/// The id of one token: a digest of its `jti` claim, or of its signed text if it has none.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenId([u8; 16]);

impl TokenId {
    /// The token with a `jti` claim.
    #[must_use]
    pub fn of_jti(jti: &str) -> TokenId {
        TokenId::digest(b"jti:", jti)
    }

    /// The token whose header and claims are this text.
    #[must_use]
    pub fn of_text(signed: &str) -> TokenId {
        TokenId::digest(b"text:", signed)
    }

    fn digest(kind: &[u8], text: &str) -> TokenId {
        let digest: [u8; 32] =
            Sha256::new().chain_update(kind).chain_update(text).finalize().into();
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        TokenId(id)
    }
}

/// As hex digits: the form in the database. It reveals nothing of the token.
impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not 32 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoTokenId;

impl FromStr for TokenId {
    type Err = NoTokenId;

    fn from_str(text: &str) -> Result<TokenId, NoTokenId> {
        let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u128::from_str_radix(text, 16).ok().filter(|_| is_hex).ok_or(NoTokenId)?;
        Ok(TokenId(number.to_be_bytes()))
    }
}

/// When a user's tokens were ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ended {
    /// Tokens made before this are invalid, in milliseconds since 1970.
    tokens_from_ms: u64,
    /// The one that stays valid: its user changed the password with it.
    kept: Option<TokenId>,
}

/// The revocations of one account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Whether the account is disabled.
    pub is_disabled: bool,
    /// Tokens made before this are invalid, in milliseconds since 1970; 0: none was ended.
    pub tokens_from_ms: u64,
    /// The one that stays valid.
    pub kept_token: Option<TokenId>,
}

impl Standing {
    /// Whether the account leaves a token valid.
    #[must_use]
    pub fn covers(&self, token: TokenMark) -> bool {
        !self.is_disabled
            && (token.made_ms >= self.tokens_from_ms || self.kept_token == Some(token.id))
    }
}

/// The reason why a token is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revocation {
    /// Its user's account is disabled.
    Disabled,
    /// It was revoked, or all of its user's were.
    Token,
}

/// # Invariants
///
/// 1. `tokens` has at most [`limits::REVOKED_TOKENS_MAX`] entries that have not run out, because the
///    store takes no more.
#[derive(Debug, Default)]
struct Table {
    disabled: HashSet<Box<str>>,
    ended: HashMap<Box<str>, Ended>,
    /// Single tokens, with the second since 1970 at which each runs out.
    tokens: HashMap<TokenId, u64>,
    /// The number of single tokens at which the expired ones are removed next.
    sweep_at: usize,
}

/// The revocations. Bounded by the number of users and by [`limits::REVOKED_TOKENS_MAX`].
#[derive(Debug, Default)]
pub struct Revoked {
    table: RwLock<Table>,
    /// Spares the lock while nothing is revoked, which is nearly always.
    is_any: AtomicBool,
    /// Accounts whose passwords were correct a moment ago.
    pub credential_cache: CredentialCache,
}

impl Revoked {
    /// Why an identity is revoked, if it is.
    pub fn of(&self, identity: &Identity) -> Option<Revocation> {
        if !self.is_any.load(Ordering::Acquire) {
            return None;
        }
        let table = self.table.read();
        let user_id = identity.user_id.as_str();
        if table.disabled.contains(user_id) {
            return Some(Revocation::Disabled);
        }
        let token = identity.token?;
        let is_ended = table.ended.get(user_id).is_some_and(|ended| {
            token.made_ms < ended.tokens_from_ms && ended.kept != Some(token.id)
        });
        (is_ended || table.tokens.contains_key(&token.id)).then_some(Revocation::Token)
    }

    /// Whether an account is disabled.
    pub fn is_disabled(&self, user_id: &str) -> bool {
        self.is_any.load(Ordering::Acquire) && self.table.read().disabled.contains(user_id)
    }

    /// Stores the standing of an account. Returns whether valid tokens may have become invalid.
    pub fn set(&self, user_id: &str, standing: Standing) -> bool {
        let Standing { is_disabled, tokens_from_ms, kept_token: kept } = standing;
        if !is_disabled && tokens_from_ms == 0 && !self.is_any.load(Ordering::Acquire) {
            return false;
        }
        let mut table = self.table.write();
        let is_news = if is_disabled {
            table.disabled.insert(user_id.into())
        } else {
            table.disabled.remove(user_id);
            false
        };
        let known_ms = table.ended.get(user_id).map_or(0, |ended| ended.tokens_from_ms);
        let is_later = tokens_from_ms > known_ms;
        if is_later {
            table.ended.insert(user_id.into(), Ended { tokens_from_ms, kept });
        }
        self.note(&table);
        is_news || is_later
    }

    /// Stores a single revoked token that runs out at `expires_s`. Returns whether it is new.
    pub fn revoke(&self, token: TokenId, expires_s: u64, now_s: u64) -> bool {
        let mut table = self.table.write();
        if expires_s <= now_s || table.tokens.insert(token, expires_s).is_some() {
            return false;
        }
        if table.tokens.len() >= table.sweep_at {
            table.tokens.retain(|_, expires_s| *expires_s > now_s);
            table.sweep_at = (2 * table.tokens.len()).max(limits::REVOKED_TOKENS_PER_USER_MAX);
        }
        self.note(&table);
        true
    }

    fn note(&self, table: &Table) {
        let Table { disabled, ended, tokens, .. } = table;
        let is_any = !(disabled.is_empty() && ended.is_empty() && tokens.is_empty());
        self.is_any.store(is_any, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Scopes;

    use crate::id::UserId;

    fn bearer(user: &str, jti: &str, made_ms: u64) -> Identity {
        Identity {
            user_id: UserId::new(user),
            username: None,
            scopes: Scopes::NONE,
            expires_at_s: 100,
            token: Some(TokenMark { id: TokenId::of_jti(jti), made_ms, signed_in_s: None }),
        }
    }

    const FINE: Standing = Standing { is_disabled: false, tokens_from_ms: 0, kept_token: None };

    #[test]
    fn an_end_of_all_spares_later_tokens_and_the_one_that_is_kept() {
        let revoked = Revoked::default();
        let ended =
            Standing { tokens_from_ms: 50, kept_token: Some(TokenId::of_jti("kept")), ..FINE };
        assert!(revoked.set("ann", ended));
        assert!(!revoked.set("ann", ended), "it is told of more than once");
        let of = |user: &str, jti: &str, made_ms| revoked.of(&bearer(user, jti, made_ms));
        assert_eq!(of("ann", "a", 49), Some(Revocation::Token));
        assert_eq!(
            (of("ann", "a", 50), of("ann", "kept", 1), of("bob", "a", 1)),
            (None, None, None)
        );
        // News that is older than the stored standing, and an unchanged account.
        assert!(!revoked.set("ann", Standing { tokens_from_ms: 40, ..FINE }));
        assert!(!revoked.set("ann", FINE));
        assert_eq!(of("ann", "a", 49), Some(Revocation::Token));
        assert!(revoked.set("ann", Standing { tokens_from_ms: 60, ..FINE }));
        assert_eq!(of("ann", "kept", 1), Some(Revocation::Token), "the next end spares it no more");
    }

    #[test]
    fn a_disabled_account_may_come_back_with_its_tokens() {
        let revoked = Revoked::default();
        assert!(revoked.set("ann", Standing { is_disabled: true, ..FINE }));
        let mut by_password = bearer("ann", "a", 0);
        by_password.token = None;
        assert_eq!(revoked.of(&by_password), Some(Revocation::Disabled));
        assert!(!revoked.set("ann", FINE));
        assert_eq!(revoked.of(&by_password), None);
        assert!(!revoked.is_any.load(Ordering::Relaxed));
    }

    #[test]
    fn a_revoked_token_is_kept_until_its_end() {
        let revoked = Revoked::default();
        assert!(revoked.revoke(TokenId::of_jti("a"), 100, 10));
        assert!(!revoked.revoke(TokenId::of_jti("a"), 100, 10), "it was before");
        assert!(!revoked.revoke(TokenId::of_jti("old"), 10, 10), "it has run out");
        assert_eq!(revoked.of(&bearer("ann", "a", 5)), Some(Revocation::Token));
        assert_eq!(revoked.of(&bearer("ann", "b", 5)), None);
        for number in 0..10_000 {
            // Each token lives for a thousand seconds, and one is revoked every second.
            assert!(revoked.revoke(TokenId::of_jti(&number.to_string()), number + 1_000, number));
        }
        let left = revoked.table.read().tokens.len();
        assert!(left <= 2_000 + limits::REVOKED_TOKENS_PER_USER_MAX, "{left} are left");
    }

    #[test]
    fn an_id_has_one_text() {
        let id = TokenId::of_jti("a");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_ne!(id, TokenId::of_text("a"));
        for wrong in ["", "ab", &"g".repeat(32), &format!("+{}", "0".repeat(31)), &"0".repeat(33)] {
            assert_eq!(wrong.parse::<TokenId>(), Err(NoTokenId), "{wrong}");
        }
    }
}
