//! The simulated sequencer: one ordered log, channels and a journal, as Redis gives them to the nodes.
//!
//! It keeps the promises that `cluster` makes to control, and no more. Each node hears every entry of
//! the log once and in order, or is told to begin from a snapshot. Between that, requests and answers are
//! delayed, reported as lost though they were carried out, carried out twice or late; links are cut; and
//! the log and the channels may lose what they had.

#![allow(clippy::cast_possible_truncation, reason = "numbers are small here")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fanfare::internals::cluster::simulated::{Job, Requests};
use fanfare::internals::cluster::{
    BackplaneRequest, BackplaneResponse, ChannelMessage, ChannelState, MessagePosition, News,
    NodeView, Proposal, SequencedMessage,
};
use fanfare::internals::id::{ChannelName, MessageId, UserId};
use fanfare::internals::limits;
use fanfare::internals::mailbox::MailboxSender;
use fanfare::internals::mailbox::to_control::{ControlMessage, Task};
use fanfare::internals::rng::Rng;
use fanfare::internals::state::entry::{LogItem, decode};
use fanfare::internals::state::journal::{Addressee, DirectMessage, JournalEntry};
use fanfare::internals::state::snapshot::Snapshot;

/// How many messages a channel keeps.
const KEPT_MAX: usize = 32;

/// Things on their way, in order.
struct Delayed<T>(VecDeque<(u64, T)>);

impl<T> Default for Delayed<T> {
    fn default() -> Delayed<T> {
        Delayed(VecDeque::new())
    }
}

impl<T> Delayed<T> {
    fn push(&mut self, due_ms: u64, item: T) {
        let last_ms = self.0.back().map_or(0, |(due_ms, _)| *due_ms);
        self.0.push_back((due_ms.max(last_ms), item));
    }

    fn take(&mut self, now_ms: u64) -> Option<T> {
        let is_due = self.0.front().is_some_and(|(due_ms, _)| *due_ms <= now_ms);
        is_due.then(|| self.0.pop_front().expect("it is there").1)
    }
}

struct Channel {
    epoch: String,
    offset: u64,
    kept: VecDeque<SequencedMessage>,
}

/// The way between a node and the sequencer.
struct Link {
    node: String,
    /// How far the node's clock is ahead.
    skew_ms: u64,
    control: MailboxSender<ControlMessage>,
    requests: Requests,
    proposals: Delayed<Proposal>,
    jobs: Delayed<Job>,
    /// Entries that were reported as lost and come all the same.
    late: Vec<(u64, LogItem)>,
    entries: Delayed<News>,
    answers: Delayed<News>,
    topics: Delayed<SequencedMessage>,
    /// The log that the node reads, and how many of its entries it has.
    place: Option<(u32, u64)>,
    journal_read: usize,
    attached: BTreeSet<ChannelName>,
    cut_until_ms: u64,
    was_cut: bool,
    /// Until when nothing is read of the log, though the sequencer answers.
    lags_until_ms: u64,
    beat_ms: u64,
    /// When its process ended.
    died_ms: Option<u64>,
}

struct Question {
    asker: String,
    number: u64,
    missing: BTreeSet<String>,
    answers: Vec<(String, String)>,
    until_ms: u64,
}

pub struct SimSequencer {
    rng: Rng,
    now_ms: u64,
    /// Whether faults happen.
    pub is_stormy: bool,
    /// Whether the log is printed, as part of the story.
    pub is_told: bool,
    /// What it did to the nodes, each with how often.
    pub faults: BTreeMap<&'static str, u64>,
    snapshot: Option<Snapshot>,
    items: Vec<LogItem>,
    generation: u32,
    channels: BTreeMap<ChannelName, Channel>,
    epochs: u32,
    journal: Vec<JournalEntry>,
    /// The database has the journal up to here.
    written: Option<MessageId>,
    questions: Vec<Question>,
    links: Vec<Link>,
}

impl SimSequencer {
    pub fn new(rng: Rng) -> SimSequencer {
        SimSequencer {
            rng,
            now_ms: 0,
            is_stormy: true,
            is_told: false,
            faults: BTreeMap::new(),
            snapshot: None,
            items: Vec::new(),
            generation: 0,
            channels: BTreeMap::new(),
            epochs: 0,
            journal: Vec::new(),
            written: None,
            questions: Vec::new(),
            links: Vec::new(),
        }
    }

