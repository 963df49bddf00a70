//! The people and channels of all nodes: what goes into the log, what comes out of it, and what
//! comes of calls.

use std::collections::BTreeSet;

use super::State;
use super::cluster_presence::PresenceTransition;
use super::cluster_presence::dirty::Subjects;
use super::cluster_presence::update::{PresenceSnapshot, PresenceUpdate};
use super::effect::{Condition, Waited};
use super::entry::{Entry, PresenceEntry};
use super::snapshot::Snapshot;
use crate::clock::Moment;
use crate::id::{ChannelName, ConnId, UserId};

impl State {
    /// What is true here and not told to the other nodes yet.
    pub(super) fn take_presence_update(&mut self, now: Moment) -> Option<Entry> {
        if !self.sequencer.is_shared() || self.registry.is_cut_off() {
            return None;
        }
        for user_id in self.people.unannounced.iter_mut().flat_map(|users| users.drain(..)) {
            self.cluster_presence.dirty.note_known(user_id);
        }
        // What is told already leaves nothing to say; then there may be more behind it.
        while let Some(batch) = self.cluster_presence.dirty.take_dirty() {
            let mut facts = self.presence_update(&batch, now);
            self.cluster_presence.keep_news(&mut facts);
            if !facts.is_empty() || self.cluster_presence.dirty.is_new() {
                return Some(PresenceEntry::Update(facts).into());
            }
            self.cluster_presence.dirty.told_nothing();
        }
        self.wake_announced();
        None
    }

    /// Commands that waited until this node's presence was announced go on.
    fn wake_announced(&mut self) {
        if let Some(round) = self.cluster_presence.dirty.take_announced() {
            self.wake(Condition::PresenceAnnounced(round), Waited::Met);
        }
    }

    fn presence_update(&self, subjects: &Subjects, now: Moment) -> PresenceUpdate {
        let user = |user_id: &UserId| match self.people.presence(user_id) {
            Some((name, connections, since_ms)) => {
                let connections = u32::try_from(connections).unwrap_or(u32::MAX);
                (user_id.clone(), name.to_owned(), connections, since_ms)
            }
            None => (user_id.clone(), String::new(), 0, 0),
        };
        let channel = |name: &ChannelName| {
            let followers =
                self.channels.find(name).map(|key| self.channels.get(key).members.len());
            (name.clone(), u32::try_from(followers.unwrap_or(0)).unwrap_or(u32::MAX))
        };
        let room = |(channel, user_id): &(ChannelName, UserId)| {
            let place =
                self.channels.find(channel).and_then(|key| self.channels.get(key).name_of(user_id));
            let told = self.cluster_presence.own_place(channel, user_id);
            let name = place.or(told.map(|place| &*place.username)).unwrap_or_default().to_owned();
            let since_ms = place.map(|_| now.wall_ms);
            (channel.clone(), user_id.clone(), name, since_ms)
        };
        PresenceUpdate {
            users: subjects.users.iter().map(user).collect(),
            channels: subjects.channels.iter().map(channel).collect(),
            rooms: subjects.rooms.iter().map(room).collect(),
            known: subjects.known.iter().cloned().collect(),
        }
    }

    /// An entry about users did not reach the log.
    pub(super) fn on_presence_lost(&mut self, entry: &PresenceEntry) {
        match entry {
            PresenceEntry::Update(facts) => self.cluster_presence.dirty.on_update_lost(facts),
            PresenceEntry::NodeLeft(node) => self.cluster_presence.on_farewell_lost(node),
        }
    }

    /// Which nodes are alive: the people of those that are not are gone, once the log says so.
    pub(super) fn on_alive(&mut self, alive: &[String]) {
        let is_leader = self.registry.log().is_leader;
        let is_cut_off = self.registry.is_cut_off();
        let gone = self.cluster_presence.on_nodes(alive, is_leader && !is_cut_off);
        for node in gone {
            self.registry.propose(PresenceEntry::NodeLeft(node));
        }
    }

