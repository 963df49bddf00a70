//! Channels of several nodes, against a Redis that a test makes: topics that lose messages, answers
//! that come late or not at all, data that is lost.
//!
//! Part of `state::messaging::replicated`.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;
use serde_json::Value;
use serde_json::value::RawValue;

use super::*;
use crate::id::{ConnId, ShardId, Slot};
use crate::rng::Rng;
use crate::state::backplane::{
    BackplaneRequest, BackplaneResponse, ChannelMessage, MessagePosition,
};
use crate::state::command::Ask as _;
use crate::state::effect::{Continuation, Message};
use crate::state::lone_node;
use crate::state::messaging::aim::Aimed;
use crate::state::messaging::commands::{Follow, Publish, Unfollow};
use crate::state::messaging::replies::Followed;
use crate::state::people::Opened;
use crate::state::reply::{Delivery, EndedBy, IsHeavy, ReplyTo, SocketReply};
use crate::wire::frame;
use crate::wire::talk::Publication;

const NODES: usize = 3;
const KEPT: usize = 64;

/// What Redis has, and who listens.
#[derive(Default)]
struct Redis {
    epoch: String,
    offset: u64,
    kept: VecDeque<SequencedMessage>,
    /// What each node's topic has on the way; none where it does not listen.
    topics: [Option<VecDeque<SequencedMessage>>; NODES],
    epochs: u32,
}

impl Redis {
    fn begin(&mut self, epoch: &str) {
        if self.epoch.is_empty() {
            self.epochs += 1;
            self.epoch = format!("{epoch}.{}", self.epochs);
        }
    }

    fn answer(&mut self, node: usize, call: BackplaneRequest) -> BackplaneResponse {
        let state = |redis: &Redis, after: u64, limit: usize| {
            let kept = redis.kept.iter().filter(|one| one.offset > after).take(limit).cloned();
            let (epoch, offset) = (redis.epoch.clone(), redis.offset);
            let kept = kept.collect();
            BackplaneResponse::Channel((!redis.epoch.is_empty()).then_some(ChannelState {
                epoch,
                offset,
                kept,
            }))
        };
        match call {
            BackplaneRequest::Attach { epoch, .. } => {
                self.topics[node].get_or_insert_default();
                self.begin(&epoch);
                state(self, 0, usize::MAX)
            }
            BackplaneRequest::Read { after, limit, epoch, .. } => {
                if let Some(epoch) = epoch {
                    self.begin(&epoch);
                }
                state(self, after, limit)
            }
            BackplaneRequest::Publish { message, epoch, .. } => {
                self.begin(&epoch);
                self.offset += 1;
                let (epoch, offset) = (self.epoch.clone(), self.offset);
                let placed =
                    SequencedMessage { epoch: epoch.clone(), offset, at_ms: 1_000, message };
                self.kept.push_back(placed.clone());
                if self.kept.len() > KEPT {
                    self.kept.pop_front();
                }
                for topic in self.topics.iter_mut().flatten() {
                    topic.push_back(placed.clone());
                }
                BackplaneResponse::Published(MessagePosition { epoch, offset, at_ms: 1_000 })
            }
            BackplaneRequest::Delete { .. } => {
                let was_there = !self.epoch.is_empty();
                self.lose();
                BackplaneResponse::Deleted(was_there)
            }
            _ => BackplaneResponse::Failed,
        }
    }

    fn lose(&mut self) {
        (self.epoch, self.offset) = (String::new(), 0);
        self.kept.clear();
    }
}

/// A follower, who knows what its frames say.
#[derive(Default)]
struct Follower {
    epoch: String,
    offset: u64,
    /// What it was told at each place of each epoch.
    seen: BTreeMap<(String, u64), String>,
}

impl Follower {
    fn hear(&mut self, frame: &Bytes, at: &str) {
        let text = frame::payload(frame);
        let value: Value = serde_json::from_slice(&text).expect("JSON");
        let offset = value["offset"].as_u64().expect("an offset");
        if value["type"] == "subscribed" {
            assert_eq!(value["recovered"], false, "{value}");
            self.epoch = value["epoch"].as_str().expect("an epoch").to_owned();
            self.offset = offset;
            return;
        }
        assert_eq!(offset, self.offset + 1, "a gap or a repetition, {at}: {value}");
        self.offset = offset;
        self.seen.insert((self.epoch.clone(), offset), value["payload"].to_string());
    }
}

