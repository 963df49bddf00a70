//! The simulated database: one node's own, or the one that all nodes share.
//!
//! It keeps the promises that `store` makes to control. A transaction is carried out whole or not at all, and may
//! be slow, refused, or reported as refused though it was carried out; the process may end between its work and
//! the answer. A node starts from what is in there.

use std::collections::{BTreeMap, BTreeSet};

use fanfare::internals::auth::Standing;
use fanfare::internals::id::{MessageId, UserId};
use fanfare::internals::limits;
use fanfare::internals::mailbox::MailboxSender;
use fanfare::internals::mailbox::to_control::{ControlMessage, Task};
use fanfare::internals::rng::Rng;
use fanfare::internals::state::durable::{
    AccountChange, PeopleSnapshot, Write, WriteResult, Written,
};
use fanfare::internals::state::journal::Addressee;
use fanfare::internals::state::management::ManagementRecord;
use fanfare::internals::state::registry::unsaved::{RegistryDelta, Row};
use fanfare::internals::state::snapshot::{InstanceRecord, PullOutRecord, ServiceRecord, Snapshot};
use fanfare::internals::store::simulated::{Request, Requests};
use fanfare::internals::store::{SetOutcome, StoreSnapshot};
use fanfare::internals::wire::refusal::{Code, Refusal};

/// What is on disk.
#[derive(Default)]
pub struct Database {
    /// Whether several nodes share it: then the log has the registry, and the journal the messages.
    pub is_shared: bool,
    is_clean: bool,
    epoch: String,
    version: u64,
    revision_floor: u64,
    services: BTreeMap<String, ServiceRecord>,
    instances: BTreeMap<String, InstanceRecord>,
    pull_outs: BTreeMap<String, PullOutRecord>,
    management: BTreeMap<String, ManagementRecord>,
    pub users: BTreeSet<UserId>,
    pub channels: BTreeMap<String, String>,
    /// Each message, with whom it is for.
    pub messages: BTreeMap<MessageId, BTreeSet<UserId>>,
    /// The members of each group; the first manages it.
    pub groups: BTreeMap<String, Vec<UserId>>,
}

impl Database {
    pub fn new(is_shared: bool) -> Database {
        Database { is_shared, ..Database::default() }
    }

    /// Opens it, as a starting node does.
    pub fn open(&mut self) -> StoreSnapshot {
        let mut registry = Snapshot::default();
        if !self.is_shared {
            registry = Snapshot {
                // A history with holes does not go on.
                epoch: if self.is_clean { self.epoch.clone() } else { String::new() },
                version: self.version,
                revision_floor: self.revision_floor,
                services: self.services.values().cloned().collect(),
                instances: self.instances.values().cloned().collect(),
                pull_outs: self.pull_outs.values().cloned().collect(),
                management: self.management.values().cloned().collect(),
                ..Snapshot::default()
            };
            registry.services.sort_by_key(|service| service.empty_since_ms);
            self.is_clean = false;
            self.version += limits::STORE_VERSION_RESERVE;
        }
        let newest = self.messages.keys().next_back().copied();
        let user = |user_id: &UserId| AccountChange {
            user_id: user_id.clone(),
            name_key: None,
            standing: Standing { is_disabled: false, tokens_from_ms: 0, kept_token: None },
            is_removed: false,
            changed_ms: 1,
        };
        let people = PeopleSnapshot {
            users: self.users.iter().map(user).collect(),
            ended_tokens: Vec::new(),
            channels: self.channels.clone().into_iter().collect(),
            last_message: newest,
            written: newest.filter(|_| self.is_shared),
        };
        StoreSnapshot { registry, people }
    }

    /// Marks it as complete, as a node does that stops in order.
    pub fn close(&mut self, version: u64) {
        (self.is_clean, self.version) = (true, version);
    }

