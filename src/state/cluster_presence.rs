//! Who is where, as the nodes have told each other.
//!
//! Each node tells facts of its own people alone: which users are online there, how many follow a
//! channel, who is in a room. A fact is a total and no difference, so it may be told twice. Facts are
//! entries of the ordered log, so every node hears of everyone's coming and going in one order, and
//! counts a user who comes to a second node once.
//!
//! ```text
//! something changed here --> noted as untold --> Facts, one entry at a time --> log --> every node
//! ```
//!
//! # Promises
//!
//! * What is true here and not told yet is told as soon as the entry before it is applied: that is
//!   the batch, and there is no timer.
//! * A node that the others count as gone has told nothing from then on; if it is not, it tells
//!   everything anew.
//!
//! Imports `id`, `limits` and its siblings. Part of `state`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::people::{OnlineUser, Person};
use crate::id::{ChannelName, UserId};
use crate::limits;

/// What a node tells of its people.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceUpdate {
    /// User, name, connections and since when in milliseconds since the Unix epoch. Without
    /// connections the user is offline there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<(String, String, u32, u64)>,
    /// Channel and followers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<(String, u32)>,
    /// Channel, user, name and since when; without a time the user has left.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rooms: Vec<(String, String, String, Option<u64>)>,
    /// Users seen for the first time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub known: Vec<String>,
}

impl PresenceUpdate {
    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        *self == PresenceUpdate::default()
    }
}

/// What all nodes know of people, for one that joins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceSnapshot {
    /// Each node's facts.
    #[serde(default)]
    pub nodes: Vec<(String, PresenceUpdate)>,
    /// The defined channels, with what they are for.
    #[serde(default)]
    pub channels: Vec<(String, String)>,
    /// The users ever seen, where no database has them.
    #[serde(default)]
    pub known: Vec<String>,
}

#[derive(Debug, Clone)]
struct Presence {
    username: Arc<str>,
    connections: u32,
    since_ms: u64,
}

/// Somebody in a room.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) username: Arc<str>,
    pub(super) since_ms: u64,
}

/// What one node has told.
#[derive(Debug, Default)]
struct NodePresence {
    users: HashMap<UserId, Presence>,
    channels: HashMap<ChannelName, u32>,
    rooms: HashMap<ChannelName, HashMap<UserId, Place>>,
}

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

/// What is true here and not told yet.
#[derive(Debug, Default)]
struct DirtySet {
    users: BTreeSet<UserId>,
    channels: BTreeSet<ChannelName>,
    rooms: BTreeSet<(ChannelName, UserId)>,
    known: BTreeSet<UserId>,
    /// The number of the round of announcements that will tell of it.
    round: u64,
    /// Whether a command waits for that round.
    is_awaited: bool,
}

impl DirtySet {
    fn is_empty(&self) -> bool {
        self.users.is_empty()
            && self.channels.is_empty()
            && self.rooms.is_empty()
            && self.known.is_empty()
    }
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
    dirty: DirtySet,
    /// Whether an entry is on its way.
    is_telling: bool,
    /// The round that is told of with that entry, where a command waits for it.
    carried: Option<u64>,
    /// Whether the others have yet to hear that this node is there.
    is_new: bool,
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
            is_telling: false,
            carried: None,
            is_new: true,
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

    pub(super) fn note_user(&mut self, user_id: &UserId) {
        self.dirty.users.insert(user_id.clone());
    }

    pub(super) fn note_known(&mut self, user_id: UserId) {
        self.dirty.known.insert(user_id);
    }

    pub(super) fn note_channel(&mut self, channel: &ChannelName) {
        self.dirty.channels.insert(channel.clone());
    }

    pub(super) fn note_room(&mut self, channel: &ChannelName, user_id: &UserId) {
        self.dirty.rooms.insert((channel.clone(), user_id.clone()));
    }

