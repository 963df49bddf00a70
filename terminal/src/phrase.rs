//! A message of the server as a sentence for people.
//!
//! Answers for machines alone (pongs) are left out. Texts of envelopes are `data.content`;
//! `data.text`, as other programs write it, is read as well.
//!
//! Imports nothing of the crate. Imported by `screen`.

use std::collections::HashMap;

use serde_json::{Map, Value};

/// Most names that are remembered.
const NAMES_MAX: usize = 4_096;

/// Most instances, users or channels that a line lists.
const LISTED_MAX: usize = 20;

/// The role of a part of a line, for its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Quiet,
    Bad,
    Person,
    Change,
    Message,
}

/// The names of users by their ids, from messages with both.
#[derive(Debug, Default)]
pub(crate) struct Names(HashMap<String, String>);

impl Names {
    /// Learns names from a message of the server. Messages of users teach nothing, whatever their
    /// fields are called.
    pub(crate) fn learn(&mut self, message: &Value) {
        let kind = message["type"].as_str().or(message["message_type"].as_str());
        let is_room = message["channel"].as_str().is_some_and(|name| name.starts_with("chat:"));
        match kind {
            Some("joined") => self.learn_users(&message["users"]),
            Some("chat") => self.put(&message["from_user_id"], &message["username"]),
            Some("event") if is_room && message["payload"]["user_id"].is_string() => {
                self.put(&message["payload"]["user_id"], &message["payload"]["username"]);
            }
            Some("user_joined" | "user_left") if message["type"].is_null() => {
                self.put(&message["data"]["user_id"], &message["data"]["username"]);
            }
            _ => {}
        }
    }

    /// Learns names from a list of users, as rooms and `/ws/online` have it.
    pub(crate) fn learn_users(&mut self, users: &Value) {
        for user in users.as_array().map(Vec::as_slice).unwrap_or_default() {
            self.put(&user["user_id"], &user["username"]);
        }
    }

    fn put(&mut self, id: &Value, name: &Value) {
        if let (Some(id), Some(name)) = (id.as_str(), name.as_str())
            && (self.0.len() < NAMES_MAX || self.0.contains_key(id))
        {
            self.0.insert(id.to_owned(), name.to_owned());
        }
    }

    fn of<'a>(&'a self, id: &'a str) -> &'a str {
        self.0.get(id).map_or(id, String::as_str)
    }
}

/// A line in parts.
#[derive(Debug, Default)]
pub(crate) struct Phrase(Vec<(Option<Tone>, String)>);

impl Phrase {
    /// The sentence of a message; none if there is nothing to show.
    pub(crate) fn of(message: &Value, names: &Names) -> Option<Phrase> {
        match message["type"].as_str() {
            Some("pong") => None,
            Some(kind) => Some(typed(kind, message, names)),
            None => match message["message_type"].as_str() {
                Some("pong") => None,
                Some(kind) => Some(envelope(kind, message, names)),
                None => Some(raw(message)),
            },
        }
    }

    pub(crate) fn parts(&self) -> &[(Option<Tone>, String)] {
        &self.0
    }

    fn new(tone: Tone, text: impl Into<String>) -> Phrase {
        Phrase(vec![(Some(tone), text.into())])
    }

    fn then(mut self, text: impl Into<String>) -> Phrase {
        self.0.push((None, text.into()));
        self
    }

