//! Lists of every instance, pull-outs among them, and conditional registrations.

use fanfare::internals::clock::Moment;
use fanfare::internals::id::ServiceName;
use fanfare::internals::state::registry::Settings;
use fanfare::internals::state::registry::commands::{
    FindInstance, ListInstances, Operate, Operation, PutInstance, RenewInstance,
};
use fanfare::internals::state::registry::listing::{InstanceListing, Step};
use fanfare::internals::state::registry::pull_outs::Pull;
use fanfare::internals::state::registry::replies::{FoundInstance, PutReply};
use fanfare::internals::wire::instance::Registration;

use super::node::{Node, at, in_region, instance};

const WINDOW_MS: u64 = 180_000;

fn node() -> Node {
    let settings = Settings { lease_ttl_ms: 10_000_000, ..Settings::default() };
    let mut node = Node::with(settings, at(1_000));
    node.state.registry.keep_recent(WINDOW_MS, at(1_000));
    node
}

fn one(url: &str) -> Registration {
    instance("s", "a", url)
}

fn list(node: &mut Node, ms: u64) -> InstanceListing {
    node.ask(ListInstances, at(ms)).expect("a list")
}

fn is_pulled_out(node: &mut Node, ms: u64) -> bool {
    list(node, ms).services[0].instances[0].is_pulled_out
}

fn steps(node: &mut Node, ms: u64) -> Vec<Step> {
    list(node, ms).recent.iter().map(|one| one.step).collect()
}

fn find(service: &str, name: &str) -> FindInstance {
    FindInstance { service: ServiceName::of(service), instance: name.into() }
}

fn put(node: &mut Node, registration: Registration, pull: Pull, now: Moment) -> PutReply {
    let found = node.ask(find("s", "a"), now).expect("it is answered");
    let expected = found.map(|found| found.instance.json);
    node.ask(PutInstance { registration, expected, pull }, now).expect("the log takes it")
}

#[test]
fn each_difference_is_an_edition_and_is_recent_once() {
    let mut node = node();
    let start = node.state.registry.listing_version();
    assert!(node.register(one("1"), at(2_000)) && node.register(one("1"), at(3_000)));
    assert_eq!(node.state.registry.listing_version(), start + 1, "a renewal is no difference");
    assert_eq!(steps(&mut node, 3_000), [Step::Added]);
    assert!(node.register(one("2"), at(4_000)));
    assert_eq!(steps(&mut node, 4_000), [Step::Modified]);
    node.unregister(&one("2").identity, at(5_000));
    let listing = list(&mut node, 5_000);
    assert!(listing.services.is_empty() && listing.complete_from_ms == 0);
    assert_eq!(listing.recent[0].step, Step::Deleted);
    assert!(node.register(one("3"), at(6_000)));
    assert_eq!(steps(&mut node, 6_000), [Step::Modified], "who missed its end has the old");
    assert_eq!(steps(&mut node, 6_000 + WINDOW_MS), [Step::Modified]);
    assert_eq!(steps(&mut node, 6_001 + WINDOW_MS), []);
    assert_eq!(node.state.registry.listing_version(), start + 4);
}

#[test]
fn what_is_pulled_out_is_listed_and_its_changes_count() {
    let mut node = node();
    let identity = one("1").identity;
    assert!(node.register(one("1"), at(1_500)));
    let operation = Operation::PullOut { operator: "ann".into() };
    let operate = Operate { identity: identity.clone(), operation };
    assert!(node.ask(operate, at(1_600)).expect("the log takes it"));
    node.unregister(&identity, at(1_700));
    node.announcements.clear();
    let done = |reply| matches!(reply, PutReply::Done);
    assert!(done(put(&mut node, one("1"), Pull::OutItself, at(2_000))));
    assert!(node.announcements.is_empty(), "nobody has to hear of it");
    let before = node.state.registry.listing_version();
    assert!(done(put(&mut node, one("2"), Pull::InIfItself, at(3_000))));
    assert!(is_pulled_out(&mut node, 3_000), "not its own to end");
    assert_eq!(node.state.registry.listing_version(), before + 1);
    assert!(done(put(&mut node, one("2"), Pull::In, at(4_000))));
    assert!(!is_pulled_out(&mut node, 4_000));
    assert_eq!(node.announcements.len(), 1, "it comes, as it is now");
}

#[test]
fn who_took_itself_out_comes_back_and_leaves_nothing() {
    let mut node = node();
    put(&mut node, one("1"), Pull::OutItself, at(2_000));
    assert!(is_pulled_out(&mut node, 2_000));
    put(&mut node, one("2"), Pull::InIfItself, at(3_000));
    assert!(!is_pulled_out(&mut node, 3_000));
    put(&mut node, one("1"), Pull::OutItself, at(4_000));
    node.unregister(&one("1").identity, at(5_000));
    assert!(node.state.registry.snapshot().pull_outs.is_empty());
}

#[test]
fn a_put_that_expects_something_else_changes_nothing() {
    let mut node = node();
    let (first, second) = (one("1"), one("2"));
    assert!(node.register(first.clone(), at(2_000)));
    for expected in [None, Some(second.json.clone())] {
        let put = PutInstance { registration: second.clone(), expected, pull: Pull::InIfItself };
        match node.ask(put, at(3_000)).expect("the log takes it") {
            PutReply::Conflict(Some(found)) => assert_eq!(found.instance.json, first.json),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_instance_is_found_in_whatever_region() {
    let mut node = node();
    let sent = in_region(Some("R1"), "s", "a", "1");
    assert!(node.register(sent.clone(), at(2_000)));
    let renew = |node: &mut Node| -> Option<FoundInstance> {
        node.ask(RenewInstance(find("S", "A")), at(3_000)).expect("the log takes it")
    };
    let found = renew(&mut node).expect("it is there");
    assert_eq!(found.identity, sent.identity);
    assert_eq!((found.instance.registered_ms, found.instance.renewed_ms), (2_000, 3_000));
    node.unregister(&sent.identity, at(4_000));
    assert!(renew(&mut node).is_none());
}

#[test]
fn a_restart_makes_what_changed_before_unknown() {
    let mut node = node();
    assert!(node.register(one("1"), at(2_000)));
    node.state.registry.keep_recent(WINDOW_MS, at(10_000));
    assert_eq!(list(&mut node, 20_000).complete_from_ms, 10_001 + WINDOW_MS);
}
