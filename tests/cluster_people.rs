//! Users at several nodes: rooms, presence and the receivers of messages are the same, whichever
//! node a user is connected to.

#![allow(clippy::disallowed_methods, reason = "a dead node is noticed by the clock of the wall")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use fanfare_test_support::nodes::{PATIENCE, nodes};
use fanfare_test_support::redis::Redis;
use fanfare_test_support::{Client, Server, assert_is_time, eventually, token};
use serde_json::{Value, json};

/// How long the others may take to miss a node that was killed, and a bit.
const MISSED: Duration = Duration::from_secs(12);

fn join(client: &mut Client, room: &str) -> BTreeSet<String> {
    client.send_json(&json!({"type": "join", "room": room}));
    let joined = client.find_type("joined");
    assert_eq!(joined["room"], room, "{joined}");
    users(&joined)
}

fn leave(client: &mut Client, room: &str) {
    client.send_json(&json!({"type": "leave", "room": room}));
    assert_eq!(client.find_type("left")["room"], room);
}

fn subscribe(client: &mut Client, channel: &str) {
    client.send_json(&json!({"type": "subscribe", "channel": channel}));
    client.find_type("subscribed");
}

fn users(list: &Value) -> BTreeSet<String> {
    let users = list["users"].as_array().unwrap_or_else(|| panic!("no users: {list}"));
    let id = |user: &Value| user["user_id"].as_str().expect("an id").to_owned();
    let ids: BTreeSet<String> = users.iter().map(id).collect();
    assert_eq!(ids.len(), users.len(), "a user stands twice: {list}");
    ids
}

fn set(users: &[&str]) -> BTreeSet<String> {
    users.iter().map(|&user| user.to_owned()).collect()
}

/// Waits until a node knows that these are in a room.
fn await_room(server: &Server, room: &str, wanted: &[&str]) {
    let mut said = Value::Null;
    let start = Instant::now();
    while said["users"].is_null() || users(&said) != set(wanted) {
        assert!(start.elapsed() < PATIENCE, "not {wanted:?}: {said}");
        said = server.get(&format!("/api/v1/channels/chat:{room}")).body;
    }
}

/// Waits until a node knows that these are online, each with so many connections.
fn await_online(server: &Server, wanted: &[(&str, u64)]) -> Value {
    let wanted: BTreeMap<String, u64> =
        wanted.iter().map(|&(user, count)| (user.to_owned(), count)).collect();
    let start = Instant::now();
    loop {
        let said = server.get("/ws/online").body;
        let counts: BTreeMap<String, u64> = said["users"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|user| {
                let id = user["user_id"].as_str().expect("an id").to_owned();
                (id, user["connections"].as_u64().expect("a number"))
            })
            .collect();
        if counts == wanted && said["count"] == wanted.len() {
            return said;
        }
        assert!(start.elapsed() < PATIENCE, "not {wanted:?}: {said}");
    }
}

/// Waits until a node counts so many sockets of all nodes.
fn await_sockets(server: &Server, count: u64) {
    let mut said = Value::Null;
    let start = Instant::now();
    while said["connections"] != count {
        assert!(start.elapsed() < PATIENCE, "not {count} connections: {said}");
        said = server.get("/ws/stats?scope=cluster").body;
    }
}

fn chat(client: &mut Client, room: &str, content: &str) {
    client.send_json(&json!({"type": "chat", "room": room, "content": content}));
}

/// What is told of users who come into the room and leave it, up to a chat message that says so.
fn told_until(client: &mut Client, fence: &str) -> Vec<(String, String)> {
    let mut told = about_people(client, fence);
    told.retain(|(event, _)| !event.starts_with("user_"));
    told
}

fn room_event(frame: &Value) -> Option<(String, String)> {
    let event = frame["event"].as_str()?.to_owned();
    Some((event, frame["payload"]["user_id"].as_str()?.to_owned()))
}

fn envelope(to: Option<&str>, id: &str) -> Value {
    let mut envelope = json!({"id": id, "message_type": "text", "data": {"n": 1}});
    if let Some(to) = to {
        envelope["to_user_id"] = to.into();
    }
    envelope
}

