//! What changed in the registry since the store was last told.
//!
//! Marks and no copies: a set holds what is true when it is taken, and one that failed puts its marks back.
//!
//! Imports `state::snapshot` and its siblings. Part of `state::registry`. Imported by `store` and `control`.

use super::Registry;
use crate::id::{InstanceIdentity, ServiceName};
use crate::state::snapshot::{InstanceRecord, PullOutRecord, ServiceRecord};

/// What changed since the last time the store was told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistryDelta {
    /// The epoch.
    pub epoch: String,
    /// The registry's version.
    pub version: u64,
    /// The revision at which new services begin.
    pub revision_floor: u64,
    /// Names of services that are forgotten. None of them is among those to write.
    pub forgotten: Vec<String>,
    /// Services to write.
    pub services: Vec<ServiceRecord>,
    /// Instances to write.
    pub upserts: Vec<InstanceRecord>,
    /// Identities of instances that are gone.
    pub deletes: Vec<String>,
    /// Pull-outs to write.
    pub pull_outs: Vec<PullOutRecord>,
    /// Identities that are pulled in again.
    pub pull_ins: Vec<String>,
}

impl RegistryDelta {
    /// How many rows it is. None is still a set: it tells the epoch and the version.
    pub fn rows(&self) -> usize {
        self.forgotten.len()
            + self.services.len()
            + self.upserts.len()
            + self.deletes.len()
            + self.pull_outs.len()
            + self.pull_ins.len()
    }

    /// Cuts it into two sets of about as many rows.
    pub fn halves(mut self) -> (RegistryDelta, RegistryDelta) {
        let mut first = RegistryDelta {
            epoch: self.epoch.clone(),
            version: self.version,
            revision_floor: self.revision_floor,
            ..RegistryDelta::default()
        };
        let mut room = self.rows() / 2;
        first.forgotten = cut(&mut self.forgotten, &mut room);
        first.services = cut(&mut self.services, &mut room);
        first.pull_outs = cut(&mut self.pull_outs, &mut room);
        first.pull_ins = cut(&mut self.pull_ins, &mut room);
        first.upserts = cut(&mut self.upserts, &mut room);
        first.deletes = cut(&mut self.deletes, &mut room);
        (first, self)
    }

    /// The key of each row: its table, and what it is found by there.
    pub fn keys(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let forgotten = self.forgotten.iter().map(|name| ("service", &**name));
        let services = self.services.iter().map(|one| ("service", &*one.service));
        let upserts = self.upserts.iter().map(|one| ("instance", &*one.identity));
        let deletes = self.deletes.iter().map(|identity| ("instance", &**identity));
        let pull_outs = self.pull_outs.iter().map(|one| ("pull_out", &*one.identity));
        let pull_ins = self.pull_ins.iter().map(|identity| ("pull_out", &**identity));
        forgotten.chain(services).chain(upserts).chain(deletes).chain(pull_outs).chain(pull_ins)
    }
}

/// Takes rows from the front, as many as there is room for.
fn cut<T>(rows: &mut Vec<T>, room: &mut usize) -> Vec<T> {
    let count = rows.len().min(*room);
    *room -= count;
    let rest = rows.split_off(count);
    std::mem::replace(rows, rest)
}

/// How much goes to the store in one set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetBound {
    /// Rows, at least one.
    pub rows: usize,
    /// Bytes of the rows. One larger row is a set of its own.
    pub bytes: usize,
}

impl SetBound {
    /// No bound.
    pub const NONE: SetBound = SetBound { rows: usize::MAX, bytes: usize::MAX };
}

/// Something that changed and is not written yet, in the order in which it goes to the store.
#[derive(Debug)]
pub(super) enum Unsaved {
    Forgotten(ServiceName),
    Service(usize),
    Instance(InstanceIdentity),
    PullOut(InstanceIdentity),
}

impl Registry {
    /// Whether the store has something to be told.
    pub fn is_dirty(&self) -> bool {
        !self.dirty_services.is_empty()
            || !self.dirty_forgotten.is_empty()
            || !self.dirty_instances.is_empty()
            || !self.dirty_pull_outs.is_empty()
    }

    /// Forgets what changed, where nobody keeps it.
    pub fn discard_changes(&mut self) {
        self.dirty_services.clear();
        self.dirty_forgotten.clear();
        self.dirty_instances.clear();
        self.dirty_pull_outs.clear();
        self.unsaved.clear();
    }

