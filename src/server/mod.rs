//! A running server: its threads, and the handle that stops it.
//!
//! ```text
//! start --> store --> timekeeper ----> other nodes' registry --> shard threads, listening
//! stop  --> drain shards --> no socket left --> last requests --> control's last commit --> joined
//! ```
//!
//! Imports everything. Imported by the binary, tests and embedders.

mod acceptor;

mod handle;
mod listener;
mod monitor;
mod shard_thread;
mod timekeeper;
mod tls;
mod token_keys;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::Notify;

use crate::auth::{self, Authenticator, Revoked};
use crate::clock::{Clock, Moment};
use crate::cluster::agreement::{Difference, OTHER_TOKEN_KEYS, Shared, TOKEN_KEY};
use crate::cluster::{self, Cluster, News, NodeView};
use crate::config::{AuthMode, Config, Sources};
use crate::control::{AuditSettings, Control};
use crate::doors;
use crate::http::AppState;
use crate::http::answers::Answers;
use crate::http::bodies::{AddressBodies, Bodies};
use crate::http::idle::IdleTable;
use crate::http::known_users::KnownUsers;
use crate::http::login_throttle::LoginThrottle;
use crate::http::passwords::Passwords;
use crate::http::rate_limiter::RateLimiter;
use crate::http::status;
use crate::limits;
use crate::mailbox::combiner::Combiner;
use crate::mailbox::command_sender::CommandSender;
use crate::mailbox::to_control::{ControlMessage, Task};
use crate::mailbox::to_shard::ShardMessage;
use crate::mailbox::view_cache::ViewCache;
use crate::mailbox::{Bell, MailboxReceiver, MailboxSender, mailbox};
use crate::private_file;
use crate::redacted;
use crate::shard;
use crate::state::Ask as _;
use crate::state::durable::PeopleSnapshot;
use crate::state::journal::JournalTail;
use crate::state::messaging::commands::{ApplyAccounts, EndTokens};
use crate::state::registry::unsaved::SetBound;
use crate::state::registry::{self, Registry};
use crate::state::snapshot::Snapshot;
use crate::state::{self, State};
use crate::stats::Stats;
use crate::store::read_pool::ReadPool;
use crate::store::{self, Address, Listeners, Store, StoreHealth, StoreSnapshot};
use crate::ws::address_connections::AddressConnectionLimit;
use crate::ws::authorizer::Authorizer;
use crate::ws::hosts::Hosts;

use tls::Tls;
use token_keys::KeyReader;

pub(crate) use token_keys::authenticator;

pub use crate::address::ClientAddress;
pub use crate::auth::Claims;
pub use crate::cluster::ClusterError;
pub use crate::id::{
    ChannelName, ConnId, ConnName, Epoch, InstanceIdentity, MessageId, ServiceName, ShardId, Slot,
    UserId,
};
pub use crate::limits::Limits;
pub use crate::state::channels::view::ChannelView;
pub use crate::state::event::DomainEvent;
pub use crate::state::people::{ConnectionView, OnlineUser, Person};
pub use crate::state::registry::views::View;
pub use crate::store::StoreError;
pub use crate::wire::event::{ChangeReason, ChangeType};
pub use crate::wire::instance_list::InstanceList;
pub use fanfare_protocol::instance::Instance;
pub use fanfare_protocol::refusal::{Code, Refusal};
pub use handle::{
    CallError, ChannelMessages, Delivery, Events, Handle, InstanceChange, Message,
    PublishedMessage, ServiceUpdate, ServiceWatch,
};

/// The reason why a server does not start.
#[derive(Debug)]
pub enum StartError {
    /// The address cannot be listened on.
    Bind(SocketAddr, io::Error),
    /// The data directory cannot be made or used.
    DataDir(std::path::PathBuf, io::Error),
    /// The public key cannot be used.
    Key(std::path::PathBuf, String),
    /// The set of public keys that a setting names cannot be read.
    KeySet(String, String),
    /// The secret in the data directory is invalid.
    Secret(io::Error),
    /// A certificate or its key cannot be used.
    Tls(std::path::PathBuf, String),
    /// The backplane cannot be used.
    Cluster(ClusterError),
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
            StartError::Key(path, fault) => {
                write!(f, "jwt-public-key: {}: {fault}", path.display())
            }
            StartError::KeySet(place, fault) => write!(f, "{place}: {fault}"),
            StartError::Tls(path, fault) => write!(f, "TLS: {}: {fault}", path.display()),
            StartError::Secret(fault) => write!(f, "jwt-secret: {fault}"),
            StartError::Cluster(fault) => fault.fmt(f),
            StartError::Store(fault) => fault.fmt(f),
            StartError::Thread(fault) => write!(f, "cannot start a thread: {fault}"),
        }
    }
}

