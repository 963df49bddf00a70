//! The embedded database: `SQLite`, written ahead, every commit synced.
//!
//! A set of thousands of rows is a handful of statements: each binds one JSON array and lets `SQLite`
//! unpack it, which costs a microsecond or two a row instead of a round trip through the driver.
//!
//! Imports `state::image`. Part of `store`.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteRow, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, Row};

use crate::limits;
use crate::state::image::{
    InstanceRecord, PullOutRecord, RegistryDelta, RegistryImage, ServiceRecord,
};

/// An open database.
#[derive(Debug)]
pub(super) struct Sqlite {
    connection: SqliteConnection,
}

impl Sqlite {
    /// Opens or creates the database, reads it, and marks it as not complete.
    pub(super) async fn open(path: &Path) -> Result<(Sqlite, RegistryImage), sqlx::Error> {
        let mut connection = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_millis(limits::STORE_BUSY_TIMEOUT_MS))
            .connect()
            .await?;
        sqlx::migrate!("src/store/migrations").run_direct(None, &mut connection, false).await?;
        let image = read(&mut connection).await?;
        // From here on a kill is seen: the mark is gone, and the version lies ahead of every one
        // that may be used before the first set of changes is written.
        sqlx::query(
            "INSERT INTO registry (id, epoch, version, is_clean) VALUES (1, '', ?1, FALSE)
             ON CONFLICT (id) DO UPDATE SET is_clean = FALSE, version = version + ?1",
        )
        .bind(limits::STORE_VERSION_RESERVE.cast_signed())
        .execute(&mut connection)
        .await?;
        Ok((Sqlite { connection }, image))
    }

    /// Writes one set of changes as one transaction.
    pub(super) async fn write(&mut self, delta: &RegistryDelta) -> Result<(), sqlx::Error> {
        let mut change = self.connection.begin().await?;
        // The stored version always lies far above every used one, so that even after a kill no
        // number is given out twice.
        sqlx::query(
            "INSERT INTO registry (id, epoch, version, is_clean) VALUES (1, ?1, ?2, FALSE)
             ON CONFLICT (id) DO UPDATE SET epoch = ?1, version = ?2",
        )
        .bind(&delta.epoch)
        .bind((delta.version + limits::STORE_VERSION_RESERVE).cast_signed())
        .execute(&mut *change)
        .await?;
        for (statement, rows) in [
            (
                "INSERT INTO service (service_id, revision, protection_enabled, degraded_since_ms)
                 SELECT value->>0, value->>1, value->>2, value->>3 FROM json_each(?) WHERE TRUE
                 ON CONFLICT (service_id) DO UPDATE SET revision = excluded.revision,
                 protection_enabled = excluded.protection_enabled,
                 degraded_since_ms = excluded.degraded_since_ms",
                services(&delta.services),
            ),
            (
                "INSERT INTO instance (identity, service_id, json, lease_ttl_ms)
                 SELECT value->>0, value->>1, value->>2, value->>3 FROM json_each(?) WHERE TRUE
                 ON CONFLICT (identity) DO UPDATE SET service_id = excluded.service_id,
                 json = excluded.json, lease_ttl_ms = excluded.lease_ttl_ms",
                instances(&delta.upserts),
            ),
            (
                "DELETE FROM instance WHERE identity IN (SELECT value FROM json_each(?))",
                delta.deletes.iter().map(|identity| json!(identity)).collect(),
            ),
            (
                "INSERT INTO pull_out (identity, operator)
                 SELECT value->>0, value->>1 FROM json_each(?) WHERE TRUE
                 ON CONFLICT (identity) DO UPDATE SET operator = excluded.operator",
                delta.pull_outs.iter().map(|one| json!([one.identity, one.operator])).collect(),
            ),
            (
                "DELETE FROM pull_out WHERE identity IN (SELECT value FROM json_each(?))",
                delta.pull_ins.iter().map(|identity| json!(identity)).collect(),
            ),
        ] {
            let rows: Vec<Value> = rows;
            if !rows.is_empty() {
                let rows = Value::Array(rows).to_string();
                sqlx::query(statement).bind(rows).execute(&mut *change).await?;
            }
        }
        change.commit().await
    }

    /// Marks the database as complete at exactly `version`, and closes it.
    pub(super) async fn close(mut self, version: u64) -> Result<(), sqlx::Error> {
        sqlx::query("UPDATE registry SET is_clean = TRUE, version = ?")
            .bind(version.cast_signed())
            .execute(&mut self.connection)
            .await?;
        self.connection.close().await
    }
}

fn services(records: &[ServiceRecord]) -> Vec<Value> {
    let row = |one: &ServiceRecord| {
        json!([
            one.service_id,
            one.revision,
            u8::from(one.protection_enabled),
            one.degraded_since_ms
        ])
    };
    records.iter().map(row).collect()
}

fn instances(records: &[InstanceRecord]) -> Vec<Value> {
    let row = |one: &InstanceRecord| {
        let text = String::from_utf8_lossy(&one.json);
        json!([one.identity, one.service_id, text, one.lease_ttl_ms])
    };
    records.iter().map(row).collect()
}

async fn read(connection: &mut SqliteConnection) -> Result<RegistryImage, sqlx::Error> {
    let mut image = RegistryImage::default();
    let row = sqlx::query("SELECT epoch, version, is_clean FROM registry")
        .fetch_optional(&mut *connection)
        .await?;
    if let Some(row) = row {
        let epoch: String = row.try_get("epoch")?;
        image.epoch = Some(epoch).filter(|epoch| !epoch.is_empty());
        image.version = unsigned(&row, "version")?;
        image.is_clean = row.try_get("is_clean")?;
    }
    for row in sqlx::query("SELECT * FROM service").fetch_all(&mut *connection).await? {
        let since: Option<i64> = row.try_get("degraded_since_ms")?;
        image.services.push(ServiceRecord {
            service_id: row.try_get("service_id")?,
            revision: unsigned(&row, "revision")?,
            protection_enabled: row.try_get("protection_enabled")?,
            degraded_since_ms: since.map(i64::cast_unsigned),
        });
    }
    for row in sqlx::query("SELECT * FROM instance").fetch_all(&mut *connection).await? {
        let json: String = row.try_get("json")?;
        image.instances.push(InstanceRecord {
            identity: row.try_get("identity")?,
            service_id: row.try_get("service_id")?,
            json: Bytes::from(json),
            lease_ttl_ms: unsigned(&row, "lease_ttl_ms")?,
        });
    }
    for row in sqlx::query("SELECT * FROM pull_out").fetch_all(&mut *connection).await? {
        image.pull_outs.push(PullOutRecord {
            identity: row.try_get("identity")?,
            operator: row.try_get("operator")?,
        });
    }
    Ok(image)
}

fn unsigned(row: &SqliteRow, column: &str) -> Result<u64, sqlx::Error> {
    row.try_get::<i64, _>(column).map(i64::cast_unsigned)
}
