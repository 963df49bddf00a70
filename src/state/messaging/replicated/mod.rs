//! Channels that several nodes share.
//!
//! ```text
//! first follower --> follow the topic, read what is kept --> live: answers come from here
//! message        --> Redis gives the offset --> topic --> each node that follows, in its place
//! last follower  --> a second later --> leave the topic, forget
//! ```
//!
//! A node that follows has the channel's history, so however many come back at once, one of them
//! asks. Offsets show what was missed, and the history makes it good; where it cannot, followers are
//! told where the channel stands now.
//!
//! # Promises
//!
//! * Followers get a channel's messages in the order of their offsets, each once.
//! * A publisher's answer stands among a channel's messages exactly where its own message does.
//! * A channel without followers here costs this node nothing.
//!
//! Part of `state::messaging`.

#[cfg(test)]
mod tests;

use bytes::Bytes;

use super::Attempt;
use super::aim::Aim;
use super::commands::Publisher;
use super::replies::{Chatted, Published};
use crate::clock::Moment;
use crate::id::{ChannelName, ConnId, ConnName, Epoch, MessageId, RequestId, Topic};
use crate::limits;
use crate::state::State;
use crate::state::backplane::{
    ChannelMessage, ChannelState, NoResponse, Place, Placed, TypedRequest,
};
use crate::state::effect::{Condition, Effect, Waited};
use crate::state::people::Person;
use crate::state::replication::Replication;
use crate::state::reply::ReplyTo;
use crate::wire::answer::{self, ChannelPlace};
use crate::wire::command::SinceOffset;
use crate::wire::message::{self, Stamp};
use crate::wire::refusal::Refusal;

/// Who hears that a message has its place, and what the reply repeats.
#[derive(Debug)]
pub(in crate::state) enum PlacedReply {
    /// The publisher.
    Published {
        /// The message's id.
        id: MessageId,
        /// The publisher's connection, where it wants no echo.
        without: Option<ConnId>,
        reply: ReplyTo<Published>,
    },
    /// Somebody who speaks in a room.
    Chatted {
        conn: ConnId,
        person: Person,
        content: String,
        /// The request's own id.
        id: Option<RequestId>,
        stamp: Stamp,
        /// Whether the speaker's copy comes with the reply.
        has_copy: bool,
        /// Whether they have joined the room by it.
        is_first: bool,
        reply: ReplyTo<Chatted>,
    },
}

impl State {
    /// Whether all nodes share a channel.
    pub(super) fn is_replicated(&self, channel: &ChannelName) -> bool {
        self.cluster_state.is_some() && !channel.as_str().starts_with('$')
    }

    /// Sees to it that a channel can be followed here. Returns the condition that has to become true
    /// first, if there is one.
    ///
    /// # Errors
    ///
    /// Where there are too many channels, or what the channel keeps cannot be read.
    pub(super) fn attach(
        &mut self,
        channel: &ChannelName,
        since: Option<&SinceOffset>,
        conn: ConnId,
        attempt: Attempt,
    ) -> Result<Option<Condition>, Refusal> {
        if !self.is_replicated(channel) {
            return Ok(None);
        }
        let is_cut_off = self.registry.is_cut_off();
        let key = self.channel_for(channel, Publisher::Connection(conn))?;
        if self.channels.get(key).replication.is_none() {
            let replication = Replication { is_reading: true, ..Replication::default() };
            self.channels.get_mut(key).replication = Some(Box::new(replication));
            self.channels.note_use(key);
            let (channel, epoch) = (channel.clone(), self.channels.get(key).epoch.clone());
            let request = TypedRequest::attach(channel.clone(), epoch.as_str().to_owned());
            self.request(request, move |state, found, now| {
                state.attached((&channel, &epoch), found, now);
            });
        }
        let state = self.channels.get(key);
        let is_ahead = attempt == Attempt::First
            && since.is_some_and(|since| {
                *since.epoch == *state.epoch.as_str() && since.offset > state.offset
            });
        let is_live = state.replication.as_ref().is_some_and(|replication| replication.is_live);
        if is_live && !is_ahead {
            return Ok(None);
        }
        // What it waited for came, or will not.
        if is_cut_off || (attempt == Attempt::AfterWait && !is_live) {
            if !is_live {
                self.forget_unused(channel);
            }
            return Err(Refusal::unavailable());
        }
        self.heal(key);
        Ok(Some(Condition::ChannelRead(channel.clone())))
    }

