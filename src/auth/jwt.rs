//! The authenticator: from a token to an identity, and back for the command line.
//!
//! The keys are `auth::key_set`'s, and can be replaced while tokens are checked. Time is passed in.
//!
//! # Promises
//!
//! * A token with `exp` at or before now is expired; there is no leeway (RFC 7519 section 4.1.4).
//! * The signature is judged before any claim, so a forged token learns nothing about its claims.
//! * Where an issuer or audiences are set, a token of another issuer or for others is refused (RFC 8725 sections 3.8
//!   and 3.9), and the authenticator's own tokens name them.
//! * No error, no `Debug` output and no log line holds a token or a secret.
//!
//! # Not here
//!
//! Whether a token was revoked (`auth::revoked`), accounts and passwords.
//!
//! Imports its siblings and `id`. Imported by `http`, `ws`, `shard` and `server`.

use std::fmt;
use std::sync::Arc;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Header, TokenData};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};
use tokio::sync::Notify;
use uuid::Uuid;

use super::key_set::KeySet;
use super::names;
use super::permission::Scopes;
use super::revoked::TokenId;
use crate::id::UserId;

/// The identity that a token asserts, and its expiry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The `sub` claim, never empty.
    pub user_id: UserId,
    /// The `username` claim, for display only.
    pub username: Option<Arc<str>>,
    /// The scopes of the token.
    pub scopes: Scopes,
    /// The `exp` claim, in seconds since 1970. The token is void from this second on.
    pub expires_at_s: u64,
    /// The mark of its token; none if the user gave a name and a password.
    pub token: Option<TokenMark>,
}

/// The marks of a token without its text: enough to check its revocation, and to renew it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenMark {
    /// The id of this token.
    pub id: TokenId,
    /// The token is valid while its user's tokens have not been ended after this moment, in
    /// milliseconds since 1970: the `gen` claim, else the `iat` claim, else 0.
    pub made_ms: u64,
    /// When its user signed in with a password, in seconds since 1970: the `auth_time` claim, which
    /// a renewed token inherits (`OpenID` Connect Core 1.0, section 2).
    pub signed_in_s: Option<u64>,
}

impl Identity {
    /// The name to show: the token's, else the id.
    pub fn display_name(&self) -> &str {
        self.username.as_deref().unwrap_or(self.user_id.as_str())
    }

    /// The name to show, shared.
    pub fn shown_name(&self) -> Arc<str> {
        self.username.clone().unwrap_or_else(|| self.user_id.shared())
    }

    /// Whether the token behind this identity has run out.
    #[cfg(test)]
    #[must_use]
    pub const fn is_expired(&self, now_s: u64) -> bool {
        self.expires_at_s <= now_s
    }
}

/// The claims of a token that this server makes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Claims {
    /// The user id.
    pub sub: String,
    /// The second since 1970 from which on the token is void.
    pub exp: u64,
    /// The second since 1970 at which it was made.
    pub iat: u64,
    /// The name to show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The mail address to show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// Scopes between spaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// The id by which the token is revoked (RFC 7519, section 4.1.7).
    pub jti: String,
    /// The moment of the last end of all tokens that this one outlives, in milliseconds since 1970.
    /// `iat` has seconds only, and the clocks of several nodes differ; this is the account's own
    /// stamp where one is read, so a token made before the end has a smaller one everywhere.
    pub r#gen: u64,
    /// When the user signed in with a password, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_time: Option<u64>,
}

impl Claims {
    /// The claims of a token for `sub`, made at `now_ms`, that lives for `ttl_s` seconds. It has an
    /// id of its own.
    #[must_use]
    pub fn new(sub: &str, now_ms: u64, ttl_s: u64) -> Claims {
        let now_s = now_ms / 1_000;
        Claims {
            sub: sub.to_owned(),
            exp: now_s.saturating_add(ttl_s),
            iat: now_s,
            jti: Uuid::new_v4().hyphenated().to_string(),
            r#gen: now_ms,
            ..Claims::default()
        }
    }
}

/// Why a token was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthError {
    /// It has expired. A new token of the same user is accepted.
    TokenExpired,
    /// It is never accepted, for this reason.
    Invalid(&'static str),
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AuthError::TokenExpired => write!(f, "token expired"),
            AuthError::Invalid(reason) => write!(f, "invalid token: {reason}"),
        }
    }
}

