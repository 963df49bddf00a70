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
//! What a client knows of it as well stands in `fanfare_protocol`, and is found here under the same names.
//!
//! Imports `clock`, `id` and `limits`. Imported by everything above.

pub mod answer;
pub mod command;
pub mod event;
pub mod fault;
pub mod frame;
pub mod instance_list;
pub mod json;
pub mod message;
pub mod problem;
pub mod talk;

pub use fanfare_protocol::{close, depth, instance, refusal};
