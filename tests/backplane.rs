//! Requests of nodes to Redis and to each other, with a real Redis that dies, stalls and loses
//! data.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use bytes::Bytes;
use fanfare::internals::clock::Clock;
use fanfare::internals::cluster::{
    BackplaneRequest, BackplaneResponse, ChannelMessage, ChannelState, Cluster, Journal,
    MessagePosition, News, SequencedMessage, Setup, TlsFiles,
};
use fanfare::internals::id::{ChannelName, MessageId, UserId};
use fanfare::internals::limits;
use fanfare::internals::rng::Rng;
use fanfare::internals::state::journal::{Addressee, DirectMessage, JournalEntry};
use fanfare::internals::state::snapshot::Snapshot;
use fanfare::internals::stats::Stats;
use fanfare_test_support::eventually;
use fanfare_test_support::proxy::{Fault, FaultyProxy};
use fanfare_test_support::redis::Redis;
use redis::{Client, Script, Value};

const JOURNAL: &str = "fanfare:{messages}:journal";
const JOURNAL_SEQUENCE: &str = "fanfare:{messages}:sequence";
const EPOCH: &str = "fanfare:{registry}:epoch";
const SNAPSHOT: &str = "fanfare:{registry}:image";

const PATIENCE: Duration = Duration::from_secs(20);

/// A node without a server, and what it was told.
struct Node {
    cluster: Cluster,
    stats: Arc<Stats>,
    news: Receiver<News>,
    calls: u64,
    replies: HashMap<u64, BackplaneResponse>,
    placed: Vec<SequencedMessage>,
    entries: Vec<JournalEntry>,
    asked: Vec<(String, u64, String)>,
    relinks: usize,
    gaps: usize,
    /// The last that was said of the journal.
    written: Option<MessageId>,
}

impl Node {
    fn start(redis: &Redis, name: &str) -> Node {
        Node::with_journal(redis, name, Journal::Closed)
    }

    fn with_journal(redis: &Redis, name: &str, journal: Journal) -> Node {
        Node::start_at(redis.url(), redis, name, journal)
    }

    /// Starts one that finds Redis under a URL, and waits until it hears its topic.
    fn start_at(url: String, redis: &Redis, name: &str, journal: Journal) -> Node {
        let (sender, news) = channel();
        let stats = Arc::new(Stats::new(1));
        let setup = Setup {
            url,
            tls: TlsFiles::default(),
            node: name.into(),
            clock: Clock::start(),
            stats: Arc::clone(&stats),
            journal,
            tell: Arc::new(move |news| drop(sender.send(news))),
            about: Arc::new(|| String::from("{}")),
        };
        let cluster = Cluster::start(setup).expect("it starts");
        let topic = format!("fanfare:node:{{{name}}}");
        eventually("it is heard", PATIENCE, || redis.ask(&["PUBLISH", &topic, "probe"]) == 1);
        Node {
            cluster,
            stats,
            news,
            calls: 0,
            replies: HashMap::new(),
            placed: Vec::new(),
            entries: Vec::new(),
            asked: Vec::new(),
            relinks: 0,
            gaps: 0,
            written: None,
        }
    }

    /// Takes news until something is so.
    fn until(&mut self, what: &str, mut is_so: impl FnMut(&mut Node) -> bool) {
        let clock = Clock::start();
        while !is_so(self) {
            assert!(clock.now().ns < u64::try_from(PATIENCE.as_nanos()).unwrap(), "not so: {what}");
            match self.news.recv_timeout(Duration::from_millis(20)) {
                Ok(news) => self.take(news),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => panic!("the backplane ended"),
            }
        }
    }

    fn take(&mut self, news: News) {
        match news {
            News::Response { number, reply } => {
                assert!(self.replies.insert(number, reply).is_none(), "{number} is told twice");
            }
            News::ChannelMessages(placed) => self.placed.extend(placed),
            News::JournalEntries(entries) => self.entries.extend(entries),
            News::Asked { node, number, question } => self.asked.push((node, number, question)),
            News::Relinked => self.relinks += 1,
            News::JournalGap => self.gaps += 1,
            News::Nodes { written, .. } => self.written = written,
            _ => {}
        }
    }

