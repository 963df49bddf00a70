//! The command line: its definition for `clap`, and its error messages.
//!
//! Imports its siblings, `auth`, `limits` and `store`. Part of `config`.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command};

use super::hints;
use super::keys::{KEYS, Unset, index_of};
use super::value::{duration, quote};
use super::{Action, CONFIG_ENV, Fault, LoadError, ServerCall, ServerQuery, TOKEN_ENV, URL_ENV};
use crate::auth::{Scopes, accounts, is_user_id, names};
use crate::limits;
use crate::store::accounts::Who;

/// The settings that name the accounts and the secret of a command.
const DATA_KEYS: &[&str] = &["config", "data-dir", "database-url"];

/// The settings that name the secret of a token.
const TOKEN_KEYS: &[&str] = &[
    "config",
    "data-dir",
    "jwt-secret",
    "jwt-public-key",
    "jwt-jwks-file",
    "jwt-jwks-url",
    "jwt-other-secrets",
    "jwt-issuer",
    "jwt-audience",
];

/// The help of `--url`.
const ASK_HELP: &str = "Without --url the server is looked for where the settings of a server (--bind, \
    FANFARE_BIND, --config, ...) would start it; `fanfare --help` lists them.";

/// The flags of all settings. Each command takes all of them, and its help shows those that concern
/// it.
fn settings(is_shown: impl Fn(&str) -> bool) -> Vec<Arg> {
    let config = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .help(format!("Configuration file (TOML) with these keys [env: {CONFIG_ENV}]"));
    let limits_index = 1 + index_of("echo");
    let keys = KEYS.iter().enumerate().map(|(index, key)| {
        let (Unset::Is(unset) | Unset::Follows(unset)) = key.unset;
        Arg::new(key.name)
            .long(key.name)
            .value_name(key.placeholder)
            .help(format!("{} [default: {unset}] [env: {}]", key.help, key.env()))
            .help_heading(if index >= limits_index { "Limits" } else { "Options" })
            .allow_negative_numbers(true)
    });
    let all = std::iter::once(config).chain(keys);
    all.map(|arg| {
        let is_hidden = !is_shown(arg.get_id().as_str());
        arg.global(true).hide(is_hidden)
    })
    .collect()
}

/// The same for a command with a few relevant settings.
fn settings_of(shown: &[&str]) -> Vec<Arg> {
    settings(|name| shown.contains(&name))
}

/// Describes the command line to `clap`.
pub(super) fn command() -> Command {
    let revoke = Command::new("revoke")
        .about("Revoke one token, beside a running server or without one")
        .arg(Arg::new("token").value_name("TOKEN").help(
            "The token, or its jti claim; without one the first line of standard input is read, \
             so that it stands in no list of processes",
        ));
    let token = Command::new("token")
        .about("Print a token for a user and exit")
        .subcommand_negates_reqs(true)
        .args_conflicts_with_subcommands(true)
        .subcommand(revoke.arg(init()).args(settings_of(&[TOKEN_KEYS, DATA_KEYS].concat())))
        .arg(init())
        .args(settings_of(TOKEN_KEYS))
        .arg(Arg::new("user").long("user").value_name("ID").required(true).help("User id"))
        .arg(Arg::new("username").long("username").value_name("NAME").help("Name to show"))
        .arg(
            Arg::new("scope")
                .long("scope")
                .value_name("SCOPES")
                .help(format!("Scopes between spaces: {}", Scopes::WORDS_LISTED)),
        )
        .arg(
            Arg::new("ttl")
                .long("ttl")
                .value_name("TIME")
                .default_value("1h")
                .help("Lifetime, like 10m, 1h or 30d"),
        );
    Command::new("fanfare")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A service registry and real-time push server")
        .args(settings(|_| true))
        .subcommand(Command::new("serve").about("Run the server (the same as no subcommand)"))
        .subcommand(
            Command::new("info")
                .about("Print version, limits of the machine, and every setting with its source")
                .arg(json()),
        )
        .subcommand(Command::new("check-config").about("Say whether the configuration is in order"))
        .subcommand(
            Command::new("default-config")
                .about("Print a configuration file with every key, commented")
                .args(settings_of(&[])),
        )
        .subcommand(token)
        .subcommand(user())
        .subcommands(questions())
        .subcommand(
            Command::new("completions")
                .args(settings_of(&[]))
                .about("Print the completions of a shell")
                .arg(
                    Arg::new("shell")
                        .value_name("SHELL")
                        .required(true)
                        .value_parser(clap::value_parser!(clap_complete::Shell)),
                ),
        )
        .subcommand(Command::new("man").about("Print the manual page").args(settings_of(&[])))
}

