//! The registry's writing calls, compatible with Ctrip Artemis.
//!
//! A batch is checked on the caller's side and then handed to control in pieces of at most
//! [`limits::COMMAND_ENTRIES_MAX`], each after the answer to the one before: ten thousand instances
//! in one request then share control with all other commands instead of holding it.
//!
//! Imports its siblings, `id`, `limits`, `state` and `wire`. Imported by `http::router`.

use std::fmt::Write as _;

use hyper::Request;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Value, json};

use super::reply::{self, Problem, Reply};
use super::{RequestContext, body, log};
use crate::id::{InstanceIdentity, ServiceName};
use crate::limits;
use crate::state::Ask;
use crate::state::audit::Door;
use crate::state::registry::commands::{
    Heartbeat, Operate, Operation, Protect, Register, Unregister,
};
use crate::state::registry::pull_outs::Operator;
use crate::state::registry::replies::RefusedEntry;
use crate::wire::command::{Entries, Rejected, check_all, check_each};
use crate::wire::fault;
use crate::wire::instance::{
    Instance, InstanceKey, Registration, check_optional_name, check_service_id,
};
use crate::wire::json;
use crate::wire::refusal::Code;

/// A body with instances or keys, read in one go.
#[derive(Deserialize)]
struct Typed {
    #[serde(default, deserialize_with = "json::objects")]
    instances: Option<Vec<Instance>>,
    #[serde(
        default,
        rename = "instanceKeys",
        alias = "instance_keys",
        deserialize_with = "json::objects"
    )]
    instance_keys: Option<Vec<InstanceKey>>,
}

/// The same, for a batch with an entry of a wrong type.
#[derive(Deserialize)]
struct Loose {
    #[serde(default)]
    instances: Option<Value>,
    #[serde(default, rename = "instanceKeys", alias = "instance_keys")]
    instance_keys: Option<Value>,
}

/// A fault of the whole request, in Artemis' terms.
struct BadRequest(String);

type Registrations = Entries<Instance, Registration>;
type Keys<Sent> = Entries<Sent, InstanceIdentity>;

fn array(value: Option<Value>, field: &str) -> Result<Vec<Value>, BadRequest> {
    match value {
        Some(Value::Array(entries)) => Ok(entries),
        Some(Value::Null) | None => Err(BadRequest(format!("{field} is missing"))),
        Some(other) => {
            let kind = fault::kind_of(&other);
            Err(BadRequest(format!("{field}: expected an array, got {kind}")))
        }
    }
}

fn read_registrations(
    text: &[u8],
    instance_bytes_max: usize,
) -> Result<Result<Registrations, BadRequest>, Problem> {
    check_count(text)?;
    let check = |sent: &Instance| sent.register()?.within(instance_bytes_max);
    if let Ok(Typed { instances: Some(sent), .. }) = json::decode::<Typed>(text) {
        return Ok(Ok(check_all(sent, check).without_repeats()));
    }
    let loose: Loose = body::object(text)?;
    let sent = array(loose.instances, "instances");
    Ok(sent.map(|sent| check_each("instances", sent, check).without_repeats()))
}

/// Refuses a batch of more entries than one request may have.
///
/// # Errors
///
/// 413.
fn check_count(text: &[u8]) -> Result<(), Problem> {
    if json::has_short_lists(text, limits::BATCH_ENTRIES_MAX) {
        return Ok(());
    }
    let detail = format!("the body has more than {} entries", limits::BATCH_ENTRIES_MAX);
    Err(Problem::new(413, Code::TooLarge, detail))
}

/// Instances and keys may both be given; their failures are listed apart.
struct Renewals {
    instances: Keys<Instance>,
    keys: Keys<InstanceKey>,
}

