//! Artemis' sockets: heartbeats in, changes out, as `wire::artemis` writes them.
//!
//! They live on the same shards, topics and outboxes as every other socket. An Artemis follower of a service is
//! a subscriber of a topic of its own, so the frames of the two dialects never meet, and a service without
//! Artemis followers costs nothing for them.
//!
//! # Promises
//!
//! * Every subscription to an existing service is answered with a `reload`, and a reader that fell behind gets
//!   one in place of the frames that it missed.
//! * A heartbeat is answered once, and the next message is read after that.
//! * A pong leaves [`limits::ARTEMIS_PONG_MS`] after its ping: the client does not see one that comes at once.
//!
//! Part of `shard`.

use std::rc::Rc;

use bytes::Bytes;

use super::conn::{Conn, Local, Rate, Stage, Verdict};
use super::outbox::{Chunk, Source};
use super::socket::Socket;
use super::{Shard, Slot};
use crate::id::{Dialect, Topic};
use crate::limits;
use crate::state::audit::Door;
use crate::state::registry::commands::{self, SnapshotNeed};
use crate::state::registry::replies::RefusedEntry;
use crate::state::registry::views::Subscribed;
use crate::state::reply::{BatchContext, IsHeavy, SubscribeContext};
use crate::wire::artemis::{self, Heartbeat};
use crate::wire::close::Reason;
use crate::wire::command::Family;
use crate::wire::instance::Registration;
use crate::wire::refusal::{Code, Refusal};
use crate::ws::authorizer::{ArtemisSocket, Endpoint};

/// Messages of a socket of changes: a client that comes back names all its services at once.
const SUBSCRIPTIONS: Rate = Rate {
    per_s_max: limits::ARTEMIS_SUBSCRIPTIONS_PER_S_MAX,
    burst_max: limits::ARTEMIS_SUBSCRIPTIONS_BURST_MAX,
};

impl<S> Conn<S> {
    /// The Artemis socket that it is.
    pub(super) fn artemis(&self) -> Option<ArtemisSocket> {
        match self.stage {
            Stage::Open(Endpoint::Artemis(socket)) => Some(socket),
            _ => None,
        }
    }

    /// The dialect of its frames.
    pub(super) fn dialect(&self) -> Dialect {
        if self.artemis().is_some() { Dialect::Artemis } else { Dialect::Fanfare }
    }
}

/// A pong that waits.
#[derive(Debug)]
pub(super) struct LatePong {
    due_ms: u64,
    slot: Slot,
    generation: u32,
    frame: Bytes,
}

impl<S: Socket> Shard<S> {
    /// A socket has been opened.
    pub(super) fn open_artemis(&mut self, slot: Slot, socket: ArtemisSocket) {
        if socket == ArtemisSocket::AllChanges {
            self.follow_all_changes(slot);
        }
    }

    /// A text message.
    pub(super) fn on_artemis_text(&mut self, slot: Slot, socket: ArtemisSocket, payload: &[u8]) {
        let limits = &self.settings.limits;
        let rate = match socket {
            ArtemisSocket::Heartbeat => Rate {
                per_s_max: limits.client_messages_per_s_max,
                burst_max: limits.client_messages_burst_max,
            },
            ArtemisSocket::Changes | ArtemisSocket::AllChanges => SUBSCRIPTIONS,
        };
        match self.conns[slot.index()].judge(self.now.unix_ms, rate) {
            Verdict::Pass => {}
            Verdict::Limit if socket == ArtemisSocket::Heartbeat => {
                let refusal = Refusal::new(Code::RateLimited, "too many messages, slow down");
                return self.answer_locally(slot, None, Local::Refuse(Family::Typed, refusal));
            }
            // A subscription that is dropped would be missed for a quarter of an hour.
            Verdict::Limit | Verdict::Close => return self.close(slot, Reason::RateLimit),
        }
        match socket {
            ArtemisSocket::Heartbeat => self.on_heartbeat(slot, payload),
            ArtemisSocket::Changes => self.on_subscription(slot, payload),
            // Its client has nothing to say.
            ArtemisSocket::AllChanges => {}
        }
    }

