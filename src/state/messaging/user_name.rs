//! Whom a text means: a user id, or who signs in by a name where it says so (`name:bob`).
//!
//! The one place where a name becomes a user. Everything behind it, the log and the other nodes
//! included, deals with ids.

use std::collections::HashSet;

use crate::auth::names;
use crate::id::UserId;
use crate::state::State;
use crate::state::durable::Write;
use crate::wire::refusal::Refusal;

impl State {
    /// Puts a user id in place of each name in a write.
    ///
    /// # Errors
    ///
    /// `not_found` where nobody signs in by it.
    pub(super) fn resolve_names(&self, write: &mut Write) -> Result<(), Refusal> {
        let resolve = |user: &mut UserId| -> Result<(), Refusal> {
            *user = self.resolve_name(user.clone())?;
            Ok(())
        };
        match write {
            Write::AddMember { user_id, .. }
            | Write::Invite { user_id, .. }
            | Write::RemoveMember { user_id, .. } => resolve(user_id),
            Write::CreateGroup { members, invited, .. } => {
                members.iter_mut().chain(&mut *invited).try_for_each(resolve)?;
                // One who is named in two ways is one.
                let mut seen = HashSet::new();
                members.retain(|user| seen.insert(user.clone()));
                invited.retain(|user| seen.insert(user.clone()));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The user that a text means.
    ///
    /// # Errors
    ///
    /// As [`State::resolve_names`].
    pub(super) fn resolve_name(&self, user: UserId) -> Result<UserId, Refusal> {
        match names::named(user.as_str()) {
            Some(name) => self.people.named(name).cloned().ok_or_else(super::no_user),
            None => Ok(user),
        }
    }
}
