//! A backplane without Redis: what control asks for goes to whoever stands in for it.
//!
//! For simulations. They take the requests, decide what becomes of each, and answer with [`News`] through
//! control's mailbox, as the threads of the real backplane do.
//!
//! Part of `cluster`.

use tokio::sync::mpsc;

use super::requests::Job;
use super::{BackplaneRequest, Cluster, Proposal};
use crate::clock::Clock;
use crate::id::{ChannelName, MessageId};

#[cfg(doc)]
use super::News;

/// Something that control asks of the backplane.
#[derive(Debug)]
pub enum Request {
    /// Append an entry to the log. It comes back with it, or as [`News::Lost`].
    Propose(Proposal),
    /// Answer with [`News::Called`].
    BackplaneRequest {
        /// The call's number at this node.
        number: u64,
        /// What is asked.
        call: BackplaneRequest,
    },
    /// Deliver nothing more of a channel.
    Detach(ChannelName),
    /// Tell a node what its question is answered.
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

/// What control has asked for, in its order: the entries of the log first.
#[derive(Debug)]
pub struct Requests {
    proposals: mpsc::UnboundedReceiver<Proposal>,
    jobs: mpsc::UnboundedReceiver<Job>,
}

impl Requests {
    /// The next request, where there is one.
    pub fn take(&mut self) -> Option<Request> {
        if let Ok(proposal) = self.proposals.try_recv() {
            return Some(Request::Propose(proposal));
        }
        Some(match self.jobs.try_recv().ok()? {
            Job::BackplaneRequest { number, call, .. } => {
                Request::BackplaneRequest { number, call }
            }
            Job::Detach(channel) => Request::Detach(channel),
            Job::Respond { node, number, answer } => Request::Respond { node, number, answer },
            Job::Written(up_to) => Request::Written(up_to),
        })
    }
}

impl Cluster {
    /// A backplane without a thread, and what is asked of it.
    pub fn simulated(clock: Clock) -> (Cluster, Requests) {
        let (proposals, proposal_queue) = mpsc::unbounded_channel();
        let (jobs, job_queue) = mpsc::unbounded_channel();
        let (_, ended) = crossbeam_channel::bounded(0);
        let cluster = Cluster { proposals, jobs, clock, stop: None, ended };
        (cluster, Requests { proposals: proposal_queue, jobs: job_queue })
    }
}
