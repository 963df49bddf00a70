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
//! Part of `state::talk`.

#[cfg(test)]
mod tests;

use super::{Aim, Outgoing, Publisher, Told};
use crate::clock::Moment;
use crate::id::{ChannelName, ConnId, ConnName, Epoch, Topic};
use crate::limits;
use crate::state::abroad::{Errand, Release};
use crate::state::call::{Call, ChannelMessage, ChannelState, Placed, Reply};
use crate::state::link::Link;
use crate::state::then::Then;
use crate::state::{Outcome, State};
use crate::wire::answer::{self, ChannelPlace};
use crate::wire::command::SinceOffset;
use crate::wire::message;
use crate::wire::refusal::{Code, Refusal};

impl State {
    /// Whether a channel is that of all nodes.
    pub(super) fn is_linked(&self, channel: &ChannelName) -> bool {
        self.abroad.is_some() && !channel.as_str().starts_with('$')
    }

    /// Sees to it that a channel can be followed here. What is returned instead of nothing has to
    /// come first.
    pub(super) fn link(
        &mut self,
        channel: &ChannelName,
        since: Option<&SinceOffset>,
        conn: ConnId,
        wait: impl FnOnce() -> super::Talk,
    ) -> Option<Outcome> {
        if !self.is_linked(channel) {
            return None;
        }
        let is_cut_off = self.registry.is_cut_off();
        let key = match self.channel_for(channel, Publisher::Connection(conn)) {
            Ok(key) => key,
            Err(fault) => return Some(Told::refuse(Code::RateLimited, fault.message()).into()),
        };
        let epoch = self.channels.get(key).epoch.as_str().to_owned();
        let is_new = self.channels.get(key).link.is_none();
        if is_new {
            let link = Link { is_reading: true, ..Link::default() };
            self.channels.get_mut(key).link = Some(Box::new(link));
            self.channels.note_use(key);
        }
        let state = self.channels.get_mut(key);
        let is_ahead = since
            .is_some_and(|since| *since.epoch == *epoch && since.offset > state.offset)
            && !self.is_rerun;
        let abroad = self.abroad.as_mut()?;
        if is_new {
            let channel = channel.clone();
            abroad.call(
                Call::Attach { channel: channel.clone(), epoch: epoch.clone() },
                Then::Attached { channel, epoch },
            );
        }
        let link = state.link.as_mut()?;
        if link.is_live && !is_ahead {
            return None;
        }
        // What it waited for came, or will not.
        if is_cut_off || (self.is_rerun && !link.is_live) {
            if !link.is_live {
                self.forget_unused(channel);
            }
            return Some(Told::Refused(Refusal::unavailable()).into());
        }
        link.waiting.push(self.ticket);
        self.heal(key);
        Some(Outcome::Await(Box::new(wait())))
    }

    /// Drops a channel that could not be followed and that nobody follows.
    fn forget_unused(&mut self, channel: &ChannelName) {
        let Some(key) = self.channels.find(channel) else { return };
        if !self.channels.get(key).members.is_empty() {
            return;
        }
        let mut state = self.channels.delete(key);
        if let (Some(abroad), Some(link)) = (&mut self.abroad, state.link.take()) {
            abroad.errands.push(Errand::Detach(channel.clone()));
            link.end(abroad);
        }
    }

    /// A channel's followers here have changed.
    pub(super) fn note_followers(&mut self, key: u32, now: Moment) {
        let Some(abroad) = &mut self.abroad else { return };
        let state = self.channels.get(key);
        if state.link.is_none() {
            return;
        }
        abroad.commons.note_channel(&state.name);
        if state.members.is_empty() {
            let at_ms = now.unix_ms + limits::CHANNEL_LEAVE_MS;
            abroad.leaving.push_back((at_ms, state.name.clone()));
        }
    }

