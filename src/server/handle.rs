//! The handle: the interface for a program that embeds the server.
//!
//! A handle is a few pointers: clone it into every task. Its calls are the commands that clients send, and
//! return when the command is done. They pass the same checks and bounds as a client's; only scopes and the
//! rules of namespaces do not apply.
//!
//! Imports `clock`, `id`, `limits`, `mailbox`, `state`, `stats` and `wire`. Part of `server`.

mod message;
mod watch;

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;

use crate::clock::Clock;
use crate::id::{ChannelName, ConnName, InstanceIdentity, MessageId, ServiceName, UserId};
use crate::limits::{self, Limits};
use crate::mailbox::MailboxSender;
use crate::mailbox::command_sender;
use crate::mailbox::to_control::ControlMessage;
use crate::state::Ask;
use crate::state::channels::view::ChannelView;
use crate::state::event::DomainEvent;
use crate::state::messaging::aim::{Aimed, To};
use crate::state::messaging::commands::{
    Broadcast, ChatAs, DefineChannel, DeleteChannel, DescribeChannel, DescribeConnection,
    Disconnect, ListChannels, ListConnections, ListOnline, PingAll, Publish, Publisher,
    SetMetadata, SetSubscription,
};
use crate::state::messaging::replies::Online;
use crate::state::people::{ConnectionView, OnlineUser, Person};
use crate::state::registry::commands::{Heartbeat, ReadAllViews, ReadViews, Register, Unregister};
use crate::state::registry::replies::RefusedEntry;
use crate::state::registry::views::View;
use crate::stats::Stats;
use crate::wire::command::Entries;
use crate::wire::instance::{Instance, check_name, check_service_id};
use crate::wire::refusal::{Code, Refusal};
use crate::wire::talk::{self, Envelope, Publication};
pub use message::{Message, PublishedMessage};
use message::{check_bytes, deduplicated};
pub use watch::{InstanceChange, ServiceUpdate, ServiceWatch};

/// The failure of a call. Its code says whether to try again.
pub type CallError = Refusal;

/// A server, seen from the program around it.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use fanfare::config::{Config, Sources};
/// use fanfare::server::Server;
/// use serde_json::json;
///
/// let server = Server::start(&Config::default(), &Sources::default())?;
/// let handle = server.handle();
/// handle.send_to_channel("news", json!({"headline": "It works"})).await?;
/// println!("{} sockets are open", handle.connection_count());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Handle {
    control: MailboxSender<ControlMessage>,
    clock: Clock,
    /// Weak, so that listeners get the server's end although handles live on.
    events: broadcast::WeakSender<DomainEvent>,
    stats: Arc<Stats>,
    limits: Arc<Limits>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

/// The receivers of a broadcast.
///
/// ```
/// use fanfare::server::Delivery;
///
/// let everyone = Delivery::default();
/// let a_room = Delivery { to_channel: Some("chat:general".into()), ..Delivery::default() };
/// assert_ne!(everyone, a_room);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delivery {
    /// To no other connections than these.
    pub only_to: Option<Vec<ConnName>>,
    /// Not to these.
    pub exclude: Vec<ConnName>,
    /// To the followers of this channel, rather than to every JSON socket.
    pub to_channel: Option<String>,
}

/// A stream of the server's events.
///
/// ```no_run
/// # async fn example(handle: fanfare::server::Handle) {
/// use fanfare::server::DomainEvent;
///
/// let mut events = handle.events();
/// while let Some(event) = events.next().await {
///     if let Ok(DomainEvent::UserOnline(person)) = event {
///         println!("{} is here", person.username);
///     }
/// }
/// # }
/// ```
///
/// It is a [`Stream`] as well, for combinators and `select!`.
#[derive(Debug)]
pub struct Events(BroadcastStream<DomainEvent>);

impl Events {
    /// The next event; none when the server has stopped. A slow listener gets the number of missed
    /// events: at most 4,096 are kept.
    pub async fn next(&mut self) -> Option<Result<DomainEvent, u64>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for Events {
    type Item = Result<DomainEvent, u64>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let event = ready!(Pin::new(&mut self.0).poll_next(cx));
        Poll::Ready(
            event.map(|event| event.map_err(|BroadcastStreamRecvError::Lagged(missed)| missed)),
        )
    }
}

