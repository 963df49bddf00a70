//! Operators' decisions as Artemis' tools send them: on an instance, a server or a zone. A row is the state, its
//! effect reaches the subscribers of every dialect, and it outlives instances and restarts.

use std::time::Duration;

use fanfare_test_support::raw::{Raw, text};
use fanfare_test_support::{Server, eventually, token, with};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(20);

/// An instance of Artemis' Java client, at an address and in a zone.
fn instance(service: &str, name: &str, ip: &str, zone: &str) -> Value {
    let one = fanfare_test_support::artemis::artemis_instance(service, name);
    with(&with(&one, "ip", json!(ip)), "zoneId", json!(zone))
}

fn call(server: &Server, path: &str, body: &Value) -> Value {
    let reply = server.post_json(&format!("/api/management/{path}.json"), body);
    assert_eq!(reply.outcome(), ("success", "success"), "{path}: {}", reply.text);
    reply.body
}

fn discovered(server: &Server, service: &str) -> Vec<String> {
    let answer = server.discover(service);
    let names = answer["instances"].as_array().into_iter().flatten();
    let mut names: Vec<String> =
        names.map(|one| one["instanceId"].as_str().expect("an id").to_owned()).collect();
    names.sort();
    names
}

fn server_key(ip: &str) -> Value {
    json!({"regionId": "SHA", "serverId": ip})
}

fn instance_key(service: &str, name: &str) -> Value {
    json!({"regionId": "SHA", "serviceId": service, "instanceId": name})
}

fn operate_zone(server: &Server, zone: &str, operations: &[&str], is_complete: bool) {
    let key = json!({"regionId": "SHA", "serviceId": "s", "zoneId": zone});
    let list = json!([{"zoneKey": key, "operations": operations}]);
    let body = json!({
        "zoneOperationsList": list, "operationComplete": is_complete, "operatorId": "ann",
    });
    call(server, "zone/operate-zone-operations", &body);
}

#[test]
fn an_instance_is_down_while_any_row_above_it_stands() {
    let server = Server::start(&[]);
    let one = instance("S", "a", "10.0.0.1", "z1");
    server.register(&[one.clone(), instance("S", "b", "10.0.0.2", "z1")]);
    server.register(&[instance("other", "c", "10.0.0.1", "z2")]);
    let down =
        |one: &Value| call(&server, "instance-down", &json!({"instance": one}))["down"].clone();
    assert_eq!(down(&one), false);
    let by_instance = |operation: &str, is_complete: bool| {
        let body = json!({
            "instanceKey": instance_key("s", "A"), "operation": operation,
            "operationComplete": is_complete, "operatorId": "ann", "token": "secret",
            "reason": "new disks", "extensions": "{\"ticket\":7}",
        });
        call(&server, "operate-instance", &body);
    };
    let by_server = |is_complete: bool| {
        let body = json!({
            "serverKey": server_key("10.0.0.1"), "operation": "reboot",
            "operationComplete": is_complete,
        });
        call(&server, "operate-server", &body);
    };
    by_instance("Disks", false);
    by_instance("network", false);
    by_server(false);
    operate_zone(&server, "Z1", &["power"], false);
    assert_eq!((discovered(&server, "s"), discovered(&server, "other")), (vec![], vec![]));
    // Each row is taken back by itself, and the instance comes back with the last of them.
    by_instance("disks", true);
    by_instance("network", true);
    operate_zone(&server, "z1", &["power"], true);
    assert_eq!(discovered(&server, "s"), ["b"]);
    assert_eq!(down(&one), true);
    by_server(true);
    assert_eq!(
        (discovered(&server, "s"), discovered(&server, "other")),
        (vec!["a".into(), "b".into()], vec!["c".into()])
    );
    assert_eq!(down(&one), false);
    // What was never begun is completed all the same.
    by_server(true);
}

