//! Instances that are taken out of discovery, and by whom.
//!
//! A decision outlives its instance. Decisions about instances that are gone have a bound: beyond it the
//! oldest are dropped.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::id::{InstanceIdentity, UserId};
use crate::limits;

/// Who an operator is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// The user of the token that came with the call; none where the server asks for no token.
    pub user: Option<UserId>,
    /// The operator's name: any text that the caller gave.
    pub name: Box<str>,
}

/// An operator of whom only a caller's word is known.
impl From<&str> for Operator {
    fn from(name: &str) -> Operator {
        Operator { user: None, name: name.into() }
    }
}

/// Who took an instance out of discovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PulledOutBy {
    /// The instance: such a decision is its own to take back, and ends with it.
    Itself,
    /// An operator, also one whose name is "itself".
    Operator(Operator),
}

impl PulledOutBy {
    /// The operator's name, for lists of decisions.
    pub fn name(&self) -> &str {
        match self {
            PulledOutBy::Itself => "",
            PulledOutBy::Operator(operator) => &operator.name,
        }
    }

    /// The operator's user, where a token named one.
    pub fn user(&self) -> Option<&UserId> {
        match self {
            PulledOutBy::Itself => None,
            PulledOutBy::Operator(operator) => operator.user.as_ref(),
        }
    }

    /// Bytes of its texts.
    pub(super) fn bytes(&self) -> usize {
        self.name().len() + self.user().map_or(0, |user| user.as_str().len())
    }
}

/// What a registration does about a pull-out of its instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pull {
    /// Nothing.
    Keep,
    /// The instance takes itself out, unless an operator has.
    OutItself,
    /// It comes back, whether it or an operator took it out.
    In,
    /// It comes back where it had taken itself out.
    InIfItself,
}

#[derive(Debug)]
struct PullOut {
    by: PulledOutBy,
    /// Its number among those of instances that are gone.
    gone: Option<u64>,
}

/// The decisions.
///
/// # Invariants
///
/// 1. `gone` names each decision about an instance that is not registered, in the order in which
///    they went; `gone_bytes` is about what these take.
#[derive(Debug, Default)]
pub(super) struct PullOuts {
    by_identity: HashMap<InstanceIdentity, PullOut>,
    gone: BTreeMap<u64, InstanceIdentity>,
    gone_bytes: usize,
    last: u64,
}

fn bytes(identity: &InstanceIdentity, by: &PulledOutBy) -> usize {
    identity.as_str().len() + by.bytes() + limits::PULL_OUT_OVERHEAD_BYTES
}

impl PullOuts {
    pub(super) fn contains(&self, identity: &InstanceIdentity) -> bool {
        self.by_identity.contains_key(identity)
    }

    /// Who took an instance out.
    pub(super) fn by(&self, identity: &InstanceIdentity) -> Option<&PulledOutBy> {
        self.by_identity.get(identity).map(|one| &one.by)
    }

    /// Notes a decision; the last one counts.
    pub(super) fn insert(
        &mut self,
        identity: &InstanceIdentity,
        by: PulledOutBy,
        is_registered: bool,
    ) {
        self.remove(identity);
        self.by_identity.insert(identity.clone(), PullOut { by, gone: None });
        if !is_registered {
            self.on_gone(identity);
        }
    }

    pub(super) fn remove(&mut self, identity: &InstanceIdentity) {
        self.on_registered(identity);
        self.by_identity.remove(identity);
    }

    /// The instance of a decision is registered.
    pub(super) fn on_registered(&mut self, identity: &InstanceIdentity) {
        if let Some(one) = self.by_identity.get_mut(identity)
            && let Some(number) = one.gone.take()
        {
            self.gone_bytes -= bytes(identity, &one.by);
            self.gone.remove(&number);
        }
    }

    /// The instance of a decision is gone.
    pub(super) fn on_gone(&mut self, identity: &InstanceIdentity) {
        if let Some(one) = self.by_identity.get_mut(identity)
            && one.gone.is_none()
        {
            self.last += 1;
            one.gone = Some(self.last);
            self.gone_bytes += bytes(identity, &one.by);
            self.gone.insert(self.last, identity.clone());
        }
    }

    /// Takes out the oldest decision about an instance that is gone, where there are too many.
    pub(super) fn pop_surplus(&mut self) -> Option<InstanceIdentity> {
        if self.gone.len() <= limits::PULL_OUTS_GONE_MAX
            && self.gone_bytes <= limits::PULL_OUTS_GONE_BYTES_MAX
        {
            return None;
        }
        let (_, identity) = self.gone.first_key_value()?;
        let identity = identity.clone();
        self.remove(&identity);
        Some(identity)
    }

    /// All decisions; those about instances that are gone last, in the order in which they went.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&InstanceIdentity, &PulledOutBy)> {
        let registered = self.by_identity.iter().filter(|(_, one)| one.gone.is_none());
        let gone =
            self.gone.values().filter_map(|identity| self.by_identity.get_key_value(identity));
        registered.chain(gone).map(|(identity, one)| (identity, &one.by))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    /// Random decisions, comings and goings, against plain lists.
    #[test]
    fn the_oldest_of_those_that_are_gone_go() {
        for seed in 0..50 {
            let mut rng = Rng::seeded(seed);
            let mut pull_outs = PullOuts::default();
            let mut gone: Vec<InstanceIdentity> = Vec::new();
            let mut registered: Vec<InstanceIdentity> = Vec::new();
            for _ in 0..300 {
                let identity = InstanceIdentity::of("r", "s", &rng.below(20).to_string());
                match rng.below(4) {
                    0 => {
                        let is_registered = rng.below(2) == 0;
                        let by = PulledOutBy::Operator("itself".into());
                        pull_outs.insert(&identity, by, is_registered);
                        gone.retain(|one| *one != identity);
                        registered.retain(|one| *one != identity);
                        if is_registered { &mut registered } else { &mut gone }.push(identity);
                    }
                    1 => {
                        pull_outs.on_registered(&identity);
                        if let Some(place) = gone.iter().position(|one| *one == identity) {
                            registered.push(gone.remove(place));
                        }
                    }
                    2 => {
                        pull_outs.on_gone(&identity);
                        if let Some(place) = registered.iter().position(|one| *one == identity) {
                            gone.push(registered.remove(place));
                        }
                    }
                    _ => {
                        pull_outs.remove(&identity);
                        gone.retain(|one| *one != identity);
                        registered.retain(|one| *one != identity);
                    }
                }
                let listed: Vec<_> = pull_outs.iter().map(|(one, _)| one.clone()).collect();
                assert_eq!(listed[registered.len()..], gone, "seed {seed}");
                let by = PulledOutBy::Operator("itself".into());
                let want: usize = gone.iter().map(|one| bytes(one, &by)).sum();
                assert_eq!(pull_outs.gone_bytes, want, "seed {seed}");
            }
        }
    }

    #[test]
    fn there_are_never_too_many() {
        let mut pull_outs = PullOuts::default();
        let name = |n: usize| InstanceIdentity::of("r", "s", &n.to_string());
        let mut dropped = 0;
        for n in 0..limits::PULL_OUTS_GONE_MAX + 10 {
            pull_outs.insert(&name(n), PulledOutBy::Itself, false);
            while let Some(identity) = pull_outs.pop_surplus() {
                assert_eq!(identity, name(dropped));
                dropped += 1;
            }
        }
        assert_eq!((dropped, pull_outs.gone.len()), (10, limits::PULL_OUTS_GONE_MAX));
    }
}
