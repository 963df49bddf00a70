//! The writing thread.
//!
//! It carries out one job at a time, and a stop cuts every wait short. It reports a failed job to control,
//! which decides when to try again. Rows that the database refuses for their content are found by bisection
//! and set aside, so that they hold up nothing else.
//!
//! Imports its siblings, `limits`, `state` and `wire`. Part of `store`.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::address::{Address, Mode};
use super::database::{Database, timed_out};
use super::{SetOutcome, StoreError, StoreHealth, StoreSnapshot};
use crate::limits;
use crate::state::durable::{Write, WriteResult, Written};
use crate::state::journal::JournalEntry;
use crate::state::registry::unsaved::{RegistryDelta, Row};
use crate::wire::refusal::Refusal;

/// A job of the thread.
pub(super) enum Job {
    Write(Arc<RegistryDelta>),
    Execute(Arc<Vec<Write>>),
    /// Write, mark as complete, and end.
    Close(RegistryDelta),
}

/// The arguments of the thread.
pub(super) struct Worker {
    pub(super) mode: Mode,
    pub(super) is_idle: Arc<AtomicBool>,
    pub(super) health: StoreHealth,
    pub(super) inbox: Receiver<Job>,
    pub(super) outcome: Arc<Mutex<Option<SetOutcome>>>,
    pub(super) on_stored: Box<dyn Fn(Vec<WriteResult>) + Send>,
    /// True when the server stops: then a statement has little time.
    pub(super) hurry: watch::Receiver<bool>,
}

/// The thread, with its database open.
struct Running {
    worker: Worker,
    runtime: Runtime,
    database: Database,
    /// Direct messages that are not in the inboxes yet.
    fresh: usize,
    /// Whether a set of registry changes failed: the next one shows whether the store is well.
    awaits_set: bool,
    /// Failed probes since the store was last well.
    failures: u32,
    /// Keys of rows that the database refused and does not have in their newest form.
    aside: HashSet<String>,
}

impl Worker {
    /// Opens the database, reports its content, and works until there are no more jobs.
    pub(super) fn run(self, address: &Address, opened: &Sender<Result<StoreSnapshot, StoreError>>) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(fault) => {
                let _ = opened.send(Err(StoreError::Thread(fault)));
                return;
            }
        };
        match runtime.block_on(Database::open(address, self.mode)) {
            Ok((database, snapshot)) => {
                let _ = opened.send(Ok(snapshot));
                let mut running = Running {
                    worker: self,
                    runtime,
                    database,
                    fresh: 0,
                    awaits_set: false,
                    failures: 0,
                    aside: HashSet::new(),
                };
                running.work();
                // A name server that does not answer must not delay the end.
                running.runtime.shutdown_background();
            }
            Err(fault) => _ = opened.send(Err(fault)),
        }
    }
}

/// Waits for the database within its time, which is shorter when the server stops.
fn wait<T>(
    runtime: &Runtime,
    mut hurry: watch::Receiver<bool>,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    runtime.block_on(async {
        // A dropped store counts as one that stops.
        let stops = async { _ = hurry.wait_for(|&is_stopping| is_stopping).await };
        let is_late = async {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(limits::STORE_SHARED_MS)) => {}
                () = stops => {
                    tokio::time::sleep(Duration::from_millis(limits::STORE_CLOSE_MS)).await;
                }
            }
        };
        tokio::select! {
            biased;
            result = work => result,
            () = is_late => Err(timed_out()),
        }
    })
}

/// Waits for a method of the database.
macro_rules! ask {
    ($self:ident.$method:ident($($argument:expr),*)) => {
        wait(&$self.runtime, $self.worker.hurry.clone(), $self.database.$method($($argument),*))
    };
}