fn read_keys(text: &[u8]) -> Result<Result<Renewals, BadRequest>, Problem> {
    check_count(text)?;
    let instance_identity = |sent: &Instance| sent.key().identity();
    if let Ok(Typed { instances, instance_keys }) = json::decode::<Typed>(text)
        && (instances.is_some() || instance_keys.is_some())
    {
        return Ok(Ok(Renewals {
            instances: check_all(instances.unwrap_or_default(), instance_identity).deduplicated(),
            keys: check_all(instance_keys.unwrap_or_default(), InstanceKey::identity)
                .deduplicated(),
        }));
    }
    let loose: Loose = body::object(text)?;
    let given = |value: &Option<Value>| value.as_ref().is_some_and(|value| !value.is_null());
    if !given(&loose.instances) && !given(&loose.instance_keys) {
        return Ok(Err(BadRequest(String::from("instances or instanceKeys is missing"))));
    }
    let optional = |value: Option<Value>, field| match value {
        Some(value) if !value.is_null() => array(Some(value), field),
        _ => Ok(Vec::new()),
    };
    let instances = match optional(loose.instances, "instances") {
        Ok(sent) => check_each("instances", sent, instance_identity).deduplicated(),
        Err(fault) => return Ok(Err(fault)),
    };
    let keys = match optional(loose.instance_keys, "instanceKeys") {
        Ok(sent) => check_each("instanceKeys", sent, InstanceKey::identity).deduplicated(),
        Err(fault) => return Ok(Err(fault)),
    };
    Ok(Ok(Renewals { instances, keys }))
}

/// Reads registrations as `register` does; each accepted one can be written and read again.
#[cfg(any(test, fuzzing))]
pub(super) fn decode_registrations(text: &[u8]) {
    let instance_bytes_max = limits::Limits::DEFAULT.instance_bytes_max;
    let read = read_registrations(text, instance_bytes_max);
    let Ok(Ok(entries)) = read else { return };
    for (_, registration) in entries.accepted {
        let again: Instance = json::decode(&registration.json).expect("canonical JSON is JSON");
        let again = again.register().expect("what was accepted once is accepted again");
        assert_eq!(again.identity, registration.identity);
        assert_eq!(again.json, registration.json);
    }
}

/// Reads instance keys as `heartbeat` and `unregister` do.
#[cfg(any(test, fuzzing))]
pub(super) fn decode_keys(text: &[u8]) {
    if let Ok(Ok(renewals)) = read_keys(text) {
        assert!(renewals.instances.accepted.len() + renewals.keys.accepted.len() <= text.len());
    }
}

/// `register`
pub async fn register(
    context: &RequestContext,
    request: Request<Incoming>,
) -> Result<Reply, Problem> {
    let max = context.app.limits.http_registry_body_bytes_max;
    let instance_bytes_max = context.app.limits.instance_bytes_max;
    let text = body::read(context, request, max).await?;
    let read = move |text: &[u8]| read_registrations(text, instance_bytes_max);
    let entries = match body::decode_with(text, read).await? {
        Ok(entries) => entries,
        Err(fault) => return Ok(bad_request(&fault, &["failedInstances"])),
    };
    let (sent, registrations): (Vec<_>, Vec<_>) = entries.accepted.into_iter().unzip();
    let refused = in_pieces(context, registrations, Register).await?;
    let total = sent.len() + entries.rejected.len();
    let mut failed = Failures::of("instance", &entries.rejected);
    for entry in &refused {
        failed.add(
            "instance",
            &sent[entry.index],
            artemis_code(entry.code),
            "the registry is full",
        );
    }
    answer(context, total, &[("failedInstances", failed)])
}

/// `heartbeat`
pub async fn heartbeat(
    context: &RequestContext,
    request: Request<Incoming>,
) -> Result<Reply, Problem> {
    keys_call(context, request, Heartbeat).await
}

/// `unregister`
pub async fn unregister(
    context: &RequestContext,
    request: Request<Incoming>,
) -> Result<Reply, Problem> {
    keys_call(context, request, Unregister).await
}

async fn keys_call<Batch: Ask<Reply = Vec<RefusedEntry>>>(
    context: &RequestContext,
    request: Request<Incoming>,
    batch: fn(Vec<InstanceIdentity>) -> Batch,
) -> Result<Reply, Problem> {
    let max = context.app.limits.http_registry_body_bytes_max;
    let text = body::read(context, request, max).await?;
    let renewals = match body::decode_with(text, read_keys).await? {
        Ok(renewals) => renewals,
        Err(fault) => {
            return Ok(bad_request(&fault, &["failedInstances", "failedInstanceKeys"]));
        }
    };
    let (instances, keys) = (renewals.instances, renewals.keys);
    let total = instances.accepted.len()
        + instances.rejected.len()
        + keys.accepted.len()
        + keys.rejected.len();
    let failed_instances = keys_part(context, "instance", instances, batch).await?;
    let failed_keys = keys_part(context, "instanceKey", keys, batch).await?;
    let lists = [("failedInstances", failed_instances), ("failedInstanceKeys", failed_keys)];
    answer(context, total, &lists)
}

