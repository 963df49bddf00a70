//! One `PostgreSQL` for several nodes: each store here stands for a node's.
//!
//! `scripts/with_postgres.sh` starts a server and names it in `FANFARE_TEST_POSTGRES`. Without one
//! these tests are reported as skipped.

use fanfare_test_support::postgres;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use crossbeam_channel::Receiver;
use fanfare::internals::auth::TokenId;
use fanfare::internals::id::{ChannelName, MessageId, UserId};
use fanfare::internals::state::durable::{AccountChange, EndedToken, Write, WriteResult, Written};
use fanfare::internals::state::journal::{Addressee, DirectMessage, JournalEntry};
use fanfare::internals::state::people::Person;
use fanfare::internals::state::registry::unsaved::RegistryDelta;
use fanfare::internals::store::accounts::{Accounts, Who};
use fanfare::internals::store::read_pool::ReadPool;
use fanfare::internals::store::{Address, Listeners, Store, StoreError, StoreSnapshot};
use fanfare_protocol::refusal::Code;
use fanfare_test_support::eventually;
use fanfare_test_support::postgres::{block_on, fresh, number};

/// A node's store.
struct Node {
    store: Store,
    read_pool: ReadPool,
    stored: Receiver<Vec<WriteResult>>,
    heard: Receiver<Vec<AccountChange>>,
    heard_tokens: Receiver<Vec<EndedToken>>,
}

impl Node {
    fn try_open(
        open: impl FnOnce(Listeners) -> Result<(Store, StoreSnapshot), StoreError>,
    ) -> Result<(Node, StoreSnapshot), StoreError> {
        let (tell, stored) = crossbeam_channel::unbounded();
        let (tell_accounts, heard) = crossbeam_channel::unbounded();
        let (tell_tokens, heard_tokens) = crossbeam_channel::unbounded();
        let (store, snapshot) = open(Listeners {
            on_stored: Box::new(move |results| _ = tell.send(results)),
            on_accounts: Box::new(move |changes| _ = tell_accounts.send(changes)),
            on_tokens: Box::new(move |tokens| _ = tell_tokens.send(tokens)),
        })?;
        Ok((Node { read_pool: store.read_pool(), store, stored, heard, heard_tokens }, snapshot))
    }

    fn open(url: &str) -> (Node, StoreSnapshot) {
        Node::try_open(|listeners| Store::open_shared(url, listeners)).expect("opens")
    }

    fn alone(url: &str) -> Result<(Node, StoreSnapshot), StoreError> {
        Node::try_open(|listeners| Store::open(Some(url), Path::new("."), listeners))
    }

    fn execute(&self, writes: Vec<Write>) -> Vec<WriteResult> {
        self.store.execute(Arc::new(writes));
        self.stored.recv_timeout(Duration::from_secs(40)).expect("the store answers")
    }

    fn one(&self, write: Write) -> WriteResult {
        self.execute(vec![write]).pop().expect("one result")
    }

    fn post(&self, run: &[Arc<JournalEntry>]) {
        assert_eq!(self.one(Write::JournalRun(run.to_vec())), Ok(Written::Done));
    }

    fn pulled(&self, user_id: &str, with: Option<&str>) -> Vec<String> {
        let reader = user(user_id);
        let messages = self.read_pool.messages(&reader, None, 10_000, with.map(user));
        let messages = block_on(messages).expect("a list");
        messages.into_iter().map(|message| message.content).collect()
    }

    fn hears_of(&self, who: &str, is_disabled: bool) {
        eventually(&format!("{who} is heard of"), Duration::from_secs(10), || {
            let mut changes = self.heard.try_iter().flatten();
            changes
                .any(|one| one.user_id.as_str() == who && one.standing.is_disabled == is_disabled)
        });
    }
}

fn user(id: &str) -> UserId {
    UserId::new(id)
}

/// The id of a place in the journal.
fn id(sequence: u64) -> MessageId {
    MessageId::from_parts(1_000_000 + sequence / 10, u32::try_from(sequence).expect("few"), 0)
}

