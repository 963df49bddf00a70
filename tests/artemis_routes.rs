//! Route rules as Artemis' operators' tools keep them, and what clients are given of them: with discovery, and on
//! their sockets when they change.

use fanfare_test_support::Server;
use fanfare_test_support::raw::{Raw, text};
use serde_json::{Value, json};

fn call(server: &Server, path: &str, body: &Value) -> Value {
    let reply = server.post_json(&format!("/api/management/group/{path}.json"), body);
    assert_eq!(reply.outcome(), ("success", "success"), "{path}: {}", reply.text);
    reply.body
}

/// A rule with one group, whose weight is a draft. Returns the ids of the rule and the group.
fn rule(server: &Server) -> (u64, u64) {
    let group = json!({
        "serviceId": "S", "regionId": "SHA", "zoneId": "Z1", "name": "Blue", "status": "active",
    });
    call(server, "insert-groups", &json!({"groups": [group]}));
    let rule = json!({
        "serviceId": "S", "name": "by-colour", "status": "active", "strategy": "close-by-visit",
        "description": "blue first",
    });
    call(server, "insert-route-rules", &json!({"routeRules": [rule], "operatorId": "ann"}));
    let id = |path: &str, list: &str, id: &str| {
        let read = call(server, path, &json!({"serviceId": "s"}));
        read[list][0][id].as_u64().expect("an id")
    };
    let ids =
        (id("get-route-rules", "routeRules", "routeRuleId"), id("get-groups", "groups", "groupId"));
    draft(server, ids, 7);
    ids
}

fn draft(server: &Server, (rule, group): (u64, u64), weight: i64) {
    let one =
        json!({"routeRuleId": rule, "groupId": group, "unreleasedWeight": weight, "weight": 9});
    call(server, "insert-route-rule-groups", &json!({"routeRuleGroups": [one]}));
}

fn release(server: &Server, (rule, group): (u64, u64)) {
    let one = json!({"routeRuleId": rule, "groupId": group});
    call(server, "release-route-rule-groups", &json!({"routeRuleGroups": [one]}));
}

fn weight(server: &Server) -> Value {
    server.discover("s")["routeRules"][0]["groups"][0]["weight"].clone()
}

#[test]
fn clients_are_given_the_active_rules_of_a_service() {
    let server = Server::start(&[]);
    let plain = server.discover("s");
    assert!(plain.get("routeRules").is_none() && plain.get("logicInstances").is_none(), "{plain}");
    let ids = rule(&server);
    release(&server, ids);
    call(
        &server,
        "insert-group-tags",
        &json!({"groupTagsList": [{"groupId": ids.1, "tags": {"a": "b"}}]}),
    );
    call(
        &server,
        "insert-group-instances",
        &json!({"groupInstances": [{"groupId": ids.1, "instanceId": "i1"}]}),
    );
    let described = json!({"serviceId": "S", "instanceId": "old", "ip": "10.0.0.9", "port": 80});
    call(&server, "insert-service-instances", &json!({"serviceInstances": [described]}));
    server.register(&[fanfare_test_support::instance("s", "i1")]);
    let want = json!([{"routeId": "by-colour", "strategy": "close-by-visit", "groups": [{
        "groupKey": "s/sha/z1/blue", "weight": 7, "instanceIds": ["i1"], "instances": null,
        "metadata": {"a": "b"},
    }]}]);
    let lookup = server
        .post("/api/discovery/lookup.json", &json!({"discoveryConfigs": [{"serviceId": "s"}]}));
    let all = server.post("/api/discovery/services.json", &json!({}));
    for service in [&server.discover("s"), &lookup["services"][0], &all["services"][0]] {
        assert_eq!(service["routeRules"], want);
        assert_eq!(service["instances"].as_array().map(Vec::len), Some(1));
        let logic = &service["logicInstances"][0];
        assert_eq!(
            (&logic["instanceId"], &logic["ip"], &logic["status"]),
            (&json!("old"), &json!("10.0.0.9"), &json!("up"))
        );
    }
    // Whatever is not active is not given.
    let off = json!({"groups": [{"groupId": ids.1, "status": "inactive"}]});
    call(&server, "update-groups", &off);
    assert_eq!(server.discover("s")["routeRules"], json!([]), "a rule without groups is none");
    call(&server, "update-groups", &json!({"groups": [{"groupId": ids.1, "status": "active"}]}));
    assert_eq!(server.discover("s")["routeRules"], want);
    let off = json!({"routeRules": [{"routeRuleId": ids.0, "status": "inactive"}]});
    call(&server, "update-route-rules", &off);
    assert_eq!(server.discover("s")["routeRules"], json!([]));
}

