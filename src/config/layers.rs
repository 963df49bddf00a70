//! The layers: file, environment and flags, each over the one before, with every fault kept.
//!
//! Imports its siblings and `auth`. Part of `config`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io;
use std::path::Path;

use clap::ArgMatches;

use super::command::{
    parse_args, parse_call, parse_completions, parse_token, parse_token_revoke, parse_user,
};
use super::keys::{KEYS, Unset, index_of};
use super::{Action, AuthMode, CONFIG_ENV, Config, Fault, LoadError, Loaded, Source, Sources};
use super::{hints, is_loopback};
use crate::auth::Scopes;
use crate::auth::accounts::Registration;

/// The settings that say how tokens are checked: at most one of them is given.
const TOKEN_KEY_SOURCES: [&str; 4] =
    ["jwt-secret", "jwt-public-key", "jwt-jwks-file", "jwt-jwks-url"];

/// `Config::load` with the reading of the file passed in as well.
pub(super) fn load(
    args: Vec<OsString>,
    env: Vec<(String, String)>,
    read: impl Fn(&Path) -> io::Result<String>,
) -> Result<Loaded, LoadError> {
    let variables: BTreeMap<String, String> =
        env.into_iter().filter(|(_, text)| !text.is_empty()).collect();
    let env = |name: &str| variables.get(name).cloned();
    let mut layers = Layers::default();
    let matches = parse_args(args, &mut layers.faults)?;
    let flag = |name: &str| matches.last().and_then(|level| level.get_one::<String>(name));

    if let Some(path) = flag("config").cloned().or_else(|| env(CONFIG_ENV)) {
        layers.apply_file(&path, read(Path::new(&path)));
    }
    for (index, key) in KEYS.iter().enumerate() {
        if let Some(text) = env(&key.env()) {
            layers.apply(index, &text, Source::Environment, key.env());
        }
    }
    for (place, text) in &variables {
        if let Some(message) = hints::check_variable(place, text) {
            layers.faults.push(Fault { place: place.clone(), message });
        }
    }
    for (index, key) in KEYS.iter().enumerate() {
        if let Some(text) = flag(key.name) {
            layers.apply(index, text, Source::Flag, format!("--{}", key.name));
        }
    }
    let is_flag = |level: &ArgMatches| level.try_get_one("init").ok().flatten() == Some(&true);
    let init = matches.iter().any(is_flag);
    let command = matches.first().and_then(ArgMatches::subcommand_name);
    let action = match (command, matches.last()) {
        (Some("token"), Some(revoke)) if matches.len() > 2 => parse_token_revoke(revoke),
        (Some("token"), Some(token)) => parse_token(token, &mut layers.faults),
        (Some("user"), Some(user)) => {
            let what = matches.get(1).and_then(ArgMatches::subcommand_name);
            parse_user(what.unwrap_or_default(), user, &mut layers.faults)
        }
        (Some("default-config"), _) => Action::DefaultConfig,
        (Some("man"), _) => Action::Man,
        (Some("completions"), Some(matches)) => parse_completions(matches),
        (Some(name), Some(matches)) if let Some(call) = parse_call(name, matches, env) => {
            Action::Call(call)
        }
        (name, last) => {
            layers.settle_access();
            let json =
                last.is_some_and(|last| last.try_get_one("json").ok().flatten() == Some(&true));
            match name {
                Some("info") => Action::Info { json },
                Some("check-config") => Action::CheckConfig,
                _ => Action::Serve,
            }
        }
    };
    layers.finish(action, init)
}

/// The configuration while its layers are applied.
#[derive(Default)]
struct Layers {
    config: Config,
    sources: Sources,
    /// The source of each key's value, for faults of more than one key. As `KEYS`.
    places: Vec<(usize, String)>,
    faults: Vec<Fault>,
    /// Settings without an effect, or unwise ones.
    warnings: Vec<String>,
}

impl Layers {
    /// Applies one value. A wrong one leaves the field as it is, but counts as set.
    fn apply(&mut self, index: usize, text: &str, source: Source, place: String) {
        self.sources.0[index] = source;
        if let Err(message) = (KEYS[index].parse)(&mut self.config, text) {
            self.faults.push(Fault { place: place.clone(), message });
        }
        self.places.push((index, place));
    }

