//! The floor: what pushing an event to many sockets costs when the server does nothing else.
//!
//! One thread, one edge-triggered epoll, one read buffer. Two ways of writing, chosen on the
//! command line, bound what any server on the same kernel can reach:
//!
//! * `send`: one `write` of one ready-made frame for each event and subscriber.
//! * `coalesce`: everything that is due to a socket after a loop round leaves in one `write`.
//!
//! ```text
//! publisher --> [ read, at most 64 KiB a round ] --> scan --> frame, once per event
//!                                                               |
//!               send: write to each subscriber now  <-----------+
//!               coalesce: append to the service's log, mark its subscribers;
//!                         at the end of the round one write (or writev) per marked socket
//! ```
//!
//! # Not here
//!
//! No limits, no time-outs, no pings, no lower-casing, no JSON parser, no registry: an instance is
//! passed on as it came. What the kernel does not take is kept without bound, so a reader that
//! stalls costs memory. This is a yardstick and never a server.

mod scan;
mod server;

use std::process::ExitCode;

use server::{Policy, Server};

const USAGE: &str = "usage: peer-floor send|coalesce [--bind ADDRESS:PORT]";

fn main() -> ExitCode {
    let mut policy = None;
    let mut bind = String::from("127.0.0.1:0");
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "send" => policy = Some(Policy::Send),
            "coalesce" => policy = Some(Policy::Coalesce),
            "--bind" => bind = arguments.next().unwrap_or_default(),
            _ => policy = None,
        }
    }
    let Some(policy) = policy else {
        eprintln!("{USAGE}");
        return ExitCode::FAILURE;
    };
    match Server::bind(&bind, policy).and_then(|mut server| {
        println!("listening on http://{}", server.local_address()?);
        server.run()
    }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{bind}: {error}");
            ExitCode::FAILURE
        }
    }
}
