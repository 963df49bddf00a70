//! The modes: what is set up, what is published, and what is measured between which two moments.

use std::io;

use crate::driver::{Counts, Driver, Role};
use crate::ledger::Layout;
use crate::options::{Mode, Options};
use crate::process;
use crate::report::Report;
use crate::wire::{self, EventTemplate, Route};

const SECOND_NS: u64 = 1_000_000_000;

/// After the last event, how long nothing may come before what is missing counts as lost.
const QUIET_NS: u64 = 2 * SECOND_NS;
const DRAIN_NS_MAX: u64 = 20 * SECOND_NS;

/// A server may give memory back with a delay; this is how long it gets.
const SETTLE_NS: u64 = 2 * SECOND_NS;

/// The stalled mode: one subscriber in so many stops reading.
const STALLED_ONE_IN: usize = 10;

/// The heartbeat mode: keys per request, and requests that cover all instances.
const KEYS_PER_BATCH: usize = 100;
const BATCHES: usize = 100;

/// Runs one mode and returns its line of results.
pub(crate) fn run(options: &Options) -> io::Result<String> {
    let mut report = Report::new(&options.server_name, &options.run_name, &options.mode_name);
    report.count("subscribers", options.subscribers as u64);
    match options.mode {
        Mode::Spaced | Mode::Flood | Mode::Topics => push(options, &mut report)?,
        Mode::Idle => idle(options, &mut report)?,
        Mode::Storm => storm(options, &mut report)?,
        Mode::Heartbeat => heartbeat(options, &mut report)?,
        Mode::Stalled => stalled(options, &mut report)?,
    }
    Ok(report.finish())
}

/// When events are published.
#[derive(Debug, Clone, Copy)]
enum Pace {
    /// At fixed moments, whatever the server does. A late event keeps the stamp of its moment, so
    /// a server that stalls is charged for all the events that had to wait.
    Every { interval_ns: u64, next_ns: u64 },
    /// As many as fit into a window of unanswered ones.
    Window { unanswered_max: u64 },
}

/// The publisher: a connection, what it sends, and when.
#[derive(Debug)]
struct Traffic {
    publisher: usize,
    template: EventTemplate,
    pace: Pace,
    published: u64,
    /// By service; what each subscriber must have got in the end.
    changes: Vec<u64>,
}

impl Traffic {
    /// Opens the publisher's connection. The subscribers must be there already.
    fn open(driver: &mut Driver, options: &Options) -> io::Result<Traffic> {
        let (role, route) = if options.is_http {
            (Role::HttpPublisher, Route::Http)
        } else {
            (Role::FramePublisher, Route::Frame)
        };
        driver.open(role, 1, 1)?;
        let pace = if matches!(options.mode, Mode::Flood | Mode::Topics) {
            Pace::Window { unanswered_max: options.window }
        } else {
            let interval_ns = (SECOND_NS as f64 / options.events_per_s) as u64;
            Pace::Every { interval_ns, next_ns: driver.now_ns() + interval_ns }
        };
        Ok(Traffic {
            publisher: driver.newest(),
            template: EventTemplate::new(route, options.event_bytes),
            pace,
            published: 0,
            changes: vec![0; options.services],
        })
    }

    /// Publishes what is due and takes one turn of the loop, which ends before `until_ns`.
    fn turn(&mut self, driver: &mut Driver, until_ns: u64) -> io::Result<()> {
        let now_ns = driver.now_ns();
        let mut wake_ns = until_ns;
        match self.pace {
            Pace::Every { interval_ns, mut next_ns } => {
                while next_ns <= now_ns {
                    self.publish(driver, next_ns);
                    next_ns += interval_ns;
                }
                self.pace = Pace::Every { interval_ns, next_ns };
                wake_ns = wake_ns.min(next_ns);
            }
            Pace::Window { unanswered_max } => {
                while self.published - driver.counts.acknowledged < unanswered_max {
                    self.publish(driver, now_ns);
                }
            }
        }
        driver.flush(self.publisher);
        driver.turn(wake_ns)
    }

