//! The configuration: values, their sources, and every fault in them.
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
//! A key is one row of the table `KEYS`: its flag, its variable, its default, its help, its parser
//! and its display. No other module of the crate knows the name of a key.
//!
//! # Promises
//!
//! * All faults of all layers are reported together, each with its source.
//! * A secret is never repeated: not in a fault, not in `entries`, not in `Debug` output.
//! * `load` reads the configuration file and nothing else; arguments and environment are passed in.
//!
//! # Not here
//!
//! Printing, exit codes of the process, and settings that follow from the machine: the
//! file-descriptor limit behind `connections_max`, the generated secret.
//!
//! A variable that starts with `FANFARE_` and is no key is a fault like an unknown flag, except for
//! those of `hints`: other programs' variables, and those that Kubernetes adds to pods.
//!
//! Imports `auth`, `limits`, `logging`, `redacted`, `store` and `ws`. Imported by `server` and `cli`; `http`
//! shows the entries.

mod command;
mod hints;
mod keys;
mod layers;
mod namespaces;
#[cfg(test)]
mod tests;
mod value;

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::thread;

use serde_json::{Map, Value};

pub use crate::auth::Scopes;
pub use crate::auth::accounts::Registration;
pub use crate::auth::namespace::{Namespace, Namespaces, Who as Audience};
use crate::limits;
pub use crate::limits::Limits;
pub use crate::logging::LogFormat;

use crate::store::accounts::Who;
pub use crate::ws::base_path::{BadBasePath, BasePath};
pub use crate::ws::forwarded::{BadProxy, TrustedProxies};
pub use crate::ws::hosts::{AllowedHosts, BadHost};
pub use crate::ws::networks::{BadNetwork, Networks};
use keys::KEYS;

/// The port of a server without settings.
const PORT_DEFAULT: u16 = 8080;

/// The variable that names the configuration file. The only key that the file cannot have.
const CONFIG_ENV: &str = "FANFARE_CONFIG";

/// The variable that names the server to ask.
const URL_ENV: &str = "FANFARE_URL";

/// The variable that holds the caller's token.
const TOKEN_ENV: &str = "FANFARE_TOKEN";

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

