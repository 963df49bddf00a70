//! Messages: the server's pushes, and a client's requests.
//!
//! Nearly every message is a `service_change`, and its layout hardly ever varies. `scan` expects
//! exactly that layout and walks the bytes once, without an allocation; any other text goes to
//! `parse`, which is slow and accepts any JSON. A server that orders its fields in another way is
//! thus measured as more expensive, never wrongly.
//!
//! Imports nothing of the crate. Imported by `fleet` and `publisher`.

use memchr::memmem;
use serde::Deserialize;
use serde_json::Value;

/// A `service_change`, by reference into the read buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change<'a> {
    /// The service that changed.
    pub(crate) service_id: &'a [u8],
    /// The revision before the changes.
    pub(crate) from: u64,
    /// The revision after them.
    pub(crate) revision: u64,
}

/// Any message of the server, read the slow way.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Message {
    /// Its type.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// The service it is about.
    pub(crate) service_id: String,
    /// The epoch of the revisions.
    pub(crate) epoch: String,
    /// The revision before the changes.
    pub(crate) from: u64,
    /// The revision after the changes.
    pub(crate) revision: u64,
    /// Whether a resumed subscription continues without a gap.
    pub(crate) recovered: Option<bool>,
    /// The changes of a `service_change`.
    pub(crate) changes: Vec<Value>,
    /// The request that it answers.
    pub(crate) id: Option<u64>,
    /// The code of an `error`.
    pub(crate) code: String,
    /// The message of an `error`.
    #[serde(rename = "message")]
    pub(crate) words: String,
    /// The entries that a `registered` answer refused.
    pub(crate) failed_instances: Vec<Value>,
}

impl Message {
    /// The send times of the changes; zero for a change that carries none.
    pub(crate) fn stamps(&self) -> impl Iterator<Item = u64> + '_ {
        self.changes.iter().map(|change| {
            let stamp = change["instance"]["metadata"]["t"].as_str();
            stamp.and_then(|text| text.parse().ok()).unwrap_or(0)
        })
    }
}

/// Reads any message. Returns nothing when it is no JSON object.
pub(crate) fn parse(payload: &[u8]) -> Option<Message> {
    serde_json::from_slice(payload).ok()
}

/// Finds the send times in a `service_change` without parsing it.
#[derive(Debug)]
pub(crate) struct Scanner {
    stamp: memmem::Finder<'static>,
    change_type: memmem::Finder<'static>,
}

impl Scanner {
    /// Prepares the searches once.
    pub(crate) fn new() -> Self {
        Scanner {
            stamp: memmem::Finder::new(b"\"t\":\""),
            change_type: memmem::Finder::new(b"\"changeType\":\""),
        }
    }

    /// Reads a `service_change` of the usual layout and puts its send times into `stamps`, one per
    /// change. Returns nothing for every other message, and for one whose stamps do not add up to
    /// its revisions: those are for `parse`.
    pub(crate) fn scan<'a>(&self, payload: &'a [u8], stamps: &mut Vec<u64>) -> Option<Change<'a>> {
        let rest = payload.strip_prefix(b"{\"type\":\"service_change\",\"service_id\":\"")?;
        let (service_id, rest) = until_quote(rest)?;
        let rest = rest.strip_prefix(b",\"epoch\":\"")?;
        let (_, rest) = until_quote(rest)?;
        let (from, rest) = number(rest.strip_prefix(b",\"from\":")?)?;
        let (revision, rest) = number(rest.strip_prefix(b",\"revision\":")?)?;
        let rest = rest.strip_prefix(b",\"changes\":[")?;
        stamps.clear();
        for at in self.stamp.find_iter(rest) {
            let (stamp, _) = number(&rest[at + self.stamp.needle().len()..])?;
            stamps.push(stamp);
        }
        let change_count = revision.checked_sub(from)?;
        if change_count != stamps.len() as u64 {
            return None;
        }
        // One stamp and one change are the usual case, and there is nothing to mistake.
        if change_count > 1 && self.change_type.find_iter(rest).count() != stamps.len() {
            return None;
        }
        Some(Change { service_id, from, revision })
    }
}

