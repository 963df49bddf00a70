//! A strict client: it believes nothing that it cannot check against the oracle.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::{Value, json};

use super::oracle::{self, Oracle, Picture};
use super::pipe::{ClientEnd, Link, push_frame};
use super::{EPOCH, HISTORY_MAX, Timeouts};

/// What a request was about.
#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    Subscribe {
        service: String,
        snapshot: bool,
        since: Option<(String, u64)>,
    },
    SubscribeAll,
    Unsubscribe(String),
    /// Anything whose answer is of this type.
    Other(&'static str),
    /// No request at all. The error that answers it has no id.
    Garbage,
}

/// Where the client stands with a service.
#[derive(Clone)]
struct Position {
    revision: u64,
    picture: Picture,
    degraded: bool,
}

/// How long a client has been neglecting something, and how long at most.
#[derive(Default)]
struct Neglect {
    since_ms: Option<u64>,
    longest_ms: u64,
}

impl Neglect {
    fn look(&mut self, is_neglecting: bool, now_ms: u64) {
        if let Some(since_ms) = self.since_ms {
            self.longest_ms = self.longest_ms.max(now_ms - since_ms);
        }
        self.since_ms = is_neglecting.then(|| self.since_ms.unwrap_or(now_ms));
    }
}

#[allow(clippy::struct_excessive_bools, reason = "independent facts")]
pub struct Client {
    pub link: Link,
    /// Whether it reads nothing for the time being.
    pub is_stalled: bool,
    pub has_left: bool,
    outgoing: VecDeque<u8>,
    input: Vec<u8>,
    has_head: bool,
    has_welcome: bool,
    asked: VecDeque<(u64, Asked)>,
    next_id: u64,
    named: BTreeSet<String>,
    /// Set while it follows everything: the revisions when it learned that.
    everything: Option<BTreeMap<String, u64>>,
    positions: BTreeMap<String, Position>,
    /// What has to come next of a service that is being resumed.
    replay: Option<(String, u64, u64)>,
    close: Option<u16>,
    has_closed: bool,
    /// It left bytes untouched.
    takes_nothing: Neglect,
    /// It left anything at all undone.
    is_behind: Neglect,
    /// It has said that it closes.
    is_closing: Neglect,
    pub snapshots: u64,
    pub replays: u64,
}

impl Client {
    pub fn new(link: Link) -> Client {
        let mut client = Client {
            link,
            is_stalled: false,
            has_left: false,
            outgoing: VecDeque::new(),
            input: Vec::new(),
            has_head: false,
            has_welcome: false,
            asked: VecDeque::new(),
            next_id: 1,
            named: BTreeSet::new(),
            everything: None,
            positions: BTreeMap::new(),
            replay: None,
            close: None,
            has_closed: false,
            takes_nothing: Neglect::default(),
            is_behind: Neglect::default(),
            is_closing: Neglect::default(),
            snapshots: 0,
            replays: 0,
        };
        client.outgoing.extend(
            b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        );
        client
    }

    /// Where it stood with each service, to come back with.
    pub fn memory(&self) -> Vec<(String, u64)> {
        self.positions.iter().map(|(name, position)| (name.clone(), position.revision)).collect()
    }

    /// Whether it may still ask for something.
    pub fn can_ask(&self) -> bool {
        !self.has_left && !self.has_closed && self.close.is_none()
    }

    pub fn ask(&mut self, mut request: Value, asked: Asked, is_split: bool) {
        request["id"] = self.next_id.into();
        self.asked.push_back((self.next_id, asked));
        self.next_id += 1;
        let text = request.to_string();
        if is_split {
            let middle = text.len() / 2;
            push_frame(&mut self.outgoing, 0x01, &text.as_bytes()[..middle]);
            push_frame(&mut self.outgoing, 0x80, &text.as_bytes()[middle..]);
        } else {
            push_frame(&mut self.outgoing, 0x81, text.as_bytes());
        }
    }

    /// Says something that is not JSON.
    pub fn babble(&mut self) {
        self.asked.push_back((0, Asked::Garbage));
        push_frame(&mut self.outgoing, 0x81, b"{\"type\":");
    }

