//! Listeners: a task reads a stream and calls a function.
//!
//! Imports `shared`. Imported by its siblings.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

use futures_core::Stream;
use tokio::task::AbortHandle;

use crate::shared::ShutdownGuard;

/// Calls a function with the items of a stream, until this is dropped.
///
/// ```no_run
/// # async fn example(client: fanfare_client::Client) -> Result<(), fanfare_client::Error> {
/// let view = client.watch_service("orders")?;
/// view.on_change(|event| println!("{event:?}")).detach();
/// # Ok(())
/// # }
/// ```
#[must_use = "the function is called until the listener is dropped"]
#[derive(Debug)]
pub struct Listener {
    task: Option<AbortHandle>,
}

impl Listener {
    pub(crate) fn start<S>(
        guard: &Arc<ShutdownGuard>,
        stream: S,
        mut call: impl FnMut(S::Item) + Send + 'static,
    ) -> Listener
    where
        S: Stream + Send + 'static,
        S::Item: Send,
    {
        let task = guard.0.runtime.spawn(async move {
            let mut stream = pin!(stream);
            while let Some(item) = poll_fn(|cx| stream.as_mut().poll_next(cx)).await {
                call(item);
            }
        });
        Listener { task: Some(task.abort_handle()) }
    }

    /// Goes on calling, and keeps the client alive, until the stream ends.
    pub fn detach(mut self) {
        self.task = None;
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}
