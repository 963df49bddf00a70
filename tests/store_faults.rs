//! A row that a database refuses delays nothing else, a write refused for lack of room or of a
//! connection is written later, and no database keeps a server from ending.
//!
//! Found in an audit: one operator's name with a NUL character, a set of changes that was too large, or
//! a full disk had the store write the same set for ever. Readiness was gone, accounts stood still, and
//! SIGTERM did not end the process.

#![allow(clippy::disallowed_methods, reason = "a test process has the clock of the wall")]

use fanfare_test_support as support;
use fanfare_test_support::postgres as pg;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use fanfare_test_support::proxy::{Fault, FaultyProxy};
use fanfare_test_support::redis::Redis;
use fanfare_test_support::small_disk::SmallDisk;
use fanfare_test_support::{Server, eventually, token};
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, Row as _};

/// How long a store may take to find out how it is, on a machine with other things to do.
const PATIENCE: Duration = Duration::from_secs(30);

/// The bound of the contract.
const STOP: Duration = Duration::from_secs(30);

/// A database that a test can reach from beside the server.
enum Beside {
    Sqlite(String),
    Postgres(pg::Database),
}

impl Beside {
    fn sqlite() -> Beside {
        let path = std::env::temp_dir().join(format!("fanfare-faults-{}.db", uuid::Uuid::new_v4()));
        Beside::Sqlite(format!("sqlite://{}", path.display()))
    }

    fn all() -> Vec<Beside> {
        let mut all = vec![Beside::sqlite()];
        all.extend(pg::Database::create_for_part().map(Beside::Postgres));
        all
    }

    fn url(&self) -> &str {
        match self {
            Beside::Sqlite(url) => url,
            Beside::Postgres(database) => database.url(),
        }
    }

    fn start(&self, flags: &[&str]) -> Server {
        let mut all = vec!["--database-url", self.url()];
        all.extend(flags);
        Server::start_for_people(&all)
    }

    fn execute(&self, statement: &str) {
        match self {
            Beside::Postgres(database) => database.execute(statement),
            Beside::Sqlite(url) => pg::block_on(async {
                let mut connection = sqlx::SqliteConnection::connect(url).await.expect("connects");
                let statement = sqlx::AssertSqlSafe(statement.to_owned());
                connection.execute(statement).await.expect("done");
            }),
        }
    }

    fn number(&self, query: &str) -> i64 {
        match self {
            Beside::Postgres(database) => database.ask(query),
            Beside::Sqlite(url) => pg::block_on(async {
                let mut connection = sqlx::SqliteConnection::connect(url).await.expect("connects");
                let query = sqlx::AssertSqlSafe(query.to_owned());
                connection.fetch_one(query).await.expect("an answer").get(0)
            }),
        }
    }

    /// Has the database refuse rows of a table with the word `poison` in a column.
    fn refuse_poison(&self, table: &str, column: &str) {
        match self {
            Beside::Sqlite(_) => {
                for event in ["INSERT", "UPDATE"] {
                    self.execute(&format!(
                        "CREATE TRIGGER no_{event}_{table} BEFORE {event} ON {table}
                         WHEN NEW.{column} LIKE '%poison%'
                         BEGIN SELECT RAISE(ABORT, 'this is poison'); END"
                    ));
                }
            }
            Beside::Postgres(_) => self.execute(&format!(
                "ALTER TABLE {table} ADD CONSTRAINT no_poison CHECK ({column} NOT LIKE '%poison%')"
            )),
        }
    }

    fn has_instance(&self, name: &str) -> bool {
        self.number(&format!("SELECT COUNT(*) FROM instance WHERE json LIKE '%\"{name}\"%'")) == 1
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Beside::Sqlite(url) = self {
            let path = url.trim_start_matches("sqlite://");
            for suffix in ["", "-wal", "-shm", ".lock"] {
                let _ = std::fs::remove_file(Path::new(&format!("{path}{suffix}")));
            }
        }
    }
}

fn instance(name: &str, metadata: &str) -> Value {
    json!({"serviceId": "s", "instanceId": name, "leaseTtlMs": 3_600_000, "metadata": {"m": metadata}})
}