#[test]
fn rows_are_read_with_their_operator_reason_and_times() {
    let server = Server::start(&[]);
    for operation in ["one", "two"] {
        let body = json!({
            "instanceKey": instance_key("S", "i"), "operation": operation, "operatorId": "ann",
            "token": "secret", "reason": "new disks", "extensions": "{\"ticket\":7}",
        });
        call(&server, "operate-instance", &body);
    }
    let body = json!({"serverKey": server_key("10.0.0.1"), "operation": "reboot"});
    call(&server, "operate-server", &body);
    operate_zone(&server, "z1", &["power", "water"], false);
    let read =
        call(&server, "instance-operations", &json!({"instanceKey": instance_key("s", "I")}));
    let of = &read["operations"];
    assert_eq!(of["instanceKey"], instance_key("S", "i"), "as it was first spelled");
    assert_eq!(of["operations"], json!(["one", "two"]));
    let row = &of["rows"][0];
    assert_eq!((&row["operatorId"], &row["reason"]), (&json!("ann"), &json!("new disks")));
    assert_eq!(row["extensions"], "{\"ticket\":7}");
    assert!(row["createTime"].as_u64() > Some(1_600_000_000_000), "{row}");
    assert_eq!(row["createTime"], row["updateTime"]);
    assert_ne!(row["id"], of["rows"][1]["id"]);
    assert!(!read.to_string().contains("secret"));
    // Without rows there is an empty list.
    let other = json!({"instanceKey": instance_key("s", "x")});
    assert_eq!(call(&server, "instance-operations", &other)["operations"]["operations"], json!([]));
    let of_server = json!({"serverKey": server_key("10.0.0.1")});
    let read = call(&server, "server-operations", &of_server);
    assert_eq!(read["operations"]["operations"], json!(["reboot"]));
    assert_eq!(call(&server, "server-down", &of_server)["down"], true);
    assert_eq!(
        call(&server, "server-down", &json!({"serverKey": server_key("10.0.0.2")}))["down"],
        false
    );
    let zone = json!({"zoneKey": {"regionId": "SHA", "serviceId": "s", "zoneId": "z1"}});
    let read = call(&server, "zone/get-zone-operations", &zone);
    assert_eq!(read["operations"]["operations"], json!(["power", "water"]));
    assert_eq!(call(&server, "zone/is-zone-down", &zone)["down"], true);
    let some = json!({"serviceId": "S"});
    let read = call(&server, "zone/get-zone-operations-list", &some);
    assert_eq!(read["zoneOperationsList"][0]["zoneKey"]["zoneId"], "z1");
    for (path, field) in [
        ("all-instance-operations", "allInstanceOperations"),
        ("all-server-operations", "allServerOperations"),
        ("zone/get-all-zone-operations", "allZoneOperations"),
    ] {
        let count = |body: &Value| body[field].as_array().map(Vec::len);
        assert_eq!(count(&call(&server, path, &json!({"regionId": "sha"}))), Some(1), "{path}");
        assert_eq!(count(&call(&server, path, &json!({"regionId": "FRA"}))), Some(0), "{path}");
        let read = server.get(&format!("/api/management/{path}.json?regionId=SHA")).body;
        assert_eq!(count(&read), Some(1), "{path}");
    }
}