    pub fn subscribe(&mut self, spelling: &str, snapshot: bool, since: Option<(String, u64)>) {
        let mut request = json!({"type": "subscribe", "service_id": spelling});
        if snapshot {
            request["snapshot"] = true.into();
        }
        if let Some((epoch, revision)) = &since {
            request["since"] = json!({"epoch": epoch, "revision": revision});
        }
        let asked = if spelling == "*" {
            Asked::SubscribeAll
        } else {
            Asked::Subscribe { service: spelling.to_ascii_lowercase(), snapshot, since }
        };
        self.ask(request, asked, false);
    }

    pub fn unsubscribe(&mut self, spelling: &str) {
        let request = json!({"type": "unsubscribe", "service_id": spelling});
        self.ask(request, Asked::Unsubscribe(spelling.to_ascii_lowercase()), false);
    }

    pub fn close(&mut self) {
        push_frame(&mut self.outgoing, 0x88, &1000_u16.to_be_bytes());
        self.has_closed = true;
    }

    pub fn leave(&mut self, how: ClientEnd) {
        self.has_left = true;
        self.link.leave(how);
    }

    /// Lets some bytes go out. Returns whether there were any.
    pub fn send(&mut self, bytes_max: usize) -> bool {
        let count = bytes_max.min(self.outgoing.len());
        let bytes: Vec<u8> = self.outgoing.drain(..count).collect();
        self.link.send(bytes.into_iter());
        count > 0
    }

    /// Reads some bytes and judges them. Returns whether there were any.
    pub fn receive(&mut self, bytes_max: usize, oracle: &Oracle) -> bool {
        if self.has_left {
            return false;
        }
        let bytes = self.link.take(bytes_max);
        if !bytes.is_empty() {
            self.takes_nothing.since_ms = None;
        }
        self.input.extend_from_slice(&bytes);
        if !self.has_head {
            let Some(end) = self.input.windows(4).position(|four| four == b"\r\n\r\n") else {
                return !bytes.is_empty();
            };
            assert!(self.input.starts_with(b"HTTP/1.1 101 "), "not upgraded");
            self.input.drain(..end + 4);
            self.has_head = true;
        }
        while let Some((opcode, payload)) = self.next_frame() {
            assert_eq!(self.close, None, "a frame after the close frame");
            match opcode {
                1 => {
                    let text: Value = serde_json::from_slice(&payload).expect("JSON");
                    self.judge(&text, oracle);
                }
                8 => self.close = Some(u16::from_be_bytes([payload[0], payload[1]])),
                9 => push_frame(&mut self.outgoing, 0x8a, &payload),
                other => panic!("an unexpected opcode {other}"),
            }
        }
        !bytes.is_empty()
    }

