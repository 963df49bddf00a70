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
//! * [`auth`], [`stats`]: who may, and what is counted.
//! * [`ws`]: handshake and reading side of a WebSocket.
//! * [`state`]: the facts, and what each order makes of them.
//! * [`mailbox`]: where shards and control meet.
//! * [`store`]: what outlives the process.
//! * [`shard`], [`control`]: the two planes.
//! * [`http`]: the other door.
//! * [`config`], [`server`]: settings, threads, start and stop.
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

pub mod auth;
pub mod clock;
pub mod config;
pub mod control;
pub mod http;
pub mod id;
pub mod limits;
pub mod mailbox;
pub mod rng;
pub mod server;
pub mod shard;
pub mod state;
pub mod stats;
pub mod store;
pub mod subscribers;
pub mod wire;
pub mod ws;

mod wheel;
