//! An instance as Eureka describes it, and how that and our own instance become one another.
//!
//! What [`Instance`] has a field for is kept there, so that everyone sees it; the rest rides along
//! in its metadata under one key of its own, which Eureka's clients are not shown. docs/eureka.md
//! has the table.
//!
//! # Promises
//!
//! * What a client registers, it is shown again, but for what the server itself decides: times, the
//!   lease where it is out of bounds, and the status of an instance that is pulled out.
//! * Any instance has a description, however it was registered.
//!
//! Imports `limits`, `state` and `wire`. Part of `http::eureka`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::limits;
use crate::state::roster::{Entry, Step};
use crate::wire::instance::{Instance, Status};

/// The key of an instance's metadata under which the rest is kept. It is no name that XML could
/// carry, so no client has one of its own that is called so.
pub(super) const KEPT: &str = "$eureka";

/// The class of a data center that is nobody's cloud.
const OWN_DATA_CENTER: &str = "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo";

/// Lease and heartbeat of an instance that states none, in seconds: Eureka's own.
const DURATION_S: u64 = 90;
const RENEWAL_S: u64 = 30;

/// A status in Eureka's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Word {
    Up,
    Down,
    Starting,
    OutOfService,
    Unknown,
}

impl Word {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Word::Up => "UP",
            Word::Down => "DOWN",
            Word::Starting => "STARTING",
            Word::OutOfService => "OUT_OF_SERVICE",
            Word::Unknown => "UNKNOWN",
        }
    }

    /// Reads a status, in whatever case.
    pub(super) fn read(text: &str) -> Option<Word> {
        [Word::Up, Word::Down, Word::Starting, Word::OutOfService, Word::Unknown]
            .into_iter()
            .find(|word| word.as_str().eq_ignore_ascii_case(text))
    }

    /// The status that our instance has. Being out of service is none: it is being pulled out.
    pub(super) const fn status(self) -> Status {
        match self {
            Word::Up | Word::OutOfService => Status::Up,
            Word::Down => Status::Down,
            Word::Starting => Status::Starting,
            Word::Unknown => Status::Unknown,
        }
    }

    pub(super) const fn of(status: Status) -> Word {
        match status {
            Status::Up => Word::Up,
            Status::Down | Status::Unhealthy => Word::Down,
            Status::Starting => Word::Starting,
            Status::Unknown => Word::Unknown,
        }
    }
}

/// What happened to an instance, in Eureka's words.
pub(super) const fn action(step: Step) -> &'static str {
    match step {
        Step::Added => "ADDED",
        Step::Modified => "MODIFIED",
        Step::Deleted => "DELETED",
    }
}

/// A port, and whether it is to be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Port {
    pub(super) number: u16,
    pub(super) enabled: bool,
}

/// Where an instance runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct DataCenter {
    pub(super) class: String,
    pub(super) name: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) metadata: Vec<(String, String)>,
}

impl Default for DataCenter {
    fn default() -> DataCenter {
        DataCenter {
            class: OWN_DATA_CENTER.to_owned(),
            name: String::from("MyOwn"),
            metadata: Vec::new(),
        }
    }
}

impl DataCenter {
    fn get(&self, key: &str) -> Option<&str> {
        let found = self.metadata.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str())
    }
}

/// What a client registers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Sent {
    pub(super) instance_id: String,
    pub(super) app: String,
    pub(super) app_group: Option<String>,
    pub(super) host_name: String,
    pub(super) ip_addr: String,
    pub(super) status: Option<Word>,
    pub(super) overridden: Option<Word>,
    pub(super) port: Option<Port>,
    pub(super) secure_port: Option<Port>,
    pub(super) data_center: DataCenter,
    pub(super) renewal_s: Option<u64>,
    pub(super) duration_s: Option<u64>,
    pub(super) metadata: Vec<(String, String)>,
    pub(super) home_page_url: Option<String>,
    pub(super) health_check_url: Option<String>,
    pub(super) dirty_ms: Option<u64>,
    pub(super) rest: Rest,
}

/// What our instance has no field for and Eureka's clients set, under their own names.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Rest {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) vip_address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) secure_vip_address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) status_page_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) secure_health_check_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) asg_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) country_id: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) is_coordinating_discovery_server: Option<bool>,
}

/// All of it that is kept under [`KEPT`].
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Kept {
    #[serde(flatten)]
    rest: Rest,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<Port>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secure_port: Option<Port>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_center_info: Option<DataCenter>,
    #[serde(skip_serializing_if = "Option::is_none")]
    renewal_interval_in_secs: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_dirty_timestamp: Option<u64>,
    /// What the instance reports of itself, while an override shows another status.
    #[serde(skip_serializing_if = "Option::is_none")]
    reported_status: Option<Status>,
    /// Whether the instance reports itself as out of service.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    reported_out: bool,
}

