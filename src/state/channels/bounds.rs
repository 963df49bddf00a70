//! Bounds of channels: what can be set, whom a channel counts against, and why one is refused.

use std::sync::Arc;

use crate::address::AddressBlock;
use crate::auth::namespace::Namespaces;
use crate::id::ConnId;

/// What can be set about channels.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The rules by prefix.
    pub namespaces: Arc<Namespaces>,
    /// Messages a channel keeps, where its namespace says nothing.
    pub history_max: usize,
    /// Bytes of one channel's history.
    pub history_bytes_max: usize,
    /// Channels in all, and definitions in all.
    pub channels_max: usize,
    /// Channels that one connection brought into being and that are still there.
    pub per_connection_max: usize,
    /// The same of all connections of one address block, zero = no bound. `None`: a fifth of
    /// `channels_max`, and loopback is exempt.
    pub per_address_max: Option<usize>,
}

impl Settings {
    /// How many channels may exist because of an address block. None: as many as there is room for.
    pub(super) fn address_max(&self, block: AddressBlock) -> Option<usize> {
        match self.per_address_max {
            Some(0) => None,
            None if block.is_loopback() => None,
            None => Some((self.channels_max / 5).max(1)),
            set @ Some(_) => set,
        }
    }
}

/// Who brings a channel into being.
#[derive(Debug, Clone, Copy)]
pub(in crate::state) struct Creator {
    /// The connection. None where it was a request.
    pub(in crate::state) conn: Option<ConnId>,
    /// What its address is counted by. None where the address is unknown.
    pub(in crate::state) block: Option<AddressBlock>,
}

/// Why a channel cannot come into being.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::state) enum TooMany {
    /// There are too many, and each of them is followed.
    InAll,
    /// The connection has brought too many into being.
    OfConnection,
    /// The connections of the address block have brought too many into being.
    OfAddress,
}

impl TooMany {
    /// What the client is told.
    pub(in crate::state) const fn message(self) -> &'static str {
        match self {
            TooMany::InAll => "there are too many channels",
            TooMany::OfConnection => "too many channels exist because of this connection",
            TooMany::OfAddress => "too many channels exist because of this address",
        }
    }
}
