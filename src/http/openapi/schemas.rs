//! Schemas of the bodies (JSON Schema 2020-12, as in `OpenAPI` 3.1).
//!
//! Objects may grow fields: clients ignore those they do not know.
//!
//! Imports `limits`. Part of `http::openapi`.

#![allow(clippy::needless_pass_by_value, reason = "schemas are put together from fresh values")]

use serde_json::{Map, Value, json};

use crate::limits;

/// All schemas, by name. `codes` are those of problems.
pub(super) fn all(codes: &[&str]) -> Map<String, Value> {
    let mut schemas = Map::new();
    for group in [general(codes), registry(), artemis(), status(), people(), channels(), messages()]
    {
        if let Value::Object(group) = group {
            schemas.extend(group);
        }
    }
    schemas
}

fn one(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

fn many(items: Value) -> Value {
    json!({"type": "array", "items": items})
}

/// An object with only required fields.
fn object(fields: Value) -> Value {
    let required: Vec<String> =
        fields.as_object().map(|fields| fields.keys().cloned().collect()).unwrap_or_default();
    json!({"type": "object", "properties": fields, "required": required})
}

/// An object with some required fields.
fn with_optional(required: &[&str], fields: Value) -> Value {
    json!({"type": "object", "properties": fields, "required": required})
}

fn text() -> Value {
    json!({"type": "string"})
}

fn name() -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": limits::NAME_BYTES_MAX})
}

fn count() -> Value {
    json!({"type": "integer", "minimum": 0})
}

fn flag() -> Value {
    json!({"type": "boolean"})
}

fn time() -> Value {
    json!({"type": "string", "format": "date-time"})
}

fn or_null(kind: &str) -> Value {
    json!({"type": [kind, "null"]})
}

fn anything() -> Value {
    json!({"description": "any JSON"})
}

/// The names of targets of Artemis' operations.
fn key_fields() -> Value {
    json!({
        "regionId": text(), "serviceId": name(), "instanceId": name(), "serverId": name(),
        "zoneId": name(),
    })
}

fn texts() -> Value {
    json!({"type": "object", "additionalProperties": text()})
}

fn group() -> Value {
    with_optional(
        &[],
        json!({
            "groupId": or_null("integer"), "serviceId": or_null("string"),
            "regionId": or_null("string"), "zoneId": or_null("string"), "name": or_null("string"),
            "appId": or_null("string"), "description": or_null("string"),
            "status": or_null("string"), "metadata": {"type": ["object", "null"]},
        }),
    )
}

/// A group of a rule that is created.
fn weighed_group() -> Value {
    let mut group = group();
    group["properties"]["weight"] = or_null("integer");
    group
}

fn rule() -> Value {
    with_optional(
        &[],
        json!({
            "routeRuleId": or_null("integer"), "serviceId": or_null("string"),
            "name": or_null("string"), "description": or_null("string"),
            "status": or_null("string"), "strategy": or_null("string"),
        }),
    )
}

fn rule_group() -> Value {
    let number = || or_null("integer");
    with_optional(
        &[],
        json!({
            "routeRuleGroupId": number(), "routeRuleId": number(), "groupId": number(),
            "weight": number(), "unreleasedWeight": number(),
        }),
    )
}

fn operation_fields() -> Value {
    json!({
        "instanceKey": with_optional(&["serviceId", "instanceId"], key_fields()),
        "serverKey": with_optional(&["serverId"], key_fields()),
        "operation": {
            "type": "string", "description": "any word: a row stands for each until it is completed",
        },
        "operationComplete": {"type": "boolean", "description": "true ends the operation"},
        "operatorId": text(), "reason": text(), "extensions": text(),
    })
}

