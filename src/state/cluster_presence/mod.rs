//! Who is where, as the nodes have told each other.
//!
//! Each node tells facts of its own people alone: which users are online there, how many follow a
//! channel, who is in a room. A fact is a total and no difference, so it may be told twice. Facts are
//! entries of the ordered log, so every node hears of everyone's coming and going in one order, and
//! counts a user who comes to a second node once.
//!
//! # Promises
//!
//! * A node that the others count as gone has told nothing from then on; if it is not, it tells
//!   everything anew.
//!
//! Imports `id` and its siblings. Part of `state`.

pub mod update;

pub(super) mod dirty;
mod node;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::people::{OnlineUser, Person};
use crate::id::{ChannelName, UserId};
use dirty::DirtySet;
use node::{NodePresence, Place, Presence};
use update::{PresenceSnapshot, PresenceUpdate};

/// What facts have changed for everyone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PresenceTransition {
    /// A user has come online.
    Online(Person),
    /// A user is on no node any more.
    Offline(Person),
    /// A user has come into a room.
    Joined(ChannelName, Person),
    /// A user is in it on no node any more.
    Left(ChannelName, Person),
}

/// The people of all nodes.
#[derive(Debug)]
pub(super) struct ClusterPresence {
    node: Box<str>,
    by_node: BTreeMap<Box<str>, NodePresence>,
    /// The other nodes that are alive.
    alive: Vec<Box<str>>,
    users_online: usize,
    /// How many users are in each room.
    room_counts: HashMap<ChannelName, usize>,
    /// What this node has to tell.
    pub(super) dirty: DirtySet,
    /// Nodes whose end is proposed.
    leaving: HashSet<Box<str>>,
}

impl ClusterPresence {
    pub(super) fn new(node: &str) -> ClusterPresence {
        ClusterPresence {
            node: node.into(),
            by_node: BTreeMap::new(),
            alive: Vec::new(),
            users_online: 0,
            room_counts: HashMap::new(),
            dirty: DirtySet::default(),
            leaving: HashSet::new(),
        }
    }

    /// The other nodes that are alive.
    pub(super) fn others(&self) -> Vec<String> {
        self.alive.iter().map(ToString::to_string).collect()
    }

    /// Whether another node is alive under this name.
    pub(super) fn is_alive(&self, node: &str) -> bool {
        self.alive.iter().any(|one| **one == *node)
    }

    /// Takes in who is alive. Returns the nodes whose end has to be proposed, where that falls to
    /// this node.
    pub(super) fn on_nodes(&mut self, alive: &[String], is_leader: bool) -> Vec<String> {
        let others = alive.iter().filter(|node| **node != *self.node);
        self.alive = others.map(|node| node.as_str().into()).collect();
        if !is_leader {
            return Vec::new();
        }
        let gone: Vec<Box<str>> = self
            .by_node
            .keys()
            .filter(|node| **node != self.node && !self.alive.contains(node))
            .filter(|node| !self.leaving.contains(*node))
            .cloned()
            .collect();
        self.leaving.extend(gone.iter().cloned());
        gone.into_iter().map(String::from).collect()
    }

    /// The proposal of a node's end was lost.
    pub(super) fn on_farewell_lost(&mut self, node: &str) {
        self.leaving.remove(node);
    }

    /// Has everything looked at again that this node has told.
    pub(super) fn note_all_told(&mut self) {
        if let Some(told) = self.by_node.get(&self.node) {
            self.dirty.look_at_told(told);
        }
    }

    /// Another node has written an entry: it is there.
    pub(super) fn saw(&mut self, node: &str) {
        if *node != *self.node && !self.is_alive(node) {
            self.alive.push(node.into());
        }
    }

    /// Drops the facts that were told already.
    pub(super) fn keep_news(&self, facts: &mut PresenceUpdate) {
        let nothing = NodePresence::default();
        let told = self.by_node.get(&self.node).unwrap_or(&nothing);
        facts.users.retain(|(user, _, connections, _)| {
            told.users.get(user.as_str()).map_or(0, |one| one.connections) != *connections
        });
        facts.channels.retain(|(channel, followers)| {
            told.channels.get(channel.as_str()).copied().unwrap_or(0) != *followers
        });
        facts.rooms.retain(|(channel, user, _, since_ms)| {
            let room = told.rooms.get(channel.as_str());
            room.is_some_and(|room| room.contains_key(user.as_str())) != since_ms.is_some()
        });
    }