fn acknowledged(client: &mut Client, id: &str) -> Value {
    let ack = client.find_envelope("ack");
    assert_eq!(ack["id"], id, "{ack}");
    ack["data"]["delivered_to"].clone()
}

#[test]
fn a_room_is_the_same_at_every_node() {
    let redis = Redis::start();
    let [a, b, c]: [Server; 3] = nodes(&redis, &[]);
    let (mut ann, mut bob) = (a.connect_as("ann"), b.connect_as("bob"));
    assert_eq!(join(&mut ann, "r"), set(&["ann"]));
    await_room(&b, "r", &["ann"]);
    assert_eq!(join(&mut bob, "r"), set(&["ann", "bob"]));
    let heard = ann.find_type("event");
    assert_eq!(heard["channel"], "chat:r", "{heard}");
    assert_eq!(heard["event"], "user.joined", "{heard}");
    assert_eq!(heard["payload"], json!({"user_id": "bob", "username": "Bob"}), "{heard}");
    chat(&mut bob, "r", "hello");
    let (here, there) = (ann.find_type("chat"), bob.find_type("chat"));
    for frame in [&here, &there] {
        assert_eq!((&frame["room"], &frame["content"]), (&json!("r"), &json!("hello")), "{frame}");
        assert_eq!(
            (&frame["from_user_id"], &frame["username"]),
            (&json!("bob"), &json!("Bob")),
            "{frame}"
        );
        assert_is_time(&frame["timestamp"]);
    }
    assert_eq!(
        (&here["message_id"], &here["offset"]),
        (&there["message_id"], &there["offset"]),
        "{here} and {there}"
    );
    // A third node, which nobody of the room is at, knows as much.
    await_room(&c, "r", &["ann", "bob"]);
    let history = c.get("/api/v1/channels/chat:r/history").body;
    assert_eq!(history["messages"][0]["message_id"], here["message_id"], "{history}");
    assert_eq!(history["messages"].as_array().map(Vec::len), Some(1), "{history}");
    leave(&mut bob, "r");
    let heard = ann.find_type("event");
    assert_eq!(room_event(&heard), Some((String::from("user.left"), String::from("bob"))));
    await_room(&c, "r", &["ann"]);
    chat(&mut ann, "r", "alone");
    ann.find_type("chat");
    assert!(bob.drain().iter().all(|frame| frame["type"] != "chat"), "bob has left");
    chat(&mut bob, "r", "still?");
    assert_eq!(bob.find_type("error")["code"], "forbidden");
}

#[test]
fn what_is_said_has_one_order_for_all() {
    const EACH: usize = 30;
    let redis = Redis::start();
    let servers: [Server; 3] = nodes(&redis, &[]);
    let mut people: Vec<Client> = servers
        .iter()
        .zip(["ann", "bob", "cid"])
        .map(|(server, user)| server.connect_as(user))
        .collect();
    for person in &mut people {
        join(person, "r");
    }
    for n in 0..EACH {
        for person in &mut people {
            chat(person, "r", &format!("{n}"));
        }
    }
    let heard: Vec<Vec<(u64, Value)>> = people
        .iter_mut()
        .map(|person| {
            let said = |_| {
                let frame = person.find_type("chat");
                (frame["offset"].as_u64().expect("an offset"), frame["message_id"].clone())
            };
            (0..3 * EACH).map(said).collect()
        })
        .collect();
    assert!(heard[0].iter().map(|one| one.0).eq(1..=3 * EACH as u64), "{:?}", heard[0]);
    assert_eq!(heard[0], heard[1]);
    assert_eq!(heard[0], heard[2]);
}

