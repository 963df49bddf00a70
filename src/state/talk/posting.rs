//! Direct and group messages among several nodes: into the journal, to the receivers, and into the
//! database by and by.
//!
//! Part of `state::talk`.

use std::sync::Arc;

use super::{Outgoing, Told};
use crate::id::MessageId;
use crate::state::abroad::{Errand, Release};
use crate::state::call::{Call, Reply};
use crate::state::durable::{Write, WriteResult};
use crate::state::event::DomainEvent;
use crate::state::posted::{Addressee, Post, Posted};
use crate::state::then::{Page, Then};
use crate::state::{Outcome, State};
use crate::wire::close::Reason;
use crate::wire::message;
use crate::wire::refusal::Refusal;

impl State {
    /// Whether there is a database that all nodes share.
    pub(super) fn has_journal(&self) -> bool {
        self.abroad.as_ref().is_some_and(|abroad| abroad.tail.is_some())
    }

    /// Has a message put into the journal.
    pub(super) fn post(&mut self, post: Post) -> Outcome {
        let is_cut_off = self.registry.is_cut_off();
        let tail = self.abroad.as_ref().and_then(|abroad| abroad.tail.as_ref());
        if is_cut_off || !tail.is_some_and(super::super::abroad::Tail::has_room) {
            return Told::Refused(Refusal::unavailable()).into();
        }
        let call = Call::Post { text: post.encode() };
        Outcome::Call(Box::new((call, Then::Posted { post })))
    }

    /// A message has its place in the journal, and survives whatever node dies.
    pub(in crate::state) fn posted(&mut self, post: Post, reply: &Reply) -> Told {
        let Reply::Posted { id, .. } = reply else {
            return Told::Refused(Refusal::unavailable());
        };
        let id = *id;
        self.note(|| DomainEvent::MessageStored { id, from: post.from });
        Told::Stored { id, at_s: id.unix_ms() / 1_000 }
    }

    /// The next messages of the journal: their receivers here get them.
    pub fn on_posted(&mut self, messages: Vec<Posted>) {
        for posted in messages {
            let Posted { id, post, .. } = &posted;
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
            if let Some(abroad) = &mut self.abroad
                && let Some(tail) = &mut abroad.tail
            {
                let woken = tail.push(posted);
                abroad.release(woken, Release::Again);
            }
        }
    }

    /// The journal is read up to a number.
    pub fn on_journal_read(&mut self, sequence: u64) {
        if let Some(abroad) = &mut self.abroad
            && let Some(tail) = &mut abroad.tail
        {
            let woken = tail.on_read(sequence);
            abroad.release(woken, Release::Again);
        }
    }

    /// Messages may have been missed: whoever is signed in comes back and pulls them.
    pub fn on_journal_gap(&mut self) {
        tracing::error!("messages of the journal were missed: users are sent to pull them");
        let conns: Vec<_> = self.people.signed_in_conns().collect();
        let close = |conn| Outgoing::Close(conn, Reason::SlowReader);
        self.outgoing.extend(conns.into_iter().map(close));
    }

    /// What a user may pull that the database may not have. What is accepted anywhere by now is
    /// waited for.
    pub(super) fn unwritten(&mut self, page: Page) -> Outcome {
        let is_cut_off = self.registry.is_cut_off();
        let Some(tail) = self.abroad.as_ref().and_then(|abroad| abroad.tail.as_ref()) else {
            return Told::Unwritten(Vec::new()).into();
        };
        if self.is_rerun || is_cut_off {
            return Told::Unwritten(tail.page(&page)).into();
        }
        Outcome::Call(Box::new((Call::Newest, Then::Unwritten(page))))
    }

