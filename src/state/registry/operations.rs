//! Operations on instances, servers and zones: how they reach the instances below them.

use serde_json::json;

use super::pull_outs::{Operator, PulledOutBy};
use super::replies::RefusedEntry;
use super::views::ServiceRules;
use super::{Member, Registry};
use crate::clock::Moment;
use crate::id::{InstanceIdentity, ServiceName};
use crate::limits;
use crate::state::audit::{Note, kind};
use crate::state::management::changes::ChangedItem;
use crate::state::management::item::{ItemChange, ItemKind, ItemRow};
use crate::state::management::operation::{
    DecidedBy, OperationFilter, OperationRow, Target, TargetKind,
};
use crate::state::management::{self, Traits};
use crate::wire::refusal::Code;

/// The operation that stands in lists for a pull-out.
const PULL_OUT: &str = "pull-out";

impl Registry {
    /// Begins operations, or completes them. Refuses those for which there is no room, and those on groups that are
    /// not there.
    pub(super) fn operate_targets(
        &mut self,
        operations: Vec<(Target, Box<str>)>,
        is_complete: bool,
        by: &DecidedBy,
        now: Moment,
    ) -> Vec<RefusedEntry> {
        let mut refused = Vec::new();
        for (index, (target, operation)) in operations.into_iter().enumerate() {
            if !self.management.is_there(&target) {
                refused.push(RefusedEntry { index, code: Code::NotFound });
                continue;
            }
            let id = if is_complete {
                self.complete_pull_out(&target, &operation, now);
                self.management.complete(&target, &operation)
            } else {
                self.management.begin(target.clone(), &operation, by, now.wall_ms)
            };
            if id.is_none() && !is_complete {
                refused.push(RefusedEntry { index, code: Code::RateLimited });
            }
            self.dirty.management.extend(id.map(management::key_of));
            if id.is_some() {
                self.note_operation(&target, &operation, is_complete, by, now);
            }
            self.judge_below(&target, now);
        }
        refused
    }

    /// Notes an operation for the audit log.
    fn note_operation(
        &mut self,
        target: &Target,
        operation: &str,
        is_complete: bool,
        by: &DecidedBy,
        now: Moment,
    ) {
        let kind = if is_complete { kind::OPERATION_COMPLETED } else { kind::OPERATION_BEGUN };
        self.notes.add(|| {
            let mut detail = json!({
                "target": target.to_string(), "of": target.kind().as_str(),
                "key": target.fields(), "operation": operation, "operator_id": by.operator_id,
            });
            if !by.extensions.is_empty() {
                detail["extensions"] = json!(by.extensions);
            }
            let note = Note::new(kind, now).with(&detail).because(by.reason.to_string());
            let service = target.service().map(ServiceName::of);
            match (target, service) {
                (Target::Instance { region, service, instance }, Some(name)) => {
                    let identity = InstanceIdentity::of(region, service, instance);
                    note.of_service(name).of_instance(identity)
                }
                (_, Some(name)) => note.of_service(name),
                (_, None) => note,
            }
        });
    }

    /// Notes a changed item for the audit log.
    fn note_item(&mut self, item: &ChangedItem, operation: &str, by: &DecidedBy, now: Moment) {
        let ChangedItem { action, row, service } = item;
        self.notes.add(|| {
            let mut fields = row.item.fields();
            fields.retain(|_, value| !value.is_null());
            let mut detail = json!({
                "of": row.item.kind().as_str(), "item": fields, "action": action,
                "operator_id": by.operator_id,
            });
            for (name, text) in [("operation", operation), ("extensions", &*by.extensions)] {
                if !text.is_empty() {
                    detail[name] = json!(text);
                }
            }
            let note = Note::new(kind::GROUPS_CHANGED, now).with(&detail);
            let note = note.because(by.reason.to_string());
            match service {
                Some(service) => note.of_service(ServiceName::of(service)),
                None => note,
            }
        });
    }

    /// Lists show an operator's pull-out as an operation, so it can be completed as one.
    fn complete_pull_out(&mut self, target: &Target, operation: &str, now: Moment) {
        if let Target::Instance { region, service, instance } = target
            && operation.eq_ignore_ascii_case(PULL_OUT)
        {
            let identity = InstanceIdentity::of(region, service, instance);
            if matches!(self.pulled_out.by(&identity), Some(PulledOutBy::Operator(_))) {
                self.pull(&identity, None, now);
            }
        }
    }

    /// Completes all operations on one instance. Returns whether there were some.
    pub(super) fn complete_instance(&mut self, identity: &InstanceIdentity, now: Moment) -> bool {
        let rows = target_of(identity).map(|target| self.management.complete_all(&target));
        let rows = rows.unwrap_or_default();
        self.dirty.management.extend(rows.iter().map(|row| management::key_of(row.id)));
        let why = "a pull-in ends all operations on its instance";
        let by = DecidedBy { reason: why.into(), ..DecidedBy::default() };
        for OperationRow { target, operation, .. } in &rows {
            self.note_operation(target, operation, true, &by, now);
        }
        !rows.is_empty()
    }

    /// Whether an instance with this JSON is out of discovery.
    pub(super) fn is_out(&self, identity: &InstanceIdentity, json: &[u8]) -> bool {
        self.pulled_out.contains(identity) || self.management.row_above(identity, json).is_some()
    }

