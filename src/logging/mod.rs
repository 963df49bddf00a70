//! The log of the process, on standard error: filters, formats, and limits.
//!
//! ```text
//! event --> RUST_LOG --> only this crate below `info` --> Folding --> text or JSON --> Queue
//!                                                            |                          |
//!                                             counts of what was left out        thread `log` --> stderr
//! ```
//!
//! # Promises
//!
//! * Writing a line never waits: lines go into a bounded queue, and a thread of its own writes
//!   them. If standard error takes nothing, lines are left out and counted.
//! * A storm of equal lines is a few lines and one with a count; see `logging::fold`.
//! * Of the libraries nothing below `info` is shown, whatever `RUST_LOG` says: at lower levels they
//!   write what passes through them - request heads, frames, statements, commands to Redis - and
//!   with it tokens and passwords.
//!
//! # Not here
//!
//! The lines themselves: the modules write them, under the targets that `docs/operations.md` lists.
//!
//! Imports `address`, `clock` and `limits`. Imported by `config`, the binary and embedders.

mod fold;
mod json;
mod queue;

use std::io::IsTerminal as _;
use std::sync::Arc;

use tracing::{Level, Metadata};
use tracing_subscriber::filter::{EnvFilter, LevelFilter, filter_fn};
use tracing_subscriber::fmt::format;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

use fold::{Fold, Folding};
use json::Json;
pub use queue::LogGuard;
use queue::Queue;

/// The target of the access log.
pub const ACCESS: &str = "fanfare::access";

/// The target of the log's own lines.
const OWN: &str = "fanfare::log";

/// The form of the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// The name in the configuration and in status pages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        }
    }
}

/// The settings of the log.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settings<'a> {
    /// The form of the lines.
    pub format: LogFormat,
    /// The filter, as in `RUST_LOG`; empty is `info`.
    pub filter: &'a str,
    /// Whether the access log is shown whatever the filter says of other lines.
    pub access_log: bool,
    /// Whether a terminal may be sent colours.
    pub may_be_colourful: bool,
}

/// Starts the log of the process. Dropping the guard writes the rest of the queue.
///
/// # Errors
///
/// If the process has a subscriber for its log already; then that one stays.
pub fn start(settings: Settings<'_>) -> Result<LogGuard, TryInitError> {
    let given = Some(settings.filter.trim()).filter(|text| !text.is_empty()).unwrap_or("info");
    let (mut asked, fault) = match EnvFilter::try_new(given) {
        Ok(asked) => (asked, None),
        Err(fault) => (EnvFilter::new("info"), Some(fault)),
    };
    if settings.access_log
        && !given.contains(ACCESS)
        && let Ok(shown) = format!("{ACCESS}=info").parse()
    {
        asked = asked.add_directive(shown);
    }
    // A reader of `debug` lines wants each of them.
    let is_close = asked.max_level_hint().is_none_or(|level| level > LevelFilter::INFO);
    let fold = Arc::new(Fold::new(!is_close));
    let (queue, guard) = Queue::start(Arc::clone(&fold));
    // Colours are for terminals: in a file or a journal they are noise. https://no-color.org
    let is_colourful = settings.may_be_colourful && std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_writer(queue);
    let lines = match settings.format {
        LogFormat::Text => {
            lines.with_ansi(is_colourful).event_format(Folding::new(fold, format())).boxed()
        }
        LogFormat::Json => {
            lines.with_ansi(false).event_format(Folding::new(fold, Json::default())).boxed()
        }
    };
    tracing_subscriber::registry().with(asked).with(filter_fn(is_shown)).with(lines).try_init()?;
    if let Some(fault) = fault {
        tracing::warn!(target: OWN, %fault, "RUST_LOG cannot be parsed: info is shown");
    }
    Ok(guard)
}

/// Whether a line may be shown, whatever the filter says.
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
