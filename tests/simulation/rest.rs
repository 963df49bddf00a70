//! The quiet moment: faults end, everyone finds out, and what is there is what was promised.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::client::Client;
use super::holder;
use super::pipe::ClientEnd;
use super::world::{CHANNELS, CLIENTS, SERVICES, STEP_MS, SimWorld, USERS, index};

/// Longer than any lease, wait or retry of several nodes, and of one.
const REST_MS: u64 = 16_000;
const REST_ALONE_MS: u64 = 8_000;

impl SimWorld {
    /// Ends all faults, and lets everyone find out.
    pub fn come_to_rest(&mut self) {
        self.is_stormy = false;
        self.sequencer.calm_down();
        for client in &mut self.clients {
            client.is_stalled = false;
            // Whoever does not know whether it is in the room comes back.
            if client.is_in_doubt && client.can_ask() {
                client.leave(ClientEnd::Ended);
            }
        }
        self.settle(2 * STEP_MS, if self.is_joined { REST_MS } else { REST_ALONE_MS });
        for client in self.clients.iter_mut().filter(|client| client.is_in_doubt) {
            client.leave(ClientEnd::Ended);
        }
        while self.clients.len() < CLIENTS {
            self.connect();
        }
        self.await_answers();
        for at in 0..self.clients.len() {
            for channel in CHANNELS {
                if !self.clients[at].channels.contains_key(channel) {
                    self.clients[at].follow_channel(channel);
                }
            }
        }
        self.await_answers();
        // One word after the other: small outboxes have room for one.
        for _ in 0..2 * CLIENTS {
            if self.clients.is_empty() {
                break;
            }
            let at = index(&mut self.rng, self.clients.len());
            self.publish(at);
            let at = index(&mut self.rng, self.clients.len());
            self.use_room(at);
            self.settle(STEP_MS, 4 * STEP_MS);
        }
        self.await_answers();
    }

    fn await_answers(&mut self) {
        for _ in 0..100 {
            self.settle(STEP_MS, 4 * STEP_MS);
            if self.is_idle() {
                // What is answered may still be on its way to others.
                return self.settle(STEP_MS, 500);
            }
        }
        panic!("no answer in peace: {}", self.waits_for());
    }

    pub fn judge_quiet(&mut self) {
        // Leases go on running out meanwhile, and one node hears of it before the next.
        for _ in 0..100 {
            let is_told = !self.is_joined || self.sequencer.is_at_rest();
            if is_told && self.clients.iter().all(Client::has_read_all) {
                break;
            }
            self.settle(STEP_MS, STEP_MS);
        }
        self.judge_services();
        for client in &self.clients {
            let node = self.nodes.iter().find(|node| node.name == client.node).expect("it lives");
            client.judge_quiet(&node.services);
        }
        self.judge_channels();
        self.judge_messages();
        self.judge_envelopes();
        let bytes_max = self.outbox_bytes_max();
        for shard in self.nodes.iter().flat_map(|node| &node.stats.shards) {
            let peak = shard.outbox_bytes_peak.value();
            assert!(peak <= bytes_max, "an outbox held {peak} bytes of {bytes_max}");
        }
        self.judge_database();
    }

    /// All nodes show the same, and that is what was accepted.
    fn judge_services(&mut self) {
        let first = &self.nodes[0];
        for service in SERVICES.into_iter().chain(holder::SERVICES) {
            let at = first.services.get(service);
            let place = |at: Option<&super::oracle::Position>| {
                // One that never had an instance is nothing, whether a node was asked about it or not.
                let at = at.filter(|at| at.revision > 0 || at.degraded);
                at.map(|at| (Rc::clone(&at.epoch), at.revision, at.degraded))
            };
            for other in &self.nodes {
                let there = other.services.get(service);
                assert_eq!(place(there), place(at), "{service} at {} and elsewhere", other.name);
            }
            if let Some(at) = at {
                self.oracle.judge_quiet(service, at);
            }
        }
        self.judge_holders();
    }

