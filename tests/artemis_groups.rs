//! Groups as Artemis' operators' tools keep them: with tags, listed and described instances, and operations that reach
//! the instances of the group.

use fanfare_test_support::{Server, with};
use serde_json::{Value, json};

/// An instance of a group.
fn instance(name: &str, group: &str, zone: &str) -> Value {
    let one = fanfare_test_support::artemis::artemis_instance("s", name);
    with(&with(&one, "groupId", json!(group)), "zoneId", json!(zone))
}

fn call(server: &Server, path: &str, body: &Value) -> Value {
    let reply = server.post_json(&format!("/api/management/group/{path}.json"), body);
    assert_eq!(reply.outcome(), ("success", "success"), "{path}: {}", reply.text);
    reply.body
}

fn refused(server: &Server, path: &str, body: &Value, code: &str) {
    let reply = server.post_json(&format!("/api/management/group/{path}.json"), body);
    assert_eq!(reply.outcome(), ("fail", code), "{path} {body}: {}", reply.text);
}

fn group(name: &str, zone: &str) -> Value {
    json!({
        "serviceId": "S", "regionId": "SHA", "zoneId": zone, "name": name, "appId": "100",
        "description": "blue ones", "status": "active", "metadata": {"colour": "blue"},
    })
}

/// Inserts a group and returns its id.
fn insert(server: &Server, name: &str, zone: &str) -> u64 {
    let body = json!({"groups": [group(name, zone)], "operatorId": "ann", "reason": "a start"});
    call(server, "insert-groups", &body);
    let found = call(server, "get-groups", &json!({"name": name, "zoneId": zone}));
    found["groups"][0]["groupId"].as_u64().expect("an id")
}

fn discovered(server: &Server) -> Vec<String> {
    let answer = server.discover("s");
    let names = answer["instances"].as_array().into_iter().flatten();
    let mut names: Vec<String> =
        names.map(|one| one["instanceId"].as_str().expect("an id").to_owned()).collect();
    names.sort();
    names
}

#[test]
fn groups_are_kept_by_their_ids_and_names() {
    let mut server = Server::start(&[]);
    let (blue, green) = (insert(&server, "blue", "z1"), insert(&server, "green", "z1"));
    assert_ne!(blue, green);
    let read =
        |server: &Server, filter: &Value| call(server, "get-groups", filter)["groups"].clone();
    let one = &read(&server, &json!({"groupId": blue}))[0];
    for (field, value) in group("blue", "z1").as_object().expect("fields") {
        assert_eq!(one[field], *value, "{field}");
    }
    assert_eq!((&one["operatorId"], &one["reason"]), (&json!("ann"), &json!("a start")));
    assert!(one["createTime"].as_u64() > Some(1_600_000_000_000), "{one}");
    // The same names are the same group, and what an update leaves out stays.
    assert_eq!(insert(&server, "BLUE", "Z1"), blue);
    let change = json!({"groups": [{"groupId": blue, "status": "inactive"}], "operatorId": "bob"});
    call(&server, "update-groups", &change);
    let one = &read(&server, &json!({"serviceId": "s", "status": "inactive"}))[0];
    assert_eq!((&one["groupId"], &one["appId"]), (&json!(blue), &json!("100")));
    assert_eq!(one["operatorId"], "bob");
    refused(
        &server,
        "update-groups",
        &json!({"groups": [{"groupId": blue, "name": "green"}]}),
        "bad-request",
    );
    refused(
        &server,
        "update-groups",
        &json!({"groups": [{"groupId": 7, "name": "x"}]}),
        "data-not-found",
    );
    let count = |server: &Server, region: &str| {
        let read =
            server.get(&format!("/api/management/group/get-all-groups.json?regionId={region}"));
        read.body["groups"].as_array().map(Vec::len)
    };
    assert_eq!((count(&server, "sha"), count(&server, "FRA")), (Some(2), Some(0)));
    assert!(server.stop().success());
    server.restart_in_place();
    assert_eq!(read(&server, &json!({"groupId": blue}))[0]["status"], "inactive");
    call(&server, "delete-groups", &json!({"groupIds": [blue], "operatorId": "ann"}));
    assert_eq!(read(&server, &json!({})).as_array().map(Vec::len), Some(1));
    assert!(insert(&server, "blue", "z1") > green, "an id is not given twice");
}

#[test]
fn tags_and_instances_go_with_their_group() {
    let server = Server::start(&[]);
    let blue = insert(&server, "blue", "z1");
    let tags = |tags: Value| json!({"groupTagsList": [{"groupId": blue, "tags": tags}]});
    call(&server, "insert-group-tags", &tags(json!({"a": "1", "b": "2"})));
    call(&server, "update-group-tags", &tags(json!({"b": "3", "c": "4"})));
    let read =
        |path: &str, field: &str| call(&server, path, &json!({"groupId": blue}))[field].clone();
    let tags_now = || read("get-group-tags", "groupTags")["tags"].clone();
    assert_eq!(tags_now(), json!({"a": "1", "b": "3", "c": "4"}));
    call(&server, "delete-group-tags", &json!({"groupId": blue, "tag": "a", "value": "9"}));
    call(&server, "delete-group-tags", &json!({"groupId": blue, "tag": "b"}));
    assert_eq!(tags_now(), json!({"a": "1", "c": "4"}));
    let listed = json!({"groupInstances": [
        {"groupId": blue, "instanceId": "i1"}, {"groupId": blue, "instanceId": "i2"},
    ]});
    call(&server, "insert-group-instances", &listed);
    call(&server, "insert-group-instances", &listed);
    let instances = read("get-group-instances", "groupInstances");
    assert_eq!(instances.as_array().map(Vec::len), Some(2), "each once");
    call(&server, "delete-group-instances", &json!({"groupInstanceIds": [instances[0]["id"]]}));
    assert_eq!(read("get-group-instances", "groupInstances")[0]["instanceId"], "i2");
    refused(
        &server,
        "insert-group-instances",
        &json!({"groupInstances": [{"groupId": 7, "instanceId": "i"}]}),
        "data-not-found",
    );
    call(&server, "delete-groups", &json!({"groupIds": [blue]}));
    assert_eq!(tags_now(), json!({}));
    assert_eq!(read("get-group-instances", "groupInstances"), json!([]));
    assert_eq!(call(&server, "get-all-group-tags", &json!({}))["allGroupTags"], json!([]));
}

