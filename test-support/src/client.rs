//! The Rust client in tests: connected to a server, waited for, compared with the registry.
//!
//! Imports `server` and the root. Imported by tests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fanfare_client::{Builder, Client, Instance, ServiceState};
use serde_json::Value;

use crate::{Server, instance, token_for};

/// How long a test waits for anything.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Whether a client's state is exactly the registry's.
pub fn agrees(server: &Server, state: Option<&Arc<ServiceState>>) -> bool {
    let Some(state) = state else { return false };
    let path = format!("/api/discovery/service.json?serviceId={}", state.service);
    picture(state) == discovered(&server.get(&path).body["service"])
}

type Picture = (String, u64, bool, BTreeMap<String, Value>);

fn by_name(instances: impl Iterator<Item = Value>) -> BTreeMap<String, Value> {
    let name = |one: &Value| format!("{}/{}", one["regionId"], one["instanceId"]);
    instances.map(|one| (name(&one), one)).collect()
}

fn picture(state: &ServiceState) -> Picture {
    let value = |one: &Arc<Instance>| serde_json::to_value(&**one).expect("JSON");
    let instances = by_name(state.instances.iter().map(value));
    (state.epoch.to_string(), state.revision, state.is_degraded, instances)
}

fn discovered(service: &Value) -> Picture {
    let instances = service["instances"].as_array().cloned().unwrap_or_default();
    (
        service["epoch"].as_str().unwrap_or_default().to_owned(),
        service["revision"].as_u64().unwrap_or_default(),
        service["degraded"].as_bool().unwrap_or_default(),
        by_name(instances.into_iter()),
    )
}

/// A client of a server, with waits that suit a test.
pub fn builder(url: &str) -> Builder {
    Client::builder().url(url).backoff(Duration::from_millis(20), Duration::from_millis(200))
}

/// A client that is connected.
pub async fn connect(url: &str) -> Client {
    builder(url).connect().await.expect("the server is there")
}

/// A client that is signed in.
pub async fn connect_as(url: &str, user: &str) -> Client {
    builder(url).token(token(user, 3_600, "")).connect().await.expect("the server is there")
}

/// Waits until a condition holds.
pub async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for a future, with a bound.
pub async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("never: {what}"))
}

/// A token of a user that ends after so many seconds.
pub fn token(user: &str, seconds: u64, scope: &str) -> String {
    token_for(user, user, seconds, scope)
}

/// An instance with the usual fields, for a client.
pub fn described(service: &str, name: &str) -> Instance {
    serde_json::from_value(instance(service, name)).expect("an instance")
}
