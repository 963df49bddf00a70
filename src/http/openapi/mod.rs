//! `/openapi.json`: the HTTP API, described for programs (`OpenAPI` 3.1).
//!
//! `operations` and `schemas` have the texts and the bodies. Paths, methods, scopes and so the possible
//! refusals come from the table of routes. A test fails on an operation without a route.
//!
//! Imports its siblings, `wire` and `ws`. Part of `http`.

mod operations;
mod schemas;

use std::sync::OnceLock;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::reply::{self, Reply};
use super::routes::{self, Needs};
use crate::wire::refusal::Code;
use crate::ws::base_path::BasePath;
use operations::{OPERATIONS, Operation, TAGS};

/// `GET /openapi.json`
pub fn answer(base_path: &BasePath) -> Reply {
    static TEXT: OnceLock<Bytes> = OnceLock::new();
    let text = TEXT.get_or_init(|| document().to_string().into());
    let mut reply = if base_path.is_root() {
        reply::fixed("application/json", text.clone())
    } else {
        let at_root = json!({"servers": [{"url": "/"}]}).to_string();
        let below = json!({"servers": [{"url": base_path.to_string()}]}).to_string();
        // The member has the same text as in an object of its own, braces aside.
        let inner = |text: &str| text[1..text.len() - 1].to_owned();
        let text = String::from_utf8_lossy(text);
        let text = text.replacen(&inner(&at_root), &inner(&below), 1);
        reply::json_bytes(text)
    };
    let headers = reply.headers_mut();
    headers.insert("cache-control", hyper::header::HeaderValue::from_static("no-cache"));
    reply
}

/// The whole description.
pub fn document() -> Value {
    let mut paths = Map::new();
    for operation in OPERATIONS {
        let item = paths.entry(operation.path).or_insert_with(|| json!({}));
        item[operation.method.to_ascii_lowercase()] = describe(operation);
    }
    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "fanfare",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": env!("CARGO_PKG_DESCRIPTION"),
            "license": {"name": env!("CARGO_PKG_LICENSE"), "identifier": env!("CARGO_PKG_LICENSE")},
            "description": INTRODUCTION,
        },
        "servers": [{"url": "/"}],
        "tags": TAGS.iter()
            .map(|(name, text)| json!({"name": name, "description": text}))
            .collect::<Vec<_>>(),
        "paths": paths,
        "components": {
            "schemas": schemas::all(&codes),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
            },
        },
    })
}

const INTRODUCTION: &str = "JSON in and out. The paths of registry, discovery, management and \
    status work with and without `.json`. Where the server runs with `--auth required`, every call \
    but the open ones needs a token; direct and group messages need one everywhere. What is pushed \
    over WebSockets is another contract, told in the documentation.";

fn describe(operation: &Operation) -> Value {
    let needs = needs_of(operation);
    let mut value = json!({
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "responses": responses(operation, needs.as_ref()),
    });
    if !operation.note.is_empty() {
        value["description"] = operation.note.into();
    }
    let parameters = parameters(operation);
    if !parameters.is_empty() {
        value["parameters"] = parameters.into();
    }
    if let Some(schema) = operation.body {
        value["requestBody"] = json!({
            "required": true,
            "content": {"application/json": {"schema": reference(schema)}},
        });
    }
    value["security"] = match needs {
        None | Some(Needs::Nothing) => json!([]),
        // Both: a call that is open in one mode needs a token in the other.
        Some(Needs::TokenWhereRequired(scope)) => {
            if let Some(scope) = scope {
                value["x-scope"] = scope.into();
            }
            json!([{}, {"token": []}])
        }
        Some(Needs::Token(scope)) => {
            if !scope.is_empty() {
                value["x-scope"] = scope.into();
            }
            json!([{"token": []}])
        }
    };
    value
}