    /// Applies an entry about users, here as on every node.
    pub(super) fn apply_presence(&mut self, node: &str, entry: PresenceEntry, now: Moment) {
        match entry {
            PresenceEntry::Update(facts) => {
                let known = facts.known.iter().chain(facts.users.iter().map(|fact| &fact.0));
                known.for_each(|user| self.people.note_told(user.clone()));
                self.cluster_presence.saw(node);
                let transitions = self.cluster_presence.apply(node, &facts);
                if *node == *self.node {
                    self.correct(&facts, now);
                }
                self.announce_transitions(transitions, now);
                self.wake_announced();
            }
            PresenceEntry::NodeLeft(gone) => {
                let transitions = self.cluster_presence.forget(&gone);
                if *gone == *self.node {
                    // The others counted this node as gone. It is not.
                    self.tell_all();
                }
                self.announce_transitions(transitions, now);
            }
        }
    }

    /// Has own facts that are out of date told again: an entry that was reported lost may still be
    /// appended, after later ones were told.
    fn correct(&mut self, told: &PresenceUpdate, now: Moment) {
        // Who was seen is told once: no later fact contradicts it.
        let subjects = Subjects { known: BTreeSet::new(), ..Subjects::of(told) };
        let mut facts = self.presence_update(&subjects, now);
        self.cluster_presence.keep_news(&mut facts);
        self.cluster_presence.dirty.look_again(&facts);
    }

    /// Has everything told anew.
    fn tell_all(&mut self) {
        self.cluster_presence.note_all_told();
        self.people.online_ids().for_each(|user_id| self.cluster_presence.dirty.note_user(user_id));
        for key in self.channels.keys() {
            let channel = self.channels.get(key);
            if channel.stream.is_some() {
                self.cluster_presence.dirty.note_channel(&channel.name);
                for (user_id, _) in channel.users() {
                    self.cluster_presence.dirty.note_room(&channel.name, &user_id);
                }
            }
        }
    }

    /// Announces here what has changed for everyone.
    fn announce_transitions(&mut self, transitions: Vec<PresenceTransition>, now: Moment) {
        for transition in transitions {
            let user_id = &transition.person.user_id;
            let except = match &transition.room {
                Some(channel) => self.connections_in(channel, user_id),
                None if transition.is_arrival => self.people.of_user(user_id).collect(),
                None => Vec::new(),
            };
            self.announce_transition(transition, except, now);
        }
    }

    /// The connections of a user that are in a room, or follow a channel that tells who is there.
    fn connections_in(&self, channel: &ChannelName, user_id: &UserId) -> Vec<ConnId> {
        let is_in_it = |conn: &ConnId| {
            self.membership(*conn, channel)
                .is_some_and(|place| place.is_joined || channel.room().is_none())
        };
        self.people.of_user(user_id).filter(is_in_it).collect()
    }

    /// Begins anew with the people of a snapshot.
    pub(super) fn replace_shared(&mut self, snapshot: PresenceSnapshot, now: Moment) {
        let online = snapshot.nodes.iter().flat_map(|(_, facts)| &facts.users).map(|fact| &fact.0);
        for user_id in snapshot.known.iter().chain(online) {
            self.people.note_told(user_id.clone());
        }
        let transitions = self.cluster_presence.replace(&snapshot);
        self.channels.define_all(snapshot.channels);
        self.tell_all();
        self.announce_transitions(transitions, now);
    }

    /// Everything that all nodes share, at the present place of the log.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { people: self.presence_snapshot(), ..self.registry.snapshot() }
    }

    /// What of that is of people.
    pub(super) fn presence_snapshot(&self) -> PresenceSnapshot {
        let known = match &self.sequencer.journal {
            // There is no database that has them.
            None => self.people.known_ids().cloned().collect(),
            Some(_) => Vec::new(),
        };
        let channels = self.channels.definitions();
        PresenceSnapshot { nodes: self.cluster_presence.snapshot(), channels, known }
    }
}
