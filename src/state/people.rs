//! Who is connected, who is online, and who is known.
//!
//! Each JSON socket has an entry here from its welcome to its end: the state can then say exactly
//! how many connections a message goes to, and in which order people came and went.
//!
//! # Promises
//!
//! * A user is online from the first of their connections to the last.
//! * A user once seen is known until the account is removed.

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::HashTable;
use serde_json::value::RawValue;
use slab::Slab;
use smallvec::SmallVec;

use crate::address::{AddressBlock, ClientAddress};
use crate::auth::{Identity, names};
use crate::id::{ConnId, ConnName, ShardSet, UserId};
use crate::storm;

/// A signed-in user, with the name to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// The user.
    pub user_id: UserId,
    /// The name to show.
    pub username: Arc<str>,
}

impl Person {
    /// The user of an identity.
    pub(crate) fn of(identity: &Identity) -> Person {
        Person { user_id: identity.user_id.clone(), username: identity.shown_name() }
    }
}

/// A JSON socket that has been opened.
#[derive(Debug)]
pub struct Opened {
    /// The connection.
    pub conn: ConnId,
    /// Who is signed in on it.
    pub person: Option<Person>,
    /// Where it comes from.
    pub remote: Option<ClientAddress>,
}

/// A connection's place in a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Membership {
    /// The channel's place in its table.
    pub(super) channel: u32,
    /// Whether it subscribed to the channel.
    pub(super) is_subscribed: bool,
    /// Whether it joined the room.
    pub(super) is_joined: bool,
}

/// A connection, as the state knows it.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: ConnId,
    pub(super) person: Option<Person>,
    pub(super) remote: Option<ClientAddress>,
    pub(super) opened_ms: u64,
    /// In the order of joining, as far as rooms go.
    pub(super) memberships: SmallVec<[Membership; 2]>,
    /// What operators and programs noted of it: a JSON object, checked.
    #[allow(
        clippy::redundant_allocation,
        reason = "hardly any connection has some, and each pays for the pointer"
    )]
    pub(super) metadata: Option<Box<Box<RawValue>>>,
}

/// A user who has, or had, several connections at once.
#[derive(Debug)]
struct Several {
    /// Since when they are online. The connection that began it may have ended.
    since_ms: u64,
    /// The keys of the connections, oldest first. Never empty.
    keys: Vec<u32>,
}

/// What a connection's end leaves to be done.
#[derive(Debug)]
pub(super) struct Departure {
    pub(super) key: u32,
    pub(super) connection: Connection,
    /// Whether it was its user's last one.
    pub(super) is_last: bool,
}

/// One row of the list of users online.
#[derive(Debug, Clone)]
pub struct OnlineUser {
    /// Who.
    pub person: Person,
    /// With how many connections.
    pub connections: usize,
    /// Since when, in milliseconds since the Unix epoch.
    pub since_ms: u64,
}

/// A connection, for those who look after them.
#[derive(Debug, Clone)]
pub struct ConnectionView {
    /// Its full name.
    pub id: ConnName,
    /// Who is signed in on it.
    pub person: Option<Person>,
    /// Where it comes from.
    pub remote: Option<ClientAddress>,
    /// Since when, in milliseconds since the Unix epoch.
    pub opened_ms: u64,
    /// The channels it subscribed to.
    pub channels: Vec<crate::id::ChannelName>,
    /// The rooms it joined, the last one last.
    pub rooms: Vec<String>,
    /// What was noted of it, as a JSON object. Lists leave it out.
    pub metadata: Option<Box<RawValue>>,
}

/// The table.
///
/// # Invariants
///
/// 1. `by_slot` names exactly the connections; `online` the newest one of each user who has one.
/// 2. Whoever is in `several` is online. Whoever is not has one connection, and is online since it opened.
/// 3. `signed_in` counts the connections with a person.
/// 4. Everyone in `told` is in `known`.
#[derive(Debug)]
pub struct People {
    conns: Slab<Connection>,
    /// By shard and slot: the connection's key and one, or 0.
    by_slot: Vec<Vec<u32>>,
    /// The key of each online user's newest connection, by the hash of the user's id, which is in that connection.
    /// The keys of the hash are those of `known`.
    online: HashTable<u32>,
    several: HashMap<UserId, Several>,
    signed_in: usize,
    /// Who was ever seen.
    known: HashSet<UserId>,
    /// Those of them that the store was not handed by this node and may not have: another node has told of
    /// them, and may have ended before it stored them.
    told: HashSet<UserId>,
    /// Who signs in by which name, by what names are compared by. At most as many as `known`.
    names: HashMap<Box<str>, UserId>,
    users_max: usize,
    /// Users for the store that it was not handed yet.
    pub(super) newly_known: Vec<Person>,
    /// Users seen for the first time since other nodes were told, where there are any.
    pub(super) unannounced: Option<Vec<UserId>>,
}

