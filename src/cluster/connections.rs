//! The connections to Redis: which of them are in force, and whether each path works.
//!
//! A node keeps several connections. After a failover they must all lead to the same, writable
//! server, and one that only reads or listens is never refused anything. So each path is probed once
//! a second, with traffic or without: the server has to be a primary, has to know this node's last
//! heartbeat, and has to take a write where the path writes.
//!
//! Connections belong to a generation. A connection that finds itself at the wrong server ends the
//! generation: every task drops its connection, looks the host's name up again and connects.
//!
//! # Promises
//!
//! * A path counts as working only for [`limits::CLUSTER_PATH_MS`] after it last proved to work.
//! * No address is kept: every connection resolves the name of the host.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::{AsyncPushSender, MultiplexedConnection};
use redis::streams::{StreamId, StreamReadOptions, StreamReadReply};
use redis::{
    AsyncCommands as _, AsyncConnectionConfig, Client, ErrorKind, RedisError, RedisResult,
    ServerErrorKind, Value, from_redis_value,
};
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::outage::Outage;
use super::{Shared, scripts, tls, waiting};
use crate::limits;
use crate::stats::{Counter, RedisPath};

/// Time between two probes of a path. A test of this module's siblings has no seconds to wait.
pub(super) const PROBE_MS: u64 = if cfg!(test) { 300 } else { limits::CLUSTER_PATH_PROBE_MS };

/// Refusals of a server that is not, or no longer, the primary that it was taken for.
const ELSEWHERE: &[&str] = &[
    "READONLY",
    "MOVED",
    "ASK",
    "LOADING",
    "MASTERDOWN",
    "CLUSTERDOWN",
    // The answer to a blocked read when its server becomes a replica.
    "UNBLOCKED",
    "NOAUTH",
];

/// Refusals that end the one connection that hears them. Its successor is at the server that the
/// name leads to by then; if that is another, its probe finds out.
const UNFIT: &[&str] = &["TRYAGAIN", "NOREPLICAS", "MISCONF"];

/// The state that all connections of a node share.
#[derive(Debug, Clone)]
pub(super) struct PrimaryConnections(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    generation: watch::Sender<u64>,
    /// When Redis took this generation's last heartbeat, in milliseconds by its own clock; 0 where
    /// it has taken none.
    signed_ms: AtomicU64,
    /// The last fault of each path, for the log.
    faults: [Mutex<String>; RedisPath::ALL.len()],
    /// Where Redis is, without a password.
    shown: String,
    outage: Outage,
    /// When a heartbeat was last answered, in nanoseconds by the server's clock.
    answered_ns: AtomicU64,
}

/// A connection and the generation that it belongs to.
#[derive(Debug, Clone)]
pub(super) struct PrimaryConnection {
    connection: MultiplexedConnection,
    generation: u64,
}

impl Deref for PrimaryConnection {
    type Target = MultiplexedConnection;

    fn deref(&self) -> &MultiplexedConnection {
        &self.connection
    }
}

impl DerefMut for PrimaryConnection {
    fn deref_mut(&mut self) -> &mut MultiplexedConnection {
        &mut self.connection
    }
}

impl PrimaryConnections {
    /// No connections yet to the Redis that is `shown` to people.
    pub(super) fn new(shown: String) -> PrimaryConnections {
        PrimaryConnections(Arc::new(Inner {
            generation: watch::Sender::new(0),
            signed_ms: AtomicU64::new(0),
            faults: Default::default(),
            shown,
            outage: Outage::default(),
            answered_ns: AtomicU64::new(0),
        }))
    }

    fn generation(&self) -> u64 {
        *self.0.generation.borrow()
    }

    /// Whether a connection still is in force.
    pub(super) fn is_current(&self, link: &PrimaryConnection) -> bool {
        self.generation() == link.generation
    }

    /// Returns once a connection is no longer in force.
    pub(super) async fn ended(&self, generation: u64) {
        let mut changes = self.0.generation.subscribe();
        // Fails only where everything ends.
        let _ = changes.wait_for(|now| *now != generation).await;
    }

    /// Ends a generation, unless that has been done.
    fn renew(&self, generation: u64) {
        if self.generation() == generation {
            self.0.signed_ms.store(0, Ordering::Relaxed);
            self.0.generation.send_modify(|now| *now += 1);
        }
    }

