//! Changes and messages that the database has before anyone hears of them.
//!
//! Part of `state::messaging`.

use std::sync::Arc;

use super::commands::{SendPrivate, SendToGroup};
use super::no_user;
use super::replies::Stored;
use crate::auth::names;
use crate::clock::Moment;
use crate::state::State;
use crate::state::durable::{Message, Write, WriteResult, Written};
use crate::state::effect::Effect;
use crate::state::event::DomainEvent;
use crate::state::journal::{Addressee, DirectMessage};
use crate::state::reply::ReplyTo;
use crate::wire::message;
use crate::wire::refusal::{Code, Refusal};

impl State {
    /// Changes accounts or groups.
    pub(super) fn store_change(&mut self, mut write: Write, reply: ReplyTo<Written>) {
        if let Err(refusal) = self.resolve_names(&mut write).and_then(|()| self.check(&write)) {
            return self.reply(reply, Err(refusal));
        }
        let account = match &write {
            Write::Account { user_id, username, .. } => {
                Some((user_id.clone(), names::key(username).into()))
            }
            _ => None,
        };
        self.store(write, move |state, result, _| {
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

    /// Sends a message to a user, once it is stored.
    pub(super) fn send_private(&mut self, send: SendPrivate, reply: ReplyTo<Stored>, now: Moment) {
        let SendPrivate { from, to, content } = send;
        let to = match self.resolve_name(to) {
            Ok(to) => to,
            Err(refusal) => return self.reply(reply, Err(refusal)),
        };
        if self.cluster_state.is_some() && !self.has_journal() {
            return self.reply(reply, Err(Refusal::unavailable()));
        }
        if !self.people.is_known(&to) {
            return self.reply(reply, Err(no_user()));
        }
        if self.cluster_state.is_some() {
            return self.post(DirectMessage { from, to: Addressee::User(to), content }, reply);
        }
        let id = self.ids.next(now.wall_ms);
        let message = Arc::new(Message { id, from, to, content, at_s: now.unix_s() });
        self.store(Write::Private(Arc::clone(&message)), move |state, result, _| {
            let stored = result.map(|_| {
                let Message { id, from, to, content, at_s } = &*message;
                if to != from {
                    let frame = message::private(*id, from, to, content, *at_s);
                    state.send_to_user(to, id, frame);
                }
                state.stored(&message)
            });
            state.reply(reply, stored);
        });
    }

    /// Sends a message to a group, once it is stored. Among several nodes the database only checks it,
    /// and the journal stores it.
    pub(super) fn send_to_group(&mut self, send: SendToGroup, reply: ReplyTo<Stored>, now: Moment) {
        let SendToGroup { from, group_id, content } = send;
        let id = self.ids.next(now.wall_ms);
        let message = Arc::new(Message { id, from, to: group_id, content, at_s: now.unix_s() });
        self.store(Write::ToGroup(Arc::clone(&message)), move |state, result, _| {
            let members = match members(result) {
                Ok(members) => members,
                Err(refusal) => return state.reply(reply, Err(refusal)),
            };
            let Message { id, from, to, content, at_s } = &*message;
            if state.cluster_state.is_some() {
                let (from, content) = (from.clone(), content.clone());
                let to = Addressee::Group { group_id: to.clone(), members };
                return state.post(DirectMessage { from, to, content }, reply);
            }
            let frame = message::group(*id, from, to, content, *at_s);
            for receiver in members.iter().filter(|receiver| *receiver != from) {
                state.send_to_user(receiver, id, frame.clone());
            }
            let stored = state.stored(&message);
            state.reply(reply, Ok(stored));
        });
    }

    fn stored<To>(&mut self, message: &Message<To>) -> Stored {
        let (id, from, at_s) = (message.id, message.from.clone(), message.at_s);
        self.push(Effect::Event(DomainEvent::MessageStored { id, from }));
        Stored { id, at_s }
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

/// The members that a message to a group is for.
fn members(result: WriteResult) -> Result<Vec<crate::id::UserId>, Refusal> {
    match result? {
        Written::For(members) => Ok(members),
        // Nobody: a group without members is none.
        Written::Done | Written::Unchanged | Written::Invited => Ok(Vec::new()),
    }
}
