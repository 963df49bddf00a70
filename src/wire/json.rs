//! JSON decoding: a parser for each size.
//!
//! `serde_json` reads everything short. From [`SIMD_BYTES_MIN`] on simd-json is tried, where the
//! `command_decode` bench found it faster; the cut-over and its figures stand in PERF.md. simd-json
//! does not bound its depth, so a text is scanned for that first: without the scan a deep enough
//! nest would overflow the stack.
//!
//! Imports `limits` and `wire::depth`.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::depth;
use crate::limits::{JSON_DEPTH_MAX, SIMD_BYTES_MIN};

/// Reads a value with the parser that is fastest at the text's size.
///
/// # Errors
///
/// The parser's own message. It may quote the text, and no other.
pub fn decode<T: DeserializeOwned>(text: &[u8]) -> Result<T, serde_json::Error> {
    if text.len() >= SIMD_BYTES_MIN
        && is_shallow(text)
        && let Ok(value) = simd_json::serde::from_slice(&mut text.to_vec())
    {
        return Ok(value);
    }
    // A text that simd-json refused is read again for serde_json's better message.
    serde_json::from_slice(text)
}

/// A value that is written as a JSON object. A derived `Deserialize` would also accept an array of
/// its fields in their order, which no client means.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Object<T>, D::Error> {
        struct OnlyMap<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for OnlyMap<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        from.deserialize_map(OnlyMap(PhantomData))
    }
}

/// Reads an optional object, for `deserialize_with`.
///
/// # Errors
///
/// The parser's.
pub fn object<'de, T, D>(from: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Ok(Option::<Object<T>>::deserialize(from)?.map(|object| object.0))
}

/// Reads an optional array of objects, for `deserialize_with`.
///
/// # Errors
///
/// The parser's.
pub fn objects<'de, T, D>(from: D) -> Result<Option<Vec<T>>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    let objects = Option::<Vec<Object<T>>>::deserialize(from)?;
    Ok(objects.map(|objects| objects.into_iter().map(|object| object.0).collect()))
}

/// Reads any value, null included, as the text it is, for `deserialize_with`.
///
/// # Errors
///
/// The parser's.
pub fn raw<'de, D: Deserializer<'de>>(from: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

/// Whether other parsers can read a text that a lenient one has taken: no half surrogate pair, no
/// number beyond what a double holds. Only texts that could hold one are read again.
pub fn is_readable(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_suspect = bytes
        .windows(2)
        .any(|two| two == b"\\u" || (two[0].is_ascii_digit() && matches!(two[1], b'e' | b'E')));
    let is_long_number = bytes.split(|byte| !byte.is_ascii_digit()).any(|run| run.len() > 300);
    !(is_suspect || is_long_number) || serde_json::from_str::<serde_json::Value>(text).is_ok()
}

/// Whether a text begins like an object.
pub fn is_object(text: &[u8]) -> bool {
    text.trim_ascii_start().first() == Some(&b'{')
}

/// Whether no list directly below the root has more entries than this. A list of the shortest
/// entries takes many times its text in memory, so they are counted before. Commas in other places
/// count the same.
pub fn has_short_lists(text: &[u8], entries_max: usize) -> bool {
    // Each entry but the last takes two bytes at least.
    if text.len() / 2 < entries_max {
        return true;
    }
    let (mut depth, mut commas) = (0_usize, 0_usize);
    for byte in depth::structure(text) {
        match byte {
            b'{' | b'[' => {
                depth += 1;
                if depth == 2 {
                    commas = 0;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' if depth == 2 => {
                commas += 1;
                if commas >= entries_max {
                    return false;
                }
            }
            _ => {}
        }
    }
    true
}

/// Whether the text nests nowhere deeper than [`JSON_DEPTH_MAX`].
pub fn is_shallow(text: &[u8]) -> bool {
    depth::is_within(text, JSON_DEPTH_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn both_parsers_read_the_same() {
        let items: Vec<Value> = (0..2_000)
            .map(|i| serde_json::json!({"serviceId": format!("s{i}"), "n": i, "f": 0.5, "u": "\u{e9}\n"}))
            .collect();
        let text = serde_json::to_vec(&items).expect("plain values");
        assert!(text.len() > SIMD_BYTES_MIN);
        assert_eq!(decode::<Vec<Value>>(&text).expect("valid"), items);
    }

    #[test]
    fn entries_are_counted_where_batches_have_them() {
        let list = |entry: &str, count: usize| {
            format!(r#"{{"a":[1],"instances":[{}]}}"#, vec![entry; count].join(","))
        };
        for entry in ["1", "{}", r#"{"k":[1,2,3],"t":"a,b\",c"}"#, "[[],[]]"] {
            assert!(has_short_lists(list(entry, 100).as_bytes(), 100), "{entry}");
            assert!(!has_short_lists(list(entry, 101).as_bytes(), 100), "{entry}");
        }
    }

    #[test]
    fn deep_nests_are_an_error_at_every_size() {
        for depth in [200, 100_000] {
            let text = [vec![b'['; depth], vec![b']'; depth]].concat();
            assert!(decode::<Value>(&text).is_err(), "{depth}");
        }
        assert!(is_shallow(br#"{"a":"[[[[[[\"[[["}"#));
    }
}
