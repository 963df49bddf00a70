//! A program that embeds the server: what it can do with its handle, and what it hears.

mod support;

use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use fanfare::config::{Config, Sources};
use fanfare::id::ConnName;
use fanfare::server::{Delivery, Server};
use fanfare::state::event::DomainEvent;
use fanfare::wire::refusal::Code;
use serde_json::{Value, json};
use support::SECRET;
use tungstenite::client::IntoClientRequest as _;
use tungstenite::{Message, WebSocket};

struct Dir(PathBuf);

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn start() -> (Dir, Server) {
    let dir = std::env::temp_dir().join(format!("fanfare-embedded-{}", uuid::Uuid::new_v4()));
    let config = Config {
        bind: "127.0.0.1:0".parse().expect("an address"),
        data_dir: dir.clone(),
        jwt_secret: Some(SECRET.to_owned()),
        shards: 2,
        ..Config::default()
    };
    (Dir(dir), Server::start(&config, &Sources::default()).expect("starts"))
}

struct Client(WebSocket<TcpStream>);

impl Client {
    fn connect(server: &Server, user: &str) -> (Client, ConnName) {
        let stream = TcpStream::connect(server.local_addr()).expect("the server accepts");
        stream.set_read_timeout(Some(support::READ_PATIENCE)).expect("a timeout");
        let url = format!("ws://{}/ws", server.local_addr());
        let mut request = url.into_client_request().expect("a request");
        if !user.is_empty() {
            let bearer = format!("Bearer {}", support::token(user, ""));
            request.headers_mut().insert("authorization", bearer.parse().expect("a value"));
        }
        let (socket, _) = tungstenite::client(request, stream).expect("opens");
        let mut client = Client(socket);
        let id = client.find("welcome", |frame| frame["type"] == "welcome");
        let id = id["connection_id"].as_str().expect("an id").parse().expect("an id");
        (client, id)
    }

    fn find(&mut self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        loop {
            match self.0.read().unwrap_or_else(|fault| panic!("no {what}: {fault}")) {
                Message::Text(text) => {
                    let frame = serde_json::from_str(text.as_str()).expect("JSON");
                    if is_so(&frame) {
                        return frame;
                    }
                }
                Message::Ping(_) if what == "ping" => return Value::Null,
                _ => {}
            }
        }
    }

