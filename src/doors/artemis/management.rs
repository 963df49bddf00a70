//! Management: the calls of Artemis' operators' tools.
//!
//! ```text
//! operate-instance, operate-server, zone/operate-zone-operations --> OperateTargets --> the log
//! *-operations, *-down, services, service                        --> reads of this node
//! ```
//!
//! # Promises
//!
//! * Business errors are a 200 with `responseStatus`, as in the rest of the dialect.
//! * Each row that stands has its operator, the token's user, the reason and both times. A caller's `token` is
//!   not kept: it is a secret.
//!
//! Imports `auth`, `http`, `id`, `limits`, `state` and `wire`. Imported by its module.

use hyper::body::Incoming;
use hyper::{Method, Request};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::auth::Scopes;
use crate::http::reply::{self, Problem, Reply};
use crate::http::{Query, RequestContext, answers, body, log};
use crate::id::{InstanceIdentity, ServiceName, UserId};
use crate::limits;
use crate::state::audit::Door;
use crate::state::management::operation::{
    DecidedBy, OperationFilter, OperationRow, Target, TargetKind,
};
use crate::state::registry::commands::{
    IsInstanceDown, ListInstances, OperateTargets, ReadOperations,
};
use crate::state::registry::listing::ServiceListing;
use crate::wire::instance::{Instance, check_name, check_optional_name, check_service_id};
use crate::wire::refusal::Code;

/// Bytes of a row in an answer beside its texts, at most.
const ROW_BYTES: usize = 384;

/// A call of management.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// Begin or complete an operation on an instance.
    OperateInstance,
    /// The same on a server.
    OperateServer,
    /// The same on zones.
    OperateZones,
    /// The operations on one target.
    Operations(TargetKind),
    /// All operations on targets of a kind.
    AllOperations(TargetKind),
    /// The operations on the zones that a filter names.
    ZoneOperationsList,
    /// Whether an instance is out of discovery.
    InstanceDown,
    /// Whether an operation stands on a server or a zone.
    TargetDown(TargetKind),
    /// All services with all instances, those out of discovery too.
    Services,
    /// One of them.
    Service,
}

impl Call {
    /// The call at a path without `.json`.
    pub(super) fn at(path: &str) -> Option<Call> {
        use TargetKind::{Instance, Server, Zone};
        Some(match path.strip_prefix("/api/management/")? {
            "operate-instance" => Call::OperateInstance,
            "operate-server" => Call::OperateServer,
            "zone/operate-zone-operations" => Call::OperateZones,
            "instance-operations" => Call::Operations(Instance),
            "server-operations" => Call::Operations(Server),
            "zone/get-zone-operations" => Call::Operations(Zone),
            "all-instance-operations" => Call::AllOperations(Instance),
            "all-server-operations" => Call::AllOperations(Server),
            "zone/get-all-zone-operations" => Call::AllOperations(Zone),
            "zone/get-zone-operations-list" => Call::ZoneOperationsList,
            "instance-down" => Call::InstanceDown,
            "server-down" => Call::TargetDown(Server),
            "zone/is-zone-down" => Call::TargetDown(Zone),
            "services" => Call::Services,
            "service" => Call::Service,
            _ => return None,
        })
    }

    pub(super) const fn methods(self) -> &'static str {
        match self {
            Call::AllOperations(_) | Call::Services => "GET, POST",
            _ => "POST",
        }
    }

    pub(super) const fn needs(self) -> Scopes {
        match self {
            Call::OperateInstance | Call::OperateServer | Call::OperateZones => {
                Scopes::REGISTRY_WRITE
            }
            _ => Scopes::REGISTRY_READ,
        }
    }
}

/// The names of a target. Which of them count depends on the call.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Key {
    #[serde(alias = "region_id")]
    region_id: Option<Box<str>>,
    #[serde(alias = "service_id")]
    service_id: Option<Box<str>>,
    #[serde(alias = "instance_id")]
    instance_id: Option<Box<str>>,
    #[serde(alias = "server_id")]
    server_id: Option<Box<str>>,
    #[serde(alias = "zone_id")]
    zone_id: Option<Box<str>>,
}

