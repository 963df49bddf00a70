//! Control as one of several: what goes into the log, and what comes out of it.
//!
//! Imports `cluster`, `mailbox`, `state` and `wire`. Part of `control`.

use super::Control;
use super::proposals::Pending;
use crate::clock::Moment;
use crate::cluster::{News, Proposal};
use crate::id::{ServiceName, Topic};
use crate::mailbox::to_control::Origin;
use crate::mailbox::to_shard::{Event, Parcel};
use crate::state::log::{Entry, LogItem, encode};
use crate::state::order::Answer;
use crate::state::replica::ReplicaImage;
use crate::wire::answer;
use crate::wire::event::Position;

impl Control {
    /// Sends an entry on its way into the log.
    pub(super) fn propose(&mut self, origin: Origin, accepted_ns: u64, entry: Entry, now: Moment) {
        let is_by_time = matches!(origin, Origin::Server);
        let (Some(cluster), Some(text)) = (&self.cluster, encode(&entry)) else {
            return self.reply(origin, Answer::Unavailable);
        };
        if !is_by_time && !self.proposals.has_room() {
            return self.reply(origin, Answer::Unavailable);
        }
        let kept = is_by_time.then_some(entry);
        let number = self.proposals.enter(origin, accepted_ns, kept, now.unix_ms);
        let proposal = Proposal { number, at_ms: now.unix_ms, entry: text };
        if !cluster.propose(proposal)
            && let Some(pending) = self.proposals.take(number)
        {
            self.lose(pending, now);
        }
    }

    /// Proposes what time has made of leases and nodes, and gives up what has waited for too long.
    pub(super) fn propose_by_time(&mut self, now: Moment) {
        if self.cluster.is_none() {
            return;
        }
        for entry in self.state.take_proposals() {
            self.propose(Origin::Server, now.ns, entry, now);
        }
        for pending in self.proposals.take_late(now.unix_ms) {
            self.lose(pending, now);
        }
    }

    pub(super) fn on_news(&mut self, news: News, now: Moment) {
        match news {
            News::Log(items) => {
                for item in items {
                    self.on_logged(item, now);
                }
            }
            News::Replace(image) => self.replace(*image, now),
            News::CaughtUp => self.stats.cluster.caught_up.set(1),
            News::Nodes { nodes, contact_ms, newest } => {
                let alive: Vec<String> =
                    nodes.into_iter().filter(|node| node.is_alive).map(|node| node.id).collect();
                let stats = &self.stats.cluster;
                stats.nodes.set(alive.len() as u64);
                stats.contact_ms.set(contact_ms);
                stats.newest.set(newest);
                self.state.on_nodes(&alive, (contact_ms, newest), now);
                self.announce(now.ns);
            }
            News::Lost(numbers) => {
                self.stats.cluster.lost.add(numbers.len() as u64);
                for number in numbers {
                    if let Some(pending) = self.proposals.take(number) {
                        self.lose(pending, now);
                    }
                }
            }
            // Whoever asked may have stopped waiting.
            News::Image(reply) => _ = reply.send(self.state.registry.image()),
        }
    }

    fn on_logged(&mut self, item: LogItem, now: Moment) {
        let pending = if item.node == self.node { self.proposals.take(item.number) } else { None };
        self.state.is_watched = self.events.receiver_count() > 0;
        let answer = self.state.apply_logged(item, now);
        self.stats.cluster.applied.add(1);
        let accepted_ns = pending.as_ref().map_or(now.ns, |pending| pending.accepted_ns);
        self.announce(accepted_ns);
        if let Some(pending) = pending {
            self.answer_proposer(pending.origin, answer, now);
        }
    }

    fn answer_proposer(&mut self, origin: Origin, answer: Answer, now: Moment) {
        let conn = match &origin {
            Origin::Conn(conn) => Some(*conn),
            _ => None,
        };
        self.reply(origin, answer);
        if let Some(conn) = conn {
            let mut waiting = self.proposals.release(conn);
            while let Some(command) = waiting.pop_front() {
                // The first of them that has to wait again holds the others.
                self.carry_out(command, now);
            }
        }
    }

    fn lose(&mut self, pending: Pending, now: Moment) {
        if let Some(entry) = &pending.entry {
            self.state.on_proposal_lost(entry, now);
        }
        self.answer_proposer(pending.origin, Answer::Unavailable, now);
    }

    /// Begins anew from an image: every follower gets a snapshot, for what it has may be of another
    /// history.
    fn replace(&mut self, image: ReplicaImage, now: Moment) {
        tracing::info!(sequence = image.sequence, "the registry begins from an image");
        self.stats.cluster.replaced.add(1);
        self.stats.cluster.caught_up.set(0);
        let node = self.node.clone();
        for service in self.state.replace_registry(&node, image, now) {
            self.publisher.take_back(&service);
            self.send_snapshot(service, now);
        }
        self.announce(now.ns);
    }

    fn send_snapshot(&mut self, service: ServiceName, now: Moment) {
        let following = self.followers.shards(&service);
        if following.is_empty() {
            return;
        }
        let view = self.state.registry.present_view(&service);
        let at = Position {
            service: &view.service,
            epoch: &view.epoch,
            revision: view.revision,
            degraded: view.degraded,
        };
        let frame = answer::service_snapshot(at, view.instances.clone()).joined();
        let event = Event { topic: Topic::Service(service), frame, accepted_ns: now.ns, aim: None };
        for shard in following.iter() {
            self.send(shard, Parcel::Event(event.clone()));
        }
    }
}
