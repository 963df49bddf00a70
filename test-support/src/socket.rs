//! A WebSocket client that a test drives frame by frame.
//!
//! Imports `picture`. Imported by `server` and tests.

use std::net::TcpStream;

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use crate::picture::{Picture, brief};

/// A WebSocket client.
pub struct Client {
    pub socket: WebSocket<TcpStream>,
    pub welcome: Value,
    pub(crate) requests: u64,
}

impl Client {
    pub fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).expect("the server reads");
    }

    pub fn send_json(&mut self, value: &Value) {
        self.send_text(&value.to_string());
    }

    /// Sends a command and returns the next frame, whose type is known.
    pub fn ask(&mut self, command: &Value, answer: &str) -> Value {
        self.send_json(command);
        self.expect(answer)
    }

    /// The next message other than ping and pong.
    pub fn next_message(&mut self) -> Message {
        loop {
            match self.socket.read() {
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(message) => return message,
                Err(fault) => panic!("no message: {fault}"),
            }
        }
    }

    /// The next frame.
    pub fn next_json(&mut self) -> Value {
        match self.next_message() {
            Message::Text(text) => serde_json::from_str(text.as_str()).expect("a frame is JSON"),
            other => panic!("not a text message: {other:?}"),
        }
    }

    /// The first of the next frames that matches; the others are skipped.
    pub fn find(&mut self, what: &str, mut is_so: impl FnMut(&Value) -> bool) -> Value {
        for _ in 0..1_000 {
            let frame = self.next_json();
            if is_so(&frame) {
                return frame;
            }
        }
        panic!("a thousand frames, and none is {what}");
    }

    /// The next frame of a type; earlier frames are skipped.
    pub fn find_type(&mut self, kind: &str) -> Value {
        self.find(kind, |frame| frame["type"] == kind)
    }

    /// The next envelope of a type; earlier frames are skipped.
    pub fn find_envelope(&mut self, message_type: &str) -> Value {
        self.find(message_type, |frame| frame["message_type"] == message_type)
    }

    /// Every frame that is on its way: a command's answer marks the end.
    pub fn drain(&mut self) -> Vec<Value> {
        self.requests += 1;
        let id = format!("drain-{}", self.requests);
        // Through control: its earlier messages arrive before this answer. The shard would answer a
        // ping itself, ahead of messages on their way to it. The command needs no token.
        self.send_json(&json!({"type": "unsubscribe", "id": id, "channel": "never followed"}));
        let mut frames = Vec::new();
        loop {
            let frame = self.next_json();
            if frame["id"] == id.as_str() {
                return frames;
            }
            frames.push(frame);
        }
    }

    /// The connection's id.
    pub fn id(&self) -> String {
        self.welcome["connection_id"].as_str().expect("an id").to_owned()
    }

    /// The next frame, whose type is known.
    pub fn expect(&mut self, kind: &str) -> Value {
        let frame = self.next_json();
        assert_eq!(frame["type"], kind, "{}", brief(&frame));
        frame
    }

    /// The next frame, which is an error of that code.
    pub fn expect_error(&mut self, code: &str) -> Value {
        let frame = self.expect("error");
        assert_eq!(frame["code"], code, "{frame}");
        assert!(frame["message"].is_string() && frame["temporary"].is_boolean(), "{frame}");
        frame
    }

    /// Expects the connection's end as the next thing. Returns the close code.
    pub fn expect_close(&mut self) -> u16 {
        match self.next_message() {
            Message::Close(Some(frame)) => frame.code.into(),
            other => panic!("not a close with a code: {other:?}"),
        }
    }

    /// Every frame up to the connection's end, and the close code.
    pub fn read_to_close(&mut self) -> (Vec<Value>, u16) {
        let mut frames = Vec::new();
        loop {
            match self.next_message() {
                Message::Text(text) => {
                    frames.push(serde_json::from_str(text.as_str()).expect("a frame is JSON"));
                }
                Message::Close(Some(frame)) => return (frames, frame.code.into()),
                other => panic!("neither a frame nor a close with a code: {other:?}"),
            }
        }
    }

    /// Subscribes to a service. Returns the answer, which is the next frame.
    pub fn subscribe(&mut self, service: &str) -> Value {
        self.ask(&json!({"type": "subscribe", "service_id": service}), "subscribed")
    }

    /// Subscribes to a service and starts a picture from its snapshot.
    pub fn follow(&mut self, service: &str) -> Picture {
        let command = json!({"type": "subscribe", "service_id": service, "snapshot": true});
        Picture::of_subscribed(&self.ask(&command, "subscribed"))
    }

    /// Subscribes again from the picture's revision, and corrects the picture if necessary. Returns
    /// whether the server had all changes since.
    pub fn resume(&mut self, picture: &mut Picture) -> bool {
        let since = json!({"epoch": picture.epoch, "revision": picture.revision});
        let command = json!({"type": "subscribe", "service_id": picture.service, "since": since});
        let answer = self.ask(&command, "subscribed");
        let is_recovered = answer["recovered"].as_bool().expect("recovered is a boolean");
        if is_recovered {
            assert_eq!(answer.get("instances"), None, "{answer}");
            picture.resumed(&answer);
            let revision = answer["revision"].as_u64().expect("a revision");
            while picture.revision < revision {
                // Changes, unless they are more than a slow connection may be owed.
                picture.apply(&self.next_json());
            }
        } else {
            *picture = Picture::of_subscribed(&answer);
        }
        is_recovered
    }

    /// Applies every frame that is on its way. Subscribing twice changes nothing, so its answer
    /// marks the end: earlier changes have arrived before it, unless the connection has fallen
    /// behind and a resync is pending, whose snapshot the answer then holds or precedes.
    pub fn catch_up(&mut self, picture: &mut Picture) {
        self.requests += 1;
        let id = format!("catch-up-{}", self.requests);
        self.send_json(&json!({"type": "subscribe", "service_id": picture.service, "id": id}));
        loop {
            let frame = self.next_json();
            if frame["id"] == id.as_str() {
                assert_eq!(frame["type"], "subscribed", "{frame}");
                assert_eq!(frame["epoch"], picture.epoch.as_str(), "{frame}");
                let revision = frame["revision"].as_u64().expect("a revision");
                if frame["instances"].is_array() {
                    *picture = Picture::of_subscribed(&frame);
                } else if picture.revision != revision {
                    picture.apply(&self.expect("service_snapshot"));
                }
                assert!(picture.revision >= revision, "behind {frame}");
                return;
            }
            picture.apply(&frame);
        }
    }
}
