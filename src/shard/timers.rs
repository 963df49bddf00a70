//! Timers of connections: handshake timeout, pings, token expiry, write timeout, lingering close, and the
//! drain.
//!
//! Part of `shard`.

use super::conn::{Conn, Rare, Stage};
use super::outbox::Chunk;
use super::socket::Socket;
use super::{Shard, Slot};
use crate::auth::Revocation;
use crate::id::{ConnId, Topic, UserId};
use crate::limits;
use crate::wire::answer;
use crate::wire::close::Reason;
use crate::wire::frame;
use crate::ws::authorizer::Endpoint;
use crate::ws::user_connections::LimitStatus;

/// A drain under way.
#[derive(Debug)]
pub(super) struct Drain {
    /// Connections that have not been sent away yet, last first.
    left: Vec<(Slot, u32)>,
    next_ms: u64,
    per_step: usize,
    window_ms: u64,
}

impl Drain {
    /// When the next ones are due, if any are left. They may all have ended by themselves
    /// meanwhile, and no deadline of theirs is left to wake the shard.
    pub(super) fn due_ms(&self) -> Option<u64> {
        (!self.left.is_empty()).then_some(self.next_ms)
    }
}

impl<S: Socket> Shard<S> {
    /// Makes the wheel bring a connection up at its next deadline.
    pub(super) fn arm(&mut self, slot: Slot) {
        let at_ms = self.deadline_ms(&self.conns[slot.index()]);
        self.arm_at(slot, at_ms);
    }

    /// Brings a connection up again within a tick or two.
    pub(super) fn retry_soon(&mut self, slot: Slot) {
        self.arm_at(slot, self.now.unix_ms + limits::SHARD_TICK_MS);
    }

    fn arm_at(&mut self, slot: Slot, at_ms: u64) {
        let conn = &mut self.conns[slot.index()];
        // A later deadline needs no new entry: the old one comes out early and is entered again.
        if conn.armed_ms == 0 || at_ms < conn.armed_ms {
            self.stamp = self.stamp.wrapping_add(1);
            conn.armed_ms = at_ms;
            conn.armed_stamp = self.stamp;
            self.wheel.insert(at_ms, (slot, self.stamp));
        }
    }

    fn deadline_ms(&self, conn: &Conn<S>) -> u64 {
        let settings = &self.settings.limits;
        match conn.stage {
            Stage::Head => conn.opened_ms + self.head_patience_ms,
            Stage::Closing | Stage::Lingering => conn.ends_ms(),
            Stage::Open(_) => {
                let mut at_ms = match conn.pinged_ms {
                    0 => conn.next_ping_ms,
                    pinged_ms => pinged_ms + settings.pong_timeout_ms,
                };
                if conn.blocked_since_ms != 0 {
                    at_ms = at_ms.min(conn.blocked_since_ms + settings.write_timeout_ms);
                }
                if conn.ends_ms() != 0 {
                    at_ms = at_ms.min(self.now.unix_ms + limits::USER_PROBE_LOOK_MS);
                }
                if let Some(identity) = conn.identity() {
                    let expires_ms = identity.expires_at_s.saturating_mul(1_000);
                    at_ms = at_ms.min(self.now.steady_ms(expires_ms));
                }
                at_ms
            }
        }
    }

    /// Checks whether the system's time was corrected. Tokens then run out at another steady
    /// moment: if it is earlier, the wheel gets a new entry; if it is later, the wheel brings them
    /// up too early, which does no harm.
    pub(super) fn follow_wall_clock(&mut self) {
        let ahead_ms = self.now.wall_ahead_ms();
        if ahead_ms.abs_diff(self.wall_ahead_ms) < limits::WALL_JUMP_MS {
            return;
        }
        let is_later = ahead_ms > self.wall_ahead_ms;
        self.wall_ahead_ms = ahead_ms;
        if is_later {
            let with_token = self.conns.iter().filter(|(_, conn)| conn.signed_in.is_some());
            let slots: Vec<Slot> = with_token.map(|(_, conn)| conn.id.slot).collect();
            for slot in slots {
                self.arm(slot);
            }
        }
    }

