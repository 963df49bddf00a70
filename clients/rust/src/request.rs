//! What a session asks a server for, as messages.
//!
//! Imports `id` and its siblings. Imported by `client::session`.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokio::sync::oneshot;

use crate::error::Error;
use crate::frame::Frame;
use crate::shared::State;
use crate::{channel, lease, room, service};
use fanfare_protocol::id::{InstanceIdentity, ServiceName};

/// A request under way.
pub(crate) enum Asked {
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
    /// Nobody waits for the answer.
    Nothing,
}

pub(crate) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// The next request that brings the server in line with what is wanted.
pub(crate) fn next_wish(
    state: &mut State,
    is_leaving: bool,
    now_ns: u64,
) -> Option<(Map<String, Value>, Asked)> {
    // Leases first: they have a time to be met.
    if let Some(wish) = state.leases.next_wish(now_ns) {
        return Some(match wish {
            lease::Wish::Register(instances, of) => {
                (object(json!({"type": "register", "instances": instances})), Asked::Register(of))
            }
            lease::Wish::Heartbeat(keys, of) => {
                (object(json!({"type": "heartbeat", "instance_keys": keys})), Asked::Heartbeat(of))
            }
            lease::Wish::Unregister(keys, of) => {
                let body = json!({"type": "unregister", "instance_keys": keys});
                (object(body), Asked::Unregister(of))
            }
        });
    }
    if is_leaving {
        return None;
    }
    if let Some(wish) = state.services.next_wish() {
        return Some(service_request(wish));
    }
    if let Some(wish) = state.channels.next_wish() {
        return Some(match wish {
            channel::Wish::Follow { channel, since } => {
                let mut body = json!({"type": "subscribe", "channel": &*channel});
                if let Some(since) = since {
                    body["since"] = json!({"epoch": &*since.epoch, "offset": since.offset});
                }
                (object(body), Asked::Channel(channel))
            }
            channel::Wish::Unfollow(channel) => {
                let body = json!({"type": "unsubscribe", "channel": &*channel});
                (object(body), Asked::Nothing)
            }
        });
    }
    let channels = &state.channels;
    let is_heard = |room: &str| channels.is_asked(&room::channel_of(room));
    let wish = state.rooms.next_wish(is_heard)?;
    Some(match wish {
        room::Wish::Join(room) => {
            (object(json!({"type": "join", "room": &*room})), Asked::Room(room))
        }
        room::Wish::Leave(room) => {
            (object(json!({"type": "leave", "room": &*room})), Asked::Nothing)
        }
    })
}

fn service_request(wish: service::Wish) -> (Map<String, Value>, Asked) {
    match wish {
        service::Wish::Follow { service, since } => {
            let mut body = json!({"type": "subscribe", "service_id": service.as_str()});
            match since {
                Some((epoch, revision)) => {
                    body["since"] = json!({"epoch": &*epoch, "revision": revision});
                }
                None => body["snapshot"] = Value::Bool(true),
            }
            (object(body), Asked::Service(service))
        }
        service::Wish::Unfollow(service) => {
            let body = json!({"type": "unsubscribe", "service_id": service.as_str()});
            (object(body), Asked::Nothing)
        }
        service::Wish::FollowAll => {
            (object(json!({"type": "subscribe", "service_id": "*"})), Asked::AllServices)
        }
        service::Wish::UnfollowAll => {
            (object(json!({"type": "unsubscribe", "service_id": "*"})), Asked::Nothing)
        }
    }
}
