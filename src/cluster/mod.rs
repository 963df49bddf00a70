//! The backplane: what joins several nodes, carried by Redis.
//!
//! ```text
//! control --> proposals --> XADD ----\
//!                                     Redis stream, one order for all
//! control <-- News::Log <-- XREAD <--/
//!
//! control --> requests ---> scripts, in one pipeline with all requests that wait
//! control <-- News::Response <-/    \--> a channel's stream and topic, the journal
//! control <-- News::ChannelMessages <-- topics of channels
//! control <-- News::JournalEntries <-- XREAD of the journal
//! ```
//!
//! Redis orders, stores and hands out; it decides nothing. Each entry of the log has a number without
//! gaps, so a reader knows when entries were trimmed or lost, and starts over from a snapshot. The keys
//! of one script share a hash tag, and every command works on Redis 7, Redis Cluster and Valkey alike.
//!
//! # Promises
//!
//! * Control hears every entry once and in order, or is given a snapshot to install.
//! * A proposal is either appended to the log or reported as lost. A lost one may still be appended later,
//!   and then counts.
//! * Every request gets a response within a few seconds, also where Redis gives none.
//! * Every message of a channel's topic since its attach is handed over, or control is told that some may
//!   have been missed.
//! * No task waits for control, only for room in its mailbox.
//!
//! Imports `clock`, `id`, `limits`, `redacted`, `rng`, `state` and `stats`. Imported by `mailbox`, `control`, `http` and `server`.

pub mod agreement;
mod channel;
mod connections;
mod heartbeat;
mod journal;
mod log;
mod node_rpc;
mod outage;
mod read_position;
mod requests;
mod scripts;
#[doc(hidden)]
#[cfg(any(test, feature = "internals"))]
pub mod simulated;
mod snapshots;
mod subscriber;
mod tls;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo as _, ProtocolVersion, RedisError};
use tokio::sync::{mpsc, oneshot};

use crate::clock::Clock;
use crate::id::{ChannelName, MessageId};
use crate::limits;
use crate::redacted;
use crate::rng::Rng;
use crate::state::entry::LogItem;
use crate::state::journal::JournalEntry;
use crate::state::snapshot::Snapshot;
use crate::stats::{RedisPath, Stats};

use connections::PrimaryConnections;
use journal::MinIdFence;
use node_rpc::OpenRequests;
use requests::{Job, RequestRunner};
use subscriber::SubscriberQueue;
use tls::Tls;

pub use tls::TlsFiles;

pub use crate::state::backplane::{
    BackplaneRequest, BackplaneResponse, ChannelMessage, ChannelState, MessagePosition,
    SequencedMessage,
};

/// What the backplane tells control.
#[derive(Debug)]
pub enum News {
    /// The next entries of the log.
    Log(Vec<LogItem>),
    /// The log cannot be followed from where control stands: install this snapshot.
    Install {
        /// Everything that the nodes share, at some place of the log.
        snapshot: Box<Snapshot>,
        /// All entries behind it that were there when it was read.
        items: Vec<LogItem>,
    },
    /// The response to a request.
    Response {
        /// The request's number.
        number: u64,
        /// The response.
        reply: BackplaneResponse,
    },
    /// Messages of channels that are followed here, in the order of their topic.
    ChannelMessages(Vec<SequencedMessage>),
    /// Topics were not heard for a while: every followed channel may have missed something.
    Relinked,
    /// Another node asks something; it waits for [`Cluster::respond`].
    Asked {
        /// The node that asks.
        node: String,
        /// The question's number there.
        number: u64,
        /// What: a JSON text.
        question: String,
    },
    /// The next messages of the journal.
    JournalEntries(Vec<JournalEntry>),
    /// Every entry of the journal up to this number has been handed over, or has no message.
    JournalRead(u64),
    /// Entries of the journal are gone that were not read here.
    JournalGap,
    /// Redis answered.
    Nodes {
        /// The nodes that were heard of lately.
        nodes: Vec<NodeView>,
        /// When it was asked, in milliseconds since the Unix epoch by this server's clock.
        contact_ms: u64,
        /// The number of the newest entry.
        newest: u64,
        /// An id between the newest message that the database has of the journal and the next;
        /// none where no node said.
        written: Option<MessageId>,
    },
    /// Proposals that got no place in the log.
    Lost(Vec<u64>),
    /// The registry as it is now is wanted, for nodes that join.
    Snapshot(oneshot::Sender<Snapshot>),
}

