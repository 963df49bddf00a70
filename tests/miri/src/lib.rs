//! The modules of the server whose data structures Miri judges, built without the server's other dependencies.
//!
//! The files are the server's own, and so are their tests; what is here puts them under the names that they import.

#![allow(dead_code, unused_imports, reason = "the rest of the server is not here")]

#[path = "../../../src/id.rs"]
pub mod id;
#[path = "../../../src/limits.rs"]
pub mod limits;
pub mod mailbox;
#[path = "../../../src/rng.rs"]
pub mod rng;
pub mod shard;
#[path = "../../../src/subscribers.rs"]
pub mod subscribers;
#[path = "../../../src/wheel.rs"]
pub mod wheel;
pub mod wire;
