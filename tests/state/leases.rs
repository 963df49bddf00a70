//! Leases at one node of several, entry by entry. What the nodes come to together is for the simulation.

use fanfare::internals::clock::Moment;
use fanfare::internals::id::{InstanceIdentity, ServiceName};
use fanfare::internals::limits;
use fanfare::internals::state::entry::{Bounds, Entry, LogItem, RegistryEntry};
use fanfare::internals::state::registry::commands::Heartbeat;
use fanfare::internals::state::snapshot::Snapshot;
use fanfare::internals::state::{State, lone_node};
use fanfare::internals::wire::instance::Registration;

use super::node::instance;

const STEP_MS: u64 = 20;
const LEASE_MS: u64 = 4_000;
const BOUNDS: Bounds =
    Bounds { instances_max: 8, services_max: 8, instances_bytes_max: usize::MAX };

fn registration() -> Registration {
    Registration { lease_ttl_ms: Some(LEASE_MS), ..instance("s0", "m0", "") }
}

/// One node, and a log that it alone reads.
struct Alone {
    state: State,
    now: Moment,
    log: Vec<LogItem>,
}

impl Alone {
    fn start() -> Alone {
        let now = Moment::new(1_000_000, 0);
        let mut alone = Alone { state: lone_node("a", None, now), now, log: Vec::new() };
        alone.contact(0);
        alone
    }

    fn contact(&mut self, newest: u64) {
        let alive = ["a", "b"].map(str::to_owned);
        self.state.on_nodes(&alive, (self.now.unix_ms, newest), self.now);
    }

    fn entries(&self) -> u64 {
        self.log.len() as u64
    }

    /// Begins anew from a snapshot and the entries behind it.
    fn install_snapshot(&mut self, snapshot: &Snapshot) {
        // A log that begins anew has none yet.
        let items = self.log.get(snapshot.sequence as usize..).unwrap_or_default().to_vec();
        self.state.install_snapshot(snapshot.clone(), items, self.now);
    }

    /// Reads an entry of a node, written some time ago.
    fn read(&mut self, node: &str, age_ms: u64, entry: RegistryEntry) {
        let entry = Entry::from(entry);
        let number = self.entries() + 1;
        let (position, at_ms) = (number.to_string(), self.now.unix_ms - age_ms);
        let item = LogItem { position, node: node.into(), number, at_ms, entry };
        self.log.push(item.clone());
        assert!(self.state.apply_logged(item, self.now).is_some());
    }

    fn register(&mut self, node: &str) -> InstanceIdentity {
        let sent = registration();
        self.read(node, 0, RegistryEntry::Register { list: vec![sent.clone()], bounds: BOUNDS });
        sent.identity
    }

    /// Whether a heartbeat is answered without the log.
    fn renews(&mut self, identity: &InstanceIdentity) -> bool {
        matches!(self.state.ask(Heartbeat(vec![identity.clone()]), self.now), Some(Ok(_)))
    }

    /// Lets time pass in contact. Returns whether the lease is proposed as overdue meanwhile.
    fn ends_within(&mut self, span_ms: u64) -> bool {
        for _ in 0..span_ms / STEP_MS {
            self.now.unix_ms += STEP_MS;
            self.contact(self.entries());
            self.state.tick(self.now);
            let entries = self.state.take_proposals(self.now);
            if entries
                .iter()
                .any(|entry| matches!(entry, Entry::Registry(RegistryEntry::Overdue(_))))
            {
                return true;
            }
        }
        false
    }
}

#[test]
fn the_owner_before_has_its_time_whatever_comes_after_the_takeover() {
    let more_ms = LEASE_MS + limits::CLUSTER_CONTACT_MS;
    let mut node = Alone::start();
    let identity = node.register("b");
    node.read("a", 0, RegistryEntry::Renew(vec![identity.clone()]));
    assert!(node.renews(&identity), "it is its own now");
    node.read("a", 3_000, RegistryEntry::Renew(vec![identity.clone()]));
    node.read("a", 3_000, RegistryEntry::RenewOne(identity.clone()));
    let again = RegistryEntry::Register { list: vec![registration()], bounds: BOUNDS };
    node.read("a", 3_000, again);
    assert!(!node.ends_within(more_ms - STEP_MS) && node.ends_within(1_000));

    let mut node = Alone::start();
    let identity = node.register("b");
    node.read("a", 0, RegistryEntry::TakeOverLeases(vec![identity]));
    assert!(!node.ends_within(more_ms - STEP_MS) && node.ends_within(1_000));
}

