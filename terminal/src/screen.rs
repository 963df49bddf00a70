//! What a person or a script gets to see.
//!
//! Imports nothing of the crate. Imported by `main` and `session`.

use std::io::{self, Write as _};

use serde_json::Value;

/// Writes a line without disturbing the one that is being typed.
pub(crate) type Printer = Box<dyn FnMut(String) -> io::Result<()> + Send>;

/// Where lines go, and what they look like.
pub(crate) struct Screen {
    printer: Printer,
    /// Every message as it came.
    is_json: bool,
    is_coloured: bool,
}

/// Colours of a terminal (ECMA-48, 8.3.117).
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const CYAN: &str = "36";

impl Screen {
    pub(crate) fn new(printer: Printer, is_json: bool, is_coloured: bool) -> Screen {
        Screen { printer, is_json, is_coloured }
    }

    /// Lines on standard output, each flushed.
    pub(crate) fn plain() -> Printer {
        Box::new(|line| {
            let mut out = io::stdout().lock();
            writeln!(out, "{line}")?;
            out.flush()
        })
    }

    /// A message of the server. Returns an error once nobody reads any more.
    pub(crate) fn message(&mut self, text: &str) -> io::Result<()> {
        if self.is_json {
            return (self.printer)(text.to_owned());
        }
        match serde_json::from_str::<Value>(text) {
            Ok(message) => {
                let line = self.line(&message);
                (self.printer)(line)
            }
            Err(_) => (self.printer)(printable(text)),
        }
    }

    /// An answer over HTTP.
    pub(crate) fn answer(&mut self, path: &str, body: &Value) -> io::Result<()> {
        if self.is_json {
            let line = serde_json::json!({"type": "http", "path": path, "body": body});
            return (self.printer)(line.to_string());
        }
        let text = serde_json::to_string_pretty(body).unwrap_or_default();
        (self.printer)(printable_lines(&text))
    }

    /// Something we say ourselves. A script finds it on standard error, not among its messages.
    pub(crate) fn note(&mut self, text: &str, is_fault: bool) -> io::Result<()> {
        if self.is_coloured {
            let line = self.paint(if is_fault { RED } else { DIM }, text);
            return (self.printer)(line);
        }
        eprintln!("{text}");
        Ok(())
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.is_coloured { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A message in one line, for a person.
    fn line(&self, message: &Value) -> String {
        let text = |field: &str| printable(message[field].as_str().unwrap_or_default());
        let kind = match message["type"].as_str() {
            Some(kind) => printable(kind),
            None => text("message_type"),
        };
        let from = match (&*text("username"), &*text("from_user_id")) {
            ("", "") => String::new(),
            ("", user) | (user, _) => format!(" {}", self.paint(GREEN, user)),
        };
        let head = |colour: &str| self.paint(colour, &kind);
        match &*kind {
            "error" => format!("{} {} {}", head(RED), text("code"), text("message")),
            "chat" => format!("{} {}{from}: {}", head(CYAN), text("room"), text("content")),
            "private" | "group" => format!("{}{from}: {}", head(CYAN), text("content")),
            "service_change" => format!("{} {}", head(YELLOW), changes(message)),
            _ if message["data"]["text"].is_string() => {
                let said = printable(message["data"]["text"].as_str().unwrap_or_default());
                format!("{}{from}: {said}", head(CYAN))
            }
            _ => {
                let mut rest = message.clone();
                if let Some(rest) = rest.as_object_mut() {
                    rest.remove("type");
                }
                format!("{} {}", head(DIM), printable(&rest.to_string()))
            }
        }
    }
}

fn changes(message: &Value) -> String {
    let empty = Vec::new();
    let changes = message["changes"].as_array().unwrap_or(&empty).iter().map(|change| {
        let text = |value: &Value| printable(value.as_str().unwrap_or_default());
        let name = text(&change["instance"]["instanceId"]);
        format!("{} {name} ({})", text(&change["changeType"]), text(&change["reason"]))
    });
    let changes = changes.collect::<Vec<_>>().join(", ");
    let service = printable(message["service_id"].as_str().unwrap_or_default());
    format!("{service} at {}: {changes}", message["revision"])
}

/// Without what a terminal would obey: others choose these texts.
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
        let line = screen.line(&json!({"type": "chat", "room": "r", "content": "a\u{1b}[2Jb\r\n"}));
        let without_ours = line.replace("\u{1b}[36m", "").replace("\u{1b}[0m", "");
        assert!(!without_ours.chars().any(char::is_control), "{line:?}");
    }
}
