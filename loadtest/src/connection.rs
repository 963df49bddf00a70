//! A connection: one socket of the fleet, and its stage.
//!
//! It writes its frames and closes; `fleet` does the reading, and owns the one buffer that all
//! connections share.
//!
//! Imports `frame` and `target`. Imported by `fleet`.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use mio::net::TcpStream;
use socket2::{Domain, SockRef, Socket, Type};

use crate::frame::{self, Opcode};
use crate::target::Target;

/// How many sockets share a source address on the loopback network. An address has about 28,000
/// ephemeral ports.
const PORTS_PER_SOURCE: usize = 20_000;

/// The receive buffer of a connection that is going to stall: small, so that the server notices.
const STALLED_RECV_BYTES: usize = 16 * 1024;

/// The stage of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Waits for TCP.
    Connecting,
    /// Waits for the answer to the upgrade.
    Upgrading,
    /// A WebSocket.
    Open,
    /// Closed, or never opened.
    Closed,
}

/// One socket of the fleet.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The socket. Absent once closed.
    pub(crate) stream: Option<TcpStream>,
    /// Its stage.
    pub(crate) phase: Phase,
    /// The start of a frame that has not arrived in full. Empty most of the time.
    pub(crate) pending: Vec<u8>,
    /// The parts of a fragmented message so far.
    pub(crate) fragments: Vec<u8>,
    /// Bytes that the kernel has not taken yet.
    pub(crate) outgoing: Vec<u8>,
    /// The accept value that must answer our upgrade.
    pub(crate) accept: String,
    /// When `connect` was called.
    pub(crate) started_ns: u64,
    /// The number of subscriptions that were requested.
    pub(crate) asked: usize,
    /// The number of subscriptions that were answered.
    pub(crate) subscribed: usize,
    /// Whether it deliberately reads nothing.
    pub(crate) is_stalled: bool,
    /// Whether we have sent a close frame.
    pub(crate) is_closing: bool,
    /// The code of the server's close frame.
    pub(crate) close_code: Option<u16>,
}

impl Connection {
    /// Without a socket.
    pub(crate) fn vacant() -> Self {
        Connection {
            stream: None,
            phase: Phase::Closed,
            pending: Vec::new(),
            fragments: Vec::new(),
            outgoing: Vec::new(),
            accept: String::new(),
            started_ns: 0,
            asked: 0,
            subscribed: 0,
            is_stalled: false,
            is_closing: false,
            close_code: None,
        }
    }

    /// Starts to connect. `serial` counts all sockets of this run, and chooses the source address;
    /// `is_slow` asks for a small receive buffer.
    pub(crate) fn start(
        target: &Target,
        serial: usize,
        is_slow: bool,
        now_ns: u64,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(target.address), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        if is_slow {
            socket.set_recv_buffer_size(STALLED_RECV_BYTES)?;
        }
        if let Some(source) = source_address(target.address, serial) {
            socket.bind(&source.into())?;
        }
        match socket.connect(&target.address.into()) {
            Err(error) if !is_in_progress(&error) => return Err(error),
            _ => {}
        }
        // A frame of ours is small and alone; without this a pong could wait for an ack.
        socket.set_tcp_nodelay(true)?;
        let (request, accept) = target.upgrade();
        Ok(Connection {
            stream: Some(TcpStream::from_std(socket.into())),
            phase: Phase::Connecting,
            outgoing: request.into_bytes(),
            accept,
            started_ns: now_ns,
            ..Connection::vacant()
        })
    }

    /// Appends a frame to the unsent bytes.
    pub(crate) fn push(&mut self, opcode: Opcode, payload: &[u8], key: u32) {
        frame::encode(opcode, payload, key, &mut self.outgoing);
    }

    /// Writes as many bytes as the kernel takes.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        let Some(stream) = &mut self.stream else {
            return Ok(());
        };
        let mut done = 0;
        while done < self.outgoing.len() {
            match stream.write(&self.outgoing[done..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.outgoing.drain(..done);
        if self.outgoing.is_empty() {
            // An idle connection owns no buffer.
            self.outgoing = Vec::new();
        }
        Ok(())
    }

    /// Drops the socket. With `is_abort` the server sees a reset instead of an end.
    pub(crate) fn drop_socket(&mut self, is_abort: bool) {
        if let (Some(stream), true) = (&self.stream, is_abort) {
            // If it cannot be set, the connection ends in the ordinary way.
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
        self.stream = None;
        self.phase = Phase::Closed;
        self.pending = Vec::new();
        self.outgoing = Vec::new();
    }
}

fn is_in_progress(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
        || error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error())
}

/// The address to connect from: none for the first sockets, then one after the other of the
/// loopback network.
fn source_address(target: SocketAddr, serial: usize) -> Option<SocketAddr> {
    let index = serial / PORTS_PER_SOURCE;
    if index == 0 || !matches!(target.ip(), IpAddr::V4(ip) if ip.is_loopback()) {
        return None;
    }
    let [_, _, high, low] = (index as u32 + 1).to_be_bytes();
    Some(SocketAddr::from((Ipv4Addr::new(127, 1, high, low), 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_spread_only_on_the_loopback_network() {
        let local: SocketAddr = "127.0.0.1:80".parse().unwrap();
        assert_eq!(source_address(local, PORTS_PER_SOURCE - 1), None);
        let second = source_address(local, PORTS_PER_SOURCE).unwrap();
        let third = source_address(local, 2 * PORTS_PER_SOURCE).unwrap();
        assert!(second.ip().is_loopback() && second != third);
        assert_eq!(source_address("192.0.2.1:80".parse().unwrap(), 1_000_000), None);
    }
}