    fn publish(&mut self, driver: &mut Driver, stamp_ns: u64) {
        let service = self.published as usize % self.changes.len();
        self.template.encode(service, stamp_ns, driver.unsent(self.publisher));
        self.changes[service] += 1;
        self.published += 1;
    }
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy)]
struct Sample {
    at_ns: u64,
    counts: Counts,
    published: u64,
    server_s: Option<f64>,
    own_s: Option<f64>,
}

impl Sample {
    fn take(options: &Options, driver: &Driver, published: u64) -> Sample {
        Sample {
            at_ns: driver.now_ns(),
            counts: driver.counts,
            published,
            server_s: options.pid.as_deref().and_then(process::cpu_seconds),
            own_s: process::cpu_seconds("self"),
        }
    }
}

/// What happened between two samples.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: Sample,
    end: Sample,
}

impl Span {
    fn seconds(&self) -> f64 {
        (self.end.at_ns - self.start.at_ns) as f64 / SECOND_NS as f64
    }

    fn server_s(&self) -> Option<f64> {
        Some(self.end.server_s? - self.start.server_s?)
    }

    /// Server time for each of `count` things, in microseconds.
    fn server_us_per(&self, count: u64) -> Option<f64> {
        Some(self.server_s()? * 1e6 / count as f64)
    }

    /// Which side was busy, each as a share of one core.
    fn report_shares(&self, report: &mut Report) {
        let own_s = self.end.own_s.zip(self.start.own_s).map(|(end, start)| end - start);
        report
            .figure("seconds", Some(self.seconds()))
            .figure("server_cpu_share", self.server_s().map(|s| s / self.seconds()))
            .figure("generator_cpu_share", own_s.map(|s| s / self.seconds()));
    }

    fn report_deliveries(&self, report: &mut Report) {
        let count = |field: fn(&Counts) -> u64| field(&self.end.counts) - field(&self.start.counts);
        let deliveries = count(|counts| counts.deliveries);
        let events = self.end.published - self.start.published;
        report
            .count("events", events)
            .figure("events_per_s", Some(events as f64 / self.seconds()))
            .count("deliveries", deliveries)
            .figure("deliveries_per_s", Some(deliveries as f64 / self.seconds()))
            .figure("changes_per_frame", Some(deliveries as f64 / count(|c| c.frames) as f64))
            .figure(
                "bytes_per_frame",
                Some(count(|c| c.frame_bytes) as f64 / count(|c| c.frames) as f64),
            )
            .figure("server_cpu_us_per_delivery", self.server_us_per(deliveries));
    }
}

fn report_latency(driver: &Driver, report: &mut Report) {
    report
        .figure("p50_ms", Some(driver.latency.quantile_ms(0.5)))
        .figure("p90_ms", Some(driver.latency.quantile_ms(0.9)))
        .figure("p99_ms", Some(driver.latency.quantile_ms(0.99)))
        .figure("max_ms", Some(driver.latency.max_ms()));
}

fn report_end(options: &Options, driver: &Driver, traffic: &Traffic, report: &mut Report) {
    let (readers, stallers) = driver.ledger.faults(&traffic.changes);
    report
        .count("lost", readers.lost)
        .count("duplicated", readers.duplicated)
        .count("misordered", readers.misordered)
        .count("snapshots", readers.snapshots)
        .count("skipped", readers.skipped)
        .count("refused", driver.counts.refused);
    if options.mode == Mode::Stalled {
        report
            .count("stalled_lost", stallers.lost)
            .count("stalled_duplicated", stallers.duplicated)
            .count("stalled_misordered", stallers.misordered)
            .count("stalled_snapshots", stallers.snapshots)
            .count("stalled_skipped", stallers.skipped);
    }
    report.figure("server_rss_kib", rss_kib(options));
}

fn rss_kib(options: &Options) -> Option<f64> {
    options.pid.as_deref().and_then(process::rss_kib).map(|kib| kib as f64)
}

fn layout(options: &Options) -> Layout {
    Layout {
        services: options.services,
        subscribers: options.subscribers,
        connections: options.connections,
    }
}