#[test]
fn a_weight_is_a_draft_until_it_is_released() {
    let server = Server::start(&[]);
    let ids = rule(&server);
    let row = || {
        let read = call(&server, "get-route-rule-groups", &json!({"routeRuleId": ids.0}));
        let row = &read["routeRuleGroups"][0];
        (row["weight"].clone(), row["unreleasedWeight"].clone())
    };
    assert_eq!((weight(&server), row()), (json!(5), (Value::Null, json!(7))), "the default");
    release(&server, ids);
    assert_eq!((weight(&server), row()), (json!(7), (json!(7), json!(7))));
    draft(&server, ids, 20_000);
    assert_eq!((weight(&server), row()), (json!(7), (json!(7), json!(20_000))));
    release(&server, ids);
    assert_eq!(weight(&server), 10_000, "the largest there is");
    for (draft_weight, want) in [(0, 0), (-1, 5), (7, 7)] {
        draft(&server, ids, draft_weight);
        release(&server, ids);
        assert_eq!(weight(&server), want, "released as {draft_weight}");
    }
    let unknown = json!({"routeRuleGroups": [{"routeRuleId": ids.0, "groupId": 7}]});
    for (path, body, code) in [
        ("release-route-rule-groups", &unknown, "data-not-found"),
        ("insert-route-rule-groups", &unknown, "data-not-found"),
        ("release-route-rule-groups", &json!({"routeRuleGroups": [{}]}), "bad-request"),
        ("insert-route-rules", &json!({"routeRules": [{"serviceId": "s"}]}), "bad-request"),
    ] {
        let reply = server.post_json(&format!("/api/management/group/{path}.json"), body);
        assert_eq!(reply.outcome(), ("fail", code), "{path}: {}", reply.text);
    }
    // With its group or its rule the weight goes.
    call(&server, "delete-groups", &json!({"groupIds": [ids.1]}));
    let read = call(&server, "get-all-route-rule-groups", &json!({}));
    assert_eq!(read["routeRuleGroups"], json!([]));
    let (again, _) = rule(&server);
    call(&server, "delete-route-rules", &json!({"routeRuleIds": [again]}));
    let read = call(&server, "get-all-route-rule-groups", &json!({}));
    assert_eq!(read["routeRuleGroups"], json!([]));
    assert!(server.discover("s").get("routeRules").is_none());
}

#[test]
fn subscribers_hear_of_changed_rules() {
    let server = Server::start(&[]);
    server.register(&[fanfare_test_support::instance("s", "i")]);
    let mut own = server.connect();
    own.subscribe("s");
    let mut artemis = Raw::open(server.address(), "/ws/discovery/instance-change");
    artemis.send(&text(&json!({"serviceId": "s"}).to_string()));
    assert_eq!(artemis.json()["changeType"], "reload");
    let ids = rule(&server);
    let frame = own.next_json();
    assert_eq!((&frame["type"], &frame["service_id"]), (&json!("service_rules"), &json!("s")));
    assert_eq!(frame["routeRules"][0]["groups"][0]["weight"], 5);
    assert_eq!(artemis.json()["changeType"], "reload");
    // What is the same for clients is not told: another draft.
    draft(&server, ids, 8);
    release(&server, ids);
    let frame = own.next_json();
    assert_eq!(frame["routeRules"][0]["groups"][0]["weight"], 8);
    assert_eq!(artemis.json()["instance"]["serviceId"], "s");
    call(&server, "delete-route-rules", &json!({"routeRuleIds": [ids.0]}));
    let frame = own.next_json();
    assert_eq!((&frame["routeRules"], &frame["logicInstances"]), (&json!([]), &json!([])));
    assert_eq!(artemis.json()["changeType"], "reload");
}