fn is_ready(server: &Server, part: &str) -> bool {
    server.get(&format!("/ready{part}")).status == 200
}

fn await_ready(server: &Server) {
    eventually("the server is ready", PATIENCE, || is_ready(server, ""));
}

/// Stops the server, which has to end by itself in time and with 0. Returns how long it took.
fn stop(server: &mut Server, case: &str) -> Duration {
    let start = Instant::now();
    assert!(server.stop().success(), "{case}");
    let took = start.elapsed();
    assert!(took < STOP, "{case}: {took:?}");
    eprintln!("{case}: from SIGTERM to the exit {took:.1?}");
    took
}

fn epoch(server: &Server) -> Value {
    server.discover("s")["epoch"].clone()
}

fn instances(server: &Server) -> usize {
    server.discover("s")["instances"].as_array().expect("a list").len()
}

#[test]
fn a_row_that_is_refused_is_set_aside_until_it_changes() {
    for beside in Beside::all() {
        let mut server = beside.start(&[]);
        beside.refuse_poison("instance", "json");
        beside.refuse_poison("pull_out", "operator");
        let mut all: Vec<Value> = (0..50).map(|n| instance(&format!("i{n}"), "good")).collect();
        all.insert(20, instance("bad", "poison"));
        server.register(&all);
        eventually("all others are written", PATIENCE, || {
            beside.number("SELECT COUNT(*) FROM instance") == 50
                && server.count("fanfare_store_set_aside_total") == 1
        });
        assert!(is_ready(&server, "") && !beside.has_instance("bad"));
        let log = server.log();
        let line = log.lines().find(|line| line.contains("refuses a row")).expect("it is logged");
        assert!(line.contains("bad") && line.contains("poison"), "in full: {line}");

        // What comes after it is written as if nothing had been.
        server.register(&[instance("later", "good")]);
        eventually("a later one", PATIENCE, || beside.has_instance("later"));
        // It is tried again when it changes, to be refused or not.
        server.register(&[instance("bad", "poison again")]);
        eventually("it is refused", PATIENCE, || {
            server.count("fanfare_store_set_aside_total") == 2
        });
        server.register(&[instance("bad", "healed")]);
        eventually("it is written", PATIENCE, || beside.has_instance("bad"));

        // The same for a decision, which stands all the same.
        let body = json!({
            "instanceKey": {"serviceId": "s", "instanceId": "i7"}, "operation": "pull-out",
            "operatorId": "poison",
        });
        let path = "/api/management/instance/operate-instance.json";
        let admin = token("root", "admin");
        assert_eq!(server.call("POST", path, &admin, &body).outcome(), ("success", "success"));
        eventually("it is set aside", PATIENCE, || {
            server.count("fanfare_store_set_aside_total") == 3
        });
        assert_eq!(instances(&server), 51);

        // With a row missing, what is stored is not all there was: the next history is another one.
        let before = epoch(&server);
        stop(&mut server, "with a row set aside");
        assert!(server.log().contains("the database is not complete"), "{}", server.log());
        server.restart();
        assert_ne!(epoch(&server), before);
        assert_eq!(instances(&server), 52);
        // Without one it goes on.
        let before = epoch(&server);
        stop(&mut server, "with nothing missing");
        server.restart();
        assert_eq!(epoch(&server), before);
        stop(&mut server, "at the end");
    }
}

