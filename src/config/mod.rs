//! The settings: one table of keys, read from defaults, file, environment and flags.
//!
//! Each layer wins over the ones before it. Every wrong key or value of every layer is reported at
//! once, with its name and where it came from.
//!
//! # Promises
//!
//! * The table [`KEYS`] is the only list: flags, environment, file, `--help` and
//!   `/api/status/config.json` are made from it.
//! * Reading is a function of its arguments. Nothing here looks at the process.
//!
//! Imports `limits`. Imported by `server` and the binary.

mod key;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command};
use serde_json::{Map, Value, json};

use crate::limits::{self, Limits};
use key::{KEYS, Key};

/// Who may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMode {
    /// Anyone; a token that is presented still has to be valid.
    Open,
    /// Those with a valid token.
    Required,
}

/// What a server is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where to listen. Port 0 picks one.
    pub bind: SocketAddr,
    /// Shard threads.
    pub shards: usize,
    /// Who may call.
    pub auth: AuthMode,
    /// The HS256 secret; none = one is generated and kept in the data directory.
    pub jwt_secret: Option<String>,
    /// Where the embedded storage lives.
    pub data_dir: PathBuf,
    /// The database; none = an SQLite file in the data directory.
    pub database_url: Option<String>,
    /// Origins a browser may open a WebSocket from; empty = the server's own host.
    pub allowed_origins: Vec<String>,
    /// The lease of an instance that asks for none.
    pub lease_ttl_ms: u64,
    /// How long expiry of a service may be held.
    pub self_protection_max_ms: u64,
    /// Whether `/ws/echo` exists.
    pub echo: bool,
    /// The bounds.
    pub limits: Limits,
}

impl Default for Config {
    /// The settings of a server that was told nothing: loopback, embedded storage.
    fn default() -> Config {
        Config {
            bind: SocketAddr::from(([127, 0, 0, 1], 8080)),
            shards: std::thread::available_parallelism()
                .map_or(1, std::num::NonZero::get)
                .min(limits::SHARDS_MAX),
            auth: AuthMode::Open,
            jwt_secret: None,
            data_dir: PathBuf::from("fanfare-data"),
            database_url: None,
            allowed_origins: Vec::new(),
            lease_ttl_ms: limits::LEASE_TTL_MS_DEFAULT,
            self_protection_max_ms: limits::SELF_PROTECTION_MS_MAX_DEFAULT,
            echo: true,
            limits: Limits::default(),
        }
    }
}

/// Where a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Nobody set it.
    Default,
    /// The configuration file.
    File,
    /// An environment variable.
    Environment,
    /// A flag.
    Flag,
}

impl Source {
    const fn as_str(self) -> &'static str {
        match self {
            Source::Default => "default",
            Source::File => "file",
            Source::Environment => "environment",
            Source::Flag => "flag",
        }
    }
}

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Run the server.
    Serve,
    /// Print a token.
    Token {
        /// Whose.
        user: String,
        /// The name to show.
        username: Option<String>,
        /// Scopes between spaces.
        scope: Option<String>,
        /// How long it is valid.
        ttl_s: u64,
    },
}

/// Settings that have been read.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// Where each came from, by its flag's name.
    pub sources: BTreeMap<&'static str, Source>,
    /// What to do with them.
    pub action: Action,
}

/// Why the settings cannot be used.
#[derive(Debug)]
pub enum LoadError {
    /// The command line is not understood, or asks for help.
    CommandLine(clap::Error),
    /// Keys or values are wrong: each in a line of its own.
    Faults(Vec<String>),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::CommandLine(fault) => fault.fmt(f),
            LoadError::Faults(faults) => f.write_str(&faults.join("\n")),
        }
    }
}

impl std::error::Error for LoadError {}

/// The command line's grammar.
pub fn command() -> Command {
    let keys = |command: Command| {
        KEYS.iter().fold(command, |command, key| {
            let help = match (key.show)(&Config::default()) {
                Value::Null => format!("{} [env: {}]", key.help, key.env),
                shown => format!("{} [env: {}] [default: {}]", key.help, key.env, plain(&shown)),
            };
            command.arg(
                Arg::new(key.flag)
                    .long(key.flag)
                    .value_name(key.placeholder)
                    .help(help)
                    .global(true)
                    .allow_hyphen_values(true),
            )
        })
    };
    let text = |name: &'static str, help: &'static str| Arg::new(name).long(name).help(help);
    keys(Command::new("fanfare"))
        .version(env!("CARGO_PKG_VERSION"))
        .about("A service registry and real-time push server")
        .arg(
            text("config", "Configuration file (TOML) [env: FANFARE_CONFIG]")
                .value_name("FILE")
                .global(true),
        )
        .subcommand(Command::new("serve").about("Run the server (the default)"))
        .subcommand(
            Command::new("token")
                .about("Print a token signed with the server's secret")
                .arg(text("user", "User id, the token's sub").value_name("ID").required(true))
                .arg(text("username", "Name to show").value_name("NAME"))
                .arg(text("scope", "Scopes: registry:write publish admin").value_name("SCOPES"))
                .arg(text("ttl", "How long it is valid").value_name("TIME").default_value("1h")),
        )
}