    /// Drops a channel that could not be followed and that nobody follows.
    fn forget_unused(&mut self, channel: &ChannelName) {
        let Some(key) = self.channels.find(channel) else { return };
        if !self.channels.get(key).members.is_empty() {
            return;
        }
        if self.channels.delete(key).replication.is_some() {
            self.push(Effect::LeaveTopic(channel.clone()));
            self.wake(Condition::ChannelRead(channel.clone()), Waited::Failed);
        }
    }

    /// A channel's followers here have changed.
    pub(super) fn note_followers(&mut self, key: u32, now: Moment) {
        let Some(cluster_state) = &mut self.cluster_state else { return };
        let state = self.channels.get(key);
        if state.replication.is_none() {
            return;
        }
        cluster_state.cluster_presence.note_channel(&state.name);
        if state.members.is_empty() {
            let at_ms = now.unix_ms + limits::CHANNEL_LEAVE_MS;
            cluster_state.leaving.push_back((at_ms, state.name.clone()));
        }
    }

    /// Leaves the topics that nobody has followed here for long enough.
    pub(in crate::state) fn leave_topics(&mut self, now: Moment) {
        while let Some(cluster_state) = &mut self.cluster_state
            && cluster_state.leaving.front().is_some_and(|(at_ms, _)| *at_ms <= now.unix_ms)
            && let Some((_, channel)) = cluster_state.leaving.pop_front()
        {
            // Somebody may have come meanwhile, or may wait for what is being read.
            let is_idle = self.channels.find(&channel).is_some_and(|key| {
                let state = self.channels.get(key);
                let is_read =
                    state.replication.as_ref().is_some_and(|replication| !replication.is_reading);
                state.members.is_empty() && is_read
            });
            if is_idle {
                self.forget_unused(&channel);
            }
        }
    }

    /// A channel has been read for the first time.
    fn attached(
        &mut self,
        (channel, epoch): (&ChannelName, &Epoch),
        found: Result<Option<ChannelState>, NoResponse>,
        now: Moment,
    ) {
        let is_awaited = self.channels.find(channel).is_some_and(|key| {
            let state = self.channels.get(key);
            let is_new = state.replication.as_ref().is_some_and(|replication| !replication.is_live);
            is_new && state.epoch == *epoch
        });
        if !is_awaited {
            // It was left meanwhile. Who came to it again has asked again, and an older answer would
            // set back what they have.
            return;
        }
        let Ok(Some(found)) = found else {
            // With followers it would have been live: they cannot be here yet.
            return self.forget_unused(channel);
        };
        let Some(key) = self.channels.find(channel) else { return };
        self.begin(key, found);
        let stashed = match &mut self.channels.get_mut(key).replication {
            Some(replication) => {
                replication.is_live = true;
                std::mem::take(&mut replication.stash)
            }
            None => return,
        };
        self.end_reading(key, Waited::Met);
        let epoch = self.channels.get(key).epoch.clone();
        for placed in stashed.into_values().filter(|placed| placed.epoch == epoch.as_str()) {
            self.offer(placed, true, now);
        }
        self.leave_unless_followed(key, now);
    }

    /// Whoever waited for what was read may have gone.
    fn leave_unless_followed(&mut self, key: u32, now: Moment) {
        if self.channels.get(key).members.is_empty() {
            self.note_followers(key, now);
        }
    }

    /// Takes a channel's place and history as they were read.
    fn begin(&mut self, key: u32, found: ChannelState) {
        let state = self.channels.get_mut(key);
        if let Some(replication) = &mut state.replication
            && state.epoch.as_str() != found.epoch
        {
            replication.stash.retain(|_, placed| placed.epoch == found.epoch);
            replication.past.retain(|epoch| epoch.as_str() != found.epoch);
            replication.past.push_back(state.epoch.clone());
            if replication.past.len() > limits::CHANNEL_EPOCHS_MAX {
                replication.past.pop_front();
            }
        }
        self.channels.restart(key, Epoch::new(&found.epoch));
        for placed in found.kept {
            self.channels.get_mut(key).offset = placed.offset;
            if let Some(frame) = message::placed(&placed.message.text, placed.offset) {
                self.channels.keep(key, &frame, placed.at_ms);
            }
        }
        self.channels.get_mut(key).offset = found.offset;
    }

