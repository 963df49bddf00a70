//! Settings that all nodes have to share, and the nodes that differ.
//!
//! Each node puts its shared settings into its heartbeat: values, and of the key of the tokens a
//! fingerprint. A node compares them with those of every living node, logs which settings differ and
//! shows that in `cluster.json`. The eldest of the living nodes is right, because it serves
//! already. A node that differs from the eldest is not ready.
//!
//! A node of a release that tells no settings is not compared. A setting that only one of two releases has
//! is skipped.
//!
//! Imports its siblings. Imported by `http` and `server`.

use serde_json::{Map, Value};

use super::NodeView;

/// The name under which the fingerprint of the secret or public key stands.
pub const TOKEN_KEY: &str = "token_key";

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
            other.settings.get(*name).is_some_and(|theirs| theirs != *value)
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shared(node: &str, settings: &Value) -> Shared {
        let settings = settings.as_object().cloned().unwrap_or_default();
        Shared { node: node.to_owned(), settings, may_differ: false }
    }

    fn heard(id: &str, about: &Value) -> NodeView {
        NodeView { id: id.to_owned(), age_ms: 0, is_alive: true, about: about.to_string() }
    }

    fn settings() -> Value {
        json!({TOKEN_KEY: "a", "auth": "open", "instances_max": 10})
    }

    #[test]
    fn the_later_of_two_that_differ_is_at_fault() {
        let own = shared("m", &json!({TOKEN_KEY: "b", "auth": "open", "instances_max": 9}));
        for (own_ms, other_ms, other, is_ours) in [
            (2, 1, "z", true),
            (1, 2, "a", false),
            (5, 5, "a", true),
            (5, 5, "z", false),
            (0, 1, "z", true),
        ] {
            let about = json!({SETTINGS: settings(), JOINED_MS: other_ms});
            let found = own.differences(own_ms, &[heard(other, &about)]);
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].is_ours, is_ours, "at {own_ms}, beside {other} at {other_ms}");
            assert_eq!(found[0].settings, ["instances_max", TOKEN_KEY]);
        }
    }

    /// One that differs from the eldest has no say in who else is ready.
    #[test]
    fn the_eldest_is_right() {
        let right = json!({SETTINGS: settings(), JOINED_MS: 1});
        let wrong = json!({SETTINGS: {TOKEN_KEY: "b"}, JOINED_MS: 2});
        let nodes = [heard("wrong", &wrong), heard("right", &right)];
        let found = shared("m", &settings()).differences(3, &nodes);
        assert_eq!(found.len(), 1);
        assert!(found[0].node == "wrong" && !found[0].is_ours);
    }

    #[test]
    fn settings_may_differ_while_they_are_changed_and_secrets_never() {
        let about = json!({SETTINGS: settings(), JOINED_MS: 1});
        let is_ours = |changed: Value, may_differ: bool| {
            let own = Shared { may_differ, ..shared("m", &changed) };
            own.differences(2, &[heard("a", &about)])[0].is_ours
        };
        assert!(is_ours(json!({"instances_max": 11}), false));
        assert!(!is_ours(json!({"instances_max": 11}), true));
        assert!(is_ours(json!({"instances_max": 11, "auth": "required"}), true));
        assert!(is_ours(json!({TOKEN_KEY: "b"}), true));
    }

    #[test]
    fn what_tells_nothing_or_is_gone_does_not_differ() {
        let own = shared("m", &json!({TOKEN_KEY: "b", "new_setting": 1}));
        let about = json!({SETTINGS: {TOKEN_KEY: "b", "older_setting": 2}, JOINED_MS: 1});
        let gone =
            NodeView { is_alive: false, ..heard("gone", &json!({SETTINGS: {TOKEN_KEY: "c"}})) };
        let itself = heard("m", &json!({SETTINGS: {TOKEN_KEY: "c"}}));
        let nodes = [heard("same", &about), heard("old", &json!({})), gone, itself];
        assert_eq!(own.differences(2, &nodes), []);
    }
}
