//! fanfare: a service registry and real-time push server.
//!
//! Instances register over HTTP or a WebSocket, and every subscribed socket gets the change: in
//! order, with revisions, encoded and framed once, from shards that own their sockets.
//!
//! # Layout
//!
//! In the order in which an event travels; a module imports only what stands above it here.
//!
//! * [`limits`], [`id`], [`clock`], [`rng`]: bounds, names, time and chance.
//! * [`wire`]: bytes and their meaning.
//! * [`address`], [`private_file`], [`auth`], [`stats`]: who may, and what is counted.
//! * [`ws`]: handshake and reading side of a WebSocket.
//! * [`state`]: the facts, and what each order makes of them.
//! * [`mailbox`]: where shards and control meet.
//! * [`store`]: what outlives the process.
//! * [`shard`], [`control`]: the two planes.
//! * [`http`]: the same commands over HTTP.
//! * [`doors`]: foreign protocols, translated into the same commands.
//! * [`logging`]: the log of the process.
//! * [`config`], [`server`]: settings, threads, start and stop.
//!
//! What clients know as well, names, instances, refusals and close codes, is the crate [`fanfare_protocol`]; the
//! client itself is the crate `fanfare-client`.
//!
//! # Example
//!
//! ```no_run
//! use fanfare::config::{Config, Sources};
//! use fanfare::server::Server;
//!
//! let server = Server::start(&Config::default(), &Sources::default())?;
//! println!("listening on {}", server.local_addr());
//! server.stop();
//! # Ok::<(), fanfare::server::StartError>(())
//! ```

#![cfg_attr(
    test,
    allow(clippy::cast_possible_truncation, reason = "seeds and spans in tests are small")
)]

pub mod clock;
pub mod id;
pub mod limits;
pub mod rng;
pub mod wire;

pub mod address;
pub mod auth;
pub mod cluster;
pub mod config;
pub mod control;
pub mod doors;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod http;
pub mod logging;
pub mod mailbox;
pub mod private_file;
pub mod server;
pub mod shard;
pub mod state;
pub mod stats;
pub mod store;
pub mod subscribers;
pub mod ws;

mod redacted;
mod storm;
mod wheel;

/// The examples in Rust of the documents, compiled as documentation tests.
#[cfg(doctest)]
mod documents {
    #[doc = include_str!("../docs/clients.md")]
    struct Clients;
    #[doc = include_str!("../docs/embedding.md")]
    struct Embedding;
}
