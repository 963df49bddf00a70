//! What a client says on a WebSocket, read from the payload of one text message.
//!
//! Reading has two speeds. The first parses straight into the fields of every message there is. Only
//! where that fails is the text looked at again, slowly, to find out what is wrong with it and which
//! `id` the answer has to carry.
//!
//! Imports `id`, `limits`, `wire::instance`, `wire::json` and `wire::refusal`. Imported by `shard`.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::instance::{Instance, InstanceKey, Registration, check_name};
use super::json;
use super::refusal::{Code, Refusal};
use crate::id::{InstanceIdentity, RequestId, ServiceName};
use crate::limits::JSON_DEPTH_MAX;

/// Texts up to this size are not scanned for their depth.
const SHORT_BYTES: usize = 1_024;

/// One message of a client: what it asks for, and the `id` its answer carries back.
#[derive(Debug)]
pub struct Message {
    /// The request's own `id`.
    pub id: Option<RequestId>,
    /// What it asks for, or why that cannot be told.
    pub request: Result<Request, Refusal>,
}

/// What a client may ask for.
#[derive(Debug)]
pub enum Request {
    /// Follow a service.
    Subscribe(Subscribe),
    /// Stop following.
    Unsubscribe(Target),
    /// An answer that shows the other side lives, for clients that cannot see protocol pings.
    Ping,
    /// Register instances or renew their leases.
    Register(Entries<Instance, Registration>),
    /// Renew leases.
    Heartbeat(Entries<InstanceKey, InstanceIdentity>),
    /// Remove instances.
    Unregister(Entries<InstanceKey, InstanceIdentity>),
    /// Replace the token before it expires.
    Refresh {
        /// The new token, not yet checked.
        token: String,
    },
}

/// Which services a subscription is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One service.
    Service(ServiceName),
    /// All of them, also those to come.
    AllServices,
}

/// A wish to follow a service.
#[derive(Debug)]
pub struct Subscribe {
    /// What to follow.
    pub target: Target,
    /// Whether the answer shall hold the instances.
    pub snapshot: bool,
    /// Where the client stands already.
    pub since: Option<Since>,
}

/// A position in a service's history, as a client gives it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Since {
    /// The epoch the revision belongs to.
    pub epoch: Box<str>,
    /// The last revision the client has seen.
    pub revision: u64,
}

/// The entries of a batch: those that passed the checks, and those that did not, with the reason.
#[derive(Debug)]
pub struct Entries<Sent, Checked> {
    /// What was sent and what it came to.
    pub accepted: Vec<(Sent, Checked)>,
    /// What cannot be done, as sent.
    pub rejected: Vec<Rejected>,
}

/// An entry of a batch that failed its checks.
#[derive(Debug)]
pub struct Rejected {
    /// The entry as it was sent.
    pub entry: Value,
    /// What is wrong with it.
    pub message: String,
}

/// Every field of every message, for the fast reading.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(alias = "serviceId")]
    service_id: Option<String>,
    snapshot: Option<bool>,
    #[serde(default, deserialize_with = "json::object")]
    since: Option<Since>,
    #[serde(default, deserialize_with = "json::objects")]
    instances: Option<Vec<Instance>>,
    #[serde(default, alias = "instanceKeys", deserialize_with = "json::objects")]
    instance_keys: Option<Vec<InstanceKey>>,
    token: Option<String>,
}

/// Reads one text message.
pub fn decode(payload: &[u8], topic_bytes_max: usize) -> Message {
    // A field that nobody reads is skipped without looking at its depth, so that is done here; a
    // short text cannot be deep enough to matter.
    if payload.len() > SHORT_BYTES && !json::is_shallow(payload) {
        let message = format!("the message nests deeper than {JSON_DEPTH_MAX} levels");
        return Message { id: None, request: Err(Refusal::new(Code::Malformed, message)) };
    }
    match serde_json::from_slice::<Fields<'_>>(payload) {
        Ok(fields) if json::is_object(payload) => {
            let id = fields.id.and_then(request_id);
            Message { id, request: request(fields, topic_bytes_max) }
        }
        Ok(_) => not_an_object(),
        Err(fault) => diagnose(payload, &fault, topic_bytes_max),
    }
}

fn not_an_object() -> Message {
    let refusal = Refusal::new(Code::Malformed, "the message is JSON, but not an object");
    Message { id: None, request: Err(refusal) }
}

