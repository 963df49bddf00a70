//! The HTTP door: hyper in front, the same orders behind as on a WebSocket.
//!
//! ```text
//! shard's first look --> guard --> hyper --> router --> order --> control
//!                                              \--> answers from stats and settings
//! ```
//!
//! Each connection is served by a task on the thread of the shard that accepted it; its answers from
//! control come through that shard's mailbox.
//!
//! Imports everything below `config`. Imported by `server`.

pub mod body;
mod chunks;
pub mod connection;
pub mod discovery;
pub mod guard;
pub mod metrics;
pub mod registry;
pub mod reply;
pub mod router;
pub mod status;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::{Map, Value};
use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::id::{ServiceName, ShardId};
use crate::limits::Limits;
use crate::mailbox::Outlet;
use crate::mailbox::published::Published;
use crate::mailbox::to_control::{Command, Origin, Task};
use crate::state::order::{Answer, Order, View};
use crate::stats::Stats;
use crate::store::StoreHealth;
use crate::wire::refusal::Refusal;
use crate::ws::gate::Gate;

/// What requests are answered from. One a shard.
#[derive(Debug, Clone)]
pub struct Desk {
    /// The shard whose thread serves the requests.
    pub shard: ShardId,
    /// Where orders go.
    pub control: Outlet<Command>,
    /// The clock.
    pub clock: Clock,
    /// What all desks share.
    pub office: Arc<Office>,
}

/// What all desks share.
#[derive(Debug)]
pub struct Office {
    /// The node's id.
    pub node_id: Arc<str>,
    /// The bounds.
    pub limits: Arc<Limits>,
    /// Who may do what.
    pub gate: Arc<Gate>,
    /// The newest views, for reading without control.
    pub published: Arc<Published>,
    /// The counters.
    pub stats: Arc<Stats>,
    /// How the store does.
    pub store: StoreHealth,
    /// Raised when the server is about to stop.
    pub is_draining: Arc<AtomicBool>,
    /// The settings in force, by their names.
    pub settings: Map<String, Value>,
    /// When the server started, in milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// Numbers the requests.
    pub requests: AtomicU64,
}

impl Desk {
    /// Sends an order and waits for its answer.
    ///
    /// # Errors
    ///
    /// `unavailable` where control has too much to do or the server stops.
    pub async fn ask(&self, order: Order) -> Result<Answer, Refusal> {
        let (reply, answer) = oneshot::channel();
        let command = Command {
            origin: Origin::Http(self.shard, reply),
            accepted_ns: self.clock.now().ns,
            task: Task::Order(order),
        };
        self.control.send(command).map_err(|_| Refusal::unavailable())?;
        answer.await.map_err(|_| Refusal::unavailable())
    }

    /// The newest views of some services, none for those that were never seen. Control is asked
    /// only where one of them is not shown.
    ///
    /// # Errors
    ///
    /// As [`Desk::ask`].
    pub async fn views(
        &self,
        services: Vec<ServiceName>,
    ) -> Result<Vec<Option<Arc<View>>>, Refusal> {
        let published = &self.office.published;
        let shown: Vec<_> =
            services.iter().map_while(|name| published.view(name).map(Some)).collect();
        if shown.len() == services.len() {
            return Ok(shown);
        }
        match self.ask(Order::Views(services)).await? {
            Answer::Views(views) => Ok(views),
            _ => Err(Refusal::internal()),
        }
    }

    /// Whether the server is about to stop.
    pub fn is_draining(&self) -> bool {
        self.office.is_draining.load(Ordering::Relaxed)
    }
}
