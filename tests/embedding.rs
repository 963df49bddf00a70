//! A program that embeds the server: the calls of its handle, and its events.

use fanfare_test_support as support;
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use fanfare::config::{Config, Sources};
use fanfare::server::Code;
use fanfare::server::ConnName;
use fanfare::server::DomainEvent;
use fanfare::server::{Delivery, Server};
use fanfare_test_support::SECRET;
use serde_json::{Value, json};
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

/// What the server says of a connection.
fn describe(server: &Server, id: &ConnName) -> fanfare::server::ConnectionView {
    let view = block_on(server.handle().connection(id.clone())).expect("answered");
    view.expect("it is open")
}

#[test]
fn a_program_subscribes_connections_and_notes_what_they_are() {
    let (_dir, server) = start();
    let (mut ann, id) = Client::connect(&server, "ann");
    let handle = server.handle();
    block_on(async {
        handle.send_to_channel("tenant:a", "before").await.expect("published");
        handle.subscribe(id.clone(), "tenant:a").await.expect("open");
        handle.subscribe(id.clone(), "tenant:a").await.expect("it may be twice");
        let (_, reached) = handle.send_to_channel("tenant:a", "after").await.expect("published");
        assert_eq!(reached, 1);
    });
    let subscribed = ann.find("subscribed", |frame| frame["channel"] == "tenant:a");
    assert_eq!((&subscribed["type"], &subscribed["offset"]), (&json!("subscribed"), &json!(1)));
    assert!(subscribed.get("id").is_none() && subscribed["epoch"].is_string(), "{subscribed}");
    let message = ann.find("the message", |frame| frame["channel"] == "tenant:a");
    assert_eq!((&message["payload"], &message["offset"]), (&json!("after"), &json!(2)));
    let channels = describe(&server, &id).channels;
    assert_eq!(
        channels.iter().map(fanfare::server::ChannelName::as_str).collect::<Vec<_>>(),
        ["tenant:a"]
    );

    // A room stays joined, and goes on to be heard.
    ann.ask(&json!({"type": "join", "room": "r"}), "joined");
    ann.ask(&json!({"type": "subscribe", "channel": "chat:r"}), "subscribed");
    block_on(async {
        handle.unsubscribe(id.clone(), "tenant:a").await.expect("open");
        handle.unsubscribe(id.clone(), "tenant:a").await.expect("it may be twice");
        handle.unsubscribe(id.clone(), "chat:r").await.expect("open");
        let (_, reached) = handle.send_to_channel("tenant:a", "gone").await.expect("published");
        assert_eq!(reached, 0);
        let said = handle.chat("r", "bot-1", "Bot", "still here?").await.expect("said");
        assert_eq!(said.delivered_to, 1);
        // Who has said something can be written to.
        assert_eq!(handle.send_to_user("bot-1", "notice", 1).await, Ok(0));
    });
    for channel in ["tenant:a", "chat:r"] {
        let ended = ann.find("unsubscribed", |frame| frame["type"] == "unsubscribed");
        assert_eq!(
            ended,
            json!({"type": "unsubscribed", "channel": channel, "reason": "operator"})
        );
    }
    let said = ann.find("chat", |frame| frame["type"] == "chat");
    assert_eq!(
        (&said["content"], &said["from_user_id"], &said["username"]),
        (&json!("still here?"), &json!("bot-1"), &json!("Bot"))
    );

    block_on(async {
        assert_eq!(handle.metadata(id.clone()).await, Ok(None));
        handle.set_metadata(id.clone(), json!({"tenant": "a", "n": [1]})).await.expect("open");
        let noted = handle.metadata(id.clone()).await;
        assert_eq!(noted, Ok(Some(json!({"tenant": "a", "n": [1]}))));
        let listed = handle.connections(None, 10).await.expect("a list");
        assert!(listed[0].metadata.is_none(), "lists stay short");
        let code =
            |refused: Result<(), fanfare::server::CallError>| refused.expect_err("refused").code;
        let large = json!({"k": "x".repeat(4_096)});
        assert_eq!(code(handle.set_metadata(id.clone(), large).await), Code::TooLarge);
        assert_eq!(code(handle.set_metadata(id.clone(), [1]).await), Code::InvalidArgument);
        handle.set_metadata(id.clone(), json!({})).await.expect("open");
        assert_eq!(handle.metadata(id.clone()).await, Ok(None));
        let (count, users) = handle.online().await.expect("a list");
        assert_eq!((count, users[0].person.user_id.as_str()), (1, "ann"));

        handle.disconnect(id.clone()).await.expect("open");
        let gone = "00000000-0-9-9".parse::<ConnName>().expect("a name");
        assert_eq!(code(handle.subscribe(gone.clone(), "c").await), Code::NotFound);
        assert_eq!(code(handle.unsubscribe(gone.clone(), "c").await), Code::NotFound);
        assert_eq!(code(handle.set_metadata(gone.clone(), json!({})).await), Code::NotFound);
        assert_eq!(handle.metadata(gone).await, Ok(None));
    });
    server.stop();
}

