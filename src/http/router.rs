//! The router: checks that hold for every request, then the call that answers it.
//!
//! `http::routes` has the table of paths. Imports its siblings, `auth`, `wire` and `ws`. Imported by
//! `http::connection`.

use std::cell::{Cell, OnceCell, RefCell};
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
    Query, RequestContext, body, channels, decoded, discovery, events, guard, messages, metrics,
    openapi, pages, registry, service_summary, sockets, status, users,
};
use crate::auth::{Identity, Scopes};
use crate::wire::refusal::Code;
use crate::ws::authorizer::{self, HandshakeRequest, Rejection, Upgrade};
use crate::ws::head::Body;
use crate::ws::path_token;

/// Answers a request. An upgrade that goes ahead is left in `agreed`.
pub async fn answer(
    mut context: RequestContext,
    request: Request<Incoming>,
    agreed: &Rc<RefCell<Option<Upgrade>>>,
) -> Reply {
    context.client = context.app.authorizer.client(context.peer, request.headers());
    context.number = context.app.requests.fetch_add(1, Ordering::Relaxed);
    context.user = OnceCell::new();
    context.has_body_left = Cell::new(!request.body().is_end_stream());
    context.app.stats.http.request();
    let logged = LoggedRequest::new(&context, request.method(), request.headers());
    let is_head = request.method() == Method::HEAD;
    let whole = request.uri().path().to_owned();
    let path = context.app.authorizer.base_path.below(&whole);
    let (path_token, path) = path.map(path_token::split).unzip();
    context.path_token = path_token.flatten().map(Box::from);
    let context = &context;
    let page = context.app.authorizer.page(request.headers(), context.local);
    let shares = shares(context, page, path.unwrap_or_default(), request.headers());
    // An upgrade to an unknown protocol is answered like any other request, but the connection is
    // useless after it.
    let asks_upgrade = request.headers().contains_key(UPGRADE);
    let bad_head = refusal_of_head(&whole, request.headers());
    let answered = match (check_head(context, &request, bad_head), path) {
        (Err(problem), _) => Err(problem),
        (Ok(()), Some(path)) => dispatch(context, request, path, page, agreed).await,
        (Ok(()), None) => outside(context, &request, &whole),
    };
    let shown = path_token::without_token(&whole);
    let shown_path = bad_head.is_none().then_some(&*shown);
    let mut reply = match answered.and_then(|reply| context.answers.admit(reply)) {
        Ok(mut reply) => {
            if is_head {
                // hyper leaves the body out and keeps its length.
                reply.headers_mut().remove("transfer-encoding");
            }
            // A proxy must not keep a connection to a server that stops.
            let is_last = asks_upgrade || context.is_draining() || context.has_body_left.get();
            if is_last && reply.status() != StatusCode::SWITCHING_PROTOCOLS {
                reply.headers_mut().insert("connection", HeaderValue::from_static("close"));
            }
            reply
        }
        Err(mut problem) => {
            problem.closes |= asks_upgrade || context.is_draining() || context.has_body_left.get();
            context.app.stats.http.refuse(problem.code);
            log::refused(context, &logged, shown_path, &problem);
            problem.reply(&context.request_id())
        }
    };
    if context.app.access_log {
        let bytes = reply.body().size_hint().lower();
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        log::access(context, &logged, shown_path, (reply.status(), bytes));
    }
    if let Some(shares) = shares {
        shares.mark(&mut reply);
    }
    reply.body_mut().mark(&context.unsent);
    reply
}

/// The CORS headers of an answer; none if the path is not for pages of other origins: sockets,
/// which have no CORS, and pages but for the client library.
fn shares(
    context: &RequestContext,
    page: authorizer::Page,
    path: &str,
    headers: &HeaderMap,
) -> Option<Shares> {
    let is_page = pages::at(path).is_some_and(|page| !page.is_library());
    let is_shared = !is_page && context.app.authorizer.endpoint(path).is_none();
    is_shared.then(|| Shares::of(page, headers))
}

