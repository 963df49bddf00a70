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
//! told where the channel stands now. `state::channel_stream` decides which message is the next one.
//!
//! # Promises
//!
//! * Followers get a channel's messages in the order of their offsets, each once.
//! * A publisher's answer stands among a channel's messages exactly where its own message does.
//! * A channel without followers here costs this node nothing.

use super::commands::Publisher;
use super::{Aim, Attempt};
use crate::clock::Moment;
use crate::id::{ChannelName, ConnId, ConnName, Epoch, Topic};
use crate::limits;
use crate::state::State;
use crate::state::backplane::{
    ChannelMessage, ChannelState, MessagePosition, NoResponse, SequencedMessage, TypedRequest,
};
use crate::state::channel_stream::{ChannelStream, Offered, Repair, Step, StreamPosition, repair};
use crate::state::effect::{Condition, Effect, Waited};
use crate::wire::answer::{self, ChannelPosition};
use crate::wire::command::SinceOffset;
use crate::wire::message;
use crate::wire::refusal::Refusal;

impl State {
    /// Sees to it that a channel can be followed here. Returns the condition that has to become true
    /// first; a channel of this node alone has none.
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
        if !self.sequencer.shares(channel) {
            return Ok(None);
        }
        let is_cut_off = self.registry.is_cut_off();
        let key = self.channel_for(channel, Publisher::Connection(conn))?;
        if self.channels.get(key).stream.is_none() {
            self.channels.get_mut(key).stream = Some(Box::new(ChannelStream::reading()));
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
        let is_live = state.stream.as_ref().is_some_and(|stream| stream.is_live);
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
        if self.channels.get(key).members.is_empty() && self.channels.delete(key).stream.is_some() {
            self.leave_topic(channel);
        }
    }

    /// Leaves the topic of a channel that is gone here.
    pub(super) fn leave_topic(&mut self, channel: &ChannelName) {
        self.push(Effect::LeaveTopic(channel.clone()));
        self.wake(Condition::ChannelRead(channel.clone()), Waited::Failed);
    }

    /// A channel's followers here have changed.
    pub(super) fn note_followers(&mut self, key: u32, now: Moment) {
        let state = self.channels.get(key);
        if state.stream.is_none() {
            return;
        }
        self.cluster_presence.dirty.note_channel(&state.name);
        if state.members.is_empty() {
            let at_ms = now.unix_ms + limits::CHANNEL_LEAVE_MS;
            self.sequencer.leaving.push_back((at_ms, state.name.clone()));
        }
    }

