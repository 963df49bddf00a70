//! The subscribed connection: topics of channels, and the node's own topic.
//!
//! ```text
//! requests --commands--> the connection <-- Redis
//!                           |  a bounded queue
//!                           v
//!                        forward --> control
//! ```
//!
//! A topic keeps no message. Whenever one may have been missed, control is told and reads again.

use std::collections::HashSet;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{PushInfo, PushKind, RedisError, Value};
use tokio::sync::{Notify, mpsc, oneshot};

use super::connections::{self, PrimaryConnection};
use super::node_rpc::{self, NodeMessage, OpenRequests};
use super::{News, Shared, back_off, channel, fresh_rng};
use crate::id::ChannelName;
use crate::limits;
use crate::stats::RedisPath;

/// A command for the connection.
#[derive(Debug)]
pub(super) enum SubscriberCommand {
    /// Follow channels, and say when all are.
    Follow(Vec<ChannelName>, oneshot::Sender<()>),
    /// Follow channels no more.
    Unfollow(Vec<ChannelName>),
}

/// A message of a topic.
#[derive(Debug)]
pub(super) struct PubSubMessage {
    topic: Vec<u8>,
    payload: Vec<u8>,
}

impl PubSubMessage {
    fn len(&self) -> usize {
        self.topic.len() + self.payload.len()
    }
}

/// Takes the messages of the connection, as far as there is room.
#[derive(Debug)]
pub(super) struct SubscriberQueue {
    queue: mpsc::Sender<PubSubMessage>,
    /// Bytes in the queue.
    bytes: AtomicUsize,
    /// Messages ever heard.
    count: AtomicU64,
    /// Whether something was dropped that control does not know of.
    has_dropped: AtomicBool,
}

impl SubscriberQueue {
    /// The queue, and its end.
    pub(super) fn new() -> (SubscriberQueue, mpsc::Receiver<PubSubMessage>) {
        let (queue, heard) = mpsc::channel(limits::CLUSTER_TOPIC_QUEUE_MAX);
        let (bytes, count) = (AtomicUsize::new(0), AtomicU64::new(0));
        (SubscriberQueue { queue, bytes, count, has_dropped: AtomicBool::new(false) }, heard)
    }

    pub(super) fn take(&self, shared: &Shared, data: Vec<Value>) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut data = data.into_iter();
        let (Some(Value::BulkString(topic)), Some(Value::BulkString(payload))) =
            (data.next(), data.next())
        else {
            return;
        };
        let heard = PubSubMessage { topic, payload };
        let bytes = heard.len();
        // A message that is larger than all room is taken where there is no other.
        let held = self.bytes.load(Ordering::Relaxed);
        let has_room = held == 0 || held + bytes <= limits::CLUSTER_TOPIC_QUEUE_BYTES_MAX;
        if has_room && self.queue.try_send(heard).is_ok() {
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
        } else {
            self.has_dropped.store(true, Ordering::Relaxed);
            shared.stats.cluster.dropped.add(1);
        }
    }
}

/// Hands on the messages, in their order.
pub(super) async fn forward(
    shared: Shared,
    subscriber_queue: Arc<SubscriberQueue>,
    mut queue: mpsc::Receiver<PubSubMessage>,
    open_requests: OpenRequests,
) {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, limits::CLUSTER_TOPIC_MESSAGES).await > 0 {
        let mut placed = Vec::new();
        for heard in batch.drain(..) {
            subscriber_queue.bytes.fetch_sub(heard.len(), Ordering::Relaxed);
            if heard.topic == shared.topic.as_bytes() {
                // Behind the messages before it.
                tell_messages(&shared, &mut placed);
                on_node_message(&shared, &open_requests, &heard.payload);
            } else if let Some(message) = channel::decode(&heard.topic, heard.payload) {
                placed.push(message);
            }
        }
        tell_messages(&shared, &mut placed);
        // There are messages in the queue whenever one is dropped, so this is reached.
        if queue.is_empty() && subscriber_queue.has_dropped.swap(false, Ordering::Relaxed) {
            tracing::warn!("messages of channels were dropped: this node does not keep up");
            shared.tell(News::Relinked);
        }
    }
}

fn tell_messages(shared: &Shared, placed: &mut Vec<super::SequencedMessage>) {
    if !placed.is_empty() {
        shared.tell(News::ChannelMessages(std::mem::take(placed)));
    }
}