    /// Notes when Redis took a heartbeat.
    pub(super) fn signed(&self, link: &PrimaryConnection, at_ms: u64) {
        // An answer of the server before says nothing about the present one.
        if self.is_current(link) {
            self.0.signed_ms.store(at_ms, Ordering::Relaxed);
        }
    }
}

impl PrimaryConnection {
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }
}

impl Shared {
    /// A connection whose commands wait for `patience` at most.
    pub(super) async fn connect(&self, patience: Duration) -> RedisResult<PrimaryConnection> {
        self.connect_to_primary(&self.client, waiting(patience)).await
    }

    /// One that also receives pushes: messages of topics, and the loss of the connection.
    pub(super) async fn connect_hearing(
        &self,
        patience: Duration,
        subscriber_queue: impl AsyncPushSender,
    ) -> RedisResult<PrimaryConnection> {
        let config = waiting(patience).set_push_sender(subscriber_queue);
        self.connect_to_primary(&self.hearing, config).await
    }

    async fn connect_to_primary(
        &self,
        client: &Client,
        config: AsyncConnectionConfig,
    ) -> RedisResult<PrimaryConnection> {
        let generation = self.links.generation();
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        check_role(redis::cmd("HELLO").query_async(&mut connection).await?)?;
        Ok(PrimaryConnection { connection, generation })
    }

