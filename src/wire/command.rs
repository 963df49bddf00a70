//! Messages of a client, decoded from the payload of one text frame.
//!
//! The decoder parses straight into the fields of all messages. Only if that fails does it read the text
//! again, slowly, to find the fault and the `id` that the answer has to carry.
//!
//! Imports `id`, `limits` and its siblings. Imported by `shard`.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::fault::{self, Fault};
use super::instance::{Instance, InstanceKey, Registration};
use super::json;
use super::preference::Preference;
use super::refusal::{Code, Refusal};
use super::talk::{self, Envelope, Publication};
use crate::id::{ChannelName, InstanceIdentity, RequestId, ServiceName, UserId};
use crate::limits::JSON_DEPTH_MAX;

/// Texts up to this size are not scanned for their depth.
const SHORT_BYTES: usize = 1_024;

/// The two families of messages. A refusal has the form of its request's family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Messages with a `type`.
    Typed,
    /// Envelopes: messages with a `message_type` and no `type`.
    Envelope,
}

/// One message of a client: the request, and the `id` of its answer.
#[derive(Debug)]
pub struct Message {
    /// The request's own `id`.
    pub id: Option<RequestId>,
    /// The family of its answer.
    pub family: Family,
    /// The request, or the refusal if it cannot be decoded.
    pub request: Result<Request, Refusal>,
}

/// A request of a client.
#[derive(Debug)]
pub enum Request {
    /// Follow a service.
    Subscribe(Subscribe),
    /// Stop following.
    Unsubscribe(Target),
    /// A ping for clients that cannot see protocol pings.
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
    /// Follow a channel.
    SubscribeChannel {
        /// The channel.
        channel: ChannelName,
        /// The client's position.
        since: Option<SinceOffset>,
    },
    /// Stop following a channel.
    UnsubscribeChannel(ChannelName),
    /// List the channels.
    ListChannels,
    /// Publish to a channel.
    Publish {
        /// The channel.
        channel: ChannelName,
        /// The publication.
        publication: Publication,
        /// Whether the publisher gets it too.
        echo: bool,
    },
    /// Join a chat room.
    Join(ChannelName),
    /// Leave a chat room.
    Leave(ChannelName),
    /// Send a text to a chat room.
    Chat {
        /// The room's channel. None: the one joined last.
        room: Option<ChannelName>,
        /// The text.
        content: String,
    },
    /// Send an envelope.
    Envelope {
        /// The envelope.
        envelope: Envelope,
        /// The receiver. None: every other user online.
        to: Option<UserId>,
    },
    /// A ping in an envelope.
    EnvelopePing,
}

/// The target of a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One service.
    Service(ServiceName),
    /// All of them, also those to come.
    AllServices,
}

/// A command to follow a service.
#[derive(Debug)]
pub struct Subscribe {
    /// The subscription's target.
    pub target: Target,
    /// Whether the answer has to hold the instances.
    pub snapshot: bool,
    /// The client's position.
    pub since: Option<Since>,
    /// Whose instances stand first.
    pub prefer: Option<Box<Preference>>,
}

/// A position in a service's history, as a client gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Since {
    /// The epoch the revision belongs to.
    pub epoch: Box<str>,
    /// The last revision the client has seen.
    pub revision: u64,
}

/// A position in a channel's history, as a client gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinceOffset {
    /// The epoch the offset belongs to.
    pub epoch: Box<str>,
    /// The last offset the client has seen.
    pub offset: u64,
}

/// Either position, undecoded.
#[derive(Debug, Deserialize)]
struct Place {
    epoch: Option<Box<str>>,
    revision: Option<u64>,
    offset: Option<u64>,
}

/// The entries of a batch: those that passed the checks, and those that did not, with the reason.
#[derive(Debug)]
pub struct Entries<Sent, Checked> {
    /// Each entry as sent, and its checked form.
    pub accepted: Vec<(Sent, Checked)>,
    /// The rejected entries, as sent.
    pub rejected: Vec<Rejected>,
}

