//! Channels of several nodes: one sequence of messages for all, at any node, and no message is lost
//! when a node or Redis was away.

#![allow(
    clippy::disallowed_methods,
    reason = "when a topic is left is about the clock of the wall"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use fanfare_test_support::nodes::{
    PATIENCE, Trail, await_cut_off, await_ready, node, node_over_proxy, nodes, place,
};
use fanfare_test_support::proxy::Fault;
use fanfare_test_support::redis::Redis;
use fanfare_test_support::{Client, READ_PATIENCE, Reply, Server, eventually};
use serde_json::{Value, json};

fn subscribe(client: &mut Client, channel: &str) -> Value {
    client.send_json(&json!({"type": "subscribe", "channel": channel}));
    client.find_type("subscribed")
}

fn follow(server: &Server, channel: &str) -> (Client, Trail) {
    let mut client = server.connect();
    let trail = Trail::begin(&subscribe(&mut client, channel));
    (client, trail)
}

/// Publishes over a socket. Returns the answer.
fn publish(client: &mut Client, channel: &str, payload: &Value) -> Value {
    client.send_json(&json!({"type": "publish", "channel": channel, "payload": payload}));
    client.find_type("published")
}

/// Publishes over HTTP.
fn try_post(server: &Server, channel: &str, body: &Value) -> Reply {
    server.post_json(&format!("/api/v1/channels/{channel}/messages"), body)
}

/// The same; it has to succeed.
fn post(server: &Server, channel: &str, body: &Value) -> Value {
    let reply = try_post(server, channel, body);
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.body
}

fn history(server: &Server, channel: &str, query: &str) -> Value {
    let reply = server.get(&format!("/api/v1/channels/{channel}/history{query}"));
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.body
}

/// The frames up to the message that says so, without it.
fn up_to(client: &mut Client, fence: &str) -> Vec<Value> {
    let mut frames = Vec::new();
    loop {
        let frame = client.next_json();
        if frame["payload"] == fence {
            return frames;
        }
        frames.push(frame);
    }
}

/// Waits until a node counts so many subscribers, wherever they are.
fn await_subscribers(server: &Server, channel: &str, count: u64) {
    let mut said = Value::Null;
    let start = Instant::now();
    while said["subscribers"] != count {
        assert!(start.elapsed() < PATIENCE, "not {count} subscribers: {said}");
        said = server.get(&format!("/api/v1/channels/{channel}")).body;
    }
}

/// The topic in Redis that carries a channel between nodes.
fn topic(channel: &str) -> String {
    format!("fanfare:channel:{{{channel}}}")
}

#[test]
fn all_nodes_count_as_one() {
    let redis = Redis::start();
    let servers: [Server; 3] = nodes(&redis, &[]);
    let [a, b, c] = &servers;
    let mut followers: Vec<(Client, Trail)> =
        servers.iter().map(|server| follow(server, "news")).collect();
    let epoch = followers[0].1.epoch.clone();
    for (_, trail) in &followers {
        assert_eq!((&trail.epoch, trail.offset), (&epoch, 0));
    }
    let (mut ann, mut bob) = (a.connect(), c.connect());
    let answers = [
        publish(&mut ann, "news", &json!({"n": 1})),
        post(b, "news", &json!({"payload": {"n": 2}, "event": "second", "metadata": {"k": [1]}})),
        publish(&mut bob, "news", &json!("three")),
    ];
    for (answer, offset) in answers.iter().zip(1..) {
        assert_eq!(place(answer), (epoch.clone(), offset), "{answer}");
    }
    for (client, trail) in &mut followers {
        trail.follow_to(client, 3);
    }
    let first = &followers[0].1.seen;
    for (_, trail) in &followers {
        assert_eq!(&trail.seen, first, "the same frames at every node");
    }
    let types: Vec<&Value> = first.iter().map(|(_, _, frame)| &frame["type"]).collect();
    assert_eq!(types, ["json", "event", "text"]);
    for ((_, _, frame), answer) in first.iter().zip(&answers) {
        assert_eq!(frame["message_id"], answer["message_id"], "{frame}");
    }
    // Who comes now, at any node, is told the same place, and hears nothing of before.
    for server in &servers {
        let mut late = server.connect();
        let answer = subscribe(&mut late, "news");
        assert_eq!(place(&answer), (epoch.clone(), 3), "{answer}");
        assert_eq!(answer.get("recovered"), None, "{answer}");
        assert!(late.drain().is_empty());
    }
    // Nothing came twice: the next frame is the next message.
    post(c, "news", &json!({"payload": "last"}));
    for (client, trail) in &mut followers {
        let frame = client.next_json();
        assert_eq!(frame["payload"], "last", "{frame}");
        trail.apply(&frame);
    }
    // A live update is a message like any other.
    let (mut watcher, _) = follow(b, "live:order");
    let update = json!({"action": "updated", "data": {"total": 7}});
    assert_eq!(a.post_json("/api/v1/live/order/o-1", &update).status, 200);
    assert_eq!(watcher.expect("event")["event"], "order.updated");
}

