//! What control sends to a shard.
//!
//! Imports `id` and `state`. Imported by `shard` and `control`.

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::id::{ConnId, ServiceName};
use crate::state::order::Answer;

/// One thing for a shard to do.
#[derive(Debug)]
pub enum Parcel {
    /// A framed event for everyone on the shard who follows the service.
    Event(Event),
    /// The answer to a connection's oldest open order.
    Answer(ConnId, Answer),
    /// The answer to an HTTP request served on the shard's thread.
    HttpAnswer(oneshot::Sender<Answer>, Answer),
    /// The server stops: send everyone away, spread over so many milliseconds.
    Drain {
        /// The time to spread over.
        window_ms: u64,
    },
}

/// An event, framed once for all shards.
#[derive(Debug, Clone)]
pub struct Event {
    /// The service it is about.
    pub service: ServiceName,
    /// The whole WebSocket frame.
    pub frame: Bytes,
    /// When the order that caused it was accepted, in the clock's nanoseconds.
    pub accepted_ns: u64,
}
