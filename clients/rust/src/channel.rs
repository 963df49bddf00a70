//! What a client has seen of channels: a position for each reader, and what lies before it.
//!
//! # Promises
//!
//! * A reader gets the messages of a channel in the order of their offsets, none twice. Where some
//!   are gone for good it is told so, between the messages before and after.
//! * A slow reader holds no more messages than its bound. It is told that it lags, and then gets
//!   what it missed from the channel's history, at its own pace.
//!
//! Imports its siblings.

use std::collections::{BTreeMap, BTreeSet};
use std::task::{Context, Poll};

use serde_json::Value;

use crate::error::Error;
use crate::frame::{Frame, owned};
use crate::queue::Queue;
use crate::service::Phase;

/// A place in a channel's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// What the offset belongs to. Another epoch is another count.
    pub epoch: Box<str>,
    /// The offset of the last message seen; 0 before the first.
    pub offset: u64,
}

impl Position {
    /// Where a frame says that a channel stands.
    fn of(frame: &Frame) -> Position {
        let epoch = frame.epoch.clone().unwrap_or_default();
        Position { epoch, offset: frame.offset.unwrap_or_default() }
    }

    /// Whether it is the other place, or one after it in the same count.
    fn reaches(&self, other: &Position) -> bool {
        self.epoch == other.epoch && self.offset >= other.offset
    }
}

/// A message of a channel.
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelMessage {
    /// `text`, `json`, `event`, `system` or `chat`.
    pub kind: Box<str>,
    /// The message's id.
    pub message_id: Box<str>,
    /// Its place in the history; none where it was aimed at single connections.
    pub offset: Option<u64>,
    /// What it says. Of a `chat` it is the text.
    pub payload: Value,
    /// The name of an event.
    pub event: Option<Box<str>>,
    /// What goes along.
    pub metadata: Option<Value>,
    /// Who sent it, where that was a user.
    pub from_user_id: Option<Box<str>>,
    /// The sender's name, in a `chat`.
    pub username: Option<Box<str>>,
    /// When the server took it, RFC 3339 in UTC.
    pub timestamp: String,
}

/// What a channel's stream gives.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ChannelEvent {
    /// The next message.
    Message(Box<ChannelMessage>),
    /// The reader was slow: messages after the last one were not kept for it. Those that have an
    /// offset come now from the history, or [`ChannelEvent::Lost`] does.
    Lagged {
        /// The offset of the last message given.
        after: u64,
        /// The offset of the newest one known of.
        newest: u64,
        /// Messages without an offset that are lost.
        unnumbered: u64,
    },
    /// The history does not reach back, or the server has lost messages: what lies between is gone
    /// for good.
    Lost {
        /// Where the reader stood.
        after: Position,
        /// Where it stands now.
        now: Position,
    },
    /// The server does not let us follow.
    Refused(Error),
    /// The channel was deleted. Nothing comes after this.
    Deleted,
}

/// One reader of a channel.
#[derive(Debug)]
struct Feed {
    channel: Box<str>,
    queue: Queue<ChannelEvent>,
    position: Option<Position>,
    /// Messages after its position have passed it by.
    is_behind: bool,
    /// Nothing is taken in until the reader has caught up with its queue.
    is_full: bool,
    unnumbered: u64,
}

impl Feed {
    fn push(&mut self, event: ChannelEvent) -> bool {
        self.is_full = self.is_full || self.queue.push(event).is_err();
        !self.is_full
    }

    /// Takes a message in, if it is the next one.
    fn take(&mut self, epoch: Option<&str>, message: &ChannelMessage) {
        let event = || ChannelEvent::Message(Box::new(message.clone()));
        let Some(offset) = message.offset else {
            if self.is_full || !self.push(event()) {
                self.unnumbered += 1;
            }
            return;
        };
        let Some(position) = &mut self.position else { return };
        if self.is_full || offset <= position.offset {
            return;
        }
        // A frame does not carry the epoch: that of the subscription holds.
        if Some(&*position.epoch) != epoch || offset != position.offset + 1 {
            self.is_behind = true;
            return;
        }
        if self.queue.push(event()).is_err() {
            self.is_full = true;
        } else {
            position.offset = offset;
        }
    }

