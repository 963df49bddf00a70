//! One connection, as its shard keeps it.
//!
//! An idle connection owns these few hundred bytes, its socket and its waker. Fields that an idle connection
//! does not need are an `Option`, and empty.
//!
//! Imports its siblings, `address`, `auth`, `id`, `limits`, `wire` and `ws`. Imported by `shard`.

use std::collections::VecDeque;

use super::outbox::Outbox;
use super::topics::TopicId;
use crate::address::ClientAddress;
use crate::auth::Identity;
use crate::id::{ConnId, InstanceIdentity, RequestId, ServiceName};
use crate::limits;
use crate::wire::command::{Family, Rejected, Target};
use crate::wire::refusal::Refusal;
use crate::ws::address_connections::AddressPermit;
use crate::ws::authorizer::Endpoint;
use crate::ws::reader::Reader;
use crate::ws::user_connections::UserPermit;

/// The stage of a connection's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its first request head is awaited.
    Head,
    /// A WebSocket.
    Open(Endpoint),
    /// Its last bytes are in the outbox.
    Closing,
    /// All is written and writing is shut; further input of the peer is read and dropped.
    Lingering,
}

/// Which of the two queues for writing a connection waits in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Queued {
    No,
    /// With the many of a large fan-out.
    Bulk,
    /// Ahead of them: an answer, or a small fan-out.
    Urgent,
}

/// A connection.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts, one byte each")]
pub(super) struct Conn<S> {
    pub(super) id: ConnId,
    pub(super) socket: S,
    pub(super) stage: Stage,
    pub(super) queued: Queued,
    pub(super) outbox: Outbox,
    pub(super) reader: Reader,
    /// Input that waits: an incomplete head, or bytes that came after the connection was paused.
    pub(super) held: Vec<u8>,
    /// Whether reading waits for answers or for room in the outbox.
    pub(super) is_paused: bool,
    pub(super) topics: Vec<TopicId>,
    /// How many of them are implicit: the topics of everyone and of its user.
    pub(super) implicit: u8,
    pub(super) follows_everything: bool,
    /// Whether control knows of it.
    pub(super) is_announced: bool,
    /// Whether it is about to be closed, because a message had no room.
    pub(super) is_to_close: bool,
    pub(super) identity: Option<Box<Identity>>,
    /// Whether its user's newest connection waits for a pong from it.
    pub(super) is_probed: bool,
    /// Its place among its user's connections, until it ends.
    pub(super) user_permit: Option<Box<UserPermit>>,
    /// The client's address, if a proxy carries the connection.
    pub(super) client: Option<Box<ClientAddress>>,
    /// Its place among its client's connections, if a proxy carries it.
    pub(super) address_permit: Option<Box<AddressPermit>>,
    /// Requests whose replies have to leave in this order.
    pub(super) pending: Option<Box<VecDeque<Pending>>>,
    /// How many of them wait for control.
    pub(super) outstanding: u16,
    /// Subscriptions among them.
    pub(super) subscribing: u16,
    /// Whether one of them has an answer of unknown size.
    pub(super) awaits_heavy: bool,
    /// Services that wait for a snapshot, because frames of theirs were dropped.
    pub(super) resync_pending: Option<Box<PendingResync>>,
    pub(super) pace: Pace,
    /// The token bucket of its pings and pongs.
    pub(super) control_frames: Bucket,
    /// The token bucket of its continuation frames.
    pub(super) continuations: Bucket,
    pub(super) opened_ms: u64,
    pub(super) heard_ms: u64,
    pub(super) next_ping_ms: u64,
    /// When an unanswered ping was sent; 0 = none.
    pub(super) pinged_ms: u64,
    /// Since when the kernel has taken nothing; 0 = it takes bytes.
    pub(super) blocked_since_ms: u64,
    /// When the wheel brings it up again; 0 = never.
    pub(super) armed_ms: u64,
    /// Which entry of the wheel does that; older ones are void.
    pub(super) armed_stamp: u32,
    /// Whether the peer has ended its stream.
    pub(super) has_ended: bool,
    /// When it is dropped, in the stages after `Open`. In that stage: until when it may be above
    /// its user's limit; 0 = it is within it.
    pub(super) ends_ms: u64,
}

impl<S> Conn<S> {
    pub(super) fn new(id: ConnId, socket: S, now_ms: u64) -> Conn<S> {
        Conn {
            id,
            socket,
            stage: Stage::Head,
            queued: Queued::No,
            outbox: Outbox::default(),
            reader: Reader::default(),
            held: Vec::new(),
            is_paused: false,
            topics: Vec::new(),
            implicit: 0,
            follows_everything: false,
            is_announced: false,
            is_to_close: false,
            is_probed: false,
            identity: None,
            user_permit: None,
            client: None,
            address_permit: None,
            pending: None,
            outstanding: 0,
            subscribing: 0,
            awaits_heavy: false,
            resync_pending: None,
            pace: Pace::default(),
            control_frames: Bucket::default(),
            continuations: Bucket::default(),
            opened_ms: now_ms,
            heard_ms: now_ms,
            next_ping_ms: 0,
            pinged_ms: 0,
            blocked_since_ms: 0,
            armed_ms: 0,
            armed_stamp: 0,
            has_ended: false,
            ends_ms: 0,
        }
    }