impl std::error::Error for AuthError {}

/// The claims as they come in. Only claims that decide are read strictly: a display name of a wrong
/// type is ignored, a wrong `nbf` is not.
#[derive(Deserialize)]
struct ForeignClaims {
    iss: Option<Value>,
    aud: Option<Value>,
    sub: Option<Value>,
    exp: Option<Value>,
    nbf: Option<Value>,
    iat: Option<Value>,
    jti: Option<Value>,
    r#gen: Option<Value>,
    auth_time: Option<Value>,
    username: Option<Value>,
    scope: Option<Value>,
}

/// Whom tokens have to come from, and whom they have to be for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Audience {
    /// The `iss` of each token; none: it is not looked at.
    pub issuer: Option<String>,
    /// The `aud` of each token names one of these; empty: it is not looked at.
    pub audiences: Vec<String>,
}

impl Audience {
    fn check(&self, claims: &ForeignClaims) -> Result<(), AuthError> {
        if let Some(issuer) = &self.issuer {
            match &claims.iss {
                Some(Value::String(iss)) if iss == issuer => {}
                Some(_) => return Err(AuthError::Invalid("iss is another issuer")),
                None => return Err(AuthError::Invalid("iss is missing")),
            }
        }
        let is_meant = |aud: &Value| self.audiences.iter().any(|one| aud == one.as_str());
        match &claims.aud {
            _ if self.audiences.is_empty() => Ok(()),
            None => Err(AuthError::Invalid("aud is missing")),
            Some(Value::Array(all)) if all.iter().any(is_meant) => Ok(()),
            Some(one) if is_meant(one) => Ok(()),
            Some(_) => Err(AuthError::Invalid("aud is another audience")),
        }
    }
}

/// Claims as this server signs them.
#[derive(Serialize)]
struct OwnClaims<'a> {
    #[serde(flatten)]
    claims: &'a Claims,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
}

/// The holder of the keys: checks tokens and makes them.
pub struct Authenticator {
    keys: RwLock<Arc<KeySet>>,
    audience: Audience,
    unknown_key: Notify,
}

impl Authenticator {
    /// Makes an authenticator with these keys, for all issuers and audiences.
    #[must_use]
    pub fn new(keys: KeySet) -> Authenticator {
        Authenticator {
            keys: RwLock::new(Arc::new(keys)),
            audience: Audience::default(),
            unknown_key: Notify::new(),
        }
    }

    /// The same for tokens of one issuer, or for one of several audiences.
    #[must_use]
    pub fn with_audience(mut self, audience: Audience) -> Authenticator {
        self.audience = audience;
        self
    }

    /// Makes an authenticator for HS256 with the secret that both sides share.
    #[cfg(any(test, feature = "internals"))]
    #[must_use]
    pub fn hs256(secret: &[u8]) -> Authenticator {
        Authenticator::new(KeySet::of_secrets(secret, &[] as &[&[u8]]))
    }

    /// Replaces the keys for tokens that come from here on.
    pub fn replace_keys(&self, keys: KeySet) {
        *self.keys.write() = Arc::new(keys);
    }

    /// The number of keys that tokens are checked with.
    #[must_use]
    pub fn key_count(&self) -> usize {
        self.keys.read().count()
    }

    /// Waits for a token that no key has signed: its issuer may have a newer one.
    pub async fn unknown_key(&self) {
        self.unknown_key.notified().await;
    }

    /// Returns the token's identity, at the second `now_s` since 1970.
    ///
    /// # Errors
    ///
    /// `TokenExpired` if only its expiry has passed, `Invalid` for every other fault.
    pub fn authenticate(&self, token: &str, now_s: u64) -> Result<Identity, AuthError> {
        let data = self.verify(token)?;
        // RFC 7515 section 4.1.11: an extension that is not understood makes the token invalid.
        if data.header.crit.is_some() {
            return Err(AuthError::Invalid("critical header not understood"));
        }
        self.audience.check(&data.claims)?;
        identify(&data.claims, token, now_s)
    }

