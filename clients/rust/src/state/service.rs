//! A client's services: images built from snapshots and changes.
//!
//! ```text
//! subscribed, service_snapshot --> replace --+
//!                                            +--> image --> feeds, views
//! service_change ----------------> apply ----+
//! ```
//!
//! # Promises
//!
//! * An image is always a state that the registry had: a frame that does not continue it is not
//!   applied, and the client subscribes again.
//! * A feed whose reader is slow holds no more than its bound. It then drops the changes and gives
//!   the newest state instead, so that the reader's picture is right all the same.
//!
//! Imports `error`, `event`, `frame` and its siblings. Imported by `state` and `connection::cache`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::task::{Context, Poll};

use fanfare_protocol::id::ServiceName;
use fanfare_protocol::instance::Instance;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::event::{ServiceChange, ServiceEvent, ServiceState};
use crate::frame::Frame;
use crate::state::image::Image;
use crate::state::queue::Queue;
use crate::state::subscription::{Need, Next, Phase, Subscription, SubscriptionTable};

/// The state of one service.
#[derive(Debug, Default)]
struct Service {
    image: Option<Image>,
    /// The image is not the registry's, and only a snapshot can help.
    is_broken: bool,
    /// A frame of this connection has made or changed the image.
    is_touched: bool,
    /// The highest revision of a frame that could not be applied, while all services are listed.
    missed: Option<(Box<str>, u64)>,
    /// When the image was last confirmed by the registry.
    confirmed_unix_ms: u64,
}

/// The subscription to every service.
#[derive(Debug, Default)]
struct All {
    wanted: usize,
    phase: Phase,
    is_listed: bool,
    error: Option<Error>,
}

#[derive(Debug)]
struct Feed {
    /// None: every service.
    filter: Option<ServiceName>,
    queue: Queue<ServiceEvent>,
    /// Services whose newest state replaces dropped changes.
    resync: BTreeSet<ServiceName>,
}

impl Feed {
    fn push(&mut self, event: ServiceEvent) {
        let name = event.service().cloned();
        if name.as_ref().is_some_and(|name| self.resync.contains(name)) {
            return;
        }
        if self.queue.push(event).is_err() {
            while let Some(forgotten) = self.queue.pop() {
                self.resync.extend(forgotten.service().cloned());
            }
            self.resync.extend(name);
            self.queue.wake();
        }
    }

    fn resync(&mut self, name: ServiceName) {
        self.resync.insert(name);
        self.queue.wake();
    }
}

/// The next request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ServiceRequest {
    Subscribe { service: ServiceName, since: Option<(Box<str>, u64)> },
    Unsubscribe(ServiceName),
    SubscribeAll,
    UnsubscribeAll,
}

/// Every known service.
#[derive(Debug, Default)]
pub(crate) struct ServiceTable {
    services: SubscriptionTable<ServiceName, Service>,
    all: All,
    feeds: BTreeMap<u64, Feed>,
    /// The subscription to all of them differs from the wanted state.
    is_all_due: bool,
    /// It was refused for now.
    is_all_refused: bool,
    /// When the last message of the server came, on the open or the last connection.
    pub(crate) heard_unix_ms: u64,
    /// Whether the state has changed since the cache was written.
    pub(crate) is_unsaved: bool,
}

/// A service in the cache file.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Saved {
    pub(crate) service: Box<str>,
    epoch: Box<str>,
    revision: u64,
    is_degraded: bool,
    confirmed_unix_ms: u64,
    instances: Vec<Instance>,
}

impl ServiceTable {
    /// Adds a want of a service, or of all of them.
    pub(crate) fn want(&mut self, service: Option<&ServiceName>) {
        if let Some(service) = service {
            self.services.want(service.clone());
        } else {
            self.all.wanted += 1;
            self.is_all_due |= self.all.phase == Phase::Idle;
        }
    }

    /// Removes a want. The last one ends the subscription.
    pub(crate) fn release(&mut self, service: Option<&ServiceName>) {
        if let Some(service) = service {
            self.services.release(service);
        } else {
            self.all.wanted = self.all.wanted.saturating_sub(1);
            self.is_all_due |= self.all.wanted == 0;
        }
    }

