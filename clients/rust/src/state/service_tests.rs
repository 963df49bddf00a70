//! A service table against a registry of a few lines, with lost frames, cut connections and servers
//! that start again, from seeds.

use std::collections::VecDeque;
use std::task::Waker;

use serde_json::{Value, json};

use super::*;
use crate::event::ChangeType;
use fastrand::Rng;

const SERVICES: u64 = 3;
const STEPS: usize = 400;
const EVENTS_MAX: usize = 5;

/// One service of the registry.
#[derive(Default)]
struct Truth {
    revision: u64,
    /// By name, with the value of its description.
    instances: BTreeMap<String, u64>,
    /// The change that led to each revision, from the first one.
    history: Vec<Value>,
}

/// A frame on its way to the client, in order.
enum Sent {
    Subscribed(ServiceName, Value),
    SubscribedToAll,
    Change(Value),
    Snapshot(Value),
}

struct World {
    rng: Rng,
    epoch: u64,
    services: BTreeMap<ServiceName, Truth>,
    /// Services whose last frame was lost.
    lost: BTreeSet<ServiceName>,
    followed: BTreeSet<ServiceName>,
    is_all_followed: bool,
    is_listing_asked: bool,
    /// The list on its way over HTTP: it may be overtaken by frames, and overtake them.
    listing: Option<Vec<(ServiceName, Value)>>,
    way: VecDeque<Sent>,
    table: ServiceTable,
}

fn frame(value: &Value) -> Frame {
    Frame::decode(&value.to_string()).expect("a frame")
}

fn described(service: &ServiceName, name: &str, version: u64) -> Value {
    json!({"serviceId": service.as_str(), "instanceId": name, "port": version})
}

impl World {
    fn new(seed: u64) -> World {
        World {
            rng: Rng::with_seed(seed),
            epoch: 1,
            services: BTreeMap::new(),
            lost: BTreeSet::new(),
            followed: BTreeSet::new(),
            is_all_followed: false,
            is_listing_asked: false,
            listing: None,
            way: VecDeque::new(),
            table: ServiceTable::default(),
        }
    }

    fn any_service(&mut self) -> ServiceName {
        ServiceName::of(&format!("s{}", self.rng.u64(..SERVICES)))
    }

    fn whole(&self, service: &ServiceName) -> Value {
        let empty = Truth::default();
        let truth = self.services.get(service).unwrap_or(&empty);
        let instances = truth.instances.iter();
        let instances: Vec<Value> =
            instances.map(|(name, version)| described(service, name, *version)).collect();
        json!({
            "type": "service_snapshot", "service_id": service.as_str(),
            "epoch": format!("e{}", self.epoch), "revision": truth.revision, "degraded": false,
            "instances": instances,
        })
    }

    fn changes(&self, service: &ServiceName, from: u64) -> Value {
        let truth = &self.services[service];
        let from_index = usize::try_from(from).expect("small");
        json!({
            "type": "service_change", "service_id": service.as_str(),
            "epoch": format!("e{}", self.epoch), "from": from, "revision": truth.revision,
            "changes": &truth.history[from_index..], "degraded": false,
        })
    }

    /// An instance comes, goes or changes.
    fn mutate(&mut self, service: &ServiceName, is_lost: bool) {
        let name = format!("i{}", self.rng.u64(..6));
        let is_delete = self.rng.u64(..3) == 0;
        let version = self.rng.u64(..1_000);
        let truth = self.services.entry(service.clone()).or_default();
        let before = truth.instances.get(&name).copied();
        let (kind, version) = match before {
            Some(version) if is_delete => ("delete", version),
            Some(_) => ("change", version),
            None => ("new", version),
        };
        if kind == "delete" {
            truth.instances.remove(&name);
        } else {
            truth.instances.insert(name.clone(), version);
        }
        truth.revision += 1;
        let instance = described(service, &name, version);
        truth.history.push(json!({"instance": instance, "changeType": kind}));
        let from = truth.revision - 1;
        if is_lost {
            self.lost.insert(service.clone());
        } else {
            self.lost.remove(service);
        }
        if (self.is_all_followed || self.followed.contains(service)) && !is_lost {
            self.way.push_back(Sent::Change(self.changes(service, from)));
        }
    }

