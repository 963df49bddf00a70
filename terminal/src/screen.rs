//! The output for a person or a script.
//!
//! Imports `phrase`. Imported by `main` and `session`.

use std::io::{self, Write as _};

use serde_json::Value;

use crate::phrase::{Names, Phrase, Tone};

/// Writes a line without disturbing the line being typed.
pub(crate) type Printer = Box<dyn FnMut(String) -> io::Result<()> + Send>;

/// The output, and its form.
pub(crate) struct Screen {
    printer: Printer,
    /// Every message as it came.
    is_json: bool,
    is_coloured: bool,
    names: Names,
}

/// Colours of a terminal (ECMA-48, 8.3.117).
const fn colour(tone: Tone) -> &'static str {
    match tone {
        Tone::Quiet => "2",
        Tone::Bad => "31",
        Tone::Person => "32",
        Tone::Change => "33",
        Tone::Message => "36",
    }
}

impl Screen {
    pub(crate) fn new(printer: Printer, is_json: bool, is_coloured: bool) -> Screen {
        Screen { printer, is_json, is_coloured, names: Names::default() }
    }

    /// Lines on standard output, each flushed.
    pub(crate) fn plain() -> Printer {
        Box::new(|line| {
            let mut out = io::stdout().lock();
            writeln!(out, "{line}")?;
            out.flush()
        })
    }

    /// A message of the server. Returns an error when the reader has closed the output.
    pub(crate) fn message(&mut self, text: &str) -> io::Result<()> {
        if self.is_json {
            return (self.printer)(text.to_owned());
        }
        match serde_json::from_str::<Value>(text) {
            Ok(message) => {
                self.names.learn(&message);
                let Some(phrase) = Phrase::of(&message, &self.names) else { return Ok(()) };
                let line = self.line(&phrase);
                (self.printer)(line)
            }
            Err(_) => (self.printer)(printable(text)),
        }
    }

    /// An answer over HTTP.
    pub(crate) fn answer(&mut self, path: &str, body: &Value) -> io::Result<()> {
        self.names.learn_users(&body["users"]);
        if self.is_json {
            let line = serde_json::json!({"type": "http", "path": path, "body": body});
            return (self.printer)(line.to_string());
        }
        let text = serde_json::to_string_pretty(body).unwrap_or_default();
        (self.printer)(printable_lines(&text))
    }

    /// Keeps the names of users, for messages that hold their ids alone.
    pub(crate) fn learn(&mut self, body: &Value) {
        self.names.learn_users(&body["users"]);
    }

    /// A message of this program. A script finds it on standard error, not among its messages.
    pub(crate) fn note(&mut self, text: &str, is_fault: bool) -> io::Result<()> {
        if self.is_coloured {
            let line = self.paint(if is_fault { Tone::Bad } else { Tone::Quiet }, text);
            return (self.printer)(line);
        }
        eprintln!("{text}");
        Ok(())
    }

    fn paint(&self, tone: Tone, text: &str) -> String {
        if self.is_coloured {
            format!("\x1b[{}m{text}\x1b[0m", colour(tone))
        } else {
            text.to_owned()
        }
    }

    /// A phrase in one line. Other users choose its texts.
    fn line(&self, phrase: &Phrase) -> String {
        let paint = |(tone, text): &(Option<Tone>, String)| {
            let text = printable(text);
            tone.map_or(text.clone(), |tone| self.paint(tone, &text))
        };
        phrase.parts().iter().map(paint).collect()
    }
}

/// Without control characters for the terminal: other users choose these texts.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn printable_lines(text: &str) -> String {
    text.lines().map(printable).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nobody_else_controls_the_terminal() {
        let screen = Screen::new(Screen::plain(), false, true);
        for message in [
            json!({"type": "chat", "room": "r", "content": "a\u{1b}[2Jb\r\n"}),
            json!({"message_type": "text", "data": {"content": "\u{1b}]0;x\u{7}"}}),
            json!({"message_type": "error", "data": {"code": "\u{9b}2J", "message": "\u{8}"}}),
            json!({"type": "news\u{1b}", "x": "\u{1b}"}),
        ] {
            let phrase = Phrase::of(&message, &Names::default()).expect("it is shown");
            let line = screen.line(&phrase);
            let ours = ["31", "32", "33", "36", "2", "0"].map(|one| format!("\u{1b}[{one}m"));
            let rest = ours.iter().fold(line.clone(), |line, one| line.replace(one, ""));
            assert!(!rest.chars().any(char::is_control), "{line:?}");
        }
    }
}
