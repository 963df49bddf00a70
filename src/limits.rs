//! The limits: every bound of the server in one file, with its unit and its reason.
//!
//! A bound that an operator may turn is a field of [`Limits`]; one that is part of the contract, or
//! would only break the server when turned, is a constant. Relations between bounds are asserted at
//! compile time, so that a changed default cannot quietly contradict another.
//!
//! # Promises
//!
//! * A name ends in its unit and the kind of bound: `outbox_bytes_max`, `ping_interval_ms`.
//! * Nothing in the server grows without a bound that is named here.
//!
//! # Not here
//!
//! Reading values from flags, environment or file and judging their range: `config` does that.
//!
//! Bounds that a client shares are in `fanfare_protocol::limits` and exported here.
//!
//! Imports nothing of the crate. Imported by everything.

pub use fanfare_protocol::limits::{
    LEASE_TTL_MS_DEFAULT, LEASE_TTL_MS_MAX, LEASE_TTL_MS_MIN, NAME_BYTES_MAX, NESTED_DEPTH_MAX,
    WEIGHT_DEFAULT, WEIGHT_MAX,
};

/// Bytes in a KiB.
pub const KIB: usize = 1024;

/// Bytes in a MiB.
pub const MIB: usize = 1024 * KIB;

/// The bounds an operator may change. One value per server, fixed at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Largest message a client may send on a JSON socket, in bytes. Commands are small; a larger
    /// message is a mistake or an attack, and is closed with 1009.
    pub client_message_bytes_max: usize,
    /// Largest message on the socket of Artemis' heartbeats, in bytes: its client names all of its instances
    /// completely each time, at about 300 bytes each.
    pub artemis_heartbeat_bytes_max: usize,
    /// Most instances in one heartbeat on that socket.
    pub artemis_heartbeat_instances_max: usize,
    /// Largest message on the echo socket, in bytes: as large as those that conformance suites send
    /// there.
    pub echo_message_bytes_max: usize,
    /// Largest body of a registry request, in bytes. Batches of a thousand instances fit well.
    pub http_registry_body_bytes_max: usize,
    /// Largest body of any other request, in bytes.
    pub http_body_bytes_max: usize,
    /// Largest HTTP answer, in bytes. An answer that a client's data makes larger is refused before
    /// it is built.
    pub answer_bytes_max: usize,
    /// Most bytes of HTTP answers that are being built or have not been written, of one shard. Two
    /// of the largest.
    pub unsent_answer_bytes_max: usize,
    /// Most bytes of bodies that are still arriving from one address block. One registry batch.
    pub unfinished_body_bytes_per_address_max: usize,
    /// Most bytes of bodies that are still arriving, or wait to be read, of one shard.
    pub unfinished_body_bytes_max: usize,
    /// Accounts registered a minute from one address block. Zero: no limit.
    pub registrations_per_minute_max: usize,
    /// Unknown names a minute that one address may look up; 0 is no limit. A person mistypes a few;
    /// a program that guesses names goes on for hours.
    pub unknown_names_per_minute_max: usize,
    /// Largest request head, in bytes: the line and all headers. A token of several KiB fits.
    pub request_head_bytes_max: usize,
    /// Most headers in one request. Browsers send about twenty.
    pub request_headers_max: usize,
    /// Time from accept to a complete request head, in milliseconds. It also ends a connection that
    /// sends nothing, so that idle clients cannot hold descriptors.
    pub handshake_timeout_ms: u64,
    /// Time for a request body to arrive, in milliseconds.
    pub body_timeout_ms: u64,
    /// Most topics one connection follows.
    pub subscriptions_per_connection_max: usize,
    /// Most connections of one signed-in user on this node.
    pub connections_per_user_max: usize,
    /// Sustained messages a second from one connection. Zero: no limit.
    pub client_messages_per_s_max: u32,
    /// Messages a connection may send at once before the sustained rate applies. A client that
    /// subscribes to all its topics after a reconnect must fit in.
    pub client_messages_burst_max: u32,
    /// Sustained pings and pongs a second from one connection. Zero: no limit. Clients that keep a
    /// connection alive by pings send one a second at most.
    pub control_frames_per_s_max: u32,
    /// Pings and pongs a connection may send at once before the sustained rate applies.
    pub control_frames_burst_max: u32,
    /// Longest topic name, in bytes.
    pub topic_bytes_max: usize,
    /// Changes kept per service, so that a client that returns gets the missed changes and no
    /// snapshot.
    pub service_history_max: usize,
    /// Most bytes of these changes, as they would be sent. Otherwise large instances would make the
    /// history of one service the largest thing in memory.
    pub service_history_bytes_max: usize,
    /// Messages kept per channel, for the same reason.
    pub channel_history_max: usize,
    /// Most channels, defined or merely used. Bounds invented names.
    pub channels_max: usize,
    /// Most channels that one connection may have created, while they exist.
    pub channels_per_connection_max: usize,
    /// The same of all connections of one address block, zero = no bound. `None`: a fifth of
    /// `channels_max`, so that the many sockets of one host never keep all others out, and loopback
    /// is exempt.
    pub channels_per_address_max: Option<usize>,
    /// Most bytes of one channel's messages.
    pub channel_history_bytes_max: usize,
    /// Most bytes of the histories of all services and channels together. Beyond it the oldest
    /// change or message of all goes.
    pub history_bytes_max: usize,
    /// Most bytes of the service snapshots that are being sent and that have changed so much that a
    /// later subscriber needs another. Without it, clients that subscribe at ever other revisions
    /// and read nothing would hold a copy each.
    pub snapshots_bytes_max: usize,
    /// Most users known, whether by an account or by a token. Bounds invented accounts.
    pub users_max: usize,
    /// Most connections in all. `None`: derived at start from the file-descriptor limit.
    pub connections_max: Option<usize>,
    /// Most rows of registry changes in one transaction. The rest goes with the next one, so that
    /// neither the database nor the writes that wait behind it are held up for long.
    pub store_set_rows_max: usize,
    /// Most bytes of registry changes in one transaction. `PostgreSQL` takes 256 MB in one JSON
    /// parameter; a row is copied a few times on its way there.
    pub store_set_bytes_max: usize,
    /// Most connections of one address block, zero = no bound. `None`: half of all there is room
    /// for, so that one client never keeps all others out, and loopback is exempt.
    pub connections_per_address_max: Option<usize>,
    /// Most unsent bytes held for one connection: the memory that a slow reader can cost.
    pub outbox_bytes_max: usize,
    /// Most unsent frames held for one connection. Bounds the handles when frames are tiny.
    pub outbox_frames_max: usize,
    /// Time a socket may refuse all output before it counts as dead, in milliseconds.
    pub write_timeout_ms: u64,
    /// Silence after which a connection is pinged, in milliseconds. Below the 30 s and 60 s at
    /// which common proxies cut idle connections.
    pub ping_interval_ms: u64,
    /// Time a client has to answer a ping, in milliseconds.
    pub pong_timeout_ms: u64,
    /// Largest instance, in bytes of its canonical JSON. Each follower of its service gets it with
    /// every change, so large metadata costs every follower.
    pub instance_bytes_max: usize,
    /// Most messages waiting between two threads. A full mailbox is answered `unavailable`.
    pub mailbox_messages_max: usize,
    /// Most registered instances. Bounds the memory that registrations can claim.
    pub instances_max: usize,
    /// Most bytes of all registered instances' JSON.
    pub instances_bytes_max: usize,
    /// Most services that are remembered. A service outlives its instances, so this bounds invented
    /// names; the one that has been empty for longest gives way to a new one.
    pub services_max: usize,
    /// Time for which a service without instances is remembered, in milliseconds. A client that
    /// comes back to it within a day resumes.
    pub service_forget_ms: u64,
    /// Time over which a draining server spreads the return of its clients, in milliseconds.
    pub drain_window_ms: u64,
}

