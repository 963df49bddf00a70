//! Direct and group messages among several nodes with one database: an accepted message is stored,
//! is pushed once at the receiver's node, and is pulled from any node, whatever happens to a node,
//! to Redis or to the database.

#![allow(clippy::disallowed_methods, reason = "threads pace what they send")]

use fanfare_test_support as support;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use fanfare_test_support::nodes::{PATIENCE, await_ready, node, nodes, refused};
use fanfare_test_support::postgres::Database;
use fanfare_test_support::proxy::{Fault, FaultyProxy};
use fanfare_test_support::redis::Redis;
use fanfare_test_support::{Client, READ_PATIENCE, Reply, Rng, SECRET, Server, eventually, token};
use serde_json::{Value, json};

/// Three nodes, and what they share.
struct World {
    servers: [Server; 3],
    redis: Redis,
    database: Database,
}

impl World {
    /// Where there is a database.
    fn start() -> Option<World> {
        let database = Database::create()?;
        let redis = Redis::start();
        let servers = nodes(&redis, &["--database-url", database.url()]);
        let world = World { servers, redis, database };
        for user in ["ann", "bob", "cid"] {
            world.servers.iter().for_each(|server| know(server, user));
        }
        Some(world)
    }

    /// How many messages the database has.
    fn stored(&self) -> i64 {
        self.database.ask("SELECT count(*) FROM message")
    }
}

/// A user whom a token names is known once seen.
fn know(server: &Server, user: &str) {
    let reply = server.call("GET", "/ws/online", &token(user, ""), &Value::Null);
    assert_eq!(reply.status, 200, "{}", reply.text);
}

fn try_send(server: &Server, from: &str, to: &str, content: &str) -> Reply {
    let body = json!({"to_user_id": to, "content": content});
    server.call("POST", "/api/v1/messages", &token(from, ""), &body)
}

/// Sends a direct message, which has to be accepted. Returns its id.
fn send(server: &Server, from: &str, to: &str, content: &str) -> String {
    accepted(&try_send(server, from, to, content))
}

/// Sends a message to a group, which has to be accepted. Returns its id.
fn say(server: &Server, from: &str, group: &str, content: &str) -> String {
    let path = format!("/api/v1/groups/{group}/messages");
    accepted(&server.call("POST", &path, &token(from, ""), &json!({"content": content})))
}

fn accepted(reply: &Reply) -> String {
    assert_eq!(reply.status, 201, "{}", reply.text);
    let id = reply.body["id"].as_str().unwrap_or_else(|| panic!("no id: {}", reply.text));
    assert_eq!(id.as_bytes()[14], b'7', "UUIDv7: {id}");
    id.to_owned()
}

fn group(server: &Server, owner: &str, members: &[&str]) -> String {
    let body = json!({"name": "team", "members": members});
    let reply = server.call("POST", "/api/v1/groups", &token(owner, ""), &body);
    assert_eq!(reply.status, 201, "{}", reply.text);
    reply.body["group_id"].as_str().expect("an id").to_owned()
}

fn try_pull(server: &Server, user: &str, query: &str) -> Reply {
    let path = format!("/api/v1/messages{query}");
    server.call("GET", &path, &token(user, ""), &Value::Null)
}

/// The ids of one page, and the cursor of the next one.
fn page(server: &Server, user: &str, query: &str) -> (Vec<String>, Option<String>) {
    let reply = try_pull(server, user, query);
    assert_eq!(reply.status, 200, "{}", reply.text);
    let messages = reply.body["messages"].as_array().unwrap_or_else(|| panic!("{}", reply.text));
    let id = |message: &Value| message["id"].as_str().expect("an id").to_owned();
    let next = reply.body["next"].as_str().map(str::to_owned);
    (messages.iter().map(id).collect(), next)
}

/// The ids of all that a node has for a user.
fn pull(server: &Server, user: &str) -> Vec<String> {
    let (mut ids, mut next) = page(server, user, "?limit=500");
    while let Some(after) = next {
        let (more, following) = page(server, user, &format!("?limit=500&after={after}"));
        ids.extend(more);
        next = following;
    }
    assert!(ids.is_sorted_by(|a, b| a < b), "each once, oldest first: {ids:?}");
    ids
}

