//! The protocol of fanfare: the types that both ends of a connection share.
//!
//! The names of things ([`id`]), an instance in its canonical form ([`instance`]), whose instances a reader wants
//! first ([`preference`]), the refusals of requests ([`refusal`]), the reasons to close a connection ([`close`]), and
//! the bounds of both ([`limits`]). `docs/protocol.md` in the repository has every message.
//!
//! ```
//! use fanfare_protocol::close::Reason;
//! use fanfare_protocol::instance::Instance;
//!
//! let instance: Instance = serde_json::from_str(
//!     r#"{"serviceId": "Orders", "instanceId": "a", "url": "http://10.0.0.1:8080/"}"#,
//! )?;
//! let registration = instance.register().expect("it has a service and a name");
//! assert_eq!(registration.service.as_str(), "orders");
//! assert_eq!(Reason::SlowReader.code(), 4408);
//! # Ok::<(), serde_json::Error>(())
//! ```
//!
//! # Not here
//!
//! Sockets, clocks and an async runtime. The server reads and writes frames in `fanfare::wire`, the client in
//! `fanfare_client`.

pub mod close;
pub mod depth;
pub mod id;
pub mod instance;
pub mod limits;
pub mod preference;
pub mod refusal;
pub mod token;
