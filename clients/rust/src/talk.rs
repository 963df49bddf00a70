//! Channels, rooms, envelopes and direct messages as a program sees them.
//!
//! Imports its siblings.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use serde_json::{Map, Value};

use crate::channel::{ChannelEvent, Position};
use crate::error::Error;
use crate::frame::Person;
use crate::inbox::DirectMessage;
use crate::listener::Listener;
use crate::room;
use crate::shared::{Keeper, State};

/// A message for a channel.
///
/// ```
/// use fanfare_client::Post;
///
/// let post = Post::new("orders:paid", serde_json::json!({"order": 7})).event("order.paid");
/// ```
#[derive(Debug, Clone)]
#[must_use = "a post is sent by `Client::publish`"]
pub struct Post {
    pub(crate) channel: String,
    pub(crate) body: Map<String, Value>,
    pub(crate) is_silent: bool,
}

impl Post {
    /// A message with any JSON value.
    pub fn new(channel: impl Into<String>, payload: impl Into<Value>) -> Post {
        let channel = channel.into();
        let mut body = Map::new();
        body.insert(String::from("type"), Value::from("publish"));
        body.insert(String::from("channel"), Value::from(channel.as_str()));
        body.insert(String::from("payload"), payload.into());
        Post { channel, body, is_silent: false }
    }

    /// Names what has happened, which makes the message an event.
    pub fn event(mut self, name: impl Into<String>) -> Post {
        self.body.insert(String::from("event"), Value::from(name.into()));
        self
    }

    /// A JSON object that goes along.
    pub fn metadata(mut self, metadata: Map<String, Value>) -> Post {
        self.body.insert(String::from("metadata"), Value::Object(metadata));
        self
    }

    /// Keeps it from coming back to this client. Where messages have to be fetched from the history
    /// after a reconnect, it may all the same.
    pub fn without_echo(mut self) -> Post {
        self.body.insert(String::from("echo"), Value::Bool(false));
        self.is_silent = true;
        self
    }
}

/// Where a published message stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Its place in the channel.
    pub position: Position,
    /// Its id.
    pub message_id: String,
}

/// The messages of one channel, as a stream. It ends when the channel is deleted or the client
/// closed; dropping it ends the subscription.
///
/// ```no_run
/// # async fn example(client: fanfare_client::Client) -> Result<(), fanfare_client::Error> {
/// use fanfare_client::ChannelEvent;
///
/// let mut news = client.channel("news")?;
/// while let Some(event) = news.next().await {
///     match event {
///         ChannelEvent::Message(message) => println!("{}", message.payload),
///         other => eprintln!("{other:?}"),
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub struct Channel {
    keeper: Arc<Keeper>,
    key: u64,
}

impl Channel {
    pub(crate) fn new(keeper: &Arc<Keeper>, name: &str, since: Option<Position>) -> Channel {
        let max = keeper.0.settings.queue_events_max;
        let key = keeper.0.want(|state| {
            let key = state.new_key();
            state.channels.open_feed(key, name, since, max);
            if state.ended.is_some() {
                state.channels.close();
            }
            key
        });
        Channel { keeper: Arc::clone(keeper), key }
    }

    /// Waits until the channel is followed: what is published from then on will come.
    ///
    /// # Errors
    ///
    /// Why the server does not let us follow, or why the client has ended.
    pub async fn ready(&self) -> Result<(), Error> {
        let check = |state: &mut State| {
            if state.channels.is_live(self.key) {
                return Some(Ok(()));
            }
            state.channels.error(self.key).filter(|error| !error.is_temporary()).map(Err)
        };
        self.keeper.0.wait(check).await
    }

    /// Where the last message stands that was queued for this stream. Whoever keeps the position of
    /// the last message it has dealt with can go on there: [`super::Client::channel_since`].
    pub fn position(&self) -> Option<Position> {
        self.keeper.0.state.lock().channels.position(self.key)
    }

    /// The next event; none after the last.
    pub async fn next(&mut self) -> Option<ChannelEvent> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// Calls a function with every event, in a task of its own, until the listener is dropped.
    pub fn on_event(self, call: impl FnMut(ChannelEvent) + Send + 'static) -> Listener {
        let keeper = Arc::clone(&self.keeper);
        Listener::start(&keeper, self, call)
    }
}

impl Stream for Channel {
    type Item = ChannelEvent;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ChannelEvent>> {
        let shared = &self.keeper.0;
        let (event, has_todo) = {
            let mut state = shared.state.lock();
            (state.channels.poll(self.key, cx), state.channels.has_todo())
        };
        if has_todo {
            shared.wake.notify_one();
        }
        event
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.keeper.0.want(|state| state.channels.close_feed(self.key));
    }
}

/// A chat room, joined for as long as this lives, also over reconnects.
///
/// It is a stream of what its channel brings: messages of kind `chat`, and the events `user.joined`
/// and `user.left`. What was said during a lost connection is fetched from the history.
pub struct Room {
    name: String,
    channel: Channel,
}

impl Room {
    pub(crate) fn new(keeper: &Arc<Keeper>, name: &str) -> Room {
        let channel = Channel::new(keeper, &room::channel_of(name), None);
        keeper.0.want(|state| state.rooms.want(name));
        Room { name: name.to_owned(), channel }
    }

    /// Waits until we are in it.
    ///
    /// # Errors
    ///
    /// Why the server does not let us in, or why the client has ended.
    pub async fn ready(&self) -> Result<(), Error> {
        self.channel.ready().await?;
        self.channel.keeper.0.wait(|state| state.rooms.outcome(&self.name)).await
    }

