//! A typed line, and its message.
//!
//! Imports nothing of the crate. Imported by `main`, `prompt` and `session`.

use serde_json::{Value, json};

/// Every command: its words, its arguments, and its effect.
pub(crate) const COMMANDS: [(&str, &str, &str); 16] = [
    ("text", "MESSAGE", "send a text to every other user online"),
    ("notification", "MESSAGE", "send a notification to every other user online"),
    ("to", "USER MESSAGE", "send a text to one user, by name or by id"),
    ("subscribe service", "NAME", "follow a service, beginning with its instances; * is all"),
    ("subscribe channel", "NAME", "follow a channel"),
    ("unsubscribe service", "NAME", "follow it no longer"),
    ("unsubscribe channel", "NAME", "follow it no longer"),
    ("join", "ROOM", "enter a chat room"),
    ("leave", "ROOM", "leave it"),
    ("chat", "MESSAGE", "speak in the room entered last"),
    ("json", "{...}", "send a message as it is"),
    ("ping", "", "ask for a sign of life"),
    ("online", "", "who is online"),
    ("stats", "", "the server's figures"),
    ("help", "", "this list"),
    ("quit", "", "end"),
];

/// The request of a line.
#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    /// A message for the socket.
    Send(Value),
    /// An envelope for one user, by name or by id.
    SendTo(String, Value),
    /// A sign of life.
    Ping,
    /// A call over HTTP.
    Get(&'static str),
    /// The list of commands.
    Help,
    /// The end.
    Quit,
    /// An empty line, or a comment of a script.
    Nothing,
}

/// Reads a line.
pub(crate) fn parse(line: &str) -> Result<Command, String> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(Command::Nothing);
    }
    let (word, rest) = split(line);
    match word {
        "text" | "notification" => Ok(Command::Send(envelope(word, needed(rest, "a message")?))),
        "to" => {
            let (user, message) = split(needed(rest, "a user and a message")?);
            let message = envelope("text", needed(message, "a message")?);
            Ok(Command::SendTo(user.to_owned(), message))
        }
        "ping" => Ok(Command::Ping),
        "json" => match serde_json::from_str(needed(rest, "a JSON object")?) {
            Ok(value @ Value::Object(_)) => Ok(Command::Send(value)),
            Ok(_) => Err(String::from("json: that is JSON, but no object")),
            Err(fault) => Err(format!("json: {fault}")),
        },
        "subscribe" | "unsubscribe" => {
            let (kind, name) = split(rest);
            let name = needed(name, "service NAME or channel NAME")?;
            let mut message = json!({"type": word});
            match kind {
                "service" => {
                    message["service_id"] = name.into();
                    if word == "subscribe" && name != "*" {
                        message["snapshot"] = true.into();
                    }
                }
                "channel" => message["channel"] = name.into(),
                _ => return Err(format!("{word}: service NAME or channel NAME")),
            }
            Ok(Command::Send(message))
        }
        "join" | "leave" => {
            Ok(Command::Send(json!({"type": word, "room": needed(rest, "a room")?})))
        }
        "chat" => Ok(Command::Send(json!({"type": word, "content": needed(rest, "a message")?}))),
        "online" => Ok(Command::Get("/ws/online")),
        "stats" => Ok(Command::Get("/ws/stats")),
        "help" | "?" => Ok(Command::Help),
        "quit" | "exit" => Ok(Command::Quit),
        _ => Err(format!("{word}: no such command; try help")),
    }
}

fn split(text: &str) -> (&str, &str) {
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    (word, rest.trim())
}

fn needed<'a>(text: &'a str, what: &str) -> Result<&'a str, String> {
    if text.is_empty() { Err(format!("{what} is missing")) } else { Ok(text) }
}

fn envelope(message_type: &str, content: &str) -> Value {
    json!({"message_type": message_type, "data": {"content": content}})
}

/// The list of commands, for a person.
pub(crate) fn help() -> String {
    let row = |(words, rest, what): (&str, &str, &str)| {
        format!("  {:<28} {what}", format!("{words} {rest}"))
    };
    COMMANDS.map(row).join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_of_the_list_is_understood() {
        for (words, rest, _) in COMMANDS {
            let rest = if rest == "{...}" { "{}" } else { rest };
            assert!(parse(&format!("{words} {rest}")).is_ok(), "{words}");
            if !rest.is_empty() {
                assert!(parse(words).is_err(), "{words}");
            }
        }
        assert_eq!(parse("  # a comment"), Ok(Command::Nothing));
        assert!(parse("nonsense").is_err() && parse("json [1]").is_err());
    }

    #[test]
    fn commands_become_messages() {
        let text = json!({"message_type": "text", "data": {"content": "hi  there"}});
        assert_eq!(
            parse("to bob hi  there"),
            Ok(Command::SendTo(String::from("bob"), text.clone()))
        );
        assert_eq!(parse("ping"), Ok(Command::Ping));
        for (line, message) in [
            ("text hi  there", text),
            (
                "subscribe service s",
                json!({"type": "subscribe", "service_id": "s", "snapshot": true}),
            ),
            ("subscribe service *", json!({"type": "subscribe", "service_id": "*"})),
            ("chat hello", json!({"type": "chat", "content": "hello"})),
        ] {
            assert_eq!(parse(line), Ok(Command::Send(message)));
        }
    }
}
