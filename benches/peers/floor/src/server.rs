//! The loop: accept, read, announce, write.
//!
//! A round is one return of `epoll_wait`. Connections that close during a round are only freed at
//! its end, so that a slot named in a list of this round still means the same connection.

use std::collections::HashMap;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use crate::scan::{self, OPCODE_CLOSE, OPCODE_PING, OPCODE_PONG, OPCODE_TEXT};

/// What one socket may contribute to a round. A publisher that floods must not keep the events of
/// a whole second from leaving.
const READ_BYTES_MAX: usize = 64 * 1024;

const EVENTS_PER_ROUND_MAX: usize = 1_024;

const LISTENER: Token = Token(usize::MAX);

/// Logs that leave in one `writev`. A socket that is due more of them gets a second one.
const SLICES_MAX: usize = 64;

const WELCOME: &[u8] = br#"{"type":"welcome","connection_id":"floor","node_id":"floor","user_id":null,"ping_interval_ms":25000,"version":"0.1.0"}"#;
const REGISTERED: &[u8] = br#"{"type":"registered","failed_instances":[]}"#;
const REGISTERED_HTTP: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 113\r\n\r\n{\"failedInstances\":[],\"responseStatus\":{\"status\":\"success\",\"errorCode\":\"success\",\"message\":\"\",\"errorMessage\":\"\"}}";
const NOT_FOUND: &[u8] = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";

/// When a frame leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    /// At once, one `write` per event and subscriber.
    Send,
    /// At the end of the round, one `write` per socket.
    Coalesce,
}

struct Connection {
    stream: TcpStream,
    is_websocket: bool,
    is_closed: bool,
    /// The start of a request or frame whose end has not come yet.
    tail: Vec<u8>,
    /// What the kernel did not take, and answers until the end of the read.
    unsent: Vec<u8>,
    services: Vec<u32>,
    /// The services with a log to write to this socket at the end of the round.
    due: Vec<u32>,
}

struct Service {
    revision: u64,
    /// The payload up to the value of `from`.
    head: Vec<u8>,
    subscribers: Vec<usize>,
    /// The frames of this round; empty under [`Policy::Send`].
    log: Vec<u8>,
}

/// The listener and everything that was accepted from it.
pub(crate) struct Server {
    policy: Policy,
    poll: Poll,
    listener: TcpListener,
    connections: Slab<Connection>,
    services: Vec<Service>,
    service_indices: HashMap<Vec<u8>, u32>,
    buffer: Vec<u8>,
    /// Read a full buffer last time, so more may wait and epoll will not say so again.
    hungry: Vec<usize>,
    closed: Vec<usize>,
    dirty_connections: Vec<usize>,
    dirty_services: Vec<u32>,
    payload: Vec<u8>,
    frame: Vec<u8>,
}

impl Server {
    pub(crate) fn bind(address: &str, policy: Policy) -> io::Result<Server> {
        let address: SocketAddr = address
            .parse()
            .map_err(|_| io::Error::from(ErrorKind::InvalidInput))?;
        let poll = Poll::new()?;
        let mut listener = TcpListener::bind(address)?;
        poll.registry()
            .register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(Server {
            policy,
            poll,
            listener,
            connections: Slab::new(),
            services: Vec::new(),
            service_indices: HashMap::new(),
            buffer: vec![0; READ_BYTES_MAX],
            hungry: Vec::new(),
            closed: Vec::new(),
            dirty_connections: Vec::new(),
            dirty_services: Vec::new(),
            payload: Vec::new(),
            frame: Vec::new(),
        })
    }