    /// Which message is the newest anywhere.
    pub(in crate::state) fn on_newest(&mut self, page: Page, reply: &Reply) -> Outcome {
        let ticket = self.ticket;
        let tail = self.abroad.as_mut().and_then(|abroad| abroad.tail.as_mut());
        let Some(tail) = tail else { return Told::Unwritten(Vec::new()).into() };
        if let Reply::Newest(newest) = reply
            && !tail.has_read(*newest)
        {
            tail.wait(*newest, ticket);
            return Outcome::Await(Box::new(super::Talk::Unwritten(page)));
        }
        Told::Unwritten(tail.page(&page)).into()
    }

    /// The next messages for the database, where it falls to this node to write them.
    pub fn take_posted(&mut self) -> Option<Write> {
        let is_leader = self.registry.log().is_leader();
        if !is_leader || self.registry.is_cut_off() {
            return None;
        }
        let tail = self.abroad.as_mut()?.tail.as_mut()?;
        tail.take_batch().map(Write::Posted)
    }

    /// They are there, or not. Returns whether to go on at once.
    pub(super) fn after_posted(&mut self, batch: &[Arc<Posted>], result: &WriteResult) {
        let Some(abroad) = &mut self.abroad else { return };
        let Some(tail) = &mut abroad.tail else { return };
        tail.end_batch();
        if let (Ok(_), Some(last)) = (result, batch.last()) {
            tail.on_written(last.id);
            abroad.errands.push(Errand::Written(last.id));
        }
    }

    /// Some node has written the journal up to here.
    pub fn on_written(&mut self, up_to: MessageId) {
        if let Some(tail) = self.abroad.as_mut().and_then(|abroad| abroad.tail.as_mut()) {
            tail.on_written(up_to);
        }
    }

    /// How many messages wait for the database.
    pub fn messages_unwritten(&self) -> usize {
        let tail = self.abroad.as_ref().and_then(|abroad| abroad.tail.as_ref());
        tail.map_or(0, super::super::abroad::Tail::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Moment;
    use crate::id::{ConnId, ShardId, Slot, UserId};
    use crate::state::abroad::Tail;
    use crate::state::lone_node;
    use crate::state::people::{Opened, Person};
    use crate::state::talk::Talk;

    const NOW: Moment = Moment::new(1_000, 1);

    fn conn(slot: u32) -> ConnId {
        ConnId { shard: ShardId(0), slot: Slot(slot), generation: 0 }
    }

    /// A node at which ann and bob are, and somebody without a name.
    fn node() -> State {
        let mut state = lone_node("n", Some(Tail::after(None)), NOW);
        for (slot, user) in [(0, Some("ann")), (1, Some("bob")), (2, None)] {
            let person =
                user.map(|user| Person { user_id: UserId::new(user), username: user.into() });
            let opened = Opened { conn: conn(slot), person, remote: None };
            let _ = state.apply(Talk::Opened(opened).into(), NOW);
        }
        state.take_outgoing();
        state
    }

    fn posted(sequence: u64, from: &str, to: Addressee) -> Posted {
        let post = Post { from: UserId::new(from), to, content: "hi".into() };
        Posted { sequence, id: MessageId::from_parts(sequence, 1, 1), post }
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
        let to = |outgoing: Outgoing| match outgoing {
            Outgoing::Message { topic: crate::id::Topic::User(user), .. } => user.to_string(),
            other => panic!("{other:?}"),
        };
        let heard: Vec<String> = state.take_outgoing().into_iter().map(to).collect();
        assert_eq!((heard, state.messages_unwritten()), (vec!["bob".into(), "ann".into()], 4));
    }

    #[test]
    fn users_come_back_where_messages_were_missed() {
        let mut state = node();
        state.on_journal_gap();
        let closed = |outgoing: &Outgoing| match outgoing {
            Outgoing::Close(conn, Reason::SlowReader) => conn.slot.0,
            other => panic!("{other:?}"),
        };
        let mut closed: Vec<u32> = state.take_outgoing().iter().map(closed).collect();
        closed.sort_unstable();
        assert_eq!(closed, [0, 1], "and nobody else");
    }
}
