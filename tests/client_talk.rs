//! Messages of users and programs reach a client once, also those from the time without a
//! connection.

use std::net::{TcpListener, TcpStream};

use fanfare_client::{
    Api, Channel, ChannelEvent, ChannelMessage, Client, Code, EnvelopeEvent, Person, Position,
    Post, Status,
};
use fanfare_test_support::Server;
use fanfare_test_support::client::{
    PATIENCE, builder, connect, connect_as, eventually, soon, token,
};
use fanfare_test_support::proxy::{Fault, FaultyProxy};
use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

async fn next_message(channel: &mut Channel) -> ChannelMessage {
    match soon("an event", channel.next()).await.expect("the stream goes on") {
        ChannelEvent::Message(message) => *message,
        other => panic!("no message: {other:?}"),
    }
}

fn publish(node: &Server, channel: &str, payload: &Value) {
    node.post(&format!("/api/v1/channels/{channel}/messages"), &json!({"payload": payload}));
}

async fn lose_connection(client: &Client, proxy: &FaultyProxy) {
    let mut status = client.watch_status();
    proxy.set(Fault::Down);
    soon("noticed", status.wait_for(|one| !one.is_connected())).await.expect("it lives");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_the_time_away_are_recovered() {
    let node = Server::start_for_people(&[]);
    let proxy = FaultyProxy::to(node.address());
    let client = connect(&proxy.url()).await;
    let mut news = client.channel("news").expect("a name");
    soon("ready", news.ready()).await.expect("allowed");
    let mut offsets = Vec::new();
    for round in 0..3 {
        publish(&node, "news", &json!({"round": round}));
        offsets.push(next_message(&mut news).await.offset);
        lose_connection(&client, &proxy).await;
        for number in 0..20 {
            publish(&node, "news", &json!({"round": round, "number": number}));
        }
        proxy.set(Fault::None);
        for number in 0..20 {
            let message = next_message(&mut news).await;
            assert_eq!(message.payload, json!({"round": round, "number": number}));
            offsets.push(message.offset);
        }
    }
    let all: Vec<_> = (1..=63).map(Some).collect();
    assert_eq!(offsets, all, "each once and in order");
    // Another reader takes up where this one could have stopped.
    let position = news.position().expect("a position");
    let since = fanfare_client::Position { offset: position.offset - 5, ..position };
    let mut again = client.channel_since("news", since).expect("a name");
    for offset in 59..=63 {
        assert_eq!(next_message(&mut again).await.offset, Some(offset));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_gone_for_good_is_said_so() {
    let mut node = Server::start_for_people(&[]);
    let client = connect(&node.url()).await;
    let mut news = client.channel("news").expect("a name");
    soon("ready", news.ready()).await.expect("allowed");
    publish(&node, "news", &json!(1));
    assert_eq!(next_message(&mut news).await.payload, json!(1));
    let before = news.position().expect("a position");
    node.kill();
    node.restart_in_place();
    match soon("an event", news.next()).await {
        Some(ChannelEvent::Lost { after, now }) => {
            assert_eq!(after, before);
            assert_ne!(now.epoch, before.epoch);
        }
        other => panic!("{other:?}"),
    }
    publish(&node, "news", &json!(2));
    assert_eq!(next_message(&mut news).await.payload, json!(2));
}

/// One connection of a server whose words are the test's.
struct Scripted(WebSocket<TcpStream>);

impl Scripted {
    fn accept(listener: &TcpListener) -> Scripted {
        let (stream, _) = listener.accept().expect("a client comes");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout above zero");
        let mut socket = Scripted(tungstenite::accept(stream).expect("it wants a socket"));
        socket.say(&json!({"type": "welcome", "connection_id": "n1-0-0-1", "node_id": "n1"}));
        socket
    }

    fn say(&mut self, frame: &Value) {
        self.0.send(Message::text(frame.to_string())).expect("the client listens");
    }

    /// Answers two subscriptions and one joining. Returns where the subscriptions wanted to go on.
    fn answer_all(&mut self) -> Vec<Value> {
        let mut since = Vec::new();
        for _ in 0..3 {
            let text = self.0.read().expect("a request");
            let asked: Value = serde_json::from_str(text.to_text().expect("text")).expect("JSON");
            if asked["type"] == "join" {
                self.say(&json!({"type": "joined", "room": asked["room"], "id": asked["id"]}));
                continue;
            }
            let (channel, id) = (&asked["channel"], &asked["id"]);
            let mut answer = json!({"type": "subscribed", "channel": channel, "id": id});
            (answer["epoch"], answer["offset"]) = ("e1".into(), 3.into());
            if asked["since"].is_object() {
                (answer["epoch"], answer["offset"]) = ("e2".into(), 13.into());
                answer["recovered"] = true.into();
            }
            self.say(&answer);
            since.push(asked["since"].clone());
        }
        since
    }

    fn push(&mut self, channel: &str, offset: u64) {
        let message = json!({"type": "json", "channel": channel, "offset": offset, "payload": 1});
        self.say(&message);
    }
}

fn in_short(event: Option<ChannelEvent>) -> String {
    match event {
        Some(ChannelEvent::Message(message)) => format!("{:?}", message.offset),
        Some(ChannelEvent::Lost { after, now }) => {
            format!("{} {} to {} {}", after.epoch, after.offset, now.epoch, now.offset)
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_server_loses_meanwhile_is_said_so_and_followed_from_there() {
    const CHANNELS: [&str; 2] = ["news", "chat:general"];
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("ws://{}", listener.local_addr().expect("it listens"));
    let (cut, is_cut) = std::sync::mpsc::channel::<()>();
    let server = std::thread::spawn(move || {
        let mut first = Scripted::accept(&listener);
        first.answer_all();
        for channel in CHANNELS {
            first.push(channel, 4);
            let place = json!({"type": "subscribed", "channel": channel, "epoch": "e2", "offset": 12, "recovered": false});
            first.say(&place);
            first.push(channel, 13);
        }
        is_cut.recv().expect("the test goes on");
        drop(first);
        let mut second = Scripted::accept(&listener);
        let since = second.answer_all();
        for channel in CHANNELS {
            second.push(channel, 14);
        }
        (since, second)
    });
    let client = connect(&url).await;
    let mut news = client.channel("news").expect("a name");
    let mut room = client.join("general").expect("a name");
    soon("in", room.ready()).await.expect("allowed");
    for expected in ["Some(4)", "e1 4 to e2 12", "Some(13)"] {
        assert_eq!(in_short(soon("an event", news.next()).await), expected);
        assert_eq!(in_short(soon("an event", room.next()).await), expected);
    }
    assert_eq!(news.position(), Some(Position { epoch: "e2".into(), offset: 13 }));
    cut.send(()).expect("the server waits for it");
    assert_eq!(in_short(soon("an event", news.next()).await), "Some(14)");
    assert_eq!(in_short(soon("an event", room.next()).await), "Some(14)");
    let (since, _socket) = server.join().expect("the server has had its say");
    assert_eq!(since, [json!({"epoch": "e2", "offset": 13}), json!({"epoch": "e2", "offset": 13})]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_lags_and_then_gets_the_rest() {
    let node = Server::start_for_people(&[]);
    let client = builder(&node.url()).queue_events_max(8).connect().await.expect("it is there");
    let mut slow = client.channel("news").expect("a name");
    let mut quick = client.channel("news").expect("a name");
    soon("ready", slow.ready()).await.expect("allowed");
    soon("ready", quick.ready()).await.expect("allowed");
    for number in 1..=100 {
        publish(&node, "news", &json!(number));
        assert_eq!(next_message(&mut quick).await.payload, json!(number));
    }
    let (mut next, mut lags) = (1, 0);
    while next <= 100 {
        match soon("an event", slow.next()).await.expect("the stream goes on") {
            ChannelEvent::Message(message) => {
                assert_eq!(message.offset, Some(next));
                next += 1;
            }
            ChannelEvent::Lagged { after, newest, unnumbered } => {
                assert_eq!((after, newest, unnumbered), (next - 1, 100, 0));
                lags += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(lags >= 1, "it has lagged");
    publish(&node, "news", &json!("last"));
    assert_eq!(next_message(&mut slow).await.payload, json!("last"));
    assert_eq!(next_message(&mut quick).await.payload, json!("last"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishing_is_answered_with_its_place() {
    let node = Server::start_for_people(&[]);
    let client = connect(&node.url()).await;
    let mut news = client.channel("news").expect("a name");
    soon("ready", news.ready()).await.expect("allowed");
    let post = Post::new("news", "hello").event("greeted");
    let published = client.publish(post).await.expect("published");
    let message = next_message(&mut news).await;
    assert_eq!(message.offset, Some(published.position.offset));
    assert_eq!((&*message.message_id, &*message.kind), (&*published.message_id, "event"));
    let silent = client.publish(Post::new("news", 1).without_echo()).await.expect("published");
    let heard = client.publish(Post::new("news", 2)).await.expect("published");
    assert_eq!(silent.position.offset + 1, heard.position.offset);
    assert_eq!(next_message(&mut news).await.payload, json!(2));
    node.call("DELETE", "/api/v1/channels/news", "", &Value::Null);
    assert!(matches!(soon("the end", news.next()).await, Some(ChannelEvent::Deleted)));
    assert!(soon("the end", news.next()).await.is_none());
    assert!(client.channel("*").is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_operator_ends_and_sets_again_goes_on_where_it_stood() {
    let node = Server::start_for_people(&[]);
    let client = connect(&node.url()).await;
    let mut news = client.channel("news").expect("a name");
    soon("ready", news.ready()).await.expect("allowed");
    let Status::Connected { connection_id, .. } = client.status() else {
        panic!("it is connected")
    };
    let path = format!("/api/v1/connections/{connection_id}/channels/news");
    publish(&node, "news", &json!("before"));
    assert_eq!(next_message(&mut news).await.payload, json!("before"));
    assert_eq!(node.call("DELETE", &path, "", &Value::Null).status, 204);
    match soon("the end", news.next()).await {
        Some(ChannelEvent::Refused(error)) => assert_eq!(error.code(), Some(Code::Forbidden)),
        other => panic!("{other:?}"),
    }
    publish(&node, "news", &json!("meanwhile"));
    assert_eq!(node.call("PUT", &path, "", &Value::Null).status, 204);
    publish(&node, "news", &json!("after"));
    for said in ["meanwhile", "after"] {
        assert_eq!(next_message(&mut news).await.payload, json!(said));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_is_returned_to_and_nothing_said_is_missed() {
    let node = Server::start_for_people(&[]);
    let proxy = FaultyProxy::to(node.address());
    let ann = connect_as(&proxy.url(), "ann").await;
    let bob = connect_as(&node.url(), "bob").await;
    let mut of_ann = ann.join("general").expect("a name");
    soon("in", of_ann.ready()).await.expect("allowed");
    let of_bob = bob.join("general").expect("a name");
    soon("in", of_bob.ready()).await.expect("allowed");
    let users = |room: &fanfare_client::Room| {
        room.users().into_iter().map(|user| user.user_id).collect::<Vec<_>>()
    };
    eventually("both see both", || {
        users(&of_ann) == ["ann", "bob"] && users(&of_bob) == ["ann", "bob"]
    })
    .await;
    let said = async |room: &mut fanfare_client::Room| loop {
        match soon("an event", room.next()).await.expect("the stream goes on") {
            ChannelEvent::Message(message) if &*message.kind == "chat" => return message.payload,
            ChannelEvent::Message(_) => {}
            other => panic!("{other:?}"),
        }
    };
    of_ann.chat("from ann").await.expect("said");
    assert_eq!(said(&mut of_ann).await, "from ann", "the sender hears it, too");
    lose_connection(&ann, &proxy).await;
    eventually("bob sees her go", || users(&of_bob) == ["bob"]).await;
    for text in ["one", "two"] {
        of_bob.chat(text).await.expect("said");
    }
    proxy.set(Fault::None);
    assert_eq!(said(&mut of_ann).await, "one");
    assert_eq!(said(&mut of_ann).await, "two");
    eventually("she is back", || users(&of_bob) == ["ann", "bob"]).await;
    of_bob.chat("three").await.expect("said");
    assert_eq!(said(&mut of_ann).await, "three");
    drop(of_ann);
    eventually("she has left", || users(&of_bob) == ["bob"]).await;
    let nobody = connect(&node.url()).await;
    let refused = nobody.join("general").expect("a name");
    let error = soon("refused", refused.ready()).await.expect_err("anonymous");
    assert_eq!(error.code(), Some(Code::Unauthorized));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_are_found_by_name() {
    let node = Server::start_for_people(&[]);
    let api = Api::new(&node.url()).expect("a URL");
    let bob_id = api.create_account("Bob", "correct horse", None).await.expect("a new name");
    let bob = Person { user_id: bob_id.clone(), username: String::from("Bob") };
    let ann = connect_as(&node.url(), "ann").await;
    for name in ["bob", "BOB", "name:bob"] {
        assert_eq!(ann.find_user(name).await.expect("asked"), Some(bob.clone()), "{name}");
    }
    assert_eq!(ann.find_user("no body & co").await.expect("asked"), None);
    let written = ann.send_message("name:bob", "hello").await.expect("stored");
    assert!(!written.id.is_empty());
    let api = api.with_login("bob", "correct horse");
    api.renew().await.expect("signed in");
    assert_eq!(api.find_user("Bob").await.expect("asked"), Some(bob));
    let kept = api.call("GET", "/api/v1/messages", None).await.expect("read");
    assert_eq!(kept["messages"][0]["to_user_id"], *bob_id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envelopes_are_acknowledged() {
    let node = Server::start_for_people(&[]);
    let (ann, bob) = (connect_as(&node.url(), "ann").await, connect_as(&node.url(), "bob").await);
    let mut inbox = bob.envelopes();
    let reached = ann.send("notification", json!({"content": "hi"}), Some("bob")).await;
    assert_eq!(reached.expect("sent"), 1);
    let envelope = loop {
        match soon("an envelope", inbox.next()).await.expect("the stream goes on") {
            EnvelopeEvent::Message(envelope) if envelope.message_type == "notification" => {
                break envelope;
            }
            _ => {}
        }
    };
    assert_eq!(
        (envelope.from_user_id.as_deref(), &envelope.data["content"]),
        (Some("ann"), &json!("hi"))
    );
    let error = ann.send("text", json!({}), Some("nobody-knows")).await.expect_err("unknown");
    assert_eq!(error.code(), Some(Code::NotFound));
    assert!(error.retry_after().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn direct_messages_arrive_once_each_however_often_we_were_away() {
    let node = Server::start_for_people(&[]);
    let proxy = FaultyProxy::to(node.address());
    let ann = connect_as(&node.url(), "ann").await;
    let bob = connect_as(&proxy.url(), "bob").await;
    let group = json!({"name": "g", "members": ["bob"]});
    let made = node.call("POST", "/api/v1/groups", &token("ann", 60, ""), &group);
    assert_eq!(made.status, 201, "{}", made.text);
    let group = made.body["group_id"].as_str().expect("an id").to_owned();
    ann.send_message("bob", "before").await.expect("stored");
    let mut messages = bob.messages();
    let mut ids = Vec::new();
    let mut expect = async |ids: &mut Vec<String>, content: String| {
        let message = soon("a message", messages.next()).await.expect("the stream goes on");
        assert_eq!(message.content, content);
        assert!(!ids.contains(&message.id), "{content} twice");
        ids.push(message.id);
    };
    expect(&mut ids, "before".into()).await;
    for round in 0..3 {
        let sent = ann.send_message("bob", &format!("pushed {round}")).await.expect("stored");
        expect(&mut ids, format!("pushed {round}")).await;
        assert_eq!(ids.last(), Some(&sent.id));
        bob.send_message("ann", "mine").await.expect("stored");
        lose_connection(&bob, &proxy).await;
        for number in 0..10 {
            ann.send_message("bob", &format!("{round} {number}")).await.expect("stored");
        }
        ann.send_group_message(&group, &format!("group {round}")).await.expect("stored");
        proxy.set(Fault::None);
        for number in 0..10 {
            expect(&mut ids, format!("{round} {number}")).await;
        }
        expect(&mut ids, format!("group {round}")).await;
    }
    // One who comes later gets what is after the message it names.
    let mut later = bob.messages_after(&ids[ids.len() - 3]).expect("an id");
    for id in &ids[ids.len() - 2..] {
        assert_eq!(&soon("a message", later.next()).await.expect("it goes on").id, id);
    }
    assert!(bob.messages_after("x").is_err());
    assert!(matches!(bob.status(), Status::Connected { user_id: Some(user), .. } if user == "bob"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_of_direct_messages_finds_them_on_the_server() {
    let node = Server::start_for_people(&[]);
    let ann = connect_as(&node.url(), "ann").await;
    let bob = builder(&node.url()).token(token("bob", 60, "")).queue_events_max(4);
    let bob = bob.connect().await.expect("it is there");
    let mut messages = bob.messages();
    for number in 0..30 {
        ann.send_message("bob", &number.to_string()).await.expect("stored");
    }
    for number in 0..30 {
        let message = soon("a message", messages.next()).await.expect("the stream goes on");
        assert_eq!(message.content, number.to_string());
    }
}
