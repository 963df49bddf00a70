//! Channels: a publication reaches every subscriber once and in order, and a client that comes back
//! gets the missed messages, or learns that they are gone.

use fanfare_test_support as support;
use fanfare_test_support::{Client, Server, assert_is_time, eventually, token};
use serde_json::{Value, json};

fn subscribe(client: &mut Client, channel: &str) -> Value {
    client.ask(&json!({"type": "subscribe", "channel": channel}), "subscribed")
}

fn publish(client: &mut Client, channel: &str, payload: &Value) -> Value {
    client.send_json(&json!({"type": "publish", "channel": channel, "payload": payload}));
    client.find_type("published")
}

#[test]
fn a_message_reaches_every_subscriber_once() {
    let server = Server::start(&[]);
    let (mut ann, mut bob, mut cid) = (server.connect(), server.connect(), server.connect());
    let answer = ann.ask(&json!({"type": "subscribe", "channel": "news", "id": 4}), "subscribed");
    assert_eq!(
        (&answer["channel"], &answer["offset"], &answer["id"]),
        (&json!("news"), &json!(0), &json!(4))
    );
    assert!(answer["epoch"].is_string() && answer.get("recovered").is_none(), "{answer}");
    subscribe(&mut bob, "news");
    subscribe(&mut bob, "news");
    subscribe(&mut cid, "News");
    let answer = publish(&mut ann, "news", &json!({"a": [1, null]}));
    assert_eq!((&answer["channel"], &answer["offset"]), (&json!("news"), &json!(1)));
    let message = bob.next_json();
    assert_eq!((&message["type"], &message["channel"]), (&json!("json"), &json!("news")));
    assert_eq!((&message["payload"], &message["offset"]), (&json!({"a": [1, null]}), &json!(1)));
    assert_eq!(message["message_id"], answer["message_id"]);
    assert_eq!(message.get("from_user_id"), None, "nobody is signed in");
    assert_is_time(&message["timestamp"]);
    assert!(ann.drain().len() <= 1 && bob.drain().is_empty(), "nothing comes twice");
    assert!(cid.drain().is_empty(), "names differ in case");
}

#[test]
fn labels_events_and_metadata_come_along() {
    let server = Server::start_for_people(&[]);
    let mut ann = server.connect_as("ann");
    subscribe(&mut ann, "c");
    ann.send_json(&json!({"type": "publish", "channel": "c", "payload": "hi",
        "metadata": {"k": 1}, "id": "x"}));
    let frames = [ann.next_json(), ann.next_json()];
    let message = frames.iter().find(|frame| frame["type"] == "text").expect("its own message");
    assert_eq!((&message["metadata"], &message["from_user_id"]), (&json!({"k": 1}), &json!("ann")));
    assert!(frames.iter().any(|frame| frame["type"] == "published" && frame["id"] == "x"));
    ann.send_json(
        &json!({"type": "publish", "channel": "c", "payload": {}, "event": "order.paid"}),
    );
    let message = ann.find_type("event");
    assert_eq!(message["event"], "order.paid");
    ann.send_json(&json!({"type": "publish", "channel": "c", "payload": 1, "echo": false}));
    ann.find_type("published");
    assert!(ann.drain().is_empty(), "no echo was wanted");
}