    /// Who is in it, oneself included, as last heard.
    pub fn users(&self) -> Vec<Person> {
        self.channel.keeper.0.state.lock().rooms.users(&self.name)
    }

    /// Says something. Returns the message's id.
    ///
    /// # Errors
    ///
    /// The server's refusal, or that there was no answer in time.
    pub async fn chat(&self, content: &str) -> Result<String, Error> {
        let mut body = Map::new();
        body.insert(String::from("type"), Value::from("chat"));
        body.insert(String::from("room"), Value::from(self.name.as_str()));
        body.insert(String::from("content"), Value::from(content));
        let answer = self.channel.keeper.0.ask(body, None, None).await?;
        Ok(answer.message_id.unwrap_or_default().into())
    }

    /// The next event; none after the last.
    pub async fn next(&mut self) -> Option<ChannelEvent> {
        self.channel.next().await
    }

    /// Calls a function with every event, in a task of its own, until the listener is dropped.
    pub fn on_event(self, call: impl FnMut(ChannelEvent) + Send + 'static) -> Listener {
        let keeper = Arc::clone(&self.channel.keeper);
        Listener::start(&keeper, self, call)
    }
}

impl Stream for Room {
    type Item = ChannelEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ChannelEvent>> {
        Pin::new(&mut self.channel).poll_next(cx)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.channel.keeper.0.want(|state| state.rooms.release(&self.name));
    }
}

/// A message from another user, or from a program to users.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    /// The id that its sender gave it, or the server.
    pub id: String,
    /// What it is: `text`, `notification`, `user_joined`, or a word of one's own.
    pub message_type: String,
    /// What it says.
    pub data: Value,
    /// Who sent it; none where that was no user.
    pub from_user_id: Option<String>,
    /// For whom; none where it is for everyone.
    pub to_user_id: Option<String>,
    /// When the server took it, RFC 3339 in UTC.
    pub timestamp: String,
}

/// What a stream of envelopes gives.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum EnvelopeEvent {
    /// The next message.
    Message(Box<Envelope>),
    /// The reader was slow, and so many messages were not kept for it. Nobody keeps envelopes: they
    /// are gone.
    Missed(u64),
}

/// The envelopes that come in, as a stream. Those of the time without a connection do not come.
pub struct Envelopes {
    keeper: Arc<Keeper>,
    key: u64,
}

impl Envelopes {
    pub(crate) fn new(keeper: &Arc<Keeper>) -> Envelopes {
        let max = keeper.0.settings.queue_events_max;
        let mut state = keeper.0.state.lock();
        let key = state.new_key();
        let mut queue = super::queue::Queue::new(max);
        if state.ended.is_some() {
            queue.close();
        }
        state.envelopes.insert(key, super::shared::EnvelopeFeed { queue, missed: 0 });
        drop(state);
        Envelopes { keeper: Arc::clone(keeper), key }
    }

    /// The next event; none after the last.
    pub async fn next(&mut self) -> Option<EnvelopeEvent> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// Calls a function with every event, in a task of its own, until the listener is dropped.
    pub fn on_message(self, call: impl FnMut(EnvelopeEvent) + Send + 'static) -> Listener {
        let keeper = Arc::clone(&self.keeper);
        Listener::start(&keeper, self, call)
    }
}

impl Stream for Envelopes {
    type Item = EnvelopeEvent;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<EnvelopeEvent>> {
        let mut state = self.keeper.0.state.lock();
        let Some(feed) = state.envelopes.get_mut(&self.key) else { return Poll::Ready(None) };
        if feed.missed > 0 && feed.queue.is_empty() {
            return Poll::Ready(Some(EnvelopeEvent::Missed(std::mem::take(&mut feed.missed))));
        }
        feed.queue.poll(cx)
    }
}

impl Drop for Envelopes {
    fn drop(&mut self) {
        self.keeper.0.state.lock().envelopes.remove(&self.key);
    }
}

/// The direct and group messages to us, as a stream: each once, also those from the time without a
/// connection. What we write ourselves is not among them.
///
/// Whoever keeps the id of the last message it has dealt with can go on there:
/// [`super::Client::messages_after`].
pub struct Messages {
    keeper: Arc<Keeper>,
    key: u64,
}

impl Messages {
    pub(crate) fn new(keeper: &Arc<Keeper>, after: Option<String>) -> Messages {
        let max = keeper.0.settings.queue_events_max;
        let key = keeper.0.want(|state| {
            let key = state.new_key();
            let mut inbox = super::inbox::Inbox::new(after, max);
            if state.ended.is_some() {
                inbox.queue.close();
            }
            state.inboxes.insert(key, inbox);
            key
        });
        Messages { keeper: Arc::clone(keeper), key }
    }

    /// The next message; none after the last.
    pub async fn next(&mut self) -> Option<DirectMessage> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// Calls a function with every message, in a task of its own, until the listener is dropped.
    pub fn on_message(self, call: impl FnMut(DirectMessage) + Send + 'static) -> Listener {
        let keeper = Arc::clone(&self.keeper);
        Listener::start(&keeper, self, call)
    }
}

impl Stream for Messages {
    type Item = DirectMessage;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<DirectMessage>> {
        let shared = &self.keeper.0;
        let mut state = shared.state.lock();
        let Some(inbox) = state.inboxes.get_mut(&self.key) else { return Poll::Ready(None) };
        if inbox.queue.is_empty() && inbox.emptied() {
            shared.wake.notify_one();
        }
        inbox.queue.poll(cx)
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        self.keeper.0.state.lock().inboxes.remove(&self.key);
    }
}
