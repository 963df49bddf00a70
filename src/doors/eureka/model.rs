//! An instance in Eureka's fields, and the conversion from and to our own [`Instance`].
//!
//! Fields that [`Instance`] has are stored there, so that every client sees them. The other fields are
//! stored in its metadata under one key, which is hidden from Eureka's clients. docs/eureka.md has
//! the table.
//!
//! # Promises
//!
//! * A client reads back its registration, except for the server's decisions: times, a lease out of
//!   bounds, and the status of an instance that is pulled out.
//! * Every instance can be described to Eureka's clients, through whichever door it was registered.
//!
//! Imports `limits`, `state` and `wire`. Part of `doors::eureka`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::limits;
use crate::state::registry::listing::{ListedInstance, Step};
use crate::wire::instance::{Instance, Status};

/// The metadata key of the hidden fields. XML cannot carry such a name, so no client has a key of
/// its own with that name.
pub(super) const HIDDEN_KEY: &str = "$eureka";

/// The class of a data center that is not a cloud's.
const OWN_DATA_CENTER: &str = "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo";

/// Lease and heartbeat of an instance that states none, in seconds: Eureka's own.
const DURATION_S: u64 = 90;
const RENEWAL_S: u64 = 30;

/// A status as Eureka spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum EurekaStatus {
    Up,
    Down,
    Starting,
    OutOfService,
    Unknown,
}

impl EurekaStatus {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            EurekaStatus::Up => "UP",
            EurekaStatus::Down => "DOWN",
            EurekaStatus::Starting => "STARTING",
            EurekaStatus::OutOfService => "OUT_OF_SERVICE",
            EurekaStatus::Unknown => "UNKNOWN",
        }
    }

    /// Reads a status, in any case of letters.
    pub(super) fn read(text: &str) -> Option<EurekaStatus> {
        [
            EurekaStatus::Up,
            EurekaStatus::Down,
            EurekaStatus::Starting,
            EurekaStatus::OutOfService,
            EurekaStatus::Unknown,
        ]
        .into_iter()
        .find(|word| word.as_str().eq_ignore_ascii_case(text))
    }

    /// Our own status. `OUT_OF_SERVICE` has none: such an instance is pulled out.
    pub(super) const fn status(self) -> Status {
        match self {
            EurekaStatus::Up | EurekaStatus::OutOfService => Status::Up,
            EurekaStatus::Down => Status::Down,
            EurekaStatus::Starting => Status::Starting,
            EurekaStatus::Unknown => Status::Unknown,
        }
    }

    pub(super) const fn of(status: Status) -> EurekaStatus {
        match status {
            Status::Up => EurekaStatus::Up,
            Status::Down | Status::Unhealthy => EurekaStatus::Down,
            Status::Starting => EurekaStatus::Starting,
            Status::Unknown => EurekaStatus::Unknown,
        }
    }
}

/// The kind of a change, as Eureka spells it.
pub(super) const fn action(step: Step) -> &'static str {
    match step {
        Step::Added => "ADDED",
        Step::Modified => "MODIFIED",
        Step::Deleted => "DELETED",
    }
}

/// A port, and whether it is enabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Port {
    pub(super) number: u16,
    pub(super) enabled: bool,
}

/// The data center of an instance.
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

/// An instance as a client registers it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct EurekaRegistration {
    pub(super) instance_id: String,
    pub(super) app: String,
    pub(super) app_group: Option<String>,
    pub(super) host_name: String,
    pub(super) ip_addr: String,
    pub(super) status: Option<EurekaStatus>,
    pub(super) overridden: Option<EurekaStatus>,
    pub(super) port: Option<Port>,
    pub(super) secure_port: Option<Port>,
    pub(super) data_center: DataCenter,
    pub(super) renewal_s: Option<u64>,
    pub(super) duration_s: Option<u64>,
    pub(super) metadata: Vec<(String, String)>,
    pub(super) home_page_url: Option<String>,
    pub(super) health_check_url: Option<String>,
    pub(super) dirty_ms: Option<u64>,
    pub(super) rest: ExtraFields,
}

/// Eureka's fields without a counterpart in [`Instance`], under Eureka's names.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ExtraFields {
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

