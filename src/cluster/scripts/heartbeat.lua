-- Notes that a node is alive, forgets those that are long gone, and tells who is, what time it is
-- by Redis' clock, and whether a snapshot is asked for.
-- KEYS: nodes, sequence, about, wanted.
-- ARGV: node, milliseconds after which a node counts as gone, what the node says of itself,
-- milliseconds after which a node is forgotten.
local t = redis.call('TIME')
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
    redis.call('EXISTS', KEYS[4])}
