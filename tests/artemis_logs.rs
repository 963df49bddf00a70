//! The log of what operators did, as Artemis' tools read it: each action is a row, found by its words.

use std::time::Duration;

use fanfare_test_support::{Server, eventually, token};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(20);

fn call(server: &Server, path: &str, body: &Value) -> Value {
    let reply = server.post_json(&format!("/api/management/{path}.json"), body);
    assert_eq!(reply.outcome(), ("success", "success"), "{path}: {}", reply.text);
    reply.body
}

/// The rows of a view, once it has so many. What happened is in the log within a second.
fn logs(server: &Server, view: &str, filter: &Value, count: usize) -> Vec<Value> {
    let mut rows = Vec::new();
    eventually(&format!("{count} rows of {view} by {filter}"), PATIENCE, || {
        let read = call(server, &format!("log/{view}"), filter);
        rows.clone_from(read["logs"].as_array().expect("a list"));
        rows.len() >= count
    });
    assert_eq!(rows.len(), count, "{view} by {filter}: {rows:?}");
    rows
}

fn operate(server: &Server, path: &str, key: &Value, operation: &str, is_complete: bool) {
    let mut body = key.clone();
    body["operation"] = json!(operation);
    body["operationComplete"] = json!(is_complete);
    body["operatorId"] = json!("ann");
    body["token"] = json!("secret");
    body["reason"] = json!("new disks");
    body["extensions"] = json!("{\"ticket\":7}");
    call(server, path, &body);
}

#[test]
fn operations_are_rows_with_their_words() {
    let server = Server::start(&[]);
    let instance = json!({"regionId": "SHA", "serviceId": "S", "instanceId": "A"});
    let machine = json!({"regionId": "SHA", "serverId": "10.0.0.1"});
    let zone = json!({"regionId": "SHA", "serviceId": "S", "zoneId": "z1"});
    operate(&server, "operate-instance", &json!({"instanceKey": instance}), "disks", false);
    operate(&server, "operate-instance", &json!({"instanceKey": instance}), "disks", true);
    operate(&server, "operate-server", &json!({"serverKey": machine}), "reboot", false);
    let list = json!({"zoneOperationsList": [{"zoneKey": zone, "operations": ["power", "water"]}]});
    operate(&server, "zone/operate-zone-operations", &list, "unused", false);
    let rows = logs(&server, "instance-operation-logs", &json!({}), 2);
    for (field, want) in [
        ("regionId", json!("SHA")),
        ("serviceId", json!("S")),
        ("instanceId", json!("A")),
        ("operation", json!("disks")),
        ("operatorId", json!("ann")),
        ("token", Value::Null),
        ("complete", json!(false)),
        ("extensions", json!("{\"ticket\":7}")),
        ("reason", json!("new disks")),
    ] {
        assert_eq!(rows[0][field], want, "{field}");
    }
    assert!(rows[0]["createTime"].as_u64() > Some(1_600_000_000_000), "{rows:?}");
    assert!(rows[0]["id"].as_u64() < rows[1]["id"].as_u64(), "the oldest first");
    assert_eq!(rows[1]["complete"], true);
    for (view, filter, count) in [
        ("instance-operation-logs", json!({"serviceId": "s", "instanceId": "a"}), 2),
        ("instance-operation-logs", json!({"complete": true}), 1),
        ("instance-operation-logs", json!({"complete": false, "operation": "DISKS"}), 1),
        ("instance-operation-logs", json!({"operatorId": "bob"}), 0),
        ("instance-operation-logs", json!({"operatorId": "", "regionId": null}), 2),
        ("instance-operation-logs", json!({"instanceId": "b"}), 0),
        ("instance-operation-logs", json!({"before": rows[1]["id"]}), 1),
        ("server-operation-logs", json!({"regionId": "sha", "serverId": "10.0.0.1"}), 1),
        ("server-operation-logs", json!({"serverId": "10.0.0.2"}), 0),
        ("zone-operation-logs", json!({"zoneId": "Z1"}), 2),
        ("zone-operation-logs", json!({"zoneId": "Z1", "operation": "water"}), 1),
        ("group-operation-logs", json!({}), 0),
    ] {
        logs(&server, view, &filter, count);
    }
    assert!(!format!("{rows:?}").contains("secret"));
}

/// fanfare's own pull-outs are among the operations on instances, as they are among those that stand.
#[test]
fn pull_outs_are_rows() {
    let server = Server::start(&[]);
    server.register(&[fanfare_test_support::instance("s", "a")]);
    let key = json!({"regionId": "r1", "serviceId": "s", "instanceId": "a"});
    let pull = |operation: &str| {
        let body = json!({"instanceKey": key, "operation": operation, "operatorId": "bob"});
        let path = "/api/management/instance/operate-instance.json";
        assert_eq!(server.post_json(path, &body).outcome(), ("success", "success"));
    };
    pull("pull-out");
    operate(&server, "operate-instance", &json!({"instanceKey": key}), "disks", false);
    pull("pull-in");
    let rows = logs(&server, "instance-operation-logs", &json!({"instanceId": "a"}), 4);
    let brief = |row: &Value| (row["operation"].clone(), row["complete"].clone());
    let mut found: Vec<_> = rows.iter().map(brief).collect();
    // The pull-in ends the operation too.
    found[2..].sort_by_key(|(operation, _)| operation.to_string());
    let want = [("pull-out", false), ("disks", false), ("disks", true), ("pull-out", true)];
    assert_eq!(found, want.map(|(word, complete)| (json!(word), json!(complete))));
    assert_eq!(rows[0]["operatorId"], "bob");
}

