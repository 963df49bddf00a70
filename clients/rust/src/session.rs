//! One connection, from `welcome` to its end.
//!
//! The session owns the socket and the requests under way. It brings what the server knows of us in
//! line with what the handles want, takes in what the server says, and gives up when the other side
//! shows no sign of life.
//!
//! ```text
//! handles --> State --> settle --> socket
//! readers <-- State <-- take   <-- socket
//! ```
//!
//! Imports `clock`, `id` and its siblings. Imported by `client::driver`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::beside::{self, Done};
use crate::error::Error;
use crate::frame::{Frame, owned};
use crate::inbox::{DirectMessage, Pull};
use crate::lease::ns;
use crate::link::{Incoming, Link};
use crate::pace::Pace;
use crate::request::{Asked, next_wish, object};
use crate::shared::{Order, Shared, State, Status};
use crate::talk::{Envelope, EnvelopeEvent};
use crate::token;
use fanfare_protocol::id::ServiceName;
use fanfare_protocol::refusal::Code;

/// How long after the wake-up things are looked at again that were refused for now.
const RETRY: Duration = Duration::from_secs(1);

/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// Requests that wait for an answer at most.
const PENDING_MAX: usize = 1_024;

/// Why a session has ended.
pub(crate) struct End {
    pub(crate) error: Error,
    /// The moment until which a `reconnect` frame told us to stay away, in nanoseconds.
    pub(crate) away_until_ns: Option<u64>,
    /// How long it lasted.
    pub(crate) lasted: Duration,
}

/// One connection.
pub(crate) struct Session {
    shared: Arc<Shared>,
    link: Link,
    asked: HashMap<String, (Asked, u64)>,
    /// Tells our ids from those that others give their envelopes.
    prefix: String,
    next_id: u64,
    pace: Pace,
    beside: JoinSet<Done>,
    user_id: Option<String>,
    opened_ns: u64,
    heard_ns: u64,
    is_pinged: bool,
    retry_ns: u64,
    refresh_ns: u64,
    away_until_ns: Option<u64>,
    is_leaving: bool,
}

impl Session {
    pub(crate) fn new(shared: Arc<Shared>, link: Link) -> Session {
        let now = shared.clock.now();
        let token = shared.token();
        let pace = Pace::new(shared.settings.messages_per_s_max, now.ns);
        let mut session = Session {
            shared,
            link,
            asked: HashMap::new(),
            prefix: uuid::Uuid::new_v4().simple().to_string(),
            next_id: 0,
            pace,
            beside: JoinSet::new(),
            user_id: None,
            opened_ns: now.ns,
            heard_ns: now.ns,
            is_pinged: false,
            retry_ns: u64::MAX,
            refresh_ns: u64::MAX,
            away_until_ns: None,
            is_leaving: false,
        };
        session.plan_refresh(token.as_deref());
        session
    }

    /// Runs the connection to its end.
    pub(crate) async fn run(mut self, orders: &mut mpsc::Receiver<Order>) -> End {
        let error = match self.welcome().await {
            Ok(()) => self.serve(orders).await,
            Err(error) => error,
        };
        let shared = Arc::clone(&self.shared);
        let now = shared.clock.now();
        {
            let mut state = shared.state.lock();
            state.services.disconnect();
            state.channels.disconnect();
            state.rooms.disconnect();
            state.leases.disconnect();
            state.inboxes.values_mut().for_each(super::inbox::Inbox::disconnect);
        }
        for (_, (asked, _)) in self.asked.drain() {
            if let Asked::Reply { reply, .. } = asked {
                // Who asked may have gone.
                let _ = reply.send(Err(Error::Disconnected));
            }
        }
        shared.changed.notify_waiters();
        let lasted = ns(now.ns.saturating_sub(self.opened_ns));
        End { error, away_until_ns: self.away_until_ns, lasted }
    }