fn artemis() -> Value {
    let zone = || json!({"regionId": or_null("string"), "zoneId": or_null("string")});
    json!({
        "Zone": with_optional(&[], zone()),
        "NodesAnswer": with_optional(&["responseStatus"], json!({
            "nodes": many(object(json!({"zone": with_optional(&[], zone()), "url": text()}))),
            "responseStatus": one("ResponseStatus"),
        })),
        "OperationWish": with_optional(&["operation"], operation_fields()),
        "ZoneOperationsWish": with_optional(&["zoneOperationsList"], json!({
            "zoneOperationsList": many(with_optional(&["zoneKey", "operations"], json!({
                "zoneKey": with_optional(&["serviceId", "zoneId"], key_fields()),
                "operations": many(name()),
            }))),
            "operationComplete": flag(), "operatorId": text(), "reason": text(),
            "extensions": text(),
        })),
        "TargetWish": with_optional(&[], json!({
            "instanceKey": with_optional(&["serviceId", "instanceId"], key_fields()),
            "serverKey": with_optional(&["serverId"], key_fields()),
            "zoneKey": with_optional(&["serviceId", "zoneId"], key_fields()),
            "instance": anything(),
            "regionId": text(), "serviceId": text(), "zoneId": text(),
        })),
        "TargetOperations": with_optional(&["operations", "rows"], json!({
            "instanceKey": with_optional(&[], key_fields()),
            "serverKey": with_optional(&[], key_fields()),
            "zoneKey": with_optional(&[], key_fields()),
            "operations": many(text()),
            "rows": many(object(json!({
                "id": or_null("integer"), "operation": text(), "operatorId": text(),
                "userId": or_null("string"), "reason": text(), "extensions": text(),
                "createTime": or_null("integer"), "updateTime": or_null("integer"),
            }))),
        })),
        "OperationsAnswer": with_optional(&["responseStatus"], json!({
            "operations": one("TargetOperations"), "responseStatus": one("ResponseStatus"),
        })),
        "AllOperationsAnswer": with_optional(&["responseStatus"], json!({
            "allInstanceOperations": many(one("TargetOperations")),
            "allServerOperations": many(one("TargetOperations")),
            "allZoneOperations": many(one("TargetOperations")),
            "zoneOperationsList": many(one("TargetOperations")),
            "responseStatus": one("ResponseStatus"),
        })),
        "ItemsWish": with_optional(&[], json!({
            "groups": many(group()), "groupIds": many(count()),
            "groupTagsList": many(object(json!({"groupId": count(), "tags": texts()}))),
            "groupId": count(), "tag": text(), "value": text(),
            "groupInstances": many(object(json!({"groupId": count(), "instanceId": name()}))),
            "groupInstanceIds": many(count()),
            "serviceInstances": many(with_optional(&["serviceId", "instanceId"], key_fields())),
            "serviceInstanceIds": many(count()),
            "routeRules": many(rule()), "routeRuleIds": many(count()),
            "routeRuleGroups": many(rule_group()), "routeRuleGroupIds": many(count()),
            "operatorId": text(), "reason": text(), "extensions": text(),
        })),
        "RuleWish": with_optional(&["routeRule", "groups"], json!({
            "routeRule": rule(), "groups": many(weighed_group()),
            "operation": text(), "operatorId": text(), "reason": text(), "extensions": text(),
        })),
        "CanariesWish": with_optional(&["serviceId", "appId", "canaryIps"], json!({
            "serviceId": name(), "appId": name(), "canaryIps": many(name()), "regionId": text(),
            "operation": text(), "operatorId": text(), "reason": text(), "extensions": text(),
        })),
        "LogFilter": with_optional(&[], json!({
            "regionId": text(), "serviceId": text(), "instanceId": text(), "serverId": text(),
            "zoneId": text(), "groupId": count(), "routeRuleId": count(), "name": text(),
            "appId": text(), "operation": text(), "operatorId": text(), "complete": flag(),
            "before": count(),
        })),
        "LogsAnswer": with_optional(&["logs", "next", "responseStatus"], json!({
            "logs": many(anything()), "next": or_null("integer"),
            "responseStatus": one("ResponseStatus"),
        })),
        "ItemFilter": with_optional(&[], json!({
            "groupId": count(), "routeRuleId": count(), "routeRuleGroupId": count(),
            "serviceId": text(), "regionId": text(), "zoneId": text(), "name": text(),
            "appId": text(), "status": text(), "instanceId": text(),
        })),
        "ItemsAnswer": with_optional(&["responseStatus"], json!({
            "groups": many(group()), "groupTags": anything(), "allGroupTags": many(anything()),
            "groupInstances": many(anything()), "serviceInstances": many(anything()),
            "routeRules": many(rule()), "routeRuleGroups": many(rule_group()),
            "groupOperations": anything(), "allGroupOperations": many(anything()),
            "responseStatus": one("ResponseStatus"),
        })),
        "GroupOperationsWish": with_optional(&[], json!({
            "groupOperationsList": many(object(json!({
                "groupId": count(), "operations": many(name()),
            }))),
            "groupId": count(), "serviceId": name(), "regionId": text(), "zoneId": text(),
            "name": name(), "operation": name(), "operationComplete": flag(),
            "operatorId": text(), "reason": text(), "extensions": text(),
        })),
        "DownAnswer": with_optional(&["responseStatus"], json!({
            "down": flag(), "responseStatus": one("ResponseStatus"),
        })),
        "ArtemisSockets": object(json!({"registry": text(), "discovery": text()})),
        "Any": {"type": "object"},
    })
}

