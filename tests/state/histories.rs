//! Histories of services and channels share one budget; a replay is never larger than a snapshot.

use std::collections::VecDeque;

use fanfare::internals::id::ChannelName;
use fanfare::internals::rng::Rng;
use fanfare::internals::state;
use fanfare::internals::state::messaging::aim::Aimed;
use fanfare::internals::state::messaging::commands::{Publish, Publisher};
use fanfare::internals::state::registry::Settings;
use fanfare::internals::state::registry::commands::SnapshotNeed;
use fanfare::internals::wire::talk::Publication;
use serde_json::value::RawValue;

use super::node::{Node, at, instance};

const SERVICES: u64 = 4;
const EACH_BYTES: usize = 3_000;
const ALL_BYTES: usize = 9_000;

fn node() -> Node {
    let registry =
        Settings { history_max: 12, history_bytes_max: EACH_BYTES, ..Settings::default() };
    let mut settings = state::Settings::default();
    settings.channels.history_max = 12;
    settings.channels.history_bytes_max = EACH_BYTES;
    settings.history_bytes_max = ALL_BYTES;
    Node::new(registry, settings, at(1))
}

/// Publishes a text of so many bytes. Returns the bytes of its frame.
fn publish(node: &mut Node, channel: &str, bytes: usize, ms: u64) -> usize {
    let payload = RawValue::from_string(format!("\"{}\"", "x".repeat(bytes))).expect("JSON");
    let publication = Publication::new(None, Some(&payload), None, None).expect("well formed");
    let (channel, aim, by) = (ChannelName::new(channel), Aimed::default(), Publisher::Program);
    let publish = Publish { channel, publication, from: None, aim, without: None, by };
    node.ask(publish, at(ms)).expect("there is room");
    node.messages.pop().expect("its frame").len()
}

/// Random changes of services and messages of channels, against one flat list: each history has
/// its bounds, and of all together the oldest go first.
#[test]
fn histories_of_services_and_channels_share_one_budget() {
    for seed in 0..20 {
        let mut rng = Rng::seeded(seed);
        let mut node = node();
        let mut model: VecDeque<(u64, usize)> = VecDeque::new();
        for step in 1..1_500 {
            let which = rng.below(2 * SERVICES);
            let span = if rng.below(30) == 0 { 5_000 } else { 900 };
            let size = rng.below(span) as usize;
            let bytes = if which < SERVICES {
                let url = format!("{step}{}", "x".repeat(size));
                let sent = instance(&format!("s{which}"), "i", &url);
                let bytes = sent.json.len() + 96;
                assert!(node.register(sent, at(step)));
                bytes
            } else {
                publish(&mut node, &format!("c{which}"), size, step)
            };
            model.push_back((which, bytes));
            let of_this = |model: &VecDeque<(u64, usize)>| {
                let mine = model.iter().filter(|one| one.0 == which);
                (mine.clone().count(), mine.map(|one| one.1).sum::<usize>())
            };
            while of_this(&model).0 > 12 || of_this(&model).1 > EACH_BYTES {
                let oldest = model.iter().position(|one| one.0 == which).expect("there");
                model.remove(oldest);
            }
            while model.iter().map(|one| one.1).sum::<usize>() > ALL_BYTES {
                model.pop_front();
            }
            let held = |of: &dyn Fn(u64) -> bool| {
                let held = model.iter().filter(|one| of(one.0));
                held.map(|one| one.1).sum::<usize>()
            };
            let state = &node.state;
            let got = (state.registry.history_bytes(), state.channels.history_bytes());
            let want = (held(&|one| one < SERVICES), held(&|one| one >= SERVICES));
            assert_eq!(got, want, "seed {seed}, step {step}");
        }
    }
}

#[test]
fn a_replay_that_is_larger_than_the_snapshot_becomes_the_snapshot() {
    let mut node = Node::with(Settings::default(), at(1));
    let register = |node: &mut Node, name: &str, url: String| {
        assert!(node.register(instance("s", name, &url), at(1)));
    };
    let resume = |node: &mut Node, revision| {
        node.subscribe("s", SnapshotNeed::No, Some(revision)).expect("it is followed")
    };
    for change in 0..40 {
        register(&mut node, "a", format!("{change}{}", "x".repeat(20_000)));
    }
    let large = resume(&mut node, 1);
    assert_eq!((large.recovered, large.replay), (Some(false), None), "780 KB for 20");
    assert!(large.view.instances.bytes() < 25_000);
    let small = resume(&mut node, 38);
    let (one, other) = (small.replay.expect("40 KB"), resume(&mut node, 38).replay);
    let other = other.expect("the same again");
    assert_eq!(one.as_ptr(), other.as_ptr(), "it is built once and shared");
    register(&mut node, "b", String::new());
    assert_ne!(resume(&mut node, 38).replay.expect("more").len(), one.len());
    for name in 0..40 {
        register(&mut node, &format!("n{name}"), "x".repeat(20_000));
    }
    assert_eq!(resume(&mut node, 1).recovered, Some(false), "1.6 MB for 0.8");
    assert_eq!(
        resume(&mut node, 41).recovered,
        Some(true),
        "800 KB are no more than the snapshot has"
    );
}