impl std::error::Error for StartError {}

impl StartError {
    /// Whether a setting is at fault, and not the machine.
    #[must_use]
    pub const fn is_setting(&self) -> bool {
        matches!(
            self,
            StartError::Key(..)
                | StartError::Tls(..)
                | StartError::Secret(..)
                | StartError::Cluster(ClusterError::Url(_) | ClusterError::File(..))
        )
    }
}

impl From<ClusterError> for StartError {
    fn from(fault: ClusterError) -> StartError {
        StartError::Cluster(fault)
    }
}

/// A server that runs until it is stopped.
///
/// Dropping it without [`Server::stop`] leaves it running until the process ends.
#[derive(Debug)]
pub struct Server {
    clock: Clock,
    handle: Handle,
    address: SocketAddr,
    stats: Arc<Stats>,
    shards: Vec<MailboxSender<ShardMessage>>,
    shard_threads: Vec<JoinHandle<()>>,
    control_thread: JoinHandle<()>,
    monitor_thread: JoinHandle<()>,
    key_reader: Option<KeyReader>,
    signals: Arc<Signals>,
    tls: Option<Arc<Tls>>,
    drain_window_ms: u64,
}

/// Signals between threads at shutdown.
#[derive(Debug, Default)]
struct Signals {
    is_draining: Arc<AtomicBool>,
    /// The number of shards whose last connection has ended.
    drained: AtomicUsize,
    /// Raised when all shards are drained: then they stop.
    shards_stop: AtomicBool,
    /// Raised when the shards have stopped: then control does.
    control_stop: AtomicBool,
    /// When control has to have ended, in nanoseconds of the clock. Set before `control_stop`.
    deadline_ns: AtomicU64,
    /// Wakes the thread that publishes the counters when the server drains.
    monitor_stop: Arc<Notify>,
}

/// The state that all shard threads share.
#[derive(Clone)]
struct Common {
    clock: Clock,
    app: Arc<AppState>,
    signals: Arc<Signals>,
    /// Open sockets of all kinds on all shards.
    sockets: Arc<AtomicUsize>,
    sockets_max: usize,
    /// Refused sockets whose refusal is being sent.
    turned: Arc<AtomicUsize>,
    tls: Option<Arc<Tls>>,
}

