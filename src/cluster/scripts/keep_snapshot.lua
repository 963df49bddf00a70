-- Keeps a snapshot and drops the entries that it holds, where nothing else was begun meanwhile, no
-- later snapshot is kept, and the log has the snapshot's last entry.
-- KEYS: epoch, snapshot, log, sequence, wanted.
-- ARGV: epoch, snapshot, the place of its last entry and that one's number.
--
-- The number stands at the head of a snapshot's text.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if redis.call('TYPE', KEYS[2]).ok ~= 'string' then redis.call('DEL', KEYS[2]) end
local head = redis.call('GETRANGE', KEYS[2], 0, 127)
local kept = tonumber(string.match(head, '"sequence":(%d+)') or '0')
local newest = tonumber(redis.call('GET', KEYS[4]) or ARGV[4])
if kept >= tonumber(ARGV[4]) and redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
if newest < tonumber(ARGV[4]) or not has(KEYS[3], ARGV[3]) then return 0 end
redis.call('SET', KEYS[2], ARGV[2])
redis.call('DEL', KEYS[5])
redis.call('XTRIM', KEYS[3], 'MINID', '~', ARGV[3])
return 1
