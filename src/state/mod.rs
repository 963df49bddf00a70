//! The facts, and what each order makes of them. Pure: no socket, no clock, no database.
//!
//! ```text
//! Order --> State::apply(order, now) --> Answer         to the one who asked
//!                                    \-> Announcements  to everyone who follows
//!                                    \-> changes kept for the store
//! ```
//!
//! The control thread owns the one [`State`] and is the only caller. Whatever happens to it arrives
//! through [`State::apply`] and [`State::tick`], so a test can play a whole day in a millisecond.
//!
//! Imports `id`, `limits`, `wheel` and `wire`. Imported by `mailbox`, `control` and `http`.

pub mod image;
pub mod order;
pub mod registry;

mod protection;
mod service;

use std::sync::Arc;

use crate::clock::Moment;
use order::{Answer, Order, RefusedEntry, View};
use registry::{Announcement, Registry};

/// Everything the server knows that outlives a connection.
#[derive(Debug)]
pub struct State {
    /// Services, instances and leases.
    pub registry: Registry,
}

impl State {
    /// Carries out one order. What subscribers have to hear of it is left in
    /// [`Registry::announcements`].
    pub fn apply(&mut self, order: Order, now: Moment) -> Answer {
        let registry = &mut self.registry;
        let answer = match order {
            Order::Register(registrations) => {
                let mut refused = Vec::new();
                for (index, registration) in registrations.into_iter().enumerate() {
                    if let Err(code) = registry.register(registration, now) {
                        refused.push(RefusedEntry { index, code });
                    }
                }
                Answer::Batch(refused)
            }
            Order::Heartbeat(identities) => Answer::Batch(registry.heartbeat(&identities, now)),
            Order::Unregister(identities) => {
                for identity in &identities {
                    registry.unregister(identity, now);
                }
                Answer::Batch(Vec::new())
            }
            Order::Subscribe { service, snapshot, since } => {
                Answer::Subscribed(registry.subscribe(service, snapshot, since))
            }
            Order::SubscribeAll => Answer::SubscribedToAll,
            Order::Snapshot(service) => Answer::Snapshot(registry.view(&service)),
            Order::Operate { identity, operation } => {
                Answer::Found(registry.operate(&identity, &operation, now))
            }
            Order::Protect { service, enabled } => {
                Answer::Found(registry.protect(&service, enabled, now))
            }
            Order::Views(services) => Answer::Views(
                services.iter().map(|name| registry.known_view(name).map(Arc::new)).collect(),
            ),
            Order::AllViews => {
                let views: Vec<Arc<View>> = registry.all_views().map(Arc::new).collect();
                Answer::AllViews { version: registry.version(), views }
            }
            Order::Delta { version } => Answer::Delta(registry.delta(version)),
            Order::Leases => Answer::Leases(registry.leases(now)),
        };
        self.registry.settle(now);
        answer
    }

    /// Lets time pass: leases run out, protections end.
    pub fn tick(&mut self, now: Moment) {
        self.registry.tick(now);
        self.registry.settle(now);
    }

    /// Takes what subscribers have to hear since the last call.
    pub fn take_announcements(&mut self) -> Vec<Announcement> {
        std::mem::take(&mut self.registry.announcements)
    }
}
