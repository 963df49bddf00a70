//! What outlives the process.
//!
//! A thread of its own owns the connection that writes. Control hands it one set of changes, or of
//! writes that somebody waits for, at a time, and goes on gathering while that is written; each set
//! is one transaction. After an error a set of the registry's changes is kept and tried again, and
//! writes are refused; readiness says so, and what is in memory stays served. Reading has another
//! thread, the [`library`].
//!
//! # Promises
//!
//! * A set is written whole or not at all.
//! * A write is answered after its transaction has been synced to disk.
//! * After a kill the database says that it is not complete, because it was marked so before the
//!   first change; only [`Store::close`] takes the mark away.
//! * One process at a time uses a database, or the nodes of one cluster do.
//!
//! # Among several nodes
//!
//! [`Store::open_shared`] has accounts, groups and messages in one `PostgreSQL` for all nodes. The
//! registry and the channels are in their log, and messages in their journal before they are here.
//! One node at a time writes, so the last check of a write is as good as with one server.
//!
//! Imports `limits`, `private_file` and `state`. Imported by `control`, `http`, `server` and the
//! binary.

pub mod accounts;
mod database;
pub mod library;
mod people;
mod posted;
mod watch;

use std::fmt;
use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use sqlx::migrate::MigrateError;

use crate::limits;
use crate::private_file;
use crate::state::durable::{AccountChange, PeopleImage, Write, WriteResult};
use crate::state::image::{RegistryDelta, RegistryImage};
use crate::wire::refusal::Refusal;
use database::{Database, Mode};
use library::Library;

pub use database::Address;

/// Why the store cannot be used.
#[derive(Debug)]
pub enum StoreError {
    /// The address names no database that is spoken here.
    Address(String),
    /// The database cannot be opened or brought up to date.
    Open {
        /// Which one, without a password.
        path: String,
        /// What it said.
        fault: sqlx::Error,
    },
    /// Another server has it open.
    InUse(String),
    /// Several nodes cannot use it at once.
    NotShareable(String),
    /// The thread could not be started.
    Thread(std::io::Error),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Address(url) => {
                let scheme = url.split(':').next().unwrap_or_default();
                write!(f, "database-url is {scheme}:, not sqlite://PATH or postgres://...")
            }
            StoreError::Open { path, fault } => {
                write!(f, "the database {path} cannot be used: {}", advice(fault))
            }
            StoreError::InUse(path) => write!(
                f,
                "the database {path} is in use by another server; give each its own data-dir \
                 or database-url, or join them with one redis-url"
            ),
            StoreError::NotShareable(path) => write!(
                f,
                "several nodes cannot use the database {path} at once; give them one database-url \
                 postgres://..."
            ),
            StoreError::Thread(fault) => write!(f, "the store's thread does not start: {fault}"),
        }
    }
}

impl std::error::Error for StoreError {}

/// What a fault means for whoever starts the server.
fn advice(fault: &sqlx::Error) -> String {
    match fault {
        sqlx::Error::Migrate(migrate) => match **migrate {
            MigrateError::VersionMissing(version) | MigrateError::VersionTooNew(version, _) => {
                format!("it was written by a newer release, which has migration {version}")
            }
            _ => format!("{migrate}; its tables are not as a release of this server left them"),
        },
        sqlx::Error::Database(refusal) if is_broken(refusal.code().as_deref()) => {
            format!("{refusal}; move it away to start with an empty one, or put a copy back")
        }
        sqlx::Error::Io(_) | sqlx::Error::Database(_) => {
            format!("{fault}; check that it is there and may be written to")
        }
        _ => format!("{fault}"),
    }
}

/// `SQLITE_CORRUPT` and `SQLITE_NOTADB` (<https://www.sqlite.org/rescode.html>).
fn is_broken(code: Option<&str>) -> bool {
    matches!(code, Some("11" | "26"))
}

/// Claims a database for this process. The kernel gives the claim back when the process ends,
/// however it does.
fn claim(path: &Path) -> Result<File, StoreError> {
    let shown = || path.display().to_string();
    let open = |fault| StoreError::Open { path: shown(), fault: sqlx::Error::Io(fault) };
    let file = private_file::open(&private_file::with_suffix(path, ".lock")).map_err(open)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse(shown())),
        Err(TryLockError::Error(fault)) => Err(open(fault)),
    }
}