/// The same from a node that may not be able to answer yet: its first answer is whole.
fn first_pull(server: &Server, user: &str) -> Vec<String> {
    eventually("messages are pulled", PATIENCE, || {
        let reply = try_pull(server, user, "?limit=500");
        if reply.status != 200 {
            reply.expect_problem(503, "unavailable");
            return false;
        }
        let count = reply.body["messages"].as_array().map(Vec::len);
        assert_eq!(count, Some(pull(server, user).len()), "{}", reply.text);
        true
    });
    pull(server, user)
}

/// The next message that is pushed to a client.
fn pushed(client: &mut Client) -> Value {
    client.find("a message", |frame| frame["type"] == "private" || frame["type"] == "group")
}

fn assert_nothing_was_pushed(client: &mut Client) {
    let frames = client.drain();
    let wrong = frames.iter().find(|frame| frame["type"] == "private" || frame["type"] == "group");
    assert_eq!(wrong, None, "this was for others");
}

#[test]
fn a_message_finds_its_receiver_at_every_node() {
    let Some(world) = World::start() else { return };
    let servers = &world.servers;
    let [a, b, c] = servers;
    let mut bobs = [b.connect_as("bob"), c.connect_as("bob"), c.connect_as("bob")];
    let mut others = [a.connect_as("ann"), b.connect_as("ann"), b.connect_as("cid"), c.connect()];
    for (n, server) in servers.iter().enumerate() {
        let content = format!("hi \u{1F600} \"there\" {n}");
        let reply = try_send(server, "ann", "bob", &content);
        let id = accepted(&reply);
        let want = json!({"type": "private", "id": id, "from_user_id": "ann", "to_user_id": "bob",
            "content": content, "created_at": reply.body["created_at"]});
        for bob in &mut bobs {
            assert_eq!(pushed(bob), want, "once, at once, in order");
        }
    }
    others.iter_mut().for_each(assert_nothing_was_pushed);
    bobs.iter_mut().for_each(assert_nothing_was_pushed);
    // To oneself: stored, and never pushed to the sender's own connections.
    send(a, "bob", "bob", "a note");
    bobs.iter_mut().for_each(assert_nothing_was_pushed);
    for server in servers {
        assert_eq!(pull(server, "bob").len(), 4);
        assert_eq!(pull(server, "ann").len(), 3);
        assert_eq!(pull(server, "cid").len(), 0);
    }
    try_send(b, "ann", "stranger", "x").expect_problem(404, "not_found");
}

#[test]
fn what_was_accepted_is_there_at_once_at_every_node() {
    let Some(world) = World::start() else { return };
    let mut ids: Vec<String> = Vec::new();
    for n in 0..30 {
        let (from, to) = if n % 2 == 0 { ("ann", "bob") } else { ("bob", "ann") };
        ids.push(send(&world.servers[n % 3], from, to, &format!("m{n}")));
        assert!(ids.is_sorted_by(|a, b| a < b), "ids rise across nodes: {ids:?}");
        for server in &world.servers {
            for user in ["ann", "bob"] {
                assert_eq!(pull(server, user), ids, "read by {user} after {n}");
            }
        }
    }
    let (with, _) = page(&world.servers[1], "ann", "?with=bob&limit=3");
    assert_eq!(with, ids[..3]);
    assert_eq!(page(&world.servers[1], "ann", "?with=cid").0, Vec::<String>::new());
    eventually("the database has them", PATIENCE, || world.stored() == 30);
    for server in &world.servers {
        assert_eq!(pull(server, "bob"), ids, "the same from the database");
    }
}

