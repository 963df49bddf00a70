//! `--group-invitations on`: no user becomes a member without accepting. In either mode every
//! member may leave.

use fanfare_test_support as support;
use fanfare_test_support::{Reply, Server, eventually, token};
use serde_json::{Value, json};

fn call(server: &Server, method: &str, path: &str, user: &str, body: &Value) -> Reply {
    server.call(method, path, &token(user, "message"), body)
}

/// Makes users known, as their first call does.
fn know(server: &Server, users: &[&str]) {
    for user in users {
        call(server, "GET", "/api/v1/groups", user, &Value::Null);
    }
    let admin = token("root", "admin");
    for user in users {
        eventually("the user is known", support::READ_PATIENCE, || {
            let body = json!({"to_user_id": user, "message_type": "text", "data": 1});
            server.call("POST", "/ws/send", &admin, &body).status == 200
        });
    }
}

fn make(server: &Server, owner: &str, members: &[&str]) -> String {
    let body = json!({"name": "team", "members": members});
    let reply = call(server, "POST", "/api/v1/groups", owner, &body);
    reply.body["group_id"].as_str().unwrap_or_else(|| panic!("{}", reply.text)).to_owned()
}

fn add(server: &Server, by: &str, group: &str, user: &str) -> Reply {
    let path = format!("/api/v1/groups/{group}/members");
    call(server, "POST", &path, by, &json!({"user_id": user}))
}

fn answer(server: &Server, user: &str, group: &str, word: &str) -> u16 {
    call(server, "POST", &format!("/api/v1/groups/{group}/{word}"), user, &Value::Null).status
}

fn remove(server: &Server, by: &str, group: &str, user: &str) -> u16 {
    let path = format!("/api/v1/groups/{group}/members/{user}");
    call(server, "DELETE", &path, by, &Value::Null).status
}

fn say(server: &Server, user: &str, group: &str, content: &str) -> u16 {
    let path = format!("/api/v1/groups/{group}/messages");
    call(server, "POST", &path, user, &json!({"content": content})).status
}

fn pulled(server: &Server, user: &str) -> Vec<String> {
    let list = call(server, "GET", "/api/v1/messages", user, &Value::Null).body;
    let messages = list["messages"].as_array().expect("a list").iter();
    messages.map(|one| one["content"].as_str().unwrap_or_default().to_owned()).collect()
}

fn invitations(server: &Server, user: &str) -> Vec<Value> {
    let list = call(server, "GET", "/api/v1/groups", user, &Value::Null).body;
    list["invitations"].as_array().expect("a list").clone()
}

fn groups(server: &Server, user: &str) -> usize {
    let list = call(server, "GET", "/api/v1/groups", user, &Value::Null).body;
    list["groups"].as_array().map_or(0, Vec::len)
}

