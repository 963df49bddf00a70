//! An instance that a program stands for.
//!
//! Imports `id`, `wire::instance` and its siblings.

use std::sync::Arc;

use crate::error::Error;
use crate::shared::Keeper;
use fanfare_protocol::id::InstanceIdentity;
use fanfare_protocol::instance::Instance;

/// An instance in the registry, for as long as this lives.
///
/// Its lease is renewed three times in its length, together with the client's other leases. It is
/// registered again where the server has forgotten it. Dropping this unregisters it.
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
    keeper: Arc<Keeper>,
    key: u64,
    identity: InstanceIdentity,
    is_released: bool,
}

impl Lease {
    pub(crate) fn new(keeper: &Arc<Keeper>, instance: Instance) -> Result<Lease, Error> {
        let (key, identity) = keeper.0.want(|state| {
            if let Some(error) = &state.ended {
                return Err(error.clone());
            }
            let key = state.new_key();
            state.leases.add(key, instance).map(|identity| (key, identity))
        })?;
        Ok(Lease { keeper: Arc::clone(keeper), key, identity, is_released: false })
    }

    /// Waits until the server has it.
    ///
    /// # Errors
    ///
    /// Why the server does not want it, or why the client has ended.
    pub async fn registered(&self) -> Result<(), Error> {
        self.keeper.0.wait(|state| state.leases.outcome(&self.identity)).await
    }

    /// Whether the server had it when it was last heard of.
    pub fn is_registered(&self) -> bool {
        matches!(self.keeper.0.state.lock().leases.outcome(&self.identity), Some(Ok(())))
    }

    /// How often the server has taken it in: 1, and one more each time it had forgotten it or the
    /// instance was changed.
    pub fn registrations(&self) -> u64 {
        self.keeper.0.state.lock().leases.registrations(&self.identity)
    }

    /// Describes the instance otherwise. Region, service and instance id stay.
    ///
    /// # Errors
    ///
    /// What is wrong with it, or that it is another instance.
    pub fn update(&self, instance: Instance) -> Result<(), Error> {
        let identity = instance.key().identity().map_err(Error::Invalid)?;
        if identity != self.identity {
            return Err(Error::invalid("that is another instance: register it"));
        }
        self.keeper.0.want(|state| state.leases.add(self.key, instance)).map(|_| ())
    }

    /// Unregisters it and waits until the server has done so.
    ///
    /// # Errors
    ///
    /// That it was not done within the timeout for requests. It is tried again on the next
    /// connection, and the lease expires in any case.
    pub async fn unregister(mut self) -> Result<(), Error> {
        self.release(true);
        let shared = &self.keeper.0;
        let gone = shared.wait(|state| (!state.leases.has(&self.identity)).then_some(Ok(())));
        let patience = shared.settings.request_timeout;
        tokio::time::timeout(patience, gone).await.map_err(|_| Error::Timeout)?
    }

    /// Renews it no longer and lets it expire, for a program that another one takes over from.
    pub fn leave_to_expire(mut self) {
        self.release(false);
    }

    fn release(&mut self, is_told: bool) {
        if !std::mem::replace(&mut self.is_released, true) {
            self.keeper.0.want(|state| state.leases.release(self.key, &self.identity, is_told));
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.release(true);
    }
}
