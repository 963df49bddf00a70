//! Error messages about JSON, for its sender.
//!
//! A text that is no JSON is answered with line and column, a value of a wrong type with the path of
//! its field: `instances[3].port: expected an integer 0..65535, got a string`. A refused text
//! is read again for that, slowly; an accepted text is not.
//!
//! # Promises
//!
//! * A message repeats the sender's numbers and names of known fields, and no other text: a token in
//!   the wrong field is not shown.
//! * A message has at most [`limits::FAULT_BYTES_MAX`] bytes.
//!
//! Imports its siblings and `limits`. Imported by `wire::command` and `http`.

use serde::Deserialize;
use serde_json::Value;

use super::json;

use crate::limits;

/// Why a text could not be read as a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It is not JSON. The text has line and column.
    Syntax(String),
    /// It is JSON, and no object.
    NotAnObject,
    /// A field is of a wrong type. The text names it.
    Field(String),
}

/// Finds why a text could not be read as a `T`. Reads it up to twice.
pub fn explain<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Fault {
    match json::decode::<Value>(text) {
        Err(fault) => return Fault::Syntax(fault.to_string()),
        Ok(Value::Object(_)) => {}
        Ok(_) => return Fault::NotAnObject,
    }
    let mut from = serde_json::Deserializer::from_slice(text);
    Fault::Field(match serde_path_to_error::deserialize::<_, T>(&mut from) {
        Err(fault) => at(&fault.path().to_string(), fault.inner()),
        Ok(_) => String::from("a field cannot be read"),
    })
}

/// Reads an entry of a list. `place` names the entry in the fault: `instances[3]`.
///
/// # Errors
///
/// The field's path, and its expected type.
pub fn read_entry<T: for<'a> Deserialize<'a>>(
    entry: &Value,
    place: impl Fn() -> String,
) -> Result<T, String> {
    if !entry.is_object() {
        return Err(format!("{}: expected an object, got {}", place(), kind_of(entry)));
    }
    serde_path_to_error::deserialize(entry).map_err(|fault| {
        let path = fault.path().to_string();
        let path = if path == "." { place() } else { format!("{}.{path}", place()) };
        at(&path, fault.inner())
    })
}

/// A byte's position in a text: line and column, counted from 1.
pub fn position_of(text: &[u8], at: usize) -> String {
    let before = &text[..at.min(text.len())];
    let line = before.split(|&byte| byte == b'\n').count();
    let column = before.iter().rev().take_while(|&&byte| byte != b'\n').count() + 1;
    format!("line {line} column {column}")
}

/// A value's type in a word, for a message that does not repeat it.
pub fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Puts the path of a field before its fault.
fn at(path: &str, fault: &serde_json::Error) -> String {
    let what = in_words(fault);
    let mut text = if path == "." { what } else { format!("{path}: {what}") };
    text.truncate(text.floor_char_boundary(limits::FAULT_BYTES_MAX));
    text
}

/// The parser's message without the repeated text. `serde::de::Error` gives it the form
/// `invalid type: string "x", expected u16`.
fn in_words(fault: &serde_json::Error) -> String {
    let text = fault.to_string();
    let place = format!(" at line {} column {}", fault.line(), fault.column());
    let text = text.strip_suffix(&place).unwrap_or(&text);
    if let Some(rest) = text.strip_prefix("unknown variant ") {
        let known = rest.rsplit_once(", expected ").map_or("", |(_, known)| known);
        return one_of(known);
    }
    for (prefix, is_value) in [("invalid type: ", false), ("invalid value: ", true)] {
        // The expected type stands last and is our text; the value before it is the sender's.
        let rest = text.strip_prefix(prefix).and_then(|rest| rest.rsplit_once(", expected "));
        if let Some((got, wanted)) = rest {
            return format!("expected {}, got {}", expected(wanted), got_in_words(got, is_value));
        }
    }
    let name = |prefix: &str| text.strip_prefix(prefix)?.strip_suffix('`');
    match (name("missing field `"), name("duplicate field `")) {
        (Some(field), _) => format!("{field} is missing"),
        (_, Some(field)) => format!("{field} stands twice"),
        // The text is JSON, so this is a value of a type that the field cannot have.
        _ => String::from("a value of another type is expected"),
    }
}

/// The words of an enumeration, each in one spelling.
fn one_of(known: &str) -> String {
    let mut words: Vec<&str> = Vec::new();
    for word in known.split('`').skip(1).step_by(2) {
        match words.iter_mut().find(|one| one.eq_ignore_ascii_case(word)) {
            None => words.push(word),
            // The models' own spelling.
            Some(one) if !word.bytes().any(|byte| byte.is_ascii_uppercase()) => *one = word,
            Some(_) => {}
        }
    }
    format!("expected one of {}", words.join(", "))
}

/// A type's name in JSON.
fn expected(wanted: &str) -> &str {
    match wanted {
        "u8" => "an integer 0..255",
        "u16" => "an integer 0..65535",
        "u32" => "an integer 0..4294967295",
        "u64" | "usize" => "an integer 0..18446744073709551615",
        "i32" | "i64" => "an integer",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "an array",
        "string or map" | "a borrowed string" => "a string",
        "a map" => "an object",
        _ if wanted.starts_with("struct ") => "an object",
        _ => wanted,
    }
}

