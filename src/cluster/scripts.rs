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
/// When each node was last heard of, by Redis' own clock.
pub(super) const NODES: &str = key!("nodes");
/// What each node says of itself.
pub(super) const ABOUT: &str = key!("about");

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

/// Notes that a node is alive, forgets those that are long gone, and tells who is. `KEYS`: nodes,
/// sequence, about. `ARGV`: node, milliseconds after which a node counts as gone, what the
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
         return {redis.call('GET', KEYS[2]) or '0', nodes}",
    )
});

/// Begins a log where there is none. `KEYS`: epoch, image, sequence, log. `ARGV`: epoch, image.
/// Returns the epoch in force.
pub(super) static SEED: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local epoch = redis.call('GET', KEYS[1])
         if epoch then return epoch end
         redis.call('DEL', KEYS[3], KEYS[4])
         redis.call('SET', KEYS[2], ARGV[2])
         redis.call('SET', KEYS[1], ARGV[1])
         return ARGV[1]",
    )
});

/// Keeps an image and drops the entries that it holds, where nothing else was begun meanwhile.
/// `KEYS`: epoch, image, log. `ARGV`: epoch, image, the place of its last entry.
pub(super) static KEEP_IMAGE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
         redis.call('SET', KEYS[2], ARGV[2])
         redis.call('XTRIM', KEYS[3], 'MINID', '~', ARGV[3])
         return 1",
    )
});
