//! The namespaces of channels, a table of the configuration file:
//!
//! ```toml
//! [namespaces."news:"]
//! subscribe = "anyone"
//! publish = "publish"
//! history-max = 1000
//! history-age = "2h"
//! presence = false
//! ```
//!
//! Keys that a namespace leaves out have the prefix's defaults.
//!
//! Imports `auth` and `limits`. Part of `config`.

use serde_json::{Value as Json, json};
use toml::Value;

use super::Config;
use super::value::duration;
use crate::auth::namespace::{Namespace, Namespaces, Reserved, Who};
use crate::limits;

/// The namespaces of a configuration, as `config.json` shows them.
pub(super) fn document(config: &Config) -> Json {
    let rules = config.namespaces.iter().map(|one| {
        let rules = json!({
            "subscribe": one.subscribe.to_string(),
            "publish": one.publish.to_string(),
            "history_max": one.history_max.unwrap_or(config.limits.channel_history_max),
            "history_age_ms": one.history_ms,
            "presence": one.presence,
        });
        (one.prefix.clone(), rules)
    });
    Json::Object(rules.collect())
}

/// Applies the table, and reports its faults. Returns the rules without an effect, because the
/// channels are reserved.
pub(super) fn apply(
    namespaces: &mut Namespaces,
    table: &Value,
    fault: &mut dyn FnMut(&str, String),
) -> Vec<String> {
    let mut idle = Vec::new();
    let Some(table) = table.as_table() else {
        fault("namespaces", "not a table of prefixes".to_owned());
        return idle;
    };
    for (prefix, rules) in table {
        let place = format!("namespaces.\"{prefix}\"");
        let Some(rules) = rules.as_table() else {
            fault(&place, "not a table of rules".to_owned());
            continue;
        };
        if prefix.len() > limits::NAME_BYTES_MAX || prefix.chars().any(char::is_control) {
            fault(&place, "the prefix is no beginning of a channel's name".to_owned());
            continue;
        }
        let before = namespaces.exactly(prefix).cloned();
        let mut namespace = before.unwrap_or_else(|| fresh(namespaces, prefix));
        for (key, value) in rules {
            let canonical = key.replace('_', "-");
            if let Err(message) = set(&mut namespace, &canonical, value) {
                fault(&format!("{place}.{key}"), message);
            }
        }
        if let Some(kind) = Reserved::of(prefix)
            && !kind.has_publish_rule()
            && namespace.publish != Who::Nobody
            && rules.contains_key("publish")
        {
            idle.push(format!("{place}.publish changes nothing: {}", kind.refusal()));
        }
        namespaces.insert(namespace);
    }
    idle
}

/// A namespace with its defaults. Under a reserved prefix the rules for following and publishing
/// are the prefix's, so that a longer prefix opens nothing by setting another key.
fn fresh(namespaces: &Namespaces, prefix: &str) -> Namespace {
    let namespace = Namespace::new(prefix);
    if Reserved::of(prefix).is_none() {
        return namespace;
    }
    let above = namespaces.of(prefix);
    Namespace { subscribe: above.subscribe, publish: above.publish, ..namespace }
}

fn set(namespace: &mut Namespace, key: &str, value: &Value) -> Result<(), String> {
    let text = || value.as_str().ok_or_else(|| "not a string".to_owned());
    match key {
        "subscribe" => namespace.subscribe = Who::parse(text()?)?,
        "publish" => namespace.publish = Who::parse(text()?)?,
        "history-max" => {
            let count = value.as_integer().and_then(|count| usize::try_from(count).ok());
            let max = limits::NAMESPACE_HISTORY_MAX;
            namespace.history_max =
                Some(count.filter(|&count| count <= max).ok_or(format!("not 0 to {max}"))?);
        }
        "history-age" => {
            let year_ms = 365 * 24 * 3_600_000;
            namespace.history_ms = duration::parse(text()?, 1_000..=year_ms)?;
        }
        "presence" => {
            namespace.presence = value.as_bool().ok_or_else(|| "not true or false".to_owned())?;
        }
        _ => return Err("unknown key".to_owned()),
    }
    Ok(())
}