fn entry(sequence: u64, from: &str, to: Addressee) -> Arc<JournalEntry> {
    let message = DirectMessage { from: user(from), to, content: format!("m{sequence}") };
    Arc::new(JournalEntry { sequence, id: id(sequence), message })
}

fn direct(sequence: u64, from: &str, to: &str) -> Arc<JournalEntry> {
    entry(sequence, from, Addressee::User(user(to)))
}

fn to_group(sequence: u64, from: &str, members: &[&str]) -> Arc<JournalEntry> {
    let members = members.iter().map(|member| user(member)).collect();
    entry(sequence, from, Addressee::Group { group_id: "g".into(), members })
}

fn account(user_id: &str, username: &str, at_ms: u64) -> Write {
    Write::Account {
        user_id: user(user_id),
        username: username.to_owned(),
        email: None,
        password_hash: String::from("$argon2id$..."),
        at_ms,
    }
}

fn seen(ids: impl IntoIterator<Item = String>, at_ms: u64) -> Write {
    let person = |id: String| Person { user_id: user(&id), username: "U".into() };
    Write::Seen { people: ids.into_iter().map(person).collect(), at_ms }
}

fn create(group: &str, members: &[&str]) -> Write {
    Write::CreateGroup {
        group_id: group.to_owned(),
        name: String::from("team"),
        owner: user(members[0]),
        members: members.iter().map(|member| user(member)).collect(),
        invited: Vec::new(),
        at_ms: 5,
    }
}

fn say(from: &str, group: &str) -> Write {
    let to = Addressee::Group { group_id: group.to_owned(), members: Vec::new() };
    Write::Message(entry(1, from, to))
}

fn code(result: WriteResult) -> Code {
    result.expect_err("refused").code
}

#[test]
fn nodes_start_together_on_an_empty_database() {
    let Some(url) = fresh() else { return };
    let nodes: Vec<(Node, StoreSnapshot)> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..4).map(|_| scope.spawn(|| Node::open(&url))).collect();
        starts.into_iter().map(|start| start.join().expect("opened")).collect()
    });
    for (node, snapshot) in nodes {
        assert_eq!((snapshot.people.last_message, snapshot.people.written), (None, None));
        assert_eq!(snapshot.registry.epoch, "");
        node.post(&[direct(1, "a", "b")]);
        node.store.close(RegistryDelta { version: 42, ..RegistryDelta::default() });
    }
    assert_eq!(number(&url, "SELECT COUNT(*) FROM registry"), 0, "it is not kept here");
}

#[test]
fn one_server_and_many_nodes_exclude_each_other() {
    let Some(url) = fresh() else { return };
    let (first, _) = Node::open(&url);
    let (second, _) = Node::open(&url);
    let refused = || Node::alone(&url).err().expect("refused");
    assert!(matches!(refused(), StoreError::InUse(_)));
    first.store.close(RegistryDelta::default());
    assert!(matches!(refused(), StoreError::InUse(_)), "one node is left");
    second.store.close(RegistryDelta::default());
    let mut alone = None;
    eventually("the database is free", Duration::from_secs(5), || {
        alone = Node::alone(&url).ok();
        alone.is_some()
    });
    let fault = Store::open_shared(&url, Listeners::default()).expect_err("refused");
    assert!(matches!(fault, StoreError::InUse(_)), "{fault}");
    alone.expect("open").0.store.close(RegistryDelta::default());
    eventually("and free again", Duration::from_secs(5), || {
        Store::open_shared(&url, Listeners::default()).is_ok()
    });
}

#[test]
fn whoever_is_turned_away_has_changed_nothing() {
    let Some(url) = fresh() else { return };
    let (_node, _) = Node::open(&url);
    postgres::execute(&url, "DROP TABLE channel; DELETE FROM _sqlx_migrations WHERE version = 3");
    let fault = Node::alone(&url).err().expect("refused");
    assert!(matches!(fault, StoreError::InUse(_)), "before the tables are looked at: {fault}");
}

