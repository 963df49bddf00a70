//! Eureka's clients are served as Eureka serves them: every call, both representations, the rules
//! of timestamps and overrides; and there is one registry for all doors.

#![allow(clippy::disallowed_methods, reason = "a test process has the clock of the wall")]

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use fanfare_test_support::{READ_PATIENCE, Reply, Server, eventually, instance, token, with};
use quick_xml::events::Event;
use serde_json::{Value, json};

const JSON: (&str, &str) = ("Accept", "application/json");
const JSON_BODY: (&str, &str) = ("Content-Type", "application/json");
const OWN: &str = "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo";

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    u64::try_from(now.as_millis()).expect("a moment")
}

/// What `py_eureka_client` registers, as it was seen on the wire.
fn py_body(id: &str) -> Value {
    json!({
        "instanceId": id, "hostName": "10.0.0.9", "app": "PY-APP", "ipAddr": "10.0.0.9",
        "port": {"$": 9090, "@enabled": "true"}, "securePort": {"$": 9443, "@enabled": "false"},
        "countryId": 1, "dataCenterInfo": {"@class": OWN, "name": "MyOwn"},
        "leaseInfo": {"renewalIntervalInSecs": 2, "durationInSecs": 6, "registrationTimestamp": 0,
            "lastRenewalTimestamp": 0, "evictionTimestamp": 0, "serviceUpTimestamp": 0},
        "metadata": {"management.port": "9090", "zone": "z1"},
        "homePageUrl": "http://10.0.0.9:9090/", "statusPageUrl": "http://10.0.0.9:9090/info",
        "healthCheckUrl": "http://10.0.0.9:9090/health", "secureHealthCheckUrl": "",
        "vipAddress": "py-app", "secureVipAddress": "py-app",
        "isCoordinatingDiscoveryServer": "false", "status": "UP", "overriddenstatus": "UNKNOWN",
        "lastUpdatedTimestamp": "1795218115911", "lastDirtyTimestamp": "1795218115911",
    })
}

/// What `eureka-js-client` registers.
fn js_body() -> Value {
    json!({
        "app": "js-app", "hostName": "h1", "ipAddr": "10.0.0.7",
        "port": {"$": 8080, "@enabled": true}, "vipAddress": "js-vip",
        "dataCenterInfo": {"@class": OWN, "name": "MyOwn"}, "status": "UP",
    })
}

fn post(server: &Server, app: &str, body: &Value) -> Reply {
    let text = json!({"instance": body}).to_string();
    server.request("POST", &format!("/eureka/apps/{app}"), &[JSON_BODY], text.as_bytes())
}

fn register(server: &Server, body: &Value) {
    let app = body["app"].as_str().expect("an app");
    let reply = post(server, app, body);
    assert_eq!((reply.status, reply.text.as_str()), (204, ""), "{body}");
    assert_eq!(reply.header("content-length"), None, "a 204 has no body, and says nothing of one");
}

fn get(server: &Server, path: &str) -> Value {
    let reply = server.request("GET", &format!("/eureka{path}"), &[JSON], b"");
    assert_eq!(reply.status, 200, "{path}: {}", reply.text);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert!(!reply.body.is_null(), "not JSON: {}", reply.text);
    reply.body
}

fn status(server: &Server, method: &str, path: &str) -> u16 {
    let reply = server.request(method, &format!("/eureka{path}"), &[JSON], b"");
    assert!(reply.status != 404 || reply.text.is_empty(), "a 404 is empty: {}", reply.text);
    reply.status
}

/// Each instance of an answer by its id, with its status and what happened to it.
fn listed(answer: &Value) -> BTreeMap<String, (String, String)> {
    let mut all = BTreeMap::new();
    for app in answer["applications"]["application"].as_array().expect("a list") {
        let instances = app["instance"].as_array().expect("a list");
        assert!(!instances.is_empty(), "no application is empty: {app}");
        for one in instances {
            assert_eq!(one["app"], app["name"]);
            let text = |field: &str| one[field].as_str().expect(field).to_owned();
            let before = all.insert(text("instanceId"), (text("status"), text("actionType")));
            assert_eq!(before, None, "listed once");
        }
    }
    all
}

fn hash_of<'a>(statuses: impl Iterator<Item = &'a str>) -> String {
    let mut counts = BTreeMap::new();
    for status in statuses {
        *counts.entry(status).or_insert(0) += 1;
    }
    counts.iter().fold(String::new(), |hash, (status, count)| format!("{hash}{status}_{count}_"))
}

fn hash(answer: &Value) -> &str {
    answer["applications"]["apps__hashcode"].as_str().expect("a hash code")
}

fn version(answer: &Value) -> u64 {
    let version = answer["applications"]["versions__delta"].as_str().expect("a text");
    version.parse().expect("a whole number")
}

/// An XML element.
#[derive(Debug, Default, Clone, PartialEq)]
struct Element {
    name: String,
    attributes: Vec<(String, String)>,
    text: String,
    children: Vec<Element>,
}

impl Element {
    fn read(text: &str) -> Element {
        let mut reader = quick_xml::Reader::from_str(text);
        let mut open = vec![Element::default()];
        loop {
            match reader.read_event().unwrap_or_else(|fault| panic!("{fault} in {text}")) {
                Event::Start(start) => {
                    let attributes = start.attributes().map(|attribute| {
                        let attribute = attribute.expect("an attribute");
                        (attribute.key.as_ref().to_owned(), attribute.value.into_owned())
                    });
                    let (name, attributes) =
                        (start.name().as_ref().to_owned(), attributes.collect());
                    open.push(Element { name, attributes, ..Element::default() });
                }
                Event::End(_) => {
                    let ended = open.pop().expect("it is open");
                    open.last_mut().expect("a parent").children.push(ended);
                }
                Event::Text(text) => {
                    open.last_mut().expect("a parent").text.push_str(&text.xml10_content());
                }
                Event::GeneralRef(reference) => {
                    let text = format!("&{};", &*reference);
                    let text = quick_xml::escape::unescape(&text).expect("a known entity");
                    open.last_mut().expect("a parent").text.push_str(&text);
                }
                Event::Eof => break,
                other => panic!("{other:?} in {text}"),
            }
        }
        assert_eq!(open.len(), 1, "everything is closed: {text}");
        open.remove(0).children.remove(0)
    }

    fn child(&self, name: &str) -> &Element {
        let mut found = self.children.iter().filter(|child| child.name == name);
        let child = found.next().unwrap_or_else(|| panic!("no {name} in {self:?}"));
        assert!(found.next().is_none(), "{name} twice");
        child
    }

    fn text(&self, name: &str) -> &str {
        &self.child(name).text
    }

    fn names(&self) -> Vec<&str> {
        self.children.iter().map(|child| child.name.as_str()).collect()
    }
}

fn get_xml(server: &Server, path: &str) -> Element {
    let reply = server.request("GET", &format!("/eureka{path}"), &[], b"");
    assert_eq!(reply.status, 200, "{path}: {}", reply.text);
    assert_eq!(reply.header("content-type"), Some("application/xml"));
    Element::read(&reply.text)
}

