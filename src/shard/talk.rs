//! Requests about channels, rooms and users.
//!
//! The shard checks permissions, control does the rest. Control's answer stands in the shard's
//! mailbox exactly between the messages before it and those after it, so a subscription begins with
//! its answer.
//!
//! Part of `shard`.

use bytes::Bytes;

use super::conn::Local;
use super::socket::Socket;
use super::{Shard, Slot};
use crate::auth::Scopes;
use crate::auth::namespace::Barred;
use crate::id::{ChannelName, ConnId, RequestId, Topic};
use crate::state::channels::view::ChannelView;
use crate::state::effect::SubscriptionSet;
use crate::state::messaging::aim::Aimed;
use crate::state::messaging::commands::{
    Chat, Follow, JoinRoom, LeaveRoom, ListChannels, Publish, Publisher, SendEnvelope, Unfollow,
};
use crate::state::messaging::replies::{Delivered, Followed, Joined, Left, Unfollowed};
use crate::state::reply::{EndedBy, IsHeavy, SocketReply};
use crate::wire::answer::{self, ChannelPosition};
use crate::wire::command::{Family, Request};
use crate::wire::event::TimeText;
use crate::wire::refusal::{Code, Refusal};

/// The refusal for a client that may not subscribe or publish.
fn refused(barred: Barred) -> Refusal {
    let code = if barred.needs_token { Code::Unauthorized } else { Code::Forbidden };
    Refusal::new(code, barred.reason)
}

impl<S: Socket> Shard<S> {
    pub(super) fn on_messaging_request(
        &mut self,
        slot: Slot,
        id: Option<RequestId>,
        request: Request,
    ) {
        let family = match request {
            Request::Envelope { .. } | Request::EnvelopePing => Family::Envelope,
            _ => Family::Typed,
        };
        if let Err(refusal) = self.ask_messaging(slot, id.clone(), request) {
            self.answer_locally(slot, id, Local::Refuse(family, refusal));
        }
    }

    /// Sends a command to control, if the client may send it.
    fn ask_messaging(
        &mut self,
        slot: Slot,
        id: Option<RequestId>,
        request: Request,
    ) -> Result<(), Refusal> {
        let conn = self.conns[slot.index()].id;
        match request {
            Request::SubscribeChannel { channel, since } => {
                self.check_may_follow(slot, &channel)?;
                self.check_room_for(slot, &channel)?;
                // Replays come one at a time: one read could ask for hundreds, and all would be
                // built before the first has left.
                let is_heavy = since.is_some();
                let follow = Follow { conn, channel, since };
                let is_sent = self.ask(slot, id, follow, IsHeavy(is_heavy));
                self.begin_subscribing(slot, is_sent, is_heavy);
            }
            Request::UnsubscribeChannel(channel) => {
                self.ask(slot, id, Unfollow { conn, channel }, EndedBy::Client);
            }
            Request::ListChannels => {
                self.check_scope(slot, Scopes::CHANNELS_READ)?;
                let is_sent = self.ask(slot, id, ListChannels, ());
                self.conns[slot.index()].awaits_heavy |= is_sent;
            }
            Request::Publish { channel, publication, echo } => {
                let authorizer = &self.settings.authorizer;
                let identity = self.conns[slot.index()].identity();
                let (name, who) = (channel.as_str(), identity);
                authorizer
                    .namespaces
                    .may_publish(name, who, authorizer.is_auth_required)
                    .map_err(refused)?;
                let from = identity.as_ref().map(|identity| identity.user_id.clone());
                let without = (!echo).then_some(conn);
                let aim = Aimed::default();
                let by = Publisher::Connection(conn);
                self.ask(slot, id, Publish { channel, publication, from, aim, without, by }, ());
            }
            Request::Join(channel) => {
                self.check_user(slot, "rooms are for users: a token is needed")?;
                self.check_scope(slot, Scopes::MESSAGE)?;
                self.check_may_follow(slot, &channel)?;
                self.check_room_for(slot, &channel)?;
                let is_sent = self.ask(slot, id, JoinRoom { conn, channel }, ());
                self.begin_subscribing(slot, is_sent, true);
            }
            Request::Leave(channel) => {
                self.check_user(slot, "rooms are for users: a token is needed")?;
                self.ask(slot, id, LeaveRoom { conn, channel }, EndedBy::Client);
            }
            Request::Chat { room, content } => {
                self.check_user(slot, "rooms are for users: a token is needed")?;
                self.check_scope(slot, Scopes::MESSAGE)?;
                let chat = Chat { conn, channel: room, content, id: id.clone() };
                self.ask(slot, id, chat, ());
            }
            Request::Envelope { envelope, to } => {
                self.check_user(slot, "envelopes are from users: a token is needed")?;
                self.check_scope(slot, Scopes::MESSAGE)?;
                if let Some(identity) = self.conns[slot.index()].identity() {
                    let from = identity.user_id.clone();
                    let send = SendEnvelope { envelope, id: id.clone(), from, to };
                    self.ask(slot, id, send, ());
                }
            }
            // The registry's requests are handled before.
            _ => self.answer_locally(slot, id, Local::EnvelopePong),
        }
        Ok(())
    }

