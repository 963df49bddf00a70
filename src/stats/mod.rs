//! Counters: one writer each, any number of readers.
//!
//! Each counter has one writer at a time, its shard or who holds the lock of control, and any number of readers. A
//! counter therefore costs the writer a plain load, add and store: no locked instruction and no
//! shared cache line. Readers see every value a moment late and never a torn one.
//!
//! Imports `limits` and `wire`. Imported by `shard`, `control`, `http` and `server`.

mod histogram;
pub mod prometheus;
mod recent;

use std::sync::atomic::{AtomicU64, Ordering};

pub use histogram::{Histogram, Reading};
pub use recent::Recent;

use crate::limits;
use crate::wire::close::Reason;
use crate::wire::refusal::Code;

/// A number with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to the number. Only its one writer may.
    pub fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    /// Sets the number, for gauges.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Raises the number to `value` if that is higher, for peaks.
    pub fn raise(&self, value: u64) {
        if value > self.0.load(Ordering::Relaxed) {
            self.0.store(value, Ordering::Relaxed);
        }
    }

    /// The number.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes a peak, which begins at zero again. Only its one sampler may. A peak that is raised at
    /// that moment is in this sample, in the next one, or in both.
    pub fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }
}

/// The counters of one shard. Aligned so that two shards never write one cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ShardStats {
    /// Open WebSocket connections (gauge).
    pub connections: Counter,
    /// Open sockets of Artemis' heartbeats (gauge).
    pub artemis_heartbeats: Counter,
    /// Open sockets of changes of Artemis' clients (gauge).
    pub artemis_followers: Counter,
    /// Connections whose first request head is still awaited (gauge).
    pub handshakes: Counter,
    /// WebSocket connections opened since the start.
    pub connections_opened: Counter,
    /// Subscriptions of all connections (gauge).
    pub subscriptions: Counter,
    /// Topics with at least one subscriber here (gauge).
    pub topics: Counter,
    /// Events that reached the shard.
    pub events: Counter,
    /// Event frames handed to sockets' outboxes.
    pub deliveries: Counter,
    /// Bytes of those frames.
    pub delivered_bytes: Counter,
    /// Successful writes to sockets.
    pub writes: Counter,
    /// Bytes the kernel took.
    pub written_bytes: Counter,
    /// Frames that left completely.
    pub written_frames: Counter,
    /// Writes that the kernel refused because its buffer was full.
    pub blocked_writes: Counter,
    /// Messages received on sockets.
    pub messages: Counter,
    /// The most bytes any outbox held since the last sample (peak, see [`Recent`]).
    pub outbox_bytes_peak: Counter,
    /// Times a connection's service frames were replaced by a pending resync.
    pub slow_collapsed: Counter,
    /// Connections closed because they took nothing.
    pub slow_closed: Counter,
    /// Snapshots sent to readers that had fallen behind.
    pub snapshots: Counter,
    /// Turns taken.
    pub turns: Counter,
    /// Durations of turns, in microseconds.
    pub turn_us: Histogram,
    /// From accepted command to the last socket's write, in microseconds.
    pub fanout_us: Histogram,
    /// Requests refused on sockets, by code.
    pub refusals: [Counter; Code::ALL.len()],
    /// Connections closed by the server, by reason.
    pub closes: [Counter; Reason::ALL.len()],
}

