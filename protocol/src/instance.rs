//! The registry's models on the wire: instances, their keys, and the checks on them.
//!
//! The models are Ctrip Artemis' own (camelCase); on input `snake_case` is accepted as well. An
//! instance is checked and brought into its canonical text here, on the caller's thread, so that
//! the control thread compares and stores bytes and never parses.
//!
//! Imports `depth`, `id` and `limits`. Imported by the server and the client.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::depth;
use crate::id::{InstanceIdentity, ServiceName};
use crate::limits;

/// The states an instance reports about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Coming up, not to be called yet.
    #[serde(alias = "STARTING")]
    Starting,
    /// Ready. The default of a registration.
    #[default]
    #[serde(alias = "UP")]
    Up,
    /// Going or gone.
    #[serde(alias = "DOWN")]
    Down,
    /// Alive, but not well.
    #[serde(alias = "UNHEALTHY")]
    Unhealthy,
    /// The instance does not know.
    #[serde(alias = "UNKNOWN")]
    Unknown,
}

/// One instance of a service, as clients send and receive it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields are the protocol's own names")]
pub struct Instance {
    #[serde(alias = "region_id", skip_serializing_if = "Option::is_none")]
    pub region_id: Option<Box<str>>,
    #[serde(alias = "zone_id", skip_serializing_if = "Option::is_none")]
    pub zone_id: Option<Box<str>>,
    #[serde(alias = "group_id", skip_serializing_if = "Option::is_none")]
    pub group_id: Option<Box<str>>,
    #[serde(alias = "service_id", skip_serializing_if = "Option::is_none")]
    pub service_id: Option<Box<str>>,
    #[serde(alias = "instance_id", skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<Box<str>>,
    #[serde(alias = "machine_name", skip_serializing_if = "Option::is_none")]
    pub machine_name: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<Box<str>>,
    #[serde(alias = "health_check_url", skip_serializing_if = "Option::is_none")]
    pub health_check_url: Option<Box<str>>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BTreeMap<String, Value>>,
    #[serde(alias = "lease_ttl_ms", skip_serializing_if = "Option::is_none")]
    pub lease_ttl_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
}

fn null_is_default<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Status, D::Error> {
    Ok(Option::<Status>::deserialize(from)?.unwrap_or_default())
}

/// The key of an instance, without its description.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields are the protocol's own names")]
pub struct InstanceKey {
    #[serde(alias = "region_id", skip_serializing_if = "Option::is_none")]
    pub region_id: Option<Box<str>>,
    #[serde(alias = "zone_id", skip_serializing_if = "Option::is_none")]
    pub zone_id: Option<Box<str>>,
    #[serde(alias = "service_id", skip_serializing_if = "Option::is_none")]
    pub service_id: Option<Box<str>>,
    #[serde(alias = "group_id", skip_serializing_if = "Option::is_none")]
    pub group_id: Option<Box<str>>,
    #[serde(alias = "instance_id", skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<Box<str>>,
}

/// An instance that passed every check, ready for the registry.
///
/// Its JSON is the text in the log that servers share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Registration {
    /// Its identity.
    #[serde(rename = "id")]
    pub identity: InstanceIdentity,
    /// Its service, canonical.
    pub service: ServiceName,
    /// The requested lease; none = the server's default.
    #[serde(rename = "ttl_ms")]
    pub lease_ttl_ms: Option<u64>,
    /// Its canonical JSON: fields in a fixed order, metadata sorted. Equal text = no difference.
    #[serde(rename = "instance", with = "spliced")]
    pub json: Bytes,
}

/// A JSON text as a value, and not as a string.
mod spliced {
    use bytes::Bytes;
    use serde::ser::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use serde_json::value::RawValue;

    pub(super) fn serialize<S: Serializer>(json: &Bytes, to: S) -> Result<S::Ok, S::Error> {
        let value: &RawValue = serde_json::from_slice(json).map_err(Error::custom)?;
        value.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
        let value = <&RawValue>::deserialize(from)?;
        Ok(Bytes::copy_from_slice(value.get().as_bytes()))
    }
}

impl Registration {
    /// Checks the size of the canonical JSON.
    ///
    /// # Errors
    ///
    /// Its size and the bound.
    pub fn within(self, bytes_max: usize) -> Result<Registration, String> {
        let bytes = self.json.len();
        if bytes > bytes_max {
            return Err(format!("the instance has {bytes} bytes, more than {bytes_max}"));
        }
        Ok(self)
    }
}

