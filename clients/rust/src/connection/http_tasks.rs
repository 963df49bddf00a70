//! HTTP calls beside the socket: the list of all services, missed direct messages, the next token.
//!
//! Imports `shared`, `state::inbox` and `transport`. Imported by `session`, `driver` and `handle::client`.

use std::sync::Arc;
use std::time::Duration;

use fanfare_protocol::id::ServiceName;
use fanfare_protocol::instance::Instance;
use hyper::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::Value;

use crate::error::Error;
use crate::event::DirectMessage;
use crate::frame::Frame;
use crate::shared::Shared;
use crate::state::inbox::{Inbox, Pull};
use crate::transport::http::{self, Call};
use crate::transport::token::Issuer;

/// Messages of one page.
const PAGE: usize = 100;

/// How long to wait after the server refused a pull for now.
const PULL_AGAIN: Duration = Duration::from_secs(20);

/// The outcome of a task.
pub(crate) enum Done {
    Token(Result<Arc<str>, Error>),
    Listed(Result<Vec<(ServiceName, Frame)>, Error>),
    Pulled(u64, Result<(), Error>),
}

/// A call with the token of the connection, to the server of the connection.
pub(crate) async fn call(
    shared: &Shared,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> Result<Value, Error> {
    let token = shared.token();
    let call = Call {
        address: shared.address(),
        token: token.as_deref(),
        method,
        path,
        body,
        timeout: shared.settings.request_timeout,
        answer_bytes_max: http::ANSWER_BYTES_MAX,
    };
    http::call(call).await
}

/// Gets a new token.
pub(crate) async fn new_token(shared: &Shared) -> Result<Option<Arc<str>>, Error> {
    let issuer = Issuer {
        address: shared.address(),
        timeout: shared.settings.request_timeout,
        now_s: shared.clock.now().unix_s(),
    };
    shared.settings.token.next(issuer, shared.token().as_deref()).await
}

/// Gets the next token before the present one expires.
pub(crate) async fn token(shared: Arc<Shared>) -> Done {
    let token = new_token(&shared).await;
    Done::Token(token.and_then(|token| token.ok_or(Error::Timeout)))
}

/// Lists every service with its instances.
pub(crate) async fn list(shared: Arc<Shared>) -> Done {
    #[derive(Deserialize)]
    struct Listing {
        services: Vec<Listed>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Listed {
        service_id: String,
        epoch: Box<str>,
        revision: u64,
        #[serde(default)]
        degraded: bool,
        instances: Vec<Instance>,
    }
    let listing = call(&shared, Method::GET, "/api/discovery/services.json", None).await;
    let listing = listing.and_then(|answer| {
        serde_json::from_value::<Listing>(answer)
            .map_err(|fault| Error::Protocol(format!("the list of services: {fault}")))
    });
    Done::Listed(listing.map(|listing| {
        let frame = |one: Listed| Frame {
            epoch: Some(one.epoch),
            revision: Some(one.revision),
            degraded: Some(one.degraded),
            instances: Some(one.instances),
            ..Frame::default()
        };
        let services = listing.services.into_iter();
        services.map(|one| (ServiceName::of(&one.service_id), frame(one))).collect()
    }))
}

/// Pulls messages until there are none left, or no room for them.
pub(crate) async fn pull(shared: Arc<Shared>, key: u64, user_id: String) -> Done {
    let result = pull_pages(&shared, key, &user_id).await;
    if let Err(error) = &result {
        // The session tries again when this task ends.
        tokio::time::sleep(error.retry_after().unwrap_or(PULL_AGAIN)).await;
    }
    Done::Pulled(key, result)
}

async fn pull_pages(shared: &Shared, key: u64, user_id: &str) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Page {
        messages: Vec<DirectMessage>,
        next: Option<String>,
    }
    let start = |shared: &Shared| shared.state.lock().inboxes.get(&key).map(Inbox::cursor);
    let Some(mut cursor) = start(shared) else { return Ok(()) };
    loop {
        let after = utf8_percent_encode(&cursor, NON_ALPHANUMERIC);
        let path = format!("/api/v1/messages?limit={PAGE}&after={after}");
        let page = call(shared, Method::GET, &path, None).await?;
        let page: Page = serde_json::from_value(page)
            .map_err(|fault| Error::Protocol(format!("a page of messages: {fault}")))?;
        let mut state = shared.state.lock();
        let Some(inbox) = state.inboxes.get_mut(&key) else { return Ok(()) };
        for message in page.messages {
            // The user's own messages are left out, unless the user is the receiver as well.
            let is_own =
                message.from_user_id == user_id && message.to_user_id.as_deref() != Some(user_id);
            if !is_own && !inbox.take(message) {
                return Ok(());
            }
        }
        let came_meanwhile = matches!(inbox.pull, Pull::Running { again: true });
        match page.next {
            Some(next) => cursor = next,
            None if came_meanwhile => {
                inbox.pull = Pull::Running { again: false };
                cursor = inbox.cursor();
            }
            None => {
                inbox.pull = Pull::Done;
                return Ok(());
            }
        }
    }
}