#[test]
fn a_user_at_many_nodes_comes_and_goes_once() {
    let redis = Redis::start();
    let [a, b, c]: [Server; 3] = nodes(&redis, &[]);
    let mut ann = a.connect_as("ann");
    join(&mut ann, "r");
    let mut bobs = [a.connect_as("bob"), b.connect_as("bob"), c.connect_as("bob")];
    for (bob, (server, there)) in
        bobs.iter_mut().zip([(&a, &["ann"][..]), (&b, &["ann", "bob"]), (&c, &["ann", "bob"])])
    {
        await_room(server, "r", there);
        assert_eq!(join(bob, "r"), set(&["ann", "bob"]));
        assert_eq!(join(bob, "r"), set(&["ann", "bob"]), "joining twice changes nothing");
    }
    let [here, there, elsewhere] = &mut bobs;
    chat(elsewhere, "r", "all here");
    let joined = vec![(String::from("user.joined"), String::from("bob"))];
    assert_eq!(told_until(&mut ann, "all here"), joined);
    leave(there, "r");
    leave(here, "r");
    chat(elsewhere, "r", "one here");
    assert!(told_until(&mut ann, "one here").is_empty(), "one of three is still there");
    let [_, _, elsewhere] = bobs;
    drop(elsewhere);
    let left = ann.find_type("event");
    assert_eq!(room_event(&left), Some((String::from("user.left"), String::from("bob"))));
    await_room(&b, "r", &["ann"]);
    let mut dan = b.connect_as("dan");
    join(&mut dan, "r");
    chat(&mut dan, "r", "and I");
    let told = told_until(&mut ann, "and I");
    assert_eq!(told, [(String::from("user.joined"), String::from("dan"))], "bob left once");
}

/// Both connections are on their way at once, at two nodes that do not know of each other's yet.
#[test]
fn who_comes_to_two_nodes_at_once_comes_once() {
    const ROUNDS: usize = 10;
    let redis = Redis::start();
    let [a, b, c]: [Server; 3] = nodes(&redis, &[]);
    let mut ann = a.connect_as("ann");
    join(&mut ann, "r");
    await_room(&b, "r", &["ann"]);
    await_room(&c, "r", &["ann"]);
    let mut heard = Vec::new();
    for round in 0..ROUNDS {
        let user = format!("bob{round}");
        let mut both = [b.connect_as(&user), c.connect_as(&user)];
        for client in &mut both {
            client.send_json(&json!({"type": "join", "room": "r"}));
        }
        for client in &mut both {
            client.find_type("joined");
        }
        await_room(&a, "r", &["ann", &user]);
        await_online(&a, &[("ann", 1), (&user, 2)]);
        // What both say comes after what is told of them.
        for (client, text) in both.iter_mut().zip(["one", "two"]) {
            chat(client, "r", text);
            heard.extend(about_people(&mut ann, text));
            let other = client.find("the message", |frame| frame["content"] == text);
            assert_eq!(other["from_user_id"], *user, "{other}");
        }
        for client in &mut both {
            let frames = client.drain();
            let own = frames.iter().any(|frame| frame["data"]["user_id"] == *user);
            assert!(!own, "told of oneself: {frames:?}");
        }
        drop(both);
        await_room(&a, "r", &["ann"]);
        await_online(&a, &[("ann", 1)]);
    }
    // A message over each of them comes after all they had to tell.
    for (server, text) in [(&b, "last of b"), (&c, "last of c")] {
        let mut dan = server.connect_as("dan");
        join(&mut dan, "r");
        chat(&mut dan, "r", text);
        heard.extend(about_people(&mut ann, text));
    }
    for round in 0..ROUNDS {
        let user = format!("bob{round}");
        let mut of: Vec<&str> =
            heard.iter().filter(|one| one.1 == user).map(|one| &*one.0).collect();
        of.sort_unstable();
        assert_eq!(of, ["user.joined", "user.left", "user_joined", "user_left"], "{heard:?}");
    }
}

/// What is told of people, in the room and outside, up to a message that says so.
fn about_people(client: &mut Client, fence: &str) -> Vec<(String, String)> {
    let mut told = Vec::new();
    loop {
        let frame = client.next_json();
        if frame["type"] == "chat" && frame["content"] == fence {
            return told;
        }
        told.extend(room_event(&frame));
        told.extend(people_event(&frame));
    }
}

fn people_event(frame: &Value) -> Option<(String, String)> {
    let kind = frame["message_type"].as_str().filter(|kind| kind.starts_with("user_"))?;
    Some((kind.to_owned(), frame["data"]["user_id"].as_str()?.to_owned()))
}

