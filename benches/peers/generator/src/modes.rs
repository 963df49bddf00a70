//! The modes: what is set up, what is published, and what is measured between which two moments.

use std::io;

use crate::driver::{Driver, Role};
use crate::ledger::Layout;
use crate::options::{Mode, Options, Protocol};
use crate::process;
use crate::report::Report;
use crate::requests;
use crate::sample::{SECOND_NS, Sample, Span};
use crate::traffic::Traffic;
use crate::wire::{EventTemplate, Route};

/// After the last event, how long nothing may come before what is missing counts as lost.
const QUIET_NS: u64 = 2 * SECOND_NS;
const DRAIN_NS_MAX: u64 = 20 * SECOND_NS;

/// A server may give memory back with a delay; this is how long it gets.
const SETTLE_NS: u64 = 2 * SECOND_NS;

/// The stalled mode: one subscriber in so many stops reading.
const STALLED_ONE_IN: usize = 10;

/// Runs one mode and returns its line of results.
pub(crate) fn run(options: &Options) -> io::Result<String> {
    let mut report = Report::new(options);
    match options.mode {
        Mode::Spaced | Mode::Flood | Mode::Topics | Mode::Register => push(options, &mut report)?,
        Mode::Idle => idle(options, &mut report)?,
        Mode::Storm => storm(options, &mut report)?,
        Mode::Stalled => stalled(options, &mut report)?,
        Mode::Heartbeat => requests::heartbeat(options, &mut report)?,
        Mode::Registrations => requests::registrations(options, &mut report)?,
        Mode::Beats => requests::beats(options, &mut report)?,
        Mode::Lookup => requests::lookup(options, &mut report)?,
        Mode::Listing => requests::listing(options, &mut report)?,
        Mode::Direct => requests::direct(options, &mut report)?,
    }
    Ok(report.finish())
}

pub(crate) fn report_latency(driver: &Driver, report: &mut Report) {
    report
        .figure("p50_ms", Some(driver.latency.quantile_ms(0.5)))
        .figure("p90_ms", Some(driver.latency.quantile_ms(0.9)))
        .figure("p99_ms", Some(driver.latency.quantile_ms(0.99)))
        .figure("max_ms", Some(driver.latency.max_ms()));
}

pub(crate) fn report_end(
    options: &Options,
    driver: &Driver,
    traffic: &Traffic,
    report: &mut Report,
) {
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

pub(crate) fn rss_kib(options: &Options) -> Option<f64> {
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
pub(crate) fn prime(options: &Options) -> io::Result<()> {
    if options.protocol == Protocol::Centrifugo {
        // A channel knows nothing of what was published before somebody subscribed.
        return Ok(());
    }
    let mut driver = Driver::new(options.server, options.protocol, Layout::NONE, 0)?;
    let publisher = driver.open(Role::FramePublisher, 1, 1)?;
    let services = options.services as u64;
    let mut template = EventTemplate::new(Route::Frame, options.event_bytes);
    let deadline_ns = driver.now_ns() + DRAIN_NS_MAX;
    let mut sent = 0;
    while driver.counts.acknowledged < services {
        while sent < services && sent - driver.counts.acknowledged < options.window {
            template.encode(sent as usize, 0, 1, driver.next_event(publisher));
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
pub(crate) fn subscribe(options: &Options, stalled: usize) -> io::Result<Driver> {
    let mut driver = Driver::new(options.server, options.protocol, layout(options), stalled)?;
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
pub(crate) fn drain(driver: &mut Driver, traffic: &Traffic, readers: usize) -> io::Result<()> {
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
        traffic.flush(driver);
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
        .count("connections", options.connections as u64)
        .count("publishers", options.publishers as u64)
        .text("publish_by", options.publish_by.name());
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
    let mut driver = Driver::new(options.server, options.protocol, layout(options), 0)?;
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