#[test]
fn the_first_followers_of_all_nodes_agree_on_the_epoch() {
    let redis = Redis::start();
    let servers: [Server; 3] = nodes(&redis, &[]);
    let mut clients: Vec<Client> = servers.iter().map(Server::connect).collect();
    for round in 0..20 {
        let channel = format!("c{round}");
        // All ask before any is answered.
        for client in &mut clients {
            client.send_json(&json!({"type": "subscribe", "channel": channel}));
        }
        let places: BTreeSet<(String, u64)> =
            clients.iter_mut().map(|client| place(&client.expect("subscribed"))).collect();
        assert_eq!(places.len(), 1, "{channel}: {places:?}");
    }
}

#[test]
fn publishing_everywhere_at_once_makes_one_sequence() {
    const EACH: u64 = 60;
    let redis = Redis::start();
    let servers: [Server; 3] = nodes(&redis, &[]);
    let mut followers: Vec<(Client, Trail)> =
        (0..6).map(|n| follow(&servers[n % 3], "busy")).collect();
    let epoch = followers[0].1.epoch.clone();
    let work = |(by, server): (usize, &Server)| {
        let mut client = server.connect();
        let socket: Vec<Value> = (0..EACH / 2)
            .map(|n| publish(&mut client, "busy", &json!({"by": by, "n": n, "way": "socket"})))
            .collect();
        let http = (0..EACH / 2)
            .map(|n| post(server, "busy", &json!({"payload": {"by": by, "n": n, "way": "http"}})));
        socket.into_iter().chain(http).collect::<Vec<Value>>()
    };
    let answers: Vec<Value> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            servers.iter().enumerate().map(|one| scope.spawn(move || work(one))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("it publishes")).collect()
    });
    let told: BTreeMap<u64, &Value> =
        answers.iter().map(|answer| (place(answer).1, &answer["message_id"])).collect();
    assert!(answers.iter().all(|answer| answer["epoch"] == epoch.as_str()), "{answers:?}");
    assert!(told.keys().copied().eq(1..=3 * EACH), "each offset once: {:?}", told.keys());
    for (client, trail) in &mut followers {
        trail.follow_to(client, 3 * EACH);
    }
    for (_, trail) in &followers {
        assert_eq!(trail.seen, followers[0].1.seen, "the same content at each offset");
    }
    for (_, offset, frame) in &followers[0].1.seen {
        assert_eq!(Some(&&frame["message_id"]), told.get(offset), "{frame}");
    }
    // Each node keeps the order in which one client published.
    for by in 0..3 {
        let mine = |frame: &&(String, u64, Value)| {
            frame.2["payload"]["by"] == by && frame.2["payload"]["way"] == "socket"
        };
        let order: Vec<&Value> = followers[0]
            .1
            .seen
            .iter()
            .filter(mine)
            .map(|(_, _, frame)| &frame["payload"]["n"])
            .collect();
        assert!(order.iter().zip(0..).all(|(n, wanted)| **n == wanted), "{order:?}");
    }
}

