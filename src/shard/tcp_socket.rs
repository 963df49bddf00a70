//! The kernel's sockets, plain or under TLS, on tokio's reactor.
//!
//! Imports `shard::socket`. Imported by `server` and `http`.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::socket::Socket;

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

/// A connection that wakes its slot.
///
/// The functions of `AsyncRead` and `AsyncWrite` are used rather than `try_read` and `try_write`:
/// they clear tokio's readiness after a short read or write, which saves the system call that would
/// only say `WouldBlock`.
#[derive(Debug)]
pub struct TcpSocket {
    stream: Stream,
    waker: Waker,
}

impl TcpSocket {
    /// Wraps a stream whose readiness is to wake `waker`.
    pub fn new(stream: Stream, waker: Waker) -> TcpSocket {
        TcpSocket { stream, waker }
    }

    /// Gives the stream back, for another owner to read and write.
    pub fn into_stream(self) -> Stream {
        self.stream
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
        let mut context = Context::from_waker(&self.waker);
        let mut buffer = ReadBuf::new(into);
        now_or_blocked(Pin::new(&mut self.stream).poll_read(&mut context, &mut buffer))?;
        Ok(buffer.filled().len())
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut context = Context::from_waker(&self.waker);
        now_or_blocked(Pin::new(&mut self.stream).poll_write(&mut context, bytes))
    }

    fn try_write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut context = Context::from_waker(&self.waker);
        now_or_blocked(Pin::new(&mut self.stream).poll_write_vectored(&mut context, parts))
    }

    fn shut_down(&mut self) {
        let mut context = Context::from_waker(&self.waker);
        // The peer may have closed already.
        let _ = Pin::new(&mut self.stream).poll_shutdown(&mut context);
    }

    fn reset(&mut self) {
        self.stream.reset();
    }

    fn peer(&self) -> Option<SocketAddr> {
        self.stream.peer_addr().ok()
    }

    fn local(&self) -> Option<SocketAddr> {
        self.stream.local_addr().ok()
    }
}
