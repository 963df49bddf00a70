//! The operations, as the description lists them.
//!
//! Imports nothing of the crate. Part of `http::openapi`.

/// One method at one path.
pub(super) struct Operation {
    pub(super) method: &'static str,
    /// With `{places}`.
    pub(super) path: &'static str,
    pub(super) tag: &'static str,
    /// The name in generated clients.
    pub(super) id: &'static str,
    pub(super) summary: &'static str,
    /// More, if the summary is not enough.
    pub(super) note: &'static str,
    pub(super) query: &'static [Query],
    /// The schema of the request body.
    pub(super) body: Option<&'static str>,
    /// Its own answers: statuses, and the schemas of their bodies.
    pub(super) answers: &'static [(u16, Option<&'static str>)],
    /// The scope, if it is a door's call, which the table of routes does not have.
    pub(super) door_scope: Option<&'static str>,
}

/// A parameter of the query; none of them is required.
pub(super) struct Query {
    pub(super) name: &'static str,
    pub(super) text: &'static str,
    /// Of a whole number; none for text.
    pub(super) bounds: Option<(u64, u64)>,
}

/// The groups, in the order in which they are shown.
pub(super) const TAGS: &[(&str, &str)] = &[
    ("Registry", "Register instances, renew their leases, remove them."),
    ("Discovery", "The instances of services."),
    ("Management", "Operators' decisions."),
    ("Status", "The state of the server and its settings."),
    ("Artemis", "Calls of Artemis' clients beside those of registry and discovery."),
    ("Accounts", "Users with a password."),
    ("Sockets", "Connections, online users, and envelopes to them."),
    ("Channels", "Topics of messages, with a history for clients that come back."),
    ("Messages", "Direct and group messages, stored before they are acknowledged."),
];

const fn text(name: &'static str, text: &'static str) -> Query {
    Query { name, text, bounds: None }
}

const fn number(name: &'static str, text: &'static str, min: u64, max: u64) -> Query {
    Query { name, text, bounds: Some((min, max)) }
}

const REGION: Query = text("region", "Instances of this region stand first");
const ZONE: Query = text("zone", "Instances of this zone stand first");
const ENOUGH: Query = number(
    "min",
    "While fewer are up nearby, those further away are given too",
    0,
    u32::MAX as u64,
);

impl Operation {
    const fn new(
        method: &'static str,
        path: &'static str,
        (tag, id): (&'static str, &'static str),
        summary: &'static str,
        answers: &'static [(u16, Option<&'static str>)],
    ) -> Operation {
        Operation {
            method,
            path,
            tag,
            id,
            summary,
            note: "",
            query: &[],
            body: None,
            answers,
            door_scope: None,
        }
    }

    const fn of_door(mut self, scope: &'static str) -> Operation {
        self.door_scope = Some(scope);
        self
    }

    const fn takes(mut self, body: &'static str) -> Operation {
        self.body = Some(body);
        self
    }

    const fn asks(mut self, query: &'static [Query]) -> Operation {
        self.query = query;
        self
    }

    const fn note(mut self, note: &'static str) -> Operation {
        self.note = note;
        self
    }
}

