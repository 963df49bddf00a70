//! Channels of all nodes: publishing, reading, listing and deleting, where others have a say.
//!
//! Part of `state::talk`.

use std::collections::HashSet;

use super::following::no_channel;
use super::{Aim, Aimed, Told};
use crate::clock::Moment;
use crate::id::{ChannelName, ConnId, ConnName, Epoch, UserId};
use crate::limits;
use crate::state::call::{Call, ChannelMessage, ChannelState, Reply};
use crate::state::channels::ChannelView;
use crate::state::entry::Entry;
use crate::state::then::Then;
use crate::state::{Outcome, State};
use crate::wire::message;
use crate::wire::refusal::Refusal;
use crate::wire::talk::Publication;

impl State {
    /// A message for some of a channel's followers, on all nodes.
    pub(super) fn publish_aimed(
        &mut self,
        channel: &ChannelName,
        publication: &Publication,
        from: Option<&UserId>,
        aimed: &Aimed,
        now: Moment,
    ) -> Outcome {
        let stamp = self.stamp(now);
        let frame = message::channel_message(channel, stamp, None, from, publication);
        let here = match self.channels.find(channel) {
            Some(key) => {
                let aim = aimed.here(&self.node);
                let count = self.count_followers(key, &aim);
                self.send_to_channel(key, frame.clone(), aim);
                count
            }
            None => 0,
        };
        let then = Then::Aimed { channel: channel.clone(), id: stamp.id, here };
        self.ask_channel(channel, aimed, &frame, then.clone())
            .unwrap_or_else(|| self.on_given(then, Reply::Nodes(Vec::new())).into())
    }

    /// A message for the followers on all nodes, but for one connection.
    pub(super) fn message_for_all(
        &self,
        channel: ChannelName,
        text: bytes::Bytes,
        without: Option<ConnId>,
    ) -> ChannelMessage {
        let except = without.map(|conn| ConnName::new(&self.node, conn).to_string());
        ChannelMessage { channel, text, except }
    }

    /// Has a message get its offset among all nodes.
    pub(super) fn publish_to_all(&mut self, message: ChannelMessage, then: Then) -> Outcome {
        if self.registry.is_cut_off() {
            return Told::Refused(Refusal::unavailable()).into();
        }
        self.note_own(&message, &then);
        let (history_max, history_ms) = self.channels.keeping(&message.channel);
        let history_bytes_max = self.channels.keeping_bytes();
        let epoch = self.channels.fresh_epoch();
        let call = Call::Publish { message, epoch, history_max, history_bytes_max, history_ms };
        Outcome::Call(Box::new((call, then)))
    }

    /// What to tell of a message that has its place.
    pub(super) fn told_of_place(&self, then: Then, epoch: &str, offset: u64) -> Told {
        match then {
            Then::Published { message, id, without } => {
                let channel = message.channel;
                let aim = without.map_or_else(Aim::default, Aim::past);
                let here = self.channels.find(&channel);
                let here = here.map_or(0, |key| self.count_followers(key, &aim));
                let delivered_to = here + self.followers_elsewhere(&channel);
                let (epoch, offset) = (Epoch::new(epoch), Some(offset));
                Told::Published { channel, epoch, offset, message_id: id, delivered_to }
            }
            Then::Chatted { message, person, content, id, stamp, has_copy, .. } => {
                let channel = message.channel;
                let from = (&person.user_id, &*person.username);
                let copy =
                    || message::chat(&channel, stamp, Some(offset), from, &content, id.as_ref());
                let copy = has_copy.then(copy);
                Told::Chatted { channel, copy }
            }
            _ => Told::Refused(Refusal::internal()),
        }
    }

    /// The kept messages of a channel, as Redis has them.
    pub(in crate::state) fn shared_history(
        &mut self,
        channel: &ChannelName,
        reply: Reply,
        now: Moment,
    ) -> Told {
        let Reply::Channel(found) = reply else { return Told::Refused(Refusal::unavailable()) };
        let Some(ChannelState { epoch, kept, .. }) = found else {
            return match self.channels.find(channel) {
                // Followed, and nothing was ever said.
                Some(key) => {
                    let epoch = self.channels.get(key).epoch.clone();
                    Told::History { epoch, frames: Vec::new() }
                }
                None => no_channel(),
            };
        };
        let (_, history_ms) = self.channels.keeping(channel);
        let frames = kept
            .iter()
            .filter(|placed| placed.at_ms + history_ms > now.wall_ms)
            .filter_map(|placed| message::placed(&placed.message.text, placed.offset));
        Told::History { epoch: Epoch::new(&epoch), frames: frames.collect() }
    }

    /// A channel as all nodes see it.
    pub(super) fn view_channel(&mut self, channel: ChannelName) -> Outcome {
        if !self.is_linked(&channel) || self.registry.is_cut_off() {
            return Told::Channel(self.channels.view(&channel)).into();
        }
        let call =
            Call::Read { channel: channel.clone(), after: u64::MAX / 2, limit: 1, epoch: None };
        Outcome::Call(Box::new((call, Then::View { channel })))
    }

    /// The same, once Redis has said where it stands.
    pub(in crate::state) fn shared_view(&mut self, channel: &ChannelName, reply: Reply) -> Told {
        let found = match reply {
            Reply::Channel(found) => found,
            _ => None,
        };
        let view = self.channels.view(channel);
        if view.is_none() && found.is_none() && self.followers_elsewhere(channel) == 0 {
            return Told::Channel(None);
        }
        let mut view = view.unwrap_or_else(|| ChannelView::unknown(channel.clone()));
        view.subscribers += self.followers_elsewhere(channel);
        if let Some(found) = found {
            view.position = Some((Epoch::new(&found.epoch), found.offset));
        }
        if self.channels.tells(channel) {
            view.users = Some(self.room_users(channel, None).0);
        }
        Told::Channel(Some(view))
    }

    fn followers_elsewhere(&self, channel: &ChannelName) -> usize {
        let Some(abroad) = &self.abroad else { return 0 };
        abroad.commons.followers(channel).map(|(_, count)| count).sum()
    }

    /// Defined and live channels of all nodes, by name.
    pub(super) fn list_channels(&self) -> Vec<ChannelView> {
        let mut views = self.channels.list();
        let Some(abroad) = &self.abroad else { return views };
        let mut known: HashSet<ChannelName> = views.iter().map(|view| view.name.clone()).collect();
        for channel in abroad.commons.channels() {
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

    /// A channel's messages are deleted: now it is taken from everyone.
    pub(in crate::state) fn deleted(&mut self, channel: ChannelName, reply: &Reply) -> Outcome {
        let Reply::Deleted(was_there) = reply else {
            return Told::Refused(Refusal::unavailable()).into();
        };
        let is_followed =
            self.channels.find(&channel).is_some() || self.followers_elsewhere(&channel) > 0;
        if *was_there || is_followed || self.channels.is_defined(&channel) {
            return Outcome::Propose(Box::new(Entry::DeleteChannel(channel)));
        }
        no_channel().into()
    }
}
