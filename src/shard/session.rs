//! Requests of a client, and their answers in order.
//!
//! Requests for control wait in the connection's `pending` queue. A request that the shard answers by itself
//! takes its place behind them, so answers leave in the order of the requests.
//!
//! Reading pauses while a connection has too many requests open, waits for an answer of unknown size, or does
//! not read its answers. TCP then slows the client down, and nothing accumulates in the shard.
//!
//! Part of `shard`.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use super::conn::{Batch, Local, Pending, Rate, Stage, Verdict};
use super::outbox::{Chunk, Source};
use super::socket::Socket;
use super::{Shard, Slot};
use crate::auth::Scopes;
use crate::id::{ConnId, Dialect, RequestId, Topic};
use crate::limits;
use crate::mailbox::to_control::{ControlMessage, Task};
use crate::state::Ask;
use crate::state::audit::{Actor, Door};
use crate::state::registry::commands::{self, SnapshotNeed};
use crate::state::registry::replies::RefusedEntry;
use crate::state::registry::views::{Instances, ServiceSnapshot, Subscribed};
use crate::state::reply::{
    BatchContext, EndedBy, IsHeavy, Reply, ReplyTo, SocketReply, SubscribeContext,
};
use crate::wire::answer;
use crate::wire::close::Reason;
use crate::wire::command::{self, Entries, Family, Rejected, Request, Subscribe, Target};
use crate::wire::event::TimeText;
use crate::wire::frame::{self, Split};
use crate::wire::instance::Registration;
use crate::wire::preference::Preference;
use crate::wire::refusal::{Code, Refusal};
use crate::ws::authorizer::{self, ArtemisSocket, Endpoint};
use crate::ws::reader::{Incoming, Wire};

/// Continuation frames of a JSON socket.
const CONTINUATIONS: Rate =
    Rate { per_s_max: limits::CONTINUATIONS_PER_S_MAX, burst_max: limits::CONTINUATIONS_BURST_MAX };

/// Continuation frames of the echo socket.
const ECHO_CONTINUATIONS: Rate = Rate {
    per_s_max: limits::ECHO_CONTINUATIONS_PER_S_MAX,
    burst_max: limits::ECHO_CONTINUATIONS_BURST_MAX,
};

/// Messages of the echo socket.
const ECHO_MESSAGES: Rate =
    Rate { per_s_max: limits::ECHO_MESSAGES_PER_S_MAX, burst_max: limits::ECHO_MESSAGES_BURST_MAX };

