//! A session as a document shows it: `$ command` and what it prints, `> frame` that a WebSocket client
//! sends, `< frame` that it gets.
//!
//! `$ wsdump URL` opens the socket, which stays open for the examples after it in the same document.
//! What differs from run to run (ids, epochs, times) may differ; `...` stands for anything. An epoch or
//! id that the document goes on to send is replaced by what the server really said.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;
use tungstenite::client::IntoClientRequest as _;
use tungstenite::{Message, WebSocket};

/// How long a frame may take. A tour waits for a lease of 20 s to run out.
const PATIENCE: Duration = Duration::from_secs(45);

/// Fields that differ from run to run.
const VOLATILE: &[&str] = &[
    "connection_id",
    "node_id",
    "epoch",
    "message_id",
    "timestamp",
    "changeTime",
    "created_at",
    "connected_at",
    "expires_at",
    "token",
    "user_id",
    "group_id",
    "request_id",
    "id",
    "version",
];

/// What a document has going on.
#[derive(Default)]
pub struct Session {
    socket: Option<WebSocket<TcpStream>>,
    /// What the document calls something, and what it is called in this run.
    names: BTreeMap<String, String>,
}

impl Session {
    /// Plays a session. `shell` runs a command and returns what it printed.
    pub fn play(
        &mut self,
        text: &str,
        address: std::net::SocketAddr,
        mut shell: impl FnMut(&str) -> Result<String, String>,
    ) -> Result<(), String> {
        let mut lines = text.lines().peekable();
        let mut printed: Option<Vec<String>> = None;
        while let Some(line) = lines.next() {
            if let Some(rest) = line.strip_prefix("$ ") {
                let mut command = rest.to_owned();
                while command.ends_with('\\') {
                    let Some(more) = lines.next() else { break };
                    command = format!("{command}\n{more}");
                }
                all_was_shown(printed.take())?;
                if let Some(url) = command.strip_prefix("wsdump ") {
                    self.socket = Some(open(url, address)?);
                } else {
                    let said = shell(&self.renamed(&command))?;
                    printed = Some(said.lines().rev().map(str::to_owned).collect());
                }
            } else if let Some(frame) = line.strip_prefix("> ") {
                let frame = self.renamed(frame);
                let socket = self.socket.as_mut().ok_or("there is no `$ wsdump` before this")?;
                socket.send(Message::text(frame)).map_err(|fault| fault.to_string())?;
            } else if let Some(expected) = line.strip_prefix("< ") {
                let frame = self.next_frame()?;
                self.compare(expected, &frame)?;
            } else if line != "..." {
                let said = printed.as_mut().and_then(Vec::pop);
                let said = said.ok_or_else(|| format!("nothing more was printed; not {line:?}"))?;
                self.compare(line, &said)?;
            } else {
                printed = None;
            }
        }
        all_was_shown(printed)
    }

    fn renamed(&self, text: &str) -> String {
        let one = |text: String, (from, to): (&String, &String)| text.replace(from, to);
        self.names.iter().fold(text.to_owned(), one)
    }

    fn next_frame(&mut self) -> Result<String, String> {
        let socket = self.socket.as_mut().ok_or("there is no `$ wsdump` before this")?;
        loop {
            match socket.read().map_err(|fault| format!("no frame: {fault}"))? {
                Message::Text(text) => return Ok(text.to_string()),
                Message::Close(frame) => return Err(format!("closed: {frame:?}")),
                _ => {}
            }
        }
    }

    fn compare(&mut self, expected: &str, actual: &str) -> Result<(), String> {
        let differ = || format!("the document shows\n    {expected}\nand it is\n    {actual}");
        let loose = expected.replace("{...}", r#"{"...":0}"#).replace("[...]", r#"["..."]"#);
        let is_same = match (serde_json::from_str(&loose), serde_json::from_str(actual)) {
            (Ok(expected), Ok(actual)) => self.is_like("", &expected, &actual),
            _ => is_text_like(&self.renamed(expected), actual),
        };
        if is_same { Ok(()) } else { Err(differ()) }
    }

    fn is_like(&mut self, field: &str, expected: &Value, actual: &Value) -> bool {
        match (expected, actual) {
            (Value::String(text), _) if text == "..." => true,
            (Value::String(text), Value::String(said)) => {
                if let Some(beginning) = text.strip_suffix("...") {
                    return VOLATILE.contains(&field) || said.starts_with(beginning);
                }
                let renamed = self.renamed(text);
                if renamed != *said && VOLATILE.contains(&field) {
                    // The document's own name for it, whether or not it comes up again.
                    return self.names.insert(text.clone(), said.clone()).is_none();
                }
                renamed == *said
            }
            (Value::Object(fields), Value::Object(said)) => {
                if fields.contains_key("...") {
                    return true;
                }
                fields.len() == said.len()
                    && fields.iter().all(|(name, value)| {
                        said.get(name).is_some_and(|said| self.is_like(name, value, said))
                    })
            }
            (Value::Array(entries), Value::Array(said)) => {
                let is_anything = entries.first().is_some_and(|entry| entry == "...");
                is_anything
                    || entries.len() == said.len()
                        && entries.iter().zip(said).all(|(one, said)| self.is_like("", one, said))
            }
            (Value::Number(_), Value::Number(_)) if VOLATILE.contains(&field) => true,
            (one, said) => one == said,
        }
    }
}

/// A document that shows anything of what a command prints shows all of it, or ends with `...`.
fn all_was_shown(printed: Option<Vec<String>>) -> Result<(), String> {
    match printed {
        Some(rest) if !rest.is_empty() => {
            let rest: Vec<_> = rest.into_iter().rev().collect();
            Err(format!("more was printed than the document shows:\n    {}", rest.join("\n    ")))
        }
        _ => Ok(()),
    }
}

/// Whether a line is like another in which `...` stands for anything.
fn is_text_like(expected: &str, actual: &str) -> bool {
    let mut rest = actual;
    let parts: Vec<&str> = expected.split("...").collect();
    for (index, part) in parts.iter().enumerate() {
        let Some(at) = rest.find(part) else { return false };
        if index == 0 && at != 0 {
            return false;
        }
        rest = &rest[at + part.len()..];
    }
    parts.last().is_some_and(|last| last.is_empty()) || rest.is_empty()
}

fn open(url: &str, address: std::net::SocketAddr) -> Result<WebSocket<TcpStream>, String> {
    let stream = TcpStream::connect(address).map_err(|fault| fault.to_string())?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(|fault| fault.to_string())?;
    let request = url.into_client_request().map_err(|fault| fault.to_string())?;
    let (socket, _) = tungstenite::client(request, stream).map_err(|fault| fault.to_string())?;
    Ok(socket)
}
