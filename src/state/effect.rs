//! Effects: what control has to carry out, in the order in which the state decided it.
//!
//! ```text
//! State::apply, State::resume --> [ Message | Announce | Reply | Append | Wait | Wake ] --> control
//! ```
//!
//! A command that cannot end at once leaves an effect that names what it waits for, and beside it the
//! [`Continuation`] with which it goes on. Control keeps both in its table of pending commands and calls
//! [`State::resume`] with the result. The state keeps no number of a waiting command.
//!
//! # Promises
//!
//! * Effects stand in the order of the changes that they tell of. What a command changed stands before
//!   its reply; a subscriber's reply stands between the messages it covers and those after it.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::State;
use super::audit::{Actor, AuditEvent, Note};
use super::backplane::{BackplaneRequest, BackplaneResponse, NoResponse, TypedRequest};
use super::channels::view::ChannelView;
use super::durable::{Write, WriteResult};
use super::entry::{Applied, Entry};
use super::event::DomainEvent;
use super::messaging::aim::Aim;
use super::messaging::replies::{Followed, Unfollowed};
use super::registry::replies::{FoundInstance, PutReply, RefusedEntry};
use super::registry::views::{Announcement, ServiceRules, View};
use super::reply::{Delivery, Reply, ReplyTo};
use crate::clock::Moment;
use crate::id::{ChannelName, ConnId, MessageId, ShardSet, Topic};
use crate::wire::close::Reason;
use crate::wire::refusal::Refusal;

/// One thing for control to carry out.
#[derive(Debug)]
pub enum Effect {
    /// The followers of a service hear of a change.
    Announce(Announcement),
    /// The followers of a service hear of its rules.
    AnnounceRules(ServiceRules),
    /// The followers of a topic get a frame.
    Message(Message),
    /// The followers of a channel get one of its messages.
    ChannelMessage(Message),
    /// The followers of a channel get a frame, and follow it no more after it.
    Dissolve {
        /// The channel.
        channel: ChannelName,
        /// The shards that have followers.
        shards: ShardSet,
        /// The whole frame.
        frame: Bytes,
    },
    /// A connection was opened. From here on it gets what is for everyone, and for its user.
    Opened(ConnId),
    /// A connection ends.
    Close(ConnId, Reason),
    /// A subscription of a connection begins or ends without its asking.
    Subscription(ConnId, Box<SubscriptionSet>),
    /// Every connection gets a ping.
    PingAll,
    /// Shards may read a view without asking, until its service changes.
    PublishView(Arc<View>),
    /// A caller gets its reply.
    Reply(Delivery),
    /// The embedding program hears what happened.
    Event(DomainEvent),
    /// The audit log gets an event.
    Audit(Box<AuditEvent>),
    /// An entry goes into the log of all nodes.
    Append(Box<Append>),
    /// The backplane, or other nodes, are asked.
    Request(Box<Request>),
    /// The store makes something durable.
    Store(Box<StoreWrite>),
    /// A command waits for a condition.
    Wait(Condition, Continuation<Waited>),
    /// The commands that wait for a condition, or for a lower number of its kind, go on.
    Wake(Condition, Waited),
    /// The node leaves a channel's topic.
    LeaveTopic(ChannelName),
    /// The database has the journal up to a message.
    JournalStored(MessageId),
}

/// A frame, and who gets it.
#[derive(Debug)]
pub struct Message {
    /// Whose followers.
    pub topic: Topic,
    /// The shards that have followers; none = all shards.
    pub shards: Option<ShardSet>,
    /// The whole frame.
    pub frame: Bytes,
    /// Which of the followers.
    pub aim: Aim,
}

/// A subscription to a channel that was set for a connection.
#[derive(Debug)]
pub enum SubscriptionSet {
    /// It begins.
    Followed(Followed),
    /// It has ended.
    Unfollowed(Unfollowed),
}

/// An entry for the log, and who hears what came of it.
#[derive(Debug)]
pub struct Append {
    /// The entry.
    pub entry: Entry,
    /// Where the result goes.
    pub reply: AppendReply,
    /// Whose command came to it; none = the server itself.
    pub actor: Option<Arc<Actor>>,
}