/// The body of every call. Which fields count depends on the call.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Body {
    #[serde(alias = "instance_key")]
    instance_key: Option<Key>,
    #[serde(alias = "server_key")]
    server_key: Option<Key>,
    #[serde(alias = "zone_key")]
    zone_key: Option<Key>,
    #[serde(alias = "zone_operations_list")]
    zone_operations_list: Option<Vec<ZoneOperations>>,
    instance: Option<Instance>,
    #[serde(flatten)]
    filter: Key,
    operation: Option<Box<str>>,
    #[serde(alias = "operation_complete")]
    operation_complete: Option<bool>,
    #[serde(alias = "operator_id")]
    operator_id: Option<Box<str>>,
    reason: Option<Box<str>>,
    extensions: Option<Box<str>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ZoneOperations {
    #[serde(alias = "zone_key")]
    zone_key: Option<Key>,
    operations: Option<Vec<Box<str>>>,
}

/// Answers a call. Its credentials are checked.
pub(super) async fn answer(
    context: &RequestContext,
    request: Request<Incoming>,
    call: Call,
) -> Result<Reply, Problem> {
    let body = match read(context, request).await? {
        Ok(body) => body,
        Err(refusal) => return Ok(refusal),
    };
    let answered = match call {
        Call::OperateInstance | Call::OperateServer | Call::OperateZones => {
            match operations(call, &body) {
                Ok(operations) => {
                    let is_complete = body.operation_complete.unwrap_or(false);
                    let text = Option::unwrap_or_default;
                    let (operator, reason) = (text(body.operator_id), text(body.reason));
                    match decided_by(context, operator, reason, text(body.extensions)) {
                        Ok(by) => {
                            let sent = OperateTargets { operations, is_complete, by };
                            return operate(context, sent).await;
                        }
                        Err(fault) => Err(fault),
                    }
                }
                Err(fault) => Err(fault),
            }
        }
        Call::Operations(kind) => match target(kind, key_of(kind, body)) {
            Ok(target) => return read_one(context, target).await,
            Err(fault) => Err(fault),
        },
        Call::AllOperations(kind) => {
            let region = body.filter.region_id.filter(|region| !region.is_empty());
            let filter = OperationFilter { region, ..OperationFilter::all(kind) };
            return read_many(context, filter, all_field(kind)).await;
        }
        Call::ZoneOperationsList => {
            let Key { region_id: region, service_id: service, zone_id: name, .. } = body.filter;
            let filter = OperationFilter { kind: TargetKind::Zone, region, service, name };
            return read_many(context, filter, "zoneOperationsList").await;
        }
        Call::InstanceDown => match body.instance.as_ref().map(|one| one.key().identity()) {
            None => Err(String::from("instance is missing")),
            Some(Err(fault)) => Err(fault),
            Some(Ok(identity)) => {
                let one = body.instance.unwrap_or_default();
                return instance_down(context, identity, one).await;
            }
        },
        Call::TargetDown(kind) => match target(kind, key_of(kind, body)) {
            Ok(target) => {
                let rows = context.ask(ReadOperations(OperationFilter::of(&target))).await?;
                return Ok(down(!rows.is_empty()));
            }
            Err(fault) => Err(fault),
        },
        Call::Services => return services(context).await,
        Call::Service => match body.filter.service_id.as_deref().map(check_service) {
            None => Err(String::from("serviceId is missing")),
            Some(Err(fault)) => Err(fault),
            Some(Ok(name)) => return service(context, &name).await,
        },
    };
    answered.or_else(|fault: String| Ok(reply::bad_request(&fault)))
}

/// The body of a call; that of a GET is its query.
async fn read(
    context: &RequestContext,
    request: Request<Incoming>,
) -> Result<Result<Body, Reply>, Problem> {
    if request.method() == Method::GET {
        let region_id = Query::of(request.uri()).get("regionId").map(String::into_boxed_str);
        let filter = Key { region_id, ..Key::default() };
        return Ok(Ok(Body { filter, ..Body::default() }));
    }
    if !context.has_body_left.get() {
        return Ok(Ok(Body::default()));
    }
    let text = body::read(context, request, context.app.limits.http_body_bytes_max).await?;
    body::artemis_object(&text)
}

