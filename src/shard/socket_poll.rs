//! The shard's own poll: plain sockets that may be read or written.
//!
//! A stream of tokio costs 256 bytes in its reactor and a waker of 64, whether it does anything or not. Here
//! a socket costs an entry in the kernel's table: the poll names its slot and its generation. The poll is one
//! descriptor in tokio's reactor, which wakes the shard's task when any of the sockets has news; the task then
//! takes the news of hundreds of sockets with one system call.
//!
//! # Promises
//!
//! * The kernel reports a socket when something new is there (edge-triggered), so a socket is to be read
//!   or written until it says that there is no more.
//! * A report names a generation, so it never reaches another connection in the same slot.
//!
//! Imports `id`, `limits`, `shard::ready` and `shard::socket`. Imported by `shard::tcp_socket` and `server`.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Token};
use tokio::io::unix::AsyncFd;

use super::ready::Ready;
use super::socket::Readiness;
use crate::id::Slot;
use crate::limits;

/// The poll of one shard.
#[derive(Debug)]
pub struct SocketPoll {
    poll: RefCell<AsyncFd<mio::Poll>>,
    events: RefCell<Events>,
    /// Reports that the shard has not taken yet.
    reports: RefCell<VecDeque<Ready>>,
}

impl SocketPoll {
    /// A poll that watches nothing. It has to be made on the runtime of its shard.
    ///
    /// # Errors
    ///
    /// The kernel's: there is no descriptor left.
    pub fn new() -> io::Result<Rc<SocketPoll>> {
        Ok(Rc::new(SocketPoll {
            poll: RefCell::new(watched_by_tokio(mio::Poll::new()?)?),
            events: RefCell::new(Events::with_capacity(limits::POLLED_MAX)),
            reports: RefCell::default(),
        }))
    }

    /// Watches a socket from now on. What is there already is reported as well.
    pub(super) fn watch(&self, stream: &TcpStream, slot: Slot, generation: u32) -> io::Result<()> {
        let poll = self.poll.borrow();
        let interest = Interest::READABLE | Interest::WRITABLE;
        let mut source = SourceFd(&stream.as_raw_fd());
        poll.get_ref().registry().register(&mut source, token(slot, generation), interest)
    }

    /// Watches a socket no longer. A socket that is closed needs no such call.
    pub(super) fn forget(&self, stream: &TcpStream) -> io::Result<()> {
        self.poll.borrow().get_ref().registry().deregister(&mut SourceFd(&stream.as_raw_fd()))
    }

    /// The next report.
    pub fn take(&self) -> Option<Ready> {
        let report = self.reports.borrow_mut().pop_front();
        if report.is_some() {
            return report;
        }
        self.gather();
        self.reports.borrow_mut().pop_front()
    }

    /// Waits until there are reports.
    pub fn poll_news(&self, context: &mut Context<'_>) -> Poll<()> {
        // The reactor's fault would be the runtime's end, which ends the shard's task anyhow.
        self.poll.borrow().poll_read_ready(context).map(|_| ())
    }

    /// Takes reports from the kernel, where tokio's reactor has seen that there are any.
    fn gather(&self) {
        let (mut poll, mut events) = (self.poll.borrow_mut(), self.events.borrow_mut());
        let mut reports = self.reports.borrow_mut();
        // Fails where there are none, and where a signal came in between.
        let _ = poll.try_io_mut(tokio::io::Interest::READABLE, |poll| {
            poll.poll(&mut events, Some(Duration::ZERO))?;
            let mut count = 0;
            for event in &*events {
                count += 1;
                let has_failed = event.is_error();
                let has_ended = event.is_read_closed() || has_failed;
                let readiness = Readiness::new(
                    event.is_readable() || has_ended,
                    event.is_writable() || event.is_write_closed() || has_failed,
                    has_ended,
                );
                let (slot, generation) = named(event.token());
                reports.push_back(Ready { slot, generation, readiness });
            }
            // With all of its room used there may be more, and the reactor does not report that again.
            if count < limits::POLLED_MAX { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
    }
}

/// Has tokio's reactor tell when a source of mio has news.
///
/// # Errors
///
/// The kernel's.
#[allow(
    deprecated,
    reason = "its successor is unsafe: the caller has to promise that the source owns its descriptor and keeps it, \
              which those of mio do"
)]
pub(crate) fn watched_by_tokio<T: AsRawFd>(source: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(source, tokio::io::Interest::READABLE)
}

fn token(slot: Slot, generation: u32) -> Token {
    // Two numbers of 32 bits; a platform of 32 bits has fewer sockets than generations repeat.
    Token((generation as usize) << (usize::BITS / 2) | slot.index())
}

fn named(token: Token) -> (Slot, u32) {
    let half = usize::BITS / 2;
    let slot = token.0 & (usize::MAX >> half);
    let part = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    (Slot(part(slot)), part(token.0 >> half))
}
