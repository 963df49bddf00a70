//! The configuration: what the server was told, by whom, and everything that is wrong with it.
//!
//! ```text
//! defaults < file < environment < flags
//!                |
//!                v
//!     KEYS: one row per key ------> Config, Sources, Action
//!                |                  or every fault there is, each with its place
//!                +--> the help, config.json
//! ```
//!
//! A key is one row of the table `KEYS`: its flag, its variable, its default, its help, how it is
//! read and how it is shown. Nothing else in the crate knows what a key is called.
//!
//! # Promises
//!
//! * All faults of all layers are reported at once, each with the place it came from.
//! * A secret is never repeated: not in a fault, not in `entries`, not in `Debug` output.
//! * `load` reads the configuration file and nothing else; arguments and environment are passed in.
//!
//! # Not here
//!
//! Printing, exit codes of the process, and what needs the machine: the file-descriptor limit
//! behind `connections_max`, the generated secret.
//!
//! An unknown variable that starts with `FANFARE_` is no fault, unlike an unknown flag or file key:
//! Kubernetes adds such variables (`FANFARE_SERVICE_HOST`) to every pod beside a service `fanfare`.
//!
//! Imports `limits` and `auth`. Imported by `server` and `main`; `http` shows the entries.

mod value;

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgMatches, Command};
use serde_json::Value;

use crate::auth::Scopes;
use crate::limits::{self, KIB, Limits, MIB};
use value::{count, duration, quote, size};

/// The port of a server that was told nothing.
const PORT_DEFAULT: u16 = 8080;

/// The variable that names the configuration file. The only key that cannot stand in the file.
const CONFIG_ENV: &str = "FANFARE_CONFIG";

/// Whether callers without a token are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMode {
    /// Anonymous callers may do everything that does not act as a user.
    Open,
    /// Everything but a few public pages needs a valid token.
    Required,
}

impl AuthMode {
    /// The word for it, in the configuration and in status pages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            AuthMode::Open => "open",
            AuthMode::Required => "required",
        }
    }
}

/// What the server was told. `Config::default()` is a server on loopback for this machine alone.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// The address to listen on. Port 0: the system picks one.
    pub bind: SocketAddr,
    /// Shard threads, 1 to `limits::SHARDS_MAX`.
    pub shards: usize,
    /// Whether a token is needed.
    pub auth: AuthMode,
    /// The secret of HS256 tokens. `None`: generated, and kept in `data_dir`.
    pub jwt_secret: Option<String>,
    /// Where the embedded database and the generated secret live.
    pub data_dir: PathBuf,
    /// The database. `None`: an embedded one in `data_dir`.
    pub database_url: Option<String>,
    /// Origins a browser may upgrade from, as `scheme://host[:port]` in lower case; `*` is any.
    /// Empty: the host the request was sent to.
    pub allowed_origins: Vec<String>,
    /// Lease of an instance that asks for none, in milliseconds.
    pub lease_ttl_ms: u64,
    /// Longest time self-protection holds the expiry of a service, in milliseconds.
    pub self_protection_max_ms: u64,
    /// Whether `/ws/echo` is there.
    pub echo: bool,
    /// The bounds.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            bind: SocketAddr::from((Ipv4Addr::LOCALHOST, PORT_DEFAULT)),
            shards: thread::available_parallelism()
                .map_or(1, |cores| cores.get().min(limits::SHARDS_MAX)),
            auth: AuthMode::Open,
            jwt_secret: None,
            data_dir: PathBuf::from("./fanfare-data"),
            database_url: None,
            allowed_origins: Vec::new(),
            lease_ttl_ms: limits::LEASE_TTL_MS_DEFAULT,
            self_protection_max_ms: limits::SELF_PROTECTION_MS_MAX_DEFAULT,
            echo: true,
            limits: Limits::DEFAULT,
        }
    }
}

/// Shows what `entries` shows, so that a logged configuration holds no secret.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(KEYS.iter().map(|key| (key.name, (key.show)(self).to_string())))
            .finish()
    }
}

/// The layer a value came from. A later one wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Nobody said anything.
    Default,
    /// The file given by `--config`.
    File,
    /// A variable of the environment.
    Environment,
    /// The command line.
    Flag,
}

impl Source {
    /// The word for it in status pages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Source::Default => "default",
            Source::File => "file",
            Source::Environment => "environment",
            Source::Flag => "flag",
        }
    }
}

/// Where each value of a `Config` came from. `Sources::default()`: nobody said anything.
///
/// # Invariants
///
/// 1. One entry per row of `KEYS`, in the same order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources(Vec<Source>);

impl Default for Sources {
    fn default() -> Self {
        Self(vec![Source::Default; KEYS.len()])
    }
}

/// What the command line asks the program to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Run the server. What the program does without a subcommand.
    Serve,
    /// Print a token and exit.
    Token {
        /// The user id, never empty.
        user: String,
        /// The name to show.
        username: Option<String>,
        /// Scopes between spaces, all of them known.
        scope: Option<String>,
        /// Lifetime in seconds, at least 1.
        ttl_s: u64,
    },
}

