//! Where the two planes meet: bounded queues, one wake-up, and the lock of the engine.
//!
//! ```text
//! shards, HTTP --> ControlMessage --> [ control's mailbox ] --> control
//! control      --> ShardMessage   --> [ a shard's mailbox ] --> that shard
//! ```
//!
//! Any number of senders, one receiver that takes whatever has gathered in one go. The bell is rung
//! only when the receiver has said that it rests, so a busy receiver costs its senders no system
//! call, however many messages they bring.
//!
//! # Promises
//!
//! * Messages of one sender arrive in the order they were sent. Between shards and control this
//!   order is what keeps snapshots and changes consistent; see `ARCHITECTURE.md`.
//! * A full mailbox is said to be full. Nothing is dropped in silence, and memory is bounded.
//!
//! Imports `clock`, `cluster`, `id`, `limits`, `state`, `stats` and `wire`. Imported by `shard`, `control`, `http`
//! and `server`.

mod bell;
pub mod combiner;
pub mod command_sender;
mod hand_over;
#[cfg(test)]
mod hand_over_model;
mod parking;
#[cfg(test)]
mod parking_model;
mod queue;
pub mod to_control;
pub mod to_shard;
pub mod view_cache;

// In their place the models of `hand_over` and `parking` put their own.
use std::sync::atomic;

pub use bell::Bell;
pub use queue::{MailboxReceiver, MailboxSender, Undelivered, mailbox};