    /// Finds the key that has signed a token.
    fn verify(&self, token: &str) -> Result<TokenData<ForeignClaims>, AuthError> {
        let keys = Arc::clone(&self.keys.read());
        let fault = |kind: &ErrorKind| AuthError::Invalid(reason(kind));
        if let Some(key) = keys.only_key() {
            return jsonwebtoken::decode(token, &key.decoding, &key.validation)
                .map_err(|error| fault(error.kind()));
        }
        let header = jsonwebtoken::decode_header(token).map_err(|error| fault(error.kind()))?;
        if !keys.has_algorithm_of(&header) {
            return Err(fault(&ErrorKind::InvalidAlgorithm));
        }
        let mut outcome = AuthError::Invalid("no key with its kid");
        for key in keys.meant_by(&header) {
            match jsonwebtoken::decode(token, &key.decoding, &key.validation) {
                Ok(data) => return Ok(data),
                Err(error) if *error.kind() == ErrorKind::InvalidSignature => {
                    outcome = fault(error.kind());
                }
                Err(error) => return Err(fault(error.kind())),
            }
        }
        self.unknown_key.notify_one();
        Err(outcome)
    }

    /// Makes a token with these claims. None if there are only public keys.
    #[must_use]
    pub fn sign(&self, claims: &Claims) -> Option<String> {
        let keys = Arc::clone(&self.keys.read());
        let claims = OwnClaims {
            claims,
            iss: self.audience.issuer.as_deref(),
            aud: self.audience.audiences.first().map(String::as_str),
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, keys.signer()?).ok()
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").field("keys", &self.keys.read()).finish_non_exhaustive()
    }
}

/// Judges claims whose signature is valid.
fn identify(claims: &ForeignClaims, token: &str, now_s: u64) -> Result<Identity, AuthError> {
    let user_id = match &claims.sub {
        Some(Value::String(sub)) if sub.is_empty() => {
            return Err(AuthError::Invalid("sub is empty"));
        }
        // `name:bob` names the account with the username bob, so it is not an id.
        Some(Value::String(sub)) if !names::is_user_id(sub) || names::named(sub).is_some() => {
            return Err(AuthError::Invalid("sub is no user id"));
        }
        Some(Value::String(sub)) => UserId::new(sub),
        Some(_) => return Err(AuthError::Invalid("sub is not a string")),
        None => return Err(AuthError::Invalid("sub is missing")),
    };
    let expires_at_s = match &claims.exp {
        Some(Value::Number(exp)) => seconds_rounded_down(exp),
        Some(_) => return Err(AuthError::Invalid("exp is not a number")),
        None => return Err(AuthError::Invalid("exp is missing")),
    };
    match &claims.nbf {
        Some(Value::Number(nbf)) if is_later(nbf, now_s) => {
            return Err(AuthError::Invalid("not valid yet"));
        }
        None | Some(Value::Number(_)) => {}
        Some(_) => return Err(AuthError::Invalid("nbf is not a number")),
    }
    if expires_at_s <= now_s {
        return Err(AuthError::TokenExpired);
    }
    let username = claims.username.as_ref().and_then(Value::as_str);
    Ok(Identity {
        user_id,
        // For display only, so a name that cannot be shown does not invalidate the token.
        username: username.filter(|name| names::is_showable(name)).map(Arc::from),
        scopes: claims
            .scope
            .as_ref()
            .and_then(Value::as_str)
            .map_or(Scopes::NONE, Scopes::from_claim),
        expires_at_s,
        token: Some(mark(claims, token)),
    })
}

