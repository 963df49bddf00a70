//! An instance as Eureka's clients read it: JSON, with the quirks of Eureka's own, or XML.
//!
//! In JSON some numbers are texts and some are not, and one name is spelled in two ways. Clients rely on
//! both.
//!
//! Imports its sibling. Part of `doors::eureka`.

use std::borrow::Cow;
use std::fmt::Write as _;

use quick_xml::escape::escape;

use super::model::{EurekaInstance, Port};

/// The format of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Xml,
}

/// Writes an instance.
pub(super) fn put_instance(
    out: &mut String,
    format: Format,
    instance: &EurekaInstance,
    action: &str,
) {
    match format {
        Format::Json => put_json(out, instance, action),
        Format::Xml => put_xml(out, instance, action),
    }
}

/// Writes the beginning of an application, after its name.
pub(super) fn open_application(out: &mut String, format: Format, name: &str) {
    match format {
        Format::Json => {
            out.push_str("{\"name\":");
            put_quoted(out, name);
            out.push_str(",\"instance\":[");
        }
        Format::Xml => {
            out.push_str("<application>");
            element(out, "name", name);
        }
    }
}

/// Writes the end of an application.
pub(super) fn close_application(out: &mut String, format: Format) {
    out.push_str(match format {
        Format::Json => "]}",
        Format::Xml => "</application>",
    });
}

/// Writes the beginning of the applications.
pub(super) fn open_applications(
    out: &mut String,
    format: Format,
    listing_version: u64,
    hash: &str,
) {
    match format {
        Format::Json => {
            _ = write!(out, "{{\"applications\":{{\"versions__delta\":\"{listing_version}\",");
            _ = write!(out, "\"apps__hashcode\":\"{hash}\",\"application\":[");
        }
        Format::Xml => {
            out.push_str("<applications>");
            number(out, "versions__delta", listing_version);
            element(out, "apps__hashcode", hash);
        }
    }
}

/// Writes the end of the applications.
pub(super) fn close_applications(out: &mut String, format: Format) {
    out.push_str(match format {
        Format::Json => "]}}",
        Format::Xml => "</applications>",
    });
}

/// The separator of a list.
pub(super) const fn separator(format: Format) -> &'static str {
    match format {
        Format::Json => ",",
        Format::Xml => "",
    }
}

// --- JSON ----------------------------------------------------------------------------------------

fn put_quoted(out: &mut String, text: &str) {
    // A text is always representable.
    out.push_str(&serde_json::to_string(text).unwrap_or_else(|_| String::from("\"\"")));
}

/// A field that is a text, and the comma after it.
fn field(out: &mut String, name: &str, text: &str) {
    _ = write!(out, "\"{name}\":");
    put_quoted(out, text);
    out.push(',');
}

fn optional(out: &mut String, name: &str, text: Option<&str>) {
    if let Some(text) = text {
        field(out, name, text);
    }
}

fn put_map(out: &mut String, pairs: &[(String, String)]) {
    if pairs.is_empty() {
        // Eureka's own encoder writes an empty map so, and its decoder expects it.
        out.push_str("{\"@class\":\"java.util.Collections$EmptyMap\"}");
        return;
    }
    for (index, (key, value)) in pairs.iter().enumerate() {
        out.push(if index == 0 { '{' } else { ',' });
        put_quoted(out, key);
        out.push(':');
        put_quoted(out, value);
    }
    out.push('}');
}