/// An entry of a batch that failed its checks.
#[derive(Debug)]
pub struct Rejected {
    /// The entry as it was sent.
    pub entry: Value,
    /// The fault.
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
    since: Option<Place>,
    #[serde(default, deserialize_with = "json::object")]
    prefer: Option<Preference>,
    #[serde(default, deserialize_with = "json::objects")]
    instances: Option<Vec<Instance>>,
    #[serde(default, alias = "instanceKeys", deserialize_with = "json::objects")]
    instance_keys: Option<Vec<InstanceKey>>,
    token: Option<String>,
    channel: Option<String>,
    #[serde(default, borrow, deserialize_with = "json::raw")]
    payload: Option<&'a RawValue>,
    event: Option<String>,
    #[serde(default, borrow, deserialize_with = "json::raw")]
    metadata: Option<&'a RawValue>,
    echo: Option<bool>,
    room: Option<String>,
    content: Option<String>,
    message_type: Option<String>,
    #[serde(default, borrow, deserialize_with = "json::raw")]
    data: Option<&'a RawValue>,
    to_user_id: Option<String>,
}

impl Fields<'_> {
    fn family(&self) -> Family {
        if self.kind.is_none() && self.message_type.is_some() {
            Family::Envelope
        } else {
            Family::Typed
        }
    }
}

/// Reads one text message.
pub fn decode(payload: &[u8], topic_bytes_max: usize) -> Message {
    // A skipped field is not checked for its depth, so that is done here; a short text cannot be
    // deep enough to matter.
    if payload.len() > SHORT_BYTES && !json::is_shallow(payload) {
        let message = format!("the message nests deeper than {JSON_DEPTH_MAX} levels");
        return malformed(message);
    }
    match serde_json::from_slice::<Fields<'_>>(payload) {
        Ok(fields) if json::is_object(payload) => {
            let (id, family) = (fields.id.and_then(request_id), fields.family());
            Message { id, family, request: request(fields, topic_bytes_max) }
        }
        Ok(_) => not_an_object(),
        Err(fault) => diagnose(payload, &fault, topic_bytes_max),
    }
}

fn malformed(message: impl Into<std::borrow::Cow<'static, str>>) -> Message {
    let request = Err(Refusal::new(Code::Malformed, message));
    Message { id: None, family: Family::Typed, request }
}

fn not_an_object() -> Message {
    malformed("the message is JSON, but not an object")
}

/// Reads only the `id` and the family, for a message that is refused unread.
pub fn decode_id(payload: &[u8]) -> (Option<RequestId>, Family) {
    #[derive(Deserialize)]
    struct Only<'a> {
        #[serde(rename = "type", borrow)]
        kind: Option<&'a RawValue>,
        #[serde(borrow)]
        message_type: Option<&'a RawValue>,
        #[serde(borrow)]
        id: Option<&'a RawValue>,
    }
    let Ok(only) = serde_json::from_slice::<Only<'_>>(payload) else {
        // A field may merely stand twice, which the fast path refuses: the last one counts.
        let Ok(Value::Object(object)) = json::decode::<Value>(payload) else {
            return (None, Family::Typed);
        };
        return identify(&object);
    };
    let is_envelope = only.kind.is_none() && only.message_type.is_some();
    let family = if is_envelope { Family::Envelope } else { Family::Typed };
    (only.id.and_then(request_id), family)
}

/// The `id` and the family of a message that was read on the slow path.
fn identify(object: &serde_json::Map<String, Value>) -> (Option<RequestId>, Family) {
    let id = object.get("id").filter(|id| id.is_string() || id.is_number());
    let has_type = object.get("type").is_some_and(|kind| !kind.is_null());
    let is_envelope = !has_type && object.get("message_type").is_some_and(Value::is_string);
    let family = if is_envelope { Family::Envelope } else { Family::Typed };
    (id.map(|id| RequestId(id.to_string().into_boxed_str())), family)
}

