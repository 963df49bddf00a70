//! The log of the process, on standard error.
//!
//! `RUST_LOG` decides what is shown, with one bound: of everything but this crate nothing below
//! `info`. At lower levels the libraries write what passes through them - request heads, frames,
//! statements, commands to Redis - and with it tokens and passwords.
//!
//! Part of the program.

use std::io::IsTerminal as _;

use tracing::{Level, Metadata};
use tracing_subscriber::filter::{EnvFilter, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Starts the log. To be called once, before anything is written to it.
#[allow(clippy::disallowed_methods, reason = "the log is set up before the configuration is read")]
pub(crate) fn start() {
    let asked = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // Colours are for eyes: in a file or a journal they are noise. https://no-color.org
    let is_colourful = std::io::stderr().is_terminal()
        && std::env::var("NO_COLOR").map_or(true, |no| no.is_empty());
    let lines =
        tracing_subscriber::fmt::layer().with_ansi(is_colourful).with_writer(std::io::stderr);
    tracing_subscriber::registry().with(asked).with(filter_fn(is_shown)).with(lines).init();
}

/// Whether a line may be shown, whatever was asked for.
fn is_shown(line: &Metadata<'_>) -> bool {
    is_own(line.target()) || *line.level() <= Level::INFO
}

/// Whether a line is of this crate, and so never holds a secret.
fn is_own(target: &str) -> bool {
    target.strip_prefix("fanfare").is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_crate_is_its_own() {
        for own in ["fanfare", "fanfare::cluster::log"] {
            assert!(is_own(own), "{own}");
        }
        for other in ["hyper::proto::h1::role", "tungstenite", "fanfare_loadtest", "log", ""] {
            assert!(!is_own(other), "{other}");
        }
    }
}
