//! Snapshots that are shared while they are being sent.

use std::collections::BTreeMap;

use fanfare::internals::clock::Moment;
use fanfare::internals::limits;
use fanfare::internals::rng::Rng;
use fanfare::internals::state::registry::Settings;
use fanfare::internals::state::registry::commands::SnapshotNeed;
use fanfare::internals::state::registry::views::{Instances, ServiceSnapshot};
use fanfare::internals::wire::frame;
use serde_json::Value;

use super::node::{Node, at, instance};

const NOW: Moment = Moment::new(1_000, 0);
const LARGE: usize = 4 * limits::KIB;

fn node(snapshots_bytes_max: usize, history_bytes_max: usize) -> Node {
    let settings = Settings {
        snapshots_bytes_max,
        snapshot_shared_bytes_min: LARGE,
        history_bytes_max,
        ..Settings::default()
    };
    Node::with(settings, at(1_000))
}

/// Registers an instance with so many bytes more than it needs.
fn register(node: &mut Node, name: &str, mark: u64, bytes: usize) {
    let url = format!("{mark}{}", "x".repeat(bytes));
    assert!(node.register(instance("s", name, &url), NOW), "there is room");
}

fn put(instances: &mut BTreeMap<String, String>, instance: &Value) {
    instances.insert(instance["instanceId"].to_string(), instance["url"].to_string());
}

/// What a client holds that was sent the picture.
fn read(picture: &ServiceSnapshot) -> (u64, BTreeMap<String, String>) {
    let all: Value = serde_json::from_slice(picture.view.instances.json()).expect("JSON");
    let mut instances = BTreeMap::new();
    for instance in all.as_array().expect("a list") {
        put(&mut instances, instance);
    }
    let Some(changes) = &picture.changes else { return (picture.view.revision, instances) };
    let text = frame::payload(changes);
    let changes: Value = serde_json::from_slice(&text).expect("JSON");
    assert_eq!(changes["from"], picture.view.revision);
    for change in changes["changes"].as_array().expect("a list") {
        match change["changeType"].as_str() {
            Some("delete") => {
                instances.remove(&change["instance"]["instanceId"].to_string());
            }
            _ => put(&mut instances, &change["instance"]),
        }
    }
    (changes["revision"].as_u64().expect("a number"), instances)
}

/// What a new follower is sent, and the revision at which the service stands; none where there is no room.
fn picture(node: &mut Node) -> Option<(ServiceSnapshot, u64)> {
    let subscribed = node.subscribe("s", SnapshotNeed::Yes, None).ok()?;
    match subscribed.instances {
        Instances::Needed(snapshot) => Some((snapshot, subscribed.view.revision)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_comes_while_a_large_snapshot_is_sent_gets_the_same_bytes() {
    let mut node = node(limits::MIB, limits::MIB);
    register(&mut node, "large", 0, LARGE);
    let (first, _) = picture(&mut node).expect("there is room");
    register(&mut node, "small", 1, 0);
    let (second, _) = picture(&mut node).expect("there is room");
    assert!(first.view.instances.is_same(&second.view.instances));
    assert_eq!((second.view.revision, read(&second).0), (1, 2));
    // Once nobody is sent it, the next one is at the present revision.
    drop((first, second));
    let (third, _) = picture(&mut node).expect("there is room");
    assert!(third.changes.is_none());
    assert_eq!(third.view.revision, 2);
}

/// Bytes of all snapshots that readers hold, each counted once.
fn held_bytes(held: &[ServiceSnapshot]) -> usize {
    let all: BTreeMap<*const u8, usize> = held
        .iter()
        .map(|one| (one.view.instances.json().as_ptr(), one.view.instances.bytes()))
        .collect();
    all.values().sum()
}

/// Readers take snapshots of a service that changes, and keep them for a while: each is the
/// service as it stands, and together they take no more than the bound and one snapshot.
#[test]
fn a_picture_is_the_service_as_it_stands_whoever_is_still_reading() {
    const BOUND: usize = 4 * LARGE;
    let (mut shared, mut refused) = (0, 0);
    for seed in 0..24 {
        let mut rng = Rng::seeded(seed);
        let mut node = node(BOUND, 2 * limits::KIB);
        register(&mut node, "large", 0, LARGE);
        let mut model = read(&picture(&mut node).expect("there is room").0).1;
        let mut held: Vec<ServiceSnapshot> = Vec::new();
        for step in 0..400 {
            let name = format!("i{}", rng.below(6));
            match rng.below(6) {
                0..3 => {
                    register(&mut node, &name, step, 300);
                    let url = format!("\"{step}{}\"", "x".repeat(300));
                    model.insert(format!("\"{name}\""), url);
                }
                3 => {
                    node.unregister(&instance("s", &name, "").identity, NOW);
                    model.remove(&format!("\"{name}\""));
                }
                4 if !held.is_empty() && rng.below(3) == 0 => {
                    held.swap_remove(rng.below(held.len() as u64) as usize);
                }
                _ => {}
            }
            let what = format!("seed {seed}, step {step}");
            match picture(&mut node) {
                Some((picture, revision)) => {
                    assert_eq!(read(&picture), (revision, model.clone()), "{what}");
                    shared += usize::from(picture.changes.is_some());
                    if rng.below(3) == 0 {
                        held.push(picture);
                    }
                }
                None => refused += 1,
            }
            assert!(held_bytes(&held) <= BOUND + 2 * LARGE, "{what}");
            if rng.below(60) == 0 {
                held.clear();
                assert!(picture(&mut node).is_some(), "{what}: nothing is being sent");
            }
        }
    }
    assert!(shared > 500 && refused > 100, "{shared} shared, {refused} refused");
}