#[test]
fn who_comes_back_elsewhere_gets_exactly_what_was_missed() {
    let redis = Redis::start();
    let servers: [Server; 3] = nodes(&redis, &["--channel-history-max", "4"]);
    let [a, b, c] = &servers;
    // Node b follows by a client of its own, node c not at all.
    let _resident = follow(b, "c");
    let (mut client, mut trail) = follow(a, "c");
    for n in 1..=3 {
        post(c, "c", &json!({"payload": n}));
    }
    trail.follow_to(&mut client, 3);
    drop(client);
    for n in 4..=6 {
        post(c, "c", &json!({"payload": n}));
    }
    for server in &servers {
        let newest = || history(server, "c", "")["messages"][3]["offset"].clone();
        eventually("the node has heard of all", PATIENCE, || newest() == 6);
    }
    for server in &servers {
        let (mut client, mut trail) = (server.connect(), trail.clone());
        client.send_json(&trail.resume());
        let answer = client.next_json();
        assert!(trail.subscribed(&answer), "{answer}");
        assert_eq!(answer["offset"], 6, "{answer}");
        trail.follow_to(&mut client, 6);
        assert_eq!(trail.payloads(), [1, 2, 3, 4, 5, 6]);
        assert!(client.drain().is_empty(), "and nothing else");
    }
    let resume = |server: &Server, offset: u64, epoch: &str| {
        let mut client = server.connect();
        let since = json!({"epoch": epoch, "offset": offset});
        let ask = json!({"type": "subscribe", "channel": "c", "since": since});
        let answer = client.ask(&ask, "subscribed");
        assert_eq!(place(&answer), (trail.epoch.clone(), 6), "{answer}");
        let missed: Vec<Value> =
            client.drain().iter().map(|frame| frame["offset"].clone()).collect();
        (answer["recovered"].clone(), missed)
    };
    for server in &servers {
        let nothing = || (json!(false), vec![]);
        assert_eq!(
            resume(server, 2, &trail.epoch),
            (json!(true), (3..=6).map(Value::from).collect())
        );
        assert_eq!(resume(server, 6, &trail.epoch), (json!(true), vec![]));
        assert_eq!(resume(server, 1, &trail.epoch), nothing(), "too old");
        assert_eq!(resume(server, 7, &trail.epoch), nothing(), "ahead of all there is");
        assert_eq!(resume(server, 3, "other"), nothing(), "another epoch");
    }
}

/// A client may know more than the node it comes to has heard of yet.
#[test]
fn who_is_ahead_of_a_node_is_recovered_there_too() {
    let redis = Redis::start();
    let a = node(&redis, &[]);
    let (b, proxy) = node_over_proxy(&redis, &[]);
    let (mut resident, mut at_b) = follow(&b, "c");
    let (mut client, mut at_a) = follow(&a, "c");
    proxy.set(Fault::Delay(Duration::from_millis(150)));
    for round in 0..8 {
        let ahead = place(&post(&a, "c", &json!({"payload": round})));
        at_a.follow_to(&mut client, ahead.1);
        let mut moved = b.connect();
        let mut trail = at_a.clone();
        moved.send_json(&trail.resume());
        let answer = moved.next_json();
        assert!(trail.subscribed(&answer), "round {round}: {answer}");
        assert_eq!(place(&answer), ahead, "{answer}");
        // What it has does not come again when the node hears of it.
        let next = place(&post(&a, "c", &json!({"payload": "next"})));
        trail.follow_to(&mut moved, next.1);
        assert_eq!(trail.payloads().last(), Some(&&json!("next")));
        at_a.follow_to(&mut client, next.1);
    }
    proxy.set(Fault::None);
    at_b.follow_to(&mut resident, at_a.offset);
    assert_eq!(at_b.seen, at_a.seen);
}

