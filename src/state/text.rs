//! Bytes of a JSON text, as a string inside of another JSON text.

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serializer};

pub(super) fn serialize<S: Serializer>(json: &Bytes, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&String::from_utf8_lossy(json))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
    Ok(Bytes::from(String::deserialize(from)?))
}

/// The same where there may be none.
pub(super) mod optional {
    use super::{Bytes, Deserialize, Deserializer, Serializer};

    #[allow(clippy::ref_option, reason = "serde calls it so")]
    pub(in crate::state) fn serialize<S: Serializer>(
        json: &Option<Bytes>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match json {
            Some(json) => to.serialize_some(&String::from_utf8_lossy(json)),
            None => to.serialize_none(),
        }
    }

    pub(in crate::state) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Bytes>, D::Error> {
        Ok(Option::<String>::deserialize(from)?.map(Bytes::from))
    }
}
