//! The registry's HTTP calls answer as Artemis clients expect: business errors inside a 200, faults
//! of the request itself as a problem with the right status.

use fanfare_test_support as support;
use fanfare_test_support::{Picture, Server, assert_is_time, instance, instances, with};
use serde_json::{Value, json};

const REGISTER: &str = "/api/registry/register.json";
const HEARTBEAT: &str = "/api/registry/heartbeat.json";
const UNREGISTER: &str = "/api/registry/unregister.json";
const SERVICE: &str = "/api/discovery/service.json";
const SERVICES: &str = "/api/discovery/services.json";
const LOOKUP: &str = "/api/discovery/lookup.json";
const DELTA: &str = "/api/discovery/services-delta.json";
const OPERATE: &str = "/api/management/instance/operate-instance.json";

/// Every path that takes a JSON body by POST.
const POSTS: [&str; 8] =
    [REGISTER, HEARTBEAT, UNREGISTER, SERVICE, SERVICES, LOOKUP, DELTA, OPERATE];

fn key(service: &str, name: &str) -> Value {
    json!({"regionId": "r1", "serviceId": service, "instanceId": name})
}

#[test]
fn registered_instances_are_discovered_as_they_were_sent() {
    let server = Server::start(&[]);
    let full = json!({
        "regionId": "SHA", "zoneId": "Z", "groupId": "g", "serviceId": "Orders",
        "instanceId": "One", "machineName": "m", "ip": "10.0.0.1", "port": 65_535,
        "protocol": "https", "url": "https://10.0.0.1/\u{e9}\u{1F389}", "healthCheckUrl": "/up",
        "status": "starting", "metadata": {"zone": "a\"b\\", "weight": 5}, "leaseTtlMs": 60_000,
    });
    let bare = json!({"serviceId": "Orders", "instanceId": "two"});
    let reply = server.post_json(REGISTER, &json!({"instances": [full, bare]}));
    assert_eq!(reply.outcome(), ("success", "success"));
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.body["failedInstances"], json!([]));
    let service = server.discover("oRDERS");
    assert_eq!(service["serviceId"], "orders");
    assert_eq!((&service["revision"], &service["degraded"]), (&json!(2), &json!(false)));
    assert!(service["metadata"].is_object(), "{service}");
    let found = service["instances"].as_array().expect("instances");
    assert_eq!(found.len(), 2);
    assert!(found.contains(&full), "{service}");
    assert!(found.iter().any(|one| one["instanceId"] == "two" && one["serviceId"] == "Orders"));
}

#[test]
fn snake_case_is_understood_and_unknown_fields_are_ignored() {
    let server = Server::start(&[]);
    let snake = json!({
        "region_id": "r1", "zone_id": "z", "group_id": "g", "service_id": "orders",
        "instance_id": "one", "machine_name": "m", "health_check_url": "/up",
        "lease_ttl_ms": 5_000, "colour": "green",
    });
    let reply = server.post_json(REGISTER, &json!({"instances": [snake], "mood": 1}));
    assert_eq!(reply.outcome(), ("success", "success"), "{}", reply.text);
    let service = server.discover("orders");
    let found = &service["instances"][0];
    for (field, value) in [
        ("regionId", json!("r1")),
        ("zoneId", json!("z")),
        ("groupId", json!("g")),
        ("serviceId", json!("orders")),
        ("instanceId", json!("one")),
        ("machineName", json!("m")),
        ("healthCheckUrl", json!("/up")),
        ("leaseTtlMs", json!(5_000)),
    ] {
        assert_eq!(found[field], value, "{field} of {found}");
    }
    let keys = json!([{"region_id": "r1", "service_id": "orders", "instance_id": "one"}]);
    let reply = server.post_json(HEARTBEAT, &json!({"instance_keys": keys}));
    assert_eq!(reply.outcome(), ("success", "success"), "{}", reply.text);
}

