//! The limit on connections of a client address on this node, over all shards.
//!
//! A connection counts when it is accepted. Behind a trusted proxy, which carries many clients, it counts once
//! its head has named the client. The table's lock is taken when a connection opens and when it ends.
//!
//! # Promises
//!
//! * An [`AddressPermit`] is returned however its connection ends.
//! * An address without a connection takes no room.
//! * An IPv6 client counts by its /64, however many addresses it uses.
//!
//! Imports `address`. Imported by `ws::authorizer`, `shard` and `server`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::address::AddressBlock;

/// The table.
#[derive(Debug)]
pub struct AddressConnectionLimit {
    taken: Mutex<HashMap<AddressBlock, usize>>,
    /// None: no bound.
    connections_max: Option<usize>,
    exempts_loopback: bool,
}

/// One connection of an address. The connections of an exempt address are not counted.
#[derive(Debug)]
pub struct AddressPermit {
    counted: Option<(Arc<AddressConnectionLimit>, AddressBlock)>,
}

impl Default for AddressConnectionLimit {
    fn default() -> AddressConnectionLimit {
        AddressConnectionLimit {
            taken: Mutex::default(),
            connections_max: None,
            exempts_loopback: true,
        }
    }
}

impl AddressConnectionLimit {
    /// An empty table. `configured` is the operator's bound, zero for none; without it an
    /// address may take half of the room, and this machine's own addresses all of it.
    pub fn new(configured: Option<usize>, room: usize) -> AddressConnectionLimit {
        let connections_max = match configured {
            Some(0) => None,
            Some(connections_max) => Some(connections_max),
            None => Some((room / 2).max(1)),
        };
        AddressConnectionLimit {
            connections_max,
            exempts_loopback: configured.is_none(),
            ..AddressConnectionLimit::default()
        }
    }

    /// Takes a permit for one more connection. None if the address is at its limit.
    pub fn take(self: &Arc<AddressConnectionLimit>, address: IpAddr) -> Option<AddressPermit> {
        let block = AddressBlock::of(address);
        let Some(connections_max) = self.connections_max else {
            return Some(AddressPermit { counted: None });
        };
        if self.exempts_loopback && block.is_loopback() {
            return Some(AddressPermit { counted: None });
        }
        let mut taken = self.taken.lock();
        let count = taken.get(&block).copied().unwrap_or(0);
        if count >= connections_max {
            return None;
        }
        taken.insert(block, count + 1);
        Some(AddressPermit { counted: Some((Arc::clone(self), block)) })
    }
}

impl AddressPermit {
    /// A permit of an address that is not counted.
    pub fn exempt() -> AddressPermit {
        AddressPermit { counted: None }
    }
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        let Some((user_connections, block)) = &self.counted else { return };
        let mut taken = user_connections.taken.lock();
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

    fn user_connections(configured: Option<usize>, room: usize) -> Arc<AddressConnectionLimit> {
        Arc::new(AddressConnectionLimit::new(configured, room))
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// How many of a hundred connections get a permit.
    fn admitted(user_connections: &Arc<AddressConnectionLimit>, text: &str) -> usize {
        let held: Vec<AddressPermit> =
            (0..100).filter_map(|_| user_connections.take(address(text))).collect();
        held.len()
    }

    #[test]
    fn half_of_the_room_unless_set_and_loopback_is_exempt_unless_set() {
        for (configured, room, theirs, ours) in
            [(None, 40, 20, 100), (None, 1, 1, 100), (Some(7), 40, 7, 7), (Some(0), 40, 100, 100)]
        {
            let user_connections = user_connections(configured, room);
            assert_eq!(admitted(&user_connections, "192.0.2.1"), theirs, "{configured:?}");
            assert_eq!(admitted(&user_connections, "127.0.0.1"), ours, "{configured:?}");
            assert!(user_connections.taken.lock().is_empty(), "all were given back");
        }
    }

    #[test]
    fn a_prefix_shares_its_places() {
        let user_connections = user_connections(Some(2), 40);
        let _one = user_connections.take(address("2001:db8::1")).expect("a permit");
        let two = user_connections.take(address("2001:db8::ffff:2")).expect("a second one");
        assert!(user_connections.take(address("2001:db8::3")).is_none());
        assert!(user_connections.take(address("2001:db8:0:1::3")).is_some(), "another prefix");
        assert!(user_connections.take(address("::ffff:192.0.2.1")).is_some());
        drop(two);
        assert!(user_connections.take(address("2001:db8::4")).is_some());
    }
}
