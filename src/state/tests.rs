//! The state as a whole: histories share one budget, a replay is never larger than a snapshot.
//!
//! Part of `state`.

use std::collections::VecDeque;

use bytes::Bytes;

use super::*;
use crate::id::{ChannelName, Dialect, Epoch, ServiceName};
use crate::rng::Rng;
use crate::state::registry::commands::SnapshotNeed;
use crate::wire::command::Since;
use crate::wire::instance::Instance;

const SERVICES: u64 = 4;
const EACH_BYTES: usize = 3_000;
const ALL_BYTES: usize = 9_000;

fn state() -> State {
    let registry = registry::Settings {
        history_max: 12,
        history_bytes_max: EACH_BYTES,
        ..registry::Settings::default()
    };
    let now = Moment { ns: 0, unix_ms: 1, wall_ms: 1 };
    let registry = Registry::new(registry, Epoch::new("e"), 0, now);
    let defaults = Settings::default();
    let channels = channels::bounds::Settings {
        history_max: 12,
        history_bytes_max: EACH_BYTES,
        ..defaults.channels.clone()
    };
    let settings = Settings { channels, history_bytes_max: ALL_BYTES, ..defaults };
    State::new(registry, settings, PeopleSnapshot::default())
}

/// Random changes of services and messages of channels, against one flat list: each history has
/// its bounds, and of all together the oldest go first.
#[test]
fn histories_of_services_and_channels_share_one_budget() {
    for seed in 0..20 {
        let mut rng = Rng::seeded(seed);
        let mut state = state();
        let mut model: VecDeque<(u64, usize)> = VecDeque::new();
        for step in 1..1_500 {
            let now = Moment { ns: step, unix_ms: step, wall_ms: step };
            let which = rng.below(2 * SERVICES);
            let span = if rng.below(30) == 0 { 5_000 } else { 900 };
            let size = rng.below(span) as usize;
            let bytes = if which < SERVICES {
                let instance = Instance {
                    service_id: Some(format!("s{which}").into()),
                    instance_id: Some("i".into()),
                    url: Some(format!("{step}{}", "x".repeat(size)).into()),
                    ..Instance::default()
                };
                let sent = instance.register().expect("valid");
                let bytes = sent.json.len() + 96;
                state.apply(Register(vec![sent]).unanswered(), now);
                bytes
            } else {
                let name = ChannelName::new(&format!("c{which}"));
                let key = state.channels.find_or_new(&name, None).expect("room");
                state.channels.advance(key);
                state.channels.keep(key, &Bytes::from(vec![0; size + 1]), step);
                state.bound_histories();
                size + 1
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
            let got = (state.registry.history_bytes(), state.channels.history_bytes());
            let want = (held(&|one| one < SERVICES), held(&|one| one >= SERVICES));
            assert_eq!(got, want, "seed {seed}, step {step}");
        }
    }
}

#[test]
fn a_replay_that_is_larger_than_the_snapshot_becomes_the_snapshot() {
    let settings = registry::Settings::default();
    let now = Moment { ns: 0, unix_ms: 1, wall_ms: 1 };
    let registry = Registry::new(settings, Epoch::new("e"), 0, now);
    let mut state = State::new(registry, Settings::default(), PeopleSnapshot::default());
    let register = |state: &mut State, name: &str, url: String| {
        let instance = Instance {
            service_id: Some("s".into()),
            instance_id: Some(name.into()),
            url: Some(url.into()),
            ..Instance::default()
        };
        let register = Register(vec![instance.register().expect("valid")]);
        state.apply(register.unanswered(), now);
    };
    let subscribe = |state: &mut State, revision| {
        let since = Some(Since { epoch: "e".into(), revision });
        let service = ServiceName::of("s");
        let subscribe =
            Subscribe { service, snapshot: SnapshotNeed::No, since, dialect: Dialect::Fanfare };
        state.ask(subscribe, now).expect("at once").expect("it is followed")
    };
    for change in 0..40 {
        register(&mut state, "a", format!("{change}{}", "x".repeat(20_000)));
    }
    let large = subscribe(&mut state, 1);
    assert_eq!((large.recovered, large.replay), (Some(false), None), "780 KB for 20");
    assert!(large.view.instances.bytes() < 25_000);
    let small = subscribe(&mut state, 38);
    let (one, other) = (small.replay.expect("40 KB"), subscribe(&mut state, 38).replay);
    let other = other.expect("the same again");
    assert_eq!(one.as_ptr(), other.as_ptr(), "it is built once and shared");
    register(&mut state, "b", String::new());
    assert_ne!(subscribe(&mut state, 38).replay.expect("more").len(), one.len());
    for name in 0..40 {
        register(&mut state, &format!("n{name}"), "x".repeat(20_000));
    }
    let large = subscribe(&mut state, 1);
    assert_eq!(large.recovered, Some(false), "1.6 MB for 0.8");
    let whole = subscribe(&mut state, 41);
    assert_eq!(whole.recovered, Some(true), "800 KB are no more than the snapshot has");
}
