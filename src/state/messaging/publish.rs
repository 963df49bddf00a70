//! Messages to channels: published, passed on to the followers here, and the publisher's reply.
//!
//! ```text
//! publish, chat --> State::sequence --> offset --> pass_on: kept, sent, replied
//! ```

use bytes::Bytes;

use super::Aim;
use super::commands::{ChatAs, Publish, Publisher};
use super::node_request::{NodeRequest, message_of};
use super::replies::{Chatted, Published};
use crate::clock::Moment;
use crate::id::{ChannelName, ConnId, Epoch, MessageId, RequestId, Slot};
use crate::state::State;
use crate::state::people::Person;
use crate::state::reply::ReplyTo;
use crate::wire::message::{self, Stamp};
use crate::wire::refusal::{Code, Refusal};

/// Who hears that a channel's message has its offset, and what the reply repeats.
#[derive(Debug)]
pub(in crate::state) enum PublisherReply {
    /// The publisher.
    Published {
        channel: ChannelName,
        id: MessageId,
        /// The publisher's connection, where it wants no echo.
        without: Option<ConnId>,
        reply: ReplyTo<Published>,
    },
    /// The speaker in a room.
    Chatted {
        channel: ChannelName,
        conn: ConnId,
        person: Person,
        content: String,
        /// The request's own id.
        id: Option<RequestId>,
        stamp: Stamp,
        /// Whether the speaker's copy comes with the reply.
        has_copy: bool,
        /// Whether the speaker has joined the room by it.
        is_first: bool,
        reply: ReplyTo<Chatted>,
    },
}

impl State {
    pub(super) fn publish(&mut self, publish: Publish, reply: ReplyTo<Published>, now: Moment) {
        let channel = &publish.channel;
        if publish.publication.event.as_deref().is_some_and(message::is_presence_event)
            && (channel.room().is_some() || self.channels.tells(channel))
        {
            // No door leads around this, the program's own handle included.
            let message = "user.joined and user.left are said by the server alone in this channel";
            return self.refuse(reply, Code::Forbidden, message);
        }
        if !publish.aim.is_everyone() {
            return self.publish_aimed(publish, reply, now);
        }
        let Publish { channel, publication, from, without, by, .. } = publish;
        let stamp = self.stamp(now);
        let compose = move |channel: ChannelName, offset: Option<u64>| {
            let from = from.as_ref();
            let frame = message::channel_message(&channel, stamp, offset, from, &publication);
            (frame, PublisherReply::Published { channel, id: stamp.id, without, reply })
        };
        self.sequence(channel, without, by, compose, now);
    }

    /// Publishes to some of the followers. Such a message has no offset and is not kept.
    fn publish_aimed(&mut self, publish: Publish, reply: ReplyTo<Published>, now: Moment) {
        let Publish { channel, publication, from, aim, by, .. } = publish;
        let stamp = self.stamp(now);
        let frame = message::channel_message(&channel, stamp, None, from.as_ref(), &publication);
        // Only those who follow a replicated channel bring it into being: its epoch comes from Redis.
        let key = match self.channels.find(&channel) {
            None if !self.sequencer.shares(&channel) => match self.channel_for(&channel, by) {
                Ok(key) => Some(key),
                Err(fault) => return self.reply(reply, Err(fault.into())),
            },
            key => key,
        };
        let here = key.map_or(0, |key| {
            let aim = aim.here(&self.node);
            let count = self.count_followers(key, &aim);
            self.send_to_channel(key, frame.clone(), aim);
            count
        });
        let nodes = self.following_nodes(&channel, &aim);
        let request = |state: &State| {
            let (channel, aim) = (channel.clone(), aim.named_from(&state.node));
            Some(NodeRequest::Channel { channel, aim, message: message_of(&frame)? })
        };
        let name = channel.clone();
        self.ask_nodes(nodes, request, move |state, there| {
            let key = state.channels.find(&name);
            let epoch =
                key.map_or_else(|| Epoch::new(""), |key| state.channels.get(key).epoch.clone());
            let published = there.map(|there| {
                let (message_id, delivered_to) = (stamp.id, here + there.count);
                Published { channel: name, epoch, offset: None, message_id, delivered_to }
            });
            state.reply(reply, published);
        });
    }

