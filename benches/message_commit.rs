//! Direct messages to disk: one a transaction, beside batches of them, with `SQLite`'s
//! `synchronous=FULL`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fanfare::internals::id::{MessageIds, UserId};
use fanfare::internals::state::durable::Write;
use fanfare::internals::state::journal::{Addressee, DirectMessage, JournalEntry};
use fanfare::internals::store::{Listeners, Store};

const USERS: u64 = 1_000;

fn commit(c: &mut Criterion) {
    let dir = std::env::temp_dir().join(format!("fanfare-commit-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let (tell, stored) = crossbeam_channel::unbounded();
    let listeners = Listeners {
        on_stored: Box::new(move |results| _ = tell.send(results)),
        ..Listeners::default()
    };
    let (store, _) = Store::open(None, &dir, listeners).expect("opens");
    let (mut ids, mut count) = (MessageIds::after(None, 1), 0_u64);
    let mut batch = |size: usize| -> Arc<Vec<Write>> {
        let message = |_| {
            count += 1;
            let to = UserId::new(&format!("user-{}", (count * 7 + 1) % USERS));
            let message = DirectMessage {
                from: UserId::new(&format!("user-{}", count % USERS)),
                to: Addressee::User(to),
                content: String::from("a message of some fifty bytes, as people write them"),
            };
            let id = ids.next(1_800_000_000_000 + count / 10);
            Write::Message(Arc::new(JournalEntry { sequence: 0, id, message }))
        };
        Arc::new((0..size).map(message).collect())
    };
    let mut group = c.benchmark_group("message_commit");
    for size in [1, 64, 1_024] {
        group.throughput(Throughput::Elements(size as u64));
        group.bench_function(BenchmarkId::new("SQLite", size), |b| {
            b.iter_custom(|rounds| {
                let mut spent = Duration::ZERO;
                for _ in 0..rounds {
                    let batch = batch(size);
                    #[allow(clippy::disallowed_methods, reason = "the time is what is measured")]
                    let start = Instant::now();
                    store.execute(batch);
                    let results = stored.recv().expect("an answer");
                    spent += start.elapsed();
                    assert!(results.iter().all(Result::is_ok));
                }
                spent
            });
        });
    }
    group.finish();
    drop(store);
    let _ = std::fs::remove_dir_all(dir);
}

criterion_group!(benches, commit);
criterion_main!(benches);