struct World {
    rng: Rng,
    redis: Redis,
    nodes: Vec<State>,
    followers: Vec<Option<Follower>>,
    /// Calls on their way to Redis, and answers on their way back.
    calls: Vec<VecDeque<(u64, BackplaneRequest)>>,
    replies: Vec<VecDeque<(u64, BackplaneResponse)>>,
    /// What goes on with the response to each call.
    pending: Vec<HashMap<u64, Continuation<BackplaneResponse>>>,
    /// What waits for each condition at each node.
    waiting: Vec<Vec<(Condition, Continuation<Waited>)>>,
    number: u64,
    published: Vec<(String, u64)>,
}

fn now() -> Moment {
    Moment::new(1_000, 1_000_000)
}

fn name() -> ChannelName {
    ChannelName::new("c")
}

fn conn() -> ConnId {
    ConnId { shard: ShardId(0), slot: Slot(0), generation: 0 }
}

impl World {
    fn new(seed: u64) -> World {
        let node = |index: usize| {
            let node = format!("n{index}");
            let mut state = lone_node(&node, None, now());
            state.on_nodes(&[node], (now().unix_ms, 0), now());
            let opened = Opened { conn: conn(), person: None, remote: None };
            state.apply(opened.unanswered(), now());
            state.take_effects();
            state
        };
        World {
            rng: Rng::seeded(seed),
            redis: Redis::default(),
            nodes: (0..NODES).map(node).collect(),
            followers: (0..NODES).map(|_| None).collect(),
            calls: (0..NODES).map(|_| VecDeque::new()).collect(),
            replies: (0..NODES).map(|_| VecDeque::new()).collect(),
            pending: (0..NODES).map(|_| HashMap::new()).collect(),
            waiting: (0..NODES).map(|_| Vec::new()).collect(),
            number: 0,
            published: Vec::new(),
        }
    }

    /// Carries out the effects of a node in their order, as control does.
    fn carry_out(&mut self, node: usize) {
        let mut ready = VecDeque::new();
        loop {
            for effect in self.nodes[node].take_effects() {
                self.carry_out_effect(node, effect, &mut ready);
            }
            let Some((rest, how)) = ready.pop_front() else { return };
            self.nodes[node].resume(rest, how, now());
        }
    }

    fn carry_out_effect(
        &mut self,
        node: usize,
        effect: Effect,
        ready: &mut VecDeque<(Continuation<Waited>, Waited)>,
    ) {
        match effect {
            Effect::ChannelMessage(Message { frame, .. })
            | Effect::Message(Message { topic: Topic::Channel(_), frame, .. }) => {
                if let Some(follower) = &mut self.followers[node] {
                    follower.hear(&frame, &format!("pushed at {node}"));
                }
            }
            Effect::Reply(Delivery::Socket(_, reply)) => self.on_reply(node, reply),
            Effect::Request(request) => {
                self.number += 1;
                self.pending[node].insert(self.number, request.continuation);
                self.calls[node].push_back((self.number, request.call));
            }
            Effect::Wait(condition, rest) => self.waiting[node].push((condition, rest)),
            Effect::Wake(condition, how) => {
                let waiting = std::mem::take(&mut self.waiting[node]);
                for (one, rest) in waiting {
                    if (condition.first()..=condition.clone()).contains(&one) {
                        ready.push_back((rest, how));
                    } else {
                        self.waiting[node].push((one, rest));
                    }
                }
            }
            Effect::LeaveTopic(_) => self.redis.topics[node] = None,
            _ => {}
        }
    }

    fn on_reply(&mut self, node: usize, reply: SocketReply) {
        match reply {
            SocketReply::Followed(_, Ok(followed)) => self.on_followed(node, followed),
            SocketReply::Published(Ok(published)) => {
                let offset = published.offset.expect("kept");
                let place = (published.epoch.as_str().to_owned(), offset);
                // In its place among the messages; it stands before those that are read again.
                if let Some(follower) = &self.followers[node]
                    && follower.epoch == place.0
                    && follower.seen.contains_key(&place)
                {
                    assert_eq!(follower.offset, offset, "answered in its place");
                }
                self.published.push(place);
            }
            _ => {}
        }
    }