impl Server {
    /// Starts a server. It listens when this returns.
    ///
    /// `sources` has the origin of each setting for `/api/status/config.json`.
    ///
    /// # Errors
    ///
    /// If the address, the data directory or the store cannot be used.
    #[allow(clippy::too_many_lines, reason = "the parts of a server, in their order")]
    pub fn start(config: &Config, sources: &Sources) -> Result<Server, StartError> {
        let sockets_max = listener::sockets_max(config.limits.connections_max);
        tracing::info!("auth {}", config.auth_reason(sources));
        tracing::info!(connections_max = sockets_max, "room for connections");
        // Before there is a second thread.
        listener::grow_descriptor_table(sockets_max.saturating_add(limits::RESERVED_DESCRIPTORS));
        let clock = Clock::start();
        say_where_data_is(config);
        let in_data_dir = |fault| StartError::DataDir(config.data_dir.clone(), fault);
        private_file::create_dir(&config.data_dir).map_err(in_data_dir)?;
        let authenticator = authenticator(config)?;
        let tls = encryption(config)?.map(Arc::new);
        let messages_max = config.limits.mailbox_messages_max;
        let bell = Bell::thread();
        let (to_control, inbox) = mailbox(messages_max, bell.clone());
        let (store, snapshot) = open_store(config, clock, &to_control)?;
        let in_bind = |fault| StartError::Bind(config.bind, fault);
        // Early, because the other nodes would learn of a node that then cannot serve.
        listener::check(config.bind).map_err(in_bind)?;

        let stats = Arc::new(Stats::new(config.shards));
        let view_cache = Arc::<ViewCache>::default();
        let signals = Arc::new(Signals::default());
        let limits = Arc::new(config.limits.clone());
        let node_id: Arc<str> = random_hex(8).into();
        let authorizer =
            Arc::new(authorizer(config, authenticator, &snapshot.people, clock.now().unix_s()));
        stats.control.store_healthy.set(1);
        let address_bodies = AddressBodies::new(&limits);
        let app = AppState {
            node_id: Arc::clone(&node_id),
            limits: Arc::clone(&limits),
            authorizer: Arc::clone(&authorizer),
            view_cache: Arc::clone(&view_cache),
            stats: Arc::clone(&stats),
            store: store.as_ref().map_or_else(StoreHealth::always, Store::health),
            read_pool: store.as_ref().map_or_else(ReadPool::closed, Store::read_pool),
            login_throttle: LoginThrottle::default(),
            passwords: Passwords::start().map_err(StartError::Thread)?,
            registration: config.registration,
            default_scopes: config.default_scopes,
            group_invitations: config.group_invitations,
            registrations: RateLimiter::a_minute(limits.registrations_per_minute_max),
            unknown_names: RateLimiter::a_minute(limits.unknown_names_per_minute_max),
            idle: Arc::new(IdleTable::new(clock.started())),
            known_users: KnownUsers::default(),
            advertise_url: config.advertise_url.clone(),
            dialects: doors::open(config.eureka, config.artemis.then(|| config.tls_cert.is_some())),
            is_draining: Arc::clone(&signals.is_draining),
            nodes: parking_lot::RwLock::default(),
            shared: shared_settings(config, &node_id)?,
            differences: parking_lot::RwLock::default(),
            is_clustered: config.redis_url.is_some(),
            settings: config.document(sources),
            login_token_ttl_ms: config.login_token_ttl_ms,
            audit_age_max_ms: config.audit_age_max_ms,
            session_max_ms: config.session_max_ms,
            started_ms: clock.now().unix_ms,
            new_id: || uuid::Uuid::new_v4().hyphenated().to_string(),
            requests: AtomicU64::new(0),
            access_log: config.access_log,
            answers: (0..config.shards).map(|_| Arc::new(Answers::new(&limits))).collect(),
            bodies: (0..config.shards)
                .map(|_| Arc::new(Bodies::new(&limits, Arc::clone(&address_bodies))))
                .collect(),
            recent: parking_lot::RwLock::default(),
        };
        let common = Common {
            clock,
            app: Arc::new(app),
            signals: Arc::clone(&signals),
            sockets: Arc::default(),
            turned: Arc::default(),
            sockets_max,
            tls: tls.clone(),
        };

        let journal = journal(store.is_some(), &snapshot);
        let state = state_of(config, snapshot, &node_id, clock.now());
        let (shards, inlets): (Vec<_>, Vec<_>) =
            (0..config.shards).map(|_| shard_mailbox(messages_max)).unzip();
        let control =
            Control::new(state, inbox, shards.clone(), view_cache, Arc::clone(&stats), store)
                .with_revoked(Arc::clone(&authorizer.revoked))
                .with_set_bound(set_bound(&limits))
                .with_audit(&node_id, audit_settings(config));
        let control = joined(control, config, &common.app, (clock, &to_control), journal)?;
        let events = control.events();
        let combiner =
            Combiner::new(Box::new(control), to_control.clone(), clock, Arc::clone(&stats));
        let combiner = Arc::new(combiner);
        let starts = shard_starts(inlets, &combiner, &common);
        let limits_of_handle = Arc::new(config.limits.clone());
        let handle = Handle::new(to_control, clock, &events, Arc::clone(&stats), limits_of_handle);
        let control_thread = timekeeper::start(combiner, bell, clock, Arc::clone(&signals))
            .map_err(StartError::Thread)?;
        if config.redis_url.is_some() {
            await_registry(clock, &stats);
        }
        let listening = listener::listen(config.bind, config.shards)
            .and_then(|listeners| Ok((listeners[0].local_addr()?, listeners)));
        let (address, listeners) = match listening {
            Ok(listening) => listening,
            Err(fault) => {
                let deadline_ns = end_of(limits::DRAIN_MS_MAX, clock);
                end_control(&signals, control_thread, clock, deadline_ns);
                return Err(in_bind(fault));
            }
        };
        let monitor_thread = monitor::start(handle.clone(), common).map_err(StartError::Thread)?;
        let key_reader =
            KeyReader::start(config, Arc::clone(&authorizer.authenticator), Arc::clone(&stats))
                .map_err(StartError::Thread)?;
        let shard_threads = starts
            .into_iter()
            .zip(listeners)
            .map(|(start, listener)| shard_thread::start(start, listener))
            .collect::<io::Result<Vec<_>>>()
            .map_err(StartError::Thread)?;
        tracing::info!(
            target: "fanfare::server",
            %address,
            node = &*node_id,
            version = env!("CARGO_PKG_VERSION"),
            auth = config.auth.as_str(),
            shards = config.shards,
            "started"
        );
        Ok(Server {
            clock,
            handle,
            address,
            stats,
            shards,
            shard_threads,
            control_thread,
            monitor_thread,
            key_reader,
            signals,
            tls,
            drain_window_ms: limits.drain_window_ms,
        })
    }

