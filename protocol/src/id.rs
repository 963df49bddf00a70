//! Names that cross the wire: services, instances, users, channels, epochs.
//!
//! Newtypes, so that a user cannot be passed where a channel is meant and a display name cannot pass
//! for a canonical one. Each is a shared string: a clone costs a counter.
//!
//! Not here: the ids of a server's own things, such as its connections and its messages.
//!
//! Imports nothing. Imported by `instance`, the server and the client.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The text is not an identifier of the expected form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAnId;

impl fmt::Display for NotAnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not an identifier")
    }
}

impl std::error::Error for NotAnId {}

/// A service's canonical name: ASCII lower case, shared.
///
/// Service ids compare without case (ASCII). This is the one spelling that frames and look-ups use;
/// an instance keeps the spelling it registered with.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName(Arc<str>);

impl ServiceName {
    /// Folds `spelling` to the canonical form.
    pub fn of(spelling: &str) -> ServiceName {
        ServiceName(Arc::from(spelling.to_ascii_lowercase()))
    }

    /// The canonical spelling.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for ServiceName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The identity of an instance: region, service and instance id, without case.
///
/// The three are joined by a unit separator, which no valid name contains.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceIdentity(Arc<str>);

impl InstanceIdentity {
    /// Joins the parts in canonical spelling.
    pub fn of(region: &str, service: &str, instance: &str) -> InstanceIdentity {
        let mut text = String::with_capacity(region.len() + service.len() + instance.len() + 2);
        for (index, part) in [region, service, instance].into_iter().enumerate() {
            if index > 0 {
                text.push('\u{1f}');
            }
            text.push_str(part);
        }
        text.make_ascii_lowercase();
        InstanceIdentity(Arc::from(text))
    }

    /// Takes a text from [`InstanceIdentity::as_str`], for instance from the store.
    pub fn from_canonical(text: &str) -> InstanceIdentity {
        InstanceIdentity(Arc::from(text))
    }

    /// The joined text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The region, which may be empty, the service and the instance id.
    pub fn parts(&self) -> (&str, &str, &str) {
        let (region, rest) = self.0.split_once('\u{1f}').unwrap_or(("", &self.0));
        let (service, instance) = rest.split_once('\u{1f}').unwrap_or((rest, ""));
        (region, service, instance)
    }
}

impl std::borrow::Borrow<str> for InstanceIdentity {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// For people: the region, if there is one, the service and the instance, with slashes.
impl fmt::Display for InstanceIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.trim_start_matches('\u{1f}').replace('\u{1f}', "/"))
    }
}

/// A user id: the `sub` of the user's tokens, verbatim.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(Arc<str>);

impl UserId {
    /// Wraps a user id.
    pub fn new(text: &str) -> UserId {
        UserId(Arc::from(text))
    }

    /// The id's text, shared with it.
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }

    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for UserId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A channel's name, verbatim: unlike service ids, these differ in case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelName(Arc<str>);

/// The prefix of the channels of rooms.
const ROOM_PREFIX: &str = "chat:";

impl ChannelName {
    /// Wraps a name that has been checked.
    pub fn new(text: &str) -> ChannelName {
        ChannelName(Arc::from(text))
    }

    /// The channel of a chat room.
    pub fn of_room(room: &str) -> ChannelName {
        ChannelName(Arc::from(format!("{ROOM_PREFIX}{room}")))
    }

    /// The room of this channel, if it is a room's.
    pub fn room(&self) -> Option<&str> {
        self.0.strip_prefix(ROOM_PREFIX)
    }

    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for ChannelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The unbroken run of history that a revision number belongs to.
///
/// Two revisions are comparable only under the same epoch. A new one is drawn when continuity with
/// the clients' earlier picture is not certain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Epoch(Arc<str>);

impl Epoch {
    /// Wraps an epoch's text.
    pub fn new(text: &str) -> Epoch {
        Epoch(Arc::from(text))
    }

    /// The epoch's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Names are strings in JSON.
macro_rules! serde_as_text {
    ($name:ident, $read:path) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<$name, D::Error> {
                Ok($read(&Cow::<str>::deserialize(from)?))
            }
        }
    };
}

serde_as_text!(ServiceName, ServiceName::of);
serde_as_text!(InstanceIdentity, InstanceIdentity::from_canonical);
serde_as_text!(UserId, UserId::new);
serde_as_text!(ChannelName, ChannelName::new);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_ignores_case_and_keeps_parts_apart() {
        assert_eq!(InstanceIdentity::of("R", "Svc", "I1"), InstanceIdentity::of("r", "sVC", "i1"));
        assert_ne!(InstanceIdentity::of("a", "bc", "d"), InstanceIdentity::of("ab", "c", "d"));
    }
}
