//! The command line, as `clap` is told about it and as its faults are told to people.
//!
//! Imports `auth`, `limits` and its siblings. Part of `config`.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgMatches, Command};

use super::keys::{KEYS, Unset, index_of};
use super::value::{duration, quote};
use super::{Action, CONFIG_ENV, Fault, LoadError};
use crate::auth::{Scopes, accounts};
use crate::limits;

/// Describes the command line to `clap`.
pub(super) fn command() -> Command {
    let config = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .help(format!("Configuration file (TOML) with these keys [env: {CONFIG_ENV}]"))
        .global(true);
    let limits_index = 1 + index_of("echo");
    let keys = KEYS.iter().enumerate().map(|(index, key)| {
        let (Unset::Is(unset) | Unset::Follows(unset)) = key.unset;
        Arg::new(key.name)
            .long(key.name)
            .value_name(key.placeholder)
            .help(format!("{} [default: {unset}] [env: {}]", key.help, key.env()))
            .help_heading(if index >= limits_index { "Limits" } else { "Options" })
            .allow_negative_numbers(true)
            .global(true)
    });
    let token = Command::new("token")
        .about("Print a token for a user and exit")
        .arg(Arg::new("user").long("user").value_name("ID").required(true).help("User id"))
        .arg(Arg::new("username").long("username").value_name("NAME").help("Name to show"))
        .arg(
            Arg::new("scope")
                .long("scope")
                .value_name("SCOPES")
                .help("Scopes between spaces: registry:write, publish, admin"),
        )
        .arg(
            Arg::new("ttl")
                .long("ttl")
                .value_name("TIME")
                .default_value("1h")
                .help("Lifetime, like 10m, 1h or 30d"),
        );
    let name = Arg::new("name").value_name("NAME").required(true);
    let user = Command::new("user")
        .about("Add, list and disable accounts, beside a running server or without one")
        .subcommand_required(true)
        .subcommand(
            Command::new("add")
                .about("Add an account; the password is the first line of standard input")
                .arg(name.clone().help("Name to sign in with"))
                .arg(Arg::new("email").long("email").value_name("ADDRESS").help("Mail address"))
                .arg(
                    Arg::new("password")
                        .long("password")
                        .value_name("PASSWORD")
                        .help("Password, for those who do not mind it in the shell's history"),
                ),
        )
        .subcommand(Command::new("list").about("List all accounts"))
        .subcommand(
            Command::new("disable")
                .about("Disable an account; a running server closes its sockets")
                .arg(name.clone().help("Name or user id")),
        )
        .subcommand(
            Command::new("enable")
                .about("Let a disabled account sign in again")
                .arg(name.help("Name or user id")),
        );
    Command::new("fanfare")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A service registry and real-time push server")
        .arg(config)
        .args(keys)
        .subcommand(Command::new("serve").about("Run the server (the same as no subcommand)"))
        .subcommand(token)
        .subcommand(user)
}

/// Parses the arguments. Returns the matches of the program and of each subcommand below it.
///
/// `clap` stops at the first flag it does not know. Here each becomes a fault and the rest is
/// parsed without it, so that it is reported beside all others.
pub(super) fn parse_args(
    mut args: Vec<OsString>,
    faults: &mut Vec<Fault>,
) -> Result<Vec<ArgMatches>, LoadError> {
    loop {
        let error = match command().try_get_matches_from(&args) {
            Ok(matches) => return Ok(levels(matches)),
            Err(error) => error,
        };
        let Some((fault, rest)) = unknown_flag(&error, &args) else {
            return Err(LoadError::Usage(error));
        };
        faults.push(fault);
        args = rest;
    }
}

/// Returns the matches from the program down to the innermost subcommand. Flags of the program are
/// global, and complete only in the last one.
fn levels(matches: ArgMatches) -> Vec<ArgMatches> {
    let mut levels = vec![matches];
    while let Some((_, inner)) = levels.last().and_then(ArgMatches::subcommand) {
        let inner = inner.clone();
        levels.push(inner);
    }
    levels
}

/// If `error` is about an unknown flag, returns the fault, and the arguments without that flag and
/// without what was meant as its value.
fn unknown_flag(error: &clap::Error, args: &[OsString]) -> Option<(Fault, Vec<OsString>)> {
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let flag = context(ContextKind::InvalidArg)?;
    let index = args.iter().position(|arg| {
        let arg = arg.to_string_lossy();
        arg == flag || arg.strip_prefix(flag).is_some_and(|rest| rest.starts_with('='))
    })?;
    let mut rest = args.to_vec();
    let has_value_inside = rest.remove(index) != flag;
    let is_value = |arg: &OsString| {
        let arg = arg.to_string_lossy();
        !arg.starts_with('-') && !["serve", "token", "user"].contains(&&*arg)
    };
    if flag.starts_with("--") && !has_value_inside && rest.get(index).is_some_and(is_value) {
        rest.remove(index);
    }
    let message = match context(ContextKind::SuggestedArg) {
        Some(similar) => format!("unknown flag; is {similar} meant?"),
        None => "unknown flag; see --help".to_owned(),
    };
    Some((Fault { place: flag.to_owned(), message }, rest))
}

/// Reads the flags of `fanfare token`.
pub(super) fn parse_token(matches: &ArgMatches, faults: &mut Vec<Fault>) -> Action {
    let flag = |name: &str| matches.get_one::<String>(name).cloned();
    let mut fault = |place: &str, message: String| {
        faults.push(Fault { place: place.to_owned(), message });
    };
    let user = flag("user").unwrap_or_default();
    if user.is_empty() {
        fault("--user", "the user id is empty".to_owned());
    }
    let scope = flag("scope");
    for word in Scopes::unknown_words(scope.as_deref().unwrap_or_default()) {
        let known = "registry:write, publish, admin";
        fault("--scope", format!("{} is no scope; there are {known}", quote(word)));
    }
    let ttl = flag("ttl").unwrap_or_default();
    let ttl_ms =
        duration::parse(&ttl, 1_000..=limits::TOKEN_TTL_MS_MAX).unwrap_or_else(|message| {
            fault("--ttl", message);
            0
        });
    Action::Token { user, username: flag("username"), scope, ttl_s: ttl_ms / 1_000 }
}

/// Reads what comes after `fanfare user`.
pub(super) fn parse_user(what: &str, matches: &ArgMatches, faults: &mut Vec<Fault>) -> Action {
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    match what {
        "add" => {
            let (username, email) = (text("name").unwrap_or_default(), text("email"));
            let password = text("password");
            let checks = [
                ("NAME", accounts::check_username(&username)),
                ("--email", email.as_deref().map_or(Ok(()), accounts::check_email)),
                ("--password", password.as_deref().map_or(Ok(()), accounts::check_password)),
            ];
            for (place, check) in checks {
                if let Err(message) = check {
                    faults.push(Fault { place: place.to_owned(), message: message.to_owned() });
                }
            }
            Action::UserAdd { username, email, password }
        }
        "list" => Action::UserList,
        _ => Action::UserSet {
            user: text("name").unwrap_or_default(),
            is_disabled: what == "disable",
        },
    }
}
