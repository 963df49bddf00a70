//! The target: the server's address, and the handshake that opens a socket to it.
//!
//! Imports nothing of the crate. Imported by `fleet`, `publisher`, `process` and the scenarios.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use serde_json::Value;
use tungstenite::handshake::client::generate_key;
use tungstenite::handshake::derive_accept_key;

/// How long an HTTP answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A server to load, resolved.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// The first address that the host resolved to.
    pub(crate) address: SocketAddr,
    /// Host and port as in the URL.
    host: String,
    /// Path and query.
    path: String,
    token: Option<String>,
}

/// The reason why a `--url` cannot be used.
#[derive(Debug)]
pub(crate) enum TargetError {
    /// `wss://` or `https://`.
    Tls,
    /// Neither `ws://` nor another known scheme.
    Scheme(String),
    /// The host does not resolve.
    Resolve(String, io::Error),
    /// The token holds a character that no header may hold.
    Token,
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TargetError::Tls => write!(
                f,
                "--url: TLS is not supported; measure the server itself with ws://, not its proxy"
            ),
            TargetError::Scheme(url) => {
                write!(f, "--url: '{url}' is not of the form ws://host:port/path")
            }
            TargetError::Resolve(host, error) => {
                write!(f, "--url: cannot resolve '{host}': {error}")
            }
            TargetError::Token => write!(f, "--token: not a bearer token"),
        }
    }
}

impl std::error::Error for TargetError {}

impl Target {
    /// Parses and resolves `url`.
    pub(crate) fn parse(url: &str, token: Option<&str>) -> Result<Target, TargetError> {
        let scheme_end = url.find("://").ok_or_else(|| TargetError::Scheme(url.to_owned()))?;
        let rest = &url[scheme_end + 3..];
        match url[..scheme_end].to_ascii_lowercase().as_str() {
            "ws" | "http" => {}
            "wss" | "https" => return Err(TargetError::Tls),
            _ => return Err(TargetError::Scheme(url.to_owned())),
        }
        let host_end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (host, path) = rest.split_at(host_end);
        let is_clean = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        if !is_clean(host) || !path.is_empty() && !is_clean(path) || host.contains('@') {
            return Err(TargetError::Scheme(url.to_owned()));
        }
        if token.is_some_and(|token| !is_clean(token)) {
            return Err(TargetError::Token);
        }
        let path = match path {
            "" => "/ws".to_owned(),
            query if query.starts_with('?') => format!("/ws{query}"),
            path => path.to_owned(),
        };
        let address = resolve(host).map_err(|e| TargetError::Resolve(host.to_owned(), e))?;
        let token = token.map(str::to_owned);
        Ok(Target { address, host: host.to_owned(), path, token })
    }

    /// The same server, called with another token.
    pub(crate) fn signed_in(&self, token: &str) -> Target {
        Target { token: Some(token.to_owned()), ..self.clone() }
    }

    /// The request that opens a socket, and the accept value that must answer it.
    pub(crate) fn upgrade(&self) -> (String, String) {
        let key = generate_key();
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{}\r\n",
            self.path,
            self.host,
            self.authorization()
        );
        (request, derive_accept_key(key.as_bytes()))
    }

    /// Requests the server's settings. None if it does not give them.
    pub(crate) fn settings(&self) -> Option<Value> {
        let body = self.get("/api/status/config.json")?;
        let object = &body[body.find('{')?..=body.rfind('}')?];
        serde_json::from_str(object).ok()
    }

    /// Requests the server's metrics. None if it has none.
    pub(crate) fn metrics(&self) -> Option<String> {
        self.get("/metrics")
    }

    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect_timeout(&self.address, ANSWER_TIMEOUT).ok()?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT)).ok()?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{}\r\n",
            self.host,
            self.authorization()
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = Vec::new();
        // A server that does not close is cut off by the timeout; the received bytes still count.
        let _ = stream.take(1024 * 1024).read_to_end(&mut answer);
        let text = String::from_utf8_lossy(&answer);
        let (_, body) = text.split_once("\r\n\r\n")?;
        Some(body.to_owned())
    }

    /// The head of a request with a JSON body, without the field of its length and the empty line.
    pub(crate) fn post_head(&self, path: &str) -> String {
        format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\n{}Content-Type: application/json\r\n",
            self.host,
            self.authorization()
        )
    }

    /// Makes a call without a body. Returns the status of its answer.
    pub(crate) fn call(&self, method: &str, path: &str) -> io::Result<u16> {
        let mut stream = TcpStream::connect_timeout(&self.address, ANSWER_TIMEOUT)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{}\r\n",
            self.host,
            self.authorization()
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.take(64 * 1024).read_to_end(&mut answer)?;
        let line = String::from_utf8_lossy(&answer);
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        status.ok_or_else(|| io::Error::other("no answer"))
    }

    fn authorization(&self) -> String {
        self.token.as_ref().map_or_else(String::new, |t| format!("Authorization: Bearer {t}\r\n"))
    }
}

