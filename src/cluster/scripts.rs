//! The Lua scripts, each in a file below `scripts/`, and the keys that they use.

use std::sync::LazyLock;

use redis::Script;

/// The hash tag that keeps all keys of the registry in one slot of a Redis Cluster.
macro_rules! key {
    ($name:literal) => {
        concat!("fanfare:{registry}:", $name)
    };
}

/// The stream.
pub(super) const LOG: &str = key!("log");
/// The number of the newest entry.
pub(super) const SEQUENCE: &str = key!("sequence");
/// The epoch of all revisions.
pub(super) const EPOCH: &str = key!("epoch");
/// The registry at some place of the log.
pub(super) const SNAPSHOT: &str = key!("image");
/// The epoch of a log that was begun a moment ago by a node that knew nothing.
pub(super) const BARE: &str = key!("bare");
/// The node that waits for a snapshot, while there is none that it can begin from.
pub(super) const WANTED: &str = key!("wanted");
/// There while a node writes a snapshot because one was asked for.
pub(super) const SNAPSHOT_TURN: &str = key!("image-turn");
/// When each node was last heard of, by Redis' own clock.
pub(super) const NODES: &str = key!("nodes");
/// Each node's description of itself.
pub(super) const ABOUT: &str = key!("about");

/// Written to see whether Redis takes writes to the log.
pub(super) const LOG_PROBE: &str = key!("probe");

/// Written to probe whether Redis takes the writes of requests.
pub(super) const CALLS_PROBE: &str = "fanfare:{messages}:probe";
/// The stream of direct and group messages. Its keys are in a slot of their own.
pub(super) const JOURNAL: &str = "fanfare:{messages}:journal";
/// The number of its newest entry.
pub(super) const JOURNAL_SEQUENCE: &str = "fanfare:{messages}:sequence";
/// Up to which entry the database has it.
pub(super) const WRITTEN_UP_TO: &str = "fanfare:{messages}:written";

/// Makes a script of files in `scripts/`, one behind the other. The head of each file says what its `KEYS`
/// and `ARGV` are.
macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident = $($file:literal)+;)*) => {$(
        $(#[$doc])*
        pub(super) static $name: LazyLock<Script> = LazyLock::new(|| {
            Script::new(concat!($(include_str!(concat!("scripts/", $file, ".lua"))),+))
        });
    )*};
}

scripts! {
    /// Appends entries to the log.
    APPEND = "append";
    /// Takes a heartbeat, and tells which nodes are alive.
    HEARTBEAT = "heartbeat";
    /// Begins a log.
    SEED = "seed";
    /// Tells whether the log is the one that an entry was read from.
    HAS_ENTRY = "has" "has_entry";
    /// Keeps a snapshot, and drops the entries in it.
    KEEP_SNAPSHOT = "has" "keep_snapshot";
    /// Asks for a snapshot.
    REQUEST_SNAPSHOT = "request_snapshot";
    /// Publishes a message of a channel.
    PUBLISH = "publish";
    /// Reads a channel.
    READ = "read";
    /// Forgets a channel.
    DELETE = "delete";
    /// Puts a message into the journal.
    APPEND_MESSAGE = "append_message";
    /// Lifts the ids that the journal will give out above an id that the database has.
    FLOOR = "floor";
    /// Notes how far the database has the journal, and trims the journal.
    WRITTEN = "written";
}

/// The scripts of requests, loaded together.
pub(super) fn of_calls() -> [&'static Script; 6] {
    [&PUBLISH, &READ, &DELETE, &APPEND_MESSAGE, &FLOOR, &WRITTEN]
}