/// The name of `Kept::reported_status`.
const REPORTED_STATUS: &str = "reportedStatus";

impl Kept {
    fn of(instance: &Instance) -> Kept {
        let kept = instance.metadata.as_ref().and_then(|metadata| metadata.get(KEPT));
        // Whatever else stands there was put there by somebody else, and says nothing to us.
        kept.and_then(|kept| Kept::deserialize(kept).ok()).unwrap_or_default()
    }
}

impl Sent {
    /// Whether the instance takes itself out of service.
    pub(super) fn is_out(&self) -> bool {
        [self.status, self.overridden].contains(&Some(Word::OutOfService))
    }

    /// The instance that this describes, in a region.
    pub(super) fn instance(&self, region: Option<Box<str>>) -> Instance {
        let boxed = |text: &Option<String>| text.as_deref().map(Box::from);
        let is_secure = self.secure_port.is_some_and(|port| port.enabled)
            && self.port.is_none_or(|port| !port.enabled);
        let called = if is_secure { self.secure_port } else { self.port };
        let duration_s = self.duration_s.unwrap_or(DURATION_S);
        let kept = Kept {
            rest: self.rest.clone(),
            port: self.port,
            secure_port: self.secure_port,
            data_center_info: (self.data_center != DataCenter::default())
                .then(|| self.data_center.clone()),
            renewal_interval_in_secs: self.renewal_s,
            last_dirty_timestamp: self.dirty_ms,
            reported_status: None,
            reported_out: self.is_out(),
        };
        let mut metadata: BTreeMap<String, Value> = self
            .metadata
            .iter()
            .map(|(key, value)| (key.clone(), Value::from(value.as_str())))
            .collect();
        let zone = self
            .metadata
            .iter()
            .find(|(key, _)| key == "zone")
            .map(|(_, value)| value.as_str())
            .or_else(|| self.data_center.get("availability-zone"))
            .and_then(filled);
        if let Ok(kept) = serde_json::to_value(&kept) {
            metadata.insert(KEPT.to_owned(), kept);
        }
        Instance {
            region_id: region,
            zone_id: zone,
            group_id: boxed(&self.app_group),
            service_id: Some(self.app.to_ascii_lowercase().into()),
            instance_id: Some(self.instance_id.as_str().into()),
            machine_name: Some(self.host_name.as_str().into()),
            ip: filled(&self.ip_addr),
            port: called.map(|port| port.number),
            protocol: called.map(|_| Box::from(if is_secure { "https" } else { "http" })),
            url: boxed(&self.home_page_url),
            health_check_url: boxed(&self.health_check_url),
            status: self.status.unwrap_or(Word::Up).status(),
            metadata: Some(metadata),
            lease_ttl_ms: Some(
                duration_s
                    .saturating_mul(1_000)
                    .clamp(limits::LEASE_TTL_MS_MIN, limits::LEASE_TTL_MS_MAX),
            ),
        }
    }
}

fn filled(text: &str) -> Option<Box<str>> {
    Some(text).filter(|text| !text.is_empty()).map(Box::from)
}

/// When the client last changed an instance, where it said so.
pub(super) fn dirty_ms(json: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Only {
        metadata: Option<OnlyKept>,
    }
    #[derive(Deserialize)]
    struct OnlyKept {
        #[serde(rename = "$eureka")]
        kept: Option<OnlyDirty>,
    }
    #[derive(Deserialize)]
    struct OnlyDirty {
        #[serde(rename = "lastDirtyTimestamp")]
        dirty_ms: Option<u64>,
    }
    let only: Only = serde_json::from_slice(json).ok()?;
    only.metadata?.kept?.dirty_ms
}

/// What a client is shown of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) instance_id: String,
    pub(super) host_name: String,
    pub(super) app: String,
    pub(super) app_group: Option<String>,
    pub(super) ip_addr: String,
    pub(super) status: Word,
    pub(super) overridden: Word,
    pub(super) port: Port,
    pub(super) secure_port: Port,
    pub(super) country_id: i64,
    pub(super) data_center: DataCenter,
    pub(super) renewal_s: u64,
    pub(super) duration_s: u64,
    pub(super) registered_ms: u64,
    pub(super) renewed_ms: u64,
    pub(super) metadata: Vec<(String, String)>,
    pub(super) home_page_url: Option<String>,
    pub(super) status_page_url: Option<String>,
    pub(super) health_check_url: Option<String>,
    pub(super) secure_health_check_url: Option<String>,
    pub(super) vip_address: String,
    pub(super) secure_vip_address: String,
    pub(super) asg_name: Option<String>,
    pub(super) sid: Option<String>,
    pub(super) is_coordinating: bool,
    pub(super) updated_ms: u64,
    pub(super) dirty_ms: u64,
}

