//! The loop: one epoll, one read buffer, all connections of a run.
//!
//! The driver knows how a connection comes up, what its bytes mean and what to count. It does not
//! know what a run measures: `modes` tells it when to publish and when to stop.
//!
//! Sockets are edge-triggered. A read that does not fill the buffer has emptied the socket, so
//! there is one system call per readable socket and round.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use crate::histogram::Histogram;
use crate::ledger::{Layout, Ledger};
use crate::wire::{self, Message, Scanner};

const READ_BYTES_MAX: usize = 256 * 1024;

/// Few, so that the publisher's window is topped up while the subscribers are still being read.
const EVENTS_PER_ROUND_MAX: usize = 128;

const TIMER: Token = Token(usize::MAX);

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Subscriber,
    FramePublisher,
    HttpPublisher,
    /// Sends one request after the other; its answers are timed.
    HttpWorker,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Connecting,
    Upgrading,
    Subscribing { left: usize },
    Open,
    Closed,
}

#[derive(Debug)]
struct Client {
    stream: TcpStream,
    role: Role,
    stage: Stage,
    /// When the connection was begun, or for a worker when its request was sent.
    began_ns: u64,
    /// The start of a frame or answer whose end has not come yet.
    tail: Vec<u8>,
    unsent: Vec<u8>,
}

/// What came, since the run began.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    /// Changes that reached a subscriber; a frame may carry several.
    pub(crate) deliveries: u64,
    pub(crate) frames: u64,
    /// Payload bytes of the frames.
    pub(crate) frame_bytes: u64,
    /// Answers to the publisher.
    pub(crate) acknowledged: u64,
    /// Answers to the workers.
    pub(crate) answered: u64,
    /// Answers that say no.
    pub(crate) refused: u64,
    /// Connections that are ready for use.
    pub(crate) opened: u64,
    /// Connections that the server ended, and those that never came up.
    pub(crate) closed: u64,
}

/// All connections of a run, the subscribers first: their place is their number in the ledger.
#[derive(Debug)]
pub(crate) struct Driver {
    server: SocketAddr,
    layout: Layout,
    poll: Poll,
    events: Events,
    timer: OwnedFd,
    timer_ns: u64,
    epoch: Instant,
    clients: Vec<Client>,
    /// Filled the buffer at their last read: epoll will not name them again.
    hungry: Vec<usize>,
    buffer: Vec<u8>,
    scanner: Scanner,
    /// Connections below this one are not read from.
    stalled: usize,
    pub(crate) counts: Counts,
    pub(crate) ledger: Ledger,
    /// From the event's time stamp to its delivery, for stamps inside `window`.
    pub(crate) latency: Histogram,
    /// From `connect` to the last `subscribed`.
    pub(crate) opening: Histogram,
    /// From a worker's request to its answer.
    pub(crate) answering: Histogram,
    pub(crate) window: std::ops::Range<u64>,
    /// Workers that wait for their next request.
    pub(crate) idle_workers: Vec<usize>,
}

impl Driver {
    pub(crate) fn new(server: SocketAddr, layout: Layout, stalled: usize) -> io::Result<Driver> {
        let poll = Poll::new()?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
        let source = timer.as_raw_fd();
        poll.registry().register(&mut SourceFd(&source), TIMER, Interest::READABLE)?;
        Ok(Driver {
            server,
            layout,
            poll,
            events: Events::with_capacity(EVENTS_PER_ROUND_MAX),
            timer,
            timer_ns: 0,
            epoch: Instant::now(),
            clients: Vec::new(),
            hungry: Vec::new(),
            buffer: vec![0; READ_BYTES_MAX],
            scanner: Scanner::default(),
            stalled: 0,
            counts: Counts::default(),
            ledger: Ledger::new(layout, stalled),
            latency: Histogram::new(),
            opening: Histogram::new(),
            answering: Histogram::new(),
            window: 0..0,
            idle_workers: Vec::new(),
        })
    }

