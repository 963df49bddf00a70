//! The database: an embedded `SQLite` file, or a `PostgreSQL` server, by the same statements.
//!
//! A set of thousands of rows is a handful of statements: each binds one JSON array and lets the
//! database unpack it, which costs a microsecond or two a row instead of a round trip through the
//! driver. Where the two dialects differ, [`Address::rows`] has both.
//!
//! Imports its siblings, `id`, `limits`, `private_file` and `state`. Part of `store`.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use sqlx::{AnyConnection, Connection, Row as _};

use super::address::{Address, Mode};
use super::statement::{flag, insert, unsigned};
use super::{StoreError, StoreSnapshot, audit, journal, logins, people};
use crate::id::MessageId;
use crate::limits;
use crate::private_file;
use crate::state::durable::{Write, WriteResult};
use crate::state::management::ManagementRecord;
use crate::state::registry::unsaved::{RegistryDelta, Row};
use crate::state::snapshot::{InstanceRecord, PullOutRecord, ServiceRecord, Snapshot};

/// "fanfare" in ASCII: the advisory lock that the one server of a `PostgreSQL` database holds, or
/// all nodes that share it hold together.
const ADVISORY_LOCK: i64 = 0x66_616e_6661_7265;

/// Opens a connection and updates the tables. A server names its mode of use; the error
/// `PoolTimedOut` stands for another server that has the database.
pub(super) async fn connect(
    address: &Address,
    mode: Option<Mode>,
) -> Result<AnyConnection, sqlx::Error> {
    sqlx::any::install_default_drivers();
    if let Address::Sqlite(path) = address {
        make_private(path)?;
    }
    let options = address.options()?;
    let patience = Duration::from_millis(limits::STORE_CONNECT_MS);
    let connected = tokio::time::timeout(patience, AnyConnection::connect_with(&options)).await;
    let mut connection = connected.unwrap_or_else(|_| Err(timed_out()))?;
    if let Address::Postgres(_) = address {
        // Every start but the first would log "already there, skipping".
        set(&mut connection, "SET client_min_messages = warning").await?;
    }
    match (address, mode) {
        (Address::Sqlite(_), _) => {
            let busy = format!("PRAGMA busy_timeout = {}", limits::STORE_BUSY_TIMEOUT_MS);
            // The other settings keep inboxes, which are written all over, in memory between
            // checkpoints. Figures: PERF.md, durable messages.
            for pragma in [
                &*busy,
                "PRAGMA journal_mode = WAL",
                "PRAGMA synchronous = FULL",
                "PRAGMA cache_size = -65536",
                "PRAGMA wal_autocheckpoint = 16000",
            ] {
                set(&mut connection, pragma).await?;
            }
        }
        // Before the tables are changed: a refused server has changed nothing.
        (Address::Postgres(_), Some(mode)) => lock(&mut connection, mode).await?,
        (Address::Postgres(_), None) => {}
    }
    // Nodes that start together wait for each other here: sqlx takes a lock of its own.
    sqlx::migrate!("src/store/migrations").run_direct(None, &mut connection, false).await?;
    logins::fill_names(&mut connection, address).await?;
    if mode == Some(Mode::Shared) {
        let [idle, lock, statement] =
            [limits::STORE_SHARED_IDLE_MS, limits::STORE_SHARED_LOCK_MS, limits::STORE_SHARED_MS];
        // A node that hangs within a transaction must not keep the others waiting. A transaction
        // that has waited for a lock has to see the writes of the lock's holder.
        for setting in [
            &*format!("SET idle_in_transaction_session_timeout = {idle}"),
            &*format!("SET lock_timeout = {lock}"),
            &*format!("SET statement_timeout = {statement}"),
            "SET default_transaction_isolation = 'read committed'",
        ] {
            set(&mut connection, setting).await?;
        }
    }
    Ok(connection)
}