#[test]
fn history_is_the_same_from_every_node() {
    let redis = Redis::start();
    let servers: [Server; 3] = nodes(&redis, &[]);
    let (mut client, mut trail) = follow(&servers[0], "h");
    for n in 1..=12 {
        post(&servers[n % 3], "h", &json!({"payload": n}));
    }
    trail.follow_to(&mut client, 12);
    let frames: Vec<&Value> = trail.seen.iter().map(|(_, _, frame)| frame).collect();
    let late = node(&redis, &[]);
    for server in servers.iter().chain([&late]) {
        let whole = history(server, "h", "");
        assert_eq!(whole["epoch"], trail.epoch.as_str(), "{whole}");
        let messages: Vec<&Value> = whole["messages"].as_array().expect("a list").iter().collect();
        assert_eq!(messages, frames, "as they were pushed");
        let page = history(server, "h", "?after=4&limit=3");
        let offsets: Vec<&Value> =
            page["messages"].as_array().expect("a list").iter().map(|one| &one["offset"]).collect();
        assert_eq!(offsets, [5, 6, 7], "{page}");
        // At once, also where nobody follows.
        post(server, "own", &json!({"payload": "mine"}));
        for other in &servers {
            let kept = history(other, "own", "")["messages"].clone();
            let last = kept.as_array().and_then(|all| all.last()).cloned().unwrap_or_default();
            assert_eq!(last["payload"], "mine", "{kept}");
        }
    }
}

#[test]
fn a_publisher_that_wants_no_echo_is_the_only_one_without() {
    let redis = Redis::start();
    let servers: [Server; 2] = nodes(&redis, &[]);
    let [a, b] = &servers;
    // Connections of two nodes have the same place there, and still they differ.
    let mut publisher = a.connect_as("ann");
    let mut others = [a.connect_as("ann"), b.connect_as("ann"), b.connect()];
    subscribe(&mut publisher, "c");
    for client in &mut others {
        subscribe(client, "c");
    }
    let quiet = json!({"type": "publish", "channel": "c", "payload": "quiet", "echo": false});
    publisher.send_json(&quiet);
    assert_eq!(publisher.find_type("published")["offset"], 1);
    post(b, "c", &json!({"payload": "fence"}));
    for client in &mut others {
        let frame = client.find_type("text");
        assert_eq!((&frame["payload"], &frame["offset"]), (&json!("quiet"), &json!(1)), "{frame}");
        assert_eq!(client.find_type("text")["payload"], "fence");
    }
    let frame = publisher.find_type("text");
    assert_eq!((&frame["payload"], &frame["offset"]), (&json!("fence"), &json!(2)), "{frame}");
    let own = json!({"type": "publish", "channel": "c", "payload": "loud"});
    publisher.send_json(&own);
    assert_eq!(publisher.find_type("text")["payload"], "loud");
}

#[test]
fn deliveries_are_counted_over_all_nodes() {
    let redis = Redis::start();
    let servers: [Server; 3] = nodes(&redis, &[]);
    let [a, b, c] = &servers;
    let mut clients = vec![follow(a, "c"), follow(b, "c"), follow(b, "c")];
    for server in &servers {
        eventually("three are counted", PATIENCE, || {
            post(server, "c", &json!({"payload": 1}))["delivered_to"] == 3
        });
        await_subscribers(server, "c", 3);
    }
    let (mut extra, _) = follow(c, "c");
    for server in &servers {
        await_subscribers(server, "c", 4);
        let list = server.get("/api/v1/channels").body;
        assert_eq!(list["channels"][0]["subscribers"], 4, "{list}");
        let mut client = server.connect();
        let ask = json!({"type": "system", "payload": {"command": "list_channels"}});
        let answer = client.ask(&ask, "system");
        assert_eq!(answer["payload"]["channels"][0]["subscribers"], 4, "{answer}");
        assert_eq!(post(server, "c", &json!({"payload": 2}))["delivered_to"], 4);
    }
    extra.send_json(&json!({"type": "unsubscribe", "channel": "c"}));
    extra.find_type("unsubscribed");
    drop(clients.pop());
    for server in &servers {
        await_subscribers(server, "c", 2);
    }
}

