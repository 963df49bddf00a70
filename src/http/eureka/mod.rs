//! Eureka's REST calls, so that its clients register and discover here without a changed line.
//!
//! ```text
//! body --> read --> Sent --> our Instance --> control: the one registry
//!                                                |
//! client <-- write <-- Shown <-- shelf <---------+
//! ```
//!
//! There is one registry: what is registered here is discovered by everyone, and what anyone
//! registers is shown here. docs/eureka.md says what becomes of what.
//!
//! # Promises
//!
//! * Whoever has been told that something is done finds it done in the next answer.
//! * A registration never replaces one that the client itself made later.
//! * Refusals are plain texts, as Eureka's clients log them; none of them is read by a program.
//!
//! Imports its siblings and everything below `http`. Imported by `http::router`; `server` makes the
//! [`Eureka`].

mod doors;
mod model;
mod pack;
mod read;
mod shelf;
mod write;

use std::borrow::Cow;
use std::io::Read as _;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT, ALLOW, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, VARY,
};
use hyper::{Method, Request, StatusCode};

use super::reply::{self, Problem, Reply};
use super::{Desk, Query, body, decoded, log, pages, registry};
use crate::auth::Identity;
use crate::id::ServiceName;
use crate::limits;
use crate::state::order::{Answer, Operation, Order};
use crate::state::roster::{Called, Found, Pull, Put, Roll, Step};
use crate::wire::instance::{Instance, Registration};
use crate::wire::refusal::{Code, Refusal};
use doors::Doors;
use model::{Reported, Sent, Shown, Word};
use shelf::{Form, Made, Shelf};
use write::Language;

/// What all shards share to serve Eureka's clients.
#[derive(Debug, Default)]
pub struct Eureka {
    shelf: Shelf,
    doors: Doors,
}

/// What the paths lead to, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
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

/// The part of a path below where Eureka's calls are; none where it does not lead there.
pub fn below(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("/eureka")?;
    let rest = rest.strip_prefix("/v2").filter(|rest| is_end(rest)).unwrap_or(rest);
    is_end(rest).then_some(rest)
}

/// The methods of what stands at `rest` below Eureka's mount.
pub fn methods(rest: &str) -> Option<&'static str> {
    Place::at(rest).map(|place| place.methods())
}

fn is_end(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with('/')
}

impl Place {
    /// The place at a path. Slashes at its end and double ones say nothing.
    fn at(rest: &str) -> Option<Place> {
        let parts: Vec<String> = rest
            .split('/')
            .filter(|part| !part.is_empty())
            .map(|part| decoded(part).into_owned())
            .collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let own = |text: &str| text.to_owned();
        Some(match *parts {
            ["apps"] => Place::All,
            ["apps", "delta"] => Place::Delta,
            ["apps", app] => Place::App(own(app)),
            ["apps", app, id] => Place::Instance(own(app), own(id)),
            ["apps", app, id, "status"] => Place::Status(own(app), own(id)),
            ["apps", app, id, "metadata"] => Place::Metadata(own(app), own(id)),
            ["instances", id] => Place::Anywhere(own(id)),
            ["vips", vip] => Place::Vip(own(vip)),
            ["svips", vip] => Place::SecureVip(own(vip)),
            _ => return None,
        })
    }

    const fn methods(&self) -> &'static str {
        match self {
            Place::All | Place::Anywhere(_) | Place::Vip(_) | Place::SecureVip(_) => "GET, HEAD",
            Place::Delta | Place::App(_) => "GET, HEAD, POST",
            Place::Instance(..) => "GET, HEAD, PUT, DELETE",
            Place::Status(..) => "PUT, DELETE",
            Place::Metadata(..) => "PUT",
        }
    }
}

/// Answers a request to what stands at `rest` below Eureka's mount.
///
/// # Errors
///
/// What becomes of it with [`plain`].
pub async fn answer(
    desk: &Desk,
    eureka: &Eureka,
    request: Request<Incoming>,
    rest: &str,
) -> Result<Reply, Problem> {
    let answered = dispatch(desk, eureka, request, rest).await;
    answered.map_err(|problem| Problem { is_plain: true, ..problem })
}

