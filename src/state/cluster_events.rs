//! The people and channels of all nodes: what goes into the log, what comes out of it, and what
//! comes of calls.
//!
//! Part of `state`.

use super::State;
use super::cluster_presence::PresenceTransition;
use super::cluster_presence::dirty::DirtyBatch;
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

    fn presence_update(&self, batch: &DirtyBatch, now: Moment) -> PresenceUpdate {
        let user = |user_id: &UserId| match self.people.presence(user_id) {
            Some((name, connections, since_ms)) => {
                let connections = u32::try_from(connections).unwrap_or(u32::MAX);
                (user_id.as_str().to_owned(), name.to_owned(), connections, since_ms)
            }
            None => (user_id.as_str().to_owned(), String::new(), 0, 0),
        };
        let channel = |name: &ChannelName| {
            let followers =
                self.channels.find(name).map(|key| self.channels.get(key).members.len());
            let followers = u32::try_from(followers.unwrap_or(0)).unwrap_or(u32::MAX);
            (name.as_str().to_owned(), followers)
        };
        let room = |(channel, user_id): &(ChannelName, UserId)| {
            let place =
                self.channels.find(channel).and_then(|key| self.channels.get(key).name_of(user_id));
            let told = self.cluster_presence.own_place(channel, user_id);
            let name = place.or(told.map(|place| &*place.username)).unwrap_or_default().to_owned();
            let since_ms = place.map(|_| now.wall_ms);
            (channel.as_str().to_owned(), user_id.as_str().to_owned(), name, since_ms)
        };
        PresenceUpdate {
            users: batch.users.iter().map(user).collect(),
            channels: batch.channels.iter().map(channel).collect(),
            rooms: batch.rooms.iter().map(room).collect(),
            known: batch.known.iter().map(|user_id| user_id.as_str().to_owned()).collect(),
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
        let is_leader = self.registry.log().is_leader();
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
                known.for_each(|user| self.people.note_told(UserId::new(user)));
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
        let mut facts = self.presence_update(&DirtyBatch::of(told), now);
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
            let except = match &transition {
                PresenceTransition::Online(person) => {
                    self.people.of_user(&person.user_id).collect()
                }
                PresenceTransition::Offline(_) => Vec::new(),
                PresenceTransition::Joined(channel, person)
                | PresenceTransition::Left(channel, person) => {
                    self.connections_in(channel, &person.user_id)
                }
            };
            self.announce_transition(transition, except, now);
        }
    }

    /// The connections of a user that are in a room, or follow a channel that tells who is there.
    fn connections_in(&self, channel: &ChannelName, user_id: &UserId) -> Vec<ConnId> {
        let Some(key) = self.channels.find(channel) else { return Vec::new() };
        let is_in_it = |conn: &ConnId| {
            self.people.find(*conn).is_some_and(|(_, connection)| {
                connection.memberships.iter().any(|place| {
                    place.channel == key && (place.is_joined || channel.room().is_none())
                })
            })
        };
        self.people.of_user(user_id).filter(is_in_it).collect()
    }

    /// Begins anew with the people of a snapshot.
    pub(super) fn replace_shared(&mut self, snapshot: PresenceSnapshot, now: Moment) {
        for user in &snapshot.known {
            self.people.note_told(UserId::new(user));
        }
        for (_, facts) in &snapshot.nodes {
            let users = facts.users.iter().map(|fact| UserId::new(&fact.0));
            users.for_each(|user_id| self.people.note_told(user_id));
        }
        let transitions = self.cluster_presence.replace(&snapshot);
        self.channels.define_all(snapshot.channels);
        self.tell_all();
        self.announce_transitions(transitions, now);
    }

    /// Everything that all nodes share, at the present place of the log. None at a node that is alone.
    pub fn snapshot(&self) -> Option<Snapshot> {
        let snapshot = || Snapshot { people: self.presence_snapshot(), ..self.registry.snapshot() };
        self.sequencer.is_shared().then(snapshot)
    }

    /// What of that is of people.
    pub(super) fn presence_snapshot(&self) -> PresenceSnapshot {
        let known = match &self.sequencer.journal {
            // There is no database that has them.
            None => self.people.known_ids().map(|user_id| user_id.as_str().to_owned()).collect(),
            Some(_) => Vec::new(),
        };
        let channels = self.channels.definitions();
        PresenceSnapshot { nodes: self.cluster_presence.snapshot(), channels, known }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::id::{ConnId, ShardId, Slot};
    use crate::state::people::{Opened, Person};
    use crate::state::{Ask as _, lone_node};

    #[test]
    fn an_own_entry_that_comes_late_is_corrected() {
        let now = Clock::start().now();
        let mut node = lone_node("a", None, now);
        node.on_nodes(&[String::from("a")], (now.unix_ms, 0), now);
        let person = Person { user_id: UserId::new("bob"), username: "bob".into() };
        let conn = ConnId { shard: ShardId(0), slot: Slot(0), generation: 0 };
        let opened = Opened { conn, person: Some(person), remote: None };
        node.apply(opened.unanswered(), now);
        let tells = |node: &mut State| -> Vec<PresenceUpdate> {
            let entries = node.take_proposals(now).into_iter();
            let facts = entries.filter_map(|entry| match entry {
                Entry::Presence(PresenceEntry::Update(facts)) if !facts.users.is_empty() => {
                    Some(facts)
                }
                _ => None,
            });
            facts.collect()
        };
        let told = tells(&mut node);
        assert_eq!(told.len(), 1);
        node.apply_presence("a", PresenceEntry::Update(told[0].clone()), now);
        assert!(tells(&mut node).is_empty(), "all is told");
        // From before the connection was opened; it was reported lost.
        let old = PresenceUpdate {
            users: vec![("bob".into(), String::new(), 0, 0)],
            ..PresenceUpdate::default()
        };
        node.apply_presence("a", PresenceEntry::Update(old), now);
        assert_eq!(tells(&mut node)[0].users, told[0].users);
    }
}
