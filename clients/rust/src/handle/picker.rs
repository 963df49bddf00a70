//! The choice of an instance to call: weighted, near ones first, the one that has waited longest.
//!
//! Each instance has a turn. It is chosen when its turn is the earliest, and its next one comes after a time that is
//! the shorter the larger its weight: Waldspurger, "Lottery and Stride Scheduling", MIT 1995. So among equals
//! the least recently chosen comes next, and with weights 3 and 1 three of four choices are the first's.
//!
//! # Promises
//!
//! * Only instances that are up and have a weight are chosen, and only those near enough: see [`Preference`].
//! * Clients that start together do not all begin with the same instance.
//!
//! Imports `event`. Imported by `handle::view`.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use fanfare_protocol::id::InstanceIdentity;
use fanfare_protocol::instance::{Instance, Status};
use fanfare_protocol::limits::WEIGHT_MAX;
use fanfare_protocol::preference::{Distance, Preference, weight_of};

use crate::event::ServiceState;

/// The time between two turns of an instance of weight 1. A weight divides it with little loss.
const STRIDE: u128 = (WEIGHT_MAX as u128) << 20;

/// The turns of the instances of a service.
#[derive(Debug)]
pub(crate) struct Picker {
    preference: Preference,
    /// Tells clients apart.
    seed: u64,
    /// Of which the turns are. A service has another one after each change.
    state: Option<Arc<ServiceState>>,
    turns: BinaryHeap<Reverse<Turn>>,
    /// The turn of the last choice.
    now: u128,
}

/// When an instance is due.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    at: u128,
    /// The place of the instance in the state.
    index: usize,
}

impl Picker {
    pub(crate) fn new(preference: Preference, seed: u64) -> Picker {
        Picker { preference, seed, state: None, turns: BinaryHeap::new(), now: 0 }
    }

    /// Chooses an instance; none where none can be called. Logarithmic in the instances, and linear after
    /// each change of the service.
    pub(crate) fn pick(&mut self, state: &Arc<ServiceState>) -> Option<Arc<Instance>> {
        if self.state.as_ref().is_none_or(|known| !Arc::ptr_eq(known, state)) {
            self.take(Arc::clone(state));
        }
        let mut first = self.turns.peek_mut()?;
        let instance = &state.instances[first.0.index];
        self.now = first.0.at;
        first.0.at += STRIDE / u128::from(weight_of(instance).max(1));
        Some(Arc::clone(instance))
    }

    /// Takes the turns over to another state. A new instance's first turn comes within its stride.
    fn take(&mut self, state: Arc<ServiceState>) {
        let mut known = HashMap::new();
        if let Some(before) = &self.state {
            for Reverse(turn) in self.turns.drain() {
                known.extend(identity(&before.instances[turn.index]).map(|one| (one, turn.at)));
            }
        }
        let reach = self.reach(&state.instances);
        for (index, instance) in state.instances.iter().enumerate() {
            if !is_callable(instance) || self.preference.distance_of(instance) > reach {
                continue;
            }
            let Some(identity) = identity(instance) else { continue };
            let at = known.get(&identity).copied().unwrap_or_else(|| {
                let mut hasher = DefaultHasher::new();
                (self.seed, &identity).hash(&mut hasher);
                let stride = STRIDE / u128::from(weight_of(instance));
                self.now + u128::from(hasher.finish()) % stride
            });
            self.turns.push(Reverse(Turn { at, index }));
        }
        self.state = Some(state);
    }

    fn reach(&self, instances: &[Arc<Instance>]) -> Distance {
        let callable_at = |distance| {
            let is_it = |one: &&Arc<Instance>| {
                is_callable(one) && self.preference.distance_of(one) == distance
            };
            instances.iter().filter(is_it).count()
        };
        // Without a minimum one callable instance is enough.
        let min = self.preference.min.unwrap_or(1).max(1);
        let min = usize::try_from(min).unwrap_or(usize::MAX);
        Preference::reach(min, callable_at(Distance::Zone), callable_at(Distance::Region))
    }
}

fn is_callable(instance: &Instance) -> bool {
    instance.status == Status::Up && weight_of(instance) > 0
}

