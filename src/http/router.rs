//! Which request goes where.
//!
//! Imports its siblings. Imported by `http::connection`.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper::header::{AUTHORIZATION, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use hyper::{Method, Request, Response, StatusCode, Version};

use super::reply::{Problem, Reply};
use super::{Desk, discovery, guard, metrics, registry, status};
use crate::auth::{self, Identity, Scopes};
use crate::wire::refusal::Code;
use crate::ws::gate::{Denied, Knock, Upgrade, unauthorized_detail};
use crate::ws::head::Body;

/// What the paths lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Register,
    Heartbeat,
    Unregister,
    Service,
    Services,
    Lookup,
    ServicesDelta,
    OperateInstance,
    SelfProtection,
    Node,
    Cluster,
    Leases,
    Config,
    SocketStats,
    Health,
    Ready,
    Metrics,
}

/// Who may take a route where authentication is required.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Anyone,
    SignedIn,
    With(Scopes),
}

impl Route {
    /// The route at a path, which may or may not end in `.json`.
    fn at(path: &str) -> Option<Route> {
        let bare = path.strip_suffix(".json").unwrap_or(path);
        let route = match bare {
            "/api/registry/register" => Route::Register,
            "/api/registry/heartbeat" => Route::Heartbeat,
            "/api/registry/unregister" => Route::Unregister,
            "/api/discovery/service" => Route::Service,
            "/api/discovery/services" => Route::Services,
            "/api/discovery/lookup" => Route::Lookup,
            "/api/discovery/services-delta" => Route::ServicesDelta,
            "/api/management/instance/operate-instance" => Route::OperateInstance,
            "/api/status/node" => Route::Node,
            "/api/status/cluster" => Route::Cluster,
            "/api/status/leases" => Route::Leases,
            "/api/status/config" => Route::Config,
            _ => match path {
                "/ws/stats" => Route::SocketStats,
                "/health" => Route::Health,
                "/ready" => Route::Ready,
                "/metrics" => Route::Metrics,
                _ => return protected_service(path).map(|_| Route::SelfProtection),
            },
        };
        Some(route)
    }

    const fn methods(self) -> &'static str {
        match self {
            Route::Register
            | Route::Heartbeat
            | Route::Unregister
            | Route::Lookup
            | Route::ServicesDelta
            | Route::OperateInstance
            | Route::SelfProtection => "POST",
            Route::Service
            | Route::Services
            | Route::Node
            | Route::Cluster
            | Route::Leases
            | Route::Config => "GET, POST",
            Route::SocketStats | Route::Health | Route::Ready | Route::Metrics => "GET, HEAD",
        }
    }

    const fn access(self) -> Access {
        match self {
            Route::Health | Route::Ready | Route::Metrics => Access::Anyone,
            Route::Register
            | Route::Heartbeat
            | Route::Unregister
            | Route::OperateInstance
            | Route::SelfProtection => Access::With(Scopes::REGISTRY_WRITE),
            _ => Access::SignedIn,
        }
    }
}

/// The service named in a self-protection path, still percent-encoded.
fn protected_service(path: &str) -> Option<&str> {
    let bare = path.strip_suffix(".json").unwrap_or(path);
    let service =
        bare.strip_prefix("/api/management/services/")?.strip_suffix("/self-protection")?;
    (!service.is_empty() && !service.contains('/')).then_some(service)
}

/// Answers a request. An upgrade that goes ahead is left in `agreed`.
pub async fn answer(
    desk: &Desk,
    request: Request<Incoming>,
    agreed: &Rc<RefCell<Option<Upgrade>>>,
) -> Reply {
    desk.office.stats.http.request();
    let number = desk.office.requests.fetch_add(1, Ordering::Relaxed);
    let is_head = request.method() == Method::HEAD;
    let path = request.uri().path().to_owned();
    // An upgrade to something that is spoken nowhere here is answered like any other request, but
    // the connection is of no use after it.
    let asks_upgrade = request.headers().contains_key(UPGRADE);
    match dispatch(desk, request, &path, agreed).await {
        Ok(mut reply) => {
            if is_head {
                // hyper leaves the body out and keeps its length.
                reply.headers_mut().remove("transfer-encoding");
            }
            if asks_upgrade && reply.status() != StatusCode::SWITCHING_PROTOCOLS {
                reply.headers_mut().insert("connection", HeaderValue::from_static("close"));
            }
            reply
        }
        Err(mut problem) => {
            problem.closes |= asks_upgrade;
            desk.office.stats.http.refuse(problem.code);
            let request_id = format!("{}-{}-{number}", desk.office.node_id, desk.shard.0);
            if problem.status >= 500 {
                // The path only: a query may carry a token.
                tracing::warn!(path, request_id, detail = problem.detail, "a request failed");
            }
            problem.reply(&request_id)
        }
    }
}