impl Shown {
    /// The description of an instance.
    pub(super) fn of(entry: &Entry) -> Shown {
        // What the registry holds has been through the same type before.
        let instance: Instance = serde_json::from_slice(&entry.json).unwrap_or_default();
        let kept = Kept::of(&instance);
        let text = |text: &Option<Box<str>>| text.as_deref().unwrap_or_default().to_owned();
        let full = |text: &Option<Box<str>>| text.as_deref().map(str::to_owned);
        let service = text(&instance.service_id);
        let is_https = instance.protocol.as_deref().is_some_and(|protocol| {
            protocol.eq_ignore_ascii_case("https") || protocol.eq_ignore_ascii_case("wss")
        });
        let (port, secure_port) = ports(&instance, &kept, is_https);
        let ip = text(&instance.ip);
        let host_name = match text(&instance.machine_name) {
            name if name.is_empty() => ip.clone(),
            name => name,
        };
        let own = Word::of(instance.status);
        let status = if entry.is_pulled_out { Word::OutOfService } else { own };
        let (vip, secure_vip) = match (kept.rest.vip_address, kept.rest.secure_vip_address) {
            (None, None) => (service.to_ascii_lowercase(), service.to_ascii_lowercase()),
            (vip, secure_vip) => (vip.unwrap_or_default(), secure_vip.unwrap_or_default()),
        };
        let duration_s = entry.ttl_ms / 1_000;
        Shown {
            host_name: if host_name.is_empty() { text(&instance.instance_id) } else { host_name },
            instance_id: text(&instance.instance_id),
            app: service.to_ascii_uppercase(),
            app_group: instance.group_id.as_deref().map(str::to_ascii_uppercase),
            ip_addr: ip,
            status,
            overridden: if entry.is_pulled_out { Word::OutOfService } else { Word::Unknown },
            port,
            secure_port,
            country_id: kept.rest.country_id.unwrap_or(1),
            data_center: kept.data_center_info.unwrap_or_default(),
            renewal_s: kept
                .renewal_interval_in_secs
                .unwrap_or(RENEWAL_S.min(duration_s / 3).max(1)),
            duration_s,
            registered_ms: entry.registered_ms,
            renewed_ms: entry.renewed_ms,
            metadata: shown_metadata(&instance),
            home_page_url: full(&instance.url),
            status_page_url: kept.rest.status_page_url,
            health_check_url: full(&instance.health_check_url),
            secure_health_check_url: kept.rest.secure_health_check_url,
            vip_address: vip,
            secure_vip_address: secure_vip,
            asg_name: kept.rest.asg_name,
            sid: kept.rest.sid,
            is_coordinating: kept.rest.is_coordinating_discovery_server.unwrap_or(false),
            updated_ms: entry.changed_ms,
            dirty_ms: kept.last_dirty_timestamp.unwrap_or(entry.changed_ms),
        }
    }
}

/// The two ports, as they were sent; of an instance that knows one only, that one.
fn ports(instance: &Instance, kept: &Kept, is_https: bool) -> (Port, Port) {
    let number = instance.port.unwrap_or(0);
    let has_port = instance.port.is_some();
    let plain = match kept.port {
        Some(port) if is_https || Some(port.number) == instance.port => port,
        _ if is_https => Port { number: 7_001, enabled: false },
        _ => Port { number, enabled: has_port },
    };
    let secure = match kept.secure_port {
        Some(port) if !is_https || Some(port.number) == instance.port => port,
        _ if is_https => Port { number, enabled: has_port },
        _ => Port { number: 7_002, enabled: false },
    };
    (plain, secure)
}

/// Metadata as Eureka has it: texts. What is none is shown as the JSON that it is.
fn shown_metadata(instance: &Instance) -> Vec<(String, String)> {
    let metadata = instance.metadata.iter().flatten();
    let mut shown: Vec<(String, String)> = metadata
        .filter(|(key, _)| *key != KEPT && !key.starts_with('@'))
        .map(|(key, value)| {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Null => String::new(),
                other => other.to_string(),
            };
            (key.clone(), text)
        })
        .collect();
    // A zone that an instance knows by its own field is where Eureka's clients look for it.
    let is_theirs = instance.metadata.as_ref().and_then(|metadata| metadata.get(KEPT));
    let is_theirs = is_theirs.is_some_and(|kept| {
        let kept = kept.as_object();
        !kept.is_some_and(|kept| kept.len() == 1 && kept.contains_key(REPORTED_STATUS))
    });
    if let Some(zone) = &instance.zone_id
        && !is_theirs
        && !shown.iter().any(|(key, _)| key == "zone")
    {
        shown.push((String::from("zone"), zone.to_string()));
    }
    shown
}

