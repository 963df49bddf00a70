//! The commands beside the server: what the program is, how it is set up, who has an account, and
//! what a running one says.
//!
//! Part of the binary; imports the library.

mod about;
mod accounts;
mod ask;

use std::io::{self, Write};
use std::process::ExitCode;

use fanfare::auth::Claims;
use fanfare::config::{Action, Config, Loaded};

/// Carries out what the command line asks for.
pub(crate) fn run(loaded: &Loaded) -> ExitCode {
    let config = &loaded.config;
    let result = match &loaded.action {
        Action::Serve => return ExitCode::FAILURE,
        Action::Info { json } => Ok(about::info(loaded, *json)),
        Action::CheckConfig => about::check(config),
        Action::DefaultConfig => return bytes(Config::template().as_bytes()),
        Action::Man => match about::manual() {
            Ok(page) => return bytes(&page),
            Err(fault) => Err(fault.to_string()),
        },
        Action::Completions(shell) => return bytes(&about::completions(*shell)),
        Action::Token { user, username, scope, ttl_s } => {
            let claims = Claims {
                sub: user.clone(),
                username: username.clone(),
                scope: scope.clone(),
                ..Claims::default()
            };
            accounts::token(config, claims, *ttl_s)
        }
        Action::UserAdd { username, email, password, scope } => {
            let scope = scope.as_deref();
            accounts::add(config, username, email.as_deref(), password.clone(), scope)
        }
        Action::Ask(question) => {
            return match ask::run(config, question) {
                Ok(()) => ExitCode::SUCCESS,
                Err(fault) => {
                    crate::complain(&fault);
                    ExitCode::FAILURE
                }
            };
        }
        Action::UserScope { user, scope } => accounts::set_scope(config, user, scope),
        Action::UserList => accounts::list(config),
        Action::UserSet { user, is_disabled } => accounts::set(config, user, *is_disabled),
    };
    match result {
        Ok(text) => bytes(format!("{text}\n").as_bytes()),
        Err(fault) => {
            crate::complain(&fault);
            ExitCode::FAILURE
        }
    }
}

/// Prints. Whoever closes the pipe early (`| head`) has seen enough.
fn bytes(text: &[u8]) -> ExitCode {
    let mut out = io::stdout();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(fault) if fault.kind() != io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}
