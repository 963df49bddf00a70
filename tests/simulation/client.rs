//! A strict client of one node: it believes nothing that it cannot check against the oracle.
//!
//! Its bytes go out and come in torn at any place; it may stop reading for a while, close, or go.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use serde_json::{Value, json};

use super::oracle::{self, Key, Oracle, Picture, Place, Position};
use super::pipe::{ClientEnd, Link, push_frame};
use super::{HISTORY_MAX, Timeouts};

/// What a request was about.
#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    Subscribe {
        service: Rc<str>,
        snapshot: bool,
        since: Option<Place>,
    },
    SubscribeAll,
    Unsubscribe(Rc<str>),
    Channel {
        name: String,
        is_resume: bool,
    },
    Unchannel(String),
    Publish {
        channel: String,
        payload: Value,
    },
    /// The own instance is to be there, or not.
    Change {
        key: Key,
        number: u64,
    },
    /// A lease is renewed, by a registration or a heartbeat.
    Renew {
        key: Key,
        ttl_ms: u64,
        sent_ms: u64,
        is_registration: bool,
    },
    Join,
    Leave,
    Chat(String),
    Envelope {
        to: &'static str,
    },
    /// Anything whose answer is of this type.
    Other(&'static str),
    /// No request at all. The error that answers it has no id.
    Garbage,
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

/// The room, as one of its members sees it.
pub struct Room {
    pub users: BTreeSet<String>,
    /// The offset of its newest message.
    offset: u64,
    /// Whether it went on from another place since the client is in there.
    is_reset: bool,
}

/// What clients went through.
#[derive(Default, Clone, Copy)]
pub struct Tally {
    pub snapshots: u64,
    pub replays: u64,
    pub resumed: u64,
    pub reset: u64,
    pub errors: u64,
}

#[allow(clippy::struct_excessive_bools, reason = "independent facts")]
pub struct Client {
    pub link: Link,
    pub node: Rc<str>,
    pub shard: usize,
    pub user: Option<&'static str>,
    /// Its own instances begin with this.
    pub name: Rc<str>,
    /// Whether its node has every change since the epoch began: then it is known what a resume gives.
    pub is_exact: bool,
    /// Whether it reads nothing for the time being.
    pub is_stalled: bool,
    pub has_left: bool,
    outgoing: VecDeque<u8>,
    input: Vec<u8>,
    has_head: bool,
    pub has_welcome: bool,
    asked: VecDeque<(u64, Asked)>,
    next_id: u64,
    named: BTreeSet<Rc<str>>,
    /// Set while it follows everything: where the services were when it learned that.
    everything: Option<BTreeMap<Rc<str>, Place>>,
    pub positions: BTreeMap<Rc<str>, Position>,
    /// What has to come next of a service that is being resumed.
    replay: Option<(Rc<str>, u64, u64)>,
    /// The epoch and offset of each channel it follows.
    pub channels: BTreeMap<String, (String, u64)>,
    /// When the last heartbeat of its own lease was sent that it knows to be accepted, and the lease's time.
    pub renewed: Option<(u64, u64)>,
    /// Whether the server had more to send than there was room for when it last read.
    had_more_to_take: bool,
    /// When its last registration or heartbeat was answered: events of what was before may come behind the
    /// answer, and an expiry that was told before may have come first in the log.
    answered_ms: u64,
    pub room: Option<Room>,
    /// A request of a room failed: nobody knows whether it is in there.
    pub is_in_doubt: bool,
    /// What came for its user, by id: how often each.
    pub received: BTreeMap<String, u32>,
    /// What was said in the room: how often each came.
    pub heard: BTreeMap<String, u32>,
    /// What envelopes were answered: how many connections each went to.
    pub delivered: Vec<(&'static str, u64)>,
    close: Option<u16>,
    has_closed: bool,
    /// It left bytes untouched.
    takes_nothing: Neglect,
    /// It left anything at all undone.
    is_behind: Neglect,
    /// It has said that it closes.
    is_closing: Neglect,
    pub tally: Tally,
}

impl Client {
    pub fn new(
        link: Link,
        (node, shard): (Rc<str>, usize),
        name: Rc<str>,
        login: Option<(&'static str, &str)>,
    ) -> Client {
        let token = login.map(|(_, token)| format!("?token={token}")).unwrap_or_default();
        let head = format!(
            "GET /ws{token} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        Client {
            link,
            node,
            shard,
            user: login.map(|(user, _)| user),
            name,
            is_exact: false,
            is_stalled: false,
            has_left: false,
            outgoing: head.bytes().collect(),
            input: Vec::new(),
            has_head: false,
            has_welcome: false,
            asked: VecDeque::new(),
            next_id: 1,
            named: BTreeSet::new(),
            everything: None,
            positions: BTreeMap::new(),
            replay: None,
            channels: BTreeMap::new(),
            renewed: None,
            had_more_to_take: false,
            answered_ms: 0,
            room: None,
            is_in_doubt: false,
            received: BTreeMap::new(),
            heard: BTreeMap::new(),
            delivered: Vec::new(),
            close: None,
            has_closed: false,
            takes_nothing: Neglect::default(),
            is_behind: Neglect::default(),
            is_closing: Neglect::default(),
            tally: Tally::default(),
        }
    }

    /// Whether it may still ask for something.
    pub fn can_ask(&self) -> bool {
        !self.has_left && !self.has_closed && self.close.is_none()
    }

    /// Whether nothing is under way.
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

    pub fn ask(&mut self, mut request: Value, asked: Asked, is_split: bool) {
        request["id"] = match asked {
            // It goes along to the receivers.
            Asked::Envelope { .. } => format!("{}/{}", self.name, self.next_id).into(),
            _ => self.next_id.into(),
        };
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

    pub fn subscribe(&mut self, spelling: &str, snapshot: bool, since: Option<Place>) {
        let mut request = json!({"type": "subscribe", "service_id": spelling});
        if snapshot {
            request["snapshot"] = true.into();
        }
        if let Some((epoch, revision)) = &since {
            request["since"] = json!({"epoch": **epoch, "revision": revision});
        }
        let asked = match spelling {
            "*" => Asked::SubscribeAll,
            _ => {
                Asked::Subscribe { service: spelling.to_ascii_lowercase().into(), snapshot, since }
            }
        };
        self.ask(request, asked, false);
    }

    pub fn unsubscribe(&mut self, spelling: &str) {
        let request = json!({"type": "unsubscribe", "service_id": spelling});
        self.ask(request, Asked::Unsubscribe(spelling.to_ascii_lowercase().into()), false);
    }

    pub fn follow_channel(&mut self, channel: &str) {
        let mut request = json!({"type": "subscribe", "channel": channel});
        let since = self.channels.get(channel);
        if let Some((epoch, offset)) = since {
            request["since"] = json!({"epoch": epoch, "offset": offset});
        }
        let is_resume = since.is_some();
        self.ask(request, Asked::Channel { name: channel.to_owned(), is_resume }, false);
    }

    pub fn publish(&mut self, channel: &str, payload: Value) {
        let request = json!({"type": "publish", "channel": channel, "payload": payload});
        self.ask(request, Asked::Publish { channel: channel.to_owned(), payload }, false);
    }

    pub fn close(&mut self) {
        push_frame(&mut self.outgoing, 0x88, &1000_u16.to_be_bytes());
        self.has_closed = true;
    }

    pub fn leave(&mut self, how: ClientEnd) {
        self.has_left = true;
        self.link.leave(how);
    }

    /// Whether the connection is over, and all that it sent is read.
    pub fn is_over(&self) -> bool {
        self.link.is_over() && (self.has_left || !self.link.has_bytes())
    }

    /// Whether it has read all that was sent to it.
    pub fn has_read_all(&self) -> bool {
        self.input.is_empty() && !self.link.has_bytes()
    }

    /// Lets some bytes go out.
    pub fn send(&mut self, bytes_max: usize) {
        let count = bytes_max.min(self.outgoing.len());
        let bytes: Vec<u8> = self.outgoing.drain(..count).collect();
        self.link.send(bytes.into_iter());
    }

    /// Reads some bytes and judges them.
    pub fn receive(&mut self, bytes_max: usize, oracle: &mut Oracle) {
        if self.has_left {
            return;
        }
        self.had_more_to_take = self.link.is_full();
        let bytes = self.link.take(bytes_max);
        if !bytes.is_empty() {
            self.takes_nothing.since_ms = None;
            oracle.trace(&bytes);
        }
        self.input.extend_from_slice(&bytes);
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
            assert_eq!(self.close, None, "a frame after the close frame");
            match opcode {
                1 => {
                    let frame: Value = serde_json::from_slice(&payload).expect("JSON");
                    self.judge(&frame, oracle);
                }
                8 => self.close = Some(u16::from_be_bytes([payload[0], payload[1]])),
                9 => push_frame(&mut self.outgoing, 0x8a, &payload),
                other => panic!("an unexpected opcode {other}"),
            }
        }
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
        let payload = self.input.get(start..start + length)?.to_vec();
        self.input.drain(..start + length);
        Some((first & 0x0f, payload))
    }

    fn judge(&mut self, frame: &Value, oracle: &mut Oracle) {
        oracle.note(|| format!("{} at {} gets {frame}", self.name, self.node));
        let kind = frame["type"].as_str().or(frame["message_type"].as_str()).expect("a type");
        assert_eq!(kind == "welcome", !self.has_welcome, "first and once: {frame}");
        match kind {
            "welcome" => self.has_welcome = true,
            "service_change" => self.on_change(frame, oracle),
            "service_snapshot" => {
                let service = name_of(frame);
                assert!(self.follows(&service), "not followed: {frame}");
                // Where the node begins from a snapshot, the replay is of another history.
                if self.is_exact {
                    assert_eq!(self.replay, None, "a snapshot in place of a promised replay");
                }
                self.replay = None;
                self.tally.snapshots += 1;
                self.on_instances(service, frame, oracle);
            }
            "subscribed" if frame["channel"].is_string() && frame["id"].is_null() => {
                assert_eq!(frame["recovered"], false, "{frame}");
                self.tally.reset += 1;
                self.on_channel_reset(frame);
            }
            "json" => self.on_message(frame, oracle),
            "chat" => self.on_chat(frame),
            "event" => self.on_room_event(frame),
            "private" | "group" | "notification" => {
                *self.received.entry(text(frame, "id")).or_default() += 1;
            }
            "user_joined" | "user_left" => {}
            "reconnect" => assert!(frame["after_ms"].is_u64(), "{frame}"),
            "error" => self.on_error(frame),
            _ => self.on_answer(kind, frame, oracle),
        }
    }

    fn follows(&self, service: &str) -> bool {
        self.everything.is_some() || self.named.contains(service)
    }

    fn on_change(&mut self, frame: &Value, oracle: &Oracle) {
        let (service, place) = (name_of(frame), Position::of(frame));
        assert!(self.follows(&service), "not followed: {frame}");
        let from = frame["from"].as_u64().expect("a revision");
        let base = || Position {
            revision: from,
            picture: oracle.picture(&place.epoch, &service, from),
            degraded: false,
            ..place.clone()
        };
        if let Some((resumed, since, until)) = self.replay.take() {
            let promised = (&*resumed, since, until);
            assert_eq!((&*service, from, place.revision), promised, "not the replay: {frame}");
            self.tally.replays += 1;
            // Asked for by the client, who says where it stands: that may be in the midst of what its
            // node began with.
            if oracle.find(&place.epoch, &service, from).is_none() {
                let picture = oracle.picture(&place.epoch, &service, place.revision);
                self.positions.insert(resumed, Position { picture, ..place });
                return;
            }
            self.positions.insert(resumed, base());
        }
        let position = self.positions.entry(Rc::clone(&service)).or_insert_with(base);
        if position.revision == 0 {
            // Of a service without a history only the mark was known.
            position.epoch = Rc::clone(&place.epoch);
        }
        let known = (&position.epoch, position.revision);
        assert_eq!(known, (&place.epoch, from), "{}: a gap or a repetition: {frame}", self.name);
        let changes = frame["changes"].as_array().expect("changes");
        assert_eq!(place.revision - from, changes.len() as u64, "{frame}");
        for (revision, change) in (from + 1..).zip(changes) {
            oracle::apply(&mut position.picture, change);
            let id = change["instance"]["instanceId"].as_str().unwrap_or_default();
            if change["reason"] == "expired"
                && id.strip_suffix("-lease") == Some(&*self.name)
                && let Some((sent_ms, ttl_ms)) = self.renewed
                && oracle.told_ms(&place.epoch, &service, revision) > Some(self.answered_ms)
            {
                // Its heartbeat was accepted before: so the lease had a whole period from there.
                let age_ms = oracle.now_ms - sent_ms;
                assert!(age_ms >= ttl_ms, "{id} expires {age_ms} ms after a heartbeat");
            }
        }
        (position.revision, position.degraded) = (place.revision, place.degraded);
        oracle.check(&self.name, &service, position);
    }

    fn on_instances(&mut self, service: Rc<str>, frame: &Value, oracle: &Oracle) {
        let mut position = Position::of(frame);
        position.picture = oracle::picture_of(&frame["instances"]);
        oracle.check(&self.name, &service, &position);
        if let Some(before) = self.positions.get(&service)
            && before.epoch == position.epoch
        {
            assert!(position.revision >= before.revision, "back in time: {frame}");
        }
        self.positions.insert(service, position);
    }

    /// A channel, or the room, goes on from another place.
    fn on_channel_reset(&mut self, frame: &Value) {
        let (epoch, offset) = place_of(frame);
        let channel = text(frame, "channel");
        match &mut self.room {
            Some(room) if channel.starts_with("chat:") => {
                (room.offset, room.is_reset) = (offset, true);
            }
            _ => _ = self.channels.insert(channel, (epoch, offset)),
        }
    }

    fn on_message(&mut self, frame: &Value, oracle: &mut Oracle) {
        let (channel, offset) = (text(frame, "channel"), frame["offset"].as_u64().expect("one"));
        let place = self.channels.get_mut(&channel).expect("it is followed");
        assert_eq!(offset, place.1 + 1, "{}: a gap or a repetition: {frame}", self.name);
        place.1 = offset;
        oracle.message(&channel, &place.0, offset, &frame["payload"]);
    }

    /// Something is said in the room. The speaker's own frame answers the request.
    fn on_chat(&mut self, frame: &Value) {
        let content = text(frame, "content");
        let is_own = !frame["id"].is_null();
        if is_own {
            assert_eq!(self.answered(frame), Asked::Chat(content.clone()));
        }
        let room = self.room.as_mut().unwrap_or_else(|| panic!("not in the room: {frame}"));
        let offset = frame["offset"].as_u64().expect("an offset");
        let is_next = offset == room.offset + 1;
        // Where the room went on from another place, the own word may be of the one before; and one that
        // was refused, and is said all the same, does not come to the speaker.
        let is_excused = (is_own && room.is_reset) || (self.is_in_doubt && offset > room.offset);
        let name = &self.name;
        assert!(
            is_next || is_excused,
            "{name}: a gap or a repetition after {}: {frame}",
            room.offset
        );
        if is_next || self.is_in_doubt {
            room.offset = offset;
        }
        *self.heard.entry(content).or_default() += 1;
    }

    fn on_room_event(&mut self, frame: &Value) {
        let user = frame["payload"]["user_id"].as_str().expect("an id").to_owned();
        let Some(room) = &mut self.room else { return };
        match frame["event"].as_str() {
            Some("user.joined") => _ = room.users.insert(user),
            Some("user.left") => _ = room.users.remove(&user),
            _ => panic!("{frame}"),
        }
    }

    fn on_error(&mut self, frame: &Value) {
        let code = frame["code"].as_str().or(frame["data"]["code"].as_str()).expect("a code");
        if self.asked.front().is_some_and(|(_, asked)| *asked == Asked::Garbage) {
            self.asked.pop_front();
            assert!(frame.get("id").is_none() && code == "malformed", "{frame}");
            return;
        }
        let asked = self.answered(frame);
        let is_envelope = matches!(asked, Asked::Envelope { .. });
        // A node that is cut off may not have heard of the user.
        let is_expected = ["unavailable", "too_many_subscriptions"].contains(&code)
            || (is_envelope && code == "not_found");
        assert!(is_expected, "{asked:?}: {frame}");
        self.tally.errors += 1;
        match asked {
            Asked::Join | Asked::Leave | Asked::Chat(_) => self.is_in_doubt = true,
            Asked::Channel { name, .. } => _ = self.channels.remove(&name),
            Asked::Envelope { to } => self.delivered.push((to, u64::MAX)),
            _ => {}
        }
    }

    /// The request that a frame answers: the oldest, for answers keep the order of the requests.
    fn answered(&mut self, frame: &Value) -> Asked {
        let (id, asked) = self.asked.pop_front().unwrap_or_else(|| panic!("unasked: {frame}"));
        let number = |id: &str| id.rsplit('/').next().and_then(|number| number.parse().ok());
        let said = frame["id"].as_u64().or(frame["id"].as_str().and_then(number));
        assert_eq!(said, Some(id), "{}: {asked:?} is answered by {frame}", self.name);
        asked
    }

    fn on_answer(&mut self, kind: &str, frame: &Value, oracle: &mut Oracle) {
        let failed = ["failed_instances", "failed_instance_keys"]
            .iter()
            .find_map(|list| frame[list].as_array())
            .map_or(0, Vec::len);
        match self.answered(frame) {
            Asked::Subscribe { service, snapshot, since } => {
                assert_eq!((kind, name_of(frame)), ("subscribed", Rc::clone(&service)));
                self.on_subscribed(service, snapshot, since, frame, oracle);
            }
            Asked::SubscribeAll => {
                assert_eq!((kind, &*name_of(frame)), ("subscribed", "*"));
                self.everything.get_or_insert_default();
            }
            Asked::Unsubscribe(service) => {
                assert_eq!((kind, name_of(frame)), ("unsubscribed", Rc::clone(&service)));
                if &*service == "*" {
                    self.everything = None;
                } else {
                    self.named.remove(&service);
                }
                let (named, everything) = (&self.named, self.everything.is_some());
                self.positions.retain(|name, _| everything || named.contains(name));
            }
            Asked::Channel { name, is_resume } => {
                assert_eq!((kind, text(frame, "channel")), ("subscribed", name.clone()));
                assert_eq!(frame["recovered"].is_boolean(), is_resume, "{frame}");
                let place = place_of(frame);
                if frame["recovered"] == true {
                    self.tally.resumed += 1;
                    let (epoch, offset) = &self.channels[&name];
                    assert!(*epoch == place.0 && *offset <= place.1, "{frame}");
                } else {
                    self.channels.insert(name, place);
                }
            }
            Asked::Unchannel(name) => {
                assert_eq!((kind, text(frame, "channel")), ("unsubscribed", name.clone()));
                self.channels.remove(&name);
            }
            Asked::Publish { channel, payload } => {
                assert_eq!(kind, "published");
                let (epoch, offset) = place_of(frame);
                oracle.published += 1;
                oracle.message(&channel, &epoch, offset, &payload);
            }
            Asked::Change { key, number } => {
                assert!(["registered", "unregistered"].contains(&kind), "{frame}");
                // Of one that is not there, nothing is taken away.
                let is_gone = frame["failed_instance_keys"][0]["errorCode"] == "data-not-found";
                if failed == 0 || is_gone {
                    oracle.accept(&key, number);
                } else {
                    self.tally.errors += 1;
                }
            }
            Asked::Renew { key, ttl_ms, sent_ms, is_registration } => {
                let answer = if is_registration { "registered" } else { "heartbeat_ack" };
                assert_eq!(kind, answer, "{frame}");
                self.answered_ms = oracle.now_ms;
                if failed == 0 {
                    self.renewed = Some((sent_ms, ttl_ms));
                    oracle.renewed(key, ttl_ms, sent_ms);
                }
            }
            Asked::Join => {
                let users = frame["users"].as_array().expect("a list").iter();
                let users = users.map(|user| text(user, "user_id")).collect();
                self.room = Some(Room { users, offset: place_of(frame).1, is_reset: false });
            }
            Asked::Leave => self.room = None,
            Asked::Envelope { to } => {
                let count = frame["data"]["delivered_to"].as_u64().expect("a count");
                self.delivered.push((to, count));
            }
            Asked::Other(expected) => assert_eq!(kind, expected),
            other @ (Asked::Chat(_) | Asked::Garbage) => panic!("{other:?}: {frame}"),
        }
    }

    fn on_subscribed(
        &mut self,
        service: Rc<str>,
        snapshot: bool,
        since: Option<Place>,
        frame: &Value,
        oracle: &Oracle,
    ) {
        let place = Position::of(frame);
        let has_instances = frame.get("instances").is_some();
        let recovered = frame.get("recovered").and_then(Value::as_bool);
        let can_recover = since.as_ref().map(|(epoch, since)| {
            *epoch == place.epoch
                && *since <= place.revision
                && place.revision - since <= HISTORY_MAX
        });
        assert_eq!(recovered.is_some(), can_recover.is_some(), "{frame}");
        // A node that began from a snapshot has less of the history.
        let is_right = recovered == can_recover || (!self.is_exact && recovered == Some(false));
        assert!(is_right, "{since:?}: {frame}");
        assert!(has_instances || (!snapshot && recovered != Some(false)), "{frame}");
        self.named.insert(Rc::clone(&service));
        if has_instances {
            return self.on_instances(service, frame, oracle);
        }
        if let Some((_, since)) = since.filter(|(_, since)| *since < place.revision) {
            self.replay = Some((service, since, place.revision));
            return;
        }
        // Nothing missed, so nothing may have changed meanwhile for one who followed before.
        // Without a history there is nothing to know, in whatever epoch.
        let before = self.positions.get(&service).filter(|before| before.revision > 0);
        if let Some(before) = before {
            let known = (&before.epoch, before.revision);
            assert_eq!(known, (&place.epoch, place.revision), "an untrue claim: {frame}");
        }
        let picture: Picture = oracle.picture(&place.epoch, &service, place.revision);
        self.positions.insert(service, Position { picture, ..place });
    }

    /// What the node shows when the client begins to follow everything.
    pub fn note_everything(&mut self, services: &BTreeMap<Rc<str>, Position>) {
        if let Some(seen) = &mut self.everything
            && seen.is_empty()
        {
            let place = |at: &Position| (Rc::clone(&at.epoch), at.revision);
            *seen = services.iter().map(|(name, at)| (Rc::clone(name), place(at))).collect();
        }
    }

    /// Notes what the client leaves undone as time passes.
    pub fn let_time_pass(&mut self, now_ms: u64) {
        let has_bytes = self.link.has_bytes();
        self.takes_nothing.look(has_bytes, now_ms);
        let is_behind =
            has_bytes || self.had_more_to_take || !self.outgoing.is_empty() || !self.has_head;
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
                // A message for which there is no room ends the connection of one who is behind.
                let longest_ms = self.takes_nothing.longest_ms + slack_ms;
                let is_late = longest_ms >= timeouts.write_ms;
                assert!(is_late || behind_ms > slack_ms, "4408 after {longest_ms} ms");
            }
            Some(other) => panic!("closed with {other}"),
            // Whoever takes so long to read its close frame, or to say its first word.
            None => {
                let longest_ms = behind_ms.max(closing_ms);
                let name = &self.name;
                assert!(longest_ms >= timeouts.shortest_ms, "{name} cut off after {longest_ms} ms");
            }
        }
    }

    pub fn close_code(&self) -> Option<u16> {
        self.close
    }

    /// Compares what it knows at a quiet moment with what its node shows.
    pub fn judge_quiet(&self, shown: &BTreeMap<Rc<str>, Position>) {
        let name = &self.name;
        assert!(self.asked.is_empty(), "never answered: {}", self.waits_for());
        assert_eq!(self.replay, None, "a promised replay that never came");
        for service in &self.named {
            assert!(self.positions.contains_key(service), "no picture of {service}");
        }
        for (service, position) in &self.positions {
            let known = (&position.epoch, position.revision, position.degraded);
            match shown.get(service).filter(|at| at.revision > 0) {
                Some(at) => {
                    let is = (&at.epoch, at.revision, at.degraded);
                    assert_eq!(known, is, "{service} to {name} and to its node");
                    assert!(position.picture == at.picture, "{service}: another picture");
                }
                // In peace nothing is degraded that has no instances. Who follows all services heard of one that
                // never had any only if somebody follows that by name, and need not hear the end of it.
                None if self.named.contains(service) => {
                    assert_eq!((known.1, known.2), (0, false), "{service} to {name}");
                }
                None => assert_eq!(known.1, 0, "{service} to {name}"),
            }
        }
        let Some(seen) = &self.everything else { return };
        for (service, at) in shown {
            let was = seen.get(service).map(|(epoch, revision)| (epoch, *revision));
            let is_known = self.positions.contains_key(service);
            assert!(is_known || was == Some((&at.epoch, at.revision)), "{service}: unheard of");
        }
    }
}

fn text(frame: &Value, field: &str) -> String {
    frame[field].as_str().unwrap_or_default().to_owned()
}

fn name_of(frame: &Value) -> Rc<str> {
    frame["service_id"].as_str().expect("a name").into()
}

/// Where a channel stands.
fn place_of(frame: &Value) -> (String, u64) {
    (text(frame, "epoch"), frame["offset"].as_u64().expect("an offset"))
}
