//! The store: the state that outlives the process.
//!
//! A thread of its own owns the connection that writes. Control hands it one set of registry
//! changes, or of writes with waiting callers, at a time, and goes on gathering meanwhile; each set
//! is one transaction. If a set of registry changes fails, the store reports that, and control
//! makes the next set of the newest state; writes are refused. Readiness reports the fault, and the
//! state in memory is served on. Reading has another thread, the [`read_pool`].
//!
//! # Promises
//!
//! * A set is written whole or not at all.
//! * A write is answered after its transaction has been synced to disk.
//! * After a kill the database is marked as incomplete, because it was marked so before the first
//!   change; only [`Store::close`] takes the mark away.
//! * A row that the database refuses for its content is logged, counted and set aside; everything
//!   else is written.
//! * [`Store::hurry`] bounds every wait from then on.
//! * One process at a time uses a database, or the nodes of one cluster do.
//!
//! # Among several nodes
//!
//! [`Store::open_shared`] has accounts, groups and messages in one `PostgreSQL` for all nodes. The
//! registry and the channels are in their log, and messages in their journal before they are here.
//! One node at a time writes, so the last check of a write is as good as with one server.
//!
//! Imports `auth`, `id`, `limits`, `private_file`, `redacted`, `state` and `wire`. Imported by `control`,
//! `http`, `server` and the binary.

mod account_poller;
pub mod accounts;
mod address;
pub mod audit;
mod database;
mod journal;
mod logins;
mod people;
mod postgres;
pub mod read_pool;
#[doc(hidden)]
#[cfg(any(test, feature = "internals"))]
pub mod simulated;
mod statement;
mod worker;

use std::fmt;
use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;
use sqlx::migrate::MigrateError;
use tokio::sync::watch as signal;

use crate::private_file;
use crate::state::durable::{AccountChange, EndedToken, PeopleSnapshot, Write, WriteResult};
use crate::state::registry::unsaved::RegistryDelta;
use crate::state::snapshot::Snapshot;
use address::Mode;
use read_pool::ReadPool;
use worker::{Job, Worker};

pub use address::{Address, DATABASE_FILE};

