//! A replicated channel at one node, against what Redis answers. The simulation has several nodes, and
//! a Redis that loses messages, answers and channels.

use std::collections::VecDeque;

use bytes::Bytes;
use fanfare::internals::clock::Moment;
use fanfare::internals::id::{ChannelName, ConnId, ShardId, Slot, Topic};
use fanfare::internals::limits;
use fanfare::internals::state::backplane::{
    BackplaneRequest, BackplaneResponse, ChannelMessage, ChannelState, MessagePosition,
    SequencedMessage,
};
use fanfare::internals::state::command::Ask as _;
use fanfare::internals::state::effect::{Condition, Continuation, Effect, Message, Waited};
use fanfare::internals::state::entry::ChannelEntry;
use fanfare::internals::state::messaging::aim::Aimed;
use fanfare::internals::state::messaging::commands::{
    Follow, Opened, Publish, Publisher, Unfollow,
};
use fanfare::internals::state::{State, lone_node};
use fanfare::internals::wire::talk::Publication;
use fanfare::internals::wire::{frame, message};
use serde_json::Value;
use serde_json::value::RawValue;

use super::node::item;

const EPOCH: &str = "redis";

/// A node whose one connection follows the channel.
struct World {
    node: State,
    /// The channel's messages in Redis.
    kept: Vec<SequencedMessage>,
    /// Requests on their way, and what goes on with the response to each.
    requests: VecDeque<(BackplaneRequest, Continuation<BackplaneResponse>)>,
    /// What the topic has on its way; none where nobody listens.
    topic: Option<VecDeque<SequencedMessage>>,
    waiting: Vec<(Condition, Continuation<Waited>)>,
    /// The offsets of what the follower got, and where it was told that it lost track.
    seen: Vec<u64>,
    resets: Vec<(String, u64)>,
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
    fn new() -> World {
        let mut node = lone_node("n", None, now());
        node.on_nodes(&["n".into()], (now().unix_ms, 0), now());
        node.apply(Opened { conn: conn(), person: None, remote: None }.unanswered(), now());
        node.apply(Follow { conn: conn(), channel: name(), since: None }.unanswered(), now());
        let (kept, requests, topic) = (Vec::new(), VecDeque::new(), None);
        let (waiting, seen, resets) = (Vec::new(), Vec::new(), Vec::new());
        let mut world = World { node, kept, requests, topic, waiting, seen, resets };
        world.settle();
        world
    }

    fn carry_out(&mut self) {
        let mut effects = VecDeque::from(self.node.take_effects());
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::ChannelMessage(Message { frame, .. })
                | Effect::Message(Message { topic: Topic::Channel(_), frame, .. }) => {
                    let value: Value =
                        serde_json::from_slice(&frame::payload(&frame)).expect("JSON");
                    let offset = value["offset"].as_u64().expect("an offset");
                    if value["type"] == "subscribed" {
                        let epoch = value["epoch"].as_str().expect("an epoch").to_owned();
                        self.resets.push((epoch, offset));
                    } else {
                        self.seen.push(offset);
                    }
                }
                Effect::Request(one) => self.requests.push_back((one.call, one.continuation)),
                Effect::Wait(condition, rest) => self.waiting.push((condition, rest)),
                Effect::Wake(condition, how) => {
                    let (woken, waiting): (Vec<_>, Vec<_>) =
                        std::mem::take(&mut self.waiting).into_iter().partition(|(one, _)| {
                            (condition.first()..=condition.clone()).contains(one)
                        });
                    self.waiting = waiting;
                    for (_, rest) in woken {
                        self.node.resume(rest, how, now());
                    }
                    effects.extend(self.node.take_effects());
                }
                Effect::LeaveTopic(_) => self.topic = None,
                _ => {}
            }
        }
    }

    fn answer(&mut self, request: BackplaneRequest) -> BackplaneResponse {
        let offset = self.kept.len() as u64;
        let state = |after: u64| {
            let kept = self.kept.iter().filter(|one| one.offset > after).cloned().collect();
            BackplaneResponse::Channel(Some(ChannelState { epoch: EPOCH.into(), offset, kept }))
        };
        match request {
            BackplaneRequest::Attach { .. } => {
                let response = state(0);
                self.topic.get_or_insert_default();
                response
            }
            BackplaneRequest::Read { after, .. } => state(after),
            BackplaneRequest::Publish { message, .. } => {
                let (epoch, offset, at_ms) = (EPOCH.to_owned(), offset + 1, 1_000);
                let one = SequencedMessage { epoch: epoch.clone(), offset, at_ms, message };
                self.topic.iter_mut().for_each(|topic| topic.push_back(one.clone()));
                self.kept.push(one);
                BackplaneResponse::Published(MessagePosition { epoch, offset, at_ms })
            }
            _ => BackplaneResponse::Failed,
        }
    }

    /// Answers and delivers until nothing is under way.
    fn settle(&mut self) {
        loop {
            self.carry_out();
            if let Some((request, rest)) = self.requests.pop_front() {
                let response = self.answer(request);
                self.node.resume(rest, response, now());
            } else if let Some(message) = self.topic.as_mut().and_then(VecDeque::pop_front) {
                self.node.on_channel_messages(vec![message], now());
            } else {
                return;
            }
        }
    }

    fn publish(&mut self) {
        let payload = RawValue::from_string("1".into()).expect("JSON");
        let publication = Publication::new(None, Some(&payload), None, None).expect("good");
        let (channel, aim, by) = (name(), Aimed::default(), Publisher::Program);
        let publish = Publish { channel, publication, from: None, aim, without: None, by };
        self.node.apply(publish.unanswered(), now());
        self.carry_out();
    }
}