/// Whether a database is without a server's tables. Changes nothing there.
pub(super) async fn is_without_tables(address: &Address) -> Result<bool, sqlx::Error> {
    let find = match address {
        Address::Sqlite(path) if !path.exists() => return Ok(true),
        Address::Sqlite(_) => {
            "SELECT COUNT(*) AS count FROM sqlite_master WHERE name = '_sqlx_migrations'"
        }
        Address::Postgres(_) => {
            "SELECT COUNT(*) AS count FROM pg_class WHERE oid = to_regclass('_sqlx_migrations')"
        }
    };
    sqlx::any::install_default_drivers();
    let options = address.options()?;
    let patience = Duration::from_millis(limits::STORE_CONNECT_MS);
    let look = async {
        let mut connection = AnyConnection::connect_with(&options).await?;
        let count: i64 = sqlx::query(find).fetch_one(&mut connection).await?.try_get("count")?;
        connection.close().await?;
        Ok(count == 0)
    };
    tokio::time::timeout(patience, look).await.unwrap_or_else(|_| Err(timed_out()))
}

/// Creates the file of an embedded database before `SQLite` does, for the owner alone: `SQLite`
/// gives the files beside it the same mode (<https://www.sqlite.org/tempfiles.html>).
fn make_private(path: &Path) -> io::Result<()> {
    private_file::open(path)?;
    for suffix in ["-wal", "-shm", "-journal"] {
        private_file::narrow_file(&private_file::with_suffix(path, suffix));
    }
    Ok(())
}

async fn set(connection: &mut AnyConnection, setting: &str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(sqlx::AssertSqlSafe(setting.to_owned())).execute(connection).await?;
    Ok(())
}

/// Claims the database for as long as the connection lasts.
async fn lock(connection: &mut AnyConnection, mode: Mode) -> Result<(), sqlx::Error> {
    let statement = match mode {
        Mode::Alone => "SELECT pg_try_advisory_lock($1) AS is_ours",
        Mode::Shared => "SELECT pg_try_advisory_lock_shared($1) AS is_ours",
    };
    let row = sqlx::query(statement).bind(ADVISORY_LOCK).fetch_one(connection).await?;
    if row.try_get::<bool, _>("is_ours")? { Ok(()) } else { Err(sqlx::Error::PoolTimedOut) }
}

/// The one connection that writes.
#[derive(Debug)]
pub(super) struct Database {
    address: Address,
    mode: Mode,
    /// None after a fault, until the next use opens it again.
    connection: Option<AnyConnection>,
}

impl Database {
    /// Opens or creates the database, and reads it. If it has the registry, marks that as
    /// incomplete.
    pub(super) async fn open(
        address: &Address,
        mode: Mode,
    ) -> Result<(Database, StoreSnapshot), StoreError> {
        let fault = |fault| StoreError::Open { path: address.shown(), fault };
        let mut database = Database { address: address.clone(), mode, connection: None };
        let connection = match database.connection().await {
            Err(sqlx::Error::PoolTimedOut) => return Err(StoreError::InUse(address.shown())),
            result => result.map_err(fault)?,
        };
        people::merge_inboxes(connection, mode).await.map_err(fault)?;
        let people = people::read(connection, mode).await.map_err(fault)?;
        if mode == Mode::Shared {
            return Ok((database, StoreSnapshot { registry: Snapshot::default(), people }));
        }
        let registry = read(connection).await.map_err(fault)?;
        // From here on a kill is visible: the mark is gone, and the stored version lies ahead of
        // every one that may be used before the first set of changes is written.
        sqlx::query(
            "INSERT INTO registry (id, epoch, version, is_clean) VALUES (1, '', $1, FALSE)
             ON CONFLICT (id) DO UPDATE SET is_clean = FALSE, version = registry.version + $1",
        )
        .bind(limits::STORE_VERSION_RESERVE.cast_signed())
        .execute(connection)
        .await
        .map_err(fault)?;
        Ok((database, StoreSnapshot { registry, people }))
    }

    /// Connects and claims the database. The server at the other end may take a moment to notice
    /// that the previous connection has gone, and with it the claim.
    async fn connect(&self) -> Result<AnyConnection, sqlx::Error> {
        for _ in 1..limits::STORE_CLAIM_TRIES {
            match connect(&self.address, Some(self.mode)).await {
                Err(sqlx::Error::PoolTimedOut) => {}
                other => return other,
            }
            tokio::time::sleep(Duration::from_millis(limits::STORE_RETRY_MS_MIN)).await;
        }
        connect(&self.address, Some(self.mode)).await
    }