    /// Leaves the topics that nobody has followed here for long enough.
    pub(in crate::state) fn leave_topics(&mut self, now: Moment) {
        while let Some(abroad) = &mut self.abroad
            && abroad.leaving.front().is_some_and(|(at_ms, _)| *at_ms <= now.unix_ms)
            && let Some((_, channel)) = abroad.leaving.pop_front()
        {
            // Somebody may have come meanwhile; who waits for it will follow.
            let is_idle = self.channels.find(&channel).is_some_and(|key| {
                let state = self.channels.get(key);
                let is_read = state.link.as_ref().is_some_and(|link| link.waiting.is_empty());
                state.members.is_empty() && is_read
            });
            if is_idle {
                self.forget_unused(&channel);
            }
        }
    }

    /// A channel has been read for the first time.
    pub(in crate::state) fn attached(
        &mut self,
        (channel, epoch): (&ChannelName, &str),
        reply: Reply,
        now: Moment,
    ) {
        let is_awaited = self.channels.find(channel).is_some_and(|key| {
            let state = self.channels.get(key);
            let is_new = state.link.as_ref().is_some_and(|link| !link.is_live);
            is_new && state.epoch.as_str() == epoch
        });
        if !is_awaited {
            // It was left meanwhile. Who came to it again has asked again, and an older answer would
            // set back what they have.
            return;
        }
        let Reply::Channel(Some(found)) = reply else {
            // With followers it would have been live: they cannot be here yet.
            return self.forget_unused(channel);
        };
        let Some(key) = self.channels.find(channel) else { return };
        self.begin(key, found);
        let stashed = match &mut self.channels.get_mut(key).link {
            Some(link) => {
                (link.is_live, link.is_reading) = (true, false);
                std::mem::take(&mut link.stash)
            }
            None => return,
        };
        self.read_done(key, Release::Again);
        let epoch = self.channels.get(key).epoch.clone();
        for placed in stashed.into_values().filter(|placed| placed.epoch == epoch.as_str()) {
            self.offer(placed, true, now);
        }
        if self.channels.get(key).members.is_empty() {
            // Whoever waited may have gone.
            self.note_followers(key, now);
        }
    }

