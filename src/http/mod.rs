//! HTTP: hyper in front, the same commands behind as on a WebSocket.
//!
//! ```text
//! shard's first look --> guard --> hyper --> router --> command --> control
//!                                              \--> answers from stats and settings
//! ```
//!
//! Each connection is served by a task on the thread of the shard that accepted it; its answers from
//! control come through that shard's mailbox.
//!
//! Imports everything below `doors`. Imported by `doors` and `server`.

pub mod answer_body;
pub mod answers;
pub mod bodies;
pub mod body;
pub mod budget;
pub mod channels;
mod chunked_body;
pub mod connection;
mod content_encoding;
mod cross_site;
pub mod dialect;
pub mod discovery;
pub mod events;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod guard;
pub mod idle;
pub mod known_users;
pub mod log;
pub mod login_throttle;
pub mod messages;
pub mod metrics;
pub mod openapi;
pub mod pages;
pub mod passwords;
pub mod rate_limiter;
pub mod registry;
pub mod reply;
pub mod router;
mod routes;
pub mod service_summary;
pub mod sockets;
pub mod status;
pub mod users;

use std::borrow::Cow;
use std::cell::{Cell, OnceCell};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::{Map, Value};

use crate::address::{AddressBlock, ClientAddress};
use crate::auth::accounts::Registration;
use crate::auth::{Identity, Scopes};
use crate::clock::Clock;
use crate::cluster::NodeView;
use crate::cluster::agreement::{Difference, Shared};
use crate::id::{ServiceName, ShardId, UserId};
use crate::limits::Limits;
use crate::mailbox::command_sender::CommandSender;
use crate::mailbox::to_control::{ControlMessage, Task};
use crate::mailbox::view_cache::ViewCache;
use crate::state::Ask;
use crate::state::audit::{Actor, Door};
use crate::state::messaging::commands::SeeUser;
use crate::state::people::Person;
use crate::state::registry::commands::ReadViews;
use crate::state::registry::views::View;
use crate::stats::{Recent, Stats};
use crate::store::StoreHealth;
use crate::store::read_pool::{Account, ReadPool};
use crate::wire::refusal::Refusal;
use crate::ws::authorizer::Authorizer;
use answer_body::Unsent;
use answers::Answers;
use bodies::Bodies;
use dialect::Dialect;
use idle::IdleTable;
use known_users::KnownUsers;
use login_throttle::LoginThrottle;
use passwords::Passwords;
use rate_limiter::RateLimiter;
use reply::Problem;

/// The context that a request is answered in. One a shard, cloned for each request.
#[derive(Debug, Clone)]
pub struct RequestContext {
    /// The shard whose thread serves the requests.
    pub shard: ShardId,
    /// Control's mailbox.
    pub control: CommandSender,
    /// The clock.
    pub clock: Clock,
    /// The state that all shards' HTTP shares.
    pub app: Arc<AppState>,
    /// The peer of the request's connection.
    pub peer: Option<SocketAddr>,
    /// The address at which that connection arrived.
    pub local: Option<SocketAddr>,
    /// The client's address: the peer's, or the one that a trusted proxy names. Limits and the log use
    /// this one.
    pub client: Option<ClientAddress>,
    /// The shard's unsent answers.
    pub answers: Arc<Answers>,
    /// The shard's bodies that are still arriving.
    pub bodies: Arc<Bodies>,
    /// The unsent answers of the request's connection.
    pub unsent: Arc<Unsent>,
    /// The number of the request.
    pub number: u64,
    /// The user of the request, set when a token or a password is verified.
    pub user: OnceCell<UserId>,
    /// The token before the request's path, of an Artemis client.
    pub path_token: Option<Box<str>>,
    /// Whether the request has a body that has not been read to its end. The connection then ends with the
    /// answer, which says so: a client that sent the next request on it would fail once more.
    pub has_body_left: Cell<bool>,
}

