//! A channel, for those who look at it.

use std::sync::Arc;

use crate::id::{ChannelName, Epoch, UserId};

/// A channel, for those who look at it.
#[derive(Debug, Clone)]
pub struct ChannelView {
    /// Its name.
    pub name: ChannelName,
    /// What it is for; empty where nobody said.
    pub description: Box<str>,
    /// Whether it was defined.
    pub is_defined: bool,
    /// How many connections follow it.
    pub subscribers: usize,
    /// Where it stands; none where it is only defined.
    pub position: Option<(Epoch, u64)>,
    /// The users in it, where it tells.
    pub users: Option<Vec<(UserId, Arc<str>)>>,
}

impl ChannelView {
    /// A channel of which nothing is known here.
    pub(in crate::state) fn unknown(name: ChannelName) -> ChannelView {
        ChannelView {
            name,
            description: Box::default(),
            is_defined: false,
            subscribers: 0,
            position: None,
            users: None,
        }
    }
}
