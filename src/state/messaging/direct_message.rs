//! Direct and group messages among several nodes: into the journal, to their receivers, and then into
//! the database.
//!
//! Part of `state::messaging`.

use std::sync::Arc;

use super::replies::Stored;
use crate::clock::Moment;
use crate::id::MessageId;
use crate::limits;
use crate::state::State;
use crate::state::backplane::TypedRequest;
use crate::state::cluster_state::JournalTail;
use crate::state::durable::Write;
use crate::state::effect::{Condition, Effect, Waited};
use crate::state::event::DomainEvent;
use crate::state::journal::{Addressee, DirectMessage, JournalEntry, Page};
use crate::state::reply::ReplyTo;
use crate::wire::close::Reason;
use crate::wire::message;
use crate::wire::refusal::Refusal;

impl State {
    /// What the journal has beyond the database.
    fn tail(&self) -> Option<&JournalTail> {
        self.cluster_state.as_ref()?.tail.as_ref()
    }

    fn tail_mut(&mut self) -> Option<&mut JournalTail> {
        self.cluster_state.as_mut()?.tail.as_mut()
    }

    /// Whether there is a database that all nodes share.
    pub(super) fn has_journal(&self) -> bool {
        self.tail().is_some()
    }

    /// Puts a message into the journal. From there on it survives whatever node dies.
    pub(super) fn post(&mut self, post: DirectMessage, reply: ReplyTo<Stored>) {
        if self.registry.is_cut_off() || !self.tail().is_some_and(JournalTail::has_room) {
            return self.reply(reply, Err(Refusal::unavailable()));
        }
        self.request(TypedRequest::post(post.encode()), move |state, posted, _| {
            let stored = posted.map(|id| {
                let from = post.from;
                state.push(Effect::Event(DomainEvent::MessageStored { id, from }));
                Stored { id, at_s: id.unix_ms() / 1_000 }
            });
            state.reply(reply, stored.map_err(|_| Refusal::unavailable()));
        });
    }

    /// The next messages of the journal: their receivers here get them.
    pub fn on_posted(&mut self, messages: Vec<JournalEntry>) {
        for posted in messages {
            let JournalEntry { id, post, .. } = &posted;
            let at_s = posted.at_s();
            match &post.to {
                Addressee::User(to) if *to != post.from => {
                    if self.people.is_online(to) {
                        let frame = message::private(*id, &post.from, to, &post.content, at_s);
                        self.send_to_user(to, id, frame);
                    }
                }
                Addressee::User(_) => {}
                Addressee::Group { group_id, members } => {
                    let mut frame = None;
                    for member in members.iter().filter(|member| **member != post.from) {
                        if self.people.is_online(member) {
                            let frame = frame.get_or_insert_with(|| {
                                message::group(*id, &post.from, group_id, &post.content, at_s)
                            });
                            let frame = frame.clone();
                            self.send_to_user(member, id, frame);
                        }
                    }
                }
            }
            let sequence = posted.sequence;
            if let Some(tail) = self.tail_mut() {
                tail.push(posted);
            }
            self.on_journal_read(sequence);
        }
    }

    /// The journal is read up to a number.
    pub fn on_journal_read(&mut self, sequence: u64) {
        if let Some(tail) = self.tail_mut() {
            tail.on_read(sequence);
            self.wake(Condition::JournalRead(sequence), Waited::Met);
        }
    }

    /// Messages may have been missed: whoever is signed in comes back and pulls them.
    pub fn on_journal_gap(&mut self) {
        tracing::error!("messages of the journal were missed: users are sent to pull them");
        let conns: Vec<_> = self.people.signed_in_conns().collect();
        let close = |conn| Effect::Close(conn, Reason::SlowReader);
        self.effects.extend(conns.into_iter().map(close));
    }

