//! What many nodes share: entries of one ordered log.
//!
//! Every node applies the same entries in the same order, and so comes to the same services, the
//! same revisions and the same epoch. What an entry does must therefore follow from the entry and
//! the state alone: never from the node's own clock or settings.
//!
//! Imports `id`, `limits` and `wire`. Imported by `state::replica`, `mailbox`, `cluster` and `control`.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::commons::Facts;
use super::order::Operation;
use super::pull_outs::Operator;
use super::roster::{Pull, Put};
use crate::id::{ChannelName, InstanceIdentity, ServiceName, UserId};
use crate::limits;
use crate::wire::instance::Registration;

/// The form of entries. A node that reads a newer one stops rather than guess.
pub const FORMAT: u32 = 1;

/// How much the registry may hold, as the deciding node is set: all come to the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// Instances.
    pub instances_max: usize,
    /// Services.
    pub services_max: usize,
    /// Bytes of all instances' JSON.
    #[serde(default = "unbounded")]
    pub instances_bytes_max: usize,
}

/// What entries of earlier releases let the registry hold, in bytes.
const fn unbounded() -> usize {
    usize::MAX
}

/// Something that one node decided and all do.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    /// Register instances, or renew their leases. Each has its lease set.
    Register(Vec<Registration>, Bounds),
    /// Renew leases that are not the node's own, or overdue: they are its own from here on.
    Renew(Vec<InstanceIdentity>),
    /// Register an instance with the one before in mind.
    Put(Put, Bounds),
    /// Renew one lease, and tell what the instance is.
    Beat(InstanceIdentity),
    /// Take over the leases of a node that is gone. Nothing is renewed by that.
    Adopt(Vec<InstanceIdentity>),
    /// Remove instances.
    Unregister(Vec<InstanceIdentity>),
    /// Leases that ran out, each with the number it had; void where it has another by now.
    Overdue(Vec<(InstanceIdentity, u64)>),
    /// Decide on the overdue leases of services.
    Judge {
        /// The services, each with the number of its watch; void where it has another by now.
        services: Vec<(ServiceName, u64)>,
        /// How long expiry may be held, as the deciding node is set.
        self_protection_max_ms: u64,
    },
    /// Forget services without instances, each with the revision it had; void where it has another
    /// by now. New services begin above all of these revisions.
    Forget(Vec<(ServiceName, u64)>),
    /// An operator's decision.
    Operate {
        /// The instance.
        identity: InstanceIdentity,
        /// What becomes of it.
        operation: Operation,
    },
    /// Allow self-protection, or lift it.
    Protect {
        /// The service.
        service: ServiceName,
        /// Whether it may be held.
        enabled: bool,
    },
    /// What a node tells of its people.
    Present(Facts),
    /// A node is gone, and its people with it.
    Farewell(String),
    /// Define a channel.
    Define {
        /// Its name.
        channel: ChannelName,
        /// What it is for.
        description: String,
    },
    /// A channel was deleted.
    Drop(ChannelName),
}

/// An entry in its place in the log.
#[derive(Debug, Clone, PartialEq)]
pub struct LogItem {
    /// The place, as the log's engine names it.
    pub position: String,
    /// Who decided.
    pub node: Arc<str>,
    /// The decision's number at that node, since its start.
    pub number: u64,
    /// When, in milliseconds since the Unix epoch, by that node's clock.
    pub at_ms: u64,
    /// What.
    pub entry: Entry,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Wire<'a> {
    Register {
        #[serde(borrow)]
        list: Vec<WireRegistration<'a>>,
        bounds: Bounds,
    },
    Renew(Vec<String>),
    Put {
        #[serde(borrow)]
        registration: WireRegistration<'a>,
        /// The JSON that it replaces.
        expected: Option<String>,
        pull: String,
        bounds: Bounds,
    },
    Beat(String),
    Adopt(Vec<String>),
    Unregister(Vec<String>),
    Overdue(Vec<(String, u64)>),
    Judge {
        services: Vec<(String, u64)>,
        self_protection_max_ms: u64,
    },
    Forget(Vec<(String, u64)>),
    Operate {
        identity: String,
        /// None puts it back.
        operator: Option<String>,
        /// The operator's user. Earlier releases know none, and read over it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<String>,
    },
    Protect {
        service: String,
        enabled: bool,
    },
    Present(Facts),
    Farewell(String),
    Define {
        channel: String,
        description: String,
    },
    Drop(String),
}

#[derive(Serialize, Deserialize)]
struct WireRegistration<'a> {
    id: String,
    service: String,
    ttl_ms: u64,
    #[serde(borrow)]
    instance: &'a RawValue,
}

