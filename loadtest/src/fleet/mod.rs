//! The fleet: many connections, one thread, one read buffer.
//!
//! ```text
//! poll --> readable --> read into the shared buffer --> frames in place --> tally
//!     \--> writable --> what was owed: upgrade, subscribe, pong, close
//! ```
//!
//! # Promises
//!
//! * A delivery costs no allocation and no copy beyond the kernel's.
//! * A connection between two frames owns no buffer.
//! * Nothing is dropped in silence: a frame that is neither a delivery nor an expected answer is
//!   counted in `FleetCounts` and is in the report.
//!
//! Imports `connection`, `frame`, `message`, `tally`, `target`, `clock`. Imported by the scenarios.

mod read;

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use hdrhistogram::Histogram;
use mio::{Events, Interest, Poll, Token};

use crate::clock::Clock;
use crate::connection::{Connection, Phase};
use crate::frame::Opcode;
use crate::message::{self, Scanner, Since};
use crate::recent::Recent;
use crate::tally::{self, Tally};
use crate::target::Target;

/// The shared read buffer. Fits the second-level cache; grows only for a single longer frame.
const BUFFER_BYTES: usize = 128 * 1024;

/// The most sockets that one poll reports.
const EVENTS_MAX: usize = 1024;

/// Subscriptions that a connection requests in one go. Below the burst that the server grants.
pub(crate) const ASKED_AT_ONCE_MAX: usize = 150;

/// The counts beside the deliveries.
#[derive(Debug, Default)]
pub(crate) struct FleetCounts {
    /// Connections that were opened.
    pub(crate) made: u64,
    /// Connections that did not.
    pub(crate) failed: u64,
    /// The first reason why one did not.
    pub(crate) failure: Option<String>,
    /// Subscriptions that were answered.
    pub(crate) subscribed: u64,
    /// Connections that the server ended, by close code; 1006 without a close frame.
    pub(crate) closed_by_server: BTreeMap<u16, u64>,
    /// Errors that the server answered, by code.
    pub(crate) errors: BTreeMap<String, u64>,
    /// Pings that we answered.
    pub(crate) pings: u64,
    /// Bytes read from open connections, with frame headers.
    pub(crate) bytes: u64,
    /// `service_change` frames.
    pub(crate) change_frames: u64,
    /// Connections dropped because their bytes are not a WebSocket stream.
    pub(crate) broken: u64,
}

/// Many connections on one poll loop.
#[derive(Debug)]
pub(crate) struct Fleet {
    /// The counts beside the deliveries.
    pub(crate) counts: FleetCounts,
    /// The deliveries.
    pub(crate) tally: Tally,
    /// From `connect` to the answer to the upgrade.
    pub(crate) connect: Histogram<u64>,
    /// From `connect` to the answer to the last subscription.
    pub(crate) subscribe: Histogram<u64>,
    connections: Vec<Connection>,
    target: Target,
    prefix: String,
    epochs: Vec<String>,
    poll: Poll,
    events: Events,
    buffer: Vec<u8>,
    scanner: Scanner,
    recent: Recent,
    stamps: Vec<u64>,
    clock: Clock,
    mask_key: u32,
    settled: usize,
    serial: usize,
}

impl Fleet {
    /// A fleet without sockets. `serial` is the number of sockets that this run has used before.
    pub(crate) fn new(
        target: &Target,
        prefix: &str,
        tally: Tally,
        connections: usize,
        clock: Clock,
        serial: usize,
    ) -> io::Result<Self> {
        Ok(Fleet {
            counts: FleetCounts::default(),
            connect: tally::histogram(),
            subscribe: tally::histogram(),
            connections: (0..connections).map(|_| Connection::vacant()).collect(),
            target: target.clone(),
            prefix: prefix.to_owned(),
            epochs: vec![String::new(); tally.layout.services],
            tally,
            poll: Poll::new()?,
            events: Events::with_capacity(EVENTS_MAX),
            buffer: vec![0; BUFFER_BYTES],
            scanner: Scanner::new(),
            recent: Recent::new(),
            stamps: Vec::new(),
            clock,
            mask_key: 0x9e37_79b9,
            settled: 0,
            serial,
        })
    }

    /// How many sockets this run has used so far.
    pub(crate) fn serial(&self) -> usize {
        self.serial
    }

    /// How many connections have either opened or failed.
    pub(crate) fn settled(&self) -> usize {
        self.settled
    }

    /// Whether a connection is open now.
    pub(crate) fn is_open(&self, index: usize) -> bool {
        self.connections[index].phase == Phase::Open
    }

    /// How many connections are open now.
    pub(crate) fn open_count(&self) -> usize {
        self.connections.iter().filter(|connection| connection.phase == Phase::Open).count()
    }

    /// How many places there are, occupied or not.
    pub(crate) fn place_count(&self) -> usize {
        self.connections.len()
    }

    /// Whether a connection has ended, so that its index may be used again.
    pub(crate) fn is_closed(&self, index: usize) -> bool {
        self.connections[index].phase == Phase::Closed
    }

    /// Whether a connection has reached the given revision of each of its services.
    pub(crate) fn is_current(&self, index: usize, revisions: &[u64]) -> bool {
        let layout = self.tally.layout;
        (0..layout.per_connection).all(|slot| {
            let place = index * layout.per_connection + slot;
            let goal = revisions[layout.service_at(place)];
            self.tally.revision(place).is_some_and(|revision| revision >= goal)
        })
    }