    /// The connection, opened again if it was lost, with the claim on the database.
    async fn connection(&mut self) -> Result<&mut AnyConnection, sqlx::Error> {
        if self.connection.is_none() {
            self.connection = Some(self.connect().await?);
        }
        self.connection.as_mut().ok_or(sqlx::Error::WorkerCrashed)
    }

    /// Drops a connection that has failed: its state is unknown.
    pub(super) async fn reset(&mut self) {
        if let Some(connection) = self.connection.take() {
            // It has failed already, and may take its time to close.
            let patience = Duration::from_millis(limits::STORE_RETRY_MS_MIN);
            let _ = tokio::time::timeout(patience, connection.close_hard()).await;
        }
    }

    /// Whether the database takes writes at all.
    pub(super) async fn probe(&mut self) -> Result<(), sqlx::Error> {
        let statement = match self.mode {
            Mode::Alone => "UPDATE registry SET is_clean = FALSE",
            Mode::Shared => "UPDATE inbox_state SET up_to = up_to",
        };
        sqlx::query(statement).execute(self.connection().await?).await?;
        Ok(())
    }

    /// Whether the database refuses the rows and not the writing: the same rows will be refused
    /// again, and others accepted.
    pub(super) fn refuses_data(&self, fault: &sqlx::Error) -> bool {
        match fault {
            sqlx::Error::Encode(_) => true,
            sqlx::Error::Database(refusal) => {
                let code = refusal.code().unwrap_or_default();
                match self.address {
                    Address::Sqlite(_) => is_sqlite_data(&code, refusal.message()),
                    Address::Postgres(_) => is_postgres_data(&code),
                }
            }
            _ => false,
        }
    }

    /// Writes one set of changes as one transaction.
    pub(super) async fn write(&mut self, delta: &RegistryDelta) -> Result<(), sqlx::Error> {
        let (address, mode) = (self.address.clone(), self.mode);
        let mut change = self.connection().await?.begin().await?;
        if mode == Mode::Shared {
            // The nodes' log has the registry.
            audit::write(&mut change, delta).await?;
            return change.commit().await;
        }
        // The stored version always lies far above every used one, so that no number is used twice
        // even after a kill.
        sqlx::query(
            "INSERT INTO registry (id, epoch, version, revision_floor, is_clean)
             VALUES (1, $1, $2, $3, FALSE)
             ON CONFLICT (id) DO UPDATE SET epoch = $1, version = $2, revision_floor = $3",
        )
        .bind(&delta.epoch)
        .bind((delta.version + limits::STORE_VERSION_RESERVE).cast_signed())
        .bind(delta.revision_floor.cast_signed())
        .execute(&mut *change)
        .await?;
        for (statement, encode) in REGISTRY_STATEMENTS {
            let rows: Vec<Value> = delta.rows.iter().filter_map(encode).collect();
            insert(&mut change, &address, statement, rows).await?;
        }
        audit::write(&mut change, delta).await?;
        change.commit().await
    }

    /// Carries out writes as one transaction. Each has its own result; an error means that none of
    /// them is done.
    pub(super) async fn execute(
        &mut self,
        writes: &[Write],
    ) -> Result<Vec<WriteResult>, sqlx::Error> {
        let (address, mode) = (self.address.clone(), self.mode);
        let connection = self.connection().await?;
        if mode == Mode::Shared && writes.iter().all(people::is_check) {
            // Each group message of a node is checked here: it waits for no transaction.
            return people::execute(connection, &address, mode, writes).await;
        }
        let mut change = connection.begin().await?;
        let results = people::execute(&mut change, &address, mode, writes).await?;
        change.commit().await?;
        Ok(results)
    }