/// Before it began anew it may have proposed that a lease has run out, and that may still come.
#[test]
fn a_node_that_began_anew_renews_its_leases_through_the_log() {
    let mut node = Alone::start();
    let empty = node.state.snapshot();
    let identity = node.register("a");
    // Be its lease in the entries behind the snapshot, or in the snapshot.
    for snapshot in [Some(empty), None] {
        node.contact(node.entries());
        assert!(node.renews(&identity));
        let snapshot = snapshot.unwrap_or_else(|| node.state.snapshot());
        node.install_snapshot(&snapshot);
        assert!(!node.renews(&identity), "with {} entries in the snapshot", snapshot.sequence);
        node.read("a", 0, RegistryEntry::Renew(vec![identity.clone()]));
    }
    assert!(node.renews(&identity));
}

#[test]
fn the_owner_before_has_its_time_where_a_log_begins_behind_the_takeover() {
    let mut alone = Alone::start();
    let identity = alone.register("b");
    alone.read("a", 0, RegistryEntry::Renew(vec![identity]));
    // The log loses its end, and this node begins another with what it knows.
    let mut snapshot = alone.state.snapshot();
    snapshot.begin_log("another");
    alone.log.clear();
    alone.install_snapshot(&snapshot);
    assert!(!alone.ends_within(LEASE_MS + limits::CLUSTER_CONTACT_MS - STEP_MS));
    assert!(alone.ends_within(3 * STEP_MS));
}

/// A node that has read more of the log before may write to the next one what it decided by that.
#[test]
fn a_log_that_begins_anew_has_numbers_that_no_other_had() {
    let mut node = Alone::start();
    node.register("a");
    let before = node.state.snapshot();
    let begun = |epoch: &str| {
        let mut snapshot = before.clone();
        snapshot.begin_log(epoch);
        snapshot
    };
    let (one, other) = (begun("b"), begun("c"));
    assert!(one.sequence >= before.sequence + limits::LOG_GAP);
    assert_ne!(one.sequence, other.sequence, "two that begin with the same");
    assert!(one.instances.iter().all(|instance| instance.lease == one.sequence));
}

/// What the newest log tells says nothing about the one that the node follows.
#[test]
fn a_node_that_follows_the_log_before_is_cut_off() {
    let mut node = Alone::start();
    node.contact(node.entries());
    let mut newer = node.state.snapshot();
    newer.begin_log("another");
    for _ in 0..=limits::CLUSTER_CONTACT_MS / limits::CLUSTER_HEARTBEAT_MS {
        node.now.unix_ms += limits::CLUSTER_HEARTBEAT_MS;
        node.contact(newer.sequence);
    }
    assert!(node.state.registry.is_cut_off());
    node.log.clear();
    node.install_snapshot(&newer);
    node.contact(newer.sequence);
    assert!(!node.state.registry.is_cut_off());
}

/// It is as good as cut off: what it shows is as old.
#[test]
fn a_node_that_is_behind_for_long_is_cut_off() {
    let mut node = Alone::start();
    let identity = node.register("b");
    let is_degraded = |node: &mut Alone| {
        let view = node.state.registry.view(&ServiceName::of("s0"));
        assert_eq!(view.degraded, node.state.registry.is_cut_off());
        view.degraded
    };
    node.contact(node.entries());
    assert!(!is_degraded(&mut node));
    for _ in 0..=limits::CLUSTER_CONTACT_MS / limits::CLUSTER_HEARTBEAT_MS {
        assert!(!is_degraded(&mut node), "it may be that it is only late");
        node.now.unix_ms += limits::CLUSTER_HEARTBEAT_MS;
        node.contact(node.entries() + 1);
    }
    assert!(is_degraded(&mut node));
    let refused = node.state.ask(Heartbeat(vec![identity]), node.now);
    assert!(matches!(refused, Some(Err(_))), "{refused:?}");
    // It has read what was there a second ago, which there is more behind by now.
    node.read("b", 0, RegistryEntry::Renew(Vec::new()));
    node.contact(node.entries() + 1);
    assert!(!is_degraded(&mut node));
}

#[test]
fn a_node_that_is_behind_renews_nothing_by_itself() {
    let mut node = Alone::start();
    let identity = node.register("a");
    assert!(node.renews(&identity));
    let snapshot = node.state.snapshot();
    node.contact(node.entries() + 2);
    assert!(!node.renews(&identity), "somebody may have taken it over");
    // Nor does one that begins from a snapshot, until it has read what was there at its last contact.
    node.state.install_snapshot(snapshot, Vec::new(), node.now);
    node.read("a", 0, RegistryEntry::Renew(vec![identity.clone()]));
    assert!(!node.renews(&identity));
    node.read("b", 0, RegistryEntry::Renew(Vec::new()));
    assert!(node.renews(&identity));
}
