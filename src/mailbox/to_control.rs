//! What shards, HTTP, the store and the backplane send to control.
//!
//! Imports `cluster`, `id` and `state`. Imported by `shard`, `control`, `http` and `server`.

use tokio::sync::oneshot;

use super::MailboxSender;
use crate::cluster::News;
use crate::id::{ConnId, ServiceName, ShardId};
use crate::state::durable::WriteResult;
use crate::state::reply::ReplyTo;
use crate::state::{Ask, Command};
use crate::wire::refusal::Refusal;

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
    /// A shard has no follower of this service left.
    Unfollow(ShardId, ServiceName),
    /// A shard has nobody left who follows every service.
    UnfollowAll(ShardId),
    /// These connections are to be pinged, wherever they are.
    Probe(Vec<ConnId>),
    /// The store has done what it was given, and takes more: one result for each write.
    Stored(Vec<WriteResult>),
    /// The backplane has news.
    Cluster(News),
}

/// Sends a command to control and waits for its reply. `address` makes the reply's address.
///
/// # Errors
///
/// `unavailable` where control has too much to do or the server stops, and whatever the command is
/// refused with.
pub async fn ask<A: Ask>(
    control: &MailboxSender<ControlMessage>,
    accepted_ns: u64,
    ask: A,
    address: impl FnOnce(oneshot::Sender<Result<A::Reply, Refusal>>) -> ReplyTo<A::Reply>,
) -> Result<A::Reply, Refusal> {
    let (sender, reply) = oneshot::channel();
    let task = Task::Command(ask.reply_to(address(sender)));
    control.send(ControlMessage { accepted_ns, task }).map_err(|_| Refusal::unavailable())?;
    reply.await.map_err(|_| Refusal::unavailable())?
}
