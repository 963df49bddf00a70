//! What followers are told of services, and of their marks, while contact comes and goes and a node
//! begins anew from snapshots.
//!
//! Part of `state::registry::lease`.

use std::collections::BTreeMap;

use super::*;
use crate::clock::Clock;
use crate::rng::Rng;
use crate::state::effect::Effect;
use crate::state::entry::{Bounds, LogItem, RegistryEntry};
use crate::state::snapshot::Snapshot;
use crate::state::{State, empty_snapshot, lone_node};
use crate::wire::instance::{Instance, Registration};

const SERVICES: [&str; 3] = ["s0", "s1", "never seen"];

/// A node, and what its followers were told: revision and mark.
struct Node {
    state: State,
    told: BTreeMap<ServiceName, (u64, bool)>,
    /// How many entries it has read.
    read: usize,
}

impl Node {
    /// What control does after each order.
    fn announce(&mut self, what: &str) {
        self.state.announce_turn(self.told.keys());
        for effect in self.state.take_effects() {
            let Effect::Announce(one) = effect else { continue };
            let Some(told) = self.told.get_mut(&one.service) else { continue };
            assert_eq!(one.from, told.0, "{what}: a gap or a double: {one:?}");
            *told = (one.revision, one.degraded);
        }
        for (service, told) in &self.told {
            let view = self.state.registry.view(service);
            assert_eq!(*told, (view.revision, view.degraded), "{what}: of {service}");
        }
    }

    /// What control does when it begins anew.
    fn install_snapshot(&mut self, snapshot: Snapshot, log: &[LogItem], now: Moment) {
        let items = log[snapshot.sequence as usize..].to_vec();
        self.state.install_snapshot(snapshot, items, now);
        self.read = log.len();
        for (service, told) in &mut self.told {
            let view = self.state.registry.view(service);
            assert!(view.revision >= told.0, "back in time: from {told:?} to {view:?}");
            *told = (view.revision, view.degraded);
        }
    }
}

fn some_entry(rng: &mut Rng, registry: &Registry) -> RegistryEntry {
    let service = SERVICES[rng.below(2) as usize];
    let sent = |name: u64| {
        let text = format!(r#"{{"serviceId":"{service}","instanceId":"i{name}"}}"#);
        let instance: Instance = serde_json::from_str(&text).expect("an instance");
        Registration { lease_ttl_ms: Some(20_000), ..instance.register().expect("valid") }
    };
    let all = || (0..4).map(sent).collect::<Vec<_>>();
    match rng.below(5) {
        0 | 1 => RegistryEntry::Register {
            list: all(),
            bounds: Bounds { instances_max: 8, services_max: 8, instances_bytes_max: usize::MAX },
        },
        2 => RegistryEntry::Unregister(vec![sent(rng.below(4)).identity]),
        3 => {
            let lease = |identity: &InstanceIdentity| {
                registry.find_member(identity).map_or(0, |member| member.lease)
            };
            let all = all().into_iter().map(|one| one.identity);
            RegistryEntry::Overdue(
                all.map(|identity| (identity.clone(), lease(&identity))).collect(),
            )
        }
        _ => {
            let name = ServiceName::of(service);
            let index = registry.find_service(&name);
            let watch = index.map_or(0, |index| registry.services[index].watch);
            let services = vec![(name, watch)];
            RegistryEntry::Judge { services, self_protection_max_ms: 60_000, over: vec![false] }
        }
    }
}

#[test]
fn followers_know_every_mark_whatever_becomes_of_contact() {
    let mut degraded_by_leases = 0;
    for seed in 0..300 {
        let mut rng = Rng::seeded(seed);
        let mut now = Clock::start().now();
        let mut ahead = lone_node("b", None, now);
        let mut node = Node { state: lone_node("a", None, now), told: BTreeMap::new(), read: 0 };
        let mut log = Vec::new();
        let mut snapshots = vec![empty_snapshot(now)];
        for step in 0..120 {
            let what = match rng.below(8) {
                0 | 1 => {
                    let item = LogItem {
                        position: format!("{step}-0"),
                        node: "b".into(),
                        number: step + 1,
                        at_ms: now.unix_ms,
                        entry: some_entry(&mut rng, &ahead.registry).into(),
                    };
                    ahead.apply_logged(item.clone(), now);
                    log.push(item);
                    snapshots.extend(ahead.snapshot().filter(|_| rng.below(4) == 0));
                    "an entry is written"
                }
                2 | 3 => {
                    if let Some(item) = log.get(node.read) {
                        node.state.apply_logged(item.clone(), now);
                        node.read += 1;
                    }
                    "an entry is read"
                }
                4 => {
                    let newest = log.len() as u64 - rng.below(3).min(log.len() as u64);
                    let heard = (now.unix_ms - rng.below(6_000), newest);
                    node.state.on_nodes(&[String::from("b")], heard, now);
                    "contact"
                }
                5 => {
                    now.unix_ms += rng.below(4_000);
                    node.state.tick(now);
                    "time passes"
                }
                6 => {
                    let service = ServiceName::of(SERVICES[rng.below(3) as usize]);
                    let view = node.state.registry.view(&service);
                    node.told.insert(service, (view.revision, view.degraded));
                    "somebody follows"
                }
                _ if rng.below(4) == 0 => {
                    let snapshot = snapshots[rng.below(snapshots.len() as u64) as usize].clone();
                    node.install_snapshot(snapshot, &log, now);
                    "it begins anew"
                }
                _ => continue,
            };
            node.announce(&format!("seed {seed}, step {step}: {what}"));
            degraded_by_leases += node.state.registry.totals().degraded_services;
        }
    }
    assert!(degraded_by_leases > 0, "the seeds reach self-protection");
}
