//! From an accepted socket to a WebSocket, or to hyper.
//!
//! The shard reads the first request head, with its own buffer and deadline. A good upgrade becomes
//! a connection at once: the 101 and the `welcome` leave in one write, without any HTTP machinery.
//! Every other head goes to hyper with the bytes already read.
//!
//! Part of `shard`.

use bytes::Bytes;
use hyper::StatusCode;

use super::conn::{Proxied, SignedIn, Stage};
use super::outbox::{Chunk, Source};
use super::socket::Socket;
use super::{Shard, Slot};
use crate::address::ClientAddress;
use crate::id::{ConnId, ConnName, Topic};
use crate::limits;
use crate::mailbox::to_control::{ControlMessage, Task};
use crate::state::people::{Opened, Person};
use crate::wire::answer::{self, Welcome};
use crate::wire::close::Reason;
use crate::wire::command::Request;
use crate::wire::problem::{self, ProblemDocument};
use crate::wire::refusal::Code;
use crate::ws::authorizer::{self, Endpoint, HandshakeRequest, Upgrade};
use crate::ws::head::{self, Head, HeadFault, HeadLimits};
use crate::ws::path_token;
use crate::ws::user_connections::Acquired;

impl<S: Socket> Shard<S> {
    /// Adds bytes to the head of a connection, and acts when it is complete.
    pub(super) fn on_head_bytes(&mut self, slot: Slot, bytes: &[u8]) {
        let conn = &mut self.conns[slot.index()];
        let held = &mut conn.rare_or_new().held;
        held.extend_from_slice(bytes);
        let limits = HeadLimits {
            bytes_max: self.settings.limits.request_head_bytes_max,
            headers_max: self.settings.limits.request_headers_max,
        };
        match head::parse(held, limits) {
            Ok(None) => {}
            Ok(Some(head)) => self.on_head(slot, &head),
            Err(HeadFault::TooLarge) => {
                self.note_head_refused(slot, 431, "the request head is too large");
                let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
                self.refuse_head(slot, status, Code::TooLarge);
            }
            Err(HeadFault::Bad(what)) => {
                self.note_head_refused(slot, 400, what);
                self.refuse_head(slot, StatusCode::BAD_REQUEST, Code::Malformed);
            }
        }
    }

    fn on_head(&mut self, slot: Slot, head: &Head) {
        let authorizer = std::sync::Arc::clone(&self.settings.authorizer);
        let path = authorizer.base_path.below(head.uri.path());
        let (path_token, path) = path.map(path_token::split).unzip();
        let path_token = path_token.flatten();
        let handshake = HandshakeRequest {
            method: &head.method,
            uri: &head.uri,
            path: path.unwrap_or_default(),
            path_token,
            is_http_11: head.is_http_11,
            headers: &head.headers,
            body: head.body,
            peer: self.conns[slot.index()].socket.peer(),
            local: self.conns[slot.index()].socket.local(),
        };
        let upgrade = path
            .and_then(|path| authorizer.endpoint(path))
            .filter(|_| !self.is_draining())
            .and_then(|endpoint| authorizer.authorize(endpoint, handshake, self.now.unix_s()).ok());
        let held = self.conns[slot.index()].take_held();
        let Some(upgrade) = upgrade else {
            // hyper answers, also if the upgrade is refused: it has a response for every status.
            let conn = self.remove(slot);
            self.handed_over.push((conn.socket, Bytes::from(held)));
            return;
        };
        let answer = authorizer::switching_protocols(&upgrade);
        self.head_count -= 1;
        self.open(slot, upgrade, Some(answer));
        self.note_upgrade(slot, &path_token::without_token(head.uri.path()));
        if held.len() > head.bytes {
            // Frames may follow right behind the request.
            self.feed(slot, &held[head.bytes..]);
        }
    }

    /// Takes a connection whose upgrade hyper has answered, with the bytes that followed.
    pub fn adopt(
        &mut self,
        now: crate::clock::Moment,
        upgrade: Upgrade,
        early: &[u8],
        socket: impl FnOnce(Slot, u32) -> S,
    ) {
        self.now = now;
        let slot = self.insert(socket);
        self.open(slot, upgrade, None);
        let generation = self.conns[slot.index()].id.generation;
        self.feed(slot, early);
        self.unread.push_back((slot, generation));
    }