/// Readers walk by their cursors at whichever node, while all nodes accept messages.
#[test]
fn cursors_miss_nothing_and_repeat_nothing() {
    const EACH: usize = 100;
    let Some(world) = World::start() else { return };
    let servers = &world.servers;
    let id = group(&servers[0], "ann", &["bob", "cid"]);
    let is_sent = AtomicUsize::new(0);
    let write = |by: usize| {
        let from = ["ann", "cid", "ann"][by];
        let mut mine: Vec<String> = Vec::new();
        for n in 0..EACH {
            let text = format!("{by}/{n}");
            mine.push(match n % 3 {
                0 => say(&servers[by], from, &id, &text),
                _ => send(&servers[by], from, "bob", &text),
            });
            assert!(mine.is_sorted_by(|a, b| a < b), "a sender's ids rise: {mine:?}");
        }
        is_sent.fetch_add(1, Ordering::SeqCst);
        mine
    };
    let walk = |seed: u64| {
        let mut rng = Rng::seeded(seed);
        let (mut seen, mut after): (Vec<String>, String) = (Vec::new(), String::new());
        loop {
            let is_last = is_sent.load(Ordering::SeqCst) == 3;
            let limit = 1 + rng.below(40);
            let server = &servers[rng.below(3)];
            let (ids, next) = page(server, "bob", &format!("?limit={limit}{after}"));
            if let Some(last) = ids.last() {
                after = format!("&after={last}");
            }
            let is_end = ids.is_empty();
            assert!(next.is_none_or(|next| ids.last() == Some(&next)), "a cursor of another place");
            seen.extend(ids);
            if is_last && is_end {
                return seen;
            }
        }
    };
    let (mut sent, walks) = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3).map(|by| scope.spawn(move || write(by))).collect();
        let readers: Vec<_> = (1..4).map(|seed| scope.spawn(move || walk(seed))).collect();
        let sent: Vec<String> =
            writers.into_iter().flat_map(|one| one.join().expect("it writes")).collect();
        let walks: Vec<Vec<String>> =
            readers.into_iter().map(|one| one.join().expect("it reads")).collect();
        (sent, walks)
    });
    sent.sort();
    for seen in walks {
        assert!(seen.is_sorted_by(|a, b| a < b), "a cursor went back, or a message came twice");
        let missed: Vec<&String> = sent.iter().filter(|id| !seen.contains(id)).collect();
        assert!(
            missed.is_empty(),
            "{} of {} were never seen: {missed:?}",
            missed.len(),
            sent.len()
        );
        assert_eq!(seen, sent);
    }
    for server in servers {
        assert_eq!(pull(server, "bob"), sent);
    }
}

#[test]
fn a_redis_cluster_refuses_nothing() {
    let Some(database) = Database::create() else { return };
    let redis = Redis::start_cluster();
    let [a, b] = nodes(&redis, &["--database-url", database.url()]);
    for (server, user) in [(&a, "ann"), (&a, "bob"), (&b, "ann"), (&b, "bob")] {
        know(server, user);
    }
    let mut bob = b.connect_as("bob");
    let mut picture = bob.follow("s");
    bob.send_json(&json!({"type": "subscribe", "channel": "news"}));
    bob.find_type("subscribed");
    bob.send_json(&json!({"type": "join", "room": "hall"}));
    bob.find_type("joined");

    a.register(&support::instances("s", 3));
    bob.find("the change", |frame| {
        if frame["type"] == "service_change" {
            picture.apply(frame);
        }
        picture.revision == 3
    });
    picture.expect_equals_registry(&a);
    for number in 1..=3 {
        let reply = a.post_json("/api/v1/channels/news/messages", &json!({"payload": number}));
        assert_eq!(reply.body["offset"], number, "{}", reply.text);
        assert_eq!(bob.find_type("json")["payload"], number);
    }
    let history = b.get("/api/v1/channels/news/history?after=1").body;
    assert_eq!(history["messages"].as_array().map(Vec::len), Some(2), "{history}");
    let deleted = b.request("DELETE", "/api/v1/channels/news", &[], b"");
    assert_eq!(deleted.status, 204, "{}", deleted.text);
    let id = send(&a, "ann", "bob", "hello");
    assert_eq!(pushed(&mut bob)["id"], id.as_str());
    eventually("it is written", PATIENCE, || database.ask("SELECT count(*) FROM message") == 1);
    assert_eq!((pull(&a, "bob"), pull(&b, "bob")), (vec![id.clone()], vec![id]));
    let mut ann = a.connect_as("ann");
    ann.send_json(&json!({"type": "join", "room": "hall"}));
    assert_eq!(ann.find_type("joined")["users"].as_array().map(Vec::len), Some(2));
    ann.send_json(&json!({"type": "chat", "room": "hall", "content": "here"}));
    assert_eq!(bob.find_type("chat")["content"], "here");
    eventually("all are counted", PATIENCE, || {
        a.get("/ws/stats?scope=cluster").body["connections"] == 2
    });
    assert_eq!(redis.ask(&["CLUSTER", "COUNTKEYSINSLOT", "0"]), 0, "it is one");
}

