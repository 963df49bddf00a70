//! Subscriptions by name: the wanted ones, and the state of each at the server.
//!
//! Services, channels and rooms recover by this one table. A wanted subscription stays wanted over
//! reconnects. The client repeats a subscription that the server refused for now. When no handle
//! wants a subscription any more, the client ends it at the server and drops its entry.
//!
//! ```text
//! Idle --next--> Asked --confirmed--> Live
//!   ^              |                    |
//!   +--- refused --+---- disconnect ----+
//! ```
//!
//! Imports `error`. Imported by `state::{service, channel, room}`.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};

use crate::error::Error;

/// The state of a subscription at the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Phase {
    /// The server does not know of it.
    #[default]
    Idle,
    /// The server was asked.
    Asked,
    /// The server sends its events.
    Live,
}

/// One subscription.
#[derive(Debug, Default)]
pub(crate) struct Subscription<V> {
    /// The number of handles that want it.
    pub(crate) wanted: usize,
    pub(crate) phase: Phase,
    /// The server's last refusal; none since it was confirmed.
    pub(crate) error: Option<Error>,
    pub(crate) value: V,
}

/// The next step of a subscription, as its owner judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// To be subscribed.
    Subscribed,
    /// To be subscribed again, even if it is live: its history has to be read.
    Again,
    /// To be asked for later.
    Later,
    /// To be ended at the server, and kept here.
    Kept,
    /// To be ended at the server, and forgotten.
    Forgotten,
}

/// The next request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next<K> {
    Subscribe(K),
    Unsubscribe(K),
}

/// Every subscription of a kind.
#[derive(Debug)]
pub(crate) struct SubscriptionTable<K, V> {
    entries: BTreeMap<K, Subscription<V>>,
    /// Those that differ from the wanted state.
    due: BTreeSet<K>,
    /// Those that were refused for now.
    refused: BTreeSet<K>,
}

impl<K, V> Default for SubscriptionTable<K, V> {
    fn default() -> Self {
        SubscriptionTable {
            entries: BTreeMap::new(),
            due: BTreeSet::new(),
            refused: BTreeSet::new(),
        }
    }
}

impl<K: Ord + Clone, V: Default> SubscriptionTable<K, V> {
    /// Adds a want. The request follows later.
    pub(crate) fn want(&mut self, key: K) -> &mut Subscription<V> {
        let entry = self.entries.entry(key.clone()).or_default();
        entry.wanted += 1;
        if entry.phase == Phase::Idle {
            self.due.insert(key);
        }
        entry
    }

