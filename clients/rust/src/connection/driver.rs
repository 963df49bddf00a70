//! The task behind a client: it connects, runs a session, and reconnects when that has ended.
//!
//! Imports `backoff`, `session`, `http_tasks` and `cache`. Imported by `handle::builder`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::connection::backoff::{Backoff, GOOD_AFTER, Next};
use crate::connection::session::Session;
use crate::connection::{cache, http_tasks};
use crate::error::Error;
use crate::shared::{HandleRequest, Shared, Status};
use crate::transport::socket::Socket;
use crate::transport::token;

/// Runs until the client is closed, or the server refuses it for good.
pub(crate) async fn run(shared: Arc<Shared>, mut requests: mpsc::Receiver<HandleRequest>) {
    let saving = shared.settings.cache_file.clone().map(|path| {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move { cache::keep(&shared, &path).await })
    });
    let error = connect_until_closed(&shared, &mut requests).await;
    if let Some(saving) = saving {
        saving.abort();
        // It may have been cut off in the middle, which the file does not show.
        let _ = saving.await;
        cache::save(&shared).await;
    }
    shared.state.lock().end(error.clone());
    shared.status.send_replace(Status::Closed(error.clone()));
    shared.changed.notify_waiters();
    // Requests that still wait are answered; later ones find the channel closed.
    requests.close();
    while let Some(request) = requests.recv().await {
        let _ = request.reply.send(Err(error.clone()));
    }
}

async fn connect_until_closed(
    shared: &Arc<Shared>,
    requests: &mut mpsc::Receiver<HandleRequest>,
) -> Error {
    let settings = &shared.settings;
    let (min, max) = settings.backoff;
    let mut backoff = Backoff::new(min, max, settings.servers.len(), settings.seed);
    let mut needs_token = true;
    loop {
        if shared.state.lock().is_stopping {
            return Error::Stopped;
        }
        shared.status.send_replace(Status::Connecting);
        let mut told = None;
        let error = match stoppable(shared, open(shared, needs_token)).await {
            Ok(socket) => {
                needs_token = false;
                let end = Session::new(Arc::clone(shared), socket).run(requests).await;
                if end.lasted >= GOOD_AFTER {
                    backoff.forget();
                }
                let now_ns = shared.clock.now().ns;
                told = end
                    .away_until_ns
                    .map(|until| Duration::from_nanos(until.saturating_sub(now_ns)));
                end.error
            }
            Err(error) => error,
        };
        if matches!(error, Error::Stopped) {
            return error;
        }
        match backoff.next(&error, told, settings.token.is_renewable()) {
            Next::Never => return error,
            Next::After { wait, is_elsewhere, with_new_token } => {
                needs_token |= with_new_token;
                if is_elsewhere {
                    shared.advance();
                }
                shared.status.send_replace(Status::Waiting { error, wait });
                if rest(shared, wait).await.is_err() {
                    return Error::Stopped;
                }
            }
        }
    }
}

async fn open(shared: &Shared, needs_token: bool) -> Result<Socket, Error> {
    let now_s = shared.clock.now().unix_s();
    let old = shared.token();
    let is_over = |token: &str| token::expires_at_s(token).is_some_and(|at_s| at_s <= now_s);
    let is_useless = old.as_deref().is_none_or(is_over);
    let token = if needs_token || is_useless { http_tasks::new_token(shared).await? } else { old };
    shared.token.lock().clone_from(&token);
    let settings = &shared.settings;
    let opening = Socket::open(shared.address(), token.as_deref(), settings.message_bytes_max);
    tokio::time::timeout(settings.connect_timeout, opening).await.map_err(|_| Error::Timeout)?
}

/// Waits for a future, unless the client is closed meanwhile.
async fn stoppable<T>(
    shared: &Shared,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::pin!(work);
    loop {
        tokio::select! {
            result = &mut work => return result,
            () = shared.wake.notified() => {
                if shared.state.lock().is_stopping {
                    return Err(Error::Stopped);
                }
            }
        }
    }
}

async fn rest(shared: &Shared, wait: Duration) -> Result<(), Error> {
    stoppable(shared, async {
        tokio::time::sleep(wait).await;
        Ok(())
    })
    .await
}
