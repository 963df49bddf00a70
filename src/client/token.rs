//! Where tokens come from, and when they end.
//!
//! A client never checks a token: it only looks for the time in it, to have the next one before.
//!
//! Imports its siblings only.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::error::Error;

/// Any error, as a token source may give it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

type Fetching = Pin<Box<dyn Future<Output = Result<String, BoxError>> + Send>>;

/// Where the client's tokens come from.
#[derive(Clone, Default)]
pub(super) enum TokenSource {
    /// Anonymous.
    #[default]
    None,
    /// Always the same.
    Fixed(Arc<str>),
    /// A new one each time it is asked.
    Fetch(Arc<dyn Fn() -> Fetching + Send + Sync>),
    /// A name and a password, for `POST /api/v1/users/login`.
    Login { username: Arc<str>, password: Arc<str> },
}

impl TokenSource {
    pub(super) fn fetching<F, T>(fetch: F) -> TokenSource
    where
        F: Fn() -> T + Send + Sync + 'static,
        T: Future<Output = Result<String, BoxError>> + Send + 'static,
    {
        TokenSource::Fetch(Arc::new(move || Box::pin(fetch())))
    }

    /// Whether it can give another token than the last one.
    pub(super) fn is_renewable(&self) -> bool {
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

/// Asks a closure for a token.
pub(super) async fn fetch(fetch: &(dyn Fn() -> Fetching + Send + Sync)) -> Result<String, Error> {
    let token = fetch().await.map_err(|fault| Error::Token(Arc::from(fault)))?;
    if !is_header_safe(&token) {
        return Err(Error::Token(Arc::from(BoxError::from(
            "not a token: it does not fit a header",
        ))));
    }
    Ok(token)
}

/// Whether a token can stand in an HTTP header.
pub(super) fn is_header_safe(token: &str) -> bool {
    !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The `exp` of a JSON Web Token in seconds since 1970, if that is what it is.
pub(super) fn expires_at_s(token: &str) -> Option<u64> {
    let claims = token.split('.').nth(1)?;
    let claims: serde_json::Value = serde_json::from_slice(&base64url(claims)?).ok()?;
    claims.get("exp")?.as_u64()
}

/// Milliseconds until a token should be replaced: four fifths of what is left of it, and a minute
/// before its end where it lives for long.
pub(super) fn refresh_in_ms(token: &str, now_unix_ms: u64) -> Option<u64> {
    let left = expires_at_s(token)?.saturating_mul(1_000).saturating_sub(now_unix_ms);
    Some(left.saturating_sub((left / 5).min(60_000)))
}

/// Decodes base64 in the alphabet for URLs (RFC 4648, 5), without padding.
fn base64url(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from((bits >> count) & 0xff).ok()?);
        }
    }
    Some(bytes)
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
