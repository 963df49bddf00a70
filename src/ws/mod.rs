//! From bytes to messages: the opening handshake and the reading side of RFC 6455.
//!
//! ```text
//! bytes --> head --> authorizer --> (101) --> reader --> messages
//!             \--> plain HTTP, for hyper
//! ```
//!
//! Nothing here owns a socket. The shard passes bytes and takes messages.
//!
//! Imports `address`, `auth`, `id`, `limits`, `storm` and `wire`. Imported by `shard`, `http` and `config`.

pub mod address_connections;
pub mod authorizer;
pub mod base_path;
mod boundary;
pub mod forwarded;
pub mod head;
pub mod hosts;
pub mod networks;
pub mod path_token;
pub mod reader;
pub mod user_connections;
