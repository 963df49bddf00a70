//! Services are forgotten, and their names come back.

use std::collections::{BTreeMap, BTreeSet};

use fanfare::internals::id::ServiceName;
use fanfare::internals::rng::Rng;
use fanfare::internals::state::registry::Settings;
use fanfare::internals::state::registry::commands::SnapshotNeed;
use fanfare::internals::state::registry::unsaved::{Row, SetBound};
use fanfare::internals::wire::frame;
use serde_json::Value;

use super::node::{Node, at, instance};

const DAY_MS: u64 = 10_000;

fn node(services_max: usize) -> Node {
    let settings = Settings {
        lease_ttl_ms: 3_600_000,
        history_max: 6,
        services_max,
        service_forget_ms: DAY_MS,
        ..Settings::default()
    };
    Node::with(settings, at(1_000))
}

fn register(node: &mut Node, service: &str, name: &str, ms: u64) -> bool {
    node.register(instance(service, name, ""), at(ms))
}

fn unregister(node: &mut Node, service: &str, name: &str, ms: u64) {
    node.unregister(&instance(service, name, "").identity, at(ms));
}

/// Whether a resume succeeds, and where the service stands.
fn resume(node: &mut Node, service: &str, revision: u64) -> (Option<bool>, u64) {
    let subscribed = node.subscribe(service, SnapshotNeed::No, Some(revision));
    let subscribed = subscribed.expect("there is room");
    (subscribed.recovered, subscribed.view.revision)
}

#[test]
fn a_name_is_free_after_a_day_and_comes_back_above_what_it_was() {
    let mut node = node(10);
    assert!(register(&mut node, "s", "a", 1_000));
    unregister(&mut node, "s", "a", 1_001);
    node.tick(at(1_001 + DAY_MS - 1));
    assert_eq!(resume(&mut node, "s", 1), (Some(true), 2), "it is remembered for a day");
    node.tick(at(1_001 + DAY_MS));
    assert_eq!(node.state.registry.counts().0, 0);
    assert_eq!(node.state.registry.take_forgotten(), [ServiceName::of("s")]);
    assert_eq!(resume(&mut node, "s", 2), (Some(false), 0), "as one never seen");
    node.announcements.clear();
    assert!(register(&mut node, "s", "a", 20_000));
    let told = node.announcements.pop().expect("its followers hear of it");
    assert_eq!((told.begins, told.from, told.revision), (true, 2, 3));
    assert_eq!(resume(&mut node, "s", 1), (Some(false), 3));
    assert_eq!(resume(&mut node, "s", 2), (Some(true), 3), "it was empty then, too");
    assert!(register(&mut node, "s", "b", 20_001));
    let told = node.announcements.pop().expect("a change");
    assert_eq!((told.begins, told.from), (false, 3));
}

#[test]
fn what_is_followed_or_has_instances_stays() {
    let mut node = node(3);
    for (service, is_empty) in [("a", true), ("b", false), ("c", true)] {
        register(&mut node, service, "i", 1_000);
        if is_empty {
            unregister(&mut node, service, "i", 1_000);
        }
    }
    node.state.registry.set_followed(&ServiceName::of("a"), true);
    assert!(register(&mut node, "d", "i", 1_001), "c gives way");
    let there =
        |node: &mut Node, name| node.state.registry.view(&ServiceName::of(name)).revision > 0;
    assert!(there(&mut node, "a") && there(&mut node, "b") && !there(&mut node, "c"));
    node.tick(at(1_001 + DAY_MS));
    assert!(there(&mut node, "a"), "it is followed");
    node.state.registry.set_followed(&ServiceName::of("a"), false);
    node.tick(at(1_001 + 2 * DAY_MS));
    assert!(!there(&mut node, "a") && there(&mut node, "b"));
    assert!(register(&mut node, "e", "i", 30_000));
    assert!(!register(&mut node, "f", "i", 30_000), "none of the three is empty");
    assert_eq!(node.state.registry.totals().forgotten, 2);
}