/// A node that dies takes its subscribers along.
#[test]
fn subscribers_of_a_dead_node_do_not_count() {
    let redis = Redis::start();
    let mut servers: [Server; 2] = nodes(&redis, &[]);
    let _clients = [follow(&servers[0], "c"), follow(&servers[1], "c")];
    await_subscribers(&servers[0], "c", 2);
    servers[1].kill();
    await_subscribers(&servers[0], "c", 1);
    assert_eq!(post(&servers[0], "c", &json!({"payload": 1}))["delivered_to"], 1);
}

#[test]
fn messages_are_aimed_at_connections_of_any_node() {
    let redis = Redis::start();
    let servers: [Server; 3] = nodes(&redis, &[]);
    let mut clients: Vec<Client> = servers.iter().map(Server::connect).collect();
    for client in &mut clients {
        subscribe(client, "c");
        let node = client.welcome["node_id"].as_str().expect("a node").to_owned();
        let id = client.id();
        let rest = id.strip_prefix(&format!("{node}-")).unwrap_or_else(|| panic!("{id}"));
        let parts: Vec<bool> = rest.split('-').map(|part| part.parse::<u64>().is_ok()).collect();
        assert_eq!(parts, [true; 3], "{id}");
    }
    let ids: Vec<String> = clients.iter().map(Client::id).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 3, "{ids:?}");
    for server in &servers {
        await_subscribers(server, "c", 3);
    }
    for (server, at) in servers.iter().zip(0..) {
        let (one, two, three) = (&ids[at], &ids[(at + 1) % 3], &ids[(at + 2) % 3]);
        let mut expected = vec![vec![]; 3];
        let mut send = |body: Value, to: &[usize]| {
            let reply = post(server, "c", &body);
            assert_eq!(reply["delivered_to"], to.len(), "{body}: {reply}");
            assert_eq!(reply["offset"], Value::Null, "{body}: {reply}");
            for index in to {
                expected[(at + index) % 3].push(body["payload"].clone());
            }
        };
        send(json!({"payload": "to the next", "only_to": [two, two, "nobody", "9-9-9"]}), &[1]);
        send(json!({"payload": "to others", "exclude": [one]}), &[1, 2]);
        send(json!({"payload": "to some", "only_to": [one, three], "exclude": [three]}), &[0]);
        send(json!({"payload": "to the last", "exclude": [one, two]}), &[2]);
        send(json!({"payload": "to none", "only_to": []}), &[]);
        let reply = post(server, "c", &json!({"payload": "fence"}));
        assert_eq!(reply["offset"], at + 1, "aimed messages take no offset: {reply}");
        for (client, expected) in clients.iter_mut().zip(expected) {
            let frames = up_to(client, "fence");
            let got: Vec<Value> = frames.iter().map(|frame| frame["payload"].clone()).collect();
            assert_eq!(got, expected, "sent at node {at}");
            assert!(frames.iter().all(|frame| frame.get("offset").is_none()), "{frames:?}");
        }
    }
    let kept = history(&servers[0], "c", "");
    assert_eq!(kept["messages"].as_array().map(Vec::len), Some(3), "{kept}");
}

