//! Requests about channels, rooms and users.
//!
//! The shard checks permissions, control does the rest. Control's answer lies in the shard's mailbox exactly
//! between the messages before it and those after it, so a subscription begins where its answer says.
//!
//! Part of `shard`.

use super::conn::{Local, Waiting};
use super::socket::Socket;
use super::{Shard, Slot};
use crate::auth::Scopes;
use crate::auth::namespace::Barred;
use crate::id::{ChannelName, ConnId, RequestId, Topic};
use crate::state::talk::{Aimed, Publisher, Talk, Told};
use crate::wire::answer::{self, ChannelPlace};
use crate::wire::command::{Family, Request};
use crate::wire::event::TimeText;
use crate::wire::refusal::{Code, Refusal};

/// The refusal for a client that may not subscribe or publish.
fn refused(barred: Barred) -> Refusal {
    let code = if barred.needs_token { Code::Unauthorized } else { Code::Forbidden };
    Refusal::new(code, barred.reason)
}

impl<S: Socket> Shard<S> {
    pub(super) fn on_talk_request(&mut self, slot: Slot, id: Option<RequestId>, request: Request) {
        let family = match request {
            Request::Envelope { .. } | Request::EnvelopePing => Family::Envelope,
            _ => Family::Typed,
        };
        match self.talk_of(slot, id.as_ref(), request) {
            Ok(Some((talk, joins))) => {
                // Lists and replays come one at a time: hundreds of them could be asked for in one
                // read, and would all be built before the first has left.
                let is_heavy = match &talk {
                    Talk::Follow { since, .. } => since.is_some(),
                    Talk::Channels | Talk::Join { .. } => true,
                    _ => false,
                };
                if self.ask(slot, id, Waiting::Talk { family, joins, is_heavy }, talk.into()) {
                    let conn = &mut self.conns[slot.index()];
                    conn.subscribing += u16::from(joins);
                    conn.awaits_heavy |= is_heavy;
                }
            }
            Ok(None) => self.answer_locally(slot, id, Local::EnvelopePong),
            Err(refusal) => self.answer_locally(slot, id, Local::Refuse(family, refusal)),
        }
    }

    /// What control is to be asked, and whether it makes one subscription more. None where the shard
    /// has the answer.
    fn talk_of(
        &self,
        slot: Slot,
        id: Option<&RequestId>,
        request: Request,
    ) -> Result<Option<(Talk, bool)>, Refusal> {
        let conn = self.conns[slot.index()].id;
        let (talk, joins) = match request {
            Request::SubscribeChannel { channel, since } => {
                self.check_may_follow(slot, &channel)?;
                self.check_room_for(slot, &channel)?;
                (Talk::Follow { conn, channel, since }, true)
            }
            Request::UnsubscribeChannel(channel) => (Talk::Unfollow { conn, channel }, false),
            Request::ListChannels => {
                self.check_scope(slot, Scopes::CHANNELS_READ)?;
                (Talk::Channels, false)
            }
            Request::Publish { channel, publication, echo } => {
                let authorizer = &self.settings.authorizer;
                let identity = &self.conns[slot.index()].identity;
                let (name, who) = (channel.as_str(), identity.as_deref());
                authorizer
                    .namespaces
                    .may_publish(name, who, authorizer.is_auth_required)
                    .map_err(refused)?;
                let from = identity.as_ref().map(|identity| identity.user_id.clone());
                let without = (!echo).then_some(conn);
                let aim = Aimed::default();
                let by = Publisher::Connection(conn);
                (Talk::Publish { channel, publication, from, aim, without, by }, false)
            }
            Request::Join(channel) => {
                self.check_user(slot, "rooms are for users: a token is needed")?;
                self.check_scope(slot, Scopes::MESSAGE)?;
                self.check_may_follow(slot, &channel)?;
                self.check_room_for(slot, &channel)?;
                (Talk::Join { conn, channel }, true)
            }
            Request::Leave(channel) => {
                self.check_user(slot, "rooms are for users: a token is needed")?;
                (Talk::Leave { conn, channel }, false)
            }
            Request::Chat { room, content } => {
                self.check_user(slot, "rooms are for users: a token is needed")?;
                self.check_scope(slot, Scopes::MESSAGE)?;
                let id = id.cloned();
                (Talk::Chat { conn, channel: room, content, id, is_first: false }, false)
            }
            Request::Envelope { envelope, to } => {
                self.check_user(slot, "envelopes are from users: a token is needed")?;
                self.check_scope(slot, Scopes::MESSAGE)?;
                let Some(identity) = &self.conns[slot.index()].identity else { return Ok(None) };
                let from = identity.user_id.clone();
                (Talk::Envelope { envelope, id: id.cloned(), from, to }, false)
            }
            _ => return Ok(None),
        };
        Ok(Some((talk, joins)))
    }