    /// The server answers the table's requests.
    fn serve(&mut self) {
        while let Some(request) = self.table.next_request() {
            match request {
                ServiceRequest::Subscribe { service, since } => {
                    self.followed.insert(service.clone());
                    let mut answer = self.whole(&service);
                    let now = answer["revision"].as_u64().expect("a revision");
                    let reaches = since.as_ref().is_some_and(|(epoch, revision)| {
                        **epoch == *format!("e{}", self.epoch) && *revision <= now
                    });
                    let since = since.map(|(_, revision)| revision);
                    match since {
                        Some(revision) if reaches && self.services.contains_key(&service) => {
                            answer["recovered"] = json!(true);
                            answer.as_object_mut().expect("an object").remove("instances");
                            self.way.push_back(Sent::Subscribed(service.clone(), answer));
                            if revision < now {
                                let missed = self.changes(&service, revision);
                                self.way.push_back(Sent::Change(missed));
                            }
                        }
                        _ => self.way.push_back(Sent::Subscribed(service, answer)),
                    }
                }
                ServiceRequest::Unsubscribe(service) => _ = self.followed.remove(&service),
                ServiceRequest::SubscribeAll => {
                    self.is_all_followed = true;
                    self.way.push_back(Sent::SubscribedToAll);
                }
                ServiceRequest::UnsubscribeAll => self.is_all_followed = false,
            }
        }
    }

    fn deliver_one(&mut self) -> bool {
        let Some(sent) = self.way.pop_front() else { return false };
        match sent {
            Sent::Subscribed(service, value) => self.table.subscribed(&service, frame(&value)),
            Sent::SubscribedToAll => self.is_listing_asked = true,
            Sent::Change(value) => {
                let service = ServiceName::of(value["service_id"].as_str().expect("a name"));
                self.table.change(service, frame(&value));
            }
            Sent::Snapshot(value) => {
                let service = ServiceName::of(value["service_id"].as_str().expect("a name"));
                self.table.replace(&service, frame(&value));
            }
        }
        true
    }

    /// The list is made, or it arrives.
    fn list(&mut self) {
        if let Some(listing) = self.listing.take() {
            let all = listing.into_iter();
            return self.table.list(all.map(|(name, value)| (name, frame(&value))).collect());
        }
        if std::mem::take(&mut self.is_listing_asked) {
            let names: Vec<ServiceName> = self.services.keys().cloned().collect();
            let whole = |name: ServiceName| (name.clone(), self.whole(&name));
            self.listing = Some(names.into_iter().map(whole).collect());
        }
    }

    fn disconnect(&mut self) {
        self.way.clear();
        self.followed.clear();
        self.is_all_followed = false;
        self.is_listing_asked = false;
        self.listing = None;
        self.table.disconnect();
    }

    /// Another server, or the same one with less state.
    fn restart(&mut self) {
        self.disconnect();
        self.epoch += 1;
        if self.rng.u64(..2) == 0 {
            self.services.clear();
        }
        for truth in self.services.values_mut() {
            truth.revision = 0;
            truth.history.clear();
            // The history of a new epoch begins with an empty service.
            truth.instances.clear();
        }
    }