    fn end_reading(&mut self, key: u32, how: Waited) {
        let state = self.channels.get_mut(key);
        let Some(replication) = &mut state.replication else { return };
        replication.is_reading = false;
        let condition = Condition::ChannelRead(state.name.clone());
        self.wake(condition, how);
    }

    /// Messages from topics.
    pub fn on_placed(&mut self, messages: Vec<Placed>, now: Moment) {
        for placed in messages {
            self.offer(placed, true, now);
        }
        self.bound_histories();
    }

    /// Takes a message in its turn. `is_heard` says that it comes by the topic, where what is not
    /// there by now was missed.
    pub(super) fn offer(&mut self, placed: Placed, is_heard: bool, now: Moment) {
        let Some(key) = self.channels.find(&placed.message.channel) else { return };
        let state = self.channels.get_mut(key);
        let is_same = state.epoch.as_str() == placed.epoch;
        let offset = state.offset;
        let Some(replication) = &mut state.replication else { return };
        if !replication.is_live {
            // Read first, then this. What does not fit is missed and read again.
            if is_heard && replication.stash.len() < limits::CHANNEL_STASH_MAX {
                replication.stash.insert(placed.offset, placed);
            }
            return;
        }
        if !is_same {
            let is_past = replication.past.iter().any(|epoch| epoch.as_str() == placed.epoch);
            if is_heard && is_past {
                // Of an epoch that was left, or that this node was led away from: what is being read
                // tells which.
                if replication.is_reading && replication.stash.len() < limits::CHANNEL_STASH_MAX {
                    replication.stash.entry(placed.offset).or_insert(placed);
                }
            } else if is_heard {
                // Redis lost the channel, or it was deleted: it goes on under another epoch.
                let found = ChannelState {
                    epoch: placed.epoch.clone(),
                    offset: placed.offset - 1,
                    kept: Vec::new(),
                };
                self.begin(key, found);
                self.tell_place(key);
                self.pass_on(key, &placed, now);
                // Or the message was on its way for long, and the channel has another epoch by now.
                self.heal(key);
            }
            return;
        }
        if placed.offset <= offset {
            return;
        }
        if placed.offset > offset + 1 {
            if replication.stash.len() < limits::CHANNEL_STASH_MAX {
                replication.stash.insert(placed.offset, placed);
            }
            if is_heard {
                self.heal(key);
            }
            return;
        }
        self.pass_on(key, &placed, now);
        self.unstash(key, now);
    }

    /// Passes on what waited for the message before it.
    fn unstash(&mut self, key: u32, now: Moment) {
        loop {
            let state = self.channels.get_mut(key);
            let (next, epoch) = (state.offset + 1, state.epoch.clone());
            let Some(replication) = &mut state.replication else { return };
            replication.stash = replication.stash.split_off(&next);
            let Some(placed) = replication.stash.remove(&next) else { return };
            if placed.epoch != epoch.as_str() {
                return;
            }
            self.pass_on(key, &placed, now);
        }
    }

    /// Gives the followers the next message.
    fn pass_on(&mut self, key: u32, placed: &Placed, now: Moment) {
        let offset = placed.offset;
        self.channels.get_mut(key).offset = offset;
        if let Some(frame) = message::placed(&placed.message.text, offset) {
            self.channels.keep(key, &frame, now.steady_ms(placed.at_ms.min(now.wall_ms)));
            let except = placed.message.except.as_ref().and_then(|name| name.parse().ok());
            let except = except.filter(|name: &ConnName| name.is_at(&self.node));
            let aim = except.map_or_else(Aim::default, |name| Aim::past(name.conn));
            self.send_to_channel(key, frame, aim);
        }
        let own = self.cluster_state.as_mut().map(|cluster_state| &mut cluster_state.own_messages);
        if let Some(reply) = own.and_then(|own| own.remove(&placed.message.text)) {
            // The reply stands exactly here among the channel's messages.
            let channel = &placed.message.channel;
            self.reply_placed(channel, reply, &placed.epoch, offset);
            self.wake(Condition::ChannelAt(channel.clone(), offset), Waited::Met);
        }
    }

