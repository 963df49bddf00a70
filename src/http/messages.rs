//! Direct and group messages: stored before they are acknowledged, pushed to receivers that are connected,
//! pulled by the others.
//!
//! Imports its siblings, `auth`, `clock`, `id`, `limits`, `state`, `store` and `wire`. Imported by
//! `http::router`.

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answers::quoted_bytes;
use super::reply::{self, Problem, Reply};
use super::{Query, RequestContext, body, users};
use crate::auth::names;
use crate::clock::rfc3339;
use crate::id::UserId;
use crate::limits;
use crate::state::Ask;
use crate::state::durable::{Write, Written};
use crate::state::journal::Page;
use crate::state::messaging::commands::{
    ApplyAccounts, ReadUnwritten, SendPrivate, SendToGroup, StoreChange,
};
use crate::state::messaging::replies::Stored;
use crate::store::read_pool::{Group, Invitation, StoredMessage};
use crate::wire::instance::check_name;
use crate::wire::refusal::{Code, Refusal};
use crate::wire::talk;

#[derive(Deserialize)]
struct MessageRequest {
    to_user_id: Option<String>,
    content: Option<String>,
}

/// The id of a group in a path. A text that cannot be an id is an unknown group.
///
/// # Errors
///
/// `not_found`.
pub fn group_id(text: &str) -> Result<String, Problem> {
    match check_name("id", text) {
        Ok(()) => Ok(text.to_owned()),
        Err(_) => Err(Refusal::new(Code::NotFound, "there is no such group").into()),
    }
}

fn stored(stored: &Stored) -> Reply {
    let value = json!({"id": stored.id.to_string(), "created_at": stored.at_s});
    reply::with_status(StatusCode::CREATED, &value)
}

/// Sends a command with a receiver, which may be a name (`name:bob`).
///
/// # Errors
///
/// Control's refusal, or 429 if the address asked for too many unknown names.
pub(super) async fn ask_for<A: Ask>(
    context: &RequestContext,
    user: &UserId,
    command: impl Fn() -> A,
) -> Result<A::Reply, Problem> {
    let is_named = names::named(user.as_str()).is_some();
    if is_named {
        users::check_name_lookup(context)?;
    }
    let result = match context.ask(command()).await {
        // Another node may have seen the user, or given the name, a moment ago.
        Err(refusal) if refusal.code == Code::NotFound && learn(context, user).await? => {
            context.ask(command()).await
        }
        result => result,
    };
    result.map_err(|refusal| match refusal.code {
        Code::NotFound if is_named => users::unknown_name(context),
        _ => refusal.into(),
    })
}

/// Tells control of a user that another node saw first. Returns whether there is one.
async fn learn(context: &RequestContext, user: &UserId) -> Result<bool, Problem> {
    // Without a shared database there is no other place to look.
    if !context.app.is_clustered || !context.app.read_pool.is_open() {
        return Ok(false);
    }
    let Some(change) = context.app.read_pool.change_of(user).await? else { return Ok(false) };
    context.ask(ApplyAccounts(vec![change])).await?;
    Ok(true)
}

/// `POST /api/v1/messages`
pub async fn send(
    context: &RequestContext,
    request: Request<Incoming>,
    from: &UserId,
) -> Result<Reply, Problem> {
    let fields: MessageRequest =
        body::read_object(context, request, context.app.limits.http_body_bytes_max).await?;
    let to = talk::user("to_user_id", fields.to_user_id)?;
    let content = talk::content(fields.content, limits::MESSAGE_CONTENT_BYTES_MAX)?;
    let send = || {
        let (from, to, content) = (from.clone(), to.clone(), content.clone());
        SendPrivate { from, to, content }
    };
    Ok(stored(&ask_for(context, &to, send).await?))
}

/// `POST /api/v1/groups/{id}/messages`
pub async fn send_to_group(
    context: &RequestContext,
    request: Request<Incoming>,
    from: &UserId,
    group_id: String,
) -> Result<Reply, Problem> {
    let fields: MessageRequest =
        body::read_object(context, request, context.app.limits.http_body_bytes_max).await?;
    let content = talk::content(fields.content, limits::MESSAGE_CONTENT_BYTES_MAX)?;
    let send = SendToGroup { from: from.clone(), group_id, content };
    Ok(stored(&context.ask(send).await?))
}

/// The user for a query to the database instead of control: a user id, or the user of `name:` and a
/// name.
async fn resolved(context: &RequestContext, user: UserId) -> Result<UserId, Problem> {
    if names::named(user.as_str()).is_none() {
        return Ok(user);
    }
    users::check_name_lookup(context)?;
    let found = context.app.read_pool.change_of(&user).await?;
    found.map(|change| change.user_id).ok_or_else(|| users::unknown_name(context))
}

