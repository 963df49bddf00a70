//! Subscriptions of one shard: which connections follow which topic.
//!
//! Imports `id`, `limits`, `mailbox`, `storm` and `subscribers`. Imported by `shard`.

use std::collections::HashMap;
use std::hash::BuildHasher as _;

use hashbrown::HashTable;
use slab::Slab;

use crate::id::{Dialect, ServiceName, Slot, Topic};
use crate::limits;
use crate::mailbox::to_shard::Event;
use crate::storm;
use crate::subscribers::Subscribers;

/// A topic's index in its shard's table. Valid while the topic has a subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TopicId(pub(super) u32);

/// A topic, or a service that has an entry here because of followers of all services.
#[derive(Debug)]
struct Entry {
    topic: Topic,
    subscribers: Subscribers,
    /// Events of this turn that have not been handed out yet.
    run: Option<Run>,
}

/// Events of one topic. Boxed: between turns no topic has any, and each signed-in user has a topic.
#[allow(clippy::box_collection, reason = "a pointer of eight bytes in every topic is the point")]
type Run = Box<Vec<Event>>;

/// The table.
///
/// # Invariants
///
/// 1. `by_name` names exactly the topics of the slab.
/// 2. Between turns every topic has a subscriber and no run.
/// 3. `touched` names each topic with a run, once.
#[derive(Debug, Default)]
#[allow(clippy::struct_field_names, reason = "the table of topics holds topics")]
pub(super) struct Topics {
    topics: Slab<Entry>,
    /// By the hash of the topic's name, which is in the slab. The keys of the hash are those of `joining`.
    by_name: HashTable<TopicId>,
    /// Empty runs for the next turn.
    spare: Vec<Run>,
    /// How many of them clients can name.
    named: usize,
    /// The followers of every service, by the dialect of their frames.
    everything: ByDialect<Subscribers>,
    touched: Vec<TopicId>,
    /// Subscriptions that control has not answered yet, by service. While one is under way, control
    /// must not learn that the service has no subscriber.
    joining: HashMap<Topic, u32>,
    joining_everything: ByDialect<u32>,
}

/// One value for each dialect.
#[derive(Debug, Default)]
struct ByDialect<T> {
    own: T,
    artemis: T,
}

impl<T> ByDialect<T> {
    fn of(&self, dialect: Dialect) -> &T {
        match dialect {
            Dialect::Fanfare => &self.own,
            Dialect::Artemis => &self.artemis,
        }
    }

    fn of_mut(&mut self, dialect: Dialect) -> &mut T {
        match dialect {
            Dialect::Fanfare => &mut self.own,
            Dialect::Artemis => &mut self.artemis,
        }
    }
}

impl Topics {
    /// How many services and channels have a subscriber.
    pub(super) fn len(&self) -> usize {
        self.named
    }

    pub(super) fn find(&self, topic: &Topic) -> Option<TopicId> {
        let hash = self.joining.hasher().hash_one(topic);
        self.by_name.find(hash, |id| self.topics[id.0 as usize].topic == *topic).copied()
    }

    /// The topic.
    pub(super) fn name(&self, id: TopicId) -> &Topic {
        &self.topics[id.0 as usize].topic
    }

    fn find_or_new(&mut self, topic: &Topic) -> TopicId {
        if let Some(id) = self.find(topic) {
            return id;
        }
        let entry = Entry { topic: topic.clone(), subscribers: Subscribers::default(), run: None };
        let id = TopicId(u32::try_from(self.topics.insert(entry)).expect("topics are below 2^32"));
        let (topics, hasher) = (&self.topics, self.joining.hasher());
        let hash = |id: &TopicId| hasher.hash_one(&topics[id.0 as usize].topic);
        self.by_name.insert_unique(hash(&id), id, hash);
        self.named += usize::from(is_named(topic));
        id
    }

    /// The followers of every service that get a dialect's frames.
    pub(super) fn everything(&mut self, dialect: Dialect) -> &mut Subscribers {
        self.everything.of_mut(dialect)
    }

    /// Whether a connection follows a topic.
    pub(super) fn contains(&self, id: TopicId, slot: Slot) -> bool {
        self.topics[id.0 as usize].subscribers.contains(slot)
    }

    /// Writes the followers of a topic into `slots`.
    pub(super) fn followers(&self, id: TopicId, slots: &mut Vec<Slot>) {
        slots.clear();
        self.topics[id.0 as usize].subscribers.walk(slots);
    }

    /// Adds a follower. None if it is one already.
    pub(super) fn subscribe(&mut self, topic: &Topic, slot: Slot) -> Option<TopicId> {
        let id = self.find_or_new(topic);
        self.topics[id.0 as usize].subscribers.insert(slot).then_some(id)
    }

    /// Removes a follower. Returns the topic if it was the last one.
    pub(super) fn unsubscribe(&mut self, id: TopicId, slot: Slot) -> Option<Topic> {
        let topic = &mut self.topics[id.0 as usize];
        topic.subscribers.remove(slot);
        if !topic.subscribers.is_empty() {
            return None;
        }
        // With a run in it, the topic stays until the run is handed out; see `end_run`.
        if topic.run.is_some() {
            return Some(topic.topic.clone());
        }
        Some(self.remove(id))
    }