/// Where the result of an applied entry goes.
#[derive(Debug)]
pub enum AppendReply {
    /// Nowhere: time, or this node's presence, made the entry. The state hears where it is lost.
    Nobody,
    /// To a batch of registrations, renewals or removals.
    Batch(ReplyTo<Vec<RefusedEntry>>),
    /// To an operator's decision.
    Found(ReplyTo<bool>),
    /// To a conditional registration.
    Put(ReplyTo<PutReply>),
    /// To a renewal that also reads the instance.
    Instance(ReplyTo<Option<FoundInstance>>),
    /// To the definition of a channel.
    Defined(ReplyTo<ChannelView>),
    /// To the deletion of a channel.
    Deleted(ReplyTo<()>),
}

impl AppendReply {
    /// Whether nobody waits for the result.
    pub fn is_nobody(&self) -> bool {
        matches!(self, AppendReply::Nobody)
    }

    /// Addresses the result of the entry. None where nobody waits for it.
    pub(super) fn with(self, applied: Applied) -> Option<Delivery> {
        match (self, applied) {
            (AppendReply::Nobody, _) => None,
            (AppendReply::Batch(reply), Applied::Batch(refused)) => reply.with(Ok(refused)),
            (AppendReply::Found(reply), Applied::Found(is_found)) => reply.with(Ok(is_found)),
            (AppendReply::Put(reply), Applied::Put(result)) => reply.with(Ok(result)),
            (AppendReply::Instance(reply), Applied::Instance(found)) => reply.with(Ok(found)),
            (AppendReply::Defined(reply), Applied::Defined(result)) => reply.with(result),
            (AppendReply::Deleted(reply), Applied::Done) => reply.with(Ok(())),
            (reply, applied) => {
                // The log is data from outside. What this node appended is not what it read back.
                tracing::error!(?applied, "the log has another entry under a number of this node");
                reply.refuse(Refusal::unavailable())
            }
        }
    }

    /// Refuses. None where nobody waits.
    pub(super) fn refuse(self, refusal: Refusal) -> Option<Delivery> {
        match self {
            AppendReply::Nobody => None,
            AppendReply::Batch(reply) => reply.with(Err(refusal)),
            AppendReply::Found(reply) => reply.with(Err(refusal)),
            AppendReply::Put(reply) => reply.with(Err(refusal)),
            AppendReply::Instance(reply) => reply.with(Err(refusal)),
            AppendReply::Defined(reply) => reply.with(Err(refusal)),
            AppendReply::Deleted(reply) => reply.with(Err(refusal)),
        }
    }
}

/// Something for the backplane, and how its command goes on with the response.
#[derive(Debug)]
pub struct Request {
    /// What is asked.
    pub call: BackplaneRequest,
    /// What goes on with the response.
    pub continuation: Continuation<BackplaneResponse>,
    /// Whether the state asks for itself: such requests have room whatever else is under way.
    pub is_own: bool,
}

/// Something for the store, and how its command goes on with the result.
#[derive(Debug)]
pub struct StoreWrite {
    /// What to make durable.
    pub write: Write,
    /// What goes on with the result.
    pub continuation: Continuation<WriteResult>,
}

/// What a command waits for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// What a channel keeps in Redis has been read.
    ChannelRead(ChannelName),
    /// The followers of a channel here have got its messages up to an offset.
    ChannelAt(ChannelName, u64),
    /// The journal is read up to a number.
    JournalRead(u64),
    /// The log has the presence of this node up to a round of announcements.
    PresenceAnnounced(u64),
}

impl Condition {
    /// The first condition that is true with this one.
    #[must_use]
    pub fn first(&self) -> Condition {
        match self {
            Condition::ChannelRead(channel) => Condition::ChannelRead(channel.clone()),
            Condition::ChannelAt(channel, _) => Condition::ChannelAt(channel.clone(), 0),
            Condition::JournalRead(_) => Condition::JournalRead(0),
            Condition::PresenceAnnounced(_) => Condition::PresenceAnnounced(0),
        }
    }
}

