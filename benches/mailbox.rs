//! Handing messages from one thread to another: a batch, one ring, and the way back.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fanfare::internals::mailbox::{Bell, mailbox};

fn hand_over(c: &mut Criterion) {
    let mut group = c.benchmark_group("mailbox");
    for batch in [1_u64, 64, 1_024] {
        group.throughput(Throughput::Elements(batch));
        group.bench_with_input(BenchmarkId::new("there and back", batch), &batch, |b, &batch| {
            let bell = Bell::thread();
            let (there, inlet) = mailbox::<u64>(65_536, bell.clone());
            let (back, answers) = mailbox::<u64>(65_536, Bell::silent());
            let echo = std::thread::spawn(move || {
                bell.adopt_this_thread();
                loop {
                    while let Some(message) = inlet.take() {
                        if message == u64::MAX || back.push(message).is_err() {
                            return;
                        }
                    }
                    if inlet.rest() {
                        std::thread::park();
                        inlet.wake();
                    }
                }
            });
            b.iter(|| {
                for message in 0..batch {
                    there.push(message).expect("room");
                }
                there.ring();
                let mut left = batch;
                while left > 0 {
                    match answers.take() {
                        Some(_) => left -= 1,
                        None => std::thread::yield_now(),
                    }
                }
            });
            there.send(u64::MAX).expect("room");
            echo.join().expect("the echo ends");
        });
    }
    group.finish();
}

criterion_group!(benches, hand_over);
criterion_main!(benches);
