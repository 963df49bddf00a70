//! What an order costs the control thread: register, heartbeat and expiry among 1, 10,000 and a
//! million leases.

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use fanfare::internals::clock::Moment;
use fanfare::internals::id::{Epoch, InstanceIdentity, ServiceName};
use fanfare::internals::state::durable::PeopleSnapshot;
use fanfare::internals::state::effect::Effect;
use fanfare::internals::state::registry::commands::{Heartbeat, Protect, Register};
use fanfare::internals::state::registry::{Registry, Settings};
use fanfare::internals::state::{self, Ask as _, State};
use fanfare::internals::wire::instance::Registration;
use std::hint::black_box;

/// Instances of one service: small enough that snapshots are not what is measured.
const PER_SERVICE: usize = 100;

fn at(ms: u64) -> Moment {
    Moment::new(1_000_000 + ms, ms * 1_000_000)
}

fn registration(n: usize, version: u64) -> Registration {
    let (service, instance) = (format!("s{}", n / PER_SERVICE), format!("i{n}"));
    Registration {
        identity: InstanceIdentity::of("", &service, &instance),
        service: ServiceName::of(&service),
        lease_ttl_ms: None,
        json: Bytes::from(format!(
            r#"{{"serviceId":"{service}","instanceId":"{instance}","metadata":{{"v":"{version}"}}}}"#
        )),
    }
}

/// Takes the effects as control does. Returns how many there are.
fn take(state: &mut State, effects: &mut Vec<Effect>) -> usize {
    state.swap_effects(effects);
    effects.drain(..).count()
}

fn filled(leases: usize) -> State {
    let settings = Settings {
        lease_ttl_ms: 20_000,
        self_protection_max_ms: 600_000,
        history_max: 1_024,
        instances_max: 2_000_000,
        services_max: 200_000,
        ..Settings::default()
    };
    let registry = Registry::new(settings, Epoch::new("e"), 0, at(0));
    let mut state = State::new(registry, state::Settings::default(), PeopleSnapshot::default());
    for n in 0..leases {
        state.apply(Register(vec![registration(n, 0)]).unanswered(), at(0));
        state.take_effects();
    }
    state
}

fn apply(c: &mut Criterion) {
    let mut group = c.benchmark_group("registry_apply");
    let is_test = std::env::args().any(|arg| arg == "--test");
    let sizes = if is_test { vec![1, 10_000] } else { vec![1, 10_000, 1_000_000] };
    for leases in sizes {
        let (mut state, mut effects) = (filled(leases), Vec::new());
        let mut version = 1;
        group.bench_function(BenchmarkId::new("register a change", leases), |b| {
            b.iter_batched(
                || {
                    version += 1;
                    registration(usize::try_from(version).unwrap_or(0) % leases, version)
                },
                |registration| {
                    state.apply(Register(vec![registration]).unanswered(), at(1));
                    take(&mut state, &mut effects)
                },
                BatchSize::SmallInput,
            );
        });
        let keys: Vec<InstanceIdentity> =
            (0..leases.min(100)).map(|n| registration(n * leases / 100, 0).identity).collect();
        group.bench_function(BenchmarkId::new("heartbeat, 100 keys at most", leases), |b| {
            b.iter_batched(
                || keys.clone(),
                |keys| {
                    state.apply(Heartbeat(keys).unanswered(), at(2));
                    take(&mut state, &mut effects)
                },
                BatchSize::SmallInput,
            );
        });
        let mut now_ms = 3;
        group.bench_function(BenchmarkId::new("tick, nothing due", leases), |b| {
            b.iter(|| {
                now_ms += 1;
                state.tick(at(now_ms % 10_000));
            });
        });
    }
    group.bench_function("expire 10000 at once", |b| {
        b.iter_batched(
            || {
                let mut state = filled(10_000);
                let services = 10_000 / PER_SERVICE;
                for n in 0..services {
                    let service = ServiceName::of(&format!("s{n}"));
                    state.apply(Protect { service, enabled: false }.unanswered(), at(1));
                }
                state
            },
            |mut state| {
                state.tick(at(20_100));
                state.tick(at(20_700));
                black_box(state.take_effects().len())
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = apply
}
criterion_main!(benches);
