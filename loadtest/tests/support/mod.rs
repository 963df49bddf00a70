//! A server of a few lines that speaks just enough of the protocol, and misbehaves on demand.
//!
//! A thread per connection, one lock around everything: slow, and easy to see through.

#![allow(clippy::disallowed_types)]

use std::collections::HashMap;
use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use serde_json::{Value, json};
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::{Message, WebSocket};

/// What the server does wrong, always at the third frame of a service and the first subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// The frame is not sent.
    Lose,
    /// The frame is sent twice.
    Duplicate,
    /// The frame is sent after the next one.
    Swap,
    /// A snapshot is sent instead of the frame. Not wrong: the protocol allows it.
    Collapse,
    /// Every frame has its fields in another order. Not wrong either.
    Reshape,
    /// The third registration is refused as `rate_limited`.
    RateLimit,
}

/// A listening server. Its threads end with the test.
pub(crate) struct FakeServer {
    address: SocketAddr,
}

struct Service {
    revision: u64,
    frames: u64,
    subscribers: Vec<TcpStream>,
    held: Option<String>,
}

struct Hub {
    fault: Fault,
    registrations: u64,
    services: HashMap<String, Service>,
}

impl FakeServer {
    /// Listens on a free port.
    pub(crate) fn start(fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let hub = Hub { fault, registrations: 0, services: HashMap::new() };
        let hub = Arc::new(Mutex::new(hub));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let hub = Arc::clone(&hub);
                thread::spawn(move || serve(stream, &hub));
            }
        });
        FakeServer { address }
    }

    /// What `--url` takes.
    pub(crate) fn url(&self) -> String {
        format!("ws://{}/ws", self.address)
    }
}

fn serve(stream: TcpStream, hub: &Mutex<Hub>) {
    stream.set_nodelay(true).unwrap();
    let out = stream.try_clone().unwrap();
    // Plain HTTP and a probing connect end here.
    let Ok(mut socket) = tungstenite::accept(stream) else {
        return;
    };
    send(&out, &json!({"type":"welcome","connection_id":"c"}).to_string());
    while let Some(request) = next(&mut socket) {
        let mut hub = hub.lock().unwrap_or_else(PoisonError::into_inner);
        hub.apply(&request, &out);
    }
    // The hub still holds the subscriber; without this the client would wait for the end.
    let _ = out.shutdown(Shutdown::Both);
}

fn next(socket: &mut WebSocket<TcpStream>) -> Option<Value> {
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => return serde_json::from_str(text.as_str()).ok(),
            Ok(_) => {}
            Err(_) => return None,
        }
    }
}

impl Hub {
    fn apply(&mut self, request: &Value, out: &TcpStream) {
        match request["type"].as_str() {
            Some("subscribe") => {
                let id = request["service_id"].as_str().unwrap();
                let service = self.service(id);
                service.subscribers.push(out.try_clone().unwrap());
                let revision = service.revision;
                send(
                    out,
                    &json!({"type":"subscribed","service_id":id,"epoch":"e","revision":revision})
                        .to_string(),
                );
            }
            Some("register") => self.register(request, out),
            _ => {}
        }
    }

    fn register(&mut self, request: &Value, out: &TcpStream) {
        self.registrations += 1;
        let id = &request["id"];
        if self.fault == Fault::RateLimit && self.registrations == 3 {
            let error = json!({"type":"error","code":"rate_limited","message":"slow","id":id});
            return send(out, &error.to_string());
        }
        let mut changes: HashMap<String, Vec<Value>> = HashMap::new();
        for instance in request["instances"].as_array().unwrap() {
            let id = instance["serviceId"].as_str().unwrap().to_owned();
            changes.entry(id).or_default().push(instance.clone());
        }
        let fault = self.fault;
        for (id, instances) in changes {
            self.service(&id).announce(&id, &instances, fault);
        }
        send(out, &json!({"type":"registered","id":id,"failed_instances":[]}).to_string());
    }

    fn service(&mut self, id: &str) -> &mut Service {
        self.services.entry(id.to_owned()).or_insert_with(|| Service {
            revision: 0,
            frames: 0,
            subscribers: Vec::new(),
            held: None,
        })
    }
}

impl Service {
    fn announce(&mut self, id: &str, instances: &[Value], fault: Fault) {
        let from = self.revision;
        self.revision += instances.len() as u64;
        self.frames += 1;
        let text = change(id, from, self.revision, instances, fault);
        for (index, out) in self.subscribers.iter().enumerate() {
            let is_hit = index == 0 && self.frames == 3;
            match fault {
                Fault::Lose if is_hit => {}
                Fault::Swap if is_hit => self.held = Some(text.clone()),
                Fault::Duplicate if is_hit => {
                    send(out, &text);
                    send(out, &text);
                }
                Fault::Collapse if is_hit => {
                    let snapshot = json!({"type":"service_snapshot","service_id":id,"epoch":"e",
                        "revision":self.revision,"instances":instances});
                    send(out, &snapshot.to_string());
                }
                _ => send(out, &text),
            }
            if index == 0
                && self.frames == 4
                && let Some(late) = self.held.take()
            {
                send(out, &late);
            }
        }
    }
}

fn change(id: &str, from: u64, revision: u64, instances: &[Value], fault: Fault) -> String {
    let changes: Vec<Value> = instances
        .iter()
        .map(|instance| json!({"instance":instance,"changeType":"change","reason":"update"}))
        .collect();
    if fault == Fault::Reshape {
        return json!({"changes":changes,"revision":revision,"from":from,"epoch":"e",
            "type":"service_change","service_id":id})
        .to_string();
    }
    format!(
        r#"{{"type":"service_change","service_id":"{id}","epoch":"e","from":{from},"revision":{revision},"changes":{},"degraded":false}}"#,
        Value::from(changes)
    )
}

/// Writes one text frame. A subscriber that is gone is none of our business.
fn send(mut out: &TcpStream, text: &str) {
    let frame = Frame::message(text.as_bytes().to_vec(), OpCode::Data(Data::Text), true);
    let mut bytes = Vec::new();
    frame.format(&mut bytes).unwrap();
    let _ = out.write_all(&bytes);
}
