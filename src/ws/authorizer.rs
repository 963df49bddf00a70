//! Authorizes requests: by host name, origin, token and address, and WebSocket handshakes by RFC 6455, 4.2.1.
//!
//! The answer to a handshake is an [`Upgrade`], with everything that the 101 and the connection need, or a
//! [`Rejection`], with the status that names the fault.
//!
//! Imports its siblings, `address`, `auth`, `id`, `limits` and `wire`. Imported by `shard` and `http`.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use hyper::http::{HeaderMap, HeaderValue, Method, Uri};
use tungstenite::handshake::derive_accept_key;

use super::address_connections::{AddressConnectionLimit, AddressPermit};
use super::base_path::BasePath;
use super::forwarded::TrustedProxies;
use super::head::Body;
use super::hosts::Hosts;
use super::networks::Networks;
use super::user_connections::UserConnectionLimit;
use crate::address::ClientAddress;
use crate::auth::namespace::Namespaces;
use crate::auth::{self, AuthError, Authenticator, Identity, Revocation, Revoked, Scopes};
use crate::id::ChannelName;
use crate::limits;
use crate::wire::refusal::Code;
use crate::wire::talk;

/// The rules that requests are checked by.
#[derive(Debug)]
pub struct Authorizer {
    /// Checks tokens.
    pub authenticator: Arc<Authenticator>,
    /// Whether there must be one.
    pub is_auth_required: bool,
    /// The server's own names.
    pub hosts: Hosts,
    /// The path below which the server answers.
    pub base_path: BasePath,
    /// Origins a browser may come from, besides the server's own; `*` is any.
    pub allowed_origins: Vec<String>,
    /// The proxies whose headers about a client's address are trusted.
    pub trusted_proxies: TrustedProxies,
    /// Whether `/ws/echo` exists.
    pub echo: bool,
    /// The addresses from which Artemis' clients need no token; none if these clients are not served.
    pub artemis: Option<Networks>,
    /// Longest name of a channel, in bytes.
    pub topic_bytes_max: usize,
    /// The limit on connections of a user.
    pub user_connections: Arc<UserConnectionLimit>,
    /// The connections of each address.
    pub address_connections: Arc<AddressConnectionLimit>,
    /// The rules of channels.
    pub namespaces: Arc<Namespaces>,
    /// Tokens that are revoked.
    pub revoked: Arc<Revoked>,
}

/// The sockets there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `/ws`: JSON messages.
    Main,
    /// `/ws/echo`: every message comes back.
    Echo,
    /// One of Artemis' sockets: bare JSON frames.
    Artemis(ArtemisSocket),
}

/// Artemis' sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArtemisSocket {
    /// `registry/heartbeat`: instances in, what failed of them out.
    Heartbeat,
    /// `discovery/instance-change`: changes of the services that the client names.
    Changes,
    /// `discovery/all-instance-change`: changes of all services.
    AllChanges,
}

impl ArtemisSocket {
    /// The scope that it takes, if tokens are required.
    const fn needs(self) -> Scopes {
        match self {
            ArtemisSocket::Heartbeat => Scopes::REGISTRY_WRITE,
            ArtemisSocket::Changes | ArtemisSocket::AllChanges => Scopes::REGISTRY_READ,
        }
    }

    /// The socket at a path: version 1 of the client has them below `/ws`, version 2 below `/websocket`.
    fn at(path: &str) -> Option<ArtemisSocket> {
        let rest = path.strip_prefix("/ws/").or_else(|| path.strip_prefix("/websocket/"))?;
        match rest {
            "registry/heartbeat" => Some(ArtemisSocket::Heartbeat),
            "discovery/instance-change" => Some(ArtemisSocket::Changes),
            "discovery/all-instance-change" => Some(ArtemisSocket::AllChanges),
            _ => None,
        }
    }
}

/// An authorized handshake.
#[derive(Debug)]
pub struct Upgrade {
    /// Which socket.
    pub endpoint: Endpoint,
    /// The channel that it follows from the start.
    pub channel: Option<ChannelName>,
    /// The identity of a verified token.
    pub identity: Option<Identity>,
    /// The answer to the client's key.
    pub accept: String,
    /// The client's address, if known.
    pub client: Option<ClientAddress>,
    /// The address's permit, if a proxy carries the connection and its own socket is not counted.
    pub address_permit: Option<AddressPermit>,
    /// Whether the client offered the subprotocol `fanfare`, which the 101 then names.
    pub with_protocol: bool,
}

