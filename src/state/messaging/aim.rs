//! Whom a message is for, by connection.
//!
//! [`Aimed`] names connections of any node, [`Aim`] those of this one.

use serde::{Deserialize, Serialize};

use crate::id::{ChannelName, ConnId, ConnName, UserId};

/// Whom a program's envelope is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum To {
    /// Every JSON socket.
    Everyone,
    /// The followers of a channel.
    Channel(ChannelName),
    /// A user.
    User(UserId),
    /// One connection.
    Connection(ConnName),
}

/// Whom a message is aimed at, on whatever node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aimed {
    /// No others than these, where it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<Vec<ConnName>>,
    /// Not these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<ConnName>,
}

impl Aimed {
    /// Whether it is simply everyone.
    pub fn is_everyone(&self) -> bool {
        self.only.is_none() && self.except.is_empty()
    }

    /// The nodes that may have some of them, of those given.
    pub(super) fn nodes(&self, nodes: Vec<String>) -> Vec<String> {
        let Some(only) = &self.only else { return nodes };
        let is_meant = |node: &String| only.iter().any(|name| name.node.as_deref() == Some(node));
        nodes.into_iter().filter(is_meant).collect()
    }

    /// The same, with names that other nodes understand.
    #[must_use]
    pub(super) fn named_from(&self, node: &str) -> Aimed {
        let named = |names: &[ConnName]| names.iter().map(|name| name.named_from(node)).collect();
        Aimed { only: self.only.as_deref().map(named), except: named(&self.except) }
    }

    /// Those of one node.
    pub fn here(&self, node: &str) -> Aim {
        let own = |names: &[ConnName]| {
            names.iter().filter(|name| name.is_at(node)).map(|name| name.conn).collect()
        };
        Aim::new(self.only.as_deref().map(own), own(&self.except))
    }
}

/// Which of a topic's followers get a message, among this node's connections.
///
/// # Invariants
///
/// 1. Both lists are sorted and hold each connection once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Aim {
    /// No others than these, where it is there.
    only: Option<Vec<ConnId>>,
    /// Not these.
    except: Vec<ConnId>,
}

impl Aim {
    /// Those of `only`, or all, but for `except`.
    pub fn new(only: Option<Vec<ConnId>>, except: Vec<ConnId>) -> Aim {
        let sorted = |mut ids: Vec<ConnId>| {
            ids.sort_unstable();
            ids.dedup();
            ids
        };
        Aim { only: only.map(sorted), except: sorted(except) }
    }

    /// All but one.
    pub fn past(conn: ConnId) -> Aim {
        Aim { only: None, except: vec![conn] }
    }

    /// Nobody but one.
    pub fn at(conn: ConnId) -> Aim {
        Aim { only: Some(vec![conn]), except: Vec::new() }
    }

    /// Whether it is simply everyone.
    pub fn is_everyone(&self) -> bool {
        self.only.is_none() && self.except.is_empty()
    }

    /// The only ones meant, where not everyone is.
    pub fn only(&self) -> Option<&[ConnId]> {
        self.only.as_deref()
    }

    /// Whether a connection is meant, given that it follows.
    pub fn includes(&self, conn: ConnId) -> bool {
        self.only.as_ref().is_none_or(|only| only.binary_search(&conn).is_ok())
            && self.except.binary_search(&conn).is_err()
    }

    /// How many of `total` followers are meant.
    pub(super) fn count(&self, total: usize, follows: impl Fn(ConnId) -> bool) -> usize {
        match &self.only {
            Some(only) => only.iter().filter(|&&id| self.includes(id) && follows(id)).count(),
            None => total - self.except.iter().filter(|&&id| follows(id)).count(),
        }
    }
}
