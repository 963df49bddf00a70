//! The router: checks that hold for every request, then the call that answers it.
//!
//! `http::routes` has the table of paths. Imports its siblings, `auth`, `wire` and `ws`. Imported by
//! `http::connection`.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::sync::atomic::Ordering;

use hyper::body::{Body as _, Incoming};
use hyper::header::{HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use hyper::{Method, Request, Response, StatusCode, Version};

use super::answer_body::AnswerBody;
use super::cross_site::{self, Shares};
use super::log::{self, LoggedRequest};
use super::reply::{self, Problem, Reply};
use super::routes::{Access, Route};
use super::{
    Query, RequestContext, channels, decoded, discovery, guard, messages, metrics, openapi, pages,
    registry, sockets, status, users,
};
use crate::auth::{Identity, Scopes};
use crate::wire::refusal::Code;
use crate::ws::authorizer::{self, HandshakeRequest, Rejection, Upgrade};
use crate::ws::head::Body;

/// Answers a request. An upgrade that goes ahead is left in `agreed`.
pub async fn answer(
    mut desk: RequestContext,
    request: Request<Incoming>,
    agreed: &Rc<RefCell<Option<Upgrade>>>,
) -> Reply {
    desk.client = desk.app.authorizer.client(desk.peer, request.headers());
    desk.number = desk.app.requests.fetch_add(1, Ordering::Relaxed);
    desk.user = OnceCell::new();
    let desk = &desk;
    desk.app.stats.http.request();
    let asked = LoggedRequest::new(desk, request.method(), request.headers());
    let is_head = request.method() == Method::HEAD;
    let whole = request.uri().path().to_owned();
    let path = desk.app.authorizer.base_path.below(&whole);
    let page = desk.app.authorizer.page(request.headers(), desk.local);
    let shares = shares(desk, page, path.unwrap_or_default(), request.headers());
    // An upgrade to something that is spoken nowhere here is answered like any other request, but
    // the connection is of no use after it.
    let asks_upgrade = request.headers().contains_key(UPGRADE);
    let bad_head = refusal_of_head(&whole, request.headers());
    let answered = match (check_head(desk, &request, bad_head), path) {
        (Err(problem), _) => Err(problem),
        (Ok(()), Some(path)) => dispatch(desk, request, path, page, agreed).await,
        (Ok(()), None) => outside(desk, &request, &whole),
    };
    let shown_path = bad_head.is_none().then_some(&*whole);
    let mut reply = match answered.and_then(|reply| desk.answers.admit(reply)) {
        Ok(mut reply) => {
            if is_head {
                // hyper leaves the body out and keeps its length.
                reply.headers_mut().remove("transfer-encoding");
            }
            // A proxy shall not keep a connection to a server that stops.
            let is_last = asks_upgrade || desk.is_draining();
            if is_last && reply.status() != StatusCode::SWITCHING_PROTOCOLS {
                reply.headers_mut().insert("connection", HeaderValue::from_static("close"));
            }
            reply
        }
        Err(mut problem) => {
            problem.closes |= asks_upgrade || desk.is_draining();
            desk.app.stats.http.refuse(problem.code);
            log::refused(desk, &asked, shown_path, &problem);
            problem.reply(&desk.request_id())
        }
    };
    if desk.app.access_log {
        let bytes = reply.body().size_hint().lower();
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        log::access(desk, &asked, shown_path, (reply.status(), bytes));
    }
    if let Some(shares) = shares {
        shares.mark(&mut reply);
    }
    reply.body_mut().mark(&desk.unsent);
    reply
}

/// What pages of other origins may see of an answer; none where the path is not meant for them:
/// sockets, which know no such thing, and pages but for the client library.
fn shares(
    desk: &RequestContext,
    page: authorizer::Page,
    path: &str,
    headers: &HeaderMap,
) -> Option<Shares> {
    let is_page = pages::at(path).is_some_and(|page| !page.is_library());
    let is_shared = !is_page && desk.app.authorizer.endpoint(path).is_none();
    is_shared.then(|| Shares::of(page, headers))
}

/// What is asked outside of the base path: only where everything is.
fn outside(
    desk: &RequestContext,
    request: &Request<Incoming>,
    path: &str,
) -> Result<Reply, Problem> {
    let base = &desk.app.authorizer.base_path;
    if matches!(*request.method(), Method::GET | Method::HEAD)
        && let Some(location) = base.with_slash(path)
    {
        return Ok(reply::moved(&location));
    }
    let detail = format!("there is nothing at this path: everything is below {base}/");
    Err(Problem::new(404, Code::NotFound, detail).because("outside of the base path"))
}

/// What is judged before anything else: the head itself, and by which name the server is called.
/// `bad_head` is the status that the guard asks for, if it does.
fn check_head(
    desk: &RequestContext,
    request: &Request<Incoming>,
    bad_head: Option<&str>,
) -> Result<(), Problem> {
    let (authorizer, headers) = (&desk.app.authorizer, request.headers());
    if let Some(status) = bad_head {
        return Err(refused(status));
    }
    authorizer
        .check_host(request.uri(), headers, desk.local)
        .and_then(|()| authorizer::check_singletons(headers))
        .map_err(|rejection| Problem::from(rejection).closing())
}

async fn dispatch(
    desk: &RequestContext,
    request: Request<Incoming>,
    path: &str,
    page: authorizer::Page,
    agreed: &Rc<RefCell<Option<Upgrade>>>,
) -> Result<Reply, Problem> {
    let headers = request.headers();
    let why_not = || desk.app.authorizer.foreign_page(headers, desk.local);
    if cross_site::is_preflight(request.method(), headers)
        && let Some(methods) = methods_at(desk, path)
    {
        return cross_site::preflight(page, methods, why_not);
    }
    cross_site::check_write(request.method(), page, why_not)?;
    if let Some(endpoint) = desk.app.authorizer.endpoint(path) {
        return open_socket(desk, &request, path, endpoint, agreed);
    }
    if let Some((dialect, rest)) = desk.app.dialect_at(path) {
        return dialect.answer(desk, request, rest).await;
    }
    let route = Route::at(path).ok_or_else(Problem::not_found)?;
    let method = request.method().clone();
    if !route.methods().split(", ").any(|allowed| allowed == method.as_str()) {
        return Err(Problem::method(route.methods()));
    }
    let access = route.access(&method);
    let mut identity = None;
    if access != Access::Unasked {
        // A probe whose token has expired still finds out that the process lives.
        identity = identify(desk, &request, path)?;
        if let Some(identity) = &identity {
            desk.note_user(&identity.user_id);
        }
        permit(desk, access, identity.as_ref())?;
    }
    if let Some(identity) = &identity {
        desk.see(identity);
    }
    match route {
        Route::Register => registry::register(desk, request).await,
        Route::Heartbeat => registry::heartbeat(desk, request).await,
        Route::Unregister => registry::unregister(desk, request).await,
        Route::OperateInstance => registry::operate(desk, request).await,
        Route::SelfProtection(service) => registry::protect(desk, request, service).await,
        Route::Service => discovery::service(desk, request).await,
        Route::Services => discovery::services(desk, request).await,
        Route::Lookup => discovery::lookup(desk, request).await,
        Route::ServicesDelta => discovery::delta(desk, request).await,
        Route::Node => Ok(status::node(desk)),
        Route::Cluster => Ok(status::cluster(desk)),
        Route::Leases => status::leases(desk, &Query::of(request.uri())).await,
        Route::Config => Ok(status::config(desk)),
        Route::SocketStats => status::sockets(desk, &Query::of(request.uri())),
        Route::Health => Ok(status::health()),
        Route::Ready => status::ready(desk, &Query::of(request.uri())),
        Route::Metrics => Ok(metrics::page(desk)),
        Route::OpenApi => Ok(openapi::answer(&desk.app.authorizer.base_path)),
        Route::Page(page) => Ok(pages::answer(page, request.headers())),
        people => dispatch_people(desk, people, request, identity).await,
    }
}

async fn dispatch_people(
    desk: &RequestContext,
    route: Route<'_>,
    request: Request<Incoming>,
    identity: Option<Identity>,
) -> Result<Reply, Problem> {
    let query = Query::of(request.uri());
    let is_get = matches!(*request.method(), Method::GET | Method::HEAD);
    let is_put = *request.method() == Method::PUT;
    let who = identity.as_ref();
    let name = |encoded: &str| decoded(encoded).into_owned();
    match route {
        Route::Online => sockets::online(desk).await,
        Route::Broadcast => sockets::broadcast(desk, request, who).await,
        Route::SendToUser => sockets::send_to_user(desk, request, who).await,
        Route::Connections => sockets::connections(desk, &query).await,
        Route::Connection(id) if is_get => sockets::connection(desk, id).await,
        Route::Connection(id) => sockets::disconnect(desk, id).await,
        Route::ConnectionMessages(id) => sockets::send_to_connection(desk, request, who, id).await,
        Route::ConnectionChannel(id, channel) => {
            sockets::set_subscription(desk, id, name(channel), is_put).await
        }
        Route::ConnectionMetadata(id) => sockets::set_metadata(desk, request, id).await,
        Route::UserRegister => users::register(desk, request, who).await,
        Route::UserLogin => users::login(desk, request).await,
        Route::Users => users::find(desk, &query).await,
        Route::Channels if is_get => channels::list(desk).await,
        Route::Channels => channels::define(desk, request).await,
        Route::Channel(channel) if is_get => channels::describe(desk, name(channel)).await,
        Route::Channel(channel) => channels::delete(desk, name(channel)).await,
        Route::ChannelMessages(channel) => {
            channels::publish(desk, request, who, name(channel)).await
        }
        Route::ChannelHistory(channel) => channels::history(desk, &query, who, name(channel)).await,
        Route::Live(entity, id) => {
            channels::live(desk, request, who, (name(entity), name(id))).await
        }
        Route::Dashboard(board) => channels::metrics(desk, request, who, name(board)).await,
        route => {
            let Some(identity) = identity else {
                return Err(authorizer::token_required().into());
            };
            let user = &identity.user_id;
            let group = |encoded: &str| messages::group_id(&name(encoded));
            match route {
                Route::UserRenew => users::renew(desk, &identity).await,
                Route::UserLogout => users::logout(desk, request, &identity).await,
                Route::UserPassword => users::set_password(desk, request, &identity).await,
                Route::UserSelf => users::remove(desk, request, &identity).await,
                Route::Messages if is_get => messages::pull(desk, &query, user).await,
                Route::Messages => messages::send(desk, request, user).await,
                Route::Groups if is_get => messages::groups(desk, user).await,
                Route::Groups => messages::create_group(desk, request, user).await,
                Route::Group(id) if is_get => messages::group(desk, user, &group(id)?).await,
                Route::Group(id) => messages::delete_group(desk, user, group(id)?).await,
                Route::GroupMembers(id) => {
                    messages::add_member(desk, request, user, group(id)?).await
                }
                Route::GroupMember(id, member) => {
                    messages::remove_member(desk, user, group(id)?, &name(member)).await
                }
                Route::GroupAccept(id) => {
                    messages::answer_invitation(desk, user, name(id), true).await
                }
                Route::GroupDecline(id) => {
                    messages::answer_invitation(desk, user, name(id), false).await
                }
                Route::GroupMessages(id) => {
                    messages::send_to_group(desk, request, user, group(id)?).await
                }
                _ => Err(Problem::not_found()),
            }
        }
    }
}

/// The methods of what a page of another origin may call at a path.
fn methods_at(desk: &RequestContext, path: &str) -> Option<&'static str> {
    if desk.app.authorizer.endpoint(path).is_some() {
        return None;
    }
    match desk.app.dialect_at(path) {
        Some((dialect, rest)) => dialect.methods(rest),
        None => Route::at(path).map(Route::methods),
    }
}

