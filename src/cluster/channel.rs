//! A channel in Redis: its keys, its topic, the commands for them, and how responses read.
//!
//! A channel's keys share one hash tag, its name, so that one script works in a Redis Cluster.
//! Texts are taken as bytes from end to end.

use bytes::Bytes;
use redis::{Cmd, RedisError, Script, Value, from_redis_value};

use super::scripts;
use super::{ChannelMessage, ChannelState, SequencedMessage};
use crate::id::ChannelName;
use crate::limits;

const PREFIX: &str = "fanfare:channel:{";

/// The topic of a channel. Characters with a meaning in hash tags are escaped.
pub(super) fn topic(channel: &ChannelName) -> String {
    let name = channel.as_str();
    let mut topic = String::with_capacity(PREFIX.len() + name.len() + 1);
    topic.push_str(PREFIX);
    for one in name.chars() {
        match one {
            '%' => topic.push_str("%25"),
            '{' => topic.push_str("%7B"),
            '}' => topic.push_str("%7D"),
            _ => topic.push(one),
        }
    }
    topic.push('}');
    topic
}

/// The channel of a topic, where it is one's.
fn channel_of(topic: &[u8]) -> Option<ChannelName> {
    let name = std::str::from_utf8(topic).ok()?.strip_prefix(PREFIX)?.strip_suffix('}')?;
    if !name.contains('%') {
        return Some(ChannelName::new(name));
    }
    // The percent sign comes last, so that nothing is taken for an escape that was none.
    let name = name.replace("%7B", "{").replace("%7D", "}").replace("%25", "%");
    Some(ChannelName::new(&name))
}

/// A command that runs a script which is loaded.
pub(super) fn run(script: &Script, keys: &[&str]) -> Cmd {
    let mut command = redis::cmd("EVALSHA");
    command.arg(script.get_hash()).arg(keys.len());
    for key in keys {
        command.arg(key);
    }
    command
}

fn run_on(script: &Script, topic: &str) -> Cmd {
    run(script, &[&format!("{topic}:stream"), &format!("{topic}:meta")])
}

/// Publishes.
pub(super) fn publish(
    message: &ChannelMessage,
    epoch: &str,
    history_max: usize,
    history_bytes_max: usize,
    history_ms: u64,
) -> Cmd {
    let topic = topic(&message.channel);
    let mut command = run_on(&scripts::PUBLISH, &topic);
    command
        .arg(epoch)
        .arg(history_max)
        .arg(history_ms)
        // Kept messages are worth nothing without the epoch that they belong to.
        .arg(history_ms.max(limits::CHANNEL_META_MS))
        .arg(topic)
        .arg(&message.text[..])
        .arg(message.except.as_deref().unwrap_or_default())
        .arg(history_bytes_max);
    command
}

/// Reads.
pub(super) fn read(channel: &ChannelName, after: u64, limit: usize, epoch: Option<&str>) -> Cmd {
    let mut command = run_on(&scripts::READ, &topic(channel));
    command
        .arg(after.saturating_add(1))
        .arg(limit)
        .arg(epoch.unwrap_or_default())
        .arg(limits::CHANNEL_META_MS);
    command
}

/// Forgets.
pub(super) fn delete(channel: &ChannelName) -> Cmd {
    run_on(&scripts::DELETE, &topic(channel))
}

/// The response to [`read`].
pub(super) fn state(
    channel: &ChannelName,
    answer: Value,
) -> Result<Option<ChannelState>, RedisError> {
    if answer == Value::Nil {
        return Ok(None);
    }
    let (epoch, offset, entries): (String, u64, Value) = from_redis_value(answer)?;
    let mut kept = Vec::new();
    if let Value::Array(entries) = entries {
        kept.reserve_exact(entries.len());
        for entry in entries {
            if let Some(placed) = message_of(channel, &epoch, entry) {
                kept.push(placed);
            }
        }
    }
    Ok(Some(ChannelState { epoch, offset, kept }))
}

/// An entry of a channel's stream.
fn message_of(channel: &ChannelName, epoch: &str, entry: Value) -> Option<SequencedMessage> {
    let (id, fields): (String, Vec<Value>) = from_redis_value(entry).ok()?;
    let offset = id.split_once('-')?.0.parse().ok()?;
    let (mut at_ms, mut text, mut except) = (None, None, None);
    let mut fields = fields.into_iter();
    while let (Some(name), Some(Value::BulkString(value))) = (fields.next(), fields.next()) {
        match name {
            Value::BulkString(name) if name == b"t" => at_ms = number(&value),
            Value::BulkString(name) if name == b"m" => text = Some(Bytes::from(value)),
            Value::BulkString(name) if name == b"x" => except = String::from_utf8(value).ok(),
            _ => {}
        }
    }
    let message = ChannelMessage { channel: channel.clone(), text: text?, except };
    Some(SequencedMessage { epoch: epoch.to_owned(), offset, at_ms: at_ms?, message })
}

/// The message of a topic, where it is the topic of a channel.
pub(super) fn decode(topic: &[u8], said: Vec<u8>) -> Option<SequencedMessage> {
    let channel = channel_of(topic)?;
    let end = said.iter().position(|&byte| byte == b'\n')?;
    let head = std::str::from_utf8(&said[..end]).ok()?;
    let mut head = head.splitn(4, ' ');
    let (epoch, offset) = (head.next()?.to_owned(), head.next()?.parse().ok()?);
    let (at_ms, except) = (head.next()?.parse().ok()?, head.next()?);
    let except = (!except.is_empty()).then(|| except.to_owned());
    let text = Bytes::from(said).slice(end + 1..);
    Some(SequencedMessage {
        epoch,
        offset,
        at_ms,
        message: ChannelMessage { channel, text, except },
    })
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_one_hash_tag_and_comes_back() {
        for name in ["news", "a{b}c", "%7B", "{}", "%", "caf\u{e9} %257D", "chat:room"] {
            let topic = topic(&ChannelName::new(name));
            assert_eq!(topic.matches('{').count() + topic.matches('}').count(), 2, "{topic}");
            assert_eq!(channel_of(topic.as_bytes()), Some(ChannelName::new(name)));
        }
        assert_eq!(channel_of(b"fanfare:node:{a}"), None);
    }

    #[test]
    fn what_topics_say_is_taken_as_bytes() {
        let placed = decode(b"fanfare:channel:{a}", b"e1 7 99 n/0-1-2\n{\"x\":\n\xff}".to_vec());
        let placed = placed.expect("it is well formed");
        assert_eq!((placed.epoch.as_str(), placed.offset, placed.at_ms), ("e1", 7, 99));
        assert_eq!(placed.message.except.as_deref(), Some("n/0-1-2"));
        assert_eq!(&placed.message.text[..], b"{\"x\":\n\xff}");
        let placed = decode(b"fanfare:channel:{a}", b"e1 7 99 \n".to_vec()).expect("well formed");
        assert_eq!((placed.message.except, placed.message.text.len()), (None, 0));
        for wrong in [&b""[..], b"e1 7 99 ", b"e1 x 99 \n", b"e1\n", b"\n"] {
            assert_eq!(decode(b"fanfare:channel:{a}", wrong.to_vec()), None);
        }
    }
}
