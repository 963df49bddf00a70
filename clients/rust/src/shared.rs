//! The state that the handles of a client and its connection share.
//!
//! The handles store the wanted state and wake the driver; the driver stores the known state and
//! wakes the readers. So nothing is lost while there is no connection, and nothing needs a queue
//! without a bound.
//!
//! Imports `clock`, `frame`, `settings`, `state` and `transport`. Imported by `connection` and `handle`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::address::Address;
use crate::clock::Clock;
use crate::error::Error;
use crate::frame::Frame;
use crate::settings::Settings;
use crate::state::State;

/// Whether a client is connected.
///
/// ```no_run
/// # async fn example(client: fanfare_client::Client) {
/// use fanfare_client::Status;
///
/// let mut status = client.watch_status();
/// while status.changed().await.is_ok() {
///     match &*status.borrow_and_update() {
///         Status::Connected { url, .. } => println!("connected to {url}"),
///         Status::Waiting { error, wait } => println!("{error}; again in {wait:?}"),
///         other => println!("{other:?}"),
///     }
/// }
/// # }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Status {
    /// A connection is being made.
    Connecting,
    /// A connection is open.
    Connected {
        /// The server's URL.
        url: String,
        /// The server's id of this connection.
        connection_id: String,
        /// The id of the server.
        node_id: String,
        /// The user that the client is signed in as.
        user_id: Option<String>,
    },
    /// The next attempt follows after a pause.
    Waiting {
        /// Why the last connection ended, or failed.
        error: Error,
        /// Time from the moment this status was set to the next attempt.
        wait: Duration,
    },
    /// The client has ended.
    Closed(Error),
}

impl Status {
    /// Whether a connection is open.
    pub fn is_connected(&self) -> bool {
        matches!(self, Status::Connected { .. })
    }
}

/// A request of a handle, which awaits the answer.
pub(crate) struct HandleRequest {
    /// The message, without its id.
    pub(crate) body: Map<String, Value>,
    /// The id that it has to carry, if its receivers see it.
    pub(crate) id: Option<String>,
    /// The channel of a publication whose message does not come back.
    pub(crate) silent: Option<Box<str>>,
    pub(crate) reply: oneshot::Sender<Result<Frame, Error>>,
}

/// What a client's handles and its driver share.
pub(crate) struct Shared {
    pub(crate) state: Mutex<State>,
    /// Wakes the driver.
    pub(crate) wake: Notify,
    /// Wakes the tasks that wait for a condition of the state.
    pub(crate) changed: Notify,
    pub(crate) requests: mpsc::Sender<HandleRequest>,
    pub(crate) settings: Settings,
    /// The runtime of tasks that a handle starts.
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) clock: Clock,
    pub(crate) status: watch::Sender<Status>,
    /// The token of the open connection, or of the last one.
    pub(crate) token: Mutex<Option<Arc<str>>>,
    /// The server of the list that the client tries, or is connected to.
    pub(crate) current: AtomicUsize,
}

impl Shared {
    /// The server of the list that the client is connected to.
    pub(crate) fn address(&self) -> &Address {
        let index = self.current.load(Ordering::Relaxed);
        &self.settings.servers[index % self.settings.servers.len()]
    }

    pub(crate) fn advance(&self) {
        self.current.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn token(&self) -> Option<Arc<str>> {
        self.token.lock().clone()
    }

    /// Changes the wanted state, and wakes the driver.
    pub(crate) fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.lock());
        self.wake.notify_one();
        result
    }

    /// Waits until a condition holds.
    pub(crate) async fn wait<T>(
        &self,
        mut check: impl FnMut(&mut State) -> Option<Result<T, Error>>,
    ) -> Result<T, Error> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Before the check, so that no change falls in between.
            changed.as_mut().enable();
            {
                let mut state = self.state.lock();
                if let Some(result) = check(&mut state) {
                    return result;
                }
                if let Some(error) = &state.ended {
                    return Err(error.clone());
                }
            }
            changed.await;
        }
    }

    /// Sends a request and waits for its answer, for as long as the settings allow.
    pub(crate) async fn request(
        &self,
        body: Map<String, Value>,
        id: Option<String>,
        silent: Option<Box<str>>,
    ) -> Result<Frame, Error> {
        let (reply, answer) = oneshot::channel();
        let request = HandleRequest { body, id, silent, reply };
        let asked = async {
            self.requests.send(request).await.map_err(|_| Error::Stopped)?;
            answer.await.map_err(|_| Error::Stopped)?
        };
        let patience = self.settings.request_timeout;
        tokio::time::timeout(patience, asked).await.map_err(|_| Error::Timeout)?
    }
}

/// Ends the client when the last handle of it is dropped.
pub(crate) struct ShutdownGuard(pub(crate) Arc<Shared>);

impl Drop for ShutdownGuard {
    fn drop(&mut self) {
        self.0.update(|state| state.is_stopping = true);
    }
}