#[test]
fn messages_of_a_program_have_a_type_metadata_and_an_author() {
    let (_dir, server) = start();
    let (mut ann, ann_id) = Client::connect(&server, "ann");
    let (mut eve, eve_id) = Client::connect(&server, "");
    for client in [&mut ann, &mut eve] {
        for channel in ["news", "live:order", "dashboard:sales"] {
            client.ask(&json!({"type": "subscribe", "channel": channel}), "subscribed");
        }
    }
    let handle = server.handle();
    let (all, aimed) = block_on(async {
        let notice = fanfare::server::Message::system("noon")
            .with_metadata(json!({"by": "cron"}))
            .from_user("bot-1");
        let all = handle.publish("news", notice).await.expect("published");
        let whispered = fanfare::server::Message::event("hint", 1).only_to([ann_id.clone()]);
        let aimed = handle.publish("news", whispered).await.expect("published");
        let others = fanfare::server::Message::new(2).exclude([eve_id.clone()]);
        assert_eq!(handle.publish("news", others).await.expect("published").delivered_to, 1);
        handle.live_update("order", "7", "updated", json!({"paid": true})).await.expect("told");
        handle.dashboard("sales", json!({"today": 17})).await.expect("told");
        (all, aimed)
    });
    assert_eq!((all.offset, all.delivered_to), (Some(1), 2));
    assert_eq!((aimed.offset, aimed.delivered_to), (None, 1));
    let push = |client: &mut Client| client.find("a push", |frame| frame["channel"].is_string());
    let notice = push(&mut eve);
    assert_eq!(notice["message_id"], all.message_id.to_string());
    assert_eq!(
        (&notice["type"], &notice["payload"], &notice["metadata"], &notice["from_user_id"]),
        (&json!("system"), &json!("noon"), &json!({"by": "cron"}), &json!("bot-1"))
    );
    let live = push(&mut eve);
    assert_eq!((&live["type"], &live["event"]), (&json!("event"), &json!("order.updated")));
    let payload =
        json!({"entity": "order", "id": "7", "action": "updated", "data": {"paid": true}});
    assert_eq!(live["payload"], payload);
    let board = push(&mut eve);
    assert_eq!((&board["event"], &board["payload"]), (&json!("metrics"), &json!({"today": 17})));
    assert_eq!(push(&mut ann)["type"], "system");
    let hint = push(&mut ann);
    assert_eq!((&hint["event"], hint.get("offset")), (&json!("hint"), None));
    block_on(async {
        let code = |refused: Result<_, fanfare::server::CallError>| {
            refused.map(|_: fanfare::server::PublishedMessage| ()).expect_err("refused").code
        };
        let listed = fanfare::server::Message::new(1).with_metadata([1]);
        assert_eq!(code(handle.publish("news", listed).await), Code::InvalidArgument);
        let unknown = handle.live_update("order", "7", "lost", 1).await;
        assert_eq!(code(unknown), Code::InvalidArgument);
        assert_eq!(code(handle.chat("r", "u", "", "hi").await), Code::InvalidArgument);
        assert_eq!(code(handle.chat("r", "u", "U", "").await), Code::InvalidArgument);
    });
    server.stop();
}

fn described(name: &str, port: u16) -> fanfare::server::Instance {
    let mut instance = support::instance("orders", name);
    instance["port"] = port.into();
    instance["leaseTtlMs"] = 600_000.into();
    serde_json::from_value(instance).expect("an instance")
}

async fn next_update(
    what: &str,
    watch: &mut fanfare::server::ServiceWatch,
) -> fanfare::server::ServiceUpdate {
    let next = tokio::time::timeout(Duration::from_secs(20), watch.next()).await;
    next.unwrap_or_else(|_| panic!("never: {what}")).unwrap_or_else(|| panic!("ended: {what}"))
}

