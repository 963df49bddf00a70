//! What operators, and the program around the server, do to a connection: its subscriptions to
//! channels and its metadata.
//!
//! A connection of another node is reached through that node, which does the same there.

use serde_json::value::RawValue;

use super::Attempt;
use super::commands::{Follow, SetMetadata, SetSubscription};
use super::node_request::{NodeRequest, no_connection};
use crate::clock::Moment;
use crate::id::ConnId;
use crate::state::State;
use crate::state::effect::{Effect, SubscriptionSet};
use crate::state::reply::ReplyTo;
use crate::wire::refusal::{Code, Refusal};

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
            let name = connection.clone();
            let request = NodeRequest::Subscription { name, channel, is_subscribed };
            return self.order_node_of(&connection, request, reply, |_| {});
        }
        let conn = connection.conn;
        let Some((_, found)) = self.people.find(conn) else {
            return self.reply(reply, Err(no_connection()));
        };
        let count = found.memberships.len();
        // Being in its room is another matter.
        let membership = self.membership(conn, &channel);
        if membership.is_some_and(|one| one.is_subscribed) == is_subscribed {
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

    /// Replaces what is noted of a connection. It ends with the connection.
    pub(super) fn set_metadata(&mut self, set: SetMetadata, reply: ReplyTo<()>) {
        let SetMetadata { connection, metadata } = set;
        if connection.is_at(&self.node) {
            let result = self.note_metadata(connection.conn, metadata);
            return self.reply(reply, result);
        }
        let name = connection.clone();
        let request = NodeRequest::Metadata { name, metadata };
        self.order_node_of(&connection, request, reply, |_| {});
    }

    /// The same for a connection of this node.
    pub(super) fn note_metadata(
        &mut self,
        conn: ConnId,
        metadata: Option<Box<RawValue>>,
    ) -> Result<(), Refusal> {
        let (key, _) = self.people.find(conn).ok_or_else(no_connection)?;
        self.people.get_mut(key).metadata = metadata.map(Box::new);
        Ok(())
    }
}