#[test]
fn a_group_made_at_one_node_talks_at_all() {
    let Some(world) = World::start() else { return };
    let [a, b, c] = &world.servers;
    let id = group(a, "ann", &["bob"]);
    let (mut bob, mut bob_too) = (b.connect_as("bob"), c.connect_as("bob"));
    let (mut ann, mut cid) = (c.connect_as("ann"), c.connect_as("cid"));
    let path = format!("/api/v1/groups/{id}");
    let reply =
        b.call("POST", &format!("{path}/messages"), &token("ann", ""), &json!({"content": "x"}));
    let want = json!({"type": "group", "id": accepted(&reply), "group_id": id,
        "from_user_id": "ann", "content": "x", "created_at": reply.body["created_at"]});
    assert_eq!([pushed(&mut bob), pushed(&mut bob_too)], [want.clone(), want]);
    assert_nothing_was_pushed(&mut ann);
    let refused =
        c.call("POST", &format!("{path}/messages"), &token("cid", ""), &json!({"content": "x"}));
    refused.expect_problem(403, "forbidden");
    // Membership counts at once, and everywhere.
    let add =
        b.call("POST", &format!("{path}/members"), &token("ann", ""), &json!({"user_id": "cid"}));
    assert_eq!(add.status, 201, "{}", add.text);
    let second = say(a, "cid", &id, "second");
    assert_eq!(pushed(&mut bob)["id"], second.as_str());
    assert_eq!(pushed(&mut bob_too)["id"], second.as_str());
    let third = say(c, "bob", &id, "third");
    assert_eq!(pushed(&mut cid)["id"], third.as_str());
    let described = c.call("GET", &path, &token("bob", ""), &Value::Null);
    assert_eq!(described.body["members"], json!(["ann", "bob", "cid"]), "{}", described.text);
    let removed = c.call("DELETE", &format!("{path}/members/bob"), &token("ann", ""), &Value::Null);
    assert_eq!(removed.status, 204, "{}", removed.text);
    let fourth = say(b, "ann", &id, "fourth");
    assert_eq!(pushed(&mut cid)["id"], fourth.as_str());
    assert_nothing_was_pushed(&mut bob);
    for server in &world.servers {
        assert_eq!(pull(server, "cid"), [&*second, &third, &fourth], "since cid came");
        assert_eq!(pull(server, "bob").len(), 3, "until bob went");
        assert_eq!(pull(server, "ann").len(), 4);
    }
    assert_eq!(a.call("DELETE", &path, &token("ann", ""), &Value::Null).status, 204);
    for server in &world.servers {
        server.call("GET", &path, &token("cid", ""), &Value::Null).expect_problem(404, "not_found");
    }
}

#[test]
fn a_message_outlives_the_node_that_accepted_it() {
    let Some(mut world) = World::start() else { return };
    let mut bob = world.servers[1].connect_as("bob");
    let mut ids = Vec::new();
    for round in 0..4 {
        let id = send(&world.servers[0], "ann", "bob", &format!("m{round}"));
        world.servers[0].kill();
        ids.push(id);
        for server in &world.servers[1..] {
            assert_eq!(pull(server, "bob"), ids, "round {round}");
        }
        assert_eq!(pushed(&mut bob)["id"], ids[round].as_str(), "round {round}");
        world.servers[0].restart();
        await_ready(&world.servers[0]);
        assert_eq!(first_pull(&world.servers[0], "bob"), ids, "round {round}");
    }
    eventually("the database has them", PATIENCE, || world.stored() == 4);
}