/// The metadata that is stored under [`HIDDEN_KEY`].
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct HiddenMetadata {
    #[serde(flatten)]
    rest: ExtraFields,
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
    /// The status that the instance reports, while an override shows another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    reported_status: Option<Status>,
    /// Whether the instance reports itself as out of service.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    reported_out: bool,
}

/// The name of `HiddenMetadata::reported_status`.
const REPORTED_STATUS: &str = "reportedStatus";

impl HiddenMetadata {
    fn of(instance: &Instance) -> HiddenMetadata {
        let kept = instance.metadata.as_ref().and_then(|metadata| metadata.get(HIDDEN_KEY));
        // Another client may have set this key to a value of another shape. It is ignored.
        kept.and_then(|kept| HiddenMetadata::deserialize(kept).ok()).unwrap_or_default()
    }
}

impl EurekaRegistration {
    /// Whether the instance takes itself out of service.
    pub(super) fn is_out(&self) -> bool {
        [self.status, self.overridden].contains(&Some(EurekaStatus::OutOfService))
    }

    /// Our own instance, in a region.
    pub(super) fn instance(&self, region: Option<Box<str>>) -> Instance {
        let boxed = |text: &Option<String>| text.as_deref().map(Box::from);
        let is_secure = self.secure_port.is_some_and(|port| port.enabled)
            && self.port.is_none_or(|port| !port.enabled);
        let called = if is_secure { self.secure_port } else { self.port };
        let duration_s = self.duration_s.unwrap_or(DURATION_S);
        let kept = HiddenMetadata {
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
            metadata.insert(HIDDEN_KEY.to_owned(), kept);
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
            status: self.status.unwrap_or(EurekaStatus::Up).status(),
            metadata: Some(metadata),
            lease_ttl_ms: Some(
                duration_s
                    .saturating_mul(1_000)
                    .clamp(limits::LEASE_TTL_MS_MIN, limits::LEASE_TTL_MS_MAX),
            ),
            weight: None,
        }
    }
}

fn filled(text: &str) -> Option<Box<str>> {
    Some(text).filter(|text| !text.is_empty()).map(Box::from)
}

/// `lastDirtyTimestamp`: when the client last changed the instance. None if it did not say.
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

/// An instance as Eureka's clients read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EurekaInstance {
    pub(super) instance_id: String,
    pub(super) host_name: String,
    pub(super) app: String,
    pub(super) app_group: Option<String>,
    pub(super) ip_addr: String,
    pub(super) status: EurekaStatus,
    pub(super) overridden: EurekaStatus,
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

