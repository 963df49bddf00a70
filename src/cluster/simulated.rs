//! A backplane without Redis: the requests of control go to a simulation.
//!
//! For simulations. They take the requests, decide what becomes of each, and answer with [`News`](super::News) through
//! control's mailbox, as the threads of the real backplane do.

use tokio::sync::mpsc;

use super::{Cluster, Proposal};
use crate::clock::Clock;

pub use super::requests::Job;

/// The requests of control, in its order.
#[derive(Debug)]
pub struct Requests {
    proposals: mpsc::UnboundedReceiver<Proposal>,
    jobs: mpsc::UnboundedReceiver<Job>,
}

impl Requests {
    /// The next entry for the log, where there is one. It comes back with the log, or as
    /// [`News::Lost`](super::News::Lost).
    pub fn take_proposal(&mut self) -> Option<Proposal> {
        self.proposals.try_recv().ok()
    }

    /// The next of everything else, where there is one.
    pub fn take_job(&mut self) -> Option<Job> {
        self.jobs.try_recv().ok()
    }
}

impl Cluster {
    /// A backplane without a thread, and the requests to it.
    pub fn simulated(clock: Clock) -> (Cluster, Requests) {
        let (proposals, proposal_queue) = mpsc::unbounded_channel();
        let (jobs, job_queue) = mpsc::unbounded_channel();
        let (_, ended) = crossbeam_channel::bounded(0);
        let cluster = Cluster { proposals, jobs, clock, stop: None, ended };
        (cluster, Requests { proposals: proposal_queue, jobs: job_queue })
    }
}
