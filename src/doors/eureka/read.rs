//! Decoder of a registration's body, JSON or XML. It is as lenient as Eureka's own: numbers may be texts,
//! unknown fields are ignored, and missing fields get a default where one makes sense.
//!
//! XML is converted to the shape of the JSON first: attributes become `@name`, the text beside them
//! `$`. So one reader of fields serves both.
//!
//! Imports its siblings, `limits` and `wire`. Part of `doors::eureka`.

use quick_xml::Reader;
use quick_xml::XmlVersion;
use quick_xml::escape::unescape;
use quick_xml::events::{BytesStart, Event};
use serde_json::{Map, Value};

use super::model::{DataCenter, EurekaRegistration, EurekaStatus, ExtraFields, Port, is_own_key};
use crate::limits;
use crate::wire::instance::{check_name, check_service_id};
use crate::wire::json;

/// Reads the body of a registration for the application in the path.
///
/// # Errors
///
/// The fault, in words.
pub(super) fn registration(
    text: &[u8],
    is_xml: bool,
    app: &str,
) -> Result<EurekaRegistration, String> {
    let text = std::str::from_utf8(text).map_err(|_| String::from("the body is not UTF-8"))?;
    let body = if is_xml { from_xml(text)? } else { from_json(text)? };
    let Value::Object(fields) = body else {
        return Err(String::from("the body has no instance"));
    };
    let sent = sent(&fields)?;
    check(&sent, app)?;
    Ok(sent)
}

fn from_json(text: &str) -> Result<Value, String> {
    let read = json::decode::<Value>(text.as_bytes());
    let mut body = read.map_err(|fault| format!("the body is not JSON: {fault}"))?;
    let not_an_object = || String::from("the body is JSON, but not an object");
    let body = body.as_object_mut().ok_or_else(not_an_object)?;
    body.remove("instance").ok_or_else(|| String::from("the body has no instance"))
}

fn check(sent: &EurekaRegistration, app: &str) -> Result<(), String> {
    // The messages of Eureka's own server, which operators search their logs for.
    if sent.instance_id.trim().is_empty() {
        return Err(String::from("Missing instanceId"));
    }
    if sent.host_name.trim().is_empty() {
        return Err(String::from("Missing hostname"));
    }
    if sent.app.trim().is_empty() {
        return Err(String::from("Missing appName"));
    }
    if !sent.app.eq_ignore_ascii_case(app) {
        return Err(format!("Mismatched appName, expecting {app} but was {}", sent.app));
    }
    check_service_id(&sent.app).map_err(|fault| fault.replace("serviceId", "app"))?;
    check_name("instanceId", &sent.instance_id)?;
    check_name("hostName", &sent.host_name)?;
    if !sent.ip_addr.is_empty() {
        check_name("ipAddr", &sent.ip_addr)?;
    }
    Ok(())
}

type Fields = Map<String, Value>;

/// A field as text, if it is a text or a number; none if it is empty.
fn text(fields: &Fields, name: &str) -> Option<String> {
    let text = match fields.get(name)? {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        // An element that XML gave attributes beside its text.
        Value::Object(inner) => return text(inner, "$"),
        _ => return None,
    };
    Some(text).filter(|text| !text.is_empty())
}

fn whole<T: std::str::FromStr>(fields: &Fields, name: &str) -> Result<Option<T>, String> {
    let Some(text) = text(fields, name) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| format!("{name} is not a whole number in range"))
}

/// A whole number with a default, which a value of another type gets.
fn lenient(fields: &Fields, name: &str) -> Option<u64> {
    whole(fields, name).ok().flatten()
}

fn flag(fields: &Fields, name: &str) -> Option<bool> {
    text(fields, name).map(|text| text.eq_ignore_ascii_case("true"))
}

fn object<'a>(fields: &'a Fields, name: &str) -> Option<&'a Fields> {
    fields.get(name).and_then(Value::as_object)
}

fn port(fields: &Fields, name: &str, default: bool) -> Result<Option<Port>, String> {
    if let Some(port) = object(fields, name) {
        let number = whole(port, "$").map_err(|fault| fault.replace('$', name))?;
        let enabled = flag(port, "@enabled").unwrap_or(default);
        return Ok(number.map(|number| Port { number, enabled }));
    }
    // A bare number is enabled by default.
    let number: Option<u16> = whole(fields, name)?;
    Ok(number.map(|number| Port { number, enabled: default }))
}

fn pairs(fields: Option<&Fields>) -> Vec<(String, String)> {
    let fields = fields.into_iter().flatten();
    let fields = fields.filter(|(key, _)| is_own_key(key) && *key != "$");
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    fields.map(|(key, value)| (key.clone(), text(value))).collect()
}

