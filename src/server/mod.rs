//! A running server: its threads, and the handle that stops it.
//!
//! ```text
//! start --> store --> control thread --> shard threads, each with a listener --> "listening"
//! stop  --> drain shards --> no socket left --> control's last commit --> joined
//! ```
//!
//! Imports everything. Imported by the binary, tests and embedders.

mod control_thread;
mod listener;
mod shard_thread;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use serde_json::Value;
use tokio::sync::Notify;

use crate::auth::{self, Authenticator};
use crate::clock::Clock;
use crate::config::{AuthMode, Config, Sources};
use crate::http::Office;
use crate::id::{Epoch, ShardId};
use crate::limits;
use crate::mailbox::published::Published;
use crate::mailbox::to_shard::Parcel;
use crate::mailbox::{Bell, Outlet, mailbox};
use crate::shard;
use crate::state::State;
use crate::state::registry::{self, Registry};
use crate::stats::Stats;
use crate::store::{Store, StoreError};
use crate::ws::gate::Gate;

/// Why a server does not start.
#[derive(Debug)]
pub enum StartError {
    /// The address cannot be listened on.
    Bind(SocketAddr, io::Error),
    /// The data directory cannot be made or used.
    DataDir(std::path::PathBuf, io::Error),
    /// The store cannot be used.
    Store(StoreError),
    /// A thread cannot be started.
    Thread(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Bind(address, fault) => write!(f, "cannot listen on {address}: {fault}"),
            StartError::DataDir(path, fault) => {
                write!(f, "cannot use the data directory {}: {fault}", path.display())
            }
            StartError::Store(fault) => fault.fmt(f),
            StartError::Thread(fault) => write!(f, "cannot start a thread: {fault}"),
        }
    }
}

impl std::error::Error for StartError {}

/// A server that runs until it is stopped.
///
/// Dropping it without [`Server::stop`] leaves it running until the process ends.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stats: Arc<Stats>,
    shards: Vec<Outlet<Parcel>>,
    shard_threads: Vec<JoinHandle<()>>,
    control_thread: JoinHandle<()>,
    signals: Arc<Signals>,
    drain_window_ms: u64,
}

/// What the threads tell each other at the end.
#[derive(Debug, Default)]
struct Signals {
    is_draining: Arc<AtomicBool>,
    /// Shards that have seen their last connection go.
    drained: AtomicUsize,
    /// Raised when every shard has: then they stop.
    shards_stop: AtomicBool,
    /// Raised when the shards have stopped: then control does.
    control_stop: AtomicBool,
}

/// What every shard thread is given.
#[derive(Clone)]
struct Common {
    clock: Clock,
    office: Arc<Office>,
    signals: Arc<Signals>,
    /// Open sockets of all kinds on all shards.
    sockets: Arc<AtomicUsize>,
    sockets_max: usize,
}

