//! Response bodies, and the accounting of their bytes until the kernel has them.
//!
//! A body holds the permit for its bytes. The permit goes with the bytes into hyper's queue and is dropped when
//! the last byte is written or the connection has ended.
//!
//! Imports `http::budget` and `limits`. Imported by `http::reply`, `http::answers` and `http`.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::Notify;

use super::budget::Permit;
use crate::limits;

/// The permit behind the bytes of a body.
#[derive(Debug, Default)]
#[expect(dead_code, reason = "permits are held and never read")]
enum Account {
    /// None yet: the body needs a permit of its own.
    #[default]
    Open,
    /// None yet: the body needs the permit of a buffer that it shares with a cache.
    Cached,
    /// None: the bytes are part of the program.
    Fixed,
    /// A permit of its own.
    Own(Permit),
    /// The permit of a shared buffer.
    Shared(Arc<Permit>),
}

/// The permit that a body still needs before it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// None.
    Nothing,
    /// One of its own.
    Own,
    /// That of the shared buffer.
    Shared,
}

/// A whole response body, and the permit for its bytes.
#[derive(Debug, Default)]
pub struct AnswerBody {
    bytes: Bytes,
    account: Account,
    mark: Option<Mark>,
    is_over: bool,
}

impl AnswerBody {
    /// Bytes that were made for this answer.
    pub fn new(bytes: Bytes) -> AnswerBody {
        AnswerBody { bytes, ..AnswerBody::default() }
    }

    /// Bytes that were made for this answer, with the permit that was reserved for them.
    pub fn reserved(bytes: Bytes, mut permit: Permit) -> AnswerBody {
        permit.settle(bytes.len());
        AnswerBody { bytes, account: Account::Own(permit), ..AnswerBody::default() }
    }

    /// Bytes that a cache holds as well.
    pub fn cached(bytes: Bytes) -> AnswerBody {
        AnswerBody { bytes, account: Account::Cached, ..AnswerBody::default() }
    }

    /// Bytes of the program.
    pub fn fixed(bytes: Bytes) -> AnswerBody {
        AnswerBody { bytes, account: Account::Fixed, ..AnswerBody::default() }
    }

    /// Takes the permit that was reserved before the body was built.
    pub fn hold(&mut self, mut permit: Permit) {
        permit.settle(self.bytes.len());
        self.account = Account::Own(permit);
    }

    /// The permit that it still needs.
    pub(super) fn missing(&self) -> Missing {
        match self.account {
            Account::Open => Missing::Own,
            Account::Cached => Missing::Shared,
            Account::Fixed | Account::Own(_) | Account::Shared(_) => Missing::Nothing,
        }
    }

    /// Its bytes.
    pub(super) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Takes the permit of the shared buffer.
    pub(super) fn hold_shared(&mut self, permit: Arc<Permit>) {
        self.account = Account::Shared(permit);
    }

    /// Counts the body as unsent on its connection.
    pub fn mark(&mut self, unsent: &Arc<Unsent>) {
        self.mark = Some(unsent.add(self.bytes.len()));
    }
}

impl Body for AnswerBody {
    type Data = Payload;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Payload>, Infallible>>> {
        if self.is_end_stream() {
            return Poll::Ready(None);
        }
        self.is_over = true;
        let bytes = std::mem::take(&mut self.bytes);
        let (account, mark) = (std::mem::take(&mut self.account), self.mark.take());
        Poll::Ready(Some(Ok(Frame::data(Payload { bytes, _account: account, _mark: mark }))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.bytes.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}

/// An answer's bytes in hyper's queue.
#[derive(Debug)]
pub struct Payload {
    bytes: Bytes,
    _account: Account,
    _mark: Option<Mark>,
}

impl Buf for Payload {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

/// The bytes of one connection's answers that have not been written.
#[derive(Debug, Default)]
pub struct Unsent {
    pub(super) bytes: AtomicUsize,
    fewer: Notify,
}

impl Unsent {
    /// Whether all bytes have been written.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) == 0
    }

    /// Counts bytes until the mark is dropped.
    pub(super) fn add(self: &Arc<Unsent>, bytes: usize) -> Mark {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Mark { unsent: Arc::clone(self), bytes }
    }

    /// Waits until only a few are left.
    pub async fn wait(&self) {
        while self.bytes.load(Ordering::Relaxed) > limits::PIPELINED_ANSWER_BYTES_MAX {
            self.fewer.notified().await;
        }
    }
}

/// Bytes of an answer on its way.
#[derive(Debug)]
pub(super) struct Mark {
    unsent: Arc<Unsent>,
    bytes: usize,
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.unsent.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.unsent.fewer.notify_one();
    }
}
