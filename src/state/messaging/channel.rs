//! Commands about channels: follow, define, delete.

use std::sync::Arc;

use serde_json::json;
use smallvec::SmallVec;

use super::Attempt;
use super::commands::{DefineChannel, Follow, Publisher};
use super::replies::{Followed, Unfollowed};
use crate::clock::Moment;
use crate::id::{ChannelName, ConnId};
use crate::state::State;
use crate::state::audit::{Actor, Note, kind};
use crate::state::backplane::TypedRequest;
use crate::state::channels::bounds::{Creator, TooMany};
use crate::state::channels::view::ChannelView;
use crate::state::durable::Write;
use crate::state::effect::{AppendReply, Effect, Waited};
use crate::state::entry::{Applied, ChannelEntry};
use crate::state::event::DomainEvent;
use crate::state::people::{Membership, Person};
use crate::state::reply::ReplyTo;
use crate::wire::message;
use crate::wire::refusal::{Code, Refusal};

impl State {
    /// Sets how a connection follows a channel, and returns how it did before. None where the
    /// connection has gone.
    pub(super) fn set_membership(
        &mut self,
        conn: ConnId,
        channel: u32,
        set: impl FnOnce(&mut Membership),
        now: Moment,
    ) -> Option<Membership> {
        let (key, _) = self.people.find(conn)?;
        let memberships = &mut self.people.get_mut(key).memberships;
        let place = memberships.iter().position(|one| one.channel == channel);
        let before = place
            .map_or(Membership { channel, is_subscribed: false, is_joined: false }, |place| {
                memberships.remove(place)
            });
        let mut after = before;
        set(&mut after);
        if after.is_subscribed || after.is_joined {
            memberships.push(after);
            self.channels.add_member(channel, key, conn.shard);
        } else {
            if memberships.is_empty() {
                *memberships = SmallVec::new();
            }
            self.channels.remove_member(channel, key, conn.shard);
        }
        self.note_followers(channel, now);
        Some(before)
    }

    /// The channel of a name. Where it is new, it counts against the connection it comes from, and
    /// against the address of that or of the request; a channel that is there looks up neither.
    pub(in crate::state) fn channel_for(
        &mut self,
        name: &ChannelName,
        by: Publisher,
    ) -> Result<u32, TooMany> {
        if let Some(key) = self.channels.find(name) {
            return Ok(key);
        }
        let creator = match by {
            Publisher::Program => None,
            Publisher::Connection(conn) => {
                Some(Creator { conn: Some(conn), block: self.people.block_of(conn) })
            }
            Publisher::Request(block) => Some(Creator { conn: None, block }),
        };
        self.channels.find_or_new(name, creator)
    }

    pub(super) fn person_of(&self, conn: ConnId) -> Option<Person> {
        self.people.find(conn).and_then(|(_, connection)| connection.person.clone())
    }

    /// Subscribes a connection of this node, once the channel is known here.
    pub(super) fn follow(
        &mut self,
        follow: Follow,
        attempt: Attempt,
        now: Moment,
        finish: impl FnOnce(&mut State, Result<Followed, Refusal>) + Send + 'static,
    ) {
        let position = follow.since.as_ref();
        match self.attach(&follow.channel, position, follow.conn, attempt) {
            Ok(None) => {}
            Ok(Some(condition)) => {
                return self.wait(condition, move |state, waited, now| match waited {
                    Waited::Met => state.follow(follow, Attempt::AfterWait, now, finish),
                    Waited::Failed | Waited::TimedOut => {
                        finish(state, Err(Refusal::unavailable()));
                    }
                });
            }
            Err(refusal) => return finish(self, Err(refusal)),
        }
        let result = self.follow_now(follow, now);
        finish(self, result);
    }

    fn follow_now(&mut self, follow: Follow, now: Moment) -> Result<Followed, Refusal> {
        let Follow { conn, channel, since } = follow;
        let key = self.channel_for(&channel, Publisher::Connection(conn))?;
        let replay = since.map(|since| self.channels.replay(key, &since, now.unix_ms));
        let before = self.set_membership(conn, key, |one| one.is_subscribed = true, now);
        let tells = self.channels.get(key).has_presence && channel.room().is_none();
        if let Some(person) = self.person_of(conn)
            && before.is_some_and(|before| !before.is_subscribed)
            && tells
        {
            self.enter_channel(key, &person, conn, now);
        }
        let state = self.channels.get(key);
        Ok(Followed {
            channel,
            epoch: state.epoch.clone(),
            offset: state.offset,
            recovered: replay.as_ref().map(Option::is_some),
            replay: replay.flatten().unwrap_or_default(),
        })
    }

    pub(super) fn unfollow(
        &mut self,
        conn: ConnId,
        channel: ChannelName,
        now: Moment,
    ) -> Unfollowed {
        let mut still_follows = false;
        if let Some(key) = self.channels.find(&channel) {
            let before = self.set_membership(conn, key, |one| one.is_subscribed = false, now);
            still_follows = before.is_some_and(|before| before.is_joined);
            if let (Some(before), Some(person)) = (before, self.person_of(conn)) {
                let left = Membership { is_joined: false, ..before };
                self.exit_channel(key, left, &person, Some(conn), now);
            }
        }
        Unfollowed { channel, still_follows }
    }

    pub(super) fn define_channel(
        &mut self,
        actor: Option<Arc<Actor>>,
        define: DefineChannel,
        reply: ReplyTo<ChannelView>,
        now: Moment,
    ) {
        let DefineChannel { channel, description } = define;
        if self.channels.is_defined(&channel) {
            return self.reply(reply, Err(is_defined()));
        }
        if !self.channels.may_define() {
            return self.refuse(reply, Code::RateLimited, "there are too many channels");
        }
        let entry = ChannelEntry::Define { channel, description };
        self.append_definition(actor, entry, AppendReply::Defined(reply), now);
    }