    /// Has everything looked at again that this node has told.
    pub(super) fn note_all_told(&mut self) {
        let Some(folk) = self.by_node.get(&self.node) else { return };
        self.dirty.users.extend(folk.users.keys().cloned());
        self.dirty.channels.extend(folk.channels.keys().cloned());
        for (channel, room) in &folk.rooms {
            let users = room.keys().map(|user| (channel.clone(), user.clone()));
            self.dirty.rooms.extend(users);
        }
    }

    /// Takes what to look at for the next entry, up to a bound; nothing while one is on its way.
    /// The caller says what is true of each.
    pub(super) fn take_dirty(&mut self) -> Option<DirtyBatch> {
        if self.is_telling {
            return None;
        }
        let mut room = limits::FACTS_PER_ENTRY_MAX;
        let mut batch = DirtyBatch::default();
        take_some(&mut self.dirty.users, &mut batch.users, &mut room);
        take_some(&mut self.dirty.channels, &mut batch.channels, &mut room);
        take_some(&mut self.dirty.rooms, &mut batch.rooms, &mut room);
        take_some(&mut self.dirty.known, &mut batch.known, &mut room);
        if room == limits::FACTS_PER_ENTRY_MAX && !self.is_new {
            return None;
        }
        self.is_telling = true;
        if self.dirty.is_empty() {
            self.carried = self.end_round().or(self.carried);
        }
        Some(batch)
    }

    /// The round of announcements that tells of everything that is true now, for a command that
    /// waits for it.
    pub(super) fn await_announcement(&mut self) -> u64 {
        self.dirty.is_awaited = true;
        self.dirty.round
    }

    /// Ends the round. Returns its number where a command waits for it.
    fn end_round(&mut self) -> Option<u64> {
        let round = self.dirty.round;
        self.dirty.round += 1;
        std::mem::take(&mut self.dirty.is_awaited).then_some(round)
    }

    /// Whether everything is told.
    pub(super) fn has_told_all(&self) -> bool {
        !self.is_telling && self.dirty.is_empty()
    }

    /// Whether the others have yet to hear that this node is there.
    pub(super) fn is_new(&self) -> bool {
        self.is_new
    }

    /// Takes the last round that is told by now, where a command waits for it or one before.
    pub(super) fn take_announced(&mut self) -> Option<u64> {
        if self.is_telling {
            return None;
        }
        let carried = self.carried.take();
        if self.dirty.is_empty() { self.end_round().or(carried) } else { carried }
    }

    /// Another node has written an entry: it is there.
    pub(super) fn saw(&mut self, node: &str) {
        if *node != *self.node && !self.is_alive(node) {
            self.alive.push(node.into());
        }
    }

    /// There turned out to be nothing to tell.
    pub(super) fn told_nothing(&mut self) {
        self.is_telling = false;
    }

    /// The entry did not reach the log: its facts are looked at again.
    pub(super) fn on_update_lost(&mut self, facts: &PresenceUpdate) {
        self.is_telling = false;
        // Whoever waits for that round goes on with the present one.
        self.dirty.is_awaited |= self.carried.take().is_some();
        self.look_again(facts);
    }