/// The database was away, so the messages were in Redis alone when the nodes died.
#[test]
fn messages_outlive_all_nodes() {
    let Some(database) = Database::create() else { return };
    let redis = Redis::start();
    let proxy = FaultyProxy::to(database.address());
    let mut servers: [Server; 3] =
        nodes(&redis, &["--database-url", &database.url_by(proxy.address())]);
    for server in &servers {
        know(server, "ann");
        know(server, "bob");
    }
    let mut ids = vec![send(&servers[0], "ann", "bob", "stored")];
    eventually("it is stored", PATIENCE, || database.ask("SELECT count(*) FROM message") == 1);
    proxy.set(Fault::Down);
    for n in 0..9 {
        ids.push(send(&servers[n % 3], "ann", "bob", &format!("m{n}")));
    }
    servers.iter_mut().for_each(Server::kill);
    assert_eq!(database.ask("SELECT count(*) FROM message"), 1, "the rest is in Redis");
    proxy.set(Fault::None);
    for server in &mut servers {
        server.restart();
        await_ready(server);
        assert_eq!(first_pull(server, "bob"), ids);
    }
    let last = send(&servers[2], "bob", "ann", "after");
    assert!(ids.iter().all(|id| *id < last), "ids go on rising: {last} after {ids:?}");
    ids.push(last);
    eventually("the database has them", PATIENCE, || {
        database.ask("SELECT count(*) FROM message") == 11
    });
    for server in &servers {
        assert_eq!(pull(server, "ann"), ids);
    }
}

#[test]
fn messages_outlive_redis() {
    let Some(mut world) = World::start() else { return };
    let mut bob = world.servers[1].connect_as("bob");
    let (mut ids, mut unsure) = (Vec::new(), 0);
    for round in 0..3 {
        for n in 0..10 {
            ids.push(send(&world.servers[n % 3], "ann", "bob", &format!("{round}/{n}")));
        }
        world.redis.kill();
        let reply = try_send(&world.servers[round], "ann", "bob", &format!("{round}/refused"));
        reply.expect_problem(503, "unavailable");
        unsure += 1;
        world.redis.launch();
        for server in &world.servers {
            eventually("messages are accepted again", PATIENCE, || {
                let reply = try_send(server, "ann", "bob", &format!("{round}/again"));
                if reply.status == 201 {
                    ids.push(accepted(&reply));
                } else {
                    reply.expect_problem(503, "unavailable");
                    unsure += 1;
                }
                reply.status == 201
            });
        }
        for server in &world.servers {
            expect_all(&first_pull(server, "bob"), &ids, unsure);
        }
    }
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    let mut got = BTreeSet::new();
    while got.len() < ids.len() || !got.contains(&ids[ids.len() - 1]) {
        let message = pushed(&mut bob);
        let id = message["id"].as_str().expect("an id").to_owned();
        assert!(got.insert(id), "twice on one connection: {message}");
    }
    assert!(ids.iter().all(|id| got.contains(id)), "{ids:?} pushed as {got:?}");
    for server in &mut world.servers {
        await_ready(server);
        server.kill();
        server.restart();
        await_ready(server);
        expect_all(&first_pull(server, "bob"), &ids, unsure);
    }
}

/// What was accepted is there; what was refused may be there, too.
fn expect_all(pulled: &[String], accepted: &[String], unsure: usize) {
    let missing: Vec<&String> = accepted.iter().filter(|id| !pulled.contains(id)).collect();
    assert!(missing.is_empty(), "accepted, and not there: {missing:?}");
    assert!(pulled.len() <= accepted.len() + unsure, "{pulled:?} of {accepted:?} and {unsure}");
}

