//! Doors: foreign protocols, translated into fanfare's commands and events.
//!
//! ```text
//! http::router --> Dialect::answer --> command --> control --> reply --> the dialect's answer
//! ```
//!
//! A door owns no facts. Its clients register instances of the one registry, and discover from
//! there. A door may cache an encoded answer, never a decision.
//!
//! # A new dialect
//!
//! 1. A folder beside `eureka`, with a type that implements [`Dialect`]: the dialect's paths, their
//!    methods, and the answer to a request.
//! 2. A line in [`open`], and a switch in `config::keys`.
//! 3. A page `docs/<dialect>.md` with the mapping of fields and statuses, and the differences.
//!
//! The router checks the request head, the host and the origin before it calls a dialect. The dialect
//! checks credentials and scopes. Where a dialect cannot express a state, the door uses the dialect's own
//! way to start over (Eureka: a full fetch), and drops nothing.
//!
//! Imports `auth`, `http`, `id`, `limits`, `state`, `store`, `wire` and `ws`. Imported by `server`, which opens the
//! doors, and by `fuzzing`.

pub mod artemis;
pub mod eureka;

use crate::http::dialect::Dialect;
use artemis::Artemis;
use eureka::Eureka;

/// The dialects that this server speaks. `artemis` is none without Artemis, else whether the server has a
/// certificate.
pub fn open(with_eureka: bool, artemis: Option<bool>) -> Vec<Box<dyn Dialect>> {
    let mut dialects: Vec<Box<dyn Dialect>> = Vec::new();
    if let Some(has_tls) = artemis {
        dialects.push(Box::new(Artemis::new(has_tls)));
    }
    if with_eureka {
        dialects.push(Box::new(Eureka::default()));
    }
    dialects
}
