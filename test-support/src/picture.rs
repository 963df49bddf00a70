//! A client's picture of a service, built from frames alone, and compared with the registry.
//!
//! Imports `server` and the root. Imported by `socket` and tests.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{Server, assert_is_time};

/// A client's picture of a service, built from frames alone. Every frame is checked: a gap, a
/// double or a change that does not fit fails the test.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    pub service: String,
    pub epoch: String,
    pub revision: u64,
    pub degraded: bool,
    /// By identity.
    pub instances: BTreeMap<String, Value>,
}

impl Picture {
    /// From an answer to subscribe that holds instances.
    pub fn of_subscribed(answer: &Value) -> Picture {
        Picture::of(answer["service_id"].as_str(), answer)
    }

    /// From the `service` part of a discovery answer.
    pub fn of_discovered(service: &Value) -> Picture {
        Picture::of(service["serviceId"].as_str(), service)
    }

    fn of(service: Option<&str>, whole: &Value) -> Picture {
        let list = whole["instances"].as_array().unwrap_or_else(|| panic!("{whole}"));
        let instances: BTreeMap<String, Value> =
            list.iter().map(|instance| (identity(instance), instance.clone())).collect();
        assert_eq!(instances.len(), list.len(), "an instance stands twice: {whole}");
        Picture {
            service: service.expect("a service's name").to_owned(),
            epoch: whole["epoch"].as_str().expect("an epoch").to_owned(),
            revision: whole["revision"].as_u64().expect("a revision"),
            degraded: whole["degraded"].as_bool().expect("a mark"),
            instances,
        }
    }

    /// Applies the answer to a resumption that was recovered. If no change was missed the mark may
    /// still have changed; else the next frame has it.
    pub fn resumed(&mut self, answer: &Value) {
        assert_eq!(answer["epoch"], self.epoch.as_str(), "{answer}");
        if answer["revision"] == self.revision {
            self.degraded = answer["degraded"].as_bool().expect("a mark");
        }
    }

    /// Applies a pushed frame.
    pub fn apply(&mut self, frame: &Value) {
        assert_eq!(frame["service_id"], self.service.as_str(), "{}", brief(frame));
        match frame["type"].as_str() {
            Some("service_change") => self.apply_change(frame),
            Some("service_snapshot") => {
                let snapshot = Picture::of_subscribed(frame);
                // Another epoch is another count: nodes that lost their log begin one.
                let is_later = snapshot.epoch != self.epoch || snapshot.revision >= self.revision;
                assert!(is_later, "back in time: {}", brief(frame));
                *self = snapshot;
            }
            _ => panic!("not about a service: {}", brief(frame)),
        }
    }

    fn apply_change(&mut self, frame: &Value) {
        assert_eq!(frame["epoch"], self.epoch.as_str(), "{}", brief(frame));
        assert_eq!(frame["from"], self.revision, "a gap or a double: {}", brief(frame));
        let changes = frame["changes"].as_array().expect("changes");
        for change in changes {
            let (id, instance) = (identity(&change["instance"]), change["instance"].clone());
            let before = match change["changeType"].as_str() {
                Some("delete") => self.instances.remove(&id),
                _ => self.instances.insert(id, instance),
            };
            let is_new = change["changeType"] == "new";
            assert_eq!(before.is_none(), is_new, "does not fit what was: {}", brief(change));
            assert_is_time(&change["changeTime"]);
        }
        self.revision += changes.len() as u64;
        assert_eq!(frame["revision"], self.revision, "{}", brief(frame));
        self.degraded = frame["degraded"].as_bool().expect("a mark");
    }

    /// Checks that the picture is the registry's present state.
    pub fn expect_equals_registry(&self, server: &Server) {
        let registry = Picture::of_discovered(&server.discover(&self.service));
        let head = |of: &Picture| (of.epoch.clone(), of.revision, of.degraded, of.instances.len());
        assert_eq!(head(self), head(&registry));
        let differs = |(id, one): &(&String, &Value)| registry.instances.get(*id) != Some(*one);
        let wrong = self.instances.iter().find(differs);
        assert_eq!(wrong, None, "the registry knows it otherwise, or not at all");
    }

    /// The instances' names.
    pub fn names(&self) -> Vec<&str> {
        self.instances.values().filter_map(|instance| instance["instanceId"].as_str()).collect()
    }
}

/// The beginning of a frame, for a message.
pub(crate) fn brief(frame: &Value) -> String {
    let text = frame.to_string();
    let end = text.char_indices().nth(600).map_or(text.len(), |(end, _)| end);
    text[..end].to_owned()
}

/// The identity of an instance: region, service and instance, in any case.
fn identity(instance: &Value) -> String {
    let part = |field: &str| instance[field].as_str().unwrap_or_default().to_ascii_lowercase();
    format!("{}/{}/{}", part("regionId"), part("serviceId"), part("instanceId"))
}