/// The answer to a path outside of the base path: it names the base path.
fn outside(
    context: &RequestContext,
    request: &Request<Incoming>,
    path: &str,
) -> Result<Reply, Problem> {
    let base = &context.app.authorizer.base_path;
    if matches!(*request.method(), Method::GET | Method::HEAD)
        && let Some(location) = base.with_slash(path)
    {
        return Ok(reply::moved(&location));
    }
    let detail = format!("there is nothing at this path: everything is below {base}/");
    Err(Problem::new(404, Code::NotFound, detail).because("outside of the base path"))
}

/// The first checks: the head itself, and the name by which the server is called. `bad_head` is the
/// status that the guard demands, if it does.
fn check_head(
    context: &RequestContext,
    request: &Request<Incoming>,
    bad_head: Option<&str>,
) -> Result<(), Problem> {
    let (authorizer, headers) = (&context.app.authorizer, request.headers());
    if let Some(status) = bad_head {
        return Err(refused(status));
    }
    authorizer
        .check_host(request.uri(), headers, context.local)
        .and_then(|()| authorizer::check_singletons(headers))
        .map_err(|rejection| Problem::from(rejection).closing())
}

async fn dispatch(
    context: &RequestContext,
    request: Request<Incoming>,
    path: &str,
    page: authorizer::Page,
    agreed: &Rc<RefCell<Option<Upgrade>>>,
) -> Result<Reply, Problem> {
    let headers = request.headers();
    let why_not = || context.app.authorizer.foreign_page(headers, context.local);
    if cross_site::is_preflight(request.method(), headers)
        && let Some(methods) = methods_at(context, path)
    {
        return cross_site::preflight(page, methods, why_not);
    }
    cross_site::check_write(request.method(), page, why_not)?;
    if let Some(endpoint) = context.app.authorizer.endpoint(path) {
        return open_socket(context, &request, path, endpoint, agreed);
    }
    if let Some((dialect, rest)) = context.app.dialect_at(path) {
        return dialect.answer(context, request, rest).await;
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
        identity = identify(context, &request, path)?;
        if let Some(identity) = &identity {
            context.note_user(&identity.user_id);
        }
        if let Err(refusal) = permit(context, access, identity.as_ref()) {
            let Some(needed) = route.needs_of_artemis() else { return Err(refusal) };
            context.app.authorizer.check_artemis(identity.as_ref(), context.client, needed)?;
        }
    }
    if let Some(identity) = &identity {
        context.see(identity);
    }
    match route {
        Route::Register => registry::register(context, request).await,
        Route::Heartbeat => registry::heartbeat(context, request).await,
        Route::Unregister => registry::unregister(context, request).await,
        Route::OperateInstance => registry::operate(context, request).await,
        Route::SelfProtection(service) => registry::protect(context, request, service).await,
        Route::Service => discovery::service(context, request).await,
        Route::Services => discovery::services(context, request).await,
        Route::Lookup => discovery::lookup(context, request).await,
        Route::ServicesDelta => discovery::delta(context, request).await,
        Route::Node | Route::Cluster | Route::Leases | Route::Config
            if method == Method::POST && context.has_body_left.get() =>
        {
            // Artemis' tools send one, and it says nothing.
            let query = Query::of(request.uri());
            body::read_any(context, request, context.app.limits.http_body_bytes_max).await?;
            match route {
                Route::Node => Ok(status::node(context)),
                Route::Cluster => Ok(status::cluster(context)),
                Route::Leases => status::leases(context, &query).await,
                _ => Ok(status::config(context)),
            }
        }
        Route::Node => Ok(status::node(context)),
        Route::Cluster => Ok(status::cluster(context)),
        Route::Leases => status::leases(context, &Query::of(request.uri())).await,
        Route::Config => Ok(status::config(context)),
        Route::SocketStats => status::sockets(context, &Query::of(request.uri())),
        Route::ServiceSummary(service) => {
            let query = Query::of(request.uri());
            service_summary::show(context, decoded(service).into_owned(), &query).await
        }
        Route::Events => events::list(context, &Query::of(request.uri())).await,
        Route::Health => Ok(status::health()),
        Route::Ready => status::ready(context, &Query::of(request.uri())),
        Route::Metrics => Ok(metrics::page(context)),
        Route::OpenApi => Ok(openapi::answer(&context.app.authorizer.base_path)),
        Route::Page(page) => Ok(pages::answer(page, request.headers())),
        people => dispatch_people(context, people, request, identity).await,
    }
}