/// The commands for accounts.
fn user() -> Command {
    // A name is never taken for an id, nor an id for a name.
    let on_account = |name: &'static str, about: &'static str| {
        Command::new(name)
            .about(about)
            .arg(Arg::new("id").long("id").value_name("ID").help("The account's user id"))
            .arg(Arg::new("name").long("name").value_name("NAME").help("Its name to sign in with"))
            .arg(
                Arg::new("either")
                    .value_name("ID|NAME")
                    .help("Either, where it fits one account alone"),
            )
    };
    let one_of = || ArgGroup::new("who").args(["id", "name", "either"]).required(true);
    let password = || {
        Arg::new("password")
            .long("password")
            .value_name("PASSWORD")
            .help("Password, for those who do not mind it in the shell's history")
    };
    Command::new("user")
        .about("Add, list, change and remove accounts, beside a running server or without one")
        .subcommand_required(true)
        .arg(init().global(true))
        .args(settings_of(DATA_KEYS))
        .subcommand(
            Command::new("add")
                .about("Add an account; the password is asked for, or the first line of a pipe")
                .arg(
                    Arg::new("name").value_name("NAME").required(true).help("Name to sign in with"),
                )
                .arg(Arg::new("email").long("email").value_name("ADDRESS").help("Mail address"))
                .arg(password())
                .arg(
                    Arg::new("scope")
                        .long("scope")
                        .value_name("SCOPES")
                        .help("What it may do beside --default-scopes: registry:write, ..."),
                ),
        )
        .subcommand(
            on_account(
                "scope",
                "Set what an account may do: its logins, and its name and password at Eureka",
            )
            .arg(
                Arg::new("scope")
                    .value_name("SCOPES")
                    .num_args(0..)
                    .help(format!("Scopes: {}; none is none", Scopes::WORDS_LISTED)),
            )
            .override_usage(
                "fanfare user scope [OPTIONS] <--id <ID>|--name <NAME>|ID|NAME> [SCOPES]",
            ),
        )
        .subcommand(Command::new("list").about("List all accounts"))
        .subcommand(
            on_account("disable", "Disable an account; a running server closes its sockets")
                .group(one_of()),
        )
        .subcommand(on_account("enable", "Let a disabled account sign in again").group(one_of()))
        .subcommand(
            on_account(
                "remove",
                "Remove an account and end its tokens; its name is free, what it wrote stays",
            )
            .group(one_of()),
        )
        .subcommand(
            on_account(
                "reset-password",
                "Set another password, asked for or the first line of a pipe, and end all tokens",
            )
            .arg(password())
            .group(one_of()),
        )
        .subcommand(
            on_account(
                "revoke",
                "End all tokens of an account; a running server closes its sockets",
            )
            .group(one_of()),
        )
}

/// The flag that allows creating a secret or database: a mistyped directory must not create one.
fn init() -> Arg {
    Arg::new("init")
        .long("init")
        .action(ArgAction::SetTrue)
        .help("Make the secret or the database where there is none yet")
}

fn json() -> Arg {
    Arg::new("json").long("json").action(ArgAction::SetTrue).help("Answer in JSON")
}

fn required(name: &'static str, placeholder: &'static str, help: &'static str) -> Arg {
    Arg::new(name).value_name(placeholder).required(true).help(help)
}

/// What `fanfare events` can be narrowed by.
const EVENT_FILTERS: [(&str, &str, &str); 6] = [
    ("service", "SERVICE", "Of this service"),
    ("instance", "INSTANCE", "Of this instance id"),
    ("kind", "KIND", "Of this kind, like instance.expired, or family, like instance"),
    ("actor", "ACTOR", "By this user id, address or door"),
    ("from", "TIME", "From this time on, like 2026-11-20T14:00:00Z"),
    ("to", "TIME", "Before this time"),
];

