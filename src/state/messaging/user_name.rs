//! Whom a text means: a user id, or who signs in by a name where it says so (`name:bob`).
//!
//! The one place where a name becomes a user. Everything behind it, the log and the other nodes
//! included, deals with ids.
//!
//! Part of `state::messaging`.

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Standing;
    use crate::clock::Moment;
    use crate::state::command::Ask as _;
    use crate::state::durable::AccountChange;
    use crate::state::lone_node;
    use crate::state::messaging::commands::ApplyAccounts;

    const NOW: Moment = Moment::new(1_000, 1);

    /// Ann signs in by that name, and another user has it as an id.
    fn state() -> State {
        let mut state = lone_node("n", None, NOW);
        let change = |id: &str, name: Option<&str>| AccountChange {
            user_id: UserId::new(id),
            name_key: name.map(|name| names::key(name).into()),
            standing: Standing { is_disabled: false, tokens_from_ms: 0, kept_token: None },
            is_removed: false,
            changed_ms: 1,
        };
        let changes = vec![change("u1", Some("Ann")), change("ann", None), change("u2", None)];
        state.apply(ApplyAccounts(changes).unanswered(), NOW);
        state
    }

    #[test]
    fn an_id_is_an_id_and_a_name_says_that_it_is_one() {
        let state = state();
        for (text, expected) in [
            ("ann", Some("ann")),
            ("name:ann", Some("u1")),
            ("name:ANN", Some("u1")),
            ("name:u2", None),
            ("name:", None),
            ("nobody", Some("nobody")),
        ] {
            let found = state.resolve_name(UserId::new(text)).ok();
            let found = found.map(|user| user.as_str().to_owned());
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_removed_user_is_unknown_and_the_name_is_free() {
        let mut state = state();
        let change = |id: &str, name: Option<&str>, is_removed| AccountChange {
            user_id: UserId::new(id),
            name_key: name.map(|name| names::key(name).into()),
            standing: Standing { is_disabled: false, tokens_from_ms: 0, kept_token: None },
            is_removed,
            changed_ms: 2,
        };
        let find = |state: &State, text: &str| {
            let found = state.resolve_name(UserId::new(text)).ok();
            found.map(|user| user.as_str().to_owned())
        };
        for _ in 0..2 {
            state.apply(ApplyAccounts(vec![change("u1", None, true)]).unanswered(), NOW);
            assert_eq!(find(&state, "name:ann"), None, "a change may be told of often");
            assert!(!state.people.is_known(&UserId::new("u1")));
        }
        state.apply(ApplyAccounts(vec![change("u3", Some("Ann"), false)]).unanswered(), NOW);
        assert_eq!(find(&state, "name:ann").as_deref(), Some("u3"));
    }

    #[test]
    fn a_member_named_twice_is_one() {
        let members = ["u2", "name:ann", "u1"].map(UserId::new).to_vec();
        let invited = ["ann", "name:Ann", "ann"].map(UserId::new).to_vec();
        let (group_id, name, owner) = (String::from("g"), String::from("G"), UserId::new("u2"));
        let mut write = Write::CreateGroup { group_id, name, owner, members, invited, at_ms: 1 };
        state().resolve_names(&mut write).expect("all are there");
        let Write::CreateGroup { members, invited, .. } = write else { panic!("{write:?}") };
        assert_eq!(members, ["u2", "u1"].map(UserId::new));
        assert_eq!(invited, ["ann"].map(UserId::new));
    }
}
