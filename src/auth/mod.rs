//! Authentication: the places of a token in a request, its identity, and its scopes.
//!
//! ```text
//! Authorization: Bearer T ----+
//! /ws?token=T ----------------+--> Authenticator --> Identity { user, scopes, expiry }
//! subprotocol bearer.T -------+
//! ```
//!
//! # Promises
//!
//! * The functions that look for a token find every presented one, even an empty one: a token that
//!   is presented and invalid refuses the request.
//! * A generated secret is written once, readable by its owner alone, and never changes.
//!
//! * Passwords are kept as argon2id hashes alone.
//!
//! # Not here
//!
//! What happens if two places hold a token, and which request needs one: `http` and `ws` decide that.
//!
//! Imports `id`, `limits` and `private_file`. Imported by `state`, `http`, `ws`, `shard` and `server`.

pub mod accounts;
mod credential_cache;
pub mod fingerprint;
mod jwt;
mod key_set;
pub mod names;
pub mod namespace;
mod permission;
mod revoked;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use uuid::Uuid;

pub use credential_cache::CredentialCache;
pub use jwt::{Audience, AuthError, Authenticator, Claims, Identity, TokenMark};
pub use key_set::KeySet;
pub use names::is_user_id;
pub use permission::Scopes;
pub use revoked::{Revocation, Revoked, Standing, TokenId};

use crate::limits;
use crate::private_file;

/// The name of the file in the data directory that keeps a generated secret.
pub const SECRET_FILE: &str = "jwt-secret";

/// Finds the token in the value of an `Authorization` header, if its scheme is `Bearer`.
#[must_use]
pub fn bearer(header: &str) -> Option<&str> {
    let header = header.trim();
    let (scheme, token) = header.split_once(' ').unwrap_or((header, ""));
    // RFC 9110 section 11.1: the scheme is case-insensitive.
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Finds the tokens in the value of a `Sec-WebSocket-Protocol` header: `fanfare, bearer.T`.
pub fn from_protocols(header: &str) -> impl Iterator<Item = &str> {
    header.split(',').filter_map(|protocol| protocol.trim().strip_prefix("bearer."))
}

/// Finds the tokens in a query string, without its `?`: each `token=T`, percent-decoded.
///
/// A token that is wrongly encoded is returned as it stands, to be refused.
pub fn from_query(query: &str) -> impl Iterator<Item = String> {
    let values = query.split('&').filter_map(|pair| match pair.split_once('=') {
        Some(("token", value)) => Some(value),
        None if pair == "token" => Some(""),
        _ => None,
    });
    values.map(|value| percent_decode(value).unwrap_or_else(|| value.to_owned()))
}

/// Decodes `%41` to `A`. Returns nothing if a percent sign stands alone or the result is no UTF-8.
fn percent_decode(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => hex_digit(bytes.next()?)? << 4 | hex_digit(bytes.next()?)?,
            plain => plain,
        });
    }
    String::from_utf8(decoded).ok()
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// Checks a secret from the configuration.
///
/// # Errors
///
/// The fault, without a character of the secret.
pub fn check_secret(secret: &[u8]) -> Result<(), String> {
    let least = limits::JWT_SECRET_BYTES;
    match secret.len() {
        0 => Err("the secret is empty".to_owned()),
        bytes if bytes < least => Err(format!(
            "the secret has {bytes} bytes; HS256 needs at least {least} (RFC 7518, 3.2), or it can \
             be guessed from any token: openssl rand -hex {least} makes one"
        )),
        _ => Ok(()),
    }
}

/// Returns the secret kept in `dir`, and makes it first if there is none.
///
/// The secret is the text of the file without white space at its ends, so that the content of the
/// file can be given to another server as it stands. Two processes that start at once end up with
/// the same secret: each writes a file of its own, and the first to link it into place wins.
///
/// # Errors
///
/// The fault of the file system, with the file named; an empty or short secret is refused.
pub fn secret_from_data_dir(dir: &Path) -> io::Result<Vec<u8>> {
    let path = dir.join(SECRET_FILE);
    let read = private_file::create_dir(dir).and_then(|()| {
        private_file::narrow_file(&path);
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_secret(dir, &path)?;
                fs::read(&path)
            }
            other => other,
        }
    });
    read.and_then(|bytes| match bytes.trim_ascii() {
        [] => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the file is empty; remove it to have a new secret made",
        )),
        secret => match check_secret(secret) {
            Ok(()) => Ok(secret.to_vec()),
            Err(fault) => Err(io::Error::new(io::ErrorKind::InvalidData, fault)),
        },
    })
    .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// Puts a new secret at `path`, unless another process was faster.
fn make_secret(dir: &Path, path: &Path) -> io::Result<()> {
    let draft = dir.join(format!("{SECRET_FILE}.{}", Uuid::new_v4().simple()));
    let result = write_private(&draft, &random_hex()).and_then(|()| {
        match fs::hard_link(&draft, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Ok(()) => sync_dir(dir),
            // Some file systems know no links. There, two first starts at the same moment may find
            // each other's file still empty, and one of them refuses to start.
            Err(_) => match write_private(path, &fs::read(&draft)?) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                other => other,
            },
        }
    });
    // The draft is useless; a failure to remove it changes nothing.
    let _ = fs::remove_file(&draft);
    result
}

