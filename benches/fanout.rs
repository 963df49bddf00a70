//! From events to a thousand outboxes: joining a run, and handing out the handles.

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fanfare::internals::id::{ServiceName, Topic};
use fanfare::internals::mailbox::to_shard::Event;
use fanfare::internals::shard::fanout::chunks;
use fanfare::internals::shard::outbox::{Budget, Outbox};
use std::hint::black_box;
use std::rc::Rc;

const FOLLOWERS: usize = 1_000;

fn fanout(c: &mut Criterion) {
    let budget = Budget { bytes_max: 1 << 20, frames_max: 4_096 };
    let mut group = c.benchmark_group("fanout");
    for events in [1, 32] {
        let event = Event {
            frames: 1,
            topic: Topic::Service(ServiceName::of("orders")),
            frame: Bytes::from(vec![b'x'; 256]),
            accepted_ns: 0,
            aim: None,
        };
        let run = vec![event; events];
        group.throughput(Throughput::Elements((FOLLOWERS * events) as u64));
        group.bench_with_input(BenchmarkId::new("into 1000 outboxes", events), &run, |b, run| {
            let mut outboxes: Vec<Outbox> = (0..FOLLOWERS).map(|_| Outbox::default()).collect();
            b.iter(|| {
                for load in chunks(run) {
                    for outbox in &mut outboxes {
                        if outbox.fits(&load, budget) {
                            outbox.push(Rc::clone(&load));
                        }
                    }
                }
                for outbox in &mut outboxes {
                    outbox.clear();
                }
                black_box(outboxes.len())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, fanout);
criterion_main!(benches);