#[test]
fn a_file_is_not_shared() {
    let fault = Store::open_shared("sqlite:///dev/null/x", Listeners::default());
    let fault = fault.expect_err("a file");
    assert!(matches!(fault, StoreError::NotShareable(_)), "{fault}");
    assert!(fault.to_string().contains("postgres://"), "{fault}");
    assert!(!Address::new(None, Path::new(".")).expect("a file").is_shareable());
    let server = Address::new(Some("postgres://a:b@c/d"), Path::new(".")).expect("a server");
    assert!(server.is_shareable());
}

#[test]
fn runs_that_overlap_are_there_once() {
    let Some(url) = fresh() else { return };
    let run: Vec<_> = (1..=300)
        .map(|n| match n % 3 {
            0 => to_group(n, "a", &["c", "b", "a"]),
            1 => direct(n, "a", "b"),
            _ => direct(n, "b", "b"),
        })
        .collect();
    std::thread::scope(|scope| {
        for start in [0, 30, 60] {
            let (run, url) = (&run[start..], &url);
            scope.spawn(move || {
                let (node, _) = Node::open(url);
                // The first of them has all that is before the others' start written by then.
                if start > 0 {
                    let written = "SELECT COUNT(*) FROM message";
                    eventually("its start is written", Duration::from_secs(20), || {
                        usize::try_from(number(url, written)).is_ok_and(|count| count >= start)
                    });
                }
                run.chunks(20).for_each(|part| node.post(part));
            });
        }
    });
    let (node, snapshot) = Node::open(&url);
    assert_eq!(
        (snapshot.people.written, snapshot.people.last_message),
        (Some(id(300)), Some(id(300)))
    );
    let of = |rests: &[u64]| -> Vec<String> {
        (1..=300).filter(|n| rests.contains(&(n % 3))).map(|n: u64| format!("m{n}")).collect()
    };
    assert_eq!(node.pulled("a", None), of(&[0, 1]));
    assert_eq!(node.pulled("b", None), of(&[0, 1, 2]));
    assert_eq!(node.pulled("c", None), of(&[0]));
    assert_eq!(node.pulled("b", Some("a")), of(&[1]));
    assert_eq!(node.pulled("a", Some("b")), of(&[1]));
    assert_eq!(node.pulled("b", Some("b")), of(&[2]));
    assert_eq!(number(&url, "SELECT COUNT(*) FROM inbox"), 100 * 3 + 100 * 2 + 100);
    // What is behind moves nothing back.
    node.post(&run[..10]);
    let behind = format!("SELECT COUNT(*) FROM inbox_state WHERE up_to = '{}'", id(300));
    assert_eq!(number(&url, &behind), 1);
    let page = block_on(node.read_pool.messages(&user("c"), None, 1, None)).expect("a list");
    let (first, group) = (&page[0], page[0].group_id.as_deref());
    assert_eq!((first.id.clone(), group, first.created_at), (id(3).to_string(), Some("g"), 1_000));
}

#[test]
fn a_run_of_large_groups_is_written() {
    let Some(url) = fresh() else { return };
    let (node, _) = Node::open(&url);
    let members: Vec<String> = (0..1_000).map(|n| format!("u{n}")).collect();
    let members: Vec<&str> = members.iter().map(String::as_str).collect();
    node.post(&(1..=40).map(|n| to_group(n, "u0", &members)).collect::<Vec<_>>());
    assert_eq!(number(&url, "SELECT COUNT(*) FROM inbox"), 40_000);
    assert_eq!(node.pulled("u999", None).len(), 40);
}

