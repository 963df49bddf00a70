//! What a node tells the others of its people.

use fanfare::internals::clock::Clock;
use fanfare::internals::id::{ConnId, ShardId, Slot, UserId};
use fanfare::internals::state::cluster_presence::update::PresenceUpdate;
use fanfare::internals::state::command::Ask as _;
use fanfare::internals::state::entry::{Entry, PresenceEntry};
use fanfare::internals::state::people::{Opened, Person};
use fanfare::internals::state::{State, lone_node};

use super::node::item;

#[test]
fn an_own_entry_that_comes_late_is_corrected() {
    let now = Clock::start().now();
    let mut node = lone_node("b", None, now);
    node.on_nodes(&[String::from("b")], (now.unix_ms, 0), now);
    let person = Person { user_id: UserId::new("bob"), username: "bob".into() };
    let conn = ConnId { shard: ShardId(0), slot: Slot(0), generation: 0 };
    let opened = Opened { conn, person: Some(person), remote: None };
    node.apply(opened.unanswered(), now);
    let tells = |node: &mut State| -> Vec<PresenceUpdate> {
        let entries = node.take_proposals(now).into_iter();
        let facts = entries.filter_map(|entry| match entry {
            Entry::Presence(PresenceEntry::Update(facts)) if !facts.users.is_empty() => Some(facts),
            _ => None,
        });
        facts.collect()
    };
    let told = tells(&mut node);
    assert_eq!(told.len(), 1);
    node.apply_logged(item(1, PresenceEntry::Update(told[0].clone())), now);
    assert!(tells(&mut node).is_empty(), "all is told");
    // From before the connection was opened; it was reported lost.
    let old = PresenceUpdate {
        users: vec![(UserId::new("bob"), String::new(), 0, 0)],
        ..PresenceUpdate::default()
    };
    node.apply_logged(item(2, PresenceEntry::Update(old)), now);
    assert_eq!(tells(&mut node)[0].users, told[0].users);
}
