//! What operators, and the program around the server, do to a connection: its subscriptions to
//! channels, its metadata, and chat messages in the name of a user.
//!
//! A connection of another node is reached through that node, which does the same there.
//!
//! Part of `state::messaging`.

use serde_json::value::RawValue;

use super::Attempt;
use super::aim::Aim;
use super::commands::{ChatAs, Follow, Publisher, SetMetadata, SetSubscription};
use super::node_request::{NodeRequest, no_connection};
use super::replicated::PlacedReply;
use super::replies::Published;
use crate::clock::Moment;
use crate::id::{ChannelName, ConnId};
use crate::state::State;
use crate::state::backplane::ChannelMessage;
use crate::state::effect::{Effect, SubscriptionSet};
use crate::state::reply::ReplyTo;
use crate::wire::refusal::{Code, Refusal};
use crate::wire::{frame, message};

impl State {
    /// Subscribes a connection to a channel, or ends its subscription. The client is told unasked,
    /// by the frame that answers its own requests.
    pub(super) fn set_subscription(
        &mut self,
        set: SetSubscription,
        reply: ReplyTo<()>,
        now: Moment,
    ) {
        let SetSubscription { connection, channel, is_subscribed } = set;
        if !connection.is_at(&self.node) {
            let (name, channel) = (connection.to_string(), channel.as_str().to_owned());
            let request = NodeRequest::Subscription { name, channel, is_subscribed };
            return self.ask_node_of(&connection, &request, reply);
        }
        let conn = connection.conn;
        let Some((_, found)) = self.people.find(conn) else {
            return self.reply(reply, Err(no_connection()));
        };
        let count = found.memberships.len();
        if self.is_subscriber(conn, &channel) == is_subscribed {
            return self.reply(reply, Ok(()));
        }
        if !is_subscribed {
            let unfollowed = SubscriptionSet::Unfollowed(self.unfollow(conn, channel, now));
            self.push(Effect::Subscription(conn, Box::new(unfollowed)));
            return self.reply(reply, Ok(()));
        }
        if count >= self.subscriptions_max {
            let message = "the connection follows as many channels as one may";
            return self.refuse(reply, Code::TooManySubscriptions, message);
        }
        let follow = Follow { conn, channel, since: None };
        self.follow(follow, Attempt::First, now, move |state, followed| {
            let result = followed.map(|followed| {
                let set = Box::new(SubscriptionSet::Followed(followed));
                state.push(Effect::Subscription(conn, set));
            });
            state.reply(reply, result);
        });
    }

    /// Whether a connection subscribed to a channel; being in its room is another matter.
    fn is_subscriber(&self, conn: ConnId, channel: &ChannelName) -> bool {
        let Some(key) = self.channels.find(channel) else { return false };
        self.people.find(conn).is_some_and(|(_, connection)| {
            connection.memberships.iter().any(|one| one.channel == key && one.is_subscribed)
        })
    }

    /// Replaces what is noted of a connection. It ends with the connection.
    pub(super) fn set_metadata(&mut self, set: SetMetadata, reply: ReplyTo<()>) {
        let SetMetadata { connection, metadata } = set;
        if connection.is_at(&self.node) {
            let result = self.note_metadata(connection.conn, metadata);
            return self.reply(reply, result);
        }
        let (name, metadata) = (connection.to_string(), metadata.as_deref());
        self.ask_node_of(&connection, &NodeRequest::Metadata { name, metadata }, reply);
    }

    /// The same for a connection of this node.
    pub(super) fn note_metadata(
        &mut self,
        conn: ConnId,
        metadata: Option<Box<RawValue>>,
    ) -> Result<(), Refusal> {
        let (key, _) = self.people.find(conn).ok_or_else(no_connection)?;
        self.people.get_mut(key).metadata = metadata;
        Ok(())
    }

    /// Says something in a room in the name of a user, who need not be in it.
    pub(super) fn chat_as(&mut self, chat: ChatAs, reply: ReplyTo<Published>, now: Moment) {
        let ChatAs { person, channel, content } = chat;
        // Whoever reads it can write to its author.
        self.people.see(&person);
        let from = (&person.user_id, &*person.username);
        let stamp = self.stamp(now);
        if self.is_replicated(&channel) {
            let text = frame::payload(&message::chat(&channel, stamp, None, from, &content, None));
            let message = ChannelMessage { channel, text, except: None };
            let reply = PlacedReply::Published { id: stamp.id, without: None, reply };
            return self.publish_to_all(message, reply, now);
        }
        let key = match self.channel_for(&channel, Publisher::Program) {
            Ok(key) => key,
            Err(fault) => return self.reply(reply, Err(fault.into())),
        };
        let offset = self.channels.advance(key);
        let frame = message::chat(&channel, stamp, Some(offset), from, &content, None);
        self.channels.keep(key, &frame, now.unix_ms);
        let aim = Aim::default();
        let delivered_to = self.count_followers(key, &aim);
        let epoch = self.channels.get(key).epoch.clone();
        self.send_to_channel(key, frame, aim);
        let (offset, message_id) = (Some(offset), stamp.id);
        self.reply(reply, Ok(Published { channel, epoch, offset, message_id, delivered_to }));
    }
}