impl Running {
    fn work(&mut self) {
        loop {
            if self.fresh >= limits::INBOX_MERGE_MESSAGES {
                self.merge();
            }
            let results = match self.worker.inbox.recv_timeout(self.patience()) {
                Ok(Job::Write(delta)) => {
                    let outcome = self.write(&delta);
                    *self.worker.outcome.lock() = Some(outcome);
                    Vec::new()
                }
                Ok(Job::Execute(writes)) => {
                    if self.worker.mode == Mode::Alone {
                        self.fresh += writes.len();
                    }
                    self.execute(&writes)
                }
                Ok(Job::Close(delta)) => return self.close(&delta),
                Err(RecvTimeoutError::Timeout) => {
                    if self.worker.health.is_ok() {
                        self.merge();
                    } else {
                        self.probe();
                    }
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            self.worker.is_idle.store(true, Ordering::Release);
            (self.worker.on_stored)(results);
        }
    }

    /// The time to wait for the next job: a store that is not well probes itself, because control
    /// gives it no jobs, and a store at rest has messages to sort. After a failed set of changes
    /// the next set is the probe.
    fn patience(&self) -> Duration {
        match (self.worker.health.is_ok(), self.fresh) {
            (false, _) if self.awaits_set => Duration::MAX,
            (false, _) => pause(self.failures),
            (true, 0) => Duration::MAX,
            (true, _) => Duration::from_millis(limits::INBOX_MERGE_REST_MS),
        }
    }

    fn is_stopping(&self) -> bool {
        *self.worker.hurry.borrow()
    }

    fn recover(&mut self) {
        if !self.worker.health.is_ok() {
            tracing::info!("the store takes writes again");
        }
        self.worker.health.set(true);
        (self.awaits_set, self.failures) = (false, 0);
    }

    /// Notes a failure, and drops the connection.
    fn fail(&mut self) {
        self.worker.health.set(false);
        self.failures = self.failures.saturating_add(1);
        self.runtime.block_on(self.database.reset());
    }

    /// Sorts new messages into the inboxes. No caller waits for it; a failure marks the store unhealthy.
    fn merge(&mut self) {
        if self.fresh == 0 || !self.worker.health.is_ok() {
            return;
        }
        match ask!(self.merge_inboxes()) {
            Ok(()) => self.fresh = 0,
            Err(fault) => {
                tracing::error!(%fault, "the inboxes cannot be brought up to date");
                self.fail();
            }
        }
    }

    fn probe(&mut self) {
        match ask!(self.probe()) {
            Ok(()) => self.recover(),
            Err(fault) => {
                tracing::debug!(%fault, "the store still takes no writes");
                self.fail();
            }
        }
    }

    /// Writes a set, one time. A row that the database refuses for its content is set aside, and
    /// the rest is written without it.
    fn write(&mut self, delta: &RegistryDelta) -> SetOutcome {
        if self.worker.mode == Mode::Shared && delta.rows.is_empty() {
            // The nodes' log has the registry. Of a set the audit log gets its events.
            return SetOutcome::Written;
        }
        let written = match ask!(self.write(delta)) {
            Err(fault) if self.database.refuses_data(&fault) => {
                tracing::warn!(%fault, rows = delta.rows.len(), "a set of changes is written in parts");
                self.runtime.block_on(self.database.reset());
                self.write_apart(delta)
            }
            result => result.inspect(|()| self.note_written(delta)),
        };
        match written {
            Ok(()) => {
                self.recover();
                SetOutcome::Written
            }
            Err(fault) => {
                tracing::error!(%fault, rows = delta.rows.len(), "the store refused a set of changes");
                self.awaits_set = true;
                self.fail();
                SetOutcome::Refused
            }
        }
    }

    /// Writes a set in ever smaller parts around the rows that are refused.
    fn write_apart(&mut self, delta: &RegistryDelta) -> Result<(), sqlx::Error> {
        let mut parts = vec![delta.clone()];
        let mut refused = 0;
        while let Some(part) = parts.pop() {
            if self.is_stopping() && refused > 0 {
                // The rest is named with all rows that could not be stored.
                return Err(timed_out());
            }
            match ask!(self.write(&part)) {
                Ok(()) => self.note_written(&part),
                Err(fault) if !self.database.refuses_data(&fault) => return Err(fault),
                Err(fault) => {
                    self.runtime.block_on(self.database.reset());
                    match part.rows.len() {
                        0 => return Err(fault),
                        1 => {
                            refused += 1;
                            if refused > limits::STORE_SET_ASIDE_MAX {
                                return Err(fault);
                            }
                            self.set_aside(&part, &fault);
                        }
                        _ => {
                            let (first, second) = part.halves();
                            parts.extend([second, first]);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Gives up one row until it changes again.
    fn set_aside(&mut self, row: &RegistryDelta, fault: &sqlx::Error) {
        self.worker.health.count_aside();
        for (table, key) in row.rows.iter().map(Row::key) {
            // An event never changes: it is lost, and the registry is complete without it.
            let is_event = table == "audit";
            if !is_event && self.aside.len() < limits::STORE_ASIDE_KEYS_MAX {
                self.aside.insert(aside_key(table, key));
            }
            tracing::error!(
                %fault, table, key = key.escape_debug().to_string(), row = ?row,
                "the database refuses a row: it is set aside until it changes"
            );
        }
    }

    fn note_written(&mut self, delta: &RegistryDelta) {
        if !self.aside.is_empty() {
            for (table, key) in delta.rows.iter().map(Row::key) {
                self.aside.remove(&aside_key(table, key));
            }
        }
    }

    /// Carries out writes, one time: a caller learns of a failure at once and is not kept waiting.
    fn execute(&mut self, writes: &[Write]) -> Vec<WriteResult> {
        let fault = match ask!(self.execute(writes)) {
            Ok(results) => {
                self.recover();
                return results;
            }
            Err(fault) => fault,
        };
        if self.database.refuses_data(&fault) {
            self.runtime.block_on(self.database.reset());
            return self.execute_apart(writes, fault);
        }
        tracing::error!(%fault, writes = writes.len(), "the store refused writes");
        self.fail();
        writes.iter().map(|_| Err(Refusal::unavailable())).collect()
    }

    /// Carries out writes in ever smaller parts around those that are refused. Their order stays.
    fn execute_apart(&mut self, writes: &[Write], first: sqlx::Error) -> Vec<WriteResult> {
        let mut results: Vec<WriteResult> = Vec::with_capacity(writes.len());
        // The whole set has been tried.
        let mut known = Some(first);
        let mut parts = vec![(0, writes.len())];
        while let Some((start, end)) = parts.pop() {
            let batch = &writes[start..end];
            let result = match known.take() {
                Some(fault) => Err(fault),
                None => ask!(self.execute(batch)),
            };
            match result {
                Ok(part_results) => results.extend(part_results),
                Err(fault) if self.database.refuses_data(&fault) => {
                    self.runtime.block_on(self.database.reset());
                    if let [one] = batch {
                        results.push(self.execute_pieces(one, &fault));
                    } else {
                        let middle = start + batch.len() / 2;
                        parts.extend([(middle, end), (start, middle)]);
                    }
                }
                Err(fault) => {
                    tracing::error!(%fault, writes = batch.len(), "the store refused writes");
                    self.fail();
                    break;
                }
            }
        }
        results.resize(writes.len(), Err(Refusal::unavailable()));
        results
    }

    /// The result of one write that was refused. If it is many rows of one kind, the valid ones are
    /// written.
    fn execute_pieces(&mut self, write: &Write, fault: &sqlx::Error) -> WriteResult {
        match write {
            Write::JournalRun(run) => self.write_one_by_one(run, fault),
            Write::Seen { people, at_ms } if people.len() > 1 => {
                for person in people {
                    let one = Write::Seen { people: vec![person.clone()], at_ms: *at_ms };
                    match ask!(self.execute(std::slice::from_ref(&one))) {
                        Ok(_) => {}
                        Err(fault) if self.database.refuses_data(&fault) => {
                            self.runtime.block_on(self.database.reset());
                            self.refuse(&one, &fault);
                        }
                        Err(fault) => return self.unavailable(&fault),
                    }
                }
                Ok(Written::Done)
            }
            Write::Seen { .. } => {
                // No caller waits for it, and it would come again.
                self.refuse(write, fault);
                Ok(Written::Done)
            }
            _ => {
                self.refuse(write, fault);
                Err(Refusal::internal())
            }
        }
    }

    /// Writes a run of the journal message by message, and skips refused messages: otherwise later
    /// ones would never be written.
    fn write_one_by_one(&mut self, run: &[Arc<JournalEntry>], fault: &sqlx::Error) -> WriteResult {
        if let [only] = run {
            self.refuse(&Write::JournalRun(run.to_vec()), fault);
            return match ask!(self.pass_entry(only.id)) {
                Ok(()) => Ok(Written::Done),
                Err(fault) => self.unavailable(&fault),
            };
        }
        for entry in run {
            let one = Write::JournalRun(vec![Arc::clone(entry)]);
            match ask!(self.execute(std::slice::from_ref(&one))) {
                Ok(_) => {}
                Err(fault) if self.database.refuses_data(&fault) => {
                    self.runtime.block_on(self.database.reset());
                    self.write_one_by_one(std::slice::from_ref(entry), &fault)?;
                }
                Err(fault) => return self.unavailable(&fault),
            }
        }
        Ok(Written::Done)
    }

    fn refuse(&mut self, write: &Write, fault: &sqlx::Error) {
        self.worker.health.count_aside();
        // A write may hold the hash of a password.
        let shown = match write {
            Write::Account { user_id, username, .. } => {
                format!("account {user_id} {}", username.escape_debug())
            }
            write => format!("{write:?}"),
        };
        tracing::error!(%fault, write = shown, "the database refuses a write");
    }

    fn unavailable(&mut self, fault: &sqlx::Error) -> WriteResult {
        tracing::error!(%fault, "the store refused a write");
        self.fail();
        Err(Refusal::unavailable())
    }

    /// Writes the last set, and marks the database as complete, if it is.
    fn close(&mut self, delta: &RegistryDelta) {
        self.merge();
        let mut outcome = self.write(delta);
        for _ in 1..limits::STORE_CLOSE_ATTEMPTS_MAX {
            if outcome == SetOutcome::Written {
                break;
            }
            outcome = self.write(delta);
        }
        let is_complete = outcome == SetOutcome::Written && self.aside.is_empty();
        if !self.aside.is_empty() {
            tracing::error!(
                rows = self.aside.len(),
                "the database is not complete: rows that it refused are missing"
            );
        }
        if is_complete && let Err(fault) = self.mark_complete(delta.version) {
            tracing::error!(%fault, "the store was not closed cleanly");
        }
        *self.worker.outcome.lock() = Some(outcome);
    }

    fn mark_complete(&mut self, version: u64) -> Result<(), sqlx::Error> {
        ask!(self.close(version))
    }
}

fn aside_key(table: &str, key: &str) -> String {
    format!("{table} {key}")
}

/// The pause after this many failures.
pub(super) fn pause(failures: u32) -> Duration {
    let ceiling = limits::STORE_RETRY_MS_MAX;
    let doubled = limits::STORE_RETRY_MS_MIN << failures.saturating_sub(1).min(16);
    Duration::from_millis(doubled.min(ceiling))
}
