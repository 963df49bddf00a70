//! Users whose tokens this node has seen lately. Control is told of each user once.
//!
//! Imports `id` and `limits`. Imported by `http::router`.

use std::collections::HashSet;

use parking_lot::Mutex;

use crate::id::UserId;
use crate::limits;

/// The set. It forgets everyone when it is full; control then hears of them again.
#[derive(Debug, Default)]
pub struct KnownUsers(Mutex<HashSet<UserId>>);

impl KnownUsers {
    /// Adds a user. Returns whether control is to be told.
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

    /// Takes a user out whom control could not be told of.
    pub fn forget(&self, user_id: &UserId) {
        self.0.lock().remove(user_id);
    }
}
