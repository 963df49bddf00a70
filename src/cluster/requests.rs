//! Runs the requests of control against Redis, a batch at a time; the next batch gathers meanwhile.
//!
//! Requests about one channel run in the order in which control made them, and so do requests about none. A
//! channel's topic is subscribed before the channel is read, so no message falls between the two. A request
//! that Redis may have carried out is never sent again: it fails with its connection, unless it only reads.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, Pipeline, PushInfo, PushKind, RedisError, RedisResult};
use redis::{ServerErrorKind, Value, from_redis_value};
use tokio::sync::{mpsc, oneshot};

use super::connections::{self, PrimaryConnection};
use super::journal::{self, MinIdFence};
use super::node_rpc::{self, OpenRequests};
use super::subscriber::SubscriberCommand;
use super::{
    BackplaneRequest, BackplaneResponse, MessagePosition, News, Shared, channel, fresh_rng, scripts,
};
use crate::id::{ChannelName, MessageId};
use crate::limits;
use crate::rng::Rng;
use crate::stats::RedisPath;

/// One job from control.
#[derive(Debug)]
pub enum Job {
    /// Answer with [`News::Response`].
    Request {
        /// The request's number at this node.
        number: u64,
        /// What is asked.
        request: BackplaneRequest,
        /// When, in nanoseconds by the server's clock.
        asked_ns: u64,
    },
    /// Follow a channel no more.
    Detach(ChannelName),
    /// Send a node the answer to its question.
    Respond {
        /// The node that asked.
        node: String,
        /// The question's number there.
        number: u64,
        /// The answer: a JSON text.
        answer: String,
    },
    /// The database has the journal up to this message.
    Written(MessageId),
}

/// The jobs of one turn.
#[derive(Default)]
struct Batch {
    /// Channels to be heard before `behind` is done.
    attached: HashSet<ChannelName>,
    /// Channels, and whether they are to be heard at the end.
    wanted: HashMap<ChannelName, bool>,
    immediate: Vec<Job>,
    after_subscribe: Vec<Job>,
}

/// An open connection.
#[derive(Clone)]
struct OpenConnection {
    link: PrimaryConnection,
    /// Raised when it is lost, so that nothing is sent into the void.
    is_lost: Arc<AtomicBool>,
}

/// Runs requests.
pub(super) struct RequestRunner {
    pub(super) shared: Shared,
    pub(super) topics: mpsc::UnboundedSender<SubscriberCommand>,
    pub(super) open_requests: OpenRequests,
    /// The fence of the journal's ids; none where there is no journal.
    pub(super) fence: Option<MinIdFence>,
    pub(super) rng: Rng,
    line: Option<OpenConnection>,
    /// Whether there ever was a line.
    was_open: bool,
    /// Whether the last try to open a line failed.
    is_unreachable: bool,
    /// How far the database has the journal, where Redis was not told yet.
    written: Option<MessageId>,
}

impl RequestRunner {
    pub(super) fn new(
        shared: Shared,
        topics: mpsc::UnboundedSender<SubscriberCommand>,
        open_requests: OpenRequests,
        fence: Option<MinIdFence>,
    ) -> RequestRunner {
        RequestRunner {
            shared,
            topics,
            open_requests,
            fence,
            rng: fresh_rng(),
            line: None,
            was_open: false,
            is_unreachable: false,
            written: None,
        }
    }

