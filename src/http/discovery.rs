//! The registry's reading calls, compatible with Ctrip Artemis.
//!
//! Instances travel as their stored JSON; a service's part of an answer is spliced, never
//! serialized again.
//!
//! Imports its siblings, `id`, `limits`, `state` and `wire`. Imported by `http::router`.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use hyper::body::Incoming;
use hyper::{Method, Request};
use serde::Deserialize;

use super::answers::quoted_bytes;
use super::budget::Permit;
use super::reply::{self, Problem, Reply};
use super::{Query, RequestContext, body};
use crate::id::ServiceName;
use crate::limits;
use crate::state::registry::commands::{ReadAllViews, ReadDelta};
use crate::state::registry::views::{Delta, ServiceViews, View};
use crate::wire::event::{Change, put_change};
use crate::wire::frame::FrameBuilder;
use crate::wire::instance::check_service_id;
use crate::wire::json;
use crate::wire::preference::Preference;

#[derive(Deserialize)]
struct ServiceRequest {
    #[serde(default, deserialize_with = "json::object")]
    prefer: Option<Preference>,
    #[serde(default, rename = "regionId", alias = "region_id")]
    region_id: Option<Box<str>>,
    #[serde(default, rename = "zoneId", alias = "zone_id")]
    zone_id: Option<Box<str>>,
    #[serde(default, rename = "discoveryConfig", alias = "discovery_config")]
    config: Option<Config>,
}

#[derive(Deserialize)]
struct LookupRequest {
    #[serde(default, deserialize_with = "json::object")]
    prefer: Option<Preference>,
    #[serde(default, rename = "regionId", alias = "region_id")]
    region_id: Option<Box<str>>,
    #[serde(default, rename = "zoneId", alias = "zone_id")]
    zone_id: Option<Box<str>>,
    /// Artemis' client puts a null for a service that it was told of and never asked for.
    #[serde(default, rename = "discoveryConfigs", alias = "discovery_configs")]
    configs: Option<Vec<Option<Config>>>,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default, rename = "serviceId", alias = "service_id")]
    service_id: Option<String>,
}

#[derive(Deserialize)]
struct ServicesRequest {
    #[serde(default, deserialize_with = "json::object")]
    prefer: Option<Preference>,
}

const JSON: &str = "application/json";

/// Bytes of an answer beside its parts, at most.
const ANSWER_BYTES: usize = 512;

/// Bytes of a service in an answer beside its name and instances, at most.
const VIEW_BYTES: usize = 256;

/// Bytes of a change in an answer beside its instance, at most.
const CHANGE_BYTES: usize = 128;

/// Whose instances a query wants first: `region`, `zone` and `min`, or `regionId` and `zoneId`.
fn preference_of_query(query: &Query) -> Result<Option<Preference>, String> {
    let named =
        |name: &str, other: &str| query.get(name).or_else(|| query.get(other)).map(Box::from);
    let (region, zone) = (named("region", "regionId"), named("zone", "zoneId"));
    let min = match query.get("min").filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| "min is not a whole number")?),
    };
    Preference { region, zone, min }.checked()
}

/// `service`
pub async fn service(
    context: &RequestContext,
    request: Request<Incoming>,
) -> Result<Reply, Problem> {
    let (service_id, prefer) = if request.method() == Method::GET {
        let query = Query::of(request.uri());
        (query.service_id(), preference_of_query(&query))
    } else {
        let text = body::read(context, request, context.app.limits.http_body_bytes_max).await?;
        let fields: ServiceRequest = match body::artemis_object(&text)? {
            Ok(fields) => fields,
            Err(reply) => return Ok(reply),
        };
        let place = Preference { region: fields.region_id, zone: fields.zone_id, min: None };
        let prefer = fields.prefer.unwrap_or(place).checked();
        (fields.config.and_then(|config| config.service_id), prefer)
    };
    let prefer = match prefer {
        Ok(prefer) => prefer,
        Err(fault) => return Ok(reply::bad_request(&fault)),
    };
    let Some(service_id) = service_id else {
        return Ok(reply::bad_request("serviceId is missing"));
    };
    if let Err(fault) = check_service_id(&service_id) {
        return Ok(reply::bad_request(&fault));
    }
    let views = context.views(vec![ServiceName::of(&service_id)]).await?;
    let answer = put_together(context, views, move |out, views| {
        out.extend_from_slice(b"{\"service\":");
        for view in views {
            put_view(out, view, prefer.as_ref());
        }
    });
    let (answer, permit) = answer.await?;
    Ok(reply::reserved(JSON, answer, permit))
}

