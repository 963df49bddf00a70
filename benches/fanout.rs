//! From events to a thousand outboxes: joining a run, and handing out the handles; and the runs of many topics for
//! the same few sockets, each by a handle of its own and joined.

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fanfare::internals::id::{ServiceName, Topic};
use fanfare::internals::mailbox::to_shard::Event;
use fanfare::internals::shard::fanout::chunks;
use fanfare::internals::shard::outbox::{Budget, Chunk, Outbox};
use fanfare::internals::shard::socket::Socket;
use std::hint::black_box;
use std::io::{self, IoSlice};
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

/// A socket that takes everything.
struct Void;

impl Socket for Void {
    fn try_read(&mut self, _into: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(black_box(bytes).len())
    }

    fn try_write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(black_box(parts).iter().map(|part| part.len()).sum())
    }

    fn shut_down(&mut self) {}
}

/// What a turn's events of so many topics cost by delivery without the kernel, if the same 20 sockets follow all.
fn topics_of_the_same_sockets(c: &mut Criterion) {
    const SOCKETS: usize = 20;
    let mut group = c.benchmark_group("topics of the same 20 sockets");
    for topics in [2, 16, 50] {
        let frames: Vec<Bytes> = (0..topics).map(|_| Bytes::from(vec![b'x'; 320])).collect();
        group.throughput(Throughput::Elements((SOCKETS * topics) as u64));
        let mut outboxes: Vec<Outbox> = (0..SOCKETS).map(|_| Outbox::default()).collect();
        let mut scratch = Vec::with_capacity(1 << 16);
        let mut settle = |outboxes: &mut Vec<Outbox>| {
            for outbox in outboxes {
                black_box(outbox.write_to(&mut Void, &mut scratch).expect("it takes everything"));
            }
        };
        group.bench_function(BenchmarkId::new("a handle each", topics), |b| {
            b.iter(|| {
                for frame in &frames {
                    let chunk = Chunk::frame(frame.clone());
                    for outbox in &mut outboxes {
                        outbox.push(Rc::clone(&chunk));
                    }
                }
                settle(&mut outboxes);
            });
        });
        group.bench_function(BenchmarkId::new("joined", topics), |b| {
            b.iter(|| {
                let chunk = Chunk::frame(Bytes::from(frames.concat()));
                for outbox in &mut outboxes {
                    outbox.push(Rc::clone(&chunk));
                }
                settle(&mut outboxes);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, fanout, topics_of_the_same_sockets);
criterion_main!(benches);
