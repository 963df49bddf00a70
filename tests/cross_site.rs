//! Pages of other origins: listed ones may call and read the answers, and no other page can write,
//! at any door.

use fanfare_test_support as support;
use fanfare_test_support::{Reply, Server};
use serde_json::json;

const APP: &str = "https://app.example.org";

const INSTANCE: &str = r#"{"instance":{"instanceId":"i","hostName":"h","app":"X","ipAddr":"10.0.0.1",
    "status":"UP","port":{"$":80,"@enabled":"true"},"dataCenterInfo":{
    "@class":"com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo","name":"MyOwn"}}}"#;

fn registration() -> Vec<u8> {
    let instance = json!({"serviceId": "s", "instanceId": "i", "regionId": "r"});
    json!({"instances": [instance]}).to_string().into_bytes()
}

/// Every door that writes without a user: its method, path and a body that it would take.
fn doors() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let bytes = |text: &str| text.as_bytes().to_vec();
    let key = json!({"instanceKeys": [{"serviceId": "s", "instanceId": "i", "regionId": "r"}]});
    let keys = key.to_string().into_bytes();
    vec![
        ("POST", "/api/registry/register.json", registration()),
        ("POST", "/api/registry/heartbeat", keys.clone()),
        ("POST", "/api/registry/unregister", keys),
        ("POST", "/api/management/services/s/self-protection", bytes(r#"{"enabled":false}"#)),
        ("POST", "/ws/broadcast", bytes(r#"{"message_type":"m","data":{}}"#)),
        ("POST", "/api/v1/channels", bytes(r#"{"name":"c","description":""}"#)),
        ("POST", "/api/v1/channels/c/messages", bytes(r#"{"payload":1}"#)),
        ("DELETE", "/api/v1/channels/c", Vec::new()),
        ("DELETE", "/api/v1/connections/x", Vec::new()),
        ("POST", "/api/v1/users/register", bytes(r#"{"username":"ann","password":"long enough"}"#)),
        ("POST", "/api/v1/users/login", bytes(r#"{"username":"ann","password":"long enough"}"#)),
        ("POST", "/eureka/apps/X", bytes(INSTANCE)),
        ("POST", "/eureka/v2/apps/X", bytes(INSTANCE)),
        ("PUT", "/eureka/apps/X/i", Vec::new()),
        ("PUT", "/eureka/apps/X/i/status?value=DOWN", Vec::new()),
        ("PUT", "/eureka/apps/X/i/metadata?k=v", Vec::new()),
        ("DELETE", "/eureka/apps/X/i", Vec::new()),
    ]
}

fn write(server: &Server, door: &(&str, &str, Vec<u8>), page: &[(&str, &str)]) -> Reply {
    let (method, path, body) = door;
    let mut headers = page.to_vec();
    if !body.is_empty() {
        headers.push(("Content-Type", "application/json"));
    }
    server.request(method, path, &headers, body)
}

fn is_empty(server: &Server) -> bool {
    let services = server.get("/api/discovery/services.json").body["services"].clone();
    let channels = server.get("/api/v1/channels").body["channels"].clone();
    services == json!([]) && channels == json!([])
}

#[test]
fn pages_of_others_write_nothing_by_any_door() {
    let server = Server::start(&[]);
    for page in [
        &[("Origin", "https://evil.example")][..],
        &[("Origin", "http://localhost:1"), ("Sec-Fetch-Site", "same-site")],
        &[("Origin", "null")],
        &[("Origin", "")],
        &[("Sec-Fetch-Site", "cross-site")],
        &[("Sec-Fetch-Site", "Cross-Site"), ("Sec-Fetch-Mode", "no-cors")],
        &[("Origin", "https://evil.example"), ("Sec-Fetch-Site", "cross-site")],
        &[("Origin", "http://localhost"), ("Origin", "http://localhost")],
    ] {
        for door in doors() {
            let reply = write(&server, &door, page);
            reply.expect_problem(403, "forbidden");
            assert_eq!(reply.header("access-control-allow-origin"), None, "{page:?} {door:?}");
        }
    }
    assert!(is_empty(&server), "something was written");
}

#[test]
fn programs_and_own_pages_write_as_ever() {
    let own = |server: &Server| format!("http://{}", server.address());
    let server = Server::start(&[]);
    for page in [
        &[][..],
        &[("Origin", own(&server).as_str())],
        &[("Origin", own(&server).as_str()), ("Sec-Fetch-Site", "same-origin")],
        &[("Origin", "https://proxy.example"), ("Sec-Fetch-Site", "same-origin")],
        &[("Sec-Fetch-Site", "none")],
        &[("Sec-Fetch-Site", "same-origin")],
    ] {
        for door in doors() {
            let reply = write(&server, &door, page);
            assert_ne!(reply.status, 403, "{page:?} {door:?} {}", reply.text);
        }
    }
    assert!(!is_empty(&server));
}

/// A page may send these without being asked what it is (Fetch, 2.2.2), and old browsers send no
/// `Origin` with all of them.
#[test]
fn bodies_that_any_page_may_send_are_taken_by_no_door() {
    let server = Server::start(&[]);
    for kind in [
        None,
        Some("text/plain"),
        Some("text/plain; charset=utf-8; application/json"),
        Some("application/x-www-form-urlencoded"),
        Some("multipart/form-data; boundary=json"),
        Some("text/json"),
        Some("application/xmlish"),
        Some("application/json, text/plain"),
        Some(""),
    ] {
        for (method, path, body) in doors().iter().filter(|(_, _, body)| !body.is_empty()) {
            let headers: Vec<_> = kind.map(|kind| ("Content-Type", kind)).into_iter().collect();
            let reply = server.request(method, path, &headers, body);
            assert_eq!(reply.status, 415, "{kind:?} {path}: {}", reply.text);
        }
    }
    assert!(is_empty(&server));
    let json = [("Content-Type", "application/json"), ("Content-Type", "text/plain")];
    let reply = server.request("POST", "/eureka/apps/X", &json, INSTANCE.as_bytes());
    reply.expect_problem(400, "malformed");
}

#[test]
fn answers_are_shown_to_listed_origins_alone() {
    let server = Server::start(&["--allowed-origins", APP]);
    for path in [
        "/api/discovery/services.json",
        "/fanfare.js",
        "/fanfare.d.ts",
        "/nowhere",
        "/health",
        "/ws/online",
    ] {
        let ask = |origin: &str| server.request("GET", path, &[("Origin", origin)], b"");
        let varies = |reply: &Reply| {
            reply.headers.iter().any(|(name, value)| name == "vary" && value == "Origin")
        };
        let reply = ask(APP);
        assert_eq!(reply.header("access-control-allow-origin"), Some(APP), "{path}");
        assert_eq!(reply.header("access-control-allow-credentials"), None, "{path}");
        assert!(varies(&reply), "{path}");
        for origin in [
            "https://evil.example",
            "null",
            "http://app.example.org",
            "https://app.example.org:8443",
        ] {
            let reply = ask(origin);
            assert_ne!(reply.status, 403, "{path}: reading is harmless");
            assert_eq!(reply.header("access-control-allow-origin"), None, "{path} {origin}");
            assert!(varies(&reply), "{path}");
        }
        assert!(varies(&server.get(path)), "{path}");
    }
    let console = server.request("GET", "/", &[("Origin", APP)], b"");
    assert_eq!(console.header("access-control-allow-origin"), None, "the console is for people");
    let page = [("Origin", APP), ("Sec-Fetch-Site", "cross-site")];
    for door in doors() {
        let reply = write(&server, &door, &page);
        assert_ne!(reply.status, 403, "{door:?} {}", reply.text);
        assert_eq!(reply.header("access-control-allow-origin"), Some(APP), "{door:?}");
    }
}

#[test]
fn preflights_are_answered_to_listed_origins_alone() {
    let server = Server::start(&["--allowed-origins", &format!("{APP},null")]);
    let ask = |path: &str, origin: &str| {
        let headers = [
            ("Origin", origin),
            ("Access-Control-Request-Method", "POST"),
            ("Access-Control-Request-Headers", "authorization,content-type"),
        ];
        server.request("OPTIONS", path, &headers, b"")
    };
    for (path, methods) in [
        ("/api/registry/register.json", "POST"),
        ("/api/v1/channels/c", "GET, DELETE"),
        ("/eureka/apps/X/i", "GET, HEAD, PUT, DELETE"),
        ("/fanfare.js", "GET, HEAD"),
    ] {
        for origin in [APP, "null"] {
            let reply = ask(path, origin);
            assert_eq!(reply.status, 204, "{path}: {}", reply.text);
            let header = |name| reply.header(name).unwrap_or_default();
            assert_eq!(header("access-control-allow-origin"), origin, "{path}");
            assert_eq!(header("access-control-allow-methods"), methods, "{path}");
            let allowed = header("access-control-allow-headers").to_ascii_lowercase();
            assert!(allowed.contains("authorization") && allowed.contains("content-type"));
            assert!(header("access-control-max-age").parse::<u32>().is_ok_and(|age_s| age_s > 0));
            assert_eq!(header("vary"), "Origin");
            assert_eq!(reply.header("access-control-allow-credentials"), None);
        }
        let reply = ask(path, "https://evil.example");
        reply.expect_problem(403, "forbidden");
        assert!(!reply.headers.iter().any(|(name, _)| name.starts_with("access-control")));
    }
    ask("/nowhere", APP).expect_problem(404, "not_found");
    server.request("OPTIONS", "/api/v1/channels", &[], b"").expect_problem(405, "invalid_argument");
}

/// A developer sees a 403 and nothing else in a browser; the answer says what to do.
#[test]
fn a_refused_page_is_told_why() {
    let server = Server::start(&["--allowed-origins", APP]);
    let own = format!("http://localhost:{}", server.address().port());
    let dev = "http://localhost:5173";
    let upgrade = [
        ("Origin", dev),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let preflight = [("Origin", dev), ("Access-Control-Request-Method", "POST")];
    for reply in [
        server.request("GET", "/ws", &upgrade, b""),
        server.request("OPTIONS", "/api/registry/register.json", &preflight, b""),
        write(&server, &doors()[0], &[("Origin", dev)]),
    ] {
        reply.expect_problem(403, "forbidden");
        let detail = reply.body["detail"].as_str().expect("words");
        for word in [dev, &own, APP, "--allowed-origins"] {
            assert!(detail.contains(word), "{word}: {detail}");
        }
        assert_eq!(reply.header("access-control-allow-origin"), None);
    }
    let long = format!("http://{}", "a".repeat(10_000));
    let reply = write(&server, &doors()[0], &[("Origin", &long)]);
    assert!(reply.status == 403 && reply.text.len() < 1_000, "{}", reply.text);
}

#[test]
fn any_origin_may_be_meant() {
    let server = Server::start(&["--allowed-origins", "*"]);
    for origin in ["https://one.example", "http://localhost:3000"] {
        let reply = server.request("GET", "/health", &[("Origin", origin)], b"");
        assert_eq!(reply.header("access-control-allow-origin"), Some(origin), "by name, not *");
        let page = [("Origin", origin), ("Sec-Fetch-Site", "cross-site")];
        assert_eq!(write(&server, &doors()[0], &page).status, 200);
    }
    let page = [("Sec-Fetch-Site", "cross-site")];
    write(&server, &doors()[0], &page).expect_problem(403, "forbidden");
}

/// Two readers would take one each; nobody knows which was meant.
#[test]
fn credentials_that_contradict_each_other_are_refused() {
    let server = Server::start_for_people(&[]);
    let (ann, bob) = (support::token("ann", "admin"), support::token("bob", "admin"));
    let (ann, bob) = (format!("Bearer {ann}"), format!("Bearer {bob}"));
    for path in ["/ws/online", "/health", "/api/v1/messages", "/eureka/apps", "/nowhere"] {
        for other in [&bob, &ann, &String::new()] {
            let headers = [("Authorization", ann.as_str()), ("Authorization", other)];
            server.request("GET", path, &headers, b"").expect_problem(400, "malformed");
        }
    }
    let token = |bearer: &str| bearer.trim_start_matches("Bearer ").to_owned();
    let path = format!("/ws/online?token={}", token(&bob));
    server.request("GET", &path, &[("Authorization", &ann)], b"").expect_problem(400, "malformed");
    let path = format!("/ws/online?token={}&token={}", token(&ann), token(&bob));
    server.request("GET", &path, &[], b"").expect_problem(400, "malformed");
    let path = format!("/ws/online?token={}", token(&ann));
    assert_eq!(server.request("GET", &path, &[("Authorization", &ann)], b"").status, 200);
}
