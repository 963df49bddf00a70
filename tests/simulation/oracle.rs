//! What all observers and clients of all nodes have to agree on, and what they were promised.
//!
//! It knows nothing of the engine: only what was asked, what was answered and what was pushed.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::rc::Rc;

use serde_json::Value;

/// The instances of a service at a revision, by their ids.
pub type Picture = BTreeMap<Rc<str>, Rc<Value>>;

/// A revision of a service: its epoch and its number.
pub type Place = (Rc<str>, u64);

/// What a service looks like at a revision, as it was shown first.
struct Shown {
    by: Rc<str>,
    at_ms: u64,
    picture: Picture,
}

type Revisions = BTreeMap<u64, Shown>;

/// Where somebody stands with a service.
#[derive(Clone)]
pub struct Position {
    pub epoch: Rc<str>,
    pub revision: u64,
    pub picture: Picture,
    pub degraded: bool,
}

impl Position {
    /// The place that a frame names, without a picture.
    pub fn of(frame: &Value) -> Position {
        Position {
            epoch: frame["epoch"].as_str().expect("an epoch").into(),
            revision: frame["revision"].as_u64().expect("a revision"),
            picture: Picture::new(),
            degraded: frame["degraded"].as_bool().expect("the mark"),
        }
    }
}

/// Something that one writer at a time changes, as its writers know.
struct Fact<T> {
    /// What was accepted last, and when that was heard.
    accepted: T,
    accepted_ms: u64,
    /// What was accepted before, oldest first.
    earlier: Vec<(u64, T)>,
    /// What else it may be: requests that were not accepted may have been carried out.
    possible: BTreeMap<u64, T>,
}

impl<T: Clone + Default + PartialEq> Default for Fact<T> {
    fn default() -> Fact<T> {
        Fact {
            accepted: T::default(),
            accepted_ms: 0,
            earlier: Vec::new(),
            possible: BTreeMap::new(),
        }
    }
}

impl<T: Clone + Default + PartialEq> Fact<T> {
    fn accept(&mut self, number: u64, now_ms: u64) {
        let value = self.possible.remove(&number).expect("it is answered once");
        let before = std::mem::replace(&mut self.accepted, value);
        self.earlier.push((std::mem::replace(&mut self.accepted_ms, now_ms), before));
    }

    /// What was accepted since then may be lost.
    fn lose_since(&mut self, ms: u64, number: &mut u64) {
        while self.accepted_ms >= ms
            && let Some((at_ms, before)) = self.earlier.pop()
        {
            *number += 1;
            let lost = std::mem::replace(&mut self.accepted, before);
            self.possible.insert(*number, lost);
            self.accepted_ms = at_ms;
        }
    }

    fn may_be(&self, value: &T) -> bool {
        self.accepted == *value || self.possible.values().any(|one| one == value)
    }

    /// At a quiet moment everyone sees what it is.
    fn settle(&mut self, value: T, now_ms: u64) {
        (self.accepted, self.accepted_ms) = (value, now_ms);
        self.earlier.clear();
        self.possible.clear();
    }
}

/// A lease that is kept by heartbeats.
struct Lease {
    ttl_ms: u64,
    /// When the last heartbeat was sent that was accepted.
    renewed_ms: u64,
}

/// An instance: its service and its id.
pub type Key = (String, String);

#[derive(Default)]
pub struct Oracle {
    /// Whether the story is printed: `FANFARE_STORY=1`, for one seed.
    is_told: bool,
    pub now_ms: u64,
    trace: DefaultHasher,
    /// By epoch and service.
    pictures: HashMap<(Rc<str>, Rc<str>), Revisions>,
    messages: BTreeMap<(String, String, u64), String>,
    /// The port that an instance was accepted with; none where it is gone.
    members: BTreeMap<Key, Fact<Option<u64>>>,
    /// Whether an operator took an instance out.
    pull_outs: BTreeMap<Key, Fact<bool>>,
    leases: BTreeMap<Key, Lease>,
    /// Where a node has told of instances that they have expired.
    expired_at: BTreeMap<Key, Place>,
    /// What was there directly before an instance had a port; ports are not used twice.
    before: HashMap<u64, Option<u64>>,
    asked: u64,
    pub changes: u64,
    pub expired: u64,
    pub published: u64,
    pub swaps: u64,
}

