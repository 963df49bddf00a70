//! One connection, as its shard keeps it.
//!
//! An idle connection owns these 224 bytes (with a plain socket), and its identity if it is signed in. What
//! only a busy connection needs is in [`Rare`]. `tests/idle_memory.rs` keeps the sum.
//!
//! Imports its siblings, `address`, `auth`, `id`, `limits`, `wire` and `ws`. Imported by `shard`.

use std::collections::VecDeque;

use smallvec::SmallVec;

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
    /// Whether reading waits for answers or for room in the outbox.
    pub(super) is_paused: bool,
    /// The topics that it follows. Up to four have their place here: those of everyone and of its user, and one
    /// of its own.
    pub(super) topics: SmallVec<[TopicId; 4]>,
    /// How many of them are implicit: the topics of everyone and of its user.
    pub(super) implicit: u8,
    pub(super) follows_everything: bool,
    /// Whether control knows of it.
    pub(super) is_announced: bool,
    /// Whether it is about to be closed, because a message had no room.
    pub(super) is_to_close: bool,
    /// The identity of a signed-in user.
    pub(super) signed_in: Option<Box<SignedIn>>,
    /// Whether its user's newest connection waits for a pong from it.
    pub(super) is_probed: bool,
    /// The client, if a proxy carries the connection.
    pub(super) proxied: Option<Box<Proxied>>,
    /// What few connections need, and those for a while.
    rare: Option<Box<Rare>>,
    /// How many requests wait for control.
    pub(super) outstanding: u16,
    /// Subscriptions among them.
    pub(super) subscribing: u16,
    /// Whether one of them has an answer of unknown size.
    pub(super) awaits_heavy: bool,
    /// The token bucket of its messages.
    pub(super) messages: Bucket,
    /// The token bucket of its pings and pongs.
    pub(super) control_frames: Bucket,
    pub(super) opened_ms: u64,
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
}

/// A signed-in user.
#[derive(Debug)]
pub(super) struct SignedIn {
    pub(super) identity: Identity,
    /// Its place among its user's connections, until it ends.
    pub(super) permit: Option<UserPermit>,
}

/// A client behind a proxy.
#[derive(Debug)]
pub(super) struct Proxied {
    pub(super) client: Option<ClientAddress>,
    /// Its place among its client's connections.
    pub(super) _permit: AddressPermit,
}

/// What few connections need, and those for a while.
#[derive(Debug, Default)]
pub(super) struct Rare {
    /// Input that waits: an incomplete head, or bytes that came after the connection was paused.
    pub(super) held: Vec<u8>,
    /// Requests whose replies have to leave in this order.
    pub(super) pending: VecDeque<Pending>,
    /// Services that wait for a snapshot, because frames of theirs were dropped.
    pub(super) resync: Option<PendingResync>,
    /// The token bucket of its continuation frames.
    pub(super) continuations: Bucket,
    /// How long its messages have been limited.
    pub(super) limited: Limited,
    /// When it is dropped, in the stages after `Open`. In that stage: until when it may be above
    /// its user's limit; 0 = it is within it.
    pub(super) ends_ms: u64,
}

