//! Hints for unknown names: the key that was probably meant, and variables that belong to other
//! programs.
//!
//! A user of another server writes `--port`, a fast typist writes `bnd`. The fault names the key
//! for both. Kubernetes adds `FANFARE_SERVICE_HOST` and the like to every pod beside a Service
//! called `fanfare`; those are not faults.
//!
//! Imports its siblings. Part of `config`.

use super::keys::KEYS;
use super::{CONFIG_ENV, TOKEN_ENV, URL_ENV};

/// The prefix of the variables that set keys.
const PREFIX: &str = "FANFARE_";

/// From this likeness on (Jaro) a name counts as a misspelled key.
const LIKENESS_THRESHOLD: f64 = 0.8;

/// Names in similar programs, our key for them, and a remark on it.
const ELSEWHERE: &[(&[&str], &str, &str)] = &[
    (
        &[
            "port",
            "p",
            "http-port",
            "ws-port",
            "host",
            "hostname",
            "ip",
            "l",
            "listen",
            "address",
            "addr",
            "server-host",
            "server-port",
        ],
        "bind",
        "address and port in one, as 127.0.0.1:9000, or :9000 on loopback",
    ),
    (&["secret", "jwt", "jwt-key", "secret-key", "token-secret"], "jwt-secret", ""),
    (&["public-key", "jwt-key-file"], "jwt-public-key", ""),
    (&["jwks", "jwks-url", "jwks-uri", "jwt-jwks", "jwt-jwks-uri"], "jwt-jwks-url", ""),
    (&["jwks-file"], "jwt-jwks-file", ""),
    (&["issuer", "iss"], "jwt-issuer", ""),
    (&["audience", "audiences", "aud"], "jwt-audience", ""),
    (
        &["database", "db", "db-url", "postgres", "postgres-url", "sqlite", "dsn"],
        "database-url",
        "",
    ),
    (&["redis", "redis-addr", "redis-host", "redis-address"], "redis-url", "redis://HOST:PORT"),
    (&["workers", "threads", "cores", "cpus"], "shards", ""),
    (
        &[
            "cors",
            "cors-origin",
            "cors-origins",
            "origin",
            "origins",
            "allow-origin",
            "allowed-origin",
            "cors-allowed-origins",
        ],
        "allowed-origins",
        "",
    ),
    (&["hosts", "allowed-host", "server-name", "domain"], "allowed-hosts", ""),
    (&["cert", "certificate", "ssl-cert", "tls-certificate", "cert-file"], "tls-cert", ""),
    (&["key", "ssl-key", "private-key", "key-file"], "tls-key", ""),
    (&["data", "d", "dir", "datadir", "data-path", "storage", "db-path"], "data-dir", ""),
    (&["proxies", "trusted-proxy", "trust-proxy"], "trusted-proxies", ""),
    (&["ttl", "lease", "lease-duration"], "lease-ttl", ""),
    (&["heartbeat-interval", "ping"], "ping-interval", ""),
    (&["heartbeat-timeout", "ping-timeout"], "pong-timeout", ""),
    (&["max-connections", "max-clients", "connections"], "connections-max", ""),
    (
        &["max-message-size", "max-message-bytes", "message-size-max"],
        "client-message-bytes-max",
        "",
    ),
    (&["anonymous", "allow-anonymous", "no-auth", "auth-mode"], "auth", "open or required"),
    (&["c", "config-file", "conf"], "config", ""),
];

/// Names of the log's level in other programs.
const LOGGING: &[&str] = &["log", "log-level", "loglevel", "v", "verbose", "debug", "quiet", "q"];

/// Variables of this project's other programs, of its tests, of its build and of its deployment files.
const OTHER_PROGRAMS: &[&str] = &[
    CONFIG_ENV,
    URL_ENV,
    TOKEN_ENV,
    "FANFARE_USERNAME",
    "FANFARE_PASSWORD",
    "FANFARE_BIN",
    "FANFARE_SEED",
    "FANFARE_SEEDS",
    "FANFARE_WORLDS",
    "FANFARE_PAGES",
    "FANFARE_ST_EXAMPLES",
    // Set by `build.rs`, and so by `cargo run` and `cargo test`.
    "FANFARE_TARGET",
    "FANFARE_PROFILE",
    "FANFARE_RUSTC",
    // deploy/.env, which a compose file may pass on as a whole.
    "FANFARE_SITE",
    "FANFARE_UPSTREAM",
    "FANFARE_CERTIFICATES",
    "FANFARE_PUBLISH",
    "FANFARE_PUBLISH_HTTP",
    "FANFARE_PUBLISH_HTTPS",
];

