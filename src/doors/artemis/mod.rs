//! The HTTP calls that only Artemis' clients and its operators' tools make: which nodes there are, how many
//! sockets, and what operators decide.
//!
//! ```text
//! client --> up-registry-nodes, up-discovery-nodes --> the node it talks to from then on
//! operators --> management, groups --> what stands in `state::management`
//!           --> logs               --> the audit log
//! ```
//!
//! Registrations, discovery and the rest of the status are fanfare's own HTTP API, which has Artemis' form
//! (`http::registry`, `http::discovery`, `http::status`). The sockets are in `shard::artemis`, their frames in
//! `wire::artemis`. docs/artemis.md has the differences.
//!
//! # Promises
//!
//! * A node is listed with the address by which clients reach it: the one that it advertises, or the one by
//!   which the client has just reached it. A node that stops is not listed.
//! * A client that carries its token in the path finds it in each address again: it has no other place for it.
//!
//! Imports `auth` and `http`. Imported by `doors`.

mod groups;
mod logs;
mod management;

use hyper::body::Incoming;
use hyper::header::HOST;
use hyper::{Method, Request};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::auth::Scopes;
use crate::http::dialect::{Answering, Dialect};
use crate::http::reply::{self, Problem, Reply};
use crate::http::{RequestContext, body, router, status};

/// The Artemis door. All shards share it.
#[derive(Debug)]
pub struct Artemis {
    /// The scheme of this node's own address.
    scheme: &'static str,
}

/// A resource of the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resource {
    /// The nodes that take registrations.
    RegistryNodes,
    /// The nodes that answer discovery.
    DiscoveryNodes,
    /// Where this node runs.
    Deployment,
    /// The leases of instances that an older Artemis would have replicated: there are none.
    LegacyLeases,
    /// The numbers of sockets: of heartbeats, and of changes.
    Sockets,
    /// What operators decide.
    Management(management::Call),
    /// The groups that operators keep.
    Groups(groups::Call),
    /// What operators did.
    Logs(logs::Call),
}

impl Resource {
    fn at(path: &str) -> Option<Resource> {
        let path = path.strip_suffix(".json").unwrap_or(path);
        Some(match path {
            "/api/cluster/up-registry-nodes" => Resource::RegistryNodes,
            "/api/cluster/up-discovery-nodes" => Resource::DiscoveryNodes,
            "/api/status/deployment" => Resource::Deployment,
            "/api/status/legacy-leases" => Resource::LegacyLeases,
            "/api/status/message/connections" | "/api/status/websocket/connection" => {
                Resource::Sockets
            }
            _ => {
                let groups = || groups::Call::at(path).map(Resource::Groups);
                let logs = || logs::Call::at(path).map(Resource::Logs);
                let management = management::Call::at(path).map(Resource::Management);
                return management.or_else(groups).or_else(logs);
            }
        })
    }

    const fn methods(self) -> &'static str {
        match self {
            Resource::RegistryNodes | Resource::DiscoveryNodes | Resource::Logs(_) => "POST",
            Resource::Deployment | Resource::LegacyLeases => "GET, POST",
            Resource::Sockets => "GET, HEAD, POST",
            Resource::Management(call) => call.methods(),
            Resource::Groups(call) => call.methods(),
        }
    }

    const fn needs(self) -> Scopes {
        match self {
            Resource::RegistryNodes | Resource::DiscoveryNodes | Resource::LegacyLeases => {
                Scopes::REGISTRY_READ
            }
            // As the other status pages of nodes.
            Resource::Deployment | Resource::Sockets => Scopes::NONE,
            Resource::Management(call) => call.needs(),
            Resource::Groups(call) => call.needs(),
            Resource::Logs(_) => logs::Call::needs(),
        }
    }
}

impl Dialect for Artemis {
    fn below<'a>(&self, path: &'a str) -> Option<&'a str> {
        Resource::at(path).map(|_| path)
    }

    fn methods(&self, rest: &str) -> Option<&'static str> {
        Resource::at(rest).map(Resource::methods)
    }

    fn answer<'a>(
        &'a self,
        context: &'a RequestContext,
        request: Request<Incoming>,
        rest: &'a str,
    ) -> Answering<'a> {
        Box::pin(async move {
            let resource = Resource::at(rest).ok_or_else(Problem::not_found)?;
            let allowed = resource.methods();
            if !allowed.split(", ").any(|method| method == request.method().as_str()) {
                return Err(Problem::method(allowed));
            }
            match resource {
                Resource::Management(_) | Resource::Groups(_) | Resource::Logs(_) => {
                    router::admit_operator(context, &request, resource.needs())?;
                }
                _ => router::admit(context, &request, resource.needs())?,
            }
            match resource {
                Resource::RegistryNodes | Resource::DiscoveryNodes => {
                    self.nodes(context, request, resource).await
                }
                Resource::Deployment => self.deployment(context, request).await,
                Resource::LegacyLeases => legacy_leases(context, request).await,
                Resource::Sockets => Ok(sockets(context)),
                Resource::Management(call) => management::answer(context, request, call).await,
                Resource::Groups(call) => groups::answer(context, request, call).await,
                Resource::Logs(call) => logs::answer(context, request, call).await,
            }
        })
    }
}

/// The body of a call. Every field is optional, and so is the body itself for the calls of status.
#[derive(Debug, Default, Deserialize)]
struct AskedZone {
    #[serde(default, rename = "regionId", alias = "region_id")]
    region_id: Option<String>,
    #[serde(default, rename = "zoneId", alias = "zone_id")]
    zone_id: Option<String>,
}

impl Artemis {
    /// A door of a node with a certificate of its own or without.
    pub fn new(has_tls: bool) -> Artemis {
        Artemis { scheme: if has_tls { "https" } else { "http" } }
    }

