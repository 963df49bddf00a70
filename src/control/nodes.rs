//! Control as one of several: what goes into the log, and what comes out of it.
//!
//! Imports `cluster`, `mailbox`, `state` and `wire`. Part of `control`.

use super::Control;
use super::ledger::Waiting;
use super::proposals::{Pending, What};
use crate::clock::Moment;
use crate::cluster::{News, NodeView, Proposal};
use crate::id::{ConnId, ServiceName, Topic};
use crate::mailbox::to_control::Origin;
use crate::mailbox::to_shard::{Event, Parcel};
use crate::state::abroad::{Errand, Release};
use crate::state::begin::Begun;
use crate::state::call::{Call, Reply};
use crate::state::entry::{Entry, LogItem, encode};
use crate::state::event::DomainEvent;
use crate::state::order::Answer;
use crate::state::snapshot::Snapshot;
use crate::state::talk::Told;
use crate::state::then::Then;
use crate::wire::answer;
use crate::wire::refusal::Refusal;

impl Control {
    /// Sends an entry on its way into the log.
    pub(super) fn propose(&mut self, origin: Origin, accepted_ns: u64, entry: Entry, now: Moment) {
        let is_by_time = matches!(origin, Origin::Server);
        let (Some(cluster), Some(text)) = (&self.cluster, encode(&entry)) else {
            return self.answer(origin, Answer::Unavailable, now);
        };
        if !is_by_time && !self.proposals.has_room() {
            return self.answer(origin, Answer::Unavailable, now);
        }
        let kept = What::Place(is_by_time.then_some(entry));
        let number = self.proposals.enter(origin, accepted_ns, kept, now.unix_ms);
        let proposal = Proposal { number, at_ms: now.wall_ms, entry: text };
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
        for entry in self.state.take_proposals(now) {
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
            News::Begin { image, items } => self.begin(*image, items, now),
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
            News::Called { number, reply } => {
                if let Some(pending) = self.proposals.take(number) {
                    self.on_called(pending, reply, now);
                }
            }
            News::Placed(messages) => {
                self.state.is_watched = self.events.receiver_count() > 0;
                self.state.on_placed(messages, now);
                self.announce(now.ns);
            }
            News::Relinked => self.state.on_relinked(),
            News::Asked { node, number, question } => {
                let answer = self.state.on_asked(&question);
                self.announce(now.ns);
                if let Some(cluster) = &self.cluster {
                    cluster.respond(node, number, answer);
                }
            }
            News::Posted(messages) => {
                self.state.on_posted(messages);
                self.announce(now.ns);
            }
            News::JournalRead(sequence) => self.state.on_journal_read(sequence),
            News::JournalGap => {
                self.state.on_journal_gap();
                self.announce(now.ns);
            }
            // Whoever asked may have stopped waiting.
            News::Image(reply) => _ = reply.send(self.state.image()),
        }
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
        let pending =
            if *item.node == *self.node { self.proposals.take(item.number) } else { None };
        self.state.is_watched = self.events.receiver_count() > 0;
        let answer = self.state.apply_logged(item, now);
        self.stats.cluster.applied.add(1);
        let accepted_ns = pending.as_ref().map_or(now.ns, |pending| pending.accepted_ns);
        self.announce(accepted_ns);
        if let Some(pending) = pending {
            self.on_place(pending, answer, now);
        }
    }

    fn on_place(&mut self, pending: Pending, answer: Option<Answer>, now: Moment) {
        match answer {
            Some(answer) => self.answer(pending.origin, answer, now),
            // It came behind a later one of this node and counts for nothing.
            None => self.lose(pending, now),
        }
    }

    /// Answers an order; those of its connection that waited behind it are carried out.
    pub(super) fn answer(&mut self, origin: Origin, answer: Answer, now: Moment) {
        let conn = match &origin {
            Origin::Conn(conn) => Some(*conn),
            _ => None,
        };
        self.reply(origin, answer);
        if let Some(conn) = conn.filter(|_| self.proposals.holds_any()) {
            self.go_on(conn, now);
        }
    }

    /// Carries out the orders of a connection that waited behind an answered one.
    fn go_on(&mut self, conn: ConnId, now: Moment) {
        let mut waiting = self.proposals.release(conn);
        while let Some(command) = waiting.pop_front() {
            // The first of them that has to wait again holds the others.
            self.carry_out(command, now);
        }
    }

    /// Answers an order at its place among what goes out. What waited behind it comes later: it may
    /// send more, which is not to stand before the rest.
    pub(super) fn answer_in_turn(&mut self, number: u64, told: Told) {
        let Some(pending) = self.proposals.take(number) else { return };
        if let Origin::Conn(conn) = &pending.origin {
            self.to_go_on.push(*conn);
        }
        self.reply(pending.origin, Answer::Told(Box::new(told)));
    }

    /// An order has waited in vain.
    fn lose(&mut self, pending: Pending, now: Moment) {
        let answer = match pending.what {
            What::Place(entry) => {
                if let Some(entry) = &entry {
                    self.state.on_proposal_lost(entry, now);
                }
                Answer::Unavailable
            }
            What::Answer(_) => return self.on_called(pending, Reply::Failed, now),
            What::Again(talk) => {
                self.state.on_given_up(&talk, now);
                self.announce(now.ns);
                Answer::Unavailable
            }
            // It is done; only what stands before it is missing.
            What::Turn(told) => Answer::Told(Box::new(told)),
        };
        self.answer(pending.origin, answer, now);
    }

