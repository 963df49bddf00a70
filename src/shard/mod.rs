//! A shard: one thread's connections, and the turns in which it serves them.
//!
//! ```text
//!          mailbox     ready sockets     mailbox        wheel
//!             |              |              |             |
//! turn:    take all        read         take all       let out
//!             |              |              |             |
//!           runs         commands      runs, replies  pings, ends
//!                            |
//!                  control, if its lock is free
//!
//!          settle:     write each dirty outbox once, up to a slice
//! ```
//!
//! A turn is a plain function that owns the shard for as long as it lasts: nothing is awaited, so
//! nothing interleaves and nothing is locked. Events that arrive during one turn leave in the next,
//! in one write a socket: that is the whole batching policy, and it needs no timer. An idle shard
//! sends the first event at once.
//!
//! # Promises
//!
//! * Frames of one topic reach a connection in their order, without a gap that a snapshot or a close
//!   does not cover, and without a repetition.
//! * Answers to one connection leave in the order of its requests.
//! * Frames that are in the mailbox when a turn begins are ahead of the replies to what the turn reads.
//! * One turn makes at most [`limits::WRITES_PER_TURN_MAX`] writes before it lets others run.
//!
//! # Not here
//!
//! No task, no timer of its own, no clock: the thread that drives it passes the moment.
//!
//! Imports everything below. Imported by `http` and `server`.

mod artemis;
mod conn;
pub mod fanout;
mod flush;
mod log;
mod nearest_lists;
mod opening;
pub mod outbox;
pub mod ready;
mod session;
mod slow_reader;
pub mod socket;
pub mod socket_poll;
mod talk;
pub mod tcp_socket;
mod timers;
mod topics;
mod withdrawal;

use std::collections::{HashSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use slab::Slab;

use crate::clock::Moment;
use crate::id::{ConnId, ShardId, Slot};
use crate::limits::{self, Limits};
use crate::mailbox::command_sender::CommandSender;
use crate::mailbox::to_control::{ControlMessage, Task};
use crate::mailbox::to_shard::ShardMessage;
use crate::mailbox::{MailboxReceiver, Undelivered};
use crate::rng::Rng;
use crate::state::Ask;
use crate::state::messaging::commands::Closed;
use crate::stats::Stats;
use crate::storm::Storm;
use crate::wheel::Wheel;
use crate::wire::frame;
use crate::ws::authorizer::{ArtemisSocket, Authorizer, Endpoint};
use crate::ws::reader::Pool;
use conn::{Conn, Stage};
use nearest_lists::NearestLists;
pub use opening::surplus_answer;
use outbox::{Budget, Chunk};
use ready::Ready;
use socket::Socket;
use topics::Topics;

/// The settings of a shard.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its number.
    pub id: ShardId,
    /// The node's id, for `welcome`.
    pub node_id: Arc<str>,
    /// The bounds.
    pub limits: Arc<Limits>,
    /// The rules for requests and connections.
    pub authorizer: Arc<Authorizer>,
    /// Raised when the server is about to stop.
    pub is_draining: Arc<AtomicBool>,
    /// Whether the log has a line for each request.
    pub access_log: bool,
    /// The counters.
    pub stats: Arc<Stats>,
    /// Seeds the spreading of pings.
    pub seed: u64,
}

/// The work that a turn leaves to the thread that drives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Whether the next turn has to follow at once.
    pub has_more: bool,
    /// When the next turn is due by time alone, in milliseconds since the Unix epoch.
    pub wake_at_ms: Option<u64>,
}

