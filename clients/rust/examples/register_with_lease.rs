//! Registers an instance, keeps its lease alive until Ctrl-C, and unregisters it.
//!
//! ```sh
//! cargo run --example register_with_lease -- orders orders-1 ws://127.0.0.1:8080
//! ```
//!
//! Stop the server and start it again: the instance comes back with it.

use fanfare_client::{Client, Instance};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let mut arg = |default: &str| args.next().unwrap_or_else(|| default.to_owned());
    let (service, name) = (arg("orders"), arg("orders-1"));
    let client = Client::builder().url(arg("ws://127.0.0.1:8080")).connect().await?;
    let lease = client.register(Instance {
        region_id: Some("home".into()),
        service_id: Some(service.into()),
        instance_id: Some(name.into()),
        url: Some("http://127.0.0.1:3000".into()),
        lease_ttl_ms: Some(5_000),
        ..Instance::default()
    })?;
    lease.registered().await?;
    println!("registered; Ctrl-C unregisters");
    tokio::signal::ctrl_c().await?;
    lease.unregister().await?;
    println!("unregistered");
    Ok(client.close().await?)
}
