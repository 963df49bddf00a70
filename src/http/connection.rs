//! One HTTP connection: runs hyper to the connection's end or to an upgrade.
//!
//! Imports its siblings, `limits`, `shard` and `ws`. Imported by `server`.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use super::RequestContext;
use super::guard::Guard;
use super::router;
use crate::limits;
use crate::shard::tcp_socket::Stream;
use crate::ws::authorizer::Upgrade;

/// A socket that turned into a WebSocket after earlier requests, with the bytes that followed.
#[derive(Debug)]
pub struct Upgraded {
    /// The socket.
    pub stream: Stream,
    /// The authorized handshake.
    pub upgrade: Upgrade,
    /// Bytes that the client sent behind its request.
    pub early: Bytes,
}

/// The phase of the server's shutdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// It has not begun.
    No,
    /// No connection is accepted any more. Open ones get a moment for one more request, which is
    /// answered with `Connection: close`, because a client that keeps connections cannot know.
    Closed,
    /// Idle connections are ended; requests under way are still answered.
    Idle,
}

/// Serves a connection until it ends. Returns it if it was upgraded.
pub async fn serve(
    mut context: RequestContext,
    stream: Stream,
    early: Bytes,
    mut ending: watch::Receiver<Ending>,
) -> Option<Upgraded> {
    (context.peer, context.local) = (stream.peer_addr().ok(), stream.local_addr().ok());
    context.unsent = Arc::default();
    context.app.stats.http.enter();
    let app = Arc::clone(&context.app);
    let kept = app.idle.enter(&context.unsent);
    let guard = Guard::new(stream, &early, &app.limits).kept(Arc::clone(&kept));
    let agreed: Rc<RefCell<Option<Upgrade>>> = Rc::default();
    let service = {
        let (agreed, kept) = (Rc::clone(&agreed), Arc::clone(&kept));
        service_fn(move |request| {
            let (context, agreed) = (context.clone(), Rc::clone(&agreed));
            let kept = Arc::clone(&kept);
            // Boxed, because hyper can be asked to end only a connection that can be moved.
            Box::pin(async move {
                kept.serve(true);
                // A client that pipelines without reading gets one answer, and then waits.
                context.unsent.wait().await;
                let answer = router::answer(context, request, &agreed).await;
                kept.serve(false);
                Ok::<_, Infallible>(answer)
            })
        })
    };
    let mut connection = http1::Builder::new()
        // Not `pipeline_flush`: with it hyper copies each answer into a buffer of the connection,
        // which keeps the size of the largest. Here all connections share a listing of 10 MB.
        .writev(true)
        .max_headers(app.limits.request_headers_max)
        .serve_connection(guard, service);
    let served = tokio::select! {
        // In this order: a request that has arrived already is under way.
        biased;
        served = poll_fn(|context| connection.poll_without_shutdown(context)) => Some(served),
        _ = ending.wait_for(|ending| *ending == Ending::Idle) => None,
    };
    let served = if let Some(served) = served {
        served
    } else {
        Pin::new(&mut connection).graceful_shutdown();
        poll_fn(|context| connection.poll_without_shutdown(context)).await
    };
    app.stats.http.leave();
    served.ok()?;
    let parts = connection.into_parts();
    let (stream, left) = parts.io.into_parts();
    let Some(upgrade) = agreed.take() else {
        // An evicted connection has taken its last answer, and another one needs the place now.
        if !kept.is_evicted() {
            linger(stream).await;
        }
        return None;
    };
    let early = [&parts.read_buf[..], &left[..]].concat().into();
    Some(Upgraded { stream, upgrade, early })
}

/// Ends the writing side and reads on for a moment: unread bytes would turn the end into a reset,
/// and the peer would lose an answer that it has not read yet.
pub async fn linger(mut stream: Stream) {
    let drain = async {
        stream.shutdown().await?;
        let (mut buffer, mut left) = ([0; limits::HTTP_READ_BYTES], limits::LINGER_BYTES_MAX);
        while left > 0 {
            match stream.read(&mut buffer).await? {
                0 => break,
                bytes => left = left.saturating_sub(bytes),
            }
        }
        Ok::<(), std::io::Error>(())
    };
    // Whatever fails here, the connection is over.
    let _ = tokio::time::timeout(Duration::from_millis(limits::CLOSE_LINGER_MS), drain).await;
}
