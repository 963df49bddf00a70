//! `websocket_stress_test`: loads a fanfare server and accounts for every delivery.
//!
//! # Layout
//!
//! ```text
//! args      the flags, and the plan of each test
//! target    where the server is; the handshake
//! frame     WebSocket frames, read in place
//! message   what the server pushes: a byte scanner with a parser behind it
//! recent    frames that were scanned for one subscriber are recognised for the next
//! layout, tally, timeline  lost, duplicated, misordered, collapsed; latencies
//! connection, fleet   many sockets on one thread
//! client_socket, http_answer, publisher, schedule   events, their way, and their moments
//! users     signed-in sockets, for chat and direct messages
//! process, spawn      CPU and memory of the server; a server of our own
//! engine    for how long its threads carried out commands, from its metrics
//! scenario  one module per kind of test
//! outcome   the figures of a test --> table, report
//! ```
//!
//! Two threads: this one reads all subscribers, the other sends events. Exit status 0 when every
//! test passed, 1 when a delivery was lost, duplicated or misordered or the server cannot be
//! reached, 2 when a flag is wrong.

mod args;
mod client_socket;
mod clock;
mod connection;
mod engine;
mod fleet;
mod frame;
mod http_answer;
mod layout;
mod message;
mod outcome;
mod process;
mod progress;
mod publisher;
mod recent;
mod report;
mod scenario;
mod schedule;
mod spawn;
mod table;
mod tally;
mod target;
mod timeline;
mod users;

use std::net::TcpStream;
use std::process::ExitCode;
use std::time::Duration;
use std::{env, thread};

use clap::Parser;

use crate::args::{Args, Plan};
use crate::clock::Clock;
use crate::outcome::Outcome;
use crate::process::Process;
use crate::progress::Progress;
use crate::report::Report;
use crate::scenario::Bench;
use crate::spawn::Server;
use crate::target::{Target, find_key};

/// Descriptors that we need beside the sockets of the fleet.
const OTHER_FILES: u64 = 64;

/// The documented default of a server that does not report its bound.
const MESSAGES_PER_S_MAX: u64 = 100;