    /// A reader that stands at `since` cannot be brought up to `now`.
    fn lose(&mut self, since: &Position, now: &Position) {
        self.is_behind = false;
        if since == now {
            return;
        }
        let event = ChannelEvent::Lost { after: since.clone(), now: now.clone() };
        if self.push(event) {
            self.position = Some(now.clone());
        }
    }
}

#[derive(Debug, Default)]
struct Channel {
    phase: Phase,
    feeds: BTreeSet<u64>,
    /// The newest position known of.
    head: Option<Position>,
    asked: Option<Position>,
    error: Option<Error>,
}

/// What to ask the server for next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Follow { channel: Box<str>, since: Option<Position> },
    Unfollow(Box<str>),
}

/// Every channel that somebody reads.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    channels: BTreeMap<Box<str>, Channel>,
    feeds: BTreeMap<u64, Feed>,
    todo: BTreeSet<Box<str>>,
    later: BTreeSet<Box<str>>,
}

impl Directory {
    /// Opens a reader of a channel, which stands at `since`, or at what comes next.
    pub(crate) fn open_feed(&mut self, key: u64, name: &str, since: Option<Position>, max: usize) {
        let channel = self.channels.entry(name.into()).or_default();
        channel.feeds.insert(key);
        let is_behind = since.is_some();
        let is_live = channel.phase == Phase::Live;
        let position = since.or_else(|| channel.head.clone().filter(|_| is_live));
        self.feeds.insert(
            key,
            Feed {
                channel: name.into(),
                queue: Queue::new(max),
                position,
                is_behind,
                is_full: false,
                unnumbered: 0,
            },
        );
        if is_behind || !is_live {
            self.todo.insert(name.into());
        }
    }

    pub(crate) fn close_feed(&mut self, key: u64) {
        let Some(feed) = self.feeds.remove(&key) else { return };
        if let Some(channel) = self.channels.get_mut(&feed.channel) {
            channel.feeds.remove(&key);
            self.todo.insert(feed.channel);
        }
    }

    /// Nothing comes any more.
    pub(crate) fn close(&mut self) {
        self.feeds.values_mut().for_each(|feed| feed.queue.close());
    }

    /// The next thing to ask the server for. It counts as asked.
    pub(crate) fn next_wish(&mut self) -> Option<Wish> {
        while let Some(name) = self.todo.pop_first() {
            let Some(channel) = self.channels.get_mut(&name) else { continue };
            if channel.feeds.is_empty() {
                match channel.phase {
                    // Its answer will bring us here again.
                    Phase::Asked => continue,
                    Phase::Idle => _ = self.channels.remove(&name),
                    Phase::Live => {
                        self.channels.remove(&name);
                        return Some(Wish::Unfollow(name));
                    }
                }
                continue;
            }
            let behind = channel.feeds.iter().filter_map(|key| self.feeds.get(key));
            let behind = behind.filter(|feed| feed.is_behind && !feed.is_full);
            let since = behind.filter_map(|feed| feed.position.as_ref()).min_by_key(|p| p.offset);
            let is_due = match channel.phase {
                Phase::Idle => true,
                Phase::Asked => false,
                Phase::Live => since.is_some(),
            };
            if is_due {
                channel.phase = Phase::Asked;
                channel.asked = since.cloned();
                return Some(Wish::Follow { channel: name, since: channel.asked.clone() });
            }
        }
        None
    }

    /// The connection is gone: every reader has to be brought up from where it stands.
    pub(crate) fn disconnect(&mut self) {
        for (name, channel) in &mut self.channels {
            channel.phase = Phase::Idle;
            self.todo.insert(name.clone());
        }
        for feed in self.feeds.values_mut() {
            feed.is_behind = feed.position.is_some();
        }
        self.later.clear();
    }

    pub(crate) fn retry(&mut self) {
        self.todo.append(&mut self.later);
    }

    pub(crate) fn has_todo(&self) -> bool {
        !self.todo.is_empty()
    }

    pub(crate) fn has_later(&self) -> bool {
        !self.later.is_empty()
    }