    /// The next request. It counts as sent.
    pub(crate) fn next_request(&mut self) -> Option<ServiceRequest> {
        if std::mem::take(&mut self.is_all_due) {
            match (self.all.wanted > 0, self.all.phase) {
                (true, Phase::Idle) => {
                    self.all.phase = Phase::Asked;
                    return Some(ServiceRequest::SubscribeAll);
                }
                (false, Phase::Live | Phase::Asked) => {
                    self.all = All::default();
                    self.services.mark_all_due();
                    return Some(ServiceRequest::UnsubscribeAll);
                }
                _ => {}
            }
        }
        let is_all_wanted = self.all.wanted > 0;
        let next = self.services.next(|_, entry| match entry.wanted {
            1.. => Need::Subscribed,
            0 if is_all_wanted && entry.value.is_broken => Need::Subscribed,
            0 if is_all_wanted => Need::Kept,
            0 => Need::Forgotten,
        })?;
        Some(match next {
            Next::Subscribe(service) => {
                let known = self.services.get(&service).map(|entry| &entry.value);
                let image = known.filter(|one| !one.is_broken).and_then(|one| one.image.as_ref());
                let since = image.map(|image| (image.epoch.clone(), image.revision));
                ServiceRequest::Subscribe { service, since }
            }
            Next::Unsubscribe(service) => ServiceRequest::Unsubscribe(service),
        })
    }

    /// The connection is lost: no subscription is in force, and every image grows old from here.
    pub(crate) fn disconnect(&mut self) {
        let heard = self.heard_unix_ms;
        let is_all_live = self.all.is_listed;
        for (_, entry) in self.services.iter_mut() {
            if is_live(is_all_live, entry) {
                entry.value.confirmed_unix_ms = heard;
            }
            entry.value.is_touched = false;
            entry.value.missed = None;
        }
        self.services.disconnect();
        self.all.phase = Phase::Idle;
        self.all.is_listed = false;
        self.is_all_due = true;
        self.is_all_refused = false;
        self.is_unsaved = true;
    }

    /// Repeats the requests that were refused for now.
    pub(crate) fn retry(&mut self) {
        self.services.retry();
        self.is_all_due |= std::mem::take(&mut self.is_all_refused);
    }

    pub(crate) fn has_due(&self) -> bool {
        self.is_all_due || self.services.has_due()
    }

    pub(crate) fn has_refused(&self) -> bool {
        self.is_all_refused || self.services.has_refused()
    }

    /// The answer to a subscription.
    pub(crate) fn subscribed(&mut self, service: &ServiceName, frame: Frame) {
        let Some(entry) = self.services.confirmed(service) else { return };
        if frame.instances.is_some() {
            return self.replace(service, frame);
        }
        entry.value.is_touched = true;
        // Only the mark may have changed while the client was away.
        let is_degraded = frame.degraded.unwrap_or_default();
        if let Some(image) = &entry.value.image
            && frame.revision == Some(image.revision)
            && is_degraded != image.is_degraded
        {
            let (epoch, revision) = (image.epoch.clone(), image.revision);
            let service = service.clone();
            let (from, changes) = (revision, Vec::new());
            let change = ServiceChange { service, epoch, from, revision, is_degraded, changes };
            self.apply(change);
        }
    }

    /// A subscription was refused.
    pub(crate) fn refused(&mut self, service: Option<&ServiceName>, error: &Error) {
        if let Some(service) = service {
            if self.services.refused(service, error).is_none() {
                return;
            }
        } else {
            self.all.phase = Phase::Idle;
            self.all.error = Some(error.clone());
            self.is_all_refused |= error.is_temporary();
        }
        let event = ServiceEvent::Refused { service: service.cloned(), error: error.clone() };
        self.announce(service, &event);
    }

    /// A subscription has ended, because the connection's new token does not allow it: its images
    /// grow old from here.
    pub(crate) fn withdrawn(&mut self, service: Option<&ServiceName>, error: &Error) {
        let (heard, is_all_live) = (self.heard_unix_ms, self.all.is_listed);
        for (name, entry) in self.services.iter_mut() {
            let is_meant = service.map_or(entry.phase == Phase::Idle, |service| service == name);
            if is_meant && is_live(is_all_live, entry) {
                entry.value.confirmed_unix_ms = heard;
            }
        }
        self.all.is_listed &= service.is_some();
        self.refused(service, error);
    }

    /// `service_snapshot`, or the instances of an answer.
    pub(crate) fn replace(&mut self, service: &ServiceName, frame: Frame) {
        let is_all = self.all.phase != Phase::Idle;
        if !is_all && self.services.get(service).is_none() {
            return;
        }
        let entry = self.services.entry(service.clone());
        entry.value.is_touched = true;
        entry.value.is_broken = false;
        entry.value.missed = None;
        let instances = frame.instances.unwrap_or_default().into_iter().map(Arc::new);
        entry.value.image = Some(Image::new(
            frame.epoch.unwrap_or_default(),
            frame.revision.unwrap_or_default(),
            frame.degraded.unwrap_or_default(),
            instances,
        ));
        self.announce_state(service);
    }

