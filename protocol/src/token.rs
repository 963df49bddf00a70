//! The claims of a JSON Web Token, unverified.
//!
//! A client holds no key, so it cannot check a token. It reads the expiry, to fetch the next one in
//! time, and a name to show. The server verifies a token before it trusts a claim (`fanfare::auth`)
//! and does not use this module.

use serde_json::{Map, Value};

/// The claims of a token, if it is a JSON Web Token. The signature is not checked.
///
/// ```
/// // {"sub":"ann","exp":2000000000}
/// let token = "e30.eyJzdWIiOiJhbm4iLCJleHAiOjIwMDAwMDAwMDB9.c2lnbmF0dXJl";
/// let claims = fanfare_protocol::token::unverified_claims(token).expect("a token");
/// assert_eq!(claims["sub"], "ann");
/// assert_eq!(fanfare_protocol::token::expires_at_s(token), Some(2_000_000_000));
/// ```
pub fn unverified_claims(token: &str) -> Option<Map<String, Value>> {
    let claims = base64url(token.split('.').nth(1)?)?;
    serde_json::from_slice(&claims).ok()
}

/// The `exp` of a JSON Web Token, in seconds since 1970.
pub fn expires_at_s(token: &str) -> Option<u64> {
    unverified_claims(token)?.get("exp")?.as_u64()
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