    /// Whether every open connection has an answer to each subscription it asked for.
    pub(crate) fn is_answered(&self) -> bool {
        let mut open = self.connections.iter().filter(|c| c.phase == Phase::Open);
        open.all(|connection| connection.subscribed == connection.asked)
    }

    /// Starts one connection. It subscribes as soon as it is open.
    pub(crate) fn start(&mut self, index: usize, is_slow: bool) {
        let now_ns = self.clock.now_ns();
        self.serial += 1;
        let started = Connection::start(&self.target, self.serial, is_slow, now_ns);
        let registered = started.and_then(|mut connection| {
            if let Some(stream) = &mut connection.stream {
                let both = Interest::READABLE | Interest::WRITABLE;
                self.poll.registry().register(stream, Token(index), both)?;
            }
            Ok(connection)
        });
        match registered {
            Ok(connection) => self.connections[index] = connection,
            Err(error) => self.fail(index, error.to_string()),
        }
    }

    /// Waits for sockets at most `timeout` and serves those that are ready.
    pub(crate) fn turn(&mut self, timeout: Duration) -> io::Result<()> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            polled => polled?,
        }
        // Taken out while the connections are served, and put back: nothing here allocates.
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            let index = event.token().0;
            if event.is_writable() {
                self.serve_writable(index);
            }
            if event.is_readable() {
                self.serve_readable(index, event.is_read_closed());
            }
        }
        self.events = events;
        Ok(())
    }

    /// Asks for the next subscriptions of a connection, at most `ASKED_AT_ONCE_MAX`. Returns
    /// whether there were any left to ask for.
    pub(crate) fn ask(&mut self, index: usize) -> bool {
        let layout = self.tally.layout;
        let asked = self.connections[index].asked;
        let end = layout.per_connection.min(asked + ASKED_AT_ONCE_MAX);
        for slot in asked..end {
            let service = layout.service_of(index, slot);
            let revision = self.tally.revision(index * layout.per_connection + slot);
            // A known revision means that this connection is coming back.
            let epoch = self.epochs[service].as_str();
            let since = revision.map(|revision| Since { epoch, revision });
            let text = message::subscribe(&format!("{}{service}", self.prefix), since);
            self.mask_key = self.mask_key.wrapping_mul(0x9e37_79b1).wrapping_add(1);
            self.connections[index].push(Opcode::Text, text.as_bytes(), self.mask_key);
        }
        self.connections[index].asked = end;
        self.flush(index);
        end > asked
    }

    /// Stops reading from a connection.
    pub(crate) fn stall(&mut self, index: usize) {
        self.connections[index].is_stalled = true;
    }

    /// Reads again from a stalled connection, beginning with the bytes that have piled up.
    pub(crate) fn resume(&mut self, index: usize) {
        self.connections[index].is_stalled = false;
        // The edge that announced the waiting bytes is long gone.
        self.serve_readable(index, true);
    }

    /// Ends a connection: with the closing handshake, or with a reset.
    pub(crate) fn end(&mut self, index: usize, is_abort: bool) {
        let connection = &mut self.connections[index];
        if is_abort || connection.phase != Phase::Open {
            connection.drop_socket(is_abort);
            return;
        }
        connection.is_closing = true;
        connection.push(Opcode::Close, &1000u16.to_be_bytes(), 1);
        self.flush(index);
    }

    fn flush(&mut self, index: usize) {
        if let Err(error) = self.connections[index].flush() {
            self.lose(index, &error.to_string());
        }
    }

    fn serve_writable(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        if connection.phase == Phase::Connecting {
            let Some(stream) = &connection.stream else {
                return;
            };
            match stream.take_error().and_then(|error| error.map_or(Ok(()), Err)) {
                Err(error) => return self.lose(index, &error.to_string()),
                Ok(()) if stream.peer_addr().is_err() => return,
                Ok(()) => connection.phase = Phase::Upgrading,
            }
        }
        if !self.connections[index].outgoing.is_empty() {
            self.flush(index);
        }
    }

    fn opened(&mut self, index: usize, now_ns: u64) {
        let connection = &mut self.connections[index];
        connection.phase = Phase::Open;
        connection.accept = String::new();
        self.connect.saturating_record(now_ns - connection.started_ns);
        self.counts.made += 1;
        self.settled += 1;
        self.ask(index);
    }

    fn fail(&mut self, index: usize, reason: String) {
        self.counts.failed += 1;
        self.counts.failure.get_or_insert(reason);
        self.settled += 1;
        self.connections[index].drop_socket(false);
    }

    /// Gives up the connections that are still on their way.
    pub(crate) fn give_up_unsettled(&mut self) {
        for index in 0..self.connections.len() {
            if matches!(self.connections[index].phase, Phase::Connecting | Phase::Upgrading) {
                self.fail(index, "no answer within 10 s".to_owned());
            }
        }
    }

    /// A connection has ended; `reason` is empty at an ordinary end of the stream.
    fn lose(&mut self, index: usize, reason: &str) {
        let connection = &mut self.connections[index];
        match connection.phase {
            Phase::Closed => {}
            Phase::Connecting | Phase::Upgrading => {
                let reason = if reason.is_empty() { "closed before the upgrade" } else { reason };
                self.fail(index, reason.to_owned());
            }
            Phase::Open => {
                if !connection.is_closing {
                    let code = connection.close_code.unwrap_or(1006);
                    *self.counts.closed_by_server.entry(code).or_default() += 1;
                    if code == 1006 && reason.starts_with("the server sent") {
                        self.counts.broken += 1;
                    }
                }
                connection.drop_socket(false);
            }
        }
    }
}