    /// Begins a log with what a node has.
    pub fn seed(&mut self, mut snapshot: Snapshot) {
        self.generation += 1;
        snapshot.begin_log(&self.epoch());
        self.snapshot = Some(snapshot);
        self.items.clear();
    }

    /// The epoch of the log's revisions.
    pub fn epoch(&self) -> String {
        format!("epoch{}", self.generation)
    }

    pub fn has_log(&self) -> bool {
        self.snapshot.is_some()
    }

    /// A node is there whose database has the journal up to `written`.
    pub fn join(
        &mut self,
        node: &str,
        skew_ms: u64,
        control: MailboxSender<ControlMessage>,
        requests: Requests,
        written: Option<MessageId>,
    ) {
        self.links.push(Link {
            node: node.to_owned(),
            skew_ms,
            control,
            requests,
            proposals: Delayed::default(),
            jobs: Delayed::default(),
            late: Vec::new(),
            entries: Delayed::default(),
            answers: Delayed::default(),
            topics: Delayed::default(),
            place: None,
            journal_read: self.journal.partition_point(|one| Some(one.id) <= written),
            attached: BTreeSet::new(),
            cut_until_ms: 0,
            was_cut: false,
            lags_until_ms: 0,
            beat_ms: 0,
            died_ms: None,
        });
    }

    /// The node's process has ended. What it had sent may still arrive.
    pub fn leave(&mut self, node: &str) {
        let now_ms = self.now_ms;
        let link = self.link(node);
        link.died_ms = Some(now_ms);
        let mut on_their_way: Vec<Proposal> = Vec::new();
        on_their_way.extend(std::iter::from_fn(|| link.requests.take_proposal()));
        while link.requests.take_job().is_some() {}
        on_their_way.extend(link.proposals.0.drain(..).map(|(_, proposal)| proposal));
        on_their_way.sort_by_key(|proposal| proposal.number);
        for proposal in on_their_way {
            if self.rng.below(2) == 0 {
                let item = item_of(node, proposal);
                self.append(item);
            }
        }
    }

    /// How many entries a living node has read of the log there is.
    pub fn read_by(&self, node: &str) -> u64 {
        let link = self.links.iter().find(|link| link.node == node).expect("it has joined");
        match link.place {
            Some((generation, sequence)) if generation == self.generation => sequence,
            _ => 0,
        }
    }

    /// Whether every living node has the whole log, and none has more for it.
    pub fn is_at_rest(&self) -> bool {
        let end = Some((self.generation, self.items.len() as u64));
        let living = self.links.iter().filter(|link| link.died_ms.is_none());
        let mut is_all = living.map(|link| {
            link.place == end && link.entries.0.is_empty() && link.proposals.0.is_empty()
        });
        is_all.all(|is_all| is_all)
    }

    /// Whether an entry was read by a node that has ended and by nobody who lives.
    pub fn is_known_to_the_dead_alone(&self) -> bool {
        let most = |is_dead: bool| {
            let links = self.links.iter().filter(|link| link.died_ms.is_some() == is_dead);
            let places = links.filter_map(|link| link.place);
            let own = places.filter(|(generation, _)| *generation == self.generation);
            own.map(|(_, sequence)| sequence).max().unwrap_or(0)
        };
        most(true) > most(false)
    }

    /// Cuts a node off for a while. What its topics say meanwhile it does not hear.
    pub fn cut(&mut self, node: &str, ms: u64) {
        self.count("cuts");
        let until_ms = self.now_ms + ms;
        let link = self.link(node);
        link.cut_until_ms = until_ms;
        link.was_cut = true;
        link.topics.0.clear();
    }

    /// Has a node read the log late for a while.
    pub fn delay(&mut self, node: &str, ms: u64) {
        self.count("delays of the log");
        let until_ms = self.now_ms + ms;
        self.link(node).lags_until_ms = until_ms;
    }