/// The actual value. Only a number is repeated: if its size is at fault.
fn got_in_words(got: &str, is_value: bool) -> String {
    let kind = got.split(' ').next().unwrap_or_default();
    let number =
        got.split('`').nth(1).filter(|number| number.len() <= limits::FAULT_NUMBER_BYTES_MAX);
    match (kind, number) {
        ("integer", Some(number)) if is_value => number.to_owned(),
        ("integer", _) => String::from("an integer"),
        ("floating", Some(number)) => number.to_owned(),
        ("floating", None) => String::from("a number"),
        ("string" | "character", _) => String::from("a string"),
        ("boolean", _) => String::from("a boolean"),
        ("sequence", _) => String::from("an array"),
        ("map", _) => String::from("an object"),
        ("null" | "unit" | "Option", _) => String::from("null"),
        _ => String::from("another type"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::instance::Instance;
    use serde_json::value::RawValue;

    #[derive(Debug, Deserialize)]
    #[allow(dead_code, reason = "only reading it matters")]
    struct Batch<'a> {
        #[serde(default, deserialize_with = "json::objects")]
        instances: Option<Vec<Instance>>,
        snapshot: Option<bool>,
        names: Option<Vec<String>>,
        #[serde(default, borrow, deserialize_with = "json::raw")]
        data: Option<&'a RawValue>,
    }

    fn field(text: &str) -> String {
        match explain::<Batch<'_>>(text.as_bytes()) {
            Fault::Field(text) => text,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_field_is_named_by_its_path() {
        let long = "x".repeat(10_000);
        let secret = format!(r#"{{"instances":[{{"port":"{long}, expected , expected u8"}}]}}"#);
        for (text, message) in [
            (
                r#"{"data":{"a":[1]},"instances":[{},{},{},{"port":"80"}]}"#,
                "instances[3].port: expected an integer 0..65535, got a string",
            ),
            (
                r#"{"instances":[{"port":70000}]}"#,
                "instances[0].port: expected an integer 0..65535, got 70000",
            ),
            (
                r#"{"instances":[{"port":-1}]}"#,
                "instances[0].port: expected an integer 0..65535, got -1",
            ),
            (
                r#"{"instances":[{"port":80.5}]}"#,
                "instances[0].port: expected an integer 0..65535, got 80.5",
            ),
            (&secret, "instances[0].port: expected an integer 0..65535, got a string"),
            (
                r#"{"instances":[{"leaseTtlMs":[]}]}"#,
                "instances[0].leaseTtlMs: expected an integer 0..18446744073709551615, got an array",
            ),
            (
                r#"{"instances":[{"service_id":{}}]}"#,
                "instances[0].service_id: expected a string, got an object",
            ),
            (
                r#"{"instances":[{"status":"dancing"}]}"#,
                "instances[0].status: expected one of starting, up, down, unhealthy, unknown",
            ),
            (
                r#"{"instances":[{"metadata":7}]}"#,
                "instances[0].metadata: expected an object, got an integer",
            ),
            (r#"{"instances":{}}"#, "instances: expected an array, got an object"),
            (r#"{"instances":["x"]}"#, "instances[0]: expected an object, got a string"),
            (r#"{"instances":[null]}"#, "instances[0]: expected an object, got null"),
            (r#"{"snapshot":"yes"}"#, "snapshot: expected true or false, got a string"),
            (r#"{"names":["a",false]}"#, "names[1]: expected a string, got a boolean"),
            (r#"{"snapshot":true,"snapshot":true}"#, "snapshot stands twice"),
        ] {
            assert_eq!(field(text), message, "{text:.60}");
        }
    }

    #[test]
    fn no_json_is_told_by_line_and_column() {
        for (text, message) in [
            ("", "EOF while parsing a value at line 1 column 0"),
            ("{\"a\":1,\n \"b\" 2}", "expected `:` at line 2 column 6"),
            ("{\"a\":1,}", "trailing comma at line 1 column 8"),
            ("{'a':1}", "key must be a string at line 1 column 2"),
        ] {
            let fault = explain::<Batch<'_>>(text.as_bytes());
            assert_eq!(fault, Fault::Syntax(message.to_owned()), "{text}");
        }
        assert_eq!(explain::<Batch<'_>>(b"[1]"), Fault::NotAnObject);
        assert_eq!(position_of(b"ab\ncd\xff", 5), "line 2 column 3");
        assert_eq!(position_of(b"", 7), "line 1 column 1");
    }

    #[test]
    fn an_entry_is_read_by_itself() {
        let read = |text: &str| {
            let entry: Value = serde_json::from_str(text).expect("JSON");
            read_entry::<Instance>(&entry, || String::from("instances[7]")).map(|_| ())
        };
        assert_eq!(read(r#"{"port":1}"#), Ok(()));
        for (text, message) in [
            (r#"{"port":"1"}"#, "instances[7].port: expected an integer 0..65535, got a string"),
            (r#"{"status":5}"#, "instances[7].status: expected a string, got an integer"),
            ("[]", "instances[7]: expected an object, got an array"),
        ] {
            assert_eq!(read(text), Err(message.to_owned()));
        }
    }

    /// A parser's message may hold any text of the sender.
    #[test]
    fn messages_are_short_and_repeat_no_text() {
        let long = "secret".repeat(2_000);
        for text in [
            format!(r#"{{"snapshot":"{long}"}}"#),
            format!(r#"{{"instances":[{{"status":"{long}`, expected `u8"}}]}}"#),
            format!(r#"{{"instances":[{{"port":{}}}]}}"#, "9".repeat(300)),
            format!(r#"{{"{long}":1,"instances":"{long}"}}"#),
        ] {
            let message = field(&text);
            assert!(
                message.len() <= limits::FAULT_BYTES_MAX && !message.contains("secret"),
                "{message}"
            );
        }
    }
}
