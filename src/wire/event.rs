//! Messages to subscribers of services, framed once for all of them.
//!
//! An instance travels as the canonical JSON it was stored with: these functions splice bytes and
//! serialize nothing twice.
//!
//! Imports `clock`, `id` and `wire::frame`. Imported by `control` and `state`.

use bytes::Bytes;

use super::frame::FrameBuilder;
use crate::id::{Epoch, ServiceName};

/// The kind of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeType {
    /// It is new.
    New,
    /// It differs from before.
    Change,
    /// It is gone.
    Delete,
}

impl ChangeType {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            ChangeType::New => "new",
            ChangeType::Change => "change",
            ChangeType::Delete => "delete",
        }
    }

    /// Reads the name on the wire.
    pub fn parse(text: &str) -> Option<ChangeType> {
        let all = [ChangeType::New, ChangeType::Change, ChangeType::Delete];
        all.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// Why an instance changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeReason {
    /// It registered.
    Register,
    /// It registered again with a difference.
    Update,
    /// It was taken out, by itself or by another caller.
    Unregister,
    /// Its lease ran out.
    Expired,
    /// An operator took it out of discovery.
    PullOut,
    /// An operator put it back.
    PullIn,
}

impl ChangeReason {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            ChangeReason::Register => "register",
            ChangeReason::Update => "update",
            ChangeReason::Unregister => "unregister",
            ChangeReason::Expired => "expired",
            ChangeReason::PullOut => "pull_out",
            ChangeReason::PullIn => "pull_in",
        }
    }

    /// Reads the name on the wire.
    pub fn parse(text: &str) -> Option<ChangeReason> {
        let all = [
            ChangeReason::Register,
            ChangeReason::Update,
            ChangeReason::Unregister,
            ChangeReason::Expired,
            ChangeReason::PullOut,
            ChangeReason::PullIn,
        ];
        all.into_iter().find(|reason| reason.as_str() == text)
    }
}

/// The text of a time on the wire, `2026-11-20T12:00:00.123Z`: 24 ASCII bytes, copied freely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeText([u8; 24]);

impl TimeText {
    /// The text of a moment given in milliseconds since the Unix epoch.
    pub fn of(unix_ms: u64) -> TimeText {
        let text = crate::clock::rfc3339(unix_ms);
        let mut bytes = *b"9999-12-31T23:59:59.999Z";
        if text.len() == bytes.len() {
            bytes.copy_from_slice(text.as_bytes());
        }
        TimeText(bytes)
    }

    /// The text's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The moment, in milliseconds since the Unix epoch.
    pub fn unix_ms(&self) -> Option<u64> {
        crate::clock::unix_ms_of(std::str::from_utf8(&self.0).ok()?)
    }
}

/// One change of one instance: one step of its service's revision.
#[derive(Debug, Clone)]
pub struct Change {
    /// The instance's canonical JSON after the change, or before it if it is gone.
    pub instance: Bytes,
    /// The kind of the change.
    pub kind: ChangeType,
    /// The reason.
    pub reason: ChangeReason,
    /// When the server accepted it.
    pub time: TimeText,
}

impl Change {
    /// How many bytes it takes in a frame, about.
    pub fn wire_bytes(&self) -> usize {
        self.instance.len() + CHANGE_OVERHEAD_BYTES
    }
}

/// Bytes that the fixed parts of a change take on the wire, so that frames are allocated once.
const CHANGE_OVERHEAD_BYTES: usize = 96;

/// Appends a change as a JSON object.
pub fn put_change(out: &mut FrameBuilder, change: &Change) {
    out.put(b"{\"instance\":");
    out.put(&change.instance);
    out.put(b",\"changeType\":\"");
    out.put_str(change.kind.as_str());
    out.put(b"\",\"changeTime\":\"");
    out.put(&change.time.0);
    out.put(b"\",\"reason\":\"");
    out.put_str(change.reason.as_str());
    out.put(b"\"}");
}

