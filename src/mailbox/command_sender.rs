//! How shards, HTTP and the program around the server send commands, and get their replies.
//!
//! Imports `id`, `state`, `wire` and its siblings. Imported by `shard`, `http` and `server`.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::combiner::Combiner;
use super::to_control::{ControlMessage, Task};
use super::{MailboxSender, Undelivered};
use crate::id::ShardId;
use crate::state::Ask;
use crate::state::audit::{Actor, Door};
use crate::state::reply::ReplyTo;
use crate::wire::refusal::Refusal;

/// The sending end on the thread of a shard, which carries its commands out itself where it can.
#[derive(Debug, Clone)]
pub struct CommandSender {
    mailbox: MailboxSender<ControlMessage>,
    /// None where a test drives control.
    combiner: Option<Arc<Combiner>>,
    shard: ShardId,
}

impl CommandSender {
    /// The sending end for a shard and the requests that its thread serves.
    pub fn new(combiner: Arc<Combiner>, shard: ShardId) -> CommandSender {
        let mailbox = combiner.mailbox().clone();
        CommandSender { mailbox, combiner: Some(combiner), shard }
    }

    /// The same where control is driven by a test.
    #[cfg(any(test, feature = "internals"))]
    pub fn driven(mailbox: MailboxSender<ControlMessage>, shard: ShardId) -> CommandSender {
        CommandSender { mailbox, combiner: None, shard }
    }

    /// Puts a message in. [`CommandSender::carry_out`] has to follow once the batch is in.
    ///
    /// # Errors
    ///
    /// The message, where the mailbox is full or the server stops.
    #[allow(clippy::result_large_err, reason = "it is the message itself, as from a channel")]
    pub fn push(&self, message: ControlMessage) -> Result<(), Undelivered<ControlMessage>> {
        self.mailbox.push(message)
    }

    /// Carries out what waits, unless another thread does.
    pub fn carry_out(&self) {
        match &self.combiner {
            Some(combiner) => combiner.run_on(self.shard),
            None => self.mailbox.ring(),
        }
    }

    /// How many messages wait.
    pub fn depth(&self) -> usize {
        self.mailbox.depth()
    }

    /// Sends a command and waits for its reply, which is there at once where nothing else has to come first.
    ///
    /// # Errors
    ///
    /// As [`ask`].
    pub async fn ask<A: Ask>(&self, accepted_ns: u64, ask: A) -> Result<A::Reply, Refusal> {
        self.ask_by(None, accepted_ns, ask).await
    }

    /// The same for somebody whom the audit log names.
    ///
    /// # Errors
    ///
    /// As [`ask`].
    pub async fn ask_by<A: Ask>(
        &self,
        actor: Option<Arc<Actor>>,
        accepted_ns: u64,
        ask: A,
    ) -> Result<A::Reply, Refusal> {
        let address = |sender| ReplyTo::Http(self.shard, sender);
        let (message, reply) = addressed(actor, accepted_ns, ask, address);
        self.push(message).map_err(|_| Refusal::unavailable())?;
        self.carry_out();
        reply.await.map_err(|_| Refusal::unavailable())?
    }
}

/// Sends a command from the program around the server and waits for its reply.
///
/// # Errors
///
/// `unavailable` where control has too much to do or the server stops, and whatever the command is
/// refused with.
pub async fn ask<A: Ask>(
    control: &MailboxSender<ControlMessage>,
    accepted_ns: u64,
    ask: A,
) -> Result<A::Reply, Refusal> {
    let actor = Actor { door: Door::Program, ..Actor::SERVER };
    let (message, reply) = addressed(Some(Arc::new(actor)), accepted_ns, ask, ReplyTo::Program);
    control.send(message).map_err(|_| Refusal::unavailable())?;
    reply.await.map_err(|_| Refusal::unavailable())?
}

/// A command with the address of its reply, and where the reply arrives.
fn addressed<A: Ask>(
    actor: Option<Arc<Actor>>,
    accepted_ns: u64,
    ask: A,
    address: impl FnOnce(oneshot::Sender<Result<A::Reply, Refusal>>) -> ReplyTo<A::Reply>,
) -> (ControlMessage, oneshot::Receiver<Result<A::Reply, Refusal>>) {
    let (sender, reply) = oneshot::channel();
    let command = ask.reply_to(address(sender));
    let task = match actor {
        Some(actor) => Task::CommandBy(actor, command),
        None => Task::Command(command),
    };
    (ControlMessage { accepted_ns, task }, reply)
}
