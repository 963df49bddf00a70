//! The publisher: turns event numbers into registrations and counts those that the server accepted.
//!
//! Registrations go out as messages on sockets, or as HTTP requests with or without pipelining, over
//! one connection or many. Several connections may name the same service: the account is of what the
//! server answered, and whatever order it chose, each event is a change.
//!
//! Event `e` changes service `e % services`, and there instance `e / services % INSTANCES`. Its
//! send time goes into the instance's metadata, so that every event is a real change and every
//! subscriber can tell how old it is. A server with a limit of client messages per connection is
//! served through several sockets, each staying below it.
//!
//! Does not decide when to send: that is `schedule`.
//!
//! Imports `client_socket`, `frame`, `http_answer`, `message`, `target`, `clock`. Imported by
//! `args`, `schedule` and the scenarios.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::time::Duration;

use clap::ValueEnum;
use serde_json::Value;

use crate::client_socket::{self, ClientSocket};
use crate::clock::Clock;
use crate::frame::{self, Opcode};
use crate::http_answer::{self, Verdict};
use crate::message;
use crate::target::Target;

/// The instances of each service that the events go round. Bounds the size of a snapshot.
pub(crate) const INSTANCES: u64 = 16;

/// The lease of an instance of ours: longer than any test.
const LEASE_TTL_MS: u64 = 3_600_000;

/// Bytes that may wait in a socket before no further event is taken.
const OUTGOING_BYTES_MAX: usize = 128 * 1024;

/// The longest frame that the server accepts.
pub(crate) const FRAME_BYTES_MAX: usize = 64 * 1024;

/// How long a connection that takes one request at a time may keep the next one waiting.
const ROOM_NS: u64 = 5_000_000_000;

/// Bytes of an event beside the padding, at most.
const ENVELOPE_BYTES: usize = 400;

/// The way of events to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PublishBy {
    /// As messages on sockets
    Frames,
    /// As HTTP requests, each connection with one at a time
    Http,
    /// As HTTP requests that do not wait for the answers to those before
    HttpPipelined,
}

impl fmt::Display for PublishBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("unnamed", |value| value.get_name()))
    }
}

/// Sends events and counts their answers.
#[derive(Debug)]
pub(crate) struct Publisher {
    /// The number of accepted changes of each service, which is its expected revision.
    pub(crate) accepted: Vec<u64>,
    /// The number of events sent.
    pub(crate) sent: u64,
    /// The number of events refused for their rate.
    pub(crate) rate_limited: u64,
    /// The number of other refusals, and the first reason.
    pub(crate) refused: u64,
    /// The server's text of the first refusal.
    pub(crate) refusal: Option<String>,
    /// The way of the events.
    pub(crate) publish_by: PublishBy,
    target: Target,
    sockets: Vec<ClientSocket>,
    next_socket: usize,
    services: u64,
    prefix: String,
    padding: String,
    payload: String,
    clock: Clock,
    next_id: u64,
}

impl Publisher {
    /// Connects `sockets` times.
    pub(crate) fn connect(
        target: &Target,
        publish_by: PublishBy,
        sockets: usize,
        prefix: &str,
        services: usize,
        payload_bytes: usize,
        clock: Clock,
    ) -> io::Result<Self> {
        Ok(Publisher {
            accepted: vec![0; services],
            sent: 0,
            rate_limited: 0,
            refused: 0,
            refusal: None,
            target: target.clone(),
            publish_by,
            sockets: (0..sockets.max(1))
                .map(|_| match publish_by {
                    PublishBy::Frames => ClientSocket::open(target),
                    PublishBy::Http | PublishBy::HttpPipelined => ClientSocket::connect(target),
                })
                .collect::<io::Result<_>>()?,
            next_socket: 0,
            services: services as u64,
            prefix: prefix.to_owned(),
            padding: "x".repeat(payload_bytes),
            payload: String::new(),
            clock,
            next_id: 1,
        })
    }

