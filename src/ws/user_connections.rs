//! The limit on connections of a signed-in user on this node, over all shards.
//!
//! The one table that shards share by a lock. The lock is taken when a signed-in user's socket opens and
//! ends, and during the few seconds in which a user is above the limit.
//!
//! A connection may be dead without a sign: the lid of a laptop, a change of network. So a
//! connection above the limit is admitted while the older ones have time to answer a ping, which is
//! sent to all of them together. If one of them ends, the newest takes its place. When all have
//! answered, the newest is closed.
//!
//! # Promises
//!
//! * A [`UserPermit`] is returned however its connection ends.
//! * A user without a connection takes no room.
//! * A user holds at most twice the limit, and more than the limit only while a ping is unanswered.
//!
//! Imports `id`, `limits` and `storm`. Imported by `ws::authorizer` and `shard`.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use hashbrown::HashTable;
use parking_lot::Mutex;

use crate::id::{ConnId, UserId};
use crate::limits;
use crate::storm;

/// The table of users and their connections.
#[derive(Debug, Default)]
pub struct UserConnectionLimit(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    /// By the hash of the user's id. Boxed: a table has room for up to twice as many.
    users: HashTable<Box<User>>,
    hasher: RandomState,
}

#[derive(Debug)]
struct User {
    user_id: UserId,
    conns: Conns,
}

/// A user's connections. Nearly every user has one.
#[derive(Debug)]
enum Conns {
    One(TrackedConnection),
    Many(Box<Many>),
}

#[derive(Debug)]
struct Many {
    /// Eldest first. Those behind the limit are above it.
    tracked: Vec<TrackedConnection>,
    /// When they were last pinged.
    asked_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct TrackedConnection {
    conn: ConnId,
    /// Whether it was pinged and has not shown a sign of life.
    is_silent: bool,
}

impl Table {
    fn hash_of(&self, user_id: &UserId) -> ShortHash {
        ShortHash::of(&self.hasher, user_id)
    }

    /// The connections of the user who has this one.
    fn of_conn(&mut self, user: ShortHash, conn: ConnId) -> Option<&mut Conns> {
        let user = self.users.find_mut(user.wide(), |user| user.conns.have(conn))?;
        Some(&mut user.conns)
    }
}

impl Conns {
    fn tracked(&self) -> &[TrackedConnection] {
        match self {
            Conns::One(one) => std::slice::from_ref(one),
            Conns::Many(many) => &many.tracked,
        }
    }

    fn tracked_mut(&mut self) -> &mut [TrackedConnection] {
        match self {
            Conns::One(one) => std::slice::from_mut(one),
            Conns::Many(many) => &mut many.tracked,
        }
    }

    fn have(&self, conn: ConnId) -> bool {
        self.tracked().iter().any(|one| one.conn == conn)
    }
}

/// 32 bits of the hash of a user's id: a permit keeps them instead of the id, of sixteen bytes, to find its user.
/// Users of the same hash are told apart by their connections.
#[derive(Debug, Clone, Copy)]
struct ShortHash(u32);

impl ShortHash {
    fn of(hasher: &RandomState, user_id: &UserId) -> ShortHash {
        ShortHash((hasher.hash_one(user_id) >> 32) as u32)
    }

    /// As the table wants it: the place is taken from the lowest bits, a tag of seven from the highest.
    fn wide(self) -> u64 {
        u64::from(self.0) << 32 | u64::from(self.0)
    }
}

/// One connection of a user.
#[derive(Debug)]
pub struct UserPermit {
    user_connections: Arc<UserConnectionLimit>,
    user: ShortHash,
    conn: ConnId,
}

/// The result of asking for a permit.
#[derive(Debug)]
pub enum Acquired {
    /// It has one.
    Granted(UserPermit),
    /// The connection is above the limit, and may wait for the place of one that does not answer.
    /// These are to be pinged now; none if they just were.
    OverLimit(UserPermit, Vec<ConnId>),
    /// Too many connections wait already.
    Full,
}

/// The standing of a connection above the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitStatus {
    /// It is no longer above the limit.
    Within,
    /// An older connection has not answered yet.
    Waiting,
    /// All older ones have answered.
    Refused,
}

impl UserConnectionLimit {
    /// Number of users with a connection.
    pub fn users(&self) -> usize {
        self.0.lock().users.len()
    }