    fn judge_channels(&self) {
        for channel in CHANNELS {
            let places: BTreeSet<_> =
                self.clients.iter().filter_map(|one| one.channels.get(channel)).collect();
            assert!(places.len() <= 1, "{channel}: {places:?}");
            if let (Some((epoch, offset)), Some((known, newest))) =
                (places.first(), self.sequencer.channel(channel))
            {
                assert_eq!((&**epoch, *offset), (known, newest), "{channel}");
            }
        }
        let in_room = || self.clients.iter().filter(|one| one.room.is_some());
        let members: BTreeSet<&str> = in_room().filter_map(|one| one.user).collect();
        for client in in_room() {
            let users = client.room.iter().flat_map(|room| &room.users);
            let users: BTreeSet<&str> = users.map(String::as_str).collect();
            assert_eq!(users, members, "the room to {} at {}", client.name, client.node);
            let again = client.heard.iter().find(|(_, times)| **times != 1);
            assert_eq!(again, None, "a word came again to {}", client.name);
        }
    }

    /// Who was there has each message once, and nobody else has it.
    fn judge_messages(&self) {
        for (id, message) in &self.messages {
            for client in &self.clients {
                let Some(user) = client.user else { continue };
                let times = client.received.get(&id.to_string()).copied().unwrap_or(0);
                let is_due = message.receivers.contains(&client.name);
                let is_meant = message.audience.contains(user);
                let is_right = times == 1 || (times == 0 && !is_due);
                let name = &client.name;
                assert!(is_right, "{id} came {times} times to {name} of {user}");
                assert!(is_meant || times == 0, "{id} came to {name} of {user}");
            }
            let is_kept = self.database.messages.contains_key(id);
            assert!(is_kept, "{id} is accepted and not in the database");
        }
    }

    /// An envelope finds every connection of its receiver, on whatever node.
    fn judge_envelopes(&mut self) {
        self.clients.iter_mut().for_each(|one| one.delivered.clear());
        let Some(sender) = self.clients.iter().position(|one| one.user.is_some()) else { return };
        let name = Rc::clone(&self.clients[sender].name);
        for user in USERS {
            let is_of = |one: &&Client| one.user == Some(user);
            let there = self.clients.iter().filter(is_of).count() as u64;
            let Some(at) = self.clients.iter().position(|one| one.name == name) else { return };
            self.send_envelope(at, user);
            self.await_answers();
            let sender = self.clients.iter_mut().find(|one| one.name == name);
            let delivered = sender.map(|one| std::mem::take(&mut one.delivered));
            for (_, count) in delivered.into_iter().flatten() {
                assert_eq!(count, there, "connections of {user}");
            }
        }
    }

    /// All that was accepted is on disk; a node that ends comes back with it.
    fn judge_database(&mut self) {
        for node in &self.nodes {
            assert!(node.store.is_idle(), "the database of {} does not come to rest", node.name);
        }
        for user in self.clients.iter().filter_map(|one| one.user) {
            let is_there = self.database.users.iter().any(|one| one.as_str() == user);
            assert!(is_there, "{user} was seen and is not in the database");
        }
        if self.is_joined {
            return;
        }
        for channel in &self.defined {
            assert!(self.database.channels.contains_key(*channel), "{channel} is defined");
        }
        // The registry's changes go twice a second.
        for _ in 0..40 {
            let registry = &self.nodes[0].control.state().registry;
            if !registry.is_dirty() && self.nodes[0].store.is_idle() {
                break;
            }
            self.settle(STEP_MS, STEP_MS);
        }
        let registry = &self.nodes[0].control.state().registry;
        assert!(!registry.is_dirty(), "the registry's changes do not reach the database");
        let version = registry.version();
        self.nodes[0].store.durable_ms = self.now_ms + 1;
        if self.rng.below(2) == 0 {
            self.database.close(version);
            self.count("stops in order");
        }
        self.restart(0);
        self.judge_services();
        self.settle(STEP_MS, 500);
    }
}
