//! What operators, and the program around the server, do to a connection: its subscriptions to
//! channels, its metadata, and chat messages in the name of a user.
//!
//! A connection of another node is reached through that node, which does the same there.
//!
//! Part of `state::talk`.

use serde_json::value::RawValue;

use super::asking::no_connection;
use super::{Outgoing, Publisher, Talk, Told};
use crate::clock::Moment;
use crate::id::{ChannelName, ConnId, ConnName};
use crate::state::order::Answer;
use crate::state::people::Person;
use crate::state::then::Then;
use crate::state::{Outcome, State};
use crate::wire::refusal::Code;
use crate::wire::{frame, message};

impl State {
    /// Subscribes a connection to a channel, or ends its subscription. The client is told unasked,
    /// by the frame that answers its own requests.
    pub(super) fn set_subscription(
        &mut self,
        connection: ConnName,
        channel: ChannelName,
        is_subscribed: bool,
        now: Moment,
    ) -> Outcome {
        if !connection.is_at(&self.node) {
            return self.ask_to_subscribe(&connection, &channel, is_subscribed);
        }
        let conn = connection.conn;
        let Some((_, found)) = self.people.find(conn) else { return no_connection().into() };
        let count = found.memberships.len();
        if self.is_subscriber(conn, &channel) == is_subscribed {
            return Told::Unchanged.into();
        }
        if !is_subscribed {
            let told = self.unfollow(conn, channel, now);
            self.outgoing.push(Outgoing::Subscription(conn, Box::new(told)));
            return Told::Done.into();
        }
        if count >= self.subscriptions_max {
            let message = "the connection follows as many channels as one may";
            return Told::refuse(Code::TooManySubscriptions, message).into();
        }
        let name = channel.clone();
        let again = || Talk::SetSubscription { connection, channel: name, is_subscribed };
        match self.follow(conn, channel, None, again, now) {
            Outcome::Answer(Answer::Told(told)) if matches!(*told, Told::Followed { .. }) => {
                self.outgoing.push(Outgoing::Subscription(conn, told));
                Told::Done.into()
            }
            other => other,
        }
    }

    /// Whether a connection subscribed to a channel; being in its room is another matter.
    fn is_subscriber(&self, conn: ConnId, channel: &ChannelName) -> bool {
        let Some(key) = self.channels.find(channel) else { return false };
        self.people.find(conn).is_some_and(|(_, connection)| {
            connection.memberships.iter().any(|one| one.channel == key && one.is_subscribed)
        })
    }

    /// Replaces what is noted of a connection. It ends with the connection.
    pub(super) fn set_metadata(
        &mut self,
        connection: &ConnName,
        metadata: Option<Box<RawValue>>,
    ) -> Outcome {
        if !connection.is_at(&self.node) {
            return self.ask_to_note(connection, metadata.as_deref());
        }
        self.note_metadata(connection.conn, metadata).into()
    }

    /// The same for a connection of this node.
    pub(super) fn note_metadata(&mut self, conn: ConnId, metadata: Option<Box<RawValue>>) -> Told {
        let Some((key, _)) = self.people.find(conn) else { return no_connection() };
        self.people.get_mut(key).metadata = metadata;
        Told::Done
    }

    /// Says something in a room in the name of a user, who need not be in it.
    pub(super) fn chat_as(
        &mut self,
        person: &Person,
        channel: ChannelName,
        content: &str,
        now: Moment,
    ) -> Outcome {
        // Whoever reads it can write to its author.
        self.people.see(person);
        let from = (&person.user_id, &*person.username);
        let stamp = self.stamp(now);
        if self.is_linked(&channel) {
            let text = frame::payload(&message::chat(&channel, stamp, None, from, content, None));
            let message = self.message_for_all(channel, text, None);
            let then = Then::Published { message: message.clone(), id: stamp.id, without: None };
            return self.publish_to_all(message, then);
        }
        let key = match self.channel_for(&channel, Publisher::Program) {
            Ok(key) => key,
            Err(fault) => return Told::refuse(Code::RateLimited, fault.message()).into(),
        };
        let offset = self.channels.advance(key);
        let frame = message::chat(&channel, stamp, Some(offset), from, content, None);
        self.channels.keep(key, &frame, now.unix_ms);
        let aim = super::Aim::default();
        let delivered_to = self.count_followers(key, &aim);
        let epoch = self.channels.get(key).epoch.clone();
        self.send_to_channel(key, frame, aim);
        let offset = Some(offset);
        Told::Published { channel, epoch, offset, message_id: stamp.id, delivered_to }.into()
    }
}