#[test]
fn who_comes_back_gets_what_was_missed() {
    let server = Server::start(&["--channel-history-max", "4"]);
    let (mut ann, mut bob) = (server.connect(), server.connect());
    let epoch = subscribe(&mut ann, "c")["epoch"].clone();
    for n in 1..=6 {
        publish(&mut bob, "c", &json!(n));
    }
    let resume = |offset: u64, epoch: &Value| {
        let mut client = server.connect();
        let since = json!({"epoch": epoch, "offset": offset});
        let answer =
            client.ask(&json!({"type": "subscribe", "channel": "c", "since": since}), "subscribed");
        let missed: Vec<u64> =
            client.drain().iter().map(|frame| frame["offset"].as_u64().expect("one")).collect();
        (answer["recovered"].as_bool(), answer["offset"].as_u64(), missed)
    };
    assert_eq!(resume(3, &epoch), (Some(true), Some(6), vec![4, 5, 6]));
    assert_eq!(resume(2, &epoch), (Some(true), Some(6), vec![3, 4, 5, 6]));
    assert_eq!(resume(6, &epoch), (Some(true), Some(6), vec![]));
    assert_eq!(resume(1, &epoch), (Some(false), Some(6), vec![]));
    assert_eq!(resume(7, &epoch), (Some(false), Some(6), vec![]), "ahead of all there is");
    assert_eq!(resume(3, &json!("other")), (Some(false), Some(6), vec![]));
    let history = server.get("/api/v1/channels/c/history?after=4&limit=1").body;
    assert_eq!((&history["epoch"], &history["messages"][0]["payload"]), (&epoch, &json!(5)));
    assert_eq!(history["messages"].as_array().map(Vec::len), Some(1));
}

#[test]
fn channels_over_http() {
    let server = Server::start(&[]);
    let mut ann = server.connect();
    let path = "/api/v1/channels";
    let reply = server.post_json(path, &json!({"name": "a/b c", "description": "d"}));
    assert_eq!((reply.status, &reply.body["name"]), (201, &json!("a/b c")));
    server.post_json(path, &json!({"name": "a/b c"})).expect_problem(409, "conflict");
    for name in [json!(""), json!("*"), json!(7), json!("x".repeat(256)), json!("a\nb")] {
        let status = server.post_json(path, &json!({"name": name})).status;
        assert!((400..=413).contains(&status), "{name}");
    }
    subscribe(&mut ann, "a/b c");
    subscribe(&mut ann, "live one");
    let list = server.get(path).body;
    let names: Vec<_> = list["channels"].as_array().expect("a list").iter().collect();
    assert_eq!((&names[0]["name"], &names[0]["subscribers"]), (&json!("a/b c"), &json!(1)));
    assert_eq!((&names[1]["name"], &names[1]["description"]), (&json!("live one"), &json!("")));
    ann.send_json(&json!({"type": "system", "payload": {"command": "list_channels"}, "id": 1}));
    let answer = ann.expect("system");
    assert_eq!(answer["payload"]["command"], "list_channels");
    assert_eq!(
        answer["payload"]["channels"][0],
        json!({"name": "a/b c", "description": "d", "subscribers": 1})
    );

    let message = json!({"payload": {"x": 1}, "type": "system", "metadata": {"m": 2}});
    let reply = server.post_json("/api/v1/channels/a%2Fb%20c/messages", &message);
    assert_eq!((reply.status, &reply.body["delivered_to"]), (200, &json!(1)), "{}", reply.text);
    let pushed = ann.expect("system");
    assert_eq!((&pushed["offset"], &pushed["message_id"]), (&json!(1), &reply.body["message_id"]));
    let described = server.get("/api/v1/channels/a%2Fb%20c").body;
    assert_eq!((&described["subscribers"], &described["offset"]), (&json!(1), &json!(1)));

    let deleted = server.request("DELETE", "/api/v1/channels/a%2Fb%20c", &[], b"");
    assert_eq!((deleted.status, deleted.text.as_str()), (204, ""));
    let told = ann.expect("unsubscribed");
    assert_eq!((&told["channel"], &told["reason"]), (&json!("a/b c"), &json!("deleted")));
    server.get("/api/v1/channels/a%2Fb%20c").expect_problem(404, "not_found");
    server.request("DELETE", "/api/v1/channels/nope", &[], b"").expect_problem(404, "not_found");
    let before = described["epoch"].clone();
    assert_ne!(subscribe(&mut ann, "a/b c")["epoch"], before, "it begins anew");
}

