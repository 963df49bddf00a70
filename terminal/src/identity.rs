//! Who we are: a token that was given, one we sign ourselves, one that a login gives, or nobody.
//!
//! Imports `args`. Imported by `main`.

use std::io::{self, Write as _};
use std::time::UNIX_EPOCH;

use fanfare::client::{Api, Error};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;

use crate::args::Args;

/// How long a token lives that we sign ourselves, in seconds.
const TOKEN_LIFE_S: u64 = 3_600;

/// How often a person may answer wrongly.
const TRIES: usize = 3;

/// Finds a token, or none. Says on standard error what came of it.
pub(crate) async fn token(args: &Args, is_interactive: bool) -> Result<Option<String>, String> {
    if let Some(token) = &args.token {
        return Ok(Some(token.clone()));
    }
    if let (Some(secret), Some(username)) = (&args.jwt_secret, &args.username) {
        eprintln!("signed in as {username} with a token of our own");
        return sign(secret, username, args.email.as_deref()).map(Some);
    }
    if is_interactive {
        return ask(args).await;
    }
    eprintln!("anonymous: neither --token nor JWT_SECRET with --username is given");
    Ok(None)
}

/// Signs a token (HS256), valid for an hour.
fn sign(secret: &str, username: &str, email: Option<&str>) -> Result<String, String> {
    let now_s = UNIX_EPOCH.elapsed().map_err(|_| String::from("the clock is wrong"))?.as_secs();
    let mut claims = json!({
        "sub": username, "username": username, "iat": now_s, "exp": now_s + TOKEN_LIFE_S,
    });
    if let Some(email) = email {
        claims["email"] = email.into();
    }
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)
        .map_err(|fault| format!("no token: {fault}"))
}

/// Asks the person.
async fn ask(args: &Args) -> Result<Option<String>, String> {
    let api = Api::new(&args.url).map_err(|fault| fault.to_string())?;
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
        match sign_in(&api, &username, &password, args.email.as_deref(), is_new).await {
            Ok(token) => {
                eprintln!("signed in as {username}");
                return Ok(Some(token));
            }
            Err(fault) => eprintln!("{fault}"),
        }
    }
    eprintln!("anonymous");
    Ok(None)
}

async fn sign_in(
    api: &Api,
    username: &str,
    password: &str,
    email: Option<&str>,
    is_new: bool,
) -> Result<String, Error> {
    if is_new {
        api.create_account(username, password, email).await?;
    }
    Ok(api.login(username, password).await?.token)
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
