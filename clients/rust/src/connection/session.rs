//! One connection, from `welcome` to its end.
//!
//! The session owns the socket and the requests under way. It brings the server's state in line
//! with the handles' wants, stores the server's messages, and gives up when the other side is
//! silent.
//!
//! ```text
//! handles --> State --> send_due --> socket
//! readers <-- State <-- take     <-- socket
//! ```
//!
//! Imports `shared`, `state`, `transport` and its siblings. Imported by `driver`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use fanfare_protocol::id::ServiceName;
use fanfare_protocol::refusal::Code;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::connection::http_tasks::{self, Done};
use crate::connection::rate_limit::RateLimit;
use crate::connection::request::{PendingRequest, next_request, object};
use crate::error::Error;
use crate::event::{DirectMessage, Envelope, EnvelopeEvent};
use crate::frame::{Frame, owned};
use crate::shared::{HandleRequest, Shared, Status};
use crate::state::State;
use crate::state::inbox::Pull;
use crate::transport::socket::{Incoming, Socket};
use crate::transport::token;

/// How long after a wake-up refused requests are repeated.
const RETRY: Duration = Duration::from_secs(1);

/// How long closing may take.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// Requests that wait for an answer at most.
const PENDING_MAX: usize = 1_024;

/// Why a session has ended.
pub(crate) struct End {
    pub(crate) error: Error,
    /// The moment until which a `reconnect` frame keeps the client away, in nanoseconds.
    pub(crate) away_until_ns: Option<u64>,
    /// How long it lasted.
    pub(crate) lasted: Duration,
}