/// The messages of one channel, as a [`Stream`] too. See [`Handle::subscribe_channel`].
#[derive(Debug)]
pub struct ChannelMessages {
    events: Events,
    channel: ChannelName,
}

impl ChannelMessages {
    /// The next message, as its subscribers get it; none when the server has stopped. A listener
    /// that is too slow gets the number of missed events, this channel's among them.
    pub async fn next(&mut self) -> Option<Result<Value, u64>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for ChannelMessages {
    type Item = Result<Value, u64>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match ready!(Pin::new(&mut self.events).poll_next(cx)) {
                None => return Poll::Ready(None),
                Some(Err(missed)) => return Poll::Ready(Some(Err(missed))),
                Some(Ok(DomainEvent::ChannelMessage { channel, message }))
                    if channel == self.channel =>
                {
                    let message = serde_json::from_slice(&message).unwrap_or_default();
                    return Poll::Ready(Some(Ok(message)));
                }
                Some(Ok(_)) => {}
            }
        }
    }
}

/// Logs an operator's action of the embedding program.
fn note_action(action: &'static str, on: &str) {
    tracing::info!(target: "fanfare::operator", action, on, door = "program", "operator action");
}

fn json(value: impl Serialize) -> Result<Box<RawValue>, CallError> {
    serde_json::value::to_raw_value(&value)
        .map_err(|fault| Refusal::invalid(format!("the value is not JSON: {fault}")))
}

impl Handle {
    pub(super) fn new(
        control: MailboxSender<ControlMessage>,
        clock: Clock,
        events: &broadcast::Sender<DomainEvent>,
        stats: Arc<Stats>,
        limits: Arc<Limits>,
    ) -> Handle {
        Handle { control, clock, events: events.downgrade(), stats, limits }
    }

    fn channel(&self, name: &str) -> Result<ChannelName, CallError> {
        talk::channel(Some(name.to_owned()), self.limits.topic_bytes_max)
    }

    async fn ask<A: Ask>(&self, ask: A) -> Result<A::Reply, CallError> {
        command_sender::ask(&self.control, self.clock.now().ns, ask).await
    }

    async fn send(
        &self,
        message_type: &str,
        data: impl Serialize,
        to: To,
        aim: Aimed,
    ) -> Result<usize, CallError> {
        let data = json(data)?;
        check_bytes(data.get().len(), &self.limits)?;
        let envelope = Envelope::new(Some(message_type.to_owned()), Some(&*data))?;
        let delivered = self.ask(Broadcast { envelope, from: None, to, aim }).await?;
        Ok(delivered.count)
    }