    /// The connection that is kept in `link`, made anew where none is in force.
    pub(super) async fn reopen<'a>(
        &self,
        link: &'a mut Option<PrimaryConnection>,
        patience: Duration,
    ) -> RedisResult<&'a mut PrimaryConnection> {
        link.take_if(|link| !self.links.is_current(link));
        match link {
            Some(open) => Ok(open),
            none => Ok(none.insert(self.connect(patience).await?)),
        }
    }

    /// Sees whether a path works: the server is a primary, has this node's last heartbeat, and
    /// takes a write to `key` where one is given. Notes what comes of it.
    pub(super) async fn probe(
        &self,
        path: RedisPath,
        link: &mut PrimaryConnection,
        key: Option<&str>,
    ) -> RedisResult<()> {
        let probed = self.check(link, key).await;
        match &probed {
            Ok(()) => self.works(path),
            Err(fault) => self.fails(path, Some(link), fault),
        }
        probed
    }

    /// The same for a connection that is kept in `link`: made anew where none is in force, dropped where it
    /// does not work.
    pub(super) async fn probe_kept(
        &self,
        path: RedisPath,
        link: &mut Option<PrimaryConnection>,
        key: &str,
    ) {
        let patience = Duration::from_millis(limits::REDIS_RESPONSE_MS);
        let probed = match self.reopen(link, patience).await {
            Ok(open) => self.probe(path, open, Some(key)).await,
            Err(fault) => {
                self.fails(path, None, &fault);
                Err(fault)
            }
        };
        if probed.is_err() {
            *link = None;
        }
    }

    /// The same for a reader between two reads, where a probe is due. Ends the connection where its
    /// generation has ended.
    pub(super) async fn probe_reader(
        &self,
        path: RedisPath,
        link: &mut PrimaryConnection,
        probed: &mut Option<Instant>,
    ) -> RedisResult<()> {
        if !self.links.is_current(link) {
            return Err((ErrorKind::Io, "every connection is made again").into());
        }
        let pause = Duration::from_millis(PROBE_MS);
        if probed.is_none_or(|probed| probed.elapsed() >= pause) {
            self.probe(path, link, None).await?;
            *probed = Some(Instant::now());
        }
        Ok(())
    }

    /// Sees whether a connection leads to the right server, and takes a write to `key` where one is given.
    pub(super) async fn check(
        &self,
        link: &mut PrimaryConnection,
        key: Option<&str>,
    ) -> RedisResult<()> {
        let signed_ms = self.links.0.signed_ms.load(Ordering::Relaxed);
        let mut pipeline = redis::pipe();
        pipeline.cmd("HELLO");
        pipeline.cmd("ZSCORE").arg(scripts::NODES).arg(&*self.node);
        if let Some(key) = key {
            pipeline.cmd("SET").arg(key).arg(&*self.node).arg("PX");
            pipeline.arg(limits::CLUSTER_FORGET_MS).ignore();
        }
        let (about, seen_ms): (Value, Option<f64>) = pipeline.query_async(&mut **link).await?;
        check_role(about)?;
        // Only whole milliseconds below 2^53 are ever written.
        #[allow(clippy::cast_precision_loss, reason = "times in milliseconds are below 2^53")]
        let is_known = signed_ms == 0 || seen_ms.is_some_and(|seen| seen >= signed_ms as f64);
        if !is_known && self.links.is_current(link) {
            let words = "it does not have this node's last heartbeat";
            return Err((ErrorKind::Server(ServerErrorKind::ReadOnly), words).into());
        }
        Ok(())
    }

    /// Notes that a path works.
    pub(super) fn works(&self, path: RedisPath) {
        self.stats.cluster.paths[path.index()].set(self.clock.now().ns.max(1));
    }

    /// Notes a fault of a path. Ends the generation where the fault says that Redis is elsewhere.
    pub(super) fn fails(
        &self,
        path: RedisPath,
        link: Option<&PrimaryConnection>,
        fault: &RedisError,
    ) {
        *self.links.0.faults[path.index()].lock() = describe(fault);
        if let Some(link) = link {
            self.judge(link, fault);
        }
    }

    /// Ends a connection's generation where a fault says that Redis is elsewhere.
    pub(super) fn judge(&self, link: &PrimaryConnection, fault: &RedisError) {
        if has_code(fault, ELSEWHERE) {
            self.trouble(fault);
            self.links.renew(link.generation);
        }
    }

    /// Tells the log of a fault that is met again and again: see [`Outage`].
    pub(super) fn trouble(&self, fault: &RedisError) {
        let (text, is_unreachable) = (describe(fault), is_silence(fault));
        let now_ns = self.clock.now().ns;
        let redis = &self.links.0.shown;
        match self.links.0.outage.note(&text, is_unreachable, now_ns) {
            None => tracing::debug!(fault = text, "trouble with Redis"),
            Some(0) => tracing::warn!(
                "Redis at {redis} cannot be used: {text}; this node tries again, and takes no \
                 registry writes meanwhile"
            ),
            Some(since_s) => {
                tracing::warn!("Redis at {redis} cannot be used since {since_s} s: {text}");
            }
        }
    }

    /// Notes that a heartbeat was answered.
    pub(super) fn answered(&self) {
        self.links.0.answered_ns.store(self.clock.now().ns, Ordering::Relaxed);
    }

    /// Tells the log where trouble is over: everything has proved to work since the last fault.
    fn end_trouble(&self, now_ns: u64) {
        let paths = self.stats.cluster.paths.iter().map(Counter::value);
        let beat_ns = self.links.0.answered_ns.load(Ordering::Relaxed);
        let proven_ns = paths.chain([beat_ns]).min().unwrap_or_default();
        if let Some(lasted_s) = self.links.0.outage.end(proven_ns, now_ns) {
            tracing::info!("Redis at {} works, after {lasted_s} s", self.links.0.shown);
        }
    }

    /// Writes into the log which paths begin to fail and which work again, and when trouble is over.
    /// Where Redis is silent no path works, and that has been said.
    pub(super) async fn watch_paths(self) {
        let mut is_said = [false; RedisPath::ALL.len()];
        let mut ticks =
            tokio::time::interval(Duration::from_millis(limits::CLUSTER_HEARTBEAT_MS / 2));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let start_ns = self.clock.now().ns;
        loop {
            ticks.tick().await;
            let now_ns = self.clock.now().ns;
            self.end_trouble(now_ns);
            // A path that had no time to work yet does not fail.
            let is_early = now_ns < start_ns + limits::CLUSTER_PATH_MS * 1_000_000;
            let is_silent = self.links.0.outage.is_unreachable();
            for path in RedisPath::ALL {
                let is_up = self.stats.cluster.is_path_up(path, now_ns);
                let (name, is_said) = (path.as_str(), &mut is_said[path.index()]);
                if !is_up && !*is_said && !is_silent && !is_early {
                    let fault = self.links.0.faults[path.index()].lock().clone();
                    tracing::error!(path = name, fault, "a path to Redis fails: not ready");
                    *is_said = true;
                } else if is_up && std::mem::take(is_said) {
                    tracing::info!(path = name, "a path to Redis works again");
                }
            }
        }
    }
}

