//! What others do to accounts: the command line, and the other nodes.
//!
//! Every change of an account gets a stamp above all before it (`people::stamp`), so what came since
//! the last look can be asked for, whatever the clocks say.
//!
//! Imports `id`, `limits` and `state`. Part of `store`.

use std::collections::VecDeque;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{Any, AnyConnection, AnyPool, Row};

use super::database::{Address, flag, unsigned};
use crate::id::UserId;
use crate::limits;
use crate::state::durable::AccountChange;

/// Looks for which a change is told again. One that got its stamp first may be seen second, and who
/// looked at a password meanwhile has to hear that the account was changed.
const LOOKS: usize = 20;

/// How far below what was known at the start the first looks go, for the same reason.
const OVERLAP_MS: i64 = 10_000;

/// Looks for accounts that somebody else changed after `known_ms`, for as long as it is let.
pub(super) async fn accounts(
    pool: AnyPool,
    mut connection: Option<PoolConnection<Any>>,
    address: Address,
    known_ms: i64,
    mut on_accounts: Box<dyn Fn(Vec<AccountChange>) + Send>,
) {
    let mut newest_ms = known_ms.saturating_sub(OVERLAP_MS);
    // The newest change that was known at each of the last looks.
    let mut looks = VecDeque::from(vec![newest_ms; LOOKS]);
    let mut version = -1_i64;
    loop {
        tokio::time::sleep(Duration::from_millis(limits::ACCOUNTS_POLL_MS)).await;
        if connection.is_none() {
            connection = pool.acquire().await.ok();
        }
        let Some(reader) = &mut connection else { continue };
        let since_ms = looks.front().copied().unwrap_or(newest_ms);
        let look = async {
            if !is_changed(reader, &address, &mut version).await? {
                return Ok(newest_ms);
            }
            tell_since(reader, since_ms, &mut *on_accounts).await
        };
        match look.await {
            Ok(last_ms) => {
                newest_ms = newest_ms.max(last_ms);
                looks.pop_front();
                looks.push_back(newest_ms);
            }
            Err(fault) => {
                tracing::warn!(%fault, "accounts cannot be looked at");
                // What it would have told of is looked for again, whatever the version says.
                (connection, version) = (None, -1);
            }
        }
    }
}

/// Whether there can be anything new. `SQLite` says so for next to nothing
/// (<https://www.sqlite.org/pragma.html#pragma_data_version>).
async fn is_changed(
    connection: &mut AnyConnection,
    address: &Address,
    version: &mut i64,
) -> Result<bool, sqlx::Error> {
    let Address::Sqlite(_) = address else { return Ok(true) };
    let row = sqlx::query("PRAGMA data_version").fetch_one(connection).await?;
    let before = std::mem::replace(version, row.try_get(0)?);
    Ok(before != *version)
}

/// Tells of all that was changed since, page by page, and gives the newest change's stamp.
async fn tell_since(
    connection: &mut AnyConnection,
    since_ms: i64,
    on_accounts: &mut (dyn Fn(Vec<AccountChange>) + Send),
) -> Result<i64, sqlx::Error> {
    let patience = Duration::from_millis(limits::QUERY_TIMEOUT_MS);
    let (mut last_ms, mut last_id) = (since_ms, None);
    loop {
        let page = page(connection, last_ms, last_id.as_ref());
        let changes = match tokio::time::timeout(patience, page).await {
            Ok(changes) => changes?,
            Err(_) => return Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
        };
        let is_last = changes.len() < limits::ACCOUNTS_PAGE;
        if let Some(newest) = changes.last() {
            (last_ms, last_id) = (newest.changed_ms.cast_signed(), Some(newest.user_id.clone()));
            on_accounts(changes);
        }
        if is_last {
            return Ok(last_ms);
        }
    }
}

/// Accounts that were changed after a stamp, or with it if their id is above `id`.
async fn page(
    connection: &mut AnyConnection,
    since_ms: i64,
    id: Option<&UserId>,
) -> Result<Vec<AccountChange>, sqlx::Error> {
    let (from_ms, id) = match id {
        None => (since_ms.saturating_add(1), String::new()),
        Some(id) => (since_ms, id.as_str().to_owned()),
    };
    let rows = sqlx::query(
        "SELECT user_id, CAST(is_disabled AS INTEGER) AS is_disabled, changed_ms FROM account
         WHERE changed_ms >= $1 AND (changed_ms > $1 OR user_id > $2)
         ORDER BY changed_ms, user_id LIMIT $3",
    )
    .bind(from_ms)
    .bind(id)
    .bind(i64::try_from(limits::ACCOUNTS_PAGE).unwrap_or(i64::MAX))
    .fetch_all(connection)
    .await?;
    let change = |row| {
        Ok(AccountChange {
            user_id: UserId::new(sqlx::any::AnyRow::try_get(row, "user_id")?),
            is_disabled: flag(row, "is_disabled")?,
            changed_ms: unsigned(row, "changed_ms")?,
        })
    };
    rows.iter().map(change).collect()
}