#[test]
fn aimed_messages_are_not_kept() {
    let server = Server::start(&[]);
    let mut clients: Vec<Client> = (0..3).map(|_| server.connect()).collect();
    for client in &mut clients {
        subscribe(client, "c");
    }
    let ids: Vec<String> = clients.iter().map(Client::id).collect();
    let path = "/api/v1/channels/c/messages";
    let publish = |body: Value| server.post_json(path, &body).body;
    let reply = publish(json!({"payload": "one", "only_to": [ids[0], ids[0], "9-9-9", "nobody"]}));
    assert_eq!((&reply["delivered_to"], &reply["offset"]), (&json!(1), &Value::Null));
    let reply = publish(json!({"payload": "two", "exclude": [ids[0]]}));
    assert_eq!((&reply["delivered_to"], &reply["offset"]), (&json!(2), &Value::Null));
    let reply =
        publish(json!({"payload": "three", "only_to": [ids[1], ids[2]], "exclude": [ids[2]]}));
    assert_eq!(reply["delivered_to"], 1);
    assert_eq!(publish(json!({"payload": "none", "only_to": []}))["delivered_to"], 0);
    assert_eq!(publish(json!({"payload": "all", "exclude": []}))["offset"], 1);
    let got: Vec<Vec<Value>> = clients
        .iter_mut()
        .map(|client| client.drain().iter().map(|frame| frame["payload"].clone()).collect())
        .collect();
    assert_eq!(got, [vec!["one", "all"], vec!["two", "three", "all"], vec!["two", "all"]]);
    let history = server.get("/api/v1/channels/c/history").body;
    assert_eq!(history["messages"].as_array().map(Vec::len), Some(1));
    let wrong = server.post_json(path, &json!({"payload": 1, "only_to": "x"}));
    wrong.expect_problem(400, "invalid_argument");
}

#[test]
fn a_path_names_the_channel() {
    let server = Server::start(&[]);
    let stream = || std::net::TcpStream::connect(server.address()).expect("accepts");
    let mut ann = server.connect_to("/ws/news%3Aroom1", stream(), &[]).expect("opens");
    assert_eq!(ann.expect("subscribed")["channel"], "news:room1");
    server.post_json("/api/v1/channels/news:room1/messages", &json!({"payload": "hi"}));
    assert_eq!(ann.expect("text")["payload"], "hi");
    assert_eq!(server.get("/ws/news:room1").status, 426);
    assert_eq!(server.post_json("/ws/news:room1", &json!({})).status, 405);
    for (path, status) in
        [("/ws/*", 400), ("/ws/%ff", 400), ("/ws/a/b", 404), ("/ws/", 404), ("/ws/%73tats", 404)]
    {
        assert_eq!(server.connect_to(path, stream(), &[]).err(), Some(status), "{path}");
    }
    assert_eq!(server.connect_to("/ws/online", stream(), &[]).err(), Some(200));
}

#[test]
fn live_updates_and_dashboards_are_channels() {
    let server = Server::start(&[]);
    let mut ann = server.connect();
    subscribe(&mut ann, "live:order");
    subscribe(&mut ann, "dashboard:sales");
    let update = json!({"action": "updated", "data": {"total": 7}});
    let reply = server.post_json("/api/v1/live/order/o-1", &update);
    assert_eq!((reply.status, &reply.body["delivered_to"]), (200, &json!(1)), "{}", reply.text);
    let pushed = ann.expect("event");
    assert_eq!(
        (&pushed["event"], &pushed["channel"]),
        (&json!("order.updated"), &json!("live:order"))
    );
    let payload =
        json!({"entity": "order", "id": "o-1", "action": "updated", "data": {"total": 7}});
    assert_eq!(pushed["payload"], payload);
    server
        .post_json("/api/v1/live/order/o-1", &json!({"action": "eaten"}))
        .expect_problem(400, "invalid_argument");
    let metrics = json!({"revenue": 1.5});
    assert_eq!(server.post_json("/api/v1/dashboards/sales/metrics", &metrics).status, 200);
    let pushed = ann.expect("event");
    assert_eq!((&pushed["event"], &pushed["payload"]), (&json!("metrics"), &metrics));
}