impl EurekaInstance {
    /// Describes an instance to Eureka's clients.
    pub(super) fn of(entry: &ListedInstance) -> EurekaInstance {
        // The registry holds JSON that was written from the same type.
        let instance: Instance = serde_json::from_slice(&entry.json).unwrap_or_default();
        let kept = HiddenMetadata::of(&instance);
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
        let own = EurekaStatus::of(instance.status);
        let status = if entry.is_pulled_out { EurekaStatus::OutOfService } else { own };
        let (vip, secure_vip) = match (kept.rest.vip_address, kept.rest.secure_vip_address) {
            (None, None) => (service.to_ascii_lowercase(), service.to_ascii_lowercase()),
            (vip, secure_vip) => (vip.unwrap_or_default(), secure_vip.unwrap_or_default()),
        };
        let duration_s = entry.ttl_ms / 1_000;
        EurekaInstance {
            host_name: if host_name.is_empty() { text(&instance.instance_id) } else { host_name },
            instance_id: text(&instance.instance_id),
            app: service.to_ascii_uppercase(),
            app_group: instance.group_id.as_deref().map(str::to_ascii_uppercase),
            ip_addr: ip,
            status,
            overridden: if entry.is_pulled_out {
                EurekaStatus::OutOfService
            } else {
                EurekaStatus::Unknown
            },
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

/// The two ports, as they were sent; of an instance with one port only, that one.
fn ports(instance: &Instance, kept: &HiddenMetadata, is_https: bool) -> (Port, Port) {
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

/// Metadata as Eureka has it: texts. Other values are written as their JSON.
fn shown_metadata(instance: &Instance) -> Vec<(String, String)> {
    let metadata = instance.metadata.iter().flatten();
    let mut described: Vec<(String, String)> = metadata
        .filter(|(key, _)| *key != HIDDEN_KEY && !key.starts_with('@'))
        .map(|(key, value)| {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Null => String::new(),
                other => other.to_string(),
            };
            (key.clone(), text)
        })
        .collect();
    // Eureka's clients look for the zone in the metadata.
    let is_theirs = instance.metadata.as_ref().and_then(|metadata| metadata.get(HIDDEN_KEY));
    let is_theirs = is_theirs.is_some_and(|kept| {
        let kept = kept.as_object();
        !kept.is_some_and(|kept| kept.len() == 1 && kept.contains_key(REPORTED_STATUS))
    });
    if let Some(zone) = &instance.zone_id
        && !is_theirs
        && !described.iter().any(|(key, _)| key == "zone")
    {
        described.push((String::from("zone"), zone.to_string()));
    }
    described
}

/// The same instance with a status that overrides its own, which is kept for the end of the
/// override.
pub(super) fn with_override(mut instance: Instance, word: EurekaStatus) -> Instance {
    let reported = HiddenMetadata::of(&instance).reported_status.unwrap_or(instance.status);
    instance.status = word.status();
    let is_other = reported != instance.status;
    keep_reported(&mut instance, is_other.then_some(reported));
    instance
}

/// The instance after the end of an override.
#[derive(Debug)]
pub(super) enum AfterOverride {
    /// Nothing overrode its status.
    Same,
    /// An instance with the status that it reports.
    Status(Box<Instance>),
    /// The same, and the instance reports itself as out of service.
    Out(Box<Instance>),
}

/// The instance with its override ended.
pub(super) fn without_override(mut instance: Instance) -> AfterOverride {
    let HiddenMetadata { reported_status, reported_out, .. } = HiddenMetadata::of(&instance);
    if let Some(reported) = reported_status {
        instance.status = reported;
        keep_reported(&mut instance, None);
    }
    match (reported_status, reported_out) {
        (_, true) => AfterOverride::Out(Box::new(instance)),
        (Some(_), false) => AfterOverride::Status(Box::new(instance)),
        (None, false) => AfterOverride::Same,
    }
}

/// Stores the status that an instance reports while another one is described.
fn keep_reported(instance: &mut Instance, reported: Option<Status>) {
    let metadata = instance.metadata.get_or_insert_default();
    let kept = metadata.entry(HIDDEN_KEY.to_owned()).or_insert_with(|| Value::Object(Map::new()));
    // A value of another shape is another client's.
    if let Value::Object(kept) = kept {
        match reported.and_then(|status| serde_json::to_value(status).ok()) {
            Some(status) => _ = kept.insert(REPORTED_STATUS.to_owned(), status),
            None => _ = kept.remove(REPORTED_STATUS),
        }
        if kept.is_empty() {
            metadata.remove(HIDDEN_KEY);
        }
    }
    if metadata.is_empty() {
        instance.metadata = None;
    }
}

/// The instance with more metadata. Reserved keys are left out.
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
    key != HIDDEN_KEY
        && !key.is_empty()
        && !key.starts_with('@')
        && !key.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(instance: &Instance) -> ListedInstance {
        let registration = instance.register().expect("valid");
        ListedInstance {
            ttl_ms: registration.lease_ttl_ms.unwrap_or(20_000),
            json: registration.json,
            registered_ms: 1,
            changed_ms: 2,
            renewed_ms: 3,
            is_pulled_out: false,
        }
    }

    fn sent() -> EurekaRegistration {
        let own = |text: &str| Some(text.to_owned());
        EurekaRegistration {
            instance_id: String::from("Id:1"),
            app: String::from("Shop"),
            app_group: own("Group"),
            host_name: String::from("h"),
            ip_addr: String::from("10.0.0.1"),
            status: Some(EurekaStatus::Starting),
            overridden: Some(EurekaStatus::Unknown),
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
            rest: ExtraFields {
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
        let described = EurekaInstance::of(&entry(&instance));
        assert_eq!(
            (described.app.as_str(), described.app_group.as_deref()),
            ("SHOP", Some("GROUP"))
        );
        assert_eq!(
            (described.instance_id, described.host_name),
            (sent.instance_id, sent.host_name)
        );
        assert_eq!((described.ip_addr, Some(described.status)), (sent.ip_addr, sent.status));
        assert_eq!(
            (Some(described.port), Some(described.secure_port)),
            (sent.port, sent.secure_port)
        );
        assert_eq!((described.data_center, described.metadata), (sent.data_center, sent.metadata));
        assert_eq!((described.renewal_s, described.duration_s), (7, 21));
        assert_eq!(described.home_page_url, sent.home_page_url);
        assert_eq!(described.health_check_url, sent.health_check_url);
        assert_eq!(described.status_page_url, sent.rest.status_page_url);
        assert_eq!(described.secure_health_check_url, sent.rest.secure_health_check_url);
        assert_eq!((described.asg_name, described.sid), (sent.rest.asg_name, sent.rest.sid));
        assert_eq!(
            (described.vip_address.as_str(), described.secure_vip_address.as_str()),
            ("v", "")
        );
        assert_eq!((described.country_id, described.is_coordinating), (-3, true));
        assert_eq!(Some(described.dirty_ms), sent.dirty_ms);
        assert_eq!(dirty_ms(&entry(&instance).json), sent.dirty_ms);
        assert_eq!(
            (described.registered_ms, described.updated_ms, described.renewed_ms),
            (1, 2, 3)
        );
    }

    #[test]
    fn any_instance_has_a_description() {
        let bare = Instance {
            service_id: Some("S".into()),
            instance_id: Some("I".into()),
            zone_id: Some("z".into()),
            ..Instance::default()
        };
        let described = EurekaInstance::of(&entry(&bare));
        assert_eq!((described.host_name.as_str(), described.vip_address.as_str()), ("I", "s"));
        assert_eq!(described.metadata, [(String::from("zone"), String::from("z"))]);
        assert_eq!(described.port, Port { number: 0, enabled: false });
        assert_eq!((described.renewal_s, described.duration_s, described.dirty_ms), (6, 20, 2));
        // A value of another shape under our key counts as absent.
        for strange in [Value::from(7), serde_json::json!({"port": "x"}), Value::Null] {
            let metadata = Some(BTreeMap::from([(HIDDEN_KEY.to_owned(), strange)]));
            let described = EurekaInstance::of(&entry(&Instance { metadata, ..bare.clone() }));
            assert_eq!(described.country_id, 1);
            assert!(described.metadata.is_empty());
        }
    }

    #[test]
    fn words_and_statuses_become_one_another() {
        for (word, status) in [
            (EurekaStatus::Up, Status::Up),
            (EurekaStatus::Down, Status::Down),
            (EurekaStatus::Starting, Status::Starting),
            (EurekaStatus::Unknown, Status::Unknown),
        ] {
            assert_eq!((word.status(), EurekaStatus::of(status)), (status, word));
            assert_eq!(EurekaStatus::read(&word.as_str().to_lowercase()), Some(word));
        }
        assert_eq!(EurekaStatus::of(Status::Unhealthy), EurekaStatus::Down);
        assert_eq!(EurekaStatus::read("DANCING"), None);
        let out = EurekaRegistration { status: Some(EurekaStatus::OutOfService), ..sent() };
        assert!(
            out.is_out()
                && EurekaRegistration { overridden: Some(EurekaStatus::OutOfService), ..sent() }
                    .is_out()
        );
        assert!(!sent().is_out());
        let entry = ListedInstance { is_pulled_out: true, ..entry(&out.instance(None)) };
        let described = EurekaInstance::of(&entry);
        assert_eq!(
            (described.status, described.overridden),
            (EurekaStatus::OutOfService, EurekaStatus::OutOfService)
        );
    }

    #[test]
    fn a_port_that_changed_by_the_other_door_is_shown() {
        let mut instance = sent().instance(None);
        instance.port = Some(81);
        let described = EurekaInstance::of(&entry(&instance));
        assert_eq!(described.port, Port { number: 81, enabled: true });
        assert_eq!(described.secure_port, Port { number: 443, enabled: true });
        instance.protocol = Some("HTTPS".into());
        let described = EurekaInstance::of(&entry(&instance));
        assert_eq!(described.secure_port, Port { number: 81, enabled: true });
    }
}