fn on_node_message(shared: &Shared, open_requests: &OpenRequests, payload: &[u8]) {
    match node_rpc::decode(payload) {
        Some(NodeMessage::Text { is_request: true, node, number, text }) => {
            shared.tell(News::Asked { node, number, question: text });
        }
        Some(NodeMessage::Text { is_request: false, node, number, text }) => {
            open_requests.take(shared, number, node, text);
        }
        Some(NodeMessage::Probe) => {}
        None => tracing::error!("a message of another node cannot be read"),
    }
}

/// Follows topics for ever.
pub(super) async fn follow(
    shared: Shared,
    subscriber_queue: Arc<SubscriberQueue>,
    orders: mpsc::UnboundedReceiver<SubscriberCommand>,
) {
    let mut rng = fresh_rng();
    let followed = HashSet::new();
    let mut topics =
        Topics { shared, subscriber_queue, orders, followed, late: None, links: 0, failures: 0 };
    loop {
        let Err(fault) = topics.link().await;
        topics.shared.trouble(&fault);
        topics.failures += 1;
        back_off(&mut rng, topics.failures).await;
    }
}

/// Whether topics say anything.
struct Silence {
    /// How many messages had been heard at the last look.
    count: u64,
    /// Probes sent since one was heard.
    probes: u32,
}

struct Topics {
    shared: Shared,
    subscriber_queue: Arc<SubscriberQueue>,
    orders: mpsc::UnboundedReceiver<SubscriberCommand>,
    /// The channels that are to be heard.
    followed: HashSet<ChannelName>,
    /// A command that the last connection failed to run.
    late: Option<SubscriberCommand>,
    /// How often all topics were subscribed to.
    links: u64,
    /// Tries since the last success.
    failures: u32,
}

impl Topics {
    /// Hears topics until that fails.
    async fn link(&mut self) -> Result<Infallible, RedisError> {
        let lost = Arc::new(Notify::new());
        let mut connection = self.connect(&lost).await?;
        let Err(fault) = self.hear(&mut connection, &lost).await;
        self.shared.fails(RedisPath::Topics, Some(&connection), &fault);
        Err(fault)
    }

    async fn hear(
        &mut self,
        connection: &mut PrimaryConnection,
        lost: &Notify,
    ) -> Result<Infallible, RedisError> {
        connection.subscribe(&*self.shared.topic).await?;
        let channels: Vec<_> = self.followed.iter().cloned().collect();
        subscribe(connection, &channels).await?;
        self.failures = 0;
        self.links += 1;
        if self.links > 1 {
            self.shared.stats.cluster.reconnects.add(1);
            self.shared.tell(News::Relinked);
        }
        if let Some(order) = self.late.take() {
            self.carry_out(connection, order).await?;
        }
        let shared = self.shared.clone();
        shared.works(RedisPath::Topics);
        let mut ended = pin!(shared.links.ended(connection.generation()));
        let count = self.subscriber_queue.count.load(Ordering::Relaxed);
        let mut silence = Silence { count, probes: 0 };
        let mut probes = connections::probe_ticks();
        loop {
            tokio::select! {
                () = lost.notified() => return Err(closed("the connection was lost")),
                () = &mut ended => return Err(closed("every connection is made again")),
                order = self.orders.recv() => match order {
                    Some(order) => self.carry_out(connection, order).await?,
                    // The runtime ends with this.
                    None => std::future::pending().await,
                },
                _ = probes.tick() => self.probe(connection, &mut silence).await.inspect_err(|_| {
                    shared.stats.cluster.probe_failures.add(1);
                })?,
            }
        }
    }

    async fn connect(&self, lost: &Arc<Notify>) -> Result<PrimaryConnection, RedisError> {
        let (shared, subscriber_queue, lost) =
            (self.shared.clone(), Arc::clone(&self.subscriber_queue), Arc::clone(lost));
        let patience = Duration::from_millis(limits::REDIS_RESPONSE_MS);
        let hear = move |info: PushInfo| -> Result<(), Infallible> {
            match info.kind {
                PushKind::Message => subscriber_queue.take(&shared, info.data),
                PushKind::Disconnection => lost.notify_one(),
                _ => {}
            }
            Ok(())
        };
        self.shared.connect_hearing(patience, hear).await
    }

    /// Sees whether the server is the right one, and whether anything was heard since the last time.
    /// Then sends this node a message, so that something will be.
    async fn probe(
        &self,
        connection: &mut PrimaryConnection,
        silence: &mut Silence,
    ) -> Result<(), RedisError> {
        self.shared.check(connection, None).await?;
        let count = self.subscriber_queue.count.load(Ordering::Relaxed);
        if std::mem::replace(&mut silence.count, count) != count {
            silence.probes = 0;
            self.shared.works(RedisPath::Topics);
        }
        if silence.probes >= limits::CLUSTER_SILENT_PROBES {
            return Err(closed("messages of this node to itself did not come"));
        }
        silence.probes += 1;
        node_rpc::probe(&self.shared.node).query_async(&mut **connection).await
    }

