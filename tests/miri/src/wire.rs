//! Frames as they are sent.

pub use fanfare_protocol::close;

#[path = "../../../src/wire/frame.rs"]
pub mod frame;
