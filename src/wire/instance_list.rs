//! The instances of a service as encoded JSON, shared by every message that contains them.
//!
//! A large list has tens of megabytes. It is the last field of its messages, so the bytes in memory
//! are the array and the brace that ends a message: a WebSocket frame is a small head and these
//! bytes, uncopied. Only `wire::answer` knows that; all other modules get the array.
//!
//! Imports its siblings. Imported by `wire::answer`, `state`, `http` and `server`.

use bytes::{BufMut, Bytes, BytesMut};

use super::instance::Instance;

/// The byte after the array in memory.
const END: u8 = b'}';

/// The discoverable instances of a service at one revision. A clone shares the bytes.
///
/// # Invariants
///
/// 1. Empty for a list that was left out, else a JSON array and a closing brace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InstanceList(Bytes);

impl InstanceList {
    /// A list without instances.
    pub const fn empty() -> InstanceList {
        InstanceList(Bytes::from_static(b"[]}"))
    }

    /// Encodes a list from the JSON of each instance. `json_bytes` is their sum.
    pub fn encode<'a>(
        json_bytes: usize,
        count: usize,
        instances: impl Iterator<Item = &'a Bytes>,
    ) -> InstanceList {
        // One allocation: a list may have tens of megabytes, and control waits for it.
        let mut out = BytesMut::with_capacity(json_bytes + count + 3);
        out.put_u8(b'[');
        for (index, json) in instances.enumerate() {
            if index > 0 {
                out.put_u8(b',');
            }
            out.extend_from_slice(json);
        }
        out.put_u8(b']');
        out.put_u8(END);
        InstanceList(out.freeze())
    }

    /// The instances as a JSON array.
    pub fn json(&self) -> &[u8] {
        self.0.split_last().map_or(b"[]", |(_, array)| array)
    }

    /// Bytes that the list takes.
    pub fn bytes(&self) -> usize {
        self.0.len()
    }

    /// Whether these bytes have no other holder.
    pub fn is_unique(&self) -> bool {
        self.0.is_unique()
    }

    /// Whether both are the same bytes in memory.
    pub fn is_same(&self, other: &InstanceList) -> bool {
        self.0.as_ptr() == other.0.as_ptr() && self.0.len() == other.0.len()
    }

    /// The instances, decoded. Linear in their bytes.
    ///
    /// # Errors
    ///
    /// Never for a list that the registry made.
    pub fn decode(&self) -> Result<Vec<Instance>, serde_json::Error> {
        serde_json::from_slice(self.json())
    }

    /// The array as the last field of a message, and the message's end.
    pub(super) fn ending_a_message(self) -> Bytes {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_an_array_and_ends_a_message() {
        let of = |parts: &[&'static str]| {
            let parts: Vec<Bytes> =
                parts.iter().map(|one| Bytes::from_static(one.as_bytes())).collect();
            InstanceList::encode(parts.iter().map(Bytes::len).sum(), parts.len(), parts.iter())
        };
        assert_eq!(InstanceList::default().json(), b"[]");
        assert_eq!(InstanceList::empty(), of(&[]));
        assert_eq!(of(&["{}"]).json(), b"[{}]");
        let two = of(&["{\"serviceId\":\"a\"}", "{}"]);
        assert_eq!(two.json(), b"[{\"serviceId\":\"a\"},{}]");
        assert_eq!(two.decode().map(|list| list.len()).ok(), Some(2));
        assert_eq!(two.bytes(), two.json().len() + 1);
        assert!(two.is_unique());
        let shared = two.clone();
        assert!(two.is_same(&shared) && !two.is_unique());
        assert_eq!(two.ending_a_message(), "[{\"serviceId\":\"a\"},{}]}");
    }
}
