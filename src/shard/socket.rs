//! The seam between the engine and the kernel.
//!
//! A socket is asked for bytes and given bytes, and says `WouldBlock` where it cannot; having said
//! so, it puts itself on the shard's ready list once it can again. The real one stands on tokio's
//! reactor; simulations and benches bring their own. Another way of writing, `io_uring` for one, would
//! be another implementation of these few functions.
//!
//! Imports `shard::ready`. Imported by `shard`.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A byte stream that never waits.
pub trait Socket {
    /// Reads what is there. `Ok(0)` is the end of the stream.
    ///
    /// # Errors
    ///
    /// `WouldBlock` where nothing is there: the socket will report itself ready. Anything else ends
    /// the connection.
    fn try_read(&mut self, into: &mut [u8]) -> io::Result<usize>;

    /// Writes what the kernel takes.
    ///
    /// # Errors
    ///
    /// As for reading.
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Writes what the kernel takes, from several places.
    ///
    /// # Errors
    ///
    /// As for reading.
    fn try_write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Says that nothing more will be written.
    fn shut_down(&mut self);

    /// Who is at the other end, where that can be told.
    fn peer(&self) -> Option<SocketAddr> {
        None
    }
}

/// A TCP connection that wakes its slot.
///
/// The functions of `AsyncRead` and `AsyncWrite` are used rather than `try_read` and `try_write`:
/// they clear tokio's readiness after a short read or write, which saves the system call that would
/// only say `WouldBlock`.
#[derive(Debug)]
pub struct TcpSocket {
    stream: TcpStream,
    waker: Waker,
}

impl TcpSocket {
    /// Wraps a stream whose readiness is to wake `waker`.
    pub fn new(stream: TcpStream, waker: Waker) -> TcpSocket {
        TcpSocket { stream, waker }
    }

    /// Gives the stream back, for someone else to read and write.
    pub fn into_stream(self) -> TcpStream {
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
        // The peer may have gone already; then there is nobody to tell.
        let _ = Pin::new(&mut self.stream).poll_shutdown(&mut context);
    }

    fn peer(&self) -> Option<SocketAddr> {
        self.stream.peer_addr().ok()
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! A socket for unit tests: takes as many bytes as it has room for.

    use super::{IoSlice, Socket, io};

    #[derive(Debug, Default)]
    pub(crate) struct Pipe {
        pub(crate) room: usize,
        pub(crate) written: Vec<u8>,
    }

    impl Socket for Pipe {
        fn try_read(&mut self, _into: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::WouldBlock.into())
        }

        fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.room);
            if taken == 0 && !bytes.is_empty() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.room -= taken;
            self.written.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn try_write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
            let all: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
            self.try_write(&all)
        }

        fn shut_down(&mut self) {}
    }
}
