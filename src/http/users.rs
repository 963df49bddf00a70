//! Accounts: register and log in.
//!
//! Imports its siblings, `auth`, `state` and `store`. Imported by `http::router`.

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::logins::Key;
use super::reply::{self, Problem, Reply};
use super::{Desk, body};
use crate::auth::accounts::Registration;
use crate::auth::{Claims, Identity, Scopes, accounts};
use crate::clock::rfc3339;
use crate::id::UserId;
use crate::limits;
use crate::state::durable::Write;
use crate::state::talk::Talk;
use crate::wire::refusal::Code;

#[derive(Deserialize)]
struct Wish {
    username: Option<String>,
    password: Option<String>,
    email: Option<String>,
}

impl Wish {
    async fn read(desk: &Desk, request: Request<Incoming>) -> Result<Wish, Problem> {
        let text = body::read(desk, request, desk.office.limits.http_body_bytes_max).await?;
        body::object(&text)
    }
}

fn invalid(fault: &str) -> Problem {
    Problem::new(400, Code::InvalidArgument, fault)
}

/// Whether a caller may make an account.
fn check_registration(desk: &Desk, identity: Option<&Identity>) -> Result<(), Problem> {
    let detail = match (desk.office.registration, identity) {
        (Registration::Open, _) => return Ok(()),
        (Registration::Closed, _) => "registration is closed: operators make accounts here",
        (Registration::Token, None) => {
            return Err(super::router::unauthorized(Code::Unauthorized, "a token is required"));
        }
        (Registration::Token, Some(one)) if one.scopes.contains(Scopes::ADMIN) => return Ok(()),
        (Registration::Token, Some(_)) => "registration needs a token with the scope admin",
    };
    Err(Problem::new(403, Code::Forbidden, detail))
}

/// `POST /api/v1/users/register`
pub async fn register(
    desk: &Desk,
    request: Request<Incoming>,
    identity: Option<&Identity>,
) -> Result<Reply, Problem> {
    check_registration(desk, identity)?;
    let wish = Wish::read(desk, request).await?;
    let username = wish.username.ok_or_else(|| invalid("username is missing"))?;
    let password = wish.password.ok_or_else(|| invalid("password is missing"))?;
    accounts::check_username(&username).map_err(invalid)?;
    accounts::check_password(&password).map_err(invalid)?;
    wish.email.as_deref().map_or(Ok(()), accounts::check_email).map_err(invalid)?;
    if desk.office.library.account(&username).await?.is_some() {
        // The last word is the database's; this one spares the hash.
        return Err(Problem::new(409, Code::Conflict, "the username is taken"));
    }
    let password_hash = desk.office.passwords.hash(password).await?;
    let user_id = UserId::new(&uuid::Uuid::new_v4().hyphenated().to_string());
    let write = Write::Account {
        user_id: user_id.clone(),
        username: username.clone(),
        email: wish.email,
        password_hash,
        at_ms: desk.clock.now().wall_ms,
    };
    desk.tell(Talk::Write(write)).await?;
    let account = json!({"user_id": user_id.as_str(), "username": username});
    Ok(reply::with_status(StatusCode::CREATED, &account))
}

/// Counts a try to sign in, by the name and where it comes from. Returns what it counts under.
///
/// # Errors
///
/// `rate_limited` where too many failed lately.
pub(super) fn begin_login(desk: &Desk, username: &str, now_ms: u64) -> Result<Vec<Key>, Problem> {
    let mut keys = vec![Key::Name(username.to_lowercase().chars().take(255).collect())];
    keys.extend(desk.client.map(|client| Key::Address(client.block())));
    if let Err(wait_ms) = desk.office.logins.begin(&keys, now_ms) {
        let mut problem =
            Problem::new(429, Code::RateLimited, "too many failed logins, try again later");
        problem.header = Some(("retry-after", wait_ms.div_ceil(1_000).to_string()));
        return Err(problem);
    }
    Ok(keys)
}

/// `POST /api/v1/users/login`
pub async fn login(desk: &Desk, request: Request<Incoming>) -> Result<Reply, Problem> {
    let wish = Wish::read(desk, request).await?;
    let username = wish.username.ok_or_else(|| invalid("username is missing"))?;
    let password = wish.password.ok_or_else(|| invalid("password is missing"))?;
    let office = &desk.office;
    let now_ms = desk.clock.now().unix_ms;
    let keys = begin_login(desk, &username, now_ms)?;
    // A name or password that no account can have takes as long as any other wrong one.
    let is_possible =
        accounts::check_username(&username).is_ok() && password.len() <= limits::PASSWORD_BYTES_MAX;
    let account = if is_possible { office.library.account(&username).await? } else { None };
    let hash = account.as_ref().and_then(|account| account.password_hash.clone());
    let password: String = password.chars().take(limits::PASSWORD_BYTES_MAX).collect();
    let is_right = office.passwords.verify(password, hash).await?;
    let Some(account) = account.filter(|account| is_right && !account.is_disabled) else {
        return Err(Problem::new(401, Code::Unauthorized, "wrong username or password"));
    };
    office.logins.succeed(&keys, now_ms);
    let now_s = desk.clock.now().unix_s();
    let scopes = office.scopes_of(&account);
    let exp = now_s + limits::LOGIN_TOKEN_MS / 1_000;
    let claims = Claims {
        sub: account.user_id.as_str().to_owned(),
        exp,
        iat: now_s,
        username: Some(account.username),
        email: account.email,
        scope: (scopes != Scopes::NONE).then(|| scopes.to_string()),
    };
    let Some(token) = office.gate.authenticator.sign(&claims) else {
        let detail = "tokens are not issued here: the server only has the issuer's public key";
        return Err(Problem::new(503, Code::Unavailable, detail));
    };
    Ok(reply::json_value(&json!({
        "token": token,
        "user_id": claims.sub,
        "expires_at": rfc3339(exp * 1_000),
    })))
}