    /// `service_change`.
    pub(crate) fn change(&mut self, service: ServiceName, frame: Frame) {
        let (Some(epoch), Some(from), Some(revision)) = (frame.epoch, frame.from, frame.revision)
        else {
            return;
        };
        let changes = frame.changes.unwrap_or_default();
        let is_degraded = frame.degraded.unwrap_or_default();
        let is_all = self.all.phase != Phase::Idle;
        if is_all && from == 0 {
            // A service that is new to the registry begins here.
            let entry = self.services.entry(service.clone());
            let is_other = entry.value.image.as_ref().is_none_or(|image| image.epoch != epoch);
            if is_other && entry.phase == Phase::Idle {
                entry.value.image = Some(Image::new(epoch.clone(), 0, is_degraded, []));
            }
        }
        let is_known = match self.services.get(&service) {
            Some(entry) => entry.phase == Phase::Live || (is_all && entry.phase == Phase::Idle),
            None => is_all,
        };
        if is_known {
            self.apply(ServiceChange { service, epoch, from, revision, is_degraded, changes });
        }
    }

    fn apply(&mut self, change: ServiceChange) {
        let service = change.service.clone();
        let entry = self.services.entry(service.clone());
        if entry.value.is_broken {
            return;
        }
        let is_next = entry.value.image.as_mut().is_some_and(|image| image.apply(&change));
        if is_next {
            entry.value.is_touched = true;
            entry.value.missed = None;
            self.is_unsaved = true;
            return self.announce(Some(&service), &ServiceEvent::Changed(Arc::new(change)));
        }
        let is_old =
            |image: &Image| image.epoch == change.epoch && image.revision >= change.revision;
        if entry.phase == Phase::Idle && entry.value.image.as_ref().is_some_and(is_old) {
            // The list of all services has overtaken it.
            return;
        }
        if entry.phase != Phase::Live && !self.all.is_listed {
            // The content of the list is not known yet; this change may be in it.
            entry.value.missed = Some((change.epoch, change.revision));
            return;
        }
        // A change was lost. The server answers a repeated subscription as well.
        entry.value.is_broken = true;
        entry.phase = Phase::Idle;
        self.services.mark_due(&service);
    }

    /// The subscription to every service is confirmed, and this is the registry's content a moment
    /// after.
    pub(crate) fn list(&mut self, listing: Vec<(ServiceName, Frame)>) {
        if self.all.phase != Phase::Asked && self.all.phase != Phase::Live {
            return;
        }
        self.all.phase = Phase::Live;
        self.all.error = None;
        let mut gone: BTreeSet<ServiceName> =
            self.services.iter().map(|(name, _)| name.clone()).collect();
        for (service, frame) in listing {
            gone.remove(&service);
            let entry = self.services.entry(service.clone());
            let (epoch, revision) = (frame.epoch.as_deref(), frame.revision.unwrap_or_default());
            let is_ahead = entry.value.is_touched
                && entry.value.missed.is_none()
                && entry.value.image.as_ref().is_some_and(|image| {
                    Some(&*image.epoch) == epoch && image.revision >= revision
                });
            if entry.phase != Phase::Idle || is_ahead {
                continue;
            }
            let missed = entry.value.missed.take();
            let is_same =
                entry.value.image.as_ref().is_some_and(|image| {
                    Some(&*image.epoch) == epoch && image.revision == revision
                });
            if is_same {
                entry.value.is_touched = true;
            } else {
                self.replace(&service, frame);
            }
            let Some(entry) = self.services.get_mut(&service) else { continue };
            let holds = |image: &Image, (epoch, revision): &(Box<str>, u64)| {
                image.epoch == *epoch && image.revision >= *revision
            };
            let is_complete = missed.is_none_or(|missed| {
                entry.value.image.as_ref().is_some_and(|it| holds(it, &missed))
            });
            if !is_complete {
                entry.value.is_broken = true;
                self.services.mark_due(&service);
            }
        }
        self.all.is_listed = true;
        for service in gone {
            self.vanish(&service);
        }
    }

    /// A service that the client knew and the registry does not: the registry has lost it.
    fn vanish(&mut self, service: &ServiceName) {
        let Some(entry) = self.services.get_mut(service) else { return };
        if entry.value.is_touched || entry.phase != Phase::Idle {
            return;
        }
        if entry.value.missed.take().is_some() {
            entry.value.is_broken = true;
            self.services.mark_due(service);
            return;
        }
        entry.value.image = Some(Image::new(Box::default(), 0, false, []));
        self.announce_state(service);
    }

    fn announce_state(&mut self, service: &ServiceName) {
        self.is_unsaved = true;
        let Some(state) = self.state(service) else { return };
        self.announce(Some(service), &ServiceEvent::Snapshot(state));
    }

    fn announce(&mut self, service: Option<&ServiceName>, event: &ServiceEvent) {
        for feed in self.feeds.values_mut() {
            if feed.filter.is_none() || feed.filter.as_ref() == service {
                feed.push(event.clone());
            }
        }
    }