async fn keys_part<Sent: serde::Serialize, Batch: Ask<Reply = Vec<RefusedEntry>>>(
    context: &RequestContext,
    entry: &str,
    entries: Keys<Sent>,
    batch: fn(Vec<InstanceIdentity>) -> Batch,
) -> Result<Failures, Problem> {
    let (sent, identities): (Vec<_>, Vec<_>) = entries.accepted.into_iter().unzip();
    let refused = in_pieces(context, identities, batch).await?;
    let mut failed = Failures::of(entry, &entries.rejected);
    for one in &refused {
        failed.add(entry, &sent[one.index], artemis_code(one.code), "no such instance");
    }
    Ok(failed)
}

/// Hands a batch to control piece by piece. The positions of refused entries count over all pieces.
async fn in_pieces<Entry, Batch: Ask<Reply = Vec<RefusedEntry>>>(
    context: &RequestContext,
    mut entries: Vec<Entry>,
    batch: fn(Vec<Entry>) -> Batch,
) -> Result<Vec<RefusedEntry>, Problem> {
    let (mut refused, mut start) = (Vec::new(), 0);
    while !entries.is_empty() {
        let rest = entries.split_off(entries.len().min(limits::COMMAND_ENTRIES_MAX));
        let piece = std::mem::replace(&mut entries, rest);
        let count = piece.len();
        let part = context.ask_as(Door::Http, batch(piece)).await?;
        refused.extend(
            part.into_iter().map(|entry| RefusedEntry { index: start + entry.index, ..entry }),
        );
        start += count;
    }
    Ok(refused)
}

/// The failed entries of a list, written as they come: as values they would take many times the
/// memory.
#[derive(Default)]
struct Failures {
    text: String,
    count: usize,
    /// The code and the message of the first one.
    first: Option<(&'static str, String)>,
}

impl Failures {
    /// The entries that were refused before control saw them.
    fn of(name: &str, rejected: &[Rejected]) -> Failures {
        let mut failures = Failures::default();
        for one in rejected {
            failures.add(name, &one.entry, "bad-request", &one.message);
        }
        failures
    }

    fn add(
        &mut self,
        name: &str,
        entry: &impl serde::Serialize,
        code: &'static str,
        message: &str,
    ) {
        let comma = if self.count > 0 { "," } else { "" };
        // A value read from JSON can be written as JSON.
        let entry = serde_json::to_string(entry).unwrap_or_else(|_| String::from("null"));
        let quoted = Value::from(message);
        // Writing to a string does not fail.
        _ = write!(
            self.text,
            "{comma}{{\"{name}\":{entry},\"errorCode\":\"{code}\",\"errorMessage\":{quoted}}}"
        );
        self.count += 1;
        self.first.get_or_insert_with(|| (code, message.to_owned()));
    }
}

const fn artemis_code(code: Code) -> &'static str {
    match code {
        Code::NotFound => "data-not-found",
        Code::RateLimited => "rate-limited",
        Code::InvalidArgument => "bad-request",
        _ => "internal-service-error",
    }
}

/// The answer to a batch: its lists of failed entries, and its status.
fn answer(
    context: &RequestContext,
    total: usize,
    lists: &[(&str, Failures)],
) -> Result<Reply, Problem> {
    let status = outcome(total, lists).to_string();
    let parts = lists.iter().map(|(name, failed)| name.len() + failed.text.len() + 8);
    let bytes = parts.sum::<usize>() + status.len() + 32;
    let permit = context.answers.reserve(bytes)?;
    let mut out = String::with_capacity(bytes);
    for (index, (name, failed)) in lists.iter().enumerate() {
        let before = if index > 0 { ',' } else { '{' };
        // Writing to a string does not fail.
        _ = write!(out, "{before}\"{name}\":[{}]", failed.text);
    }
    _ = write!(out, ",\"responseStatus\":{status}}}");
    Ok(reply::reserved("application/json", out.into(), permit))
}

