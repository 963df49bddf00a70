//! Accounts and groups: their changes, which the database has before anyone hears of them, and the users
//! seen for the first time.

use std::sync::Arc;

use serde_json::json;

use super::no_user;
use crate::auth::names;
use crate::clock::Moment;
use crate::id::UserId;
use crate::state::State;
use crate::state::audit::{Actor, Note, kind};
use crate::state::durable::{AccountChange, Write, Written};
use crate::state::reply::ReplyTo;
use crate::wire::refusal::{Code, Refusal};

/// What the audit log has of a change, and whose account it is about. Groups are their members' own matter.
fn noted(write: &Write) -> Option<(&'static str, UserId)> {
    match write {
        Write::Account { user_id, .. } => Some((kind::ACCOUNT_CREATED, user_id.clone())),
        Write::SetPassword { user_id, .. } => Some((kind::PASSWORD_CHANGED, user_id.clone())),
        Write::EndTokens { person, .. } | Write::EndToken { person, .. } => {
            Some((kind::SIGNED_OUT, person.user_id.clone()))
        }
        Write::RemoveAccount { person, .. } => {
            Some((kind::ACCOUNT_REMOVED, person.user_id.clone()))
        }
        _ => None,
    }
}

impl State {
    /// Changes accounts or groups.
    pub(super) fn store_change(
        &mut self,
        actor: Option<Arc<Actor>>,
        mut write: Write,
        reply: ReplyTo<Written>,
    ) {
        if let Err(refusal) = self.resolve_names(&mut write).and_then(|()| self.check(&write)) {
            return self.reply(reply, Err(refusal));
        }
        let account = match &write {
            Write::Account { user_id, username, .. } => {
                Some((user_id.clone(), names::key(username).into()))
            }
            _ => None,
        };
        let noted = noted(&write);
        self.store(write, move |state, result, now| {
            if let (Some((kind, user_id)), Ok(Written::Done)) = (noted, &result) {
                let detail = json!({"user_id": user_id.as_str()});
                state.audit(actor.as_ref(), Note::new(kind, now).with(&detail));
            }
            if let (Some((user_id, name_key)), Ok(_)) = (account, &result) {
                state.people.note_stored(user_id.clone());
                state.people.note_name(name_key, &user_id);
            }
            state.reply(reply, result);
        });
    }

    fn check(&self, write: &Write) -> Result<(), Refusal> {
        match write {
            Write::Account { .. } if !self.people.has_room() => {
                Err(Refusal::new(Code::Unavailable, "there is no room for more users"))
            }
            Write::AddMember { user_id, .. } | Write::Invite { user_id, .. }
                if !self.people.is_known(user_id) =>
            {
                Err(no_user())
            }
            Write::CreateGroup { members, invited, .. }
                if members.iter().chain(invited).any(|one| !self.people.is_known(one)) =>
            {
                Err(Refusal::new(Code::NotFound, "a member is no known user"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn apply_accounts(&mut self, changes: Vec<AccountChange>) {
        // Control closes the sockets of those whose tokens count no more.
        for AccountChange { user_id, name_key, is_removed, .. } in changes {
            if is_removed {
                self.people.forget(&user_id);
                continue;
            }
            self.people.note_stored(user_id.clone());
            if let Some(key) = name_key {
                self.people.note_name(key, &user_id);
            }
        }
    }

    /// Has the users stored that were seen for the first time. Nobody waits for it.
    pub fn store_newly_known(&mut self, now: Moment) {
        let people = std::mem::take(&mut self.people.newly_known);
        if people.is_empty() {
            return;
        }
        let write = Write::Seen { people: people.clone(), at_ms: now.wall_ms };
        self.store(write, move |state, result, _| {
            if result.is_err() {
                // They go with the next ones.
                state.people.newly_known.extend(people);
            }
        });
    }

    /// The same where nothing is stored.
    pub fn forget_newly_known(&mut self) {
        self.people.newly_known.clear();
    }
}
