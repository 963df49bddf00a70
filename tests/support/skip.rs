//! How a test says that it cannot run here.

#![allow(clippy::disallowed_methods, reason = "the environment says where that is written down")]

use std::io::Write as _;

/// Says that the test at hand, or a part of it, does not run, and why. `scripts/test.sh` counts these.
pub fn skipped(why: &str) {
    eprintln!("SKIPPED: {why}");
    let Some(path) = std::env::var_os("FANFARE_TEST_SKIPPED") else { return };
    let thread = std::thread::current();
    let line = format!("{}: {why}\n", thread.name().unwrap_or("a test"));
    let file = std::fs::File::options().append(true).create(true).open(path);
    file.and_then(|mut file| file.write_all(line.as_bytes())).expect("it is written down");
}