    fn call(&mut self, call: BackplaneRequest) -> u64 {
        self.calls += 1;
        assert!(self.cluster.call(self.calls, call));
        self.calls
    }

    fn reply(&mut self, number: u64) -> BackplaneResponse {
        self.until("there is a reply", |node| node.replies.contains_key(&number));
        self.replies.remove(&number).expect("it was seen")
    }

    fn ask(&mut self, call: BackplaneRequest) -> BackplaneResponse {
        let number = self.call(call);
        self.reply(number)
    }

    fn attach(&mut self, name: &str) -> ChannelState {
        let channel = ChannelName::new(name);
        match self.ask(BackplaneRequest::Attach { channel, epoch: String::from("first") }) {
            BackplaneResponse::Channel(Some(state)) => state,
            other => panic!("{other:?}"),
        }
    }

    fn read(&mut self, name: &str, after: u64, limit: usize) -> Option<ChannelState> {
        let channel = ChannelName::new(name);
        match self.ask(BackplaneRequest::Read { channel, after, limit, epoch: None }) {
            BackplaneResponse::Channel(state) => state,
            other => panic!("{other:?}"),
        }
    }

    /// Publishes, and returns epoch and offset where that succeeds.
    fn publish(&mut self, name: &str, text: &str, history_max: usize) -> Option<(String, u64)> {
        match self.ask(publish(name, text, history_max)) {
            BackplaneResponse::Published(MessagePosition { epoch, offset, at_ms }) => {
                assert!(at_ms > 1_600_000_000_000);
                Some((epoch, offset))
            }
            BackplaneResponse::Failed => None,
            other => panic!("{other:?}"),
        }
    }

    fn post(&mut self, content: &str) -> (MessageId, u64) {
        match self.ask(BackplaneRequest::AppendToJournal { text: post(content).encode() }) {
            BackplaneResponse::Journaled { id, sequence } => (id, sequence),
            other => panic!("{other:?}"),
        }
    }
}

fn publish(name: &str, text: &str, history_max: usize) -> BackplaneRequest {
    let message = ChannelMessage {
        channel: ChannelName::new(name),
        text: Bytes::copy_from_slice(text.as_bytes()),
        except: None,
    };
    let (epoch, history_bytes_max) = (String::from("second"), 10_000);
    BackplaneRequest::Publish { message, epoch, history_max, history_bytes_max, history_ms: 60_000 }
}

fn post(content: &str) -> DirectMessage {
    let to = Addressee::User(UserId::new("b"));
    DirectMessage { from: UserId::new("a"), to, content: content.to_owned() }
}

fn offsets(placed: &[SequencedMessage]) -> Vec<u64> {
    placed.iter().map(|placed| placed.offset).collect()
}

#[test]
fn messages_have_places_and_are_kept_and_heard() {
    let redis = Redis::start();
    let (mut one, mut other) = (Node::start(&redis, "one"), Node::start(&redis, "other"));
    let name = "chat:{a} 100%";
    assert_eq!(one.read(name, 0, 10), None);
    let state = one.attach(name);
    assert_eq!((state.epoch.as_str(), state.offset, state.kept.len()), ("first", 0, 0));
    for offset in 1..=5 {
        let placed = other.publish(name, &format!("{{\"n\":{offset},\n}}"), 3);
        assert_eq!(placed, Some((String::from("first"), offset)));
    }
    one.until("all are heard", |node| node.placed.len() == 5);
    assert_eq!(offsets(&one.placed), [1, 2, 3, 4, 5]);
    assert!(one.placed.iter().all(|placed| placed.epoch == "first"));
    assert_eq!(&one.placed[4].message.text[..], b"{\"n\":5,\n}");
    assert_eq!(one.placed[4].message.channel, ChannelName::new(name));

    let state = other.read(name, 0, 10).expect("it is there");
    assert_eq!((state.offset, offsets(&state.kept)), (5, vec![3, 4, 5]));
    assert_eq!(state.kept[2], one.placed[4], "what is kept is what was heard");
    assert_eq!(offsets(&other.read(name, 0, 2).expect("it is there").kept), [3, 4]);
    assert_eq!(offsets(&other.read(name, 4, 9).expect("it is there").kept), [5]);

    let mut call = publish(name, "{}", 3);
    if let BackplaneRequest::Publish { message, .. } = &mut call {
        message.except = Some(String::from("other/0-1-2"));
    }
    assert!(matches!(
        other.ask(call),
        BackplaneResponse::Published(MessagePosition { offset: 6, .. })
    ));
    one.until("it is heard", |node| node.placed.len() == 6);
    assert_eq!(one.placed[5].message.except.as_deref(), Some("other/0-1-2"));
    assert_eq!(other.attach(name).kept[2], one.placed[5]);

    let channel = ChannelName::new(name);
    assert!(matches!(
        other.ask(BackplaneRequest::Delete { channel: channel.clone() }),
        BackplaneResponse::Deleted(true)
    ));
    assert!(matches!(
        other.ask(BackplaneRequest::Delete { channel }),
        BackplaneResponse::Deleted(false)
    ));
    assert_eq!(other.publish(name, "{}", 3), Some((String::from("second"), 1)));
    assert_eq!(offsets(&other.attach(name).kept), [1]);

    one.until("it is heard", |node| node.placed.len() == 7);
    one.cluster.detach(ChannelName::new(name));
    // Behind it in the same queue.
    one.attach("elsewhere");
    eventually("one follows one", PATIENCE, || one.stats.cluster.topics.value() == 1);
    assert!(one.stats.cluster.called.value() >= 2);
}