/// The counters of control. Who holds its lock writes them.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ControlStats {
    /// Commands carried out.
    pub orders: Counter,
    /// Events announced to at least one shard.
    pub events: Counter,
    /// Services seen (gauge).
    pub services: Counter,
    /// Instances registered, each with its lease (gauge).
    pub instances: Counter,
    /// Leases that ran out and took their instance with them.
    pub expired: Counter,
    /// Leases renewed.
    pub renewals: Counter,
    /// Changes of all services.
    pub changes: Counter,
    /// Services whose expiry is held (gauge).
    pub degraded_services: Counter,
    /// How long turns of the timekeeper took, in microseconds.
    pub turn_us: Histogram,
    /// How long shards carried out commands at a stretch, in microseconds.
    pub hold_us: Histogram,
    /// The longest of these since the last sample.
    pub hold_us_peak: Counter,
    /// The longest turn of the timekeeper since the last sample, in microseconds.
    pub turn_us_peak: Counter,
    /// Commands that shards have left to the timekeeper (gauge).
    pub set_aside: Counter,
    /// Transactions given to the store.
    pub commits: Counter,
    /// Writes in them with a waiting caller.
    pub writes: Counter,
    /// Users with at least one connection (gauge).
    pub users_online: Counter,
    /// Users ever seen (gauge).
    pub users_known: Counter,
    /// Channels in use (gauge).
    pub channels: Counter,
    /// Bytes of all channels' histories (gauge).
    pub history_bytes: Counter,
    /// Bytes of all services' histories (gauge).
    pub service_history_bytes: Counter,
    /// Bytes of all instances' JSON (gauge).
    pub instances_bytes: Counter,
    /// Services that were forgotten.
    pub services_forgotten: Counter,
    /// Channels that were forgotten for others.
    pub channels_forgotten: Counter,
    /// 1 while the store accepts writes, else 0 (gauge).
    pub store_healthy: Counter,
    /// Rows and writes that the database refused for their content.
    pub store_set_aside: Counter,
}

/// Figures about the keys that tokens are checked with. Their reader writes them.
#[derive(Debug, Default)]
pub struct TokenKeyStats {
    /// Keys in use (gauge).
    pub keys: Counter,
    /// Readings of a set of public keys that failed.
    pub failures: Counter,
}

/// A path of a node to Redis that can fail while the others work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedisPath {
    /// Writes the log.
    LogWriter,
    /// Reads the log.
    LogReader,
    /// Carries out control's requests to Redis and to other nodes.
    Calls,
    /// Reads topics.
    Topics,
    /// Reads the journal of direct and group messages.
    Journal,
}

impl RedisPath {
    /// All of them.
    pub const ALL: [RedisPath; 5] = [
        RedisPath::LogWriter,
        RedisPath::LogReader,
        RedisPath::Calls,
        RedisPath::Topics,
        RedisPath::Journal,
    ];

    /// Its index in [`RedisPath::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The name in status pages and in the log. Both paths of the log are `log`.
    pub const fn as_str(self) -> &'static str {
        match self {
            RedisPath::LogWriter | RedisPath::LogReader => "log",
            RedisPath::Calls => "calls",
            RedisPath::Topics => "topics",
            RedisPath::Journal => "journal",
        }
    }
}

/// Figures about the other nodes. Control writes them; from `topics` to `called` the backplane's
/// thread does.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ClusterStats {
    /// Nodes alive, this one included (gauge).
    pub nodes: Counter,
    /// When Redis last answered on the log's connection, in milliseconds since the Unix epoch
    /// (gauge).
    pub contact_ms: Counter,
    /// The number of the newest entry (gauge).
    pub newest: Counter,
    /// The number of the last entry applied here (gauge).
    pub sequence: Counter,
    /// Leases that this node watches (gauge).
    pub leases_owned: Counter,
    /// 1 when all entries of the log at the start are applied, else 0 (gauge).
    pub caught_up: Counter,
    /// 1 while Redis is silent, or the log is not followed, for too long, else 0 (gauge).
    pub cut_off: Counter,
    /// Entries applied.
    pub applied: Counter,
    /// Proposals that were not appended to the log.
    pub lost: Counter,
    /// Times the registry was replaced by a snapshot.
    pub replaced: Counter,
    /// Users online on any node (gauge).
    pub users_online: Counter,
    /// Messages of the journal that the database does not have yet (gauge).
    pub unwritten: Counter,
    /// Channels whose topic this node subscribes to (gauge).
    pub topics: Counter,
    /// The number of the journal's newest entry (gauge).
    pub journal_newest: Counter,
    /// The number of the last entry of the journal read here (gauge).
    pub journal_read: Counter,
    /// Connections to Redis made in place of lost ones.
    pub reconnects: Counter,
    /// Times that topics were silent and did not bring a message of this node to itself.
    pub probe_failures: Counter,
    /// Messages of topics dropped because control did not keep up.
    pub dropped: Counter,
    /// Calls carried out, or failed.
    pub called: Counter,
    /// Channels that had missed messages and were read again; written by control.
    pub healed: Counter,
    /// When Redis took this node's first heartbeat, in milliseconds by its own clock; 0 before
    /// that. Written by the backplane's thread.
    pub joined_ms: Counter,
    /// When each path last proved to work, in nanoseconds by the server's clock; 0 if it never has.
    /// Written by the backplane's thread.
    pub paths: [Counter; RedisPath::ALL.len()],
}