/// A node, as Redis last heard of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeView {
    /// Its name, new with every start.
    pub id: String,
    /// How long ago that was, in milliseconds by Redis' clock.
    pub age_ms: u64,
    /// Whether the others count it as alive.
    pub is_alive: bool,
    /// What it said of itself: a JSON object.
    pub about: String,
}

/// Something to be put into the log.
#[derive(Debug)]
pub struct Proposal {
    /// Its number at this node.
    pub number: u64,
    /// When it was made, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The entry, encoded.
    pub entry: String,
}

/// Whether, and from where on, the journal of direct and group messages is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Journal {
    /// Not at all: there is no database that all nodes share.
    Closed,
    /// After this message, or from its beginning.
    After(Option<MessageId>),
}

/// Settings of the backplane of one node.
pub struct Setup {
    /// Where Redis is.
    pub url: String,
    /// The files of TLS to it, for `rediss://`.
    pub tls: TlsFiles,
    /// This node's name, new with every start.
    pub node: Arc<str>,
    /// The server's clock.
    pub clock: Clock,
    /// Where the backplane counts.
    pub stats: Arc<Stats>,
    /// Whether the journal is read.
    pub journal: Journal,
    /// Hears the news.
    pub tell: Listener,
    /// Says what other nodes may know.
    pub about: About,
}

/// Where news goes.
pub type Listener = Arc<dyn Fn(News) + Send + Sync>;

/// Says what the other nodes may know of this one, as a JSON object.
pub type About = Arc<dyn Fn() -> String + Send + Sync>;

/// Why there is no backplane.
#[derive(Debug)]
pub enum ClusterError {
    /// The URL is none. It comes without its password; the library's words may hold that.
    Url(String),
    /// A file of TLS to Redis cannot be used, and why.
    File(PathBuf, String),
    /// The thread cannot be started.
    Thread(io::Error),
}

impl fmt::Display for ClusterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClusterError::Url(shown) => {
                write!(f, "redis-url: {shown} is not a URL like redis://host:6379")
            }
            ClusterError::File(path, fault) => {
                write!(f, "TLS to Redis: {}: {fault}", path.display())
            }
            ClusterError::Thread(fault) => write!(f, "cannot start a thread: {fault}"),
        }
    }
}

impl std::error::Error for ClusterError {}

/// The backplane of one node. Dropping it ends it.
#[derive(Debug)]
pub struct Cluster {
    proposals: mpsc::UnboundedSender<Proposal>,
    jobs: mpsc::UnboundedSender<Job>,
    clock: Clock,
    stop: Option<oneshot::Sender<()>>,
    /// Says nothing, and is closed when the thread ends.
    ended: crossbeam_channel::Receiver<()>,
}

/// What all tasks share.
#[derive(Clone)]
struct Shared {
    client: Client,
    /// The same Redis, for connections that receive pushes.
    hearing: Client,
    links: PrimaryConnections,
    node: Arc<str>,
    /// The node's own topic.
    topic: Arc<str>,
    clock: Clock,
    stats: Arc<Stats>,
    reads_journal: bool,
    tell: Listener,
    about: About,
}

impl Cluster {
    /// Starts to follow the log.
    ///
    /// # Errors
    ///
    /// Where the URL is wrong, a file of TLS cannot be used, or there is no thread. That Redis cannot
    /// be reached is no error: it is tried again for ever.
    pub fn start(setup: Setup) -> Result<Cluster, ClusterError> {
        let Setup { url, tls, node, clock, stats, journal, tell, about } = setup;
        let tls = Tls::load(&tls)?;
        let shown = redacted::url(&url);
        let url_fault = |_: RedisError| ClusterError::Url(shown.clone());
        let info = url.into_connection_info().map_err(url_fault)?;
        // The library's own name and version are one more command that a user may not be allowed.
        let settings = info.redis_settings().clone().set_skip_set_lib_name();
        let info = info.set_redis_settings(settings.clone());
        let client = tls.client(info.clone()).map_err(url_fault)?;
        let settings = settings.set_protocol(ProtocolVersion::RESP3);
        let hearing = tls.client(info.set_redis_settings(settings)).map_err(url_fault)?;
        let (links, topic) =
            (PrimaryConnections::new(shown.clone()), node_rpc::topic(&node).into());
        let reads_journal = journal != Journal::Closed;
        if !reads_journal {
            // A path that is not there does not fail.
            stats.cluster.paths[RedisPath::Journal.index()].set(u64::MAX);
        }
        let shared = Shared {
            client,
            hearing,
            links,
            node,
            topic,
            clock,
            stats,
            reads_journal,
            tell,
            about,
        };
        let (proposals, queue) = mpsc::unbounded_channel();
        let (jobs, job_queue) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(ClusterError::Thread)?;
        let (end, ended) = crossbeam_channel::bounded(0);
        std::thread::Builder::new()
            .name(String::from("cluster"))
            .spawn(move || {
                runtime.block_on(async move {
                    tokio::spawn(log::write(shared.clone(), queue));
                    let reader = tokio::spawn(log::read(shared.clone()));
                    tokio::spawn(heartbeat::run(shared.clone()));
                    tokio::spawn(shared.clone().watch_paths());
                    shared.start_requests(job_queue, journal);
                    // Either way it is over.
                    let _ = stopped.await;
                    reader.abort();
                    heartbeat::leave(&shared).await;
                });
                // A name server that does not answer must not hold up the end.
                runtime.shutdown_background();
                drop(end);
            })
            .map_err(ClusterError::Thread)?;
        Ok(Cluster { proposals, jobs, clock, stop: Some(stop), ended })
    }