#[test]
fn a_watch_tells_every_change_with_the_instances_after_it() {
    let (_dir, server) = start();
    let handle = server.handle();
    block_on(async {
        let ports = |update: &fanfare::server::ServiceUpdate| -> Vec<Option<u16>> {
            update.instances.iter().map(|one| one.port).collect()
        };
        let mut watch = handle.watch_service("ORDERS").expect("a name");
        let first = next_update("the first", &mut watch).await;
        assert!(first.is_snapshot && first.instances.is_empty() && first.revision == 0);
        handle.register(&[described("b", 2), described("a", 1)]).await.expect("registered");
        let two = next_update("two", &mut watch).await;
        assert!(!two.is_snapshot);
        assert_eq!((two.revision, two.changes.len(), ports(&two)), (2, 2, vec![Some(1), Some(2)]));
        handle.register(&[described("a", 9)]).await.expect("registered");
        let changed = next_update("a change", &mut watch).await;
        assert_eq!((ports(&changed), changed.changes.len()), (vec![Some(9), Some(2)], 1));
        assert_eq!(changed.changes[0].reason, fanfare::server::ChangeReason::Update);
        // Who does not look for a while gets what happened meanwhile, in order and in one piece.
        for port in 10..40 {
            handle.register(&[described("a", port)]).await.expect("registered");
        }
        let identity = described("b", 2).key().identity().expect("complete");
        handle.unregister(vec![identity]).await.expect("done");
        let late = next_update("all of it", &mut watch).await;
        assert_eq!((late.revision, late.changes.len()), (34, 31));
        assert_eq!(ports(&late), [Some(39)]);
        assert_eq!(late.changes[30].change_type, fanfare::server::ChangeType::Delete);
        // More than is kept of a service.
        for round in 0..12_u16 {
            let batch: Vec<_> =
                (0..500).map(|n| described(&format!("x{n}"), 1_000 + round)).collect();
            handle.register(&batch).await.expect("registered");
        }
        let whole = next_update("a snapshot", &mut watch).await;
        assert!(whole.is_snapshot && whole.changes.is_empty());
        let view = handle.service("orders").await.expect("answered").expect("seen");
        assert_eq!((whole.revision, whole.instances.len()), (view.revision, 501));
        let listed = view.instances.decode().expect("instances");
        assert_eq!(listed.len(), 501);
        // Events that the snapshot covers are no updates.
        handle.register(&[described("a", 7)]).await.expect("registered");
        let one = next_update("one more", &mut watch).await;
        assert_eq!((one.revision, one.changes.len()), (view.revision + 1, 1));
        let refused = handle.watch_service("*").map(|_| ());
        assert_eq!(refused.map_err(|refusal| refusal.code), Err(Code::InvalidArgument));
        server.stop();
        while watch.next().await.is_some() {}
    });
}

#[test]
fn what_a_program_sends_has_the_bounds_of_the_other_doors() {
    let dir = std::env::temp_dir().join(format!("fanfare-embedded-{}", uuid::Uuid::new_v4()));
    let mut config = Config {
        bind: "127.0.0.1:0".parse().expect("an address"),
        data_dir: dir.clone(),
        jwt_secret: Some(SECRET.to_owned()),
        ..Config::default()
    };
    config.limits.instance_bytes_max = 600;
    config.limits.http_body_bytes_max = 2_000;
    config.limits.topic_bytes_max = 40;
    config.limits.client_message_bytes_max = 3_000;
    let server = Server::start(&config, &Sources::default()).expect("starts");
    let _dir = Dir(dir);
    let handle = server.handle();
    block_on(async {
        fn code<T: std::fmt::Debug>(refused: Result<T, fanfare::server::CallError>) -> Code {
            refused.expect_err("refused").code
        }
        let mut large = described("large", 1);
        large.url = Some("x".repeat(600).into());
        assert_eq!(code(handle.register(&[described("a", 1), large]).await), Code::TooLarge);
        assert_eq!(handle.service("orders").await.map(|view| view.is_none()), Ok(true));
        let long = "x".repeat(3_001);
        assert_eq!(code(handle.send_to_channel("c", &long).await), Code::TooLarge);
        assert_eq!(code(handle.broadcast("t", &long, Delivery::default()).await), Code::TooLarge);
        assert_eq!(code(handle.send_to_user("u", "t", &long).await), Code::TooLarge);
        assert_eq!(code(handle.dashboard("d", &long).await), Code::TooLarge);
        assert_eq!(code(handle.live_update("e", "1", "created", &long).await), Code::TooLarge);
        assert_eq!(code(handle.chat("r", "u", "U", &long).await), Code::InvalidArgument);
        let metadata = fanfare::server::Message::new(1).with_metadata(json!({"k": long}));
        assert_eq!(code(handle.publish("c", metadata).await), Code::TooLarge);
        let name = "c".repeat(41);
        assert_eq!(code(handle.send_to_channel(&name, 1).await), Code::TooLarge);
        assert_eq!(code(handle.create_channel(&name, "").await), Code::TooLarge);
        assert_eq!(code(handle.service("").await), Code::InvalidArgument);
        assert_eq!(code(handle.lookup(&["a", "*"]).await), Code::InvalidArgument);

        // A batch is carried out in pieces, and each instance counts once.
        let batch: Vec<_> = (0..2_500).map(|n| described(&format!("n{n}"), 1)).collect();
        handle.register(&batch).await.expect("registered");
        let mut identities: Vec<_> =
            batch.iter().map(|one| one.key().identity().expect("complete")).collect();
        let stranger = described("stranger", 1).key().identity().expect("complete");
        identities.push(stranger.clone());
        identities.push(stranger.clone());
        assert_eq!(handle.heartbeat(identities.clone()).await, Ok(vec![stranger]));
        let views = handle.lookup(&["none", "orders"]).await.expect("answered");
        assert_eq!((views[0].revision, views[1].revision), (0, 2_500));
        handle.unregister(identities).await.expect("done");
        let services = handle.services().await.expect("answered");
        assert_eq!((services.len(), services[0].revision), (1, 5_000));
        let far_too_many =
            vec![described("a", 1); fanfare::internals::limits::BATCH_ENTRIES_MAX + 1];
        assert_eq!(code(handle.register(&far_too_many).await), Code::TooLarge);
    });
    server.stop();
}
