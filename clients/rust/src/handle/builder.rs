//! The settings of a client, and its start.
//!
//! Imports `connection`, `settings`, `shared` and `handle::client`. Imported by the root.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use fanfare_protocol::preference::Preference;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};

use crate::address::Address;
use crate::clock::Clock;
use crate::connection::{cache, driver};
use crate::error::Error;
use crate::handle::client::Client;
use crate::settings::Settings;
use crate::shared::{Shared, ShutdownGuard, Status};
use crate::state::State;
use crate::transport::token::{self, BoxError, TokenSource};

/// Requests of handles that wait for the driver.
const REQUESTS_MAX: usize = 64;

/// Sets up a client. Made by [`Client::builder`].
///
/// | setting | default | bounds |
/// |---|---|---|
/// | [`url`](Builder::url) | none, one is needed | |
/// | [`connect_timeout`](Builder::connect_timeout) | 10 s | 10 ms to an hour |
/// | [`request_timeout`](Builder::request_timeout) | 10 s | 10 ms to an hour |
/// | [`keepalive`](Builder::keepalive) | 15 s | 10 ms to an hour |
/// | [`backoff`](Builder::backoff) | 0.5 s to 20 s | 1 ms to an hour |
/// | [`queue_events_max`](Builder::queue_events_max) | 256 | at least 1 |
/// | [`message_bytes_max`](Builder::message_bytes_max) | 64 MiB | at least 64 KiB |
/// | [`messages_per_s_max`](Builder::messages_per_s_max) | 90 | 0 = no limit |
/// | [`prefer`](Builder::prefer) | nobody | names of at most 255 bytes |
#[must_use = "a builder does nothing until `connect` or `start`"]
pub struct Builder {
    urls: Vec<String>,
    settings: Settings,
}

impl Client {
    /// Begins to set up a client.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), fanfare_client::Error> {
    /// let client = fanfare_client::Client::builder()
    ///     .urls(["ws://one.example:8080", "ws://two.example:8080"])
    ///     .login("ann", "correct horse")
    ///     .cache_file("/var/lib/shop/services.json")
    ///     .connect()
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder() -> Builder {
        Builder::new()
    }
}

impl Builder {
    fn new() -> Builder {
        let settings = Settings {
            servers: Vec::new(),
            token: TokenSource::None,
            cache_file: None,
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(10),
            keepalive: Duration::from_secs(15),
            backoff: (Duration::from_millis(500), Duration::from_secs(20)),
            queue_events_max: 256,
            message_bytes_max: 64 << 20,
            messages_per_s_max: 90,
            preference: Preference::default(),
            seed: uuid::Uuid::new_v4().as_u64_pair().0,
        };
        Builder { urls: Vec::new(), settings }
    }

    /// Adds a server: `ws://host:port`, also `wss`, `http` or `https`; the path is `/ws` unless it
    /// is given. `wss` and `https` need the cargo feature `tls`.
    ///
    /// With several, the client tries the next one when a server does not answer or sends it away.
    pub fn url(mut self, url: impl Into<String>) -> Builder {
        self.urls.push(url.into());
        self
    }

    /// Adds several servers, in the order in which they are tried.
    pub fn urls<T: Into<String>>(mut self, urls: impl IntoIterator<Item = T>) -> Builder {
        self.urls.extend(urls.into_iter().map(Into::into));
        self
    }

    /// Signs in with a token. The client ends when the token expires.
    pub fn token(mut self, token: impl Into<String>) -> Builder {
        self.settings.token = TokenSource::Fixed(token.into().into());
        self
    }

    /// Signs in with tokens from a closure. The client calls it before each token's end, so that
    /// the connection lives on, and when the server wants another one.
    ///
    /// ```
    /// use fanfare_client::Client;
    ///
    /// let builder = Client::builder().url("ws://localhost:8080").token_source(|| async {
    ///     Ok(tokio::fs::read_to_string("/run/secrets/fanfare").await?.trim().to_owned())
    /// });
    /// ```
    pub fn token_source<F, T>(mut self, fetch: F) -> Builder
    where
        F: Fn() -> T + Send + Sync + 'static,
        T: Future<Output = Result<String, BoxError>> + Send + 'static,
    {
        self.settings.token = TokenSource::fetching(fetch);
        self
    }

    /// Signs in with an account of the server; the client gets tokens, renews them before their
    /// end, and replaces them when needed.
    pub fn login(mut self, username: impl Into<String>, password: impl Into<String>) -> Builder {
        let (username, password) = (username.into().into(), password.into().into());
        self.settings.token = TokenSource::Login { username, password };
        self
    }

    /// Keeps the known services in a file, for the next start: they are then there, with their age,
    /// before any server is. Written whole at most once a second.
    pub fn cache_file(mut self, path: impl Into<PathBuf>) -> Builder {
        self.settings.cache_file = Some(path.into());
        self
    }

    /// The time for connecting, for the welcome, and for the answer to a ping.
    pub fn connect_timeout(mut self, timeout: Duration) -> Builder {
        self.settings.connect_timeout = timeout;
        self
    }