    /// The address it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Whether it speaks TLS.
    pub fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// Reads certificate and key again, for connections that come from here on. Returns false if
    /// the server does not use TLS.
    ///
    /// # Errors
    ///
    /// [`StartError::Tls`]; the old certificate then stays in use.
    pub fn reload_certificate(&self) -> Result<bool, StartError> {
        let Some(tls) = &self.tls else { return Ok(false) };
        tls.reload().map_err(|(path, fault)| StartError::Tls(path, fault))?;
        Ok(true)
    }

    /// Has the set of public keys that tokens are checked with read again. Returns false if the server
    /// has no such set. One that cannot be read changes nothing, and the log says why.
    pub fn reload_token_keys(&self) -> bool {
        self.key_reader.as_ref().inspect(|reader| reader.read_now()).is_some()
    }

    /// A handle for the program that embeds the server.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Sends every client away, writes unsaved changes, and ends all threads. Returns when that is
    /// done, and after 30 s at the latest: writes that wait for the database or Redis by then are
    /// given up, and the log names them.
    pub fn stop(self) {
        let (clock, signals) = (self.clock, self.signals);
        let deadline_ns = end_of(limits::DRAIN_MS_MAX, clock);
        signals.is_draining.store(true, Ordering::SeqCst);
        signals.monitor_stop.notify_one();
        let window_ms = self.drain_window_ms;
        let connections = self.stats.sum(|shard| &shard.connections);
        tracing::info!(
            target: "fanfare::server",
            connections, window_ms,
            "draining: clients are sent away"
        );
        for shard in &self.shards {
            // Fails only if the shard has stopped already.
            let _ = shard.push_waiting(ShardMessage::Drain { window_ms });
            shard.ring();
        }
        // Control needs a moment of its own for the last changes.
        let shards_ns = deadline_ns.saturating_sub(limits::STORE_CLOSE_MS * 1_000_000);
        for thread in self.shard_threads {
            // A shard's panic has been printed; the others are stopped all the same.
            join_by(thread, clock, shards_ns);
        }
        join_by(self.monitor_thread, clock, shards_ns);
        if let Some(reader) = self.key_reader {
            reader.stop();
            join_by(reader.thread, clock, shards_ns);
        }
        tracing::info!(target: "fanfare::server", "drained: no connection is left");
        end_control(&signals, self.control_thread, clock, deadline_ns);
        tracing::info!(target: "fanfare::server", "stopped");
    }
}

/// The moment at which a stop that begins now has to be over, in nanoseconds of the clock: a little
/// before the end of `span_ms`.
fn end_of(span_ms: u64, clock: Clock) -> u64 {
    clock.now().ns + (span_ms - limits::STOP_RESERVE_MS) * 1_000_000
}