impl<S: Socket> Shard<S> {
    /// Reads a socket once.
    pub(super) fn read(&mut self, slot: Slot, generation: u32) {
        let Some(conn) = self.find(slot, generation) else { return };
        if conn.is_paused {
            return;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let conn = &mut self.conns[slot.index()];
        match conn.socket.try_read(&mut buffer) {
            Ok(0) => self.on_end_of_stream(slot),
            Ok(bytes) => {
                conn.pinged_ms = 0;
                if conn.is_probed {
                    conn.answer_probe();
                }
                // There may be more input, and the socket reports itself only after a `WouldBlock`.
                // So it is read again, after the other sockets of this turn.
                self.unread.push_back((slot, generation));
                match conn.stage {
                    Stage::Head => self.on_head_bytes(slot, &buffer[..bytes]),
                    Stage::Open(_) => self.feed(slot, &buffer[..bytes]),
                    Stage::Closing | Stage::Lingering => {}
                }
            }
            Err(fault) if fault.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => drop(self.remove(slot)),
        }
        self.buffer = buffer;
        self.release_rare(slot, generation);
    }

    /// Gives back what the connection does not need any more.
    fn release_rare(&mut self, slot: Slot, generation: u32) {
        let now_ms = self.now.unix_ms;
        if let Some(conn) = self.find(slot, generation) {
            conn.release_rare(now_ms);
        }
    }

    fn on_end_of_stream(&mut self, slot: Slot) {
        let conn = &mut self.conns[slot.index()];
        if conn.stage == Stage::Closing {
            // The peer has shut its side down; our last bytes are still on their way.
            conn.has_ended = true;
        } else {
            // A half-open WebSocket is useless.
            drop(self.remove(slot));
        }
    }

    /// Reads the messages in `bytes`.
    pub(super) fn feed(&mut self, slot: Slot, bytes: &[u8]) {
        let conn = &mut self.conns[slot.index()];
        let Stage::Open(endpoint) = conn.stage else { return };
        if conn.is_paused {
            conn.rare_or_new().held.extend_from_slice(bytes);
            return;
        }
        let pool = match endpoint {
            Endpoint::Echo => &mut self.echo_pool,
            Endpoint::Artemis(ArtemisSocket::Heartbeat) => &mut self.heartbeat_pool,
            Endpoint::Main | Endpoint::Artemis(_) => &mut self.main_pool,
        };
        match conn.reader.begin(bytes, pool) {
            Ok(continuations) => {
                // The limit on messages counts a message as one, however many frames it has.
                let rate = match endpoint {
                    Endpoint::Main | Endpoint::Artemis(_) => CONTINUATIONS,
                    Endpoint::Echo => ECHO_CONTINUATIONS,
                };
                if continuations > 0
                    && !conn.rare_or_new().continuations.take(self.now.unix_ms, continuations, rate)
                {
                    return self.close(slot, Reason::RateLimit);
                }
                self.pump(slot, bytes);
            }
            Err(reason) => self.close(slot, reason),
        }
    }

    /// Whether a ping or pong is within the connection's rate. Each wakes the shard and costs a
    /// read and, if it is a ping, a write, as a message does.
    fn may_send_control(&mut self, slot: Slot) -> bool {
        let limits = &self.settings.limits;
        let rate = Rate {
            per_s_max: limits.control_frames_per_s_max,
            burst_max: limits.control_frames_burst_max,
        };
        self.conns[slot.index()].control_frames.take(self.now.unix_ms, 1, rate)
    }

    /// Whether a message on the echo socket is within its rate. No other limit on messages holds
    /// there.
    fn may_echo(&mut self, slot: Slot) -> bool {
        let may = self.conns[slot.index()].judge(self.now.unix_ms, ECHO_MESSAGES);
        if may != Verdict::Pass {
            self.close(slot, Reason::RateLimit);
        }
        may == Verdict::Pass
    }

    /// Takes messages out of the reader until its input is used up or the connection pauses.
    fn pump(&mut self, slot: Slot, bytes: &[u8]) {
        let generation = self.conns[slot.index()].id.generation;
        let mut reader = std::mem::take(&mut self.conns[slot.index()].reader);
        let mut replies = std::mem::take(&mut self.replies);
        let mut wire = Wire { input: bytes, replies: &mut replies };
        let is_artemis = self.conns[slot.index()].artemis().is_some();
        let mut close = None;
        loop {
            let next = reader.next(&mut wire);
            if !wire.replies.is_empty() {
                let reply = Bytes::copy_from_slice(wire.replies);
                wire.replies.clear();
                let is_last = matches!(next, Ok(Some(Incoming::Close(_))) | Err(_));
                if is_artemis && !is_last {
                    self.pong_later(slot, reply);
                } else {
                    self.push_control(slot, reply);
                }
            }
            match next {
                Ok(None) => break,
                Ok(Some(Incoming::Text(text))) => self.on_text(slot, text.as_bytes()),
                Ok(Some(Incoming::Binary(payload))) => self.on_binary(slot, &payload),
                Ok(Some(Incoming::Control)) if self.may_send_control(slot) => {}
                Ok(Some(Incoming::Control)) => close = Some(Some(Reason::RateLimit)),
                Ok(Some(Incoming::Close(code))) => {
                    self.note_close_by_client(slot, code);
                    close = Some(None);
                }
                Err(reason) => close = Some(Some(reason)),
            }
            self.pause_if_full(slot);
            if close.is_some() || !self.is_listening(slot, generation) {
                break;
            }
        }
        let rest = &bytes[bytes.len() - wire.input.len()..];
        self.replies = replies;
        let Some(conn) = self.find(slot, generation) else { return };
        if conn.is_open() && conn.is_paused {
            if !rest.is_empty() {
                conn.rare_or_new().held = rest.to_vec();
            }
            conn.reader = reader;
        } else if conn.is_open() && close.is_none() {
            let pool = match conn.stage {
                Stage::Open(Endpoint::Echo) => &mut self.echo_pool,
                Stage::Open(Endpoint::Artemis(ArtemisSocket::Heartbeat)) => {
                    &mut self.heartbeat_pool
                }
                _ => &mut self.main_pool,
            };
            reader.end(pool);
            self.conns[slot.index()].reader = reader;
        }
        match close {
            None => {}
            Some(Some(reason)) => self.close(slot, reason),
            Some(None) => {
                self.stats().closes[Reason::Normal.index()].add(1);
                self.end(slot);
                self.queue_urgent(slot);
            }
        }
    }

    fn is_listening(&mut self, slot: Slot, generation: u32) -> bool {
        self.find(slot, generation).is_some_and(|conn| conn.is_open() && !conn.is_paused)
    }

    fn pause_if_full(&mut self, slot: Slot) {
        let bytes_max = self.settings.limits.outbox_bytes_max;
        let conn = &mut self.conns[slot.index()];
        conn.is_paused = usize::from(conn.outstanding) >= limits::OUTSTANDING_COMMANDS_MAX
            || conn.awaits_heavy
            || conn.outbox.bytes() > bytes_max / 2;
    }

    /// Reads on when the reason of the pause has gone.
    pub(super) fn resume(&mut self, slot: Slot) {
        if !self.conns[slot.index()].is_paused || !self.conns[slot.index()].is_open() {
            return;
        }
        self.pause_if_full(slot);
        let conn = &mut self.conns[slot.index()];
        if conn.is_paused {
            return;
        }
        let generation = conn.id.generation;
        let held = conn.take_held();
        self.pump(slot, &held);
        if self.is_listening(slot, generation) {
            self.unread.push_back((slot, generation));
        }
    }

    fn on_binary(&mut self, slot: Slot, payload: &[u8]) {
        if self.conns[slot.index()].stage != Stage::Open(Endpoint::Echo) {
            self.close(slot, Reason::Binary);
        } else if self.may_echo(slot) {
            self.push_direct(slot, frame::binary(payload).into());
        }
    }

    fn on_text(&mut self, slot: Slot, payload: &[u8]) {
        self.stats().messages.add(1);
        if self.conns[slot.index()].stage == Stage::Open(Endpoint::Echo) {
            if self.may_echo(slot) {
                self.push_direct(slot, frame::text(payload).into());
            }
            return;
        }
        if let Some(socket) = self.conns[slot.index()].artemis() {
            return self.on_artemis_text(slot, socket, payload);
        }
        let limits = &self.settings.limits;
        let rate = Rate {
            per_s_max: limits.client_messages_per_s_max,
            burst_max: limits.client_messages_burst_max,
        };
        match self.conns[slot.index()].judge(self.now.unix_ms, rate) {
            Verdict::Pass => {}
            Verdict::Limit => {
                let refusal = Refusal::new(Code::RateLimited, "too many messages, slow down");
                let (id, family) = command::decode_id(payload);
                self.answer_locally(slot, id, Local::Refuse(family, refusal));
                return;
            }
            Verdict::Close => return self.close(slot, Reason::RateLimit),
        }
        let message = command::decode(payload, limits.topic_bytes_max);
        match message.request {
            Ok(request) => self.on_request(slot, message.id, request),
            Err(refusal) => {
                self.answer_locally(slot, message.id, Local::Refuse(message.family, refusal));
            }
        }
    }

    pub(super) fn on_request(&mut self, slot: Slot, id: Option<RequestId>, request: Request) {
        match request {
            Request::Ping => self.answer_locally(slot, id, Local::Pong),
            Request::Subscribe(subscribe) => match self.check_scope(slot, Scopes::REGISTRY_READ) {
                Ok(()) => self.on_subscribe(slot, id, subscribe),
                Err(refusal) => {
                    self.answer_locally(slot, id, Local::Refuse(Family::Typed, refusal));
                }
            },
            Request::Unsubscribe(target) => {
                self.answer_locally(slot, id, Local::Unsubscribe(target));
            }
            Request::Refresh { token } => self.on_refresh(slot, id, &token),
            Request::SubscribeChannel { .. }
            | Request::UnsubscribeChannel(_)
            | Request::ListChannels
            | Request::Publish { .. }
            | Request::Join(_)
            | Request::Leave(_)
            | Request::Chat { .. }
            | Request::Envelope { .. }
            | Request::EnvelopePing => self.on_messaging_request(slot, id, request),
            Request::Register(_) | Request::Heartbeat(_) | Request::Unregister(_)
                if let Err(refusal) = self.check_scope(slot, Scopes::REGISTRY_WRITE) =>
            {
                self.answer_locally(slot, id, Local::Refuse(Family::Typed, refusal));
            }
            Request::Register(Entries { accepted, rejected }) => {
                let bytes_max = self.settings.limits.instance_bytes_max;
                let size = |one: &Registration| one.json.len();
                if let Some((sent, large)) = accepted.iter().find(|(_, one)| size(one) > bytes_max)
                {
                    let name = sent.instance_id.as_deref().unwrap_or_default();
                    let message = format!(
                        "instance \"{name}\" has {} bytes, more than {bytes_max}; none of the \
                         message was registered",
                        size(large)
                    );
                    let refusal = Refusal::new(Code::TooLarge, message);
                    return self.answer_locally(slot, id, Local::Refuse(Family::Typed, refusal));
                }
                let (sent, registrations): (Vec<_>, Vec<_>) = accepted.into_iter().unzip();
                if registrations.is_empty() {
                    let local = Local::Rejected(Batch::Register, rejected);
                    return self.answer_locally(slot, id, local);
                }
                let context = BatchContext::Register { sent, rejected };
                self.ask_as(Door::WebSocket, slot, id, commands::Register(registrations), context);
            }
            Request::Heartbeat(Entries { accepted, rejected }) => {
                let (sent, keys): (Vec<_>, Vec<_>) = accepted.into_iter().unzip();
                if keys.is_empty() {
                    let local = Local::Rejected(Batch::Heartbeat, rejected);
                    return self.answer_locally(slot, id, local);
                }
                let context = BatchContext::Heartbeat { sent, rejected };
                self.ask(slot, id, commands::Heartbeat(keys), context);
            }
            Request::Unregister(Entries { accepted, rejected }) => {
                let keys: super::conn::Identities =
                    accepted.into_iter().map(|(_, key)| key).collect();
                if keys.is_empty() {
                    let local = Local::Rejected(Batch::Unregister, rejected);
                    return self.answer_locally(slot, id, local);
                }
                let context = BatchContext::Unregister { rejected };
                self.ask_as(Door::WebSocket, slot, id, commands::Unregister(keys), context);
            }
        }
    }

    fn on_subscribe(&mut self, slot: Slot, id: Option<RequestId>, subscribe: Subscribe) {
        let conn = &self.conns[slot.index()];
        let is_new = match &subscribe.target {
            Target::AllServices => !conn.follows_everything,
            Target::Service(service) => {
                let topic = self.topics.find(&Topic::Service(service.clone()));
                topic.is_none_or(|topic| !conn.topics.contains(&topic))
            }
        };
        if is_new && let Err(refusal) = self.check_room(slot) {
            return self.answer_locally(slot, id, Local::Refuse(Family::Typed, refusal));
        }
        let is_heavy = subscribe.snapshot || subscribe.since.is_some();
        let (joined, is_sent) = match subscribe.target {
            Target::AllServices => {
                let context = (IsHeavy(is_heavy), Dialect::Fanfare);
                (None, self.ask(slot, id, commands::SubscribeAll(Dialect::Fanfare), context))
            }
            Target::Service(service) => {
                let follows = self.follows(slot, &service) || self.topics.is_joining(&service);
                let snapshot = match (subscribe.snapshot, follows) {
                    (true, false) => SnapshotNeed::Yes,
                    (true, true) => SnapshotNeed::Newest,
                    (false, true) => SnapshotNeed::AtHand,
                    (false, false) => SnapshotNeed::No,
                };
                let dialect = Dialect::Fanfare;
                let is_heavy = IsHeavy(is_heavy);
                let prefer = subscribe.prefer;
                let context =
                    SubscribeContext { service: service.clone(), is_heavy, dialect, prefer };
                let joined = Some(service.clone());
                let since = subscribe.since;
                let command = commands::Subscribe { service, snapshot, since, dialect };
                (joined, self.ask(slot, id, command, context))
            }
        };
        if is_sent {
            let conn = &mut self.conns[slot.index()];
            conn.subscribing += 1;
            conn.awaits_heavy |= is_heavy;
            self.topics.begin_joining(Dialect::Fanfare, joined.as_ref());
        }
    }

    /// Whether a connection may follow one more topic.
    pub(super) fn check_room(&self, slot: Slot) -> Result<(), Refusal> {
        let max = self.settings.limits.subscriptions_per_connection_max;
        if self.conns[slot.index()].subscriptions() < max {
            return Ok(());
        }
        let message = format!("a connection follows at most {max} topics");
        Err(Refusal::new(Code::TooManySubscriptions, message))
    }

    fn on_refresh(&mut self, slot: Slot, id: Option<RequestId>, token: &str) {
        let conn = &mut self.conns[slot.index()];
        let fresh = self.settings.authorizer.identify(Some(token), self.now.unix_s());
        let local = match (fresh, &mut conn.signed_in) {
            (Ok(Some(fresh)), Some(old)) if fresh.user_id == old.identity.user_id => {
                let expires_at_ms = fresh.expires_at_s.saturating_mul(1_000);
                old.identity = fresh;
                Local::Refreshed(expires_at_ms)
            }
            (Ok(_), _) => Local::Refuse(
                Family::Typed,
                Refusal::new(Code::Forbidden, "the token is not for the user of this connection"),
            ),
            (Err(fault), _) => {
                let rejection = authorizer::bad_token(fault);
                self.note_token_refused(slot, rejection.cause.unwrap_or_default());
                Local::Refuse(Family::Typed, Refusal::new(rejection.code, rejection.detail))
            }
        };
        self.answer_locally(slot, id, local);
        self.arm(slot);
    }

    /// Sends a command to control and keeps the reply's place in the order. Returns false if
    /// control's mailbox is full; the client has then been told.
    pub(super) fn ask<A: Ask>(
        &mut self,
        slot: Slot,
        id: Option<RequestId>,
        ask: A,
        context: <A::Reply as Reply>::SocketContext,
    ) -> bool {
        let command = ask.reply_to(ReplyTo::Socket(self.conns[slot.index()].id, context));
        self.send_task(slot, id, A::Reply::FAMILY, Task::Command(command))
    }

    /// The same for a command that the audit log names its sender of.
    pub(super) fn ask_as<A: Ask>(
        &mut self,
        door: Door,
        slot: Slot,
        id: Option<RequestId>,
        ask: A,
        context: <A::Reply as Reply>::SocketContext,
    ) -> bool {
        let conn = &self.conns[slot.index()];
        let user_id = conn.identity().map(|identity| identity.user_id.clone());
        let actor = Actor { user_id, address: self.address_of(slot), door };
        let command = ask.reply_to(ReplyTo::Socket(conn.id, context));
        let task = Task::CommandBy(Arc::new(actor), command);
        self.send_task(slot, id, A::Reply::FAMILY, task)
    }

    fn send_task(&mut self, slot: Slot, id: Option<RequestId>, family: Family, task: Task) -> bool {
        let accepted_ns = self.now.ns;
        if !self.send_control(ControlMessage { accepted_ns, task }) {
            let local = Local::Refuse(family, Refusal::unavailable());
            self.answer_locally(slot, id, local);
            return false;
        }
        let conn = &mut self.conns[slot.index()];
        conn.outstanding += 1;
        conn.rare_or_new().pending.push_back(Pending::Waiting(id));
        true
    }

    /// Answers at once, or after the requests that are still open.
    pub(super) fn answer_locally(&mut self, slot: Slot, id: Option<RequestId>, local: Local) {
        match self.conns[slot.index()].rare_mut() {
            Some(rare) if !rare.pending.is_empty() => {
                rare.pending.push_back(Pending::Local(id, local));
            }
            _ => self.say(slot, id.as_ref(), local),
        }
    }

    fn say(&mut self, slot: Slot, id: Option<&RequestId>, local: Local) {
        let bytes = match local {
            Local::Pong => answer::pong(id),
            Local::Unsubscribe(target) => {
                let Target::Service(service) = &target else {
                    self.unsubscribe_from_all(slot);
                    return self.push_direct(slot, answer::unsubscribed(id, None).into());
                };
                self.unsubscribe(slot, service);
                answer::unsubscribed(id, Some(service))
            }
            Local::EnvelopePong => answer::envelope_pong(id, TimeText::of(self.now.wall_ms)),
            Local::Refuse(family, refusal) => {
                return self.refuse(slot, id, family, &refusal);
            }
            Local::Rejected(batch, rejected) => batch_answer(batch, id, &[], &rejected),
            Local::Refreshed(expires_at_ms) => {
                self.push_direct(slot, answer::refreshed(id, expires_at_ms).into());
                return self.withdraw(slot);
            }
        };
        self.push_direct(slot, bytes.into());
    }

    /// A reply of control: it belongs to the connection's oldest open command.
    pub(super) fn on_reply(&mut self, conn: ConnId, reply: SocketReply) {
        let (slot, generation) = (conn.slot, conn.generation);
        let joined = match &reply {
            SocketReply::Subscribed(context, _) => {
                Some((context.dialect, Some(context.service.clone())))
            }
            SocketReply::SubscribedToAll((_, dialect), _) => Some((*dialect, None)),
            _ => None,
        };
        if let Some((dialect, service)) = &joined {
            self.topics.end_joining(*dialect, service.as_ref());
        }
        if self.find(slot, conn.generation).is_none_or(|conn| !conn.is_open()) {
            // The connection has ended meanwhile, and perhaps it was to be the only follower.
            if let Some((dialect, service)) = &joined {
                self.release(*dialect, service.as_ref());
            }
            return;
        }
        let reply = match reply {
            SocketReply::Snapshot(snapshot) => return self.on_resync_snapshot(slot, snapshot),
            reply => reply,
        };
        let conn = &mut self.conns[slot.index()];
        let Some(Pending::Waiting(id)) = conn.rare_mut().and_then(|rare| rare.pending.pop_front())
        else {
            tracing::error!(?reply, "a reply without a request");
            return self.close(slot, Reason::Internal);
        };
        conn.outstanding -= 1;
        self.on_awaited(slot, id.as_ref(), reply);
        loop {
            let conn = &mut self.conns[slot.index()];
            let Some(rare) = conn.rare_mut() else { break };
            match rare.pending.front() {
                Some(Pending::Local(..)) => {}
                Some(Pending::Waiting(_)) | None => break,
            }
            if let Some(Pending::Local(id, local)) = rare.pending.pop_front() {
                self.say(slot, id.as_ref(), local);
            }
        }
        self.resume(slot);
        self.release_rare(slot, generation);
    }

    fn on_awaited(&mut self, slot: Slot, id: Option<&RequestId>, reply: SocketReply) {
        match reply {
            SocketReply::Batch(context, result) => self.on_batch(slot, id, context, result),
            SocketReply::Subscribed(
                SubscribeContext { service, is_heavy: IsHeavy(is_heavy), dialect, prefer },
                result,
            ) => {
                self.end_subscribing(slot, is_heavy);
                match result {
                    Ok(subscribed) if dialect == Dialect::Artemis => {
                        self.on_artemis_subscribed(slot, *subscribed);
                    }
                    Ok(subscribed) => self.on_subscribed(slot, id, *subscribed, prefer.as_deref()),
                    Err(refusal) => {
                        self.release(dialect, Some(&service));
                        self.refuse_subscription(slot, id, &refusal);
                    }
                }
            }
            SocketReply::SubscribedToAll((IsHeavy(is_heavy), dialect), result) => {
                self.end_subscribing(slot, is_heavy);
                match result {
                    Ok(_) => self.on_subscribed_to_all(slot, id, dialect),
                    Err(refusal) => {
                        self.release(dialect, None);
                        self.refuse_subscription(slot, id, &refusal);
                    }
                }
            }
            SocketReply::Unfollowed(EndedBy::Token, result) => {
                self.on_withdrawn(slot, result.map(|unfollowed| Some(unfollowed.channel)));
            }
            // The second half of the withdrawal, leaving the channel, comes after it.
            SocketReply::Left(EndedBy::Token, result) => {
                self.on_withdrawn(slot, result.map(|_| None));
            }
            reply => self.on_messaging_reply(slot, id, reply),
        }
    }

    fn refuse_subscription(&mut self, slot: Slot, id: Option<&RequestId>, refusal: &Refusal) {
        match self.conns[slot.index()].artemis() {
            Some(socket) => self.refuse_artemis(slot, socket, refusal),
            None => self.push_direct(slot, answer::error(id, refusal).into()),
        }
    }

    /// A subscription is answered. `is_heavy` if reading waited for it.
    pub(super) fn end_subscribing(&mut self, slot: Slot, is_heavy: bool) {
        let conn = &mut self.conns[slot.index()];
        conn.subscribing -= 1;
        conn.awaits_heavy &= !is_heavy;
    }

    fn on_batch(
        &mut self,
        slot: Slot,
        id: Option<&RequestId>,
        context: BatchContext,
        result: Result<Vec<RefusedEntry>, Refusal>,
    ) {
        let frame = match (context, result) {
            (BatchContext::ArtemisHeartbeat { heartbeat, count }, result) => {
                return self.on_renewed(slot, heartbeat, count, result);
            }
            (BatchContext::ArtemisRegister, result) => {
                return self.on_registered_by_heartbeat(slot, result);
            }
            (_, Err(refusal)) => answer::error(id, &refusal),
            (BatchContext::Register { sent, rejected }, Ok(refused)) => {
                let failed: Vec<Value> =
                    refused.iter().map(|entry| refused_instance(&sent, entry)).collect();
                batch_answer(Batch::Register, id, &failed, &rejected)
            }
            (BatchContext::Heartbeat { sent, rejected }, Ok(refused)) => {
                let failed: Vec<Value> = refused
                    .iter()
                    .map(|entry| json!({"instanceKey": sent[entry.index], "errorCode": "data-not-found"}))
                    .collect();
                batch_answer(Batch::Heartbeat, id, &failed, &rejected)
            }
            (BatchContext::Unregister { rejected }, Ok(_)) => {
                batch_answer(Batch::Unregister, id, &[], &rejected)
            }
        };
        self.push_direct(slot, frame.into());
    }

    fn on_subscribed_to_all(&mut self, slot: Slot, id: Option<&RequestId>, dialect: Dialect) {
        self.hand_out_runs();
        self.conns[slot.index()].follows_everything = true;
        if self.topics.everything(dialect).insert(slot) {
            self.subscription_count += 1;
            self.note_subscribed(slot, None);
        }
        if dialect == Dialect::Fanfare {
            self.push_direct(slot, answer::subscribed_to_all(id).into());
        }
    }

    fn on_subscribed(
        &mut self,
        slot: Slot,
        id: Option<&RequestId>,
        subscribed: Subscribed,
        prefer: Option<&Preference>,
    ) {
        let Subscribed { view, recovered, replay, instances } = subscribed;
        // Control sends in one order, so the topic's run holds everything up to the answer's
        // revision by now. It is for the earlier followers, and is handed out first.
        let topic = Topic::Service(view.service.clone());
        self.start_following(slot, &topic);
        // A bare revision may claim no more than the client will have seen. If frames before it are
        // lost, or wait and may be dropped yet, the instances go with it.
        let outbox = &self.conns[slot.index()].outbox;
        let is_untrue = self.is_resync_pending(slot, &view.service)
            || (replay.is_none() && outbox.has_replaceable(&view.service));
        let snapshot = match instances {
            Instances::Needed(snapshot) => Some(snapshot),
            Instances::AtHand(snapshot) if is_untrue => Some(snapshot),
            Instances::AtHand(_) | Instances::Omitted => None,
        };
        // Part of the answer, so never dropped in favour of a snapshot.
        let (answer, changes) = match snapshot {
            Some(ServiceSnapshot { view, changes }) => {
                self.cancel_resync(slot, &view.service);
                let instances = match prefer {
                    Some(preference) => self.nearest_lists.of(&view, preference),
                    None => view.instances.clone(),
                };
                (answer::subscribed_with(id, view.position(), recovered, instances), changes)
            }
            None => (answer::subscribed(id, view.position(), recovered).into(), replay),
        };
        self.push_direct(slot, answer);
        if let Some(changes) = changes {
            self.push_direct(slot, changes.into());
        }
    }

    /// Hands out the topic's run so far, and makes the connection a follower.
    pub(super) fn start_following(&mut self, slot: Slot, topic: &Topic) {
        self.hand_out_run_of(topic);
        if let Some(id) = self.topics.subscribe(topic, slot) {
            self.conns[slot.index()].topics.push(id);
            self.subscription_count += 1;
            self.note_subscribed(slot, Some(topic));
        }
    }

    /// Tells a client that a request is refused, in the form of the request's family.
    pub(super) fn refuse(
        &mut self,
        slot: Slot,
        id: Option<&RequestId>,
        family: Family,
        refusal: &Refusal,
    ) {
        self.stats().refusals[refusal.code.index()].add(1);
        self.note_refused(slot, refusal.code);
        if let Some(socket) = self.conns[slot.index()].artemis() {
            return self.refuse_artemis(slot, socket, refusal);
        }
        let frame = match family {
            Family::Typed => answer::error(id, refusal),
            Family::Envelope => answer::envelope_error(id, refusal, TimeText::of(self.now.wall_ms)),
        };
        self.push_direct(slot, frame.into());
    }

    /// Adds a frame for this connection alone, unless the connection is to be closed.
    pub(super) fn push_direct(&mut self, slot: Slot, frame: Split) {
        let chunk = Chunk { head: frame.head, tail: frame.tail, frames: 1, source: Source::Direct };
        let conn = &mut self.conns[slot.index()];
        if conn.is_to_close {
            // Behind the message that had no room it would say that its reader has that message: the client
            // would come back for what is after it.
            return;
        }
        conn.outbox.push(Rc::new(chunk));
        let bytes = conn.outbox.bytes() as u64;
        self.stats().outbox_bytes_peak.raise(bytes);
        self.queue_urgent(slot);
    }

    pub(super) fn push_control(&mut self, slot: Slot, bytes: Bytes) {
        self.conns[slot.index()].outbox.push(Chunk::frame(bytes));
        self.queue_urgent(slot);
    }
}

fn refused_instance<Sent: serde::Serialize>(sent: &[Sent], entry: &RefusedEntry) -> Value {
    let (code, message) = match entry.code {
        Code::RateLimited => ("rate-limited", "the registry is full"),
        _ => ("internal-service-error", "not possible now"),
    };
    json!({"instance": sent[entry.index], "errorCode": code, "errorMessage": message})
}

fn batch_answer(
    batch: Batch,
    id: Option<&RequestId>,
    failed: &[Value],
    rejected: &[Rejected],
) -> Bytes {
    let (kind, list, entry) = match batch {
        Batch::Register => ("registered", "failed_instances", "instance"),
        Batch::Heartbeat => ("heartbeat_ack", "failed_instance_keys", "instanceKey"),
        Batch::Unregister => ("unregistered", "failed_instance_keys", "instanceKey"),
    };
    let mut all = failed.to_vec();
    all.extend(rejected.iter().map(
        |one| json!({entry: one.entry, "errorCode": "bad-request", "errorMessage": one.message}),
    ));
    answer::batch(kind, id, list, &all)
}
