//! Which connections each signed-in user holds on this node, over all shards.
//!
//! The one table that shards share by a lock. It is taken for nobody who is not signed in: when a
//! socket opens, when it ends, and for the few seconds in which a user has more than one may.
//!
//! A user's connections may be dead without a word: the lid of a laptop, a change of network. So a
//! connection above the limit is let in for as long as those before it have to answer a ping, which
//! is sent to all of them at once. Where one ends meanwhile, the newcomer has its seat. Once all have
//! answered, the newcomer is the one that goes.
//!
//! # Promises
//!
//! * A [`Seat`] gives itself back, however its connection ends.
//! * A user without a connection takes no room.
//! * A user holds at most twice the limit, and more than the limit only while a ping is unanswered.
//!
//! Imports `id`, `limits` and `storm`. Imported by `ws::gate` and `shard`.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::id::{ConnId, UserId};
use crate::limits;
use crate::storm;

/// The table.
#[derive(Debug, Default)]
pub struct Seats(Mutex<HashMap<UserId, Holder>>);

/// A user's connections. Nearly every user has one.
#[derive(Debug)]
enum Holder {
    One(Seated),
    Many(Box<Many>),
}

#[derive(Debug)]
struct Many {
    /// Eldest first. Those behind the limit are above it.
    seated: Vec<Seated>,
    /// When they were last asked for a sign of life.
    asked_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Seated {
    conn: ConnId,
    /// Whether it was asked for a sign of life and has not given one.
    is_silent: bool,
}

impl Holder {
    fn seated(&mut self) -> &mut [Seated] {
        match self {
            Holder::One(one) => std::slice::from_mut(one),
            Holder::Many(many) => &mut many.seated,
        }
    }
}

/// One connection of a user.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    user_id: UserId,
    conn: ConnId,
}

/// What becomes of a connection that wants a seat.
#[derive(Debug)]
pub enum Taken {
    /// It has one.
    Seat(Seat),
    /// It is above the limit, and may wait for the seat of one that does not answer. These are to be
    /// pinged now; none where they just were.
    Surplus(Seat, Vec<ConnId>),
    /// There are too many that wait already.
    Full,
}

/// How a connection above the limit stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is no longer above the limit.
    Seated,
    /// An older connection has not answered yet.
    Waiting,
    /// All older ones have answered.
    Refused,
}

impl Seats {
    /// How many users have a connection.
    pub fn users(&self) -> usize {
        self.0.lock().len()
    }

    /// Takes a seat for one more connection of a user.
    pub fn take(
        self: &Arc<Seats>,
        user_id: &UserId,
        conn: ConnId,
        seats_max: usize,
        now_ms: u64,
    ) -> Taken {
        let seat = || Seat { seats: Arc::clone(self), user_id: user_id.clone(), conn };
        let seated = Seated { conn, is_silent: false };
        let mut table = self.0.lock();
        let Some(holder) = table.get_mut(user_id) else {
            table.insert(user_id.clone(), Holder::One(seated));
            return Taken::Seat(seat());
        };
        let count = holder.seated().len();
        if count >= seats_max.saturating_mul(limits::SEATS_FACTOR_MAX) {
            return Taken::Full;
        }
        if let Holder::One(first) = holder {
            *holder = Holder::Many(Box::new(Many { seated: vec![*first], asked_ms: None }));
        }
        let Holder::Many(many) = holder else { return Taken::Full };
        many.seated.push(seated);
        if count < seats_max {
            return Taken::Seat(seat());
        }
        let were_asked =
            many.asked_ms.is_some_and(|asked_ms| now_ms < asked_ms + limits::SEATS_ASK_MS);
        let mut asked = Vec::new();
        if !were_asked {
            many.asked_ms = Some(now_ms);
            for one in &mut many.seated[..seats_max] {
                one.is_silent = true;
                asked.push(one.conn);
            }
        }
        Taken::Surplus(seat(), asked)
    }
}

impl Seat {
    /// Notes that the connection has given a sign of life.
    pub fn answer(&self) {
        if let Some(holder) = self.seats.0.lock().get_mut(&self.user_id)
            && let Some(one) = holder.seated().iter_mut().find(|one| one.conn == self.conn)
        {
            one.is_silent = false;
        }
    }