#[test]
fn operators_describe_instances_that_do_not_register() {
    let server = Server::start(&[]);
    let one = json!({
        "serviceId": "S", "instanceId": "i", "groupId": "blue", "ip": "10.0.0.1",
        "machineName": "m", "metadata": {"a": "b"}, "port": 80, "protocol": "http",
        "regionId": "SHA", "zoneId": "z1", "healthCheckUrl": "http://h", "url": "http://u",
        "description": "an old one",
    });
    call(&server, "insert-service-instances", &json!({"serviceInstances": [one]}));
    let read =
        call(&server, "get-service-instances", &json!({"serviceId": "s", "instanceId": "I"}));
    let found = &read["serviceInstances"][0];
    for (field, value) in one.as_object().expect("fields") {
        assert_eq!(found[field], *value, "{field}");
    }
    assert!(discovered(&server).is_empty(), "it is not registered");
    call(&server, "delete-service-instances", &json!({"serviceInstanceIds": [found["id"]]}));
    let read = call(&server, "get-service-instances", &json!({"serviceId": "s"}));
    assert_eq!(read["serviceInstances"], json!([]));
}

#[test]
fn an_operation_on_a_group_reaches_its_instances() {
    let mut server = Server::start(&[]);
    server.register(&[instance("a", "Blue", "z1"), instance("b", "green", "z1")]);
    server.register(&[instance("c", "blue", "z2")]);
    let blue = insert(&server, "blue", "z1");
    let operate = |server: &Server, is_complete: bool| {
        let list = json!([{"groupId": blue, "operations": ["drill"]}]);
        let body = json!({
            "groupOperationsList": list, "operationComplete": is_complete, "operatorId": "ann",
            "reason": "a test",
        });
        call(server, "operate-group-operations", &body);
    };
    operate(&server, false);
    assert_eq!(discovered(&server), ["b", "c"]);
    let read = call(&server, "get-group-operations", &json!({"groupId": blue}));
    assert_eq!(read["groupOperations"]["operations"], json!(["drill"]));
    assert_eq!(read["groupOperations"]["rows"][0]["reason"], "a test");
    assert!(server.stop().success());
    server.restart_in_place();
    assert_eq!(discovered(&server), ["b", "c"]);
    operate(&server, true);
    assert_eq!(discovered(&server), ["a", "b", "c"]);
    // By its names; a group that is not there yet comes with the operation, here for all zones.
    let by_names = |is_complete: bool| {
        let body = json!({
            "serviceId": "s", "regionId": "SHA", "name": "green", "operation": "drill",
            "operationComplete": is_complete,
        });
        call(&server, "operate-group-operation", &body);
    };
    by_names(false);
    assert_eq!(discovered(&server), ["a", "c"]);
    let all = call(&server, "get-all-group-operations", &json!({"regionId": "sha"}));
    assert_eq!(all["allGroupOperations"].as_array().map(Vec::len), Some(1));
    by_names(true);
    assert_eq!(discovered(&server), ["a", "b", "c"]);
    // An operation ends with its group, and follows its names.
    operate(&server, false);
    call(&server, "update-groups", &json!({"groups": [{"groupId": blue, "zoneId": "z2"}]}));
    assert_eq!(discovered(&server), ["a", "b"]);
    call(&server, "delete-groups", &json!({"groupIds": [blue]}));
    assert_eq!(discovered(&server), ["a", "b", "c"]);
    let all = call(&server, "get-all-group-operations", &json!({}));
    assert_eq!(all["allGroupOperations"], json!([]));
    let list = json!({"groupOperationsList": [{"groupId": blue, "operations": ["drill"]}]});
    refused(&server, "operate-group-operations", &list, "data-not-found");
}

#[test]
fn what_is_no_group_is_refused() {
    let server = Server::start(&[]);
    for (path, body) in [
        ("insert-groups", json!({})),
        ("insert-groups", json!({"groups": [{"serviceId": "s"}]})),
        ("insert-groups", json!({"groups": [{"name": "g"}]})),
        ("insert-groups", json!({"groups": [{"serviceId": "s", "name": "g\u{1}"}]})),
        (
            "insert-groups",
            json!({"groups": [{"serviceId": "s", "name": "g", "description": "x".repeat(1025)}]}),
        ),
        ("insert-groups", json!({"groups": "x"})),
        ("insert-group-tags", json!({"groupTagsList": [{"tags": {}}]})),
        ("insert-group-instances", json!({"groupInstances": [{"groupId": 1}]})),
        ("insert-service-instances", json!({"serviceInstances": [{"serviceId": "s"}]})),
        ("delete-groups", json!({"groupIds": ["x"]})),
        ("delete-group-tags", json!({})),
        ("operate-group-operation", json!({"groupId": 1})),
        ("get-group-operations", json!({})),
    ] {
        refused(&server, path, &body, "bad-request");
    }
    let tags = json!({"groupTagsList": [{"groupId": 7, "tags": {"a": "b"}}]});
    refused(&server, "insert-group-tags", &tags, "data-not-found");
    assert_eq!(server.get("/api/management/group/insert-groups.json").status, 405);
}
