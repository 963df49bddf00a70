//! The table of keys: every setting, one row each.
//!
//! Imports its siblings, `auth`, `limits`, `logging`, `redacted` and `ws`. Part of `config`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde_json::Value;

use super::value::{count, duration, parse_switch, quote, size};
use super::{AuthMode, Config};
use crate::auth::accounts::Registration;
use crate::auth::{self, Scopes};
use crate::limits::{self, KIB, MIB};
use crate::logging::LogFormat;
use crate::redacted;
use crate::ws::base_path::BadBasePath;
use crate::ws::forwarded::BadProxy;
use crate::ws::hosts::BadHost;
use crate::ws::networks::BadNetwork;

/// The value of a key that is not set.
pub(super) enum Unset {
    /// This text, read like any other.
    Is(&'static str),
    /// A value that depends on the machine or on other keys, described by this text.
    Follows(&'static str),
}

/// One key of the configuration.
pub(super) struct Key {
    /// The flag without its dashes. In the file `-` may be `_`; in `config.json` it is.
    pub(super) name: &'static str,
    /// The variable, if it is not `FANFARE_` and the name in upper case.
    pub(super) env: Option<&'static str>,
    /// The placeholder after the flag, in the help.
    pub(super) placeholder: &'static str,
    /// The default, for the help. A test reads it and compares with `Config::default()`.
    pub(super) unset: Unset,
    /// One line of help.
    pub(super) help: &'static str,
    /// Reads a value into its field, or returns its fault and changes nothing.
    pub(super) parse: fn(&mut Config, &str) -> Result<(), String>,
    /// Shows the field as JSON, secrets as `"***"`.
    pub(super) show: fn(&Config) -> Value,
}

impl Key {
    /// The variable of the environment.
    pub(super) fn env(&self) -> String {
        self.env.map_or_else(
            || format!("FANFARE_{}", self.name.replace('-', "_").to_ascii_uppercase()),
            str::to_owned,
        )
    }

    /// The name in `config.json` and, usually, in the file.
    pub(super) fn snake_case(&self) -> String {
        self.name.replace('-', "_")
    }
}

/// The keys that all nodes of a cluster have to set alike.
pub(super) const SHARED: &[&str] = &[
    "auth",
    "registration",
    "default-scopes",
    "group-invitations",
    "lease-ttl",
    "self-protection-max",
    "topic-bytes-max",
    "instances-max",
    "instance-bytes-max",
    "instances-bytes-max",
    "service-forget-after",
    "service-history-max",
    "service-history-bytes-max",
    "channel-history-max",
    "channel-history-bytes-max",
];

/// Returns the row of a key that this module names itself.
pub(super) fn index_of(name: &str) -> usize {
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
pub(super) static KEYS: &[Key] = &[
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
        unset: Unset::Follows(
            "required where a secret, a public key or Redis is given, else open on loopback",
        ),
        help: "Callers that are served: open (all) or required (those with a token)",
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
            auth::check_secret(text.as_bytes())?;
            config.jwt_secret = Some(text.to_owned());
            Ok(())
        },
        show: |config| config.jwt_secret.as_ref().map(|_| "***").into(),
    },
    Key {
        name: "jwt-public-key",
        env: Some("JWT_PUBLIC_KEY"),
        placeholder: "FILE",
        unset: Unset::Follows("none: tokens are signed with the secret"),
        help: "Public key (PEM) of the tokens' issuer: RS256, ES256 or EdDSA by its kind",
        parse: |config, text| {
            config.jwt_public_key = Some(file(text)?);
            Ok(())
        },
        show: |config| config.jwt_public_key.as_ref().map(|path| path.to_string_lossy()).into(),
    },
    Key {
        name: "jwt-other-secrets",
        env: Some("JWT_OTHER_SECRETS"),
        placeholder: "LIST",
        unset: Unset::Follows("none"),
        help: "Secrets, by comma, whose tokens are accepted too: the old or the next one",
        parse: |config, text| {
            let secrets: Vec<String> = text.split(',').map(str::to_owned).collect();
            let most = limits::JWT_OTHER_SECRETS_MAX;
            if secrets.len() > most {
                return Err(format!("{} secrets; at most {most}", secrets.len()));
            }
            secrets.iter().try_for_each(|secret| auth::check_secret(secret.as_bytes()))?;
            config.jwt_other_secrets = secrets;
            Ok(())
        },
        show: |config| vec!["***"; config.jwt_other_secrets.len()].into(),
    },
    Key {
        name: "jwt-jwks-file",
        env: None,
        placeholder: "FILE",
        unset: Unset::Follows("none: tokens are signed with the secret"),
        help: "Public keys (JWKS) of the tokens' issuer; read again on SIGHUP and as below",
        parse: |config, text| {
            config.jwt_jwks_file = Some(file(text)?);
            Ok(())
        },
        show: |config| config.jwt_jwks_file.as_ref().map(|path| path.to_string_lossy()).into(),
    },
    Key {
        name: "jwt-jwks-url",
        env: None,
        placeholder: "URL",
        unset: Unset::Follows("none: tokens are signed with the secret"),
        help: "The same at an http:// or https:// URL; the last good keys are kept in the data directory",
        parse: |config, text| {
            config.jwt_jwks_url = Some(parse_http_url(text)?);
            Ok(())
        },
        show: |config| config.jwt_jwks_url.as_deref().map(redacted::url).into(),
    },
    bounded!(
        "jwt-jwks-refresh",
        duration(limits::JWKS_REFRESH_MS_MIN..=limits::JWKS_REFRESH_MS_MAX),
        "5m",
        jwt_jwks_refresh_ms,
        "How often the JWKS is read again; a token of an unknown key has it read at once"
    ),
    Key {
        name: "jwt-issuer",
        env: None,
        placeholder: "TEXT",
        unset: Unset::Follows("any"),
        help: "The iss that tokens need, letter by letter",
        parse: |config, text| {
            config.jwt_issuer = Some(parse_claim(text)?);
            Ok(())
        },
        show: |config| config.jwt_issuer.as_deref().into(),
    },
    Key {
        name: "jwt-audience",
        env: None,
        placeholder: "LIST",
        unset: Unset::Follows("any"),
        help: "The aud values, by comma, of which tokens need one",
        parse: |config, text| {
            let values = text.split(',').map(|value| parse_claim(value.trim()));
            config.jwt_audience = values.collect::<Result<_, _>>()?;
            Ok(())
        },
        show: |config| config.jwt_audience.clone().into(),
    },
    bounded!(
        "login-token-ttl",
        duration(limits::LOGIN_TOKEN_MS_MIN..=limits::TOKEN_TTL_MS_MAX),
        "1h",
        login_token_ttl_ms,
        "Lifetime of a token from a login; clients renew theirs before its end"
    ),
    bounded!(
        "session-max",
        duration(limits::LOGIN_TOKEN_MS_MIN..=limits::TOKEN_TTL_MS_MAX),
        "30d",
        session_max_ms,
        "How long after a login its tokens can be renewed without the password"
    ),
    Key {
        name: "tls-cert",
        env: None,
        placeholder: "FILE",
        unset: Unset::Follows("none: no TLS"),
        help: "Certificate chain (PEM); read again on SIGHUP",
        parse: |config, text| {
            config.tls_cert = Some(file(text)?);
            Ok(())
        },
        show: |config| config.tls_cert.as_ref().map(|path| path.to_string_lossy()).into(),
    },
    Key {
        name: "tls-key",
        env: None,
        placeholder: "FILE",
        unset: Unset::Follows("none: no TLS"),
        help: "Private key of the certificate (PEM); read again on SIGHUP",
        parse: |config, text| {
            config.tls_key = Some(file(text)?);
            Ok(())
        },
        show: |config| config.tls_key.as_ref().map(|path| path.to_string_lossy()).into(),
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
        help: "Database: sqlite://PATH or postgres://USER:PASSWORD@HOST/NAME",
        parse: |config, text| {
            // The text may hold a password, so it is not quoted.
            if !["sqlite:", "postgres:", "postgresql:"].iter().any(|known| text.starts_with(known))
            {
                return Err("not a URL that starts with sqlite:// or postgres://".to_owned());
            }
            let is_sqlite = text.starts_with("sqlite:");
            if is_sqlite && (text.contains(":memory:") || text.contains("mode=memory")) {
                return Err("a database in memory forgets everything; name a file".to_owned());
            }
            config.database_url = Some(text.to_owned());
            Ok(())
        },
        show: |config| config.database_url.as_deref().map(redacted::url).into(),
    },
    Key {
        name: "redis-url",
        env: Some("REDIS_URL"),
        placeholder: "URL",
        unset: Unset::Follows("none: a single node"),
        help: "Redis that joins several nodes: redis://USER:PASSWORD@HOST:6379; rediss:// is TLS",
        parse: |config, text| {
            // The text may hold a password, so it is not quoted.
            let schemes = ["redis://", "rediss://", "redis+unix://", "unix://"];
            if !schemes.iter().any(|known| text.starts_with(known)) {
                return Err("not a URL that starts with redis:// or rediss://".to_owned());
            }
            if text.contains('#') {
                // The library would trust any certificate with `#insecure`.
                return Err("a URL with a fragment; write # in a password as %23".to_owned());
            }
            config.redis_url = Some(text.to_owned());
            Ok(())
        },
        show: |config| config.redis_url.as_deref().map(redacted::url).into(),
    },
    Key {
        name: "redis-ca",
        env: None,
        placeholder: "FILE",
        unset: Unset::Follows("the authorities of the system"),
        help: "Authorities (PEM) that may sign the certificate of Redis, for rediss://",
        parse: |config, text| {
            config.redis_ca = Some(file(text)?);
            Ok(())
        },
        show: |config| config.redis_ca.as_ref().map(|path| path.to_string_lossy()).into(),
    },
    Key {
        name: "redis-cert",
        env: None,
        placeholder: "FILE",
        unset: Unset::Follows("none: no client certificate"),
        help: "Certificate chain (PEM) that this node shows to Redis, for rediss://",
        parse: |config, text| {
            config.redis_cert = Some(file(text)?);
            Ok(())
        },
        show: |config| config.redis_cert.as_ref().map(|path| path.to_string_lossy()).into(),
    },
    Key {
        name: "redis-key",
        env: None,
        placeholder: "FILE",
        unset: Unset::Follows("none: no client certificate"),
        help: "Private key (PEM) of that certificate",
        parse: |config, text| {
            config.redis_key = Some(file(text)?);
            Ok(())
        },
        show: |config| config.redis_key.as_ref().map(|path| path.to_string_lossy()).into(),
    },
    Key {
        name: "differing-settings",
        env: None,
        placeholder: "on|off",
        unset: Unset::Is("off"),
        help: "Whether this node is ready beside nodes with other shared settings, while these are changed",
        parse: |config, text| {
            config.differing_settings = parse_switch(text)?;
            Ok(())
        },
        show: |config| config.differing_settings.into(),
    },
    Key {
        name: "allowed-hosts",
        env: None,
        placeholder: "LIST",
        unset: Unset::Follows("loopback and the bind address; with --auth required, any"),
        help: "Names clients may call the server by, by comma: fanfare.example.org, *.internal",
        parse: |config, text| {
            config.allowed_hosts = text.parse().map_err(|BadHost(entry)| {
                format!("{} is not a host like fanfare.example.org or *.internal", quote(&entry))
            })?;
            Ok(())
        },
        show: |config| config.allowed_hosts.iter().collect::<Vec<_>>().into(),
    },
    Key {
        name: "allowed-origins",
        env: None,
        placeholder: "LIST",
        unset: Unset::Follows("the server's own names"),
        help: "Origins whose pages may call, by comma: https://app.example.org; null; * is any",
        parse: |config, text| {
            let origins = text.split(',').map(str::trim).filter(|origin| !origin.is_empty());
            config.allowed_origins = origins.map(parse_origin).collect::<Result<_, _>>()?;
            Ok(())
        },
        show: |config| config.allowed_origins.clone().into(),
    },
    Key {
        name: "base-path",
        env: None,
        placeholder: "PATH",
        unset: Unset::Is("/"),
        help: "Path below which the server answers, beside other applications of a site: /push",
        parse: |config, text| {
            config.base_path = text
                .parse()
                .map_err(|BadBasePath| format!("{} is not a path like /push", quote(text)))?;
            Ok(())
        },
        show: |config| format!("{}/", config.base_path).into(),
    },
    Key {
        name: "trusted-proxies",
        env: None,
        placeholder: "LIST",
        unset: Unset::Follows("none"),
        help: "Proxies that may name a client's address, by comma: 10.0.0.0/8, 192.0.2.7",
        parse: |config, text| {
            config.trusted_proxies = text.parse().map_err(|BadProxy(entry)| {
                format!("{} is neither an address nor a network like 10.0.0.0/8", quote(&entry))
            })?;
            Ok(())
        },
        show: |config| config.trusted_proxies.iter().collect::<Vec<_>>().into(),
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
    bounded!(
        "audit-age-max",
        duration(1_000..=3_650 * 86_400_000),
        "7d",
        audit_age_max_ms,
        "Longest time an event stays in the audit log"
    ),
    bounded!(
        "audit-bytes-max",
        size(KIB..=1_024 * 1_024 * MIB),
        "1GiB",
        audit_bytes_max,
        "Bytes of the audit log; beyond, the oldest events go"
    ),
    Key {
        name: "eureka",
        env: None,
        placeholder: "on|off",
        unset: Unset::Is("on"),
        help: "Whether Eureka's clients are served, at /eureka and /eureka/v2",
        parse: |config, text| {
            config.eureka = parse_switch(text)?;
            Ok(())
        },
        show: |config| config.eureka.into(),
    },
    Key {
        name: "artemis",
        env: None,
        placeholder: "on|off",
        unset: Unset::Is("on"),
        help: "Whether Artemis' clients get their sockets and lists of nodes",
        parse: |config, text| {
            config.artemis = parse_switch(text)?;
            Ok(())
        },
        show: |config| config.artemis.into(),
    },
    Key {
        name: "artemis-networks",
        env: None,
        placeholder: "LIST",
        unset: Unset::Follows("none"),
        help: "Addresses from which Artemis' clients need no token, by comma: 10.0.0.0/8, 192.0.2.7",
        parse: |config, text| {
            config.artemis_networks = text.parse().map_err(|BadNetwork(entry)| {
                format!("{} is neither an address nor a network like 10.0.0.0/8", quote(&entry))
            })?;
            Ok(())
        },
        show: |config| config.artemis_networks.iter().collect::<Vec<_>>().into(),
    },
    Key {
        name: "advertise-url",
        env: None,
        placeholder: "URL",
        unset: Unset::Follows("the address by which a client has called"),
        help: "Address by which Artemis' clients reach this node: http://10.0.0.5:8080",
        parse: |config, text| {
            config.advertise_url = Some(parse_base_url(text)?);
            Ok(())
        },
        show: |config| config.advertise_url.clone().into(),
    },
    Key {
        name: "registration",
        env: None,
        placeholder: "open|closed|token",
        unset: Unset::Follows("open on loopback, else closed"),
        help: "Callers that may make an account over HTTP: open (all), closed (none) or token (scope admin)",
        parse: |config, text| {
            config.registration = Registration::parse(text)?;
            Ok(())
        },
        show: |config| config.registration.as_str().into(),
    },
    Key {
        name: "default-scopes",
        env: None,
        placeholder: "SCOPES",
        unset: Unset::Is("message"),
        help: "Scopes of a login token beside the account's own, by space or comma; none is none",
        parse: |config, text| {
            config.default_scopes = parse_scopes(text)?;
            Ok(())
        },
        show: |config| config.default_scopes.to_string().into(),
    },
    Key {
        name: "group-invitations",
        env: None,
        placeholder: "on|off",
        unset: Unset::Is("off"),
        help: "Whether a user added to a group is a member only after accepting",
        parse: |config, text| {
            config.group_invitations = parse_switch(text)?;
            Ok(())
        },
        show: |config| config.group_invitations.into(),
    },
    Key {
        name: "log-format",
        env: None,
        placeholder: "FORMAT",
        unset: Unset::Is("text"),
        help: "Form of the log: text, or json (one object a line)",
        parse: |config, text| {
            config.log_format = match text {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                _ => return Err(format!("{} is neither text nor json", quote(text))),
            };
            Ok(())
        },
        show: |config| config.log_format.as_str().into(),
    },
    Key {
        name: "access-log",
        env: None,
        placeholder: "on|off",
        unset: Unset::Is("off"),
        help: "Whether the log has a line for each request",
        parse: |config, text| {
            config.access_log = parse_switch(text)?;
            Ok(())
        },
        show: |config| config.access_log.into(),
    },
    Key {
        name: "echo",
        env: None,
        placeholder: "on|off",
        unset: Unset::Follows("on on loopback, else off"),
        help: "Whether /ws/echo is there",
        parse: |config, text| {
            config.echo = parse_switch(text)?;
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
        "artemis-heartbeat-bytes-max",
        size(1..=1024 * MIB),
        "8MiB",
        limits.artemis_heartbeat_bytes_max,
        "Largest heartbeat on Artemis' socket"
    ),
    bounded!(
        "artemis-heartbeat-instances-max",
        count(1..=1_000_000),
        "10000",
        limits.artemis_heartbeat_instances_max,
        "Most instances in a heartbeat on Artemis' socket"
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
        "answer-bytes-max",
        size(KIB..=16 * 1024 * MIB),
        "64MiB",
        limits.answer_bytes_max,
        "Largest HTTP answer"
    ),
    bounded!(
        "unsent-answer-bytes-max",
        size(KIB..=64 * 1024 * MIB),
        "128MiB",
        limits.unsent_answer_bytes_max,
        "Most bytes of unsent HTTP answers of one shard"
    ),
    bounded!(
        "unfinished-body-bytes-per-address-max",
        size(KIB..=1024 * MIB),
        "8MiB",
        limits.unfinished_body_bytes_per_address_max,
        "Most bytes of unfinished bodies from one address"
    ),
    bounded!(
        "unfinished-body-bytes-max",
        size(KIB..=64 * 1024 * MIB),
        "64MiB",
        limits.unfinished_body_bytes_max,
        "Most bytes of unfinished bodies of one shard"
    ),
    bounded!(
        "registrations-per-minute-max",
        count(0..=1_000_000),
        "10",
        limits.registrations_per_minute_max,
        "Accounts registered a minute from one address; 0 is no limit"
    ),
    bounded!(
        "unknown-names-per-minute-max",
        count(0..=1_000_000),
        "60",
        limits.unknown_names_per_minute_max,
        "Unknown names that one address may look up a minute; 0 is no limit"
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
        "control-frames-per-s-max",
        count(0..=1_000_000),
        "50",
        limits.control_frames_per_s_max,
        "Pings and pongs a second of one connection; 0 is no limit"
    ),
    bounded!(
        "control-frames-burst-max",
        count(1..=1_000_000),
        "100",
        limits.control_frames_burst_max,
        "Pings and pongs a connection may send at once"
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
        "service-history-bytes-max",
        size(KIB..=1024 * MIB),
        "1MiB",
        limits.service_history_bytes_max,
        "Most bytes of the changes kept per service"
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
    Key {
        name: "connections-per-address-max",
        env: None,
        placeholder: "N",
        unset: Unset::Follows("auto: half of all there is room for, loopback exempt"),
        help: "Most connections of one address, IPv6 by /64; 0 is no limit",
        parse: |config, text| {
            config.limits.connections_per_address_max = match text {
                "auto" => None,
                _ => Some(count::parse(text, 0..=100_000_000)?),
            };
            Ok(())
        },
        show: |config| {
            let set = config.limits.connections_per_address_max;
            set.map_or_else(|| "auto".into(), Value::from)
        },
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
    bounded!(
        "instance-bytes-max",
        size(256..=64 * MIB),
        "64KiB",
        limits.instance_bytes_max,
        "Largest instance, as its JSON"
    ),
    bounded!("channels-max", count(1..=50_000_000), "100000", limits.channels_max, "Most channels"),
    bounded!(
        "channels-per-connection-max",
        count(1..=50_000_000),
        "1024",
        limits.channels_per_connection_max,
        "Most channels that exist because of one connection"
    ),
    Key {
        name: "channels-per-address-max",
        env: None,
        placeholder: "N",
        unset: Unset::Follows("auto: a fifth of `--channels-max`, loopback exempt"),
        help: "Most channels that exist because of one address, IPv6 by /64; 0 is no limit",
        parse: |config, text| {
            config.limits.channels_per_address_max = match text {
                "auto" => None,
                _ => Some(count::parse(text, 0..=50_000_000)?),
            };
            Ok(())
        },
        show: |config| {
            let set = config.limits.channels_per_address_max;
            set.map_or_else(|| "auto".into(), Value::from)
        },
    },
    bounded!(
        "channel-history-bytes-max",
        size(KIB..=1024 * MIB),
        "1MiB",
        limits.channel_history_bytes_max,
        "Most bytes of the messages kept per channel"
    ),
    bounded!(
        "history-bytes-max",
        size(MIB..=1024 * 1024 * MIB),
        "256MiB",
        limits.history_bytes_max,
        "Most bytes of all histories together"
    ),
    bounded!(
        "snapshots-bytes-max",
        size(MIB..=1024 * 1024 * MIB),
        "256MiB",
        limits.snapshots_bytes_max,
        "Most bytes of outdated service snapshots that are still being sent"
    ),
    bounded!("users-max", count(1..=50_000_000), "1000000", limits.users_max, "Most users known"),
    bounded!(
        "instances-bytes-max",
        size(MIB..=1024 * 1024 * MIB),
        "2GiB",
        limits.instances_bytes_max,
        "Most bytes of all instances' JSON"
    ),
    bounded!("services-max", count(1..=50_000_000), "200000", limits.services_max, "Most services"),
    bounded!(
        "service-forget-after",
        duration(1_000..=366 * 86_400_000),
        "24h",
        limits.service_forget_ms,
        "Time for which a service without instances is remembered"
    ),
    bounded!(
        "store-set-rows-max",
        count(1..=1_000_000),
        "20000",
        limits.store_set_rows_max,
        "Most rows of registry changes in one transaction"
    ),
    bounded!(
        "store-set-bytes-max",
        size(64 * KIB..=128 * MIB),
        "16MiB",
        limits.store_set_bytes_max,
        "Most bytes of registry changes in one transaction"
    ),
    bounded!(
        "drain-window",
        duration(0..=limits::DRAIN_WINDOW_MS_MAX),
        "10s",
        limits.drain_window_ms,
        "Time over which a draining server spreads the return of its clients"
    ),
];

fn file(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("the file has no name".to_owned()) } else { Ok(PathBuf::from(text)) }
}

/// Reads the URL of a document. The text may hold a password, so it is not quoted.
fn parse_http_url(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let host = rest.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    match host {
        None => Err("not a URL that starts with https:// or http://".to_owned()),
        Some("") => Err("a URL without a host".to_owned()),
        Some(host) if host.contains('@') => Err("a URL with a name before its host".to_owned()),
        Some(_) if !text.bytes().all(|byte| byte.is_ascii_graphic()) || text.contains('#') => {
            Err("a URL with what a URL cannot hold here".to_owned())
        }
        Some(_) => Ok(text.to_owned()),
    }
}

/// Reads a value that a claim has to have.
fn parse_claim(text: &str) -> Result<String, String> {
    match text.len() {
        0 => Err("an empty value".to_owned()),
        1..=limits::CLAIM_BYTES_MAX => Ok(text.to_owned()),
        bytes => Err(format!("{bytes} bytes; at most {}", limits::CLAIM_BYTES_MAX)),
    }
}

/// Reads scopes between spaces or commas, all of them known.
fn parse_scopes(text: &str) -> Result<Scopes, String> {
    let claim = text.replace(',', " ");
    if claim.trim() == "none" {
        return Ok(Scopes::NONE);
    }
    match Scopes::unknown_words(&claim).next() {
        Some(word) => {
            Err(format!("{} is no scope; there are {}", quote(word), Scopes::WORDS_LISTED))
        }
        None => Ok(Scopes::from_claim(&claim)),
    }
}

/// A URL that paths are appended to: scheme, host, perhaps a port and a path.
fn parse_base_url(text: &str) -> Result<String, String> {
    let fault = || format!("{} is not a URL like http://10.0.0.5:8080", quote(text));
    let text = text.trim_end_matches('/');
    let url: hyper::Uri = text.parse().map_err(|_| fault())?;
    let has_scheme = matches!(url.scheme_str(), Some("http" | "https"));
    let has_host = url.host().is_some_and(|host| !host.is_empty());
    let is_plain = url.query().is_none() && !text.contains(['#', '@']);
    let is_short = text.len() <= limits::NAME_BYTES_MAX;
    if has_scheme && has_host && is_plain && is_short { Ok(text.to_owned()) } else { Err(fault()) }
}

/// Reads an address. A port alone, `:8080`, is that port on loopback, as is `localhost:8080`.
pub(super) fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let port = text.strip_prefix("localhost:").or_else(|| text.strip_prefix(':'));
    let address = match port {
        Some(port) => port.parse().ok().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        None => text.parse().ok(),
    };
    address.ok_or_else(|| {
        let meant = if text.parse::<u16>().is_ok() {
            format!("; is :{text} meant?")
        } else if let Ok(ip) = text.parse::<IpAddr>() {
            format!("; is {} meant?", SocketAddr::new(ip, super::PORT_DEFAULT))
        } else {
            String::new()
        };
        format!("{} is not an address like 127.0.0.1:8080{meant}", quote(text))
    })
}

/// Reads an origin into the form in which browsers send it: lower case, no slash at the end.
pub(super) fn parse_origin(text: &str) -> Result<String, String> {
    let origin = text.strip_suffix('/').unwrap_or(text).to_ascii_lowercase();
    let host = origin.split_once("://").map_or("", |(_, host)| host);
    let is_plain = |c: char| c.is_ascii_graphic() && !"/?#@*".contains(c);
    if origin.starts_with("file:") {
        Err(format!("{} is no origin: a page that is opened as a file sends null", quote(text)))
    } else if origin == "*" || origin == "null" || (!host.is_empty() && host.chars().all(is_plain))
    {
        Ok(origin)
    } else {
        Err(format!("{} is not an origin like https://app.example.org", quote(text)))
    }
}