    /// How many events fit one frame.
    pub(crate) fn events_per_frame_max(&self) -> u64 {
        let room = FRAME_BYTES_MAX / (self.padding.len() + ENVELOPE_BYTES);
        // More than `INSTANCES` per service would name the same instance twice in one request.
        (room as u64).clamp(1, INSTANCES * self.services)
    }

    /// How many events have no answer yet.
    pub(crate) fn in_flight(&self) -> u64 {
        self.sockets.iter().flat_map(|socket| &socket.in_flight).map(|(_, _, count)| count).sum()
    }

    /// How many sockets there are.
    pub(crate) fn line_count(&self) -> usize {
        self.sockets.len()
    }

    /// Whether there is a socket that can take a request.
    pub(crate) fn can_send(&self) -> bool {
        self.free_socket().is_some()
    }

    /// The socket that takes the next request: the next one in turn, or without pipelining the next one
    /// that waits for no answer.
    fn free_socket(&self) -> Option<usize> {
        let count = self.sockets.len();
        if self.publish_by == PublishBy::Http {
            return (self.next_socket..self.next_socket + count)
                .map(|index| index % count)
                .find(|index| self.sockets[*index].in_flight.is_empty());
        }
        let has_room = self.sockets[self.next_socket].outgoing.len() < OUTGOING_BYTES_MAX;
        has_room.then_some(self.next_socket)
    }

    /// Waits for such a socket where a connection takes one request at a time.
    fn await_room(&mut self) -> io::Result<()> {
        let end_ns = self.clock.now_ns() + ROOM_NS;
        while self.publish_by == PublishBy::Http && !self.can_send() {
            if self.clock.now_ns() > end_ns {
                return Err(io::Error::other("the server answered no publisher for 5 s"));
            }
            self.turn(Duration::from_millis(1))?;
        }
        Ok(())
    }

