//! One message of the server, read from its text.
//!
//! Imports `error` and `event`. Imported by `state` and `connection`.

use fanfare_protocol::instance::{Instance, InstanceKey};
use fanfare_protocol::refusal::Code;
use serde::Deserialize;
use serde_json::Value;

use crate::error::Error;
use crate::event::{InstanceChange, Person};

/// Every field of every frame. `kind` or `message_type` tells which are present.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Frame {
    #[serde(rename = "type")]
    pub(crate) kind: Option<Box<str>>,
    pub(crate) message_type: Option<Box<str>>,
    pub(crate) id: Option<Value>,
    pub(crate) code: Option<Box<str>>,
    pub(crate) message: Option<Box<str>>,
    pub(crate) temporary: Option<bool>,
    pub(crate) service_id: Option<Box<str>>,
    pub(crate) epoch: Option<Box<str>>,
    pub(crate) revision: Option<u64>,
    pub(crate) from: Option<u64>,
    pub(crate) changes: Option<Vec<InstanceChange>>,
    pub(crate) degraded: Option<bool>,
    pub(crate) instances: Option<Vec<Instance>>,
    pub(crate) recovered: Option<bool>,
    pub(crate) channel: Option<Box<str>>,
    pub(crate) offset: Option<u64>,
    pub(crate) message_id: Option<Box<str>>,
    pub(crate) payload: Option<Value>,
    pub(crate) event: Option<Box<str>>,
    pub(crate) metadata: Option<Value>,
    pub(crate) from_user_id: Option<Box<str>>,
    pub(crate) to_user_id: Option<Box<str>>,
    pub(crate) username: Option<Box<str>>,
    pub(crate) content: Option<Box<str>>,
    pub(crate) timestamp: Option<Box<str>>,
    pub(crate) reason: Option<Box<str>>,
    pub(crate) room: Option<Box<str>>,
    pub(crate) users: Option<Vec<Person>>,
    pub(crate) group_id: Option<Box<str>>,
    pub(crate) created_at: Option<u64>,
    pub(crate) data: Option<Value>,
    pub(crate) after_ms: Option<u64>,
    pub(crate) connection_id: Option<Box<str>>,
    pub(crate) node_id: Option<Box<str>>,
    pub(crate) user_id: Option<Box<str>>,
    pub(crate) failed_instances: Option<Vec<FailedInstance>>,
    pub(crate) failed_instance_keys: Option<Vec<FailedKey>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FailedInstance {
    pub(crate) instance: Instance,
    #[serde(default)]
    pub(crate) error_code: String,
    #[serde(default)]
    pub(crate) error_message: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FailedKey {
    pub(crate) instance_key: InstanceKey,
    #[serde(default)]
    pub(crate) error_code: String,
}

impl Frame {
    /// Reads a frame. A text of another shape is an error; a frame of an unknown type is not.
    pub(crate) fn decode(text: &str) -> Result<Frame, Error> {
        serde_json::from_str(text).map_err(|fault| Error::Protocol(format!("a frame: {fault}")))
    }

    /// The refusal in an `error`, of either family.
    pub(crate) fn refusal(&self) -> Error {
        let data = self.data.as_ref();
        let text = |field: &Option<Box<str>>, name: &str| {
            let in_data = || data.and_then(|data| data[name].as_str()).map(Box::from);
            field.clone().or_else(in_data).unwrap_or_default()
        };
        let code = Code::from_name(&text(&self.code, "code"));
        let is_temporary = self.temporary.unwrap_or(code.is_some_and(Code::is_temporary));
        Error::Refused { code, message: text(&self.message, "message").into(), is_temporary }
    }
}

/// Owns an optional text, empty if there is none.
pub(crate) fn owned(text: Option<&str>) -> String {
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
