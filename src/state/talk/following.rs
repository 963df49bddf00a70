//! Channels: following, publishing, defining, deleting.
//!
//! Part of `state::talk`.

use super::{Aim, Outgoing, Told};
use crate::clock::Moment;
use crate::id::{ChannelName, ConnId, Slot, UserId};
use crate::state::durable::Write;
use crate::state::event::DomainEvent;
use crate::state::people::{Membership, Person};
use crate::state::{Outcome, State};
use crate::wire::command::SinceOffset;
use crate::wire::message;
use crate::wire::refusal::Code;
use crate::wire::talk::Publication;

impl State {
    /// Sets how a connection follows a channel, and returns how it did before. None where the
    /// connection has gone.
    pub(super) fn set_membership(
        &mut self,
        conn: ConnId,
        channel: u32,
        set: impl FnOnce(&mut Membership),
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
            self.channels.get_mut(channel).add(key, conn.shard);
        } else {
            if memberships.is_empty() {
                *memberships = Vec::new();
            }
            self.channels.get_mut(channel).remove(key, conn.shard);
        }
        Some(before)
    }

    pub(super) fn person_of(&self, conn: ConnId) -> Option<Person> {
        self.people.find(conn).and_then(|(_, connection)| connection.person.clone())
    }

    pub(super) fn follow(
        &mut self,
        conn: ConnId,
        channel: ChannelName,
        since: Option<&SinceOffset>,
        now: Moment,
    ) -> Told {
        let Ok(key) = self.channels.find_or_new(&channel) else {
            return Told::refuse(Code::RateLimited, "there are too many channels");
        };
        let replay = since.map(|since| self.channels.replay(key, since, now.unix_ms));
        let before = self.set_membership(conn, key, |one| one.is_subscribed = true);
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
    }

    pub(super) fn unfollow(&mut self, conn: ConnId, channel: ChannelName, now: Moment) -> Told {
        let mut still_follows = false;
        if let Some(key) = self.channels.find(&channel) {
            let before = self.set_membership(conn, key, |one| one.is_subscribed = false);
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
        (aim, is_kept): (Aim, bool),
        now: Moment,
    ) -> Told {
        let Ok(key) = self.channels.find_or_new(&channel) else {
            return Told::refuse(Code::RateLimited, "there are too many channels");
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
        Told::Published { channel, epoch, offset, message_id: stamp.id, delivered_to }
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
        self.channels.reserved.push(channel.clone());
        Outcome::Write(Box::new(Write::DefineChannel { channel, description, at_ms: now.unix_ms }))
    }

    pub(super) fn delete(&mut self, channel: ChannelName) -> Outcome {
        if self.channels.is_defined(&channel) {
            return Outcome::Write(Box::new(Write::DropChannel { channel }));
        }
        if self.channels.find(&channel).is_none() {
            return Told::refuse(Code::NotFound, "there is no such channel").into();
        }
        self.dissolve(&channel);
        Told::Done.into()
    }

    /// Takes a live channel away from everyone who follows it.
    pub(super) fn dissolve(&mut self, channel: &ChannelName) {
        let Some(key) = self.channels.find(channel) else { return };
        let mut members = Vec::new();
        self.channels.get(key).members.walk(&mut members);
        for member in members {
            let memberships = &mut self.people.get_mut(member.0).memberships;
            memberships.retain(|one| one.channel != key);
        }
        let state = self.channels.delete(key);
        if !state.shards.is_empty() {
            let frame = message::channel_deleted(channel);
            let (channel, shards) = (channel.clone(), state.shards);
            self.outgoing.push(Outgoing::Dissolve { channel, shards, frame });
        }
        self.note(|| DomainEvent::ChannelDeleted(channel.clone()));
    }
}