#[test]
fn a_rule_is_created_with_its_groups() {
    let server = Server::start(&[]);
    let group = |name: &str, weight: i64| {
        json!({
            "serviceId": "S", "regionId": "SHA", "zoneId": "z1", "name": name, "appId": "100",
            "status": "active", "weight": weight,
        })
    };
    let create = |strategy: &str, groups: Value| {
        let rule = json!({
            "serviceId": "s", "name": "by-colour", "status": "active", "strategy": strategy,
        });
        let body = json!({"routeRule": rule, "groups": groups, "operatorId": "ann"});
        call(&server, "create-route-rule", &body);
    };
    create("close-by-visit", json!([group("blue", 3), group("green", 4)]));
    let weights = || {
        let read = call(&server, "get-route-rule-groups", &json!({}));
        let rows = read["routeRuleGroups"].as_array().expect("a list").clone();
        let pair = |row: &Value| (row["weight"].clone(), row["unreleasedWeight"].clone());
        rows.iter().map(pair).collect::<Vec<_>>()
    };
    assert_eq!(weights(), [(Value::Null, json!(3)), (Value::Null, json!(4))]);
    // What is there stays as it is, but for the drafts.
    create("weighted-round-robin", json!([group("BLUE", 6)]));
    assert_eq!(weights(), [(Value::Null, json!(6)), (Value::Null, json!(4))]);
    let rules = &server.discover("s")["routeRules"];
    assert_eq!(rules.as_array().map(Vec::len), Some(1));
    assert_eq!(
        (&rules[0]["strategy"], &rules[0]["groups"][0]["weight"]),
        (&json!("close-by-visit"), &json!(5))
    );
    let refuse = |body: &Value| {
        let path = "/api/management/group/create-route-rule.json";
        let reply = server.post_json(path, body);
        assert_eq!(reply.outcome(), ("fail", "bad-request"), "{body}: {}", reply.text);
    };
    let rule = json!({"serviceId": "s", "name": "r"});
    refuse(&json!({"groups": [group("blue", 1)]}));
    refuse(&json!({"routeRule": rule}));
    refuse(&json!({"routeRule": rule, "groups": []}));
    refuse(&json!({"routeRule": rule, "groups": [{"serviceId": "other", "name": "blue"}]}));
    refuse(&json!({"routeRule": {"name": "r"}, "groups": [group("blue", 1)]}));
}

#[test]
fn canaries_are_one_group_of_one_rule() {
    let mut server = Server::start(&[]);
    let set = |server: &Server, app: &str, ips: &[&str]| {
        let body = json!({
            "serviceId": "S", "appId": app, "canaryIps": ips, "operatorId": "ann",
            "operation": "canary",
        });
        let reply = server.post_json("/api/management/canary/update-canary-ips.json", &body);
        assert_eq!(reply.outcome(), ("success", "success"), "{}", reply.text);
    };
    let rule = |server: &Server| server.discover("s")["routeRules"][0].clone();
    set(&server, "100", &["10.0.0.2", "10.0.0.1", "10.0.0.2"]);
    let want = |ips: Value| {
        json!({"routeId": "canary-route-rule", "strategy": "weighted-round-robin", "groups": [{
            "groupKey": "s/canary/100", "weight": 5, "instanceIds": ips, "instances": null,
            "metadata": null,
        }]})
    };
    assert_eq!(rule(&server), want(json!(["10.0.0.1", "10.0.0.2"])));
    set(&server, "100", &["10.0.0.2", "10.0.0.3"]);
    assert_eq!(rule(&server), want(json!(["10.0.0.2", "10.0.0.3"])), "and no other");
    assert!(server.stop().success());
    server.restart_in_place();
    set(&server, "200", &["10.0.0.9"]);
    let groups = rule(&server)["groups"].clone();
    assert_eq!(groups.as_array().map(Vec::len), Some(2), "one of each application: {groups}");
    set(&server, "200", &[]);
    set(&server, "100", &[]);
    assert_eq!(rule(&server)["groups"][0]["instanceIds"], Value::Null);
    for body in [
        json!({"appId": "1", "canaryIps": []}),
        json!({"serviceId": "s", "canaryIps": []}),
        json!({"serviceId": "s", "appId": "1"}),
        json!({"serviceId": "s", "appId": "1", "canaryIps": [""]}),
    ] {
        let reply = server.post_json("/api/management/canary/update-canary-ips.json", &body);
        assert_eq!(reply.outcome(), ("fail", "bad-request"), "{body}: {}", reply.text);
    }
}

#[test]
fn rules_outlive_a_restart() {
    let mut server = Server::start(&[]);
    server.register(&[fanfare_test_support::instance("s", "i")]);
    let ids = rule(&server);
    release(&server, ids);
    draft(&server, ids, 9);
    assert!(server.stop().success());
    server.restart_in_place();
    assert_eq!(weight(&server), 7);
    release(&server, ids);
    assert_eq!(weight(&server), 9);
}