    /// Nanoseconds since the driver was made: the clock of the time stamps.
    pub(crate) fn now_ns(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    /// Stops reading from the first `count` connections, or takes it up again with 0.
    pub(crate) fn stall(&mut self, count: usize) {
        self.hungry.extend(count..self.stalled);
        self.stalled = count;
    }

    /// Opens `count` more connections of one role, at most `concurrent` at a time.
    ///
    /// Returns when the last is ready for use, or an error if one of them cannot be had.
    pub(crate) fn open(&mut self, role: Role, count: usize, concurrent: usize) -> io::Result<()> {
        let (opened, closed) = (self.counts.opened, self.counts.closed);
        let deadline = self.now_ns() + 120 * 1_000_000_000;
        let mut begun = 0;
        loop {
            let done = (self.counts.opened - opened) as usize;
            if self.counts.closed > closed {
                return Err(io::Error::other("the server ended a connection that was coming up"));
            }
            if done == count {
                return Ok(());
            }
            if self.now_ns() > deadline {
                return Err(io::Error::new(ErrorKind::TimedOut, "connections did not come up"));
            }
            while begun < count && begun - done < concurrent {
                self.begin(role)?;
                begun += 1;
            }
            self.turn(self.now_ns() + 1_000_000_000)?;
        }
    }

    fn begin(&mut self, role: Role) -> io::Result<usize> {
        let mut stream = TcpStream::connect(self.server)?;
        stream.set_nodelay(true)?;
        let index = self.clients.len();
        self.poll.registry().register(
            &mut stream,
            Token(index),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        self.clients.push(Client {
            stream,
            role,
            stage: Stage::Connecting,
            began_ns: self.now_ns(),
            tail: Vec::new(),
            unsent: Vec::new(),
        });
        Ok(index)
    }

    /// Ends all connections.
    pub(crate) fn close_all(&mut self) {
        self.clients.clear();
        self.hungry.clear();
        self.idle_workers.clear();
    }

    /// The number of the connection opened last.
    pub(crate) fn newest(&self) -> usize {
        self.clients.len() - 1
    }

    /// The bytes to leave on a connection at its next [`Driver::flush`].
    pub(crate) fn unsent(&mut self, index: usize) -> &mut Vec<u8> {
        &mut self.clients[index].unsent
    }

    /// Sends a worker's next request.
    pub(crate) fn request(&mut self, index: usize, request: &[u8]) {
        self.clients[index].began_ns = self.now_ns();
        self.clients[index].unsent.extend_from_slice(request);
        self.flush(index);
    }

    pub(crate) fn flush(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if client.unsent.is_empty() {
            return;
        }
        match client.stream.write(&client.unsent) {
            Ok(written) => {
                client.unsent.drain(..written);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.close(index),
        }
    }

    /// Waits until something happens or the clock passes `until_ns`, and handles what did.
    pub(crate) fn turn(&mut self, until_ns: u64) -> io::Result<()> {
        let now_ns = self.now_ns();
        let timeout = (!self.hungry.is_empty() || until_ns <= now_ns).then_some(Duration::ZERO);
        if timeout.is_none() && self.timer_ns != until_ns {
            // epoll counts in milliseconds, which is too coarse for a latency that starts here.
            let value = Duration::from_nanos(until_ns - now_ns)
                .try_into()
                .unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
            let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
            let setting = Itimerspec { it_interval: zero, it_value: value };
            timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &setting)?;
            self.timer_ns = until_ns;
        }
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        match self.poll.poll(&mut events, timeout) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for index in std::mem::take(&mut self.hungry) {
            self.read(index);
        }
        for event in &events {
            let index = event.token().0;
            if event.token() == TIMER {
                self.timer_ns = 0;
                continue;
            }
            if event.is_writable() && index < self.clients.len() {
                self.write(index);
            }
            if event.is_readable() && index >= self.stalled && index < self.clients.len() {
                self.read(index);
            }
        }
        self.events = events;
        Ok(())
    }

    /// The socket takes bytes: the connection is up, or has room again.
    fn write(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if client.stage == Stage::Connecting {
            if client.stream.take_error().is_ok_and(|error| error.is_some()) {
                return self.close(index);
            }
            match client.role {
                Role::Subscriber | Role::FramePublisher => {
                    client.stage = Stage::Upgrading;
                    client.unsent = wire::upgrade_request();
                }
                Role::HttpPublisher | Role::HttpWorker => self.opened(index),
            }
        }
        self.flush(index);
    }

    fn opened(&mut self, index: usize) {
        let now_ns = self.now_ns();
        let client = &mut self.clients[index];
        client.stage = Stage::Open;
        // Ten thousand idle buffers would be memory for nothing.
        client.unsent = Vec::new();
        self.counts.opened += 1;
        self.opening.record(now_ns - client.began_ns);
        if client.role == Role::HttpWorker {
            self.idle_workers.push(index);
        }
    }

    fn close(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if client.stage != Stage::Closed {
            client.stage = Stage::Closed;
            client.unsent = Vec::new();
            // The socket itself stays until the run ends; shut, it causes no more events.
            let _ = client.stream.shutdown(std::net::Shutdown::Both);
            self.counts.closed += 1;
        }
    }

    fn read(&mut self, index: usize) {
        if self.clients[index].stage == Stage::Closed {
            return;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        match self.clients[index].stream.read(&mut buffer) {
            Ok(0) => self.close(index),
            Ok(length) => {
                if length == buffer.len() {
                    self.hungry.push(index);
                }
                self.absorb(index, &buffer[..length]);
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {}
            Err(_) => self.close(index),
        }
        self.buffer = buffer;
    }

    /// Handles what a read brought.
    fn absorb(&mut self, index: usize, mut bytes: &[u8]) {
        let now_ns = self.now_ns();
        let mut tail = std::mem::take(&mut self.clients[index].tail);
        let is_frames =
            matches!(self.clients[index].stage, Stage::Subscribing { .. } | Stage::Open)
                && matches!(self.clients[index].role, Role::Subscriber | Role::FramePublisher);
        if is_frames {
            // Only the frame that is cut in two is copied, not all that came with its end.
            while !tail.is_empty() && !bytes.is_empty() {
                let missing = wire::frame_bytes(&tail).map_or(1, |total| total - tail.len());
                let (now, later) = bytes.split_at(missing.min(bytes.len()));
                tail.extend_from_slice(now);
                bytes = later;
                let taken = self.take_frames(index, &tail, now_ns);
                tail.drain(..taken);
            }
            let taken = self.take_frames(index, bytes, now_ns);
            tail.extend_from_slice(&bytes[taken..]);
        } else {
            tail.extend_from_slice(bytes);
            let taken = self.take_http(index, &tail, now_ns);
            tail.drain(..taken);
        }
        self.clients[index].tail = tail;
    }

    /// Handles the frames in `bytes` and returns how many bytes they were.
    fn take_frames(&mut self, index: usize, bytes: &[u8], now_ns: u64) -> usize {
        let mut at = 0;
        while let Some(frame) = wire::frame(&bytes[at..]) {
            at += frame.bytes;
            match frame.opcode {
                wire::OPCODE_TEXT => self.take_text(index, frame.payload, now_ns),
                wire::OPCODE_PING => {
                    let unsent = &mut self.clients[index].unsent;
                    wire::encode_frame(wire::OPCODE_PONG, frame.payload, unsent);
                    self.flush(index);
                }
                wire::OPCODE_CLOSE => self.close(index),
                _ => {}
            }
        }
        at
    }

    fn take_text(&mut self, index: usize, text: &[u8], now_ns: u64) {
        match self.scanner.message(text) {
            Message::Change { service, from, revision, changes } => {
                if !self.ledger.change(index, service, from, revision) {
                    return;
                }
                self.counts.frames += 1;
                self.counts.frame_bytes += text.len() as u64;
                self.counts.deliveries += revision.saturating_sub(from);
                let (window, latency) = (&self.window, &mut self.latency);
                self.scanner.stamps(changes, revision.saturating_sub(from), |stamp_ns| {
                    if window.contains(&stamp_ns) {
                        latency.record(now_ns.saturating_sub(stamp_ns));
                    }
                });
            }
            Message::Snapshot { service, revision } => {
                self.ledger.snapshot(index, service, revision);
            }
            Message::Subscribed { service, revision } => {
                self.ledger.start(index, service, revision);
                if let Stage::Subscribing { left } = &mut self.clients[index].stage {
                    *left -= 1;
                    if *left == 0 {
                        self.opened(index);
                    }
                }
            }
            Message::Registered { is_whole } => {
                self.counts.acknowledged += 1;
                self.counts.refused += u64::from(!is_whole);
            }
            Message::Error => {
                self.counts.refused += 1;
                // The publisher's window must not shrink by what was refused.
                if self.clients[index].role == Role::FramePublisher {
                    self.counts.acknowledged += 1;
                }
            }
            Message::Other => {}
        }
    }

    /// Handles answers over HTTP, the one to the upgrade among them.
    fn take_http(&mut self, index: usize, bytes: &[u8], now_ns: u64) -> usize {
        let mut at = 0;
        while let Some(response) = wire::response(&bytes[at..]) {
            let whole = &bytes[at..at + response.bytes];
            at += response.bytes;
            if self.clients[index].stage == Stage::Upgrading {
                if !wire::is_upgraded(whole) {
                    self.close(index);
                    return at;
                }
                self.upgraded(index);
                return at + self.take_frames(index, &bytes[at..], now_ns);
            }
            let is_success = response.is_ok && wire::is_success(response.body);
            self.counts.refused += u64::from(!is_success);
            if self.clients[index].role == Role::HttpWorker {
                self.counts.answered += 1;
                self.answering.record(now_ns - self.clients[index].began_ns);
                self.idle_workers.push(index);
            } else {
                self.counts.acknowledged += 1;
            }
        }
        at
    }

    fn upgraded(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if client.role == Role::FramePublisher {
            return self.opened(index);
        }
        let mut left = 0;
        for service in self.layout.services_of(index) {
            wire::encode_subscribe(service, &mut client.unsent);
            left += 1;
        }
        client.stage = Stage::Subscribing { left };
        if left == 0 {
            return self.opened(index);
        }
        self.flush(index);
    }
}
