//! Services for a program: a list that is kept up to date, and its changes.
//!
//! Imports `shared`, `state` and `handle::listener`. Imported by `handle::client`.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use fanfare_protocol::id::ServiceName;
use fanfare_protocol::instance::Instance;
use futures_core::Stream;
use parking_lot::Mutex;

use crate::error::Error;
use crate::event::{ServiceEvent, ServiceState};
use crate::handle::listener::Listener;
use crate::handle::picker::Picker;
use crate::shared::{Shared, ShutdownGuard};
use crate::state::State;

/// Keeps a service subscribed, or all of them, until it is dropped.
struct Interest {
    guard: Arc<ShutdownGuard>,
    /// None: all of them.
    service: Option<ServiceName>,
    picker: Mutex<Picker>,
}

impl Interest {
    fn new(guard: &Arc<ShutdownGuard>, service: Option<ServiceName>) -> Arc<Interest> {
        guard.0.update(|state| state.services.want(service.as_ref()));
        let settings = &guard.0.settings;
        let picker = Picker::new(settings.preference.clone(), settings.seed);
        Arc::new(Interest { guard: Arc::clone(guard), service, picker: Mutex::new(picker) })
    }

    fn shared(&self) -> &Shared {
        &self.guard.0
    }

    fn age(&self) -> Option<Duration> {
        let now = self.shared().clock.now().unix_ms;
        let state = self.shared().state.lock();
        let confirmed = state.services.confirmed_unix_ms(self.service.as_ref())?;
        Some(Duration::from_millis(now.saturating_sub(confirmed)))
    }

    fn is_live(&self) -> bool {
        self.shared().state.lock().services.is_live(self.service.as_ref())
    }

    async fn fresh(&self) -> Result<(), Error> {
        let service = self.service.as_ref();
        let check = |state: &mut State| {
            let directory = &state.services;
            let refusal = directory.error(service).filter(|error| !error.is_temporary());
            directory.is_live(service).then_some(Ok(())).or(refusal.map(Err))
        };
        self.shared().wait(check).await
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        self.shared().update(|state| state.services.release(self.service.as_ref()));
    }
}

/// One service, kept up to date while this or a stream of it lives. Cloning is cheap.
///
/// ```no_run
/// # async fn example() -> Result<(), fanfare_client::Error> {
/// use fanfare_client::Client;
///
/// let client = Client::builder().url("ws://localhost:8080").connect().await?;
/// let orders = client.watch_service("orders")?;
/// orders.ready().await?;
/// for instance in orders.instances() {
///     println!("{:?}, as of {:?} ago", instance.url, orders.age());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ServiceView {
    interest: Arc<Interest>,
    service: ServiceName,
}

impl ServiceView {
    pub(crate) fn new(guard: &Arc<ShutdownGuard>, service: ServiceName) -> ServiceView {
        ServiceView { interest: Interest::new(guard, Some(service.clone())), service }
    }

    /// The service's canonical name.
    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    /// The newest known state; none before the first. Instances are collected once a change, so
    /// that repeated calls are cheap.
    pub fn state(&self) -> Option<Arc<ServiceState>> {
        self.interest.shared().state.lock().services.state(&self.service)
    }

    /// The newest known instances.
    pub fn instances(&self) -> Vec<Arc<Instance>> {
        self.state().map_or_else(Vec::new, |state| state.instances.clone())
    }

    /// An instance to call: one that is up, by weight, near ones first, and among those the one that was not chosen
    /// for the longest time. None where there is none.
    ///
    /// [`Builder::prefer`](crate::Builder::prefer) sets which instances are near. The weight of an instance is 100 where it
    /// gives none, and one of weight 0 is not chosen. Clones of a view take turns together.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), fanfare_client::Error> {
    /// use fanfare_client::{Client, Preference};
    ///
    /// let near = Preference::for_zone("eu-1a").with_min(2);
    /// let client = Client::builder().url("ws://localhost:8080").prefer(near).connect().await?;
    /// let orders = client.watch_service("orders")?;
    /// orders.ready().await?;
    /// let instance = orders.pick().expect("somebody is up");
    /// println!("call {:?}", instance.url);
    /// # Ok(())
    /// # }
    /// ```
    pub fn pick(&self) -> Option<Arc<Instance>> {
        let state = self.state()?;
        self.interest.picker.lock().pick(&state)
    }

    /// The time since the state was last confirmed. While the server is connected, that is when its
    /// last message came, at most the keepalive and a timeout ago. None if nothing is known.
    pub fn age(&self) -> Option<Duration> {
        self.interest.age()
    }

    /// Whether the state is not being kept up to date now: there is no connection, or a new
    /// snapshot is on its way.
    pub fn is_stale(&self) -> bool {
        !self.interest.is_live()
    }

