//! A cache of logins that succeeded a moment ago.
//!
//! Comparing a password takes tens of milliseconds on purpose. A client that sends its name and password with
//! each heartbeat would cost that each time. So a correct pair is cached for some minutes: as a keyed
//! digest, never as text.
//!
//! # Promises
//!
//! * A change of an account drops its entries.
//! * An entry lives at most [`limits::CREDENTIAL_CACHE_MS`], nor of more than
//!   [`limits::CREDENTIAL_CACHE_MAX`] names.
//!
//! Imports `id`, `limits` and its siblings. Imported by `auth::revoked` and `http`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{Identity, Scopes};
use crate::id::UserId;
use crate::limits;

/// A keyed digest of a name and a password.
pub type CredentialDigest = [u8; 32];

/// A login that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
struct CachedLogin {
    user_id: UserId,
    username: Arc<str>,
    scopes: Scopes,
    /// When the account had been changed last.
    changed_ms: u64,
    until_ms: u64,
}

/// The cache.
#[derive(Debug)]
pub struct CredentialCache {
    /// The key of the digests. Only this process has it, so a digest is useless elsewhere.
    key: [u8; 32],
    entries: Mutex<HashMap<CredentialDigest, CachedLogin>>,
    /// Number of accounts that were changed on this node. Rises while `entries` is locked.
    forgotten: AtomicU64,
}

impl Default for CredentialCache {
    fn default() -> CredentialCache {
        let mut key = [0; 32];
        key[..16].copy_from_slice(Uuid::new_v4().as_bytes());
        key[16..].copy_from_slice(Uuid::new_v4().as_bytes());
        CredentialCache { key, entries: Mutex::default(), forgotten: AtomicU64::new(0) }
    }
}

impl CredentialCache {
    /// The digest of a name, in any case of letters, and a password.
    pub fn digest(&self, username: &str, password: &str) -> CredentialDigest {
        let login = username.to_lowercase();
        let mut digest = Sha256::new();
        digest.update(self.key);
        // Lengths first: no two pairs run together to the same text.
        digest.update(login.len().to_le_bytes());
        digest.update(login.as_bytes());
        digest.update(password.as_bytes());
        digest.update(self.key);
        digest.finalize().into()
    }

    /// The identity of a cached login.
    pub fn find(&self, digest: &CredentialDigest, now_ms: u64) -> Option<Identity> {
        let entries = self.entries.lock();
        let cached = entries.get(digest).filter(|cached| now_ms < cached.until_ms)?;
        Some(Identity {
            user_id: cached.user_id.clone(),
            username: Some(Arc::clone(&cached.username)),
            scopes: cached.scopes,
            expires_at_s: cached.until_ms.div_ceil(1_000),
            token: None,
        })
    }

    /// The count that [`CredentialCache::keep`] takes, read before the account is read.
    pub fn forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::Acquire)
    }

    /// Caches a login of an account that was last changed at `changed_ms`. Nothing is cached if an account
    /// was changed here after `forgotten` was taken: it may be this account, and the password its old one.
    pub fn keep(
        &self,
        digest: CredentialDigest,
        identity: &Identity,
        (changed_ms, forgotten): (u64, u64),
        now_ms: u64,
    ) {
        let mut entries = self.entries.lock();
        if self.forgotten() != forgotten {
            return;
        }
        if entries.len() >= limits::CREDENTIAL_CACHE_MAX {
            entries.retain(|_, cached| now_ms < cached.until_ms);
        }
        if entries.len() >= limits::CREDENTIAL_CACHE_MAX
            && let Some(oldest) = entries.iter().min_by_key(|(_, cached)| cached.until_ms)
        {
            let oldest = *oldest.0;
            entries.remove(&oldest);
        }
        let cached = CachedLogin {
            user_id: identity.user_id.clone(),
            username: identity.shown_name(),
            scopes: identity.scopes,
            changed_ms,
            until_ms: now_ms + limits::CREDENTIAL_CACHE_MS,
        };
        entries.insert(digest, cached);
    }

    /// Drops the entries of an account that has just been changed here.
    pub fn forget(&self, user_id: &str) {
        let mut entries = self.entries.lock();
        self.forgotten.fetch_add(1, Ordering::AcqRel);
        entries.retain(|_, cached| cached.user_id.as_str() != user_id);
    }

    /// Drops the entries of an account from before its change. The poller reports a change more than once, and
    /// only the first report is new.
    pub fn forget_older(&self, user_id: &str, changed_ms: u64) {
        self.entries.lock().retain(|_, cached| {
            cached.user_id.as_str() != user_id || cached.changed_ms == changed_ms
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ann() -> Identity {
        Identity {
            user_id: UserId::new("u1"),
            username: Some("Ann".into()),
            scopes: Scopes::REGISTRY_WRITE,
            expires_at_s: 0,
            token: None,
        }
    }

    #[test]
    fn what_was_right_is_right_for_a_while() {
        let credential_cache = CredentialCache::default();
        let digest = credential_cache.digest("Ann", "secret");
        assert_eq!(digest, credential_cache.digest("aNN", "secret"), "names have no case");
        assert_ne!(digest, credential_cache.digest("anns", "ecret"));
        assert_ne!(
            digest,
            CredentialCache::default().digest("Ann", "secret"),
            "each process has its own"
        );
        assert_eq!(credential_cache.find(&digest, 5), None);
        credential_cache.keep(digest, &ann(), (3, 0), 5);
        let found = credential_cache.find(&digest, 6).expect("just kept");
        assert_eq!((found.user_id.as_str(), found.scopes), ("u1", Scopes::REGISTRY_WRITE));
        assert_eq!(credential_cache.find(&digest, 5 + limits::CREDENTIAL_CACHE_MS), None);
        credential_cache.forget_older("u2", 4);
        credential_cache.forget_older("u1", 3);
        assert!(credential_cache.find(&digest, 6).is_some());
        credential_cache.forget_older("u1", 4);
        assert_eq!(credential_cache.find(&digest, 6), None);
    }

    #[test]
    fn a_password_that_is_changed_while_it_is_compared_is_not_remembered() {
        let credential_cache = CredentialCache::default();
        let digest = credential_cache.digest("Ann", "old");
        let before = credential_cache.forgotten();
        credential_cache.forget("u1");
        credential_cache.keep(digest, &ann(), (3, before), 5);
        assert_eq!(credential_cache.find(&digest, 6), None);
        credential_cache.keep(digest, &ann(), (3, credential_cache.forgotten()), 5);
        assert!(credential_cache.find(&digest, 6).is_some());
        credential_cache.forget("u1");
        assert_eq!(credential_cache.find(&digest, 6), None);
    }

    #[test]
    fn there_is_a_bound() {
        let credential_cache = CredentialCache::default();
        for number in 0..limits::CREDENTIAL_CACHE_MAX + 10 {
            let digest = credential_cache.digest(&number.to_string(), "x");
            credential_cache.keep(digest, &ann(), (0, 0), number as u64);
        }
        assert_eq!(credential_cache.entries.lock().len(), limits::CREDENTIAL_CACHE_MAX);
        let newest = (limits::CREDENTIAL_CACHE_MAX + 9).to_string();
        assert!(credential_cache.find(&credential_cache.digest(&newest, "x"), 0).is_some());
        assert!(
            credential_cache.find(&credential_cache.digest("0", "x"), 0).is_none(),
            "the oldest go"
        );
    }
}