/// The name that was probably meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meant {
    /// A key, and a remark on it.
    Key(&'static str, &'static str),
    /// The variable of the log.
    Logging,
}

impl Meant {
    /// The hint for a flag.
    pub(super) fn for_flag(self) -> String {
        self.words(|key| format!("--{key}"))
    }

    /// The hint for a key of the file, in the spelling of the unknown name.
    pub(super) fn for_file(self, name: &str) -> String {
        let is_snake = name.contains('_');
        self.words(|key| if is_snake { key.replace('-', "_") } else { key.to_owned() })
    }

    /// The hint for a variable.
    fn for_variable(self) -> String {
        self.words(|key| {
            let row = KEYS.iter().find(|row| row.name == key);
            row.map_or_else(|| variable(key), super::keys::Key::env)
        })
    }

    fn words(self, spell: impl Fn(&str) -> String) -> String {
        match self {
            Meant::Key(key, "") => format!("is {} meant?", spell(key)),
            Meant::Key(key, note) => format!("is {} meant? It takes {note}", spell(key)),
            Meant::Logging => {
                String::from("the variable RUST_LOG says what is logged: RUST_LOG=debug")
            }
        }
    }
}

fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('-', "_").to_ascii_uppercase())
}

/// The meaning of a name in similar programs.
pub(super) fn elsewhere(name: &str) -> Option<Meant> {
    let name = name.to_ascii_lowercase().replace('_', "-");
    if LOGGING.contains(&&*name) {
        return Some(Meant::Logging);
    }
    let row = ELSEWHERE.iter().find(|(names, ..)| names.contains(&&*name))?;
    Some(Meant::Key(row.1, row.2))
}

/// The meaning of a name in similar programs, or else the key with the most similar spelling.
pub(super) fn meant(name: &str) -> Option<Meant> {
    elsewhere(name).or_else(|| {
        let name = name.to_ascii_lowercase().replace('_', "-");
        let keys = KEYS.iter().map(|key| key.name).chain(["config"]);
        let rated = keys.map(|key| (strsim::jaro(key, &name), key));
        let (likeness, best) = rated.max_by(|one, other| one.0.total_cmp(&other.0))?;
        (likeness >= LIKENESS_THRESHOLD).then_some(Meant::Key(best, ""))
    })
}

/// The fault of a variable that looks like a key's and is none.
pub(super) fn check_variable(name: &str, value: &str) -> Option<String> {
    let rest = name.strip_prefix(PREFIX)?;
    let is_known = OTHER_PROGRAMS.contains(&name)
        || rest.starts_with("TEST_")
        || KEYS.iter().any(|key| key.env() == name)
        || is_injected(rest, value);
    if is_known {
        return None;
    }
    let hint = meant(rest).map_or_else(|| String::from("see --help"), Meant::for_variable);
    Some(format!("unknown variable; {hint}"))
}

