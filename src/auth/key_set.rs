//! The keys that tokens are checked with: secrets, one public key in PEM, or a set of public keys (JWKS, RFC 7517).
//!
//! ```text
//! token { alg, kid } --> keys of that algorithm, with that kid or with none --> the one whose signature fits
//! ```
//!
//! # Promises
//!
//! * The kind of a key fixes its one algorithm: HS256 for secrets, RS256 for RSA, ES256 for P-256, `EdDSA` for
//!   Ed25519. A token's header chooses among keys, and never the algorithm of one (RFC 8725 section 3.1).
//! * A set of public keys holds neither a secret nor a private key: those would be known to all of its readers.
//! * Neither an error nor `Debug` output holds a secret.
//!
//! # Not here
//!
//! Where keys come from, and when they are read again: `server::token_keys`. Claims: `auth::jwt`.
//!
//! Imports `limits`. Part of `auth`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde_json::Value;

use crate::limits;

/// Keys, and the one that signs.
pub struct KeySet {
    keys: Vec<Key>,
    /// None if another issuer makes the tokens.
    signer: Option<EncodingKey>,
    skipped: Vec<String>,
}

/// One key that tokens are checked with.
pub(super) struct Key {
    /// The name by which tokens call it; a key without one fits each token of its algorithm.
    id: Option<Box<str>>,
    algorithm: Algorithm,
    pub(super) decoding: DecodingKey,
    pub(super) validation: Validation,
}

impl Key {
    fn new(id: Option<&str>, algorithm: Algorithm, decoding: DecodingKey) -> Key {
        let mut validation = Validation::new(algorithm);
        // The library checks signature and algorithm. `jwt` judges the claims, because the library
        // would read the system clock.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        Key { id: id.map(Box::from), algorithm, decoding, validation }
    }

    fn is_meant(&self, header: &Header) -> bool {
        let fits = |id: &str| header.kid.as_deref().is_none_or(|kid| kid == id);
        self.id.as_deref().is_none_or(fits)
    }
}

impl KeySet {
    /// Tokens of HS256: the first secret signs them, and tokens of the others are accepted too.
    #[must_use]
    pub fn of_secrets(secret: &[u8], others: &[impl AsRef<[u8]>]) -> KeySet {
        let all = std::iter::once(secret).chain(others.iter().map(AsRef::as_ref));
        let key = |secret| Key::new(None, Algorithm::HS256, DecodingKey::from_secret(secret));
        KeySet {
            keys: all.map(key).collect(),
            signer: Some(EncodingKey::from_secret(secret)),
            skipped: Vec::new(),
        }
    }

    /// Tokens of another issuer, by its public key in PEM: RSA of at least 2,048 bits for RS256
    /// (RFC 7518, 3.3), P-256 for ES256 (3.4), Ed25519 for `EdDSA` (RFC 8037).
    ///
    /// # Errors
    ///
    /// The fault of the key.
    pub fn of_pem(pem: &[u8]) -> Result<KeySet, &'static str> {
        let (algorithm, key) = pem_key(pem)?;
        let keys = vec![Key::new(None, algorithm, key)];
        Ok(KeySet { keys, signer: None, skipped: Vec::new() })
    }

    /// Tokens of another issuer, by its set of public keys: `{"keys":[{"kty","kid",...}]}` (RFC 7517).
    ///
    /// A key of an unknown kind or use is left out, as RFC 7517 section 5 asks for: the issuer may have
    /// other readers. [`KeySet::skipped`] names them.
    ///
    /// # Errors
    ///
    /// What is wrong with the set: no set, more than [`limits::JWKS_KEYS_MAX`] keys, a private key in it,
    /// or no key that tokens can be checked with.
    pub fn of_jwks(set: &Value) -> Result<KeySet, String> {
        let keys = set["keys"].as_array().ok_or("no key set: it has no list `keys`")?;
        if keys.len() > limits::JWKS_KEYS_MAX {
            return Err(format!("{} keys; at most {}", keys.len(), limits::JWKS_KEYS_MAX));
        }
        if keys.iter().any(|key| key["d"].is_string()) {
            return Err(String::from("a private key is in it; a key set is for public ones"));
        }
        let (mut accepted, mut skipped) = (Vec::new(), Vec::new());
        for (index, key) in keys.iter().enumerate() {
            match public_key(key) {
                Ok(key) => accepted.push(key),
                Err(why) => skipped.push(match key["kid"].as_str() {
                    Some(id) if id.len() <= limits::JWKS_KEY_ID_BYTES_MAX => {
                        format!("{id:?}: {why}")
                    }
                    _ => format!("key {}: {why}", index + 1),
                }),
            }
        }
        if accepted.is_empty() {
            let why = skipped.first().map_or_else(String::new, |first| format!(" ({first})"));
            return Err(format!("no key of RSA, P-256 or Ed25519 for signatures{why}"));
        }
        Ok(KeySet { keys: accepted, signer: None, skipped })
    }

    /// The number of its keys.
    #[must_use]
    pub fn count(&self) -> usize {
        self.keys.len()
    }

    /// What was left out of a set, and why.
    pub fn skipped(&self) -> &[String] {
        &self.skipped
    }

    pub(super) fn signer(&self) -> Option<&EncodingKey> {
        self.signer.as_ref()
    }

    /// The one key, if there is no choice.
    pub(super) fn only_key(&self) -> Option<&Key> {
        match &self.keys[..] {
            [key] if key.id.is_none() => Some(key),
            _ => None,
        }
    }

    /// Whether a key has the algorithm of a token.
    pub(super) fn has_algorithm_of(&self, header: &Header) -> bool {
        self.keys.iter().any(|key| key.algorithm == header.alg)
    }

    /// The keys that may have signed a token.
    pub(super) fn meant_by(&self, header: &Header) -> impl Iterator<Item = &Key> {
        self.keys.iter().filter(|key| key.algorithm == header.alg && key.is_meant(header))
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.keys.iter().map(|key| (key.algorithm, key.id.as_deref()));
        f.debug_list().entries(keys).finish()
    }
}

