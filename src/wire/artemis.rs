//! The frames of Artemis' sockets: bare JSON texts, without an envelope, a `type` or a revision.
//!
//! ```text
//! heartbeat        {"instances":[...]} --> Heartbeat --> control --> heartbeat_answer
//! instance-change  {"serviceId":...}   --> subscription
//!                  announcement --> changes: one frame a change, or one `reload`
//! ```
//!
//! What the dialect cannot express becomes a `reload`, after which the client looks the service up again: a
//! snapshot, a change that does not fit into the client's buffer, and a change of an instance that the client
//! could not find again.
//!
//! Imports its siblings, `id` and `limits`. Imported by `shard` and `control`.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde_json::Value;

use super::command::{Entries, Rejected, check_all, check_each};
use super::event::{Change, ChangeType};
use super::frame::FrameBuilder;
use super::instance::{Instance, Status};
use super::json;
use super::refusal::{Code, Refusal};
use crate::id::{InstanceIdentity, ServiceName};
use crate::limits::{self, ARTEMIS_FRAME_UNITS_MAX};
use crate::wire::instance::check_service_id;

// --- What clients send ---------------------------------------------------------------------------

/// Reads the one message of the socket of changes: the service to follow.
///
/// # Errors
///
/// The fault, for the log: the dialect has no answer to this message.
pub fn subscription(text: &[u8]) -> Result<ServiceName, Refusal> {
    #[derive(Deserialize)]
    struct DiscoveryConfig {
        #[serde(default, rename = "serviceId", alias = "service_id")]
        service_id: Option<String>,
    }
    let config: DiscoveryConfig = json::decode(text).map_err(|fault| not_json(&fault))?;
    let service_id = config.service_id.unwrap_or_default();
    check_service_id(&service_id).map_err(Refusal::invalid)?;
    Ok(ServiceName::of(&service_id))
}

fn not_json(fault: &serde_json::Error) -> Refusal {
    Refusal::new(Code::Malformed, format!("the message is not what this socket takes: {fault}"))
}

/// The instances of one heartbeat, on their way through control.
#[derive(Debug)]
pub struct Heartbeat {
    /// The instances, each once.
    pub sent: Vec<Instance>,
    /// Their identities that control has not been asked about yet.
    pub left: Vec<InstanceIdentity>,
    /// The entries that are none.
    pub rejected: Vec<Rejected>,
    /// The instances that control does not know, by their places in `sent`.
    pub unknown: Vec<usize>,
}

impl Heartbeat {
    /// Reads a heartbeat of at most `instances_max` instances.
    ///
    /// # Errors
    ///
    /// `malformed` if it is not a JSON object, `invalid_argument` if it has no list of instances, and
    /// `too_large`.
    pub fn decode(text: &[u8], instances_max: usize) -> Result<Heartbeat, Refusal> {
        #[derive(Deserialize)]
        struct Typed {
            #[serde(deserialize_with = "json::objects")]
            instances: Option<Vec<Instance>>,
        }
        #[derive(Deserialize)]
        struct Loose {
            #[serde(default)]
            instances: Value,
        }
        let too_large = || {
            let message = format!("a heartbeat has at most {instances_max} instances");
            Refusal::new(Code::TooLarge, message)
        };
        if !json::has_short_lists(text, instances_max) {
            return Err(too_large());
        }
        let identity = |sent: &Instance| sent.key().identity();
        let entries = if let Ok(Typed { instances: Some(sent) }) = json::decode(text) {
            check_all(sent, identity)
        } else {
            let loose: Loose = json::decode(text).map_err(|fault| not_json(&fault))?;
            let Value::Array(sent) = loose.instances else {
                return Err(Refusal::invalid("instances is missing or not an array"));
            };
            check_each("instances", sent, identity)
        };
        let Entries { accepted, rejected } = entries.deduplicated();
        if accepted.len() + rejected.len() > instances_max {
            return Err(too_large());
        }
        let (sent, left) = accepted.into_iter().unzip();
        Ok(Heartbeat { sent, left, rejected, unknown: Vec::new() })
    }

