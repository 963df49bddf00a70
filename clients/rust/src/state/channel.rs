//! A client's channels: a position for each reader, and the messages in its queue.
//!
//! # Promises
//!
//! * A reader gets the messages of a channel in the order of their offsets, none twice. If some are
//!   gone for good it gets that, between the messages before and after.
//! * A slow reader holds no more messages than its bound. It gets an item that it lags, and then
//!   the missed messages from the channel's history, at its own pace.
//!
//! Imports `error`, `event`, `frame`, `state::queue` and `state::subscription`. Imported by `state`.

use std::collections::{BTreeMap, BTreeSet};
use std::task::{Context, Poll};

use serde_json::Value;

use crate::error::Error;
use crate::event::{ChannelEvent, ChannelMessage, Position};
use crate::frame::{Frame, owned};
use crate::state::queue::Queue;
use crate::state::subscription::{Need, Next, Phase, SubscriptionTable};

impl Position {
    /// The position of the channel in a frame.
    fn of(frame: &Frame) -> Position {
        let epoch = frame.epoch.clone().unwrap_or_default();
        Position { epoch, offset: frame.offset.unwrap_or_default() }
    }

    /// Whether it is the other position, or one after it in the same epoch.
    fn reaches(&self, other: &Position) -> bool {
        self.epoch == other.epoch && self.offset >= other.offset
    }
}

/// One reader of a channel.
#[derive(Debug)]
struct Feed {
    channel: Box<str>,
    queue: Queue<ChannelEvent>,
    position: Option<Position>,
    /// Messages after its position were not put into its queue.
    is_behind: bool,
    /// The queue was full: no message is added until the reader has emptied it.
    is_full: bool,
    unnumbered: u64,
}

impl Feed {
    fn push(&mut self, event: ChannelEvent) -> bool {
        self.is_full = self.is_full || self.queue.push(event).is_err();
        !self.is_full
    }

    /// Adds a message, if it is the next one.
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

    /// A reader at `since` cannot be brought up to `now`.
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

/// The state of one channel.
#[derive(Debug, Default)]
pub(crate) struct Channel {
    feeds: BTreeSet<u64>,
    /// The newest known position.
    head: Option<Position>,
    /// The position at which the requested subscription begins.
    asked: Option<Position>,
}

/// The next request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ChannelRequest {
    Subscribe { channel: Box<str>, since: Option<Position> },
    Unsubscribe(Box<str>),
}

/// Every channel that a handle reads.
#[derive(Debug, Default)]
pub(crate) struct ChannelTable {
    pub(crate) subscriptions: SubscriptionTable<Box<str>, Channel>,
    feeds: BTreeMap<u64, Feed>,
}

impl ChannelTable {
    /// Opens a reader of a channel, at `since`, or at the next message.
    pub(crate) fn open_feed(&mut self, key: u64, name: &str, since: Option<Position>, max: usize) {
        let channel = self.subscriptions.want(name.into());
        channel.value.feeds.insert(key);
        let is_behind = since.is_some();
        let is_live = channel.phase == Phase::Live;
        let position = since.or_else(|| channel.value.head.clone().filter(|_| is_live));
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
        if is_behind {
            self.subscriptions.mark_due(name);
        }
    }

    pub(crate) fn close_feed(&mut self, key: u64) {
        let Some(feed) = self.feeds.remove(&key) else { return };
        if let Some(channel) = self.subscriptions.get_mut(&feed.channel) {
            channel.value.feeds.remove(&key);
            self.subscriptions.release(&feed.channel);
        }
    }

    /// No message comes any more.
    pub(crate) fn close(&mut self) {
        self.feeds.values_mut().for_each(|feed| feed.queue.close());
    }

