//! The thread that drives a shard: its runtime, its listener, its turns.
//!
//! Three kinds of task share the thread and nothing else: one that accepts, one that takes the
//! shard's turns, and one for each plain HTTP connection. Only the second touches the shard.
//!
//! Imports its siblings, `http`, `id`, `limits`, `mailbox` and `shard`. Part of `server`.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::TcpListener as StdListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::spawn_local;

use super::Common;
use super::acceptor::{Accepted, Arrivals, Counted, Entrance, SocketPermits, Tasks, Ticket};
use crate::http::RequestContext;
use crate::http::connection::{self, Ending, Upgraded};
use crate::id::Slot;
use crate::limits;
use crate::mailbox::MailboxReceiver;
use crate::mailbox::command_sender::CommandSender;
use crate::mailbox::to_shard::ShardMessage;
use crate::shard::ready::{Ready, ReadyList};
use crate::shard::socket_poll::SocketPoll;
use crate::shard::tcp_socket::{Stream, TcpSocket};
use crate::shard::{Outcome, Settings, Shard};

/// The arguments of a shard's thread.
pub(super) struct Start {
    pub(super) settings: Settings,
    pub(super) notify: Arc<Notify>,
    pub(super) inlet: MailboxReceiver<ShardMessage>,
    pub(super) control: CommandSender,
    pub(super) common: Common,
}

pub(super) fn start(start: Start, listener: StdListener) -> io::Result<JoinHandle<()>> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().max_blocking_threads(limits::BLOCKING_THREADS_MAX);
    let name = format!("shard-{}", start.settings.id.0);
    std::thread::Builder::new().name(name).spawn(move || {
        match builder.build_local(tokio::runtime::LocalOptions::default()) {
            Ok(runtime) => {
                if let Err(fault) = runtime.block_on(run(start, listener)) {
                    tracing::error!(%fault, "a shard cannot run");
                }
                // Work on a thread of its own may still be running.
                runtime.shutdown_timeout(Duration::from_millis(limits::CLOSE_LINGER_MS));
            }
            Err(fault) => tracing::error!(%fault, "a shard's runtime does not start"),
        }
    })
}

async fn run(start: Start, listener: StdListener) -> io::Result<()> {
    let Start { settings, notify, inlet, control, common } = start;
    let arrivals: Rc<RefCell<Arrivals>> = Rc::default();
    let (end, ending) = watch::channel(Ending::No);
    let tasks = Tasks::default();
    let acceptor = Entrance {
        arrivals: Rc::clone(&arrivals),
        notify: Arc::clone(&notify),
        common: common.clone(),
        tasks: tasks.clone(),
    };
    spawn_local(async move {
        if let Err(fault) = acceptor.run(listener, ending).await {
            tracing::error!(%fault, "a shard cannot accept connections");
        }
    });
    let context = RequestContext {
        shard: settings.id,
        control: control.clone(),
        clock: common.clock,
        app: Arc::clone(&common.app),
        peer: None,
        local: None,
        client: None,
        answers: Arc::clone(&common.app.answers[usize::from(settings.id.0)]),
        bodies: Arc::clone(&common.app.bodies[usize::from(settings.id.0)]),
        unsent: Arc::default(),
        number: 0,
        user: OnceCell::new(),
        path_token: None,
        has_body_left: Cell::new(false),
    };
    let shard = Shard::new(settings, control, inlet, common.clock.now());
    let sockets = Sockets { poll: SocketPoll::new()?, list: ReadyList::new(Arc::clone(&notify)) };
    let driver = Driver { shard, context, sockets, arrivals, notify, common, tasks, end };
    // A turn bounds its own work. With tokio's budget every socket after the first hundred of a
    // fan-out would report that it is full.
    tokio::task::unconstrained(driver.run()).await;
    Ok(())
}

/// The two sources of ready sockets.
struct Sockets {
    /// Of plain ones.
    poll: Rc<SocketPoll>,
    /// Of TLS streams.
    list: ReadyList,
}

impl Sockets {
    /// The socket of an accepted connection.
    fn enter(&self, stream: Accepted, slot: Slot, generation: u32) -> TcpSocket {
        match stream {
            Accepted::Plain(stream) => TcpSocket::watched(stream, &self.poll, slot, generation),
            Accepted::Tls(stream) => TcpSocket::woken(stream, self.list.waker(slot, generation)),
        }
    }

    /// The next socket that has reported itself. A server has plain sockets or TLS streams, not both.
    fn take(&self) -> Option<Ready> {
        self.poll.take().or_else(|| self.list.take().map(Ready::from))
    }
}

/// The one owner of the shard.
struct Driver {
    shard: Shard<Counted>,
    context: RequestContext,
    sockets: Sockets,
    arrivals: Rc<RefCell<Arrivals>>,
    notify: Arc<Notify>,
    common: Common,
    tasks: Tasks,
    /// Tells all tasks that the end has come.
    end: watch::Sender<Ending>,
}