/// `services`
pub async fn services(
    context: &RequestContext,
    request: Request<Incoming>,
) -> Result<Reply, Problem> {
    let prefer = if request.method() == Method::POST {
        let text = body::read(context, request, context.app.limits.http_body_bytes_max).await?;
        let fields: ServicesRequest = match body::artemis_object(&text)? {
            Ok(fields) => fields,
            Err(reply) => return Ok(reply),
        };
        // All of Artemis' clients say where they are. This answer is the same for everybody who asks for no order.
        fields.prefer.unwrap_or_default().checked()
    } else {
        preference_of_query(&Query::of(request.uri()))
    };
    let prefer = match prefer {
        Ok(prefer) => prefer,
        Err(fault) => return Ok(reply::bad_request(&fault)),
    };
    let view_cache = &context.app.view_cache;
    if prefer.is_none()
        && let Some(listing) = view_cache.listing()
    {
        return Ok(reply::cached(JSON, listing));
    }
    // After a change many clients ask together. One request of a shard builds, the others find its
    // result.
    let _turn = context.answers.listing.lock().await;
    if prefer.is_none()
        && let Some(listing) = view_cache.listing()
    {
        return Ok(reply::cached(JSON, listing));
    }
    let generation = view_cache.generation();
    let ServiceViews { version, views } = context.ask(ReadAllViews).await?;
    let has_order = prefer.is_some();
    let (listing, permit) = put_together(context, views, move |out, views| {
        put_views(out, views, prefer.as_ref());
        out.extend_from_slice(format!(",\"version\":{version}").as_bytes());
    })
    .await?;
    if !has_order && view_cache.keep_listing(generation, &listing) {
        return Ok(reply::cached(JSON, listing));
    }
    Ok(reply::reserved(JSON, listing, permit))
}

/// Reads the names of a `lookup`.
#[cfg(any(test, fuzzing))]
pub(super) fn decode_lookup(text: &[u8]) {
    if let Ok(LookupRequest { configs: Some(configs), .. }) = body::object(text) {
        assert!(configs.len() <= text.len());
    }
}

/// `lookup`
pub async fn lookup(
    context: &RequestContext,
    request: Request<Incoming>,
) -> Result<Reply, Problem> {
    let text = body::read(context, request, context.app.limits.http_body_bytes_max).await?;
    let fields: LookupRequest = match body::artemis_object(&text)? {
        Ok(fields) => fields,
        Err(reply) => return Ok(reply),
    };
    let place = Preference { region: fields.region_id, zone: fields.zone_id, min: None };
    let prefer = match fields.prefer.unwrap_or(place).checked() {
        Ok(prefer) => prefer,
        Err(fault) => return Ok(reply::bad_request(&fault)),
    };
    let Some(configs) = fields.configs else {
        return Ok(reply::bad_request("discoveryConfigs is missing"));
    };
    // A service is answered once, however often it is named: a kilobyte of names must not become a
    // gigabyte of instances.
    let (mut names, mut named) = (Vec::new(), HashSet::new());
    for config in configs.into_iter().flatten() {
        let service_id = config.service_id.unwrap_or_default();
        if let Err(fault) = check_service_id(&service_id) {
            return Ok(reply::bad_request(&fault));
        }
        let name = ServiceName::of(&service_id);
        if named.insert(name.clone()) {
            names.push(name);
        }
        if names.len() > limits::COMMAND_ENTRIES_MAX {
            return Ok(reply::bad_request("discoveryConfigs names too many services"));
        }
    }
    let views = context.views(names).await?;
    let answer =
        put_together(context, views, move |out, views| put_views(out, views, prefer.as_ref()));
    let (answer, permit) = answer.await?;
    Ok(reply::reserved(JSON, answer, permit))
}