/// When a path is to be probed.
pub(super) fn probe_ticks() -> Interval {
    let mut ticks = tokio::time::interval(Duration::from_millis(PROBE_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// For how long a connection waits that reads streams by [`read_stream`].
pub(super) const READ_PATIENCE: Duration =
    Duration::from_millis(limits::REDIS_BLOCK_MS + limits::REDIS_RESPONSE_MS);

/// Reads what follows `position` in a stream. Where nothing does, waits for
/// [`limits::REDIS_BLOCK_MS`].
pub(super) async fn read_stream(
    link: &mut PrimaryConnection,
    stream: &str,
    position: &str,
) -> RedisResult<Vec<StreamId>> {
    let block_ms = usize::try_from(limits::REDIS_BLOCK_MS).unwrap_or(usize::MAX);
    let options = StreamReadOptions::default().count(limits::CLUSTER_READ_ENTRIES).block(block_ms);
    let reply: Option<StreamReadReply> =
        link.xread_options(&[stream], &[position], &options).await?;
    Ok(reply.into_iter().flat_map(|reply| reply.keys).flat_map(|key| key.ids).collect())
}

/// Whether a fault is silence: no answer, or a broken connection.
fn is_silence(fault: &RedisError) -> bool {
    let is_io = fault.is_io_error() || fault.is_timeout() || fault.is_connection_dropped();
    is_io && tls::describe(fault).is_none()
}

/// Whether the connection that heard this fault is to end. For answers to single commands of many;
/// a fault of the connection itself ends it in any case.
pub(super) fn ends_connection(fault: &RedisError) -> bool {
    has_code(fault, ELSEWHERE) || has_code(fault, UNFIT)
}

fn has_code(fault: &RedisError, codes: &[&str]) -> bool {
    if let Some(code) = fault.code() {
        return codes.contains(&code);
    }
    // A code that the library has no word for, of one command of a pipeline.
    let all = fault.clone().into_server_errors();
    all.is_some_and(|all| all.iter().any(|(_, one)| codes.contains(&one.code())))
}

/// Refuses a server that says it is a replica.
fn check_role(about: Value) -> RedisResult<()> {
    let fields: Vec<(Value, Value)> = match about {
        Value::Map(fields) => fields,
        Value::Array(flat) => {
            let mut flat = flat.into_iter();
            std::iter::from_fn(|| Some((flat.next()?, flat.next()?))).collect()
        }
        _ => Vec::new(),
    };
    let role = fields.into_iter().find_map(|(name, value)| {
        let is_role = from_redis_value::<String>(name).is_ok_and(|name| name == "role");
        is_role.then(|| from_redis_value::<String>(value).ok())?
    });
    if role.is_some_and(|role| role == "replica" || role == "slave") {
        let words = "the server is a replica";
        return Err((ErrorKind::Server(ServerErrorKind::ReadOnly), words).into());
    }
    Ok(())
}

/// A fault in words that name the setting to change. Never holds a password: Redis does not
/// repeat one, and the URL is not part of its answers.
pub(super) fn describe(fault: &RedisError) -> String {
    let text = fault.to_string();
    let is_named =
        fault.kind() == ErrorKind::AuthenticationFailed || has_code(fault, &["WRONGPASS"]);
    if is_named || text.contains("WRONGPASS") {
        return format!("Redis refuses the user name or the password of redis-url: {text}");
    }
    if has_code(fault, &["NOAUTH"]) || text.contains("NOAUTH") {
        return format!("Redis wants a password, and redis-url has none: {text}");
    }
    if has_code(fault, &["NOPERM"]) || text.contains("NOPERM") {
        return format!("the ACL of the Redis user does not allow what is needed: {text}");
    }
    if has_code(fault, ELSEWHERE) {
        return format!("the server is not the primary, or not ready: {text}");
    }
    tls::describe(fault).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_role_is_read_in_both_protocols() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        for (role, is_refused) in [("master", false), ("replica", true), ("slave", true)] {
            let flat = [text("server"), text("redis"), text("role"), text(role)];
            let map = vec![(text("proto"), Value::Int(3)), (text("role"), text(role))];
            assert_eq!(check_role(Value::Array(flat.to_vec())).is_err(), is_refused, "{role}");
            assert_eq!(check_role(Value::Map(map)).is_err(), is_refused, "{role}");
        }
        assert!(check_role(Value::Nil).is_ok(), "a proxy that does not say is taken at its word");
    }

    #[test]
    fn a_refusal_of_a_server_that_is_no_primary_is_known() {
        let refusal = check_role(Value::Map(vec![(
            Value::SimpleString("role".into()),
            Value::SimpleString("replica".into()),
        )]));
        let refusal = refusal.expect_err("a replica");
        assert!(ends_connection(&refusal) && has_code(&refusal, ELSEWHERE), "{refusal}");
        let other = RedisError::from((ErrorKind::Io, "a reset"));
        assert!(!ends_connection(&other) && !has_code(&other, ELSEWHERE));
    }
}