/// Registers each service once, so that what is measured are changes of known instances and not
/// the first sight of them.
fn prime(options: &Options) -> io::Result<()> {
    let empty = Layout { services: 0, subscribers: 1, connections: 1 };
    let mut driver = Driver::new(options.server, empty, 0)?;
    driver.open(Role::FramePublisher, 1, 1)?;
    let (publisher, services) = (driver.newest(), options.services as u64);
    let mut template = EventTemplate::new(Route::Frame, options.event_bytes);
    let deadline_ns = driver.now_ns() + DRAIN_NS_MAX;
    let mut sent = 0;
    while driver.counts.acknowledged < services {
        while sent < services && sent - driver.counts.acknowledged < options.window {
            template.encode(sent as usize, 0, driver.unsent(publisher));
            sent += 1;
        }
        driver.flush(publisher);
        driver.turn(driver.now_ns() + SECOND_NS)?;
        if driver.now_ns() > deadline_ns || driver.counts.closed > 0 {
            return Err(io::Error::other("the server did not answer the first registrations"));
        }
    }
    Ok(())
}

/// Connects and subscribes all, then leaves the server a moment to come to rest.
fn subscribe(options: &Options, stalled: usize) -> io::Result<Driver> {
    let mut driver = Driver::new(options.server, layout(options), stalled)?;
    driver.open(Role::Subscriber, options.connections, options.concurrent)?;
    rest(&mut driver, SECOND_NS / 5)?;
    Ok(driver)
}

/// Only listens for a while.
fn rest(driver: &mut Driver, duration_ns: u64) -> io::Result<()> {
    let until_ns = driver.now_ns() + duration_ns;
    while driver.now_ns() < until_ns {
        driver.turn(until_ns)?;
    }
    Ok(())
}

/// Warms up, then measures for the time asked for.
fn measure(options: &Options, driver: &mut Driver, traffic: &mut Traffic) -> io::Result<Span> {
    let start_ns = driver.now_ns() + options.warmup_ms * 1_000_000;
    while driver.now_ns() < start_ns {
        traffic.turn(driver, start_ns)?;
    }
    let start = Sample::take(options, driver, traffic.published);
    let end_ns = start.at_ns + (options.seconds * SECOND_NS as f64) as u64;
    driver.window = start.at_ns..end_ns;
    while driver.now_ns() < end_ns {
        traffic.turn(driver, end_ns)?;
    }
    Ok(Span { start, end: Sample::take(options, driver, traffic.published) })
}

/// Publishes no more, and waits until every reader has all of it or nothing comes any more.
fn drain(driver: &mut Driver, traffic: &Traffic, readers: usize) -> io::Result<()> {
    let begin_ns = driver.now_ns();
    let expected = traffic.published * readers as u64;
    let (mut seen, mut seen_ns) = (0, begin_ns);
    loop {
        let arrived = driver.counts.deliveries + driver.ledger.skipped();
        let now_ns = driver.now_ns();
        if arrived != seen {
            (seen, seen_ns) = (arrived, now_ns);
        }
        let is_quiet = now_ns > seen_ns + QUIET_NS || now_ns > begin_ns + DRAIN_NS_MAX;
        if (arrived >= expected && driver.counts.acknowledged >= traffic.published) || is_quiet {
            return Ok(());
        }
        driver.flush(traffic.publisher);
        driver.turn(now_ns + SECOND_NS / 20)?;
    }
}

/// Events to all subscribers of one or many services, at a pace or as fast as they are taken.
fn push(options: &Options, report: &mut Report) -> io::Result<()> {
    prime(options)?;
    let mut driver = subscribe(options, 0)?;
    let mut traffic = Traffic::open(&mut driver, options)?;
    let span = measure(options, &mut driver, &mut traffic)?;
    drain(&mut driver, &traffic, options.subscribers)?;
    report
        .count("services", options.services as u64)
        .count("connections", options.connections as u64);
    span.report_deliveries(report);
    span.report_shares(report);
    report_latency(&driver, report);
    report.count("closed", driver.counts.closed);
    report_end(options, &driver, &traffic, report);
    Ok(())
}