/// The status that the guard asks for in place of a head that cannot be used.
fn refusal_of_head<'a>(path: &'a str, headers: &HeaderMap) -> Option<&'a str> {
    let status = path.strip_prefix(guard::REFUSED)?;
    headers.get(HOST).is_some_and(|host| host == guard::NOBODY).then_some(status)
}

fn refused(status: &str) -> Problem {
    let (status, code) =
        if status == "431" { (431, Code::TooLarge) } else { (400, Code::Malformed) };
    Problem::new(status, code, "the request head cannot be used").closing()
}

fn open_socket(
    desk: &RequestContext,
    request: &Request<Incoming>,
    path: &str,
    endpoint: crate::ws::authorizer::Endpoint,
    agreed: &Rc<RefCell<Option<Upgrade>>>,
) -> Result<Reply, Problem> {
    let is_upgrade = request.method() == Method::GET && request.headers().contains_key(UPGRADE);
    if desk.is_draining() && is_upgrade {
        let problem = Problem::new(503, Code::Unavailable, "the server is stopping");
        return Err(problem.retry_after_s(1).closing());
    }
    let has_body =
        request.headers().contains_key(TRANSFER_ENCODING) || request.body().size_hint().lower() > 0;
    let handshake = HandshakeRequest {
        method: request.method(),
        uri: request.uri(),
        path,
        is_http_11: request.version() == Version::HTTP_11,
        headers: request.headers(),
        body: if has_body { Body::Chunked } else { Body::None },
        peer: desk.peer,
        local: desk.local,
    };
    let upgrade =
        desk.app.authorizer.authorize(endpoint, handshake, desk.clock.now().unix_s()).map_err(
            |rejection: Rejection| {
                // What follows a refused upgrade is held back by the guard and was never meant as HTTP.
                let problem = Problem::from(rejection);
                if has_body || is_upgrade { problem.closing() } else { problem }
            },
        )?;
    if let Some(identity) = &upgrade.identity {
        desk.note_user(&identity.user_id);
    }
    let mut reply = Response::new(AnswerBody::default());
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for (name, value) in upgrade.fields() {
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value))
        {
            reply.headers_mut().insert(name, value);
        }
    }
    *agreed.borrow_mut() = Some(upgrade);
    Ok(reply)
}