#[test]
fn every_path_works_without_json_at_its_end() {
    let server = Server::start(&[]);
    let bare = |path: &str| path.strip_suffix(".json").expect("it ends so").to_owned();
    let one = instance("orders", "one");
    for path in [REGISTER, HEARTBEAT] {
        let reply = server.post_json(&bare(path), &json!({"instances": [one]}));
        assert_eq!(reply.outcome(), ("success", "success"), "{path}");
    }
    let wish = json!({"discoveryConfig": {"serviceId": "orders"}});
    assert_eq!(server.post_json(&bare(SERVICE), &wish).outcome().0, "success");
    assert_eq!(server.get("/api/discovery/service?serviceId=orders").outcome().0, "success");
    assert_eq!(server.get(&bare(SERVICES)).outcome().0, "success");
    assert_eq!(server.post_json(&bare(SERVICES), &json!({})).outcome().0, "success");
    let wish = json!({"discoveryConfigs": [{"serviceId": "orders"}]});
    assert_eq!(server.post_json(&bare(LOOKUP), &wish).outcome().0, "success");
    let wish = json!({"instanceKey": key("orders", "one"), "operation": "pull-out",
        "operationComplete": false, "operatorId": "ada"});
    assert_eq!(server.post_json(&bare(OPERATE), &wish).outcome().0, "success");
    for name in ["node", "cluster", "leases", "config"] {
        assert_eq!(server.get(&format!("/api/status/{name}")).status, 200, "{name}");
        let path = format!("/api/status/{name}.json");
        assert_eq!(server.get(&path).status, 200, "{name}");
        assert_eq!(server.post_json(&path, &json!({})).status, 200, "{name}");
    }
}

#[test]
fn a_bad_entry_fails_alone_and_only_all_of_them_are_a_failure() {
    let server = Server::start(&[]);
    let good = instance("orders", "one");
    let bad = [
        json!({"instanceId": "no-service"}),
        json!({"serviceId": "no-instance"}),
        with(&good, "serviceId", json!("")),
        with(&good, "port", json!(70_000)),
        with(&good, "status", json!("dancing")),
        with(&good, "leaseTtlMs", json!(999)),
        with(&good, "leaseTtlMs", json!(3_600_001)),
        json!("not an object"),
    ];
    for entry in &bad {
        let reply = server.post_json(REGISTER, &json!({"instances": [entry]}));
        assert_eq!(reply.outcome(), ("fail", "bad-request"), "{entry}");
        let failed = &reply.body["failedInstances"][0];
        assert_eq!(failed["errorCode"], "bad-request", "{entry}");
        assert!(failed["errorMessage"].as_str().is_some_and(|text| !text.is_empty()), "{failed}");
        let reply = server.post_json(REGISTER, &json!({"instances": [entry, good]}));
        assert_eq!(reply.outcome(), ("partial_fail", "bad-request"), "{entry}");
        let failed = reply.body["failedInstances"].as_array().expect("a list");
        assert_eq!(failed.len(), 1, "{entry}");
    }
    assert_eq!(server.discover("orders")["revision"], 1, "the good one, once");
    for ttl in [1_000, 3_600_000] {
        server.register(&[with(&instance("edges", "one"), "leaseTtlMs", json!(ttl))]);
    }
}

