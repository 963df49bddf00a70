//! What shards, HTTP, the store and the backplane send to control.
//!
//! Imports `cluster`, `id` and `state`. Imported by `shard`, `control`, `http` and `server`.

use std::sync::Arc;

use crate::cluster::News;
use crate::id::{ConnId, Dialect, ServiceName, ShardId};
use crate::state::Command;
use crate::state::audit::Actor;
use crate::state::durable::WriteResult;

/// One thing for control to do.
#[derive(Debug)]
pub struct ControlMessage {
    /// When the server accepted it, in the clock's nanoseconds. Fan-out latency counts from here.
    pub accepted_ns: u64,
    /// What to do.
    pub task: Task,
}

/// What control does: carry out a command, note who follows what, or take a result.
#[derive(Debug)]
pub enum Task {
    /// For the state.
    Command(Command),
    /// The same for a command that the audit log names its sender of.
    CommandBy(Arc<Actor>, Command),
    /// A shard has no follower of this service left that gets its changes in a dialect.
    Unfollow(ShardId, Dialect, ServiceName),
    /// A shard has nobody left who follows every service.
    UnfollowAll(ShardId, Dialect),
    /// These connections are to be pinged, wherever they are.
    Probe(Vec<ConnId>),
    /// The store has done what it was given, and takes more: one result for each write.
    Stored(Vec<WriteResult>),
    /// The backplane has news.
    Cluster(News),
}
