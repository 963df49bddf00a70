//! Presence of several nodes: transitions add up to the union, and entries go one at a time.
//!
//! Part of `state::cluster_presence`.

use std::collections::BTreeSet;

use super::*;
use crate::rng::Rng;

fn online(user: &str, connections: u32) -> PresenceUpdate {
    let user = (user.to_owned(), user.to_uppercase(), connections, 5);
    PresenceUpdate { users: vec![user], ..PresenceUpdate::default() }
}

fn in_room(user: &str, since_ms: Option<u64>) -> PresenceUpdate {
    let place = ("chat:r".to_owned(), user.to_owned(), user.to_uppercase(), since_ms);
    PresenceUpdate { rooms: vec![place], ..PresenceUpdate::default() }
}

fn person(user: &str) -> Person {
    Person { user_id: UserId::new(user), username: user.to_uppercase().into() }
}

#[test]
fn a_user_on_two_nodes_comes_and_goes_once() {
    let mut cluster_presence = ClusterPresence::new("a");
    assert_eq!(
        cluster_presence.apply("a", &online("u", 1)),
        [PresenceTransition::Online(person("u"))]
    );
    assert_eq!(cluster_presence.apply("b", &online("u", 2)), []);
    assert_eq!(
        (cluster_presence.users_online(), cluster_presence.nodes_of(&UserId::new("u"))),
        (1, vec!["b".into()])
    );
    assert_eq!(cluster_presence.apply("a", &online("u", 0)), []);
    assert_eq!(
        cluster_presence.apply("b", &online("u", 0)),
        [PresenceTransition::Offline(person("u"))]
    );
    let room = ChannelName::of_room("r");
    assert_eq!(
        cluster_presence.apply("b", &in_room("u", Some(1))),
        [PresenceTransition::Joined(room.clone(), person("u"))]
    );
    assert_eq!(cluster_presence.apply("a", &in_room("u", Some(2))), []);
    assert_eq!(cluster_presence.forget("b"), []);
    assert_eq!(cluster_presence.room_count(&room), 1);
    assert_eq!(cluster_presence.forget("a"), [PresenceTransition::Left(room, person("u"))]);
}

#[test]
fn one_entry_is_on_its_way_at_a_time() {
    let mut cluster_presence = ClusterPresence::new("a");
    cluster_presence.apply("a", &PresenceUpdate::default());
    assert!(cluster_presence.dirty.take_dirty().is_none());
    cluster_presence.dirty.note_user(&UserId::new("u"));
    let round = cluster_presence.dirty.await_announcement();
    let first = cluster_presence.dirty.take_dirty().expect("a batch");
    assert_eq!(first.users, [UserId::new("u")]);
    cluster_presence.dirty.note_user(&UserId::new("v"));
    assert!(cluster_presence.dirty.take_dirty().is_none(), "the first is on its way");
    assert_eq!(cluster_presence.dirty.take_announced(), None);
    cluster_presence.dirty.on_update_lost(&online("u", 1));
    let again = cluster_presence.dirty.take_dirty().expect("a batch");
    assert_eq!(again.users, [UserId::new("u"), UserId::new("v")]);
    cluster_presence.apply("a", &online("u", 1));
    assert!(cluster_presence.dirty.take_dirty().is_none() && cluster_presence.dirty.has_told_all());
    assert!(cluster_presence.dirty.take_announced().is_some_and(|announced| announced >= round));
}

/// Random facts of three nodes: whoever follows the turns has the users of the union; whoever
/// begins from a snapshot has them too.
#[test]
fn turns_add_up_to_the_picture() {
    for seed in 0..20 {
        let mut rng = Rng::seeded(seed);
        let (mut cluster_presence, mut late) =
            (ClusterPresence::new("a"), ClusterPresence::new("z"));
        let (mut heard, mut heard_late) = (BTreeSet::new(), BTreeSet::new());
        let take = |heard: &mut BTreeSet<String>, transitions: Vec<PresenceTransition>| {
            for turn in transitions {
                let is_new = match turn {
                    PresenceTransition::Online(one) => heard.insert(one.user_id.to_string()),
                    PresenceTransition::Offline(one) => heard.remove(one.user_id.as_str()),
                    _ => true,
                };
                assert!(is_new, "told twice, seed {seed}");
            }
        };
        for step in 0..500 {
            let node = ["a", "b", "c"][rng.below(3) as usize];
            let transitions = if rng.below(20) == 0 {
                cluster_presence.forget(node)
            } else {
                let user = format!("u{}", rng.below(6));
                let count = u32::try_from(rng.below(3)).expect("small");
                cluster_presence.apply(node, &online(&user, count))
            };
            take(&mut heard, transitions);
            if step % 50 == 0 {
                let snapshot = PresenceSnapshot {
                    nodes: cluster_presence.snapshot(),
                    ..PresenceSnapshot::default()
                };
                take(&mut heard_late, late.replace(&snapshot));
                assert_eq!(heard, heard_late, "seed {seed}");
            }
            let mut users = HashMap::new();
            late.add_online(&mut users);
            assert_eq!(cluster_presence.users_online(), heard.len(), "seed {seed}");
        }
    }
}