    /// Reads what a user may pull that the database may not have. Waits for what is accepted anywhere
    /// by now.
    pub(super) fn read_unwritten(&mut self, page: Page, reply: ReplyTo<Vec<Arc<JournalEntry>>>) {
        if !self.has_journal() || self.registry.is_cut_off() {
            return self.reply_unwritten(&page, reply);
        }
        self.request(TypedRequest::newest(), move |state, newest, _| match newest {
            Ok(newest) if state.tail().is_some_and(|tail| !tail.has_read(newest)) => {
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
        let unwritten = self.tail().map(|tail| tail.page(page)).unwrap_or_default();
        self.reply(reply, Ok(unwritten));
    }

    /// Has the next messages of the journal written, where that falls to this node.
    pub fn store_journal(&mut self, now: Moment) {
        let is_leader = self.registry.log().is_leader();
        if !is_leader || self.registry.is_cut_off() {
            return;
        }
        let Some(batch) = self.tail_mut().and_then(|tail| tail.take_batch(now.unix_ms)) else {
            return;
        };
        let last = batch.last().map(|last| last.id);
        self.store(Write::JournalRun(batch), move |state, result, now| {
            let retry_ms = now.unix_ms + limits::STORE_RETRY_MS_MAX;
            let Some(tail) = state.tail_mut() else { return };
            tail.end_batch(result.is_err().then_some(retry_ms));
            if let (Ok(_), Some(last)) = (result, last) {
                tail.on_written(last);
                state.push(Effect::JournalStored(last));
            }
        });
    }

    /// Some node has written the journal up to here.
    pub fn on_written(&mut self, up_to: MessageId) {
        if let Some(tail) = self.tail_mut() {
            tail.on_written(up_to);
        }
    }

    /// How many messages wait for the database.
    pub fn messages_unwritten(&self) -> usize {
        self.tail().map_or(0, JournalTail::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{ConnId, ShardId, Slot, Topic, UserId};
    use crate::state::command::Ask as _;
    use crate::state::effect::Message;
    use crate::state::lone_node;
    use crate::state::people::{Opened, Person};

    const NOW: Moment = Moment::new(1_000, 1);

    fn conn(slot: u32) -> ConnId {
        ConnId { shard: ShardId(0), slot: Slot(slot), generation: 0 }
    }

    /// A node at which ann and bob are, and somebody without a name.
    fn node() -> State {
        let mut state = lone_node("n", Some(JournalTail::after(None)), NOW);
        for (slot, user) in [(0, Some("ann")), (1, Some("bob")), (2, None)] {
            let person =
                user.map(|user| Person { user_id: UserId::new(user), username: user.into() });
            let opened = Opened { conn: conn(slot), person, remote: None };
            state.apply(opened.unanswered(), NOW);
        }
        state.take_effects();
        state
    }

    fn posted(sequence: u64, from: &str, to: Addressee) -> JournalEntry {
        let post = DirectMessage { from: UserId::new(from), to, content: "hi".into() };
        JournalEntry { sequence, id: MessageId::from_parts(sequence, 1, 1), post }
    }

    #[test]
    fn receivers_here_hear_of_a_message_and_its_sender_does_not() {
        let mut state = node();
        let user = |name: &str| UserId::new(name);
        let group = Addressee::Group {
            group_id: "g".into(),
            members: vec![user("ann"), user("bob"), user("away")],
        };
        state.on_posted(vec![
            posted(1, "ann", Addressee::User(user("bob"))),
            posted(2, "ann", Addressee::User(user("away"))),
            posted(3, "ann", Addressee::User(user("ann"))),
            posted(4, "bob", group),
        ]);
        let to = |effect: Effect| match effect {
            Effect::Message(Message { topic: Topic::User(user), .. }) => Some(user.to_string()),
            Effect::Wake(..) => None,
            other => panic!("{other:?}"),
        };
        let heard: Vec<String> = state.take_effects().into_iter().filter_map(to).collect();
        assert_eq!((heard, state.messages_unwritten()), (vec!["bob".into(), "ann".into()], 4));
    }

    #[test]
    fn users_come_back_where_messages_were_missed() {
        let mut state = node();
        state.on_journal_gap();
        let closed = |effect: &Effect| match effect {
            Effect::Close(conn, Reason::SlowReader) => conn.slot.0,
            other => panic!("{other:?}"),
        };
        let mut closed: Vec<u32> = state.take_effects().iter().map(closed).collect();
        closed.sort_unstable();
        assert_eq!(closed, [0, 1], "and nobody else");
    }
}
