//! Eureka's REST calls, so that its clients register and discover here without a changed line.
//!
//! ```text
//! body --> read --> EurekaRegistration --> our Instance ----> control: the one registry
//!                                                                     |
//! client <-- write <-- EurekaInstance <-- response_cache <------------+
//! ```
//!
//! There is one registry: Eureka's clients and all others discover each other's registrations.
//! docs/eureka.md has the table of fields and the differences.
//!
//! # Promises
//!
//! * A client that was told of a success sees its effect in the next answer.
//! * A registration never replaces a later one of the same client.
//! * A refusal is a plain text: Eureka's clients write it to their log and read its status only.
//!
//! Imports `auth`, `http`, `id`, `limits`, `state` and `wire`. Imported by `doors` and `fuzzing`.

mod credentials;
mod gzip;
mod model;
mod read;
mod response_cache;
mod write;

use std::borrow::Cow;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, VARY};
use hyper::{Method, Request, StatusCode};

use crate::auth::Identity;
use crate::http::dialect::{Answering, Dialect};
use crate::http::reply::{self, Problem, Reply};
use crate::http::{Query, RequestContext, body, decoded, log, pages, registry};
use crate::id::ServiceName;
use crate::limits;
use crate::state::audit::Door;
use crate::state::registry::commands::{
    FindInstance, Heartbeat, Operate, Operation, PutInstance, RenewInstance, Unregister,
};
use crate::state::registry::listing::Step;
use crate::state::registry::pull_outs::Pull;
use crate::state::registry::replies::FoundInstance;
use crate::state::registry::replies::PutReply;
use crate::wire::instance::{Instance, Registration};
use crate::wire::refusal::{Code, Refusal};
use credentials::LoginLocks;
use model::{AfterOverride, EurekaInstance, EurekaRegistration, EurekaStatus};
use response_cache::{Encoded, Encoding, Kind, ResponseCache};
use write::Format;

/// The Eureka door. All shards share it.
#[derive(Debug, Default)]
pub struct Eureka {
    response_cache: ResponseCache,
    login_locks: LoginLocks,
}

/// A resource of Eureka's API, with its path parameters decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Resource {
    All,
    Delta,
    App(String),
    Instance(String, String),
    Status(String, String),
    Metadata(String, String),
    Anywhere(String),
    Vip(String),
    SecureVip(String),
}

impl Dialect for Eureka {
    fn below<'a>(&self, path: &'a str) -> Option<&'a str> {
        below(path)
    }

    fn methods(&self, rest: &str) -> Option<&'static str> {
        Resource::at(rest).map(|resource| resource.methods())
    }

    fn answer<'a>(
        &'a self,
        context: &'a RequestContext,
        request: Request<Incoming>,
        rest: &'a str,
    ) -> Answering<'a> {
        Box::pin(async move {
            let answered = dispatch(context, self, request, rest).await;
            answered.map_err(|problem| Problem { is_text: true, ..problem })
        })
    }
}

/// The part of a path below the mount point, `/eureka` or `/eureka/v2`.
fn below(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("/eureka")?;
    let rest = rest.strip_prefix("/v2").filter(|rest| is_end(rest)).unwrap_or(rest);
    is_end(rest).then_some(rest)
}

fn is_end(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with('/')
}

impl Resource {
    /// The resource at a path. Trailing and double slashes are ignored.
    fn at(rest: &str) -> Option<Resource> {
        let parts: Vec<String> = rest
            .split('/')
            .filter(|part| !part.is_empty())
            .map(|part| decoded(part).into_owned())
            .collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let own = |text: &str| text.to_owned();
        Some(match *parts {
            ["apps"] => Resource::All,
            ["apps", "delta"] => Resource::Delta,
            ["apps", app] => Resource::App(own(app)),
            ["apps", app, id] => Resource::Instance(own(app), own(id)),
            ["apps", app, id, "status"] => Resource::Status(own(app), own(id)),
            ["apps", app, id, "metadata"] => Resource::Metadata(own(app), own(id)),
            ["instances", id] => Resource::Anywhere(own(id)),
            ["vips", vip] => Resource::Vip(own(vip)),
            ["svips", vip] => Resource::SecureVip(own(vip)),
            _ => return None,
        })
    }

