//! What happened, as the audit log keeps it: each change of the registry, and each action of an operator.
//!
//! ```text
//! the registry applies an entry --> [Note] --+-- with the Actor of its command --> Effect::Audit --> control
//! State::audit(actor, Note)   ---------------+                                      --> audit queue --> store
//! ```
//!
//! # How an operator's action gets in
//!
//! * A command that the state carries out: its handler calls `State::audit` once the action is done, with the
//!   actor that came with the command.
//! * Anything else: a door sends [`NoteAction`], and that is all the command does.
//!
//! A [`Note`] is built by its kind (`kind::...`, or a new `operator.*` there), then [`Note::of_service`],
//! [`Note::of_instance`], [`Note::because`] for the reason, and [`Note::with`] for a JSON object of detail. HTTP and
//! foreign doors send commands by `RequestContext::ask_as`, which adds the [`Actor`]: user, address and door.
//!
//! # Promises
//!
//! * The node that decided an entry notes it, and no other: among several nodes there are no doubles.
//! * A heartbeat that renews a lease in good standing leaves nothing, and costs nothing here.
//!
//! [`NoteAction`]: super::messaging::commands::NoteAction

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value;

use crate::address::ClientAddress;
use crate::clock::Moment;
use crate::id::{InstanceIdentity, ServiceName, UserId};

/// The kinds of events. Each is a word of the API, `family.what`.
pub mod kind {
    /// An instance was registered.
    pub const REGISTERED: &str = "instance.registered";
    /// A registered instance was registered with other data.
    pub const CHANGED: &str = "instance.changed";
    /// A lease was renewed after it had run out.
    pub const RENEWED: &str = "instance.renewed";
    /// A lease ran out, and its instance was removed.
    pub const EXPIRED: &str = "instance.expired";
    /// An instance was removed by its own side.
    pub const UNREGISTERED: &str = "instance.unregistered";
    /// An instance was taken out of discovery.
    pub const PULLED_OUT: &str = "instance.pulled_out";
    /// An instance was put back into discovery.
    pub const PULLED_IN: &str = "instance.pulled_in";
    /// A lease ran out, and self-protection keeps its instance.
    pub const HELD: &str = "instance.held";
    /// The lease of a node that is gone was taken over.
    pub const TAKEN_OVER: &str = "instance.taken_over";
    /// Self-protection holds the expiry of a service.
    pub const DEGRADED: &str = "service.degraded";
    /// Self-protection is over.
    pub const RESTORED: &str = "service.restored";
    /// A channel was defined.
    pub const CHANNEL_CREATED: &str = "channel.created";
    /// A channel was deleted.
    pub const CHANNEL_DELETED: &str = "channel.deleted";
    /// An operator ended a connection.
    pub const DISCONNECTED: &str = "connection.disconnected";
    /// An account was made.
    pub const ACCOUNT_CREATED: &str = "account.created";
    /// The password of an account was changed.
    pub const PASSWORD_CHANGED: &str = "account.password_changed";
    /// Tokens of a user were ended.
    pub const SIGNED_OUT: &str = "account.signed_out";
    /// An account was removed.
    pub const ACCOUNT_REMOVED: &str = "account.removed";
    /// An operator allowed or lifted a service's self-protection.
    pub const SELF_PROTECTION: &str = "operator.self_protection";
    /// An operator began an operation on an instance, a server, a zone or a group.
    pub const OPERATION_BEGUN: &str = "operator.operation_begun";
    /// An operator completed one.
    pub const OPERATION_COMPLETED: &str = "operator.operation_completed";
    /// An operator changed a group, something that belongs to one, or a route rule.
    pub const GROUPS_CHANGED: &str = "operator.groups_changed";
    /// Events that found no room in memory while the database took none.
    pub const LOST: &str = "audit.lost";
}