#[test]
fn an_account_is_good_at_every_node() {
    let Some(world) = World::start() else { return };
    let [a, b, c] = &world.servers;
    let account = json!({"username": "Dora", "password": "12345678"});
    let made = a.post_json("/api/v1/users/register", &account);
    assert_eq!(made.status, 201, "{}", made.text);
    let user = made.body["user_id"].as_str().expect("an id").to_owned();
    for server in [b, c] {
        let taken = json!({"username": "dORA", "password": "87654321"});
        server.post_json("/api/v1/users/register", &taken).expect_problem(409, "conflict");
        let login = server.post_json("/api/v1/users/login", &account);
        assert_eq!((login.status, &login.body["user_id"]), (200, &json!(user)), "{}", login.text);
        let token = login.body["token"].as_str().expect("a token");
        // The token of one node is good at the others.
        let seen = a.call("GET", "/api/v1/messages", token, &Value::Null);
        assert_eq!(seen.status, 200, "{}", seen.text);
        let wrong = json!({"username": "Dora", "password": "wrong password"});
        server.post_json("/api/v1/users/login", &wrong).expect_problem(401, "unauthorized");
    }
    // And so is who was registered, for others to write to.
    eventually("she is known", PATIENCE, || try_send(c, "ann", &user, "hi").status == 201);
}

#[test]
fn a_token_that_is_revoked_at_one_node_is_revoked_at_all() {
    let Some(world) = World::start() else { return };
    let [a, b, c] = &world.servers;
    let account = json!({"username": "Dora", "password": "12345678"});
    assert_eq!(a.post_json("/api/v1/users/register", &account).status, 201);
    let login = |server: &Server| {
        let reply = server.post_json("/api/v1/users/login", &account);
        assert_eq!(reply.status, 200, "{}", reply.text);
        reply.body["token"].as_str().expect("a token").to_owned()
    };
    let status = |server: &Server, token: &str| {
        server.call("GET", "/api/v1/messages", token, &Value::Null).status
    };
    let is_refused = |token: &str| world.servers.iter().all(|server| status(server, token) == 401);
    let (one, other, third) = (login(a), login(b), login(c));
    let mut sockets = [b, c].map(|server| server.connect_with(&one));
    let mut stays = c.connect_with(&other);
    let reply = a.call("POST", "/api/v1/users/logout", &one, &Value::Null);
    assert_eq!(reply.status, 204, "{}", reply.text);
    for socket in &mut sockets {
        assert_eq!(socket.read_to_close().1, 4401);
    }
    eventually("one is refused everywhere", PATIENCE, || is_refused(&one));
    stays.send_json(&json!({"type": "ping"}));
    stays.find_type("pong");
    assert_eq!(status(c, &other), 200);
    // All of a user's at once, and by a changed password.
    let body = json!({"old": "12345678", "new": "another password"});
    assert_eq!(b.call("PUT", "/api/v1/users/me/password", &other, &body).status, 204);
    eventually("the third is refused everywhere", PATIENCE, || is_refused(&third));
    let reply = c.call("POST", "/api/v1/users/logout", &other, &json!({"all": true}));
    assert!([204, 401].contains(&reply.status), "{}", reply.text);
    assert_eq!(stays.read_to_close().1, 4401);
    eventually("all are refused everywhere", PATIENCE, || is_refused(&other));
}

#[test]
fn without_a_database_it_is_said() {
    let redis = Redis::start();
    let server = node(&redis, &[]);
    let log = server.log();
    let said = log.lines().find(|line| line.contains("database-url") && line.contains("accounts"));
    let said = said.unwrap_or_else(|| panic!("not said in:\n{log}"));
    assert!(said.contains("unavailable") && said.contains("messages"), "{said}");
    know(&server, "bob");
    let account = json!({"username": "ann", "password": "12345678"});
    for path in ["/api/v1/users/register", "/api/v1/users/login"] {
        server.post_json(path, &account).expect_problem(503, "unavailable");
    }
    try_send(&server, "ann", "bob", "hi").expect_problem(503, "unavailable");
    try_pull(&server, "bob", "").expect_problem(503, "unavailable");
    let body = json!({"name": "team", "members": ["bob"]});
    let made = server.call("POST", "/api/v1/groups", &token("ann", ""), &body);
    made.expect_problem(503, "unavailable");
    let list = server.call("GET", "/api/v1/groups", &token("ann", ""), &Value::Null);
    list.expect_problem(503, "unavailable");
    assert_eq!(server.get("/ready").status, 200, "the rest goes on");
}

