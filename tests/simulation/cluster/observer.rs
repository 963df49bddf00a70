//! A strict client at one node: it holds every frame against what the protocol promises.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::{Value, json};

use super::oracle::{Oracle, Picture};
use crate::pipe::{ClientEnd, Link, push_frame};

/// What a request was about.
#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    Service(String),
    Channel { name: String, is_resume: bool },
    Publish { channel: String, payload: Value },
    Change { service: String, instance: String, is_there: bool, number: Option<u64> },
    Heartbeat { service: String, instance: String, ttl_ms: u64, sent_ms: u64 },
    Join(String),
    Leave(String),
    Envelope { to: String },
}

/// Where it stands with a service.
#[derive(Clone)]
pub struct Position {
    pub epoch: String,
    pub revision: u64,
    pub picture: Picture,
}

pub struct Observer {
    pub link: Link,
    pub node: String,
    pub shard: usize,
    pub user: Option<String>,
    /// Its own instances begin with this.
    pub name: String,
    outgoing: VecDeque<u8>,
    input: Vec<u8>,
    has_head: bool,
    pub has_welcome: bool,
    asked: VecDeque<(u64, Asked)>,
    next_id: u64,
    pub services: BTreeMap<String, Position>,
    /// The epoch and offset of each channel it follows.
    pub channels: BTreeMap<String, (String, u64)>,
    /// The users in the rooms that it has joined.
    pub rooms: BTreeMap<String, BTreeSet<String>>,
    /// A request of a room failed: nobody knows whether it is in there.
    pub is_in_doubt: bool,
    /// What came for its user: how often each.
    pub received: BTreeMap<String, u32>,
    /// What envelopes were answered: how many connections each went to.
    pub delivered: Vec<(String, u64)>,
    pub errors: u64,
    pub resumed: u64,
    pub reset: u64,
}

impl Observer {
    pub fn new(
        link: Link,
        (node, shard): (String, usize),
        name: String,
        login: Option<(&str, &str)>,
    ) -> Observer {
        let token = login.map(|(_, token)| format!("?token={token}")).unwrap_or_default();
        let head = format!(
            "GET /ws{token} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        Observer {
            link,
            node,
            shard,
            user: login.map(|(user, _)| user.to_owned()),
            name,
            outgoing: head.bytes().collect(),
            input: Vec::new(),
            has_head: false,
            has_welcome: false,
            asked: VecDeque::new(),
            next_id: 1,
            services: BTreeMap::new(),
            channels: BTreeMap::new(),
            rooms: BTreeMap::new(),
            is_in_doubt: false,
            received: BTreeMap::new(),
            delivered: Vec::new(),
            errors: 0,
            resumed: 0,
            reset: 0,
        }
    }

    pub fn is_idle(&self) -> bool {
        self.has_welcome && self.asked.is_empty() && self.outgoing.is_empty()
    }

    /// What it was not answered, for a failure's report.
    pub fn waits_for(&self) -> String {
        format!("{} at {} shard {}: {:?}", self.name, self.node, self.shard, self.asked)
    }

    /// Whether a request of that kind is under way already.
    pub fn is_asking(&self, is_it: impl Fn(&Asked) -> bool) -> bool {
        self.asked.iter().any(|(_, asked)| is_it(asked))
    }

    pub fn ask(&mut self, mut request: Value, asked: Asked) {
        request["id"] = match asked {
            // It goes along to the receivers.
            Asked::Envelope { .. } => format!("{}/{}", self.name, self.next_id).into(),
            _ => self.next_id.into(),
        };
        self.asked.push_back((self.next_id, asked));
        self.next_id += 1;
        push_frame(&mut self.outgoing, 0x81, request.to_string().as_bytes());
    }

    pub fn follow(&mut self, service: &str) {
        let mut request = json!({"type": "subscribe", "service_id": service});
        match self.services.get(service) {
            Some(at) => request["since"] = json!({"epoch": at.epoch, "revision": at.revision}),
            None => request["snapshot"] = true.into(),
        }
        self.ask(request, Asked::Service(service.to_owned()));
    }

    pub fn follow_channel(&mut self, channel: &str) {
        let mut request = json!({"type": "subscribe", "channel": channel});
        let since = self.channels.get(channel);
        if let Some((epoch, offset)) = since {
            request["since"] = json!({"epoch": epoch, "offset": offset});
        }
        let is_resume = since.is_some();
        self.ask(request, Asked::Channel { name: channel.to_owned(), is_resume });
    }

    pub fn publish(&mut self, channel: &str, payload: Value) {
        let request = json!({"type": "publish", "channel": channel, "payload": payload});
        self.ask(request, Asked::Publish { channel: channel.to_owned(), payload });
    }

    pub fn leave(&mut self, how: ClientEnd) {
        self.link.leave(how);
    }

    pub fn send(&mut self) {
        self.link.send(std::mem::take(&mut self.outgoing).into_iter());
    }