/// A request that is refused, as HTTP expresses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The HTTP status.
    pub status: u16,
    /// The code of the problem document.
    pub code: Code,
    /// The fault.
    pub detail: Cow<'static, str>,
    /// A header that goes with the status.
    pub header: Option<(&'static str, &'static str)>,
    /// The cause for the log, if it is more than the client may know.
    pub cause: Option<&'static str>,
}

impl Rejection {
    fn new(status: u16, code: Code, detail: impl Into<Cow<'static, str>>) -> Rejection {
        Rejection { status, code, detail: detail.into(), header: None, cause: None }
    }

    fn with(mut self, name: &'static str, value: &'static str) -> Rejection {
        self.header = Some((name, value));
        self
    }
}

/// The page that a browser names as the source of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// There is none: a program, or a person who typed the address.
    None,
    /// One of this server's own, by the browser's header.
    Own,
    /// One of an origin that may call.
    Allowed,
    /// Any other.
    Foreign,
}

/// An opening handshake, as either HTTP path has read it.
#[derive(Debug, Clone, Copy)]
pub struct HandshakeRequest<'a> {
    /// The request's method.
    pub method: &'a Method,
    /// The request's target.
    pub uri: &'a Uri,
    /// The target's path without the base path and without a token before it.
    pub path: &'a str,
    /// The token before the path, of an Artemis client.
    pub path_token: Option<&'a str>,
    /// Whether the request is HTTP/1.1.
    pub is_http_11: bool,
    /// The request's headers.
    pub headers: &'a HeaderMap,
    /// The framing of its body.
    pub body: Body,
    /// The peer of the connection.
    pub peer: Option<SocketAddr>,
    /// The address at which the connection arrived.
    pub local: Option<SocketAddr>,
}

impl Authorizer {
    /// The rules of a server on loopback that is open to everyone, without Artemis' sockets.
    #[cfg(any(test, feature = "internals"))]
    pub fn open(authenticator: Authenticator) -> Authorizer {
        use crate::ws::hosts::AllowedHosts;
        let authenticator = Arc::new(authenticator);
        Authorizer {
            authenticator,
            is_auth_required: false,
            hosts: Hosts::new(([127, 0, 0, 1], 8080).into(), AllowedHosts::default(), true),
            base_path: BasePath::default(),
            allowed_origins: Vec::new(),
            trusted_proxies: TrustedProxies::default(),
            echo: true,
            artemis: None,
            topic_bytes_max: limits::NAME_BYTES_MAX,
            user_connections: Arc::default(),
            address_connections: Arc::default(),
            namespaces: Arc::default(),
            revoked: Arc::default(),
        }
    }

    /// Whether a path belongs to a WebSocket, whatever the method.
    pub fn endpoint(&self, path: &str) -> Option<Endpoint> {
        match path {
            "/ws" => Some(Endpoint::Main),
            "/ws/echo" if self.echo => Some(Endpoint::Echo),
            _ => match ArtemisSocket::at(path).filter(|_| self.artemis.is_some()) {
                Some(socket) => Some(Endpoint::Artemis(socket)),
                None => channel_in(path).map(|_| Endpoint::Main),
            },
        }
    }

    /// The channel that a socket at this path follows from the start.
    fn channel(&self, path: &str) -> Result<Option<ChannelName>, Rejection> {
        let Some(encoded) = channel_in(path) else { return Ok(None) };
        let wrong = Rejection::new(400, Code::InvalidArgument, "the path names no channel");
        let name = percent_encoding::percent_decode_str(encoded).decode_utf8();
        let name = name.map_err(|_| wrong.clone())?.into_owned();
        if RESERVED.contains(&&*name) {
            return Err(Rejection::new(404, Code::NotFound, "there is nothing at this path"));
        }
        talk::channel(Some(name), self.topic_bytes_max).map(Some).map_err(|_| wrong)
    }

