//! Connections over HTTP: list them, send to them, change their subscriptions, close them.
//!
//! Imports its siblings, `auth`, `clock`, `id`, `limits`, `state` and `wire`. Imported by `http::router`.

use hyper::Request;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::answers::quoted_bytes;
use super::reply::{self, Problem, Reply};
use super::{Query, RequestContext, body, channels, log, messages};
use crate::auth::Identity;
use crate::clock::rfc3339;
use crate::id::{ChannelName, ConnName};
use crate::limits;
use crate::state::audit::Door;
use crate::state::messaging::aim::To;
use crate::state::messaging::commands::{
    Broadcast, DescribeConnection, Disconnect, ListConnections, ListOnline, SetMetadata,
    SetSubscription,
};
use crate::state::messaging::replies::{Connections, Delivered, Online};
use crate::state::people::{ConnectionView, OnlineUser};
use crate::wire::json as wire_json;
use crate::wire::refusal::Code;
use crate::wire::talk::{self, Envelope};

#[derive(Deserialize)]
struct RequestBody<'a> {
    message_type: Option<String>,
    #[serde(default, borrow, deserialize_with = "wire_json::raw")]
    data: Option<&'a RawValue>,
    to_user_id: Option<String>,
    only_to: Option<Vec<String>>,
    exclude: Option<Vec<String>>,
    to_channel: Option<String>,
}

async fn send(
    context: &RequestContext,
    request: Request<Incoming>,
    from: Option<&Identity>,
    to: impl FnOnce(&mut RequestBody<'_>) -> Result<To, Problem>,
) -> Result<Reply, Problem> {
    let text = body::read(context, request, context.app.limits.http_body_bytes_max).await?;
    let mut fields: RequestBody<'_> = body::borrowed(&text)?;
    let to = to(&mut fields)?;
    let envelope = Envelope::new(fields.message_type, fields.data)?;
    let from = from.map(|identity| identity.user_id.clone());
    let aim = body::aim(fields.only_to, fields.exclude);
    let broadcast = || {
        let (envelope, from) = (envelope.clone(), from.clone());
        Broadcast { envelope, from, to: to.clone(), aim: aim.clone() }
    };
    let Delivered { count, id } = match &to {
        To::User(user) => messages::ask_for(context, user, broadcast).await?,
        _ => context.ask(broadcast()).await?,
    };
    Ok(reply::json_bytes(format!("{{\"delivered_to\":{count},\"id\":{id}}}")))
}

/// `POST /ws/broadcast`
pub async fn broadcast(
    context: &RequestContext,
    request: Request<Incoming>,
    from: Option<&Identity>,
) -> Result<Reply, Problem> {
    let bytes_max = context.app.limits.topic_bytes_max;
    send(context, request, from, |fields| match fields.to_channel.take() {
        Some(channel) => {
            let channel = talk::channel(Some(channel), bytes_max)?;
            channels::check_may_publish(context, &channel, from)?;
            Ok(To::Channel(channel))
        }
        None => Ok(To::Everyone),
    })
    .await
}

/// `POST /ws/send`
pub async fn send_to_user(
    context: &RequestContext,
    request: Request<Incoming>,
    from: Option<&Identity>,
) -> Result<Reply, Problem> {
    send(context, request, from, |fields| {
        Ok(To::User(talk::user("to_user_id", fields.to_user_id.take())?))
    })
    .await
}

/// `POST /api/v1/connections/{id}/messages`
pub async fn send_to_connection(
    context: &RequestContext,
    request: Request<Incoming>,
    from: Option<&Identity>,
    id: &str,
) -> Result<Reply, Problem> {
    let name = connection_id(id)?;
    send(context, request, from, |_| Ok(To::Connection(name))).await
}

/// `GET /ws/online`
pub async fn online(context: &RequestContext) -> Result<Reply, Problem> {
    let Online { count, users } = context.ask(ListOnline).await?;
    let of = |user: &OnlineUser| {
        let person = &user.person;
        quoted_bytes(person.user_id.as_str()) + quoted_bytes(&person.username) + ROW_BYTES
    };
    let permit = context.answers.reserve(users.iter().map(of).sum::<usize>() + ROW_BYTES)?;
    let users: Vec<Value> = users
        .iter()
        .map(|user| {
            json!({
                "user_id": user.person.user_id.as_str(),
                "username": &*user.person.username,
                "connections": user.connections,
                "connected_at": rfc3339(user.since_ms),
            })
        })
        .collect();
    let reply = reply::json_value(&json!({"count": count, "users": users}));
    Ok(reply::holding(reply, permit))
}

/// Bytes of a row of a list beside clients' names, at most.
const ROW_BYTES: usize = 256;

/// Bytes that suffice for a connection in a list.
fn connection_bytes(connection: &ConnectionView) -> usize {
    let person = connection
        .person
        .as_ref()
        .map_or(0, |person| quoted_bytes(person.user_id.as_str()) + quoted_bytes(&person.username));
    let channels = connection.channels.iter().map(|name| quoted_bytes(name.as_str()) + 1);
    let rooms = connection.rooms.iter().map(|name| quoted_bytes(name) + 1);
    person + channels.sum::<usize>() + rooms.sum::<usize>() + ROW_BYTES
}

fn connection_id(text: &str) -> Result<ConnName, Problem> {
    text.parse().map_err(|_| Problem::new(404, Code::NotFound, "there is no such connection"))
}

fn connection_value(connection: &ConnectionView) -> Value {
    let person = connection.person.as_ref();
    let mut value = json!({
        "connection_id": connection.id.to_string(),
        "user_id": person.map(|person| person.user_id.as_str()),
        "username": person.map(|person| &*person.username),
        "remote_addr": connection.remote.map(|remote| remote.to_string()),
        "connected_at": rfc3339(connection.opened_ms),
        "shard": connection.id.conn.shard.0,
        "channels": connection.channels.iter().map(ChannelName::as_str).collect::<Vec<_>>(),
        "rooms": connection.rooms,
    });
    if let Some(metadata) = &connection.metadata {
        value["metadata"] = serde_json::from_str(metadata.get()).unwrap_or_default();
    }
    value
}

/// `GET /api/v1/connections`
pub async fn connections(context: &RequestContext, query: &Query) -> Result<Reply, Problem> {
    let limit =
        query.number("limit", 1, limits::LISTED_MAX)?.unwrap_or(limits::CONNECTIONS_LISTED_DEFAULT);
    let after = match query.get("after") {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| Problem::invalid("after is no connection"))?),
    };
    let list = ListConnections { after, limit };
    let Connections { total, connections } = context.ask(list).await?;
    let bytes = connections.iter().map(connection_bytes).sum::<usize>() + ROW_BYTES;
    let permit = context.answers.reserve(bytes)?;
    let next = (connections.len() == limit).then(|| connections.last()).flatten();
    let reply = reply::json_value(&json!({
        "connections": connections.iter().map(connection_value).collect::<Vec<_>>(),
        "total": total,
        "next": next.map(|last| last.id.to_string()),
    }));
    Ok(reply::holding(reply, permit))
}

