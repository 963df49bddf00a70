//! Samples the server's counters once a second, and publishes them while they have a subscriber.
//!
//! Consoles then cost one JSON object a second, however many are open, and none costs nothing.
//!
//! Imports its siblings, `http` and `limits`. Part of `server`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Common, Handle};
use crate::http::status;
use crate::limits;

pub(super) fn start(handle: Handle, common: Common) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    std::thread::Builder::new().name(String::from("monitor")).spawn(move || {
        runtime.block_on(async move {
            let stop = Arc::clone(&common.signals.monitor_stop);
            let pause = Duration::from_millis(limits::SAMPLE_INTERVAL_MS);
            while !common.signals.is_draining.load(Ordering::Relaxed) {
                let now_ms = common.clock.now().unix_ms;
                common.app.recent.write().sample(&common.app.stats, now_ms);
                publish(&handle, &common).await;
                // Woken or not: the loop checks.
                let _ = tokio::time::timeout(pause, stop.notified()).await;
            }
        });
    })
}

async fn publish(handle: &Handle, common: &Common) {
    let followers = handle.channel_count(limits::STATS_CHANNEL).await;
    if !matches!(followers, Ok(Some(count)) if count > 0) {
        return;
    }
    let stats = status::socket_stats(&common.app, common.clock.now());
    if let Err(fault) = handle.send_event(limits::STATS_CHANNEL, "stats", stats).await {
        // The next second has newer numbers.
        tracing::debug!(%fault, "the counters were not published");
    }
}
