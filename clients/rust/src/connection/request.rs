//! The requests of a session, as messages, and what it keeps until the answer.
//!
//! Imports `state`. Imported by `session`.

use std::sync::Arc;

use fanfare_protocol::id::{InstanceIdentity, ServiceName};
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;

use crate::error::Error;
use crate::frame::Frame;
use crate::state::State;
use crate::state::channel::ChannelRequest;
use crate::state::lease::LeaseRequest;
use crate::state::room::{self, RoomRequest};
use crate::state::service::ServiceRequest;

/// A request whose answer has not come yet.
pub(crate) enum PendingRequest {
    Service(ServiceName),
    AllServices,
    Channel(Box<str>),
    Room(Box<str>),
    Register(Vec<(InstanceIdentity, u64)>),
    Heartbeat(Vec<InstanceIdentity>),
    Unregister(Vec<(InstanceIdentity, u64)>),
    Reply {
        reply: oneshot::Sender<Result<Frame, Error>>,
        silent: Option<Box<str>>,
    },
    Refresh(Arc<str>),
    /// The answer makes no difference.
    Nothing,
}

pub(crate) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// The next request that brings the server's state closer to the wanted one.
pub(crate) fn next_request(
    state: &mut State,
    is_leaving: bool,
    now_ns: u64,
) -> Option<(Map<String, Value>, PendingRequest)> {
    // Leases first: they have deadlines.
    if let Some(request) = state.leases.next_request(now_ns) {
        return Some(match request {
            LeaseRequest::Register(instances, of) => (
                object(json!({"type": "register", "instances": instances})),
                PendingRequest::Register(of),
            ),
            LeaseRequest::Heartbeat(keys, of) => (
                object(json!({"type": "heartbeat", "instance_keys": keys})),
                PendingRequest::Heartbeat(of),
            ),
            LeaseRequest::Unregister(keys, of) => {
                let body = json!({"type": "unregister", "instance_keys": keys});
                (object(body), PendingRequest::Unregister(of))
            }
        });
    }
    if is_leaving {
        return None;
    }
    if let Some(request) = state.services.next_request() {
        return Some(service_request(request));
    }
    if let Some(request) = state.channels.next_request() {
        return Some(match request {
            ChannelRequest::Subscribe { channel, since } => {
                let mut body = json!({"type": "subscribe", "channel": &*channel});
                if let Some(since) = since {
                    body["since"] = json!({"epoch": &*since.epoch, "offset": since.offset});
                }
                (object(body), PendingRequest::Channel(channel))
            }
            ChannelRequest::Unsubscribe(channel) => {
                let body = json!({"type": "unsubscribe", "channel": &*channel});
                (object(body), PendingRequest::Nothing)
            }
        });
    }
    let channels = &state.channels;
    let is_heard = |room: &str| channels.is_asked(&room::channel_of(room));
    let request = state.rooms.next_request(is_heard)?;
    Some(match request {
        RoomRequest::Join(room) => {
            (object(json!({"type": "join", "room": &*room})), PendingRequest::Room(room))
        }
        RoomRequest::Leave(room) => {
            (object(json!({"type": "leave", "room": &*room})), PendingRequest::Nothing)
        }
    })
}

fn service_request(request: ServiceRequest) -> (Map<String, Value>, PendingRequest) {
    match request {
        ServiceRequest::Subscribe { service, since } => {
            let mut body = json!({"type": "subscribe", "service_id": service.as_str()});
            match since {
                Some((epoch, revision)) => {
                    body["since"] = json!({"epoch": &*epoch, "revision": revision});
                }
                None => body["snapshot"] = Value::Bool(true),
            }
            (object(body), PendingRequest::Service(service))
        }
        ServiceRequest::Unsubscribe(service) => {
            let body = json!({"type": "unsubscribe", "service_id": service.as_str()});
            (object(body), PendingRequest::Nothing)
        }
        ServiceRequest::SubscribeAll => {
            (object(json!({"type": "subscribe", "service_id": "*"})), PendingRequest::AllServices)
        }
        ServiceRequest::UnsubscribeAll => {
            (object(json!({"type": "unsubscribe", "service_id": "*"})), PendingRequest::Nothing)
        }
    }
}