/// The access of an operation: by the table of routes, or as its door has it.
fn needs_of(operation: &Operation) -> Option<Needs> {
    if let Some(scope) = operation.door_scope {
        let scope = (!scope.is_empty()).then(|| scope.to_owned());
        return Some(Needs::TokenWhereRequired(scope));
    }
    routes::needs(operation.method, &sample(operation.path))
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

/// A path with values in its places.
fn sample(template: &str) -> String {
    let part = |part: &str| if part.starts_with('{') { "x" } else { part }.to_owned();
    template.split('/').map(part).collect::<Vec<_>>().join("/")
}

fn parameters(operation: &Operation) -> Vec<Value> {
    let places = operation.path.split('/').filter_map(|part| {
        let name = part.strip_prefix('{')?.strip_suffix('}')?;
        let schema = json!({"type": "string", "minLength": 1, "maxLength": 255});
        Some(json!({"name": name, "in": "path", "required": true, "schema": schema}))
    });
    let queries = operation.query.iter().map(|query| {
        let schema = match query.bounds {
            Some((min, max)) => json!({"type": "integer", "minimum": min, "maximum": max}),
            None => json!({"type": "string"}),
        };
        json!({"name": query.name, "in": "query", "description": query.text, "schema": schema})
    });
    places.chain(queries).collect()
}

/// The answers: those of the operation itself, and those that follow from its route and body.
fn responses(operation: &Operation, needs: Option<&Needs>) -> Value {
    let mut responses = Map::new();
    for &(status, schema) in operation.answers {
        let status_text = status.to_string();
        let mut response = json!({"description": title(status)});
        if let Some(schema) = schema {
            let kind = match schema {
                "Problem" => "application/problem+json",
                "Text" => "text/plain",
                _ => "application/json",
            };
            response["content"] = json!({kind: {"schema": reference(schema)}});
        }
        let links: Map<String, Value> = LINKS
            .iter()
            .filter(|(from, at, ..)| (*from, *at) == (operation.id, status))
            .map(|&(_, _, to, pointer)| {
                let id = format!("$response.body#{pointer}");
                (to.to_owned(), json!({"operationId": to, "parameters": {"id": id}}))
            })
            .collect();
        if !links.is_empty() {
            response["links"] = Value::Object(links);
        }
        responses.insert(status_text, response);
    }
    // Hosts and pages are judged first (`http::cross_site`).
    let mut problems = vec![400, 421];
    if operation.method != "GET" {
        problems.push(403);
    }
    if operation.body.is_some() {
        problems.extend([408, 413, 415, 429]);
    }
    match needs {
        None | Some(Needs::Nothing) => {}
        Some(Needs::TokenWhereRequired(None)) => problems.push(401),
        Some(Needs::Token(_) | Needs::TokenWhereRequired(Some(_))) => problems.extend([401, 403]),
    }
    if needs.is_some_and(|needs| *needs != Needs::Nothing) {
        // An answer whose size follows from a client's data may be too large, or too much for now.
        problems.extend([413, 503]);
    }
    for status in problems {
        responses.entry(status.to_string()).or_insert_with(|| {
            let content = json!({"application/problem+json": {"schema": reference("Problem")}});
            json!({"description": title(status), "content": content})
        });
    }
    Value::Object(responses)
}

/// The answers with an id that other operations take.
const LINKS: &[(&str, u16, &str, &str)] = &[
    ("createGroup", 201, "group", "/group_id"),
    ("createGroup", 201, "addMember", "/group_id"),
    ("createGroup", 201, "sendToGroup", "/group_id"),
    ("createGroup", 201, "deleteGroup", "/group_id"),
    ("connections", 200, "connection", "/connections/0/connection_id"),
    ("connections", 200, "sendToConnection", "/connections/0/connection_id"),
    ("connections", 200, "setConnectionMetadata", "/connections/0/connection_id"),
];

fn title(status: u16) -> &'static str {
    let status = hyper::StatusCode::from_u16(status).ok();
    status.and_then(|status| status.canonical_reason()).unwrap_or("Answer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_described_path_leads_somewhere() {
        for operation in OPERATIONS {
            // A door's own test looks for the rest.
            let needs = needs_of(operation);
            assert!(needs.is_some(), "{} {}", operation.method, operation.path);
        }
    }

    #[test]
    fn every_reference_is_there_and_every_schema_is_used() {
        let document = document();
        let text = document.to_string();
        let schemas = document["components"]["schemas"].as_object().expect("schemas");
        for part in text.split("\"#/components/schemas/").skip(1) {
            let name = part.split('"').next().unwrap_or_default();
            assert!(schemas.contains_key(name), "{name}");
        }
        for name in schemas.keys() {
            assert!(text.contains(&format!("\"#/components/schemas/{name}\"")), "{name}");
        }
    }

    #[test]
    fn ids_are_unique() {
        let mut ids: Vec<&str> = OPERATIONS.iter().map(|operation| operation.id).collect();
        ids.sort_unstable();
        let count = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), count);
    }
}
