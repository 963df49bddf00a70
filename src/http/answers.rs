//! Budgets for responses: bytes of one response, and unsent bytes per shard and per connection.
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
//! * A buffer that several responses share counts once per shard, until the last of them is sent.
//! * A part of the budget is for small responses only, and the smallest are never refused: a server
//!   at its limit can still report that.
//! * A connection that pipelines gets its next response when the previous one has left.
//!
//! Imports its siblings, `limits` and `wire`. Part of `http`.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;

use super::answer_body::Missing;
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
    /// Shared buffers with an unsent answer, by their address in memory. No other buffer gets the
    /// address while its permit lives, because the answer holds both.
    shared: Mutex<Vec<(usize, Weak<Permit>)>>,
    /// Held by the request that builds the listing of all services.
    pub listing: tokio::sync::Mutex<()>,
}

impl Answers {
    /// A budget without answers.
    pub fn new(limits: &Limits) -> Answers {
        let answer_bytes_max = limits.answer_bytes_max;
        let bytes_max = limits.unsent_answer_bytes_max;
        let spared = bytes_max / limits::SMALL_ANSWERS_SHARE;
        // One answer fits, whatever the two bounds are.
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

    /// Checks the size of an answer.
    ///
    /// # Errors
    ///
    /// 413 if it is over the bound.
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

    /// Takes a permit for an answer of about `bytes` that is going to be built.
    ///
    /// # Errors
    ///
    /// 413 if one answer may not be as large, 503 if too much is unsent.
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

    /// Takes a permit for an answer that is a shared buffer.
    fn share(&self, bytes: &Bytes) -> Result<Arc<Permit>, Problem> {
        let address = bytes.as_ptr() as usize;
        let mut shared = self.shared.lock();
        shared.retain(|(_, permit)| permit.strong_count() > 0);
        let found = shared.iter().find(|(at, _)| *at == address);
        if let Some(permit) = found.and_then(|(_, permit)| permit.upgrade()) {
            return Ok(permit);
        }
        let permit = Arc::new(self.reserve(bytes.len())?);
        shared.push((address, Arc::downgrade(&permit)));
        Ok(permit)
    }

    /// Gives an answer the permit that its body still needs.
    ///
    /// # Errors
    ///
    /// As [`Answers::reserve`].
    pub fn admit(&self, mut reply: Reply) -> Result<Reply, Problem> {
        let body = reply.body_mut();
        match body.missing() {
            Missing::Nothing => {}
            Missing::Own => body.hold(self.reserve(body.bytes().len())?),
            Missing::Shared => body.hold_shared(self.share(body.bytes())?),
        }
        Ok(reply)
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
    use std::sync::atomic::Ordering;
    use std::task::{Context, Poll};

    use bytes::Buf as _;
    use hyper::body::Body as _;

    use super::*;
    use crate::http::answer_body::Unsent;
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
        // One answer fits, whatever the bound for all is.
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