/// Reads nothing but the `id`, for a message that is refused unread.
pub fn decode_id(payload: &[u8]) -> Option<RequestId> {
    #[derive(Deserialize)]
    struct OnlyId<'a> {
        #[serde(borrow)]
        id: Option<&'a RawValue>,
    }
    let only = serde_json::from_slice::<OnlyId<'_>>(payload).ok()?;
    only.id.and_then(request_id)
}

/// A string or a number is an id; anything else is none.
fn request_id(raw: &RawValue) -> Option<RequestId> {
    let text = raw.get();
    // What no other parser could read back is not sent back: half a surrogate pair, 1e400.
    let is_id = match *text.as_bytes().first()? {
        b'"' => !text.contains('\\') || serde_json::from_str::<String>(text).is_ok(),
        b'-' | b'0'..=b'9' => text.parse().is_ok_and(f64::is_finite),
        _ => false,
    };
    is_id.then(|| RequestId(text.into()))
}

fn request(fields: Fields<'_>, topic_bytes_max: usize) -> Result<Request, Refusal> {
    let Some(kind) = fields.kind.as_deref() else {
        return Err(Refusal::new(Code::UnknownType, "type is missing"));
    };
    match kind {
        "ping" => Ok(Request::Ping),
        "subscribe" => subscribe(fields, topic_bytes_max),
        "unsubscribe" => Ok(Request::Unsubscribe(target(fields.service_id, topic_bytes_max)?)),
        "register" => {
            let sent = fields.instances.ok_or_else(|| Refusal::invalid("instances is missing"))?;
            Ok(Request::Register(check_all(sent, Instance::register)))
        }
        "heartbeat" => Ok(Request::Heartbeat(keys(fields)?)),
        "unregister" => Ok(Request::Unregister(keys(fields)?)),
        "refresh" => match fields.token {
            Some(token) => Ok(Request::Refresh { token }),
            None => Err(Refusal::invalid("token is missing")),
        },
        _ => Err(unknown_type(kind)),
    }
}

fn unknown_type(kind: &str) -> Refusal {
    let shown: String = kind.chars().filter(|c| !c.is_control()).take(64).collect();
    Refusal::new(Code::UnknownType, format!("type \"{shown}\" is not known"))
}

fn subscribe(fields: Fields<'_>, topic_bytes_max: usize) -> Result<Request, Refusal> {
    let target = target(fields.service_id, topic_bytes_max)?;
    let snapshot = fields.snapshot.unwrap_or(false);
    if target == Target::AllServices && (snapshot || fields.since.is_some()) {
        return Err(Refusal::invalid("snapshot and since go with one service, not with \"*\""));
    }
    Ok(Request::Subscribe(Subscribe { target, snapshot, since: fields.since }))
}

fn target(service_id: Option<String>, topic_bytes_max: usize) -> Result<Target, Refusal> {
    let name = service_id.ok_or_else(|| Refusal::invalid("service_id is missing"))?;
    if name == "*" {
        return Ok(Target::AllServices);
    }
    if name.len() > topic_bytes_max {
        return Err(Refusal::new(
            Code::TooLarge,
            format!("service_id is over {topic_bytes_max} bytes"),
        ));
    }
    check_name("service_id", &name).map_err(Refusal::invalid)?;
    Ok(Target::Service(ServiceName::of(&name)))
}

fn keys(fields: Fields<'_>) -> Result<Entries<InstanceKey, InstanceIdentity>, Refusal> {
    let sent = match (fields.instance_keys, fields.instances) {
        (Some(keys), _) => keys,
        (None, Some(instances)) => instances.iter().map(Instance::key).collect(),
        (None, None) => return Err(Refusal::invalid("instance_keys is missing")),
    };
    Ok(check_all(sent, InstanceKey::identity))
}

/// Checks each entry and keeps the good ones beside what they came to.
pub fn check_all<Sent: serde::Serialize, Checked>(
    sent: Vec<Sent>,
    check: impl Fn(&Sent) -> Result<Checked, String>,
) -> Entries<Sent, Checked> {
    let mut entries = Entries { accepted: Vec::with_capacity(sent.len()), rejected: Vec::new() };
    for one in sent {
        match check(&one) {
            Ok(checked) => entries.accepted.push((one, checked)),
            Err(message) => {
                let entry = serde_json::to_value(&one).unwrap_or(Value::Null);
                entries.rejected.push(Rejected { entry, message });
            }
        }
    }
    entries
}

