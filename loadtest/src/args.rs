//! The flags, and the defaults of each test.
//!
//! Imports `publisher`. Imported by `main` and the scenarios.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::publisher::{FRAME_BYTES_MAX, PublishBy};

/// The most connections of one process.
const CONNECTIONS_MAX: u64 = 1_000_000;

/// The most connections that publish.
const PUBLISHERS_MAX: u64 = 10_000;

/// Bytes of an event beside its padding, with room to spare.
const ENVELOPE_BYTES: u64 = 1024;

/// Load test of a fanfare server: opens many sockets, publishes events, and accounts for every
/// delivery. Exit status 1 when one was lost, duplicated or misordered.
#[derive(Debug, Parser)]
#[command(name = "websocket_stress_test", version)]
pub(crate) struct Args {
    /// The server's WebSocket endpoint
    #[arg(long, default_value = "ws://127.0.0.1:8080/ws", conflicts_with = "spawn")]
    pub(crate) url: String,
    /// How many sockets subscribe
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=CONNECTIONS_MAX))]
    pub(crate) connections: Option<u64>,
    /// How many events are published (rounds of a storm)
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) messages: Option<u64>,
    /// For how many seconds events are published, or sockets idle
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) duration: Option<u64>,
    /// Events per second; latencies then count from the moment an event was due
    #[arg(long, value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// Bytes of padding in each event, beside about 400 bytes of JSON around it
    #[arg(long, value_parser = clap::value_parser!(u64).range(0..=FRAME_BYTES_MAX as u64 - ENVELOPE_BYTES))]
    pub(crate) payload: Option<u64>,
    /// How many services the events go round, or rooms the users talk in [default: 1 service, 10 rooms]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) services: Option<u64>,
    /// How many services each socket subscribes to
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub(crate) subscriptions: u64,
    /// What to test
    #[arg(long, value_enum, default_value_t = TestType::Throughput)]
    pub(crate) test_type: TestType,
    /// How many events of a flood may be under way at once [default: up to 512, by their size]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) window: Option<u64>,
    /// How events reach the server
    #[arg(long, value_enum, default_value_t = PublishBy::Frames)]
    pub(crate) publish_by: PublishBy,
    /// Over how many connections events are published [default: 1, or more below the server's message limit]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=PUBLISHERS_MAX))]
    pub(crate) publishers: Option<u64>,
    /// Sent as "Authorization: Bearer TOKEN"
    #[arg(long)]
    pub(crate) token: Option<String>,
    /// The server's secret, for tests that sign in as many users
    #[arg(long, env = "JWT_SECRET", hide_env_values = true)]
    pub(crate) jwt_secret: Option<String>,
    /// Write all figures to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write a page with charts to this file
    #[arg(long, value_name = "FILE.html")]
    pub(crate) report: Option<PathBuf>,
    /// Start a server on a free port, and stop it at the end
    #[arg(long)]
    pub(crate) spawn: bool,
    /// The server's process, when it cannot be found by its port
    #[arg(long, value_name = "PID", conflicts_with = "spawn")]
    pub(crate) server_pid: Option<u32>,
}

/// As many events as fit half of the server's bound for one connection, 1 MiB by default: a deeper
/// flood would measure how it treats slow readers.
fn window(payload: u64) -> u64 {
    (512 * 1024 / (payload + ENVELOPE_BYTES / 2)).clamp(8, 512)
}

/// The test to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TestType {
    /// Events as fast as the server delivers them
    Throughput,
    /// All sockets connect and subscribe at once, again and again
    Storm,
    /// Events at a fixed rate for a time
    Sustained,
    /// One event at a time to all: when it reaches the first and the last
    Fanout,
    /// A tenth of the sockets stops reading; the others must not notice
    Slow,
    /// Sockets that only wait: memory per connection
    Idle,
    /// Users who talk in rooms (--services of them)
    Chat,
    /// Pairs of users who write to each other, durably
    Direct,
    /// Each of them
    All,
}

impl fmt::Display for TestType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("unnamed", |value| value.get_name()))
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.01..=1_000_000.0).contains(&value) {
        return Ok(value);
    }
    Err("not within 0.01 and 1000000 events per second".to_owned())
}

