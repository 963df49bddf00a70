//! People among nodes that fail: they publish and follow, write and read, and sit in a room, at
//! whichever node they reach, note what they are told, and compare it in the end.

#![allow(clippy::disallowed_methods, reason = "people act by the clock of the wall")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};

use fanfare_test_support::nodes::{Line, Trail, place, try_call};
use fanfare_test_support::{Rng, token};

/// What a call may take before the caller goes elsewhere.
const CALL: Duration = Duration::from_secs(2);
/// How long people may take to have everything, once all nodes are well.
const SETTLE: Duration = Duration::from_secs(20);
const CHANNELS: [&str; 2] = ["news", "sport"];
const PUBLISHERS: usize = 3;
const FOLLOWERS: usize = 4;
const SENDERS: usize = 3;
const RECEIVERS: usize = 3;
const GUESTS: usize = 5;
const ROOM: &str = "hall";
/// How far back from its end a channel has to be recoverable; it keeps more than is ever published.
const BACK: u64 = 40;

/// What people know of nodes, and of when to stop.
#[derive(Default)]
pub struct Places {
    nodes: Mutex<Vec<Option<SocketAddr>>>,
    /// Nobody says anything new.
    is_quiet: AtomicBool,
    /// Nobody reads any more.
    is_over: AtomicBool,
    /// Where each channel ends.
    ends: Mutex<BTreeMap<&'static str, (String, u64)>>,
    /// Whom each guest knows to be in the room, by frames alone; none while it is outside.
    rooms: Mutex<BTreeMap<usize, Option<BTreeSet<String>>>>,
}

impl Places {
    /// Where a node is, or that there is nobody to be reached.
    pub fn set(&self, node: usize, address: Option<SocketAddr>) {
        let mut nodes = self.nodes.lock();
        let count = nodes.len().max(node + 1);
        nodes.resize(count, None);
        nodes[node] = address;
    }

    /// Some node that can be reached; not always the first one that is tried.
    fn pick(&self, rng: &mut Rng) -> Option<SocketAddr> {
        let nodes = self.nodes.lock();
        let node = rng.below(nodes.len());
        nodes[node]
    }

    fn is_quiet(&self) -> bool {
        self.is_quiet.load(Ordering::SeqCst)
    }
}

/// A message of a channel that was acknowledged.
struct Published {
    channel: &'static str,
    place: (String, u64),
    payload: Value,
}

/// A direct message that was accepted.
struct Sent {
    id: String,
    to: String,
    content: String,
}

/// What a receiver has read.
#[derive(Default)]
struct Read {
    /// By its cursor, which it took from node to node: id and content.
    walked: Vec<(String, String)>,
    /// On its sockets.
    pushed: BTreeSet<String>,
}

/// Everybody, at work.
pub struct Crowd {
    places: Arc<Places>,
    publishers: Vec<JoinHandle<Vec<Published>>>,
    followers: Vec<JoinHandle<Trail>>,
    senders: Vec<JoinHandle<Vec<Sent>>>,
    receivers: Vec<JoinHandle<Read>>,
    guests: Vec<JoinHandle<()>>,
}

impl Crowd {
    /// Sends people to work; `with_messages` where there is a database to keep what they write.
    pub fn start(places: &Arc<Places>, seed: u64, with_messages: bool) -> Crowd {
        let (senders, receivers) = if with_messages { (SENDERS, RECEIVERS) } else { (0, 0) };
        Crowd {
            places: Arc::clone(places),
            publishers: spawn(PUBLISHERS, seed, places, publish),
            followers: spawn(FOLLOWERS, seed, places, follow),
            senders: spawn(senders, seed, places, write),
            receivers: spawn(receivers, seed, places, read),
            guests: spawn(GUESTS, seed, places, sit),
        }
    }