fn general(codes: &[&str]) -> Value {
    json!({
        "Problem": object(json!({
            "type": text(), "title": text(), "status": count(), "detail": text(),
            "code": {"type": "string", "enum": codes},
            "request_id": text(),
        })),
        "Text": text(),
        "Description": {"type": "object"},
        "ResponseStatus": object(json!({
            "status": {"type": "string", "enum": ["success", "partial_fail", "fail"]},
            "errorCode": {"type": "string", "enum": [
                "success", "bad-request", "data-not-found", "no-permission", "rate-limited",
                "internal-service-error",
            ]},
            "message": text(),
            "errorMessage": text(),
        })),
        "PlainAnswer": object(json!({"responseStatus": one("ResponseStatus")})),
    })
}

fn or_null_text() -> Value {
    json!({"type": ["string", "null"]})
}

fn instance_key() -> Value {
    json!({
        "regionId": {"type": ["string", "null"], "maxLength": limits::NAME_BYTES_MAX},
        "zoneId": or_null_text(), "serviceId": name(), "groupId": or_null_text(),
        "instanceId": name(),
    })
}

fn instance() -> Value {
    let mut instance = instance_key();
    for field in ["machineName", "ip", "protocol", "url", "healthCheckUrl"] {
        instance[field] = or_null_text();
    }
    instance["port"] = json!({"type": ["integer", "null"], "minimum": 0, "maximum": 65_535});
    instance["status"] = json!({
        "type": "string",
        "enum": ["starting", "up", "down", "unhealthy", "unknown"],
        "default": "up",
    });
    instance["metadata"] = or_null("object");
    instance["leaseTtlMs"] = json!({
        "type": ["integer", "null"],
        "minimum": limits::LEASE_TTL_MS_MIN,
        "maximum": limits::LEASE_TTL_MS_MAX,
    });
    instance["weight"] = json!({
        "type": ["integer", "null"],
        "minimum": 0,
        "maximum": limits::WEIGHT_MAX,
        "default": limits::WEIGHT_DEFAULT,
    });
    instance
}

