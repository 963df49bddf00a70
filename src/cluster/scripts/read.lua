-- Where a channel stands, and what it keeps.
-- KEYS: stream, meta.
-- ARGV: the first offset wanted, how many at most, epoch to begin with or nothing, for how many
-- milliseconds that is kept.
local meta = redis.call('HMGET', KEYS[2], 'e', 's')
if not meta[1] then
    if ARGV[3] == '' then return false end
    redis.call('HSET', KEYS[2], 'e', ARGV[3], 's', 0)
    redis.call('PEXPIRE', KEYS[2], ARGV[4])
    redis.call('DEL', KEYS[1])
    return {ARGV[3], '0', {}}
end
local kept = redis.call('XRANGE', KEYS[1], ARGV[1] .. '-0', '+', 'COUNT', ARGV[2])
return {meta[1], meta[2] or '0', kept}
