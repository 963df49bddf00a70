//! The program against a server that behaves, and against ones that do not.
//!
//! What must never happen is a fault of the server that goes unnoticed, so each kind of fault has
//! a server that commits it exactly once.

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use support::{FakeServer, Fault};

/// Ten events one after the other, so that each travels in a frame of its own.
const SPACED: &[&str] = &["--connections", "5", "--messages", "10", "--rate", "50"];

fn stress(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_websocket_stress_test")).args(arguments).output().unwrap()
}

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// Runs against a server with a fault. Returns the exit status and the figures of the one test.
fn run(fault: Fault, arguments: &[&str]) -> (i32, Value) {
    let server = FakeServer::start(fault);
    let url = server.url();
    let path = file(&format!("{fault:?}-{}.json", arguments.len()));
    let mut all = vec!["--url", url.as_str(), "--json", path.to_str().unwrap()];
    all.extend_from_slice(arguments);
    let output = stress(&all);
    let status = output.status.code().unwrap();
    let text = fs::read_to_string(&path).unwrap_or_else(|_| panic!("{output:?}"));
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["passed"], status == 0);
    (status, report["tests"][0].clone())
}

#[test]
fn an_orderly_server_passes_and_every_delivery_is_counted() {
    let (status, test) = run(Fault::None, SPACED);
    assert_eq!(status, 0, "{test}");
    assert_eq!(test["connections_made"], 5);
    assert_eq!((&test["expected"], &test["received"]), (&50.into(), &50.into()));
    assert_eq!(test["latency_us"]["count"], 50);
    assert_eq!(
        test["timeline"].as_array().unwrap().iter().filter_map(Value::as_u64).sum::<u64>(),
        50
    );
}

#[test]
fn a_lost_frame_fails_the_run() {
    let (status, test) = run(Fault::Lose, SPACED);
    assert_eq!(status, 1);
    assert_eq!((&test["lost"], &test["received"]), (&1.into(), &49.into()));
    assert_eq!((&test["duplicated"], &test["out_of_order"]), (&0.into(), &0.into()));
}

#[test]
fn a_duplicated_frame_fails_the_run() {
    let (status, test) = run(Fault::Duplicate, SPACED);
    assert_eq!(status, 1);
    assert_eq!((&test["duplicated"], &test["received"]), (&1.into(), &50.into()));
    assert_eq!((&test["lost"], &test["out_of_order"]), (&0.into(), &0.into()));
}

#[test]
fn a_misordered_frame_fails_the_run() {
    let (status, test) = run(Fault::Swap, SPACED);
    assert_eq!(status, 1);
    assert_eq!((&test["out_of_order"], &test["received"]), (&1.into(), &50.into()));
    assert_eq!((&test["lost"], &test["duplicated"]), (&0.into(), &0.into()));
}

#[test]
fn a_snapshot_instead_of_a_change_is_no_loss() {
    let (status, test) = run(Fault::Collapse, SPACED);
    assert_eq!(status, 0, "{test}");
    assert_eq!((&test["collapsed"], &test["received"]), (&1.into(), &49.into()));
}

#[test]
fn another_order_of_fields_is_understood() {
    let (status, test) = run(Fault::Reshape, SPACED);
    assert_eq!(status, 0, "{test}");
    assert_eq!((&test["received"], &test["latency_us"]["count"]), (&50.into(), &50.into()));
}

#[test]
fn a_refused_event_is_reported_and_not_expected() {
    let (status, test) = run(Fault::RateLimit, SPACED);
    assert_eq!(status, 0, "{test}");
    assert_eq!((&test["expected"], &test["received"]), (&45.into(), &45.into()));
    assert_eq!(test["events_refused"]["rate_limited"], 1);
    assert!(test["notes"].to_string().contains("rate_limited"), "{test}");
}

#[test]
fn a_flood_is_batched_below_the_message_limit_and_complete() {
    let (status, test) = run(Fault::None, &["--connections", "8", "--messages", "2000"]);
    assert_eq!(status, 0, "{test}");
    assert_eq!(test["received"], 16_000);
}

#[test]
fn many_services_are_told_apart() {
    let services = ["--services", "12", "--subscriptions", "5", "--test-type", "fanout"];
    let sizes = ["--connections", "7", "--messages", "24", "--rate", "60"];
    let (status, test) = run(Fault::None, &[&services[..], &sizes[..]].concat());
    assert_eq!(status, 0, "{test}");
    // 35 subscriptions, and each service has two events.
    assert_eq!((&test["expected"], &test["received"]), (&70.into(), &70.into()));
}

#[test]
fn a_storm_of_three_rounds_reaches_everybody() {
    let storm = ["--test-type", "storm", "--connections", "20", "--messages", "3"];
    let (status, test) = run(Fault::None, &storm);
    assert_eq!(status, 0, "{test}");
    assert_eq!((&test["connections_made"], &test["received"]), (&60.into(), &60.into()));
}

#[test]
fn the_page_refers_to_nothing_outside() {
    let server = FakeServer::start(Fault::None);
    let path = file("page.html");
    let (url, page) = (server.url(), path.to_str().unwrap().to_owned());
    let output = stress(&[&["--url", &url, "--report", &page, "--token", "hush"], SPACED].concat());
    assert!(output.status.success(), "{output:?}");
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains("\"test\":\"throughput\""));
    assert!(!text.contains("hush"), "a token is a secret");
    assert!(!text.contains("src=") && !text.contains("<link"));
}

#[test]
fn wrong_flags_are_named_and_exit_with_2() {
    let cases: &[(&[&str], &str)] = &[
        (&["--url", "wss://127.0.0.1/ws"], "--url"),
        (&["--connections", "0"], "--connections"),
        (&["--connections", "999999"], "--connections"),
        (&["--subscriptions", "2"], "--subscriptions"),
        (&["--rate", "fast"], "--rate"),
        (&["--test-type", "nothing"], "--test-type"),
        (&["--publish-by", "post"], "--publish-by"),
        (&["--publishers", "0"], "--publishers"),
        (&["--publishers", "9", "--window", "8"], "--publishers"),
        (&["--test-type", "chat", "--publishers", "2"], "--publishers"),
        (&["--test-type", "direct", "--publish-by", "http"], "--publish-by"),
        (&["--spawn", "--url", "ws://127.0.0.1:1/ws"], "--spawn"),
    ];
    for (arguments, flag) in cases {
        let output = stress(arguments);
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {words}");
        assert!(words.contains(flag), "{arguments:?}: {words}");
    }
}

#[test]
fn a_server_that_is_not_there_is_said_to_be_so() {
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = stress(&["--url", &format!("ws://{free}/ws")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot connect"), "{output:?}");
}
