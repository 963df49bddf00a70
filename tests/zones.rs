//! A reader that says where it is finds the instances near to it first, and nobody's picture lacks an instance for it.

use fanfare_test_support::{Picture, Server, instance, with};
use serde_json::{Value, json};

const SERVICE: &str = "/api/discovery/service.json";
const SERVICES: &str = "/api/discovery/services.json";
const LOOKUP: &str = "/api/discovery/lookup.json";

fn at(name: &str, region: &str, zone: &str) -> Value {
    with(&with(&instance("orders", name), "regionId", json!(region)), "zoneId", json!(zone))
}

/// Four instances, registered in an order that is no preference's.
fn server() -> Server {
    let server = Server::start(&[]);
    let down = with(&at("down", "eu", "a"), "status", json!("down"));
    server.register(&[at("far", "us", "a"), at("beside", "eu", "b"), down, at("here", "EU", "A")]);
    server
}

fn names(list: &Value) -> Vec<&str> {
    let list = list.as_array().expect("a list").iter();
    list.map(|one| one["instanceId"].as_str().expect("a name")).collect()
}

/// The names at each distance, in any order within one.
fn stand(list: &Value, distances: &[&[&str]]) {
    let mut found = names(list).into_iter();
    for expected in distances {
        let mut group: Vec<&str> = found.by_ref().take(expected.len()).collect();
        group.sort_unstable();
        assert_eq!(group, *expected, "{list}");
    }
    assert_eq!(found.next(), None, "{list}");
}

#[test]
fn near_instances_stand_first_in_every_discovery() {
    let server = server();
    let all: &[&[&str]] = &[&["down", "here"], &["beside"], &["far"]];
    let in_zone_only: &[&[&str]] = &[&["down", "far", "here"], &["beside"]];
    for query in ["region=eu&zone=a", "regionId=EU&zoneId=A"] {
        let reply = server.get(&format!("{SERVICE}?serviceId=orders&{query}"));
        stand(&reply.body["service"]["instances"], all);
    }
    let reply = server.get(&format!("{SERVICE}?serviceId=orders&zone=a"));
    stand(&reply.body["service"]["instances"], in_zone_only);
    let place = json!({"region": "eu", "zone": "a"});
    for wish in [
        json!({"discoveryConfig": {"serviceId": "orders"}, "prefer": place}),
        json!({"discoveryConfig": {"serviceId": "orders"}, "regionId": "eu", "zoneId": "a"}),
        json!({"discovery_config": {"service_id": "orders"}, "region_id": "eu", "zone_id": "a"}),
        // What is said last by name counts.
        json!({"discoveryConfig": {"serviceId": "orders"}, "regionId": "us", "prefer": place}),
    ] {
        stand(&server.post_json(SERVICE, &wish).body["service"]["instances"], all);
    }
    for wish in [
        json!({"discoveryConfigs": [{"serviceId": "orders"}], "prefer": place}),
        json!({"discoveryConfigs": [{"serviceId": "orders"}], "regionId": "eu", "zoneId": "a"}),
    ] {
        stand(&server.post_json(LOOKUP, &wish).body["services"][0]["instances"], all);
    }
    let reply = server.get(&format!("{SERVICES}?region=eu&zone=a"));
    stand(&reply.body["services"][0]["instances"], all);
    stand(
        &server.post_json(SERVICES, &json!({"prefer": place})).body["services"][0]["instances"],
        all,
    );
}

#[test]
fn those_further_away_are_given_while_too_few_are_up_nearby() {
    let server = server();
    let near: &[&[&str]] = &[&["down", "here"]];
    let region: &[&[&str]] = &[&["down", "here"], &["beside"]];
    let all: &[&[&str]] = &[&["down", "here"], &["beside"], &["far"]];
    for (min, expected) in [(0, near), (1, near), (2, region), (3, all), (u32::MAX, all)] {
        let prefer = json!({"region": "eu", "zone": "a", "min": min});
        let wish = json!({"discoveryConfig": {"serviceId": "orders"}, "prefer": prefer});
        stand(&server.post_json(SERVICE, &wish).body["service"]["instances"], expected);
        let query = format!("{SERVICE}?serviceId=orders&region=eu&zone=a&min={min}");
        stand(&server.get(&query).body["service"]["instances"], expected);
    }
}