    /// Carries out jobs until there will be no more.
    pub(super) async fn carry_out(mut self, mut queue: mpsc::UnboundedReceiver<Job>) {
        let mut batch = Vec::new();
        let mut probes = connections::probe_ticks();
        loop {
            tokio::select! {
                // Requests do not delay a probe: they may all use parts that still work.
                biased;
                _ = probes.tick() => {
                    self.is_unreachable = false;
                    self.probe().await;
                    if self.written.is_some() {
                        // That is tried again even if nothing else happens.
                        self.turn(std::iter::empty()).await;
                    }
                }
                count = queue.recv_many(&mut batch, limits::CLUSTER_CALLS) => {
                    if count == 0 {
                        return;
                    }
                    self.turn(batch.drain(..)).await;
                }
            }
            if self.is_unreachable {
                // Those behind them would each wait as long for nothing.
                let mut left = Vec::new();
                while let Ok(job) = queue.try_recv() {
                    left.push(job);
                }
                let (turn, _) = self.sort(left.into_iter());
                self.fail(turn.immediate.into_iter().chain(turn.after_subscribe));
                self.unfollow(turn.wanted);
            }
        }
    }

    /// Probes whether requests can run.
    async fn probe(&mut self) {
        let probed = match self.open().await {
            Ok(mut line) => {
                self.shared
                    .probe(RedisPath::Calls, &mut line.link, Some(scripts::CALLS_PROBE))
                    .await
            }
            Err(fault) => {
                self.shared.fails(RedisPath::Calls, None, &fault);
                Err(fault)
            }
        };
        if probed.is_err() {
            self.line = None;
        }
    }

    async fn turn(&mut self, jobs: impl Iterator<Item = Job>) {
        self.is_unreachable = false;
        let (mut turn, stale) = self.sort(jobs);
        self.fail(stale);
        if let Some(id) = self.written {
            turn.immediate.push(Job::Written(id));
        }
        let attached = turn.attached.into_iter().collect::<Vec<_>>();
        let followed = follow(self.topics.clone(), attached);
        let (is_followed, ()) = tokio::join!(followed, self.send(turn.immediate));
        let mut after_subscribe = turn.after_subscribe;
        if !is_followed {
            let is_attach = |work: &Job| {
                matches!(work, Job::Request { request: BackplaneRequest::Attach { .. }, .. })
            };
            let (lost, others): (Vec<_>, Vec<_>) = after_subscribe.into_iter().partition(is_attach);
            self.fail(lost);
            after_subscribe = others;
        }
        self.send(after_subscribe).await;
        self.unfollow(turn.wanted);
    }

    /// Sorts jobs into a batch. Returns those apart that waited for too long.
    fn sort(&mut self, jobs: impl Iterator<Item = Job>) -> (Batch, Vec<Job>) {
        let (mut turn, mut stale) = (Batch::default(), Vec::new());
        let now_ns = self.shared.clock.now().ns;
        for job in jobs {
            match &job {
                Job::Request { request, asked_ns, .. } => {
                    if now_ns.saturating_sub(*asked_ns) > limits::CLUSTER_PROPOSAL_MS * 1_000_000 {
                        stale.push(job);
                        continue;
                    }
                    if let BackplaneRequest::Attach { channel, .. } = request {
                        turn.attached.insert(channel.clone());
                        turn.wanted.insert(channel.clone(), true);
                    }
                }
                Job::Detach(channel) => {
                    turn.wanted.insert(channel.clone(), false);
                    continue;
                }
                Job::Respond { .. } => {}
                Job::Written(id) => {
                    if let Some(fence) = &self.fence {
                        fence.raise(*id);
                        self.written = self.written.max(Some(*id));
                    }
                    continue;
                }
            }
            let is_behind = job.channel().is_some_and(|name| turn.attached.contains(name));
            if is_behind { &mut turn.after_subscribe } else { &mut turn.immediate }.push(job);
        }
        (turn, stale)
    }

    fn unfollow(&self, wanted: HashMap<ChannelName, bool>) {
        let gone: Vec<_> =
            wanted.into_iter().filter(|(_, is_wanted)| !is_wanted).map(|(name, _)| name).collect();
        if !gone.is_empty() {
            // Fails only where everything ends.
            let _ = self.topics.send(SubscriberCommand::Unfollow(gone));
        }
    }

