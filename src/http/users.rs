//! Accounts: register, sign in and out, renew a token, change the password, look up a name.
//!
//! Imports its siblings, `auth`, `clock`, `id`, `limits`, `state`, `store`, `wire` and `ws`. Imported by
//! `http::router`.

use hyper::body::{Body as _, Incoming};
use hyper::{Request, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::login_throttle::{Attempt, Purpose, Refused};
use super::passwords::PasswordQueue;
use super::reply::{self, Problem, Reply};
use super::{Query, RequestContext, body, log};
use crate::auth::accounts::Registration;
use crate::auth::{Claims, Identity, Scopes, TokenMark, accounts, names};
use crate::clock::rfc3339;
use crate::id::UserId;
use crate::limits;
use crate::state::audit::Door;
use crate::state::durable::{EndedToken, Write};
use crate::state::messaging::commands::{ApplyAccounts, EndTokens, StoreChange};
use crate::state::people::Person;
use crate::store::read_pool::Account;
use crate::wire::refusal::Code;
use crate::ws::authorizer;

#[derive(Deserialize)]
struct RequestBody {
    username: Option<String>,
    password: Option<String>,
    email: Option<String>,
}

fn missing(field: &'static str) -> impl Fn() -> Problem {
    move || Problem::invalid(format!("{field} is missing")).because("a field is missing")
}

/// Whether a caller may make an account.
fn check_registration(
    context: &RequestContext,
    identity: Option<&Identity>,
) -> Result<(), Problem> {
    let detail = match (context.app.registration, identity) {
        (Registration::Open, _) => return Ok(()),
        (Registration::Closed, _) => "registration is closed: operators make accounts here",
        (Registration::Token, None) => {
            return Err(authorizer::token_required().into());
        }
        (Registration::Token, Some(one)) if one.scopes.contains(Scopes::ADMIN) => return Ok(()),
        (Registration::Token, Some(_)) => "registration needs a token with the scope admin",
    };
    Err(Problem::new(403, Code::Forbidden, detail))
}

/// `POST /api/v1/users/register`
pub async fn register(
    context: &RequestContext,
    request: Request<Incoming>,
    identity: Option<&Identity>,
) -> Result<Reply, Problem> {
    check_registration(context, identity)?;
    let fields: RequestBody =
        body::read_object(context, request, limits::LOGIN_BODY_BYTES_MAX).await?;
    let username = fields.username.ok_or_else(missing("username"))?;
    let password = fields.password.ok_or_else(missing("password"))?;
    let username = names::new_name(&username).map_err(Problem::invalid)?;
    accounts::check_password(&password).map_err(Problem::invalid)?;
    fields.email.as_deref().map_or(Ok(()), accounts::check_email).map_err(Problem::invalid)?;
    count_registration(context)?;
    if context.app.read_pool.account(&username).await?.is_some() {
        // The database decides; this check saves the hash.
        return Err(Problem::new(409, Code::Conflict, "the username is taken"));
    }
    let password_hash = context.app.passwords.hash(PasswordQueue::Registration, password).await?;
    let user_id = UserId::new(&(context.app.new_id)());
    let write = Write::Account {
        user_id: user_id.clone(),
        username: username.clone(),
        email: fields.email,
        password_hash,
        at_ms: context.clock.now().wall_ms,
    };
    context.ask_as(Door::Http, StoreChange(write)).await?;
    log::account(context, user_id.as_str(), "created");
    let account = json!({"user_id": user_id.as_str(), "username": username});
    Ok(reply::with_status(StatusCode::CREATED, &account))
}

/// Counts a registration for its address. A hash and a row of the database cost more than the
/// request, and a taken name stays taken.
fn count_registration(context: &RequestContext) -> Result<(), Problem> {
    let Some(block) = context.block() else { return Ok(()) };
    let taken = context.app.registrations.take(block, context.clock.now().unix_ms);
    taken.map_err(|wait_ms| {
        Problem::new(429, Code::RateLimited, "too many registrations from this address")
            .retry_after_s(wait_ms.div_ceil(1_000))
    })
}

/// Begins an attempt to sign in, which counts for the name and the address if it fails.
///
/// # Errors
///
/// `rate_limited` if too many failed lately, `unavailable` if too many are under way.
pub(crate) async fn begin_login<'a>(
    context: &'a RequestContext,
    purpose: Purpose,
    username: &str,
) -> Result<Attempt<'a>, Problem> {
    let begun =
        context.app.login_throttle.begin(purpose, username, context.client, context.clock).await;
    begun.map_err(|refused| {
        let (status, code, detail, wait_ms) = match refused {
            Refused::TooMany(wait_ms) => {
                (429, Code::RateLimited, "too many failed logins, try again later", wait_ms)
            }
            Refused::Busy => (503, Code::Unavailable, "too many logins at once", 1_000),
        };
        Problem::new(status, code, detail).retry_after_s(wait_ms.div_ceil(1_000))
    })
}