    /// Takes a permit for one more connection of a user.
    pub fn take(
        self: &Arc<UserConnectionLimit>,
        user_id: &UserId,
        conn: ConnId,
        connections_max: usize,
        now_ms: u64,
    ) -> Acquired {
        let tracked = TrackedConnection { conn, is_silent: false };
        let mut table = self.0.lock();
        let user = table.hash_of(user_id);
        let user_permit = || UserPermit { user_connections: Arc::clone(self), user, conn };
        let Table { users, hasher } = &mut *table;
        let Some(holder) = users.find_mut(user.wide(), |user| user.user_id == *user_id) else {
            let holder = User { user_id: user_id.clone(), conns: Conns::One(tracked) };
            users.insert_unique(user.wide(), Box::new(holder), |user| {
                ShortHash::of(hasher, &user.user_id).wide()
            });
            return Acquired::Granted(user_permit());
        };
        let conns = &mut holder.conns;
        let count = conns.tracked().len();
        if count >= connections_max.saturating_mul(limits::USER_CONNECTIONS_FACTOR_MAX) {
            return Acquired::Full;
        }
        if let Conns::One(first) = conns {
            *conns = Conns::Many(Box::new(Many { tracked: vec![*first], asked_ms: None }));
        }
        let Conns::Many(many) = conns else { return Acquired::Full };
        many.tracked.push(tracked);
        if count < connections_max {
            return Acquired::Granted(user_permit());
        }
        let were_asked = many
            .asked_ms
            .is_some_and(|asked_ms| now_ms < asked_ms + limits::USER_PROBE_INTERVAL_MS);
        let mut asked = Vec::new();
        if !were_asked {
            many.asked_ms = Some(now_ms);
            for one in &mut many.tracked[..connections_max] {
                one.is_silent = true;
                asked.push(one.conn);
            }
        }
        Acquired::OverLimit(user_permit(), asked)
    }
}

impl UserPermit {
    /// Notes that the connection has shown a sign of life.
    pub fn answer(&self) {
        if let Some(conns) = self.user_connections.0.lock().of_conn(self.user, self.conn)
            && let Some(one) = conns.tracked_mut().iter_mut().find(|one| one.conn == self.conn)
        {
            one.is_silent = false;
        }
    }

    /// The connection's standing among its user's.
    pub fn standing(&self, connections_max: usize) -> LimitStatus {
        let mut table = self.user_connections.0.lock();
        let Some(conns) = table.of_conn(self.user, self.conn) else { return LimitStatus::Refused };
        let tracked = conns.tracked();
        let older = tracked.iter().take(connections_max);
        match tracked.iter().position(|one| one.conn == self.conn) {
            Some(index) if index < connections_max => LimitStatus::Within,
            Some(_) if older.clone().any(|one| one.is_silent) => LimitStatus::Waiting,
            _ => LimitStatus::Refused,
        }
    }
}