impl Rare {
    /// Whether a fresh one would be the same.
    fn is_idle(&self, now_ms: u64) -> bool {
        self.held.is_empty()
            && self.pending.is_empty()
            && self.resync.is_none()
            && self.continuations.is_full(now_ms)
            && self.limited.is_over(now_ms)
            && self.ends_ms == 0
    }
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
            is_paused: false,
            topics: SmallVec::new(),
            implicit: 0,
            follows_everything: false,
            is_announced: false,
            is_to_close: false,
            is_probed: false,
            signed_in: None,
            proxied: None,
            rare: None,
            outstanding: 0,
            subscribing: 0,
            awaits_heavy: false,
            messages: Bucket::default(),
            control_frames: Bucket::default(),
            opened_ms: now_ms,
            next_ping_ms: 0,
            pinged_ms: 0,
            blocked_since_ms: 0,
            armed_ms: 0,
            armed_stamp: 0,
            has_ended: false,
        }
    }

    /// Whether it speaks JSON or echoes, and is not closing.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open(_))
    }

    /// Who is signed in on it.
    pub(super) fn identity(&self) -> Option<&Identity> {
        self.signed_in.as_deref().map(|signed_in| &signed_in.identity)
    }

    /// What it needs for a while, if it does.
    pub(super) fn rare_mut(&mut self) -> Option<&mut Rare> {
        self.rare.as_deref_mut()
    }

    /// What it needs from now on, for a while.
    pub(super) fn rare_or_new(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Gives back what it does not need any more.
    pub(super) fn release_rare(&mut self, now_ms: u64) {
        if self.rare.as_ref().is_some_and(|rare| rare.is_idle(now_ms)) {
            self.rare = None;
        }
    }

    /// Takes the input that waits.
    pub(super) fn take_held(&mut self) -> Vec<u8> {
        self.rare.as_mut().map_or_else(Vec::new, |rare| std::mem::take(&mut rare.held))
    }

    /// Services that wait for a snapshot.
    pub(super) fn resync(&mut self) -> Option<&mut PendingResync> {
        self.rare.as_mut()?.resync.as_mut()
    }

    /// Drops the services that wait for a snapshot.
    pub(super) fn end_resync(&mut self) {
        if let Some(rare) = &mut self.rare {
            rare.resync = None;
        }
    }

    /// Whether frames of the service wait for a snapshot.
    pub(super) fn is_resync_pending(&self, service: &ServiceName) -> bool {
        let resync = self.rare.as_ref().and_then(|rare| rare.resync.as_ref());
        resync.is_some_and(|resync| resync.services.contains(service))
    }

    /// [`Rare::ends_ms`].
    pub(super) fn ends_ms(&self) -> u64 {
        self.rare.as_ref().map_or(0, |rare| rare.ends_ms)
    }

    /// Judges a message that comes now.
    pub(super) fn judge(&mut self, now_ms: u64, rate: Rate) -> Verdict {
        if self.messages.take(now_ms, 1, rate) {
            return Verdict::Pass;
        }
        self.rare_or_new().limited.judge(now_ms)
    }

    /// It has shown that it is alive, which its user's newest connection waits for.
    pub(super) fn answer_probe(&mut self) {
        self.is_probed = false;
        if let Some(permit) = self.signed_in.as_ref().and_then(|who| who.permit.as_ref()) {
            permit.answer();
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

    /// Whether all tokens are there.
    fn is_full(self, now_ms: u64) -> bool {
        self.earned_us <= now_ms * 1_000
    }
}

/// A sustained rate, and how many may come in one burst.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    /// Sustained, a second; 0 is no limit.
    pub(super) per_s_max: u32,
    pub(super) burst_max: u32,
}

/// Since when a client sends too many messages.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Limited {
    /// Since when it is being limited without a pause; 0 = it is not.
    since_ms: u64,
    last_ms: u64,
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

impl Limited {
    /// Judges a message that is over the rate.
    fn judge(&mut self, now_ms: u64) -> Verdict {
        if self.since_ms == 0 || self.is_over(now_ms) {
            self.since_ms = now_ms;
        }
        self.last_ms = now_ms;
        if now_ms - self.since_ms >= limits::RATE_PATIENCE_MS {
            Verdict::Close
        } else {
            Verdict::Limit
        }
    }

    /// Whether it has made a pause.
    fn is_over(self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.last_ms) >= limits::RATE_PAUSE_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{ShardId, Slot};

    fn conn() -> Conn<()> {
        let id = ConnId { shard: ShardId(0), slot: Slot(0), generation: 1 };
        Conn::new(id, (), 0)
    }

    #[test]
    fn burst_then_rate() {
        const RATE: Rate = Rate { per_s_max: 100, burst_max: 200 };
        let mut conn = conn();
        let passed = |conn: &mut Conn<()>, now_ms, n: usize| {
            (0..n).filter(|_| conn.judge(now_ms, RATE) == Verdict::Pass).count()
        };
        assert_eq!(passed(&mut conn, 1_000, 300), 200);
        assert_eq!(passed(&mut conn, 1_500, 300), 50);
        assert_eq!(passed(&mut conn, 60_000, 300), 200);
        let no_limit = Rate { per_s_max: 0, burst_max: 0 };
        assert_eq!(self::conn().judge(5, no_limit), Verdict::Pass);
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
        let (mut conn, rate) = (conn(), Rate { per_s_max: 10, burst_max: 10 });
        let mut closed_at = None;
        for now_ms in (1_000..20_000).step_by(5) {
            // As after every read: it is not forgotten while it lasts.
            conn.release_rare(now_ms);
            if conn.judge(now_ms, rate) == Verdict::Close {
                closed_at = Some(now_ms);
                break;
            }
        }
        let closed_at = closed_at.expect("limited for nineteen seconds");
        assert!((11_000..12_500).contains(&closed_at), "{closed_at}");
    }
}