    /// The answer to a subscription.
    pub(crate) fn subscribed(&mut self, name: &str, frame: &Frame) {
        let Some(channel) = self.channels.get_mut(name) else { return };
        let now = Position::of(frame);
        channel.phase = Phase::Live;
        channel.error = None;
        channel.head = Some(now.clone());
        let asked = channel.asked.take();
        let is_recovered = frame.recovered == Some(true);
        let mut is_done = !channel.feeds.is_empty();
        for key in &channel.feeds {
            let Some(feed) = self.feeds.get_mut(key) else { continue };
            match (&feed.position, &asked) {
                (None, _) => feed.position = Some(now.clone()),
                (Some(place), Some(asked)) if feed.is_behind && !feed.is_full => {
                    if is_recovered && place.epoch == asked.epoch && place.offset >= asked.offset {
                        feed.is_behind = false;
                    } else if !is_recovered && place == asked {
                        feed.lose(asked, &now);
                    } else {
                        is_done = false;
                    }
                }
                _ => is_done &= !feed.is_behind || feed.is_full,
            }
        }
        if !is_done {
            self.todo.insert(name.into());
        }
    }

    /// The server has lost messages of a channel: it counts from another place now.
    pub(crate) fn moved(&mut self, name: &str, frame: &Frame) {
        let Some(channel) = self.channels.get_mut(name) else { return };
        let now = Position::of(frame);
        if channel.head.as_ref().is_some_and(|head| head.reaches(&now)) {
            // The answer to a subscription has said so already.
            return;
        }
        channel.head = Some(now.clone());
        for key in &channel.feeds {
            let Some(feed) = self.feeds.get_mut(key).filter(|feed| !feed.is_full) else { continue };
            let Some(place) = feed.position.clone() else { continue };
            // Who is behind in the same epoch learns from the answer what is left.
            if place.epoch != now.epoch || !(feed.is_behind || place.reaches(&now)) {
                feed.lose(&place, &now);
            }
        }
    }

    /// An operator has subscribed the connection. A channel that was taken from it goes on from where
    /// its readers stand.
    pub(crate) fn restored(&mut self, name: &str) {
        let is_taken =
            |channel: &Channel| channel.phase == Phase::Idle && !channel.feeds.is_empty();
        if self.channels.get(name).is_some_and(is_taken) {
            self.todo.insert(name.into());
        }
    }

    /// A subscription was refused.
    pub(crate) fn refused(&mut self, name: &str, error: &Error) {
        let Some(channel) = self.channels.get_mut(name) else { return };
        channel.phase = Phase::Idle;
        channel.error = Some(error.clone());
        if error.is_temporary() {
            self.later.insert(name.into());
        }
        for key in &channel.feeds {
            if let Some(feed) = self.feeds.get_mut(key) {
                // Without room for it, the reader learns it from `ready`.
                let _ = feed.queue.push(ChannelEvent::Refused(error.clone()));
            }
        }
    }

    /// A message.
    pub(crate) fn message(&mut self, name: &str, frame: Frame) {
        let Some(channel) = self.channels.get_mut(name) else { return };
        let message = ChannelMessage::of(frame);
        if let (Some(head), Some(offset)) = (&mut channel.head, message.offset) {
            head.offset = head.offset.max(offset);
        }
        let epoch = channel.head.as_ref().map(|head| &*head.epoch);
        let mut is_gap = false;
        for key in &channel.feeds {
            if let Some(feed) = self.feeds.get_mut(key) {
                feed.take(epoch, &message);
                is_gap |= feed.is_behind;
            }
        }
        if is_gap && channel.phase == Phase::Live {
            self.todo.insert(name.into());
        }
    }

    /// We have published a message that does not come back to us: it is no gap.
    pub(crate) fn published_silently(&mut self, name: &str, offset: u64) {
        let Some(channel) = self.channels.get_mut(name) else { return };
        for key in &channel.feeds {
            let position = self.feeds.get_mut(key).and_then(|feed| feed.position.as_mut());
            if let Some(position) = position.filter(|position| position.offset + 1 == offset) {
                position.offset = offset;
            }
        }
    }

    /// The channel was deleted.
    pub(crate) fn deleted(&mut self, name: &str) {
        let Some(channel) = self.channels.remove(name) else { return };
        for key in channel.feeds {
            if let Some(feed) = self.feeds.get_mut(&key) {
                // A reader without room for it still finds the end.
                let _ = feed.queue.push(ChannelEvent::Deleted);
                feed.queue.close();
            }
        }
    }

