//! Fan-out: from an event to the outboxes of its subscribers.
//!
//! The events of one topic that came in during one turn form a run. All followers get the same
//! bytes, so a run of several frames is joined once and every outbox gets a handle to the one
//! buffer: a flood costs each follower one handle and one write a turn, whatever the number of
//! events.
//!
//! Part of `shard`.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use super::outbox::{Chunk, Source};
use super::socket::Socket;
use super::topics::TopicId;
use super::{Shard, Slot};
use crate::id::{ChannelName, Dialect, ServiceName, Topic};
use crate::limits;
use crate::mailbox::to_control::{ControlMessage, Task};
use crate::mailbox::to_shard::Event;
use crate::state::messaging::aim::Aim;

impl<S: Socket> Shard<S> {
    /// Hands out every run.
    pub(super) fn hand_out_runs(&mut self) {
        for topic in self.topics.take_touched() {
            self.hand_out(topic);
        }
    }

    /// Hands out one topic's run early, because a connection is about to join or to catch up.
    pub(super) fn hand_out_run_of(&mut self, topic: &Topic) {
        if let Some(topic) = self.topics.touched_early(topic) {
            self.hand_out(topic);
        }
    }

    /// Hands out an event for some of its topic's followers. Earlier events go out before it.
    pub(super) fn hand_out_aimed(&mut self, event: &Event, aim: &Aim) {
        self.hand_out_run_of(&event.topic);
        let Some(topic) = self.topics.find(&event.topic) else { return };
        let mut slots = std::mem::take(&mut self.slots);
        slots.clear();
        if let Some(only) = aim.only() {
            let here = only.iter().filter(|id| {
                let conn = self.conns.get(id.slot.index());
                conn.is_some_and(|conn| conn.id == **id)
                    && self.topics.contains(topic, id.slot)
                    && aim.includes(**id)
            });
            slots.extend(here.map(|id| id.slot));
        } else {
            self.topics.followers(topic, &mut slots);
            slots.retain(|slot| aim.includes(self.conns[slot.index()].id));
        }
        self.hand_out_to(&slots, std::slice::from_ref(event));
        self.slots = slots;
    }

    /// Hands out an event whose topic ends with it.
    pub(super) fn dissolve(&mut self, event: &Event) {
        self.hand_out_run_of(&event.topic);
        let Some(topic) = self.topics.find(&event.topic) else { return };
        let mut slots = std::mem::take(&mut self.slots);
        self.topics.followers(topic, &mut slots);
        self.hand_out_to(&slots, std::slice::from_ref(event));
        for &slot in &slots {
            self.forget_topic(slot, topic);
        }
        self.slots = slots;
    }

    /// Takes a connection out of a channel.
    pub(super) fn unfollow_channel(&mut self, slot: Slot, channel: ChannelName) {
        let topic = Topic::Channel(channel);
        self.hand_out_run_of(&topic);
        if let Some(id) = self.topics.find(&topic) {
            self.forget_topic(slot, id);
            self.note_unsubscribed(slot, Some(&topic));
        }
    }

    fn forget_topic(&mut self, slot: Slot, topic: TopicId) {
        let topics = &mut self.conns[slot.index()].topics;
        if let Some(index) = topics.iter().position(|&other| other == topic) {
            topics.swap_remove(index);
            self.subscription_count -= 1;
            self.topics.unsubscribe(topic, slot);
        }
    }

    fn hand_out(&mut self, topic: TopicId) {
        let mut slots = std::mem::take(&mut self.slots);
        let run = self.topics.begin_run(topic, &mut slots);
        self.hand_out_to(&slots, &run);
        self.slots = slots;
        self.topics.end_run(topic, run);
    }

    fn hand_out_to(&mut self, slots: &[Slot], run: &[Event]) {
        let is_small = slots.len() <= limits::SMALL_FANOUT_MAX;
        for chunk in chunks(run) {
            let mut added = 0;
            for &slot in slots {
                added += usize::from(self.push_event(slot, &chunk));
            }
            let stats = self.stats();
            stats.deliveries.add(u64::from(chunk.frames) * added as u64);
            stats.delivered_bytes.add((chunk.len() * added) as u64);
        }
        for &slot in slots {
            if is_small {
                self.queue_urgent(slot);
            } else {
                self.queue_bulk(slot);
            }
        }
        for event in run {
            self.flush.mark(is_small, event.accepted_ns);
        }
    }

