//! Requests between nodes over publish and subscribe.
//!
//! Each node subscribes to a topic of its own. A request names the node that sends it, and the response goes
//! to that node's topic. A node whose topic has no subscriber counts as absent: the request does not wait for it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use redis::Cmd;

use super::{BackplaneResponse, News, Shared};

/// The questions of this node that are not settled. Control bounds how many.
#[derive(Clone, Default)]
pub(super) struct OpenRequests(Arc<Mutex<HashMap<u64, Open>>>);

#[derive(Default)]
struct Open {
    missing: HashSet<String>,
    answers: Vec<(String, String)>,
}

/// A message of a node's topic.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NodeMessage {
    /// A question, or the answer to one.
    Text {
        is_request: bool,
        /// The node that sends it.
        node: String,
        /// The question's number at the node that asked.
        number: u64,
        text: String,
    },
    /// Something of this node to itself, to see whether it can hear.
    Probe,
}

/// A node's own topic.
pub(super) fn topic(node: &str) -> String {
    format!("fanfare:node:{{{node}}}")
}

/// Tells a node something.
fn tell(to: &str, kind: &str, from: &str, number: u64, text: &str) -> Cmd {
    let mut command = redis::cmd("PUBLISH");
    command.arg(topic(to)).arg(format!("{kind} {number} {from}\n{text}"));
    command
}

/// Asks a node.
pub(super) fn question(to: &str, from: &str, number: u64, text: &str) -> Cmd {
    tell(to, "question", from, number, text)
}

/// Answers a node.
pub(super) fn answer(to: &str, from: &str, number: u64, text: &str) -> Cmd {
    tell(to, "answer", from, number, text)
}

/// Something for this node itself.
pub(super) fn probe(node: &str) -> Cmd {
    let mut command = redis::cmd("PUBLISH");
    command.arg(topic(node)).arg("probe");
    command
}

/// Reads a message of a node's topic.
pub(super) fn decode(said: &[u8]) -> Option<NodeMessage> {
    let said = std::str::from_utf8(said).ok()?;
    if said == "probe" {
        return Some(NodeMessage::Probe);
    }
    let (head, text) = said.split_once('\n')?;
    let mut head = head.splitn(3, ' ');
    let is_request = match head.next()? {
        "question" => true,
        "answer" => false,
        _ => return None,
    };
    let (number, node) = (head.next()?.parse().ok()?, head.next()?.to_owned());
    Some(NodeMessage::Text { is_request, node, number, text: text.to_owned() })
}

impl OpenRequests {
    /// Waits for answers to a question.
    pub(super) fn open(&self, number: u64, nodes: &[String]) {
        let missing = nodes.iter().cloned().collect();
        self.0.lock().insert(number, Open { missing, answers: Vec::new() });
    }

    /// Takes an answer. A late or repeated one has no effect.
    pub(super) fn take(&self, shared: &Shared, number: u64, node: String, answer: String) {
        if let Some(open) = self.0.lock().get_mut(&number)
            && open.missing.remove(&node)
        {
            open.answers.push((node, answer));
        }
        self.settle(shared, number);
    }

    /// Waits for nodes no longer.
    pub(super) fn absent<'a>(
        &self,
        shared: &Shared,
        number: u64,
        nodes: impl Iterator<Item = &'a String>,
    ) {
        if let Some(open) = self.0.lock().get_mut(&number) {
            for node in nodes {
                open.missing.remove(node);
            }
        }
        self.settle(shared, number);
    }

    /// Tells control where all have answered.
    fn settle(&self, shared: &Shared, number: u64) {
        if self.0.lock().get(&number).is_some_and(|open| open.missing.is_empty()) {
            self.finish(shared, number);
        }
    }

    /// Tells control the answers so far, once.
    pub(super) fn finish(&self, shared: &Shared, number: u64) {
        let open = self.0.lock().remove(&number);
        if let Some(open) = open {
            shared.tell(News::Response { number, reply: BackplaneResponse::Nodes(open.answers) });
        }
    }

    /// Forgets a question. Returns whether control has not been told of it.
    pub(super) fn forget(&self, number: u64) -> bool {
        self.0.lock().remove(&number).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nodes_say_is_read() {
        let said = decode(b"question 7 ab\n{\"a\":\n 1}");
        let words = |is_request, number, text: &str| {
            let (node, text) = (String::from("ab"), text.to_owned());
            Some(NodeMessage::Text { is_request, node, number, text })
        };
        assert_eq!(said, words(true, 7, "{\"a\":\n 1}"));
        assert_eq!(decode(b"answer 8 ab\n"), words(false, 8, ""));
        assert_eq!(decode(b"probe"), Some(NodeMessage::Probe));
        for wrong in [&b""[..], b"question 7 ab", b"question x ab\n", b"other 7 ab\n", b"\xff"] {
            assert_eq!(decode(wrong), None);
        }
    }
}
