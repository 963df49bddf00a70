//! How many connections each signed-in user holds on this node, over all shards.
//!
//! The one table that shards share by a lock. It is taken when a socket opens and when it ends, and
//! for nobody who is not signed in.
//!
//! # Promises
//!
//! * A [`Seat`] gives itself back, however its connection ends.
//! * A user without a connection takes no room.
//!
//! Imports nothing of the crate. Imported by `ws::gate` and `shard`.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// The table.
#[derive(Debug, Default)]
pub struct Seats(Mutex<HashMap<Box<str>, usize>>);

/// One connection of a user.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    user_id: Box<str>,
}

impl Seats {
    /// How many users have a connection.
    pub fn users(&self) -> usize {
        self.0.lock().len()
    }

    /// Takes a seat for one more connection of a user. None where `seats_max` are taken.
    pub fn take(self: &Arc<Seats>, user_id: &str, seats_max: usize) -> Option<Seat> {
        let mut taken = self.0.lock();
        let count = taken.get(user_id).copied().unwrap_or(0);
        if count >= seats_max {
            return None;
        }
        taken.insert(user_id.into(), count + 1);
        drop(taken);
        Some(Seat { seats: Arc::clone(self), user_id: user_id.into() })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.0.lock();
        if let Some(count) = taken.get_mut(&self.user_id) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.user_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seat_given_back_is_free_again() {
        let seats = Arc::<Seats>::default();
        let first = seats.take("ann", 2).expect("a seat");
        let _second = seats.take("ann", 2).expect("a second one");
        assert!(seats.take("ann", 2).is_none());
        assert!(seats.take("bob", 2).is_some(), "another user has seats of their own");
        drop(first);
        assert!(seats.take("ann", 2).is_some());
        assert_eq!(seats.users(), 1, "bob left nothing behind");
    }
}