fn texts(identities: &[InstanceIdentity]) -> Vec<String> {
    identities.iter().map(|identity| identity.as_str().to_owned()).collect()
}

fn identities(texts: &[String]) -> Vec<InstanceIdentity> {
    texts.iter().map(|text| InstanceIdentity::from_canonical(text)).collect()
}

fn registration(sent: &Registration) -> Option<WireRegistration<'_>> {
    Some(WireRegistration {
        id: sent.identity.as_str().to_owned(),
        service: sent.service.as_str().to_owned(),
        ttl_ms: sent.lease_ttl_ms.unwrap_or_default(),
        instance: serde_json::from_slice(&sent.json).ok()?,
    })
}

fn registered(sent: &WireRegistration<'_>) -> Result<Registration, String> {
    limits::check_counter("ttl_ms", sent.ttl_ms)?;
    Ok(Registration {
        identity: InstanceIdentity::from_canonical(&sent.id),
        service: ServiceName::of(&sent.service),
        lease_ttl_ms: Some(sent.ttl_ms),
        json: Bytes::copy_from_slice(sent.instance.get().as_bytes()),
    })
}

/// An entry as the log carries it. None where an instance's text is no JSON, which cannot be.
pub fn encode(entry: &Entry) -> Option<String> {
    let wire = match entry {
        Entry::Register(registrations, bounds) => Wire::Register {
            list: registrations.iter().map(registration).collect::<Option<_>>()?,
            bounds: *bounds,
        },
        Entry::Put(put, bounds) => Wire::Put {
            bounds: *bounds,
            registration: registration(&put.registration)?,
            expected: put.expected.as_ref().map(|json| String::from_utf8_lossy(json).into_owned()),
            pull: put.pull.as_str().to_owned(),
        },
        Entry::Beat(identity) => Wire::Beat(identity.as_str().to_owned()),
        Entry::Renew(list) => Wire::Renew(texts(list)),
        Entry::Adopt(list) => Wire::Adopt(texts(list)),
        Entry::Unregister(list) => Wire::Unregister(texts(list)),
        Entry::Overdue(list) => Wire::Overdue(
            list.iter().map(|(identity, lease)| (identity.as_str().to_owned(), *lease)).collect(),
        ),
        Entry::Judge { services, self_protection_max_ms } => Wire::Judge {
            services: services
                .iter()
                .map(|(name, watch)| (name.as_str().to_owned(), *watch))
                .collect(),
            self_protection_max_ms: *self_protection_max_ms,
        },
        Entry::Forget(services) => Wire::Forget(
            services.iter().map(|(name, revision)| (name.as_str().to_owned(), *revision)).collect(),
        ),
        Entry::Operate { identity, operation } => Wire::Operate {
            identity: identity.as_str().to_owned(),
            operator: match operation {
                Operation::PullOut { operator } => Some(operator.name.to_string()),
                Operation::PullIn => None,
            },
            user: match operation {
                Operation::PullOut { operator } => operator.user.as_ref().map(ToString::to_string),
                Operation::PullIn => None,
            },
        },
        Entry::Protect { service, enabled } => {
            Wire::Protect { service: service.as_str().to_owned(), enabled: *enabled }
        }
        Entry::Present(facts) => Wire::Present(facts.clone()),
        Entry::Farewell(node) => Wire::Farewell(node.clone()),
        Entry::Define { channel, description } => {
            Wire::Define { channel: channel.as_str().to_owned(), description: description.clone() }
        }
        Entry::Drop(channel) => Wire::Drop(channel.as_str().to_owned()),
    };
    serde_json::to_string(&wire).ok()
}