impl ClusterStats {
    /// Whether the registry here is that of all nodes, as far as this node can know.
    pub fn is_joined(&self) -> bool {
        self.caught_up.value() == 1 && self.cut_off.value() == 0
    }

    /// Whether a path has proved to work within [`limits::CLUSTER_PATH_MS`].
    pub fn is_path_up(&self, path: RedisPath, now_ns: u64) -> bool {
        let worked_ns = self.paths[path.index()].value();
        worked_ns != 0 && now_ns.saturating_sub(worked_ns) <= limits::CLUSTER_PATH_MS * 1_000_000
    }

    /// Whether every path works.
    pub fn are_paths_up(&self, now_ns: u64) -> bool {
        RedisPath::ALL.iter().all(|path| self.is_path_up(*path, now_ns))
    }
}

/// The HTTP counters of all shards together. HTTP is not the hot path, so these are shared and
/// added to atomically.
#[derive(Debug, Default)]
pub struct HttpStats {
    requests: AtomicU64,
    refusals: [AtomicU64; Code::ALL.len()],
    connections: AtomicU64,
}

impl HttpStats {
    /// Counts a request.
    pub fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a refusal.
    pub fn refuse(&self, code: Code) {
        self.refusals[code.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection in, and returns how many there are now.
    pub fn enter(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Counts a connection out.
    pub fn leave(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// Requests since the start.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Open HTTP connections.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Requests refused with a code.
    pub fn refused(&self, code: Code) -> u64 {
        self.refusals[code.index()].load(Ordering::Relaxed)
    }
}

/// Every counter of the server.
#[derive(Debug)]
pub struct Stats {
    /// One a shard, by number.
    pub shards: Vec<ShardStats>,
    /// Control's.
    pub control: ControlStats,
    /// The HTTP doors'.
    pub http: HttpStats,
    /// Control's figures about other nodes.
    pub cluster: ClusterStats,
    /// The keys that tokens are checked with.
    pub token_keys: TokenKeyStats,
}

impl Stats {
    /// Counters for a server of so many shards, all at zero.
    pub fn new(shards: usize) -> Stats {
        Stats {
            shards: (0..shards).map(|_| ShardStats::default()).collect(),
            control: ControlStats::default(),
            http: HttpStats::default(),
            cluster: ClusterStats::default(),
            token_keys: TokenKeyStats::default(),
        }
    }

    /// A counter's sum over all shards.
    pub fn sum(&self, of: impl Fn(&ShardStats) -> &Counter) -> u64 {
        self.shards.iter().map(|shard| of(shard).value()).sum()
    }

    /// A histogram over all shards.
    pub fn merged(&self, of: impl Fn(&ShardStats) -> &Histogram) -> Reading {
        let mut reading = Reading::default();
        for shard in &self.shards {
            reading.add(of(shard));
        }
        reading
    }
}