fn registry() -> Value {
    let string = or_null_text;
    let named = |fields| with_optional(&["serviceId", "instanceId"], fields);
    let failed = |entry: &str| {
        many(object(json!({entry: anything(), "errorCode": text(), "errorMessage": text()})))
    };
    let config = || object(json!({"serviceId": name()}));
    let prefer = || {
        let mut prefer = or_null("object");
        prefer["properties"] = json!({
            "region": string(), "zone": string(),
            "min": {"type": ["integer", "null"], "minimum": 0, "maximum": u32::MAX},
        });
        prefer
    };
    let place = || json!({"regionId": string(), "zoneId": string(), "prefer": prefer()});
    let mut service_wish = place();
    service_wish["discoveryConfig"] = config();
    let mut lookup_wish = place();
    lookup_wish["discoveryConfigs"] = many(config());
    json!({
        "Instance": named(instance()),
        "InstanceKey": named(instance_key()),
        "Instances": object(json!({"instances": many(one("Instance"))})),
        "InstancesOrKeys": {
            "type": "object",
            "properties": {
                "instances": many(one("Instance")),
                "instanceKeys": many(one("InstanceKey")),
            },
            "anyOf": [{"required": ["instances"]}, {"required": ["instanceKeys"]}],
        },
        "RegisterAnswer": object(json!({
            "failedInstances": failed("instance"), "responseStatus": one("ResponseStatus"),
        })),
        "KeysAnswer": object(json!({
            "failedInstances": failed("instance"),
            "failedInstanceKeys": failed("instanceKey"),
            "responseStatus": one("ResponseStatus"),
        })),
        "Where": with_optional(&[], place()),
        "ServiceRequest": with_optional(&["discoveryConfig"], service_wish),
        "LookupRequest": with_optional(&["discoveryConfigs"], lookup_wish),
        "DeltaWish": object(json!({"version": count()})),
        "Service": object(json!({
            "serviceId": text(),
            "metadata": {"type": "object"},
            "instances": many(one("Instance")),
            "epoch": text(), "revision": count(), "degraded": flag(),
        })),
        "ServiceAnswer": with_optional(&["responseStatus"], json!({
            "service": one("Service"), "responseStatus": one("ResponseStatus"),
        })),
        "ServicesAnswer": with_optional(&["responseStatus"], json!({
            "services": many(one("Service")),
            "version": count(),
            "responseStatus": one("ResponseStatus"),
        })),
        "LookupAnswer": with_optional(&["responseStatus"], json!({
            "services": many(one("Service")), "responseStatus": one("ResponseStatus"),
        })),
        "InstanceChange": object(json!({
            "instance": one("Instance"),
            "changeType": {"type": "string", "enum": ["new", "change", "delete"]},
            "changeTime": time(),
            "reason": {"type": "string", "enum": [
                "register", "update", "unregister", "expired", "pull_out", "pull_in",
            ]},
        })),
        "DeltaAnswer": with_optional(&["responseStatus"], json!({
            "changes": {"type": "object", "additionalProperties": many(one("InstanceChange"))},
            "version": count(),
            "responseStatus": one("ResponseStatus"),
        })),
        "OperateWish": with_optional(&["instanceKey", "operation"], json!({
            "instanceKey": one("InstanceKey"),
            "operation": {"type": "string", "enum": ["pull-out", "pull-in"]},
            "operationComplete": {"type": "boolean", "description": "true ends a pull-out"},
            "operatorId": {
                "type": "string",
                "description": "kept beside the user of the token, who is the one that acted",
            },
        })),
        "ProtectWish": object(json!({"enabled": flag()})),
    })
}

/// Figures of the last seconds.
fn recent_figures(stats: &mut Map<String, Value>) {
    let quantiles = ["p50", "p90", "p99", "p999", "max", "count"];
    let latency = || object(quantiles.iter().map(|&name| (name.to_owned(), count())).collect());
    for (name, span, mut schema) in [
        ("fanout_latency_us", "60 s", latency()),
        ("fanout_latency_10s_us", "10 s", latency()),
        ("outbox_bytes_peak", "60 s", count()),
        ("outbox_bytes_peak_10s", "10 s", count()),
    ] {
        schema["description"] = format!("of the last {span}").into();
        stats.insert(name.to_owned(), schema);
    }
    stats.insert(String::from("scope"), json!({"type": "string", "enum": ["node", "cluster"]}));
}