/// `POST /api/v1/users/login`
pub async fn login(context: &RequestContext, request: Request<Incoming>) -> Result<Reply, Problem> {
    let fields: RequestBody =
        body::read_object(context, request, limits::LOGIN_BODY_BYTES_MAX).await?;
    let username = fields.username.ok_or_else(missing("username"))?;
    let password = fields.password.ok_or_else(missing("password"))?;
    let app = &context.app;
    let attempt = begin_login(context, Purpose::Login, &username).await?;
    // A name or password that no account can have takes as long as any other wrong one.
    let is_possible =
        accounts::is_possible_name(&username) && password.len() <= limits::PASSWORD_BYTES_MAX;
    let account = if is_possible { app.read_pool.account(&username).await? } else { None };
    let password: String = password.chars().take(limits::PASSWORD_BYTES_MAX).collect();
    match finish_login(context, attempt, PasswordQueue::Login, account, password).await? {
        Ok(account) => issue(context, account, None),
        Err(cause) => {
            let problem = Problem::new(401, Code::Unauthorized, "wrong username or password");
            Err(problem.because(cause))
        }
    }
}

/// Compares a password with an account's, and ends the attempt. Without an account it takes as
/// long, and fails. Returns the account, or the cause of the failure for the log. An unknown name
/// is not logged: it may be a password.
pub(crate) async fn finish_login(
    context: &RequestContext,
    attempt: Attempt<'_>,
    queue: PasswordQueue,
    account: Option<Account>,
    password: String,
) -> Result<Result<Account, &'static str>, Problem> {
    let hash = account.as_ref().and_then(|account| account.password_hash.clone());
    let is_right = context.app.passwords.verify(queue, password, hash).await?;
    let cause = match account {
        None => "no such account",
        Some(account) => {
            context.note_user(&account.user_id);
            if is_right && !account.standing.is_disabled {
                return Ok(Ok(account));
            }
            if is_right { "the account is disabled" } else { "wrong password" }
        }
    };
    attempt.fail(context.clock.now().unix_ms);
    Ok(Err(cause))
}

/// A token for an account whose password was correct, or whose token is renewed: then `signed_in_s`
/// is the time of the login, in seconds since 1970.
fn issue(
    context: &RequestContext,
    account: Account,
    signed_in_s: Option<u64>,
) -> Result<Reply, Problem> {
    let app = &context.app;
    let now = context.clock.now();
    let signed_in_s = signed_in_s.unwrap_or_else(|| now.unix_s());
    let ends_s = signed_in_s.saturating_add(app.session_max_ms / 1_000);
    let ttl_s = (app.login_token_ttl_ms / 1_000).min(ends_s.saturating_sub(now.unix_s()));
    if ttl_s == 0 {
        let detail = "the session is over: sign in with the password again";
        return Err(Problem::new(401, Code::Unauthorized, detail));
    }
    let scopes = app.scopes_of(&account);
    let claims = Claims {
        username: Some(account.username),
        email: account.email,
        scope: (scopes != Scopes::NONE).then(|| scopes.to_string()),
        // Read with the password: if the tokens are ended meanwhile, this one is ended, too.
        r#gen: account.standing.tokens_from_ms,
        auth_time: Some(signed_in_s),
        ..Claims::new(account.user_id.as_str(), now.wall_ms, ttl_s)
    };
    let Some(token) = app.authorizer.authenticator.sign(&claims) else {
        let detail = "tokens are not issued here: the server only has the issuer's public key";
        return Err(Problem::new(503, Code::Unavailable, detail));
    };
    tracing::debug!(
        target: "fanfare::accounts",
        user = claims.sub,
        client = context.client_text(),
        "signed in"
    );
    Ok(reply::json_value(&json!({
        "token": token,
        "user_id": claims.sub,
        "expires_at": rfc3339(claims.exp * 1_000),
    })))
}