#[test]
fn pages_have_no_gaps_while_runs_are_written() {
    let Some(url) = fresh() else { return };
    let run: Vec<_> = (1..=2_000)
        .map(|n| if n % 2 == 0 { direct(n, "a", "b") } else { to_group(n, "b", &["a", "b"]) })
        .collect();
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Two nodes write the same: one takes over while the other is still at it.
        let writers: Vec<_> = (0..2)
            .map(|_| {
                let (node, _) = Node::open(&url);
                let run = &run;
                scope.spawn(move || run.chunks(50).for_each(|part| node.post(part)))
            })
            .collect();
        for (reader, with) in [("a", None), ("b", Some("a"))] {
            let (is_done, url) = (&is_done, &url);
            scope.spawn(move || {
                let (node, _) = Node::open(url);
                let reader = user(reader);
                let step = if with.is_some() { 2 } else { 1 };
                let (mut after, mut last, mut is_over) = (None, 0, false);
                while last < 2_000 {
                    let messages = node.read_pool.messages(&reader, after, 7, with.map(user));
                    let page = block_on(messages).expect("a page");
                    assert!(!(page.is_empty() && is_over), "the walk ends at {last}");
                    is_over = is_done.load(Ordering::SeqCst);
                    for message in page {
                        last += step;
                        assert_eq!(message.content, format!("m{last}"), "nothing comes in between");
                        after = message.id.parse().ok();
                    }
                }
            });
        }
        for writer in writers {
            writer.join().expect("written");
        }
        is_done.store(true, Ordering::SeqCst);
    });
}

#[test]
fn what_the_log_or_the_journal_keeps_is_refused() {
    let Some(url) = fresh() else { return };
    let (alone, _) = Node::alone(&url).expect("opens");
    let channel = ChannelName::new("news");
    let define = |name| Write::DefineChannel {
        channel: ChannelName::new(name),
        description: "about".into(),
        at_ms: 5,
    };
    assert!(alone.one(define("news")).is_ok());
    alone.store.close(RegistryDelta::default());
    eventually("the database is free", Duration::from_secs(5), || {
        Store::open_shared(&url, Listeners::default()).is_ok()
    });
    let (node, snapshot) = Node::open(&url);
    assert_eq!(snapshot.people.channels, [("news".into(), "about".into())], "they begin a log");
    let private = Write::Message(direct(1, "a", "b"));
    let results = node.execute(vec![
        private,
        define("other"),
        Write::DropChannel { channel },
        account("1", "Ann", 5),
    ]);
    assert_eq!(results[3], Ok(Written::Done));
    let codes: Vec<Code> = results.into_iter().take(3).map(code).collect();
    assert_eq!(codes, [Code::Internal; 3]);
    assert_eq!(number(&url, "SELECT COUNT(*) FROM message"), 0);
    assert_eq!(number(&url, "SELECT COUNT(*) FROM channel"), 1);
}

#[test]
fn groups_are_those_of_all_nodes() {
    let Some(url) = fresh() else { return };
    let ((one, _), (two, _)) = (Node::open(&url), Node::open(&url));
    assert_eq!(one.one(create("g", &["ann", "bob"])), Ok(Written::Done));
    assert_eq!(two.one(say("bob", "g")), Ok(Written::For(vec![user("ann"), user("bob")])));
    assert_eq!(code(two.one(say("eve", "g"))), Code::Forbidden);
    assert_eq!(code(two.one(say("ann", "none"))), Code::NotFound);
    let add = Write::AddMember { group_id: "g".into(), user_id: user("cid"), by: user("ann") };
    assert_eq!(two.one(add), Ok(Written::Done));
    // In one batch the order counts, as ever.
    let results = one.execute(vec![
        Write::RemoveMember { group_id: "g".into(), user_id: user("bob"), by: user("ann") },
        say("bob", "g"),
        say("cid", "g"),
        Write::JournalRun(vec![to_group(1, "cid", &["ann", "cid"])]),
    ]);
    assert_eq!(code(results[1].clone()), Code::Forbidden);
    assert_eq!(results[2], Ok(Written::For(vec![user("ann"), user("cid")])));
    assert_eq!(number(&url, "SELECT COUNT(*) FROM message"), 1, "only what has been posted");
    assert_eq!(two.pulled("ann", None), ["m1"]);
    assert_eq!(block_on(two.read_pool.groups(&user("cid"))).map(|all| all.len()), Ok(1));
    // Invited at one node, accepted at the other.
    let (group_id, user_id, by) = (String::from("g"), user("dan"), user("ann"));
    let invite =
        Write::Invite { group_id: group_id.clone(), user_id: user_id.clone(), by, at_ms: 6 };
    assert_eq!(one.one(invite), Ok(Written::Invited));
    assert_eq!(code(two.one(say("dan", "g"))), Code::Forbidden);
    assert_eq!(block_on(two.read_pool.invitations(&user_id)).map(|all| all.len()), Ok(1));
    let accept = |accepts| Write::AnswerInvitation {
        group_id: group_id.clone(),
        user_id: user_id.clone(),
        accepts,
    };
    let results = two.execute(vec![accept(true), accept(true)]);
    assert_eq!((&results[0], code(results[1].clone())), (&Ok(Written::Done), Code::NotFound));
    let all = vec![user("ann"), user("cid"), user("dan")];
    assert_eq!(one.one(say("dan", "g")), Ok(Written::For(all)));
}