#[test]
fn what_a_channel_keeps_is_bounded_in_bytes() {
    let redis = Redis::start();
    let mut node = Node::start(&redis, "one");
    let mut rng = Rng::seeded(7);
    let mut sizes = Vec::new();
    for round in 0..400 {
        // Now and then one that is larger than what may be kept.
        let span = if rng.below(40) == 0 { 12_000 } else { 1_500 };
        let text = "x".repeat(1 + usize::try_from(rng.below(span)).expect("small"));
        node.publish("c", &text, 100).expect("it is published");
        sizes.push(text.len());
        let kept = node.read("c", 0, 1_000).expect("it is there").kept;
        let bytes: usize = kept.iter().map(|placed| placed.message.text.len()).sum();
        // An eighth of the bound may come between two looks.
        assert!(bytes <= 10_000 + 1_250 + 1_500, "round {round}: {bytes}");
        assert!(kept.len() <= 100);
        let expected = &sizes[sizes.len() - kept.len()..];
        assert!(kept.iter().map(|one| one.message.text.len()).eq(expected.iter().copied()));
        let one_more = sizes.len().checked_sub(kept.len() + 1).map_or(0, |place| sizes[place]);
        let is_full = kept.len() == 100 || kept.len() == sizes.len();
        assert!(is_full || bytes + one_more + 1_250 + 1_500 > 10_000, "round {round}: {bytes}");
    }
}

#[test]
fn nothing_is_missed_between_hearing_and_reading() {
    let redis = Redis::start();
    let (mut reader, mut writer) = (Node::start(&redis, "reader"), Node::start(&redis, "writer"));
    let is_over = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&is_over);
    let thread = std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            let last = (0..32).map(|_| writer.call(publish("busy", "{}", 20))).last();
            let last = last.expect("there was one");
            writer.until("they have places", |node| node.replies.contains_key(&last));
            assert!(
                writer
                    .replies
                    .values()
                    .all(|reply| matches!(reply, BackplaneResponse::Published(_)))
            );
            writer.replies.clear();
        }
    });
    for round in 0..40 {
        reader.placed.clear();
        let state = reader.attach("busy");
        let first = state.kept.first().map_or(state.offset + 1, |placed| placed.offset);
        let mut seen: BTreeSet<u64> = state.kept.iter().map(|placed| placed.offset).collect();
        reader.until("some more are heard", |node| {
            node.placed.last().is_some_and(|placed| placed.offset > state.offset + 50)
        });
        assert!(reader.placed.iter().all(|placed| placed.epoch == state.epoch));
        assert!(reader.placed.is_sorted_by_key(|placed| placed.offset));
        seen.extend(reader.placed.iter().map(|placed| placed.offset));
        let last = seen.last().copied().expect("there are some");
        assert!((first..=last).all(|offset| seen.contains(&offset)), "{round}: {seen:?}");
        reader.cluster.detach(ChannelName::new("busy"));
    }
    is_over.store(true, Ordering::Relaxed);
    thread.join().expect("every message got a place");
    assert_eq!(reader.relinks, 0);
}

