//! Control as one of several: what goes into the log, and what comes out of it.

use super::Control;
use super::pending::{Appended, Step, What};
use crate::clock::Moment;
use crate::cluster::{News, NodeView, Proposal};
use crate::id::{ServiceName, Topic};
use crate::mailbox::to_shard::Event;
use crate::state::backplane::BackplaneResponse;
use crate::state::effect::{Append, Request};
use crate::state::entry::Applied;
use crate::state::entry::{LogItem, encode};
use crate::state::event::DomainEvent;
use crate::state::install::Installed;
use crate::state::snapshot::Snapshot;
use crate::wire::{answer, artemis};

impl Control {
    /// Sends an entry on its way into the log.
    pub(super) fn append(&mut self, append: Append, accepted_ns: u64, now: Moment) {
        let is_own = append.reply.is_nobody();
        let (entry, appended) = Appended::of(append);
        let has_room = is_own || self.pending.has_room();
        let (Some(cluster), Some(text)) =
            (self.cluster.as_ref().filter(|_| has_room), encode(&entry))
        else {
            return self.pending.make_ready(accepted_ns, Step::Lost(appended));
        };
        let number = self.pending.enter(What::Append(appended), accepted_ns, now.unix_ms);
        if !cluster.propose(Proposal { number, at_ms: now.wall_ms, entry: text }) {
            self.pending.lose(number);
        }
    }

    /// Asks the backplane. The response comes as news.
    pub(super) fn request(&mut self, request: Request, accepted_ns: u64, now: Moment) {
        let Request { call, continuation, is_own } = request;
        let has_room = is_own || self.pending.has_room();
        let Some(cluster) = self.cluster.as_ref().filter(|_| has_room) else {
            let step = Step::Response(continuation, BackplaneResponse::Failed);
            return self.pending.make_ready(accepted_ns, step);
        };
        let number = self.pending.enter(What::Request(continuation), accepted_ns, now.unix_ms);
        if !cluster.call(number, call) {
            self.pending.respond(number, BackplaneResponse::Failed);
        }
    }

    /// Appends what time has made of leases, nodes and presence, and gives up what has waited for too
    /// long.
    pub(super) fn append_by_time(&mut self, now: Moment) {
        if self.cluster.is_none() {
            return;
        }
        self.state.append_own(now);
        self.pending.give_up_late(now.unix_ms);
        self.settle(now.ns, now);
    }

    pub(super) fn on_news(&mut self, news: News, now: Moment) {
        match news {
            News::Log(items) => {
                for item in items {
                    self.on_logged(item, now);
                }
            }
            News::Install { snapshot, items } => self.install_snapshot(*snapshot, items, now),
            News::Nodes { nodes, contact_ms, newest, written, .. } => {
                self.note_nodes(&nodes);
                let alive: Vec<String> =
                    nodes.into_iter().filter(|node| node.is_alive).map(|node| node.id).collect();
                self.alive.clone_from(&alive);
                let stats = &self.stats.cluster;
                stats.nodes.set(alive.len() as u64);
                stats.contact_ms.set(contact_ms);
                stats.newest.set(newest);
                self.state.on_nodes(&alive, (contact_ms, newest), now);
                if let Some(written) = written {
                    self.state.on_written(written);
                }
            }
            News::Lost(numbers) => {
                self.stats.cluster.lost.add(numbers.len() as u64);
                for number in numbers {
                    self.pending.lose(number);
                }
            }
            News::Response { number, reply } => self.pending.respond(number, reply),
            News::ChannelMessages(messages) => self.state.on_channel_messages(messages, now),
            News::Relinked => self.state.on_relinked(),
            News::Asked { node, number, question } => {
                let answer = self.state.on_asked(&question, now);
                self.settle(now.ns, now);
                if let Some(cluster) = &self.cluster {
                    cluster.respond(node, number, answer);
                }
            }
            News::JournalEntries(entries) => self.state.on_journal_entries(entries),
            News::JournalRead(sequence) => self.state.on_journal_read(sequence),
            News::JournalGap => self.state.on_journal_gap(),
            // Whoever asked may have stopped waiting.
            News::Snapshot(reply) => _ = reply.send(self.state.snapshot()),
        }
        self.settle(now.ns, now);
    }