    fn next_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let (&first, &short) = (self.input.first()?, self.input.get(1)?);
        assert_eq!(first & 0xf0, 0x80, "whole frames without reserved bits");
        let (start, length) = match short {
            126 => {
                let bytes = self.input.get(2..4)?;
                (4, usize::from(u16::from_be_bytes([bytes[0], bytes[1]])))
            }
            127 => {
                let bytes = self.input.get(2..10)?.try_into().expect("eight bytes");
                (10, usize::try_from(u64::from_be_bytes(bytes)).expect("it fits"))
            }
            short => (2, usize::from(short)),
        };
        if self.input.len() < start + length {
            return None;
        }
        let payload = self.input[start..start + length].to_vec();
        self.input.drain(..start + length);
        Some((first & 0x0f, payload))
    }

    fn follows(&self, service: &str) -> bool {
        self.everything.is_some() || self.named.contains(service)
    }

    fn judge(&mut self, text: &Value, oracle: &Oracle) {
        let kind = text["type"].as_str().expect("a type");
        assert_eq!(kind == "welcome", !self.has_welcome, "first and once: {text}");
        match kind {
            "welcome" => self.has_welcome = true,
            "service_change" => self.on_change(text, oracle),
            "service_snapshot" => {
                let service = text["service_id"].as_str().expect("a name");
                assert!(self.follows(service), "not followed: {text}");
                assert_eq!(self.replay, None, "a snapshot in place of a promised replay");
                self.snapshots += 1;
                self.on_instances(service, text, oracle);
            }
            "reconnect" => assert!(text["after_ms"].is_u64(), "{text}"),
            _ => self.on_answer(kind, text, oracle),
        }
    }

    fn on_change(&mut self, text: &Value, oracle: &Oracle) {
        let service = text["service_id"].as_str().expect("a name");
        assert!(self.follows(service), "not followed: {text}");
        assert_eq!(text["epoch"], EPOCH);
        let from = text["from"].as_u64().expect("a revision");
        let revision = text["revision"].as_u64().expect("a revision");
        let base = || Picture::clone(&oracle.picture(service, from));
        if let Some((resumed, since, until)) = self.replay.take() {
            assert_eq!((service, from, revision), (&*resumed, since, until), "not the replay");
            // Asked for by the client, who says where it stands.
            let position = Position { revision: from, picture: base(), degraded: false };
            self.positions.insert(resumed, position);
            self.replays += 1;
        }
        let position = self.positions.entry(String::from(service)).or_insert_with(|| Position {
            revision: from,
            picture: base(),
            degraded: false,
        });
        assert_eq!(from, position.revision, "a gap or a repetition: {text}");
        let changes = text["changes"].as_array().expect("changes");
        assert_eq!(revision - from, changes.len() as u64, "{text}");
        for change in changes {
            oracle::apply(&mut position.picture, change);
        }
        position.revision = revision;
        position.degraded = text["degraded"].as_bool().expect("the mark");
        assert_eq!(position.picture, *oracle.picture(service, revision), "{text}");
    }

    fn on_instances(&mut self, service: &str, text: &Value, oracle: &Oracle) {
        assert_eq!(text["epoch"], EPOCH);
        let revision = text["revision"].as_u64().expect("a revision");
        let picture = oracle::picture_of(&text["instances"]);
        assert_eq!(picture, *oracle.picture(service, revision), "{text}");
        if let Some(position) = self.positions.get(service) {
            assert!(revision >= position.revision, "back in time: {text}");
        }
        let degraded = text["degraded"].as_bool().expect("the mark");
        self.positions.insert(String::from(service), Position { revision, picture, degraded });
    }

    fn on_answer(&mut self, kind: &str, text: &Value, oracle: &Oracle) {
        let (id, asked) = self.asked.pop_front().unwrap_or_else(|| panic!("unasked: {text}"));
        if asked == Asked::Garbage {
            assert!(kind == "error" && text.get("id").is_none(), "{text}");
            assert_eq!(text["code"], "malformed");
            return;
        }
        assert_eq!(text["id"], id, "out of order: {text}");
        if kind == "error" {
            let code = text["code"].as_str().expect("a code");
            assert!(["unavailable", "too_many_subscriptions"].contains(&code), "{text}");
            return;
        }
        match asked {
            Asked::Subscribe { service, snapshot, since } => {
                assert_eq!((kind, &text["service_id"]), ("subscribed", &json!(service)));
                self.on_subscribed(service, snapshot, since, text, oracle);
            }
            Asked::SubscribeAll => {
                assert_eq!((kind, &text["service_id"]), ("subscribed", &json!("*")));
                self.everything.get_or_insert_with(|| oracle.revisions());
            }
            Asked::Unsubscribe(service) => {
                assert_eq!((kind, &text["service_id"]), ("unsubscribed", &json!(service)));
                if service == "*" {
                    self.everything = None;
                } else {
                    self.named.remove(&service);
                }
                let (named, everything) = (&self.named, self.everything.is_some());
                self.positions.retain(|name, _| everything || named.contains(name));
            }
            Asked::Other(expected) => {
                assert_eq!(kind, expected);
                for list in ["failed_instances", "failed_instance_keys"] {
                    if let Some(failed) = text[list].as_array() {
                        assert!(kind == "heartbeat_ack" || failed.is_empty(), "{text}");
                    }
                }
            }
            Asked::Garbage => unreachable!("handled above"),
        }
    }

    fn on_subscribed(
        &mut self,
        service: String,
        snapshot: bool,
        since: Option<(String, u64)>,
        text: &Value,
        oracle: &Oracle,
    ) {
        assert_eq!(text["epoch"], EPOCH);
        let revision = text["revision"].as_u64().expect("a revision");
        let degraded = text["degraded"].as_bool().expect("the mark");
        let has_instances = text.get("instances").is_some();
        let recovers = since.as_ref().map(|(epoch, since)| {
            epoch == EPOCH && *since <= revision && revision - since <= HISTORY_MAX
        });
        assert_eq!(text.get("recovered").and_then(Value::as_bool), recovers, "{text}");
        assert!(has_instances || (!snapshot && recovers != Some(false)), "{text}");
        self.named.insert(service.clone());
        if has_instances {
            return self.on_instances(&service, text, oracle);
        }
        if let Some((_, since)) = since.filter(|(_, since)| *since < revision) {
            self.replay = Some((service, since, revision));
            return;
        }
        // Nothing missed, so nothing may have changed meanwhile for one who followed before.
        let picture = Picture::clone(&oracle.picture(&service, revision));
        if let Some(position) = self.positions.get(&service) {
            assert_eq!(revision, position.revision, "an untrue claim: {text}");
        }
        self.positions.insert(service, Position { revision, picture, degraded });
    }

    /// Notes what the client leaves undone as time passes.
    pub fn let_time_pass(&mut self, now_ms: u64) {
        let has_bytes = self.link.has_bytes();
        self.takes_nothing.look(has_bytes, now_ms);
        let is_behind = has_bytes || !self.outgoing.is_empty() || !self.has_head;
        self.is_behind.look(is_behind, now_ms);
        self.is_closing.look(self.has_closed && self.outgoing.is_empty(), now_ms);
    }

    /// Judges the end of a connection. `slack_ms` is how coarsely time passes.
    pub fn judge_end(&self, timeouts: &Timeouts, slack_ms: u64) {
        if self.has_left {
            return;
        }
        let behind_ms = self.is_behind.longest_ms + slack_ms;
        let closing_ms = self.is_closing.longest_ms + slack_ms;
        match self.close {
            Some(1000) => assert!(self.has_closed, "closed for no reason"),
            Some(1001) => {}
            Some(4410) => assert!(behind_ms >= timeouts.pong_ms, "its pong was not awaited"),
            Some(4408) => {
                let longest_ms = self.takes_nothing.longest_ms + slack_ms;
                assert!(longest_ms >= timeouts.write_ms, "4408 after {longest_ms} ms");
            }
            Some(other) => panic!("closed with {other}"),
            // Whoever takes so long to read its close frame, or to say its first word.
            None => {
                let longest_ms = behind_ms.max(closing_ms);
                assert!(longest_ms >= timeouts.shortest_ms, "cut off after {longest_ms} ms");
            }
        }
    }

    pub fn close_code(&self) -> Option<u16> {
        self.close
    }

    /// Judges the picture at a quiet moment.
    pub fn judge_quiet(&self, oracle: &Oracle) {
        assert!(self.asked.is_empty(), "never answered: {:?}", self.asked);
        assert_eq!(self.replay, None, "a promised replay that never came");
        assert!(self.input.is_empty() && self.outgoing.is_empty(), "half a frame");
        for service in &self.named {
            assert!(self.positions.contains_key(service), "no picture of {service}");
        }
        for (service, position) in &self.positions {
            let revision = oracle.revision(service);
            assert_eq!(position.revision, revision, "{service}: left behind");
            assert_eq!(position.picture, *oracle.picture(service, revision), "{service}");
            if revision > 0 {
                assert_eq!(position.degraded, oracle.degraded(service), "{service}: the mark");
            }
        }
        let Some(seen) = &self.everything else { return };
        for (service, revision) in oracle.revisions() {
            let has_changed = revision > seen.get(&service).copied().unwrap_or_default();
            let is_known = self.positions.contains_key(&service);
            assert!(is_known || !has_changed, "{service}: unheard of");
        }
    }
}