    /// Authorizes a handshake for `endpoint`.
    ///
    /// # Errors
    ///
    /// The reason of the refusal.
    pub fn authorize(
        &self,
        endpoint: Endpoint,
        handshake: HandshakeRequest<'_>,
        now_s: u64,
    ) -> Result<Upgrade, Rejection> {
        self.check_host(handshake.uri, handshake.headers, handshake.local)?;
        check_singletons(handshake.headers)?;
        let accept = check_rfc_6455(handshake)?;
        if self.page(handshake.headers, handshake.local) == Page::Foreign {
            let detail = self.foreign_page(handshake.headers, handshake.local);
            let rejection = Rejection::new(403, Code::Forbidden, detail);
            return Err(Rejection { cause: Some(FOREIGN_PAGE), ..rejection });
        }
        let token = presented_token(handshake.headers, handshake.uri.query(), true)?;
        let token = same_token(token, handshake.path_token)?;
        let identity = self.identify(token.as_deref(), now_s).map_err(bad_token)?;
        let client = self.client(handshake.peer, handshake.headers);
        match endpoint {
            Endpoint::Artemis(socket) => {
                self.check_artemis(identity.as_ref(), client, socket.needs())?;
            }
            Endpoint::Main | Endpoint::Echo if identity.is_none() && self.is_auth_required => {
                return Err(token_required());
            }
            Endpoint::Main | Endpoint::Echo => {}
        }
        let channel = self.channel(handshake.path)?;
        if let Some(channel) = &channel {
            let may = self.namespaces.may_follow(
                channel.as_str(),
                identity.as_ref(),
                self.is_auth_required,
            );
            may.map_err(|barred| Rejection::new(403, Code::Forbidden, barred.reason))?;
        }
        let with_protocol = offers_protocol(handshake.headers);
        let address_permit = self.permit_behind_proxy(handshake.peer, client)?;
        Ok(Upgrade { endpoint, channel, identity, accept, client, address_permit, with_protocol })
    }

    /// Checks that an Artemis client may do what needs a scope: by its token, or by its address.
    ///
    /// # Errors
    ///
    /// 401 without a token, 403 if its scope is missing.
    pub fn check_artemis(
        &self,
        identity: Option<&Identity>,
        client: Option<ClientAddress>,
        needed: Scopes,
    ) -> Result<(), Rejection> {
        let is_near = |networks: &Networks| client.is_some_and(|one| networks.contains(one.ip));
        if self.allows(identity, needed) || self.artemis.as_ref().is_some_and(is_near) {
            return Ok(());
        }
        if identity.is_none() {
            return Err(token_required());
        }
        let detail = format!("the token lacks the scope {needed}");
        Err(Rejection::new(403, Code::Forbidden, detail))
    }

    /// A permit for a client behind a trusted proxy.
    fn permit_behind_proxy(
        &self,
        peer: Option<SocketAddr>,
        client: Option<ClientAddress>,
    ) -> Result<Option<AddressPermit>, Rejection> {
        let (Some(peer), Some(client)) = (peer, client) else { return Ok(None) };
        if !self.trusted_proxies.contains(peer.ip()) || client.ip == peer.ip().to_canonical() {
            return Ok(None);
        }
        let user_permit = self.address_connections.take(client.ip).ok_or_else(|| {
            Rejection::new(503, Code::Unavailable, "too many connections from this address")
                .with("retry-after", "5")
        })?;
        Ok(Some(user_permit))
    }

    /// The client's address: the peer's, or the one that a trusted proxy names.
    pub fn client(&self, peer: Option<SocketAddr>, headers: &HeaderMap) -> Option<ClientAddress> {
        peer.map(|peer| self.trusted_proxies.client(peer, headers))
    }

    /// Whether a caller has a scope: without required tokens every caller has.
    pub fn allows(&self, identity: Option<&Identity>, needed: Scopes) -> bool {
        !self.is_auth_required || identity.is_some_and(|one| one.scopes.contains(needed))
    }

    /// Checks a token, if one is presented. A wrong one is a fault in every mode.
    ///
    /// # Errors
    ///
    /// The fault of the token.
    pub fn identify(&self, token: Option<&str>, now_s: u64) -> Result<Option<Identity>, AuthError> {
        let Some(token) = token else { return Ok(None) };
        let identity = self.authenticator.authenticate(token, now_s)?;
        match self.revoked.of(&identity) {
            None => Ok(Some(identity)),
            Some(Revocation::Disabled) => Err(AuthError::Invalid("the account is disabled")),
            Some(Revocation::Token) => Err(AuthError::Invalid("revoked")),
        }
    }