/// A problem as Eureka's clients expect it: a text that is for the log, and none with a 404.
pub fn plain(problem: &Problem) -> Reply {
    let text = if problem.status == 404 { Bytes::new() } else { problem.detail.clone().into() };
    let mut reply = reply::with_type("text/plain; charset=utf-8", text);
    *reply.status_mut() =
        StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = reply.headers_mut();
    if problem.status == 404 {
        headers.remove(CONTENT_TYPE);
    }
    if let Some((name, value)) = &problem.header
        && let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value))
    {
        headers.insert(name, value);
    }
    if problem.status == 405 {
        headers.entry(ALLOW).or_insert(HeaderValue::from_static("GET"));
    }
    if problem.closes {
        headers.insert("connection", HeaderValue::from_static("close"));
    }
    reply
}

fn not_found() -> Problem {
    Problem::new(404, Code::NotFound, "")
}

fn wrong(detail: impl Into<Cow<'static, str>>) -> Problem {
    Problem::new(400, Code::InvalidArgument, detail)
}

async fn dispatch(
    desk: &Desk,
    eureka: &Eureka,
    request: Request<Incoming>,
    rest: &str,
) -> Result<Reply, Problem> {
    let place = Place::at(rest).ok_or_else(not_found)?;
    let method = request.method().clone();
    if !place.methods().split(", ").any(|allowed| allowed == method.as_str()) {
        return Err(Problem::method(place.methods()));
    }
    let is_read = matches!(method, Method::GET | Method::HEAD);
    let who = doors::enter(desk, &eureka.doors, request.headers(), !is_read).await?;
    if is_read {
        return read(desk, eureka, place, form_of(request.headers())).await;
    }
    let query = Query::of(request.uri());
    match place {
        Place::Delta => register(desk, request, "delta").await,
        Place::App(app) => register(desk, request, &app).await,
        Place::Instance(app, id) if method == Method::PUT => renew(desk, &app, &id, &query).await,
        Place::Instance(app, id) => cancel(desk, &app, &id).await,
        Place::Status(app, id) => {
            let wish = query
                .get("value")
                .map(|value| Word::read(&value).ok_or_else(|| wrong("value is no status")));
            match (wish.transpose()?, method == Method::PUT) {
                (Some(wish), true) => set_status(desk, &app, &id, wish, who.as_ref()).await,
                (None, true) => Err(wrong("value is missing")),
                (_, false) => end_override(desk, &app, &id).await,
            }
        }
        Place::Metadata(app, id) => add_metadata(desk, &app, &id, query.pairs()).await,
        _ => Err(not_found()),
    }
}

/// JSON for those who say so, XML for all others: some clients read nothing else and never ask.
fn form_of(headers: &HeaderMap) -> Form {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut accepted = accepted.map(str::to_ascii_lowercase);
    let is_json = accepted.any(|value| value.contains("json"));
    Form {
        language: if is_json { Language::Json } else { Language::Xml },
        is_packed: pages::takes(headers, "gzip"),
    }
}

fn found(form: Form, (bytes, permit): Made) -> Reply {
    let kind = match form.language {
        Language::Json => "application/json",
        Language::Xml => "application/xml",
    };
    let mut reply = match permit {
        Some(permit) => reply::reserved(kind, bytes, permit),
        None => reply::cached(kind, bytes),
    };
    let headers = reply.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("accept, accept-encoding"));
    if form.is_packed {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    reply
}

// --- Reading -------------------------------------------------------------------------------------

async fn read(desk: &Desk, eureka: &Eureka, place: Place, form: Form) -> Result<Reply, Problem> {
    if desk.is_draining() && matches!(place, Place::All | Place::Delta) {
        // Eureka's own word for it: the client keeps what it has and asks again.
        return Err(Problem::new(403, Code::Unavailable, "the server is stopping"));
    }
    let shelf = &eureka.shelf;
    let alone = |bytes: Bytes| -> Result<Made, Problem> {
        let permit = desk.answers.reserve(bytes.len())?;
        Ok((bytes, Some(permit)))
    };
    let made = match place {
        Place::All => Some(shelf.whole(desk, form).await?),
        Place::Delta => Some(shelf.delta(desk, form).await?),
        Place::App(app) => shelf.application(desk, form, app.to_ascii_lowercase()).await?,
        Place::Anywhere(id) => shelf.instance(desk, form, id).await?.map(alone).transpose()?,
        Place::Vip(vip) => shelf.vip(desk, form, vip, false).await?,
        Place::SecureVip(vip) => shelf.vip(desk, form, vip, true).await?,
        Place::Instance(app, id) => {
            let found = find(desk, &app, &id, false).await?.map(|found| {
                let mut text = String::new();
                let shown = Shown::of(&found.entry);
                let action = model::action(Step::Added);
                write::put_instance(&mut text, form.language, &shown, action);
                form.of(shelf::enveloped(form.language, &text))
            });
            found.map(alone).transpose()?
        }
        Place::Status(..) | Place::Metadata(..) => None,
    };
    made.map(|made| found(form, made)).ok_or_else(not_found)
}