/// Creates a file that only its owner can read, with `content` safely on disk.
fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = private_file::create_new(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Makes a new name in `dir` durable. Directories cannot be opened everywhere.
fn sync_dir(dir: &Path) -> io::Result<()> {
    if cfg!(unix) {
        let dir = if dir.as_os_str().is_empty() { PathBuf::from(".") } else { dir.to_owned() };
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

/// Returns `limits::JWT_SECRET_BYTES` random bytes as hex digits.
///
/// The operating system's randomness comes by way of version 4 UUIDs. Bytes 6 and 8 of each carry
/// its version and variant and are left out, so every bit that is used is random.
fn random_hex() -> Vec<u8> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let random = std::iter::repeat_with(Uuid::new_v4).flat_map(|uuid| {
        let bytes = uuid.into_bytes();
        (0..16).filter(|index| !matches!(index, 6 | 8)).map(move |index| bytes[index])
    });
    random
        .take(limits::JWT_SECRET_BYTES)
        .flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::sync::Barrier;
    use std::thread;

    /// A directory of its own that is gone after the test.
    struct TempDir(PathBuf);

    impl TempDir {
        fn new() -> Self {
            Self(std::env::temp_dir().join(format!("fanfare-auth-{}", Uuid::new_v4().simple())))
        }
    }

    impl Drop for TempDir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn bearer_is_found_in_a_header() {
        assert_eq!(bearer("Bearer a.b.c"), Some("a.b.c"));
        assert_eq!(bearer("  bEaReR   a.b.c  "), Some("a.b.c"));
        assert_eq!(bearer("Bearer "), Some(""));
        assert_eq!(bearer("Bearer"), Some(""));
        assert_eq!(bearer("Basic dTpw"), None);
        assert_eq!(bearer("Bearera.b.c"), None);
        assert_eq!(bearer(""), None);
    }

    #[test]
    fn bearer_is_found_among_subprotocols() {
        assert_eq!(from_protocols("fanfare, bearer.a.b.c").next(), Some("a.b.c"));
        assert_eq!(from_protocols("bearer.a.b.c,fanfare").next(), Some("a.b.c"));
        assert_eq!(from_protocols("fanfare,bearer.").next(), Some(""));
        assert_eq!(from_protocols("fanfare").next(), None);
        assert_eq!(from_protocols("fanfare, xbearer.a").next(), None);
        assert_eq!(from_protocols("").next(), None);
    }

    #[test]
    fn token_is_found_in_a_query() {
        assert_eq!(from_query("token=a.b.c").next().as_deref(), Some("a.b.c"));
        assert_eq!(from_query("x=1&token=a%2Eb%2ec&token=z").next().as_deref(), Some("a.b.c"));
        assert_eq!(from_query("token=").next().as_deref(), Some(""));
        assert_eq!(from_query("token").next().as_deref(), Some(""));
        assert_eq!(from_query("token=a=b").next().as_deref(), Some("a=b"));
        assert_eq!(from_query("tokens=a&xtoken=b").next(), None);
        assert_eq!(from_query("").next(), None);
        for broken in ["%", "%4", "%zz", "%ff", "%+1", "a%"] {
            assert_eq!(from_query(&format!("token={broken}")).next().as_deref(), Some(broken));
        }
    }

    #[test]
    fn secret_is_made_once_and_kept() {
        let dir = TempDir::new();
        let nested = dir.0.join("a/b");
        let secret = secret_from_data_dir(&nested).unwrap();
        assert_eq!(secret.len(), 2 * limits::JWT_SECRET_BYTES);
        assert!(secret.iter().all(u8::is_ascii_hexdigit));
        assert_eq!(secret_from_data_dir(&nested).unwrap(), secret);
        assert_eq!(fs::read_dir(&nested).unwrap().count(), 1, "the draft is gone");

        let other = TempDir::new();
        assert_ne!(secret_from_data_dir(&other.0).unwrap(), secret);
    }

    #[cfg(unix)]
    #[test]
    fn secret_is_readable_by_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = TempDir::new();
        secret_from_data_dir(&dir.0).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir.0.join(SECRET_FILE)), 0o600);
        assert_eq!(mode(&dir.0), 0o700);
    }

    #[test]
    fn secret_of_the_operator_is_trimmed_and_an_empty_one_refused() {
        let dir = TempDir::new();
        fs::create_dir_all(&dir.0).unwrap();
        let path = dir.0.join(SECRET_FILE);
        fs::write(&path, "  chosen by hand, of thirty-two bytes\n").unwrap();
        let secret = secret_from_data_dir(&dir.0).unwrap();
        assert_eq!(secret, b"chosen by hand, of thirty-two bytes");
        for length in [1, 31] {
            fs::write(&path, "x".repeat(length)).unwrap();
            let error = secret_from_data_dir(&dir.0).unwrap_err().to_string();
            assert!(error.contains(SECRET_FILE) && error.contains("at least 32"), "{error}");
        }
        fs::write(&path, "x".repeat(32)).unwrap();
        assert!(secret_from_data_dir(&dir.0).is_ok());
        fs::write(&path, " \n").unwrap();
        let error = secret_from_data_dir(&dir.0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().contains(SECRET_FILE), "{error}");
    }

    #[test]
    fn processes_that_start_at_once_share_one_secret() {
        const STARTS: usize = 8;
        let dir = TempDir::new();
        let barrier = Barrier::new(STARTS);
        let secrets: BTreeSet<Vec<u8>> = thread::scope(|scope| {
            let start = || {
                barrier.wait();
                secret_from_data_dir(&dir.0).unwrap()
            };
            let threads: Vec<_> = (0..STARTS).map(|_| scope.spawn(start)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(secrets.len(), 1);
        assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 1, "the drafts are gone");
    }

    #[test]
    fn secret_that_cannot_be_kept_names_the_file() {
        let dir = TempDir::new();
        fs::write(&dir.0, "a file where the directory should be").unwrap();
        let error = secret_from_data_dir(&dir.0.join("data")).unwrap_err();
        assert!(error.to_string().contains(SECRET_FILE), "{error}");
        fs::remove_file(&dir.0).unwrap();
    }
}