    /// Skips a message of the journal that cannot be written.
    pub(super) async fn pass_entry(&mut self, id: MessageId) -> Result<(), sqlx::Error> {
        let mut change = self.connection().await?.begin().await?;
        journal::take_turn(&mut change).await?;
        journal::pass(&mut change, id).await?;
        change.commit().await
    }

    /// Sorts new messages into the inboxes.
    pub(super) async fn merge_inboxes(&mut self) -> Result<(), sqlx::Error> {
        let mode = self.mode;
        people::merge_inboxes(self.connection().await?, mode).await
    }

    /// Closes the database. If it has the registry, marks that as complete at exactly `version`.
    pub(super) async fn close(&mut self, version: u64) -> Result<(), sqlx::Error> {
        if self.mode == Mode::Alone {
            let connection = self.connection().await?;
            sqlx::query("UPDATE registry SET is_clean = TRUE, version = $1")
                .bind(version.cast_signed())
                .execute(connection)
                .await?;
        }
        match self.connection.take() {
            Some(connection) => connection.close().await,
            None => Ok(()),
        }
    }
}

/// The error for a database that does not answer.
pub(super) fn timed_out() -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, "the database does not answer"))
}

/// `SQLITE_TOOBIG`, `SQLITE_CONSTRAINT`, `SQLITE_MISMATCH` and `SQLITE_RANGE`
/// (<https://www.sqlite.org/rescode.html>). Refusals of its JSON functions have no code of their
/// own.
fn is_sqlite_data(code: &str, message: &str) -> bool {
    let Ok(code) = code.parse::<u32>() else { return false };
    matches!(code & 0xff, 18 | 19 | 20 | 25) || (code == 1 && message.contains("JSON"))
}

/// Data exceptions, constraints, limits of the program, and errors of triggers
/// (<https://www.postgresql.org/docs/current/errcodes-appendix.html>). A lack of memory for one
/// huge value is an internal error there.
fn is_postgres_data(code: &str) -> bool {
    code == "XX000"
        || ["0A", "21", "22", "23", "54", "P0"].iter().any(|class| code.starts_with(class))
}

/// Makes the values that a statement needs of a row; none of a row that another statement writes.
type EncodeRow = fn(&Row) -> Option<Value>;

/// The statements that write a set of changes, each with what it takes of a row that is its own.
const REGISTRY_STATEMENTS: [(&str, EncodeRow); 8] = [
    ("DELETE FROM service WHERE service_id IN (SELECT value->>0 FROM {rows})", |row| match row {
        Row::ServiceGone(name) => Some(json!([name])),
        _ => None,
    }),
    (
        "INSERT INTO service (service_id, revision, protection_enabled, degraded_since_ms,
         empty_since_ms)
         SELECT value->>0, CAST(value->>1 AS BIGINT), CAST(value->>2 AS BOOLEAN),
         CAST(value->>3 AS BIGINT), CAST(value->>4 AS BIGINT) FROM {rows} WHERE TRUE
         ON CONFLICT (service_id) DO UPDATE SET revision = excluded.revision,
         protection_enabled = excluded.protection_enabled,
         degraded_since_ms = excluded.degraded_since_ms,
         empty_since_ms = excluded.empty_since_ms",
        |row| match row {
            Row::Service(one) => Some(json!([
                one.service,
                one.revision,
                u8::from(one.protection_enabled),
                one.degraded_since_ms,
                one.empty_since_ms
            ])),
            _ => None,
        },
    ),
    (
        "INSERT INTO instance (identity, service_id, json, lease_ttl_ms)
         SELECT value->>0, value->>1, value->>2, CAST(value->>3 AS BIGINT)
         FROM {rows} WHERE TRUE
         ON CONFLICT (identity) DO UPDATE SET service_id = excluded.service_id,
         json = excluded.json, lease_ttl_ms = excluded.lease_ttl_ms",
        |row| match row {
            Row::Instance(one) => {
                let text = String::from_utf8_lossy(&one.json);
                Some(json!([one.identity, one.service, text, one.ttl_ms]))
            }
            _ => None,
        },
    ),
    ("DELETE FROM instance WHERE identity IN (SELECT value->>0 FROM {rows})", |row| match row {
        Row::InstanceGone(identity) => Some(json!([identity])),
        _ => None,
    }),
    (
        "INSERT INTO pull_out (identity, operator, by_itself, user_id)
         SELECT value->>0, value->>1, CAST(value->>2 AS BOOLEAN), value->>3
         FROM {rows} WHERE TRUE
         ON CONFLICT (identity) DO UPDATE SET operator = excluded.operator,
         by_itself = excluded.by_itself, user_id = excluded.user_id",
        |row| match row {
            Row::PullOut(one) => {
                Some(json!([one.identity, one.operator, u8::from(one.by_itself), one.user_id]))
            }
            _ => None,
        },
    ),
    ("DELETE FROM pull_out WHERE identity IN (SELECT value->>0 FROM {rows})", |row| match row {
        Row::PullOutGone(identity) => Some(json!([identity])),
        _ => None,
    }),
    (
        "INSERT INTO management (row_key, body) SELECT value->>0, value->>1 FROM {rows} WHERE TRUE
         ON CONFLICT (row_key) DO UPDATE SET body = excluded.body",
        |row| match row {
            Row::Management(one) => Some(json!([one.key, one.body])),
            _ => None,
        },
    ),
    ("DELETE FROM management WHERE row_key IN (SELECT value->>0 FROM {rows})", |row| match row {
        Row::ManagementGone(key) => Some(json!([key])),
        _ => None,
    }),
];

