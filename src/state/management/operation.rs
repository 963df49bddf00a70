//! An operation: its target, who decided it, and the row that stands for it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::id::{InstanceIdentity, UserId};
use crate::limits;

/// What an operation is about, as its caller spelled it. Keys compare without case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// One instance.
    Instance {
        /// Its region; empty where it has none.
        region: Box<str>,
        /// Its service.
        service: Box<str>,
        /// Its id.
        instance: Box<str>,
    },
    /// All instances of a region with one address.
    Server {
        /// The region; empty where the instances have none.
        region: Box<str>,
        /// The address, as the instances' `ip` has it.
        server: Box<str>,
    },
    /// All instances of a service in one zone.
    Zone {
        /// The region; empty where the instances have none.
        region: Box<str>,
        /// The service.
        service: Box<str>,
        /// The zone.
        zone: Box<str>,
    },
    /// All instances of a group.
    Group {
        /// The group's region; empty where it has none.
        region: Box<str>,
        /// Its service.
        service: Box<str>,
        /// Its id, as a decimal text.
        group: Box<str>,
    },
}

/// The kinds of targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetKind {
    /// See [`Target::Instance`].
    Instance,
    /// See [`Target::Server`].
    Server,
    /// See [`Target::Zone`].
    Zone,
    /// See [`Target::Group`].
    Group,
}

impl TargetKind {
    /// Its word in the audit log.
    pub const fn as_str(self) -> &'static str {
        match self {
            TargetKind::Instance => "instance",
            TargetKind::Server => "server",
            TargetKind::Zone => "zone",
            TargetKind::Group => "group",
        }
    }
}

impl Target {
    /// Its kind and names in one text, the same for each spelling.
    pub(super) fn key(&self) -> String {
        match self {
            Target::Instance { region, service, instance } => {
                instance_key(&InstanceIdentity::of(region, service, instance))
            }
            Target::Server { region, server } => server_key(region, server),
            Target::Zone { region, service, zone } => zone_key(region, service, zone),
            Target::Group { group, .. } => format!("{GROUP}{group}"),
        }
    }

    /// Its kind.
    pub fn kind(&self) -> TargetKind {
        match self {
            Target::Instance { .. } => TargetKind::Instance,
            Target::Server { .. } => TargetKind::Server,
            Target::Zone { .. } => TargetKind::Zone,
            Target::Group { .. } => TargetKind::Group,
        }
    }

    /// Its region; empty where there is none.
    pub fn region(&self) -> &str {
        match self {
            Target::Instance { region, .. }
            | Target::Server { region, .. }
            | Target::Zone { region, .. }
            | Target::Group { region, .. } => region,
        }
    }

    /// Its service. A server has none.
    pub fn service(&self) -> Option<&str> {
        match self {
            Target::Instance { service, .. }
            | Target::Zone { service, .. }
            | Target::Group { service, .. } => Some(service),
            Target::Server { .. } => None,
        }
    }

    /// The last of its names: the instance's, the server's or the zone's, or the id of the group.
    pub fn name(&self) -> &str {
        match self {
            Target::Instance { instance: name, .. }
            | Target::Server { server: name, .. }
            | Target::Zone { zone: name, .. }
            | Target::Group { group: name, .. } => name,
        }
    }

    /// Its names, under Artemis' own.
    pub fn fields(&self) -> Map<String, Value> {
        let region = self.region();
        let fields = match self {
            Target::Instance { service, instance, .. } => {
                json!({"regionId": region, "serviceId": service, "instanceId": instance})
            }
            Target::Server { server, .. } => json!({"regionId": region, "serverId": server}),
            Target::Zone { service, zone, .. } => {
                json!({"regionId": region, "serviceId": service, "zoneId": zone})
            }
            Target::Group { group, .. } => json!({"groupId": group.parse::<u64>().ok()}),
        };
        match fields {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }

    pub(super) fn is_wide(&self) -> bool {
        self.kind() != TargetKind::Instance
    }
}

/// For people: the region, if there is one, and the other names, with slashes.
impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [self.region(), self.service().unwrap_or_default(), self.name()];
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        f.write_str(&parts.join("/"))
    }
}

pub(super) fn instance_key(identity: &InstanceIdentity) -> String {
    format!("i\u{1f}{}", identity.as_str())
}

pub(super) fn server_key(region: &str, server: &str) -> String {
    format!("s\u{1f}{region}\u{1f}{server}").to_ascii_lowercase()
}

const GROUP: &str = "g\u{1f}";

pub(super) fn group_key(id: u64) -> String {
    format!("{GROUP}{id}")
}

pub(super) fn zone_key(region: &str, service: &str, zone: &str) -> String {
    format!("z\u{1f}{region}\u{1f}{service}\u{1f}{zone}").to_ascii_lowercase()
}

/// Who decided, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecidedBy {
    /// The operator's name: any text that the caller gave.
    pub operator_id: Box<str>,
    /// The user of the token that came with the call; none where the server asks for no token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
    /// Why, in the caller's words.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub reason: Box<str>,
    /// More of the caller's words.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub extensions: Box<str>,
}

/// An operation that stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationRow {
    /// Its id, the same on all nodes.
    pub id: u64,
    /// What it is about.
    pub target: Target,
    /// The caller's word for it.
    pub operation: Box<str>,
    /// Who decided it last.
    pub by: DecidedBy,
    /// When it began, in milliseconds since the Unix epoch, by the deciding node's clock.
    pub created_ms: u64,
    /// When it was decided last.
    pub updated_ms: u64,
}

impl OperationRow {
    /// About how many bytes it takes.
    pub(super) fn bytes(&self) -> usize {
        let DecidedBy { operator_id, user, reason, extensions } = &self.by;
        let user = user.as_ref().map_or(0, |user| user.as_str().len());
        let names = self.target.region().len() + self.target.name().len();
        let names = names + self.target.service().map_or(0, str::len) + self.operation.len();
        // Names and operations stand in the index as well.
        let texts = operator_id.len() + reason.len() + extensions.len() + user;
        2 * names + texts + limits::MANAGEMENT_OVERHEAD_BYTES
    }
}

/// Which rows a reader wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationFilter {
    /// Of which kind.
    pub kind: TargetKind,
    /// Of which region; none = of all.
    pub region: Option<Box<str>>,
    /// Of which service; none = of all.
    pub service: Option<Box<str>>,
    /// Of which instance, server or zone; none = of all.
    pub name: Option<Box<str>>,
}

impl OperationFilter {
    /// All rows of a kind.
    pub fn all(kind: TargetKind) -> OperationFilter {
        OperationFilter { kind, region: None, service: None, name: None }
    }

    /// The rows of one target.
    pub fn of(target: &Target) -> OperationFilter {
        OperationFilter {
            kind: target.kind(),
            region: Some(target.region().into()),
            service: target.service().map(Into::into),
            name: Some(target.name().into()),
        }
    }

    /// Whether it lets the rows of a target through.
    pub fn takes(&self, target: &Target) -> bool {
        let is = |wanted: &Option<Box<str>>, has: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(has))
        };
        self.kind == target.kind()
            && is(&self.region, target.region())
            && is(&self.service, target.service().unwrap_or_default())
            && is(&self.name, target.name())
    }
}
