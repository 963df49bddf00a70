//! From an accepted change to the last byte read, over loopback sockets.
//!
//! The server runs in this process with its default shards; one thread publishes and reads, so the
//! figure holds the reading too. It shows how cost grows with the number of subscribers; for the
//! cost of the server alone see `benches/peers`.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fanfare::config::{Config, Sources};
use fanfare::server::Server;
use std::io::Read;
use std::net::TcpStream;
use tungstenite::{Message, WebSocket};

fn connect(server: &Server) -> WebSocket<TcpStream> {
    let stream = TcpStream::connect(server.local_addr()).expect("loopback");
    stream.set_nodelay(true).expect("a TCP option");
    let url = format!("ws://{}/ws", server.local_addr());
    let (mut socket, _) = tungstenite::client(url, stream).expect("an upgrade");
    socket.read().expect("a welcome");
    socket
}

fn fan_out(c: &mut Criterion) {
    let data_dir = std::env::temp_dir().join(format!("fanfare-bench-{}", std::process::id()));
    let mut config = Config { data_dir: data_dir.clone(), ..Config::default() };
    config.bind.set_port(0);
    config.limits.client_messages_per_s_max = 0;
    let server = Server::start(&config, &Sources::default()).expect("a free port");
    let mut publisher = connect(&server);
    let mut group = c.benchmark_group("end_to_end");
    let mut version = 0_u64;
    for subscribers in [1_usize, 100, 1_000, 5_000] {
        let service = format!("bench-{subscribers}");
        let subscribe = format!(r#"{{"type":"subscribe","service_id":"{service}"}}"#);
        let mut sockets: Vec<WebSocket<TcpStream>> =
            (0..subscribers).map(|_| connect(&server)).collect();
        for socket in &mut sockets {
            socket.send(Message::text(subscribe.clone())).expect("loopback");
            socket.read().expect("an answer");
        }
        group.throughput(Throughput::Elements(subscribers as u64));
        group.bench_function(BenchmarkId::from_parameter(subscribers), |b| {
            b.iter(|| {
                version += 1;
                let register = format!(
                    r#"{{"type":"register","instances":[{{"serviceId":"{service}","instanceId":"i","metadata":{{"v":"{version}"}}}}]}}"#
                );
                publisher.send(Message::text(register)).expect("loopback");
                let mut bytes = [0; 4_096];
                for socket in &mut sockets {
                    // One frame, far smaller than the buffer.
                    let read = socket.get_mut().read(&mut bytes).expect("an event");
                    assert!(bytes[..read].ends_with(b"}"));
                }
                publisher.read().expect("an answer");
            });
        });
    }
    group.finish();
    server.stop();
    std::fs::remove_dir_all(data_dir).ok();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = fan_out
}
criterion_main!(benches);