#[test]
fn a_topic_is_left_a_second_after_its_last_follower() {
    let mut world = World::new();
    assert!(world.topic.is_some());
    world.node.apply(Unfollow { conn: conn(), channel: name() }.unanswered(), now());
    world.settle();
    let at = |ms: u64| Moment::new(ms, ms * 1_000_000);
    world.node.tick(at(now().unix_ms + limits::CHANNEL_LEAVE_MS - 1));
    world.settle();
    assert!(world.topic.is_some(), "not yet");
    world.node.tick(at(now().unix_ms + limits::CHANNEL_LEAVE_MS));
    world.settle();
    assert!(world.topic.is_none() && world.node.channels.is_empty());
}

#[test]
fn a_message_carries_its_offset_wherever_it_is_framed() {
    let frame = message::with_offset(b"{\"type\":\"text\"}", 7).expect("an object");
    assert_eq!(&frame::payload(&frame)[..], b"{\"type\":\"text\",\"offset\":7}");
    assert!(message::with_offset(b"nothing", 7).is_none());
}

#[test]
fn what_a_topic_lost_is_read_again() {
    let mut world = World::new();
    world.publish();
    let lost = world.requests.pop_front().expect("a request");
    let _ = world.answer(lost.0);
    world.topic.as_mut().expect("it listens").clear();
    world.publish();
    world.settle();
    assert_eq!((&world.seen[..], world.resets.len(), world.node.healed_total), (&[1, 2][..], 0, 2));
}

#[test]
fn what_comes_while_the_history_is_read_is_not_lost() {
    let mut world = World::new();
    world.node.apply(Unfollow { conn: conn(), channel: name() }.unanswered(), now());
    let later = now().unix_ms + limits::CHANNEL_LEAVE_MS;
    world.node.tick(Moment::new(later, later * 1_000_000));
    world.settle();
    assert!(world.topic.is_none());
    world.node.apply(Follow { conn: conn(), channel: name(), since: None }.unanswered(), now());
    world.carry_out();
    let (request, rest) = world.requests.pop_front().expect("the channel is read");
    let history = world.answer(request);
    world.publish();
    world.settle();
    assert!(world.seen.is_empty(), "nothing is passed on before the history is there");
    world.node.resume(rest, history, now());
    world.settle();
    assert_eq!((&world.seen[..], world.node.healed_total), (&[1][..], 0));
}

#[test]
fn an_older_answer_sets_nothing_back() {
    let mut world = World::new();
    let follow = || Follow { conn: conn(), channel: name(), since: None }.unanswered();
    let delete = |world: &mut World, number| {
        world.node.apply_logged(item(number, ChannelEntry::Delete(name())), now());
    };
    delete(&mut world, 1);
    world.settle();
    // Read for somebody who has left by the time the answer comes.
    world.node.apply(follow(), now());
    world.carry_out();
    let (request, rest) = world.requests.pop_front().expect("the channel is read");
    let older = world.answer(request);
    delete(&mut world, 2);
    world.carry_out();
    world.node.apply(follow(), now());
    world.settle();
    for _ in 0..3 {
        world.publish();
        world.settle();
    }
    world.node.resume(rest, older, now());
    world.publish();
    world.settle();
    assert_eq!((&world.seen[..], world.resets.len()), (&[1, 2, 3, 4][..], 0));
}

/// The node never followed the channel under its old epoch, so it cannot know that the epoch is over.
#[test]
fn a_message_of_an_epoch_that_is_over_leads_nobody_away() {
    let mut world = World::new();
    world.publish();
    world.settle();
    let text = Bytes::from_static(b"{\"type\":\"json\",\"payload\":{\"late\":1}}");
    let message = ChannelMessage { channel: name(), text, except: None };
    let late = SequencedMessage { epoch: String::from("before"), offset: 9, at_ms: 1, message };
    world.node.on_channel_messages(vec![late], now());
    world.carry_out();
    // What comes while the node reads where the channel stands is not lost.
    world.publish();
    world.settle();
    world.publish();
    world.settle();
    assert_eq!(world.seen, [1, 9, 2, 3]);
    assert_eq!(world.resets, [("before".into(), 8), (EPOCH.into(), 1)]);
}

/// Requests and topics come over two connections: what was asked for before may come after.
#[test]
fn an_answer_from_before_another_epoch_was_heard_of_leads_nobody_back() {
    let mut world = World::new();
    world.publish();
    world.settle();
    world.node.on_relinked();
    world.carry_out();
    let (request, rest) = world.requests.pop_front().expect("it reads what it missed");
    let old = world.answer(request);
    let text = Bytes::from_static(b"{\"type\":\"json\",\"payload\":{\"n\":1}}");
    let message = ChannelMessage { channel: name(), text, except: None };
    let first = SequencedMessage { epoch: String::from("later"), offset: 1, at_ms: 1, message };
    world.node.on_channel_messages(vec![first.clone()], now());
    world.carry_out();
    world.node.resume(rest, old, now());
    world.carry_out();
    let (_, rest) = world.requests.pop_front().expect("it asks again, under the epoch it has now");
    let state = ChannelState { epoch: String::from("later"), offset: 1, kept: vec![first] };
    world.node.resume(rest, BackplaneResponse::Channel(Some(state)), now());
    world.carry_out();
    assert_eq!((&world.seen[..], &world.resets[..]), (&[1, 1][..], &[("later".into(), 0)][..]));
}