/// An instance, in whatever region; its lease is renewed where that is wished.
async fn find(desk: &Desk, app: &str, id: &str, renews: bool) -> Result<Option<Found>, Problem> {
    if app.len() > limits::NAME_BYTES_MAX || id.len() > limits::NAME_BYTES_MAX {
        return Ok(None);
    }
    let roll = Roll::Instance { service: ServiceName::of(app), instance: id.into(), renews };
    match call(desk, roll).await? {
        Called::Instance(found) => Ok(found),
        _ => Err(Refusal::internal().into()),
    }
}

async fn call(desk: &Desk, roll: Roll) -> Result<Called, Problem> {
    match desk.ask(Order::Roll(Box::new(roll))).await? {
        Answer::Called(called) => Ok(*called),
        _ => Err(Refusal::internal().into()),
    }
}

// --- Writing -------------------------------------------------------------------------------------

fn done() -> Reply {
    let mut reply = reply::no_content();
    *reply.status_mut() = StatusCode::OK;
    reply
}

/// The language of a body by its declared type. Without one it is none: a page of any origin may
/// send a body as plain text or as a form, and only as these (Fetch, 2.2.2).
fn language_of(headers: &HeaderMap) -> Option<Language> {
    let kind = headers.get(CONTENT_TYPE)?.to_str().ok()?.to_ascii_lowercase();
    match kind.split(';').next().unwrap_or_default().trim() {
        "application/json" => Some(Language::Json),
        "application/xml" | "text/xml" => Some(Language::Xml),
        other => match other.strip_prefix("application/")?.rsplit_once('+')?.1 {
            "json" => Some(Language::Json),
            "xml" => Some(Language::Xml),
            _ => None,
        },
    }
}

/// `POST /apps/{app}`
async fn register(desk: &Desk, request: Request<Incoming>, app: &str) -> Result<Reply, Problem> {
    let Some(language) = language_of(request.headers()) else {
        let detail = "the body's Content-Type is neither application/json nor application/xml";
        return Err(Problem::new(415, Code::InvalidArgument, detail).closing());
    };
    let mut codings = request.headers().get_all(CONTENT_ENCODING).iter().cloned();
    let coding = codings.next();
    if codings.next().is_some() {
        let detail = "there is more than one Content-Encoding";
        return Err(Problem::new(415, Code::InvalidArgument, detail).closing());
    }
    let bytes_max = desk.office.limits.http_body_bytes_max;
    let mut text = body::read_any(desk, request, bytes_max).await?;
    match coding.as_ref().map(|coding| coding.to_str().unwrap_or_default().to_ascii_lowercase()) {
        None => {}
        Some(coding) if coding.is_empty() || coding == "identity" => {}
        Some(coding) if coding == "gzip" => text = unpack(&text, bytes_max)?,
        Some(_) => {
            let detail = "the body's Content-Encoding is not gzip";
            return Err(Problem::new(415, Code::InvalidArgument, detail));
        }
    }
    let is_xml = language == Language::Xml;
    let app = app.to_owned();
    let is_long = text.len() > limits::DECODE_INLINE_BYTES_MAX;
    let sent = body::beside(is_long, move || read::registration(&text, is_xml, &app)).await?;
    let sent = sent.map_err(wrong)?;
    let before = find(desk, &sent.app, &sent.instance_id, false).await?;
    change(desk, before, |before| Ok(Some(step(&sent, before)))).await?;
    Ok(reply::no_content())
}

fn unpack(packed: &[u8], bytes_max: usize) -> Result<Bytes, Problem> {
    let mut text = Vec::new();
    let bound = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    let read = flate2::read::MultiGzDecoder::new(packed).take(bound).read_to_end(&mut text);
    if read.is_err() {
        return Err(wrong("the body is not gzip"));
    }
    if text.len() > bytes_max {
        let detail = format!("the body is over {bytes_max} bytes");
        return Err(Problem::new(413, Code::TooLarge, detail));
    }
    Ok(text.into())
}

/// Reads a registration. What it becomes is an instance that the registry takes, and that can be
/// shown in both languages.
#[cfg(any(test, fuzzing))]
pub(super) fn decode_registration(text: &[u8], is_xml: bool) {
    let Ok(sent) = read::registration(text, is_xml, "app") else { return };
    let Ok(registration) = sent.instance(None).register() else { return };
    assert!(crate::wire::json::is_readable(&String::from_utf8_lossy(&registration.json)));
}

