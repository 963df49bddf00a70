//! Accepts a shard's connections: limits, and the TLS handshake.
//!
//! Each address has a limit. When the server is at its limit, the HTTP connection that has been idle for
//! longest is evicted.
//!
//! Imports its siblings, `address`, `http`, `limits`, `shard`, `wire` and `ws`. Part of `server`.

use std::cell::RefCell;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::Interest;
use tokio::sync::{Notify, watch};
use tokio::task::spawn_local;
use tokio::time::Instant;

use super::Common;
use crate::address::ClientAddress;
use crate::http::connection::{Ending, Upgraded};
use crate::limits;
use crate::shard::socket::{Readiness, Socket};
use crate::shard::socket_poll::watched_by_tokio;
use crate::shard::surplus_answer;
use crate::shard::tcp_socket::{Stream, TcpSocket};
use crate::wire::refusal::Code;
use crate::ws::address_connections::AddressPermit;

/// Sockets on their way into the shard.
#[derive(Default)]
pub(super) struct Arrivals {
    pub(super) accepted: Vec<Ticket>,
    pub(super) upgraded: Vec<(Upgraded, Permit)>,
}

impl Arrivals {
    pub(super) fn is_empty(&self) -> bool {
        self.accepted.is_empty() && self.upgraded.is_empty()
    }
}

/// A socket and its permits.
pub(super) struct Ticket {
    pub(super) stream: Accepted,
    pub(super) permits: SocketPermits,
}

/// An accepted connection.
pub(super) enum Accepted {
    /// As the kernel gives it; the shard's own poll will watch it.
    Plain(TcpStream),
    /// After its TLS handshake, with tokio's reactor.
    Tls(Stream),
}

impl Accepted {
    /// Takes a stream out of tokio's reactor if the shard can watch it.
    pub(super) fn of(stream: Stream) -> io::Result<Accepted> {
        match stream {
            Stream::Plain(stream) => Ok(Accepted::Plain(stream.into_std()?)),
            tls @ Stream::Tls(_) => Ok(Accepted::Tls(tls)),
        }
    }
}

/// The permits of an open socket.
pub(super) enum SocketPermits {
    Admitted(Permit),
    /// There is no room for it.
    Refused {
        _turned: Turned,
    },
}

/// Counts a socket for as long as it is open: among all, and among those of its address.
pub(super) struct Permit {
    sockets: Arc<AtomicUsize>,
    _address: AddressPermit,
}

impl Permit {
    /// None if the address is at its limit, or the server is and no connection can be evicted.
    /// Such a connection is counted and logged as a refused request, though its request is not read.
    fn take(common: &Common, peer: SocketAddr) -> Option<Permit> {
        let taken = Permit::take_for(common, peer.ip());
        if let Err(reason) = taken {
            common.app.stats.http.refuse(Code::Unavailable);
            let client = ClientAddress::from(peer).to_string();
            tracing::warn!(target: "fanfare::http", client, reason, "connection refused");
        }
        taken.ok()
    }

    fn take_for(common: &Common, peer: IpAddr) -> Result<Permit, &'static str> {
        let authorizer = &common.app.authorizer;
        // A proxy carries many clients, which count when their heads have been read.
        let user_permit = if authorizer.trusted_proxies.contains(peer) {
            AddressPermit::exempt()
        } else {
            authorizer
                .address_connections
                .take(peer)
                .ok_or("too many connections from this address")?
        };
        let before = common.sockets.fetch_add(1, Ordering::Relaxed);
        let permit = Permit { sockets: Arc::clone(&common.sockets), _address: user_permit };
        let has_room = before < common.sockets_max || common.app.idle.evict(Instant::now());
        if has_room { Ok(permit) } else { Err("no room for more connections") }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.sockets.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts a refused socket while its refusal is sent. It too has a descriptor, for as long as the
/// client takes to read the refusal.
pub(super) struct Turned(Arc<AtomicUsize>);

impl Turned {
    /// None if so many refusals are being sent that the next socket gets only an answer.
    fn take(common: &Common) -> Option<Turned> {
        let before = common.turned.fetch_add(1, Ordering::Relaxed);
        let turned = Turned(Arc::clone(&common.turned));
        (before < limits::TURNED_AWAY_MAX).then_some(turned)
    }
}

impl Drop for Turned {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A socket with its permits, as the shard owns it.
pub(super) struct Counted {
    pub(super) socket: TcpSocket,
    pub(super) permits: SocketPermits,
}

impl Socket for Counted {
    fn try_read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.socket.try_read(into)
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.try_write(bytes)
    }

    fn try_write_vectored(&mut self, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.socket.try_write_vectored(parts)
    }

    fn note_ready(&mut self, readiness: Readiness) {
        self.socket.note_ready(readiness);
    }