impl Instance {
    /// Checks the instance and brings it into its canonical form.
    ///
    /// # Errors
    ///
    /// The first field that is missing or out of bounds, by name.
    pub fn register(&self) -> Result<Registration, String> {
        let (service, instance) = checked_names(
            self.region_id.as_deref(),
            self.service_id.as_deref(),
            self.instance_id.as_deref(),
        )?;
        if let Some(ttl) = self.lease_ttl_ms
            && !(limits::LEASE_TTL_MS_MIN..=limits::LEASE_TTL_MS_MAX).contains(&ttl)
        {
            return Err(format!(
                "leaseTtlMs is {ttl}, not {} to {}",
                limits::LEASE_TTL_MS_MIN,
                limits::LEASE_TTL_MS_MAX
            ));
        }
        if let Some(weight) = self.weight.filter(|&weight| weight > limits::WEIGHT_MAX) {
            return Err(format!("weight is {weight}, not 0 to {}", limits::WEIGHT_MAX));
        }
        for (field, text) in [
            ("zoneId", &self.zone_id),
            ("groupId", &self.group_id),
            ("machineName", &self.machine_name),
            ("ip", &self.ip),
            ("protocol", &self.protocol),
        ] {
            check_optional_name(field, text.as_deref().unwrap_or_default())?;
        }
        let json = serde_json::to_vec(self).map_err(|_| String::from("not representable"))?;
        if holds_nul(&json) {
            return Err(String::from("url, healthCheckUrl or metadata holds a NUL character"));
        }
        let nests = |value: &Value| matches!(value, Value::Object(_) | Value::Array(_));
        let mut values = self.metadata.iter().flat_map(BTreeMap::values);
        // The instance itself is one level more.
        if values.any(nests) && !depth::is_within(&json, limits::NESTED_DEPTH_MAX + 1) {
            return Err(format!("metadata nests deeper than {} levels", limits::NESTED_DEPTH_MAX));
        }
        Ok(Registration {
            identity: InstanceIdentity::of(
                self.region_id.as_deref().unwrap_or_default(),
                service,
                instance,
            ),
            service: ServiceName::of(service),
            lease_ttl_ms: self.lease_ttl_ms,
            json: Bytes::from(json),
        })
    }

    /// The key of this instance.
    pub fn key(&self) -> InstanceKey {
        InstanceKey {
            region_id: self.region_id.clone(),
            zone_id: self.zone_id.clone(),
            service_id: self.service_id.clone(),
            group_id: self.group_id.clone(),
            instance_id: self.instance_id.clone(),
        }
    }
}

impl InstanceKey {
    /// Checks the key and returns its identity.
    ///
    /// # Errors
    ///
    /// The first field that is missing or out of bounds, by name.
    pub fn identity(&self) -> Result<InstanceIdentity, String> {
        let region = self.region_id.as_deref();
        let (service, instance) =
            checked_names(region, self.service_id.as_deref(), self.instance_id.as_deref())?;
        Ok(InstanceIdentity::of(region.unwrap_or_default(), service, instance))
    }
}

fn checked_names<'a>(
    region: Option<&str>,
    service: Option<&'a str>,
    instance: Option<&'a str>,
) -> Result<(&'a str, &'a str), String> {
    check_optional_name("regionId", region.unwrap_or_default())?;
    let service = service.ok_or("serviceId is missing")?;
    check_service_id(service)?;
    let instance = instance.ok_or("instanceId is missing")?;
    check_name("instanceId", instance)?;
    Ok((service, instance))
}

/// Checks a service id: a name, and not the wildcard.
///
/// # Errors
///
/// The fault, naming the field.
pub fn check_service_id(text: &str) -> Result<(), String> {
    check_name("serviceId", text)?;
    if text == "*" {
        return Err(String::from("serviceId is \"*\", which names every service and none"));
    }
    Ok(())
}

/// Checks any name: 1 to [`limits::NAME_BYTES_MAX`] bytes, no control characters.
///
/// # Errors
///
/// The fault, naming `field`.
pub fn check_name(field: &str, text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err(format!("{field} is empty"));
    }
    if text.len() > limits::NAME_BYTES_MAX {
        return Err(format!("{field} is over {} bytes", limits::NAME_BYTES_MAX));
    }
    if text.chars().any(char::is_control) {
        return Err(format!("{field} holds a control character"));
    }
    Ok(())
}

/// The same for an optional name: an empty text is none.
///
/// # Errors
///
/// The fault, naming `field`.
pub fn check_optional_name(field: &str, text: &str) -> Result<(), String> {
    if text.is_empty() { Ok(()) } else { check_name(field, text) }
}

