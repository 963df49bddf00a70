//! What nodes tell each other of their people, as the log carries it.
//!
//! Its JSON is a format: nodes of the release before read it.
//!
//! Imports nothing of the crate. Imported by `state`.

use serde::{Deserialize, Serialize};

/// What a node tells of its people.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceUpdate {
    /// User, name, connections and since when in milliseconds since the Unix epoch. Without
    /// connections the user is offline there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<(String, String, u32, u64)>,
    /// Channel and followers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<(String, u32)>,
    /// Channel, user, name and since when; without a time the user has left.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rooms: Vec<(String, String, String, Option<u64>)>,
    /// Users seen for the first time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub known: Vec<String>,
}

impl PresenceUpdate {
    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        *self == PresenceUpdate::default()
    }
}

/// What all nodes know of people, for one that joins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceSnapshot {
    /// Each node's facts.
    #[serde(default)]
    pub nodes: Vec<(String, PresenceUpdate)>,
    /// The defined channels, with what they are for.
    #[serde(default)]
    pub channels: Vec<(String, String)>,
    /// The users ever seen, where no database has them.
    #[serde(default)]
    pub known: Vec<String>,
}