    /// Takes what changed and was not taken yet, up to a bound; what is beyond comes with the next
    /// call, as it is then. A thing that changed more than once is named once. An instance goes with
    /// its pull-out: what a kill between two sets leaves is true of each instance.
    pub fn take_delta(&mut self, bound: SetBound) -> RegistryDelta {
        let mut delta = RegistryDelta {
            epoch: self.epoch().as_str().to_owned(),
            version: self.version(),
            revision_floor: self.revision_floor,
            ..RegistryDelta::default()
        };
        let mut bytes = 0;
        while delta.rows() < bound.rows.max(1) && bytes < bound.bytes {
            if self.unsaved.is_empty() {
                self.line_up_unsaved();
            }
            match self.unsaved.pop_front() {
                None => break,
                Some(Unsaved::Forgotten(name)) => {
                    // It may have come again meanwhile.
                    if self.dirty_forgotten.remove(&name) {
                        bytes += name.as_str().len() + ROW_BYTES;
                        delta.forgotten.push(name.as_str().to_owned());
                    }
                }
                Some(Unsaved::Service(index)) => bytes += self.save_service(&mut delta, index),
                Some(Unsaved::Instance(identity) | Unsaved::PullOut(identity)) => {
                    bytes += self.save_instance(&mut delta, &identity);
                }
            }
        }
        delta
    }

    /// Marks as changed again what a set holds: it was not written.
    pub fn put_back(&mut self, delta: &RegistryDelta) {
        for name in delta.forgotten.iter().map(|name| ServiceName::of(name)) {
            match self.find_service(&name) {
                Some(index) => _ = self.dirty_services.insert(index),
                None => _ = self.dirty_forgotten.insert(name),
            }
        }
        for record in &delta.services {
            if let Some(index) = self.find_service(&ServiceName::of(&record.service)) {
                self.dirty_services.insert(index);
            }
        }
        let upserts = delta.upserts.iter().map(|one| &one.identity);
        for identity in upserts.chain(&delta.deletes) {
            self.dirty_instances.insert(InstanceIdentity::from_canonical(identity));
        }
        let pull_outs = delta.pull_outs.iter().map(|one| &one.identity);
        for identity in pull_outs.chain(&delta.pull_ins) {
            self.dirty_pull_outs.insert(InstanceIdentity::from_canonical(identity));
        }
    }

    /// Puts into an order what is marked as changed. The marks stay: they say what is still to do.
    fn line_up_unsaved(&mut self) {
        let forgotten = self.dirty_forgotten.iter().cloned().map(Unsaved::Forgotten);
        let services = self.dirty_services.iter().map(|&index| Unsaved::Service(index));
        let instances = self.dirty_instances.iter().cloned().map(Unsaved::Instance);
        let pull_outs = self.dirty_pull_outs.iter().cloned().map(Unsaved::PullOut);
        self.unsaved = forgotten.chain(services).chain(instances).chain(pull_outs).collect();
    }

    /// Adds a service's row, if its mark still stands. Returns its bytes.
    fn save_service(&mut self, delta: &mut RegistryDelta, index: usize) -> usize {
        if !self.dirty_services.remove(&index) {
            return 0;
        }
        let Some(service) = self.services.get(index) else { return 0 };
        delta.services.push(service.record());
        service.name.as_str().len() + ROW_BYTES
    }

    /// Adds the rows of an instance and of its pull-out, as far as their marks still stand. Returns
    /// their bytes.
    fn save_instance(&mut self, delta: &mut RegistryDelta, identity: &InstanceIdentity) -> usize {
        let (text, mut bytes) = (identity.as_str(), 0);
        if self.dirty_instances.remove(identity) {
            bytes += text.len() + ROW_BYTES;
            match self.find_member(identity) {
                Some(member) => {
                    let record = self.record_of(member);
                    bytes += record.service.len() + record.json.len();
                    delta.upserts.push(record);
                }
                None => delta.deletes.push(text.to_owned()),
            }
        }
        if self.dirty_pull_outs.remove(identity) {
            bytes += text.len() + ROW_BYTES;
            match self.pulled_out.by(identity) {
                Some(by) => {
                    bytes += by.bytes();
                    delta.pull_outs.push(PullOutRecord::new(identity, by));
                }
                None => delta.pull_ins.push(text.to_owned()),
            }
        }
        bytes
    }
}

