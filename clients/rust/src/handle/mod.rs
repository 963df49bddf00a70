//! The handles of a program: the client, views of services, leases, channels, rooms, messages.
//!
//! A handle changes what is wanted in the shared state, wakes the driver, and reads what is known. None of them touches
//! the connection.
//!
//! Imports `connection` (to start it), `shared` and `state`. Imported by the root.

pub(crate) mod builder;
pub(crate) mod client;
pub(crate) mod listener;
pub(crate) mod messaging;
pub(crate) mod picker;
pub(crate) mod registration;
pub(crate) mod view;
