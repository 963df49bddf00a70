//! The sources of tokens, and their expiry: for [`crate::Client`] and for [`crate::Api`].
//!
//! A client never checks a token: it only reads the expiry in it, to get the next one in time.
//!
//! Imports `address`, `error` and `http`. Imported by `settings`, `connection` and `api`.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use fanfare_protocol::token::expires_at_s;
use hyper::Method;
use serde_json::{Value, json};

use crate::address::Address;
use crate::error::Error;
use crate::transport::http::{self, Call};

/// Any error of a token source.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

type Fetching = Pin<Box<dyn Future<Output = Result<String, BoxError>> + Send>>;

/// The source of the client's tokens.
#[derive(Clone, Default)]
pub(crate) enum TokenSource {
    /// Anonymous.
    #[default]
    None,
    /// Always the same.
    Fixed(Arc<str>),
    /// A new one for each call.
    Fetch(Arc<dyn Fn() -> Fetching + Send + Sync>),
    /// A name and a password, for `POST /api/v1/users/login`.
    Login { username: Arc<str>, password: Arc<str> },
}

/// The server that issues tokens.
#[derive(Clone, Copy)]
pub(crate) struct Issuer<'a> {
    pub(crate) address: &'a Address,
    /// How long each request may take.
    pub(crate) timeout: Duration,
    /// The time, in seconds since 1970.
    pub(crate) now_s: u64,
}

impl TokenSource {
    /// Gets a new token. A login is renewed by its last token, and begins with the password if that
    /// is not possible.
    pub(crate) async fn next(
        &self,
        issuer: Issuer<'_>,
        last: Option<&str>,
    ) -> Result<Option<Arc<str>>, Error> {
        let token = match self {
            TokenSource::None => return Ok(None),
            TokenSource::Fixed(token) => return Ok(Some(Arc::clone(token))),
            TokenSource::Fetch(fetch) => {
                tokio::time::timeout(issuer.timeout, self::fetch(&**fetch))
                    .await
                    .map_err(|_| Error::Timeout)??
            }
            TokenSource::Login { username, password } => match issuer.renewed(last).await {
                Some(token) => token,
                None => issuer.logged_in(username, password).await?,
            },
        };
        Ok(Some(token.into()))
    }

    pub(crate) fn fetching<F, T>(fetch: F) -> TokenSource
    where
        F: Fn() -> T + Send + Sync + 'static,
        T: Future<Output = Result<String, BoxError>> + Send + 'static,
    {
        TokenSource::Fetch(Arc::new(move || Box::pin(fetch())))
    }

    /// Whether it can give another token than the last one.
    pub(crate) fn is_renewable(&self) -> bool {
        matches!(self, TokenSource::Fetch(_) | TokenSource::Login { .. })
    }
}

impl fmt::Debug for TokenSource {
    /// Without the token or the password: this ends up in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TokenSource::None => "None",
            TokenSource::Fixed(_) => "Fixed(..)",
            TokenSource::Fetch(_) => "Fetch(..)",
            TokenSource::Login { .. } => "Login(..)",
        })
    }
}

impl Issuer<'_> {
    /// The next token of the same login, which costs the server no password hash. None if there is
    /// no valid token, or the login is too old to be renewed.
    async fn renewed(self, last: Option<&str>) -> Option<String> {
        let last = last?;
        let ends_s = expires_at_s(last)?;
        if ends_s <= self.now_s {
            return None;
        }
        // Whatever fails, the password is still there.
        let answer = self.post("/api/v1/users/renew", Some(last), None).await.ok()?;
        let token = answer["token"].as_str().filter(|token| is_header_safe(token))?;
        // At the end of a session the new token lives no longer.
        let is_longer = expires_at_s(token).is_some_and(|new_s| new_s > ends_s);
        is_longer.then(|| token.to_owned())
    }

    async fn logged_in(self, username: &str, password: &str) -> Result<String, Error> {
        let body = json!({"username": username, "password": password});
        // Another attempt with the same password would only lock the account.
        let wrong = |error| match error {
            Error::Status { status: 401, code, message, .. } => {
                Error::Refused { code, message, is_temporary: false }
            }
            other => other,
        };
        let answer = self.post("/api/v1/users/login", None, Some(body)).await.map_err(wrong)?;
        let token = answer["token"].as_str().unwrap_or_default();
        if !is_header_safe(token) {
            return Err(Error::Protocol(String::from("a login without a token")));
        }
        Ok(token.to_owned())
    }

    async fn post(
        self,
        path: &str,
        token: Option<&str>,
        body: Option<Value>,
    ) -> Result<Value, Error> {
        let (address, timeout) = (self.address, self.timeout);
        let (method, answer_bytes_max) = (Method::POST, http::ANSWER_BYTES_MAX);
        http::call(Call { address, token, method, path, body, answer_bytes_max, timeout }).await
    }
}

/// Calls a closure for a token.
pub(crate) async fn fetch(fetch: &(dyn Fn() -> Fetching + Send + Sync)) -> Result<String, Error> {
    let token = fetch().await.map_err(|fault| Error::Token(Arc::from(fault)))?;
    if !is_header_safe(&token) {
        return Err(Error::Token(Arc::from(BoxError::from(
            "not a token: it does not fit a header",
        ))));
    }
    Ok(token)
}

/// Whether a token can stand in an HTTP header.
pub(crate) fn is_header_safe(token: &str) -> bool {
    !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Milliseconds until a token should be replaced: four fifths of its remaining time, and a minute
/// before its end if it is long.
pub(crate) fn refresh_in_ms(token: &str, now_unix_ms: u64) -> Option<u64> {
    let left = expires_at_s(token)?.saturating_mul(1_000).saturating_sub(now_unix_ms);
    Some(left.saturating_sub((left / 5).min(60_000)))
}

#[cfg(test)]
mod tests {
    use super::*;

    // {"alg":"HS256"} . {"sub":"ann","exp":1795176000} . nothing
    const TOKEN: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4iLCJleHAiOjE3OTUxNzYwMDB9.x";

    #[test]
    fn the_end_is_read_from_the_claims() {
        assert_eq!(expires_at_s(TOKEN), Some(1_795_176_000));
        for other in ["", "a.b", "a.!.c", "opaque", "e30.e30.x"] {
            assert_eq!(expires_at_s(other), None, "{other}");
        }
    }

    #[test]
    fn a_token_is_replaced_before_its_end() {
        let end = 1_795_176_000_000;
        assert_eq!(refresh_in_ms(TOKEN, end - 3_600_000), Some(3_540_000));
        assert_eq!(refresh_in_ms(TOKEN, end - 10_000), Some(8_000));
        assert_eq!(refresh_in_ms(TOKEN, end + 5), Some(0));
    }

    #[test]
    fn nothing_secret_is_printed() {
        let source = TokenSource::Login { username: "ann".into(), password: "geheim".into() };
        assert!(!format!("{source:?}").contains("geheim"));
        assert!(!format!("{:?}", TokenSource::Fixed("geheim".into())).contains("geheim"));
    }
}