fn mark(claims: &ForeignClaims, token: &str) -> TokenMark {
    let id = match &claims.jti {
        Some(Value::String(jti)) if !jti.is_empty() => TokenId::of_jti(jti),
        // The signature is left out: some kinds can be written in more than one way.
        _ => TokenId::of_text(token.rsplit_once('.').map_or(token, |(signed, _)| signed)),
    };
    let number = |claim: &Option<Value>| match claim {
        Some(Value::Number(number)) => Some(number.clone()),
        _ => None,
    };
    let made_ms = number(&claims.r#gen).and_then(|stamp| stamp.as_u64());
    let issued_ms = || number(&claims.iat).map_or(0, |iat| milliseconds(&iat));
    TokenMark {
        id,
        made_ms: made_ms.unwrap_or_else(issued_ms),
        signed_in_s: number(&claims.auth_time).map(|number| seconds_rounded_down(&number)),
    }
}

/// Reads a `NumericDate`, which may have a fraction (RFC 7519 section 2). Before 1970 is 0.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
fn seconds_rounded_down(number: &Number) -> u64 {
    number.as_u64().unwrap_or_else(|| number.as_f64().map_or(0, |seconds| seconds as u64))
}

/// Reads a `NumericDate` to the millisecond. Before 1970 is 0.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
fn milliseconds(number: &Number) -> u64 {
    match number.as_u64() {
        Some(whole_s) => whole_s.saturating_mul(1_000),
        None => number.as_f64().map_or(0, |seconds| (seconds * 1_000.0) as u64),
    }
}

/// Whether a `NumericDate` lies after the second `now_s`, a fraction of a second included.
fn is_later(number: &Number, now_s: u64) -> bool {
    let whole_s = seconds_rounded_down(number);
    let has_fraction =
        number.as_f64().is_some_and(|seconds| seconds > 0.0 && seconds.fract() > 0.0);
    whole_s > now_s || whole_s == now_s && has_fraction
}

/// Names the fault in fixed texts. The library's own may quote parts of the token.
fn reason(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidSignature => "wrong signature",
        ErrorKind::InvalidAlgorithm
        | ErrorKind::InvalidAlgorithmName
        | ErrorKind::MissingAlgorithm
        | ErrorKind::UnsupportedAlgorithm => "algorithm not accepted",
        // An unknown algorithm, `none` among them, is a fault of the header's JSON to the library.
        ErrorKind::Json(_) => "header or claims not accepted",
        _ => "not a token",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::EncodingKey;
    use serde_json::json;

    const SECRET: &[u8] = b"a secret of at least thirty-two bytes";
    const NOW_S: u64 = 1_800_000_000;

    fn token(claims: &Value) -> String {
        let key = EncodingKey::from_secret(SECRET);
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &key).unwrap()
    }

    fn authenticate(claims: &Value) -> Result<Identity, AuthError> {
        Authenticator::hs256(SECRET).authenticate(&token(claims), NOW_S)
    }

    /// base64url without padding, for tokens the library refuses to make.
    fn base64(bytes: &[u8]) -> String {
        const ALPHABET: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut text = String::new();
        for chunk in bytes.chunks(3) {
            let word = chunk.iter().fold(0, |word, byte| word << 8 | u32::from(*byte));
            let word = word << (8 * (3 - chunk.len()));
            for index in 0..=chunk.len() {
                let digit = word >> (18 - 6 * index) & 63;
                text.push(char::from(ALPHABET[digit as usize]));
            }
        }
        text
    }

    #[test]
    fn signed_claims_come_back_as_an_identity() {
        let authenticator = Authenticator::hs256(SECRET);
        let token = authenticator.sign(&Claims {
            sub: "u1".into(),
            exp: NOW_S + 60,
            iat: NOW_S,
            username: Some("ann".into()),
            email: Some("ann@example.org".into()),
            scope: Some("publish other".into()),
            jti: "t1".into(),
            r#gen: 7,
            auth_time: Some(NOW_S - 5),
        });
        let identity = authenticator.authenticate(&token.unwrap(), NOW_S).unwrap();
        let expected = Identity {
            user_id: UserId::new("u1"),
            username: Some("ann".into()),
            scopes: Scopes::PUBLISH,
            expires_at_s: NOW_S + 60,
            token: Some(TokenMark {
                id: TokenId::of_jti("t1"),
                made_ms: 7,
                signed_in_s: Some(NOW_S - 5),
            }),
        };
        assert_eq!(identity, expected);
        assert!(!identity.is_expired(NOW_S + 59) && identity.is_expired(NOW_S + 60));
    }

    #[test]
    fn expiry_has_no_leeway() {
        let exp = |exp: Value| authenticate(&json!({"sub": "u", "exp": exp})).map(|_| ());
        assert_eq!(exp(json!(NOW_S + 1)), Ok(()));
        assert_eq!(exp(json!(NOW_S)), Err(AuthError::TokenExpired));
        assert_eq!(exp(json!(NOW_S - 1)), Err(AuthError::TokenExpired));
        assert_eq!(exp(json!(1_800_000_001.5)), Ok(()));
        assert_eq!(exp(json!(1_800_000_000.5)), Err(AuthError::TokenExpired));
        assert_eq!(exp(json!(-5)), Err(AuthError::TokenExpired));
        assert_eq!(exp(json!(1e300)), Ok(()));
    }

    #[test]
    fn not_before_is_honoured() {
        let nbf = |nbf: Value| {
            authenticate(&json!({"sub": "u", "exp": NOW_S + 60, "nbf": nbf})).map(|_| ())
        };
        assert_eq!(nbf(json!(NOW_S)), Ok(()));
        assert_eq!(nbf(json!(-1)), Ok(()));
        assert_eq!(nbf(json!(null)), Ok(()));
        assert_eq!(nbf(json!(NOW_S + 1)), Err(AuthError::Invalid("not valid yet")));
        assert_eq!(nbf(json!(1_800_000_000.5)), Err(AuthError::Invalid("not valid yet")));
        assert_eq!(nbf(json!("soon")), Err(AuthError::Invalid("nbf is not a number")));
    }

    #[test]
    fn subject_and_expiry_are_required() {
        let exp = NOW_S + 60;
        let faults = [
            (json!({"exp": exp}), "sub is missing"),
            (json!({"sub": null, "exp": exp}), "sub is missing"),
            (json!({"sub": "", "exp": exp}), "sub is empty"),
            (json!({"sub": 7, "exp": exp}), "sub is not a string"),
            (json!({"sub": "u"}), "exp is missing"),
            (json!({"sub": "u", "exp": "1900000000"}), "exp is not a number"),
            (json!(["u"]), "header or claims not accepted"),
        ];
        for (claims, reason) in faults {
            assert_eq!(authenticate(&claims), Err(AuthError::Invalid(reason)), "{claims}");
        }
    }

    #[test]
    fn unknown_and_odd_optional_claims_are_ignored() {
        let claims = json!({"sub": "u", "exp": NOW_S + 1, "aud": "else", "iss": 5, "username": 5,
            "scope": ["admin"], "extra": {"a": []}});
        let identity = authenticate(&claims).unwrap();
        assert_eq!((identity.username, identity.scopes), (None, Scopes::NONE));
    }

    #[test]
    fn each_token_has_a_mark_of_its_own() {
        let mark = |extra: &Value| {
            let mut claims = json!({"sub": "u", "exp": NOW_S + 1});
            let fields = extra.as_object().expect("an object").clone();
            claims.as_object_mut().expect("an object").extend(fields);
            authenticate(&claims).expect("good").token.expect("a mark")
        };
        assert_eq!(mark(&json!({"jti": "a"})).id, mark(&json!({"jti": "a", "x": 1})).id);
        assert_ne!(mark(&json!({"jti": "a"})).id, mark(&json!({"jti": "b"})).id);
        // Without one, the text itself identifies the token.
        assert_eq!(mark(&json!({})).id, mark(&json!({})).id);
        for other in [json!({"x": 1}), json!({"jti": ""}), json!({"jti": 5})] {
            assert_ne!(mark(&json!({})).id, mark(&other).id, "{other}");
        }
        let made_ms = |extra: Value| mark(&extra).made_ms;
        assert_eq!(made_ms(json!({})), 0);
        assert_eq!(made_ms(json!({"iat": 5})), 5_000);
        assert_eq!(made_ms(json!({"iat": 5.25})), 5_250);
        assert_eq!(made_ms(json!({"iat": "5"})), 0);
        assert_eq!(made_ms(json!({"iat": -5})), 0);
        assert_eq!(made_ms(json!({"iat": 5, "gen": 5_999})), 5_999);
    }

    #[test]
    fn names_that_cannot_be_shown_are_dropped_and_ids_that_are_names_refused() {
        let claims = |sub: &str, name: &str| {
            authenticate(&json!({"sub": sub, "exp": NOW_S + 1, "username": name}))
        };
        let shown = |name: &str| claims("u", name).expect("good").display_name().to_owned();
        assert_eq!(shown("Ann"), "Ann");
        for name in ["", " ", "a\u{202e}b", "a\u{200b}b", "a\nb", &"x".repeat(256)] {
            assert_eq!(shown(name), "u", "{name:?}");
        }
        let refused = Err(AuthError::Invalid("sub is no user id"));
        assert_eq!(claims("name:bob", "Bob"), refused);
    }

    #[test]
    fn only_the_fixed_algorithm_is_accepted() {
        let authenticator = Authenticator::hs256(SECRET);
        let claims = json!({"sub": "u", "exp": NOW_S + 60});
        for algorithm in [Algorithm::HS384, Algorithm::HS512] {
            let key = EncodingKey::from_secret(SECRET);
            let token = jsonwebtoken::encode(&Header::new(algorithm), &claims, &key).unwrap();
            assert_eq!(
                authenticator.authenticate(&token, NOW_S),
                Err(AuthError::Invalid("algorithm not accepted"))
            );
        }
        let claims = base64(claims.to_string().as_bytes());
        for header in [
            r#"{"alg":"none"}"#,
            r#"{"alg":"None","typ":"JWT"}"#,
            r#"{"alg":"RS256"}"#,
            r#"{"typ":"JWT"}"#,
            r#"{"alg":null}"#,
        ] {
            for signature in ["", "AAAA"] {
                let token = format!("{}.{claims}.{signature}", base64(header.as_bytes()));
                let error = authenticator.authenticate(&token, NOW_S).unwrap_err();
                assert!(matches!(error, AuthError::Invalid(_)), "{header}");
            }
        }
    }

    #[test]
    fn forged_and_broken_tokens_are_refused() {
        let authenticator = Authenticator::hs256(SECRET);
        let good = token(&json!({"sub": "u", "exp": NOW_S + 60}));
        let other = Authenticator::hs256(b"another secret");
        let wrong_signature = Err(AuthError::Invalid("wrong signature"));
        assert_eq!(other.authenticate(&good, NOW_S), wrong_signature);

        let (message, signature) = good.rsplit_once('.').unwrap();
        let (header, _) = message.split_once('.').unwrap();
        let claims = base64(format!(r#"{{"sub":"root","exp":{}}}"#, NOW_S + 60).as_bytes());
        let swapped = format!("{header}.{claims}.{signature}");
        assert_eq!(authenticator.authenticate(&swapped, NOW_S), wrong_signature);
        // An expired token with a wrong signature is forged, not expired.
        let expired = token(&json!({"sub": "u", "exp": 1}));
        assert_eq!(other.authenticate(&expired, NOW_S), wrong_signature);

        for broken in ["", ".", "..", "a.b.c", "a.b", "a.b.c.d", "\u{e9}.\u{e9}.\u{e9}", message] {
            let error = authenticator.authenticate(broken, NOW_S).unwrap_err();
            assert!(matches!(error, AuthError::Invalid(_)), "{broken}");
        }
        for cut in 0..good.len() {
            assert!(authenticator.authenticate(&good[..cut], NOW_S).is_err(), "cut at {cut}");
        }
        assert!(authenticator.authenticate(&good, NOW_S).is_ok());
    }

    #[test]
    fn critical_header_is_refused() {
        let header = Header { crit: Some(vec!["b64".into()]), ..Header::new(Algorithm::HS256) };
        let claims = json!({"sub": "u", "exp": NOW_S + 60});
        let key = EncodingKey::from_secret(SECRET);
        let token = jsonwebtoken::encode(&header, &claims, &key).unwrap();
        assert_eq!(
            Authenticator::hs256(SECRET).authenticate(&token, NOW_S),
            Err(AuthError::Invalid("critical header not understood"))
        );
    }

    #[test]
    fn tokens_of_each_of_several_secrets_are_accepted_and_the_first_signs() {
        let old = b"an older secret of at least thirty-two bytes";
        let both = Authenticator::new(KeySet::of_secrets(SECRET, &[&old[..]]));
        let claims = Claims::new("u", NOW_S * 1_000, 60);
        let of = |authenticator: &Authenticator| authenticator.sign(&claims).expect("a secret");
        let (new_only, old_only) = (Authenticator::hs256(SECRET), Authenticator::hs256(old));
        assert!(both.authenticate(&of(&new_only), NOW_S).is_ok());
        assert!(both.authenticate(&of(&old_only), NOW_S).is_ok());
        assert!(new_only.authenticate(&of(&both), NOW_S).is_ok());
        let wrong = Err(AuthError::Invalid("wrong signature"));
        assert_eq!(old_only.authenticate(&of(&both), NOW_S), wrong);
        assert_eq!(both.authenticate(&of(&Authenticator::hs256(b"third")), NOW_S), wrong);
        // What a key has signed is judged as with one key.
        let expired = of(&old_only);
        assert_eq!(both.authenticate(&expired, NOW_S + 60), Err(AuthError::TokenExpired));
        both.replace_keys(KeySet::of_secrets(SECRET, &[] as &[&[u8]]));
        assert_eq!(both.authenticate(&of(&old_only), NOW_S), wrong);
    }

    #[test]
    fn issuer_and_audience_are_checked_where_they_are_set() {
        let made_for = |issuer: Option<&str>, audiences: &[&str]| {
            Authenticator::hs256(SECRET).with_audience(Audience {
                issuer: issuer.map(str::to_owned),
                audiences: audiences.iter().map(|&one| one.to_owned()).collect(),
            })
        };
        let outcome = |authenticator: &Authenticator, extra: Value| {
            let mut claims = json!({"sub": "u", "exp": NOW_S + 1});
            let fields = extra.as_object().expect("an object").clone();
            claims.as_object_mut().expect("an object").extend(fields);
            match authenticator.authenticate(&token(&claims), NOW_S) {
                Ok(_) => "ok",
                Err(AuthError::Invalid(reason)) => reason,
                Err(AuthError::TokenExpired) => "expired",
            }
        };
        let by_issuer = made_for(Some("https://issuer"), &[]);
        for (claims, expected) in [
            (json!({"iss": "https://issuer"}), "ok"),
            (json!({"iss": "https://issuer", "aud": 5}), "ok"),
            (json!({"iss": "https://issuer/"}), "iss is another issuer"),
            (json!({"iss": ["https://issuer"]}), "iss is another issuer"),
            (json!({"iss": null}), "iss is missing"),
            (json!({}), "iss is missing"),
            // A token for another server is not made valid by a newer one.
            (json!({"iss": "https://other", "exp": 1}), "iss is another issuer"),
        ] {
            assert_eq!(outcome(&by_issuer, claims.clone()), expected, "{claims}");
        }
        let by_audience = made_for(None, &["push", "registry"]);
        for (claims, expected) in [
            (json!({"aud": "push"}), "ok"),
            (json!({"aud": "registry", "iss": 5}), "ok"),
            (json!({"aud": ["mail", "push"]}), "ok"),
            (json!({"aud": ["mail", 5]}), "aud is another audience"),
            (json!({"aud": []}), "aud is another audience"),
            (json!({"aud": "Push"}), "aud is another audience"),
            (json!({"aud": {"push": 1}}), "aud is another audience"),
            (json!({}), "aud is missing"),
        ] {
            assert_eq!(outcome(&by_audience, claims.clone()), expected, "{claims}");
        }
        // Its own tokens are good, and those of a server for everybody are not.
        let both = made_for(Some("https://issuer"), &["push", "registry"]);
        let claims = Claims::new("u", NOW_S * 1_000, 60);
        let own = both.sign(&claims).expect("a secret");
        assert!(
            [&both, &by_issuer, &by_audience]
                .iter()
                .all(|one| one.authenticate(&own, NOW_S).is_ok())
        );
        let unnamed = Authenticator::hs256(SECRET).sign(&claims).expect("a secret");
        assert_eq!(both.authenticate(&unnamed, NOW_S), Err(AuthError::Invalid("iss is missing")));
    }

    #[test]
    fn debug_output_holds_no_secret() {
        let text = format!("{:?}", Authenticator::hs256(SECRET));
        assert!(!text.contains("secret") && !text.contains("97, 32"), "{text}");
    }

    #[test]
    fn errors_are_small() {
        assert!(size_of::<AuthError>() <= 16);
    }
}
