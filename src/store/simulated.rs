//! A store without a database: a simulation takes control's jobs and answers them.
//!
//! The simulation decides the result of each job, and answers as the thread of the real store does:
//! the result first, then [`Requests::finish`], then control's mailbox.
//!
//! Part of `store`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::Receiver;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::read_pool::ReadPool;
use super::worker::Job;
use super::{SetOutcome, Store, StoreHealth};
use crate::state::durable::Write;
use crate::state::registry::unsaved::RegistryDelta;

/// One transaction's work.
#[derive(Debug, Clone)]
pub enum Request {
    /// A set of the registry's changes.
    Set(Arc<RegistryDelta>),
    /// Writes with waiting callers. Each is owed a result.
    Writes(Arc<Vec<Write>>),
}

/// What control hands over.
#[derive(Debug)]
pub struct Requests {
    inbox: Receiver<Job>,
    is_idle: Arc<AtomicBool>,
    health: StoreHealth,
    outcome: Arc<Mutex<Option<SetOutcome>>>,
    _hurry: watch::Receiver<bool>,
}

impl Requests {
    /// The next work, where there is some. There is none before the last is finished.
    pub fn take(&self) -> Option<Request> {
        Some(match self.inbox.try_recv().ok()? {
            Job::Write(delta) => Request::Set(delta),
            Job::Execute(writes) => Request::Writes(writes),
            Job::Close(delta) => Request::Set(Arc::new(delta)),
        })
    }

    /// Ends the work: control may hand over more. `outcome` is that of a set.
    pub fn finish(&self, outcome: Option<SetOutcome>) {
        if outcome.is_some() {
            *self.outcome.lock() = outcome;
        }
        self.is_idle.store(true, Ordering::Release);
    }

    /// Says whether the database takes writes.
    pub fn set_healthy(&self, is_healthy: bool) {
        self.health.set(is_healthy);
    }
}

impl Store {
    /// A store without a thread, and its jobs.
    pub fn simulated() -> (Store, Requests) {
        let (jobs, inbox) = crossbeam_channel::bounded(1);
        let (_, ended) = crossbeam_channel::bounded(0);
        let (hurry, hurried) = watch::channel(false);
        let is_idle = Arc::new(AtomicBool::new(true));
        let (health, outcome) = (StoreHealth::always(), Arc::new(Mutex::new(None)));
        let requests = Requests {
            inbox,
            is_idle: Arc::clone(&is_idle),
            health: health.clone(),
            outcome: Arc::clone(&outcome),
            _hurry: hurried,
        };
        let read_pool = ReadPool::closed();
        let store = Store { jobs, is_idle, health, outcome, hurry, ended, read_pool, _claim: None };
        (store, requests)
    }
}
