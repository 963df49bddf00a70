//! What the server says, read from one text message, and how requests are written.
//!
//! Imports `wire::instance`. Imported by everything in `client` that takes frames in.

use serde::Deserialize;
use serde_json::Value;

use super::error::{Error, code_of};
use super::service::InstanceChange;
use crate::wire::instance::{Instance, InstanceKey};
use crate::wire::refusal::Code;

/// Every field of every frame. Which of them are there, `kind` or `message_type` says.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Frame {
    #[serde(rename = "type")]
    pub(super) kind: Option<Box<str>>,
    pub(super) message_type: Option<Box<str>>,
    pub(super) id: Option<Value>,
    pub(super) code: Option<Box<str>>,
    pub(super) message: Option<Box<str>>,
    pub(super) temporary: Option<bool>,
    pub(super) service_id: Option<Box<str>>,
    pub(super) epoch: Option<Box<str>>,
    pub(super) revision: Option<u64>,
    pub(super) from: Option<u64>,
    pub(super) changes: Option<Vec<InstanceChange>>,
    pub(super) degraded: Option<bool>,
    pub(super) instances: Option<Vec<Instance>>,
    pub(super) recovered: Option<bool>,
    pub(super) channel: Option<Box<str>>,
    pub(super) offset: Option<u64>,
    pub(super) message_id: Option<Box<str>>,
    pub(super) payload: Option<Value>,
    pub(super) event: Option<Box<str>>,
    pub(super) metadata: Option<Value>,
    pub(super) from_user_id: Option<Box<str>>,
    pub(super) to_user_id: Option<Box<str>>,
    pub(super) username: Option<Box<str>>,
    pub(super) content: Option<Box<str>>,
    pub(super) timestamp: Option<Box<str>>,
    pub(super) reason: Option<Box<str>>,
    pub(super) room: Option<Box<str>>,
    pub(super) users: Option<Vec<Person>>,
    pub(super) group_id: Option<Box<str>>,
    pub(super) created_at: Option<u64>,
    pub(super) data: Option<Value>,
    pub(super) after_ms: Option<u64>,
    pub(super) connection_id: Option<Box<str>>,
    pub(super) node_id: Option<Box<str>>,
    pub(super) user_id: Option<Box<str>>,
    pub(super) failed_instances: Option<Vec<FailedInstance>>,
    pub(super) failed_instance_keys: Option<Vec<FailedKey>>,
}

/// A user, as rooms and announcements name one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[allow(missing_docs, reason = "the fields are the protocol's own names")]
pub struct Person {
    pub user_id: String,
    #[serde(default)]
    pub username: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FailedInstance {
    pub(super) instance: Instance,
    #[serde(default)]
    pub(super) error_code: String,
    #[serde(default)]
    pub(super) error_message: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FailedKey {
    pub(super) instance_key: InstanceKey,
    #[serde(default)]
    pub(super) error_code: String,
}

impl Frame {
    /// Reads a frame. What is no frame is an error; what is an unknown one is not.
    pub(super) fn decode(text: &str) -> Result<Frame, Error> {
        serde_json::from_str(text).map_err(|fault| Error::Protocol(format!("a frame: {fault}")))
    }

    /// What an `error` says, of either family.
    pub(super) fn refusal(&self) -> Error {
        let data = self.data.as_ref();
        let text = |field: &Option<Box<str>>, name: &str| {
            let in_data = || data.and_then(|data| data[name].as_str()).map(Box::from);
            field.clone().or_else(in_data).unwrap_or_default()
        };
        let code = code_of(&text(&self.code, "code"));
        let is_temporary = self.temporary.unwrap_or(code.is_some_and(Code::is_temporary));
        Error::Refused { code, message: text(&self.message, "message").into(), is_temporary }
    }
}

/// Owns an optional text, empty where there is none.
pub(super) fn owned(text: Option<&str>) -> String {
    text.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_both_families_read_the_same() {
        for text in [
            r#"{"type":"error","code":"not_found","message":"no","temporary":false,"id":"1"}"#,
            r#"{"id":"1","message_type":"error","data":{"code":"not_found","message":"no"}}"#,
        ] {
            let error = Frame::decode(text).expect("a frame").refusal();
            assert_eq!(error.code(), Some(Code::NotFound));
            assert_eq!(error.to_string(), "refused, not_found: no");
            assert!(!error.is_temporary());
        }
    }

    #[test]
    fn nonsense_is_an_error_and_news_are_not() {
        assert!(Frame::decode("[]").is_err() || Frame::decode("7").is_err());
        assert!(Frame::decode(r#"{"type":"of tomorrow","x":{"y":[1]}}"#).is_ok());
    }
}
