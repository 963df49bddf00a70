//! The table of routes: paths, their methods, and their scopes.
//!
//! Every route is named in each of the three tables, so a new one cannot be open by oversight. The router
//! dispatches by it, and the description of the API is checked against it.
//!
//! Imports `auth` and `http::pages`. Imported by `http::router` and `http::openapi`.

use hyper::Method;

use super::pages::{self, Page};
use crate::auth::Scopes;

/// The resource at a path. Names in it are still percent-encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route<'a> {
    Register,
    Heartbeat,
    Unregister,
    Service,
    Services,
    Lookup,
    ServicesDelta,
    OperateInstance,
    SelfProtection(&'a str),
    Node,
    Cluster,
    Leases,
    Config,
    Events,
    ServiceSummary(&'a str),
    SocketStats,
    Online,
    Broadcast,
    SendToUser,
    Connections,
    Connection(&'a str),
    ConnectionMessages(&'a str),
    ConnectionChannel(&'a str, &'a str),
    ConnectionMetadata(&'a str),
    UserRegister,
    UserLogin,
    UserRenew,
    UserLogout,
    UserPassword,
    UserSelf,
    Users,
    Messages,
    Groups,
    Group(&'a str),
    GroupMembers(&'a str),
    GroupMember(&'a str, &'a str),
    GroupMessages(&'a str),
    GroupAccept(&'a str),
    GroupDecline(&'a str),
    Channels,
    Channel(&'a str),
    ChannelMessages(&'a str),
    ChannelHistory(&'a str),
    Live(&'a str, &'a str),
    Dashboard(&'a str),
    Health,
    Ready,
    Metrics,
    OpenApi,
    Page(&'static Page),
}

/// The access that a route requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Everyone; a token is not even read.
    Unasked,
    /// Everyone; a wrong token is refused.
    Anyone,
    /// A token, if the server requires tokens.
    SignedIn,
    /// A token with the scope, if the server requires tokens.
    With(Scopes),
    /// A token in every mode, because the call acts as a user; with the scope, if tokens are
    /// required.
    AsUser(Scopes),
}

impl<'a> Route<'a> {
    /// The route at a path. Those of the Artemis API may or may not end in `.json`.
    pub(super) fn at(path: &'a str) -> Option<Route<'a>> {
        if path == "/openapi.json" {
            return Some(Route::OpenApi);
        }
        let page = pages::at(path).map(Route::Page);
        page.or_else(|| Route::of_artemis(path.strip_suffix(".json").unwrap_or(path))).or_else(
            || {
                let parts: Vec<&str> = path.split('/').skip(1).collect();
                if parts.iter().any(|part| part.is_empty()) {
                    return None;
                }
                Route::of_people(&parts)
            },
        )
    }

    fn of_artemis(bare: &'a str) -> Option<Route<'a>> {
        Some(match bare {
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
            _ => {
                let rest = bare.strip_prefix("/api/management/services/")?;
                let service = rest.strip_suffix("/self-protection")?;
                if service.is_empty() || service.contains('/') {
                    return None;
                }
                Route::SelfProtection(service)
            }
        })
    }

    fn of_people(parts: &[&'a str]) -> Option<Route<'a>> {
        Some(match *parts {
            ["health"] => Route::Health,
            ["ready"] => Route::Ready,
            ["metrics"] => Route::Metrics,
            ["ws", "stats"] => Route::SocketStats,
            ["ws", "online"] => Route::Online,
            ["ws", "broadcast"] => Route::Broadcast,
            ["ws", "send"] => Route::SendToUser,
            ["api", "v1", ref rest @ ..] => match *rest {
                ["events"] => Route::Events,
                ["services", id, "summary"] => Route::ServiceSummary(id),
                ["connections"] => Route::Connections,
                ["connections", id] => Route::Connection(id),
                ["connections", id, "messages"] => Route::ConnectionMessages(id),
                ["connections", id, "channels", name] => Route::ConnectionChannel(id, name),
                ["connections", id, "metadata"] => Route::ConnectionMetadata(id),
                ["users", "register"] => Route::UserRegister,
                ["users", "login"] => Route::UserLogin,
                ["users", "renew"] => Route::UserRenew,
                ["users", "logout"] => Route::UserLogout,
                ["users", "me", "password"] => Route::UserPassword,
                ["users", "me"] => Route::UserSelf,
                ["users"] => Route::Users,
                ["messages"] => Route::Messages,
                ["groups"] => Route::Groups,
                ["groups", id] => Route::Group(id),
                ["groups", id, "members"] => Route::GroupMembers(id),
                ["groups", id, "members", user] => Route::GroupMember(id, user),
                ["groups", id, "messages"] => Route::GroupMessages(id),
                ["groups", id, "accept"] => Route::GroupAccept(id),
                ["groups", id, "decline"] => Route::GroupDecline(id),
                ["channels"] => Route::Channels,
                ["channels", name] => Route::Channel(name),
                ["channels", name, "messages"] => Route::ChannelMessages(name),
                ["channels", name, "history"] => Route::ChannelHistory(name),
                ["live", entity, id] => Route::Live(entity, id),
                ["dashboards", name, "metrics"] => Route::Dashboard(name),
                _ => return None,
            },
            _ => return None,
        })
    }

    pub(super) const fn methods(self) -> &'static str {
        match self {
            Route::Register
            | Route::Heartbeat
            | Route::Unregister
            | Route::Lookup
            | Route::ServicesDelta
            | Route::OperateInstance
            | Route::SelfProtection(_)
            | Route::Broadcast
            | Route::SendToUser
            | Route::ConnectionMessages(_)
            | Route::UserRegister
            | Route::UserLogin
            | Route::UserRenew
            | Route::UserLogout
            | Route::GroupMembers(_)
            | Route::GroupMessages(_)
            | Route::GroupAccept(_)
            | Route::GroupDecline(_)
            | Route::ChannelMessages(_)
            | Route::Live(..)
            | Route::Dashboard(_) => "POST",
            Route::Service
            | Route::Services
            | Route::Node
            | Route::Cluster
            | Route::Leases
            | Route::Config
            | Route::Messages
            | Route::Groups
            | Route::Channels => "GET, POST",
            Route::Connection(_) | Route::Group(_) | Route::Channel(_) => "GET, DELETE",
            Route::GroupMember(..) | Route::UserSelf => "DELETE",
            Route::ConnectionChannel(..) => "PUT, DELETE",
            Route::UserPassword | Route::ConnectionMetadata(_) => "PUT",
            Route::SocketStats
            | Route::Online
            | Route::Connections
            | Route::Events
            | Route::ServiceSummary(_)
            | Route::ChannelHistory(_)
            | Route::Users
            | Route::Health
            | Route::Ready
            | Route::Metrics
            | Route::OpenApi
            | Route::Page(_) => "GET, HEAD",
        }
    }

    /// The scope of a call that Artemis' clients make; none for other calls. Such a client may have an address
    /// that needs no token.
    pub(super) const fn needs_of_artemis(self) -> Option<Scopes> {
        match self {
            Route::Register | Route::Heartbeat | Route::Unregister => Some(Scopes::REGISTRY_WRITE),
            Route::Service | Route::Services | Route::Lookup | Route::ServicesDelta => {
                Some(Scopes::REGISTRY_READ)
            }
            _ => None,
        }
    }

    /// The access it requires. Every route is listed, so that a new one cannot be open by oversight.
    pub(super) fn access(self, method: &Method) -> Access {
        let is_read = matches!(*method, Method::GET | Method::HEAD);
        match self {
            Route::Health | Route::Ready | Route::Metrics | Route::OpenApi | Route::Page(_) => {
                Access::Unasked
            }
            Route::UserRegister | Route::UserLogin => Access::Anyone,
            Route::Register
            | Route::Heartbeat
            | Route::Unregister
            | Route::OperateInstance
            | Route::SelfProtection(_) => Access::With(Scopes::REGISTRY_WRITE),
            Route::Broadcast
            | Route::SendToUser
            | Route::ChannelMessages(_)
            | Route::Live(..)
            | Route::Dashboard(_) => Access::With(Scopes::PUBLISH),
            Route::Service
            | Route::Services
            | Route::Lookup
            | Route::ServicesDelta
            | Route::Leases => Access::With(Scopes::REGISTRY_READ),
            Route::Events | Route::ServiceSummary(_) => Access::With(Scopes::AUDIT_READ),
            Route::SocketStats | Route::Online | Route::Connections => {
                Access::With(Scopes::SOCKETS_READ)
            }
            Route::Connection(_) if is_read => Access::With(Scopes::SOCKETS_READ),
            Route::Channels | Route::Channel(_) if is_read => Access::With(Scopes::CHANNELS_READ),
            Route::Config
            | Route::Connection(_)
            | Route::ConnectionMessages(_)
            | Route::ConnectionChannel(..)
            | Route::ConnectionMetadata(_)
            | Route::Channels
            | Route::Channel(_) => Access::With(Scopes::ADMIN),
            // The user's own account: any token may give itself up.
            Route::UserRenew | Route::UserLogout | Route::UserPassword | Route::UserSelf => {
                Access::AsUser(Scopes::NONE)
            }
            Route::Users => Access::With(Scopes::MESSAGE),
            Route::Messages
            | Route::Groups
            | Route::Group(_)
            | Route::GroupMembers(_)
            | Route::GroupMember(..)
            | Route::GroupMessages(_)
            | Route::GroupAccept(_)
            | Route::GroupDecline(_) => Access::AsUser(Scopes::MESSAGE),
            // The history of a channel is for those who may follow it; the status of nodes, for
            // everyone with a token.
            Route::ChannelHistory(_) | Route::Node | Route::Cluster => Access::SignedIn,
        }
    }
}

/// The access of a call, in the terms of the API's description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Needs {
    /// Nothing: a token is not even read.
    Nothing,
    /// A token if the server requires tokens, with this scope if any. A wrong one is refused
    /// everywhere.
    TokenWhereRequired(Option<String>),
    /// A token; with this scope if the server requires tokens.
    Token(String),
}

/// The access of a call. None if there is no such call.
pub(super) fn needs(method: &str, path: &str) -> Option<Needs> {
    let route = Route::at(path)?;
    if !route.methods().split(", ").any(|allowed| allowed == method) {
        return None;
    }
    let method = Method::from_bytes(method.as_bytes()).ok()?;
    Some(match route.access(&method) {
        Access::Unasked => Needs::Nothing,
        Access::Anyone | Access::SignedIn => Needs::TokenWhereRequired(None),
        Access::With(scopes) => Needs::TokenWhereRequired(Some(scopes.to_string())),
        Access::AsUser(scopes) => Needs::Token(scopes.to_string()),
    })
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
            (
                "/api/management/services/a%20b/self-protection",
                Some(Route::SelfProtection("a%20b")),
            ),
            ("/api/management/services//self-protection", None),
            ("/api/management/services/a/b/self-protection", None),
            ("/health", Some(Route::Health)),
            ("/health.json", None),
            ("/nope", None),
            ("/api/v1/groups/g/members/a%2Fb", Some(Route::GroupMember("g", "a%2Fb"))),
            ("/api/v1/connections/n-0-0-1/channels/a%2Fb", {
                Some(Route::ConnectionChannel("n-0-0-1", "a%2Fb"))
            }),
            ("/api/v1/groups/", None),
            ("/api/v1/groups//members", None),
            ("/api/v1/channels/x.json", Some(Route::Channel("x.json"))),
            ("/api/v1/live/order/7", Some(Route::Live("order", "7"))),
            ("/ws/online", Some(Route::Online)),
            ("/api/registry/register.json.json", None),
        ] {
            assert_eq!(Route::at(path), route, "{path}");
        }
    }
}