    pub(crate) fn is_asked(&self, name: &str) -> bool {
        self.channels.get(name).is_some_and(|channel| channel.phase != Phase::Idle)
    }

    /// Whether a reader's channel is followed right now.
    pub(crate) fn is_live(&self, key: u64) -> bool {
        self.channel_of(key).is_some_and(|channel| channel.phase == Phase::Live)
    }

    pub(crate) fn error(&self, key: u64) -> Option<Error> {
        self.channel_of(key)?.error.clone()
    }

    fn channel_of(&self, key: u64) -> Option<&Channel> {
        self.channels.get(&self.feeds.get(&key)?.channel)
    }

    pub(crate) fn position(&self, key: u64) -> Option<Position> {
        self.feeds.get(&key)?.position.clone()
    }

    /// The next event of a reader. Where it has caught up with what it held, the history is due.
    pub(crate) fn poll(&mut self, key: u64, cx: &mut Context<'_>) -> Poll<Option<ChannelEvent>> {
        let Some(feed) = self.feeds.get_mut(&key) else { return Poll::Ready(None) };
        if feed.queue.is_empty() && std::mem::take(&mut feed.is_full) {
            let name = feed.channel.clone();
            feed.is_behind = feed.position.is_some();
            let after = feed.position.as_ref().map_or(0, |position| position.offset);
            let unnumbered = std::mem::take(&mut feed.unnumbered);
            let head = self.channels.get(&name).and_then(|channel| channel.head.as_ref());
            let newest = head.map_or(after, |head| head.offset);
            self.todo.insert(name);
            return Poll::Ready(Some(ChannelEvent::Lagged { after, newest, unnumbered }));
        }
        feed.queue.poll(cx)
    }
}