#[test]
fn json_has_the_shape_that_clients_read() {
    let server = Server::start(&[]);
    let empty = get(&server, "/apps/");
    assert_eq!(empty["applications"]["application"], json!([]));
    assert_eq!(hash(&empty), "");
    let before = now_ms();
    register(&server, &py_body("10.0.0.9:py-app:9090"));
    let answer = get(&server, "/apps/");
    assert!(version(&answer) > version(&empty));
    assert_eq!(hash(&answer), "UP_1_");
    let app = &answer["applications"]["application"][0];
    assert_eq!(app["name"], "PY-APP");
    let mut one = app["instance"][0].clone();
    for field in ["registrationTimestamp", "lastRenewalTimestamp", "serviceUpTimestamp"] {
        let at_ms = one["leaseInfo"][field].as_u64().expect("a number");
        assert!((before..=now_ms()).contains(&at_ms), "{field}");
        one["leaseInfo"][field] = json!(0);
    }
    let updated = one["lastUpdatedTimestamp"].as_str().expect("a text").parse::<u64>();
    assert!((before..=now_ms()).contains(&updated.expect("a number")));
    let expected = json!({
        "instanceId": "10.0.0.9:py-app:9090", "hostName": "10.0.0.9", "app": "PY-APP",
        "ipAddr": "10.0.0.9", "status": "UP", "overriddenStatus": "UNKNOWN",
        "port": {"$": 9090, "@enabled": "true"}, "securePort": {"$": 9443, "@enabled": "false"},
        "countryId": 1, "dataCenterInfo": {"@class": OWN, "name": "MyOwn"},
        "leaseInfo": {"renewalIntervalInSecs": 2, "durationInSecs": 6, "registrationTimestamp": 0,
            "lastRenewalTimestamp": 0, "evictionTimestamp": 0, "serviceUpTimestamp": 0},
        "metadata": {"management.port": "9090", "zone": "z1"},
        "homePageUrl": "http://10.0.0.9:9090/", "statusPageUrl": "http://10.0.0.9:9090/info",
        "healthCheckUrl": "http://10.0.0.9:9090/health",
        "vipAddress": "py-app", "secureVipAddress": "py-app",
        "isCoordinatingDiscoveryServer": "false",
        "lastUpdatedTimestamp": one["lastUpdatedTimestamp"],
        "lastDirtyTimestamp": "1795218115911", "actionType": "ADDED",
    });
    assert_eq!(one, expected);
    register(&server, &js_body());
    let app = get(&server, "/apps/JS-APP");
    assert_eq!(app["application"]["name"], "JS-APP");
    let one = &app["application"]["instance"][0];
    assert_eq!((&one["instanceId"], &one["app"]), (&json!("h1"), &json!("JS-APP")));
    assert_eq!(one["metadata"], json!({"@class": "java.util.Collections$EmptyMap"}));
    let lease = &one["leaseInfo"];
    assert_eq!(
        (&lease["renewalIntervalInSecs"], &lease["durationInSecs"]),
        (&json!(30), &json!(90))
    );
    assert_eq!(get(&server, "/apps/js-app/h1")["instance"], *one);
    assert_eq!(get(&server, "/instances/h1")["instance"], *one);
}

#[test]
fn xml_has_the_shape_that_clients_read() {
    let server = Server::start(&[]);
    let empty = get_xml(&server, "/apps");
    assert_eq!(empty.names(), ["versions__delta", "apps__hashcode"]);
    assert_eq!(empty.text("apps__hashcode"), "");
    register(&server, &py_body("i"));
    let whole = get_xml(&server, "/apps");
    assert_eq!(whole.names(), ["versions__delta", "apps__hashcode", "application"]);
    assert!(whole.text("versions__delta").parse::<i64>().is_ok());
    let app = whole.child("application");
    assert_eq!((app.names(), app.text("name")), (vec!["name", "instance"], "PY-APP"));
    let one = app.child("instance");
    assert_eq!(
        one.names(),
        [
            "instanceId",
            "hostName",
            "app",
            "ipAddr",
            "status",
            "overriddenstatus",
            "port",
            "securePort",
            "countryId",
            "dataCenterInfo",
            "leaseInfo",
            "metadata",
            "homePageUrl",
            "statusPageUrl",
            "healthCheckUrl",
            "vipAddress",
            "secureVipAddress",
            "isCoordinatingDiscoveryServer",
            "lastUpdatedTimestamp",
            "lastDirtyTimestamp",
            "actionType"
        ]
    );
    for (name, enabled, number) in [("port", "true", "9090"), ("securePort", "false", "9443")] {
        let port = one.child(name);
        assert_eq!(port.text, number);
        assert_eq!(port.attributes, [(String::from("enabled"), enabled.to_owned())]);
    }
    let center = one.child("dataCenterInfo");
    assert_eq!(center.attributes, [(String::from("class"), OWN.to_owned())]);
    assert_eq!(center.text("name"), "MyOwn");
    for child in &one.child("leaseInfo").children {
        assert!(child.text.parse::<i64>().is_ok(), "{child:?}");
    }
    assert_eq!(one.child("leaseInfo").text("durationInSecs"), "6");
    assert_eq!(one.child("metadata").names(), ["management.port", "zone"]);
    for name in ["countryId", "lastUpdatedTimestamp", "lastDirtyTimestamp"] {
        assert!(one.text(name).parse::<i64>().is_ok(), "{name}");
    }
    assert_eq!(get_xml(&server, "/apps/py-app").child("instance"), one);
    assert_eq!(&get_xml(&server, "/apps/py-app/i"), one);
    assert_eq!(&get_xml(&server, "/instances/i"), one);
    assert_eq!(get_xml(&server, "/vips/py-app").child("application"), app);
    assert_eq!(get_xml(&server, "/svips/py-app").child("application"), app);
}

#[test]
fn every_call_has_its_success_and_its_failure() {
    let server = Server::start(&[]);
    register(&server, &py_body("i"));
    for (method, path, code) in [
        ("PUT", "/apps/PY-APP/i", 200),
        ("PUT", "/apps/PY-APP/i?status=UP&lastDirtyTimestamp=1795218115911", 200),
        ("PUT", "/apps/PY-APP/i?status=UP&lastDirtyTimestamp=x&overriddenstatus=UP", 200),
        ("PUT", "/apps/PY-APP/none", 404),
        ("PUT", "/apps/NONE/i", 404),
        ("GET", "/apps?regions=a,b", 200),
        ("GET", "/apps/delta?regions=a,b", 200),
        ("GET", "/apps/NONE", 404),
        ("GET", "/apps/PY-APP/none", 404),
        ("GET", "/instances/none", 404),
        ("GET", "/vips/none", 404),
        ("GET", "/svips/none", 404),
        ("GET", "/vips/py-app?regions=a", 200),
        ("PUT", "/apps/PY-APP/i/status?value=OUT_OF_SERVICE&lastDirtyTimestamp=1", 200),
        ("DELETE", "/apps/PY-APP/i/status?lastDirtyTimestamp=1", 200),
        ("DELETE", "/apps/PY-APP/i/status?value=UP", 200),
        ("PUT", "/apps/PY-APP/none/status?value=OUT_OF_SERVICE", 404),
        ("DELETE", "/apps/PY-APP/none/status", 404),
        ("PUT", "/apps/PY-APP/i/status", 400),
        ("PUT", "/apps/PY-APP/i/status?value=DANCING", 400),
        ("PUT", "/apps/PY-APP/i/metadata?colour=green", 200),
        ("PUT", "/apps/PY-APP/none/metadata?colour=green", 404),
        ("DELETE", "/apps/PY-APP/none", 404),
        ("DELETE", "/apps/PY-APP/i", 200),
        ("DELETE", "/apps/PY-APP/i", 404),
        ("GET", "/apps/PY-APP", 404),
        ("GET", "", 404),
        ("GET", "/other", 404),
        ("PATCH", "/apps", 405),
        ("POST", "/apps", 405),
        ("GET", "/apps/PY-APP/i/status", 405),
    ] {
        assert_eq!(status(&server, method, path), code, "{method} {path}");
    }
    let (head, body) = packed(&server, "HEAD", "/eureka/apps", "X: y");
    assert!(head.starts_with("http/1.1 200 ") && body.is_empty(), "{head}");
}

