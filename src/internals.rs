//! The modules of the server, for its own benches, simulations and tests of the store.
//!
//! Behind the feature `internals`, which the development dependency of this package on itself turns on: `cargo test` and
//! `cargo bench` need no flag. Nothing here is a promise: any of it may change with any commit.
//!
//! Imports everything. Imported by nothing of the crate.

#![allow(missing_docs, reason = "each is documented where it is")]

pub mod address {
    pub use crate::address::*;
}
pub mod auth {
    pub use crate::auth::*;
}
pub mod clock {
    pub use crate::clock::*;
}
pub mod cluster {
    pub use crate::cluster::*;
}
pub mod control {
    pub use crate::control::*;
}
pub mod doors {
    pub use crate::doors::*;
}
pub mod http {
    pub use crate::http::*;
}
pub mod id {
    pub use crate::id::*;
}
pub mod limits {
    pub use crate::limits::*;
}
pub mod logging {
    pub use crate::logging::*;
}
pub mod mailbox {
    pub use crate::mailbox::*;
}
pub mod private_file {
    pub use crate::private_file::*;
}
pub mod rng {
    pub use crate::rng::*;
}
pub mod shard {
    pub use crate::shard::*;
}
pub mod state {
    pub use crate::state::*;
}
pub mod stats {
    pub use crate::stats::*;
}
pub mod store {
    pub use crate::store::*;
}
pub mod subscribers {
    pub use crate::subscribers::*;
}
pub mod wire {
    pub use crate::wire::*;
}
pub mod ws {
    pub use crate::ws::*;
}