/// One test with all its figures settled.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The test; never `All`.
    pub(crate) test: TestType,
    /// The number of sockets.
    pub(crate) connections: usize,
    /// The number of events, or rounds; without a limit if only a duration was given.
    pub(crate) messages: Option<u64>,
    /// The duration.
    pub(crate) duration: Option<Duration>,
    /// Events per second.
    pub(crate) rate: Option<f64>,
    /// Bytes of padding.
    pub(crate) payload: usize,
    /// The number of services.
    pub(crate) services: usize,
    /// The services of each socket.
    pub(crate) subscriptions: usize,
    /// The most events of a flood that may be under way.
    pub(crate) window: u64,
    /// How events reach the server.
    pub(crate) publish_by: PublishBy,
    /// The connections that publish, if their number was given.
    pub(crate) publishers: Option<usize>,
}

/// The defaults of a test: connections, messages, seconds, rate, padding.
type Defaults = (u64, Option<u64>, Option<u64>, Option<f64>, u64);

fn defaults(test: TestType, is_one_of_all: bool) -> Defaults {
    let pick = |alone, among| if is_one_of_all { among } else { alone };
    match test {
        TestType::Throughput | TestType::All => (50, Some(pick(20_000, 10_000)), None, None, 256),
        TestType::Storm => (100, Some(5), None, None, 256),
        TestType::Sustained => (30, None, Some(pick(30, 15)), Some(50.0), 256),
        TestType::Fanout => (pick(1_000, 500), Some(100), None, Some(20.0), 256),
        TestType::Slow => (100, None, Some(6), Some(100.0), 16 * 1024),
        TestType::Idle => (pick(1_000, 500), None, Some(pick(30, 8)), None, 256),
        TestType::Chat => (200, None, Some(pick(20, 8)), Some(200.0), 64),
        TestType::Direct => (128, None, Some(pick(10, 6)), None, 64),
    }
}

impl Args {
    /// The tests to run, in turn.
    pub(crate) fn plans(&self) -> Vec<Plan> {
        if self.test_type != TestType::All {
            return vec![self.plan(self.test_type, false)];
        }
        // Idle connections come first: later the server's memory has grown already.
        let each = [
            TestType::Idle,
            TestType::Throughput,
            TestType::Storm,
            TestType::Sustained,
            TestType::Fanout,
            TestType::Slow,
            TestType::Chat,
            TestType::Direct,
        ];
        let skipped = self.skipped();
        let is_possible = |test: &TestType| !skipped.contains(test);
        each.into_iter().filter(is_possible).map(|test| self.plan(test, true)).collect()
    }

