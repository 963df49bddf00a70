//! What all observers of all nodes have to agree on, and what they were promised.
//!
//! It knows nothing of the engine: only what was sent, what was answered and what was pushed.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

/// The instances of a service at a revision, by their ids.
pub type Picture = BTreeMap<String, Value>;

/// What became of an instance, as its one writer knows.
#[derive(Default)]
struct Member {
    /// The port it was last accepted with; none where it was last accepted to be gone.
    accepted: Option<u64>,
    /// What else it may be: requests that were not accepted may have been carried out.
    possible: BTreeMap<u64, Option<u64>>,
}

/// A lease that is kept by heartbeats.
struct Lease {
    ttl_ms: u64,
    /// When the last heartbeat was sent that was accepted.
    renewed_ms: u64,
}

#[derive(Default)]
pub struct Oracle {
    /// Whether the story is printed: `FANFARE_STORY=1`, for one seed.
    is_told: bool,
    pub now_ms: u64,
    /// Each with who saw it first.
    pictures: HashMap<(String, String, u64), (String, Picture)>,
    messages: BTreeMap<(String, String, u64), String>,
    members: BTreeMap<(String, String), Member>,
    leases: BTreeMap<(String, String), Lease>,
    asked: u64,
    pub changes: u64,
    pub expired: u64,
    pub published: u64,
}

impl Oracle {
    pub fn new(is_told: bool) -> Oracle {
        Oracle { is_told, ..Oracle::default() }
    }

    /// A line of the story, where it is told.
    pub fn note(&self, line: impl FnOnce() -> String) {
        if self.is_told {
            eprintln!("{:>6}: {}", self.now_ms % 1_000_000, line());
        }
    }

    /// A service at a revision looks the same to everyone.
    pub fn picture(
        &mut self,
        by: &str,
        (epoch, service, revision): (&str, &str, u64),
        picture: &Picture,
    ) {
        let place = (epoch.to_owned(), service.to_owned(), revision);
        let fresh = || (by.to_owned(), picture.clone());
        let (first, known) = self.pictures.entry(place).or_insert_with(fresh);
        let ports = |of: &Picture| -> BTreeMap<String, Value> {
            of.iter().map(|(id, one)| (id.clone(), one["port"].clone())).collect()
        };
        assert!(
            known == picture,
            "{service} at {revision} of {epoch} is {:?} to {first} and {:?} to {by}",
            ports(known),
            ports(picture)
        );
    }

    /// A place in a channel has one message.
    pub fn message(&mut self, channel: &str, epoch: &str, offset: u64, payload: &Value) {
        let place = (channel.to_owned(), epoch.to_owned(), offset);
        let text = payload.to_string();
        let known = self.messages.entry(place).or_insert_with(|| text.clone());
        assert_eq!(*known, text, "two messages of {channel} at {offset} of {epoch}");
    }

    pub fn published(&mut self, channel: &str, epoch: &str, offset: u64, payload: &Value) {
        self.published += 1;
        self.message(channel, epoch, offset, payload);
    }

    /// A writer asks for a change of its instance. Returns the request's number.
    pub fn ask(&mut self, service: &str, instance: &str, port: Option<u64>) -> u64 {
        self.asked += 1;
        let member = self.members.entry((service.to_owned(), instance.to_owned())).or_default();
        member.possible.insert(self.asked, port);
        self.asked
    }

    /// The change was accepted.
    pub fn accept(&mut self, service: &str, instance: &str, number: u64) {
        let key = (service.to_owned(), instance.to_owned());
        let member = self.members.get_mut(&key).expect("it was asked for");
        member.accepted = member.possible.remove(&number).expect("it is answered once");
        self.changes += 1;
    }

    /// The log has lost what nobody living knows: whatever was accepted may be gone.
    pub fn forgive(&mut self) {
        for member in self.members.values_mut() {
            let accepted = member.accepted;
            self.asked += 2;
            member.possible.extend([(self.asked - 1, accepted), (self.asked, None)]);
        }
        // What was there before may be there again.
        self.leases.clear();
        for ((_, service, _), (_, picture)) in &self.pictures {
            for (instance, value) in picture {
                let key = (service.clone(), instance.clone());
                if let Some(member) = self.members.get_mut(&key) {
                    self.asked += 1;
                    member.possible.insert(self.asked, value["port"].as_u64());
                }
            }
        }
        self.pictures.clear();
    }

    /// Compares a picture at a quiet moment with what was accepted.
    pub fn judge_quiet(&self, service: &str, picture: &Picture) {
        for ((_, instance), member) in self.members.iter().filter(|((name, _), _)| name == service)
        {
            let port = picture.get(instance).and_then(|value| value["port"].as_u64());
            assert!(
                port == member.accepted || member.possible.values().any(|one| *one == port),
                "{service}/{instance}: {port:?} is there, {:?} was accepted, {:?} is possible",
                member.accepted,
                member.possible
            );
        }
        for instance in picture.keys() {
            assert!(!instance.starts_with("short"), "{service}/{instance} has not expired");
        }
    }

    pub fn renewed(&mut self, service: &str, instance: &str, ttl_ms: u64, sent_ms: u64) {
        let key = (service.to_owned(), instance.to_owned());
        self.leases.insert(key, Lease { ttl_ms, renewed_ms: sent_ms });
    }

    /// A writer hears that its lease has run out.
    pub fn expires(&self, service: &str, instance: &str) {
        let key = (service.to_owned(), instance.to_owned());
        if let Some(lease) = self.leases.get(&key) {
            let age_ms = self.now_ms - lease.renewed_ms;
            assert!(
                age_ms >= lease.ttl_ms,
                "{service}/{instance} expires {age_ms} ms after a heartbeat"
            );
        }
    }
}
