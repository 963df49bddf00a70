//! Bytes and their meaning, in both directions.
//!
//! ```text
//! payload --> command --> (state decides) --> event, message, answer --> frame --> bytes on the wire
//!                |                                        |
//!          talk, refusal                                 close
//! ```
//!
//! Everything here is pure: no socket, no clock, no state. These files alone define the messages of
//! clients and their answers.
//!
//! Definitions that clients share are in `fanfare_protocol`, and exported here under the same
//! names.
//!
//! Imports `clock`, `id` and `limits`. Imported by everything above.

pub mod answer;
pub mod artemis;
pub mod command;
pub mod event;
pub mod fault;
pub mod frame;
pub mod instance_list;
pub mod json;
pub mod message;
pub mod problem;
pub mod talk;

pub use fanfare_protocol::{close, depth, instance, preference, refusal};