/// The account behind a token, as the database has it now, if the token is still valid there.
async fn account_behind(
    context: &RequestContext,
    identity: &Identity,
) -> Result<Option<(Account, TokenMark)>, Problem> {
    let Some(token) = identity.token else { return Ok(None) };
    let Some(account) = context.app.read_pool.account_of(&identity.user_id).await? else {
        return Ok(None);
    };
    if !account.standing.covers(token) {
        // Another node may have revoked it a moment ago.
        return Err(Problem::new(401, Code::Unauthorized, "the token is not valid"));
    }
    Ok(Some((account, token)))
}

/// `POST /api/v1/users/renew`
pub async fn renew(context: &RequestContext, identity: &Identity) -> Result<Reply, Problem> {
    let detail = "only a token from a login can be renewed";
    let refusal = || Problem::new(403, Code::Forbidden, detail);
    let (account, token) = account_behind(context, identity).await?.ok_or_else(refusal)?;
    let signed_in_s = token.signed_in_s.ok_or_else(refusal)?;
    if account.password_hash.is_none() {
        return Err(refusal());
    }
    issue(context, account, Some(signed_in_s))
}

#[derive(Deserialize)]
struct PasswordChange {
    old: Option<String>,
    new: Option<String>,
}

/// `PUT /api/v1/users/me/password`
pub async fn set_password(
    context: &RequestContext,
    request: Request<Incoming>,
    identity: &Identity,
) -> Result<Reply, Problem> {
    let fields: PasswordChange =
        body::read_object(context, request, limits::ACCOUNT_BODY_BYTES_MAX).await?;
    let old = fields.old.ok_or_else(missing("old"))?;
    let new = fields.new.ok_or_else(missing("new"))?;
    accounts::check_password(&new).map_err(|fault| Problem::invalid(format!("new: {fault}")))?;
    let forbidden = |detail: &'static str| Problem::new(403, Code::Forbidden, detail);
    let found = account_behind(context, identity).await?;
    let Some((account, token)) = found else {
        return Err(forbidden("the user has no password here"));
    };
    let Some(old_hash) = account.password_hash else {
        return Err(forbidden("the user has no password here"));
    };
    let wrong = "the old password is wrong";
    check_password(context, &account.username, old, old_hash.clone(), wrong).await?;
    let write = Write::SetPassword {
        user_id: identity.user_id.clone(),
        old_hash,
        password_hash: context.app.passwords.hash(PasswordQueue::Login, new).await?,
        kept_token: Some(token.id),
        at_ms: context.clock.now().wall_ms,
    };
    context.ask_as(Door::Http, StoreChange(write)).await?;
    log::account(context, identity.user_id.as_str(), "password changed");
    revoke_now(context, identity).await?;
    Ok(reply::no_content())
}

/// Checks the password of the account behind a token. A thief of the token must not find the
/// password with it, nor lock the user out of the login.
///
/// # Errors
///
/// 403 with `wrong`, and the refusals of an attempt to log in.
async fn check_password(
    context: &RequestContext,
    username: &str,
    password: String,
    hash: String,
    wrong: &'static str,
) -> Result<(), Problem> {
    let attempt = begin_login(context, Purpose::Change, username).await?;
    let is_possible = password.len() <= limits::PASSWORD_BYTES_MAX;
    let passwords = &context.app.passwords;
    if is_possible && passwords.verify(PasswordQueue::Login, password, Some(hash)).await? {
        return Ok(());
    }
    attempt.fail(context.clock.now().unix_ms);
    Err(Problem::new(403, Code::Forbidden, wrong))
}

#[derive(Default, Deserialize)]
struct LogoutRequest {
    #[serde(default)]
    all: bool,
}

