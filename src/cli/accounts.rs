//! Accounts and tokens, beside a running server or without one.
//!
//! Part of the binary's `cli`.

use fanfare::auth::{Claims, TokenId, accounts};
use fanfare::clock::{Clock, rfc3339};
use fanfare::config::Config;
use fanfare::limits;
use fanfare::private_file;
use fanfare::server::authenticator;
use fanfare::store::accounts::{Accounts, Who};

use super::Fault;

fn accounts_of(config: &Config) -> Result<Accounts, String> {
    private_file::create_dir(&config.data_dir)
        .map_err(|fault| format!("{}: {fault}", config.data_dir.display()))?;
    Accounts::open(config.database_url.as_deref(), &config.data_dir)
}

/// The text that was given, else the first line of standard input.
fn given_or_read(text: Option<String>) -> Result<String, String> {
    if let Some(text) = text {
        return Ok(text);
    }
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(|fault| fault.to_string())?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn password_hash(password: Option<String>) -> Result<String, String> {
    let password = given_or_read(password)?;
    accounts::check_password(&password).map_err(str::to_owned)?;
    accounts::hash(&password).ok_or_else(|| String::from("the system has no randomness"))
}

/// `fanfare user add`
pub(crate) fn add(
    config: &Config,
    username: &str,
    email: Option<&str>,
    password: Option<String>,
    scope: Option<&str>,
) -> Result<String, String> {
    let hash = password_hash(password)?;
    let at_ms = Clock::start().now().unix_ms;
    let user_id = accounts_of(config)?.add(username, email, &hash, scope, at_ms)?;
    Ok(format!("{user_id}\t{username}"))
}

/// `fanfare user list`
pub(crate) fn list(config: &Config) -> Result<String, String> {
    let mut lines = vec![String::from("USER ID\tUSERNAME\tEMAIL\tSTATE\tCREATED\tSCOPE")];
    for account in accounts_of(config)?.list()? {
        let state = match (account.standing.is_disabled, account.password_hash) {
            (true, _) => "disabled",
            (false, Some(_)) => "active",
            // Known by a token that somebody else signed.
            (false, None) => "token only",
        };
        lines.push(format!(
            "{}\t{}\t{}\t{state}\t{}\t{}",
            account.user_id,
            account.username,
            account.email.as_deref().unwrap_or("-"),
            rfc3339(account.created_ms),
            account.scope.as_deref().unwrap_or("-")
        ));
    }
    Ok(lines.join("\n"))
}

/// `fanfare user scope`
pub(crate) fn set_scope(config: &Config, who: &Who, scope: &str) -> Result<String, String> {
    let at_ms = Clock::start().now().unix_ms;
    let user_id = accounts_of(config)?.set_scope(who, scope, at_ms)?;
    Ok(format!("{user_id}\t{}", if scope.is_empty() { "-" } else { scope }))
}

/// `fanfare user disable` and `enable`
pub(crate) fn set(config: &Config, who: &Who, is_disabled: bool) -> Result<String, String> {
    let at_ms = Clock::start().now().unix_ms;
    let user_id = accounts_of(config)?.set_disabled(who, is_disabled, at_ms)?;
    Ok(format!("{user_id}\t{}", if is_disabled { "disabled" } else { "enabled" }))
}

/// `fanfare user reset-password`
pub(crate) fn reset_password(
    config: &Config,
    who: &Who,
    password: Option<String>,
) -> Result<String, String> {
    let hash = password_hash(password)?;
    let at_ms = Clock::start().now().unix_ms;
    let user_id = accounts_of(config)?.set_password(who, &hash, at_ms)?;
    Ok(format!("{user_id}\tpassword set, tokens ended"))
}

/// `fanfare user revoke`
pub(crate) fn revoke(config: &Config, who: &Who) -> Result<String, String> {
    let at_ms = Clock::start().now().unix_ms;
    let user_id = accounts_of(config)?.end_tokens(who, at_ms)?;
    Ok(format!("{user_id}\ttokens ended"))
}

/// `fanfare token`
pub(crate) fn token(config: &Config, claims: &Claims) -> Result<String, Fault> {
    let foreign = "jwt-public-key: only the issuer, who has the private key, makes tokens";
    let token = authenticator(config)?.sign(claims);
    token.ok_or_else(|| Fault::from(foreign.to_owned()))
}

/// `fanfare token revoke`
pub(crate) fn revoke_token(config: &Config, token: Option<String>) -> Result<String, Fault> {
    let text = given_or_read(token)?;
    let text = text.trim();
    if text.is_empty() {
        return Err(Fault::from(String::from("no token, and no jti of one, was given")));
    }
    let now = Clock::start().now();
    // Three parts make a token; whatever else is the id in one, which does not say its end.
    let (token, user_id, expires_s) = if text.split('.').count() == 3 {
        let identity = authenticator(config)?
            .authenticate(text, now.unix_s())
            .map_err(|fault| Fault::from(format!("the token counts for nothing: {fault}")))?;
        let mark = identity.token.ok_or_else(|| Fault::from(String::from("no token")))?;
        (mark.id, Some(identity.user_id), identity.expires_at_s)
    } else {
        (TokenId::of_jti(text), None, now.unix_s() + limits::TOKEN_TTL_MS_MAX / 1_000)
    };
    accounts_of(config)?.end_token(token, user_id.as_ref(), expires_s, now.unix_ms)?;
    Ok(String::from("revoked"))
}
