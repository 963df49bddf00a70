//! Settings that all nodes have to share, and the nodes that differ.
//!
//! Each node puts its shared settings into its heartbeat: values, and of the key of the tokens a
//! fingerprint. A node compares them with those of every living node, logs which settings differ and
//! shows that in `cluster.json`. The eldest of the living nodes is right, because it serves
//! already. A node that differs from the eldest is not ready.
//!
//! A node of a release that tells no settings is not compared. A setting that only one of two releases has
//! is skipped.

use serde_json::{Map, Value};

use super::NodeView;

/// The name under which the fingerprint of the secret or public key stands.
pub const TOKEN_KEY: &str = "token_key";

/// The name under which the fingerprints of the other secrets stand whose tokens the node accepts.
///
/// Two nodes agree on the key if each accepts what the other one signs, so that a secret can be changed node by node.
pub const OTHER_TOKEN_KEYS: &str = "other_token_keys";

/// The field of a heartbeat that holds the settings.
pub const SETTINGS: &str = "settings";

/// The field that says when the node joined, in milliseconds by Redis' clock.
pub const JOINED_MS: &str = "joined_ms";

/// The settings that a node has to share with the others.
#[derive(Debug, Clone, Default)]
pub struct Shared {
    /// The node's name.
    pub node: String,
    /// Its settings by their names.
    pub settings: Map<String, Value>,
    /// Whether settings may differ for now, because they are being changed.
    pub may_differ: bool,
}

/// A living node whose settings differ from this one's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Its name.
    pub node: String,
    /// The names of the settings.
    pub settings: Vec<String>,
    /// Whether it keeps this node from being ready: the other one is the eldest.
    pub is_ours: bool,
}

impl Shared {
    /// Compares with every living node. `joined_ms` is when this node joined; 0 before it has.
    pub fn differences(&self, joined_ms: u64, nodes: &[NodeView]) -> Vec<Difference> {
        let others = nodes.iter().filter(|other| other.is_alive && other.id != self.node);
        let others: Vec<Other<'_>> = others.filter_map(Other::of).collect();
        let own = (place(joined_ms), &*self.node);
        let eldest = others.iter().map(|other| other.joined).min().filter(|first| *first < own);
        others.iter().filter_map(|other| self.difference(eldest, other)).collect()
    }

    fn difference(&self, eldest: Option<(u64, &str)>, other: &Other<'_>) -> Option<Difference> {
        let differs = |(name, value): &(&String, &Value)| {
            other.settings.get(*name).is_some_and(|theirs| match &***name {
                OTHER_TOKEN_KEYS => false,
                TOKEN_KEY => !accepts(&other.settings, value) || !accepts(&self.settings, theirs),
                _ => theirs != *value,
            })
        };
        let settings: Vec<String> =
            self.settings.iter().filter(differs).map(|(name, _)| name.clone()).collect();
        if settings.is_empty() {
            return None;
        }
        let is_excused = self.may_differ && settings.iter().all(|name| is_changeable(name));
        let is_ours = eldest == Some(other.joined) && !is_excused;
        Some(Difference { node: other.joined.1.to_owned(), settings, is_ours })
    }
}

/// Whether a node with these settings takes the tokens of a key.
fn accepts(settings: &Map<String, Value>, key: &Value) -> bool {
    let others = settings.get(OTHER_TOKEN_KEYS).and_then(Value::as_array);
    settings.get(TOKEN_KEY) == Some(key) || others.is_some_and(|others| others.contains(key))
}

/// Another node, as its heartbeat describes it.
struct Other<'a> {
    /// When it joined, and its name: the eldest is the first by these.
    joined: (u64, &'a str),
    settings: Map<String, Value>,
}

impl Other<'_> {
    /// None for a node that tells no settings.
    fn of(node: &NodeView) -> Option<Other<'_>> {
        let mut about: Value = serde_json::from_str(&node.about).ok()?;
        let joined = (place(about[JOINED_MS].as_u64().unwrap_or(0)), &*node.id);
        let Value::Object(settings) = about[SETTINGS].take() else { return None };
        Some(Other { joined, settings })
    }
}

/// A node that has not joined yet is younger than all others.
fn place(joined_ms: u64) -> u64 {
    if joined_ms == 0 { u64::MAX } else { joined_ms }
}

/// Whether a setting may differ while it is being changed. Whose tokens count, and whether any are
/// needed, is the same everywhere or nowhere.
fn is_changeable(name: &str) -> bool {
    ![TOKEN_KEY, "auth"].contains(&name)
}
