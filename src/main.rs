//! The server's binary: settings, signals, and the commands beside the server.

use std::io::Write;
use std::process::ExitCode;

use fanfare::auth::{Claims, accounts};
use fanfare::clock::{Clock, rfc3339};
use fanfare::config::{Action, Config, LoadError, Loaded};
use fanfare::server::{Server, StartError, authenticator};
use fanfare::store::accounts::Accounts;
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
        Action::UserAdd { username, email, password } => {
            told(add_user(&loaded.config, username, email.as_deref(), password.clone()))
        }
        Action::UserList => told(list_users(&loaded.config)),
        Action::UserSet { user, is_disabled } => told(set_user(&loaded.config, user, *is_disabled)),
    }
}

/// Prints what a command came to.
fn told(result: Result<String, String>) -> ExitCode {
    match result {
        Ok(text) => exit_code(writeln!(std::io::stdout(), "{text}").is_ok()),
        Err(fault) => {
            complain(&fault);
            ExitCode::FAILURE
        }
    }
}

fn accounts_of(config: &Config) -> Result<Accounts, String> {
    std::fs::create_dir_all(&config.data_dir)
        .map_err(|fault| format!("{}: {fault}", config.data_dir.display()))?;
    Accounts::open(config.database_url.as_deref(), &config.data_dir)
}

fn add_user(
    config: &Config,
    username: &str,
    email: Option<&str>,
    password: Option<String>,
) -> Result<String, String> {
    let password = if let Some(password) = password {
        password
    } else {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map_err(|fault| fault.to_string())?;
        line.trim_end_matches(['\r', '\n']).to_owned()
    };
    accounts::check_password(&password).map_err(str::to_owned)?;
    let hash = accounts::hash(&password).ok_or("the system has no randomness")?;
    let at_ms = Clock::start().now().unix_ms;
    let user_id = accounts_of(config)?.add(username, email, &hash, at_ms)?;
    Ok(format!("{user_id}\t{username}"))
}

fn list_users(config: &Config) -> Result<String, String> {
    let mut lines = vec![String::from("USER ID\tUSERNAME\tEMAIL\tSTATE\tCREATED")];
    for account in accounts_of(config)?.list()? {
        let state = match (account.is_disabled, account.password_hash) {
            (true, _) => "disabled",
            (false, Some(_)) => "active",
            // Known by a token that somebody else signed.
            (false, None) => "token only",
        };
        lines.push(format!(
            "{}\t{}\t{}\t{state}\t{}",
            account.user_id,
            account.username,
            account.email.as_deref().unwrap_or("-"),
            rfc3339(account.created_ms)
        ));
    }
    Ok(lines.join("\n"))
}

fn set_user(config: &Config, who: &str, is_disabled: bool) -> Result<String, String> {
    let at_ms = Clock::start().now().unix_ms;
    let user_id = accounts_of(config)?.set_disabled(who, is_disabled, at_ms)?;
    Ok(format!("{user_id}\t{}", if is_disabled { "disabled" } else { "enabled" }))
}

fn complain(fault: &str) {
    // Without standard error there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "fanfare: {fault}");
}

fn print_token(config: &Config, mut claims: Claims, ttl_s: u64) -> ExitCode {
    let authenticator = match authenticator(config) {
        Ok(authenticator) => authenticator,
        Err(fault) => {
            complain(&fault.to_string());
            return ExitCode::FAILURE;
        }
    };
    claims.iat = Clock::start().now().unix_s();
    claims.exp = claims.iat + ttl_s;
    let Some(token) = authenticator.sign(&claims) else {
        complain("jwt-public-key: only the issuer, who has the private key, makes tokens");
        return ExitCode::FAILURE;
    };
    exit_code(writeln!(std::io::stdout(), "{token}").is_ok())
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
            let is_setting = matches!(fault, StartError::Key(..));
            return if is_setting { ExitCode::from(EXIT_USAGE) } else { ExitCode::FAILURE };
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