    const fn methods(&self) -> &'static str {
        match self {
            Resource::All | Resource::Anywhere(_) | Resource::Vip(_) | Resource::SecureVip(_) => {
                "GET, HEAD"
            }
            Resource::Delta | Resource::App(_) => "GET, HEAD, POST",
            Resource::Instance(..) => "GET, HEAD, PUT, DELETE",
            Resource::Status(..) => "PUT, DELETE",
            Resource::Metadata(..) => "PUT",
        }
    }
}

fn not_found() -> Problem {
    Problem::new(404, Code::NotFound, "")
}

fn wrong(detail: impl Into<Cow<'static, str>>) -> Problem {
    Problem::invalid(detail)
}

async fn dispatch(
    context: &RequestContext,
    eureka: &Eureka,
    request: Request<Incoming>,
    rest: &str,
) -> Result<Reply, Problem> {
    let resource = Resource::at(rest).ok_or_else(not_found)?;
    let method = request.method().clone();
    if !resource.methods().split(", ").any(|allowed| allowed == method.as_str()) {
        return Err(Problem::method(resource.methods()));
    }
    let is_read = matches!(method, Method::GET | Method::HEAD);
    let who =
        credentials::authorize(context, &eureka.login_locks, request.headers(), !is_read).await?;
    if is_read {
        return read(context, eureka, resource, encoding_of(request.headers())).await;
    }
    let query = Query::of(request.uri());
    match resource {
        Resource::Delta => register(context, request, "delta").await,
        Resource::App(app) => register(context, request, &app).await,
        Resource::Instance(app, id) if method == Method::PUT => {
            renew(context, &app, &id, &query).await
        }
        Resource::Instance(app, id) => cancel(context, &app, &id).await,
        Resource::Status(app, id) => {
            let status = query
                .get("value")
                .map(|value| EurekaStatus::read(&value).ok_or_else(|| wrong("value is no status")));
            match (status.transpose()?, method == Method::PUT) {
                (Some(status), true) => set_status(context, &app, &id, status, who.as_ref()).await,
                (None, true) => Err(wrong("value is missing")),
                (_, false) => end_override(context, &app, &id).await,
            }
        }
        Resource::Metadata(app, id) => add_metadata(context, &app, &id, query.pairs()).await,
        _ => Err(not_found()),
    }
}

/// JSON if the client accepts it, otherwise XML: some clients read only XML and send no `Accept`.
fn encoding_of(headers: &HeaderMap) -> Encoding {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut accepted = accepted.map(str::to_ascii_lowercase);
    let is_json = accepted.any(|value| value.contains("json"));
    Encoding {
        format: if is_json { Format::Json } else { Format::Xml },
        is_gzip: pages::takes(headers, "gzip"),
    }
}

fn found(encoding: Encoding, (bytes, permit): Encoded) -> Reply {
    let kind = match encoding.format {
        Format::Json => "application/json",
        Format::Xml => "application/xml",
    };
    let mut reply = match permit {
        Some(permit) => reply::reserved(kind, bytes, permit),
        None => reply::cached(kind, bytes),
    };
    let headers = reply.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("accept, accept-encoding"));
    if encoding.is_gzip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    reply
}

// --- Reading -------------------------------------------------------------------------------------

