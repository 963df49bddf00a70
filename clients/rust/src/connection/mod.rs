//! The task behind a client, from connecting to the end.
//!
//! ```text
//! driver        connects, waits after a failure (backoff), connects again
//!   |
//! session       one connection: sends what is wanted (request), takes in frames
//!   |
//! http_tasks    calls beside the socket: the list of services, missed messages, the next token
//! ```
//!
//! Imports `shared`, `state` and `transport`. Imported by `handle::builder`, which starts the driver, and by
//! `handle::client` for HTTP calls.

pub(crate) mod cache;
pub(crate) mod driver;
pub(crate) mod http_tasks;

mod backoff;
mod rate_limit;
mod request;
mod session;