fn ask(nodes: &[&str]) -> BackplaneRequest {
    let nodes = nodes.iter().map(|&node| node.to_owned()).collect();
    BackplaneRequest::Ask { nodes, question: String::from("{\"q\":\n1}") }
}

/// Asks nodes until those that answer do so in time: the asking node waits for a second, however slow the
/// machine is.
fn ask_until_all_answer(
    one: &mut Node,
    nodes: &[&str],
    answering: &mut [(&mut Node, &str)],
) -> Vec<(String, String)> {
    let clock = Clock::start();
    while clock.now().ns < u64::try_from(PATIENCE.as_nanos()).unwrap() {
        let number = one.call(ask(nodes));
        let asked = (String::from("one"), number, String::from("{\"q\":\n1}"));
        for (node, answer) in answering.iter_mut() {
            node.until("it is asked", |node| node.asked.last() == Some(&asked));
            node.cluster.respond(String::from("one"), number, (*answer).to_owned());
        }
        let BackplaneResponse::Nodes(mut answers) = one.reply(number) else { panic!("no answer") };
        if answers.len() == answering.len() {
            answers.sort();
            return answers;
        }
    }
    panic!("no round in which all answered in time");
}

#[test]
fn nodes_ask_each_other_in_order() {
    let redis = Redis::start();
    let mut one = Node::start(&redis, "one");
    let (mut two, mut three) = (Node::start(&redis, "two"), Node::start(&redis, "three"));
    let nodes = ["two", "nobody", "three"];
    let both = &mut [(&mut two, "2"), (&mut three, "[\n3]")];
    let answers = ask_until_all_answer(&mut one, &nodes, both);
    let answer = |node: &str, text: &str| (node.to_owned(), text.to_owned());
    assert_eq!(answers, [answer("three", "[\n3]"), answer("two", "2")]);

    let is_empty = |answers| matches!(answers, BackplaneResponse::Nodes(none) if none.is_empty());
    assert!(is_empty(one.ask(ask(&["nobody"]))) && is_empty(one.ask(ask(&[]))));

    // One answers, one is silent, and is waited for.
    let clock = Clock::start();
    let answers = ask_until_all_answer(&mut one, &["two", "three"], &mut [(&mut two, "soon")]);
    assert_eq!(answers, [answer("two", "soon")]);
    let waited_ms = clock.now().ns / 1_000_000;
    assert!(waited_ms >= limits::CLUSTER_ASK_MS - 100, "{waited_ms}");

    let before = two.asked.len();
    let numbers: Vec<_> = (0..300).map(|_| one.call(ask(&["two"]))).collect();
    two.until("all came", |node| node.asked.len() == before + 300);
    assert!(two.asked[before..].iter().map(|asked| asked.1).eq(numbers));
}

#[test]
fn the_journal_orders_messages_of_all_nodes() {
    let redis = Redis::start();
    let mut one = Node::with_journal(&redis, "one", Journal::After(None));
    let mut two = Node::with_journal(&redis, "two", Journal::After(None));
    let mut closed = Node::start(&redis, "closed");
    let mut ids = Vec::new();
    for number in 1..=40 {
        let node = if number % 3 == 0 { &mut one } else { &mut two };
        let (id, sequence) = node.post(&number.to_string());
        assert_eq!(sequence, number);
        ids.push(id);
    }
    assert!(ids.is_sorted() && ids.windows(2).all(|two| two[0] < two[1]));
    assert!(matches!(one.ask(BackplaneRequest::Newest), BackplaneResponse::Newest(40)));
    assert!(matches!(
        closed.ask(BackplaneRequest::AppendToJournal { text: post("x").encode() }),
        BackplaneResponse::Failed
    ));
    for node in [&mut one, &mut two] {
        node.until("all are read", |node| node.entries.len() == 40);
        assert_eq!(node.entries.iter().map(|entry| entry.id).collect::<Vec<_>>(), ids);
        assert!((1..).zip(&node.entries).all(|(number, entry)| entry.sequence == number));
        assert_eq!(node.entries[6].message, post("7"));
    }
    // From a position on, and over what cannot be read.
    let text = String::from("no message");
    assert!(matches!(
        one.ask(BackplaneRequest::AppendToJournal { text }),
        BackplaneResponse::Journaled { sequence: 41, .. }
    ));
    one.post("42");
    let mut late = Node::with_journal(&redis, "late", Journal::After(Some(ids[29])));
    late.until("the rest is read", |node| node.entries.len() == 11);
    let numbers: Vec<_> = late.entries.iter().map(|entry| entry.sequence).collect();
    assert_eq!(numbers, [31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 42]);
    assert_eq!((one.gaps, late.gaps), (0, 0));
    one.until("a beat tells", |node| node.stats.cluster.journal_newest.value() == 42);
    one.until("all is read", |node| node.stats.cluster.journal_read.value() == 42);
}

