//! Shards answer discovery reads from cached views; a client that was told of a change never reads
//! the state from before it, on any shard.

use std::time::Duration;

use fanfare_test_support::{Server, eventually, instance, with};
use serde_json::{Value, json};

const LOOKUP: &str = "/api/discovery/lookup.json";
const SERVICES: &str = "/api/discovery/services.json";
const ORDERS: &str = "fanfare_orders_total";

/// The port of the only instance, in each of the three ways to read it.
fn ports(server: &Server) -> [Value; 3] {
    let lookup = json!({"discoveryConfigs": [{"serviceId": "orders"}, {"serviceId": "other"}]});
    let looked_up = server.post_json(LOOKUP, &lookup).body;
    let listed = server.get(SERVICES).body;
    let of = |service: &Value| service["instances"][0]["port"].clone();
    let orders = |answer: &Value| {
        let services = answer["services"].as_array().expect("services");
        of(services.iter().find(|one| one["serviceId"] == "orders").expect("it is there"))
    };
    [of(&server.discover("orders")), orders(&looked_up), orders(&listed)]
}

#[test]
fn whoever_was_told_reads_what_it_was_told() {
    let server = Server::start(&["--shards", "3"]);
    server.register(&[instance("other", "one")]);
    for port in 1..100 {
        // Every request has a connection of its own, and so a shard of its own.
        server.register(&[with(&instance("orders", "one"), "port", port.into())]);
        assert_eq!(ports(&server), [json!(port), json!(port), json!(port)]);
    }
    assert!(server.operate(&instance("orders", "one"), false).body.is_object());
    assert_eq!(ports(&server), [Value::Null, Value::Null, Value::Null]);
}

#[test]
fn reading_again_does_not_trouble_control() {
    let server = Server::start(&[]);
    server.register(&[instance("orders", "one"), instance("other", "one")]);
    let first = ports(&server);
    for _ in 0..50 {
        // The server gives control an order of its own now and then. A round in which one fell is repeated.
        eventually("a round of reads without an order", Duration::from_secs(20), || {
            let before = server.count(ORDERS);
            assert_eq!(ports(&server), first);
            server.count(ORDERS) == before
        });
    }
    server.register(&[with(&instance("orders", "one"), "port", 9.into())]);
    assert_ne!(ports(&server), first);
}