#[test]
fn checks_hold_though_two_nodes_write_at_once() {
    let Some(url) = fresh() else { return };
    let leave = |group: &str, who: &str| Write::RemoveMember {
        group_id: group.to_owned(),
        user_id: user(who),
        by: user(who),
    };
    let names: Vec<String> = (0..200).map(|n| format!("u{n}")).collect();
    let (setup, _) = Node::open(&url);
    let groups = names.iter().map(|name| create(name, &["ann", "bob"])).collect();
    assert!(setup.execute(groups).iter().all(Result::is_ok));
    let together = Barrier::new(2);
    let created = std::thread::scope(|scope| {
        let nodes = [("ann", false), ("bob", true)].map(|(who, is_backwards)| {
            let (node, _) = Node::open(&url);
            let (names, together) = (&names, &together);
            scope.spawn(move || {
                let mut order: Vec<&String> = names.iter().collect();
                if is_backwards {
                    // Who takes rows in another order than others would wait for them in a circle.
                    order.reverse();
                }
                let mut writes: Vec<Write> = order
                    .iter()
                    .map(|name| account(&format!("{who}-{name}"), &name.to_uppercase(), 5))
                    .collect();
                writes.push(seen(order.iter().map(|name| format!("t-{name}")), 5));
                together.wait();
                let results = node.execute(writes);
                // One after the other, so that each group is left by both at about the same time.
                let left = names.iter().map(|name| {
                    together.wait();
                    node.one(leave(name, who))
                });
                let left: Vec<WriteResult> = left.collect();
                // Only now: the other one waits at the barrier for whoever fails before.
                assert_eq!(results.last(), Some(&Ok(Written::Done)));
                assert!(left.iter().all(|result| *result == Ok(Written::Done)), "{left:?}");
                results.iter().filter(|result| result.is_ok()).count() - 1
            })
        });
        nodes.map(|node| node.join().expect("done")).iter().sum::<usize>()
    });
    assert_eq!(created, names.len(), "each name is given out once");
    let left = "SELECT COUNT(*) FROM chat_group";
    assert_eq!(number(&url, left), 0, "the last member takes the group along");
}

