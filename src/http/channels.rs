//! Channels over HTTP, and the messages behind them: live updates and dashboards.
//!
//! Imports its siblings, `auth`, `id`, `limits`, `state`, `wire` and `ws`. Imported by `http::router`.

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::answers::quoted_bytes;
use super::reply::{self, Problem, Reply};
use super::{Query, RequestContext, body, log};
use crate::auth::Identity;
use crate::auth::namespace::Barred;
use crate::id::{ChannelName, UserId};
use crate::limits;
use crate::state::audit::Door;
use crate::state::channels::view::ChannelView;
use crate::state::messaging::aim::Aimed;
use crate::state::messaging::commands::{
    DefineChannel, DeleteChannel, DescribeChannel, ListChannels, Publish, Publisher, ReadHistory,
};
use crate::state::messaging::replies::{History, Published};
use crate::wire::frame;
use crate::wire::json as wire_json;
use crate::wire::refusal::Code;
use crate::wire::talk::{self, Publication};
use crate::ws::authorizer;

fn channel(context: &RequestContext, name: Option<String>) -> Result<ChannelName, Problem> {
    Ok(talk::channel(name, context.app.limits.topic_bytes_max)?)
}

/// The refusal for a caller that may not subscribe or publish.
pub(super) fn refused(barred: Barred) -> Problem {
    if barred.needs_token {
        return authorizer::token_required().into();
    }
    Problem::new(403, Code::Forbidden, barred.reason)
}

/// Whether a caller may publish any message of its own to a channel.
pub(super) fn check_may_publish(
    context: &RequestContext,
    channel: &ChannelName,
    identity: Option<&Identity>,
) -> Result<(), Problem> {
    let authorizer = &context.app.authorizer;
    let may =
        authorizer.namespaces.may_publish(channel.as_str(), identity, authorizer.is_auth_required);
    may.map_err(refused)
}

fn channel_value(view: &ChannelView) -> Value {
    let mut value = json!({
        "name": view.name.as_str(),
        "description": &*view.description,
        "subscribers": view.subscribers,
        "defined": view.is_defined,
    });
    if let Some((epoch, offset)) = &view.position {
        value["epoch"] = epoch.as_str().into();
        value["offset"] = (*offset).into();
    }
    if let Some(users) = &view.users {
        value["users"] = users
            .iter()
            .map(
                |(user_id, username)| json!({"user_id": user_id.as_str(), "username": &**username}),
            )
            .collect();
    }
    value
}

/// Bytes that suffice for a channel in a list.
fn channel_bytes(view: &ChannelView) -> usize {
    let users = view.users.iter().flatten();
    let users = users.map(|(id, name)| quoted_bytes(id.as_str()) + quoted_bytes(name) + 32);
    quoted_bytes(view.name.as_str()) + quoted_bytes(&view.description) + users.sum::<usize>() + 256
}

/// `GET /api/v1/channels`
pub async fn list(context: &RequestContext) -> Result<Reply, Problem> {
    let channels = context.ask(ListChannels).await?;
    let permit = context.answers.reserve(channels.iter().map(channel_bytes).sum::<usize>() + 64)?;
    let channels: Vec<Value> = channels.iter().map(channel_value).collect();
    Ok(reply::holding(reply::json_value(&json!({"channels": channels})), permit))
}

/// `POST /api/v1/channels`
pub async fn define(
    context: &RequestContext,
    request: Request<Incoming>,
) -> Result<Reply, Problem> {
    #[derive(Deserialize)]
    struct RequestBody {
        name: Option<String>,
        description: Option<String>,
    }
    let bytes_max = context.app.limits.http_body_bytes_max;
    let fields: RequestBody = body::read_object(context, request, bytes_max).await?;
    let invalid = |what| Problem::invalid(what);
    let name = fields.name.ok_or_else(|| invalid("name is missing"))?;
    let channel = channel(context, Some(name))?;
    let description = talk::description(fields.description.unwrap_or_default())?;
    let view = context.ask_as(Door::Http, DefineChannel { channel, description }).await?;
    log::operator(context, "create channel", view.name.as_str(), None);
    Ok(reply::with_status(StatusCode::CREATED, &channel_value(&view)))
}

/// `GET /api/v1/channels/{name}`
pub async fn describe(context: &RequestContext, name: String) -> Result<Reply, Problem> {
    let channel = channel(context, Some(name))?;
    match context.ask(DescribeChannel(channel)).await? {
        Some(view) => Ok(reply::json_value(&channel_value(&view))),
        None => Err(Problem::new(404, Code::NotFound, "there is no such channel")),
    }
}

/// `DELETE /api/v1/channels/{name}`
pub async fn delete(context: &RequestContext, name: String) -> Result<Reply, Problem> {
    let channel = channel(context, Some(name))?;
    context.ask_as(Door::Http, DeleteChannel(channel.clone())).await?;
    log::operator(context, "delete channel", channel.as_str(), None);
    Ok(reply::no_content())
}