#[test]
fn a_write_that_is_refused_fails_alone() {
    for beside in Beside::all() {
        let mut server = beside.start(&[]);
        beside.refuse_poison("message", "content");
        beside.refuse_poison("account", "username");
        drop(server.connect_as("bob"));
        // A user of whom only a token is known, and whom the database will not have.
        drop(server.connect_as("poison"));
        drop(server.connect_as("cid"));
        let senders: Vec<(u16, String)> = std::thread::scope(|scope| {
            let server = &server;
            let send = |n: usize| {
                let content = if n % 5 == 2 { "poison" } else { "good" };
                let body = json!({"to_user_id": "bob", "content": content});
                let reply = server.call("POST", "/api/v1/messages", &token("ann", ""), &body);
                (reply.status, content.to_owned())
            };
            let threads: Vec<_> = (0..20).map(|n| scope.spawn(move || send(n))).collect();
            threads.into_iter().map(|thread| thread.join().expect("an answer")).collect()
        });
        for (status, content) in senders {
            assert_eq!(status, if content == "good" { 201 } else { 500 }, "{content}");
        }
        assert!(is_ready(&server, ""), "that a row is refused is no illness");
        eventually("all good ones are there", PATIENCE, || {
            beside.number("SELECT COUNT(*) FROM message") == 16
                && beside.number("SELECT COUNT(*) FROM account WHERE user_id = 'cid'") == 1
        });
        stop(&mut server, "after refused writes");
    }
}

#[test]
fn a_large_set_goes_in_parts() {
    for beside in Beside::all() {
        let mut server =
            beside.start(&["--store-set-rows-max", "7", "--store-set-bytes-max", "64KiB"]);
        let all: Vec<Value> = (0..200).map(|n| instance(&format!("i{n}"), "part")).collect();
        server.register(&all);
        // Larger than what a set may be, so each is one of its own.
        let large = "x".repeat(50_000);
        server.register(&(0..5).map(|n| instance(&format!("l{n}"), &large)).collect::<Vec<_>>());
        eventually("all are written", PATIENCE, || {
            beside.number("SELECT COUNT(*) FROM instance") == 205
        });
        assert!(server.count("fanfare_store_commits_total") > 200 / 7);
        server.kill();
        server.restart();
        assert_eq!(instances(&server), 205);
        let before = epoch(&server);
        // A stop writes all parts, and only then says that it is all.
        server.register(&(0..100).map(|n| instance(&format!("i{n}"), "new")).collect::<Vec<_>>());
        stop(&mut server, "with many parts to write");
        assert_eq!(beside.number("SELECT COUNT(*) FROM instance WHERE json LIKE '%new%'"), 100);
        server.restart();
        assert_eq!((epoch(&server), instances(&server)), (before, 205));
        stop(&mut server, "at the end");
    }
}

#[test]
fn a_full_disk_stops_nothing_but_what_has_to_be_stored() {
    let Some(disk) = SmallDisk::new(6_144) else { return };
    let (prelude, url) = (disk.prelude(), SmallDisk::database_url());
    let flags = ["--database-url", &*url, "--jwt-secret", support::SECRET];
    let mut server = Server::start_by(Some(&prelude), &flags);
    server.register(&[instance("before", "room")]);
    let ann = json!({"username": "ann", "password": "correct horse"});
    let path = "/api/v1/users/register";
    assert_eq!(server.post_json(path, &ann).status, 201);
    disk.fill();
    let mut names = Vec::new();
    eventually("the disk is found full", PATIENCE, || {
        let name = format!("full{}", names.len());
        server.register(&[instance(&name, &"y".repeat(60_000))]);
        names.push(name);
        !is_ready(&server, "")
    });
    assert!(is_ready(&server, "?for=discovery") && is_ready(&server, "?for=sockets"));
    assert!(!is_ready(&server, "?for=writes"));
    assert_eq!(server.get("/ready?for=lunch").status, 400);
    assert_eq!(instances(&server), names.len() + 1, "what is in memory is served");
    let bob = json!({"username": "bob", "password": "correct horse"});
    let refused = server.post_json(path, &bob);
    assert_eq!((refused.status, refused.body["code"].as_str()), (503, Some("unavailable")));
    let (is_done, said) =
        server.run(&["user", "add", "cid", "--password", "correct horse", "--init"], "");
    assert!(is_done, "that one is in a database of its own: {said}");

    disk.free();
    await_ready(&server);
    assert_eq!(server.post_json(path, &bob).status, 201, "by itself");
    let before = epoch(&server);
    stop(&mut server, "after a full disk");
    server.restart();
    assert_eq!(
        (epoch(&server), instances(&server)),
        (before.clone(), names.len() + 1),
        "nothing is lost"
    );

    // And a stop while it is full says what is lost.
    disk.fill();
    let lost = (0..64).map(|n| instance(&format!("lost{n}"), &"z".repeat(60_000)));
    server.register(&lost.collect::<Vec<_>>());
    eventually("the disk is found full again", PATIENCE, || !is_ready(&server, ""));
    stop(&mut server, "with a full disk");
    let log = server.log();
    let line = log.lines().find(|line| line.contains("not stored before the end"));
    let line = line.unwrap_or_else(|| panic!("it is said:\n{log}"));
    assert!(line.contains("lost") && line.contains("instances=64"), "{line}");
    disk.free();
    server.restart();
    assert_eq!(instances(&server), names.len() + 1);
    assert_ne!(epoch(&server), before, "some of the history is missing");
    stop(&mut server, "at the end");
}