/// Reads the settings from the program's arguments, `env`, and the file they name.
///
/// # Errors
///
/// All that is wrong with them.
pub fn load(
    args: impl IntoIterator<Item = String>,
    env: impl Fn(&str) -> Option<String>,
) -> Result<Loaded, LoadError> {
    let matches = command().try_get_matches_from(args).map_err(LoadError::CommandLine)?;
    let inner = matches.subcommand().map_or(&matches, |(_, inner)| inner);
    let mut faults = Vec::new();
    let mut loaded = Loaded {
        config: Config::default(),
        sources: KEYS.iter().map(|key| (key.flag, Source::Default)).collect(),
        action: Action::Serve,
    };
    let file = inner.get_one::<String>("config").cloned().or_else(|| env("FANFARE_CONFIG"));
    if let Some(path) = file {
        read_file(&path, &mut loaded, &mut faults);
    }
    for key in KEYS {
        if let Some(text) = env(key.env) {
            apply(key, &text, Source::Environment, key.env, &mut loaded, &mut faults);
        }
        if let Some(text) = inner.get_one::<String>(key.flag) {
            let name = format!("--{}", key.flag);
            apply(key, text, Source::Flag, &name, &mut loaded, &mut faults);
        }
    }
    loaded.action = action(&matches, &mut faults);
    settle(&mut loaded, &mut faults);
    if faults.is_empty() { Ok(loaded) } else { Err(LoadError::Faults(faults)) }
}

fn apply(
    key: &'static Key,
    text: &str,
    source: Source,
    name: &str,
    loaded: &mut Loaded,
    faults: &mut Vec<String>,
) {
    match (key.set)(&mut loaded.config, text) {
        Ok(()) => {
            loaded.sources.insert(key.flag, source);
        }
        Err(fault) => faults.push(format!("{name}: {fault}")),
    }
}

fn read_file(path: &str, loaded: &mut Loaded, faults: &mut Vec<String>) {
    let table = std::fs::read_to_string(path)
        .map_err(|fault| fault.to_string())
        .and_then(|text| text.parse::<toml::Table>().map_err(|fault| fault.to_string()));
    let table = match table {
        Ok(table) => table,
        Err(fault) => return faults.push(format!("{path}: {fault}")),
    };
    for (name, value) in &table {
        let flag = name.replace('_', "-");
        let Some(key) = KEYS.iter().find(|key| key.flag == flag) else {
            faults.push(format!("{path}: {name} is not a key"));
            continue;
        };
        let text = match value {
            toml::Value::String(text) => text.clone(),
            toml::Value::Array(items) => {
                let items: Vec<&str> = items.iter().filter_map(toml::Value::as_str).collect();
                items.join(",")
            }
            other => other.to_string(),
        };
        apply(key, &text, Source::File, &format!("{path}: {name}"), loaded, faults);
    }
}

fn action(matches: &ArgMatches, faults: &mut Vec<String>) -> Action {
    let Some(("token", token)) = matches.subcommand() else { return Action::Serve };
    let text = |name: &str| token.get_one::<String>(name).cloned();
    let ttl = text("ttl").unwrap_or_default();
    let ttl_ms = value::duration::parse(&ttl, 1_000..=limits::TOKEN_TTL_MS_MAX)
        .map_err(|fault| faults.push(format!("--ttl: {fault}")))
        .unwrap_or_default();
    let user = text("user").unwrap_or_default();
    if user.is_empty() {
        faults.push(String::from("--user: is empty"));
    }
    Action::Token {
        user,
        username: text("username"),
        scope: text("scope"),
        ttl_s: ttl_ms / 1_000,
    }
}