    /// The next request. It counts as sent.
    pub(crate) fn next_request(&mut self) -> Option<ChannelRequest> {
        let feeds = &self.feeds;
        let next = self.subscriptions.next(|_, channel| {
            if channel.wanted == 0 {
                Need::Forgotten
            } else if earliest_behind(feeds, &channel.value).is_some() {
                Need::Again
            } else {
                Need::Subscribed
            }
        })?;
        Some(match next {
            Next::Subscribe(name) => {
                let mut since = None;
                if let Some(channel) = self.subscriptions.get_mut(&name) {
                    since = earliest_behind(&self.feeds, &channel.value).cloned();
                    channel.value.asked.clone_from(&since);
                }
                ChannelRequest::Subscribe { channel: name, since }
            }
            Next::Unsubscribe(name) => ChannelRequest::Unsubscribe(name),
        })
    }

    /// The connection is lost: every reader has to resume at its own position.
    pub(crate) fn disconnect(&mut self) {
        self.subscriptions.disconnect();
        for feed in self.feeds.values_mut() {
            feed.is_behind = feed.position.is_some();
        }
    }

    /// The answer to a subscription.
    pub(crate) fn subscribed(&mut self, name: &str, frame: &Frame) {
        let Some(channel) = self.subscriptions.confirmed(name) else { return };
        let now = Position::of(frame);
        channel.value.head = Some(now.clone());
        let asked = channel.value.asked.take();
        let is_recovered = frame.recovered == Some(true);
        let mut is_done = true;
        for key in &channel.value.feeds {
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
            self.subscriptions.mark_due(name);
        }
    }

    /// The server has lost messages of a channel: it counts from another position now.
    pub(crate) fn moved(&mut self, name: &str, frame: &Frame) {
        let Some(channel) = self.subscriptions.get_mut(name) else { return };
        let now = Position::of(frame);
        if channel.value.head.as_ref().is_some_and(|head| head.reaches(&now)) {
            // The answer to a subscription has reported it already.
            return;
        }
        channel.value.head = Some(now.clone());
        for key in &channel.value.feeds {
            let Some(feed) = self.feeds.get_mut(key).filter(|feed| !feed.is_full) else { continue };
            let Some(place) = feed.position.clone() else { continue };
            // A feed that is behind in the same epoch learns from the answer which messages the
            // server still keeps.
            if place.epoch != now.epoch || !(feed.is_behind || place.reaches(&now)) {
                feed.lose(&place, &now);
            }
        }
    }

    /// An operator has subscribed the connection. A channel that an operator took away resumes at
    /// its readers' positions.
    pub(crate) fn restored(&mut self, name: &str) {
        self.subscriptions.mark_due(name);
    }

    /// A subscription was refused.
    pub(crate) fn refused(&mut self, name: &str, error: &Error) {
        let Some(channel) = self.subscriptions.refused(name, error) else { return };
        for key in &channel.value.feeds {
            if let Some(feed) = self.feeds.get_mut(key) {
                // If the queue has no room for it, the reader learns it from `ready`.
                let _ = feed.queue.push(ChannelEvent::Refused(error.clone()));
            }
        }
    }

    /// A message.
    pub(crate) fn message(&mut self, name: &str, frame: Frame) {
        let Some(channel) = self.subscriptions.get_mut(name) else { return };
        let message = ChannelMessage::of(frame);
        if let (Some(head), Some(offset)) = (&mut channel.value.head, message.offset) {
            head.offset = head.offset.max(offset);
        }
        let epoch = channel.value.head.as_ref().map(|head| &*head.epoch);
        let mut is_gap = false;
        for key in &channel.value.feeds {
            if let Some(feed) = self.feeds.get_mut(key) {
                feed.take(epoch, &message);
                is_gap |= feed.is_behind;
            }
        }
        if is_gap && channel.phase == Phase::Live {
            self.subscriptions.mark_due(name);
        }
    }

    /// The client has published a message that does not come back to it: it is no gap.
    pub(crate) fn published_silently(&mut self, name: &str, offset: u64) {
        let Some(channel) = self.subscriptions.get_mut(name) else { return };
        for key in &channel.value.feeds {
            let position = self.feeds.get_mut(key).and_then(|feed| feed.position.as_mut());
            if let Some(position) = position.filter(|position| position.offset + 1 == offset) {
                position.offset = offset;
            }
        }
    }

