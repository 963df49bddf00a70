//! URLs of databases and of Redis for people: everything but the password.
//!
//! # Promises
//!
//! * The text between the user's name and the last `@` that can end a password is never shown, also
//!   if the password holds `/`, `?`, `#` or `@` and should have been percent-encoded.
//! * Scheme, user, host, port, path and harmless parameters stay as they are.
//!
//! Imports nothing. Imported by `store`, `cluster` and `config`.

/// The replacement of a secret.
const HIDDEN: &str = "***";

/// Words in the name of a parameter that may hold a secret.
const SECRET_WORDS: &[&str] = &["pass", "pwd", "secret", "token", "key"];

/// Returns a URL without its password.
#[must_use]
pub fn url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return parameters(url) };
    let Some(at) = end_of_user(rest) else { return format!("{scheme}://{}", parameters(rest)) };
    let (user, host) = (&rest[..at], parameters(&rest[at + 1..]));
    match user.split_once(':') {
        Some((name, _)) => format!("{scheme}://{name}:{HIDDEN}@{host}"),
        None => format!("{scheme}://{user}@{host}"),
    }
}

/// The position of the `@` behind user and password. An `@` in a parameter does not count, if there
/// is a host before it.
fn end_of_user(rest: &str) -> Option<usize> {
    let last = rest.rfind('@')?;
    let Some(query) = rest[..last].find('?').filter(|at| rest[*at..last].contains('=')) else {
        return Some(last);
    };
    match rest[..query].rfind('@') {
        Some(at) => Some(at),
        None if is_host(rest[..query].split('/').next().unwrap_or_default()) => None,
        None => Some(last),
    }
}

/// Whether a text may be a host with or without a port, and not a name with a password.
fn is_host(text: &str) -> bool {
    let port = match text.rsplit_once(':') {
        Some((host, _)) if host.starts_with('[') && !host.ends_with(']') => return true,
        Some((_, port)) => port,
        None => return true,
    };
    port.is_empty() || port.ends_with(']') || port.parse::<u16>().is_ok()
}

/// Hides the values of parameters that may be secrets, and texts that are not parameters.
fn parameters(text: &str) -> String {
    let Some((path, query)) = text.split_once('?') else { return text.to_owned() };
    let shown = query.split('&').map(|pair| match pair.split_once('=') {
        Some((name, _))
            if SECRET_WORDS.iter().any(|word| name.to_ascii_lowercase().contains(word)) =>
        {
            format!("{name}={HIDDEN}")
        }
        Some(_) => pair.to_owned(),
        None if pair.is_empty() => String::new(),
        None => HIDDEN.to_owned(),
    });
    format!("{path}?{}", shown.collect::<Vec<_>>().join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_but_the_password_stays() {
        for (given, shown) in [
            ("postgresql://localhost/name", "postgresql://localhost/name"),
            ("postgres:///name", "postgres:///name"),
            ("postgres://ann@db:5432/name", "postgres://ann@db:5432/name"),
            ("postgres://ann:geheim@db:5432/name", "postgres://ann:***@db:5432/name"),
            ("postgres://[::1]:5432/name", "postgres://[::1]:5432/name"),
            ("redis://:geheim@redis:6379/1", "redis://:***@redis:6379/1"),
            ("rediss://node:geheim@redis", "rediss://node:***@redis"),
            ("unix:///run/redis.sock?db=1&pass=geheim", "unix:///run/redis.sock?db=1&pass=***"),
            (
                "postgres://db/n?sslmode=require&password=geheim",
                "postgres://db/n?sslmode=require&password=***",
            ),
            (
                "postgres:///n?host=/run/postgresql&user=ann",
                "postgres:///n?host=/run/postgresql&user=ann",
            ),
            ("postgres://db/n?application_name=a@b", "postgres://db/n?application_name=a@b"),
            (
                "postgres://u:geheim@db/n?application_name=a@b",
                "postgres://u:***@db/n?application_name=a@b",
            ),
            ("sqlite://data/x.db", "sqlite://data/x.db"),
            ("sqlite:x.db?key=geheim", "sqlite:x.db?key=***"),
        ] {
            assert_eq!(url(given), shown);
        }
    }

    #[test]
    fn a_password_that_should_have_been_encoded_is_hidden_all_the_same() {
        for password in
            ["ge@heim", "ge/heim", "ge?heim", "ge#heim", "ge:heim", "ge?x=heim", "1/heim", "1?heim"]
        {
            for scheme in ["postgres", "redis"] {
                let shown = url(&format!("{scheme}://ann:{password}@db:5432/name?sslmode=disable"));
                assert_eq!(
                    shown,
                    format!("{scheme}://ann:***@db:5432/name?sslmode=disable"),
                    "{password}"
                );
            }
        }
    }
}
