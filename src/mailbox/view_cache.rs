//! The cache of views: any shard answers a read of a service from here, without asking control.
//!
//! ```text
//! control: command --> state --> invalidate what changed --> announcements, replies
//!                           \--> publish what was read  -->  read on the shards
//! ```
//!
//! Control publishes a view once a caller has read it, and invalidates it before any message about the
//! service's next change can reach a client. A client that was told of a change therefore never reads the
//! view from before it.
//!
//! # Promises
//!
//! * A reader gets the current view, or none. Without one it asks control, which publishes the view again.
//! * The services that exist bound the cache. A view shares the bytes of the registry's own snapshot.
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

/// The views that any shard may read.
#[derive(Debug, Default)]
pub struct ViewCache {
    views: RwLock<HashMap<ServiceName, Arc<View>>>,
    /// Rises with every change of any view.
    generation: AtomicU64,
    /// The version of the registry's list of instances: rises with every difference in it.
    listing_version: AtomicU64,
    /// The HTTP body that lists all services, and the generation of which it was made.
    listing: RwLock<(u64, Bytes)>,
}

impl ViewCache {
    /// The view of a service, where it is cached.
    pub fn view(&self, service: &ServiceName) -> Option<Arc<View>> {
        self.views.read().get(service).cloned()
    }

    /// A number that stays the same while no view changes. Read it before the views of a listing.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The version of the registry's list of instances. A caller that got the reply to a write reads a version
    /// with that write in it.
    pub fn listing_version(&self) -> u64 {
        self.listing_version.load(Ordering::Acquire)
    }

    /// The listing of all services, where no view has changed since.
    pub fn listing(&self) -> Option<Bytes> {
        let listing = self.listing.read();
        (!listing.1.is_empty() && listing.0 == self.generation()).then(|| listing.1.clone())
    }

    /// Caches a listing, unless it is too large or out of date. Returns whether it is cached.
    pub fn keep_listing(&self, generation: u64, body: &Bytes) -> bool {
        let is_kept =
            generation == self.generation() && body.len() <= limits::LISTING_BYTES_KEPT_MAX;
        if is_kept {
            *self.listing.write() = (generation, body.clone());
        }
        is_kept
    }
}

/// The only writer: control.
#[derive(Debug)]
pub struct ViewCacheWriter {
    shared: Arc<ViewCache>,
    /// The names of the cached views: a change of any other service takes no lock.
    cached: HashSet<ServiceName>,
    services: usize,
}

impl ViewCacheWriter {
    /// The cache starts empty.
    pub fn new(shared: Arc<ViewCache>) -> ViewCacheWriter {
        ViewCacheWriter { shared, cached: HashSet::new(), services: 0 }
    }

    /// Publishes a view, until its service changes.
    pub fn publish(&mut self, view: &Arc<View>) {
        if self.cached.insert(view.service.clone()) {
            self.shared.views.write().insert(view.service.clone(), Arc::clone(view));
        }
    }

    /// Invalidates the view of a service that has changed.
    pub fn invalidate(&mut self, service: &ServiceName) {
        self.shared.generation.fetch_add(1, Ordering::Release);
        if self.cached.remove(service) {
            self.shared.views.write().remove(service);
        }
    }

    /// Sets the version of the registry's list of instances.
    pub fn set_listing_version(&self, listing_version: u64) {
        self.shared.listing_version.store(listing_version, Ordering::Release);
    }

    /// Notes the number of services. A service can begin without a change that its subscribers are told of, and
    /// a listing has to name it.
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
            rules: None,
            instances: InstanceList::empty(),
        })
    }

    #[test]
    fn what_changed_is_not_read_again() {
        let shared = Arc::new(ViewCache::default());
        let mut writer = ViewCacheWriter::new(Arc::clone(&shared));
        let (s, t) = (ServiceName::of("s"), ServiceName::of("t"));
        writer.publish(&view("s", 1));
        writer.publish(&view("t", 7));
        let revision = |of: &ServiceName| shared.view(of).map(|view| view.revision);
        assert_eq!((revision(&s), revision(&t)), (Some(1), Some(7)));
        writer.invalidate(&s);
        assert_eq!((revision(&s), revision(&t)), (None, Some(7)));
        writer.publish(&view("s", 2));
        assert_eq!(revision(&s), Some(2));
    }

    #[test]
    fn listing_ends_with_the_next_change() {
        let shared = Arc::new(ViewCache::default());
        let mut writer = ViewCacheWriter::new(Arc::clone(&shared));
        let body = Bytes::from_static(b"{}");
        assert_eq!(shared.listing(), None);
        shared.keep_listing(shared.generation(), &body);
        assert_eq!(shared.listing(), Some(body.clone()));
        let before = shared.generation();
        writer.invalidate(&ServiceName::of("s"));
        assert_eq!(shared.listing(), None);
        // Made of what was there before the change: of no use to anyone.
        shared.keep_listing(before, &body);
        assert_eq!(shared.listing(), None);
        shared.keep_listing(shared.generation(), &body);
        writer.count(0);
        assert_eq!(shared.listing(), Some(body));
        writer.count(1);
        assert_eq!(shared.listing(), None);
    }
}
