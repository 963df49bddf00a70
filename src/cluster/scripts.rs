//! What Redis does in one step, as Lua scripts.
//!
//! Part of `cluster`.

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
pub(super) const IMAGE: &str = key!("image");
/// The epoch of a log that was begun a moment ago by a node that knew nothing.
pub(super) const BARE: &str = key!("bare");
/// The node that waits for a snapshot, while there is none that it can begin from.
pub(super) const WANTED: &str = key!("wanted");
/// There while a node writes a snapshot because one was asked for.
pub(super) const IMAGE_TURN: &str = key!("image-turn");
/// When each node was last heard of, by Redis' own clock.
pub(super) const NODES: &str = key!("nodes");
/// What each node says of itself.
pub(super) const ABOUT: &str = key!("about");

/// Written to see whether Redis takes writes to the log.
pub(super) const LOG_PROBE: &str = key!("probe");

/// Written to see whether Redis takes what calls write.
pub(super) const CALLS_PROBE: &str = "fanfare:{messages}:probe";
/// The stream of direct and group messages. Its keys are in a slot of their own.
pub(super) const JOURNAL: &str = "fanfare:{messages}:journal";
/// The number of its newest entry.
pub(super) const JOURNAL_SEQUENCE: &str = "fanfare:{messages}:sequence";
/// Up to which entry the database has it.
pub(super) const WRITTEN_UP_TO: &str = "fanfare:{messages}:written";

/// Appends entries, each with the next number. `KEYS`: log, sequence, epoch. `ARGV`: node, and for each
/// entry its number at the node, its time and its text.
pub(super) static APPEND: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('EXISTS', KEYS[3]) == 0 then
             return redis.error_reply('NOLOG no log was begun')
         end
         for i = 2, #ARGV, 3 do
             local s = redis.call('INCR', KEYS[2])
             redis.call('XADD', KEYS[1], '*', 's', s, 'n', ARGV[1], 'k', ARGV[i], 't', ARGV[i + 1],
                 'e', ARGV[i + 2])
         end
         return redis.call('GET', KEYS[2])",
    )
});

/// Notes that a node is alive, forgets those that are long gone, and tells who is, what time it is by
/// Redis' clock, and whether a snapshot is asked for. `KEYS`: nodes, sequence, about, wanted. `ARGV`: node, milliseconds after which a node counts as gone, what the
/// node says of itself, milliseconds after which a node is forgotten.
pub(super) static BEAT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local t = redis.call('TIME')
         local now = t[1] * 1000 + math.floor(t[2] / 1000)
         redis.call('ZADD', KEYS[1], now, ARGV[1])
         redis.call('HSET', KEYS[3], ARGV[1], ARGV[3])
         for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[4])) do
             redis.call('ZREM', KEYS[1], node)
             redis.call('HDEL', KEYS[3], node)
         end
         local nodes = {}
         local seen = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
         for i = 1, #seen, 2 do
             local age = string.format('%d', math.max(now - seen[i + 1], 0))
             table.insert(nodes, {seen[i], age, redis.call('HGET', KEYS[3], seen[i]) or ''})
         end
         return {redis.call('GET', KEYS[2]) or '0', nodes, string.format('%d', now),
             redis.call('EXISTS', KEYS[4])}",
    )
});

/// Begins a log where there is none, where the one known is shorter than it was, where one was begun
/// with nothing and something is known, or where a node has asked for a snapshot in vain. `KEYS`: epoch,
/// snapshot, sequence, log, bare, wanted. `ARGV`: epoch, snapshot, the epoch known or nothing, how many
/// entries that had, for how many milliseconds one that is begun with nothing gives way, the node that
/// asked in vain or nothing. Returns the epoch in force.
///
/// What a node begins that asked in vain gives way as well: one that knows more may only be slow.
pub(super) static SEED: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local epoch = redis.call('GET', KEYS[1])
         local s = tonumber(redis.call('GET', KEYS[3]) or '0')
         local is_short = epoch == ARGV[3] and s < tonumber(ARGV[4])
         local gives_way = ARGV[3] ~= '' and ARGV[3] ~= epoch
             and redis.call('GET', KEYS[5]) == epoch
         local in_vain = ARGV[6] ~= '' and redis.call('GET', KEYS[6]) == ARGV[6]
             and epoch == ARGV[3]
         if epoch and not is_short and not gives_way and not in_vain then return epoch end
         redis.call('DEL', KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6])
         redis.call('SET', KEYS[2], ARGV[2])
         redis.call('SET', KEYS[1], ARGV[1])
         if ARGV[3] == '' or in_vain then redis.call('SET', KEYS[5], ARGV[1], 'PX', ARGV[5]) end
         return ARGV[1]",
    )
});

