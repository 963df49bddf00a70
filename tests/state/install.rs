//! A snapshot and the entries after it, installed at a node of several.

use fanfare::internals::clock::{Clock, Moment};
use fanfare::internals::id::{ConnId, Dialect, ServiceName, ShardId, Slot, UserId};
use fanfare::internals::state::cluster_presence::update::PresenceUpdate;
use fanfare::internals::state::command::Ask as _;
use fanfare::internals::state::entry::{Bounds, LogItem, PresenceEntry, RegistryEntry};
use fanfare::internals::state::people::{Opened, Person};
use fanfare::internals::state::registry::commands::{SnapshotNeed, Subscribe};
use fanfare::internals::state::registry::views::Subscribed;
use fanfare::internals::state::{State, empty_snapshot, lone_node, new_node};
use fanfare::internals::wire::command::Since;
use fanfare::internals::wire::refusal::Refusal;

use super::node::{instance, item};

const BOUNDS: Bounds =
    Bounds { instances_max: 8, services_max: 8, instances_bytes_max: usize::MAX };

fn registration(number: u64) -> LogItem {
    let list = vec![instance("s", &format!("i{number}"), "")];
    item(number, RegistryEntry::Register { list, bounds: BOUNDS })
}

fn subscribe(
    state: &mut State,
    since: Option<Since>,
    now: Moment,
) -> Result<Box<Subscribed>, Refusal> {
    let service = ServiceName::of("s");
    let (snapshot, dialect) = (SnapshotNeed::Yes, Dialect::Fanfare);
    let subscribe = Subscribe { service, snapshot, since, dialect };
    state.ask(subscribe, now).expect("it is answered at once")
}

#[test]
fn who_has_a_picture_keeps_it_until_there_is_a_registry() {
    let now = Clock::start().now();
    let mut state = new_node("a", None, now);
    let snapshot = empty_snapshot(now);
    let since = || Some(Since { epoch: "e".into(), revision: 1 });
    let nothing = subscribe(&mut state, None, now).expect("it is followed");
    assert_eq!((nothing.view.revision, nothing.view.degraded), (0, true));
    let refusal = subscribe(&mut state, since(), now).expect_err("it keeps its picture");
    assert_eq!(refusal, Refusal::unavailable());
    let begun = state.install_snapshot(snapshot, vec![registration(1), registration(2)], now);
    assert!(begun.services.contains(&ServiceName::of("s")) && begun.applied.is_empty());
    // Whoever was there for the first of them misses one.
    let resumed = subscribe(&mut state, since(), now).expect("it is followed");
    assert_eq!((resumed.recovered, resumed.view.revision), (Some(true), 2));
}

#[test]
fn nobody_sees_what_lies_between() {
    let now = Clock::start().now();
    let mut state = lone_node("a", None, now);
    let old = empty_snapshot(now);
    let user = |name: &str, connections| {
        let facts = vec![(UserId::new(name), name.to_owned(), connections, 1)];
        PresenceEntry::Update(PresenceUpdate { users: facts, ..PresenceUpdate::default() })
    };
    let items = [
        item(1, user("ann", 1)),
        registration(2),
        item(3, user("bob", 1)),
        item(4, user("bob", 0)),
    ];
    for item in &items[..2] {
        state.apply_logged(item.clone(), now);
    }
    let conn = ConnId { shard: ShardId(0), slot: Slot(0), generation: 0 };
    let person = Person { user_id: UserId::new("eve"), username: "eve".into() };
    let opened = Opened { conn, person: Some(person), remote: None };
    state.apply(opened.unanswered(), now);
    state.take_effects();
    let begun = state.install_snapshot(old, items.to_vec(), now);
    assert!(begun.services.contains(&ServiceName::of("s")));
    let said = state.take_effects();
    assert!(said.is_empty(), "the snapshot says it all, and nobody came or went: {said:?}");
    assert_eq!(state.users_anywhere(), 1);
}
