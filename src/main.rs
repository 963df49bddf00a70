//! The server's binary: settings, signals, and the commands beside the server.

mod cli;

use std::io::{IsTerminal as _, Write};
use std::process::ExitCode;

use fanfare::config::{Action, Config, LoadError, Loaded};
use fanfare::server::{Server, StartError};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// glibc keeps the memory of a disconnect storm in its arenas; mimalloc gives it back. The figures
/// are in PERF.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Wrong settings, as the shell's custom has it.
const EXIT_USAGE: u8 = 2;

#[allow(clippy::disallowed_methods, reason = "the environment is handed to `config` from here")]
fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // Colours are for eyes: in a file or a journal they are noise. https://no-color.org
    let is_colourful = std::io::stderr().is_terminal()
        && std::env::var("NO_COLOR").map_or(true, |no| no.is_empty());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(is_colourful)
        .with_writer(std::io::stderr)
        .init();
    let loaded = match Config::load(std::env::args(), |name| std::env::var(name).ok()) {
        Ok(loaded) => loaded,
        Err(LoadError::Usage(fault)) => fault.exit(),
        Err(fault) => {
            complain(&fault.to_string());
            return ExitCode::from(EXIT_USAGE);
        }
    };
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    match &loaded.action {
        Action::Serve => serve(&loaded),
        _ => cli::run(&loaded),
    }
}

fn complain(fault: &str) {
    // Without standard error there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "fanfare: {fault}");
}

fn serve(loaded: &Loaded) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(fault) => {
            complain(&fault.to_string());
            return ExitCode::FAILURE;
        }
    };
    // Before the server listens, so that no signal finds the default of dying at once.
    let guard = runtime.enter();
    let signals =
        [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
    let [Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)] = signals else {
        complain("signals cannot be listened for");
        return ExitCode::FAILURE;
    };
    drop(guard);
    let server = match Server::start(&loaded.config, &loaded.sources) {
        Ok(server) => server,
        Err(fault) => {
            complain(&fault.to_string());
            let is_setting = matches!(fault, StartError::Key(..) | StartError::Tls(..));
            return if is_setting { ExitCode::from(EXIT_USAGE) } else { ExitCode::FAILURE };
        }
    };
    let mut out = std::io::stdout();
    let scheme = if server.is_encrypted() { "https" } else { "http" };
    let line = format!("fanfare listening on {scheme}://{}\n", server.local_addr());
    if out.write_all(line.as_bytes()).and_then(|()| out.flush()).is_err() {
        tracing::warn!("standard output is closed");
    }
    while runtime.block_on(any([&mut terminate, &mut interrupt, &mut hangup])) == 2 {
        match server.reload_certificate() {
            Ok(true) => tracing::info!("certificate and key are read again"),
            Ok(false) => tracing::info!("hangup: there is no certificate to read again"),
            Err(fault) => tracing::error!(%fault, "the certificate stays as it was"),
        }
    }
    tracing::info!("stopping: clients are sent away");
    #[allow(clippy::disallowed_methods, reason = "the operator does not want to wait")]
    std::thread::spawn(move || {
        runtime.block_on(any([&mut terminate, &mut interrupt]));
        complain("second signal, stopping at once");
        std::process::exit(1);
    });
    server.stop();
    ExitCode::SUCCESS
}

/// The place of the first signal that comes.
async fn any<const N: usize>(mut signals: [&mut Signal; N]) -> usize {
    std::future::poll_fn(|context| {
        let came = signals.iter_mut().position(|signal| signal.poll_recv(context).is_ready());
        came.map_or(std::task::Poll::Pending, std::task::Poll::Ready)
    })
    .await
}