    fn toned(mut self, tone: Tone, text: impl Into<String>) -> Phrase {
        self.0.push((Some(tone), text.into()));
        self
    }
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// A text as it is, any other value as JSON.
fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The context of a message, and then its content.
fn said(place: &str, person: &str, what: &str) -> Phrase {
    let phrase = Phrase::new(Tone::Message, place).then(" ");
    let phrase =
        if person.is_empty() { phrase } else { phrase.toned(Tone::Person, person).then(": ") };
    phrase.then(what)
}

fn envelope(kind: &str, message: &Value, names: &Names) -> Phrase {
    let data = &message["data"];
    match kind {
        "ack" => Phrase::new(Tone::Quiet, reached(&data["delivered_to"])),
        "error" => refused(text(data, "code"), text(data, "message")),
        "user_joined" | "user_left" => {
            let name = data["username"].as_str().unwrap_or_else(|| names.of(text(data, "user_id")));
            let what = if kind == "user_joined" { " is online" } else { " is offline" };
            Phrase::default().toned(Tone::Person, name).toned(Tone::Quiet, what)
        }
        _ => {
            let from = match message["from_user_id"].as_str() {
                Some(id) => names.of(id),
                None => "the server",
            };
            let to = if message["to_user_id"].is_string() { " to me: " } else { " to all: " };
            let content = ["content", "text"].into_iter().find_map(|name| data.get(name));
            let content = content.filter(|_| data.is_object()).unwrap_or(data);
            let phrase = match kind {
                "text" => Phrase::default(),
                kind => Phrase::new(Tone::Message, kind).then(" from "),
            };
            phrase.toned(Tone::Person, from).toned(Tone::Message, to).then(shown(content))
        }
    }
}

fn reached(count: &Value) -> String {
    match count.as_u64() {
        Some(0) => String::from("sent, and nobody is online to read it"),
        Some(1) => String::from("sent to 1 connection"),
        _ => format!("sent to {count} connections"),
    }
}

fn refused(code: &str, message: &str) -> Phrase {
    Phrase::new(Tone::Bad, format!("refused ({code})")).then(format!(": {message}"))
}

fn typed(kind: &str, message: &Value, names: &Names) -> Phrase {
    let quiet = |text: String| Phrase::new(Tone::Quiet, text);
    match kind {
        "welcome" => quiet(match message["user_id"].as_str() {
            Some(id) => format!("connected as {}", names.of(id)),
            None => String::from("connected, not signed in"),
        }),
        "error" => refused(text(message, "code"), text(message, "message")),
        "chat" => {
            let person =
                message["username"].as_str().unwrap_or_else(|| text(message, "from_user_id"));
            said(text(message, "room"), person, text(message, "content"))
        }
        "private" => {
            said("private", names.of(text(message, "from_user_id")), text(message, "content"))
        }
        "group" => {
            let place = format!("group {}", text(message, "group_id"));
            said(&place, names.of(text(message, "from_user_id")), text(message, "content"))
        }
        "joined" => {
            let users = message["users"].as_array().map(Vec::as_slice).unwrap_or_default();
            let users = listed(users, |user| text(user, "username").to_owned());
            quiet(format!("you are in {} with {users}", text(message, "room")))
        }
        "left" => quiet(format!("you have left {}", text(message, "room"))),
        "subscribed" => quiet(subscribed(message)),
        "unsubscribed" => {
            let why = message["reason"].as_str().map(|why| format!(": {why}")).unwrap_or_default();
            quiet(format!("no longer following {}{why}", topic(message)))
        }
        "published" => quiet(format!("published as message {}", message["offset"])),
        "registered" => quiet(batch("registered", &message["failed_instances"])),
        "heartbeat_ack" => quiet(batch("renewed", &message["failed_instance_keys"])),
        "unregistered" => quiet(batch("unregistered", &message["failed_instance_keys"])),
        "reconnect" => quiet(format!(
            "the server stops; come back in {} ms",
            message["after_ms"].as_u64().unwrap_or_default()
        )),
        "service_change" => Phrase::new(Tone::Change, text(message, "service_id")).then(format!(
            " at {}: {}",
            message["revision"],
            changes(message)
        )),
        "service_snapshot" => Phrase::new(Tone::Change, text(message, "service_id")).then(format!(
            " at {}: {}",
            message["revision"],
            instances(message)
        )),
        "system" if message["payload"]["channels"].is_array() => {
            let channels = message["payload"]["channels"].as_array();
            let channels = channels.map(Vec::as_slice).unwrap_or_default();
            let one = |one: &Value| format!("{} ({})", text(one, "name"), one["subscribers"]);
            quiet(format!("channels and their followers: {}", listed(channels, one)))
        }
        "text" | "json" | "event" | "system" if message["channel"].is_string() => {
            published(message, names)
        }
        _ => raw(message),
    }
}

/// A message of a channel. Arrivals and departures of a room are sentences.
fn published(message: &Value, names: &Names) -> Phrase {
    let (channel, payload) = (text(message, "channel"), &message["payload"]);
    let room = channel.strip_prefix("chat:");
    match (room, message["event"].as_str()) {
        (Some(room), Some(event @ ("user.joined" | "user.left"))) => {
            let what = if event == "user.joined" { " came in" } else { " has left" };
            let name = payload["username"].as_str().unwrap_or_else(|| text(payload, "user_id"));
            Phrase::new(Tone::Message, room)
                .then(" ")
                .toned(Tone::Person, name)
                .toned(Tone::Quiet, what)
        }
        (_, Some(event)) => {
            let person = names.of(text(message, "from_user_id"));
            said(channel, person, &format!("{event} {}", shown(payload)))
        }
        (_, None) => said(channel, names.of(text(message, "from_user_id")), &shown(payload)),
    }
}

fn topic(message: &Value) -> String {
    match (message["channel"].as_str(), text(message, "service_id")) {
        (Some(channel), _) => format!("channel {channel}"),
        (None, "*") => String::from("all services"),
        (None, service) => format!("service {service}"),
    }
}

fn subscribed(message: &Value) -> String {
    let place = match (message["revision"].as_u64(), message["offset"].as_u64()) {
        (Some(revision), _) => format!(" at {revision}"),
        (None, Some(offset)) => format!(" after message {offset}"),
        (None, None) => String::new(),
    };
    let is_whole = message["instances"].is_array();
    let instances = if is_whole { format!(": {}", instances(message)) } else { String::new() };
    let is_lost = message["recovered"] == false && message["channel"].is_string();
    let lost = if is_lost { "; messages before it are lost" } else { "" };
    format!("following {}{place}{instances}{lost}", topic(message))
}

fn instances(message: &Value) -> String {
    let instances = message["instances"].as_array().map(Vec::as_slice).unwrap_or_default();
    listed(instances, |one| {
        format!("{} ({})", text(one, "instanceId"), one["status"].as_str().unwrap_or("up"))
    })
}

fn changes(message: &Value) -> String {
    let changes = message["changes"].as_array().map(Vec::as_slice).unwrap_or_default();
    if changes.is_empty() {
        let is_degraded = message["degraded"] == true;
        let what = if is_degraded { "expiry is held" } else { "expiry goes on" };
        return String::from(what);
    }
    listed(changes, |change| {
        let name = text(&change["instance"], "instanceId");
        format!("{} {name} ({})", text(change, "changeType"), text(change, "reason"))
    })
}

fn batch(what: &str, failed: &Value) -> String {
    let failed = failed.as_array().map(Vec::as_slice).unwrap_or_default();
    let Some(first) = failed.first() else { return what.to_owned() };
    let why = first["errorMessage"].as_str().unwrap_or_else(|| text(first, "errorCode"));
    format!("{what}, but for {}: {why}", failed.len())
}

/// Some entries by their names, and how many more there are.
fn listed(entries: &[Value], name: impl Fn(&Value) -> String) -> String {
    if entries.is_empty() {
        return String::from("none");
    }
    let mut text: Vec<String> = entries.iter().take(LISTED_MAX).map(name).collect();
    if entries.len() > LISTED_MAX {
        text.push(format!("{} more", entries.len() - LISTED_MAX));
    }
    text.join(", ")
}

/// A message without a sentence of its own.
fn raw(message: &Value) -> Phrase {
    let kind = message["type"].as_str().or(message["message_type"].as_str()).unwrap_or("message");
    let mut rest: Map<String, Value> = message.as_object().cloned().unwrap_or_default();
    rest.remove("type");
    Phrase::new(Tone::Quiet, kind).then(format!(" {}", Value::Object(rest)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn names() -> Names {
        let mut names = Names::default();
        names.learn(&json!({"type": "joined", "users": [{"user_id": "u1", "username": "Ann"}]}));
        names.learn(&json!({"message_type": "user_joined",
            "data": {"user_id": "u2", "username": "Bob"}}));
        names
    }

    fn line(message: &Value) -> Option<String> {
        let phrase = Phrase::of(message, &names())?;
        Some(phrase.parts().iter().map(|(_, text)| text.as_str()).collect())
    }

    #[test]
    fn messages_read_as_people_would_say_them() {
        for (message, words) in [
            (json!({"type": "welcome", "user_id": "u1"}), "connected as Ann"),
            (json!({"type": "welcome", "user_id": null}), "connected, not signed in"),
            (
                json!({"message_type": "text", "from_user_id": "u1", "to_user_id": "u2",
                    "data": {"content": "hi"}}),
                "Ann to me: hi",
            ),
            (
                json!({"message_type": "text", "from_user_id": "u3", "data": {"text": "hi"}}),
                "u3 to all: hi",
            ),
            (
                json!({"message_type": "notification", "data": {"content": "tea"}}),
                "notification from the server to all: tea",
            ),
            (
                json!({"message_type": "move", "from_user_id": "u1", "data": {"x": 1}}),
                r#"move from Ann to all: {"x":1}"#,
            ),
            (json!({"message_type": "hint", "data": "save"}), "hint from the server to all: save"),
            (
                json!({"message_type": "error", "data": {"code": "not_found",
                    "message": "there is no such user"}}),
                "refused (not_found): there is no such user",
            ),
            (
                json!({"type": "error", "code": "forbidden", "message": "no"}),
                "refused (forbidden): no",
            ),
            (json!({"message_type": "ack", "data": {"delivered_to": 1}}), "sent to 1 connection"),
            (json!({"message_type": "ack", "data": {"delivered_to": 3}}), "sent to 3 connections"),
            (
                json!({"message_type": "ack", "data": {"delivered_to": 0}}),
                "sent, and nobody is online to read it",
            ),
            (
                json!({"message_type": "user_left", "data": {"user_id": "u2", "username": "Bob"}}),
                "Bob is offline",
            ),
            (
                json!({"type": "joined", "room": "r", "users": [{"username": "Ann"},
                    {"username": "Bob"}]}),
                "you are in r with Ann, Bob",
            ),
            (
                json!({"type": "event", "channel": "chat:r", "event": "user.joined",
                    "payload": {"user_id": "u2", "username": "Bob"}}),
                "r Bob came in",
            ),
            (
                json!({"type": "chat", "room": "r", "username": "Ann", "content": "hello"}),
                "r Ann: hello",
            ),
            (json!({"type": "text", "channel": "news", "payload": "x"}), "news x"),
            (
                json!({"type": "event", "channel": "shop", "event": "paid", "payload": {"n": 1},
                    "from_user_id": "u1"}),
                r#"shop Ann: paid {"n":1}"#,
            ),
            (
                json!({"type": "subscribed", "service_id": "s", "revision": 2,
                    "instances": [{"instanceId": "a", "status": "down"}]}),
                "following service s at 2: a (down)",
            ),
            (
                json!({"type": "subscribed", "channel": "c", "offset": 4, "recovered": false}),
                "following channel c after message 4; messages before it are lost",
            ),
            (json!({"type": "subscribed", "service_id": "*"}), "following all services"),
            (
                json!({"type": "unsubscribed", "channel": "c", "reason": "deleted"}),
                "no longer following channel c: deleted",
            ),
            (
                json!({"type": "service_change", "service_id": "s", "revision": 3, "changes": [
                    {"instance": {"instanceId": "a"}, "changeType": "delete", "reason": "expired"}]}),
                "s at 3: delete a (expired)",
            ),
            (
                json!({"type": "registered", "failed_instances": [{"errorMessage": "too large"}]}),
                "registered, but for 1: too large",
            ),
            (json!({"type": "later", "x": 1}), r#"later {"x":1}"#),
        ] {
            assert_eq!(line(&message).as_deref(), Some(words), "{message}");
        }
    }

    #[test]
    fn what_users_write_names_nobody() {
        let mut names = names();
        let claim = json!({"user_id": "u1", "username": "Mallory"});
        for message in [
            json!({"message_type": "text", "data": claim}),
            json!({"message_type": "text", "users": [claim], "data": {}}),
            json!({"type": "json", "channel": "c", "payload": claim}),
            json!({"type": "event", "channel": "c", "event": "user.joined", "payload": claim}),
            json!({"type": "text", "message_type": "user_joined", "data": claim}),
        ] {
            names.learn(&message);
        }
        assert_eq!(names.of("u1"), "Ann");
    }

    #[test]
    fn pongs_are_not_shown() {
        assert_eq!(line(&json!({"type": "pong"})), None);
        assert_eq!(line(&json!({"message_type": "pong", "id": "x"})), None);
    }

    #[test]
    fn long_lists_are_cut() {
        let users: Vec<Value> = (0..100).map(|n| json!({"username": format!("u{n}")})).collect();
        let line = line(&json!({"type": "joined", "room": "r", "users": users})).expect("a line");
        assert!(line.ends_with("u19, 80 more"), "{line}");
    }
}
