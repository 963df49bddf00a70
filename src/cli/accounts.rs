//! Accounts and tokens, beside a running server or without one.
//!
//! Part of the binary's `cli`.

use fanfare::auth::{Claims, accounts};
use fanfare::clock::{Clock, rfc3339};
use fanfare::config::Config;
use fanfare::private_file;
use fanfare::server::authenticator;
use fanfare::store::accounts::Accounts;

fn accounts_of(config: &Config) -> Result<Accounts, String> {
    private_file::create_dir(&config.data_dir)
        .map_err(|fault| format!("{}: {fault}", config.data_dir.display()))?;
    Accounts::open(config.database_url.as_deref(), &config.data_dir)
}

/// `fanfare user add`
pub(crate) fn add(
    config: &Config,
    username: &str,
    email: Option<&str>,
    password: Option<String>,
    scope: Option<&str>,
) -> Result<String, String> {
    let password = if let Some(password) = password {
        password
    } else {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map_err(|fault| fault.to_string())?;
        line.trim_end_matches(['\r', '\n']).to_owned()
    };
    accounts::check_password(&password).map_err(str::to_owned)?;
    let hash = accounts::hash(&password).ok_or("the system has no randomness")?;
    let at_ms = Clock::start().now().unix_ms;
    let user_id = accounts_of(config)?.add(username, email, &hash, scope, at_ms)?;
    Ok(format!("{user_id}\t{username}"))
}

/// `fanfare user list`
pub(crate) fn list(config: &Config) -> Result<String, String> {
    let mut lines = vec![String::from("USER ID\tUSERNAME\tEMAIL\tSTATE\tCREATED\tSCOPE")];
    for account in accounts_of(config)?.list()? {
        let state = match (account.is_disabled, account.password_hash) {
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
pub(crate) fn set_scope(config: &Config, who: &str, scope: &str) -> Result<String, String> {
    let at_ms = Clock::start().now().unix_ms;
    let user_id = accounts_of(config)?.set_scope(who, scope, at_ms)?;
    Ok(format!("{user_id}\t{}", if scope.is_empty() { "-" } else { scope }))
}

/// `fanfare user disable` and `enable`
pub(crate) fn set(config: &Config, who: &str, is_disabled: bool) -> Result<String, String> {
    let at_ms = Clock::start().now().unix_ms;
    let user_id = accounts_of(config)?.set_disabled(who, is_disabled, at_ms)?;
    Ok(format!("{user_id}\t{}", if is_disabled { "disabled" } else { "enabled" }))
}

/// `fanfare token`
pub(crate) fn token(config: &Config, mut claims: Claims, ttl_s: u64) -> Result<String, String> {
    let authenticator = authenticator(config).map_err(|fault| fault.to_string())?;
    claims.iat = Clock::start().now().unix_s();
    claims.exp = claims.iat + ttl_s;
    let foreign = "jwt-public-key: only the issuer, who has the private key, makes tokens";
    authenticator.sign(&claims).ok_or_else(|| foreign.to_owned())
}
