//! What the connections of one shard follow.
//!
//! Imports `id`, `mailbox` and `shard::subscribers`. Imported by `shard`.

use std::collections::HashMap;

use slab::Slab;

use super::subscribers::Subscribers;
use crate::id::{ServiceName, Slot};
use crate::mailbox::to_shard::Event;

/// A topic's place in its shard's table. Valid while the topic has a subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TopicId(pub(super) u32);

/// A service that is followed here, or that someone here follows along with all others.
#[derive(Debug)]
pub(super) struct Topic {
    pub(super) service: ServiceName,
    pub(super) subscribers: Subscribers,
    /// Events of this turn that have not been handed out yet.
    pub(super) run: Vec<Event>,
}

/// The table.
///
/// # Invariants
///
/// 1. `by_name` names exactly the topics of the slab.
/// 2. Between turns every topic has a subscriber and an empty run.
/// 3. `touched` names each topic with a run, once.
#[derive(Debug, Default)]
#[allow(clippy::struct_field_names, reason = "the table of topics holds topics")]
pub(super) struct Topics {
    topics: Slab<Topic>,
    by_name: HashMap<ServiceName, TopicId>,
    /// Those who follow every service.
    pub(super) everything: Subscribers,
    touched: Vec<TopicId>,
    /// Subscriptions that control has not answered yet, by service. Control must not be told that
    /// nobody follows while one is under way.
    joining: HashMap<ServiceName, u32>,
    joining_everything: u32,
}

impl Topics {
    /// How many topics have a subscriber.
    pub(super) fn len(&self) -> usize {
        self.topics.len()
    }

    pub(super) fn find(&self, service: &ServiceName) -> Option<TopicId> {
        self.by_name.get(service).copied()
    }

    fn find_or_new(&mut self, service: &ServiceName) -> TopicId {
        if let Some(id) = self.find(service) {
            return id;
        }
        let topic = Topic {
            service: service.clone(),
            subscribers: Subscribers::default(),
            run: Vec::new(),
        };
        let id = TopicId(u32::try_from(self.topics.insert(topic)).expect("topics are below 2^32"));
        self.by_name.insert(service.clone(), id);
        id
    }

    /// Adds a follower. None where it was one already.
    pub(super) fn subscribe(&mut self, service: &ServiceName, slot: Slot) -> Option<TopicId> {
        let id = self.find_or_new(service);
        self.topics[id.0 as usize].subscribers.insert(slot).then_some(id)
    }

    /// Removes a follower. Returns the service where it was the last one.
    pub(super) fn unsubscribe(&mut self, id: TopicId, slot: Slot) -> Option<ServiceName> {
        let topic = &mut self.topics[id.0 as usize];
        topic.subscribers.remove(slot);
        if !topic.subscribers.is_empty() {
            return None;
        }
        // With a run still in it the topic stays until that is handed out; see `end_run`.
        if !topic.run.is_empty() {
            return Some(topic.service.clone());
        }
        Some(self.remove(id))
    }

    fn remove(&mut self, id: TopicId) -> ServiceName {
        let topic = self.topics.remove(id.0 as usize);
        self.by_name.remove(&topic.service);
        topic.service
    }

    /// Notes that control is asked for a subscription; no service is every service.
    pub(super) fn begin_joining(&mut self, service: Option<&ServiceName>) {
        match service {
            Some(service) => *self.joining.entry(service.clone()).or_default() += 1,
            None => self.joining_everything += 1,
        }
    }

    /// Notes that control has answered it.
    pub(super) fn end_joining(&mut self, service: Option<&ServiceName>) {
        match service {
            None => self.joining_everything -= 1,
            Some(service) => {
                if let Some(count) = self.joining.get_mut(service) {
                    *count -= 1;
                    if *count == 0 {
                        self.joining.remove(service);
                    }
                }
            }
        }
    }

    /// Whether a subscription to the service, or to all, is under way for anyone here.
    pub(super) fn is_joining(&self, service: &ServiceName) -> bool {
        self.joining_everything > 0 || self.joining.contains_key(service)
    }

    /// Whether someone here follows, or is about to; no service is every service.
    pub(super) fn is_followed(&self, service: Option<&ServiceName>) -> bool {
        match service {
            None => self.joining_everything > 0 || !self.everything.is_empty(),
            Some(service) => {
                self.joining.contains_key(service)
                    || self
                        .find(service)
                        .is_some_and(|id| !self.topics[id.0 as usize].subscribers.is_empty())
            }
        }
    }

    /// Adds an event to its topic's run. Returns false where nobody here follows the service.
    pub(super) fn add_event(&mut self, event: Event) -> bool {
        let id = match self.find(&event.service) {
            Some(id) => id,
            None if self.everything.is_empty() => return false,
            None => self.find_or_new(&event.service),
        };
        let topic = &mut self.topics[id.0 as usize];
        if topic.run.is_empty() {
            self.touched.push(id);
        }
        topic.run.push(event);
        true
    }

    /// The topics with a run, in the order of their first event. They are to be ended each.
    pub(super) fn take_touched(&mut self) -> Vec<TopicId> {
        std::mem::take(&mut self.touched)
    }

    /// Takes the run out of a topic that a membership change needs settled early.
    pub(super) fn touched_early(&mut self, service: &ServiceName) -> Option<TopicId> {
        let id = self.find(service)?;
        let place = self.touched.iter().position(|&touched| touched == id)?;
        self.touched.remove(place);
        Some(id)
    }

    /// Takes a topic's run and writes all who follow it into `slots`.
    pub(super) fn begin_run(&mut self, id: TopicId, slots: &mut Vec<Slot>) -> Vec<Event> {
        let topic = &mut self.topics[id.0 as usize];
        slots.clear();
        topic.subscribers.walk_union(&self.everything, slots);
        std::mem::take(&mut topic.run)
    }

    /// Gives the run's memory back, and forgets the topic where nobody follows it by name.
    pub(super) fn end_run(&mut self, id: TopicId, mut run: Vec<Event>) {
        run.clear();
        let topic = &mut self.topics[id.0 as usize];
        if topic.subscribers.is_empty() {
            self.remove(id);
        } else if run.capacity() <= 64 {
            topic.run = run;
        }
    }
}
