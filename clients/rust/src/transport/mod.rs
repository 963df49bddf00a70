//! Bytes to and from a server: TCP and TLS, one HTTP call, one WebSocket, and tokens.
//!
//! Imports `address` and `error`. Imported by `settings`, `connection` and `api`.

pub(crate) mod http;
pub(crate) mod net;
pub(crate) mod socket;
pub(crate) mod token;
