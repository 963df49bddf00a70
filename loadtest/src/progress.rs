//! Progress: a bar on a terminal, plain lines elsewhere. Always on standard error, so that the
//! tables on standard output can be piped.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

use crate::clock::Clock;

/// How often a plain line is printed at most.
const LINE_INTERVAL_NS: u64 = 2_000_000_000;

/// How often the bar is moved at most.
const BAR_INTERVAL_NS: u64 = 50_000_000;

/// Shows how far the current step is.
#[derive(Debug)]
pub(crate) struct Progress {
    clock: Clock,
    bar: Option<ProgressBar>,
    is_terminal: bool,
    label: String,
    total: u64,
    shown_ns: u64,
}

impl Progress {
    /// Nothing to show yet.
    pub(crate) fn new(clock: Clock) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        Progress { clock, bar: None, is_terminal, label: String::new(), total: 0, shown_ns: 0 }
    }

    /// Begins a step of `total` parts.
    pub(crate) fn begin(&mut self, label: &str, total: u64) {
        self.finish();
        label.clone_into(&mut self.label);
        self.total = total;
        self.shown_ns = self.clock.now_ns();
        if !self.is_terminal {
            eprintln!("{label}");
            return;
        }
        let bar = ProgressBar::new(total);
        let style = ProgressStyle::with_template("{msg:<42} {wide_bar} {pos}/{len} {elapsed}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(self.label.clone());
        self.bar = Some(bar);
    }

    /// Shows that `done` parts are done. Cheap enough for every turn of the loop.
    pub(crate) fn show(&mut self, done: u64) {
        let now_ns = self.clock.now_ns();
        let interval_ns = if self.is_terminal { BAR_INTERVAL_NS } else { LINE_INTERVAL_NS };
        if now_ns - self.shown_ns < interval_ns {
            return;
        }
        self.shown_ns = now_ns;
        match &self.bar {
            Some(bar) => {
                bar.set_length(self.total.max(done));
                bar.set_position(done);
            }
            None => eprintln!("{}: {done} of {}", self.label, self.total.max(done)),
        }
    }

    /// Ends the step and clears the bar.
    pub(crate) fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
