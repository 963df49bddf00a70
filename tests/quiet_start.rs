//! A successful start logs no warning, with each database and with Redis, the first time and the
//! second; and a Redis that is away is a line, not a flood.

#![allow(clippy::disallowed_methods, reason = "that nothing more is said takes a while to see")]

use fanfare_test_support::nodes;
use fanfare_test_support::postgres;
use std::time::Duration;

use fanfare_test_support::nodes::await_ready;
use fanfare_test_support::postgres::Database;
use fanfare_test_support::redis::Redis;
use fanfare_test_support::{SECRET, Server, eventually, token};

const PATIENCE: Duration = Duration::from_secs(30);

/// The lines of a log above `info`.
fn warnings(server: &Server) -> Vec<String> {
    let log = server.log();
    let is_loud = |line: &&str| line.contains(" WARN ") || line.contains(" ERROR ");
    log.lines().filter(is_loud).map(str::to_owned).collect()
}

/// Starts a server twice, uses it, and looks what it warned of.
fn expect_quiet(flags: &[&str]) {
    let mut server = Server::start_by(Some("unset FANFARE_AUTH; exec \"$@\""), flags);
    for round in 0..2 {
        if round == 1 {
            assert!(server.stop().success());
            server.restart();
        }
        await_ready(&server);
        drop(server.connect_with(&token("ann", "message")));
        assert_eq!(server.get("/health").status, 200);
        assert_eq!(warnings(&server), [""; 0], "{flags:?}, start {round}");
        assert!(!server.log().contains("_sqlx_migrations"), "{}", server.log());
    }
    assert!(server.stop().success());
    assert_eq!(warnings(&server), [""; 0], "{flags:?}, at its end");
}

#[test]
fn a_start_with_sqlite_is_quiet() {
    expect_quiet(&["--jwt-secret", SECRET]);
}

#[test]
fn a_start_with_postgresql_is_quiet() {
    let Some(database) = Database::create() else { return };
    expect_quiet(&["--jwt-secret", SECRET, "--database-url", database.url()]);
}

#[test]
fn a_start_with_redis_is_quiet() {
    let redis = Redis::start();
    let url = redis.url();
    expect_quiet(&["--jwt-secret", SECRET, "--redis-url", &url, "--shards", "1"]);
    if let Some(database) = Database::create_for_part() {
        let redis = Redis::start();
        let url = redis.url();
        let flags = ["--jwt-secret", SECRET, "--redis-url", &url, "--database-url", database.url()];
        expect_quiet(&flags);
    }
}

/// The lines about Redis above `debug`.
fn about_redis(server: &Server) -> Vec<String> {
    let log = server.log();
    log.lines().filter(|line| line.contains("Redis")).map(str::to_owned).collect()
}

#[test]
fn a_redis_that_is_away_is_a_line_and_one_when_it_comes() {
    let mut redis = Redis::start();
    redis.kill();
    let url = format!("redis://:a-password@{}", redis.address());
    let shown = format!("redis://:***@{}", redis.address());
    let flags = ["--jwt-secret", SECRET, "--auth", "open", "--redis-url", &url, "--shards", "1"];
    let server = Server::start(&flags);
    // Dozens of tries, which leave no trace: that no second line comes has nothing to wait for.
    std::thread::sleep(Duration::from_secs(6));
    let said = about_redis(&server);
    assert_eq!(said.len(), 1, "{said:#?}");
    assert!(said[0].contains(" WARN ") && said[0].contains(&shown), "{said:?}");
    assert_eq!(warnings(&server).len(), 1, "{:#?}", warnings(&server));
    assert!(!server.log().contains("a-password"));

    redis.launch();
    redis.order(&["CONFIG", "SET", "requirepass", "a-password"]);
    eventually("it is ready", PATIENCE, || server.get("/ready").status == 200);
    eventually("that is said", PATIENCE, || {
        about_redis(&server)
            .last()
            .is_some_and(|line| line.contains(&shown) && line.contains("works, after"))
    });
    let before = about_redis(&server).len();
    // Later it dies.
    redis.kill();
    eventually("it is not ready", PATIENCE, || server.get("/ready").status == 503);
    // The same: tries that are said nothing of.
    std::thread::sleep(Duration::from_secs(4));
    let said = about_redis(&server).split_off(before);
    assert_eq!(said.len(), 1, "{said:#?}");
    assert!(said[0].contains(&shown), "{said:?}");
}

/// `postgresql://HOST/NAME` and `postgresql:///NAME` are read as `psql` reads them.
#[test]
fn a_url_of_postgresql_is_read_as_its_own_programs_do() {
    let Some(database) = Database::create() else { return };
    let name = database.url().rsplit('/').next().expect("a name").to_owned();
    let address = database.address();
    let sockets = postgres::text(database.url(), "SHOW unix_socket_directories");
    let by_host = format!("postgresql://{address}/{name}");
    let by_socket = format!("postgresql:///{name}");
    let port = address.port().to_string();
    let start = |url: &str, env: &[(&str, &str)]| {
        let exports: Vec<_> =
            env.iter().map(|(key, value)| format!("export {key}='{value}';")).collect();
        let prelude = format!("{} exec \"$@\"", exports.join(" "));
        let mut server = Server::start_by(Some(&prelude), &["--database-url", url]);
        assert_eq!(server.get("/ready").status, 200);
        let shown = server.get("/api/status/config.json").body["database_url"].clone();
        assert_eq!(shown, url, "there is nothing to hide in it");
        assert!(server.stop().success());
    };
    start(&by_host, &[("PGUSER", "fanfare")]);
    start(&by_socket, &[("PGUSER", "fanfare"), ("PGHOST", &sockets), ("PGPORT", &port)]);
    start(&format!("{by_host}?user=fanfare&connect_timeout=3"), &[]);
    // Without any user it is the one of the process.
    let user = std::process::Command::new("id").arg("-un").output().expect("id runs").stdout;
    let user = String::from_utf8(user).expect("a name").trim().to_owned();
    // Another run of this test may have made it known.
    let known = format!("SELECT COUNT(*) FROM pg_roles WHERE rolname = '{user}'");
    if database.ask(&known) == 0 {
        let (status, said) = nodes::refused(&["--database-url", &by_host]);
        assert!(!status.success());
        for part in [&*user, &address.to_string(), &name] {
            assert!(said.contains(part), "{part} is not in: {said}");
        }
        database.execute(&format!("CREATE ROLE \"{user}\" LOGIN SUPERUSER"));
    }
    start(&by_host, &[]);
    start(&by_socket, &[("PGHOST", &sockets), ("PGPORT", &port)]);
}

#[test]
fn a_database_that_is_not_there_is_named_without_its_password() {
    let (status, said) = nodes::refused(&[
        "--database-url",
        "postgres://ann:gehe/im@127.0.0.1:1/shop?sslmode=disable",
    ]);
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("postgres://ann:***@127.0.0.1:1/shop?sslmode=disable"), "{said}");
    assert!(!said.contains("gehe") && !said.contains("im@"), "{said}");
}