    /// The answer, and the places of unknown instances that no answer can hold: the server registers those
    /// from what the heartbeat says of them.
    ///
    /// The client registers what an answer names, and names the rest in its next heartbeat: so an answer that
    /// does not hold all of them holds those that fit.
    pub fn answer(&self) -> (Bytes, Vec<usize>) {
        let mut list = FailedList::default();
        let mut too_large = Vec::new();
        for &place in &self.unknown {
            let mut entry = Vec::with_capacity(512);
            put_failed_head(&mut entry, "data-not-found", "no such instance");
            put_instance(&mut entry, &self.sent[place], None);
            entry.push(b'}');
            if units(&entry) > limits::ARTEMIS_FAILED_UNITS_MAX {
                too_large.push(place);
            } else {
                list.add(&entry);
            }
        }
        for one in &self.rejected {
            let mut entry = Vec::with_capacity(512);
            let message: String =
                one.message.chars().take(limits::ARTEMIS_MESSAGE_CHARS_MAX).collect();
            put_failed_head(&mut entry, "bad-request", &message);
            entry.extend_from_slice(one.entry.to_string().as_bytes());
            entry.push(b'}');
            // The client does nothing about these; its log has those that fit.
            list.add(&entry);
        }
        let failed = self.unknown.len() - too_large.len() + self.rejected.len();
        if failed == 0 {
            return (success(), too_large);
        }
        let message =
            format!("{failed} of {} instances failed", self.sent.len() + self.rejected.len());
        (list.finish(&message), too_large)
    }
}

/// The failed entries of an answer, as many as fit.
#[derive(Default)]
struct FailedList {
    text: Vec<u8>,
    units: usize,
}

impl FailedList {
    fn add(&mut self, entry: &[u8]) {
        let units = units(entry) + 1;
        if self.units + units > limits::ARTEMIS_FAILED_UNITS_MAX + 1 {
            return;
        }
        self.units += units;
        if !self.text.is_empty() {
            self.text.push(b',');
        }
        self.text.extend_from_slice(entry);
    }

    /// The whole answer. Its failures are always partial: a client takes a whole failure for one of the node.
    fn finish(self, message: &str) -> Bytes {
        let mut out = FrameBuilder::with_capacity(self.text.len() + 256);
        out.put(b"{\"failedInstances\":[");
        out.put(&self.text);
        out.put(b"],\"responseStatus\":");
        put_status(&mut out, "partial_fail", "partial_fail", message);
        out.put(b"}");
        out.text()
    }
}

/// UTF-16 units of a text, as Java counts its characters.
fn units(utf8: &[u8]) -> usize {
    utf8.iter().map(|&byte| usize::from(byte & 0xc0 != 0x80) + usize::from(byte >= 0xf0)).sum()
}

fn put_failed_head(out: &mut Vec<u8>, code: &str, message: &str) {
    let message = Value::from(message);
    out.extend_from_slice(
        format!("{{\"errorCode\":\"{code}\",\"errorMessage\":{message},\"instance\":").as_bytes(),
    );
}

fn put_status(out: &mut FrameBuilder, status: &str, code: &str, message: &str) {
    out.put(b"{\"errorCode\":\"");
    out.put_str(code);
    out.put(b"\",\"message\":");
    out.put_json_str(message);
    out.put(b",\"status\":\"");
    out.put_str(status);
    out.put(b"\"}");
}

fn success() -> Bytes {
    let mut out = FrameBuilder::with_capacity(128);
    out.put(b"{\"failedInstances\":null,\"responseStatus\":");
    put_status(&mut out, "success", "success", "");
    out.put(b"}");
    out.text()
}

/// The answer to a heartbeat that failed as a whole. After `service-unavailable` and
/// `internal-service-error` the client goes to another node.
pub fn heartbeat_failure(refusal: &Refusal) -> Bytes {
    let code = match refusal.code {
        Code::Unavailable => "service-unavailable",
        Code::RateLimited => "rate-limited",
        Code::Internal => "internal-service-error",
        Code::Unauthorized | Code::TokenExpired | Code::Forbidden => "no-permission",
        _ => "bad-request",
    };
    let message: String = refusal.message.chars().take(limits::ARTEMIS_MESSAGE_CHARS_MAX).collect();
    let mut out = FrameBuilder::with_capacity(256 + message.len());
    out.put(b"{\"failedInstances\":null,\"responseStatus\":");
    put_status(&mut out, "fail", code, &message);
    out.put(b"}");
    out.text()
}

// --- What clients are told -----------------------------------------------------------------------

/// Frames for all Artemis followers of a service.
#[derive(Debug, Default)]
pub struct ChangeFrames {
    /// The frames, one after the other.
    pub frames: Bytes,
    /// How many they are.
    pub count: u32,
    /// The instances whose change was too large, and became a `reload`.
    pub too_large: Vec<String>,
}