    /// Has facts looked at again: what is true of them by now may not be what is told.
    pub(super) fn look_again(&mut self, facts: &PresenceUpdate) {
        self.dirty.users.extend(facts.users.iter().map(|fact| UserId::new(&fact.0)));
        self.dirty.channels.extend(facts.channels.iter().map(|fact| ChannelName::new(&fact.0)));
        let room = |fact: &(String, String, String, Option<u64>)| {
            (ChannelName::new(&fact.0), UserId::new(&fact.1))
        };
        self.dirty.rooms.extend(facts.rooms.iter().map(room));
        self.dirty.known.extend(facts.known.iter().map(|user| UserId::new(user)));
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
            (self.is_telling, self.is_new) = (false, false);
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
        for (user_id, presence) in folk.users {
            self.turn(&mut transitions, true, Person { user_id, username: presence.username });
        }
        for (channel, room) in folk.rooms {
            for (user_id, place) in room {
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
            let mut seen = HashSet::new();
            for (user_id, presence) in from.by_node.values().flat_map(|folk| &folk.users) {
                if !to.is_online(user_id) && seen.insert(user_id) {
                    let username = Arc::clone(&presence.username);
                    let person = Person { user_id: user_id.clone(), username };
                    turn.push(if is_end {
                        PresenceTransition::Offline(person)
                    } else {
                        PresenceTransition::Online(person)
                    });
                }
            }
            let mut seen = HashSet::new();
            for (channel, room) in from.by_node.values().flat_map(|folk| &folk.rooms) {
                for (user_id, place) in room {
                    if !to.is_in_room(channel, user_id) && seen.insert((channel, user_id)) {
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
            }
        };
        gone(&mut transitions, self, &fresh, true);
        gone(&mut transitions, &fresh, self, false);
        fresh.alive = std::mem::take(&mut self.alive);
        fresh.dirty = std::mem::take(&mut self.dirty);
        fresh.dirty.is_awaited |= self.carried.take().is_some();
        *self = fresh;
        transitions
    }

    /// What the nodes have told, for one that joins.
    pub(super) fn snapshot(&self) -> Vec<(String, PresenceUpdate)> {
        let facts = |folk: &NodePresence| PresenceUpdate {
            users: folk
                .users
                .iter()
                .map(|(user, one)| {
                    let name = one.username.to_string();
                    (user.as_str().to_owned(), name, one.connections, one.since_ms)
                })
                .collect(),
            channels: folk
                .channels
                .iter()
                .map(|(channel, count)| (channel.as_str().to_owned(), *count))
                .collect(),
            rooms: folk
                .rooms
                .iter()
                .flat_map(|(channel, room)| {
                    room.iter().map(|(user, place)| {
                        let name = place.username.to_string();
                        let (channel, user) = (channel.as_str(), user.as_str());
                        (channel.to_owned(), user.to_owned(), name, Some(place.since_ms))
                    })
                })
                .collect(),
            known: Vec::new(),
        };
        self.by_node.iter().map(|(node, folk)| (node.to_string(), facts(folk))).collect()
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

/// What to tell of next.
#[derive(Debug, Default)]
pub(super) struct DirtyBatch {
    pub(super) users: Vec<UserId>,
    pub(super) channels: Vec<ChannelName>,
    pub(super) rooms: Vec<(ChannelName, UserId)>,
    pub(super) known: Vec<UserId>,
}

impl DirtyBatch {
    /// What facts are about: users, channels and places in rooms.
    pub(super) fn of(facts: &PresenceUpdate) -> DirtyBatch {
        let room = |fact: &(String, String, String, Option<u64>)| {
            (ChannelName::new(&fact.0), UserId::new(&fact.1))
        };
        DirtyBatch {
            users: facts.users.iter().map(|fact| UserId::new(&fact.0)).collect(),
            channels: facts.channels.iter().map(|fact| ChannelName::new(&fact.0)).collect(),
            rooms: facts.rooms.iter().map(room).collect(),
            known: Vec::new(),
        }
    }
}

fn take_some<T: Ord>(from: &mut BTreeSet<T>, to: &mut Vec<T>, room: &mut usize) {
    while *room > 0
        && let Some(one) = from.pop_first()
    {
        to.push(one);
        *room -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn online(user: &str, connections: u32) -> PresenceUpdate {
        let user = (user.to_owned(), user.to_uppercase(), connections, 5);
        PresenceUpdate { users: vec![user], ..PresenceUpdate::default() }
    }

    fn in_room(user: &str, since_ms: Option<u64>) -> PresenceUpdate {
        let place = ("chat:r".to_owned(), user.to_owned(), user.to_uppercase(), since_ms);
        PresenceUpdate { rooms: vec![place], ..PresenceUpdate::default() }
    }

    fn person(user: &str) -> Person {
        Person { user_id: UserId::new(user), username: user.to_uppercase().into() }
    }

    #[test]
    fn a_user_on_two_nodes_comes_and_goes_once() {
        let mut cluster_presence = ClusterPresence::new("a");
        assert_eq!(
            cluster_presence.apply("a", &online("u", 1)),
            [PresenceTransition::Online(person("u"))]
        );
        assert_eq!(cluster_presence.apply("b", &online("u", 2)), []);
        assert_eq!(
            (cluster_presence.users_online(), cluster_presence.nodes_of(&UserId::new("u"))),
            (1, vec!["b".into()])
        );
        assert_eq!(cluster_presence.apply("a", &online("u", 0)), []);
        assert_eq!(
            cluster_presence.apply("b", &online("u", 0)),
            [PresenceTransition::Offline(person("u"))]
        );
        let room = ChannelName::of_room("r");
        assert_eq!(
            cluster_presence.apply("b", &in_room("u", Some(1))),
            [PresenceTransition::Joined(room.clone(), person("u"))]
        );
        assert_eq!(cluster_presence.apply("a", &in_room("u", Some(2))), []);
        assert_eq!(cluster_presence.forget("b"), []);
        assert_eq!(cluster_presence.room_count(&room), 1);
        assert_eq!(cluster_presence.forget("a"), [PresenceTransition::Left(room, person("u"))]);
    }

    #[test]
    fn one_entry_is_on_its_way_at_a_time() {
        let mut cluster_presence = ClusterPresence::new("a");
        cluster_presence.apply("a", &PresenceUpdate::default());
        assert!(cluster_presence.take_dirty().is_none());
        cluster_presence.note_user(&UserId::new("u"));
        let round = cluster_presence.await_announcement();
        let first = cluster_presence.take_dirty().expect("a batch");
        assert_eq!(first.users, [UserId::new("u")]);
        cluster_presence.note_user(&UserId::new("v"));
        assert!(cluster_presence.take_dirty().is_none(), "the first is on its way");
        assert_eq!(cluster_presence.take_announced(), None);
        cluster_presence.on_update_lost(&online("u", 1));
        let again = cluster_presence.take_dirty().expect("a batch");
        assert_eq!(again.users, [UserId::new("u"), UserId::new("v")]);
        cluster_presence.apply("a", &online("u", 1));
        assert!(cluster_presence.take_dirty().is_none() && cluster_presence.has_told_all());
        assert!(cluster_presence.take_announced().is_some_and(|announced| announced >= round));
    }

    /// Random facts of three nodes: whoever follows the turns has the users of the union; whoever
    /// begins from a snapshot has them too.
    #[test]
    fn turns_add_up_to_the_picture() {
        for seed in 0..20 {
            let mut rng = Rng::seeded(seed);
            let (mut cluster_presence, mut late) =
                (ClusterPresence::new("a"), ClusterPresence::new("z"));
            let (mut heard, mut heard_late) = (BTreeSet::new(), BTreeSet::new());
            let take = |heard: &mut BTreeSet<String>, transitions: Vec<PresenceTransition>| {
                for turn in transitions {
                    let is_new = match turn {
                        PresenceTransition::Online(one) => heard.insert(one.user_id.to_string()),
                        PresenceTransition::Offline(one) => heard.remove(one.user_id.as_str()),
                        _ => true,
                    };
                    assert!(is_new, "told twice, seed {seed}");
                }
            };
            for step in 0..500 {
                let node = ["a", "b", "c"][rng.below(3) as usize];
                let transitions = if rng.below(20) == 0 {
                    cluster_presence.forget(node)
                } else {
                    let user = format!("u{}", rng.below(6));
                    let count = u32::try_from(rng.below(3)).expect("small");
                    cluster_presence.apply(node, &online(&user, count))
                };
                take(&mut heard, transitions);
                if step % 50 == 0 {
                    let snapshot = PresenceSnapshot {
                        nodes: cluster_presence.snapshot(),
                        ..PresenceSnapshot::default()
                    };
                    take(&mut heard_late, late.replace(&snapshot));
                    assert_eq!(heard, heard_late, "seed {seed}");
                }
                let mut users = HashMap::new();
                late.add_online(&mut users);
                assert_eq!(cluster_presence.users_online(), heard.len(), "seed {seed}");
            }
        }
    }
}