/// Whether Kubernetes or Docker wrote a variable for a service or container called `fanfare`, or
/// `fanfare-` and more. The name comes without its prefix.
///
/// <https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables>
fn is_injected(rest: &str, value: &str) -> bool {
    let is_url = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    let has = |part: &str| rest.starts_with(part) || rest.contains(&format!("_{part}"));
    let is_service = rest.ends_with("SERVICE_HOST") || has("SERVICE_PORT");
    // `PORT` may be meant as a port; Kubernetes writes a URL there.
    let is_port = (rest == "PORT" || rest.ends_with("_PORT")) && is_url;
    let protocols = ["TCP", "UDP", "SCTP"];
    let is_protocol = protocols.iter().any(|protocol| {
        let parts = ["", "_ADDR", "_PORT", "_PROTO"];
        parts.iter().any(|part| {
            let head = rest.strip_suffix(&format!("_{protocol}{part}"));
            let number = head.and_then(|head| head.rsplit_once("PORT_")).map(|(_, number)| number);
            number.is_some_and(|number| number.parse::<u16>().is_ok())
        })
    });
    // `docker run --link` adds the container's name and all its variables.
    let is_link = (rest == "NAME" && value.starts_with('/')) || rest.starts_with("ENV_");
    is_service || is_port || is_protocol || is_link
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hint_leads_to_a_key() {
        for (names, key, _) in ELSEWHERE {
            assert!(*key == "config" || KEYS.iter().any(|row| row.name == *key), "{key}");
            for name in *names {
                assert!(KEYS.iter().all(|row| row.name != *name), "{name} is a key itself");
            }
        }
    }

    #[test]
    fn a_near_miss_finds_its_key_and_nonsense_none() {
        for (name, key) in [
            ("bnd", "bind"),
            ("BIDN", "bind"),
            ("lease_tll", "lease-ttl"),
            ("OUTBOX_BYTES", "outbox-bytes-max"),
            ("allowed_origns", "allowed-origins"),
            ("PORT", "bind"),
            ("data_dri", "data-dir"),
        ] {
            let Some(Meant::Key(found, _)) = meant(name) else { panic!("{name}: nothing") };
            assert_eq!(found, key, "{name}");
        }
        for name in ["limits", "xyzzy", "q7"] {
            assert_eq!(meant(name), None, "{name}");
        }
        assert_eq!(meant("log_level"), Some(Meant::Logging));
    }

    #[test]
    fn variables_of_others_are_let_be() {
        for (name, value) in [
            ("FANFARE_BIND", "x"),
            ("FANFARE_CONFIG", "x"),
            ("FANFARE_TEST_POSTGRES", "postgres://x"),
            ("FANFARE_SEED", "1"),
            ("FANFARE_SERVICE_HOST", "10.96.0.7"),
            ("FANFARE_SERVICE_PORT", "8080"),
            ("FANFARE_SERVICE_PORT_HTTP", "8080"),
            ("FANFARE_PORT", "tcp://10.96.0.7:8080"),
            ("FANFARE_PORT_8080_TCP", "tcp://10.96.0.7:8080"),
            ("FANFARE_PORT_8080_TCP_PROTO", "tcp"),
            ("FANFARE_PORT_8080_TCP_PORT", "8080"),
            ("FANFARE_PORT_8080_TCP_ADDR", "10.96.0.7"),
            ("FANFARE_HEADLESS_SERVICE_HOST", "10.96.0.7"),
            ("FANFARE_HEADLESS_SERVICE_PORT_HTTP", "8080"),
            ("FANFARE_HEADLESS_PORT", "tcp://10.96.0.7:8080"),
            ("FANFARE_HEADLESS_PORT_53_UDP_ADDR", "10.96.0.7"),
            ("FANFARE_NAME", "/app/fanfare"),
            ("FANFARE_ENV_PATH", "/bin"),
            ("FANFAREX", "x"),
            ("JWT_SECRT", "x"),
        ] {
            assert_eq!(check_variable(name, value), None, "{name}");
        }
        for (name, value, hint) in [
            ("FANFARE_BND", "x", "is FANFARE_BIND meant?"),
            ("FANFARE_PORT", "9000", "is FANFARE_BIND meant? It takes address and port"),
            ("FANFARE_JWT_SECRET", "x", "is JWT_SECRET meant?"),
            ("FANFARE_REDIS_URL", "x", "is REDIS_URL meant?"),
            ("FANFARE_LOG", "debug", "RUST_LOG"),
            ("FANFARE_XYZZY", "1", "see --help"),
            ("FANFARE_PORT_TCP", "1", "unknown variable"),
            ("FANFARE_bind", "x", "is FANFARE_BIND meant?"),
        ] {
            let message = check_variable(name, value).unwrap_or_default();
            assert!(
                message.starts_with("unknown variable; ") && message.contains(hint),
                "{name}: {message}"
            );
        }
    }
}