    /// Delivers every frame, and one more change of each service that lost its last one: the client
    /// cannot know of that one before. The others have to be right without.
    fn settle(&mut self) {
        for service in std::mem::take(&mut self.lost) {
            self.mutate(&service, false);
        }
        for _ in 0..1_000 {
            self.serve();
            let is_listed = self.listing.is_none() && !self.is_listing_asked;
            if self.rng.u64(..2) == 0 {
                self.list();
                continue;
            }
            if !self.deliver_one() && is_listed && !self.table.has_due() {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    fn check(&mut self, service: &ServiceName, what: &str) {
        let Some(truth) = self.services.get(service) else { return };
        let state = self.table.state(service).unwrap_or_else(|| panic!("{what}: {service}"));
        let name = |one: &Arc<Instance>| {
            (one.instance_id.as_deref().unwrap_or_default().to_owned(), one.port)
        };
        let known: Vec<_> = state.instances.iter().map(name).collect();
        let versions = truth.instances.iter();
        let version = |version: &u64| u16::try_from(*version).ok();
        let real: Vec<_> = versions.map(|(name, it)| (name.clone(), version(it))).collect();
        assert_eq!((state.revision, known), (truth.revision, real), "{what}: {service}");
        assert!(self.table.is_live(Some(service)), "{what}: {service} is kept up to date");
    }
}

/// The picture of a reader of a feed.
#[derive(Default)]
struct Reader(BTreeMap<ServiceName, Known>);

/// The epoch, the revision and the instances.
type Known = (Box<str>, u64, BTreeMap<Box<str>, Option<u16>>);

impl Reader {
    fn read(&mut self, table: &mut ServiceTable, key: u64, most: u64) {
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..most {
            match table.poll(key, &mut cx) {
                Poll::Ready(Some(ServiceEvent::Snapshot(state))) => {
                    let all = state.instances.iter();
                    let all = all.map(|one| (one.instance_id.clone().expect("a name"), one.port));
                    let whole = (state.epoch.clone(), state.revision, all.collect());
                    self.0.insert(state.service.clone(), whole);
                }
                Poll::Ready(Some(ServiceEvent::Changed(change))) => {
                    let start = || (change.epoch.clone(), 0, BTreeMap::new());
                    let known = self.0.entry(change.service.clone()).or_insert_with(start);
                    if change.from == 0 && known.0 != change.epoch {
                        *known = start();
                    }
                    assert_eq!((&known.0, known.1), (&change.epoch, change.from), "no gap");
                    known.1 = change.revision;
                    for one in &change.changes {
                        let name = one.instance.instance_id.clone().expect("a name");
                        match one.change_type {
                            ChangeType::Delete => _ = known.2.remove(&name),
                            _ => _ = known.2.insert(name, one.instance.port),
                        }
                    }
                }
                Poll::Ready(other) => panic!("{other:?}"),
                Poll::Pending => return,
            }
        }
    }
}

fn play(seed: u64, wants_all: bool) {
    let mut world = World::new(seed);
    let mut reader = Reader::default();
    world.table.open_feed(1, None, EVENTS_MAX);
    let wanted: Vec<ServiceName> = if wants_all {
        world.table.want(None);
        (0..SERVICES).map(|number| ServiceName::of(&format!("s{number}"))).collect()
    } else {
        vec![ServiceName::of("s0"), ServiceName::of("s1")]
    };
    // One of them on its own as well, if all are wanted.
    for service in if wants_all { &wanted[..1] } else { &wanted[..] } {
        world.table.want(Some(service));
    }
    for step in 0..STEPS {
        match world.rng.u64(..100) {
            0..40 => {
                let service = world.any_service();
                let is_lost = world.rng.u64(..8) == 0;
                world.mutate(&service, is_lost);
            }
            40..75 => _ = world.deliver_one(),
            75..88 => world.serve(),
            88..90 => world.list(),
            90..92 => {}
            92..94 => {
                let service = world.any_service();
                let is_idle = world.way.is_empty();
                if world.followed.contains(&service) && is_idle {
                    let whole = world.whole(&service);
                    world.way.push_back(Sent::Snapshot(whole));
                }
            }
            94..96 => world.disconnect(),
            96..97 => world.restart(),
            _ => {
                let most = world.rng.u64(..4);
                reader.read(&mut world.table, 1, most);
            }
        }
        if step % 100 == 99 {
            world.settle();
            for service in &wanted {
                world.check(service, &format!("seed {seed}, step {step}"));
            }
            reader.read(&mut world.table, 1, u64::MAX);
            for service in &wanted {
                let Some(state) = world.table.state(service) else { continue };
                let (epoch, revision, known) = &reader.0[service];
                let all = state.instances.iter();
                let all = all.map(|one| (one.instance_id.clone().expect("a name"), one.port));
                assert_eq!((epoch, *revision), (&state.epoch, state.revision), "seed {seed}");
                assert_eq!(*known, all.collect(), "seed {seed}, step {step}: events add up");
            }
        }
    }
}

#[test]
fn single_services_agree_with_the_registry_whatever_happens() {
    (0..100).for_each(|seed| play(seed, false));
}

#[test]
fn all_services_agree_with_the_registry_whatever_happens() {
    (0..100).for_each(|seed| play(seed, true));
}