#[test]
fn what_is_wrong_with_a_body_is_named() {
    let server = Server::start(&[]);
    let good = instance("orders", "one");
    let entries = [good.clone(), good.clone(), good.clone(), with(&good, "port", json!("80"))];
    let reply = server.post_json(REGISTER, &json!({"instances": entries}));
    let failed = &reply.body["failedInstances"][0];
    let message = "instances[3].port: expected an integer 0..65535, got a string";
    assert_eq!(failed["errorMessage"], message);
    assert_eq!(
        reply.body["responseStatus"]["message"].as_str().map(|text| text.ends_with(message)),
        Some(true)
    );
    for (path, body, words) in [
        (
            HEARTBEAT,
            json!({"instanceKeys": [{"serviceId": 7}]}),
            "instanceKeys[0].serviceId: expected a string, got an integer",
        ),
        (HEARTBEAT, json!({"instances": "x"}), "instances: expected an array, got a string"),
        (REGISTER, json!({"instances": [[]]}), "instances[0]: expected an object, got an array"),
        (
            REGISTER,
            json!({"instances": [{"status": "dancing"}]}),
            "instances[0].status: expected one of starting, up",
        ),
        (
            "/api/discovery/service.json",
            json!({"discoveryConfig": {"serviceId": 7}}),
            "discoveryConfig.serviceId: expected a string",
        ),
        (
            "/api/management/instance/operate-instance.json",
            json!({"operationComplete": "yes"}),
            "operationComplete: expected true or false, got a string",
        ),
        (
            "/api/management/services/s/self-protection",
            json!({"enabled": 1}),
            "enabled: expected true or false, got an integer",
        ),
        ("/api/v1/channels", json!({"name": ["x"]}), "name: expected a string, got an array"),
        (
            "/api/v1/channels/c/messages",
            json!({"payload": {"a": 1}, "event": 5}),
            "event: expected a string, got an integer",
        ),
        (
            "/ws/broadcast",
            json!({"message_type": "m", "data": {}, "only_to": ["a", 1]}),
            "only_to[1]: expected a string, got an integer",
        ),
        (
            "/api/v1/users/login",
            json!({"username": "ann", "password": 12_345_678}),
            "password: expected a string, got an integer",
        ),
    ] {
        let reply = server.post_json(path, &body);
        assert!(reply.text.contains(words), "{path}: {}", reply.text);
    }
    let long = "secret".repeat(1_000);
    let reply = server.post_json("/api/v1/users/login", &json!({"username": [long]}));
    assert!(!reply.text.contains("secret") && reply.text.len() < 1_000, "{}", reply.text);
    for (body, place) in [
        (&b"{\"instances\": [\n  {\"port\": 80,}\n]}"[..], "line 2 column 15"),
        (b"nonsense", "line 1 column 2"),
        (b"{\"a\":\n\"\xff\"}", "not UTF-8 at line 2 column 2"),
        (b"", "line 1 column 0"),
        (b"{\"instances\":[]", "line 1 column 15"),
    ] {
        for path in [REGISTER, HEARTBEAT, "/api/v1/channels", "/ws/broadcast"] {
            let reply = server.request("POST", path, &[("Content-Type", "application/json")], body);
            reply.expect_problem(400, "malformed");
            assert!(reply.text.contains(place), "{path}: {}", reply.text);
        }
    }
    let mut client = server.connect();
    client.send_json(&json!({"type": "subscribe", "service_id": 7, "id": 1}));
    let refusal = client.find_type("error");
    assert_eq!(refusal["message"], "service_id: expected a string, got an integer");
    client.send_json(
        &json!({"type": "register", "instances": [good, {"serviceId": "s", "port": -1}]}),
    );
    let answer = client.find_type("registered");
    let message = "instances[1].port: expected an integer 0..65535, got -1";
    assert_eq!(answer["failed_instances"][0]["errorMessage"], message);
    client.send_text("{\"type\":\"ping\"");
    let refusal = client.find_type("error");
    assert_eq!(refusal["code"], "malformed");
    assert!(
        refusal["message"].as_str().is_some_and(|text| text.ends_with("line 1 column 14")),
        "{refusal}"
    );
}

#[test]
fn heartbeats_of_unknown_instances_fail_and_the_others_are_renewed() {
    let server = Server::start(&[]);
    let one = instance("orders", "one");
    server.register(std::slice::from_ref(&one));

    let keys = json!([key("orders", "one"), key("orders", "gone"), key("none", "x")]);
    let reply = server.post_json(HEARTBEAT, &json!({"instanceKeys": keys}));
    assert_eq!(reply.outcome(), ("partial_fail", "data-not-found"));
    assert_eq!(reply.body["failedInstances"], json!([]));
    let failed = reply.body["failedInstanceKeys"].as_array().expect("a list");
    assert_eq!(failed.len(), 2);
    for (entry, name) in failed.iter().zip(["gone", "x"]) {
        assert_eq!(entry["instanceKey"]["instanceId"], name, "{entry}");
        assert_eq!(entry["errorCode"], "data-not-found", "{entry}");
    }

    let reply = server.post_json(HEARTBEAT, &json!({"instances": [instance("orders", "gone")]}));
    assert_eq!(reply.outcome(), ("fail", "data-not-found"));
    assert_eq!(reply.body["failedInstances"][0]["instance"]["instanceId"], "gone");
    assert_eq!(reply.body["failedInstanceKeys"], json!([]));

    // Identity does not look at case.
    let loud = json!({"regionId": "R1", "serviceId": "ORDERS", "instanceId": "ONE"});
    let reply = server.post_json(HEARTBEAT, &json!({"instanceKeys": [loud]}));
    assert_eq!(reply.outcome(), ("success", "success"));
}