/// `services-delta`
pub async fn delta(context: &RequestContext, request: Request<Incoming>) -> Result<Reply, Problem> {
    #[derive(Deserialize)]
    struct RequestBody {
        version: Option<u64>,
    }
    let text = body::read(context, request, context.app.limits.http_body_bytes_max).await?;
    let fields: RequestBody = match body::artemis_object(&text)? {
        Ok(fields) => fields,
        Err(reply) => return Ok(reply),
    };
    let Some(version) = fields.version else {
        return Ok(reply::bad_request("version is missing"));
    };
    let Some(delta) = context.ask(ReadDelta { version }).await? else {
        let message = "what changed since that version is not known here";
        return Ok(reply::json_value(&reply::failure("data-not-found", message)));
    };
    let bytes = delta_bytes(&delta);
    let permit = context.answers.reserve(bytes)?;
    let is_long = bytes > limits::COPY_INLINE_BYTES_MAX;
    let body = body::beside(is_long, move || delta_body(&delta, bytes)).await?;
    Ok(reply::reserved(JSON, body, permit))
}

/// Bytes that suffice for an answer.
fn delta_bytes(delta: &Delta) -> usize {
    let of = |change: &Change| change.instance.len() + CHANGE_BYTES;
    let services = delta.changes.iter().map(|(service, changes)| {
        quoted_bytes(service.as_str()) + 4 + changes.iter().map(of).sum::<usize>()
    });
    services.sum::<usize>() + ANSWER_BYTES
}

fn delta_body(delta: &Delta, bytes: usize) -> Bytes {
    let mut out = FrameBuilder::with_capacity(bytes);
    out.put(b"{\"changes\":{");
    for (index, (service, changes)) in delta.changes.iter().enumerate() {
        if index > 0 {
            out.put(b",");
        }
        out.put_json_str(service.as_str());
        out.put(b":[");
        for (index, change) in changes.iter().enumerate() {
            if index > 0 {
                out.put(b",");
            }
            put_change(&mut out, change);
        }
        out.put(b"]");
    }
    out.put(b"},\"version\":");
    out.put_u64(delta.version);
    out.put_str(&reply::success_end());
    out.payload()
}

/// Builds a successful answer around the output of `put`, when there is room for it: beside the
/// shard's own thread if many bytes have to be copied.
async fn put_together(
    context: &RequestContext,
    views: Vec<Arc<View>>,
    put: impl FnOnce(&mut BytesMut, &[Arc<View>]) + Send + 'static,
) -> Result<(Bytes, Permit), Problem> {
    let of = |view: &Arc<View>| {
        let rules = view.rules.as_ref().map_or(0, |rules| rules.len() + 1);
        view.instances.bytes() + rules + quoted_bytes(view.service.as_str()) + VIEW_BYTES
    };
    let bytes = views.iter().map(of).sum::<usize>() + ANSWER_BYTES;
    let permit = context.answers.reserve(bytes)?;
    let answer = body::beside(bytes > limits::COPY_INLINE_BYTES_MAX, move || {
        let mut out = BytesMut::with_capacity(bytes);
        put(&mut out, &views);
        out.extend_from_slice(reply::success_end().as_bytes());
        out.freeze()
    })
    .await?;
    Ok((answer, permit))
}

fn put_views(out: &mut BytesMut, views: &[Arc<View>], prefer: Option<&Preference>) {
    out.extend_from_slice(b"{\"services\":[");
    for (index, view) in views.iter().enumerate() {
        if index > 0 {
            out.put_u8(b',');
        }
        put_view(out, view, prefer);
    }
    out.put_u8(b']');
}

fn put_view(out: &mut BytesMut, view: &View, prefer: Option<&Preference>) {
    let name = serde_json::Value::from(view.service.as_str()).to_string();
    let epoch = serde_json::Value::from(view.epoch.as_str()).to_string();
    out.extend_from_slice(b"{\"serviceId\":");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b",\"metadata\":{},\"instances\":");
    match prefer {
        Some(preference) => view.instances.put_nearest(out, preference),
        None => out.extend_from_slice(view.instances.json()),
    }
    if let Some(rules) = &view.rules {
        out.put_u8(b',');
        out.extend_from_slice(rules);
    }
    out.extend_from_slice(
        format!(
            ",\"epoch\":{epoch},\"revision\":{},\"degraded\":{}}}",
            view.revision, view.degraded
        )
        .as_bytes(),
    );
}