    /// Counts a subscription to a channel or a join as under way, if it was sent.
    fn begin_subscribing(&mut self, slot: Slot, is_sent: bool, is_heavy: bool) {
        let conn = &mut self.conns[slot.index()];
        conn.subscribing += u16::from(is_sent);
        conn.awaits_heavy |= is_sent && is_heavy;
    }

    fn check_may_follow(&self, slot: Slot, channel: &ChannelName) -> Result<(), Refusal> {
        let authorizer = &self.settings.authorizer;
        let identity = self.conns[slot.index()].identity();
        let may = authorizer.namespaces.may_follow(
            channel.as_str(),
            identity,
            authorizer.is_auth_required,
        );
        may.map_err(refused)
    }

    /// Whether a connection's token has a scope.
    pub(super) fn check_scope(&self, slot: Slot, needed: Scopes) -> Result<(), Refusal> {
        if self.settings.authorizer.allows(self.conns[slot.index()].identity(), needed) {
            return Ok(());
        }
        Err(Refusal::new(Code::Forbidden, format!("the token lacks the scope {needed}")))
    }

    fn check_user(&self, slot: Slot, otherwise: &'static str) -> Result<(), Refusal> {
        match self.conns[slot.index()].signed_in {
            Some(_) => Ok(()),
            None => Err(Refusal::new(Code::Unauthorized, otherwise)),
        }
    }

    fn check_room_for(&self, slot: Slot, channel: &ChannelName) -> Result<(), Refusal> {
        let conn = &self.conns[slot.index()];
        let topic = self.topics.find(&Topic::Channel(channel.clone()));
        match topic.filter(|topic| conn.topics.contains(topic)) {
            Some(_) => Ok(()),
            None => self.check_room(slot),
        }
    }

    /// A subscription to a channel that begins or ends without the client's asking. The client gets
    /// the same frame as for its own request, without an `id`.
    pub(super) fn on_subscription_set(&mut self, conn: ConnId, set: SubscriptionSet) {
        let slot = conn.slot;
        if self.find(slot, conn.generation).is_none_or(|conn| !conn.is_open()) {
            return;
        }
        match set {
            SubscriptionSet::Unfollowed(unfollowed) => {
                let channel = self.end_following(slot, unfollowed);
                self.push_direct(slot, answer::channel_taken(&channel).into());
            }
            SubscriptionSet::Followed(followed) => self.on_followed(slot, None, followed),
        }
    }