/// Splits at the next quotation mark. Refuses a backslash: an escaped text is for `parse`.
fn until_quote(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr2(b'"', b'\\', bytes)?;
    (bytes[end] == b'"').then(|| (&bytes[..end], &bytes[end + 1..]))
}

/// Reads the digits at the start. Returns nothing when there are none or too many.
fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let length = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if length == 0 || length > 19 {
        return None;
    }
    let value = bytes[..length].iter().fold(0u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Some((value, &bytes[length..]))
}

/// The position of a subscriber when it lost its connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Since<'a> {
    /// The epoch of the revision.
    pub(crate) epoch: &'a str,
    /// The last revision seen.
    pub(crate) revision: u64,
}

/// The request to follow a service, from a known revision on if `since` is given.
pub(crate) fn subscribe(service_id: &str, since: Option<Since<'_>>) -> String {
    match since {
        None => format!(r#"{{"type":"subscribe","service_id":"{service_id}"}}"#),
        Some(Since { epoch, revision }) => {
            let epoch = Value::from(epoch);
            format!(
                r#"{{"type":"subscribe","service_id":"{service_id}","since":{{"epoch":{epoch},"revision":{revision}}}}}"#
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(from: u64, stamps: &[u64]) -> String {
        let changes: Vec<String> = stamps
            .iter()
            .map(|stamp| {
                format!(
                    r#"{{"instance":{{"serviceId":"s-7","metadata":{{"pad":"xx","t":"{stamp}"}}}},"changeType":"change","reason":"update"}}"#
                )
            })
            .collect();
        format!(
            r#"{{"type":"service_change","service_id":"s-7","epoch":"e1","from":{from},"revision":{},"changes":[{}],"degraded":false}}"#,
            from + stamps.len() as u64,
            changes.join(",")
        )
    }

    #[test]
    fn the_scanner_and_the_parser_agree() {
        let scanner = Scanner::new();
        for stamps in [vec![], vec![5], vec![1, 2, 1_234_567_890_123]] {
            let text = change(41, &stamps);
            let mut found = Vec::new();
            let change = scanner.scan(text.as_bytes(), &mut found).unwrap();
            let parsed = parse(text.as_bytes()).unwrap();
            assert_eq!(found, stamps);
            assert_eq!(parsed.stamps().collect::<Vec<_>>(), stamps);
            assert_eq!(change.service_id, parsed.service_id.as_bytes());
            assert_eq!((change.from, change.revision), (parsed.from, parsed.revision));
        }
    }

    #[test]
    fn another_layout_is_left_to_the_parser() {
        let scanner = Scanner::new();
        let mut stamps = Vec::new();
        let usual = change(1, &[9]);
        for odd in [
            usual.replace("{\"type\"", "{ \"type\""),
            usual.replace("\"from\":1,", ""),
            usual.replace("s-7", "s\\u002d7"),
            usual.replace("\"revision\":2", "\"revision\":3"),
            usual.replace("\"9\"", "\"x\""),
            r#"{"type":"pong"}"#.to_owned(),
            String::new(),
        ] {
            assert_eq!(scanner.scan(odd.as_bytes(), &mut stamps), None, "{odd}");
        }
    }

    #[test]
    fn no_prefix_of_a_change_is_mistaken_for_one_with_stamps() {
        let scanner = Scanner::new();
        let text = change(1, &[1_000, 2_000]);
        let mut stamps = Vec::new();
        for cut in 0..text.len() {
            if scanner.scan(&text.as_bytes()[..cut], &mut stamps).is_some() {
                assert_eq!(stamps, [1_000, 2_000], "cut at {cut}");
            }
        }
    }

    #[test]
    fn a_resume_names_epoch_and_revision() {
        let text = subscribe("s", Some(Since { epoch: "a\"b", revision: 4 }));
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["since"]["epoch"], "a\"b");
        assert_eq!(value["since"]["revision"], 4);
    }
}
