//! The address of the database, an embedded file or a server's URL, and its dialect.
//!
//! Imports `redacted` and its sibling. Part of `store`.

use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sqlx::any::AnyConnectOptions;

use super::{StoreError, postgres};
use crate::redacted;

/// The kind of database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A file.
    Sqlite(PathBuf),
    /// A server, by its URL.
    Postgres(String),
}

/// The name of the embedded database in the data directory.
pub const DATABASE_FILE: &str = "fanfare.db";

/// The characters that are not encoded in the path of a database URL.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_');

/// The writers of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// One server, and the command line beside it.
    Alone,
    /// All nodes of a cluster.
    Shared,
}

impl Address {
    /// Reads a URL; without one the database is the file in the data directory.
    pub fn new(url: Option<&str>, data_dir: &Path) -> Result<Address, StoreError> {
        let Some(url) = url else {
            return Ok(Address::Sqlite(data_dir.join(DATABASE_FILE)));
        };
        if let Some(path) = url.strip_prefix("sqlite:") {
            // The drivers' parameters after a question mark, such as `mode=rwc`, are how the file
            // is opened anyway.
            let path =
                path.strip_prefix("//").unwrap_or(path).split('?').next().unwrap_or_default();
            return Ok(Address::Sqlite(PathBuf::from(path)));
        }
        if url.starts_with("postgres:") || url.starts_with("postgresql:") {
            return Ok(Address::Postgres(url.to_owned()));
        }
        Err(StoreError::Address(url.to_owned()))
    }

    /// Whether several nodes can use it together.
    pub fn is_shareable(&self) -> bool {
        matches!(self, Address::Postgres(_))
    }

    /// The address for messages to people: never with a password.
    pub fn shown(&self) -> String {
        match self {
            Address::Sqlite(path) => path.display().to_string(),
            Address::Postgres(url) => redacted::url(url),
        }
    }

    /// The driver's options.
    ///
    /// # Errors
    ///
    /// If the URL is invalid.
    pub(super) fn options(&self) -> Result<AnyConnectOptions, sqlx::Error> {
        match self {
            Address::Sqlite(path) => {
                let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                let path = path.to_string_lossy();
                format!("sqlite://{}?mode=rwc", utf8_percent_encode(&path, PATH)).parse()
            }
            Address::Postgres(url) => postgres::options(url),
        }
    }

    /// A statement whose `{rows}` are the elements of the JSON array that it binds first. Each is
    /// an array called `value`.
    pub(super) fn rows(&self, statement: &str) -> String {
        let rows = match self {
            Address::Sqlite(_) => "json_each($1)",
            Address::Postgres(_) => "jsonb_array_elements(CAST($1 AS JSONB))",
        };
        statement.replace("{rows}", rows)
    }
}
