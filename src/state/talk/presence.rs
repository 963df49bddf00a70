//! Connections that come and go, and what others hear of it.
//!
//! Part of `state::talk`.

use super::{Aim, Outgoing, Told};
use crate::clock::Moment;
use crate::id::{ConnId, Topic};
use crate::limits;
use crate::state::State;
use crate::state::durable::AccountChange;
use crate::state::event::DomainEvent;
use crate::state::people::{ConnectionView, Departure, Opened, Person};
use crate::wire::close::Reason;
use crate::wire::message;
use crate::wire::refusal::Code;

impl State {
    pub(super) fn opened(&mut self, opened: Opened, now: Moment) -> Told {
        let (conn, person) = (opened.conn, opened.person.clone());
        let is_first = self.people.open(opened, now.unix_ms);
        self.note(|| DomainEvent::ConnectionOpened { connection: conn, user: person.clone() });
        if let Some(person) = person.filter(|_| is_first) {
            self.tell_presence("user_joined", &person, self.people.users_online(), Some(conn), now);
            self.note(|| DomainEvent::UserOnline(person));
        }
        // After it, so that nobody hears of themselves, on whatever connection.
        self.outgoing.push(Outgoing::Enter(conn));
        Told::Done
    }

    pub(super) fn closed(&mut self, conn: ConnId, now: Moment) -> Told {
        let online_before = self.people.users_online();
        let Some(Departure { key, connection, is_last }) = self.people.close(conn) else {
            return Told::Done;
        };
        let person = connection.person;
        for membership in connection.memberships {
            let channel = self.channels.get_mut(membership.channel);
            channel.remove(key, conn.shard);
            if let Some(person) = &person {
                self.exit_channel(membership.channel, membership, person, None, now);
            }
        }
        if let Some(person) = person.clone().filter(|_| is_last) {
            self.tell_presence("user_left", &person, online_before, None, now);
            self.note(|| DomainEvent::UserOffline(person));
        }
        self.note(|| DomainEvent::ConnectionClosed { connection: conn, user: person });
        Told::Done
    }

    /// Tells everyone else who is signed in, unless too many are: the number of announcements
    /// grows with the square of the users'.
    pub(super) fn tell_presence(
        &mut self,
        message_type: &str,
        person: &Person,
        users_online: usize,
        newcomer: Option<ConnId>,
        now: Moment,
    ) {
        if users_online > limits::PRESENCE_USERS_MAX || self.people.signed_in() == 0 {
            return;
        }
        let stamp = self.stamp(now);
        let who = (&person.user_id, &*person.username);
        let frame = message::presence(message_type, who, stamp);
        let aim = newcomer.map(Aim::past).unwrap_or_default();
        self.send(Topic::Users, None, frame, aim);
    }

    pub(super) fn accounts(&mut self, changes: Vec<AccountChange>) -> Told {
        for change in changes {
            if change.is_disabled {
                for conn in self.people.of_user(&change.user_id).collect::<Vec<_>>() {
                    self.outgoing.push(Outgoing::Close(conn, Reason::TokenExpired));
                }
            }
            self.people.note_known(change.user_id);
        }
        Told::Done
    }

    pub(super) fn disconnect(&mut self, conn: ConnId) -> Told {
        if self.people.find(conn).is_none() {
            return Told::refuse(Code::NotFound, "there is no such connection");
        }
        self.outgoing.push(Outgoing::Close(conn, Reason::Removed));
        Told::Done
    }

    pub(super) fn connection(&self, key: u32) -> ConnectionView {
        let mut view = self.people.view(key);
        for membership in &self.people.get(key).memberships {
            let name = &self.channels.get(membership.channel).name;
            if membership.is_subscribed {
                view.channels.push(name.clone());
            }
            if membership.is_joined {
                view.rooms.push(name.room().unwrap_or_default().to_owned());
            }
        }
        view
    }
}