/// Reads entries one by one, so that one of a wrong type fails alone.
pub fn check_each<Sent: serde::de::DeserializeOwned + serde::Serialize, Checked>(
    sent: Vec<Value>,
    check: impl Fn(&Sent) -> Result<Checked, String>,
) -> Entries<Sent, Checked> {
    let mut entries = Entries { accepted: Vec::with_capacity(sent.len()), rejected: Vec::new() };
    for entry in sent {
        let read = if entry.is_object() {
            Sent::deserialize(&entry).map_err(|fault| fault.to_string())
        } else {
            Err(String::from("not an object"))
        };
        let checked = read.and_then(|one| check(&one).map(|checked| (one, checked)));
        match checked {
            Ok(pair) => entries.accepted.push(pair),
            Err(message) => entries.rejected.push(Rejected { entry, message }),
        }
    }
    entries
}

/// The slow reading, for a text the fast one refused.
fn diagnose(payload: &[u8], fault: &serde_json::Error, topic_bytes_max: usize) -> Message {
    let malformed = |what: &'static str| Message {
        id: None,
        request: Err(Refusal::new(Code::Malformed, what)),
    };
    let mut object = match json::decode::<Value>(payload) {
        Ok(Value::Object(object)) => object,
        Ok(_) => return not_an_object(),
        Err(_) => return malformed("the message is not JSON"),
    };
    let id = object
        .get("id")
        .filter(|id| id.is_string() || id.is_number())
        .map(|id| RequestId(id.to_string().into_boxed_str()));
    let request = match object.get("type") {
        Some(Value::String(kind)) => match kind.as_str() {
            "register" => entries_of(object.remove("instances"), "instances")
                .map(|sent| Request::Register(check_each(sent, Instance::register))),
            "heartbeat" => keys_of(&mut object).map(Request::Heartbeat),
            "unregister" => keys_of(&mut object).map(Request::Unregister),
            "ping" => Ok(Request::Ping),
            "subscribe" | "unsubscribe" | "refresh" => read_again(&object, fault, topic_bytes_max),
            _ => Err(unknown_type(kind)),
        },
        _ => Err(Refusal::new(Code::UnknownType, "type is missing or not a string")),
    };
    Message { id, request }
}

/// A field may merely stand twice, which the fast reading refuses: the last one counts. Only the
/// fields that the message has a use for are looked at again.
fn read_again(
    object: &serde_json::Map<String, Value>,
    fault: &serde_json::Error,
    topic_bytes_max: usize,
) -> Result<Request, Refusal> {
    let mut kept = object.clone();
    kept.retain(|name, _| {
        matches!(
            name.as_str(),
            "type" | "service_id" | "serviceId" | "snapshot" | "since" | "token"
        )
    });
    if kept.contains_key("service_id") {
        kept.remove("serviceId");
    }
    let text = serde_json::to_vec(&kept).unwrap_or_default();
    match serde_json::from_slice::<Fields<'_>>(&text) {
        Ok(fields) => request(fields, topic_bytes_max),
        Err(again) => {
            tracing::trace!(%fault, "a field of the wrong type");
            Err(Refusal::invalid(field_fault(&kept, &again)))
        }
    }
}

/// Names the field whose value does not fit, where one can be told.
fn field_fault(object: &serde_json::Map<String, Value>, fault: &serde_json::Error) -> String {
    let is_wrong = |name: &str, fits: fn(&Value) -> bool| {
        object.get(name).is_some_and(|value| !value.is_null() && !fits(value))
    };
    let is_since = |value: &Value| value.is_object() && Since::deserialize(value).is_ok();
    for (name, wrong, want) in [
        ("service_id", is_wrong("service_id", Value::is_string), "a string"),
        ("serviceId", is_wrong("serviceId", Value::is_string), "a string"),
        ("snapshot", is_wrong("snapshot", Value::is_boolean), "true or false"),
        ("since", is_wrong("since", is_since), "an object with epoch and revision"),
        ("token", is_wrong("token", Value::is_string), "a string"),
    ] {
        if wrong {
            return format!("{name} is not {want}");
        }
    }
    fault.to_string()
}

fn keys_of(
    object: &mut serde_json::Map<String, Value>,
) -> Result<Entries<InstanceKey, InstanceIdentity>, Refusal> {
    let sent = ["instance_keys", "instanceKeys", "instances"]
        .into_iter()
        .find_map(|name| object.remove(name).filter(|value| !value.is_null()));
    Ok(check_each(entries_of(sent, "instance_keys")?, InstanceKey::identity))
}

