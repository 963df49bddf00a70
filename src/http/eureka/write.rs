//! An instance as Eureka's clients read it: JSON, with the quirks of Eureka's own, or XML.
//!
//! Some of the numbers are texts in JSON and some are not, and one name is spelled in two ways:
//! clients have come to rely on it.
//!
//! Imports its sibling. Part of `http::eureka`.

use std::borrow::Cow;
use std::fmt::Write as _;

use quick_xml::escape::escape;

use super::model::{Port, Shown};

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    Json,
    Xml,
}

/// Writes an instance.
pub(super) fn put_instance(out: &mut String, language: Language, shown: &Shown, action: &str) {
    match language {
        Language::Json => put_json(out, shown, action),
        Language::Xml => put_xml(out, shown, action),
    }
}

/// Writes what comes before the instances of an application, after its name.
pub(super) fn open_application(out: &mut String, language: Language, name: &str) {
    match language {
        Language::Json => {
            out.push_str("{\"name\":");
            put_quoted(out, name);
            out.push_str(",\"instance\":[");
        }
        Language::Xml => {
            out.push_str("<application>");
            element(out, "name", name);
        }
    }
}

/// Writes what comes after them.
pub(super) fn close_application(out: &mut String, language: Language) {
    out.push_str(match language {
        Language::Json => "]}",
        Language::Xml => "</application>",
    });
}

/// Writes what comes before the applications.
pub(super) fn open_applications(out: &mut String, language: Language, edition: u64, hash: &str) {
    match language {
        Language::Json => {
            _ = write!(out, "{{\"applications\":{{\"versions__delta\":\"{edition}\",");
            _ = write!(out, "\"apps__hashcode\":\"{hash}\",\"application\":[");
        }
        Language::Xml => {
            out.push_str("<applications>");
            number(out, "versions__delta", edition);
            element(out, "apps__hashcode", hash);
        }
    }
}

/// Writes what comes after them.
pub(super) fn close_applications(out: &mut String, language: Language) {
    out.push_str(match language {
        Language::Json => "]}}",
        Language::Xml => "</applications>",
    });
}

/// What stands between two of a list.
pub(super) const fn separator(language: Language) -> &'static str {
    match language {
        Language::Json => ",",
        Language::Xml => "",
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
        // What Eureka's own encoder makes of an empty map, and its decoder expects.
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

fn put_json(out: &mut String, shown: &Shown, action: &str) {
    out.push('{');
    field(out, "instanceId", &shown.instance_id);
    field(out, "hostName", &shown.host_name);
    field(out, "app", &shown.app);
    optional(out, "appGroupName", shown.app_group.as_deref());
    field(out, "ipAddr", &shown.ip_addr);
    optional(out, "sid", shown.sid.as_deref());
    field(out, "status", shown.status.as_str());
    field(out, "overriddenStatus", shown.overridden.as_str());
    for (name, Port { number, enabled }) in
        [("port", shown.port), ("securePort", shown.secure_port)]
    {
        _ = write!(out, "\"{name}\":{{\"$\":{number},\"@enabled\":\"{enabled}\"}},");
    }
    _ = write!(out, "\"countryId\":{},\"dataCenterInfo\":{{", shown.country_id);
    field(out, "@class", &shown.data_center.class);
    out.push_str("\"name\":");
    put_quoted(out, &shown.data_center.name);
    if !shown.data_center.metadata.is_empty() {
        out.push_str(",\"metadata\":");
        put_map(out, &shown.data_center.metadata);
    }
    out.push_str("},\"leaseInfo\":{");
    for (index, (name, value)) in lease(shown).into_iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        _ = write!(out, "{comma}\"{name}\":{value}");
    }
    out.push_str("},\"metadata\":");
    put_map(out, &shown.metadata);
    out.push(',');
    for (name, value) in texts(shown) {
        optional(out, name, value);
    }
    let Shown { is_coordinating, updated_ms, dirty_ms, .. } = shown;
    _ = write!(out, "\"isCoordinatingDiscoveryServer\":\"{is_coordinating}\",");
    _ = write!(out, "\"lastUpdatedTimestamp\":\"{updated_ms}\",");
    _ = write!(out, "\"lastDirtyTimestamp\":\"{dirty_ms}\",\"actionType\":\"{action}\"}}");
}

// --- XML -----------------------------------------------------------------------------------------

/// A text in which every character may stand in XML. There are some that cannot be written there at
/// all, escaped or not (XML 1.0, 2.2); a mark stands in their place.
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

fn put_xml(out: &mut String, shown: &Shown, action: &str) {
    out.push_str("<instance>");
    element(out, "instanceId", &shown.instance_id);
    element(out, "hostName", &shown.host_name);
    element(out, "app", &shown.app);
    if let Some(group) = &shown.app_group {
        element(out, "appGroupName", group);
    }
    element(out, "ipAddr", &shown.ip_addr);
    if let Some(sid) = &shown.sid {
        element(out, "sid", sid);
    }
    element(out, "status", shown.status.as_str());
    element(out, "overriddenstatus", shown.overridden.as_str());
    for (name, Port { number, enabled }) in
        [("port", shown.port), ("securePort", shown.secure_port)]
    {
        _ = write!(out, "<{name} enabled=\"{enabled}\">{number}</{name}>");
    }
    _ = write!(out, "<countryId>{}</countryId>", shown.country_id);
    _ = write!(out, "<dataCenterInfo class=\"{}\">", legal(&shown.data_center.class));
    element(out, "name", &shown.data_center.name);
    if !shown.data_center.metadata.is_empty() {
        out.push_str("<metadata>");
        put_elements(out, &shown.data_center.metadata);
        out.push_str("</metadata>");
    }
    out.push_str("</dataCenterInfo><leaseInfo>");
    for (name, value) in lease(shown) {
        number(out, name, value);
    }
    out.push_str("</leaseInfo><metadata>");
    put_elements(out, &shown.metadata);
    out.push_str("</metadata>");
    for (name, value) in texts(shown) {
        if let Some(value) = value {
            element(out, name, value);
        }
    }
    let is_coordinating = if shown.is_coordinating { "true" } else { "false" };
    element(out, "isCoordinatingDiscoveryServer", is_coordinating);
    number(out, "lastUpdatedTimestamp", shown.updated_ms);
    number(out, "lastDirtyTimestamp", shown.dirty_ms);
    element(out, "actionType", action);
    out.push_str("</instance>");
}

// --- Both ----------------------------------------------------------------------------------------

fn lease(shown: &Shown) -> [(&'static str, u64); 6] {
    [
        ("renewalIntervalInSecs", shown.renewal_s),
        ("durationInSecs", shown.duration_s),
        ("registrationTimestamp", shown.registered_ms),
        ("lastRenewalTimestamp", shown.renewed_ms),
        ("evictionTimestamp", 0),
        ("serviceUpTimestamp", shown.registered_ms),
    ]
}

/// The fields that are left out where they are empty.
fn texts(shown: &Shown) -> [(&'static str, Option<&str>); 7] {
    [
        ("homePageUrl", shown.home_page_url.as_deref()),
        ("statusPageUrl", shown.status_page_url.as_deref()),
        ("healthCheckUrl", shown.health_check_url.as_deref()),
        ("secureHealthCheckUrl", shown.secure_health_check_url.as_deref()),
        ("vipAddress", Some(&*shown.vip_address)),
        ("secureVipAddress", Some(&*shown.secure_vip_address)),
        ("asgName", shown.asg_name.as_deref()),
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
