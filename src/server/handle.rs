//! What a program that embeds the server can do with it.
//!
//! A handle is a few pointers: clone it into every task. Its calls are the orders that clients send,
//! and come back when they are done.
//!
//! Imports `mailbox`, `state` and `wire`. Part of `server`.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, oneshot};

use crate::clock::Clock;
use crate::id::{ChannelName, ConnName, InstanceIdentity, MessageId, ServiceName};
use crate::mailbox::Outlet;
use crate::mailbox::to_control::{Command, Origin, Task};
use crate::state::channels::ChannelView;
use crate::state::event::DomainEvent;
use crate::state::order::{Answer, Order, View};
use crate::state::people::ConnectionView;
use crate::state::talk::{Aimed, Talk, To, Told};
use crate::stats::Stats;
use crate::wire::frame;
use crate::wire::instance::Instance;
use crate::wire::refusal::Refusal;
use crate::wire::talk::{self, Envelope, Publication};

/// Why a call came to nothing. Its code says whether to try again.
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
    control: Outlet<Command>,
    clock: Clock,
    /// Weak, so that listeners hear the server's end though handles live on.
    events: broadcast::WeakSender<DomainEvent>,
    stats: Arc<Stats>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

/// How a broadcast is aimed.
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

/// A stream of what happens.
///
/// ```no_run
/// # async fn example(handle: fanfare::server::Handle) {
/// use fanfare::state::event::DomainEvent;
///
/// let mut events = handle.events();
/// while let Some(event) = events.next().await {
///     if let Ok(DomainEvent::UserOnline(person)) = event {
///         println!("{} is here", person.username);
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Events(broadcast::Receiver<DomainEvent>);

impl Events {
    /// The next event; none once the server has stopped. Whoever is too slow is told how many were
    /// missed: at most [`crate::limits::LISTENER_MESSAGES_MAX`] are kept.
    pub async fn next(&mut self) -> Option<Result<DomainEvent, u64>> {
        match self.0.recv().await {
            Ok(event) => Some(Ok(event)),
            Err(RecvError::Lagged(missed)) => Some(Err(missed)),
            Err(RecvError::Closed) => None,
        }
    }
}

/// The messages of one channel.
#[derive(Debug)]
pub struct ChannelMessages {
    events: Events,
    channel: ChannelName,
}

impl ChannelMessages {
    /// The next message, as its followers get it; none once the server has stopped. Whoever is too
    /// slow is told how many events were missed, this channel's among them.
    pub async fn next(&mut self) -> Option<Result<Value, u64>> {
        loop {
            match self.events.next().await? {
                Ok(DomainEvent::ChannelMessage { channel, frame }) if channel == self.channel => {
                    let message = serde_json::from_slice(&frame::payload(&frame));
                    return Some(Ok(message.unwrap_or_default()));
                }
                Ok(_) => {}
                Err(missed) => return Some(Err(missed)),
            }
        }
    }
}

/// The program that embeds the server did what operators do.
fn note_action(action: &'static str, on: &str) {
    tracing::info!(target: "fanfare::operator", action, on, door = "program", "operator action");
}

fn json(value: impl Serialize) -> Result<Box<RawValue>, CallError> {
    serde_json::value::to_raw_value(&value)
        .map_err(|fault| Refusal::invalid(format!("the value is not JSON: {fault}")))
}

fn channel(name: &str) -> Result<ChannelName, CallError> {
    talk::channel(Some(name.to_owned()), crate::limits::NAME_BYTES_MAX)
}

impl Handle {
    pub(super) fn new(
        control: Outlet<Command>,
        clock: Clock,
        events: &broadcast::Sender<DomainEvent>,
        stats: Arc<Stats>,
    ) -> Handle {
        Handle { control, clock, events: events.downgrade(), stats }
    }

    async fn ask(&self, order: Order) -> Result<Answer, CallError> {
        let (reply, answer) = oneshot::channel();
        let accepted_ns = self.clock.now().ns;
        let origin = Origin::Program(reply);
        let command = Command { origin, accepted_ns, task: Task::Order(order) };
        self.control.send(command).map_err(|_| Refusal::unavailable())?;
        answer.await.map_err(|_| Refusal::unavailable())?.given()
    }

    async fn tell(&self, talk: Talk) -> Result<Told, CallError> {
        self.ask(talk.into()).await?.told()
    }

