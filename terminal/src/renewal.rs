//! The socket's next token, before the present one expires.
//!
//! The client library gets the token. This module decides when, and sends it over the open socket,
//! which therefore goes on.
//!
//! Imports nothing of the crate. Imported by `session`.

use std::pin::Pin;
use std::time::Duration;

use fanfare_client::{Api, Error};
use serde_json::{Value, json};
use tokio::time::Instant;

/// The id of our requests: a person does not see their answers.
const ID: &str = "websocket_client-refresh";

/// How long to wait before another attempt. A longer time from the server counts.
const RETRY: Duration = Duration::from_secs(1);

/// How long the server may take to answer a refresh.
const ANSWER: Duration = Duration::from_secs(10);

/// The least time between two tokens, however soon they end.
const PAUSE: Duration = Duration::from_millis(200);

type Asked = Pin<Box<dyn Future<Output = Result<Option<String>, Error>>>>;

/// The state of the renewal.
enum Step {
    /// There is no other token.
    Never,
    /// The next renewal is due later.
    Wait(Instant),
    /// The library is getting a token.
    Ask(Asked),
}

/// Keeps a socket signed in.
pub(crate) struct Renewal {
    api: Api,
    step: Step,
}

impl Renewal {
    /// For a socket that was opened with the present token of `api`.
    pub(crate) fn new(api: Api) -> Renewal {
        let step = planned(&api);
        Renewal { api, step }
    }

    /// The next `refresh`, when it is due. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    ///
    /// Why there is no token. The next call tries again, unless that cannot help.
    pub(crate) async fn next(&mut self) -> Result<String, Error> {
        loop {
            match &mut self.step {
                Step::Never => std::future::pending().await,
                Step::Wait(until) => {
                    tokio::time::sleep_until(*until).await;
                    let api = self.api.clone();
                    self.step = Step::Ask(Box::pin(async move { api.renew().await }));
                }
                Step::Ask(asked) => match asked.await {
                    Ok(Some(token)) => {
                        self.step = Step::Wait(Instant::now() + ANSWER);
                        let message = json!({"type": "refresh", "id": ID, "token": token});
                        return Ok(message.to_string());
                    }
                    Ok(None) => self.step = Step::Never,
                    Err(error) => {
                        // A wrong password stays wrong, and too many of them lock the account.
                        self.step = match error.retry_after() {
                            Some(after) => Step::Wait(Instant::now() + after.max(RETRY)),
                            None => Step::Never,
                        };
                        return Err(error);
                    }
                },
            }
        }
    }

    /// Handles a message, if it is the server's answer to a refresh: returns the refusal, if it is
    /// one.
    pub(crate) fn take(&mut self, message: &Value) -> Option<Result<(), String>> {
        if message["id"] != ID {
            return None;
        }
        if message["type"] == "refreshed" {
            self.step = planned(&self.api);
            return Some(Ok(()));
        }
        self.step = Step::Wait(Instant::now() + RETRY);
        Some(Err(message["message"].as_str().unwrap_or_default().to_owned()))
    }
}

fn planned(api: &Api) -> Step {
    api.renew_in().map_or(Step::Never, |wait| Step::Wait(Instant::now() + wait.max(PAUSE)))
}
