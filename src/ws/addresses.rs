//! How many connections each client address holds on this node, over all shards.
//!
//! Counted where a connection is accepted; behind a trusted proxy, which carries many clients, where
//! the head has said whose connection it is. The table's lock is taken when a connection comes and
//! when it ends.
//!
//! # Promises
//!
//! * An [`AddressSeat`] gives itself back, however its connection ends.
//! * An address without a connection takes no room.
//! * An IPv6 client counts by its /64, however many addresses it uses.
//!
//! Imports `address`. Imported by `ws::gate`, `shard` and `server`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::address::AddressBlock;

/// The table.
#[derive(Debug)]
pub struct AddressSeats {
    taken: Mutex<HashMap<AddressBlock, usize>>,
    /// None: no bound.
    seats_max: Option<usize>,
    exempts_loopback: bool,
}

/// One connection of an address. An exempt address has seats that are not counted.
#[derive(Debug)]
pub struct AddressSeat {
    counted: Option<(Arc<AddressSeats>, AddressBlock)>,
}

impl Default for AddressSeats {
    fn default() -> AddressSeats {
        AddressSeats { taken: Mutex::default(), seats_max: None, exempts_loopback: true }
    }
}

impl AddressSeats {
    /// An empty table. `configured` is what an operator says, where zero is no bound; otherwise an
    /// address may take half of the room, and this machine's own addresses all of it.
    pub fn new(configured: Option<usize>, room: usize) -> AddressSeats {
        let seats_max = match configured {
            Some(0) => None,
            Some(seats_max) => Some(seats_max),
            None => Some((room / 2).max(1)),
        };
        AddressSeats {
            seats_max,
            exempts_loopback: configured.is_none(),
            ..AddressSeats::default()
        }
    }

    /// Takes a seat for one more connection. None where the address has as many as it may.
    pub fn take(self: &Arc<AddressSeats>, address: IpAddr) -> Option<AddressSeat> {
        let block = AddressBlock::of(address);
        let Some(seats_max) = self.seats_max else { return Some(AddressSeat { counted: None }) };
        if self.exempts_loopback && block.is_loopback() {
            return Some(AddressSeat { counted: None });
        }
        let mut taken = self.taken.lock();
        let count = taken.get(&block).copied().unwrap_or(0);
        if count >= seats_max {
            return None;
        }
        taken.insert(block, count + 1);
        Some(AddressSeat { counted: Some((Arc::clone(self), block)) })
    }
}

impl AddressSeat {
    /// A seat of an address that is not counted.
    pub fn exempt() -> AddressSeat {
        AddressSeat { counted: None }
    }
}

impl Drop for AddressSeat {
    fn drop(&mut self) {
        let Some((seats, block)) = &self.counted else { return };
        let mut taken = seats.taken.lock();
        if let Some(count) = taken.get_mut(block) {
            *count -= 1;
            if *count == 0 {
                taken.remove(block);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seats(configured: Option<usize>, room: usize) -> Arc<AddressSeats> {
        Arc::new(AddressSeats::new(configured, room))
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// How many of a hundred connections find a seat.
    fn admitted(seats: &Arc<AddressSeats>, text: &str) -> usize {
        let held: Vec<AddressSeat> = (0..100).filter_map(|_| seats.take(address(text))).collect();
        held.len()
    }

    #[test]
    fn half_of_the_room_unless_set_and_loopback_is_exempt_unless_set() {
        for (configured, room, theirs, ours) in
            [(None, 40, 20, 100), (None, 1, 1, 100), (Some(7), 40, 7, 7), (Some(0), 40, 100, 100)]
        {
            let seats = seats(configured, room);
            assert_eq!(admitted(&seats, "192.0.2.1"), theirs, "{configured:?}");
            assert_eq!(admitted(&seats, "127.0.0.1"), ours, "{configured:?}");
            assert!(seats.taken.lock().is_empty(), "all were given back");
        }
    }

    #[test]
    fn a_prefix_shares_its_seats() {
        let seats = seats(Some(2), 40);
        let _one = seats.take(address("2001:db8::1")).expect("a seat");
        let two = seats.take(address("2001:db8::ffff:2")).expect("a second one");
        assert!(seats.take(address("2001:db8::3")).is_none());
        assert!(seats.take(address("2001:db8:0:1::3")).is_some(), "another prefix");
        assert!(seats.take(address("::ffff:192.0.2.1")).is_some());
        drop(two);
        assert!(seats.take(address("2001:db8::4")).is_some());
    }
}