#[test]
fn who_is_added_is_asked_first() {
    let mut server = Server::start_for_people(&["--group-invitations", "on"]);
    know(&server, &["ann", "bob", "cid", "eve"]);
    let group = make(&server, "ann", &["bob"]);
    let path = format!("/api/v1/groups/{group}");
    let one = call(&server, "GET", &path, "ann", &Value::Null).body;
    assert_eq!((&one["members"], &one["invited"]), (&json!(["ann"]), &json!(["bob"])));
    // Whoever is asked sees who asks, and nothing of what is said.
    let invitation = &invitations(&server, "bob")[0];
    assert_eq!(
        (
            &invitation["group_id"],
            &invitation["name"],
            &invitation["owner"],
            &invitation["invited_by"]
        ),
        (&json!(group), &json!("team"), &json!("ann"), &json!("ann"))
    );
    support::assert_is_time(&invitation["invited_at"]);
    assert_eq!((groups(&server, "bob"), say(&server, "bob", &group, "let me in")), (0, 403));
    call(&server, "GET", &path, "bob", &Value::Null).expect_problem(403, "forbidden");
    let mut socket = server.connect_as("bob");
    assert_eq!(say(&server, "ann", &group, "before"), 201);
    assert!(socket.drain().iter().all(|frame| frame["type"] != "group"));
    // Again is no second invitation; who is no member invites nobody.
    let again = add(&server, "ann", &group, "bob");
    assert_eq!((again.status, &again.body["state"]), (202, &json!("invited")), "{}", again.text);
    assert_eq!(invitations(&server, "bob").len(), 1);
    for by in ["bob", "eve"] {
        add(&server, by, &group, "cid").expect_problem(403, "forbidden");
    }
    add(&server, "ann", &group, "stranger").expect_problem(404, "not_found");
    assert_eq!(
        (answer(&server, "eve", &group, "accept"), answer(&server, "eve", "none", "accept")),
        (404, 404)
    );
    // It survives a restart, and the one who is asked decides.
    server.kill();
    server.restart();
    assert_eq!(answer(&server, "bob", &group, "accept"), 204);
    assert_eq!(answer(&server, "bob", &group, "accept"), 404, "answered once");
    assert_eq!((invitations(&server, "bob").len(), groups(&server, "bob")), (0, 1));
    let one = call(&server, "GET", &path, "bob", &Value::Null).body;
    assert_eq!((&one["members"], &one["invited"]), (&json!(["ann", "bob"]), &json!([])));
    assert_eq!(say(&server, "ann", &group, "after"), 201);
    assert_eq!(pulled(&server, "bob"), ["after"], "what was said before is not for bob");
    assert_eq!(add(&server, "ann", &group, "bob").status, 200, "a member is a member");
    // Declined, it can be sent again; taken back, it is gone.
    assert_eq!(add(&server, "ann", &group, "cid").status, 202);
    assert_eq!(answer(&server, "cid", &group, "decline"), 204);
    assert_eq!(answer(&server, "cid", &group, "accept"), 404);
    assert_eq!(add(&server, "ann", &group, "cid").status, 202);
    assert_eq!(remove(&server, "bob", &group, "cid"), 403, "bob does not manage the group");
    assert_eq!(remove(&server, "ann", &group, "cid"), 204);
    assert_eq!(
        (invitations(&server, "cid").len(), answer(&server, "cid", &group, "accept")),
        (0, 404)
    );
    assert_eq!(add(&server, "ann", &group, "cid").status, 202);
    assert_eq!(remove(&server, "cid", &group, "cid"), 204, "leaving before one has come");
    assert_eq!(invitations(&server, "cid").len(), 0);
    // With the group its invitations go.
    assert_eq!(add(&server, "ann", &group, "eve").status, 202);
    assert_eq!(call(&server, "DELETE", &path, "ann", &Value::Null).status, 204);
    assert_eq!(
        (invitations(&server, "eve").len(), answer(&server, "eve", &group, "accept")),
        (0, 404)
    );
}

#[test]
fn everybody_may_leave_in_either_mode() {
    for mode in ["off", "on"] {
        let server = Server::start_for_people(&["--group-invitations", mode]);
        know(&server, &["ann", "bob", "cid"]);
        let group = make(&server, "ann", &["bob", "cid"]);
        if mode == "on" {
            assert_eq!(answer(&server, "bob", &group, "accept"), 204);
        } else {
            assert_eq!(invitations(&server, "bob").len(), 0);
            assert_eq!(answer(&server, "bob", &group, "accept"), 404);
            assert_eq!(remove(&server, "cid", &group, "cid"), 204);
        }
        let path = format!("/api/v1/groups/{group}");
        // The one who made it leaves: the one who came next manages it.
        assert_eq!(remove(&server, "ann", &group, "ann"), 204, "{mode}");
        assert_eq!((groups(&server, "ann"), say(&server, "ann", &group, "x")), (0, 403), "{mode}");
        let one = call(&server, "GET", &path, "bob", &Value::Null).body;
        assert_eq!((&one["owner"], &one["members"]), (&json!("bob"), &json!(["bob"])), "{mode}");
        assert_eq!(say(&server, "bob", &group, "alone"), 201);
        assert!(pulled(&server, "ann").is_empty(), "{mode}");
        // The last one takes the group along, and what is still open with it.
        assert_eq!(remove(&server, "bob", &group, "bob"), 204);
        call(&server, "GET", &path, "bob", &Value::Null).expect_problem(404, "not_found");
        assert_eq!(invitations(&server, "cid").len(), 0, "{mode}");
        assert_eq!(answer(&server, "cid", &group, "accept"), 404);
    }
}

#[test]
fn open_invitations_outlive_the_setting() {
    let mut server = Server::start_for_people(&["--group-invitations", "on"]);
    know(&server, &["ann", "bob", "cid"]);
    let group = make(&server, "ann", &["bob", "cid"]);
    server.stop();
    server.set_flag("--group-invitations", "off");
    server.restart();
    assert_eq!(answer(&server, "bob", &group, "accept"), 204);
    assert_eq!(
        add(&server, "ann", &group, "cid").status,
        201,
        "added unasked, as the setting says"
    );
    assert_eq!((invitations(&server, "cid").len(), groups(&server, "cid")), (0, 1));
}