fn entries_of(value: Option<Value>, field: &str) -> Result<Vec<Value>, Refusal> {
    match value {
        Some(Value::Array(entries)) => Ok(entries),
        Some(Value::Null) | None => Err(Refusal::invalid(format!("{field} is missing"))),
        Some(_) => Err(Refusal::invalid(format!("{field} is not an array"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> Code {
        decode(text.as_bytes(), 255).request.expect_err(text).code
    }

    #[test]
    fn tells_what_is_wrong() {
        for text in
            ["", "nope", "[]", "[\"ping\"]", "5", "\"x\"", "null", "{", "{\"type\":\"ping\"}}"]
        {
            assert_eq!(code(text), Code::Malformed, "{text}");
        }
        for text in ["{}", r#"{"type":5}"#, r#"{"type":"dance"}"#, r#"{"type":null}"#] {
            assert_eq!(code(text), Code::UnknownType, "{text}");
        }
        for text in [
            r#"{"type":"subscribe"}"#,
            r#"{"type":"subscribe","service_id":5}"#,
            r#"{"type":"subscribe","service_id":""}"#,
            r#"{"type":"subscribe","service_id":"s","snapshot":"yes"}"#,
            r#"{"type":"subscribe","service_id":"s","since":{"epoch":"e"}}"#,
            r#"{"type":"subscribe","service_id":"s","since":{"epoch":"e","revision":-1}}"#,
            r#"{"type":"subscribe","service_id":"*","snapshot":true}"#,
            r#"{"type":"subscribe","service_id":"*","since":{"epoch":"e","revision":1}}"#,
            r#"{"type":"subscribe","service_id":"s","since":["e",1]}"#,
            r#"{"type":"register"}"#,
            r#"{"type":"register","instances":{}}"#,
            r#"{"type":"heartbeat"}"#,
            r#"{"type":"refresh"}"#,
        ] {
            assert_eq!(code(text), Code::InvalidArgument, "{text}");
        }
    }

    #[test]
    fn ids_come_back_as_they_were() {
        for (text, id) in [
            (r#"{"type":"ping","id":"a\"b"}"#, Some(r#""a\"b""#)),
            (r#"{"type":"ping","id":-1.5e3}"#, Some("-1.5e3")),
            (r#"{"type":"nope","id":7}"#, Some("7")),
            (r#"{"type":"subscribe","service_id":[],"id":7}"#, Some("7")),
            (r#"{"type":"ping","id":null}"#, None),
            (r#"{"type":"ping","id":{}}"#, None),
            (r#"{"type":"ping","id":"\ud800"}"#, None),
            (r#"{"type":"ping","id":1e400}"#, None),
        ] {
            let got = decode(text.as_bytes(), 255).id;
            assert_eq!(got.as_ref().map(|id| &*id.0), id, "{text}");
        }
        assert_eq!(decode_id(br#"{"id":3,"type":"x"}"#), Some(RequestId("3".into())));
        assert_eq!(decode_id(b"nope"), None);
    }

    #[test]
    fn a_field_given_twice_counts_as_its_last() {
        let text = br#"{"type":"subscribe","service_id":"a","service_id":"b"}"#;
        let Ok(Request::Subscribe(subscribe)) = decode(text, 255).request else {
            panic!("refused");
        };
        assert_eq!(subscribe.target, Target::Service(ServiceName::of("b")));
    }

    #[test]
    fn one_bad_entry_fails_alone() {
        let text = br#"{"type":"register","instances":[{"serviceId":"s","instanceId":"1"},
            {"serviceId":"s","instanceId":"2","port":"x"},{"serviceId":"s"},
            ["r",null,null,"s","i",null,null,null,null,null,null,"up",null,null],7]}"#;
        let Ok(Request::Register(entries)) = decode(text, 255).request else {
            panic!("refused");
        };
        assert_eq!((entries.accepted.len(), entries.rejected.len()), (1, 4));
        assert_eq!(entries.rejected[3].entry, serde_json::json!(7));
    }

    #[test]
    fn deep_nests_are_refused() {
        let deep =
            format!(r#"{{"type":"ping","x":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(code(&deep), Code::Malformed);
        let nest = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(code(&nest), Code::Malformed);
    }

    #[test]
    fn topic_length_has_its_own_code() {
        let text =
            |bytes| format!(r#"{{"type":"subscribe","service_id":"{}"}}"#, "x".repeat(bytes));
        assert!(decode(text(255).as_bytes(), 255).request.is_ok());
        assert_eq!(code(&text(256)), Code::TooLarge);
    }
}