/// The settings of a server. `Config::default()` is a server on loopback for this machine alone.
#[derive(Clone, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
pub struct Config {
    /// The address to listen on. Port 0: the system picks one.
    pub bind: SocketAddr,
    /// Shard threads, 1 to `limits::SHARDS_MAX`.
    pub shards: usize,
    /// Whether a token is needed. `Config::load` makes it `Required` if a secret, a public key or
    /// Redis is given and `auth` is not set; a program that fills the fields itself sets it here.
    pub auth: AuthMode,
    /// The secret of HS256 tokens. `None`: generated, and kept in `data_dir`.
    pub jwt_secret: Option<String>,
    /// The public key of the issuer of the tokens, as a PEM file. `None`: the secret signs them.
    pub jwt_public_key: Option<PathBuf>,
    /// Secrets whose tokens are accepted beside those of the first, which signs.
    pub jwt_other_secrets: Vec<String>,
    /// The public keys of the issuer of the tokens, as a file with a JWKS.
    pub jwt_jwks_file: Option<PathBuf>,
    /// The public keys of the issuer of the tokens, as a JWKS at a URL.
    pub jwt_jwks_url: Option<String>,
    /// How long a JWKS is used before it is read again, in milliseconds.
    pub jwt_jwks_refresh_ms: u64,
    /// The `iss` that tokens need. `None`: it is not looked at.
    pub jwt_issuer: Option<String>,
    /// The `aud` values of which tokens need one. Empty: it is not looked at.
    pub jwt_audience: Vec<String>,
    /// Lifetime of a token from a login, in milliseconds.
    pub login_token_ttl_ms: u64,
    /// How long after a login its tokens can be renewed, in milliseconds.
    pub session_max_ms: u64,
    /// The certificate chain, as a PEM file. `None`: no TLS.
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key, as a PEM file. There if and only if the certificate is.
    pub tls_key: Option<PathBuf>,
    /// The directory of the embedded database and the generated secret.
    pub data_dir: PathBuf,
    /// The database. `None`: an embedded one in `data_dir`.
    pub database_url: Option<String>,
    /// The backplane of several nodes. `None`: a single node.
    pub redis_url: Option<String>,
    /// The authorities that may sign the certificate of Redis, as a PEM file. `None`: the system's.
    pub redis_ca: Option<PathBuf>,
    /// This node's certificate chain for Redis, as a PEM file.
    pub redis_cert: Option<PathBuf>,
    /// Its private key, as a PEM file. There if and only if the certificate is.
    pub redis_key: Option<PathBuf>,
    /// Whether this node is ready beside nodes with other shared settings.
    pub differing_settings: bool,
    /// The names by which clients may call the server, besides loopback and `bind`. Empty: none if
    /// no token is needed, else any.
    pub allowed_hosts: AllowedHosts,
    /// Origins a browser's page may call from, besides the server's own names, as
    /// `scheme://host[:port]` in lower case; `null` is pages without an origin, `*` is any.
    pub allowed_origins: Vec<String>,
    /// The path below which the server answers.
    pub base_path: BasePath,
    /// The proxies that are trusted to name a client's address. Empty: none.
    pub trusted_proxies: TrustedProxies,
    /// Lease of an instance that asks for none, in milliseconds.
    pub lease_ttl_ms: u64,
    /// Longest time self-protection holds the expiry of a service, in milliseconds.
    pub self_protection_max_ms: u64,
    /// How long an event stays in the audit log, in milliseconds.
    pub audit_age_max_ms: u64,
    /// Bytes of the audit log. The oldest events go beyond.
    pub audit_bytes_max: usize,
    /// Whether Eureka's clients are served.
    pub eureka: bool,
    /// Whether Artemis' sockets and lists of nodes are served.
    pub artemis: bool,
    /// The addresses from which Artemis' clients need no token. Empty: none.
    pub artemis_networks: Networks,
    /// The address by which clients of foreign protocols reach this node, without a slash at its end.
    pub advertise_url: Option<String>,
    /// The form of the log.
    pub log_format: LogFormat,
    /// Whether the log has a line for each request.
    pub access_log: bool,
    /// Whether `/ws/echo` is there.
    pub echo: bool,
    /// The policy for making accounts.
    pub registration: Registration,
    /// Scopes of a login's token, beside the account's own.
    pub default_scopes: Scopes,
    /// Whether adding a user to a group only invites the user.
    pub group_invitations: bool,
    /// The rules of channels, by the prefixes of their names.
    pub namespaces: Namespaces,
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
            jwt_public_key: None,
            jwt_other_secrets: Vec::new(),
            jwt_jwks_file: None,
            jwt_jwks_url: None,
            jwt_jwks_refresh_ms: limits::JWKS_REFRESH_MS_DEFAULT,
            jwt_issuer: None,
            jwt_audience: Vec::new(),
            login_token_ttl_ms: limits::LOGIN_TOKEN_MS_DEFAULT,
            session_max_ms: limits::SESSION_MS_MAX_DEFAULT,
            tls_cert: None,
            tls_key: None,
            data_dir: PathBuf::from("./fanfare-data"),
            database_url: None,
            redis_url: None,
            redis_ca: None,
            redis_cert: None,
            redis_key: None,
            differing_settings: false,
            allowed_hosts: AllowedHosts::default(),
            allowed_origins: Vec::new(),
            base_path: BasePath::default(),
            trusted_proxies: TrustedProxies::default(),
            lease_ttl_ms: limits::LEASE_TTL_MS_DEFAULT,
            self_protection_max_ms: limits::SELF_PROTECTION_MS_MAX_DEFAULT,
            audit_age_max_ms: limits::AUDIT_AGE_MS_MAX_DEFAULT,
            audit_bytes_max: limits::AUDIT_BYTES_MAX_DEFAULT,
            eureka: true,
            artemis: true,
            artemis_networks: Networks::default(),
            advertise_url: None,
            log_format: LogFormat::Text,
            access_log: false,
            echo: true,
            registration: Registration::Open,
            default_scopes: Scopes::MESSAGE,
            group_invitations: false,
            namespaces: Namespaces::default(),
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
    /// Not set anywhere.
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

