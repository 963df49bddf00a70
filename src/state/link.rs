//! What a channel of several nodes has beside its history.
//!
//! Imports `id` and its siblings. Part of `state`.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;

use super::abroad::{Abroad, Release};
use super::call::Placed;
use super::then::Then;
use crate::id::Epoch;

/// What a channel of several nodes has beside its history.
#[derive(Debug, Default)]
pub(super) struct Link {
    /// Whether what it keeps has been read.
    pub(super) is_live: bool,
    /// Whether something is being read.
    pub(super) is_reading: bool,
    /// Messages of the channel's epoch that came before those in front of them.
    pub(super) stash: BTreeMap<u64, Placed>,
    /// Epochs that it has left, the newest last: what is still on its way of them comes too late.
    pub(super) past: VecDeque<Epoch>,
    /// Who waits for what is being read.
    pub(super) waiting: Vec<u64>,
    /// Messages of this node that are on their way, by what they say: who waits for each, and how
    /// it goes on.
    pub(super) own: HashMap<Bytes, (u64, Then)>,
}

impl Link {
    /// The channel is gone from here: nobody waits for it any more.
    pub(super) fn end(self, abroad: &mut Abroad) {
        abroad.release(self.waiting, Release::Fail);
    }
}