fn data_center(fields: &Fields) -> DataCenter {
    let default = DataCenter::default();
    let Some(fields) = object(fields, "dataCenterInfo") else { return default };
    DataCenter {
        class: text(fields, "@class").unwrap_or(default.class),
        name: text(fields, "name").unwrap_or(default.name),
        metadata: pairs(object(fields, "metadata")),
    }
}

fn sent(fields: &Fields) -> Result<EurekaRegistration, String> {
    let data_center = data_center(fields);
    let host_name = text(fields, "hostName").unwrap_or_default();
    // As Eureka's own: its own id, else its cloud's, else its host.
    let instance_id = text(fields, "instanceId")
        .or_else(|| {
            let of_cloud = data_center.metadata.iter().find(|(key, _)| key == "instance-id");
            of_cloud.map(|(_, id)| id.clone()).filter(|id| !id.is_empty())
        })
        .unwrap_or_else(|| host_name.clone());
    let status = |name: &str| text(fields, name).map(|text| EurekaStatus::read(&text));
    let overridden = status("overriddenstatus").or_else(|| status("overriddenStatus")).flatten();
    let lease = object(fields, "leaseInfo");
    Ok(EurekaRegistration {
        instance_id,
        app: text(fields, "app").unwrap_or_default(),
        app_group: text(fields, "appGroupName"),
        host_name,
        ip_addr: text(fields, "ipAddr").unwrap_or_default(),
        status: status("status").map(|word| word.unwrap_or(EurekaStatus::Unknown)),
        overridden,
        port: port(fields, "port", true)?,
        secure_port: port(fields, "securePort", false)?,
        data_center,
        renewal_s: lease.and_then(|lease| lenient(lease, "renewalIntervalInSecs")),
        duration_s: lease.and_then(|lease| lenient(lease, "durationInSecs")).filter(|&s| s > 0),
        metadata: pairs(object(fields, "metadata")),
        home_page_url: text(fields, "homePageUrl"),
        health_check_url: text(fields, "healthCheckUrl"),
        dirty_ms: lenient(fields, "lastDirtyTimestamp").filter(|&ms| ms > 0),
        rest: ExtraFields {
            vip_address: text(fields, "vipAddress"),
            secure_vip_address: text(fields, "secureVipAddress"),
            status_page_url: text(fields, "statusPageUrl"),
            secure_health_check_url: text(fields, "secureHealthCheckUrl"),
            asg_name: text(fields, "asgName"),
            sid: text(fields, "sid").filter(|sid| sid != "na"),
            country_id: whole(fields, "countryId").ok().flatten(),
            is_coordinating_discovery_server: flag(fields, "isCoordinatingDiscoveryServer"),
        },
    })
}

/// An element whose end tag has not been read.
#[derive(Default)]
struct OpenElement {
    name: String,
    text: String,
    fields: Fields,
}

impl OpenElement {
    fn of(start: &BytesStart<'_>) -> Result<OpenElement, String> {
        let mut open =
            OpenElement { name: start.name().as_ref().to_owned(), ..OpenElement::default() };
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|_| not_xml())?;
            let value =
                attribute.normalized_value(XmlVersion::Implicit1_0).map_err(|_| not_xml())?;
            let name = format!("@{}", attribute.key.as_ref());
            open.fields.insert(name, Value::from(&*value));
        }
        Ok(open)
    }

    fn close(mut self) -> (String, Value) {
        if self.fields.is_empty() {
            return (self.name, Value::String(self.text));
        }
        let has_children = self.fields.keys().any(|key| !key.starts_with('@'));
        if !has_children {
            self.fields.insert(String::from("$"), Value::String(self.text));
        }
        (self.name, Value::Object(self.fields))
    }
}

fn not_xml() -> String {
    String::from("the body is not XML that can be read here")
}

