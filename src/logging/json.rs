//! Lines as JSON objects: `timestamp`, `level`, `target`, `message`, and each field by its name.
//!
//! Part of `logging`.

use std::fmt::{self, Write as _};

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Writes events as JSON.
#[derive(Debug, Default)]
pub(super) struct Json(SystemTime);

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut time = String::new();
        self.0.format_time(&mut Writer::new(&mut time))?;
        let (meta, mut fields) = (event.metadata(), Fields::default());
        event.record(&mut fields);
        let Fields { message, others } = fields;
        writeln!(
            writer,
            "{{\"timestamp\":{},\"level\":\"{}\",\"target\":{},\"message\":{}{others}}}",
            Value::from(time),
            meta.level(),
            Value::from(meta.target()),
            message.unwrap_or_else(|| Value::from("")),
        )
    }
}

/// The fields of a line: its message, and `,"name":value` for each other one.
#[derive(Default)]
struct Fields {
    message: Option<Value>,
    others: String,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        if field.name() == "message" {
            self.message = Some(value);
        } else {
            // Writing to a string does not fail.
            _ = write!(self.others, ",{}:{value}", Value::from(field.name()));
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
}