#[test]
fn a_deleted_channel_ends_everywhere() {
    let redis = Redis::start();
    let servers: [Server; 3] = nodes(&redis, &[]);
    let mut clients: Vec<(Client, Trail)> =
        servers.iter().map(|server| follow(server, "c")).collect();
    post(&servers[0], "c", &json!({"payload": "last words"}));
    let deleted = servers[1].request("DELETE", "/api/v1/channels/c", &[], b"");
    assert_eq!(deleted.status, 204, "{}", deleted.text);
    for (client, trail) in &mut clients {
        trail.follow_to(client, 1);
        let told = client.expect("unsubscribed");
        assert_eq!((&told["channel"], &told["reason"]), (&json!("c"), &json!("deleted")), "{told}");
    }
    for server in &servers {
        eventually("it is gone", PATIENCE, || server.get("/api/v1/channels/c").status == 404);
    }
    servers[2].request("DELETE", "/api/v1/channels/c", &[], b"").expect_problem(404, "not_found");
    // One of the same name is another one, and the same for all.
    let mut places = BTreeSet::new();
    for (client, trail) in &mut clients {
        let answer = subscribe(client, "c");
        assert_ne!(place(&answer).0, trail.epoch, "{answer}");
        places.insert(place(&answer));
        assert!(client.drain().is_empty());
    }
    assert_eq!(places.len(), 1, "{places:?}");
    post(&servers[2], "c", &json!({"payload": "first words"}));
    for (client, _) in &mut clients {
        let frame = client.next_json();
        assert_eq!((&frame["payload"], &frame["offset"]), (&json!("first words"), &json!(1)));
    }
}

#[test]
fn a_channel_is_defined_once_for_all() {
    let redis = Redis::start();
    let servers: [Server; 3] = nodes(&redis, &[]);
    let [a, b, c] = &servers;
    let path = "/api/v1/channels";
    let definition = json!({"name": "news", "description": "what is new"});
    let reply = a.post_json(path, &definition);
    assert_eq!(reply.status, 201, "{}", reply.text);
    for server in [b, c] {
        server.post_json(path, &definition).expect_problem(409, "conflict");
    }
    let late = node(&redis, &[]);
    for server in servers.iter().chain([&late]) {
        eventually("it is known", PATIENCE, || {
            let list = server.get(path).body["channels"][0].clone();
            (&list["name"], &list["description"], &list["defined"])
                == (&json!("news"), &json!("what is new"), &json!(true))
        });
        assert_eq!(server.get("/api/v1/channels/news").body["description"], "what is new");
    }
    assert_eq!(c.request("DELETE", "/api/v1/channels/news", &[], b"").status, 204);
    for server in servers.iter().chain([&late]) {
        eventually("it is gone", PATIENCE, || server.get("/api/v1/channels/news").status == 404);
    }
    assert_eq!(b.post_json(path, &definition).status, 201);
    // All at once: one of them makes it.
    let define = |server: &Server| server.post_json(path, &json!({"name": "raced"})).status;
    let mut made: Vec<u16> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            servers.iter().map(|server| scope.spawn(move || define(server))).collect();
        threads.into_iter().map(|thread| thread.join().expect("an answer")).collect()
    });
    made.sort_unstable();
    assert_eq!(made, [201, 409, 409]);
}

#[test]
fn a_node_listens_only_to_what_is_followed_there() {
    let redis = Redis::start();
    let servers: [Server; 2] = nodes(&redis, &[]);
    let [a, b] = &servers;
    let topics = |server: &Server| server.count("fanfare_cluster_topics");
    // Who publishes or reads does not follow.
    post(a, "c", &json!({"payload": 1}));
    history(b, "c", "");
    assert_eq!((redis.followers(&topic("c")), topics(a), topics(b)), (0, 0, 0));
    let (mut ann, _) = follow(a, "c");
    assert_eq!(redis.followers(&topic("c")), 1);
    let _second = follow(a, "c");
    let bob = follow(b, "c");
    assert_eq!(redis.followers(&topic("c")), 2, "one a node");
    eventually("the metrics say so", PATIENCE, || (topics(a), topics(b)) == (1, 1));
    drop(bob);
    let start = Instant::now();
    eventually("the node leaves the topic", PATIENCE, || redis.followers(&topic("c")) == 1);
    let after = start.elapsed();
    let about = Duration::from_millis(500)..Duration::from_secs(4);
    assert!(about.contains(&after), "left {after:?} after its last subscriber");
    eventually("the metrics say so", PATIENCE, || (topics(a), topics(b)) == (1, 0));
    // Another one of the same node stays, so the node does.
    ann.send_json(&json!({"type": "unsubscribe", "channel": "c"}));
    ann.find_type("unsubscribed");
    // One that comes back meanwhile finds all of it.
    for round in 0..30 {
        let (mut client, mut trail) = follow(b, "c");
        let (_, offset) = place(&post(a, "c", &json!({"payload": round})));
        trail.follow_to(&mut client, offset);
        assert_eq!(trail.payloads(), [&json!(round)]);
    }
    assert_eq!(redis.followers(&topic("c")), 2);
}