#[test]
fn both_mounts_slashes_and_case_lead_to_the_same() {
    let server = Server::start(&[]);
    let id = "10.0.0.9:py-app:9090";
    register(&server, &py_body(id));
    for mount in ["/eureka", "/eureka/v2"] {
        for end in ["", "/"] {
            for app in ["PY-APP", "py-app", "Py%2dApp"] {
                for id in [id, "10.0.0.9%3Apy-app%3A9090", "10.0.0.9%3apy-app%3a9090"] {
                    let path = format!("{mount}/apps/{app}/{id}{end}");
                    assert_eq!(server.request("PUT", &path, &[], b"").status, 200, "{path}");
                    let reply = server.request("GET", &path, &[JSON], b"");
                    assert_eq!(reply.body["instance"]["app"], "PY-APP", "{path}");
                }
            }
            for path in ["/apps", "/apps/delta", "/apps/py-app", "/vips/py-app", "/svips/PY-app"] {
                let path = format!("{mount}{path}{end}");
                assert_eq!(server.request("GET", &path, &[], b"").status, 200, "{path}");
            }
        }
    }
    let odd = with(&with(&py_body("a/b c+d%e"), "app", json!("Odd App")), "vipAddress", json!("v"));
    assert_eq!(post(&server, "oDD%20aPP", &odd).status, 204);
    let answer = get(&server, "/apps/odd%20app/a%2Fb%20c+d%25e");
    assert_eq!(answer["instance"]["instanceId"], "a/b c+d%e");
    assert_eq!(answer["instance"]["app"], "ODD APP");
    assert_eq!(server.discover("odd%20app")["serviceId"], "odd app");
}

#[test]
fn json_is_for_those_who_ask_for_it() {
    let server = Server::start(&[]);
    register(&server, &py_body("i"));
    for (accept, kind) in [
        (None, "application/xml"),
        (Some("*/*"), "application/xml"),
        (Some("application/xml"), "application/xml"),
        (Some("text/html"), "application/xml"),
        (Some("application/json"), "application/json"),
        (Some("text/plain, application/JSON;q=0.1"), "application/json"),
        (Some("application/vnd.x+json"), "application/json"),
    ] {
        let headers: Vec<(&str, &str)> =
            accept.map(|value| ("Accept", value)).into_iter().collect();
        for path in ["/apps", "/apps/delta", "/apps/py-app", "/apps/py-app/i", "/instances/i"] {
            let reply = server.request("GET", &format!("/eureka{path}"), &headers, b"");
            assert_eq!(reply.header("content-type"), Some(kind), "{path} {accept:?}");
            assert_eq!(reply.header("vary"), Some("accept, accept-encoding"));
        }
    }
}

/// The head and the unpacked body of an answer.
fn packed(server: &Server, method: &str, path: &str, headers: &str) -> (String, String) {
    let mut stream = TcpStream::connect(server.address()).expect("the server accepts");
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("it is sent");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("an answer");
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    let body = bytes.split_off(end);
    let head = String::from_utf8(bytes).expect("text").to_ascii_lowercase();
    if !head.contains("content-encoding: gzip") {
        return (head, String::from_utf8(body).expect("text"));
    }
    let mut text = String::new();
    flate2::read::GzDecoder::new(&*body).read_to_string(&mut text).expect("one gzip member");
    (head, text)
}

#[test]
fn packed_answers_say_the_same() {
    let server = Server::start(&[]);
    for number in 0..30 {
        let body = with(&py_body(&format!("i{number}")), "app", json!(format!("A{}", number % 7)));
        register(&server, &body);
    }
    for accept in ["Accept: application/json", "Accept: */*"] {
        for path in ["/apps", "/apps/delta", "/apps/a1", "/apps/a1/i1", "/vips/py-app"] {
            let path = format!("/eureka{path}");
            let (plain_head, plain) = packed(&server, "GET", &path, accept);
            let (head, text) =
                packed(&server, "GET", &path, &format!("{accept}\r\nAccept-Encoding: gzip"));
            assert!(head.contains("content-encoding: gzip"), "{head}");
            assert!(!plain_head.contains("content-encoding"), "{plain_head}");
            assert_eq!(text, plain, "{path}");
        }
    }
    let (head, _) = packed(&server, "GET", "/eureka/apps", "Accept-Encoding: gzip;q=0, deflate");
    assert!(!head.contains("content-encoding"), "{head}");
}

#[test]
fn what_eureka_registers_everyone_sees() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    client.subscribe("py-app");
    register(&server, &py_body("i"));
    let frame = client.expect("service_change");
    assert_eq!(frame["service_id"], "py-app");
    let change = &frame["changes"][0];
    assert_eq!((&change["changeType"], &change["reason"]), (&json!("new"), &json!("register")));
    let one = &change["instance"];
    for (field, value) in [
        ("serviceId", json!("py-app")),
        ("instanceId", json!("i")),
        ("machineName", json!("10.0.0.9")),
        ("ip", json!("10.0.0.9")),
        ("port", json!(9090)),
        ("protocol", json!("http")),
        ("zoneId", json!("z1")),
        ("url", json!("http://10.0.0.9:9090/")),
        ("healthCheckUrl", json!("http://10.0.0.9:9090/health")),
        ("status", json!("up")),
        ("leaseTtlMs", json!(6_000)),
    ] {
        assert_eq!(one[field], value, "{field}");
    }
    assert_eq!(one["metadata"]["management.port"], "9090");
    assert_eq!(server.discover("py-app")["instances"][0], *one);
    // The same again renews and is no change; a difference is one.
    register(&server, &py_body("i"));
    register(&server, &with(&py_body("i"), "status", json!("DOWN")));
    let frame = client.expect("service_change");
    assert_eq!(frame["changes"][0]["changeType"], "change");
    assert_eq!(frame["changes"][0]["instance"]["status"], "down");
    assert_eq!(status(&server, "DELETE", "/apps/py-app/i"), 200);
    let frame = client.expect("service_change");
    assert_eq!(frame["changes"][0]["reason"], "unregister");
    for (word, own) in [("STARTING", "starting"), ("UNKNOWN", "unknown"), ("weird", "unknown")] {
        register(&server, &with(&py_body("i"), "status", json!(word)));
        assert_eq!(server.discover("py-app")["instances"][0]["status"], own);
    }
}

