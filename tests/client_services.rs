//! A client's picture of services is the registry's, whatever happens to the server or the
//! connection in between.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fanfare_client::{ChangeType, ServiceEvent, Status};
use fanfare_test_support::client::{agrees, builder, connect, eventually, soon};
use fanfare_test_support::proxy::FaultyProxy;
use fanfare_test_support::{Server, instance};
use serde_json::{Value, json};

/// What events add up to: the epoch, the revision and the names.
#[derive(Debug, Default, PartialEq)]
struct Sum {
    epoch: String,
    revision: u64,
    names: BTreeMap<String, Value>,
}

impl Sum {
    fn add(&mut self, event: &ServiceEvent) {
        let value = |one: &fanfare_client::Instance| serde_json::to_value(one).expect("JSON");
        let name = |one: &fanfare_client::Instance| one.instance_id.as_deref().map(str::to_owned);
        match event {
            ServiceEvent::Snapshot(state) => {
                (self.epoch, self.revision) = (state.epoch.to_string(), state.revision);
                let all = state.instances.iter();
                self.names = all.map(|one| (name(one).expect("a name"), value(one))).collect();
            }
            ServiceEvent::Changed(change) => {
                assert_eq!((&*change.epoch, change.from), (&*self.epoch, self.revision));
                self.revision = change.revision;
                for one in &change.changes {
                    let id = name(&one.instance).expect("a name");
                    match one.change_type {
                        ChangeType::Delete => _ = self.names.remove(&id).expect("it was there"),
                        _ => _ = self.names.insert(id, value(&one.instance)),
                    }
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

fn many(service: &str, count: usize) -> Vec<Value> {
    (0..count).map(|number| instance(service, &format!("i{number}"))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_equals_the_registry_across_kills() {
    let mut node = Server::start_for_people(&[]);
    let client = connect(&node.url()).await;
    let orders = client.watch_service("Orders").expect("a name");
    let mut changes = orders.changes();
    soon("a first state", orders.fresh()).await.expect("allowed");
    assert_eq!(orders.instances().len(), 0);
    for round in 0..3 {
        node.register(&many("orders", 5 + round));
        eventually("the view has them", || agrees(&node, orders.state().as_ref())).await;
        assert!(!orders.is_stale());
        node.kill();
        eventually("the view knows that it is old", || orders.is_stale()).await;
        assert!(!orders.instances().is_empty(), "what was known stays");
        assert!(orders.age().expect("an age") < Duration::from_mins(1));
        node.restart_in_place();
        node.register(&[instance("orders", "after")]);
        soon("fresh again", orders.fresh()).await.expect("allowed");
        eventually("the same again", || agrees(&node, orders.state().as_ref())).await;
    }
    let mut sum = Sum::default();
    let goal = orders.state().expect("a state");
    while (sum.epoch.as_str(), sum.revision) != (&*goal.epoch, goal.revision) {
        sum.add(&soon("an event", changes.next()).await.expect("the stream goes on"));
    }
    assert_eq!(sum.names.len(), goal.instances.len(), "events add up to the same");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_server_is_returned_to_when_it_said() {
    let mut node = Server::start_for_people(&["--drain-window", "1s"]);
    let client = connect(&node.url()).await;
    let orders = client.watch_service("orders").expect("a name");
    node.register(&many("orders", 3));
    eventually("the view has them", || agrees(&node, orders.state().as_ref())).await;
    let before = orders.state().expect("a state");
    let mut status = client.watch_status();
    node.terminate();
    let wait = soon("sent away", status.wait_for(|one| matches!(one, Status::Waiting { .. })));
    let told = wait.await.expect("the client lives").clone();
    let Status::Waiting { error, .. } = told else { panic!("{told:?}") };
    assert!(matches!(error, fanfare_client::Error::Closed { code: 1001, .. }), "{error}");
    node.wait();
    node.restart_in_place();
    soon("fresh again", orders.fresh()).await.expect("allowed");
    assert_eq!(orders.state().expect("a state").epoch, before.epoch, "a clean stop goes on");
    node.register(&many("orders", 4));
    eventually("the same again", || agrees(&node, orders.state().as_ref())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_says_nothing_is_given_up() {
    let node = Server::start_for_people(&[]);
    let quick = builder(&node.url())
        .keepalive(Duration::from_millis(200))
        .connect_timeout(Duration::from_millis(800));
    let client = quick.connect().await.expect("it is there");
    let orders = client.watch_service("orders").expect("a name");
    soon("fresh", orders.fresh()).await.expect("allowed");
    let mut status = client.watch_status();
    node.signal("STOP");
    let given_up = status.wait_for(|one| matches!(one, Status::Waiting { .. }));
    let told = soon("given up", given_up).await.expect("it lives").clone();
    assert!(orders.is_stale(), "{told:?}");
    node.signal("CONT");
    soon("fresh again", orders.fresh()).await.expect("allowed");
    node.register(&many("orders", 2));
    eventually("the same again", || agrees(&node, orders.state().as_ref())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_server_of_the_list_is_tried() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = gone.local_addr().expect("it listens");
    drop(gone);
    let node = Server::start_for_people(&[]);
    let client = builder(&format!("ws://{address}")).url(node.url()).connect().await;
    let client = client.expect("the second one is there");
    let Status::Connected { url, .. } = client.status() else { panic!("{:?}", client.status()) };
    assert!(url.starts_with(&node.url()), "{url}");
    node.register(&many("orders", 1));
    let orders = client.watch_service("orders").expect("a name");
    soon("ready", orders.ready()).await.expect("allowed");
    assert!(agrees(&node, orders.state().as_ref()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_frame_is_noticed_and_healed() {
    let node = Server::start_for_people(&[]);
    let proxy = FaultyProxy::losing_frame(node.address(), "\"i-lost\"");
    let client = connect(&proxy.url()).await;
    let orders = client.watch_service("orders").expect("a name");
    let mut changes = orders.changes();
    soon("fresh", orders.fresh()).await.expect("allowed");
    node.register(&[instance("orders", "i-first")]);
    eventually("the first", || orders.instances().len() == 1).await;
    node.register(&[instance("orders", "i-lost")]);
    eventually("a frame is lost", || proxy.frames_lost() == 1).await;
    node.register(&[instance("orders", "i-next")]);
    eventually("healed", || agrees(&node, orders.state().as_ref())).await;
    assert_eq!(orders.instances().len(), 3);
    let mut sum = Sum::default();
    while sum.names.len() < 3 {
        sum.add(&soon("an event", changes.next()).await.expect("the stream goes on"));
    }
    assert!(client.status().is_connected(), "on the same connection");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_service_is_followed_with_one_subscription() {
    let mut node = Server::start_for_people(&[]);
    for service in ["a", "b"] {
        node.register(&many(service, 3));
    }
    let client = connect(&node.url()).await;
    let all = client.watch_all();
    soon("fresh", all.fresh()).await.expect("allowed");
    let all_agree = |node: &Server, services: &[&str]| {
        services.iter().all(|service| agrees(node, all.state(service).as_ref()))
            && all.states().len() == services.len()
    };
    assert!(all_agree(&node, &["a", "b"]));
    node.register(&many("c", 2));
    node.unregister(&[instance("a", "i0")]);
    eventually("what is new and what is gone", || all_agree(&node, &["a", "b", "c"])).await;
    // One of them on its own, too: nothing comes twice, and the rest goes on without it.
    let one = client.watch_service("a").expect("a name");
    soon("fresh", one.fresh()).await.expect("allowed");
    node.register(&[instance("a", "i9")]);
    eventually("both know", || agrees(&node, one.state().as_ref())).await;
    drop(one);
    node.kill();
    eventually("old", || all.is_stale()).await;
    node.restart_in_place();
    soon("fresh again", all.fresh()).await.expect("allowed");
    node.register(&[instance("b", "i9")]);
    eventually("the same again", || agrees(&node, all.state("b").as_ref())).await;
    for service in ["a", "b", "c"] {
        let registry = node.discover(service)["instances"].as_array().map_or(0, Vec::len);
        let known = all.state(service).map_or(0, |state| state.instances.len());
        assert_eq!(known, registry, "{service}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_starts_with_what_it_knew_while_the_server_is_away() {
    let mut node = Server::start_for_people(&[]);
    let file = node.dir().join("services.json");
    node.register(&many("orders", 3));
    let client = builder(&node.url()).cache_file(&file).connect().await.expect("it is there");
    let orders = client.watch_service("orders").expect("a name");
    soon("fresh", orders.fresh()).await.expect("allowed");
    drop(orders.clone());
    client.close().await.expect("closed");
    drop(orders);
    node.kill();
    let client = builder(&node.url()).cache_file(&file).start().expect("good settings");
    let orders = client.watch_service("orders").expect("a name");
    soon("ready", orders.ready()).await.expect("it is in the file");
    assert_eq!(orders.instances().len(), 3);
    assert!(orders.is_stale());
    assert!(orders.age().is_some());
    node.restart_in_place();
    soon("fresh", orders.fresh()).await.expect("allowed");
    node.register(&many("orders", 4));
    eventually("the same again", || agrees(&node, orders.state().as_ref())).await;
    // A file of something else is as good as none.
    std::fs::write(&file, "{\"version\":1,\"services\":[{").expect("written");
    let client = builder(&node.url()).cache_file(&file).connect().await.expect("it is there");
    assert!(client.status().is_connected());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_gets_the_newest_state_instead() {
    let node = Server::start_for_people(&[]);
    let client = builder(&node.url()).queue_events_max(4).connect().await.expect("it is there");
    let orders = client.watch_service("orders").expect("a name");
    let mut changes = orders.changes();
    soon("fresh", orders.fresh()).await.expect("allowed");
    for number in 0..50 {
        node.register(&[instance("orders", &format!("i{number}"))]);
    }
    eventually("the view is up to date all the while", || orders.instances().len() == 50).await;
    let mut sum = Sum::default();
    let mut events = 0;
    while sum.names.len() < 50 {
        sum.add(&soon("an event", changes.next()).await.expect("the stream goes on"));
        events += 1;
    }
    assert!(events <= 6, "{events} events were kept");
    node.register(&[instance("orders", "more")]);
    sum.add(&soon("an event", changes.next()).await.expect("the stream goes on"));
    assert_eq!(sum.names.len(), 51);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mark_of_self_protection_is_seen_on_its_own() {
    let node = Server::start_for_people(&[]);
    let mut dying = many("orders", 4);
    for one in &mut dying {
        one["leaseTtlMs"] = json!(1_000);
    }
    let client = connect(&node.url()).await;
    let orders = client.watch_service("orders").expect("a name");
    node.register(&dying);
    eventually("held", || orders.state().is_some_and(|state| state.is_degraded)).await;
    assert_eq!(orders.instances().len(), 4);
    node.post("/api/management/services/orders/self-protection", &json!({"enabled": false}));
    eventually("expired", || orders.instances().is_empty()).await;
    eventually("the same", || agrees(&node, orders.state().as_ref())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callbacks_hear_what_streams_do_and_the_last_handle_unsubscribes() {
    let node = Server::start_for_people(&[]);
    let client = connect(&node.url()).await;
    let orders = client.watch_service("orders").expect("a name");
    let sum = Arc::new(parking_lot::Mutex::new(Sum::default()));
    let heard = Arc::clone(&sum);
    let listener = orders.on_change(move |event| heard.lock().add(&event));
    node.register(&many("orders", 3));
    eventually("heard", || sum.lock().names.len() == 3).await;
    let subscriptions = || node.get("/ws/stats").body["subscriptions"].as_u64();
    assert_eq!(subscriptions(), Some(1));
    drop(orders);
    drop(listener);
    eventually("unsubscribed", || subscriptions() == Some(0)).await;
    assert!(client.status().is_connected());
    assert!(client.watch_service("*").is_err(), "\"*\" is not one service");
}