    /// Waits for the first frame, within the time for connecting.
    async fn welcome(&mut self) -> Result<(), Error> {
        let patience = self.shared.settings.connect_timeout;
        let welcome = async {
            loop {
                if let Incoming::Text(text) = self.link.next().await? {
                    return Frame::decode(text.as_str());
                }
            }
        };
        let frame = tokio::time::timeout(patience, welcome).await.map_err(|_| Error::Timeout)??;
        if frame.kind.as_deref() != Some("welcome") {
            return Err(Error::Protocol(String::from("the first frame is no welcome")));
        }
        self.hear();
        self.user_id = frame.user_id.as_deref().map(str::to_owned);
        self.shared.status.send_replace(Status::Connected {
            url: self.shared.address().socket_url(),
            connection_id: owned(frame.connection_id.as_deref()),
            node_id: owned(frame.node_id.as_deref()),
            user_id: self.user_id.clone(),
        });
        Ok(())
    }

    async fn serve(&mut self, orders: &mut mpsc::Receiver<Order>) -> Error {
        let shared = Arc::clone(&self.shared);
        loop {
            self.settle();
            shared.changed.notify_waiters();
            if self.is_leaving && self.is_goodbye_due() {
                return self.leave().await;
            }
            let may_ask =
                self.link.has_room() && self.asked.len() < PENDING_MAX && self.pace.has_token();
            let rest = self.rest();
            tokio::select! {
                incoming = self.link.next() => match incoming {
                    Ok(Incoming::Text(text)) => {
                        self.hear();
                        if let Ok(frame) = Frame::decode(text.as_str()) {
                            self.take(frame);
                        }
                    }
                    Ok(Incoming::Sign) => self.hear(),
                    Err(error) => return error,
                },
                Some(order) = orders.recv(), if may_ask => self.order(order),
                () = shared.wake.notified() => {}
                Some(done) = self.beside.join_next(), if !self.beside.is_empty() => {
                    if let Ok(done) = done {
                        self.done(done);
                    }
                }
                () = tokio::time::sleep(rest) => {}
            }
            let now_ns = shared.clock.now().ns;
            if let Err(error) = self.check_life(now_ns) {
                return error;
            }
        }
    }

    fn hear(&mut self) {
        let now = self.shared.clock.now();
        self.heard_ns = now.ns;
        self.is_pinged = false;
        self.shared.state.lock().services.heard_unix_ms = now.unix_ms;
    }

    /// A side that says nothing is asked for a sign, and given up when there is none.
    fn check_life(&mut self, now_ns: u64) -> Result<(), Error> {
        let silent = ns(now_ns.saturating_sub(self.heard_ns));
        let settings = &self.shared.settings;
        if silent >= settings.keepalive + settings.connect_timeout {
            return Err(Error::Timeout);
        }
        if silent >= settings.keepalive && !self.is_pinged {
            self.is_pinged = true;
            self.link.ping();
        }
        let patience = settings.request_timeout;
        let is_late = |asked_ns: u64| ns(now_ns.saturating_sub(asked_ns)) >= patience;
        let late: Vec<String> = self
            .asked
            .iter()
            .filter(|(_, (_, asked_ns))| is_late(*asked_ns))
            .map(|(id, _)| id.clone())
            .collect();
        for id in late {
            self.refused(&id, &Error::Timeout);
        }
        Ok(())
    }

    /// How long nothing has to be done unless something comes.
    fn rest(&self) -> Duration {
        let now_ns = self.shared.clock.now().ns;
        let settings = &self.shared.settings;
        let keepalive = u64::try_from(settings.keepalive.as_nanos()).unwrap_or(u64::MAX);
        let patience = u64::try_from(settings.connect_timeout.as_nanos()).unwrap_or(u64::MAX);
        let silence = if self.is_pinged { keepalive.saturating_add(patience) } else { keepalive };
        let request = u64::try_from(settings.request_timeout.as_nanos()).unwrap_or(u64::MAX);
        let oldest =
            self.asked.values().map(|(_, asked_ns)| asked_ns.saturating_add(request)).min();
        let mut due = self.heard_ns.saturating_add(silence).min(oldest.unwrap_or(u64::MAX));
        due = due.min(self.refresh_ns).min(self.retry_ns);
        if !self.link.has_room() || self.asked.len() >= PENDING_MAX {
            // An answer or an end of the congestion wakes us.
            return ns(due.saturating_sub(now_ns));
        }
        let (leases_ns, has_todo) = {
            let state = self.shared.state.lock();
            let has_todo =
                state.services.has_todo() || state.channels.has_todo() || state.rooms.has_todo();
            (state.leases.due_ns(), has_todo)
        };
        let pace_ns = self.pace.next_ns();
        if !self.pace.has_token() {
            due = due.min(pace_ns);
        } else if has_todo {
            // It waits for an answer that is under way, and for a moment at most.
            due = due.min(now_ns + 50_000_000);
        }
        due = due.min(leases_ns.max(pace_ns));
        ns(due.saturating_sub(now_ns))
    }