    async fn send(
        &self,
        message_type: &str,
        data: impl Serialize,
        to: To,
        aim: Aimed,
    ) -> Result<usize, CallError> {
        let envelope = Envelope::new(Some(message_type.to_owned()), Some(&*json(data)?))?;
        match self.tell(Talk::Broadcast { envelope, from: None, to, aim }).await? {
            Told::Delivered { count, .. } => Ok(count),
            _ => Err(Refusal::internal()),
        }
    }

    /// Sends an envelope to every JSON socket, or to those that `delivery` names. Returns how many
    /// connections it goes to.
    ///
    /// # Errors
    ///
    /// `invalid_argument` for a reserved type, `unavailable` where the server is too busy or stops.
    ///
    /// ```no_run
    /// # async fn example(handle: fanfare::server::Handle) -> Result<(), fanfare::server::CallError> {
    /// use fanfare::server::Delivery;
    /// let reached = handle.broadcast("notice", "maintenance at noon", Delivery::default()).await?;
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
            Some(name) => To::Channel(channel(name)?),
            None => To::Everyone,
        };
        let aim = Aimed { only: delivery.only_to, except: delivery.exclude };
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
        self.publish(channel_name, None, payload).await
    }

    /// The same for an event with a name.
    ///
    /// # Errors
    ///
    /// As [`Handle::broadcast`].
    pub async fn send_event(
        &self,
        channel_name: &str,
        event: &str,
        payload: impl Serialize,
    ) -> Result<(MessageId, usize), CallError> {
        self.publish(channel_name, Some(event.to_owned()), payload).await
    }

    async fn publish(
        &self,
        channel_name: &str,
        event: Option<String>,
        payload: impl Serialize,
    ) -> Result<(MessageId, usize), CallError> {
        let channel = channel(channel_name)?;
        let publication = Publication::new(None, Some(&*json(payload)?), event, None)?;
        let aim = Aimed::default();
        let talk = Talk::Publish { channel, publication, from: None, aim, without: None, by: None };
        match self.tell(talk).await? {
            Told::Published { message_id, delivered_to, .. } => Ok((message_id, delivered_to)),
            _ => Err(Refusal::internal()),
        }
    }

    /// Sends an envelope to one connection.
    ///
    /// # Errors
    ///
    /// `not_found` where it has ended, and as [`Handle::broadcast`].
    pub async fn send_to_connection(
        &self,
        connection: impl Into<ConnName>,
        message_type: &str,
        data: impl Serialize,
    ) -> Result<(), CallError> {
        let to = To::Connection(connection.into());
        self.send(message_type, data, to, Aimed::default()).await.map(|_| ())
    }

    /// Sends an envelope to each connection of a user. Returns how many there are; 0 where the user
    /// is offline.
    ///
    /// # Errors
    ///
    /// `not_found` where there never was such a user, and as [`Handle::broadcast`].
    pub async fn send_to_user(
        &self,
        user_id: &str,
        message_type: &str,
        data: impl Serialize,
    ) -> Result<usize, CallError> {
        let to = To::User(talk::user("user_id", Some(user_id.to_owned()))?);
        self.send(message_type, data, to, Aimed::default()).await
    }

    /// How many WebSocket connections are open, as of a moment ago.
    pub fn connection_count(&self) -> usize {
        usize::try_from(self.stats.sum(|shard| &shard.connections)).unwrap_or(usize::MAX)
    }

    /// The connections after an id, at most `limit`.
    ///
    /// # Errors
    ///
    /// `unavailable` where the server is too busy or stops.
    pub async fn connections(
        &self,
        after: Option<ConnName>,
        limit: usize,
    ) -> Result<Vec<ConnectionView>, CallError> {
        match self.tell(Talk::Connections { after, limit }).await? {
            Told::Connections { connections, .. } => Ok(connections),
            _ => Err(Refusal::internal()),
        }
    }

    /// Ends a connection for good, with 4403.
    ///
    /// # Errors
    ///
    /// `not_found` where it has ended already.
    pub async fn disconnect(&self, connection: impl Into<ConnName>) -> Result<(), CallError> {
        let name = connection.into();
        let on = name.to_string();
        self.tell(Talk::Disconnect(name)).await?;
        note_action("disconnect", &on);
        Ok(())
    }

    /// Defines a channel, which then outlives its followers and the server.
    ///
    /// # Errors
    ///
    /// `conflict` where it is defined, `invalid_argument` where the description is over 1,024 bytes
    /// or holds a NUL character.
    pub async fn create_channel(&self, name: &str, description: &str) -> Result<(), CallError> {
        let description = talk::description(description.to_owned())?;
        let talk = Talk::Define { channel: channel(name)?, description };
        self.tell(talk).await?;
        note_action("create channel", name);
        Ok(())
    }

    /// Deletes a channel; its followers are told.
    ///
    /// # Errors
    ///
    /// `not_found` where there is none.
    pub async fn delete_channel(&self, name: &str) -> Result<(), CallError> {
        self.tell(Talk::Delete(channel(name)?)).await?;
        note_action("delete channel", name);
        Ok(())
    }

    /// The channels, defined and live ones.
    ///
    /// # Errors
    ///
    /// `unavailable` where the server is too busy or stops.
    pub async fn channels(&self) -> Result<Vec<ChannelView>, CallError> {
        match self.tell(Talk::Channels).await? {
            Told::Channels(channels) => Ok(channels),
            _ => Err(Refusal::internal()),
        }
    }

    /// How many connections follow a channel; none where there is no such channel.
    ///
    /// # Errors
    ///
    /// `unavailable` where the server is too busy or stops.
    pub async fn channel_count(&self, name: &str) -> Result<Option<usize>, CallError> {
        match self.tell(Talk::Channel(channel(name)?)).await? {
            Told::Channel(view) => Ok(view.map(|view| view.subscribers)),
            _ => Err(Refusal::internal()),
        }
    }

    /// Listens to a channel from here on.
    ///
    /// # Errors
    ///
    /// `invalid_argument` where the name is none.
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
        Ok(ChannelMessages { events: self.events(), channel: channel(name)? })
    }

    /// Listens to everything that happens from here on.
    pub fn events(&self) -> Events {
        Events(match self.events.upgrade() {
            Some(events) => events.subscribe(),
            // The server has stopped: nothing happens any more.
            None => broadcast::channel(1).1,
        })
    }

    /// Sends a protocol ping to every connection; whoever does not answer in time is closed.
    ///
    /// # Errors
    ///
    /// `unavailable` where the server is too busy or stops.
    pub async fn ping_all(&self) -> Result<(), CallError> {
        self.tell(Talk::PingAll).await.map(|_| ())
    }

    /// Registers instances, or renews their leases.
    ///
    /// # Errors
    ///
    /// `invalid_argument` naming the first that is wrong; then none is registered.
    ///
    /// ```no_run
    /// # async fn example(handle: fanfare::server::Handle) -> Result<(), Box<dyn std::error::Error>> {
    /// let instance = serde_json::from_str(r#"{"serviceId":"orders","instanceId":"a"}"#)?;
    /// handle.register(&[instance]).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn register(&self, instances: &[Instance]) -> Result<(), CallError> {
        let checked: Result<Vec<_>, String> = instances.iter().map(Instance::register).collect();
        let order = Order::Register(checked.map_err(Refusal::invalid)?);
        match self.ask(order).await? {
            Answer::Batch(refused) => match refused.first() {
                None => Ok(()),
                Some(first) => Err(Refusal::new(first.code, "the registry is full")),
            },
            _ => Err(Refusal::internal()),
        }
    }

    /// Renews leases. Returns the instances that are not registered.
    ///
    /// # Errors
    ///
    /// `unavailable` where the server is too busy or stops.
    pub async fn heartbeat(
        &self,
        instances: Vec<InstanceIdentity>,
    ) -> Result<Vec<InstanceIdentity>, CallError> {
        match self.ask(Order::Heartbeat(instances.clone())).await? {
            Answer::Batch(refused) => {
                Ok(refused.iter().map(|entry| instances[entry.index].clone()).collect())
            }
            _ => Err(Refusal::internal()),
        }
    }

    /// Removes instances.
    ///
    /// # Errors
    ///
    /// `unavailable` where the server is too busy or stops.
    pub async fn unregister(&self, instances: Vec<InstanceIdentity>) -> Result<(), CallError> {
        self.ask(Order::Unregister(instances)).await.map(|_| ())
    }

    /// A service as it is; none where it was never seen.
    ///
    /// # Errors
    ///
    /// `unavailable` where the server is too busy or stops.
    pub async fn service(&self, service_id: &str) -> Result<Option<Arc<View>>, CallError> {
        match self.ask(Order::Views(vec![ServiceName::of(service_id)])).await? {
            Answer::Views(views) => Ok(views.into_iter().find(|view| view.revision > 0)),
            _ => Err(Refusal::internal()),
        }
    }
}