#[test]
fn the_journals_ids_are_above_the_databases() {
    let redis = Redis::start();
    let hour_ahead = Clock::start().now().unix_ms + 3_600_000;
    let last = MessageId::from_parts(hour_ahead, 77, u64::MAX);
    let mut one = Node::with_journal(&redis, "one", Journal::After(Some(last)));
    let (id, _) = one.post("a");
    assert!(id > last, "{id} {last}");
    one.until("it is read", |node| node.entries.len() == 1);
    assert_eq!((one.entries[0].id, one.gaps), (id, 0));
    // What was lifted once is high enough.
    let two = Node::with_journal(&redis, "two", Journal::After(Some(last)));
    eventually("it looked", PATIENCE, || two.stats.cluster.journal_read.value() == 2);
    assert_eq!(redis.ask(&["XLEN", JOURNAL]), 2);
}

#[test]
fn what_the_database_has_goes_after_a_while() {
    let redis = Redis::start();
    let mut one = Node::with_journal(&redis, "one", Journal::After(None));
    // Written longer ago than what the database has is kept.
    let first_ms = Clock::start().now().unix_ms - 2 * limits::JOURNAL_KEPT_MS;
    let id = |place: u64| MessageId::from_parts(first_ms + place, 0, 0);
    let fill = format!(
        "for place = 0, 499 do
             redis.call('XADD', '{JOURNAL}', string.format('%.0f-0', ARGV[1] + place),
                 's', place + 1, 'r', '0a', 'm', ARGV[2])
         end
         redis.call('SET', '{JOURNAL_SEQUENCE}', 500)
         return 1"
    );
    redis.ask(&["EVAL", &fill, "0", &first_ms.to_string(), &post("a").encode()]);
    one.cluster.written(id(249));
    one.until("a beat tells", |node| node.written.is_some());
    let written = one.written.expect("it was seen");
    assert!(id(249) <= written && written < id(250));
    // Somebody who is behind says nothing new.
    one.cluster.written(id(100));
    let len = || redis.ask(&["XLEN", JOURNAL]);
    eventually("old ones go", PATIENCE, || {
        one.cluster.written(id(100));
        len() < 500
    });
    one.ask(BackplaneRequest::Newest);
    assert!(len() >= 250, "what the database does not have stays");
    one.until("a beat tells", |node| node.written == Some(written));
}

#[test]
fn gaps_of_the_journal_are_told() {
    let redis = Redis::start();
    let mut one = Node::with_journal(&redis, "one", Journal::After(None));
    one.post("1");
    one.until("it is read", |node| node.entries.len() == 1);
    redis.ask(&["INCR", JOURNAL_SEQUENCE]);
    one.post("3");
    one.until("it is told", |node| node.gaps == 1 && node.entries.len() == 2);
    assert_eq!(one.entries[1].sequence, 3);
    // Redis lost everything, and nothing comes.
    redis.ask(&["DEL", JOURNAL, JOURNAL_SEQUENCE]);
    one.until("it is told", |node| node.gaps == 2);
    // The first entry lifts the ids above those that are known.
    eventually("it is lifted", PATIENCE, || redis.ask(&["XLEN", JOURNAL]) == 1);
    assert_eq!(one.post("2").1, 2);
    one.until("it is read", |node| node.entries.len() == 3);
    // The same, and something comes at once.
    one.post("3");
    one.until("it is read", |node| node.entries.len() == 4);
    redis.ask(&["DEL", JOURNAL, JOURNAL_SEQUENCE]);
    one.post("1");
    one.until("it is told", |node| node.gaps >= 3 && node.entries.len() == 5);
}