#[test]
fn nothing_is_lost_when_redis_restarts() {
    let mut redis = Redis::start();
    let servers: [Server; 2] = nodes(&redis, &[]);
    let [a, b] = &servers;
    let (mut ann, mut at_a) = follow(a, "c");
    let (mut bob, mut at_b) = follow(b, "c");
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        for n in 0..10 {
            let payload = json!({"round": round, "n": n});
            acknowledged.push((place(&post(a, "c", &json!({"payload": payload}))), payload));
        }
        redis.kill();
        redis.launch();
        for server in &servers {
            // At once, whichever node is back first: the other heals.
            eventually("it goes on", PATIENCE, || {
                let payload = json!({"round": round, "n": "again"});
                let reply = try_post(server, "c", &json!({"payload": payload}));
                if reply.status == 200 {
                    acknowledged.push((place(&reply.body), payload));
                } else {
                    reply.expect_problem(503, "unavailable");
                }
                reply.status == 200
            });
        }
    }
    let last = place(&post(b, "c", &json!({"payload": "last"}))).1;
    at_a.follow_to(&mut ann, last);
    at_b.follow_to(&mut bob, last);
    assert_eq!(at_a.seen, at_b.seen, "the same for both");
    for ((epoch, offset), payload) in &acknowledged {
        assert_eq!(epoch, &at_a.epoch, "the epoch goes on");
        let found = at_a.at(epoch, *offset).map(|frame| &frame["payload"]);
        assert_eq!(found, Some(payload), "what was acknowledged is where it was said to be");
    }
    assert_eq!((at_a.told.len(), at_b.told.len()), (1, 1), "nothing was said to be lost");
}

#[test]
fn a_node_that_was_cut_off_catches_up() {
    let redis = Redis::start();
    let a = node(&redis, &[]);
    let (b, proxy) = node_over_proxy(&redis, &[]);
    let (mut ann, mut at_a) = follow(&a, "c");
    let (mut bob, mut at_b) = follow(&b, "c");
    let mut publisher = b.connect();
    post(&b, "c", &json!({"payload": "before"}));
    proxy.set(Fault::Block);
    await_cut_off(&b);
    for n in 0..20 {
        post(&a, "c", &json!({"payload": n}));
    }
    try_post(&b, "c", &json!({"payload": "cut off"})).expect_problem(503, "unavailable");
    publisher.socket.get_ref().set_read_timeout(Some(2 * READ_PATIENCE)).expect("above zero");
    publisher
        .send_json(&json!({"type": "publish", "channel": "c", "payload": "cut off, too", "id": 7}));
    let refused = publisher.find_type("error");
    assert_eq!((&refused["code"], &refused["id"]), (&json!("unavailable"), &json!(7)), "{refused}");
    assert_eq!(refused["temporary"], true, "{refused}");
    // What is followed there already may be followed by more.
    let (mut cid, mut late) = follow(&b, "c");
    assert_eq!((&late.epoch, late.offset), (&at_b.epoch, 1));
    proxy.set(Fault::None);
    await_ready(&b);
    let last = place(&post(&b, "c", &json!({"payload": "after"}))).1;
    for (client, trail) in [(&mut ann, &mut at_a), (&mut bob, &mut at_b), (&mut cid, &mut late)] {
        trail.follow_to(client, last);
        assert_eq!(trail.told.len(), 1, "nothing was said to be lost");
    }
    assert_eq!(at_a.seen, at_b.seen);
    assert_eq!(late.seen, at_b.seen[1..]);
    let wanted: Vec<Value> = [json!("before")]
        .into_iter()
        .chain((0..20).map(Value::from))
        .chain([json!("after")])
        .collect();
    // What was refused may have been done all the same.
    let mut seen = at_a.payloads();
    seen.retain(|payload| !payload.as_str().is_some_and(|text| text.starts_with("cut off")));
    assert_eq!(seen, wanted.iter().collect::<Vec<_>>());
}