    fn remove(&mut self, id: TopicId) -> Topic {
        let Entry { topic, .. } = self.topics.remove(id.0 as usize);
        if let Ok(entry) =
            self.by_name.find_entry(self.joining.hasher().hash_one(&topic), |&one| one == id)
        {
            entry.remove();
        }
        let (topics, hasher) = (&self.topics, self.joining.hasher());
        storm::shrink_table(&mut self.by_name, |id| hasher.hash_one(&topics[id.0 as usize].topic));
        if self.topics.is_empty() {
            self.topics.shrink_to_fit();
        }
        self.named -= usize::from(is_named(&topic));
        topic
    }

    /// Notes a subscription on its way to control; no service is every service.
    pub(super) fn begin_joining(&mut self, dialect: Dialect, service: Option<&ServiceName>) {
        match service {
            Some(service) => {
                let topic = Topic::of_service(service.clone(), dialect);
                *self.joining.entry(topic).or_default() += 1;
            }
            None => *self.joining_everything.of_mut(dialect) += 1,
        }
    }

    /// Notes that control has answered it.
    pub(super) fn end_joining(&mut self, dialect: Dialect, service: Option<&ServiceName>) {
        match service {
            None => *self.joining_everything.of_mut(dialect) -= 1,
            Some(service) => {
                let topic = Topic::of_service(service.clone(), dialect);
                if let Some(count) = self.joining.get_mut(&topic) {
                    *count -= 1;
                    if *count == 0 {
                        self.joining.remove(&topic);
                    }
                }
            }
        }
    }

    /// Whether a subscription to the service, or to all, is under way on this shard.
    pub(super) fn is_joining(&self, service: &ServiceName) -> bool {
        self.joining_everything.own > 0
            || self.joining.contains_key(&Topic::Service(service.clone()))
    }

    /// Whether a connection here follows in a dialect, or is about to; no service is every service.
    pub(super) fn is_followed(&self, dialect: Dialect, service: Option<&ServiceName>) -> bool {
        match service {
            None => {
                *self.joining_everything.of(dialect) > 0 || !self.everything.of(dialect).is_empty()
            }
            Some(service) => {
                let topic = Topic::of_service(service.clone(), dialect);
                self.joining.contains_key(&topic)
                    || self
                        .find(&topic)
                        .is_some_and(|id| !self.topics[id.0 as usize].subscribers.is_empty())
            }
        }
    }

    /// Adds an event to its topic's run. Returns false if the topic has no subscriber here.
    pub(super) fn add_event(&mut self, event: Event) -> bool {
        let id = match self.find(&event.topic) {
            Some(id) => id,
            None => match event.topic.dialect() {
                Some(dialect) if !self.everything.of(dialect).is_empty() => {
                    self.find_or_new(&event.topic)
                }
                _ => return false,
            },
        };
        let topic = &mut self.topics[id.0 as usize];
        let run = topic.run.get_or_insert_with(|| {
            self.touched.push(id);
            self.spare.pop().unwrap_or_default()
        });
        run.push(event);
        true
    }

    /// The topics with a run, in the order of their first event. The caller ends each run.
    pub(super) fn take_touched(&mut self) -> Vec<TopicId> {
        std::mem::take(&mut self.touched)
    }

    /// Takes the run out of a topic that a membership change needs settled early.
    pub(super) fn touched_early(&mut self, topic: &Topic) -> Option<TopicId> {
        let id = self.find(topic)?;
        let index = self.touched.iter().position(|&touched| touched == id)?;
        self.touched.remove(index);
        Some(id)
    }

    /// Takes a topic's run and writes all followers into `slots`.
    #[allow(clippy::unnecessary_box_returns, reason = "the box goes back into the spare ones")]
    pub(super) fn begin_run(&mut self, id: TopicId, slots: &mut Vec<Slot>) -> Run {
        let topic = &mut self.topics[id.0 as usize];
        slots.clear();
        match topic.topic.dialect() {
            Some(dialect) => topic.subscribers.walk_union(self.everything.of(dialect), slots),
            None => topic.subscribers.walk(slots),
        }
        topic.run.take().unwrap_or_default()
    }

    /// Gives the run's memory back, and forgets a topic without subscribers.
    pub(super) fn end_run(&mut self, id: TopicId, mut run: Run) {
        run.clear();
        if self.topics[id.0 as usize].subscribers.is_empty() {
            self.remove(id);
        }
        if run.capacity() <= 64 && self.spare.len() < limits::SPARE_RUNS_MAX {
            self.spare.push(run);
        }
    }
}

/// Whether clients can name the topic: the others are implicit.
fn is_named(topic: &Topic) -> bool {
    matches!(topic, Topic::Service(_) | Topic::Artemis(_) | Topic::Channel(_))
}
