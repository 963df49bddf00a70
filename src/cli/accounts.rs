//! Accounts and tokens, beside a running server or without one.
//!
//! Part of the binary's `cli`.

use std::io::{self, IsTerminal as _};
use std::path::{self, Path};

use crate::auth::{Authenticator, Claims, SECRET_FILE, TokenId, accounts};
use crate::clock::{Clock, rfc3339};
use crate::config::Config;
use crate::limits;
use crate::private_file;
use crate::server::authenticator;
use crate::store::Address;
use crate::store::accounts::{Accounts, Who};

use super::Fault;

/// The database of accounts, and the secret.
pub(crate) struct Data<'a> {
    pub(crate) config: &'a Config,
    /// Whether they may be created if they are missing.
    pub(crate) may_make: bool,
}

impl Data<'_> {
    /// The accounts. Prints the database to standard error.
    fn accounts(&self) -> Result<Accounts, Fault> {
        let (url, dir) = (self.config.database_url.as_deref(), &self.config.data_dir);
        let address = Address::new(url, dir).map_err(|fault| fault.to_string())?;
        let shown = match &address {
            Address::Sqlite(path) => absolute(path),
            Address::Postgres(_) => address.shown(),
        };
        super::complain(&format!("using the database {shown}"));
        if !self.may_make && Accounts::is_empty(&address)? {
            return Err(Fault::setting(format!(
                "there is no database of a server in {shown}: name the server's own with --data-dir \
                 or --database-url, or make one there with --init"
            )));
        }
        if url.is_none() {
            private_file::create_dir(dir).map_err(|fault| format!("{}: {fault}", absolute(dir)))?;
        }
        Ok(Accounts::open(&address)?)
    }

    /// The signer of tokens. Prints the directory of the secret to standard error, if it is in one.
    fn authenticator(&self) -> Result<Authenticator, Fault> {
        let config = self.config;
        if config.uses_generated_secret() {
            let shown = absolute(&config.data_dir);
            super::complain(&format!("using the secret in the data directory {shown}"));
            if !self.may_make && !config.data_dir.join(SECRET_FILE).exists() {
                return Err(Fault::setting(format!(
                    "there is no secret in {shown}, so no server has been started there: name the \
                     server's directory with --data-dir, give its secret in JWT_SECRET, or make a \
                     secret there with --init"
                )));
            }
        }
        Ok(authenticator(config)?)
    }
}