#[test]
fn what_artemis_registers_eureka_shows() {
    let server = Server::start(&[]);
    server.register(&[instance("Orders", "one")]);
    let one = get(&server, "/apps/ORDERS/one")["instance"].clone();
    for (field, value) in [
        ("app", json!("ORDERS")),
        ("hostName", json!("10.0.0.1")),
        ("ipAddr", json!("10.0.0.1")),
        ("port", json!({"$": 8080, "@enabled": "true"})),
        ("vipAddress", json!("orders")),
        ("secureVipAddress", json!("orders")),
        ("status", json!("UP")),
        ("homePageUrl", json!("http://10.0.0.1:8080/one")),
        ("metadata", json!({"weight": "1", "zone": "z1"})),
        ("dataCenterInfo", json!({"@class": OWN, "name": "MyOwn"})),
    ] {
        assert_eq!(one[field], value, "{field}");
    }
    assert_eq!(one["leaseInfo"]["durationInSecs"], 20);
    let bare = json!({"serviceId": "bare", "instanceId": "b"});
    server.register(&[bare, with(&instance("tls", "t"), "protocol", json!("https"))]);
    let bare = get_xml(&server, "/apps/bare/b");
    assert_eq!((bare.text("hostName"), bare.text("port")), ("b", "0"));
    let tls = get(&server, "/apps/tls/t");
    assert_eq!(tls["instance"]["securePort"], json!({"$": 8080, "@enabled": "true"}));
    assert_eq!(tls["instance"]["port"]["@enabled"], "false");
    for (own, word) in [("down", "DOWN"), ("unhealthy", "DOWN"), ("starting", "STARTING")] {
        server.register(&[with(&instance("Orders", "one"), "status", json!(own))]);
        assert_eq!(get(&server, "/apps/orders/one")["instance"]["status"], word);
    }
    // Its lease can be renewed and ended by either door, though Eureka knows no regions.
    assert_eq!(status(&server, "PUT", "/apps/orders/ONE"), 200);
    assert_eq!(status(&server, "PUT", "/apps/orders/one/metadata?k=v+w&k%202=x"), 200);
    let metadata = &server.discover("orders")["instances"][0]["metadata"];
    assert_eq!(*metadata, json!({"weight": 1, "k": "v w", "k 2": "x"}));
    // Registered by the other door, it stays the one instance that it is.
    let body = with(&with(&py_body("one"), "app", json!("orders")), "hostName", json!("h"));
    register(&server, &body);
    let service = server.discover("orders");
    assert_eq!(service["instances"].as_array().expect("a list").len(), 1);
    assert_eq!(service["instances"][0]["regionId"], "r1");
    assert_eq!(status(&server, "DELETE", "/apps/orders/one"), 200);
    assert_eq!(server.discover("orders")["instances"], json!([]));
}

#[test]
fn what_has_no_field_of_its_own_survives_and_is_nobody_elses_metadata() {
    let mut server = Server::start(&[]);
    let mut body = py_body("i");
    for (field, value) in [
        ("appGroupName", json!("GROUP")),
        ("sid", json!("s-1")),
        ("asgName", json!("asg")),
        ("countryId", json!("49")),
        ("secureHealthCheckUrl", json!("https://h/health")),
        ("vipAddress", json!("v1,v2")),
        ("secureVipAddress", json!("s1")),
        ("isCoordinatingDiscoveryServer", json!(true)),
        ("port", json!({"$": "9090", "@enabled": "false"})),
        ("securePort", json!({"$": 9443, "@enabled": true})),
        (
            "dataCenterInfo",
            json!({"@class": "com.netflix.appinfo.AmazonInfo", "name": "Amazon",
                "metadata": {"instance-id": "i-7", "availability-zone": "us-east-1c"}}),
        ),
        ("metadata", json!({"@class": "x", "weight": 5, "$eureka": "mine", "a b": "c<&>\"'"})),
    ] {
        body[field] = value;
    }
    register(&server, &body);
    let check = |server: &Server| {
        let one = get(server, "/apps/py-app/i")["instance"].clone();
        for (field, value) in [
            ("appGroupName", json!("GROUP")),
            ("sid", json!("s-1")),
            ("asgName", json!("asg")),
            ("countryId", json!(49)),
            ("secureHealthCheckUrl", json!("https://h/health")),
            ("vipAddress", json!("v1,v2")),
            ("secureVipAddress", json!("s1")),
            ("isCoordinatingDiscoveryServer", json!("true")),
            ("port", json!({"$": 9090, "@enabled": "false"})),
            ("securePort", json!({"$": 9443, "@enabled": "true"})),
            ("dataCenterInfo", body["dataCenterInfo"].clone()),
            ("metadata", json!({"weight": "5", "a b": "c<&>\"'"})),
        ] {
            assert_eq!(one[field], value, "{field}");
        }
        let xml = get_xml(server, "/apps/py-app/i");
        assert_eq!(xml.child("metadata").names(), ["weight"], "others are no names in XML");
        assert_eq!(
            xml.child("dataCenterInfo").child("metadata").names(),
            ["availability-zone", "instance-id"]
        );
    };
    check(&server);
    for (path, code) in [("/vips/v1", 200), ("/vips/V2", 200), ("/vips/s1", 404)] {
        assert_eq!(status(&server, "GET", path), code, "{path}");
    }
    assert_eq!(status(&server, "GET", "/svips/s1"), 200);
    let own = server.discover("py-app")["instances"][0].clone();
    assert_eq!((&own["port"], &own["protocol"]), (&json!(9443), &json!("https")));
    assert_eq!((&own["zoneId"], &own["groupId"]), (&json!("us-east-1c"), &json!("GROUP")));
    // Through the other door and back, and through a restart.
    server.register(&[own]);
    check(&server);
    assert_eq!(server.stop().code(), Some(0));
    server.restart();
    check(&server);
}