#[test]
fn the_lobby_is_joined_by_speaking_at_any_node() {
    let redis = Redis::start();
    let [a, b]: [Server; 2] = nodes(&redis, &[]);
    let (mut ann, mut bob) = (a.connect_as("ann"), b.connect_as("bob"));
    join(&mut ann, "lobby");
    bob.send_json(&json!({"type": "chat", "content": "hi", "id": "m"}));
    let own = bob.find_type("chat");
    assert_eq!((&own["room"], &own["id"]), (&json!("lobby"), &json!("m")), "{own}");
    assert_eq!(told_until(&mut ann, "hi"), [(String::from("user.joined"), String::from("bob"))]);
    await_room(&a, "lobby", &["ann", "bob"]);
    chat(&mut ann, "lobby", "welcome");
    let heard = bob.find_type("chat");
    assert_eq!((&heard["content"], heard.get("id")), (&json!("welcome"), None), "{heard}");
}

#[test]
fn the_users_of_a_dead_node_leave() {
    let redis = Redis::start();
    let [a, mut b, c]: [Server; 3] = nodes(&redis, &[]);
    let (mut ann, mut bob) = (a.connect_as("ann"), b.connect_as("bob"));
    let (mut cid_here, mut cid_there) = (c.connect_as("cid"), b.connect_as("cid"));
    for client in [&mut ann, &mut bob, &mut cid_here, &mut cid_there] {
        join(client, "r");
    }
    for server in [&a, &c] {
        await_room(server, "r", &["ann", "bob", "cid"]);
        await_online(server, &[("ann", 1), ("bob", 1), ("cid", 2)]);
    }
    chat(&mut ann, "r", "before");
    about_people(&mut ann, "before");
    ann.drain();
    ann.socket.get_ref().set_read_timeout(Some(MISSED)).expect("above zero");
    b.kill();
    let start = Instant::now();
    let mut heard = BTreeSet::new();
    while heard.len() < 2 {
        let frame = ann.next_json();
        let event = room_event(&frame).or_else(|| people_event(&frame));
        let (event, user) = event.unwrap_or_else(|| panic!("{frame}"));
        assert_eq!(user, "bob", "cid is still there: {frame}");
        assert!(heard.insert(event), "twice: {frame}");
    }
    assert_eq!(heard, set(&["user.left", "user_left"]));
    for server in [&a, &c] {
        await_room(server, "r", &["ann", "cid"]);
        await_online(server, &[("ann", 1), ("cid", 1)]);
        await_sockets(server, 2);
    }
    assert!(start.elapsed() < MISSED, "{:?}", start.elapsed());
    ann.send_json(&envelope(Some("bob"), "m"));
    assert_eq!(acknowledged(&mut ann, "m"), 0, "known, and offline");
    // Who comes back is news again.
    let mut bob = c.connect_as("bob");
    join(&mut bob, "r");
    chat(&mut bob, "r", "back");
    let heard = about_people(&mut ann, "back");
    let names: Vec<&str> = heard.iter().map(|one| &*one.0).collect();
    assert!(names.contains(&"user.joined") && names.len() <= 2, "{heard:?}");
}

#[test]
fn who_is_online_is_known_everywhere() {
    let redis = Redis::start();
    let servers: [Server; 3] = nodes(&redis, &[]);
    let [a, b, c] = &servers;
    let _ann = a.connect_as("ann");
    let _bobs = [a.connect_as("bob"), b.connect_as("bob"), b.connect_as("bob")];
    let _nobody = c.connect();
    for server in &servers {
        let said = await_online(server, &[("ann", 1), ("bob", 3)]);
        for user in said["users"].as_array().expect("a list") {
            let name = if user["user_id"] == "ann" { "Ann" } else { "Bob" };
            assert_eq!(user["username"], name, "{said}");
            assert_is_time(&user["connected_at"]);
        }
    }
}

