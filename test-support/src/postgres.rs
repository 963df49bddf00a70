//! Empty databases on a `PostgreSQL` server.
//!
//! The server is the one that `FANFARE_TEST_POSTGRES` names, else one that
//! `scripts/with_postgres.sh` runs for the life of this test process. If `PostgreSQL` is not
//! installed there is neither, and a test that needs one reports that it did not run.

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use sqlx::{Connection as _, Executor as _, PgConnection, Row as _};

const NO_SERVER: &str = "there is no PostgreSQL server";

/// A database of a test's own.
pub struct Database {
    url: String,
}

impl Database {
    /// An empty database. Without a server the calling test is reported as skipped, and returns.
    pub fn create() -> Option<Database> {
        let database = Database::try_create();
        if database.is_none() {
            crate::skipped(NO_SERVER);
        }
        database
    }

    /// An empty database for a part of a test, which runs without it otherwise.
    pub fn create_for_part() -> Option<Database> {
        let database = Database::try_create();
        if database.is_none() {
            crate::skipped_in_part(NO_SERVER);
        }
        database
    }

    fn try_create() -> Option<Database> {
        let server = server()?;
        let name = format!("fanfare_{}", uuid::Uuid::new_v4().simple());
        execute(server, &format!("CREATE DATABASE {name}"));
        let (host, _) = server.rsplit_once('/').expect("a database in the URL");
        Some(Database { url: format!("{host}/{name}") })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its URL by way of another address that leads to the same server.
    pub fn url_by(&self, address: SocketAddr) -> String {
        self.url.replacen(self.host(), &address.to_string(), 1)
    }

    /// The address of its server.
    pub fn address(&self) -> SocketAddr {
        let host = self.host();
        let with_port = if host.contains(':') { host.to_owned() } else { format!("{host}:5432") };
        with_port.to_socket_addrs().expect("a host").next().expect("an address")
    }

    fn host(&self) -> &str {
        let rest = self.url.split_once("://").expect("a URL").1;
        let host = rest.split('/').next().expect("a first part");
        host.rsplit('@').next().expect("a last part")
    }

    /// Runs a statement.
    pub fn execute(&self, statement: &str) {
        execute(&self.url, statement);
    }

    /// Runs a query with a number as its answer.
    pub fn ask(&self, question: &str) -> i64 {
        block_on(async {
            let mut connection = PgConnection::connect(&self.url).await.expect("connects");
            let question = sqlx::AssertSqlSafe(question.to_owned());
            connection.fetch_one(question).await.expect("an answer").get(0)
        })
    }
}

/// The URL of an empty database, as [`Database::create`].
pub fn fresh() -> Option<String> {
    Database::create().map(|database| database.url)
}

/// The one number that a query gives.
pub fn number(url: &str, query: &str) -> i64 {
    Database { url: url.to_owned() }.ask(query)
}

/// The one text that a query gives.
pub fn text(url: &str, query: &str) -> String {
    block_on(async {
        let mut connection = PgConnection::connect(url).await.expect("connects");
        let query = sqlx::AssertSqlSafe(query.to_owned());
        connection.fetch_one(query).await.expect("an answer").get(0)
    })
}

/// Cuts all connections to a database, as a restart or a failover of its server does.
pub fn cut(url: &str) {
    execute(
        url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid()",
    );
}

/// Runs a statement beside the database's other users.
pub fn execute(url: &str, statement: &str) {
    block_on(async {
        let mut connection = PgConnection::connect(url).await.expect("connects");
        connection.execute(sqlx::AssertSqlSafe(statement.to_owned())).await.expect("done");
    });
}

/// Waits for the end of a future.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

/// A server's URL.
fn server() -> Option<&'static str> {
    static NAMED: OnceLock<Option<String>> = OnceLock::new();
    // The script ends its server when its input ends, which is when this process ends.
    static OWN: OnceLock<Option<(String, Child)>> = OnceLock::new();
    let named = NAMED.get_or_init(|| std::env::var("FANFARE_TEST_POSTGRES").ok());
    named.as_deref().or_else(|| OWN.get_or_init(start).as_ref().map(|(url, _)| &**url))
}

fn start() -> Option<(String, Child)> {
    if !is_installed() {
        return None;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/with_postgres.sh");
    let mut child = Command::new(script)
        .args(["sh", "-c", r#"echo "$FANFARE_TEST_POSTGRES"; read -r _"#])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the script starts");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let url = lines.next().and_then(Result::ok).unwrap_or_default();
    assert!(url.starts_with("postgres://"), "no server: {url}");
    Some((url, child))
}

/// Whether the script would find a server; this is not the place to install one.
fn is_installed() -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    let is_in_path = path.split(':').any(|dir| Path::new(dir).join("initdb").exists());
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    is_in_path || debian.map(|version| version.path().join("bin/initdb")).any(|file| file.exists())
}