    /// Has everybody finish, and compares what they know. All nodes are well. Returns what happened
    /// in a few words.
    pub fn finish(self, nodes: &[SocketAddr]) -> String {
        self.places.is_quiet.store(true, Ordering::SeqCst);
        let published = joined(self.publishers);
        let sent = joined(self.senders);
        for channel in CHANNELS {
            let end = publish_at(nodes[0], channel, &json!("the end")).expect("all is well");
            self.places.ends.lock().insert(channel, end);
        }
        let trails: Vec<Trail> =
            self.followers.into_iter().map(|one| one.join().expect("it follows")).collect();
        expect_full_room(&self.places, nodes);
        self.places.is_over.store(true, Ordering::SeqCst);
        self.guests.into_iter().for_each(|one| one.join().expect("it sits"));
        let read: Vec<Read> =
            self.receivers.into_iter().map(|one| one.join().expect("it reads")).collect();
        compare_channels(&published, &trails);
        for (node, trail) in nodes.iter().flat_map(|node| trails.iter().map(move |one| (node, one)))
        {
            expect_recovered(*node, trail);
        }
        for (by, read) in read.iter().enumerate() {
            for &node in nodes {
                compare_messages(&sent, &receiver(by), read, node);
            }
        }
        let losses: usize = trails.iter().map(|trail| trail.told.len() - 1).sum();
        let pushed: usize = read.iter().map(|one| one.pushed.len()).sum();
        format!(
            "{} published, followers were told of {losses} losses; {} sent, {pushed} pushed",
            published.len(),
            sent.len()
        )
    }
}

fn spawn<T: Send + 'static>(
    count: usize,
    seed: u64,
    places: &Arc<Places>,
    work: fn(usize, Rng, &Places) -> T,
) -> Vec<JoinHandle<T>> {
    let one = |by: usize| {
        let (places, rng) = (Arc::clone(places), Rng::seeded(seed * 100 + by as u64));
        std::thread::spawn(move || work(by, rng, &places))
    };
    (0..count).map(one).collect()
}

fn joined<T>(threads: Vec<JoinHandle<Vec<T>>>) -> Vec<T> {
    threads.into_iter().flat_map(|one| one.join().expect("it works")).collect()
}

fn rest(rng: &mut Rng) {
    std::thread::sleep(Duration::from_millis(20 + rng.below(60) as u64));
}

fn publish(by: usize, mut rng: Rng, places: &Places) -> Vec<Published> {
    let mut published = Vec::new();
    for n in 0_u32.. {
        if places.is_quiet() {
            break;
        }
        let channel = CHANNELS[rng.below(CHANNELS.len())];
        let payload = json!({"by": by, "n": n});
        if let Some(node) = places.pick(&mut rng)
            && let Some(place) = publish_at(node, channel, &payload)
        {
            published.push(Published { channel, place, payload });
        }
        rest(&mut rng);
    }
    published
}

/// The place of a message, where it was acknowledged.
fn publish_at(node: SocketAddr, channel: &str, payload: &Value) -> Option<(String, u64)> {
    let path = format!("/api/v1/channels/{channel}/messages");
    let body = json!({"payload": payload});
    let (status, answer) = try_call(node, CALL, ("POST", &path), "", &body)?;
    assert!(status == 200 || status == 503, "{status}: {answer}");
    (status == 200).then(|| place(&answer))
}

/// Follows a channel to its end, from node to node.
fn follow(by: usize, mut rng: Rng, places: &Places) -> Trail {
    let channel = CHANNELS[by % CHANNELS.len()];
    let mut line: Option<Line> = None;
    let mut trail: Option<Trail> = None;
    let mut settled: Option<Instant> = None;
    loop {
        if let Some(end) = places.ends.lock().get(channel).cloned() {
            let since = settled.get_or_insert_with(Instant::now).elapsed();
            let here = trail.as_ref().map(|trail| (trail.epoch.clone(), trail.offset));
            match trail {
                Some(trail) if here.as_ref() == Some(&end) => return trail,
                _ => assert!(since < SETTLE, "{channel} ends at {end:?}, and one is at {here:?}"),
            }
        }
        let Some(open) = &mut line else {
            line = places.pick(&mut rng).and_then(|node| Line::open(node, CALL, ""));
            let ask = json!({"type": "subscribe", "channel": channel});
            let mut ask = trail.as_ref().map_or(ask, Trail::resume);
            ask["id"] = json!("mine");
            let is_asked = line.as_mut().is_some_and(|line| line.send(&ask));
            if !is_asked {
                line = None;
                rest(&mut rng);
            }
            continue;
        };
        match open.poll() {
            Ok(Some(frame)) if !take(&mut trail, &frame) => line = None,
            Err(_) => line = None,
            // It moves on, though nothing is wrong.
            Ok(None) if !places.is_quiet() && rng.below(600) == 0 => line = None,
            Ok(_) => {}
        }
    }
}

