//! The address of a server: `ws://host:port`, and the URLs that follow from it.
//!
//! Imports `error`. Imported by `transport` and `settings`.

use crate::error::Error;

/// One server of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    /// Host and port as in a URL, for the `Host` header too.
    pub(crate) authority: String,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) is_secure: bool,
    /// The socket's path, with its query.
    path: String,
    /// The prefix of the path of every HTTP call: empty, or `/push`.
    base: String,
}

impl Address {
    /// Reads `ws://`, `wss://`, `http://` or `https://`, a host, and optionally a port and a path.
    ///
    /// A path that ends in `/ws` is the socket's, and HTTP calls go beside it; so is any other path
    /// of `ws://`, and then they go to the root. Any other path of `http://` is the server's
    /// `--base-path`, below which the socket and the calls are. Without a path the socket is `/ws`.
    pub(crate) fn parse(url: &str) -> Result<Address, Error> {
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
        // The colons of an IPv6 address are in brackets.
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
        let (path, query) = path.find('?').map_or((path, ""), |at| path.split_at(at));
        let is_socket = scheme.to_ascii_lowercase().starts_with("ws");
        let (base, path) = match path.trim_end_matches('/') {
            "" => ("", String::from("/ws")),
            socket if socket.ends_with("/ws") => (&socket[..socket.len() - 3], socket.to_owned()),
            _ if is_socket => (path.rfind("/ws/").map_or("", |at| &path[..at]), path.to_owned()),
            base => (base, format!("{base}/ws")),
        };
        let (base, path) = (base.to_owned(), format!("{path}{query}"));
        Ok(Address {
            authority: authority.to_owned(),
            host: host.to_owned(),
            port,
            is_secure,
            path,
            base,
        })
    }

    /// The target of an HTTP call of the server, by its path and query.
    pub(crate) fn target(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// The URL of the socket.
    pub(crate) fn socket_url(&self) -> String {
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
    fn a_path_is_the_sockets_or_the_servers() {
        for (url, socket, call) in [
            ("http://h", "ws://h/ws", "/health"),
            ("http://h/", "ws://h/ws", "/health"),
            ("http://h/?x=1", "ws://h/ws?x=1", "/health"),
            ("ws://h?x=1", "ws://h/ws?x=1", "/health"),
            ("http://h/ws", "ws://h/ws", "/health"),
            ("ws://h/ws/", "ws://h/ws", "/health"),
            ("ws://h/ws/news", "ws://h/ws/news", "/health"),
            ("ws://h/elsewhere", "ws://h/elsewhere", "/health"),
            ("http://h/push", "ws://h/push/ws", "/push/health"),
            ("https://h/a/b/", "wss://h/a/b/ws", "/a/b/health"),
            ("ws://h/push/ws?x=1", "ws://h/push/ws?x=1", "/push/health"),
            ("ws://h/push/ws/news", "ws://h/push/ws/news", "/push/health"),
        ] {
            let address = Address::parse(url).expect("good");
            assert_eq!(address.socket_url(), socket, "{url}");
            assert_eq!(address.target("/health"), call, "{url}");
        }
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