    /// The channel was deleted.
    pub(crate) fn deleted(&mut self, name: &str) {
        let Some(channel) = self.subscriptions.remove(name) else { return };
        for key in channel.value.feeds {
            if let Some(feed) = self.feeds.get_mut(&key) {
                // A reader without room for it still finds the end.
                let _ = feed.queue.push(ChannelEvent::Deleted);
                feed.queue.close();
            }
        }
    }

    pub(crate) fn is_asked(&self, name: &str) -> bool {
        self.subscriptions.get(name).is_some_and(|channel| channel.phase != Phase::Idle)
    }

    /// Whether a reader's channel is followed, or the refusal, or none if that is not known yet.
    pub(crate) fn outcome(&self, key: u64) -> Option<Result<(), Error>> {
        self.subscriptions.outcome(&self.feeds.get(&key)?.channel)
    }

    pub(crate) fn position(&self, key: u64) -> Option<Position> {
        self.feeds.get(&key)?.position.clone()
    }

    /// The next event of a reader. When its queue is empty and it is behind, the history is due.
    pub(crate) fn poll(&mut self, key: u64, cx: &mut Context<'_>) -> Poll<Option<ChannelEvent>> {
        let Some(feed) = self.feeds.get_mut(&key) else { return Poll::Ready(None) };
        if feed.queue.is_empty() && std::mem::take(&mut feed.is_full) {
            let name = feed.channel.clone();
            feed.is_behind = feed.position.is_some();
            let after = feed.position.as_ref().map_or(0, |position| position.offset);
            let unnumbered = std::mem::take(&mut feed.unnumbered);
            let head = self.subscriptions.get(&name).and_then(|one| one.value.head.as_ref());
            let newest = head.map_or(after, |head| head.offset);
            self.subscriptions.mark_due(&name);
            return Poll::Ready(Some(ChannelEvent::Lagged { after, newest, unnumbered }));
        }
        feed.queue.poll(cx)
    }
}