/// Reads what [`encode`] wrote.
///
/// # Errors
///
/// What is wrong with it.
pub fn decode(text: &str) -> Result<Entry, String> {
    let wire: Wire<'_> = serde_json::from_str(text).map_err(|fault| fault.to_string())?;
    Ok(match wire {
        Wire::Register { list, bounds } => {
            Entry::Register(list.iter().map(registered).collect::<Result<_, _>>()?, bounds)
        }
        Wire::Put { registration, expected, pull, bounds } => Entry::Put(
            Put {
                registration: registered(&registration)?,
                expected: expected.map(Bytes::from),
                pull: Pull::parse(&pull).ok_or_else(|| format!("{pull} is no pull"))?,
            },
            bounds,
        ),
        Wire::Beat(text) => Entry::Beat(InstanceIdentity::from_canonical(&text)),
        Wire::Renew(list) => Entry::Renew(identities(&list)),
        Wire::Adopt(list) => Entry::Adopt(identities(&list)),
        Wire::Unregister(list) => Entry::Unregister(identities(&list)),
        Wire::Overdue(list) => Entry::Overdue(
            list.iter()
                .map(|(text, lease)| (InstanceIdentity::from_canonical(text), *lease))
                .collect(),
        ),
        Wire::Judge { services, self_protection_max_ms } => {
            limits::check_counter("self_protection_max_ms", self_protection_max_ms)?;
            let services =
                services.iter().map(|(name, watch)| (ServiceName::of(name), *watch)).collect();
            Entry::Judge { services, self_protection_max_ms }
        }
        Wire::Forget(services) => {
            for (_, revision) in &services {
                limits::check_counter("revision", *revision)?;
            }
            let services = services.iter();
            Entry::Forget(
                services.map(|(name, revision)| (ServiceName::of(name), *revision)).collect(),
            )
        }
        Wire::Operate { identity, operator, user } => Entry::Operate {
            identity: InstanceIdentity::from_canonical(&identity),
            operation: match operator {
                Some(name) => Operation::PullOut {
                    operator: Operator {
                        user: user.as_deref().map(UserId::new),
                        name: name.into(),
                    },
                },
                None => Operation::PullIn,
            },
        },
        Wire::Protect { service, enabled } => {
            Entry::Protect { service: ServiceName::of(&service), enabled }
        }
        Wire::Present(facts) => Entry::Present(facts),
        Wire::Farewell(node) => Entry::Farewell(node),
        Wire::Define { channel, description } => {
            Entry::Define { channel: ChannelName::new(&channel), description }
        }
        Wire::Drop(channel) => Entry::Drop(ChannelName::new(&channel)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::instance::Instance;

    #[test]
    fn entries_survive_the_round_trip() {
        let mut instance: Instance =
            serde_json::from_str(r#"{"serviceId":"Pay","instanceId":"a","metadata":{"k":[1]}}"#)
                .expect("an instance");
        instance.lease_ttl_ms = Some(5_000);
        let sent = instance.register().expect("valid");
        let identity = sent.identity.clone();
        let bounds = Bounds { instances_max: 9, services_max: 3, instances_bytes_max: 900 };
        for entry in [
            Entry::Register(vec![sent.clone()], bounds),
            Entry::Put(Put { registration: sent, expected: None, pull: Pull::InIfItself }, bounds),
            Entry::Beat(identity.clone()),
            Entry::Renew(vec![identity.clone()]),
            Entry::Adopt(vec![identity.clone(), identity.clone()]),
            Entry::Unregister(Vec::new()),
            Entry::Overdue(vec![(identity.clone(), 7)]),
            Entry::Judge { services: vec![(ServiceName::of("pay"), 5)], self_protection_max_ms: 9 },
            Entry::Forget(vec![(ServiceName::of("pay"), 12)]),
            Entry::Operate {
                identity: identity.clone(),
                operation: Operation::PullOut { operator: "ops".into() },
            },
            Entry::Operate {
                identity: identity.clone(),
                operation: Operation::PullOut {
                    operator: Operator { user: Some(UserId::new("u")), name: "ops".into() },
                },
            },
            Entry::Operate { identity, operation: Operation::PullIn },
            Entry::Protect { service: ServiceName::of("pay"), enabled: false },
            Entry::Present(Facts {
                users: vec![("u".into(), "Ann".into(), 2, 5)],
                channels: vec![("c".into(), 3)],
                rooms: vec![("chat:r".into(), "u".into(), "Ann".into(), None)],
                known: vec!["v".into()],
            }),
            Entry::Farewell("n".into()),
            Entry::Define { channel: ChannelName::new("c"), description: "x".into() },
            Entry::Drop(ChannelName::new("c")),
        ] {
            let text = encode(&entry).expect("it can be written");
            assert_eq!(decode(&text), Ok(entry), "{text}");
        }
        let earlier = r#"{"register":{"list":[],"bounds":{"instances_max":1,"services_max":2}}}"#;
        let Ok(Entry::Register(_, bounds)) = decode(earlier) else {
            panic!("of no earlier release")
        };
        assert_eq!(bounds.instances_bytes_max, usize::MAX);
        assert!(decode("{\"future\":1}").is_err() && decode("").is_err());
    }

    #[test]
    fn counts_from_which_nobody_could_go_on_are_refused() {
        for text in [
            r#"{"forget":[["s",18446744073709551615]]}"#,
            r#"{"judge":{"services":[],"self_protection_max_ms":18446744073709551615}}"#,
            r#"{"register":{"list":[{"id":"i","service":"s","ttl_ms":9007199254740993,
                "instance":{}}],"bounds":{"instances_max":1,"services_max":2}}}"#,
        ] {
            let refused = decode(text).expect_err(text);
            assert!(refused.contains("out of range"), "{refused}");
        }
        assert!(decode(r#"{"forget":[["s",9007199254740992]]}"#).is_ok());
    }
}
