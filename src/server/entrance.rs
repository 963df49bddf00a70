//! Where a shard's connections come in: accepting, the handshake of TLS, and how many there may be.
//!
//! Imports `http`, `limits` and `shard::socket`. Part of `server`.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::spawn_local;

use super::Common;
use crate::http::connection::{Ending, Upgraded};
use crate::limits;
use crate::shard::socket::{Socket, Stream, TcpSocket};

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

/// A socket and its place among those that may be open.
pub(super) struct Ticket {
    pub(super) stream: Stream,
    /// None where there is no room.
    pub(super) permit: Option<Permit>,
}

/// Counts a socket for as long as it is open.
pub(super) struct Permit(Arc<AtomicUsize>);

impl Permit {
    fn take(common: &Common) -> Option<Permit> {
        let before = common.sockets.fetch_add(1, Ordering::Relaxed);
        let permit = Permit(Arc::clone(&common.sockets));
        (before < common.sockets_max).then_some(permit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A socket with its permit, as the shard owns it.
pub(super) struct Counted {
    pub(super) socket: TcpSocket,
    pub(super) permit: Option<Permit>,
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

/// Where connections come in.
pub(super) struct Entrance {
    pub(super) arrivals: Rc<RefCell<Arrivals>>,
    pub(super) notify: Arc<Notify>,
    pub(super) common: Common,
    pub(super) tasks: Tasks,
}

impl Entrance {
    /// Accepts until the server ends.
    pub(super) async fn run(self, listener: TcpListener, mut ending: watch::Receiver<Ending>) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = ending.wait_for(|ending| *ending > Ending::No) => break,
            };
            match accepted {
                Ok((stream, _)) => self.admit(stream),
                Err(fault) => {
                    // Out of descriptors, most likely. Accepting again at once would spin: the
                    // connection still waits in the kernel's queue.
                    tracing::warn!(%fault, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(limits::ACCEPT_PAUSE_MS)).await;
                }
            }
        }
        if let Err(fault) = self.close(listener) {
            tracing::warn!(%fault, "connections that waited are lost");
        }
        self.notify.notify_one();
    }

    /// Lets in who has come by now, and stops listening. A proxy would take the end of a connection
    /// that it has just made for the end of its request.
    ///
    /// The kernel is asked: the runtime knows of a connection only once it has looked again.
    fn close(&self, listener: TcpListener) -> io::Result<()> {
        let listener = listener.into_std()?;
        for _ in 0..limits::ACCEPT_BACKLOG {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(fault) if fault.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(fault) => return Err(fault),
            };
            stream.set_nonblocking(true)?;
            self.admit(TcpStream::from_std(stream)?);
        }
        Ok(())
    }

    fn admit(&self, stream: TcpStream) {
        let permit = Permit::take(&self.common);
        let Some(tls) = self.common.tls.clone() else {
            self.arrivals
                .borrow_mut()
                .accepted
                .push(Ticket { stream: Stream::Plain(stream), permit });
            return self.notify.notify_one();
        };
        // Without room there is no handshake either: it is the dear part.
        let Some(permit) = permit else { return };
        let (arrivals, notify) = (Rc::clone(&self.arrivals), Arc::clone(&self.notify));
        let patience = Duration::from_millis(self.common.office.limits.handshake_timeout_ms);
        let task = self.tasks.clone();
        spawn_local(async move {
            match tls.accept(stream, patience).await {
                Ok(stream) => {
                    let ticket = Ticket { stream, permit: Some(permit) };
                    arrivals.borrow_mut().accepted.push(ticket);
                    notify.notify_one();
                }
                Err(fault) => tracing::debug!(%fault, "a TLS handshake failed"),
            }
            drop(task);
        });
    }
}

/// Counts the tasks beside the shard: each has a clone.
#[derive(Clone, Default)]
pub(super) struct Tasks(Rc<()>);

impl Tasks {
    /// Whether one is left, seen from the one who counts.
    pub(super) fn any(&self) -> bool {
        Rc::strong_count(&self.0) > 1
    }
}
