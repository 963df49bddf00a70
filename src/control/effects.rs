//! Effects: what the state has decided, carried out in its order.

use std::sync::Arc;

use super::Control;
use super::commit_queue::Waiting;
use super::pending::What;
use crate::clock::Moment;
use crate::id::{ConnId, ShardSet, Topic};
use crate::mailbox::to_shard::{Event, ShardMessage};
use crate::state::effect::{Effect, Message, StoreWrite};
use crate::state::event::DomainEvent;
use crate::state::registry::views::{Announcement, ServiceRules};
use crate::state::reply::Delivery;
use crate::wire::event::{Position, service_change, service_rules};
use crate::wire::frame;
use crate::wire::instance_list::InstanceList;
use crate::wire::refusal::Refusal;
use crate::wire::{answer, artemis};

impl Control {
    /// Invalidates the views that are out of date, then carries out the effects of the last call of the
    /// state, in their order.
    pub(super) fn carry_out_effects(&mut self, accepted_ns: u64, now: Moment) {
        self.view_cache.count(self.state.registry.counts().0);
        self.view_cache.set_listing_version(self.state.registry.listing_version());
        self.state.announce_turn(self.followers.services());
        for service in self.state.registry.take_forgotten() {
            self.view_cache.invalidate(&service);
        }
        let mut effects = std::mem::take(&mut self.effects);
        self.state.swap_effects(&mut effects);
        // For each call anew: who listened before it hears of what it did.
        let is_watched = !effects.is_empty() && self.events.receiver_count() > 0;
        for effect in effects.drain(..) {
            self.carry_out_effect(effect, is_watched, accepted_ns, now);
        }
        self.effects = effects;
    }

    fn carry_out_effect(
        &mut self,
        effect: Effect,
        is_watched: bool,
        accepted_ns: u64,
        now: Moment,
    ) {
        match effect {
            Effect::Announce(announcement) => {
                self.announce(announcement, is_watched, accepted_ns, now);
            }
            Effect::Message(message) => self.send_message(message, accepted_ns),
            Effect::ChannelMessage(message) => {
                self.send_channel_message(message, is_watched, accepted_ns);
            }
            Effect::Dissolve { channel, shards, frame } => {
                let topic = Topic::Channel(channel);
                let event = Event { topic, frame, frames: 1, accepted_ns, aim: None };
                for shard in shards.iter() {
                    self.send(shard, ShardMessage::Dissolve(event.clone()));
                }
            }
            Effect::AnnounceRules(rules) => self.announce_rules(&rules, accepted_ns, now),
            Effect::Opened(conn) => self.send_to(conn, ShardMessage::Enter(conn)),
            Effect::Close(conn, reason) => self.send_to(conn, ShardMessage::Close(conn, reason)),
            Effect::Subscription(conn, set) => {
                self.send_to(conn, ShardMessage::Subscription(conn, set));
            }
            Effect::PingAll => self.send_to_all(|| ShardMessage::PingAll),
            Effect::PublishView(view) => self.view_cache.publish(&view),
            Effect::Reply(delivery) => self.deliver(delivery),
            Effect::Event(event) => {
                if is_watched {
                    self.tell_program(event);
                }
            }
            Effect::Store(write) => self.store_durably(*write, accepted_ns),
            Effect::Wait(condition, rest) => {
                self.pending.enter(What::Wait(condition, rest), accepted_ns, now.unix_ms);
            }
            Effect::Wake(condition, how) => self.pending.wake(&condition, how),
            Effect::Audit(event) => self.audit.push(event),
            Effect::Append(append) => self.append(*append, accepted_ns, now),
            Effect::Request(request) => self.request(*request, accepted_ns, now),
            Effect::LeaveTopic(channel) => {
                if let Some(cluster) = &self.cluster {
                    cluster.detach(channel);
                }
            }
            Effect::JournalStored(up_to) => {
                if let Some(cluster) = &self.cluster {
                    cluster.written(up_to);
                }
            }
        }
    }

    pub(super) fn send_to_all(&mut self, message: impl Fn() -> ShardMessage) {
        (0..self.shards.len()).for_each(|shard| self.send(shard, message()));
    }

    fn send_to(&mut self, conn: ConnId, message: ShardMessage) {
        self.send(usize::from(conn.shard.0), message);
    }