    /// The tests of `all` that cannot run: signing in so many users needs the secret.
    pub(crate) fn skipped(&self) -> &'static [TestType] {
        let has_secret = self.spawn || self.jwt_secret.is_some();
        if self.test_type == TestType::All && !has_secret {
            &[TestType::Chat, TestType::Direct]
        } else {
            &[]
        }
    }

    fn plan(&self, test: TestType, is_one_of_all: bool) -> Plan {
        let (connections, messages, duration, rate, payload) = defaults(test, is_one_of_all);
        // A length that the user gave, in events or in seconds, replaces the default length.
        let is_given = self.messages.is_some() || self.duration.is_some();
        let messages = self.messages.or(if is_given { None } else { messages });
        let duration = self.duration.or(if is_given { None } else { duration });
        let payload = self.payload.unwrap_or(payload);
        Plan {
            test,
            connections: self.connections.unwrap_or(connections) as usize,
            messages,
            duration: duration.map(Duration::from_secs),
            rate: self.rate.or(rate),
            payload: payload as usize,
            services: self.services.unwrap_or(if test == TestType::Chat { 10 } else { 1 }) as usize,
            subscriptions: self.subscriptions as usize,
            // Each publisher has at least one event under way.
            window: self
                .window
                .unwrap_or_else(|| window(payload).max(self.publishers.unwrap_or(1))),
            publish_by: self.publish_by,
            publishers: self.publishers.map(|publishers| publishers as usize),
        }
    }

    /// The faults of the flags that the parser does not see.
    pub(crate) fn fault(&self) -> Option<String> {
        let services = self.services.unwrap_or(1);
        if self.subscriptions > services {
            return Some(format!(
                "--subscriptions: {} is more than --services {services}",
                self.subscriptions
            ));
        }
        if let (Some(window), Some(publishers)) = (self.window, self.publishers)
            && window < publishers
        {
            return Some(format!("--publishers: {publishers} have no work with --window {window}"));
        }
        let is_by_users = matches!(self.test_type, TestType::Chat | TestType::Direct);
        let given = [
            ("--publish-by", self.publish_by != PublishBy::Frames),
            ("--publishers", self.publishers.is_some()),
        ];
        let unused = given.into_iter().find(|(_, is_given)| *is_given && is_by_users);
        unused.map(|(flag, _)| {
            format!("{flag}: in the test {} users write, and nobody publishes", self.test_type)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_forms_say_what_they_mean() {
        let args = Args::parse_from(["x", "--connections", "50", "--messages", "10"]);
        let plan = &args.plans()[0];
        assert_eq!((plan.test, plan.connections), (TestType::Throughput, 50));
        assert_eq!((plan.messages, plan.duration), (Some(10), None));
        let args = Args::parse_from(["x", "--duration", "60", "--test-type", "sustained"]);
        let plan = &args.plans()[0];
        assert_eq!((plan.messages, plan.duration), (None, Some(Duration::from_mins(1))));
        let all = |more: &[&str]| {
            let args = [&["x", "--test-type", "all"], more].concat();
            Args::parse_from(args).plans().len()
        };
        assert_eq!((all(&["--spawn"]), all(&["--jwt-secret", "s"])), (8, 8));
        let mut args = Args::parse_from(["x", "--test-type", "all"]);
        args.jwt_secret = None;
        assert_eq!(args.skipped(), [TestType::Chat, TestType::Direct]);
        assert_eq!(args.plans().len() + args.skipped().len(), 8);
        args.test_type = TestType::Chat;
        assert!(args.skipped().is_empty(), "one that is asked for fails instead");
    }

    #[test]
    fn flags_that_contradict_each_other_are_named() {
        let args = Args::parse_from(["x", "--subscriptions", "3", "--services", "2"]);
        assert!(args.fault().unwrap().contains("--subscriptions"));
        assert!(Args::try_parse_from(["x", "--rate", "-1"]).is_err());
        assert!(Args::try_parse_from(["x", "--rate", "NaN"]).is_err());
        assert!(Args::try_parse_from(["x", "--payload", "65536"]).is_err());
        assert!(Args::try_parse_from(["x", "--publishers", "0"]).is_err());
        assert!(Args::try_parse_from(["x", "--publish-by", "post"]).is_err());
        for (line, flag) in [
            ("x --window 4 --publishers 5", "--publishers"),
            ("x --test-type chat --publishers 2", "--publishers"),
            ("x --test-type direct --publish-by http", "--publish-by"),
        ] {
            let fault = Args::parse_from(line.split(' ')).fault();
            assert!(fault.as_ref().is_some_and(|fault| fault.contains(flag)), "{line}: {fault:?}");
        }
        for line in [
            "x --window 4 --publishers 4",
            "x --test-type chat --publish-by frames",
            "x --test-type all --publish-by http --publishers 4",
        ] {
            assert_eq!(Args::parse_from(line.split(' ')).fault(), None, "{line}");
        }
    }

    #[test]
    fn events_go_by_frames_unless_another_way_is_given() {
        let plan = |line: &str| Args::parse_from(line.split(' ')).plans().remove(0);
        let usual = plan("x");
        assert_eq!((usual.publish_by, usual.publishers), (PublishBy::Frames, None));
        assert_eq!(usual.window, window(256));
        let other = plan("x --publish-by http-pipelined --publishers 3");
        assert_eq!((other.publish_by, other.publishers), (PublishBy::HttpPipelined, Some(3)));
        assert_eq!(plan("x --publish-by http --publishers 2000").window, 2_000);
    }
}