#[test]
fn unregistering_something_unknown_succeeds() {
    let server = Server::start(&[]);
    server.register(&instances("orders", 2));
    let keys = json!([key("orders", "i0"), key("orders", "never"), key("none", "x")]);
    let reply = server.post_json(UNREGISTER, &json!({"instanceKeys": keys}));
    assert_eq!(reply.outcome(), ("success", "success"));
    assert_eq!(reply.body["failedInstances"], json!([]));
    assert_eq!(reply.body["failedInstanceKeys"], json!([]));
    let left = Picture::of_discovered(&server.discover("orders"));
    assert_eq!((left.names(), left.revision), (vec!["i1"], 3));
    let reply = server.post_json(UNREGISTER, &json!({"instanceKeys": [{"serviceId": "orders"}]}));
    assert_eq!(reply.outcome(), ("fail", "bad-request"));
}

#[test]
fn an_empty_service_has_a_revision_and_one_never_seen_has_none() {
    let server = Server::start(&[]);
    server.register(&[instance("orders", "one")]);
    server.unregister(&[instance("orders", "one")]);
    let service = server.discover("orders");
    assert_eq!((&service["instances"], &service["revision"]), (&json!([]), &json!(2)));
    let never = "/api/discovery/service.json?serviceId=Never";
    let wish = json!({"discoveryConfig": {"serviceId": "never"}});
    let is_unseen = |reply: &support::Reply| {
        assert_eq!(reply.outcome(), ("success", "success"));
        let found = &reply.body["service"];
        assert_eq!((&found["instances"], &found["revision"]), (&json!([]), &json!(0)));
        assert_eq!((&found["serviceId"], &found["epoch"]), (&json!("never"), &service["epoch"]));
    };
    is_unseen(&server.get(never));
    is_unseen(&server.post_json(SERVICE, &wish));
    // Following it does not make it seen.
    server.connect().subscribe("never");
    is_unseen(&server.get(never));
    let listed = &server.get(SERVICES).body["services"];
    assert_eq!(listed.as_array().map(Vec::len), Some(1));
}

#[test]
fn discovery_names_what_is_missing() {
    let server = Server::start(&[]);
    for (path, wish) in [
        (SERVICE, json!({})),
        (SERVICE, json!({"discoveryConfig": {}})),
        (SERVICE, json!({"discoveryConfig": {"serviceId": ""}})),
        (SERVICE, json!({"discoveryConfig": {"serviceId": 5}})),
        (LOOKUP, json!({})),
        (LOOKUP, json!({"discoveryConfigs": [{}]})),
        (DELTA, json!({})),
        (DELTA, json!({"version": "seven"})),
        (REGISTER, json!({})),
        (REGISTER, json!({"instances": 5})),
        (HEARTBEAT, json!({})),
        (UNREGISTER, json!({"instanceKeys": {}})),
        (OPERATE, json!({})),
        (OPERATE, json!({"instanceKey": key("a", "b"), "operation": "dance"})),
    ] {
        let reply = server.post_json(path, &wish);
        assert_eq!(reply.outcome(), ("fail", "bad-request"), "{path} {wish}");
    }
    assert_eq!(server.get(SERVICE).outcome(), ("fail", "bad-request"));
}