    /// Hands a reply to its caller.
    fn deliver(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::Socket(conn, reply) => {
                self.send_to(conn, ShardMessage::Reply(conn, reply));
                if self.unanswered == Some(conn) {
                    self.unanswered = None;
                } else {
                    self.pending.release(conn);
                }
            }
            // Its request is served by this very thread, once the turn is over.
            Delivery::Http(shard, callback) if self.on == Some(shard) => callback.call(),
            Delivery::Http(shard, callback) => {
                self.send(usize::from(shard.0), ShardMessage::HttpReply(callback));
            }
            Delivery::Program(callback) => callback.call(),
        }
    }

    pub(super) fn tell_program(&self, event: DomainEvent) {
        // Fails only where the last listener has just gone.
        let _ = self.events.send(event);
    }

    /// Frames an announcement once for each dialect and sends it to the shards that follow its service.
    fn announce(
        &mut self,
        announcement: Announcement,
        is_watched: bool,
        accepted_ns: u64,
        now: Moment,
    ) {
        self.view_cache.invalidate(&announcement.service);
        if is_watched {
            self.tell_program(DomainEvent::ServiceChanged {
                service: announcement.service.clone(),
                revision: announcement.revision,
                degraded: announcement.degraded,
            });
        }
        let following = self.followers.shards(&announcement.service);
        if !following.artemis.is_empty()
            && let Some(event) = frame_for_artemis(&announcement, accepted_ns, now)
        {
            self.stats.control.events.add(1);
            self.send_event(&event, following.artemis);
        }
        let following = following.own;
        if following.is_empty() {
            return;
        }
        let Announcement { service, begins, from, revision, degraded, changes } = announcement;
        let epoch = self.state.registry.epoch();
        let at = |revision| Position { service: &service, epoch, revision, degraded };
        // Where a service begins is an empty snapshot.
        let beginning =
            begins.then(|| answer::service_snapshot(at(from), InstanceList::empty()).joined());
        let has_change = !begins || !changes.is_empty();
        let change = has_change.then(|| service_change(at(revision), from, changes.iter()));
        let topic = Topic::Service(service);
        if let Some(frame) = beginning {
            let topic = topic.clone();
            self.send_event(&Event { topic, frame, frames: 1, accepted_ns, aim: None }, following);
        }
        if let Some(frame) = change {
            self.stats.control.events.add(1);
            self.send_event(&Event { topic, frame, frames: 1, accepted_ns, aim: None }, following);
        }
    }

    /// Frames the rules of a service for its followers. Artemis' clients look the service up.
    fn announce_rules(&mut self, rules: &ServiceRules, accepted_ns: u64, now: Moment) {
        let ServiceRules { service, fields } = rules;
        self.view_cache.invalidate(service);
        let following = self.followers.shards(service);
        let mut tell = |topic, frame, shards| {
            self.stats.control.events.add(1);
            self.send_event(&Event { topic, frame, frames: 1, accepted_ns, aim: None }, shards);
        };
        if !following.artemis.is_empty() {
            let frame = artemis::reload(service, now.wall_ms);
            tell(Topic::Artemis(service.clone()), frame, following.artemis);
        }
        if !following.own.is_empty() {
            let frame = service_rules(service, fields);
            tell(Topic::Service(service.clone()), frame, following.own);
        }
    }

    pub(super) fn send_event(&mut self, event: &Event, shards: ShardSet) {
        for shard in shards.iter() {
            self.send(shard, ShardMessage::Event(event.clone()));
        }
    }

    fn send_channel_message(&mut self, message: Message, is_watched: bool, accepted_ns: u64) {
        if is_watched && let Topic::Channel(channel) = &message.topic {
            let (channel, message) = (channel.clone(), frame::payload(&message.frame));
            self.tell_program(DomainEvent::ChannelMessage { channel, message });
        }
        if message.shards.is_none_or(|shards| !shards.is_empty()) {
            self.send_message(message, accepted_ns);
        }
    }

    /// Has a write wait for the store, which takes it with all others that wait. Refuses it while there is no
    /// store that works, or no room.
    fn store_durably(&mut self, write: StoreWrite, accepted_ns: u64) {
        let works = self.store.as_ref().is_some_and(|store| store.health().is_ok());
        let refused = if works {
            self.commit_queue.enter(accepted_ns, write)
        } else {
            Some(Waiting { accepted_ns, continuation: write.continuation })
        };
        if let Some(waiting) = refused {
            self.finish(waiting, Err(Refusal::unavailable()));
        }
    }

    /// Sends a message to the shards that have followers of its topic.
    fn send_message(&mut self, message: Message, accepted_ns: u64) {
        let Message { topic, shards, frame, aim } = message;
        self.stats.control.events.add(1);
        let aim = (!aim.is_everyone()).then(|| Arc::new(aim));
        let event = Event { topic, frame, frames: 1, accepted_ns, aim };
        match shards {
            Some(shards) => self.send_event(&event, shards),
            None => self.send_to_all(|| ShardMessage::Event(event.clone())),
        }
    }

    pub(super) fn send(&mut self, shard: usize, message: ShardMessage) {
        self.to_ring[shard] = true;
        if self.on.is_some() {
            return self.shards[shard].push_beyond(message);
        }
        // Fails only when the shard has stopped, and its connections with it.
        let _ = self.shards[shard].push_waiting(message);
    }
}

/// An announcement for Artemis' followers: a frame a change. None if there is nothing that they are told: they know
/// no `degraded`, and a service that begins with changes needs no `reload` before them, for its followers
/// have none of its instances.
fn frame_for_artemis(announcement: &Announcement, accepted_ns: u64, now: Moment) -> Option<Event> {
    let Announcement { service, begins, changes, .. } = announcement;
    let framed = artemis::changes(service, changes, now.wall_ms);
    for instance in &framed.too_large {
        tracing::warn!(
            service = service.as_str(),
            instance,
            "a change is too large for Artemis' clients: they are told to look the service up"
        );
    }
    let topic = Topic::Artemis(service.clone());
    let event = |frame, frames| Event { topic, frame, frames, accepted_ns, aim: None };
    if framed.count > 0 {
        return Some(event(framed.frames, framed.count));
    }
    begins.then(|| event(artemis::reload(service, now.wall_ms), 1))
}
