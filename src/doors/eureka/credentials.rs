//! Credentials of a request: a token, or a name and a password, as in `http://name:password@host`.
//!
//! A correct password is cached for some minutes (`auth::CredentialCache`): a client sends it with every
//! heartbeat, and comparing it takes tens of milliseconds.
//!
//! Imports `auth`, `http`, `limits`, `wire` and `ws`. Part of `doors::eureka`.

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use hyper::header::{AUTHORIZATION, HeaderMap};

use crate::auth::{self, Identity, Scopes, accounts};
use crate::http::RequestContext;
use crate::http::login_throttle::Purpose;
use crate::http::passwords::PasswordQueue;
use crate::http::reply::Problem;
use crate::http::users::{begin_login, finish_login};
use crate::limits;
use crate::wire::refusal::Code;
use crate::ws::authorizer;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Locks under which clients with the same credentials wait while one of them has its password
/// compared.
#[derive(Debug)]
pub struct LoginLocks(Vec<tokio::sync::Mutex<()>>);

impl Default for LoginLocks {
    fn default() -> LoginLocks {
        LoginLocks((0..limits::EUREKA_LOGIN_LOCKS).map(|_| tokio::sync::Mutex::default()).collect())
    }
}

/// A 401 that asks for a name and a password: Eureka's clients send no tokens by themselves.
fn unauthorized(problem: Problem) -> Problem {
    Problem {
        header: Some(("www-authenticate", String::from("Basic realm=\"fanfare\""))),
        ..problem
    }
}

/// The identity behind a request, if it has the scope. Wrong credentials are refused even if none
/// are required.
pub(super) async fn authorize(
    context: &RequestContext,
    locks: &LoginLocks,
    headers: &HeaderMap,
    is_write: bool,
) -> Result<Option<Identity>, Problem> {
    let identity = match headers.get(AUTHORIZATION) {
        None => None,
        Some(header) => {
            let header = header.to_str().unwrap_or_default();
            match (auth::bearer(header), basic(header)) {
                (Some(token), _) => by_token(context, token)?,
                (None, Some((name, password))) => {
                    Some(by_password(context, locks, name, password).await?)
                }
                (None, None) => {
                    let detail = "neither Bearer nor Basic";
                    return Err(unauthorized(Problem::new(401, Code::Unauthorized, detail)));
                }
            }
        }
    };
    if let Some(identity) = &identity {
        context.see(identity);
    }
    let needed = if is_write { Scopes::REGISTRY_WRITE } else { Scopes::REGISTRY_READ };
    if context.app.authorizer.allows(identity.as_ref(), needed) {
        return Ok(identity);
    }
    Err(match identity {
        None => {
            let detail = "a token or an account is required";
            unauthorized(Problem::new(401, Code::Unauthorized, detail))
        }
        Some(_) => Problem::new(403, Code::Forbidden, format!("the scope {needed} is required")),
    })
}

fn by_token(context: &RequestContext, token: &str) -> Result<Option<Identity>, Problem> {
    let now_s = context.clock.now().unix_s();
    let identified = context.app.authorizer.identify(Some(token), now_s);
    identified.map_err(|fault| unauthorized(authorizer::bad_token(fault).into()))
}

/// Name and password in the value of an `Authorization` header, if its scheme is `Basic`.
fn basic(header: &str) -> Option<(String, String)> {
    let (scheme, encoded) = header.trim().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(BASE64.decode(encoded.trim()).ok()?).ok()?;
    let (name, password) = decoded.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

async fn by_password(
    context: &RequestContext,
    locks: &LoginLocks,
    name: String,
    password: String,
) -> Result<Identity, Problem> {
    let wrong =
        || unauthorized(Problem::new(401, Code::Unauthorized, "wrong username or password"));
    if !accounts::is_possible_name(&name) || password.len() > limits::PASSWORD_BYTES_MAX {
        return Err(wrong());
    }
    let (app, revoked) = (&context.app, &context.app.authorizer.revoked);
    let digest = revoked.credential_cache.digest(&name, &password);
    let known = || {
        let identity = revoked.credential_cache.find(&digest, context.clock.now().unix_ms)?;
        revoked.of(&identity).is_none().then_some(identity)
    };
    if let Some(identity) = known() {
        return Ok(identity);
    }
    // Of a thousand clients that start together with one account, one has the password compared.
    let _turn = match locks.0.get(usize::from(digest[0]) % limits::EUREKA_LOGIN_LOCKS) {
        Some(lock) => Some(lock.lock().await),
        None => None,
    };
    if let Some(identity) = known() {
        return Ok(identity);
    }
    let attempt = begin_login(context, Purpose::Eureka, &name).await?;
    let forgotten = revoked.credential_cache.forgotten();
    let account = app.read_pool.account(&name).await?;
    let account = finish_login(context, attempt, PasswordQueue::Eureka, account, password)
        .await?
        .map_err(|cause| wrong().because(cause))?;
    let now_ms = context.clock.now().unix_ms;
    let scopes = app.scopes_of(&account);
    let identity = Identity {
        user_id: account.user_id,
        username: Some(account.username.into()),
        scopes,
        expires_at_s: context.clock.now().unix_s() + limits::CREDENTIAL_CACHE_MS / 1_000,
        token: None,
    };
    revoked.credential_cache.keep(digest, &identity, (account.changed_ms, forgotten), now_ms);
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_passwords_are_found() {
        let pair = |name: &str, password: &str| Some((name.to_owned(), password.to_owned()));
        assert_eq!(basic("Basic YW5uOmE6Yg=="), pair("ann", "a:b"));
        assert_eq!(basic("bAsIc  YW5uOmE6Yg"), pair("ann", "a:b"));
        for wrong in ["Basic", "Basic ", "Basic !!!!", "Basic YW5u", "Basic /w==", "Bearer YTpi"] {
            assert_eq!(basic(wrong), None, "{wrong}");
        }
    }
}