    /// Applies a node's facts.
    pub(super) fn apply(&mut self, node: &str, facts: &PresenceUpdate) -> Vec<PresenceTransition> {
        if *node == *self.node {
            self.dirty.on_told();
        }
        let mut transitions = Vec::new();
        for (user, name, connections, since_ms) in &facts.users {
            let user_id = UserId::new(user);
            let was_online = self.is_online(&user_id);
            let folk = self.by_node.entry(node.into()).or_default();
            let before = match *connections {
                0 => folk.users.remove(&user_id),
                connections => {
                    let username: Arc<str> = name.as_str().into();
                    let presence = Presence { username, connections, since_ms: *since_ms };
                    folk.users.insert(user_id.clone(), presence)
                }
            };
            let username = before.map_or_else(|| name.as_str().into(), |before| before.username);
            self.turn(&mut transitions, was_online, Person { user_id, username });
        }
        for (channel, followers) in &facts.channels {
            let folk = self.by_node.entry(node.into()).or_default();
            match *followers {
                0 => folk.channels.remove(channel.as_str()),
                followers => folk.channels.insert(ChannelName::new(channel), followers),
            };
        }
        for (channel, user, name, since_ms) in &facts.rooms {
            let (channel, user_id) = (ChannelName::new(channel), UserId::new(user));
            let was_in_it = self.is_in_room(&channel, &user_id);
            let folk = self.by_node.entry(node.into()).or_default();
            let room = folk.rooms.entry(channel.clone()).or_default();
            match since_ms {
                None => _ = room.remove(&user_id),
                Some(since_ms) => {
                    let place = Place { username: name.as_str().into(), since_ms: *since_ms };
                    room.insert(user_id.clone(), place);
                }
            }
            if room.is_empty() {
                folk.rooms.remove(&channel);
            }
            let person = Person { user_id, username: name.as_str().into() };
            self.room_turn(&mut transitions, was_in_it, channel, person);
        }
        transitions
    }

    fn turn(
        &mut self,
        transitions: &mut Vec<PresenceTransition>,
        was_online: bool,
        person: Person,
    ) {
        match (was_online, self.is_online(&person.user_id)) {
            (false, true) => {
                self.users_online += 1;
                transitions.push(PresenceTransition::Online(person));
            }
            (true, false) => {
                self.users_online -= 1;
                transitions.push(PresenceTransition::Offline(person));
            }
            _ => {}
        }
    }

    fn room_turn(
        &mut self,
        transitions: &mut Vec<PresenceTransition>,
        was: bool,
        channel: ChannelName,
        person: Person,
    ) {
        match (was, self.is_in_room(&channel, &person.user_id)) {
            (false, true) => {
                *self.room_counts.entry(channel.clone()).or_default() += 1;
                transitions.push(PresenceTransition::Joined(channel, person));
            }
            (true, false) => {
                if let Some(count) = self.room_counts.get_mut(&channel) {
                    *count -= 1;
                    if *count == 0 {
                        self.room_counts.remove(&channel);
                    }
                }
                transitions.push(PresenceTransition::Left(channel, person));
            }
            _ => {}
        }
    }

    /// Applies a node's end. Where it is this one's own, everything has to be told anew.
    pub(super) fn forget(&mut self, node: &str) -> Vec<PresenceTransition> {
        self.leaving.remove(node);
        let Some(folk) = self.by_node.remove(node) else { return Vec::new() };
        let mut transitions = Vec::new();
        // By name, so that the same happens in the same order.
        for (user_id, presence) in BTreeMap::from_iter(folk.users) {
            self.turn(&mut transitions, true, Person { user_id, username: presence.username });
        }
        for (channel, room) in BTreeMap::from_iter(folk.rooms) {
            for (user_id, place) in BTreeMap::from_iter(room) {
                let person = Person { user_id, username: place.username };
                self.room_turn(&mut transitions, true, channel.clone(), person);
            }
        }
        transitions
    }

    /// Begins anew with what a snapshot says. Returns what that changes.
    pub(super) fn replace(&mut self, snapshot: &PresenceSnapshot) -> Vec<PresenceTransition> {
        let mut fresh = ClusterPresence::new(&self.node);
        for (node, facts) in &snapshot.nodes {
            fresh.apply(node, facts);
        }
        let mut transitions = Vec::new();
        let gone = |turn: &mut Vec<PresenceTransition>,
                    from: &ClusterPresence,
                    to: &ClusterPresence,
                    is_end: bool| {
            // Each once, by name.
            let of_all = || from.by_node.values().rev();
            let users: BTreeMap<_, _> = of_all().flat_map(|folk| &folk.users).collect();
            for (user_id, presence) in users {
                if !to.is_online(user_id) {
                    let username = Arc::clone(&presence.username);
                    let person = Person { user_id: user_id.clone(), username };
                    turn.push(if is_end {
                        PresenceTransition::Offline(person)
                    } else {
                        PresenceTransition::Online(person)
                    });
                }
            }
            let mut places = BTreeMap::new();
            for (channel, room) in of_all().flat_map(|folk| &folk.rooms) {
                places.extend(room.iter().map(|(user_id, place)| ((channel, user_id), place)));
            }
            for ((channel, user_id), place) in places {
                if !to.is_in_room(channel, user_id) {
                    let username = Arc::clone(&place.username);
                    let person = Person { user_id: user_id.clone(), username };
                    let channel = channel.clone();
                    turn.push(if is_end {
                        PresenceTransition::Left(channel, person)
                    } else {
                        PresenceTransition::Joined(channel, person)
                    });
                }
            }
        };
        gone(&mut transitions, self, &fresh, true);
        gone(&mut transitions, &fresh, self, false);
        fresh.alive = std::mem::take(&mut self.alive);
        fresh.dirty.take_over(std::mem::take(&mut self.dirty));
        *self = fresh;
        transitions
    }