/// How the store does, for whoever asks.
#[derive(Debug, Clone)]
pub struct StoreHealth(Arc<AtomicBool>);

impl StoreHealth {
    /// Whether the last set was written.
    pub fn is_ok(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// The health of a server without a store.
    pub fn always() -> StoreHealth {
        StoreHealth(Arc::new(AtomicBool::new(true)))
    }
}

enum Job {
    Write(RegistryDelta),
    Execute(Arc<Vec<Write>>),
    /// Write, mark as complete, and end.
    Close(RegistryDelta),
}

/// What the store held when it was opened.
#[derive(Debug, Default)]
pub struct Image {
    /// Of the registry.
    pub registry: RegistryImage,
    /// Of people and channels.
    pub people: PeopleImage,
}

/// What the store says by itself.
pub struct Listeners {
    /// It has done what it was given, and takes more: one result for each write, none after a set
    /// of the registry's changes.
    pub on_stored: Box<dyn Fn(Vec<WriteResult>) + Send>,
    /// Accounts were changed beside this server.
    pub on_accounts: Box<dyn Fn(Vec<AccountChange>) + Send>,
}

impl Default for Listeners {
    fn default() -> Listeners {
        Listeners { on_stored: Box::new(|_| {}), on_accounts: Box::new(|_| {}) }
    }
}

/// The store's handle. Control holds the only one.
#[derive(Debug)]
pub struct Store {
    jobs: Sender<Job>,
    is_idle: Arc<AtomicBool>,
    health: StoreHealth,
    thread: Option<JoinHandle<()>>,
    library: Library,
    /// Held for as long as the store is, where the database is a file.
    _claim: Option<File>,
}

impl Store {
    /// Opens the database at `url`, or the embedded one in `data_dir`, and reads what it holds.
    ///
    /// # Errors
    ///
    /// Where it cannot be opened; the message says what to check.
    pub fn open(
        url: Option<&str>,
        data_dir: &Path,
        listeners: Listeners,
    ) -> Result<(Store, Image), StoreError> {
        let address = Address::new(url, data_dir)?;
        let claim = match &address {
            Address::Sqlite(path) => Some(claim(path)?),
            Address::Postgres(_) => None,
        };
        Store::start(address, Mode::Alone, claim, listeners)
    }

    /// Opens the database at `url` as one of several nodes, and reads what it holds of people and
    /// channels. Sets of the registry's changes, and writes of channels and of messages that are in
    /// no journal, have no place there.
    ///
    /// # Errors
    ///
    /// Where it cannot be opened or shared; the message says what to check.
    pub fn open_shared(url: &str, listeners: Listeners) -> Result<(Store, Image), StoreError> {
        let address = Address::new(Some(url), Path::new(""))?;
        if !address.is_shareable() {
            return Err(StoreError::NotShareable(address.shown()));
        }
        Store::start(address, Mode::Shared, None, listeners)
    }

    fn start(
        address: Address,
        mode: Mode,
        claim: Option<File>,
        listeners: Listeners,
    ) -> Result<(Store, Image), StoreError> {
        let Listeners { on_stored, on_accounts } = listeners;
        let (jobs, inbox) = crossbeam_channel::bounded(1);
        let (opened, image) = crossbeam_channel::bounded(1);
        let is_idle = Arc::new(AtomicBool::new(true));
        let health = StoreHealth::always();
        let worker = Worker {
            mode,
            is_idle: Arc::clone(&is_idle),
            health: health.clone(),
            inbox,
            on_stored,
        };
        let at = address.clone();
        let thread = std::thread::Builder::new()
            .name(String::from("store"))
            .spawn(move || worker.run(&at, &opened))
            .map_err(StoreError::Thread)?;
        let image = image.recv().unwrap_or_else(|_| {
            Err(StoreError::Open { path: address.shown(), fault: sqlx::Error::WorkerCrashed })
        })?;
        let known_ms = image.people.users.iter().map(|user| user.changed_ms).max();
        let known_ms = known_ms.unwrap_or(0).cast_signed();
        let library = Library::open(address, known_ms, on_accounts);
        let (library, _) = library.map_err(StoreError::Thread)?;
        let thread = Some(thread);
        Ok((Store { jobs, is_idle, health, thread, library, _claim: claim }, image))
    }

