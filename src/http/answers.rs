//! Unsent answers: how large one may be, and how many bytes of them a shard and a connection hold.
//!
//! ```text
//! parts summed --> reserve --> built --> AnswerBody --> hyper's queue --> socket
//!                  413, 503              holds the permit until its last byte is written
//! ```
//!
//! # Promises
//!
//! * An answer whose size a client's data decides is refused before it is built.
//! * A permit lives as long as the bytes: it goes with them into hyper's queue, and is dropped when
//!   they have been written or the connection has ended.
//! * A buffer that many are served from counts once a shard, for as long as one of them is unsent.
//! * Small answers have a part of the budget that large ones cannot take, and the smallest are
//!   never refused: a server that is full can still say so.
//! * A connection that pipelines gets its next answer once the one before has left.
//!
//! Imports its siblings, `limits` and `wire`. Part of `http`.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::budget::{Budget, Permit};
use super::reply::{Problem, Reply};
use crate::limits::{self, Limits};
use crate::wire::refusal::Code;

/// The unsent answers of one shard.
#[derive(Debug)]
pub struct Answers {
    answer_bytes_max: usize,
    spared: usize,
    budget: Arc<Budget>,
    /// Shared buffers of which some answer is unsent, by where they lie. An address is not used
    /// again while its permit lives, because the answer holds both.
    shared: Mutex<Vec<(usize, Weak<Permit>)>>,
    /// Held by the one who builds the listing of all services.
    pub listing: tokio::sync::Mutex<()>,
}

impl Answers {
    /// None is unsent.
    pub fn new(limits: &Limits) -> Answers {
        let answer_bytes_max = limits.answer_bytes_max;
        let bytes_max = limits.unsent_answer_bytes_max;
        let spared = bytes_max / limits::SMALL_ANSWERS_SHARE;
        // One answer fits, whatever the two bounds say.
        let bytes_max = bytes_max.max(answer_bytes_max.saturating_add(spared));
        Answers {
            answer_bytes_max,
            spared,
            budget: Budget::new(bytes_max),
            shared: Mutex::default(),
            listing: tokio::sync::Mutex::default(),
        }
    }

    /// The bytes of all answers that are unsent or being built.
    pub fn held(&self) -> usize {
        self.budget.held()
    }

    /// The bytes that one answer may have.
    pub fn answer_bytes_max(&self) -> usize {
        self.answer_bytes_max
    }

    /// Whether an answer may be as large as that.
    ///
    /// # Errors
    ///
    /// 413 where it may not.
    pub fn check(&self, bytes: usize) -> Result<(), Problem> {
        if bytes <= self.answer_bytes_max {
            return Ok(());
        }
        let detail = format!(
            "the answer would be over {} bytes; ask for less at once",
            self.answer_bytes_max
        );
        Err(Problem::new(413, Code::TooLarge, detail))
    }

    /// Room for an answer of about so many bytes that is going to be built.
    ///
    /// # Errors
    ///
    /// 413 where one answer may not be as large, 503 where too much is unsent.
    pub fn reserve(&self, bytes: usize) -> Result<Permit, Problem> {
        self.check(bytes)?;
        if bytes <= limits::SMALLEST_ANSWER_BYTES {
            return Ok(self.budget.take_anyway(bytes));
        }
        let spared = if bytes <= limits::SMALL_ANSWER_BYTES { 0 } else { self.spared };
        self.budget.take(bytes, spared).ok_or_else(|| {
            Problem::new(503, Code::Unavailable, "too many answers have not been read yet")
                .retry_after_s(limits::BUSY_RETRY_S)
        })
    }

    /// Room for an answer that is a buffer others are served from, too.
    fn share(&self, bytes: &Bytes) -> Result<Arc<Permit>, Problem> {
        let place = bytes.as_ptr() as usize;
        let mut shared = self.shared.lock();
        shared.retain(|(_, permit)| permit.strong_count() > 0);
        let found = shared.iter().find(|(at, _)| *at == place);
        if let Some(permit) = found.and_then(|(_, permit)| permit.upgrade()) {
            return Ok(permit);
        }
        let permit = Arc::new(self.reserve(bytes.len())?);
        shared.push((place, Arc::downgrade(&permit)));
        Ok(permit)
    }

    /// Sees to it that an answer holds what it needs.
    ///
    /// # Errors
    ///
    /// As [`Answers::reserve`].
    pub fn admit(&self, mut reply: Reply) -> Result<Reply, Problem> {
        let body = reply.body_mut();
        body.room = match std::mem::take(&mut body.room) {
            Room::Open => Room::Own(self.reserve(body.bytes.len())?),
            Room::Cached => Room::Shared(self.share(&body.bytes)?),
            room => room,
        };
        Ok(reply)
    }
}

/// What stands for the bytes of an answer.
#[derive(Debug, Default)]
#[expect(dead_code, reason = "permits are held, and nobody looks at them")]
enum Room {
    /// Nothing yet.
    #[default]
    Open,
    /// Nothing yet, and others are served from the same buffer.
    Cached,
    /// Part of the program: it takes no memory.
    Fixed,
    /// A permit of its own.
    Own(Permit),
    /// One for all that are served from the buffer.
    Shared(Arc<Permit>),
}

/// A whole answer, and the room it takes.
#[derive(Debug, Default)]
pub struct AnswerBody {
    bytes: Bytes,
    room: Room,
    mark: Option<Mark>,
    is_over: bool,
}