/// The calls to a running server.
fn questions() -> [Command; 8] {
    let service = || required("service", "SERVICE", "Service id");
    let operate = |name: &'static str, about: &'static str| {
        Command::new(name)
            .about(about)
            .arg(service())
            .arg(required("instance", "INSTANCE", "Instance id"))
            .arg(Arg::new("region").long("region").value_name("REGION").help("Its region"))
    };
    [
        Command::new("stats").about("Show how a running server does").arg(
            Arg::new("watch").long("watch").action(ArgAction::SetTrue).help("Again each second"),
        ),
        Command::new("services").about("List the services of a running server"),
        Command::new("instances").about("List the instances of a service").arg(service()),
        Command::new("watch")
            .about("Show what happens to a service, until interrupted")
            .arg(service()),
        Command::new("events")
            .about("Show what happened, why, and who did it, the oldest first")
            .args(EVENT_FILTERS.iter().map(|&(name, placeholder, help)| {
                Arg::new(name).long(name).value_name(placeholder).help(help)
            }))
            .arg(
                Arg::new("follow")
                    .long("follow")
                    .action(ArgAction::SetTrue)
                    .conflicts_with("to")
                    .help("Go on with what happens, until interrupted"),
            ),
        Command::new("publish")
            .about("Publish to a channel")
            .arg(required("channel", "CHANNEL", "Channel"))
            .arg(required("payload", "PAYLOAD", "JSON, or else text"))
            .arg(Arg::new("event").long("event").value_name("NAME").help("Name of an event")),
        operate("pull-out", "Take an instance out of discovery; it stays registered"),
        operate("pull-in", "Put an instance back into discovery"),
    ]
    .map(|command| {
        command
            .args(settings_of(&["config"]))
            .after_help(ASK_HELP)
            .arg(json())
            .arg(
                Arg::new("url")
                    .long("url")
                    .value_name("URL")
                    .help(format!("The server [default: the configured address] [env: {URL_ENV}]")),
            )
            .arg(
                Arg::new("ask-token")
                    .long("token")
                    .value_name("TOKEN")
                    .help(format!("Token; better given by the environment [env: {TOKEN_ENV}]")),
            )
    })
}