#[test]
fn out_of_service_is_pulled_out_both_ways() {
    let mut server = Server::start(&[]);
    register(&server, &py_body("i"));
    let mut client = server.connect();
    client.subscribe("py-app");
    assert_eq!(status(&server, "PUT", "/apps/PY-APP/i/status?value=OUT_OF_SERVICE"), 200);
    let frame = client.expect("service_change");
    let change = &frame["changes"][0];
    assert_eq!((&change["changeType"], &change["reason"]), (&json!("delete"), &json!("pull_out")));
    assert_eq!(server.discover("py-app")["instances"], json!([]));
    let statuses = |server: &Server| {
        let one = get(server, "/apps/py-app/i")["instance"].clone();
        let text = |field: &str| one[field].as_str().expect("a text").to_owned();
        (text("status"), text("overriddenStatus"))
    };
    let out = (String::from("OUT_OF_SERVICE"), String::from("OUT_OF_SERVICE"));
    assert_eq!(statuses(&server), out);
    assert_eq!(hash(&get(&server, "/apps")), "OUT_OF_SERVICE_1_");
    // Heartbeats, another registration and a restart do not end it.
    assert_eq!(status(&server, "PUT", "/apps/PY-APP/i?status=UP"), 200);
    register(&server, &with(&py_body("i"), "homePageUrl", json!("http://new/")));
    assert_eq!(statuses(&server), out);
    assert_eq!(server.stop().code(), Some(0));
    server.restart();
    assert_eq!(statuses(&server), out);
    let mut client = server.connect();
    client.subscribe("py-app");
    assert_eq!(status(&server, "DELETE", "/apps/PY-APP/i/status"), 200);
    let frame = client.expect("service_change");
    let change = &frame["changes"][0];
    assert_eq!((&change["changeType"], &change["reason"]), (&json!("new"), &json!("pull_in")));
    assert_eq!(change["instance"]["url"], "http://new/");
    assert_eq!(statuses(&server).0, "UP");
    // By the other door.
    server.operate(&json!({"serviceId": "py-app", "instanceId": "i"}), false);
    assert_eq!(statuses(&server), out);
    assert_eq!(status(&server, "PUT", "/apps/PY-APP/i/status?value=UP"), 200);
    assert_eq!(statuses(&server).0, "UP");
    for (word, own) in [("DOWN", "down"), ("STARTING", "starting"), ("UP", "up")] {
        assert_eq!(status(&server, "PUT", &format!("/apps/py-app/i/status?value={word}")), 200);
        assert_eq!(statuses(&server), (word.to_owned(), String::from("UNKNOWN")));
        assert_eq!(server.discover("py-app")["instances"][0]["status"], own);
    }
}

/// Every status that an instance reports, under every override, ended in each of the ways there are.
#[test]
fn the_reported_status_is_back_within_a_beat_after_an_override() {
    const WORDS: [&str; 5] = ["UP", "DOWN", "STARTING", "OUT_OF_SERVICE", "UNKNOWN"];
    let mut server = Server::start(&[]);
    let is = |server: &Server, id: &str, word: &str, when: &str| {
        let one = get(server, &format!("/apps/py-app/{id}"))["instance"].clone();
        assert_eq!(one["status"], word, "{id}: {when}");
        let is_discovered = server.discover("py-app")["instances"]
            .as_array()
            .expect("a list")
            .iter()
            .any(|one| one["instanceId"] == id);
        assert_eq!(is_discovered, word != "OUT_OF_SERVICE", "{id}: {when}");
    };
    let body = |id: &str, word: &str, dirty: u64| {
        let body = with(&py_body(id), "status", json!(word));
        // The whole table takes longer than a lease of six seconds.
        let body = with(&body, "leaseInfo", json!({"durationInSecs": 600}));
        with(&body, "lastDirtyTimestamp", json!(dirty.to_string()))
    };
    let mut last = Vec::new();
    for reported in WORDS {
        for first in WORDS {
            for (way, second, end) in [
                ("plain", None, "/status"),
                ("with a value", None, "/status?value=DOWN"),
                ("with another value", None, "/status?value=OUT_OF_SERVICE"),
                ("with a time", None, "/status?value=UNKNOWN&lastDirtyTimestamp=7000"),
                ("over another", Some("STARTING"), "/status"),
                ("over one out of service", Some("OUT_OF_SERVICE"), "/status"),
            ] {
                let id = format!("{reported}-{first}-{way}").replace([' ', '_'], "-");
                let path = format!("/apps/py-app/{id}");
                let call = |method: &str, rest: &str| {
                    assert_eq!(
                        status(&server, method, &format!("{path}{rest}")),
                        200,
                        "{id} {rest}"
                    );
                };
                let beat =
                    || call("PUT", "?status=UP&lastDirtyTimestamp=5000&overriddenstatus=DOWN");
                register(&server, &body(&id, reported, 5_000));
                is(&server, &id, reported, "registered");
                beat();
                is(&server, &id, reported, "a heartbeat");
                for over in second.into_iter().chain([first]) {
                    call("PUT", &format!("/status?value={over}&lastDirtyTimestamp=5000"));
                    is(&server, &id, over, "overridden");
                    beat();
                    is(&server, &id, over, "a heartbeat under the override");
                }
                call("DELETE", end);
                beat();
                is(&server, &id, reported, "the override has ended");
                // Once more, which has nothing to end.
                call("DELETE", end);
                beat();
                is(&server, &id, reported, "ended twice");
                let kept = get(&server, &path)["instance"]["metadata"].clone();
                assert!(!kept.to_string().contains("reported"), "{kept}");
                last.push((id, reported));
            }
        }
    }
    // A registration in between. An older one says nothing new; a newer one reports, and ends what
    // is no operator's decision to take the instance out.
    for over in WORDS {
        let id = format!("again-{over}").replace('_', "-");
        let path = format!("/apps/py-app/{id}/status");
        register(&server, &body(&id, "STARTING", 5_000));
        assert_eq!(status(&server, "PUT", &format!("{path}?value={over}")), 200);
        register(&server, &body(&id, "DOWN", 4_000));
        is(&server, &id, over, "an older registration");
        register(&server, &body(&id, "UP", 6_000));
        let seen = if over == "OUT_OF_SERVICE" { over } else { "UP" };
        is(&server, &id, seen, "a newer registration");
        assert_eq!(status(&server, "DELETE", &path), 200);
        is(&server, &id, "UP", "the override has ended");
        last.push((id, "UP"));
    }
    // One that reports itself as out of service, is taken out by an operator too, and is let in.
    let id = "OUT-OF-SERVICE-OUT-OF-SERVICE-plain";
    register(&server, &body(id, "UP", 6_000));
    is(&server, id, "UP", "it comes back by itself");
    last.retain(|(other, _)| other != id);
    // An override outlives a restart, and so does what it hides.
    register(&server, &body("kept", "STARTING", 5_000));
    assert_eq!(status(&server, "PUT", "/apps/py-app/kept/status?value=DOWN"), 200);
    assert_eq!(server.stop().code(), Some(0));
    server.restart();
    is(&server, "kept", "DOWN", "after a restart");
    assert_eq!(status(&server, "DELETE", "/apps/py-app/kept/status"), 200);
    is(&server, "kept", "STARTING", "after a restart");
    for (id, reported) in last {
        is(&server, &id, reported, "after all");
    }
}

/// One that came by the other door, and says what Eureka's words cannot.
#[test]
fn an_override_ends_for_an_instance_that_eureka_does_not_know() {
    let server = Server::start(&[]);
    let plain = instance("orders", "one");
    for (sent, own) in [("unhealthy", "unhealthy"), ("up", "up"), ("starting", "starting")] {
        server.register(&[with(&plain, "status", json!(sent))]);
        let before = server.discover("orders")["instances"][0].clone();
        for word in ["DOWN", "UP", "UNKNOWN"] {
            assert_eq!(
                status(&server, "PUT", &format!("/apps/orders/one/status?value={word}")),
                200
            );
            assert_eq!(get(&server, "/apps/orders/one")["instance"]["status"], word);
        }
        assert_eq!(status(&server, "DELETE", "/apps/orders/one/status"), 200);
        let after = server.discover("orders")["instances"][0].clone();
        assert_eq!((&after["status"], &after), (&json!(own), &before), "nothing is left behind");
    }
}