/// What a subscribed connection that nothing happens on costs in memory.
fn idle(options: &Options, report: &mut Report) -> io::Result<()> {
    prime(options)?;
    let before = rss_kib(options);
    let mut driver = subscribe(options, 0)?;
    rest(&mut driver, SETTLE_NS)?;
    let open = rss_kib(options);
    driver.close_all();
    rest(&mut driver, SETTLE_NS)?;
    let per_connection = before.zip(open).map(|(b, o)| (o - b) / options.connections as f64);
    report
        .figure("kib_per_connection", per_connection)
        .figure("rss_before_kib", before)
        .figure("rss_open_kib", open)
        .figure("rss_closed_kib", rss_kib(options));
    Ok(())
}

/// How fast connections come up and are subscribed.
fn storm(options: &Options, report: &mut Report) -> io::Result<()> {
    prime(options)?;
    let mut driver = Driver::new(options.server, layout(options), 0)?;
    let start = Sample::take(options, &driver, 0);
    driver.open(Role::Subscriber, options.connections, options.concurrent)?;
    let span = Span { start, end: Sample::take(options, &driver, 0) };
    let count = options.connections as u64;
    report
        .figure("connects_per_s", Some(count as f64 / span.seconds()))
        .figure("server_cpu_us_per_connect", span.server_us_per(count))
        .figure("p50_ms", Some(driver.opening.quantile_ms(0.5)))
        .figure("p99_ms", Some(driver.opening.quantile_ms(0.99)))
        .figure("max_ms", Some(driver.opening.max_ms()));
    span.report_shares(report);
    report.figure("server_rss_kib", rss_kib(options));
    Ok(())
}

/// Some subscribers stop reading while large events go out: what the others see of it, what the
/// server pays for it, and what the stalled ones find when they read again.
fn stalled(options: &Options, report: &mut Report) -> io::Result<()> {
    let stalled = options.connections / STALLED_ONE_IN;
    prime(options)?;
    let mut driver = subscribe(options, stalled)?;
    let before = rss_kib(options);
    let mut traffic = Traffic::open(&mut driver, options)?;
    driver.stall(stalled);
    let span = measure(options, &mut driver, &mut traffic)?;
    drain(&mut driver, &traffic, options.subscribers - stalled)?;
    let closed_before = driver.counts.closed;
    span.report_deliveries(report);
    span.report_shares(report);
    report_latency(&driver, report);
    report
        .count("stalled", stalled as u64)
        .figure("rss_before_kib", before)
        .figure("rss_stalled_kib", rss_kib(options));
    driver.stall(0);
    rest(&mut driver, 2 * SETTLE_NS)?;
    report
        .count("closed", closed_before)
        .count("stalled_closed", driver.counts.closed - closed_before);
    report_end(options, &driver, &traffic, report);
    Ok(())
}