    /// Whether nothing was wrong with a node's link for a while.
    pub fn is_well(&self, node: &str) -> bool {
        let link = self.links.iter().find(|link| link.node == node).expect("it has joined");
        link.cut_until_ms.max(link.lags_until_ms) + 1_000 <= self.now_ms
    }

    /// A channel is gone with all that it kept.
    pub fn lose_channel(&mut self) -> Option<ChannelName> {
        let names: Vec<ChannelName> = self.channels.keys().cloned().collect();
        if names.is_empty() {
            return None;
        }
        self.count("lost channels");
        let name = &names[self.rng.below(names.len() as u64) as usize];
        self.channels.remove(name);
        // Connections end with it. What they had read before is still on its way to the node.
        for link in &mut self.links {
            link.was_cut = true;
        }
        Some(name.clone())
    }

    /// Ends all faults, cuts included.
    pub fn calm_down(&mut self) {
        self.is_stormy = false;
        for link in &mut self.links {
            (link.cut_until_ms, link.lags_until_ms) = (0, 0);
        }
    }

    /// Whom a message of the journal is for.
    pub fn receivers(&self, id: MessageId) -> Option<BTreeSet<UserId>> {
        let entry = self.journal.iter().find(|entry| entry.id == id)?;
        Some(match &entry.message.to {
            Addressee::User(to) => BTreeSet::from([entry.message.from.clone(), to.clone()]),
            Addressee::Group { members, .. } => members.iter().cloned().collect(),
        })
    }

    pub fn channel(&self, name: &str) -> Option<(&str, u64)> {
        let channel = self.channels.get(&ChannelName::new(name))?;
        Some((&channel.epoch, channel.offset))
    }

    fn link(&mut self, node: &str) -> &mut Link {
        self.links.iter_mut().find(|link| link.node == node).expect("it has joined")
    }

    /// When something that is sent now arrives.
    fn due_ms(&mut self) -> u64 {
        let delay_ms = match self.rng.below(100) {
            _ if !self.is_stormy => self.rng.below(4),
            0..80 => self.rng.below(20),
            80..97 => self.rng.below(300),
            _ => self.rng.below(2_500),
        };
        self.now_ms + delay_ms
    }

    fn count(&mut self, what: &'static str) {
        *self.faults.entry(what).or_default() += 1;
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.is_stormy && self.rng.below(count) == 0
    }

    fn append(&mut self, mut item: LogItem) {
        item.position = format!("{}-0", self.items.len() + 1);
        if self.is_told {
            eprintln!(
                "{:>6}: log {}: {} {}: {:?}",
                self.now_ms % 1_000_000,
                item.position,
                item.node,
                item.number,
                item.entry
            );
        }
        self.items.push(item);
    }

    /// Carries out what is due of a node, and hands over what is due for it.
    pub fn turn(&mut self, node: &str, now_ms: u64) {
        self.now_ms = now_ms;
        let at = self.links.iter().position(|link| link.node == node).expect("it has joined");
        self.collect(at);
        self.write(at);
        self.carry_out(at);
        let is_cut = self.links[at].cut_until_ms > now_ms;
        if !is_cut {
            if std::mem::take(&mut self.links[at].was_cut) {
                let due_ms = self.due_ms();
                self.links[at].answers.push(due_ms, News::Relinked);
            }
            self.read(at);
            self.beat(at);
        }
        self.give_up_questions();
        self.deliver(at);
    }

    fn collect(&mut self, at: usize) {
        while let Some(proposal) = self.links[at].requests.take_proposal() {
            let due_ms = self.due_ms();
            self.links[at].proposals.push(due_ms, proposal);
        }
        while let Some(job) = self.links[at].requests.take_job() {
            let due_ms = self.due_ms();
            self.links[at].jobs.push(due_ms, job);
        }
    }