    /// Tells the client of a refusal, by what its socket can express.
    pub(super) fn refuse_artemis(&mut self, slot: Slot, socket: ArtemisSocket, refusal: &Refusal) {
        match socket {
            ArtemisSocket::Heartbeat => {
                self.push_direct(slot, artemis::heartbeat_failure(refusal).into());
            }
            // The client comes back at once, and names its services again.
            ArtemisSocket::Changes | ArtemisSocket::AllChanges => {
                self.close(slot, Reason::Internal);
            }
        }
    }

    // --- Heartbeats ------------------------------------------------------------------------------

    fn on_heartbeat(&mut self, slot: Slot, payload: &[u8]) {
        let instances_max = self.settings.limits.artemis_heartbeat_instances_max;
        match Heartbeat::decode(payload, instances_max) {
            Ok(heartbeat) => self.go_on_with_heartbeat(slot, Box::new(heartbeat)),
            Err(refusal) => {
                self.answer_locally(slot, None, Local::Refuse(Family::Typed, refusal));
            }
        }
    }

    /// Asks control for the next piece of a heartbeat, or answers it.
    fn go_on_with_heartbeat(&mut self, slot: Slot, mut heartbeat: Box<Heartbeat>) {
        if heartbeat.left.is_empty() {
            return self.answer_heartbeat(slot, &heartbeat);
        }
        let count = heartbeat.left.len().min(limits::COMMAND_ENTRIES_MAX);
        let piece: Vec<_> = heartbeat.left.drain(..count).collect();
        let context = BatchContext::ArtemisHeartbeat { heartbeat, count };
        let is_sent = self.ask(slot, None, commands::Heartbeat(piece), context);
        self.conns[slot.index()].awaits_heavy = is_sent;
    }

    /// Control has renewed a piece of a heartbeat.
    pub(super) fn on_renewed(
        &mut self,
        slot: Slot,
        mut heartbeat: Box<Heartbeat>,
        count: usize,
        result: Result<Vec<RefusedEntry>, Refusal>,
    ) {
        self.conns[slot.index()].awaits_heavy = false;
        match result {
            Ok(refused) => {
                let start = heartbeat.sent.len() - heartbeat.left.len() - count;
                heartbeat.unknown.extend(refused.iter().map(|entry| start + entry.index));
                self.go_on_with_heartbeat(slot, heartbeat);
            }
            Err(refusal) => self.refuse(slot, None, Family::Typed, &refusal),
        }
    }

    fn answer_heartbeat(&mut self, slot: Slot, heartbeat: &Heartbeat) {
        let (frame, too_large) = heartbeat.answer();
        self.push_direct(slot, frame.into());
        let bytes_max = self.settings.limits.instance_bytes_max;
        let mut registrations: Vec<Registration> = Vec::new();
        for place in too_large {
            let sent = &heartbeat.sent[place];
            match sent.register().and_then(|registration| registration.within(bytes_max)) {
                Ok(registration) => registrations.push(registration),
                Err(reason) => self.note_not_registered(slot, sent.service_id.as_deref(), &reason),
            }
        }
        if registrations.is_empty() {
            return;
        }
        self.note_registered_by_heartbeat(slot, &registrations);
        let context = BatchContext::ArtemisRegister;
        self.ask_as(Door::Artemis, slot, None, commands::Register(registrations), context);
    }

    /// Control has registered instances from a heartbeat. The next heartbeat tries again what it refused.
    pub(super) fn on_registered_by_heartbeat(
        &mut self,
        slot: Slot,
        result: Result<Vec<RefusedEntry>, Refusal>,
    ) {
        match result {
            Ok(refused) if refused.is_empty() => {}
            Ok(_) => self.note_not_registered(slot, None, "the registry is full"),
            Err(refusal) => self.note_not_registered(slot, None, &refusal.message),
        }
    }

    // --- Changes ---------------------------------------------------------------------------------