fn absolute(path: &Path) -> String {
    path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

/// The given password, else the one that is typed twice at a terminal, else the first line of
/// standard input.
fn password_of(text: Option<String>) -> Result<String, String> {
    if text.is_some() || !io::stdin().is_terminal() {
        return given_or_read(text);
    }
    let ask = |prompt| rpassword::prompt_password(prompt).map_err(|fault| fault.to_string());
    let password = ask("password: ")?;
    accounts::check_password(&password).map_err(str::to_owned)?;
    if ask("the same again: ")? != password {
        return Err(String::from("the two differ; nothing was changed"));
    }
    Ok(password)
}

/// The given text, else the first line of standard input.
fn given_or_read(text: Option<String>) -> Result<String, String> {
    if let Some(text) = text {
        return Ok(text);
    }
    let mut line = String::new();
    io::stdin().read_line(&mut line).map_err(|fault| fault.to_string())?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn password_hash(password: Option<String>) -> Result<String, String> {
    let password = password_of(password)?;
    accounts::check_password(&password).map_err(str::to_owned)?;
    accounts::hash(&password).ok_or_else(|| String::from("the system has no randomness"))
}

/// `fanfare user add`
pub(crate) fn add(
    data: &Data,
    username: &str,
    email: Option<&str>,
    password: Option<String>,
    scope: Option<&str>,
) -> Result<String, Fault> {
    let mut accounts = data.accounts()?;
    let hash = password_hash(password)?;
    let at_ms = Clock::start().now().unix_ms;
    let user_id = accounts.add(username, email, &hash, scope, at_ms)?;
    Ok(format!("{user_id}\t{username}"))
}

/// `fanfare user list`
pub(crate) fn list(data: &Data) -> Result<String, Fault> {
    let mut lines = vec![String::from("USER ID\tUSERNAME\tEMAIL\tSTATE\tCREATED\tSCOPE")];
    for account in data.accounts()?.list()? {
        let state = match (account.standing.is_disabled, account.password_hash) {
            (true, _) => "disabled",
            (false, Some(_)) => "active",
            // Known by a token of another issuer.
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
pub(crate) fn set_scope(data: &Data, who: &Who, scope: &str) -> Result<String, Fault> {
    let at_ms = Clock::start().now().unix_ms;
    let (user_id, is_less) = data.accounts()?.set_scope(who, scope, at_ms)?;
    let ended = if is_less { "\ttokens ended" } else { "" };
    Ok(format!("{user_id}\t{}{ended}", if scope.is_empty() { "-" } else { scope }))
}

/// `fanfare user remove`
pub(crate) fn remove(data: &Data, who: &Who) -> Result<String, Fault> {
    let at_ms = Clock::start().now().unix_ms;
    let user_id = data.accounts()?.remove(who, at_ms)?;
    Ok(format!("{user_id}\tremoved"))
}

/// `fanfare user disable` and `enable`
pub(crate) fn set(data: &Data, who: &Who, is_disabled: bool) -> Result<String, Fault> {
    let at_ms = Clock::start().now().unix_ms;
    let user_id = data.accounts()?.set_disabled(who, is_disabled, at_ms)?;
    Ok(format!("{user_id}\t{}", if is_disabled { "disabled" } else { "enabled" }))
}

/// `fanfare user reset-password`
pub(crate) fn reset_password(
    data: &Data,
    who: &Who,
    password: Option<String>,
) -> Result<String, Fault> {
    let mut accounts = data.accounts()?;
    let hash = password_hash(password)?;
    let at_ms = Clock::start().now().unix_ms;
    let user_id = accounts.set_password(who, &hash, at_ms)?;
    Ok(format!("{user_id}\tpassword set, tokens ended"))
}

/// `fanfare user revoke`
pub(crate) fn revoke(data: &Data, who: &Who) -> Result<String, Fault> {
    let at_ms = Clock::start().now().unix_ms;
    let user_id = data.accounts()?.end_tokens(who, at_ms)?;
    Ok(format!("{user_id}\ttokens ended"))
}

/// `fanfare token`
pub(crate) fn token(data: &Data, claims: &Claims) -> Result<String, Fault> {
    let foreign =
        "there are only public keys here: the issuer, who has the private one, makes tokens";
    let token = data.authenticator()?.sign(claims);
    token.ok_or_else(|| Fault::from(foreign.to_owned()))
}

/// `fanfare token revoke`
pub(crate) fn revoke_token(data: &Data, token: Option<String>) -> Result<String, Fault> {
    let text = given_or_read(token)?;
    let text = text.trim();
    if text.is_empty() {
        return Err(Fault::from(String::from("no token, and no jti of one, was given")));
    }
    let now = Clock::start().now();
    // Three parts make a token; any other text is the id in one, which does not have its end.
    let (token, user_id, expires_s) = if text.split('.').count() == 3 {
        let identity = data
            .authenticator()?
            .authenticate(text, now.unix_s())
            .map_err(|fault| Fault::from(format!("the token counts for nothing: {fault}")))?;
        let mark = identity.token.ok_or_else(|| Fault::from(String::from("no token")))?;
        (mark.id, Some(identity.user_id), identity.expires_at_s)
    } else {
        (TokenId::of_jti(text), None, now.unix_s() + limits::TOKEN_TTL_MS_MAX / 1_000)
    };
    data.accounts()?.end_token(token, user_id.as_ref(), expires_s, now.unix_ms)?;
    Ok(String::from("revoked"))
}