fn status() -> Value {
    let node = || {
        json!({
            "node_id": text(), "status": text(), "version": text(), "uptime_s": count(),
            "shards": count(), "connections": count(), "services": count(), "instances": count(),
            "degraded_services": count(),
        })
    };
    let mut answering = node();
    answering["responseStatus"] = one("ResponseStatus");
    let check = || json!({"type": "string", "enum": ["up", "down"]});
    let numbers = |names: &[&str]| -> Map<String, Value> {
        names.iter().map(|&name| (name.to_owned(), count())).collect()
    };
    let mut stats = numbers(&[
        "connections",
        "users_online",
        "subscriptions",
        "topics",
        "events_total",
        "deliveries_total",
        "delivered_bytes_total",
        "slow_readers_total",
        "uptime_s",
        "memory_rss_bytes",
        "timestamp_ms",
        "services",
        "instances",
        "degraded_services",
    ]);
    recent_figures(&mut stats);
    let shard = numbers(&[
        "shard",
        "connections",
        "subscriptions",
        "topics",
        "events_total",
        "deliveries_total",
        "writes_total",
        "turns_total",
        "outbox_bytes_peak",
        "outbox_bytes_peak_10s",
        "slow_collapsed_total",
        "slow_closed_total",
    ]);
    // Of one node its shards, of all nodes each node.
    let of_all: Vec<String> = stats.keys().cloned().collect();
    let of_all: Vec<&str> = of_all.iter().map(String::as_str).collect();
    stats.insert(String::from("shards"), many(object(Value::Object(shard))));
    let mut of_node = stats.clone();
    of_node.remove("shards");
    of_node.insert(String::from("node_id"), text());
    stats.insert(String::from("nodes"), many(object(Value::Object(of_node))));
    let milliseconds = || json!({"type": ["integer", "null"]});
    json!({
        "Health": object(json!({"status": {"type": "string", "const": "up"}})),
        "Readiness": object(json!({
            "status": text(),
            "checks": object(json!({"storage": check(), "cluster": check(), "shards": check()})),
        })),
        "Node": object(answering),
        "Cluster": object(json!({
            "nodes": many(object(node())), "responseStatus": one("ResponseStatus"),
        })),
        "InstanceLease": object(json!({
            "instance": one("Instance"),
            "lease_ttl_ms": count(),
            "age_ms": count(),
            "expires_in_ms": {"type": "integer"},
            "pulled_out": flag(),
            "pulled_out_by": {
                "type": ["object", "null"],
                "properties": {
                    "user_id": {
                        "type": ["string", "null"],
                        "description": "the user of the token that the call showed",
                    },
                    "operator_id": {"type": "string", "description": "as the caller wrote it"},
                    "itself": {"type": "boolean", "description": "true: the instance itself"},
                },
            },
        })),
        "Leases": with_optional(&["responseStatus"], json!({
            "services": many(with_optional(&["service_id", "leases"], json!({
                "service_id": text(), "leases": count(), "overdue": count(),
                "pulled_out": count(), "degraded": flag(), "self_protection_enabled": flag(),
                "next_expiry_ms": milliseconds(),
                "instances": many(one("InstanceLease")),
            }))),
            "responseStatus": one("ResponseStatus"),
        })),
        "Settings": {"type": "object"},
        "Stats": with_optional(&of_all, Value::Object(stats)),
    })
}

fn people() -> Value {
    let ids = || many(text());
    let envelope = || json!({"message_type": name(), "data": anything()});
    let mut broadcast = envelope();
    broadcast["only_to"] = ids();
    broadcast["exclude"] = ids();
    broadcast["to_channel"] = name();
    let mut send = envelope();
    send["to_user_id"] = name();
    let username =
        || json!({"type": "string", "minLength": 1, "maxLength": limits::NAME_BYTES_MAX});
    json!({
        "AccountWish": with_optional(&["username", "password"], json!({
            "username": username(),
            "password": {"type": "string", "minLength": 8, "format": "password"},
            "email": {"type": ["string", "null"], "format": "email"},
        })),
        "Account": object(json!({"user_id": text(), "username": text()})),
        "LogoutRequest": with_optional(&["all"], json!({"all": flag()})),
        "RemovalRequest": with_optional(&[], json!({"password": text()})),
        "PasswordChange": object(json!({
            "old": text(),
            "new": {"type": "string", "minLength": 8, "maxLength": 1024},
        })),
        "LoginWish": object(json!({"username": text(), "password": text()})),
        "LoginAnswer": object(json!({"token": text(), "user_id": text(), "expires_at": time()})),
        "Online": object(json!({
            "count": count(),
            "users": many(object(json!({
                "user_id": text(), "username": text(), "connections": count(),
                "connected_at": time(),
            }))),
        })),
        "EnvelopeWish": with_optional(&["message_type"], envelope()),
        "BroadcastWish": with_optional(&["message_type"], broadcast),
        "SendWish": with_optional(&["message_type", "to_user_id"], send),
        "Delivered": object(json!({"delivered_to": count(), "id": text()})),
        "Connection": with_optional(
            &["connection_id", "user_id", "username", "remote_addr", "connected_at", "shard",
                "channels", "rooms"],
            json!({
                "connection_id": text(), "user_id": or_null("string"), "username": or_null("string"),
                "remote_addr": or_null("string"), "connected_at": time(), "shard": count(),
                "channels": many(text()), "rooms": many(text()), "metadata": {"type": "object"},
            }),
        ),
        "ConnectionMetadata": {"type": "object"},
        "Event": with_optional(&["id", "at", "node", "kind", "actor"], json!({
            "id": count(), "at": text(), "node": text(), "kind": text(),
            "service_id": text(), "region_id": text(), "instance_id": text(), "reason": text(),
            "actor": with_optional(&["door"], json!({
                "user_id": text(), "address": text(), "door": text(),
            })),
            "detail": {"type": "object"},
        })),
        "Events": object(json!({
            "events": many(one("Event")), "next": or_null("integer"), "last": count(),
        })),
        "ServiceSummary": object(json!({
            "service_id": text(), "from": text(), "to": text(), "complete": flag(),
            "registrations": count(), "expiries": count(), "flaps": count(),
            "longest_absence_ms": count(),
            "instances": many(with_optional(
                &["instance_id", "registrations", "expiries", "flaps", "longest_absence_ms", "gone_since"],
                json!({
                    "instance_id": text(), "region_id": text(), "registrations": count(),
                    "expiries": count(), "flaps": count(), "longest_absence_ms": count(),
                    "gone_since": or_null("string"),
                }),
            )),
        })),
        "Connections": object(json!({
            "connections": many(one("Connection")), "total": count(), "next": or_null("string"),
        })),
    })
}

