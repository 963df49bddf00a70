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
//! * [`http`]: the other door.
//! * [`logging`]: the log of the process.
//! * [`config`], [`server`]: settings, threads, start and stop.
//! * [`client`]: the other end of the wire, which knows nothing of the server above `wire`.
//!
//! # Features
//!
//! `server` and `client` are on by default and need nothing of each other: a program that only
//! talks to a server takes `default-features = false, features = ["client"]`. `tls` adds `wss://`
//! to the client.
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

#[cfg(feature = "client")]
pub mod client;

#[cfg(feature = "server")]
pub mod address;
#[cfg(feature = "server")]
pub mod auth;
#[cfg(feature = "server")]
pub mod cluster;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod control;
#[cfg(all(feature = "server", any(test, fuzzing)))]
pub mod fuzzing;
#[cfg(feature = "server")]
pub mod http;
#[cfg(feature = "server")]
pub mod logging;
#[cfg(feature = "server")]
pub mod mailbox;
#[cfg(feature = "server")]
pub mod private_file;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod shard;
#[cfg(feature = "server")]
pub mod state;
#[cfg(feature = "server")]
pub mod stats;
#[cfg(feature = "server")]
pub mod store;
#[cfg(feature = "server")]
pub mod subscribers;
#[cfg(feature = "server")]
pub mod ws;

#[cfg(feature = "server")]
mod redacted;
#[cfg(feature = "server")]
mod storm;
#[cfg(feature = "server")]
mod wheel;

/// The examples in Rust of the documents, compiled as documentation tests.
#[cfg(all(doctest, feature = "client", feature = "server"))]
mod documents {
    #[doc = include_str!("../docs/clients.md")]
    struct Clients;
    #[doc = include_str!("../docs/embedding.md")]
    struct Embedding;
}
