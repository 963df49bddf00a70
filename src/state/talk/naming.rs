//! Whom a text means: a user id, or who signs in by a name where it says so (`name:bob`).
//!
//! The one place where a name becomes a user. Everything behind it, the log and the other nodes
//! included, deals with ids.
//!
//! Part of `state::talk`.

use std::collections::HashSet;

use super::{Talk, To};
use crate::auth::names;
use crate::id::UserId;
use crate::state::State;
use crate::state::durable::Write;
use crate::wire::refusal::{Code, Refusal};

impl State {
    /// Puts a user id in place of each name that an order holds.
    ///
    /// # Errors
    ///
    /// `not_found` where nobody signs in by it.
    pub(super) fn resolve_names(&self, talk: &mut Talk) -> Result<(), Refusal> {
        match talk {
            Talk::Envelope { to: Some(user), .. }
            | Talk::Broadcast { to: To::User(user), .. }
            | Talk::SendPrivate { to: user, .. }
            | Talk::Write(
                Write::AddMember { user_id: user, .. }
                | Write::Invite { user_id: user, .. }
                | Write::RemoveMember { user_id: user, .. },
            ) => self.resolve_name(user),
            Talk::Write(Write::CreateGroup { members, invited, .. }) => {
                let mut all = members.iter_mut().chain(&mut *invited);
                all.try_for_each(|user| self.resolve_name(user))?;
                // One who is named in two ways is one.
                let mut seen = HashSet::new();
                members.retain(|user| seen.insert(user.clone()));
                invited.retain(|user| seen.insert(user.clone()));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn resolve_name(&self, user: &mut UserId) -> Result<(), Refusal> {
        if let Some(name) = names::named(user.as_str()) {
            let found = self.people.named(name).cloned();
            *user = found.ok_or_else(|| Refusal::new(Code::NotFound, "there is no such user"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Standing;
    use crate::clock::Moment;
    use crate::state::durable::AccountChange;
    use crate::state::lone_node;

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
        let _ = state.apply(Talk::Accounts(changes).into(), NOW);
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
            let mut user = UserId::new(text);
            let found = state.resolve_name(&mut user).ok().map(|()| user.as_str().to_owned());
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
            let mut user = UserId::new(text);
            state.resolve_name(&mut user).ok().map(|()| user.as_str().to_owned())
        };
        for _ in 0..2 {
            let _ = state.apply(Talk::Accounts(vec![change("u1", None, true)]).into(), NOW);
            assert_eq!(find(&state, "name:ann"), None, "a change may be told of often");
            assert!(!state.people.is_known(&UserId::new("u1")));
        }
        let _ = state.apply(Talk::Accounts(vec![change("u3", Some("Ann"), false)]).into(), NOW);
        assert_eq!(find(&state, "name:ann").as_deref(), Some("u3"));
    }

    #[test]
    fn a_member_named_twice_is_one() {
        let members = ["u2", "name:ann", "u1"].map(UserId::new).to_vec();
        let invited = ["ann", "name:Ann", "ann"].map(UserId::new).to_vec();
        let (group_id, name, owner) = (String::from("g"), String::from("G"), UserId::new("u2"));
        let write = Write::CreateGroup { group_id, name, owner, members, invited, at_ms: 1 };
        let mut talk = Talk::Write(write);
        state().resolve_names(&mut talk).expect("all are there");
        let Talk::Write(Write::CreateGroup { members, invited, .. }) = talk else {
            panic!("{talk:?}")
        };
        assert_eq!(members, ["u2", "u1"].map(UserId::new));
        assert_eq!(invited, ["ann"].map(UserId::new));
    }
}
