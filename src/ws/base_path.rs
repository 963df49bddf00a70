//! The base path below which the server answers, such as `/push` on a site with other content.
//!
//! It is stripped from a request's path once, before routing; routers, pages and sockets know paths without
//! it.
//!
//! # Promises
//!
//! * Without a base path every path stays as it is.
//! * `/health`, `/ready` and `/metrics` answer at the root as well: probes and Prometheus ask the port
//!   itself, and know nothing of the site in front of it.
//! * The path is compared as it is written; `/%70ush` is not `/push`.
//!
//! Imports `limits`. Imported by `ws::authorizer` and `config`.

use std::fmt;
use std::str::FromStr;

use crate::limits;

/// The paths that answer at the root, whatever the base path is.
const AT_ROOT: [&str; 3] = ["/health", "/ready", "/metrics"];

/// A base path: empty, or `/push` without a slash at its end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BasePath(String);

/// A text that is no base path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadBasePath;

/// `/`, `/push`, `/push/` or `/a/b`: segments of letters, digits, `-`, `.`, `_` and `~`
/// (RFC 3986, 2.3), none of them `.` or `..`.
impl FromStr for BasePath {
    type Err = BadBasePath;

    fn from_str(text: &str) -> Result<BasePath, BadBasePath> {
        let path = text.strip_suffix('/').unwrap_or(text);
        if path.is_empty() {
            return Ok(BasePath::default());
        }
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        let is_segment = |part: &str| {
            !part.is_empty() && part != "." && part != ".." && part.bytes().all(is_plain)
        };
        let rest = path.strip_prefix('/').ok_or(BadBasePath)?;
        let is_good = path.len() <= limits::BASE_PATH_BYTES_MAX && rest.split('/').all(is_segment);
        if is_good { Ok(BasePath(path.to_owned())) } else { Err(BadBasePath) }
    }
}

/// As it is written before a path: empty without a base path.
impl fmt::Display for BasePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl BasePath {
    /// Whether there is no base path.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The path without the base path. None if it lies outside.
    pub fn below<'a>(&self, path: &'a str) -> Option<&'a str> {
        match path.strip_prefix(self.0.as_str()) {
            Some(rest) if rest.starts_with('/') => Some(rest),
            // Only an asterisk, or a path of CONNECT, begins with another character.
            _ if self.is_root() => Some(path),
            _ => AT_ROOT.contains(&path).then_some(path),
        }
    }

    /// The target of a redirect from the base path itself to the one with a slash, which relative
    /// links of the pages need: a relative reference (RFC 3986, 4.2), right below any proxy's
    /// prefix as well.
    pub fn with_slash(&self, path: &str) -> Option<String> {
        let last = self.0.rsplit('/').next().filter(|last| !last.is_empty())?;
        (path == self.0).then(|| format!("{last}/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(text: &str) -> BasePath {
        text.parse().expect("a base path")
    }

    #[test]
    fn it_is_stripped_once() {
        for (of, path, below) in [
            ("/", "/ws", Some("/ws")),
            ("", "/push/ws", Some("/push/ws")),
            ("/", "*", Some("*")),
            ("/push", "/push/ws", Some("/ws")),
            ("/push/", "/push/", Some("/")),
            ("/push", "/push/push/ws", Some("/push/ws")),
            ("/push", "/push", None),
            ("/push", "/pushing/ws", None),
            ("/push", "/PUSH/ws", None),
            ("/push", "/ws", None),
            ("/push", "/", None),
            ("/push", "//push/ws", None),
            ("/push", "/health", Some("/health")),
            ("/push", "/ready", Some("/ready")),
            ("/push", "/metrics", Some("/metrics")),
            ("/push", "/metrics/x", None),
            ("/push", "/push/health", Some("/health")),
            ("/a/b", "/a/b/demo", Some("/demo")),
        ] {
            assert_eq!(base(of).below(path), below, "{path} below {of}");
        }
    }

    #[test]
    fn without_its_slash_it_leads_there() {
        assert_eq!(base("/push").with_slash("/push").as_deref(), Some("push/"));
        assert_eq!(base("/a/b/").with_slash("/a/b").as_deref(), Some("b/"));
        assert_eq!(base("/push").with_slash("/push/"), None);
        assert_eq!(base("/").with_slash("/"), None);
        assert_eq!(base("/").with_slash(""), None);
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for text in [
            "push", "//", "//push", "/a//b", "/.", "/a/..", "/a b", "/%70", "/a?b", "/a#b",
            "/\u{e4}",
        ] {
            assert_eq!(text.parse::<BasePath>(), Err(BadBasePath), "{text}");
        }
        assert!(format!("/{}", "x".repeat(254)).parse::<BasePath>().is_ok());
        assert!(format!("/{}", "x".repeat(255)).parse::<BasePath>().is_err());
        assert_eq!(base("/push/").to_string(), "/push");
        assert!(base("/").is_root() && base("").is_root());
    }
}
