//! Presence of several nodes: transitions add up to the union, and entries go one at a time.

use std::collections::BTreeSet;

use super::*;
use crate::rng::Rng;

fn online(user: &str, connections: u32) -> PresenceUpdate {
    let user = (UserId::new(user), user.to_uppercase(), connections, 5);
    PresenceUpdate { users: vec![user], ..PresenceUpdate::default() }
}

fn in_room(user: &str, since_ms: Option<u64>) -> PresenceUpdate {
    let place = (ChannelName::of_room("r"), UserId::new(user), user.to_uppercase(), since_ms);
    PresenceUpdate { rooms: vec![place], ..PresenceUpdate::default() }
}

fn turn(is_arrival: bool, room: Option<&ChannelName>, user: &str) -> PresenceTransition {
    let person = Person { user_id: UserId::new(user), username: user.to_uppercase().into() };
    PresenceTransition { is_arrival, room: room.cloned(), person }
}

#[test]
fn a_user_on_two_nodes_comes_and_goes_once() {
    let mut presence = ClusterPresence::new("a");
    assert_eq!(presence.apply("a", &online("u", 1)), [turn(true, None, "u")]);
    assert_eq!(presence.apply("b", &online("u", 2)), []);
    let nodes = presence.nodes_of(&UserId::new("u"));
    assert_eq!((presence.users_online(), nodes), (1, vec!["b".into()]));
    assert_eq!(presence.apply("a", &online("u", 0)), []);
    assert_eq!(presence.apply("b", &online("u", 0)), [turn(false, None, "u")]);
    let room = ChannelName::of_room("r");
    assert_eq!(presence.apply("b", &in_room("u", Some(1))), [turn(true, Some(&room), "u")]);
    assert_eq!(presence.apply("a", &in_room("u", Some(2))), []);
    assert_eq!(presence.forget("b"), []);
    assert_eq!(presence.room_count(&room), 1);
    assert_eq!(presence.forget("a"), [turn(false, Some(&room), "u")]);
}

#[test]
fn one_entry_is_on_its_way_at_a_time() {
    let mut presence = ClusterPresence::new("a");
    presence.apply("a", &PresenceUpdate::default());
    assert!(presence.dirty.take_dirty().is_none());
    presence.dirty.note_user(&UserId::new("u"));
    let round = presence.dirty.await_announcement();
    let first = presence.dirty.take_dirty().expect("a batch");
    assert!(first.users.into_iter().eq([UserId::new("u")]));
    presence.dirty.note_user(&UserId::new("v"));
    assert!(presence.dirty.take_dirty().is_none(), "the first is on its way");
    assert_eq!(presence.dirty.take_announced(), None);
    presence.dirty.on_update_lost(&online("u", 1));
    let again = presence.dirty.take_dirty().expect("a batch");
    assert!(again.users.into_iter().eq(["u", "v"].map(UserId::new)));
    presence.apply("a", &online("u", 1));
    assert!(presence.dirty.take_dirty().is_none() && presence.dirty.has_told_all());
    assert!(presence.dirty.take_announced().is_some_and(|announced| announced >= round));
}

/// Random facts of three nodes: whoever follows the turns has the users of the union; whoever
/// begins from a snapshot has them too.
#[test]
fn turns_add_up_to_the_picture() {
    for seed in 0..20 {
        let mut rng = Rng::seeded(seed);
        let (mut presence, mut late) = (ClusterPresence::new("a"), ClusterPresence::new("z"));
        let (mut heard, mut heard_late) = (BTreeSet::new(), BTreeSet::new());
        let take = |heard: &mut BTreeSet<String>, transitions: Vec<PresenceTransition>| {
            for turn in transitions {
                let user = turn.person.user_id.to_string();
                let is_new = if turn.is_arrival { heard.insert(user) } else { heard.remove(&user) };
                assert!(is_new, "told twice, seed {seed}");
            }
        };
        for step in 0..500 {
            let node = ["a", "b", "c"][rng.below(3) as usize];
            let transitions = if rng.below(20) == 0 {
                presence.forget(node)
            } else {
                let user = format!("u{}", rng.below(6));
                let count = u32::try_from(rng.below(3)).expect("small");
                presence.apply(node, &online(&user, count))
            };
            take(&mut heard, transitions);
            if step % 50 == 0 {
                let nodes = presence.snapshot();
                let snapshot = PresenceSnapshot { nodes, ..PresenceSnapshot::default() };
                take(&mut heard_late, late.replace(&snapshot));
                assert_eq!(heard, heard_late, "seed {seed}");
            }
            let mut users = HashMap::new();
            late.add_online(&mut users);
            assert_eq!(presence.users_online(), heard.len(), "seed {seed}");
        }
    }
}
