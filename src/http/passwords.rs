//! Password hashing, on threads of its own with low priority.
//!
//! A hash takes tens of milliseconds of a core. On a shard's thread it would hold up thousands of
//! sockets; on threads of equal priority a storm of logins would take half of the machine. These
//! get what the shards leave. Figures: PERF.md, logins.
//!
//! Logins, registrations and Eureka's clients have a queue each. A free thread takes from a random queue that
//! is not empty: a flood in one queue slows the others down and fills none of them.
//!
//! Imports `auth`, `limits` and `wire`. Imported by `http::users` and `doors::eureka`.

use std::io;

use crossbeam_channel::{Receiver, Sender, bounded};
use tokio::sync::oneshot;

use crate::auth::accounts;
use crate::limits;
use crate::wire::refusal::Refusal;

/// How much lower the priority is (`nice`): a tenth of the processor under full load.
const NICE: i32 = 10;

/// The queue that a password waits in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PasswordQueue {
    /// Logins and changes of a password.
    Login,
    /// Registrations.
    Registration,
    /// Eureka's clients, which send a password with every call.
    Eureka,
}

const QUEUES: usize = 3;

enum Job {
    Hash(String, oneshot::Sender<Option<String>>),
    Verify(String, Option<String>, oneshot::Sender<bool>),
}

impl Job {
    fn run(self) {
        // The caller may have gone.
        match self {
            Job::Hash(password, reply) => {
                if !reply.is_closed() {
                    _ = reply.send(accounts::hash(&password));
                }
            }
            Job::Verify(password, hash, reply) => {
                if !reply.is_closed() {
                    _ = reply.send(accounts::verify(&password, hash.as_deref()));
                }
            }
        }
    }
}

/// The threads' queues.
#[derive(Debug)]
pub struct Passwords([Sender<Job>; QUEUES]);

impl Passwords {
    /// Starts the threads: one a core, for they yield to everything else.
    ///
    /// # Errors
    ///
    /// If a thread cannot be started.
    pub fn start() -> io::Result<Passwords> {
        let [login, registration, eureka] =
            [(); QUEUES].map(|()| bounded::<Job>(limits::PASSWORDS_WAITING_MAX));
        let threads = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(limits::PASSWORD_THREADS_MAX);
        for _ in 0..threads {
            let inboxes = [login.1.clone(), registration.1.clone(), eureka.1.clone()];
            std::thread::Builder::new()
                .name(String::from("passwords"))
                .spawn(move || work(&inboxes))?;
        }
        Ok(Passwords([login.0, registration.0, eureka.0]))
    }

    /// Hashes a password.
    ///
    /// # Errors
    ///
    /// `unavailable` if the queue is full.
    pub async fn hash(&self, queue: PasswordQueue, password: String) -> Result<String, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.send(queue, Job::Hash(password, reply))?;
        answer.await.ok().flatten().ok_or_else(Refusal::internal)
    }

    /// Whether a password matches a hash; without a hash it takes as long, and does not match.
    ///
    /// # Errors
    ///
    /// `unavailable` if the queue is full.
    pub async fn verify(
        &self,
        queue: PasswordQueue,
        password: String,
        hash: Option<String>,
    ) -> Result<bool, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.send(queue, Job::Verify(password, hash, reply))?;
        answer.await.map_err(|_| Refusal::internal())
    }

    fn send(&self, queue: PasswordQueue, job: Job) -> Result<(), Refusal> {
        self.0[queue as usize].try_send(job).map_err(|_| Refusal::unavailable())
    }
}

/// Takes jobs until the server ends.
fn work(inboxes: &[Receiver<Job>; QUEUES]) {
    // On Linux this is the thread's own. If it is refused, all threads are equal.
    let _ = rustix::process::nice(NICE);
    let [login, registration, eureka] = inboxes;
    loop {
        let job = crossbeam_channel::select! {
            recv(login) -> job => job,
            recv(registration) -> job => job,
            recv(eureka) -> job => job,
        };
        // All three end together.
        let Ok(job) = job else { return };
        job.run();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    /// Without a thread that takes jobs, so that queues stay full.
    #[test]
    fn a_full_queue_at_one_door_refuses_nobody_at_the_others() {
        let queues = [(); QUEUES].map(|()| bounded::<Job>(limits::PASSWORDS_WAITING_MAX));
        let passwords = Passwords(queues.each_ref().map(|(jobs, _)| jobs.clone()));
        let mut context = Context::from_waker(Waker::noop());
        let mut is_refused = |queue| {
            let mut asked = pin!(passwords.hash(queue, String::from("password")));
            matches!(asked.as_mut().poll(&mut context), Poll::Ready(Err(_)))
        };
        let refused = (0..=limits::PASSWORDS_WAITING_MAX)
            .filter(|_| is_refused(PasswordQueue::Registration))
            .count();
        assert_eq!(refused, 1);
        assert!(!is_refused(PasswordQueue::Login));
        assert!(!is_refused(PasswordQueue::Eureka));
        assert!(is_refused(PasswordQueue::Registration));
    }
}
