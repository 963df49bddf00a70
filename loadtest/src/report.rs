//! The report: all figures as JSON, and the same JSON inside one page that draws it.
//!
//! Imports `outcome`. Imported by `main`.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::outcome::Outcome;

/// The page. Draws the JSON that stands in it; refers to nothing outside.
const PAGE: &str = include_str!("report.html");

/// Where the page takes its figures from.
const PLACEHOLDER: &str = "/*FIGURES*/null";

/// All tests of one run.
#[derive(Debug, Serialize)]
pub(crate) struct Report<'a> {
    /// The version of this program.
    pub(crate) version: &'static str,
    /// The server that was loaded.
    pub(crate) server: String,
    /// How we were called, without the token.
    pub(crate) command: String,
    /// Logical processors here.
    pub(crate) cores: usize,
    /// Whether every test was passed.
    pub(crate) passed: bool,
    /// The tests.
    pub(crate) tests: &'a [Outcome],
}

impl Report<'_> {
    /// Writes the figures.
    pub(crate) fn write_json(&self, path: &Path) -> Result<(), String> {
        let text = serde_json::to_string_pretty(self).map_err(|error| error.to_string())?;
        write(path, "--json", &text)
    }

    /// Writes the page.
    pub(crate) fn write_page(&self, path: &Path) -> Result<(), String> {
        write(path, "--report", &self.page()?)
    }

    fn page(&self) -> Result<String, String> {
        let text = serde_json::to_string(self).map_err(|error| error.to_string())?;
        // Inside a script element nothing may look like its end.
        Ok(PAGE.replacen(PLACEHOLDER, &text.replace('<', "\\u003c"), 1))
    }
}

fn write(path: &Path, flag: &str, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{flag}: {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_stands_alone_and_holds_the_figures() {
        let tests = [Outcome { test: "</script>x".to_owned(), ..Outcome::default() }];
        let report = Report {
            version: "0",
            server: "ws://h".to_owned(),
            command: String::new(),
            cores: 2,
            passed: true,
            tests: &tests,
        };
        let page = report.page().unwrap();
        assert!(page.contains("\\u003c/script>x"));
        assert!(!page.contains(PLACEHOLDER));
        for outside in ["<link", "src=", "@import", "fetch(", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert_eq!(page.matches("</script>").count(), 1);
    }
}
