//! Sets of followers: the adapting set beside a plain sorted list and a plain bitset.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fanfare::internals::id::Slot;
use fanfare::internals::subscribers::Subscribers;
use std::hint::black_box;

/// Connections of the shard in which the members lie: all of them, or one in a hundred.
fn spread(count: u32, density: &str) -> Vec<Slot> {
    let step = if density == "dense" { 1 } else { 100 };
    (0..count).map(|n| Slot(n * step)).collect()
}

fn filled(slots: &[Slot]) -> Subscribers {
    let mut set = Subscribers::default();
    for &slot in slots {
        set.insert(slot);
    }
    set
}

fn subscribers(c: &mut Criterion) {
    let mut group = c.benchmark_group("subscribers");
    for count in [10_u32, 1_000, 100_000] {
        for density in ["dense", "sparse"] {
            let slots = spread(count, density);
            let set = filled(&slots);
            let other = filled(&slots.iter().map(|slot| Slot(slot.0 + 1)).collect::<Vec<_>>());
            let name = format!("{count} {density}");
            group.throughput(Throughput::Elements(u64::from(count)));
            let mut out = Vec::with_capacity(2 * slots.len());
            group.bench_function(BenchmarkId::new("walk", &name), |b| {
                b.iter(|| {
                    out.clear();
                    set.walk(&mut out);
                    black_box(out.len())
                });
            });
            group.bench_function(BenchmarkId::new("union", &name), |b| {
                b.iter(|| {
                    out.clear();
                    set.walk_union(&other, &mut out);
                    black_box(out.len())
                });
            });
            group.throughput(Throughput::Elements(1));
            let (mut changing, middle) = (set.clone(), slots[slots.len() / 2]);
            group.bench_function(BenchmarkId::new("remove and insert", &name), |b| {
                b.iter(|| {
                    changing.remove(middle);
                    black_box(changing.insert(middle))
                });
            });
            let list: Vec<u32> = slots.iter().map(|slot| slot.0).collect();
            group.throughput(Throughput::Elements(u64::from(count)));
            group.bench_function(BenchmarkId::new("walk, plain list", &name), |b| {
                b.iter(|| black_box(list.iter().map(|&slot| u64::from(slot)).sum::<u64>()));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, subscribers);
criterion_main!(benches);
