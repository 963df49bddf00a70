//! A revoked token is refused on every socket and for every call, and stays so.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use fanfare_test_support::{
    Client, Reply, SECRET, Server, assert_is_time, eventually, now_s, sign, token,
};
use serde_json::{Value, json};

const LOGOUT: &str = "/api/v1/users/logout";
const RENEW: &str = "/api/v1/users/renew";
const PASSWORD: &str = "correct horse";

fn login(server: &Server) -> String {
    let body = json!({"username": "ann", "password": PASSWORD});
    token_of(&server.post_json("/api/v1/users/login", &body))
}

fn token_of(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.body["token"].as_str().expect("a token").to_owned()
}

/// A server with an account, and the user's id.
fn server(flags: &[&str]) -> (Server, String) {
    let server = Server::start_for_people(flags);
    let body = json!({"username": "ann", "password": PASSWORD});
    let reply = server.post_json("/api/v1/users/register", &body);
    let user_id = reply.body["user_id"].as_str().expect("an id").to_owned();
    (server, user_id)
}

fn signed(claims: &Value) -> String {
    sign(claims, SECRET, jsonwebtoken::Algorithm::HS256)
}

fn claims(token: &str) -> Value {
    use base64::Engine as _;
    let part = token.split('.').nth(1).expect("claims");
    let text = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).expect("base64");
    serde_json::from_slice(&text).expect("JSON")
}

fn is_good(server: &Server, token: &str) -> bool {
    match server.call("GET", "/api/v1/messages", token, &Value::Null).status {
        200 => true,
        401 => false,
        other => panic!("{other}"),
    }
}

fn logout(server: &Server, token: &str, body: &Value) {
    let reply = server.call("POST", LOGOUT, token, body);
    assert_eq!((reply.status, reply.text.as_str()), (204, ""));
}

fn expect_revoked(client: &mut Client) {
    let (frames, code) = client.read_to_close();
    assert_eq!((code, &frames[frames.len() - 1]["code"]), (4401, &json!("unauthorized")));
}

#[test]
fn logging_out_ends_one_token_and_its_sockets() {
    let (mut server, user_id) = server(&[]);
    let (one, other) = (login(&server), login(&server));
    let said = claims(&one);
    assert!(said["jti"].as_str().is_some_and(|jti| jti.len() >= 16), "{said}");
    assert!(said["iat"].as_u64().is_some_and(|iat| iat.abs_diff(now_s()) < 60), "{said}");
    assert_ne!(said["jti"], claims(&other)["jti"]);
    let mut closed = [server.connect_with(&one), server.connect_with(&one)];
    let mut stays = server.connect_with(&other);
    logout(&server, &one, &Value::Null);
    closed.iter_mut().for_each(expect_revoked);
    stays.send_json(&json!({"type": "ping"}));
    stays.find_type("pong");
    assert!(!is_good(&server, &one) && is_good(&server, &other));
    server.call("POST", LOGOUT, &one, &Value::Null).expect_problem(401, "unauthorized");
    // A socket does not come back with it, nor is one kept alive by it.
    let stream = std::net::TcpStream::connect(server.address()).expect("it accepts");
    let bearer = format!("Bearer {one}");
    let refused = server.connect_to("/ws", stream, &[("authorization", &bearer)]);
    assert_eq!(refused.err(), Some(401));
    stays.send_json(&json!({"type": "refresh", "token": one}));
    assert_eq!(stays.find_type("error")["code"], "unauthorized");
    server.kill();
    server.restart();
    assert!(!is_good(&server, &one) && is_good(&server, &other));
    logout(&server, &other, &json!({}));
    assert!(!is_good(&server, &other));
    assert_eq!(claims(&login(&server))["sub"], json!(user_id));
}