async fn read(connection: &mut AnyConnection) -> Result<Snapshot, sqlx::Error> {
    let mut snapshot = Snapshot::default();
    let state = "SELECT epoch, version, revision_floor, CAST(is_clean AS INTEGER) AS is_clean
        FROM registry";
    let row = sqlx::query(state).fetch_optional(&mut *connection).await?;
    if let Some(row) = row {
        let epoch: String = row.try_get("epoch")?;
        // A history with holes cannot be continued.
        snapshot.epoch = if flag(&row, "is_clean")? { epoch } else { String::new() };
        snapshot.version = unsigned(&row, "version")?;
        snapshot.revision_floor = unsigned(&row, "revision_floor")?;
    }
    let services = "SELECT service_id, revision,
        CAST(protection_enabled AS INTEGER) AS protection_enabled, degraded_since_ms,
        empty_since_ms FROM service";
    for row in sqlx::query(services).fetch_all(&mut *connection).await? {
        let since: Option<i64> = row.try_get("degraded_since_ms")?;
        let empty: Option<i64> = row.try_get("empty_since_ms")?;
        snapshot.services.push(ServiceRecord {
            service: row.try_get("service_id")?,
            revision: unsigned(&row, "revision")?,
            protection_enabled: flag(&row, "protection_enabled")?,
            degraded_since_ms: since.map(i64::cast_unsigned),
            empty_since_ms: empty.map(i64::cast_unsigned),
            watch: None,
        });
    }
    snapshot.services.sort_by_key(|service| service.empty_since_ms);
    for row in sqlx::query("SELECT * FROM instance").fetch_all(&mut *connection).await? {
        let json: String = row.try_get("json")?;
        snapshot.instances.push(InstanceRecord {
            identity: row.try_get("identity")?,
            service: row.try_get("service_id")?,
            json: Bytes::from(json),
            ttl_ms: unsigned(&row, "lease_ttl_ms")?,
            ..InstanceRecord::default()
        });
    }
    let pull_outs =
        "SELECT identity, operator, CAST(by_itself AS INTEGER) AS by_itself, user_id FROM pull_out";
    for row in sqlx::query(pull_outs).fetch_all(&mut *connection).await? {
        snapshot.pull_outs.push(PullOutRecord {
            identity: row.try_get("identity")?,
            operator: row.try_get("operator")?,
            by_itself: flag(&row, "by_itself")?,
            user_id: row.try_get("user_id")?,
        });
    }
    for row in sqlx::query("SELECT row_key, body FROM management").fetch_all(connection).await? {
        let (key, body) = (row.try_get("row_key")?, row.try_get("body")?);
        snapshot.management.push(ManagementRecord { key, body });
    }
    Ok(snapshot)
}
