//! What control does for people: a message to a channel, and a user who comes and goes among ten
//! thousand.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use fanfare::internals::clock::Moment;
use fanfare::internals::id::{ChannelName, ConnId, Epoch, ShardId, Slot, UserId};
use fanfare::internals::state::durable::PeopleSnapshot;
use fanfare::internals::state::effect::Effect;
use fanfare::internals::state::messaging::aim::Aimed;
use fanfare::internals::state::messaging::commands::{Closed, Follow, Publish, Publisher};
use fanfare::internals::state::people::{Opened, Person};
use fanfare::internals::state::registry::{self, Registry};
use fanfare::internals::state::{Ask, Settings, State};
use fanfare::internals::wire::talk::Publication;
use serde_json::value::RawValue;
use std::hint::black_box;

fn at(ms: u64) -> Moment {
    Moment::new(1_800_000_000_000 + ms, ms * 1_000_000)
}

fn state() -> State {
    let registry = Registry::new(registry::Settings::default(), Epoch::new("e"), 0, at(0));
    State::new(registry, Settings::default(), PeopleSnapshot::default())
}

fn conn(n: u32) -> ConnId {
    ConnId { shard: ShardId(0), slot: Slot(n), generation: n }
}

fn opened(n: u32) -> Opened {
    let name = format!("user-{n}");
    let person = Person { user_id: UserId::new(&name), username: name.into() };
    Opened { conn: conn(n), person: Some(person), remote: None }
}

/// Carries out a command, and takes the effects as control does.
fn tell(state: &mut State, effects: &mut Vec<Effect>, ask: impl Ask) {
    state.apply(ask.unanswered(), at(1));
    state.swap_effects(effects);
    black_box(&effects);
    effects.clear();
}

fn publish(c: &mut Criterion) {
    let mut group = c.benchmark_group("channel_publish");
    let payload = RawValue::from_string(format!("{{\"text\":\"{}\"}}", "x".repeat(200)));
    let payload = payload.expect("JSON");
    let publication = Publication::new(None, Some(&payload), None, None).expect("good");
    for followers in [1, 1_000] {
        let (mut state, mut effects) = (state(), Vec::new());
        let channel = ChannelName::new("news");
        for n in 0..followers {
            tell(&mut state, &mut effects, opened(n));
            let (conn, channel) = (conn(n), channel.clone());
            tell(&mut state, &mut effects, Follow { conn, channel, since: None });
        }
        group.bench_function(BenchmarkId::new("followers", followers), |b| {
            b.iter(|| {
                let publish = Publish {
                    channel: channel.clone(),
                    publication: publication.clone(),
                    from: Some(UserId::new("user-0")),
                    aim: Aimed::default(),
                    without: None,
                    by: Publisher::Request(None),
                };
                tell(&mut state, &mut effects, publish);
            });
        });
    }
    group.finish();
}

fn presence(c: &mut Criterion) {
    let mut group = c.benchmark_group("presence");
    for users in [500, 10_000] {
        let (mut state, mut effects) = (state(), Vec::new());
        (0..users).for_each(|n| tell(&mut state, &mut effects, opened(n)));
        group.bench_function(BenchmarkId::new("comes and goes among", users), |b| {
            b.iter(|| {
                tell(&mut state, &mut effects, opened(users));
                tell(&mut state, &mut effects, Closed(conn(users)));
            });
        });
    }
    group.finish();
}

criterion_group!(benches, publish, presence);
criterion_main!(benches);
