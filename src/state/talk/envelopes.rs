//! Envelopes: from user to user, and from a program to many.
//!
//! Part of `state::talk`.

use bytes::Bytes;

use super::asking::no_connection;
use super::{Aim, Aimed, To, Told};
use crate::clock::Moment;
use crate::id::{ChannelName, ConnId, RequestId, ShardSet, Topic, UserId};
use crate::state::then::Then;
use crate::state::{Outcome, State};
use crate::wire::message;
use crate::wire::refusal::Code;
use crate::wire::talk::Envelope;

impl State {
    pub(super) fn envelope(
        &mut self,
        envelope: &Envelope,
        id: Option<&RequestId>,
        from: &UserId,
        to: Option<UserId>,
        now: Moment,
    ) -> Outcome {
        let stamp = self.stamp(now);
        let id: Box<str> =
            id.map_or_else(|| stamp.id.quoted().into(), |RequestId(text)| text.clone());
        let frame = message::envelope(&id, envelope, to.as_ref(), Some(from), stamp.time);
        if let Some(to) = to {
            return self.send_to_user_anywhere(&to, &frame, id);
        }
        let count = self.send_to_users_but(from, frame.clone());
        let asked = self.ask_users(from, &frame, &id, count);
        asked.unwrap_or_else(|| Told::Delivered { count, id }.into())
    }

    /// Sends a frame to a user's connections on all nodes.
    fn send_to_user_anywhere(&mut self, to: &UserId, frame: &Bytes, id: Box<str>) -> Outcome {
        let count = self.send_to_user(to, &id.trim_matches('"'), frame.clone());
        if let Some(asked) = self.ask_user(to, frame, &id, count) {
            return asked;
        }
        if !self.people.is_known(to) {
            return Told::refuse(Code::NotFound, "there is no such user").into();
        }
        Told::Delivered { count, id }.into()
    }

    pub(super) fn broadcast(
        &mut self,
        envelope: &Envelope,
        from: Option<&UserId>,
        to: To,
        aimed: &Aimed,
        now: Moment,
    ) -> Outcome {
        let aim = aimed.here(&self.node);
        let stamp = self.stamp(now);
        let id: Box<str> = stamp.id.quoted().into();
        let to_user = match &to {
            To::User(user_id) => Some(user_id),
            _ => None,
        };
        let frame = message::envelope(&id, envelope, to_user, from, stamp.time);
        match to {
            To::Everyone => {
                let count = self.send_to_everyone(frame.clone(), aim);
                let asked = self.ask_everyone(aimed, &frame, &id, count);
                asked.unwrap_or_else(|| Told::Delivered { count, id }.into())
            }
            To::Channel(channel) => {
                let count = self.send_to_followers(&channel, frame.clone(), aim);
                let then = Then::Delivered { id: id.clone(), here: count, user: None };
                let asked = self.ask_channel(&channel, aimed, &frame, then);
                asked.unwrap_or_else(|| Told::Delivered { count, id }.into())
            }
            To::User(user_id) => self.send_to_user_anywhere(&user_id, &frame, id),
            To::Connection(name) if !name.is_at(&self.node) => {
                let asked = self.ask_connection(&name, &frame, &id);
                asked.unwrap_or_else(|| no_connection().into())
            }
            To::Connection(name) => {
                if self.send_to_connection(name.conn, frame) {
                    Told::Delivered { count: 1, id }.into()
                } else {
                    no_connection().into()
                }
            }
        }
    }

    /// Sends a frame to everyone signed in here, but for one user. Returns to how many connections.
    pub(super) fn send_to_users_but(&mut self, except: &UserId, frame: Bytes) -> usize {
        let own: Vec<ConnId> = self.people.of_user(except).collect();
        let count = self.people.signed_in() - own.len();
        if count > 0 {
            self.send(Topic::Users, None, frame, Aim::new(None, own));
        }
        count
    }

    /// Sends a frame to the JSON sockets here that are meant. Returns to how many.
    pub(super) fn send_to_everyone(&mut self, frame: Bytes, aim: Aim) -> usize {
        let total = self.people.connections();
        let count = aim.count(total, |conn| self.people.find(conn).is_some());
        if count > 0 {
            self.send(Topic::Everyone, None, frame, aim);
        }
        count
    }

    /// Sends a frame to the followers of a channel here that are meant. Returns to how many.
    pub(super) fn send_to_followers(
        &mut self,
        channel: &ChannelName,
        frame: Bytes,
        aim: Aim,
    ) -> usize {
        let Some(key) = self.channels.find(channel) else { return 0 };
        let shards = self.channels.get(key).shards;
        let count = self.count_followers(key, &aim);
        if count > 0 {
            self.send(Topic::Channel(channel.clone()), Some(shards), frame, aim);
        }
        count
    }

    /// Sends a frame to one connection here. Returns whether it is there.
    pub(super) fn send_to_connection(&mut self, conn: ConnId, frame: Bytes) -> bool {
        if self.people.find(conn).is_none() {
            return false;
        }
        let mut shards = ShardSet::default();
        shards.insert(conn.shard);
        self.send(Topic::Everyone, Some(shards), frame, Aim::at(conn));
        true
    }
}
