//! The scenarios: one module per kind of test, and the steps that they share.
//!
//! ```text
//! open the fleet --> subscribe --> publish (schedule, own thread) while reading --> wait for the rest
//! ```
//!
//! Imports everything but the reports. Imported by `main`.

mod chat;
mod cpu_meter;
mod direct;
mod fanout;
mod flow;
mod idle;
mod slow;
mod storm;
mod stream;

use std::io;
use std::time::Duration;

use crate::args::{Plan, TestType};
use crate::clock::Clock;
use crate::fleet::{ASKED_AT_ONCE_MAX, Fleet};
use crate::layout::Layout;
use crate::outcome::Outcome;
use crate::process::Process;
use crate::progress::Progress;
use crate::publisher::{PublishBy, Publisher};
use crate::schedule::{self, Schedule};
use crate::tally::Tally;
use crate::target::Target;

/// The most connections on their way together, except in a storm.
const UNDER_WAY_MAX: usize = 256;

/// How long connecting may go without any progress.
const SETTLE_NS: u64 = 10_000_000_000;

/// How long one turn of the loop waits at most.
const TURN: Duration = Duration::from_millis(5);

/// How long the closing handshakes may take in all.
const CLOSE_NS: u64 = 3_000_000_000;

/// The context of all tests of a run.
#[derive(Debug)]
pub(crate) struct Bench {
    /// The secret of the server's tokens, if it is known.
    pub(crate) secret: Option<String>,
    /// The server.
    pub(crate) target: Target,
    /// Its process, when it is local.
    pub(crate) process: Option<Process>,
    /// Its limit of client messages per second and connection.
    pub(crate) messages_per_s_max: Option<u64>,
    /// The most connections of the token's user.
    pub(crate) connections_left: Option<usize>,
    /// The time.
    pub(crate) clock: Clock,
    /// The bar.
    pub(crate) progress: Progress,
    /// The prefix of this run's services.
    pub(crate) run_id: String,
    /// The number of sockets used so far.
    pub(crate) serial: usize,
    /// The number of users that this run has made: those with the numbers below this.
    pub(crate) users: usize,
}

/// Runs one test.
pub(crate) fn run(bench: &mut Bench, plan: &Plan) -> io::Result<Outcome> {
    let mut outcome = match plan.test {
        TestType::Throughput | TestType::Sustained | TestType::All => stream::run(bench, plan),
        TestType::Storm => storm::run(bench, plan),
        TestType::Fanout => fanout::run(bench, plan),
        TestType::Slow => slow::run(bench, plan),
        TestType::Idle => idle::run(bench, plan),
        TestType::Chat => chat::run(bench, plan),
        TestType::Direct => direct::run(bench, plan),
    }?;
    bench.progress.finish();
    outcome.judge();
    Ok(outcome)
}

impl Bench {
    /// The secret, for tests that sign in as many users.
    fn secret(&self) -> io::Result<String> {
        let missing = "--jwt-secret is needed: this test signs in as many users";
        self.secret.clone().ok_or_else(|| io::Error::other(missing))
    }

    /// The prefix of the services of a test. Lower case, as the server's canonical form is.
    fn prefix(&self, plan: &Plan) -> String {
        format!("loadtest-{}-{}-", self.run_id, plan.test)
    }

    fn layout(plan: &Plan) -> Layout {
        Layout { services: plan.services, per_connection: plan.subscriptions }
    }

    /// A fleet with room for its connections, but without sockets.
    fn fleet(&self, plan: &Plan) -> io::Result<Fleet> {
        let tally = Tally::new(Self::layout(plan), plan.connections, self.clock.now_ns());
        let prefix = self.prefix(plan);
        Fleet::new(&self.target, &prefix, tally, plan.connections, self.clock, self.serial)
    }

