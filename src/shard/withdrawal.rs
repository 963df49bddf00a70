//! Subscriptions that end because a connection's new token does not allow them.
//!
//! A `refresh` may bring fewer scopes than the token before. Its answer comes first; then every
//! subscription that the new token would be refused ends with `unsubscribed` and the reason
//! `forbidden`. This happens when the answer of the `refresh` is due, so earlier subscriptions have
//! been answered by then, and later ones are judged by the new token.
//!
//! Part of `shard`.

use super::socket::Socket;
use super::{Shard, Slot};
use crate::auth::Scopes;
use crate::id::{ChannelName, Topic};
use crate::state::messaging::commands::{LeaveRoom, Unfollow};
use crate::state::reply::EndedBy;
use crate::wire::answer;
use crate::wire::close::Reason;
use crate::wire::refusal::Refusal;

impl<S: Socket> Shard<S> {
    /// Ends the subscriptions that the connection's token does not allow. Linear in their number.
    pub(super) fn withdraw(&mut self, slot: Slot) {
        if !self.settings.authorizer.is_auth_required {
            return;
        }
        let conn = &self.conns[slot.index()];
        let authorizer = &self.settings.authorizer;
        let identity = conn.identity();
        let may_read_registry = authorizer.allows(identity, Scopes::REGISTRY_READ);
        let (mut services, mut channels) = (Vec::new(), Vec::new());
        for topic in &conn.topics {
            match self.topics.name(*topic) {
                Topic::Service(service) if !may_read_registry => services.push(service.clone()),
                Topic::Channel(channel)
                    if authorizer
                        .namespaces
                        .may_follow(channel.as_str(), identity, true)
                        .is_err() =>
                {
                    channels.push(channel.clone());
                }
                _ => {}
            }
        }
        if conn.follows_everything && !may_read_registry {
            self.unsubscribe_from_all(slot);
            self.push_direct(slot, answer::service_withdrawn(None).into());
        }
        for service in services {
            self.unsubscribe(slot, &service);
            self.push_direct(slot, answer::service_withdrawn(Some(&service)).into());
        }
        for channel in channels {
            if !self.withdraw_channel(slot, channel) {
                // Control's mailbox is full. The connection may not go on with its subscriptions.
                return self.close(slot, Reason::TokenExpired);
            }
        }
    }

    /// Control keeps the followers of a channel, and the members of a room.
    fn withdraw_channel(&mut self, slot: Slot, channel: ChannelName) -> bool {
        let conn = self.conns[slot.index()].id;
        let is_room = channel.room().is_some();
        let leave = LeaveRoom { conn, channel: channel.clone() };
        (!is_room || self.ask(slot, None, leave, EndedBy::Token))
            && self.ask(slot, None, Unfollow { conn, channel }, EndedBy::Token)
    }

    /// Control has taken the connection out of a channel, or first out of its room.
    pub(super) fn on_withdrawn(
        &mut self,
        slot: Slot,
        withdrawn: Result<Option<ChannelName>, Refusal>,
    ) {
        match withdrawn {
            Ok(None) => {}
            Ok(Some(channel)) => {
                self.unfollow_channel(slot, channel.clone());
                self.push_direct(slot, answer::channel_withdrawn(&channel).into());
            }
            // The connection may not go on with its subscriptions.
            Err(_) => self.close(slot, Reason::TokenExpired),
        }
    }
}