    /// The same within a sentence.
    const fn words(self) -> &'static str {
        match self {
            Source::Default => "default",
            Source::File => "the configuration file",
            Source::Environment => "the environment",
            Source::Flag => "a flag",
        }
    }
}

/// The source of each value of a `Config`. `Sources::default()`: all are defaults.
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

/// The command that the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Run the server. The default without a subcommand.
    Serve,
    /// Print the version and the settings.
    Info {
        /// As JSON.
        json: bool,
    },
    /// Check the configuration.
    CheckConfig,
    /// Print a configuration file with every key, commented.
    DefaultConfig,
    /// Print the manual page.
    Man,
    /// Print the completions of a shell.
    Completions(clap_complete::Shell),
    /// Call a running server.
    Call(ServerCall),
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
    /// Add an account and exit.
    UserAdd {
        /// The name it signs in with.
        username: String,
        /// Its mail address.
        email: Option<String>,
        /// Its password. None: the first line of standard input.
        password: Option<String>,
        /// Its scopes with name and password, between spaces, all of them known.
        scope: Option<String>,
    },
    /// Revoke one token and exit.
    TokenRevoke {
        /// The token, or its `jti`. None: the first line of standard input.
        token: Option<String>,
    },
    /// Set the scopes of an account's logins, and exit.
    UserScope {
        /// Which.
        who: Who,
        /// Scopes between spaces, all of them known; empty is none.
        scope: String,
    },
    /// List the accounts and exit.
    UserList,
    /// Disable an account, or enable it again, and exit.
    UserSet {
        /// Which.
        who: Who,
        /// Whether it may no longer sign in.
        is_disabled: bool,
    },
    /// Give an account another password, which ends its tokens, and exit.
    UserResetPassword {
        /// Which.
        who: Who,
        /// The password. None: the first line of standard input.
        password: Option<String>,
    },
    /// Remove an account and exit.
    UserRemove {
        /// Which.
        who: Who,
    },
    /// End all tokens of an account and exit.
    UserRevoke {
        /// Which.
        who: Who,
    },
}

/// A call to a running server, with its options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerCall {
    /// The server's URL. `None`: the configured address.
    pub url: Option<String>,
    /// The caller's token.
    pub token: Option<String>,
    /// Whether answers are shown as JSON, one value a line.
    pub json: bool,
    /// The call.
    pub what: ServerQuery,
}

/// A call to a running server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ServerQuery {
    /// What happened.
    Events {
        /// The filters of the call, by their names there.
        filters: Vec<(&'static str, String)>,
        /// Goes on with what happens.
        follow: bool,
    },
    /// Its statistics.
    Stats {
        /// Again each second.
        watch: bool,
    },
    /// The services.
    Services,
    /// The instances of a service.
    Instances(String),
    /// The changes of a service, until interrupted.
    Watch(String),
    /// Publish to a channel.
    Publish {
        /// The channel.
        channel: String,
        /// JSON, or else text.
        payload: String,
        /// The event's name.
        event: Option<String>,
    },
    /// Take an instance out of discovery, or put it back.
    Operate {
        /// Its service.
        service: String,
        /// Its id.
        instance: String,
        /// Its region.
        region: Option<String>,
        /// Back in.
        is_pull_in: bool,
    },
}

/// A configuration without faults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loaded {
    /// The values.
    pub config: Config,
    /// The source of each value.
    pub sources: Sources,
    /// The command to run with them.
    pub action: Action,
    /// Whether a command may create a missing secret or database.
    pub init: bool,
    /// Warnings for the log: settings that are allowed but unwise.
    pub warnings: Vec<String>,
}

/// One fault, and its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The flag, the variable, or the file and its key.
    pub place: String,
    /// The fault, and what would be right.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// The reason why there is no configuration to start with.
#[derive(Debug)]
pub(crate) enum LoadError {
    /// The command line does not parse, or asks for the help or the version. `clap` prints it.
    Usage(clap::Error),
    /// All faults, never empty.
    Faults(Vec<Fault>),
}