    /// A publisher with as many connections as the pace needs below the server's limit, and as the
    /// user may hold beside those that subscribe.
    fn publisher(&self, plan: &Plan, schedule: Schedule) -> io::Result<Publisher> {
        let left = self.connections_left.map_or(usize::MAX, |connections_left| {
            connections_left.saturating_sub(plan.connections)
        });
        let sockets = match (plan.publishers, plan.publish_by) {
            // Only sockets count as a user's connections, and have a limit of messages.
            (given, PublishBy::Http | PublishBy::HttpPipelined) => given.unwrap_or(1),
            (Some(given), PublishBy::Frames) if given > left => {
                return Err(io::Error::other(format!(
                    "--publishers: the token's user may hold {left} connections beside those \
                     that subscribe"
                )));
            }
            (Some(given), PublishBy::Frames) => given,
            (None, PublishBy::Frames) => {
                schedule::sockets_for(schedule, self.messages_per_s_max).min(left)
            }
        };
        let (prefix, publish_by) = (self.prefix(plan), plan.publish_by);
        let (services, payload) = (plan.services, plan.payload);
        Publisher::connect(
            &self.target,
            publish_by,
            sockets,
            &prefix,
            services,
            payload,
            self.clock,
        )
        .map_err(|error| io::Error::new(error.kind(), format!("the publisher: {error}")))
    }

    /// The server's limit of messages for the way in which a plan publishes.
    fn messages_per_s_max(&self, plan: &Plan) -> Option<u64> {
        self.messages_per_s_max.filter(|_| plan.publish_by == PublishBy::Frames)
    }

    /// Connects and subscribes the whole fleet, `under_way_max` at a time. The first `slow_count`
    /// get small receive buffers.
    fn open(
        &mut self,
        fleet: &mut Fleet,
        under_way_max: usize,
        slow_count: usize,
    ) -> io::Result<()> {
        let total = fleet.place_count();
        let (mut started, mut progress) = (0, (self.clock.now_ns(), 0));
        while fleet.settled() < total || !fleet.is_answered() {
            while started < total && started - fleet.settled() < under_way_max {
                fleet.start(started, started < slow_count);
                started += 1;
            }
            fleet.turn(TURN)?;
            let done = fleet.settled() as u64 + fleet.counts.subscribed;
            let now_ns = self.clock.now_ns();
            if done > progress.1 {
                progress = (now_ns, done);
            } else if now_ns - progress.0 > SETTLE_NS {
                fleet.give_up_unsettled();
                break;
            }
            self.progress.show(fleet.settled() as u64);
        }
        self.serial = fleet.serial();
        self.ask_rest(fleet)?;
        if fleet.open_count() == 0 {
            let reason = fleet.counts.failure.clone().unwrap_or_else(|| "no answer".to_owned());
            return Err(io::Error::other(reason));
        }
        Ok(())
    }

    /// Asks for the subscriptions beyond the first, slowly enough for the server's limit.
    fn ask_rest(&mut self, fleet: &mut Fleet) -> io::Result<()> {
        let total = fleet.place_count();
        loop {
            if let Some(limit) = self.messages_per_s_max {
                let pause_s = ASKED_AT_ONCE_MAX as f64 / limit.max(1) as f64;
                let has_more = fleet.tally.layout.per_connection > ASKED_AT_ONCE_MAX;
                self.turn_for(
                    fleet,
                    if has_more { Duration::from_secs_f64(pause_s) } else { Duration::ZERO },
                )?;
            }
            let mut is_any = false;
            for index in 0..total {
                is_any |= fleet.is_open(index) && fleet.ask(index);
            }
            if !is_any {
                return Ok(());
            }
            let end_ns = self.clock.now_ns() + SETTLE_NS;
            while !fleet.is_answered() && self.clock.now_ns() < end_ns {
                fleet.turn(TURN)?;
            }
        }
    }

    /// Serves the fleet for a time.
    fn turn_for(&mut self, fleet: &mut Fleet, duration: Duration) -> io::Result<()> {
        let end_ns = self.clock.now_ns() + crate::clock::nanos(duration);
        while self.clock.now_ns() < end_ns {
            fleet.turn(TURN)?;
        }
        Ok(())
    }

    /// Closes the whole fleet with the closing handshake, and drops connections that do not close
    /// in time.
    fn close(&mut self, fleet: &mut Fleet) -> io::Result<()> {
        let total = fleet.place_count();
        for index in 0..total {
            fleet.end(index, false);
        }
        let end_ns = self.clock.now_ns() + CLOSE_NS;
        while fleet.open_count() > 0 && self.clock.now_ns() < end_ns {
            fleet.turn(TURN)?;
        }
        for index in 0..total {
            fleet.end(index, true);
        }
        Ok(())
    }
}