/// A server over a way to `PostgreSQL`, where there is one.
fn over_proxy(flags: &[&str]) -> Option<(Server, FaultyProxy, pg::Database)> {
    let database = pg::Database::create()?;
    let proxy = FaultyProxy::to(database.address());
    let url = database.url_by(proxy.address());
    let mut all = vec!["--database-url", &*url];
    all.extend(flags);
    let server = Server::start_for_people(&all);
    Some((server, proxy, database))
}

#[test]
fn a_database_that_is_gone_or_hangs_holds_up_no_stop() {
    for (weather, case) in [(Fault::Down, "PostgreSQL gone"), (Fault::Block, "PostgreSQL hung")] {
        let Some((mut server, proxy, database)) = over_proxy(&[]) else { return };
        server.register(&[instance("before", "there")]);
        eventually("it is written", PATIENCE, || {
            database.ask("SELECT COUNT(*) FROM instance") == 1
        });
        proxy.set(weather);
        server.register(&[instance("after", "lost")]);
        assert!(is_ready(&server, "?for=discovery"), "{case}");
        assert_eq!(instances(&server), 2, "{case}");
        stop(&mut server, case);
        let log = server.log();
        let line = log.lines().find(|line| line.contains("not stored before the end"));
        let line = line.unwrap_or_else(|| panic!("{case}: it is said:\n{log}"));
        assert!(line.contains("instances=1") && line.contains("after"), "{case}: {line}");
    }
}

#[test]
fn a_database_that_comes_back_gets_what_it_missed() {
    let Some((mut server, proxy, database)) = over_proxy(&[]) else { return };
    server.register(&[instance("before", "there")]);
    proxy.set(Fault::Down);
    server.register(&[instance("missed", "first")]);
    eventually("it is found out", PATIENCE, || !is_ready(&server, "?for=writes"));
    assert!(is_ready(&server, "?for=discovery"));
    // What is written later is what is true then.
    server.register(&[instance("missed", "second")]);
    server.unregister(&[instance("before", "there")]);
    proxy.set(Fault::None);
    await_ready(&server);
    eventually("all is written", PATIENCE, || {
        database.ask("SELECT COUNT(*) FROM instance WHERE json LIKE '%second%'") == 1
            && database.ask("SELECT COUNT(*) FROM instance") == 1
    });
    stop(&mut server, "after PostgreSQL came back");
}

#[test]
fn a_start_that_hangs_ends_when_it_is_told_to() {
    let Some(database) = pg::Database::create() else { return };
    let proxy = FaultyProxy::to(database.address());
    proxy.set(Fault::Block);
    let url = database.url_by(proxy.address());
    let dir = std::env::temp_dir().join(format!("fanfare-start-{}", uuid::Uuid::new_v4()));
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_fanfare"))
        .args(["--bind", "127.0.0.1:0", "--database-url", &url, "--data-dir"])
        .arg(&dir)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the binary starts");
    let start = Instant::now();
    // The secret is made just before the database is asked.
    eventually("it has begun", PATIENCE, || dir.join("jwt-secret").exists());
    let pid = child.id().to_string();
    let status = std::process::Command::new("kill").args(["-TERM", &pid]).status();
    assert!(status.expect("kill runs").success());
    eventually("it ends", STOP, || child.try_wait().expect("a child can be waited for").is_some());
    eprintln!("a start that hangs: ended {:.1?} after it began", start.elapsed());
    let _ = std::fs::remove_dir_all(&dir);
}