#[test]
fn others_hear_of_users_of_all_nodes() {
    let redis = Redis::start();
    let [a, b, c]: [Server; 3] = nodes(&redis, &[]);
    let (mut ann, mut nobody) = (a.connect_as("ann"), a.connect());
    let one = b.connect_as("bob");
    let joined = ann.find_envelope("user_joined");
    assert_eq!(joined["data"], json!({"user_id": "bob", "username": "Bob"}), "{joined}");
    await_online(&c, &[("ann", 1), ("bob", 1)]);
    let mut two = c.connect_as("bob");
    await_online(&a, &[("ann", 1), ("bob", 2)]);
    drop(one);
    await_online(&a, &[("ann", 1), ("bob", 1)]);
    // Neither the second connection nor the end of the first was news.
    two.send_json(&envelope(None, "fence"));
    let frame = ann.next_json();
    assert_eq!(frame["id"], "fence", "{frame}");
    assert!(two.drain().iter().all(|frame| frame["data"]["user_id"] != "bob"));
    drop(two);
    let left = ann.find_envelope("user_left");
    assert_eq!(left["data"]["user_id"], "bob", "{left}");
    assert!(nobody.drain().is_empty(), "who is not signed in is told nothing");
}

#[test]
fn envelopes_reach_users_at_every_node() {
    let redis = Redis::start();
    let servers: [Server; 3] = nodes(&redis, &[]);
    let [a, b, c] = &servers;
    let mut ann = a.connect_as("ann");
    let mut bobs = [a.connect_as("bob"), b.connect_as("bob")];
    let mut others = [c.connect_as("cid"), c.connect_as("ann"), c.connect()];
    for server in &servers {
        await_online(server, &[("ann", 2), ("bob", 2), ("cid", 1)]);
    }
    ann.send_json(&envelope(Some("bob"), "m1"));
    assert_eq!(acknowledged(&mut ann, "m1"), 2);
    for bob in &mut bobs {
        let got = bob.find_envelope("text");
        assert_eq!((&got["id"], &got["from_user_id"]), (&json!("m1"), &json!("ann")), "{got}");
        assert_eq!((&got["data"], &got["to_user_id"]), (&json!({"n": 1}), &json!("bob")), "{got}");
        assert_is_time(&got["timestamp"]);
    }
    ann.send_json(&envelope(None, "m2"));
    assert_eq!(acknowledged(&mut ann, "m2"), 3, "everyone else who is signed in");
    for bob in &mut bobs {
        assert_eq!(bob.find_envelope("text")["id"], "m2", "once, and in order");
    }
    assert_eq!(others[0].find_envelope("text")["id"], "m2", "the first one was for bob alone");
    for other in &mut others[1..] {
        let frames = other.drain();
        let foreign =
            |frame: &&Value| ["text", "ack"].map(Value::from).contains(&frame["message_type"]);
        assert_eq!(frames.iter().find(foreign), None, "not for the sender, nor for nobody");
    }
    ann.send_json(&envelope(Some("nobody"), "m3"));
    let error = ann.find_envelope("error");
    assert_eq!(
        (&error["id"], &error["data"]["code"]),
        (&json!("m3"), &json!("not_found")),
        "{error}"
    );
    let [cid, ..] = others;
    drop(cid);
    for server in &servers {
        await_online(server, &[("ann", 2), ("bob", 2)]);
    }
    ann.send_json(&envelope(Some("cid"), "m4"));
    assert_eq!(acknowledged(&mut ann, "m4"), 0, "known, and offline");
}