    /// Whether a request calls this server by a name of its own, in `Host` and, if the target has a
    /// name, there (RFC 9112, 3.2.2). A request of HTTP/1.0 may have no `Host`: no browser sends
    /// one.
    ///
    /// # Errors
    ///
    /// 421 if it does not.
    pub fn check_host(
        &self,
        uri: &Uri,
        headers: &HeaderMap,
        local: Option<SocketAddr>,
    ) -> Result<(), Rejection> {
        let in_target = uri.authority().map(|authority| authority.as_str().as_bytes());
        let in_header = headers.get_all("host").iter().map(HeaderValue::as_bytes);
        if in_target.into_iter().chain(in_header).all(|name| self.hosts.passes(name, local)) {
            return Ok(());
        }
        let detail = "this server is not known by that Host; --allowed-hosts names others";
        Err(Rejection::new(421, Code::Forbidden, detail))
    }

    /// The page that a request comes from. A request with `Origin` has to come from a listed origin
    /// or from one of the server's own; the request's `Host` proves nothing here, for the page may
    /// have invented it as well. `Sec-Fetch-Site` is written by the browser, a page cannot set it,
    /// and it is only sent over TLS and to loopback, where a name cannot be made to point at
    /// another server (Fetch Metadata, 2.2).
    pub fn page(&self, headers: &HeaderMap, local: Option<SocketAddr>) -> Page {
        let single = |name: &str| {
            let mut values = headers.get_all(name).iter();
            let first = values.next()?;
            Some(first.to_str().ok().filter(|_| values.next().is_none()).unwrap_or("?"))
        };
        let site = single("sec-fetch-site");
        let is_site = |word: &str| site.is_some_and(|site| site.eq_ignore_ascii_case(word));
        match single("origin") {
            Some(origin) if self.is_origin_allowed(origin, local) => Page::Allowed,
            Some(origin) if is_site("same-origin") && origin.contains("://") => Page::Own,
            None if site.is_none() || is_site("none") => Page::None,
            None if is_site("same-origin") => Page::Own,
            _ => Page::Foreign,
        }
    }

    /// Why a page may not call, for its developer: the refused origin and the allowed ones. Their
    /// users see origins in the address bar, so they are no secrets.
    pub fn foreign_page(&self, headers: &HeaderMap, local: Option<SocketAddr>) -> String {
        let mut origins = headers.get_all("origin").iter();
        let mut text = match (origins.next(), origins.next()) {
            (Some(_), Some(_)) => String::from("a request with more than one Origin may not call"),
            (Some(origin), None) => {
                let shown: String = origin
                    .to_str()
                    .unwrap_or("?")
                    .chars()
                    .filter(char::is_ascii_graphic)
                    .take(limits::SHOWN_ORIGIN_CHARS_MAX)
                    .collect();
                format!("pages of the origin \"{shown}\" may not call")
            }
            (None, _) => String::from("pages of other sites may not call"),
        };
        let mut allowed = self.hosts.shown_origins(local);
        allowed.extend(self.allowed_origins.iter().cloned());
        let more = allowed.len().saturating_sub(limits::SHOWN_ORIGINS_MAX);
        allowed.truncate(limits::SHOWN_ORIGINS_MAX);
        // Writing to a string does not fail.
        _ = write!(text, "; allowed are {}", allowed.join(", "));
        if more > 0 {
            _ = write!(text, " and {more} more");
        }
        text.push_str(". --allowed-origins names others, exactly as the browser sends them");
        text
    }

    fn is_origin_allowed(&self, origin: &str, local: Option<SocketAddr>) -> bool {
        let is_it = |allowed: &String| allowed == "*" || allowed.eq_ignore_ascii_case(origin);
        self.allowed_origins.iter().any(is_it) || self.hosts.is_origin(origin, local)
    }
}

/// Why a page's request is refused, for the log, which has the origin beside it.
pub const FOREIGN_PAGE: &str = "pages of this origin may not call";

/// Names under `/ws/` that are not channels.
const RESERVED: [&str; 5] = ["echo", "online", "stats", "broadcast", "send"];

/// The channel in a socket's path, still percent-encoded.
fn channel_in(path: &str) -> Option<&str> {
    let name = path.strip_prefix("/ws/")?;
    (!name.is_empty() && !name.contains('/') && !RESERVED.contains(&name)).then_some(name)
}