/// Whether any text of a JSON document holds a NUL character, which no text of `PostgreSQL` can
/// (<https://www.postgresql.org/docs/current/datatype-character.html>). The document is one that
/// `serde_json` wrote: there the character is always the escape `\u0000`.
fn holds_nul(json: &[u8]) -> bool {
    const ESCAPE: &[u8] = b"\\u0000";
    let is_escape = |at: usize| {
        // Behind an odd number of backslashes this one is escaped itself, and the rest is plain.
        let before = json[..at].iter().rev().take_while(|&&byte| byte == b'\\').count();
        before % 2 == 0 && json[at..].starts_with(ESCAPE)
    };
    json.iter().enumerate().any(|(at, &byte)| byte == b'\\' && is_escape(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(text: &str) -> Instance {
        serde_json::from_str(text).expect("a valid instance")
    }

    #[test]
    fn both_spellings_give_the_same_registration() {
        let camel = instance(
            r#"{"regionId":"R","serviceId":"Svc","instanceId":"I","machineName":"m","leaseTtlMs":2000,"healthCheckUrl":"h"}"#,
        );
        let snake = instance(
            r#"{"region_id":"R","service_id":"Svc","instance_id":"I","machine_name":"m","lease_ttl_ms":2000,"health_check_url":"h"}"#,
        );
        assert_eq!(camel.register(), snake.register());
        let registration = camel.register().expect("valid");
        assert_eq!(registration.service.as_str(), "svc");
        assert!(String::from_utf8_lossy(&registration.json).contains("\"serviceId\":\"Svc\""));
    }

    #[test]
    fn metadata_order_and_unknown_fields_make_no_difference() {
        let one =
            instance(r#"{"serviceId":"s","instanceId":"i","metadata":{"a":1,"b":"2"},"x":[1]}"#);
        let two = instance(r#"{"instanceId":"i","metadata":{"b":"2","a":1},"serviceId":"s"}"#);
        assert_eq!(one.register(), two.register());
    }

    #[test]
    fn a_size_and_a_depth_are_the_last_that_fit() {
        let registration = instance(r#"{"serviceId":"s","instanceId":"i"}"#).register();
        let registration = registration.expect("valid");
        let bytes = registration.json.len();
        assert!(registration.clone().within(bytes).is_ok());
        let fault = registration.within(bytes - 1).expect_err("too large");
        assert!(fault.contains(&format!("{bytes} bytes")), "{fault}");
        let nested = |depth: usize| {
            let (open, close) = ("[".repeat(depth - 1), "]".repeat(depth - 1));
            let metadata = format!(r#"{{"brackets":"[[[[","k":{open}{close}}}"#);
            instance(&format!(r#"{{"serviceId":"s","instanceId":"i","metadata":{metadata}}}"#))
        };
        assert!(nested(limits::NESTED_DEPTH_MAX).register().is_ok());
        let fault = nested(limits::NESTED_DEPTH_MAX + 1).register().expect_err("too deep");
        assert!(fault.contains("metadata"), "{fault}");
    }

    #[test]
    fn faults_name_the_field() {
        let long = "x".repeat(limits::NAME_BYTES_MAX + 1);
        for (text, word) in [
            (String::from("{}"), "serviceId"),
            (String::from(r#"{"serviceId":"s"}"#), "instanceId"),
            (String::from(r#"{"serviceId":"*","instanceId":"i"}"#), "serviceId"),
            (String::from(r#"{"serviceId":"","instanceId":"i"}"#), "serviceId"),
            (String::from(r#"{"serviceId":"s","instanceId":"i\u0000"}"#), "instanceId"),
            (format!(r#"{{"serviceId":"s","instanceId":"{long}"}}"#), "instanceId"),
            (String::from(r#"{"serviceId":"s","instanceId":"i","leaseTtlMs":999}"#), "leaseTtlMs"),
            (
                String::from(r#"{"serviceId":"s","instanceId":"i","leaseTtlMs":3600001}"#),
                "leaseTtlMs",
            ),
            (String::from(r#"{"serviceId":"s","instanceId":"i","weight":10001}"#), "weight"),
            (String::from(r#"{"serviceId":"s","instanceId":"i","zoneId":"a\n"}"#), "zoneId"),
            (format!(r#"{{"serviceId":"s","instanceId":"i","groupId":"{long}"}}"#), "groupId"),
            (String::from(r#"{"serviceId":"s","instanceId":"i","ip":"\u0000"}"#), "ip"),
            (String::from(r#"{"serviceId":"s","instanceId":"i","url":"a\u0000"}"#), "NUL"),
            (String::from(r#"{"serviceId":"s","instanceId":"i","metadata":{"a\u0000":1}}"#), "NUL"),
            (
                String::from(
                    r#"{"serviceId":"s","instanceId":"i","metadata":{"a":[{"b":"\\\u0000"}]}}"#,
                ),
                "NUL",
            ),
        ] {
            let fault = instance(&text).register().expect_err(&text);
            assert!(fault.contains(word), "{text}: {fault}");
        }
    }

    #[test]
    fn what_only_looks_like_a_nul_is_none() {
        for metadata in [r#"{"a":"\\u0000"}"#, r#"{"a":"\\\\u0000"}"#, r#"{"a":"\u0001\u00e9"}"#] {
            let text = format!(r#"{{"serviceId":"s","instanceId":"i","metadata":{metadata}}}"#);
            assert!(instance(&text).register().is_ok(), "{metadata}");
        }
        let empty = r#"{"regionId":"","zoneId":"","groupId":"","serviceId":"s","instanceId":"i"}"#;
        assert!(instance(empty).register().is_ok());
    }
}