    /// Sends an envelope to every JSON socket, or to those that `delivery` names. Returns how many
    /// connections it goes to.
    ///
    /// # Errors
    ///
    /// `invalid_argument` for a reserved type, `unavailable` if the server is too busy or stops.
    ///
    /// ```no_run
    /// # async fn example(handle: fanfare::server::Handle) -> Result<(), fanfare::server::CallError> {
    /// use fanfare::server::Delivery;
    /// let notice = serde_json::json!({"content": "maintenance at noon"});
    /// let reached = handle.broadcast("notice", notice, Delivery::default()).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn broadcast(
        &self,
        message_type: &str,
        data: impl Serialize,
        delivery: Delivery,
    ) -> Result<usize, CallError> {
        let to = match &delivery.to_channel {
            Some(name) => To::Channel(self.channel(name)?),
            None => To::Everyone,
        };
        let aim = Aimed {
            only: delivery.only_to.map(deduplicated),
            except: deduplicated(delivery.exclude),
        };
        self.send(message_type, data, to, aim).await
    }

    /// Publishes to a channel, whatever its rules say. Returns the message's id and how many
    /// connections it goes to.
    ///
    /// # Errors
    ///
    /// As [`Handle::broadcast`].
    ///
    /// ```no_run
    /// # async fn example(handle: fanfare::server::Handle) -> Result<(), fanfare::server::CallError> {
    /// let (id, reached) = handle.send_to_channel("news", "It works").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn send_to_channel(
        &self,
        channel_name: &str,
        payload: impl Serialize,
    ) -> Result<(MessageId, usize), CallError> {
        let published = self.publish(channel_name, Message::new(payload)).await?;
        Ok((published.message_id, published.delivered_to))
    }

    /// The same for an event with a name.
    ///
    /// # Errors
    ///
    /// As [`Handle::broadcast`].
    ///
    /// ```no_run
    /// # async fn example(handle: fanfare::server::Handle)
    /// # -> Result<(), fanfare::server::CallError> {
    /// let (id, reached) = handle.send_event("orders", "order.paid", serde_json::json!({"order": 7})).await?;
    /// println!("{id} went to {reached} connections");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn send_event(
        &self,
        channel_name: &str,
        event: &str,
        payload: impl Serialize,
    ) -> Result<(MessageId, usize), CallError> {
        let published = self.publish(channel_name, Message::event(event, payload)).await?;
        Ok((published.message_id, published.delivered_to))
    }

    /// Publishes a message with its type, metadata, author and receivers, whatever the channel's
    /// rules say.
    ///
    /// # Errors
    ///
    /// As [`Handle::broadcast`]; `too_large` over `http-body-bytes-max` bytes, and `forbidden` for
    /// `user.joined` and `user.left` where the server announces arrivals and departures.
    ///
    /// ```no_run
    /// # async fn example(handle: fanfare::server::Handle) -> Result<(), fanfare::server::CallError> {
    /// use fanfare::server::Message;
    /// use serde_json::json;
    ///
    /// let notice = Message::system("maintenance at noon").with_metadata(json!({"by": "cron"}));
    /// let published = handle.publish("news", notice).await?;
    /// println!("message {:?} has the offset {:?}", published.message_id, published.offset);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn publish(
        &self,
        channel_name: &str,
        message: Message,
    ) -> Result<PublishedMessage, CallError> {
        let channel = self.channel(channel_name)?;
        let (publication, from, aim) = message.checked(&self.limits)?;
        self.publish_checked(channel, publication, from, aim).await
    }

    async fn publish_checked(
        &self,
        channel: ChannelName,
        publication: Publication,
        from: Option<UserId>,
        aim: Aimed,
    ) -> Result<PublishedMessage, CallError> {
        let by = Publisher::Program;
        let publish = Publish { channel, publication, from, aim, without: None, by };
        Ok(PublishedMessage::of(self.ask(publish).await?))
    }

    /// Sends a text to a room in the name of a user, who need not be in it nor online. The user is
    /// known from then on.
    ///
    /// # Errors
    ///
    /// `invalid_argument` for an invalid name, or if `content` is empty or longer than a client's
    /// message may be; `unavailable` if the server is too busy or stops.
    ///
    /// ```no_run
    /// # async fn example(handle: fanfare::server::Handle) -> Result<(), fanfare::server::CallError> {
    /// handle.chat("general", "bot-1", "Deploy bot", "version 2 is out").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn chat(
        &self,
        room: &str,
        user_id: &str,
        username: &str,
        content: &str,
    ) -> Result<PublishedMessage, CallError> {
        let channel = talk::room(Some(room), self.limits.topic_bytes_max)?;
        let user_id = talk::user("user_id", Some(user_id.to_owned()))?;
        check_name("username", username).map_err(Refusal::invalid)?;
        let bytes_max = self.limits.client_message_bytes_max;
        let content = talk::content(Some(content.to_owned()), bytes_max)?;
        let person = Person { user_id, username: username.into() };
        Ok(PublishedMessage::of(self.ask(ChatAs { person, channel, content }).await?))
    }

    /// Tells the subscribers of `live:{entity}` that an entity was `created`, `updated` or
    /// `deleted`, as `POST /api/v1/live/{entity}/{id}` does.
    ///
    /// # Errors
    ///
    /// `invalid_argument` for another action, and as [`Handle::publish`].
    ///
    /// ```no_run
    /// # async fn example(handle: fanfare::server::Handle) -> Result<(), fanfare::server::CallError> {
    /// handle.live_update("order", "7", "updated", serde_json::json!({"state": "paid"})).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn live_update(
        &self,
        entity: &str,
        id: &str,
        action: &str,
        data: impl Serialize,
    ) -> Result<PublishedMessage, CallError> {
        let data = json(data)?;
        check_bytes(data.get().len(), &self.limits)?;
        let bytes_max = self.limits.topic_bytes_max;
        let (channel, publication) =
            talk::live_update(entity, id, action, Some(&*data), bytes_max)?;
        self.publish_checked(channel, publication, None, Aimed::default()).await
    }

    /// Sends metrics to the subscribers of `dashboard:{name}`, as `POST
    /// /api/v1/dashboards/{name}/metrics` does.
    ///
    /// # Errors
    ///
    /// As [`Handle::publish`].
    ///
    /// ```no_run
    /// # async fn example(handle: fanfare::server::Handle) -> Result<(), fanfare::server::CallError> {
    /// handle.dashboard("sales", serde_json::json!({"today": 17})).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn dashboard(
        &self,
        name: &str,
        metrics: impl Serialize,
    ) -> Result<PublishedMessage, CallError> {
        let metrics = json(metrics)?;
        check_bytes(metrics.get().len(), &self.limits)?;
        let (channel, publication) = talk::dashboard(name, &metrics, self.limits.topic_bytes_max)?;
        self.publish_checked(channel, publication, None, Aimed::default()).await
    }

    /// Sends an envelope to one connection.
    ///
    /// # Errors
    ///
    /// `not_found` if it has ended, and as [`Handle::broadcast`].
    ///
    /// ```no_run
    /// # async fn example(handle: fanfare::server::Handle, connection: fanfare::server::ConnName)
    /// # -> Result<(), fanfare::server::CallError> {
    /// handle.send_to_connection(connection, "text", serde_json::json!({"content": "hello"})).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn send_to_connection(
        &self,
        connection: impl Into<ConnName>,
        message_type: &str,
        data: impl Serialize,
    ) -> Result<(), CallError> {
        let to = To::Connection(connection.into());
        self.send(message_type, data, to, Aimed::default()).await.map(|_| ())
    }

    /// Sends an envelope to each connection of a user. Returns their number; 0 if the user is
    /// offline.
    ///
    /// # Errors
    ///
    /// `not_found` for an unknown user, and as [`Handle::broadcast`].
    ///
    /// ```no_run
    /// # async fn example(handle: fanfare::server::Handle)
    /// # -> Result<(), fanfare::server::CallError> {
    /// let reached = handle.send_to_user("ann", "text", serde_json::json!({"content": "hello"})).await?;
    /// println!("{reached} connections of ann are open");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn send_to_user(
        &self,
        user_id: &str,
        message_type: &str,
        data: impl Serialize,
    ) -> Result<usize, CallError> {
        let to = To::User(talk::user("user_id", Some(user_id.to_owned()))?);
        self.send(message_type, data, to, Aimed::default()).await
    }

    /// The number of open WebSocket connections, as of a moment ago.
    ///
    /// ```no_run
    /// # async fn example(handle: fanfare::server::Handle)
    /// # -> Result<(), fanfare::server::CallError> {
    /// println!("{} sockets are open", handle.connection_count());
    /// # Ok(())
    /// # }
    /// ```
    pub fn connection_count(&self) -> usize {
        usize::try_from(self.stats.sum(|shard| &shard.connections)).unwrap_or(usize::MAX)
    }

    /// The connections after an id, at most `limit`, and at most 10,000. Without their
    /// metadata.
    ///
    /// # Errors
    ///
    /// `unavailable` if the server is too busy or stops.
    ///
    /// ```no_run
    /// # async fn example(handle: fanfare::server::Handle)
    /// # -> Result<(), fanfare::server::CallError> {
    /// let mut after = None;
    /// loop {
    ///     let page = handle.connections(after, 100).await?;
    ///     let Some(last) = page.last() else { break };
    ///     after = Some(last.id.clone());
    ///     println!("{} connections", page.len());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn connections(
        &self,
        after: Option<ConnName>,
        limit: usize,
    ) -> Result<Vec<ConnectionView>, CallError> {
        let limit = limit.min(limits::LISTED_MAX);
        Ok(self.ask(ListConnections { after, limit }).await?.connections)
    }

    /// One connection, with its channels, rooms and metadata; none if it has ended.
    ///
    /// # Errors
    ///
    /// `unavailable` if the server is too busy or stops.
    ///
    /// ```no_run
    /// # async fn example(handle: fanfare::server::Handle, connection: fanfare::server::ConnName)
    /// # -> Result<(), fanfare::server::CallError> {
    /// if let Some(view) = handle.connection(connection).await? {
    ///     println!("{} follows {} channels", view.id, view.channels.len());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn connection(
        &self,
        connection: impl Into<ConnName>,
    ) -> Result<Option<ConnectionView>, CallError> {
        Ok(self.ask(DescribeConnection(connection.into())).await?.map(|view| *view))
    }

    /// The users online on any node: their number, and the first 10,000 of them.
    ///
    /// # Errors
    ///
    /// `unavailable` if the server is too busy or stops.
    ///
    /// ```no_run
    /// # async fn example(handle: fanfare::server::Handle)
    /// # -> Result<(), fanfare::server::CallError> {
    /// let (count, users) = handle.online().await?;
    /// println!("{count} users are online, {} are listed", users.len());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn online(&self) -> Result<(usize, Vec<OnlineUser>), CallError> {
        let Online { count, users } = self.ask(ListOnline).await?;
        Ok((count, users))
    }

    /// The metadata of a connection: a JSON object; none if there is none, or the connection has
    /// ended.
    ///
    /// # Errors
    ///
    /// `unavailable` if the server is too busy or stops.
    ///
    /// ```no_run
    /// # async fn example(handle: fanfare::server::Handle, connection: fanfare::server::ConnName)
    /// # -> Result<(), fanfare::server::CallError> {
    /// if let Some(metadata) = handle.metadata(connection).await? {
    ///     println!("{}", metadata["tenant"]);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn metadata(
        &self,
        connection: impl Into<ConnName>,
    ) -> Result<Option<Value>, CallError> {
        let view = self.connection(connection).await?;
        let metadata = view.and_then(|view| view.metadata);
        Ok(metadata.and_then(|raw| serde_json::from_str(raw.get()).ok()))
    }

    /// Sets the metadata of a connection, until its end: a JSON object of at most 4,096 bytes,
    /// which replaces the previous one. An empty object, and null, remove it. Clients do not see
    /// it.
    ///
    /// # Errors
    ///
    /// `not_found` if it has ended, `invalid_argument` if it is not an object, `too_large` beyond
    /// the bound.
    ///
    /// ```no_run
    /// # async fn example(handle: fanfare::server::Handle, connection: fanfare::server::ConnName)
    /// # -> Result<(), fanfare::server::CallError> {
    /// handle.set_metadata(connection.clone(), serde_json::json!({"tenant": "acme"})).await?;
    /// assert_eq!(handle.metadata(connection).await?, Some(serde_json::json!({"tenant": "acme"})));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn set_metadata(
        &self,
        connection: impl Into<ConnName>,
        metadata: impl Serialize,
    ) -> Result<(), CallError> {
        let metadata = talk::connection_metadata(&json(metadata)?)?;
        let connection = connection.into();
        self.ask(SetMetadata { connection, metadata }).await
    }

    /// Subscribes a connection to a channel, whatever the channel's rules say. The client gets
    /// `subscribed` without an `id`; a subscribed one gets nothing. If tokens are required, the
    /// next `refresh` of the client is judged by the rules again.
    ///
    /// # Errors
    ///
    /// `not_found` if it has ended, `too_many_subscriptions` beyond the bound of a connection,
    /// `rate_limited` if there are too many channels.
    ///
    /// ```no_run
    /// # async fn example(handle: fanfare::server::Handle, connection: fanfare::server::ConnName)
    /// # -> Result<(), fanfare::server::CallError> {
    /// handle.subscribe(connection.clone(), "tenant:acme").await?;
    /// handle.unsubscribe(connection, "tenant:acme").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn subscribe(
        &self,
        connection: impl Into<ConnName>,
        channel: &str,
    ) -> Result<(), CallError> {
        self.set_subscription(connection.into(), channel, true).await
    }

    /// Ends a connection's subscription to a channel. The client gets `unsubscribed` with the reason
    /// `operator`. A room stays joined.
    ///
    /// # Errors
    ///
    /// `not_found` if the connection has ended.
    ///
    /// ```no_run
    /// # async fn example(handle: fanfare::server::Handle, connection: fanfare::server::ConnName)
    /// # -> Result<(), fanfare::server::CallError> {
    /// handle.unsubscribe(connection, "tenant:acme").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn unsubscribe(
        &self,
        connection: impl Into<ConnName>,
        channel: &str,
    ) -> Result<(), CallError> {
        self.set_subscription(connection.into(), channel, false).await
    }

    async fn set_subscription(
        &self,
        connection: ConnName,
        channel: &str,
        is_subscribed: bool,
    ) -> Result<(), CallError> {
        let channel = self.channel(channel)?;
        self.ask(SetSubscription { connection, channel, is_subscribed }).await
    }

    /// Ends a connection for good, with 4403.
    ///
    /// # Errors
    ///
    /// `not_found` if it has ended already.
    ///
    /// ```no_run
    /// # async fn example(handle: fanfare::server::Handle, connection: fanfare::server::ConnName)
    /// # -> Result<(), fanfare::server::CallError> {
    /// handle.disconnect(connection).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn disconnect(&self, connection: impl Into<ConnName>) -> Result<(), CallError> {
        let name = connection.into();
        let on = name.to_string();
        self.ask(Disconnect(name)).await?;
        note_action("disconnect", &on);
        Ok(())
    }

    /// Defines a channel, which then outlives its followers and the server.
    ///
    /// # Errors
    ///
    /// `conflict` if it is defined already, `invalid_argument` if the description is over 1,024
    /// bytes or holds a NUL character.
    ///
    /// ```no_run
    /// # async fn example(handle: fanfare::server::Handle)
    /// # -> Result<(), fanfare::server::CallError> {
    /// handle.create_channel("news", "What is new").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn create_channel(&self, name: &str, description: &str) -> Result<(), CallError> {
        let description = talk::description(description.to_owned())?;
        self.ask(DefineChannel { channel: self.channel(name)?, description }).await?;
        note_action("create channel", name);
        Ok(())
    }

    /// Deletes a channel; its subscribers get `unsubscribed`.
    ///
    /// # Errors
    ///
    /// `not_found` for an unknown channel.
    ///
    /// ```no_run
    /// # async fn example(handle: fanfare::server::Handle)
    /// # -> Result<(), fanfare::server::CallError> {
    /// handle.delete_channel("news").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn delete_channel(&self, name: &str) -> Result<(), CallError> {
        self.ask(DeleteChannel(self.channel(name)?)).await?;
        note_action("delete channel", name);
        Ok(())
    }

    /// The channels, defined and live ones.
    ///
    /// # Errors
    ///
    /// `unavailable` if the server is too busy or stops.
    ///
    /// ```no_run
    /// # async fn example(handle: fanfare::server::Handle)
    /// # -> Result<(), fanfare::server::CallError> {
    /// for channel in handle.channels().await? {
    ///     println!("{}: {} subscribers", channel.name, channel.subscribers);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn channels(&self) -> Result<Vec<ChannelView>, CallError> {
        self.ask(ListChannels).await
    }

    /// The number of subscribers of a channel; none for an unknown channel.
    ///
    /// # Errors
    ///
    /// `unavailable` if the server is too busy or stops.
    ///
    /// ```no_run
    /// # async fn example(handle: fanfare::server::Handle)
    /// # -> Result<(), fanfare::server::CallError> {
    /// if let Some(count) = handle.channel_count("news").await? {
    ///     println!("{count} connections follow the news");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn channel_count(&self, name: &str) -> Result<Option<usize>, CallError> {
        let view = self.ask(DescribeChannel(self.channel(name)?)).await?;
        Ok(view.map(|view| view.subscribers))
    }

    /// Listens to a channel from here on.
    ///
    /// # Errors
    ///
    /// `invalid_argument` for an invalid name.
    ///
    /// ```no_run
    /// # async fn example(handle: fanfare::server::Handle) -> Result<(), fanfare::server::CallError> {
    /// let mut news = handle.subscribe_channel("news")?;
    /// while let Some(Ok(message)) = news.next().await {
    ///     println!("{}", message["payload"]);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn subscribe_channel(&self, name: &str) -> Result<ChannelMessages, CallError> {
        Ok(ChannelMessages { events: self.events(), channel: self.channel(name)? })
    }

    /// Listens to all events from here on.
    ///
    /// ```no_run
    /// # async fn example(handle: fanfare::server::Handle)
    /// # -> Result<(), fanfare::server::CallError> {
    /// let mut events = handle.events();
    /// while let Some(event) = events.next().await {
    ///     match event {
    ///         Ok(event) => println!("{event:?}"),
    ///         Err(missed) => println!("too slow: {missed} events are lost"),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn events(&self) -> Events {
        let receiver = match self.events.upgrade() {
            Some(events) => events.subscribe(),
            // The server has stopped: there are no more events.
            None => broadcast::channel(1).1,
        };
        Events(BroadcastStream::new(receiver))
    }

    /// Sends a protocol ping to every connection. A connection that does not answer in time is closed.
    ///
    /// # Errors
    ///
    /// `unavailable` if the server is too busy or stops.
    ///
    /// ```no_run
    /// # async fn example(handle: fanfare::server::Handle)
    /// # -> Result<(), fanfare::server::CallError> {
    /// handle.ping_all().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn ping_all(&self) -> Result<(), CallError> {
        self.ask(PingAll).await
    }

    /// Registers instances, or renews their leases, with the checks and bounds of HTTP. They are
    /// applied in pieces of 1,000.
    ///
    /// # Errors
    ///
    /// `invalid_argument` naming the first invalid one, `too_large` if one has more bytes than
    /// `instance-bytes-max` or there are more than 100,000: then none is registered. `rate_limited`
    /// if the registry is full, `unavailable` if the server is too busy or stops: then some may be
    /// registered.
    ///
    /// ```no_run
    /// # async fn example(handle: fanfare::server::Handle) -> Result<(), Box<dyn std::error::Error>> {
    /// let instance = serde_json::from_str(r#"{"serviceId":"orders","instanceId":"a"}"#)?;
    /// handle.register(&[instance]).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn register(&self, instances: &[Instance]) -> Result<(), CallError> {
        check_count(instances.len())?;
        let bytes_max = self.limits.instance_bytes_max;
        let mut accepted = Vec::with_capacity(instances.len());
        for instance in instances {
            let registration = instance.register().map_err(Refusal::invalid)?;
            let registration = registration
                .within(bytes_max)
                .map_err(|message| Refusal::new(Code::TooLarge, message))?;
            accepted.push((instance, registration));
        }
        let entries = Entries { accepted, rejected: Vec::new() }.without_repeats();
        let registrations = entries.accepted.into_iter().map(|(_, registration)| registration);
        let refused = self.in_pieces(registrations.collect(), Register).await?;
        match refused.first() {
            None => Ok(()),
            Some(first) => Err(Refusal::new(first.code, "the registry is full")),
        }
    }

    /// Renews leases. Returns the instances that are not registered.
    ///
    /// # Errors
    ///
    /// `too_large` for more than 100,000, `unavailable` if the server is too busy or stops.
    ///
    /// ```no_run
    /// # async fn example(handle: fanfare::server::Handle)
    /// # -> Result<(), fanfare::server::CallError> {
    /// use fanfare::server::InstanceIdentity;
    ///
    /// let ours = InstanceIdentity::of("r1", "orders", "a");
    /// let forgotten = handle.heartbeat(vec![ours]).await?;
    /// println!("{} have to register again", forgotten.len());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn heartbeat(
        &self,
        instances: Vec<InstanceIdentity>,
    ) -> Result<Vec<InstanceIdentity>, CallError> {
        check_count(instances.len())?;
        let instances = identities_once(instances);
        let refused = self.in_pieces(instances.clone(), Heartbeat).await?;
        Ok(refused.iter().filter_map(|entry| instances.get(entry.index).cloned()).collect())
    }

    /// Removes instances.
    ///
    /// # Errors
    ///
    /// As [`Handle::heartbeat`].
    ///
    /// ```no_run
    /// # async fn example(handle: fanfare::server::Handle)
    /// # -> Result<(), fanfare::server::CallError> {
    /// use fanfare::server::InstanceIdentity;
    ///
    /// handle.unregister(vec![InstanceIdentity::of("r1", "orders", "a")]).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn unregister(&self, instances: Vec<InstanceIdentity>) -> Result<(), CallError> {
        check_count(instances.len())?;
        self.in_pieces(identities_once(instances), Unregister).await.map(|_| ())
    }

    /// Hands a batch to control in pieces, each after the answer to the one before. Returns the
    /// refused entries, by their position in the whole batch.
    async fn in_pieces<T, Batch: Ask<Reply = Vec<RefusedEntry>>>(
        &self,
        entries: Vec<T>,
        batch: fn(Vec<T>) -> Batch,
    ) -> Result<Vec<RefusedEntry>, CallError> {
        let mut refused = Vec::new();
        let mut entries = entries.into_iter();
        let mut done = 0;
        loop {
            let piece: Vec<T> = entries.by_ref().take(limits::COMMAND_ENTRIES_MAX).collect();
            let count = piece.len();
            if count == 0 {
                return Ok(refused);
            }
            let part = self.ask(batch(piece)).await?;
            let placed = |entry: RefusedEntry| RefusedEntry { index: done + entry.index, ..entry };
            refused.extend(part.into_iter().map(placed));
            done += count;
        }
    }

    /// A service in its present state; none if it is unknown.
    /// [`InstanceList::decode`](super::InstanceList::decode) gives its instances.
    ///
    /// # Errors
    ///
    /// `invalid_argument` for an invalid id, `unavailable` if the server is too busy or stops.
    ///
    /// ```no_run
    /// # async fn example(handle: fanfare::server::Handle)
    /// # -> Result<(), fanfare::server::CallError> {
    /// if let Some(view) = handle.service("orders").await? {
    ///     println!("revision {}: {:?}", view.revision, view.instances.decode());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn service(&self, service_id: &str) -> Result<Option<Arc<View>>, CallError> {
        let views = self.lookup(&[service_id]).await?;
        Ok(views.into_iter().find(|view| view.revision > 0))
    }

    /// The services of these ids, in their order; an unknown one has the revision 0.
    ///
    /// # Errors
    ///
    /// As [`Handle::service`]; `too_large` for more than 100,000.
    ///
    /// ```no_run
    /// # async fn example(handle: fanfare::server::Handle)
    /// # -> Result<(), fanfare::server::CallError> {
    /// for view in handle.lookup(&["orders", "payments"]).await? {
    ///     println!("{} is at revision {}", view.service, view.revision);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn lookup(&self, service_ids: &[&str]) -> Result<Vec<Arc<View>>, CallError> {
        check_count(service_ids.len())?;
        let mut services = Vec::with_capacity(service_ids.len());
        for id in service_ids {
            check_service_id(id).map_err(Refusal::invalid)?;
            services.push(ServiceName::of(id));
        }
        self.ask(ReadViews(services)).await
    }

    /// Every service.
    ///
    /// # Errors
    ///
    /// `unavailable` if the server is too busy or stops.
    ///
    /// ```no_run
    /// # async fn example(handle: fanfare::server::Handle)
    /// # -> Result<(), fanfare::server::CallError> {
    /// println!("{} services", handle.services().await?.len());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn services(&self) -> Result<Vec<Arc<View>>, CallError> {
        Ok(self.ask(ReadAllViews).await?.views)
    }

    /// Follows a service: its instances first, then every change with the instances after it, in
    /// order and without a gap. A program that is too slow gets several changes in one update, or
    /// the instances again if changes are not kept any more; see [`ServiceUpdate::is_snapshot`].
    ///
    /// # Errors
    ///
    /// `invalid_argument` for an invalid id.
    ///
    /// ```no_run
    /// # async fn example(handle: fanfare::server::Handle) -> Result<(), fanfare::server::CallError> {
    /// let mut orders = handle.watch_service("orders")?;
    /// while let Some(update) = orders.next().await {
    ///     for change in &update.changes {
    ///         println!("{:?}: {:?}", change.reason, change.instance.instance_id);
    ///     }
    ///     println!("{} instances at revision {}", update.instances.len(), update.revision);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn watch_service(&self, service_id: &str) -> Result<ServiceWatch, CallError> {
        check_service_id(service_id).map_err(Refusal::invalid)?;
        Ok(ServiceWatch::new(self, ServiceName::of(service_id)))
    }
}

fn check_count(count: usize) -> Result<(), CallError> {
    if count > limits::BATCH_ENTRIES_MAX {
        let message = format!("the batch has more than {} entries", limits::BATCH_ENTRIES_MAX);
        return Err(Refusal::new(Code::TooLarge, message));
    }
    Ok(())
}

/// Each instance once, at its first place.
fn identities_once(instances: Vec<InstanceIdentity>) -> Vec<InstanceIdentity> {
    let accepted = instances.into_iter().map(|identity| ((), identity)).collect();
    let entries = Entries { accepted, rejected: Vec::new() }.deduplicated();
    entries.accepted.into_iter().map(|((), identity)| identity).collect()
}
