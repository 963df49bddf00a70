//! The URL of a `PostgreSQL` database, read as `libpq` reads it, so that the URLs of `psql` work
//! here.
//!
//! The driver knows `PGHOST`, `PGPORT`, `PGUSER`, `PGPASSWORD`, `PGDATABASE`, `PGSSLMODE` and
//! `~/.pgpass`, and finds the socket of a server on this machine if no host is named. This module
//! adds two rules: without a user it is the account that runs the process
//! (<https://www.postgresql.org/docs/current/libpq-connect.html>, `user`), and parameters that only
//! `libpq` understands are left out without a warning.
//!
//! Part of `store`.

use std::ffi::OsStr;

use sqlx::any::AnyConnectOptions;

/// Parameters without a meaning here: the server has its own rules for time-outs and for keeping
/// connections.
const LIBPQ_ONLY: &[&str] = &[
    "client_encoding",
    "connect_timeout",
    "fallback_application_name",
    "gssencmode",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "target_session_attrs",
    "tcp_user_timeout",
];

/// Reads a URL for the driver.
///
/// # Errors
///
/// If it is not a URL.
pub(super) fn options(url: &str) -> Result<AnyConnectOptions, sqlx::Error> {
    read(url, std::env::var_os("PGUSER").as_deref(), process_user)
}

fn read(
    url: &str,
    env_user: Option<&OsStr>,
    process_user: impl Fn() -> Option<String>,
) -> Result<AnyConnectOptions, sqlx::Error> {
    let mut options: AnyConnectOptions = url.parse()?;
    let url = &mut options.database_url;
    let given: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    let mut kept = given.clone();
    kept.retain(|(name, _)| !LIBPQ_ONLY.contains(&&**name));
    let has_user = !url.username().is_empty()
        || kept.iter().any(|(name, _)| name == "user")
        || env_user.is_some_and(|user| !user.is_empty());
    if !has_user && let Some(user) = process_user() {
        kept.push((String::from("user"), user));
    }
    if kept != given {
        url.set_query(None);
        if !kept.is_empty() {
            url.query_pairs_mut().extend_pairs(&kept);
        }
    }
    Ok(options)
}

/// The name of the account that runs the process.
fn process_user() -> Option<String> {
    let id = rustix::process::geteuid().as_raw();
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    // Accounts of a directory service are not in the file.
    user_of(id, &accounts).or_else(|| {
        let names = ["USER", "LOGNAME"].into_iter().filter_map(std::env::var_os);
        names.filter_map(|name| name.into_string().ok()).find(|name| !name.is_empty())
    })
}

/// The name of an account in the text of `/etc/passwd`.
fn user_of(id: u32, accounts: &str) -> Option<String> {
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (number.parse() == Ok(id) && !name.is_empty()).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str, env_user: Option<&str>) -> String {
        let read = read(text, env_user.map(OsStr::new), || Some(String::from("me")));
        read.expect("a URL").database_url.to_string()
    }

    #[test]
    fn without_a_user_it_is_the_one_of_the_process() {
        for (given, read) in [
            ("postgresql://localhost/name", "postgresql://localhost/name?user=me"),
            ("postgresql:///name", "postgresql:///name?user=me"),
            ("postgres:///name?host=/tmp", "postgres:///name?host=%2Ftmp&user=me"),
            ("postgres://ann@localhost/name", "postgres://ann@localhost/name"),
            (
                "postgres://ann:x@localhost/name?sslmode=disable",
                "postgres://ann:x@localhost/name?sslmode=disable",
            ),
            ("postgres://localhost/name?user=ann", "postgres://localhost/name?user=ann"),
            ("postgres://ann@h/n?connect_timeout=5&keepalives=1", "postgres://ann@h/n"),
            (
                "postgres://ann@h/n?connect_timeout=5&sslmode=allow",
                "postgres://ann@h/n?sslmode=allow",
            ),
        ] {
            assert_eq!(url(given, None), read);
        }
        let plain = "postgresql://localhost/name";
        assert_eq!(url(plain, Some("ann")), plain, "the driver reads PGUSER");
        assert_eq!(url(plain, Some("")), "postgresql://localhost/name?user=me");
    }

    #[test]
    fn the_accounts_name_is_found_by_its_number() {
        let accounts = "root:x:0:0:root:/root:/bin/sh\n# a remark\nann:x:1000:1000::/home/ann:\n";
        assert_eq!(user_of(1_000, accounts).as_deref(), Some("ann"));
        assert_eq!(user_of(0, accounts).as_deref(), Some("root"));
        assert_eq!(user_of(7, accounts), None);
    }
}