/// All of them.
pub(super) const OPERATIONS: &[Operation] = &[
    Operation::new(
        "POST",
        "/api/cluster/up-registry-nodes.json",
        ("Artemis", "upRegistryNodes"),
        "The nodes that take registrations",
        &[(200, Some("NodesAnswer"))],
    )
    .of_door("registry:read")
    .takes("Zone"),
    Operation::new(
        "POST",
        "/api/cluster/up-discovery-nodes.json",
        ("Artemis", "upDiscoveryNodes"),
        "The nodes that answer discovery",
        &[(200, Some("NodesAnswer"))],
    )
    .of_door("registry:read")
    .takes("Zone"),
    Operation::new(
        "POST",
        "/api/status/deployment.json",
        ("Artemis", "deploymentByPost"),
        "Where this node runs",
        &[(200, Some("Any"))],
    )
    .of_door(""),
    Operation::new(
        "POST",
        "/api/status/legacy-leases.json",
        ("Artemis", "legacyLeasesByPost"),
        "Leases of an older Artemis: none",
        &[(200, Some("Any"))],
    )
    .of_door("registry:read"),
    Operation::new(
        "POST",
        "/api/status/message/connections.json",
        ("Artemis", "artemisConnectionsByPost"),
        "The numbers of sockets of Artemis clients",
        &[(200, Some("ArtemisSockets"))],
    )
    .of_door(""),
    Operation::new(
        "POST",
        "/api/status/websocket/connection.json",
        ("Artemis", "artemisConnectionsV2ByPost"),
        "The same, as version 2 asks",
        &[(200, Some("ArtemisSockets"))],
    )
    .of_door(""),
    Operation::new(
        "GET",
        "/api/status/deployment.json",
        ("Artemis", "deployment"),
        "Where this node runs",
        &[(200, Some("Any"))],
    )
    .of_door(""),
    Operation::new(
        "GET",
        "/api/status/legacy-leases.json",
        ("Artemis", "legacyLeases"),
        "Leases of an older Artemis: none",
        &[(200, Some("Any"))],
    )
    .of_door("registry:read"),
    Operation::new(
        "GET",
        "/api/status/message/connections.json",
        ("Artemis", "artemisConnections"),
        "The numbers of sockets of Artemis clients",
        &[(200, Some("ArtemisSockets"))],
    )
    .of_door(""),
    Operation::new(
        "GET",
        "/api/status/websocket/connection.json",
        ("Artemis", "artemisConnectionsV2"),
        "The same, as version 2 asks",
        &[(200, Some("ArtemisSockets"))],
    )
    .of_door(""),
    Operation::new(
        "POST",
        "/api/registry/register.json",
        ("Registry", "register"),
        "Register instances, or renew their leases",
        &[(200, Some("RegisterAnswer"))],
    )
    .takes("Instances"),
    Operation::new(
        "POST",
        "/api/registry/heartbeat.json",
        ("Registry", "heartbeat"),
        "Renew the leases of instances",
        &[(200, Some("KeysAnswer"))],
    )
    .takes("InstancesOrKeys"),
    Operation::new(
        "POST",
        "/api/registry/unregister.json",
        ("Registry", "unregister"),
        "Remove instances",
        &[(200, Some("KeysAnswer"))],
    )
    .takes("InstancesOrKeys"),
    Operation::new(
        "GET",
        "/api/discovery/service.json",
        ("Discovery", "service"),
        "The instances of a service",
        &[(200, Some("ServiceAnswer"))],
    )
    .asks(&[text("serviceId", "The service"), REGION, ZONE, ENOUGH]),
    Operation::new(
        "POST",
        "/api/discovery/service.json",
        ("Discovery", "serviceByBody"),
        "The instances of a service",
        &[(200, Some("ServiceAnswer"))],
    )
    .takes("ServiceRequest"),
    Operation::new(
        "GET",
        "/api/discovery/services.json",
        ("Discovery", "services"),
        "The instances of all services",
        &[(200, Some("ServicesAnswer"))],
    )
    .asks(&[REGION, ZONE, ENOUGH]),
    Operation::new(
        "POST",
        "/api/discovery/services.json",
        ("Discovery", "servicesByBody"),
        "The instances of all services",
        &[(200, Some("ServicesAnswer"))],
    )
    .takes("Where"),
    Operation::new(
        "POST",
        "/api/discovery/lookup.json",
        ("Discovery", "lookup"),
        "The instances of some services",
        &[(200, Some("LookupAnswer"))],
    )
    .takes("LookupRequest"),
    Operation::new(
        "POST",
        "/api/discovery/services-delta.json",
        ("Discovery", "servicesDelta"),
        "The changes since a version",
        &[(200, Some("DeltaAnswer"))],
    )
    .takes("DeltaWish"),
    Operation::new(
        "POST",
        "/api/management/instance/operate-instance.json",
        ("Management", "operateInstance"),
        "Take an instance out of discovery, or put it back",
        &[(200, Some("PlainAnswer"))],
    )
    .takes("OperateWish"),
    Operation::new(
        "POST",
        "/api/management/operate-instance.json",
        ("Artemis", "artemisOperateInstance"),
        "Begin or complete an operation on an instance",
        &[(200, Some("PlainAnswer"))],
    )
    .of_door("registry:write")
    .takes("OperationWish"),
    Operation::new(
        "POST",
        "/api/management/operate-server.json",
        ("Artemis", "operateServer"),
        "Begin or complete an operation on all instances of an address",
        &[(200, Some("PlainAnswer"))],
    )
    .of_door("registry:write")
    .takes("OperationWish"),
    Operation::new(
        "POST",
        "/api/management/zone/operate-zone-operations.json",
        ("Artemis", "operateZones"),
        "Begin or complete operations on zones of services",
        &[(200, Some("PlainAnswer"))],
    )
    .of_door("registry:write")
    .takes("ZoneOperationsWish"),
    Operation::new(
        "POST",
        "/api/management/instance-operations.json",
        ("Artemis", "instanceOperations"),
        "The operations on an instance",
        &[(200, Some("OperationsAnswer"))],
    )
    .of_door("registry:read")
    .takes("TargetWish"),
    Operation::new(
        "POST",
        "/api/management/server-operations.json",
        ("Artemis", "serverOperations"),
        "The operations on a server",
        &[(200, Some("OperationsAnswer"))],
    )
    .of_door("registry:read")
    .takes("TargetWish"),
    Operation::new(
        "POST",
        "/api/management/zone/get-zone-operations.json",
        ("Artemis", "zoneOperations"),
        "The operations on a zone",
        &[(200, Some("OperationsAnswer"))],
    )
    .of_door("registry:read")
    .takes("TargetWish"),
    Operation::new(
        "GET",
        "/api/management/all-instance-operations.json",
        ("Artemis", "allInstanceOperations"),
        "All operations on instances",
        &[(200, Some("AllOperationsAnswer"))],
    )
    .of_door("registry:read"),
    Operation::new(
        "POST",
        "/api/management/all-instance-operations.json",
        ("Artemis", "allInstanceOperationsByPost"),
        "All operations on instances",
        &[(200, Some("AllOperationsAnswer"))],
    )
    .of_door("registry:read")
    .takes("TargetWish"),
    Operation::new(
        "GET",
        "/api/management/all-server-operations.json",
        ("Artemis", "allServerOperations"),
        "All operations on servers",
        &[(200, Some("AllOperationsAnswer"))],
    )
    .of_door("registry:read"),
    Operation::new(
        "POST",
        "/api/management/all-server-operations.json",
        ("Artemis", "allServerOperationsByPost"),
        "All operations on servers",
        &[(200, Some("AllOperationsAnswer"))],
    )
    .of_door("registry:read")
    .takes("TargetWish"),
    Operation::new(
        "GET",
        "/api/management/zone/get-all-zone-operations.json",
        ("Artemis", "allZoneOperations"),
        "All operations on zones",
        &[(200, Some("AllOperationsAnswer"))],
    )
    .of_door("registry:read"),
    Operation::new(
        "POST",
        "/api/management/zone/get-all-zone-operations.json",
        ("Artemis", "allZoneOperationsByPost"),
        "All operations on zones",
        &[(200, Some("AllOperationsAnswer"))],
    )
    .of_door("registry:read")
    .takes("TargetWish"),
    Operation::new(
        "POST",
        "/api/management/zone/get-zone-operations-list.json",
        ("Artemis", "zoneOperationsList"),
        "The operations on some zones",
        &[(200, Some("AllOperationsAnswer"))],
    )
    .of_door("registry:read")
    .takes("TargetWish"),
    Operation::new(
        "POST",
        "/api/management/instance-down.json",
        ("Artemis", "instanceDown"),
        "Whether an instance is out of discovery",
        &[(200, Some("DownAnswer"))],
    )
    .of_door("registry:read")
    .takes("TargetWish"),
    Operation::new(
        "POST",
        "/api/management/server-down.json",
        ("Artemis", "serverDown"),
        "Whether an operation stands on a server",
        &[(200, Some("DownAnswer"))],
    )
    .of_door("registry:read")
    .takes("TargetWish"),
    Operation::new(
        "POST",
        "/api/management/zone/is-zone-down.json",
        ("Artemis", "zoneDown"),
        "Whether an operation stands on a zone",
        &[(200, Some("DownAnswer"))],
    )
    .of_door("registry:read")
    .takes("TargetWish"),
    Operation::new(
        "GET",
        "/api/management/services.json",
        ("Artemis", "managedServices"),
        "All services with all instances, those out of discovery too",
        &[(200, Some("ServicesAnswer"))],
    )
    .of_door("registry:read"),
    Operation::new(
        "POST",
        "/api/management/services.json",
        ("Artemis", "managedServicesByPost"),
        "All services with all instances, those out of discovery too",
        &[(200, Some("ServicesAnswer"))],
    )
    .of_door("registry:read")
    .takes("TargetWish"),
    Operation::new(
        "POST",
        "/api/management/service.json",
        ("Artemis", "managedService"),
        "A service with all instances, those out of discovery too",
        &[(200, Some("ServiceAnswer"))],
    )
    .of_door("registry:read")
    .takes("TargetWish"),
    Operation::new(
        "POST",
        "/api/management/log/instance-operation-logs.json",
        ("Artemis", "instanceOperationLogs"),
        "What operators did to instances",
        &[(200, Some("LogsAnswer"))],
    )
    .of_door("audit:read")
    .takes("LogFilter"),
    Operation::new(
        "POST",
        "/api/management/log/server-operation-logs.json",
        ("Artemis", "serverOperationLogs"),
        "What operators did to servers",
        &[(200, Some("LogsAnswer"))],
    )
    .of_door("audit:read")
    .takes("LogFilter"),
    Operation::new(
        "POST",
        "/api/management/log/zone-operation-logs.json",
        ("Artemis", "zoneOperationLogs"),
        "What operators did to zones",
        &[(200, Some("LogsAnswer"))],
    )
    .of_door("audit:read")
    .takes("LogFilter"),
    Operation::new(
        "POST",
        "/api/management/log/group-operation-logs.json",
        ("Artemis", "groupOperationLogs"),
        "What operators did to groups",
        &[(200, Some("LogsAnswer"))],
    )
    .of_door("audit:read")
    .takes("LogFilter"),
    Operation::new(
        "POST",
        "/api/management/log/group-logs.json",
        ("Artemis", "groupLogs"),
        "How groups changed",
        &[(200, Some("LogsAnswer"))],
    )
    .of_door("audit:read")
    .takes("LogFilter"),
    Operation::new(
        "POST",
        "/api/management/log/group-instance-logs.json",
        ("Artemis", "groupInstanceLogs"),
        "How instances listed in groups changed",
        &[(200, Some("LogsAnswer"))],
    )
    .of_door("audit:read")
    .takes("LogFilter"),
    Operation::new(
        "POST",
        "/api/management/log/service-instance-logs.json",
        ("Artemis", "serviceInstanceLogs"),
        "How described instances changed",
        &[(200, Some("LogsAnswer"))],
    )
    .of_door("audit:read")
    .takes("LogFilter"),
    Operation::new(
        "POST",
        "/api/management/log/route-rule-logs.json",
        ("Artemis", "routeRuleLogs"),
        "How route rules changed",
        &[(200, Some("LogsAnswer"))],
    )
    .of_door("audit:read")
    .takes("LogFilter"),
    Operation::new(
        "POST",
        "/api/management/log/route-rule-group-logs.json",
        ("Artemis", "routeRuleGroupLogs"),
        "How the groups of route rules changed",
        &[(200, Some("LogsAnswer"))],
    )
    .of_door("audit:read")
    .takes("LogFilter"),
    Operation::new(
        "POST",
        "/api/management/group/create-route-rule.json",
        ("Artemis", "createRouteRule"),
        "Create a route rule with its groups",
        &[(200, Some("PlainAnswer"))],
    )
    .of_door("registry:write")
    .takes("RuleWish"),
    Operation::new(
        "POST",
        "/api/management/canary/update-canary-ips.json",
        ("Artemis", "updateCanaryIps"),
        "Name the instances that are an application's canaries",
        &[(200, Some("PlainAnswer"))],
    )
    .of_door("registry:write")
    .takes("CanariesWish"),
    Operation::new(
        "POST",
        "/api/management/group/insert-groups.json",
        ("Artemis", "insertGroups"),
        "Insert groups",
        &[(200, Some("PlainAnswer"))],
    )
    .of_door("registry:write")
    .takes("ItemsWish"),
    Operation::new(
        "POST",
        "/api/management/group/update-groups.json",
        ("Artemis", "updateGroups"),
        "Update groups",
        &[(200, Some("PlainAnswer"))],
    )
    .of_door("registry:write")
    .takes("ItemsWish"),
    Operation::new(
        "POST",
        "/api/management/group/delete-groups.json",
        ("Artemis", "deleteGroups"),
        "Delete groups",
        &[(200, Some("PlainAnswer"))],
    )
    .of_door("registry:write")
    .takes("ItemsWish"),
    Operation::new(
        "POST",
        "/api/management/group/get-groups.json",
        ("Artemis", "getGroups"),
        "Read some groups",
        &[(200, Some("ItemsAnswer"))],
    )
    .of_door("registry:read")
    .takes("ItemFilter"),
    Operation::new(
        "GET",
        "/api/management/group/get-all-groups.json",
        ("Artemis", "getAllGroups"),
        "Read all groups",
        &[(200, Some("ItemsAnswer"))],
    )
    .of_door("registry:read"),
    Operation::new(
        "POST",
        "/api/management/group/get-all-groups.json",
        ("Artemis", "getAllGroupsByPost"),
        "Read all groups",
        &[(200, Some("ItemsAnswer"))],
    )
    .of_door("registry:read")
    .takes("ItemFilter"),
    Operation::new(
        "POST",
        "/api/management/group/insert-group-tags.json",
        ("Artemis", "insertGroupTags"),
        "Insert tags of groups",
        &[(200, Some("PlainAnswer"))],
    )
    .of_door("registry:write")
    .takes("ItemsWish"),
    Operation::new(
        "POST",
        "/api/management/group/update-group-tags.json",
        ("Artemis", "updateGroupTags"),
        "Update tags of groups",
        &[(200, Some("PlainAnswer"))],
    )
    .of_door("registry:write")
    .takes("ItemsWish"),
    Operation::new(
        "POST",
        "/api/management/group/delete-group-tags.json",
        ("Artemis", "deleteGroupTags"),
        "Delete tags of groups",
        &[(200, Some("PlainAnswer"))],
    )
    .of_door("registry:write")
    .takes("ItemsWish"),
    Operation::new(
        "POST",
        "/api/management/group/get-group-tags.json",
        ("Artemis", "getGroupTags"),
        "Read some tags of groups",
        &[(200, Some("ItemsAnswer"))],
    )
    .of_door("registry:read")
    .takes("ItemFilter"),
    Operation::new(
        "GET",
        "/api/management/group/get-all-group-tags.json",
        ("Artemis", "getAllGroupTags"),
        "Read all tags of groups",
        &[(200, Some("ItemsAnswer"))],
    )
    .of_door("registry:read"),
    Operation::new(
        "POST",
        "/api/management/group/get-all-group-tags.json",
        ("Artemis", "getAllGroupTagsByPost"),
        "Read all tags of groups",
        &[(200, Some("ItemsAnswer"))],
    )
    .of_door("registry:read")
    .takes("ItemFilter"),
    Operation::new(
        "POST",
        "/api/management/group/insert-group-instances.json",
        ("Artemis", "insertGroupInstances"),
        "Insert instances that groups list",
        &[(200, Some("PlainAnswer"))],
    )
    .of_door("registry:write")
    .takes("ItemsWish"),
    Operation::new(
        "POST",
        "/api/management/group/delete-group-instances.json",
        ("Artemis", "deleteGroupInstances"),
        "Delete instances that groups list",
        &[(200, Some("PlainAnswer"))],
    )
    .of_door("registry:write")
    .takes("ItemsWish"),
    Operation::new(
        "POST",
        "/api/management/group/get-group-instances.json",
        ("Artemis", "getGroupInstances"),
        "Read some instances that groups list",
        &[(200, Some("ItemsAnswer"))],
    )
    .of_door("registry:read")
    .takes("ItemFilter"),
    Operation::new(
        "POST",
        "/api/management/group/insert-service-instances.json",
        ("Artemis", "insertServiceInstances"),
        "Insert instances that operators describe",
        &[(200, Some("PlainAnswer"))],
    )
    .of_door("registry:write")
    .takes("ItemsWish"),
    Operation::new(
        "POST",
        "/api/management/group/delete-service-instances.json",
        ("Artemis", "deleteServiceInstances"),
        "Delete instances that operators describe",
        &[(200, Some("PlainAnswer"))],
    )
    .of_door("registry:write")
    .takes("ItemsWish"),
    Operation::new(
        "POST",
        "/api/management/group/get-service-instances.json",
        ("Artemis", "getServiceInstances"),
        "Read some instances that operators describe",
        &[(200, Some("ItemsAnswer"))],
    )
    .of_door("registry:read")
    .takes("ItemFilter"),
    Operation::new(
        "POST",
        "/api/management/group/operate-group-operations.json",
        ("Artemis", "operateGroupOperations"),
        "Begin or complete operations on groups",
        &[(200, Some("PlainAnswer"))],
    )
    .of_door("registry:write")
    .takes("GroupOperationsWish"),
    Operation::new(
        "POST",
        "/api/management/group/operate-group-operation.json",
        ("Artemis", "operateGroupOperation"),
        "Begin or complete an operation on a group, by its id or its names",
        &[(200, Some("PlainAnswer"))],
    )
    .of_door("registry:write")
    .takes("GroupOperationsWish"),
    Operation::new(
        "POST",
        "/api/management/group/get-group-operations.json",
        ("Artemis", "getGroupOperations"),
        "The operations on a group",
        &[(200, Some("ItemsAnswer"))],
    )
    .of_door("registry:read")
    .takes("ItemFilter"),
    Operation::new(
        "GET",
        "/api/management/group/get-all-group-operations.json",
        ("Artemis", "getAllGroupOperations"),
        "All operations on groups",
        &[(200, Some("ItemsAnswer"))],
    )
    .of_door("registry:read"),
    Operation::new(
        "POST",
        "/api/management/group/get-all-group-operations.json",
        ("Artemis", "getAllGroupOperationsByPost"),
        "All operations on groups",
        &[(200, Some("ItemsAnswer"))],
    )
    .of_door("registry:read")
    .takes("ItemFilter"),
    Operation::new(
        "POST",
        "/api/management/group/insert-route-rules.json",
        ("Artemis", "insertRouteRules"),
        "Insert route rules",
        &[(200, Some("PlainAnswer"))],
    )
    .of_door("registry:write")
    .takes("ItemsWish"),
    Operation::new(
        "POST",
        "/api/management/group/update-route-rules.json",
        ("Artemis", "updateRouteRules"),
        "Update route rules",
        &[(200, Some("PlainAnswer"))],
    )
    .of_door("registry:write")
    .takes("ItemsWish"),
    Operation::new(
        "POST",
        "/api/management/group/delete-route-rules.json",
        ("Artemis", "deleteRouteRules"),
        "Delete route rules",
        &[(200, Some("PlainAnswer"))],
    )
    .of_door("registry:write")
    .takes("ItemsWish"),
    Operation::new(
        "POST",
        "/api/management/group/get-route-rules.json",
        ("Artemis", "getRouteRules"),
        "Read some route rules",
        &[(200, Some("ItemsAnswer"))],
    )
    .of_door("registry:read")
    .takes("ItemFilter"),
    Operation::new(
        "GET",
        "/api/management/group/get-all-route-rules.json",
        ("Artemis", "getAllRouteRules"),
        "Read all route rules",
        &[(200, Some("ItemsAnswer"))],
    )
    .of_door("registry:read"),
    Operation::new(
        "POST",
        "/api/management/group/get-all-route-rules.json",
        ("Artemis", "getAllRouteRulesByPost"),
        "Read all route rules",
        &[(200, Some("ItemsAnswer"))],
    )
    .of_door("registry:read")
    .takes("ItemFilter"),
    Operation::new(
        "POST",
        "/api/management/group/insert-route-rule-groups.json",
        ("Artemis", "insertRouteRuleGroups"),
        "Insert groups of route rules",
        &[(200, Some("PlainAnswer"))],
    )
    .of_door("registry:write")
    .takes("ItemsWish"),
    Operation::new(
        "POST",
        "/api/management/group/update-route-rule-groups.json",
        ("Artemis", "updateRouteRuleGroups"),
        "Update groups of route rules",
        &[(200, Some("PlainAnswer"))],
    )
    .of_door("registry:write")
    .takes("ItemsWish"),
    Operation::new(
        "POST",
        "/api/management/group/delete-route-rule-groups.json",
        ("Artemis", "deleteRouteRuleGroups"),
        "Delete groups of route rules",
        &[(200, Some("PlainAnswer"))],
    )
    .of_door("registry:write")
    .takes("ItemsWish"),
    Operation::new(
        "POST",
        "/api/management/group/get-route-rule-groups.json",
        ("Artemis", "getRouteRuleGroups"),
        "Read some groups of route rules",
        &[(200, Some("ItemsAnswer"))],
    )
    .of_door("registry:read")
    .takes("ItemFilter"),
    Operation::new(
        "GET",
        "/api/management/group/get-all-route-rule-groups.json",
        ("Artemis", "getAllRouteRuleGroups"),
        "Read all groups of route rules",
        &[(200, Some("ItemsAnswer"))],
    )
    .of_door("registry:read"),
    Operation::new(
        "POST",
        "/api/management/group/get-all-route-rule-groups.json",
        ("Artemis", "getAllRouteRuleGroupsByPost"),
        "Read all groups of route rules",
        &[(200, Some("ItemsAnswer"))],
    )
    .of_door("registry:read")
    .takes("ItemFilter"),
    Operation::new(
        "POST",
        "/api/management/group/release-route-rule-groups.json",
        ("Artemis", "releaseRouteRuleGroups"),
        "Make drafts of weights the weights",
        &[(200, Some("PlainAnswer"))],
    )
    .of_door("registry:write")
    .takes("ItemsWish"),
    Operation::new(
        "POST",
        "/api/management/services/{id}/self-protection",
        ("Management", "selfProtection"),
        "Lift a service's self-protection, or allow it again",
        &[(200, Some("PlainAnswer"))],
    )
    .takes("ProtectWish"),
    Operation::new(
        "GET",
        "/api/status/node.json",
        ("Status", "node"),
        "This node",
        &[(200, Some("Node"))],
    ),
    Operation::new(
        "POST",
        "/api/status/node.json",
        ("Status", "nodeByPost"),
        "This node",
        &[(200, Some("Node"))],
    ),
    Operation::new(
        "GET",
        "/api/status/cluster.json",
        ("Status", "cluster"),
        "All nodes",
        &[(200, Some("Cluster"))],
    ),
    Operation::new(
        "POST",
        "/api/status/cluster.json",
        ("Status", "clusterByPost"),
        "All nodes",
        &[(200, Some("Cluster"))],
    ),
    Operation::new(
        "GET",
        "/api/status/leases.json",
        ("Status", "leases"),
        "The leases, service by service",
        &[(200, Some("Leases"))],
    )
    .asks(&[text("service_id", "Each lease of this service, at most 10,000")]),
    Operation::new(
        "POST",
        "/api/status/leases.json",
        ("Status", "leasesByPost"),
        "The leases, service by service",
        &[(200, Some("Leases"))],
    )
    .asks(&[text("service_id", "Each lease of this service, at most 10,000")]),
    Operation::new(
        "GET",
        "/api/status/config.json",
        ("Status", "config"),
        "Every setting, with its source",
        &[(200, Some("Settings"))],
    ),
    Operation::new(
        "POST",
        "/api/status/config.json",
        ("Status", "configByPost"),
        "Every setting, with its source",
        &[(200, Some("Settings"))],
    ),
    Operation::new(
        "GET",
        "/health",
        ("Status", "health"),
        "Whether the process lives",
        &[(200, Some("Health"))],
    ),
    Operation::new(
        "GET",
        "/ready",
        ("Status", "ready"),
        "Whether this node should get clients",
        &[(200, Some("Readiness")), (503, Some("Readiness"))],
    )
    .asks(&[text("for", "One part alone: `discovery`, `sockets` or `writes`")]),
    Operation::new(
        "GET",
        "/metrics",
        ("Status", "metrics"),
        "Metrics, as Prometheus reads them",
        &[(200, Some("Text"))],
    ),
    Operation::new(
        "GET",
        "/openapi.json",
        ("Status", "openapi"),
        "This description",
        &[(200, Some("Description"))],
    ),
    Operation::new(
        "POST",
        "/api/v1/users/register",
        ("Accounts", "registerUser"),
        "Make an account",
        &[(201, Some("Account")), (403, Some("Problem")), (409, Some("Problem"))],
    )
    .takes("AccountWish")
    .note(
        "403 if registration is closed; with registration by token it needs a token with the \
         scope admin.",
    ),
    Operation::new(
        "POST",
        "/api/v1/users/login",
        ("Accounts", "login"),
        "Sign in",
        &[(200, Some("LoginAnswer")), (401, Some("Problem")), (429, Some("Problem"))],
    )
    .takes("LoginWish")
    .note(
        "The token is valid for `--login-token-ttl`, an hour by default, and can be renewed. It \
         carries the default scopes and the account's own.",
    ),
    Operation::new(
        "POST",
        "/api/v1/users/renew",
        ("Accounts", "renewToken"),
        "Another token, before the present one expires",
        &[(200, Some("LoginAnswer")), (401, Some("Problem")), (403, Some("Problem"))],
    )
    .note(
        "For tokens of a login. 401 when the login is longer ago than `--session-max`. The \
         old token stays valid.",
    ),
    Operation::new(
        "POST",
        "/api/v1/users/logout",
        ("Accounts", "logout"),
        "Revoke the token of the call, or all of the user's",
        &[(204, None)],
    )
    .takes("LogoutRequest")
    .note("Their sockets close with 4401. Without a body it is the token of the call."),
    Operation::new(
        "PUT",
        "/api/v1/users/me/password",
        ("Accounts", "setPassword"),
        "Change the user's own password",
        &[(204, None), (403, Some("Problem")), (409, Some("Problem")), (429, Some("Problem"))],
    )
    .takes("PasswordChange")
    .note("Ends the user's other tokens; the token of the call stays valid. 403: the old password is wrong."),
    Operation::new(
        "DELETE",
        "/api/v1/users/me",
        ("Accounts", "removeAccount"),
        "Remove the user's own account",
        &[(204, None), (403, Some("Problem")), (429, Some("Problem"))],
    )
    .takes("RemovalRequest")
    .note(
        "Ends the user's tokens and frees the name; messages stay with their receivers. \
         An account with a password needs it: 403 if it is wrong. Without a password the body may be \
         left out.",
    ),
    Operation::new(
        "GET",
        "/api/v1/users",
        ("Accounts", "findUser"),
        "The user with a name",
        &[(200, Some("Account")), (404, Some("Problem")), (429, Some("Problem"))],
    )
    .asks(&[text("name", "The name, in any case")])
    .note("429: this address has looked up too many unknown names within a minute."),
    Operation::new(
        "GET",
        "/ws/online",
        ("Sockets", "online"),
        "The online users",
        &[(200, Some("Online"))],
    ),
    Operation::new(
        "GET",
        "/ws/stats",
        ("Sockets", "stats"),
        "Counters of sockets and shards",
        &[(200, Some("Stats"))],
    )
    .asks(&[text("scope", "`node`, or `cluster` for all nodes")]),
    Operation::new(
        "POST",
        "/ws/broadcast",
        ("Sockets", "broadcast"),
        "Send an envelope to every JSON socket, to some, or to a channel",
        &[(200, Some("Delivered")), (403, Some("Problem"))],
    )
    .takes("BroadcastWish"),
    Operation::new(
        "POST",
        "/ws/send",
        ("Sockets", "sendToUser"),
        "Send an envelope to a user's connections",
        &[(200, Some("Delivered")), (404, Some("Problem"))],
    )
    .takes("SendWish"),
    Operation::new(
        "GET",
        "/api/v1/events",
        ("Status", "events"),
        "What happened: changes of the registry and actions of operators, the oldest first",
        &[(200, Some("Events"))],
    )
    .asks(&[
        text("service", "Of this service"),
        text("instance", "Of this instance id"),
        text("kind", "Of this kind, `instance.expired`, or family, `instance`"),
        text("actor", "By this user id, address or door"),
        text("from", "From this time on (RFC 3339)"),
        text("to", "Before this time (RFC 3339)"),
        text("after", "Behind the event with this id"),
        number("limit", "At most so many", 1, 1000),
    ]),
    Operation::new(
        "GET",
        "/api/v1/services/{id}/summary",
        ("Status", "serviceSummary"),
        "How a service did: registrations, expiries, flaps and absences of its instances",
        &[(200, Some("ServiceSummary"))],
    )
    .asks(&[
        text("from", "From this time on (RFC 3339); a day before the end unless given"),
        text("to", "Before this time (RFC 3339); now unless given"),
    ]),
    Operation::new(
        "GET",
        "/api/v1/connections",
        ("Sockets", "connections"),
        "The open sockets",
        &[(200, Some("Connections"))],
    )
    .asks(&[
        number("limit", "At most so many", 1, 10000),
        text("after", "The last connection of the page before"),
    ]),
    Operation::new(
        "GET",
        "/api/v1/connections/{id}",
        ("Sockets", "connection"),
        "One open socket",
        &[(200, Some("Connection")), (404, Some("Problem"))],
    ),
    Operation::new(
        "DELETE",
        "/api/v1/connections/{id}",
        ("Sockets", "disconnect"),
        "Close a socket for good, with 4403",
        &[(204, None), (404, Some("Problem"))],
    ),
    Operation::new(
        "POST",
        "/api/v1/connections/{id}/messages",
        ("Sockets", "sendToConnection"),
        "Send an envelope to one socket",
        &[(200, Some("Delivered")), (404, Some("Problem"))],
    )
    .takes("EnvelopeWish"),
    Operation::new(
        "PUT",
        "/api/v1/connections/{id}/channels/{name}",
        ("Sockets", "subscribeConnection"),
        "Subscribe a socket to a channel, whatever the channel's rules say",
        &[(204, None), (404, Some("Problem")), (409, Some("Problem")), (429, Some("Problem"))],
    ),
    Operation::new(
        "DELETE",
        "/api/v1/connections/{id}/channels/{name}",
        ("Sockets", "unsubscribeConnection"),
        "End a socket's subscription to a channel",
        &[(204, None), (404, Some("Problem"))],
    ),
    Operation::new(
        "PUT",
        "/api/v1/connections/{id}/metadata",
        ("Sockets", "setConnectionMetadata"),
        "Set a socket's metadata, until its end; an empty object removes it",
        &[(204, None), (404, Some("Problem"))],
    )
    .takes("ConnectionMetadata"),
    Operation::new(
        "GET",
        "/api/v1/channels",
        ("Channels", "channels"),
        "The channels, defined and live ones",
        &[(200, Some("Channels"))],
    ),
    Operation::new(
        "POST",
        "/api/v1/channels",
        ("Channels", "defineChannel"),
        "Define a channel",
        &[(201, Some("Channel")), (409, Some("Problem")), (429, Some("Problem"))],
    )
    .takes("ChannelWish"),
    Operation::new(
        "GET",
        "/api/v1/channels/{name}",
        ("Channels", "channel"),
        "One channel",
        &[(200, Some("Channel")), (404, Some("Problem")), (413, Some("Problem"))],
    ),
    Operation::new(
        "DELETE",
        "/api/v1/channels/{name}",
        ("Channels", "deleteChannel"),
        "Delete a channel; its subscribers get `unsubscribed`",
        &[(204, None), (404, Some("Problem")), (413, Some("Problem"))],
    ),
    Operation::new(
        "POST",
        "/api/v1/channels/{name}/messages",
        ("Channels", "publish"),
        "Publish to a channel",
        &[(200, Some("Published")), (403, Some("Problem")), (429, Some("Problem"))],
    )
    .takes("PublishWish"),
    Operation::new(
        "GET",
        "/api/v1/channels/{name}/history",
        ("Channels", "history"),
        "The kept messages",
        &[
            (200, Some("History")),
            (403, Some("Problem")),
            (404, Some("Problem")),
            (413, Some("Problem")),
        ],
    )
    .asks(&[
        number("after", "Only those after this offset", 0, 9_007_199_254_740_991),
        number("limit", "At most so many", 1, 500),
    ]),
    Operation::new(
        "POST",
        "/api/v1/live/{entity}/{id}",
        ("Channels", "live"),
        "Publish that an entity was created, updated or deleted",
        &[(200, Some("Published")), (403, Some("Problem")), (429, Some("Problem"))],
    )
    .takes("LiveWish")
    .note("Goes to the channel live:{entity} as event {entity}.{action}."),
    Operation::new(
        "POST",
        "/api/v1/dashboards/{name}/metrics",
        ("Channels", "dashboardMetrics"),
        "Publish the figures of a dashboard",
        &[(200, Some("Published")), (403, Some("Problem")), (429, Some("Problem"))],
    )
    .takes("Figures")
    .note("Goes to the channel dashboard:{name} as event metrics."),
    Operation::new(
        "POST",
        "/api/v1/messages",
        ("Messages", "sendMessage"),
        "Send a direct message; the answer means that it is on disk",
        &[(201, Some("Stored")), (404, Some("Problem")), (429, Some("Problem"))],
    )
    .takes("MessageRequest"),
    Operation::new(
        "GET",
        "/api/v1/messages",
        ("Messages", "messages"),
        "Messages to me and from me, oldest first",
        &[(200, Some("Messages")), (404, Some("Problem")), (429, Some("Problem"))],
    )
    .asks(&[
        text("after", "Only those after this message"),
        number("limit", "At most so many", 1, 500),
        text("with", "Only those with this user, by id or as name:bob"),
    ])
    .note("404 and 429: `with` holds an unknown name, or one too many of them."),
    Operation::new(
        "POST",
        "/api/v1/groups",
        ("Messages", "createGroup"),
        "Make a group",
        &[(201, Some("GroupId")), (404, Some("Problem")), (429, Some("Problem"))],
    )
    .takes("GroupRequest"),
    Operation::new(
        "GET",
        "/api/v1/groups",
        ("Messages", "groups"),
        "My groups, and the invitations that I have not answered",
        &[(200, Some("Groups"))],
    ),
    Operation::new(
        "GET",
        "/api/v1/groups/{id}",
        ("Messages", "group"),
        "One of my groups, with its members",
        &[(200, Some("Group")), (403, Some("Problem")), (404, Some("Problem"))],
    ),
    Operation::new(
        "DELETE",
        "/api/v1/groups/{id}",
        ("Messages", "deleteGroup"),
        "Delete a group that I own",
        &[(204, None), (403, Some("Problem")), (404, Some("Problem"))],
    ),
    Operation::new(
        "POST",
        "/api/v1/groups/{id}/members",
        ("Messages", "addMember"),
        "Add a member to a group that I own, or invite one if the server has invitations",
        &[
            (201, Some("Membership")),
            (202, Some("Membership")),
            (200, Some("Membership")),
            (403, Some("Problem")),
            (404, Some("Problem")),
            (429, Some("Problem")),
        ],
    )
    .takes("MemberRequest"),
    Operation::new(
        "DELETE",
        "/api/v1/groups/{id}/members/{user_id}",
        ("Messages", "removeMember"),
        "Remove a member, take an invitation back, or leave",
        &[(204, None), (403, Some("Problem")), (404, Some("Problem")), (429, Some("Problem"))],
    ),
    Operation::new(
        "POST",
        "/api/v1/groups/{id}/accept",
        ("Messages", "acceptInvitation"),
        "Accept an invitation to a group",
        &[(204, None), (404, Some("Problem"))],
    ),
    Operation::new(
        "POST",
        "/api/v1/groups/{id}/decline",
        ("Messages", "declineInvitation"),
        "Decline an invitation to a group",
        &[(204, None), (404, Some("Problem"))],
    ),
    Operation::new(
        "POST",
        "/api/v1/groups/{id}/messages",
        ("Messages", "sendToGroup"),
        "Send a message to a group; the answer means that it is on disk",
        &[
            (201, Some("Stored")),
            (403, Some("Problem")),
            (404, Some("Problem")),
            (429, Some("Problem")),
        ],
    )
    .takes("ContentWish"),
];