#[test]
fn redis_that_is_gone_or_hangs_holds_up_no_stop() {
    for (is_gone, case) in [(true, "Redis gone"), (false, "Redis hung")] {
        let mut redis = Redis::start();
        let url = redis.url();
        let mut server = Server::start_for_people(&["--redis-url", &url]);
        await_ready(&server);
        let _socket = server.connect_as("ann");
        if is_gone {
            redis.kill();
        } else {
            redis.signal("STOP");
        }
        eventually("it is found out", PATIENCE, || !is_ready(&server, ""));
        assert!(is_ready(&server, "?for=discovery"), "{case}");
        stop(&mut server, case);
        if !is_gone {
            redis.signal("CONT");
        }
    }
}

#[test]
fn nodes_that_share_a_database_which_hangs_end_in_time() {
    let Some(database) = pg::Database::create() else { return };
    let redis = Redis::start();
    let proxy = FaultyProxy::to(database.address());
    let (url, at) = (database.url_by(proxy.address()), redis.url());
    let mut server = Server::start_for_people(&["--redis-url", &at, "--database-url", &url]);
    await_ready(&server);
    drop(server.connect_as("bob"));
    proxy.set(Fault::Block);
    redis.signal("STOP");
    // Nobody answers this one before the server ends.
    let body = json!({"username": "ann", "password": "correct horse"}).to_string();
    let head = format!(
        "POST /api/v1/users/register HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        server.address(),
        body.len()
    );
    let mut waiting = TcpStream::connect(server.address()).expect("the server accepts");
    waiting.write_all(head.as_bytes()).expect("sent");
    stop(&mut server, "Redis and PostgreSQL hung");
    redis.signal("CONT");
}

#[test]
fn the_command_line_says_what_is_wrong_with_the_database() {
    let server = Server::start_for_people(&[]);
    let add = |name: &str, url: &str| {
        let beside = ["--database-url", url, "--init"];
        server
            .run(&[&["user", "add", name, "--password", "correct horse"], &beside[..]].concat(), "")
    };
    let beside = Beside::sqlite();
    assert!(add("ann", beside.url()).0);
    let (is_done, said) = pg::block_on(async {
        let mut other = sqlx::SqliteConnection::connect(beside.url()).await.expect("connects");
        other.execute("BEGIN IMMEDIATE").await.expect("it is locked");
        add("bob", beside.url())
    });
    assert!(!is_done && said.contains("another process is writing to it"), "{said}");
    assert!(add("bob", beside.url()).0, "afterwards");

    if let Some(database) = pg::Database::create() {
        let proxy = FaultyProxy::to(database.address());
        let url = database.url_by(proxy.address());
        assert!(add("ann", &url).0);
        proxy.set(Fault::Block);
        let (is_done, said) = add("bob", &url);
        assert!(!is_done && said.contains("does not answer"), "{said}");
        let (host, name) = (proxy.address().to_string(), url.rsplit('/').next().expect("a name"));
        assert!(said.contains(&host) && said.contains(name), "which one is said: {said}");
    }

    let Some(disk) = SmallDisk::new(2_048) else { return };
    let run = |name: &str| {
        let program = env!("CARGO_BIN_EXE_fanfare");
        let url = SmallDisk::database_url();
        let output = std::process::Command::new("sh")
            .args(["-c", &disk.prelude(), "sh", program, "user", "add", name])
            .args(["--password", "correct horse", "--init", "--database-url", &url, "--data-dir"])
            .arg(server.dir().join("other"))
            .output()
            .expect("the binary starts");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.success(), said)
    };
    assert!(run("ann").0);
    disk.fill();
    let mut said = String::new();
    // Its journal has room for a few.
    let is_refused = (0..200).any(|n| {
        let (is_done, words) = run(&format!("more{n}"));
        said = words;
        !is_done
    });
    assert!(is_refused && said.contains("small.db cannot be used"), "{said}");
    assert!(said.contains("no room left") || said.contains("check that it is there"), "{said}");
    disk.free();
    assert!(run("later").0);
}