fn pem_key(pem: &[u8]) -> Result<(Algorithm, DecodingKey), &'static str> {
    let text = std::str::from_utf8(pem).map_err(|_| "not a text file in PEM form")?;
    if text.contains("PRIVATE KEY") {
        return Err("a private key; give the public one, the private one belongs to the issuer");
    }
    let digits = || text.lines().filter(|line| !line.starts_with('-')).map(str::len).sum::<usize>();
    if let Ok(key) = DecodingKey::from_rsa_pem(pem) {
        // A modulus of 2,048 bits alone takes 342 digits of base64.
        if digits() < 342 {
            return Err("an RSA key of fewer than 2,048 bits");
        }
        return Ok((Algorithm::RS256, key));
    }
    if let Ok(key) = DecodingKey::from_ec_pem(pem) {
        // An uncompressed point of P-256 with its header takes 91 bytes, of P-384 120.
        if digits() > 124 {
            return Err("an elliptic curve other than P-256, which is the one of ES256");
        }
        return Ok((Algorithm::ES256, key));
    }
    match DecodingKey::from_ed_pem(pem) {
        Ok(key) => Ok((Algorithm::EdDSA, key)),
        Err(_) => Err("no public key of RSA, P-256 or Ed25519 in PEM form"),
    }
}

/// Reads one key of a set.
fn public_key(key: &Value) -> Result<Key, &'static str> {
    let id = match &key["kid"] {
        Value::Null => None,
        Value::String(id) if id.len() <= limits::JWKS_KEY_ID_BYTES_MAX => Some(&**id),
        _ => return Err("its kid is no text, or too long"),
    };
    if key["use"].as_str().is_some_and(|purpose| purpose != "sig") {
        return Err("it is not for signatures");
    }
    if key["key_ops"].as_array().is_some_and(|uses| !uses.contains(&Value::from("verify"))) {
        return Err("it is not for checking signatures");
    }
    let bytes = |name: &str| URL_SAFE_NO_PAD.decode(key[name].as_str()?).ok();
    let broken = "a part of it is missing or no base64url";
    let (algorithm, decoding) = match (key["kty"].as_str(), key["crv"].as_str()) {
        (Some("RSA"), _) => {
            let modulus = bytes("n").ok_or(broken)?;
            let exponent = bytes("e").ok_or(broken)?;
            let bits = modulus.iter().position(|byte| *byte != 0).map_or(0, |zeros| {
                (modulus.len() - zeros) * 8 - modulus[zeros].leading_zeros() as usize
            });
            if !(2_048..=limits::JWKS_RSA_BITS_MAX).contains(&bits) {
                return Err("an RSA key of fewer than 2,048 or too many bits");
            }
            (Algorithm::RS256, DecodingKey::from_rsa_raw_components(&modulus, &exponent))
        }
        (Some("EC"), Some("P-256")) => {
            let (Some(x), Some(y)) = (key["x"].as_str(), key["y"].as_str()) else {
                return Err(broken);
            };
            if [x, y].iter().any(|part| URL_SAFE_NO_PAD.decode(part).map_or(0, |p| p.len()) != 32) {
                return Err(broken);
            }
            (Algorithm::ES256, DecodingKey::from_ec_components(x, y).map_err(|_| broken)?)
        }
        (Some("OKP"), Some("Ed25519")) => {
            let x = key["x"].as_str().ok_or(broken)?;
            if bytes("x").is_none_or(|point| point.len() != 32) {
                return Err(broken);
            }
            (Algorithm::EdDSA, DecodingKey::from_ed_components(x).map_err(|_| broken)?)
        }
        (Some("oct"), _) => return Err("a secret, which a set of public keys cannot hold"),
        _ => return Err("its kind or curve is not accepted"),
    };
    // "Ed25519" is RFC 9864's newer name of the same algorithm.
    let is_same = |name: &str| match algorithm {
        Algorithm::RS256 => name == "RS256",
        Algorithm::ES256 => name == "ES256",
        _ => name == "EdDSA" || name == "Ed25519",
    };
    match &key["alg"] {
        Value::Null => {}
        Value::String(name) if is_same(name) => {}
        _ => return Err("its alg is not the one accepted for its kind"),
    }
    Ok(Key::new(id, algorithm, decoding))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A key of Ed25519, whose x is any 32 bytes.
    fn ed(kid: &str) -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": URL_SAFE_NO_PAD.encode([7; 32])})
    }

    fn with(name: &str, value: Value) -> Value {
        let mut key = ed("a");
        key[name] = value;
        key
    }

    fn rsa(bytes: &[u8]) -> Value {
        json!({"kty": "RSA", "kid": "r", "n": URL_SAFE_NO_PAD.encode(bytes), "e": "AQAB"})
    }

    #[test]
    fn keys_that_cannot_check_a_signature_are_left_out_by_name() {
        let cases = [
            (with("use", json!("enc")), "it is not for signatures"),
            (with("key_ops", json!(["encrypt"])), "it is not for checking signatures"),
            (with("alg", json!("HS256")), "its alg is not the one accepted for its kind"),
            (with("alg", json!(7)), "its alg is not the one accepted for its kind"),
            (with("x", json!("AAAA")), "a part of it is missing or no base64url"),
            (with("x", json!("?")), "a part of it is missing or no base64url"),
            (with("crv", json!("X25519")), "its kind or curve is not accepted"),
            (with("kty", json!("new")), "its kind or curve is not accepted"),
            (
                json!({"kty": "oct", "kid": "a", "k": "AAAA"}),
                "a secret, which a set of public keys cannot hold",
            ),
        ];
        for (key, why) in cases {
            let set = KeySet::of_jwks(&json!({"keys": [key, ed("good")]})).expect("one is good");
            assert_eq!((set.count(), set.skipped()), (1, &[format!("\"a\": {why}")][..]), "{key}");
        }
        for use_of in [with("use", json!("sig")), with("key_ops", json!(["sign", "verify"]))] {
            assert_eq!(KeySet::of_jwks(&json!({"keys": [use_of]})).expect("good").count(), 1);
        }
    }

    #[test]
    fn rsa_keys_have_two_thousand_bits_whatever_zeros_lead() {
        let bits = |bytes: &[u8]| KeySet::of_jwks(&json!({"keys": [rsa(bytes)]})).is_ok();
        assert!(bits(&[0x80; 256]));
        assert!(!bits(&[0x7f; 256]));
        assert!(!bits(&[&[0; 256][..], &[0x80; 128]].concat()));
        assert!(bits(&[&[0; 1][..], &[0x80; 256]].concat()));
        assert!(!bits(&[0; 512]));
        assert!(!bits(&vec![0xff; limits::JWKS_RSA_BITS_MAX / 8 + 1]));
    }

    #[test]
    fn a_set_that_is_none_or_holds_a_private_key_is_refused() {
        let refused = |set: Value| KeySet::of_jwks(&set).expect_err("refused");
        assert!(refused(json!([])).contains("no list `keys`"));
        assert!(refused(json!({"keys": {}})).contains("no list `keys`"));
        assert!(refused(json!({"keys": []})).contains("no key of RSA"));
        assert!(refused(json!({"keys": [7, null, "x"]})).contains("key 1: its kind"));
        assert!(refused(json!({"keys": [ed("a"), with("d", json!("AAAA"))]})).contains("private"));
        let many: Vec<Value> = (0..=limits::JWKS_KEYS_MAX).map(|_| ed("a")).collect();
        assert!(refused(json!({"keys": many})).contains("at most"));
        let long = "k".repeat(limits::JWKS_KEY_ID_BYTES_MAX + 1);
        assert!(refused(json!({"keys": [ed(&long)]})).contains("key 1: its kid"));
    }

    #[test]
    fn a_token_names_its_key_and_one_without_a_name_may_be_anyones() {
        let set = json!({"keys": [ed("a"), ed("b"), {"kty": "OKP", "crv": "Ed25519",
            "x": ed("")["x"]}, rsa(&[0x80; 256])]});
        let set = KeySet::of_jwks(&set).expect("good");
        let meant = |algorithm, kid: Option<&str>| {
            let header = Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) };
            set.meant_by(&header).map(|key| key.id.as_deref()).collect::<Vec<_>>()
        };
        assert_eq!(meant(Algorithm::EdDSA, Some("a")), [Some("a"), None]);
        assert_eq!(meant(Algorithm::EdDSA, Some("r")), [None]);
        assert_eq!(meant(Algorithm::EdDSA, None), [Some("a"), Some("b"), None]);
        assert_eq!(meant(Algorithm::RS256, Some("r")), [Some("r")]);
        assert!(meant(Algorithm::RS256, Some("a")).is_empty());
        assert!(meant(Algorithm::HS256, None).is_empty());
    }

    #[test]
    fn debug_output_names_keys_and_holds_no_secret() {
        let set = KeySet::of_secrets(b"geheim", &[b"heimlich"]);
        assert_eq!(format!("{set:?}"), "[(HS256, None), (HS256, None)]");
    }
}
