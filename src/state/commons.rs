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
pub struct Facts {
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

impl Facts {
    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        *self == Facts::default()
    }
}

/// What all nodes know of people, for one that joins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommonsImage {
    /// Each node's facts.
    #[serde(default)]
    pub nodes: Vec<(String, Facts)>,
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
struct Folk {
    users: HashMap<UserId, Presence>,
    channels: HashMap<ChannelName, u32>,
    rooms: HashMap<ChannelName, HashMap<UserId, Place>>,
}

/// What facts have changed for everyone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Turn {
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
struct Untold {
    users: BTreeSet<UserId>,
    channels: BTreeSet<ChannelName>,
    rooms: BTreeSet<(ChannelName, UserId)>,
    known: BTreeSet<UserId>,
    /// The number of the round of announcements that will tell of it.
    round: u64,
    /// Whether a command waits for that round.
    is_awaited: bool,
}

impl Untold {
    fn is_empty(&self) -> bool {
        self.users.is_empty()
            && self.channels.is_empty()
            && self.rooms.is_empty()
            && self.known.is_empty()
    }
}

/// The people of all nodes.
#[derive(Debug)]
pub(super) struct Commons {
    node: Box<str>,
    folks: BTreeMap<Box<str>, Folk>,
    /// The other nodes that are alive.
    alive: Vec<Box<str>>,
    users_online: usize,
    /// How many users are in each room.
    room_counts: HashMap<ChannelName, usize>,
    untold: Untold,
    /// Whether an entry is on its way.
    is_telling: bool,
    /// The round that is told of with that entry, where a command waits for it.
    carried: Option<u64>,
    /// Whether the others have yet to hear that this node is there.
    is_new: bool,
    /// Nodes whose end is proposed.
    leaving: HashSet<Box<str>>,
}