/// What depends on more than one key.
fn settle(loaded: &mut Loaded, faults: &mut Vec<String>) {
    let is_loopback = loaded.config.bind.ip().is_loopback();
    let is_default = |flag: &str| loaded.sources.get(flag) == Some(&Source::Default);
    if !is_loopback && is_default("auth") {
        faults.push(format!(
            "--bind: {} can be reached from other machines, so --auth has to say who may call: \
             required, or open on purpose",
            loaded.config.bind
        ));
    }
    if is_default("echo") {
        loaded.config.echo = is_loopback;
    }
    let limits = &loaded.config.limits;
    if limits.client_messages_burst_max < limits.client_messages_per_s_max {
        if is_default("client-messages-burst-max") {
            // Whoever raises the rate means to raise what may come at once.
            loaded.config.limits.client_messages_burst_max = limits.client_messages_per_s_max;
        } else {
            faults.push(String::from(
                "--client-messages-burst-max: is below --client-messages-per-s-max",
            ));
        }
    }
}

impl Loaded {
    /// Every key by its flag's name in snake case, secrets hidden, and where each came from.
    pub fn entries(&self) -> Map<String, Value> {
        let mut map = Map::new();
        let mut sources = Map::new();
        for key in KEYS {
            let name = key.flag.replace('-', "_");
            sources.insert(name.clone(), json!(self.sources[key.flag].as_str()));
            map.insert(name, (key.show)(&self.config));
        }
        map.insert(String::from("sources"), Value::Object(sources));
        map
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_with(args: &[&str], env: &[(&str, &str)]) -> Result<Loaded, LoadError> {
        let args = std::iter::once("fanfare").chain(args.iter().copied()).map(str::to_owned);
        load(args, |name| {
            env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn faults(args: &[&str], env: &[(&str, &str)]) -> Vec<String> {
        match load_with(args, env) {
            Err(LoadError::Faults(faults)) => faults,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_grammar_is_sound() {
        command().debug_assert();
        assert!(matches!(load_with(&["--nope"], &[]), Err(LoadError::CommandLine(_))));
    }

    #[test]
    fn later_layers_win() {
        let dir = std::env::temp_dir().join(format!("fanfare-config-{}", uuid::Uuid::new_v4()));
        std::fs::write(&dir, "lease_ttl = \"30s\"\nshards = 3\nallowed-origins = [\"a\", \"b\"]\n")
            .expect("a file for the test");
        let path = dir.to_string_lossy().into_owned();
        let args = ["--config", &path, "--outbox-bytes-max", "64KiB"];
        let env = [("FANFARE_SHARDS", "5"), ("FANFARE_OUTBOX_BYTES_MAX", "2MiB")];
        let loaded = load_with(&args, &env).expect("valid settings");
        std::fs::remove_file(&dir).expect("the test's own file");
        assert_eq!(loaded.config.lease_ttl_ms, 30_000);
        assert_eq!(loaded.config.shards, 5);
        assert_eq!(loaded.config.limits.outbox_bytes_max, 65_536);
        assert_eq!(loaded.config.allowed_origins, ["a", "b"]);
        let entries = loaded.entries();
        assert_eq!(entries["outbox_bytes_max"], 65_536);
        assert_eq!(entries["sources"]["shards"], "environment");
        assert_eq!(entries["sources"]["lease_ttl"], "file");
    }

    #[test]
    fn every_fault_is_named() {
        let found = faults(
            &["--lease-ttl", "abc", "--shards", "0", "--auth", "maybe"],
            &[("FANFARE_PING_INTERVAL", "25"), ("FANFARE_BIND", "nowhere")],
        );
        for name in ["--lease-ttl", "--shards", "--auth", "FANFARE_PING_INTERVAL", "FANFARE_BIND"] {
            assert!(found.iter().any(|fault| fault.starts_with(name)), "{name}: {found:?}");
        }
        assert_eq!(found.len(), 5, "{found:?}");
    }

    #[test]
    fn the_open_world_needs_a_decision() {
        assert!(faults(&["--bind", "0.0.0.0:80"], &[])[0].contains("--auth"));
        let loaded = load_with(&["--bind", "0.0.0.0:80", "--auth", "open"], &[]).expect("decided");
        assert!(!loaded.config.echo);
        assert!(load_with(&[], &[]).expect("defaults").config.echo);
    }

    #[test]
    fn secrets_are_not_shown() {
        let loaded = load_with(&["--jwt-secret", "hush-hush"], &[]).expect("valid");
        assert!(!Value::Object(loaded.entries()).to_string().contains("hush"));
    }

    #[test]
    fn token_is_an_action() {
        let args = ["token", "--user", "u", "--scope", "admin", "--ttl", "2h", "--jwt-secret", "s"];
        let loaded = load_with(&args, &[]).expect("valid");
        let Action::Token { user, scope, ttl_s, .. } = loaded.action else { panic!("an action") };
        assert_eq!((user.as_str(), scope.as_deref(), ttl_s), ("u", Some("admin"), 7_200));
        assert_eq!(loaded.config.jwt_secret.as_deref(), Some("s"));
    }
}
