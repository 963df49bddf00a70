//! A client's address behind proxies, from `Forwarded` (RFC 7239) or `X-Forwarded-For`.
//!
//! Each proxy appends the address of its caller. So the walk goes from the last entry to the first, while the
//! writer of the entry is trusted. The first address that is not a trusted proxy is the client's; a
//! client may have invented every entry left of it.
//!
//! # Promises
//!
//! * From a peer that is not trusted both headers are ignored.
//! * An unreadable entry ends the walk at the last readable address: a client that sends rubbish counts as
//!   the proxy it comes through.
//! * If both headers are present and name different addresses, the client sent one of them, through a proxy
//!   that writes only the other. Which one is unknown, so the peer's address is used.
//!
//! Imports its siblings and `address`. Imported by `ws::authorizer`, `http` and `config`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::str::FromStr;

pub use super::networks::BadNetwork as BadProxy;
use super::networks::Networks;
use crate::address::ClientAddress;
use hyper::http::HeaderMap;

/// The proxies whose headers about addresses are trusted. None by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(Networks);

impl FromStr for TrustedProxies {
    type Err = BadProxy;

    fn from_str(text: &str) -> Result<TrustedProxies, BadProxy> {
        text.parse().map(TrustedProxies)
    }
}

impl fmt::Display for TrustedProxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TrustedProxies {
    /// The networks, as texts.
    pub fn iter(&self) -> impl Iterator<Item = String> + '_ {
        self.0.iter()
    }

    /// Whether an address is a trusted proxy's.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(address)
    }

    /// The client of a request that `peer` has sent. Costs a comparison with each network if the
    /// peer is not trusted.
    pub(crate) fn client(&self, peer: SocketAddr, headers: &HeaderMap) -> ClientAddress {
        let peer = ClientAddress::from(peer);
        if !self.contains(peer.ip) {
            return peer;
        }
        let told = |name| {
            headers.contains_key(name).then(|| match name {
                FORWARDED => self.walk(peer, forwarded_hops(headers)),
                name => self.walk(peer, x_forwarded_hops(headers, name)),
            })
        };
        match (told(FORWARDED), told(X_FORWARDED_FOR)) {
            (Some(one), Some(other)) if one.ip != other.ip => peer,
            (Some(client), _) | (None, Some(client)) => client,
            (None, None) => peer,
        }
    }

    /// Walks from the peer along the hops, the nearest first. None is an unreadable hop.
    fn walk(
        &self,
        peer: ClientAddress,
        hops: impl IntoIterator<Item = Option<ClientAddress>>,
    ) -> ClientAddress {
        let mut client = peer;
        for hop in hops {
            let Some(hop) = hop else { break };
            client = hop;
            if !self.contains(hop.ip) {
                break;
            }
        }
        client
    }
}

const FORWARDED: &str = "forwarded";
const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// The hops of `X-Forwarded-For`, the last one first. Lines of the same name are one list (RFC
/// 9110, 5.3); its empty elements are skipped (5.6.1).
fn x_forwarded_hops<'a>(
    headers: &'a HeaderMap,
    name: &str,
) -> impl Iterator<Item = Option<ClientAddress>> + use<'a> {
    let lines = headers.get_all(name).iter().rev();
    lines.flat_map(|line| line.as_bytes().rsplit(|&byte| byte == b',')).filter_map(|element| {
        let element = element.trim_ascii();
        if element.is_empty() {
            return None;
        }
        Some(std::str::from_utf8(element).ok().and_then(node))
    })
}

/// The hops of `Forwarded`, the last one first. A line that cannot be split is one unreadable hop:
/// the boundaries of its elements are unknown.
fn forwarded_hops(headers: &HeaderMap) -> Vec<Option<ClientAddress>> {
    let lines = headers.get_all(FORWARDED).iter().rev();
    lines
        .flat_map(|line| {
            let mut hops = line.to_str().ok().and_then(elements).unwrap_or_else(|| vec![None]);
            hops.reverse();
            hops
        })
        .collect()
}

/// The nodes of the elements in a line of `Forwarded`, in their order (RFC 7239, 4). None if the
/// line breaks the grammar.
fn elements(line: &str) -> Option<Vec<Option<ClientAddress>>> {
    let mut hops = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return Some(hops);
        }
        let (hop, after) = element(rest)?;
        hops.push(hop);
        rest = after;
    }
}