impl Oracle {
    pub fn new(is_told: bool) -> Oracle {
        Oracle { is_told, ..Oracle::default() }
    }

    /// Notes something that was sent to somebody.
    pub fn trace(&mut self, bytes: &[u8]) {
        (self.now_ms, bytes).hash(&mut self.trace);
    }

    /// A hash of all that was sent.
    pub fn traced(&self) -> u64 {
        self.trace.finish()
    }

    /// A line of the story, where it is told.
    pub fn note(&self, line: impl FnOnce() -> String) {
        if self.is_told {
            eprintln!("{:>6}: {}", self.now_ms % 1_000_000, line());
        }
    }

    /// A node shows a service: at one revision it looks the same everywhere.
    pub fn show(&mut self, by: &Rc<str>, service: &Rc<str>, at: &Position) {
        let of_service =
            self.pictures.entry((Rc::clone(&at.epoch), Rc::clone(service))).or_default();
        let at_ms = self.now_ms;
        let fresh = || Shown { by: Rc::clone(by), at_ms, picture: at.picture.clone() };
        let known = of_service.entry(at.revision).or_insert_with(fresh);
        assert!(
            known.picture == at.picture,
            "{service} at {} of {} is {:?} at {} and {:?} at {by}",
            at.revision,
            at.epoch,
            ports(&known.picture),
            known.by,
            ports(&at.picture)
        );
    }

    /// The picture at a revision, where a node has shown it.
    pub fn find(&self, epoch: &Rc<str>, service: &Rc<str>, revision: u64) -> Option<Picture> {
        if revision == 0 {
            return Some(Picture::new());
        }
        self.shown(epoch, service, revision).map(|shown| shown.picture.clone())
    }

    /// Whether no node has shown that revision or a later one: a snapshot shows one without those before.
    pub fn is_newest(&self, epoch: &Rc<str>, service: &Rc<str>, revision: u64) -> bool {
        let of_service = self.pictures.get(&(Rc::clone(epoch), Rc::clone(service)));
        of_service.is_none_or(|shown| shown.range(revision..).next().is_none())
    }

    fn shown(&self, epoch: &Rc<str>, service: &Rc<str>, revision: u64) -> Option<&Shown> {
        self.pictures.get(&(Rc::clone(epoch), Rc::clone(service)))?.get(&revision)
    }

    /// When a node was the first to show a revision.
    pub fn told_ms(&self, epoch: &Rc<str>, service: &Rc<str>, revision: u64) -> Option<u64> {
        self.shown(epoch, service, revision).map(|shown| shown.at_ms)
    }

    /// The picture at a revision that somebody knows. Panics where no node has shown it.
    pub fn picture(&self, epoch: &Rc<str>, service: &Rc<str>, revision: u64) -> Picture {
        let known = self.find(epoch, service, revision);
        known.unwrap_or_else(|| panic!("{service} was never at {revision} of {epoch}"))
    }

    /// What a client makes of a service is what a node has shown.
    pub fn check(&self, by: &str, service: &Rc<str>, at: &Position) {
        let known = self.picture(&at.epoch, service, at.revision);
        assert!(
            known == at.picture,
            "{service} at {} of {} is {:?} and {:?} to {by}",
            at.revision,
            at.epoch,
            ports(&known),
            ports(&at.picture)
        );
    }

    /// A node that carries out a change one by one saw which port followed which.
    pub fn follows(&mut self, change: &Value, before: Option<u64>) {
        if let Some(port) = change["instance"]["port"].as_u64()
            && change["changeType"] != "delete"
        {
            self.before.entry(port).or_insert(before);
        }
    }