fn put_json(out: &mut String, instance: &EurekaInstance, action: &str) {
    out.push('{');
    field(out, "instanceId", &instance.instance_id);
    field(out, "hostName", &instance.host_name);
    field(out, "app", &instance.app);
    optional(out, "appGroupName", instance.app_group.as_deref());
    field(out, "ipAddr", &instance.ip_addr);
    optional(out, "sid", instance.sid.as_deref());
    field(out, "status", instance.status.as_str());
    field(out, "overriddenStatus", instance.overridden.as_str());
    for (name, Port { number, enabled }) in
        [("port", instance.port), ("securePort", instance.secure_port)]
    {
        _ = write!(out, "\"{name}\":{{\"$\":{number},\"@enabled\":\"{enabled}\"}},");
    }
    _ = write!(out, "\"countryId\":{},\"dataCenterInfo\":{{", instance.country_id);
    field(out, "@class", &instance.data_center.class);
    out.push_str("\"name\":");
    put_quoted(out, &instance.data_center.name);
    if !instance.data_center.metadata.is_empty() {
        out.push_str(",\"metadata\":");
        put_map(out, &instance.data_center.metadata);
    }
    out.push_str("},\"leaseInfo\":{");
    for (index, (name, value)) in lease(instance).into_iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        _ = write!(out, "{comma}\"{name}\":{value}");
    }
    out.push_str("},\"metadata\":");
    put_map(out, &instance.metadata);
    out.push(',');
    for (name, value) in texts(instance) {
        optional(out, name, value);
    }
    let EurekaInstance { is_coordinating, updated_ms, dirty_ms, .. } = instance;
    _ = write!(out, "\"isCoordinatingDiscoveryServer\":\"{is_coordinating}\",");
    _ = write!(out, "\"lastUpdatedTimestamp\":\"{updated_ms}\",");
    _ = write!(out, "\"lastDirtyTimestamp\":\"{dirty_ms}\",\"actionType\":\"{action}\"}}");
}

// --- XML -----------------------------------------------------------------------------------------

/// A text with only characters that XML allows. Some cannot be written in XML at all, escaped or
/// not (XML 1.0, 2.2); a mark replaces them.
fn legal(text: &str) -> Cow<'_, str> {
    let is_legal = |c: char| matches!(c, '\t' | '\n' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    // A lone carriage return would be read as the end of a line.
    if text.chars().all(|c| is_legal(c) && c != '\r') {
        return escape(text);
    }
    let legal: String =
        text.chars().map(|c| if is_legal(c) || c == '\r' { c } else { '\u{fffd}' }).collect();
    Cow::Owned(escape(&*legal).replace('\r', "&#13;"))
}

/// Whether a name may be an element's. One with a colon would have to belong to a namespace.
fn is_element_name(name: &str) -> bool {
    let is_start = |c: char| {
        c == '_'
            || c.is_ascii_alphabetic()
            || matches!(c, '\u{c0}'..='\u{d6}' | '\u{d8}'..='\u{f6}' | '\u{f8}'..='\u{2ff}'
                | '\u{370}'..='\u{37d}' | '\u{37f}'..='\u{1fff}' | '\u{200c}'..='\u{200d}'
                | '\u{2070}'..='\u{218f}' | '\u{2c00}'..='\u{2fef}' | '\u{3001}'..='\u{d7ff}'
                | '\u{f900}'..='\u{fdcf}' | '\u{fdf0}'..='\u{fffd}' | '\u{10000}'..='\u{effff}')
    };
    let is_part = |c: char| {
        is_start(c)
            || c.is_ascii_digit()
            || matches!(c, '-' | '.' | '\u{b7}' | '\u{300}'..='\u{36f}' | '\u{203f}'..='\u{2040}')
    };
    let mut chars = name.chars();
    chars.next().is_some_and(is_start) && chars.all(is_part)
}

fn element(out: &mut String, name: &str, text: &str) {
    _ = write!(out, "<{name}>{}</{name}>", legal(text));
}

fn number(out: &mut String, name: &str, value: u64) {
    _ = write!(out, "<{name}>{value}</{name}>");
}

fn put_elements(out: &mut String, pairs: &[(String, String)]) {
    for (key, value) in pairs.iter().filter(|(key, _)| is_element_name(key)) {
        element(out, key, value);
    }
}

