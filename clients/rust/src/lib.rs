//! The client of a fanfare server: what a program needs to follow services, stand for instances and talk.
//!
//! ```text
//! Client, views, streams, leases     what is wanted, what is known
//!            |                                   State
//!         driver                     connects, waits, connects again
//!            |
//!         session                    one connection: settle, take
//!            |
//!          link                      one WebSocket
//! ```
//!
//! # Promises
//!
//! * What is wanted stays wanted: subscriptions, rooms and leases come back after a reconnect, and go
//!   on where they were.
//! * What is known is a state the registry had, and says how old it is.
//! * Nothing grows without a bound, and no reader holds up the connection.
//! * Every error says whether to try again.
//!
//! # Example
//!
//! ```no_run
//! # async fn example() -> Result<(), fanfare_client::Error> {
//! use fanfare_client::{Client, ServiceEvent};
//!
//! let client = Client::builder().url("ws://localhost:8080").connect().await?;
//! let mut changes = client.watch_service("orders")?.changes();
//! while let Some(event) = changes.next().await {
//!     match event {
//!         ServiceEvent::Snapshot(state) => println!("{} instances", state.instances.len()),
//!         ServiceEvent::Changed(change) => println!("{} changes", change.changes.len()),
//!         other => println!("{other:?}"),
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Not here
//!
//! Anything of the server: what both know is `fanfare_protocol`, and nothing else is built.

mod address;
mod api;
mod clock;
mod connection;
mod error;
mod event;
mod frame;
mod handle;
mod settings;
mod shared;
mod state;
mod transport;

pub use fanfare_protocol::id::ServiceName;
pub use fanfare_protocol::instance::{Instance, Status as InstanceStatus};
pub use fanfare_protocol::limits::LEASE_TTL_MS_DEFAULT;
pub use fanfare_protocol::refusal::Code;

pub use crate::api::{Api, Login, RawSocket};
pub use crate::error::Error;
pub use crate::event::{
    ChangeType, ChannelEvent, ChannelMessage, DirectMessage, Envelope, EnvelopeEvent,
    InstanceChange, Person, Position, ServiceChange, ServiceEvent, ServiceState,
};
pub use crate::handle::builder::Builder;
pub use crate::handle::client::{Client, Sent};
pub use crate::handle::listener::Listener;
pub use crate::handle::messaging::{Channel, Envelopes, Messages, Post, Published, Room};
pub use crate::handle::registration::Lease;
pub use crate::handle::view::{AllServices, Changes, ServiceView};
pub use crate::shared::Status;
pub use crate::transport::token::BoxError;

/// The examples of the README, compiled as documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
