//! The sequencer: what puts log entries, channel messages and direct messages into an order.
//!
//! ```text
//! the state decides --> append    an entry of the log  --> apply_logged
//!                       sequence  a channel's message  --> pass_on
//!                       accept    a direct message     --> push_direct
//! ```
//!
//! A node that is alone orders by itself, at once, and goes on in the same call. Among several nodes
//! Redis orders: an effect leaves, and the commit comes back as an event. What decides before and what
//! applies after is the same code. etcd, `TigerBeetle` and Centrifugo have their seam at the same place:
//! a cluster of one is no case of its own.
//!
//! A channel whose name begins with `$` belongs to one node, whatever else is shared.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::State;
use super::audit::Actor;
use super::backplane::{ChannelMessage, TypedRequest};
use super::durable::{Write, WriteResult, Written};
use super::effect::{Append, AppendReply, Effect};
use super::entry::Entry;
use super::journal::{Addressee, DirectMessage, JournalEntry, JournalTail};
use super::messaging::PublisherReply;
use super::messaging::commands::Publisher;
use super::messaging::replies::Stored;
use super::reply::ReplyTo;
use crate::clock::Moment;
use crate::id::{ChannelName, ConnId, ConnName, UserId};
use crate::wire::frame;
use crate::wire::refusal::Refusal;

/// Who orders, and what waits for its place in a shared order.
#[derive(Debug, Default)]
pub(super) struct Sequencer {
    /// Whether Redis orders, for all nodes. All below is empty otherwise.
    is_shared: bool,
    /// Channel messages of this node that have no offset yet, by their texts.
    pub(super) unplaced: HashMap<Bytes, PublisherReply>,
    /// Replicated channels that lost their last follower, and when their topics are left, in
    /// milliseconds since the Unix epoch.
    pub(super) leaving: VecDeque<(u64, ChannelName)>,
    /// Replicated channels with a gap that could not be read.
    pub(super) unhealed: Vec<ChannelName>,
    /// What the journal has beyond the database. None where the nodes share no database.
    pub(super) journal: Option<JournalTail>,
}

impl Sequencer {
    /// Redis orders. `journal` is there where all nodes share a database.
    pub(super) fn shared(journal: Option<JournalTail>) -> Sequencer {
        Sequencer { is_shared: true, journal, ..Sequencer::default() }
    }

    /// Whether all nodes share the order of entries and direct messages.
    pub(super) fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Whether direct and group messages can be made durable. Nodes that share no database have no journal.
    pub(super) fn keeps_messages(&self) -> bool {
        !self.is_shared || self.journal.is_some()
    }

    /// Whether all nodes share a channel.
    pub(super) fn shares(&self, channel: &ChannelName) -> bool {
        self.is_shared && !channel.as_str().starts_with('$')
    }
}

impl State {
    /// Appends an entry to the log. `reply` gets what it comes to.
    pub(super) fn append(
        &mut self,
        actor: Option<Arc<Actor>>,
        entry: Entry,
        reply: AppendReply,
        now: Moment,
    ) {
        if self.sequencer.is_shared {
            return self.push(Effect::Append(Box::new(Append { entry, reply, actor })));
        }
        let item = self.registry.log().own_item(entry, now);
        if let Some(applied) = self.apply_logged_by(actor.as_ref(), item, now) {
            self.reply_applied(reply, applied);
        }
    }

    /// Gives a message the next offset of its channel. `compose` frames it, with the offset where that is
    /// known by then, and returns who hears of the offset. `except` does not get the message with the
    /// other followers; `by` is what a new channel counts against.
    pub(super) fn sequence(
        &mut self,
        channel: ChannelName,
        except: Option<ConnId>,
        by: Publisher,
        compose: impl FnOnce(ChannelName, Option<u64>) -> (Bytes, PublisherReply),
        now: Moment,
    ) {
        if self.sequencer.shares(&channel) {
            let (frame, reply) = compose(channel.clone(), None);
            if self.registry.is_cut_off() {
                return self.refuse_publisher(reply, Refusal::unavailable(), now);
            }
            let text = frame::payload(&frame);
            let except = except.map(|conn| ConnName::new(&self.node, conn).to_string());
            self.sequencer.unplaced.insert(text.clone(), reply);
            return self.publish_to_topic(ChannelMessage { channel, text, except });
        }
        let key = match self.channel_for(&channel, by) {
            Ok(key) => key,
            Err(fault) => {
                let (_, reply) = compose(channel, None);
                return self.refuse_publisher(reply, fault.into(), now);
            }
        };
        let offset = self.channels.advance(key);
        let (frame, reply) = compose(channel, Some(offset));
        self.pass_on(key, frame, now.unix_ms, except, Some(reply));
    }

    /// Accepts a direct or group message: it gets its id, is made durable, and is pushed to its
    /// receivers. The members of a group are not known yet.
    pub(super) fn accept(&mut self, message: DirectMessage, reply: ReplyTo<Stored>, now: Moment) {
        if self.sequencer.is_shared && matches!(message.to, Addressee::User(_)) {
            return self.append_to_journal(message, reply);
        }
        let (sequence, id) = (0, self.ids.next(now.wall_ms));
        let entry = Arc::new(JournalEntry { sequence, id, message });
        self.store(Write::Message(Arc::clone(&entry)), move |state, result, _| {
            let members = match members(result) {
                Ok(members) => members,
                Err(refusal) => return state.reply(reply, Err(refusal)),
            };
            if state.sequencer.is_shared {
                // The database has only looked the members up.
                return state.append_to_journal(entry.message.with_members(members), reply);
            }
            state.push_direct(&entry, &members);
            state.reply_accepted(Ok(entry.id), entry.message.from.clone(), reply);
        });
    }

    /// Puts a message into the journal. From there on it survives whatever node dies.
    fn append_to_journal(&mut self, message: DirectMessage, reply: ReplyTo<Stored>) {
        let has_room = self.sequencer.journal.as_ref().is_some_and(JournalTail::has_room);
        if self.registry.is_cut_off() || !has_room {
            return self.reply(reply, Err(Refusal::unavailable()));
        }
        self.request(TypedRequest::append_to_journal(message.encode()), move |state, id, _| {
            state.reply_accepted(id.map_err(|_| Refusal::unavailable()), message.from, reply);
        });
    }

    /// Publishes to the topic of a replicated channel. Its message comes back with an offset.
    fn publish_to_topic(&mut self, message: ChannelMessage) {
        let (history_max, history_ms) = self.channels.keeping(&message.channel);
        let keeping = (history_max, history_ms, self.channels.keeping_bytes());
        let epoch = self.channels.fresh_epoch();
        let request = TypedRequest::publish(message.clone(), epoch, keeping);
        self.request(request, move |state, position, now| {
            state.on_published(message, position, now);
        });
    }
}

/// The members of the group that a message is for. A user has none, nor has a group without members.
fn members(result: WriteResult) -> Result<Vec<UserId>, Refusal> {
    match result? {
        Written::For(members) => Ok(members),
        Written::Done | Written::Unchanged | Written::Invited => Ok(Vec::new()),
    }
}