/// A string or a number is an id; any other value is none.
fn request_id(raw: &RawValue) -> Option<RequestId> {
    let text = raw.get();
    // An id that other parsers could not read is not sent back: half a surrogate pair, 1e400.
    let is_id = match *text.as_bytes().first()? {
        b'"' => !text.contains('\\') || serde_json::from_str::<String>(text).is_ok(),
        b'-' | b'0'..=b'9' => text.parse().is_ok_and(f64::is_finite),
        _ => false,
    };
    is_id.then(|| RequestId(text.into()))
}

fn request(fields: Fields<'_>, topic_bytes_max: usize) -> Result<Request, Refusal> {
    let Some(kind) = fields.kind.as_deref() else {
        return envelope(fields);
    };
    match kind {
        "ping" => Ok(Request::Ping),
        "subscribe" if names_channel(&fields)? => subscribe_channel(fields, topic_bytes_max),
        "subscribe" => subscribe(fields, topic_bytes_max),
        "unsubscribe" if names_channel(&fields)? => {
            talk::channel(fields.channel, topic_bytes_max).map(Request::UnsubscribeChannel)
        }
        "unsubscribe" => Ok(Request::Unsubscribe(target(fields.service_id, topic_bytes_max)?)),
        "publish" => publish(fields, topic_bytes_max),
        "system" => system(&fields, topic_bytes_max),
        "join" => talk::room(fields.room.as_deref(), topic_bytes_max).map(Request::Join),
        "leave" => talk::room(fields.room.as_deref(), topic_bytes_max).map(Request::Leave),
        "chat" => {
            let room = fields.room.as_deref();
            let room = room.map(|room| talk::room(Some(room), topic_bytes_max)).transpose()?;
            let content = talk::content(fields.content, usize::MAX)?;
            Ok(Request::Chat { room, content })
        }
        "register" => {
            let sent = fields.instances.ok_or_else(|| Refusal::invalid("instances is missing"))?;
            Ok(Request::Register(check_all(sent, Instance::register).without_repeats()))
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

/// Whether a subscription is about a channel. It cannot be about a service as well.
fn names_channel(fields: &Fields<'_>) -> Result<bool, Refusal> {
    if fields.channel.is_some() && fields.service_id.is_some() {
        return Err(Refusal::invalid("service_id and channel are both given"));
    }
    Ok(fields.channel.is_some())
}

fn subscribe_channel(fields: Fields<'_>, topic_bytes_max: usize) -> Result<Request, Refusal> {
    let channel = talk::channel(fields.channel, topic_bytes_max)?;
    let since = match fields.since {
        None => None,
        Some(Place { epoch: Some(epoch), offset: Some(offset), .. }) => {
            Some(SinceOffset { epoch, offset })
        }
        Some(_) => return Err(Refusal::invalid("since is not an object with epoch and offset")),
    };
    Ok(Request::SubscribeChannel { channel, since })
}

fn publish(fields: Fields<'_>, topic_bytes_max: usize) -> Result<Request, Refusal> {
    let channel = talk::channel(fields.channel, topic_bytes_max)?;
    let publication = Publication::new(None, fields.payload, fields.event, fields.metadata)?;
    Ok(Request::Publish { channel, publication, echo: fields.echo.unwrap_or(true) })
}

/// The same requests in the form of `system`.
fn system(fields: &Fields<'_>, topic_bytes_max: usize) -> Result<Request, Refusal> {
    #[derive(Deserialize)]
    struct SystemCommand {
        command: Option<Value>,
        channel: Option<Value>,
    }
    let payload = fields.payload.ok_or_else(|| Refusal::invalid("payload is missing"))?;
    let command = (payload.get().starts_with('{'))
        .then(|| serde_json::from_str::<SystemCommand>(payload.get()).ok())
        .flatten()
        .ok_or_else(|| Refusal::invalid("payload is not an object"))?;
    let channel = || match &command.channel {
        Some(Value::String(name)) => talk::channel(Some(name.clone()), topic_bytes_max),
        Some(_) => Err(Refusal::invalid("channel is not a string")),
        None => Err(Refusal::invalid("channel is missing")),
    };
    match command.command.as_ref().and_then(Value::as_str) {
        Some("subscribe") => Ok(Request::SubscribeChannel { channel: channel()?, since: None }),
        Some("unsubscribe") => Ok(Request::UnsubscribeChannel(channel()?)),
        Some("list_channels") => Ok(Request::ListChannels),
        _ => Err(Refusal::invalid("command is not subscribe, unsubscribe or list_channels")),
    }
}

fn envelope(fields: Fields<'_>) -> Result<Request, Refusal> {
    match fields.message_type.as_deref() {
        None | Some("") => Err(Refusal::new(Code::UnknownType, "type is missing")),
        Some("ping") => Ok(Request::EnvelopePing),
        Some(_) => {
            let to = match fields.to_user_id {
                None => None,
                some => Some(talk::user("to_user_id", some)?),
            };
            if let Some(data) = fields.data {
                talk::object(data, "data")?;
            }
            Ok(Request::Envelope { envelope: Envelope::new(fields.message_type, fields.data)?, to })
        }
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
    let since = match fields.since {
        None => None,
        Some(Place { epoch: Some(epoch), revision: Some(revision), .. }) => {
            Some(Since { epoch, revision })
        }
        Some(_) => return Err(Refusal::invalid("since is not an object with epoch and revision")),
    };
    if target == Target::AllServices && fields.prefer.is_some() {
        return Err(Refusal::invalid("prefer goes with one service, not with \"*\""));
    }
    let prefer = fields.prefer.unwrap_or_default().checked().map_err(Refusal::invalid)?;
    let prefer = prefer.map(Box::new);
    Ok(Request::Subscribe(Subscribe { target, snapshot, since, prefer }))
}

fn target(service_id: Option<String>, topic_bytes_max: usize) -> Result<Target, Refusal> {
    let name = service_id.ok_or_else(|| Refusal::invalid("service_id is missing"))?;
    if name == "*" {
        return Ok(Target::AllServices);
    }
    talk::topic("service_id", &name, topic_bytes_max)?;
    Ok(Target::Service(ServiceName::of(&name)))
}

fn keys(fields: Fields<'_>) -> Result<Entries<InstanceKey, InstanceIdentity>, Refusal> {
    let sent = match (fields.instance_keys, fields.instances) {
        (Some(keys), _) => keys,
        (None, Some(instances)) => instances.iter().map(Instance::key).collect(),
        (None, None) => return Err(Refusal::invalid("instance_keys is missing")),
    };
    Ok(check_all(sent, InstanceKey::identity).deduplicated())
}

impl<Sent> Entries<Sent, InstanceIdentity> {
    /// The same with each instance named once, at its first place.
    #[must_use]
    pub fn deduplicated(mut self) -> Self {
        if self.accepted.len() < 2 {
            return self;
        }
        let mut named = HashSet::with_capacity(self.accepted.len());
        self.accepted.retain(|(_, identity)| named.insert(identity.clone()));
        self
    }
}

impl<Sent> Entries<Sent, Registration> {
    /// The same without registrations that repeat the previous one of the instance without a
    /// difference.
    #[must_use]
    pub fn without_repeats(mut self) -> Self {
        if self.accepted.len() < 2 {
            return self;
        }
        let mut said: HashMap<InstanceIdentity, Registration> = HashMap::new();
        self.accepted.retain(|(_, registration)| match said.get_mut(&registration.identity) {
            Some(before) if before == registration => false,
            Some(before) => {
                before.clone_from(registration);
                true
            }
            None => {
                said.insert(registration.identity.clone(), registration.clone());
                true
            }
        });
        self
    }
}

/// Checks each entry and keeps the good ones beside their checked form.
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

/// Reads entries one by one, so that one of a wrong type fails alone. `list` names the list in its
/// fault.
pub fn check_each<Sent: serde::de::DeserializeOwned + serde::Serialize, Checked>(
    list: &str,
    sent: Vec<Value>,
    check: impl Fn(&Sent) -> Result<Checked, String>,
) -> Entries<Sent, Checked> {
    let mut entries = Entries { accepted: Vec::with_capacity(sent.len()), rejected: Vec::new() };
    for (index, entry) in sent.into_iter().enumerate() {
        let read = fault::read_entry::<Sent>(&entry, || format!("{list}[{index}]"));
        let checked = read.and_then(|one| check(&one).map(|checked| (one, checked)));
        match checked {
            Ok(pair) => entries.accepted.push(pair),
            Err(message) => entries.rejected.push(Rejected { entry, message }),
        }
    }
    entries
}

/// The slow path, for a text that the fast one refused.
fn diagnose(payload: &[u8], fault: &serde_json::Error, topic_bytes_max: usize) -> Message {
    let mut object = match json::decode::<Value>(payload) {
        Ok(Value::Object(object)) => object,
        Ok(_) => return not_an_object(),
        Err(fault) => return malformed(format!("the message is not JSON: {fault}")),
    };
    let (id, family) = identify(&object);
    let request = match object.get("type") {
        Some(Value::String(kind)) => match kind.as_str() {
            "register" => entries_of(object.remove("instances"), "instances")
                .map(|sent| check_each("instances", sent, Instance::register).without_repeats())
                .map(Request::Register),
            "heartbeat" => keys_of(&mut object).map(Request::Heartbeat),
            "unregister" => keys_of(&mut object).map(Request::Unregister),
            "ping" => Ok(Request::Ping),
            known => match fields_of(known) {
                Some(fields) => read_again(&object, fields, fault, topic_bytes_max),
                None => Err(unknown_type(known)),
            },
        },
        _ if family == Family::Envelope => {
            read_again(&object, &["message_type", "data", "to_user_id"], fault, topic_bytes_max)
        }
        _ => Err(Refusal::new(Code::UnknownType, "type is missing or not a string")),
    };
    Message { id, family, request }
}

/// The fields that a message of this type uses; none if there is no such type.
fn fields_of(kind: &str) -> Option<&'static [&'static str]> {
    Some(match kind {
        "subscribe" | "unsubscribe" => {
            &["type", "service_id", "serviceId", "snapshot", "since", "prefer", "channel"]
        }
        "publish" => &["type", "channel", "payload", "event", "metadata", "echo"],
        "system" => &["type", "payload"],
        "join" | "leave" => &["type", "room"],
        "chat" => &["type", "room", "content"],
        "refresh" => &["type", "token"],
        _ => return None,
    })
}

/// A field may merely stand twice, which the fast path refuses: the last one counts. Only the
/// fields that the message uses are read again.
fn read_again(
    object: &serde_json::Map<String, Value>,
    fields: &[&str],
    first: &serde_json::Error,
    topic_bytes_max: usize,
) -> Result<Request, Refusal> {
    let mut kept = object.clone();
    kept.retain(|name, _| fields.contains(&name.as_str()));
    if kept.contains_key("service_id") {
        kept.remove("serviceId");
    }
    let text = serde_json::to_vec(&kept).unwrap_or_default();
    if let Ok(fields) = serde_json::from_slice::<Fields<'_>>(&text) {
        return request(fields, topic_bytes_max);
    }
    // The parser's own message would repeat the value, which may be a token in the wrong place.
    let (kind, column) = (first.classify(), first.column());
    tracing::trace!(?kind, column, "a field of the wrong type");
    Err(Refusal::invalid(match fault::explain::<Fields<'_>>(&text) {
        Fault::Field(words) | Fault::Syntax(words) => words,
        Fault::NotAnObject => String::from("the message is not an object"),
    }))
}

fn keys_of(
    object: &mut serde_json::Map<String, Value>,
) -> Result<Entries<InstanceKey, InstanceIdentity>, Refusal> {
    let given = ["instance_keys", "instanceKeys", "instances"]
        .into_iter()
        .find_map(|name| Some((name, object.remove(name).filter(|value| !value.is_null())?)));
    let (name, sent) = given.map_or(("instance_keys", None), |(name, sent)| (name, Some(sent)));
    Ok(check_each(name, entries_of(sent, name)?, InstanceKey::identity).deduplicated())
}

fn entries_of(value: Option<Value>, field: &str) -> Result<Vec<Value>, Refusal> {
    match value {
        Some(Value::Array(entries)) => Ok(entries),
        Some(Value::Null) | None => Err(Refusal::invalid(format!("{field} is missing"))),
        Some(other) => {
            let kind = fault::kind_of(&other);
            Err(Refusal::invalid(format!("{field}: expected an array, got {kind}")))
        }
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
            r#"{"type":"subscribe","channel":5}"#,
            r#"{"type":"subscribe","channel":"*"}"#,
            r#"{"type":"subscribe","channel":"c","service_id":"s"}"#,
            r#"{"type":"subscribe","channel":"c","since":{"epoch":"e","revision":1}}"#,
            r#"{"type":"subscribe","service_id":"s","since":{"epoch":"e","offset":1}}"#,
            r#"{"type":"publish","channel":"c"}"#,
            r#"{"type":"publish","payload":1}"#,
            r#"{"type":"publish","channel":"c","payload":1,"echo":"no"}"#,
            r#"{"type":"publish","channel":"c","payload":1,"metadata":[]}"#,
            r#"{"type":"system"}"#,
            r#"{"type":"system","payload":{"command":"dance"}}"#,
            r#"{"type":"system","payload":{"command":"subscribe"}}"#,
            r#"{"type":"join"}"#,
            r#"{"type":"join","room":""}"#,
            r#"{"type":"chat"}"#,
            r#"{"type":"chat","content":""}"#,
            r#"{"type":"chat","content":7}"#,
            r#"{"message_type":"text"}"#,
            r#"{"message_type":"text","data":"no object"}"#,
            r#"{"message_type":"user_left","data":{}}"#,
            r#"{"message_type":"text","data":{},"to_user_id":""}"#,
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
        let only_id = |text: &str| decode_id(text.as_bytes());
        let three = Some(RequestId("3".into()));
        assert_eq!(only_id(r#"{"id":3,"type":"x"}"#), (three.clone(), Family::Typed));
        assert_eq!(only_id(r#"{"id":3,"message_type":"x"}"#), (three, Family::Envelope));
        assert_eq!(only_id("nope"), (None, Family::Typed));
    }

    #[test]
    fn type_wins_over_message_type() {
        let both = decode(br#"{"type":"ping","message_type":"text","data":5}"#, 255);
        assert!(matches!(both.request, Ok(Request::Ping)) && both.family == Family::Typed);
        let envelope = decode(br#"{"type":null,"message_type":"text","data":{}}"#, 255);
        assert!(matches!(envelope.request, Ok(Request::Envelope { to: None, .. })));
        assert_eq!(envelope.family, Family::Envelope);
        let wrong = decode(br#"{"message_type":"text","data":{},"to_user_id":5,"id":"x"}"#, 255);
        assert_eq!((wrong.family, wrong.request.is_err()), (Family::Envelope, true));
    }

    #[test]
    fn a_channel_can_be_named_in_two_ways() {
        for text in [
            r#"{"type":"subscribe","channel":"c"}"#,
            r#"{"type":"system","payload":{"command":"subscribe","channel":"c"}}"#,
        ] {
            let Ok(Request::SubscribeChannel { channel, since: None }) =
                decode(text.as_bytes(), 255).request
            else {
                panic!("{text}");
            };
            assert_eq!(channel.as_str(), "c");
        }
        let null = decode(br#"{"type":"publish","channel":"c","payload":null}"#, 255);
        assert!(matches!(null.request, Ok(Request::Publish { echo: true, .. })));
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
