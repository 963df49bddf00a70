//! Channels: following, publishing, defining, deleting.
//!
//! Part of `state::talk`.

use super::{Aim, Aimed, Outgoing, Publisher, Talk, Told};
use crate::clock::Moment;
use crate::id::{ChannelName, ConnId, Slot, UserId};
use crate::state::abroad::Errand;
use crate::state::call::Call;
use crate::state::channels::{Creator, TooMany};
use crate::state::durable::Write;
use crate::state::entry::Entry;
use crate::state::event::DomainEvent;
use crate::state::people::{Membership, Person};
use crate::state::then::Then;
use crate::state::{Outcome, State};
use crate::wire::command::SinceOffset;
use crate::wire::frame;
use crate::wire::message;
use crate::wire::refusal::{Code, Refusal};
use crate::wire::talk::Publication;

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
                *memberships = Vec::new();
            }
            self.channels.remove_member(channel, key, conn.shard);
        }
        self.note_followers(channel, now);
        Some(before)
    }

    /// The channel of a name. Where it is new, it counts against the connection it comes from, and
    /// against the address of that or of the request; a channel that is there looks up neither.
    pub(super) fn channel_for(
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

    /// Subscribes a connection of this node. Where that has to wait for other nodes, `again` is carried
    /// out afterwards.
    pub(super) fn follow(
        &mut self,
        conn: ConnId,
        channel: ChannelName,
        since: Option<&SinceOffset>,
        again: impl FnOnce() -> Talk,
        now: Moment,
    ) -> Outcome {
        if let Some(first) = self.link(&channel, since, conn, again) {
            return first;
        }
        let key = match self.channel_for(&channel, Publisher::Connection(conn)) {
            Ok(key) => key,
            Err(fault) => return Told::refuse(Code::RateLimited, fault.message()).into(),
        };
        let replay = since.map(|since| self.channels.replay(key, since, now.unix_ms));
        let before = self.set_membership(conn, key, |one| one.is_subscribed = true, now);
        let tells = self.channels.get(key).has_presence && channel.room().is_none();
        if let Some(person) = self.person_of(conn)
            && before.is_some_and(|before| !before.is_subscribed)
            && tells
        {
            self.enter_channel(key, &person, conn, now);
        }
        let state = self.channels.get(key);
        Told::Followed {
            channel,
            epoch: state.epoch.clone(),
            offset: state.offset,
            recovered: replay.as_ref().map(Option::is_some),
            replay: replay.flatten().unwrap_or_default(),
        }
        .into()
    }

    pub(super) fn unfollow(&mut self, conn: ConnId, channel: ChannelName, now: Moment) -> Told {
        let mut still_follows = false;
        if let Some(key) = self.channels.find(&channel) {
            let before = self.set_membership(conn, key, |one| one.is_subscribed = false, now);
            still_follows = before.is_some_and(|before| before.is_joined);
            if let (Some(before), Some(person)) = (before, self.person_of(conn)) {
                let left = Membership { is_joined: false, ..before };
                self.exit_channel(key, left, &person, Some(conn), now);
            }
        }
        Told::Unfollowed { channel, still_follows }
    }

    pub(super) fn publish(
        &mut self,
        channel: ChannelName,
        publication: &Publication,
        from: Option<&UserId>,
        (aimed, without): (&Aimed, Option<ConnId>),
        by: Publisher,
        now: Moment,
    ) -> Outcome {
        if publication.event.as_deref().is_some_and(message::is_presence_event)
            && (channel.room().is_some() || self.channels.tells(&channel))
        {
            // No door leads around this, the program's own handle included.
            let message = "user.joined and user.left are said by the server alone in this channel";
            return Told::refuse(Code::Forbidden, message).into();
        }
        let is_kept = aimed.is_everyone();
        if is_kept && self.is_linked(&channel) {
            let stamp = self.stamp(now);
            let frame = message::channel_message(&channel, stamp, None, from, publication);
            let text = frame::payload(&frame);
            let message = self.message_for_all(channel, text, without);
            let then = Then::Published { message: message.clone(), id: stamp.id, without };
            return self.publish_to_all(message, then);
        }
        if self.is_linked(&channel) {
            return self.publish_aimed(&channel, publication, from, aimed, now);
        }
        let aim = without.map_or_else(|| aimed.here(&self.node), Aim::past);
        let key = match self.channel_for(&channel, by) {
            Ok(key) => key,
            Err(fault) => return Told::refuse(Code::RateLimited, fault.message()).into(),
        };
        let stamp = self.stamp(now);
        let offset = is_kept.then(|| self.channels.advance(key));
        let frame = message::channel_message(&channel, stamp, offset, from, publication);
        if is_kept {
            self.channels.keep(key, &frame, now.unix_ms);
        }
        let delivered_to = self.count_followers(key, &aim);
        let epoch = self.channels.get(key).epoch.clone();
        self.send_to_channel(key, frame, aim);
        Told::Published { channel, epoch, offset, message_id: stamp.id, delivered_to }.into()
    }

    /// The kept messages of a channel after an offset.
    pub(super) fn history(
        &mut self,
        channel: ChannelName,
        after: u64,
        limit: usize,
        now: Moment,
    ) -> Outcome {
        if self.is_linked(&channel) && !self.registry.is_cut_off() {
            let call = Call::Read { channel: channel.clone(), after, limit, epoch: None };
            return Outcome::Call(Box::new((call, Then::History { channel })));
        }
        let Some(key) = self.channels.find(&channel) else {
            return no_channel().into();
        };
        let frames = self.channels.history(key, after, limit, now.unix_ms);
        Told::History { epoch: self.channels.get(key).epoch.clone(), frames }.into()
    }

    pub(super) fn count_followers(&self, key: u32, aim: &Aim) -> usize {
        let members = &self.channels.get(key).members;
        aim.count(members.len(), |conn| {
            let found = self.people.find(conn);
            found.is_some_and(|(key, _)| members.contains(Slot(key)))
        })
    }

    pub(super) fn define(
        &mut self,
        channel: ChannelName,
        description: String,
        now: Moment,
    ) -> Outcome {
        if self.channels.is_defined(&channel) {
            return Told::refuse(Code::Conflict, "there is such a channel already").into();
        }
        if !self.channels.may_define() {
            return Told::refuse(Code::RateLimited, "there are too many channels").into();
        }
        if self.is_linked(&channel) {
            return Outcome::Propose(Box::new(Entry::DefineChannel { channel, description }));
        }
        self.channels.reserved.push(channel.clone());
        Outcome::Write(Box::new(Write::DefineChannel { channel, description, at_ms: now.wall_ms }))
    }

    pub(super) fn delete(&mut self, channel: ChannelName) -> Outcome {
        if self.is_linked(&channel) {
            if self.registry.is_cut_off() {
                return Told::Refused(Refusal::unavailable()).into();
            }
            let call = Call::Delete { channel: channel.clone() };
            return Outcome::Call(Box::new((call, Then::Deleted { channel })));
        }
        if self.channels.is_defined(&channel) {
            return Outcome::Write(Box::new(Write::DropChannel { channel }));
        }
        if self.channels.find(&channel).is_none() {
            return no_channel().into();
        }
        self.dissolve(&channel);
        Told::Done.into()
    }

    /// Takes a live channel away from everyone who follows it.
    pub(in crate::state) fn dissolve(&mut self, channel: &ChannelName) {
        let Some(key) = self.channels.find(channel) else { return };
        let mut members = Vec::new();
        self.channels.get(key).members.walk(&mut members);
        for member in members {
            let memberships = &mut self.people.get_mut(member.0).memberships;
            memberships.retain(|one| one.channel != key);
        }
        let mut state = self.channels.delete(key);
        if let (Some(abroad), Some(link)) = (&mut self.abroad, state.link.take()) {
            abroad.errands.push(Errand::Detach(channel.clone()));
            abroad.commons.note_channel(channel);
            let users = state.users();
            for (user_id, _) in &users {
                abroad.commons.note_room(channel, user_id);
            }
            link.end(abroad);
        }
        if !state.shards.is_empty() {
            let frame = message::channel_deleted(channel);
            let (channel, shards) = (channel.clone(), state.shards);
            self.outgoing.push(Outgoing::Dissolve { channel, shards, frame });
        }
        self.note(|| DomainEvent::ChannelDeleted(channel.clone()));
    }
}

pub(super) fn no_channel() -> Told {
    Told::refuse(Code::NotFound, "there is no such channel")
}