    /// How long a request waits for a connection and its answer.
    pub fn request_timeout(mut self, timeout: Duration) -> Builder {
        self.settings.request_timeout = timeout;
        self
    }

    /// The silence of a server after which it is pinged.
    pub fn keepalive(mut self, silence: Duration) -> Builder {
        self.settings.keepalive = silence;
        self
    }

    /// The pause before the next attempt. It is random, from nothing to a bound, which begins at
    /// `min` and doubles to `max` while no server of the list can be reached.
    pub fn backoff(mut self, min: Duration, max: Duration) -> Builder {
        self.settings.backoff = (min, max);
        self
    }

    /// The most events that wait for the reader of a stream.
    pub fn queue_events_max(mut self, events: usize) -> Builder {
        self.settings.queue_events_max = events;
        self
    }

    /// Largest message accepted from a server, in bytes. A snapshot of a service is one message.
    pub fn message_bytes_max(mut self, bytes: usize) -> Builder {
        self.settings.message_bytes_max = bytes;
        self
    }

    /// Messages sent in a second, after a burst of 150. More messages wait. The default is below
    /// the bounds of servers with default settings.
    pub fn messages_per_s_max(mut self, messages: u32) -> Builder {
        self.settings.messages_per_s_max = messages;
        self
    }

    /// Whose instances [`ServiceView::pick`](crate::ServiceView::pick) chooses first: those of a zone, of a region, or
    /// of both. While fewer than its `min` are up there (1 where it gives none), those further away are chosen too.
    pub fn prefer(mut self, preference: Preference) -> Builder {
        self.settings.preference = preference;
        self
    }

    /// Starts the client and waits for its first connection.
    ///
    /// # Errors
    ///
    /// Those of [`Builder::start`]; a final refusal; and the last fault if there was no connection
    /// within the timeout for connecting.
    pub async fn connect(self) -> Result<Client, Error> {
        let patience = self.settings.connect_timeout;
        let client = self.start()?;
        let mut last = Error::Timeout;
        let connected = async {
            let mut status = client.watch_status();
            loop {
                match &*status.borrow_and_update() {
                    Status::Connected { .. } => return Ok(()),
                    Status::Closed(error) => return Err(error.clone()),
                    Status::Waiting { error, .. } => last = error.clone(),
                    Status::Connecting => {}
                }
                status.changed().await.map_err(|_| Error::Stopped)?;
            }
        };
        match tokio::time::timeout(patience, connected).await {
            Ok(result) => result.map(|()| client),
            Err(_) => Err(last),
        }
    }

    /// Starts the client, which connects in the background. Requests wait until then.
    ///
    /// # Errors
    ///
    /// An invalid setting, or no tokio runtime to run in.
    pub fn start(self) -> Result<Client, Error> {
        let settings = self.check()?;
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|_| Error::invalid("a client needs a tokio runtime to start in"))?;
        let mut state = State::default();
        if let Some(path) = &settings.cache_file {
            state.services.load(cache::load(path));
        }
        let (requests, taken) = mpsc::channel(REQUESTS_MAX);
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            wake: Notify::new(),
            changed: Notify::new(),
            requests,
            settings,
            runtime: runtime.clone(),
            clock: Clock::start(),
            status: watch::Sender::new(Status::Connecting),
            token: Mutex::new(None),
            current: AtomicUsize::new(0),
        });
        runtime.spawn(driver::run(Arc::clone(&shared), taken));
        Ok(Client::new(Arc::new(ShutdownGuard(shared))))
    }

    fn check(self) -> Result<Settings, Error> {
        let mut settings = self.settings;
        for url in &self.urls {
            settings.servers.push(Address::parse(url)?);
        }
        if settings.servers.is_empty() {
            return Err(Error::invalid("no server: at least one URL is needed"));
        }
        let hour = Duration::from_hours(1);
        let (min, max) = settings.backoff;
        for (name, value, least_ms) in [
            ("connect_timeout", settings.connect_timeout, 10),
            ("request_timeout", settings.request_timeout, 10),
            ("keepalive", settings.keepalive, 10),
            ("backoff's minimum", min, 1),
            ("backoff's maximum", max, 1),
        ] {
            if value < Duration::from_millis(least_ms) || value > hour {
                return Err(Error::invalid(format!("{name} is not {least_ms} ms to an hour")));
            }
        }
        if settings.queue_events_max == 0 {
            return Err(Error::invalid("queue_events_max is 0"));
        }
        if let Err(fault) = settings.preference.check() {
            return Err(Error::invalid(fault));
        }
        if settings.message_bytes_max < 64 * 1_024 {
            return Err(Error::invalid("message_bytes_max is below 64 KiB"));
        }
        if let TokenSource::Fixed(token) = &settings.token
            && !token::is_header_safe(token)
        {
            return Err(Error::invalid("the token does not fit a header"));
        }
        Ok(settings)
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = &self.settings.token;
        f.debug_struct("Builder").field("urls", &self.urls).field("token", token).finish()
    }
}