    fn on_followed(&mut self, node: usize, followed: Followed) {
        let Followed { epoch, offset, recovered, replay, .. } = followed;
        let follower = self.followers[node].get_or_insert_default();
        if recovered == Some(true) {
            assert_eq!(follower.epoch, epoch.as_str());
            for frame in replay {
                follower.hear(&frame, "replayed");
            }
            assert_eq!(follower.offset, offset, "the replay ends where it says");
        } else {
            (follower.epoch, follower.offset) = (epoch.as_str().to_owned(), offset);
        }
    }

    fn publish(&mut self, node: usize, step: u64) {
        let payload = RawValue::from_string(step.to_string()).expect("JSON");
        let publication = Publication::new(None, Some(&payload), None, None).expect("good");
        let (channel, aim) = (name(), Aimed::default());
        let by = Publisher::Program;
        let publish = Publish { channel, publication, from: None, aim, without: None, by };
        self.nodes[node].apply(publish.reply_to(ReplyTo::Socket(conn(), ())), now());
        self.carry_out(node);
    }

    fn follow(&mut self, node: usize) {
        let since = self.followers[node].as_ref().map(|follower| SinceOffset {
            epoch: follower.epoch.as_str().into(),
            offset: follower.offset,
        });
        let follow = Follow { conn: conn(), channel: name(), since };
        let context = IsHeavy(false);
        self.nodes[node].apply(follow.reply_to(ReplyTo::Socket(conn(), context)), now());
        self.carry_out(node);
    }

    fn unfollow(&mut self, node: usize) {
        let unfollow = Unfollow { conn: conn(), channel: name() };
        let address = ReplyTo::Socket(conn(), EndedBy::Client);
        self.nodes[node].apply(unfollow.reply_to(address), now());
        self.carry_out(node);
    }

    /// One of all that can happen next.
    fn step(&mut self, step: u64, is_calm: bool) {
        let node = self.rng.below(NODES as u64) as usize;
        match self.rng.below(if is_calm { 8 } else { 12 }) {
            0..=2 => {
                if let Some((number, call)) = self.calls[node].pop_front() {
                    let is_lost = !is_calm && self.rng.below(12) == 0;
                    let reply = match is_lost {
                        // It may be done all the same.
                        true if self.rng.below(2) == 0 => {
                            self.redis.answer(node, call);
                            BackplaneResponse::Failed
                        }
                        true => BackplaneResponse::Failed,
                        false => self.redis.answer(node, call),
                    };
                    self.replies[node].push_back((number, reply));
                }
            }
            3 | 4 => {
                if let Some((number, reply)) = self.replies[node].pop_front()
                    && let Some(rest) = self.pending[node].remove(&number)
                {
                    self.nodes[node].resume(rest, reply, now());
                    self.carry_out(node);
                }
            }
            5..=7 => {
                let placed = self.redis.topics[node].as_mut().and_then(VecDeque::pop_front);
                if let Some(placed) = placed {
                    self.nodes[node].on_channel_messages(vec![placed], now());
                    self.carry_out(node);
                }
            }
            8 | 9 => self.publish(node, step),
            10 => {
                // It leaves and comes back, knowing what it knows.
                self.unfollow(node);
                self.follow(node);
            }
            _ => match self.rng.below(40) {
                0 => self.redis.lose(),
                // What a topic had on the way is lost, and the node is told so.
                1..=6 => {
                    if let Some(topic) = &mut self.redis.topics[node] {
                        topic.clear();
                        self.nodes[node].on_relinked();
                        self.carry_out(node);
                    }
                }
                _ => {}
            },
        }
    }

    /// Steps without trouble until nothing is under way.
    fn settle(&mut self) {
        while !self.is_quiet() {
            self.step(0, true);
        }
    }

    fn is_quiet(&self) -> bool {
        self.calls.iter().all(VecDeque::is_empty)
            && self.replies.iter().all(VecDeque::is_empty)
            && self.redis.topics.iter().flatten().all(VecDeque::is_empty)
    }
}