    fn open(&mut self, slot: Slot, upgrade: Upgrade, answer: Option<Vec<u8>>) {
        self.count_in(upgrade.endpoint);
        self.stats().connections_opened.add(1);
        let interval_ms = self.settings.limits.ping_interval_ms;
        // Pings are spread: the first comes at a random moment of the first interval's second half.
        let first_ms = interval_ms / 2 + self.rng.below(interval_ms / 2 + 1);
        let now_ms = self.now.unix_ms;
        let conn = &mut self.conns[slot.index()];
        conn.stage = Stage::Open(upgrade.endpoint);
        let (mut is_refused, mut asked) = (false, Vec::new());
        // A fleet of Artemis' clients may share one token: they are counted by their addresses.
        let is_counted = !matches!(upgrade.endpoint, Endpoint::Artemis(_));
        if let Some(identity) = upgrade.identity {
            let limits = &self.settings.limits;
            let user_connections = &self.settings.authorizer.user_connections;
            let connections_max = limits.connections_per_user_max;
            let taken = is_counted.then(|| {
                user_connections.take(&identity.user_id, conn.id, connections_max, now_ms)
            });
            let permit = match taken {
                Some(Acquired::Granted(permit)) => Some(permit),
                Some(Acquired::OverLimit(permit, silent)) => {
                    conn.rare_or_new().ends_ms =
                        now_ms + limits.pong_timeout_ms + limits::USER_PROBE_GRACE_MS;
                    asked = silent;
                    Some(permit)
                }
                Some(Acquired::Full) | None => None,
            };
            is_refused = is_counted && permit.is_none();
            conn.signed_in = Some(Box::new(SignedIn { identity, permit }));
        }
        // Without a proxy the socket gives the client's address.
        let client = upgrade.client;
        let proxied = upgrade.address_permit.map(|permit| Proxied { client, _permit: permit });
        conn.proxied = proxied.map(Box::new);
        conn.next_ping_ms = now_ms + first_ms;
        let mut first = answer.unwrap_or_default();
        let frames = if upgrade.endpoint == Endpoint::Main {
            first.extend_from_slice(&answer::welcome(Welcome {
                connection_id: &ConnName::new(&self.settings.node_id, conn.id).to_string(),
                node_id: &self.settings.node_id,
                user_id: conn.identity().map(|identity| identity.user_id.as_str()),
                ping_interval_ms: interval_ms,
            }));
            1
        } else {
            0
        };
        if !first.is_empty() {
            conn.outbox.push(std::rc::Rc::new(Chunk {
                head: Bytes::from(first),
                tail: Bytes::new(),
                frames,
                source: Source::Direct,
            }));
            self.queue_urgent(slot);
        }
        if upgrade.endpoint != Endpoint::Main && self.conns[slot.index()].signed_in.is_some() {
            self.unannounced_users.insert(slot);
        }
        self.arm(slot);
        self.note_open(slot, upgrade.endpoint);
        if !asked.is_empty() {
            let message = ControlMessage { accepted_ns: self.now.ns, task: Task::Probe(asked) };
            // If control's mailbox is full, no connection is probed and the newest one is closed in
            // the end.
            self.send_control(message);
        }
        if is_refused {
            self.close(slot, Reason::TooManyConnections);
        } else if !self.check_token(slot) {
            // Revoked since the handshake was authorized.
        } else if let Endpoint::Artemis(socket) = upgrade.endpoint {
            self.open_artemis(slot, socket);
        } else if upgrade.endpoint == Endpoint::Main {
            self.announce(slot, upgrade.client);
            if let Some(channel) = upgrade.channel {
                self.on_request(slot, None, Request::SubscribeChannel { channel, since: None });
            }
        }
    }

    /// Tells control of a new connection.
    fn announce(&mut self, slot: Slot, remote: Option<ClientAddress>) {
        let conn = &mut self.conns[slot.index()];
        conn.is_announced = true;
        let person = conn.identity().map(Person::of);
        let opened = Opened { conn: conn.id, person, remote };
        self.notify(opened);
    }

    /// Control knows the connection: from here on it gets messages for everyone, and for its user.
    pub(super) fn enter(&mut self, conn: ConnId) {
        let Some(found) = self.find(conn.slot, conn.generation) else { return };
        if !found.is_open() || !self.check_token(conn.slot) {
            return;
        }
        let mut topics = vec![Topic::Everyone];
        if let Some(identity) = self.conns[conn.slot.index()].identity() {
            topics.extend([Topic::Users, Topic::User(identity.user_id.clone())]);
        }
        for topic in topics {
            // The frames of the run came before it.
            self.hand_out_run_of(&topic);
            if let Some(id) = self.topics.subscribe(&topic, conn.slot) {
                let conn = &mut self.conns[conn.slot.index()];
                conn.topics.push(id);
                conn.implicit += 1;
            }
        }
    }

    /// Answers a head that cannot be used, and closes.
    fn refuse_head(&mut self, slot: Slot, status: StatusCode, code: Code) {
        self.settings.stats.http.request();
        self.settings.stats.http.refuse(code);
        let request_id = self.conns[slot.index()].id.to_string();
        let detail = "the request head cannot be used";
        let document = ProblemDocument::new(status, code, detail, &request_id);
        self.head_count -= 1;
        self.say_last(slot, response(status, "", document));
    }

    /// Refuses a connection when there is no room for one more.
    pub fn refuse_surplus(
        &mut self,
        now: crate::clock::Moment,
        socket: impl FnOnce(Slot, u32) -> S,
    ) {
        self.now = now;
        let slot = self.insert(socket);
        self.say_last(slot, surplus_answer());
    }

    fn say_last(&mut self, slot: Slot, text: String) {
        let conn = &mut self.conns[slot.index()];
        conn.take_held();
        conn.outbox.push(std::rc::Rc::new(Chunk {
            head: Bytes::from(text),
            tail: Bytes::new(),
            frames: 0,
            source: Source::Direct,
        }));
        self.end(slot);
        self.queue_urgent(slot);
    }
}

fn response(status: StatusCode, headers: &str, document: ProblemDocument<'_>) -> String {
    let (body, number, title) = (document.to_json(), status.as_u16(), problem::title(status));
    format!(
        "HTTP/1.1 {number} {title}\r\nContent-Type: {}\r\n\
         Content-Length: {}\r\n{headers}Connection: close\r\n\r\n{body}",
        problem::MEDIA_TYPE,
        body.len()
    )
}

/// The answer to a connection above the server's limit.
pub fn surplus_answer() -> String {
    let (status, detail) = (StatusCode::SERVICE_UNAVAILABLE, "too many connections");
    let document = ProblemDocument::new(status, Code::Unavailable, detail, "-");
    response(status, "Retry-After: 5\r\n", document)
}