/// The reason why the store cannot be used.
#[derive(Debug)]
pub enum StoreError {
    /// The address names no supported database.
    Address(String),
    /// The database cannot be opened, or its tables not updated.
    Open {
        /// Its address, without a password.
        path: String,
        /// Its message.
        fault: sqlx::Error,
    },
    /// Another server has it open.
    InUse(String),
    /// Several nodes cannot share it.
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

/// The advice on a fault for the operator who starts the server.
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
        sqlx::Error::Database(refusal) if is_locked(refusal.code().as_deref()) => {
            format!("{refusal}; another process is writing to it: try again when that is done")
        }
        sqlx::Error::Database(refusal) if is_full(refusal.code().as_deref()) => {
            format!("{refusal}; there is no room left where it is, and nothing was changed")
        }
        sqlx::Error::Io(silence) if silence.kind() == std::io::ErrorKind::TimedOut => {
            String::from("it does not answer; look whether its server is well")
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

/// `SQLITE_BUSY` and `SQLITE_LOCKED` with their extended codes, and `PostgreSQL`'s
/// `lock_not_available`.
fn is_locked(code: Option<&str>) -> bool {
    is_sqlite(code, &[5, 6]) || code == Some("55P03")
}

/// `SQLITE_FULL`, and `PostgreSQL`'s `disk_full`.
fn is_full(code: Option<&str>) -> bool {
    is_sqlite(code, &[13]) || code == Some("53100")
}

/// `PostgreSQL`'s codes have five characters, `SQLite`'s at most four. The lowest byte is the kind.
fn is_sqlite(code: Option<&str>, kinds: &[u32]) -> bool {
    let code = code.filter(|code| code.len() < 5).and_then(|code| code.parse::<u32>().ok());
    code.is_some_and(|code| kinds.contains(&(code & 0xff)))
}

/// Claims the database for this process. The kernel frees the claim when the process ends, however
/// it does.
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

/// The health of the store.
#[derive(Debug, Clone)]
pub struct StoreHealth {
    is_ok: Arc<AtomicBool>,
    aside: Arc<AtomicU64>,
}

impl StoreHealth {
    /// Whether the last set was written.
    pub fn is_ok(&self) -> bool {
        self.is_ok.load(Ordering::Relaxed)
    }

    /// The number of rows and writes that the database has refused for their content.
    pub fn set_aside_total(&self) -> u64 {
        self.aside.load(Ordering::Relaxed)
    }

    /// The health of a server without a store.
    pub fn always() -> StoreHealth {
        StoreHealth { is_ok: Arc::new(AtomicBool::new(true)), aside: Arc::default() }
    }

    fn set(&self, is_ok: bool) {
        self.is_ok.store(is_ok, Ordering::Relaxed);
    }

    fn count_aside(&self) {
        self.aside.fetch_add(1, Ordering::Relaxed);
    }
}

/// The result of a set of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetOutcome {
    /// It is on disk, except for rows that were set aside.
    Written,
    /// It is not on disk, or not all of it. The next set has to contain its rows.
    Refused,
}

/// The pause after so many failures in a row, in milliseconds.
pub fn retry_pause_ms(failures: u32) -> u64 {
    u64::try_from(worker::pause(failures).as_millis()).unwrap_or(u64::MAX)
}

/// The content of the store at its opening.
#[derive(Debug, Default)]
pub struct StoreSnapshot {
    /// Of the registry.
    pub registry: Snapshot,
    /// Of people and channels.
    pub people: PeopleSnapshot,
}

/// Callbacks for the store's own events.
pub struct Listeners {
    /// The last job is done, and the store takes the next: one result for each write, none after a
    /// set of registry changes.
    pub on_stored: Box<dyn Fn(Vec<WriteResult>) + Send>,
    /// Another process changed accounts.
    pub on_accounts: Box<dyn Fn(Vec<AccountChange>) + Send>,
    /// Another process revoked single tokens.
    pub on_tokens: Box<dyn Fn(Vec<EndedToken>) + Send>,
}

impl Default for Listeners {
    fn default() -> Listeners {
        Listeners {
            on_stored: Box::new(|_| {}),
            on_accounts: Box::new(|_| {}),
            on_tokens: Box::new(|_| {}),
        }
    }
}

/// The store's handle. Control holds the only one.
#[derive(Debug)]
pub struct Store {
    jobs: Sender<Job>,
    is_idle: Arc<AtomicBool>,
    health: StoreHealth,
    outcome: Arc<Mutex<Option<SetOutcome>>>,
    hurry: signal::Sender<bool>,
    /// Carries no value, and is closed when the thread ends.
    ended: Receiver<()>,
    read_pool: ReadPool,
    /// Held for the life of the store, if the database is a file.
    _claim: Option<File>,
}

impl Store {
    /// Opens the database at `url`, or the embedded one in `data_dir`, and reads its content.
    ///
    /// # Errors
    ///
    /// If it cannot be opened; the message names what to check.
    pub fn open(
        url: Option<&str>,
        data_dir: &Path,
        listeners: Listeners,
    ) -> Result<(Store, StoreSnapshot), StoreError> {
        let address = Address::new(url, data_dir)?;
        let claim = match &address {
            Address::Sqlite(path) => Some(claim(path)?),
            Address::Postgres(_) => None,
        };
        Store::start(address, Mode::Alone, claim, listeners)
    }

    /// Opens the database at `url` as one of several nodes, and reads its people and channels. Sets
    /// of registry changes, and writes of channels and of messages that are not in the journal, do
    /// not belong there.
    ///
    /// # Errors
    ///
    /// If it cannot be opened or shared; the message names what to check.
    pub fn open_shared(
        url: &str,
        listeners: Listeners,
    ) -> Result<(Store, StoreSnapshot), StoreError> {
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
    ) -> Result<(Store, StoreSnapshot), StoreError> {
        let Listeners { on_stored, on_accounts, on_tokens } = listeners;
        let (jobs, inbox) = crossbeam_channel::bounded(1);
        let (opened, snapshot) = crossbeam_channel::bounded(1);
        let is_idle = Arc::new(AtomicBool::new(true));
        let health = StoreHealth::always();
        let outcome = Arc::new(Mutex::new(None));
        let (hurry, hurried) = signal::channel(false);
        let worker = Worker {
            mode,
            is_idle: Arc::clone(&is_idle),
            health: health.clone(),
            inbox,
            outcome: Arc::clone(&outcome),
            on_stored,
            hurry: hurried,
        };
        let at = address.clone();
        let (end, ended) = crossbeam_channel::bounded(0);
        std::thread::Builder::new()
            .name(String::from("store"))
            .spawn(move || {
                worker.run(&at, &opened);
                drop(end);
            })
            .map_err(StoreError::Thread)?;
        let snapshot = snapshot.recv().unwrap_or_else(|_| {
            Err(StoreError::Open { path: address.shown(), fault: sqlx::Error::WorkerCrashed })
        })?;
        let newest_ms = |stamps: Option<u64>| stamps.unwrap_or(0).cast_signed();
        let known = account_poller::Known {
            accounts_ms: newest_ms(snapshot.people.users.iter().map(|user| user.changed_ms).max()),
            tokens_ms: newest_ms(snapshot.people.ended_tokens.last().map(|last| last.changed_ms)),
        };
        let read_pool =
            ReadPool::open(address, known, account_poller::Tell { on_accounts, on_tokens });
        let (read_pool, _) = read_pool.map_err(StoreError::Thread)?;
        let store =
            Store { jobs, is_idle, health, outcome, hurry, ended, read_pool, _claim: claim };
        Ok((store, snapshot))
    }

