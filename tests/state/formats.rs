//! What nodes write for each other: nodes of the release before read it, and it reads theirs.

use fanfare::internals::id::UserId;
use fanfare::internals::limits;
use fanfare::internals::state::entry::{Entry, RegistryEntry, decode, encode};
use fanfare::internals::state::journal::DirectMessage;
use fanfare::internals::state::snapshot::{InstanceRecord, PullOutRecord, ServiceRecord, Snapshot};

#[test]
fn entries_of_the_log_stay() {
    for text in [
        r#"{"register":{"list":[{"id":"\u001fpay\u001fa","service":"pay","ttl_ms":5000,"instance":{"serviceId":"Pay","metadata":{"k":[1]}}}],"bounds":{"instances_max":9,"services_max":3,"instances_bytes_max":900}}}"#,
        r#"{"put":{"registration":{"id":"\u001fpay\u001fa","service":"pay","ttl_ms":null,"instance":{}},"expected":"{\"a\":1}","pull":"in_if_itself","bounds":{"instances_max":9,"services_max":3,"instances_bytes_max":900}}}"#,
        r#"{"renew":["\u001fpay\u001fa"]}"#,
        r#"{"beat":"\u001fpay\u001fa"}"#,
        r#"{"adopt":["\u001fpay\u001fa","\u001fpay\u001fb"]}"#,
        r#"{"unregister":[]}"#,
        r#"{"overdue":[["\u001fpay\u001fa",7]]}"#,
        r#"{"judge":{"services":[["pay",5]],"self_protection_max_ms":9,"over":[true]}}"#,
        r#"{"judge":{"services":[["pay",5]],"self_protection_max_ms":9}}"#,
        r#"{"forget":[["pay",12]]}"#,
        r#"{"operate":{"identity":"\u001fpay\u001fa","operator":"ops"}}"#,
        r#"{"operate":{"identity":"\u001fpay\u001fa","operator":"ops","user":"u"}}"#,
        r#"{"operate":{"identity":"\u001fpay\u001fa","operator":null}}"#,
        r#"{"protect":{"service":"pay","enabled":false}}"#,
        r#"{"present":{"users":[["u","Ann",2,5]],"channels":[["c",3]],"rooms":[["chat:r","u","Ann",null],["chat:r","v","Bo",7]],"known":["v"]}}"#,
        r#"{"farewell":"n"}"#,
        r#"{"define":{"channel":"c","description":"x"}}"#,
        r#"{"drop":"c"}"#,
    ] {
        let entry = decode(text).expect(text);
        assert_eq!(encode(&entry).as_deref(), Some(text));
    }
    let earlier = r#"{"register":{"list":[],"bounds":{"instances_max":1,"services_max":2}}}"#;
    let Ok(Entry::Registry(RegistryEntry::Register { bounds, .. })) = decode(earlier) else {
        panic!("of no earlier release")
    };
    assert_eq!(bounds.instances_bytes_max, usize::MAX);
    assert!(decode("{\"future\":1}").is_err() && decode("").is_err());
}

#[test]
fn counts_from_which_nobody_could_go_on_are_refused() {
    for text in [
        r#"{"forget":[["s",18446744073709551615]]}"#,
        r#"{"judge":{"services":[],"self_protection_max_ms":18446744073709551615}}"#,
        r#"{"register":{"list":[{"id":"i","service":"s","ttl_ms":9007199254740993,
            "instance":{}}],"bounds":{"instances_max":1,"services_max":2}}}"#,
    ] {
        let refused = decode(text).expect_err(text);
        assert!(refused.contains("out of range"), "{refused}");
    }
    assert!(decode(r#"{"forget":[["s",9007199254740992]]}"#).is_ok());
    let text = r#"{"format":1,"position":"5-0","sequence":9007199254740993,"epoch":"e",
        "version":7,"services":[],"instances":[],"pull_outs":[],"nodes":[]}"#;
    let refused = Snapshot::read(text.as_bytes()).expect_err("out of range");
    assert!(refused.contains("sequence"), "{refused}");
}