/// Inflates a packed body of 64 KiB at most.
#[cfg(any(test, fuzzing))]
pub(super) fn decode_packed(packed: &[u8]) {
    if let Ok(text) = unpack(packed, 64 * limits::KIB) {
        assert!(text.len() <= 64 * limits::KIB);
    }
}

/// What an instance shall become.
enum Wish {
    /// This.
    Be(Box<Instance>, Pull),
    /// What it is.
    Stay,
}

/// What a registration makes of the instance that is there.
fn step(sent: &Sent, before: Option<&Found>) -> Wish {
    let newest_ms = before.and_then(|found| model::dirty_ms(&found.entry.json));
    if let (Some(newest_ms), Some(dirty_ms)) = (newest_ms, sent.dirty_ms)
        && newest_ms > dirty_ms
    {
        return Wish::Stay;
    }
    let region = before.and_then(|found| {
        let before: Instance = serde_json::from_slice(&found.entry.json).ok()?;
        before.region_id
    });
    let pull = if sent.is_out() { Pull::OutItself } else { Pull::InIfItself };
    Wish::Be(Box::new(sent.instance(region)), pull)
}

/// Changes an instance as a wish has it, which is asked again where the instance changed meanwhile.
async fn change(
    desk: &Desk,
    mut before: Option<Found>,
    wish: impl Fn(Option<&Found>) -> Result<Option<Wish>, Problem>,
) -> Result<(), Problem> {
    for _ in 0..limits::EUREKA_ATTEMPTS_MAX {
        let (instance, pull) = match wish(before.as_ref())? {
            None => return Err(not_found()),
            Some(Wish::Be(instance, pull)) => (instance, pull),
            Some(Wish::Stay) => match before {
                Some(found) => {
                    return match desk.ask(Order::Heartbeat(vec![found.identity])).await? {
                        Answer::Batch(_) => Ok(()),
                        _ => Err(Refusal::internal().into()),
                    };
                }
                None => return Err(not_found()),
            },
        };
        let registration: Registration = instance.register().map_err(wrong)?;
        let expected = before.map(|found| found.entry.json);
        // Metadata that is added to bit by bit ends somewhere, too. An instance of before the bound
        // may stay as large as it is.
        let stands = expected.as_ref().map_or(0, Bytes::len);
        let bytes_max = desk.office.limits.instance_bytes_max.max(stands);
        let too_large = |fault| Problem::new(413, Code::TooLarge, fault);
        let registration = registration.within(bytes_max).map_err(too_large)?;
        match call(desk, Roll::Put(Put { registration, expected, pull })).await? {
            Called::Put => return Ok(()),
            Called::Refused(code) => {
                let problem = Problem::new(code.http_status(), code, "there is no room for more");
                return Err(problem);
            }
            Called::Instance(found) => before = found,
            Called::All(_) => return Err(Refusal::internal().into()),
        }
    }
    // So many others were faster that it will not be the next time.
    Err(Refusal::unavailable().into())
}

/// `PUT /apps/{app}/{id}`
async fn renew(desk: &Desk, app: &str, id: &str, query: &Query) -> Result<Reply, Problem> {
    let found = find(desk, app, id, true).await?.ok_or_else(not_found)?;
    let theirs_ms = query.get("lastDirtyTimestamp").and_then(|text| text.parse::<u64>().ok());
    if let Some(theirs_ms) = theirs_ms {
        let entry = &found.entry;
        let ours_ms = model::dirty_ms(&entry.json).unwrap_or(entry.changed_ms);
        if theirs_ms > ours_ms {
            // It knows something that we do not; this is how it is asked to say it.
            return Err(not_found());
        }
    }
    Ok(done())
}

/// `DELETE /apps/{app}/{id}`
async fn cancel(desk: &Desk, app: &str, id: &str) -> Result<Reply, Problem> {
    let found = find(desk, app, id, false).await?.ok_or_else(not_found)?;
    match desk.ask(Order::Unregister(vec![found.identity])).await? {
        Answer::Batch(_) => Ok(done()),
        _ => Err(Refusal::internal().into()),
    }
}