/// `GET /api/v1/messages`
pub async fn pull(
    context: &RequestContext,
    query: &Query,
    user: &UserId,
) -> Result<Reply, Problem> {
    let limit = query.number("limit", 1, limits::PAGE_MAX)?.unwrap_or(limits::PAGE_DEFAULT);
    let invalid = |what: &'static str| Problem::invalid(what);
    let after = query.get("after").filter(|after| !after.is_empty());
    let after = after.map(|text| text.parse().map_err(|_| invalid("after is no message's id")));
    let with = match query.get("with") {
        None => None,
        Some(with) => Some(resolved(context, talk::user("with", Some(with))?).await?),
    };
    let read_pool = &context.app.read_pool;
    let after = after.transpose()?;
    // First the journal's messages, then the database's: no message is lost between the two.
    let page = Page { user: user.clone(), after, with: with.clone(), limit: limit + 1 };
    let unwritten =
        if context.app.is_clustered { context.ask(ReadUnwritten(page)).await? } else { Vec::new() };
    let mut messages = read_pool.messages(user, after, limit + 1, with).await?;
    let last = messages.last().map(|last| last.id.clone());
    let fresh = unwritten.iter().map(|one| StoredMessage::of(one));
    // The database has a beginning of the journal, so the messages that it lacks come after it.
    messages.extend(fresh.filter(|one| last.as_ref().is_none_or(|last| one.id > *last)));
    let has_more = messages.len() > limit;
    messages.truncate(limit);
    let next = messages.last().filter(|_| has_more).map(|last| last.id.clone());
    let bytes = messages.iter().map(message_bytes).sum::<usize>() + 256;
    let permit = context.answers.reserve(bytes)?;
    let reply = reply::json_value(&json!({
        "messages": messages.iter().map(message_value).collect::<Vec<_>>(),
        "next": next,
    }));
    Ok(reply::holding(reply, permit))
}

/// Bytes that suffice for a message in a list.
fn message_bytes(message: &StoredMessage) -> usize {
    let to = message.group_id.as_deref().or(message.to_user_id.as_deref()).unwrap_or("");
    let texts = [&*message.id, &*message.from_user_id, &*message.content, to];
    texts.into_iter().map(quoted_bytes).sum::<usize>() + 128
}

fn message_value(message: &StoredMessage) -> Value {
    let mut value = json!({
        "id": message.id,
        "from_user_id": message.from_user_id,
        "content": message.content,
        "created_at": message.created_at,
    });
    let (kind, field, to) = match &message.group_id {
        Some(group_id) => ("group", "group_id", Some(group_id)),
        None => ("private", "to_user_id", message.to_user_id.as_ref()),
    };
    value["type"] = kind.into();
    value[field] = to.cloned().into();
    value
}

/// `POST /api/v1/groups`
pub async fn create_group(
    context: &RequestContext,
    request: Request<Incoming>,
    owner: &UserId,
) -> Result<Reply, Problem> {
    #[derive(Deserialize)]
    struct GroupRequest {
        name: Option<String>,
        members: Option<Vec<String>>,
    }
    let fields: GroupRequest =
        body::read_object(context, request, context.app.limits.http_body_bytes_max).await?;
    let invalid = |what: String| Problem::invalid(what);
    let name = fields.name.ok_or_else(|| invalid("name is missing".to_owned()))?;
    check_name("name", &name).map_err(invalid)?;
    let mut members = vec![owner.clone()];
    for member in fields.members.unwrap_or_default() {
        let member = talk::user("members", Some(member))?;
        if !members.contains(&member) {
            members.push(member);
        }
        if members.len() > limits::GROUP_MEMBERS_MAX {
            return Err(invalid(format!("more than {} members", limits::GROUP_MEMBERS_MAX)));
        }
    }
    let group_id = (context.app.new_id)();
    let at_ms = context.clock.now().wall_ms;
    let owner = owner.clone();
    // The creator is the first member and needs no invitation.
    let invited = if context.app.group_invitations { members.split_off(1) } else { Vec::new() };
    let write =
        Write::CreateGroup { group_id: group_id.clone(), name, owner, members, invited, at_ms };
    context.ask(StoreChange(write)).await?;
    Ok(reply::with_status(StatusCode::CREATED, &json!({"group_id": group_id})))
}

fn group_value(group: &Group) -> Value {
    json!({
        "group_id": group.group_id,
        "name": group.name,
        "owner": group.owner.as_str(),
        "created_at": rfc3339(group.created_ms),
    })
}