    fn write(&mut self, delta: &RegistryDelta) {
        self.epoch.clone_from(&delta.epoch);
        self.version = delta.version + limits::STORE_VERSION_RESERVE;
        self.revision_floor = delta.revision_floor;
        for row in &delta.rows {
            match row.clone() {
                Row::ServiceGone(name) => _ = self.services.remove(&name),
                Row::Service(one) => _ = self.services.insert(one.service.clone(), one),
                Row::InstanceGone(identity) => _ = self.instances.remove(&identity),
                Row::Instance(one) => {
                    // A database knows no nodes.
                    let (owner, lease, is_overdue) = (String::new(), 0, false);
                    let one = InstanceRecord { owner, lease, is_overdue, ..one };
                    self.instances.insert(one.identity.clone(), one);
                }
                Row::PullOutGone(identity) => _ = self.pull_outs.remove(&identity),
                Row::PullOut(one) => _ = self.pull_outs.insert(one.identity.clone(), one),
                // These nodes keep no audit log.
                Row::Audit(..) => {}
                Row::ManagementGone(key) => _ = self.management.remove(&key),
                Row::Management(one) => _ = self.management.insert(one.key.clone(), one),
            }
        }
    }

    fn execute(&mut self, write: &Write) -> WriteResult {
        match write {
            Write::Seen { people, .. } => {
                self.users.extend(people.iter().map(|person| person.user_id.clone()));
            }
            Write::Message(entry) => match &entry.message.to {
                Addressee::User(to) => {
                    self.insert(entry.id, [entry.message.from.clone(), to.clone()]);
                }
                Addressee::Group { group_id, .. } => {
                    let members = self.members(group_id, &entry.message.from)?.clone();
                    if !self.is_shared {
                        self.insert(entry.id, members.iter().cloned());
                    }
                    return Ok(Written::For(members));
                }
            },
            Write::JournalRun(run) => {
                for one in run {
                    let members = match &one.message.to {
                        Addressee::User(to) => vec![one.message.from.clone(), to.clone()],
                        Addressee::Group { members, .. } => members.clone(),
                    };
                    // Two nodes may write the same run.
                    self.messages.entry(one.id).or_insert_with(|| members.into_iter().collect());
                }
            }
            Write::CreateGroup { group_id, members, owner, .. } => {
                assert!(members.contains(owner), "who makes a group is in it");
                self.groups.insert(group_id.clone(), members.clone());
            }
            Write::AddMember { group_id, user_id, by } => {
                if self.members(group_id, by)?.contains(user_id) {
                    return Ok(Written::Unchanged);
                }
                self.groups.entry(group_id.clone()).or_default().push(user_id.clone());
            }
            Write::RemoveMember { group_id, user_id, by } => {
                self.members(group_id, by)?;
                let members = self.groups.entry(group_id.clone()).or_default();
                members.retain(|member| member != user_id);
                if members.is_empty() {
                    self.groups.remove(group_id);
                }
            }
            Write::DefineChannel { channel, description, .. } => {
                self.channels.entry(channel.as_str().to_owned()).or_insert(description.clone());
            }
            Write::DropChannel { channel } => _ = self.channels.remove(channel.as_str()),
            other => panic!("nobody asks for {other:?} here"),
        }
        Ok(Written::Done)
    }

    fn insert(&mut self, id: MessageId, readers: impl IntoIterator<Item = UserId>) {
        let last = self.messages.last_key_value();
        assert!(last.is_none_or(|(last, _)| *last < id), "{id} is not above {last:?}");
        self.messages.insert(id, readers.into_iter().collect());
    }

    fn members(&self, group_id: &str, by: &UserId) -> Result<&Vec<UserId>, Refusal> {
        match self.groups.get(group_id) {
            None => Err(Refusal::new(Code::NotFound, "there is no such group")),
            Some(members) if members.contains(by) => Ok(members),
            Some(_) => Err(Refusal::new(Code::Forbidden, "only members may")),
        }
    }
}