#[test]
fn region_and_zone_of_a_discovery_do_not_filter() {
    let server = Server::start(&[]);
    server.register(&[
        instance("orders", "one"),
        with(&instance("orders", "one"), "regionId", json!("r2")),
    ]);
    let wish =
        json!({"discoveryConfig": {"serviceId": "orders"}, "regionId": "r2", "zoneId": "z9"});
    let reply = server.post_json(SERVICE, &wish);
    assert_eq!(reply.body["service"]["instances"].as_array().map(Vec::len), Some(2));
}

#[test]
fn lookup_finds_the_known_services_and_services_all_of_them() {
    let server = Server::start(&[]);
    server.register(&[instance("a", "one"), instance("b", "one"), instance("c", "one")]);
    let names = |body: &Value| {
        let list = body["services"].as_array().expect("services").iter();
        let mut names: Vec<String> = list
            .map(|service| {
                assert_eq!(service["revision"], 1, "{service}");
                assert_eq!(service["instances"].as_array().map(Vec::len), Some(1), "{service}");
                service["serviceId"].as_str().expect("a name").to_owned()
            })
            .collect();
        names.sort_unstable();
        names
    };
    let wish = json!({"discoveryConfigs": [{"serviceId": "A"}, {"serviceId": "c"}]});
    let reply = server.post_json(LOOKUP, &wish);
    assert_eq!(reply.outcome(), ("success", "success"));
    assert_eq!(names(&reply.body), ["a", "c"]);
    let reply = server.get(SERVICES);
    assert_eq!(reply.outcome(), ("success", "success"));
    assert_eq!(names(&reply.body), ["a", "b", "c"]);
    assert!(reply.body["version"].is_u64(), "{}", reply.text);
}

#[test]
fn services_delta_tells_what_changed_since_a_version() {
    let server = Server::start(&[]);
    server.register(&[instance("a", "one")]);
    let version = server.get(SERVICES).body["version"].clone();
    let delta = |version: &Value| server.post_json(DELTA, &json!({"version": version}));

    let reply = delta(&version);
    assert_eq!(reply.outcome(), ("success", "success"));
    assert_eq!((&reply.body["changes"], &reply.body["version"]), (&json!({}), &version));

    server.register(&[with(&instance("A", "one"), "port", json!(9)), instance("b", "one")]);
    server.unregister(&[instance("b", "one")]);
    let reply = delta(&version);
    let kinds = |service: &str| -> Vec<Value> {
        let list = reply.body["changes"][service].as_array().expect("a list").iter();
        list.inspect(|change| assert_is_time(&change["changeTime"]))
            .map(|change| change["changeType"].clone())
            .collect()
    };
    assert_eq!(kinds("a"), ["change"]);
    assert_eq!(kinds("b"), ["new", "delete"]);
    assert_eq!(reply.body["changes"].as_object().map(serde_json::Map::len), Some(2));
    let newest = &reply.body["version"];
    assert!(newest.as_u64() > version.as_u64(), "{newest} after {version}");
    assert_eq!(server.get(SERVICES).body["version"], *newest);
    assert_eq!(delta(newest).body["changes"], json!({}));

    let ahead = json!(newest.as_u64().expect("a number") + 1);
    assert_eq!(delta(&ahead).outcome(), ("fail", "data-not-found"));
}

#[test]
fn services_delta_of_a_version_long_gone_is_not_found() {
    let server = Server::start(&[]);
    server.register(&[instance("a", "one")]);
    let version = server.get(SERVICES).body["version"].clone();
    let batch = instances("busy", 9_000);
    for _ in 0..2 {
        server.register(&batch);
        server.unregister(&batch);
    }
    let reply = server.post_json(DELTA, &json!({"version": version}));
    assert_eq!(reply.outcome(), ("fail", "data-not-found"));
}