#[test]
fn accounts_are_those_of_all_nodes() {
    let Some(url) = fresh() else { return };
    let (one, _) = Node::open(&url);
    assert_eq!(one.one(account("1", "Ann", 1_000_000)), Ok(Written::Done));
    let (two, snapshot) = Node::open(&url);
    assert_eq!(snapshot.people.users.len(), 1);
    // Its clock is an hour behind.
    assert_eq!(code(two.one(account("2", "ANN", 5))), Code::Conflict);
    assert_eq!(two.one(account("3", "bob", 5)), Ok(Written::Done));
    let is_there =
        |id: &str| block_on(one.read_pool.account_of(&user(id))).expect("asked").is_some();
    assert!(is_there("3") && !is_there("2"));
    one.hears_of("3", false);
    assert!(two.one(seen([String::from("tok")], 6)).is_ok());
    one.hears_of("tok", false);
    let mut accounts =
        Accounts::open(&Address::new(Some(&url), Path::new(".")).expect("an address"))
            .expect("beside both");
    accounts.set_disabled(&Who::Name("ann".into()), true, 7).expect("disabled");
    one.hears_of("1", true);
    two.hears_of("1", true);
    // What one node revokes, the other hears of, whichever has the clock that is ahead.
    for (node, other, at_ms) in [(&one, &two, 2_000_000), (&two, &one, 9)] {
        let person = Person { user_id: user("3"), username: "bob".into() };
        let token = TokenId::of_jti(&at_ms.to_string());
        let end = Write::EndToken { person: person.clone(), token, expires_s: 9_000, at_ms };
        assert!(node.one(end).is_ok());
        eventually("the token is heard of", Duration::from_secs(10), || {
            other.heard_tokens.try_iter().flatten().any(|one| one.id == token)
        });
        let before =
            block_on(other.read_pool.change_of(&user("3"))).expect("asked").expect("there");
        assert!(node.one(Write::EndTokens { person, at_ms }).is_ok());
        eventually("the end of all tokens is heard of", Duration::from_secs(10), || {
            let mut changes = other.heard.try_iter().flatten();
            changes.any(|one| {
                one.user_id.as_str() == "3"
                    && one.standing.tokens_from_ms > before.standing.tokens_from_ms
            })
        });
    }
}

#[test]
fn no_account_is_missed_while_a_node_starts() {
    let Some(url) = fresh() else { return };
    let (writer, _) = Node::open(&url);
    let is_over = AtomicBool::new(false);
    let (started, written) = std::thread::scope(|scope| {
        let written = scope.spawn(|| {
            let mut count = 0;
            while !is_over.load(Ordering::SeqCst) {
                // By a clock that goes backwards.
                assert!(writer.one(seen([format!("u{count}")], 1_000_000 - count)).is_ok());
                count += 1;
            }
            count
        });
        let started = Node::open(&url);
        is_over.store(true, Ordering::SeqCst);
        (started, written.join().expect("written"))
    });
    let (node, snapshot) = started;
    let mut known: std::collections::HashSet<String> =
        snapshot.people.users.iter().map(|one| one.user_id.as_str().to_owned()).collect();
    eventually("all are known", Duration::from_secs(10), || {
        known.extend(node.heard.try_iter().flatten().map(|one| one.user_id.as_str().to_owned()));
        (0..written).all(|n| known.contains(&format!("u{n}")))
    });
}

#[test]
fn what_one_server_left_unsorted_is_pulled() {
    let Some(url) = fresh() else { return };
    let (alone, _) = Node::alone(&url).expect("opens");
    let private = |n: u64, from: &str, to: &str| Write::Message(direct(n, from, to));
    let writes = vec![private(1, "a", "b"), private(2, "b", "a"), private(3, "a", "a")];
    assert!(alone.execute(writes).iter().all(Result::is_ok));
    alone.store.close(RegistryDelta::default());
    // As a kill leaves it.
    postgres::execute(&url, "DELETE FROM inbox; UPDATE inbox_state SET up_to = ''");
    eventually("the database is free", Duration::from_secs(5), || {
        number(&url, "SELECT COUNT(*) FROM pg_locks WHERE locktype = 'advisory'") == 0
    });
    let nodes: Vec<(Node, StoreSnapshot)> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..3).map(|_| scope.spawn(|| Node::open(&url))).collect();
        starts.into_iter().map(|start| start.join().expect("opened")).collect()
    });
    for (node, snapshot) in &nodes {
        assert_eq!(snapshot.people.written, Some(id(3)));
        assert_eq!(snapshot.people.last_message, Some(id(3)));
        assert_eq!(node.pulled("a", None), ["m1", "m2", "m3"]);
        assert_eq!(node.pulled("b", Some("a")), ["m1", "m2"]);
    }
    assert_eq!(number(&url, "SELECT COUNT(*) FROM inbox"), 5);
    nodes[0].0.post(&[direct(4, "b", "a")]);
    assert_eq!(nodes[1].0.pulled("a", None), ["m1", "m2", "m3", "m4"]);
}

