//! Who is connected, who is online, and who is known.
//!
//! Each JSON socket has an entry here from its welcome to its end: the state can then say exactly
//! how many connections a message goes to, and in which order people came and went.
//!
//! # Promises
//!
//! * A user is online from the first of their connections to the last.
//! * A user once seen is known until the account is removed.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::value::RawValue;
use slab::Slab;

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
        Person { user_id: identity.user_id.clone(), username: identity.display_name().into() }
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
    pub(super) memberships: Vec<Membership>,
    /// What operators and programs noted of it: a JSON object, checked.
    pub(super) metadata: Option<Box<RawValue>>,
}

/// A user who is online.
#[derive(Debug)]
struct Online {
    username: Arc<str>,
    since_ms: u64,
    conns: Vec<u32>,
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
/// 1. `by_id` names exactly the connections; `online` exactly the users who have one.
/// 2. `signed_in` counts the connections with a person.
#[derive(Debug)]
pub struct People {
    conns: Slab<Connection>,
    by_id: HashMap<ConnId, u32>,
    online: HashMap<UserId, Online>,
    signed_in: usize,
    /// Who was ever seen, and whether the store has them or was handed them by this node. Of the others a
    /// node has told that may have ended before it stored them.
    known: HashMap<UserId, bool>,
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
            by_id: HashMap::new(),
            online: HashMap::new(),
            signed_in: 0,
            known: known.map(|user_id| (user_id, true)).collect(),
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
            memberships: Vec::new(),
            metadata: None,
        };
        let key = key(self.conns.insert(connection));
        self.by_id.insert(conn, key);
        let Some(person) = person else { return false };
        self.see(&person);
        self.signed_in += 1;
        let online = self.online.entry(person.user_id).or_insert_with(|| Online {
            username: Arc::clone(&person.username),
            since_ms: now_ms,
            conns: Vec::with_capacity(1),
        });
        online.username = person.username;
        online.conns.push(key);
        online.conns.len() == 1
    }

    /// What a connection's address is counted by, where it is known.
    pub(super) fn block_of(&self, conn: ConnId) -> Option<AddressBlock> {
        let (_, connection) = self.find(conn)?;
        connection.remote.map(ClientAddress::block)
    }

    /// Takes a connection out.
    pub(super) fn close(&mut self, conn: ConnId) -> Option<Departure> {
        let key = self.by_id.remove(&conn)?;
        let connection = self.conns.remove(key as usize);
        if self.conns.is_empty() {
            self.conns.shrink_to_fit();
        }
        storm::shrink(&mut self.by_id);
        let mut is_last = false;
        if let Some(person) = &connection.person {
            self.signed_in -= 1;
            if let Some(online) = self.online.get_mut(&person.user_id) {
                online.conns.retain(|&other| other != key);
                is_last = online.conns.is_empty();
            }
            if is_last {
                self.online.remove(&person.user_id);
                storm::shrink(&mut self.online);
            }
        }
        Some(Departure { key, connection, is_last })
    }

    /// Notes that there is such a user.
    pub(super) fn see(&mut self, person: &Person) {
        let has_room = self.known.len() < self.users_max;
        let is_stored = match self.known.get_mut(&person.user_id) {
            Some(is_stored) => std::mem::replace(is_stored, true),
            None if !has_room => return,
            None => {
                self.known.insert(person.user_id.clone(), true);
                if let Some(unannounced) = &mut self.unannounced {
                    unannounced.push(person.user_id.clone());
                }
                false
            }
        };
        if !is_stored {
            self.newly_known.push(person.clone());
        }
    }

    /// Notes a user that the store knows already.
    pub(super) fn note_stored(&mut self, user_id: UserId) {
        if self.known.len() < self.users_max {
            self.known.insert(user_id, true);
        }
    }

    /// Notes a user that another node has told of.
    pub(super) fn note_told(&mut self, user_id: UserId) {
        if self.known.len() < self.users_max {
            self.known.entry(user_id).or_insert(false);
        }
    }

    /// Forgets a user whose account was removed, and frees the name.
    pub(super) fn forget(&mut self, user_id: &UserId) {
        // The names are gone through once: the next telling of the same finds nobody.
        if self.known.remove(user_id).is_some() {
            self.names.retain(|_, named| named != user_id);
        }
    }

    /// Notes the name that a user signs in by. A name once given stays with its user.
    pub(super) fn note_name(&mut self, key: Box<str>, user_id: &UserId) {
        if self.known.contains_key(user_id) {
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
        self.known.contains_key(user_id)
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
        let key = *self.by_id.get(&conn)?;
        Some((key, &self.conns[key as usize]))
    }

    pub(super) fn get(&self, key: u32) -> &Connection {
        &self.conns[key as usize]
    }

    pub(super) fn get_mut(&mut self, key: u32) -> &mut Connection {
        &mut self.conns[key as usize]
    }

    /// The connections of a user; none where the user is offline.
    pub(super) fn of_user(&self, user_id: &UserId) -> impl Iterator<Item = ConnId> {
        let keys = self.online.get(user_id).map_or(&[][..], |online| &online.conns);
        keys.iter().map(|&key| self.conns[key as usize].id)
    }

    /// Whether a user has a connection here.
    pub(super) fn is_online(&self, user_id: &UserId) -> bool {
        self.online.contains_key(user_id)
    }

    /// A user's name, connections and since when, in milliseconds since the Unix epoch.
    pub(super) fn presence(&self, user_id: &UserId) -> Option<(&str, usize, u64)> {
        let online = self.online.get(user_id)?;
        Some((&*online.username, online.conns.len(), online.since_ms))
    }

    /// The users who are online.
    pub(super) fn online_ids(&self) -> impl Iterator<Item = &UserId> {
        self.online.keys()
    }

    /// The users ever seen.
    pub(super) fn known_ids(&self) -> impl Iterator<Item = &UserId> {
        self.known.keys()
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
        self.online.iter().map(|(user_id, online)| OnlineUser {
            person: Person { user_id: user_id.clone(), username: Arc::clone(&online.username) },
            connections: online.conns.len(),
            since_ms: online.since_ms,
        })
    }

    /// The connections after an id, in the order of their ids.
    pub(super) fn list(&self, after: Option<ConnId>, limit: usize) -> Vec<u32> {
        let mut ids: Vec<(ConnId, u32)> = self
            .by_id
            .iter()
            .filter(|(id, _)| after.is_none_or(|after| **id > after))
            .map(|(&id, &key)| (id, key))
            .collect();
        ids.sort_unstable();
        ids.into_iter().take(limit).map(|(_, key)| key).collect()
    }
}

fn key(index: usize) -> u32 {
    u32::try_from(index).expect("connections are below 2^32")
}