#[test]
fn unsubscribing_is_the_end_of_it() {
    let server = Server::start(&[]);
    let mut ann = server.connect();
    subscribe(&mut ann, "c");
    let leave = json!({"type": "system", "payload": {"command": "unsubscribe", "channel": "c"}});
    assert_eq!(ann.ask(&leave, "unsubscribed"), json!({"type": "unsubscribed", "channel": "c"}));
    let reply = server.post_json("/api/v1/channels/c/messages", &json!({"payload": 1}));
    assert_eq!(reply.body["delivered_to"], 0);
    assert!(ann.drain().is_empty());
    ann.ask(&json!({"type": "unsubscribe", "channel": "never"}), "unsubscribed");
    ann.send_json(&json!({"type": "subscribe", "channel": "c", "service_id": "s", "id": 9}));
    assert_eq!(ann.expect_error("invalid_argument")["id"], 9);
    ann.send_json(&json!({"type": "subscribe", "channel": "*"}));
    ann.expect_error("invalid_argument");
    drop(ann);
    eventually("the dropped connection leaves its channels", support::READ_PATIENCE, || {
        let list = server.get("/api/v1/channels").body;
        list["channels"].as_array().is_some_and(|all| all.iter().all(|one| one["subscribers"] == 0))
    });
}

#[test]
fn a_channel_that_is_not_read_ends_in_4408_and_a_resume() {
    // All that is missed is still in the history.
    let server =
        Server::start(&["--outbox-bytes-max", "64KiB", "--channel-history-bytes-max", "8MiB"]);
    let mut slow = server.connect();
    let epoch = subscribe(&mut slow, "c")["epoch"].clone();
    let payload = "x".repeat(50_000);
    for _ in 0..100 {
        let body = json!({"payload": payload});
        assert_eq!(server.post_json("/api/v1/channels/c/messages", &body).status, 200);
    }
    let (frames, code) = slow.read_to_close();
    assert_eq!(code, 4408);
    let last = frames.last().and_then(|frame| frame["offset"].as_u64()).expect("some came");
    assert!(frames.iter().zip(1..).all(|(frame, offset)| frame["offset"] == offset), "a gap");
    let mut back = server.connect();
    let since = json!({"epoch": epoch, "offset": last});
    let answer =
        back.ask(&json!({"type": "subscribe", "channel": "c", "since": since}), "subscribed");
    assert_eq!(answer["recovered"], true);
    for offset in last + 1..=100 {
        assert_eq!(back.expect("text")["offset"], offset);
    }
    assert_eq!(server.count("fanfare_closes_total{code=\"4408\"}"), 1);
}

#[test]
fn namespaces_say_who_may() {
    let server = Server::start_for_people(&["--auth", "required"]);
    let (user, publisher) = (token("ann", ""), token("robot", "publish"));
    let message = json!({"payload": 1});
    let post = |path: &str, token: &str| server.call("POST", path, token, &message).status;
    assert_eq!(post("/api/v1/channels/c/messages", ""), 401);
    assert_eq!(post("/api/v1/channels/c/messages", &user), 403);
    assert_eq!(post("/api/v1/channels/c/messages", &publisher), 200);
    assert_eq!(post("/api/v1/dashboards/d/metrics", &user), 403);
    let define =
        |token: &str| server.call("POST", "/api/v1/channels", token, &json!({"name": "n"}));
    assert_eq!(define(&publisher).status, 403);
    assert_eq!(define(&token("root", "admin")).status, 201);
    let mut ann = server.connect_with(&user);
    ann.send_json(&json!({"type": "publish", "channel": "c", "payload": 1}));
    ann.expect("published");
    ann.send_json(&json!({"type": "publish", "channel": "live:order", "payload": 1, "id": 5}));
    assert_eq!(ann.expect_error("forbidden")["id"], 5);
}