/// The 401 for a refused token. The client learns whether it has expired, and no more.
pub fn bad_token(fault: AuthError) -> Rejection {
    let (code, detail, cause) = match fault {
        AuthError::TokenExpired => {
            (Code::TokenExpired, "the token has expired", "the token has expired")
        }
        AuthError::Invalid(cause) => (Code::Unauthorized, "the token is not valid", cause),
    };
    Rejection { cause: Some(cause), ..Rejection::new(401, code, detail) }
        .with("WWW-Authenticate", "Bearer")
}

/// The 401 for a request without a token that needs one.
pub fn token_required() -> Rejection {
    Rejection::new(401, Code::Unauthorized, "a token is required")
        .with("WWW-Authenticate", "Bearer")
}

/// Checks that a request has one header of credentials and one type of its content: two parsers would read
/// two of them differently. A type that is given twice is one type; Artemis' Java client sends it so.
///
/// # Errors
///
/// 400, with the header's name.
pub fn check_singletons(headers: &HeaderMap) -> Result<(), Rejection> {
    let fault = |detail| Err(Rejection::new(400, Code::Malformed, detail));
    if headers.get_all("authorization").iter().nth(1).is_some() {
        return fault("there is more than one Authorization header");
    }
    let mut types = headers.get_all("content-type").iter();
    let first = types.next();
    if types.any(|other| Some(other) != first) {
        return fault("there is more than one Content-Type header, and they differ");
    }
    Ok(())
}

/// RFC 6455, 4.2.1, in the order in which the faults help a developer most. Returns the answer to
/// the key.
fn check_rfc_6455(handshake: HandshakeRequest<'_>) -> Result<String, Rejection> {
    if handshake.method != Method::GET {
        return Err(Rejection::new(405, Code::InvalidArgument, "a WebSocket is opened with GET")
            .with("Allow", "GET"));
    }
    if !handshake.is_http_11 {
        return Err(Rejection::new(400, Code::InvalidArgument, "a WebSocket needs HTTP/1.1"));
    }
    let headers = handshake.headers;
    if !has_token(headers, "upgrade", "websocket") || !has_token(headers, "connection", "upgrade") {
        return Err(Rejection::new(426, Code::InvalidArgument, "this resource is a WebSocket")
            .with("Upgrade", "websocket"));
    }
    if handshake.body != Body::None {
        return Err(Rejection::new(400, Code::InvalidArgument, "an upgrade has no body"));
    }
    let mut versions = headers.get_all("sec-websocket-version").iter();
    if versions.next().is_none_or(|version| version != "13") || versions.next().is_some() {
        return Err(Rejection::new(
            426,
            Code::InvalidArgument,
            "only WebSocket version 13 is spoken",
        )
        .with("Sec-WebSocket-Version", "13"));
    }
    let mut keys = headers.get_all("sec-websocket-key").iter();
    match (keys.next(), keys.next()) {
        (Some(key), None) if is_key(key.as_bytes()) => Ok(derive_accept_key(key.as_bytes())),
        _ => Err(Rejection::new(
            400,
            Code::InvalidArgument,
            "Sec-WebSocket-Key is not one base64 text of 16 bytes",
        )),
    }
}

/// Whether the text is base64 of exactly 16 bytes: 22 digits and two signs of padding.
///
/// The last digit carries four bits that belong to no byte. They may have any value, because some
/// clients never zeroed them and nothing is derived from them.
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

/// The token from any of its three places: the header, for a socket the subprotocols, and the
/// query.
///
/// # Errors
///
/// 400 if several are presented and differ: the server cannot choose one.
pub fn presented_token(
    headers: &HeaderMap,
    query: Option<&str>,
    is_socket: bool,
) -> Result<Option<String>, Rejection> {
    let mut tokens = Vec::new();
    if let Some(header) = headers.get("authorization") {
        // A scheme other than Bearer is a credential that the server cannot check: it is refused,
        // not ignored.
        let token = header.to_str().ok().and_then(auth::bearer).unwrap_or_default();
        tokens.push(token.to_owned());
    }
    if is_socket {
        let offered = headers.get_all("sec-websocket-protocol").iter();
        let offered = offered.filter_map(|value| value.to_str().ok());
        tokens.extend(offered.flat_map(auth::from_protocols).map(str::to_owned));
    }
    tokens.extend(auth::from_query(query.unwrap_or_default()));
    let first = tokens.first().cloned();
    if tokens.iter().any(|token| Some(token) != first.as_ref()) {
        let detail = "several tokens are presented, and they differ";
        return Err(Rejection::new(400, Code::Malformed, detail));
    }
    Ok(first)
}