    /// Runs a request. Its response is [`News::Response`] with the number. Returns false where the
    /// backplane has ended.
    pub fn call(&self, number: u64, call: BackplaneRequest) -> bool {
        let asked_ns = self.clock.now().ns;
        self.jobs.send(Job::Request { number, request: call, asked_ns }).is_ok()
    }

    /// Follows a channel's topic no more.
    pub fn detach(&self, channel: ChannelName) {
        // Fails only where the backplane has ended.
        let _ = self.jobs.send(Job::Detach(channel));
    }

    /// Answers another node's question.
    pub fn respond(&self, node: String, number: u64, answer: String) {
        // Fails only where the backplane has ended; the asker has a timeout.
        let _ = self.jobs.send(Job::Respond { node, number, answer });
    }

    /// Tells all nodes that the database has the journal up to a message.
    pub fn written(&self, up_to: MessageId) {
        // Another node will say so, or of a later one.
        let _ = self.jobs.send(Job::Written(up_to));
    }

    /// Has something put into the log. Returns false where the backplane has ended.
    pub fn propose(&self, proposal: Proposal) -> bool {
        self.proposals.send(proposal).is_ok()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        // Closed when the thread has ended, whose panic has been printed. Where Redis does not answer,
        // the others find out by themselves.
        let _ = self.ended.recv_timeout(Duration::from_millis(limits::CLUSTER_LEAVE_MS));
    }
}

/// Chance for such waits: nodes that lost Redis together do not come back together.
fn fresh_rng() -> Rng {
    Rng::seeded(uuid::Uuid::new_v4().as_u64_pair().0)
}

/// Waits before the next try to reach Redis, after so many that failed. Full jitter (Brooker, 2015), so
/// that a Redis that comes back is not run over.
async fn back_off(rng: &mut Rng, failures: u32) {
    let ceiling_ms = limits::REDIS_RETRY_MS_MAX.min(100 << failures.min(10));
    tokio::time::sleep(Duration::from_millis(rng.below(ceiling_ms) + 1)).await;
}

impl Shared {
    fn tell(&self, news: News) {
        (self.tell)(news);
    }

    /// Starts the tasks that run requests, receive topics and read the journal.
    fn start_requests(&self, jobs: mpsc::UnboundedReceiver<Job>, journal: Journal) {
        let (orders, order_queue) = mpsc::unbounded_channel();
        let (subscriber_queue, heard) = SubscriberQueue::new();
        let (subscriber_queue, asking) = (Arc::new(subscriber_queue), OpenRequests::default());
        tokio::spawn(subscriber::follow(self.clone(), Arc::clone(&subscriber_queue), order_queue));
        tokio::spawn(subscriber::forward(self.clone(), subscriber_queue, heard, asking.clone()));
        let fence = match journal {
            Journal::Closed => None,
            Journal::After(id) => {
                let fence = MinIdFence::new(id);
                tokio::spawn(journal::read(self.clone(), id, fence.clone()));
                Some(fence)
            }
        };
        tokio::spawn(RequestRunner::new(self.clone(), orders, asking, fence).carry_out(jobs));
    }
}

fn waiting(patience: Duration) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_millis(limits::REDIS_CONNECT_MS)))
        .set_response_timeout(Some(patience))
}