    /// Asks others. The answer comes as news.
    pub(super) fn call(
        &mut self,
        origin: Origin,
        accepted_ns: u64,
        (call, then): (Call, Then),
        now: Moment,
    ) {
        let is_own = matches!(origin, Origin::Server);
        if self.cluster.is_none() || (!is_own && !self.proposals.has_room()) {
            let outcome = self.state.after_call(then, Reply::Failed, now);
            return self.settle(origin, accepted_ns, outcome, now);
        }
        let number = self.proposals.enter(origin, accepted_ns, What::Answer(then), now.unix_ms);
        if !self.cluster.as_ref().is_some_and(|cluster| cluster.call(number, call))
            && let Some(pending) = self.proposals.take(number)
        {
            self.on_called(pending, Reply::Failed, now);
        }
    }

    fn on_called(&mut self, pending: Pending, reply: Reply, now: Moment) {
        let Pending { origin, accepted_ns, what, .. } = pending;
        let What::Answer(then) = what else { return };
        self.state.is_watched = self.events.receiver_count() > 0;
        self.state.ticket = self.proposals.next();
        let outcome = self.state.after_call(then, reply, now);
        self.settle(origin, accepted_ns, outcome, now);
    }

    /// Does what the state has for the backplane, and goes on with the orders that need not wait
    /// any more.
    pub(super) fn run_errands(&mut self, now: Moment) {
        if self.cluster.is_none() {
            return;
        }
        loop {
            let errands = self.state.take_errands();
            let released = self.state.take_released();
            let to_go_on = std::mem::take(&mut self.to_go_on);
            if errands.is_empty() && released.is_empty() && to_go_on.is_empty() {
                return;
            }
            for conn in to_go_on {
                self.go_on(conn, now);
            }
            for errand in errands {
                match (errand, &self.cluster) {
                    (Errand::Call(asked), _) => {
                        self.call(Origin::Server, now.ns, *asked, now);
                    }
                    (Errand::Detach(channel), Some(cluster)) => cluster.detach(channel),
                    (Errand::Written(up_to), Some(cluster)) => cluster.written(up_to),
                    (Errand::Talk(talk), _) => {
                        self.state.is_watched = self.events.receiver_count() > 0;
                        self.state.ticket = self.proposals.next();
                        let outcome = self.state.apply((*talk).into(), now);
                        self.settle(Origin::Server, now.ns, outcome, now);
                    }
                    _ => {}
                }
            }
            for (number, how) in released {
                if let Some(pending) = self.proposals.take(number) {
                    self.release(pending, how, now);
                }
            }
        }
    }

    fn release(&mut self, pending: Pending, how: Release, now: Moment) {
        if how == Release::Fail && matches!(pending.what, What::Again(_)) {
            return self.lose(pending, now);
        }
        match (pending.what, how) {
            (What::Again(talk), Release::Again) => {
                self.state.is_watched = self.events.receiver_count() > 0;
                self.state.is_rerun = true;
                self.state.ticket = self.proposals.next();
                let outcome = self.state.apply(talk.into(), now);
                self.state.is_rerun = false;
                self.settle(pending.origin, pending.accepted_ns, outcome, now);
            }
            (_, _) => self.answer(pending.origin, Answer::Unavailable, now),
        }
    }

    /// Has the next messages of the journal written, where that falls to this node.
    pub(super) fn write_posted(&mut self, now: Moment) {
        let is_well = self.store.as_ref().is_some_and(|store| store.health().is_ok());
        if is_well
            && now.unix_ms >= self.next_posted_ms
            && let Some(write) = self.state.take_posted()
        {
            // Nobody waits for it, so there is always room for it.
            let waiting = Waiting { origin: Origin::Server, accepted_ns: now.ns, write };
            if let Some(waiting) = self.ledger.enter(waiting) {
                self.finish(waiting, Err(Refusal::unavailable()), now);
            }
        }
    }

    /// Begins anew: every follower gets a snapshot, for what it has may be of another history.
    fn begin(&mut self, image: Snapshot, items: Vec<LogItem>, now: Moment) {
        let entries = items.len();
        tracing::info!(sequence = image.sequence, entries, "the registry begins from an image");
        let stats = &self.stats.cluster;
        stats.replaced.add(1);
        stats.applied.add(entries as u64);
        self.state.is_watched = self.events.receiver_count() > 0;
        let Begun { mut services, answers } = self.state.begin_anew(image, items, now);
        services.extend(self.followers.services().cloned());
        for service in services {
            self.publisher.take_back(&service);
            if self.state.is_watched {
                let view = self.state.registry.view(&service);
                // Fails only where the last listener has just gone.
                let _ = self.events.send(DomainEvent::ServiceChanged {
                    service: service.clone(),
                    revision: view.revision,
                    degraded: view.degraded,
                });
            }
            self.send_snapshot(service, now);
        }
        self.announce(now.ns);
        for (number, answer) in answers {
            if let Some(pending) = self.proposals.take(number) {
                self.on_place(pending, answer, now);
            }
        }
    }

    fn send_snapshot(&mut self, service: ServiceName, now: Moment) {
        let following = self.followers.shards(&service);
        if following.is_empty() {
            return;
        }
        let view = self.state.registry.view(&service);
        let frame = answer::service_snapshot(view.position(), view.instances.clone()).joined();
        let event = Event { topic: Topic::Service(service), frame, accepted_ns: now.ns, aim: None };
        for shard in following.iter() {
            self.send(shard, Parcel::Event(event.clone()));
        }
    }
}
