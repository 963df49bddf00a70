//! The server's own names, in `Host` and in a page's `Origin`.
//!
//! A page whose name is made to point at this server (DNS rebinding) sends that name in `Host`, and a matching
//! `Origin`. So the two are not compared with each other, but with the names that the server knows:
//! loopback, the address it is bound to, and `--allowed-hosts`.
//!
//! # Promises
//!
//! * An IP address counts as written and as mapped into IPv6; a name counts without case, and with
//!   or without the dot at its end.
//! * A value that is not a host with an optional port (RFC 9110, 7.2) matches no name.
//!
//! # Not here
//!
//! Which requests are checked: `ws::authorizer` and `http::router` decide that.
//!
//! Imports `limits`. Imported by `ws::authorizer` and `config`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use crate::limits;

/// A host, as a URL names it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    /// An address, as IPv4 if it was mapped into IPv6.
    Ip(IpAddr),
    /// A name in lower case, without a dot at its end.
    Name(String),
}

/// A host with its port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Authority {
    host: Host,
    port: Option<u16>,
}

impl Authority {
    /// Reads `host`, `host:port`, `192.0.2.7:80` or `[2001:db8::1]:80`. None for any other text,
    /// one with an `@` included.
    fn read(text: &str) -> Option<Authority> {
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (address, rest) = rest.split_once(']')?;
            let address: Ipv6Addr = address.parse().ok()?;
            let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) };
            (Host::Ip(IpAddr::V6(address).to_canonical()), port)
        } else {
            let (host, port) = match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            };
            (name(host)?, port)
        };
        let port = match port {
            // RFC 3986, 3.2.3: a port may be empty, and then is the default one.
            None | Some("") => None,
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(port.parse().ok()?)
            }
            Some(_) => return None,
        };
        Some(Authority { host, port })
    }
}

/// A name, or an IPv4 address in its only form of four decimal numbers.
fn name(text: &str) -> Option<Host> {
    let text = text.strip_suffix('.').unwrap_or(text);
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return Some(Host::Ip(address.into()));
    }
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let is_label = |label: &str| !label.is_empty() && label.bytes().all(is_part);
    let is_good = text.len() <= limits::HOST_BYTES_MAX && text.split('.').all(is_label);
    is_good.then(|| Host::Name(text.to_ascii_lowercase()))
}

/// One entry of `--allowed-hosts`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    host: Host,
    /// Whether the entry is for the names below it, and not for itself.
    is_below: bool,
    port: Option<u16>,
}

impl Pattern {
    fn read(text: &str) -> Option<Pattern> {
        if let Ok(address) = text.parse::<IpAddr>() {
            let host = Host::Ip(address.to_canonical());
            return Some(Pattern { host, is_below: false, port: None });
        }
        let (text, is_below) = text.strip_prefix("*.").map_or((text, false), |rest| (rest, true));
        let Authority { host, port } = Authority::read(text)?;
        let is_good = !is_below || matches!(host, Host::Name(_));
        is_good.then_some(Pattern { host, is_below, port })
    }