/// Renewals and registrations over HTTP, while a trickle of events must still arrive in time.
fn heartbeat(options: &Options, report: &mut Report) -> io::Result<()> {
    prime(options)?;
    let mut driver = subscribe(options, 0)?;
    let mut traffic = Traffic::open(&mut driver, options)?;
    driver.open(Role::HttpWorker, options.workers, options.workers)?;

    let batches: Vec<Vec<String>> = (0..BATCHES).map(instances_of_batch).collect();
    let request = |path: &str, list: &str, entries: &[String]| {
        let body = format!("{{\"{list}\":[{}]}}", entries.join(","));
        wire::post(path, body.as_bytes())
    };
    let registers: Vec<Vec<u8>> = batches
        .iter()
        .map(|batch| request("/api/registry/register.json", "instances", batch))
        .collect();
    let heartbeats: Vec<Vec<u8>> = (0..BATCHES)
        .map(|batch| request("/api/registry/heartbeat.json", "instanceKeys", &keys_of_batch(batch)))
        .collect();
    let singles: Vec<Vec<u8>> = batches
        .iter()
        .flatten()
        .map(|one| request("/api/registry/register.json", "instances", std::slice::from_ref(one)))
        .collect();

    driver.window = driver.now_ns()..u64::MAX;
    let mut work = |requests: &[Vec<u8>], count: Option<usize>, driver: &mut Driver| {
        work(options, driver, &mut traffic, requests, count)
    };
    work(&registers, Some(BATCHES), &mut driver)?;
    let refused = driver.counts.refused;

    for (name, requests) in [("heartbeat", &heartbeats), ("register", &singles)] {
        driver.answering = crate::histogram::Histogram::new();
        let span = work(requests, None, &mut driver)?;
        // What was refused is quick to answer and no work done: a server without leases has no
        // figures here.
        let answered = span.end.counts.answered - span.start.counts.answered;
        let answered = answered - answered.min(span.end.counts.refused - span.start.counts.refused);
        let rate = answered as f64 / span.seconds();
        let cpu_us = span.server_us_per(answered);
        report
            .figure(&format!("{name}_requests_per_s"), Some(rate))
            .figure(&format!("{name}_cpu_us_per_request"), cpu_us)
            .figure(&format!("{name}_p50_ms"), Some(driver.answering.quantile_ms(0.5)))
            .figure(&format!("{name}_p99_ms"), Some(driver.answering.quantile_ms(0.99)))
            .figure(
                &format!("{name}_server_cpu_share"),
                span.server_s().map(|s| s / span.seconds()),
            );
        if name == "heartbeat" {
            let keys = KEYS_PER_BATCH as f64;
            report
                .figure("heartbeat_keys_per_s", Some(rate * keys))
                .figure("heartbeat_cpu_us_per_key", cpu_us.map(|us| us / keys));
        }
    }
    drain(&mut driver, &traffic, options.subscribers)?;
    report_latency(&driver, report);
    report.count("closed", driver.counts.closed).count("setup_refused", refused);
    report_end(options, &driver, &traffic, report);
    Ok(())
}

/// Keeps every worker busy with `requests` in turn: `count` of them, or for the measured time.
fn work(
    options: &Options,
    driver: &mut Driver,
    traffic: &mut Traffic,
    requests: &[Vec<u8>],
    count: Option<usize>,
) -> io::Result<Span> {
    let start = Sample::take(options, driver, traffic.published);
    let end_ns = start.at_ns + (options.seconds * SECOND_NS as f64) as u64;
    let answered_before = driver.counts.answered;
    let mut sent = 0;
    loop {
        let is_over = match count {
            Some(count) => sent == count,
            None => driver.now_ns() >= end_ns,
        };
        if is_over && driver.idle_workers.len() == options.workers {
            return Ok(Span { start, end: Sample::take(options, driver, traffic.published) });
        }
        if driver.counts.closed > 0 {
            return Err(io::Error::other("the server ended a connection that waits for an answer"));
        }
        while !is_over && count.is_none_or(|count| sent < count) {
            let Some(worker) = driver.idle_workers.pop() else {
                break;
            };
            driver.request(worker, &requests[sent % requests.len()]);
            sent += 1;
        }
        debug_assert!(driver.counts.answered - answered_before <= sent as u64);
        traffic.turn(driver, driver.now_ns() + SECOND_NS / 20)?;
    }
}

/// One service, its instances on a lease that outlives the run.
fn instances_of_batch(batch: usize) -> Vec<String> {
    (0..KEYS_PER_BATCH)
        .map(|instance| {
            format!(
                r#"{{"regionId":"r","serviceId":"lease{batch:05}","instanceId":"i{instance:03}","ip":"10.0.0.1","port":8080,"status":"up","leaseTtlMs":600000}}"#
            )
        })
        .collect()
}

fn keys_of_batch(batch: usize) -> Vec<String> {
    (0..KEYS_PER_BATCH)
        .map(|instance| {
            format!(
                r#"{{"regionId":"r","serviceId":"lease{batch:05}","instanceId":"i{instance:03}"}}"#
            )
        })
        .collect()
}