    /// A conditional registration is accepted. The instance was what its writer believed.
    pub fn swapped(&mut self, port: u64, expected: Option<u64>) {
        self.swaps += 1;
        if let Some(before) = self.before.get(&port) {
            assert_eq!(*before, expected, "port {port} replaced another one than was believed");
        }
    }

    /// A place in a channel has one message.
    pub fn message(&mut self, channel: &str, epoch: &str, offset: u64, payload: &Value) {
        let place = (channel.to_owned(), epoch.to_owned(), offset);
        let text = payload.to_string();
        let known = self.messages.entry(place).or_insert_with(|| text.clone());
        assert_eq!(*known, text, "two messages of {channel} at {offset} of {epoch}");
    }

    /// A writer asks for a change of its instance. Returns the request's number.
    pub fn ask(&mut self, key: Key, port: Option<u64>) -> u64 {
        self.asked += 1;
        self.members.entry(key).or_default().possible.insert(self.asked, port);
        self.asked
    }

    /// The change was accepted. Whatever its writer had asked for before is decided with it.
    pub fn accept(&mut self, key: &Key, number: u64) {
        let member = self.members.get_mut(key).expect("it was asked for");
        member.accept(number, self.now_ms);
        member.possible.retain(|&other, _| other > number);
        self.changes += 1;
    }

    /// An operator asks for a decision. Returns the request's number.
    pub fn ask_pull_out(&mut self, key: Key, is_out: bool) -> u64 {
        self.asked += 1;
        self.pull_outs.entry(key).or_default().possible.insert(self.asked, is_out);
        self.asked
    }

    /// The decision was accepted: none of the node's followers is shown the instance any more.
    pub fn accept_pull_out(&mut self, key: &Key, number: u64, is_shown: bool) {
        let decision = self.pull_outs.get_mut(key).expect("it was asked for");
        decision.accept(number, self.now_ms);
        let is_certain = decision.possible.is_empty();
        assert!(!(is_certain && decision.accepted && is_shown), "{key:?} is pulled out and shown");
        self.changes += 1;
    }

    /// There is no such instance, so nothing was decided.
    pub fn reject_pull_out(&mut self, key: &Key, number: u64) {
        self.pull_outs.get_mut(key).expect("it was asked for").possible.remove(&number);
    }

    /// An instance that operators may decide about.
    pub fn some_member(&self, chance: u64) -> Option<Key> {
        let count = self.members.len() as u64;
        (count > 0).then(|| {
            let place = usize::try_from(chance % count).expect("few");
            self.members.keys().nth(place).expect("it is there").clone()
        })
    }

    /// The log has lost what no living node knows: whatever was accepted may be gone. `is_known` says
    /// of a service and a revision of the log's epoch whether a living node shows it.
    pub fn forgive(&mut self, lost_epoch: &str, is_known: impl Fn(&str, u64) -> bool) {
        for member in self.members.values_mut() {
            member.lose_since(0, &mut self.asked);
            self.asked += 1;
            member.possible.insert(self.asked, None);
        }
        for decision in self.pull_outs.values_mut() {
            self.asked += 2;
            decision.possible.extend([(self.asked - 1, true), (self.asked, false)]);
        }
        self.leases.clear();
        for ((epoch, service), revisions) in &mut self.pictures {
            if **epoch == *lost_epoch {
                revisions.retain(|&revision, _| is_known(service, revision));
            }
        }
    }

    /// A node without others ended. Its database has what was accepted before `durable_ms`.
    pub fn lose_since(&mut self, durable_ms: u64) {
        let asked = &mut self.asked;
        self.members.values_mut().for_each(|member| member.lose_since(durable_ms, asked));
        self.pull_outs.values_mut().for_each(|decision| decision.lose_since(durable_ms, asked));
        // Each lease begins again.
        self.leases.clear();
        self.expired_at.clear();
    }