#[test]
fn another_journal_is_read_from_its_start_whatever_its_ids() {
    let redis = Redis::start();
    let mut one = Node::with_journal(&redis, "one", Journal::After(None));
    one.post("1");
    let (last, _) = one.post("2");
    one.until("they are read", |node| node.entries.len() == 2);
    // A Redis whose clock is behind and catches up, and then one that repeats an id.
    let now_ms = Clock::start().now().unix_ms;
    let [soon, later] = [30_000, 60_000].map(|ms| format!("{}-0", now_ms + ms));
    let journals = [("1-1", &*soon), (&*last.stream_id(), &*later)];
    for (round, (first, second)) in journals.into_iter().enumerate() {
        let text = post("a").encode();
        let (journal, sequence) = (JOURNAL, JOURNAL_SEQUENCE);
        let anew = format!(
            "redis.call('DEL', '{journal}')
             redis.call('XADD', '{journal}', '{first}', 's', 1, 'r', '0a', 'm', ARGV[1])
             redis.call('XADD', '{journal}', '{second}', 's', 2, 'r', '0b', 'm', ARGV[1])
             redis.call('SET', '{sequence}', 2)
             return 1"
        );
        redis.ask(&["EVAL", &anew, "0", &text]);
        one.until("it is told", |node| node.gaps == 1 + round);
        one.until("all is read", |node| node.entries.len() == 4 + 2 * round);
        let numbers: Vec<_> = one.entries.iter().map(|entry| entry.sequence).collect();
        assert_eq!(numbers, [1, 2, 1, 2, 1, 2][..4 + 2 * round]);
    }
    let (id, sequence) = one.post("3");
    assert!(id > last && sequence == 3);
    one.until("it is read", |node| node.entries.len() == 7);
    assert_eq!(one.gaps, 2);
}

/// The nodes that write snapshots do not know of each other, and one may be slow.
#[test]
fn a_later_snapshot_is_not_overwritten_by_an_earlier_one() {
    let redis = Redis::start();
    let client = Client::open(redis.url()).expect("a URL");
    let mut connection = client.get_connection().expect("Redis answers");
    let keep_snapshot = Script::new(concat!(
        include_str!("../src/cluster/scripts/has.lua"),
        include_str!("../src/cluster/scripts/keep_snapshot.lua")
    ));
    let snapshot = |sequence: u64| Snapshot {
        epoch: String::from("e"),
        sequence,
        position: format!("{sequence}-0"),
        ..Snapshot::default()
    };
    let mut keep = |sequence: u64| {
        let snapshot = snapshot(sequence);
        let kept: u64 = keep_snapshot
            .key(EPOCH)
            .key(SNAPSHOT)
            .key("fanfare:{registry}:log")
            .key("fanfare:{registry}:sequence")
            .key("fanfare:{registry}:wanted")
            .arg(&snapshot.epoch)
            .arg(serde_json::to_string(&snapshot).expect("it is written"))
            .arg(&snapshot.position)
            .arg(sequence)
            .invoke(&mut connection)
            .expect("Redis answers");
        kept == 1
    };
    assert!(!keep(10), "there is no log");
    redis.ask(&["SETNX", EPOCH, "e"]);
    assert!(keep(10), "there is no snapshot");
    assert!(!keep(9) && !keep(10) && keep(11));
    let kept = redis.ask(&["STRLEN", SNAPSHOT]);
    assert_eq!(kept, serde_json::to_string(&snapshot(11)).expect("it is written").len() as u64);
}

