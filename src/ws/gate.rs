//! Who may open a WebSocket, and which one: the server's side of the opening handshake.
//!
//! Judges a head by RFC 6455, 4.2.1, by origin and by token. It says yes with all that the 101 and
//! the connection need, or no with the status that names the fault.
//!
//! Imports `address`, `auth`, `ws::forwarded`, `ws::head` and `wire`. Imported by `shard` and `http`.

use std::net::SocketAddr;
use std::sync::Arc;

use hyper::http::{HeaderMap, Method, Uri};
use tungstenite::handshake::derive_accept_key;

use super::forwarded::TrustedProxies;
use super::head::Body;
use super::seats::Seats;
use crate::address::ClientAddress;
use crate::auth::namespace::Namespaces;
use crate::auth::{self, AuthError, Authenticator, Identity, Revoked, Scopes};
use crate::id::ChannelName;
use crate::wire::refusal::Code;
use crate::wire::talk;

/// What the server demands of those who connect.
#[derive(Debug)]
pub struct Gate {
    /// Checks tokens.
    pub authenticator: Authenticator,
    /// Whether there must be one.
    pub is_auth_required: bool,
    /// Origins a browser may come from; empty = the server's own host.
    pub allowed_origins: Vec<String>,
    /// The proxies whose word about a client's address is taken.
    pub trusted_proxies: TrustedProxies,
    /// Whether `/ws/echo` exists.
    pub echo: bool,
    /// Longest name of a channel, in bytes.
    pub topic_bytes_max: usize,
    /// Who is connected how often.
    pub seats: Arc<Seats>,
    /// The rules of channels.
    pub namespaces: Arc<Namespaces>,
    /// Whose tokens count no more.
    pub revoked: Arc<Revoked>,
}

/// The sockets there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `/ws`: JSON messages.
    Main,
    /// `/ws/echo`: every message comes back.
    Echo,
}

/// An upgrade that may go ahead.
#[derive(Debug)]
pub struct Upgrade {
    /// Which socket.
    pub endpoint: Endpoint,
    /// The channel that it follows from the start.
    pub channel: Option<ChannelName>,
    /// Who is there, where a token said so.
    pub identity: Option<Identity>,
    /// The answer to the client's key.
    pub accept: String,
    /// Where the client is, as far as that can be told.
    pub client: Option<ClientAddress>,
    /// Whether the client offered the subprotocol `fanfare` and is to be told it was taken.
    pub with_protocol: bool,
}

/// An upgrade that may not, as HTTP says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// The HTTP status.
    pub status: u16,
    /// The code of the problem document.
    pub code: Code,
    /// What is wrong.
    pub detail: &'static str,
    /// A header that goes with the status.
    pub header: Option<(&'static str, &'static str)>,
}

impl Denied {
    const fn new(status: u16, code: Code, detail: &'static str) -> Denied {
        Denied { status, code, detail, header: None }
    }

    const fn with(mut self, name: &'static str, value: &'static str) -> Denied {
        self.header = Some((name, value));
        self
    }
}

/// What is asked at the gate.
#[derive(Debug, Clone, Copy)]
pub struct Knock<'a> {
    /// The request's method.
    pub method: &'a Method,
    /// The request's target.
    pub uri: &'a Uri,
    /// Whether the request is HTTP/1.1.
    pub is_http_11: bool,
    /// The request's headers.
    pub headers: &'a HeaderMap,
    /// How its body is delimited.
    pub body: Body,
    /// Who is at the other end of the connection.
    pub peer: Option<SocketAddr>,
}

impl Gate {
    /// Whether a path belongs to a WebSocket, whatever the method.
    pub fn endpoint(&self, path: &str) -> Option<Endpoint> {
        match path {
            "/ws" => Some(Endpoint::Main),
            "/ws/echo" if self.echo => Some(Endpoint::Echo),
            _ => channel_in(path).map(|_| Endpoint::Main),
        }
    }

