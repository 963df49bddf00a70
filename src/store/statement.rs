//! Helpers of the statements of all tables: inserting rows as JSON, reading columns, and one lock.
//!
//! Imports `limits` and its sibling. Part of `store`.

use serde_json::Value;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::address::Address;
use crate::limits;

/// "people" in ASCII: the advisory lock of a transaction that writes accounts and groups.
pub(super) const PEOPLE_LOCK: i64 = 0x7065_6f70_6c65;

/// Runs a statement over rows, a part of them at a time; without rows it does nothing.
pub(super) async fn insert(
    connection: &mut AnyConnection,
    address: &Address,
    statement: &str,
    rows: Vec<Value>,
) -> Result<u64, sqlx::Error> {
    let statement = address.rows(statement);
    let (mut affected, mut rows) = (0, rows.into_iter().peekable());
    while rows.peek().is_some() {
        let (mut part, mut count) = (String::from("["), 0);
        while let Some(row) = rows.next_if(|_| {
            count < limits::STORE_STATEMENT_ROWS && part.len() < limits::STORE_STATEMENT_BYTES
        }) {
            if count > 0 {
                part.push(',');
            }
            part.push_str(&row.to_string());
            count += 1;
        }
        part.push(']');
        let query = sqlx::query(sqlx::AssertSqlSafe(statement.clone())).bind(part);
        affected += query.execute(&mut *connection).await?.rows_affected();
    }
    Ok(affected)
}

pub(super) fn unsigned(row: &AnyRow, column: &str) -> Result<u64, sqlx::Error> {
    row.try_get::<i64, _>(column).map(i64::cast_unsigned)
}

/// A boolean, which every statement returns as a number: the driver does not know `SQLite`'s.
pub(super) fn flag(row: &AnyRow, column: &str) -> Result<bool, sqlx::Error> {
    row.try_get::<i64, _>(column).map(|number| number != 0)
}