    fn write(&mut self, at: usize) {
        let now_ms = self.now_ms;
        while let Some(proposal) = self.links[at].proposals.take(now_ms) {
            let is_cut = self.links[at].cut_until_ms > now_ms;
            let number = proposal.number;
            let item = item_of(&self.links[at].node, proposal);
            let fate = if is_cut { self.rng.below(3) } else { self.rng.below(60) };
            match fate {
                0 | 1 if is_cut || self.is_stormy => {
                    self.count("lost entries");
                    let due_ms = self.due_ms();
                    self.links[at].answers.push(due_ms, News::Lost(vec![number]));
                    if fate == 1 {
                        self.count("lost entries that came all the same");
                        self.append(item);
                    }
                }
                2 if is_cut || self.is_stormy => {
                    self.count("late entries");
                    let due_ms = now_ms + self.rng.below(4_000);
                    self.links[at].late.push((due_ms, item));
                    let due_ms = self.due_ms();
                    self.links[at].answers.push(due_ms, News::Lost(vec![number]));
                }
                3 if self.is_stormy => {
                    self.count("duplicates");
                    self.append(item.clone());
                    self.append(item);
                }
                _ => self.append(item),
            }
        }
        let (due, later) = std::mem::take(&mut self.links[at].late)
            .into_iter()
            .partition::<Vec<_>, _>(|(due_ms, _)| *due_ms <= now_ms || !self.is_stormy);
        self.links[at].late = later;
        for (_, item) in due {
            self.append(item);
        }
    }

    fn carry_out(&mut self, at: usize) {
        let now_ms = self.now_ms;
        while let Some(job) = self.links[at].jobs.take(now_ms) {
            let is_cut = self.links[at].cut_until_ms > now_ms;
            match job {
                Job::Request {
                    number, request: BackplaneRequest::Ask { nodes, question }, ..
                } => {
                    self.ask(at, number, &nodes, &question);
                }
                Job::Request { number, request, .. } => {
                    let is_failed = is_cut || self.one_in(40);
                    let is_done = !is_failed || self.rng.below(2) == 0;
                    let done =
                        if is_done { self.answer(at, request) } else { BackplaneResponse::Failed };
                    let reply = if is_failed { BackplaneResponse::Failed } else { done };
                    if is_failed {
                        self.count("failed calls");
                    }
                    let due_ms = self.due_ms();
                    self.links[at].answers.push(due_ms, News::Response { number, reply });
                }
                Job::Detach(channel) => _ = self.links[at].attached.remove(&channel),
                Job::Respond { node, number, answer } => {
                    let from = self.links[at].node.clone();
                    if !is_cut {
                        self.respond(&node, number, from, answer);
                    }
                }
                Job::Written(up_to) => self.written = self.written.max(Some(up_to)),
            }
        }
    }

    fn answer(&mut self, at: usize, call: BackplaneRequest) -> BackplaneResponse {
        match call {
            BackplaneRequest::Attach { channel, epoch } => {
                self.links[at].attached.insert(channel.clone());
                self.begin_channel(&channel, &epoch);
                BackplaneResponse::Channel(self.state(&channel, 0, usize::MAX))
            }
            BackplaneRequest::Read { channel, after, limit, epoch } => {
                if let Some(epoch) = epoch {
                    self.begin_channel(&channel, &epoch);
                }
                BackplaneResponse::Channel(self.state(&channel, after, limit))
            }
            BackplaneRequest::Publish { message, epoch, history_max, .. } => {
                self.publish(message, &epoch, history_max)
            }
            BackplaneRequest::Delete { channel } => {
                BackplaneResponse::Deleted(self.channels.remove(&channel).is_some())
            }
            BackplaneRequest::AppendToJournal { text } => {
                let sequence = self.journal.len() as u64 + 1;
                let number = u32::try_from(sequence).expect("few");
                let id = MessageId::from_parts(self.now_ms, number, 0);
                let message = DirectMessage::decode(&text).expect("as it was encoded");
                self.journal.push(JournalEntry { sequence, id, message });
                BackplaneResponse::Journaled { id, sequence }
            }
            BackplaneRequest::Newest => BackplaneResponse::Newest(self.journal.len() as u64),
            BackplaneRequest::Ask { .. } => BackplaneResponse::Failed,
        }
    }

    fn begin_channel(&mut self, channel: &ChannelName, epoch: &str) {
        if !self.channels.contains_key(channel) {
            self.epochs += 1;
            let epoch = format!("{epoch}.{}", self.epochs);
            let begun = Channel { epoch, offset: 0, kept: VecDeque::new() };
            self.channels.insert(channel.clone(), begun);
        }
    }

