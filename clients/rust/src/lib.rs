//! The client of a fanfare server: follows services, registers instances, and sends and receives
//! messages.
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
//! * A wanted subscription, room or lease stays wanted: it comes back after a reconnect, and
//!   resumes at its last position.
//! * A view is a state that the registry had, and has its age.
//! * Nothing grows without a bound, and no reader delays the connection.
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
//! The server: the types that both share are in `fanfare_protocol`, and nothing else is built.

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
pub use fanfare_protocol::preference::Preference;
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