    /// The channel that a socket at this path follows from the start.
    fn channel(&self, path: &str) -> Result<Option<ChannelName>, Denied> {
        let Some(encoded) = channel_in(path) else { return Ok(None) };
        let wrong = Denied::new(400, Code::InvalidArgument, "the path names no channel");
        let name = percent_encoding::percent_decode_str(encoded).decode_utf8();
        let name = name.map_err(|_| wrong.clone())?.into_owned();
        if RESERVED.contains(&&*name) {
            return Err(Denied::new(404, Code::NotFound, "there is nothing at this path"));
        }
        talk::channel(Some(name), self.topic_bytes_max).map(Some).map_err(|_| wrong)
    }

    /// Judges an upgrade to `endpoint`.
    ///
    /// # Errors
    ///
    /// Why it may not go ahead.
    pub fn judge(
        &self,
        endpoint: Endpoint,
        knock: Knock<'_>,
        now_s: u64,
    ) -> Result<Upgrade, Denied> {
        let accept = check_rfc_6455(knock)?;
        if !self.is_origin_allowed(knock.headers) {
            return Err(Denied::new(403, Code::Forbidden, "this origin may not open a WebSocket"));
        }
        let token = presented_token(knock);
        let identity = self.identify(token.as_deref(), now_s).map_err(|fault| {
            let code = match fault {
                AuthError::TokenExpired => Code::TokenExpired,
                AuthError::Invalid(_) => Code::Unauthorized,
            };
            Denied::new(401, code, unauthorized_detail(&fault)).with("WWW-Authenticate", "Bearer")
        })?;
        if identity.is_none() && self.is_auth_required {
            return Err(Denied::new(401, Code::Unauthorized, "a token is required")
                .with("WWW-Authenticate", "Bearer"));
        }
        let channel = self.channel(knock.uri.path())?;
        if let Some(channel) = &channel {
            let may = self.namespaces.may_follow(
                channel.as_str(),
                identity.as_ref(),
                self.is_auth_required,
            );
            may.map_err(|barred| Denied::new(403, Code::Forbidden, barred.reason))?;
        }
        let with_protocol = offers_protocol(knock.headers);
        let client = self.client(knock.peer, knock.headers);
        Ok(Upgrade { endpoint, channel, identity, accept, client, with_protocol })
    }

    /// Where the client of a request is: the peer, or whom a trusted proxy names.
    pub fn client(&self, peer: Option<SocketAddr>, headers: &HeaderMap) -> Option<ClientAddress> {
        peer.map(|peer| self.trusted_proxies.client(peer, headers))
    }

    /// Whether a caller may do what needs a scope: everyone may where no token is required.
    pub fn allows(&self, identity: Option<&Identity>, needed: Scopes) -> bool {
        !self.is_auth_required || identity.is_some_and(|one| one.scopes.contains(needed))
    }

    /// Checks a token, where one is presented. A wrong one is a fault in every mode.
    ///
    /// # Errors
    ///
    /// What is wrong with the token.
    pub fn identify(&self, token: Option<&str>, now_s: u64) -> Result<Option<Identity>, AuthError> {
        let Some(token) = token else { return Ok(None) };
        let identity = self.authenticator.authenticate(token, now_s)?;
        if self.revoked.contains(identity.user_id.as_str()) {
            return Err(AuthError::Invalid("the account is disabled"));
        }
        Ok(Some(identity))
    }

    /// A request without `Origin` comes from no page of a browser and is let through. One with it
    /// has to come from a listed origin or from the very host and port that it calls.
    fn is_origin_allowed(&self, headers: &HeaderMap) -> bool {
        let mut origins = headers.get_all("origin").iter();
        let Some(origin) = origins.next() else { return true };
        let Ok(origin) = origin.to_str() else { return false };
        if origins.next().is_some() {
            return false;
        }
        if !self.allowed_origins.is_empty() {
            return self
                .allowed_origins
                .iter()
                .any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin));
        }
        let host = headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
        let (rest, port) = match origin.split_once("://") {
            Some(("http", rest)) => (rest, "80"),
            Some(("https", rest)) => (rest, "443"),
            _ => return false,
        };
        with_port(rest, port).eq_ignore_ascii_case(&with_port(host, port))
    }
}