async fn read(
    context: &RequestContext,
    eureka: &Eureka,
    resource: Resource,
    encoding: Encoding,
) -> Result<Reply, Problem> {
    if context.is_draining() && matches!(resource, Resource::All | Resource::Delta) {
        // Eureka's own answer: the client keeps its copy and asks again.
        return Err(Problem::new(403, Code::Unavailable, "the server is stopping"));
    }
    let cache = &eureka.response_cache;
    let alone = |bytes: Bytes| -> Result<Encoded, Problem> {
        let permit = context.answers.reserve(bytes.len())?;
        Ok((bytes, Some(permit)))
    };
    let made = match resource {
        Resource::All => Some(cache.listed(context, Kind::Whole, encoding).await?),
        Resource::Delta => Some(cache.listed(context, Kind::Delta, encoding).await?),
        Resource::App(app) => {
            cache.application(context, encoding, app.to_ascii_lowercase()).await?
        }
        Resource::Anywhere(id) => {
            cache.instance(context, encoding, id).await?.map(alone).transpose()?
        }
        Resource::Vip(vip) => cache.vip(context, encoding, vip, false).await?,
        Resource::SecureVip(vip) => cache.vip(context, encoding, vip, true).await?,
        Resource::Instance(app, id) => {
            let found = find(context, &app, &id, false).await?.map(|found| {
                let mut text = String::new();
                let instance = EurekaInstance::of(&found.instance);
                let action = model::action(Step::Added);
                write::put_instance(&mut text, encoding.format, &instance, action);
                encoding.of(response_cache::wrap_instance(encoding.format, &text))
            });
            found.map(alone).transpose()?
        }
        Resource::Status(..) | Resource::Metadata(..) => None,
    };
    made.map(|made| found(encoding, made)).ok_or_else(not_found)
}

/// An instance of any region. Renews its lease if `renews` says so.
async fn find(
    context: &RequestContext,
    app: &str,
    id: &str,
    renews: bool,
) -> Result<Option<FoundInstance>, Problem> {
    if app.len() > limits::NAME_BYTES_MAX || id.len() > limits::NAME_BYTES_MAX {
        return Ok(None);
    }
    let find = FindInstance { service: ServiceName::of(app), instance: id.into() };
    let found =
        if renews { context.ask(RenewInstance(find)).await } else { context.ask(find).await };
    Ok(found?)
}

// --- Writing -------------------------------------------------------------------------------------

fn done() -> Reply {
    let mut reply = reply::no_content();
    *reply.status_mut() = StatusCode::OK;
    reply
}

/// The format of a body by its declared type. Without a type it is refused: a page of any origin
/// may send a body as plain text or as a form, and only as these (Fetch, 2.2.2).
fn language_of(headers: &HeaderMap) -> Option<Format> {
    let kind = headers.get(CONTENT_TYPE)?.to_str().ok()?.to_ascii_lowercase();
    match kind.split(';').next().unwrap_or_default().trim() {
        "application/json" => Some(Format::Json),
        "application/xml" | "text/xml" => Some(Format::Xml),
        other => match other.strip_prefix("application/")?.rsplit_once('+')?.1 {
            "json" => Some(Format::Json),
            "xml" => Some(Format::Xml),
            _ => None,
        },
    }
}

/// `POST /apps/{app}`
async fn register(
    context: &RequestContext,
    request: Request<Incoming>,
    app: &str,
) -> Result<Reply, Problem> {
    let Some(format) = language_of(request.headers()) else {
        let detail = "the body's Content-Type is neither application/json nor application/xml";
        return Err(Problem::new(415, Code::InvalidArgument, detail).closing());
    };
    let bytes_max = context.app.limits.http_body_bytes_max;
    let text = body::read_any(context, request, bytes_max).await?;
    let is_xml = format == Format::Xml;
    let app = app.to_owned();
    let is_long = text.len() > limits::DECODE_INLINE_BYTES_MAX;
    let sent = body::beside(is_long, move || read::registration(&text, is_xml, &app)).await?;
    let sent = sent.map_err(wrong)?;
    let before = find(context, &sent.app, &sent.instance_id, false).await?;
    change(context, before, |before| Ok(Some(step(&sent, before)))).await?;
    Ok(reply::no_content())
}

/// Reads a registration. The registry accepts an instance made from it, and both formats can
/// express it.
#[cfg(any(test, fuzzing))]
pub(crate) fn decode_registration(text: &[u8], is_xml: bool) {
    let Ok(sent) = read::registration(text, is_xml, "app") else { return };
    let Ok(registration) = sent.instance(None).register() else { return };
    assert!(crate::wire::json::is_readable(&String::from_utf8_lossy(&registration.json)));
}

/// The effect of a request on an instance.
enum Change {
    /// Replaces it.
    Replace(Box<Instance>, Pull),
    /// Renews its lease only.
    Keep,
}