/// A shard.
///
/// # Invariants
///
/// 1. A slot in a subscriber set, a queue or the wheel that names a connection by slot and
///    generation acts only on that very connection.
/// 2. `open_count` counts the connections in stage `Open`.
/// 3. A connection with something in its outbox is in a queue or waits for its socket.
#[derive(Debug)]
pub struct Shard<S> {
    settings: Settings,
    conns: Slab<Box<Conn<S>>>,
    generation: u32,
    open_count: usize,
    head_count: usize,
    subscription_count: usize,
    topics: Topics,
    nearest_lists: NearestLists,
    control: CommandSender,
    /// Notices for control that its full mailbox did not take. They go before any other command.
    notices: VecDeque<ControlMessage>,
    has_carried_out: bool,
    mailbox: MailboxReceiver<ShardMessage>,
    wheel: Wheel<(Slot, u32)>,
    stamp: u32,
    /// Deadlines that have passed and wait for their turn.
    due: VecDeque<(Slot, u32)>,
    main_pool: Pool,
    echo_pool: Pool,
    heartbeat_pool: Pool,
    rng: Rng,
    now: Moment,
    /// How far the wall clock was ahead of the steady one when the tokens' deadlines were set.
    wall_ahead_ms: i64,
    /// One read buffer for all sockets.
    buffer: Vec<u8>,
    /// Tungstenite's replies to the bytes of one read.
    replies: Vec<u8>,
    /// The buffer in which small chunks are joined for one write.
    scratch: Vec<u8>,
    slots: Vec<Slot>,
    /// Connections to close because a message had no room.
    to_close: Vec<(Slot, u32)>,
    ping: Rc<Chunk>,
    /// Sockets that had more to read than one turn takes.
    unread: VecDeque<(Slot, u32)>,
    /// Sockets on their way out whose last input is to be read and dropped. Thousands may end in
    /// one moment, and no other message waits behind them.
    leaving: VecDeque<(Slot, u32)>,
    flush: flush::FlushQueues,
    /// Time for the first request of a connection, in milliseconds.
    head_patience_ms: u64,
    drain: Option<timers::Drain>,
    storm: Storm,
    handed_over: Vec<(S, Bytes)>,
    /// Echo and Artemis sockets that were opened with a token. Control does not know them.
    unannounced_users: HashSet<Slot>,
    /// Pongs on Artemis' sockets, in the order in which they are due.
    late_pongs: VecDeque<artemis::LatePong>,
    /// Artemis' open sockets: those of heartbeats, and those of changes.
    artemis_counts: [usize; 2],
}

impl<S: Socket> Shard<S> {
    /// A shard without connections.
    pub fn new(
        settings: Settings,
        control: CommandSender,
        mailbox: MailboxReceiver<ShardMessage>,
        now: Moment,
    ) -> Shard<S> {
        let limits = &settings.limits;
        Shard {
            conns: Slab::new(),
            generation: 0,
            open_count: 0,
            head_count: 0,
            subscription_count: 0,
            topics: Topics::default(),
            nearest_lists: NearestLists::default(),
            control,
            notices: VecDeque::new(),
            has_carried_out: true,
            mailbox,
            wheel: Wheel::new(limits::SHARD_WHEEL_SLOTS, limits::SHARD_TICK_MS, now.unix_ms),
            stamp: 0,
            due: VecDeque::new(),
            main_pool: Pool::new(limits.client_message_bytes_max),
            echo_pool: Pool::new(limits.echo_message_bytes_max),
            heartbeat_pool: Pool::new(limits.artemis_heartbeat_bytes_max),
            rng: Rng::seeded(settings.seed),
            now,
            wall_ahead_ms: now.wall_ahead_ms(),
            buffer: vec![0; limits::READ_BUFFER_BYTES],
            replies: Vec::new(),
            scratch: Vec::with_capacity(limits::COPY_BYTES_MAX),
            slots: Vec::new(),
            to_close: Vec::new(),
            ping: Chunk::frame(frame::ping()),
            unread: VecDeque::new(),
            leaving: VecDeque::new(),
            flush: flush::FlushQueues::default(),
            head_patience_ms: limits.handshake_timeout_ms,
            drain: None,
            storm: Storm::default(),
            handed_over: Vec::new(),
            unannounced_users: HashSet::new(),
            late_pongs: VecDeque::new(),
            artemis_counts: [0; 2],
            settings,
        }
    }

    /// Takes one turn. `ready` gives the sockets that have something to read or room to write.
    pub fn turn<R: Into<Ready>>(&mut self, now: Moment, ready: impl Fn() -> Option<R>) -> Outcome {
        self.now = now;
        self.follow_wall_clock();
        self.send_notices();
        // Before the reads: a client that learned of a change in another way finds its frames ahead of the next
        // reply.
        self.take_messages();
        self.hand_out_runs();
        self.gather(&ready);
        self.carry_out_commands();
        self.take_messages();
        self.let_time_pass();
        self.send_late_pongs();
        self.hand_out_runs();
        self.close_marked();
        self.settle();
        self.carry_out_commands();
        self.publish_gauges();
        let has_more = !self.unread.is_empty()
            || !self.flush.is_empty()
            || !self.mailbox.is_empty()
            || !self.due.is_empty()
            || !self.leaving.is_empty();
        let notices_at_ms =
            (!self.notices.is_empty()).then_some(now.unix_ms + limits::SHARD_TICK_MS);
        let drain_at_ms = self.drain.as_ref().and_then(timers::Drain::due_ms);
        // The system's time may be set ahead while nothing happens here.
        let wall_at_ms = (self.open_count > 0).then_some(now.unix_ms + limits::WALL_LOOK_MS);
        let by_time = [
            self.wheel.next_due_ms(),
            self.storm.due_ms(),
            self.next_pong_ms(),
            drain_at_ms,
            notices_at_ms,
            wall_at_ms,
        ];
        Outcome { has_more, wake_at_ms: by_time.into_iter().flatten().min() }
    }