    /// Compares a service at a quiet moment with what was accepted.
    pub fn judge_quiet(&mut self, service: &str, at: &Position) {
        let now_ms = self.now_ms;
        for (key, member) in self.members.iter_mut().filter(|((name, _), _)| name == service) {
            let port = at.picture.get(&*key.1).and_then(|value| value["port"].as_u64());
            let decision = self.pull_outs.get(key);
            let may_be_out = decision.is_some_and(|decision| decision.may_be(&true));
            let may_be_in = decision.is_none_or(|decision| decision.may_be(&false));
            let is_right = (may_be_in && member.may_be(&port)) || (may_be_out && port.is_none());
            assert!(
                is_right,
                "{key:?}: {port:?} is there, {:?} was accepted, {:?} is possible; pulled out: {:?}",
                member.accepted,
                member.possible,
                decision.map(|decision| (&decision.accepted, &decision.possible))
            );
            // What is out is not to be seen.
            if !may_be_out {
                member.settle(port, now_ms);
            }
        }
        for (key, decision) in &mut self.pull_outs {
            let is_shown = key.0 == service && at.picture.contains_key(&*key.1);
            if is_shown {
                decision.settle(false, now_ms);
            }
        }
        for instance in at.picture.keys() {
            let is_late = instance.starts_with("short") && !at.degraded;
            assert!(!is_late, "{service}/{instance} has not expired");
        }
    }

    /// A heartbeat or a registration that was sent then was accepted.
    pub fn renewed(&mut self, key: Key, ttl_ms: u64, sent_ms: u64) {
        let lease = self.leases.entry(key).or_insert(Lease { ttl_ms, renewed_ms: sent_ms });
        lease.renewed_ms = lease.renewed_ms.max(sent_ms);
    }

    /// A program has its answer: its lease is renewed, and counts from now. Its node shows the service so.
    pub fn keeps(&mut self, key: Key, ttl_ms: u64, at: &Position) {
        assert!(at.picture.contains_key(&*key.1), "{key:?} is renewed and not there");
        if let Some((epoch, revision)) = self.expired_at.get(&key) {
            let is_behind = *epoch == at.epoch && *revision > at.revision;
            assert!(!is_behind, "{key:?} is renewed and has expired elsewhere");
        }
        self.renewed(key, ttl_ms, self.now_ms);
    }

    /// A node is the first to tell that a lease has run out.
    pub fn expires(&mut self, service: &str, instance: &str, place: Place) {
        self.expired += 1;
        let key = (service.to_owned(), instance.to_owned());
        if let Some(lease) = self.leases.get(&key) {
            let age_ms = self.now_ms - lease.renewed_ms;
            assert!(
                age_ms >= lease.ttl_ms,
                "{service}/{instance} expires {age_ms} ms after a heartbeat"
            );
        }
        self.expired_at.insert(key, place);
    }
}

/// The ports in a picture, for a failure's report.
fn ports(of: &Picture) -> Vec<(&str, &Value)> {
    of.iter().map(|(id, one)| (&**id, &one["port"])).collect()
}

/// Applies one change as a strict client does. Returns the port that was there before.
pub fn apply(picture: &mut Picture, change: &Value) -> Option<u64> {
    let instance = &change["instance"];
    let id: Rc<str> = instance["instanceId"].as_str().expect("an id").into();
    let before = match change["changeType"].as_str() {
        Some("delete") => picture.remove(&id),
        _ => picture.insert(id, Rc::new(instance.clone())),
    };
    assert_eq!(change["changeType"] == "new", before.is_none(), "twice or out of order: {change}");
    before.and_then(|before| before["port"].as_u64())
}

/// The picture in a frame's `instances`.
pub fn picture_of(instances: &Value) -> Picture {
    let instances = instances.as_array().expect("instances");
    let by_id = |instance: &Value| {
        (instance["instanceId"].as_str().expect("an id").into(), Rc::new(instance.clone()))
    };
    let picture: Picture = instances.iter().map(by_id).collect();
    assert_eq!(picture.len(), instances.len(), "an instance twice");
    picture
}