impl ChannelMessage {
    fn of(frame: Frame) -> ChannelMessage {
        let timestamp = owned(frame.timestamp.as_deref());
        ChannelMessage {
            kind: frame.kind.unwrap_or_default(),
            message_id: frame.message_id.unwrap_or_default(),
            offset: frame.offset,
            payload: frame
                .payload
                .unwrap_or_else(|| frame.content.map_or(Value::Null, |text| Value::from(&*text))),
            event: frame.event,
            metadata: frame.metadata,
            from_user_id: frame.from_user_id,
            username: frame.username,
            timestamp,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use serde_json::json;

    use super::*;

    const KEY: u64 = 1;

    fn at(epoch: &str, offset: u64) -> Position {
        Position { epoch: epoch.into(), offset }
    }

    fn place(position: &Position, recovered: Option<bool>) -> Frame {
        let epoch = Some(position.epoch.clone());
        Frame { epoch, offset: Some(position.offset), recovered, ..Frame::default() }
    }

    /// A channel whose reader has got everything up to a place.
    fn followed(position: &Position, max: usize) -> Directory {
        let mut directory = Directory::default();
        directory.open_feed(KEY, "news", None, max);
        assert_eq!(directory.next_wish(), Some(follow(None)));
        directory.subscribed("news", &place(position, None));
        directory
    }

    fn follow(since: Option<Position>) -> Wish {
        Wish::Follow { channel: "news".into(), since }
    }

    fn push(directory: &mut Directory, offset: u64) {
        let message = json!({"type": "json", "channel": "news", "offset": offset});
        directory.message("news", Frame::decode(&message.to_string()).expect("a frame"));
    }

    fn moved(directory: &mut Directory, epoch: &str, offset: u64) {
        directory.moved("news", &place(&at(epoch, offset), Some(false)));
    }

    /// What the reader finds, in short.
    fn told(directory: &mut Directory) -> Vec<String> {
        let mut told = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(event)) = directory.poll(KEY, &mut cx) {
            let name = |at: &Position| format!("{} {}", at.epoch, at.offset);
            told.push(match event {
                ChannelEvent::Message(message) => message.offset.unwrap_or_default().to_string(),
                ChannelEvent::Lost { after, now } => format!("{} to {}", name(&after), name(&now)),
                ChannelEvent::Lagged { .. } => "lagged".into(),
                other => format!("{other:?}"),
            });
        }
        told
    }

    #[test]
    fn a_channel_that_moved_goes_on_from_there() {
        let mut directory = followed(&at("e1", 3), 16);
        push(&mut directory, 4);
        moved(&mut directory, "e2", 12);
        push(&mut directory, 13);
        assert_eq!(told(&mut directory), ["4", "e1 4 to e2 12", "13"]);
        // More is gone than the channel keeps.
        moved(&mut directory, "e2", 400);
        push(&mut directory, 401);
        assert_eq!(told(&mut directory), ["e2 13 to e2 400", "401"]);
        assert_eq!(directory.next_wish(), None, "there is no gap");
        directory.disconnect();
        assert_eq!(directory.next_wish(), Some(follow(Some(at("e2", 401)))));
    }

    #[test]
    fn a_loss_is_told_once() {
        let mut directory = followed(&at("e1", 3), 16);
        moved(&mut directory, "e2", 12);
        push(&mut directory, 13);
        moved(&mut directory, "e2", 12);
        moved(&mut directory, "e2", 13);
        assert_eq!(told(&mut directory), ["e1 3 to e2 12", "13"]);
        // The answer to a subscription brings the same news.
        directory.disconnect();
        assert_eq!(directory.next_wish(), Some(follow(Some(at("e2", 13)))));
        directory.subscribed("news", &place(&at("e3", 2), Some(false)));
        moved(&mut directory, "e3", 2);
        push(&mut directory, 3);
        assert_eq!(told(&mut directory), ["e2 13 to e3 2", "3"]);
    }

    #[test]
    fn a_loss_overtakes_the_answer_that_closes_a_gap() {
        let mut directory = followed(&at("e1", 3), 16);
        push(&mut directory, 5);
        assert_eq!(directory.next_wish(), Some(follow(Some(at("e1", 3)))));
        moved(&mut directory, "e2", 12);
        push(&mut directory, 13);
        directory.subscribed("news", &place(&at("e2", 13), Some(false)));
        push(&mut directory, 14);
        assert_eq!(told(&mut directory), ["e1 3 to e2 12", "13", "14"]);
        assert_eq!(directory.next_wish(), None);
        // In the same epoch the answer says it.
        push(&mut directory, 16);
        assert_eq!(directory.next_wish(), Some(follow(Some(at("e2", 14)))));
        moved(&mut directory, "e2", 30);
        directory.subscribed("news", &place(&at("e2", 30), Some(false)));
        push(&mut directory, 31);
        assert_eq!(told(&mut directory), ["e2 14 to e2 30", "31"]);
        assert_eq!(directory.next_wish(), None);
    }

    #[test]
    fn a_slow_reader_learns_of_a_loss_when_it_has_caught_up() {
        let mut directory = followed(&at("e1", 3), 2);
        for offset in 4..=6 {
            push(&mut directory, offset);
        }
        moved(&mut directory, "e2", 1);
        push(&mut directory, 2);
        assert_eq!(told(&mut directory), ["4", "5", "lagged"]);
        assert_eq!(directory.next_wish(), Some(follow(Some(at("e1", 5)))));
        directory.subscribed("news", &place(&at("e2", 2), Some(false)));
        push(&mut directory, 3);
        assert_eq!(told(&mut directory), ["e1 5 to e2 2", "3"]);
        // Without room for the news itself it is the same.
        push(&mut directory, 4);
        push(&mut directory, 5);
        moved(&mut directory, "e3", 9);
        push(&mut directory, 10);
        assert_eq!(told(&mut directory), ["4", "5", "lagged"]);
        assert_eq!(directory.next_wish(), Some(follow(Some(at("e2", 5)))));
        directory.subscribed("news", &place(&at("e3", 10), Some(false)));
        assert_eq!(told(&mut directory), ["e2 5 to e3 10"]);
    }

    #[test]
    fn who_has_no_place_yet_has_lost_nothing() {
        let mut directory = Directory::default();
        directory.open_feed(KEY, "news", None, 16);
        assert_eq!(directory.next_wish(), Some(follow(None)));
        // Of an earlier subscription.
        moved(&mut directory, "e2", 12);
        assert_eq!(directory.position(KEY), None);
        directory.subscribed("news", &place(&at("e2", 14), None));
        push(&mut directory, 15);
        assert_eq!(told(&mut directory), ["15"]);
        moved(&mut Directory::default(), "e2", 12);
    }
}
