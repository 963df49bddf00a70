//! Fingerprints of token keys, by which nodes compare their keys.
//!
//! Part of `auth`.

use sha2::{Digest as _, Sha256};

use super::accounts;

/// What fingerprints are made with besides the key, so that they are good for nothing else.
const DOMAIN: &[u8] = b"fanfare token key fingerprint v1";

/// The fingerprint of a secret. As slow as a password's hash: a reader of Redis learns nothing
/// of a weak secret in a hurry. None where the hash cannot be made.
pub fn of_secret(secret: &[u8]) -> Option<String> {
    let mut hash = [0; 16];
    accounts::hash_into(secret, DOMAIN, &mut hash).then(|| hex(hash))
}

/// The fingerprint of a public key, whatever white space its file has.
pub fn of_public_key(pem: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(DOMAIN);
    for part in pem.split(u8::is_ascii_whitespace) {
        hash.update(part);
    }
    let hash: [u8; 32] = hash.finalize().into();
    // Half of it tells two keys apart as well.
    let half = hash.first_chunk().copied().unwrap_or_default();
    hex(half)
}

fn hex(bytes: [u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_key_has_the_same_fingerprint_and_no_other() {
        let one = of_secret(b"a secret of more than thirty-two bytes").expect("it is hashed");
        assert_eq!(of_secret(b"a secret of more than thirty-two bytes").as_ref(), Some(&one));
        assert_ne!(of_secret(b"b secret of more than thirty-two bytes").as_ref(), Some(&one));
        assert_eq!(one.len(), 32);
        assert_eq!(of_public_key(b"-- A --\nxy\nz\n"), of_public_key(b"-- A --\r\nxyz"));
        assert_ne!(of_public_key(b"-- A --\nxyz"), of_public_key(b"-- A --\nxyw"));
    }
}