    /// Deletes a channel: what Redis keeps of it first, where nodes share it.
    pub(super) fn delete_channel(
        &mut self,
        actor: Option<Arc<Actor>>,
        channel: ChannelName,
        reply: ReplyTo<()>,
        now: Moment,
    ) {
        if !self.sequencer.shares(&channel) {
            return self.end_channel(actor, channel, false, reply, now);
        }
        if self.registry.is_cut_off() {
            return self.reply(reply, Err(Refusal::unavailable()));
        }
        let request = TypedRequest::delete(channel.clone(), false);
        self.request(request, move |state, deleted, now| match deleted {
            Ok(was_kept) => state.end_channel(actor, channel, was_kept, reply, now),
            Err(_) => state.reply(reply, Err(Refusal::unavailable())),
        });
    }

    fn end_channel(
        &mut self,
        actor: Option<Arc<Actor>>,
        channel: ChannelName,
        was_kept: bool,
        reply: ReplyTo<()>,
        now: Moment,
    ) {
        let is_live = was_kept
            || self.channels.find(&channel).is_some()
            || self.followers_elsewhere(&channel) > 0;
        if !is_live && !self.channels.is_defined(&channel) {
            return self.reply(reply, Err(no_channel()));
        }
        let entry = ChannelEntry::Delete(channel);
        self.append_definition(actor, entry, AppendReply::Deleted(reply), now);
    }

    /// Defines a channel, or deletes it. The log of several nodes outlives them. What one node orders
    /// does not, so there the store has the entry before it is applied and anyone hears of it.
    fn append_definition(
        &mut self,
        actor: Option<Arc<Actor>>,
        entry: ChannelEntry,
        reply: AppendReply,
        now: Moment,
    ) {
        let (channel, write) = match &entry {
            ChannelEntry::Define { channel, description } => {
                let (channel, description) = (channel.clone(), description.clone());
                let at_ms = now.wall_ms;
                (channel.clone(), Some(Write::DefineChannel { channel, description, at_ms }))
            }
            ChannelEntry::Delete(channel) => {
                let drop = || Write::DropChannel { channel: channel.clone() };
                (channel.clone(), self.channels.is_defined(channel).then(drop))
            }
        };
        if self.sequencer.shares(&channel) {
            return self.append(actor, entry.into(), reply, now);
        }
        let Some(write) = write else {
            let applied = self.apply_definition(entry, now);
            self.audit_registry(actor.as_ref(), true);
            return self.reply_applied(reply, applied);
        };
        self.channels.reserved.push(channel.clone());
        self.store(write, move |state, result, now| {
            state.channels.reserved.retain(|reserved| *reserved != channel);
            match result {
                Ok(_) => {
                    let applied = state.apply_definition(entry, now);
                    state.audit_registry(actor.as_ref(), true);
                    state.reply_applied(reply, applied);
                }
                Err(refusal) => state.deliver(reply.refuse(refusal)),
            }
        });
    }

    /// Applies the definition of a channel, or its end.
    pub(in crate::state) fn apply_definition(
        &mut self,
        entry: ChannelEntry,
        now: Moment,
    ) -> Applied {
        let notes = &mut self.registry.notes;
        let mut note = |kind, channel: &ChannelName| {
            let detail = || json!({"channel": channel.as_str()});
            notes.add(|| Note::new(kind, now).with(&detail()));
        };
        match entry {
            ChannelEntry::Define { channel, .. } if self.channels.is_defined(&channel) => {
                Applied::Defined(Err(is_defined()))
            }
            ChannelEntry::Define { channel, description } => {
                note(kind::CHANNEL_CREATED, &channel);
                self.channels.define(channel.clone(), &description);
                let view = self.channels.view(&channel);
                Applied::Defined(Ok(view.unwrap_or_else(|| ChannelView::unknown(channel))))
            }
            ChannelEntry::Delete(channel) => {
                note(kind::CHANNEL_DELETED, &channel);
                self.channels.undefine(&channel);
                self.dissolve(&channel);
                Applied::Done
            }
        }
    }

    /// Takes a live channel away from everyone who follows it.
    fn dissolve(&mut self, channel: &ChannelName) {
        let Some(key) = self.channels.find(channel) else { return };
        let mut members = Vec::new();
        self.channels.get(key).members.walk(&mut members);
        for member in members {
            let memberships = &mut self.people.get_mut(member.0).memberships;
            memberships.retain(|one| one.channel != key);
        }
        let state = self.channels.delete(key);
        if state.stream.is_some() {
            self.cluster_presence.dirty.note_channel(channel);
            for (user_id, _) in &state.users() {
                self.cluster_presence.dirty.note_room(channel, user_id);
            }
            self.leave_topic(channel);
        }
        if !state.shards.is_empty() {
            let frame = message::channel_deleted(channel);
            let (channel, shards) = (channel.clone(), state.shards);
            self.push(Effect::Dissolve { channel, shards, frame });
        }
        self.push(Effect::Event(DomainEvent::ChannelDeleted(channel.clone())));
    }
}

pub(super) fn no_channel() -> Refusal {
    Refusal::new(Code::NotFound, "there is no such channel")
}

fn is_defined() -> Refusal {
    Refusal::new(Code::Conflict, "there is such a channel already")
}

impl From<TooMany> for Refusal {
    fn from(fault: TooMany) -> Refusal {
        Refusal::new(Code::RateLimited, fault.message())
    }
}
