//! The instances of a service as encoded JSON, shared by every message that contains them.
//!
//! A large list has tens of megabytes. It is the last field of its messages, so the bytes in memory
//! are the array and the brace that ends a message: a WebSocket frame is a small head and these
//! bytes, uncopied. Only `wire::answer` knows that; all other modules get the array.
//!
//! Imports its siblings. Imported by `wire::answer`, `state`, `http` and `server`.

use std::borrow::Cow;

use bytes::{BufMut, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::instance::{Instance, Status};
use super::preference::{Distance, Preference};

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
        put_array(&mut out, instances.map(|json| &json[..]));
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

    /// The same instances, those near to the reader first; within a distance their order stays. Linear in their bytes.
    #[must_use]
    pub fn nearest_first(&self, preference: &Preference) -> InstanceList {
        let instances = self.by_distance(preference);
        let json_bytes = self.bytes();
        let mut out = BytesMut::with_capacity(json_bytes);
        put_array(&mut out, instances.iter().map(|near| near.json));
        out.put_u8(END);
        InstanceList(out.freeze())
    }

    /// Writes the array with the near ones first. Where enough of them are up, those further away are left out.
    /// Takes no more bytes than [`json`](InstanceList::json).
    pub fn put_nearest(&self, out: &mut BytesMut, preference: &Preference) {
        let instances = self.by_distance(preference);
        let up_at = |distance| {
            instances.iter().filter(|near| near.is_up && near.distance == distance).count()
        };
        let reach = preference.min.map_or(Distance::Elsewhere, |min| {
            let min = usize::try_from(min).unwrap_or(usize::MAX);
            Preference::reach(min, up_at(Distance::Zone), up_at(Distance::Region))
        });
        put_array(
            out,
            instances.iter().filter(|near| near.distance <= reach).map(|near| near.json),
        );
    }

    fn by_distance(&self, preference: &Preference) -> Vec<Near<'_>> {
        #[derive(Deserialize)]
        struct Place<'a> {
            #[serde(borrow, rename = "regionId")]
            region_id: Option<Cow<'a, str>>,
            #[serde(borrow, rename = "zoneId")]
            zone_id: Option<Cow<'a, str>>,
            status: Status,
        }
        // The registry wrote the array.
        let instances: Vec<&RawValue> = serde_json::from_slice(self.json()).unwrap_or_default();
        let near = |json: &'_ RawValue| {
            let place = serde_json::from_str::<Place<'_>>(json.get()).ok();
            let distance = place.as_ref().map_or(Distance::Elsewhere, |place| {
                preference.distance(place.region_id.as_deref(), place.zone_id.as_deref())
            });
            (distance, place.is_some_and(|place| place.status == Status::Up))
        };
        let mut instances: Vec<Near<'_>> = instances
            .into_iter()
            .map(|json| {
                let (distance, is_up) = near(json);
                Near { json: json.get().as_bytes(), distance, is_up }
            })
            .collect();
        instances.sort_by_key(|near| near.distance);
        instances
    }

    /// The array as the last field of a message, and the message's end.
    pub(super) fn ending_a_message(self) -> Bytes {
        self.0
    }
}

/// An instance of a list, and how far it is from the reader.
struct Near<'a> {
    json: &'a [u8],
    distance: Distance,
    is_up: bool,
}

fn put_array<'a>(out: &mut BytesMut, instances: impl Iterator<Item = &'a [u8]>) {
    out.put_u8(b'[');
    for (index, json) in instances.enumerate() {
        if index > 0 {
            out.put_u8(b',');
        }
        out.extend_from_slice(json);
    }
    out.put_u8(b']');
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

    #[test]
    fn the_near_ones_stand_first_and_the_others_where_they_are_needed() {
        let of = |name: &str, region: &str, zone: &str, status: &str| {
            Bytes::from(format!(
                r#"{{"regionId":"{region}","zoneId":"{zone}","instanceId":"{name}","status":"{status}"}}"#
            ))
        };
        let all = [
            of("far", "s", "a", "up"),
            of("down", "r", "a", "down"),
            of("beside", "r", "b", "up"),
            of("here", "R", "A", "up"),
        ];
        let list = InstanceList::encode(all.iter().map(Bytes::len).sum(), 4, all.iter());
        let names = |json: &[u8]| -> Vec<String> {
            let instances: Vec<Instance> = serde_json::from_slice(json).expect("an array");
            instances.into_iter().filter_map(|one| one.instance_id).map(String::from).collect()
        };
        let preference = Preference::for_zone("a").in_region("r");
        let ordered = list.nearest_first(&preference.clone().with_min(1));
        assert_eq!(names(ordered.json()), ["down", "here", "beside", "far"], "nobody is left out");
        assert_eq!(ordered.bytes(), list.bytes());
        let with_min = |min: Option<u32>| {
            let mut out = BytesMut::new();
            list.put_nearest(&mut out, &Preference { min, ..preference.clone() });
            names(&out)
        };
        assert_eq!(with_min(None), ["down", "here", "beside", "far"]);
        assert_eq!(with_min(Some(1)), ["down", "here"]);
        assert_eq!(with_min(Some(2)), ["down", "here", "beside"]);
        assert_eq!(with_min(Some(3)), ["down", "here", "beside", "far"]);
        assert_eq!(names(InstanceList::default().nearest_first(&preference).json()), [""; 0]);
    }
}
