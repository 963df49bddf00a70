//! The listening sockets: one a shard, all on one port.
//!
//! Imports `limits`. Part of `server`.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::limits;

/// Listens once for each shard, all at one address. The kernel spreads connections over them by
/// address and port.
///
/// # Errors
///
/// As [`check`].
pub(super) fn listen(address: SocketAddr, shards: usize) -> io::Result<Vec<TcpListener>> {
    let address = check(address)?;
    let mut listeners = Vec::with_capacity(shards);
    for _ in 0..shards {
        let listener = socket(address)?;
        listener.set_reuse_port(true)?;
        listener.bind(&address.into())?;
        listener.listen(limits::ACCEPT_BACKLOG)?;
        listeners.push(listener.into());
    }
    Ok(listeners)
}

/// Whether an address can be listened on. Returns it, with a port if any would do.
///
/// Without `SO_REUSEPORT`, so that a port on which another server listens is an error and not silently
/// shared.
///
/// # Errors
///
/// The kernel's.
pub(super) fn check(address: SocketAddr) -> io::Result<SocketAddr> {
    let probe = socket(address)?;
    probe.bind(&address.into())?;
    probe.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

/// A socket with the options that accepted connections inherit.
fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // Accepted sockets inherit it on Linux, which saves four system calls a connection.
    socket.set_tcp_nodelay(true)?;
    socket.set_send_buffer_size(limits::SOCKET_SEND_BYTES)?;
    socket.set_tcp_user_timeout(Some(Duration::from_millis(limits::TCP_USER_TIMEOUT_MS)))?;
    SockRef::from(&socket).set_tcp_notsent_lowat(limits::SOCKET_UNSENT_BYTES)?;
    Ok(socket)
}

/// Grows the process's table of descriptors to its final size.
///
/// The kernel doubles the table when a new descriptor does not fit, and in a process of several
/// threads waits for all cores each time (`synchronize_rcu`, ten to twenty milliseconds): in a storm
/// of connections, every shard stands still for a dozen times. Called before there are threads, it
/// costs nothing. The figures are in PERF.md.
pub(super) fn grow_descriptor_table(descriptors: usize) {
    let highest = descriptors.clamp(1, limits::DESCRIPTOR_TABLE_MAX) - 1;
    let (Ok(any), Ok(highest)) = (std::fs::File::open("/dev/null"), i32::try_from(highest)) else {
        return;
    };
    // It is closed at once; the table keeps its size. Beyond the limit the call has no effect.
    drop(rustix::io::fcntl_dupfd_cloexec(&any, highest));
}

/// The number of sockets that may be open: the configured one, or as many as the file-descriptor
/// limit allows beside the server's own files.
pub(super) fn sockets_max(configured: Option<usize>) -> usize {
    let text = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().nth(3)?.parse::<usize>().ok());
    let available = soft
        .map_or(usize::MAX, |soft| soft.saturating_sub(limits::RESERVED_DESCRIPTORS).max(soft / 2));
    configured.unwrap_or(available).min(available)
}