    /// Says something in a room in the name of a user, who need not be in it.
    pub(super) fn chat_as(&mut self, chat: ChatAs, reply: ReplyTo<Published>, now: Moment) {
        let ChatAs { person, channel, content } = chat;
        // Whoever reads it can write to its author.
        self.people.see(&person);
        let stamp = self.stamp(now);
        let compose = move |channel: ChannelName, offset: Option<u64>| {
            let from = (&person.user_id, &*person.username);
            let frame = message::chat(&channel, stamp, offset, from, &content, None);
            (frame, PublisherReply::Published { channel, id: stamp.id, without: None, reply })
        };
        self.sequence(channel, None, Publisher::Program, compose, now);
    }

    /// Keeps the channel's newest message, and gives it to the followers here, but for `except`. The
    /// publisher's reply stands exactly here among the channel's messages.
    pub(in crate::state) fn pass_on(
        &mut self,
        key: u32,
        frame: Bytes,
        kept_ms: u64,
        except: Option<ConnId>,
        reply: Option<PublisherReply>,
    ) {
        self.channels.keep(key, &frame, kept_ms);
        self.send_to_channel(key, frame, except.map_or_else(Aim::default, Aim::past));
        if let Some(reply) = reply {
            let state = self.channels.get(key);
            let (epoch, offset) = (state.epoch.clone(), state.offset);
            self.reply_publisher(Some(key), reply, epoch, offset);
        }
    }

    /// Replies that a message has its offset. `key` is the channel's, where it is known here.
    pub(in crate::state) fn reply_publisher(
        &mut self,
        key: Option<u32>,
        reply: PublisherReply,
        epoch: Epoch,
        offset: u64,
    ) {
        match reply {
            PublisherReply::Published { channel, id, without, reply } => {
                let here = key.map_or(0, |key| self.count_without(key, without));
                let delivered_to = here + self.followers_elsewhere(&channel);
                let (offset, message_id) = (Some(offset), id);
                let published = Published { channel, epoch, offset, message_id, delivered_to };
                self.reply(reply, Ok(published));
            }
            PublisherReply::Chatted {
                channel,
                person,
                content,
                id,
                stamp,
                has_copy,
                reply,
                ..
            } => {
                let from = (&person.user_id, &*person.username);
                let copy = has_copy.then(|| {
                    message::chat(&channel, stamp, Some(offset), from, &content, id.as_ref())
                });
                self.reply(reply, Ok(Chatted { channel, copy }));
            }
        }
    }

    /// Refuses a message. Whoever would have joined a room by it did not.
    pub(in crate::state) fn refuse_publisher(
        &mut self,
        reply: PublisherReply,
        refusal: Refusal,
        now: Moment,
    ) {
        match reply {
            PublisherReply::Published { reply, .. } => self.reply(reply, Err(refusal)),
            PublisherReply::Chatted { channel, conn, is_first, reply, .. } => {
                if is_first {
                    let _ = self.leave(conn, channel, now);
                }
                self.reply(reply, Err(refusal));
            }
        }
    }

    /// How many followers here an aimed message goes to.
    pub(super) fn count_followers(&self, key: u32, aim: &Aim) -> usize {
        let members = &self.channels.get(key).members;
        aim.count(members.len(), |conn| self.is_follower(key, conn))
    }

    /// How many followers there are here, but for one connection.
    fn count_without(&self, key: u32, without: Option<ConnId>) -> usize {
        let is_less = without.is_some_and(|conn| self.is_follower(key, conn));
        self.channels.get(key).members.len() - usize::from(is_less)
    }

    fn is_follower(&self, key: u32, conn: ConnId) -> bool {
        let members = &self.channels.get(key).members;
        self.people.find(conn).is_some_and(|(key, _)| members.contains(Slot(key)))
    }
}
