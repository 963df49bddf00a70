//! The bounds that a client and a server have in common, with their units and reasons.
//!
//! They are part of the protocol and fixed. Bounds that an operator may turn are the server's own.
//!
//! Imports nothing. Imported by `instance`, the server and the client.

/// Deepest nesting of a JSON value that is passed on to other clients: metadata, payloads, data. In
/// frames and answers it is up to eight levels deeper, and a common parser (`serde_json`, which our
/// own clients use) gives up at 128.
pub const NESTED_DEPTH_MAX: usize = 100;

/// Longest region, service, instance or topic name, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// Shortest lease an instance may ask for, in milliseconds. Expiry is checked finer than this.
pub const LEASE_TTL_MS_MIN: u64 = 1_000;

/// Longest lease an instance may ask for, in milliseconds. A dead instance is gone after an hour.
pub const LEASE_TTL_MS_MAX: u64 = 3_600_000;

/// Lease of an instance that asks for none, in milliseconds, unless configured.
pub const LEASE_TTL_MS_DEFAULT: u64 = 20_000;

/// Largest weight of an instance in a weighted choice. A share of a ten-thousandth is fine enough to begin with.
pub const WEIGHT_MAX: u16 = 10_000;

/// Weight of an instance that gives none: what a share in percent reads as.
pub const WEIGHT_DEFAULT: u16 = 100;
