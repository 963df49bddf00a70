//! Envelopes: from user to user, and from a program to many.

use bytes::Bytes;

use super::aim::{Aim, To};
use super::commands::{Broadcast, SendEnvelope};
use super::no_user;
use super::node_request::{NodeRequest, message_of, no_connection};
use super::replies::Delivered;
use crate::clock::Moment;
use crate::id::{ChannelName, ConnId, RequestId, ShardSet, Topic, UserId};
use crate::state::State;
use crate::state::reply::ReplyTo;
use crate::wire::message;

impl State {
    pub(super) fn send_envelope(
        &mut self,
        send: SendEnvelope,
        reply: ReplyTo<Delivered>,
        now: Moment,
    ) {
        let SendEnvelope { envelope, id, from, to } = send;
        let to = match to.map(|to| self.resolve_name(to)).transpose() {
            Ok(to) => to,
            Err(refusal) => return self.reply(reply, Err(refusal)),
        };
        let stamp = self.stamp(now);
        let id: Box<str> = id.map_or_else(|| stamp.id.quoted().into(), |RequestId(text)| text);
        let frame = message::envelope(&id, &envelope, to.as_ref(), Some(&from), stamp.time);
        if let Some(to) = to {
            return self.send_to_user_anywhere(&to, &frame, id, reply);
        }
        let count = self.send_to_users_but(&from, frame.clone());
        let request =
            |_: &State| Some(NodeRequest::Users { except: from, message: message_of(&frame)? });
        self.ask_nodes(self.others(), request, move |state, there| {
            state.reply(reply, there.map(|there| Delivered { count: count + there.count, id }));
        });
    }

    /// Sends a frame to a user's connections on all nodes.
    fn send_to_user_anywhere(
        &mut self,
        to: &UserId,
        frame: &Bytes,
        id: Box<str>,
        reply: ReplyTo<Delivered>,
    ) {
        let count = self.send_to_user(to, &id.trim_matches('"'), frame.clone());
        let (to, user_id) = (to.clone(), to.clone());
        let request = |_: &State| Some(NodeRequest::User { user_id, message: message_of(frame)? });
        self.ask_nodes(self.nodes_of_user(&to, count), request, move |state, there| {
            let delivered = there.and_then(|there| {
                if there.is_found || state.people.is_known(&to) {
                    Ok(Delivered { count: count + there.count, id })
                } else {
                    Err(no_user())
                }
            });
            state.reply(reply, delivered);
        });
    }

    pub(super) fn broadcast(
        &mut self,
        broadcast: Broadcast,
        reply: ReplyTo<Delivered>,
        now: Moment,
    ) {
        let Broadcast { envelope, from, to, aim: aimed } = broadcast;
        let to = match to {
            To::User(user) => match self.resolve_name(user) {
                Ok(user) => To::User(user),
                Err(refusal) => return self.reply(reply, Err(refusal)),
            },
            to => to,
        };
        let aim = aimed.here(&self.node);
        let stamp = self.stamp(now);
        let id: Box<str> = stamp.id.quoted().into();
        let to_user = match &to {
            To::User(user_id) => Some(user_id),
            _ => None,
        };
        let frame = message::envelope(&id, &envelope, to_user, from.as_ref(), stamp.time);
        let (count, nodes) = match &to {
            To::User(user_id) => return self.send_to_user_anywhere(user_id, &frame, id, reply),
            To::Connection(name) if name.is_at(&self.node) => {
                let is_there = self.send_to_connection(name.conn, frame);
                let delivered =
                    if is_there { Ok(Delivered { count: 1, id }) } else { Err(no_connection()) };
                return self.reply(reply, delivered);
            }
            To::Connection(name) => return self.deliver_to_node(name, &frame, id, reply),
            To::Everyone => {
                let count = self.send_to_everyone(frame.clone(), aim);
                (count, aimed.nodes(self.others()))
            }
            To::Channel(channel) => {
                let count = self.send_to_followers(channel, frame.clone(), aim);
                (count, self.following_nodes(channel, &aimed))
            }
        };
        let request = |state: &State| {
            let (aim, message) = (aimed.named_from(&state.node), message_of(&frame)?);
            Some(match to {
                To::Channel(channel) => NodeRequest::Channel { channel, aim, message },
                _ => NodeRequest::Everyone { aim, message },
            })
        };
        self.ask_nodes(nodes, request, move |state, there| {
            state.reply(reply, there.map(|there| Delivered { count: count + there.count, id }));
        });
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