    /// The newest state of a service.
    pub(crate) fn state(&mut self, service: &ServiceName) -> Option<Arc<ServiceState>> {
        self.services.get_mut(service)?.value.image.as_mut().map(|image| image.state(service))
    }

    /// The newest state of every service.
    pub(crate) fn states(&mut self) -> Vec<Arc<ServiceState>> {
        let all = self.services.iter_mut();
        all.filter_map(|(name, entry)| entry.value.image.as_mut().map(|image| image.state(name)))
            .collect()
    }

    /// Whether the image of a service, or of all, is being kept up to date now.
    pub(crate) fn is_live(&self, service: Option<&ServiceName>) -> bool {
        match service {
            None => self.all.is_listed,
            Some(service) => {
                self.services.get(service).is_some_and(|entry| is_live(self.all.is_listed, entry))
            }
        }
    }

    /// When it was last confirmed; none if nothing is known.
    pub(crate) fn confirmed_unix_ms(&self, service: Option<&ServiceName>) -> Option<u64> {
        let of = |entry: &Subscription<Service>| {
            entry.value.image.as_ref()?;
            let is_live = is_live(self.all.is_listed, entry);
            Some(if is_live { self.heard_unix_ms } else { entry.value.confirmed_unix_ms })
        };
        match service {
            Some(service) => of(self.services.get(service)?),
            None if self.all.is_listed => Some(self.heard_unix_ms),
            None => self.services.iter().filter_map(|(_, entry)| of(entry)).min(),
        }
    }

    /// The server's refusal of the subscription, if there is one.
    pub(crate) fn error(&self, service: Option<&ServiceName>) -> Option<Error> {
        match service {
            Some(service) => self.services.get(service)?.error.clone(),
            None => self.all.error.clone(),
        }
    }

    /// Opens a feed, which begins with the known state.
    pub(crate) fn open_feed(&mut self, key: u64, filter: Option<ServiceName>, events_max: usize) {
        let mut feed = Feed { filter, queue: Queue::new(events_max), resync: BTreeSet::new() };
        for (service, entry) in self.services.iter() {
            let is_in = feed.filter.as_ref().is_none_or(|filter| filter == service);
            if is_in && entry.value.image.is_some() {
                feed.resync(service.clone());
            }
        }
        self.feeds.insert(key, feed);
    }

    pub(crate) fn close_feed(&mut self, key: u64) {
        self.feeds.remove(&key);
    }

    /// No item comes any more.
    pub(crate) fn close(&mut self) {
        self.feeds.values_mut().for_each(|feed| feed.queue.close());
    }

    pub(crate) fn poll(&mut self, key: u64, cx: &mut Context<'_>) -> Poll<Option<ServiceEvent>> {
        while let Some(service) = self.feeds.get_mut(&key).and_then(|feed| feed.resync.pop_first())
        {
            if let Some(state) = self.state(&service) {
                return Poll::Ready(Some(ServiceEvent::Snapshot(state)));
            }
        }
        self.feeds.get_mut(&key).map_or(Poll::Ready(None), |feed| feed.queue.poll(cx))
    }

    /// Loads the services of the cache file.
    pub(crate) fn load(&mut self, saved: Vec<Saved>) {
        for one in saved {
            let entry = self.services.entry(ServiceName::of(&one.service));
            let instances = one.instances.into_iter().map(Arc::new);
            entry.value.image =
                Some(Image::new(one.epoch, one.revision, one.is_degraded, instances));
            entry.value.confirmed_unix_ms = one.confirmed_unix_ms;
        }
    }

    /// The services for the cache file.
    pub(crate) fn save(&mut self) -> Vec<Saved> {
        self.is_unsaved = false;
        let (heard, is_all_live) = (self.heard_unix_ms, self.all.is_listed);
        let mut saved = Vec::new();
        for (service, entry) in self.services.iter() {
            let Some(image) = entry.value.image.as_ref().filter(|_| !entry.value.is_broken) else {
                continue;
            };
            let is_live = is_live(is_all_live, entry);
            saved.push(Saved {
                service: service.as_str().into(),
                epoch: image.epoch.clone(),
                revision: image.revision,
                is_degraded: image.is_degraded,
                confirmed_unix_ms: if is_live { heard } else { entry.value.confirmed_unix_ms },
                instances: image.instances.values().map(|one| Instance::clone(one)).collect(),
            });
        }
        saved
    }
}

fn is_live(is_all_live: bool, entry: &Subscription<Service>) -> bool {
    entry.value.image.is_some()
        && !entry.value.is_broken
        && (entry.phase == Phase::Live || (is_all_live && entry.phase == Phase::Idle))
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
