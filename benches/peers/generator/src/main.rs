//! The outside load generator.
//!
//! One thread and one epoll loop drive any server that speaks the compared subset: fanfare, the
//! floor, the peers. It publishes events, reads every delivery, and checks from the revisions in
//! the frames that nothing was lost, doubled or put out of order. Each run prints one line of
//! JSON; `table` turns a file of such lines into Markdown.
//!
//! # Layout
//!
//! * [`wire`]: the bytes sent, ready to be patched, and the scanner for those that come back.
//! * [`ledger`]: who follows what, which revisions came, and what did not.
//! * [`histogram`]: times. [`process`]: processor time and memory, as the kernel counts them.
//! * [`driver`]: the loop and the connections.
//! * [`modes`]: what a run sets up and measures.
//! * [`report`]: lines and tables. [`options`]: the command line.
//!
//! # Promises
//!
//! * A delivery costs a share of one `read`, a look at fixed places of its header, and two
//!   counters. What the generator itself took is in every line, so a run in which it was the
//!   saturated side shows.
//! * Latency runs from the moment an event was meant to be sent, not from when it was.

mod driver;
mod histogram;
mod ledger;
mod modes;
mod options;
mod process;
mod report;
mod wire;

use std::process::ExitCode;

use options::{Options, USAGE};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    let result = if arguments.peek().is_some_and(|first| first == "table") {
        let file = arguments.nth(1).unwrap_or_default();
        std::fs::read_to_string(&file)
            .map(|lines| report::tables(&lines))
            .map_err(|error| format!("{file}: {error}"))
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
