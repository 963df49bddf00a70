//! An instance that a client registers stays registered for as long as the client, and no longer.

use fanfare_client::{Client, ServiceEvent};
use fanfare_test_support::client::{agrees, builder, connect, described, eventually, soon, token};
use fanfare_test_support::proxy::FaultyProxy;
use fanfare_test_support::{Server, instance};
use serde_json::{Value, json};

fn names(node: &Server, service: &str) -> Vec<String> {
    let instances = node.discover(service)["instances"].as_array().cloned().unwrap_or_default();
    let name = |one: &Value| one["instanceId"].as_str().expect("a name").to_owned();
    let mut names: Vec<String> = instances.iter().map(name).collect();
    names.sort();
    names
}

fn short(service: &str, name: &str, ttl_ms: u64) -> fanfare_client::Instance {
    fanfare_client::Instance { lease_ttl_ms: Some(ttl_ms), ..described(service, name) }
}

/// Waits until an instance that nobody renews has expired: a clock that the server keeps.
async fn wait_for_expiry(node: &Server, watcher: &Client, ttl_ms: u64) {
    let view = watcher.watch_service("clock").expect("a name");
    let mut changes = view.changes();
    let mut one = instance("clock", "tick");
    one["leaseTtlMs"] = json!(ttl_ms);
    node.register(&[one]);
    loop {
        if let Some(ServiceEvent::Changed(change)) = soon("an event", changes.next()).await
            && change.changes.iter().any(|one| one.reason == "expired")
        {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_are_renewed_together_for_as_long_as_it_takes() {
    let node = Server::start_for_people(&[]);
    let client = connect(&node.url()).await;
    let leases: Vec<_> = (0..40)
        .map(|number| client.register(short("orders", &format!("i{number}"), 1_000)))
        .collect::<Result<_, _>>()
        .expect("good instances");
    for lease in &leases {
        soon("registered", lease.registered()).await.expect("taken");
    }
    let orders = client.watch_service("orders").expect("a name");
    soon("fresh", orders.fresh()).await.expect("allowed");
    let before = orders.state().expect("a state").revision;
    wait_for_expiry(&node, &client, 3_000).await;
    let state = orders.state().expect("a state");
    assert_eq!((state.revision, state.instances.len()), (before, 40), "none has expired");
    assert!(leases.iter().all(|lease| lease.registrations() == 1));
    assert!(agrees(&node, Some(&state)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_lost_its_data_is_told_again() {
    let mut node = Server::start_for_people(&[]);
    let client = connect(&node.url()).await;
    let one = client.register(short("orders", "one", 2_000)).expect("good");
    let two = client.register(short("orders", "two", 2_000)).expect("good");
    for lease in [&one, &two] {
        soon("registered", lease.registered()).await.expect("taken");
    }
    node.kill();
    node.lose_data();
    node.restart_in_place();
    eventually("both are back", || names(&node, "orders") == ["one", "two"]).await;
    let again = || one.registrations() == 2 && two.registrations() == 2;
    eventually("told twice", again).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reconnect_alone_registers_nothing_again() {
    let node = Server::start_for_people(&[]);
    let proxy = FaultyProxy::to(node.address());
    let client = connect(&proxy.url()).await;
    let lease = client.register(short("orders", "one", 60_000)).expect("good");
    soon("registered", lease.registered()).await.expect("taken");
    let before = node.discover("orders")["revision"].clone();
    let mut status = client.watch_status();
    proxy.cut();
    soon("noticed", status.wait_for(|one| !one.is_connected())).await.expect("it lives");
    soon("back", status.wait_for(fanfare_client::Status::is_connected)).await.expect("it lives");
    wait_for_expiry(&node, &client, 1_000).await;
    assert_eq!((lease.registrations(), node.discover("orders")["revision"].clone()), (1, before));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_server_has_forgotten_is_registered_again() {
    let node = Server::start_for_people(&[]);
    let client = connect(&node.url()).await;
    let lease = client.register(short("orders", "one", 1_000)).expect("good");
    soon("registered", lease.registered()).await.expect("taken");
    node.unregister(&[instance("orders", "one")]);
    assert!(names(&node, "orders").is_empty());
    eventually("it is back", || names(&node, "orders") == ["one"]).await;
    eventually("counted", || lease.registrations() == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_leaves_with_who_stands_for_it() {
    let node = Server::start_for_people(&[]);
    let client = connect(&node.url()).await;
    let mut leases = Vec::new();
    for name in ["asked", "dropped", "left", "closed"] {
        let lease = client.register(short("orders", name, 60_000)).expect("good");
        soon("registered", lease.registered()).await.expect("taken");
        leases.push(lease);
    }
    assert!(client.register(described("Orders", "ASKED")).is_err(), "it is the same one");
    let (closed, left) = (leases.pop().expect("four"), leases.pop().expect("four"));
    drop(leases.pop());
    eventually("one is gone", || names(&node, "orders") == ["asked", "closed", "left"]).await;
    let asked = leases.pop().expect("four");
    soon("unregistered", asked.unregister()).await.expect("in time");
    assert_eq!(names(&node, "orders"), ["closed", "left"]);
    left.leave_to_expire();
    soon("closed", client.close()).await.expect("in time");
    assert_eq!(names(&node, "orders"), ["left"]);
    assert!(matches!(closed.registered().await, Err(fanfare_client::Error::Stopped)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_can_be_described_otherwise() {
    let node = Server::start_for_people(&[]);
    let client = connect(&node.url()).await;
    let lease = client.register(described("orders", "one")).expect("good");
    soon("registered", lease.registered()).await.expect("taken");
    let other = fanfare_client::Instance { port: Some(99), ..described("orders", "one") };
    lease.update(other).expect("the same instance");
    eventually("seen", || node.discover("orders")["instances"][0]["port"] == 99).await;
    assert!(lease.update(described("orders", "two")).is_err());
    assert!(client.register(fanfare_client::Instance::default()).is_err(), "it has no name");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_may_not_register_is_told_so() {
    let node = Server::start_for_people(&["--auth", "required"]);
    let token = token("ann", 3_600, "");
    let client = builder(&node.url()).token(token).connect().await.expect("it is there");
    let lease = client.register(described("orders", "one")).expect("good");
    let error = soon("refused", lease.registered()).await.expect_err("no scope");
    assert_eq!(error.code(), Some(fanfare_client::Code::Forbidden), "{error}");
    assert!(!error.is_temporary());
    assert!(client.status().is_connected());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_instances_fit_into_few_messages() {
    let node = Server::start_for_people(&[]);
    let client = connect(&node.url()).await;
    let leases: Vec<_> = (0..1_000)
        .map(|number| client.register(short("orders", &format!("i{number}"), 2_000)))
        .collect::<Result<_, _>>()
        .expect("good instances");
    for lease in &leases {
        soon("registered", lease.registered()).await.expect("taken");
    }
    wait_for_expiry(&node, &client, 3_000).await;
    let service = node.discover("orders");
    assert_eq!(service["instances"].as_array().map(Vec::len), Some(1_000));
    assert_eq!(service["revision"], 1_000, "none was registered twice");
}