    /// Sends jobs, and tells control the responses.
    async fn send(&mut self, mut work: Vec<Job>) {
        // Reads are sent once more, where the connection has gone and not Redis.
        for is_last in [false, true] {
            if work.is_empty() {
                return;
            }
            match self.query(&work).await {
                Ok(answers) => return self.settle(work, answers),
                Err(fault) => {
                    self.shared.trouble(&fault);
                    if let Some(line) = self.line.take() {
                        self.shared.judge(&line.link, &fault);
                    }
                    if self.is_unreachable {
                        return self.fail(work);
                    }
                    let is_tried_again = !is_last && !fault.is_timeout();
                    let only_reads = |work: &Job| is_tried_again && work.only_reads();
                    let (again, lost): (Vec<_>, Vec<_>) = work.into_iter().partition(only_reads);
                    self.lose(lost);
                    work = again;
                }
            }
        }
    }

    /// Sends the commands of all in one go, and returns the answers to each.
    async fn query(&mut self, work: &[Job]) -> RedisResult<Vec<Vec<RedisResult<Value>>>> {
        let commands: Vec<_> = work.iter().map(|work| self.commands(work)).collect();
        let counts: Vec<_> = commands.iter().map(Vec::len).collect();
        let mut pipeline = Pipeline::with_capacity(counts.iter().sum());
        for command in commands.into_iter().flatten() {
            pipeline.add_command(command);
        }
        if pipeline.is_empty() {
            return Ok(counts.iter().map(|_| Vec::new()).collect());
        }
        let mut line = self.open().await?;
        for one in work {
            if let Job::Request { number, request: BackplaneRequest::Ask { nodes, .. }, .. } = one
                && !nodes.is_empty()
            {
                self.ask(*number, nodes);
            }
        }
        let mut answers = run(&mut pipeline, &mut line.link).await?;
        let is_unknown = |answer: &RedisResult<Value>| {
            let kind = ErrorKind::Server(ServerErrorKind::NoScript);
            answer.as_ref().is_err_and(|fault| fault.kind() == kind)
        };
        let unknown: Vec<usize> =
            (0..answers.len()).filter(|&at| is_unknown(&answers[at])).collect();
        if !unknown.is_empty() {
            // Redis forgot its scripts. A script that it did not know has done nothing.
            let commands: Vec<&Cmd> = pipeline.cmd_iter().collect();
            let mut again = Pipeline::with_capacity(unknown.len());
            for &at in &unknown {
                again.add_command(commands[at].clone());
            }
            load(&mut line.link).await?;
            for (at, answer) in unknown.into_iter().zip(run(&mut again, &mut line.link).await?) {
                answers[at] = answer;
            }
        }
        let faults = answers.iter().filter_map(|answer| answer.as_ref().err());
        if let Some(fault) = faults.into_iter().find(|fault| connections::ends_connection(fault)) {
            self.shared.fails(RedisPath::Calls, Some(&line.link), fault);
            self.line = None;
        }
        let mut answers = answers.into_iter();
        Ok(counts.into_iter().map(|count| answers.by_ref().take(count).collect()).collect())
    }

    /// The connection, made where there is none.
    async fn open(&mut self) -> RedisResult<OpenConnection> {
        if let Some(line) = &self.line
            && !line.is_lost.load(Ordering::Relaxed)
            && self.shared.links.is_current(&line.link)
        {
            return Ok(line.clone());
        }
        self.is_unreachable = true;
        let patience = Duration::from_millis(limits::CLUSTER_CALL_CONNECT_MS);
        let timeout = |_| RedisError::from((ErrorKind::Io, "Redis is not reached"));
        let line = tokio::time::timeout(patience, self.connect()).await.map_err(timeout)??;
        self.is_unreachable = false;
        if std::mem::replace(&mut self.was_open, true) {
            self.shared.stats.cluster.reconnects.add(1);
        }
        Ok(self.line.insert(line).clone())
    }

