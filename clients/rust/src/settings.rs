//! The settings that are fixed when a client starts.
//!
//! Imports `address` and `transport::token`. Imported by `shared` and `handle::builder`.

use std::path::PathBuf;
use std::time::Duration;

use fanfare_protocol::preference::Preference;

use crate::address::Address;
use crate::transport::token::TokenSource;

/// The settings that are fixed when a client starts.
pub(crate) struct Settings {
    /// At least one.
    pub(crate) servers: Vec<Address>,
    pub(crate) token: TokenSource,
    pub(crate) cache_file: Option<PathBuf>,
    pub(crate) connect_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) keepalive: Duration,
    pub(crate) backoff: (Duration, Duration),
    pub(crate) queue_events_max: usize,
    pub(crate) message_bytes_max: usize,
    pub(crate) messages_per_s_max: u32,
    pub(crate) preference: Preference,
    pub(crate) seed: u64,
}
