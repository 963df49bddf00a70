//! Names and passwords that were found right a moment ago.
//!
//! Comparing a password takes tens of milliseconds on purpose. A client that shows its name and
//! password with each heartbeat would cost that each time; so what was right is remembered for some
//! minutes, as a keyed digest, never as a text.
//!
//! # Promises
//!
//! * What is remembered of an account falls when something about the account changes.
//! * Nothing is remembered longer than [`limits::VOUCHED_MS`], nor of more than
//!   [`limits::VOUCHED_MAX`] names.
//!
//! Imports `id`, `limits` and its siblings. Imported by `auth::revoked` and `http`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{Identity, Scopes};
use crate::id::UserId;
use crate::limits;

/// What stands for a name and a password.
pub type Proof = [u8; 32];

/// An account whose password was right.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Voucher {
    user_id: UserId,
    username: String,
    scopes: Scopes,
    /// When the account had been changed last.
    changed_ms: u64,
    until_ms: u64,
}

/// The accounts whose passwords were right.
#[derive(Debug)]
pub struct Vouched {
    /// Known to this process alone: a digest is of no use elsewhere.
    key: [u8; 32],
    entries: Mutex<HashMap<Proof, Voucher>>,
    /// How many accounts were changed here. Rises while `entries` is locked.
    forgotten: AtomicU64,
}

impl Default for Vouched {
    fn default() -> Vouched {
        let mut key = [0; 32];
        key[..16].copy_from_slice(Uuid::new_v4().as_bytes());
        key[16..].copy_from_slice(Uuid::new_v4().as_bytes());
        Vouched { key, entries: Mutex::default(), forgotten: AtomicU64::new(0) }
    }
}

impl Vouched {
    /// What stands for a name, in whatever case, and a password.
    pub fn proof(&self, username: &str, password: &str) -> Proof {
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

    /// Who that is, where it was found right lately.
    pub fn find(&self, proof: &Proof, now_ms: u64) -> Option<Identity> {
        let entries = self.entries.lock();
        let voucher = entries.get(proof).filter(|voucher| now_ms < voucher.until_ms)?;
        Some(Identity {
            user_id: voucher.user_id.clone(),
            username: Some(voucher.username.clone()),
            email: None,
            scopes: voucher.scopes,
            expires_at_s: voucher.until_ms.div_ceil(1_000),
            token: None,
        })
    }

    /// What [`Vouched::keep`] is told, taken before the account is read.
    pub fn forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::Acquire)
    }

    /// Remembers that it was right, of an account that was last changed at `changed_ms`. Nothing is
    /// remembered where an account was changed here after `forgotten` was taken: it may be this one,
    /// and its old password the one that was right.
    pub fn keep(
        &self,
        proof: Proof,
        identity: &Identity,
        (changed_ms, forgotten): (u64, u64),
        now_ms: u64,
    ) {
        let mut entries = self.entries.lock();
        if self.forgotten() != forgotten {
            return;
        }
        if entries.len() >= limits::VOUCHED_MAX {
            entries.retain(|_, voucher| now_ms < voucher.until_ms);
        }
        if entries.len() >= limits::VOUCHED_MAX
            && let Some(oldest) = entries.iter().min_by_key(|(_, voucher)| voucher.until_ms)
        {
            let oldest = *oldest.0;
            entries.remove(&oldest);
        }
        let voucher = Voucher {
            user_id: identity.user_id.clone(),
            username: identity.display_name().to_owned(),
            scopes: identity.scopes,
            changed_ms,
            until_ms: now_ms + limits::VOUCHED_MS,
        };
        entries.insert(proof, voucher);
    }

    /// Forgets an account that has just been changed here.
    pub fn forget(&self, user_id: &str) {
        let mut entries = self.entries.lock();
        self.forgotten.fetch_add(1, Ordering::AcqRel);
        entries.retain(|_, voucher| voucher.user_id.as_str() != user_id);
    }

    /// Forgets what was known of an account before it was changed. A change is told of more than
    /// once, and only the first time is news.
    pub fn forget_older(&self, user_id: &str, changed_ms: u64) {
        self.entries.lock().retain(|_, voucher| {
            voucher.user_id.as_str() != user_id || voucher.changed_ms == changed_ms
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ann() -> Identity {
        Identity {
            user_id: UserId::new("u1"),
            username: Some(String::from("Ann")),
            email: None,
            scopes: Scopes::REGISTRY_WRITE,
            expires_at_s: 0,
            token: None,
        }
    }

    #[test]
    fn what_was_right_is_right_for_a_while() {
        let vouched = Vouched::default();
        let proof = vouched.proof("Ann", "secret");
        assert_eq!(proof, vouched.proof("aNN", "secret"), "names have no case");
        assert_ne!(proof, vouched.proof("anns", "ecret"));
        assert_ne!(proof, Vouched::default().proof("Ann", "secret"), "each process has its own");
        assert_eq!(vouched.find(&proof, 5), None);
        vouched.keep(proof, &ann(), (3, 0), 5);
        let found = vouched.find(&proof, 6).expect("just kept");
        assert_eq!((found.user_id.as_str(), found.scopes), ("u1", Scopes::REGISTRY_WRITE));
        assert_eq!(vouched.find(&proof, 5 + limits::VOUCHED_MS), None);
        vouched.forget_older("u2", 4);
        vouched.forget_older("u1", 3);
        assert!(vouched.find(&proof, 6).is_some());
        vouched.forget_older("u1", 4);
        assert_eq!(vouched.find(&proof, 6), None);
    }

    #[test]
    fn a_password_that_is_changed_while_it_is_compared_is_not_remembered() {
        let vouched = Vouched::default();
        let proof = vouched.proof("Ann", "old");
        let before = vouched.forgotten();
        vouched.forget("u1");
        vouched.keep(proof, &ann(), (3, before), 5);
        assert_eq!(vouched.find(&proof, 6), None);
        vouched.keep(proof, &ann(), (3, vouched.forgotten()), 5);
        assert!(vouched.find(&proof, 6).is_some());
        vouched.forget("u1");
        assert_eq!(vouched.find(&proof, 6), None);
    }

    #[test]
    fn there_is_a_bound() {
        let vouched = Vouched::default();
        for number in 0..limits::VOUCHED_MAX + 10 {
            let proof = vouched.proof(&number.to_string(), "x");
            vouched.keep(proof, &ann(), (0, 0), number as u64);
        }
        assert_eq!(vouched.entries.lock().len(), limits::VOUCHED_MAX);
        let newest = (limits::VOUCHED_MAX + 9).to_string();
        assert!(vouched.find(&vouched.proof(&newest, "x"), 0).is_some());
        assert!(vouched.find(&vouched.proof("0", "x"), 0).is_none(), "the oldest go");
    }
}