    /// What the nodes have told, for one that joins.
    pub(super) fn snapshot(&self) -> Vec<(String, PresenceUpdate)> {
        self.by_node.iter().map(|(node, told)| (node.to_string(), told.to_update())).collect()
    }

    fn elsewhere(&self) -> impl Iterator<Item = (&str, &NodePresence)> {
        let others = self.by_node.iter().filter(|(node, _)| **node != self.node);
        others.map(|(node, folk)| (&**node, folk))
    }

    fn is_online(&self, user_id: &UserId) -> bool {
        self.by_node.values().any(|folk| folk.users.contains_key(user_id))
    }

    fn is_in_room(&self, channel: &ChannelName, user_id: &UserId) -> bool {
        let mut rooms = self.by_node.values().filter_map(|folk| folk.rooms.get(channel));
        rooms.any(|room| room.contains_key(user_id))
    }

    /// How many users are online on any node.
    pub(super) fn users_online(&self) -> usize {
        self.users_online
    }

    /// The other nodes on which a user is online.
    pub(super) fn nodes_of(&self, user_id: &UserId) -> Vec<String> {
        let there = self.elsewhere().filter(|(_, folk)| folk.users.contains_key(user_id));
        there.map(|(node, _)| node.to_owned()).collect()
    }

    /// The other nodes on which a channel is followed, each with how many followers.
    pub(super) fn followers(&self, channel: &ChannelName) -> impl Iterator<Item = (&str, usize)> {
        self.elsewhere().filter_map(|(node, folk)| {
            folk.channels.get(channel).map(|count| (node, *count as usize))
        })
    }

    /// The channels followed on other nodes, each as often as there are such nodes.
    pub(super) fn channels(&self) -> impl Iterator<Item = &ChannelName> {
        self.elsewhere().flat_map(|(_, folk)| folk.channels.keys())
    }

    /// Who is in a room on any node, as far as told, in the order of coming.
    pub(super) fn room_users(&self, channel: &ChannelName) -> Vec<(UserId, Arc<str>)> {
        let mut first: HashMap<&UserId, &Place> = HashMap::new();
        for (user, place) in
            self.by_node.values().filter_map(|one| one.rooms.get(channel)).flatten()
        {
            let known = first.entry(user).or_insert(place);
            if place.since_ms < known.since_ms {
                *known = place;
            }
        }
        let mut users: Vec<_> = first.into_iter().collect();
        users.sort_by_key(|(user, place)| (place.since_ms, *user));
        users.into_iter().map(|(user, place)| (user.clone(), Arc::clone(&place.username))).collect()
    }

    /// How many users are in a room on any node, as far as told.
    pub(super) fn room_count(&self, channel: &ChannelName) -> usize {
        self.room_counts.get(channel).copied().unwrap_or(0)
    }

    /// What this node has told of somebody in a room.
    pub(super) fn own_place(&self, channel: &ChannelName, user_id: &UserId) -> Option<&Place> {
        self.by_node.get(&self.node)?.rooms.get(channel)?.get(user_id)
    }

    /// Adds who is online on other nodes to who is online here.
    pub(super) fn add_online(&self, users: &mut HashMap<UserId, OnlineUser>) {
        for (user_id, there) in self.elsewhere().flat_map(|(_, folk)| &folk.users) {
            let connections = there.connections as usize;
            if let Some(user) = users.get_mut(user_id) {
                user.connections += connections;
                user.since_ms = user.since_ms.min(there.since_ms);
                continue;
            }
            let username = Arc::clone(&there.username);
            let person = Person { user_id: user_id.clone(), username };
            let since_ms = there.since_ms;
            users.insert(user_id.clone(), OnlineUser { person, connections, since_ms });
        }
    }
}