    fn on_subscription(&mut self, slot: Slot, payload: &[u8]) {
        let service = match artemis::subscription(payload) {
            Ok(service) => service,
            Err(refusal) => {
                // The dialect has no answer to it; Artemis' own server says it to its log only.
                self.stats().refusals[refusal.code.index()].add(1);
                return self.note_refused(slot, refusal.code);
            }
        };
        let topic = self.topics.find(&Topic::Artemis(service.clone()));
        let is_new = topic.is_none_or(|topic| !self.conns[slot.index()].topics.contains(&topic));
        if is_new && !self.conns[slot.index()].follows_everything && self.check_room(slot).is_err()
        {
            // The client has no ear for a refusal. It ignores changes of services that it does not use.
            self.note_follows_all(slot);
            self.follow_all_changes(slot);
        }
        let context = SubscribeContext {
            service: service.clone(),
            is_heavy: IsHeavy(false),
            dialect: Dialect::Artemis,
            prefer: None,
        };
        let command = commands::Subscribe {
            service: service.clone(),
            snapshot: SnapshotNeed::No,
            since: None,
            dialect: Dialect::Artemis,
        };
        if self.ask(slot, None, command, context) {
            self.conns[slot.index()].subscribing += 1;
            self.topics.begin_joining(Dialect::Artemis, Some(&service));
        }
    }

    fn follow_all_changes(&mut self, slot: Slot) {
        let context = (IsHeavy(false), Dialect::Artemis);
        if self.ask(slot, None, commands::SubscribeAll(Dialect::Artemis), context) {
            self.conns[slot.index()].subscribing += 1;
            self.topics.begin_joining(Dialect::Artemis, None);
        }
    }

    /// Control has answered a subscription: a service that is there is looked up again.
    pub(super) fn on_artemis_subscribed(&mut self, slot: Slot, subscribed: Subscribed) {
        let service = subscribed.view.service;
        let topic = Topic::Artemis(service.clone());
        if self.conns[slot.index()].follows_everything {
            self.hand_out_run_of(&topic);
            self.release(Dialect::Artemis, Some(&service));
        } else {
            self.start_following(slot, &topic);
        }
        if subscribed.view.revision > 0 {
            self.cancel_resync(slot, &service);
            let reload = artemis::reload(&service, self.now.wall_ms);
            self.push_direct(slot, reload.into());
        }
    }

    /// Sends a reader that fell behind a `reload` of each service that it missed frames of.
    pub(super) fn send_reloads(&mut self, slot: Slot) {
        let (budget, now_ms) = (self.budget(), self.now.wall_ms);
        let conn = &mut self.conns[slot.index()];
        let mut sent = 0;
        while let Some(service) = conn.resync().and_then(|resync| resync.services.pop()) {
            let chunk = Chunk {
                head: artemis::reload(&service, now_ms),
                tail: Bytes::new(),
                frames: 1,
                source: Source::Service(service),
            };
            if !conn.outbox.fits(&chunk, budget) {
                // The rest follows when the outbox is empty again.
                if let Some(resync) = conn.resync() {
                    resync.services.extend(chunk.source.service().cloned());
                }
                break;
            }
            conn.outbox.push(Rc::new(chunk));
            sent += 1;
        }
        if conn.resync().is_some_and(|resync| resync.services.is_empty()) {
            conn.end_resync();
        }
        if sent > 0 {
            self.stats().snapshots.add(sent);
            self.queue_urgent(slot);
        }
    }

    // --- Pongs -----------------------------------------------------------------------------------

    /// Sends a pong a little later. Beyond their bound pongs leave at once.
    pub(super) fn pong_later(&mut self, slot: Slot, frame: Bytes) {
        if self.late_pongs.len() >= limits::ARTEMIS_LATE_PONGS_MAX {
            return self.push_control(slot, frame);
        }
        let generation = self.conns[slot.index()].id.generation;
        // The time of a turn is cut to a millisecond.
        let due_ms = self.now.unix_ms + limits::ARTEMIS_PONG_MS + 1;
        self.late_pongs.push_back(LatePong { due_ms, slot, generation, frame });
    }

    /// When the next pong is due.
    pub(super) fn next_pong_ms(&self) -> Option<u64> {
        self.late_pongs.front().map(|pong| pong.due_ms)
    }

    /// Sends the pongs whose time has come. All wait equally long, so they are due in their order.
    pub(super) fn send_late_pongs(&mut self) {
        while self.next_pong_ms().is_some_and(|due_ms| due_ms <= self.now.unix_ms) {
            let Some(LatePong { slot, generation, frame, .. }) = self.late_pongs.pop_front() else {
                return;
            };
            if self.find(slot, generation).is_some_and(|conn| conn.is_open()) {
                self.push_control(slot, frame);
            }
        }
        if self.late_pongs.is_empty() && self.late_pongs.capacity() > limits::QUEUE_SLOTS_KEPT {
            self.late_pongs = std::collections::VecDeque::new();
        }
    }
}
