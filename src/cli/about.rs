//! `info`, `check-config`, the manual page and completions.
//!
//! Part of the binary's `cli`.

use std::fmt::Write as _;
use std::path::Path;

use crate::auth::SECRET_FILE;
use crate::config::{Config, Loaded};
use crate::server::{self, authenticator};
use serde_json::{Map, Value, json};

/// `fanfare info`
pub(crate) fn info(loaded: &Loaded, as_json: bool) -> String {
    let build = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("target", env!("FANFARE_TARGET")),
        ("profile", env!("FANFARE_PROFILE")),
        ("compiler", env!("FANFARE_RUSTC")),
    ];
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let machine = [("cores", cores), ("connections_max", server::connections_max(&loaded.config))];
    let settings = loaded.config.entries(&loaded.sources);
    if as_json {
        let settings: Map<String, Value> = settings
            .into_iter()
            .map(|(key, value, source)| (key, json!({"value": value, "source": source.as_str()})))
            .collect();
        let (build, machine) = (Map::from_iter(build.map(pair)), Map::from_iter(machine.map(pair)));
        return json!({"build": build, "machine": machine, "settings": settings}).to_string();
    }
    let mut text = format!("fanfare {}\n", env!("CARGO_PKG_VERSION"));
    for (name, value) in &build[1..] {
        let _ = writeln!(text, "  {name:<34} {value}");
    }
    text.push_str("machine\n");
    for (name, value) in machine {
        let _ = writeln!(text, "  {name:<34} {value}");
    }
    text.push_str("settings\n");
    for (key, value, source) in settings {
        let value = match value {
            Value::String(value) => value,
            Value::Null => String::from("-"),
            value => value.to_string(),
        };
        let _ = writeln!(text, "  {key:<34} {value:<24} {}", source.as_str());
    }
    text.truncate(text.trim_end().len());
    text
}

fn pair<T: Into<Value>>((name, value): (&str, T)) -> (String, Value) {
    (name.to_owned(), value.into())
}

/// `fanfare check-config`: checks the files that the settings name, which the parser does not.
pub(crate) fn check(config: &Config) -> Result<String, String> {
    let mut faults = Vec::new();
    // A missing secret will be generated, and be valid.
    let is_to_come = config.uses_generated_secret() && !config.data_dir.join(SECRET_FILE).exists();
    if (config.jwt_secret.is_none() && !is_to_come)
        && let Err(fault) = authenticator(config)
    {
        faults.push(fault.to_string());
    }
    if let Err(fault) = server::check_certificate(config) {
        faults.push(fault.to_string());
    }
    let place = config.data_dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("."));
    if !place.is_dir() && !place.as_os_str().is_empty() {
        faults.push(format!("data-dir: {} is not a directory", place.display()));
    }
    if faults.is_empty() {
        Ok(String::from("the configuration is in order"))
    } else {
        Err(faults.join("\n"))
    }
}

/// `fanfare man`: the manual page in roff.
pub(crate) fn manual() -> std::io::Result<Vec<u8>> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Config::command()).render(&mut page)?;
    Ok(page)
}

/// `fanfare completions SHELL`
pub(crate) fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Config::command(), "fanfare", &mut script);
    script
}
