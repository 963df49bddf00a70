//! What is stored first, and told after.
//!
//! Part of `state::talk`.

use super::Told;
use crate::auth::names;
use crate::state::durable::{Message, Write, WriteResult, Written};
use crate::state::event::DomainEvent;
use crate::state::posted::{Addressee, Post};
use crate::state::{Outcome, State};
use crate::wire::message;
use crate::wire::refusal::Code;

impl State {
    pub(super) fn check_write(&mut self, write: Write) -> Outcome {
        let refused = match &write {
            Write::Account { .. } if !self.people.has_room() => {
                Some(Told::refuse(Code::Unavailable, "there is no room for more users"))
            }
            Write::AddMember { user_id, .. } | Write::Invite { user_id, .. }
                if !self.people.is_known(user_id) =>
            {
                Some(Told::refuse(Code::NotFound, "there is no such user"))
            }
            Write::CreateGroup { members, invited, .. }
                if members.iter().chain(invited).any(|one| !self.people.is_known(one)) =>
            {
                Some(Told::refuse(Code::NotFound, "a member is no known user"))
            }
            _ => None,
        };
        match refused {
            Some(told) => told.into(),
            None => Outcome::Write(Box::new(write)),
        }
    }

    /// A write has been carried out, or has not: tells those it concerns, and gives the answer.
    pub fn after_write(&mut self, write: Write, result: WriteResult) -> Outcome {
        if let Write::Posted(batch) = &write {
            self.after_posted(batch, &result);
        }
        if let (Some(_), Write::ToGroup(message), Ok(Written::For(members))) =
            (&self.abroad, &write, &result)
        {
            let group_id = message.to.clone();
            return self.post(Post {
                from: message.from.clone(),
                to: Addressee::Group { group_id, members: members.clone() },
                content: message.content.clone(),
            });
        }
        self.told_of_write(write, result).into()
    }

    fn told_of_write(&mut self, write: Write, result: WriteResult) -> Told {
        if let Write::DefineChannel { channel, .. } = &write {
            self.channels.reserved.retain(|reserved| reserved != channel);
        }
        let written = match result {
            Ok(written) => written,
            Err(refusal) => {
                if let Write::Seen { people, .. } = write {
                    // Nobody waits for it. It goes with the next one.
                    self.people.newly_known.extend(people);
                }
                return Told::Refused(refusal);
            }
        };
        match write {
            Write::Private(message) => {
                if message.to != message.from {
                    let Message { id, from, to, content, at_s } = &message;
                    let frame = message::private(*id, from, to, content, *at_s);
                    self.send_to_user(to, id, frame);
                }
                let Message { id, from, at_s, .. } = message;
                self.note(|| DomainEvent::MessageStored { id, from });
                return Told::Stored { id, at_s };
            }
            Write::ToGroup(message) => {
                let Message { id, from, to, content, at_s } = &message;
                let frame = message::group(*id, from, to, content, *at_s);
                let Written::For(receivers) = &written else { return Told::Done };
                for receiver in receivers.iter().filter(|receiver| *receiver != from) {
                    self.send_to_user(receiver, id, frame.clone());
                }
                let Message { id, from, at_s, .. } = message;
                self.note(|| DomainEvent::MessageStored { id, from });
                return Told::Stored { id, at_s };
            }
            Write::Account { user_id, username, .. } => {
                self.people.note_known(user_id.clone());
                self.people.note_name(names::key(&username).into(), &user_id);
            }
            Write::DefineChannel { channel, description, .. } => {
                self.channels.define(channel.clone(), &description);
                return Told::Channel(self.channels.view(&channel));
            }
            Write::DropChannel { channel } => {
                self.channels.undefine(&channel);
                self.dissolve(&channel);
            }
            _ => {}
        }
        match written {
            Written::Unchanged => Told::Unchanged,
            Written::Invited => Told::Invited,
            Written::Done | Written::For(_) => Told::Done,
        }
    }
}
