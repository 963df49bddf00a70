//! Polls the database for accounts and tokens that other processes changed: the command line and
//! the other nodes.
//!
//! Every change of an account gets a stamp above all earlier ones (`people::stamp`), so the poller asks for
//! the changes since its last stamp, independent of clocks.
//!
//! Imports `id`, `limits` and `state`. Part of `store`.

use std::collections::VecDeque;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{Any, AnyConnection, AnyPool, Row};

use super::address::Address;
use super::people::{self, CHANGE, ENDED_TOKEN};
use crate::id::UserId;
use crate::limits;
use crate::state::durable::{AccountChange, EndedToken};

/// The newest stamps that are known at the start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    /// Of accounts.
    pub(super) accounts_ms: i64,
    /// Of single tokens that were revoked.
    pub(super) tokens_ms: i64,
}

/// The listeners for changes that the poller finds.
pub(super) struct Tell {
    pub(super) on_accounts: Box<dyn Fn(Vec<AccountChange>) + Send>,
    pub(super) on_tokens: Box<dyn Fn(Vec<EndedToken>) + Send>,
}

/// The newest known stamp of one table.
struct Reach {
    newest_ms: i64,
    /// The newest known change at each of the last polls.
    looks: VecDeque<i64>,
}

impl Reach {
    fn new(known_ms: i64) -> Reach {
        let newest_ms = known_ms.saturating_sub(limits::ACCOUNT_POLL_OVERLAP_MS);
        Reach { newest_ms, looks: VecDeque::from(vec![newest_ms; limits::ACCOUNT_POLL_REPEATS]) }
    }

    fn since_ms(&self) -> i64 {
        self.looks.front().copied().unwrap_or(self.newest_ms)
    }

    fn note(&mut self, last_ms: i64) {
        self.newest_ms = self.newest_ms.max(last_ms);
        self.looks.pop_front();
        self.looks.push_back(self.newest_ms);
    }
}

/// Polls for accounts and tokens that other processes changed or revoked, after the known stamps,
/// until the store ends.
pub(super) async fn accounts(
    pool: AnyPool,
    mut connection: Option<PoolConnection<Any>>,
    address: Address,
    known: Known,
    mut tell: Tell,
) {
    let (mut accounts, mut tokens) = (Reach::new(known.accounts_ms), Reach::new(known.tokens_ms));
    let mut version = -1_i64;
    loop {
        tokio::time::sleep(Duration::from_millis(limits::ACCOUNTS_POLL_MS)).await;
        if connection.is_none() {
            connection = pool.acquire().await.ok();
        }
        let Some(reader) = &mut connection else { continue };
        let (accounts_ms, tokens_ms) = (accounts.since_ms(), tokens.since_ms());
        let (seen_ms, seen_tokens_ms) = (accounts.newest_ms, tokens.newest_ms);
        let look = async {
            if !is_changed(reader, &address, &mut version).await? {
                return Ok((seen_ms, seen_tokens_ms));
            }
            let accounts_ms = tell_since(reader, accounts_ms, &mut *tell.on_accounts).await?;
            let tokens_ms = tell_tokens_since(reader, tokens_ms, &mut *tell.on_tokens).await?;
            Ok::<_, sqlx::Error>((accounts_ms, tokens_ms))
        };
        match look.await {
            Ok((accounts_ms, tokens_ms)) => {
                accounts.note(accounts_ms);
                tokens.note(tokens_ms);
            }
            Err(fault) => {
                tracing::warn!(%fault, "polling accounts failed");
                // The poll failed: the next one asks again, whatever the version is.
                (connection, version) = (None, -1);
            }
        }
    }
}

/// Reports all tokens that were revoked since, page by page, and returns the newest one's stamp.
async fn tell_tokens_since(
    connection: &mut AnyConnection,
    since_ms: i64,
    on_tokens: &mut (dyn Fn(Vec<EndedToken>) + Send),
) -> Result<i64, sqlx::Error> {
    let mut last_ms = since_ms;
    loop {
        // No two tokens have the same stamp.
        let page = format!("{ENDED_TOKEN} WHERE changed_ms > $1 ORDER BY changed_ms LIMIT $2");
        let query = sqlx::query(sqlx::AssertSqlSafe(page))
            .bind(last_ms)
            .bind(i64::try_from(limits::ACCOUNTS_PAGE).unwrap_or(i64::MAX));
        let rows = patiently(query.fetch_all(&mut *connection)).await?;
        let Some(newest) = rows.last() else { return Ok(last_ms) };
        last_ms = newest.try_get("changed_ms")?;
        let is_last = rows.len() < limits::ACCOUNTS_PAGE;
        let tokens: Vec<_> = rows.iter().map(people::ended_token).collect::<Result<_, _>>()?;
        on_tokens(tokens.into_iter().flatten().collect());
        if is_last {
            return Ok(last_ms);
        }
    }
}

async fn patiently<T>(
    query: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let patience = Duration::from_millis(limits::QUERY_TIMEOUT_MS);
    let late = |_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()));
    tokio::time::timeout(patience, query).await.unwrap_or_else(late)
}

/// Whether there can be a change. `SQLite` tells that for next to nothing
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

/// Reports all accounts that were changed since, page by page, and returns the newest change's
/// stamp.
async fn tell_since(
    connection: &mut AnyConnection,
    since_ms: i64,
    on_accounts: &mut (dyn Fn(Vec<AccountChange>) + Send),
) -> Result<i64, sqlx::Error> {
    let (mut last_ms, mut last_id) = (since_ms, None);
    loop {
        let changes = patiently(page(connection, last_ms, last_id.as_ref())).await?;
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
    let page = format!(
        "{CHANGE} FROM account WHERE changed_ms >= $1 AND (changed_ms > $1 OR user_id > $2)
         ORDER BY changed_ms, user_id LIMIT $3"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(page))
        .bind(from_ms)
        .bind(id)
        .bind(i64::try_from(limits::ACCOUNTS_PAGE).unwrap_or(i64::MAX))
        .fetch_all(connection)
        .await?;
    rows.iter().map(people::change_of).collect()
}