impl LoadError {
    /// The exit status that goes with it: 0 for help and version, else 2.
    #[cfg(test)]
    pub(crate) fn exit_code(&self) -> i32 {
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

/// Whether only this machine reaches an address.
fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

impl Config {
    /// Loads the configuration from the arguments, program name first, and all variables of the
    /// environment.
    ///
    /// An empty variable counts as unset: compose files pass on unset variables like that.
    ///
    /// # Errors
    ///
    /// `Usage` if the command line does not parse at all or asks for help or version, else
    /// `Faults` with the faults of all layers.
    pub(crate) fn load<A, E>(args: A, env: E) -> Result<Loaded, LoadError>
    where
        A: IntoIterator,
        A::Item: Into<OsString>,
        E: IntoIterator<Item = (String, String)>,
    {
        layers::load(
            args.into_iter().map(Into::into).collect(),
            env.into_iter().collect(),
            |path| fs::read_to_string(path),
        )
    }

    /// Whether tokens are required and why, in one line for the log: `required: jwt-secret is
    /// given`.
    #[must_use]
    pub(crate) fn auth_reason(&self, sources: &Sources) -> String {
        let auth = self.auth.as_str();
        let source = sources.0[keys::index_of("auth")];
        if source != Source::Default {
            return format!("{auth}: set by {}", source.words());
        }
        let given = [
            ("jwt-secret", self.jwt_secret.is_some()),
            ("jwt-public-key", self.jwt_public_key.is_some()),
            ("jwt-jwks-file", self.jwt_jwks_file.is_some()),
            ("jwt-jwks-url", self.jwt_jwks_url.is_some()),
            ("redis-url", self.redis_url.is_some()),
        ];
        let given: Vec<&str> =
            given.into_iter().filter(|(_, is_given)| *is_given).map(|(name, _)| name).collect();
        match (self.auth, given.is_empty()) {
            (AuthMode::Required, false) => {
                let verb = if given.len() == 1 { "is" } else { "are" };
                format!("{auth}: {} {verb} given", given.join(", "))
            }
            (AuthMode::Open, true) if is_loopback(self.bind) => format!(
                "{auth}: only this machine reaches {}, and neither a secret, a public key nor \
                 Redis is given",
                self.bind
            ),
            // Only an embedding program can set it without a source.
            _ => format!("{auth}: set by the program"),
        }
    }

    /// Whether tokens are signed with a secret that the server makes and keeps in its data directory.
    #[must_use]
    pub(crate) fn uses_generated_secret(&self) -> bool {
        let has_file = self.jwt_public_key.is_some() || self.jwt_jwks_file.is_some();
        self.jwt_secret.is_none() && !has_file && self.jwt_jwks_url.is_none()
    }

    /// A configuration file with every key and its default, each in a comment.
    #[must_use]
    pub(crate) fn template() -> String {
        layers::template()
    }

    /// The command line as `clap` knows it: for completions and the manual page.
    #[must_use]
    #[doc(hidden)]
    pub fn command() -> clap::Command {
        command::command()
    }

    /// The settings that the nodes of a cluster have to share beside the key of the tokens: access
    /// rules, and the bounds of their common state. By the names of `config.json`.
    #[must_use]
    pub(crate) fn shared(&self) -> Map<String, Value> {
        let rows = KEYS.iter().filter(|key| keys::SHARED.contains(&key.name));
        let mut shared: Map<String, Value> =
            rows.map(|key| (key.snake_case(), (key.show)(self))).collect();
        shared.insert(String::from("namespaces"), namespaces::document(self));
        shared
    }

    /// The document of `/api/status/config.json`: every setting by its name, secrets as `"***"`,
    /// and its source under `sources`.
    #[must_use]
    pub(crate) fn document(&self, sources: &Sources) -> Map<String, Value> {
        let (mut settings, mut origins) = (Map::new(), Map::new());
        for (key, value, source) in self.entries(sources) {
            origins.insert(key.clone(), source.as_str().into());
            settings.insert(key, value);
        }
        settings.insert(String::from("sources"), Value::Object(origins));
        settings.insert(String::from("namespaces"), namespaces::document(self));
        settings
    }

    /// Lists every key in snake case with its value, secrets as `"***"`, and its source.
    #[must_use]
    pub(crate) fn entries(&self, sources: &Sources) -> Vec<(String, Value, Source)> {
        let rows = KEYS.iter().zip(&sources.0);
        rows.map(|(key, source)| (key.snake_case(), (key.show)(self), *source)).collect()
    }
}