    pub(crate) fn local_address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the poll itself fails.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_PER_ROUND_MAX);
        let mut ready = Vec::new();
        loop {
            let timeout = (!self.hungry.is_empty()).then_some(Duration::ZERO);
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            std::mem::swap(&mut ready, &mut self.hungry);
            let hungry_count = ready.len();
            for event in &events {
                if event.token() == LISTENER {
                    self.accept()?;
                    continue;
                }
                let slot = event.token().0;
                if event.is_writable() {
                    self.flush(slot);
                }
                if event.is_readable() && !ready[..hungry_count].contains(&slot) {
                    ready.push(slot);
                }
            }
            for slot in ready.drain(..) {
                self.read(slot);
            }
            self.settle();
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            stream.set_nodelay(true)?;
            let entry = self.connections.vacant_entry();
            self.poll.registry().register(
                &mut stream,
                Token(entry.key()),
                Interest::READABLE | Interest::WRITABLE,
            )?;
            entry.insert(Connection {
                stream,
                is_websocket: false,
                is_closed: false,
                tail: Vec::new(),
                unsent: Vec::new(),
                services: Vec::new(),
                due: Vec::new(),
            });
        }
    }

    /// Reads once. A short read means the socket is empty: the next byte makes a new edge.
    fn read(&mut self, slot: usize) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        match connection.stream.read(&mut self.buffer) {
            Ok(0) => self.close(slot),
            Ok(length) => {
                if length == self.buffer.len() {
                    self.hungry.push(slot);
                }
                let mut buffer = std::mem::take(&mut self.buffer);
                self.absorb(slot, &mut buffer[..length]);
                self.buffer = buffer;
                self.flush(slot);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.close(slot),
        }
    }

    /// Puts `bytes` behind what was left over, and acts on all that is complete.
    fn absorb(&mut self, slot: usize, bytes: &mut [u8]) {
        let mut tail = std::mem::take(&mut self.connections[slot].tail);
        if tail.is_empty() {
            let taken = self.take(slot, bytes);
            tail.extend_from_slice(&bytes[taken..]);
        } else {
            tail.extend_from_slice(bytes);
            let taken = self.take(slot, &mut tail);
            tail.drain(..taken);
        }
        self.connections[slot].tail = tail;
    }

    /// Acts on the requests and frames in `bytes` and returns how many bytes they were.
    fn take(&mut self, slot: usize, bytes: &mut [u8]) -> usize {
        let mut at = 0;
        loop {
            at += if self.connections[slot].is_websocket {
                let Some(frame) = scan::frame(&mut bytes[at..]) else {
                    return at;
                };
                match frame.opcode {
                    OPCODE_TEXT => self.obey(slot, frame.payload),
                    OPCODE_PING => self.answer(slot, OPCODE_PONG, frame.payload),
                    OPCODE_CLOSE => self.close(slot),
                    _ => {}
                }
                frame.bytes
            } else {
                let Some(request) = scan::request(&bytes[at..]) else {
                    return at;
                };
                if let Some(key) = scan::header(request.head, b"sec-websocket-key") {
                    let connection = &mut self.connections[slot];
                    connection.is_websocket = true;
                    scan::encode_upgrade(key, &mut connection.unsent);
                    self.answer(slot, OPCODE_TEXT, WELCOME);
                } else if request
                    .head
                    .starts_with(b"POST /api/registry/register.json ")
                {
                    self.register(request.body);
                    self.connections[slot]
                        .unsent
                        .extend_from_slice(REGISTERED_HTTP);
                } else {
                    self.connections[slot].unsent.extend_from_slice(NOT_FOUND);
                }
                request.bytes
            };
        }
    }

    /// Carries out one message.
    fn obey(&mut self, slot: usize, text: &[u8]) {
        match scan::string_after(text, b"\"type\":\"") {
            Some(b"register") => {
                self.register(text);
                self.answer(slot, OPCODE_TEXT, REGISTERED);
            }
            Some(b"subscribe") => {
                if let Some(id) = scan::string_after(text, b"\"service_id\":\"") {
                    self.subscribe(slot, id);
                }
            }
            _ => {}
        }
    }

    fn subscribe(&mut self, slot: usize, id: &[u8]) {
        let index = self.service_index(id);
        let connection = &mut self.connections[slot];
        let service = &mut self.services[index as usize];
        if !connection.services.contains(&index) {
            connection.services.push(index);
            service.subscribers.push(slot);
        }
        let mut reply = Vec::with_capacity(128);
        reply.extend_from_slice(b"{\"type\":\"subscribed\",\"service_id\":\"");
        reply.extend_from_slice(id);
        reply.extend_from_slice(b"\",\"epoch\":\"floor\",\"revision\":");
        scan::encode_decimal(service.revision, &mut reply);
        reply.push(b'}');
        self.answer(slot, OPCODE_TEXT, &reply);
    }

    fn service_index(&mut self, id: &[u8]) -> u32 {
        if let Some(index) = self.service_indices.get(id) {
            return *index;
        }
        let mut head = Vec::with_capacity(96);
        head.extend_from_slice(b"{\"type\":\"service_change\",\"service_id\":\"");
        head.extend_from_slice(id);
        head.extend_from_slice(b"\",\"epoch\":\"floor\",\"from\":");
        let index = u32::try_from(self.services.len()).expect("fewer services than bytes of RAM");
        self.services.push(Service {
            revision: 0,
            head,
            subscribers: Vec::new(),
            log: Vec::new(),
        });
        self.service_indices.insert(id.to_vec(), index);
        index
    }

    fn register(&mut self, text: &[u8]) {
        for instance in scan::instances(text) {
            if let Some(id) = scan::string_after(instance, b"\"serviceId\":\"") {
                let index = self.service_index(id);
                self.announce(index, instance);
            }
        }
    }

    /// Frames the change once, and writes it or marks those it is due to.
    fn announce(&mut self, index: u32, instance: &[u8]) {
        let service = &mut self.services[index as usize];
        let payload = &mut self.payload;
        payload.clear();
        payload.extend_from_slice(&service.head);
        scan::encode_decimal(service.revision, payload);
        service.revision += 1;
        payload.extend_from_slice(b",\"revision\":");
        scan::encode_decimal(service.revision, payload);
        payload.extend_from_slice(b",\"changes\":[{\"instance\":");
        payload.extend_from_slice(instance);
        // The floor reads no clock. The constant is as long as a real time.
        payload.extend_from_slice(
            b",\"changeType\":\"change\",\"changeTime\":\"2026-11-20T12:00:00.123Z\",\
              \"reason\":\"update\"}],\"degraded\":false}",
        );
        match self.policy {
            Policy::Send => {
                self.frame.clear();
                scan::encode_frame(OPCODE_TEXT, payload, &mut self.frame);
                for slot in &service.subscribers {
                    self.connections[*slot].write(&self.frame);
                }
            }
            Policy::Coalesce => {
                let is_first = service.log.is_empty();
                scan::encode_frame(OPCODE_TEXT, payload, &mut service.log);
                if is_first {
                    self.dirty_services.push(index);
                    for slot in &service.subscribers {
                        let connection = &mut self.connections[*slot];
                        if connection.due.is_empty() {
                            self.dirty_connections.push(*slot);
                        }
                        connection.due.push(index);
                    }
                }
            }
        }
    }

    /// Ends the round: one write per marked socket, then the closed ones go.
    fn settle(&mut self) {
        for slot in self.dirty_connections.drain(..) {
            let connection = &mut self.connections[slot];
            if let [index] = connection.due[..] {
                connection.due.clear();
                connection.write(&self.services[index as usize].log);
            } else {
                connection.write_due(&self.services);
            }
        }
        for index in self.dirty_services.drain(..) {
            self.services[index as usize].log.clear();
        }
        for slot in self.closed.drain(..) {
            let connection = self.connections.remove(slot);
            for index in connection.services {
                let subscribers = &mut self.services[index as usize].subscribers;
                if let Some(at) = subscribers.iter().position(|other| *other == slot) {
                    subscribers.swap_remove(at);
                }
            }
        }
    }

    fn answer(&mut self, slot: usize, opcode: u8, payload: &[u8]) {
        scan::encode_frame(opcode, payload, &mut self.connections[slot].unsent);
    }

    fn flush(&mut self, slot: usize) {
        if let Some(connection) = self.connections.get_mut(slot) {
            connection.flush();
        }
    }

    fn close(&mut self, slot: usize) {
        let connection = &mut self.connections[slot];
        if !connection.is_closed {
            connection.is_closed = true;
            self.closed.push(slot);
        }
    }
}