    /// Carries out the commands that the turn has put in so far.
    fn carry_out_commands(&mut self) {
        if !std::mem::replace(&mut self.has_carried_out, true) {
            self.control.carry_out();
        }
    }

    /// Reads the ready sockets, each once; a socket with more input is read again next turn. Those
    /// take at most half of a turn: thousands of them must not keep new sockets out.
    fn gather<R: Into<Ready>>(&mut self, ready: &impl Fn() -> Option<R>) {
        let leaving = self.leaving.len().min(limits::READS_PER_TURN_MAX / 2);
        for (slot, generation) in self.leaving.drain(..leaving).collect::<Vec<_>>() {
            self.visit(slot, generation);
        }
        if self.leaving.is_empty() && self.leaving.capacity() > limits::QUEUE_SLOTS_KEPT {
            self.leaving = VecDeque::new();
        }
        let waiting = self.unread.len().min(limits::READS_PER_TURN_MAX / 2);
        for (slot, generation) in self.unread.drain(..waiting).collect::<Vec<_>>() {
            self.visit(slot, generation);
        }
        for _ in waiting..limits::READS_PER_TURN_MAX {
            let Some((slot, generation)) = self.next_ready(ready) else { return };
            self.visit(slot, generation);
        }
        // There may be more. The turn ends all the same, and the next one goes on.
        let next = self.next_ready(ready);
        self.unread.extend(next);
    }

    /// The next socket that has reported itself.
    fn next_ready<R: Into<Ready>>(
        &mut self,
        ready: &impl Fn() -> Option<R>,
    ) -> Option<(Slot, u32)> {
        let Ready { slot, generation, readiness } = ready()?.into();
        if let Some(conn) = self.find(slot, generation) {
            conn.socket.note_ready(readiness);
        }
        Some((slot, generation))
    }

    /// Serves a socket that reported itself: it has input, or room for output, or both.
    fn visit(&mut self, slot: Slot, generation: u32) {
        if self.find(slot, generation).is_some_and(|conn| conn.blocked_since_ms != 0) {
            self.queue_urgent(slot);
        }
        self.read(slot, generation);
    }

    fn take_messages(&mut self) {
        for _ in 0..limits::MAILBOX_MESSAGES_PER_TURN_MAX {
            match self.mailbox.take() {
                Some(ShardMessage::Event(event)) => {
                    let stats = &self.settings.stats.shards[usize::from(self.settings.id.0)];
                    stats.events.add(1);
                    match event.aim.clone() {
                        None => _ = self.topics.add_event(event),
                        Some(aim) => self.hand_out_aimed(&event, &aim),
                    }
                }
                Some(ShardMessage::Dissolve(event)) => self.dissolve(&event),
                Some(ShardMessage::Enter(conn)) => self.enter(conn),
                Some(ShardMessage::Close(conn, reason)) => self.on_close_order(conn, reason),
                Some(ShardMessage::Subscription(conn, set)) => self.on_subscription_set(conn, *set),
                Some(ShardMessage::CheckTokens(user)) => self.check_tokens(user.as_ref()),
                Some(ShardMessage::PingAll) => self.ping_all(),
                Some(ShardMessage::Probe(conn)) => self.probe(conn),
                Some(ShardMessage::Reply(conn, reply)) => self.on_reply(conn, reply),
                Some(ShardMessage::HttpReply(callback)) => callback.call(),
                Some(ShardMessage::Drain { window_ms }) => self.begin_drain(window_ms),
                None => return,
            }
        }
    }

    fn find(&mut self, slot: Slot, generation: u32) -> Option<&mut Conn<S>> {
        let conn = self.conns.get_mut(slot.index())?;
        (conn.id.generation == generation).then_some(&mut **conn)
    }

    fn stats(&self) -> &crate::stats::ShardStats {
        &self.settings.stats.shards[usize::from(self.settings.id.0)]
    }

    fn budget(&self) -> Budget {
        Budget {
            bytes_max: self.settings.limits.outbox_bytes_max,
            frames_max: self.settings.limits.outbox_frames_max,
        }
    }

    fn is_draining(&self) -> bool {
        self.settings.is_draining.load(Ordering::Relaxed)
    }

    /// Sends a message to control. Returns false if control's mailbox is full.
    fn send_control(&mut self, message: ControlMessage) -> bool {
        self.send_notices();
        if !self.notices.is_empty() {
            return false;
        }
        self.has_carried_out = false;
        self.control.push(message).is_ok()
    }