    /// Stops following a service.
    pub(super) fn unsubscribe(&mut self, slot: Slot, service: &ServiceName) {
        let name = Topic::Service(service.clone());
        let Some(topic) = self.topics.find(&name) else { return };
        let conn = &mut self.conns[slot.index()];
        let Some(index) = conn.topics.iter().position(|&other| other == topic) else { return };
        // Events before the answer still go out.
        self.hand_out_run_of(&name);
        self.conns[slot.index()].topics.swap_remove(index);
        self.leave(slot, topic);
        self.note_unsubscribed(slot, Some(&name));
        self.cancel_resync_unless_followed(slot, service);
    }

    /// Unsubscribes from every service at once; single subscriptions stay.
    pub(super) fn unsubscribe_from_all(&mut self, slot: Slot) {
        let dialect = self.conns[slot.index()].dialect();
        if !self.topics.everything(dialect).contains(slot) {
            return;
        }
        self.hand_out_runs();
        self.topics.everything(dialect).remove(slot);
        self.conns[slot.index()].follows_everything = false;
        self.subscription_count -= 1;
        self.note_unsubscribed(slot, None);
        self.cancel_unfollowed_resyncs(slot);
        self.release(dialect, None);
    }

    /// Takes a connection out of every set when it ends.
    pub(super) fn unsubscribe_all(&mut self, slot: Slot) {
        let conn = &mut self.conns[slot.index()];
        let dialect = conn.dialect();
        if conn.follows_everything {
            conn.follows_everything = false;
            self.topics.everything(dialect).remove(slot);
            self.subscription_count -= 1;
            self.release(dialect, None);
        }
        let conn = &mut self.conns[slot.index()];
        // Its implicit topics were never counted.
        self.subscription_count += usize::from(std::mem::take(&mut conn.implicit));
        for topic in std::mem::take(&mut conn.topics) {
            self.leave(slot, topic);
        }
        self.conns[slot.index()].end_resync();
    }

    fn leave(&mut self, slot: Slot, topic: TopicId) {
        self.subscription_count -= 1;
        if let Some(topic) = self.topics.unsubscribe(topic, slot)
            && let (Some(dialect), Some(service)) = (topic.dialect(), topic.service())
        {
            self.release(dialect, Some(service));
        }
    }

    /// Tells control which services have no subscriber here any more; no service is every service.
    pub(super) fn release(&mut self, dialect: Dialect, service: Option<&ServiceName>) {
        if self.topics.is_followed(dialect, service) {
            return;
        }
        let shard = self.settings.id;
        let task = match service {
            Some(service) => Task::Unfollow(shard, dialect, service.clone()),
            None => Task::UnfollowAll(shard, dialect),
        };
        // A full mailbox loses only a hint: control then sends events without a subscriber here,
        // and the shard drops them.
        self.send_control(ControlMessage { accepted_ns: self.now.ns, task });
    }

    pub(super) fn follows(&self, slot: Slot, service: &ServiceName) -> bool {
        let conn = &self.conns[slot.index()];
        conn.follows_everything
            || self
                .topics
                .find(&Topic::of_service(service.clone(), conn.dialect()))
                .is_some_and(|topic| conn.topics.contains(&topic))
    }
}

/// Joins a run into as few chunks as its bound allows.
///
/// A lone frame is taken as it is. Its bytes belong to control's buffer, but a delivery touches
/// only the chunk's own plain counter.
pub fn chunks(run: &[Event]) -> Vec<Rc<Chunk>> {
    let mut chunks = Vec::with_capacity(1);
    let mut rest = run;
    while let Some(first) = rest.first() {
        let (mut bytes, mut count, mut frames) = (first.frame.len(), 1, first.frames);
        while let Some(next) = rest.get(count)
            && bytes + next.frame.len() <= limits::RUN_BYTES_MAX
        {
            bytes += next.frame.len();
            frames += next.frames;
            count += 1;
        }
        let head = if count == 1 {
            first.frame.clone()
        } else {
            let mut joined = BytesMut::with_capacity(bytes);
            for event in &rest[..count] {
                joined.extend_from_slice(&event.frame);
            }
            joined.freeze()
        };
        chunks.push(Rc::new(Chunk {
            head,
            tail: Bytes::new(),
            frames,
            source: match first.topic.service() {
                Some(service) => Source::Service(service.clone()),
                None => Source::Message,
            },
        }));
        rest = &rest[count..];
    }
    chunks
}