impl People {
    /// A table without connections that knows some users.
    pub(super) fn new(known: impl Iterator<Item = UserId>, users_max: usize) -> People {
        People {
            conns: Slab::new(),
            by_slot: Vec::new(),
            online: HashTable::new(),
            several: HashMap::new(),
            signed_in: 0,
            known: known.collect(),
            told: HashSet::new(),
            names: HashMap::new(),
            users_max,
            newly_known: Vec::new(),
            unannounced: None,
        }
    }

    /// Takes in a connection. Returns whether its user has just come online.
    pub(super) fn open(&mut self, opened: Opened, now_ms: u64) -> bool {
        let Opened { conn, person, remote } = opened;
        let connection = Connection {
            id: conn,
            person: person.clone(),
            remote,
            opened_ms: now_ms,
            memberships: SmallVec::new(),
            metadata: None,
        };
        let key = key(self.conns.insert(connection));
        *self.place(conn) = key + 1;
        let Some(person) = person else { return false };
        self.see(&person);
        self.signed_in += 1;
        let Some(newest) = self.newest_mut(&person.user_id) else {
            let (conns, hasher) = (&self.conns, self.known.hasher());
            let hash = hasher.hash_one(&person.user_id);
            self.online.insert_unique(hash, key, |&key| hash_of_user(conns, hasher, key));
            return true;
        };
        let earlier = std::mem::replace(newest, key);
        let since_ms = self.conns[earlier as usize].opened_ms;
        let several = self.several.entry(person.user_id);
        several.or_insert_with(|| Several { since_ms, keys: vec![earlier] }).keys.push(key);
        false
    }

    /// What a connection's address is counted by, where it is known.
    pub(super) fn block_of(&self, conn: ConnId) -> Option<AddressBlock> {
        let (_, connection) = self.find(conn)?;
        connection.remote.map(ClientAddress::block)
    }

    /// Takes a connection out.
    pub(super) fn close(&mut self, conn: ConnId) -> Option<Departure> {
        let key = self.key_of(conn)?;
        *self.place(conn) = 0;
        let is_last = match self.conns[key as usize].person.clone() {
            Some(person) => {
                self.signed_in -= 1;
                self.end_of_user(&person.user_id, key)
            }
            None => false,
        };
        let connection = self.conns.remove(key as usize);
        if self.conns.is_empty() {
            self.conns.shrink_to_fit();
            self.by_slot = Vec::new();
        }
        Some(Departure { key, connection, is_last })
    }

    /// Takes one of a user's connections out of `online`. Returns whether it was the last one.
    fn end_of_user(&mut self, user_id: &UserId, key: u32) -> bool {
        if let Some(several) = self.several.get_mut(user_id) {
            several.keys.retain(|&other| other != key);
            let Several { since_ms, ref keys } = *several;
            if let Some(&left) = keys.last() {
                if keys.len() == 1 && self.conns[left as usize].opened_ms == since_ms {
                    self.several.remove(user_id);
                }
                if let Some(newest) = self.newest_mut(user_id) {
                    *newest = left;
                }
                return false;
            }
            self.several.remove(user_id);
        }
        let (conns, hasher) = (&self.conns, self.known.hasher());
        if let Ok(entry) = self.online.find_entry(hasher.hash_one(user_id), |&newest| newest == key)
        {
            entry.remove();
        }
        storm::shrink_table(&mut self.online, |&key| hash_of_user(conns, hasher, key));
        storm::shrink(&mut self.several);
        true
    }

    /// Notes that there is such a user.
    pub(super) fn see(&mut self, person: &Person) {
        if self.known.contains(&person.user_id) {
            if !self.told.remove(&person.user_id) {
                return;
            }
        } else if self.has_room() {
            self.known.insert(person.user_id.clone());
            if let Some(unannounced) = &mut self.unannounced {
                unannounced.push(person.user_id.clone());
            }
        } else {
            return;
        }
        self.newly_known.push(person.clone());
    }

    /// Notes a user that the store knows already.
    pub(super) fn note_stored(&mut self, user_id: UserId) {
        if self.has_room() {
            self.told.remove(&user_id);
            self.known.insert(user_id);
        }
    }

    /// Notes a user that another node has told of.
    pub(super) fn note_told(&mut self, user_id: UserId) {
        if self.has_room() && self.known.insert(user_id.clone()) {
            self.told.insert(user_id);
        }
    }

    /// Forgets a user whose account was removed, and frees the name.
    pub(super) fn forget(&mut self, user_id: &UserId) {
        // The names are gone through once: the next telling of the same finds nobody.
        if self.known.remove(user_id) {
            self.told.remove(user_id);
            self.names.retain(|_, named| named != user_id);
        }
    }