/// The position of a frame in its service's history, and the mark that goes with it.
#[derive(Debug, Clone, Copy)]
pub struct Position<'a> {
    /// The service.
    pub service: &'a ServiceName,
    /// The epoch of both revisions.
    pub epoch: &'a Epoch,
    /// The revision after the frame.
    pub revision: u64,
    /// Whether expiry is held for the service.
    pub degraded: bool,
}

/// `service_change`: the steps from `from` to the position's revision, framed.
pub fn service_change<'a>(
    at: Position<'_>,
    from: u64,
    changes: impl Iterator<Item = &'a Change> + Clone,
) -> Bytes {
    let bytes: usize = changes.clone().map(Change::wire_bytes).sum();
    let mut out = FrameBuilder::with_capacity(bytes + 128 + at.service.as_str().len());
    out.put(b"{\"type\":\"service_change\",\"service_id\":");
    out.put_json_str(at.service.as_str());
    out.put(b",\"epoch\":");
    out.put_json_str(at.epoch.as_str());
    out.put(b",\"from\":");
    out.put_u64(from);
    out.put(b",\"revision\":");
    out.put_u64(at.revision);
    out.put(b",\"changes\":[");
    for (index, change) in changes.enumerate() {
        if index > 0 {
            out.put(b",");
        }
        put_change(&mut out, change);
    }
    out.put(if at.degraded { b"],\"degraded\":true}" } else { b"],\"degraded\":false}" });
    out.text()
}

/// `service_rules`: what a service's clients are given beside its instances, framed. `fields` are those two, as JSON
/// without braces.
pub fn service_rules(service: &ServiceName, fields: &[u8]) -> Bytes {
    let mut out = FrameBuilder::with_capacity(fields.len() + 64 + service.as_str().len());
    out.put(b"{\"type\":\"service_rules\",\"service_id\":");
    out.put_json_str(service.as_str());
    out.put(b",");
    out.put(fields);
    out.put(b"}");
    out.text()
}

/// `service_snapshot` up to its instances. The rest follows as in [`super::frame::Split`].
pub(super) fn put_snapshot_head(out: &mut FrameBuilder, at: Position<'_>) {
    out.put(b"{\"type\":\"service_snapshot\",\"service_id\":");
    put_position(out, at);
    out.put(b",\"instances\":");
}

/// Appends name, epoch, revision and mark, without the comma after them.
pub(super) fn put_position(out: &mut FrameBuilder, at: Position<'_>) {
    out.put_json_str(at.service.as_str());
    out.put(b",\"epoch\":");
    out.put_json_str(at.epoch.as_str());
    out.put(b",\"revision\":");
    out.put_u64(at.revision);
    out.put(if at.degraded { b",\"degraded\":true" } else { b",\"degraded\":false" });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_change_is_the_documented_json() {
        let change = |kind, reason| Change {
            instance: Bytes::from_static(b"{\"serviceId\":\"S\",\"instanceId\":\"i\"}"),
            kind,
            reason,
            time: TimeText::of(1_795_176_000_123),
        };
        let changes = [
            change(ChangeType::New, ChangeReason::Register),
            change(ChangeType::Delete, ChangeReason::PullOut),
        ];
        let (service, epoch) = (ServiceName::of("a\"b"), Epoch::new("e"));
        let at = Position { service: &service, epoch: &epoch, revision: 9, degraded: true };
        let frame = service_change(at, 7, changes.iter());
        let payload = &frame[frame.len() - usize::from(u16::from_be_bytes([frame[2], frame[3]]))..];
        let json: serde_json::Value = serde_json::from_slice(payload).expect("valid JSON");
        let instance = serde_json::json!({"serviceId": "S", "instanceId": "i"});
        let time = "2026-11-20T12:00:00.123Z";
        assert_eq!(
            json,
            serde_json::json!({
                "type": "service_change", "service_id": "a\"b", "epoch": "e", "from": 7,
                "revision": 9, "degraded": true, "changes": [
                    {"instance": instance, "changeType": "new", "changeTime": time, "reason": "register"},
                    {"instance": instance, "changeType": "delete", "changeTime": time, "reason": "pull_out"},
                ]
            })
        );
    }
}