    async fn connect(&self) -> RedisResult<OpenConnection> {
        let is_lost = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&is_lost);
        let hear = move |info: PushInfo| -> Result<(), Infallible> {
            if info.kind == PushKind::Disconnection {
                flag.store(true, Ordering::Relaxed);
            }
            Ok(())
        };
        let patience = Duration::from_millis(limits::REDIS_RESPONSE_MS);
        let mut link = self.shared.connect_hearing(patience, hear).await?;
        let made = async {
            load(&mut link).await?;
            if let Some(fence) = &self.fence {
                fence.enforce(&mut link).await?;
            }
            Ok(())
        };
        if let Err(fault) = made.await {
            self.shared.judge(&link, &fault);
            return Err(fault);
        }
        Ok(OpenConnection { link, is_lost })
    }

    fn commands(&mut self, work: &Job) -> Vec<Cmd> {
        let node = &*self.shared.node;
        let (number, request) = match work {
            Job::Request { number, request, .. } => (*number, request),
            Job::Respond { node: to, number, answer } => {
                return vec![node_rpc::answer(to, node, *number, answer)];
            }
            Job::Written(id) => return vec![journal::written(*id)],
            Job::Detach(_) => return Vec::new(),
        };
        let command = match request {
            BackplaneRequest::Attach { channel, epoch } => {
                channel::read(channel, 0, limits::CLUSTER_ATTACH_MESSAGES, Some(epoch))
            }
            BackplaneRequest::Read { channel, after, limit, epoch } => {
                channel::read(channel, *after, *limit, epoch.as_deref())
            }
            BackplaneRequest::Publish {
                message,
                epoch,
                history_max,
                history_bytes_max,
                history_ms,
            } => channel::publish(message, epoch, *history_max, *history_bytes_max, *history_ms),
            BackplaneRequest::Delete { channel } => channel::delete(channel),
            BackplaneRequest::AppendToJournal { .. } if self.fence.is_none() => return Vec::new(),
            BackplaneRequest::AppendToJournal { text } => journal::append(self.rng.next(), text),
            BackplaneRequest::Newest => journal::newest(),
            BackplaneRequest::Ask { nodes, question } => {
                let ask = |to: &String| node_rpc::question(to, node, number, question);
                return nodes.iter().map(ask).collect();
            }
        };
        vec![command]
    }

    /// Waits for answers of nodes from here on.
    fn ask(&self, number: u64, nodes: &[String]) {
        self.open_requests.open(number, nodes);
        let (open_requests, shared) = (self.open_requests.clone(), self.shared.clone());
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(limits::CLUSTER_ASK_MS)).await;
            open_requests.finish(&shared, number);
        });
    }

    fn settle(&mut self, work: Vec<Job>, answers: Vec<Vec<RedisResult<Value>>>) {
        for (work, answers) in work.into_iter().zip(answers) {
            match work {
                Job::Request { number, request: BackplaneRequest::Ask { nodes, .. }, .. } => {
                    self.asked(number, &nodes, &answers);
                }
                Job::Request { number, request, .. } => {
                    let reply =
                        answers.into_iter().next().map(|answer| reply_to(&request, answer?));
                    let reply =
                        reply.unwrap_or(Ok(BackplaneResponse::Failed)).unwrap_or_else(|fault| {
                            tracing::warn!(%fault, "a call to Redis failed");
                            BackplaneResponse::Failed
                        });
                    self.tell(number, reply);
                }
                Job::Respond { .. } | Job::Detach(_) => {}
                Job::Written(id) => {
                    if let Some(Err(fault)) = answers.first() {
                        tracing::warn!(%fault, "the journal was not trimmed");
                    }
                    self.written = self.written.filter(|newest| *newest > id);
                }
            }
        }
    }

    /// Notes which nodes a question reached. A Redis Cluster counts only the subscribers at one of its
    /// nodes, so there an answer may be given up that would have come.
    fn asked(&self, number: u64, nodes: &[String], answers: &[RedisResult<Value>]) {
        if nodes.is_empty() {
            return self.tell(number, BackplaneResponse::Nodes(Vec::new()));
        }
        self.shared.stats.cluster.called.add(1);
        let is_absent = |answer: &RedisResult<Value>| !matches!(answer, Ok(Value::Int(1..)));
        let absent = nodes.iter().zip(answers).filter(|(_, answer)| is_absent(answer));
        self.open_requests.absent(&self.shared, number, absent.map(|(node, _)| node));
    }

    fn fail(&self, work: impl IntoIterator<Item = Job>) {
        for work in work {
            if let Job::Request { number, .. } = work {
                self.tell(number, BackplaneResponse::Failed);
            }
        }
    }

    /// Fails jobs that were sent.
    fn lose(&self, work: Vec<Job>) {
        // A question whose answers had all come has been told.
        let is_told = |work: &Job| match work {
            Job::Request { number, request: BackplaneRequest::Ask { .. }, .. } => {
                !self.open_requests.forget(*number)
            }
            _ => false,
        };
        self.fail(work.into_iter().filter(|work| !is_told(work)));
    }

    fn tell(&self, number: u64, reply: BackplaneResponse) {
        self.shared.stats.cluster.called.add(1);
        self.shared.tell(News::Response { number, reply });
    }
}