fn put_xml(out: &mut String, instance: &EurekaInstance, action: &str) {
    out.push_str("<instance>");
    element(out, "instanceId", &instance.instance_id);
    element(out, "hostName", &instance.host_name);
    element(out, "app", &instance.app);
    if let Some(group) = &instance.app_group {
        element(out, "appGroupName", group);
    }
    element(out, "ipAddr", &instance.ip_addr);
    if let Some(sid) = &instance.sid {
        element(out, "sid", sid);
    }
    element(out, "status", instance.status.as_str());
    element(out, "overriddenstatus", instance.overridden.as_str());
    for (name, Port { number, enabled }) in
        [("port", instance.port), ("securePort", instance.secure_port)]
    {
        _ = write!(out, "<{name} enabled=\"{enabled}\">{number}</{name}>");
    }
    _ = write!(out, "<countryId>{}</countryId>", instance.country_id);
    _ = write!(out, "<dataCenterInfo class=\"{}\">", legal(&instance.data_center.class));
    element(out, "name", &instance.data_center.name);
    if !instance.data_center.metadata.is_empty() {
        out.push_str("<metadata>");
        put_elements(out, &instance.data_center.metadata);
        out.push_str("</metadata>");
    }
    out.push_str("</dataCenterInfo><leaseInfo>");
    for (name, value) in lease(instance) {
        number(out, name, value);
    }
    out.push_str("</leaseInfo><metadata>");
    put_elements(out, &instance.metadata);
    out.push_str("</metadata>");
    for (name, value) in texts(instance) {
        if let Some(value) = value {
            element(out, name, value);
        }
    }
    let is_coordinating = if instance.is_coordinating { "true" } else { "false" };
    element(out, "isCoordinatingDiscoveryServer", is_coordinating);
    number(out, "lastUpdatedTimestamp", instance.updated_ms);
    number(out, "lastDirtyTimestamp", instance.dirty_ms);
    element(out, "actionType", action);
    out.push_str("</instance>");
}

// --- Both ----------------------------------------------------------------------------------------

fn lease(instance: &EurekaInstance) -> [(&'static str, u64); 6] {
    [
        ("renewalIntervalInSecs", instance.renewal_s),
        ("durationInSecs", instance.duration_s),
        ("registrationTimestamp", instance.registered_ms),
        ("lastRenewalTimestamp", instance.renewed_ms),
        ("evictionTimestamp", 0),
        ("serviceUpTimestamp", instance.registered_ms),
    ]
}

/// The fields that are left out if they are empty.
fn texts(instance: &EurekaInstance) -> [(&'static str, Option<&str>); 7] {
    [
        ("homePageUrl", instance.home_page_url.as_deref()),
        ("statusPageUrl", instance.status_page_url.as_deref()),
        ("healthCheckUrl", instance.health_check_url.as_deref()),
        ("secureHealthCheckUrl", instance.secure_health_check_url.as_deref()),
        ("vipAddress", Some(&*instance.vip_address)),
        ("secureVipAddress", Some(&*instance.secure_vip_address)),
        ("asgName", instance.asg_name.as_deref()),
    ]
    .map(|(name, text)| (name, text.filter(|text| !text.is_empty())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_xml_cannot_have_are_none() {
        for name in ["zone", "management.port", "_a-1", "\u{e9}t\u{e9}"] {
            assert!(is_element_name(name), "{name}");
        }
        for name in ["", "1a", "-a", "a b", "a:b", "$eureka", "a/b", "a>", "\u{d7}"] {
            assert!(!is_element_name(name), "{name}");
        }
    }

    #[test]
    fn every_text_can_be_read_again() {
        for text in ["a<b>&\"'c", "\u{0}\u{b}\u{ffff}", "a\r\nb\tc", "\u{1F389}\u{e9}", "]]>"] {
            let mut out = String::new();
            element(&mut out, "x", text);
            let mut reader = quick_xml::Reader::from_str(&out);
            let mut read = String::new();
            loop {
                use quick_xml::events::Event;
                match reader.read_event().expect("well-formed") {
                    Event::Text(text) => read.push_str(&text.xml10_content()),
                    Event::GeneralRef(reference) => {
                        let text = format!("&{};", &*reference);
                        read.push_str(&quick_xml::escape::unescape(&text).expect("known"));
                    }
                    Event::Eof => break,
                    _ => {}
                }
            }
            let expected: String = text
                .chars()
                .map(|c| if matches!(c, '\u{0}' | '\u{b}' | '\u{ffff}') { '\u{fffd}' } else { c })
                .collect();
            assert_eq!(read, expected);
        }
    }
}
