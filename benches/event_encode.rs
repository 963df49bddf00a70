//! Encoding and framing an event, which happens once however many follow.

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use fanfare::internals::id::{Epoch, ServiceName};
use fanfare::internals::wire::answer;
use fanfare::internals::wire::event::{
    Change, ChangeReason, ChangeType, Position, TimeText, service_change,
};
use fanfare::internals::wire::instance_list::InstanceList;
use std::hint::black_box;

fn encode(c: &mut Criterion) {
    let (service, epoch) = (ServiceName::of("orders"), Epoch::new("83a635c96ca04036"));
    let at = Position { service: &service, epoch: &epoch, revision: 70_000, degraded: false };
    let change = Change {
        instance: Bytes::from(vec![b'x'; 160]),
        kind: ChangeType::Change,
        reason: ChangeReason::Update,
        time: TimeText::of(1_795_176_000_123),
    };
    let mut group = c.benchmark_group("event_encode");
    for count in [1, 10, 1_000] {
        let changes = vec![change.clone(); count];
        group.bench_with_input(
            BenchmarkId::new("service_change", count),
            &changes,
            |b, changes| {
                b.iter(|| black_box(service_change(at, 69_000, changes.iter())));
            },
        );
    }
    let json = Bytes::from(vec![b'x'; 300_000]);
    let instances = InstanceList::encode(json.len(), 1, std::iter::once(&json));
    group.bench_function("snapshot head over a shared tail of 300 kB", |b| {
        b.iter(|| black_box(answer::service_snapshot(at, instances.clone())));
    });
    group.bench_function("time text", |b| b.iter(|| TimeText::of(black_box(1_795_176_000_123))));
    group.finish();
}

criterion_group!(benches, encode);
criterion_main!(benches);