impl AnswerBody {
    /// Bytes that were made for this answer.
    pub fn new(bytes: Bytes) -> AnswerBody {
        AnswerBody { bytes, ..AnswerBody::default() }
    }

    /// Bytes that were made for this answer, with the room that was reserved for them.
    pub fn reserved(bytes: Bytes, mut permit: Permit) -> AnswerBody {
        permit.settle(bytes.len());
        AnswerBody { bytes, room: Room::Own(permit), ..AnswerBody::default() }
    }

    /// Bytes that are kept for the next who asks, too.
    pub fn cached(bytes: Bytes) -> AnswerBody {
        AnswerBody { bytes, room: Room::Cached, ..AnswerBody::default() }
    }

    /// Bytes of the program.
    pub fn fixed(bytes: Bytes) -> AnswerBody {
        AnswerBody { bytes, room: Room::Fixed, ..AnswerBody::default() }
    }

    /// Takes the room that was reserved for what has been built meanwhile.
    pub fn hold(&mut self, mut permit: Permit) {
        permit.settle(self.bytes.len());
        self.room = Room::Own(permit);
    }

    /// Counts as unsent on its connection.
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
        let (room, mark) = (std::mem::take(&mut self.room), self.mark.take());
        Poll::Ready(Some(Ok(Frame::data(Payload { bytes, _room: room, _mark: mark }))))
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
    _room: Room,
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
    bytes: AtomicUsize,
    fewer: Notify,
}

impl Unsent {
    /// Whether all has been written.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) == 0
    }

    /// Counts bytes until the mark is dropped.
    pub(super) fn add(self: &Arc<Unsent>, bytes: usize) -> Mark {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Mark { unsent: Arc::clone(self), bytes }
    }

    /// Waits until there are no more than a few.
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

/// The bytes of a text as a JSON string, quotes and escapes included.
pub fn quoted_bytes(text: &str) -> usize {
    let escaped = |byte: u8| match byte {
        b'"' | b'\\' => 2,
        0..=0x1f => 6,
        _ => 1,
    };
    text.bytes().map(escaped).sum::<usize>() + 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::reply;

    fn answers(answer_bytes_max: usize, unsent_answer_bytes_max: usize) -> Answers {
        Answers::new(&Limits { answer_bytes_max, unsent_answer_bytes_max, ..Limits::DEFAULT })
    }

    fn status(result: Result<Permit, Problem>) -> u16 {
        result.map_or_else(|problem| problem.status, |_| 200)
    }

    #[test]
    fn too_large_and_too_many_are_told_apart() {
        let answers = answers(1_000_000, 2_000_000);
        assert_eq!(status(answers.reserve(1_000_001)), 413);
        let held = answers.reserve(1_000_000).expect("room");
        assert_eq!(status(answers.reserve(1_000_000)), 503);
        let problem = answers.reserve(900_000).expect_err("a part is for small ones");
        assert!(problem.header.is_some_and(|(name, _)| name == "retry-after"));
        let small: Vec<Permit> =
            std::iter::from_fn(|| answers.reserve(60_000).ok()).take(100).collect();
        assert_eq!(small.len(), 16, "60,000 bytes each, up to the whole budget");
        assert_eq!(status(answers.reserve(4_096)), 200, "the smallest always pass");
        drop((held, small));
        assert_eq!(answers.held(), 0);
        // One answer fits, whatever the bound for all says.
        assert_eq!(status(self::answers(1_000_000, 10).reserve(1_000_000)), 200);
    }

    #[test]
    fn a_shared_buffer_counts_once_while_it_is_unsent() {
        let answers = answers(1_000_000, 2_000_000);
        let buffer = Bytes::from(vec![b'x'; 700_000]);
        let replies: Vec<Reply> = (0..10)
            .map(|_| answers.admit(reply::cached("text/plain", buffer.clone())).expect("room"))
            .collect();
        assert_eq!(answers.held(), 700_000);
        let other = Bytes::from(vec![b'y'; 700_000]);
        let second = answers.admit(reply::cached("text/plain", other)).expect("room");
        assert_eq!(answers.held(), 1_400_000);
        drop(replies);
        assert_eq!(answers.held(), 700_000);
        drop(second);
        assert_eq!(answers.held(), 0);
    }

    #[test]
    fn a_permit_goes_with_the_bytes() {
        let answers = answers(1_000_000, 2_000_000);
        let unsent = Arc::<Unsent>::default();
        let mut reply = answers.admit(reply::json_bytes(vec![b'x'; 100_000])).expect("room");
        reply.body_mut().mark(&unsent);
        let mut body = std::pin::pin!(reply.into_body());
        let mut context = Context::from_waker(std::task::Waker::noop());
        let Poll::Ready(Some(Ok(frame))) = body.as_mut().poll_frame(&mut context) else {
            panic!("a frame");
        };
        assert!(body.is_end_stream());
        let mut payload = frame.into_data().expect("data");
        payload.advance(99_999);
        assert_eq!((answers.held(), unsent.bytes.load(Ordering::Relaxed)), (100_000, 100_000));
        drop(payload);
        assert_eq!((answers.held(), unsent.bytes.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn quoted_bytes_is_never_too_few() {
        for text in ["", "plain", "\"\\/\n\u{1}\u{7f}", "\u{e9}\u{1F389}"] {
            let json = serde_json::to_string(text).expect("a text");
            assert!(quoted_bytes(text) >= json.len(), "{text:?}");
            assert!(quoted_bytes(text) <= json.len() + 4 * text.len(), "{text:?}");
        }
    }
}