/// One element: pairs by semicolon. Returns its node, if it names one, and the rest of the text.
fn element(text: &str) -> Option<(Option<ClientAddress>, &str)> {
    let (mut hop, mut rest) = (None, text);
    let mut has_node = false;
    loop {
        let (name, after) = rest.split_once('=')?;
        if name.is_empty() || !name.bytes().all(is_token_byte) {
            return None;
        }
        let (value, after) = value(after)?;
        if name.eq_ignore_ascii_case("for") {
            // RFC 7239, 4: each parameter occurs at most once in an element.
            if std::mem::replace(&mut has_node, true) {
                return None;
            }
            hop = node(&value);
        }
        let after = after.trim_start_matches([' ', '\t']);
        match after.as_bytes().first() {
            None | Some(b',') => return Some((hop, after)),
            Some(b';') => rest = after[1..].trim_start_matches([' ', '\t']),
            Some(_) => return None,
        }
    }
}

/// A token or a quoted string (RFC 9110, 5.6.4), and the rest of the text. Colons and brackets are
/// accepted without quotes too, as some proxies write them.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let is_bare = |c: char| c.is_ascii() && (is_token_byte(c as u8) || ":[]".contains(c));
        let end = text.find(|c| !is_bare(c)).unwrap_or(text.len());
        return (end > 0).then(|| (text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((index, char)) = chars.next() {
        match char {
            '"' => return Some((value, &quoted[index + 1..])),
            '\\' => value.push(chars.next()?.1),
            plain => value.push(plain),
        }
    }
    None
}

/// A character of a token (RFC 9110, 5.6.2).
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A hop's address (RFC 7239, 6): IPv4, or IPv6 in brackets, with a port or an obfuscated one; IPv6
/// also without brackets, as `X-Forwarded-For` has it. None for `unknown` and obfuscated names.
fn node(text: &str) -> Option<ClientAddress> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(ClientAddress::of_ip(ip));
    }
    let (ip, port) = if let Some(rest) = text.strip_prefix('[') {
        let (ip, rest) = rest.split_once(']')?;
        let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) };
        (IpAddr::V6(ip.parse::<Ipv6Addr>().ok()?), port)
    } else {
        let (ip, port) = text.split_once(':')?;
        (IpAddr::V4(ip.parse().ok()?), Some(port))
    };
    let port = match port {
        None => None,
        Some(hidden) if is_obfuscated(hidden) => None,
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            NonZeroU16::new(port.parse().ok()?)
        }
        Some(_) => return None,
    };
    Some(ClientAddress { port, ..ClientAddress::of_ip(ip) })
}