    /// Applies the keys of the configuration file.
    fn apply_file(&mut self, path: &str, text: io::Result<String>) {
        let table =
            match text.map(|text| toml::from_str::<toml::Table>(&text).map_err(|e| (e, text))) {
                Ok(Ok(table)) => table,
                Ok(Err((error, text))) => {
                    // The library's own report quotes the line, which may hold a secret.
                    let end = error.span().map_or(0, |span| span.start).min(text.len());
                    let before = text.get(..end).unwrap_or_default();
                    let line = before.matches('\n').count() + 1;
                    let message = format!("line {line}: {}", error.message());
                    return self.faults.push(Fault { place: path.to_owned(), message });
                }
                Err(error) => {
                    let message = format!("cannot be read: {error}");
                    return self.faults.push(Fault { place: path.to_owned(), message });
                }
            };
        for (name, value) in &table {
            let place = format!("{path}: {name}");
            let fault = |message: &str| Fault { place: place.clone(), message: message.to_owned() };
            let canonical = name.replace('_', "-");
            if canonical == "namespaces" {
                let idle = super::namespaces::apply(
                    &mut self.config.namespaces,
                    value,
                    &mut |key, message| {
                        let place = format!("{path}: {key}");
                        self.faults.push(Fault { place, message });
                    },
                );
                self.warnings.extend(idle.iter().map(|idle| format!("{path}: {idle}")));
                continue;
            }
            let Some(index) = KEYS.iter().position(|key| key.name == canonical) else {
                let hint = hints::meant(name).map(|meant| format!("; {}", meant.for_file(name)));
                self.faults.push(fault(&format!("unknown key{}", hint.unwrap_or_default())));
                continue;
            };
            if self.sources.0[index] == Source::File {
                self.faults.push(fault("stands twice, with - and with _"));
                continue;
            }
            match text_of(value) {
                Some(text) => self.apply(index, &text, Source::File, place),
                None => self.faults.push(fault("a table is not a value of this key")),
            }
        }
    }

    /// Derives the settings that follow from the address and from given keys: `auth`, which has to
    /// be set if neither decides it, and the defaults of `echo` and `registration`.
    fn settle_access(&mut self) {
        let source = |name: &str| self.sources.0[index_of(name)];
        let is_loopback = is_loopback(self.config.bind);
        let is_given = |name: &&str| source(name) != Source::Default;
        let is_meant_for_tokens = TOKEN_KEY_SOURCES.iter().chain(&["redis-url"]).any(is_given);
        if source("echo") == Source::Default {
            self.config.echo = is_loopback;
        }
        if !is_loopback && source("registration") == Source::Default {
            self.config.registration = Registration::Closed;
        }
        if source("auth") != Source::Default {
            return;
        }
        if is_meant_for_tokens {
            self.config.auth = AuthMode::Required;
        } else if !is_loopback {
            let bind = index_of("bind");
            let place = self.places.iter().rev().find(|(index, _)| *index == bind);
            self.faults.push(Fault {
                place: place.map_or_else(|| "--bind".to_owned(), |(_, place)| place.clone()),
                message: format!(
                    "{} can be reached from other hosts, so who is served must be said: \
                     --auth required, or --auth open to serve anybody; a jwt-secret, a \
                     jwt-public-key, a JWKS or a redis-url of your own means required",
                    self.config.bind
                ),
            });
        }
    }

