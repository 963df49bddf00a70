-- Notes up to which entry the database has the journal, and drops what it has for long enough.
-- KEYS: written, journal.
-- ARGV: the entry's id, milliseconds for which entries are kept.
local id = ARGV[1]
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
return redis.call('XTRIM', KEYS[2], 'MINID', '~', id)
