//! The kernel's sockets: plain ones of a shard in the shard's own poll, TLS streams and those of HTTP on tokio's reactor.
//!
//! Imports `id`, `shard::socket` and `shard::socket_poll`. Imported by `server` and `http`.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::socket::{Readiness, Socket};
use super::socket_poll::SocketPoll;
use crate::id::Slot;

/// A connection, encrypted or not.
///
/// Frames are made once for all subscribers, over plain sockets and TLS alike; TLS encrypts their
/// bytes for each.
#[derive(Debug)]
pub enum Stream {
    /// Bytes as they are.
    Plain(TcpStream),
    /// TLS, after its handshake.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// The peer's address.
    ///
    /// # Errors
    ///
    /// The kernel's, if the connection is over.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Stream::Plain(stream) => stream.peer_addr(),
            Stream::Tls(stream) => stream.get_ref().0.peer_addr(),
        }
    }

    /// Makes the connection end with a reset when it is dropped.
    pub fn reset(&self) {
        let stream = match self {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => stream.get_ref().0,
        };
        // It fails if the connection is over already.
        let _ = stream.set_zero_linger();
    }

    /// The address at which the connection arrived.
    ///
    /// # Errors
    ///
    /// The kernel's, if the connection is over.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Stream::Plain(stream) => stream.local_addr(),
            Stream::Tls(stream) => stream.get_ref().0.local_addr(),
        }
    }

    /// Hands encrypted bytes that TLS still holds to the kernel. The rest is sent when the socket
    /// has room again, which wakes the slot.
    fn push_out(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Plain(_) => Poll::Ready(Ok(())),
            Stream::Tls(stream) => Pin::new(&mut **stream).poll_flush(context),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, into),
            Stream::Tls(stream) => {
                // A visit may mean that there is room for writing: this uses it.
                if let Poll::Ready(Err(fault)) = Pin::new(&mut **stream).poll_flush(context) {
                    return Poll::Ready(Err(fault));
                }
                Pin::new(&mut **stream).poll_read(context, into)
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = self.get_mut();
        if let Stream::Plain(stream) = stream {
            return match parts {
                [part] => Pin::new(stream).poll_write(context, part),
                parts => Pin::new(stream).poll_write_vectored(context, parts),
            };
        }
        // Nothing is encrypted before the earlier record is gone, so that a slow reader's backlog
        // waits in its outbox, where it is counted.
        std::task::ready!(stream.push_out(context))?;
        let taken = match stream {
            Stream::Plain(_) => 0,
            Stream::Tls(stream) => {
                std::task::ready!(Pin::new(&mut **stream).poll_write_vectored(context, parts))?
            }
        };
        match stream.push_out(context) {
            Poll::Ready(Err(fault)) => Poll::Ready(Err(fault)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(taken)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.push_out(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(context),
        }
    }
}

/// A connection, as its shard reads and writes it.
#[derive(Debug)]
pub struct TcpSocket(Kind);

#[derive(Debug)]
enum Kind {
    Plain(PlainSocket),
    /// Boxed: TLS needs some KiB besides.
    Woken(Box<WokenSocket>),
}

/// A socket that the shard's own poll watches.
///
/// It costs sixteen bytes; a stream of tokio costs 320 with its waker.
#[derive(Debug)]
struct PlainSocket {
    stream: std::net::TcpStream,
    readiness: Readiness,
    /// What the poll needs to watch it; none if the poll does already.
    unwatched: Option<Box<Unwatched>>,
}

/// A socket is watched only when it has nothing to read: most requests of HTTP are there when their
/// connection is accepted, and another task serves them.
#[derive(Debug)]
struct Unwatched {
    poll: Rc<SocketPoll>,
    slot: Slot,
    generation: u32,
}

/// A socket that wakes its slot.
///
/// The functions of `AsyncRead` and `AsyncWrite` are used rather than `try_read` and `try_write`:
/// they clear tokio's readiness after a short read or write, which saves the system call that would
/// only say `WouldBlock`.
#[derive(Debug)]
struct WokenSocket {
    stream: Stream,
    waker: Waker,
}

impl TcpSocket {
    /// Wraps a non-blocking stream that `poll` is to watch.
    pub fn watched(
        stream: std::net::TcpStream,
        poll: &Rc<SocketPoll>,
        slot: Slot,
        generation: u32,
    ) -> TcpSocket {
        let unwatched = Unwatched { poll: Rc::clone(poll), slot, generation };
        TcpSocket(Kind::Plain(PlainSocket {
            stream,
            readiness: Readiness::ALL,
            unwatched: Some(Box::new(unwatched)),
        }))
    }

    /// Wraps a stream whose readiness is to wake `waker`.
    pub fn woken(stream: Stream, waker: Waker) -> TcpSocket {
        TcpSocket(Kind::Woken(Box::new(WokenSocket { stream, waker })))
    }

    /// Gives the stream back, for another owner to read and write.
    ///
    /// # Errors
    ///
    /// The kernel's, from either poll.
    pub fn into_stream(self, poll: &SocketPoll) -> io::Result<Stream> {
        match self.0 {
            Kind::Plain(plain) => {
                if plain.unwatched.is_none() {
                    poll.forget(&plain.stream)?;
                }
                Ok(Stream::Plain(TcpStream::from_std(plain.stream)?))
            }
            Kind::Woken(woken) => Ok(woken.stream),
        }
    }
}

impl PlainSocket {
    fn watch(&mut self) -> io::Result<()> {
        match self.unwatched.take() {
            Some(unwatched) => {
                unwatched.poll.watch(&self.stream, unwatched.slot, unwatched.generation)
            }
            None => Ok(()),
        }
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if !self.readiness.may_read() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        match (&self.stream).read(into) {
            Ok(bytes) => {
                // A short read shows that there was no more, and the poll reports what comes later. This saves
                // the system call that would only say `WouldBlock`.
                if bytes < into.len() && self.unwatched.is_none() {
                    self.readiness.note_read_short();
                }
                Ok(bytes)
            }
            Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => {
                self.readiness.note_read_short();
                self.watch()?;
                Err(fault)
            }
            Err(fault) => Err(fault),
        }
    }

    fn write(
        &mut self,
        bytes: usize,
        write: impl FnOnce(&mut &std::net::TcpStream) -> io::Result<usize>,
    ) -> io::Result<usize> {
        if !self.readiness.may_write() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let written = write(&mut &self.stream);
        let is_short = match &written {
            Ok(taken) => *taken < bytes,
            Err(fault) => fault.kind() == io::ErrorKind::WouldBlock,
        };
        if is_short {
            self.readiness.note_write_short();
            self.watch()?;
        }
        written
    }
}

fn now_or_blocked<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl Socket for TcpSocket {
    fn try_read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Kind::Plain(plain) => plain.read(into),
            Kind::Woken(woken) => {
                let mut context = Context::from_waker(&woken.waker);
                let mut buffer = ReadBuf::new(into);
                now_or_blocked(Pin::new(&mut woken.stream).poll_read(&mut context, &mut buffer))?;
                Ok(buffer.filled().len())
            }
        }
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Kind::Plain(plain) => plain.write(bytes.len(), |stream| stream.write(bytes)),
            Kind::Woken(woken) => {
                let mut context = Context::from_waker(&woken.waker);
                now_or_blocked(Pin::new(&mut woken.stream).poll_write(&mut context, bytes))
            }
        }
    }

    fn try_write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match &mut self.0 {
            Kind::Plain(plain) => {
                let bytes = parts.iter().map(|part| part.len()).sum();
                plain.write(bytes, |stream| stream.write_vectored(parts))
            }
            Kind::Woken(woken) => {
                let mut context = Context::from_waker(&woken.waker);
                now_or_blocked(Pin::new(&mut woken.stream).poll_write_vectored(&mut context, parts))
            }
        }
    }

    fn note_ready(&mut self, readiness: Readiness) {
        if let Kind::Plain(plain) = &mut self.0 {
            plain.readiness.add(readiness);
        }
    }

    fn shut_down(&mut self) {
        // The peer may have closed already.
        match &mut self.0 {
            Kind::Plain(plain) => _ = plain.stream.shutdown(Shutdown::Write),
            Kind::Woken(woken) => {
                let mut context = Context::from_waker(&woken.waker);
                let _ = Pin::new(&mut woken.stream).poll_shutdown(&mut context);
            }
        }
    }

    fn reset(&mut self) {
        match &self.0 {
            // It fails if the connection is over already.
            Kind::Plain(plain) => {
                _ = SockRef::from(&plain.stream).set_linger(Some(Duration::ZERO));
            }
            Kind::Woken(woken) => woken.stream.reset(),
        }
    }

    fn peer(&self) -> Option<SocketAddr> {
        match &self.0 {
            Kind::Plain(plain) => plain.stream.peer_addr().ok(),
            Kind::Woken(woken) => woken.stream.peer_addr().ok(),
        }
    }

    fn local(&self) -> Option<SocketAddr> {
        match &self.0 {
            Kind::Plain(plain) => plain.stream.local_addr().ok(),
            Kind::Woken(woken) => woken.stream.local_addr().ok(),
        }
    }
}