    /// Reads what has come, and judges it.
    pub fn receive(&mut self, oracle: &mut Oracle) {
        self.input.extend(self.link.take(usize::MAX));
        if !self.has_head {
            let Some(end) = self.input.windows(4).position(|four| four == b"\r\n\r\n") else {
                return;
            };
            let head = String::from_utf8_lossy(&self.input[..end]).into_owned();
            assert!(head.starts_with("HTTP/1.1 101 "), "not upgraded: {head}");
            self.input.drain(..end + 4);
            self.has_head = true;
        }
        while let Some((opcode, payload)) = self.next_frame() {
            match opcode {
                1 => {
                    let frame: Value = serde_json::from_slice(&payload).expect("JSON");
                    self.judge(&frame, oracle);
                }
                9 => push_frame(&mut self.outgoing, 0x8a, &payload),
                other => panic!("{}: opcode {other}, {payload:?}", self.name),
            }
        }
    }

    fn next_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let (&first, &short) = (self.input.first()?, self.input.get(1)?);
        let (start, length) = match short {
            126 => {
                (4, usize::from(u16::from_be_bytes(self.input.get(2..4)?.try_into().expect("two"))))
            }
            127 => {
                let bytes = self.input.get(2..10)?.try_into().expect("eight bytes");
                (10, usize::try_from(u64::from_be_bytes(bytes)).expect("it fits"))
            }
            short => (2, usize::from(short)),
        };
        let payload = self.input.get(start..start + length)?.to_vec();
        self.input.drain(..start + length);
        Some((first & 0x0f, payload))
    }

    fn judge(&mut self, frame: &Value, oracle: &mut Oracle) {
        oracle.note(|| format!("{} at {} gets {frame}", self.name, self.node));
        let text = |field: &str| frame[field].as_str().unwrap_or_default().to_owned();
        let id = frame["id"].as_u64();
        match frame["type"].as_str().or(frame["message_type"].as_str()) {
            Some("welcome") => self.has_welcome = true,
            Some("service_change") => self.judge_change(frame, oracle),
            Some("service_snapshot") => self.replace(&text("service_id"), frame, oracle),
            Some("subscribed") if frame["channel"].is_string() => {
                let place = (text("epoch"), frame["offset"].as_u64().expect("an offset"));
                match id.map(|_| self.answered(frame)) {
                    None => {
                        assert_eq!(frame["recovered"], false, "{frame}");
                        self.reset += 1;
                        self.channels.insert(text("channel"), place);
                    }
                    Some(Asked::Channel { name, is_resume }) => {
                        assert_eq!(name, text("channel"));
                        assert_eq!(frame["recovered"].is_boolean(), is_resume, "{frame}");
                        if frame["recovered"] == true {
                            self.resumed += 1;
                            let (epoch, offset) = &self.channels[&name];
                            assert!(*epoch == place.0 && *offset <= place.1, "{frame}");
                        } else {
                            self.channels.insert(name, place);
                        }
                    }
                    Some(other) => panic!("{frame} answers {other:?}"),
                }
            }
            Some("subscribed") => {
                let Asked::Service(service) = self.answered(frame) else { panic!("{frame}") };
                assert_eq!(service, text("service_id"));
                if frame["recovered"] == true {
                    self.resumed += 1;
                    assert_eq!(self.services[&service].epoch, text("epoch"), "{frame}");
                } else {
                    self.replace(&service, frame, oracle);
                }
            }
            Some("json") => {
                let offset = frame["offset"].as_u64().expect("an offset");
                let place = self.channels.get_mut(&text("channel")).expect("it is followed");
                assert_eq!(offset, place.1 + 1, "{}: a gap or a repetition: {frame}", self.name);
                place.1 = offset;
                oracle.message(&text("channel"), &place.0, offset, &frame["payload"]);
            }
            Some("published") => {
                let Asked::Publish { channel, payload } = self.answered(frame) else {
                    panic!("{frame}")
                };
                let offset = frame["offset"].as_u64().expect("an offset");
                oracle.published(&channel, &text("epoch"), offset, &payload);
            }
            Some("registered" | "unregistered") => {
                let Asked::Change { service, instance, is_there, number } = self.answered(frame)
                else {
                    panic!("{frame}")
                };
                let field = if is_there { "failed_instances" } else { "failed_instance_keys" };
                let failed = frame[field].as_array().expect("a list");
                // Of one that is not there, nothing is taken away.
                if failed.is_empty() || (!is_there && failed[0]["errorCode"] == "data-not-found") {
                    if let Some(number) = number {
                        oracle.accept(&service, &instance, number);
                    }
                } else {
                    self.errors += 1;
                }
            }
            Some("heartbeat_ack") => {
                let Asked::Heartbeat { service, instance, ttl_ms, sent_ms } = self.answered(frame)
                else {
                    panic!("{frame}")
                };
                if frame["failed_instance_keys"].as_array().is_some_and(Vec::is_empty) {
                    oracle.renewed(&service, &instance, ttl_ms, sent_ms);
                }
            }
            _ => self.judge_people(frame),
        }
    }

    /// Frames of rooms, of users and of refusals.
    fn judge_people(&mut self, frame: &Value) {
        let text = |field: &str| frame[field].as_str().unwrap_or_default().to_owned();
        match frame["type"].as_str().or(frame["message_type"].as_str()) {
            Some("joined") => {
                let Asked::Join(room) = self.answered(frame) else { panic!("{frame}") };
                let users = frame["users"].as_array().expect("a list").iter();
                let users = users.map(|user| user["user_id"].as_str().expect("an id").to_owned());
                self.rooms.insert(room, users.collect());
            }
            Some("left") => {
                let Asked::Leave(room) = self.answered(frame) else { panic!("{frame}") };
                self.rooms.remove(&room);
            }
            Some("event") => {
                let room = text("channel").trim_start_matches("chat:").to_owned();
                let user = frame["payload"]["user_id"].as_str().expect("an id").to_owned();
                let Some(users) = self.rooms.get_mut(&room) else { return };
                match frame["event"].as_str() {
                    Some("user.joined") => _ = users.insert(user),
                    Some("user.left") => _ = users.remove(&user),
                    _ => panic!("{frame}"),
                }
            }
            Some("private" | "notification") => *self.received.entry(text("id")).or_default() += 1,
            Some("user_joined" | "user_left") => {}
            Some("ack") => {
                let Asked::Envelope { to } = self.answered(frame) else { panic!("{frame}") };
                let count = frame["data"]["delivered_to"].as_u64().expect("a count");
                self.delivered.push((to, count));
            }
            Some("error") => self.judge_error(frame),
            _ => panic!("an unexpected frame: {frame}"),
        }
    }

    fn judge_error(&mut self, frame: &Value) {
        let code = frame["code"].as_str().or(frame["data"]["code"].as_str());
        let asked = self.answered(frame);
        let is_envelope = matches!(asked, Asked::Envelope { .. });
        // A node that is cut off may not have heard of the user.
        let is_expected = code == Some("unavailable") || (is_envelope && code == Some("not_found"));
        assert!(is_expected, "{asked:?}: {frame}");
        self.errors += 1;
        match asked {
            Asked::Join(_) | Asked::Leave(_) => self.is_in_doubt = true,
            // Not followed, or not any more.
            Asked::Service(service) => _ = self.services.remove(&service),
            Asked::Channel { name, .. } => _ = self.channels.remove(&name),
            Asked::Envelope { to } => self.delivered.push((to, u64::MAX)),
            _ => {}
        }
    }

    /// The request that a frame answers: the oldest, for answers keep the order of the requests.
    fn answered(&mut self, frame: &Value) -> Asked {
        let (id, asked) =
            self.asked.pop_front().unwrap_or_else(|| panic!("nothing was asked: {frame}"));
        let number = |id: &str| id.rsplit('/').next().and_then(|number| number.parse().ok());
        let said = frame["id"].as_u64().or(frame["id"].as_str().and_then(number));
        assert_eq!(said, Some(id), "{}: {asked:?} is answered by {frame}", self.name);
        asked
    }

    fn replace(&mut self, service: &str, frame: &Value, oracle: &mut Oracle) {
        let instances =
            frame["instances"].as_array().unwrap_or_else(|| panic!("no instances: {frame}"));
        let picture: Picture = instances.iter().map(|one| (id_of(one), one.clone())).collect();
        let epoch = frame["epoch"].as_str().expect("an epoch").to_owned();
        let revision = frame["revision"].as_u64().expect("a revision");
        oracle.picture(
            &format!("{} at {}", self.name, self.node),
            (&epoch, service, revision),
            &picture,
        );
        self.services.insert(service.to_owned(), Position { epoch, revision, picture });
    }

    fn judge_change(&mut self, frame: &Value, oracle: &mut Oracle) {
        let service = frame["service_id"].as_str().expect("a name");
        let by = format!("{} at {}", self.name, self.node);
        let at = self.services.get_mut(service).unwrap_or_else(|| panic!("not followed: {frame}"));
        assert_eq!(frame["epoch"], *at.epoch, "{}: {frame}", self.name);
        assert_eq!(frame["from"], at.revision, "{}: a gap or a repetition: {frame}", self.name);
        let changes = frame["changes"].as_array().expect("a list");
        for change in changes {
            at.revision += 1;
            let id = id_of(&change["instance"]);
            if change["changeType"] == "delete" {
                if change["reason"] == "expired" {
                    oracle.expired += 1;
                    if id.starts_with(&format!("{}-", self.name)) {
                        oracle.expires(service, &id);
                    }
                }
                at.picture.remove(&id);
            } else {
                at.picture.insert(id, change["instance"].clone());
            }
            oracle.picture(&by, (&at.epoch, service, at.revision), &at.picture);
        }
        assert_eq!(frame["revision"], at.revision, "{frame}");
    }
}

fn id_of(instance: &Value) -> String {
    instance["instanceId"].as_str().expect("an id").to_owned()
}
