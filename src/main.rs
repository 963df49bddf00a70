//! The server's binary: settings, signals, and nothing else.

use std::io::Write;
use std::process::ExitCode;

use fanfare::auth::{self, Authenticator, Claims};
use fanfare::clock::Clock;
use fanfare::config::{Action, Config, LoadError, Loaded};
use fanfare::server::Server;
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
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
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
        Action::Token { user, username, scope, ttl_s } => {
            let claims = Claims {
                sub: user.clone(),
                username: username.clone(),
                scope: scope.clone(),
                ..Claims::default()
            };
            print_token(&loaded.config, claims, *ttl_s)
        }
    }
}

fn complain(fault: &str) {
    // Without standard error there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "fanfare: {fault}");
}

fn print_token(config: &Config, mut claims: Claims, ttl_s: u64) -> ExitCode {
    let secret = match &config.jwt_secret {
        Some(secret) => Ok(secret.clone().into_bytes()),
        None => auth::secret_from_data_dir(&config.data_dir),
    };
    match secret {
        Ok(secret) => {
            claims.iat = Clock::start().now().unix_s();
            claims.exp = claims.iat + ttl_s;
            let token = Authenticator::hs256(&secret).sign(&claims);
            exit_code(writeln!(std::io::stdout(), "{token}").is_ok())
        }
        Err(fault) => {
            complain(&format!("the secret in {}: {fault}", config.data_dir.display()));
            ExitCode::FAILURE
        }
    }
}

fn exit_code(is_success: bool) -> ExitCode {
    if is_success { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
        complain("signals cannot be listened for");
        return ExitCode::FAILURE;
    };
    drop(guard);
    let server = match Server::start(&loaded.config, &loaded.sources) {
        Ok(server) => server,
        Err(fault) => {
            complain(&fault.to_string());
            return ExitCode::FAILURE;
        }
    };
    let mut out = std::io::stdout();
    let line = format!("fanfare listening on http://{}\n", server.local_addr());
    if out.write_all(line.as_bytes()).and_then(|()| out.flush()).is_err() {
        tracing::warn!("standard output is closed");
    }
    runtime.block_on(either(&mut terminate, &mut interrupt));
    tracing::info!("stopping: clients are sent away");
    #[allow(clippy::disallowed_methods, reason = "the operator does not want to wait")]
    std::thread::spawn(move || {
        runtime.block_on(either(&mut terminate, &mut interrupt));
        complain("second signal, stopping at once");
        std::process::exit(1);
    });
    server.stop();
    ExitCode::SUCCESS
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    std::future::poll_fn(|context| {
        if terminate.poll_recv(context).is_ready() || interrupt.poll_recv(context).is_ready() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}