    /// Publishes a message to the followers on all nodes. The reply goes out where the message does,
    /// unless nobody follows it here.
    pub(super) fn publish_to_all(
        &mut self,
        message: ChannelMessage,
        reply: PlacedReply,
        now: Moment,
    ) {
        let is_cut_off = self.registry.is_cut_off();
        let Some(cluster_state) = self.cluster_state.as_mut().filter(|_| !is_cut_off) else {
            return self.refuse_placed(&message.channel, reply, now);
        };
        cluster_state.own_messages.insert(message.text.clone(), reply);
        let (history_max, history_ms) = self.channels.keeping(&message.channel);
        let keeping = (history_max, history_ms, self.channels.keeping_bytes());
        let epoch = self.channels.fresh_epoch();
        let request = TypedRequest::publish(message.clone(), epoch, keeping);
        self.request(request, move |state, place, now| state.on_place(message, place, now));
    }

    fn take_own(&mut self, text: &Bytes) -> Option<PlacedReply> {
        self.cluster_state.as_mut()?.own_messages.remove(text)
    }

    /// A message of this node has its place, or has none.
    fn on_place(&mut self, message: ChannelMessage, place: Result<Place, NoResponse>, now: Moment) {
        let (channel, text) = (message.channel.clone(), message.text.clone());
        let Ok(Place { epoch, offset, at_ms }) = place else {
            if let Some(reply) = self.take_own(&text) {
                self.refuse_placed(&channel, reply, now);
            }
            return;
        };
        self.offer(Placed { epoch: epoch.clone(), offset, at_ms, message }, false, now);
        let of_epoch = epoch.clone();
        let finish = move |state: &mut State, channel: &ChannelName| {
            if let Some(reply) = state.take_own(&text) {
                state.reply_placed(channel, reply, &of_epoch, offset);
            }
        };
        let key = self.channels.find(&channel).filter(|&key| {
            let replication = self.channels.get(key).replication.as_ref();
            replication.is_some_and(|replication| replication.is_live)
        });
        let Some(key) = key else { return finish(self, &channel) };
        let state = self.channels.get(key);
        let is_stashed =
            state.replication.as_ref().is_some_and(|one| one.stash.contains_key(&offset));
        let condition = if state.epoch.as_str() != epoch {
            // Redis lost the channel: its followers here hear first where it stands now.
            self.heal(key);
            Condition::ChannelRead(channel.clone())
        } else if is_stashed {
            // It goes out here behind messages that are still missing.
            Condition::ChannelAt(channel.clone(), offset)
        } else {
            return finish(self, &channel);
        };
        self.wait(condition, move |state, _, _| finish(state, &channel));
    }

    /// Replies that a message has its place.
    fn reply_placed(
        &mut self,
        channel: &ChannelName,
        reply: PlacedReply,
        epoch: &str,
        offset: u64,
    ) {
        match reply {
            PlacedReply::Published { id, without, reply } => {
                let aim = without.map_or_else(Aim::default, Aim::past);
                let delivered_to = self.count_in_cluster(channel, &aim);
                let (channel, epoch) = (channel.clone(), Epoch::new(epoch));
                let (offset, message_id) = (Some(offset), id);
                let published = Published { channel, epoch, offset, message_id, delivered_to };
                self.reply(reply, Ok(published));
            }
            PlacedReply::Chatted { person, content, id, stamp, has_copy, reply, .. } => {
                let from = (&person.user_id, &*person.username);
                let copy =
                    || message::chat(channel, stamp, Some(offset), from, &content, id.as_ref());
                let (channel, copy) = (channel.clone(), has_copy.then(copy));
                self.reply(reply, Ok(Chatted { channel, copy }));
            }
        }
    }

    /// Replies that a message has no place. Whoever would have joined a room by it did not.
    fn refuse_placed(&mut self, channel: &ChannelName, reply: PlacedReply, now: Moment) {
        match reply {
            PlacedReply::Published { reply, .. } => {
                self.reply(reply, Err(Refusal::unavailable()));
            }
            PlacedReply::Chatted { conn, is_first, reply, .. } => {
                if is_first {
                    let _ = self.leave(conn, channel.clone(), now);
                }
                self.reply(reply, Err(Refusal::unavailable()));
            }
        }
    }