/// The frames of some changes: one each. Those that the client cannot use are one `reload` at the end.
pub fn changes(service: &ServiceName, changes: &[Change], now_ms: u64) -> ChangeFrames {
    let mut all = ChangeFrames::default();
    let mut frames = BytesMut::new();
    let mut needs_reload = changes.len() > limits::ARTEMIS_CHANGES_MAX;
    let changes = if needs_reload { &[] } else { changes };
    for change in changes {
        let Ok(instance) = json::decode::<Instance>(&change.instance) else {
            // The registry's own text is an instance.
            needs_reload = true;
            continue;
        };
        // The client finds an instance by region, service and id. Where one of them is missing it may find none.
        let has_region = instance.region_id.as_deref().is_some_and(|region| !region.is_empty());
        needs_reload |= !has_region && change.kind != ChangeType::New;
        let mut text = Vec::with_capacity(change.instance.len() + 256);
        text.extend_from_slice(
            format!(
                "{{\"changeTime\":{},\"changeType\":\"{}\",\"instance\":",
                change.time.unix_ms().unwrap_or(now_ms),
                change.kind.as_str()
            )
            .as_bytes(),
        );
        put_instance(&mut text, &instance, Some(service));
        text.push(b'}');
        if units(&text) > ARTEMIS_FRAME_UNITS_MAX {
            needs_reload = true;
            all.too_large.push(instance.instance_id.unwrap_or_default().into());
            continue;
        }
        frames.extend_from_slice(&super::frame::text(&text));
        all.count += 1;
    }
    if needs_reload {
        frames.extend_from_slice(&reload(service, now_ms));
        all.count += 1;
    }
    all.frames = frames.freeze();
    all
}

/// `reload`: the client looks the service up again.
pub fn reload(service: &ServiceName, now_ms: u64) -> Bytes {
    let mut out = FrameBuilder::with_capacity(320 + service.as_str().len());
    out.put(b"{\"changeTime\":");
    out.put_u64(now_ms);
    out.put(
        b",\"changeType\":\"reload\",\"instance\":{\"groupId\":null,\"healthCheckUrl\":null,\
          \"instanceId\":\"reload\",\"ip\":\"0.0.0.0\",\"machineName\":null,\"metadata\":null,\"port\":0,\
          \"protocol\":null,\"regionId\":null,\"serviceId\":",
    );
    out.put_json_str(service.as_str());
    out.put(b",\"status\":null,\"url\":\"http://serviceId/reload\",\"zoneId\":null}}");
    out.text()
}