/// The name of the list that answers a read of all operations.
const fn all_field(kind: TargetKind) -> &'static str {
    match kind {
        TargetKind::Instance => "allInstanceOperations",
        TargetKind::Server => "allServerOperations",
        TargetKind::Zone => "allZoneOperations",
        TargetKind::Group => "allGroupOperations",
    }
}

const fn key_field(kind: TargetKind) -> &'static str {
    match kind {
        TargetKind::Instance => "instanceKey",
        TargetKind::Server => "serverKey",
        TargetKind::Zone => "zoneKey",
        TargetKind::Group => "groupId",
    }
}

fn key_of(kind: TargetKind, body: Body) -> Option<Key> {
    match kind {
        TargetKind::Instance => body.instance_key,
        TargetKind::Server => body.server_key,
        TargetKind::Zone => body.zone_key,
        // The calls about groups are in `groups`.
        TargetKind::Group => None,
    }
}

/// Checks the names of a target.
fn target(kind: TargetKind, key: Option<Key>) -> Result<Target, String> {
    let key = key.ok_or_else(|| format!("{} is missing", key_field(kind)))?;
    let region = key.region_id.unwrap_or_default();
    check_optional_name("regionId", &region)?;
    let named = |field: &str, name: Option<Box<str>>| {
        let name = name.ok_or_else(|| format!("{field} is missing"))?;
        check_name(field, &name).map(|()| name)
    };
    let service = |name: Option<Box<str>>| {
        let name = named("serviceId", name)?;
        check_service_id(&name).map(|()| name)
    };
    Ok(match kind {
        TargetKind::Instance => Target::Instance {
            region,
            service: service(key.service_id)?,
            instance: named("instanceId", key.instance_id)?,
        },
        TargetKind::Server => Target::Server { region, server: named("serverId", key.server_id)? },
        TargetKind::Zone => Target::Zone {
            region,
            service: service(key.service_id)?,
            zone: named("zoneId", key.zone_id)?,
        },
        TargetKind::Group => return Err(String::from("a group has no key")),
    })
}

fn check_service(text: &str) -> Result<ServiceName, String> {
    check_service_id(text).map(|()| ServiceName::of(text))
}

type Operations = Vec<(Target, Box<str>)>;

/// The targets of a call with their operations.
fn operations(call: Call, body: &Body) -> Result<Operations, String> {
    let one = |kind, key: &Option<Key>| {
        let operation = body.operation.as_deref().ok_or("operation is missing")?;
        check_name("operation", operation)?;
        Ok(vec![(target(kind, key.as_ref().map(Key::copy))?, operation.into())])
    };
    match call {
        Call::OperateInstance => one(TargetKind::Instance, &body.instance_key),
        Call::OperateServer => one(TargetKind::Server, &body.server_key),
        _ => {
            let list = body.zone_operations_list.as_ref();
            let list = list.ok_or("zoneOperationsList is missing")?;
            let mut all = Operations::new();
            for zone in list {
                let target = target(TargetKind::Zone, zone.zone_key.as_ref().map(Key::copy))?;
                for operation in zone.operations.iter().flatten() {
                    check_name("operations", operation)?;
                    all.push((target.clone(), operation.clone()));
                }
                if all.len() > limits::COMMAND_ENTRIES_MAX {
                    return Err(String::from("zoneOperationsList has too many operations"));
                }
            }
            Ok(all)
        }
    }
}

impl Key {
    fn copy(&self) -> Key {
        Key {
            region_id: self.region_id.clone(),
            service_id: self.service_id.clone(),
            instance_id: self.instance_id.clone(),
            server_id: self.server_id.clone(),
            zone_id: self.zone_id.clone(),
        }
    }
}

