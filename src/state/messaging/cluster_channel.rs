//! Channels that several nodes share: publish, read, list and delete, through Redis and other nodes.
//!
//! Part of `state::messaging`.

use std::collections::HashSet;

use super::aim::{Aim, Aimed};
use super::channel::no_channel;
use super::commands::Publish;
use super::node_request::{Names, NodeRequest, delivery};
use super::replicated::PlacedReply;
use super::replies::{History, Published};
use crate::clock::Moment;
use crate::id::{ChannelName, ConnName, Epoch};
use crate::limits;
use crate::state::State;
use crate::state::backplane::{ChannelMessage, ChannelState, TypedRequest};
use crate::state::channels::ChannelView;
use crate::state::effect::AppendReply;
use crate::state::entry::Entry;
use crate::state::reply::ReplyTo;
use crate::wire::refusal::Refusal;
use crate::wire::{frame, message};

impl State {
    /// Publishes to the followers on all nodes.
    pub(super) fn publish_in_cluster(
        &mut self,
        publish: Publish,
        reply: ReplyTo<Published>,
        now: Moment,
    ) {
        let Publish { channel, publication, from, aim, without, .. } = publish;
        let stamp = self.stamp(now);
        let frame = message::channel_message(&channel, stamp, None, from.as_ref(), &publication);
        if aim.is_everyone() {
            let except = without.map(|conn| ConnName::new(&self.node, conn).to_string());
            let message = ChannelMessage { channel, text: frame::payload(&frame), except };
            let reply = PlacedReply::Published { id: stamp.id, without, reply };
            return self.publish_to_all(message, reply, now);
        }
        let here = match self.channels.find(&channel) {
            Some(key) => {
                let aim = aim.here(&self.node);
                let count = self.count_followers(key, &aim);
                self.send_to_channel(key, frame.clone(), aim);
                count
            }
            None => 0,
        };
        let nodes = self.following_nodes(&channel, &aim);
        let question = |state: &State| {
            let names = Names::of(&aim, &state.node);
            delivery(&frame, |message| NodeRequest::Channel {
                channel: channel.as_str().to_owned(),
                aim: names,
                message,
            })
        };
        let channel = channel.clone();
        self.ask_nodes(nodes, question, move |state, there| {
            let epoch = match state.channels.find(&channel) {
                Some(key) => state.channels.get(key).epoch.clone(),
                None => Epoch::new(""),
            };
            let (message_id, offset) = (stamp.id, None);
            let published = there.map(|there| {
                let delivered_to = here + there.count;
                Published { channel, epoch, offset, message_id, delivered_to }
            });
            state.reply(reply, published);
        });
    }

    /// The kept messages of a channel, as Redis has them.
    pub(super) fn history_in_redis(
        &self,
        channel: &ChannelName,
        found: Option<ChannelState>,
        now: Moment,
    ) -> Result<History, Refusal> {
        let Some(ChannelState { epoch, kept, .. }) = found else {
            // Followed, and nothing was ever said.
            let key = self.channels.find(channel).ok_or_else(no_channel)?;
            let epoch = self.channels.get(key).epoch.clone();
            return Ok(History { epoch, frames: Vec::new() });
        };
        let (_, history_ms) = self.channels.keeping(channel);
        let frames = kept
            .iter()
            .filter(|placed| placed.at_ms + history_ms > now.wall_ms)
            .filter_map(|placed| message::placed(&placed.message.text, placed.offset));
        Ok(History { epoch: Epoch::new(&epoch), frames: frames.collect() })
    }

    /// Describes a channel as all nodes see it.
    pub(super) fn describe_channel(
        &mut self,
        channel: ChannelName,
        reply: ReplyTo<Option<ChannelView>>,
    ) {
        if !self.is_replicated(&channel) || self.registry.is_cut_off() {
            let view = self.channels.view(&channel);
            return self.reply(reply, Ok(view));
        }
        let request = TypedRequest::read(channel.clone(), u64::MAX / 2, 1);
        self.request(request, move |state, found, _| {
            let view = state.view_in_cluster(&channel, found.ok().flatten());
            state.reply(reply, Ok(view));
        });
    }

    /// A channel, with where Redis says that it stands.
    fn view_in_cluster(
        &self,
        channel: &ChannelName,
        found: Option<ChannelState>,
    ) -> Option<ChannelView> {
        let view = self.channels.view(channel);
        if view.is_none() && found.is_none() && self.followers_elsewhere(channel) == 0 {
            return None;
        }
        let mut view = view.unwrap_or_else(|| ChannelView::unknown(channel.clone()));
        view.subscribers += self.followers_elsewhere(channel);
        if let Some(found) = found {
            view.position = Some((Epoch::new(&found.epoch), found.offset));
        }
        if self.channels.tells(channel) {
            view.users = Some(self.room_users(channel, None).0);
        }
        Some(view)
    }

    pub(super) fn followers_elsewhere(&self, channel: &ChannelName) -> usize {
        let Some(cluster_state) = &self.cluster_state else { return 0 };
        cluster_state.cluster_presence.followers(channel).map(|(_, count)| count).sum()
    }

    /// How many followers a published message goes to, on all nodes.
    pub(super) fn count_in_cluster(&self, channel: &ChannelName, aim: &Aim) -> usize {
        let here = self.channels.find(channel).map_or(0, |key| self.count_followers(key, aim));
        here + self.followers_elsewhere(channel)
    }

    /// The other nodes with followers of a channel, of those that an aim leaves.
    pub(super) fn following_nodes(&self, channel: &ChannelName, aim: &Aimed) -> Vec<String> {
        let Some(cluster_state) =
            self.cluster_state.as_ref().filter(|_| !self.registry.is_cut_off())
        else {
            return Vec::new();
        };
        if !self.is_replicated(channel) {
            return Vec::new();
        }
        let following =
            cluster_state.cluster_presence.followers(channel).map(|(node, _)| node.to_owned());
        aim.nodes(following.collect())
    }

    /// Defined and live channels of all nodes, by name.
    pub(super) fn list_channels(&self) -> Vec<ChannelView> {
        let mut views = self.channels.list();
        let Some(cluster_state) = &self.cluster_state else { return views };
        let mut known: HashSet<ChannelName> = views.iter().map(|view| view.name.clone()).collect();
        for channel in cluster_state.cluster_presence.channels() {
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

    /// Deletes a channel's messages in Redis; then the log takes the channel from everyone.
    pub(super) fn delete_in_cluster(&mut self, channel: ChannelName, reply: ReplyTo<()>) {
        if self.registry.is_cut_off() {
            return self.reply(reply, Err(Refusal::unavailable()));
        }
        let request = TypedRequest::delete(channel.clone(), false);
        self.request(request, move |state, deleted, now| {
            let Ok(was_there) = deleted else {
                return state.reply(reply, Err(Refusal::unavailable()));
            };
            let is_followed =
                state.channels.find(&channel).is_some() || state.followers_elsewhere(&channel) > 0;
            if was_there || is_followed || state.channels.is_defined(&channel) {
                return state.append(
                    Entry::DeleteChannel(channel),
                    AppendReply::Deleted(reply),
                    now,
                );
            }
            state.reply(reply, Err(no_channel()));
        });
    }
}