    /// Notes the name that a user signs in by. A name once given stays with its user.
    pub(super) fn note_name(&mut self, key: Box<str>, user_id: &UserId) {
        if self.known.contains(user_id) {
            self.names.entry(key).or_insert_with(|| user_id.clone());
        }
    }

    /// Who signs in by a name, in whatever case or form it is written.
    pub(super) fn named(&self, name: &str) -> Option<&UserId> {
        self.names.get(&*names::key(name))
    }

    /// Whether there is room for one more user.
    pub(super) fn has_room(&self) -> bool {
        self.known.len() < self.users_max
    }

    /// Whether there ever was such a user.
    pub(super) fn is_known(&self, user_id: &UserId) -> bool {
        self.known.contains(user_id)
    }

    /// Whether the store has been told of everyone.
    pub fn newly_known_is_empty(&self) -> bool {
        self.newly_known.is_empty()
    }

    /// How many there are.
    pub fn newly_known_len(&self) -> usize {
        self.newly_known.len()
    }

    pub(super) fn find(&self, conn: ConnId) -> Option<(u32, &Connection)> {
        let key = self.key_of(conn)?;
        Some((key, &self.conns[key as usize]))
    }

    fn key_of(&self, conn: ConnId) -> Option<u32> {
        let place = *self.by_slot.get(usize::from(conn.shard.0))?.get(conn.slot.index())?;
        let key = place.checked_sub(1)?;
        // A slot is used again after its connection has ended.
        (self.conns[key as usize].id == conn).then_some(key)
    }

    /// The entry of a slot in `by_slot`.
    fn place(&mut self, conn: ConnId) -> &mut u32 {
        let (shard, slot) = (usize::from(conn.shard.0), conn.slot.index());
        if self.by_slot.len() <= shard {
            self.by_slot.resize_with(shard + 1, Vec::new);
        }
        let slots = &mut self.by_slot[shard];
        if slots.len() <= slot {
            slots.resize(slot + 1, 0);
        }
        &mut slots[slot]
    }

    pub(super) fn get(&self, key: u32) -> &Connection {
        &self.conns[key as usize]
    }

    pub(super) fn get_mut(&mut self, key: u32) -> &mut Connection {
        &mut self.conns[key as usize]
    }

    /// The key of a user's newest connection.
    fn newest(&self, user_id: &UserId) -> Option<u32> {
        let is_theirs = |&key: &u32| is_of_user(&self.conns, key, user_id);
        self.online.find(self.known.hasher().hash_one(user_id), is_theirs).copied()
    }

    fn newest_mut(&mut self, user_id: &UserId) -> Option<&mut u32> {
        let conns = &self.conns;
        let is_theirs = |&key: &u32| is_of_user(conns, key, user_id);
        self.online.find_mut(self.known.hasher().hash_one(user_id), is_theirs)
    }

    /// The connections of a user, oldest first; none where the user is offline.
    pub(super) fn of_user(&self, user_id: &UserId) -> impl Iterator<Item = ConnId> {
        let several = self.several.get(user_id).map_or(&[][..], |several| &several.keys);
        let one = if several.is_empty() { self.newest(user_id) } else { None };
        several.iter().copied().chain(one).map(|key| self.conns[key as usize].id)
    }

    /// Whether a user has a connection here.
    pub(super) fn is_online(&self, user_id: &UserId) -> bool {
        self.newest(user_id).is_some()
    }

    /// A user's name, connections and since when, in milliseconds since the Unix epoch.
    pub(super) fn presence(&self, user_id: &UserId) -> Option<(&str, usize, u64)> {
        let (person, count, since_ms) = self.presence_of(self.newest(user_id)?)?;
        Some((&person.username, count, since_ms))
    }

    /// The same by the key of the newest connection, whose name is the one to show.
    fn presence_of(&self, newest: u32) -> Option<(&Person, usize, u64)> {
        let Connection { person, opened_ms, .. } = &self.conns[newest as usize];
        let person = person.as_ref()?;
        let several = self.several.get(&person.user_id);
        let (count, since_ms) =
            several.map_or((1, *opened_ms), |several| (several.keys.len(), several.since_ms));
        Some((person, count, since_ms))
    }

    /// The users who are online.
    pub(super) fn online_ids(&self) -> impl Iterator<Item = &UserId> {
        self.online
            .iter()
            .filter_map(|&key| self.conns[key as usize].person.as_ref())
            .map(|one| &one.user_id)
    }

    /// The users ever seen.
    pub(super) fn known_ids(&self) -> impl Iterator<Item = &UserId> {
        self.known.iter()
    }