/// A snapshot of the first release, as its nodes wrote it, and one of the second.
#[test]
fn snapshots_of_earlier_releases_are_read() {
    let first = br#"{"format":1,"position":"5-0","sequence":5,"epoch":"e","version":7,
        "services":[{"service":"s","revision":3,"protection_enabled":true,
        "degraded_since_ms":null,"watch":4}],"instances":[{"id":"\u001fs\u001fi","service":"s",
        "json":"{\"serviceId\":\"s\"}","ttl_ms":20000,"owner":"n","lease":5,"is_overdue":false}],
        "pull_outs":[["a","itself"],["b","ann"]],"nodes":[["n",5]]}"#;
    let snapshot = Snapshot::read(first).expect("it is read");
    let by_itself = |record: &PullOutRecord| (record.by_itself, record.operator.clone());
    let pull_outs: Vec<_> = snapshot.pull_outs.iter().map(by_itself).collect();
    assert_eq!(pull_outs, [(true, String::new()), (false, String::from("ann"))]);
    assert_eq!((snapshot.revision_floor, snapshot.services[0].watch), (0, Some(4)));
    assert_eq!(snapshot.instances[0].json, r#"{"serviceId":"s"}"#);

    let second = r#"{"format":1,"position":"5-0","sequence":5,"epoch":"e","version":7,"services":[{"service":"s","revision":3,"protection_enabled":true,"degraded_since_ms":null,"watch":4,"empty_since_ms":9}],"instances":[{"id":"\u001fs\u001fi","service":"s","json":"{\"serviceId\":\"s\"}","ttl_ms":20000,"owner":"n","lease":5,"is_overdue":true}],"revision_floor":2,"pull_outs":[["a","itself"],["b","itself"]],"own_pull_outs":["a"],"pull_out_users":{"b":"u"},"nodes":[["n",5]],"people":{"nodes":[["n",{"users":[["u","Ann",1,5]]}]],"channels":[["c","x"]],"known":["v"]}}"#;
    let snapshot = Snapshot::read(second.as_bytes()).expect("it is read");
    assert_eq!(by_itself(&snapshot.pull_outs[1]), (false, String::from("itself")));
    assert_eq!(snapshot.pull_outs[1].user_id.as_deref(), Some("u"));
    let written = serde_json::to_string(&snapshot).expect("it is written");
    assert_eq!(written, second, "nodes of the release before read it");
}

#[test]
fn messages_of_the_journal_stay() {
    let user = UserId::new;
    for text in [
        r#"{"from":"a","to":"b","content":"hi\n"}"#,
        r#"{"from":"a","group":"g","members":["a","b"],"content":"hi"}"#,
    ] {
        let message = DirectMessage::decode(text).expect(text);
        assert_eq!(message.encode(), text);
        let is_of = |name: &str| message.is_of(&user(name));
        assert!(is_of("a") && is_of("b") && !is_of("c"));
    }
    for wrong in ["", "{}", r#"{"from":"a","to":"b","group":"g","content":""}"#] {
        assert!(DirectMessage::decode(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_log_that_begins_gives_all_leases_and_watches_its_first_number() {
    let lease = InstanceRecord { lease: 15, ..InstanceRecord::default() };
    let watches = [None, Some(7)].map(|watch| ServiceRecord { watch, ..Default::default() });
    let (instances, services) = (vec![lease], watches.to_vec());
    let mut snapshot = Snapshot { sequence: 20, instances, services, ..Snapshot::default() };
    snapshot.begin_log("e");
    let first = snapshot.sequence;
    assert!(first >= limits::LOG_GAP && first.is_multiple_of(limits::LOG_GAP));
    let watches: Vec<_> = snapshot.services.iter().map(|service| service.watch).collect();
    assert_eq!((snapshot.instances[0].lease, watches), (first, vec![None, Some(first)]));
    assert_eq!(&*snapshot.epoch, "e");
    // However often that happens, every reader of JSON can hold the number.
    snapshot.sequence = limits::COUNTER_MAX - 1;
    snapshot.begin_log("f");
    assert!(snapshot.sequence <= limits::COUNTER_MAX / 2);
}
