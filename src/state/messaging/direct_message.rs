//! Direct and group messages: accepted once they are durable, pushed to their receivers, and kept until
//! these have pulled them.
//!
//! ```text
//! send_private, send_to_group --> State::accept --> database or journal --> push_direct
//! ```

use std::slice;
use std::sync::Arc;

use bytes::Bytes;

use super::commands::{SendPrivate, SendToGroup};
use super::no_user;
use super::replies::Stored;
use crate::clock::Moment;
use crate::id::{MessageId, UserId};
use crate::limits;
use crate::state::State;
use crate::state::backplane::TypedRequest;
use crate::state::durable::Write;
use crate::state::effect::{Condition, Effect, Waited};
use crate::state::event::DomainEvent;
use crate::state::journal::{Addressee, DirectMessage, JournalEntry, JournalTail, Page};
use crate::state::reply::ReplyTo;
use crate::wire::close::Reason;
use crate::wire::message;
use crate::wire::refusal::Refusal;

impl State {
    /// Sends a message to a user.
    pub(super) fn send_private(&mut self, send: SendPrivate, reply: ReplyTo<Stored>, now: Moment) {
        let SendPrivate { from, to, content } = send;
        match self.resolve_name(to) {
            Ok(_) if !self.sequencer.keeps_messages() => {
                self.reply(reply, Err(Refusal::unavailable()));
            }
            Ok(to) if self.people.is_known(&to) => {
                self.accept(DirectMessage { from, to: Addressee::User(to), content }, reply, now);
            }
            Ok(_) => self.reply(reply, Err(no_user())),
            Err(refusal) => self.reply(reply, Err(refusal)),
        }
    }

    /// Sends a message to a group.
    pub(super) fn send_to_group(&mut self, send: SendToGroup, reply: ReplyTo<Stored>, now: Moment) {
        let SendToGroup { from, group_id, content } = send;
        let to = Addressee::Group { group_id, members: Vec::new() };
        self.accept(DirectMessage { from, to, content }, reply, now);
    }

    /// Replies that a message is accepted under its id, or is not.
    pub(in crate::state) fn reply_accepted(
        &mut self,
        id: Result<MessageId, Refusal>,
        from: UserId,
        reply: ReplyTo<Stored>,
    ) {
        let stored = id.map(|id| {
            self.push(Effect::Event(DomainEvent::MessageStored { id, from }));
            Stored { id, at_s: id.unix_ms() / 1_000 }
        });
        self.reply(reply, stored);
    }

    /// Pushes an accepted message to its receivers here: a user, or these members of a group. Its sender
    /// is none of them.
    pub(in crate::state) fn push_direct(&mut self, entry: &JournalEntry, members: &[UserId]) {
        let DirectMessage { from, to, content } = &entry.message;
        let (id, at_s) = (entry.id, entry.at_s());
        match to {
            Addressee::User(to) => {
                let frame = || message::private(id, from, to, content, at_s);
                self.push_to(slice::from_ref(to), entry, frame);
            }
            Addressee::Group { group_id, .. } => {
                self.push_to(members, entry, || message::group(id, from, group_id, content, at_s));
            }
        }
    }

    fn push_to(&mut self, receivers: &[UserId], entry: &JournalEntry, frame: impl Fn() -> Bytes) {
        let mut framed = None;
        for receiver in receivers.iter().filter(|receiver| **receiver != entry.message.from) {
            if self.people.is_online(receiver) {
                let frame = framed.get_or_insert_with(&frame).clone();
                self.send_to_user(receiver, &entry.id, frame);
            }
        }
    }

    /// The next messages of the journal: their receivers here get them.
    pub fn on_journal_entries(&mut self, entries: Vec<JournalEntry>) {
        for entry in entries {
            let members = match &entry.message.to {
                Addressee::User(_) => &[],
                Addressee::Group { members, .. } => &members[..],
            };
            self.push_direct(&entry, members);
            let sequence = entry.sequence;
            if let Some(journal) = &mut self.sequencer.journal {
                journal.push(entry);
            }
            self.on_journal_read(sequence);
        }
    }

    /// The journal is read up to a number.
    pub fn on_journal_read(&mut self, sequence: u64) {
        if let Some(journal) = &mut self.sequencer.journal {
            journal.on_read(sequence);
            self.wake(Condition::JournalRead(sequence), Waited::Met);
        }
    }

    /// Messages may have been missed: whoever is signed in comes back and pulls them.
    pub fn on_journal_gap(&mut self) {
        tracing::error!("messages of the journal were missed: users are told to fetch them");
        let conns: Vec<_> = self.people.signed_in_conns().collect();
        let close = |conn| Effect::Close(conn, Reason::SlowReader);
        self.effects.extend(conns.into_iter().map(close));
    }

    /// Reads what a user may pull that the database may not have. Waits for what is accepted anywhere
    /// by now.
    pub(super) fn read_unwritten(&mut self, page: Page, reply: ReplyTo<Vec<Arc<JournalEntry>>>) {
        if self.sequencer.journal.is_none() || self.registry.is_cut_off() {
            return self.reply_unwritten(&page, reply);
        }
        let is_behind = |state: &State, newest| {
            state.sequencer.journal.as_ref().is_some_and(|journal| !journal.has_read(newest))
        };
        self.request(TypedRequest::newest(), move |state, newest, _| match newest {
            Ok(newest) if is_behind(state, newest) => {
                let rest = move |state: &mut State, waited, _| match waited {
                    Waited::Met => state.reply_unwritten(&page, reply),
                    Waited::Failed | Waited::TimedOut => {
                        state.reply(reply, Err(Refusal::unavailable()));
                    }
                };
                state.wait(Condition::JournalRead(newest), rest);
            }
            _ => state.reply_unwritten(&page, reply),
        });
    }

    fn reply_unwritten(&mut self, page: &Page, reply: ReplyTo<Vec<Arc<JournalEntry>>>) {
        let journal = self.sequencer.journal.as_ref();
        let unwritten = journal.map(|journal| journal.page(page)).unwrap_or_default();
        self.reply(reply, Ok(unwritten));
    }

    /// Has the next messages of the journal written, where that falls to this node.
    pub fn store_journal(&mut self, now: Moment) {
        let is_leader = self.registry.log().is_leader;
        if !is_leader || self.registry.is_cut_off() {
            return;
        }
        let journal = self.sequencer.journal.as_mut();
        let Some(batch) = journal.and_then(|journal| journal.take_batch(now.unix_ms)) else {
            return;
        };
        let last = batch.last().map(|last| last.id);
        self.store(Write::JournalRun(batch), move |state, result, now| {
            let retry_ms = now.unix_ms + limits::STORE_RETRY_MS_MAX;
            let Some(journal) = &mut state.sequencer.journal else { return };
            journal.end_batch(result.is_err().then_some(retry_ms));
            if let (Ok(_), Some(last)) = (result, last) {
                journal.on_written(last);
                state.push(Effect::JournalStored(last));
            }
        });
    }

    /// Some node has written the journal up to here.
    pub fn on_written(&mut self, up_to: MessageId) {
        if let Some(journal) = &mut self.sequencer.journal {
            journal.on_written(up_to);
        }
    }

    /// How many messages wait for the database.
    pub fn messages_unwritten(&self) -> usize {
        self.sequencer.journal.as_ref().map_or(0, JournalTail::len)
    }
}