impl Limits {
    /// The limits of a server without settings. A constant, so that the assertions below can read
    /// it.
    pub const DEFAULT: Limits = Limits {
        client_message_bytes_max: 64 * KIB,
        artemis_heartbeat_bytes_max: 8 * MIB,
        artemis_heartbeat_instances_max: 10_000,
        echo_message_bytes_max: 16 * MIB,
        http_registry_body_bytes_max: 8 * MIB,
        http_body_bytes_max: MIB,
        answer_bytes_max: 64 * MIB,
        unsent_answer_bytes_max: 128 * MIB,
        unfinished_body_bytes_per_address_max: 8 * MIB,
        unfinished_body_bytes_max: 64 * MIB,
        registrations_per_minute_max: 10,
        unknown_names_per_minute_max: 60,
        request_head_bytes_max: 16 * KIB,
        request_headers_max: 100,
        handshake_timeout_ms: 10_000,
        body_timeout_ms: 15_000,
        subscriptions_per_connection_max: 1_024,
        connections_per_user_max: 16,
        client_messages_per_s_max: 100,
        client_messages_burst_max: 200,
        control_frames_per_s_max: 50,
        control_frames_burst_max: 100,
        topic_bytes_max: 255,
        service_history_max: 1_024,
        service_history_bytes_max: MIB,
        channel_history_max: 256,
        channels_max: 100_000,
        channels_per_connection_max: 1_024,
        channels_per_address_max: None,
        channel_history_bytes_max: MIB,
        history_bytes_max: 256 * MIB,
        snapshots_bytes_max: 256 * MIB,
        users_max: 1_000_000,
        connections_max: None,
        store_set_rows_max: 20_000,
        store_set_bytes_max: 16 * MIB,
        connections_per_address_max: None,
        outbox_bytes_max: MIB,
        outbox_frames_max: 4_096,
        write_timeout_ms: 15_000,
        ping_interval_ms: 25_000,
        pong_timeout_ms: 10_000,
        instance_bytes_max: 64 * KIB,
        mailbox_messages_max: 65_536,
        instances_max: 2_000_000,
        instances_bytes_max: 2_048 * MIB,
        services_max: 200_000,
        service_forget_ms: 86_400_000,
        drain_window_ms: 10_000,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

// --- Connections ---------------------------------------------------------------------------------

/// Most shard threads. More cores than this share shards; a bound for the tables indexed by shard.
pub const SHARDS_MAX: usize = 256;

/// Size of a shard's one read buffer, in bytes. One `read` takes a full client message.
pub const READ_BUFFER_BYTES: usize = 64 * KIB;

/// How many times `connections_per_user_max` one user may hold while the server pings those within
/// the limit. All of a laptop's connections come back in one moment when its lid opens.
pub const USER_CONNECTIONS_FACTOR_MAX: usize = 2;

/// Time after which a user's connections are pinged again, in milliseconds.
pub const USER_PROBE_INTERVAL_MS: u64 = 1_000;

/// Time between two checks of a connection above the limit for a free place, in milliseconds.
pub const USER_PROBE_LOOK_MS: u64 = 100;

/// Time that such a connection waits beyond `pong_timeout_ms`, in milliseconds: for the close of the
/// silent one, which is on another thread.
pub const USER_PROBE_GRACE_MS: u64 = 1_000;

/// Time a closed connection has to take its close frame, in milliseconds.
pub const CLOSE_LINGER_MS: u64 = 2_000;

/// Time for plain requests that are under way when the last socket has gone, in milliseconds.
/// Longer ones are cut off.
pub const DRAIN_REQUESTS_MS: u64 = 5_000;

/// Time for a kept connection to send a last request to a server that accepts no more, in
/// milliseconds. A proxy has noticed the closed listener by then, and does not use the connection.
pub const DRAIN_IDLE_MS: u64 = 500;

/// Time for the first request of a connection that was accepted just before the server stopped
/// listening, in milliseconds: a request that is on its way arrives within it.
pub const DRAIN_HEAD_MS: u64 = 250;

/// Commands of one connection that may await their answer. Beyond it the connection is not read.
pub const OUTSTANDING_COMMANDS_MAX: usize = 512;

/// Time from the signal to the exit of a draining server, in milliseconds. Part of the contract.
pub const DRAIN_MS_MAX: u64 = 30_000;

/// The part of [`DRAIN_MS_MAX`] that is kept for the very end, in milliseconds: tasks that hang by
/// then are left behind.
pub const STOP_RESERVE_MS: u64 = 1_500;

/// How often control checks the store while the server stops.
pub const STOP_LOOK: std::time::Duration = std::time::Duration::from_millis(1);

/// Time for a node that stops to announce it to the others, in milliseconds.
pub const CLUSTER_LEAVE_MS: u64 = 3_000;

/// Longest configurable drain window, in milliseconds. The rest of `DRAIN_MS_MAX` is for the last
/// frames, the last plain requests and the last write to disk.
pub const DRAIN_WINDOW_MS_MAX: u64 = 20_000;

/// Most bytes tungstenite takes from the shard's buffer at once. It zero-fills as much before each
/// read, so this is small; the figures are in PERF.md.
pub const CONTEXT_READ_BYTES: usize = 4 * KIB;

/// Reader contexts a shard keeps for the next connection whose bytes arrive.
pub const RESTING_CONTEXTS_MAX: usize = 64;

/// Empty fragments one message may have. RFC 6455 allows any number; no client needs many.
pub const EMPTY_FRAGMENTS_MAX: u16 = 1_024;

/// Sustained continuation frames a second of one JSON socket. A message counts as one, however many
/// frames it has; these bound the frames.
pub const CONTINUATIONS_PER_S_MAX: u32 = 1_000;

/// Continuation frames a JSON socket may send at once: the largest message in frames of 32 bytes.
pub const CONTINUATIONS_BURST_MAX: u32 = 2_048;

/// Sustained continuation frames a second of one echo socket.
pub const ECHO_CONTINUATIONS_PER_S_MAX: u32 = 4_096;

/// Continuation frames an echo socket may send at once. Conformance suites send 4 MiB in frames of
/// 64 bytes.
pub const ECHO_CONTINUATIONS_BURST_MAX: u32 = 131_072;

/// Sustained messages a second of one echo socket, on which no command is ever carried out.
pub const ECHO_MESSAGES_PER_S_MAX: u32 = 1_000;

/// Messages an echo socket may send at once. Conformance suites send a thousand in a row.
pub const ECHO_MESSAGES_BURST_MAX: u32 = 10_000;

/// Longest frame on Artemis' sockets, in UTF-16 units: the default buffer of its Java client, which closes
/// the socket with 1009 for a longer one.
pub const ARTEMIS_FRAME_UNITS_MAX: usize = 8_192;

/// UTF-16 units of the failed entries in the answer to an Artemis heartbeat: a frame, less its other parts.
pub const ARTEMIS_FAILED_UNITS_MAX: usize = ARTEMIS_FRAME_UNITS_MAX - 512;

/// Characters of a fault in such an answer.
pub const ARTEMIS_MESSAGE_CHARS_MAX: usize = 200;

/// Most changes of one service that are announced together and sent to Artemis' followers one by one. For
/// more, one look-up costs both sides less.
pub const ARTEMIS_CHANGES_MAX: usize = 1_024;

/// Time from a ping on Artemis' sockets to its pong, in milliseconds. The Java client begins to wait for the
/// pong after it has sent the ping, and misses one that is faster than that.
pub const ARTEMIS_PONG_MS: u64 = 10;

/// Pongs of one shard that wait for that time. Beyond them pongs leave at once.
pub const ARTEMIS_LATE_PONGS_MAX: usize = 65_536;

/// Sustained subscriptions a second of one Artemis socket.
pub const ARTEMIS_SUBSCRIPTIONS_PER_S_MAX: u32 = 1_000;

/// Subscriptions an Artemis socket may send at once: a client that comes back names all its services.
pub const ARTEMIS_SUBSCRIPTIONS_BURST_MAX: u32 = 8_192;

/// Length of the ring of a shard's timing wheel, in ticks: a ping interval and more.
pub const SHARD_WHEEL_SLOTS: usize = 1_024;

/// Tick of a shard's timing wheel, in milliseconds.
pub const SHARD_TICK_MS: u64 = 50;

/// Time between two reads of the system's clock by a shard with connections, in milliseconds: when
/// the clock is set ahead, tokens end that much later at most.
pub const WALL_LOOK_MS: u64 = 1_000;

/// Difference between the system's clock and the steady one above which the first was corrected, in
/// milliseconds. Well above the time between reading one and the other.
pub const WALL_JUMP_MS: u64 = 250;

/// Connections a draining shard sends away at once, at least.
pub const DRAIN_BATCH_MIN: usize = 16;

/// Shortest time after which a drained client is asked to return, in milliseconds.
pub const RECONNECT_MS_MIN: u64 = 100;

/// Most bytes read from an HTTP connection at once.
pub const HTTP_READ_BYTES: usize = 8 * KIB;

/// Bytes of a chunked body that are no data: extensions of chunks, and trailers.
pub const CHUNK_OVERHEAD_BYTES_MAX: usize = 8 * KIB;

/// Time an HTTP connection may idle between two requests, in milliseconds. Above the minute after
/// which common proxies and clients give up their side.
pub const KEEP_ALIVE_MS: u64 = 75_000;

/// Bytes that are read and dropped at the end of an HTTP connection, so that its last answer is not
/// lost to a reset.
pub const LINGER_BYTES_MAX: usize = 16 * MIB;

/// Largest body that is decoded on the shard's own thread. At 200 MB/s this keeps its sockets
/// waiting for a third of a millisecond; a larger body goes to a thread of its own.
pub const DECODE_INLINE_BYTES_MAX: usize = 64 * KIB;

/// Connections that the kernel keeps for us until they are accepted. The kernel's own bound,
/// `net.core.somaxconn`, may be lower.
pub const ACCEPT_BACKLOG: i32 = 4_096;

/// Pause after a failed accept, in milliseconds.
pub const ACCEPT_PAUSE_MS: u64 = 100;

/// The kernel's send buffer of a connection, in bytes as it is asked for; Linux doubles it for its
/// own bookkeeping. Without a bound the kernel holds up to 4 MB for each stalled reader.
pub const SOCKET_SEND_BYTES: usize = 128 * KIB;

/// Bytes of the send buffer that may be unsent before a socket counts as full, so that a slow
/// reader is noticed while its backlog is still ours to replace.
pub const SOCKET_UNSENT_BYTES: u32 = 32 * 1_024;

/// Time after which the kernel gives up on a peer that acknowledges nothing, in milliseconds.
pub const TCP_USER_TIMEOUT_MS: u64 = 30_000;

/// Descriptors kept for files, listeners and the runtime when the number of connections is derived
/// from the descriptor limit.
pub const RESERVED_DESCRIPTORS: usize = 64;

/// Refused connections that get time to read the reason. They have descriptors, too.
pub const TURNED_AWAY_MAX: usize = RESERVED_DESCRIPTORS / 2;

/// Idle connections that one search for candidates to close returns.
pub const IDLE_CANDIDATES: usize = 64;

/// Time between two such searches if the first found none, in milliseconds.
pub const IDLE_LOOK_MS: u64 = 20;

/// Largest answer that is put together on the shard's own thread, in bytes. At several GB/s this too
/// keeps its sockets waiting for a third of a millisecond.
pub const COPY_INLINE_BYTES_MAX: usize = MIB;

/// Up to this many bytes an HTTP answer counts as small, and finds room that large ones do not.
pub const SMALL_ANSWER_BYTES: usize = 64 * KIB;

/// The part of a shard's unsent answers that is kept for small ones: one of so many.
pub const SMALL_ANSWERS_SHARE: usize = 8;

/// Up to this many bytes an HTTP answer is never refused for lack of room. Probes, refusals and
/// acknowledgements are no larger; the number of connections bounds them.
pub const SMALLEST_ANSWER_BYTES: usize = 4 * KIB;

/// Unsent bytes of a connection's answers beyond which its next request waits.
pub const PIPELINED_ANSWER_BYTES_MAX: usize = 64 * KIB;

/// Seconds after which a client that was refused for lack of room may try again.
pub const BUSY_RETRY_S: u64 = 1;

/// Most entries of one HTTP batch. Each is read, judged and perhaps repeated in the answer, and may
/// be two bytes long.
pub const BATCH_ENTRIES_MAX: usize = 100_000;

/// Largest listing of all services that is kept for the next request, in bytes.
pub const LISTING_BYTES_KEPT_MAX: usize = 64 * MIB;

/// Descriptors for which the kernel's table is grown at the start, at most. It costs 8 bytes each.
pub const DESCRIPTOR_TABLE_MAX: usize = 65_536;

/// Threads a shard may use for large bodies at once.
pub const BLOCKING_THREADS_MAX: usize = 2;

/// Pause of a thread that found a full mailbox and may wait.
pub const MAILBOX_FULL_PAUSE: std::time::Duration = std::time::Duration::from_micros(200);

// --- Turns ---------------------------------------------------------------------------------------

/// Sockets read in one turn.
pub const READS_PER_TURN_MAX: usize = 256;

/// Reports on sockets that a shard takes from the kernel with one system call. Each takes 12 bytes of room.
pub const POLLED_MAX: usize = 256;

/// Messages taken from a shard's mailbox in one turn.
pub const MAILBOX_MESSAGES_PER_TURN_MAX: usize = 4_096;

/// Deadlines of connections served in one turn. Ten thousand tokens may expire in one second.
pub const DEADLINES_PER_TURN_MAX: usize = 512;

/// Sockets written to in one turn. At five microseconds a write this is 2.5 ms, the longest that a
/// small event waits behind a large fan-out.
pub const WRITES_PER_TURN_MAX: usize = 512;

/// How many writes the end of a connection counts as: the last write, the shutdown and the kernel's
/// work for both take about five times as long as a write.
pub const WRITES_PER_END: usize = 5;

/// Followers up to which a fan-out goes ahead of larger ones.
pub const SMALL_FANOUT_MAX: usize = 128;

/// Bytes of a joined run of frames. Joining costs one copy for all followers of the topic.
pub const RUN_BYTES_MAX: usize = 64 * KIB;

/// Bytes up to which the chunks of one outbox are copied together and leave in one plain write.
pub const COPY_BYTES_MAX: usize = 16 * KIB;

/// Slices of one vectored write.
pub const IO_SLICES_MAX: usize = 64;

/// Empty runs of events that a shard keeps for its next turns, each with room for 64 events at most.
pub const SPARE_RUNS_MAX: usize = 64;

/// Slots for which an emptied flush queue keeps its memory.
pub const QUEUE_SLOTS_KEPT: usize = 1_024;

/// Commands that a shard carries out before it looks at the time.
pub const ENGINE_SLICE_COMMANDS: usize = 16;

/// Entries of their batches after which it looks earlier.
pub const ENGINE_SLICE_ENTRIES: usize = 256;

/// Time for which a shard carries out commands, its own and those of others, before it leaves the rest to the
/// timekeeper, in microseconds. Its sockets wait meanwhile.
pub const ENGINE_HOLD_US_MAX: u64 = 1_000;

/// Entries of a batch that a shard carries out itself. A larger one is the timekeeper's: an entry takes a
/// microsecond or two.
pub const ENGINE_LIGHT_ENTRIES_MAX: usize = 64;

/// Bytes of a service's instances and history up to which a shard carries out a subscription itself: a snapshot is
/// copied at some GB a second.
pub const ENGINE_LIGHT_BYTES_MAX: usize = 256 * KIB;

/// Commands that control carries out between two checks of its leases.
pub const COMMANDS_PER_TURN_MAX: usize = 4_096;

/// Ended connections after which a thread gives memory back.
pub const STORM_CONNECTIONS: usize = 1_000;

/// Time after such an end at which a thread has the allocator give pages back, in milliseconds. Above
/// the second for which it keeps them.
pub const STORM_DELAY_MS: u64 = 1_500;

/// How often it does so.
pub const STORM_ROUNDS: u8 = 4;

/// Entries for which an emptied table keeps its room.
pub const TABLE_ENTRIES_KEPT: usize = 1_024;

/// Allocations of one round: the allocator scans all of a thread's pages every so many.
pub const STORM_ALLOCATIONS: usize = 10_000;

/// Their size, in bytes. Allocations up to 1 KiB do not count.
pub const STORM_SMALL_BYTES: usize = 2 * KIB;

/// A block so large that the allocator gives it a page of its own (above 512 KiB), in bytes.
pub const STORM_LARGE_BYTES: usize = 520 * KIB;

// --- Commands ------------------------------------------------------------------------------------

/// Deepest nesting of a JSON document that is parsed. Parsers recurse; the stack must not overflow.
pub const JSON_DEPTH_MAX: usize = 128;

/// Levels that frames, answers and other nodes' requests put around a value that is passed on, at
/// most. Such a value nests up to [`NESTED_DEPTH_MAX`].
pub const NESTED_AROUND_MAX: usize = 8;

/// Entries of one registry command. Larger batches are applied piece by piece, so that one client
/// cannot hold control for long.
pub const COMMAND_ENTRIES_MAX: usize = 1_000;

/// Changes of all services that `services-delta` can go back.
pub const DELTA_CHANGES_MAX: usize = 16_384;

/// Bytes of instances in those changes. A fleet with large metadata must not turn the log into the
/// server's largest structure.
pub const DELTA_BYTES_MAX: usize = 32 * MIB;

/// Bytes of changes up to which a returning client gets them although the present instances would
/// take less: a client that was away for a moment wants the changes themselves. A full history of
/// small instances is less than this.
pub const REPLAY_BYTES_MIN: usize = 512 * KIB;

/// Size from which a snapshot of a service is shared with clients that subscribe while it is being
/// sent, in bytes. A smaller one takes less than the outbox of its reader may hold.
pub const SNAPSHOT_SHARED_BYTES_MIN: usize = 512 * KIB;

/// Most bytes of changes that follow a shared snapshot. Each reader may hold its own.
pub const SNAPSHOT_CHANGES_BYTES_MAX: usize = 256 * KIB;

/// Largest count or time in milliseconds that is accepted from another node: every reader of JSON
/// can hold it (RFC 8259, 6), and counting on from it never reaches the end of 64 bits.
pub const COUNTER_MAX: u64 = 1 << 53;

/// A log that is begun anew counts from a multiple of this many entries above the log before: more than Redis ever
/// loses, and a node that read them would have.
pub const LOG_GAP: u64 = 1 << 24;

/// Checks a count that another node wrote.
///
/// # Errors
///
/// The count is beyond [`COUNTER_MAX`].
pub fn check_counter(what: &str, count: u64) -> Result<(), String> {
    if count <= COUNTER_MAX { Ok(()) } else { Err(format!("{what} is out of range: {count}")) }
}

/// Replays that are kept for the next client with the same position.
pub const REPLAYS_KEPT_MAX: usize = 64;

/// Bytes of them.
pub const REPLAYS_KEPT_BYTES_MAX: usize = 16 * MIB;

/// Shortest time between two searches for services to forget, in milliseconds; it follows from the
/// time for which they are remembered.
pub const FORGET_PAUSE_MS_MIN: u64 = 100;

/// The longest such time, in milliseconds.
pub const FORGET_PAUSE_MS_MAX: u64 = 60_000;

/// Followed services without instances that a search for one to forget skips.
pub const FORGET_LOOK_MAX: usize = 256;

/// Decisions to take an instance out of discovery that are kept when the instance is gone. Beyond it
/// the oldest go.
pub const PULL_OUTS_GONE_MAX: usize = 65_536;

/// Bytes of these, about.
pub const PULL_OUTS_GONE_BYTES_MAX: usize = 32 * MIB;

/// Bytes of such a decision beside its names.
pub const PULL_OUT_OVERHEAD_BYTES: usize = 128;

/// Rows of what operators have decided: operations, groups and what belongs to these. Beyond it new ones are refused.
pub const MANAGEMENT_ROWS_MAX: usize = 65_536;

/// Bytes of these, about.
pub const MANAGEMENT_BYTES_MAX: usize = 32 * MIB;

/// Bytes of such a row beside its texts.
pub const MANAGEMENT_OVERHEAD_BYTES: usize = 192;

/// Bytes of an operator's reason.
pub const MANAGEMENT_REASON_BYTES_MAX: usize = KIB;

/// Bytes of what an operator's tool adds to it.
pub const MANAGEMENT_EXTENSIONS_BYTES_MAX: usize = 4 * KIB;

/// Bytes of a text of a group, or of what belongs to one.
pub const MANAGEMENT_TEXT_BYTES_MAX: usize = KIB;

/// Fields of such an item; tags of a group and fields of metadata in one call.
pub const MANAGEMENT_FIELDS_MAX: usize = 64;

/// The weight of a group in a route rule unless one is released.
pub const ROUTE_WEIGHT_DEFAULT: i64 = 5;

/// The largest weight of a group in a route rule.
pub const ROUTE_WEIGHT_MAX: i64 = 10_000;

/// How far a delta for Eureka's clients goes back, in milliseconds: six of their usual polls.
pub const EUREKA_DELTA_MS: u64 = 180_000;

/// How long such a delta is kept at least, although its oldest change has left the window.
pub const EUREKA_DELTA_KEPT_MS: u64 = 5_000;

/// How often a registration that meets another one of the same instance is tried.
pub const EUREKA_ATTEMPTS_MAX: usize = 16;

/// Locks for checking names and passwords side by side, each for some of their callers.
pub const EUREKA_LOGIN_LOCKS: usize = 64;

/// Changes of instances that are remembered for deltas of the last minutes.
pub const RECENT_CHANGES_MAX: usize = 65_536;

/// Bytes of instances that are gone, in those changes.
pub const RECENT_GONE_BYTES_MAX: usize = 32 * MIB;

// --- People and messages -------------------------------------------------------------------------

/// Longest user id and user name, in bytes.
pub const USER_BYTES_MAX: usize = 255;

/// Users online above which presence is no longer announced, in a room or in all: the
/// announcements grow with the square of the number.
pub const PRESENCE_USERS_MAX: usize = 1_000;

/// The channel on which the server publishes its own counters while it has a subscriber.
pub const STATS_CHANNEL: &str = "$stats";

/// How often the counters are sampled, for the figures of the last seconds and for that channel.
pub const SAMPLE_INTERVAL_MS: u64 = 1_000;

/// The shorter span of figures of the last seconds: short enough to show the present.
pub const RECENT_SHORT_MS: u64 = 10_000;

/// The longer one: long enough for a quiet server to have some events in it.
pub const RECENT_LONG_MS: u64 = 60_000;

/// Lines that wait for standard error. Beyond, lines are left out and counted.
pub const LOG_QUEUE_LINES_MAX: usize = 8_192;

/// Bytes of these lines.
pub const LOG_QUEUE_BYTES_MAX: usize = 4 * MIB;

/// Within this time equal lines of the log are counted together.
pub const LOG_WINDOW_MS: u64 = 10_000;

/// Equal lines that are written within that time: enough to see what repeats, with some request ids.
pub const LOG_EQUAL_LINES_MAX: u32 = 10;

/// Lines of one place in the program that are written within that time, equal or not.
pub const LOG_LINES_MAX: u32 = 200;

/// Kinds of lines that are told apart. Lines of further kinds count for their place in the program.
pub const LOG_KINDS_MAX: usize = 1_024;

/// Bytes of a text that a line with a count repeats of the lines that it stands for.
pub const LOG_LIKE_BYTES_MAX: usize = 300;

/// How often the log's thread checks for lines of its own.
pub const LOG_LOOK_MS: u64 = 1_000;

/// How long the end of the process waits for standard error to take the last lines.
pub const LOG_STOP_MS: u64 = 1_000;

/// Bytes of a path that a line of the log shows.
pub const LOG_PATH_BYTES_MAX: usize = 256;

/// Instances that a line about expired leases names.
pub const LOG_NAMES_MAX: usize = 5;

/// Users of a room that `joined` lists.
pub const ROOM_USERS_LISTED_MAX: usize = 1_000;

/// Users, connections and channels that one answer lists at most.
pub const LISTED_MAX: usize = 10_000;

/// Messages in one answer of a pull, unless the caller says otherwise.
pub const PAGE_DEFAULT: usize = 50;

/// Messages in one answer of a pull, at most.
pub const PAGE_MAX: usize = 500;

/// Longest content of a direct or group message, in bytes of UTF-8.
pub const MESSAGE_CONTENT_BYTES_MAX: usize = 16 * KIB;

/// Longest `message_type` and `event` name, in bytes.
pub const KIND_BYTES_MAX: usize = 255;

/// Longest metadata of a connection, in bytes of JSON. Control keeps them for each open connection.
pub const CONNECTION_METADATA_BYTES_MAX: usize = 4_096;

/// Longest description of a channel, in bytes.
pub const DESCRIPTION_BYTES_MAX: usize = 1_024;

/// Members of a group. A message to a group is a row for each.
pub const GROUP_MEMBERS_MAX: usize = 1_000;

/// Most unanswered invitations to groups of one user. Other users send them; beyond the bound they
/// are refused until some are answered.
pub const INVITATIONS_PER_USER_MAX: usize = 1_000;

/// Groups one user may have made.
pub const GROUPS_PER_OWNER_MAX: usize = 1_000;

/// How long a channel's messages are kept for clients that come back, in milliseconds, unless its
/// namespace says otherwise.
pub const CHANNEL_HISTORY_MS_DEFAULT: u64 = 3_600_000;

/// Most messages a namespace may keep for each of its channels.
pub const NAMESPACE_HISTORY_MAX: usize = 65_536;

/// Time between two searches for unused channels, in milliseconds.
pub const CHANNEL_SWEEP_MS: u64 = 1_000;

/// Channels without subscribers that a search for one to evict skips because they are defined.
pub const ABANDONED_LOOK_MAX: usize = 256;

/// Channels looked at each time.
pub const CHANNEL_SWEEP_MAX: usize = 4_096;

/// Messages that wait for a program that embeds the server and listens. Beyond it the oldest go,
/// and the program gets their number.
pub const LISTENER_MESSAGES_MAX: usize = 4_096;

// --- Accounts ------------------------------------------------------------------------------------

/// Shortest password, in characters.
pub const PASSWORD_CHARS_MIN: usize = 8;

/// Longest password, in bytes. Hashing is slow on purpose; reading need not be.
pub const PASSWORD_BYTES_MAX: usize = 1_024;

/// Memory of one password hash, in KiB: with two passes the second choice of OWASP's Password
/// Storage Cheat Sheet for argon2id.
pub const ARGON2_KIB: u32 = 19 * 1_024;

/// Passes over that memory.
pub const ARGON2_PASSES: u32 = 2;

/// Passwords that wait to be hashed or compared at one door. Beyond it the next one there is
/// `unavailable`.
pub const PASSWORDS_WAITING_MAX: usize = 256;

/// Largest body of a registration or a login, in bytes: a name, a password and an address.
pub const LOGIN_BODY_BYTES_MAX: usize = 4 * KIB;

/// Addresses whose counts of attempts are remembered.
pub const RATE_ENTRIES_MAX: usize = 65_536;

/// Failed logins of one name, or from one address, within [`LOGIN_WINDOW_MS`], before the next
/// attempt is refused unread.
pub const LOGIN_FAILURES_MAX: u32 = 10;

/// The time over which failed logins are counted, in milliseconds.
pub const LOGIN_WINDOW_MS: u64 = 60_000;

/// Logins of one name, or from one address, that wait for the verdicts of others. Beyond it a login
/// is `unavailable`.
pub const LOGINS_WAITING_MAX: usize = 256;

/// How long a login waits for the verdicts of others, in milliseconds: forty at once are compared in a
/// few seconds, on a busy machine in more.
pub const LOGIN_WAIT_MS: u64 = 30_000;

/// Names and addresses whose failures are remembered.
pub const LOGIN_ENTRIES_MAX: usize = 65_536;

/// Shortest lifetime of a token from a login, in milliseconds: there has to be time to renew it.
pub const LOGIN_TOKEN_MS_MIN: u64 = 5_000;

/// Lifetime of a token from a login unless `--login-token-ttl` says otherwise, in milliseconds. A
/// stolen token is worth no more than that; clients renew theirs.
pub const LOGIN_TOKEN_MS_DEFAULT: u64 = 3_600_000;

/// How long after a login its tokens can be renewed unless `--session-max` says otherwise, in
/// milliseconds: 30 days. Then the password is asked for again.
pub const SESSION_MS_MAX_DEFAULT: u64 = 30 * 24 * 3_600_000;

/// Largest body of any other request about an account, in bytes: a name, two passwords and an address, each
/// character escaped, fit.
pub const ACCOUNT_BODY_BYTES_MAX: usize = 16 * 1_024;

/// Single tokens that are revoked and have not run out, of all users. In memory 48 bytes each, in
/// the database about 400: 5 MB and 40 MB. One more revocation ends all tokens of its user instead,
/// which costs one stamp.
pub const REVOKED_TOKENS_MAX: usize = 100_000;

/// The same of one user, so that none fills the table.
pub const REVOKED_TOKENS_PER_USER_MAX: usize = 256;

/// How long a revoked token stays in the database after its end, in seconds: other nodes' clocks may
/// differ, and the newest change is found by its stamp.
pub const REVOKED_TOKEN_REST_S: u64 = 3_600;

/// How long a right password is accepted without another hash, in milliseconds.
pub const CREDENTIAL_CACHE_MS: u64 = 300_000;

/// Names and passwords that are accepted without another hash.
pub const CREDENTIAL_CACHE_MAX: usize = 1_024;

/// How soon a running server reads a change of the command line to an account, in milliseconds.
pub const ACCOUNTS_POLL_MS: u64 = 500;

// --- Many nodes ----------------------------------------------------------------------------------

/// Silence of Redis, in milliseconds, after which a node counts itself as cut off. Well below
/// [`CLUSTER_NODE_MS`]: a node stops accepting heartbeats before others take over its leases.
pub const CLUSTER_CONTACT_MS: u64 = 3_000;

/// Silence of a node, in milliseconds, after which the others count it as gone.
pub const CLUSTER_NODE_MS: u64 = 6_000;

/// Silence of a node, in milliseconds, after which it is forgotten.
pub const CLUSTER_FORGET_MS: u64 = 60_000;

/// Time between two heartbeats of a node.
pub const CLUSTER_HEARTBEAT_MS: u64 = 1_000;

/// Time for Redis to answer a heartbeat, in milliseconds. A Redis that pauses for less, for a slow
/// disk for instance, cuts no node off.
pub const CLUSTER_HEARTBEAT_PATIENCE_MS: u64 = 2_000;

/// How often the pause after a failed heartbeat doubles, beginning with 0.2 s at most.
pub const CLUSTER_HEARTBEAT_DOUBLINGS_MAX: u32 = 3;

/// Heartbeats' answers that are kept until the entries before them are applied. One comes every
/// [`CLUSTER_HEARTBEAT_MS`], and one older than [`CLUSTER_CONTACT_MS`] is useless.
pub const CLUSTER_HEARTBEATS_KEPT: usize = 4;

/// Silence of Redis, in milliseconds, after which a node that starts listens all the same, without
/// the log.
pub const CLUSTER_BEGIN_MS: u64 = 2_000;

/// Time between two checks of a node that starts whether it has loaded the log, in milliseconds.
pub const CLUSTER_LOOK_MS: u64 = 2;

/// Time until an entry that could not be proposed is tried again.
pub const CLUSTER_RETRY_MS: u64 = 1_000;

/// Time for which a command waits for its entry in the log before it is answered `unavailable`.
pub const CLUSTER_PROPOSAL_MS: u64 = 5_000;

/// Commands that wait for their entry in the log.
pub const CLUSTER_PROPOSALS_MAX: usize = 10_000;

/// Entries read from the log at once.
pub const CLUSTER_READ_ENTRIES: usize = 512;

/// Tries to write entries before they count as lost.
pub const CLUSTER_WRITE_TRIES: usize = 2;

/// Entries written to the log in one step.
pub const CLUSTER_WRITE_ENTRIES: usize = 256;

/// Facts of people in one entry of the log.
pub const FACTS_PER_ENTRY_MAX: usize = 256;

/// Time from a channel's last follower on a node until its topic is left, in milliseconds.
pub const CHANNEL_LEAVE_MS: u64 = 1_000;

/// Epochs that a channel has left and that a node remembers.
pub const CHANNEL_EPOCHS_MAX: usize = 8;

/// Messages of a channel that wait here for those before them.
pub const CHANNEL_STASH_MAX: usize = 1_024;

/// Messages read at once to fill a gap in a channel.
pub const CHANNEL_HEAL_MAX: usize = 10_000;

/// Messages of the journal that are not in the database yet; above it no more are accepted.
pub const MESSAGES_UNWRITTEN_MAX: usize = 100_000;

/// Bytes of them, about.
pub const MESSAGES_UNWRITTEN_BYTES_MAX: usize = 256 << 20;

/// Bytes of a message beside its content.
pub const JOURNAL_ENTRY_OVERHEAD_BYTES: usize = 200;

/// Messages of the journal in one transaction.
pub const JOURNAL_RUN_MAX: usize = 512;

/// Rows in inboxes that these may have, above the first one's.
pub const JOURNAL_RUN_ROWS_MAX: usize = 50_000;

/// Time that other nodes have for an answer.
pub const CLUSTER_ASK_MS: u64 = 1_000;

/// Time for a connection to Redis.
pub const REDIS_CONNECT_MS: u64 = 2_000;

/// Time for an answer of Redis.
pub const REDIS_RESPONSE_MS: u64 = 2_000;

/// Time for Redis to take or to give a snapshot of the registry.
pub const REDIS_SNAPSHOT_MS: u64 = 20_000;

/// Time for which a read of the log waits for the next entry.
pub const REDIS_BLOCK_MS: u64 = 1_000;

/// Longest pause between two tries to reach Redis.
pub const REDIS_RETRY_MS_MAX: u64 = 2_000;

/// Characters of the epoch of a new log.
pub const EPOCH_CHARS: usize = 16;

/// Time for which a log that was begun empty gives way to a node with state: Redis may have lost
/// everything, and a node that has just started may have come before the others.
pub const CLUSTER_BARE_MS: u64 = 10_000;

/// Entries after which one node writes a snapshot of the registry, for nodes that join; with more
/// instances than that, it is the next power of two above their number.
pub const CLUSTER_SNAPSHOT_ENTRIES: u64 = 4_096;

/// Time for the other nodes to write a snapshot for a node that requests one. After that the node
/// begins a new log. Heartbeats and a large snapshot both fit into it.
pub const CLUSTER_SNAPSHOT_WAIT_MS: u64 = 10_000;

/// Time between two snapshots that are written on request, over all nodes.
pub const CLUSTER_SNAPSHOT_PAUSE_MS: u64 = 5_000;

/// Calls that one step carries out. Later ones gather for the next.
pub const CLUSTER_CALLS: usize = 128;

/// Time for a connection that calls wait for. Shorter than [`REDIS_CONNECT_MS`]: a call may have
/// waited for an answer before, and both together have to stay bearable.
pub const CLUSTER_CALL_CONNECT_MS: u64 = 1_000;

/// Messages read of a channel at once by a node that begins to follow it.
pub const CLUSTER_ATTACH_MESSAGES: usize = 100_000;

/// Time after its last message for which Redis knows a channel's epoch and offset: 7 days.
pub const CHANNEL_META_MS: u64 = 7 * 86_400_000;

/// Messages of topics that wait to be handed to control. More than a connection's reader takes in
/// one go (up to 1 MiB), so that only a node which cannot keep up ever drops one.
pub const CLUSTER_TOPIC_QUEUE_MAX: usize = 16_384;

/// Bytes of those messages.
pub const CLUSTER_TOPIC_QUEUE_BYTES_MAX: usize = 64 * MIB;

/// Messages of topics handed to control at once.
pub const CLUSTER_TOPIC_MESSAGES: usize = 512;

/// Topics in one `SUBSCRIBE`.
pub const CLUSTER_SUBSCRIBE_TOPICS: usize = 512;

/// Time between two probes of a path to Redis, in milliseconds.
pub const CLUSTER_PATH_PROBE_MS: u64 = 1_000;

/// Time for which a path to Redis counts as working after a successful probe, in milliseconds. It
/// allows for a slow answer to a probe.
pub const CLUSTER_PATH_MS: u64 = 4_000;

/// Unanswered probes of topics after which their connection counts as deaf. Every probe sends a
/// message of this node to itself.
pub const CLUSTER_SILENT_PROBES: u32 = 3;

/// Time for which the journal keeps messages that the database has, for nodes that are cut off
/// meanwhile.
pub const JOURNAL_KEPT_MS: u64 = 120_000;

/// How often a watch of the embedding program asks again at once while control's mailbox is full.
pub const WATCH_ATTEMPTS_MAX: usize = 100;

/// A connection whose messages are limited for this long without a pause is closed, in
/// milliseconds.
pub const RATE_PATIENCE_MS: u64 = 10_000;

/// This long without a limited message counts as a pause, in milliseconds.
pub const RATE_PAUSE_MS: u64 = 1_000;

/// How many polls report a change of an account again. A change may get its stamp first and be seen
/// second, and a login that read the account meanwhile has to learn of it.
pub const ACCOUNT_POLL_REPEATS: usize = 20;

/// How far below the newest known stamp the first polls look, in milliseconds, for the same reason.
pub const ACCOUNT_POLL_OVERLAP_MS: i64 = 10_000;

/// Longest piece of a wrong setting that a message repeats, in characters.
pub const QUOTED_SETTING_CHARS_MAX: usize = 64;

/// Most origins that a refusal lists.
pub const SHOWN_ORIGINS_MAX: usize = 8;

/// Longest piece of a refused origin that a refusal repeats, in characters.
pub const SHOWN_ORIGIN_CHARS_MAX: usize = 128;

/// How long a browser may remember a preflight's answer, in seconds: an origin that is removed from
/// the list is refused after that.
pub const PREFLIGHT_AGE_S: u64 = 600;

/// Longest base path, in bytes.
pub const BASE_PATH_BYTES_MAX: usize = 255;

/// Most headers that the parser of request heads has room for. `request-headers-max` is at most this.
pub const HEAD_HEADERS_MAX: usize = 256;

/// Longest name of a host, in bytes (RFC 1035, 2.3.4).
pub const HOST_BYTES_MAX: usize = 253;

/// Most combining marks on one letter of a username (UTS #39, section 5.4, asks for four).
pub const NAME_MARKS_MAX: usize = 4;

/// Size from which on JSON goes through simd-json, in bytes: below it `serde_json` is faster.
pub const SIMD_BYTES_MIN: usize = 32 * KIB;

/// Longest message about a text that cannot be read, in bytes. The longest path of known fields is far below.
pub const FAULT_BYTES_MAX: usize = 256;

/// Longest number that such a message repeats, in bytes: every 64-bit integer fits.
pub const FAULT_NUMBER_BYTES_MAX: usize = 20;

/// Most threads that hash passwords, however many cores there are.
pub const PASSWORD_THREADS_MAX: usize = 8;

/// Connections that `/api/v1/connections` lists if the caller gives no limit.
pub const CONNECTIONS_LISTED_DEFAULT: usize = 1_000;

/// Wordings of one fault of a node's backplane that the log shows.
pub const OUTAGE_WORDINGS_MAX: usize = 8;

/// Largest snapshot, in bytes of its list, that is put in the order of a subscriber's preference. A larger one is in
/// memory once for all that are sent it, and keeps its order.
pub const NEAREST_LIST_BYTES_MAX: usize = 1024 * 1024;

/// Snapshots in the order of a preference that a shard keeps for those who ask for the same: a few zones' subscribers
/// of the services that a rollout changes.
pub const NEAREST_LISTS_KEPT_MAX: usize = 16;

const _: () = assert!(
    CLUSTER_PATH_PROBE_MS + REDIS_RESPONSE_MS < CLUSTER_PATH_MS,
    "a path whose probe is waited for counts as working"
);
const _: () = assert!(
    CLUSTER_SNAPSHOT_PAUSE_MS + CLUSTER_HEARTBEAT_MS + REDIS_RETRY_MS_MAX
        < CLUSTER_SNAPSHOT_WAIT_MS,
    "a node that asks is answered by then, and has begun"
);
const _: () = assert!(CLUSTER_CONTACT_MS < CLUSTER_NODE_MS, "heartbeats end before adoption");
const _: () = assert!(
    CLUSTER_HEARTBEAT_MS + CLUSTER_HEARTBEAT_PATIENCE_MS <= CLUSTER_CONTACT_MS,
    "a sign of life that is waited for comes in time"
);
const _: () = assert!(
    2 * (REDIS_CONNECT_MS + REDIS_RETRY_MS_MAX) < CLUSTER_BARE_MS,
    "those that know have come by then"
);
const _: () = assert!(
    CLUSTER_CALL_CONNECT_MS + REDIS_RESPONSE_MS < CLUSTER_PROPOSAL_MS,
    "calls fail before those behind them are too old"
);

// --- Leases --------------------------------------------------------------------------------------

/// Overdue leases of a service below which self-protection never starts: a service of four may
/// really lose two instances in one moment.
pub const PROTECTION_OVERDUE_MIN: usize = 3;

/// Share of overdue leases above which self-protection starts, in percent of the service.
pub const PROTECTION_PERCENT: usize = 15;

/// Longest time self-protection holds the expiry of a service, in milliseconds, unless configured:
/// dead instances are not immortal.
pub const SELF_PROTECTION_MS_MAX_DEFAULT: u64 = 600_000;

/// Tick of the lease wheel, in milliseconds.
pub const LEASE_TICK_MS: u64 = 100;

/// Length of the lease wheel's ring, in ticks. Longer leases go round again.
pub const LEASE_WHEEL_SLOTS: usize = 1_024;

/// Time for which overdue leases of a service are gathered before they are judged together, in
/// milliseconds. With the wheel's tick it stays within the second that expiry may be late.
pub const EXPIRY_JUDGE_DELAY_MS: u64 = 500;

// --- Tokens --------------------------------------------------------------------------------------

/// Length of a generated token secret, in random bytes, and the least length of a given one.
/// RFC 7518 section 3.2 asks for as many bytes as the hash has.
pub const JWT_SECRET_BYTES: usize = 32;

/// Secrets besides the first whose tokens are accepted: a change of secret needs one.
pub const JWT_OTHER_SECRETS_MAX: usize = 8;

/// Longest issuer or audience that tokens can be asked for, in bytes.
pub const CLAIM_BYTES_MAX: usize = 1_024;

/// Largest set of public keys of tokens (JWKS), in bytes.
pub const JWKS_BYTES_MAX: usize = 256 * 1_024;

/// Keys in such a set. A token that names none is tried with each of its algorithm.
pub const JWKS_KEYS_MAX: usize = 32;

/// Longest name of a key in such a set, in bytes.
pub const JWKS_KEY_ID_BYTES_MAX: usize = 256;

/// Largest RSA key of such a set, in bits. Checking a signature takes four times as long with twice as many.
pub const JWKS_RSA_BITS_MAX: usize = 8_192;

/// Shortest time between two readings of such a set, in milliseconds: also a token that no key has signed
/// has it read again, and anybody can make such a token.
pub const JWKS_REFRESH_MS_MIN: u64 = 10_000;

/// Time between two readings of such a set where none is set, in milliseconds.
pub const JWKS_REFRESH_MS_DEFAULT: u64 = 300_000;

/// Time after which a failed reading of such a set is tried again, in milliseconds, where it is not read sooner.
pub const JWKS_RETRY_MS: u64 = 30_000;

/// Longest time between two readings of such a set, in milliseconds.
pub const JWKS_REFRESH_MS_MAX: u64 = 24 * 3_600_000;

/// Longest lifetime of a token from the command line, in milliseconds: ten years.
pub const TOKEN_TTL_MS_MAX: u64 = 10 * 365 * 24 * 3_600_000;

// --- Storage -------------------------------------------------------------------------------------

/// Time between two commits of registry changes, in milliseconds. Half of the second of changes
/// that a kill may cost.
pub const STORE_FLUSH_INTERVAL_MS: u64 = 500;

/// How long an event stays in the audit log, in milliseconds, unless configured: a week, so that Monday can ask
/// about Friday.
pub const AUDIT_AGE_MS_MAX_DEFAULT: u64 = 7 * 86_400_000;

/// Bytes of the audit log, unless configured: some four million events.
pub const AUDIT_BYTES_MAX_DEFAULT: usize = 1_024 * MIB;

/// Events of the audit log that wait for the store at most. A restart of a large fleet fits.
pub const AUDIT_WAITING_MAX: usize = 200_000;

/// Bytes that these take at most.
pub const AUDIT_WAITING_BYTES_MAX: usize = 64 * MIB;

/// Events in one row of the audit log. More make a row slow to read for one of them.
pub const AUDIT_BATCH_EVENTS: usize = 256;

/// What a row of the audit log costs beside its text, in bytes.
pub const AUDIT_BATCH_OVERHEAD_BYTES: usize = 128;

/// Rows beyond those just written that one transaction removes from the audit log: after a lower bound was set,
/// a gigabyte goes within minutes and delays nobody.
pub const AUDIT_TRIM_BATCHES: usize = 64;

/// Rows of the audit log that a reader takes at a time: about a megabyte.
pub const AUDIT_READ_BATCHES: i32 = 16;

/// Bytes of the audit log that one request looks through. The caller is told where to go on.
pub const AUDIT_SCAN_BYTES: usize = 64 * MIB;

/// Pages of the audit log, of [`PAGE_MAX`] events or [`AUDIT_SCAN_BYTES`], that one call of an operator's tool
/// looks through for the rows that it wants.
pub const AUDIT_LOG_PAGES_MAX: usize = 16;

/// Pages of the audit log, of [`PAGE_MAX`] events or [`AUDIT_SCAN_BYTES`], that one summary of a service adds up.
pub const SUMMARY_PAGES_MAX: usize = 100;

/// Instances that one summary of a service tells apart.
pub const SUMMARY_INSTANCES_MAX: usize = 20_000;

/// Time a statement waits for another process that holds the database, in milliseconds.
pub const STORE_BUSY_TIMEOUT_MS: u64 = 1_000;

/// First pause before a failed commit is tried again, in milliseconds. Doubles at each failure.
pub const STORE_RETRY_MS_MIN: u64 = 100;

/// Times that a database is claimed before it counts as another server's, with the pause above between
/// two: a connection that has just ended holds its claim for a moment yet.
pub const STORE_CLAIM_TRIES: u32 = 5;

/// Longest pause before a failed commit is tried again, in milliseconds.
pub const STORE_RETRY_MS_MAX: u64 = 5_000;

/// Attempts at the last sets of registry changes while the server stops. After that the exit goes on,
/// the log names what is lost, and the database stays marked as not cleanly closed.
pub const STORE_CLOSE_ATTEMPTS_MAX: u32 = 3;

/// Time for one statement while the server stops, in milliseconds.
pub const STORE_CLOSE_MS: u64 = 4_000;

/// Time for a connection to the database, in milliseconds.
pub const STORE_CONNECT_MS: u64 = 10_000;

/// Rows that the database may refuse in one set, each by itself, before the set counts as refused
/// as a whole: then the data is not at fault.
pub const STORE_SET_ASIDE_MAX: usize = 100;

/// Keys of refused rows that are remembered.
pub const STORE_ASIDE_KEYS_MAX: usize = 100_000;

/// Services and instances that the log names if they could not be stored before the end.
pub const STORE_LOST_NAMES_MAX: usize = 50;

/// Writes that wait for the one before to reach the disk. Beyond it the next is `unavailable`.
pub const WRITES_WAITING_MAX: usize = 65_536;

/// Bytes of those writes, about.
pub const WRITES_WAITING_BYTES_MAX: usize = 64 * MIB;

/// Writes in one transaction. Bounds the time until the first of them is acknowledged.
pub const WRITES_PER_COMMIT_MAX: usize = 2_048;

/// Bytes of those writes, about. A larger one goes alone.
pub const WRITES_PER_COMMIT_BYTES_MAX: usize = 8 * MIB;

/// Writes after which new messages are sorted into the inboxes, whether the store rests or not.
/// Until then each pull scans them.
pub const INBOX_MERGE_MESSAGES: usize = 8_192;

/// How long the store rests before it sorts them, in milliseconds.
pub const INBOX_MERGE_REST_MS: u64 = 50;

/// Queries that wait for the database's readers. Beyond it the next is `unavailable`.
pub const QUERIES_WAITING_MAX: usize = 4_096;

/// Connections to the database for reading.
pub const STORE_READERS: u32 = 4;

/// Time a query may take, in milliseconds.
pub const QUERY_TIMEOUT_MS: u64 = 10_000;

/// Accounts that one query for changed ones gives at most. The rest comes with the next.
pub const ACCOUNTS_PAGE: usize = 10_000;

/// Rows of one statement. A message to a group of a thousand is as many.
pub const STORE_STATEMENT_ROWS: usize = 16_384;

/// Bytes of one statement's rows, as JSON. One larger row is a statement of its own.
pub const STORE_STATEMENT_BYTES: usize = 8 * MIB;

/// Silence of a node within a transaction, in milliseconds, after which the shared database gives
/// up on it: the others wait for its locks.
pub const STORE_SHARED_IDLE_MS: u64 = 5_000;

/// Time a node waits for another one's lock in the shared database, in milliseconds.
pub const STORE_SHARED_LOCK_MS: u64 = 10_000;

/// Time the database has for one request, in milliseconds. Then the connection counts as lost.
pub const STORE_SHARED_MS: u64 = 30_000;

/// Versions set aside durably when the store opens, so that none is ever used twice even if the
/// server is killed before its first commit.
pub const STORE_VERSION_RESERVE: u64 = 1_000_000;

// --- Relations -----------------------------------------------------------------------------------

const _: () = assert!(
    Limits::DEFAULT.client_message_bytes_max <= READ_BUFFER_BYTES,
    "one read takes a full message"
);
const _: () = assert!(
    Limits::DEFAULT.client_message_bytes_max <= Limits::DEFAULT.outbox_bytes_max,
    "what one client may publish must fit an empty outbox"
);
const _: () = assert!(
    Limits::DEFAULT.client_messages_burst_max >= Limits::DEFAULT.client_messages_per_s_max,
    "a burst below the rate would make the rate unreachable"
);
const _: () = assert!(
    Limits::DEFAULT.control_frames_burst_max >= Limits::DEFAULT.control_frames_per_s_max,
    "a burst below the rate would make the rate unreachable"
);
const _: () = assert!(
    CONTINUATIONS_BURST_MAX > EMPTY_FRAGMENTS_MAX as u32,
    "empty fragments are told by their own bound"
);
const _: () = assert!(
    Limits::DEFAULT.topic_bytes_max < Limits::DEFAULT.client_message_bytes_max,
    "a topic name fits in a message"
);
const _: () = assert!(
    Limits::DEFAULT.services_max <= Limits::DEFAULT.instances_max,
    "a service starts with an instance"
);
const _: () = assert!(
    Limits::DEFAULT.drain_window_ms <= DRAIN_WINDOW_MS_MAX
        && DRAIN_WINDOW_MS_MAX + CLOSE_LINGER_MS + DRAIN_REQUESTS_MS < DRAIN_MS_MAX,
    "a drain ends in time"
);
const _: () = assert!(
    MESSAGE_CONTENT_BYTES_MAX < Limits::DEFAULT.client_message_bytes_max,
    "a direct message fits where any message does"
);
const _: () = assert!(
    Limits::DEFAULT.channel_history_bytes_max <= Limits::DEFAULT.history_bytes_max
        && Limits::DEFAULT.service_history_bytes_max <= Limits::DEFAULT.history_bytes_max,
    "one history fits beside others"
);
const _: () = assert!(
    2 * Limits::DEFAULT.instance_bytes_max <= Limits::DEFAULT.service_history_bytes_max,
    "the largest change is kept"
);
const _: () = assert!(
    2 * Limits::DEFAULT.client_message_bytes_max <= Limits::DEFAULT.channel_history_bytes_max,
    "the largest message of a client is kept"
);
const _: () = assert!(
    FORGET_PAUSE_MS_MAX < Limits::DEFAULT.service_forget_ms,
    "a name comes back soon after its time"
);
const _: () = assert!(
    NESTED_DEPTH_MAX + NESTED_AROUND_MAX < JSON_DEPTH_MAX,
    "what is passed on can be read where it stands"
);
const _: () = assert!(
    Limits::DEFAULT.instance_bytes_max <= Limits::DEFAULT.http_registry_body_bytes_max,
    "the largest instance fits a request"
);
const _: () = assert!(
    6 * MESSAGE_CONTENT_BYTES_MAX + KIB <= Limits::DEFAULT.http_body_bytes_max,
    "the longest message fits its body, however it is escaped"
);
const _: () = assert!(
    GROUP_MEMBERS_MAX * (USER_BYTES_MAX + 4) + 2 * KIB <= Limits::DEFAULT.http_body_bytes_max,
    "the largest group fits its body"
);
const _: () = assert!(
    Limits::DEFAULT.http_registry_body_bytes_max
        <= Limits::DEFAULT.unfinished_body_bytes_per_address_max
        && Limits::DEFAULT.unfinished_body_bytes_per_address_max
            <= Limits::DEFAULT.unfinished_body_bytes_max,
    "the largest body can arrive"
);
const _: () = assert!(PAGE_DEFAULT <= PAGE_MAX, "the default page is no larger");
const _: () = assert!(
    LEASE_TTL_MS_MIN <= LEASE_TTL_MS_DEFAULT && LEASE_TTL_MS_DEFAULT <= LEASE_TTL_MS_MAX,
    "the default lease is one an instance may ask for"
);
const _: () = assert!(
    LEASE_TTL_MS_MAX > SELF_PROTECTION_MS_MAX_DEFAULT,
    "protection is shorter than the longest lease"
);
const _: () = assert!(EXPIRY_JUDGE_DELAY_MS + 2 * LEASE_TICK_MS < 1_000, "expiry is in time");
const _: () =
    assert!(COPY_BYTES_MAX <= RUN_BYTES_MAX, "a run is larger than what is worth copying");
const _: () = assert!(PROTECTION_PERCENT < 100, "a share of a service");
const _: () = assert!(STORE_RETRY_MS_MIN <= STORE_RETRY_MS_MAX, "pauses grow");
const _: () = assert!(
    STORE_CLOSE_MS + STOP_RESERVE_MS < DRAIN_MS_MAX - DRAIN_WINDOW_MS_MAX,
    "a database that does not answer is asked once in the longest drain"
);
const _: () = assert!(
    STORE_SHARED_IDLE_MS < STORE_SHARED_LOCK_MS && STORE_SHARED_LOCK_MS < STORE_SHARED_MS,
    "a node that hangs is gone before those behind it give up"
);
const _: () = assert!(
    STORE_FLUSH_INTERVAL_MS < 1_000,
    "a kill costs at most the last second of registry changes"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_is_the_constant() {
        assert_eq!(Limits::default(), Limits::DEFAULT);
    }
}
