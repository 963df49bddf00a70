//! The server in the foreground: signals, the first line on standard output, the exit status.
//!
//! Imports `config`, `logging` and `server`. Imported by `cli`.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{EXIT_USAGE, complain};
use crate::config::Loaded;
use crate::limits;
use crate::logging::LogGuard;
use crate::server::Server;

pub(super) fn serve(loaded: &Loaded, log: Option<&LogGuard>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(fault) => {
            complain(&fault.to_string());
            return ExitCode::FAILURE;
        }
    };
    // Before the server listens, so that no signal meets the default of ending the process at once.
    let guard = runtime.enter();
    let signals =
        [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
    let [Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)] = signals else {
        complain("signals cannot be listened for");
        return ExitCode::FAILURE;
    };
    drop(guard);
    let is_started = Arc::new(AtomicBool::new(false));
    if let Err(fault) = end_slow_start(Arc::clone(&is_started)) {
        complain(&fault.to_string());
        return ExitCode::FAILURE;
    }
    let server = match Server::start(&loaded.config, &loaded.sources) {
        Ok(server) => server,
        Err(fault) => {
            complain(&fault.to_string());
            return if fault.is_setting() { ExitCode::from(EXIT_USAGE) } else { ExitCode::FAILURE };
        }
    };
    is_started.store(true, Ordering::SeqCst);
    // Messages of the start are in the log before the line that reports its end.
    log.inspect(|log| log.flush());
    let mut out = std::io::stdout();
    let scheme = if server.is_encrypted() { "https" } else { "http" };
    let line = format!("fanfare listening on {scheme}://{}\n", server.local_addr());
    if out.write_all(line.as_bytes()).and_then(|()| out.flush()).is_err() {
        tracing::warn!(target: "fanfare", "standard output is closed");
    }
    while runtime.block_on(any([&mut terminate, &mut interrupt, &mut hangup])) == 2 {
        let has_keys = server.reload_token_keys();
        match server.reload_certificate() {
            Ok(false) if has_keys => {}
            Ok(true) => tracing::info!(target: "fanfare", "certificate and key are read again"),
            Ok(false) => {
                tracing::info!(target: "fanfare", "hangup: there is neither a certificate nor a key set to read again");
            }
            Err(fault) => {
                tracing::error!(target: "fanfare", %fault, "the certificate stays as it was");
            }
        }
    }
    tracing::info!(target: "fanfare", "signal received: stopping");
    #[allow(clippy::disallowed_methods, reason = "the operator does not want to wait")]
    std::thread::spawn(move || {
        runtime.block_on(any([&mut terminate, &mut interrupt]));
        complain("second signal, stopping at once");
        std::process::exit(1);
    });
    server.stop();
    ExitCode::SUCCESS
}

/// A start that hangs, because a database or Redis does not answer, still ends in time on a signal.
/// A start that succeeds is stopped as any server is.
fn end_slow_start(is_started: Arc<AtomicBool>) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let guard = runtime.enter();
    let signals = [SignalKind::terminate(), SignalKind::interrupt()].map(signal);
    drop(guard);
    let [Ok(mut terminate), Ok(mut interrupt)] = signals else {
        return Err(std::io::Error::other("signals cannot be listened for"));
    };
    std::thread::Builder::new().name(String::from("slow-start")).spawn(move || {
        runtime.block_on(async {
            any([&mut terminate, &mut interrupt]).await;
            if is_started.load(Ordering::SeqCst) {
                return;
            }
            let patience_ms = limits::DRAIN_MS_MAX - limits::STOP_RESERVE_MS;
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(patience_ms)) => {}
                _ = any([&mut terminate, &mut interrupt]) => {}
            }
            if !is_started.load(Ordering::SeqCst) {
                complain("stopped before it had started: nothing was accepted, nothing is lost");
                #[allow(clippy::disallowed_methods, reason = "nothing has been accepted yet")]
                std::process::exit(0);
            }
        });
    })?;
    Ok(())
}

/// The index of the first signal that arrives.
async fn any<const N: usize>(mut signals: [&mut Signal; N]) -> usize {
    std::future::poll_fn(|context| {
        let came = signals.iter_mut().position(|signal| signal.poll_recv(context).is_ready());
        came.map_or(std::task::Poll::Pending, std::task::Poll::Ready)
    })
    .await
}