/// The effect of a registration on the instance that is registered already.
fn step(sent: &EurekaRegistration, before: Option<&FoundInstance>) -> Change {
    let newest_ms = before.and_then(|found| model::dirty_ms(&found.instance.json));
    if let (Some(newest_ms), Some(dirty_ms)) = (newest_ms, sent.dirty_ms)
        && newest_ms > dirty_ms
    {
        return Change::Keep;
    }
    let region = before.and_then(|found| {
        let before: Instance = serde_json::from_slice(&found.instance.json).ok()?;
        before.region_id
    });
    let pull = if sent.is_out() { Pull::OutItself } else { Pull::InIfItself };
    Change::Replace(Box::new(sent.instance(region)), pull)
}

/// Changes an instance by compare and swap: `decide` is called again if the instance changed meanwhile.
async fn change(
    context: &RequestContext,
    mut before: Option<FoundInstance>,
    decide: impl Fn(Option<&FoundInstance>) -> Result<Option<Change>, Problem>,
) -> Result<(), Problem> {
    for _ in 0..limits::EUREKA_ATTEMPTS_MAX {
        let (instance, pull) = match decide(before.as_ref())? {
            None => return Err(not_found()),
            Some(Change::Replace(instance, pull)) => (instance, pull),
            Some(Change::Keep) => match before {
                Some(found) => {
                    context.ask(Heartbeat(vec![found.identity])).await?;
                    return Ok(());
                }
                None => return Err(not_found()),
            },
        };
        let registration: Registration = instance.register().map_err(wrong)?;
        let expected = before.map(|found| found.instance.json);
        // The bound also holds for metadata that is added bit by bit. An instance that was registered
        // before the bound was lowered may keep its size.
        let stands = expected.as_ref().map_or(0, Bytes::len);
        let bytes_max = context.app.limits.instance_bytes_max.max(stands);
        let too_large = |fault| Problem::new(413, Code::TooLarge, fault);
        let registration = registration.within(bytes_max).map_err(too_large)?;
        match context.ask_as(Door::Eureka, PutInstance { registration, expected, pull }).await? {
            PutReply::Done => return Ok(()),
            PutReply::Refused(code) => {
                let problem = Problem::new(code.http_status(), code, "there is no room for more");
                return Err(problem);
            }
            PutReply::Conflict(found) => before = found,
        }
    }
    // Other writers were faster each time.
    Err(Refusal::unavailable().into())
}

/// `PUT /apps/{app}/{id}`
async fn renew(
    context: &RequestContext,
    app: &str,
    id: &str,
    query: &Query,
) -> Result<Reply, Problem> {
    let found = find(context, app, id, true).await?.ok_or_else(not_found)?;
    let theirs_ms = query.get("lastDirtyTimestamp").and_then(|text| text.parse::<u64>().ok());
    if let Some(theirs_ms) = theirs_ms {
        let entry = &found.instance;
        let ours_ms = model::dirty_ms(&entry.json).unwrap_or(entry.changed_ms);
        if theirs_ms > ours_ms {
            // The client's copy is newer. A 404 makes it register again.
            return Err(not_found());
        }
    }
    Ok(done())
}

/// `DELETE /apps/{app}/{id}`
async fn cancel(context: &RequestContext, app: &str, id: &str) -> Result<Reply, Problem> {
    let found = find(context, app, id, false).await?.ok_or_else(not_found)?;
    context.ask_as(Door::Eureka, Unregister(vec![found.identity])).await?;
    Ok(done())
}

/// `PUT /apps/{app}/{id}/status`
async fn set_status(
    context: &RequestContext,
    app: &str,
    id: &str,
    status: EurekaStatus,
    who: Option<&Identity>,
) -> Result<Reply, Problem> {
    let before = find(context, app, id, true).await?.ok_or_else(not_found)?;
    if status == EurekaStatus::OutOfService {
        let said = who.map_or("eureka", Identity::display_name);
        let operator = registry::operator(context, said);
        operate(context, before, Operation::PullOut { operator }).await?;
    } else {
        change(context, Some(before), |found| {
            let instance = instance_of(found)?;
            Ok(instance
                .map(|one| Change::Replace(Box::new(model::with_override(one, status)), Pull::In)))
        })
        .await?;
        log::operator(context, "override status", &format!("{app}/{id}"), Some("eureka"));
    }
    Ok(done())
}

