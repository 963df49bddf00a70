//! The connection: lines in, messages out, until either ends.
//!
//! Imports `command`, `renewal` and `screen`. Imported by `main`.

use std::fmt;
use std::io;
use std::time::Duration;

use fanfare_client::{Api, Error, RawSocket};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::command::{self, Command};
use crate::renewal::Renewal;
use crate::screen::Screen;

/// How often to ping. Servers close a connection that is silent for 35 s.
const PING_EVERY: Duration = Duration::from_secs(20);

/// How long to wait for the answers to the last lines.
const LAST_ANSWERS: Duration = Duration::from_secs(10);

/// The id of a person's pings: the answer is a time, not a message.
const TYPED: &str = "websocket_client-ping";

/// The id of the ping whose answer comes after every other answer.
const LAST: &str = "websocket_client-last";

/// The end of a session.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// All lines were sent and answered.
    Done,
    /// A line was wrong, or the server refused one.
    WithFaults,
    /// The connection was lost.
    Lost,
}

/// The parts of a session.
pub(crate) struct Session<'a> {
    pub(crate) api: &'a Api,
    pub(crate) socket: RawSocket,
    /// Keeps the socket signed in.
    pub(crate) renewal: Renewal,
    pub(crate) screen: &'a mut Screen,
    pub(crate) is_pinging: bool,
    /// A person is there, who wants to be warned of an end in time.
    pub(crate) is_interactive: bool,
    /// When the last ping was typed.
    pub(crate) pinged_at: Option<Instant>,
}

impl Session<'_> {
    /// Runs to the end.
    pub(crate) async fn run(mut self, lines: &mut mpsc::Receiver<String>) -> io::Result<Ending> {
        self.learn_names().await;
        let mut faults = 0_u32;
        let mut ping_at = Instant::now() + PING_EVERY;
        loop {
            let may_read = self.socket.has_room();
            tokio::select! {
                text = self.socket.next() => match text {
                    Ok(text) => faults += u32::from(self.show(&text)?),
                    Err(error) => return self.lost(&error, lines).await,
                },
                line = lines.recv(), if may_read => match line {
                    Some(line) => faults += u32::from(!self.take(&line).await?),
                    None => return self.finish(faults).await,
                },
                refresh = self.renewal.next() => match refresh {
                    Ok(refresh) => self.socket.send(refresh),
                    Err(error) => self.screen.note(&not_renewed(&error), true)?,
                },
                () = tokio::time::sleep_until(ping_at), if self.is_pinging => {
                    ping_at = Instant::now() + PING_EVERY;
                    self.socket.send(json!({"type": "ping"}).to_string());
                }
            }
        }
    }

    /// Shows a message of the server. Returns whether it refuses a line.
    fn show(&mut self, text: &str) -> io::Result<bool> {
        let message: Value = serde_json::from_str(text).unwrap_or_default();
        // The refresh was not typed, so its answer is not shown.
        match self.renewal.take(&message) {
            Some(Ok(())) => return Ok(false),
            Some(Err(fault)) => {
                self.screen.note(&not_renewed(&fault), true)?;
                return Ok(false);
            }
            None => self.screen.message(text)?,
        }
        if message["type"] == "pong"
            && message["id"] == TYPED
            && let Some(at) = self.pinged_at.take()
        {
            let took_ms = at.elapsed().as_secs_f64() * 1_000.0;
            self.screen.note(&format!("the server answered after {took_ms:.1} ms"), false)?;
        }
        Ok(message["type"] == "error" || message["message_type"] == "error")
    }

    /// Carries out a line. Returns whether that was possible.
    async fn take(&mut self, line: &str) -> io::Result<bool> {
        match command::parse(line) {
            Ok(Command::Send(message)) => self.socket.send(message.to_string()),
            Ok(Command::SendTo(user, mut message)) => {
                message["to_user_id"] = self.user_id(user).await.into();
                self.socket.send(message.to_string());
            }
            Ok(Command::Ping) => {
                self.pinged_at = Some(Instant::now());
                self.socket.send(json!({"type": "ping", "id": TYPED}).to_string());
            }
            Ok(Command::Get(path)) => match self.api.call("GET", path, None).await {
                Ok(body) => self.screen.answer(path, &body)?,
                Err(error) => {
                    self.screen.note(&format!("{path}: {error}"), true)?;
                    return Ok(false);
                }
            },
            Ok(Command::Help) => self.screen.note(&command::help(), false)?,
            Ok(Command::Quit | Command::Nothing) => {}
            Err(fault) => {
                self.screen.note(&fault, true)?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The user of a text: the account with that name, else the user with that id. If the server
    /// does not find the name, it judges the text as an id.
    async fn user_id(&self, user: String) -> String {
        if user.starts_with("name:") {
            return user;
        }
        match self.api.find_user(&user).await {
            Ok(Some(person)) => person.user_id,
            Ok(None) | Err(_) => user,
        }
    }

    /// Requests the online users, for a person who reads names. Nothing depends on the answer.
    async fn learn_names(&mut self) {
        if self.is_interactive
            && let Ok(online) = self.api.call("GET", "/ws/online", None).await
        {
            self.screen.learn(&online);
        }
    }

    /// No more lines. Answers come in the order of the requests, so the last one ends it.
    async fn finish(mut self, mut faults: u32) -> io::Result<Ending> {
        if !self.is_interactive {
            self.socket.send(json!({"type": "ping", "id": LAST}).to_string());
            let end = Instant::now() + LAST_ANSWERS;
            while let Ok(Ok(text)) = tokio::time::timeout_at(end, self.socket.next()).await {
                if is_last(&text) {
                    break;
                }
                faults += u32::from(self.show(&text)?);
            }
        }
        self.socket.close().await;
        Ok(if faults > 0 { Ending::WithFaults } else { Ending::Done })
    }

    async fn lost(self, error: &Error, lines: &mut mpsc::Receiver<String>) -> io::Result<Ending> {
        if self.is_interactive {
            // The terminal is the prompt's while a line is being typed.
            self.screen.note(&format!("{error}; press Enter to end"), true)?;
            lines.recv().await;
        } else {
            self.screen.note(&error.to_string(), true)?;
        }
        Ok(Ending::Lost)
    }
}

fn not_renewed(fault: &impl fmt::Display) -> String {
    format!("the token was not renewed: {fault}")
}

fn is_last(text: &str) -> bool {
    let message: Value = serde_json::from_str(text).unwrap_or_default();
    message["type"] == "pong" && message["id"] == LAST
}
