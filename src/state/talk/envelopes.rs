//! Envelopes: from user to user, and from a program to many.
//!
//! Part of `state::talk`.

use super::{Aim, To, Told};
use crate::clock::Moment;
use crate::id::{ConnId, RequestId, ShardSet, Topic, UserId};
use crate::state::State;
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
    ) -> Told {
        let stamp = self.stamp(now);
        let id: Box<str> =
            id.map_or_else(|| stamp.id.quoted().into(), |RequestId(text)| text.clone());
        let frame = message::envelope(&id, envelope, to.as_ref(), Some(from), stamp.time);
        if let Some(to) = to {
            if !self.people.is_known(&to) {
                return Told::refuse(Code::NotFound, "there is no such user");
            }
            return Told::Delivered { count: self.send_to_user(&to, frame), id };
        }
        let own: Vec<ConnId> = self.people.of_user(from).collect();
        let count = self.people.signed_in() - own.len();
        if count > 0 {
            self.send(Topic::Users, None, frame, Aim::new(None, own));
        }
        Told::Delivered { count, id }
    }

    pub(super) fn broadcast(
        &mut self,
        envelope: &Envelope,
        from: Option<&UserId>,
        to: To,
        aim: Aim,
        now: Moment,
    ) -> Told {
        let stamp = self.stamp(now);
        let id: Box<str> = stamp.id.quoted().into();
        let to_user = match &to {
            To::User(user_id) => Some(user_id),
            _ => None,
        };
        let frame = message::envelope(&id, envelope, to_user, from, stamp.time);
        let (topic, shards, count) = match to {
            To::Everyone => {
                let total = self.people.connections();
                let count = aim.count(total, |conn| self.people.find(conn).is_some());
                (Topic::Everyone, None, count)
            }
            To::Channel(channel) => {
                let Some(key) = self.channels.find(&channel) else {
                    return Told::Delivered { count: 0, id };
                };
                let shards = self.channels.get(key).shards;
                let count = self.count_followers(key, &aim);
                (Topic::Channel(channel), Some(shards), count)
            }
            To::User(user_id) => {
                if !self.people.is_known(&user_id) {
                    return Told::refuse(Code::NotFound, "there is no such user");
                }
                let count = self.people.of_user(&user_id).count();
                let shards = self.people.shards_of(&user_id);
                (Topic::User(user_id), Some(shards), count)
            }
            To::Connection(conn) => {
                if self.people.find(conn).is_none() {
                    return Told::refuse(Code::NotFound, "there is no such connection");
                }
                let mut shards = ShardSet::default();
                shards.insert(conn.shard);
                self.send(Topic::Everyone, Some(shards), frame, Aim::at(conn));
                return Told::Delivered { count: 1, id };
            }
        };
        if count > 0 {
            self.send(topic, shards, frame, aim);
        }
        Told::Delivered { count, id }
    }
}