    /// Who took a registered instance out of discovery.
    pub(super) fn out_by(&self, identity: &InstanceIdentity, json: &[u8]) -> Option<PulledOutBy> {
        let operated = || {
            let DecidedBy { operator_id, user, .. } =
                &self.management.row_above(identity, json)?.by;
            Some(PulledOutBy::Operator(Operator { user: user.clone(), name: operator_id.clone() }))
        };
        self.pulled_out.by(identity).cloned().or_else(operated)
    }

    /// Takes out of discovery, or puts back, whatever is below a target. Linear in the instances for a
    /// server.
    fn judge_below(&mut self, target: &Target, now: Moment) {
        let below: Vec<u32> = match target {
            Target::Instance { region, service, instance } => {
                let identity = InstanceIdentity::of(region, service, instance);
                self.find_index(&identity).into_iter().collect()
            }
            Target::Zone { service, .. } | Target::Group { service, .. } => {
                let name = ServiceName::of(service);
                let service = self.find_service(&name).map(|index| &self.services[index]);
                service.map(|service| service.members.clone()).unwrap_or_default()
            }
            Target::Server { server, .. } => {
                let has = |ip: &str| ip.eq_ignore_ascii_case(server);
                let is_below = |json: &[u8]| Traits::of(json).ip.is_some_and(|ip| has(&ip));
                let members = self.members.iter();
                let below = members.filter(|(_, member)| is_below(&member.json));
                below.map(|(index, _)| super::to_u32(index)).collect()
            }
        };
        self.judge_each(below, now);
    }

    /// The same for some instances.
    fn judge_each(&mut self, mut below: Vec<u32>, now: Moment) {
        below.retain(|&index| {
            let member = &self.members[index as usize];
            self.is_out(&member.identity, &member.json) != member.is_pulled_out
        });
        for index in below {
            let Member { service, ref identity, is_pulled_out, .. } = self.members[index as usize];
            let kind = if is_pulled_out { kind::PULLED_IN } else { kind::PULLED_OUT };
            let identity = identity.clone();
            self.notes.add(|| {
                let service = self.services[service].name.clone();
                let note = Note::new(kind, now).of_service(service).of_instance(identity);
                note.because("by the operations on it, its server, its zone and its group")
            });
            self.set_out(index, !self.members[index as usize].is_pulled_out, now);
        }
    }

    /// Changes groups and what belongs to them. Refuses items without a group, those whose names another one has,
    /// and those for which there is no room.
    pub(super) fn change_items(
        &mut self,
        change: ItemChange,
        operation: &str,
        by: &DecidedBy,
        now: Moment,
    ) -> Vec<RefusedEntry> {
        let changed = self.management.change(change, by, now.wall_ms);
        for item in &changed.items {
            self.note_item(item, operation, by, now);
        }
        let why = "its group was deleted";
        let ended = DecidedBy { reason: why.into(), ..by.clone() };
        for OperationRow { target, operation, .. } in &changed.ended {
            self.note_operation(target, operation, true, &ended, now);
        }
        self.dirty.management.extend(changed.keys);
        let changed_rules = changed.rules.into_iter();
        let rules = |(service, fields)| ServiceRules { service, fields };
        self.changed_rules.extend(changed_rules.map(rules));
        for service in changed.services {
            let name = ServiceName::of(&service);
            let service = self.find_service(&name).map(|index| &self.services[index]);
            let members = service.map(|service| service.members.clone()).unwrap_or_default();
            self.judge_each(members, now);
        }
        let refused = changed.refused.into_iter();
        refused.map(|(index, code)| RefusedEntry { index, code }).collect()
    }

    /// The items of a kind.
    pub(in crate::state) fn items(&self, kind: ItemKind) -> Vec<ItemRow> {
        self.management.items(kind).cloned().collect()
    }

    /// The operations that a filter lets through; operators' pull-outs are among those on instances.
    pub(in crate::state) fn operations(&self, filter: &OperationFilter) -> Vec<OperationRow> {
        let mut rows: Vec<OperationRow> = self.management.list(filter).cloned().collect();
        if filter.kind == TargetKind::Instance {
            let pull_outs = self.pulled_out.iter().filter_map(|(identity, by)| {
                let PulledOutBy::Operator(operator) = by else { return None };
                let target = target_of(identity).filter(|target| filter.takes(target))?;
                let Operator { user, name } = operator.clone();
                let by = DecidedBy { operator_id: name, user, ..DecidedBy::default() };
                let operation = PULL_OUT.into();
                Some(OperationRow { id: 0, target, operation, by, created_ms: 0, updated_ms: 0 })
            });
            rows.extend(pull_outs.take(limits::LISTED_MAX));
        }
        rows
    }

    /// Whether an instance, registered or not, would be out of discovery with these traits.
    pub(in crate::state) fn is_down(
        &self,
        identity: &InstanceIdentity,
        traits: &Traits<'_>,
    ) -> bool {
        self.pulled_out.contains(identity)
            || self.management.row_above_traits(identity, traits).is_some()
    }
}

fn target_of(identity: &InstanceIdentity) -> Option<Target> {
    let mut parts = identity.as_str().split('\u{1f}').map(Box::from);
    let (region, service, instance) = (parts.next()?, parts.next()?, parts.next()?);
    Some(Target::Instance { region, service, instance })
}
