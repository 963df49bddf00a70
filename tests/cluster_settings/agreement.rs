//! Which settings of nodes differ, and which node is at fault.

use fanfare::internals::cluster::NodeView;
use fanfare::internals::cluster::agreement::{
    JOINED_MS, OTHER_TOKEN_KEYS, SETTINGS, Shared, TOKEN_KEY,
};
use serde_json::{Value, json};

fn shared(node: &str, settings: &Value) -> Shared {
    let settings = settings.as_object().cloned().unwrap_or_default();
    Shared { node: node.to_owned(), settings, may_differ: false }
}

fn heard(id: &str, about: &Value) -> NodeView {
    NodeView { id: id.to_owned(), age_ms: 0, is_alive: true, about: about.to_string() }
}

fn settings() -> Value {
    json!({TOKEN_KEY: "a", "auth": "open", "instances_max": 10})
}

#[test]
fn the_later_of_two_that_differ_is_at_fault() {
    let own = shared("m", &json!({TOKEN_KEY: "b", "auth": "open", "instances_max": 9}));
    for (own_ms, other_ms, other, is_ours) in [
        (2, 1, "z", true),
        (1, 2, "a", false),
        (5, 5, "a", true),
        (5, 5, "z", false),
        (0, 1, "z", true),
    ] {
        let about = json!({SETTINGS: settings(), JOINED_MS: other_ms});
        let found = own.differences(own_ms, &[heard(other, &about)]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].is_ours, is_ours, "at {own_ms}, beside {other} at {other_ms}");
        assert_eq!(found[0].settings, ["instances_max", TOKEN_KEY]);
    }
}

/// One that differs from the eldest has no say in who else is ready.
#[test]
fn the_eldest_is_right() {
    let right = json!({SETTINGS: settings(), JOINED_MS: 1});
    let wrong = json!({SETTINGS: {TOKEN_KEY: "b"}, JOINED_MS: 2});
    let nodes = [heard("wrong", &wrong), heard("right", &right)];
    let found = shared("m", &settings()).differences(3, &nodes);
    assert_eq!(found.len(), 1);
    assert!(found[0].node == "wrong" && !found[0].is_ours);
}

#[test]
fn settings_may_differ_while_they_are_changed_and_secrets_never() {
    let about = json!({SETTINGS: settings(), JOINED_MS: 1});
    let is_ours = |changed: Value, may_differ: bool| {
        let own = Shared { may_differ, ..shared("m", &changed) };
        own.differences(2, &[heard("a", &about)])[0].is_ours
    };
    assert!(is_ours(json!({"instances_max": 11}), false));
    assert!(!is_ours(json!({"instances_max": 11}), true));
    assert!(is_ours(json!({"instances_max": 11, "auth": "required"}), true));
    assert!(is_ours(json!({TOKEN_KEY: "b"}), true));
}

#[test]
fn what_tells_nothing_or_is_gone_does_not_differ() {
    let own = shared("m", &json!({TOKEN_KEY: "b", "new_setting": 1}));
    let about = json!({SETTINGS: {TOKEN_KEY: "b", "older_setting": 2}, JOINED_MS: 1});
    let gone = NodeView { is_alive: false, ..heard("gone", &json!({SETTINGS: {TOKEN_KEY: "c"}})) };
    let itself = heard("m", &json!({SETTINGS: {TOKEN_KEY: "c"}}));
    let nodes = [heard("same", &about), heard("old", &json!({})), gone, itself];
    assert_eq!(own.differences(2, &nodes), []);
}

#[test]
fn nodes_agree_on_the_key_where_each_accepts_the_others() {
    let keys = |key: &str, others: &[&str]| json!({TOKEN_KEY: key, OTHER_TOKEN_KEYS: others});
    let agree = |one: &Value, other: &Value| {
        let about = json!({SETTINGS: other, JOINED_MS: 1});
        shared("m", one).differences(2, &[heard("a", &about)]).is_empty()
    };
    for (one, other, expected) in [
        (keys("a", &[]), keys("a", &["b"]), true),
        (keys("a", &["b"]), keys("b", &["a"]), true),
        (keys("a", &["b", "c"]), keys("c", &["a"]), true),
        (keys("a", &["b"]), keys("b", &[]), false),
        (keys("a", &["c"]), keys("b", &["c"]), false),
        // One of a release that has no other keys.
        (keys("a", &["b"]), json!({TOKEN_KEY: "a"}), true),
        (keys("a", &["b"]), json!({TOKEN_KEY: "b"}), false),
        // Of keys that an issuer gives nothing may be known.
        (keys("a", &[]), json!({}), true),
    ] {
        assert_eq!(agree(&one, &other), expected, "{one} {other}");
        assert_eq!(agree(&other, &one), expected, "{other} {one}");
    }
}