/// What stands under `/ws/` and is no channel.
const RESERVED: [&str; 5] = ["echo", "online", "stats", "broadcast", "send"];

/// The channel in a socket's path, still percent-encoded.
fn channel_in(path: &str) -> Option<&str> {
    let name = path.strip_prefix("/ws/")?;
    (!name.is_empty() && !name.contains('/') && !RESERVED.contains(&name)).then_some(name)
}

/// A token fault in words that are safe to send.
pub fn unauthorized_detail(fault: &AuthError) -> &'static str {
    match fault {
        AuthError::TokenExpired => "the token has expired",
        AuthError::Invalid(_) => "the token is not valid",
    }
}

fn with_port(host: &str, port: &str) -> String {
    // An IPv6 literal holds colons of its own; its port follows the bracket.
    let has_port = host.rsplit(']').next().is_some_and(|rest| rest.contains(':'));
    if has_port { host.to_owned() } else { format!("{host}:{port}") }
}

/// RFC 6455, 4.2.1, in the order in which the faults are most useful to hear. Returns the answer to
/// the key.
fn check_rfc_6455(knock: Knock<'_>) -> Result<String, Denied> {
    if knock.method != Method::GET {
        return Err(Denied::new(405, Code::InvalidArgument, "a WebSocket is opened with GET")
            .with("Allow", "GET"));
    }
    if !knock.is_http_11 {
        return Err(Denied::new(400, Code::InvalidArgument, "a WebSocket needs HTTP/1.1"));
    }
    let headers = knock.headers;
    if !has_token(headers, "upgrade", "websocket") || !has_token(headers, "connection", "upgrade") {
        return Err(Denied::new(426, Code::InvalidArgument, "this resource is a WebSocket")
            .with("Upgrade", "websocket"));
    }
    if knock.body != Body::None {
        return Err(Denied::new(400, Code::InvalidArgument, "an upgrade has no body"));
    }
    let mut versions = headers.get_all("sec-websocket-version").iter();
    if versions.next().is_none_or(|version| version != "13") || versions.next().is_some() {
        return Err(Denied::new(426, Code::InvalidArgument, "only WebSocket version 13 is spoken")
            .with("Sec-WebSocket-Version", "13"));
    }
    let mut keys = headers.get_all("sec-websocket-key").iter();
    match (keys.next(), keys.next()) {
        (Some(key), None) if is_key(key.as_bytes()) => Ok(derive_accept_key(key.as_bytes())),
        _ => Err(Denied::new(
            400,
            Code::InvalidArgument,
            "Sec-WebSocket-Key is not one base64 text of 16 bytes",
        )),
    }
}

/// Whether the text is base64 of exactly 16 bytes: 22 digits and two signs of padding.
///
/// The last digit carries four bits that belong to no byte; whether they are zero is not asked,
/// because clients exist that never zeroed them and nothing is derived from them.
fn is_key(text: &[u8]) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    text.len() == 24 && text[..22].iter().all(is_digit) && &text[22..] == b"=="
}

/// Whether a comma-separated header holds a word, in any case.
fn has_token(headers: &HeaderMap, name: &str, word: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(word))
}

fn offers_protocol(headers: &HeaderMap) -> bool {
    has_token(headers, "sec-websocket-protocol", "fanfare")
}

/// The token in whichever of the three places it was put; the header first.
fn presented_token(knock: Knock<'_>) -> Option<String> {
    let text = |name: &str| knock.headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(header) = text("authorization") {
        // A scheme other than Bearer is a credential that we cannot check: not one to ignore.
        return Some(auth::bearer(header).unwrap_or_default().to_owned());
    }
    let offered = knock.headers.get_all("sec-websocket-protocol").iter();
    let offered: Vec<&str> = offered.filter_map(|value| value.to_str().ok()).collect();
    if let Some(token) = auth::from_protocols(&offered.join(",")) {
        return Some(token.to_owned());
    }
    auth::from_query(knock.uri.query().unwrap_or_default())
}