/// One connection.
pub(crate) struct Session {
    shared: Arc<Shared>,
    socket: Socket,
    pending: HashMap<String, (PendingRequest, u64)>,
    /// Distinguishes our ids from those of other envelopes.
    prefix: String,
    next_id: u64,
    rate: RateLimit,
    http_tasks: JoinSet<Done>,
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
    pub(crate) fn new(shared: Arc<Shared>, socket: Socket) -> Session {
        let now = shared.clock.now();
        let token = shared.token();
        let rate = RateLimit::new(shared.settings.messages_per_s_max, now.ns);
        let mut session = Session {
            shared,
            socket,
            pending: HashMap::new(),
            prefix: uuid::Uuid::new_v4().simple().to_string(),
            next_id: 0,
            rate,
            http_tasks: JoinSet::new(),
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
    pub(crate) async fn run(mut self, requests: &mut mpsc::Receiver<HandleRequest>) -> End {
        let error = match self.welcome().await {
            Ok(()) => self.serve(requests).await,
            Err(error) => error,
        };
        let shared = Arc::clone(&self.shared);
        let now = shared.clock.now();
        shared.state.lock().disconnect();
        for (_, (asked, _)) in self.pending.drain() {
            if let PendingRequest::Reply { reply, .. } = asked {
                // The caller may have gone.
                let _ = reply.send(Err(Error::Disconnected));
            }
        }
        shared.changed.notify_waiters();
        let lasted = Duration::from_nanos(now.ns.saturating_sub(self.opened_ns));
        End { error, away_until_ns: self.away_until_ns, lasted }
    }

    /// Waits for the first frame, within the time for connecting.
    async fn welcome(&mut self) -> Result<(), Error> {
        let patience = self.shared.settings.connect_timeout;
        let welcome = async {
            loop {
                if let Incoming::Text(text) = self.socket.next().await? {
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

    async fn serve(&mut self, requests: &mut mpsc::Receiver<HandleRequest>) -> Error {
        let shared = Arc::clone(&self.shared);
        loop {
            self.send_due();
            shared.changed.notify_waiters();
            if self.is_leaving && self.is_goodbye_due() {
                return self.leave().await;
            }
            let may_ask =
                self.socket.has_room() && self.pending.len() < PENDING_MAX && self.rate.has_token();
            let rest = self.rest();
            tokio::select! {
                incoming = self.socket.next() => match incoming {
                    Ok(Incoming::Text(text)) => {
                        self.hear();
                        if let Ok(frame) = Frame::decode(text.as_str()) {
                            self.take(frame);
                        }
                    }
                    Ok(Incoming::Sign) => self.hear(),
                    Err(error) => return error,
                },
                Some(request) = requests.recv(), if may_ask => self.send_for_handle(request),
                () = shared.wake.notified() => {}
                Some(done) = self.http_tasks.join_next(), if !self.http_tasks.is_empty() => {
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

    /// Pings a silent server, and gives up if it stays silent.
    fn check_life(&mut self, now_ns: u64) -> Result<(), Error> {
        let silent = Duration::from_nanos(now_ns.saturating_sub(self.heard_ns));
        let settings = &self.shared.settings;
        if silent >= settings.keepalive + settings.connect_timeout {
            return Err(Error::Timeout);
        }
        if silent >= settings.keepalive && !self.is_pinged {
            self.is_pinged = true;
            self.socket.ping();
        }
        let patience = settings.request_timeout;
        let is_late =
            |asked_ns: u64| Duration::from_nanos(now_ns.saturating_sub(asked_ns)) >= patience;
        let late: Vec<String> = self
            .pending
            .iter()
            .filter(|(_, (_, asked_ns))| is_late(*asked_ns))
            .map(|(id, _)| id.clone())
            .collect();
        for id in late {
            self.refused(&id, &Error::Timeout);
        }
        Ok(())
    }

    /// How long nothing is due unless a message comes.
    fn rest(&self) -> Duration {
        let now_ns = self.shared.clock.now().ns;
        let settings = &self.shared.settings;
        let keepalive = u64::try_from(settings.keepalive.as_nanos()).unwrap_or(u64::MAX);
        let patience = u64::try_from(settings.connect_timeout.as_nanos()).unwrap_or(u64::MAX);
        let silence = if self.is_pinged { keepalive.saturating_add(patience) } else { keepalive };
        let request = u64::try_from(settings.request_timeout.as_nanos()).unwrap_or(u64::MAX);
        let oldest =
            self.pending.values().map(|(_, asked_ns)| asked_ns.saturating_add(request)).min();
        let mut due = self.heard_ns.saturating_add(silence).min(oldest.unwrap_or(u64::MAX));
        due = due.min(self.refresh_ns).min(self.retry_ns);
        if !self.socket.has_room() || self.pending.len() >= PENDING_MAX {
            // An answer or an end of the congestion wakes us.
            return Duration::from_nanos(due.saturating_sub(now_ns));
        }
        let (leases_ns, has_due) = {
            let state = self.shared.state.lock();
            (state.leases.due_ns(), state.has_due())
        };
        let rate_ns = self.rate.next_ns();
        if !self.rate.has_token() {
            due = due.min(rate_ns);
        } else if has_due {
            // It waits for an answer under way, and for a moment at most.
            due = due.min(now_ns + 50_000_000);
        }
        due = due.min(leases_ns.max(rate_ns));
        Duration::from_nanos(due.saturating_sub(now_ns))
    }

    /// Sends a request. Its answer comes to [`Session::answer`].
    fn send(&mut self, mut body: Map<String, Value>, id: Option<String>, asked: PendingRequest) {
        self.next_id += 1;
        let id = id.unwrap_or_else(|| format!("{}-{}", self.prefix, self.next_id));
        body.insert(String::from("id"), Value::from(id.as_str()));
        self.socket.push(Value::Object(body).to_string());
        self.rate.take();
        self.pending.insert(id, (asked, self.shared.clock.now().ns));
    }

    fn send_for_handle(&mut self, request: HandleRequest) {
        if request.reply.is_closed() {
            return;
        }
        let HandleRequest { body, id, silent, reply } = request;
        self.send(body, id, PendingRequest::Reply { reply, silent });
    }

    /// Sends the due requests, as far as there is room.
    fn send_due(&mut self) {
        let shared = Arc::clone(&self.shared);
        let now = shared.clock.now();
        self.rate.refill(now.ns);
        if now.ns >= self.refresh_ns {
            self.refresh_ns = u64::MAX;
            self.http_tasks.spawn(http_tasks::token(Arc::clone(&shared)));
        }
        let mut state = shared.state.lock();
        if state.is_stopping && !self.is_leaving {
            self.is_leaving = true;
        }
        if now.ns >= self.retry_ns {
            self.retry_ns = u64::MAX;
            state.retry();
        }
        while self.socket.has_room() && self.pending.len() < PENDING_MAX && self.rate.has_token() {
            let Some((body, asked)) = next_request(&mut state, self.is_leaving, now.ns) else {
                break;
            };
            self.send(body, None, asked);
        }
        if state.has_refused() && self.retry_ns == u64::MAX {
            let retry_ns = u64::try_from(RETRY.as_nanos()).unwrap_or(u64::MAX);
            self.retry_ns = now.ns + retry_ns;
        }
        if self.user_id.is_some() {
            for (key, inbox) in &mut state.inboxes {
                if inbox.pull == Pull::Due {
                    inbox.pull = Pull::Running { again: false };
                    let user_id = self.user_id.clone().unwrap_or_default();
                    self.http_tasks.spawn(http_tasks::pull(Arc::clone(&shared), *key, user_id));
                }
            }
        }
    }

    fn is_goodbye_due(&self) -> bool {
        !self.shared.state.lock().leases.is_leaving_any()
    }

    async fn leave(&mut self) -> Error {
        self.socket.close();
        let closed = async { while self.socket.next().await.is_ok() {} };
        // The server's answer makes no difference now.
        let _ = tokio::time::timeout(CLOSE_PATIENCE, closed).await;
        Error::Stopped
    }

    /// An HTTP task is over.
    fn done(&mut self, done: Done) {
        match done {
            Done::Token(Ok(token)) => {
                let body = object(json!({"type": "refresh", "token": &*token}));
                self.send(body, None, PendingRequest::Refresh(token));
            }
            // There is time for another attempt, or the server will close with 4401.
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

    /// Handles a frame.
    fn take(&mut self, frame: Frame) {
        let id = frame.id.as_ref().and_then(Value::as_str);
        let asked = id.filter(|id| self.pending.contains_key(*id)).map(str::to_owned);
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
        let Some((asked, _)) = self.pending.remove(id) else { return };
        let now_ns = self.shared.clock.now().ns;
        let mut state = self.shared.state.lock();
        match asked {
            PendingRequest::Service(service) => state.services.refused(Some(&service), error),
            PendingRequest::AllServices => state.services.refused(None, error),
            PendingRequest::Channel(channel) => state.channels.refused(&channel, error),
            PendingRequest::Room(room) => _ = state.rooms.subscriptions.refused(&*room, error),
            PendingRequest::Register(of) => state.leases.not_registered(&of, error, now_ns),
            PendingRequest::Heartbeat(of) => state.leases.not_renewed(&of, now_ns),
            PendingRequest::Unregister(of) => state.leases.unregistered(&of),
            PendingRequest::Reply { reply, .. } => _ = reply.send(Err(error.clone())),
            PendingRequest::Refresh(_) => self.refresh_ns = now_ns + RETRY_NS,
            PendingRequest::Nothing => {}
        }
    }

    /// The answer to a request.
    fn answer(&mut self, id: &str, frame: Frame) {
        let Some((asked, _)) = self.pending.remove(id) else { return };
        let now_ns = self.shared.clock.now().ns;
        let shared = Arc::clone(&self.shared);
        let mut state = shared.state.lock();
        match asked {
            PendingRequest::Service(service) => state.services.subscribed(&service, frame),
            PendingRequest::AllServices => {
                self.http_tasks.spawn(http_tasks::list(Arc::clone(&shared)));
            }
            PendingRequest::Channel(channel) => state.channels.subscribed(&channel, &frame),
            PendingRequest::Room(room) => state.rooms.joined(&room, frame),
            PendingRequest::Register(of) => {
                state.leases.registered(&of, &frame.failed_instances.unwrap_or_default(), now_ns);
            }
            PendingRequest::Heartbeat(of) => {
                state.leases.renewed(&of, &frame.failed_instance_keys.unwrap_or_default(), now_ns);
            }
            PendingRequest::Unregister(of) => state.leases.unregistered(&of),
            PendingRequest::Reply { reply, silent } => {
                if let (Some(channel), Some(offset)) = (&silent, frame.offset) {
                    state.channels.published_silently(channel, offset);
                }
                if frame.kind.as_deref() == Some("chat") {
                    // It is the message itself, and has its position among the others.
                    let copy = Frame { message_id: frame.message_id.clone(), ..Frame::default() };
                    deliver(&mut state, frame);
                    let _ = reply.send(Ok(copy));
                } else {
                    let _ = reply.send(Ok(frame));
                }
            }
            PendingRequest::Refresh(token) => {
                drop(state);
                self.plan_refresh(Some(&token));
                *shared.token.lock() = Some(token);
            }
            PendingRequest::Nothing => {}
        }
    }

    /// A frame without a request.
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
            // A new token does not allow it any more, or an operator ended it: it counts as
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
            // With an id it is a late answer.
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
