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

pub mod answer;
pub mod close;
pub mod command;
pub mod event;
pub mod frame;
pub mod instance;
pub mod json;
pub mod message;
pub mod refusal;
pub mod talk;