    /// The pool for reading.
    pub fn read_pool(&self) -> ReadPool {
        self.read_pool.clone()
    }

    /// Whether the last job is done.
    pub fn is_idle(&self) -> bool {
        self.is_idle.load(Ordering::Acquire)
    }

    /// Hands over a set of changes. Only while the store is idle. A shared one takes the events of the
    /// audit log from it and nothing else. [`Store::take_outcome`] returns the result.
    pub fn commit(&self, delta: impl Into<Arc<RegistryDelta>>) {
        self.give(Job::Write(delta.into()));
    }

    /// The result of the last set, once after each.
    pub fn take_outcome(&self) -> Option<SetOutcome> {
        self.outcome.lock().take()
    }

    /// Hands over writes with a waiting caller. Only while the store is idle.
    pub fn execute(&self, writes: Arc<Vec<Write>>) {
        self.give(Job::Execute(writes));
    }

    fn give(&self, job: Job) {
        debug_assert!(self.is_idle());
        self.is_idle.store(false, Ordering::Release);
        // Fails only when the thread has gone, which it logged.
        let _ = self.jobs.send(job);
    }

    /// The health of the store.
    pub fn health(&self) -> StoreHealth {
        self.health.clone()
    }

    /// The server stops: from here on each statement has [`limits::STORE_CLOSE_MS`] at most, the one
    /// under way included.
    ///
    /// [`limits::STORE_CLOSE_MS`]: crate::limits::STORE_CLOSE_MS
    pub fn hurry(&self) {
        self.hurry.send_replace(true);
    }

    /// Writes the last set, marks the database as complete, and waits for that. A shared one has
    /// neither, and is only closed.
    #[cfg(any(test, feature = "internals"))]
    pub fn close(self, delta: RegistryDelta) {
        self.close_within(delta, Duration::MAX);
    }