#[test]
fn a_preference_that_is_none_is_named() {
    let server = server();
    for (prefer, word) in [
        (json!({"zone": 1}), "zone"),
        (json!({"zone": "a\n"}), "prefer.zone"),
        (json!({"region": "x".repeat(256)}), "prefer.region"),
        (json!({"zone": "a", "min": -1}), "min"),
        (json!([]), "prefer"),
    ] {
        let wish = json!({"discoveryConfig": {"serviceId": "orders"}, "prefer": prefer});
        let reply = server.post_json(SERVICE, &wish);
        assert_eq!(reply.outcome(), ("fail", "bad-request"), "{prefer}");
        assert!(reply.text.contains(word), "{prefer}: {}", reply.text);
        let mut client = server.connect();
        client.send_json(&json!({"type": "subscribe", "service_id": "orders", "prefer": prefer}));
        let refused = client.expect_error("invalid_argument");
        let message = refused["message"].as_str().unwrap_or_default();
        assert!(message.contains(word), "{refused}");
    }
    let reply = server.get(&format!("{SERVICE}?serviceId=orders&zone=a&min=few"));
    assert_eq!(reply.outcome(), ("fail", "bad-request"), "{}", reply.text);
    let mut client = server.connect();
    client.send_json(&json!({"type": "subscribe", "service_id": "*", "prefer": {"zone": "a"}}));
    client.expect_error("invalid_argument");
}

#[test]
fn a_snapshot_has_near_instances_first_and_all_of_them() {
    let server = server();
    let all: &[&[&str]] = &[&["down", "here"], &["beside"], &["far"]];
    let prefer = json!({"region": "eu", "zone": "a", "min": 1});
    let subscribe = json!({
        "type": "subscribe", "service_id": "orders", "snapshot": true, "prefer": prefer,
    });
    // The second is sent what was put in order for the first.
    for _ in 0..2 {
        stand(&server.connect().ask(&subscribe, "subscribed")["instances"], all);
    }
    // After a change it is another list, and who prefers nobody gets the registry's own.
    server.register(&[at("new", "eu", "a")]);
    let mut client = server.connect();
    let subscribed = client.ask(&subscribe, "subscribed");
    stand(&subscribed["instances"], &[&["down", "here", "new"], &["beside"], &["far"]]);
    let mut picture = Picture::of_subscribed(&subscribed);
    server.register(&[with(&at("far", "us", "a"), "port", json!(81))]);
    client.catch_up(&mut picture);
    picture.expect_equals_registry(&server);
}

#[test]
fn a_weight_is_kept_and_a_difference() {
    let server = Server::start(&[]);
    let weighted = with(&instance("orders", "one"), "weight", json!(10_000));
    server.register(std::slice::from_ref(&weighted));
    assert_eq!(server.discover("orders")["instances"], json!([weighted]));
    server.register(&[with(&weighted, "weight", json!(0))]);
    let service = server.discover("orders");
    assert_eq!(service["revision"], 2, "a weight is a difference");
    assert_eq!(service["instances"][0]["weight"], 0);
    for weight in [json!(10_001), json!(-1), json!("1"), json!(1.5)] {
        let wrong = json!({"instances": [with(&weighted, "weight", weight)]});
        let reply = server.post_json("/api/registry/register.json", &wrong);
        assert_eq!(reply.outcome().0, "fail", "{}", reply.text);
        assert!(reply.text.contains("weight"), "{}", reply.text);
    }
}