/// The bytes of the 101 answer.
pub fn switching_protocols(upgrade: &Upgrade) -> Vec<u8> {
    let mut text = String::with_capacity(192);
    text.push_str("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n");
    text.push_str("Connection: Upgrade\r\nSec-WebSocket-Accept: ");
    text.push_str(&upgrade.accept);
    if upgrade.with_protocol {
        text.push_str("\r\nSec-WebSocket-Protocol: fanfare");
    }
    text.push_str("\r\n\r\n");
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ws::head::{self, HeadLimits};

    fn gate() -> Gate {
        Gate {
            authenticator: Authenticator::hs256(b"0123456789abcdef0123456789abcdef"),
            is_auth_required: false,
            allowed_origins: Vec::new(),
            trusted_proxies: TrustedProxies::default(),
            echo: true,
            topic_bytes_max: 255,
            seats: Arc::default(),
            namespaces: Arc::default(),
            revoked: Arc::default(),
        }
    }

    fn judge(gate: &Gate, method: &str, extra: &str) -> Result<Upgrade, Denied> {
        let text = format!("{method} /ws?x=1 HTTP/1.1\r\nHost: h:8080\r\n{extra}\r\n");
        let limits = HeadLimits { bytes_max: 16_384, headers_max: 100 };
        let head = head::parse(text.as_bytes(), limits).expect("well-formed").expect("complete");
        let knock = Knock {
            method: &head.method,
            uri: &head.uri,
            is_http_11: head.is_http_11,
            headers: &head.headers,
            body: head.body,
            peer: None,
        };
        gate.judge(Endpoint::Main, knock, 1_000)
    }

    const GOOD: &str = "Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

    #[test]
    fn the_rfc_example_is_answered() {
        let upgrade = judge(&gate(), "GET", GOOD).expect("a good upgrade");
        assert_eq!(upgrade.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let answer = String::from_utf8(switching_protocols(&upgrade)).expect("ASCII");
        assert!(answer.ends_with("\r\n\r\n") && !answer.contains("Protocol: fanfare"));
    }

    #[test]
    fn each_fault_has_its_status() {
        let status = |method, extra: &str| judge(&gate(), method, extra).expect_err(extra).status;
        assert_eq!(status("POST", GOOD), 405);
        assert_eq!(status("GET", ""), 426);
        assert_eq!(status("GET", &GOOD.replace("keep-alive, Upgrade", "keep-alive")), 426);
        assert_eq!(status("GET", &GOOD.replace(": 13", ": 8")), 426);
        assert_eq!(status("GET", &GOOD.replace("Sec-WebSocket-Key", "X-Key")), 400);
        assert_eq!(status("GET", &GOOD.replace("==", "")), 400);
        assert_eq!(status("GET", &GOOD.replace("dGhl", "dGh!")), 400);
        assert_eq!(status("GET", &format!("{GOOD}{GOOD}")), 426);
        assert_eq!(status("GET", &format!("{GOOD}Content-Length: 5\r\n")), 400);
        assert_eq!(status("GET", &format!("{GOOD}Authorization: Bearer nope\r\n")), 401);
        assert_eq!(status("GET", &format!("{GOOD}Authorization: Basic abc\r\n")), 401);
    }

    #[test]
    fn origins_are_exact() {
        let passes = |gate: &Gate, origin: &str| {
            judge(gate, "GET", &format!("{GOOD}Origin: {origin}\r\n")).is_ok()
        };
        let same_host = gate();
        assert!(passes(&same_host, "http://h:8080"));
        for origin in ["null", "http://h", "http://h:8081", "http://other:8080", "h:8080", ""] {
            assert!(!passes(&same_host, origin), "{origin}");
        }
        let listed = Gate { allowed_origins: vec!["https://app.example".into()], ..gate() };
        assert!(passes(&listed, "https://app.example"));
        assert!(!passes(&listed, "http://h:8080"));
        assert_eq!(with_port("[::1]", "80"), "[::1]:80");
        assert_eq!(with_port("[::1]:8080", "80"), "[::1]:8080");
    }

    #[test]
    fn required_means_required() {
        let gate = Gate { is_auth_required: true, ..gate() };
        assert_eq!(judge(&gate, "GET", GOOD).expect_err("no token").status, 401);
    }
}
