//! fanfare: a service registry and real-time push server.
#![allow(missing_docs)]
pub mod auth;
pub mod clock;
pub mod id;
pub mod limits;
pub mod mailbox;
pub mod rng;
pub mod shard;
pub mod state;
pub mod stats;
mod wheel;
pub mod wire;
pub mod ws;
pub mod control;
pub mod http;
pub mod store;
pub mod config;
pub mod server;