    async fn carry_out(
        &mut self,
        connection: &mut PrimaryConnection,
        order: SubscriberCommand,
    ) -> Result<(), RedisError> {
        let done = match order {
            SubscriberCommand::Follow(channels, done) => self.add(connection, channels, done).await,
            SubscriberCommand::Unfollow(channels) => {
                // Removed first: the next connection must not subscribe to them either.
                let gone: Vec<_> =
                    channels.into_iter().filter(|channel| self.followed.remove(channel)).collect();
                unsubscribe(connection, &gone).await
            }
        };
        self.shared.stats.cluster.topics.set(self.followed.len() as u64);
        done
    }

    async fn add(
        &mut self,
        connection: &mut PrimaryConnection,
        channels: Vec<ChannelName>,
        done: oneshot::Sender<()>,
    ) -> Result<(), RedisError> {
        if done.is_closed() {
            // The attach has timed out.
            return Ok(());
        }
        let new = |channel: &&ChannelName| !self.followed.contains(*channel);
        let new: Vec<_> = channels.iter().filter(new).cloned().collect();
        if let Err(fault) = subscribe(connection, &new).await {
            // The next connection may be in time.
            self.late = Some(SubscriberCommand::Follow(channels, done));
            return Err(fault);
        }
        if done.send(()).is_err() {
            return unsubscribe(connection, &new).await;
        }
        self.followed.extend(new);
        Ok(())
    }
}

fn closed(what: &'static str) -> RedisError {
    (redis::ErrorKind::Io, what).into()
}

async fn subscribe(
    connection: &mut MultiplexedConnection,
    channels: &[ChannelName],
) -> Result<(), RedisError> {
    for topics in topics(channels) {
        connection.subscribe(topics).await?;
    }
    Ok(())
}

async fn unsubscribe(
    connection: &mut MultiplexedConnection,
    channels: &[ChannelName],
) -> Result<(), RedisError> {
    for topics in topics(channels) {
        connection.unsubscribe(topics).await?;
    }
    Ok(())
}

/// The topics of channels, as many at a time as one command takes.
fn topics(channels: &[ChannelName]) -> impl Iterator<Item = Vec<String>> {
    let chunks = channels.chunks(limits::CLUSTER_SUBSCRIBE_TOPICS);
    chunks.map(|some| some.iter().map(channel::topic).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use redis::Client;

    use super::*;
    use crate::clock::Clock;
    use crate::cluster::connections::PrimaryConnections;
    use crate::stats::Stats;

    #[test]
    fn what_is_dropped_is_told_once_the_rest_is_handed_on() {
        let (sender, news) = channel();
        let (subscriber_queue, queue) = SubscriberQueue::new();
        let client = Client::open("redis://127.0.0.1:1").expect("it is a URL");
        let shared = Shared {
            hearing: client.clone(),
            client,
            links: PrimaryConnections::new(String::from("redis://test")),
            node: "one".into(),
            topic: node_rpc::topic("one").into(),
            clock: Clock::start(),
            stats: Arc::new(Stats::new(1)),
            reads_journal: false,
            tell: Arc::new(move |news| drop(sender.send(news))),
            about: Arc::new(String::new),
        };
        for offset in 1..=limits::CLUSTER_TOPIC_QUEUE_MAX + 5 {
            let said = format!("e {offset} 1 \n{{}}").into_bytes();
            let topic = b"fanfare:channel:{a}".to_vec();
            subscriber_queue.take(&shared, vec![Value::BulkString(topic), Value::BulkString(said)]);
        }
        assert_eq!(shared.stats.cluster.dropped.value(), 5);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("it starts");
        runtime.spawn(forward(shared, Arc::new(subscriber_queue), queue, OpenRequests::default()));
        let mut offset = 0;
        loop {
            runtime.block_on(tokio::task::yield_now());
            match news.try_recv() {
                Ok(News::ChannelMessages(placed)) => {
                    for placed in placed {
                        offset += 1;
                        assert_eq!(placed.offset, offset);
                    }
                }
                Ok(News::Relinked) => break,
                Ok(other) => panic!("{other:?}"),
                Err(_) => {}
            }
        }
        assert_eq!(offset, limits::CLUSTER_TOPIC_QUEUE_MAX as u64);
    }
}