    fn state(&self, channel: &ChannelName, after: u64, limit: usize) -> Option<ChannelState> {
        let there = self.channels.get(channel)?;
        let kept = there.kept.iter().filter(|one| one.offset > after).take(limit).cloned();
        let kept = kept.collect();
        Some(ChannelState { epoch: there.epoch.clone(), offset: there.offset, kept })
    }

    fn publish(
        &mut self,
        message: ChannelMessage,
        epoch: &str,
        history_max: usize,
    ) -> BackplaneResponse {
        self.begin_channel(&message.channel, epoch);
        let at_ms = self.now_ms;
        let channel = self.channels.get_mut(&message.channel).expect("it is begun");
        channel.offset += 1;
        let (epoch, offset) = (channel.epoch.clone(), channel.offset);
        let placed = SequencedMessage { epoch: epoch.clone(), offset, at_ms, message };
        channel.kept.push_back(placed.clone());
        while channel.kept.len() > history_max.min(KEPT_MAX) {
            channel.kept.pop_front();
        }
        for at in 0..self.links.len() {
            let link = &self.links[at];
            let is_heard = link.attached.contains(&placed.message.channel);
            if is_heard && link.cut_until_ms <= self.now_ms {
                let due_ms = self.due_ms();
                self.links[at].topics.push(due_ms, placed.clone());
            }
        }
        BackplaneResponse::Published(MessagePosition { epoch, offset, at_ms })
    }

    fn ask(&mut self, at: usize, number: u64, nodes: &[String], question: &str) {
        let asker = self.links[at].node.clone();
        let is_cut = |link: &Link| link.cut_until_ms > self.now_ms;
        let is_asker_cut = is_cut(&self.links[at]);
        let heard: Vec<usize> = (0..self.links.len())
            .filter(|&to| {
                let link = &self.links[to];
                nodes.contains(&link.node) && link.died_ms.is_none()
            })
            .filter(|&to| !is_asker_cut && !is_cut(&self.links[to]))
            .collect();
        let missing = heard.iter().map(|&to| self.links[to].node.clone()).collect();
        for to in heard {
            let due_ms = self.due_ms();
            let (node, question) = (asker.clone(), question.to_owned());
            self.links[to].answers.push(due_ms, News::Asked { node, number, question });
        }
        let until_ms = self.now_ms + limits::CLUSTER_ASK_MS;
        self.questions.push(Question { asker, number, missing, answers: Vec::new(), until_ms });
    }

    fn respond(&mut self, asker: &str, number: u64, from: String, answer: String) {
        let is_it = |question: &&mut Question| question.asker == asker && question.number == number;
        if let Some(question) = self.questions.iter_mut().find(is_it)
            && question.missing.remove(&from)
        {
            question.answers.push((from, answer));
        }
    }

    /// Answers the questions that all have answered, or that have waited for long enough.
    fn give_up_questions(&mut self) {
        let now_ms = self.now_ms;
        let is_over =
            |question: &Question| question.missing.is_empty() || question.until_ms <= now_ms;
        let (over, open) = std::mem::take(&mut self.questions).into_iter().partition(is_over);
        self.questions = open;
        for Question { asker, number, answers, .. } in over {
            let due_ms = self.due_ms();
            let reply = BackplaneResponse::Nodes(answers);
            self.link(&asker).answers.push(due_ms, News::Response { number, reply });
        }
    }

    fn read(&mut self, at: usize) {
        let Some(snapshot) = &self.snapshot else { return };
        let lags = self.links[at].lags_until_ms > self.now_ms;
        let end = self.items.len() as u64;
        match self.links[at].place {
            Some((generation, sequence)) if generation == self.generation => {
                if sequence == end || lags || (self.is_stormy && self.rng.below(3) == 0) {
                    return;
                }
                let until = if self.is_stormy {
                    sequence + 1 + self.rng.below(end - sequence)
                } else {
                    end
                };
                let items = self.items[sequence as usize..until as usize].to_vec();
                let due_ms = self.due_ms();
                self.links[at].entries.push(due_ms, News::Log(items));
                self.links[at].place = Some((self.generation, until));
            }
            _ => {
                let (snapshot, items) = (Box::new(snapshot.clone()), self.items.clone());
                self.count("snapshots begun from");
                let due_ms = self.due_ms();
                self.links[at].entries.push(due_ms, News::Install { snapshot, items });
                self.links[at].place = Some((self.generation, end));
            }
        }
        let read = self.links[at].journal_read;
        if read < self.journal.len() {
            let due_ms = self.due_ms();
            let news = News::JournalEntries(self.journal[read..].to_vec());
            self.links[at].answers.push(due_ms, news);
            self.links[at].answers.push(due_ms, News::JournalRead(self.journal.len() as u64));
            self.links[at].journal_read = self.journal.len();
        }
    }