#[test]
fn followers_have_no_gap_that_they_are_not_told_of() {
    for seed in 0..60 {
        let mut world = World::new(seed);
        (0..NODES).for_each(|node| world.follow(node));
        for step in 0..2_000 {
            world.step(step, false);
        }
        // In peace: what failed is tried again, as with every sign of life.
        for round in 0..4 {
            while !world.is_quiet() {
                world.step(0, true);
            }
            for node in 0..NODES {
                world.nodes[node].heal_again();
                world.nodes[node].on_relinked();
                world.carry_out(node);
                if round == 1 {
                    world.publish(node, 9_999);
                }
            }
        }
        while !world.is_quiet() {
            world.step(0, true);
        }
        let redis = (world.redis.epoch.clone(), world.redis.offset);
        let mut all: BTreeMap<(String, u64), String> = BTreeMap::new();
        for (node, follower) in world.followers.iter().enumerate() {
            let follower = follower.as_ref().expect("it follows");
            assert_eq!(
                (follower.epoch.clone(), follower.offset),
                redis,
                "seed {seed}, node {node}"
            );
            for (place, text) in &follower.seen {
                let known = all.entry(place.clone()).or_insert_with(|| text.clone());
                assert_eq!(known, text, "seed {seed}: two messages at {place:?}");
            }
        }
        assert!(world.published.len() > 20, "seed {seed}: hardly anything was published");
    }
}

#[test]
fn a_topic_is_left_a_second_after_its_last_follower() {
    let mut world = World::new(1);
    world.follow(0);
    world.settle();
    assert!(world.redis.topics[0].is_some() && world.followers[0].is_some());
    world.unfollow(0);
    let at = |ms: u64| Moment::new(ms, ms * 1_000_000);
    world.nodes[0].tick(at(now().unix_ms + limits::CHANNEL_LEAVE_MS - 1));
    world.carry_out(0);
    assert!(world.redis.topics[0].is_some(), "not yet");
    world.nodes[0].tick(at(now().unix_ms + limits::CHANNEL_LEAVE_MS));
    world.carry_out(0);
    assert!(world.redis.topics[0].is_none());
    assert!(world.nodes[0].channels.is_empty());
}

#[test]
fn a_message_carries_its_offset_wherever_it_is_framed() {
    let text = Bytes::from_static(b"{\"type\":\"text\"}");
    let message = ChannelMessage { channel: name(), text, except: None };
    let frame = message::with_offset(&message.text, 7).expect("an object");
    assert_eq!(&frame::payload(&frame)[..], b"{\"type\":\"text\",\"offset\":7}");
    assert!(message::with_offset(b"nothing", 7).is_none());
}

#[test]
fn an_older_answer_sets_nothing_back() {
    let mut world = World::new(1);
    world.follow(0);
    world.settle();
    for step in 0..3 {
        world.publish(0, step);
        world.settle();
    }
    // As of the first time that it was read, for somebody who had left by then.
    let (epoch, kept) = (world.redis.epoch.clone(), Vec::new());
    let found = ChannelState { epoch: epoch.clone(), offset: 0, kept };
    world.nodes[0].attached((&name(), &Epoch::new(&epoch)), Ok(Some(found)), now());
    world.carry_out(0);
    world.publish(0, 3);
    world.settle();
    let follower = world.followers[0].as_ref().expect("it follows");
    assert_eq!((follower.offset, follower.seen.len()), (4, 4));
}

/// The node never followed the channel under its old epoch, so it cannot know that the epoch is over.
#[test]
fn a_message_of_an_epoch_that_is_over_leads_nobody_away() {
    let mut world = World::new(1);
    world.follow(0);
    world.settle();
    world.publish(0, 0);
    world.settle();
    let message = ChannelMessage {
        channel: name(),
        text: Bytes::from_static(b"{\"type\":\"json\",\"payload\":{\"late\":1}}"),
        except: None,
    };
    let late = SequencedMessage { epoch: String::from("before"), offset: 9, at_ms: 1, message };
    world.nodes[0].on_channel_messages(vec![late], now());
    world.carry_out(0);
    // What comes while the node reads where the channel stands is not lost.
    world.publish(0, 1);
    world.settle();
    world.publish(0, 2);
    world.settle();
    let follower = world.followers[0].as_ref().expect("it follows");
    assert_eq!((&*follower.epoch, follower.offset), (&*world.redis.epoch, 3));
    let of_epoch = follower.seen.keys().filter(|(epoch, _)| *epoch == world.redis.epoch);
    assert_eq!(of_epoch.count(), 3);
}