/// Takes in a frame. False where the node cannot serve.
fn take(trail: &mut Option<Trail>, frame: &Value) -> bool {
    match (frame["type"].as_str(), &mut *trail) {
        (Some("welcome"), _) => {}
        (Some("error" | "reconnect"), _) => return false,
        (Some("subscribed"), None) => *trail = Some(Trail::begin(frame)),
        (Some("subscribed"), Some(trail)) => {
            let is_asked = frame["id"] == "mine";
            assert!(is_asked || frame["recovered"] == false, "unasked: {frame}");
            trail.subscribed(frame);
        }
        (_, Some(trail)) => trail.apply(frame),
        (_, None) => panic!("a message before the answer: {frame}"),
    }
    true
}

fn sender(by: usize) -> String {
    format!("sender{by}")
}

fn receiver(by: usize) -> String {
    format!("receiver{by}")
}

fn guest(by: usize) -> String {
    format!("guest{by}")
}

/// Makes everybody known, whose tokens alone say who they are.
pub fn introduce(node: SocketAddr) {
    let all =
        (0..SENDERS).map(sender).chain((0..RECEIVERS).map(receiver)).chain((0..GUESTS).map(guest));
    for user in all {
        let said = try_call(node, CALL, ("GET", "/ws/online"), &token(&user, ""), &Value::Null);
        assert_eq!(said.map(|(status, _)| status), Some(200), "{user}");
    }
}

fn write(by: usize, mut rng: Rng, places: &Places) -> Vec<Sent> {
    let token = token(&sender(by), "");
    let mut sent: Vec<Sent> = Vec::new();
    for n in 0_u32.. {
        if places.is_quiet() {
            break;
        }
        let (to, content) = (receiver(rng.below(RECEIVERS)), format!("{by}/{n}"));
        let body = json!({"to_user_id": to, "content": content});
        let answer = places
            .pick(&mut rng)
            .and_then(|node| try_call(node, CALL, ("POST", "/api/v1/messages"), &token, &body));
        if let Some((status, answer)) = answer {
            assert!(status == 201 || status == 503, "{status}: {answer}");
            if status == 201 {
                let id = text(&answer["id"]);
                let is_later = sent.last().is_none_or(|last| last.id < id);
                assert!(is_later, "{id} after {}", sent[sent.len() - 1].id);
                sent.push(Sent { id, to, content });
            }
        }
        rest(&mut rng);
    }
    sent
}

/// Keeps a socket open somewhere, and pulls by a cursor anywhere.
fn read(by: usize, mut rng: Rng, places: &Places) -> Read {
    let user = receiver(by);
    let token = token(&user, "");
    let mut read = Read::default();
    let mut line: Option<Line> = None;
    let mut on_this_line = BTreeSet::new();
    let mut next_pull = Instant::now();
    loop {
        if next_pull <= Instant::now() {
            let is_over = places.is_over.load(Ordering::SeqCst);
            let page = places.pick(&mut rng).and_then(|node| {
                let after = read.walked.last().map(|(id, _)| id.as_str());
                pull(node, &token, after, 1 + rng.below(30))
            });
            if is_over && page.as_ref().is_some_and(Vec::is_empty) {
                return read;
            }
            read.walked.extend(page.unwrap_or_default());
            let pause = if is_over { 0 } else { 50 + rng.below(100) as u64 };
            next_pull = Instant::now() + Duration::from_millis(pause);
        }
        let Some(open) = &mut line else {
            on_this_line.clear();
            line = places.pick(&mut rng).and_then(|node| Line::open(node, CALL, &token));
            if line.is_none() {
                rest(&mut rng);
            }
            continue;
        };
        match open.poll() {
            Ok(Some(frame)) if frame["type"] == "private" => {
                assert_eq!(frame["to_user_id"], *user, "{frame}");
                let id = text(&frame["id"]);
                assert!(on_this_line.insert(id.clone()), "twice on one connection: {frame}");
                read.pushed.insert(id);
            }
            Ok(Some(frame)) if frame["type"] == "reconnect" => line = None,
            Err(_) => line = None,
            Ok(None) if rng.below(600) == 0 => line = None,
            Ok(_) => {}
        }
    }
}

