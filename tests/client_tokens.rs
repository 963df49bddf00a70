//! A client stays signed in for as long as it can get tokens, and reports when it cannot.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fanfare_client::{Client, Code, Error, Status};
use fanfare_test_support::client::{agrees, builder, connect_as, eventually, soon, token};
use fanfare_test_support::{Server, instance};
use serde_json::{Value, json};

fn connection_id(client: &Client) -> Option<String> {
    match client.status() {
        Status::Connected { connection_id, .. } => Some(connection_id),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_replaced_before_its_end_on_the_same_connection() {
    let node = Server::start_for_people(&["--auth", "required"]);
    let fetched = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&fetched);
    let client = builder(&node.url())
        .token_source(move || {
            count.fetch_add(1, Ordering::SeqCst);
            async { Ok(token("ann", 2, "sockets:read")) }
        })
        .connect()
        .await
        .expect("it is there");
    let first = connection_id(&client).expect("connected");
    eventually("four tokens", || fetched.load(Ordering::SeqCst) >= 4).await;
    assert_eq!(connection_id(&client), Some(first), "the connection has outlived three of them");
    // HTTP calls take the newest, too.
    let online = client.http("GET", "/ws/online", None).await.expect("signed in");
    assert_eq!(online["users"][0]["user_id"], "ann");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_another_token_the_end_is_final() {
    let node = Server::start_for_people(&[]);
    let client = builder(&node.url()).token(token("ann", 2, "")).connect().await.expect("there");
    let mut status = client.watch_status();
    let end = soon("closed", status.wait_for(|one| matches!(one, Status::Closed(_)))).await;
    let end = end.expect("told").clone();
    let Status::Closed(error) = end else { panic!("{end:?}") };
    assert!(matches!(error, Error::Closed { code: 4401, .. }), "{error}");
    let view = client.watch_service("orders").expect("a name");
    assert!(soon("ended", view.fresh()).await.is_err());
    assert!(soon("ended", view.changes().next()).await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_was_late_comes_back_with_a_new_token() {
    let node = Server::start_for_people(&[]);
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    let client = builder(&node.url())
        .token_source(move || {
            let number = count.fetch_add(1, Ordering::SeqCst);
            async move {
                match number {
                    0 => Ok(token("ann", 2, "")),
                    // As long as the first one lasts, there is no other.
                    1..=2 => Err("not now".into()),
                    _ => Ok(token("ann", 3_600, "")),
                }
            }
        })
        .connect()
        .await
        .expect("it is there");
    let first = connection_id(&client).expect("connected");
    let view = client.watch_service("orders").expect("a name");
    eventually("another connection", || {
        connection_id(&client).is_some_and(|id| id != first) || calls.load(Ordering::SeqCst) > 3
    })
    .await;
    node.register(&[instance("orders", "one")]);
    eventually("the same", || agrees(&node, view.state().as_ref())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_and_password_are_enough() {
    let node = Server::start_for_people(&["--auth", "required"]);
    let person = json!({"username": "ann", "password": "correct horse"});
    let user = node.post("/api/v1/users/register", &person);
    let client = builder(&node.url()).login("ann", "correct horse").connect().await;
    let client = client.expect("it is there");
    let Status::Connected { user_id, .. } = client.status() else { panic!("not connected") };
    assert_eq!(user_id.as_deref(), user["user_id"].as_str());
    let wrong = builder(&node.url()).login("ann", "wrong horse").connect().await;
    let error = wrong.err().expect("refused");
    assert_eq!(error.code(), Some(Code::Unauthorized), "{error}");
    assert!(!error.is_temporary(), "asked once, not until the account is locked");
    let wrong = builder(&node.url()).token("nonsense").connect().await.err().expect("refused");
    assert!(matches!(wrong, Error::Status { status: 401, .. }), "{wrong}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_is_renewed_without_another_look_at_the_password() {
    let node = Server::start_for_people(&["--login-token-ttl", "5s"]);
    let person = json!({"username": "ann", "password": "correct horse"});
    node.post("/api/v1/users/register", &person);
    let client = builder(&node.url()).login("ann", "correct horse").connect().await;
    let client = client.expect("it is there");
    let first = connection_id(&client).expect("connected");
    let clock = fanfare::internals::clock::Clock::start();
    let over_ms = clock.now().unix_ms + 8_000;
    // From here on a login of that name is refused unread, for a minute.
    let wrong = json!({"username": "ann", "password": "wrong horse!"});
    let login = |body: &Value| node.call("POST", "/api/v1/users/login", "", body).status;
    eventually("logins are refused", || login(&wrong) == 429).await;
    assert_eq!(login(&person), 429);
    eventually("the first token has ended", || clock.now().unix_ms > over_ms).await;
    assert_eq!(connection_id(&client), Some(first), "the connection has outlived it");
    assert!(
        client.http("GET", "/api/v1/messages", None).await.is_ok(),
        "with a token that is good"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_was_removed_does_not_return() {
    let node = Server::start_for_people(&[]);
    let client = connect_as(&node.url(), "ann").await;
    let id = connection_id(&client).expect("connected");
    let admin = token("root", 60, "admin");
    let path = format!("/api/v1/connections/{id}");
    assert_eq!(node.call("DELETE", &path, &admin, &Value::Null).status, 204);
    let mut status = client.watch_status();
    let end = soon("closed", status.wait_for(|one| matches!(one, Status::Closed(_)))).await;
    let end = end.expect("told").clone();
    let Status::Closed(error) = end else { panic!("{end:?}") };
    assert!(matches!(error, Error::Closed { code: 4403, .. }), "{error}");
    assert!(!error.is_temporary());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_cannot_be_right_are_told_at_once() {
    for builder in [
        Client::builder(),
        Client::builder().url("localhost"),
        Client::builder().url("ws://h").token("two words"),
        Client::builder().url("ws://h").queue_events_max(0),
        Client::builder().url("ws://h").keepalive(Duration::ZERO),
    ] {
        let error = builder.start().err().expect("refused");
        assert!(matches!(error, Error::Invalid(_)), "{error}");
    }
    assert!(
        std::thread::spawn(|| Client::builder().url("ws://h").start().is_err())
            .join()
            .is_ok_and(|is| is)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_new_token_does_not_allow_ends_and_is_said() {
    let node = Server::start_for_people(&["--auth", "required"]);
    let count = Arc::new(AtomicUsize::new(0));
    let client = builder(&node.url())
        .token_source(move || {
            let is_first = count.fetch_add(1, Ordering::SeqCst) == 0;
            let (seconds, scope) =
                if is_first { (4, "registry:read sockets:read") } else { (3_600, "message") };
            async move { Ok(token("ann", seconds, scope)) }
        })
        .connect()
        .await
        .expect("it is there");
    let first = connection_id(&client).expect("connected");
    let view = client.watch_service("orders").expect("a name");
    let everything = client.watch_all();
    let mut figures = client.channel("$other").expect("a name");
    soon("allowed", view.fresh()).await.expect("a state");
    soon("allowed", everything.fresh()).await.expect("a state");
    soon("allowed", figures.ready()).await.expect("followed");
    let mut changes = view.changes();
    let refused = loop {
        let event = soon("the end", changes.next()).await.expect("the view goes on");
        if let fanfare_client::ServiceEvent::Refused { error, .. } = event {
            break error;
        }
    };
    assert_eq!(refused.code(), Some(Code::Forbidden), "{refused}");
    match soon("the end", figures.next()).await {
        Some(fanfare_client::ChannelEvent::Refused(error)) => {
            assert_eq!(error.code(), Some(Code::Forbidden), "{error}");
        }
        other => panic!("{other:?}"),
    }
    eventually("nothing is taken for current", || view.is_stale() && everything.is_stale()).await;
    assert_eq!(connection_id(&client), Some(first), "the connection itself goes on");
}
