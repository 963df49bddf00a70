//! What really happened: every revision of every service, as control announced it.

use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::Value;

/// The instances of a service, by their ids.
pub type Picture = BTreeMap<String, Value>;

/// One service's revisions.
pub struct Service {
    /// The picture at each revision, from 0 on.
    pub pictures: Vec<Rc<Picture>>,
    /// The mark that was announced last.
    pub degraded: bool,
}

impl Default for Service {
    fn default() -> Service {
        Service { pictures: vec![Rc::default()], degraded: false }
    }
}

impl Service {
    pub fn revision(&self) -> u64 {
        self.pictures.len() as u64 - 1
    }
}

/// All services.
#[derive(Default)]
pub struct Oracle {
    services: BTreeMap<String, Service>,
}

impl Oracle {
    pub fn revision(&self, service: &str) -> u64 {
        self.services.get(service).map_or(0, Service::revision)
    }

    pub fn revisions(&self) -> BTreeMap<String, u64> {
        self.services.iter().map(|(name, service)| (name.clone(), service.revision())).collect()
    }

    pub fn degraded(&self, service: &str) -> bool {
        self.services.get(service).is_some_and(|service| service.degraded)
    }

    /// The picture at a revision. Panics where that revision was never announced.
    pub fn picture(&self, service: &str, revision: u64) -> Rc<Picture> {
        let Some(known) = self.services.get(service) else {
            assert_eq!(revision, 0, "{service} was never seen");
            return Rc::default();
        };
        let index = usize::try_from(revision).expect("small");
        Rc::clone(known.pictures.get(index).unwrap_or_else(|| {
            panic!("{service} is at {}, nobody can know {revision}", known.revision())
        }))
    }

    /// Takes a `service_change` in, straight from control.
    pub fn take(&mut self, frame: &Value) {
        let name = frame["service_id"].as_str().expect("a name");
        let service = self.services.entry(String::from(name)).or_default();
        assert_eq!(frame["from"], service.revision(), "control skips: {frame}");
        let changes = frame["changes"].as_array().expect("changes");
        for change in changes {
            let mut next = Picture::clone(service.pictures.last().expect("revision 0"));
            apply(&mut next, change);
            service.pictures.push(Rc::new(next));
        }
        assert_eq!(frame["revision"], service.revision(), "{frame}");
        let degraded = frame["degraded"].as_bool().expect("the mark");
        assert!(!changes.is_empty() || degraded != service.degraded, "nothing to say: {frame}");
        service.degraded = degraded;
    }
}

/// Applies one change as a strict client does.
pub fn apply(picture: &mut Picture, change: &Value) {
    let instance = &change["instance"];
    let id = instance["instanceId"].as_str().expect("an id").to_owned();
    let before = match change["changeType"].as_str() {
        Some("delete") => picture.remove(&id),
        _ => picture.insert(id, instance.clone()),
    };
    assert_eq!(change["changeType"] == "new", before.is_none(), "twice or out of order: {change}");
}

/// The picture in a frame's `instances`.
pub fn picture_of(instances: &Value) -> Picture {
    let instances = instances.as_array().expect("instances");
    let by_id = |instance: &Value| {
        (instance["instanceId"].as_str().expect("an id").to_owned(), instance.clone())
    };
    let picture: Picture = instances.iter().map(by_id).collect();
    assert_eq!(picture.len(), instances.len(), "an instance twice");
    picture
}