#[test]
fn subscribers_of_every_dialect_hear_of_it() {
    let server = Server::start(&[]);
    server.register(&[instance("s", "a", "10.0.0.1", "z1"), instance("s", "b", "10.0.0.2", "z1")]);
    let mut own = server.connect();
    own.subscribe("s");
    let mut artemis = Raw::open(server.address(), "/ws/discovery/instance-change");
    artemis.send(&text(&json!({"serviceId": "s"}).to_string()));
    assert_eq!(artemis.json()["changeType"], "reload");
    let mut heard = |kind: &str, reason: &str, name: &str| {
        let frame = own.next_json();
        let change = &frame["changes"][0];
        assert_eq!(
            (&change["changeType"], &change["reason"]),
            (&json!(kind), &json!(reason)),
            "{frame}"
        );
        assert_eq!(change["instance"]["instanceId"], name);
        let frame = artemis.json();
        assert_eq!(frame["changeType"], kind, "{frame}");
        assert_eq!(frame["instance"]["instanceId"], name);
    };
    let by_server = |is_complete: bool| {
        let body = json!({
            "serverKey": server_key("10.0.0.1"), "operation": "reboot",
            "operationComplete": is_complete,
        });
        call(&server, "operate-server", &body);
    };
    by_server(false);
    heard("delete", "pull_out", "a");
    // Those that come to the server stay out, and those that leave it come back.
    server.register(&[instance("s", "b", "10.0.0.1", "z1")]);
    heard("delete", "pull_out", "b");
    server.register(&[instance("s", "b", "10.0.0.3", "z1")]);
    heard("new", "pull_in", "b");
    server.register(&[instance("s", "c", "10.0.0.1", "z1")]);
    by_server(true);
    let frame = own.next_json();
    let mut names: Vec<&str> = frame["changes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|change| change["instance"]["instanceId"].as_str())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["a", "c"], "{frame}");
}

#[test]
fn rows_outlive_a_restart_and_the_instance() {
    let mut server = Server::start(&[]);
    server.register(&[instance("s", "a", "10.0.0.1", "z1"), instance("s", "b", "10.0.0.2", "z2")]);
    let body = json!({
        "serverKey": server_key("10.0.0.1"), "operation": "reboot", "operatorId": "ann",
        "reason": "kernel",
    });
    call(&server, "operate-server", &body);
    operate_zone(&server, "z2", &["power", "water"], false);
    operate_zone(&server, "z2", &["water"], true);
    assert!(server.stop().success());
    server.restart_in_place();
    assert!(discovered(&server, "s").is_empty());
    let read = call(&server, "server-operations", &json!({"serverKey": server_key("10.0.0.1")}));
    let row = &read["operations"]["rows"][0];
    assert_eq!((&row["operatorId"], &row["reason"]), (&json!("ann"), &json!("kernel")));
    server.unregister(&[instance("s", "a", "10.0.0.1", "z1")]);
    server.register(&[instance("s", "a", "10.0.0.1", "z1")]);
    assert!(discovered(&server, "s").is_empty());
    operate_zone(&server, "z2", &["power"], true);
    assert_eq!(discovered(&server, "s"), ["b"]);
    let rows = call(&server, "zone/get-all-zone-operations", &json!({}));
    assert_eq!(rows["allZoneOperations"], json!([]));
}

/// An operator at the console sees who took an instance out, and can undo what is the instance's own.
#[test]
fn pull_outs_and_operations_on_an_instance_are_one_list() {
    let server = Server::start(&[]);
    server.register(&[instance("s", "a", "10.0.0.1", "z1")]);
    let key = json!({"instanceKey": instance_key("s", "a")});
    let pull = |operation: &str| {
        let mut body = key.clone();
        body["operation"] = json!(operation);
        body["operatorId"] = json!("bob");
        let path = "/api/management/instance/operate-instance.json";
        assert_eq!(server.post_json(path, &body).outcome(), ("success", "success"));
    };
    pull("pull-out");
    let read = call(&server, "instance-operations", &key);
    assert_eq!(read["operations"]["operations"], json!(["pull-out"]));
    assert_eq!(read["operations"]["rows"][0]["operatorId"], "bob");
    let mut body = key.clone();
    body["operation"] = json!("pull-out");
    body["operationComplete"] = json!(true);
    call(&server, "operate-instance", &body);
    assert_eq!(discovered(&server, "s"), ["a"]);
    body["operation"] = json!("disks");
    body["operationComplete"] = json!(false);
    body["operatorId"] = json!("ann");
    call(&server, "operate-instance", &body);
    assert!(discovered(&server, "s").is_empty());
    let leases = server.get("/api/status/leases.json?serviceId=s").text;
    assert!(leases.contains("\"pulled_out\":true") && leases.contains("ann"), "{leases}");
    pull("pull-in");
    assert_eq!(discovered(&server, "s"), ["a"]);
    let read = call(&server, "instance-operations", &key);
    assert_eq!(read["operations"]["operations"], json!([]));
}

#[test]
fn services_are_listed_with_those_that_are_down() {
    let server = Server::start(&[]);
    server.register(&[instance("s", "a", "10.0.0.1", "z1"), instance("s", "b", "10.0.0.2", "z1")]);
    let body = json!({"serverKey": server_key("10.0.0.1"), "operation": "reboot"});
    call(&server, "operate-server", &body);
    let count = |service: &Value| service["instances"].as_array().map(Vec::len);
    let services = call(&server, "services", &json!({"regionId": "SHA"}));
    assert_eq!(count(&services["services"][0]), Some(2));
    assert_eq!(server.get("/api/management/services.json").body["services"], services["services"]);
    let service = call(&server, "service", &json!({"serviceId": "S"}));
    assert_eq!(count(&service["service"]), Some(2));
    let nobody = call(&server, "service", &json!({"serviceId": "unknown"}));
    assert_eq!(count(&nobody["service"]), Some(0));
}

#[test]
fn what_cannot_be_carried_out_is_refused() {
    let server = Server::start(&[]);
    let long = "x".repeat(1025);
    for (path, body) in [
        ("operate-instance", json!({"operation": "x"})),
        ("operate-instance", json!({"instanceKey": {"serviceId": "s"}, "operation": "x"})),
        ("operate-instance", json!({"instanceKey": instance_key("s", "a")})),
        ("operate-server", json!({"serverKey": {"regionId": "r"}, "operation": "x"})),
        ("operate-server", json!({"serverKey": server_key("i"), "operation": ""})),
        ("operate-server", json!({"serverKey": server_key("i"), "operation": "x", "reason": long})),
        ("operate-server", json!({"serverKey": server_key("i"), "operation": "x", "reason": "\0"})),
        ("zone/operate-zone-operations", json!({})),
        ("zone/operate-zone-operations", json!({"zoneOperationsList": [{"operations": ["x"]}]})),
        ("instance-operations", json!({})),
        ("instance-down", json!({})),
        ("server-down", json!({})),
        ("service", json!({})),
    ] {
        let reply = server.post_json(&format!("/api/management/{path}.json"), &body);
        assert_eq!(reply.outcome(), ("fail", "bad-request"), "{path} {body}: {}", reply.text);
    }
    assert_eq!(server.get("/api/management/operate-server.json").status, 405);
}

#[test]
fn management_needs_a_token_where_one_is_required_from_every_address() {
    let flags = ["--auth", "required", "--artemis-networks", "127.0.0.0/8"];
    let server = Server::start_for_people(&flags);
    let body = json!({"serverKey": server_key("10.0.0.1"), "operation": "reboot"});
    let path = "/api/management/operate-server.json";
    assert_eq!(server.post_json(path, &body).status, 401);
    let reader = token("ann", "registry:read");
    assert_eq!(server.call("POST", path, &reader, &body).status, 403);
    let writer = token("ann", "registry:write");
    assert_eq!(server.call("POST", path, &writer, &body).status, 200);
    let path = "/api/management/server-operations.json";
    let read = server.call("POST", path, &reader, &json!({"serverKey": server_key("10.0.0.1")}));
    assert_eq!(read.body["operations"]["rows"][0]["userId"], "ann", "{}", read.text);
    eventually("the log names who did it", PATIENCE, || {
        server.log().contains("begin operation") && server.log().contains("SHA/10.0.0.1: reboot")
    });
}

/// The calls of Artemis' operators' tools, as its own list of paths has them.
const CALLS: [&str; 56] = [
    "operate-instance",
    "operate-server",
    "instance-operations",
    "server-operations",
    "all-instance-operations",
    "all-server-operations",
    "instance-down",
    "server-down",
    "services",
    "service",
    "zone/operate-zone-operations",
    "zone/get-all-zone-operations",
    "zone/get-zone-operations",
    "zone/get-zone-operations-list",
    "zone/is-zone-down",
    "group/insert-groups",
    "group/update-groups",
    "group/delete-groups",
    "group/get-groups",
    "group/get-all-groups",
    "group/insert-group-tags",
    "group/update-group-tags",
    "group/delete-group-tags",
    "group/get-group-tags",
    "group/get-all-group-tags",
    "group/insert-group-instances",
    "group/delete-group-instances",
    "group/get-group-instances",
    "group/insert-service-instances",
    "group/delete-service-instances",
    "group/get-service-instances",
    "group/insert-route-rules",
    "group/update-route-rules",
    "group/delete-route-rules",
    "group/get-route-rules",
    "group/get-all-route-rules",
    "group/create-route-rule",
    "group/insert-route-rule-groups",
    "group/update-route-rule-groups",
    "group/delete-route-rule-groups",
    "group/release-route-rule-groups",
    "group/get-route-rule-groups",
    "group/get-all-route-rule-groups",
    "group/operate-group-operations",
    "group/operate-group-operation",
    "group/get-group-operations",
    "group/get-all-group-operations",
    "log/instance-operation-logs",
    "log/server-operation-logs",
    "log/zone-operation-logs",
    "log/group-operation-logs",
    "log/group-logs",
    "log/group-instance-logs",
    "log/service-instance-logs",
    "log/route-rule-logs",
    "log/route-rule-group-logs",
];

#[test]
fn every_call_of_the_tools_is_answered() {
    let server = Server::start(&[]);
    let described = server.get("/openapi.json").body;
    for path in CALLS.iter().chain(&["canary/update-canary-ips"]) {
        let full = format!("/api/management/{path}.json");
        // Each is there with and without its ending, and a body without its fields is an answer, not a failure.
        for path in [&*full, full.trim_end_matches(".json")] {
            let reply = server.post_json(path, &json!({}));
            let (status, code) = reply.outcome();
            let is_right = status == "success" || (status, code) == ("fail", "bad-request");
            assert!(reply.status == 200 && is_right, "{path}: {}", reply.text);
        }
        assert!(described["paths"][&full]["post"].is_object(), "{path} is described");
    }
}