    /// Waits until some state is known, even an old one from the cache file.
    ///
    /// # Errors
    ///
    /// The server's refusal, or the reason why the client has ended.
    pub async fn ready(&self) -> Result<(), Error> {
        let service = Some(&self.service);
        let check = |state: &mut State| {
            if state.services.confirmed_unix_ms(service).is_some() {
                return Some(Ok(()));
            }
            state.services.error(service).filter(|error| !error.is_temporary()).map(Err)
        };
        self.interest.shared().wait(check).await
    }

    /// Waits until the state is the registry's and is kept up to date.
    ///
    /// # Errors
    ///
    /// The server's refusal, or the reason why the client has ended.
    pub async fn fresh(&self) -> Result<(), Error> {
        self.interest.fresh().await
    }

    /// The known state, then its changes.
    ///
    /// An unread stream holds as many events as the client's settings allow. Then they are dropped,
    /// and the newest state comes in their place.
    pub fn changes(&self) -> Changes {
        Changes::new(&self.interest)
    }

    /// Calls a function with every event, in a task of its own, until the listener is dropped. The connection
    /// does not wait for the function.
    pub fn on_change(&self, call: impl FnMut(ServiceEvent) + Send + 'static) -> Listener {
        Listener::start(&self.interest.guard, self.changes(), call)
    }
}

/// Every service of the registry, also those to come. Cloning is cheap.
///
/// Its first state comes over HTTP; changes after that over the socket.
///
/// ```no_run
/// # async fn example(client: fanfare_client::Client) -> Result<(), fanfare_client::Error> {
/// let all = client.watch_all();
/// all.fresh().await?;
/// for service in all.states() {
///     println!("{}: {} instances", service.service, service.instances.len());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct AllServices {
    interest: Arc<Interest>,
}

impl AllServices {
    pub(crate) fn new(guard: &Arc<ShutdownGuard>) -> AllServices {
        AllServices { interest: Interest::new(guard, None) }
    }

    /// The newest state of a service; none if it is unknown.
    pub fn state(&self, service: &str) -> Option<Arc<ServiceState>> {
        self.interest.shared().state.lock().services.state(&ServiceName::of(service))
    }

    /// The newest state of every service, in the order of their names.
    pub fn states(&self) -> Vec<Arc<ServiceState>> {
        self.interest.shared().state.lock().services.states()
    }

    /// As [`ServiceView::age`]; of the oldest if they differ.
    pub fn age(&self) -> Option<Duration> {
        self.interest.age()
    }

    /// As [`ServiceView::is_stale`].
    pub fn is_stale(&self) -> bool {
        !self.interest.is_live()
    }

    /// Waits until every service is known and kept up to date.
    ///
    /// # Errors
    ///
    /// The server's refusal, or the reason why the client has ended.
    pub async fn fresh(&self) -> Result<(), Error> {
        self.interest.fresh().await
    }

    /// The known state of every service, then the changes. A slow reader gets the newest state of
    /// each service with dropped changes.
    pub fn changes(&self) -> Changes {
        Changes::new(&self.interest)
    }

    /// As [`ServiceView::on_change`].
    pub fn on_change(&self, call: impl FnMut(ServiceEvent) + Send + 'static) -> Listener {
        Listener::start(&self.interest.guard, self.changes(), call)
    }
}

/// A stream of the events of one service or of all. It ends when the client does.
///
/// It is a [`Stream`]; [`Changes::next`] needs no further crate.
///
/// ```no_run
/// # async fn example(client: fanfare_client::Client) -> Result<(), fanfare_client::Error> {
/// use fanfare_client::ServiceEvent;
///
/// let mut changes = client.watch_service("orders")?.changes();
/// while let Some(event) = changes.next().await {
///     if let ServiceEvent::Changed(change) = event {
///         println!("{} is at revision {}", change.service, change.revision);
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub struct Changes {
    interest: Arc<Interest>,
    key: u64,
}

impl Changes {
    fn new(interest: &Arc<Interest>) -> Changes {
        let shared = interest.shared();
        let max = shared.settings.queue_events_max;
        let mut state = shared.state.lock();
        let key = state.new_key();
        state.services.open_feed(key, interest.service.clone(), max);
        if state.ended.is_some() {
            state.services.close();
        }
        drop(state);
        Changes { interest: Arc::clone(interest), key }
    }

    /// The next event; none after the last.
    pub async fn next(&mut self) -> Option<ServiceEvent> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for Changes {
    type Item = ServiceEvent;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ServiceEvent>> {
        self.interest.shared().state.lock().services.poll(self.key, cx)
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.interest.shared().state.lock().services.close_feed(self.key);
    }
}
