//! Where a server is: `ws://host:port`, with what follows from it.
//!
//! Imports its siblings only.

use super::error::Error;

/// One server of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// Host and port as they stand in a URL, for the `Host` header too.
    pub(super) authority: String,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) is_secure: bool,
    /// The socket's path, with its query.
    path: String,
}

impl Address {
    /// Reads `ws://`, `wss://`, `http://` or `https://`, a host, and at will a port and a path.
    /// Without a path it is `/ws`.
    pub(super) fn parse(url: &str) -> Result<Address, Error> {
        let wrong = |what: &str| Error::invalid(format!("server URL {url:?}: {what}"));
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("no scheme"))?;
        let is_secure = match scheme.to_ascii_lowercase().as_str() {
            "ws" | "http" => false,
            "wss" | "https" => true,
            _ => return Err(wrong("the scheme is not ws, wss, http or https")),
        };
        if !url.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong("it holds what a URL cannot hold"));
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains('@') {
            return Err(wrong("a name and password do not belong into it"));
        }
        let path = path.split('#').next().unwrap_or_default();
        // The colons of an IPv6 address stand in brackets.
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (authority, None),
        };
        let port = match port {
            Some(port) => port.parse().map_err(|_| wrong("the port is no number up to 65535"))?,
            None if is_secure => 443,
            None => 80,
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(wrong("no host"));
        }
        let path = match path {
            "" | "/" => String::from("/ws"),
            path if path.starts_with('/') => path.to_owned(),
            path => format!("/ws{path}"),
        };
        Ok(Address {
            authority: authority.to_owned(),
            host: host.to_owned(),
            port,
            is_secure,
            path,
        })
    }

    /// The URL of the socket.
    pub(super) fn socket_url(&self) -> String {
        let scheme = if self.is_secure { "wss" } else { "ws" };
        format!("{scheme}://{}{}", self.authority, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_enough() {
        let address = Address::parse("ws://localhost:8080").expect("good");
        assert_eq!((address.host.as_str(), address.port), ("localhost", 8080));
        assert_eq!(address.socket_url(), "ws://localhost:8080/ws");
        let address = Address::parse("HTTPS://example.org/").expect("good");
        assert_eq!((address.port, address.is_secure), (443, true));
        assert_eq!(address.socket_url(), "wss://example.org/ws");
        let address = Address::parse("ws://[::1]:9/ws?x=1#y").expect("good");
        assert_eq!((address.host.as_str(), address.port), ("::1", 9));
        assert_eq!(address.socket_url(), "ws://[::1]:9/ws?x=1");
        assert_eq!(Address::parse("ws://[::1]").expect("good").port, 80);
    }

    #[test]
    fn faults_are_found_before_anyone_connects() {
        for url in
            ["", "localhost:8080", "ftp://x", "ws://", "ws://:80", "ws://h:99999", "ws://a b"]
        {
            assert!(matches!(Address::parse(url), Err(Error::Invalid(_))), "{url}");
        }
        assert!(Address::parse("ws://ann:geheim@h").is_err());
    }
}