/// `GET /api/v1/connections/{id}`
pub async fn connection(context: &RequestContext, id: &str) -> Result<Reply, Problem> {
    match context.ask(DescribeConnection(connection_id(id)?)).await? {
        Some(connection) => Ok(reply::json_value(&connection_value(&connection))),
        None => Err(Problem::new(404, Code::NotFound, "there is no such connection")),
    }
}

/// `DELETE /api/v1/connections/{id}`
pub async fn disconnect(context: &RequestContext, id: &str) -> Result<Reply, Problem> {
    let name = connection_id(id)?;
    let on = name.to_string();
    context.ask_as(Door::Http, Disconnect(name)).await?;
    log::operator(context, "disconnect", &on, None);
    Ok(reply::no_content())
}

/// `PUT` and `DELETE /api/v1/connections/{id}/channels/{name}`
pub async fn set_subscription(
    context: &RequestContext,
    id: &str,
    channel: String,
    is_subscribed: bool,
) -> Result<Reply, Problem> {
    let connection = connection_id(id)?;
    let channel = talk::channel(Some(channel), context.app.limits.topic_bytes_max)?;
    let on = format!("{connection} {channel}");
    context.ask(SetSubscription { connection, channel, is_subscribed }).await?;
    let action = if is_subscribed { "subscribe connection" } else { "unsubscribe connection" };
    log::operator(context, action, &on, None);
    Ok(reply::no_content())
}

/// `PUT /api/v1/connections/{id}/metadata`
pub async fn set_metadata(
    context: &RequestContext,
    request: Request<Incoming>,
    id: &str,
) -> Result<Reply, Problem> {
    let connection = connection_id(id)?;
    let text = body::read(context, request, context.app.limits.http_body_bytes_max).await?;
    let metadata = talk::connection_metadata(body::borrowed(&text)?)?;
    let on = connection.to_string();
    context.ask(SetMetadata { connection, metadata }).await?;
    log::operator(context, "set metadata", &on, None);
    Ok(reply::no_content())
}
