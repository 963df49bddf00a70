//! The socket interface between the shard and the kernel.
//!
//! A socket reads and writes bytes without waiting. When it cannot, it returns `WouldBlock`, and
//! reports itself to the shard as soon as it can again. The real one is `shard::tcp_socket`;
//! simulations and benches bring their own. Another way of writing, such as `io_uring`, would be another
//! implementation of these few functions.
//!
//! Imports nothing of the crate. Imported by `shard`.

use std::io::{self, IoSlice};
use std::net::SocketAddr;

/// A byte stream that never waits.
pub trait Socket {
    /// Reads the bytes that have arrived. `Ok(0)` is the end of the stream.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if there are none: the socket will report itself ready. Any other error ends
    /// the connection.
    fn try_read(&mut self, into: &mut [u8]) -> io::Result<usize>;

    /// Writes as many bytes as the kernel takes.
    ///
    /// # Errors
    ///
    /// As for reading.
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Writes as many bytes as the kernel takes, from several slices.
    ///
    /// # Errors
    ///
    /// As for reading.
    fn try_write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Notes what the kernel has reported of the socket.
    fn note_ready(&mut self, _readiness: Readiness) {}

    /// Shuts the writing side down.
    fn shut_down(&mut self);

    /// Makes the connection end with a reset when it is dropped: the kernel then forgets the bytes
    /// that it holds for the peer, instead of offering them for half a minute more.
    fn reset(&mut self) {}

    /// The peer's address, if known.
    fn peer(&self) -> Option<SocketAddr> {
        None
    }

    /// The address at which the connection arrived, if it is known.
    fn local(&self) -> Option<SocketAddr> {
        None
    }
}

/// What the kernel has reported of a socket and the shard has not used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness(u8);

const READ: u8 = 1;
const WRITE: u8 = 2;
/// The end of the stream is behind the last bytes, and is not reported again.
const END: u8 = 4;

impl Readiness {
    /// Reading and writing may succeed.
    pub const ALL: Readiness = Readiness(READ | WRITE);

    /// The readiness to read, to write, and to read the end of the stream.
    pub fn new(may_read: bool, may_write: bool, has_ended: bool) -> Readiness {
        let bit = |is_set, bit| if is_set { bit } else { 0 };
        Readiness(bit(may_read, READ) | bit(may_write, WRITE) | bit(has_ended, END))
    }

    /// Whether a read may find something.
    pub fn may_read(self) -> bool {
        self.0 & (READ | END) != 0
    }

    /// Whether the kernel may take bytes.
    pub fn may_write(self) -> bool {
        self.0 & WRITE != 0
    }

    /// Notes a new report.
    pub fn add(&mut self, more: Readiness) {
        self.0 |= more.0;
    }

    /// Notes that everything that had arrived was read. The end of the stream is still to be read.
    pub fn note_read_short(&mut self) {
        self.0 &= !READ;
    }

    /// Notes that the kernel took less than it was given.
    pub fn note_write_short(&mut self) {
        self.0 &= !WRITE;
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