impl Commons {
    pub(super) fn new(node: &str) -> Commons {
        Commons {
            node: node.into(),
            folks: BTreeMap::new(),
            alive: Vec::new(),
            users_online: 0,
            room_counts: HashMap::new(),
            untold: Untold::default(),
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
            .folks
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
        self.untold.users.insert(user_id.clone());
    }

    pub(super) fn note_known(&mut self, user_id: UserId) {
        self.untold.known.insert(user_id);
    }

    pub(super) fn note_channel(&mut self, channel: &ChannelName) {
        self.untold.channels.insert(channel.clone());
    }

    pub(super) fn note_room(&mut self, channel: &ChannelName, user_id: &UserId) {
        self.untold.rooms.insert((channel.clone(), user_id.clone()));
    }

    /// Has everything looked at again that this node has told.
    pub(super) fn note_all_told(&mut self) {
        let Some(folk) = self.folks.get(&self.node) else { return };
        self.untold.users.extend(folk.users.keys().cloned());
        self.untold.channels.extend(folk.channels.keys().cloned());
        for (channel, room) in &folk.rooms {
            let users = room.keys().map(|user| (channel.clone(), user.clone()));
            self.untold.rooms.extend(users);
        }
    }

    /// Takes what to look at for the next entry, up to a bound; nothing while one is on its way.
    /// The caller says what is true of each.
    pub(super) fn take_untold(&mut self) -> Option<UntoldBatch> {
        if self.is_telling {
            return None;
        }
        let mut room = limits::FACTS_PER_ENTRY_MAX;
        let mut batch = UntoldBatch::default();
        take_some(&mut self.untold.users, &mut batch.users, &mut room);
        take_some(&mut self.untold.channels, &mut batch.channels, &mut room);
        take_some(&mut self.untold.rooms, &mut batch.rooms, &mut room);
        take_some(&mut self.untold.known, &mut batch.known, &mut room);
        if room == limits::FACTS_PER_ENTRY_MAX && !self.is_new {
            return None;
        }
        self.is_telling = true;
        if self.untold.is_empty() {
            self.carried = self.end_round().or(self.carried);
        }
        Some(batch)
    }

    /// The round of announcements that tells of everything that is true now, for a command that
    /// waits for it.
    pub(super) fn await_announcement(&mut self) -> u64 {
        self.untold.is_awaited = true;
        self.untold.round
    }

    /// Ends the round. Returns its number where a command waits for it.
    fn end_round(&mut self) -> Option<u64> {
        let round = self.untold.round;
        self.untold.round += 1;
        std::mem::take(&mut self.untold.is_awaited).then_some(round)
    }

    /// Whether everything is told.
    pub(super) fn has_told_all(&self) -> bool {
        !self.is_telling && self.untold.is_empty()
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
        if self.untold.is_empty() { self.end_round().or(carried) } else { carried }
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
    pub(super) fn on_facts_lost(&mut self, facts: &Facts) {
        self.is_telling = false;
        // Whoever waits for that round goes on with the present one.
        self.untold.is_awaited |= self.carried.take().is_some();
        self.look_again(facts);
    }

    /// Has facts looked at again: what is true of them by now may not be what is told.
    pub(super) fn look_again(&mut self, facts: &Facts) {
        self.untold.users.extend(facts.users.iter().map(|fact| UserId::new(&fact.0)));
        self.untold.channels.extend(facts.channels.iter().map(|fact| ChannelName::new(&fact.0)));
        let room = |fact: &(String, String, String, Option<u64>)| {
            (ChannelName::new(&fact.0), UserId::new(&fact.1))
        };
        self.untold.rooms.extend(facts.rooms.iter().map(room));
        self.untold.known.extend(facts.known.iter().map(|user| UserId::new(user)));
    }

    /// Drops the facts that were told already.
    pub(super) fn keep_news(&self, facts: &mut Facts) {
        let nothing = Folk::default();
        let told = self.folks.get(&self.node).unwrap_or(&nothing);
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
    pub(super) fn apply(&mut self, node: &str, facts: &Facts) -> Vec<Turn> {
        if *node == *self.node {
            (self.is_telling, self.is_new) = (false, false);
        }
        let mut turns = Vec::new();
        for (user, name, connections, since_ms) in &facts.users {
            let user_id = UserId::new(user);
            let was_online = self.is_online(&user_id);
            let folk = self.folks.entry(node.into()).or_default();
            let before = match *connections {
                0 => folk.users.remove(&user_id),
                connections => {
                    let username: Arc<str> = name.as_str().into();
                    let presence = Presence { username, connections, since_ms: *since_ms };
                    folk.users.insert(user_id.clone(), presence)
                }
            };
            let username = before.map_or_else(|| name.as_str().into(), |before| before.username);
            self.turn(&mut turns, was_online, Person { user_id, username });
        }
        for (channel, followers) in &facts.channels {
            let folk = self.folks.entry(node.into()).or_default();
            match *followers {
                0 => folk.channels.remove(channel.as_str()),
                followers => folk.channels.insert(ChannelName::new(channel), followers),
            };
        }
        for (channel, user, name, since_ms) in &facts.rooms {
            let (channel, user_id) = (ChannelName::new(channel), UserId::new(user));
            let was_in_it = self.is_in_room(&channel, &user_id);
            let folk = self.folks.entry(node.into()).or_default();
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
            self.room_turn(&mut turns, was_in_it, channel, person);
        }
        turns
    }

    fn turn(&mut self, turns: &mut Vec<Turn>, was_online: bool, person: Person) {
        match (was_online, self.is_online(&person.user_id)) {
            (false, true) => {
                self.users_online += 1;
                turns.push(Turn::Online(person));
            }
            (true, false) => {
                self.users_online -= 1;
                turns.push(Turn::Offline(person));
            }
            _ => {}
        }
    }

    fn room_turn(
        &mut self,
        turns: &mut Vec<Turn>,
        was: bool,
        channel: ChannelName,
        person: Person,
    ) {
        match (was, self.is_in_room(&channel, &person.user_id)) {
            (false, true) => {
                *self.room_counts.entry(channel.clone()).or_default() += 1;
                turns.push(Turn::Joined(channel, person));
            }
            (true, false) => {
                if let Some(count) = self.room_counts.get_mut(&channel) {
                    *count -= 1;
                    if *count == 0 {
                        self.room_counts.remove(&channel);
                    }
                }
                turns.push(Turn::Left(channel, person));
            }
            _ => {}
        }
    }

    /// Applies a node's end. Where it is this one's own, everything has to be told anew.
    pub(super) fn forget(&mut self, node: &str) -> Vec<Turn> {
        self.leaving.remove(node);
        let Some(folk) = self.folks.remove(node) else { return Vec::new() };
        let mut turns = Vec::new();
        for (user_id, presence) in folk.users {
            self.turn(&mut turns, true, Person { user_id, username: presence.username });
        }
        for (channel, room) in folk.rooms {
            for (user_id, place) in room {
                let person = Person { user_id, username: place.username };
                self.room_turn(&mut turns, true, channel.clone(), person);
            }
        }
        turns
    }

    /// Begins anew with what an image says. Returns what that changes.
    pub(super) fn replace(&mut self, image: &CommonsImage) -> Vec<Turn> {
        let mut fresh = Commons::new(&self.node);
        for (node, facts) in &image.nodes {
            fresh.apply(node, facts);
        }
        let mut turns = Vec::new();
        let gone = |turn: &mut Vec<Turn>, from: &Commons, to: &Commons, is_end: bool| {
            let mut seen = HashSet::new();
            for (user_id, presence) in from.folks.values().flat_map(|folk| &folk.users) {
                if !to.is_online(user_id) && seen.insert(user_id) {
                    let username = Arc::clone(&presence.username);
                    let person = Person { user_id: user_id.clone(), username };
                    turn.push(if is_end { Turn::Offline(person) } else { Turn::Online(person) });
                }
            }
            let mut seen = HashSet::new();
            for (channel, room) in from.folks.values().flat_map(|folk| &folk.rooms) {
                for (user_id, place) in room {
                    if !to.is_in_room(channel, user_id) && seen.insert((channel, user_id)) {
                        let username = Arc::clone(&place.username);
                        let person = Person { user_id: user_id.clone(), username };
                        let channel = channel.clone();
                        turn.push(if is_end {
                            Turn::Left(channel, person)
                        } else {
                            Turn::Joined(channel, person)
                        });
                    }
                }
            }
        };
        gone(&mut turns, self, &fresh, true);
        gone(&mut turns, &fresh, self, false);
        fresh.alive = std::mem::take(&mut self.alive);
        fresh.untold = std::mem::take(&mut self.untold);
        fresh.untold.is_awaited |= self.carried.take().is_some();
        *self = fresh;
        turns
    }

    /// What the nodes have told, for one that joins.
    pub(super) fn image(&self) -> Vec<(String, Facts)> {
        let facts = |folk: &Folk| Facts {
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
        self.folks.iter().map(|(node, folk)| (node.to_string(), facts(folk))).collect()
    }

    fn elsewhere(&self) -> impl Iterator<Item = (&str, &Folk)> {
        let others = self.folks.iter().filter(|(node, _)| **node != self.node);
        others.map(|(node, folk)| (&**node, folk))
    }

    fn is_online(&self, user_id: &UserId) -> bool {
        self.folks.values().any(|folk| folk.users.contains_key(user_id))
    }

    fn is_in_room(&self, channel: &ChannelName, user_id: &UserId) -> bool {
        let mut rooms = self.folks.values().filter_map(|folk| folk.rooms.get(channel));
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
        for (user, place) in self.folks.values().filter_map(|one| one.rooms.get(channel)).flatten()
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
        self.folks.get(&self.node)?.rooms.get(channel)?.get(user_id)
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
pub(super) struct UntoldBatch {
    pub(super) users: Vec<UserId>,
    pub(super) channels: Vec<ChannelName>,
    pub(super) rooms: Vec<(ChannelName, UserId)>,
    pub(super) known: Vec<UserId>,
}

impl UntoldBatch {
    /// What facts are about: users, channels and places in rooms.
    pub(super) fn of(facts: &Facts) -> UntoldBatch {
        let room = |fact: &(String, String, String, Option<u64>)| {
            (ChannelName::new(&fact.0), UserId::new(&fact.1))
        };
        UntoldBatch {
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

    fn online(user: &str, connections: u32) -> Facts {
        let user = (user.to_owned(), user.to_uppercase(), connections, 5);
        Facts { users: vec![user], ..Facts::default() }
    }

    fn in_room(user: &str, since_ms: Option<u64>) -> Facts {
        let place = ("chat:r".to_owned(), user.to_owned(), user.to_uppercase(), since_ms);
        Facts { rooms: vec![place], ..Facts::default() }
    }

    fn person(user: &str) -> Person {
        Person { user_id: UserId::new(user), username: user.to_uppercase().into() }
    }

    #[test]
    fn a_user_on_two_nodes_comes_and_goes_once() {
        let mut commons = Commons::new("a");
        assert_eq!(commons.apply("a", &online("u", 1)), [Turn::Online(person("u"))]);
        assert_eq!(commons.apply("b", &online("u", 2)), []);
        assert_eq!(
            (commons.users_online(), commons.nodes_of(&UserId::new("u"))),
            (1, vec!["b".into()])
        );
        assert_eq!(commons.apply("a", &online("u", 0)), []);
        assert_eq!(commons.apply("b", &online("u", 0)), [Turn::Offline(person("u"))]);
        let room = ChannelName::of_room("r");
        assert_eq!(
            commons.apply("b", &in_room("u", Some(1))),
            [Turn::Joined(room.clone(), person("u"))]
        );
        assert_eq!(commons.apply("a", &in_room("u", Some(2))), []);
        assert_eq!(commons.forget("b"), []);
        assert_eq!(commons.room_count(&room), 1);
        assert_eq!(commons.forget("a"), [Turn::Left(room, person("u"))]);
    }

    #[test]
    fn one_entry_is_on_its_way_at_a_time() {
        let mut commons = Commons::new("a");
        commons.apply("a", &Facts::default());
        assert!(commons.take_untold().is_none());
        commons.note_user(&UserId::new("u"));
        let round = commons.await_announcement();
        let first = commons.take_untold().expect("a batch");
        assert_eq!(first.users, [UserId::new("u")]);
        commons.note_user(&UserId::new("v"));
        assert!(commons.take_untold().is_none(), "the first is on its way");
        assert_eq!(commons.take_announced(), None);
        commons.on_facts_lost(&online("u", 1));
        let again = commons.take_untold().expect("a batch");
        assert_eq!(again.users, [UserId::new("u"), UserId::new("v")]);
        commons.apply("a", &online("u", 1));
        assert!(commons.take_untold().is_none() && commons.has_told_all());
        assert!(commons.take_announced().is_some_and(|announced| announced >= round));
    }

    /// Random facts of three nodes: whoever follows the turns has the users of the union; whoever
    /// begins from an image has them too.
    #[test]
    fn turns_add_up_to_the_picture() {
        for seed in 0..20 {
            let mut rng = Rng::seeded(seed);
            let (mut commons, mut late) = (Commons::new("a"), Commons::new("z"));
            let (mut heard, mut heard_late) = (BTreeSet::new(), BTreeSet::new());
            let take = |heard: &mut BTreeSet<String>, turns: Vec<Turn>| {
                for turn in turns {
                    let is_new = match turn {
                        Turn::Online(one) => heard.insert(one.user_id.to_string()),
                        Turn::Offline(one) => heard.remove(one.user_id.as_str()),
                        _ => true,
                    };
                    assert!(is_new, "told twice, seed {seed}");
                }
            };
            for step in 0..500 {
                let node = ["a", "b", "c"][rng.below(3) as usize];
                let turns = if rng.below(20) == 0 {
                    commons.forget(node)
                } else {
                    let user = format!("u{}", rng.below(6));
                    let count = u32::try_from(rng.below(3)).expect("small");
                    commons.apply(node, &online(&user, count))
                };
                take(&mut heard, turns);
                if step % 50 == 0 {
                    let image = CommonsImage { nodes: commons.image(), ..CommonsImage::default() };
                    take(&mut heard_late, late.replace(&image));
                    assert_eq!(heard, heard_late, "seed {seed}");
                }
                let mut users = HashMap::new();
                late.add_online(&mut users);
                assert_eq!(commons.users_online(), heard.len(), "seed {seed}");
            }
        }
    }
}