    /// The same, and gives up after a time. Returns whether the set was written.
    pub fn close_within(self, delta: RegistryDelta, patience: Duration) -> bool {
        let Store { jobs, ended, outcome, .. } = self;
        outcome.lock().take();
        // Fails only where the thread is busy with what hangs, or has gone.
        let _ = jobs.send_timeout(Job::Close(delta), patience);
        drop(jobs);
        // A panic of the thread has been printed; the mark then stays, which is right.
        let has_ended = !matches!(
            ended.recv_timeout(patience),
            Err(crossbeam_channel::RecvTimeoutError::Timeout)
        );
        has_ended && outcome.lock().take() == Some(SetOutcome::Written)
    }
}

#[cfg(test)]
mod tests {
    use super::audit::AuditQuery;
    use super::*;
    use crate::clock::Moment;
    use crate::state::audit::{Actor, AuditEvent, Note, kind};
    use crate::state::management::ManagementRecord;
    use crate::state::registry::unsaved::{AuditBounds, Row};
    use crate::state::snapshot::{InstanceRecord, PullOutRecord, ServiceRecord};
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
            service: String::from("s"),
            json: Bytes::from(format!("{{\"instanceId\":\"i{n} \\\" \u{e9}\"}}")),
            ttl_ms: 20_000,
            ..InstanceRecord::default()
        }
    }

    fn delta() -> RegistryDelta {
        RegistryDelta {
            epoch: String::from("e1"),
            version: 42,
            rows: (0..10_000)
                .map(|n| Row::Instance(instance(n)))
                .chain([
                    Row::Service(service()),
                    Row::PullOut(pull_out()),
                    Row::Management(managed()),
                ])
                .collect(),
            ..RegistryDelta::default()
        }
    }

    fn service() -> ServiceRecord {
        ServiceRecord {
            service: String::from("s"),
            revision: 7,
            protection_enabled: false,
            degraded_since_ms: Some(5),
            ..ServiceRecord::default()
        }
    }

    fn managed() -> ManagementRecord {
        ManagementRecord {
            key: String::from("operation/7"),
            body: String::from("{\"reason\":\"\\u0000 \u{e9} 'x'\"}"),
        }
    }

    fn pull_out() -> PullOutRecord {
        PullOutRecord {
            identity: String::from("p"),
            operator: String::from("o"),
            user_id: Some(String::from("u")),
            ..PullOutRecord::default()
        }
    }

    #[test]
    fn a_clean_close_brings_everything_back() {
        let dir = Dir::new();
        let (store, StoreSnapshot { registry: snapshot, .. }) =
            Store::open(None, &dir.0, Listeners::default()).expect("opens");
        assert_eq!((&*snapshot.epoch, snapshot.instances.len()), ("", 0));
        store.close(delta());
        let (store, StoreSnapshot { registry: mut snapshot, .. }) =
            Store::open(None, &dir.0, Listeners::default()).expect("opens again");
        snapshot.instances.sort_by(|a, b| a.identity.cmp(&b.identity));
        let instances: Vec<_> = (0..10_000).map(instance).collect();
        assert_eq!((&*snapshot.epoch, snapshot.version), ("e1", 42));
        assert_eq!(snapshot.services, [service()]);
        assert_eq!(snapshot.instances, instances);
        assert_eq!(snapshot.pull_outs, [pull_out()]);
        assert_eq!(snapshot.management, [managed()]);
        let others = instances[1..].iter().map(|one| Row::InstanceGone(one.identity.clone()));
        let gone = RegistryDelta {
            epoch: String::from("e1"),
            version: 43,
            rows: others
                .chain([Row::PullOutGone(String::from("p")), Row::ManagementGone(managed().key)])
                .collect(),
            ..RegistryDelta::default()
        };
        store.close(gone);
        let (_store, StoreSnapshot { registry: snapshot, .. }) =
            Store::open(None, &dir.0, Listeners::default()).expect("opens a third time");
        assert_eq!(snapshot.instances, instances[..1]);
        assert!(snapshot.pull_outs.is_empty());
        assert!(snapshot.management.is_empty());
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
        let (_store, StoreSnapshot { registry: snapshot, .. }) =
            Store::open(None, &dir.0, Listeners::default()).expect("opens again");
        assert_eq!(snapshot.epoch, "", "the history does not go on");
        assert!(snapshot.version > 42);
        assert_eq!(snapshot.instances.len(), 10_000);
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

    /// A connection to the database that a store has left.
    async fn connect(dir: &Dir) -> sqlx::SqliteConnection {
        let options = sqlx::sqlite::SqliteConnectOptions::new();
        options.filename(dir.0.join("fanfare.db")).connect().await.expect("connects")
    }

    #[test]
    fn a_database_of_a_newer_release_is_refused() {
        let dir = Dir::new();
        let (store, _) = Store::open(None, &dir.0, Listeners::default()).expect("opens");
        store.close(delta());
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let mut connection = connect(&dir).await;
            let later = "INSERT INTO _sqlx_migrations
                (version, description, success, checksum, execution_time)
                VALUES (9999, 'later', TRUE, x'00', 0)";
            sqlx::query(later).execute(&mut connection).await.expect("inserted");
            connection.close().await.expect("closes");
        });
        let fault = Store::open(None, &dir.0, Listeners::default()).expect_err("newer").to_string();
        assert!(fault.contains("newer release, which has migration 9999"), "{fault}");
    }

    /// Accounts as an older release wrote them, before names were compared in one form.
    #[test]
    fn accounts_of_an_older_release_keep_their_names() {
        let dir = Dir::new();
        let (store, _) = Store::open(None, &dir.0, Listeners::default()).expect("opens");
        store.close(RegistryDelta::default());
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let mut connection = connect(&dir).await;
            for (id, name, at_ms) in
                [("1", "fish", 2), ("2", "\u{fb01}sh", 1), ("3", "a\u{200b}b", 3), ("4", "F1sh", 4)]
            {
                let insert = "INSERT INTO account (user_id, username, login, password_hash,
                    is_disabled, created_ms, changed_ms) VALUES ($1, $2, $3, 'h', FALSE, $4, $4)";
                let query = sqlx::query(insert).bind(id).bind(name).bind(name.to_lowercase());
                query.bind(at_ms).execute(&mut connection).await.expect("inserted");
            }
            connection.close().await.expect("closes");
        });
        let (store, snapshot) = Store::open(None, &dir.0, Listeners::default()).expect("opens");
        let read_pool = store.read_pool();
        let who = |name: &str| {
            let found = runtime.block_on(read_pool.account(name)).expect("asked");
            found.map(|account| account.user_id.as_str().to_owned())
        };
        assert_eq!(who("fish").as_deref(), Some("1"), "each under exactly its own spelling");
        assert_eq!(who("\u{fb01}sh").as_deref(), Some("2"));
        assert_eq!(who("\u{ff46}ish").as_deref(), Some("2"), "the eldest of one form has it");
        assert_eq!(who("A\u{200b}b").as_deref(), Some("3"));
        assert_eq!(who("f1sh").as_deref(), Some("4"));
        let keys = snapshot.people.users.iter().filter_map(|user| user.name_key.as_deref());
        assert_eq!(keys.filter(|key| *key == "fish").count(), 1);
    }

    /// A set with events of these numbers, and what is kept of them all.
    fn happened(numbers: std::ops::Range<u64>, bytes_max: u64) -> RegistryDelta {
        let event = |n: u64| {
            let note = Note::new(kind::CHANGED, Moment::new(n, 0)).because(format!("{n}"));
            Row::Audit(n, Box::new(AuditEvent { note, actor: Actor::SERVER.into() }))
        };
        let audit = AuditBounds { node: String::from("n"), from_ms: 0, bytes_max };
        RegistryDelta { rows: numbers.map(event).collect(), audit, ..RegistryDelta::default() }
    }

    fn commit(store: &Store, delta: RegistryDelta) {
        store.commit(delta);
        while !store.is_idle() {
            std::thread::yield_now();
        }
        assert_eq!(store.take_outcome(), Some(SetOutcome::Written));
    }

    /// All reasons in the log, and their ids.
    fn read_log(store: &Store) -> Vec<(u64, String)> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let (mut found, mut after) = (Vec::new(), 0);
        loop {
            let query = AuditQuery { after, limit: 700, ..AuditQuery::default() };
            let page = runtime.block_on(store.read_pool().audit(query)).expect("asked");
            let reason = |one: audit::FoundEvent| (one.id, one.event.reason.unwrap_or_default());
            found.extend(page.events.into_iter().map(reason));
            let Some(next) = page.next else { return found };
            after = next;
        }
    }

    #[test]
    fn the_audit_log_is_bounded_and_has_no_doubles() {
        let dir = Dir::new();
        let (store, _) = Store::open(None, &dir.0, Listeners::default()).expect("opens");
        commit(&store, happened(1..2_000, u64::MAX));
        // A set that was reported as failed comes again, with more.
        commit(&store, happened(1_500..3_000, u64::MAX));
        let found = read_log(&store);
        let want: Vec<_> = (1..3_000).map(|n| (n, n.to_string())).collect();
        assert_eq!(found, want);
        commit(&store, happened(3_000..3_001, 100_000));
        let found = read_log(&store);
        let (first, count) = (found[0].0, found.len() as u64);
        assert_eq!(first + count, 3_001, "the oldest went, in one piece");
        assert!((500..2_000).contains(&count), "{count}");
        let mut last = happened(3_001..3_002, u64::MAX);
        last.audit.from_ms = 3_001;
        commit(&store, last);
        assert_eq!(read_log(&store), [(3_001, String::from("3001"))]);
        store.close(happened(3_002..3_003, u64::MAX));
        let (store, _) = Store::open(None, &dir.0, Listeners::default()).expect("opens again");
        assert_eq!(read_log(&store).len(), 2);
    }

    /// A database as the release before left it.
    #[test]
    fn a_database_without_an_audit_log_gets_one() {
        let dir = Dir::new();
        let (store, _) = Store::open(None, &dir.0, Listeners::default()).expect("opens");
        store.close(delta());
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let mut connection = connect(&dir).await;
            for statement in [
                "DROP TABLE audit_batch",
                "DROP TABLE audit_state",
                "DROP TABLE audit_writer",
                "DROP TABLE management",
                "DELETE FROM _sqlx_migrations WHERE version >= 9",
            ] {
                sqlx::query(statement).execute(&mut connection).await.expect(statement);
            }
            connection.close().await.expect("closes");
        });
        let (store, snapshot) = Store::open(None, &dir.0, Listeners::default()).expect("opens");
        assert_eq!(snapshot.registry.instances.len(), 10_000);
        assert_eq!(snapshot.registry.epoch, "e1", "the history goes on");
        commit(&store, happened(1..3, u64::MAX));
        assert_eq!(read_log(&store).len(), 2);
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
