//! The identity: a given token, tokens signed here, tokens of a login, or none.
//!
//! The client library gets the tokens, the first and every later one.
//!
//! Imports `args`. Imported by `main`.

use std::io::{self, Write as _};
use std::time::UNIX_EPOCH;

use fanfare_client::{Api, BoxError, Error};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;

use crate::args::Args;

/// Lifetime of a token signed here, in seconds.
const TOKEN_LIFE_S: u64 = 3_600;

/// Its scopes: all that a person needs here but `admin`. For that, a user passes a token.
const SCOPES: &str = "message publish registry:read sockets:read channels:read";

/// Wrong answers that a person may give.
const TRIES: usize = 3;

/// Signs in, or does not, and returns the server with the source of its tokens. Prints the result
/// to standard error.
pub(crate) async fn sign_in(args: &Args, api: Api, is_interactive: bool) -> Result<Api, String> {
    if let Some(token) = &args.token {
        return api.with_token(token).map_err(|fault| fault.to_string());
    }
    if let (Some(secret), Some(username)) = (&args.jwt_secret, &args.username) {
        let api = with_secret(api, secret, username, args.email.as_deref());
        api.renew().await.map_err(|fault| fault.to_string())?;
        eprintln!("signed in as {username} with a token of our own");
        return Ok(api);
    }
    if let (Some(password), Some(username)) = (&args.password, &args.username) {
        let api = api.with_login(username, password);
        api.renew().await.map_err(|fault| format!("{}: {fault}", args.url))?;
        eprintln!("signed in as {username}");
        return Ok(api);
    }
    if is_interactive {
        return ask(args, api).await;
    }
    eprintln!(
        "anonymous: neither --token nor --username with FANFARE_PASSWORD or JWT_SECRET is given"
    );
    Ok(api)
}

/// Signs tokens (HS256), each valid for an hour.
fn with_secret(api: Api, secret: &str, username: &str, email: Option<&str>) -> Api {
    let key = EncodingKey::from_secret(secret.as_bytes());
    let (username, email) = (username.to_owned(), email.map(str::to_owned));
    api.with_token_source(move || {
        let token = sign(&key, &username, email.as_deref());
        async { token }
    })
}

fn sign(key: &EncodingKey, username: &str, email: Option<&str>) -> Result<String, BoxError> {
    let now_s = UNIX_EPOCH.elapsed().map_err(|_| "the clock is wrong")?.as_secs();
    let mut claims = json!({
        "sub": username, "username": username, "iat": now_s, "exp": now_s + TOKEN_LIFE_S,
        "scope": SCOPES,
    });
    if let Some(email) = email {
        claims["email"] = email.into();
    }
    Ok(jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, key)?)
}

/// Asks the person.
async fn ask(args: &Args, api: Api) -> Result<Api, String> {
    for _ in 0..TRIES {
        let choice = line("[l]og in, [r]egister, or Enter to stay anonymous: ")?;
        let is_new = match choice.as_str() {
            "" => break,
            "l" | "login" | "log in" => false,
            "r" | "register" => true,
            _ => continue,
        };
        let username = match &args.username {
            Some(username) => username.clone(),
            None => line("username: ")?,
        };
        let password =
            rpassword::prompt_password("password: ").map_err(|fault| fault.to_string())?;
        match log_in(&api, &username, &password, args.email.as_deref(), is_new).await {
            Ok(api) => {
                eprintln!("signed in as {username}");
                return Ok(api);
            }
            Err(fault) => eprintln!("{fault}"),
        }
    }
    eprintln!("anonymous");
    Ok(api)
}

async fn log_in(
    api: &Api,
    username: &str,
    password: &str,
    email: Option<&str>,
    is_new: bool,
) -> Result<Api, Error> {
    if is_new {
        api.create_account(username, password, email).await?;
    }
    let api = api.clone().with_login(username, password);
    api.renew().await?;
    Ok(api)
}

fn line(prompt: &str) -> Result<String, String> {
    let ask = || {
        eprint!("{prompt}");
        io::stderr().flush()?;
        let mut line = String::new();
        io::stdin().read_line(&mut line).map(|_| line.trim().to_owned())
    };
    ask().map_err(|fault: io::Error| fault.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_secret_gives_a_token_for_every_hour() {
        let api = Api::new("ws://127.0.0.1:1").expect("a URL");
        let api = with_secret(api, "a secret of more than thirty-two bytes", "ann", None);
        assert_eq!(api.renew_in(), None, "there is no token yet");
        assert!(api.renew().await.expect("signed").is_some());
        let wait_s = api.renew_in().expect("another one will be needed").as_secs();
        assert!(wait_s < TOKEN_LIFE_S, "before its end: {wait_s}");
    }
}