#[test]
fn a_broadcast_reaches_the_sockets_of_all_nodes() {
    let redis = Redis::start();
    let servers: [Server; 3] = nodes(&redis, &[]);
    let [a, b, c] = &servers;
    let mut clients = [a.connect(), b.connect_as("ann"), b.connect(), c.connect()];
    for client in &mut clients[2..] {
        subscribe(client, "c");
    }
    let ids: Vec<String> = clients.iter().map(Client::id).collect();
    for server in &servers {
        await_sockets(server, 4);
        eventually("two are counted", PATIENCE, || {
            server.get("/api/v1/channels/c").body["subscribers"] == 2
        });
    }
    for server in &servers {
        let mut expected = [0_u32; 4];
        let mut send = |extra: Value, to: &[usize]| {
            let mut body = json!({"message_type": "notice", "data": {"n": extra}});
            for (name, value) in extra.as_object().into_iter().flatten() {
                body[name] = value.clone();
            }
            let reply = server.post_json("/ws/broadcast", &body);
            assert_eq!(reply.status, 200, "{}", reply.text);
            assert!(reply.body["id"].is_string(), "{}", reply.text);
            assert_eq!(reply.body["delivered_to"], to.len(), "{extra}: {}", reply.text);
            for &index in to {
                expected[index] += 1;
            }
        };
        send(json!({}), &[0, 1, 2, 3]);
        send(json!({"only_to": [ids[0], "1-1-1", ids[2], ids[0]]}), &[0, 2]);
        send(json!({"exclude": [ids[0], ids[1]]}), &[2, 3]);
        send(json!({"to_channel": "c"}), &[2, 3]);
        send(json!({"to_channel": "c", "exclude": [ids[2]]}), &[3]);
        send(json!({"to_channel": "c", "only_to": [ids[0], ids[2]]}), &[2]);
        send(json!({"to_channel": "empty"}), &[]);
        let fence =
            server.post_json("/ws/broadcast", &json!({"message_type": "fence", "data": {}}));
        for (client, expected) in clients.iter_mut().zip(expected) {
            let mut notices = 0;
            client.find("the fence", |frame| {
                notices += u32::from(frame["message_type"] == "notice");
                frame["id"] == fence.body["id"]
            });
            assert_eq!(notices, expected, "{:?}", client.welcome);
        }
    }
}

#[test]
fn a_program_reaches_a_user_from_any_node() {
    let redis = Redis::start();
    let servers: [Server; 3] = nodes(&redis, &[]);
    let mut anns = [servers[1].connect_as("ann"), servers[2].connect_as("ann")];
    let know = servers[2].call("GET", "/ws/online", &token("bob", ""), &Value::Null);
    assert_eq!(know.status, 200, "{}", know.text);
    let send = |server: &Server, to: &str| {
        let body = json!({"to_user_id": to, "message_type": "notice", "data": {}});
        server.post_json("/ws/send", &body)
    };
    for server in &servers {
        await_online(server, &[("ann", 2)]);
        let reply = send(server, "ann");
        assert_eq!((reply.status, &reply.body["delivered_to"]), (200, &json!(2)), "{}", reply.text);
        for ann in &mut anns {
            assert_eq!(ann.find_envelope("notice")["id"], reply.body["id"], "once, and in order");
        }
        send(server, "stranger").expect_problem(404, "not_found");
        eventually("bob is known", PATIENCE, || send(server, "bob").status == 200);
        assert_eq!(send(server, "bob").body["delivered_to"], 0);
    }
}