fn channels() -> Value {
    let user = || object(json!({"user_id": text(), "username": text()}));
    json!({
        "ChannelWish": with_optional(&["name"], json!({
            "name": name(),
            "description": {"type": ["string", "null"], "maxLength": limits::DESCRIPTION_BYTES_MAX},
        })),
        "Channel": with_optional(&["name", "description", "subscribers", "defined"], json!({
            "name": text(), "description": text(), "subscribers": count(), "defined": flag(),
            "epoch": text(), "offset": count(), "users": many(user()),
        })),
        "Channels": object(json!({"channels": many(one("Channel"))})),
        "PublishWish": with_optional(&["payload"], json!({
            "type": {"type": "string", "enum": ["text", "json", "event", "system"]},
            "payload": anything(),
            "event": name(),
            "metadata": {"type": "object"},
            "only_to": many(text()),
            "exclude": many(text()),
        })),
        "LiveWish": with_optional(&["action"], json!({
            "action": {"type": "string", "enum": ["created", "updated", "deleted"]},
            "data": anything(),
        })),
        "Figures": {"type": "object"},
        "Published": object(json!({
            "channel": text(), "epoch": text(),
            "offset": {"type": ["integer", "null"]},
            "message_id": text(), "delivered_to": count(),
        })),
        "ChannelMessage": with_optional(&["type", "channel", "message_id", "timestamp"], json!({
            "type": text(), "channel": text(), "message_id": text(), "offset": count(),
            "payload": anything(), "event": text(), "metadata": {"type": "object"},
            "from_user_id": text(), "timestamp": time(),
        })),
        "History": object(json!({"epoch": text(), "messages": many(one("ChannelMessage"))})),
    })
}

fn messages() -> Value {
    let content = || json!({"type": "string", "minLength": 1, "maxLength": limits::MESSAGE_CONTENT_BYTES_MAX});
    let seconds = || json!({"type": "integer", "description": "seconds since the Unix epoch"});
    let group =
        || json!({"group_id": text(), "name": text(), "owner": text(), "created_at": time()});
    let mut whole = group();
    whole["members"] = many(text());
    whole["invited"] = many(text());
    let invitation = object(json!({
        "group_id": text(), "name": text(), "owner": text(), "invited_by": text(),
        "invited_at": time(),
    }));
    let required = ["type", "id", "from_user_id", "content", "created_at"];
    json!({
        "MessageRequest": object(json!({"to_user_id": name(), "content": content()})),
        "ContentWish": object(json!({"content": content()})),
        "Stored": object(json!({"id": text(), "created_at": seconds()})),
        "Message": with_optional(&required, json!({
            "type": {"type": "string", "enum": ["private", "group"]},
            "id": text(), "from_user_id": text(), "to_user_id": text(), "group_id": text(),
            "content": text(), "created_at": seconds(),
        })),
        "Messages": object(json!({"messages": many(one("Message")), "next": or_null("string")})),
        "GroupRequest": with_optional(&["name"], json!({"name": name(), "members": many(name())})),
        "GroupId": object(json!({"group_id": text()})),
        "Groups": object(json!({
            "groups": many(object(group())), "invitations": many(invitation),
        })),
        "Group": object(whole),
        "MemberRequest": object(json!({"user_id": name()})),
        "Membership": object(json!({
            "group_id": text(), "user_id": text(),
            "state": {"type": "string", "enum": ["member", "invited"]},
        })),
    })
}