    /// Where what is stored can be read.
    pub fn library(&self) -> Library {
        self.library.clone()
    }

    /// Whether what it was given has been done.
    pub fn is_idle(&self) -> bool {
        self.is_idle.load(Ordering::Acquire)
    }

    /// Hands over a set of changes. Only while the store is idle, and never to a shared one, which
    /// would drop it.
    pub fn commit(&self, delta: RegistryDelta) {
        self.give(Job::Write(delta));
    }

    /// Hands over writes that somebody waits for. Only while the store is idle.
    pub fn execute(&self, writes: Arc<Vec<Write>>) {
        self.give(Job::Execute(writes));
    }

    fn give(&self, job: Job) {
        debug_assert!(self.is_idle());
        self.is_idle.store(false, Ordering::Release);
        // Fails only when the thread has gone, which it logged.
        let _ = self.jobs.send(job);
    }

    /// How the store does.
    pub fn health(&self) -> StoreHealth {
        self.health.clone()
    }

    /// Writes the last set, marks the database as complete, and waits for that. A shared one has
    /// neither, and is only closed.
    pub fn close(mut self, delta: RegistryDelta) {
        let _ = self.jobs.send(Job::Close(delta));
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed; the mark then stays, which is right.
            let _ = thread.join();
        }
    }
}

/// The thread's side.
struct Worker {
    mode: Mode,
    is_idle: Arc<AtomicBool>,
    health: StoreHealth,
    inbox: Receiver<Job>,
    on_stored: Box<dyn Fn(Vec<WriteResult>) + Send>,
}

