//! What shards and HTTP send to control.
//!
//! Imports `cluster`, `id` and `state`. Imported by `shard`, `control` and `http`.

use tokio::sync::oneshot;

use crate::cluster::News;
use crate::id::{ConnId, ShardId};
use crate::state::durable::WriteResult;
use crate::state::order::{Answer, Order};

/// An order, and where its answer goes.
#[derive(Debug)]
pub struct Command {
    /// Who waits for the answer.
    pub origin: Origin,
    /// When the server accepted it, in the clock's nanoseconds. Fan-out latency counts from here.
    pub accepted_ns: u64,
    /// What to do.
    pub task: Task,
}

/// What control does: carry out an order, or note who follows what.
#[derive(Debug)]
pub enum Task {
    /// For the state.
    Order(Order),
    /// The origin's shard has no follower of this service left.
    Unfollow(crate::id::ServiceName),
    /// The origin's shard has nobody left who follows every service.
    UnfollowAll,
    /// These connections are to be pinged, wherever they are.
    Probe(Vec<ConnId>),
    /// The store has done what it was given, and takes more: one result for each write.
    Stored(Vec<WriteResult>),
    /// The backplane has news.
    Cluster(News),
}

/// Who gets an answer.
#[derive(Debug)]
pub enum Origin {
    /// A connection, through its shard.
    Conn(ConnId),
    /// An HTTP request, through the shard that serves it: the answer then wakes a task of the
    /// shard's own thread, and no answer travels by two ways.
    Http(ShardId, oneshot::Sender<Answer>),
    /// The program that embeds the server, on a thread of its own.
    Program(oneshot::Sender<Answer>),
    /// Nobody. The shard itself speaks.
    Shard(ShardId),
    /// Nobody. The store, or the server itself, speaks.
    Server,
}

impl Origin {
    /// The shard that the command came from, if one did.
    pub fn shard(&self) -> Option<ShardId> {
        match self {
            Origin::Conn(conn) => Some(conn.shard),
            Origin::Http(shard, _) | Origin::Shard(shard) => Some(*shard),
            Origin::Program(_) | Origin::Server => None,
        }
    }
}