/// A transaction at the database.
struct Job {
    request: Request,
    taken_ms: u64,
    works_ms: u64,
    answers_ms: u64,
    /// Whether it is carried out, and whether it is reported as refused.
    is_done: bool,
    is_refused: bool,
    results: Option<Vec<WriteResult>>,
}

/// A node's connection to its database.
pub struct SimStore {
    requests: Requests,
    rng: Rng,
    job: Option<Job>,
    /// Until when the database takes nothing.
    ill_until_ms: Option<u64>,
    /// What control knew then is on disk.
    pub durable_ms: u64,
    pub faults: u64,
    pub sets: u64,
}

impl SimStore {
    pub fn new(requests: Requests, rng: Rng, now_ms: u64) -> SimStore {
        let durable_ms = now_ms;
        SimStore { requests, rng, job: None, ill_until_ms: None, durable_ms, faults: 0, sets: 0 }
    }

    /// Whether the database has nothing to do and takes what comes.
    pub fn is_idle(&self) -> bool {
        self.job.is_none() && self.ill_until_ms.is_none()
    }

    pub fn turn(
        &mut self,
        (now_ms, is_stormy): (u64, bool),
        database: &mut Database,
        commands: &MailboxSender<ControlMessage>,
    ) {
        if self.ill_until_ms.is_some_and(|until_ms| until_ms <= now_ms || !is_stormy) {
            self.ill_until_ms = None;
            self.requests.set_healthy(true);
        }
        if self.job.is_none()
            && let Some(request) = self.requests.take()
        {
            self.job = Some(self.begin(request, now_ms, is_stormy));
        }
        let Some(job) = &mut self.job else { return };
        if job.results.is_none() && job.works_ms <= now_ms {
            job.results = Some(match &job.request {
                _ if !job.is_done => Vec::new(),
                Request::Set(delta) => {
                    database.write(delta);
                    self.durable_ms = self.durable_ms.max(job.taken_ms);
                    self.sets += 1;
                    Vec::new()
                }
                Request::Writes(writes) => {
                    writes.iter().map(|write| database.execute(write)).collect()
                }
            });
        }
        if job.answers_ms <= now_ms || (!is_stormy && job.results.is_some()) {
            self.answer(now_ms, commands);
        }
    }

    fn begin(&mut self, request: Request, now_ms: u64, is_stormy: bool) -> Job {
        let is_ill = self.ill_until_ms.is_some();
        let fate = if is_stormy { self.rng.below(40) } else { 39 };
        let is_refused = fate < 2 || is_ill;
        let is_done = !is_ill && fate != 0;
        let slow_ms = if fate == 2 { 3_000 } else { 60 };
        let works_ms = now_ms + if is_stormy { self.rng.below(slow_ms) } else { 0 };
        let answers_ms = works_ms + if is_stormy { self.rng.below(slow_ms) } else { 0 };
        self.faults += u64::from(fate < 3);
        let taken_ms = now_ms;
        Job { request, taken_ms, works_ms, answers_ms, is_done, is_refused, results: None }
    }

    fn answer(&mut self, now_ms: u64, commands: &MailboxSender<ControlMessage>) {
        let Some(job) = self.job.take() else { return };
        if job.is_refused {
            self.requests.set_healthy(false);
            self.ill_until_ms.get_or_insert(now_ms + 1 + self.rng.below(1_500));
        }
        let results = match &job.request {
            Request::Set(_) => {
                let outcome =
                    if job.is_refused { SetOutcome::Refused } else { SetOutcome::Written };
                self.requests.finish(Some(outcome));
                Vec::new()
            }
            Request::Writes(writes) => {
                self.requests.finish(None);
                match job.results {
                    Some(results) if !job.is_refused => results,
                    _ => writes.iter().map(|_| Err(Refusal::unavailable())).collect(),
                }
            }
        };
        let task = Task::Stored(results);
        commands.push_waiting(ControlMessage { accepted_ns: 0, task }).expect("control is there");
    }
}