#[test]
fn ten_thousand_instances_fit_in_one_request() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let mut picture = client.follow("orders");
    let all = instances("orders", 10_000);
    let reply = server.post_json(REGISTER, &json!({"instances": all}));
    assert_eq!(reply.outcome(), ("success", "success"));
    client.catch_up(&mut picture);
    assert_eq!((picture.revision, picture.instances.len()), (10_000, 10_000));
    picture.expect_equals_registry(&server);

    let mut keys: Vec<Value> = (0..10_000).map(|n| key("orders", &format!("i{n}"))).collect();
    let reply = server.post_json(HEARTBEAT, &json!({"instanceKeys": keys}));
    assert_eq!(reply.outcome(), ("success", "success"));
    for (n, name) in [(0, "x"), (5_500, "y"), (9_999, "z")] {
        keys[n] = key("orders", name);
    }
    let reply = server.post_json(HEARTBEAT, &json!({"instanceKeys": keys}));
    assert_eq!(reply.outcome(), ("partial_fail", "data-not-found"));
    let failed = reply.body["failedInstanceKeys"].as_array().expect("a list").iter();
    let names: Vec<&str> =
        failed.filter_map(|entry| entry["instanceKey"]["instanceId"].as_str()).collect();
    assert_eq!(names, ["x", "y", "z"]);

    let reply = server.post_json(UNREGISTER, &json!({"instanceKeys": keys}));
    assert_eq!(reply.outcome(), ("success", "success"));
    client.catch_up(&mut picture);
    assert_eq!(picture.names(), ["i0", "i5500", "i9999"]);
    picture.expect_equals_registry(&server);
}

#[test]
fn a_pulled_out_instance_is_registered_but_not_discovered() {
    let server = Server::start(&[]);
    let one = instance("orders", "one");
    server.register(&[one.clone(), instance("orders", "two")]);
    let mut client = server.connect();
    let mut picture = client.follow("orders");
    let names = |server: &Server| {
        let picture = Picture::of_discovered(&server.discover("orders"));
        (picture.names().join(" "), picture.revision)
    };

    assert_eq!(server.operate(&one, false).outcome(), ("success", "success"));
    assert_eq!(names(&server), ("two".to_owned(), 3));
    // A second time is no change.
    assert_eq!(server.operate(&one, false).outcome(), ("success", "success"));
    server.heartbeat(std::slice::from_ref(&one));
    // Neither the same registration nor another brings it back, or makes a revision.
    server.register(std::slice::from_ref(&one));
    let moved = with(&one, "port", json!(9_999));
    server.register(std::slice::from_ref(&moved));
    assert_eq!(names(&server), ("two".to_owned(), 3));
    let fresh = server.connect().follow("orders");
    assert_eq!(fresh.names(), ["two"], "a snapshot does not show it either");

    assert_eq!(server.operate(&one, true).outcome(), ("success", "success"));
    client.catch_up(&mut picture);
    assert_eq!(picture.revision, 4);
    assert_eq!(picture.instances["r1/orders/one"], moved, "the newest registration");
    picture.expect_equals_registry(&server);

    // The operator's word outlives the registration.
    server.operate(&one, false);
    server.unregister(std::slice::from_ref(&one));
    server.register(std::slice::from_ref(&one));
    assert_eq!(names(&server).0, "two");
    client.catch_up(&mut picture);
    picture.expect_equals_registry(&server);

    let unknown = instance("orders", "never");
    assert_eq!(server.operate(&unknown, false).outcome(), ("fail", "data-not-found"));
}

#[test]
fn what_is_no_json_object_is_a_problem() {
    let server = Server::start(&[]);
    let json_body = [("Content-Type", "application/json; charset=utf-8")];
    for path in POSTS {
        for body in ["", "nope", "{\"instances\":[", "5", "\"x\"", "null"] {
            let reply = server.request("POST", path, &json_body, body.as_bytes());
            reply.expect_problem(400, "malformed");
        }
    }
}

#[test]
fn bodies_have_to_be_declared_as_json() {
    let server = Server::start(&[]);
    for path in POSTS {
        server.request("POST", path, &[], b"{}").expect_problem(415, "invalid_argument");
        for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp"] {
            let reply = server.request("POST", path, &[("Content-Type", kind)], b"{}");
            reply.expect_problem(415, "invalid_argument");
        }
    }
}