/// Waits for the end of a thread. One that hangs is left behind: the process ends all the same.
#[allow(clippy::disallowed_methods, reason = "nothing else is to be done on this thread meanwhile")]
fn join_by(thread: JoinHandle<()>, clock: Clock, deadline_ns: u64) {
    while !thread.is_finished() {
        if clock.now().ns >= deadline_ns {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            tracing::error!(name, "a thread does not end in time, and is left behind");
            return;
        }
        std::thread::sleep(limits::STOP_LOOK);
    }
    // Its panic has been printed.
    let _ = thread.join();
}

/// Makes control write the last changes, and waits for that.
fn end_control(signals: &Signals, control: JoinHandle<()>, clock: Clock, deadline_ns: u64) {
    signals.deadline_ns.store(deadline_ns, Ordering::SeqCst);
    signals.control_stop.store(true, Ordering::SeqCst);
    control.thread().unpark();
    // It gives up by itself at the deadline.
    join_by(control, clock, deadline_ns + limits::STOP_RESERVE_MS * 500_000);
}

/// The store, and its content. Among several nodes there is one only if all share it.
fn open_store(
    config: &Config,
    clock: Clock,
    to_control: &MailboxSender<ControlMessage>,
) -> Result<(Option<Store>, StoreSnapshot), StartError> {
    if config.redis_url.is_some() {
        let url = config.database_url.as_deref().filter(|url| is_shareable(url));
        let Some(url) = url else {
            // With a database of its own each node would have other accounts and messages.
            tracing::info!(
                "no database-url that all nodes share (postgres://...): accounts, direct and group \
                 messages are unavailable"
            );
            return Ok((None, StoreSnapshot::default()));
        };
        let opened = Store::open_shared(url, listeners(clock, to_control));
        let (store, snapshot) = opened.map_err(StartError::Store)?;
        return Ok((Some(store), snapshot));
    }
    let (url, data_dir) = (config.database_url.as_deref(), &config.data_dir);
    let opened = Store::open(url, data_dir, listeners(clock, to_control));
    let (store, snapshot) = opened.map_err(StartError::Store)?;
    Ok((Some(store), snapshot))
}

/// The position at which the journal is read on; no journal if nothing can be stored.
fn journal(is_stored: bool, snapshot: &StoreSnapshot) -> cluster::Journal {
    if is_stored {
        cluster::Journal::After(snapshot.people.written)
    } else {
        cluster::Journal::Closed
    }
}

/// The bound of one set of changes.
fn set_bound(limits: &Limits) -> SetBound {
    SetBound { rows: limits.store_set_rows_max, bytes: limits.store_set_bytes_max }
}

/// How much of the audit log is kept.
fn audit_settings(config: &Config) -> AuditSettings {
    let bytes_max = config.audit_bytes_max as u64;
    AuditSettings { age_ms_max: config.audit_age_max_ms, bytes_max }
}

/// Whether nodes can share a database.
fn is_shareable(url: &str) -> bool {
    Address::new(Some(url), Path::new("")).is_ok_and(|address| address.is_shareable())
}

/// The state at the start.
fn state_of(config: &Config, snapshot: StoreSnapshot, node: &str, now: Moment) -> State {
    let written = snapshot.people.written;
    let registry = registry_of(config, snapshot.registry, node, now);
    let state = State::new(registry, state_settings(config, node), snapshot.people);
    if config.redis_url.is_none() {
        return state;
    }
    let is_shared = config.database_url.as_deref().is_some_and(is_shareable);
    state.joined(is_shared.then(|| JournalTail::after(written)))
}

/// The registry at the start: the store's; among several nodes the log's.
fn registry_of(config: &Config, snapshot: Snapshot, node: &str, now: Moment) -> Registry {
    let (settings, epoch) = (registry_settings(config), Epoch::new(&random_hex(16)));
    let mut registry = if config.redis_url.is_some() {
        Registry::new(settings, epoch, 0, now).replicated(node)
    } else {
        Registry::new(settings, epoch, 0, now).restore(snapshot, now)
    };
    if config.eureka {
        registry.keep_recent(limits::EUREKA_DELTA_MS, now);
    }
    registry
}

