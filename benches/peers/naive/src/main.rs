//! The naive peer: the push server one writes first.
//!
//! axum for HTTP and sockets, a concurrent map from service to sessions, an unbounded channel
//! and a writer task per session. An event is serialized once; then every subscriber gets a clone
//! of the text, carried to its channel by a task of its own "so that a slow one does not hold up
//! the others". It is short, it works, and it shows what that design costs: a task per delivery,
//! no order between tasks, no bound on what a stalled reader piles up.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::ws::{Message, WebSocket};
use axum::extract::{State, WebSocketUpgrade};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use dashmap::DashMap;
use futures_util::{SinkExt, StreamExt};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

const EPOCH: &str = "naive";

/// Sessions by their number; the sender leads to the session's writer task.
type Sessions = HashMap<u64, UnboundedSender<Message>>;

#[derive(Default)]
struct Topic {
    revision: u64,
    sessions: Sessions,
}

#[derive(Default)]
struct Hub {
    topics: DashMap<String, Topic>,
    next_session: AtomicU64,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Command {
    Subscribe { service_id: String },
    Register { instances: Vec<Value> },
    Ping,
}

#[derive(Deserialize)]
struct Registration {
    instances: Vec<Value>,
}

#[derive(Serialize)]
struct ServiceChange<'a> {
    r#type: &'static str,
    service_id: &'a str,
    epoch: &'static str,
    from: u64,
    revision: u64,
    changes: [InstanceChange<'a>; 1],
    degraded: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct InstanceChange<'a> {
    instance: &'a Value,
    change_type: &'static str,
    change_time: String,
    reason: &'static str,
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let bind = match (arguments.next().as_deref(), arguments.next()) {
        (None, _) => "127.0.0.1:0".to_owned(),
        (Some("--bind"), Some(address)) => address,
        _ => {
            eprintln!("usage: peer-naive [--bind ADDRESS:PORT]");
            std::process::exit(1);
        }
    };
    let listener = TcpListener::bind(&bind)
        .await
        .expect("the address can be bound");
    let address = listener
        .local_addr()
        .expect("a bound socket has an address");
    println!("listening on http://{address}");

    let app = Router::new()
        .route("/ws", get(upgrade))
        .route("/api/registry/register.json", post(register_by_http))
        .with_state(Arc::new(Hub::default()));
    let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
        // Without this the kernel holds frames back to merge them, which would flatter nobody.
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, app)
        .await
        .expect("the accept loop does not end");
}

async fn upgrade(State(hub): State<Arc<Hub>>, upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(move |socket| serve(hub, socket))
}

async fn register_by_http(
    State(hub): State<Arc<Hub>>,
    Json(registration): Json<Registration>,
) -> Json<Value> {
    register(&hub, &registration.instances);
    Json(json!({
        "failedInstances": [],
        "responseStatus": {
            "status": "success", "errorCode": "success", "message": "", "errorMessage": ""
        }
    }))
}

/// One session: a task that writes what its channel brings, and a loop that reads commands.
async fn serve(hub: Arc<Hub>, socket: WebSocket) {
    let session = hub.next_session.fetch_add(1, Ordering::Relaxed);
    let (mut sink, mut stream) = socket.split();
    let (sender, mut receiver) = unbounded_channel();
    let writer = tokio::spawn(async move {
        while let Some(message) = receiver.recv().await {
            if sink.send(message).await.is_err() {
                break;
            }
        }
    });
    reply(
        &sender,
        &json!({
            "type": "welcome", "connection_id": session.to_string(), "node_id": EPOCH,
            "user_id": null, "ping_interval_ms": 25000, "version": "0.1.0"
        }),
    );

    let mut subscriptions = Vec::new();
    while let Some(Ok(message)) = stream.next().await {
        let Message::Text(text) = message else {
            continue;
        };
        match serde_json::from_str(&text) {
            Ok(Command::Subscribe { service_id }) => {
                let mut topic = hub.topics.entry(service_id.clone()).or_default();
                topic.sessions.insert(session, sender.clone());
                reply(
                    &sender,
                    &json!({
                        "type": "subscribed", "service_id": &service_id, "epoch": EPOCH,
                        "revision": topic.revision
                    }),
                );
                drop(topic);
                subscriptions.push(service_id);
            }
            Ok(Command::Register { instances }) => {
                register(&hub, &instances);
                reply(
                    &sender,
                    &json!({ "type": "registered", "failed_instances": [] }),
                );
            }
            Ok(Command::Ping) => reply(&sender, &json!({ "type": "pong" })),
            Err(error) => {
                reply(
                    &sender,
                    &json!({ "type": "error", "message": error.to_string() }),
                );
            }
        }
    }
    for service_id in subscriptions {
        if let Some(mut topic) = hub.topics.get_mut(&service_id) {
            topic.sessions.remove(&session);
        }
    }
    writer.abort();
}

fn reply(sender: &UnboundedSender<Message>, value: &Value) {
    // The writer is gone only when the session ends; then nobody waits for the answer.
    let _ = sender.send(Message::Text(value.to_string().into()));
}

/// Raises the revision of each instance's service and sends a task to each of its subscribers.
fn register(hub: &Hub, instances: &[Value]) {
    for instance in instances {
        let Some(service_id) = instance["serviceId"].as_str() else {
            continue;
        };
        let mut topic = hub.topics.entry(service_id.to_owned()).or_default();
        let from = topic.revision;
        topic.revision += 1;
        let frame = ServiceChange {
            r#type: "service_change",
            service_id,
            epoch: EPOCH,
            from,
            revision: topic.revision,
            changes: [InstanceChange {
                instance,
                change_type: "change",
                change_time: now(),
                reason: "update",
            }],
            degraded: false,
        };
        let text = serde_json::to_string(&frame).expect("every field is plain JSON");
        for sender in topic.sessions.values() {
            let (sender, text) = (sender.clone(), text.clone());
            tokio::spawn(async move {
                let _ = sender.send(Message::Text(text.into()));
            });
        }
    }
}

/// The time in RFC 3339 with milliseconds, by the civil calendar's arithmetic.
fn now() -> String {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let (seconds, millis) = (since.as_secs(), since.subsec_millis());
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    // Days are counted from 1 March of year 0, so that a leap day is the last day of its year.
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}