/// The state that all shards' HTTP shares.
#[derive(Debug)]
pub struct AppState {
    /// The node's id.
    pub node_id: Arc<str>,
    /// The bounds.
    pub limits: Arc<Limits>,
    /// The rules for requests.
    pub authorizer: Arc<Authorizer>,
    /// The newest views, for reading without control.
    pub view_cache: Arc<ViewCache>,
    /// The counters.
    pub stats: Arc<Stats>,
    /// The health of the store.
    pub store: StoreHealth,
    /// Read access to the store.
    pub read_pool: ReadPool,
    /// Failed logins.
    pub login_throttle: LoginThrottle,
    /// The threads that hash passwords.
    pub passwords: Passwords,
    /// The policy for making accounts.
    pub registration: Registration,
    /// Scopes of a login's token, beside the account's own.
    pub default_scopes: Scopes,
    /// Whether adding a user to a group only invites the user.
    pub group_invitations: bool,
    /// Counts the registrations of each address.
    pub registrations: RateLimiter,
    /// Counts the look-ups of unknown names of each address.
    pub unknown_names: RateLimiter,
    /// Kept connections between two requests.
    pub idle: Arc<IdleTable>,
    /// Users whose tokens this node has seen.
    pub known_users: KnownUsers,
    /// The address that clients of foreign protocols reach this node by, if it is given.
    pub advertise_url: Option<String>,
    /// The foreign protocols that are served beside fanfare's own.
    pub dialects: Vec<Box<dyn Dialect>>,
    /// Raised when the server is about to stop.
    pub is_draining: Arc<AtomicBool>,
    /// The nodes that sent a heartbeat lately; empty on a single node.
    pub nodes: parking_lot::RwLock<Vec<NodeView>>,
    /// The settings that all nodes share.
    pub shared: Shared,
    /// The living nodes with other shared settings.
    pub differences: parking_lot::RwLock<Vec<Difference>>,
    /// Whether this is one of several nodes.
    pub is_clustered: bool,
    /// The settings in force by their names, as `config.json` shows them. No code decides by these.
    pub settings: Map<String, Value>,
    /// Lifetime of a token from a login, in milliseconds.
    pub login_token_ttl_ms: u64,
    /// How long after a login its tokens can be renewed, in milliseconds.
    pub session_max_ms: u64,
    /// How long an event stays in the audit log, in milliseconds.
    pub audit_age_max_ms: u64,
    /// When the server started, in milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// Makes ids of accounts and groups: random and unique.
    pub new_id: fn() -> String,
    /// Numbers the requests.
    pub requests: AtomicU64,
    /// Whether the log has a line for each request.
    pub access_log: bool,
    /// Each shard's unsent answers.
    pub answers: Vec<Arc<Answers>>,
    /// Each shard's bodies that are still arriving.
    pub bodies: Vec<Arc<Bodies>>,
    /// Figures of the last seconds.
    pub recent: parking_lot::RwLock<Recent>,
}

impl AppState {
    /// The dialect whose path this is, and the part of the path below its mount point.
    pub fn dialect_at<'a>(&self, path: &'a str) -> Option<(&dyn Dialect, &'a str)> {
        self.dialects
            .iter()
            .find_map(|dialect| dialect.below(path).map(|rest| (dialect.as_ref(), rest)))
    }

    /// The scopes that an account's password gives, here or for a token.
    pub fn scopes_of(&self, account: &Account) -> Scopes {
        let own = Scopes::from_claim(account.scope.as_deref().unwrap_or_default());
        self.default_scopes.with(own)
    }
}

impl RequestContext {
    /// The address block of the request's client, by which the bounds for each address count.
    pub fn block(&self) -> Option<AddressBlock> {
        self.client.map(ClientAddress::block)
    }

    /// Sends a command and waits for its reply.
    ///
    /// # Errors
    ///
    /// `unavailable` if control's mailbox is full or the server stops, and the refusals of the
    /// command.
    pub async fn ask<A: Ask>(&self, ask: A) -> Result<A::Reply, Refusal> {
        self.control.ask(self.clock.now().ns, ask).await
    }