#[test]
fn wrong_methods_are_told_the_right_ones() {
    let server = Server::start(&[]);
    let allows = |method: &str, path: &str, allowed: &[&str]| {
        let reply = server.request(method, path, &[("Content-Type", "application/json")], b"");
        reply.expect_problem(405, reply.body["code"].as_str().unwrap_or_default());
        let allow = reply.header("allow").unwrap_or_default();
        for &method in allowed {
            assert!(allow.split(", ").any(|one| one == method), "{path}: Allow: {allow}");
        }
    };
    for path in [REGISTER, HEARTBEAT, UNREGISTER, LOOKUP, DELTA, OPERATE] {
        allows("GET", path, &["POST"]);
        allows("DELETE", path, &["POST"]);
    }
    for path in [SERVICE, SERVICES, "/api/status/node.json", "/api/status/config.json"] {
        allows("PUT", path, &["GET", "POST"]);
    }
    allows("POST", "/health", &["GET"]);
    allows("POST", "/metrics", &["GET"]);
    allows("POST", "/ws", &["GET"]);
}

#[test]
fn unknown_paths_are_not_found() {
    let server = Server::start(&[]);
    for path in ["/nope", "/api", "/api/registry", "/api/registry/register.json/", "/healthy"] {
        server.get(path).expect_problem(404, "not_found");
        server.post_json(path, &json!({})).expect_problem(404, "not_found");
    }
}

#[test]
fn bodies_over_the_limit_are_refused_before_they_arrive() {
    let server = Server::start(&[]);
    for (path, limit) in [(REGISTER, 8 << 20), (HEARTBEAT, 8 << 20), (LOOKUP, 1 << 20)] {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            limit + 1
        );
        server.raw(head.as_bytes()).expect_problem(413, "too_large");
        // In chunks nobody declares how much there will be.
        let chunk = "x".repeat(64 << 10);
        let mut text = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Transfer-Encoding: chunked\r\n\r\n"
        );
        for _ in 0..=(limit / chunk.len()) {
            text += &format!("{:x}\r\n{chunk}\r\n", chunk.len());
        }
        server.raw(text.as_bytes()).expect_problem(413, "too_large");
    }
    // Exactly the limit is no offence of size.
    let mut body = String::from("{\"version\":0,\"x\":\"");
    body += &"y".repeat((1 << 20) - body.len() - 2);
    body += "\"}";
    let headers = [("Content-Type", "application/json")];
    assert_eq!(server.request("POST", DELTA, &headers, body.as_bytes()).status, 200);
}

#[test]
fn heads_over_the_limit_are_refused() {
    let server = Server::start(&[]);
    let long = "x".repeat(17 << 10);
    let head = format!("GET /health HTTP/1.1\r\nHost: localhost\r\nX-Long: {long}\r\n\r\n");
    assert_eq!(server.raw(head.as_bytes()).status, 431);
    let many = "X-Many: 1\r\n".repeat(101);
    let head = format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{many}\r\n");
    assert_eq!(server.raw(head.as_bytes()).status, 431);
    assert_eq!(server.raw(b"nonsense\r\n\r\n").status, 400);
}

#[test]
fn one_connection_serves_many_requests() {
    let server = Server::start(&[]);
    let get = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let last = "GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let mut stream = std::net::TcpStream::connect(server.address()).expect("accepted");
    stream.set_read_timeout(Some(support::READ_PATIENCE)).expect("a timeout above zero");
    std::io::Write::write_all(&mut stream, format!("{get}{get}{last}").as_bytes()).expect("sent");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut stream, &mut text).expect("answers, then the end");
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 3, "{text}");
    assert_eq!(text.matches("{\"status\":\"up\"}").count(), 2, "{text}");
}

#[test]
fn health_and_ready_say_so() {
    let server = Server::start(&[]);
    assert_eq!(server.get("/health").body, json!({"status": "up"}));
    let ready = server.get("/ready");
    assert_eq!(ready.status, 200);
    for check in ["storage", "cluster", "shards"] {
        assert!(ready.body["checks"][check].is_string(), "{}", ready.text);
    }
}