#[test]
fn a_file_can_make_its_own_namespaces() {
    let dir = std::env::temp_dir().join(format!("fanfare-namespaces-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let file = dir.join("fanfare.toml");
    let text = "[namespaces.\"news:\"]\npublish = \"nobody\"\nhistory-max = 2\n\
        [namespaces.\"club:\"]\nsubscribe = \"users\"\npresence = true\n";
    std::fs::write(&file, text).expect("written");
    let server = Server::start_for_people(&["--config", &file.to_string_lossy()]);
    let (mut ann, mut nobody) = (server.connect_as("ann"), server.connect());
    ann.send_json(&json!({"type": "publish", "channel": "news:x", "payload": 1}));
    ann.expect_error("forbidden");
    nobody.send_json(&json!({"type": "subscribe", "channel": "club:x"}));
    nobody.expect_error("unauthorized");
    let stream = std::net::TcpStream::connect(server.address()).expect("accepts");
    assert_eq!(server.connect_to("/ws/club:x", stream, &[]).err(), Some(403));
    subscribe(&mut ann, "club:x");
    let mut bob = server.connect_as("bob");
    subscribe(&mut bob, "club:x");
    let joined = ann.find_type("event");
    assert_eq!(
        (&joined["event"], &joined["payload"]["user_id"]),
        (&json!("user.joined"), &json!("bob"))
    );
    let users = server.get("/api/v1/channels/club:x").body["users"].clone();
    assert_eq!(users.as_array().map(Vec::len), Some(2));
    let shown = server.get("/api/status/config.json").body["namespaces"]["news:"].clone();
    assert_eq!((&shown["publish"], &shown["history_max"]), (&json!("nobody"), &json!(2)));
    std::fs::remove_dir_all(dir).expect("removed");
}

#[test]
fn an_operator_subscribes_and_unsubscribes_a_connection() {
    let server = Server::start(&["--subscriptions-per-connection-max", "2"]);
    let (mut ann, mut bob) = (server.connect(), server.connect());
    let path = |client: &Client, channel: &str| {
        format!("/api/v1/connections/{}/channels/{channel}", client.id())
    };
    server.post_json("/api/v1/channels/a:b/messages", &json!({"payload": 0}));
    for _ in 0..2 {
        let set = server.request("PUT", &path(&ann, "a%3Ab"), &[], b"");
        assert_eq!((set.status, &*set.text), (204, ""), "{}", set.text);
    }
    let sent = server.post_json("/api/v1/channels/a:b/messages", &json!({"payload": 1}));
    assert_eq!(sent.body["delivered_to"], 1);
    let frames = ann.drain();
    let kinds: Vec<_> = frames.iter().map(|one| (&one["type"], &one["offset"])).collect();
    assert_eq!(kinds, [(&json!("subscribed"), &json!(1)), (&json!("json"), &json!(2))]);
    assert!(frames[0].get("id").is_none(), "nobody asked: {}", frames[0]);
    let listed = server.get(&format!("/api/v1/connections/{}", ann.id())).body;
    assert_eq!(listed["channels"], json!(["a:b"]));
    assert!(bob.drain().is_empty());

    // The client's own requests go on as ever, and count together with these.
    subscribe(&mut ann, "mine");
    server
        .request("PUT", &path(&ann, "more"), &[], b"")
        .expect_problem(409, "too_many_subscriptions");
    ann.ask(&json!({"type": "unsubscribe", "channel": "mine"}), "unsubscribed");
    assert_eq!(server.request("PUT", &path(&ann, "more"), &[], b"").status, 204);
    ann.send_json(&json!({"type": "unsubscribe", "channel": "a:b", "id": 7}));
    assert_eq!(ann.expect("subscribed")["channel"], "more");
    assert_eq!(ann.expect("unsubscribed")["id"], 7);
    for _ in 0..2 {
        assert_eq!(server.request("DELETE", &path(&ann, "more"), &[], b"").status, 204);
    }
    let ended = json!({"type": "unsubscribed", "channel": "more", "reason": "operator"});
    assert_eq!(ann.drain(), [ended]);
    let sent = server.post_json("/api/v1/channels/more/messages", &json!({"payload": 1}));
    assert_eq!(sent.body["delivered_to"], 0);

    for (method, name, status, code) in [
        ("PUT", "*".to_owned(), 400, "invalid_argument"),
        ("PUT", "x".repeat(256), 413, "too_large"),
        ("DELETE", "a%00b".to_owned(), 400, "invalid_argument"),
    ] {
        server.request(method, &path(&ann, &name), &[], b"").expect_problem(status, code);
    }
    let unknown = "/api/v1/connections/00000000-0-1-1/channels/c";
    for method in ["PUT", "DELETE"] {
        server.request(method, unknown, &[], b"").expect_problem(404, "not_found");
    }
    let got = server.get(&path(&ann, "c"));
    got.expect_problem(405, "invalid_argument");
    assert_eq!(got.header("allow"), Some("PUT, DELETE"));
}

#[test]
fn an_operator_subscribes_to_what_the_rules_forbid_and_a_new_token_ends_it() {
    let server = Server::start_for_people(&["--auth", "required"]);
    let admin = token("root", "admin");
    let mut ann = server.connect_as("ann");
    let path = format!("/api/v1/connections/{}/channels/user:bob", ann.id());
    let call = |method: &str, token: &str| server.call(method, &path, token, &Value::Null);
    call("PUT", &token("ann", "publish message sockets:read")).expect_problem(403, "forbidden");
    call("DELETE", "").expect_problem(401, "unauthorized");
    ann.send_json(&json!({"type": "subscribe", "channel": "user:bob"}));
    ann.expect_error("forbidden");
    assert_eq!(call("PUT", &admin).status, 204);
    assert_eq!(ann.expect("subscribed")["channel"], "user:bob");
    ann.ask(&json!({"type": "refresh", "token": token("ann", "message")}), "refreshed");
    let ended = ann.expect("unsubscribed");
    assert_eq!((&ended["channel"], &ended["reason"]), (&json!("user:bob"), &json!("forbidden")));
}

#[test]
fn what_is_noted_of_a_connection_ends_with_it() {
    let server = Server::start(&[]);
    let mut ann = server.connect();
    let path = format!("/api/v1/connections/{}", ann.id());
    let put = |body: &Value| server.call("PUT", &format!("{path}/metadata"), "", body);
    assert!(server.get(&path).body.get("metadata").is_none());
    let noted = json!({"tenant": "acme", "tags": ["a", null]});
    assert_eq!(put(&noted).status, 204);
    assert_eq!(server.get(&path).body["metadata"], noted);
    assert!(server.get("/api/v1/connections").body["connections"][0].get("metadata").is_none());
    assert_eq!(put(&json!({"k": "x".repeat(4_096 - 8)})).status, 204);
    put(&json!({"k": "x".repeat(4_096 - 7)})).expect_problem(413, "too_large");
    put(&json!([1])).expect_problem(400, "malformed");
    assert_eq!(put(&json!({})).status, 204);
    assert!(server.get(&path).body.get("metadata").is_none());
    assert_eq!(put(&noted).status, 204);
    assert!(ann.drain().is_empty(), "the client is told nothing");
    assert_eq!(server.request("DELETE", &path, &[], b"").status, 204);
    assert_eq!(ann.read_to_close().1, 4403);
    eventually("it is gone", std::time::Duration::from_secs(10), || put(&noted).status == 404);
}
