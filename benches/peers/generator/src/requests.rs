//! The modes in which requests are measured: what is registered before, what is asked, and how
//! many of the questions are under way at a time.

use std::io;

use crate::driver::{Driver, Role};
use crate::histogram::Histogram;
use crate::ledger::Layout;
use crate::modes;
use crate::options::Options;
use crate::report::Report;
use crate::sample::{SECOND_NS, Sample, Span};
use crate::traffic::Traffic;
use crate::wire::{self, INSTANCE_DIGITS, RequestTemplate};

/// Instances or keys of one request, where it carries many.
const BATCH: usize = 100;

/// The heartbeat mode: requests that cover all instances.
const HEARTBEAT_BATCHES: usize = 100;

/// Connections that register what a mode needs.
const PREPARING_WORKERS: usize = 8;

/// Answers are waited for this long after the last request.
const ANSWER_NS_MAX: u64 = 20 * SECOND_NS;

const REGISTER: &str = "/api/registry/register.json";
const HEARTBEAT: &str = "/api/registry/heartbeat.json";
const LISTING: &str = "/api/discovery/services.json";

/// The keys behind which the names of a service and an instance end in digits.
const SERVICE_KEY: &[u8] = b"\"serviceId\":\"w";
const INSTANCE_KEY: &[u8] = b"\"instanceId\":\"i";

/// Writes a request for the worker of this index, counted from the first, to its socket.
type Next<'a> = &'a mut dyn FnMut(usize, &mut Vec<u8>);

/// For how long requests are sent.
#[derive(Debug, Clone, Copy)]
enum Amount {
    Requests(usize),
    Time { ns: u64 },
}

/// One registration at a time for each place in a pipeline: instances that are there already, so
/// that it renews, or with `--new` instances that are not.
pub(crate) fn registrations(options: &Options, report: &mut Report) -> io::Result<()> {
    let prepared = if options.is_new { 0 } else { options.instances };
    let refused = prepare(options, prepared)?;
    let body = body("instances", &[instance(0, 0)]);
    let mut template =
        RequestTemplate::new(wire::post(REGISTER, &body), SERVICE_KEY, Some(INSTANCE_KEY));
    let (services, instances) = (options.services, options.instances);
    let is_new = options.is_new;
    let mut sent = 0;
    measure(options, report, refused, &mut |_, into| {
        let (service, number) = (sent % services, sent / services);
        template.encode(service, if is_new { number } else { number % instances }, into);
        sent += 1;
    })
}

/// Heartbeats of one instance each.
pub(crate) fn beats(options: &Options, report: &mut Report) -> io::Result<()> {
    let refused = prepare(options, options.instances)?;
    let body = body("instanceKeys", &[key(0, 0)]);
    let mut template =
        RequestTemplate::new(wire::post(HEARTBEAT, &body), SERVICE_KEY, Some(INSTANCE_KEY));
    let (services, instances) = (options.services, options.instances);
    let mut sent = 0;
    measure(options, report, refused, &mut |_, into| {
        template.encode(sent % services, sent / services % instances, into);
        sent += 1;
    })
}

/// Discovery of one service after the other.
pub(crate) fn lookup(options: &Options, report: &mut Report) -> io::Result<()> {
    let refused = prepare(options, options.instances)?;
    let request = wire::get("/api/discovery/service.json?serviceId=w00000", "");
    let mut template = RequestTemplate::new(request, b"serviceId=w", None);
    let services = options.services;
    let mut sent = 0;
    measure(options, report, refused, &mut |_, into| {
        template.encode(sent % services, 0, into);
        sent += 1;
    })
}

