//! A live dashboard: this program runs the server, measures itself once a second, and every socket
//! that follows `dashboard:process` sees it.
//!
//! ```sh
//! cargo run --example live_dashboard
//! ```
//!
//! Then, on the socket that it prints: `{"type":"subscribe","channel":"dashboard:process"}`.

use std::time::Duration;

use fanfare::config::{Config, Sources};
use fanfare::server::{Delivery, Handle, Server};
use serde_json::json;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = Config {
        data_dir: std::env::temp_dir().join("fanfare-live-dashboard"),
        ..Config::default()
    };
    let server = Server::start(&config, &Sources::default())?;
    println!("ws://{}/ws", server.local_addr());
    let handle = server.handle();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        tokio::select! {
            result = measure(&handle) => result,
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    });
    server.stop();
    result.map_err(Into::into)
}

async fn measure(handle: &Handle) -> Result<(), fanfare::server::CallError> {
    // Whoever looks later finds what the board is for.
    if handle.channel_count("dashboard:process").await?.is_none() {
        handle.create_channel("dashboard:process", "this program, once a second").await?;
    }
    let mut second = 0_u64;
    loop {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load: f64 = load.split(' ').next().and_then(|one| one.parse().ok()).unwrap_or(0.0);
        let metrics = json!({
            "second": second,
            "load": load,
            "connections": handle.connection_count(),
        });
        let (_, reached) = handle.send_event("dashboard:process", "metrics", metrics).await?;
        if reached == 0 && second.is_multiple_of(10) {
            let hint = "subscribe to dashboard:process";
            handle.broadcast("hint", json!({"content": hint}), Delivery::default()).await?;
        }
        second += 1;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