    /// Whether it speaks JSON or echoes, and is not closing.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open(_))
    }

    /// It has shown that it is alive, which its user's newest connection waits for.
    pub(super) fn answer_probe(&mut self) {
        self.is_probed = false;
        if let Some(user_permit) = &self.user_permit {
            user_permit.answer();
        }
    }

    /// How many topics it follows, open requests included.
    pub(super) fn subscriptions(&self) -> usize {
        self.topics.len() - usize::from(self.implicit)
            + usize::from(self.follows_everything)
            + usize::from(self.subscribing)
    }
}

/// A request whose reply has its place in the order of replies.
#[derive(Debug)]
pub(super) enum Pending {
    /// Control replies.
    Waiting(Option<RequestId>),
    /// The shard replies, when the earlier replies have left.
    Local(Option<RequestId>, Local),
}

/// An answer of the shard itself.
#[derive(Debug)]
pub(super) enum Local {
    Pong,
    Unsubscribe(Target),
    Refuse(Family, Refusal),
    EnvelopePong,
    /// A batch whose entries all failed in the shard.
    Rejected(Batch, Vec<Rejected>),
    Refreshed(u64),
}

/// Which batch a reply belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Batch {
    Register,
    Heartbeat,
    Unregister,
}

/// The checked entries of a batch, as control wants them.
pub(super) type Identities = Vec<InstanceIdentity>;

/// The resync of a slow reader: services whose snapshot is still to be sent.
#[derive(Debug, Default)]
pub(super) struct PendingResync {
    pub(super) services: Vec<ServiceName>,
    /// The one that was requested from control.
    pub(super) asked: Option<ServiceName>,
}

/// A token bucket: the virtual scheduling form of the generic cell rate algorithm (ITU-T I.371), one
/// number a connection.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Bucket {
    /// When, in microseconds, all taken tokens would have been earned at the sustained rate.
    earned_us: u64,
}

impl Bucket {
    /// Takes `count` tokens now. Returns false, and takes none, if there are fewer.
    pub(super) fn take(&mut self, now_ms: u64, count: u32, rate: Rate) -> bool {
        if rate.per_s_max == 0 {
            return true;
        }
        let now_us = now_ms * 1_000;
        let interval_us = 1_000_000 / u64::from(rate.per_s_max);
        let earned_us = self.earned_us.max(now_us) + interval_us * u64::from(count);
        let fits = earned_us - now_us <= interval_us * u64::from(rate.burst_max);
        if fits {
            self.earned_us = earned_us;
        }
        fits
    }
}

/// A sustained rate, and how many may come in one burst.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    /// Sustained, a second; 0 is no limit.
    pub(super) per_s_max: u32,
    pub(super) burst_max: u32,
}

/// How fast a client may send messages, and since when it sends too many.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Pace {
    bucket: Bucket,
    /// Since when it is being limited without a pause; 0 = it is not.
    limited_since_ms: u64,
    limited_last_ms: u64,
}

/// The verdict on a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Pass,
    /// Drop it and tell the client.
    Limit,
    /// It has been limited for too long.
    Close,
}

impl Pace {
    /// Judges a message that comes now.
    pub(super) fn judge(&mut self, now_ms: u64, rate: Rate) -> Verdict {
        if self.bucket.take(now_ms, 1, rate) {
            return Verdict::Pass;
        }
        let has_paused = now_ms.saturating_sub(self.limited_last_ms) >= limits::RATE_PAUSE_MS;
        if self.limited_since_ms == 0 || has_paused {
            self.limited_since_ms = now_ms;
        }
        self.limited_last_ms = now_ms;
        if now_ms - self.limited_since_ms >= limits::RATE_PATIENCE_MS {
            Verdict::Close
        } else {
            Verdict::Limit
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_then_rate() {
        const RATE: Rate = Rate { per_s_max: 100, burst_max: 200 };
        let mut pace = Pace::default();
        let passed = |pace: &mut Pace, now_ms, n: usize| {
            (0..n).filter(|_| pace.judge(now_ms, RATE) == Verdict::Pass).count()
        };
        assert_eq!(passed(&mut pace, 1_000, 300), 200);
        assert_eq!(passed(&mut pace, 1_500, 300), 50);
        assert_eq!(passed(&mut pace, 60_000, 300), 200);
        assert_eq!(Pace::default().judge(5, Rate { per_s_max: 0, burst_max: 0 }), Verdict::Pass);
    }

    #[test]
    fn tokens_are_taken_all_or_none() {
        let (mut bucket, rate) = (Bucket::default(), Rate { per_s_max: 50, burst_max: 100 });
        assert!(bucket.take(1_000, 100, rate));
        assert!(!bucket.take(1_000, 1, rate));
        assert!(!bucket.take(2_000, 51, rate), "only 50 were earned");
        assert!(bucket.take(2_000, 50, rate));
        // One a second for a day, as clients that keep their connection alive send.
        let mut bucket = Bucket::default();
        assert!((0..86_400).all(|second| bucket.take(second * 1_000, 1, rate)));
    }

    #[test]
    fn ten_seconds_without_a_pause_close() {
        let (mut pace, rate) = (Pace::default(), Rate { per_s_max: 10, burst_max: 10 });
        let mut closed_at = None;
        for now_ms in (1_000..20_000).step_by(5) {
            if pace.judge(now_ms, rate) == Verdict::Close {
                closed_at = Some(now_ms);
                break;
            }
        }
        let closed_at = closed_at.expect("limited for nineteen seconds");
        assert!((11_000..12_500).contains(&closed_at), "{closed_at}");
    }
}
