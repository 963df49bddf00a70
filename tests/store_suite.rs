//! The suite for every database, over `SQLite` and over `PostgreSQL`.
//!
//! Without `PostgreSQL` that half of the suite is reported as skipped.

use fanfare_test_support as support;
use fanfare_test_support::postgres as pg;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::Receiver;
use fanfare::internals::auth::TokenId;
use fanfare::internals::id::{ChannelName, MessageId, UserId};
use fanfare::internals::limits;
use fanfare::internals::state::durable::{EndedToken, Write, WriteResult, Written};
use fanfare::internals::state::journal::{Addressee, DirectMessage, JournalEntry};
use fanfare::internals::state::management::ManagementRecord;
use fanfare::internals::state::people::Person;
use fanfare::internals::state::registry::unsaved::{RegistryDelta, Row};
use fanfare::internals::state::snapshot::{InstanceRecord, PullOutRecord, ServiceRecord};
use fanfare::internals::store::accounts::{Accounts, Who};
use fanfare::internals::store::read_pool::ReadPool;
use fanfare::internals::store::{Address, Listeners, Store, StoreError, StoreSnapshot};
use fanfare_protocol::refusal::Code;
use fanfare_test_support::postgres::block_on;
use fanfare_test_support::{Server, eventually, token};
use serde_json::{Value, json};

/// An empty database.
struct Backend {
    dir: PathBuf,
    url: Option<String>,
}

impl Backend {
    fn address(&self) -> Address {
        Address::new(self.url.as_deref(), &self.dir).expect("an address")
    }