/// Sits in the room, now at this node and now at that one, and keeps count of the others.
fn sit(by: usize, mut rng: Rng, places: &Places) {
    let token = token(&guest(by), "");
    let mut line: Option<Line> = None;
    let mut room: Option<BTreeSet<String>> = None;
    while !places.is_over.load(Ordering::SeqCst) {
        let Some(open) = &mut line else {
            room = None;
            places.rooms.lock().insert(by, None);
            line = places.pick(&mut rng).and_then(|node| Line::open(node, CALL, &token));
            let ask = json!({"type": "join", "room": ROOM});
            if !line.as_mut().is_some_and(|line| line.send(&ask)) {
                line = None;
                rest(&mut rng);
            }
            continue;
        };
        match open.poll() {
            Ok(Some(frame)) if frame["type"] == "error" || frame["type"] == "reconnect" => {
                line = None;
                rest(&mut rng);
            }
            Ok(Some(frame)) if count(&mut room, &frame) => {
                places.rooms.lock().insert(by, room.clone());
            }
            Err(_) => line = None,
            Ok(None) if !places.is_quiet() && rng.below(400) == 0 => line = None,
            Ok(_) => {}
        }
    }
}

/// Takes in what a guest is told. Returns whether that is about who is in the room.
fn count(room: &mut Option<BTreeSet<String>>, frame: &Value) -> bool {
    match (frame["type"].as_str(), frame["event"].as_str(), &mut *room) {
        (Some("joined"), ..) => {
            *room = Some(users(frame).expect("a list"));
        }
        (Some("event"), Some("user.joined"), Some(room)) => {
            let is_new = room.insert(text(&frame["payload"]["user_id"]));
            assert!(is_new, "it is there already: {frame}");
        }
        (Some("event"), Some("user.left"), Some(room)) => {
            let was_there = room.remove(&text(&frame["payload"]["user_id"]));
            assert!(was_there, "it is not there: {frame}");
        }
        (Some("event"), _, None) => panic!("before the answer: {frame}"),
        _ => return false,
    }
    true
}

/// The users that a list names.
fn users(said: &Value) -> Option<BTreeSet<String>> {
    let users = said["users"].as_array()?;
    Some(users.iter().map(|user| text(&user["user_id"])).collect())
}

