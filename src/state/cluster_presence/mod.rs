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

pub mod update;

pub(super) mod dirty;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::people::{OnlineUser, Person};
use crate::id::{ChannelName, UserId};
use dirty::DirtySet;
use update::{NodePresence, Place, Presence, PresenceSnapshot, PresenceUpdate};

/// A user has come, or has gone, for everyone: the first node has them, or the last has them no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PresenceTransition {
    /// Whether they came.
    pub(super) is_arrival: bool,
    /// The room, or the channel that tells who is there; none where they came online, or went offline.
    pub(super) room: Option<ChannelName>,
    pub(super) person: Person,
}

/// The people of all nodes.
#[derive(Debug)]
pub(super) struct ClusterPresence {
    node: Box<str>,
    by_node: BTreeMap<Box<str>, NodePresence>,
    /// The other nodes that are alive.
    alive: Vec<Box<str>>,
    /// How many users are in each room, and under none how many are online.
    counts: HashMap<Option<ChannelName>, usize>,
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
            counts: HashMap::new(),
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
            self.dirty.look_again(&told.to_update());
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
            told.users.get(user).map_or(0, |one| one.connections) != *connections
        });
        facts.channels.retain(|(channel, followers)| {
            told.channels.get(channel).copied().unwrap_or(0) != *followers
        });
        facts.rooms.retain(|(channel, user, _, since_ms)| {
            told.has(Some(channel), user) != since_ms.is_some()
        });
    }

    /// Applies a node's facts.
    pub(super) fn apply(&mut self, node: &str, facts: &PresenceUpdate) -> Vec<PresenceTransition> {
        if *node == *self.node {
            self.dirty.on_told();
        }
        let mut transitions = Vec::new();
        for (user_id, name, connections, since_ms) in &facts.users {
            let was_online = self.has(None, user_id);
            let folk = self.by_node.entry(node.into()).or_default();
            let before = match *connections {
                0 => folk.users.remove(user_id),
                connections => {
                    let username: Arc<str> = name.as_str().into();
                    let presence = Presence { username, connections, since_ms: *since_ms };
                    folk.users.insert(user_id.clone(), presence)
                }
            };
            let username = before.map_or_else(|| name.as_str().into(), |before| before.username);
            let person = Person { user_id: user_id.clone(), username };
            self.count(&mut transitions, was_online, None, person);
        }
        for (channel, followers) in &facts.channels {
            let folk = self.by_node.entry(node.into()).or_default();
            match *followers {
                0 => folk.channels.remove(channel),
                followers => folk.channels.insert(channel.clone(), followers),
            };
        }
        for (channel, user_id, name, since_ms) in &facts.rooms {
            let was_in_it = self.has(Some(channel), user_id);
            let folk = self.by_node.entry(node.into()).or_default();
            let room = folk.rooms.entry(channel.clone()).or_default();
            match since_ms {
                None => _ = room.remove(user_id),
                Some(since_ms) => {
                    let place = Place { username: name.as_str().into(), since_ms: *since_ms };
                    room.insert(user_id.clone(), place);
                }
            }
            if room.is_empty() {
                folk.rooms.remove(channel);
            }
            let person = Person { user_id: user_id.clone(), username: name.as_str().into() };
            self.count(&mut transitions, was_in_it, Some(channel.clone()), person);
        }
        transitions
    }

    /// Counts a user who came or went, where that is so for all nodes together.
    fn count(
        &mut self,
        transitions: &mut Vec<PresenceTransition>,
        was_there: bool,
        room: Option<ChannelName>,
        person: Person,
    ) {
        let is_arrival = self.has(room.as_ref(), &person.user_id);
        if was_there == is_arrival {
            return;
        }
        let count = self.counts.entry(room.clone()).or_default();
        *count = if is_arrival { *count + 1 } else { *count - 1 };
        if *count == 0 {
            self.counts.remove(&room);
        }
        transitions.push(PresenceTransition { is_arrival, room, person });
    }

    /// Applies a node's end. Where it is this one's own, everything has to be told anew.
    pub(super) fn forget(&mut self, node: &str) -> Vec<PresenceTransition> {
        self.leaving.remove(node);
        let mut transitions = Vec::new();
        let gone = self.by_node.remove(node);
        for (room, person) in everyone(gone.iter()) {
            self.count(&mut transitions, true, room, person);
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
        for (from, to, is_arrival) in [(&*self, &fresh, false), (&fresh, &*self, true)] {
            for (room, person) in everyone(from.by_node.values().rev()) {
                if !to.has(room.as_ref(), &person.user_id) {
                    transitions.push(PresenceTransition { is_arrival, room, person });
                }
            }
        }
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

    /// Whether a user is in a room on any node; without a room, whether they are online.
    fn has(&self, room: Option<&ChannelName>, user_id: &UserId) -> bool {
        self.by_node.values().any(|folk| folk.has(room, user_id))
    }

    /// How many users are online on any node.
    pub(super) fn users_online(&self) -> usize {
        self.counts.get(&None).copied().unwrap_or(0)
    }

    /// The other nodes on which a user is online.
    pub(super) fn nodes_of(&self, user_id: &UserId) -> Vec<String> {
        let there = self.elsewhere().filter(|(_, folk)| folk.has(None, user_id));
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
        self.counts.get(&Some(channel.clone())).copied().unwrap_or(0)
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

/// Who is online on some nodes, and who is in which room: each once, by the name that the last of them tells, and in
/// one order, so that the same happens in the same order.
fn everyone<'a>(
    nodes: impl Iterator<Item = &'a NodePresence>,
) -> impl Iterator<Item = (Option<ChannelName>, Person)> {
    let all = nodes.flat_map(NodePresence::everyone);
    let by_name: BTreeMap<_, _> =
        all.map(|(room, person)| ((room, person.user_id), person.username)).collect();
    by_name.into_iter().map(|((room, user_id), username)| (room, Person { user_id, username }))
}