#[test]
fn a_lost_connection_is_opened_and_claimed_again() {
    let Some(url) = fresh() else { return };
    let (node, _) = Node::open(&url);
    node.post(&[direct(1, "a", "b")]);
    postgres::cut(&url);
    let run = vec![direct(2, "a", "b")];
    let lost = node.one(Write::JournalRun(run.clone()));
    assert_eq!(code(lost), Code::Unavailable);
    let health = node.store.health();
    eventually("the store takes writes again", Duration::from_secs(10), || health.is_ok());
    assert!(matches!(Node::alone(&url).err(), Some(StoreError::InUse(_))), "and holds it again");
    node.post(&run);
    eventually("and reads", Duration::from_secs(10), || {
        block_on(node.read_pool.messages(&user("b"), None, 9, None)).is_ok_and(|all| all.len() == 2)
    });
    let (other, _) = Node::open(&url);
    assert!(other.one(account("1", "ann", 5)).is_ok());
    node.hears_of("1", false);
    assert_eq!(number(&url, "SELECT COUNT(*) FROM registry"), 0, "nobody asked that");
}

/// A node may be stopped in the middle of a transaction, and nobody knows for how long.
#[test]
fn a_lock_is_not_waited_for_without_end() {
    let Some(url) = fresh() else { return };
    let (node, _) = Node::open(&url);
    let run = vec![direct(1, "a", "b")];
    block_on(async {
        use sqlx::{Connection, Executor};
        let mut holder = sqlx::PgConnection::connect(&url).await.expect("connects");
        let mut held = holder.begin().await.expect("begins");
        held.execute("SELECT up_to FROM inbox_state FOR UPDATE").await.expect("locked");
        assert!(node.one(account("1", "ann", 5)).is_ok(), "accounts do not wait for messages");
        assert_eq!(code(node.one(Write::JournalRun(run.clone()))), Code::Unavailable);
        held.rollback().await.expect("let go");
    });
    let health = node.store.health();
    eventually("the store takes writes again", Duration::from_secs(20), || health.is_ok());
    node.post(&run);
}

#[test]
fn a_message_that_is_refused_does_not_hold_up_the_journal() {
    let Some(url) = fresh() else { return };
    let (node, _) = Node::open(&url);
    postgres::execute(
        &url,
        "ALTER TABLE message ADD CONSTRAINT no_m3 CHECK (content NOT LIKE 'm3%')",
    );
    node.post(&[direct(1, "ann", "bob"), direct(2, "ann", "bob")]);
    node.post(&[direct(3, "ann", "bob"), direct(4, "ann", "bob"), direct(5, "ann", "bob")]);
    assert_eq!(node.pulled("bob", None), ["m1", "m2", "m4", "m5"]);
    // The mark passes over it as well where nothing stands behind it.
    node.post(&[direct(31, "ann", "bob")]);
    let mark = format!("SELECT COUNT(*) FROM inbox_state WHERE up_to = '{}'", id(31));
    assert_eq!(number(&url, &mark), 1);
    node.post(&[direct(6, "ann", "bob"), direct(32, "ann", "bob"), direct(7, "ann", "bob")]);
    assert_eq!(node.pulled("bob", None), ["m1", "m2", "m4", "m5", "m6", "m7"]);
    assert_eq!((node.store.health().is_ok(), node.store.health().set_aside_total()), (true, 3));
}
