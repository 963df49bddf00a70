//! Names and numbers that identify things.
//!
//! Newtypes, so that a slot cannot be passed where a topic is meant and a display name cannot pass
//! for a canonical one. A slot is reused after its connection has gone; an identity never is, which
//! is why a [`ConnId`] carries a generation.
//!
//! Imports nothing of the crate. Imported by everything.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A shard's number: 0 up to the number of shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub u16);

/// A connection's place in its shard's slab. Reused after the connection has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

impl Slot {
    /// The slot as an index into slabs and vectors.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// One connection, for as long as the server runs.
///
/// `generation` tells apart the connections that used the same slot one after the other, so a late
/// message never reaches a stranger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnId {
    /// The shard that owns the socket.
    pub shard: ShardId,
    /// Where the shard keeps it.
    pub slot: Slot,
    /// How many connections the shard had opened before this one.
    pub generation: u32,
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.shard.0, self.slot.0, self.generation)
    }
}

impl FromStr for ConnId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<ConnId, NotAnId> {
        let mut parts = text.split('-');
        let mut next = || parts.next().and_then(|part| part.parse::<u32>().ok()).ok_or(NotAnId);
        let shard = u16::try_from(next()?).map_err(|_| NotAnId)?;
        let (slot, generation) = (next()?, next()?);
        if parts.next().is_some() {
            return Err(NotAnId);
        }
        Ok(ConnId { shard: ShardId(shard), slot: Slot(slot), generation })
    }
}

/// The text is no identifier of the expected form.
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

/// What makes an instance the same instance: region, service and instance id, without case.
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

    /// Takes a text that [`InstanceIdentity::as_str`] gave, for instance from the store.
    pub fn from_canonical(text: &str) -> InstanceIdentity {
        InstanceIdentity(Arc::from(text))
    }

    /// The joined text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for InstanceIdentity {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Which unbroken run of history a revision number belongs to.
///
/// Two revisions are comparable only under the same epoch. A new one is drawn when continuity with
/// what clients saw before is not certain.
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

/// The request's own `id`, kept as the JSON text it came in (a string or a number).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(pub Box<str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conn_id_survives_its_text() {
        let id = ConnId { shard: ShardId(3), slot: Slot(70_000), generation: 9 };
        assert_eq!(id.to_string().parse(), Ok(id));
        for wrong in ["", "1", "1-2", "1-2-3-4", "a-b-c", "70000-1-1", "-1-2-3"] {
            assert_eq!(wrong.parse::<ConnId>(), Err(NotAnId), "{wrong:?}");
        }
    }

    #[test]
    fn identity_ignores_case_and_keeps_parts_apart() {
        assert_eq!(InstanceIdentity::of("R", "Svc", "I1"), InstanceIdentity::of("r", "sVC", "i1"));
        assert_ne!(InstanceIdentity::of("a", "bc", "d"), InstanceIdentity::of("ab", "c", "d"));
    }
}