async fn dispatch(
    desk: &Desk,
    request: Request<Incoming>,
    path: &str,
    agreed: &Rc<RefCell<Option<Upgrade>>>,
) -> Result<Reply, Problem> {
    if let Some(status) = path.strip_prefix(guard::REFUSED) {
        return Err(refused(status));
    }
    if let Some(endpoint) = desk.office.gate.endpoint(path) {
        return open_socket(desk, &request, endpoint, agreed);
    }
    let route = Route::at(path).ok_or_else(Problem::not_found)?;
    let method = request.method().clone();
    if !route.methods().split(", ").any(|allowed| allowed == method.as_str()) {
        return Err(Problem::method(route.methods()));
    }
    if route.access() != Access::Anyone {
        // A probe whose token has expired still finds out that the process lives.
        let identity = identify(desk, &request)?;
        permit(desk, route.access(), identity.as_ref())?;
    }
    match route {
        Route::Register => registry::register(desk, request).await,
        Route::Heartbeat => registry::heartbeat(desk, request).await,
        Route::Unregister => registry::unregister(desk, request).await,
        Route::OperateInstance => registry::operate(desk, request).await,
        Route::SelfProtection => {
            let service = protected_service(path).unwrap_or_default().to_owned();
            registry::protect(desk, request, &service).await
        }
        Route::Service => discovery::service(desk, request).await,
        Route::Services => discovery::services(desk, request).await,
        Route::Lookup => discovery::lookup(desk, request).await,
        Route::ServicesDelta => discovery::delta(desk, request).await,
        Route::Node => Ok(status::node(desk)),
        Route::Cluster => Ok(status::cluster(desk)),
        Route::Leases => status::leases(desk).await,
        Route::Config => Ok(status::config(desk)),
        Route::SocketStats => Ok(status::sockets(desk)),
        Route::Health => Ok(status::health()),
        Route::Ready => Ok(status::ready(desk)),
        Route::Metrics => Ok(metrics::page(desk)),
    }
}

fn refused(status: &str) -> Problem {
    let (status, code) =
        if status == "431" { (431, Code::TooLarge) } else { (400, Code::Malformed) };
    Problem::new(status, code, "the request head cannot be used").closing()
}

fn open_socket(
    desk: &Desk,
    request: &Request<Incoming>,
    endpoint: crate::ws::gate::Endpoint,
    agreed: &Rc<RefCell<Option<Upgrade>>>,
) -> Result<Reply, Problem> {
    let is_upgrade = request.method() == Method::GET && request.headers().contains_key(UPGRADE);
    if desk.is_draining() && is_upgrade {
        let mut problem = Problem::new(503, Code::Unavailable, "the server is stopping");
        problem.header = Some(("retry-after", String::from("1")));
        return Err(problem.closing());
    }
    let has_body =
        request.headers().contains_key(TRANSFER_ENCODING) || request.body().size_hint().lower() > 0;
    let knock = Knock {
        method: request.method(),
        uri: request.uri(),
        is_http_11: request.version() == Version::HTTP_11,
        headers: request.headers(),
        body: if has_body { Body::Chunked } else { Body::None },
    };
    let upgrade = desk.office.gate.judge(endpoint, knock, desk.clock.now().unix_s()).map_err(
        |denied: Denied| {
            // What follows a refused upgrade is held back by the guard and was never meant as HTTP.
            let problem = Problem::from(denied);
            if has_body || is_upgrade { problem.closing() } else { problem }
        },
    )?;
    let mut reply = Response::new(Full::new(Bytes::new()));
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = reply.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert("connection", HeaderValue::from_static("Upgrade"));
    if let Ok(accept) = HeaderValue::from_str(&upgrade.accept) {
        headers.insert("sec-websocket-accept", accept);
    }
    if upgrade.with_protocol {
        headers.insert("sec-websocket-protocol", HeaderValue::from_static("fanfare"));
    }
    *agreed.borrow_mut() = Some(upgrade);
    Ok(reply)
}

/// Who asks. A token that is there and wrong is refused in every mode.
fn identify(desk: &Desk, request: &Request<Incoming>) -> Result<Option<Identity>, Problem> {
    let header = request.headers().get(AUTHORIZATION);
    let mut token = header
        .map(|header| header.to_str().ok().and_then(auth::bearer).unwrap_or_default().to_owned());
    if token.is_none() && request.uri().path().starts_with("/ws") {
        token = auth::from_query(request.uri().query().unwrap_or_default());
    }
    let now_s = desk.clock.now().unix_s();
    desk.office.gate.identify(token.as_deref(), now_s).map_err(|fault| {
        let code = match fault {
            auth::AuthError::TokenExpired => Code::TokenExpired,
            auth::AuthError::Invalid(_) => Code::Unauthorized,
        };
        unauthorized(code, unauthorized_detail(&fault))
    })
}

fn unauthorized(code: Code, detail: &str) -> Problem {
    let mut problem = Problem::new(401, code, detail);
    problem.header = Some(("www-authenticate", String::from("Bearer")));
    problem
}

fn permit(desk: &Desk, access: Access, identity: Option<&Identity>) -> Result<(), Problem> {
    if !desk.office.gate.is_auth_required {
        return Ok(());
    }
    let Some(identity) = identity else {
        return Err(unauthorized(Code::Unauthorized, "a token is required"));
    };
    match access {
        Access::With(scopes) if !identity.scopes.contains(scopes) => {
            Err(Problem::new(403, Code::Forbidden, "the token lacks the scope for this"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_somewhere_with_and_without_json() {
        for (path, route) in [
            ("/api/registry/register.json", Some(Route::Register)),
            ("/api/registry/register", Some(Route::Register)),
            ("/api/status/config.json", Some(Route::Config)),
            ("/api/management/services/a%20b/self-protection", Some(Route::SelfProtection)),
            ("/api/management/services//self-protection", None),
            ("/api/management/services/a/b/self-protection", None),
            ("/health", Some(Route::Health)),
            ("/health.json", None),
            ("/nope", None),
            ("/api/registry/register.json.json", None),
        ] {
            assert_eq!(Route::at(path), route, "{path}");
        }
    }
}
