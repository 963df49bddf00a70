//! Contact with the log, and what this node does about nodes that are gone.
//!
//! Imports `clock`, `id`, `limits` and its siblings. Part of `state::registry`.

use super::Registry;
use super::views::Announcement;
use crate::clock::Moment;
use crate::id::{InstanceIdentity, ServiceName};
use crate::limits;
use crate::state::entry::Entry;

impl Registry {
    /// News of the log's engine: when it last answered, which nodes are alive.
    pub(in crate::state) fn on_nodes(
        &mut self,
        alive: &[String],
        (contact_ms, newest): (u64, u64),
    ) {
        let log = &mut self.log;
        log.note_contact(contact_ms, newest);
        let first = alive.iter().min();
        log.is_leader = first.is_some_and(|first| **first == **log.own_name());
        if !log.is_leader || log.is_cut_off || log.takeovers_pending > 0 {
            return;
        }
        let orphaning: Vec<u32> = (1..)
            .zip(&log.nodes[1..])
            .filter(|(node, name)| {
                let is_alive = alive.iter().any(|alive| **alive == ***name);
                log.leases_owned[*node as usize] > 0 && !is_alive
            })
            .map(|(node, _)| node)
            .collect();
        if orphaning.is_empty() {
            return;
        }
        let orphans: Vec<InstanceIdentity> = self
            .members
            .iter()
            .filter(|(_, member)| orphaning.contains(&member.owner))
            .map(|(_, member)| member.identity.clone())
            .collect();
        let nodes: Vec<&str> = orphaning.iter().map(|&node| &*log.nodes[node as usize]).collect();
        tracing::info!(
            target: "fanfare::cluster",
            leases = orphans.len(),
            of = nodes.join(", "),
            "leases of nodes that are gone are taken over"
        );
        for piece in orphans.chunks(limits::COMMAND_ENTRIES_MAX) {
            log.proposals.push(Entry::TakeOverLeases(piece.to_vec()));
            log.takeovers_pending += 1;
        }
    }

    /// Marks or unmarks all services as cut off, where that is news.
    pub(in crate::state) fn check_contact(&mut self, now: Moment) {
        let log = &mut self.log;
        let is_cut_off = log.is_silent(now);
        if std::mem::replace(&mut log.is_cut_off, is_cut_off) == is_cut_off {
            return;
        }
        log.contact_changed = true;
        let services: Vec<usize> = self.services.iter().map(|(service, _)| service).collect();
        for service in services {
            self.services[service].is_cut_off = is_cut_off;
            self.touch(service);
        }
        if is_cut_off {
            tracing::info!("contact with the other nodes is lost: registry writes are refused");
        } else {
            tracing::info!("in contact with the other nodes: registry writes are taken");
        }
    }

    /// Whether the log has not been heard of, or not been followed, for too long.
    pub fn is_cut_off(&self) -> bool {
        self.log.is_cut_off
    }

    /// Tells followers of services that were never seen where contact was lost or found since this
    /// was last called. The registry knows of no followers; it is given all that are followed.
    pub fn announce_contact_change<'a>(&mut self, followed: impl Iterator<Item = &'a ServiceName>) {
        let log = &mut self.log;
        if !std::mem::take(&mut log.contact_changed) {
            return;
        }
        let degraded = log.is_cut_off;
        let mut announcements = Vec::new();
        for service in followed.filter(|name| self.find_service(name).is_none()) {
            announcements.push(Announcement {
                service: service.clone(),
                begins: false,
                from: 0,
                revision: 0,
                degraded,
                changes: Vec::new(),
            });
        }
        self.announcements.extend(announcements);
    }

    /// When contact has to be looked at by time alone.
    pub(super) fn next_contact_check_ms(&self) -> Option<u64> {
        let contact_ms = self.log.contact_ms.filter(|_| !self.log.is_cut_off)?;
        Some(contact_ms + limits::CLUSTER_CONTACT_MS + 1)
    }
}