async fn dispatch_people(
    context: &RequestContext,
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
        Route::Online => sockets::online(context).await,
        Route::Broadcast => sockets::broadcast(context, request, who).await,
        Route::SendToUser => sockets::send_to_user(context, request, who).await,
        Route::Connections => sockets::connections(context, &query).await,
        Route::Connection(id) if is_get => sockets::connection(context, id).await,
        Route::Connection(id) => sockets::disconnect(context, id).await,
        Route::ConnectionMessages(id) => {
            sockets::send_to_connection(context, request, who, id).await
        }
        Route::ConnectionChannel(id, channel) => {
            sockets::set_subscription(context, id, name(channel), is_put).await
        }
        Route::ConnectionMetadata(id) => sockets::set_metadata(context, request, id).await,
        Route::UserRegister => users::register(context, request, who).await,
        Route::UserLogin => users::login(context, request).await,
        Route::Users => users::find(context, &query).await,
        Route::Channels if is_get => channels::list(context).await,
        Route::Channels => channels::define(context, request).await,
        Route::Channel(channel) if is_get => channels::describe(context, name(channel)).await,
        Route::Channel(channel) => channels::delete(context, name(channel)).await,
        Route::ChannelMessages(channel) => {
            channels::publish(context, request, who, name(channel)).await
        }
        Route::ChannelHistory(channel) => {
            channels::history(context, &query, who, name(channel)).await
        }
        Route::Live(entity, id) => {
            channels::live(context, request, who, (name(entity), name(id))).await
        }
        Route::Dashboard(board) => channels::metrics(context, request, who, name(board)).await,
        route => {
            let Some(identity) = identity else {
                return Err(authorizer::token_required().into());
            };
            let user = &identity.user_id;
            let group = |encoded: &str| messages::group_id(&name(encoded));
            match route {
                Route::UserRenew => users::renew(context, &identity).await,
                Route::UserLogout => users::logout(context, request, &identity).await,
                Route::UserPassword => users::set_password(context, request, &identity).await,
                Route::UserSelf => users::remove(context, request, &identity).await,
                Route::Messages if is_get => messages::pull(context, &query, user).await,
                Route::Messages => messages::send(context, request, user).await,
                Route::Groups if is_get => messages::groups(context, user).await,
                Route::Groups => messages::create_group(context, request, user).await,
                Route::Group(id) if is_get => messages::group(context, user, &group(id)?).await,
                Route::Group(id) => messages::delete_group(context, user, group(id)?).await,
                Route::GroupMembers(id) => {
                    messages::add_member(context, request, user, group(id)?).await
                }
                Route::GroupMember(id, member) => {
                    messages::remove_member(context, user, group(id)?, &name(member)).await
                }
                Route::GroupAccept(id) => {
                    messages::answer_invitation(context, user, name(id), true).await
                }
                Route::GroupDecline(id) => {
                    messages::answer_invitation(context, user, name(id), false).await
                }
                Route::GroupMessages(id) => {
                    messages::send_to_group(context, request, user, group(id)?).await
                }
                _ => Err(Problem::not_found()),
            }
        }
    }
}