    fn fits(&self, host: &Host) -> bool {
        match (&self.host, host) {
            (Host::Name(own), Host::Name(other)) if self.is_below => {
                other.strip_suffix(own.as_str()).is_some_and(|rest| rest.ends_with('.'))
            }
            (own, other) => own == other,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Name(name) => write!(f, "{}{name}", if self.is_below { "*." } else { "" })?,
            Host::Ip(IpAddr::V6(address)) if self.port.is_some() => write!(f, "[{address}]")?,
            Host::Ip(address) => address.fmt(f)?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// The names by which clients may call the server, besides its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedHosts(Vec<Pattern>);

/// The fault of a list of hosts: the entry that is not a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadHost(pub String);

/// By comma: `fanfare.example.org, *.internal, fanfare.example.org:8443, 192.0.2.7`.
impl FromStr for AllowedHosts {
    type Err = BadHost;

    fn from_str(text: &str) -> Result<AllowedHosts, BadHost> {
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let all =
            entries.map(|entry| Pattern::read(entry).ok_or_else(|| BadHost(entry.to_owned())));
        all.collect::<Result<_, _>>().map(AllowedHosts)
    }
}

impl AllowedHosts {
    /// The entries, as texts.
    pub fn iter(&self) -> impl Iterator<Item = String> + '_ {
        self.0.iter().map(ToString::to_string)
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The names of one server.
#[derive(Debug, Clone)]
pub struct Hosts {
    bind: SocketAddr,
    allowed: AllowedHosts,
    is_checked: bool,
}

impl Hosts {
    /// The names of a server bound to an address. If `is_checked` is false every `Host` passes, and
    /// origins are compared all the same.
    pub fn new(bind: SocketAddr, allowed: AllowedHosts, is_checked: bool) -> Hosts {
        Hosts { bind, allowed, is_checked }
    }

    /// Whether a request may name the server so, in `Host` or in its target. `local` is the address
    /// at which its connection arrived.
    pub fn passes(&self, authority: &[u8], local: Option<SocketAddr>) -> bool {
        if !self.is_checked {
            return true;
        }
        let read = std::str::from_utf8(authority).ok().and_then(Authority::read);
        read.is_some_and(|Authority { host, .. }| {
            self.is_own(&host, local) || self.allowed.0.iter().any(|pattern| pattern.fits(&host))
        })
    }

    /// Whether an origin is one of the server's own: a name of its own with its port, or an allowed
    /// host with the port of its entry. An entry without a port stands for the server's own port
    /// and for those of the schemes, because a proxy may stand in front.
    pub fn is_origin(&self, origin: &str, local: Option<SocketAddr>) -> bool {
        let (rest, scheme_port) = match origin.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (rest, 80),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (rest, 443),
            _ => return false,
        };
        let Some(Authority { host, port }) = Authority::read(rest) else { return false };
        let port = port.unwrap_or(scheme_port);
        let own_port = local.map_or(self.bind.port(), |local| local.port());
        if port == own_port && self.is_own(&host, local) {
            return true;
        }
        self.allowed.0.iter().filter(|pattern| pattern.fits(&host)).any(|pattern| {
            pattern.port.map_or(port == own_port || port == scheme_port, |named| named == port)
        })
    }

    /// Some of those origins, for people: the server's own as typed in a browser, and those of
    /// allowed hosts behind a proxy with TLS.
    pub fn shown_origins(&self, local: Option<SocketAddr>) -> Vec<String> {
        let called = local.unwrap_or(self.bind);
        let (ip, port) = (called.ip().to_canonical(), called.port());
        let mut shown = vec![format!("http://localhost:{port}")];
        if !ip.is_unspecified() {
            shown.push(format!("http://{}", SocketAddr::new(ip, port)));
        }
        shown.extend(self.allowed.0.iter().map(|pattern| format!("https://{pattern}")));
        shown
    }

    /// Loopback, the address that the server is bound to, or the one at which the connection
    /// arrived: a server that is bound to every address was called by it.
    fn is_own(&self, host: &Host, local: Option<SocketAddr>) -> bool {
        match host {
            Host::Name(name) => {
                // RFC 6761, 6.3: all names below are loopback too, and browsers resolve them so.
                name == "localhost" || name.ends_with(".localhost")
            }
            Host::Ip(ip) => {
                let is_it = |address: SocketAddr| address.ip().to_canonical() == *ip;
                ip.is_loopback() || is_it(self.bind) || local.is_some_and(is_it)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(bind: &str, allowed: &str) -> Hosts {
        let allowed = allowed.parse().expect("a list of hosts");
        Hosts::new(bind.parse().expect("an address"), allowed, true)
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn own_names_pass_with_any_port() {
        let hosts = hosts("192.0.2.7:8080", "");
        for own in [
            "localhost",
            "LOCALHOST:8080",
            "localhost.",
            "localhost.:1",
            "app.localhost",
            "127.0.0.1:9",
            "127.8.9.10",
            "[::1]",
            "[::1]:8080",
            "[0:0:0:0:0:0:0:1]",
            "[::ffff:127.0.0.1]",
            "192.0.2.7",
            "192.0.2.7:1",
            "[::ffff:192.0.2.7]:8080",
            "localhost:",
        ] {
            assert!(hosts.passes(own.as_bytes(), Some(at("192.0.2.7:8080"))), "{own}");
        }
    }

    #[test]
    fn all_else_does_not() {
        let hosts = hosts("192.0.2.7:8080", "fanfare.example.org,*.internal");
        for other in [
            "",
            "-",
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "notlocalhost",
            ".localhost",
            "127.0.0.1.evil.example",
            "192.0.2.70",
            "192.0.2.8",
            "0.0.0.0",
            "127.1",
            "0x7f000001",
            "2130706433",
            "127.0.0.01",
            "[::]",
            "::1",
            "[::1",
            "[::1]x",
            "[::1].evil.example",
            "[::1%25lo]",
            "localhost@evil.example",
            "evil.example@localhost",
            "localhost:80@evil.example",
            "localhost:x",
            "localhost:99999",
            "localhost:80:80",
            "localhost, evil.example",
            "localhost evil.example",
            "localhost/evil",
            "localhost..",
            "local\u{212a}ost",
            "fanfare.example.org.evil.example",
            "evil-fanfare.example.org",
            "internal",
            "evilinternal",
        ] {
            assert!(!hosts.passes(other.as_bytes(), Some(at("192.0.2.7:8080"))), "{other}");
        }
        assert!(!hosts.passes(b"localhost\xff", None));
    }

    #[test]
    fn listed_hosts_pass_with_any_port() {
        let hosts = hosts(
            "127.0.0.1:8080",
            "Fanfare.Example.ORG, *.internal, 198.51.100.1,2001:db8::1,h:81",
        );
        for listed in [
            "fanfare.example.org",
            "FANFARE.example.org.:8443",
            "a.internal",
            "a.b.internal:1",
            "198.51.100.1:8080",
            "[2001:db8:0::1]",
            "h",
            "h:80",
        ] {
            assert!(hosts.passes(listed.as_bytes(), None), "{listed}");
        }
        let shown: Vec<String> = hosts.allowed.iter().collect();
        assert_eq!(shown.join(","), "fanfare.example.org,*.internal,198.51.100.1,2001:db8::1,h:81");
        for wrong in ["*", "https://h", "h/", "a@b", "*.1.2.3.4", "a b", "h:x", "*.*.h"] {
            assert_eq!(wrong.parse::<AllowedHosts>(), Err(BadHost(wrong.to_owned())));
        }
    }

    /// Clients call a server on every address by the one at which the connection arrives; a probe
    /// names that one.
    #[test]
    fn the_address_called_is_the_servers_own() {
        let hosts = hosts("0.0.0.0:8080", "");
        assert!(hosts.passes(b"10.1.2.3:8080", Some(at("10.1.2.3:8080"))));
        assert!(hosts.passes(b"10.1.2.3", Some(at("[::ffff:10.1.2.3]:8080"))));
        assert!(!hosts.passes(b"10.1.2.4:8080", Some(at("10.1.2.3:8080"))));
        assert!(!hosts.passes(b"evil.example:8080", Some(at("10.1.2.3:8080"))));
    }

    #[test]
    fn origins_are_exact() {
        let hosts = hosts("127.0.0.1:0", "fanfare.example.org,port.example:8443");
        let local = Some(at("127.0.0.1:8080"));
        for own in [
            "http://localhost:8080",
            "http://127.0.0.1:8080",
            "https://[::1]:8080",
            "HTTP://LocalHost:8080",
            "https://fanfare.example.org",
            "http://fanfare.example.org",
            "http://fanfare.example.org:8080",
            "https://port.example:8443",
        ] {
            assert!(hosts.is_origin(own, local), "{own}");
        }
        for other in [
            "null",
            "",
            "http://localhost",
            "http://localhost:3000",
            "http://localhost:80800",
            "localhost:8080",
            "ftp://localhost:8080",
            "http://evil.example:8080",
            "http://localhost.evil.example:8080",
            "http://localhost:8080@evil.example",
            "http://localhost:8080/",
            "https://fanfare.example.org:8443",
            "https://port.example",
            "https://port.example:8080",
            "file://",
            "http://",
        ] {
            assert!(!hosts.is_origin(other, local), "{other}");
        }
    }

    #[test]
    fn unchecked_hosts_leave_origins_checked() {
        let hosts = Hosts::new(([0, 0, 0, 0], 8080).into(), AllowedHosts::default(), false);
        assert!(hosts.passes(b"evil.example", None));
        assert!(!hosts.is_origin("http://evil.example:8080", Some(at("10.0.0.1:8080"))));
    }
}
