//! Password hashes of accounts. [`super::names`] has the rules for usernames.
//!
//! argon2id (RFC 9106) with a salt for each password, in the PHC string format, so that the costs can rise
//! while old hashes stay valid. Hashing takes tens of milliseconds on purpose: call it on a thread of its
//! own.
//!
//! Imports `limits`. Imported by `http`, `config` and the binary.

use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, PasswordHash, Version};

#[cfg(doc)]
use super::names;
use super::names::is_user_id;
use crate::limits;

/// The policy for making accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registration {
    /// Every caller that reaches the server.
    Open,
    /// No account is made over HTTP. Operators make accounts with `fanfare user add`.
    Closed,
    /// Holders of a token with the scope `admin`, in every mode.
    Token,
}

impl Registration {
    /// Reads the word of the configuration.
    ///
    /// # Errors
    ///
    /// The correct form.
    pub fn parse(word: &str) -> Result<Registration, String> {
        match word {
            "open" => Ok(Registration::Open),
            "closed" => Ok(Registration::Closed),
            "token" => Ok(Registration::Token),
            _ => Err(String::from("neither open, closed nor token")),
        }
    }

    /// The word of the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Registration::Open => "open",
            Registration::Closed => "closed",
            Registration::Token => "token",
        }
    }
}

/// Whether a name may be an account's. Accounts of older releases were made under fewer rules than
/// those of [`names::new_name`].
#[must_use]
pub fn is_possible_name(name: &str) -> bool {
    is_user_id(name)
}

/// Checks the form of a mail address. Only mail can show that it exists.
///
/// # Errors
///
/// The fault.
pub fn check_email(address: &str) -> Result<(), &'static str> {
    let has_parts = address
        .split_once('@')
        .is_some_and(|(name, host)| !name.is_empty() && !host.is_empty() && !host.contains('@'));
    if has_parts && is_user_id(address) && !address.contains(' ') {
        Ok(())
    } else {
        Err("email is not an address like name@example.org")
    }
}

/// Checks a new password.
///
/// # Errors
///
/// The fault.
pub fn check_password(password: &str) -> Result<(), &'static str> {
    if password.chars().count() < limits::PASSWORD_CHARS_MIN {
        return Err("password has fewer than 8 characters");
    }
    if password.len() > limits::PASSWORD_BYTES_MAX {
        return Err("password is longer than 1,024 bytes");
    }
    Ok(())
}

fn hasher() -> Argon2<'static> {
    let params = Params::new(limits::ARGON2_KIB, limits::ARGON2_PASSES, 1, None);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params.unwrap_or_default())
}

/// Hashes a text with a given salt. Returns whether it could. Takes tens of milliseconds.
pub(super) fn hash_into(text: &[u8], salt: &[u8], hash: &mut [u8]) -> bool {
    hasher().hash_password_into(text, salt, hash).is_ok()
}

/// Hashes a password. Takes tens of milliseconds. None if the system has no randomness.
pub fn hash(password: &str) -> Option<String> {
    hasher().hash_password(password.as_bytes()).ok().map(|hash| hash.to_string())
}

/// Whether a password matches a hash. Without a hash it takes as long, and does not match.
pub fn verify(password: &str, hash: Option<&str>) -> bool {
    // A hash of no password: comparing with it takes as long as with a real one.
    const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5IG5vYm9keQ$\
        rdTXkvj6HDpr1bDo7fCBB3Dl8NIDTWsaQcyuMgkXzQk";
    let Ok(parsed) = PasswordHash::new(hash.unwrap_or(NOBODY)) else { return false };
    let is_right = Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok();
    is_right && hash.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_fits_its_own_hash_alone() {
        let one = hash("correct horse").expect("hashed");
        assert!(one.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{one}");
        assert_ne!(hash("correct horse"), Some(one.clone()), "each hash has a salt of its own");
        assert!(verify("correct horse", Some(&one)));
        assert!(!verify("correct horse ", Some(&one)) && !verify("correct horse", None));
        assert!(!verify("correct horse", Some("no hash")));
    }

    #[test]
    fn the_hash_of_nobody_is_a_hash() {
        let nobody = "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5IG5vYm9keQ$\
            rdTXkvj6HDpr1bDo7fCBB3Dl8NIDTWsaQcyuMgkXzQk";
        assert!(PasswordHash::new(nobody).is_ok());
    }

    #[test]
    fn names_and_passwords_have_their_rules() {
        assert!(is_possible_name("ann") && is_possible_name(" of an older release"));
        for name in ["", "ann\n", &"x".repeat(256)] {
            assert!(!is_possible_name(name), "{name:?}");
        }
        assert!(check_password("1234567").is_err() && check_password("12345678").is_ok());
        assert!(check_password("\u{e9}\u{e9}\u{e9}\u{e9}").is_err(), "characters count");
        assert!(check_email("a@b").is_ok());
        for address in ["", "a", "@b", "a@", "a@b@c", "a b@c"] {
            assert!(check_email(address).is_err(), "{address:?}");
        }
    }
}