/// The methods that a page of another origin may call at a path.
fn methods_at(context: &RequestContext, path: &str) -> Option<&'static str> {
    if context.app.authorizer.endpoint(path).is_some() {
        return None;
    }
    match context.app.dialect_at(path) {
        Some((dialect, rest)) => dialect.methods(rest),
        None => Route::at(path).map(Route::methods),
    }
}

/// The status that the guard demands in place of a head that cannot be used.
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
    context: &RequestContext,
    request: &Request<Incoming>,
    path: &str,
    endpoint: crate::ws::authorizer::Endpoint,
    agreed: &Rc<RefCell<Option<Upgrade>>>,
) -> Result<Reply, Problem> {
    let is_upgrade = request.method() == Method::GET && request.headers().contains_key(UPGRADE);
    if context.is_draining() && is_upgrade {
        let problem = Problem::new(503, Code::Unavailable, "the server is stopping");
        return Err(problem.retry_after_s(1).closing());
    }
    let has_body =
        request.headers().contains_key(TRANSFER_ENCODING) || request.body().size_hint().lower() > 0;
    let handshake = HandshakeRequest {
        method: request.method(),
        uri: request.uri(),
        path,
        path_token: context.path_token.as_deref(),
        is_http_11: request.version() == Version::HTTP_11,
        headers: request.headers(),
        body: if has_body { Body::Chunked } else { Body::None },
        peer: context.peer,
        local: context.local,
    };
    let upgrade = context
        .app
        .authorizer
        .authorize(endpoint, handshake, context.clock.now().unix_s())
        .map_err(|rejection: Rejection| {
            // The guard holds back the bytes after a refused upgrade, which were never meant as
            // HTTP.
            let problem = Problem::from(rejection);
            if has_body || is_upgrade { problem.closing() } else { problem }
        })?;
    if let Some(identity) = &upgrade.identity {
        context.note_user(&identity.user_id);
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

/// The identity behind a request. A wrong token is refused in every mode.
fn identify(
    context: &RequestContext,
    request: &Request<Incoming>,
    path: &str,
) -> Result<Option<Identity>, Problem> {
    // Only a path that begins like a socket's takes a token in its query.
    let query = request.uri().query().filter(|_| path.starts_with("/ws"));
    let token = authorizer::presented_token(request.headers(), query, false)?;
    let token = authorizer::same_token(token, context.path_token.as_deref())?;
    let now_s = context.clock.now().unix_s();
    let identified = context.app.authorizer.identify(token.as_deref(), now_s);
    identified.map_err(|fault| authorizer::bad_token(fault).into())
}

/// Lets a request in whose identity is allowed what it asks for.
fn admit_if(
    context: &RequestContext,
    request: &Request<Incoming>,
    check: impl FnOnce(Option<&Identity>) -> Result<(), Problem>,
) -> Result<(), Problem> {
    let identity = identify(context, request, request.uri().path())?;
    if let Some(identity) = &identity {
        // Also of a request that is refused.
        context.note_user(&identity.user_id);
    }
    check(identity.as_ref())?;
    if let Some(identity) = &identity {
        context.see(identity);
    }
    Ok(())
}

/// Lets a request of an Artemis client in, by its token or by its address.
///
/// # Errors
///
/// 401 and 403.
pub(crate) fn admit(
    context: &RequestContext,
    request: &Request<Incoming>,
    needed: Scopes,
) -> Result<(), Problem> {
    admit_if(context, request, |identity| {
        Ok(context.app.authorizer.check_artemis(identity, context.client, needed)?)
    })
}

/// Checks that a request may do what needs a scope: by its token alone.
///
/// # Errors
///
/// 401 and 403.
pub(crate) fn admit_operator(
    context: &RequestContext,
    request: &Request<Incoming>,
    needed: Scopes,
) -> Result<(), Problem> {
    admit_if(context, request, |identity| permit(context, Access::With(needed), identity))
}

fn permit(
    context: &RequestContext,
    access: Access,
    identity: Option<&Identity>,
) -> Result<(), Problem> {
    let authorizer = &context.app.authorizer;
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
