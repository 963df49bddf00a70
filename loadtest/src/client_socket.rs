//! One connection of the publisher, or of a user, with its unsent and unread bytes: a WebSocket or, for
//! a publisher, a connection that carries HTTP requests.
//!
//! Imports `target`. Imported by `publisher` and `users`.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::target::{self, Target};

/// How long the handshake and the clean-up may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Waits at most `timeout` until sockets can be read, or written to if they have unsent bytes.
/// Returns which.
pub(crate) fn wait(sockets: &[ClientSocket], timeout: Duration) -> io::Result<Vec<usize>> {
    let mut descriptors: Vec<PollFd<'_>> = sockets
        .iter()
        .map(|socket| {
            let wants_out = !socket.outgoing.is_empty();
            let out = if wants_out { PollFlags::OUT } else { PollFlags::empty() };
            PollFd::new(&socket.stream, PollFlags::IN | out)
        })
        .collect();
    let timeout = Timespec {
        tv_sec: timeout.as_secs().cast_signed(),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    match poll(&mut descriptors, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(fault) => return Err(fault.into()),
    }
    let is_ready = |descriptor: &PollFd<'_>| !descriptor.revents().is_empty();
    let ready = descriptors.iter().enumerate().filter(|(_, one)| is_ready(one));
    Ok(ready.map(|(index, _)| index).collect())
}

/// One connection of the publisher, or of a user.
#[derive(Debug)]
pub(crate) struct ClientSocket {
    /// The socket, not blocking.
    pub(crate) stream: TcpStream,
    /// Bytes that the kernel has not taken yet.
    pub(crate) outgoing: Vec<u8>,
    /// Bytes that were read and not decoded yet.
    pub(crate) incoming: Vec<u8>,
    /// The requests without an answer: their id, their first event, and the number of their events.
    pub(crate) in_flight: VecDeque<(u64, u64, u64)>,
}

impl ClientSocket {
    /// Connects, for HTTP requests.
    pub(crate) fn connect(target: &Target) -> io::Result<ClientSocket> {
        let stream = TcpStream::connect_timeout(&target.address, ANSWER_TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let (outgoing, incoming) = (Vec::new(), Vec::new());
        Ok(ClientSocket { stream, outgoing, incoming, in_flight: VecDeque::new() })
    }

    /// Connects and shakes hands, waiting for both.
    pub(crate) fn open(target: &Target) -> io::Result<ClientSocket> {
        let mut stream = TcpStream::connect_timeout(&target.address, ANSWER_TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let (request, accept) = target.upgrade();
        stream.write_all(request.as_bytes())?;
        let mut incoming = Vec::new();
        let head = loop {
            let mut part = [0; 4096];
            let count = stream.read(&mut part)?;
            incoming.extend_from_slice(&part[..count]);
            if let Some(head) = target::upgraded(&incoming, &accept).map_err(io::Error::other)? {
                break head;
            }
            if count == 0 {
                return Err(io::Error::other("closed before the upgrade"));
            }
        };
        incoming.drain(..head);
        stream.set_nonblocking(true)?;
        Ok(ClientSocket { stream, outgoing: Vec::new(), incoming, in_flight: VecDeque::new() })
    }

    /// Writes as many bytes as the kernel takes.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        let mut done = 0;
        while done < self.outgoing.len() {
            match self.stream.write(&self.outgoing[done..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.outgoing.drain(..done);
        Ok(())
    }

    /// Reads the bytes that have arrived. Returns the number of undecoded bytes.
    pub(crate) fn fill(&mut self) -> io::Result<usize> {
        loop {
            let mut part = [0; 16 * 1024];
            match self.stream.read(&mut part) {
                Ok(0) => {
                    return Err(io::Error::other("the server ended the publisher's connection"));
                }
                Ok(count) => {
                    self.incoming.extend_from_slice(&part[..count]);
                    if count < part.len() {
                        return Ok(self.incoming.len());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(self.incoming.len());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}