/// Who decides, and why.
pub(super) fn decided_by(
    context: &RequestContext,
    operator_id: Box<str>,
    reason: Box<str>,
    extensions: Box<str>,
) -> Result<DecidedBy, String> {
    let by = DecidedBy { operator_id, user: context.user.get().cloned(), reason, extensions };
    check_optional_name("operatorId", &by.operator_id)?;
    let texts = [
        ("reason", &by.reason, limits::MANAGEMENT_REASON_BYTES_MAX),
        ("extensions", &by.extensions, limits::MANAGEMENT_EXTENSIONS_BYTES_MAX),
    ];
    for (field, text, bytes_max) in texts {
        if text.len() > bytes_max {
            return Err(format!("{field} is over {bytes_max} bytes"));
        }
        if text.contains('\0') {
            return Err(format!("{field} holds a NUL character"));
        }
    }
    Ok(by)
}

/// Begins or completes operations.
pub(super) async fn operate(
    context: &RequestContext,
    operate: OperateTargets,
) -> Result<Reply, Problem> {
    let (is_complete, operator_id) = (operate.is_complete, operate.by.operator_id.clone());
    let said = operate.operations.iter();
    let said: Vec<String> =
        said.map(|(target, operation)| format!("{target}: {operation}")).collect();
    let refused = context.ask_as(Door::Artemis, operate).await?;
    let action = if is_complete { "complete operation" } else { "begin operation" };
    let is_refused = |index| refused.iter().any(|one| one.index == index);
    for (index, on) in said.iter().enumerate() {
        if !is_refused(index) {
            log::operator(context, action, on, Some(&operator_id));
        }
    }
    if refused.is_empty() {
        return Ok(success());
    }
    let code = if refused[0].code == Code::NotFound { "data-not-found" } else { "rate-limited" };
    Ok(reply::json_value(&reply::failure(code, "there are too many operations, or no such group")))
}

/// The answer to a write.
pub(super) fn success() -> Reply {
    reply::json_value(&json!({"responseStatus": reply::success()}))
}

/// The rows of one target.
async fn read_one(context: &RequestContext, target: Target) -> Result<Reply, Problem> {
    let rows = context.ask(ReadOperations(OperationFilter::of(&target))).await?;
    let bytes = rows.iter().map(row_bytes).sum::<usize>() + 512;
    listed(context, bytes, move || {
        let operations = by_target(&rows).pop().unwrap_or_else(|| entry(&target, &[]));
        json!({"operations": operations, "responseStatus": reply::success()})
    })
    .await
}

/// The rows of all targets that a filter lets through, target by target.
async fn read_many(
    context: &RequestContext,
    filter: OperationFilter,
    field: &'static str,
) -> Result<Reply, Problem> {
    let rows = context.ask(ReadOperations(filter)).await?;
    let bytes = rows.iter().map(row_bytes).sum::<usize>() + 512;
    listed(
        context,
        bytes,
        move || json!({field: by_target(&rows), "responseStatus": reply::success()}),
    )
    .await
}

/// Answers with rows, when there is room for them: beside the shard's own thread if they are many.
pub(super) async fn listed(
    context: &RequestContext,
    bytes: usize,
    answer: impl FnOnce() -> Value + Send + 'static,
) -> Result<Reply, Problem> {
    let permit = context.answers.reserve(bytes)?;
    let is_long = bytes > limits::COPY_INLINE_BYTES_MAX;
    let text = body::beside(is_long, move || answer().to_string()).await?;
    Ok(reply::reserved("application/json", text.into(), permit))
}

/// Bytes that suffice for a row in an answer, with its target.
pub(super) fn row_bytes(row: &OperationRow) -> usize {
    let OperationRow { target, operation, by, .. } = row;
    let user = by.user.as_ref().map_or("", UserId::as_str);
    let names = [target.region(), target.service().unwrap_or_default(), target.name()];
    let texts = [operation, operation, &*by.operator_id, &*by.reason, &*by.extensions, user];
    let texts = names.into_iter().chain(texts);
    texts.map(answers::quoted_bytes).sum::<usize>() + ROW_BYTES
}