/// All are in the room, everybody knows it, and so does every node.
fn expect_full_room(places: &Places, nodes: &[SocketAddr]) {
    let all: BTreeSet<String> = (0..GUESTS).map(guest).collect();
    let start = Instant::now();
    loop {
        let path = format!("/api/v1/channels/chat:{ROOM}");
        let listed = nodes.iter().map(|node| {
            let (_, said) = try_call(*node, CALL, ("GET", &path), "", &Value::Null)?;
            users(&said)
        });
        let listed: Vec<_> = listed.collect();
        let known: Vec<_> = places.rooms.lock().values().cloned().collect();
        if listed.iter().chain(&known).all(|one| one.as_ref() == Some(&all)) {
            return;
        }
        assert!(start.elapsed() < SETTLE, "nodes list {listed:?}, guests know of {known:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A page of a user's messages, where the node has an answer.
fn pull(
    node: SocketAddr,
    token: &str,
    after: Option<&str>,
    limit: usize,
) -> Option<Vec<(String, String)>> {
    let mut path = format!("/api/v1/messages?limit={limit}");
    if let Some(after) = after {
        path += &format!("&after={after}");
    }
    let (status, answer) = try_call(node, CALL, ("GET", &path), token, &Value::Null)?;
    assert!(status == 200 || status == 503, "{status}: {answer}");
    let messages = answer["messages"].as_array().filter(|_| status == 200)?;
    Some(messages.iter().map(|one| (text(&one["id"]), text(&one["content"]))).collect())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

/// Everybody saw the same at the same place, and saw what was acknowledged.
fn compare_channels(published: &[Published], trails: &[Trail]) {
    let mut known: BTreeMap<(&str, &str, u64), &Value> = BTreeMap::new();
    for trail in trails {
        let mut payloads = BTreeSet::new();
        for (epoch, offset, frame) in &trail.seen {
            let other = known.entry((&trail.channel, epoch, *offset)).or_insert(frame);
            for part in ["message_id", "payload"] {
                assert_eq!(other[part], frame[part], "two messages at {epoch}/{offset}");
            }
            assert!(payloads.insert(frame["payload"].to_string()), "twice: {frame}");
        }
    }
    let mut places = BTreeSet::new();
    for one in published {
        let (epoch, offset) = &one.place;
        assert!(places.insert((one.channel, &one.place)), "two were given {epoch}/{offset}");
        for trail in trails.iter().filter(|trail| trail.channel == one.channel) {
            if let Some(frame) = trail.at(epoch, *offset) {
                assert_eq!(frame["payload"], one.payload, "not what was acknowledged: {frame}");
            }
        }
    }
}

/// Nothing of this is too old, so every node has to have it.
fn expect_recovered(node: SocketAddr, trail: &Trail) {
    let mut again = trail.clone();
    again.offset = trail.offset.saturating_sub(BACK);
    again.seen.clear();
    let mut line = Line::open(node, CALL, "").expect("all is well");
    assert!(line.send(&again.resume()), "all is well");
    let start = Instant::now();
    while again.offset < trail.offset || again.seen.is_empty() {
        assert!(start.elapsed() < SETTLE, "not recovered beyond {}", again.offset);
        let Some(frame) = line.poll().expect("all is well") else { continue };
        match frame["type"].as_str() {
            Some("welcome") => {}
            Some("subscribed") => assert!(again.subscribed(&frame), "not recovered: {frame}"),
            // A machine with too much to do may keep a node from Redis for a while.
            Some("error") if frame["temporary"] == true => {
                std::thread::sleep(CALL);
                assert!(line.send(&again.resume()), "all is well");
            }
            _ => again.apply(&frame),
        }
    }
    for (epoch, offset, frame) in &again.seen {
        if let Some(known) = trail.at(epoch, *offset) {
            assert_eq!(known, frame, "another message at {epoch}/{offset}");
        }
    }
}

/// A node has every accepted message once, in the order that a cursor walked.
fn compare_messages(sent: &[Sent], user: &str, read: &Read, node: SocketAddr) {
    let token = token(user, "");
    let mut pulled: Vec<(String, String)> = Vec::new();
    loop {
        let after = pulled.last().map(|(id, _)| id.as_str());
        let page = pull(node, &token, after, 500).expect("all is well");
        if page.is_empty() {
            break;
        }
        pulled.extend(page);
    }
    assert!(pulled.is_sorted_by(|a, b| a.0 < b.0), "{user}: not in order: {pulled:?}");
    let contents: BTreeSet<&String> = pulled.iter().map(|(_, content)| content).collect();
    assert_eq!(contents.len(), pulled.len(), "{user}: a message was stored twice: {pulled:?}");
    let by_id: BTreeMap<&String, &String> = pulled.iter().map(|(id, text)| (id, text)).collect();
    for one in sent.iter().filter(|one| one.to == user) {
        let found = by_id.get(&one.id);
        assert_eq!(found, Some(&&one.content), "{user}: accepted as {}, and lost", one.id);
    }
    assert_eq!(read.walked, pulled, "{user}: a cursor saw something else");
    let strange: Vec<&String> = read.pushed.iter().filter(|id| !by_id.contains_key(id)).collect();
    assert!(strange.is_empty(), "{user}: pushed, and not stored: {strange:?}");
}