    fn shut_down(&mut self) {
        self.socket.shut_down();
    }

    fn reset(&mut self) {
        self.socket.reset();
    }

    fn peer(&self) -> Option<std::net::SocketAddr> {
        self.socket.peer()
    }

    fn local(&self) -> Option<std::net::SocketAddr> {
        self.socket.local()
    }
}

/// The listener's task.
pub(super) struct Entrance {
    pub(super) arrivals: Rc<RefCell<Arrivals>>,
    pub(super) notify: Arc<Notify>,
    pub(super) common: Common,
    pub(super) tasks: Tasks,
}

impl Entrance {
    /// Accepts until the server ends.
    ///
    /// # Errors
    ///
    /// The runtime cannot watch the listener.
    pub(super) async fn run(
        self,
        listener: std::net::TcpListener,
        mut ending: watch::Receiver<Ending>,
    ) -> io::Result<()> {
        // mio accepts with one system call; std needs a second one for a socket that does not block.
        let listener = watched_by_tokio(mio::net::TcpListener::from_std(listener))?;
        loop {
            let accepted = tokio::select! {
                accepted = listener.async_io(Interest::READABLE, mio::net::TcpListener::accept) => accepted,
                _ = ending.wait_for(|ending| *ending > Ending::No) => break,
            };
            match accepted {
                Ok((stream, peer)) => self.admit(stream.into(), peer),
                Err(fault) => {
                    // Out of descriptors, most likely. Accepting again at once would spin: the
                    // connection still waits in the kernel's queue.
                    tracing::warn!(%fault, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(limits::ACCEPT_PAUSE_MS)).await;
                }
            }
        }
        if let Err(fault) = self.close(&listener.into_inner()) {
            tracing::warn!(%fault, "connections in the accept queue are lost");
        }
        self.notify.notify_one();
        Ok(())
    }

    /// Accepts the connections in the kernel's queue. A proxy would take the end of a connection that it
    /// has just made for the end of its request.
    ///
    /// The kernel is asked: the runtime knows of a connection only after its next poll.
    fn close(&self, listener: &mio::net::TcpListener) -> io::Result<()> {
        for _ in 0..limits::ACCEPT_BACKLOG {
            let (stream, peer) = match listener.accept() {
                Ok(accepted) => accepted,
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(fault) if fault.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(fault) => return Err(fault),
            };
            self.admit(stream.into(), peer);
        }
        Ok(())
    }

    fn admit(&self, stream: TcpStream, peer: SocketAddr) {
        let permit = Permit::take(&self.common, peer);
        let Some(tls) = self.common.tls.clone() else {
            let permits = match permit {
                Some(permit) => SocketPermits::Admitted(permit),
                None => match Turned::take(&self.common) {
                    Some(turned) => SocketPermits::Refused { _turned: turned },
                    None => return turn_away(stream),
                },
            };
            let stream = Accepted::Plain(stream);
            self.arrivals.borrow_mut().accepted.push(Ticket { stream, permits });
            return self.notify.notify_one();
        };
        // Without room there is no handshake either: it is the expensive part.
        let Some(permit) = permit else { return };
        let (arrivals, notify) = (Rc::clone(&self.arrivals), Arc::clone(&self.notify));
        let patience = Duration::from_millis(self.common.app.limits.handshake_timeout_ms);
        let task = self.tasks.clone();
        spawn_local(async move {
            let accepted = match tokio::net::TcpStream::from_std(stream) {
                Ok(stream) => tls.accept(stream, patience).await,
                Err(fault) => Err(fault),
            };
            match accepted {
                Ok(stream) => {
                    let permits = SocketPermits::Admitted(permit);
                    let ticket = Ticket { stream: Accepted::Tls(stream), permits };
                    arrivals.borrow_mut().accepted.push(ticket);
                    notify.notify_one();
                }
                Err(fault) => {
                    let client = ClientAddress::from(peer).to_string();
                    tracing::debug!(target: "fanfare::http", client, %fault, "a TLS handshake failed");
                }
            }
            drop(task);
        });
    }
}

/// Answers that there is no room, and closes. Of thousands of refused clients some get a reset
/// instead: waiting for each to read the answer would take the remaining descriptors.
fn turn_away(mut stream: TcpStream) {
    // The rest that the kernel does not take at once is dropped.
    let _ = stream.write(surplus_answer().as_bytes());
}

/// Counts the tasks beside the shard: each has a clone.
#[derive(Clone, Default)]
pub(super) struct Tasks(Rc<()>);

impl Tasks {
    /// Whether a clone is left besides the counter's own.
    pub(super) fn any(&self) -> bool {
        Rc::strong_count(&self.0) > 1
    }
}