/// Bytes that suffice for a group in a list, with its members and invited users.
fn group_bytes(group: &Group) -> usize {
    let users = group.members.iter().chain(&group.invited);
    let users = users.map(|user| quoted_bytes(user.as_str()) + 1);
    quoted_bytes(&group.name) + quoted_bytes(group.owner.as_str()) + users.sum::<usize>() + 256
}

fn invitation_value(invitation: &Invitation) -> Value {
    json!({
        "group_id": invitation.group_id,
        "name": invitation.name,
        "owner": invitation.owner.as_str(),
        "invited_by": invitation.invited_by.as_str(),
        "invited_at": rfc3339(invitation.invited_ms),
    })
}

/// Bytes that suffice for an invitation in a list.
fn invitation_bytes(invitation: &Invitation) -> usize {
    let users = [&invitation.owner, &invitation.invited_by].map(|user| quoted_bytes(user.as_str()));
    quoted_bytes(&invitation.name) + users.iter().sum::<usize>() + 256
}

/// `GET /api/v1/groups`
pub async fn groups(context: &RequestContext, user: &UserId) -> Result<Reply, Problem> {
    let groups = context.app.read_pool.groups(user).await?;
    let invitations = context.app.read_pool.invitations(user).await?;
    let bytes = groups.iter().map(group_bytes).sum::<usize>();
    let more = invitations.iter().map(invitation_bytes).sum::<usize>();
    let permit = context.answers.reserve(bytes + more + 64)?;
    let groups: Vec<Value> = groups.iter().map(group_value).collect();
    let invitations: Vec<Value> = invitations.iter().map(invitation_value).collect();
    let value = json!({"groups": groups, "invitations": invitations});
    Ok(reply::holding(reply::json_value(&value), permit))
}

/// `GET /api/v1/groups/{id}`
pub async fn group(
    context: &RequestContext,
    user: &UserId,
    group_id: &str,
) -> Result<Reply, Problem> {
    let group = context.app.read_pool.group(group_id, user).await?;
    let permit = context.answers.reserve(group_bytes(&group))?;
    let mut value = group_value(&group);
    value["members"] = group.members.iter().map(UserId::as_str).collect();
    value["invited"] = group.invited.iter().map(UserId::as_str).collect();
    Ok(reply::holding(reply::json_value(&value), permit))
}

/// `DELETE /api/v1/groups/{id}`
pub async fn delete_group(
    context: &RequestContext,
    by: &UserId,
    group_id: String,
) -> Result<Reply, Problem> {
    context.ask(StoreChange(Write::DeleteGroup { group_id, by: by.clone() })).await?;
    Ok(reply::no_content())
}

/// `POST /api/v1/groups/{id}/members`
pub async fn add_member(
    context: &RequestContext,
    request: Request<Incoming>,
    by: &UserId,
    group_id: String,
) -> Result<Reply, Problem> {
    #[derive(Deserialize)]
    struct MemberRequest {
        user_id: Option<String>,
    }
    let fields: MemberRequest =
        body::read_object(context, request, context.app.limits.http_body_bytes_max).await?;
    let user_id = resolved(context, talk::user("user_id", fields.user_id)?).await?;
    let mut value = json!({"group_id": group_id, "user_id": user_id.as_str()});
    let by = by.clone();
    let write = if context.app.group_invitations && user_id != by {
        let at_ms = context.clock.now().unix_ms;
        Write::Invite { group_id, user_id, by, at_ms }
    } else {
        Write::AddMember { group_id, user_id, by }
    };
    let (status, state) = match context.ask(StoreChange(write)).await? {
        Written::Unchanged => (StatusCode::OK, "member"),
        Written::Invited => (StatusCode::ACCEPTED, "invited"),
        Written::Done | Written::For(_) => (StatusCode::CREATED, "member"),
    };
    value["state"] = state.into();
    Ok(reply::with_status(status, &value))
}

/// `POST /api/v1/groups/{id}/accept` and `/decline`
pub async fn answer_invitation(
    context: &RequestContext,
    user: &UserId,
    group_id: String,
    accepts: bool,
) -> Result<Reply, Problem> {
    let write = Write::AnswerInvitation { group_id, user_id: user.clone(), accepts };
    context.ask(StoreChange(write)).await?;
    Ok(reply::no_content())
}

/// `DELETE /api/v1/groups/{id}/members/{user_id}`
pub async fn remove_member(
    context: &RequestContext,
    by: &UserId,
    group_id: String,
    user_id: &str,
) -> Result<Reply, Problem> {
    let user_id = resolved(context, talk::user("user_id", Some(user_id.to_owned()))?).await?;
    let remove = Write::RemoveMember { group_id, user_id, by: by.clone() };
    context.ask(StoreChange(remove)).await?;
    Ok(reply::no_content())
}