/// Whether a stream is the one that an entry was read from. The last id that a stream gave out
/// outlives its entries; a stream that is not there contradicts nothing.
macro_rules! has_entry {
    () => {
        "local function has(log, position)
             if position == '0-0' or redis.call('EXISTS', log) == 0 then return true end
             if #redis.call('XRANGE', log, position, position) > 0 then return true end
             local about = redis.call('XINFO', 'STREAM', log)
             for i = 1, #about, 2 do
                 if about[i] == 'last-generated-id' then return about[i + 1] == position end
             end
             return false
         end
         "
    };
}

/// Tells whether the log is the one that an entry was read from. `KEYS`: log. `ARGV`: the entry's id.
pub(super) static HAS_ENTRY: LazyLock<Script> =
    LazyLock::new(|| Script::new(concat!(has_entry!(), "return has(KEYS[1], ARGV[1]) and 1 or 0")));

/// Keeps a snapshot and drops the entries that it holds, where nothing else was begun meanwhile, no
/// later snapshot is kept, and the log has the snapshot's last entry. `KEYS`: epoch, snapshot, log, sequence,
/// wanted. `ARGV`: epoch, snapshot, the place of its last entry and that one's number.
///
/// The number stands at the head of a snapshot's text.
pub(super) static KEEP_IMAGE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        has_entry!(),
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
         if redis.call('TYPE', KEYS[2]).ok ~= 'string' then redis.call('DEL', KEYS[2]) end
         local head = redis.call('GETRANGE', KEYS[2], 0, 127)
         local kept = tonumber(string.match(head, '\"sequence\":(%d+)') or '0')
         local newest = tonumber(redis.call('GET', KEYS[4]) or ARGV[4])
         if kept >= tonumber(ARGV[4]) and redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
         if newest < tonumber(ARGV[4]) or not has(KEYS[3], ARGV[3]) then return 0 end
         redis.call('SET', KEYS[2], ARGV[2])
         redis.call('DEL', KEYS[5])
         redis.call('XTRIM', KEYS[3], 'MINID', '~', ARGV[3])
         return 1"
    ))
});

/// Asks for a snapshot. One that cannot be read is removed first, so that it does not stand in the way
/// of the next. `KEYS`: wanted, snapshot. `ARGV`: node, for how many milliseconds it asks, whether the
/// snapshot cannot be read, the length and the first bytes of its text; nothing where it is no text.
/// Returns the node that is waited for.
pub(super) static WANT_IMAGE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if ARGV[3] == '1' then
             local is_text = redis.call('TYPE', KEYS[2]).ok == 'string'
             if not is_text or (redis.call('STRLEN', KEYS[2]) == tonumber(ARGV[4])
                     and redis.call('GETRANGE', KEYS[2], 0, 127) == ARGV[5]) then
                 redis.call('DEL', KEYS[2])
             end
         end
         redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])
         local node = redis.call('GET', KEYS[1])
         if node == ARGV[1] then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
         return node",
    )
});

/// Gives a message of a channel its place, keeps it, and tells everyone who follows. `KEYS`: stream,
/// meta. `ARGV`: epoch to begin with, how many messages are kept, for how many milliseconds, and
/// for how many the meta is, topic, text, who does not get it, how many bytes of messages are kept.
/// Returns epoch, offset and time.
///
/// Each entry says how many bytes the channel has had with it. What is too much is looked for once an
/// eighth of the bound has come since the last look.
///
/// What expires is set to do so an eighth later than it has to, and set anew when that eighth is over:
/// two writes fewer a message.
pub(super) static PUBLISH: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local meta = redis.call('HMGET', KEYS[2], 'e', 'x', 'b', 'c')
         local epoch = meta[1]
         if not epoch then
             epoch = ARGV[1]
             redis.call('HSET', KEYS[2], 'e', epoch)
         end
         local offset = redis.call('HINCRBY', KEYS[2], 's', 1)
         -- What an earlier life of the channel left behind.
         if offset == 1 then redis.call('DEL', KEYS[1]) end
         local place = string.format('%d', offset)
         local t = redis.call('TIME')
         local at = string.format('%d', t[1] * 1000 + math.floor(t[2] / 1000))
         if tonumber(ARGV[2]) > 0 then
             local bytes = tonumber(meta[3] or '0') + #ARGV[6]
             local sum = string.format('%d', bytes)
             redis.call('HSET', KEYS[2], 'b', sum)
             if ARGV[7] == '' then
                 redis.call('XADD', KEYS[1], 'MAXLEN', '=', ARGV[2], place .. '-0', 't', at,
                     'm', ARGV[6], 'b', sum)
             else
                 redis.call('XADD', KEYS[1], 'MAXLEN', '=', ARGV[2], place .. '-0', 't', at,
                     'm', ARGV[6], 'b', sum, 'x', ARGV[7])
             end
             local max = tonumber(ARGV[8])
             if bytes - tonumber(meta[4] or '0') > max / 8 then
                 redis.call('HSET', KEYS[2], 'c', sum)
                 local from, drop = '-', nil
                 while from do
                     local some = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', 16)
                     from = nil
                     for _, entry in ipairs(some) do
                         local size, upto = 0, 0
                         for i = 1, #entry[2], 2 do
                             if entry[2][i] == 'm' then size = #entry[2][i + 1] end
                             if entry[2][i] == 'b' then upto = tonumber(entry[2][i + 1]) end
                         end
                         from = nil
                         if bytes - upto + size <= max then break end
                         local number = tonumber(string.match(entry[1], '(%d+)'))
                         drop = string.format('%d', number + 1) .. '-0'
                         from = drop
                     end
                 end
                 if drop then redis.call('XTRIM', KEYS[1], 'MINID', '=', drop) end
             end
         end
         if not meta[2] or tonumber(meta[2]) <= tonumber(at) then
             local more = math.max(1, math.floor(math.min(ARGV[3], ARGV[4]) / 8))
             redis.call('HSET', KEYS[2], 'x', string.format('%d', at + more))
             redis.call('PEXPIRE', KEYS[1], string.format('%d', ARGV[3] + more))
             redis.call('PEXPIRE', KEYS[2], string.format('%d', ARGV[4] + more))
         end
         redis.call('PUBLISH', ARGV[5],
             epoch .. ' ' .. place .. ' ' .. at .. ' ' .. ARGV[7] .. '\\n' .. ARGV[6])
         return {epoch, place, at}",
    )
});