    /// Sends control a notice that must not be lost: now, or as soon as the mailbox has room. A
    /// connection has two at most, so the connections bound them.
    fn notify(&mut self, ask: impl Ask) {
        let task = Task::Command(ask.unanswered());
        self.notices.push_back(ControlMessage { accepted_ns: self.now.ns, task });
        self.send_notices();
    }

    fn send_notices(&mut self) {
        while let Some(notice) = self.notices.pop_front() {
            self.has_carried_out = false;
            if let Err(Undelivered(notice)) = self.control.push(notice) {
                self.notices.push_front(notice);
                return;
            }
        }
        if self.notices.capacity() > limits::QUEUE_SLOTS_KEPT {
            self.notices = VecDeque::new();
        }
    }

    /// Tells control that a connection has ended.
    fn depart(&mut self, slot: Slot) {
        let conn = &mut self.conns[slot.index()];
        if std::mem::take(&mut conn.is_announced) {
            let id = conn.id;
            self.notify(Closed(id));
        }
    }

    /// Takes a connection that has just been accepted. `socket` gets the connection's slot and
    /// generation, for its waker.
    pub fn accept(&mut self, now: Moment, socket: impl FnOnce(Slot, u32) -> S) {
        self.now = now;
        let slot = self.insert(socket);
        self.head_count += 1;
        self.arm(slot);
        let generation = self.conns[slot.index()].id.generation;
        self.unread.push_back((slot, generation));
    }

    fn insert(&mut self, socket: impl FnOnce(Slot, u32) -> S) -> Slot {
        self.generation = self.generation.wrapping_add(1);
        let entry = self.conns.vacant_entry();
        let slot = Slot(u32::try_from(entry.key()).expect("slots are below 2^32"));
        let id = ConnId { shard: self.settings.id, slot, generation: self.generation };
        let socket = socket(slot, self.generation);
        entry.insert(Box::new(Conn::new(id, socket, self.now.unix_ms)));
        slot
    }

    /// Takes the sockets whose first request was plain HTTP, with the bytes read from them.
    pub fn take_handed_over(&mut self) -> Vec<(S, Bytes)> {
        std::mem::take(&mut self.handed_over)
    }

    /// Declares that the shard's thread is about to sleep. Returns false if it must not.
    pub fn rest(&self) -> bool {
        self.mailbox.rest()
    }

    /// Declares that the shard's thread is awake.
    pub fn wake(&self) {
        self.mailbox.wake();
    }

    /// The number of connections in all stages.
    #[cfg(any(test, feature = "internals"))]
    pub fn len(&self) -> usize {
        self.conns.len()
    }

    /// Whether there is no connection.
    pub fn is_empty(&self) -> bool {
        self.conns.is_empty()
    }

    /// Takes a connection out of every set and frees its slot. The socket closes when it drops.
    fn remove(&mut self, slot: Slot) -> Box<Conn<S>> {
        if self.conns[slot.index()].is_open() {
            self.note_loss(slot);
        }
        self.unsubscribe_all(slot);
        self.depart(slot);
        self.unannounced_users.remove(&slot);
        let conn = self.conns.remove(slot.index());
        match conn.stage {
            Stage::Open(endpoint) => self.count_out(endpoint),
            Stage::Head => self.head_count -= 1,
            Stage::Closing | Stage::Lingering => {}
        }
        self.storm.note_ends(1, self.now.unix_ms);
        if self.conns.is_empty() {
            // After a storm the table's memory goes back, too.
            self.conns.shrink_to_fit();
        }
        conn
    }

    /// Counts a connection that opens.
    fn count_in(&mut self, endpoint: Endpoint) {
        self.open_count += 1;
        if let Some(count) = self.artemis_count(endpoint) {
            *count += 1;
        }
    }

    /// Counts a connection that is open no more.
    fn count_out(&mut self, endpoint: Endpoint) {
        self.open_count -= 1;
        if let Some(count) = self.artemis_count(endpoint) {
            *count -= 1;
        }
    }

    fn artemis_count(&mut self, endpoint: Endpoint) -> Option<&mut usize> {
        match endpoint {
            Endpoint::Artemis(ArtemisSocket::Heartbeat) => Some(&mut self.artemis_counts[0]),
            Endpoint::Artemis(_) => Some(&mut self.artemis_counts[1]),
            Endpoint::Main | Endpoint::Echo => None,
        }
    }

    fn publish_gauges(&self) {
        let stats = self.stats();
        stats.turns.add(1);
        stats.connections.set(self.open_count as u64);
        stats.artemis_heartbeats.set(self.artemis_counts[0] as u64);
        stats.artemis_followers.set(self.artemis_counts[1] as u64);
        stats.handshakes.set(self.head_count as u64);
        stats.subscriptions.set(self.subscription_count as u64);
        stats.topics.set(self.topics.len() as u64);
    }
}
