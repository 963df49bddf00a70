//! Sets of changes for the store.

use std::collections::BTreeMap;

use fanfare::internals::clock::Moment;
use fanfare::internals::id::InstanceIdentity;
use fanfare::internals::rng::Rng;
use fanfare::internals::state::management::operation::{DecidedBy, Target};
use fanfare::internals::state::registry::Settings;
use fanfare::internals::state::registry::commands::{Operate, OperateTargets, Operation};
use fanfare::internals::state::registry::unsaved::{Row, SetBound};
use fanfare::internals::state::snapshot::Snapshot;

use super::node::{Node, at, instance};

const NOW: Moment = Moment::new(1_000, 0);

fn register(node: &mut Node, service: u64, name: u64, url: u64) {
    let sent = instance(&format!("s{service}"), &format!("i{name}"), &url.to_string());
    assert!(node.register(sent, NOW));
}

/// What a database holds, as texts.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tables(BTreeMap<(&'static str, String), String>);

impl Tables {
    fn write<'a>(&mut self, rows: impl IntoIterator<Item = &'a Row>) {
        for row in rows {
            let (table, key) = row.key();
            let key = (table, key.to_owned());
            let value = match row {
                Row::Service(one) => one.revision.to_string(),
                Row::Instance(one) => String::from_utf8(one.json.to_vec()).expect("UTF-8"),
                Row::PullOut(one) => one.operator.clone(),
                // The registry makes none of these.
                Row::Audit(..) => continue,
                Row::Management(one) => one.body.clone(),
                Row::ServiceGone(_)
                | Row::InstanceGone(_)
                | Row::PullOutGone(_)
                | Row::ManagementGone(_) => {
                    self.0.remove(&key);
                    continue;
                }
            };
            self.0.insert(key, value);
        }
    }

    /// What it should hold of a registry.
    fn of(snapshot: Snapshot) -> Tables {
        let mut tables = Tables::default();
        let services = snapshot.services.into_iter().map(Row::Service);
        let instances = snapshot.instances.into_iter().map(Row::Instance);
        let pull_outs = snapshot.pull_outs.into_iter().map(Row::PullOut);
        let management = snapshot.management.into_iter().map(Row::Management);
        let rows = services.chain(instances).chain(pull_outs).chain(management);
        tables.write(&rows.collect::<Vec<_>>());
        tables
    }
}

/// Sets of any size, some of which come back, some in halves, lead to the tables that the registry
/// stands for at the end.
#[test]
fn cut_sets_add_up_to_the_state() {
    for seed in 0..40 {
        let mut rng = Rng::seeded(seed);
        let (mut node, mut tables) =
            (Node::with(Settings::default(), at(1_000)), Tables::default());
        for _ in 0..300 {
            let (service, name) = (rng.below(4), rng.below(12));
            let identity = InstanceIdentity::of("", &format!("s{service}"), &format!("i{name}"));
            let registry = &mut node.state.registry;
            match rng.below(7) {
                0 => node.unregister(&identity, NOW),
                1 => {
                    let operation = Operation::PullOut { operator: "ops".into() };
                    _ = node.ask(Operate { identity, operation }, NOW);
                }
                2 => _ = node.ask(Operate { identity, operation: Operation::PullIn }, NOW),
                4 => {
                    let (region, service) = ("".into(), format!("s{service}").into());
                    let zone = format!("z{name}").into();
                    let operate = OperateTargets {
                        operations: vec![(Target::Zone { region, service, zone }, "ops".into())],
                        is_complete: rng.below(2) == 0,
                        by: DecidedBy::default(),
                    };
                    _ = node.ask(operate, NOW);
                }
                3 => {
                    let bound = SetBound {
                        rows: 1 + rng.below(8) as usize,
                        bytes: 1 + rng.below(2_000) as usize,
                    };
                    let delta = registry.take_delta(bound);
                    let rows = delta.rows.len();
                    assert!(rows <= bound.rows + 1, "{delta:?}");
                    match rng.below(3) {
                        0 => registry.put_back(&delta),
                        1 if rows > 1 => {
                            let (first, second) = delta.halves();
                            assert_eq!(first.rows.len() + second.rows.len(), rows);
                            assert!(!first.rows.is_empty() && !second.rows.is_empty());
                            tables.write(&first.rows);
                            registry.put_back(&second);
                        }
                        _ => tables.write(&delta.rows),
                    }
                }
                _ => register(&mut node, service, name, rng.below(3)),
            }
        }
        let registry = &mut node.state.registry;
        while registry.is_dirty() {
            tables.write(&registry.take_delta(SetBound { rows: 5, bytes: usize::MAX }).rows);
        }
        assert_eq!(tables, Tables::of(registry.snapshot()), "seed {seed}");
    }
}

#[test]
fn a_large_row_goes_alone_and_nothing_is_left_out() {
    let mut node = Node::with(Settings::default(), at(1_000));
    for n in 0..10 {
        register(&mut node, 0, n, 0);
    }
    let (registry, bound) = (&mut node.state.registry, SetBound { rows: 100, bytes: 1 });
    let sets: Vec<_> =
        std::iter::from_fn(|| registry.is_dirty().then(|| registry.take_delta(bound).rows.len()))
            .collect();
    assert_eq!(sets, [1; 11]);
}
