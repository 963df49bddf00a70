//! The loop: one epoll, one read buffer, all connections of a run.
//!
//! The driver knows how a connection comes up, what its bytes mean and what to count. It does not
//! know what a run measures: `modes` tells it when to publish and when to stop.
//!
//! Sockets are edge-triggered. A read that does not fill the buffer has emptied the socket, so
//! there is one system call per readable socket and round.

use std::collections::VecDeque;
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

use crate::centrifugo;
use crate::histogram::Histogram;
use crate::ledger::{Layout, Ledger};
use crate::options::Protocol;
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
    /// Sends requests; their answers are timed.
    HttpWorker,
    /// The same with answers so large that they are counted and not looked at.
    Lister,
    /// Sends pings as messages; their answers are timed.
    Pinger,
}

impl Role {
    fn is_websocket(self) -> bool {
        matches!(self, Role::Subscriber | Role::FramePublisher | Role::Pinger)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Connecting,
    Upgrading,
    /// Waits for the answer to its introduction.
    Greeting,
    Subscribing {
        left: usize,
    },
    Open,
    Closed,
}

#[derive(Debug)]
struct Client {
    stream: TcpStream,
    role: Role,
    stage: Stage,
    /// When the connection was begun.
    began_ns: u64,
    /// Events, requests or pings without an answer yet.
    unanswered: u64,
    /// When they were sent; of events this is not noted.
    sent_ns: VecDeque<u64>,
    /// What is left of an answer that is not looked at.
    body_left: usize,
    /// Whether that answer is what was asked for.
    is_success: bool,
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
    /// Answers to the workers and listers, and the bytes of their bodies.
    pub(crate) answered: u64,
    pub(crate) body_bytes: u64,
    /// Answers to the pingers.
    pub(crate) pongs: u64,
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
    protocol: Protocol,
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
    /// From the event's time stamp to its delivery, for stamps inside `window`; of pings from the
    /// moment at which they were due to their answer.
    pub(crate) latency: Histogram,
    /// From `connect` to the last `subscribed`.
    pub(crate) opening: Histogram,
    /// From a worker's request to its answer.
    pub(crate) answering: Histogram,
    pub(crate) window: std::ops::Range<u64>,
    /// Requests that each worker may have without an answer.
    pub(crate) pipeline: usize,
    /// Workers with room for a request, each as often as it has room.
    pub(crate) idle_workers: Vec<usize>,
    /// Workers with requests that have not been written.
    unwritten: Vec<usize>,
}

impl Driver {
    pub(crate) fn new(
        server: SocketAddr,
        protocol: Protocol,
        layout: Layout,
        stalled: usize,
    ) -> io::Result<Driver> {
        let poll = Poll::new()?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
        let source = timer.as_raw_fd();
        poll.registry().register(&mut SourceFd(&source), TIMER, Interest::READABLE)?;
        Ok(Driver {
            server,
            protocol,
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
            pipeline: 1,
            idle_workers: Vec::new(),
            unwritten: Vec::new(),
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
    /// Returns the number of the first when the last is ready for use, or an error if one of them
    /// cannot be had.
    pub(crate) fn open(
        &mut self,
        role: Role,
        count: usize,
        concurrent: usize,
    ) -> io::Result<usize> {
        let first = self.clients.len();
        let (opened, closed) = (self.counts.opened, self.counts.closed);
        let deadline = self.now_ns() + 120 * 1_000_000_000;
        let mut begun = 0;
        loop {
            let done = (self.counts.opened - opened) as usize;
            if self.counts.closed > closed {
                return Err(io::Error::other("the server ended a connection that was coming up"));
            }
            if done == count {
                return Ok(first);
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
            unanswered: 0,
            sent_ns: VecDeque::new(),
            body_left: 0,
            is_success: true,
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
        self.unwritten.clear();
    }

    /// The number of the first connection of a role; 0 without one.
    pub(crate) fn first_of(&self, role: Role) -> usize {
        self.clients.iter().position(|client| client.role == role).unwrap_or(0)
    }

    /// What has no answer yet on `count` connections from `first` on.
    pub(crate) fn unanswered_of(&self, first: usize, count: usize) -> u64 {
        self.clients[first..first + count].iter().map(|client| client.unanswered).sum()
    }

    /// Events or requests of a connection that have no answer yet.
    pub(crate) fn unanswered(&self, index: usize) -> u64 {
        self.clients[index].unanswered
    }

    /// Where the next event of a publisher goes: it leaves at the next [`Driver::flush`].
    pub(crate) fn next_event(&mut self, index: usize) -> &mut Vec<u8> {
        let client = &mut self.clients[index];
        client.unanswered += 1;
        &mut client.unsent
    }

    /// Where a worker's next request goes: it leaves at the next [`Driver::flush_workers`].
    pub(crate) fn next_request(&mut self, index: usize) -> &mut Vec<u8> {
        let now_ns = self.now_ns();
        let client = &mut self.clients[index];
        if client.unsent.is_empty() {
            self.unwritten.push(index);
        }
        client.unanswered += 1;
        client.sent_ns.push_back(now_ns);
        &mut client.unsent
    }

    /// Writes the requests that wait.
    pub(crate) fn flush_workers(&mut self) {
        let mut unwritten = std::mem::take(&mut self.unwritten);
        for index in unwritten.drain(..) {
            self.flush(index);
        }
        self.unwritten = unwritten;
    }

    /// Sends a ping that was due at a moment.
    pub(crate) fn ping(&mut self, index: usize, due_ns: u64) {
        let client = &mut self.clients[index];
        client.unanswered += 1;
        client.sent_ns.push_back(due_ns);
        wire::encode_frame(wire::OPCODE_TEXT, wire::PING, &mut client.unsent);
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
            if client.role.is_websocket() {
                client.stage = Stage::Upgrading;
                client.unsent = wire::upgrade_request(match self.protocol {
                    Protocol::Fanfare => wire::PATH,
                    Protocol::Centrifugo => centrifugo::PATH,
                });
            } else {
                self.opened(index);
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
        if matches!(client.role, Role::HttpWorker | Role::Lister) {
            self.idle_workers.extend(std::iter::repeat_n(index, self.pipeline));
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
        let client = &self.clients[index];
        let is_frames = client.role.is_websocket()
            && matches!(client.stage, Stage::Greeting | Stage::Subscribing { .. } | Stage::Open);
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
            if self.clients[index].role == Role::Lister {
                bytes = self.skip_body(index, bytes, now_ns);
            }
            tail.extend_from_slice(bytes);
            let taken = self.take_http(index, &tail, now_ns);
            tail.drain(..taken);
        }
        self.clients[index].tail = tail;
    }

    /// Passes over what is left of an answer that is not looked at.
    fn skip_body<'a>(&mut self, index: usize, bytes: &'a [u8], now_ns: u64) -> &'a [u8] {
        let client = &mut self.clients[index];
        let (skipped, rest) = bytes.split_at(bytes.len().min(client.body_left));
        client.body_left -= skipped.len();
        if client.body_left == 0 && !skipped.is_empty() {
            let is_success = client.is_success;
            self.answered(index, is_success, now_ns);
        }
        rest
    }

    /// Handles the frames in `bytes` and returns how many bytes they were.
    fn take_frames(&mut self, index: usize, bytes: &[u8], now_ns: u64) -> usize {
        let mut at = 0;
        while let Some(frame) = wire::frame(&bytes[at..]) {
            at += frame.bytes;
            match frame.opcode {
                wire::OPCODE_TEXT if self.protocol == Protocol::Centrifugo => {
                    for line in frame.payload.split(|byte| *byte == b'\n') {
                        let message = centrifugo::message(line);
                        self.take_message(index, &message, line.len(), now_ns);
                    }
                }
                wire::OPCODE_TEXT => {
                    let message = self.scanner.message(frame.payload);
                    self.take_message(index, &message, frame.payload.len(), now_ns);
                }
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

    fn take_message(&mut self, index: usize, message: &Message, bytes: usize, now_ns: u64) {
        match *message {
            Message::Change { service, from, revision, changes } => {
                if !self.ledger.change(index, service, from, revision) {
                    return;
                }
                let count = revision.saturating_sub(from);
                self.counts.frames += 1;
                self.counts.frame_bytes += bytes as u64;
                self.counts.deliveries += count;
                let (window, latency) = (&self.window, &mut self.latency);
                self.scanner.stamps(changes, count, |stamp_ns| {
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
            Message::Registered { is_whole } => self.acknowledged(index, is_whole),
            Message::Error => {
                // The publisher's window must not shrink by what was refused.
                if self.clients[index].role == Role::FramePublisher {
                    self.acknowledged(index, false);
                } else {
                    self.counts.refused += 1;
                }
            }
            Message::Pong => {
                let client = &mut self.clients[index];
                client.unanswered = client.unanswered.saturating_sub(1);
                if let Some(due_ns) = client.sent_ns.pop_front() {
                    self.counts.pongs += 1;
                    if self.window.contains(&due_ns) {
                        self.latency.record(now_ns.saturating_sub(due_ns));
                    }
                }
            }
            Message::Welcome => {
                if self.clients[index].stage == Stage::Greeting {
                    self.subscribe(index);
                }
            }
            Message::Ping => {
                let unsent = &mut self.clients[index].unsent;
                wire::encode_frame(wire::OPCODE_TEXT, centrifugo::PING, unsent);
                self.flush(index);
            }
            Message::Other => {}
        }
    }

    /// An event of a publisher was answered.
    fn acknowledged(&mut self, index: usize, is_whole: bool) {
        self.counts.acknowledged += 1;
        self.counts.refused += u64::from(!is_whole);
        let unanswered = &mut self.clients[index].unanswered;
        *unanswered = unanswered.saturating_sub(1);
    }

    /// A request of a worker or lister was answered.
    fn answered(&mut self, index: usize, is_success: bool, now_ns: u64) {
        let client = &mut self.clients[index];
        client.unanswered = client.unanswered.saturating_sub(1);
        if let Some(sent_ns) = client.sent_ns.pop_front() {
            self.answering.record(now_ns.saturating_sub(sent_ns));
        }
        self.counts.answered += 1;
        self.counts.refused += u64::from(!is_success);
        self.idle_workers.push(index);
    }

    /// Handles answers over HTTP, the one to the upgrade among them.
    fn take_http(&mut self, index: usize, bytes: &[u8], now_ns: u64) -> usize {
        let mut at = 0;
        if self.clients[index].role == Role::Lister {
            return self.take_list_head(index, bytes, now_ns);
        }
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
            let is_success = match self.protocol {
                Protocol::Fanfare => wire::is_success(response.status, response.body),
                Protocol::Centrifugo => {
                    response.status == 200 && centrifugo::is_success(response.body)
                }
            };
            if self.clients[index].role == Role::HttpWorker {
                self.counts.body_bytes += response.body.len() as u64;
                self.answered(index, is_success, now_ns);
            } else {
                self.acknowledged(index, is_success);
            }
        }
        at
    }

    /// The head of a lister's answer, and what has come of its body.
    fn take_list_head(&mut self, index: usize, bytes: &[u8], now_ns: u64) -> usize {
        let Some((status, head_bytes, body_bytes)) = wire::response_head(bytes) else {
            return 0;
        };
        self.counts.body_bytes += body_bytes as u64;
        let client = &mut self.clients[index];
        client.body_left = body_bytes;
        client.is_success = status == 200;
        if body_bytes == 0 {
            self.answered(index, false, now_ns);
        }
        bytes.len() - self.skip_body(index, &bytes[head_bytes..], now_ns).len()
    }

    fn upgraded(&mut self, index: usize) {
        if self.protocol == Protocol::Centrifugo {
            let client = &mut self.clients[index];
            client.stage = Stage::Greeting;
            centrifugo::encode_connect(&mut client.unsent);
            return self.flush(index);
        }
        self.subscribe(index);
    }

    fn subscribe(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if client.role != Role::Subscriber {
            return self.opened(index);
        }
        let mut left = 0;
        for service in self.layout.services_of(index) {
            match self.protocol {
                Protocol::Fanfare => wire::encode_subscribe(service, &mut client.unsent),
                Protocol::Centrifugo => centrifugo::encode_subscribe(service, &mut client.unsent),
            }
            left += 1;
        }
        client.stage = Stage::Subscribing { left };
        if left == 0 {
            return self.opened(index);
        }
        self.flush(index);
    }
}