    /// Sends a request. Its answer comes to [`Session::answer`].
    fn send(&mut self, mut body: Map<String, Value>, id: Option<String>, asked: Asked) {
        self.next_id += 1;
        let id = id.unwrap_or_else(|| format!("{}-{}", self.prefix, self.next_id));
        body.insert(String::from("id"), Value::from(id.as_str()));
        self.link.push(Value::Object(body).to_string());
        self.pace.take();
        self.asked.insert(id, (asked, self.shared.clock.now().ns));
    }

    fn order(&mut self, order: Order) {
        if order.reply.is_closed() {
            return;
        }
        let Order { body, id, silent, reply } = order;
        self.send(body, id, Asked::Reply { reply, silent });
    }

    /// Brings the server in line with what is wanted, as far as there is room.
    fn settle(&mut self) {
        let shared = Arc::clone(&self.shared);
        let now = shared.clock.now();
        self.pace.refill(now.ns);
        if now.ns >= self.refresh_ns {
            self.refresh_ns = u64::MAX;
            self.beside.spawn(beside::token(Arc::clone(&shared)));
        }
        let mut state = shared.state.lock();
        if state.is_stopping && !self.is_leaving {
            self.is_leaving = true;
        }
        if now.ns >= self.retry_ns {
            self.retry_ns = u64::MAX;
            state.services.retry();
            state.channels.retry();
            state.rooms.retry();
        }
        while self.link.has_room() && self.asked.len() < PENDING_MAX && self.pace.has_token() {
            let Some((body, asked)) = next_wish(&mut state, self.is_leaving, now.ns) else { break };
            self.send(body, None, asked);
        }
        let has_later =
            state.services.has_later() || state.channels.has_later() || state.rooms.has_later();
        if has_later && self.retry_ns == u64::MAX {
            let retry_ns = u64::try_from(RETRY.as_nanos()).unwrap_or(u64::MAX);
            self.retry_ns = now.ns + retry_ns;
        }
        if self.user_id.is_some() {
            for (key, inbox) in &mut state.inboxes {
                if inbox.pull == Pull::Due {
                    inbox.pull = Pull::Running { again: false };
                    let user_id = self.user_id.clone().unwrap_or_default();
                    self.beside.spawn(beside::pull(Arc::clone(&shared), *key, user_id));
                }
            }
        }
    }

    fn is_goodbye_due(&self) -> bool {
        !self.shared.state.lock().leases.is_leaving_any()
    }

    async fn leave(&mut self) -> Error {
        self.link.say_goodbye();
        let goodbye = async { while self.link.next().await.is_ok() {} };
        // Whether the server says goodbye too makes no difference now.
        let _ = tokio::time::timeout(GOODBYE, goodbye).await;
        Error::Stopped
    }

    /// Something that was done beside the connection is over.
    fn done(&mut self, done: Done) {
        match done {
            Done::Token(Ok(token)) => {
                let body = object(json!({"type": "refresh", "token": &*token}));
                self.send(body, None, Asked::Refresh(token));
            }
            // There is time for another try, or the server will close with 4401.
            Done::Token(Err(_)) => self.refresh_ns = self.shared.clock.now().ns + RETRY_NS,
            Done::Listed(Ok(listing)) => self.shared.state.lock().services.list(listing),
            Done::Listed(Err(error)) => self.shared.state.lock().services.refused(None, &error),
            Done::Pulled(key, Err(_)) => {
                if let Some(inbox) = self.shared.state.lock().inboxes.get_mut(&key) {
                    inbox.disconnect();
                }
            }
            Done::Pulled(_, Ok(())) => {}
        }
    }

