//! The program: runs the server, or a subcommand for information, configuration, accounts, or a call to a running server.
//!
//! Imports `config`, `server`, `store` and what they stand on. Imported by `main.rs` only.

mod about;
mod accounts;
mod ask;
mod serve;

use std::io::{self, Write};
use std::process::ExitCode;

use crate::auth::Claims;
use crate::clock::Clock;
use crate::config::{Action, Config, LoadError, Loaded};
use crate::logging;
use crate::server::StartError;

/// Wrong settings, as the shell's custom has it.
const EXIT_USAGE: u8 = 2;

/// Runs the program with the arguments and the environment of the process.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "the environment is handed to `config` from here")]
pub fn main() -> ExitCode {
    // A variable that is not text is not ours.
    let variables = std::env::vars_os()
        .filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?)));
    let loaded = match Config::load(std::env::args(), variables) {
        Ok(loaded) => loaded,
        Err(LoadError::Usage(fault)) => fault.exit(),
        Err(fault) => {
            complain(&fault.to_string());
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let filter = std::env::var("RUST_LOG").unwrap_or_default();
    let guard = logging::start(logging::Settings {
        format: loaded.config.log_format,
        filter: &filter,
        access_log: loaded.config.access_log,
        may_be_colourful: std::env::var("NO_COLOR").map_or(true, |no| no.is_empty()),
    });
    for warning in &loaded.warnings {
        tracing::warn!(target: "fanfare", "{warning}");
    }
    let code = match &loaded.action {
        Action::Serve => serve::serve(&loaded, guard.as_ref().ok()),
        _ => run(&loaded),
    };
    // The last lines leave with it.
    drop(guard);
    code
}

fn complain(fault: &str) {
    // Without standard error there is no place to report it.
    let _ = writeln!(std::io::stderr(), "fanfare: {fault}");
}

/// Carries out a command.
fn run(loaded: &Loaded) -> ExitCode {
    let config = &loaded.config;
    let data = accounts::Data { config, may_make: loaded.init };
    let result = match &loaded.action {
        Action::Serve => return ExitCode::FAILURE,
        Action::Info { json } => Ok(about::info(loaded, *json)),
        Action::CheckConfig => about::check(config).map_err(Fault::from),
        Action::DefaultConfig => return bytes(Config::template().as_bytes()),
        Action::Man => match about::manual() {
            Ok(page) => return bytes(&page),
            Err(fault) => Err(Fault::from(fault.to_string())),
        },
        Action::Completions(shell) => return bytes(&about::completions(*shell)),
        Action::Token { user, username, scope, ttl_s } => {
            let claims = Claims {
                username: username.clone(),
                scope: scope.clone(),
                ..Claims::new(user, Clock::start().now().unix_ms, *ttl_s)
            };
            accounts::token(&data, &claims)
        }
        Action::TokenRevoke { token } => accounts::revoke_token(&data, token.clone()),
        Action::UserAdd { username, email, password, scope } => {
            let scope = scope.as_deref();
            accounts::add(&data, username, email.as_deref(), password.clone(), scope)
        }
        Action::Call(call) => {
            return match ask::run(config, call) {
                Ok(()) => ExitCode::SUCCESS,
                Err(fault) => {
                    complain(&fault);
                    ExitCode::FAILURE
                }
            };
        }
        Action::UserScope { who, scope } => accounts::set_scope(&data, who, scope),
        Action::UserList => accounts::list(&data),
        Action::UserSet { who, is_disabled } => accounts::set(&data, who, *is_disabled),
        Action::UserResetPassword { who, password } => {
            accounts::reset_password(&data, who, password.clone())
        }
        Action::UserRemove { who } => accounts::remove(&data, who),
        Action::UserRevoke { who } => accounts::revoke(&data, who),
    };
    match result {
        Ok(text) => bytes(format!("{text}\n").as_bytes()),
        Err(fault) => {
            complain(&fault.text);
            fault.code
        }
    }
}

/// The fault of a command, and its exit status.
pub(crate) struct Fault {
    text: String,
    code: ExitCode,
}

impl Fault {
    /// A setting that cannot be used.
    pub(crate) fn setting(text: String) -> Fault {
        Fault { text, code: ExitCode::from(EXIT_USAGE) }
    }
}

impl From<String> for Fault {
    fn from(text: String) -> Fault {
        Fault { text, code: ExitCode::FAILURE }
    }
}

/// A key or secret that cannot be used is a wrong setting, as at the start of the server.
impl From<StartError> for Fault {
    fn from(fault: StartError) -> Fault {
        let code = if fault.is_setting() { ExitCode::from(EXIT_USAGE) } else { ExitCode::FAILURE };
        Fault { text: fault.to_string(), code }
    }
}

/// Prints. A reader may close the pipe early (`| head`): that is not a fault.
fn bytes(text: &[u8]) -> ExitCode {
    let mut out = io::stdout();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(fault) if fault.kind() != io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}