/// By which way somebody came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// The server itself: time passed, or another node is gone.
    Server,
    /// The HTTP API.
    Http,
    /// A WebSocket of this server's own protocol.
    WebSocket,
    /// Artemis' sockets, and the calls of its operators' tools.
    Artemis,
    /// Eureka's paths.
    Eureka,
    /// The program that embeds the server.
    Program,
}

impl Door {
    /// Its word in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Door::Server => "server",
            Door::Http => "http",
            Door::WebSocket => "websocket",
            Door::Artemis => "artemis",
            Door::Eureka => "eureka",
            Door::Program => "program",
        }
    }
}

/// Who acted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The user of the token that came with the call, where there was one.
    pub user_id: Option<UserId>,
    /// Where the call came from.
    pub address: Option<ClientAddress>,
    /// Which way it came in.
    pub door: Door,
}

impl Actor {
    /// The server itself.
    pub const SERVER: Actor = Actor { user_id: None, address: None, door: Door::Server };
}

/// What happened, before it is known who did it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// When, in milliseconds since the Unix epoch, by the clock of the node that decided.
    pub at_ms: u64,
    /// One of [`kind`].
    pub kind: &'static str,
    /// The service that it is about.
    pub service: Option<ServiceName>,
    /// The instance that it is about.
    pub instance: Option<InstanceIdentity>,
    /// Why: a word of ours, or what an operator wrote.
    pub reason: Option<Cow<'static, str>>,
    /// More, as a JSON object.
    pub detail: Option<Box<str>>,
}

impl Note {
    /// Something of a kind that happens now.
    pub fn new(kind: &'static str, now: Moment) -> Note {
        let at_ms = now.wall_ms;
        Note { at_ms, kind, service: None, instance: None, reason: None, detail: None }
    }

    /// About a service.
    #[must_use]
    pub fn of_service(mut self, service: ServiceName) -> Note {
        self.service = Some(service);
        self
    }

    /// About an instance.
    #[must_use]
    pub fn of_instance(mut self, instance: InstanceIdentity) -> Note {
        self.instance = Some(instance);
        self
    }

    /// For a reason. An empty one is none.
    #[must_use]
    pub fn because(mut self, reason: impl Into<Cow<'static, str>>) -> Note {
        self.reason = Some(reason.into()).filter(|reason| !reason.is_empty());
        self
    }

    /// With more: a JSON object.
    #[must_use]
    pub fn with(mut self, detail: &Value) -> Note {
        debug_assert!(detail.is_object(), "the API says that it is one");
        self.detail = Some(detail.to_string().into());
        self
    }
}

/// One event of the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEvent {
    /// What happened.
    pub note: Note,
    /// Who did it.
    pub actor: Arc<Actor>,
}

impl AuditEvent {
    /// About how many bytes it takes, here and in the database.
    pub fn bytes(&self) -> usize {
        let Note { service, instance, reason, detail, .. } = &self.note;
        EVENT_BYTES
            + service.as_ref().map_or(0, |service| service.as_str().len())
            + instance.as_ref().map_or(0, |instance| instance.as_str().len())
            + reason.as_ref().map_or(0, |reason| reason.len())
            + detail.as_ref().map_or(0, |detail| detail.len())
            + self.actor.user_id.as_ref().map_or(0, |user| user.as_str().len())
    }
}

/// What an event takes beside its texts, in bytes: numbers, names of fields, quotes.
const EVENT_BYTES: usize = 160;

/// What the registry has to note, and whether anything is.
#[derive(Debug, Default)]
pub(super) struct Notes {
    is_kept: bool,
    pub(super) list: Vec<Note>,
}

impl Notes {
    /// Notes something, where notes are kept.
    pub(super) fn add(&mut self, note: impl FnOnce() -> Note) {
        if self.is_kept {
            self.list.push(note());
        }
    }

    /// Whether notes are kept.
    pub(super) fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// Keeps notes from here on, or none.
    pub(super) fn keep(&mut self, is_kept: bool) {
        self.is_kept = is_kept;
    }
}