#[test]
fn an_instance_takes_itself_out_and_comes_back() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    client.subscribe("py-app");
    let out = with(&py_body("i"), "status", json!("OUT_OF_SERVICE"));
    register(&server, &out);
    assert_eq!(get(&server, "/apps/py-app/i")["instance"]["status"], "OUT_OF_SERVICE");
    assert_eq!(server.discover("py-app")["instances"], json!([]));
    assert!(client.drain().is_empty(), "nobody was there before");
    register(&server, &py_body("i"));
    assert_eq!(client.expect("service_change")["changes"][0]["changeType"], "new");
    register(&server, &out);
    assert_eq!(client.expect("service_change")["changes"][0]["changeType"], "delete");
    // An operator's decision is not the instance's to end.
    assert_eq!(status(&server, "PUT", "/apps/py-app/i/status?value=OUT_OF_SERVICE"), 200);
    register(&server, &py_body("i"));
    assert_eq!(get(&server, "/apps/py-app/i")["instance"]["status"], "OUT_OF_SERVICE");
    assert!(client.drain().is_empty());
}

#[test]
fn the_newer_registration_wins() {
    let server = Server::start(&[]);
    let sent = |dirty: u64, url: &str| {
        let body = with(&py_body("i"), "lastDirtyTimestamp", json!(dirty.to_string()));
        with(&body, "homePageUrl", json!(url))
    };
    let url = || get(&server, "/apps/py-app/i")["instance"]["homePageUrl"].clone();
    register(&server, &sent(2_000, "http://two/"));
    register(&server, &sent(1_000, "http://one/"));
    assert_eq!(url(), "http://two/", "an older one does not overwrite it");
    register(&server, &sent(2_000, "http://two-again/"));
    assert_eq!(url(), "http://two-again/");
    register(&server, &sent(3_000, "http://three/"));
    assert_eq!(url(), "http://three/");
    for (dirty, code) in [("3000", 200), ("2999", 200), ("3001", 404), ("", 200), ("x", 200)] {
        let path = format!("/apps/py-app/i?status=UP&lastDirtyTimestamp={dirty}");
        assert_eq!(status(&server, "PUT", &path), code, "{dirty}");
    }
}

#[test]
fn a_delta_names_what_changed_with_the_hash_of_everyone() {
    let mut server = Server::start(&[]);
    for number in 0..3 {
        register(&server, &py_body(&format!("i{number}")));
    }
    let delta = get(&server, "/apps/delta");
    let added = (String::from("UP"), String::from("ADDED"));
    assert!(listed(&delta).values().all(|one| *one == added), "{delta}");
    assert_eq!((listed(&delta).len(), hash(&delta)), (3, "UP_3_"));
    register(&server, &with(&py_body("i1"), "status", json!("DOWN")));
    assert_eq!(status(&server, "DELETE", "/apps/py-app/i2"), 200);
    assert_eq!(status(&server, "PUT", "/apps/py-app/i0/status?value=OUT_OF_SERVICE"), 200);
    let delta = get(&server, "/apps/delta");
    assert_eq!(hash(&delta), "DOWN_1_OUT_OF_SERVICE_1_");
    let one = |status: &str, action: &str| (status.to_owned(), action.to_owned());
    assert_eq!(
        listed(&delta),
        BTreeMap::from([
            (String::from("i0"), one("OUT_OF_SERVICE", "MODIFIED")),
            (String::from("i1"), one("DOWN", "MODIFIED")),
            (String::from("i2"), one("UP", "DELETED")),
        ])
    );
    let whole = get(&server, "/apps");
    assert_eq!((hash(&whole), version(&whole)), (hash(&delta), version(&delta)));
    assert_eq!(listed(&whole).len(), 2);
    // Renewals are no change.
    assert_eq!(status(&server, "PUT", "/apps/py-app/i1"), 200);
    assert_eq!(version(&get(&server, "/apps")), version(&whole));
    // After a restart nobody can say what a client has missed: everyone is named.
    assert_eq!(server.stop().code(), Some(0));
    server.restart();
    let delta = get(&server, "/apps/delta");
    assert_eq!(
        listed(&delta),
        BTreeMap::from([
            (String::from("i0"), one("OUT_OF_SERVICE", "MODIFIED")),
            (String::from("i1"), one("DOWN", "MODIFIED")),
        ])
    );
    assert_eq!(hash(&delta), "DOWN_1_OUT_OF_SERVICE_1_");
    assert!(version(&delta) > version(&whole), "no version is used twice");
}