    fn sqlite() -> Backend {
        let dir = std::env::temp_dir().join(format!("fanfare-suite-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&dir).expect("a directory");
        Backend { dir, url: None }
    }

    fn postgres() -> Option<Backend> {
        let url = Some(pg::fresh()?);
        let mut backend = Backend::sqlite();
        backend.url = url;
        Some(backend)
    }

    fn open(&self) -> Result<(Suite, StoreSnapshot), StoreError> {
        let (tell, stored) = crossbeam_channel::unbounded();
        let listeners = Listeners {
            on_stored: Box::new(move |results| _ = tell.send(results)),
            ..Listeners::default()
        };
        let (store, snapshot) = Store::open(self.url.as_deref(), &self.dir, listeners)?;
        Ok((Suite { read_pool: store.read_pool(), store, stored }, snapshot))
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A store under test.
struct Suite {
    store: Store,
    read_pool: ReadPool,
    stored: Receiver<Vec<WriteResult>>,
}

impl Suite {
    fn execute(&self, writes: Vec<Write>) -> Vec<WriteResult> {
        self.store.execute(Arc::new(writes));
        self.stored.recv_timeout(Duration::from_secs(20)).expect("the store answers")
    }

    fn one(&self, write: Write) -> WriteResult {
        self.execute(vec![write]).pop().expect("one result")
    }

    fn pulled(&self, user_id: &str, with: Option<&str>) -> Vec<String> {
        let reader = user(user_id);
        let messages = self.read_pool.messages(&reader, None, 100, with.map(user));
        let messages = block_on(messages).expect("a list");
        messages.into_iter().map(|message| message.content).collect()
    }
}

fn user(id: &str) -> UserId {
    UserId::new(id)
}

fn message(n: u32, from: &str, to: Addressee, content: String) -> Write {
    let id = MessageId::from_parts(1_000 + u64::from(n), n, 0);
    let message = DirectMessage { from: user(from), to, content };
    Write::Message(Arc::new(JournalEntry { sequence: 0, id, message }))
}

fn private(n: u32, from: &str, to: &str) -> Write {
    let content = format!("m{n} \u{1F600} ' \" \\");
    message(n, from, Addressee::User(user(to)), content)
}

fn to_group(n: u32, from: &str, group: &str) -> Write {
    let to = Addressee::Group { group_id: group.to_owned(), members: Vec::new() };
    message(n, from, to, format!("g{n}"))
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

fn account(username: &str) -> Write {
    Write::Account {
        user_id: user(&format!("id-of-{username}")),
        username: username.to_owned(),
        email: None,
        password_hash: String::from("$argon2id$..."),
        at_ms: 5,
    }
}

fn code(result: WriteResult) -> Code {
    result.expect_err("refused").code
}

fn registry_survives_a_clean_stop(backend: &Backend) {
    let (suite, snapshot) = backend.open().expect("opens");
    assert_eq!(snapshot.registry.epoch, "");
    let service = ServiceRecord {
        service: String::from("s"),
        revision: 7,
        protection_enabled: false,
        degraded_since_ms: Some(5),
        ..ServiceRecord::default()
    };
    let instance = |n| InstanceRecord {
        identity: format!("r\u{1f}s\u{1f}i{n:05}"),
        service: String::from("s"),
        json: Bytes::from(format!("{{\"instanceId\":\"i{n} \\u0000 \u{e9}\"}}")),
        ttl_ms: 20_000,
        ..InstanceRecord::default()
    };
    let instances: Vec<_> = (0..2_000).map(instance).collect();
    let pull_out = PullOutRecord {
        identity: String::from("p"),
        operator: String::from("o"),
        ..PullOutRecord::default()
    };
    let managed = ManagementRecord {
        key: String::from("operation/7"),
        body: String::from("{\"reason\":\"\\u0000 'x'\"}"),
    };
    let delta = |version, rows| {
        let epoch = String::from("e1");
        RegistryDelta { epoch, version, rows, ..RegistryDelta::default() }
    };
    let mut rows: Vec<_> = instances.iter().cloned().map(Row::Instance).collect();
    rows.extend([Row::Service(service.clone()), Row::PullOut(pull_out.clone())]);
    rows.push(Row::Management(managed.clone()));
    suite.store.close(delta(42, rows));
    let (suite, mut snapshot) = backend.open().expect("opens again");
    snapshot.registry.instances.sort_by(|a, b| a.identity.cmp(&b.identity));
    assert_eq!((&*snapshot.registry.epoch, snapshot.registry.version), ("e1", 42));
    assert_eq!(snapshot.registry.services, [service]);
    assert_eq!(snapshot.registry.instances, instances);
    assert_eq!(snapshot.registry.pull_outs, [pull_out]);
    assert_eq!(snapshot.registry.management, std::slice::from_ref(&managed));
    let others = instances[1..].iter().map(|one| Row::InstanceGone(one.identity.clone()));
    let pull_in = Row::PullOutGone(String::from("p"));
    suite
        .store
        .close(delta(43, others.chain([pull_in, Row::ManagementGone(managed.key)]).collect()));
    let (_suite, snapshot) = backend.open().expect("opens a third time");
    assert_eq!(snapshot.registry.instances, instances[..1]);
    assert!(snapshot.registry.pull_outs.is_empty());
    assert!(snapshot.registry.management.is_empty());
}

fn messages_are_pulled_in_order_and_once(backend: &Backend) {
    let (suite, _) = backend.open().expect("opens");
    let batch = vec![
        private(1, "a", "b"),
        private(2, "b", "a"),
        private(3, "a", "c"),
        private(4, "a", "a"),
    ];
    assert!(suite.execute(batch.clone()).iter().all(|result| *result == Ok(Written::Done)));
    assert!(suite.execute(batch).iter().all(Result::is_ok), "a lost end is made up for");
    let text = |n: u32| format!("m{n} \u{1F600} ' \" \\");
    assert_eq!(suite.pulled("a", None), [text(1), text(2), text(3), text(4)]);
    assert_eq!(suite.pulled("b", None), [text(1), text(2)]);
    assert_eq!(suite.pulled("a", Some("c")), [text(3)]);
    assert!(suite.pulled("d", None).is_empty());
    let first = block_on(suite.read_pool.messages(&user("a"), None, 1, None)).expect("a list");
    let after = first[0].id.parse().ok();
    let rest = block_on(suite.read_pool.messages(&user("a"), after, 2, None)).expect("a list");
    assert_eq!(rest.iter().map(|one| one.content.clone()).collect::<Vec<_>>(), [text(2), text(3)]);
    suite.store.close(RegistryDelta::default());
    // By now all of them are sorted into the inboxes; what comes next is not yet.
    let (suite, snapshot) = backend.open().expect("opens again");
    assert_eq!(snapshot.people.last_message, Some(MessageId::from_parts(1_004, 4, 0)));
    assert!(
        suite.execute(vec![private(5, "b", "a"), private(6, "c", "a")]).iter().all(Result::is_ok)
    );
    assert_eq!(suite.pulled("a", None), [text(1), text(2), text(3), text(4), text(5), text(6)]);
    assert_eq!(suite.pulled("a", Some("b")), [text(1), text(2), text(5)]);
    assert_eq!(suite.pulled("b", None), [text(1), text(2), text(5)]);
    let page = block_on(suite.read_pool.messages(&user("a"), after, 4, None)).expect("a list");
    assert_eq!(page.last().map(|one| one.content.clone()), Some(text(5)), "a page of both kinds");
}

fn names_are_given_out_once(backend: &Backend) {
    let (suite, _) = backend.open().expect("opens");
    assert_eq!(suite.one(account("Ann")), Ok(Written::Done));
    let batch = suite.execute(vec![account("ANN"), account("bob"), private(1, "a", "b")]);
    assert_eq!(batch[0].clone().map_err(|refusal| refusal.code), Err(Code::Conflict));
    assert_eq!((&batch[1], &batch[2]), (&Ok(Written::Done), &Ok(Written::Done)), "each by itself");
    let ann = block_on(suite.read_pool.account("aNN")).expect("found").expect("there");
    assert_eq!((ann.username.as_str(), ann.standing.is_disabled), ("Ann", false));
    assert_eq!(block_on(suite.read_pool.account("cid")), Ok(None));
    let seen = Person { user_id: user("tok"), username: "Tok".into() };
    let people = vec![seen.clone(), seen];
    assert!(suite.one(Write::Seen { people, at_ms: 9 }).is_ok());
    assert_eq!(block_on(suite.read_pool.account("Tok")), Ok(None), "a token is no account");
    suite.store.close(RegistryDelta::default());
    let (_suite, snapshot) = backend.open().expect("opens again");
    let mut known: Vec<&str> =
        snapshot.people.users.iter().map(|one| one.user_id.as_str()).collect();
    known.sort_unstable();
    assert_eq!(known, ["id-of-Ann", "id-of-bob", "tok"]);
}

fn names_that_meet_in_one_form_are_one_name(backend: &Backend) {
    let (suite, _) = backend.open().expect("opens");
    let code_of = |name: &str| code(suite.one(account(name)));
    assert_eq!(suite.one(account("fish")), Ok(Written::Done));
    for other in ["\u{fb01}sh", "FISH", "\u{ff46}ish", "f\u{131}sh"] {
        assert_eq!(code_of(other), Code::Conflict, "{other}");
    }
    let people = vec![Person { user_id: user("Tok"), username: "T".into() }];
    assert!(suite.one(Write::Seen { people, at_ms: 9 }).is_ok());
    for id in ["Tok", "tok", "t0k"] {
        assert_eq!(code_of(id), Code::Conflict, "the id of a user: {id}");
    }
    let found = block_on(suite.read_pool.account("\u{ff26}ISH")).expect("asked").expect("there");
    assert_eq!(found.username, "fish");
}

/// A name and an id of another user that are one text: what an older release allowed.
fn an_account_is_named_by_its_id_or_its_name(backend: &Backend) {
    let (suite, _) = backend.open().expect("opens");
    let mut accounts = Accounts::open(&backend.address()).expect("opens");
    let called_bob = accounts.add("bob", None, "hash", None, 5).expect("added");
    let people = vec![Person { user_id: user("bob"), username: "Robert".into() }];
    assert!(suite.one(Write::Seen { people, at_ms: 9 }).is_ok());
    let state = |id: &UserId| {
        let account = block_on(suite.read_pool.account_of(id)).expect("asked").expect("there");
        (account.standing, account.scope, account.password_hash)
    };
    let before = (state(&called_bob), state(&user("bob")));
    let either = Who::Either("bob".into());
    for fault in [
        accounts.set_disabled(&either, true, 10),
        accounts.set_scope(&either, "admin", 10).map(|(user_id, _)| user_id),
        accounts.set_password(&either, "other", 10),
        accounts.end_tokens(&either, 10),
    ] {
        let fault = fault.expect_err("two accounts");
        assert!(fault.contains("--id") && fault.contains("--name"), "{fault}");
        assert!(fault.contains(called_bob.as_str()) && fault.contains("Robert"), "{fault}");
    }
    assert_eq!((state(&called_bob), state(&user("bob"))), before, "nothing changed");
    let done = accounts.set_disabled(&Who::Id("bob".into()), true, 10).expect("by id");
    assert_eq!(done, user("bob"));
    let done = accounts.set_scope(&Who::Name("Bob".into()), "admin", 10).expect("by name");
    assert_eq!(done, (called_bob.clone(), false), "what it had is in it");
    assert!(state(&user("bob")).0.is_disabled && !state(&called_bob).0.is_disabled);
    assert!(accounts.set_disabled(&Who::Id(String::from("BOB")), true, 10).is_err(), "no such id");
    assert!(accounts.set_password(&Who::Id("bob".into()), "h", 10).is_err(), "it has no name");
    let one = Who::Either(called_bob.to_string());
    assert_eq!(accounts.set_disabled(&one, true, 10), Ok(called_bob));
}

fn tokens_are_ended_one_by_one_and_all_at_once(backend: &Backend) {
    let (suite, _) = backend.open().expect("opens");
    assert_eq!(suite.one(account("Ann")), Ok(Written::Done));
    let ann = || Person { user_id: user("id-of-Ann"), username: "Ann".into() };
    let standing = || {
        let found = block_on(suite.read_pool.account_of(&user("id-of-Ann"))).expect("asked");
        found.expect("there").standing
    };
    let kept = TokenId::of_jti("kept");
    let set = |old: &str, new: &str, at_ms| {
        suite.one(Write::SetPassword {
            user_id: user("id-of-Ann"),
            old_hash: old.into(),
            password_hash: new.into(),
            kept_token: Some(kept),
            at_ms,
        })
    };
    assert_eq!(set("$argon2id$...", "one", 1_000), Ok(Written::Done));
    assert_eq!((standing().tokens_from_ms, standing().kept_token), (1_000, Some(kept)));
    assert_eq!(
        code(set("$argon2id$...", "two", 1_001)),
        Code::Conflict,
        "it was another one by then"
    );
    assert_eq!(standing().tokens_from_ms, 1_000);
    // By a clock that is behind.
    assert_eq!(set("one", "two", 10), Ok(Written::Done));
    assert_eq!(standing().tokens_from_ms, 1_001);
    assert!(suite.one(Write::EndTokens { person: ann(), at_ms: 5_000 }).is_ok());
    assert_eq!((standing().tokens_from_ms, standing().kept_token), (5_000, None));
    // Of a user who is not in the database yet.
    let tok = Person { user_id: user("tok"), username: "Tok".into() };
    assert!(suite.one(Write::EndTokens { person: tok, at_ms: 6_000 }).is_ok());

    let end = |number: usize, expires_s| Write::EndToken {
        person: ann(),
        token: TokenId::of_jti(&number.to_string()),
        expires_s,
        at_ms: 7_000,
    };
    let max = limits::REVOKED_TOKENS_PER_USER_MAX;
    let results = suite.execute((0..max).map(|number| end(number, u64::MAX)).collect());
    assert!(results.iter().all(Result::is_ok));
    assert!(suite.one(end(0, u64::MAX)).is_ok(), "one that was ended before");
    assert_eq!(standing().tokens_from_ms, 5_000);
    assert!(suite.one(end(max, 9)).is_ok());
    assert_eq!(standing().tokens_from_ms, 7_000, "no room for one more: all of them");
    assert!(suite.one(end(max, u64::MAX)).is_ok());
    suite.store.close(RegistryDelta::default());

    let (_suite, snapshot) = backend.open().expect("opens again");
    let tokens = &snapshot.people.ended_tokens;
    assert_eq!(tokens.len(), 1, "those of before are covered by the stamp");
    assert_eq!(
        (tokens[0].id, &tokens[0].user_id),
        (TokenId::of_jti(&max.to_string()), &Some(user("id-of-Ann")))
    );
    let mut ends = snapshot.people.users.iter();
    let tok = ends.find(|one| one.user_id.as_str() == "tok").expect("tok is known");
    assert_eq!(tok.standing.tokens_from_ms, 6_000);
}

fn accounts_have_scopes(backend: &Backend) {
    let (suite, _) = backend.open().expect("opens");
    let mut accounts = Accounts::open(&backend.address()).expect("opens");
    let scope_of =
        |name: &str| block_on(suite.read_pool.account(name)).expect("found").expect("there").scope;
    let id = accounts.add("Ann", None, "hash", Some("registry:write"), 5).expect("added");
    assert_eq!(scope_of("ann").as_deref(), Some("registry:write"));
    accounts.add("bob", None, "hash", None, 5).expect("added");
    assert_eq!(scope_of("bob"), None);
    assert!(accounts.add("ANN", None, "hash", Some("admin"), 6).is_err(), "the name is taken");
    assert_eq!(scope_of("ann").as_deref(), Some("registry:write"), "and nothing changed");
    accounts.set_scope(&Who::Id(id.to_string()), "publish admin", 7).expect("set by id");
    assert_eq!(scope_of("ann").as_deref(), Some("publish admin"));
    accounts.set_scope(&Who::Name("aNN".into()), " ", 8).expect("set by name");
    assert_eq!(scope_of("ann"), None);
    assert!(accounts.set_scope(&Who::Either("cid".into()), "admin", 9).is_err());
}

fn accounts_are_removed(backend: &Backend) {
    let (suite, _) = backend.open().expect("opens");
    let mut accounts = Accounts::open(&backend.address()).expect("opens");
    let [ann, bob] = ["ann", "bob"]
        .map(|name| accounts.add(name, Some("a@b.org"), "hash", Some("admin"), 5).expect("added"));
    let group = |id: &str, owner: &UserId, others: &[&UserId]| Write::CreateGroup {
        group_id: id.into(),
        name: id.into(),
        owner: owner.clone(),
        members: std::iter::once(owner).chain(others.iter().copied()).cloned().collect(),
        invited: Vec::new(),
        at_ms: 5,
    };
    let made = suite.execute(vec![
        group("shared", &ann, &[&bob]),
        group("alone", &ann, &[]),
        group("bobs", &bob, &[&ann]),
        private(1, ann.as_str(), bob.as_str()),
    ]);
    assert!(made.iter().all(Result::is_ok), "{made:?}");

    assert_eq!(accounts.remove(&Who::Name("Ann".into()), 9_000), Ok(ann.clone()));
    assert!(accounts.remove(&Who::Id(ann.to_string()), 9_001).is_err(), "there is none");
    assert_eq!(accounts.list().expect("a list").len(), 1);
    assert_eq!(block_on(suite.read_pool.account("ann")).expect("asked"), None);
    let left = block_on(suite.read_pool.account_of(&ann)).expect("asked").expect("its tokens end");
    assert!(left.is_removed() && left.standing.is_disabled && left.email.is_none());
    assert!(left.standing.tokens_from_ms >= 9_000 && left.scope.is_none());
    let shared = block_on(suite.read_pool.group("shared", &bob)).expect("it goes on");
    assert_eq!((shared.owner, shared.members), (bob.clone(), vec![bob.clone()]));
    let own = block_on(suite.read_pool.group("bobs", &bob)).expect("it goes on");
    assert_eq!((own.owner, own.members), (bob.clone(), vec![bob.clone()]));
    assert!(block_on(suite.read_pool.group("alone", &ann)).is_err(), "nobody is left in it");
    let again = accounts.add("ann", None, "hash", None, 10_000).expect("the name is free");
    assert_ne!(again, ann);

    // One who never had a password is back with a newer token.
    let eve = Person { user_id: user("eve"), username: "Eve".into() };
    let seen = |at_ms| Write::Seen { people: vec![eve.clone()], at_ms };
    assert!(suite.one(seen(11_000)).is_ok());
    assert!(accounts.remove(&Who::Id("eve".into()), 12_000).is_ok());
    let account =
        || block_on(suite.read_pool.account_of(&eve.user_id)).expect("asked").expect("a row");
    assert!(account().is_removed() && !account().standing.is_disabled);
    assert!(suite.one(seen(13_000)).is_ok());
    assert_eq!((account().username.as_str(), account().is_removed()), ("Eve", false));
    suite.store.close(RegistryDelta::default());
    let (_suite, snapshot) = backend.open().expect("opens again");
    let removed = snapshot.people.users.iter().filter(|one| one.is_removed);
    assert_eq!(removed.map(|one| one.user_id.clone()).collect::<Vec<_>>(), [ann]);
}

fn groups_have_their_rules(backend: &Backend) {
    let (suite, _) = backend.open().expect("opens");
    let results = suite.execute(vec![
        create("g", &["ann", "bob"]),
        to_group(1, "bob", "g"),
        to_group(2, "eve", "g"),
        to_group(3, "ann", "none"),
        Write::AddMember { group_id: "g".into(), user_id: user("cid"), by: user("ann") },
        to_group(4, "cid", "g"),
        Write::RemoveMember { group_id: "g".into(), user_id: user("bob"), by: user("ann") },
        to_group(5, "bob", "g"),
        to_group(6, "ann", "g"),
    ]);
    assert_eq!(results[1], Ok(Written::For(vec![user("ann"), user("bob")])));
    assert_eq!(code(results[2].clone()), Code::Forbidden);
    assert_eq!(code(results[3].clone()), Code::NotFound);
    assert_eq!(results[5], Ok(Written::For(vec![user("ann"), user("bob"), user("cid")])));
    assert_eq!(code(results[7].clone()), Code::Forbidden);
    assert_eq!(results[8], Ok(Written::For(vec![user("ann"), user("cid")])));
    assert_eq!(suite.pulled("bob", None), ["g1", "g4"]);
    assert_eq!(suite.pulled("cid", None), ["g4", "g6"]);
    let add = |by: &str, who: &str| {
        suite.one(Write::AddMember { group_id: "g".into(), user_id: user(who), by: user(by) })
    };
    assert_eq!(code(add("cid", "eve")), Code::Forbidden);
    assert_eq!(add("ann", "cid"), Ok(Written::Unchanged));
    let remove = |by: &str, who: &str| {
        suite.one(Write::RemoveMember { group_id: "g".into(), user_id: user(who), by: user(by) })
    };
    assert_eq!(code(remove("ann", "eve")), Code::NotFound);
    assert_eq!(remove("ann", "ann"), Ok(Written::Done));
    let group = block_on(suite.read_pool.group("g", &user("cid"))).expect("still there");
    assert_eq!((group.owner, group.members), (user("cid"), vec![user("cid")]));
    assert_eq!(block_on(suite.read_pool.groups(&user("cid"))).map(|all| all.len()), Ok(1));
    assert_eq!(remove("cid", "cid"), Ok(Written::Done));
    let gone = block_on(suite.read_pool.group("g", &user("cid"))).expect_err("nobody is left");
    assert_eq!(gone.code, Code::NotFound);
    let delete = |by: &str| suite.one(Write::DeleteGroup { group_id: "h".into(), by: user(by) });
    assert!(suite.one(create("h", &["ann", "bob"])).is_ok());
    assert_eq!((code(delete("bob")), code(delete("eve"))), (Code::Forbidden, Code::Forbidden));
    assert_eq!(delete("ann"), Ok(Written::Done));
    assert_eq!(code(delete("ann")), Code::NotFound);
}

fn nobody_is_a_member_before_accepting(backend: &Backend) {
    let (suite, _) = backend.open().expect("opens");
    let Write::CreateGroup { group_id, name, owner, members, at_ms, .. } = create("g", &["ann"])
    else {
        panic!("a group");
    };
    let invited = vec![user("bob"), user("cid")];
    let made = Write::CreateGroup { group_id, name, owner, members, invited, at_ms };
    assert_eq!(suite.one(made), Ok(Written::Done));
    let answer = |who: &str, accepts: bool| {
        let (group_id, user_id) = ("g".to_owned(), user(who));
        suite.one(Write::AnswerInvitation { group_id, user_id, accepts })
    };
    let invite = |group: &str, by: &str, who: &str, at_ms: u64| Write::Invite {
        group_id: group.to_owned(),
        user_id: user(who),
        by: user(by),
        at_ms,
    };
    let open = |who: &str| block_on(suite.read_pool.invitations(&user(who))).expect("a list");
    assert_eq!(code(suite.one(to_group(1, "bob", "g"))), Code::Forbidden);
    assert_eq!(suite.one(to_group(2, "ann", "g")), Ok(Written::For(vec![user("ann")])));
    let [one] = &open("bob")[..] else { panic!("one invitation") };
    assert_eq!((&*one.group_id, &*one.name, one.invited_ms), ("g", "team", 5));
    assert_eq!((&one.owner, &one.invited_by), (&user("ann"), &user("ann")));
    // In one transaction the order counts.
    let results = suite.execute(vec![
        Write::AnswerInvitation { group_id: "g".into(), user_id: user("bob"), accepts: true },
        to_group(3, "bob", "g"),
        invite("g", "ann", "bob", 6),
        invite("g", "bob", "eve", 6),
        invite("g", "ann", "eve", 6),
        invite("g", "ann", "eve", 7),
        invite("g\0", "ann", "eve", 7),
        Write::AnswerInvitation { group_id: "g\0".into(), user_id: user("eve"), accepts: true },
    ]);
    assert_eq!(results[0], Ok(Written::Done));
    assert_eq!(results[1], Ok(Written::For(vec![user("ann"), user("bob")])));
    assert_eq!(results[2], Ok(Written::Unchanged));
    assert_eq!(code(results[3].clone()), Code::Forbidden);
    assert_eq!(results[4..6], [Ok(Written::Invited), Ok(Written::Invited)]);
    assert_eq!(code(results[6].clone()), Code::NotFound);
    assert_eq!(code(results[7].clone()), Code::NotFound);
    assert_eq!((open("eve").len(), open("eve")[0].invited_ms), (1, 6), "the older one counts");
    assert_eq!(answer("cid", false), Ok(Written::Done));
    assert_eq!(code(answer("cid", true)), Code::NotFound);
    let group = block_on(suite.read_pool.group("g", &user("ann"))).expect("it is there");
    assert_eq!((group.members, group.invited), (vec![user("ann"), user("bob")], vec![user("eve")]));
    // Strangers send invitations: one user holds so many, and each group is full with those invited.
    let many = |number: usize| format!("h{number}");
    let groups = (0..fanfare::internals::limits::INVITATIONS_PER_USER_MAX - 1).map(|number| {
        let owner = format!("o{}", number % 50);
        create(&many(number), &[&*owner])
    });
    assert!(suite.execute(groups.collect()).iter().all(Result::is_ok));
    let invites = (0..fanfare::internals::limits::INVITATIONS_PER_USER_MAX - 1)
        .map(|number| invite(&many(number), &format!("o{}", number % 50), "eve", 8));
    assert!(suite.execute(invites.collect()).iter().all(Result::is_ok));
    assert_eq!(open("eve").len(), fanfare::internals::limits::INVITATIONS_PER_USER_MAX);
    assert!(suite.one(create("late", &["ann"])).is_ok());
    assert_eq!(code(suite.one(invite("late", "ann", "eve", 9))), Code::RateLimited);
    assert_eq!(answer("eve", true), Ok(Written::Done));
    assert_eq!(suite.one(invite("late", "ann", "eve", 9)), Ok(Written::Invited));
    // Deleting a group takes its invitations along.
    let delete = Write::DeleteGroup { group_id: "late".into(), by: user("ann") };
    assert_eq!(suite.one(delete), Ok(Written::Done));
    assert_eq!(open("eve").len(), fanfare::internals::limits::INVITATIONS_PER_USER_MAX - 1);
}

fn a_group_that_cannot_be_costs_nobody_else(backend: &Backend) {
    let (suite, _) = backend.open().expect("opens");
    // PostgreSQL takes no text with a NUL, and would refuse the whole transaction for it.
    let results = suite.execute(vec![
        private(1, "a", "b"),
        to_group(2, "a", "\0"),
        Write::DeleteGroup { group_id: "g\0".into(), by: user("a") },
    ]);
    assert_eq!(results[0], Ok(Written::Done));
    assert_eq!(
        (code(results[1].clone()), code(results[2].clone())),
        (Code::NotFound, Code::NotFound)
    );
    let group = block_on(suite.read_pool.group("\0", &user("a"))).map_err(|refusal| refusal.code);
    assert!(matches!(group, Err(Code::NotFound)));
}

fn changes_of_accounts_are_heard_of(backend: &Backend) {
    let (tell, heard) = crossbeam_channel::unbounded();
    let (tell_tokens, heard_tokens) = crossbeam_channel::unbounded();
    let (tell_stored, stored) = crossbeam_channel::unbounded();
    let listeners = Listeners {
        on_stored: Box::new(move |results| _ = tell_stored.send(results)),
        on_accounts: Box::new(move |changes| _ = tell.send(changes)),
        on_tokens: Box::new(move |tokens| _ = tell_tokens.send(tokens)),
    };
    let (store, _) = Store::open(backend.url.as_deref(), &backend.dir, listeners).expect("opens");
    let suite = Suite { read_pool: store.read_pool(), store, stored };
    // More in one millisecond than one look at them takes.
    let person = |n| Person { user_id: user(&format!("u{n}")), username: "U".into() };
    let people = (0..25_000).map(person).collect();
    assert!(suite.one(Write::Seen { people, at_ms: 1_000_000 }).is_ok());
    let mut accounts = Accounts::open(&backend.address()).expect("opens");
    let hears = |who: &str| {
        eventually(&format!("{who} is heard of"), Duration::from_secs(10), || {
            let mut changes = heard.try_iter().flatten();
            changes.any(|change| change.user_id.as_str() == who && change.standing.is_disabled)
        });
    };
    accounts.set_disabled(&Who::Id("u7".into()), true, 1_000_001).expect("disabled");
    hears("u7");
    // By a clock that is far behind.
    accounts.set_disabled(&Who::Id("u8".into()), true, 5).expect("disabled");
    hears("u8");
    let is_there =
        |id: &str| block_on(suite.read_pool.account_of(&user(id))).expect("asked").is_some();
    assert!(is_there("u24999") && !is_there("v") && !is_there("\0"));
    let token = TokenId::of_jti("t");
    accounts.end_token(token, Some(&user("u9")), 2_000, 5).expect("revoked");
    eventually("the token is heard of", Duration::from_secs(10), || {
        heard_tokens.try_iter().flatten().any(|one: EndedToken| one.id == token)
    });
}

fn a_journal_has_no_place_where_there_is_one_server(backend: &Backend) {
    let (suite, _) = backend.open().expect("opens");
    assert_eq!(code(suite.one(Write::JournalRun(Vec::new()))), Code::Internal);
}

fn channels_are_remembered(backend: &Backend) {
    let (suite, _) = backend.open().expect("opens");
    let define = |name: &str| Write::DefineChannel {
        channel: ChannelName::new(name),
        description: format!("about {name}"),
        at_ms: 5,
    };
    assert!(suite.execute(vec![define("a"), define("b")]).iter().all(Result::is_ok));
    assert!(suite.one(Write::DropChannel { channel: ChannelName::new("a") }).is_ok());
    suite.store.close(RegistryDelta::default());
    let (_suite, snapshot) = backend.open().expect("opens again");
    assert_eq!(snapshot.people.channels, [(String::from("b"), String::from("about b"))]);
}

fn one_server_at_a_time(backend: &Backend) {
    let (suite, _) = backend.open().expect("opens");
    let Err(fault) = backend.open() else { panic!("opened twice") };
    assert!(matches!(fault, StoreError::InUse(_)), "{fault}");
    suite.store.close(RegistryDelta::default());
    eventually("the database is free again", Duration::from_secs(5), || backend.open().is_ok());
}

fn a_server_runs_on_it(backend: &Backend) {
    let mut flags = Vec::new();
    if let Some(url) = &backend.url {
        flags.extend(["--database-url", url]);
    }
    let mut server = Server::start_for_people(&flags);
    let instance = support::instance("s", "i");
    server.register(std::slice::from_ref(&instance));
    let reply = server
        .post_json("/api/v1/users/register", &json!({"username": "ann", "password": "12345678"}));
    assert_eq!(reply.status, 201, "{}", reply.text);
    server.call("GET", "/ws/online", &token("bob", ""), &Value::Null);
    let body = json!({"to_user_id": "bob", "content": "hi"});
    assert_eq!(server.call("POST", "/api/v1/messages", &token("ann", ""), &body).status, 201);
    assert!(server.stop().success());
    server.restart();
    let pulled = server.call("GET", "/api/v1/messages", &token("bob", ""), &Value::Null).body;
    assert_eq!(pulled["messages"][0]["content"], "hi");
    assert_eq!(server.discover("s")["instances"][0]["instanceId"], "i");
}

macro_rules! suite {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[test] fn $name() { super::$name(&super::Backend::sqlite()); })*
        }
        mod postgres {
            $(#[test] fn $name() {
                if let Some(backend) = super::Backend::postgres() { super::$name(&backend); }
            })*
        }
    };
}

suite!(
    registry_survives_a_clean_stop,
    messages_are_pulled_in_order_and_once,
    names_are_given_out_once,
    names_that_meet_in_one_form_are_one_name,
    an_account_is_named_by_its_id_or_its_name,
    tokens_are_ended_one_by_one_and_all_at_once,
    accounts_have_scopes,
    accounts_are_removed,
    groups_have_their_rules,
    nobody_is_a_member_before_accepting,
    a_group_that_cannot_be_costs_nobody_else,
    changes_of_accounts_are_heard_of,
    a_journal_has_no_place_where_there_is_one_server,
    channels_are_remembered,
    one_server_at_a_time,
    a_server_runs_on_it,
);

/// The connection to the server is cut, as a restart or a failover of it does.
#[test]
fn a_lost_connection_is_opened_again() {
    let Some(url) = pg::fresh() else { return };
    let server = Server::start_for_people(&["--database-url", &url]);
    server.call("GET", "/ws/online", &token("bob", ""), &Value::Null);
    let send = || {
        let body = json!({"to_user_id": "bob", "content": "hi"});
        server.call("POST", "/api/v1/messages", &token("ann", ""), &body).status
    };
    assert_eq!(send(), 201);
    pg::cut(&url);
    eventually("messages are taken again", Duration::from_secs(10), || match send() {
        201 => true,
        status => {
            assert_eq!(status, 503, "refused with the right word");
            false
        }
    });
    eventually("and the server is ready", Duration::from_secs(10), || {
        server.get("/ready").status == 200
    });
    let pulled = server.call("GET", "/api/v1/messages", &token("bob", ""), &Value::Null);
    assert_eq!(pulled.status, 200, "{}", pulled.text);
}