impl Job {
    /// The channel it is about.
    fn channel(&self) -> Option<&ChannelName> {
        let Job::Request { request, .. } = self else { return None };
        match request {
            BackplaneRequest::Attach { channel, .. }
            | BackplaneRequest::Read { channel, .. }
            | BackplaneRequest::Delete { channel } => Some(channel),
            BackplaneRequest::Publish { message, .. } => Some(&message.channel),
            _ => None,
        }
    }

    /// Whether it may be done twice.
    fn only_reads(&self) -> bool {
        use BackplaneRequest::{Attach, Newest, Read};
        matches!(self, Job::Request { request: Attach { .. } | Read { .. } | Newest, .. })
    }
}

/// Has channels followed. Returns whether they are.
async fn follow(
    topics: mpsc::UnboundedSender<SubscriberCommand>,
    channels: Vec<ChannelName>,
) -> bool {
    if channels.is_empty() {
        return true;
    }
    let (done, is_done) = oneshot::channel();
    if topics.send(SubscriberCommand::Follow(channels, done)).is_err() {
        return false;
    }
    let patience = Duration::from_millis(limits::REDIS_RESPONSE_MS);
    matches!(tokio::time::timeout(patience, is_done).await, Ok(Ok(())))
}

/// Sends commands in one go. One that fails fails alone.
async fn run(
    pipeline: &mut Pipeline,
    connection: &mut MultiplexedConnection,
) -> RedisResult<Vec<RedisResult<Value>>> {
    pipeline.ignore_errors().query_async(connection).await
}

async fn load(connection: &mut MultiplexedConnection) -> RedisResult<()> {
    for script in scripts::of_calls() {
        script.load_async(connection).await?;
    }
    Ok(())
}

fn reply_to(request: &BackplaneRequest, answer: Value) -> RedisResult<BackplaneResponse> {
    Ok(match request {
        BackplaneRequest::Attach { channel, .. } | BackplaneRequest::Read { channel, .. } => {
            BackplaneResponse::Channel(channel::state(channel, answer)?)
        }
        BackplaneRequest::Publish { .. } => {
            let (epoch, offset, at_ms) = from_redis_value(answer)?;
            BackplaneResponse::Published(MessagePosition { epoch, offset, at_ms })
        }
        BackplaneRequest::Delete { .. } => BackplaneResponse::Deleted(from_redis_value(answer)?),
        BackplaneRequest::Newest => {
            BackplaneResponse::Newest(from_redis_value::<Option<u64>>(answer)?.unwrap_or(0))
        }
        BackplaneRequest::AppendToJournal { .. } => journal::appended(answer)?,
        BackplaneRequest::Ask { .. } => BackplaneResponse::Failed,
    })
}
