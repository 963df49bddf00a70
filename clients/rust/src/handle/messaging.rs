//! Channels, rooms, envelopes and direct messages as a program sees them.
//!
//! Imports `shared`, `state` and `handle::listener`. Imported by `handle::client`.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use serde_json::{Map, Value};

use crate::error::Error;
use crate::event::{ChannelEvent, DirectMessage, EnvelopeEvent, Person, Position};
use crate::handle::listener::Listener;
use crate::shared::ShutdownGuard;
use crate::state::inbox::Inbox;
use crate::state::queue::Queue;
use crate::state::{EnvelopeFeed, room};

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

    /// Names the event, which makes the message an event.
    pub fn event(mut self, name: impl Into<String>) -> Post {
        self.body.insert(String::from("event"), Value::from(name.into()));
        self
    }

    /// A JSON object that goes with it.
    pub fn metadata(mut self, metadata: Map<String, Value>) -> Post {
        self.body.insert(String::from("metadata"), Value::Object(metadata));
        self
    }

    /// Keeps it from coming back to this client. If messages have to be read from the history after
    /// a reconnect, it may still come.
    pub fn without_echo(mut self) -> Post {
        self.body.insert(String::from("echo"), Value::Bool(false));
        self.is_silent = true;
        self
    }
}

/// The position of a published message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Its position in the channel.
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
    guard: Arc<ShutdownGuard>,
    key: u64,
}

impl Channel {
    pub(crate) fn new(guard: &Arc<ShutdownGuard>, name: &str, since: Option<Position>) -> Channel {
        let max = guard.0.settings.queue_events_max;
        let key = guard.0.update(|state| {
            let key = state.new_key();
            state.channels.open_feed(key, name, since, max);
            if state.ended.is_some() {
                state.channels.close();
            }
            key
        });
        Channel { guard: Arc::clone(guard), key }
    }

    /// Waits until the channel is followed: later messages will come.
    ///
    /// # Errors
    ///
    /// The server's refusal, or the reason why the client has ended.
    pub async fn ready(&self) -> Result<(), Error> {
        self.guard.0.wait(|state| state.channels.outcome(self.key)).await
    }

    /// The position of the last message that was queued for this stream. Keep the position of the
    /// last message that you have handled, and resume there with [`crate::Client::channel_since`].
    pub fn position(&self) -> Option<Position> {
        self.guard.0.state.lock().channels.position(self.key)
    }

    /// The next event; none after the last.
    pub async fn next(&mut self) -> Option<ChannelEvent> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// Calls a function with every event, in a task of its own, until the listener is dropped.
    pub fn on_event(self, call: impl FnMut(ChannelEvent) + Send + 'static) -> Listener {
        let guard = Arc::clone(&self.guard);
        Listener::start(&guard, self, call)
    }
}

impl Stream for Channel {
    type Item = ChannelEvent;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ChannelEvent>> {
        let shared = &self.guard.0;
        let (event, is_due) = {
            let mut state = shared.state.lock();
            (state.channels.poll(self.key, cx), state.channels.subscriptions.has_due())
        };
        if is_due {
            shared.wake.notify_one();
        }
        event
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.guard.0.update(|state| state.channels.close_feed(self.key));
    }
}

/// A chat room, joined for as long as this lives, also over reconnects.
///
/// It is a stream of its channel: messages of kind `chat`, and the events `user.joined` and
/// `user.left`. Messages during a lost connection are read from the history.
///
/// ```no_run
/// # async fn example(client: fanfare_client::Client) -> Result<(), fanfare_client::Error> {
/// let mut room = client.join("general")?;
/// room.ready().await?;
/// println!("{} users are here", room.users().len());
/// room.chat("hello").await?;
/// println!("{:?}", room.next().await);
/// # Ok(())
/// # }
/// ```
pub struct Room {
    name: String,
    channel: Channel,
}

impl Room {
    pub(crate) fn new(guard: &Arc<ShutdownGuard>, name: &str) -> Room {
        let channel = Channel::new(guard, &room::channel_of(name), None);
        guard.0.update(|state| _ = state.rooms.subscriptions.want(name.into()));
        Room { name: name.to_owned(), channel }
    }

    /// Waits until the client is in it.
    ///
    /// # Errors
    ///
    /// The server's refusal, or the reason why the client has ended.
    pub async fn ready(&self) -> Result<(), Error> {
        self.channel.ready().await?;
        self.channel.guard.0.wait(|state| state.rooms.outcome(&self.name)).await
    }

    /// The users in the room, this client's included, as the server last reported.
    pub fn users(&self) -> Vec<Person> {
        self.channel.guard.0.state.lock().rooms.users(&self.name)
    }