/// `PUT /apps/{app}/{id}/status`
async fn set_status(
    desk: &Desk,
    app: &str,
    id: &str,
    wish: Word,
    who: Option<&Identity>,
) -> Result<Reply, Problem> {
    let before = find(desk, app, id, true).await?.ok_or_else(not_found)?;
    if wish == Word::OutOfService {
        let said = who.map_or("eureka", Identity::display_name);
        let operator = registry::operator(desk, said);
        operate(desk, before, Operation::PullOut { operator }).await?;
    } else {
        change(desk, Some(before), |found| {
            let instance = instance_of(found)?;
            Ok(instance.map(|one| Wish::Be(Box::new(model::with_override(one, wish)), Pull::In)))
        })
        .await?;
        log::operator(desk, "override status", &format!("{app}/{id}"), Some("eureka"));
    }
    Ok(done())
}

/// `DELETE /apps/{app}/{id}/status`: whatever overrides the status of an instance ends, and the one
/// that it reports itself holds again. The status that a client may suggest is for servers that do
/// not remember that one.
async fn end_override(desk: &Desk, app: &str, id: &str) -> Result<Reply, Problem> {
    let mut before = find(desk, app, id, true).await?.ok_or_else(not_found)?;
    let reported = instance_of(Some(&before))?.map(model::without_override);
    if before.entry.is_pulled_out && !matches!(reported, Some(Reported::Status(_))) {
        // Out of service by an operator's word. It may be out by its own as well.
        operate(desk, before, Operation::PullIn).await?;
        before = find(desk, app, id, false).await?.ok_or_else(not_found)?;
    }
    if !matches!(reported, Some(Reported::Same)) {
        change(desk, Some(before), |found| {
            Ok(instance_of(found)?.map(|one| match model::without_override(one) {
                Reported::Same => Wish::Stay,
                Reported::Status(instance) => Wish::Be(instance, Pull::In),
                Reported::Out(instance) => Wish::Be(instance, Pull::OutItself),
            }))
        })
        .await?;
        log::operator(desk, "end status override", &format!("{app}/{id}"), Some("eureka"));
    }
    Ok(done())
}

/// Pulls an instance out of discovery, or in.
async fn operate(desk: &Desk, found: Found, operation: Operation) -> Result<(), Problem> {
    let (action, on) = (registry::action(&operation), found.identity.to_string());
    let order = Order::Operate { identity: found.identity, operation };
    match desk.ask(order).await? {
        Answer::Found(true) => {
            log::operator(desk, action, &on, Some("eureka"));
            Ok(())
        }
        Answer::Found(false) => Err(not_found()),
        _ => Err(Refusal::internal().into()),
    }
}

/// `PUT /apps/{app}/{id}/metadata`
async fn add_metadata(
    desk: &Desk,
    app: &str,
    id: &str,
    pairs: Vec<(String, String)>,
) -> Result<Reply, Problem> {
    let before = find(desk, app, id, false).await?.ok_or_else(not_found)?;
    change(desk, Some(before), |found| {
        let instance = instance_of(found)?;
        Ok(instance
            .map(|one| Wish::Be(Box::new(model::with_metadata(one, pairs.clone())), Pull::Keep)))
    })
    .await?;
    Ok(done())
}

/// The instance that was found; none where there is none any more.
fn instance_of(found: Option<&Found>) -> Result<Option<Instance>, Problem> {
    let Some(found) = found else { return Ok(None) };
    let instance = serde_json::from_slice(&found.entry.json);
    instance.map(Some).map_err(|_| Refusal::internal().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_somewhere_under_both_mounts() {
        let at = |path: &str| below(path).and_then(Place::at);
        let own = |text: &str| text.to_owned();
        for (path, place) in [
            ("/eureka/apps", Some(Place::All)),
            ("/eureka/v2/apps/", Some(Place::All)),
            ("/eureka//apps//", Some(Place::All)),
            ("/eureka/v2/apps/delta", Some(Place::Delta)),
            ("/eureka/apps/v2", Some(Place::App(own("v2")))),
            (
                "/eureka/apps/A/10.0.0.9%3Apy-app%3A9090",
                Some(Place::Instance(own("A"), own("10.0.0.9:py-app:9090"))),
            ),
            ("/eureka/apps/a%2Fb/i/status/", Some(Place::Status(own("a/b"), own("i")))),
            ("/eureka/v2/instances/i", Some(Place::Anywhere(own("i")))),
            ("/eureka/svips/v", Some(Place::SecureVip(own("v")))),
            ("/eureka", None),
            ("/eureka/v2", None),
            ("/eurekas/apps", None),
            ("/eureka/v22/apps", None),
            ("/eureka/apps/a/b/c", None),
        ] {
            assert_eq!(at(path), place, "{path}");
        }
    }
}
