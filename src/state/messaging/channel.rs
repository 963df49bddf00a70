//! Commands about channels: follow, publish, read, define, delete.
//!
//! Part of `state::messaging`.

use super::Attempt;
use super::aim::Aim;
use super::commands::{DefineChannel, Follow, Publish, Publisher, ReadHistory};
use super::replies::{Followed, History, Published, Unfollowed};
use crate::clock::Moment;
use crate::id::{ChannelName, ConnId, Slot};
use crate::state::State;
use crate::state::backplane::TypedRequest;
use crate::state::channels::{ChannelView, Creator, TooMany};
use crate::state::durable::Write;
use crate::state::effect::{AppendReply, Condition, Effect, Waited};
use crate::state::entry::Entry;
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

    pub(super) fn publish(&mut self, publish: Publish, reply: ReplyTo<Published>, now: Moment) {
        let channel = &publish.channel;
        if publish.publication.event.as_deref().is_some_and(message::is_presence_event)
            && (channel.room().is_some() || self.channels.tells(channel))
        {
            // No door leads around this, the program's own handle included.
            let message = "user.joined and user.left are said by the server alone in this channel";
            return self.refuse(reply, Code::Forbidden, message);
        }
        if self.is_replicated(channel) {
            return self.publish_in_cluster(publish, reply, now);
        }
        let Publish { channel, publication, from, aim, without, by } = publish;
        let is_kept = aim.is_everyone();
        let aim = without.map_or_else(|| aim.here(&self.node), Aim::past);
        let key = match self.channel_for(&channel, by) {
            Ok(key) => key,
            Err(fault) => return self.reply(reply, Err(fault.into())),
        };
        let stamp = self.stamp(now);
        let offset = is_kept.then(|| self.channels.advance(key));
        let frame = message::channel_message(&channel, stamp, offset, from.as_ref(), &publication);
        if is_kept {
            self.channels.keep(key, &frame, now.unix_ms);
        }
        let delivered_to = self.count_followers(key, &aim);
        let epoch = self.channels.get(key).epoch.clone();
        self.send_to_channel(key, frame, aim);
        let message_id = stamp.id;
        self.reply(reply, Ok(Published { channel, epoch, offset, message_id, delivered_to }));
    }

    /// Reads the kept messages of a channel after an offset.
    pub(super) fn read_history(&mut self, read: ReadHistory, reply: ReplyTo<History>, now: Moment) {
        let ReadHistory { channel, after, limit } = read;
        if self.is_replicated(&channel) && !self.registry.is_cut_off() {
            let request = TypedRequest::read(channel.clone(), after, limit);
            return self.request(request, move |state, found, now| {
                let history = match found {
                    Ok(found) => state.history_in_redis(&channel, found, now),
                    Err(_) => Err(Refusal::unavailable()),
                };
                state.reply(reply, history);
            });
        }
        let Some(key) = self.channels.find(&channel) else {
            return self.reply(reply, Err(no_channel()));
        };
        let frames = self.channels.history(key, after, limit, now.unix_ms);
        let epoch = self.channels.get(key).epoch.clone();
        self.reply(reply, Ok(History { epoch, frames }));
    }

    pub(super) fn count_followers(&self, key: u32, aim: &Aim) -> usize {
        let members = &self.channels.get(key).members;
        aim.count(members.len(), |conn| {
            let found = self.people.find(conn);
            found.is_some_and(|(key, _)| members.contains(Slot(key)))
        })
    }

    pub(super) fn define_channel(
        &mut self,
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
        if self.is_replicated(&channel) {
            let entry = Entry::DefineChannel { channel, description };
            return self.append(entry, AppendReply::Defined(reply), now);
        }
        self.channels.reserved.push(channel.clone());
        let write = Write::DefineChannel {
            channel: channel.clone(),
            description: description.clone(),
            at_ms: now.wall_ms,
        };
        self.store(write, move |state, result, _| {
            state.channels.reserved.retain(|reserved| *reserved != channel);
            let view = result.map(|_| state.set_definition(channel, &description));
            state.reply(reply, view);
        });
    }

    /// Notes that a channel is defined.
    pub(in crate::state) fn set_definition(
        &mut self,
        channel: ChannelName,
        description: &str,
    ) -> ChannelView {
        self.channels.define(channel.clone(), description);
        self.channels.view(&channel).unwrap_or_else(|| ChannelView::unknown(channel))
    }

    pub(super) fn delete_channel(&mut self, channel: ChannelName, reply: ReplyTo<()>) {
        if self.is_replicated(&channel) {
            return self.delete_in_cluster(channel, reply);
        }
        if self.channels.is_defined(&channel) {
            let write = Write::DropChannel { channel: channel.clone() };
            return self.store(write, move |state, result, _| {
                if result.is_ok() {
                    state.channels.undefine(&channel);
                    state.dissolve(&channel);
                }
                state.reply(reply, result.map(|_| ()));
            });
        }
        if self.channels.find(&channel).is_none() {
            return self.reply(reply, Err(no_channel()));
        }
        self.dissolve(&channel);
        self.reply(reply, Ok(()));
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
        if let (Some(cluster_state), Some(_)) = (&mut self.cluster_state, state.replication.take())
        {
            cluster_state.cluster_presence.note_channel(channel);
            for (user_id, _) in &state.users() {
                cluster_state.cluster_presence.note_room(channel, user_id);
            }
            self.push(Effect::LeaveTopic(channel.clone()));
            self.wake(Condition::ChannelRead(channel.clone()), Waited::Failed);
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

pub(in crate::state) fn is_defined() -> Refusal {
    Refusal::new(Code::Conflict, "there is such a channel already")
}

impl From<TooMany> for Refusal {
    fn from(fault: TooMany) -> Refusal {
        Refusal::new(Code::RateLimited, fault.message())
    }
}
