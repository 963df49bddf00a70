//! From an accepted change to the last byte read, over loopback sockets.
//!
//! The server runs in this process with its default shards; one thread publishes and reads, so the
//! figure holds the reading too. It shows how cost grows with the number of subscribers, and what the
//! way of the event to the server adds; for the cost of the server alone see `benches/peers`.
//!
//! * `frames`, `http`: one event at a time, as a message on a socket or as a request; each is read by all
//!   before the next one leaves.
//! * `http-pipelined`: [`BATCH`] requests leave in one write, then all their events and answers are read.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fanfare::config::{Config, Sources};
use fanfare::server::Server;
use std::io::{Read, Write};
use std::net::TcpStream;
use tungstenite::{Message, WebSocket};

/// Requests of one write.
const BATCH: usize = 16;

fn stream(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.local_addr()).expect("loopback");
    stream.set_nodelay(true).expect("a TCP option");
    stream
}

fn connect(server: &Server) -> WebSocket<TcpStream> {
    let url = format!("ws://{}/ws", server.local_addr());
    let (mut socket, _) = tungstenite::client(url, stream(server)).expect("an upgrade");
    socket.read().expect("a welcome");
    socket
}

/// Events of one service, each a change.
struct Events {
    service: String,
    version: u64,
}

impl Events {
    fn next(&mut self) -> String {
        self.version += 1;
        format!(
            r#"{{"serviceId":"{}","instanceId":"i","metadata":{{"v":"{}"}}}}"#,
            self.service, self.version
        )
    }

    /// A request that registers the next event.
    fn request(&mut self) -> String {
        let body = format!(r#"{{"instances":[{}]}}"#, self.next());
        format!(
            "POST /api/registry/register.json HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: \
             application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }
}

/// Reads one event on each socket: one frame, far smaller than the buffer.
fn read_event(sockets: &mut [WebSocket<TcpStream>]) {
    let mut bytes = [0; 4_096];
    for socket in sockets {
        let read = socket.get_mut().read(&mut bytes).expect("an event");
        assert!(bytes[..read].ends_with(b"}"));
    }
}

/// Reads on each socket until the event of this version has come, and with it all before.
fn read_upto(sockets: &mut [WebSocket<TcpStream>], version: u64) {
    let mark = format!(r#""v":"{version}""#).into_bytes();
    let mut bytes = vec![0; 64 * 1024];
    for socket in sockets {
        let mut held = 0;
        loop {
            let read = socket.get_mut().read(&mut bytes[held..]).expect("events");
            assert!(read > 0, "the server stays");
            let from = held.saturating_sub(mark.len());
            held += read;
            if bytes[from..held].windows(mark.len()).any(|part| part == mark) {
                break;
            }
        }
    }
}

/// Reads so many answers, each of which says that its request succeeded.
fn read_answers(publisher: &mut TcpStream, count: usize) {
    const SUCCESS: &[u8] = b"\"status\":\"success\"}}";
    let mut bytes = vec![0; 16 * 1024];
    let (mut held, mut seen) = (0, 0);
    while seen < count {
        let read = publisher.read(&mut bytes[held..]).expect("answers");
        assert!(read > 0, "the server stays");
        held += read;
        seen = bytes[..held].windows(SUCCESS.len()).filter(|part| *part == SUCCESS).count();
    }
}

fn fan_out(c: &mut Criterion) {
    let data_dir = std::env::temp_dir().join(format!("fanfare-bench-{}", std::process::id()));
    let mut config = Config { data_dir: data_dir.clone(), ..Config::default() };
    config.bind.set_port(0);
    config.limits.client_messages_per_s_max = 0;
    let server = Server::start(&config, &Sources::default()).expect("a free port");
    let mut publisher = connect(&server);
    let mut http = stream(&server);
    let mut group = c.benchmark_group("end_to_end");
    for subscribers in [1_usize, 100, 1_000, 5_000] {
        let service = format!("bench-{subscribers}");
        let subscribe = format!(r#"{{"type":"subscribe","service_id":"{service}"}}"#);
        let mut events = Events { service, version: 0 };
        let mut sockets: Vec<WebSocket<TcpStream>> =
            (0..subscribers).map(|_| connect(&server)).collect();
        for socket in &mut sockets {
            socket.send(Message::text(subscribe.clone())).expect("loopback");
            socket.read().expect("an answer");
        }
        group.throughput(Throughput::Elements(subscribers as u64));
        group.bench_function(BenchmarkId::new("frames", subscribers), |b| {
            b.iter(|| {
                let register = format!(r#"{{"type":"register","instances":[{}]}}"#, events.next());
                publisher.send(Message::text(register)).expect("loopback");
                read_event(&mut sockets);
                publisher.read().expect("an answer");
            });
        });
        group.bench_function(BenchmarkId::new("http", subscribers), |b| {
            b.iter(|| {
                http.write_all(events.request().as_bytes()).expect("loopback");
                read_event(&mut sockets);
                read_answers(&mut http, 1);
            });
        });
        group.throughput(Throughput::Elements((BATCH * subscribers) as u64));
        group.bench_function(BenchmarkId::new("http-pipelined", subscribers), |b| {
            b.iter(|| {
                let requests: String = (0..BATCH).map(|_| events.request()).collect();
                http.write_all(requests.as_bytes()).expect("loopback");
                read_upto(&mut sockets, events.version);
                read_answers(&mut http, BATCH);
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