/// Where a channel stands, and what it keeps. `KEYS`: stream, meta. `ARGV`: the first offset wanted,
/// how many at most, epoch to begin with or nothing, for how many milliseconds that is kept.
pub(super) static READ: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local meta = redis.call('HMGET', KEYS[2], 'e', 's')
         if not meta[1] then
             if ARGV[3] == '' then return false end
             redis.call('HSET', KEYS[2], 'e', ARGV[3], 's', 0)
             redis.call('PEXPIRE', KEYS[2], ARGV[4])
             redis.call('DEL', KEYS[1])
             return {ARGV[3], '0', {}}
         end
         local kept = redis.call('XRANGE', KEYS[1], ARGV[1] .. '-0', '+', 'COUNT', ARGV[2])
         return {meta[1], meta[2] or '0', kept}",
    )
});

/// Forgets a channel. `KEYS`: stream, meta. Returns whether there was one.
pub(super) static DELETE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "redis.call('DEL', KEYS[1])
         return redis.call('DEL', KEYS[2])",
    )
});

/// Puts a message into the journal. `KEYS`: journal, its sequence. `ARGV`: chance, text. Returns the
/// entry's id, its number and the chance.
pub(super) static POST: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local s = redis.call('INCR', KEYS[2])
         local id = redis.call('XADD', KEYS[1], '*', 's', s, 'r', ARGV[1], 'm', ARGV[2])
         return {id, s, ARGV[1]}",
    )
});

/// Makes every id that the journal will give out higher than one that the database has. `KEYS`:
/// journal, its sequence. `ARGV`: that id. Returns the number of the entry that it took; 0 where it
/// took none.
pub(super) static FLOOR: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local last = '0-0'
         if redis.call('EXISTS', KEYS[1]) == 1 then
             local about = redis.call('XINFO', 'STREAM', KEYS[1])
             for i = 1, #about, 2 do
                 if about[i] == 'last-generated-id' then last = about[i + 1] end
             end
         end
         local ms, n = string.match(last, '(%d+)-(%d+)')
         local floor_ms, floor_n = string.match(ARGV[1], '(%d+)-(%d+)')
         ms, n, floor_ms, floor_n = tonumber(ms), tonumber(n), tonumber(floor_ms), tonumber(floor_n)
         if ms > floor_ms or (ms == floor_ms and n >= floor_n) then return 0 end
         local s = redis.call('INCR', KEYS[2])
         redis.call('XADD', KEYS[1], ARGV[1], 's', s)
         return s",
    )
});

/// Notes up to which entry the database has the journal, and drops what it has for long enough.
/// `KEYS`: written, journal. `ARGV`: the entry's id, milliseconds for which entries are kept.
pub(super) static WRITTEN: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local id = ARGV[1]
         local ms, n = string.match(id, '(%d+)-(%d+)')
         local old = redis.call('GET', KEYS[1])
         if old then
             local old_ms, old_n = string.match(old, '(%d+)-(%d+)')
             if tonumber(old_ms) > tonumber(ms)
                 or (old_ms == ms and tonumber(old_n) >= tonumber(n)) then
                 id, ms = old, old_ms
             end
         end
         if id ~= old then redis.call('SET', KEYS[1], id) end
         local t = redis.call('TIME')
         local kept = t[1] * 1000 + math.floor(t[2] / 1000) - ARGV[2]
         if tonumber(ms) > kept then id = string.format('%d', kept) .. '-0' end
         return redis.call('XTRIM', KEYS[2], 'MINID', '~', id)",
    )
});

/// What the carrying out of calls needs, loaded together.
pub(super) fn of_calls() -> [&'static Script; 6] {
    [&PUBLISH, &READ, &DELETE, &POST, &FLOOR, &WRITTEN]
}
