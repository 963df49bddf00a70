//! The guard between a socket and hyper: only unambiguous requests pass.
//!
//! hyper repairs some heads that two parsers may read differently: it drops a `Content-Length` beside a
//! `Transfer-Encoding`, and one of two equal lengths. Behind a proxy that reads them the other way this
//! enables request smuggling. So the guard checks each head by the rules of a connection's first head,
//! before hyper sees a byte of it. It replaces a bad head by a request for the refusal itself and reads
//! nothing after it: hyper answers, and closes. It also holds back the bytes after a request to upgrade, until
//! hyper has answered.
//!
//! The guard also keeps time: a head has to be complete within the handshake timeout, and a
//! connection may idle between requests for [`limits::KEEP_ALIVE_MS`]. A client that takes nothing of
//! its answer for the write timeout is gone: the connection is reset.
//!
//! Imports `http::chunked_body`, `http::idle`, `limits`, `shard::tcp_socket` and `ws::head`. Imported by
//! `http::connection`.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::chunked_body::{ChunkedBody, Verdict};
use super::idle::Kept;
use crate::limits::{self, Limits};
use crate::shard::tcp_socket::Stream;
use crate::ws::head::{self, Body, HeadFault, HeadLimits};

/// The path that stands for a refusal: `/.refused/400` and `/.refused/431`.
pub const REFUSED: &str = "/.refused/";

/// The `Host` of such a request. No server has this name; a client that sends it gets the refusal too.
pub const NOBODY: &str = "-";

/// A guarded connection.
#[derive(Debug)]
pub struct Guard {
    stream: Stream,
    scan: Scan,
    /// Bytes that passed and wait for hyper.
    passed: BytesMut,
    /// Bytes of a head that is not complete.
    pending: BytesMut,
    limits: HeadLimits,
    handshake: Duration,
    alarm: Pin<Box<Sleep>>,
    write_patience: Duration,
    /// Rings when the client has taken nothing for `write_patience`. None while it takes bytes.
    stalled: Option<Pin<Box<Sleep>>>,
    /// The connection's place among those that may be evicted.
    kept: Option<Arc<Kept>>,
}

/// The guard's position in the stream.
#[derive(Debug)]
enum Scan {
    Head,
    Body(u64),
    ChunkedBody(ChunkedBody),
    /// The last head asks for an upgrade. The bytes behind it wait here for the next protocol.
    Upgrade,
    /// A head or a chunk was refused: no more bytes pass.
    Shut,
}

impl Guard {
    /// Guards a connection whose first bytes were read already.
    pub fn new(stream: Stream, early: &[u8], limits: &Limits) -> Guard {
        let handshake = Duration::from_millis(limits.handshake_timeout_ms);
        let mut guard = Guard {
            stream,
            scan: Scan::Head,
            passed: BytesMut::new(),
            pending: BytesMut::new(),
            limits: HeadLimits {
                bytes_max: limits.request_head_bytes_max,
                headers_max: limits.request_headers_max,
            },
            handshake,
            alarm: Box::pin(sleep_until(Instant::now() + handshake)),
            write_patience: Duration::from_millis(limits.write_timeout_ms),
            stalled: None,
            kept: None,
        };
        guard.scan(early);
        guard
    }

    /// The same, for a connection that may be evicted between two requests.
    #[must_use]
    pub fn kept(mut self, kept: Arc<Kept>) -> Guard {
        self.kept = Some(kept);
        self
    }

    /// Whether the connection is idle between two requests and has to end.
    fn gives_way(&self, cx: &Context<'_>) -> bool {
        self.pending.is_empty()
            && self.kept.as_ref().is_some_and(|kept| kept.rest(cx, Instant::now()))
    }

    /// Gives back the socket and every byte that hyper has not taken.
    pub fn into_parts(self) -> (Stream, Bytes) {
        let mut rest = self.passed;
        rest.extend_from_slice(&self.pending);
        (self.stream, rest.freeze())
    }

