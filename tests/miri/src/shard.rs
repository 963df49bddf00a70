//! What a connection has to be sent.

#[path = "../../../src/shard/outbox.rs"]
pub mod outbox;
#[path = "../../../src/shard/socket.rs"]
pub mod socket;
