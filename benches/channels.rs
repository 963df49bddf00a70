//! What control does for people: a message to a channel, and a user who comes and goes among ten
//! thousand.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use fanfare::internals::clock::Moment;
use fanfare::internals::id::{ChannelName, ConnId, Epoch, ShardId, Slot, UserId};
use fanfare::internals::state::durable::PeopleImage;
use fanfare::internals::state::people::{Opened, Person};
use fanfare::internals::state::registry::{self, Registry};
use fanfare::internals::state::talk::{Aimed, Publisher, Talk};
use fanfare::internals::state::{Settings, State};
use fanfare::internals::wire::talk::Publication;
use serde_json::value::RawValue;
use std::hint::black_box;

fn at(ms: u64) -> Moment {
    Moment::new(1_800_000_000_000 + ms, ms * 1_000_000)
}

fn state() -> State {
    let registry = Registry::new(registry::Settings::default(), Epoch::new("e"), 0, at(0));
    State::new(registry, Settings::default(), PeopleImage::default())
}

fn conn(n: u32) -> ConnId {
    ConnId { shard: ShardId(0), slot: Slot(n), generation: n }
}

fn opened(n: u32) -> Talk {
    let name = format!("user-{n}");
    let person = Person { user_id: UserId::new(&name), username: name.into() };
    Talk::Opened(Opened { conn: conn(n), person: Some(person), remote: None })
}

fn tell(state: &mut State, talk: Talk) {
    black_box(state.apply(talk.into(), at(1)));
    black_box(state.take_outgoing());
}

fn publish(c: &mut Criterion) {
    let mut group = c.benchmark_group("channel_publish");
    let payload = RawValue::from_string(format!("{{\"text\":\"{}\"}}", "x".repeat(200)));
    let payload = payload.expect("JSON");
    let publication = Publication::new(None, Some(&payload), None, None).expect("good");
    for followers in [1, 1_000] {
        let mut state = state();
        let channel = ChannelName::new("news");
        for n in 0..followers {
            tell(&mut state, opened(n));
            let (conn, channel) = (conn(n), channel.clone());
            tell(&mut state, Talk::Follow { conn, channel, since: None });
        }
        group.bench_function(BenchmarkId::new("followers", followers), |b| {
            b.iter(|| {
                let talk = Talk::Publish {
                    channel: channel.clone(),
                    publication: publication.clone(),
                    from: Some(UserId::new("user-0")),
                    aim: Aimed::default(),
                    without: None,
                    by: Publisher::Request(None),
                };
                tell(&mut state, talk);
            });
        });
    }
    group.finish();
}

fn presence(c: &mut Criterion) {
    let mut group = c.benchmark_group("presence");
    for users in [500, 10_000] {
        let mut state = state();
        (0..users).for_each(|n| tell(&mut state, opened(n)));
        group.bench_function(BenchmarkId::new("comes and goes among", users), |b| {
            b.iter(|| {
                tell(&mut state, opened(users));
                tell(&mut state, Talk::Closed(conn(users)));
            });
        });
    }
    group.finish();
}

criterion_group!(benches, publish, presence);
criterion_main!(benches);