    /// A sign of life, and what it is answered.
    fn beat(&mut self, at: usize) {
        if self.links[at].beat_ms > self.now_ms {
            return;
        }
        self.links[at].beat_ms = self.now_ms + limits::CLUSTER_HEARTBEAT_MS;
        let now_ms = self.now_ms;
        let nodes = self.links.iter().filter_map(|link| {
            let age_ms = match link.died_ms {
                Some(died_ms) => now_ms - died_ms,
                None => 0,
            };
            let is_alive = age_ms < limits::CLUSTER_NODE_MS;
            let is_known = age_ms < limits::CLUSTER_FORGET_MS;
            let about = String::from("{}");
            is_known.then(|| NodeView { id: link.node.clone(), age_ms, is_alive, about })
        });
        let news = News::Nodes {
            nodes: nodes.collect(),
            contact_ms: now_ms + self.links[at].skew_ms,
            newest: self.snapshot.as_ref().map_or(0, |snapshot| snapshot.sequence)
                + self.items.len() as u64,
            written: self.written,
        };
        // What keeps the log from a node may keep this from it as well.
        let is_late = self.links[at].lags_until_ms > now_ms;
        let late_ms = if is_late { self.rng.below(3_000) } else { 0 };
        let due_ms = self.due_ms() + late_ms;
        self.links[at].answers.push(due_ms, news);
    }

    fn deliver(&mut self, at: usize) {
        let now_ms = self.now_ms;
        let mut news = Vec::new();
        let link = &mut self.links[at];
        // Each comes over a connection of its own, so their order among each other is chance.
        let first = self.rng.below(3);
        for way in [first, first + 1, first + 2] {
            match way % 3 {
                0 => news.extend(std::iter::from_fn(|| link.entries.take(now_ms))),
                1 => news.extend(std::iter::from_fn(|| link.answers.take(now_ms))),
                _ => news.extend(
                    std::iter::from_fn(|| link.topics.take(now_ms))
                        .map(|placed| News::ChannelMessages(vec![placed])),
                ),
            }
        }
        for one in news {
            let command = ControlMessage { accepted_ns: 0, task: Task::Cluster(one) };
            link.control.push(command).expect("room");
        }
    }

    /// The log loses its newest entries. Returns whether a node knows more than is left: that one has
    /// to begin a log anew.
    pub fn lose_tail(&mut self) -> Option<String> {
        if self.items.is_empty() {
            return None;
        }
        self.count("lost tails");
        let lost = 1 + self.rng.below(self.items.len().min(6) as u64) as usize;
        self.items.truncate(self.items.len() - lost);
        let left = self.items.len() as u64;
        let living = self.links.iter().filter(|link| link.died_ms.is_none());
        let best = living.max_by_key(|link| self.read_by(&link.node))?;
        (self.read_by(&best.node) > left).then(|| best.node.clone())
    }

    /// Hands a node all entries that are on their way to it.
    pub fn hurry(&mut self, node: &str) {
        let link = self.link(node);
        while let Some((_, news)) = link.entries.0.pop_front() {
            let command = ControlMessage { accepted_ns: 0, task: Task::Cluster(news) };
            link.control.push(command).expect("room");
        }
    }
}

fn item_of(node: &str, proposal: Proposal) -> LogItem {
    let Proposal { number, at_ms, entry } = proposal;
    let entry = decode(&entry).expect("as it was encoded");
    LogItem { position: String::new(), node: node.into(), number, at_ms, entry }
}