/// Appends an instance with the thirteen fields of Artemis' model, those that are missing as null.
///
/// For a follower its service has the canonical name, by which clients look it up in a table with
/// lower-case keys, and metadata values are scalars: Java's model is a map of strings, and a nested value
/// would make the client drop the whole frame. An echo repeats what the client sent.
fn put_instance(out: &mut Vec<u8>, instance: &Instance, service: Option<&ServiceName>) {
    let metadata = instance.metadata.as_ref().map(|metadata| {
        let of = |value: &Value| match value {
            Value::Array(_) | Value::Object(_) if service.is_some() => {
                Value::String(value.to_string())
            }
            value => value.clone(),
        };
        Value::Object(metadata.iter().map(|(key, value)| (key.clone(), of(value))).collect())
    });
    let service_id = match service {
        Some(service) => Some(Cow::Borrowed(service.as_str())),
        None => instance.service_id.as_deref().map(Cow::Borrowed),
    };
    let status = match instance.status {
        Status::Starting => "starting",
        Status::Up => "up",
        Status::Down => "down",
        Status::Unhealthy => "unhealthy",
        Status::Unknown => "unknown",
    };
    let mut value = serde_json::json!({
        "groupId": instance.group_id,
        "healthCheckUrl": instance.health_check_url,
        "instanceId": instance.instance_id,
        "ip": instance.ip,
        "machineName": instance.machine_name,
        "metadata": metadata,
        "port": instance.port.unwrap_or(0),
        "protocol": instance.protocol,
        "regionId": instance.region_id,
        "serviceId": service_id,
        "status": status,
        "url": instance.url,
        "zoneId": instance.zone_id,
    });
    if let (None, Some(ttl_ms)) = (service, instance.lease_ttl_ms) {
        // A client that asks for a lease of its own asks again with what it is sent back.
        value["leaseTtlMs"] = ttl_ms.into();
    }
    out.extend_from_slice(value.to_string().as_bytes());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::wire::event::{ChangeReason, TimeText};
    use crate::wire::frame;

    fn payload(frame: &Bytes) -> Value {
        serde_json::from_slice(&frame::payload(frame)).expect("JSON")
    }

    fn instance(name: &str, filler: usize) -> Value {
        json!({
            "regionId": "SHA", "serviceId": "S7Svc", "instanceId": name,
            "metadata": {"filler": "x".repeat(filler), "n": 1, "nested": {"a": [1]}},
        })
    }

    fn heartbeat(instances: &[Value]) -> Heartbeat {
        let text = json!({"instances": instances}).to_string();
        let mut heartbeat = Heartbeat::decode(text.as_bytes(), 1_000).expect("a heartbeat");
        heartbeat.unknown = (0..heartbeat.sent.len()).collect();
        heartbeat
    }

    #[test]
    fn answers_are_those_of_artemis() {
        let mut all = heartbeat(&[instance("a", 1)]);
        let (frame, too_large) = all.answer();
        let answer = payload(&frame);
        assert!(too_large.is_empty());
        assert_eq!(answer["responseStatus"]["status"], "partial_fail");
        assert_eq!(answer["responseStatus"]["errorCode"], "partial_fail");
        let failed = &answer["failedInstances"][0];
        assert_eq!(failed["errorCode"], "data-not-found");
        let echo = &failed["instance"];
        assert_eq!(echo.as_object().map(serde_json::Map::len), Some(13));
        assert_eq!(echo["serviceId"], "S7Svc", "as it was sent");
        assert_eq!(echo["metadata"], instance("a", 1)["metadata"]);
        assert_eq!(echo["machineName"], Value::Null);
        all.unknown.clear();
        let (frame, _) = all.answer();
        assert_eq!(
            frame::payload(&frame),
            "{\"failedInstances\":null,\"responseStatus\":{\"errorCode\":\"success\",\"message\":\"\",\
             \"status\":\"success\"}}"
        );
        let failure = payload(&heartbeat_failure(&Refusal::unavailable()));
        assert_eq!(failure["responseStatus"]["status"], "fail");
        assert_eq!(failure["responseStatus"]["errorCode"], "service-unavailable");
        assert_eq!(failure["failedInstances"], Value::Null);
    }

    #[test]
    fn an_answer_holds_what_fits_and_names_what_never_fits() {
        // Two bytes and one unit, and four bytes and two units.
        let wide = json!({"serviceId": "s", "instanceId": "\u{e9}".repeat(100),
            "metadata": {"k": "\u{1f600}".repeat(1_000)}});
        let mut instances: Vec<Value> = (0..60).map(|n| instance(&format!("i{n}"), 200)).collect();
        instances.insert(3, instance("large", 9_000));
        instances.insert(5, wide);
        let all = heartbeat(&instances);
        let (frame, too_large) = all.answer();
        assert_eq!(too_large, [3]);
        let text = String::from_utf8(frame::payload(&frame).to_vec()).expect("UTF-8");
        assert!(text.encode_utf16().count() <= ARTEMIS_FRAME_UNITS_MAX);
        let named = payload(&frame)["failedInstances"].as_array().expect("a list").len();
        assert!((5..30).contains(&named), "{named}");
    }

    #[test]
    fn heartbeats_that_cannot_be_read_say_why() {
        let code = |text: &str| Heartbeat::decode(text.as_bytes(), 2).expect_err(text).code;
        assert_eq!(code("nothing"), Code::Malformed);
        assert_eq!(code("{}"), Code::InvalidArgument);
        assert_eq!(code("{\"instances\":null}"), Code::InvalidArgument);
        assert_eq!(code("{\"instances\":7}"), Code::InvalidArgument);
        let three = json!({"instances": [instance("a", 1), instance("b", 1), instance("c", 1)]});
        assert_eq!(code(&three.to_string()), Code::TooLarge);
        let mixed = json!({"instances": [null, {"serviceId": "s"}]}).to_string();
        let mixed = Heartbeat::decode(mixed.as_bytes(), 2).expect("a list");
        assert_eq!((mixed.sent.len(), mixed.rejected.len()), (0, 2));
        let empty = Heartbeat::decode(b"{\"instances\":[]}", 2).expect("a list");
        assert_eq!(payload(&empty.answer().0)["responseStatus"]["status"], "success");
    }

    #[test]
    fn a_subscription_names_its_service() {
        let text = br#"{"discoveryData":null,"regionId":null,"serviceId":"S7Svc","zoneId":null}"#;
        assert_eq!(subscription(text).expect("a service").as_str(), "s7svc");
        for text in ["", "[]", "{}", "{\"serviceId\":\"\"}", "{\"serviceId\":\"*\"}"] {
            assert!(subscription(text.as_bytes()).is_err(), "{text}");
        }
    }

    fn change(value: &Value, kind: ChangeType) -> Change {
        let sent: Instance = serde_json::from_value(value.clone()).expect("an instance");
        let json = sent.register().expect("valid").json;
        let time = TimeText::of(1_700_000_000_123);
        Change { instance: json, kind, reason: ChangeReason::Update, time }
    }

    /// The frames, taken apart.
    fn frames(all: &ChangeFrames) -> Vec<Value> {
        let (mut rest, mut found) = (all.frames.clone(), Vec::new());
        while !rest.is_empty() {
            let whole = frame::payload(&rest);
            let header = rest.len() - whole.len();
            let length = match header {
                2 => usize::from(rest[1]),
                _ => usize::from(u16::from_be_bytes([rest[2], rest[3]])),
            };
            found.push(serde_json::from_slice(&whole[..length]).expect("JSON"));
            rest = whole.slice(length..);
        }
        assert_eq!(found.len(), all.count as usize);
        found
    }

    #[test]
    fn changes_are_frames_of_their_own() {
        let service = ServiceName::of("S7Svc");
        let list = [
            change(&instance("a", 1), ChangeType::New),
            change(&instance("b", 1), ChangeType::Change),
            change(&instance("a", 1), ChangeType::Delete),
        ];
        let all = changes(&service, &list, 5);
        let got = frames(&all);
        assert!(all.too_large.is_empty());
        let kinds: Vec<&str> = got.iter().filter_map(|one| one["changeType"].as_str()).collect();
        assert_eq!(kinds, ["new", "change", "delete"]);
        assert_eq!(got[0]["changeTime"], 1_700_000_000_123_u64);
        let first = &got[0]["instance"];
        assert_eq!(first.as_object().map(serde_json::Map::len), Some(13));
        assert_eq!(first["serviceId"], "s7svc");
        assert_eq!(first["metadata"]["nested"], "{\"a\":[1]}");
        assert_eq!(first["metadata"]["n"], 1);
        assert_eq!((&first["status"], &first["port"]), (&json!("up"), &json!(0)));
    }

    #[test]
    fn what_the_client_cannot_use_is_a_reload() {
        let service = ServiceName::of("s7svc");
        let kinds = |list: &[Change]| -> Vec<String> {
            let all = changes(&service, list, 5);
            frames(&all).iter().map(|one| one["changeType"].as_str().unwrap_or("").into()).collect()
        };
        let large = change(&instance("large", 9_000), ChangeType::New);
        let small = change(&instance("small", 1), ChangeType::New);
        assert_eq!(kinds(&[large.clone(), small.clone()]), ["new", "reload"]);
        assert_eq!(changes(&service, &[large], 5).too_large, ["large"]);
        let mut nowhere = instance("nowhere", 1);
        nowhere["regionId"] = Value::Null;
        assert_eq!(kinds(&[change(&nowhere, ChangeType::New)]), ["new"]);
        assert_eq!(kinds(&[change(&nowhere, ChangeType::Delete)]), ["delete", "reload"]);
        let many = vec![small; limits::ARTEMIS_CHANGES_MAX + 1];
        assert_eq!(kinds(&many), ["reload"]);
        assert_eq!(kinds(&many[1..]).len(), limits::ARTEMIS_CHANGES_MAX);
        assert!(frames(&changes(&service, &[], 5)).is_empty());
    }

    #[test]
    fn reload_is_the_documented_frame() {
        let reload = payload(&reload(&ServiceName::of("S7Svc"), 1_700_000_000_000));
        assert_eq!(
            reload,
            json!({"changeTime": 1_700_000_000_000_u64, "changeType": "reload", "instance": {
                "instanceId": "reload", "ip": "0.0.0.0", "port": 0, "serviceId": "s7svc",
                "url": "http://serviceId/reload", "groupId": null, "healthCheckUrl": null,
                "machineName": null, "metadata": null, "protocol": null, "regionId": null,
                "status": null, "zoneId": null,
            }})
        );
    }
}