    fn scan(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let used = match &mut self.scan {
                Scan::Shut => return,
                Scan::Upgrade => {
                    self.pending.extend_from_slice(bytes);
                    return;
                }
                Scan::Body(left) => {
                    let used = usize::try_from(*left).map_or(bytes.len(), |n| n.min(bytes.len()));
                    *left -= used as u64;
                    let is_over = *left == 0;
                    self.passed.extend_from_slice(&bytes[..used]);
                    if is_over {
                        self.expect_head();
                    }
                    used
                }
                Scan::ChunkedBody(chunked_body) => {
                    let (used, verdict) = chunked_body.walk(bytes, &mut self.passed);
                    match verdict {
                        Verdict::More => {}
                        Verdict::Over => self.expect_head(),
                        Verdict::Wrong => self.scan = Scan::Shut,
                    }
                    used
                }
                Scan::Head => self.scan_head(bytes),
            };
            bytes = &bytes[used..];
        }
    }

    fn expect_head(&mut self) {
        self.scan = Scan::Head;
        self.set_alarm(Duration::from_millis(limits::KEEP_ALIVE_MS));
    }

    fn set_alarm(&mut self, after: Duration) {
        let at = Instant::now() + after;
        self.alarm.as_mut().reset(at);
    }

    /// Checks the result of a write. A blocked write fails when the client has taken nothing for
    /// too long.
    fn watch_write<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let patience = self.write_patience;
        let alarm =
            self.stalled.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + patience)));
        std::task::ready!(alarm.as_mut().poll(cx));
        self.stream.reset();
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Adds to the head. Returns the number of bytes that belong to it.
    fn scan_head(&mut self, bytes: &[u8]) -> usize {
        if self.pending.is_empty() {
            self.set_alarm(self.handshake);
            if let Some(kept) = &self.kept {
                kept.work();
            }
        }
        let before = self.pending.len();
        self.pending.extend_from_slice(bytes);
        let (length, body, is_upgrade) = match head::parse(&self.pending, self.limits) {
            Ok(None) => return bytes.len(),
            Ok(Some(head)) => (head.bytes, head.body, head.headers.contains_key("upgrade")),
            Err(fault) => {
                let status = if fault == HeadFault::TooLarge { 431 } else { 400 };
                let text = format!("GET {REFUSED}{status} HTTP/1.1\r\nHost: {NOBODY}\r\n\r\n");
                self.passed.extend_from_slice(text.as_bytes());
                self.pending.clear();
                self.scan = Scan::Shut;
                return bytes.len();
            }
        };
        self.passed.extend_from_slice(&self.pending[..length]);
        self.pending.clear();
        match body {
            Body::None if is_upgrade => self.scan = Scan::Upgrade,
            Body::None => self.expect_head(),
            Body::Length(length) => self.scan = Scan::Body(length),
            Body::Chunked => self.scan = Scan::ChunkedBody(ChunkedBody::new()),
        }
        length - before
    }
}

impl hyper::rt::Read for Guard {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut into: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let guard = self.get_mut();
        loop {
            if !guard.passed.is_empty() {
                let used = guard.passed.len().min(into.remaining());
                into.put_slice(&guard.passed[..used]);
                guard.passed.advance(used);
                if guard.passed.is_empty() {
                    // An idle connection keeps no buffer.
                    guard.passed = BytesMut::new();
                }
                return Poll::Ready(Ok(()));
            }
            if matches!(guard.scan, Scan::Shut | Scan::Upgrade) {
                // Not the end: hyper would take it for the client's, and drop the answer. The
                // request under way ends the connection or takes it over.
                return Poll::Pending;
            }
            let mut chunk = [0; limits::HTTP_READ_BYTES];
            let mut buffer = ReadBuf::new(&mut chunk);
            match Pin::new(&mut guard.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(())) => guard.scan(buffer.filled()),
                Poll::Ready(Err(fault)) => return Poll::Ready(Err(fault)),
                // Late, or evicted: to hyper it looks as if the peer had gone.
                Poll::Pending if matches!(guard.scan, Scan::Head) => {
                    if guard.gives_way(cx) {
                        return Poll::Ready(Ok(()));
                    }
                    return guard.alarm.as_mut().poll(cx).map(|()| Ok(()));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl hyper::rt::Write for Guard {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watch_write(written, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.watch_write(flushed, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.watch_write(written, cx)
    }
}