#[test]
fn logging_out_everywhere_ends_all_tokens_made_before() {
    let (mut server, user_id) = server(&[]);
    let (one, other) = (login(&server), login(&server));
    // Of the same user, from other hands: without an id, and without a time.
    let foreign = signed(&json!({"sub": user_id, "exp": now_s() + 600, "iat": now_s() - 5}));
    let timeless = signed(&json!({"sub": user_id, "exp": now_s() + 600}));
    let somebody = token("somebody", "");
    let all = [&one, &other, &foreign, &timeless];
    let mut clients = all.map(|token| server.connect_with(token));
    let mut stays = server.connect_with(&somebody);
    let mut refreshed = server.connect_with(&one);
    refreshed.send_json(&json!({"type": "refresh", "token": other}));
    refreshed.find_type("refreshed");
    logout(&server, &one, &json!({"all": true}));
    clients.iter_mut().for_each(expect_revoked);
    expect_revoked(&mut refreshed);
    stays.send_json(&json!({"type": "ping"}));
    stays.find_type("pong");
    for token in all {
        assert!(!is_good(&server, token), "{}", claims(token));
    }
    assert!(is_good(&server, &somebody));
    // In the same second, and good: the end is not told from the new beginning by seconds.
    let fresh = login(&server);
    assert!(is_good(&server, &fresh));
    let later = signed(&json!({"sub": user_id, "exp": now_s() + 600, "iat": now_s() + 2}));
    assert!(is_good(&server, &later));
    server.kill();
    server.restart();
    assert!(all.iter().all(|token| !is_good(&server, token)));
    assert!(is_good(&server, &fresh));
}

#[test]
fn a_token_without_an_id_can_be_revoked_by_itself() {
    let (server, user_id) = server(&[]);
    let [one, other] =
        [1, 2].map(|n| signed(&json!({"sub": user_id, "exp": now_s() + 600 + n, "iat": now_s()})));
    logout(&server, &one, &Value::Null);
    assert!(!is_good(&server, &one) && is_good(&server, &other));
    // Another spelling of the same signature is the same token: the last digit has spare bits.
    let (head, last) = one.split_at(one.len() - 1);
    let twin = match last.as_bytes()[0] {
        b'A'..=b'Y' | b'a'..=b'y' | b'0'..=b'8' => char::from(last.as_bytes()[0] + 1),
        _ => 'A',
    };
    assert!(!is_good(&server, &format!("{head}{twin}")));
}

#[test]
fn echo_sockets_are_closed_as_well() {
    let (server, _) = server(&[]);
    let one = login(&server);
    let stream = std::net::TcpStream::connect(server.address()).expect("it accepts");
    let bearer = format!("Bearer {one}");
    let request = format!(
        "GET /ws/echo HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Authorization: {bearer}\r\n\r\n",
        server.address()
    );
    let mut stream = stream;
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    stream.write_all(request.as_bytes()).expect("written");
    let mut head = [0; 4_096];
    let count = stream.read(&mut head).expect("a head");
    assert!(head[..count].starts_with(b"HTTP/1.1 101"));
    logout(&server, &one, &Value::Null);
    let mut frame = [0; 4];
    stream.read_exact(&mut frame).expect("a close frame");
    assert_eq!((frame[0], u16::from_be_bytes([frame[2], frame[3]])), (0x88, 4401));
}