    /// Leaves the topics that nobody has followed here for long enough.
    pub(in crate::state) fn leave_topics(&mut self, now: Moment) {
        let is_due = |(at_ms, _): &mut (u64, ChannelName)| *at_ms <= now.unix_ms;
        while let Some((_, channel)) = self.sequencer.leaving.pop_front_if(is_due) {
            // Somebody may have come meanwhile, or may wait for what is being read.
            let is_idle = self.channels.find(&channel).is_some_and(|key| {
                let state = self.channels.get(key);
                let is_read = state.stream.as_ref().is_some_and(|stream| !stream.is_reading);
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
        // It may have been left meanwhile. Who came to it again has asked again, and an older answer
        // would set back what they have.
        let is_awaited = |key: &u32| {
            let state = self.channels.get(*key);
            let is_new = state.stream.as_ref().is_some_and(|stream| !stream.is_live);
            is_new && state.epoch == *epoch
        };
        let Some(key) = self.channels.find(channel).filter(is_awaited) else { return };
        let Ok(Some(found)) = found else {
            // With followers it would have been live: they cannot be here yet.
            return self.forget_unused(channel);
        };
        self.restart(key, &found.epoch, 0);
        for SequencedMessage { offset, at_ms, message, .. } in found.kept {
            self.channels.get_mut(key).offset = offset;
            if let Some(frame) = message::with_offset(&message.text, offset) {
                self.channels.keep(key, &frame, at_ms);
            }
        }
        let state = self.channels.get_mut(key);
        state.offset = found.offset;
        let stashed = state.stream.as_mut().map(|stream| stream.go_live());
        let (of_epoch, of_others): (Vec<_>, Vec<_>) =
            stashed.into_iter().flatten().partition(|one| one.epoch == found.epoch);
        self.end_reading(key, Waited::Met);
        for message in of_epoch {
            self.offer(message, true, now);
        }
        if !of_others.is_empty() {
            // Which epoch is the later one, another reading tells.
            self.heal(key);
        }
        self.leave_unless_followed(key, now);
    }

    /// Whoever waited for what was read may have gone.
    fn leave_unless_followed(&mut self, key: u32, now: Moment) {
        if self.channels.get(key).members.is_empty() {
            self.note_followers(key, now);
        }
    }

    /// Empties a channel, which goes on after an offset of an epoch.
    fn restart(&mut self, key: u32, epoch: &str, offset: u64) {
        let state = self.channels.get_mut(key);
        if let Some(stream) = &mut state.stream {
            stream.enter_epoch(&state.epoch, epoch);
        }
        self.channels.restart(key, Epoch::new(epoch));
        self.channels.get_mut(key).offset = offset;
    }

    fn end_reading(&mut self, key: u32, how: Waited) {
        let state = self.channels.get_mut(key);
        let Some(stream) = &mut state.stream else { return };
        stream.is_reading = false;
        let condition = Condition::ChannelRead(state.name.clone());
        self.wake(condition, how);
    }

    /// Messages from topics.
    pub fn on_channel_messages(&mut self, messages: Vec<SequencedMessage>, now: Moment) {
        for message in messages {
            self.offer(message, true, now);
        }
        self.bound_histories();
    }

    /// Takes a message in its turn. `is_heard` says that it comes from the topic.
    fn offer(&mut self, message: SequencedMessage, is_heard: bool, now: Moment) {
        let Some(key) = self.channels.find(&message.message.channel) else { return };
        let state = self.channels.get_mut(key);
        let at = StreamPosition { epoch: state.epoch.as_str(), offset: state.offset };
        let Some(stream) = &mut state.stream else { return };
        match stream.offer(at, message, is_heard) {
            Offered::Nothing => {}
            Offered::Gap => self.heal(key),
            Offered::Deliver(message) => {
                self.pass_on_sequenced(key, &message, now);
                self.pass_on_stashed(key, now);
            }
            Offered::Reset(message) => {
                self.jump(key, &message.epoch, message.offset - 1);
                self.pass_on_sequenced(key, &message, now);
                // Or the message was on its way for long, and the channel has another epoch by now.
                self.heal(key);
            }
        }
    }

    /// Passes on what waited for the message before it.
    fn pass_on_stashed(&mut self, key: u32, now: Moment) {
        loop {
            let state = self.channels.get_mut(key);
            let at = StreamPosition { epoch: state.epoch.as_str(), offset: state.offset };
            let stream = state.stream.as_mut();
            let Some(message) = stream.and_then(|stream| stream.take_next(at)) else { return };
            self.pass_on_sequenced(key, &message, now);
        }
    }

    /// Gives the followers here the next message of a stream.
    fn pass_on_sequenced(&mut self, key: u32, sequenced: &SequencedMessage, now: Moment) {
        let SequencedMessage { offset, at_ms, message, .. } = sequenced;
        self.channels.get_mut(key).offset = *offset;
        let Some(frame) = message::with_offset(&message.text, *offset) else { return };
        let except = message.except.as_ref().and_then(|name| name.parse().ok());
        let except = except.filter(|name: &ConnName| name.is_at(&self.node));
        let reply = self.sequencer.unplaced.remove(&message.text);
        let is_own = reply.is_some();
        let kept_ms = now.steady_ms((*at_ms).min(now.wall_ms));
        self.pass_on(key, frame, kept_ms, except.map(|name| name.conn), reply);
        if is_own {
            self.wake(Condition::ChannelAt(message.channel.clone(), *offset), Waited::Met);
        }
    }

    /// A message of this node has its offset, or has none.
    pub(in crate::state) fn on_published(
        &mut self,
        message: ChannelMessage,
        position: Result<MessagePosition, NoResponse>,
        now: Moment,
    ) {
        let (channel, text) = (message.channel.clone(), message.text.clone());
        let refused = text.clone();
        let Ok(MessagePosition { epoch, offset, at_ms }) = position else {
            if let Some(reply) = self.sequencer.unplaced.remove(&text) {
                self.refuse_publisher(reply, Refusal::unavailable(), now);
            }
            return;
        };
        self.offer(SequencedMessage { epoch: epoch.clone(), offset, at_ms, message }, false, now);
        let of_epoch = Epoch::new(&epoch);
        let finish = move |state: &mut State, key: Option<u32>| {
            if let Some(reply) = state.sequencer.unplaced.remove(&text) {
                state.reply_publisher(key, reply, of_epoch, offset);
            }
        };
        let key = self.channels.find(&channel);
        let is_live = |key: &u32| {
            self.channels.get(*key).stream.as_ref().is_some_and(|stream| stream.is_live)
        };
        let Some(live) = key.filter(is_live) else { return finish(self, key) };
        let state = self.channels.get(live);
        let is_stashed = state.stream.as_ref().is_some_and(|stream| stream.is_stashed(offset));
        let condition = if state.epoch.as_str() != epoch {
            // Redis lost the channel: its followers here hear first where it stands now.
            self.heal(live);
            Condition::ChannelRead(channel.clone())
        } else if is_stashed {
            // It goes out here behind messages that are still missing.
            Condition::ChannelAt(channel.clone(), offset)
        } else {
            return finish(self, key);
        };
        self.wait(condition, move |state, how, now| {
            let key = state.channels.find(&channel);
            if matches!(how, Waited::Met) {
                return finish(state, key);
            }
            // What is before it here may be missing for long. An answer ahead of that would say that its
            // reader has all of it.
            if let Some(reply) = state.sequencer.unplaced.remove(&refused) {
                state.refuse_publisher(reply, Refusal::unavailable(), now);
            }
        });
    }

    /// Reads what was missed.
    fn heal(&mut self, key: u32) {
        let state = self.channels.get_mut(key);
        if !state.stream.as_mut().is_some_and(|stream| stream.begin_repair()) {
            return;
        }
        let (channel, epoch, after) = (state.name.clone(), state.epoch.clone(), state.offset);
        // Where Redis has lost the channel it begins anew, and its followers hear of it now.
        let fresh = self.channels.fresh_epoch();
        let request = TypedRequest::read_missed(channel.clone(), after, fresh);
        self.request(request, move |state, found, now| {
            let asked = StreamPosition { epoch: epoch.as_str(), offset: after };
            state.healed(&channel, asked, found, now);
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
        channel: &ChannelName,
        asked: StreamPosition<'_>,
        found: Result<Option<ChannelState>, NoResponse>,
        now: Moment,
    ) {
        let Some(key) = self.channels.find(channel) else { return };
        let Ok(found) = found else {
            self.sequencer.unhealed.push(channel.clone());
            self.end_reading(key, Waited::Failed);
            return self.leave_unless_followed(key, now);
        };
        let state = self.channels.get_mut(key);
        let at = StreamPosition { epoch: state.epoch.as_str(), offset: state.offset };
        let is_of_other = found.as_ref().is_some_and(|found| found.epoch != at.epoch);
        if is_of_other && asked.epoch != at.epoch {
            // The topic has led elsewhere meanwhile, and the answer may be from before that.
            if let Some(stream) = &mut state.stream {
                stream.is_reading = false;
            }
            return self.heal(key);
        }
        match repair(at, asked, found) {
            Repair::Steps(steps) => self.carry_out_repair(key, steps, now),
            Repair::Delete => {
                tracing::warn!(%channel, "Redis knows less of a channel than its followers");
                self.request(TypedRequest::delete(channel.clone(), true), |_, _, _| {});
            }
        }
        self.pass_on_stashed(key, now);
        self.end_reading(key, Waited::Met);
        self.leave_unless_followed(key, now);
    }

    fn carry_out_repair(&mut self, key: u32, steps: Vec<Step>, now: Moment) {
        for step in steps {
            match step {
                Step::Deliver(message) => {
                    self.pass_on_sequenced(key, &message, now);
                    self.healed_total += 1;
                }
                Step::JumpTo(epoch, offset) => self.jump(key, &epoch, offset),
            }
        }
    }

    /// Goes on after an offset, and tells the followers that what lies before it is lost to them.
    fn jump(&mut self, key: u32, epoch: &str, offset: u64) {
        self.restart(key, epoch, offset);
        let state = self.channels.get(key);
        let (channel, shards) = (state.name.clone(), state.shards);
        let at = ChannelPosition { channel: &channel, epoch: &state.epoch, offset };
        let frame = answer::subscribed_to_channel(None, at, Some(false));
        self.send(Topic::Channel(channel), Some(shards), frame, Aim::default());
    }

    /// Tries again what could not be read.
    pub(in crate::state) fn heal_again(&mut self) {
        for channel in std::mem::take(&mut self.sequencer.unhealed) {
            if let Some(key) = self.channels.find(&channel) {
                self.heal(key);
            }
        }
    }
}