/// Reads a call to a running server; none if `name` is another subcommand.
pub(super) fn parse_call(
    name: &str,
    matches: &ArgMatches,
    env: impl Fn(&str) -> Option<String>,
) -> Option<ServerCall> {
    let text = |name: &str| matches.try_get_one::<String>(name).ok().flatten().cloned();
    let flag = |name: &str| matches.try_get_one::<bool>(name).ok().flatten() == Some(&true);
    let needed = |name: &str| text(name).unwrap_or_default();
    let what = match name {
        "stats" => ServerQuery::Stats { watch: flag("watch") },
        "services" => ServerQuery::Services,
        "instances" => ServerQuery::Instances(needed("service")),
        "watch" => ServerQuery::Watch(needed("service")),
        "events" => {
            let filter = |&(name, _, _): &(&'static str, _, _)| Some((name, text(name)?));
            let filters = EVENT_FILTERS.iter().filter_map(filter).collect();
            ServerQuery::Events { filters, follow: flag("follow") }
        }
        "publish" => ServerQuery::Publish {
            channel: needed("channel"),
            payload: needed("payload"),
            event: text("event"),
        },
        "pull-out" | "pull-in" => ServerQuery::Operate {
            service: needed("service"),
            instance: needed("instance"),
            region: text("region"),
            is_pull_in: name == "pull-in",
        },
        _ => return None,
    };
    let url = text("url").or_else(|| env(URL_ENV));
    let token = text("ask-token").or_else(|| env(TOKEN_ENV));
    Some(ServerCall { url, token, json: flag("json"), what })
}

/// Reads the shell of the completions.
pub(super) fn parse_completions(matches: &ArgMatches) -> Action {
    let shell = matches.get_one::<clap_complete::Shell>("shell").copied();
    Action::Completions(shell.unwrap_or(clap_complete::Shell::Bash))
}

/// Parses the arguments. Returns the matches of the program and of each subcommand below it.
///
/// `clap` stops at the first unknown flag. Here each becomes a fault and the rest is parsed without
/// it, so that all faults are reported together.
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
/// its value.
fn unknown_flag(error: &clap::Error, args: &[OsString]) -> Option<(Fault, Vec<OsString>)> {
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let flag = context(ContextKind::InvalidArg)?;
    let similar = context(ContextKind::SuggestedArg);
    let index = args.iter().position(|arg| {
        let arg = arg.to_string_lossy();
        arg == flag || arg.strip_prefix(flag).is_some_and(|rest| rest.starts_with('='))
    })?;
    let mut rest = args.to_vec();
    let has_value_inside = rest.remove(index) != flag;
    let is_value = |arg: &OsString| {
        let arg = arg.to_string_lossy();
        !arg.starts_with('-') && command().find_subcommand(&*arg).is_none()
    };
    if !has_value_inside && rest.get(index).is_some_and(is_value) {
        rest.remove(index);
    }
    let message = match (hints::elsewhere(flag.trim_start_matches('-')), similar) {
        (Some(meant), _) => format!("unknown flag; {}", meant.for_flag()),
        (None, Some(similar)) => format!("unknown flag; is {similar} meant?"),
        (None, None) => "unknown flag; see --help".to_owned(),
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
    if names::named(&user).is_some() {
        fault("--user", "name: stands before a name; give the id".to_owned());
    }
    for (place, text) in [("--user", Some(&user)), ("--username", flag("username").as_ref())] {
        if text.is_some_and(|text| !text.is_empty() && !is_user_id(text)) {
            let bound = limits::USER_BYTES_MAX;
            fault(place, format!("longer than {bound} bytes, or with a control character"));
        }
    }
    let scope = flag("scope");
    check_scope(scope.as_deref(), "--scope", &mut fault);
    let ttl = flag("ttl").unwrap_or_default();
    let ttl_ms =
        duration::parse(&ttl, 1_000..=limits::TOKEN_TTL_MS_MAX).unwrap_or_else(|message| {
            fault("--ttl", message);
            0
        });
    Action::Token { user, username: flag("username"), scope, ttl_s: ttl_ms / 1_000 }
}

fn check_scope(scope: Option<&str>, place: &str, fault: &mut impl FnMut(&str, String)) {
    for word in Scopes::unknown_words(scope.unwrap_or_default()) {
        let known = Scopes::WORDS_LISTED;
        fault(place, format!("{} is no scope; there are {known}", quote(word)));
    }
}

/// Reads the arguments of `fanfare token revoke`.
pub(super) fn parse_token_revoke(matches: &ArgMatches) -> Action {
    Action::TokenRevoke { token: matches.get_one::<String>("token").cloned() }
}

/// Reads the arguments of `fanfare user`.
pub(super) fn parse_user(what: &str, matches: &ArgMatches, faults: &mut Vec<Fault>) -> Action {
    let text = |name: &str| matches.try_get_one::<String>(name).ok().flatten().cloned();
    let mut fault = |place: &str, message: &str| {
        faults.push(Fault { place: place.to_owned(), message: message.to_owned() });
    };
    let password = text("password");
    if let Err(message) = password.as_deref().map_or(Ok(()), accounts::check_password) {
        fault("--password", message);
    }
    let who = || match (text("id"), text("name"), text("either")) {
        (Some(id), ..) => Who::Id(id),
        (_, Some(name), _) => Who::Name(name),
        (.., either) => Who::Either(either.unwrap_or_default()),
    };
    match what {
        "add" => {
            let (username, email) = (text("name").unwrap_or_default(), text("email"));
            let username = names::new_name(&username).unwrap_or_else(|message| {
                fault("NAME", message);
                String::new()
            });
            if let Err(message) = email.as_deref().map_or(Ok(()), accounts::check_email) {
                fault("--email", message);
            }
            let scope = text("scope");
            check_scope(scope.as_deref(), "--scope", &mut |place, message| {
                fault(place, &message);
            });
            Action::UserAdd { username, email, password, scope }
        }
        "list" => Action::UserList,
        "scope" => {
            let words = matches.get_many::<String>("scope").unwrap_or_default();
            let mut words: Vec<String> = words.cloned().collect();
            let who = match (text("id"), text("name"), text("either")) {
                (Some(_), Some(_), _) => {
                    fault("--id", "given beside --name; one of them says which account");
                    who()
                }
                (None, None, None) => {
                    fault("ID|NAME", "missing: which account, by --id or --name");
                    who()
                }
                // With `--id` or `--name`, the first argument is a scope.
                (Some(_), _, first) | (_, Some(_), first) => {
                    words.splice(0..0, first);
                    who()
                }
                _ => who(),
            };
            let scope = words.join(" ");
            check_scope(Some(&scope), "SCOPES", &mut |place, message| fault(place, &message));
            Action::UserScope { who, scope: scope.trim().to_owned() }
        }
        "reset-password" => Action::UserResetPassword { who: who(), password },
        "revoke" => Action::UserRevoke { who: who() },
        "remove" => Action::UserRemove { who: who() },
        _ => Action::UserSet { who: who(), is_disabled: what == "disable" },
    }
}