/// All failed, some, or none. The first failure gives the status its code.
fn outcome(total: usize, lists: &[(&str, Failures)]) -> Value {
    let count: usize = lists.iter().map(|(_, failed)| failed.count).sum();
    let Some((code, text)) = lists.iter().find_map(|(_, failed)| failed.first.as_ref()) else {
        return reply::success();
    };
    let status = if count == total { "fail" } else { "partial_fail" };
    let message = format!("{count} of {total} entries failed, the first one: {text}");
    reply::response_status(status, code, &message)
}

fn bad_request(fault: &BadRequest, lists: &[&str]) -> Reply {
    let mut value = reply::failure("bad-request", &fault.0);
    for &list in lists {
        value[list] = json!([]);
    }
    reply::json_value(&value)
}

/// `operate-instance`
pub async fn operate(
    context: &RequestContext,
    request: Request<Incoming>,
) -> Result<Reply, Problem> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct RequestBody {
        #[serde(default, alias = "instance_key", deserialize_with = "json::object")]
        instance_key: Option<InstanceKey>,
        operation: Option<String>,
        #[serde(alias = "operation_complete")]
        operation_complete: Option<bool>,
        #[serde(alias = "operator_id")]
        operator_id: Option<String>,
    }
    let text = body::read(context, request, context.app.limits.http_body_bytes_max).await?;
    let fields: RequestBody = match body::artemis_object(&text)? {
        Ok(fields) => fields,
        Err(reply) => return Ok(reply),
    };
    let fail = |message: &str| Ok(reply::bad_request(message));
    let Some(key) = fields.instance_key else { return fail("instanceKey is missing") };
    let identity = match key.identity() {
        Ok(identity) => identity,
        Err(fault) => return fail(&fault),
    };
    let operator_id = fields.operator_id.unwrap_or_default();
    if let Err(fault) = check_optional_name("operatorId", &operator_id) {
        return fail(&fault);
    }
    let is_complete = fields.operation_complete.unwrap_or(false);
    let operation = match fields.operation.as_deref() {
        Some("pull-in" | "pullin" | "pull_in") => Operation::PullIn,
        Some("pull-out" | "pullout" | "pull_out") if is_complete => Operation::PullIn,
        Some("pull-out" | "pullout" | "pull_out") => {
            Operation::PullOut { operator: operator(context, &operator_id) }
        }
        _ => return fail("operation is not pull-out or pull-in"),
    };
    let (action, on) = (action(&operation), identity.to_string());
    let is_found = context.ask_as(Door::Http, Operate { identity, operation }).await?;
    if is_found {
        log::operator(context, action, &on, Some(&operator_id));
    }
    Ok(found(is_found, "no such instance"))
}

/// The operator: the user of the request's token, and the name that the caller gives beside it.
pub(crate) fn operator(context: &RequestContext, operator_id: &str) -> Operator {
    Operator { user: context.user.get().cloned(), name: operator_id.into() }
}

/// The word for an operation in the log.
pub(crate) const fn action(operation: &Operation) -> &'static str {
    match operation {
        Operation::PullOut { .. } => "pull-out",
        Operation::PullIn => "pull-in",
    }
}

/// `self-protection` of a service
pub async fn protect(
    context: &RequestContext,
    request: Request<Incoming>,
    encoded: &str,
) -> Result<Reply, Problem> {
    #[derive(Deserialize)]
    struct RequestBody {
        enabled: Option<bool>,
    }
    let text = body::read(context, request, context.app.limits.http_body_bytes_max).await?;
    let fields: RequestBody = body::object(&text)?;
    let Some(enabled) = fields.enabled else {
        return Err(Problem::invalid("enabled is missing"));
    };
    let name = super::decoded(encoded);
    if let Err(fault) = check_service_id(&name) {
        return Err(Problem::invalid(fault));
    }
    let service = ServiceName::of(&name);
    let is_found =
        context.ask_as(Door::Http, Protect { service: service.clone(), enabled }).await?;
    if is_found {
        let action = if enabled { "allow self-protection" } else { "lift self-protection" };
        log::operator(context, action, service.as_str(), None);
    }
    Ok(found(is_found, "no such service"))
}

fn found(is_found: bool, otherwise: &str) -> Reply {
    if is_found {
        reply::json_value(&json!({"responseStatus": reply::success()}))
    } else {
        reply::json_value(&reply::failure("data-not-found", otherwise))
    }
}