    fn on_followed(&mut self, slot: Slot, id: Option<&RequestId>, followed: Followed) {
        let Followed { channel, epoch, offset, recovered, replay } = followed;
        self.start_following(slot, &Topic::Channel(channel.clone()));
        let at = ChannelPosition { channel: &channel, epoch: &epoch, offset };
        let frame = answer::subscribed_to_channel(id, at, recovered);
        self.push_direct(slot, frame.into());
        for frame in replay {
            // Part of the reply, and shared with the channel's history.
            self.push_direct(slot, frame.into());
        }
    }

    fn end_following(&mut self, slot: Slot, unfollowed: Unfollowed) -> ChannelName {
        let Unfollowed { channel, still_follows } = unfollowed;
        if !still_follows {
            self.unfollow_channel(slot, channel.clone());
        }
        channel
    }

    /// A reply about channels, rooms or envelopes.
    pub(super) fn on_messaging_reply(
        &mut self,
        slot: Slot,
        id: Option<&RequestId>,
        reply: SocketReply,
    ) {
        let framed = match reply {
            SocketReply::Followed(IsHeavy(is_heavy), result) => {
                self.end_subscribing(slot, is_heavy);
                result.map(|followed| {
                    self.on_followed(slot, id, followed);
                    None
                })
            }
            SocketReply::Unfollowed(_, result) => result.map(|unfollowed| {
                let channel = self.end_following(slot, unfollowed);
                Some(answer::unsubscribed_from_channel(id, &channel))
            }),
            SocketReply::Published(result) => result.map(|published| {
                let offset = published.offset.unwrap_or_default();
                let (channel, epoch) = (&published.channel, &published.epoch);
                let at = ChannelPosition { channel, epoch, offset };
                Some(answer::published(id, at, published.message_id))
            }),
            SocketReply::Channels(result) => {
                self.conns[slot.index()].awaits_heavy = false;
                result.map(|channels| Some(self.channel_list(id, &channels)))
            }
            SocketReply::Joined(result) => {
                self.end_subscribing(slot, true);
                result.map(|joined| {
                    let Joined { channel, epoch, offset, users, count } = joined;
                    self.start_following(slot, &Topic::Channel(channel.clone()));
                    let at = ChannelPosition { channel: &channel, epoch: &epoch, offset };
                    Some(answer::joined(id, at, users.iter(), count))
                })
            }
            SocketReply::Left(_, result) => result.map(|left| {
                let Left { channel, still_follows } = left;
                let channel = self.end_following(slot, Unfollowed { channel, still_follows });
                Some(answer::left(id, &channel))
            }),
            SocketReply::Chatted(result) => result.map(|chatted| {
                self.start_following(slot, &Topic::Channel(chatted.channel));
                chatted.copy
            }),
            SocketReply::Delivered(result) => {
                let framed = result.map(|Delivered { count, id }| {
                    answer::ack(&id, count, TimeText::of(self.now.wall_ms))
                });
                return match framed {
                    Ok(frame) => self.push_direct(slot, frame.into()),
                    Err(refusal) => self.refuse(slot, id, Family::Envelope, &refusal),
                };
            }
            // Handled before.
            SocketReply::Batch(..)
            | SocketReply::Subscribed(..)
            | SocketReply::SubscribedToAll(..)
            | SocketReply::Snapshot(_) => return,
        };
        match framed {
            Ok(Some(frame)) => self.push_direct(slot, frame.into()),
            Ok(None) => {}
            Err(refusal) => self.refuse(slot, id, Family::Typed, &refusal),
        }
    }

    fn channel_list(&self, id: Option<&RequestId>, channels: &[ChannelView]) -> Bytes {
        // As many as fit an outbox: HTTP lists all of them.
        let mut room = self.settings.limits.outbox_bytes_max / 2;
        let rows = channels
            .iter()
            .map(|one| (&one.name, &*one.description, one.subscribers))
            .take_while(|(name, description, _)| {
                let bytes = name.as_str().len() + description.len() + 64;
                room = room.saturating_sub(bytes);
                room > 0
            });
        answer::channels(id, rows)
    }
}
