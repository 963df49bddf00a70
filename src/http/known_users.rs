//! Users whose tokens this node has seen. Control learns of each user one time.
//! one time.
//!
//! Imports `id` and `limits`. Imported by `http::router`.

use std::collections::HashSet;

use parking_lot::Mutex;

use crate::id::UserId;
use crate::limits;

/// The set. It empties itself when it is full; control then gets the users again.
#[derive(Debug, Default)]
pub struct KnownUsers(Mutex<HashSet<UserId>>);

impl KnownUsers {
    /// Adds a user. Returns whether control needs to learn of it.
    pub fn is_new(&self, user_id: &UserId) -> bool {
        let mut users = self.0.lock();
        if users.contains(user_id) {
            return false;
        }
        if users.len() >= limits::LOGIN_ENTRIES_MAX {
            users.clear();
        }
        users.insert(user_id.clone())
    }

    /// Removes a user of whom control could not learn.
    pub fn forget(&self, user_id: &UserId) {
        self.0.lock().remove(user_id);
    }
}
