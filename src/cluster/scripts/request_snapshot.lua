-- Asks for a snapshot. One that cannot be read is removed first, so that it does not stand in the
-- way of the next.
-- KEYS: wanted, snapshot.
-- ARGV: node, for how many milliseconds it asks, whether the snapshot cannot be read, the length
-- and the first bytes of its text; nothing where it is no text.
-- Returns the node that is waited for.
if ARGV[3] == '1' then
    local is_text = redis.call('TYPE', KEYS[2]).ok == 'string'
    if not is_text or (redis.call('STRLEN', KEYS[2]) == tonumber(ARGV[4])
            and redis.call('GETRANGE', KEYS[2], 0, 127) == ARGV[5]) then
        redis.call('DEL', KEYS[2])
    end
end
redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])
local node = redis.call('GET', KEYS[1])
if node == ARGV[1] then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return node