/// A configuration without faults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// Where they came from.
    pub sources: Sources,
    /// What to do with them.
    pub action: Action,
    /// What is allowed but unwise, for the log.
    pub warnings: Vec<String>,
}

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The flag, the variable, or the file and its key.
    pub place: String,
    /// What is wrong there, and what would be right.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// Why there is no configuration to start with.
#[derive(Debug)]
pub enum LoadError {
    /// The command line does not parse, or asked for the help or the version. `clap` prints it.
    Usage(clap::Error),
    /// Everything that is wrong, never empty.
    Faults(Vec<Fault>),
}

impl LoadError {
    /// The exit status that goes with it: 0 for help and version, else 2.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self {
            LoadError::Usage(error) => error.exit_code(),
            LoadError::Faults(_) => 2,
        }
    }
}

/// One line per fault.
impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Usage(error) => write!(f, "{error}"),
            LoadError::Faults(faults) => {
                for (index, fault) in faults.iter().enumerate() {
                    let gap = if index == 0 { "" } else { "\n" };
                    write!(f, "{gap}{fault}")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for LoadError {}

// --- The table -----------------------------------------------------------------------------------

/// What a key is when nobody sets it.
enum Unset {
    /// This text, read like any other.
    Is(&'static str),
    /// Something that depends on the machine or on other keys, in these words.
    Follows(&'static str),
}

/// One key of the configuration.
struct Key {
    /// The flag without its dashes. In the file `-` may be `_`; in `config.json` it is.
    name: &'static str,
    /// The variable, if it is not `FANFARE_` and the name in upper case.
    env: Option<&'static str>,
    /// What the help puts after the flag.
    placeholder: &'static str,
    /// The default, for the help. A test reads it and compares with `Config::default()`.
    unset: Unset,
    /// One line of help.
    help: &'static str,
    /// Reads a value into its field, or says what is wrong with it and changes nothing.
    parse: fn(&mut Config, &str) -> Result<(), String>,
    /// Shows the field as JSON, secrets as `"***"`.
    show: fn(&Config) -> Value,
}

impl Key {
    /// The variable of the environment.
    fn env(&self) -> String {
        self.env.map_or_else(
            || format!("FANFARE_{}", self.name.replace('-', "_").to_ascii_uppercase()),
            str::to_owned,
        )
    }

    /// The name in `config.json` and, usually, in the file.
    fn snake_case(&self) -> String {
        self.name.replace('-', "_")
    }
}

/// Returns the row of a key that this module names itself.
fn index_of(name: &str) -> usize {
    KEYS.iter().position(|key| key.name == name).expect("a row of the table")
}

/// A row for a field with a range: the flag, `kind(range)`, the default, `path.to.field`, the help.
macro_rules! bounded {
    ($name:literal, $kind:ident($range:expr), $unset:literal, $($field:ident).+, $help:literal) => {
        Key {
            name: $name,
            env: None,
            placeholder: $kind::PLACEHOLDER,
            unset: Unset::Is($unset),
            help: $help,
            parse: |config, text| {
                config.$($field).+ = $kind::parse(text, $range)?;
                Ok(())
            },
            show: |config| $kind::show(config.$($field).+),
        }
    };
}

/// Shortest and longest time of a timeout, in milliseconds. Zero would mean "at once" to one reader
/// and "never" to the next.
const TIMEOUT_MS: std::ops::RangeInclusive<u64> = 10..=3_600_000;

/// All keys. The first ones are the server's, the rest its limits.
static KEYS: &[Key] = &[
    Key {
        name: "bind",
        env: None,
        placeholder: "ADDRESS",
        unset: Unset::Is("127.0.0.1:8080"),
        help: "Address to listen on; port 0 picks one and prints it",
        parse: |config, text| {
            config.bind = parse_address(text)?;
            Ok(())
        },
        show: |config| config.bind.to_string().into(),
    },
    Key {
        name: "shards",
        env: None,
        placeholder: "N",
        unset: Unset::Follows("number of cores"),
        help: "Shard threads",
        parse: |config, text| {
            config.shards = count::parse(text, 1..=limits::SHARDS_MAX)?;
            Ok(())
        },
        show: |config| config.shards.into(),
    },
    Key {
        name: "auth",
        env: None,
        placeholder: "MODE",
        unset: Unset::Follows("open on loopback, else to be set"),
        help: "Who is served: open (anybody) or required (callers with a token)",
        parse: |config, text| {
            config.auth = match text {
                "open" => AuthMode::Open,
                "required" => AuthMode::Required,
                _ => return Err(format!("{} is neither open nor required", quote(text))),
            };
            Ok(())
        },
        show: |config| config.auth.as_str().into(),
    },
    Key {
        name: "jwt-secret",
        env: Some("JWT_SECRET"),
        placeholder: "SECRET",
        unset: Unset::Follows("generated, kept in the data directory"),
        help: "Secret of HS256 tokens, at least 32 bytes; better given by the environment",
        parse: |config, text| {
            if text.is_empty() {
                return Err("the secret is empty".to_owned());
            }
            config.jwt_secret = Some(text.to_owned());
            Ok(())
        },
        show: |config| config.jwt_secret.as_ref().map(|_| "***").into(),
    },
    Key {
        name: "data-dir",
        env: None,
        placeholder: "DIR",
        unset: Unset::Is("./fanfare-data"),
        help: "Directory of the embedded database and the generated secret",
        parse: |config, text| {
            if text.is_empty() {
                return Err("the directory has no name".to_owned());
            }
            config.data_dir = PathBuf::from(text);
            Ok(())
        },
        show: |config| config.data_dir.to_string_lossy().into(),
    },
    Key {
        name: "database-url",
        env: Some("DATABASE_URL"),
        placeholder: "URL",
        unset: Unset::Follows("a SQLite file in the data directory"),
        help: "Database: sqlite://PATH",
        parse: |config, text| {
            // The text may hold a password, so it is not quoted.
            if !["sqlite:", "postgres:", "postgresql:"].iter().any(|known| text.starts_with(known))
            {
                return Err("not a URL that starts with sqlite:// or postgres://".to_owned());
            }
            config.database_url = Some(text.to_owned());
            Ok(())
        },
        show: |config| config.database_url.as_deref().map(without_password).into(),
    },
    Key {
        name: "allowed-origins",
        env: None,
        placeholder: "LIST",
        unset: Unset::Follows("same host"),
        help: "Origins a browser may upgrade from, by comma: https://app.example.org; * is any",
        parse: |config, text| {
            let origins = text.split(',').map(str::trim).filter(|origin| !origin.is_empty());
            config.allowed_origins = origins.map(parse_origin).collect::<Result<_, _>>()?;
            Ok(())
        },
        show: |config| config.allowed_origins.clone().into(),
    },
    bounded!(
        "lease-ttl",
        duration(limits::LEASE_TTL_MS_MIN..=limits::LEASE_TTL_MS_MAX),
        "20s",
        lease_ttl_ms,
        "Lease of an instance that asks for none"
    ),
    bounded!(
        "self-protection-max",
        duration(1_000..=86_400_000),
        "10m",
        self_protection_max_ms,
        "Longest time self-protection holds the expiry of a service"
    ),
    Key {
        name: "echo",
        env: None,
        placeholder: "on|off",
        unset: Unset::Follows("on on loopback, else off"),
        help: "Whether /ws/echo is there",
        parse: |config, text| {
            config.echo = value::parse_switch(text)?;
            Ok(())
        },
        show: |config| config.echo.into(),
    },
    bounded!(
        "client-message-bytes-max",
        size(128..=64 * MIB),
        "64KiB",
        limits.client_message_bytes_max,
        "Largest message of a client"
    ),
    bounded!(
        "echo-message-bytes-max",
        size(128..=256 * MIB),
        "16MiB",
        limits.echo_message_bytes_max,
        "Largest message on /ws/echo"
    ),
    bounded!(
        "http-registry-body-bytes-max",
        size(KIB..=256 * MIB),
        "8MiB",
        limits.http_registry_body_bytes_max,
        "Largest body of a registry request"
    ),
    bounded!(
        "http-body-bytes-max",
        size(KIB..=256 * MIB),
        "1MiB",
        limits.http_body_bytes_max,
        "Largest body of any other request"
    ),
    bounded!(
        "request-head-bytes-max",
        size(KIB..=MIB),
        "16KiB",
        limits.request_head_bytes_max,
        "Largest request head"
    ),
    bounded!(
        "request-headers-max",
        count(8..=1_000),
        "100",
        limits.request_headers_max,
        "Most headers of a request"
    ),
    bounded!(
        "handshake-timeout",
        duration(TIMEOUT_MS),
        "10s",
        limits.handshake_timeout_ms,
        "Time from the connection to a complete request head"
    ),
    bounded!(
        "body-timeout",
        duration(TIMEOUT_MS),
        "15s",
        limits.body_timeout_ms,
        "Time for a request body to arrive"
    ),
    bounded!(
        "subscriptions-per-connection-max",
        count(1..=1_000_000),
        "1024",
        limits.subscriptions_per_connection_max,
        "Most topics a connection follows"
    ),
    bounded!(
        "connections-per-user-max",
        count(1..=1_000_000),
        "16",
        limits.connections_per_user_max,
        "Most connections of one user"
    ),
    bounded!(
        "client-messages-per-s-max",
        count(0..=1_000_000),
        "100",
        limits.client_messages_per_s_max,
        "Messages a second of one connection; 0 is no limit"
    ),
    bounded!(
        "client-messages-burst-max",
        count(1..=1_000_000),
        "200",
        limits.client_messages_burst_max,
        "Messages a connection may send at once"
    ),
    bounded!(
        "topic-bytes-max",
        size(16..=4 * KIB),
        "255",
        limits.topic_bytes_max,
        "Longest topic name"
    ),
    bounded!(
        "service-history-max",
        count(1..=1_000_000),
        "1024",
        limits.service_history_max,
        "Changes kept per service"
    ),
    bounded!(
        "channel-history-max",
        count(1..=1_000_000),
        "256",
        limits.channel_history_max,
        "Messages kept per channel"
    ),
    Key {
        name: "connections-max",
        env: None,
        placeholder: "N",
        unset: Unset::Follows("auto: from the file-descriptor limit"),
        help: "Most connections in all",
        parse: |config, text| {
            config.limits.connections_max = match text {
                "auto" => None,
                _ => Some(count::parse(text, 1..=100_000_000)?),
            };
            Ok(())
        },
        show: |config| config.limits.connections_max.map_or_else(|| "auto".into(), Value::from),
    },
    bounded!(
        "outbox-bytes-max",
        size(KIB..=1024 * MIB),
        "1MiB",
        limits.outbox_bytes_max,
        "Most unsent bytes of one connection"
    ),
    bounded!(
        "outbox-frames-max",
        count(16..=1_048_576),
        "4096",
        limits.outbox_frames_max,
        "Most unsent frames of one connection"
    ),
    bounded!(
        "write-timeout",
        duration(TIMEOUT_MS),
        "15s",
        limits.write_timeout_ms,
        "Time a socket may refuse all output"
    ),
    bounded!(
        "ping-interval",
        duration(TIMEOUT_MS),
        "25s",
        limits.ping_interval_ms,
        "Silence after which a connection is pinged"
    ),
    bounded!(
        "pong-timeout",
        duration(TIMEOUT_MS),
        "10s",
        limits.pong_timeout_ms,
        "Time a client has to answer a ping"
    ),
    bounded!(
        "mailbox-messages-max",
        count(16..=16_777_216),
        "65536",
        limits.mailbox_messages_max,
        "Most messages waiting between two threads"
    ),
    bounded!(
        "instances-max",
        count(1..=50_000_000),
        "2000000",
        limits.instances_max,
        "Most registered instances"
    ),
    bounded!("services-max", count(1..=50_000_000), "200000", limits.services_max, "Most services"),
    bounded!(
        "drain-window",
        duration(0..=limits::DRAIN_WINDOW_MS_MAX),
        "10s",
        limits.drain_window_ms,
        "Time over which a draining server spreads the return of its clients"
    ),
];

/// Reads an address. A port alone, `:8080`, is that port on loopback, as is `localhost:8080`.
fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let port = text.strip_prefix("localhost:").or_else(|| text.strip_prefix(':'));
    let address = match port {
        Some(port) => port.parse().ok().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        None => text.parse().ok(),
    };
    address.ok_or_else(|| format!("{} is not an address like 127.0.0.1:8080", quote(text)))
}

/// Reads an origin into the form in which browsers send it: lower case, no slash at the end.
fn parse_origin(text: &str) -> Result<String, String> {
    let origin = text.strip_suffix('/').unwrap_or(text).to_ascii_lowercase();
    let host = origin.split_once("://").map_or("", |(_, host)| host);
    let is_plain = |c: char| c.is_ascii_graphic() && !"/?#@*".contains(c);
    if origin == "*" || (!host.is_empty() && host.chars().all(is_plain)) {
        Ok(origin)
    } else {
        Err(format!("{} is not an origin like https://app.example.org", quote(text)))
    }
}

/// Returns a URL with its password, and its query, which may hold one, as `***`.
fn without_password(url: &str) -> String {
    let (url, query) = match url.split_once('?') {
        Some((url, _)) => (url, "?***"),
        None => (url, ""),
    };
    match url.split_once("://").map(|(scheme, rest)| (scheme, rest.rsplit_once('@'))) {
        Some((scheme, Some((user, host)))) => {
            let user = user.split(':').next().unwrap_or_default();
            format!("{scheme}://{user}:***@{host}{query}")
        }
        _ => format!("{url}{query}"),
    }
}

// --- The layers ----------------------------------------------------------------------------------

impl Config {
    /// Loads the configuration from the arguments, program name first, and the environment.
    ///
    /// An empty variable counts as unset: that is how compose files pass on what nobody set.
    ///
    /// # Errors
    ///
    /// `Usage` if the command line does not parse at all or asks for help or version, else
    /// `Faults` with everything that is wrong in any layer.
    pub fn load<A, E>(args: A, env: E) -> Result<Loaded, LoadError>
    where
        A: IntoIterator,
        A::Item: Into<OsString>,
        E: Fn(&str) -> Option<String>,
    {
        load(args.into_iter().map(Into::into).collect(), env, |path| fs::read_to_string(path))
    }

    /// Lists every key in snake case with its value, secrets as `"***"`, and its source.
    #[must_use]
    pub fn entries(&self, sources: &Sources) -> Vec<(String, Value, Source)> {
        let rows = KEYS.iter().zip(&sources.0);
        rows.map(|(key, source)| (key.snake_case(), (key.show)(self), *source)).collect()
    }
}

/// `Config::load` with the reading of the file passed in as well.
fn load(
    args: Vec<OsString>,
    env: impl Fn(&str) -> Option<String>,
    read: impl Fn(&Path) -> io::Result<String>,
) -> Result<Loaded, LoadError> {
    let env = |name: &str| env(name).filter(|text| !text.is_empty());
    let mut layers = Layers::default();
    let matches = parse_args(args, &mut layers.faults)?;
    let flag = |name: &str| matches.last().and_then(|level| level.get_one::<String>(name));

    if let Some(path) = flag("config").cloned().or_else(|| env(CONFIG_ENV)) {
        layers.apply_file(&path, read(Path::new(&path)));
    }
    for (index, key) in KEYS.iter().enumerate() {
        if let Some(text) = env(&key.env()) {
            layers.apply(index, &text, Source::Environment, key.env());
        }
    }
    for (index, key) in KEYS.iter().enumerate() {
        if let Some(text) = flag(key.name) {
            layers.apply(index, text, Source::Flag, format!("--{}", key.name));
        }
    }
    let is_token = matches.first().and_then(ArgMatches::subcommand_name) == Some("token");
    let action = match matches.last() {
        Some(token) if is_token => parse_token(token, &mut layers.faults),
        _ => {
            layers.settle_bind();
            Action::Serve
        }
    };
    layers.finish(action)
}

/// The configuration while its layers are applied.
#[derive(Default)]
struct Layers {
    config: Config,
    sources: Sources,
    /// Where each key was last set, for the faults that concern more than one. As `KEYS`.
    places: Vec<(usize, String)>,
    faults: Vec<Fault>,
}

impl Layers {
    /// Applies one value. A wrong one leaves the field as it is, but counts as said.
    fn apply(&mut self, index: usize, text: &str, source: Source, place: String) {
        self.sources.0[index] = source;
        if let Err(message) = (KEYS[index].parse)(&mut self.config, text) {
            self.faults.push(Fault { place: place.clone(), message });
        }
        self.places.push((index, place));
    }

    /// Applies the keys of the configuration file.
    fn apply_file(&mut self, path: &str, text: io::Result<String>) {
        let table =
            match text.map(|text| toml::from_str::<toml::Table>(&text).map_err(|e| (e, text))) {
                Ok(Ok(table)) => table,
                Ok(Err((error, text))) => {
                    // The library's own report quotes the line, which may hold a secret.
                    let end = error.span().map_or(0, |span| span.start).min(text.len());
                    let before = text.get(..end).unwrap_or_default();
                    let line = before.matches('\n').count() + 1;
                    let message = format!("line {line}: {}", error.message());
                    return self.faults.push(Fault { place: path.to_owned(), message });
                }
                Err(error) => {
                    let message = format!("cannot be read: {error}");
                    return self.faults.push(Fault { place: path.to_owned(), message });
                }
            };
        for (name, value) in &table {
            let place = format!("{path}: {name}");
            let fault = |message: &str| Fault { place: place.clone(), message: message.to_owned() };
            let canonical = name.replace('_', "-");
            let Some(index) = KEYS.iter().position(|key| key.name == canonical) else {
                self.faults.push(fault("unknown key"));
                continue;
            };
            if self.sources.0[index] == Source::File {
                self.faults.push(fault("stands twice, with - and with _"));
                continue;
            }
            match text_of(value) {
                Some(text) => self.apply(index, &text, Source::File, place),
                None => self.faults.push(fault("a table is not a value of this key")),
            }
        }
    }

    /// Judges what follows from the address: whether `auth` must be said, and the default of
    /// `echo`.
    fn settle_bind(&mut self) {
        let source = |name: &str| self.sources.0[index_of(name)];
        let is_loopback = self.config.bind.ip().to_canonical().is_loopback();
        if source("echo") == Source::Default {
            self.config.echo = is_loopback;
        }
        if !is_loopback && source("auth") == Source::Default {
            let bind = index_of("bind");
            let place = self.places.iter().rev().find(|(index, _)| *index == bind);
            self.faults.push(Fault {
                place: place.map_or_else(|| "--bind".to_owned(), |(_, place)| place.clone()),
                message: format!(
                    "{} can be reached from other hosts, so who is served must be said: \
                     --auth required, or --auth open to serve anybody",
                    self.config.bind
                ),
            });
        }
    }

    /// Returns the result, if there is no fault.
    fn finish(self, action: Action) -> Result<Loaded, LoadError> {
        if !self.faults.is_empty() {
            return Err(LoadError::Faults(self.faults));
        }
        let mut warnings = Vec::new();
        let secret_bytes = self.config.jwt_secret.as_ref().map_or(usize::MAX, String::len);
        if secret_bytes < limits::JWT_SECRET_BYTES {
            warnings.push(format!(
                "the JWT secret has {secret_bytes} bytes, at least {} are advised",
                limits::JWT_SECRET_BYTES
            ));
        }
        Ok(Loaded { config: self.config, sources: self.sources, action, warnings })
    }
}

/// Writes a TOML value the way a flag would be given. Nothing for tables.
fn text_of(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Array(values) => {
            let texts: Option<Vec<String>> = values.iter().map(text_of).collect();
            texts.map(|texts| texts.join(","))
        }
        toml::Value::Table(_) => None,
        plain => Some(plain.to_string()),
    }
}

// --- The command line ----------------------------------------------------------------------------

/// Describes the command line to `clap`.
fn command() -> Command {
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
    Command::new("fanfare")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A service registry and real-time push server")
        .arg(config)
        .args(keys)
        .subcommand(Command::new("serve").about("Run the server (the same as no subcommand)"))
        .subcommand(token)
}

/// Parses the arguments. Returns the matches of the program and of each subcommand below it.
///
/// `clap` stops at the first flag it does not know. Here each becomes a fault and the rest is
/// parsed without it, so that it is reported beside all others.
fn parse_args(
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
        !arg.starts_with('-') && arg != "serve" && arg != "token"
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
fn parse_token(matches: &ArgMatches, faults: &mut Vec<Fault>) -> Action {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Loads from a command line, an environment and the text of `fanfare.toml`.
    fn load_from(args: &str, env: &[(&str, &str)], file: &str) -> Result<Loaded, LoadError> {
        let args = std::iter::once("fanfare").chain(args.split_whitespace());
        let env = |name: &str| {
            let variable = env.iter().find(|(known, _)| *known == name);
            variable.map(|(_, text)| (*text).to_owned())
        };
        let read = |path: &Path| match path.to_str() {
            Some("fanfare.toml") => Ok(file.to_owned()),
            _ => Err(io::Error::from(io::ErrorKind::NotFound)),
        };
        load(args.map(OsString::from).collect(), env, read)
    }

    fn faults(args: &str, env: &[(&str, &str)], file: &str) -> Vec<String> {
        match load_from(args, env, file) {
            Err(LoadError::Faults(faults)) => faults.iter().map(Fault::to_string).collect(),
            other => panic!("no faults but {other:?}"),
        }
    }

    fn usage(args: &str) -> clap::Error {
        match load_from(args, &[], "") {
            Err(LoadError::Usage(error)) => error,
            other => panic!("no usage error but {other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn defaults_in_the_help_are_the_defaults() {
        let mut config = Config::default();
        let mut given = 0;
        for key in KEYS {
            if let Unset::Is(text) = key.unset {
                (key.parse)(&mut config, text).unwrap();
                assert_eq!(config, Config::default(), "{}", key.name);
                given += 1;
            }
        }
        assert!(given > 25);
        let loaded = load_from("", &[], "").unwrap();
        assert_eq!(loaded.config, Config::default());
        assert_eq!(loaded.sources, Sources::default());
        assert_eq!((loaded.action, loaded.warnings), (Action::Serve, Vec::new()));
    }

    /// Each key changes one shown value, its own, and shows it in a form that is read back.
    #[test]
    fn every_key_reads_and_shows_its_own_field() {
        let other = |key: &Key| match key.name {
            "bind" => "[::1]:9000",
            "auth" => "required",
            "jwt-secret" | "data-dir" => "something",
            "database-url" => "sqlite://x.db",
            "allowed-origins" => "http://a,https://b:1",
            "echo" => "off",
            _ => match key.placeholder {
                "TIME" => "7s",
                "SIZE" => "2049",
                _ => "77",
            },
        };
        let before = Config::default().entries(&Sources::default());
        for (index, key) in KEYS.iter().enumerate() {
            let mut config = Config::default();
            (key.parse)(&mut config, other(key)).unwrap();
            let after = config.entries(&Sources::default());
            for (at, (old, new)) in before.iter().zip(&after).enumerate() {
                assert_eq!(old == new, at != index, "{} and {}", key.name, new.0);
            }
        }
    }

    #[test]
    fn names_are_unique_and_well_formed() {
        let names: BTreeSet<&str> = KEYS.iter().map(|key| key.name).collect();
        let variables: BTreeSet<String> = KEYS.iter().map(Key::env).collect();
        assert_eq!((names.len(), variables.len()), (KEYS.len(), KEYS.len()));
        assert!(names.iter().all(|n| n.bytes().all(|b| b == b'-' || b.is_ascii_lowercase())));
        let special = ["JWT_SECRET", "DATABASE_URL"];
        assert!(variables.iter().all(|v| v.starts_with("FANFARE_") || special.contains(&&**v)));
        assert!(variables.contains("FANFARE_OUTBOX_BYTES_MAX"));
        assert!(!variables.contains(CONFIG_ENV));
    }

    #[test]
    fn later_layers_win() {
        let file = "lease-ttl = \"5s\"\nping_interval = \"5s\"\nwrite_timeout = \"5s\"\n";
        let env = [
            ("FANFARE_CONFIG", "fanfare.toml"),
            ("FANFARE_PING_INTERVAL", "6s"),
            ("FANFARE_WRITE_TIMEOUT", "6s"),
            ("FANFARE_SHARDS", ""),
        ];
        let Loaded { config, sources, .. } = load_from("--write-timeout 7s", &env, file).unwrap();
        assert_eq!(config.lease_ttl_ms, 5_000);
        assert_eq!(config.limits.ping_interval_ms, 6_000);
        assert_eq!(config.limits.write_timeout_ms, 7_000);
        let entries = config.entries(&sources);
        let source = |name: &str| entries.iter().find(|entry| entry.0 == name).unwrap().2;
        assert_eq!(source("lease_ttl"), Source::File);
        assert_eq!(source("ping_interval"), Source::Environment);
        assert_eq!(source("write_timeout"), Source::Flag);
        assert_eq!(source("shards"), Source::Default);
    }

    #[test]
    fn file_takes_toml_types() {
        let file = "shards = 3\necho = false\nallowed_origins = [\"https://A.example/\", \"*\"]\n\
            outbox-bytes-max = 2048\nconnections_max = \"auto\"\n";
        let config = load_from("--config fanfare.toml", &[], file).unwrap().config;
        assert_eq!((config.shards, config.echo), (3, false));
        assert_eq!(config.allowed_origins, ["https://a.example", "*"]);
        assert_eq!(config.limits.outbox_bytes_max, 2_048);
        assert_eq!(config.limits.connections_max, None);
    }

    #[test]
    fn all_faults_of_all_layers_are_reported() {
        let file = "lease_tll = \"20s\"\nlease-ttl = 20\nlease_ttl = \"20s\"\n\
            [limits]\nshards = 1\n[echo]\n";
        let env = [("FANFARE_ECHO", "maybe"), ("DATABASE_URL", "mysql://u:pw@h/d")];
        let args = "--config fanfare.toml --lease-ttl abc --bogus 1 --shards=0 --bind nowhere \
            --bod-timeout=3s --ping-interval 0";
        assert_eq!(
            faults(args, &env, file),
            [
                "--bogus: unknown flag; see --help",
                "--bod-timeout: unknown flag; is --body-timeout meant?",
                "fanfare.toml: echo: a table is not a value of this key",
                "fanfare.toml: lease-ttl: \"20\" has no unit: 20s or 20ms?",
                "fanfare.toml: lease_tll: unknown key",
                "fanfare.toml: lease_ttl: stands twice, with - and with _",
                "fanfare.toml: limits: unknown key",
                "DATABASE_URL: not a URL that starts with sqlite:// or postgres://",
                "FANFARE_ECHO: \"maybe\" is neither on nor off",
                "--bind: \"nowhere\" is not an address like 127.0.0.1:8080",
                "--shards: \"0\" is out of range: 1 to 256",
                "--lease-ttl: \"abc\" is not a duration like 20s",
                "--ping-interval: \"0\" is out of range: 10ms to 1h",
            ]
        );
    }

    #[test]
    fn file_that_cannot_be_read_or_parsed_is_a_fault() {
        let missing = faults("--config other.toml --shards x", &[], "");
        assert!(missing[0].starts_with("other.toml: cannot be read: "), "{missing:?}");
        assert_eq!(missing[1], "--shards: \"x\" is not a whole number");
        let secret = "shards = 1\njwt_secret = \"hunter2\nshards = 2\n";
        let broken = faults("--config fanfare.toml", &[], secret);
        assert!(broken[0].starts_with("fanfare.toml: line 2: "), "{broken:?}");
        assert!(!broken[0].contains("hunter2") && broken.len() == 1, "{broken:?}");
    }

    #[test]
    fn address_beyond_loopback_needs_a_word_about_auth() {
        for args in ["--bind 0.0.0.0:1", "--bind [::]:1", "--bind 192.0.2.1:1"] {
            let faults = faults(args, &[], "");
            assert!(faults.len() == 1 && faults[0].starts_with("--bind: "), "{faults:?}");
            assert!(faults[0].contains("--auth required"), "{faults:?}");
        }
        let faults = faults("", &[("FANFARE_BIND", "0.0.0.0:1"), ("FANFARE_AUTH", "no")], "");
        assert_eq!(faults, ["FANFARE_AUTH: \"no\" is neither open nor required"]);

        let loaded = load_from("--bind 0.0.0.0:1 --auth open", &[], "").unwrap();
        assert_eq!((loaded.config.auth, loaded.config.echo), (AuthMode::Open, false));
        let loaded = load_from("--bind 0.0.0.0:1 --auth required --echo on", &[], "").unwrap();
        assert_eq!((loaded.config.auth, loaded.config.echo), (AuthMode::Required, true));
        for args in ["--bind :0", "--bind localhost:0", "--bind [::1]:0", "--bind 127.9.9.9:0"] {
            let config = load_from(args, &[], "").unwrap().config;
            assert!(config.echo && config.bind.port() == 0, "{args}");
        }
    }

    #[test]
    fn secrets_are_never_shown() {
        let args =
            "--jwt-secret hunter2 --database-url postgres://ann:pa:ss@word@db:5/f?password=x";
        let loaded = load_from(args, &[], "").unwrap();
        let entries = loaded.config.entries(&loaded.sources);
        let value = |name: &str| entries.iter().find(|entry| entry.0 == name).unwrap().1.clone();
        assert_eq!(value("jwt_secret"), "***");
        assert_eq!(value("database_url"), "postgres://ann:***@db:5/f?***");
        let debug = format!("{loaded:?}");
        assert!(!debug.contains("hunter2") && !debug.contains("word@"), "{debug}");
        assert_eq!(loaded.warnings, ["the JWT secret has 7 bytes, at least 32 are advised"]);
        let plain = load_from("--database-url sqlite://x.db", &[], "").unwrap().config;
        assert_eq!((KEYS[index_of("database-url")].show)(&plain), "sqlite://x.db");
        assert_eq!((KEYS[index_of("jwt-secret")].show)(&plain), Value::Null);
    }

    #[test]
    fn help_and_version_are_no_failure() {
        assert_eq!(LoadError::Usage(usage("--version")).exit_code(), 0);
        let help = usage("--help");
        assert_eq!(help.exit_code(), 0);
        let text = help.to_string();
        for key in KEYS {
            assert!(text.contains(&format!("--{} <", key.name)), "{}", key.name);
            assert!(text.contains(&format!("[env: {}]", key.env())), "{}", key.name);
        }
        assert_eq!(LoadError::Usage(usage("--shards")).exit_code(), 2);
        assert_eq!(LoadError::Usage(usage("nonsense")).exit_code(), 2);
        assert_eq!(LoadError::Faults(Vec::new()).exit_code(), 2);
        assert_eq!(faults("-x", &[], ""), ["-x: unknown flag; see --help"]);
    }

    #[test]
    fn serve_is_what_happens_without_a_subcommand() {
        for args in ["--shards 3", "serve --shards 3", "--shards 3 serve"] {
            let loaded = load_from(args, &[], "").unwrap();
            assert_eq!((loaded.action, loaded.config.shards), (Action::Serve, 3), "{args}");
        }
        assert_eq!(faults("--bogus serve --shards 0", &[], "").len(), 2);
    }

    #[test]
    fn token_has_flags_of_its_own_and_the_same_layers() {
        let env = [("FANFARE_BIND", "0.0.0.0:80"), ("JWT_SECRET", "s")];
        for args in ["--data-dir d token --user u", "token --user u --data-dir d"] {
            let loaded = load_from(args, &env, "").unwrap();
            let token =
                Action::Token { user: "u".into(), username: None, scope: None, ttl_s: 3_600 };
            assert_eq!(loaded.action, token);
            assert_eq!(loaded.config.data_dir, Path::new("d"));
            assert_eq!(loaded.config.jwt_secret.as_deref(), Some("s"));
        }
        let args = "token --user u --username ann --scope publish --ttl 30d";
        let token = Action::Token {
            user: "u".into(),
            username: Some("ann".into()),
            scope: Some("publish".into()),
            ttl_s: 30 * 86_400,
        };
        assert_eq!(load_from(args, &[], "").unwrap().action, token);
        assert_eq!(
            faults("token --user= --scope root --ttl 500ms --shards 0", &[], ""),
            [
                "--shards: \"0\" is out of range: 1 to 256",
                "--user: the user id is empty",
                "--scope: \"root\" is no scope; there are registry:write, publish, admin",
                "--ttl: \"500ms\" is out of range: 1s to 3650d",
            ]
        );
        assert_eq!(LoadError::Usage(usage("token")).exit_code(), 2);
    }

    #[test]
    fn origins_are_in_the_form_browsers_send() {
        for (text, origin) in [
            ("https://App.Example.org", "https://app.example.org"),
            ("http://localhost:3000/", "http://localhost:3000"),
            ("http://[::1]:80", "http://[::1]:80"),
            ("*", "*"),
        ] {
            assert_eq!(parse_origin(text).as_deref(), Ok(origin));
        }
        for wrong in ["", "example.org", "https://", "https://a/b", "https://*.a", "https://a b"] {
            assert!(parse_origin(wrong).is_err(), "{wrong}");
        }
    }
}