/// Durable messages: each sender has a connection and a token of its own and writes to the user of
/// the next line of the file, one message after the other.
pub(crate) fn direct(options: &Options, report: &mut Report) -> io::Result<()> {
    let file = options.tokens.as_deref().unwrap_or_default();
    let lines = std::fs::read_to_string(file)?;
    let users: Vec<(&str, &str)> = lines.lines().filter_map(|line| line.split_once(' ')).collect();
    if users.len() < options.workers {
        return Err(io::Error::other(format!("{file} has fewer users than there are --workers")));
    }
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");

    // A user is known once seen.
    let mut driver = workers(options, PREPARING_WORKERS, 1)?;
    let (mut seen, count) = (0, Amount::Requests(users.len()));
    send(options, &mut driver, None, count, &mut |_, into| {
        into.extend(wire::get("/api/v1/messages?limit=1", &bearer(users[seen].1)));
        seen += 1;
    })?;

    let content = "x".repeat(options.event_bytes);
    let requests: Vec<Vec<u8>> = (0..options.workers)
        .map(|sender| {
            let to = users[(sender + 1) % users.len()].0;
            let body = format!(r#"{{"to_user_id":"{to}","content":"{content}"}}"#);
            wire::post_with("/api/v1/messages", &bearer(users[sender].1), body.as_bytes())
        })
        .collect();
    measure(options, report, 0, &mut |sender, into| into.extend_from_slice(&requests[sender]))
}

/// All instances, asked for again and again, while sockets ping: first the pings alone, then both.
pub(crate) fn listing(options: &Options, report: &mut Report) -> io::Result<()> {
    let refused = prepare(options, options.instances)?;
    let mut driver = Driver::new(options.server, options.protocol, Layout::NONE, 0)?;
    let pinger = driver.open(Role::Pinger, options.subscribers, options.concurrent)?;
    let quiet = pings(options, &mut driver, pinger)?;
    report
        .count("pingers", options.subscribers as u64)
        .figure("pings_per_s", Some(quiet.count(|c| c.pongs) as f64 / quiet.seconds()))
        .figure("quiet_p50_ms", Some(driver.latency.quantile_ms(0.5)))
        .figure("quiet_p99_ms", Some(driver.latency.quantile_ms(0.99)));
    driver.latency = Histogram::new();
    driver.open(Role::Lister, options.workers, options.workers)?;
    let loud = pings(options, &mut driver, pinger)?;
    loud.report_requests("listing_", &driver, report);
    loud.report_shares(report);
    modes::report_latency(&driver, report);
    report
        .count("lost", driver.unanswered_of(pinger, options.subscribers))
        .count("closed", driver.counts.closed)
        .count("refused", driver.counts.refused)
        .count("setup_refused", refused)
        .figure("server_rss_kib", modes::rss_kib(options));
    Ok(())
}

/// Renewals and registrations over HTTP, while a trickle of events must still arrive in time.
pub(crate) fn heartbeat(options: &Options, report: &mut Report) -> io::Result<()> {
    modes::prime(options)?;
    let mut driver = modes::subscribe(options, 0)?;
    let mut traffic = Traffic::open(&mut driver, options)?;
    driver.open(Role::HttpWorker, options.workers, options.workers)?;

    let all = |service: usize, entry: fn(usize, usize) -> String| -> Vec<String> {
        (0..BATCH).map(|instance| entry(service, instance)).collect()
    };
    let batches = |path: &str, list: &str, entry: fn(usize, usize) -> String| -> Vec<Vec<u8>> {
        (0..HEARTBEAT_BATCHES)
            .map(|service| wire::post(path, &body(list, &all(service, entry))))
            .collect()
    };
    let registers = batches(REGISTER, "instances", instance);
    let heartbeats = batches(HEARTBEAT, "instanceKeys", key);
    let singles: Vec<Vec<u8>> = (0..HEARTBEAT_BATCHES)
        .flat_map(|service| all(service, instance))
        .map(|one| wire::post(REGISTER, &body("instances", &[one])))
        .collect();

    driver.window = driver.now_ns()..u64::MAX;
    let mut work = |requests: &[Vec<u8>], amount: Amount, driver: &mut Driver| {
        let mut requests = requests.iter().cycle();
        send(options, driver, Some(&mut traffic), amount, &mut |_, into| {
            into.extend(requests.next().into_iter().flatten());
        })
    };
    work(&registers, Amount::Requests(HEARTBEAT_BATCHES), &mut driver)?;
    let refused = driver.counts.refused;

    for (name, requests) in [("heartbeat", &heartbeats), ("register", &singles)] {
        driver.answering = Histogram::new();
        let span = work(requests, measured(options), &mut driver)?;
        span.report_requests(&format!("{name}_"), &driver, report);
        if name == "heartbeat" {
            let keys = span.count(|c| c.answered).saturating_sub(span.count(|c| c.refused));
            let keys = keys * BATCH as u64;
            report
                .figure("heartbeat_keys_per_s", Some(keys as f64 / span.seconds()))
                .figure("heartbeat_cpu_us_per_key", span.server_us_per(keys));
        }
    }
    modes::drain(&mut driver, &traffic, options.subscribers)?;
    modes::report_latency(&driver, report);
    report.count("closed", driver.counts.closed).count("setup_refused", refused);
    modes::report_end(options, &driver, &traffic, report);
    Ok(())
}

fn measured(options: &Options) -> Amount {
    Amount::Time { ns: (options.seconds * SECOND_NS as f64) as u64 }
}

/// Connections that send requests, and nobody who follows anything.
fn workers(options: &Options, count: usize, pipeline: usize) -> io::Result<Driver> {
    let mut driver = Driver::new(options.server, options.protocol, Layout::NONE, 0)?;
    driver.pipeline = pipeline;
    driver.open(Role::HttpWorker, count, options.concurrent)?;
    Ok(driver)
}

/// Registers so many instances of each service. Returns how many requests were refused.
fn prepare(options: &Options, instances: usize) -> io::Result<u64> {
    if instances == 0 {
        return Ok(0);
    }
    let mut driver = workers(options, PREPARING_WORKERS, 1)?;
    let batches = instances.div_ceil(BATCH);
    let (mut sent, count) = (0, Amount::Requests(options.services * batches));
    send(options, &mut driver, None, count, &mut |_, into| {
        let (service, first) = (sent % options.services, sent / options.services * BATCH);
        let batch: Vec<String> =
            (first..instances.min(first + BATCH)).map(|i| instance(service, i)).collect();
        into.extend(wire::post(REGISTER, &body("instances", &batch)));
        sent += 1;
    })?;
    Ok(driver.counts.refused)
}

/// Keeps all workers busy, first for the warm-up, then for the measured time.
fn measure(
    options: &Options,
    report: &mut Report,
    setup_refused: u64,
    next: Next,
) -> io::Result<()> {
    let mut driver = workers(options, options.workers, options.pipeline)?;
    let warmup = Amount::Time { ns: options.warmup_ms * 1_000_000 };
    send(options, &mut driver, None, warmup, next)?;
    driver.answering = Histogram::new();
    let span = send(options, &mut driver, None, measured(options), next)?;
    report.count("workers", options.workers as u64).count("pipeline", options.pipeline as u64);
    span.report_requests("", &driver, report);
    span.report_shares(report);
    report
        .figure("max_ms", Some(driver.answering.max_ms()))
        .count("refused", driver.counts.refused)
        .count("setup_refused", setup_refused)
        .figure("server_rss_kib", modes::rss_kib(options));
    Ok(())
}

/// Keeps every worker busy for a time or a number of requests, and waits for all answers.
fn send(
    options: &Options,
    driver: &mut Driver,
    mut traffic: Option<&mut Traffic>,
    amount: Amount,
    next: Next,
) -> io::Result<Span> {
    let published = |traffic: &Option<&mut Traffic>| traffic.as_ref().map_or(0, |t| t.published);
    let start = Sample::take(options, driver, published(&traffic));
    let first_worker = driver.first_of(Role::HttpWorker);
    let places = driver.idle_workers.len();
    let mut sent = 0;
    loop {
        let is_over = match amount {
            Amount::Requests(count) => sent == count,
            Amount::Time { ns } => driver.now_ns() >= start.at_ns + ns,
        };
        if is_over && driver.idle_workers.len() == places {
            let end = Sample::take(options, driver, published(&traffic));
            return Ok(Span { start, end });
        }
        if driver.counts.closed > 0 {
            return Err(io::Error::other("the server ended a connection that waits for an answer"));
        }
        let more = match amount {
            _ if is_over => 0,
            Amount::Requests(count) => count - sent,
            Amount::Time { .. } => usize::MAX,
        };
        for _ in 0..more {
            let Some(worker) = driver.idle_workers.pop() else { break };
            next(worker - first_worker, driver.next_request(worker));
            sent += 1;
        }
        driver.flush_workers();
        let until_ns = driver.now_ns() + SECOND_NS / 20;
        match &mut traffic {
            Some(traffic) => traffic.turn(driver, until_ns)?,
            None => driver.turn(until_ns)?,
        }
    }
}

/// Pings at fixed moments, all sockets in turn, for the measured time, while all listers ask.
fn pings(options: &Options, driver: &mut Driver, pinger: usize) -> io::Result<Span> {
    let request = wire::get(LISTING, "");
    let interval_ns = (SECOND_NS as f64 / options.events_per_s) as u64;
    let begin_ns = driver.now_ns();
    let mut next_ns = begin_ns;
    let start_ns = begin_ns + options.warmup_ms * 1_000_000;
    let end_ns = start_ns + (options.seconds * SECOND_NS as f64) as u64;
    driver.window = start_ns..end_ns;
    let (mut sent, mut start) = (0, None);
    loop {
        let now_ns = driver.now_ns();
        if now_ns >= start_ns && start.is_none() {
            driver.answering = Histogram::new();
            start = Some(Sample::take(options, driver, 0));
        }
        if let Some(start) = start.filter(|_| now_ns >= end_ns) {
            let end = Sample::take(options, driver, 0);
            let deadline_ns = now_ns + ANSWER_NS_MAX;
            while driver.unanswered_of(pinger, options.subscribers) > 0
                && driver.now_ns() < deadline_ns
            {
                driver.turn(driver.now_ns() + SECOND_NS / 20)?;
            }
            return Ok(Span { start, end });
        }
        while next_ns <= now_ns {
            driver.ping(pinger + sent % options.subscribers, next_ns);
            next_ns += interval_ns;
            sent += 1;
        }
        while let Some(lister) = driver.idle_workers.pop() {
            driver.next_request(lister).extend_from_slice(&request);
        }
        driver.flush_workers();
        driver.turn(next_ns.min(end_ns))?;
    }
}

/// A request's body: one list of entries.
fn body(list: &str, entries: &[String]) -> Vec<u8> {
    format!("{{\"{list}\":[{}]}}", entries.join(",")).into_bytes()
}

/// An instance of one of the services, on a lease that outlives the run.
fn instance(service: usize, instance: usize) -> String {
    format!(
        r#"{{"regionId":"r","serviceId":"w{service:05}","instanceId":"i{instance:0INSTANCE_DIGITS$}","ip":"10.0.0.1","port":8080,"status":"up","leaseTtlMs":600000}}"#
    )
}

fn key(service: usize, instance: usize) -> String {
    format!(
        r#"{{"regionId":"r","serviceId":"w{service:05}","instanceId":"i{instance:0INSTANCE_DIGITS$}"}}"#
    )
}