#[test]
fn an_operator_sees_and_ends_connections_of_all_nodes() {
    let redis = Redis::start();
    let servers: [Server; 3] = nodes(&redis, &[]);
    let mut clients = [
        servers[0].connect_as("ann"),
        servers[1].connect_as("bob"),
        servers[1].connect(),
        servers[2].connect_as("cid"),
    ];
    subscribe(&mut clients[1], "c");
    join(&mut clients[1], "r");
    let ids: BTreeSet<String> = clients.iter().map(Client::id).collect();
    let listed = |list: &Value| -> Vec<String> {
        let all = list["connections"].as_array().unwrap_or_else(|| panic!("no list: {list}"));
        all.iter().map(|one| one["connection_id"].as_str().expect("an id").to_owned()).collect()
    };
    let bob = clients[1].id();
    let path = format!("/api/v1/connections/{bob}");
    for server in &servers {
        await_sockets(server, 4);
        let list = server.get("/api/v1/connections").body;
        assert_eq!(list["total"], 4, "{list}");
        assert_eq!(listed(&list).len(), 4, "{list}");
        assert_eq!(listed(&list).into_iter().collect::<BTreeSet<_>>(), ids, "{list}");
        // Page by page.
        let (mut walked, mut after) = (Vec::new(), String::new());
        loop {
            let page = server.get(&format!("/api/v1/connections?limit=1{after}")).body;
            walked.extend(listed(&page));
            let Some(next) = page["next"].as_str() else { break };
            after = format!("&after={next}");
            assert!(walked.len() <= 4, "{walked:?}");
        }
        walked.sort();
        assert!(walked.iter().eq(&ids), "{walked:?}");
        let one = server.get(&path).body;
        assert_eq!(
            (&one["connection_id"], &one["user_id"], &one["channels"], &one["rooms"]),
            (&json!(bob), &json!("bob"), &json!(["c"]), &json!(["r"])),
            "{one}"
        );
        let body = json!({"message_type": "notice", "data": {"x": 1}});
        let sent = server.post_json(&format!("{path}/messages"), &body);
        assert_eq!((sent.status, &sent.body["delivered_to"]), (200, &json!(1)), "{}", sent.text);
        assert_eq!(clients[1].find_envelope("notice")["id"], sent.body["id"]);
        let subscription = format!("{path}/channels/set");
        assert_eq!(server.request("PUT", &subscription, &[], b"").status, 204);
        let subscribed = clients[1].find_type("subscribed");
        assert_eq!((&subscribed["channel"], subscribed.get("id")), (&json!("set"), None));
        // Any node's message reaches it from there on.
        let sent = server.post_json("/api/v1/channels/set/messages", &json!({"payload": "hi"}));
        assert_eq!(sent.status, 200, "{}", sent.text);
        assert_eq!(clients[1].find_type("text")["message_id"], sent.body["message_id"]);
        assert_eq!(server.request("DELETE", &subscription, &[], b"").status, 204);
        let ended = clients[1].find_type("unsubscribed");
        assert_eq!((&ended["channel"], &ended["reason"]), (&json!("set"), &json!("operator")));
        let noted = json!({"by": server.address().to_string()});
        let put = server.call("PUT", &format!("{path}/metadata"), "", &noted);
        assert_eq!(put.status, 204, "{}", put.text);
        assert_eq!(server.get(&path).body["metadata"], noted);
        let strange = format!("/api/v1/connections/{bob}9");
        for method in ["GET", "DELETE"] {
            server.request(method, &strange, &[], b"").expect_problem(404, "not_found");
        }
        for method in ["PUT", "DELETE"] {
            let path = format!("{strange}/channels/set");
            server.request(method, &path, &[], b"").expect_problem(404, "not_found");
        }
    }
    for (server, client) in servers.iter().cycle().skip(1).zip(&mut clients) {
        let path = format!("/api/v1/connections/{}", client.id());
        let ended = server.request("DELETE", &path, &[], b"");
        assert_eq!(ended.status, 204, "{}", ended.text);
        assert_eq!(client.read_to_close().1, 4403);
        eventually("it is gone", PATIENCE, || server.get(&path).status == 404);
    }
    for server in &servers {
        eventually("nobody is left", PATIENCE, || {
            server.get("/api/v1/connections").body["total"] == 0
        });
    }
}

#[test]
fn numbers_are_summed_over_nodes() {
    let redis = Redis::start();
    let servers: [Server; 3] = nodes(&redis, &[]);
    let [a, b, c] = &servers;
    let clients = [a.connect_as("ann"), b.connect_as("bob"), b.connect(), b.connect_as("cid")];
    let at = |said: &Value, client: &Client| {
        let nodes = said["nodes"].as_array().unwrap_or_else(|| panic!("no nodes: {said}"));
        assert_eq!(nodes.len(), 3, "{said}");
        let mine = |node: &&Value| node["node_id"] == client.welcome["node_id"];
        let node = nodes.iter().find(mine).unwrap_or_else(|| panic!("not in {said}"));
        (node["connections"].clone(), node["users_online"].clone())
    };
    for server in &servers {
        await_sockets(server, 4);
        let mut said = Value::Null;
        eventually("all are counted", PATIENCE, || {
            said = server.get("/ws/stats?scope=cluster").body;
            said["users_online"] == 3
        });
        assert_eq!(said["connections"], 4, "{said}");
        assert_eq!(at(&said, &clients[0]), (json!(1), json!(1)), "{said}");
        assert_eq!(at(&said, &clients[1]), (json!(3), json!(2)), "{said}");
    }
    // Without being asked for all, a node speaks for itself.
    let own = |server: &Server| server.get("/ws/stats").body["connections"].clone();
    assert_eq!([own(a), own(b), own(c)], [json!(1), json!(3), json!(0)]);
}