/// The same instance with a status that overrides its own, which is kept for when that ends.
pub(super) fn with_override(mut instance: Instance, word: Word) -> Instance {
    let reported = Kept::of(&instance).reported_status.unwrap_or(instance.status);
    instance.status = word.status();
    let is_other = reported != instance.status;
    keep_reported(&mut instance, is_other.then_some(reported));
    instance
}

/// What an override has to leave behind when it ends.
#[derive(Debug)]
pub(super) enum Reported {
    /// The instance as it is: nothing overrides its status.
    Same,
    /// The instance with the status that it reports.
    Status(Box<Instance>),
    /// The same, and it reports itself as out of service.
    Out(Box<Instance>),
}

/// The same instance with the status that it reports of itself.
pub(super) fn without_override(mut instance: Instance) -> Reported {
    let Kept { reported_status, reported_out, .. } = Kept::of(&instance);
    if let Some(reported) = reported_status {
        instance.status = reported;
        keep_reported(&mut instance, None);
    }
    match (reported_status, reported_out) {
        (_, true) => Reported::Out(Box::new(instance)),
        (Some(_), false) => Reported::Status(Box::new(instance)),
        (None, false) => Reported::Same,
    }
}

/// Notes the status that an instance reports of itself where another one is shown.
fn keep_reported(instance: &mut Instance, reported: Option<Status>) {
    let metadata = instance.metadata.get_or_insert_default();
    let kept = metadata.entry(KEPT.to_owned()).or_insert_with(|| Value::Object(Map::new()));
    // What is no object was put there by somebody else.
    if let Value::Object(kept) = kept {
        match reported.and_then(|status| serde_json::to_value(status).ok()) {
            Some(status) => _ = kept.insert(REPORTED_STATUS.to_owned(), status),
            None => _ = kept.remove(REPORTED_STATUS),
        }
        if kept.is_empty() {
            metadata.remove(KEPT);
        }
    }
    if metadata.is_empty() {
        instance.metadata = None;
    }
}

/// The same instance with more metadata. Names that are nobody's to set are left out.
pub(super) fn with_metadata(mut instance: Instance, pairs: Vec<(String, String)>) -> Instance {
    let metadata = instance.metadata.get_or_insert_default();
    for (key, value) in pairs {
        if key == "zone" {
            instance.zone_id = filled(&value);
        }
        if is_own_key(&key) {
            metadata.insert(key, Value::from(value));
        }
    }
    instance
}