/// How long the first connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The reason why there are no figures.
enum Failure {
    /// A flag is wrong; exit status 2.
    Flag(String),
    /// The server or the system failed; exit status 1.
    Run(String),
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(Failure::Flag(reason)) => {
            eprintln!("error: {reason}");
            ExitCode::from(2)
        }
        Err(Failure::Run(reason)) => {
            eprintln!("error: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// Runs all tests. Returns whether every one was passed.
fn run(args: &Args) -> Result<bool, Failure> {
    if let Some(fault) = args.fault() {
        return Err(Failure::Flag(fault));
    }
    let plans = args.plans();
    check_open_files(&plans)?;
    // The flags are checked before a server is started in vain.
    let mut target = Target::parse(&args.url, args.token.as_deref())
        .map_err(|error| Failure::Flag(error.to_string()))?;
    let mut url = args.url.clone();
    let mut server = None;
    if args.spawn {
        let started = Server::start().map_err(|error| Failure::Run(error.to_string()))?;
        url = format!("ws://{}/ws", started.authority);
        target = Target::parse(&url, args.token.as_deref())
            .map_err(|error| Failure::Run(error.to_string()))?;
        server = Some(started);
    }
    check_reachable(&url, &target)?;
    let mut bench = bench(args, target, server.as_ref());
    let mut outcomes = Vec::new();
    for plan in &plans {
        let outcome = scenario::run(&mut bench, plan).unwrap_or_else(|error| {
            bench.progress.finish();
            Outcome { faults: vec![error.to_string()], ..Outcome::of(plan) }
        });
        println!("{}\n", table::render(&outcome));
        outcomes.push(outcome);
    }
    for test in args.skipped() {
        println!(
            "{test}: skipped, because it signs in as many users: set JWT_SECRET or --jwt-secret"
        );
    }
    if server.is_none() {
        remove_users(&bench);
    }
    write_reports(args, url, &outcomes)
}

fn bench(args: &Args, target: Target, server: Option<&Server>) -> Bench {
    let clock = Clock::start();
    let process = match (server, args.server_pid) {
        (Some(server), _) => Some(server.process()),
        (None, Some(pid)) => Some(Process { pid }),
        (None, None) => Process::listening_on(target.address),
    };
    let settings = target.settings().unwrap_or_default();
    let said = find_key(&settings, "client_messages_per_s_max");
    let connections_left =
        args.token.as_ref().and_then(|_| find_key(&settings, "connections_per_user_max"));
    let messages_per_s_max = match (server, said) {
        // Our own server was started without a limit.
        (Some(_), _) | (None, Some(0)) => None,
        (None, said) => Some(said.unwrap_or(MESSAGES_PER_S_MAX)),
    };
    let secret = server.map(|server| server.secret.clone()).or_else(|| args.jwt_secret.clone());
    Bench {
        secret,
        target,
        process,
        messages_per_s_max,
        connections_left: connections_left
            .and_then(|connections_left| usize::try_from(connections_left).ok()),
        clock,
        progress: Progress::new(clock),
        run_id: run_id(),
        serial: 0,
        users: 0,
    }
}

/// Leaves no user behind on a server that runs on.
fn remove_users(bench: &Bench) {
    let Some(secret) = bench.secret.as_deref().filter(|_| bench.users > 0) else { return };
    let left = users::remove(&bench.target, secret, &bench.run_id, bench.users);
    if let Err((count, fault)) = left {
        println!("{count} users load-{}-N are left on the server: {fault}", bench.run_id);
    }
}

/// Separates the services of this run from those of any other on the same server.
fn run_id() -> String {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seconds = since_epoch.map_or(0, |duration| duration.as_secs());
    format!("{:x}-{:x}", seconds & 0xffff_ffff, std::process::id())
}

/// Whether the process may open as many sockets as the largest test needs.
fn check_open_files(plans: &[Plan]) -> Result<(), Failure> {
    let sockets = |plan: &Plan| plan.connections as u64 + plan.publishers.unwrap_or(0) as u64;
    let most = plans.iter().map(sockets).max().unwrap_or_default();
    let limit = process::raise_open_files_max();
    if most + OTHER_FILES > limit {
        return Err(Failure::Flag(format!(
            "--connections: {most} sockets do not fit the limit of {limit} open files; \
             raise it (ulimit -n) or ask for at most {}",
            limit.saturating_sub(OTHER_FILES)
        )));
    }
    Ok(())
}

/// Whether there is a listener, so that a wrong address is told apart from a server that fails
/// under load.
fn check_reachable(url: &str, target: &Target) -> Result<(), Failure> {
    TcpStream::connect_timeout(&target.address, CONNECT_TIMEOUT)
        .map(drop)
        .map_err(|error| Failure::Run(format!("cannot connect to {url}: {error}")))
}

fn write_reports(args: &Args, server: String, outcomes: &[Outcome]) -> Result<bool, Failure> {
    let passed = outcomes.iter().all(Outcome::is_passed);
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        server,
        command: command(args),
        cores: thread::available_parallelism().map_or(1, usize::from),
        passed,
        tests: outcomes,
    };
    if let Some(path) = &args.json {
        report.write_json(path).map_err(Failure::Run)?;
    }
    if let Some(path) = &args.report {
        report.write_page(path).map_err(Failure::Run)?;
    }
    Ok(passed)
}

/// The command line, for the report. A token is a secret and stays out.
fn command(args: &Args) -> String {
    let line: Vec<String> = env::args().skip(1).collect();
    let line = format!("websocket_stress_test {}", line.join(" "));
    let secrets = [&args.token, &args.jwt_secret].into_iter().flatten();
    secrets.fold(line, |line, secret| line.replace(secret.as_str(), "..."))
}