/// RFC 7239, 6.3.
fn is_obfuscated(text: &str) -> bool {
    text.strip_prefix('_').is_some_and(|rest| {
        !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::http::{HeaderName, HeaderValue};

    fn proxies(text: &str) -> TrustedProxies {
        text.parse().expect("a list of proxies")
    }

    fn client(headers: &[(&str, &str)]) -> String {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: HeaderName = name.parse().expect("a name");
            map.append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
        }
        let peer = "10.0.0.1:4000".parse().expect("an address");
        proxies("10.0.0.0/8, fd00::/8").client(peer, &map).to_string()
    }

    #[test]
    fn lists_of_proxies_are_read() {
        let list = proxies("10.1.2.3/8, 192.0.2.7,::1, ::ffff:203.0.113.0/120,");
        assert_eq!(list.to_string(), "10.0.0.0/8,192.0.2.7/32,::1/128,203.0.113.0/24");
        for (address, is_in) in [
            ("10.255.0.1", true),
            ("::ffff:10.0.0.1", true),
            ("192.0.2.8", false),
            ("::1", true),
            ("203.0.113.9", true),
        ] {
            assert_eq!(list.contains(address.parse().expect("an address")), is_in, "{address}");
        }
        for wrong in ["nginx", "10.0.0.0/33", "10.0.0/8", "*", "10.0.0.1:80", "::/129"] {
            assert_eq!(wrong.parse::<TrustedProxies>(), Err(BadProxy(wrong.to_owned())));
        }
        assert_eq!(proxies(""), TrustedProxies::default());
    }

    #[test]
    fn x_forwarded_for_is_walked_from_its_end() {
        for (value, want) in [
            ("192.0.2.1", "192.0.2.1"),
            ("198.51.100.9, 192.0.2.1", "192.0.2.1"),
            ("192.0.2.1, 10.0.0.2, 10.9.9.9", "192.0.2.1"),
            ("spoofed, 192.0.2.1 , 10.0.0.2", "192.0.2.1"),
            ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
            ("192.0.2.1:5000", "192.0.2.1:5000"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:443,fd00::7", "[2001:db8::1]:443"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("192.0.2.1, unknown, 10.0.0.2", "10.0.0.2"),
            ("192.0.2.1, _hidden", "10.0.0.1:4000"),
            ("192.0.2.1, 10.0.0.300", "10.0.0.1:4000"),
            ("192.0.2.1,, ", "192.0.2.1"),
            ("", "10.0.0.1:4000"),
            ("192.0.2.1:70000", "10.0.0.1:4000"),
            ("192.0.2.1:", "10.0.0.1:4000"),
            ("[2001:db8::1", "10.0.0.1:4000"),
            ("[192.0.2.1]", "10.0.0.1:4000"),
            ("192.0.2.1 192.0.2.2", "10.0.0.1:4000"),
            ("192.0.2.1, \u{e9}", "10.0.0.1:4000"),
        ] {
            assert_eq!(client(&[("x-forwarded-for", value)]), want, "{value}");
        }
        let lines = [("x-forwarded-for", "192.0.2.9"), ("x-forwarded-for", "192.0.2.1, 10.0.0.2")];
        assert_eq!(client(&lines), "192.0.2.1");
        let lines = [("x-forwarded-for", "192.0.2.9, 192.0.2.1"), ("x-forwarded-for", "10.0.0.2")];
        assert_eq!(client(&lines), "192.0.2.1");
    }

    #[test]
    fn forwarded_is_walked_from_its_end() {
        for (value, want) in [
            ("for=192.0.2.1", "192.0.2.1"),
            ("For=\"192.0.2.1:5000\"; proto=https;by=10.0.0.1", "192.0.2.1:5000"),
            ("for=192.0.2.1:5000", "192.0.2.1:5000"),
            ("proto=http;FOR=\"[2001:db8::1]:47011\", for=10.0.0.2", "[2001:db8::1]:47011"),
            ("for=\"[2001:db8::1]\"", "2001:db8::1"),
            ("for=\"\\1\\92.0.2.1\"", "192.0.2.1"),
            ("for=\"192.0.2.1:_port\"", "192.0.2.1"),
            ("for=198.51.100.9,for=192.0.2.1", "192.0.2.1"),
            ("for=192.0.2.1, for=unknown, for=10.0.0.2", "10.0.0.2"),
            ("for=192.0.2.1, for=_SEVKISEK", "10.0.0.1:4000"),
            ("for=192.0.2.1, proto=https", "10.0.0.1:4000"),
            ("for=192.0.2.1;for=192.0.2.2", "10.0.0.1:4000"),
            ("for=192.0.2.1;host=\"a, for=192.0.2.2\"", "192.0.2.1"),
            ("for=\"192.0.2.1", "10.0.0.1:4000"),
            ("for = 192.0.2.1", "10.0.0.1:4000"),
            ("192.0.2.1", "10.0.0.1:4000"),
            ("for=\"\"", "10.0.0.1:4000"),
            ("for=", "10.0.0.1:4000"),
            (", ,for=192.0.2.1,", "192.0.2.1"),
            ("", "10.0.0.1:4000"),
        ] {
            assert_eq!(client(&[("forwarded", value)]), want, "{value}");
        }
        let lines = [("forwarded", "for=192.0.2.9"), ("forwarded", "for=192.0.2.1, for=10.0.0.2")];
        assert_eq!(client(&lines), "192.0.2.1");
    }

    /// A proxy appends to the client's header. Whatever the client sent moves no address but into
    /// the proxy's own.
    #[test]
    fn an_open_quote_swallows_no_hop() {
        for own in ["for=192.0.2.66, for=\"", "for=192.0.2.66;x=\"", "for=192.0.2.66;x=\"\\"] {
            for appended in ["for=192.0.2.1", "for=\"[2001:db8::1]\"", "for=\"192.0.2.1:80\""] {
                let value = format!("{own}, {appended}");
                assert_eq!(client(&[("forwarded", &value)]), "10.0.0.1:4000", "{value}");
            }
        }
    }

    #[test]
    fn headers_that_contradict_each_other_name_nobody() {
        let both = |forwarded, x_forwarded| {
            client(&[("forwarded", forwarded), ("x-forwarded-for", x_forwarded)])
        };
        assert_eq!(both("for=192.0.2.1", "192.0.2.1"), "192.0.2.1");
        assert_eq!(both("for=192.0.2.66", "192.0.2.1"), "10.0.0.1:4000");
        assert_eq!(both("rubbish", "192.0.2.1"), "10.0.0.1:4000");
    }

    #[test]
    fn others_are_not_listened_to() {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", HeaderValue::from_static("192.0.2.1"));
        headers.insert("forwarded", HeaderValue::from_static("for=192.0.2.1"));
        let peer = "[::ffff:198.51.100.1]:9".parse().expect("an address");
        for list in ["", "10.0.0.0/8"] {
            assert_eq!(proxies(list).client(peer, &headers).to_string(), "198.51.100.1:9");
        }
    }
}
