//! The outside load generator.
//!
//! One thread and one epoll loop drive any server that speaks the compared subset: fanfare, the
//! floor, the peers, and Centrifugo in its own protocol. It publishes events, reads every delivery, and checks from the revisions in
//! the frames that nothing was lost, doubled or put out of order. Each run prints one line of
//! JSON; `table` turns a file of such lines into Markdown.
//!
//! # Layout
//!
//! * [`wire`]: the bytes sent, ready to be patched, and the scanner for those that come back;
//!   [`centrifugo`]: those of another protocol.
//! * [`ledger`]: who follows what, which revisions came, and what did not.
//! * [`histogram`]: times. [`process`]: processor time and memory, as the kernel counts them.
//! * [`driver`]: the loop and the connections.
//! * [`traffic`]: who publishes events, and when. [`sample`]: counters at two moments.
//! * [`modes`]: what a run sets up and measures; [`requests`]: the same for the modes in which
//!   requests are measured and not events.
//! * [`report`]: lines and tables. [`options`]: the command line.
//!
//! # Promises
//!
//! * A delivery costs a share of one `read`, a look at fixed places of its header, and two
//!   counters. What the generator itself took is in every line, so a run in which it was the
//!   saturated side shows.
//! * Latency runs from the moment an event was meant to be sent, not from when it was.

mod centrifugo;
mod driver;
mod histogram;
mod ledger;
mod modes;
mod options;
mod process;
mod report;
mod requests;
mod sample;
mod traffic;
mod wire;

use std::process::ExitCode;

use options::{Options, USAGE};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    let result = if arguments.peek().is_some_and(|first| first == "table") {
        table(&arguments.skip(1).collect::<Vec<_>>())
    } else {
        match Options::decode(arguments) {
            Ok(options) => modes::run(&options).map_err(|error| error.to_string()),
            Err(error) => Err(format!("{error}\n\n{USAGE}")),
        }
    };
    match result {
        Ok(text) => {
            println!("{}", text.trim_matches('\n'));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The tables of a file of results.
fn table(arguments: &[String]) -> Result<String, String> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (file, baseline) = match arguments[..] {
        [file] => (file, None),
        [file, "--baseline", baseline] => (file, Some(baseline)),
        _ => return Err(USAGE.to_owned()),
    };
    let lines = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    Ok(report::tables(&lines, baseline))
}