    /// Removes a want. The last one ends the subscription.
    pub(crate) fn release<Q: Ord + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.wanted = entry.wanted.saturating_sub(1);
        if entry.wanted == 0 {
            self.mark_due(key);
        }
    }

    /// The entry of a key; a new one without wants, if there is none.
    pub(crate) fn entry(&mut self, key: K) -> &mut Subscription<V> {
        self.entries.entry(key).or_default()
    }

    pub(crate) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&Subscription<V>>
    where
        K: Borrow<Q>,
    {
        self.entries.get(key)
    }

    pub(crate) fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut Subscription<V>>
    where
        K: Borrow<Q>,
    {
        self.entries.get_mut(key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &Subscription<V>)> {
        self.entries.iter()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut Subscription<V>)> {
        self.entries.iter_mut()
    }

    pub(crate) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<Subscription<V>>
    where
        K: Borrow<Q>,
    {
        self.entries.remove(key)
    }

    /// Marks one for [`SubscriptionTable::next`].
    pub(crate) fn mark_due<Q: Ord + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        if let Some((key, _)) = self.entries.get_key_value(key) {
            self.due.insert(key.clone());
        }
    }

    /// Marks all of them.
    pub(crate) fn mark_all_due(&mut self) {
        self.due.extend(self.entries.keys().cloned());
    }

    /// The next request. It counts as sent.
    pub(crate) fn next(
        &mut self,
        need_of: impl Fn(&K, &Subscription<V>) -> Need,
    ) -> Option<Next<K>> {
        loop {
            let (key, need) = self.due.iter().find_map(|key| {
                let entry = self.entries.get(key);
                let need = entry.map_or(Need::Forgotten, |entry| need_of(key, entry));
                (need != Need::Later).then(|| (key.clone(), need))
            })?;
            self.due.remove(&key);
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            match (need, entry.phase) {
                (Need::Subscribed | Need::Again, Phase::Idle) | (Need::Again, Phase::Live) => {
                    entry.phase = Phase::Asked;
                    return Some(Next::Subscribe(key));
                }
                (Need::Kept | Need::Forgotten, Phase::Live) => {
                    entry.phase = Phase::Idle;
                    if need == Need::Forgotten {
                        self.entries.remove(&key);
                    }
                    return Some(Next::Unsubscribe(key));
                }
                (Need::Forgotten, Phase::Idle) => _ = self.entries.remove(&key),
                // It is as wanted, or its answer will mark it again.
                _ => {}
            }
        }
    }

    /// The server has confirmed a subscription.
    pub(crate) fn confirmed<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut Subscription<V>>
    where
        K: Borrow<Q>,
    {
        if self.entries.get(key)?.wanted == 0 {
            self.mark_due(key);
        }
        let entry = self.entries.get_mut(key)?;
        entry.phase = Phase::Live;
        entry.error = None;
        Some(entry)
    }

    /// The server has refused a subscription, or ended it.
    pub(crate) fn refused<Q: Ord + ?Sized>(
        &mut self,
        key: &Q,
        error: &Error,
    ) -> Option<&mut Subscription<V>>
    where
        K: Borrow<Q>,
    {
        let (name, entry) = self.entries.get_key_value(key)?;
        if error.is_temporary() {
            self.refused.insert(name.clone());
        }
        if entry.wanted == 0 {
            self.due.insert(name.clone());
        }
        let entry = self.entries.get_mut(key)?;
        entry.phase = Phase::Idle;
        entry.error = Some(error.clone());
        Some(entry)
    }

    /// The connection is lost: no subscription is in force.
    pub(crate) fn disconnect(&mut self) {
        self.entries.values_mut().for_each(|entry| entry.phase = Phase::Idle);
        self.mark_all_due();
        self.refused.clear();
    }

    /// Repeats the requests that were refused for now.
    pub(crate) fn retry(&mut self) {
        self.due.append(&mut self.refused);
    }

    pub(crate) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    pub(crate) fn has_refused(&self) -> bool {
        !self.refused.is_empty()
    }

    /// Whether it is subscribed, or the refusal, or none if that is not known yet.
    pub(crate) fn outcome<Q: Ord + ?Sized>(&self, key: &Q) -> Option<Result<(), Error>>
    where
        K: Borrow<Q>,
    {
        let entry = self.entries.get(key)?;
        match (&entry.error, entry.phase) {
            (_, Phase::Live) => Some(Ok(())),
            (Some(error), Phase::Idle) if !error.is_temporary() => Some(Err(error.clone())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Table = SubscriptionTable<String, ()>;

    fn need(_: &String, entry: &Subscription<()>) -> Need {
        if entry.wanted > 0 { Need::Subscribed } else { Need::Forgotten }
    }

    fn subscribe(name: &str) -> Next<String> {
        Next::Subscribe(name.into())
    }

    fn live(name: &str) -> Table {
        let mut table = Table::default();
        table.want(name.into());
        assert_eq!(table.next(need), Some(subscribe(name)));
        table.confirmed(name);
        table
    }

    #[test]
    fn what_is_wanted_comes_back_after_a_disconnect() {
        let mut table = live("a");
        assert_eq!((table.next(need), table.has_due()), (None, false));
        table.disconnect();
        assert_eq!(table.next(need), Some(subscribe("a")));
        assert!(table.outcome("a").is_none(), "not known yet");
    }

    #[test]
    fn the_last_release_ends_the_subscription_once_its_answer_is_there() {
        let mut table = live("a");
        table.want("a".into());
        table.release("a");
        assert_eq!(table.next(need), None);
        table.release("a");
        assert_eq!(table.next(need), Some(Next::Unsubscribe("a".into())));
        assert!(table.get("a").is_none());
        // Released before the answer.
        table.want("b".into());
        assert_eq!(table.next(need), Some(subscribe("b")));
        table.release("b");
        assert_eq!(table.next(need), None);
        table.confirmed("b");
        assert_eq!(table.next(need), Some(Next::Unsubscribe("b".into())));
    }

    #[test]
    fn a_refusal_is_final_or_asked_again() {
        let mut table = live("a");
        table.refused("a", &Error::Timeout);
        assert_eq!((table.next(need), table.has_refused()), (None, true));
        assert!(table.outcome("a").is_none());
        table.retry();
        assert_eq!(table.next(need), Some(subscribe("a")));
        table.refused("a", &Error::Stopped);
        assert_eq!((table.next(need), table.has_refused()), (None, false));
        assert!(matches!(table.outcome("a"), Some(Err(Error::Stopped))));
        // A subscription that no handle wants is dropped together with its refusal.
        table.release("a");
        assert_eq!(table.next(need), None);
        assert!(table.get("a").is_none());
    }

    #[test]
    fn one_that_has_to_wait_holds_up_no_other() {
        let mut table = Table::default();
        table.want("a".into());
        table.want("b".into());
        let later = |name: &String, entry: &Subscription<()>| {
            if name == "a" { Need::Later } else { need(name, entry) }
        };
        assert_eq!(table.next(later), Some(subscribe("b")));
        assert_eq!((table.next(later), table.has_due()), (None, true));
        assert_eq!(table.next(need), Some(subscribe("a")));
    }
}