    /// Checks that there is one source of the keys of tokens, and that it is not each node's own.
    fn check_token_keys(&mut self) {
        let config = &self.config;
        let is_given = [
            config.jwt_secret.is_some(),
            config.jwt_public_key.is_some(),
            config.jwt_jwks_file.is_some(),
            config.jwt_jwks_url.is_some(),
        ];
        let given = TOKEN_KEY_SOURCES.iter().zip(is_given).filter(|(_, is_given)| *is_given);
        let mut given = given.map(|(name, _)| *name);
        let mut fault = |place: &str, message: String| {
            self.faults.push(Fault { place: place.to_owned(), message });
        };
        let first = given.next();
        for other in given {
            let first = first.unwrap_or_default();
            fault(other, format!("given beside {first}; tokens are checked in one way"));
        }
        if let Some(first) = first
            && first != "jwt-secret"
            && !config.jwt_other_secrets.is_empty()
        {
            fault("jwt-other-secrets", format!("given beside {first}; it goes with jwt-secret"));
        }
        if config.redis_url.is_some() && first.is_none() {
            let message = "needs jwt-secret or jwt-public-key, the same for all nodes";
            fault("redis-url", message.to_owned());
        }
    }

    /// Returns the result, if there is no fault.
    fn finish(mut self, action: Action, init: bool) -> Result<Loaded, LoadError> {
        self.check_token_keys();
        let pair = |certificate: (&str, bool), key: (&str, bool)| match (certificate, key) {
            ((other, true), (place, false)) | ((place, false), (other, true)) => {
                Some(Fault { place: place.to_owned(), message: format!("missing beside {other}") })
            }
            _ => None,
        };
        let config = &self.config;
        let own =
            pair(("tls-cert", config.tls_cert.is_some()), ("tls-key", config.tls_key.is_some()));
        let for_redis = pair(
            ("redis-cert", config.redis_cert.is_some()),
            ("redis-key", config.redis_key.is_some()),
        );
        let is_tls = config.redis_url.as_ref().is_some_and(|url| url.starts_with("rediss://"));
        let files = [
            ("redis-ca", &config.redis_ca),
            ("redis-cert", &config.redis_cert),
            ("redis-key", &config.redis_key),
        ];
        let idle = files.into_iter().filter(|(_, file)| file.is_some() && !is_tls);
        let idle: Vec<Fault> = idle
            .map(|(place, _)| Fault {
                place: place.to_owned(),
                message: "needs a redis-url that starts with rediss://".to_owned(),
            })
            .collect();
        self.faults.extend(own.into_iter().chain(for_redis).chain(idle));
        if !self.faults.is_empty() {
            return Err(LoadError::Faults(self.faults));
        }
        let mut warnings = Vec::new();
        if self.config.default_scopes.contains(Scopes::ADMIN) {
            warnings.push("default-scopes: every login may do everything".to_owned());
        }
        warnings.extend(self.warnings);
        Ok(Loaded { config: self.config, sources: self.sources, action, init, warnings })
    }
}

/// Writes a TOML value the way a flag would be given. None for tables.
fn text_of(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Array(values) => {
            let texts: Option<Vec<String>> = values.iter().map(text_of).collect();
            texts.map(|texts| texts.join(","))
        }
        toml::Value::Table(_) => None,
        plain => Some(plain.to_string()),
    }
}

/// Every key with its default, in comments: a file without an effect until a line is uncommented.
pub(super) fn template() -> String {
    let mut text = String::from(
        "# fanfare's configuration. Every key is here with its default; what the environment or the\n\
         # command line says wins over this file. `fanfare check-config --config FILE` checks it.\n",
    );
    for key in KEYS {
        let _ = write!(text, "\n# {}. [flag: --{}] [env: {}]\n", key.help, key.name, key.env());
        match key.unset {
            Unset::Is(unset) => {
                let is_number = unset.bytes().all(|byte| byte.is_ascii_digit());
                let quote = if is_number { "" } else { "\"" };
                let _ = writeln!(text, "#{} = {quote}{unset}{quote}", key.name);
            }
            Unset::Follows(words) => {
                let _ = writeln!(text, "#{} = \"{}\" # unset: {words}", key.name, key.placeholder);
            }
        }
    }
    text.push_str(
        "\n# Rules of the channels whose names begin alike; the longest prefix decides. Who may\n\
         # subscribe and publish: anyone, users, nobody, or a scope: publish, admin, ...\n\
         #[namespaces.\"news:\"]\n#subscribe = \"anyone\"\n#publish = \"publish\"\n\
         #history-max = 256\n#history-age = \"1h\"\n#presence = false\n",
    );
    text
}