/// Joins control to the other nodes, if there are to be any.
fn joined(
    control: Control,
    config: &Config,
    app: &Arc<AppState>,
    (clock, to_control): (Clock, &MailboxSender<ControlMessage>),
    journal: cluster::Journal,
) -> Result<Control, StartError> {
    let Some(url) = &config.redis_url else { return Ok(control) };
    let cluster = Cluster::start(cluster::Setup {
        url: url.clone(),
        tls: tls_files(config),
        node: Arc::clone(&app.node_id),
        clock,
        stats: Arc::clone(&app.stats),
        journal,
        tell: news_to(clock, to_control, Arc::clone(app)),
        about: about(clock, Arc::clone(app)),
    })?;
    Ok(control.with_cluster(&app.node_id, cluster))
}

/// The files of TLS to Redis.
fn tls_files(config: &Config) -> cluster::TlsFiles {
    let certificate = config.redis_cert.clone().zip(config.redis_key.clone());
    cluster::TlsFiles { ca: config.redis_ca.clone(), certificate }
}

/// Waits until the log is loaded; gives up when Redis is silent. The node does not listen before: a
/// proxy would send it requests that any other node can answer, and it cannot yet.
#[allow(clippy::disallowed_methods, reason = "nothing else is to be done on this thread meanwhile")]
fn await_registry(clock: Clock, stats: &Stats) {
    let start_ms = clock.now().unix_ms;
    let is_over = || {
        let heard_ms = stats.cluster.contact_ms.value().max(start_ms);
        let now_ms = clock.now().unix_ms;
        now_ms >= start_ms + limits::REDIS_SNAPSHOT_MS
            || now_ms >= heard_ms + limits::CLUSTER_BEGIN_MS
    };
    while !stats.cluster.is_joined() {
        if is_over() {
            // If Redis never answered, that has been logged.
            if stats.cluster.contact_ms.value() != 0 {
                tracing::warn!(
                    "the registry of the other nodes is not available: listening without it"
                );
            }
            return;
        }
        std::thread::sleep(Duration::from_millis(limits::CLUSTER_LOOK_MS));
    }
}

/// The sending end of a shard's mailbox, and what the shard's thread rests on.
fn shard_mailbox(messages_max: usize) -> (MailboxSender<ShardMessage>, Inlet) {
    let notify = Arc::new(Notify::new());
    let (outlet, inlet) = mailbox(messages_max, Bell::task(Arc::clone(&notify)));
    (outlet, (notify, inlet))
}

type Inlet = (Arc<Notify>, MailboxReceiver<ShardMessage>);

/// What each shard's thread is given.
fn shard_starts(
    inlets: Vec<Inlet>,
    combiner: &Arc<Combiner>,
    common: &Common,
) -> Vec<shard_thread::Start> {
    let one = |(index, (notify, inlet))| {
        let settings = shard_settings(index, common);
        let control = CommandSender::new(Arc::clone(combiner), settings.id);
        shard_thread::Start { settings, notify, inlet, control, common: common.clone() }
    };
    inlets.into_iter().enumerate().map(one).collect()
}

fn shard_settings(index: usize, common: &Common) -> shard::Settings {
    let app = &common.app;
    shard::Settings {
        id: ShardId(u16::try_from(index).unwrap_or(u16::MAX)),
        node_id: Arc::clone(&app.node_id),
        limits: Arc::clone(&app.limits),
        authorizer: Arc::clone(&app.authorizer),
        is_draining: Arc::clone(&app.is_draining),
        access_log: app.access_log,
        stats: Arc::clone(&app.stats),
        seed: uuid::Uuid::new_v4().as_u64_pair().0,
    }
}

/// Logs where the data and the secret are, and which of them this start creates.
fn say_where_data_is(config: &Config) {
    let dir = std::path::absolute(&config.data_dir).unwrap_or_else(|_| config.data_dir.clone());
    let state = if dir.exists() { "" } else { " (new)" };
    let is_public = config.jwt_jwks_file.is_some() || config.jwt_jwks_url.is_some();
    let secret = match (&config.jwt_public_key, &config.jwt_secret) {
        (Some(_), _) => "tokens are checked with the given public key",
        (None, _) if is_public => "tokens are checked with the issuer's public keys",
        (None, Some(_)) => "tokens are signed with the given secret",
        (None, None) if dir.join(auth::SECRET_FILE).exists() => {
            "tokens are signed with the secret in it"
        }
        (None, None) => "tokens are signed with a secret that is made there now",
    };
    let database = match (&config.redis_url, &config.database_url) {
        (Some(_), None) => String::from("none"),
        (_, Some(url)) => redacted::url(url),
        (None, None) if dir.join(store::DATABASE_FILE).exists() => String::from("in it"),
        (None, None) => String::from("made there now"),
    };
    tracing::info!("data directory {}{state}; database: {database}; {secret}", dir.display());
}