#[test]
fn hash_and_body_are_of_one_moment() {
    let server = Server::start(&[]);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..2 {
            let (server, is_over) = (&server, &is_over);
            scope.spawn(move || {
                let mut round = 0;
                while !is_over.load(Ordering::Relaxed) {
                    let id = format!("w{writer}-{}", round % 10);
                    let word = ["UP", "DOWN", "OUT_OF_SERVICE"][round % 3];
                    let body = with(&py_body(&id), "status", json!(word));
                    register(server, &with(&body, "app", json!(format!("A{}", round % 4))));
                    let app = format!("/apps/A{}/w{writer}-{}", round % 3, round % 7);
                    status(server, "DELETE", &app);
                    round += 1;
                }
            });
        }
        let mut last = 0;
        for _ in 0..150 {
            let whole = get(&server, "/apps");
            let mut statuses = Vec::new();
            for app in whole["applications"]["application"].as_array().expect("a list") {
                for one in app["instance"].as_array().expect("a list") {
                    statuses.push(one["status"].as_str().expect("a status"));
                }
            }
            assert_eq!(hash(&whole), hash_of(statuses.into_iter()));
            assert!(version(&whole) >= last, "it never goes back");
            last = version(&whole);
            let xml = get_xml(&server, "/apps");
            let apps = xml.children.iter().filter(|child| child.name == "application");
            let instances = apps.flat_map(|app| &app.children).filter(|one| one.name == "instance");
            let statuses = instances.map(|one| one.text("status"));
            assert_eq!(xml.text("apps__hashcode"), hash_of(statuses));
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn who_was_told_finds_it_in_the_next_answer() {
    let server = Server::start(&["--shards", "2"]);
    for round in 0..100 {
        let id = format!("i{}", round % 5);
        let url = format!("http://h/{round}");
        register(&server, &with(&py_body(&id), "homePageUrl", json!(url)));
        let whole = server.request("GET", "/eureka/apps", &[JSON], b"");
        assert!(whole.text.contains(&format!("\"{url}\"")), "{round}");
        let delta = server.request("GET", "/eureka/apps/delta", &[], b"");
        assert!(delta.text.contains(&format!(">{url}<")), "{round}");
        if round % 3 == 0 {
            assert_eq!(status(&server, "DELETE", &format!("/apps/py-app/{id}")), 200);
            let whole = server.request("GET", "/eureka/v2/apps/", &[], b"");
            assert!(!whole.text.contains(&format!("<instanceId>{id}<")), "{round}");
        }
    }
}

#[test]
fn a_lease_lasts_as_long_as_the_instance_says() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    client.subscribe("py-app");
    let body = with(&py_body("i"), "leaseInfo", json!({"durationInSecs": "1"}));
    register(&server, &body);
    client.expect("service_change");
    let started = std::time::Instant::now();
    let frame = client.expect("service_change");
    assert_eq!(frame["changes"][0]["reason"], "expired");
    assert!(started.elapsed() >= Duration::from_millis(900));
    assert_eq!(status(&server, "PUT", "/apps/py-app/i"), 404, "which makes it register again");
    assert_eq!(listed(&get(&server, "/apps/delta"))["i"].1, "DELETED");
    // What is out of bounds is brought within them.
    for (sent, kept) in [(0, 90), (100_000, 3_600)] {
        register(&server, &with(&py_body("j"), "leaseInfo", json!({"durationInSecs": sent})));
        let one = get(&server, "/apps/py-app/j");
        assert_eq!(one["instance"]["leaseInfo"]["durationInSecs"], kept);
    }
}

#[test]
fn xml_registers_as_well() {
    let server = Server::start(&[]);
    let body = r#"<?xml version="1.0" encoding="UTF-8"?>
        <instance><instanceId>x:1</instanceId><hostName>h</hostName><app>XML-APP</app>
        <ipAddr>10.0.0.5</ipAddr><status>UP</status><port enabled="true">81</port>
        <dataCenterInfo class="com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo">
        <name>MyOwn</name></dataCenterInfo><metadata><k>a &lt; b</k></metadata>
        <leaseInfo><durationInSecs>33</durationInSecs></leaseInfo></instance>"#;
    for kind in ["application/xml", "text/xml; charset=utf-8", "Application/Vnd.Eureka+XML"] {
        let headers = [("Content-Type", kind)];
        let reply = server.request("POST", "/eureka/apps/xml-app", &headers, body.as_bytes());
        assert_eq!(reply.status, 204, "{kind}: {}", reply.text);
    }
    let one = get(&server, "/apps/xml-app/x%3A1")["instance"].clone();
    assert_eq!(one["port"], json!({"$": 81, "@enabled": "true"}));
    assert_eq!(one["metadata"], json!({"k": "a < b"}));
    assert_eq!(one["leaseInfo"]["durationInSecs"], 33);
    // And packed.
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(json!({"instance": py_body("i")}).to_string().as_bytes()).expect("memory");
    let packed = packer.finish().expect("memory");
    let headers = [JSON_BODY, ("Content-Encoding", "gzip")];
    assert_eq!(server.request("POST", "/eureka/apps/py-app", &headers, &packed).status, 204);
    assert_eq!(server.request("POST", "/eureka/apps/py-app", &headers, b"no gzip").status, 400);
    let headers = [JSON_BODY, ("Content-Encoding", "br")];
    assert_eq!(server.request("POST", "/eureka/apps/py-app", &headers, b"x").status, 415);
}

#[test]
fn wrong_bodies_are_told_so_and_nothing_breaks() {
    let server = Server::start(&["--http-body-bytes-max", "64KiB"]);
    let good = json!({"instance": py_body("i")}).to_string();
    let post = |body: &[u8], kind: &str| {
        server.request("POST", "/eureka/apps/py-app", &[("Content-Type", kind)], body)
    };
    for kind in ["application/json", "application/xml", "application/x+json"] {
        for cut in 0..good.len() {
            if !good.is_char_boundary(cut) || cut % 7 != 0 {
                continue;
            }
            let reply = post(&good.as_bytes()[..cut], kind);
            assert_eq!(reply.status, 400, "{kind} {cut}: {}", reply.text);
            assert!(
                reply.header("content-type").is_some_and(|kind| kind.starts_with("text/plain"))
            );
            assert!(!reply.text.is_empty());
        }
    }
    let mut seed = 7_u32;
    for round in 0..300 {
        let mut bytes = good.clone().into_bytes();
        for _ in 0..3 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let place = seed as usize / 7 % bytes.len();
            bytes[place] = (seed >> 24) as u8;
        }
        let reply = post(&bytes, ["application/json", "application/xml"][round % 2]);
        assert!(matches!(reply.status, 204 | 400), "{}: {}", reply.status, reply.text);
    }
    for (field, value) in [
        ("app", json!("OTHER")),
        ("app", json!("")),
        ("app", json!(null)),
        ("hostName", json!("")),
        ("hostName", json!("x".repeat(300))),
        ("instanceId", json!("x".repeat(300))),
        ("instanceId", json!("a\u{1}b")),
        ("port", json!({"$": 70_000})),
        ("port", json!({"$": "many"})),
        ("securePort", json!(-1)),
        // No database keeps it.
        ("homePageUrl", json!("a\u{0}")),
        ("metadata", json!({"a": "\u{0}"})),
    ] {
        let body = json!({"instance": with(&py_body("i"), field, value.clone())}).to_string();
        let reply = post(body.as_bytes(), "application/json");
        assert_eq!(reply.status, 400, "{field} {value}");
    }
    for (field, value) in [
        ("leaseInfo", json!({"durationInSecs": "soon"})),
        ("leaseInfo", json!(7)),
        ("metadata", json!([1, 2])),
        ("metadata", json!({"": "x", "a": {"b": [1]}, "\u{1}": "y", "n": null})),
        ("dataCenterInfo", json!("MyOwn")),
        ("dataCenterInfo", json!(null)),
        ("lastDirtyTimestamp", json!({"a": 1})),
        ("countryId", json!("DE")),
        ("unknown", json!({"a": [1]})),
        ("port", json!(8080)),
        ("homePageUrl", json!("\u{1}\u{b}<\u{ffff}>")),
    ] {
        let body = json!({"instance": with(&py_body("j"), field, value.clone())}).to_string();
        let reply = post(body.as_bytes(), "application/json");
        assert_eq!(reply.status, 204, "{field} {value}: {}", reply.text);
        get_xml(&server, "/apps/py-app/j");
        get(&server, "/apps/py-app/j");
    }
    let long = json!({"instance": with(&py_body("i"), "x", json!("y".repeat(70_000)))});
    assert_eq!(post(long.to_string().as_bytes(), "application/json").status, 413);
    assert_eq!(post(&"<a>".repeat(20_000).into_bytes(), "application/xml").status, 400);
    assert_eq!(post(&"[".repeat(60_000).into_bytes(), "application/json").status, 400);
    for path in ["/apps/%ff%00/x", "/apps/%/%", &format!("/apps/{}/x", "a".repeat(5_000))] {
        for method in ["GET", "PUT", "DELETE"] {
            assert_eq!(status(&server, method, path), 404, "{method} {path}");
        }
    }
    assert!(!server.log().contains("panicked"));
}

