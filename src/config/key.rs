//! The table of keys.
//!
//! Imports `limits` and its siblings. Part of `config`.

use std::net::SocketAddr;

use serde_json::Value;

use super::value::{count, duration, parse_switch, quote, size};
use super::{AuthMode, Config};
use crate::limits::{self, MIB};

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// One setting.
#[derive(Debug)]
pub(super) struct Key {
    /// The flag without its dashes; in the file the dashes may be underscores.
    pub(super) flag: &'static str,
    /// The environment variable.
    pub(super) env: &'static str,
    /// What stands for the value in `--help`.
    pub(super) placeholder: &'static str,
    /// What it is.
    pub(super) help: &'static str,
    /// Reads a value, or says what is wrong with it.
    pub(super) set: fn(&mut Config, &str) -> Result<(), String>,
    /// Shows the value, unless it is a secret.
    pub(super) show: fn(&Config) -> Value,
}

/// Every setting there is, in the order of the documentation.
pub(super) static KEYS: &[Key] = &[
    Key {
        flag: "bind",
        env: "FANFARE_BIND",
        placeholder: "ADDR:PORT",
        help: "Listen address; port 0 picks a free one",
        set: |config, text| assign(&mut config.bind, address(text)),
        show: |config| config.bind.to_string().into(),
    },
    Key {
        flag: "shards",
        env: "FANFARE_SHARDS",
        placeholder: count::PLACEHOLDER,
        help: "Shard threads",
        set: |config, text| assign(&mut config.shards, count::parse(text, 1..=limits::SHARDS_MAX)),
        show: |config| count::show(config.shards),
    },
    Key {
        flag: "auth",
        env: "FANFARE_AUTH",
        placeholder: "MODE",
        help: "Who may call: open or required",
        set: |config, text| assign(&mut config.auth, auth_mode(text)),
        show: |config| if config.auth == AuthMode::Open { "open".into() } else { "required".into() },
    },
    Key {
        flag: "jwt-secret",
        env: "JWT_SECRET",
        placeholder: "SECRET",
        help: "HS256 secret; generated and kept in the data directory where none is given",
        set: |config, text| assign(&mut config.jwt_secret, not_empty(text).map(Some)),
        show: |config| hidden(config.jwt_secret.as_ref()),
    },
    Key {
        flag: "data-dir",
        env: "FANFARE_DATA_DIR",
        placeholder: "DIR",
        help: "Embedded storage",
        set: |config, text| assign(&mut config.data_dir, not_empty(text).map(Into::into)),
        show: |config| config.data_dir.to_string_lossy().into_owned().into(),
    },
    Key {
        flag: "database-url",
        env: "DATABASE_URL",
        placeholder: "URL",
        help: "Database, sqlite://FILE; a file in the data directory where none is given",
        set: |config, text| assign(&mut config.database_url, not_empty(text).map(Some)),
        show: |config| hidden(config.database_url.as_ref()),
    },
    Key {
        flag: "allowed-origins",
        env: "FANFARE_ALLOWED_ORIGINS",
        placeholder: "LIST",
        help: "Origins a browser may open a WebSocket from, by comma; the own host where none is given",
        set: |config, text| assign(&mut config.allowed_origins, Ok(list(text))),
        show: |config| config.allowed_origins.clone().into(),
    },
    Key {
        flag: "lease-ttl",
        env: "FANFARE_LEASE_TTL",
        placeholder: duration::PLACEHOLDER,
        help: "Lease of an instance that asks for none",
        set: |config, text| assign(&mut config.lease_ttl_ms, duration::parse(text, limits::LEASE_TTL_MS_MIN..=limits::LEASE_TTL_MS_MAX)),
        show: |config| duration::show(config.lease_ttl_ms),
    },
    Key {
        flag: "self-protection-max",
        env: "FANFARE_SELF_PROTECTION_MAX",
        placeholder: duration::PLACEHOLDER,
        help: "Longest time expiry of a service is held",
        set: |config, text| assign(&mut config.self_protection_max_ms, duration::parse(text, 1_000..=DAY_MS)),
        show: |config| duration::show(config.self_protection_max_ms),
    },
    Key {
        flag: "echo",
        env: "FANFARE_ECHO",
        placeholder: "on|off",
        help: "Whether /ws/echo exists; on for loopback, else off, where it is not said",
        set: |config, text| assign(&mut config.echo, parse_switch(text)),
        show: |config| if config.echo { "on".into() } else { "off".into() },
    },
    Key {
        flag: "client-message-bytes-max",
        env: "FANFARE_CLIENT_MESSAGE_BYTES_MAX",
        placeholder: size::PLACEHOLDER,
        help: "Largest message of a client",
        set: |config, text| assign(&mut config.limits.client_message_bytes_max, size::parse(text, 64..=64 * MIB)),
        show: |config| size::show(config.limits.client_message_bytes_max),
    },
    Key {
        flag: "echo-message-bytes-max",
        env: "FANFARE_ECHO_MESSAGE_BYTES_MAX",
        placeholder: size::PLACEHOLDER,
        help: "Largest message on /ws/echo",
        set: |config, text| assign(&mut config.limits.echo_message_bytes_max, size::parse(text, 64..=64 * MIB)),
        show: |config| size::show(config.limits.echo_message_bytes_max),
    },
    Key {
        flag: "http-registry-body-bytes-max",
        env: "FANFARE_HTTP_REGISTRY_BODY_BYTES_MAX",
        placeholder: size::PLACEHOLDER,
        help: "Largest body of a registry request",
        set: |config, text| assign(&mut config.limits.http_registry_body_bytes_max, size::parse(text, 1_024..=1_024 * MIB)),
        show: |config| size::show(config.limits.http_registry_body_bytes_max),
    },
    Key {
        flag: "http-body-bytes-max",
        env: "FANFARE_HTTP_BODY_BYTES_MAX",
        placeholder: size::PLACEHOLDER,
        help: "Largest body of any other request",
        set: |config, text| assign(&mut config.limits.http_body_bytes_max, size::parse(text, 1_024..=1_024 * MIB)),
        show: |config| size::show(config.limits.http_body_bytes_max),
    },
    Key {
        flag: "request-head-bytes-max",
        env: "FANFARE_REQUEST_HEAD_BYTES_MAX",
        placeholder: size::PLACEHOLDER,
        help: "Largest request head",
        set: |config, text| assign(&mut config.limits.request_head_bytes_max, size::parse(text, 1_024..=MIB)),
        show: |config| size::show(config.limits.request_head_bytes_max),
    },
    Key {
        flag: "request-headers-max",
        env: "FANFARE_REQUEST_HEADERS_MAX",
        placeholder: count::PLACEHOLDER,
        help: "Most headers of a request",
        set: |config, text| assign(&mut config.limits.request_headers_max, count::parse(text, 8..=256)),
        show: |config| count::show(config.limits.request_headers_max),
    },
    Key {
        flag: "handshake-timeout",
        env: "FANFARE_HANDSHAKE_TIMEOUT",
        placeholder: duration::PLACEHOLDER,
        help: "Time for a request head to arrive",
        set: |config, text| assign(&mut config.limits.handshake_timeout_ms, duration::parse(text, 100..=HOUR_MS)),
        show: |config| duration::show(config.limits.handshake_timeout_ms),
    },
    Key {
        flag: "body-timeout",
        env: "FANFARE_BODY_TIMEOUT",
        placeholder: duration::PLACEHOLDER,
        help: "Time for a body to arrive",
        set: |config, text| assign(&mut config.limits.body_timeout_ms, duration::parse(text, 100..=HOUR_MS)),
        show: |config| duration::show(config.limits.body_timeout_ms),
    },
    Key {
        flag: "subscriptions-per-connection-max",
        env: "FANFARE_SUBSCRIPTIONS_PER_CONNECTION_MAX",
        placeholder: count::PLACEHOLDER,
        help: "Topics one connection may follow",
        set: |config, text| assign(&mut config.limits.subscriptions_per_connection_max, count::parse(text, 1..=100_000)),
        show: |config| count::show(config.limits.subscriptions_per_connection_max),
    },
    Key {
        flag: "connections-per-user-max",
        env: "FANFARE_CONNECTIONS_PER_USER_MAX",
        placeholder: count::PLACEHOLDER,
        help: "Connections of one user",
        set: |config, text| assign(&mut config.limits.connections_per_user_max, count::parse(text, 1..=100_000)),
        show: |config| count::show(config.limits.connections_per_user_max),
    },
    Key {
        flag: "client-messages-per-s-max",
        env: "FANFARE_CLIENT_MESSAGES_PER_S_MAX",
        placeholder: count::PLACEHOLDER,
        help: "Messages a second from one connection; 0 = no limit",
        set: |config, text| assign(&mut config.limits.client_messages_per_s_max, count::parse(text, 0..=1_000_000)),
        show: |config| count::show(config.limits.client_messages_per_s_max),
    },
    Key {
        flag: "client-messages-burst-max",
        env: "FANFARE_CLIENT_MESSAGES_BURST_MAX",
        placeholder: count::PLACEHOLDER,
        help: "Messages a connection may send at once",
        set: |config, text| assign(&mut config.limits.client_messages_burst_max, count::parse(text, 1..=1_000_000)),
        show: |config| count::show(config.limits.client_messages_burst_max),
    },
    Key {
        flag: "topic-bytes-max",
        env: "FANFARE_TOPIC_BYTES_MAX",
        placeholder: count::PLACEHOLDER,
        help: "Longest topic name",
        set: |config, text| assign(&mut config.limits.topic_bytes_max, count::parse(text, 1..=limits::NAME_BYTES_MAX)),
        show: |config| count::show(config.limits.topic_bytes_max),
    },
    Key {
        flag: "service-history-max",
        env: "FANFARE_SERVICE_HISTORY_MAX",
        placeholder: count::PLACEHOLDER,
        help: "Changes a service remembers",
        set: |config, text| assign(&mut config.limits.service_history_max, count::parse(text, 1..=1_000_000)),
        show: |config| count::show(config.limits.service_history_max),
    },
    Key {
        flag: "channel-history-max",
        env: "FANFARE_CHANNEL_HISTORY_MAX",
        placeholder: count::PLACEHOLDER,
        help: "Messages a channel remembers",
        set: |config, text| assign(&mut config.limits.channel_history_max, count::parse(text, 1..=1_000_000)),
        show: |config| count::show(config.limits.channel_history_max),
    },
    Key {
        flag: "connections-max",
        env: "FANFARE_CONNECTIONS_MAX",
        placeholder: count::PLACEHOLDER,
        help: "Connections in all; what the descriptor limit allows where it is not said",
        set: |config, text| assign(&mut config.limits.connections_max, count::parse(text, 1..=100_000_000).map(Some)),
        show: |config| config.limits.connections_max.map_or(Value::Null, count::show),
    },
    Key {
        flag: "outbox-bytes-max",
        env: "FANFARE_OUTBOX_BYTES_MAX",
        placeholder: size::PLACEHOLDER,
        help: "Unsent bytes held for one connection",
        set: |config, text| assign(&mut config.limits.outbox_bytes_max, size::parse(text, 1_024..=1_024 * MIB)),
        show: |config| size::show(config.limits.outbox_bytes_max),
    },
    Key {
        flag: "outbox-frames-max",
        env: "FANFARE_OUTBOX_FRAMES_MAX",
        placeholder: count::PLACEHOLDER,
        help: "Unsent frames held for one connection",
        set: |config, text| assign(&mut config.limits.outbox_frames_max, count::parse(text, 1..=1_000_000)),
        show: |config| count::show(config.limits.outbox_frames_max),
    },
    Key {
        flag: "write-timeout",
        env: "FANFARE_WRITE_TIMEOUT",
        placeholder: duration::PLACEHOLDER,
        help: "Time a connection may take nothing",
        set: |config, text| assign(&mut config.limits.write_timeout_ms, duration::parse(text, 100..=HOUR_MS)),
        show: |config| duration::show(config.limits.write_timeout_ms),
    },
    Key {
        flag: "ping-interval",
        env: "FANFARE_PING_INTERVAL",
        placeholder: duration::PLACEHOLDER,
        help: "Time between two pings",
        set: |config, text| assign(&mut config.limits.ping_interval_ms, duration::parse(text, 100..=HOUR_MS)),
        show: |config| duration::show(config.limits.ping_interval_ms),
    },
    Key {
        flag: "pong-timeout",
        env: "FANFARE_PONG_TIMEOUT",
        placeholder: duration::PLACEHOLDER,
        help: "Time to answer a ping",
        set: |config, text| assign(&mut config.limits.pong_timeout_ms, duration::parse(text, 100..=HOUR_MS)),
        show: |config| duration::show(config.limits.pong_timeout_ms),
    },
    Key {
        flag: "mailbox-messages-max",
        env: "FANFARE_MAILBOX_MESSAGES_MAX",
        placeholder: count::PLACEHOLDER,
        help: "Messages waiting between two threads",
        set: |config, text| assign(&mut config.limits.mailbox_messages_max, count::parse(text, 64..=16_777_216)),
        show: |config| count::show(config.limits.mailbox_messages_max),
    },
    Key {
        flag: "instances-max",
        env: "FANFARE_INSTANCES_MAX",
        placeholder: count::PLACEHOLDER,
        help: "Registered instances",
        set: |config, text| assign(&mut config.limits.instances_max, count::parse(text, 1..=100_000_000)),
        show: |config| count::show(config.limits.instances_max),
    },
    Key {
        flag: "services-max",
        env: "FANFARE_SERVICES_MAX",
        placeholder: count::PLACEHOLDER,
        help: "Services ever seen",
        set: |config, text| assign(&mut config.limits.services_max, count::parse(text, 1..=100_000_000)),
        show: |config| count::show(config.limits.services_max),
    },
    Key {
        flag: "drain-window",
        env: "FANFARE_DRAIN_WINDOW",
        placeholder: duration::PLACEHOLDER,
        help: "Time over which clients are sent away at the end",
        set: |config, text| assign(&mut config.limits.drain_window_ms, duration::parse(text, 0..=limits::DRAIN_WINDOW_MS_MAX)),
        show: |config| duration::show(config.limits.drain_window_ms),
    },
];

fn assign<T>(place: &mut T, value: Result<T, String>) -> Result<(), String> {
    *place = value?;
    Ok(())
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{} is not an address like 127.0.0.1:8080", quote(text)))
}

fn auth_mode(text: &str) -> Result<AuthMode, String> {
    match text {
        "open" => Ok(AuthMode::Open),
        "required" => Ok(AuthMode::Required),
        _ => Err(format!("{} is neither open nor required", quote(text))),
    }
}

fn not_empty(text: &str) -> Result<String, String> {
    if text.is_empty() { Err(String::from("is empty")) } else { Ok(text.to_owned()) }
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

/// A secret, or an address that may hold one.
fn hidden(secret: Option<&String>) -> Value {
    secret.map_or(Value::Null, |_| "***".into())
}