/// Whether a client may set metadata of that name.
pub(super) fn is_own_key(key: &str) -> bool {
    key != KEPT && !key.is_empty() && !key.starts_with('@') && !key.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(instance: &Instance) -> Entry {
        let registration = instance.register().expect("valid");
        Entry {
            ttl_ms: registration.lease_ttl_ms.unwrap_or(20_000),
            json: registration.json,
            registered_ms: 1,
            changed_ms: 2,
            renewed_ms: 3,
            is_pulled_out: false,
        }
    }

    fn sent() -> Sent {
        let own = |text: &str| Some(text.to_owned());
        Sent {
            instance_id: String::from("Id:1"),
            app: String::from("Shop"),
            app_group: own("Group"),
            host_name: String::from("h"),
            ip_addr: String::from("10.0.0.1"),
            status: Some(Word::Starting),
            overridden: Some(Word::Unknown),
            port: Some(Port { number: 80, enabled: true }),
            secure_port: Some(Port { number: 443, enabled: true }),
            data_center: DataCenter {
                class: String::from("C"),
                name: String::from("Amazon"),
                metadata: vec![(String::from("availability-zone"), String::from("z1"))],
            },
            renewal_s: Some(7),
            duration_s: Some(21),
            metadata: vec![(String::from("k"), String::from("v"))],
            home_page_url: own("http://h/"),
            health_check_url: own("http://h/health"),
            dirty_ms: Some(1_795_218_115_911),
            rest: Rest {
                vip_address: own("v"),
                secure_vip_address: None,
                status_page_url: own("http://h/info"),
                secure_health_check_url: own("https://h/health"),
                asg_name: own("asg"),
                sid: own("s"),
                country_id: Some(-3),
                is_coordinating_discovery_server: Some(true),
            },
        }
    }

    #[test]
    fn what_is_sent_is_shown() {
        let sent = sent();
        let instance = sent.instance(None);
        assert_eq!(instance.service_id.as_deref(), Some("shop"));
        assert_eq!((instance.zone_id.as_deref(), instance.port), (Some("z1"), Some(80)));
        assert_eq!((instance.status, instance.lease_ttl_ms), (Status::Starting, Some(21_000)));
        let shown = Shown::of(&entry(&instance));
        assert_eq!((shown.app.as_str(), shown.app_group.as_deref()), ("SHOP", Some("GROUP")));
        assert_eq!((shown.instance_id, shown.host_name), (sent.instance_id, sent.host_name));
        assert_eq!((shown.ip_addr, Some(shown.status)), (sent.ip_addr, sent.status));
        assert_eq!((Some(shown.port), Some(shown.secure_port)), (sent.port, sent.secure_port));
        assert_eq!((shown.data_center, shown.metadata), (sent.data_center, sent.metadata));
        assert_eq!((shown.renewal_s, shown.duration_s), (7, 21));
        assert_eq!(shown.home_page_url, sent.home_page_url);
        assert_eq!(shown.health_check_url, sent.health_check_url);
        assert_eq!(shown.status_page_url, sent.rest.status_page_url);
        assert_eq!(shown.secure_health_check_url, sent.rest.secure_health_check_url);
        assert_eq!((shown.asg_name, shown.sid), (sent.rest.asg_name, sent.rest.sid));
        assert_eq!((shown.vip_address.as_str(), shown.secure_vip_address.as_str()), ("v", ""));
        assert_eq!((shown.country_id, shown.is_coordinating), (-3, true));
        assert_eq!(Some(shown.dirty_ms), sent.dirty_ms);
        assert_eq!(dirty_ms(&entry(&instance).json), sent.dirty_ms);
        assert_eq!((shown.registered_ms, shown.updated_ms, shown.renewed_ms), (1, 2, 3));
    }

    #[test]
    fn any_instance_has_a_description() {
        let bare = Instance {
            service_id: Some("S".into()),
            instance_id: Some("I".into()),
            zone_id: Some("z".into()),
            ..Instance::default()
        };
        let shown = Shown::of(&entry(&bare));
        assert_eq!((shown.host_name.as_str(), shown.vip_address.as_str()), ("I", "s"));
        assert_eq!(shown.metadata, [(String::from("zone"), String::from("z"))]);
        assert_eq!(shown.port, Port { number: 0, enabled: false });
        assert_eq!((shown.renewal_s, shown.duration_s, shown.dirty_ms), (6, 20, 2));
        // What stands under our key and is not ours is nothing.
        for strange in [Value::from(7), serde_json::json!({"port": "x"}), Value::Null] {
            let metadata = Some(BTreeMap::from([(KEPT.to_owned(), strange)]));
            let shown = Shown::of(&entry(&Instance { metadata, ..bare.clone() }));
            assert_eq!(shown.country_id, 1);
            assert!(shown.metadata.is_empty());
        }
    }

    #[test]
    fn words_and_statuses_become_one_another() {
        for (word, status) in [
            (Word::Up, Status::Up),
            (Word::Down, Status::Down),
            (Word::Starting, Status::Starting),
            (Word::Unknown, Status::Unknown),
        ] {
            assert_eq!((word.status(), Word::of(status)), (status, word));
            assert_eq!(Word::read(&word.as_str().to_lowercase()), Some(word));
        }
        assert_eq!(Word::of(Status::Unhealthy), Word::Down);
        assert_eq!(Word::read("DANCING"), None);
        let out = Sent { status: Some(Word::OutOfService), ..sent() };
        assert!(out.is_out() && Sent { overridden: Some(Word::OutOfService), ..sent() }.is_out());
        assert!(!sent().is_out());
        let entry = Entry { is_pulled_out: true, ..entry(&out.instance(None)) };
        let shown = Shown::of(&entry);
        assert_eq!((shown.status, shown.overridden), (Word::OutOfService, Word::OutOfService));
    }

    #[test]
    fn a_port_that_changed_by_the_other_door_is_shown() {
        let mut instance = sent().instance(None);
        instance.port = Some(81);
        let shown = Shown::of(&entry(&instance));
        assert_eq!(shown.port, Port { number: 81, enabled: true });
        assert_eq!(shown.secure_port, Port { number: 443, enabled: true });
        instance.protocol = Some("HTTPS".into());
        let shown = Shown::of(&entry(&instance));
        assert_eq!(shown.secure_port, Port { number: 81, enabled: true });
    }
}