#[test]
fn changes_of_groups_and_rules_are_rows() {
    let server = Server::start(&[]);
    let group = json!({
        "serviceId": "S", "regionId": "SHA", "zoneId": "z1", "name": "Blue", "appId": "100",
        "status": "active",
    });
    let words = |mut body: Value, operation: &str| {
        body["operatorId"] = json!("ann");
        body["reason"] = json!("a start");
        if !operation.is_empty() {
            body["operation"] = json!(operation);
        }
        body
    };
    call(&server, "group/insert-groups", &words(json!({"groups": [group]}), "grow"));
    let read = call(&server, "group/get-groups", &json!({"name": "blue"}));
    let blue = read["groups"][0]["groupId"].clone();
    let off = json!({"groups": [{"groupId": blue, "status": "inactive"}]});
    call(&server, "group/update-groups", &words(off, ""));
    let listed = json!({"groupInstances": [{"groupId": blue, "instanceId": "i1"}]});
    call(&server, "group/insert-group-instances", &words(listed, ""));
    let described = json!({"serviceInstances": [
        {"serviceId": "S", "instanceId": "old", "ip": "10.0.0.9", "metadata": {"a": "b"}},
    ]});
    call(&server, "group/insert-service-instances", &words(described, ""));
    let rule = json!({"routeRules": [{"serviceId": "S", "name": "r", "status": "active"}]});
    call(&server, "group/insert-route-rules", &words(rule, ""));
    let read = call(&server, "group/get-route-rules", &json!({}));
    let rule = read["routeRules"][0]["routeRuleId"].clone();
    let pair = json!({"routeRuleGroups": [
        {"routeRuleId": rule, "groupId": blue, "unreleasedWeight": 7},
    ]});
    call(&server, "group/insert-route-rule-groups", &words(pair.clone(), ""));
    call(&server, "group/release-route-rule-groups", &words(pair, ""));
    let list = json!({"groupOperationsList": [{"groupId": blue, "operations": ["drill"]}]});
    call(&server, "group/operate-group-operations", &words(list, ""));
    call(&server, "group/delete-groups", &words(json!({"groupIds": [blue]}), ""));

    let rows = logs(&server, "group-logs", &json!({"serviceId": "s"}), 3);
    let operations: Vec<&Value> = rows.iter().map(|row| &row["operation"]).collect();
    assert_eq!(operations, ["grow", "update", "delete"]);
    for (field, want) in group.as_object().expect("fields") {
        assert_eq!(rows[0][field], *want, "{field}");
    }
    assert_eq!((&rows[1]["status"], &rows[1]["groupId"]), (&json!("inactive"), &blue));
    assert_eq!((&rows[0]["operatorId"], &rows[0]["reason"]), (&json!("ann"), &json!("a start")));
    // What belonged to the group went with it, and is a row of its own.
    let rows = logs(&server, "group-operation-logs", &json!({"groupId": blue}), 2);
    assert_eq!((&rows[0]["complete"], &rows[1]["complete"]), (&json!(false), &json!(true)));
    let rows = logs(&server, "route-rule-group-logs", &json!({"routeRuleId": rule}), 3);
    assert_eq!((&rows[0]["weight"], &rows[0]["unreleasedWeight"]), (&Value::Null, &json!(7)));
    assert_eq!((&rows[1]["weight"], &rows[1]["operation"]), (&json!(7), &json!("release")));
    let rows = logs(&server, "service-instance-logs", &json!({"instanceId": "OLD"}), 1);
    assert_eq!(rows[0]["metadata"], "{\"a\":\"b\"}");
    for (view, filter, count) in [
        ("group-logs", json!({"name": "blue", "appId": "100", "operation": "grow"}), 1),
        ("group-logs", json!({"zoneId": "z2"}), 0),
        ("group-instance-logs", json!({"groupId": blue, "instanceId": "i1"}), 2),
        ("group-instance-logs", json!({"groupId": 7}), 0),
        ("route-rule-logs", json!({"serviceId": "s", "name": "R"}), 1),
        ("route-rule-group-logs", json!({"groupId": blue, "operation": "delete"}), 1),
    ] {
        logs(&server, view, &filter, count);
    }
}

#[test]
fn more_rows_than_fit_are_read_page_by_page() {
    let server = Server::start(&[]);
    let operations: Vec<String> = (0..700).map(|n| format!("o{n}")).collect();
    let zone = json!({"regionId": "r", "serviceId": "s", "zoneId": "z"});
    let list = json!({"zoneOperationsList": [{"zoneKey": zone, "operations": operations}]});
    call(&server, "zone/operate-zone-operations", &list);
    let mut newest = Value::Null;
    eventually("the operations are in the log", PATIENCE, || {
        newest = call(&server, "log/zone-operation-logs", &json!({}));
        newest["logs"][499]["operation"] == "o699"
    });
    let older = call(&server, "log/zone-operation-logs", &json!({"before": newest["next"]}));
    let words: Vec<&Value> = [&older, &newest]
        .into_iter()
        .filter_map(|page| page["logs"].as_array())
        .flatten()
        .collect();
    let words: Vec<&str> = words.iter().filter_map(|row| row["operation"].as_str()).collect();
    assert_eq!(words, operations);
    assert_eq!(older["next"], Value::Null);
}

#[test]
fn the_logs_need_the_scope_of_the_audit_log() {
    let server = Server::start_for_people(&["--auth", "required"]);
    let path = "/api/management/log/group-logs.json";
    assert_eq!(server.post_json(path, &json!({})).status, 401);
    let writer = token("ann", "registry:write");
    assert_eq!(server.call("POST", path, &writer, &json!({})).status, 403);
    let auditor = token("eve", "audit:read");
    assert_eq!(server.call("POST", path, &auditor, &json!({})).status, 200);
    assert_eq!(server.get(path).status, 405);
}