#[test]
fn messages_are_accepted_while_the_database_is_away() {
    let Some(database) = Database::create() else { return };
    let redis = Redis::start();
    let proxy = FaultyProxy::to(database.address());
    let servers: [Server; 3] =
        nodes(&redis, &["--database-url", &database.url_by(proxy.address())]);
    for server in &servers {
        know(server, "ann");
        know(server, "bob");
    }
    let mut bob = servers[1].connect_as("bob");
    let mut ids = vec![send(&servers[0], "ann", "bob", "before")];
    assert_eq!(pushed(&mut bob)["id"], ids[0].as_str());
    for round in 0..2 {
        proxy.set(Fault::Down);
        for n in 0..12 {
            ids.push(send(&servers[n % 3], "ann", "bob", &format!("{round}/{n}")));
            let message = pushed(&mut bob);
            assert_eq!(message["id"], ids[ids.len() - 1].as_str(), "{message}");
        }
        for server in &servers {
            try_pull(server, "bob", "").expect_problem(503, "unavailable");
            let account = json!({"username": "dora", "password": "12345678"});
            let made = server.post_json("/api/v1/users/register", &account);
            made.expect_problem(503, "unavailable");
        }
        proxy.set(Fault::None);
        for server in &servers {
            assert_eq!(first_pull(server, "bob"), ids);
        }
        let count = i64::try_from(ids.len()).expect("few");
        eventually("all of it is written", PATIENCE, || {
            database.ask("SELECT count(*) FROM message") == count
        });
    }
    servers.iter().for_each(await_ready);
    assert_nothing_was_pushed(&mut bob);
}

/// A single server and nodes keep different things in memory: they never share a database.
#[test]
fn a_database_is_for_nodes_or_for_one_server() {
    let Some(database) = Database::create() else { return };
    let redis = Redis::start();
    let url = redis.url();
    let single = ["--jwt-secret", SECRET, "--database-url", database.url()];
    let joined = [&single[..], &["--redis-url", &url]].concat();
    let refuse = |flags: &[&str]| {
        let (status, said) = refused(flags);
        assert_eq!(status.code(), Some(1), "{said}");
        let line = said.lines().find(|line| line.starts_with("fanfare: ")).unwrap_or_default();
        assert!(line.contains("database") && line.contains("in use"), "{said}");
        assert!(!said.contains("panicked"), "{said}");
    };
    let mut one = Server::start(&single);
    refuse(&joined);
    assert!(one.stop().success());
    let mut nodes = [node(&redis, &single[2..]), node(&redis, &single[2..])];
    refuse(&single);
    // As long as one of them is there.
    nodes[0].kill();
    refuse(&single);
    assert!(nodes[1].stop().success());
    let mut one = Server::start(&single);
    know(&one, "ann");
    know(&one, "bob");
    send(&one, "ann", "bob", "alone");
    assert!(one.stop().success());
    // What one server stored, nodes have.
    let server = node(&redis, &single[2..]);
    assert_eq!(pull(&server, "bob").len(), 1);
    know(&server, "ann");
    send(&server, "ann", "bob", "among others");
    assert_eq!(pull(&server, "bob").len(), 2);
}

/// Nobody who is connected hears of a message twice, or not at all, while all nodes accept them.
#[test]
fn pushes_come_once_under_load() {
    const EACH: usize = 60;
    let Some(world) = World::start() else { return };
    let mut bobs: Vec<Client> =
        world.servers.iter().map(|server| server.connect_as("bob")).collect();
    let sent: BTreeSet<String> = std::thread::scope(|scope| {
        let write =
            |server| (0..EACH).map(|n| send(server, "ann", "bob", &format!("{n}"))).collect();
        let threads: Vec<_> = world
            .servers
            .iter()
            .map(|server| scope.spawn(move || -> Vec<String> { write(server) }))
            .collect();
        threads.into_iter().flat_map(|one| one.join().expect("it sends")).collect()
    });
    for bob in &mut bobs {
        bob.socket.get_ref().set_read_timeout(Some(2 * READ_PATIENCE)).expect("above zero");
        let got: Vec<String> = (0..sent.len())
            .map(|_| pushed(bob)["id"].as_str().expect("an id").to_owned())
            .collect();
        assert!(got.iter().eq(&sent), "each once, in the order of ids: {got:?}");
        assert_nothing_was_pushed(bob);
    }
}
