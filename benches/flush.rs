//! Writing an outbox to a real socket: 1, 4 and 32 pending frames, copied together or as vectors.
//!
//! The outbox copies up to `limits::COPY_BYTES_MAX` and sends vectors above that. The two plain
//! ways stand beside it, so that the cut-over can be read off.

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fanfare::internals::shard::outbox::{Chunk, Outbox};
use fanfare::internals::shard::socket::Socket;
use std::hint::black_box;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};

/// One end of a loopback connection; the other is emptied after each write, outside of the count
/// of interest but inside the measured time, the same for every way of writing.
struct Pair {
    near: TcpStream,
    far: TcpStream,
    sink: Vec<u8>,
}

impl Pair {
    fn new() -> Pair {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("loopback");
        let (far, _) = listener.accept().expect("loopback");
        near.set_nodelay(true).expect("a TCP option");
        Pair { near, far, sink: vec![0; 1 << 20] }
    }

    fn empty(&mut self, mut bytes: usize) {
        while bytes > 0 {
            let most = bytes.min(self.sink.len());
            bytes -= self.far.read(&mut self.sink[..most]).expect("loopback");
        }
    }
}

impl Socket for Pair {
    fn try_read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.near.read(into)
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.near.write(bytes)
    }

    fn try_write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.near.write_vectored(parts)
    }

    fn shut_down(&mut self) {
        self.near.shutdown(Shutdown::Write).ok();
    }
}

fn flush(c: &mut Criterion) {
    let mut group = c.benchmark_group("flush");
    for frames in [1_usize, 4, 32] {
        for bytes in [256_usize, 4_096] {
            let chunk = Chunk::frame(Bytes::from(vec![b'x'; bytes]));
            let total = frames * bytes;
            let name = format!("{frames} x {bytes} B");
            group.throughput(Throughput::Bytes(total as u64));
            let (mut pair, mut scratch) = (Pair::new(), Vec::new());
            group.bench_function(BenchmarkId::new("outbox", &name), |b| {
                b.iter(|| {
                    let mut outbox = Outbox::default();
                    for _ in 0..frames {
                        outbox.push(std::rc::Rc::clone(&chunk));
                    }
                    let written = outbox.write_to(&mut pair, &mut scratch).expect("loopback");
                    pair.empty(total);
                    black_box(written.writes)
                });
            });
            group.bench_function(BenchmarkId::new("copy", &name), |b| {
                b.iter(|| {
                    scratch.clear();
                    for _ in 0..frames {
                        scratch.extend_from_slice(&chunk.head);
                    }
                    pair.near.write_all(&scratch).expect("loopback");
                    pair.empty(total);
                });
            });
            group.bench_function(BenchmarkId::new("vectors", &name), |b| {
                b.iter(|| {
                    let slices: Vec<IoSlice<'_>> =
                        (0..frames).map(|_| IoSlice::new(&chunk.head)).collect();
                    let written = pair.near.write_vectored(&slices).expect("loopback");
                    pair.empty(written);
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, flush);
criterion_main!(benches);
