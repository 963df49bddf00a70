//! Whose tokens count no more, whatever they say: accounts that were disabled.
//!
//! Imports its sibling. Imported by `ws::gate` and `control`.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;

use super::Vouched;

/// The users whose accounts are disabled. Bounded by the users there are.
#[derive(Debug, Default)]
pub struct Revoked {
    users: RwLock<HashSet<Box<str>>>,
    /// Spares everyone the lock while there is nobody, which is nearly always.
    is_anyone: AtomicBool,
    /// Accounts whose passwords were found right lately.
    pub vouched: Vouched,
}

impl Revoked {
    /// Whether a user's tokens count no more.
    pub fn contains(&self, user_id: &str) -> bool {
        self.is_anyone.load(Ordering::Acquire) && self.users.read().contains(user_id)
    }

    /// Says whether a user's tokens count.
    pub fn set(&self, user_id: &str, is_disabled: bool) {
        let mut users = self.users.write();
        if is_disabled {
            users.insert(user_id.into());
        } else {
            users.remove(user_id);
        }
        self.is_anyone.store(!users.is_empty(), Ordering::Release);
    }
}