fn identity(instance: &Instance) -> Option<InstanceIdentity> {
    instance.key().identity().ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use fanfare_protocol::id::ServiceName;

    use super::*;

    fn instance(name: &str, zone: &str, weight: Option<u16>) -> Arc<Instance> {
        Arc::new(Instance {
            service_id: Some("s".into()),
            instance_id: Some(name.into()),
            zone_id: Some(zone.into()),
            weight,
            ..Instance::default()
        })
    }

    fn state(instances: &[Arc<Instance>]) -> Arc<ServiceState> {
        Arc::new(ServiceState {
            service: ServiceName::of("s"),
            epoch: "e".into(),
            revision: 1,
            is_degraded: false,
            instances: instances.to_vec(),
        })
    }

    /// How often each is chosen.
    fn counts(
        picker: &mut Picker,
        state: &Arc<ServiceState>,
        picks: usize,
    ) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for _ in 0..picks {
            let picked = picker.pick(state).and_then(|one| one.instance_id.clone());
            *counts.entry(String::from(picked.expect("one is up"))).or_default() += 1;
        }
        counts
    }

    #[test]
    fn equals_take_turns_and_weights_are_shares() {
        for seed in 0..20 {
            let mut picker = Picker::new(Preference::default(), seed);
            let equal = state(&["a", "b", "c"].map(|name| instance(name, "z", None)));
            for _ in 0..5 {
                let round = counts(&mut picker, &equal, 3);
                assert_eq!(round.into_values().collect::<Vec<_>>(), [1, 1, 1], "seed {seed}");
            }
            let mut picker = Picker::new(Preference::default(), seed);
            let unequal = [("a", Some(300)), ("b", None), ("c", Some(0))];
            let unequal = state(&unequal.map(|(name, weight)| instance(name, "z", weight)));
            let shares = counts(&mut picker, &unequal, 400);
            assert_eq!(
                (shares["a"], shares["b"], shares.get("c")),
                (300, 100, None),
                "seed {seed}"
            );
        }
    }

    #[test]
    fn clients_begin_with_different_instances() {
        let names: Vec<String> = (0..8).map(|name| name.to_string()).collect();
        let instances: Vec<_> = names.iter().map(|name| instance(name, "z", None)).collect();
        let state = state(&instances);
        let mut first = BTreeMap::<_, usize>::new();
        for seed in 0..800 {
            let picked = Picker::new(Preference::default(), seed).pick(&state).expect("one is up");
            *first.entry(picked.instance_id.clone()).or_default() += 1;
        }
        assert!(first.len() == 8 && first.values().all(|&count| count > 50), "{first:?}");
    }

    #[test]
    fn those_further_away_serve_while_too_few_are_up_nearby() {
        let mut picker = Picker::new(Preference::for_zone("near").with_min(2), 7);
        let all = ["a", "b"].map(|name| instance(name, "near", None));
        let far = instance("far", "away", None);
        let whole = state(&[all[0].clone(), all[1].clone(), far.clone()]);
        assert_eq!(counts(&mut picker, &whole, 100).len(), 2, "two are enough");
        let down = Arc::new(Instance { status: Status::Down, ..(*all[1]).clone() });
        let part = state(&[all[0].clone(), down, far]);
        let shares = counts(&mut picker, &part, 100);
        assert_eq!((shares["a"], shares["far"]), (50, 50), "one is too few");
        assert_eq!(counts(&mut picker, &whole, 100), [("a".into(), 50), ("b".into(), 50)].into());
        assert!(picker.pick(&state(&[])).is_none());
    }

    #[test]
    fn who_stays_keeps_its_turn_when_the_service_changes() {
        let mut picker = Picker::new(Preference::default(), 3);
        let names = ["a", "b", "c", "d"];
        let mut picked = Vec::new();
        for _ in names {
            // Each state is a new one, as after a change.
            let state = state(&names.map(|name| instance(name, "z", None)));
            picked.push(picker.pick(&state).and_then(|one| one.instance_id.clone()));
        }
        picked.sort();
        picked.dedup();
        assert_eq!(picked.len(), 4, "nobody twice before everybody once");
    }
}
