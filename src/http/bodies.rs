//! Budgets for request bodies in transit: bytes per address and bytes per shard.
//!
//! A body that its sender holds back costs the sender nothing and the server its size. So bytes are counted
//! as they arrive: against the client's address block until the body is complete, and against the shard
//! until it has been read.
//!
//! # Promises
//!
//! * Nothing is counted or set aside for bytes that were only announced.
//! * A body that is complete when its first byte is read costs no lock.
//! * The largest allowed body fits, whatever the bounds for all are.
//!
//! Imports its siblings, `address`, `limits` and `wire`. Part of `http`.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use super::budget::{Budget, Permit};
use super::reply::Problem;
use crate::address::AddressBlock;
use crate::limits::{self, Limits};
use crate::wire::refusal::Code;

/// The bytes of unfinished bodies, by the address block they come from. One a server.
#[derive(Debug)]
pub struct AddressBodies {
    held: Mutex<HashMap<AddressBlock, usize>>,
    bytes_max: usize,
}

impl AddressBodies {
    /// A budget without bodies.
    pub fn new(limits: &Limits) -> Arc<AddressBodies> {
        let largest = limits.http_registry_body_bytes_max.max(limits.http_body_bytes_max);
        let bytes_max = limits.unfinished_body_bytes_per_address_max.max(largest);
        Arc::new(AddressBodies { held: Mutex::default(), bytes_max })
    }

    /// Adds bytes to an address. Returns false, and adds none, if it has too many.
    fn grow(&self, block: AddressBlock, bytes: usize) -> bool {
        let mut held = self.held.lock();
        let before = held.get(&block).copied().unwrap_or(0);
        let has_room = before + bytes <= self.bytes_max;
        if has_room {
            held.insert(block, before + bytes);
        }
        has_room
    }

    fn give_back(&self, block: AddressBlock, bytes: usize) {
        let mut held = self.held.lock();
        if let Some(left) = held.get_mut(&block) {
            *left -= bytes;
            if *left == 0 {
                held.remove(&block);
            }
        }
    }
}

/// The bodies of one shard.
#[derive(Debug)]
pub struct Bodies {
    shard: Arc<Budget>,
    addresses: Arc<AddressBodies>,
}

impl Bodies {
    /// A budget without bodies.
    pub fn new(limits: &Limits, addresses: Arc<AddressBodies>) -> Bodies {
        let bytes_max = limits.unfinished_body_bytes_max.max(addresses.bytes_max);
        Bodies { shard: Budget::new(bytes_max), addresses }
    }

    /// The bytes of all bodies that are still arriving or being read.
    pub fn held(&self) -> usize {
        self.shard.held()
    }

    /// Begins a body from an address; none if the address is unknown.
    pub fn begin(&self, from: Option<AddressBlock>) -> Arriving {
        Arriving {
            bytes: BytesMut::new(),
            permit: self.shard.take_anyway(0),
            share: from.map(|block| Share {
                addresses: Arc::clone(&self.addresses),
                block,
                bytes: 0,
            }),
        }
    }
}

/// A body of which a part has arrived.
#[derive(Debug)]
pub struct Arriving {
    bytes: BytesMut,
    permit: Permit,
    share: Option<Share>,
}

impl Arriving {
    /// How many bytes have arrived.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Adds bytes that have arrived. `left` is the announced rest, if it is known.
    ///
    /// # Errors
    ///
    /// 429 if the address has too many unfinished bytes, 503 if the shard has.
    pub fn add(&mut self, data: &[u8], left: usize) -> Result<(), Problem> {
        let refused = |status, code, detail| {
            Problem::new(status, code, detail).closing().retry_after_s(limits::BUSY_RETRY_S)
        };
        if !self.permit.grow(data.len(), 0) {
            let detail = "too many bytes of unfinished bodies";
            return Err(refused(503, Code::Unavailable, detail));
        }
        if self.share.as_mut().is_some_and(|share| !share.grow(data.len())) {
            self.permit.settle(self.bytes.len());
            let detail = "too many bytes of unfinished bodies from this address";
            return Err(refused(429, Code::RateLimited, detail));
        }
        if self.bytes.capacity() - self.bytes.len() < data.len() {
            // At most as much memory again as has arrived: an announced length is no reason for
            // memory.
            let ahead = (self.bytes.len() + data.len()).min(left);
            self.bytes.reserve(data.len() + ahead);
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }

    /// The complete body. It counts for the shard until it is dropped.
    pub fn finish(self) -> Bytes {
        Bytes::from_owner(Whole { bytes: self.bytes, _permit: self.permit })
    }
}

/// A complete body and its permit.
struct Whole {
    bytes: BytesMut,
    _permit: Permit,
}

impl AsRef<[u8]> for Whole {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// One body's share of its address's budget.
#[derive(Debug)]
struct Share {
    addresses: Arc<AddressBodies>,
    block: AddressBlock,
    bytes: usize,
}

impl Share {
    fn grow(&mut self, bytes: usize) -> bool {
        let is_grown = self.addresses.grow(self.block, bytes);
        self.bytes += if is_grown { bytes } else { 0 };
        is_grown
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.addresses.give_back(self.block, self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(last: u8) -> AddressBlock {
        AddressBlock::of([192, 0, 2, last].into())
    }

    fn status(result: &Result<(), Problem>) -> u16 {
        result.as_ref().map_or_else(|problem| problem.status, |()| 200)
    }

    #[test]
    fn an_address_and_a_shard_have_so_many_bytes() {
        let limits = Limits {
            http_body_bytes_max: 1_000,
            http_registry_body_bytes_max: 1_000,
            unfinished_body_bytes_per_address_max: 1_000,
            unfinished_body_bytes_max: 1_500,
            ..Limits::DEFAULT
        };
        let bodies = Bodies::new(&limits, AddressBodies::new(&limits));
        let piece = [b'x'; 400];
        let mut first = bodies.begin(Some(block(1)));
        let mut second = bodies.begin(Some(block(1)));
        assert_eq!(status(&first.add(&piece, 9_000_000)), 200);
        assert!(first.bytes.capacity() < 2_000, "nothing is set aside for what was announced");
        assert_eq!(status(&second.add(&piece, 0)), 200);
        let refused = second.add(&piece, 0);
        assert_eq!(status(&refused), 429);
        let header = refused.expect_err("refused").header.expect("a header");
        assert_eq!(header.0, "retry-after");
        let mut third = bodies.begin(Some(block(2)));
        assert_eq!(status(&third.add(&piece, 0)), 200);
        assert_eq!(status(&third.add(&piece, 0)), 503);
        // A complete body leaves its address at once, and the shard when it has been read.
        let whole = first.finish();
        assert_eq!(status(&second.add(&piece[..200], 0)), 200);
        drop(whole);
        assert_eq!(status(&third.add(&piece, 0)), 200);
        drop((second, third));
        assert_eq!(bodies.shard.held(), 0);
        assert!(bodies.addresses.held.lock().is_empty());
    }
}