async fn publish_to(
    context: &RequestContext,
    channel: ChannelName,
    publication: Publication,
    identity: Option<&Identity>,
    aim: Aimed,
) -> Result<Reply, Problem> {
    let from: Option<UserId> = identity.map(|identity| identity.user_id.clone());
    let by = Publisher::Request(context.block());
    let publish = Publish { channel, publication, from, aim, without: None, by };
    let Published { channel, epoch, offset, message_id, delivered_to } =
        context.ask(publish).await?;
    Ok(reply::json_value(&json!({
        "channel": channel.as_str(),
        "epoch": epoch.as_str(),
        "offset": offset,
        "message_id": message_id.to_string(),
        "delivered_to": delivered_to,
    })))
}

/// `POST /api/v1/channels/{name}/messages`
pub async fn publish(
    context: &RequestContext,
    request: Request<Incoming>,
    identity: Option<&Identity>,
    name: String,
) -> Result<Reply, Problem> {
    #[derive(Deserialize)]
    struct RequestBody<'a> {
        #[serde(rename = "type")]
        kind: Option<String>,
        #[serde(default, borrow, deserialize_with = "wire_json::raw")]
        payload: Option<&'a RawValue>,
        event: Option<String>,
        #[serde(default, borrow, deserialize_with = "wire_json::raw")]
        metadata: Option<&'a RawValue>,
        only_to: Option<Vec<String>>,
        exclude: Option<Vec<String>>,
    }
    let channel = channel(context, Some(name))?;
    check_may_publish(context, &channel, identity)?;
    let text = body::read(context, request, context.app.limits.http_body_bytes_max).await?;
    let fields: RequestBody<'_> = body::borrowed(&text)?;
    let publication =
        Publication::new(fields.kind.as_deref(), fields.payload, fields.event, fields.metadata)?;
    let aim = body::aim(fields.only_to, fields.exclude);
    publish_to(context, channel, publication, identity, aim).await
}

/// `GET /api/v1/channels/{name}/history`
pub async fn history(
    context: &RequestContext,
    query: &Query,
    identity: Option<&Identity>,
    name: String,
) -> Result<Reply, Problem> {
    let channel = channel(context, Some(name))?;
    let authorizer = &context.app.authorizer;
    let may =
        authorizer.namespaces.may_follow(channel.as_str(), identity, authorizer.is_auth_required);
    may.map_err(refused)?;
    let after = query.number("after", 0, usize::MAX)?.unwrap_or(0) as u64;
    let limit = query.number("limit", 1, limits::PAGE_MAX)?.unwrap_or(limits::PAGE_MAX);
    let History { epoch, frames } = context.ask(ReadHistory { channel, after, limit }).await?;
    let bytes = frames.iter().map(|frame| frame.len() + 1).sum::<usize>() + 256;
    let permit = context.answers.reserve(bytes)?;
    let mut out = Vec::with_capacity(bytes);
    let head = format!("{{\"epoch\":{},\"messages\":[", json!(epoch.as_str()));
    out.extend_from_slice(head.as_bytes());
    for (index, message) in frames.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(&frame::payload(message));
    }
    out.extend_from_slice(b"]}");
    Ok(reply::reserved("application/json", out.into(), permit))
}

/// `POST /api/v1/live/{entity}/{id}`
pub async fn live(
    context: &RequestContext,
    request: Request<Incoming>,
    identity: Option<&Identity>,
    (entity, id): (String, String),
) -> Result<Reply, Problem> {
    #[derive(Deserialize)]
    struct RequestBody<'a> {
        action: Option<String>,
        #[serde(default, borrow, deserialize_with = "wire_json::raw")]
        data: Option<&'a RawValue>,
    }
    let text = body::read(context, request, context.app.limits.http_body_bytes_max).await?;
    let fields: RequestBody<'_> = body::borrowed(&text)?;
    let action = fields.action.unwrap_or_default();
    let bytes_max = context.app.limits.topic_bytes_max;
    let update = talk::live_update(&entity, &id, &action, fields.data, bytes_max)?;
    publish_event(context, update, identity).await
}

/// `POST /api/v1/dashboards/{name}/metrics`
pub async fn metrics(
    context: &RequestContext,
    request: Request<Incoming>,
    identity: Option<&Identity>,
    name: String,
) -> Result<Reply, Problem> {
    let text = body::read(context, request, context.app.limits.http_body_bytes_max).await?;
    let metrics: &RawValue = body::borrowed(&text)?;
    let update = talk::dashboard(&name, metrics, context.app.limits.topic_bytes_max)?;
    publish_event(context, update, identity).await
}

async fn publish_event(
    context: &RequestContext,
    (channel, publication): (ChannelName, Publication),
    identity: Option<&Identity>,
) -> Result<Reply, Problem> {
    let authorizer = &context.app.authorizer;
    let may = authorizer.namespaces.may_take_door(
        channel.as_str(),
        identity,
        authorizer.is_auth_required,
    );
    may.map_err(refused)?;
    publish_to(context, channel, publication, identity, Aimed::default()).await
}