/// The token of a request that may have one before its path as well.
///
/// # Errors
///
/// 400 if the two differ.
pub fn same_token(
    token: Option<String>,
    in_path: Option<&str>,
) -> Result<Option<String>, Rejection> {
    match (token, in_path) {
        (Some(token), Some(in_path)) if token != in_path => {
            let detail = "several tokens are presented, and they differ";
            Err(Rejection::new(400, Code::Malformed, detail))
        }
        (token, in_path) => Ok(token.or_else(|| in_path.map(str::to_owned))),
    }
}

impl Upgrade {
    /// The header fields of the 101 (RFC 6455, 4.2.2).
    pub fn fields(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let protocol = self.with_protocol.then_some(("Sec-WebSocket-Protocol", "fanfare"));
        [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", &*self.accept),
        ]
        .into_iter()
        .chain(protocol)
    }
}

/// The bytes of the 101 answer.
pub fn switching_protocols(upgrade: &Upgrade) -> Vec<u8> {
    let mut text = String::with_capacity(192);
    text.push_str("HTTP/1.1 101 Switching Protocols\r\n");
    for (name, value) in upgrade.fields() {
        text.extend([name, ": ", value, "\r\n"]);
    }
    text.push_str("\r\n");
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ws::head::{self, HeadLimits};

    fn authorizer() -> Authorizer {
        let authenticator = Authenticator::hs256(b"0123456789abcdef0123456789abcdef");
        Authorizer { artemis: Some(Networks::default()), ..Authorizer::open(authenticator) }
    }

    fn authorize(authorizer: &Authorizer, method: &str, extra: &str) -> Result<Upgrade, Rejection> {
        let text = format!("{method} /ws?x=1 HTTP/1.1\r\nHost: localhost:8080\r\n{extra}\r\n");
        let limits = HeadLimits { bytes_max: 16_384, headers_max: 100 };
        let head = head::parse(text.as_bytes(), limits).expect("well-formed").expect("complete");
        let handshake = HandshakeRequest {
            method: &head.method,
            uri: &head.uri,
            path: head.uri.path(),
            path_token: None,
            is_http_11: head.is_http_11,
            headers: &head.headers,
            body: head.body,
            peer: None,
            local: None,
        };
        authorizer.authorize(Endpoint::Main, handshake, 1_000)
    }

    const GOOD: &str = "Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

    #[test]
    fn the_rfc_example_is_answered() {
        let upgrade = authorize(&authorizer(), "GET", GOOD).expect("a good upgrade");
        assert_eq!(upgrade.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let answer = String::from_utf8(switching_protocols(&upgrade)).expect("ASCII");
        assert_eq!(
            answer,
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        );
    }

    #[test]
    fn each_fault_has_its_status() {
        let status =
            |method, extra: &str| authorize(&authorizer(), method, extra).expect_err(extra).status;
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
        let twice = "Authorization: Bearer a\r\n".repeat(2);
        assert_eq!(status("GET", &format!("{GOOD}{twice}")), 400);
    }

    #[test]
    fn origins_are_compared_with_what_the_server_knows() {
        let passes = |authorizer: &Authorizer, headers: &str| {
            authorize(authorizer, "GET", &format!("{GOOD}{headers}\r\n")).is_ok()
        };
        let own = authorizer();
        for headers in [
            "Origin: http://localhost:8080",
            "Origin: http://127.0.0.1:8080",
            "Origin: https://proxy.example\r\nSec-Fetch-Site: same-origin",
            "Sec-Fetch-Site: none",
            "Sec-Fetch-Site: Same-Origin",
        ] {
            assert!(passes(&own, headers), "{headers}");
        }
        for headers in [
            "Origin: null",
            "Origin: null\r\nSec-Fetch-Site: same-origin",
            "Origin: http://localhost",
            "Origin: http://localhost:8081",
            "Origin: http://other:8080",
            "Origin: localhost:8080",
            "Origin:",
            "Origin: http://localhost:8080\r\nOrigin: http://localhost:8080",
            "Origin: http://localhost:3000\r\nSec-Fetch-Site: same-site",
            "Origin: http://a\r\nSec-Fetch-Site: same-origin\r\nSec-Fetch-Site: same-origin",
            "Sec-Fetch-Site: cross-site",
            "Sec-Fetch-Site: same-site",
            "Sec-Fetch-Site: none, same-origin",
        ] {
            assert!(!passes(&own, headers), "{headers}");
        }
        let listed = |list: &[&str]| Authorizer {
            allowed_origins: list.iter().map(|&origin| origin.to_owned()).collect(),
            ..authorizer()
        };
        let app = listed(&["https://app.example"]);
        assert!(passes(&app, "Origin: https://APP.example\r\nSec-Fetch-Site: cross-site"));
        assert!(passes(&app, "Origin: http://localhost:8080"), "its own stay allowed");
        assert!(!passes(&app, "Origin: null") && !passes(&app, "Origin: https://app.example:444"));
        assert!(passes(&listed(&["null"]), "Origin: null"));
        assert!(!passes(&listed(&["null"]), "Origin: https://app.example"));
        assert!(passes(&listed(&["*"]), "Origin: https://any.example"));
    }

    #[test]
    fn a_refused_page_is_told_which_origins_may_call() {
        let refused = |authorizer: &Authorizer, headers: &str| {
            authorize(authorizer, "GET", &format!("{GOOD}{headers}\r\n")).expect_err(headers).detail
        };
        let detail = refused(&authorizer(), "Origin: http://localhost:5173");
        assert_eq!(
            detail,
            "pages of the origin \"http://localhost:5173\" may not call; allowed are \
             http://localhost:8080, http://127.0.0.1:8080. --allowed-origins names others, exactly \
             as the browser sends them"
        );
        let many = (0..20).map(|n| format!("https://app{n}.example")).collect();
        let many = Authorizer { allowed_origins: many, ..authorizer() };
        let detail = refused(&many, &format!("Origin: https://{}", "x".repeat(8_000)));
        assert!(detail.contains("https://app5.example and 14 more"), "{detail}");
        assert!(detail.len() < 600, "{detail}");
        assert!(
            refused(&authorizer(), "Sec-Fetch-Site: cross-site")
                .starts_with("pages of other sites")
        );
        let twice = "Origin: http://a\r\nOrigin: http://a";
        assert!(refused(&authorizer(), twice).starts_with("a request with more than one Origin"));
    }

    #[test]
    fn hosts_are_checked_in_header_and_target() {
        let status = |target: &str, host: &str| {
            let text = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
            let limits = HeadLimits { bytes_max: 16_384, headers_max: 100 };
            let head = head::parse(text.as_bytes(), limits).expect("well-formed").expect("whole");
            authorizer()
                .check_host(&head.uri, &head.headers, None)
                .err()
                .map(|rejection| rejection.status)
        };
        assert_eq!(status("/ws", "localhost:1"), None);
        assert_eq!(status("http://localhost/ws", "127.0.0.1"), None);
        assert_eq!(status("/ws", "evil.example"), Some(421));
        assert_eq!(status("http://evil.example/ws", "localhost"), Some(421));
        assert_eq!(status("http://evil@localhost/ws", "localhost"), Some(421));
        assert_eq!(status("http://localhost/ws", "evil.example"), Some(421));
        assert!(authorizer().check_host(&Uri::default(), &HeaderMap::new(), None).is_ok());
    }

    #[test]
    fn several_tokens_have_to_be_the_same() {
        let status = |query: &str, headers: &[(&'static str, &'static str)]| {
            let mut map = HeaderMap::new();
            for &(name, value) in headers {
                map.append(name, value.parse().expect("a value"));
            }
            presented_token(&map, Some(query), true).map_err(|rejection| rejection.status)
        };
        let protocols = "sec-websocket-protocol";
        let same = [("authorization", "Bearer T"), (protocols, "fanfare, bearer.T")];
        assert_eq!(status("token=T&token=T", &same), Ok(Some("T".into())));
        assert_eq!(status("", &[]), Ok(None));
        assert_eq!(status("token=U", &same), Err(400));
        assert_eq!(status("token=U&token=T", &[]), Err(400));
        assert_eq!(status("", &[(protocols, "bearer.T"), (protocols, "bearer.U")]), Err(400));
        assert_eq!(status("token=T", &[("authorization", "Basic T")]), Err(400));
    }

    #[test]
    fn required_means_required() {
        let authorizer = Authorizer { is_auth_required: true, ..authorizer() };
        assert_eq!(authorize(&authorizer, "GET", GOOD).expect_err("no token").status, 401);
    }
}