impl Drop for UserPermit {
    fn drop(&mut self) {
        let mut table = self.user_connections.0.lock();
        let Table { users, hasher } = &mut *table;
        let found = users.find_entry(self.user.wide(), |user| user.conns.have(self.conn));
        let Ok(mut entry) = found else { return };
        let conns = &mut entry.get_mut().conns;
        if let Conns::Many(many) = conns {
            many.tracked.retain(|one| one.conn != self.conn);
            if let [last] = many.tracked[..] {
                *conns = Conns::One(last);
            }
            return;
        }
        entry.remove();
        storm::shrink_table(users, |user| ShortHash::of(hasher, &user.user_id).wide());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::id::{ShardId, Slot};
    use crate::rng::Rng;

    fn conn(generation: u32) -> ConnId {
        ConnId { shard: ShardId(0), slot: Slot(generation % 7), generation }
    }

    fn user_permit(taken: Acquired) -> UserPermit {
        match taken {
            Acquired::Granted(user_permit) => user_permit,
            other => panic!("no permit: {other:?}"),
        }
    }

    #[test]
    fn a_seat_given_back_is_free_again() {
        let user_connections = Arc::<UserConnectionLimit>::default();
        let (ann, bob) = (UserId::new("ann"), UserId::new("bob"));
        let first = user_permit(user_connections.take(&ann, conn(1), 2, 0));
        let _second = user_permit(user_connections.take(&ann, conn(2), 2, 0));
        drop(user_permit(user_connections.take(&bob, conn(3), 2, 0)));
        drop(first);
        let _third = user_permit(user_connections.take(&ann, conn(4), 2, 0));
        assert_eq!(user_connections.users(), 1, "bob left nothing behind");
    }

    #[test]
    fn a_newcomer_waits_for_those_that_are_silent() {
        let user_connections = Arc::<UserConnectionLimit>::default();
        let ann = UserId::new("ann");
        let first = user_permit(user_connections.take(&ann, conn(1), 2, 1_000));
        let second = user_permit(user_connections.take(&ann, conn(2), 2, 1_000));
        let Acquired::OverLimit(third, asked) = user_connections.take(&ann, conn(3), 2, 1_000)
        else {
            panic!("above the limit")
        };
        assert_eq!(asked, [conn(1), conn(2)]);
        let Acquired::OverLimit(fourth, asked) = user_connections.take(&ann, conn(4), 2, 1_500)
        else {
            panic!("above the limit")
        };
        assert!(asked.is_empty(), "they have just been asked");
        assert!(matches!(user_connections.take(&ann, conn(5), 2, 9_000), Acquired::Full));
        assert_eq!(
            (first.standing(2), third.standing(2)),
            (LimitStatus::Within, LimitStatus::Waiting)
        );
        first.answer();
        assert_eq!(third.standing(2), LimitStatus::Waiting);
        drop(second);
        assert_eq!(
            (third.standing(2), fourth.standing(2)),
            (LimitStatus::Within, LimitStatus::Refused)
        );
    }

    /// Random opens, ends and answers against a plain list.
    #[test]
    fn agrees_with_a_list() {
        for seed in 0..200 {
            let mut rng = Rng::seeded(seed);
            let user_connections = Arc::<UserConnectionLimit>::default();
            let users = ["ann", "bob"].map(UserId::new);
            let connections_max = 1 + usize::try_from(rng.below(3)).expect("small");
            let mut model: BTreeMap<usize, Vec<(ConnId, bool)>> = BTreeMap::new();
            let mut held: Vec<(usize, UserPermit)> = Vec::new();
            let (mut generation, mut now_ms, mut asked_ms) = (0, 1_000, [None, None]);
            for _ in 0..100 {
                now_ms += rng.below(900);
                let user = usize::try_from(rng.below(2)).expect("small");
                let list = model.entry(user).or_default();
                match rng.below(3) {
                    0 => {
                        generation += 1;
                        let id = conn(generation);
                        let taken =
                            user_connections.take(&users[user], id, connections_max, now_ms);
                        let count = list.len();
                        if count >= 2 * connections_max {
                            assert!(matches!(taken, Acquired::Full));
                            continue;
                        }
                        list.push((id, false));
                        let user_permit = match taken {
                            Acquired::Granted(user_permit) => {
                                assert!(count < connections_max);
                                user_permit
                            }
                            Acquired::OverLimit(user_permit, asked) => {
                                assert!(count >= connections_max);
                                let is_soon =
                                    asked_ms[user].is_some_and(|at_ms| now_ms < at_ms + 1_000);
                                assert_eq!(asked.len(), if is_soon { 0 } else { connections_max });
                                for (_, is_silent) in list.iter_mut().take(asked.len()) {
                                    *is_silent = true;
                                    asked_ms[user] = Some(now_ms);
                                }
                                user_permit
                            }
                            Acquired::Full => panic!("there is room"),
                        };
                        held.push((user, user_permit));
                    }
                    kind if !held.is_empty() => {
                        let at = usize::try_from(rng.below(held.len() as u64)).expect("small");
                        let (user, user_permit) = held.swap_remove(at);
                        let list = model.get_mut(&user).expect("it holds one");
                        let index = list.iter().position(|(id, _)| *id == user_permit.conn);
                        let index = index.expect("it is there");
                        if kind == 1 {
                            list[index].1 = false;
                            user_permit.answer();
                            held.push((user, user_permit));
                        } else {
                            list.remove(index);
                            if list.len() <= 1 {
                                asked_ms[user] = None;
                            }
                            drop(user_permit);
                        }
                    }
                    _ => {}
                }
                for (user, user_permit) in &held {
                    let list = &model[user];
                    let index = list.iter().position(|(id, _)| *id == user_permit.conn);
                    let standing = match index.expect("it is there") {
                        index if index < connections_max => LimitStatus::Within,
                        _ if list[..connections_max].iter().any(|(_, is_silent)| *is_silent) => {
                            LimitStatus::Waiting
                        }
                        _ => LimitStatus::Refused,
                    };
                    assert_eq!(user_permit.standing(connections_max), standing, "seed {seed}");
                }
                let users = model.values().filter(|list| !list.is_empty()).count();
                assert_eq!(user_connections.users(), users, "seed {seed}");
            }
        }
    }
}