    /// The same for a command that the audit log names its sender of: the user, the address and the door.
    ///
    /// # Errors
    ///
    /// As [`RequestContext::ask`].
    pub async fn ask_as<A: Ask>(&self, door: Door, ask: A) -> Result<A::Reply, Refusal> {
        let actor = Actor { user_id: self.user.get().cloned(), address: self.client, door };
        self.control.ask_by(Some(Arc::new(actor)), self.clock.now().ns, ask).await
    }

    /// The request's id, in answers and the log.
    pub fn request_id(&self) -> String {
        format!("{}-{}-{}", self.app.node_id, self.shard.0, self.number)
    }

    /// The client's address, for the log.
    pub fn client_text(&self) -> Option<String> {
        self.client.map(|client| client.to_string())
    }

    /// The user's id, if known.
    pub fn user_id(&self) -> Option<&str> {
        self.user.get().map(UserId::as_str)
    }

    /// Notes the user of the request.
    pub fn note_user(&self, user_id: &UserId) {
        // The first one counts: it is that of the request's own credentials.
        let _ = self.user.set(user_id.clone());
    }

    /// Notes the user of the request, and tells control of a user that it may not know yet.
    pub fn see(&self, identity: &Identity) {
        self.note_user(&identity.user_id);
        let known_users = &self.app.known_users;
        if !known_users.is_new(&identity.user_id) {
            return;
        }
        let task = Task::Command(SeeUser(Person::of(identity)).unanswered());
        let message = ControlMessage { accepted_ns: self.clock.now().ns, task };
        if self.control.push(message).is_err() {
            return known_users.forget(&identity.user_id);
        }
        self.control.carry_out();
    }

    /// The newest views of some services, empty at revision 0 for unknown ones. Control is asked
    /// only if one of them is not cached.
    ///
    /// # Errors
    ///
    /// As [`RequestContext::ask`].
    pub async fn views(&self, services: Vec<ServiceName>) -> Result<Vec<Arc<View>>, Refusal> {
        let view_cache = &self.app.view_cache;
        let cached: Vec<_> = services.iter().map_while(|name| view_cache.view(name)).collect();
        if cached.len() == services.len() {
            return Ok(cached);
        }
        self.ask(ReadViews(services)).await
    }

    /// Whether the server is about to stop.
    pub fn is_draining(&self) -> bool {
        self.app.is_draining.load(Ordering::Relaxed)
    }
}

/// The query of a request.
#[derive(Debug)]
pub struct Query(String);

impl Query {
    /// The query of a target.
    pub fn of(uri: &hyper::Uri) -> Query {
        Query(uri.query().unwrap_or_default().to_owned())
    }

    /// The first value of a name, percent-decoded; `+` is a space, as forms have it.
    pub fn get(&self, name: &str) -> Option<String> {
        let pairs = self.0.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let (_, value) = pairs.into_iter().find(|(key, _)| *key == name)?;
        Some(decoded(&value.replace('+', " ")).into_owned())
    }

    /// Every name and its value, decoded.
    pub fn pairs(&self) -> Vec<(String, String)> {
        let pairs = self.0.split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let text = |text: &str| decoded(&text.replace('+', " ")).into_owned();
        pairs.map(|(name, value)| (text(name), text(value))).collect()
    }

    /// The service in the query, in either spelling.
    pub fn service_id(&self) -> Option<String> {
        self.get("serviceId").or_else(|| self.get("service_id"))
    }

    /// A whole number of at least `min`; above `max` it counts as `max`.
    ///
    /// # Errors
    ///
    /// 400 if it is not a number.
    pub fn number(&self, name: &str, min: usize, max: usize) -> Result<Option<usize>, Problem> {
        let Some(text) = self.get(name).filter(|text| !text.is_empty()) else { return Ok(None) };
        match text.parse::<usize>() {
            Ok(number) if number >= min => Ok(Some(number.min(max))),
            _ => {
                let detail = format!("{name} is not a whole number of at least {min}");
                Err(Problem::invalid(detail))
            }
        }
    }
}

/// A part of a path or query, percent-decoded. Bytes that are not UTF-8 become a mark, which no
/// name contains.
pub(crate) fn decoded(text: &str) -> Cow<'_, str> {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy()
}