impl Connection {
    /// Writes `bytes`, or what is left of them after what is waiting already.
    ///
    /// A write error is not looked at: the read side of the same socket reports it too.
    fn write(&mut self, bytes: &[u8]) {
        let written = if self.unsent.is_empty() {
            self.stream.write(bytes).unwrap_or(0)
        } else {
            0
        };
        if written < bytes.len() {
            self.unsent.extend_from_slice(&bytes[written..]);
        }
    }

    /// Writes the logs of all services in `due`, up to `SLICES_MAX` of them in one call.
    fn write_due(&mut self, services: &[Service]) {
        let log = |index: &u32| &services[*index as usize].log[..];
        for indices in self.due.chunks(SLICES_MAX) {
            let mut written = 0;
            if self.unsent.is_empty() {
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                for (slice, index) in slices.iter_mut().zip(indices) {
                    *slice = IoSlice::new(log(index));
                }
                written = self
                    .stream
                    .write_vectored(&slices[..indices.len()])
                    .unwrap_or(0);
            }
            for bytes in indices.iter().map(log) {
                let skipped = written.min(bytes.len());
                written -= skipped;
                self.unsent.extend_from_slice(&bytes[skipped..]);
            }
        }
        self.due.clear();
    }

    fn flush(&mut self) {
        if self.unsent.is_empty() {
            return;
        }
        if let Ok(written) = self.stream.write(&self.unsent) {
            self.unsent.drain(..written);
        }
        if self.unsent.is_empty() {
            // Idle connections hold no buffer: memory per connection is one of the figures.
            self.unsent = Vec::new();
        }
    }
}
