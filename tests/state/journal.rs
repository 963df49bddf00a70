//! Direct and group messages at a node of several: pushed to those who are there.

use fanfare::internals::clock::Moment;
use fanfare::internals::id::{ConnId, MessageId, ShardId, Slot, Topic, UserId};
use fanfare::internals::state::command::Ask as _;
use fanfare::internals::state::effect::{Effect, Message};
use fanfare::internals::state::journal::{Addressee, DirectMessage, JournalEntry, JournalTail};
use fanfare::internals::state::people::{Opened, Person};
use fanfare::internals::state::{State, lone_node};
use fanfare::internals::wire::close::Reason;

const NOW: Moment = Moment::new(1_000, 1);

fn conn(slot: u32) -> ConnId {
    ConnId { shard: ShardId(0), slot: Slot(slot), generation: 0 }
}

/// A node at which ann and bob are, and somebody without a name.
fn node() -> State {
    let mut state = lone_node("n", Some(JournalTail::after(None)), NOW);
    for (slot, user) in [(0, Some("ann")), (1, Some("bob")), (2, None)] {
        let person = user.map(|user| Person { user_id: UserId::new(user), username: user.into() });
        let opened = Opened { conn: conn(slot), person, remote: None };
        state.apply(opened.unanswered(), NOW);
    }
    state.take_effects();
    state
}

fn entry(sequence: u64, from: &str, to: Addressee) -> JournalEntry {
    let message = DirectMessage { from: UserId::new(from), to, content: "hi".into() };
    JournalEntry { sequence, id: MessageId::from_parts(sequence, 1, 1), message }
}

#[test]
fn receivers_here_hear_of_a_message_and_its_sender_does_not() {
    let mut state = node();
    let user = |name: &str| UserId::new(name);
    let group = Addressee::Group {
        group_id: "g".into(),
        members: vec![user("ann"), user("bob"), user("away")],
    };
    state.on_journal_entries(vec![
        entry(1, "ann", Addressee::User(user("bob"))),
        entry(2, "ann", Addressee::User(user("away"))),
        entry(3, "ann", Addressee::User(user("ann"))),
        entry(4, "bob", group),
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