/// More was missed than is kept: who follows is told so, and goes on from there.
#[test]
fn what_cannot_be_healed_is_said() {
    let redis = Redis::start();
    let flags = ["--channel-history-max", "4"];
    let a = node(&redis, &flags);
    let (b, proxy) = node_over_proxy(&redis, &flags);
    let (mut bob, mut at_b) = follow(&b, "c");
    post(&a, "c", &json!({"payload": "before"}));
    at_b.follow_to(&mut bob, 1);
    // Its connections end, and new ones lead nowhere: nothing of this waits on the way.
    proxy.set(Fault::Down);
    await_cut_off(&b);
    for n in 2..=30 {
        post(&a, "c", &json!({"payload": n}));
    }
    proxy.set(Fault::None);
    await_ready(&b);
    while at_b.told.len() == 1 {
        at_b.follow_one(&mut bob);
    }
    post(&a, "c", &json!({"payload": "after"}));
    at_b.follow_to(&mut bob, 31);
    assert_eq!(at_b.payloads().last(), Some(&&json!("after")));
    assert_eq!(at_b.told.len(), 2, "it was told once: {:?}", at_b.told);
    assert_eq!(at_b.told[1].1, 1, "from where it stood: {:?}", at_b.told);
}

#[test]
fn a_redis_that_forgot_everything_begins_a_new_epoch() {
    let mut redis = Redis::start();
    let servers: [Server; 2] = nodes(&redis, &[]);
    let mut followers: Vec<(Client, Trail)> =
        servers.iter().map(|server| follow(server, "c")).collect();
    let before = followers[0].1.epoch.clone();
    for n in 1..=5 {
        post(&servers[0], "c", &json!({"payload": n}));
    }
    for (client, trail) in &mut followers {
        trail.follow_to(client, 5);
        client.socket.get_ref().set_read_timeout(Some(PATIENCE)).expect("above zero");
    }
    redis.kill();
    redis.wipe();
    redis.launch();
    for (client, trail) in &mut followers {
        // Nobody asked for it.
        let told = client.find_type("subscribed");
        assert_eq!((&told["channel"], &told["recovered"]), (&json!("c"), &json!(false)), "{told}");
        assert!(!trail.subscribed(&told) && trail.epoch != before, "{told}");
    }
    assert_eq!(followers[0].1.epoch, followers[1].1.epoch, "one epoch for all");
    servers.iter().for_each(await_ready);
    let (epoch, offset) = place(&post(&servers[1], "c", &json!({"payload": "anew"})));
    for (client, trail) in &mut followers {
        trail.follow_to(client, offset);
        assert_eq!(trail.epoch, epoch);
        assert_eq!(trail.payloads().last(), Some(&&json!("anew")));
    }
    for server in &servers {
        let mut late = server.connect();
        let since = json!({"epoch": before, "offset": 5});
        let ask = json!({"type": "subscribe", "channel": "c", "since": since});
        let answer = late.ask(&ask, "subscribed");
        assert_eq!(answer["recovered"], false, "{answer}");
        assert_eq!(place(&answer), (epoch.clone(), offset), "{answer}");
    }
}