#[test]
fn metadata_does_not_grow_for_ever() {
    let server = Server::start(&["--instance-bytes-max", "16KiB"]);
    register(&server, &py_body("i"));
    let value = "x".repeat(10_000);
    let add = |key: &str| status(&server, "PUT", &format!("/apps/py-app/i/metadata?{key}={value}"));
    assert_eq!((add("a"), add("a"), add("b")), (200, 200, 413));
    let one = get(&server, "/apps/py-app/i")["instance"].clone();
    assert_eq!((one["metadata"]["a"].as_str(), one["metadata"].get("b")), (Some(&*value), None));
}

fn basic(name: &str, password: &str) -> String {
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}"));
    format!("Basic {pair}")
}

#[test]
fn names_and_passwords_are_as_good_as_tokens() {
    let server = Server::start_for_people(&["--auth", "required"]);
    let (is_ok, said) =
        server.run(&["user", "add", "Writer", "--scope", "registry:write"], "correct horse\n");
    assert!(is_ok, "{said}");
    let id = said.split_whitespace().next().expect("an id").to_owned();
    let reader = ["user", "add", "reader", "--scope", "registry:read"];
    assert!(server.run(&reader, "correct horse\n").0);
    assert!(server.run(&["user", "add", "nobody-yet"], "correct horse\n").0);
    let call = |method: &str, path: &str, authorization: &str| {
        let mut headers = vec![JSON_BODY, JSON];
        if !authorization.is_empty() {
            headers.push(("Authorization", authorization));
        }
        let body = json!({"instance": py_body("i")}).to_string();
        let body = if method == "POST" { body.as_bytes() } else { b"" };
        server.request(method, &format!("/eureka{path}"), &headers, body)
    };
    let nothing = call("GET", "/apps", "");
    assert_eq!(nothing.status, 401);
    assert_eq!(nothing.header("www-authenticate"), Some("Basic realm=\"fanfare\""));
    let writer = basic("wRITER", "correct horse");
    let reader = basic("reader", "correct horse");
    let bearer = |scope: &str| format!("Bearer {}", token("ann", scope));
    for (method, path, authorization, code) in [
        ("POST", "/apps/py-app", "", 401),
        ("POST", "/apps/py-app", &*writer, 204),
        ("PUT", "/apps/py-app/i", &writer, 200),
        ("GET", "/apps", &writer, 200),
        ("GET", "/apps", &reader, 200),
        ("PUT", "/apps/py-app/i", &reader, 403),
        ("PUT", "/apps/py-app/i/status?value=UP", &reader, 403),
        ("PUT", "/apps/py-app/i", &bearer("registry:write"), 200),
        ("PUT", "/apps/py-app/i", &bearer(""), 403),
        ("GET", "/apps", &bearer(""), 403),
        ("GET", "/apps", &bearer("message publish sockets:read"), 403),
        ("GET", "/apps", &bearer("registry:read"), 200),
        ("POST", "/apps/py-app", &bearer("registry:read"), 403),
        ("GET", "/apps", &basic("nobody-yet", "correct horse"), 403),
        ("GET", "/apps", "Bearer nonsense", 401),
        ("GET", "/apps", "Basic !", 401),
        ("GET", "/apps", "Digest x", 401),
        ("GET", "/apps", &basic("reader", "wrong horse"), 401),
        ("GET", "/apps", &basic("nobody", "correct horse"), 401),
        ("GET", "/apps", &basic("", ""), 401),
    ] {
        let reply = call(method, path, authorization);
        assert_eq!(reply.status, code, "{method} {path} {authorization}: {}", reply.text);
    }
    // Scopes come and go while the server runs.
    assert!(server.run(&["user", "scope", "reader", "registry:write"], "").0);
    eventually("the reader writes", READ_PATIENCE, || {
        call("PUT", "/apps/py-app/i", &reader).status == 200
    });
    assert!(server.run(&["user", "scope", "reader"], "").0);
    eventually("the reader only reads", READ_PATIENCE, || {
        call("PUT", "/apps/py-app/i", &reader).status == 403
    });
    assert!(!server.run(&["user", "scope", "reader", "dancing"], "").0, "there is no such scope");
    assert!(server.run(&["user", "list"], "").1.contains("registry:write"));
    assert!(server.run(&["user", "disable", &id], "").0);
    eventually("a disabled account is refused", READ_PATIENCE, || {
        call("PUT", "/apps/py-app/i", &writer).status == 401
    });
    assert!(server.run(&["user", "enable", &id], "").0);
    eventually("and let in again", READ_PATIENCE, || {
        call("PUT", "/apps/py-app/i", &writer).status == 200
    });
    // A token of a login carries what the account may do.
    let login = json!({"username": "writer", "password": "correct horse"});
    let reply = server.post_json("/api/v1/users/login", &login);
    let token = format!("Bearer {}", reply.body["token"].as_str().expect("a token"));
    // Passwords are asked of the database; tokens count again once the server has looked there.
    eventually("the token counts, and has the scope", READ_PATIENCE, || {
        call("PUT", "/apps/py-app/i", &token).status == 200
    });
}

#[test]
fn guessing_is_slowed_down_and_those_who_are_known_are_not() {
    let server = Server::start_for_people(&["--auth", "required"]);
    let added = server.run(&["user", "add", "ann", "--scope", "admin"], "correct horse\n");
    assert!(added.0, "{}", added.1);
    register_as(&server, &basic("ann", "correct horse"), 204);
    for _ in 0..10 {
        register_as(&server, &basic("ann", "wrong horse"), 401);
    }
    register_as(&server, &basic("ann", "wrong horse"), 429);
    register_as(&server, &basic("ann", "correct horse"), 204);
}

fn register_as(server: &Server, authorization: &str, status: u16) {
    let headers = [JSON_BODY, ("Authorization", authorization)];
    let body = json!({"instance": py_body("i")}).to_string();
    let reply = server.request("POST", "/eureka/apps/py-app", &headers, body.as_bytes());
    assert_eq!(reply.status, status, "{}", reply.text);
}

#[test]
fn an_open_server_asks_nobody_and_believes_no_wrong_password() {
    let server = Server::start(&[]);
    register(&server, &py_body("i"));
    let wrong = basic("nobody", "wrong horse");
    let reply = server.request("GET", "/eureka/apps", &[("Authorization", &wrong)], b"");
    assert_eq!(reply.status, 401);
}

#[test]
fn it_can_be_switched_off() {
    let server = Server::start(&["--eureka", "off"]);
    let reply = server.request("GET", "/eureka/apps", &[], b"");
    reply.expect_problem(404, "not_found");
    assert_eq!(post(&server, "py-app", &py_body("i")).status, 404);
    assert_eq!(server.get("/api/status/config.json").body["eureka"], false);
}

#[test]
fn a_draining_server_is_not_ready() {
    let mut server = Server::start(&["--drain-window", "3s"]);
    register(&server, &py_body("i"));
    let mut client = server.connect();
    server.terminate();
    client.expect("reconnect");
    let reply = server.request("GET", "/eureka/apps", &[], b"");
    assert_eq!(reply.status, 403, "{}", reply.text);
    assert_eq!(server.request("GET", "/eureka/apps/delta", &[], b"").status, 403);
    assert_eq!(server.request("PUT", "/eureka/apps/py-app/i", &[], b"").status, 200);
    drop(client);
    assert_eq!(server.wait().code(), Some(0));
}