/// `DELETE /apps/{app}/{id}/status`: ends an override, so that the status that the instance reports
/// holds again. The status in the query is ignored: it is for servers that forget the reported one.
async fn end_override(context: &RequestContext, app: &str, id: &str) -> Result<Reply, Problem> {
    let mut before = find(context, app, id, true).await?.ok_or_else(not_found)?;
    let reported = instance_of(Some(&before))?.map(model::without_override);
    if before.instance.is_pulled_out && !matches!(reported, Some(AfterOverride::Status(_))) {
        // An operator pulled it out. The instance may have reported itself as out, too.
        operate(context, before, Operation::PullIn).await?;
        before = find(context, app, id, false).await?.ok_or_else(not_found)?;
    }
    if !matches!(reported, Some(AfterOverride::Same)) {
        change(context, Some(before), |found| {
            Ok(instance_of(found)?.map(|one| match model::without_override(one) {
                AfterOverride::Same => Change::Keep,
                AfterOverride::Status(instance) => Change::Replace(instance, Pull::In),
                AfterOverride::Out(instance) => Change::Replace(instance, Pull::OutItself),
            }))
        })
        .await?;
        log::operator(context, "end status override", &format!("{app}/{id}"), Some("eureka"));
    }
    Ok(done())
}

/// Pulls an instance out of discovery, or in.
async fn operate(
    context: &RequestContext,
    found: FoundInstance,
    operation: Operation,
) -> Result<(), Problem> {
    let (action, on) = (registry::action(&operation), found.identity.to_string());
    if !context.ask_as(Door::Eureka, Operate { identity: found.identity, operation }).await? {
        return Err(not_found());
    }
    log::operator(context, action, &on, Some("eureka"));
    Ok(())
}

/// `PUT /apps/{app}/{id}/metadata`
async fn add_metadata(
    context: &RequestContext,
    app: &str,
    id: &str,
    pairs: Vec<(String, String)>,
) -> Result<Reply, Problem> {
    let before = find(context, app, id, false).await?.ok_or_else(not_found)?;
    change(context, Some(before), |found| {
        let instance = instance_of(found)?;
        Ok(instance.map(|one| {
            Change::Replace(Box::new(model::with_metadata(one, pairs.clone())), Pull::Keep)
        }))
    })
    .await?;
    Ok(done())
}

/// The decoded instance. None if it is gone.
fn instance_of(found: Option<&FoundInstance>) -> Result<Option<Instance>, Problem> {
    let Some(found) = found else { return Ok(None) };
    let instance = serde_json::from_slice(&found.instance.json);
    instance.map(Some).map_err(|_| Refusal::internal().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_somewhere_under_both_mounts() {
        let at = |path: &str| below(path).and_then(Resource::at);
        let own = |text: &str| text.to_owned();
        for (path, resource) in [
            ("/eureka/apps", Some(Resource::All)),
            ("/eureka/v2/apps/", Some(Resource::All)),
            ("/eureka//apps//", Some(Resource::All)),
            ("/eureka/v2/apps/delta", Some(Resource::Delta)),
            ("/eureka/apps/v2", Some(Resource::App(own("v2")))),
            (
                "/eureka/apps/A/10.0.0.9%3Apy-app%3A9090",
                Some(Resource::Instance(own("A"), own("10.0.0.9:py-app:9090"))),
            ),
            ("/eureka/apps/a%2Fb/i/status/", Some(Resource::Status(own("a/b"), own("i")))),
            ("/eureka/v2/instances/i", Some(Resource::Anywhere(own("i")))),
            ("/eureka/svips/v", Some(Resource::SecureVip(own("v")))),
            ("/eureka", None),
            ("/eureka/v2", None),
            ("/eurekas/apps", None),
            ("/eureka/v22/apps", None),
            ("/eureka/apps/a/b/c", None),
        ] {
            assert_eq!(at(path), resource, "{path}");
        }
    }
}
