//! Log lines of sockets, under the target `fanfare::ws`.
//!
//! At `debug` a line for each step of a socket's life; at `info` the closes that an operator looks
//! for: a slow reader, a client that sends too much or has too many connections, an operator's
//! disconnect. A disabled line costs one load of a number that never changes.
//!
//! Part of `shard`.

use super::conn::Conn;
use super::socket::Socket;
use super::{Shard, Slot};
use crate::address::ClientAddress;
use crate::auth::Identity;
use crate::id::{ConnName, Topic};
use crate::wire::close::Reason;
use crate::wire::instance::Registration;
use crate::wire::refusal::Code;
use crate::ws::authorizer::Endpoint;

/// The close code of a connection that ended without a close frame (RFC 6455, 7.1.5).
const NO_CLOSE_FRAME: u16 = 1006;

/// The log's code for a client's close frame without a code (RFC 6455, 7.1.5).
const NO_CODE: u16 = 1005;

fn user<S>(conn: &Conn<S>) -> Option<&str> {
    conn.identity().map(|Identity { user_id, .. }| user_id.as_str())
}

impl<S: Socket> Shard<S> {
    fn name_of(&self, slot: Slot) -> String {
        ConnName::new(&self.settings.node_id, self.conns[slot.index()].id).to_string()
    }

    /// A client's address: the one behind a trusted proxy, if there is one.
    pub(super) fn address_of(&self, slot: Slot) -> Option<ClientAddress> {
        let conn = &self.conns[slot.index()];
        match conn.proxied.as_ref().and_then(|proxied| proxied.client) {
            Some(client) => Some(client),
            None => conn.socket.peer().map(ClientAddress::from),
        }
    }

    fn client_of(&self, slot: Slot) -> Option<String> {
        self.address_of(slot).map(|client| client.to_string())
    }

    pub(super) fn note_open(&self, slot: Slot, endpoint: Endpoint) {
        tracing::debug!(
            target: "fanfare::ws",
            connection = self.name_of(slot),
            user = user(&self.conns[slot.index()]),
            client = self.client_of(slot),
            endpoint = ?endpoint,
            "client connected"
        );
    }

    /// The server closes a connection.
    pub(super) fn note_close(&self, slot: Slot, reason: Reason) {
        macro_rules! say {
            ($level:expr) => {
                tracing::event!(
                    target: "fanfare::ws",
                    $level,
                    connection = self.name_of(slot),
                    user = user(&self.conns[slot.index()]),
                    client = self.client_of(slot),
                    code = reason.code(),
                    reason = reason.text(),
                    unsent_bytes = self.conns[slot.index()].outbox.bytes(),
                    open_s = self.open_s(slot),
                    "client disconnected"
                )
            };
        }
        match reason {
            Reason::SlowReader
            | Reason::Removed
            | Reason::RateLimit
            | Reason::TooManyConnections
            | Reason::Internal => say!(tracing::Level::INFO),
            _ => say!(tracing::Level::DEBUG),
        }
    }

    /// The client has closed its connection, with the code of its close frame.
    pub(super) fn note_close_by_client(&self, slot: Slot, code: Option<u16>) {
        self.note_end(slot, code.unwrap_or(NO_CODE), "the client closed");
    }

    /// The connection has ended.
    pub(super) fn note_loss(&self, slot: Slot) {
        self.note_end(slot, NO_CLOSE_FRAME, "the connection ended without a close frame");
    }

    fn note_end(&self, slot: Slot, code: u16, reason: &'static str) {
        tracing::debug!(
            target: "fanfare::ws",
            connection = self.name_of(slot),
            user = user(&self.conns[slot.index()]),
            client = self.client_of(slot),
            code,
            reason,
            open_s = self.open_s(slot),
            "client disconnected"
        );
    }

    fn open_s(&self, slot: Slot) -> u64 {
        self.now.unix_ms.saturating_sub(self.conns[slot.index()].opened_ms) / 1_000
    }

    /// A connection follows a topic from here on. None is every service.
    pub(super) fn note_subscribed(&self, slot: Slot, topic: Option<&Topic>) {
        tracing::debug!(
            target: "fanfare::ws",
            connection = self.name_of(slot),
            service = service_name(topic),
            channel = channel_name(topic),
            "subscribed"
        );
    }