fn by_target(rows: &[OperationRow]) -> Vec<Value> {
    let mut targets: Vec<(String, Vec<&OperationRow>)> = Vec::new();
    let mut places = std::collections::HashMap::new();
    for row in rows {
        let key = row.target.to_string().to_ascii_lowercase();
        let place = *places.entry(key.clone()).or_insert(targets.len());
        if place == targets.len() {
            targets.push((key, Vec::new()));
        }
        targets[place].1.push(row);
    }
    targets.into_iter().map(|(_, rows)| entry(&rows[0].target, &rows)).collect()
}

/// A target with its operations, as Artemis has them, and the rows themselves.
fn entry(target: &Target, rows: &[&OperationRow]) -> Value {
    let key = target.fields();
    let operations: Vec<&str> = rows.iter().map(|row| &*row.operation).collect();
    let rows: Vec<Value> = rows.iter().map(|row| row_value(row)).collect();
    json!({key_field(target.kind()): key, "operations": operations, "rows": rows})
}

/// A row. A pull-out by fanfare's own call has no id and no times.
pub(super) fn row_value(row: &OperationRow) -> Value {
    let known = |number: u64| (number > 0).then_some(number);
    json!({
        "id": known(row.id),
        "operation": row.operation,
        "operatorId": row.by.operator_id,
        "userId": row.by.user.as_ref().map(UserId::as_str),
        "reason": row.by.reason,
        "extensions": row.by.extensions,
        "createTime": known(row.created_ms),
        "updateTime": known(row.updated_ms),
    })
}

async fn instance_down(
    context: &RequestContext,
    identity: InstanceIdentity,
    one: Instance,
) -> Result<Reply, Problem> {
    let asked = IsInstanceDown { identity, ip: one.ip, zone: one.zone_id, group: one.group_id };
    Ok(down(context.ask(asked).await?))
}

fn down(is_down: bool) -> Reply {
    reply::json_value(&json!({"down": is_down, "responseStatus": reply::success()}))
}

async fn services(context: &RequestContext) -> Result<Reply, Problem> {
    let listing = context.ask(ListInstances).await?;
    let bytes = listing.services.iter().map(|one| service_bytes(one)).sum::<usize>() + 256;
    let permit = context.answers.reserve(bytes)?;
    let is_long = bytes > limits::COPY_INLINE_BYTES_MAX;
    let text = body::beside(is_long, move || {
        let mut out = Vec::with_capacity(bytes);
        out.extend_from_slice(b"{\"services\":[");
        for (index, one) in listing.services.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            put_service(&mut out, one);
        }
        out.push(b']');
        out.extend_from_slice(reply::success_end().as_bytes());
        out
    })
    .await?;
    Ok(reply::reserved("application/json", text.into(), permit))
}

async fn service(context: &RequestContext, name: &ServiceName) -> Result<Reply, Problem> {
    let listing = context.ask(ListInstances).await?;
    let Some(one) = listing.services.iter().find(|one| one.service == *name) else {
        let empty = json!({"serviceId": name.as_str(), "metadata": {}, "instances": []});
        let answer = json!({"service": empty, "responseStatus": reply::success()});
        return Ok(reply::json_value(&answer));
    };
    let bytes = service_bytes(one) + 256;
    let permit = context.answers.reserve(bytes)?;
    let mut out = Vec::with_capacity(bytes);
    out.extend_from_slice(b"{\"service\":");
    put_service(&mut out, one);
    out.extend_from_slice(reply::success_end().as_bytes());
    Ok(reply::reserved("application/json", out.into(), permit))
}

/// Bytes that suffice for a service.
fn service_bytes(one: &ServiceListing) -> usize {
    let instances = one.instances.iter().map(|instance| instance.json.len() + 1);
    instances.sum::<usize>() + answers::quoted_bytes(one.service.as_str()) + 64
}

fn put_service(out: &mut Vec<u8>, one: &ServiceListing) {
    let name = Value::from(one.service.as_str()).to_string();
    out.extend_from_slice(
        format!("{{\"serviceId\":{name},\"metadata\":{{}},\"instances\":[").as_bytes(),
    );
    for (index, instance) in one.instances.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(&instance.json);
    }
    out.extend_from_slice(b"]}");
}