impl Server {
    /// Starts a server. It listens when this returns.
    ///
    /// `sources` is what `/api/status/config.json` shows as the origin of each setting.
    ///
    /// # Errors
    ///
    /// Where the address, the data directory or the store cannot be used.
    pub fn start(config: &Config, sources: &Sources) -> Result<Server, StartError> {
        let sockets_max = listener::sockets_max(config.limits.connections_max);
        // Before there is a second thread.
        listener::grow_descriptor_table(sockets_max.saturating_add(limits::RESERVED_DESCRIPTORS));
        let clock = Clock::start();
        let in_data_dir = |fault| StartError::DataDir(config.data_dir.clone(), fault);
        std::fs::create_dir_all(&config.data_dir).map_err(in_data_dir)?;
        let secret = match &config.jwt_secret {
            Some(secret) => secret.clone().into_bytes(),
            None => auth::secret_from_data_dir(&config.data_dir).map_err(in_data_dir)?,
        };
        let (store, image) = Store::open(config.database_url.as_deref(), &config.data_dir)
            .map_err(StartError::Store)?;
        let listeners = listener::bind(config.bind, config.shards)
            .map_err(|fault| StartError::Bind(config.bind, fault))?;
        let address =
            listeners[0].local_addr().map_err(|fault| StartError::Bind(config.bind, fault))?;

        let stats = Arc::new(Stats::new(config.shards));
        let published = Arc::<Published>::default();
        let signals = Arc::new(Signals::default());
        let limits = Arc::new(config.limits.clone());
        let node_id: Arc<str> = random_hex(8).into();
        let gate = Arc::new(gate(config, &secret));
        stats.control.store_healthy.set(1);
        let common = Common {
            clock,
            office: Arc::new(Office {
                node_id: Arc::clone(&node_id),
                limits: Arc::clone(&limits),
                gate: Arc::clone(&gate),
                published: Arc::clone(&published),
                stats: Arc::clone(&stats),
                store: store.health(),
                is_draining: Arc::clone(&signals.is_draining),
                settings: shown(config, sources),
                started_ms: clock.now().unix_ms,
                requests: AtomicU64::new(0),
            }),
            signals: Arc::clone(&signals),
            sockets: Arc::default(),
            sockets_max,
        };

        let registry = Registry::restore(
            registry_settings(config),
            image,
            Epoch::new(&random_hex(16)),
            clock.now(),
        );
        let messages_max = limits.mailbox_messages_max;
        let bell = Bell::thread();
        let (to_control, inbox) = mailbox(messages_max, bell.clone());
        let (mut shards, mut starts) = (Vec::new(), Vec::new());
        for (index, listener) in listeners.into_iter().enumerate() {
            let notify = Arc::new(Notify::new());
            let (outlet, inlet) = mailbox(messages_max, Bell::task(Arc::clone(&notify)));
            shards.push(outlet);
            let settings = shard::Settings {
                id: ShardId(u16::try_from(index).unwrap_or(u16::MAX)),
                node_id: Arc::clone(&node_id),
                limits: Arc::clone(&limits),
                gate: Arc::clone(&gate),
                is_draining: Arc::clone(&signals.is_draining),
                stats: Arc::clone(&stats),
                seed: uuid::Uuid::new_v4().as_u64_pair().0,
            };
            starts.push(shard_thread::Start {
                settings,
                listener,
                notify,
                inlet,
                control: to_control.clone(),
                common: common.clone(),
            });
        }
        let control = crate::control::Control::new(
            State { registry },
            inbox,
            shards.clone(),
            published,
            Arc::clone(&stats),
            Some(store),
        );
        let control_thread = control_thread::start(control, bell, clock, Arc::clone(&signals))
            .map_err(StartError::Thread)?;
        let shard_threads = starts
            .into_iter()
            .map(shard_thread::start)
            .collect::<io::Result<Vec<_>>>()
            .map_err(StartError::Thread)?;
        Ok(Server {
            address,
            stats,
            shards,
            shard_threads,
            control_thread,
            signals,
            drain_window_ms: limits.drain_window_ms,
        })
    }

    /// The address it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Its counters.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Sends every client away, writes what is not on disk, and ends all threads. Returns when that
    /// is done, which takes no longer than the drain window and a few seconds.
    pub fn stop(self) {
        self.signals.is_draining.store(true, Ordering::SeqCst);
        let window_ms = self.drain_window_ms;
        for shard in &self.shards {
            // Fails only where the shard has stopped already.
            let _ = shard.push_waiting(Parcel::Drain { window_ms });
            shard.ring();
        }
        for thread in self.shard_threads {
            // A shard's panic has been printed; the others are stopped all the same.
            let _ = thread.join();
        }
        self.signals.control_stop.store(true, Ordering::SeqCst);
        self.control_thread.thread().unpark();
        let _ = self.control_thread.join();
    }
}

/// Who may come in.
fn gate(config: &Config, secret: &[u8]) -> Gate {
    Gate {
        authenticator: Authenticator::hs256(secret),
        is_auth_required: config.auth == AuthMode::Required,
        allowed_origins: config.allowed_origins.clone(),
        echo: config.echo,
        seats: Arc::default(),
    }
}

/// Every setting by its name, and where each came from.
fn shown(config: &Config, sources: &Sources) -> serde_json::Map<String, Value> {
    let (mut settings, mut origins) = (serde_json::Map::new(), serde_json::Map::new());
    for (key, value, source) in config.entries(sources) {
        origins.insert(key.clone(), source.as_str().into());
        settings.insert(key, value);
    }
    settings.insert(String::from("sources"), Value::Object(origins));
    settings
}

fn registry_settings(config: &Config) -> registry::Settings {
    registry::Settings {
        lease_ttl_ms: config.lease_ttl_ms,
        self_protection_max_ms: config.self_protection_max_ms,
        history_max: config.limits.service_history_max,
        instances_max: config.limits.instances_max,
        services_max: config.limits.services_max,
    }
}

fn random_hex(digits: usize) -> String {
    let mut text = uuid::Uuid::new_v4().simple().to_string();
    text.truncate(digits);
    text
}