    fn ask(&mut self, command: &Value, kind: &str) -> Value {
        self.0.send(Message::text(command.to_string())).expect("sent");
        self.find(kind, |frame| frame["type"] == kind)
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

#[test]
fn a_program_speaks_to_its_clients() {
    let (_dir, server) = start();
    let (mut ann, ann_id) = Client::connect(&server, "ann");
    let (mut eve, eve_id) = Client::connect(&server, "");
    ann.ask(&json!({"type": "subscribe", "channel": "news"}), "subscribed");
    let handle = server.handle();
    block_on(async {
        let everyone = handle.broadcast("notice", json!({"n": 1}), Delivery::default()).await;
        assert_eq!(everyone, Ok(2));
        let delivery = Delivery { exclude: vec![eve_id.clone()], ..Delivery::default() };
        assert_eq!(handle.broadcast("notice", 2, delivery).await, Ok(1));
        let delivery = Delivery { to_channel: Some("news".into()), ..Delivery::default() };
        assert_eq!(handle.broadcast("notice", 3, delivery).await, Ok(1));
        let (_, reached) = handle.send_to_channel("news", "hello").await.expect("published");
        assert_eq!(reached, 1);
        assert_eq!(handle.send_to_connection(eve_id.clone(), "notice", 4).await, Ok(()));
        assert_eq!(handle.send_to_user("ann", "notice", 5).await, Ok(1));
        let stranger = handle.send_to_user("stranger", "notice", 6).await;
        assert_eq!(stranger.map_err(|refusal| refusal.code), Err(Code::NotFound));
        // Rules bind clients, not the program; but nobody says who comes and goes but the server.
        for channel in ["chat:r", "user:ann", "live:order", "$mine"] {
            assert_eq!(handle.send_to_channel(channel, 1).await.map(|sent| sent.1), Ok(0));
        }
        for event in ["user.left", "user.joined"] {
            let forged = handle.send_event("chat:r", event, json!({"user_id": "ann"})).await;
            assert_eq!(forged.map_err(|refusal| refusal.code), Err(Code::Forbidden));
        }
        let reserved = handle.broadcast("ack", 7, Delivery::default()).await;
        assert_eq!(reserved.map_err(|refusal| refusal.code), Err(Code::InvalidArgument));
    });
    let numbers = |client: &mut Client, count: usize| -> Vec<Value> {
        (0..count)
            .map(|_| {
                client.find("notice", |frame| frame["message_type"] == "notice")["data"].clone()
            })
            .collect()
    };
    assert_eq!(numbers(&mut ann, 4), [json!({"n": 1}), json!(2), json!(3), json!(5)]);
    assert_eq!(numbers(&mut eve, 2), [json!({"n": 1}), json!(4)]);
    block_on(async {
        assert_eq!(handle.connection_count(), 2);
        let all = handle.connections(None, 10).await.expect("a list");
        assert_eq!(all.len(), 2);
        handle.ping_all().await.expect("sent");
        handle.disconnect(ann_id.clone()).await.expect("found");
        let again = handle.connections(Some(ann_id.max(eve_id)), 10).await.expect("a list");
        assert!(again.is_empty());
    });
    eve.find("ping", |_| false);
    server.stop();
}

#[test]
fn a_program_has_channels_and_the_registry() {
    let (_dir, server) = start();
    let handle = server.handle();
    block_on(async {
        handle.create_channel("board", "what we do").await.expect("new");
        let twice = handle.create_channel("board", "").await;
        assert_eq!(twice.map_err(|refusal| refusal.code), Err(Code::Conflict));
        assert_eq!(handle.channel_count("board").await, Ok(Some(0)));
        assert_eq!(handle.channel_count("nothing").await, Ok(None));
        let mut board = handle.subscribe_channel("board").expect("a name");
        handle.send_event("board", "started", json!({"by": "me"})).await.expect("published");
        let message = board.next().await.expect("open").expect("none missed");
        assert_eq!(
            (&message["event"], &message["payload"]["by"]),
            (&json!("started"), &json!("me"))
        );
        assert_eq!(handle.channels().await.map(|all| all.len()), Ok(1));
        handle.delete_channel("board").await.expect("there");
        let gone = handle.delete_channel("board").await;
        assert_eq!(gone.map_err(|refusal| refusal.code), Err(Code::NotFound));

        let instance = serde_json::from_value(support::instance("orders", "a")).expect("one");
        handle.register(std::slice::from_ref(&instance)).await.expect("registered");
        let identity = instance.key().identity().expect("complete");
        assert_eq!(handle.heartbeat(vec![identity.clone()]).await, Ok(Vec::new()));
        let view = handle.service("ORDERS").await.expect("answered").expect("seen");
        assert_eq!(view.revision, 1);
        handle.unregister(vec![identity.clone()]).await.expect("done");
        assert_eq!(handle.heartbeat(vec![identity.clone()]).await, Ok(vec![identity]));
    });
    server.stop();
}

#[test]
fn a_program_hears_what_happens() {
    let (_dir, server) = start();
    let handle = server.handle();
    let mut events = handle.events();
    let (mut ann, _) = Client::connect(&server, "ann");
    ann.ask(&json!({"type": "join", "room": "r"}), "joined");
    ann.0.send(Message::text(json!({"type": "chat", "content": "hi"}).to_string())).expect("sent");
    ann.find("chat", |frame| frame["type"] == "chat");
    let instance = serde_json::from_value(support::instance("s", "i")).expect("one");
    block_on(handle.register(&[instance])).expect("registered");
    drop(ann);
    let names: Vec<String> = block_on(async {
        let mut names = Vec::new();
        loop {
            let next = tokio::time::timeout(Duration::from_secs(5), events.next()).await;
            let event = next.expect("in time").expect("open").expect("none missed");
            let name = format!("{event:?}");
            names.push(name.split([' ', '(']).next().unwrap_or_default().to_owned());
            if matches!(event, DomainEvent::ConnectionClosed { .. }) {
                return names;
            }
        }
    });
    let want = [
        "ConnectionOpened",
        "UserOnline",
        "UserJoined",
        "ChannelMessage",
        "ServiceChanged",
        "UserLeft",
        "UserOffline",
        "ConnectionClosed",
    ];
    assert_eq!(names, want);
    server.stop();
    assert!(block_on(events.next()).is_none(), "the server has stopped");
}