impl Driver {
    async fn run(mut self) {
        let mut has_drained = false;
        let mut closed_ms = None;
        loop {
            self.admit();
            let outcome = self.turn();
            self.hand_over();
            if self.common.signals.is_draining.load(Ordering::SeqCst)
                && !has_drained
                && self.shard.has_drained()
            {
                has_drained = true;
                self.common.signals.drained.fetch_add(1, Ordering::SeqCst);
            }
            if has_drained && self.all_have_drained() {
                let now = self.common.clock.now();
                let closed_ms = *closed_ms.get_or_insert_with(|| {
                    self.end.send_replace(Ending::Closed);
                    self.shard.hurry(now);
                    now.unix_ms
                });
                let is_idle_over = now.unix_ms >= closed_ms + limits::DRAIN_IDLE_MS;
                if is_idle_over && *self.end.borrow() != Ending::Idle {
                    self.end.send_replace(Ending::Idle);
                }
                let is_late = now.unix_ms >= closed_ms + limits::DRAIN_REQUESTS_MS;
                if is_late || !self.has_anything_left() {
                    return;
                }
            }
            if outcome.has_more || !self.arrivals.borrow().is_empty() {
                tokio::task::yield_now().await;
            } else {
                self.rest(outcome, has_drained).await;
            }
        }
    }

    /// Whether a client may still wait for an answer.
    fn has_anything_left(&self) -> bool {
        self.tasks.any() || !self.arrivals.borrow().is_empty() || !self.shard.is_empty()
    }

    fn all_have_drained(&self) -> bool {
        let signals = &self.common.signals;
        if signals.drained.load(Ordering::SeqCst) >= self.common.app.stats.shards.len() {
            signals.shards_stop.store(true, Ordering::SeqCst);
        }
        signals.shards_stop.load(Ordering::SeqCst)
    }

    fn turn(&mut self) -> Outcome {
        let (clock, sockets) = (self.common.clock, &self.sockets);
        let start = clock.now();
        let outcome = self.shard.turn(start, || sockets.take());
        let end_ns = clock.now().ns;
        self.shard.record_latencies(end_ns);
        let stats = &self.common.app.stats.shards[usize::from(self.context.shard.0)];
        stats.turn_us.record((end_ns - start.ns) / 1_000);
        outcome
    }

    /// Sleeps until a socket, a message, or the next deadline.
    async fn rest(&mut self, outcome: Outcome, has_drained: bool) {
        if !self.shard.rest() {
            return;
        }
        let now_ms = self.common.clock.now().unix_ms;
        let left_ms = outcome.wake_at_ms.map(|at_ms| at_ms.saturating_sub(now_ms));
        // The last shards to drain are polled for.
        let left_ms = if has_drained { Some(limits::SHARD_TICK_MS) } else { left_ms };
        let poll = &self.sockets.poll;
        let woken = async {
            tokio::select! {
                biased;
                () = self.notify.notified() => {}
                () = poll_fn(|context| poll.poll_news(context)) => {}
            }
        };
        match left_ms {
            Some(left_ms) => {
                // Woken or not: the turn finds its work.
                let _ = tokio::time::timeout(Duration::from_millis(left_ms), woken).await;
            }
            None => woken.await,
        }
        self.shard.wake();
    }

    /// Takes accepted and upgraded sockets into the shard.
    fn admit(&mut self) {
        if self.arrivals.borrow().is_empty() {
            return;
        }
        let Arrivals { accepted, upgraded } = self.arrivals.take();
        let (now, sockets) = (self.common.clock.now(), &self.sockets);
        for Ticket { stream, permits } in accepted {
            let has_room = matches!(permits, SocketPermits::Admitted(_));
            let socket = |slot, generation| Counted {
                socket: sockets.enter(stream, slot, generation),
                permits,
            };
            if has_room {
                self.shard.accept(now, socket);
            } else {
                self.shard.refuse_surplus(now, socket);
            }
        }
        for (Upgraded { stream, upgrade, early }, permit) in upgraded {
            let stream = match Accepted::of(stream) {
                Ok(stream) => stream,
                Err(fault) => {
                    tracing::warn!(%fault, "a connection is lost between two owners");
                    continue;
                }
            };
            self.shard.adopt(now, upgrade, &early, |slot, generation| Counted {
                socket: sockets.enter(stream, slot, generation),
                permits: SocketPermits::Admitted(permit),
            });
        }
    }

    /// Gives plain HTTP connections to tasks of their own.
    fn hand_over(&mut self) {
        for (Counted { socket, permits }, early) in self.shard.take_handed_over() {
            let (context, arrivals) = (self.context.clone(), Rc::clone(&self.arrivals));
            let notify = Arc::clone(&self.notify);
            let (task, ending) = (self.tasks.clone(), self.end.subscribe());
            let stream = match socket.into_stream(&self.sockets.poll) {
                Ok(stream) => stream,
                Err(fault) => {
                    tracing::warn!(%fault, "a connection is lost between two owners");
                    continue;
                }
            };
            spawn_local(async move {
                if let Stream::Plain(stream) = &stream {
                    // tokio's reactor has not seen it yet, and would take it for full: hyper drops an answer that
                    // it cannot write when there is nothing more to read. Whatever fails here fails again there.
                    let _ = stream.writable().await;
                }
                let upgraded = connection::serve(context, stream, early, ending).await;
                if let (Some(upgraded), SocketPermits::Admitted(permit)) = (upgraded, permits) {
                    arrivals.borrow_mut().upgraded.push((upgraded, permit));
                    notify.notify_one();
                }
                drop(task);
            });
        }
    }
}
