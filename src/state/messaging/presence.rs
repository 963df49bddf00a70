//! Connections that come and go, and what others hear of it.
//!
//! Part of `state::messaging`.

use std::collections::HashMap;

use super::aim::Aim;
use super::node_request::no_connection;
use super::replies::Online;
use crate::clock::Moment;
use crate::id::{ConnId, Topic, UserId};
use crate::limits;
use crate::state::State;
use crate::state::durable::AccountChange;
use crate::state::effect::Effect;
use crate::state::people::{ConnectionView, Departure, OnlineUser, Opened, Person};
use crate::wire::close::Reason;
use crate::wire::message;
use crate::wire::refusal::Refusal;

impl State {
    pub(super) fn opened(&mut self, opened: Opened, now: Moment) {
        let (conn, person) = (opened.conn, opened.person.clone());
        let is_first = self.people.open(opened, now.wall_ms);
        let mut is_online = false;
        if let (Some(cluster_state), Some(person)) = (&mut self.cluster_state, &person) {
            // Whether it is the first anywhere, the log will tell.
            cluster_state.cluster_presence.note_user(&person.user_id);
        } else if let Some(person) = person.as_ref().filter(|_| is_first) {
            let online = self.people.users_online();
            self.tell_presence("user_joined", person, online, vec![conn], now);
            is_online = true;
        }
        // After it, so that nobody hears of themselves, on whatever connection.
        self.push(Effect::Opened { conn, person, is_online });
    }

    pub(super) fn closed(&mut self, conn: ConnId, now: Moment) {
        let online_before = self.people.users_online();
        let Some(Departure { key, connection, is_last }) = self.people.close(conn) else {
            return;
        };
        let person = connection.person;
        for membership in connection.memberships {
            self.channels.remove_member(membership.channel, key, conn.shard);
            self.note_followers(membership.channel, now);
            if let Some(person) = &person {
                self.exit_channel(membership.channel, membership, person, None, now);
            }
        }
        let mut is_offline = false;
        if let (Some(cluster_state), Some(person)) = (&mut self.cluster_state, &person) {
            cluster_state.cluster_presence.note_user(&person.user_id);
        } else if let Some(person) = person.as_ref().filter(|_| is_last) {
            self.tell_presence("user_left", person, online_before, Vec::new(), now);
            is_offline = true;
        }
        self.push(Effect::Closed { conn, person, is_offline });
    }

    /// Tells everyone else who is signed in, unless too many are: the number of announcements
    /// grows with the square of the users'.
    pub(in crate::state) fn tell_presence(
        &mut self,
        message_type: &str,
        person: &Person,
        users_online: usize,
        newcomers: Vec<ConnId>,
        now: Moment,
    ) {
        if users_online > limits::PRESENCE_USERS_MAX || self.people.signed_in() == 0 {
            return;
        }
        let stamp = self.stamp(now);
        let who = (&person.user_id, &*person.username);
        let frame = message::presence(message_type, who, stamp);
        self.send(Topic::Users, None, frame, Aim::new(None, newcomers));
    }

    /// Who is online on any node, in the order of their ids, and how many there are in all.
    pub(super) fn list_online(&self) -> Online {
        let mut users: HashMap<UserId, OnlineUser> =
            self.people.list_online().map(|user| (user.person.user_id.clone(), user)).collect();
        if let Some(cluster_state) = &self.cluster_state {
            cluster_state.cluster_presence.add_online(&mut users);
        }
        let mut users: Vec<OnlineUser> = users.into_values().collect();
        let count = users.len();
        users.sort_by(|a, b| a.person.user_id.cmp(&b.person.user_id));
        users.truncate(limits::LISTED_MAX);
        Online { count, users }
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

    pub(super) fn disconnect(&mut self, conn: ConnId) -> Result<(), Refusal> {
        if self.people.find(conn).is_none() {
            return Err(no_connection());
        }
        self.push(Effect::Close(conn, Reason::Removed));
        Ok(())
    }

    pub(super) fn connection(&self, key: u32) -> ConnectionView {
        let mut view = self.people.view(&self.node, key);
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