/// The position of the reader that is furthest behind and has room for its missed messages.
fn earliest_behind<'a>(feeds: &'a BTreeMap<u64, Feed>, channel: &Channel) -> Option<&'a Position> {
    let behind = channel.feeds.iter().filter_map(|key| feeds.get(key));
    let behind = behind.filter(|feed| feed.is_behind && !feed.is_full);
    behind.filter_map(|feed| feed.position.as_ref()).min_by_key(|position| position.offset)
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

    /// A channel whose reader has all messages up to a position.
    fn followed(position: &Position, max: usize) -> ChannelTable {
        let mut table = ChannelTable::default();
        table.open_feed(KEY, "news", None, max);
        assert_eq!(table.next_request(), Some(subscribe(None)));
        table.subscribed("news", &place(position, None));
        table
    }

    fn subscribe(since: Option<Position>) -> ChannelRequest {
        ChannelRequest::Subscribe { channel: "news".into(), since }
    }

    fn push(table: &mut ChannelTable, offset: u64) {
        let message = json!({"type": "json", "channel": "news", "offset": offset});
        table.message("news", Frame::decode(&message.to_string()).expect("a frame"));
    }

    fn moved(table: &mut ChannelTable, epoch: &str, offset: u64) {
        table.moved("news", &place(&at(epoch, offset), Some(false)));
    }

    /// The reader's items, in short.
    fn told(table: &mut ChannelTable) -> Vec<String> {
        let mut told = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(event)) = table.poll(KEY, &mut cx) {
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
        let mut table = followed(&at("e1", 3), 16);
        push(&mut table, 4);
        moved(&mut table, "e2", 12);
        push(&mut table, 13);
        assert_eq!(told(&mut table), ["4", "e1 4 to e2 12", "13"]);
        // More messages are gone than the channel keeps.
        moved(&mut table, "e2", 400);
        push(&mut table, 401);
        assert_eq!(told(&mut table), ["e2 13 to e2 400", "401"]);
        assert_eq!(table.next_request(), None, "there is no gap");
        table.disconnect();
        assert_eq!(table.next_request(), Some(subscribe(Some(at("e2", 401)))));
    }

    #[test]
    fn a_loss_is_told_once() {
        let mut table = followed(&at("e1", 3), 16);
        moved(&mut table, "e2", 12);
        push(&mut table, 13);
        moved(&mut table, "e2", 12);
        moved(&mut table, "e2", 13);
        assert_eq!(told(&mut table), ["e1 3 to e2 12", "13"]);
        // The answer to a subscription brings the same loss.
        table.disconnect();
        assert_eq!(table.next_request(), Some(subscribe(Some(at("e2", 13)))));
        table.subscribed("news", &place(&at("e3", 2), Some(false)));
        moved(&mut table, "e3", 2);
        push(&mut table, 3);
        assert_eq!(told(&mut table), ["e2 13 to e3 2", "3"]);
    }

    #[test]
    fn a_loss_overtakes_the_answer_that_closes_a_gap() {
        let mut table = followed(&at("e1", 3), 16);
        push(&mut table, 5);
        assert_eq!(table.next_request(), Some(subscribe(Some(at("e1", 3)))));
        moved(&mut table, "e2", 12);
        push(&mut table, 13);
        table.subscribed("news", &place(&at("e2", 13), Some(false)));
        push(&mut table, 14);
        assert_eq!(told(&mut table), ["e1 3 to e2 12", "13", "14"]);
        assert_eq!(table.next_request(), None);
        // In the same epoch the answer reports it.
        push(&mut table, 16);
        assert_eq!(table.next_request(), Some(subscribe(Some(at("e2", 14)))));
        moved(&mut table, "e2", 30);
        table.subscribed("news", &place(&at("e2", 30), Some(false)));
        push(&mut table, 31);
        assert_eq!(told(&mut table), ["e2 14 to e2 30", "31"]);
        assert_eq!(table.next_request(), None);
    }

    #[test]
    fn a_slow_reader_learns_of_a_loss_when_it_has_caught_up() {
        let mut table = followed(&at("e1", 3), 2);
        for offset in 4..=6 {
            push(&mut table, offset);
        }
        moved(&mut table, "e2", 1);
        push(&mut table, 2);
        assert_eq!(told(&mut table), ["4", "5", "lagged"]);
        assert_eq!(table.next_request(), Some(subscribe(Some(at("e1", 5)))));
        table.subscribed("news", &place(&at("e2", 2), Some(false)));
        push(&mut table, 3);
        assert_eq!(told(&mut table), ["e1 5 to e2 2", "3"]);
        // The same if there is no room for the item itself.
        push(&mut table, 4);
        push(&mut table, 5);
        moved(&mut table, "e3", 9);
        push(&mut table, 10);
        assert_eq!(told(&mut table), ["4", "5", "lagged"]);
        assert_eq!(table.next_request(), Some(subscribe(Some(at("e2", 5)))));
        table.subscribed("news", &place(&at("e3", 10), Some(false)));
        assert_eq!(told(&mut table), ["e2 5 to e3 10"]);
    }

    #[test]
    fn who_has_no_place_yet_has_lost_nothing() {
        let mut table = ChannelTable::default();
        table.open_feed(KEY, "news", None, 16);
        assert_eq!(table.next_request(), Some(subscribe(None)));
        // Of an earlier subscription.
        moved(&mut table, "e2", 12);
        assert_eq!(table.position(KEY), None);
        table.subscribed("news", &place(&at("e2", 14), None));
        push(&mut table, 15);
        assert_eq!(told(&mut table), ["15"]);
        moved(&mut ChannelTable::default(), "e2", 12);
    }
}