/// What a row costs beside its texts, in bytes: numbers, quotes and commas.
const ROW_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Moment;
    use crate::id::Epoch;
    use crate::rng::Rng;
    use crate::state::registry::Settings;
    use crate::wire::instance::Instance;
    use std::collections::BTreeMap;

    const NOW: Moment = Moment::new(1_000, 0);

    fn registry() -> Registry {
        let settings = Settings {
            lease_ttl_ms: 20_000,
            self_protection_max_ms: 1,
            history_max: 8,
            instances_max: 10_000,
            services_max: 10_000,
            ..Settings::default()
        };
        Registry::new(settings, Epoch::new("e"), 0, NOW)
    }

    fn register(registry: &mut Registry, service: u64, instance: u64, chance: u64) {
        let text = format!(
            r#"{{"serviceId":"s{service}","instanceId":"i{instance}","metadata":{{"n":{chance}}}}}"#
        );
        let instance: Instance = serde_json::from_str(&text).unwrap();
        registry.register_alone(instance.register().unwrap(), NOW).unwrap();
        registry.settle(NOW);
    }

    /// What a database holds after sets, as texts.
    #[derive(Debug, Default, PartialEq, Eq)]
    struct Tables(BTreeMap<(&'static str, String), String>);

    impl Tables {
        fn write(&mut self, delta: &RegistryDelta) {
            for one in &delta.services {
                self.0.insert(("service", one.service.clone()), one.revision.to_string());
            }
            for one in &delta.upserts {
                let json = String::from_utf8(one.json.to_vec()).unwrap();
                self.0.insert(("instance", one.identity.clone()), json);
            }
            for one in &delta.pull_outs {
                self.0.insert(("pull_out", one.identity.clone()), one.operator.clone());
            }
            for name in &delta.forgotten {
                self.0.remove(&("service", name.clone()));
            }
            for identity in &delta.deletes {
                self.0.remove(&("instance", identity.clone()));
            }
            for identity in &delta.pull_ins {
                self.0.remove(&("pull_out", identity.clone()));
            }
        }
    }

    /// Sets of any size, some of which come back, some in halves, lead to the same tables as one set
    /// of everything at the end.
    #[test]
    fn cut_sets_add_up_to_the_state() {
        for seed in 0..40 {
            let mut rng = Rng::seeded(seed);
            let (mut registry, mut tables) = (registry(), Tables::default());
            for _ in 0..300 {
                let (service, instance) = (rng.below(4), rng.below(12));
                let identity =
                    InstanceIdentity::of("", &format!("s{service}"), &format!("i{instance}"));
                match rng.below(6) {
                    0 => registry.unregister(&identity, NOW),
                    1 => {
                        registry.operate(&identity, Some("ops".into()), NOW);
                    }
                    2 => _ = registry.operate(&identity, None, NOW),
                    3 => {
                        let bound = SetBound {
                            rows: 1 + usize::try_from(rng.below(8)).unwrap(),
                            bytes: 1 + usize::try_from(rng.below(2_000)).unwrap(),
                        };
                        let delta = registry.take_delta(bound);
                        assert!(delta.rows() <= bound.rows + 1, "{delta:?}");
                        match rng.below(3) {
                            0 => registry.put_back(&delta),
                            1 if delta.rows() > 1 => {
                                let rows = delta.rows();
                                let (first, second) = delta.halves();
                                assert_eq!(first.rows() + second.rows(), rows);
                                assert!(first.rows() > 0 && second.rows() > 0);
                                tables.write(&first);
                                registry.put_back(&second);
                            }
                            _ => tables.write(&delta),
                        }
                    }
                    _ => register(&mut registry, service, instance, rng.below(3)),
                }
                registry.settle(NOW);
            }
            while registry.is_dirty() {
                tables.write(&registry.take_delta(SetBound { rows: 5, bytes: usize::MAX }));
            }
            let mut expected = Tables::default();
            let (services, instances) = registry.counts();
            for index in 0..services {
                registry.dirty_services.insert(index);
            }
            let members: Vec<_> =
                registry.members.iter().map(|(_, one)| one.identity.clone()).collect();
            assert_eq!(members.len(), instances);
            registry.dirty_instances.extend(members);
            registry
                .dirty_pull_outs
                .extend(registry.pulled_out.iter().map(|(one, _)| one.clone()).collect::<Vec<_>>());
            expected.write(&registry.take_delta(SetBound::NONE));
            assert_eq!(tables, expected, "seed {seed}");
        }
    }

    #[test]
    fn a_large_row_goes_alone_and_nothing_is_left_out() {
        let mut registry = registry();
        for n in 0..10 {
            register(&mut registry, 0, n, 0);
        }
        let bound = SetBound { rows: 100, bytes: 1 };
        let sets: Vec<_> =
            std::iter::from_fn(|| registry.is_dirty().then(|| registry.take_delta(bound).rows()))
                .collect();
        assert_eq!(sets, [1; 11]);
    }
}