/// Signs a token with the secret of a configuration, as the server does at a login. None if the
/// configuration has a public key only: then another issuer makes the tokens.
///
/// # Errors
///
/// If the public key or the data directory cannot be used.
///
/// ```no_run
/// use std::time::UNIX_EPOCH;
///
/// use fanfare::config::Config;
/// use fanfare::server::{Claims, sign_token};
///
/// let exp = UNIX_EPOCH.elapsed().unwrap_or_default().as_secs() + 3_600;
/// let claims = Claims { sub: "ann".into(), username: Some("Ann".into()), exp, ..Claims::default() };
/// let token = sign_token(&Config::default(), &claims)?;
/// # Ok::<(), fanfare::server::StartError>(())
/// ```
pub fn sign_token(config: &Config, claims: &Claims) -> Result<Option<String>, StartError> {
    Ok(authenticator(config)?.sign(claims))
}

fn encryption(config: &Config) -> Result<Option<Tls>, StartError> {
    let (Some(certificate), Some(key)) = (&config.tls_cert, &config.tls_key) else {
        return Ok(None);
    };
    let tls = Tls::load(certificate.clone(), key.clone());
    tls.map(Some).map_err(|(path, fault)| StartError::Tls(path, fault))
}

/// Checks certificate and key, if they are configured.
///
/// # Errors
///
/// [`StartError::Tls`].
pub(crate) fn check_certificate(config: &Config) -> Result<(), StartError> {
    encryption(config).map(|_| ())
}

/// The number of sockets that a server with this configuration holds on this machine.
pub(crate) fn connections_max(config: &Config) -> usize {
    listener::sockets_max(config.limits.connections_max)
}

/// The rules for requests and connections.
fn authorizer(
    config: &Config,
    authenticator: Authenticator,
    snapshot: &PeopleSnapshot,
    now_s: u64,
) -> Authorizer {
    let revoked = Revoked::default();
    for user in &snapshot.users {
        revoked.set(user.user_id.as_str(), user.standing);
    }
    for token in &snapshot.ended_tokens {
        revoked.revoke(token.id, token.expires_s, now_s);
    }
    // If tokens are required, a page that makes its name point here has none to show.
    let is_host_checked = config.auth == AuthMode::Open || !config.allowed_hosts.is_empty();
    Authorizer {
        authenticator: Arc::new(authenticator),
        is_auth_required: config.auth == AuthMode::Required,
        hosts: Hosts::new(config.bind, config.allowed_hosts.clone(), is_host_checked),
        base_path: config.base_path.clone(),
        allowed_origins: config.allowed_origins.clone(),
        trusted_proxies: config.trusted_proxies.clone(),
        echo: config.echo,
        artemis: config.artemis.then(|| config.artemis_networks.clone()),
        topic_bytes_max: config.limits.topic_bytes_max,
        user_connections: Arc::default(),
        address_connections: Arc::new(AddressConnectionLimit::new(
            config.limits.connections_per_address_max,
            connections_max(config),
        )),
        namespaces: Arc::new(config.namespaces.clone()),
        revoked: Arc::new(revoked),
    }
}

/// Sends the backplane's news to control, and the list of nodes to the status pages.
fn news_to(
    clock: Clock,
    to_control: &MailboxSender<ControlMessage>,
    app: Arc<AppState>,
) -> cluster::Listener {
    let to_control = to_control.clone();
    Arc::new(move |news| {
        if let News::Nodes { nodes, .. } = &news {
            app.nodes.write().clone_from(nodes);
            agree(&app, nodes);
        }
        let accepted_ns = clock.now().ns;
        let task = Task::Cluster(news);
        // Fails only if control has stopped, and the server with it.
        let _ = to_control.push_waiting(ControlMessage { accepted_ns, task });
        to_control.ring();
    })
}