    fn check_may_follow(&self, slot: Slot, channel: &ChannelName) -> Result<(), Refusal> {
        let authorizer = &self.settings.authorizer;
        let identity = self.conns[slot.index()].identity.as_deref();
        let may = authorizer.namespaces.may_follow(
            channel.as_str(),
            identity,
            authorizer.is_auth_required,
        );
        may.map_err(refused)
    }

    /// Whether a connection may do what needs a scope.
    pub(super) fn check_scope(&self, slot: Slot, needed: Scopes) -> Result<(), Refusal> {
        if self.settings.authorizer.allows(self.conns[slot.index()].identity.as_deref(), needed) {
            return Ok(());
        }
        Err(Refusal::new(Code::Forbidden, format!("the token lacks the scope {needed}")))
    }

    fn check_user(&self, slot: Slot, otherwise: &'static str) -> Result<(), Refusal> {
        match self.conns[slot.index()].identity {
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
    /// the frame that would answer it, without an `id`.
    pub(super) fn on_subscription_set(&mut self, conn: ConnId, told: Told) {
        let slot = conn.slot;
        if self.find(slot, conn.generation).is_none_or(|conn| !conn.is_open()) {
            return;
        }
        match told {
            Told::Unfollowed { channel, still_follows } => {
                if !still_follows {
                    self.unfollow_channel(slot, channel.clone());
                }
                self.push_direct(slot, answer::channel_taken(&channel).into());
            }
            told => self.on_told(slot, None, Family::Typed, told),
        }
    }

    /// The result.
    pub(super) fn on_told(
        &mut self,
        slot: Slot,
        id: Option<&RequestId>,
        family: Family,
        told: Told,
    ) {
        let frame = match told {
            Told::Refused(refusal) => return self.refuse(slot, id, family, &refusal),
            Told::Followed { channel, epoch, offset, recovered, replay } => {
                self.start_following(slot, &Topic::Channel(channel.clone()));
                let at = ChannelPlace { channel: &channel, epoch: &epoch, offset };
                let frame = answer::subscribed_to_channel(id, at, recovered);
                self.push_direct(slot, frame.into());
                for frame in replay {
                    // Part of the answer, and shared with the channel's history.
                    self.push_direct(slot, frame.into());
                }
                return;
            }
            Told::Unfollowed { channel, still_follows } => {
                if !still_follows {
                    self.unfollow_channel(slot, channel.clone());
                }
                answer::unsubscribed_from_channel(id, &channel)
            }
            Told::Published { channel, epoch, offset, message_id, .. } => {
                let offset = offset.unwrap_or_default();
                let at = ChannelPlace { channel: &channel, epoch: &epoch, offset };
                answer::published(id, at, message_id)
            }
            Told::Channels(channels) => {
                // As many as fit an outbox: who wants all of them asks over HTTP.
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
            Told::Joined { channel, epoch, offset, users, count } => {
                self.start_following(slot, &Topic::Channel(channel.clone()));
                let at = ChannelPlace { channel: &channel, epoch: &epoch, offset };
                answer::joined(id, at, users.iter(), count)
            }
            Told::Left { channel, still_follows } => {
                if !still_follows {
                    self.unfollow_channel(slot, channel.clone());
                }
                answer::left(id, &channel)
            }
            Told::Chatted { channel, copy } => {
                self.start_following(slot, &Topic::Channel(channel));
                match copy {
                    Some(frame) => frame,
                    None => return,
                }
            }
            Told::Delivered { count, id } => {
                answer::ack(&id, count, TimeText::of(self.now.wall_ms))
            }
            other => {
                tracing::error!(?other, "an answer that no socket asks for");
                return self.close(slot, crate::wire::close::Reason::Internal);
            }
        };
        self.push_direct(slot, frame.into());
    }
}