    /// How the connection stands among its user's.
    pub fn standing(&self, seats_max: usize) -> Standing {
        let mut table = self.seats.0.lock();
        let Some(holder) = table.get_mut(&self.user_id) else { return Standing::Refused };
        let seated = holder.seated();
        let older = seated.iter().take(seats_max);
        match seated.iter().position(|one| one.conn == self.conn) {
            Some(place) if place < seats_max => Standing::Seated,
            Some(_) if older.clone().any(|one| one.is_silent) => Standing::Waiting,
            _ => Standing::Refused,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut table = self.seats.0.lock();
        match table.get_mut(&self.user_id) {
            Some(Holder::Many(many)) if many.seated.len() > 1 => {
                many.seated.retain(|one| one.conn != self.conn);
                if let [last] = many.seated[..] {
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

    fn seat(taken: Taken) -> Seat {
        match taken {
            Taken::Seat(seat) => seat,
            other => panic!("no seat: {other:?}"),
        }
    }

    #[test]
    fn a_seat_given_back_is_free_again() {
        let seats = Arc::<Seats>::default();
        let (ann, bob) = (UserId::new("ann"), UserId::new("bob"));
        let first = seat(seats.take(&ann, conn(1), 2, 0));
        let _second = seat(seats.take(&ann, conn(2), 2, 0));
        drop(seat(seats.take(&bob, conn(3), 2, 0)));
        drop(first);
        let _third = seat(seats.take(&ann, conn(4), 2, 0));
        assert_eq!(seats.users(), 1, "bob left nothing behind");
    }

    #[test]
    fn a_newcomer_waits_for_those_that_are_silent() {
        let seats = Arc::<Seats>::default();
        let ann = UserId::new("ann");
        let first = seat(seats.take(&ann, conn(1), 2, 1_000));
        let second = seat(seats.take(&ann, conn(2), 2, 1_000));
        let Taken::Surplus(third, asked) = seats.take(&ann, conn(3), 2, 1_000) else {
            panic!("above the limit")
        };
        assert_eq!(asked, [conn(1), conn(2)]);
        let Taken::Surplus(fourth, asked) = seats.take(&ann, conn(4), 2, 1_500) else {
            panic!("above the limit")
        };
        assert!(asked.is_empty(), "they have just been asked");
        assert!(matches!(seats.take(&ann, conn(5), 2, 9_000), Taken::Full));
        assert_eq!((first.standing(2), third.standing(2)), (Standing::Seated, Standing::Waiting));
        first.answer();
        assert_eq!(third.standing(2), Standing::Waiting);
        drop(second);
        assert_eq!((third.standing(2), fourth.standing(2)), (Standing::Seated, Standing::Refused));
    }

    /// Random comings, goings and answers against a plain list.
    #[test]
    fn agrees_with_a_list() {
        for seed in 0..200 {
            let mut rng = Rng::seeded(seed);
            let seats = Arc::<Seats>::default();
            let users = ["ann", "bob"].map(UserId::new);
            let seats_max = 1 + usize::try_from(rng.below(3)).expect("small");
            let mut model: BTreeMap<usize, Vec<(ConnId, bool)>> = BTreeMap::new();
            let mut held: Vec<(usize, Seat)> = Vec::new();
            let (mut generation, mut now_ms, mut asked_ms) = (0, 1_000, [None, None]);
            for _ in 0..100 {
                now_ms += rng.below(900);
                let user = usize::try_from(rng.below(2)).expect("small");
                let list = model.entry(user).or_default();
                match rng.below(3) {
                    0 => {
                        generation += 1;
                        let id = conn(generation);
                        let taken = seats.take(&users[user], id, seats_max, now_ms);
                        let count = list.len();
                        if count >= 2 * seats_max {
                            assert!(matches!(taken, Taken::Full));
                            continue;
                        }
                        list.push((id, false));
                        let seat = match taken {
                            Taken::Seat(seat) => {
                                assert!(count < seats_max);
                                seat
                            }
                            Taken::Surplus(seat, asked) => {
                                assert!(count >= seats_max);
                                let is_soon =
                                    asked_ms[user].is_some_and(|at_ms| now_ms < at_ms + 1_000);
                                assert_eq!(asked.len(), if is_soon { 0 } else { seats_max });
                                for (_, is_silent) in list.iter_mut().take(asked.len()) {
                                    *is_silent = true;
                                    asked_ms[user] = Some(now_ms);
                                }
                                seat
                            }
                            Taken::Full => panic!("there is room"),
                        };
                        held.push((user, seat));
                    }
                    kind if !held.is_empty() => {
                        let at = usize::try_from(rng.below(held.len() as u64)).expect("small");
                        let (user, seat) = held.swap_remove(at);
                        let list = model.get_mut(&user).expect("it holds one");
                        let place = list.iter().position(|(id, _)| *id == seat.conn);
                        let place = place.expect("it is there");
                        if kind == 1 {
                            list[place].1 = false;
                            seat.answer();
                            held.push((user, seat));
                        } else {
                            list.remove(place);
                            if list.len() <= 1 {
                                asked_ms[user] = None;
                            }
                            drop(seat);
                        }
                    }
                    _ => {}
                }
                for (user, seat) in &held {
                    let list = &model[user];
                    let place = list.iter().position(|(id, _)| *id == seat.conn);
                    let standing = match place.expect("it is there") {
                        place if place < seats_max => Standing::Seated,
                        _ if list[..seats_max].iter().any(|(_, is_silent)| *is_silent) => {
                            Standing::Waiting
                        }
                        _ => Standing::Refused,
                    };
                    assert_eq!(seat.standing(seats_max), standing, "seed {seed}");
                }
                let users = model.values().filter(|list| !list.is_empty()).count();
                assert_eq!(seats.users(), users, "seed {seed}");
            }
        }
    }
}