    /// A connection has stopped following a topic.
    pub(super) fn note_unsubscribed(&self, slot: Slot, topic: Option<&Topic>) {
        tracing::debug!(
            target: "fanfare::ws",
            connection = self.name_of(slot),
            service = service_name(topic),
            channel = channel_name(topic),
            "unsubscribed"
        );
    }

    /// A reader has fallen behind: snapshots come in place of changes.
    pub(super) fn note_resync(&self, slot: Slot) {
        tracing::debug!(
            target: "fanfare::ws",
            connection = self.name_of(slot),
            user = user(&self.conns[slot.index()]),
            client = self.client_of(slot),
            "reader fell behind: snapshots come in place of changes"
        );
    }

    /// Instances are registered from an Artemis heartbeat, because its answer cannot hold them.
    pub(super) fn note_registered_by_heartbeat(&self, slot: Slot, registrations: &[Registration]) {
        for registration in registrations {
            tracing::info!(
                target: "fanfare::artemis",
                connection = self.name_of(slot),
                service = registration.service.as_str(),
                bytes = registration.json.len(),
                "an instance that is too large for the answer is registered from its heartbeat"
            );
        }
    }

    /// An instance could not be registered from an Artemis heartbeat.
    pub(super) fn note_not_registered(&self, slot: Slot, service: Option<&str>, reason: &str) {
        tracing::warn!(
            target: "fanfare::artemis",
            connection = self.name_of(slot),
            client = self.client_of(slot),
            service,
            reason,
            "an instance that is too large for the answer to its heartbeat cannot be registered"
        );
    }

    /// An Artemis client has named more services than a connection follows.
    pub(super) fn note_follows_all(&self, slot: Slot) {
        tracing::warn!(
            target: "fanfare::artemis",
            connection = self.name_of(slot),
            client = self.client_of(slot),
            max = self.settings.limits.subscriptions_per_connection_max,
            "an Artemis client names more services than --subscriptions-per-connection-max: it is \
             sent the changes of all services"
        );
    }

    /// A message was refused. Its content is not logged.
    pub(super) fn note_refused(&self, slot: Slot, code: Code) {
        tracing::debug!(
            target: "fanfare::ws",
            connection = self.name_of(slot),
            user = user(&self.conns[slot.index()]),
            code = code.as_str(),
            "message refused"
        );
    }

    /// A `refresh` brought a token that is not valid.
    pub(super) fn note_token_refused(&self, slot: Slot, reason: &'static str) {
        tracing::info!(
            target: "fanfare::ws",
            connection = self.name_of(slot),
            user = user(&self.conns[slot.index()]),
            client = self.client_of(slot),
            reason,
            "token refused"
        );
    }

    /// A request head was refused before hyper saw it.
    pub(super) fn note_head_refused(&self, slot: Slot, status: u16, reason: &'static str) {
        let request_id = self.conns[slot.index()].id.to_string();
        let client = self.client_of(slot);
        if self.settings.access_log {
            tracing::info!(target: "fanfare::access", status, client, request_id, "request");
        }
        tracing::info!(
            target: "fanfare::http",
            status, reason, client, request_id,
            "request refused"
        );
    }

    /// An upgrade that the shard answered itself, for the access log.
    pub(super) fn note_upgrade(&self, slot: Slot, path: &str) {
        if self.settings.access_log {
            tracing::info!(
                target: "fanfare::access",
                method = "GET",
                path,
                status = 101,
                client = self.client_of(slot),
                user = user(&self.conns[slot.index()]),
                request_id = self.conns[slot.index()].id.to_string(),
                "request"
            );
        }
    }
}

fn service_name(topic: Option<&Topic>) -> Option<&str> {
    match topic {
        None => Some("*"),
        Some(topic) => topic.service().map(crate::id::ServiceName::as_str),
    }
}

fn channel_name(topic: Option<&Topic>) -> Option<&str> {
    match topic {
        Some(Topic::Channel(channel)) => Some(channel.as_str()),
        _ => None,
    }
}