/// Compares the settings of all living nodes with this one's, and logs new differences.
fn agree(app: &AppState, nodes: &[NodeView]) {
    let differences = app.shared.differences(app.stats.cluster.joined_ms.value(), nodes);
    let before = std::mem::replace(&mut *app.differences.write(), differences.clone());
    for Difference { node, settings, is_ours } in
        differences.iter().filter(|one| !before.contains(one))
    {
        let settings = settings.join(", ");
        if *is_ours {
            tracing::error!(node, settings, "settings differ from the eldest node's: not ready");
        } else {
            tracing::warn!(node, settings, "another node has other settings");
        }
    }
    if differences.is_empty() && !before.is_empty() {
        tracing::info!("all nodes have the same settings");
    }
}

/// The settings that all nodes share.
///
/// # Errors
///
/// If the public key cannot be read.
fn shared_settings(config: &Config, node: &str) -> Result<Shared, StartError> {
    let mut shared = Shared { node: node.to_owned(), ..Shared::default() };
    if config.redis_url.is_none() {
        return Ok(shared);
    }
    shared.may_differ = config.differing_settings;
    shared.settings = config.shared();
    let keys = token_keys::fingerprints(config)?;
    if let Some(key) = keys.key {
        shared.settings.insert(TOKEN_KEY.to_owned(), key.into());
        shared.settings.insert(OTHER_TOKEN_KEYS.to_owned(), keys.others.into());
    }
    Ok(shared)
}

/// This node's status, as other nodes show it.
fn about(clock: Clock, app: Arc<AppState>) -> cluster::About {
    Arc::new(move || status::about(&app, clock.now()).to_string())
}

/// Sends the store's events to control.
fn listeners(clock: Clock, to_control: &MailboxSender<ControlMessage>) -> Listeners {
    let say = move |to_control: MailboxSender<ControlMessage>, task: Task| {
        let accepted_ns = clock.now().ns;
        // Fails only if control has stopped, and the server with it.
        let _ = to_control.push_waiting(ControlMessage { accepted_ns, task });
        to_control.ring();
    };
    let [stored, accounts, tokens] = [(); 3].map(|()| to_control.clone());
    Listeners {
        on_stored: Box::new(move |results| say(stored.clone(), Task::Stored(results))),
        on_accounts: Box::new(move |changes| {
            say(accounts.clone(), Task::Command(ApplyAccounts(changes).unanswered()));
        }),
        on_tokens: Box::new(move |ended| {
            say(tokens.clone(), Task::Command(EndTokens(ended).unanswered()));
        }),
    }
}

fn state_settings(config: &Config, node: &str) -> state::Settings {
    let limits = &config.limits;
    state::Settings {
        channels: state::channels::bounds::Settings {
            namespaces: Arc::new(config.namespaces.clone()),
            history_max: limits.channel_history_max,
            history_bytes_max: limits.channel_history_bytes_max,
            channels_max: limits.channels_max,
            per_connection_max: limits.channels_per_connection_max,
            per_address_max: limits.channels_per_address_max,
        },
        history_bytes_max: limits.history_bytes_max,
        users_max: limits.users_max,
        subscriptions_max: limits.subscriptions_per_connection_max,
        epoch: random_hex(12),
        node: node.to_owned(),
        seed: uuid::Uuid::new_v4().as_u64_pair().0,
    }
}

fn registry_settings(config: &Config) -> registry::Settings {
    registry::Settings {
        lease_ttl_ms: config.lease_ttl_ms,
        self_protection_max_ms: config.self_protection_max_ms,
        history_max: config.limits.service_history_max,
        history_bytes_max: config.limits.service_history_bytes_max,
        instances_max: config.limits.instances_max,
        instances_bytes_max: config.limits.instances_bytes_max,
        snapshots_bytes_max: config.limits.snapshots_bytes_max,
        snapshot_shared_bytes_min: limits::SNAPSHOT_SHARED_BYTES_MIN,
        services_max: config.limits.services_max,
        service_forget_ms: config.limits.service_forget_ms,
    }
}

fn random_hex(digits: usize) -> String {
    let mut text = uuid::Uuid::new_v4().simple().to_string();
    text.truncate(digits);
    text
}