/// Reads the element `instance` into the shape that it would have in JSON.
fn from_xml(text: &str) -> Result<Value, String> {
    let mut reader = Reader::from_str(text);
    let mut open: Vec<OpenElement> = Vec::new();
    loop {
        let event = reader.read_event().map_err(|_| not_xml())?;
        let ended = match event {
            Event::Start(start) => {
                if open.len() >= limits::JSON_DEPTH_MAX {
                    return Err(not_xml());
                }
                open.push(OpenElement::of(&start)?);
                continue;
            }
            Event::Empty(start) => OpenElement::of(&start)?,
            Event::End(_) => open.pop().ok_or_else(not_xml)?,
            Event::Text(text) => {
                if let Some(top) = open.last_mut() {
                    top.text.push_str(&text.xml10_content());
                } else if !text.trim().is_empty() {
                    return Err(not_xml());
                }
                continue;
            }
            Event::CData(text) => {
                let top = open.last_mut().ok_or_else(not_xml)?;
                top.text.push_str(&text.xml10_content());
                continue;
            }
            Event::GeneralRef(reference) => {
                // The five that XML has, and numbers; there are no others without a DTD.
                let text =
                    unescape(&format!("&{};", &*reference)).map_err(|_| not_xml())?.into_owned();
                open.last_mut().ok_or_else(not_xml)?.text.push_str(&text);
                continue;
            }
            Event::Comment(_) | Event::PI(_) | Event::Decl(_) => continue,
            // A DTD may define entities that expand to megabytes.
            Event::DocType(_) | Event::Eof => return Err(not_xml()),
        };
        let (name, value) = ended.close();
        match open.last_mut() {
            Some(parent) => _ = parent.fields.insert(name, value),
            None if name == "instance" && value.is_object() => return Ok(value),
            None => return Err(String::from("the body has no instance")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<EurekaRegistration, String> {
        registration(text.as_bytes(), text.trim_start().starts_with('<'), "foo")
    }

    #[test]
    fn xml_and_json_say_the_same() {
        let xml = read(
            r#"<?xml version="1.0"?><!-- x --><instance><hostName>h&amp;1</hostName><app>FOO</app>
            <ipAddr>10.0.0.1</ipAddr><vipAddress><![CDATA[v]]></vipAddress>
            <port enabled="true">8080</port><securePort enabled="false">443</securePort>
            <dataCenterInfo class="C$D"><name>MyOwn</name></dataCenterInfo>
            <leaseInfo><durationInSecs>6</durationInSecs></leaseInfo>
            <metadata class="x"><zone>z&#49;</zone><empty/></metadata></instance>"#,
        )
        .expect("readable");
        let json = read(
            r#"{"instance":{"hostName":"h&1","app":"foo","ipAddr":"10.0.0.1","vipAddress":"v",
            "port":{"$":"8080","@enabled":true},"securePort":{"$":443,"@enabled":"false"},
            "dataCenterInfo":{"@class":"C$D","name":"MyOwn"},"leaseInfo":{"durationInSecs":"6"},
            "metadata":{"@class":"x","zone":"z1","empty":null}}}"#,
        )
        .expect("readable");
        assert_eq!(EurekaRegistration { app: String::from("foo"), ..xml }, json);
        assert_eq!((json.instance_id.as_str(), json.duration_s), ("h&1", Some(6)));
        assert_eq!(json.port, Some(Port { number: 8080, enabled: true }));
    }

    #[test]
    fn ids_come_from_where_eureka_takes_them() {
        let with = |more: &str| {
            read(&format!(r#"{{"instance":{{"app":"foo","hostName":"h"{more}}}}}"#))
                .map(|sent| sent.instance_id)
        };
        assert_eq!(with("").as_deref(), Ok("h"));
        assert_eq!(with(r#","instanceId":"i""#).as_deref(), Ok("i"));
        let cloud = r#","dataCenterInfo":{"name":"Amazon","metadata":{"instance-id":"i-7"}}"#;
        assert_eq!(with(cloud).as_deref(), Ok("i-7"));
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let long = "x".repeat(300);
        for (text, word) in [
            ("", "not JSON"),
            ("[]", "not an object"),
            ("{}", "no instance"),
            (r#"{"instance":7}"#, "no instance"),
            (r#"{"instance":{}}"#, "instanceId"),
            (r#"{"instance":{"instanceId":"i","app":"foo"}}"#, "hostname"),
            (r#"{"instance":{"hostName":"h"}}"#, "appName"),
            (r#"{"instance":{"hostName":"h","app":"bar"}}"#, "Mismatched"),
            (r#"{"instance":{"hostName":"h","app":"foo","port":{"$":70000}}}"#, "port"),
            (r#"{"instance":{"hostName":"h","app":"foo","port":"x"}}"#, "port"),
            (&format!(r#"{{"instance":{{"hostName":"{long}","app":"foo"}}}}"#), "over 255"),
            ("<instance>", "XML"),
            ("<instance><app>foo</app></instance>", "instanceId"),
            ("<other><app>foo</app></other>", "no instance"),
            ("<instance/>", "no instance"),
            ("<instance></app></instance>", "XML"),
            ("<!DOCTYPE x [<!ENTITY a \"b\">]><instance><app>&a;</app></instance>", "XML"),
            ("<instance><app>&a;</app></instance>", "XML"),
            ("<instance><app a=1>x</app></instance>", "XML"),
        ] {
            let fault = read(text).expect_err(text);
            assert!(fault.contains(word), "{text}: {fault}");
        }
        let deep = "<a>".repeat(100_000);
        assert!(read(&deep).is_err());
    }
}