    /// Handles every deadline whose time has come.
    pub(super) fn let_time_pass(&mut self) {
        let mut due = Vec::new();
        self.wheel.advance(self.now.unix_ms, &mut due);
        self.due.extend(due);
        for _ in 0..limits::DEADLINES_PER_TURN_MAX {
            let Some((slot, stamp)) = self.due.pop_front() else { break };
            let Some(conn) = self.conns.get_mut(slot.index()) else { continue };
            if conn.armed_stamp != stamp {
                continue;
            }
            conn.armed_ms = 0;
            let generation = conn.id.generation;
            self.on_deadline(slot);
            if self.find(slot, generation).is_some() {
                self.arm(slot);
            }
        }
        if self.due.is_empty() && self.due.capacity() > limits::QUEUE_SLOTS_KEPT {
            self.due = std::collections::VecDeque::new();
        }
        self.go_on_draining();
        self.storm.let_time_pass(self.now.unix_ms);
    }

    /// Pings every connection, for the embedding program.
    pub(super) fn ping_all(&mut self) {
        let now_ms = self.now.unix_ms;
        let open: Vec<Slot> = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.is_open() && conn.pinged_ms == 0 && conn.outbox.is_empty())
            .map(|(_, conn)| conn.id.slot)
            .collect();
        for slot in open {
            let conn = &mut self.conns[slot.index()];
            conn.pinged_ms = now_ms;
            conn.outbox.push(std::rc::Rc::clone(&self.ping));
            self.queue_bulk(slot);
            self.arm(slot);
        }
    }

    /// Pings a connection whose place its user's newest connection wants.
    pub(super) fn probe(&mut self, id: ConnId) {
        let now_ms = self.now.unix_ms;
        let Some(conn) = self.find(id.slot, id.generation) else { return };
        if !conn.is_open() {
            return;
        }
        if conn.is_paused && conn.blocked_since_ms == 0 {
            // The shard has paused its reading, so a pong could not be read: it counts as alive.
            return conn.answer_probe();
        }
        conn.is_probed = true;
        // A connection that was pinged a while ago has less time left, and one whose socket is full
        // gets the ping behind its unsent bytes.
        if conn.pinged_ms == 0 {
            conn.pinged_ms = now_ms;
            let ping = std::rc::Rc::clone(&self.ping);
            self.conns[id.slot.index()].outbox.push(ping);
            self.queue_urgent(id.slot);
        }
        self.arm(id.slot);
    }

    /// Whether a connection above its user's limit may stay for now.
    fn may_stay(&mut self, slot: Slot) -> bool {
        let seats_max = self.settings.limits.connections_per_user_max;
        let now_ms = self.now.unix_ms;
        let conn = &mut self.conns[slot.index()];
        let permit = conn.signed_in.as_ref().and_then(|who| who.permit.as_ref());
        match permit.map(|permit| permit.standing(seats_max)) {
            Some(LimitStatus::Within) => conn.rare_or_new().ends_ms = 0,
            Some(LimitStatus::Waiting) => return now_ms < conn.ends_ms(),
            Some(LimitStatus::Refused) | None => return false,
        }
        true
    }

    /// Ends a connection by control's order.
    pub(super) fn on_close_order(&mut self, conn: ConnId, reason: Reason) {
        let Some(found) = self.find(conn.slot, conn.generation) else { return };
        if found.is_open() {
            self.close(conn.slot, reason);
        }
    }

    /// Closes connections whose tokens are expired or revoked: of one user, or of all.
    pub(super) fn check_tokens(&mut self, user_id: Option<&UserId>) {
        let mut slots = Vec::new();
        match user_id {
            None => slots.extend(self.conns.iter().map(|(_, conn)| conn.id.slot)),
            Some(user_id) => {
                if let Some(topic) = self.topics.find(&Topic::User(user_id.clone())) {
                    self.topics.followers(topic, &mut slots);
                }
                // A connection that control has not announced yet is checked when it is.
                slots.extend(&self.unannounced_users);
            }
        }
        for slot in slots {
            self.check_token(slot);
        }
    }

    /// Closes a connection whose token is expired or revoked. Returns whether it does.
    pub(super) fn check_token(&mut self, slot: Slot) -> bool {
        let conn = &self.conns[slot.index()];
        let Stage::Open(endpoint) = conn.stage else { return true };
        let revoked = &self.settings.authorizer.revoked;
        let frame = match conn.identity().and_then(|identity| revoked.of(identity)) {
            None => return true,
            Some(Revocation::Disabled) => answer::account_disabled(),
            Some(Revocation::Token) => answer::token_revoked(),
        };
        if endpoint == Endpoint::Main {
            self.push_direct(slot, frame.into());
        }
        self.close(slot, Reason::TokenExpired);
        false
    }

    fn on_deadline(&mut self, slot: Slot) {
        let now_ms = self.now.unix_ms;
        let limits = std::sync::Arc::clone(&self.settings.limits);
        let conn = &mut self.conns[slot.index()];
        match conn.stage {
            Stage::Head if conn.opened_ms + self.head_patience_ms <= now_ms => {
                drop(self.remove(slot));
            }
            Stage::Closing if conn.ends_ms() <= now_ms => {
                // The peer takes nothing. A reset also frees the bytes that the kernel holds for
                // it.
                conn.socket.reset();
                drop(self.remove(slot));
            }
            Stage::Lingering if conn.ends_ms() <= now_ms => drop(self.remove(slot)),
            Stage::Open(_) => {
                let is_blocked = conn.blocked_since_ms != 0
                    && conn.blocked_since_ms + limits.write_timeout_ms <= now_ms;
                let expires_ms = conn.identity().map(|who| who.expires_at_s.saturating_mul(1_000));
                if conn.ends_ms() != 0 && !self.may_stay(slot) {
                    return self.close(slot, Reason::TooManyConnections);
                }
                let conn = &mut self.conns[slot.index()];
                if is_blocked {
                    self.stats().slow_closed.add(1);
                    self.close(slot, Reason::SlowReader);
                } else if expires_ms.is_some_and(|at_ms| at_ms <= self.now.wall_ms) {
                    if conn.stage == Stage::Open(Endpoint::Main) {
                        conn.outbox.push(Chunk::frame(answer::token_expired()));
                    }
                    self.close(slot, Reason::TokenExpired);
                } else if !conn.is_probed && (conn.is_paused || !conn.outbox.is_empty()) {
                    // It takes no output, or its input is paused: a ping would only wait in line.
                    // The write deadline watches over it.
                    conn.pinged_ms = 0;
                    conn.next_ping_ms = now_ms + limits.ping_interval_ms;
                } else if conn.pinged_ms != 0 {
                    if conn.pinged_ms + limits.pong_timeout_ms <= now_ms {
                        // RFC 6455, 5.5.2: an endpoint answers a ping as soon as is practical. A
                        // missing pong tells little of the client and much of the network.
                        self.close(slot, Reason::NoPong);
                    }
                } else if conn.next_ping_ms <= now_ms {
                    conn.pinged_ms = now_ms;
                    conn.next_ping_ms = now_ms + limits.ping_interval_ms;
                    conn.outbox.push(std::rc::Rc::clone(&self.ping));
                    self.queue_urgent(slot);
                }
                if self.conns.contains(slot.index()) && self.conns[slot.index()].outbox.is_empty() {
                    self.request_resync(slot);
                }
            }
            _ => {}
        }
    }

    /// Sends a close frame as the connection's last one.
    pub(super) fn close(&mut self, slot: Slot, reason: Reason) {
        if !self.conns[slot.index()].is_open() {
            return;
        }
        self.stats().closes[reason.index()].add(1);
        self.note_close(slot, reason);
        let conn = &mut self.conns[slot.index()];
        // A peer that does not read would never reach the close frame behind its queue.
        conn.outbox.drop_replaceable();
        conn.outbox.push(Chunk::frame(frame::close(reason)));
        self.end(slot);
        if matches!(reason, Reason::TokenExpired | Reason::Draining) {
            // These come by the thousand. No other answer waits behind them.
            self.queue_bulk(slot);
        } else {
            self.queue_urgent(slot);
        }
        if reason == Reason::SlowReader {
            // Its socket is full. The close frame has the rest of the write timeout: a client that
            // reads again in that time learns why, and comes back.
            let patience_ms = self.settings.limits.write_timeout_ms;
            let conn = &mut self.conns[slot.index()];
            if conn.blocked_since_ms != 0 {
                let least_ms = conn.blocked_since_ms + patience_ms;
                let rare = conn.rare_or_new();
                rare.ends_ms = rare.ends_ms.max(least_ms);
            }
        }
    }

    /// Sends the rest of the outbox, and nothing after it. The caller queues the connection.
    pub(super) fn end(&mut self, slot: Slot) {
        self.unsubscribe_all(slot);
        self.depart(slot);
        let ends_ms = self.now.unix_ms + limits::CLOSE_LINGER_MS;
        let conn = &mut self.conns[slot.index()];
        if let Stage::Open(endpoint) = conn.stage {
            self.count_out(endpoint);
        }
        let conn = &mut self.conns[slot.index()];
        conn.stage = Stage::Closing;
        conn.reader = crate::ws::reader::Reader::default();
        *conn.rare_or_new() = Rare { ends_ms, ..Rare::default() };
        if let Some(signed_in) = &mut conn.signed_in {
            signed_in.permit = None;
        }
        let generation = conn.id.generation;
        // Further input of the peer is read and dropped: unread input would turn the end of the
        // stream into a reset, and the peer would lose the last frames.
        conn.is_paused = false;
        self.leaving.push_back((slot, generation));
        self.arm(slot);
    }

    /// Everything is written: shuts writing down, and waits a moment for the peer's end.
    pub(super) fn linger(&mut self, slot: Slot) {
        let conn = &mut self.conns[slot.index()];
        conn.stage = Stage::Lingering;
        conn.socket.shut_down();
        if conn.has_ended {
            drop(self.remove(slot));
            return;
        }
        // A slow reader had longer to take its close frame. It has no longer to answer it.
        let rare = conn.rare_or_new();
        rare.ends_ms = rare.ends_ms.min(self.now.unix_ms + limits::CLOSE_LINGER_MS);
        self.arm(slot);
    }

    /// Begins to send all connections away, spread over at most `window_ms`.
    pub(super) fn begin_drain(&mut self, window_ms: u64) {
        let left: Vec<(Slot, u32)> = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.is_open())
            .map(|(_, conn)| (conn.id.slot, conn.id.generation))
            .collect();
        let steps = usize::try_from(window_ms / limits::SHARD_TICK_MS).unwrap_or(1).max(1);
        let per_step = left.len().div_ceil(steps).max(limits::DRAIN_BATCH_MIN);
        self.drain = Some(Drain { left, next_ms: self.now.unix_ms, per_step, window_ms });
        self.go_on_draining();
    }

    fn go_on_draining(&mut self) {
        let Some(drain) = &mut self.drain else { return };
        if drain.next_ms > self.now.unix_ms {
            return;
        }
        drain.next_ms = self.now.unix_ms + limits::SHARD_TICK_MS;
        let conns = &self.conns;
        drain.left.retain(|(slot, generation)| {
            conns
                .get(slot.index())
                .is_some_and(|conn| conn.id.generation == *generation && conn.is_open())
        });
        let keep = drain.left.len().saturating_sub(drain.per_step);
        let batch = drain.left.split_off(keep);
        let window_ms = drain.window_ms;
        for (slot, _) in batch {
            if self.conns[slot.index()].stage == Stage::Open(crate::ws::authorizer::Endpoint::Main)
            {
                let after_ms = limits::RECONNECT_MS_MIN + self.rng.below(window_ms + 1);
                let frame = Chunk::frame(answer::reconnect(after_ms));
                self.conns[slot.index()].outbox.push(frame);
            }
            self.close(slot, Reason::Draining);
        }
    }

    /// Gives connections a moment for their first request: no more are accepted.
    pub fn hurry(&mut self, now: crate::clock::Moment) {
        self.now = now;
        self.head_patience_ms = self.head_patience_ms.min(limits::DRAIN_HEAD_MS);
        let slots: Vec<Slot> = self.conns.iter().map(|(_, conn)| conn.id.slot).collect();
        for slot in slots {
            self.arm(slot);
        }
    }

    /// Whether a drain has reached every connection. True also if none was begun.
    pub fn has_drained(&self) -> bool {
        self.drain.as_ref().is_none_or(|drain| drain.left.is_empty())
            && self.conns.len() == self.head_count
    }
}
