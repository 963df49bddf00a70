//! fanfare: a service registry and real-time push server.
//!
//! Instances register over HTTP or a WebSocket, and every subscribed socket gets the change: in
//! order, with revisions, encoded and framed once, from shards that own their sockets.
//!
//! This crate is the server: the program `fanfare`, and a library for programs that run a server inside. The Rust
//! client is the crate `fanfare-client`.
//!
//! # A server inside a program
//!
//! ```no_run
//! use fanfare::config::{Config, Sources};
//! use fanfare::server::{DomainEvent, Server};
//! use serde_json::json;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Server::start(&Config::default(), &Sources::default())?;
//! println!("listening on {}", server.local_addr());
//!
//! let handle = server.handle();
//! handle.send_to_channel("news", json!({"headline": "It works"})).await?;
//! let mut events = handle.events();
//! while let Some(Ok(event)) = events.next().await {
//!     if let DomainEvent::UserOnline(user) = event {
//!         handle.send_to_user(user.user_id.as_str(), "text", json!({"content": "hello"})).await?;
//!     }
//! }
//! server.stop();
//! # Ok(())
//! # }
//! ```
//!
//! # Where to go on
//!
//! * [`config::Config`] has every setting, [`server::Server`] starts and stops, [`server::Handle`] sends, registers,
//!   follows and administers.
//! * `docs/embedding.md` in the repository shows more, `docs/protocol.md` and `docs/http.md` the
//!   clients' protocols, `docs/operations.md` every setting and metric.
//! * `ARCHITECTURE.md` explains the inside, module by module. The modules are private: benches and
//!   simulations use them behind the feature `internals`, which promises nothing.

#![cfg_attr(not(feature = "internals"), warn(unnameable_types))]
#![cfg_attr(
    test,
    allow(clippy::cast_possible_truncation, reason = "seeds and spans in tests are small")
)]

pub mod config;
pub mod server;

/// The program, for `main.rs`.
#[doc(hidden)]
pub mod cli;
/// The fuzz targets.
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals;

mod address;
mod auth;
mod clock;
mod cluster;
mod control;
mod doors;
mod http;
mod id;
mod limits;
mod logging;
mod mailbox;
mod private_file;
mod redacted;
mod rng;
mod shard;
mod state;
mod stats;
mod store;
mod storm;
mod subscribers;
mod wheel;
mod wire;
mod ws;

/// The examples in Rust of the documents, compiled as documentation tests.
#[cfg(doctest)]
mod documents {
    #[doc = include_str!("../docs/clients.md")]
    struct Clients;
    #[doc = include_str!("../docs/embedding.md")]
    struct Embedding;
}
