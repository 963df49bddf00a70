//! Reading a client's message: `serde_json` beside simd-json at three sizes, and the decoder whole.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fanfare::internals::wire::command;
use fanfare::internals::wire::instance::Instance;
use serde::Deserialize;
use std::hint::black_box;

#[derive(Deserialize)]
struct Body {
    instances: Vec<Instance>,
}

fn body(instances: usize) -> String {
    let one = |n: usize| {
        format!(
            r#"{{"serviceId":"orders","instanceId":"i-{n:06}","ip":"10.0.0.1","port":8080,"status":"up","metadata":{{"zone":"z1"}}}}"#
        )
    };
    let all: Vec<String> = (0..instances).map(one).collect();
    format!(r#"{{"type":"register","instances":[{}]}}"#, all.join(","))
}

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("command_decode");
    let ping = String::from(r#"{"type":"subscribe","service_id":"orders","snapshot":true}"#);
    for (name, text) in [("60 B", ping), ("1 KiB", body(8)), ("64 KiB", body(560))] {
        group.throughput(Throughput::Bytes(text.len() as u64));
        if name != "60 B" {
            group.bench_with_input(BenchmarkId::new("serde_json", name), &text, |b, text| {
                b.iter(|| {
                    let body: Body = serde_json::from_slice(text.as_bytes()).expect("valid");
                    black_box(body.instances.len())
                });
            });
            group.bench_with_input(BenchmarkId::new("simd_json", name), &text, |b, text| {
                b.iter(|| {
                    let mut copy = text.as_bytes().to_vec();
                    let body: Body = simd_json::serde::from_slice(&mut copy).expect("valid");
                    black_box(body.instances.len())
                });
            });
        }
        group.bench_with_input(BenchmarkId::new("whole", name), &text, |b, text| {
            b.iter(|| black_box(command::decode(text.as_bytes(), 255)));
        });
    }
    group.finish();
}

criterion_group!(benches, decode);
criterion_main!(benches);
