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

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::id::{ConnId, UserId};
use crate::limits;
use crate::storm;

/// The table of users and their connections.
#[derive(Debug, Default)]
pub struct UserConnectionLimit(Mutex<HashMap<UserId, Holder>>);

/// A user's connections. Nearly every user has one.
#[derive(Debug)]
enum Holder {
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

impl Holder {
    fn tracked(&mut self) -> &mut [TrackedConnection] {
        match self {
            Holder::One(one) => std::slice::from_mut(one),
            Holder::Many(many) => &mut many.tracked,
        }
    }
}

/// One connection of a user.
#[derive(Debug)]
pub struct UserPermit {
    user_connections: Arc<UserConnectionLimit>,
    user_id: UserId,
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
        self.0.lock().len()
    }

    /// Takes a permit for one more connection of a user.
    pub fn take(
        self: &Arc<UserConnectionLimit>,
        user_id: &UserId,
        conn: ConnId,
        connections_max: usize,
        now_ms: u64,
    ) -> Acquired {
        let user_permit =
            || UserPermit { user_connections: Arc::clone(self), user_id: user_id.clone(), conn };
        let tracked = TrackedConnection { conn, is_silent: false };
        let mut table = self.0.lock();
        let Some(holder) = table.get_mut(user_id) else {
            table.insert(user_id.clone(), Holder::One(tracked));
            return Acquired::Granted(user_permit());
        };
        let count = holder.tracked().len();
        if count >= connections_max.saturating_mul(limits::USER_CONNECTIONS_FACTOR_MAX) {
            return Acquired::Full;
        }
        if let Holder::One(first) = holder {
            *holder = Holder::Many(Box::new(Many { tracked: vec![*first], asked_ms: None }));
        }
        let Holder::Many(many) = holder else { return Acquired::Full };
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
        if let Some(holder) = self.user_connections.0.lock().get_mut(&self.user_id)
            && let Some(one) = holder.tracked().iter_mut().find(|one| one.conn == self.conn)
        {
            one.is_silent = false;
        }
    }

    /// The connection's standing among its user's.
    pub fn standing(&self, connections_max: usize) -> LimitStatus {
        let mut table = self.user_connections.0.lock();
        let Some(holder) = table.get_mut(&self.user_id) else { return LimitStatus::Refused };
        let tracked = holder.tracked();
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
        match table.get_mut(&self.user_id) {
            Some(Holder::Many(many)) if many.tracked.len() > 1 => {
                many.tracked.retain(|one| one.conn != self.conn);
                if let [last] = many.tracked[..] {
                    table.insert(self.user_id.clone(), Holder::One(last));
                }
            }
            Some(_) => {
                table.remove(&self.user_id);
                storm::shrink(&mut table);
            }
            None => {}
        }
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
