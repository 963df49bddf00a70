//! Chat rooms: their users, their messages, and the announcements of arrivals and departures.

use fanfare_test_support::{Client, Server, assert_is_time, token};
use serde_json::{Value, json};

fn join(client: &mut Client, room: &str) -> Vec<String> {
    client.send_json(&json!({"type": "join", "room": room}));
    let joined = client.find_type("joined");
    assert_eq!(joined["room"], room);
    let users = joined["users"].as_array().expect("a list");
    users.iter().map(|user| user["user_id"].as_str().expect("an id").to_owned()).collect()
}

fn chat(client: &mut Client, content: &str) {
    client.send_json(&json!({"type": "chat", "content": content}));
}

fn room_event(client: &mut Client) -> (Value, Value) {
    let frame = client.find_type("event");
    (frame["event"].clone(), frame["payload"].clone())
}

#[test]
fn everyone_in_the_room_hears_it() {
    let server = Server::start_for_people(&[]);
    let (mut ann, mut bob) = (server.connect_as("ann"), server.connect_as("bob"));
    assert_eq!(join(&mut ann, "general"), ["ann"]);
    assert_eq!(join(&mut bob, "general"), ["ann", "bob"]);
    let (event, payload) = room_event(&mut ann);
    assert_eq!(
        (event, payload),
        (json!("user.joined"), json!({"user_id": "bob", "username": "Bob"}))
    );
    chat(&mut bob, "hello");
    for client in [&mut ann, &mut bob] {
        let said = client.find_type("chat");
        assert_eq!((&said["room"], &said["content"]), (&json!("general"), &json!("hello")));
        assert_eq!((&said["from_user_id"], &said["username"]), (&json!("bob"), &json!("Bob")));
        assert!(said["message_id"].is_string(), "{said}");
        assert_is_time(&said["timestamp"]);
    }
    let left = bob.ask(&json!({"type": "leave", "room": "general", "id": 1}), "left");
    assert_eq!((&left["room"], &left["id"]), (&json!("general"), &json!(1)));
    assert_eq!(room_event(&mut ann).0, "user.left");
    chat(&mut ann, "alone");
    ann.find_type("chat");
    assert!(bob.drain().is_empty(), "bob has left");
}

#[test]
fn a_user_is_announced_once_however_many_connections() {
    let server = Server::start_for_people(&[]);
    let mut ann = server.connect_as("ann");
    join(&mut ann, "r");
    let (mut one, mut two) = (server.connect_as("bob"), server.connect_as("bob"));
    assert_eq!(join(&mut one, "r"), ["ann", "bob"]);
    assert_eq!(join(&mut two, "r"), ["ann", "bob"]);
    assert_eq!(join(&mut two, "r"), ["ann", "bob"], "joining twice changes nothing");
    assert_eq!(room_event(&mut ann).0, "user.joined");
    drop(one);
    // The second connection's word comes after the end of the first one was noticed, or before: in
    // both cases nothing is announced.
    chat(&mut two, "still here");
    let heard =
        ann.find("chat or event", |frame| frame["type"] == "chat" || frame["type"] == "event");
    assert_eq!(heard["type"], "chat");
    drop(two);
    let (event, payload) = room_event(&mut ann);
    assert_eq!((event, &payload["user_id"]), (json!("user.left"), &json!("bob")));
}

#[test]
fn the_lobby_is_joined_by_speaking_and_others_are_not() {
    let server = Server::start_for_people(&[]);
    let (mut ann, mut bob) = (server.connect_as("ann"), server.connect_as("bob"));
    join(&mut ann, "lobby");
    bob.send_json(&json!({"type": "chat", "content": "hi", "room": "general", "id": 7}));
    let refused = bob.find_type("error");
    assert_eq!((&refused["code"], &refused["id"]), (&json!("forbidden"), &json!(7)));
    bob.send_json(&json!({"type": "chat", "content": "hi", "id": "m"}));
    let own = bob.find_type("chat");
    assert_eq!((&own["room"], &own["id"]), (&json!("lobby"), &json!("m")));
    assert_eq!(room_event(&mut ann).0, "user.joined");
    let heard = ann.find_type("chat");
    assert_eq!((&heard["message_id"], heard.get("id")), (&own["message_id"], None));
    chat(&mut ann, "welcome");
    assert_eq!(bob.find_type("chat")["content"], "welcome", "bob is in the lobby now");
    ann.find_type("chat");
    // The room joined last is the one spoken in, then the one before it.
    join(&mut ann, "side");
    chat(&mut ann, "here");
    assert_eq!(ann.find_type("chat")["room"], "side");
    ann.ask(&json!({"type": "leave", "room": "side"}), "left");
    chat(&mut ann, "back");
    assert_eq!(ann.find_type("chat")["room"], "lobby");
}

#[test]
fn a_room_is_a_channel_with_history() {
    let server = Server::start_for_people(&[]);
    let (mut ann, mut eve) = (server.connect_as("ann"), server.connect());
    let epoch =
        eve.ask(&json!({"type": "subscribe", "channel": "chat:r"}), "subscribed")["epoch"].clone();
    assert_eq!(join(&mut ann, "r"), ["ann"], "who merely listens is not in the room");
    chat(&mut ann, "one");
    let heard = eve.find_type("chat");
    assert_eq!((&heard["offset"], &heard["channel"]), (&json!(1), &json!("chat:r")));
    let since = json!({"epoch": epoch, "offset": 0});
    let mut late = server.connect();
    let command = json!({"type": "subscribe", "channel": "chat:r", "since": since});
    assert_eq!(late.ask(&command, "subscribed")["recovered"], true);
    assert_eq!(late.expect("chat")["content"], "one");
    let history = server.get("/api/v1/channels/chat:r/history").body;
    assert_eq!(history["messages"].as_array().map(Vec::len), Some(1), "comings are not kept");
    assert_eq!(history["messages"][0]["type"], "chat");
    // Leaving the room does not end the subscription, and the other way round.
    ann.drain();
    ann.ask(&json!({"type": "subscribe", "channel": "chat:r"}), "subscribed");
    ann.ask(&json!({"type": "leave", "room": "r"}), "left");
    let mut bob = server.connect_as("bob");
    join(&mut bob, "r");
    chat(&mut bob, "two");
    assert_eq!(ann.find_type("chat")["content"], "two");
    let followers = || server.get("/api/v1/channels/chat:r").body["subscribers"].clone();
    assert_eq!(followers(), 4);
    ann.ask(&json!({"type": "unsubscribe", "channel": "chat:r"}), "unsubscribed");
    assert_eq!(followers(), 3);
}

#[test]
fn rooms_are_for_users() {
    let server = Server::start_for_people(&[]);
    let mut nobody = server.connect();
    for command in [
        json!({"type": "join", "room": "r"}),
        json!({"type": "leave", "room": "r"}),
        json!({"type": "chat", "content": "hi"}),
    ] {
        nobody.send_json(&command);
        nobody.expect_error("unauthorized");
    }
    let mut ann = server.connect_with(&token("ann", ""));
    for command in [
        json!({"type": "join"}),
        json!({"type": "join", "room": ""}),
        json!({"type": "join", "room": 7}),
        json!({"type": "chat"}),
        json!({"type": "chat", "content": ""}),
    ] {
        ann.send_json(&command);
        ann.expect_error("invalid_argument");
    }
    assert_eq!(ann.ask(&json!({"type": "leave", "room": "never"}), "left")["room"], "never");
}