    /// Sends the next `count` events in one frame or request; `stamp_ns` gives the send time of each.
    pub(crate) fn send(&mut self, count: u64, stamp_ns: impl Fn(u64) -> u64) {
        let id = self.next_id;
        self.next_id += 1;
        self.payload.clear();
        let _ = match self.publish_by {
            PublishBy::Frames => {
                write!(self.payload, r#"{{"type":"register","id":{id},"instances":["#)
            }
            PublishBy::Http | PublishBy::HttpPipelined => {
                write!(self.payload, r#"{{"instances":["#)
            }
        };
        for event in self.sent..self.sent + count {
            if event > self.sent {
                self.payload.push(',');
            }
            let (service, instance) = self.names(event);
            // Writing into a string cannot fail.
            let _ = write!(
                self.payload,
                r#"{{"serviceId":"{}{service}","instanceId":"i{instance}","ip":"127.0.0.1","port":9000,"status":"up","leaseTtlMs":{LEASE_TTL_MS},"metadata":{{"t":"{}","pad":"{}"}}}}"#,
                self.prefix,
                stamp_ns(event),
                self.padding
            );
        }
        self.payload.push_str("]}");
        let index = self.free_socket().unwrap_or(self.next_socket);
        let outgoing = &mut self.sockets[index].outgoing;
        match self.publish_by {
            PublishBy::Frames => {
                frame::encode(Opcode::Text, self.payload.as_bytes(), id as u32, outgoing);
            }
            PublishBy::Http | PublishBy::HttpPipelined => {
                let head = self.target.post_head("/api/registry/register.json");
                append_request(&head, &self.payload, outgoing);
            }
        }
        self.sockets[index].in_flight.push_back((id, self.sent, count));
        self.sent += count;
        self.next_socket = (index + 1) % self.sockets.len();
    }

    /// Writes as many bytes as the kernel takes, and reads answers. Waits for either at most
    /// `timeout`; not at all if that is zero.
    pub(crate) fn turn(&mut self, timeout: Duration) -> io::Result<()> {
        self.flush()?;
        if !timeout.is_zero() {
            client_socket::wait(&self.sockets, timeout)?;
            self.flush()?;
        }
        for index in 0..self.sockets.len() {
            match self.publish_by {
                PublishBy::Frames => self.read_frames(index)?,
                PublishBy::Http | PublishBy::HttpPipelined => self.read_answers(index)?,
            }
        }
        Ok(())
    }

    /// Sends one event now, without waiting for its answer.
    pub(crate) fn send_now(&mut self) -> io::Result<u64> {
        self.await_room()?;
        let now_ns = self.clock.now_ns();
        self.send(1, |_| now_ns);
        self.flush()?;
        Ok(now_ns)
    }

    /// Waits until everything sent is answered. Returns how many events stayed without an answer.
    pub(crate) fn settle(&mut self) -> io::Result<u64> {
        let mut progress_ns = self.clock.now_ns();
        let mut left = self.in_flight();
        while left > 0 && self.clock.now_ns() - progress_ns < 5_000_000_000 {
            self.turn(Duration::from_millis(20))?;
            if self.in_flight() < left {
                left = self.in_flight();
                progress_ns = self.clock.now_ns();
            }
        }
        Ok(left)
    }

    /// Unregisters the instances. A best effort: the leases end by themselves.
    pub(crate) fn clean_up(mut self) {
        for service in 0..self.services {
            let keys: Vec<String> = (0..INSTANCES.min(self.sent.div_ceil(self.services)))
                .map(|i| {
                    format!(r#"{{"serviceId":"{}{service}","instanceId":"i{i}"}}"#, self.prefix)
                })
                .collect();
            let (index, keys) = (service as usize % self.sockets.len(), keys.join(","));
            let is_last = service + self.sockets.len() as u64 >= self.services;
            let outgoing = &mut self.sockets[index].outgoing;
            if self.publish_by == PublishBy::Frames {
                let text = format!(r#"{{"type":"unregister","instance_keys":[{keys}]}}"#);
                frame::encode(Opcode::Text, text.as_bytes(), 3, outgoing);
            } else {
                let body = format!(r#"{{"instanceKeys":[{keys}]}}"#);
                let mut head = self.target.post_head("/api/registry/unregister.json");
                if is_last {
                    head.push_str("Connection: close\r\n");
                }
                append_request(&head, &body, outgoing);
            }
        }
        for socket in &mut self.sockets {
            if self.publish_by == PublishBy::Frames {
                frame::encode(Opcode::Close, &1000u16.to_be_bytes(), 3, &mut socket.outgoing);
            }
            // The answers are of no interest, but reading to the end lets the server close first.
            let _ = socket.stream.set_nonblocking(false);
            let _ = socket.stream.set_read_timeout(Some(Duration::from_secs(2)));
            let _ = socket.stream.set_write_timeout(Some(Duration::from_secs(2)));
            let has_words = !socket.outgoing.is_empty();
            if has_words && socket.stream.write_all(&socket.outgoing).is_ok() {
                let _ = io::copy(&mut socket.stream, &mut io::sink());
            }
        }
    }

    fn names(&self, event: u64) -> (u64, u64) {
        (event % self.services, event / self.services % INSTANCES)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sockets.iter_mut().try_for_each(ClientSocket::flush)
    }

    fn read_frames(&mut self, index: usize) -> io::Result<()> {
        let socket = &mut self.sockets[index];
        if socket.fill()? == 0 {
            return Ok(());
        }
        let incoming = std::mem::take(&mut socket.incoming);
        let mut used = 0;
        while let Some(frame) = frame::decode(&incoming, used).map_err(io::Error::other)? {
            used = frame.payload.end;
            let payload = &incoming[frame.payload.clone()];
            match frame.opcode {
                Opcode::Ping => {
                    frame::encode(Opcode::Pong, payload, 5, &mut self.sockets[index].outgoing);
                }
                Opcode::Close => {
                    let code = payload.first_chunk().map_or(1005, |c| u16::from_be_bytes(*c));
                    return Err(io::Error::other(format!(
                        "the server closed the publisher's connection with {code}"
                    )));
                }
                Opcode::Text => self.answered(index, payload),
                _ => {}
            }
        }
        self.sockets[index].incoming = incoming;
        self.sockets[index].incoming.drain(..used);
        Ok(())
    }

    fn read_answers(&mut self, index: usize) -> io::Result<()> {
        let socket = &mut self.sockets[index];
        match socket.fill() {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            // A server ends a connection that has asked for nothing for a while.
            Err(_) if socket.in_flight.is_empty() => {
                self.sockets[index] = ClientSocket::connect(&self.target)?;
                return Ok(());
            }
            Err(fault) => return Err(fault),
        }
        let incoming = std::mem::take(&mut socket.incoming);
        let mut used = 0;
        while let Some(answer) = http_answer::decode(&incoming[used..]).map_err(io::Error::other)? {
            let body = &incoming[used..][answer.body];
            used += answer.bytes;
            // Answers come in the order of the requests.
            if let Some((_, first, count)) = self.sockets[index].in_flight.pop_front() {
                self.judged(http_answer::verdict(answer.status, body), first, count);
            }
        }
        self.sockets[index].incoming = incoming;
        self.sockets[index].incoming.drain(..used);
        Ok(())
    }

    /// Notes what became of the events of one request.
    fn judged(&mut self, verdict: Verdict, first: u64, count: u64) {
        match verdict {
            Verdict::Accepted { failed } => {
                for event in first..first + count {
                    self.accepted[(event % self.services) as usize] += 1;
                }
                for failed in &failed {
                    self.take_back(failed);
                }
            }
            Verdict::Refused { is_rate_limited, words } => {
                if is_rate_limited {
                    self.rate_limited += count;
                } else {
                    self.refused += count;
                }
                self.refusal.get_or_insert(words);
            }
        }
    }

    fn answered(&mut self, index: usize, payload: &[u8]) {
        let Some(message) = message::parse(payload) else {
            return;
        };
        if message.kind != "registered" && message.kind != "error" {
            return;
        }
        let in_flight = &mut self.sockets[index].in_flight;
        // Answers come in order as a rule. One without an id is taken for the oldest request.
        let position = message.id.map_or(Some(0), |id| in_flight.iter().position(|r| r.0 == id));
        let Some((_, first, count)) = position.and_then(|at| in_flight.remove(at)) else {
            return;
        };
        let verdict = if message.kind == "error" {
            Verdict::Refused {
                is_rate_limited: message.code == "rate_limited",
                words: format!("{}: {}", message.code, message.words),
            }
        } else {
            Verdict::Accepted { failed: message.failed_instances }
        };
        self.judged(verdict, first, count);
    }

    /// An instance of an otherwise accepted request failed.
    fn take_back(&mut self, failed: &Value) {
        self.refused += 1;
        self.refusal.get_or_insert_with(|| {
            let word = |key: &str| failed[key].as_str().unwrap_or("?").to_owned();
            format!("{}: {}", word("errorCode"), word("errorMessage"))
        });
        let service_id = failed["instance"]["serviceId"].as_str().unwrap_or_default();
        let service = service_id.strip_prefix(&self.prefix).and_then(|text| text.parse().ok());
        if let Some(accepted) = service.and_then(|index: usize| self.accepted.get_mut(index)) {
            *accepted = accepted.saturating_sub(1);
        }
    }
}

/// Appends a request to the bytes of a socket.
fn append_request(head: &str, body: &str, outgoing: &mut Vec<u8>) {
    // Writing into a vector cannot fail.
    let _ = write!(outgoing, "{head}Content-Length: {}\r\n\r\n{body}", body.len());
}

/// The errors that the server answered to events, for the report.
pub(crate) fn refusals(publisher: &Publisher) -> BTreeMap<&'static str, u64> {
    [("rate_limited", publisher.rate_limited), ("refused", publisher.refused)]
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .collect()
}
