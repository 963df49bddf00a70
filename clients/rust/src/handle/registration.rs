//! An instance that a program keeps registered.
//!
//! Imports `shared`. Imported by `handle::client`.

use std::sync::Arc;

use fanfare_protocol::id::InstanceIdentity;
use fanfare_protocol::instance::Instance;

use crate::error::Error;
use crate::shared::ShutdownGuard;

/// An instance in the registry, for as long as this lives.
///
/// Its lease is renewed three times in its length, together with the client's other leases. It is
/// registered again if the server has forgotten it. Dropping this unregisters it.
///
/// ```no_run
/// # async fn example(client: fanfare_client::Client) -> Result<(), fanfare_client::Error> {
/// use fanfare_client::Instance;
///
/// let lease = client.register(Instance {
///     service_id: Some("orders".into()),
///     instance_id: Some("orders-1".into()),
///     url: Some("http://10.0.0.7:8080".into()),
///     ..Instance::default()
/// })?;
/// lease.registered().await?;
/// // ... serve ...
/// lease.unregister().await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping it unregisters the instance"]
pub struct Lease {
    guard: Arc<ShutdownGuard>,
    key: u64,
    identity: InstanceIdentity,
    is_released: bool,
}

impl Lease {
    pub(crate) fn new(guard: &Arc<ShutdownGuard>, instance: Instance) -> Result<Lease, Error> {
        let (key, identity) = guard.0.update(|state| {
            if let Some(error) = &state.ended {
                return Err(error.clone());
            }
            let key = state.new_key();
            state.leases.add(key, instance).map(|identity| (key, identity))
        })?;
        Ok(Lease { guard: Arc::clone(guard), key, identity, is_released: false })
    }

    /// Waits until it is registered.
    ///
    /// # Errors
    ///
    /// The server's refusal, or the reason why the client has ended.
    pub async fn registered(&self) -> Result<(), Error> {
        self.guard.0.wait(|state| state.leases.outcome(&self.identity)).await
    }

    /// Whether it was registered when the server last answered.
    pub fn is_registered(&self) -> bool {
        matches!(self.guard.0.state.lock().leases.outcome(&self.identity), Some(Ok(())))
    }

    /// The number of registrations: 1, and one more each time the server had forgotten it or the
    /// instance was changed.
    pub fn registrations(&self) -> u64 {
        self.guard.0.state.lock().leases.registrations(&self.identity)
    }

    /// Replaces the description of the instance. Region, service and instance id stay.
    ///
    /// # Errors
    ///
    /// The fault of the instance, or that it is another one.
    pub fn update(&self, instance: Instance) -> Result<(), Error> {
        let identity = instance.key().identity().map_err(Error::Invalid)?;
        if identity != self.identity {
            return Err(Error::invalid("that is another instance: register it"));
        }
        self.guard.0.update(|state| state.leases.add(self.key, instance)).map(|_| ())
    }

    /// Unregisters it and waits for the server's answer.
    ///
    /// # Errors
    ///
    /// That it was not done within the timeout for requests. The client tries again on the next
    /// connection, and the lease expires in any case.
    pub async fn unregister(mut self) -> Result<(), Error> {
        self.release(true);
        let shared = &self.guard.0;
        let gone = shared.wait(|state| (!state.leases.has(&self.identity)).then_some(Ok(())));
        let patience = shared.settings.request_timeout;
        tokio::time::timeout(patience, gone).await.map_err(|_| Error::Timeout)?
    }

    /// Stops renewing it and lets it expire. For a program whose successor keeps the same instance registered.
    pub fn leave_to_expire(mut self) {
        self.release(false);
    }

    fn release(&mut self, is_told: bool) {
        if !std::mem::replace(&mut self.is_released, true) {
            self.guard.0.update(|state| state.leases.release(self.key, &self.identity, is_told));
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.release(true);
    }
}