    /// Takes a channel's place and history as they were read.
    fn begin(&mut self, key: u32, found: ChannelState) {
        let state = self.channels.get_mut(key);
        if let Some(link) = &mut state.link
            && state.epoch.as_str() != found.epoch
        {
            link.stash.retain(|_, placed| placed.epoch == found.epoch);
            link.past.push_back(state.epoch.clone());
            if link.past.len() > limits::CHANNEL_EPOCHS_MAX {
                link.past.pop_front();
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

    fn read_done(&mut self, key: u32, how: Release) {
        let Some(link) = &mut self.channels.get_mut(key).link else { return };
        link.is_reading = false;
        let waiting = std::mem::take(&mut link.waiting);
        if let Some(abroad) = &mut self.abroad {
            abroad.release(waiting, how);
        }
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
        let Some(link) = &mut state.link else { return };
        if !link.is_live {
            // Read first, then this. What does not fit is missed and read again.
            if is_heard && link.stash.len() < limits::CHANNEL_STASH_MAX {
                link.stash.insert(placed.offset, placed);
            }
            return;
        }
        if !is_same {
            let is_past = link.past.iter().any(|epoch| epoch.as_str() == placed.epoch);
            if is_heard && !is_past {
                // Redis lost the channel, or it was deleted: it goes on under another name.
                let found = ChannelState {
                    epoch: placed.epoch.clone(),
                    offset: placed.offset - 1,
                    kept: Vec::new(),
                };
                self.begin(key, found);
                self.tell_place(key);
                self.pass_on(key, &placed, now);
            }
            return;
        }
        if placed.offset <= offset {
            return;
        }
        if placed.offset > offset + 1 {
            if link.stash.len() < limits::CHANNEL_STASH_MAX {
                link.stash.insert(placed.offset, placed);
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
            let next = state.offset + 1;
            let Some(link) = &mut state.link else { return };
            link.stash = link.stash.split_off(&next);
            let Some(placed) = link.stash.remove(&next) else { return };
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
        let Some(link) = &mut self.channels.get_mut(key).link else { return };
        if let Some((ticket, then)) = link.own.remove(&placed.message.text) {
            // Its answer stands exactly here among the channel's messages.
            let told = self.told_of_place(then, &placed.epoch, offset);
            self.outgoing.push(Outgoing::Answer(ticket, Box::new(told)));
        }
    }

    /// Notes that a message of this node is on its way, where it will come back here.
    pub(super) fn note_own(&mut self, message: &ChannelMessage, then: &Then) {
        let ticket = self.ticket;
        let key = self.channels.find(&message.channel);
        let link = key.and_then(|key| self.channels.get_mut(key).link.as_mut());
        if let Some(link) = link.filter(|link| link.is_live) {
            link.own.insert(message.text.clone(), (ticket, then.clone()));
        }
    }

    /// A message of this node has its place, or has none. Its answer goes out where the message
    /// does, unless nobody follows it here.
    pub(in crate::state) fn on_place(
        &mut self,
        message: ChannelMessage,
        then: Then,
        reply: Reply,
        now: Moment,
    ) -> Outcome {
        let Reply::Published { epoch, offset, at_ms } = reply else {
            let key = self.channels.find(&message.channel);
            if let Some(link) = key.and_then(|key| self.channels.get_mut(key).link.as_mut()) {
                link.own.remove(&message.text);
            }
            self.was_not_said(then, now);
            return Told::Refused(Refusal::unavailable()).into();
        };
        let ticket = self.ticket;
        let key = self.channels.find(&message.channel);
        let link = key.and_then(|key| self.channels.get_mut(key).link.as_mut());
        let own = link.and_then(|link| link.own.get_mut(&message.text));
        let is_waiting = own.map(|own| own.0 = ticket).is_some();
        let told = self.told_of_place(then, &epoch, offset);
        self.offer(Placed { epoch, offset, at_ms, message }, false, now);
        if is_waiting { Outcome::Hold(Box::new(told)) } else { told.into() }
    }

    /// Reads what was missed.
    fn heal(&mut self, key: u32) {
        // Where Redis has lost the channel it begins anew, and its followers hear of it now.
        let fresh = Some(self.channels.fresh_epoch());
        let state = self.channels.get_mut(key);
        let (channel, after) = (state.name.clone(), state.offset);
        let epoch = state.epoch.as_str().to_owned();
        let (Some(link), Some(abroad)) = (&mut state.link, &mut self.abroad) else { return };
        if !link.is_live || std::mem::replace(&mut link.is_reading, true) {
            return;
        }
        let limit = limits::CHANNEL_HEAL_MAX;
        let call = Call::Read { channel: channel.clone(), after, limit, epoch: fresh };
        abroad.call(call, Then::Healed { channel, epoch, after });
    }

    /// Topics were not heard for a while: looks at every channel.
    pub fn on_relinked(&mut self) {
        let keys: Vec<u32> = self.channels.keys().collect();
        for key in keys {
            self.heal(key);
        }
    }

    /// What was missed has been read.
    pub(in crate::state) fn healed(
        &mut self,
        (channel, epoch, after): (&ChannelName, &str, u64),
        reply: Reply,
        now: Moment,
    ) {
        let Some(key) = self.channels.find(channel) else { return };
        let Reply::Channel(found) = reply else {
            if let Some(abroad) = &mut self.abroad {
                abroad.unhealed.push(channel.clone());
            }
            return self.read_done(key, Release::Fail);
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
            Some(found) if found.epoch == epoch && found.offset < after => {
                // Redis lost its newest: those offsets must not be given to other messages under
                // the same epoch.
                tracing::warn!(%channel, "Redis knows less of a channel than its followers");
                if let Some(abroad) = &mut self.abroad {
                    abroad.call(Call::Delete { channel: channel.clone() }, Then::Nothing);
                }
            }
            Some(found) => self.catch_up(key, found, now),
        }
        self.unstash(key, now);
        self.read_done(key, Release::Again);
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
        let Some(abroad) = &mut self.abroad else { return };
        for channel in std::mem::take(&mut abroad.unhealed) {
            if let Some(key) = self.channels.find(&channel) {
                self.heal(key);
            }
        }
    }
}