    async fn nodes(
        &self,
        context: &RequestContext,
        request: Request<Incoming>,
        resource: Resource,
    ) -> Result<Reply, Problem> {
        // A node that is cut off from the others answers discovery, and takes no registration.
        let is_up = !context.is_draining()
            && (resource == Resource::DiscoveryNodes || status::is_joined(context));
        let own = self.own_url(context, &request).filter(|_| is_up);
        let text = body::read(context, request, context.app.limits.http_body_bytes_max).await?;
        let zone: AskedZone = match body::artemis_object(&text)? {
            Ok(zone) => zone,
            Err(reply) => return Ok(reply),
        };
        let mut urls: Vec<String> = own.into_iter().collect();
        urls.extend(status::urls_of_others(&context.app));
        urls.sort_unstable();
        urls.dedup();
        if urls.is_empty() {
            let mut failure = reply::failure("data-not-found", "no node is up");
            failure["nodes"] = json!([]);
            return Ok(reply::json_value(&failure));
        }
        let prefix = context.path_token.as_ref().map(|token| format!("/t/{token}"));
        let prefix = prefix.unwrap_or_default();
        let nodes: Vec<Value> = urls
            .iter()
            .map(|url| {
                // Nodes have no zone of their own: each serves the client's.
                json!({
                    "zone": {"regionId": zone.region_id, "zoneId": zone.zone_id, "metadata": null},
                    "url": format!("{url}{prefix}"),
                })
            })
            .collect();
        let nodes = json!({"nodes": nodes, "responseStatus": reply::success()});
        Ok(reply::json_value(&nodes))
    }

    /// This node's address: the one that it advertises, or the one by which the client has reached it.
    fn own_url(&self, context: &RequestContext, request: &Request<Incoming>) -> Option<String> {
        if let Some(url) = &context.app.advertise_url {
            return Some(url.clone());
        }
        let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
        let local = || context.local.map(|local| local.to_string());
        let host = host.filter(|host| !host.is_empty()).map(str::to_owned).or_else(local)?;
        Some(format!("{}://{host}{}", self.scheme, context.app.authorizer.base_path))
    }

    async fn deployment(
        &self,
        context: &RequestContext,
        request: Request<Incoming>,
    ) -> Result<Reply, Problem> {
        let url = self.own_url(context, &request);
        read_optional(context, request).await?;
        let local = context.local;
        Ok(reply::json_value(&json!({
            "regionId": null,
            "zoneId": null,
            "appId": "fanfare",
            "machineName": &*context.app.node_id,
            "ip": local.map(|local| local.ip().to_string()),
            "port": local.map_or(0, |local| local.port()),
            "protocol": self.scheme,
            "path": context.app.authorizer.base_path.to_string(),
            "url": url,
            "sources": {},
            "properties": {},
            "responseStatus": reply::success(),
        })))
    }
}

async fn legacy_leases(
    context: &RequestContext,
    request: Request<Incoming>,
) -> Result<Reply, Problem> {
    read_optional(context, request).await?;
    Ok(reply::json_value(&json!({
        "leaseUpdateMaxCount": 0,
        "leaseUpdateMaxCountLastUpdateTime": 0,
        "leaseUpdateCountLastTimeWindow": 0,
        "isSafe": true,
        "isSafeCheckEnabled": true,
        "leaseCount": 0,
        "leasesStatus": {},
        "responseStatus": reply::success(),
    })))
}

/// Reads a body that says nothing here.
async fn read_optional(
    context: &RequestContext,
    request: Request<Incoming>,
) -> Result<(), Problem> {
    if request.method() == Method::POST && context.has_body_left.get() {
        body::read_any(context, request, context.app.limits.http_body_bytes_max).await?;
    }
    Ok(())
}

/// `connections`: bare, and the numbers are texts, as Artemis has them.
fn sockets(context: &RequestContext) -> Reply {
    let stats = &context.app.stats;
    reply::json_value(&json!({
        "registry": stats.sum(|shard| &shard.artemis_heartbeats).to_string(),
        "discovery": stats.sum(|shard| &shard.artemis_followers).to_string(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_their_methods() {
        let door = Artemis::new(false);
        for (path, methods) in [
            ("/api/cluster/up-registry-nodes.json", Some("POST")),
            ("/api/cluster/up-discovery-nodes", Some("POST")),
            ("/api/status/message/connections.json", Some("GET, HEAD, POST")),
            ("/api/status/websocket/connection.json", Some("GET, HEAD, POST")),
            ("/api/status/deployment.json", Some("GET, POST")),
            ("/api/status/node.json", None),
            ("/api/cluster", None),
        ] {
            let found = door.below(path).and_then(|rest| door.methods(rest));
            assert_eq!(found, methods, "{path}");
        }
    }

    /// The description of the API lists the door's calls by hand.
    #[test]
    fn every_described_call_of_the_door_is_there() {
        let document = crate::http::openapi::document();
        let paths = document["paths"].as_object().expect("paths");
        let mut found = 0;
        for (path, item) in paths {
            for (method, operation) in item.as_object().expect("methods") {
                if operation["tags"][0] == "Artemis" {
                    let resource = Resource::at(path).unwrap_or_else(|| panic!("{path}"));
                    let method = method.to_ascii_uppercase();
                    assert!(resource.methods().contains(&method), "{method} {path}");
                    let scope = resource.needs().to_string();
                    let said = operation["x-scope"].as_str().unwrap_or_default();
                    assert_eq!(said, scope, "{path}");
                    found += 1;
                }
            }
        }
        assert!(found >= 6, "{found}");
    }
}
