//! The backplane: what joins several nodes, carried by Redis.
//!
//! ```text
//! control --> proposals --> XADD ----\
//!                                     Redis stream, one order for all
//! control <-- News::Log <-- XREAD <--/
//! ```
//!
//! Redis orders, stores and hands out; it decides nothing. Each entry has a number without gaps, so
//! a reader knows when entries were trimmed or lost, and begins anew from the image. All keys share
//! one hash tag, and every command works on Redis 7, Redis Cluster and Valkey alike.
//!
//! # Promises
//!
//! * Control hears every entry once and in order, or is told to begin anew.
//! * A proposal either gets its place in the log or is reported as lost; a lost one may still turn
//!   up, and is then as good as a new one.
//! * Nothing here waits for control: what it is told goes to its mailbox.
//!
//! Imports `limits` and `state`. Imported by `mailbox`, `control`, `http` and `server`.

mod beat;
mod log;
mod scripts;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisError};
use tokio::sync::{mpsc, oneshot};

use crate::clock::Clock;
use crate::limits;
use crate::state::log::LogItem;
use crate::state::replica::ReplicaImage;

/// What control is told.
#[derive(Debug)]
pub enum News {
    /// The next entries of the log.
    Log(Vec<LogItem>),
    /// The log cannot be followed from where control stands: begin anew from this.
    Replace(Box<ReplicaImage>),
    /// Every entry that was there at the start of reading has been handed over.
    CaughtUp,
    /// Redis answered.
    Nodes {
        /// The nodes that were heard of lately.
        nodes: Vec<NodeView>,
        /// When it was asked, in milliseconds since the Unix epoch by this server's clock.
        contact_ms: u64,
        /// The number of the newest entry.
        newest: u64,
    },
    /// Proposals that got no place in the log.
    Lost(Vec<u64>),
    /// The registry as it is now is wanted, for nodes that join.
    Image(oneshot::Sender<Option<ReplicaImage>>),
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

/// Where news goes.
pub type Listener = Arc<dyn Fn(News) + Send + Sync>;

/// Says what the other nodes may know of this one, as a JSON object.
pub type About = Arc<dyn Fn() -> String + Send + Sync>;

/// Why there is no backplane.
#[derive(Debug)]
pub enum ClusterError {
    /// The URL is none.
    Url(String),
    /// The thread cannot be started.
    Thread(io::Error),
}

impl fmt::Display for ClusterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The library's words may repeat the URL, and with it a password.
            ClusterError::Url(_) => f.write_str("redis-url: not a URL like redis://host:6379"),
            ClusterError::Thread(fault) => write!(f, "cannot start a thread: {fault}"),
        }
    }
}

impl std::error::Error for ClusterError {}

/// The backplane of one node. Dropping it ends it.
#[derive(Debug)]
pub struct Cluster {
    proposals: mpsc::UnboundedSender<Proposal>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What all tasks share.
#[derive(Clone)]
struct Shared {
    client: Client,
    node: Arc<str>,
    clock: Clock,
    tell: Listener,
    about: About,
}

impl Cluster {
    /// Starts to follow the log. `node` is this node's name, new with every start.
    ///
    /// # Errors
    ///
    /// Where the URL is wrong or there is no thread. That Redis cannot be reached is no error: it is
    /// tried again for ever.
    pub fn start(
        url: &str,
        node: &str,
        clock: Clock,
        (tell, about): (Listener, About),
    ) -> Result<Cluster, ClusterError> {
        let client = Client::open(url).map_err(|fault| ClusterError::Url(fault.to_string()))?;
        let shared = Shared { client, node: node.into(), clock, tell, about };
        let (proposals, queue) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(ClusterError::Thread)?;
        let thread = std::thread::Builder::new()
            .name(String::from("cluster"))
            .spawn(move || {
                runtime.block_on(async move {
                    tokio::spawn(log::write(shared.clone(), queue));
                    let reader = tokio::spawn(log::read(shared.clone()));
                    tokio::spawn(beat::beat(shared.clone()));
                    // Either way it is over.
                    let _ = stopped.await;
                    reader.abort();
                    beat::leave(&shared).await;
                });
            })
            .map_err(ClusterError::Thread)?;
        Ok(Cluster { proposals, stop: Some(stop), thread: Some(thread) })
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
        if let Some(thread) = self.thread.take() {
            // Its panic has been printed.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn tell(&self, news: News) {
        (self.tell)(news);
    }

    /// A connection whose commands wait for `patience` at most.
    async fn connect(&self, patience: Duration) -> Result<MultiplexedConnection, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(Duration::from_millis(limits::REDIS_CONNECT_MS)))
            .set_response_timeout(Some(patience));
        self.client.get_multiplexed_async_connection_with_config(&config).await
    }
}