#[test]
fn calls_fail_while_redis_is_away_and_topics_come_back() {
    let mut redis = Redis::start();
    let (mut one, mut two) = (Node::start(&redis, "one"), Node::start(&redis, "two"));
    let names: Vec<_> = (0..700).map(|number| format!("channel-{number}")).collect();
    for name in &names {
        let channel = ChannelName::new(name);
        one.call(BackplaneRequest::Attach { channel, epoch: String::from("e") });
    }
    one.until("all are followed", |node| node.replies.len() == names.len());
    assert_eq!(one.stats.cluster.topics.value(), names.len() as u64);
    two.publish("channel-0", "{}", 5).expect("it has a place");

    redis.kill();
    let clock = Clock::start();
    let channel = ChannelName::new("new");
    let calls = [
        one.call(publish("channel-0", "{}", 5)),
        one.call(BackplaneRequest::Attach { channel, epoch: String::from("e") }),
        one.call(BackplaneRequest::Newest),
        one.call(BackplaneRequest::Ask {
            nodes: vec![String::from("two")],
            question: String::from("{}"),
        }),
    ];
    for call in calls {
        assert!(matches!(one.reply(call), BackplaneResponse::Failed));
    }
    assert!(clock.now().ns < 4_000_000_000, "{:?}", clock.now());

    redis.launch();
    one.until("it hears again", |node| node.relinks == 1);
    assert_eq!(one.stats.cluster.topics.value(), names.len() as u64, "the new one is none");
    two.until("it has a place", |node| node.publish("channel-699", "{}", 5).is_some());
    one.until("it is heard", |node| {
        node.placed.iter().any(|placed| placed.message.channel.as_str() == "channel-699")
    });
    assert_eq!(one.publish("channel-0", "{}", 5).expect("it has a place").1, 2);
    assert!(one.stats.cluster.reconnects.value() >= 1);
}

#[test]
fn a_redis_that_is_silent_is_noticed() {
    let redis = Redis::start();
    let mut one = Node::start(&redis, "one");
    one.attach("a");
    redis.signal("STOP");
    let clock = Clock::start();
    let failing = one.call(publish("a", "{}", 5));
    assert!(matches!(one.reply(failing), BackplaneResponse::Failed));
    let channel = ChannelName::new("b");
    let failing = one.call(BackplaneRequest::Attach { channel, epoch: String::from("e") });
    assert!(matches!(one.reply(failing), BackplaneResponse::Failed));
    assert!(clock.now().ns < 7_000_000_000, "{:?}", clock.now());
    eventually("it is noticed", PATIENCE, || one.stats.cluster.probe_failures.value() > 0);
    redis.signal("CONT");
    one.until("it hears again", |node| node.relinks > 0);
    one.placed.clear();
    one.until("it has a place", |node| node.publish("a", "{}", 5).is_some());
    one.until("it is heard", |node| !node.placed.is_empty());
    assert_eq!(one.stats.cluster.topics.value(), 1);
}

#[test]
fn a_subscription_that_hears_nothing_is_noticed() {
    let redis = Redis::start();
    let proxy = FaultyProxy::to(redis.address());
    let url = format!("redis://{}", proxy.address());
    let mut one = Node::start_at(url, &redis, "one", Journal::Closed);
    let mut two = Node::start(&redis, "two");
    one.attach("a");
    two.publish("a", "{}", 5).expect("it has a place");
    one.until("it is heard", |node| node.placed.len() == 1);
    // Everything else goes on, so only the probe can find out.
    proxy.set(Fault::LosePublished);
    two.publish("a", "{}", 5).expect("it has a place");
    one.until("it is noticed", |node| node.stats.cluster.probe_failures.value() > 0);
    assert_eq!(one.placed.len(), 1);
    proxy.set(Fault::None);
    one.until("the topics come back", |node| node.relinks > 0);
    two.publish("a", "{}", 5).expect("it has a place");
    one.until("it is heard", |node| node.placed.last().is_some_and(|last| last.offset == 3));
}

#[test]
fn scripts_that_redis_forgot_are_loaded_again() {
    let redis = Redis::start();
    let mut one = Node::start(&redis, "one");
    one.publish("a", "{}", 5).expect("it has a place");
    let client = Client::open(redis.url()).expect("it is a URL");
    let mut connection = client.get_connection().expect("it is there");
    for offset in [2, 4] {
        let _: Value = redis::cmd("SCRIPT").arg("FLUSH").query(&mut connection).expect("it does");
        let calls = [one.call(publish("a", "{}", 5)), one.call(publish("a", "{}", 5))];
        for (call, offset) in calls.into_iter().zip(offset..) {
            let BackplaneResponse::Published(MessagePosition { offset: is, .. }) = one.reply(call)
            else {
                panic!("{offset}")
            };
            assert_eq!(is, offset);
        }
    }
}