#[test]
fn an_operator_revokes_one_token_or_all_of_a_user() {
    let (server, user_id) = server(&[]);
    let mut all: Vec<String> = (0..4).map(|_| login(&server)).collect();
    let mut clients: Vec<Client> = all.iter().map(|token| server.connect_with(token)).collect();
    let jti = claims(&all[0])["jti"].as_str().expect("an id").to_owned();
    assert!(server.run(&["token", "revoke", "--jwt-secret", SECRET, &jti], "").0);
    expect_revoked(&mut clients[0]);
    assert!(server.run(&["token", "revoke", "--jwt-secret", SECRET, &all[1]], "").0);
    expect_revoked(&mut clients[1]);
    // Where no list of processes shows it.
    assert!(server.run(&["token", "revoke", "--jwt-secret", SECRET], &format!("{}\n", all[2])).0);
    expect_revoked(&mut clients[2]);
    clients[3].ask(&json!({"type": "ping"}), "pong");
    let forged = sign(&claims(&all[3]), &"x".repeat(32), jsonwebtoken::Algorithm::HS256);
    assert!(!server.run(&["token", "revoke", "--jwt-secret", SECRET, &forged], "").0);
    assert!(!server.run(&["token", "revoke", "--jwt-secret", SECRET], "\n").0);
    let (is_ok, made) = server.run(&["token", "--user", &user_id, "--jwt-secret", SECRET], "");
    assert!(is_ok, "{made}");
    all.push(made.trim().to_owned());
    assert!(is_good(&server, &all[4]));

    assert!(server.run(&["user", "revoke", "--id", &user_id], "").0);
    expect_revoked(&mut clients[3]);
    assert!(all.iter().all(|token| !is_good(&server, token)));
    let (_, made) = server.run(&["token", "--user", &user_id, "--jwt-secret", SECRET], "");
    assert!(is_good(&server, made.trim()), "one that is made after it counts");
    assert!(is_good(&server, &login(&server)));
}

/// Each revokes one of their tokens again and again: at the bound all of them end in place of one.
#[test]
fn revoked_tokens_have_a_bound() {
    let (server, user_id) = server(&[]);
    let spare = signed(&json!({"sub": user_id, "exp": now_s() + 600, "iat": now_s() - 5}));
    let made = |n: usize| {
        signed(
            &json!({"sub": user_id, "exp": now_s() + 600, "iat": now_s() - 5, "jti": format!("{n}")}),
        )
    };
    for n in 0..fanfare::internals::limits::REVOKED_TOKENS_PER_USER_MAX {
        logout(&server, &made(n), &Value::Null);
    }
    assert!(is_good(&server, &spare));
    logout(&server, &made(fanfare::internals::limits::REVOKED_TOKENS_PER_USER_MAX), &Value::Null);
    assert!(!is_good(&server, &spare), "all of them, for want of room for one");
    assert!(!is_good(&server, &made(0)), "and none comes back");
    assert!(is_good(&server, &login(&server)));
}

#[test]
fn a_login_is_renewed_for_as_long_as_a_session_lasts() {
    let (server, user_id) = server(&["--login-token-ttl", "10s", "--session-max", "15s"]);
    let first = login(&server);
    let lifetime = |token: &str| {
        let said = claims(token);
        said["exp"].as_u64().expect("a number") - said["iat"].as_u64().expect("a number")
    };
    assert_eq!(lifetime(&first), 10);
    let renew = |token: &str| server.call("POST", RENEW, token, &Value::Null);
    let reply = renew(&first);
    let second = token_of(&reply);
    assert_eq!(reply.body["user_id"], json!(user_id));
    assert_is_time(&reply.body["expires_at"]);
    assert_ne!(claims(&first)["jti"], claims(&second)["jti"]);
    assert_eq!(claims(&first)["auth_time"], claims(&second)["auth_time"]);
    let mut client = server.connect_with(&first);
    client.send_json(&json!({"type": "refresh", "token": second}));
    client.find_type("refreshed");
    // Until the session is over; what is left of it bounds the last ones.
    let mut newest = second;
    eventually("the session is over", Duration::from_secs(40), || {
        match renew(&newest) {
            reply if reply.status == 200 => newest = token_of(&reply),
            reply => {
                reply.expect_problem(
                    401,
                    if reply.text.contains("expired") { "token_expired" } else { "unauthorized" },
                );
                return true;
            }
        }
        false
    });
    let said = claims(&newest);
    let started = said["auth_time"].as_u64().expect("a number");
    assert!(said["exp"].as_u64() <= Some(started + 15), "{said}");
    assert!(now_s() >= started + 14);
    // Only what began with a password is renewed.
    renew(&token("ann", "admin")).expect_problem(403, "forbidden");
    renew("").expect_problem(401, "unauthorized");
    let other = login(&server);
    logout(&server, &other, &json!({"all": true}));
    renew(&other).expect_problem(401, "unauthorized");
}
