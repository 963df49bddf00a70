//! A token as the first part of a path, `/t/{token}/...`: Artemis' clients have no other place for one.
//!
//! The base URL of such a client is its whole configuration, and it appends its own paths to it. So with
//! `--auth required` the token is part of that URL.
//!
//! # Promises
//!
//! * Only the paths of Artemis' clients take a token there.
//! * A token in a path never reaches the log: [`without_token`] is what the log shows of any path.
//!
//! Imports nothing of the crate. Imported by `ws::authorizer`, `http` and `shard`.

use std::borrow::Cow;

/// The part of a path before the token.
const PREFIX: &str = "/t/";

/// A path below the base path, and the token that it begins with.
pub fn split(path: &str) -> (Option<&str>, &str) {
    let Some(rest) = path.strip_prefix(PREFIX) else { return (None, path) };
    match rest.find('/') {
        Some(end) if end > 0 && takes_token(&rest[end..]) => (Some(&rest[..end]), &rest[end..]),
        _ => (None, path),
    }
}

/// Whether a path is one of those that Artemis' clients and tools call.
fn takes_token(path: &str) -> bool {
    let api =
        ["/api/registry/", "/api/discovery/", "/api/cluster/", "/api/status/", "/api/management/"];
    let sockets =
        ["/ws/registry/", "/ws/discovery/", "/websocket/registry/", "/websocket/discovery/"];
    api.iter().chain(&sockets).any(|prefix| path.starts_with(prefix))
}

/// A whole path as the log may show it.
pub fn without_token(path: &str) -> Cow<'_, str> {
    let Some(at) = path.find(PREFIX) else { return Cow::Borrowed(path) };
    let token = at + PREFIX.len();
    let end = path[token..].find('/').map_or(path.len(), |end| token + end);
    Cow::Owned(format!("{}***{}", &path[..token], &path[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_artemis_take_a_token() {
        for (path, token, rest) in [
            (
                "/t/a.b-c_d/api/registry/register.json",
                Some("a.b-c_d"),
                "/api/registry/register.json",
            ),
            ("/t/x/ws/registry/heartbeat", Some("x"), "/ws/registry/heartbeat"),
            (
                "/t/x/websocket/discovery/instance-change",
                Some("x"),
                "/websocket/discovery/instance-change",
            ),
            ("/t/x/ws", None, "/t/x/ws"),
            ("/t/x/api/v1/users", None, "/t/x/api/v1/users"),
            ("/t//api/registry/register", None, "/t//api/registry/register"),
            ("/t/x/t/y/api/registry/register", None, "/t/x/t/y/api/registry/register"),
            ("/api/registry/register", None, "/api/registry/register"),
        ] {
            assert_eq!(split(path), (token, rest), "{path}");
        }
    }

    #[test]
    fn the_log_shows_no_token() {
        assert_eq!(without_token("/t/secret/api/x"), "/t/***/api/x");
        assert_eq!(without_token("/push/t/secret/ws"), "/push/t/***/ws");
        assert_eq!(without_token("/t/secret"), "/t/***");
        assert_eq!(without_token("/api/t"), "/api/t");
    }
}
