//! What a channel that several nodes share has beside its history.
//!
//! Imports `id` and its siblings. Part of `state`.

use std::collections::{BTreeMap, VecDeque};

use super::backplane::Placed;
use crate::id::Epoch;

/// What a channel that several nodes share has beside its history.
#[derive(Debug, Default)]
pub(super) struct Replication {
    /// Whether what it keeps has been read.
    pub(super) is_live: bool,
    /// Whether something is being read.
    pub(super) is_reading: bool,
    /// Messages of the channel's epoch that came before those in front of them.
    pub(super) stash: BTreeMap<u64, Placed>,
    /// Epochs that it has left, the newest last: what is still on its way of them comes too late.
    pub(super) past: VecDeque<Epoch>,
}