    fn plan_refresh(&mut self, token: Option<&str>) {
        let now = self.shared.clock.now();
        let in_ms = token.and_then(|token| token::refresh_in_ms(token, now.wall_ms));
        self.refresh_ns = match in_ms {
            Some(in_ms) if self.shared.settings.token.is_renewable() => {
                now.ns.saturating_add(in_ms.max(200).saturating_mul(1_000_000))
            }
            _ => u64::MAX,
        };
    }

    /// Takes a frame in.
    fn take(&mut self, frame: Frame) {
        let id = frame.id.as_ref().and_then(Value::as_str);
        let asked = id.filter(|id| self.asked.contains_key(*id)).map(str::to_owned);
        let is_error = frame.kind.as_deref() == Some("error")
            || frame.message_type.as_deref() == Some("error");
        match asked {
            Some(id) if is_error => self.refused(&id, &frame.refusal()),
            Some(id) => self.answer(&id, frame),
            None => self.pushed(frame),
        }
    }

    /// A request was refused, or not answered in time.
    fn refused(&mut self, id: &str, error: &Error) {
        let Some((asked, _)) = self.asked.remove(id) else { return };
        let now_ns = self.shared.clock.now().ns;
        let mut state = self.shared.state.lock();
        match asked {
            Asked::Service(service) => state.services.refused(Some(&service), error),
            Asked::AllServices => state.services.refused(None, error),
            Asked::Channel(channel) => state.channels.refused(&channel, error),
            Asked::Room(room) => state.rooms.refused(&room, error),
            Asked::Register(of) => state.leases.not_registered(&of, error, now_ns),
            Asked::Heartbeat(of) => state.leases.not_renewed(&of, now_ns),
            Asked::Unregister(of) => state.leases.unregistered(&of),
            Asked::Reply { reply, .. } => _ = reply.send(Err(error.clone())),
            Asked::Refresh(_) => self.refresh_ns = now_ns + RETRY_NS,
            Asked::Nothing => {}
        }
    }

    /// The answer to a request.
    fn answer(&mut self, id: &str, frame: Frame) {
        let Some((asked, _)) = self.asked.remove(id) else { return };
        let now_ns = self.shared.clock.now().ns;
        let shared = Arc::clone(&self.shared);
        let mut state = shared.state.lock();
        match asked {
            Asked::Service(service) => state.services.subscribed(&service, frame),
            Asked::AllServices => _ = self.beside.spawn(beside::list(Arc::clone(&shared))),
            Asked::Channel(channel) => state.channels.subscribed(&channel, &frame),
            Asked::Room(room) => state.rooms.joined(&room, frame),
            Asked::Register(of) => {
                state.leases.registered(&of, &frame.failed_instances.unwrap_or_default(), now_ns);
            }
            Asked::Heartbeat(of) => {
                state.leases.renewed(&of, &frame.failed_instance_keys.unwrap_or_default(), now_ns);
            }
            Asked::Unregister(of) => state.leases.unregistered(&of),
            Asked::Reply { reply, silent } => {
                if let (Some(channel), Some(offset)) = (&silent, frame.offset) {
                    state.channels.published_silently(channel, offset);
                }
                if frame.kind.as_deref() == Some("chat") {
                    // It is the message itself, and has its place among the others.
                    let copy = Frame { message_id: frame.message_id.clone(), ..Frame::default() };
                    deliver(&mut state, frame);
                    let _ = reply.send(Ok(copy));
                } else {
                    let _ = reply.send(Ok(frame));
                }
            }
            Asked::Refresh(token) => {
                drop(state);
                self.plan_refresh(Some(&token));
                *shared.token.lock() = Some(token);
            }
            Asked::Nothing => {}
        }
    }

