//! Channels as those see them who look: one, all of them, and what one keeps.

use std::collections::HashSet;

use bytes::Bytes;

use super::channel::no_channel;
use super::commands::ReadHistory;
use super::replies::History;
use crate::clock::Moment;
use crate::id::{ChannelName, Epoch};
use crate::limits;
use crate::state::State;
use crate::state::backplane::{ChannelState, TypedRequest};
use crate::state::channels::view::ChannelView;
use crate::state::reply::ReplyTo;
use crate::wire::message;
use crate::wire::refusal::Refusal;

/// A channel's position and what it keeps.
struct Kept {
    epoch: Epoch,
    offset: u64,
    frames: Vec<Bytes>,
}

impl State {
    /// Reads a channel's kept messages after an offset: in Redis where nodes share the channel, and here
    /// otherwise or while Redis is silent. Goes on with none where there is no such channel.
    fn read_kept(
        &mut self,
        channel: ChannelName,
        (after, limit): (u64, usize),
        now: Moment,
        finish: impl FnOnce(&mut State, ChannelName, Result<Option<Kept>, Refusal>) + Send + 'static,
    ) {
        if !self.sequencer.shares(&channel) || self.registry.is_cut_off() {
            let kept = self.channels.find(&channel).map(|key| {
                let frames = self.channels.history(key, after, limit, now.unix_ms);
                let state = self.channels.get(key);
                Kept { epoch: state.epoch.clone(), offset: state.offset, frames }
            });
            return finish(self, channel, Ok(kept));
        }
        let request = TypedRequest::read(channel.clone(), after, limit);
        self.request(request, move |state, found, now| {
            let kept = found
                .map(|found| found.map(|found| state.kept_in_redis(&channel, &found, now)))
                .map_err(|_| Refusal::unavailable());
            finish(state, channel, kept);
        });
    }

    fn kept_in_redis(&self, channel: &ChannelName, found: &ChannelState, now: Moment) -> Kept {
        let (_, history_ms) = self.channels.keeping(channel);
        let recent = found.kept.iter().filter(|one| one.at_ms + history_ms > now.wall_ms);
        let frames = recent.filter_map(|one| message::with_offset(&one.message.text, one.offset));
        let frames = frames.collect();
        Kept { epoch: Epoch::new(&found.epoch), offset: found.offset, frames }
    }

    /// Reads the kept messages of a channel after an offset.
    pub(super) fn read_history(&mut self, read: ReadHistory, reply: ReplyTo<History>, now: Moment) {
        let ReadHistory { channel, after, limit } = read;
        self.read_kept(channel, (after, limit), now, move |state, channel, kept| {
            let history = kept.and_then(|kept| {
                if let Some(Kept { epoch, frames, .. }) = kept {
                    return Ok(History { epoch, frames });
                }
                // Followed, and nothing was ever said.
                let key = state.channels.find(&channel).ok_or_else(no_channel)?;
                let epoch = state.channels.get(key).epoch.clone();
                Ok(History { epoch, frames: Vec::new() })
            });
            state.reply(reply, history);
        });
    }

    /// Describes a channel as all nodes see it.
    pub(super) fn describe_channel(
        &mut self,
        channel: ChannelName,
        reply: ReplyTo<Option<ChannelView>>,
        now: Moment,
    ) {
        self.read_kept(channel, (u64::MAX / 2, 1), now, move |state, channel, kept| {
            let position = kept.ok().flatten().map(|kept| (kept.epoch, kept.offset));
            let view = state.channel_view(&channel, position);
            state.reply(reply, Ok(view));
        });
    }

    fn channel_view(
        &self,
        channel: &ChannelName,
        position: Option<(Epoch, u64)>,
    ) -> Option<ChannelView> {
        let elsewhere = self.followers_elsewhere(channel);
        let own = self.channels.view(channel);
        if own.is_none() && position.is_none() && elsewhere == 0 {
            return None;
        }
        let mut view = own.unwrap_or_else(|| ChannelView::unknown(channel.clone()));
        view.subscribers += elsewhere;
        view.position = position.or(view.position);
        if self.channels.tells(channel) && view.position.is_some() {
            view.users = Some(self.room_users(channel, None).0);
        }
        Some(view)
    }

    /// How many followers a channel has on the other nodes.
    pub(super) fn followers_elsewhere(&self, channel: &ChannelName) -> usize {
        self.cluster_presence.followers(channel).map(|(_, count)| count).sum()
    }

    /// Defined and live channels of all nodes, by name.
    pub(super) fn list_channels(&self) -> Vec<ChannelView> {
        let mut views = self.channels.list();
        if self.cluster_presence.channels().next().is_none() {
            return views;
        }
        let mut known: HashSet<ChannelName> = views.iter().map(|view| view.name.clone()).collect();
        for channel in self.cluster_presence.channels() {
            if known.insert(channel.clone()) {
                views.push(ChannelView::unknown(channel.clone()));
            }
        }
        views.sort_by(|a, b| a.name.cmp(&b.name));
        views.truncate(limits::LISTED_MAX);
        for view in &mut views {
            view.subscribers += self.followers_elsewhere(&view.name);
        }
        views
    }
}