    /// Reads what was missed.
    fn heal(&mut self, key: u32) {
        // Where Redis has lost the channel it begins anew, and its followers hear of it now.
        let fresh = self.channels.fresh_epoch();
        let state = self.channels.get_mut(key);
        let (channel, epoch, after) = (state.name.clone(), state.epoch.clone(), state.offset);
        let Some(replication) = &mut state.replication else { return };
        if !replication.is_live || std::mem::replace(&mut replication.is_reading, true) {
            return;
        }
        let request = TypedRequest::read_missed(channel.clone(), after, fresh);
        self.request(request, move |state, found, now| {
            state.healed((&channel, &epoch, after), found, now);
        });
    }

    /// Topics were not heard for a while: looks at every channel.
    pub fn on_relinked(&mut self) {
        let keys: Vec<u32> = self.channels.keys().collect();
        for key in keys {
            self.heal(key);
        }
    }

    /// What was missed has been read.
    fn healed(
        &mut self,
        (channel, epoch, after): (&ChannelName, &Epoch, u64),
        found: Result<Option<ChannelState>, NoResponse>,
        now: Moment,
    ) {
        let Some(key) = self.channels.find(channel) else { return };
        let Ok(found) = found else {
            if let Some(cluster_state) = &mut self.cluster_state {
                cluster_state.unhealed.push(channel.clone());
            }
            self.end_reading(key, Waited::Failed);
            return self.leave_unless_followed(key, now);
        };
        let state = self.channels.get(key);
        match found {
            None => {}
            Some(found) if found.epoch != state.epoch.as_str() => {
                // From the first that is kept: nobody here has had any of these.
                let offset = found.kept.first().map_or(found.offset, |first| first.offset - 1);
                let epoch = found.epoch.clone();
                self.begin(key, ChannelState { epoch, offset, kept: Vec::new() });
                self.tell_place(key);
                self.catch_up(key, found, now);
            }
            Some(found) if found.epoch == epoch.as_str() && found.offset < after => {
                // Redis lost its newest: those offsets must not be given to other messages under
                // the same epoch.
                tracing::warn!(%channel, "Redis knows less of a channel than its followers");
                self.request(TypedRequest::delete(channel.clone(), true), |_, _, _| {});
            }
            Some(found) => self.catch_up(key, found, now),
        }
        self.unstash(key, now);
        self.end_reading(key, Waited::Met);
        self.leave_unless_followed(key, now);
    }

    fn catch_up(&mut self, key: u32, found: ChannelState, now: Moment) {
        let mut healed = 0;
        for placed in found.kept {
            let offset = self.channels.get(key).offset;
            if placed.offset <= offset {
                continue;
            }
            if placed.offset > offset + 1 {
                self.jump(key, placed.offset - 1);
            }
            self.pass_on(key, &placed, now);
            healed += 1;
        }
        self.healed_total += healed;
        let is_whole = healed < limits::CHANNEL_HEAL_MAX as u64;
        if is_whole && self.channels.get(key).offset < found.offset {
            self.jump(key, found.offset);
        }
    }

    /// What lies between is gone for good.
    fn jump(&mut self, key: u32, offset: u64) {
        let epoch = self.channels.get(key).epoch.clone();
        self.channels.restart(key, epoch);
        self.channels.get_mut(key).offset = offset;
        self.tell_place(key);
    }

    /// Tells the followers where the channel stands after something was lost.
    fn tell_place(&mut self, key: u32) {
        let state = self.channels.get(key);
        let (channel, shards) = (state.name.clone(), state.shards);
        let at = ChannelPlace { channel: &channel, epoch: &state.epoch, offset: state.offset };
        let frame = answer::subscribed_to_channel(None, at, Some(false));
        self.send(Topic::Channel(channel), Some(shards), frame, Aim::default());
    }

    /// Tries again what could not be read.
    pub(in crate::state) fn heal_again(&mut self) {
        let Some(cluster_state) = &mut self.cluster_state else { return };
        for channel in std::mem::take(&mut cluster_state.unhealed) {
            if let Some(key) = self.channels.find(&channel) {
                self.heal(key);
            }
        }
    }
}
