//! Where passwords are hashed: threads of their own, of low priority.
//!
//! A hash takes tens of milliseconds of a core. On a shard's thread it would hold up thousands of
//! sockets; on threads of equal priority a storm of logins would take half of the machine. These
//! get what the shards leave. Figures: PERF.md, logins.
//!
//! Imports `auth::accounts` and `limits`. Imported by `http::users`.

use std::io;

use crossbeam_channel::Sender;
use tokio::sync::oneshot;

use crate::auth::accounts;
use crate::limits;
use crate::wire::refusal::Refusal;

/// How much lower the priority is (`nice`): a tenth of the processor under full load.
const NICE: i32 = 10;

enum Job {
    Hash(String, oneshot::Sender<Option<String>>),
    Verify(String, Option<String>, oneshot::Sender<bool>),
}

/// The threads' queue.
#[derive(Debug)]
pub struct Passwords(Sender<Job>);

impl Passwords {
    /// Starts the threads: one a core, for they yield to everything else.
    ///
    /// # Errors
    ///
    /// Where one cannot be started.
    pub fn start() -> io::Result<Passwords> {
        let (jobs, inbox) = crossbeam_channel::bounded::<Job>(limits::PASSWORDS_WAITING_MAX);
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8);
        for _ in 0..threads {
            let inbox = inbox.clone();
            std::thread::Builder::new().name(String::from("passwords")).spawn(move || {
                // On Linux this is the thread's own. Where it is refused, all are equal.
                let _ = rustix::process::nice(NICE);
                for job in inbox {
                    // Whoever asked may have gone.
                    match job {
                        Job::Hash(password, reply) => _ = reply.send(accounts::hash(&password)),
                        Job::Verify(password, hash, reply) => {
                            _ = reply.send(accounts::verify(&password, hash.as_deref()));
                        }
                    }
                }
            })?;
        }
        Ok(Passwords(jobs))
    }

    /// Hashes a password.
    ///
    /// # Errors
    ///
    /// `unavailable` where too many wait.
    pub async fn hash(&self, password: String) -> Result<String, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.0.try_send(Job::Hash(password, reply)).map_err(|_| Refusal::unavailable())?;
        answer.await.ok().flatten().ok_or_else(Refusal::internal)
    }

    /// Whether a password is the one behind a hash; without a hash it takes as long, and is not.
    ///
    /// # Errors
    ///
    /// `unavailable` where too many wait.
    pub async fn verify(&self, password: String, hash: Option<String>) -> Result<bool, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.0.try_send(Job::Verify(password, hash, reply)).map_err(|_| Refusal::unavailable())?;
        answer.await.map_err(|_| Refusal::internal())
    }
}