/// Who asks. A token that is there and wrong is refused in every mode.
fn identify(
    desk: &RequestContext,
    request: &Request<Incoming>,
    path: &str,
) -> Result<Option<Identity>, Problem> {
    // Only what begins like a socket's path takes a token in its query.
    let query = request.uri().query().filter(|_| path.starts_with("/ws"));
    let token = authorizer::presented_token(request.headers(), query, false)?;
    let now_s = desk.clock.now().unix_s();
    let identified = desk.app.authorizer.identify(token.as_deref(), now_s);
    identified.map_err(|fault| authorizer::bad_token(fault).into())
}

fn permit(
    desk: &RequestContext,
    access: Access,
    identity: Option<&Identity>,
) -> Result<(), Problem> {
    let authorizer = &desk.app.authorizer;
    let (needed, acts_as_user) = match access {
        Access::Unasked | Access::Anyone => return Ok(()),
        Access::SignedIn => (Scopes::NONE, false),
        Access::With(scopes) => (scopes, false),
        Access::AsUser(scopes) => (scopes, true),
    };
    if identity.is_none() && (acts_as_user || authorizer.is_auth_required) {
        return Err(authorizer::token_required().into());
    }
    if authorizer.allows(identity, needed) {
        return Ok(());
    }
    Err(Problem::new(403, Code::Forbidden, format!("the token lacks the scope {needed}")))
}