/// `POST /api/v1/users/logout`
pub async fn logout(
    context: &RequestContext,
    request: Request<Incoming>,
    identity: &Identity,
) -> Result<Reply, Problem> {
    let LogoutRequest { all } = if request.body().is_end_stream() {
        LogoutRequest::default()
    } else {
        body::read_object(context, request, limits::ACCOUNT_BODY_BYTES_MAX).await?
    };
    let person = Person::of(identity);
    let at_ms = context.clock.now().wall_ms;
    let write = match identity.token {
        Some(token) if !all => {
            let expires_s = identity.expires_at_s;
            Write::EndToken { person, token: token.id, expires_s, at_ms }
        }
        _ => Write::EndTokens { person, at_ms },
    };
    context.ask_as(Door::Http, StoreChange(write)).await?;
    log::account(context, identity.user_id.as_str(), "signed out");
    if let Some(token) = identity.token.filter(|_| !all) {
        let ended = EndedToken {
            id: token.id,
            user_id: Some(identity.user_id.clone()),
            expires_s: identity.expires_at_s,
            changed_ms: at_ms,
        };
        context.ask(EndTokens(vec![ended])).await?;
    }
    revoke_now(context, identity).await?;
    Ok(reply::no_content())
}

#[derive(Default, Deserialize)]
struct RemovalRequest {
    password: Option<String>,
}

/// `DELETE /api/v1/users/me`
pub async fn remove(
    context: &RequestContext,
    request: Request<Incoming>,
    identity: &Identity,
) -> Result<Reply, Problem> {
    let RemovalRequest { password } = if request.body().is_end_stream() {
        RemovalRequest::default()
    } else {
        body::read_object(context, request, limits::ACCOUNT_BODY_BYTES_MAX).await?
    };
    if let Some((account, _)) = account_behind(context, identity).await?
        && let Some(hash) = account.password_hash
    {
        // A stolen token must not be able to remove an account with a password.
        let password = password.ok_or_else(missing("password"))?;
        let wrong = "the password is wrong";
        check_password(context, &account.username, password, hash, wrong).await?;
    }
    let person = Person::of(identity);
    let at_ms = context.clock.now().wall_ms;
    context.ask_as(Door::Http, StoreChange(Write::RemoveAccount { person, at_ms })).await?;
    log::account(context, identity.user_id.as_str(), "removed");
    revoke_now(context, identity).await?;
    Ok(reply::no_content())
}

/// Tells control of a change of an account in the database, without waiting for the next poll.
async fn revoke_now(context: &RequestContext, identity: &Identity) -> Result<(), Problem> {
    context.app.authorizer.revoked.credential_cache.forget(identity.user_id.as_str());
    if let Some(change) = context.app.read_pool.change_of(&identity.user_id).await? {
        context.ask(ApplyAccounts(vec![change])).await?;
    }
    Ok(())
}

/// Refuses the look-up of a name from an address with too many unknown names: guessing passwords
/// begins with names.
///
/// # Errors
///
/// 429, whether the next name exists or not.
pub(super) fn check_name_lookup(context: &RequestContext) -> Result<(), Problem> {
    let now_ms = context.clock.now().unix_ms;
    let wait_ms =
        context.block().and_then(|block| context.app.unknown_names.wait_ms(block, now_ms));
    let Some(wait_ms) = wait_ms else { return Ok(()) };
    let detail = "too many unknown names were looked up from this address";
    Err(Problem::new(429, Code::RateLimited, detail).retry_after_s(wait_ms.div_ceil(1_000)))
}

/// Counts a look-up of an unknown name, and returns its answer.
pub(super) fn unknown_name(context: &RequestContext) -> Problem {
    if let Some(block) = context.block() {
        // One too many is refused by the next look-up.
        let _ = context.app.unknown_names.take(block, context.clock.now().unix_ms);
    }
    Problem::new(404, Code::NotFound, "there is no such user")
}

/// `GET /api/v1/users`
pub async fn find(context: &RequestContext, query: &Query) -> Result<Reply, Problem> {
    let name = query.get("name").ok_or_else(missing("name"))?;
    check_name_lookup(context)?;
    // As in `to_user_id`, where a prefix marks a name.
    let name = names::named(&name).unwrap_or(&name);
    let is_possible = accounts::is_possible_name(name);
    let account = if is_possible { context.app.read_pool.account(name).await? } else { None };
    let account = account.ok_or_else(|| unknown_name(context))?;
    Ok(reply::json_value(&json!({
        "user_id": account.user_id.as_str(),
        "username": account.username,
    })))
}