/// Why a command that waited goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// The condition is true.
    Met,
    /// It will not become true.
    Failed,
    /// The command has waited for too long.
    TimedOut,
}

/// The rest of a command, once what it waits for is there.
pub struct Continuation<T>(Box<Rest<T>>);

type Rest<T> = dyn FnOnce(&mut State, T, Moment) + Send;

impl<T> Continuation<T> {
    /// What goes on with a result.
    pub fn new(rest: impl FnOnce(&mut State, T, Moment) + Send + 'static) -> Self {
        Continuation(Box::new(rest))
    }

    pub(super) fn run(self, state: &mut State, result: T, now: Moment) {
        (self.0)(state, result, now);
    }
}

impl<T> fmt::Debug for Continuation<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Continuation")
    }
}

impl State {
    /// Hands the effects to control, in place of those that it has carried out.
    pub fn swap_effects(&mut self, carried_out: &mut Vec<Effect>) {
        debug_assert!(carried_out.is_empty(), "effects would be carried out twice");
        std::mem::swap(&mut self.effects, carried_out);
    }

    /// Takes the effects.
    #[cfg(any(test, fuzzing, feature = "internals"))]
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Goes on with a command that has waited.
    pub fn resume<T>(&mut self, continuation: Continuation<T>, result: T, now: Moment) {
        continuation.run(self, result, now);
        self.bound_histories();
    }

    /// Keeps an audit log: what happens is left among the effects.
    #[must_use]
    pub fn with_audit(mut self) -> State {
        self.registry.notes.keep(true);
        self
    }

    /// Has something noted. Without an actor the server did it.
    pub(super) fn audit(&mut self, actor: Option<&Arc<Actor>>, note: Note) {
        if self.registry.notes.is_kept() {
            let actor = actor.unwrap_or(&self.own_actor).clone();
            self.push(Effect::Audit(Box::new(AuditEvent { note, actor })));
        }
    }

    /// Hands over what the registry has noted. What another node decided is that node's to note.
    pub(super) fn audit_registry(&mut self, actor: Option<&Arc<Actor>>, is_own: bool) {
        if self.registry.notes.list.is_empty() {
            return;
        }
        let actor = actor.unwrap_or(&self.own_actor);
        let notes = self.registry.notes.list.drain(..).filter(|_| is_own);
        let events = notes.map(|note| AuditEvent { note, actor: Arc::clone(actor) });
        self.effects.extend(events.map(|event| Effect::Audit(Box::new(event))));
    }

    pub(super) fn push(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// Replies to a command.
    pub(super) fn reply<T: Reply>(&mut self, reply: ReplyTo<T>, result: Result<T, Refusal>) {
        self.deliver(reply.with(result));
    }

    pub(super) fn deliver(&mut self, delivery: Option<Delivery>) {
        self.effects.extend(delivery.map(Effect::Reply));
    }

    /// Makes something durable, then goes on.
    pub(super) fn store(
        &mut self,
        write: Write,
        rest: impl FnOnce(&mut State, WriteResult, Moment) + Send + 'static,
    ) {
        let continuation = Continuation::new(rest);
        self.push(Effect::Store(Box::new(StoreWrite { write, continuation })));
    }

    /// Goes on once a condition is true.
    pub(super) fn wait(
        &mut self,
        condition: Condition,
        rest: impl FnOnce(&mut State, Waited, Moment) + Send + 'static,
    ) {
        self.push(Effect::Wait(condition, Continuation::new(rest)));
    }

    pub(super) fn wake(&mut self, condition: Condition, how: Waited) {
        self.push(Effect::Wake(condition, how));
    }

    /// Asks the backplane, and goes on with its response.
    pub(super) fn request<T: 'static>(
        &mut self,
        request: TypedRequest<T>,
        rest: impl FnOnce(&mut State, Result<T, NoResponse>, Moment) + Send + 'static,
    ) {
        let TypedRequest { call, read, is_own } = request;
        let continuation =
            Continuation::new(move |state: &mut State, reply, now| rest(state, read(reply), now));
        self.push(Effect::Request(Box::new(Request { call, continuation, is_own })));
    }
}
