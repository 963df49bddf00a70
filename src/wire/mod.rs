//! Bytes and their meaning, in both directions.
//!
//! ```text
//! payload --> command --> (state decides) --> event, message, answer --> frame --> bytes on the wire
//!                |                                        |
//!          talk, refusal                                 close
//! ```
//!
//! Everything here is pure: no socket, no clock, no state. What a client may send and what it is
//! answered can be read in these files alone.
//!
//! Imports `id` and `limits`. Imported by everything above.

#[cfg(feature = "server")]
pub mod answer;
pub mod close;
#[cfg(feature = "server")]
pub mod command;
pub mod depth;
#[cfg(feature = "server")]
pub mod event;
#[cfg(feature = "server")]
pub mod fault;
#[cfg(feature = "server")]
pub mod frame;
pub mod instance;
#[cfg(feature = "server")]
pub mod json;
#[cfg(feature = "server")]
pub mod message;
pub mod refusal;
#[cfg(feature = "server")]
pub mod talk;