    /// The connections that are signed in.
    pub(super) fn signed_in_conns(&self) -> impl Iterator<Item = ConnId> {
        let signed_in = self.conns.iter().filter(|(_, conn)| conn.person.is_some());
        signed_in.map(|(_, conn)| conn.id)
    }

    /// The shards on which a user has a connection.
    pub(super) fn shards_of(&self, user_id: &UserId) -> ShardSet {
        let mut shards = ShardSet::default();
        self.of_user(user_id).for_each(|conn| shards.insert(conn.shard));
        shards
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.conns.len()
    }

    /// How many of them are signed in.
    pub fn signed_in(&self) -> usize {
        self.signed_in
    }

    /// How many users are online.
    pub fn users_online(&self) -> usize {
        self.online.len()
    }

    /// How many users are known.
    pub fn users_known(&self) -> usize {
        self.known.len()
    }

    /// Who is online.
    pub(super) fn list_online(&self) -> impl Iterator<Item = OnlineUser> {
        self.online.iter().filter_map(|&newest| {
            let (person, connections, since_ms) = self.presence_of(newest)?;
            Some(OnlineUser { person: person.clone(), connections, since_ms })
        })
    }

    /// The connections after an id, in the order of their ids.
    pub(super) fn list(&self, after: Option<ConnId>, limit: usize) -> Vec<u32> {
        let mut ids: Vec<(ConnId, u32)> = self
            .conns
            .iter()
            .map(|(index, conn)| (conn.id, key(index)))
            .filter(|(id, _)| after.is_none_or(|after| *id > after))
            .collect();
        ids.sort_unstable();
        ids.into_iter().take(limit).map(|(_, key)| key).collect()
    }
}

fn is_of_user(conns: &Slab<Connection>, key: u32, user_id: &UserId) -> bool {
    conns[key as usize].person.as_ref().is_some_and(|person| person.user_id == *user_id)
}

/// The hash by which the user of a connection is in `online`.
fn hash_of_user(conns: &Slab<Connection>, hasher: &impl BuildHasher, key: u32) -> u64 {
    conns[key as usize].person.as_ref().map_or(0, |person| hasher.hash_one(&person.user_id))
}

fn key(index: usize) -> u32 {
    u32::try_from(index).expect("connections are below 2^32")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::id::{ShardId, Slot};
    use crate::rng::Rng;

    /// Random connections of a few users, who change their names, come and go, against plain lists.
    #[test]
    fn presence_agrees_with_lists() {
        for seed in 0..50 {
            let mut rng = Rng::seeded(seed);
            let mut people = People::new(std::iter::empty(), 100);
            let users = ["ann", "bob", "cid"].map(UserId::new);
            let mut model: BTreeMap<usize, (u64, Vec<(ConnId, String)>)> = BTreeMap::new();
            for step in 1..300 {
                let user = usize::try_from(rng.below(3)).expect("small");
                let user_id = &users[user];
                let ended = model.get(&user).and_then(|(_, list)| {
                    let at = rng.below(2 * list.len() as u64);
                    list.get(usize::try_from(at).expect("small"))
                });
                if let Some((conn, _)) = ended.cloned() {
                    let (_, list) = model.get_mut(&user).expect("it has a connection");
                    list.retain(|(other, _)| *other != conn);
                    let is_last = list.is_empty();
                    if is_last {
                        model.remove(&user);
                    }
                    assert_eq!(people.close(conn).expect("it is there").is_last, is_last);
                } else {
                    let slot = Slot(u32::try_from(step).expect("small"));
                    let conn = ConnId { shard: ShardId(0), slot, generation: 0 };
                    let name = format!("{user} {}", rng.below(9));
                    let person =
                        Person { user_id: user_id.clone(), username: name.as_str().into() };
                    let opened = Opened { conn, person: Some(person), remote: None };
                    assert_eq!(people.open(opened, step), !model.contains_key(&user));
                    let (_, list) = model.entry(user).or_insert((step, Vec::new()));
                    list.push((conn, name));
                }
                for (user, user_id) in users.iter().enumerate() {
                    let expected = model.get(&user);
                    let presence = expected.and_then(|(since_ms, list)| {
                        list.last().map(|(_, name)| (name.as_str(), list.len(), *since_ms))
                    });
                    assert_eq!(people.presence(user_id), presence, "seed {seed}, step {step}");
                    let conns =
                        expected.into_iter().flat_map(|(_, list)| list).map(|(conn, _)| *conn);
                    assert!(people.of_user(user_id).eq(conns), "seed {seed}, step {step}");
                }
                assert_eq!(people.users_online(), model.len());
                assert_eq!(people.list_online().count(), model.len());
                assert_eq!(people.online_ids().count(), model.len());
            }
        }
    }
}