impl Worker {
    fn run(self, address: &Address, opened: &Sender<Result<Image, StoreError>>) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(fault) => {
                let _ = opened.send(Err(StoreError::Thread(fault)));
                return;
            }
        };
        let mut database = match runtime.block_on(Database::open(address, self.mode)) {
            Ok((database, image)) => {
                let _ = opened.send(Ok(image));
                database
            }
            Err(fault) => {
                let _ = opened.send(Err(fault));
                return;
            }
        };
        // Direct messages that are not in the inboxes yet.
        let mut fresh = 0_usize;
        loop {
            if fresh >= limits::INBOX_MERGE_MESSAGES {
                self.merge(&runtime, &mut database, &mut fresh);
            }
            let results = match self.inbox.recv_timeout(self.patience(fresh)) {
                Ok(Job::Write(delta)) => {
                    self.write(&runtime, &mut database, &delta, u32::MAX);
                    Vec::new()
                }
                Ok(Job::Execute(writes)) => {
                    if self.mode == Mode::Alone {
                        fresh += writes.len();
                    }
                    self.execute(&runtime, &mut database, &writes)
                }
                Ok(Job::Close(delta)) => {
                    self.merge(&runtime, &mut database, &mut fresh);
                    let attempts = limits::STORE_CLOSE_ATTEMPTS_MAX;
                    if self.write(&runtime, &mut database, &delta, attempts)
                        && let Err(fault) = runtime.block_on(database.close(delta.version))
                    {
                        tracing::error!(%fault, "the store was not closed as it should be");
                    }
                    return;
                }
                Err(RecvTimeoutError::Timeout) => {
                    if self.health.is_ok() {
                        self.merge(&runtime, &mut database, &mut fresh);
                    } else {
                        self.probe(&runtime, &mut database);
                    }
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            self.is_idle.store(true, Ordering::Release);
            (self.on_stored)(results);
        }
    }

    /// How long to wait for the next job: while the store is ill it looks after itself, because
    /// nobody gives it any, and at rest it has messages to sort.
    fn patience(&self, fresh: usize) -> Duration {
        match (self.health.is_ok(), fresh) {
            (false, _) => Duration::from_millis(limits::STORE_RETRY_MS_MIN),
            (true, 0) => Duration::MAX,
            (true, _) => Duration::from_millis(limits::INBOX_MERGE_REST_MS),
        }
    }

    /// Sorts new messages into the inboxes. Nobody waits for it; where it fails, the store is ill.
    fn merge(&self, runtime: &tokio::runtime::Runtime, database: &mut Database, fresh: &mut usize) {
        if *fresh == 0 || !self.health.is_ok() {
            return;
        }
        match runtime.block_on(database.merge_inboxes()) {
            Ok(()) => *fresh = 0,
            Err(fault) => {
                tracing::error!(%fault, "the inboxes cannot be brought up to date");
                self.health.0.store(false, Ordering::Relaxed);
                runtime.block_on(database.reset());
            }
        }
    }

    fn probe(&self, runtime: &tokio::runtime::Runtime, database: &mut Database) {
        match runtime.block_on(database.probe()) {
            Ok(()) => {
                tracing::info!("the store takes writes again");
                self.health.0.store(true, Ordering::Relaxed);
            }
            Err(fault) => {
                tracing::debug!(%fault, "the store still takes no writes");
                runtime.block_on(database.reset());
            }
        }
    }

    /// Carries out writes, once: whoever waits is told that it failed, rather than kept waiting.
    fn execute(
        &self,
        runtime: &tokio::runtime::Runtime,
        database: &mut Database,
        writes: &[Write],
    ) -> Vec<WriteResult> {
        let fault = match runtime.block_on(database.execute(writes)) {
            Ok(results) => {
                self.health.0.store(true, Ordering::Relaxed);
                return results;
            }
            Err(fault) => fault,
        };
        tracing::error!(%fault, writes = writes.len(), "the store refused writes");
        self.health.0.store(false, Ordering::Relaxed);
        runtime.block_on(database.reset());
        writes.iter().map(|_| Err(Refusal::unavailable())).collect()
    }

    /// Writes a set, again and again until it is written or the attempts are used up.
    #[allow(clippy::disallowed_methods, reason = "a thread that has nothing else to do may sleep")]
    fn write(
        &self,
        runtime: &tokio::runtime::Runtime,
        database: &mut Database,
        delta: &RegistryDelta,
        attempts: u32,
    ) -> bool {
        if self.mode == Mode::Shared {
            // The log of all nodes has the registry.
            return true;
        }
        let mut pause_ms = limits::STORE_RETRY_MS_MIN;
        for _ in 0..attempts {
            match runtime.block_on(database.write(delta)) {
                Ok(()) => {
                    self.health.0.store(true, Ordering::Relaxed);
                    return true;
                }
                Err(fault) => tracing::error!(%fault, "the store refused a set of changes"),
            }
            self.health.0.store(false, Ordering::Relaxed);
            runtime.block_on(database.reset());
            std::thread::sleep(Duration::from_millis(pause_ms));
            pause_ms = (pause_ms * 2).min(limits::STORE_RETRY_MS_MAX);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::image::{InstanceRecord, PullOutRecord, ServiceRecord};
    use bytes::Bytes;
    use sqlx::{ConnectOptions, Connection};
    use std::path::PathBuf;

    struct Dir(PathBuf);

    impl Dir {
        fn new() -> Dir {
            let dir = std::env::temp_dir().join(format!("fanfare-store-{}", uuid::Uuid::new_v4()));
            std::fs::create_dir_all(&dir).expect("a directory for the test");
            Dir(dir)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn instance(n: usize) -> InstanceRecord {
        InstanceRecord {
            identity: format!("r\u{1f}s\u{1f}i{n:05}"),
            service_id: String::from("s"),
            json: Bytes::from(format!("{{\"instanceId\":\"i{n} \\\" \u{e9}\"}}")),
            lease_ttl_ms: 20_000,
        }
    }

    fn delta() -> RegistryDelta {
        RegistryDelta {
            epoch: String::from("e1"),
            version: 42,
            services: vec![ServiceRecord {
                service_id: String::from("s"),
                revision: 7,
                protection_enabled: false,
                degraded_since_ms: Some(5),
            }],
            upserts: (0..10_000).map(instance).collect(),
            pull_outs: vec![PullOutRecord {
                identity: String::from("p"),
                operator: String::from("o"),
            }],
            ..RegistryDelta::default()
        }
    }

    #[test]
    fn a_clean_close_brings_everything_back() {
        let dir = Dir::new();
        let (store, Image { registry: image, .. }) =
            Store::open(None, &dir.0, Listeners::default()).expect("opens");
        assert_eq!((image.epoch, image.instances.len()), (None, 0));
        store.close(delta());
        let (store, Image { registry: mut image, .. }) =
            Store::open(None, &dir.0, Listeners::default()).expect("opens again");
        image.instances.sort_by(|a, b| a.identity.cmp(&b.identity));
        let delta = delta();
        assert!(image.is_clean);
        assert_eq!((image.epoch.as_deref(), image.version), (Some("e1"), 42));
        assert_eq!(image.services, delta.services);
        assert_eq!(image.instances, delta.upserts);
        assert_eq!(image.pull_outs, delta.pull_outs);
        let gone = RegistryDelta {
            epoch: String::from("e1"),
            version: 43,
            deletes: delta.upserts[1..].iter().map(|one| one.identity.clone()).collect(),
            pull_ins: vec![String::from("p")],
            ..RegistryDelta::default()
        };
        store.close(gone);
        let (_store, Image { registry: image, .. }) =
            Store::open(None, &dir.0, Listeners::default()).expect("opens a third time");
        assert_eq!(image.instances, delta.upserts[..1]);
        assert!(image.pull_outs.is_empty());
    }

    #[test]
    fn without_a_clean_close_the_version_lies_ahead() {
        let dir = Dir::new();
        let (store, _) = Store::open(None, &dir.0, Listeners::default()).expect("opens");
        store.commit(delta());
        while !store.is_idle() {
            std::thread::yield_now();
        }
        drop(store);
        let (_store, Image { registry: image, .. }) =
            Store::open(None, &dir.0, Listeners::default()).expect("opens again");
        assert!(!image.is_clean);
        assert!(image.version > 42);
        assert_eq!(image.instances.len(), 10_000);
    }

    #[test]
    fn one_server_at_a_time() {
        let dir = Dir::new();
        let (store, _) = Store::open(None, &dir.0, Listeners::default()).expect("opens");
        let fault = Store::open(None, &dir.0, Listeners::default()).expect_err("it is in use");
        assert!(matches!(fault, StoreError::InUse(_)), "{fault}");
        assert!(fault.to_string().contains("in use by another server"), "{fault}");
        store.close(RegistryDelta::default());
        assert!(Store::open(None, &dir.0, Listeners::default()).is_ok());
    }

    #[test]
    fn a_database_that_cannot_be_read_is_left_as_it_is() {
        let dir = Dir::new();
        let path = dir.0.join("fanfare.db");
        let garbage = "not a database, ".repeat(1_000);
        std::fs::write(&path, &garbage).expect("written");
        let fault =
            Store::open(None, &dir.0, Listeners::default()).expect_err("garbage").to_string();
        assert!(fault.contains("fanfare.db") && fault.contains("move it away"), "{fault}");
        assert_eq!(std::fs::read_to_string(&path).expect("still there"), garbage);
    }

    #[test]
    fn a_database_of_a_newer_release_is_refused() {
        let dir = Dir::new();
        let (store, _) = Store::open(None, &dir.0, Listeners::default()).expect("opens");
        store.close(delta());
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let options = sqlx::sqlite::SqliteConnectOptions::new();
            let options = options.filename(dir.0.join("fanfare.db"));
            let mut connection = options.connect().await.expect("connects");
            let later = "INSERT INTO _sqlx_migrations
                (version, description, success, checksum, execution_time)
                VALUES (9999, 'later', TRUE, x'00', 0)";
            sqlx::query(later).execute(&mut connection).await.expect("inserted");
            connection.close().await.expect("closes");
        });
        let fault = Store::open(None, &dir.0, Listeners::default()).expect_err("newer").to_string();
        assert!(fault.contains("newer release, which has migration 9999"), "{fault}");
    }

    #[test]
    fn a_directory_that_is_none_is_named() {
        let fault = Store::open(None, Path::new("/dev/null/x"), Listeners::default())
            .expect_err("no directory");
        assert!(fault.to_string().contains("/dev/null/x"), "{fault}");
        let fault = Store::open(Some("mysql://x"), Path::new("."), Listeners::default())
            .expect_err("not spoken");
        assert!(fault.to_string().contains("database-url is mysql:"), "{fault}");
    }
}
