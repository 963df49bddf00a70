//! The newest views of services, read on any shard without asking control.
//!
//! ```text
//! control: order --> state --> take back what changed --> announcements, answers
//!                         \--> show what was asked for -->  read on the shards
//! ```
//!
//! A view is shown once someone has asked for it, and taken back before anything that its service's
//! next change causes can reach a client. Whoever has heard of a change therefore never reads the
//! view from before it.
//!
//! # Promises
//!
//! * A reader is given a view as of now, or nothing. It then asks control, which shows it again.
//! * What is shown is bounded by the services there are; it shares the bytes that the registry keeps
//!   for its own snapshots.
//!
//! Imports `id`, `limits` and `state`. Imported by `control` and `http`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::RwLock;

use crate::id::ServiceName;
use crate::limits;
use crate::state::registry::views::View;

/// What any shard may read.
#[derive(Debug, Default)]
pub struct Published {
    views: RwLock<HashMap<ServiceName, Arc<View>>>,
    /// Rises with every change of any view.
    generation: AtomicU64,
    /// The registry's edition: rises with every difference in what is registered.
    listing_version: AtomicU64,
    /// The answer that lists all services, and the generation it was made in.
    listing: RwLock<(u64, Bytes)>,
}

impl Published {
    /// The view of a service, where it is shown.
    pub fn view(&self, service: &ServiceName) -> Option<Arc<View>> {
        self.views.read().get(service).cloned()
    }

    /// A number that stays the same for as long as no view changes. To be taken before the views
    /// that a listing is made of.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The registry's edition. Whoever has heard that something is done reads one in which it is.
    pub fn listing_version(&self) -> u64 {
        self.listing_version.load(Ordering::Acquire)
    }

    /// The listing of all services, where nothing has changed since it was made.
    pub fn listing(&self) -> Option<Bytes> {
        let listing = self.listing.read();
        (!listing.1.is_empty() && listing.0 == self.generation()).then(|| listing.1.clone())
    }

    /// Keeps a listing for the next who asks, unless it is large or out of date. Returns whether it
    /// is kept.
    pub fn keep_listing(&self, generation: u64, body: &Bytes) -> bool {
        let is_kept =
            generation == self.generation() && body.len() <= limits::LISTING_BYTES_KEPT_MAX;
        if is_kept {
            *self.listing.write() = (generation, body.clone());
        }
        is_kept
    }
}

/// Control's side: the only writer.
#[derive(Debug)]
pub struct Publisher {
    shared: Arc<Published>,
    /// The names of the views that are shown, so that a change of any other costs no lock.
    shown: HashSet<ServiceName>,
    services: usize,
}

impl Publisher {
    /// Nothing is shown at first.
    pub fn new(shared: Arc<Published>) -> Publisher {
        Publisher { shared, shown: HashSet::new(), services: 0 }
    }

    /// Shows a view, until its service changes.
    pub fn show(&mut self, view: &Arc<View>) {
        if self.shown.insert(view.service.clone()) {
            self.shared.views.write().insert(view.service.clone(), Arc::clone(view));
        }
    }

    /// Takes back the view of a service that has changed.
    pub fn take_back(&mut self, service: &ServiceName) {
        self.shared.generation.fetch_add(1, Ordering::Release);
        if self.shown.remove(service) {
            self.shared.views.write().remove(service);
        }
    }

    /// Says in which edition the registry is.
    pub fn set_listing_version(&self, listing_version: u64) {
        self.shared.listing_version.store(listing_version, Ordering::Release);
    }

    /// Notes how many services there are. A service can come to be without any change that its
    /// followers would hear of, and a listing has to name it all the same.
    pub fn count(&mut self, services: usize) {
        if std::mem::replace(&mut self.services, services) != services {
            self.shared.generation.fetch_add(1, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Epoch;
    use crate::wire::instance_list::InstanceList;

    fn view(service: &str, revision: u64) -> Arc<View> {
        Arc::new(View {
            service: ServiceName::of(service),
            epoch: Epoch::new("e"),
            revision,
            degraded: false,
            instances: InstanceList::empty(),
        })
    }

    #[test]
    fn what_changed_is_not_read_again() {
        let shared = Arc::new(Published::default());
        let mut publisher = Publisher::new(Arc::clone(&shared));
        let (s, t) = (ServiceName::of("s"), ServiceName::of("t"));
        publisher.show(&view("s", 1));
        publisher.show(&view("t", 7));
        let revision = |of: &ServiceName| shared.view(of).map(|view| view.revision);
        assert_eq!((revision(&s), revision(&t)), (Some(1), Some(7)));
        publisher.take_back(&s);
        assert_eq!((revision(&s), revision(&t)), (None, Some(7)));
        publisher.show(&view("s", 2));
        assert_eq!(revision(&s), Some(2));
    }

    #[test]
    fn listing_ends_with_the_next_change() {
        let shared = Arc::new(Published::default());
        let mut publisher = Publisher::new(Arc::clone(&shared));
        let body = Bytes::from_static(b"{}");
        assert_eq!(shared.listing(), None);
        shared.keep_listing(shared.generation(), &body);
        assert_eq!(shared.listing(), Some(body.clone()));
        let before = shared.generation();
        publisher.take_back(&ServiceName::of("s"));
        assert_eq!(shared.listing(), None);
        // Made of what was there before the change: of no use to anyone.
        shared.keep_listing(before, &body);
        assert_eq!(shared.listing(), None);
        shared.keep_listing(shared.generation(), &body);
        publisher.count(0);
        assert_eq!(shared.listing(), Some(body));
        publisher.count(1);
        assert_eq!(shared.listing(), None);
    }
}