    /// Says which nodes came and went since the last look.
    fn note_nodes(&self, nodes: &[NodeView]) {
        for node in nodes.iter().filter(|node| node.is_alive && node.id != self.node) {
            if !self.alive.contains(&node.id) {
                tracing::info!(target: "fanfare::cluster", node = node.id, "another node is there");
            }
        }
        for id in self.alive.iter().filter(|id| **id != self.node) {
            match nodes.iter().find(|node| node.id == *id) {
                Some(node) if node.is_alive => {}
                Some(NodeView { age_ms, .. }) => tracing::warn!(
                    target: "fanfare::cluster",
                    node = id,
                    silent_ms = age_ms,
                    "another node is gone: it gives no sign of life"
                ),
                None => {
                    tracing::info!(target: "fanfare::cluster", node = id, "another node has left");
                }
            }
        }
    }

    fn on_logged(&mut self, item: LogItem, now: Moment) {
        let own = (*item.node == *self.node).then(|| self.pending.take_appended(item.number));
        let (accepted_ns, own) = own.flatten().unzip();
        let actor = own.as_ref().and_then(|own: &Appended| own.actor.as_ref());
        let applied = self.state.apply_logged_by(actor, item, now);
        self.stats.cluster.applied.add(1);
        let accepted_ns = accepted_ns.unwrap_or(now.ns);
        if let Some(own) = own {
            self.end_append(accepted_ns, own, applied);
        }
        self.settle(accepted_ns, now);
    }

    /// An entry of this node came back from the log.
    fn end_append(&mut self, accepted_ns: u64, own: Appended, applied: Option<Applied>) {
        match applied {
            Some(applied) => self.state.reply_applied(own.reply, applied),
            // It came behind a later one of this node and counts for nothing.
            None => self.pending.make_ready(accepted_ns, Step::Lost(own)),
        }
    }

    /// Begins anew: every follower gets a snapshot, for what it has may be of another history.
    fn install_snapshot(&mut self, snapshot: Snapshot, items: Vec<LogItem>, now: Moment) {
        let entries = items.len();
        tracing::info!(
            sequence = snapshot.sequence,
            entries,
            "the registry is installed from a snapshot"
        );
        let stats = &self.stats.cluster;
        stats.replaced.add(1);
        stats.applied.add(entries as u64);
        let is_watched = self.events.receiver_count() > 0;
        let Installed { mut services, applied } = self.state.install_snapshot(snapshot, items, now);
        services.extend(self.followers.services().cloned());
        self.state.registry.note_unseen_told(&services);
        for service in services {
            self.view_cache.invalidate(&service);
            if is_watched {
                let view = self.state.registry.view(&service);
                self.tell_program(DomainEvent::ServiceChanged {
                    service: service.clone(),
                    revision: view.revision,
                    degraded: view.degraded,
                });
            }
            self.send_snapshot(service, now);
        }
        for (number, applied) in applied {
            if let Some((accepted_ns, own)) = self.pending.take_appended(number) {
                self.end_append(accepted_ns, own, applied);
            }
        }
    }

    fn send_snapshot(&mut self, service: ServiceName, now: Moment) {
        let following = self.followers.shards(&service);
        if !following.artemis.is_empty() {
            let topic = Topic::Artemis(service.clone());
            let frame = artemis::reload(&service, now.wall_ms);
            let event = Event { topic, frame, frames: 1, accepted_ns: now.ns, aim: None };
            self.send_event(&event, following.artemis);
        }
        let following = following.own;
        if following.is_empty() {
            return;
        }
        let view = self.state.registry.view(&service);
        let frame = answer::service_snapshot(view.position(), view.instances.clone()).joined();
        let topic = Topic::Service(service);
        let event = Event { topic, frame, frames: 1, accepted_ns: now.ns, aim: None };
        self.send_event(&event, following);
    }
}