#[test]
fn the_store_is_told_what_is_forgotten_unless_it_is_back() {
    let mut node = node(1);
    register(&mut node, "a", "i", 1_000);
    unregister(&mut node, "a", "i", 1_000);
    node.state.registry.take_delta(SetBound::NONE);
    register(&mut node, "b", "i", 1_001);
    unregister(&mut node, "b", "i", 1_001);
    let delta = node.state.registry.take_delta(SetBound::NONE);
    assert_eq!(delta.revision_floor, 2);
    let gone = Row::ServiceGone(String::from("a"));
    assert!(delta.rows.contains(&gone), "{delta:?}");
    register(&mut node, "a", "i", 1_002);
    unregister(&mut node, "a", "i", 1_002);
    register(&mut node, "b", "i", 1_003);
    let delta = node.state.registry.take_delta(SetBound::NONE);
    let services = delta.rows.iter().filter_map(|row| match row {
        Row::Service(one) => Some((&*one.service, Some(one.revision))),
        Row::ServiceGone(name) => Some((&**name, None)),
        _ => None,
    });
    assert_eq!(services.collect::<BTreeMap<_, _>>(), BTreeMap::from([("a", None), ("b", Some(7))]));
}

/// What a client believes of a service.
type Held = (u64, BTreeSet<String>);

fn urls(instances: &Value) -> BTreeSet<String> {
    let all = instances.as_array().expect("a list").iter();
    all.map(|one| format!("{} {}", one["instanceId"], one["url"])).collect()
}

/// Clients remember any position that they were ever told of and come back with it, at whatever
/// time, to services that are forgotten and return: what they are told makes their picture the
/// present one.
#[test]
fn no_resumed_client_mistakes_a_service_for_another_of_its_name() {
    let (mut recovered, mut refused) = (0, 0);
    for seed in 0..60 {
        let mut rng = Rng::seeded(seed);
        let mut node = node(4);
        let mut held: BTreeMap<String, Vec<Held>> = BTreeMap::new();
        let mut now_ms = 1_000;
        for step in 0..400 {
            let service = format!("s{}", rng.below(8));
            let name = format!("i{}", rng.below(2));
            match rng.below(8) {
                0..=2 => {
                    node.register(instance(&service, &name, &step.to_string()), at(now_ms));
                }
                3 | 4 => unregister(&mut node, &service, &name, now_ms),
                5 => now_ms += rng.below(DAY_MS / 2),
                6 => node.tick(at(now_ms)),
                _ => {
                    let is_followed = rng.below(2) == 0;
                    node.state.registry.set_followed(&ServiceName::of(&service), is_followed);
                }
            }
            let view = node.state.registry.view(&ServiceName::of(&service));
            let instances = serde_json::from_slice(view.instances.json()).expect("JSON");
            let present: Held = (view.revision, urls(&instances));
            let held = held.entry(service.clone()).or_default();
            if let Some((revision, mut picture)) =
                held.get(rng.below(held.len() as u64 + 1) as usize).cloned()
            {
                let subscribed = node.subscribe(&service, SnapshotNeed::No, Some(revision));
                let subscribed = subscribed.expect("there is room");
                if subscribed.recovered == Some(true) {
                    recovered += 1;
                    let changes = subscribed.replay.map(|replay| {
                        let text = frame::payload(&replay);
                        serde_json::from_slice::<Value>(&text).expect("JSON")["changes"].take()
                    });
                    for change in changes.iter().filter_map(Value::as_array).flatten() {
                        let id = change["instance"]["instanceId"].to_string();
                        picture.retain(|one| !one.starts_with(&id));
                        if change["changeType"] != "delete" {
                            picture.extend(urls(&Value::from(vec![change["instance"].clone()])));
                        }
                    }
                    let what = format!("seed {seed}, step {step}: {service} since {revision}");
                    assert_eq!((subscribed.view.revision, picture), present, "{what}");
                } else {
                    refused += 1;
                    assert!(subscribed.needs_instances());
                }
            }
            held.push(present);
        }
        let totals = node.state.registry.totals();
        assert!(totals.forgotten > 0, "seed {seed} forgets nothing");
    }
    assert!(recovered > 1_000 && refused > 1_000, "{recovered} and {refused}");
}