    /// Something that nobody asked for.
    fn pushed(&mut self, frame: Frame) {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.state.lock();
        match frame.kind.as_deref() {
            Some("service_change") => {
                if let Some(service) = frame.service_id.as_deref().map(ServiceName::of) {
                    state.services.change(service, frame);
                }
            }
            Some("service_snapshot") => {
                if let Some(service) = frame.service_id.as_deref().map(ServiceName::of) {
                    state.services.replace(&service, frame);
                }
            }
            // A new token does not allow it any more, or an operator ended it: as if it had been
            // refused.
            Some("unsubscribed")
                if matches!(frame.reason.as_deref(), Some("forbidden" | "operator")) =>
            {
                let message = match frame.reason.as_deref() {
                    Some("operator") => "an operator ended the subscription",
                    _ => "the new token does not allow this",
                };
                let error = Error::Refused {
                    code: Some(Code::Forbidden),
                    message: String::from(message),
                    is_temporary: false,
                };
                match (frame.channel.as_deref(), frame.service_id.as_deref()) {
                    (Some(channel), _) => state.channels.refused(channel, &error),
                    (None, Some("*")) => state.services.withdrawn(None, &error),
                    (None, Some(service)) => {
                        state.services.withdrawn(Some(&ServiceName::of(service)), &error);
                    }
                    (None, None) => {}
                }
            }
            Some("unsubscribed") if frame.reason.as_deref() == Some("deleted") => {
                state.channels.deleted(frame.channel.as_deref().unwrap_or_default());
            }
            Some("reconnect") => {
                let after_ns = frame.after_ms.unwrap_or_default().saturating_mul(1_000_000);
                self.away_until_ns = Some(shared.clock.now().ns.saturating_add(after_ns));
            }
            Some("private" | "group") => take_direct(&mut state, &frame),
            // With an id it is an answer that comes too late.
            Some("subscribed") if frame.id.is_none() && frame.recovered == Some(false) => {
                let channel = frame.channel.as_deref().unwrap_or_default();
                state.channels.moved(channel, &frame);
            }
            Some("subscribed") if frame.id.is_none() && frame.recovered.is_none() => {
                state.channels.restored(frame.channel.as_deref().unwrap_or_default());
            }
            Some("text" | "json" | "event" | "system" | "chat") if frame.channel.is_some() => {
                deliver(&mut state, frame);
            }
            None if frame.message_type.is_some() => take_envelope(&mut state, frame),
            _ => {}
        }
    }
}

const RETRY_NS: u64 = 1_000_000_000;

fn deliver(state: &mut State, frame: Frame) {
    let channel = frame.channel.clone().unwrap_or_default();
    if frame.event.is_some() && frame.offset.is_none() {
        state.rooms.event(&channel, &frame);
    }
    state.channels.message(&channel, frame);
}

fn take_direct(state: &mut State, frame: &Frame) {
    let message = DirectMessage {
        id: frame.id.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned(),
        from_user_id: owned(frame.from_user_id.as_deref()),
        to_user_id: frame.to_user_id.as_deref().map(str::to_owned),
        group_id: frame.group_id.as_deref().map(str::to_owned),
        content: owned(frame.content.as_deref()),
        created_at: frame.created_at.unwrap_or_default(),
    };
    for inbox in state.inboxes.values_mut() {
        inbox.push(message.clone());
    }
}

fn take_envelope(state: &mut State, frame: Frame) {
    let id = match frame.id {
        Some(Value::String(id)) => id,
        Some(id) => id.to_string(),
        None => String::new(),
    };
    let envelope = Envelope {
        id,
        message_type: frame.message_type.unwrap_or_default().into(),
        data: frame.data.unwrap_or_default(),
        from_user_id: frame.from_user_id.map(Into::into),
        to_user_id: frame.to_user_id.map(Into::into),
        timestamp: frame.timestamp.map(Into::into).unwrap_or_default(),
    };
    for feed in state.envelopes.values_mut() {
        let event = EnvelopeEvent::Message(Box::new(envelope.clone()));
        if feed.missed > 0 || feed.queue.push(event).is_err() {
            feed.missed += 1;
        }
    }
}