    /// Sends a text. Returns the message's id.
    ///
    /// # Errors
    ///
    /// The server's refusal, or that there was no answer in time.
    pub async fn chat(&self, content: &str) -> Result<String, Error> {
        let mut body = Map::new();
        body.insert(String::from("type"), Value::from("chat"));
        body.insert(String::from("room"), Value::from(self.name.as_str()));
        body.insert(String::from("content"), Value::from(content));
        let answer = self.channel.guard.0.request(body, None, None).await?;
        Ok(answer.message_id.unwrap_or_default().into())
    }

    /// The next event; none after the last.
    pub async fn next(&mut self) -> Option<ChannelEvent> {
        self.channel.next().await
    }

    /// Calls a function with every event, in a task of its own, until the listener is dropped.
    pub fn on_event(self, call: impl FnMut(ChannelEvent) + Send + 'static) -> Listener {
        let guard = Arc::clone(&self.channel.guard);
        Listener::start(&guard, self, call)
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
        self.channel.guard.0.update(|state| state.rooms.subscriptions.release(&*self.name));
    }
}

/// The incoming envelopes, as a stream. Those of the time without a connection do not come.
///
/// ```no_run
/// # async fn example(client: fanfare_client::Client) {
/// use fanfare_client::EnvelopeEvent;
///
/// let mut envelopes = client.envelopes();
/// while let Some(EnvelopeEvent::Message(envelope)) = envelopes.next().await {
///     println!("{}: {}", envelope.message_type, envelope.data);
/// }
/// # }
/// ```
pub struct Envelopes {
    guard: Arc<ShutdownGuard>,
    key: u64,
}

impl Envelopes {
    pub(crate) fn new(guard: &Arc<ShutdownGuard>) -> Envelopes {
        let max = guard.0.settings.queue_events_max;
        let mut state = guard.0.state.lock();
        let key = state.new_key();
        let mut queue = Queue::new(max);
        if state.ended.is_some() {
            queue.close();
        }
        state.envelopes.insert(key, EnvelopeFeed { queue, missed: 0 });
        drop(state);
        Envelopes { guard: Arc::clone(guard), key }
    }

    /// The next event; none after the last.
    pub async fn next(&mut self) -> Option<EnvelopeEvent> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// Calls a function with every event, in a task of its own, until the listener is dropped.
    pub fn on_message(self, call: impl FnMut(EnvelopeEvent) + Send + 'static) -> Listener {
        let guard = Arc::clone(&self.guard);
        Listener::start(&guard, self, call)
    }
}

impl Stream for Envelopes {
    type Item = EnvelopeEvent;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<EnvelopeEvent>> {
        let mut state = self.guard.0.state.lock();
        let Some(feed) = state.envelopes.get_mut(&self.key) else { return Poll::Ready(None) };
        if feed.missed > 0 && feed.queue.is_empty() {
            return Poll::Ready(Some(EnvelopeEvent::Missed(std::mem::take(&mut feed.missed))));
        }
        feed.queue.poll(cx)
    }
}

impl Drop for Envelopes {
    fn drop(&mut self) {
        self.guard.0.state.lock().envelopes.remove(&self.key);
    }
}

/// The direct and group messages to the signed-in user, as a stream: each once, also those from the
/// time without a connection. Messages that the user wrote are not among them.
///
/// Keep the id of the last message that you have dealt with, and go on there with [`crate::Client::messages_after`].
///
/// ```no_run
/// # async fn example(client: fanfare_client::Client) {
/// let mut messages = client.messages();
/// while let Some(message) = messages.next().await {
///     println!("{}: {}", message.from_user_id, message.content);
/// }
/// # }
/// ```
pub struct Messages {
    guard: Arc<ShutdownGuard>,
    key: u64,
}

impl Messages {
    pub(crate) fn new(guard: &Arc<ShutdownGuard>, after: Option<String>) -> Messages {
        let max = guard.0.settings.queue_events_max;
        let key = guard.0.update(|state| {
            let key = state.new_key();
            let mut inbox = Inbox::new(after, max);
            if state.ended.is_some() {
                inbox.queue.close();
            }
            state.inboxes.insert(key, inbox);
            key
        });
        Messages { guard: Arc::clone(guard), key }
    }

    /// The next message; none after the last.
    pub async fn next(&mut self) -> Option<DirectMessage> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// Calls a function with every message, in a task of its own, until the listener is dropped.
    pub fn on_message(self, call: impl FnMut(DirectMessage) + Send + 'static) -> Listener {
        let guard = Arc::clone(&self.guard);
        Listener::start(&guard, self, call)
    }
}

impl Stream for Messages {
    type Item = DirectMessage;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<DirectMessage>> {
        let shared = &self.guard.0;
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
        self.guard.0.state.lock().inboxes.remove(&self.key);
    }
}