fn resolve(host: &str) -> io::Result<SocketAddr> {
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let with_port = if has_port { host.to_owned() } else { format!("{host}:80") };
    with_port
        .to_socket_addrs()?
        .next()
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no address"))
}

/// A number in the settings, at any depth.
pub(crate) fn find_key(value: &Value, key: &str) -> Option<u64> {
    match value {
        Value::Object(map) => {
            let here = map.get(key).and_then(|found| {
                found.as_u64().or_else(|| found.as_str().and_then(|text| text.parse().ok()))
            });
            here.or_else(|| map.values().find_map(|inner| find_key(inner, key)))
        }
        Value::Array(list) => list.iter().find_map(|inner| find_key(inner, key)),
        _ => None,
    }
}

/// The reason why a handshake failed, for the user.
pub(crate) type Refused = String;

/// Looks for the end of the answer to an upgrade. Returns where the first frame begins, or nothing
/// while the head is incomplete.
pub(crate) fn upgraded(bytes: &[u8], accept: &str) -> Result<Option<usize>, Refused> {
    let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
        if bytes.len() > 16 * 1024 {
            return Err("the answer to the upgrade has no end".to_owned());
        }
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&bytes[..end]);
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 101") {
        return Err(format!("the server answered '{status}' to the upgrade"));
    }
    let is_accepted = lines.filter_map(|line| line.split_once(':')).any(|(name, value)| {
        name.eq_ignore_ascii_case("sec-websocket-accept") && value.trim() == accept
    });
    if !is_accepted {
        return Err("the answer to the upgrade has a wrong Sec-WebSocket-Accept".to_owned());
    }
    Ok(Some(end + 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_told_apart() {
        let target = Target::parse("ws://127.0.0.1:9?token=x", None).unwrap();
        assert_eq!((target.address.port(), target.path.as_str()), (9, "/ws?token=x"));
        assert!(matches!(Target::parse("wss://h/ws", None), Err(TargetError::Tls)));
        assert!(matches!(Target::parse("ftp://h", None), Err(TargetError::Scheme(_))));
        assert!(matches!(Target::parse("localhost", None), Err(TargetError::Scheme(_))));
        assert!(matches!(Target::parse("ws://", None), Err(TargetError::Scheme(_))));
        assert!(matches!(Target::parse("ws://a:1", Some("x\r\ny")), Err(TargetError::Token)));
    }

    #[test]
    fn an_upgrade_is_accepted_only_with_the_right_key() {
        let answer = "HTTP/1.1 101 x\r\nSec-WebSocket-Accept: abc\r\n\r\n\x01";
        assert_eq!(upgraded(answer.as_bytes(), "abc"), Ok(Some(answer.len() - 1)));
        assert!(upgraded(answer.as_bytes(), "abd").is_err());
        assert_eq!(upgraded(&answer.as_bytes()[..30], "abc"), Ok(None));
        assert!(upgraded(b"HTTP/1.1 401 Unauthorized\r\n\r\n", "abc").is_err());
    }

    #[test]
    fn the_message_limit_is_found_at_any_depth() {
        let config = serde_json::json!({"config":{"client_messages_per_s_max":0}});
        assert_eq!(find_key(&config, "client_messages_per_s_max"), Some(0));
        assert_eq!(find_key(&config, "other"), None);
    }
}
